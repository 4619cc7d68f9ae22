/* The pipeline: session -> candidates from a list of sources -> filters -> blend -> top k with reasons.
 *
 * Invariants:
 *  1. Only the request's arena is used; a full arena answers DN_EXHAUSTED and leaves nothing behind.
 *  2. Every item in an answer passed the filter and was not excluded as it is when it is returned: an item
 *     that changed between search and answer is checked again.
 *  3. An item is in the answer at most once.
 *  4. The answer is a function of session, catalogue, trends, settings and query alone; ties go by id. */
#include "recommend/source.h"

#include <math.h>
#include <string.h>

/* The lowest score within a source, before its weight: see source.h on why places fill in order. */
static const float FLOOR = 0.5f;

static const struct dn_candidate_source SOURCES[] = {
    {"session_vector", NULL, 1.0f, dn_source_session_vector},
    {"trending", "trending now", 0.1f, dn_source_trending},
    {"catalog", "in the catalogue", 0.001f, dn_source_catalog},
};
enum { SOURCE_COUNT = sizeof(SOURCES) / sizeof(SOURCES[0]), TRENDING = 1 /* its place in the list */ };

static const struct dn_filter AVAILABLE = {.only_available = true};

void dn_recommend_settings_default(struct dn_recommend_settings *settings)
{
    *settings = (struct dn_recommend_settings){
        .type_weight =
            {
                [DN_EVENT_VIEW] = 1.0f,
                [DN_EVENT_CLICK] = 1.0f,
                [DN_EVENT_CART] = 2.0f,
                [DN_EVENT_BUY] = 2.0f,
                [DN_EVENT_LIKE] = 2.0f,
                [DN_EVENT_DISLIKE] = -1.5f,
                [DN_EVENT_PLAY] = 1.5f,
                [DN_EVENT_REMOVE] = -0.5f,
            },
        .recency_decay = 0.8f,
        .time_half_life_ms = 3600 * 1000,
        .session_events_used = 20,
    };
}

enum dn_code dn_arena_full(struct dn_error *err)
{
    return dn_fail(err, DN_EXHAUSTED,
                   "the request needs more memory than one request may have: ask for a smaller k or exclude "
                   "fewer items");
}

bool dn_pipeline_wants(const struct dn_pipeline *pipeline, const struct dn_item *item)
{
    return dn_slot_map_get(&pipeline->excluded, item->slot) == DN_SLOT_NONE &&
           dn_filter_match(pipeline->filter, item);
}

/* ---- what must not be returned ---------------------------------------------------------------------- */

static void exclude(struct dn_pipeline *pipeline, uint32_t slot)
{
    if (dn_slot_map_get(&pipeline->excluded, slot) != DN_SLOT_NONE)
        return;
    dn_slot_map_put(&pipeline->excluded, slot, 0);
    pipeline->excluded_slots[pipeline->excluded_count++] = slot;
}

static enum dn_code read_excluded(struct dn_pipeline *pipeline, struct dn_error *err)
{
    const struct dn_recommend_query *query = pipeline->query;
    const struct dn_catalog *catalog = pipeline->world->catalog;
    size_t seen = query->session && !query->include_seen ? query->session->event_count : 0;
    size_t max = seen + query->exclude_count;
    struct dn_item item;

    if (max == 0)
        return DN_OK;
    pipeline->excluded_slots = dn_arena_alloc(pipeline->arena, max * sizeof(*pipeline->excluded_slots));
    if (!pipeline->excluded_slots)
        return dn_arena_full(err);
    enum dn_code code = dn_slot_map_init(&pipeline->excluded, pipeline->arena, max, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < seen; i++) {
        const struct dn_event_view *event = &query->session->events[i];

        if (dn_catalog_get_hashed(catalog, event->item_hash, event->item, event->item_length, &item) == DN_OK)
            exclude(pipeline, item.slot);
    }
    for (size_t i = 0; i < query->exclude_count; i++)
        if (dn_catalog_get(catalog, query->exclude[i].value, query->exclude[i].value_length, &item) == DN_OK)
            exclude(pipeline, item.slot);
    return DN_OK;
}

/* ---- blending --------------------------------------------------------------------------------------- */

/* Makes room for `more` picks; earlier ones are copied. The map of places is made anew. */
static enum dn_code grow(struct dn_pipeline *pipeline, size_t more, struct dn_error *err)
{
    size_t max = pipeline->pick_count + more;
    struct dn_pick *picks = dn_arena_alloc(pipeline->arena, max * sizeof(*picks));

    if (!picks)
        return dn_arena_full(err);
    enum dn_code code = dn_slot_map_init(&pipeline->picked, pipeline->arena, max, err);
    if (code != DN_OK)
        return code;
    if (pipeline->pick_count > 0)
        memcpy(picks, pipeline->picks, pipeline->pick_count * sizeof(*picks));
    for (size_t i = 0; i < pipeline->pick_count; i++)
        dn_slot_map_put(&pipeline->picked, picks[i].item.slot, (uint32_t)i);
    pipeline->picks = picks;
    pipeline->pick_max = max;
    return DN_OK;
}

static void add_pick(struct dn_pipeline *pipeline, uint8_t source, const struct dn_item *item, float share)
{
    uint32_t place = dn_slot_map_get(&pipeline->picked, item->slot);

    if (place == DN_SLOT_NONE) {
        DN_ASSERT(pipeline->pick_count < pipeline->pick_max);
        dn_slot_map_put(&pipeline->picked, item->slot, (uint32_t)pipeline->pick_count);
        pipeline->picks[pipeline->pick_count++] =
            (struct dn_pick){.item = *item, .score = share, .contribution = share, .source = source};
        return;
    }
    struct dn_pick *pick = &pipeline->picks[place];
    pick->score += share;
    if (share > pick->contribution) {
        pick->contribution = share;
        pick->source = source;
    }
}

/* Brings the offers' scores to [FLOOR, 1], times the weight of the source. */
static enum dn_code blend(struct dn_pipeline *pipeline, uint8_t source, const struct dn_offers *offers,
                          struct dn_error *err)
{
    float low = INFINITY, high = -INFINITY;

    if (offers->count == 0)
        return DN_OK;
    enum dn_code code = grow(pipeline, offers->count, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < offers->count; i++) {
        low = fminf(low, offers->list[i].score);
        high = fmaxf(high, offers->list[i].score);
    }
    for (size_t i = 0; i < offers->count; i++) {
        float share = high > low ? (offers->list[i].score - low) / (high - low) : 1.0f;

        add_pick(pipeline, source, &offers->list[i].item,
                 SOURCES[source].weight * (FLOOR + (1 - FLOOR) * share));
    }
    return DN_OK;
}

/* Lowers what points to disliked items, for a session that has nothing liked to lead it. */
static void push_away(struct dn_pipeline *pipeline)
{
    for (size_t i = 0; pipeline->away && i < pipeline->pick_count; i++) {
        struct dn_pick *pick = &pipeline->picks[i];

        if (!pick->item.vector || pick->item.dim != pipeline->dim)
            continue;
        float likeness = dn_dot(pipeline->away, pick->item.vector, pipeline->dim);
        if (likeness > 0)
            pick->score *= 1 - fminf(likeness, 1.0f);
    }
}

/* ---- the best k ------------------------------------------------------------------------------------- */

static int compare_ids(const struct dn_item *a, const struct dn_item *b)
{
    size_t shorter = a->id_length < b->id_length ? a->id_length : b->id_length;
    int order = memcmp(a->id, b->id, shorter);

    return order != 0 ? order : (a->id_length > b->id_length) - (a->id_length < b->id_length);
}

static bool is_better(const struct dn_pick *a, const struct dn_pick *b)
{
    if (a->score != b->score)
        return a->score > b->score;
    return compare_ids(&a->item, &b->item) < 0;
}

static void sift_down(const struct dn_pick **heap, size_t count, size_t at)
{
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        const struct dn_pick *pick = heap[at];

        if (child + 1 < count && is_better(heap[child], heap[child + 1]))
            child++;
        if (!is_better(pick, heap[child]))
            return;
        heap[at] = heap[child];
        heap[child] = pick;
    }
}

/* Heap sort, best first: qsort may allocate. */
static void sort_best_first(const struct dn_pick **picks, size_t count)
{
    for (size_t i = count / 2; i-- > 0;)
        sift_down(picks, count, i);
    for (size_t end = count; end-- > 1;) {
        const struct dn_pick *worst = picks[0];

        picks[0] = picks[end];
        picks[end] = worst;
        sift_down(picks, end, 0);
    }
}

static enum dn_code answer(struct dn_pipeline *pipeline, struct dn_recommended **ret_items, size_t *ret_count,
                           struct dn_error *err)
{
    size_t count = pipeline->pick_count < pipeline->k ? pipeline->pick_count : pipeline->k;
    const struct dn_pick **order =
        dn_arena_alloc(pipeline->arena, pipeline->pick_count * sizeof(struct dn_pick *));
    struct dn_recommended *items = dn_arena_alloc(pipeline->arena, count * sizeof(*items));

    if (!order || !items)
        return dn_arena_full(err);
    for (size_t i = 0; i < pipeline->pick_count; i++)
        order[i] = &pipeline->picks[i];
    sort_best_first(order, pipeline->pick_count);
    for (size_t i = 0; i < count; i++) {
        const struct dn_candidate_source *source = &SOURCES[order[i]->source];
        const char *reason = source->reason ? source->reason : dn_taste_explain(pipeline, &order[i]->item);

        if (!reason)
            return dn_arena_full(err);
        items[i] = (struct dn_recommended){
            .item = order[i]->item, .score = order[i]->score, .source = source->name, .reason = reason};
    }
    *ret_items = items;
    *ret_count = count;
    return DN_OK;
}

/* Slots are compared and looked up all through a request: they must all be of one state of the catalogue. */
static struct dn_recommend_world pinned(const struct dn_recommend_world *world)
{
    struct dn_recommend_world copy = *world;

    copy.catalog = dn_catalog_pin(world->catalog);
    return copy;
}

/* ---- entry points ----------------------------------------------------------------------------------- */

static enum dn_code check(const struct dn_recommend_world *world, size_t k, const struct dn_filter *filter,
                          struct dn_error *err)
{
    if (k < 1 || k > DN_K_MAX)
        return dn_fail(err, DN_INVALID, "k is %zu: it must be 1 to %d", k, DN_K_MAX);
    return filter ? dn_filter_check(world->catalog, filter, err) : DN_OK;
}

enum dn_code dn_recommend(const struct dn_recommend_world *world,
                          const struct dn_recommend_settings *settings,
                          const struct dn_recommend_query *query, struct dn_arena *arena,
                          struct dn_recommended **ret_items, size_t *ret_count, struct dn_error *err)
{
    struct dn_recommend_world held = pinned(world);
    struct dn_pipeline pipeline = {
        .world = &held,
        .settings = settings,
        .query = query,
        .filter = query->filter ? query->filter : &AVAILABLE,
        .k = query->k,
        .arena = arena,
    };
    enum dn_code code = check(&held, query->k, query->filter, err);

    if (code != DN_OK)
        return code;
    if (query->exclude_count > DN_EXCLUDE_MAX)
        return dn_fail(err, DN_INVALID, "exclude has %zu ids: at most %d are allowed", query->exclude_count,
                       DN_EXCLUDE_MAX);
    code = read_excluded(&pipeline, err);
    if (code == DN_OK)
        code = dn_taste_read(&pipeline, err);
    for (uint8_t s = 0; s < SOURCE_COUNT && code == DN_OK; s++) {
        struct dn_offers offers = {0};

        code = SOURCES[s].candidates(&pipeline, &offers, err);
        if (code == DN_OK)
            code = blend(&pipeline, s, &offers, err);
    }
    if (code != DN_OK)
        return code;
    push_away(&pipeline);
    return answer(&pipeline, ret_items, ret_count, err);
}

enum dn_code dn_similar(const struct dn_recommend_world *world, const float *vector, uint32_t dim,
                        uint32_t self_slot, size_t k, const struct dn_filter *filter, struct dn_arena *arena,
                        struct dn_recommended **ret_items, size_t *ret_count, struct dn_error *err)
{
    struct dn_recommend_world held = pinned(world);
    size_t self_count = self_slot != UINT32_MAX ? 1 : 0;
    size_t found = 0, count = 0;
    enum dn_code code = check(&held, k, filter, err);

    if (code != DN_OK)
        return code;
    struct dn_hit *hits = dn_arena_alloc(arena, k * sizeof(*hits));
    struct dn_recommended *items = dn_arena_alloc(arena, k * sizeof(*items));
    if (!hits || !items)
        return dn_arena_full(err);
    if (!filter)
        filter = &AVAILABLE;
    code = dn_retrieval_search(held.retrieval, held.catalog, vector, dim, k, filter, &self_slot, self_count,
                               arena, hits, &found, err);
    if (code == DN_NO_MEMORY || code == DN_EXHAUSTED)
        return dn_arena_full(err);
    if (code != DN_OK)
        return dn_wrap(err, code, "search by vector");
    for (size_t i = 0; i < found; i++) {
        struct dn_recommended *item = &items[count];

        if (dn_catalog_get_slot(held.catalog, hits[i].slot, &item->item) != DN_OK ||
            !dn_filter_match(filter, &item->item))
            continue;
        item->score = hits[i].score;
        item->source = "similar";
        item->reason = self_count ? "similar to this item" : "similar to this vector";
        count++;
    }
    *ret_items = items;
    *ret_count = count;
    return DN_OK;
}

enum dn_code dn_trending(const struct dn_recommend_world *world, size_t k, const struct dn_filter *filter,
                         struct dn_arena *arena, struct dn_recommended **ret_items, size_t *ret_count,
                         struct dn_error *err)
{
    struct dn_recommend_world held = pinned(world);
    struct dn_pipeline pipeline = {
        .world = &held,
        .filter = filter ? filter : &AVAILABLE,
        .k = k,
        .arena = arena,
    };
    struct dn_offers offers = {0};
    enum dn_code code = check(&held, k, filter, err);

    if (code == DN_OK)
        code = dn_source_trending(&pipeline, &offers, err);
    if (code == DN_OK)
        code = grow(&pipeline, offers.count, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < offers.count; i++) /* the score here is the plain count, in events */
        add_pick(&pipeline, TRENDING, &offers.list[i].item, offers.list[i].score);
    return answer(&pipeline, ret_items, ret_count, err);
}
