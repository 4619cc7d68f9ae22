/* Recommend: a session in, the k best items out, with reasons.
 *
 *   session -> candidates from a list of sources -> filters -> blend -> top k
 *
 * Runs on the API thread that took the request, inside an epoch, in the request's arena: no lock, no malloc.
 * Sources are a list (recommend/source.h): adding one is adding a file and a line in the list. */
#ifndef DN_RECOMMEND_RECOMMEND_H
#define DN_RECOMMEND_RECOMMEND_H

#include "base/arena.h"
#include "base/error.h"
#include "index/index.h"
#include "recommend/model.h"
#include "session/session.h"

#include <stddef.h>
#include <stdint.h>

#define DN_K_MAX 1000
#define DN_EXCLUDE_MAX 10000
#define DN_INTERESTS_MAX 3

/* What the pipeline reads. Everything is shared and read-only to it. The entry points pin the catalogue
 * (dn_catalog_pin); a caller that brings slots of its own has pinned it before. */
struct dn_recommend_world {
    const struct dn_catalog *catalog;
    struct dn_retrieval *retrieval;
    const struct dn_shard *const *shards; /* the shards this node hosts */
    size_t shard_count;
    const struct dn_model *model; /* NULL: the one in the catalogue's state, or the default */
    struct dn_model_kept *kept; /* the calling thread's, for this catalogue; NULL: decoded for each request */
};

/* Sources of candidates; the order is that of the answer's names (dn_recommend_source_name). */
enum dn_recommend_source {
    DN_SOURCE_VSTAN,   /* session neighbours, V-STAN's weights */
    DN_SOURCE_VMIS,    /* session neighbours, VMIS-kNN's weights */
    DN_SOURCE_RULES,   /* what followed the newest items */
    DN_SOURCE_COVIS,   /* what is clicked near the newest items */
    DN_SOURCE_VECTOR,  /* nearest vectors */
    DN_SOURCE_SESSION, /* what the session itself had */
    DN_SOURCE_TRENDING,
    DN_SOURCE_CATALOG,
    DN_SOURCE_COUNT,
};
/* Static text, "vstan"; NULL: no such source. */
const char *dn_recommend_source_name(unsigned source);

struct dn_recommend_settings {
    float type_weight[DN_EVENT_TYPE_MAX + 1]; /* by enum dn_event_type; negative: pushes away */
    float recency_decay;       /* weight of an event = decay^(position from the newest), 0..1; default 0.8 */
    int64_t time_half_life_ms; /* and halves with age in event time; default 1 h; 0: off */
    uint32_t session_events_used; /* newest events that count; default 20 */
    uint32_t interests;   /* newest items that vectors are asked for by themselves, beside the session's
                             direction: 0..DN_INTERESTS_MAX; default 0: each is one more search */
    uint32_t sources_off; /* bits 1 << enum dn_recommend_source, for requests and learning; default 0 */
};
void dn_recommend_settings_default(struct dn_recommend_settings *settings);

/* ---- rules: what a shop wants of the order, whatever the scores say --------------------------------------
 */

#define DN_BOOSTS_MAX 8
#define DN_PINS_MAX 20
#define DN_BOOST_TIMES_MAX 1000.0f
#define DN_BOOST_PLUS_MAX 1000.0f

/* The score of items that pass the filter becomes score * times + plus (score / times where it is below 0, so
 * that more than 1 always lifts). Scores are those of the blend: + 1 makes an item e times as likely. */
struct dn_boost {
    const struct dn_filter *filter; /* dn_filter_check'ed */
    float times, plus;
};
/* An item at a place of its own, from 1: where it is available, passes the filter and is not excluded; also
 * one that the user has seen. */
struct dn_pin {
    const char *id;
    uint16_t id_length;
    uint32_t place;
};
struct dn_rules {
    /* 0: by score alone. Up to 1: maximal marginal relevance (Carbonell, Goldstein, "The use of MMR,
     * diversity-based reranking", SIGIR 1998), with 1 - diversity as its lambda. */
    float diversity;
    uint32_t category_cap; /* at most so many items of one category; 0: any number */
    const struct dn_boost *boosts;
    size_t boost_count;
    const struct dn_pin *pins;
    size_t pin_count;
};
/* Whether they change anything. */
static inline bool dn_rules_any(const struct dn_rules *rules)
{
    return rules->diversity > 0 || rules->category_cap > 0 || rules->boost_count > 0 || rules->pin_count > 0;
}

/* The session as if the user had just viewed the item too: its newest event, at the time of the one before
 * (now_ms: there is none). session: NULL for nobody's. DN_EXHAUSTED: the arena is full. */
enum dn_code dn_session_anchored(const struct dn_session_view *session, const struct dn_item *item,
                                 int64_t now_ms, struct dn_arena *arena, struct dn_session_view *ret,
                                 struct dn_error *err);

/* DN_INVALID, with the rule that is wrong and why; k: of the query. */
enum dn_code dn_rules_check(const struct dn_rules *rules, size_t k, struct dn_error *err);

struct dn_recommend_query {
    const struct dn_session_view *session; /* NULL: nobody known */
    struct dn_hash128 user;                /* whose session it is: no neighbour of itself; 0: nobody's */
    size_t k;                              /* 1..DN_K_MAX */
    const struct dn_filter *filter;        /* NULL: only available items */
    bool include_seen;
    const struct dn_attribute *exclude; /* ids in the value fields */
    size_t exclude_count;
    uint32_t sources_off; /* bits 1 << enum dn_recommend_source */
    /* Rank by one source's own score alone, as an evaluator of single sources does: 1 + enum
     * dn_recommend_source; 0: the blend. Rules and co-visitation then are those of the newest item that has
     * any. */
    uint32_t only;
    const struct dn_rules *rules; /* NULL: none */
    /* The item that the answer is to go with: the session's newest event is that of dn_session_anchored,
     * which the user did not make, and the id is among the excluded. For reasons. NULL: none. */
    const struct dn_item *anchor;
    /* Set to whether a source named the item of the slot `watched`, for the k asked for: what only fills
     * places was not named. NULL: nobody asks. */
    bool *ret_named;
    uint32_t watched;
};

struct dn_recommended {
    struct dn_item item; /* valid inside the epoch */
    float score;
    const char *source; /* static text */
    const char *reason; /* NUL-terminated, in the arena */
};

/* Never fewer than k items while that many pass the filter: trending, then the catalogue's own order, fill
 * up. ret_items is in the arena, best first. */
enum dn_code dn_recommend(const struct dn_recommend_world *world,
                          const struct dn_recommend_settings *settings,
                          const struct dn_recommend_query *query, struct dn_arena *arena,
                          struct dn_recommended **ret_items, size_t *ret_count, struct dn_error *err);

/* Items nearest to a vector, without the item `self_slot` (UINT32_MAX: none). */
enum dn_code dn_similar(const struct dn_recommend_world *world, const float *vector, uint32_t dim,
                        uint32_t self_slot, size_t k, const struct dn_filter *filter, struct dn_arena *arena,
                        struct dn_recommended **ret_items, size_t *ret_count, struct dn_error *err);

/* Most popular: of when? */
enum dn_window {
    DN_WINDOW_TREND, /* event weights, halved every trend_half_life_ms */
    DN_WINDOW_HOUR,  /* event weights, halved every hour (near.h: dn_near_popular), */
    DN_WINDOW_DAY,   /* day, */
    DN_WINDOW_WEEK,  /* and week */
    DN_WINDOW_EVER,  /* events since the item is known; needs the shards' tables (near.h) */
    DN_WINDOW_COUNT,
};
/* The k items that pass the filter with the largest counters of the window over all shards; the score is the
 * counter. Dislikes and removals count nowhere. */
enum dn_code dn_trending(const struct dn_recommend_world *world, enum dn_window window, size_t k,
                         const struct dn_filter *filter, struct dn_arena *arena,
                         struct dn_recommended **ret_items, size_t *ret_count, struct dn_error *err);

#endif
