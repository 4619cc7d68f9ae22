/* Point-in-time snapshots.
 *
 * The happy path: begin copies the small parts and the arrays of chunk pointers, and closes a generation;
 * from then on the writer copies a chunk before it first writes it, and keeps what it retires (core.h,
 * invariant 4). A pool thread walks the captured chunks, which nobody writes any more, so it needs neither
 * locks nor the epoch. end gives the replaced chunks and the kept objects to the epoch.
 *
 * The form (little-endian): u32 magic, u16 version, then sections in this order, each u8 tag, u32 count:
 * META, ITEMS, SOURCES, DEAD (letters that wait, in order), STALL, TOMBSTONES (in log order), USERS, NEAR
 * (near_snapshot.c); then the u64 state hash. Ids in it are only names that hold within it. */
#include "base/error.h"
#include "base/mutant.h"
#include "session/near_private.h"
#include "session/wire.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *memory)
{
    bool have_memory = memory != NULL;
    DN_ASSERT(have_memory);
    return memory;
}

static void capture_streams(const struct dn_core *core, struct dn_capture *capture)
{
    const struct dn_source_list *sources = atomic_load_explicit(&core->sources, memory_order_relaxed);
    capture->source_count = sources->count;
    capture->sources = must(calloc(sources->count + 1u, sizeof capture->sources[0]));
    for (uint32_t i = 0; i < sources->count; i++) {
        const struct dn_stream_source *from = sources->sources[i];
        capture->sources[i].source = from;
        capture->sources[i].progress = dn_source_progress(from);
    }
    const struct dn_dead_queue *dead = &core->dead;
    capture->dead_written = atomic_load_explicit(&dead->written, memory_order_relaxed);
    capture->dead_next = atomic_load_explicit(&dead->next, memory_order_relaxed);
    memcpy(capture->dead_counts, dead->counts, sizeof capture->dead_counts);
    for (size_t i = 0; i < DN_DEAD_CHUNKS; i++) {
        capture->dead[i] = atomic_load_explicit(&dead->chunks[i], memory_order_relaxed);
    }
    capture->stall = atomic_load_explicit(&core->stall, memory_order_relaxed);
}

void *dn_shard_snapshot_begin(void *shard)
{
    struct dn_core *core = dn_shard_core(shard);
    DN_ASSERT(core->capture == NULL && !dn_core_applying(core));
    struct dn_capture *capture = must(calloc(1, sizeof *capture));
    capture->core = core;
    capture->generation = core->generation++;
    capture->meta = core->meta;
    capture->hash = dn_core_hash(core);
    capture->user_count = core->users.live;
    capture->item_count = core->items.live;
    capture->user_bound = core->user_bound;
    capture->item_bound = core->item_bound;

    uint32_t user_chunks = (core->user_bound + DN_USER_CHUNK - 1) / DN_USER_CHUNK;
    capture->users = must(malloc((user_chunks + 1) * sizeof capture->users[0]));
    for (uint32_t i = 0; i < user_chunks; i++) {
        capture->users[i] = atomic_load_explicit(&core->user_chunks[i], memory_order_relaxed);
    }
    uint32_t item_chunks = (core->item_bound + DN_ITEM_CHUNK - 1) / DN_ITEM_CHUNK;
    capture->items = must(malloc((item_chunks + 1) * sizeof capture->items[0]));
    for (uint32_t i = 0; i < item_chunks; i++) {
        capture->items[i] = atomic_load_explicit(&core->item_chunks[i], memory_order_relaxed);
    }
    capture_streams(core, capture);
    const struct dn_tombstones *tombstones = &core->tombstones;
    capture->tombstones = must(malloc((tombstones->count + 1u) * sizeof capture->tombstones[0]));
    for (uint32_t at = tombstones->head; at != DN_ID_NONE; at = tombstones->slots[at].next) {
        capture->tombstones[capture->tombstone_count++] = tombstones->slots[at];
    }
    core->capture = capture;
    core->pins++;
    return capture;
}

void dn_shard_snapshot_end(void *shard, void *capture)
{
    (void)shard; /* the capture may be of a core that a restore replaced meanwhile */
    dn_capture_close(capture);
}

/* ---- writing (pool thread) ------------------------------------------------------------------------- */

#define SPILL_BYTES 65536u /* so much is gathered before it goes to the sink */

static inline void spill_if_full(struct dn_sink *sink, struct dn_buffer *out)
{
    if (out->length >= SPILL_BYTES || out->failed) {
        (void)dn_sink_spill(sink, out);
    }
}

static void section(struct dn_buffer *out, uint8_t tag, uint32_t count)
{
    dn_buffer_u8(out, tag);
    dn_buffer_u32(out, count);
}

static uint16_t version_of(const struct dn_capture *capture)
{
    if (capture->meta.has_near) {
        return DN_SNAPSHOT_VERSION;
    }
    for (uint32_t i = 0; i < capture->source_count; i++) {
        if (capture->sources[i].progress.finished != 0) {
            return DN_SNAPSHOT_VERSION_FINISHED;
        }
    }
    return DN_SNAPSHOT_VERSION_STREAMS;
}

static void write_meta(const struct dn_meta *meta, struct dn_buffer *out)
{
    section(out, DN_SECTION_META, 1);
    dn_buffer_i64(out, meta->time_ms);
    dn_buffer_i64(out, meta->max_event_ms);
    dn_buffer_i64(out, meta->forget_floor_ms);
    dn_buffer_u64(out, meta->touch);
    dn_buffer_u64(out, meta->unref);
    dn_buffer_u64(out, meta->erase_order);
    dn_buffer_i64(out, meta->trend_landmark_ms);
    dn_buffer_u32(out, meta->trend_epoch);
    dn_buffer_u64(out, meta->events_applied);
    dn_buffer_u64(out, meta->duplicates);
    dn_buffer_u64(out, meta->late);
    dn_buffer_u64(out, meta->refused);
    dn_buffer_u64(out, meta->erased);
    dn_buffer_u64(out, meta->evicted);
    dn_buffer_u64(out, meta->expired);
    dn_encode_settings(out, &meta->settings, meta->has_near);
    if (meta->has_near) {
        dn_buffer_i64(out, meta->near_landmark_ms);
        dn_buffer_u32(out, meta->near_epoch);
    }
}

static void write_items(const struct dn_capture *capture, struct dn_sink *sink, struct dn_buffer *out)
{
    section(out, DN_SECTION_ITEMS, capture->item_count);
    uint32_t written = 0;
    for (uint32_t id = 0; id < capture->item_bound; id++) {
        const struct dn_item_slot *slot = &capture->items[id / DN_ITEM_CHUNK]->slots[id % DN_ITEM_CHUNK];
        if (slot->state != DN_ITEM_LIVE) {
            continue;
        }
        /* Or a snapshot that no node can restore takes the place of the log. */
        DN_ASSERT(capture->meta.has_near || !dn_near_has_tables(slot));
        const struct dn_item *item = atomic_load_explicit(&slot->item, memory_order_acquire);
        dn_buffer_u32(out, id);
        dn_buffer_u64(out, atomic_load_explicit(&slot->trend, memory_order_relaxed));
        dn_buffer_u32(out, atomic_load_explicit(&slot->trend_epoch, memory_order_relaxed));
        dn_buffer_u64(out, slot->unref);
        dn_buffer_u8(out, slot->top_at[DN_TOP_TREND] != 0);
        dn_buffer_u16(out, item->length);
        dn_buffer_append(out, item->bytes, item->length);
        written++;
        spill_if_full(sink, out);
    }
    DN_ASSERT(written == capture->item_count);
}

static void write_sources(const struct dn_capture *capture, struct dn_sink *sink, struct dn_buffer *out)
{
    bool finished = version_of(capture) > DN_SNAPSHOT_VERSION_STREAMS;
    section(out, DN_SECTION_SOURCES, capture->source_count);
    for (uint32_t i = 0; i < capture->source_count; i++) {
        const struct dn_stream_source *source = capture->sources[i].source;
        const struct dn_source_progress *progress = &capture->sources[i].progress;
        dn_buffer_blob(out, source->name, source->name_length);
        dn_buffer_u32(out, source->partition);
        dn_buffer_i64(out, progress->floor_ms);
        dn_buffer_i64(out, dn_mutant(DN_MUTANT_FORGET_OFFSET) ? 0 : progress->next_offset);
        dn_buffer_i64(out, progress->newest_ms);
        dn_buffer_u64(out, progress->events);
        if (finished) {
            dn_buffer_u64(out, progress->finished);
        }
        spill_if_full(sink, out);
    }
}

static void write_dead(const struct dn_capture *capture, struct dn_sink *sink, struct dn_buffer *out)
{
    section(out, DN_SECTION_DEAD, (uint32_t)(capture->dead_next - capture->dead_written));
    dn_buffer_u64(out, capture->dead_written);
    for (size_t reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        dn_buffer_u64(out, capture->dead_counts[reason]);
    }
    for (uint64_t n = capture->dead_written; n < capture->dead_next; n++) {
        const struct dn_dead_chunk *chunk = capture->dead[n / DN_DEAD_CHUNK % DN_DEAD_CHUNKS];
        const struct dn_dead *letter = &chunk->letters[n % DN_DEAD_CHUNK];
        dn_buffer_u32(out, letter->source);
        dn_buffer_i64(out, letter->offset);
        dn_buffer_i64(out, letter->time_ms);
        dn_buffer_u8(out, letter->reason);
        spill_if_full(sink, out);
    }
}

static void write_stall(const struct dn_stall *stall, struct dn_buffer *out)
{
    section(out, DN_SECTION_STALL, stall != NULL);
    if (stall != NULL) {
        dn_buffer_i64(out, stall->since_ms);
        dn_buffer_blob(out, stall->reason, stall->length);
    }
}

static void write_tombstones(const struct dn_capture *capture, struct dn_sink *sink, struct dn_buffer *out)
{
    section(out, DN_SECTION_TOMBSTONES, capture->tombstone_count);
    for (uint32_t i = 0; i < capture->tombstone_count; i++) {
        const struct dn_tombstone *tombstone = &capture->tombstones[i];
        dn_buffer_u64(out, tombstone->user.high);
        dn_buffer_u64(out, tombstone->user.low);
        dn_buffer_i64(out, tombstone->until_ms);
        dn_buffer_u64(out, tombstone->request_id);
        dn_buffer_u64(out, tombstone->order);
        dn_buffer_u8(out, tombstone->existed);
        spill_if_full(sink, out);
    }
}

/* The users are nearly all of it: written through one reservation each. */
static inline uint8_t *put(uint8_t *to, uint64_t value, size_t bytes)
{
    value = htole64(value);
    memcpy(to, &value, bytes);
    return to + bytes;
}

static void write_block(const struct dn_block *block, struct dn_buffer *out)
{
    size_t most = dn_block_bytes(block->event_count, block->id_count);
    uint8_t *start = dn_buffer_reserve(out, most);
    if (start == NULL) {
        return;
    }
    uint8_t *to = put(start, block->user.high, 8);
    to = put(to, block->user.low, 8);
    to = put(to, block->version, 8);
    to = put(to, (uint64_t)block->arrival_ms, 8);
    to = put(to, block->touch, 8);
    to = put(to, (uint64_t)block->start_ms, 8);
    to = put(to, (uint64_t)block->floor_ms, 8);
    to = put(to, block->session_events, 4);
    for (size_t i = 0; i < DN_EVENT_TYPE_MAX; i++) {
        to = put(to, block->counts[i], 2);
    }
    to = put(to, block->event_count, 2);
    to = put(to, block->id_count, 2);
    for (size_t i = 0; i < block->event_count; i++) {
        const struct dn_event *event = &block->events[i];
        to = put(to, (uint64_t)event->time_ms, 8);
        to = put(to, event->id, 8);
        to = put(to, event->item, 4);
        to = put(to, event->weight, 2);
        to = put(to, event->type, 1);
    }
    const struct dn_window_id *ids = dn_block_ids(block);
    for (size_t i = 0; i < block->id_count; i++) {
        to = put(to, ids[i].id, 8);
        to = put(to, (uint64_t)ids[i].time_ms, 8);
    }
    out->length += (size_t)(to - start);
    DN_ASSERT((size_t)(to - start) <= most);
}

static void write_users(const struct dn_capture *capture, struct dn_sink *sink, struct dn_buffer *out)
{
    section(out, DN_SECTION_USERS, capture->user_count);
    uint32_t written = 0;
    for (uint32_t id = 0; id < capture->user_bound && sink->code == DN_OK; id++) {
        const struct dn_block *block = atomic_load_explicit(
            &capture->users[id / DN_USER_CHUNK]->slots[id % DN_USER_CHUNK], memory_order_acquire);
        if (block != NULL) {
            write_block(block, out);
            written++;
            spill_if_full(sink, out);
        }
    }
    DN_ASSERT(sink->code != DN_OK || written == capture->user_count);
}

enum dn_code dn_shard_snapshot_write(void *shard, void *capture, struct dn_sink *out, struct dn_error *err)
{
    (void)shard;
    const struct dn_capture *captured = capture;
    struct dn_buffer scratch;
    dn_buffer_init(&scratch, SPILL_BYTES + DN_STREAM_BUFFER_BYTES);
    dn_buffer_u32(&scratch, DN_SNAPSHOT_MAGIC);
    dn_buffer_u16(&scratch, version_of(captured));
    write_meta(&captured->meta, &scratch);
    write_items(captured, out, &scratch);
    write_sources(captured, out, &scratch);
    write_dead(captured, out, &scratch);
    write_stall(captured->stall, &scratch);
    write_tombstones(captured, out, &scratch);
    write_users(captured, out, &scratch);
    if (version_of(captured) >= DN_SNAPSHOT_VERSION) {
        dn_near_write(captured, out, &scratch);
    }
    dn_buffer_u64(&scratch, captured->hash);
    enum dn_code code = dn_sink_spill(out, &scratch);
    dn_buffer_free(&scratch);
    if (code != DN_OK) {
        return dn_fail(err, code, "snapshot of a shard: after %llu bytes: %s", (unsigned long long)out->total,
                       out->error.message);
    }
    return DN_OK;
}
