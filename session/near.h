/* Near: what a shard's clicks say of an item. Two tables in the replicated state, kept by each event:
 *
 * - A row: which items were clicked within DN_NEAR_WINDOW events of it in the same session: how often in any
 *   order (co-visitation), and how often after it, each by 1 / distance (sequential rules: Ludewig, Jannach,
 *   "Evaluation of session-based recommendation algorithms", 2018, section 4.1).
 * - Its visitors: the users who clicked it last, where VMIS-kNN looks for neighbours (Kersbergen, Sprangers,
 *   Schelter, "Serenade", SIGMOD 2022). A neighbour's session is the user's own block, so it costs no memory
 *   beside it, and is gone when the user is erased.
 *
 * A row is a sum over users and does not say whose clicks are in it: an erased user's stay, and fade.
 *
 * Readers (any registered thread, in epoch) take no lock. A row changes under them: a weight is one atomic,
 * but what they read of one row may be of several moments, an event apart. Ids are of this node and this
 * process only; one that is read here may be another item's a moment later, which costs that candidate its
 * truth for one answer: who needs the item compares its name.
 *
 * Where the settings have no cells, readers see no rows, no visitors and no counts. Tables that there
 * were before stay, and fade: with cells again they are seen as what has become of them. Users leave them as
 * ever; what was clicked meanwhile is not in them. */
#ifndef DN_SESSION_NEAR_H
#define DN_SESSION_NEAR_H

#include "session/session.h"

#define DN_NEAR_WINDOW 10      /* events */
#define DN_NEAR_CELLS_MAX 256u /* items in a row, at most; how many: the settings */
#define DN_NEAR_VISITORS_MAX 256u
#define DN_NEAR_AFTER_ONE 128u /* `after` of one event at distance 1 */
#define DN_NEAR_ONE 16u        /* `near` of one pair */
#define DN_NEAR_NONE UINT32_MAX

struct dn_near_item {
    uint32_t id;
    const char *name; /* not NUL-terminated; valid until dn_epoch_leave */
    uint16_t length;
    uint64_t hash;   /* dn_hash64(name, length, 0) */
    uint32_t clicks; /* events that counted, ever, saturating */
    float recent;    /* pairs it was in lately: its row's near_sum, decayed; 0: it has no row */
    double trending; /* its trending counter: event weights, halved every trend_half_life_ms, as of now */
};

/* The shard's id of a user; DN_NEAR_NONE: it does not know them. */
uint32_t dn_near_user(const struct dn_shard *shard, struct dn_hash128 user);
/* The shard's id of an item; DN_NEAR_NONE: it does not know it. */
uint32_t dn_near_find(const struct dn_shard *shard, uint64_t hash, const char *name, uint16_t length);
/* False: the id is nobody's now. */
bool dn_near_item(const struct dn_shard *shard, uint32_t id, struct dn_near_item *ret);

/* Event weights of an item (id: of dn_near_find; hash: its own, 0 is given where the id is not its any more),
 * each halved every hour, day or week by its own time, as of now. Each node's own, beside the replicated
 * state: after a restart or a restore they are counted from the events that the users' sessions still have.
 */
enum dn_popular_span { DN_POPULAR_HOUR, DN_POPULAR_DAY, DN_POPULAR_WEEK, DN_POPULAR_SPANS };
float dn_near_popular(const struct dn_shard *shard, uint32_t id, uint64_t hash, enum dn_popular_span span);

/* What an event at time_ms of that weight, counted already, adds to its item's `trending`: to take it out
 * again. */
double dn_near_trending(const struct dn_shard *shard, int64_t time_ms, float weight);

struct dn_near_cell {
    uint32_t id;
    float after, near; /* in events, decayed */
};
struct dn_near_row {
    size_t count;
    float after_sum, near_sum; /* of all that ever were in the row, decayed */
};
/* Up to `max` of the row's cells whose items are known, in no order. */
void dn_near_row(const struct dn_shard *shard, uint32_t id, struct dn_near_cell *ret_cells, size_t max,
                 struct dn_near_row *ret);

/* The users who clicked it last, newest first: up to `max` of them. */
size_t dn_near_visitors(const struct dn_shard *shard, uint32_t id, uint32_t *ret_users, size_t max);

struct dn_near_visit {
    int64_t time_ms;
    uint32_t id; /* item */
    uint8_t type;
};
struct dn_near_session {
    struct dn_hash128 user;
    int64_t last_ms;  /* of the session */
    uint32_t length;  /* events in it, as far as the block has them */
    uint32_t matched; /* which of the visits is the newest click on the item */
    size_t count;
};
/* Of the session in which that user clicked the item last: up to `around` events before and behind that one
 * (DN_NEAR_VISITS_MAX in all). False: they are no visitor of it any more. */
#define DN_NEAR_VISITS_MAX 128
bool dn_near_session(const struct dn_shard *shard, uint32_t user, uint32_t id, size_t around,
                     struct dn_near_visit ret_visits[DN_NEAR_VISITS_MAX], struct dn_near_session *ret);

/* Whoever reads many of them at random places, each a miss or three, asks for those it will read soon: for
 * the slot some steps ahead, for what stands behind it (the slot is here by then) some steps later. */
void dn_near_prefetch_item(const struct dn_shard *shard, uint32_t id, bool behind); /* dn_near_item */
/* The same for dn_near_find and dn_near_item by name: the table's place, the slot, what is behind it. */
enum dn_near_stage { DN_NEAR_PLACE, DN_NEAR_SLOT, DN_NEAR_BEHIND };
void dn_near_prefetch_named(const struct dn_shard *shard, uint64_t hash, enum dn_near_stage stage);
void dn_near_prefetch_user(const struct dn_shard *shard, uint32_t user, bool behind); /* dn_near_session */

#endif
