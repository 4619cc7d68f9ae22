/* Source "session_vector": the session as one direction, and the items nearest to it; by the setting
 * `interests`, also those nearest to each of its newest items (Pal, Eksombatchai, Zhou, Zhao, Rosenberg,
 * Leskovec, "PinnerSage", KDD 2020, ask by items for the same reason: the mean of two interests may be near
 * neither).
 *
 * The direction is the sum of the vectors of the session's items, each times
 *   decay^position * 2^(-age / half-life) * weight of its type * weight of the event,
 * position counted from the newest usable event and age in event time from the newest event of the session.
 * A type with a negative weight (DISLIKE, REMOVE) pushes the direction away from its item. Where nothing was
 * liked there is no direction to go: then only `away` is set, and the pipeline lowers what points there. */
#include "base/text.h"
#include "recommend/source.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A sum shorter than this is noise left by likes and dislikes that cancel: no direction. */
static const float LENGTH_MIN = 1e-4f;
/* Candidates asked of the index beyond k, so that later sources can reorder near the cut. */
enum { CANDIDATES_EXTRA = 30, LANES = 8, REASON_MAX = DN_ID_MAX + 64 };

/* Lanes are spelled out: the compiler may not reorder a sum of floats by itself. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

float dn_dot(const float *a, const float *b, uint32_t dim)
{
    lanes sums = {0};
    uint32_t i = 0;
    float total = 0;

    for (; i + LANES <= dim; i += LANES) {
        lanes x, y;

        memcpy(&x, a + i, sizeof(x));
        memcpy(&y, b + i, sizeof(y));
        sums += x * y;
    }
    for (; i < dim; i++)
        total += a[i] * b[i];
    for (uint32_t j = 0; j < LANES; j++)
        total += sums[j];
    return total;
}

static float type_weight(const struct dn_recommend_settings *settings, uint8_t type)
{
    return type >= 1 && type <= DN_EVENT_TYPE_MAX ? settings->type_weight[type] : 0;
}

/* Adds weight * vector to sum. */
static void add_scaled(float *sum, const float *vector, float weight, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i++)
        sum[i] += weight * vector[i];
}

/* Scales to unit length; NULL when it has next to none. */
static const float *unit(float *vector, uint32_t dim)
{
    float length = sqrtf(dn_dot(vector, vector, dim));

    if (!(length > LENGTH_MIN) || !isfinite(length))
        return NULL;
    for (uint32_t i = 0; i < dim; i++)
        vector[i] /= length;
    return vector;
}

enum dn_code dn_taste_read(struct dn_pipeline *pipeline, struct dn_error *err)
{
    const struct dn_recommend_settings *settings = pipeline->settings;
    const struct dn_session_view *session = pipeline->query->session;
    uint32_t dim = dn_catalog_dim(pipeline->world->catalog);

    if (!session || session->event_count == 0 || dim == 0)
        return DN_OK;
    size_t used = session->event_count < settings->session_events_used ? session->event_count
                                                                       : settings->session_events_used;
    struct dn_taste *tastes = dn_arena_alloc(pipeline->arena, used * sizeof(*tastes));
    float *sum = dn_arena_zalloc(pipeline->arena, dim * sizeof(*sum));
    if (!tastes || !sum)
        return dn_arena_full(err);

    int64_t newest_ms = session->events[session->event_count - 1].time_ms;
    float recency = 1;
    size_t count = 0;
    bool liked = false;
    for (size_t i = 0; i < used; i++) {
        const struct dn_event_view *event = &session->events[session->event_count - 1 - i];
        struct dn_taste *taste = &tastes[count];
        float weight = type_weight(settings, event->type) * event->weight * recency;

        if (dn_catalog_get_hashed(pipeline->world->catalog, event->item_hash, event->item, event->item_length,
                                  &taste->item) != DN_OK)
            continue;
        if (!taste->item.vector || taste->item.dim != dim)
            continue;
        if (settings->time_half_life_ms > 0 && event->time_ms < newest_ms)
            weight *= exp2f(-(float)(newest_ms - event->time_ms) / (float)settings->time_half_life_ms);
        recency *= settings->recency_decay;
        taste->reason = NULL;
        taste->weight = weight;
        taste->type = event->type;
        liked = liked || weight > 0;
        add_scaled(sum, taste->item.vector, weight, dim);
        count++;
    }
    pipeline->tastes = tastes;
    pipeline->taste_count = count;
    pipeline->dim = dim;
    if (liked) {
        pipeline->toward = unit(sum, dim);
        return DN_OK;
    }
    for (uint32_t i = 0; i < dim; i++)
        sum[i] = -sum[i];
    pipeline->away = unit(sum, dim);
    return DN_OK;
}

static const char *verb(uint8_t type)
{
    switch (type) {
    case DN_EVENT_CLICK:
        return "clicked";
    case DN_EVENT_CART:
        return "put in the cart";
    case DN_EVENT_BUY:
        return "bought";
    case DN_EVENT_LIKE:
        return "liked";
    case DN_EVENT_PLAY:
        return "played";
    default:
        return "viewed";
    }
}

/* The item that the answer is to go with: the user did not view it. */
static bool is_anchor(const struct dn_pipeline *pipeline, const struct dn_item *item)
{
    const struct dn_item *anchor = pipeline->query ? pipeline->query->anchor : NULL;

    return anchor && anchor->id_length == item->id_length &&
           memcmp(anchor->id, item->id, item->id_length) == 0;
}

const char *dn_taste_explain(const struct dn_pipeline *pipeline, const struct dn_item *item)
{
    struct dn_taste *best = NULL;
    float best_score = -INFINITY;
    char text[REASON_MAX];

    for (size_t i = 0; i < pipeline->taste_count && item->vector; i++) {
        struct dn_taste *taste = &pipeline->tastes[i];
        float score;

        if (taste->weight <= 0)
            continue;
        score = dn_dot(taste->item.vector, item->vector, pipeline->dim);
        if (score > best_score) {
            best = taste;
            best_score = score;
        }
    }
    if (!best)
        return "like your session";
    bool own = best->item.slot == item->slot;
    if (!own && best->reason) /* few tastes explain many items: formatting was a twentieth of a request */
        return best->reason;
    bool anchored = is_anchor(pipeline, &best->item);
    int length =
        own ? snprintf(text, sizeof(text), "an item you %s", verb(best->type))
            : snprintf(text, sizeof(text), "similar to '%.*s'%s%s", best->item.id_length, best->item.id,
                       anchored ? "" : ", which you ", anchored ? "" : verb(best->type));
    DN_ASSERT(length > 0 && (size_t)length < sizeof(text));
    const char *reason = dn_arena_strndup(pipeline->arena, text, (size_t)length);
    if (!own)
        best->reason = reason;
    return reason;
}

size_t dn_session_vector_max(const struct dn_pipeline *pipeline)
{
    return pipeline->k + CANDIDATES_EXTRA;
}

/* Asks for the `want` items nearest to a vector. What an earlier one of the request's vectors has offered
 * keeps the better of its cosines. */
static enum dn_code ask(const struct dn_pipeline *pipeline, const float *vector, size_t want,
                        struct dn_slot_map *places, struct dn_offers *offers, struct dn_error *err)
{
    const struct dn_recommend_world *world = pipeline->world;
    struct dn_hit *hits = dn_arena_alloc(pipeline->arena, want * sizeof(*hits));
    size_t count = 0;

    if (!hits)
        return dn_arena_full(err);
    enum dn_code code = dn_retrieval_search(world->retrieval, world->catalog, vector, pipeline->dim, want,
                                            pipeline->filter, pipeline->excluded_slots,
                                            pipeline->excluded_count, pipeline->arena, hits, &count, err);
    if (code == DN_NO_MEMORY || code == DN_EXHAUSTED)
        return dn_arena_full(err);
    if (code != DN_OK)
        return dn_wrap(err, code, "search by session vector");
    for (size_t i = 0; i < count; i++) {
        struct dn_offer *offer = &offers->list[offers->count];
        uint32_t place = dn_slot_map_get(places, hits[i].slot);

        if (place != DN_SLOT_NONE) {
            offers->list[place].score = fmaxf(offers->list[place].score, hits[i].score);
            continue;
        }
        /* The catalogue moves on while we search: what a slot holds now is what counts. */
        if (dn_catalog_get_slot(world->catalog, hits[i].slot, &offer->item) != DN_OK ||
            !dn_pipeline_wants(pipeline, &offer->item))
            continue;
        dn_slot_map_put(places, hits[i].slot, (uint32_t)offers->count);
        offer->score = hits[i].score;
        offers->count++;
    }
    return DN_OK;
}

/* The newest items that were liked, once each. A session of one item has its direction; a filter with terms
 * may cost a search a walk over all items, which one search is worth. */
static size_t newest_items(const struct dn_pipeline *pipeline, const float *ret[DN_INTERESTS_MAX])
{
    uint32_t slots[DN_INTERESTS_MAX];
    size_t count = 0;

    for (size_t i = 0; i < pipeline->taste_count && count < pipeline->settings->interests; i++) {
        const struct dn_taste *taste = &pipeline->tastes[i];
        size_t before = 0;

        while (before < count && slots[before] != taste->item.slot)
            before++;
        if (before < count || taste->weight <= 0)
            continue;
        slots[count] = taste->item.slot;
        ret[count++] = taste->item.vector;
    }
    return pipeline->taste_count < 2 || pipeline->filter->term_count > 0 ? 0 : count;
}

enum dn_code dn_source_session_vector(const struct dn_pipeline *pipeline, struct dn_offers *ret,
                                      struct dn_error *err)
{
    size_t want = dn_session_vector_max(pipeline);
    const float *items[DN_INTERESTS_MAX];
    struct dn_slot_map places;

    if (!pipeline->toward || !pipeline->world->retrieval)
        return DN_OK;
    DN_ASSERT(pipeline->settings->interests <= DN_INTERESTS_MAX);
    /* One more, where an offer is put before it is known to be wanted. */
    struct dn_offers offers = {.list = dn_arena_alloc(pipeline->arena, (want + 1) * sizeof(*offers.list))};
    if (!offers.list)
        return dn_arena_full(err);
    enum dn_code code = dn_slot_map_init(&places, pipeline->arena, want, err);
    /* All vectors share what one would ask for, the direction has half of it. */
    size_t count = newest_items(pipeline, items);
    size_t each = count > 0 ? want / 2 / count : 0;
    if (code == DN_OK)
        code = ask(pipeline, pipeline->toward, want - count * each, &places, &offers, err);
    for (size_t i = 0; i < count && code == DN_OK; i++)
        code = ask(pipeline, items[i], each, &places, &offers, err);
    if (code == DN_OK)
        *ret = offers;
    return code;
}
