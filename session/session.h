/* Session: one shard's replicated clickstream state. Records in (session/record.h), sessions out.
 *
 * One writer (the consensus thread, through the dn_fsm of dn_shard_fsm) and many readers (API threads, inside
 * dn_epoch_enter/leave). A user's state is an immutable block that the writer replaces as a whole: a reader
 * sees it before or after an event, never in between.
 *
 * A *session* is an event-time window: events of a user whose neighbours in time are at most gap_ms apart.
 * A user's block holds the newest events (of this session and of those before it, up to events_per_user), the
 * counts by type of the current session, and the ids of API events that are still within the allowed
 * lateness. */
#ifndef DN_SESSION_SESSION_H
#define DN_SESSION_SESSION_H

#include "base/arena.h"
#include "base/buffer.h"
#include "base/epoch.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/stream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Event types: part of the log format; numbers never change. They are dunlin.v1.EventType's. */
enum dn_event_type {
    DN_EVENT_VIEW = 1,
    DN_EVENT_CLICK = 2,
    DN_EVENT_CART = 3,
    DN_EVENT_BUY = 4,
    DN_EVENT_LIKE = 5,
    DN_EVENT_DISLIKE = 6,
    DN_EVENT_PLAY = 7,
    DN_EVENT_REMOVE = 8, /* taken out of the cart */
    DN_EVENT_TYPE_MAX = 8,
};

struct dn_shard_settings { /* replicated: a SETTINGS record changes them */
    int64_t gap_ms;        /* a longer pause starts a new session; default 30 min */
    int64_t lateness_ms;   /* allowed lateness: the watermark trails the largest event time by this; 5 min */
    int64_t ahead_ms;      /* events further ahead of the group's time are refused; 1 day */
    int64_t idle_ms;       /* a user without arrivals for this long expires; 30 days */
    uint32_t events_per_user;   /* 2..1000; default 50 */
    uint32_t ids_per_user;      /* de-duplication window; default 200 */
    uint32_t users_max;         /* default 5,000,000 */
    uint32_t items_max;         /* interned items; default 2,000,000 */
    int64_t trend_half_life_ms; /* trending counters halve in this time; default 6 h */
    /* Tables of what is clicked near an item (near.h). A shard of an older build has none until a record says
     * so. */
    uint32_t near_cells;       /* items in a row; 0: no tables; default 120 */
    uint32_t near_visitors;    /* newest users of an item; default 64 */
    int64_t near_half_life_ms; /* weights halve in this time, all at once; default 365 days */
};
void dn_shard_settings_default(struct dn_shard_settings *settings);
/* DN_INVALID with the key and the range in the message. */
enum dn_code dn_shard_settings_check(const struct dn_shard_settings *settings, struct dn_error *err);

struct dn_shard;

/* An empty shard. Readers register with `epoch`, whose writer is the consensus thread. NULL: out of memory.
 */
struct dn_shard *dn_shard_create(struct dn_epoch *epoch);
void dn_shard_destroy(struct dn_shard *shard);

/* The functions behind struct dn_fsm (consensus/consensus.h has the contract; session may not include it: the
 * node puts the two together with wrappers that unpack struct dn_apply). */
void dn_shard_apply(void *shard, uint64_t index, uint32_t ordinal, int64_t time_ms, const uint8_t *record,
                    size_t length, struct dn_buffer *result);
/* The same in parts of at most DN_APPLY_STEP events, so that other work can come in between: false: it is to
 * be called again with the same arguments, and until it says true nothing else is applied to this shard, nor
 * a capture begun (one may end, and dn_shard_restore_install puts an end to all of it). The state and the
 * answer are those of one go; readers see each event once it is applied, and an offset after its batch. */
#define DN_APPLY_STEP 32u
bool dn_shard_apply_part(void *shard, uint64_t index, uint32_t ordinal, int64_t time_ms,
                         const uint8_t *record, size_t length, struct dn_buffer *result);
void dn_shard_entry_done(void *shard, uint64_t index, int64_t time_ms);
uint64_t dn_shard_hash(void *shard);
/* From-scratch hash over the whole state, for tests: equals dn_shard_hash always. */
uint64_t dn_shard_hash_recompute(void *shard);
void *dn_shard_snapshot_begin(void *shard);
enum dn_code dn_shard_snapshot_write(void *shard, void *capture, struct dn_sink *out, struct dn_error *err);
void dn_shard_snapshot_end(void *shard, void *capture);
enum dn_code dn_shard_restore_build(void *shard, struct dn_source *in, void **ret_built,
                                    struct dn_error *err);
void dn_shard_restore_install(void *shard, void *built);
void dn_shard_restore_discard(void *shard, void *built);

/* ---- reading (any registered thread, between dn_epoch_enter and dn_epoch_leave) ---------------------- */

struct dn_event_view {
    const char *item; /* not NUL-terminated; valid until dn_epoch_leave */
    uint16_t item_length;
    uint64_t item_hash; /* dn_hash64(item, length, 0) */
    uint8_t type;
    int64_t time_ms;
    float weight; /* 1 when the event gave none */
    bool current; /* part of the current session */
};

struct dn_session_view {
    uint64_t version;                       /* applied index of the last change */
    int64_t start_ms;                       /* event time of the current session's first event */
    int64_t last_ms;                        /* of its last */
    uint32_t session_events;                /* events in the current session, also those that left the list */
    uint16_t counts[DN_EVENT_TYPE_MAX + 1]; /* by type, current session; saturating; [0] unused */
    size_t event_count;
    const struct dn_event_view *events; /* oldest first, by event time; in the arena */
};

/* DN_OK, DN_NOT_FOUND, or DN_NO_MEMORY (arena cap). */
enum dn_code dn_shard_read(const struct dn_shard *shard, struct dn_hash128 user, struct dn_arena *arena,
                           struct dn_session_view *ret);

/* All users in no particular order: up to `max` from *cursor on, which is 0 at first and moves; returns how
 * many were put into ret, 0: no more. The writer's thread only, with nothing applied in between. */
size_t dn_shard_users(const struct dn_shard *shard, uint32_t *cursor, struct dn_hash128 *ret, size_t max);

struct dn_trend_view {
    const char *item;
    uint16_t item_length;
    uint64_t item_hash;
    float score; /* decayed event weight, in events */
};
/* The up to `max` most trending items of the shard (at most DN_TREND_MAX are kept), best first. */
#define DN_TREND_MAX 256
size_t dn_shard_trending(const struct dn_shard *shard, struct dn_trend_view *ret, size_t max);
/* Those with the most events ever, best first; score: how many (near.h's clicks, up to a second old). None
 * where the shard keeps no tables. Items that were evicted meanwhile leave a gap until another one's count
 * rises.
 */
size_t dn_shard_most_clicked(const struct dn_shard *shard, struct dn_trend_view *ret, size_t max);

struct dn_shard_stats {
    uint64_t users, items, events_applied, duplicates, late, refused, erased, evicted, expired;
    uint64_t memory_bytes; /* everything the shard holds */
    /* Tables of what is near an item (near.h): rows, cells in them, visitors in rings, and what of
     * memory_bytes they take. */
    uint64_t near_rows, near_pairs, near_visits, near_bytes;
    int64_t time_ms;      /* the group's time */
    int64_t max_event_ms; /* newest event time applied */
    uint64_t dead[8];     /* dead letters by reason (enum dn_dead_reason); [0] unused */
};
void dn_shard_stats(const struct dn_shard *shard, struct dn_shard_stats *ret);

/* ---- streams (any registered thread, in epoch) ---- */

#define DN_SOURCE_MAX 64 /* bytes in a stream's name */
/* A partition that holds no offset, but what tells the contents of a file from others' (ingest/source.h).
 * The numbers above it are ingest's own (ingest/reader.h, ingest/internal.h). */
#define DN_PARTITION_CONTENTS (UINT32_MAX - 4)

struct dn_source_view { /* one (stream, partition) */
    char name[DN_SOURCE_MAX + 1];
    uint32_t partition;
    int64_t next_offset;  /* DN_OFFSET_UNSET (-1): forgotten */
    int64_t watermark_ms; /* events before it are late; INT64_MIN: none yet */
    int64_t newest_ms;    /* largest event time applied; INT64_MIN: none yet */
    uint64_t events;      /* applied */
    bool finished;        /* nothing more is expected of it: its place may be given to another */
};
/* Up to `max` of the shard's, in no particular order; returns how many there are. */
size_t dn_shard_sources(const struct dn_shard *shard, struct dn_source_view *ret, size_t max);

struct dn_dead_letter {
    uint64_t number; /* 0, 1, ... of the shard; none is left out */
    char source[DN_SOURCE_MAX + 1];
    uint32_t partition;
    int64_t offset;
    uint8_t reason;  /* enum dn_dead_reason (record.h) */
    int64_t time_ms; /* the group's time when it was judged */
};
/* Up to `max` that wait, from number `from` on, in order; returns how many were put into ret. */
size_t dn_shard_dead_letters(const struct dn_shard *shard, uint64_t from, struct dn_dead_letter *ret,
                             size_t max);
/* Numbers below ret_written are written; the next one will have ret_next. */
void dn_shard_dead_range(const struct dn_shard *shard, uint64_t *ret_written, uint64_t *ret_next);

#define DN_STALL_REASON_MAX 200
/* Since when (wall time) the shard's streams stand still, as its leader said; 0: they do not. */
int64_t dn_shard_stalled(const struct dn_shard *shard, char ret_reason[DN_STALL_REASON_MAX + 1]);

/* next_offset of a stream source's partition as applied here; false if it was never seen. Any thread, in
 * epoch. */
bool dn_shard_next_offset(const struct dn_shard *shard, const char *source, uint32_t partition,
                          int64_t *ret_next_offset);
/* Is it finished (record.h)? False also where it is not known. Any thread, in epoch. */
bool dn_shard_source_finished(const struct dn_shard *shard, const char *source, uint32_t partition);
/* Settings in force. Any thread. */
void dn_shard_settings(const struct dn_shard *shard, struct dn_shard_settings *ret);

/* Called on the writer's thread after an event was applied that is its user's newest now, and not the first
 * of their session. It must be quick, never wait, and leave the shard alone; nothing it does may come back
 * into the state. Set it before anything is applied, once. */
typedef void (*dn_shard_listener)(void *data, struct dn_hash128 user, enum dn_event_type type);
void dn_shard_listen(struct dn_shard *shard, dn_shard_listener listener, void *data);

struct dn_applied { /* an event that was counted */
    struct dn_hash128 user;
    uint64_t item_hash; /* dn_hash64(item id, length, 0) */
    int64_t time_ms;    /* the event's own: it may be long ago */
    enum dn_event_type type;
};

/* Both are called on the writer's thread, as the listener above is, and under the same rules. `applied`:
 * after each event that was counted, whatever it came by; not for one that was refused, late or a duplicate,
 * and not for what a restored snapshot holds. `erased`: after an erase of the user, known here or not. */
struct dn_shard_watch {
    void (*applied)(void *data, const struct dn_applied *event);
    void (*erased)(void *data, struct dn_hash128 user);
    void (*replaced)(void *data); /* by a leader's snapshot: what it had applied and erased is not told of */
    void *data;
};
/* From now on; NULL: nobody is told. Any thread, at any time. *watch and what it points to stay until
 * something else was set and the writer's thread has finished what it was at then. */
void dn_shard_watch(struct dn_shard *shard, const struct dn_shard_watch *watch);

#endif
