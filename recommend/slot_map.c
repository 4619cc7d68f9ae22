/* A map from catalogue slot to a number, in a request's arena. */
#include "recommend/source.h"

#include <string.h>

enum { SLOTS_MIN = 16 };

enum dn_code dn_slot_map_init(struct dn_slot_map *map, struct dn_arena *arena, size_t max,
                              struct dn_error *err)
{
    size_t size = SLOTS_MIN;

    DN_ASSERT(max < UINT32_MAX / 4);
    while (size < 2 * max)
        size *= 2;
    uint32_t *keys = dn_arena_zalloc(arena, size * sizeof(*keys));
    uint32_t *values = dn_arena_alloc(arena, size * sizeof(*values));
    if (!keys || !values)
        return dn_arena_full(err);
    *map = (struct dn_slot_map){
        .keys = keys, .values = values, .mask = (uint32_t)(size - 1), .max = (uint32_t)max};
    return DN_OK;
}

/* Slots are dense small numbers: Fibonacci hashing spreads runs of them. */
static uint32_t start_of(const struct dn_slot_map *map, uint32_t slot)
{
    return (uint32_t)(((uint64_t)slot * 0x9e3779b97f4a7c15u) >> 32) & map->mask;
}

uint32_t dn_slot_map_get(const struct dn_slot_map *map, uint32_t slot)
{
    if (!map->keys)
        return DN_SLOT_NONE;
    for (uint32_t at = start_of(map, slot);; at = (at + 1) & map->mask) {
        if (map->keys[at] == 0)
            return DN_SLOT_NONE;
        if (map->keys[at] == slot + 1)
            return map->values[at];
    }
}

void dn_slot_map_put(struct dn_slot_map *map, uint32_t slot, uint32_t value)
{
    uint32_t at = start_of(map, slot);

    DN_ASSERT(slot != UINT32_MAX && map->count < map->max);
    while (map->keys[at] != 0) {
        DN_ASSERT(map->keys[at] != slot + 1);
        at = (at + 1) & map->mask;
    }
    map->keys[at] = slot + 1;
    map->values[at] = value;
    map->count++;
}
