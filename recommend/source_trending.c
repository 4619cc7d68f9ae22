/* Source "trending": what everybody does just now. Users are split over the shards, so an item's count is the
 * sum over them; only items near the top of some shard are looked at. */
#include "recommend/source.h"

/* A first look takes this many a shard (and k more where trending leads); all that a shard has only when
 * filters leave places empty. */
enum { PER_SHARD_FIRST = 32 };

/* Sums the top `per_shard` of every shard. *ret_more: some shard had that many, so it may have others. */
static enum dn_code collect(const struct dn_pipeline *pipeline, size_t per_shard, struct dn_offers *ret,
                            bool *ret_more, struct dn_error *err)
{
    const struct dn_recommend_world *world = pipeline->world;
    struct dn_slot_map places;
    size_t max = per_shard * world->shard_count;
    size_t count = 0;
    bool more = false;

    struct dn_trend_view *views = dn_arena_alloc(pipeline->arena, per_shard * sizeof(*views));
    struct dn_offer *list = dn_arena_alloc(pipeline->arena, max * sizeof(*list));
    if (!views || !list)
        return dn_arena_full(err);
    enum dn_code code = dn_slot_map_init(&places, pipeline->arena, max, err);
    if (code != DN_OK)
        return code;
    for (size_t s = 0; s < world->shard_count; s++) {
        size_t got = dn_shard_trending(world->shards[s], views, per_shard);

        more = more || got == per_shard;
        for (size_t i = 0; i < got; i++) {
            struct dn_offer *offer = &list[count];

            if (!(views[i].score > 0) ||
                dn_catalog_get_hashed(world->catalog, views[i].item_hash, views[i].item, views[i].item_length,
                                      &offer->item) != DN_OK ||
                !dn_pipeline_wants(pipeline, &offer->item))
                continue;
            uint32_t place = dn_slot_map_get(&places, offer->item.slot);
            if (place != DN_SLOT_NONE) {
                list[place].score += views[i].score;
                continue;
            }
            offer->score = views[i].score;
            dn_slot_map_put(&places, offer->item.slot, (uint32_t)count);
            count++;
        }
    }
    *ret = (struct dn_offers){.list = list, .count = count};
    *ret_more = more;
    return DN_OK;
}

enum dn_code dn_source_trending(const struct dn_pipeline *pipeline, struct dn_offers *ret,
                                struct dn_error *err)
{
    bool leads = pipeline->pick_count < pipeline->k;
    size_t first = leads ? pipeline->k + PER_SHARD_FIRST : PER_SHARD_FIRST;
    bool more = false;

    if (pipeline->world->shard_count == 0)
        return DN_OK;
    if (first > DN_TREND_MAX)
        first = DN_TREND_MAX;
    enum dn_code code = collect(pipeline, first, ret, &more, err);
    if (code != DN_OK || !more || first == DN_TREND_MAX || pipeline->pick_count + ret->count >= pipeline->k)
        return code;
    return collect(pipeline, DN_TREND_MAX, ret, &more, err);
}
