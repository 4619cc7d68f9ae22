/* Private to recommend: candidates of a session, with what each source says of them.
 *
 *   vstan  session neighbours with V-STAN's weights (Garg, Gupta, Malhotra, Vig, Shroff, "Sequence and time
 *          aware neighborhood for session-based recommendations", SIGIR 2019)
 *   vmis   session neighbours with VMIS-kNN's (Kersbergen, Sprangers, Schelter, "Serenade", SIGMOD 2022)
 *   rules  what followed the newest items, as probabilities
 *   covis  what was clicked near the newest items, as cosines
 *
 * Users are split over shards, so each item's neighbours and rows are in all of them: every source is a sum
 * over shards. Within a shard candidates go by its ids; only the best of each source are looked up in the
 * catalogue. */
#ifndef DN_RECOMMEND_GATHER_H
#define DN_RECOMMEND_GATHER_H

#include "recommend/source.h"
#include "session/near.h"

#define DN_SCORED                                                                                            \
    (DN_SOURCE_VECTOR +                                                                                      \
     1) /* sources that score candidates: those before it in enum dn_recommend_source, and it */
#define DN_NEAR_SOURCES (DN_SOURCE_COVIS + 1)
#define DN_GATHER_SHARDS_MAX 64u
#define DN_RECENT_MAX 10 /* distinct newest items of the session that are looked at */

struct dn_recent { /* an item of the session, newest first, once each */
    const char *name;
    uint16_t length;
    uint64_t hash;
    uint32_t position;   /* of its newest event, from the session's end: 0 is the newest */
    bool known;          /* the catalogue has it ... */
    struct dn_item item; /* ... so */
};

#define DN_POSITION_NONE UINT32_MAX
struct dn_candidate {
    struct dn_item item;
    float score[DN_SCORED]; /* on the source's own scale, > 0; 0: it did not name it */
    /* Events ever, decayed events near others, and decayed event weights of hours: of the shards in which a
     * source named it. */
    float clicks, recent, trending;
    float after_last;  /* share of what followed the newest item */
    float near_last;   /* decayed events near the newest item that has a row */
    uint32_t position; /* in the session, as in dn_recent; DN_POSITION_NONE: not there */
};

struct dn_gathered { /* in the arena */
    struct dn_recent recent[DN_RECENT_MAX];
    size_t recent_count;
    size_t length; /* events of the session */
    float repeats; /* share of them, but the first, whose item had been there */
    size_t last;   /* which of the newest items is the first that has a row */
    struct dn_arena *arena;
    struct dn_candidate *list;
    size_t count, max;
    struct dn_slot_map places; /* catalogue slot -> place in list */
};

/* A click that the session's user made after the session as it is looked at: what it added to the tables is
 * left out. */
struct dn_label {
    const char *name;
    uint16_t length;
    uint64_t hash;
    int64_t time_ms;
    float weight;
};

/* Candidates of all sources that pass the filter and are not excluded, in no order. label: NULL: none. */
enum dn_code dn_gather(const struct dn_pipeline *pipeline, const struct dn_label *label,
                       struct dn_gathered *ret, struct dn_error *err);

/* The item's candidate, made where there is none; NULL: the arena is full. It must be wanted. Others move. */
struct dn_candidate *dn_gathered_at(struct dn_gathered *gathered, const struct dn_item *item);

/* Features of all candidates, one array of list.count numbers for each; NULL: all are 0. In the arena. */
struct dn_features {
    float *of[DN_FEATURE_COUNT];
};
enum dn_code dn_features_read(const struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                              struct dn_features *ret, struct dn_error *err);

/* The weights for a session of this length: shared and own. */
void dn_model_weights(const struct dn_model *model, size_t length, float ret[DN_FEATURE_COUNT]);
void dn_model_scores(const float weights[DN_FEATURE_COUNT], const struct dn_features *features, size_t count,
                     float *ret_scores);

#endif
