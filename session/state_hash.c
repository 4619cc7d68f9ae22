/* The hashes that the state hash is the sum of. Fixed for ever: nodes of different builds compare them.
 * A sum does not see the order of its terms, so whatever is ordered carries its order as a number. */
#include "base/mutant.h"
#include "session/core.h"

#define SEED_META 0x6d657461u
#define SEED_BLOCK 0x626c6f63u
#define SEED_EVENT 0x65766e74u
#define SEED_WINDOW 0x77696e64u
#define SEED_ITEM 0x6974656du
#define SEED_SOURCE 0x73726365u
#define SEED_TOMBSTONE 0x746f6d62u
#define SEED_DEAD 0x64656164u
#define SEED_QUEUE 0x71756575u
#define SEED_STALL 0x7374616cu
#define SEED_FINISHED 0x66696e69u
#define SEED_ROW 0x726f7773u
#define SEED_CELL 0x63656c6cu
#define SEED_VISITOR 0x76697369u

static inline uint64_t mix(uint64_t h, uint64_t value)
{
    h = (h ^ value) * 0x9fb21c651e98df25u;
    return h ^ h >> 32;
}

static inline uint64_t finish(uint64_t h)
{
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 29;
}

uint64_t dn_block_hash(const struct dn_block *block)
{
    uint64_t h = mix(mix(SEED_BLOCK, block->user.high), block->user.low);
    h = mix(h, block->version);
    h = mix(h, (uint64_t)block->arrival_ms);
    h = mix(h, block->touch);
    h = mix(h, (uint64_t)block->start_ms);
    h = mix(h, (uint64_t)block->floor_ms);
    h = mix(h, block->session_events);
    for (size_t i = 0; i < DN_EVENT_TYPE_MAX; i += 4) {
        h = mix(h, (uint64_t)block->counts[i] | (uint64_t)block->counts[i + 1] << 16 |
                       (uint64_t)block->counts[i + 2] << 32 | (uint64_t)block->counts[i + 3] << 48);
    }
    h = mix(h, (uint64_t)block->event_count | (uint64_t)block->id_count << 32);
    return finish(h);
}

uint64_t dn_event_hash(struct dn_hash128 user, const struct dn_event *event, uint64_t item_hash,
                       uint32_t rank)
{
    uint64_t h = mix(mix(SEED_EVENT, user.high), user.low);
    h = mix(h, (uint64_t)event->time_ms);
    h = mix(h, event->id);
    h = mix(h, item_hash);
    h = mix(h, (uint64_t)event->weight | (uint64_t)event->type << 16 | (uint64_t)rank << 32);
    return finish(h);
}

uint64_t dn_window_id_hash(struct dn_hash128 user, const struct dn_window_id *id)
{
    uint64_t h = mix(mix(SEED_WINDOW, user.high), user.low);
    return finish(mix(mix(h, id->id), (uint64_t)id->time_ms));
}

uint64_t dn_item_slot_hash(const struct dn_item_slot *slot)
{
    const struct dn_item *item = atomic_load_explicit(&slot->item, memory_order_relaxed);
    uint64_t h = mix(mix(SEED_ITEM, item->hash), item->length);
    h = mix(h, atomic_load_explicit(&slot->trend, memory_order_relaxed));
    h = mix(h, slot->unref);
    uint32_t epoch = atomic_load_explicit(&slot->trend_epoch, memory_order_relaxed);
    h = mix(h, (uint64_t)epoch | (uint64_t)(slot->top_at[DN_TOP_TREND] != 0) << 32);
    uint32_t clicks = atomic_load_explicit(&slot->clicks, memory_order_relaxed);
    return finish(clicks != 0 ? mix(h, clicks) : h);
}

uint64_t dn_row_hash(uint64_t item_hash, const struct dn_row *row)
{
    uint64_t h = mix(mix(SEED_ROW, item_hash), (uint64_t)row->epoch | (uint64_t)row->hand << 32);
    return finish(mix(mix(h, row->after_sum), row->near_sum));
}

uint64_t dn_cell_hash(uint64_t item_hash, const struct dn_cell *cell)
{
    uint64_t h = mix(mix(SEED_CELL, item_hash), (uint64_t)cell->key << 32 | cell->near);
    return finish(mix(h, cell->after));
}

uint64_t dn_visitor_hash(uint64_t item_hash, struct dn_hash128 user)
{
    return finish(mix(mix(mix(SEED_VISITOR, item_hash), user.high), user.low));
}

uint64_t dn_source_hash(const struct dn_stream_source *source)
{
    struct dn_source_progress progress = dn_source_progress(source);
    uint64_t h = mix(mix(SEED_SOURCE, source->hash), source->partition);
    h = mix(h, (uint64_t)progress.floor_ms);
    if (progress.newest_ms != DN_TIME_NONE || progress.events != 0) {
        h = mix(mix(h, (uint64_t)progress.newest_ms), progress.events);
    }
    if (progress.finished != 0) {
        h = mix(mix(h, SEED_FINISHED), progress.finished);
    }
    if (dn_mutant(DN_MUTANT_FORGET_OFFSET)) {
        return finish(h); /* or the snapshot would be refused */
    }
    return finish(mix(h, (uint64_t)progress.next_offset));
}

uint64_t dn_dead_hash(uint64_t number, const struct dn_stream_source *source, const struct dn_dead *letter)
{
    uint64_t h = mix(mix(SEED_DEAD, number), source->hash);
    h = mix(h, (uint64_t)letter->offset);
    h = mix(h, (uint64_t)letter->time_ms);
    return finish(mix(h, (uint64_t)source->partition | (uint64_t)letter->reason << 32));
}

uint64_t dn_dead_queue_hash(const struct dn_dead_queue *queue)
{
    if (atomic_load_explicit(&queue->next, memory_order_relaxed) == 0) {
        return 0;
    }
    uint64_t h = mix(SEED_QUEUE, atomic_load_explicit(&queue->written, memory_order_relaxed));
    for (size_t reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        h = mix(h, queue->counts[reason]);
    }
    return finish(h);
}

uint64_t dn_stall_hash(const struct dn_stall *stall)
{
    if (stall == NULL) {
        return 0;
    }
    uint64_t h = mix(SEED_STALL, (uint64_t)stall->since_ms);
    return finish(mix(h, dn_hash64(stall->reason, stall->length, 0)));
}

uint64_t dn_tombstone_hash(const struct dn_tombstone *tombstone)
{
    uint64_t h = mix(mix(SEED_TOMBSTONE, tombstone->user.high), tombstone->user.low);
    h = mix(h, (uint64_t)tombstone->until_ms);
    h = mix(h, tombstone->request_id);
    h = mix(h, tombstone->order);
    return finish(mix(h, tombstone->existed));
}

uint64_t dn_meta_hash(const struct dn_meta *meta)
{
    const struct dn_shard_settings *settings = &meta->settings;
    const uint64_t values[] = {
        (uint64_t)meta->time_ms,
        (uint64_t)meta->max_event_ms,
        (uint64_t)meta->forget_floor_ms,
        meta->touch,
        meta->unref,
        meta->erase_order,
        (uint64_t)meta->trend_landmark_ms,
        meta->trend_epoch,
        meta->events_applied,
        meta->duplicates,
        meta->late,
        meta->refused,
        meta->erased,
        meta->evicted,
        meta->expired,
        (uint64_t)settings->gap_ms,
        (uint64_t)settings->lateness_ms,
        (uint64_t)settings->ahead_ms,
        (uint64_t)settings->idle_ms,
        settings->events_per_user,
        settings->ids_per_user,
        settings->users_max,
        settings->items_max,
        (uint64_t)settings->trend_half_life_ms,
    };
    uint64_t h = SEED_META;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        h = mix(h, values[i]);
    }
    if (meta->has_near) {
        h = mix(h, (uint64_t)meta->near_landmark_ms);
        h = mix(h, (uint64_t)meta->near_epoch << 32 | settings->near_cells);
        h = mix(h, settings->near_visitors);
        h = mix(h, (uint64_t)settings->near_half_life_ms);
    }
    return finish(h);
}
