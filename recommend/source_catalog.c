/* Source "catalog": the catalogue in slot order, so that an answer is never short while items are left. It
 * stops as soon as the empty places are filled; only a filter that few items pass makes it walk far. */
#include "recommend/source.h"

enum { AHEAD = 8 }; /* slots between asking for an item's memory and reading it */

enum dn_code dn_source_catalog(const struct dn_pipeline *pipeline, struct dn_offers *ret,
                               struct dn_error *err)
{
    const struct dn_catalog *catalog = pipeline->world->catalog;
    uint32_t bound = dn_catalog_slot_bound(catalog);
    size_t count = 0;

    if (pipeline->pick_count >= pipeline->k)
        return DN_OK;
    size_t missing = pipeline->k - pipeline->pick_count;
    if (missing > bound)
        missing = bound;
    struct dn_offer *list = dn_arena_alloc(pipeline->arena, missing * sizeof(*list));
    if (!list)
        return dn_arena_full(err);
    for (uint32_t slot = 0; slot < bound && count < missing; slot++) {
        dn_catalog_prefetch_slot(catalog, slot + AHEAD);
        if (dn_slot_map_get(&pipeline->picked, slot) != DN_SLOT_NONE ||
            dn_catalog_get_slot(catalog, slot, &list[count].item) != DN_OK ||
            !dn_pipeline_wants(pipeline, &list[count].item))
            continue;
        list[count++].score = 0;
    }
    *ret = (struct dn_offers){.list = list, .count = count};
    return DN_OK;
}
