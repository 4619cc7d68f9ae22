#include "recommend/caps.h"

#include "base/hash.h"

#include <string.h>

bool dn_same_category(const struct dn_item *a, const struct dn_item *b)
{
    return a->category_length > 0 && a->category_length == b->category_length &&
           memcmp(a->category, b->category, a->category_length) == 0;
}

enum dn_code dn_caps_begin(struct dn_caps *caps, uint32_t most, size_t categories, struct dn_arena *arena,
                           struct dn_error *err)
{
    size_t places = 16;

    *caps = (struct dn_caps){.most = most};
    if (most == 0)
        return DN_OK;
    while (places < 2 * categories)
        places *= 2;
    caps->table = dn_arena_zalloc(arena, places * sizeof(*caps->table));
    caps->mask = places - 1;
    return caps->table ? DN_OK : dn_arena_full(err);
}

/* Where the item's category is, or would be; the item has one. */
static struct dn_category *place_of(const struct dn_caps *caps, const struct dn_item *item)
{
    size_t at = dn_hash64(item->category, item->category_length, 0) & caps->mask;

    while (caps->table[at].first && !dn_same_category(caps->table[at].first, item))
        at = (at + 1) & caps->mask;
    return &caps->table[at];
}

struct dn_category *dn_caps_of(const struct dn_caps *caps, const struct dn_item *item)
{
    if (!caps->table || item->category_length == 0)
        return NULL;
    struct dn_category *category = place_of(caps, item);
    if (!category->first)
        category->first = item;
    return category;
}

bool dn_caps_allow(const struct dn_caps *caps, const struct dn_item *item)
{
    return !caps->table || item->category_length == 0 || place_of(caps, item)->used < caps->most;
}

/* ---- beyond what was considered ----------------------------------------------------------------------- */

struct beyond {
    const struct dn_pipeline *pipeline;
    struct dn_caps caps; /* with the answer in them */
    uint32_t pinned[DN_PINS_MAX];
    size_t pinned_count;
    size_t missing;
};

static bool is_new(const struct beyond *beyond, uint32_t slot)
{
    for (size_t i = 0; i < beyond->pinned_count; i++)
        if (beyond->pinned[i] == slot)
            return false;
    return dn_slot_map_get(&beyond->pipeline->picked, slot) == DN_SLOT_NONE;
}

static enum dn_code begin(struct beyond *beyond, const struct dn_rerank_item *answer, size_t count,
                          struct dn_error *err)
{
    const struct dn_recommend_query *query = beyond->pipeline->query;
    enum dn_code code =
        dn_caps_begin(&beyond->caps, query->rules->category_cap, query->k, beyond->pipeline->arena, err);

    if (code != DN_OK)
        return code;
    beyond->missing = query->k - count;
    for (size_t i = 0; i < count; i++) {
        struct dn_category *category = dn_caps_of(&beyond->caps, &answer[i].item);
        if (category)
            category->used++;
        if (answer[i].from == DN_RERANK_NONE)
            beyond->pinned[beyond->pinned_count++] = answer[i].item.slot;
    }
    return DN_OK;
}

static enum dn_code from_trending(const struct beyond *beyond, struct dn_offers *ret, struct dn_error *err)
{
    struct dn_pipeline all = *beyond->pipeline; /* all that trend, not a first look */
    size_t kept = 0;

    all.k = DN_TREND_MAX;
    all.pick_count = 0;
    enum dn_code code = dn_source_trending(&all, DN_WINDOW_TREND, ret, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < ret->count; i++)
        if (is_new(beyond, ret->list[i].item.slot) && dn_caps_allow(&beyond->caps, &ret->list[i].item))
            ret->list[kept++] = ret->list[i];
    ret->count = kept;
    return DN_OK;
}

static enum dn_code from_catalog(struct beyond *beyond, struct dn_offers *ret, struct dn_error *err)
{
    const struct dn_catalog *catalog = beyond->pipeline->world->catalog;
    uint32_t bound = dn_catalog_slot_bound(catalog);
    size_t most = beyond->missing < bound ? beyond->missing : bound, count = 0;

    struct dn_offer *list = dn_arena_alloc(beyond->pipeline->arena, (most + 1) * sizeof(*list));
    if (!list)
        return dn_arena_full(err);
    for (uint32_t slot = 0; slot < bound && count < most; slot++) {
        struct dn_item *item = &list[count].item;

        if (!is_new(beyond, slot) || dn_catalog_get_slot(catalog, slot, item) != DN_OK ||
            !dn_caps_allow(&beyond->caps, item) || !dn_pipeline_wants(beyond->pipeline, item))
            continue;
        struct dn_category *category = dn_caps_of(&beyond->caps, item);
        if (category)
            category->used++;
        list[count++].score = 0;
    }
    *ret = (struct dn_offers){.list = list, .count = count};
    return DN_OK;
}

enum dn_code dn_source_beyond(const struct dn_pipeline *pipeline, uint8_t source,
                              const struct dn_rerank_item *answer, size_t count, struct dn_offers *ret,
                              struct dn_error *err)
{
    struct beyond *beyond = dn_arena_zalloc(pipeline->arena, sizeof(*beyond));

    if (!beyond)
        return dn_arena_full(err);
    beyond->pipeline = pipeline;
    enum dn_code code = begin(beyond, answer, count, err);
    if (code != DN_OK)
        return code;
    return source == DN_SOURCE_TRENDING ? from_trending(beyond, ret, err) : from_catalog(beyond, ret, err);
}
