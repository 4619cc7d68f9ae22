/* Private to recommend: what the shards' tables say of a session, as candidates with a score from each
 * source.
 *
 *   vstan  session neighbours with V-STAN's weights (Garg, Gupta, Malhotra, Vig, Shroff, "Sequence and time
 * aware neighborhood for session-based recommendations", SIGIR 2019) vmis   session neighbours with
 * VMIS-kNN's (Kersbergen, Sprangers, Schelter, SIGMOD 2022) rules  what followed the newest items, as
 * probabilities covis  what was clicked near the newest items, as cosines
 *
 * Users are split over shards, so each item's neighbours and rows are in all of them: every source is a sum
 * over shards. Within a shard candidates go by its ids; only the best of each source are looked up in the
 * catalogue. */
#ifndef DN_RECOMMEND_GATHER_H
#define DN_RECOMMEND_GATHER_H

#include "recommend/source.h"
#include "session/near.h"

enum {
    DN_FROM_VSTAN,
    DN_FROM_VMIS,
    DN_FROM_RULES,
    DN_FROM_COVIS,
    DN_FROM_COUNT
}; /* as enum dn_recommend_source */

#define DN_GATHER_SHARDS_MAX 64u
#define DN_RECENT_MAX 10 /* distinct newest items of the session that are looked at */

struct dn_recent { /* an item of the session, newest first, once each */
    const char *name;
    uint16_t length;
    uint64_t hash;
    uint32_t position; /* of its newest event, from the session's end: 0 is the newest */
};

struct dn_candidate {
    struct dn_item item;
    float score[DN_FROM_COUNT]; /* on the source's own scale; 0: it did not name it */
    float clicks, trend;        /* over all shards: events ever, and decayed */
    float after_last;           /* share of what followed the newest item */
};

struct dn_gathered { /* in the arena */
    struct dn_recent recent[DN_RECENT_MAX];
    size_t recent_count;
    size_t length; /* events of the session */
    struct dn_candidate *list;
    size_t count;
};

/* Candidates that pass the filter and are not excluded, in no order. now_ms: event time of the session's
 * newest event. */
enum dn_code dn_gather(const struct dn_pipeline *pipeline, struct dn_gathered *ret, struct dn_error *err);

#endif
