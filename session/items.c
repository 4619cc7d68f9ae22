/* Items: strings interned under ids, counted by the events that name them.
 *
 * An item goes: free -> live -> retired (evicted; readers may hold its id) -> free. Only when no reader and
 * no capture can hold a block that named it does its id go back to the free ones, so whoever holds such a
 * block finds the right string behind the id. */
#include "base/error.h"
#include "session/core.h"

#include <string.h>

struct item_key {
    const char *bytes;
    uint64_t hash;
    uint16_t length;
};

static bool same_item(const struct dn_core *core, uint32_t id, const void *key)
{
    const struct item_key *wanted = key;
    const struct dn_item *item = dn_item_get(core, id);
    return item != NULL && item->hash == wanted->hash && item->length == wanted->length &&
           memcmp(item->bytes, wanted->bytes, wanted->length) == 0;
}

static bool item_hash_of(const struct dn_core *core, uint32_t id, uint64_t *ret_hash)
{
    const struct dn_item_slot *slot = dn_item_slot(core, id);
    if (slot->state != DN_ITEM_LIVE) {
        return false;
    }
    *ret_hash = dn_item_hash(core, id);
    return true;
}

static void item_prefetch(const struct dn_core *core, uint32_t id, bool object)
{
    const struct dn_item_slot *slot = dn_item_slot(core, id);
    __builtin_prefetch(object ? (const void *)atomic_load_explicit(&slot->item, memory_order_relaxed)
                              : (const void *)slot);
}

void dn_items_init(struct dn_core *core)
{
    core->item_chunks = dn_slab_zalloc(core->slab, DN_ITEM_CHUNKS * sizeof core->item_chunks[0]);
    core->item_free = core->unref_head = core->unref_tail = DN_ID_NONE;
    dn_idtable_init(&core->items, core, item_hash_of, item_prefetch);
}

static void slot_copy(struct dn_item_slot *to, const struct dn_item_slot *from)
{
    atomic_init(&to->item, atomic_load_explicit(&from->item, memory_order_relaxed));
    atomic_init(&to->trend, atomic_load_explicit(&from->trend, memory_order_relaxed));
    atomic_init(&to->trend_epoch, atomic_load_explicit(&from->trend_epoch, memory_order_relaxed));
    to->unref = from->unref;
    to->refs = from->refs;
    to->previous = from->previous;
    to->next = from->next;
    memcpy(to->top_at, from->top_at, sizeof to->top_at);
    for (enum dn_popular_span span = 0; span < DN_POPULAR_SPANS; span++) {
        atomic_init(&to->popular[span], atomic_load_explicit(&from->popular[span], memory_order_relaxed));
        atomic_init(&to->popular_epoch[span],
                    atomic_load_explicit(&from->popular_epoch[span], memory_order_relaxed));
    }
    atomic_init(&to->row, atomic_load_explicit(&from->row, memory_order_relaxed));
    atomic_init(&to->visitors, atomic_load_explicit(&from->visitors, memory_order_relaxed));
    atomic_init(&to->clicks, atomic_load_explicit(&from->clicks, memory_order_relaxed));
    atomic_init(&to->hash, atomic_load_explicit(&from->hash, memory_order_relaxed));
    to->state = from->state;
}

struct dn_item_slot *dn_item_writable(struct dn_core *core, uint32_t id)
{
    struct dn_item_chunk *_Atomic *place = &core->item_chunks[id / DN_ITEM_CHUNK];
    struct dn_item_chunk *chunk = atomic_load_explicit(place, memory_order_relaxed);
    if (core->capture != NULL && chunk->generation <= core->capture->generation) {
        struct dn_item_chunk *copy = dn_slab_alloc(core->slab, sizeof *copy);
        copy->generation = core->generation;
        for (uint32_t i = 0; i < DN_ITEM_CHUNK; i++) {
            slot_copy(&copy->slots[i], &chunk->slots[i]);
        }
        atomic_store_explicit(place, copy, memory_order_release);
        dn_core_retire_chunk(core, chunk, sizeof *chunk);
        chunk = copy;
    }
    return &chunk->slots[id % DN_ITEM_CHUNK];
}

uint32_t dn_item_find(const struct dn_core *core, uint64_t hash, const char *bytes, uint16_t length)
{
    struct item_key key = {.bytes = bytes, .hash = hash, .length = length};
    return dn_idtable_find(&core->items, hash, same_item, &key);
}

bool dn_item_room(const struct dn_core *core)
{
    return core->items.live < core->meta.settings.items_max || core->unref_head != DN_ID_NONE;
}

static void chunk_ensure(struct dn_core *core, uint32_t id)
{
    struct dn_item_chunk *_Atomic *place = &core->item_chunks[id / DN_ITEM_CHUNK];
    if (atomic_load_explicit(place, memory_order_relaxed) == NULL) {
        struct dn_item_chunk *chunk = dn_slab_zalloc(core->slab, sizeof *chunk);
        chunk->generation = core->generation;
        atomic_store_explicit(place, chunk, memory_order_release);
    }
}

static uint32_t id_take(struct dn_core *core)
{
    if (core->item_free != DN_ID_NONE) {
        uint32_t id = core->item_free;
        core->item_free = dn_item_slot(core, id)->next;
        return id;
    }
    DN_ASSERT(core->item_bound < DN_ITEM_IDS - 1); /* the last one is no id: DN_CELL_ITEM_NONE */
    chunk_ensure(core, core->item_bound);
    return core->item_bound++;
}

static struct dn_item_slot *fill(struct dn_core *core, uint32_t id, uint64_t hash, const char *bytes,
                                 uint16_t length)
{
    struct dn_item *item = dn_slab_alloc(core->slab, sizeof *item + length);
    item->hash = hash;
    item->length = length;
    memcpy(item->bytes, bytes, length);
    struct dn_item_slot *slot = dn_item_writable(core, id);
    slot->unref = 0;
    slot->refs = 0;
    slot->previous = slot->next = DN_ID_NONE;
    memset(slot->top_at, 0, sizeof slot->top_at);
    slot->state = DN_ITEM_LIVE;
    atomic_store_explicit(&slot->row, NULL, memory_order_relaxed);
    atomic_store_explicit(&slot->visitors, NULL, memory_order_relaxed);
    atomic_store_explicit(&slot->clicks, 0, memory_order_relaxed);
    for (enum dn_popular_span span = 0; span < DN_POPULAR_SPANS; span++) {
        atomic_store_explicit(&slot->popular[span], 0, memory_order_relaxed);
    }
    atomic_store_explicit(&slot->trend, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->trend_epoch, core->meta.trend_epoch, memory_order_release);
    atomic_store_explicit(&slot->item, item, memory_order_release);
    atomic_store_explicit(&slot->hash, hash, memory_order_release); /* see dn_item_evict */
    dn_idtable_insert(&core->items, hash, id);
    return slot;
}

uint32_t dn_item_add(struct dn_core *core, uint64_t hash, const char *bytes, uint16_t length)
{
    if (core->items.live >= core->meta.settings.items_max) {
        DN_ASSERT(dn_item_evict(core));
    }
    uint32_t id = id_take(core);
    core->sum += dn_item_slot_hash(fill(core, id, hash, bytes, length));
    return id;
}

bool dn_item_restore(struct dn_core *core, uint32_t id, const char *bytes, uint16_t length, uint64_t trend,
                     uint32_t trend_epoch, uint64_t unref)
{
    uint64_t hash = dn_hash64(bytes, length, 0);
    chunk_ensure(core, id);
    if (dn_item_slot(core, id)->state != DN_ITEM_FREE ||
        dn_item_find(core, hash, bytes, length) != DN_ID_NONE) {
        return false;
    }
    struct dn_item_slot *slot = fill(core, id, hash, bytes, length);
    atomic_store_explicit(&slot->trend, trend, memory_order_relaxed);
    atomic_store_explicit(&slot->trend_epoch, trend_epoch, memory_order_relaxed);
    slot->unref = unref;
    core->sum += dn_item_slot_hash(slot);
    return true;
}

/* ---- references ------------------------------------------------------------------------------------ */

static void unref_remove(struct dn_core *core, struct dn_item_slot *slot)
{
    if (slot->previous != DN_ID_NONE) {
        dn_item_writable(core, slot->previous)->next = slot->next;
    } else {
        core->unref_head = slot->next;
    }
    if (slot->next != DN_ID_NONE) {
        dn_item_writable(core, slot->next)->previous = slot->previous;
    } else {
        core->unref_tail = slot->previous;
    }
    slot->previous = slot->next = DN_ID_NONE;
}

static void unref_append(struct dn_core *core, struct dn_item_slot *slot, uint32_t id)
{
    slot->previous = core->unref_tail;
    slot->next = DN_ID_NONE;
    if (core->unref_tail != DN_ID_NONE) {
        dn_item_writable(core, core->unref_tail)->next = id;
    } else {
        core->unref_head = id;
    }
    core->unref_tail = id;
}

void dn_item_ref(struct dn_core *core, uint32_t id)
{
    struct dn_item_slot *slot = dn_item_writable(core, id);
    if (slot->refs++ == 0 && slot->unref != 0) {
        core->sum -= dn_item_slot_hash(slot);
        unref_remove(core, slot);
        slot->unref = 0;
        core->sum += dn_item_slot_hash(slot);
    }
}

void dn_item_unref(struct dn_core *core, uint32_t id)
{
    struct dn_item_slot *slot = dn_item_writable(core, id);
    DN_ASSERT(slot->refs > 0);
    if (--slot->refs > 0) {
        return;
    }
    core->sum -= dn_item_slot_hash(slot);
    slot->unref = ++core->meta.unref;
    core->sum += dn_item_slot_hash(slot);
    unref_append(core, slot, id);
}

bool dn_item_evict(struct dn_core *core)
{
    uint32_t id = core->unref_head;
    if (id == DN_ID_NONE) {
        return false;
    }
    atomic_store_explicit(&core->items_evicted, true, memory_order_relaxed);
    for (enum dn_top_kind which = 0; which < DN_TOPS; which++) {
        dn_top_remove(core, which, id);
    }
    dn_near_drop(core, id);
    struct dn_item_slot *slot = dn_item_writable(core, id);
    core->sum -= dn_item_slot_hash(slot);
    unref_remove(core, slot);
    dn_idtable_remove(&core->items, dn_item_hash(core, id), id);
    slot->state = DN_ITEM_RETIRED;
    /* Who holds an old block goes on finding the string. Who comes by the id alone (a cell's: near_read.c)
     * may come at any time, also when it is about to be freed, and sees that it is nobody's. */
    atomic_store_explicit(&slot->hash, 0, memory_order_relaxed);
    dn_core_retire_item(core, id);
    return true;
}

void dn_item_release(struct dn_core *core, uint32_t id)
{
    struct dn_item_slot *slot = dn_item_writable(core, id);
    struct dn_item *item = atomic_load_explicit(&slot->item, memory_order_relaxed);
    DN_ASSERT(slot->state == DN_ITEM_RETIRED);
    atomic_store_explicit(&slot->item, NULL, memory_order_relaxed);
    slot->state = DN_ITEM_FREE;
    slot->next = core->item_free;
    core->item_free = id;
    dn_slab_free(core->slab, item, sizeof *item + item->length);
}

/* ---- restoring -------------------------------------------------------------------------------------- */

bool dn_items_order(struct dn_core *core)
{
    struct dn_order *order = dn_slab_alloc(core->slab, (core->item_bound + 1) * sizeof *order);
    uint32_t unused = 0;
    bool right = true;
    for (uint32_t id = core->item_bound; id-- > 0;) {
        chunk_ensure(core, id);
        struct dn_item_slot *slot = dn_item_slot(core, id);
        if (slot->state != DN_ITEM_LIVE) {
            slot->next = core->item_free;
            core->item_free = id;
            continue;
        }
        right = right && (slot->refs == 0) == (slot->unref != 0);
        if (slot->refs == 0) {
            order[unused++] = (struct dn_order){.at = slot->unref, .id = id};
        }
    }
    right = dn_order_sort(order, unused) && right;
    for (uint32_t i = 0; i < unused; i++) {
        unref_append(core, dn_item_slot(core, order[i].id), order[i].id);
    }
    dn_slab_free(core->slab, order, (core->item_bound + 1) * sizeof *order);
    return right;
}
