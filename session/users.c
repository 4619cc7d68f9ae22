/* Users: id directory, hash table, idle list, forgetting. */
#include "base/error.h"
#include "session/core.h"

#include <string.h>

static bool same_user(const struct dn_core *core, uint32_t id, const void *key)
{
    const struct dn_block *block = dn_user_block(core, id);
    return block != NULL && dn_hash128_equal(block->user, *(const struct dn_hash128 *)key);
}

static bool user_hash_of(const struct dn_core *core, uint32_t id, uint64_t *ret_hash)
{
    const struct dn_block *block = dn_user_block(core, id);
    if (block == NULL) {
        return false;
    }
    *ret_hash = dn_user_hash(block->user);
    return true;
}

static void user_prefetch(const struct dn_core *core, uint32_t id, bool object)
{
    const struct dn_user_chunk *chunk =
        atomic_load_explicit(&core->user_chunks[id / DN_USER_CHUNK], memory_order_relaxed);
    struct dn_block *_Atomic const *slot = &chunk->slots[id % DN_USER_CHUNK];
    __builtin_prefetch(object ? (const void *)atomic_load_explicit(slot, memory_order_relaxed)
                              : (const void *)slot);
}

void dn_users_init(struct dn_core *core)
{
    core->user_chunks = dn_slab_zalloc(core->slab, DN_USER_CHUNKS * sizeof core->user_chunks[0]);
    core->user_links = dn_slab_zalloc(core->slab, DN_USER_CHUNKS * sizeof core->user_links[0]);
    core->user_free = core->idle_head = core->idle_tail = DN_ID_NONE;
    dn_idtable_init(&core->users, core, user_hash_of, user_prefetch);
}

uint32_t dn_user_find(const struct dn_core *core, struct dn_hash128 user)
{
    return dn_idtable_find(&core->users, dn_user_hash(user), same_user, &user);
}

static struct dn_link *link_of(const struct dn_core *core, uint32_t id)
{
    return &core->user_links[id / DN_USER_CHUNK][id % DN_USER_CHUNK];
}

static void idle_append(struct dn_core *core, uint32_t id)
{
    struct dn_link *link = link_of(core, id);
    link->previous = core->idle_tail;
    link->next = DN_ID_NONE;
    if (core->idle_tail != DN_ID_NONE) {
        link_of(core, core->idle_tail)->next = id;
    } else {
        core->idle_head = id;
    }
    core->idle_tail = id;
}

static void idle_remove(struct dn_core *core, uint32_t id)
{
    struct dn_link *link = link_of(core, id);
    if (link->previous != DN_ID_NONE) {
        link_of(core, link->previous)->next = link->next;
    } else {
        core->idle_head = link->next;
    }
    if (link->next != DN_ID_NONE) {
        link_of(core, link->next)->previous = link->previous;
    } else {
        core->idle_tail = link->previous;
    }
}

/* The slot, ready to be written: its chunk is no capture's. */
static struct dn_block *_Atomic *writable(struct dn_core *core, uint32_t id)
{
    struct dn_user_chunk *_Atomic *place = &core->user_chunks[id / DN_USER_CHUNK];
    struct dn_user_chunk *chunk = atomic_load_explicit(place, memory_order_relaxed);
    if (core->capture != NULL && chunk->generation <= core->capture->generation) {
        struct dn_user_chunk *copy = dn_slab_alloc(core->slab, sizeof *copy);
        copy->generation = core->generation;
        for (uint32_t i = 0; i < DN_USER_CHUNK; i++) {
            struct dn_block *block = atomic_load_explicit(&chunk->slots[i], memory_order_relaxed);
            atomic_init(&copy->slots[i], block);
        }
        atomic_store_explicit(place, copy, memory_order_release);
        dn_core_retire_chunk(core, chunk, sizeof *chunk);
        chunk = copy;
    }
    return &chunk->slots[id % DN_USER_CHUNK];
}

static uint32_t id_take(struct dn_core *core)
{
    if (core->user_free != DN_ID_NONE) {
        uint32_t id = core->user_free;
        core->user_free = link_of(core, id)->next;
        return id;
    }
    uint32_t id = core->user_bound;
    DN_ASSERT(id < DN_ID_LIMIT);
    if (id % DN_USER_CHUNK == 0) {
        struct dn_user_chunk *chunk = dn_slab_zalloc(core->slab, sizeof *chunk);
        chunk->generation = core->generation;
        core->user_links[id / DN_USER_CHUNK] =
            dn_slab_alloc(core->slab, DN_USER_CHUNK * sizeof(struct dn_link));
        atomic_store_explicit(&core->user_chunks[id / DN_USER_CHUNK], chunk, memory_order_release);
    }
    core->user_bound++;
    return id;
}

uint32_t dn_user_add(struct dn_core *core, struct dn_block *block)
{
    uint32_t id = id_take(core);
    atomic_store_explicit(writable(core, id), block, memory_order_release);
    dn_idtable_insert(&core->users, dn_user_hash(block->user), id);
    idle_append(core, id);
    return id;
}

void dn_user_replace(struct dn_core *core, uint32_t id, struct dn_block *block)
{
    struct dn_block *_Atomic *slot = writable(core, id);
    struct dn_block *old = atomic_load_explicit(slot, memory_order_relaxed);
    atomic_store_explicit(slot, block, memory_order_release);
    if (core->idle_tail != id) {
        idle_remove(core, id);
        idle_append(core, id);
    }
    dn_core_retire_block(core, old);
}

void dn_user_remove(struct dn_core *core, uint32_t id)
{
    struct dn_block *_Atomic *slot = writable(core, id);
    struct dn_block *block = atomic_load_explicit(slot, memory_order_relaxed);
    dn_idtable_remove(&core->users, dn_user_hash(block->user), id);
    atomic_store_explicit(slot, NULL, memory_order_release);
    idle_remove(core, id);
    link_of(core, id)->next = core->user_free;
    core->user_free = id;

    core->sum -= dn_block_hash(block);
    uint32_t rank = 0;
    for (size_t i = 0; i < block->event_count; i++) {
        const struct dn_event *event = &block->events[i];
        rank = dn_event_rank(block, i, rank);
        core->sum -= dn_event_hash(block->user, event, dn_item_hash(core, event->item), rank);
        dn_near_leave(core, event->item, id, block->user);
        dn_item_unref(core, event->item);
    }
    for (size_t i = 0; i < block->id_count; i++) {
        core->sum -= dn_window_id_hash(block->user, &dn_block_ids(block)[i]);
    }
    dn_core_retire_block(core, block);
}

/* The newest time of an id that may come again, or -1. */
static int64_t window_newest(const struct dn_block *block)
{
    int64_t newest_ms = -1;
    for (size_t i = 0; i < block->event_count; i++) {
        if (block->events[i].id != 0 && block->events[i].time_ms > newest_ms) {
            newest_ms = block->events[i].time_ms;
        }
    }
    for (size_t i = 0; i < block->id_count; i++) {
        if (dn_block_ids(block)[i].time_ms > newest_ms) {
            newest_ms = dn_block_ids(block)[i].time_ms;
        }
    }
    return newest_ms;
}

/* To the end of the idle list, unchanged in all that a reader sees. */
static void pass_over(struct dn_core *core, uint32_t id, const struct dn_block *old)
{
    size_t size = dn_block_bytes(old->event_count, old->id_count);
    struct dn_block *block = dn_slab_alloc(core->slab, size);
    memcpy(block, old, size);
    block->generation = core->generation;
    block->touch = ++core->meta.touch;
    core->sum += dn_block_hash(block) - dn_block_hash(old);
    dn_user_replace(core, id, block);
}

bool dn_user_forget(struct dn_core *core, int64_t idle_before_ms)
{
    struct dn_meta *meta = &core->meta;
    int64_t empty_before_ms = meta->time_ms - meta->settings.lateness_ms;
    uint32_t id = core->idle_head;
    uint32_t last = core->idle_tail; /* behind it come those passed over now */
    for (uint32_t looked = 0; id != DN_ID_NONE && looked < DN_FORGET_STEP; looked++) {
        const struct dn_block *block = dn_user_block(core, id);
        uint32_t next = id != last ? link_of(core, id)->next : DN_ID_NONE;
        if (block->arrival_ms >= idle_before_ms) {
            return false;
        }
        int64_t newest_ms = window_newest(block);
        bool floor_past = block->floor_ms <= empty_before_ms || block->floor_ms <= meta->forget_floor_ms;
        if (newest_ms < empty_before_ms && floor_past) {
            /* Invariant 5b. */
            int64_t floor_ms = newest_ms + 1 > block->floor_ms ? newest_ms + 1 : block->floor_ms;
            if (floor_ms > meta->forget_floor_ms) {
                meta->forget_floor_ms = floor_ms;
            }
            dn_user_remove(core, id);
            return true;
        }
        if (block->arrival_ms < empty_before_ms) {
            pass_over(core, id, block);
        }
        id = next;
    }
    return false;
}

/* ---- restoring -------------------------------------------------------------------------------------- */

bool dn_users_order(struct dn_core *core)
{
    struct dn_order *order = dn_slab_alloc(core->slab, (core->user_bound + 1) * sizeof *order);
    for (uint32_t id = 0; id < core->user_bound; id++) { /* a restored core has no holes */
        order[id] = (struct dn_order){.at = dn_user_block(core, id)->touch, .id = id};
    }
    bool unique = dn_order_sort(order, core->user_bound);
    core->idle_head = core->idle_tail = DN_ID_NONE;
    for (uint32_t i = 0; i < core->user_bound; i++) {
        idle_append(core, order[i].id);
    }
    dn_slab_free(core->slab, order, (core->user_bound + 1) * sizeof *order);
    return unique;
}
