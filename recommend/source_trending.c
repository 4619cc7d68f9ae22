/* Source "trending": what everybody does just now, or did today, or ever. Users are split over the shards,
 * so an item's count is the sum over them.
 *
 * The happy path: the shards' lists of their tops name items that pass the filter, and there are enough of
 * them. Where filters leave places empty, items that are no shard's top are looked for from the other side:
 * the catalogue says which items pass, the shards' counters how much each of them is asked for. */
#include "recommend/counters.h"

/* A first look takes this many a shard (and k more where trending leads); all that a shard has only when
 * filters leave places empty. */
enum { PER_SHARD_FIRST = 32 };

/* Bounds of the walk: slots of the catalogue from the first on, and items that pass, of which counters are
 * read. A filter that more items pass than that has its tops from the shards' lists, most of the time. */
enum { WALKED_MAX = 100000, COUNTED_MAX = 4096, WALK_AHEAD = 8 };

struct collecting {
    const struct dn_pipeline *pipeline;
    enum dn_window window;
    struct dn_offer *list;
    size_t count, max;
    size_t fresh; /* of them not among the picks: what fills places */
    struct dn_slot_map places;
    struct dn_trend_view *views;
    size_t views_max;
    bool more; /* some list was cut: its shard may have others */
};

static enum dn_code begin(struct collecting *collecting, size_t per_list, size_t room, struct dn_error *err)
{
    const struct dn_pipeline *pipeline = collecting->pipeline;

    size_t lists = collecting->window == DN_WINDOW_TREND || collecting->window == DN_WINDOW_EVER ? 1 : 2;
    collecting->max = lists * per_list * pipeline->world->shard_count + room;
    collecting->views_max = per_list;
    collecting->count = collecting->fresh = 0;
    collecting->more = false;
    collecting->views = dn_arena_alloc(pipeline->arena, per_list * sizeof(*collecting->views));
    collecting->list = dn_arena_alloc(pipeline->arena, collecting->max * sizeof(*collecting->list));
    if (!collecting->views || !collecting->list)
        return dn_arena_full(err);
    return dn_slot_map_init(&collecting->places, pipeline->arena, collecting->max, err);
}

/* Adds to an item that is there already. */
static void offer(struct collecting *collecting, const struct dn_item *item, float score)
{
    uint32_t place = dn_slot_map_get(&collecting->places, item->slot);

    if (place != DN_SLOT_NONE) {
        collecting->list[place].score += score;
        return;
    }
    dn_slot_map_put(&collecting->places, item->slot, (uint32_t)collecting->count);
    collecting->list[collecting->count++] = (struct dn_offer){.item = *item, .score = score};
    collecting->fresh += dn_slot_map_get(&collecting->pipeline->picked, item->slot) == DN_SLOT_NONE;
}

static void add_views(struct collecting *collecting, size_t got)
{
    const struct dn_pipeline *pipeline = collecting->pipeline;
    struct dn_item item;

    collecting->more = collecting->more || got == collecting->views_max;
    for (size_t i = 0; i < got; i++) {
        const struct dn_trend_view *view = &collecting->views[i];

        if (view->score > 0 &&
            dn_catalog_get_hashed(pipeline->world->catalog, view->item_hash, view->item, view->item_length,
                                  &item) == DN_OK &&
            dn_pipeline_wants(pipeline, &item))
            offer(collecting, &item, view->score);
    }
}

/* What is popular in any window is near the top of now or of ever. */
static void add_lists(struct collecting *collecting)
{
    const struct dn_recommend_world *world = collecting->pipeline->world;

    for (size_t s = 0; s < world->shard_count; s++) {
        if (collecting->window != DN_WINDOW_EVER)
            add_views(collecting,
                      dn_shard_trending(world->shards[s], collecting->views, collecting->views_max));
        if (collecting->window != DN_WINDOW_TREND)
            add_views(collecting,
                      dn_shard_most_clicked(world->shards[s], collecting->views, collecting->views_max));
    }
}

/* Items that pass, in the order of the catalogue, with nothing counted yet. */
static void walk(struct collecting *collecting)
{
    const struct dn_pipeline *pipeline = collecting->pipeline;
    const struct dn_catalog *catalog = pipeline->world->catalog;
    uint32_t bound = dn_catalog_slot_bound(catalog);
    struct dn_item item;

    if (bound > WALKED_MAX)
        bound = WALKED_MAX;
    for (uint32_t slot = 0; slot < bound && collecting->count < collecting->max; slot++) {
        dn_catalog_prefetch_slot(catalog, slot + WALK_AHEAD);
        if (dn_slot_map_get(&collecting->places, slot) == DN_SLOT_NONE &&
            dn_catalog_get_slot(catalog, slot, &item) == DN_OK && dn_pipeline_wants(pipeline, &item))
            offer(collecting, &item, 0);
    }
}

enum dn_code dn_source_trending(const struct dn_pipeline *pipeline, enum dn_window window,
                                struct dn_offers *ret, struct dn_error *err)
{
    struct collecting collecting = {.pipeline = pipeline, .window = window};
    size_t missing = pipeline->pick_count < pipeline->k ? pipeline->k - pipeline->pick_count : 0;
    size_t first = missing > 0 ? pipeline->k + PER_SHARD_FIRST : PER_SHARD_FIRST;
    bool counted =
        window != DN_WINDOW_TREND; /* a list's own scores are of one shard each, and of their kind */
    enum dn_code code = DN_OK;

    if (pipeline->world->shard_count == 0)
        return DN_OK;
    if (first < DN_TREND_MAX && !counted) {
        code = begin(&collecting, first, 0, err);
        if (code == DN_OK)
            add_lists(&collecting);
        *ret = (struct dn_offers){.list = collecting.list, .count = collecting.count};
        if (code != DN_OK || !collecting.more || collecting.fresh >= missing)
            return code;
    }
    code = begin(&collecting, DN_TREND_MAX, COUNTED_MAX, err);
    if (code != DN_OK)
        return code;
    add_lists(&collecting);
    /* A request without conditions is filled by the catalogue just as well. */
    bool walks = pipeline->query == NULL || pipeline->filter->term_count > 0;
    if (walks && collecting.more && collecting.fresh < missing) {
        walk(&collecting);
        counted = true;
    }
    *ret = (struct dn_offers){.list = collecting.list, .count = collecting.count};
    if (counted)
        dn_counters_read(pipeline, window, ret);
    return DN_OK;
}
