/* Private to recommend: what one request is while it runs, and the small tools its parts share.
 *
 * Candidates of all sources but the last two get features and a score by the model (gather.h). Trending and
 * the catalogue fill the places that are left: of these two a weight apart, with scores between one half and
 * one, so that trending comes first. */
#ifndef DN_RECOMMEND_SOURCE_H
#define DN_RECOMMEND_SOURCE_H

#include "recommend/recommend.h"

/* A map from catalogue slot to a number, in the arena: open addressing, filled at most to a half. */
struct dn_slot_map {
    uint32_t *keys; /* slot + 1; 0: empty */
    uint32_t *values;
    uint32_t mask;
    uint32_t count;
    uint32_t max; /* entries it was made for */
};
#define DN_SLOT_NONE UINT32_MAX

/* A map for up to `max` entries. DN_EXHAUSTED when the arena is full. */
enum dn_code dn_slot_map_init(struct dn_slot_map *map, struct dn_arena *arena, size_t max,
                              struct dn_error *err);
/* The value at `slot`, or DN_SLOT_NONE. */
uint32_t dn_slot_map_get(const struct dn_slot_map *map, uint32_t slot);
/* Sets the value of a slot that is not in the map yet. */
void dn_slot_map_put(struct dn_slot_map *map, uint32_t slot, uint32_t value);

/* An event of the session whose item is in the catalogue with a vector. */
struct dn_taste {
    struct dn_item item;
    float weight;       /* recency, time, type and event weight together; below 0: pushes away */
    uint8_t type;       /* enum dn_event_type */
    const char *reason; /* dn_taste_explain's text for items like this one; NULL: not asked for yet */
};

struct dn_offer {
    struct dn_item item;
    float score; /* on the source's own scale, larger is better */
};
struct dn_offers { /* in the arena */
    struct dn_offer *list;
    size_t count;
};

/* An item that may be in the answer. */
struct dn_pick {
    const struct dn_item *item; /* the candidate's or the offer's */
    float score;                /* by the model, or of the filling */
    bool fills;                 /* after all that the model ordered */
    /* enum dn_recommend_source: what speaks for it most; DN_SOURCE_COUNT: not asked for yet (speaker) */
    uint8_t source;
};

struct dn_gathered;

struct dn_pipeline {
    const struct dn_recommend_world *world;
    const struct dn_recommend_settings *settings;
    const struct dn_recommend_query *query; /* NULL in dn_trending */
    const struct dn_filter *filter;         /* never NULL */
    size_t k;
    struct dn_arena *arena;

    struct dn_taste *tastes; /* newest first */
    size_t taste_count;
    uint32_t dim;
    const float *toward; /* unit session vector; NULL: none */
    const float *away;   /* unit vector of what was disliked when nothing was liked; NULL otherwise */

    uint32_t *excluded_slots; /* seen and excluded items, once each */
    size_t excluded_count;
    struct dn_slot_map excluded;

    struct dn_gathered *gathered; /* gather.h; NULL: the sources were not asked */
    /* Of its candidates, and the weights of the request; NULL: no model was asked. */
    const struct dn_features *features;
    const float *weights;
    const char *after_reason, *near_reason; /* texts that several items share; NULL: not made yet */

    struct dn_pick *picks;
    size_t pick_count, pick_max;
    struct dn_slot_map picked; /* slot -> place in picks */
};

/* Pins the catalogue into `held`, checks the query, reads what must not be returned and the session's tastes.
 * `held` and the query stay the caller's. */
enum dn_code dn_pipeline_begin(struct dn_pipeline *pipeline, struct dn_recommend_world *held,
                               const struct dn_recommend_world *world,
                               const struct dn_recommend_settings *settings,
                               const struct dn_recommend_query *query, struct dn_arena *arena,
                               struct dn_error *err);
/* Not excluded and passes the filter. */
bool dn_pipeline_wants(const struct dn_pipeline *pipeline, const struct dn_item *item);
/* DN_EXHAUSTED, with a message that says what to change. */
enum dn_code dn_arena_full(struct dn_error *err);

float dn_dot(const float *a, const float *b, uint32_t dim);

/* Reads the session into tastes, toward and away. */
enum dn_code dn_taste_read(struct dn_pipeline *pipeline, struct dn_error *err);
/* The text "similar to 'x', which you viewed" for an item; NULL when the arena is full. */
const char *dn_taste_explain(const struct dn_pipeline *pipeline, const struct dn_item *item);

/* Most that dn_source_session_vector offers. */
size_t dn_session_vector_max(const struct dn_pipeline *pipeline);
/* Items nearest to the session vector and, by the setting, to its newest items; the score is the best cosine.
 */
enum dn_code dn_source_session_vector(const struct dn_pipeline *pipeline, struct dn_offers *ret,
                                      struct dn_error *err);
/* The items most asked for over all shards, by the window's counter, in no order: enough for the places that
 * are left, if there are so many. */
enum dn_code dn_source_trending(const struct dn_pipeline *pipeline, enum dn_window window,
                                struct dn_offers *ret, struct dn_error *err);
/* The catalogue in slot order: just as many as places are still empty. */
enum dn_code dn_source_catalog(const struct dn_pipeline *pipeline, struct dn_offers *ret,
                               struct dn_error *err);

#endif
