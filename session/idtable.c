#include "session/idtable.h"

#include "base/error.h"
#include "session/core.h"

#define PLACES_MIN 64u
#define MOVE_STEP 6u   /* old places moved by each insert, or more: the old part is memory as well */
#define AHEAD_SLOT 16u /* places ahead of the cursor whose objects are asked for */
#define AHEAD_OBJECT 8u

static size_t part_bytes(uint32_t places)
{
    return sizeof(struct dn_idpart) + (size_t)places * sizeof(uint32_t);
}

static struct dn_idpart *part_create(struct dn_core *core, uint32_t places)
{
    struct dn_idpart *part = dn_slab_zalloc(core->slab, part_bytes(places));
    part->mask = places - 1;
    return part;
}

static struct dn_idpart *current(const struct dn_idtable *table)
{
    return atomic_load_explicit(&table->part, memory_order_relaxed);
}

static struct dn_idpart *before(const struct dn_idpart *part)
{
    return atomic_load_explicit(&part->old, memory_order_relaxed);
}

static uint32_t get(const struct dn_idpart *part, uint32_t at)
{
    return atomic_load_explicit(&part->places[at], memory_order_relaxed);
}

static void set(struct dn_idpart *part, uint32_t at, uint32_t place)
{
    atomic_store_explicit(&part->places[at], place, memory_order_relaxed);
}

void dn_idtable_init(struct dn_idtable *table, struct dn_core *core,
                     bool (*hash_of)(const struct dn_core *core, uint32_t id, uint64_t *ret_hash),
                     void (*prefetch)(const struct dn_core *core, uint32_t id, bool object))
{
    table->live = 0;
    table->core = core;
    table->hash_of = hash_of;
    table->prefetch = prefetch;
    atomic_store_explicit(&table->part, part_create(core, PLACES_MIN), memory_order_release);
}

/* Where `place` is in the part, or its mask + 1. */
static uint32_t part_find(const struct dn_idpart *part, uint64_t hash, uint32_t place)
{
    for (uint32_t at = (uint32_t)hash & part->mask;; at = (at + 1) & part->mask) {
        uint32_t there = get(part, at);
        if (there == place) {
            return at;
        }
        if (there == DN_IDPLACE_EMPTY) {
            return part->mask + 1;
        }
    }
}

static void part_put(struct dn_idpart *part, uint64_t hash, uint32_t place)
{
    uint32_t at = (uint32_t)hash & part->mask;
    while (get(part, at) != DN_IDPLACE_EMPTY && get(part, at) != DN_IDPLACE_DELETED) {
        at = (at + 1) & part->mask;
    }
    if (get(part, at) == DN_IDPLACE_EMPTY) {
        part->used++;
    }
    set(part, at, place);
}

static uint32_t id_in(uint32_t place)
{
    return (place & ((1u << DN_ID_BITS) - 1)) - 2;
}

static void look_ahead(const struct dn_idtable *table, const struct dn_idpart *part, uint32_t at, bool object)
{
    if (table->prefetch != NULL && at <= part->mask) {
        uint32_t place = get(part, at);
        if (place != DN_IDPLACE_EMPTY && place != DN_IDPLACE_DELETED) {
            table->prefetch(table->core, id_in(place), object);
        }
    }
}

static void move_step(struct dn_idtable *table, uint32_t steps)
{
    struct dn_idpart *part = current(table);
    struct dn_idpart *old = before(part);
    for (; old != NULL && steps > 0; steps--) {
        look_ahead(table, old, old->cursor + AHEAD_SLOT, false);
        look_ahead(table, old, old->cursor + AHEAD_OBJECT, true);
        uint32_t place = get(old, old->cursor);
        uint32_t id = id_in(place);
        uint64_t hash;
        /* A removed id leaves both parts at once, so what is still here is live. */
        if (place != DN_IDPLACE_EMPTY && place != DN_IDPLACE_DELETED) {
            DN_ASSERT(table->hash_of(table->core, id, &hash));
            part_put(part, hash, place);
        }
        if (old->cursor++ == old->mask) {
            atomic_store_explicit(&part->old, NULL, memory_order_release);
            dn_core_retire(table->core, old, part_bytes(old->mask + 1));
            old = NULL;
        }
    }
}

static void grow(struct dn_idtable *table)
{
    struct dn_idpart *part = current(table);
    DN_ASSERT(before(part) == NULL);
    uint32_t old_places = part->mask + 1;
    uint32_t places = old_places / 2 > PLACES_MIN ? old_places / 2 : PLACES_MIN;
    while (places < 2 * (table->live + 1)) {
        places *= 2;
    }
    uint32_t inserts = places / 4 * 3 - table->live; /* at least a quarter of the places */
    struct dn_idpart *next = part_create(table->core, places);
    uint32_t step = old_places / inserts + 1;
    next->step = step > MOVE_STEP ? step : MOVE_STEP;
    atomic_store_explicit(&next->old, part, memory_order_relaxed);
    atomic_store_explicit(&table->part, next, memory_order_release);
}

void dn_idtable_insert(struct dn_idtable *table, uint64_t hash, uint32_t id)
{
    DN_ASSERT(id < DN_ID_LIMIT);
    struct dn_idpart *part = current(table);
    if ((uint64_t)(part->used + 1) * 4 > (uint64_t)(part->mask + 1) * 3) {
        grow(table);
        part = current(table);
    }
    part_put(part, hash, dn_idplace(hash, id));
    table->live++;
    move_step(table, part->step);
}

void dn_idtable_remove(struct dn_idtable *table, uint64_t hash, uint32_t id)
{
    uint32_t place = dn_idplace(hash, id);
    bool found = false;
    for (struct dn_idpart *part = current(table); part != NULL; part = before(part)) {
        uint32_t at = part_find(part, hash, place);
        if (at <= part->mask) {
            set(part, at, DN_IDPLACE_DELETED);
            found = true;
        }
    }
    DN_ASSERT(found);
    table->live--;
}
