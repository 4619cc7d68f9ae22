/* A core's life, what it retires, and its hash. core.h has the invariants. */
#include "session/core.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

struct dn_core *dn_core_create(struct dn_shard *shard)
{
    struct dn_core *core = calloc(1, sizeof *core);
    if (core == NULL) {
        return NULL;
    }
    core->shard = shard;
    core->slab = dn_slab_create();
    core->pins = 1;
    core->generation = 1;
    dn_shard_settings_default(&core->meta.settings);
    core->meta.settings.near_cells = 0; /* core.h, invariant 6: until a record says so */
    core->meta.forget_floor_ms = 0;
    dn_users_init(core);
    dn_items_init(core);
    dn_tombstones_init(core);
    struct dn_source_list *none = dn_slab_zalloc(core->slab, sizeof *none);
    atomic_store_explicit(&core->sources, none, memory_order_release);
    dn_trend_publish(core, true);
    dn_popular_advance(core);
    return core;
}

void dn_core_unpin(struct dn_core *core)
{
    DN_ASSERT(core->pins > 0);
    if (--core->pins == 0) {
        dn_shard_core_gone(core->shard, core);
    }
}

void dn_core_destroy(struct dn_core *core)
{
    dn_core_free_closed(core);
    dn_slab_destroy_step(core->slab, SIZE_MAX);
    free(core);
}

static int order_compare(const void *a, const void *b)
{
    const struct dn_order *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

bool dn_order_sort(struct dn_order *order, size_t count)
{
    qsort(order, count, sizeof *order, order_compare);
    for (size_t i = 1; i < count; i++) {
        if (order[i].at == order[i - 1].at) {
            return false;
        }
    }
    return true;
}

/* ---- retiring -------------------------------------------------------------------------------------- */

static void release(struct dn_core *core, const struct dn_retired *retired)
{
    if (retired->object != NULL) {
        dn_slab_free(core->slab, retired->object, retired->size);
    } else {
        dn_item_release(core, (uint32_t)retired->size);
    }
}

static void batch_free(void *context, void *object)
{
    struct dn_core *core = context;
    struct dn_retire_batch *batch = object;
    for (uint32_t i = 0; i < batch->count; i++) {
        release(core, &batch->entries[i]);
    }
    dn_slab_free(core->slab, batch, sizeof *batch);
    dn_core_unpin(core);
}

static void hand_over(struct dn_core *core, struct dn_retire_batch *batch)
{
    core->pins++;
    dn_epoch_retire(dn_shard_epoch(core->shard), batch, batch_free, core);
}

void dn_core_flush(struct dn_core *core)
{
    struct dn_retire_batch *batch = core->batch;
    if (batch != NULL) {
        core->batch = NULL;
        hand_over(core, batch);
    }
}

static struct dn_retire_batch *batch_create(struct dn_core *core, struct dn_retire_batch *next)
{
    struct dn_retire_batch *batch = dn_slab_alloc(core->slab, sizeof *batch);
    batch->core = core;
    batch->next = next;
    batch->count = 0;
    return batch;
}

static void to_batch(struct dn_core *core, struct dn_retired retired)
{
    if (!core->live) {
        release(core, &retired);
        return;
    }
    if (core->batch == NULL) {
        core->batch = batch_create(core, NULL);
    }
    core->batch->entries[core->batch->count++] = retired;
    if (core->batch->count == DN_RETIRE_BATCH) {
        dn_core_flush(core);
    }
}

/* In batches, not in one array: that would be copied now and then, megabytes at a time. */
static void keep(struct dn_core *core, struct dn_retired retired)
{
    struct dn_capture *capture = core->capture;
    if (capture->kept == NULL || capture->kept->count == DN_RETIRE_BATCH) {
        capture->kept = batch_create(core, capture->kept);
    }
    capture->kept->entries[capture->kept->count++] = retired;
}

void dn_core_retire(struct dn_core *core, void *object, size_t size)
{
    to_batch(core, (struct dn_retired){.object = object, .size = size});
}

void dn_core_retire_captured(struct dn_core *core, void *object, size_t size)
{
    struct dn_retired retired = {.object = object, .size = size};
    if (core->capture != NULL) {
        keep(core, retired);
    } else {
        to_batch(core, retired);
    }
}

void dn_core_retire_chunk(struct dn_core *core, void *chunk, size_t size)
{
    keep(core, (struct dn_retired){.object = chunk, .size = size});
}

void dn_core_retire_block(struct dn_core *core, struct dn_block *block)
{
    struct dn_retired retired = {.object = block,
                                 .size = dn_block_bytes(block->event_count, block->id_count)};
    if (core->capture != NULL && block->generation <= core->capture->generation) {
        keep(core, retired);
    } else {
        to_batch(core, retired);
    }
}

void dn_core_retire_item(struct dn_core *core, uint32_t id)
{
    struct dn_retired retired = {.object = NULL, .size = id};
    if (core->capture != NULL) {
        keep(core, retired);
    } else {
        to_batch(core, retired);
    }
}

/* ---- captures that were closed ---------------------------------------------------------------------- */

static void capture_free(struct dn_capture *capture)
{
    free(capture->users);
    free(capture->items);
    free(capture->sources);
    free(capture->tombstones);
    free(capture);
}

void dn_capture_close(struct dn_capture *capture)
{
    struct dn_core *core = capture->core;
    DN_ASSERT(core->capture == capture);
    core->capture = NULL;
    capture->next_closed = core->closed;
    core->closed = capture;
    dn_core_unpin(core);
}

void dn_capture_step(struct dn_core *core, size_t max)
{
    for (; core->closed != NULL && max > 0; max--) {
        struct dn_capture *capture = core->closed;
        struct dn_retire_batch *batch = capture->kept;
        if (batch != NULL) {
            capture->kept = batch->next;
            hand_over(core, batch);
        } else {
            core->closed = capture->next_closed;
            capture_free(capture);
        }
    }
}

void dn_core_free_closed(struct dn_core *core)
{
    while (core->closed != NULL) {
        struct dn_capture *capture = core->closed;
        core->closed = capture->next_closed;
        capture_free(capture);
    }
}

/* ---- hash ------------------------------------------------------------------------------------------ */

uint64_t dn_core_hash(const struct dn_core *core)
{
    return core->sum + dn_meta_hash(&core->meta) + dn_dead_queue_hash(&core->dead);
}

static uint64_t block_sum(const struct dn_core *core, const struct dn_block *block)
{
    uint64_t sum = dn_block_hash(block);
    uint32_t rank = 0;
    for (size_t i = 0; i < block->event_count; i++) {
        const struct dn_event *event = &block->events[i];
        rank = dn_event_rank(block, i, rank);
        sum += dn_event_hash(block->user, event, dn_item_get(core, event->item)->hash, rank);
    }
    for (size_t i = 0; i < block->id_count; i++) {
        sum += dn_window_id_hash(block->user, &dn_block_ids(block)[i]);
    }
    return sum;
}

uint64_t dn_core_hash_recompute(const struct dn_core *core)
{
    uint64_t sum = 0;
    for (uint32_t id = 0; id < core->user_bound; id++) {
        const struct dn_block *block = dn_user_block(core, id);
        sum += block != NULL ? block_sum(core, block) : 0;
    }
    for (uint32_t id = 0; id < core->item_bound; id++) {
        const struct dn_item_slot *slot = dn_item_slot(core, id);
        sum += slot->state == DN_ITEM_LIVE ? dn_item_slot_hash(slot) + dn_near_hash(core, slot) : 0;
    }
    const struct dn_source_list *sources = atomic_load_explicit(&core->sources, memory_order_relaxed);
    for (uint32_t i = 0; i < sources->count; i++) {
        sum += dn_source_hash(sources->sources[i]);
    }
    const struct dn_dead_queue *dead = &core->dead;
    uint64_t next = atomic_load_explicit(&dead->next, memory_order_relaxed);
    for (uint64_t n = atomic_load_explicit(&dead->written, memory_order_relaxed); n < next; n++) {
        const struct dn_dead *letter = dn_dead_get(dead, n);
        sum += dn_dead_hash(n, sources->sources[letter->source], letter);
    }
    sum += dn_stall_hash(atomic_load_explicit(&core->stall, memory_order_relaxed));
    const struct dn_tombstones *tombstones = &core->tombstones;
    for (uint32_t at = tombstones->head; at != DN_ID_NONE; at = tombstones->slots[at].next) {
        sum += dn_tombstone_hash(&tombstones->slots[at]);
    }
    return sum + dn_meta_hash(&core->meta) + dn_dead_queue_hash(dead);
}
