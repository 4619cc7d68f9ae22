/* Records into the state.
 *
 * A record is first read to its end, so that one that is not understood is refused whole; then its events are
 * applied one by one, DN_APPLY_STEP of them in one call: what is left of it waits in core->rest. Walking a
 * few events ahead, what they will need is asked for from memory early: at a million users nearly every
 * access is a cache miss, and the misses of many events then overlap. */
#include "base/error.h"
#include "base/mutant.h"
#include "base/text.h"
#include "session/core.h"
#include "session/wire.h"

#include <string.h>

#define AHEAD_TABLE 24u /* events ahead whose table places are asked for */
#define AHEAD_SLOT 16u
#define AHEAD_BLOCK 8u
#define AHEAD_NEAR 5u
#define AHEAD_ROW 2u
#define PREFETCH_LINES 4u
#define RECLAIM_EVERY 128u /* events; they fill half a batch */
#define RECLAIM_BATCHES 2u

struct dn_parsed {
    struct dn_arrival arrival;
    uint64_t user_hash;
    uint32_t user_guess, item_guess;
    bool valid;
};

struct dn_marks { /* the dead ones of a stream record, in place */
    struct dn_reader reader;
    uint32_t count, left;
    struct dn_dead_in next; /* good while waiting */
    bool waiting;
};

/* A stream's batch on its way. */
struct batch {
    struct dn_stream_source *source;
    struct dn_source_progress progress; /* next_offset: as before the batch, until its end */
    bool counts; /* letters, newest time, events: not in a record of version 1 (core.h, invariant 6) */
};

/* A record whose events are being applied. It points into the record's bytes and into its source, which
 * nothing takes away meanwhile: no other record comes in between. */
struct dn_rest {
    bool waits; /* there is one */
    struct dn_record_head head;
    uint64_t index;     /* of its entry */
    uint32_t at;        /* the next event */
    struct batch batch; /* DN_RECORD_STREAM */
    struct dn_marks marks;
};

/* ---- prefetching ------------------------------------------------------------------------------------ */

static void prefetch_slots(const struct dn_core *core, struct dn_parsed *parsed)
{
    parsed->user_guess = dn_idtable_guess(&core->users, parsed->user_hash);
    if (parsed->user_guess != DN_ID_NONE) {
        uint32_t id = parsed->user_guess;
        const struct dn_user_chunk *chunk =
            atomic_load_explicit(&core->user_chunks[id / DN_USER_CHUNK], memory_order_relaxed);
        __builtin_prefetch(&chunk->slots[id % DN_USER_CHUNK]);
        __builtin_prefetch(&core->user_links[id / DN_USER_CHUNK][id % DN_USER_CHUNK]);
    }
    parsed->item_guess = dn_idtable_guess(&core->items, parsed->arrival.item_hash);
    if (parsed->item_guess != DN_ID_NONE) {
        __builtin_prefetch(dn_item_slot(core, parsed->item_guess));
    }
}

static void prefetch_objects(const struct dn_core *core, const struct dn_parsed *parsed)
{
    if (parsed->user_guess != DN_ID_NONE) {
        const char *block = (const char *)dn_user_block(core, parsed->user_guess);
        for (size_t i = 0; block != NULL && i < PREFETCH_LINES; i++) {
            __builtin_prefetch(block + i * 64);
        }
        const struct dn_link *link =
            &core->user_links[parsed->user_guess / DN_USER_CHUNK][parsed->user_guess % DN_USER_CHUNK];
        uint32_t near[2] = {link->previous, link->next};
        for (size_t i = 0; i < 2; i++) {
            if (near[i] < core->user_bound) {
                __builtin_prefetch(&core->user_links[near[i] / DN_USER_CHUNK][near[i] % DN_USER_CHUNK], 1);
            }
        }
    }
    if (parsed->item_guess != DN_ID_NONE) {
        __builtin_prefetch(dn_item_get(core, parsed->item_guess));
    }
}

/* Between two events of a long record. Each leaves a block behind, 200 kB at the largest settings: thousands
 * of them are not kept till the record's end where no reader can hold them. */
static void reclaim(struct dn_core *core, uint32_t done)
{
    if (done % RECLAIM_EVERY == RECLAIM_EVERY - 1) {
        dn_epoch_reclaim(dn_shard_epoch(core->shard), RECLAIM_BATCHES);
    }
}

/* The tables of what the user clicked last. */
static void prefetch_near(const struct dn_core *core, const struct dn_parsed *parsed, bool rows)
{
    if (core->meta.settings.near_cells == 0) {
        return;
    }
    if (parsed->item_guess != DN_ID_NONE && rows) {
        const struct dn_item_slot *slot = dn_item_slot(core, parsed->item_guess);
        __builtin_prefetch(atomic_load_explicit(&slot->row, memory_order_relaxed));
        __builtin_prefetch(atomic_load_explicit(&slot->visitors, memory_order_relaxed));
    }
    const struct dn_block *block =
        parsed->user_guess != DN_ID_NONE ? dn_user_block(core, parsed->user_guess) : NULL;
    if (block != NULL && rows) {
        dn_near_prefetch_rows(core, block);
    } else if (block != NULL) {
        dn_near_prefetch_slots(core, block);
    }
}

static void look_ahead(const struct dn_core *core, struct dn_parsed *parsed, size_t count, size_t at)
{
    if (at + AHEAD_TABLE < count) {
        dn_idtable_prefetch(&core->users, parsed[at + AHEAD_TABLE].user_hash);
        dn_idtable_prefetch(&core->items, parsed[at + AHEAD_TABLE].arrival.item_hash);
    }
    if (at + AHEAD_SLOT < count) {
        prefetch_slots(core, &parsed[at + AHEAD_SLOT]);
    }
    if (at + AHEAD_BLOCK < count) {
        prefetch_objects(core, &parsed[at + AHEAD_BLOCK]);
    }
    if (at + AHEAD_NEAR < count) {
        prefetch_near(core, &parsed[at + AHEAD_NEAR], false);
    }
    if (at + AHEAD_ROW < count) {
        prefetch_near(core, &parsed[at + AHEAD_ROW], true);
    }
}

/* ---- events ---------------------------------------------------------------------------------------- */

static bool event_valid(const struct dn_event_in *in, uint8_t kind)
{
    return in->time_ms >= 0 && in->time_ms < DN_TIME_MAX_MS && in->type >= 1 &&
           in->type <= DN_EVENT_TYPE_MAX && (kind == DN_RECORD_STREAM || in->event_id != 0) &&
           dn_id_valid(in->item, in->item_length);
}

/* The marks of messages that gave no event: `marks` is put before the first of them. False if they break a
 * rule. */
static bool parse_marks(const struct dn_core *core, struct dn_reader *reader,
                        const struct dn_record_head *head, struct dn_marks *marks)
{
    *marks = (struct dn_marks){0};
    if (head->kind != DN_RECORD_STREAM || head->version < 2) {
        return true;
    }
    uint32_t count = dn_reader_u32(reader), at = 0;
    if (reader->failed || count > DN_EVENTS_PER_RECORD_MAX) {
        return false;
    }
    *marks = (struct dn_marks){.reader = *reader, .left = count, .count = count};
    int64_t offset = (head->begins_at > 0 ? head->begins_at : 0) - 1;
    for (uint32_t i = 0; i < count; i++) {
        struct dn_dead_in mark;
        if (!dn_decode_dead(reader, &mark) || mark.offset <= offset || mark.offset >= head->next_offset ||
            mark.reason < DN_DEAD_UNDECODABLE || mark.reason > DN_DEAD_MISROUTED) {
            return false;
        }
        offset = mark.offset;
        while (at < head->count && core->parsed[at].arrival.in.offset < offset) {
            at++;
        }
        if (at < head->count && core->parsed[at].arrival.in.offset == offset) {
            return false;
        }
    }
    return true;
}

/* All events of the record into core->parsed; false if they are not understood. */
static bool parse_events(struct dn_core *core, struct dn_reader *reader, const struct dn_record_head *head,
                         uint64_t index)
{
    if (head->count > core->parsed_capacity) {
        if (core->parsed != NULL) {
            dn_slab_free(core->slab, core->parsed, core->parsed_capacity * sizeof *core->parsed);
        }
        core->parsed = dn_slab_alloc(core->slab, head->count * sizeof *core->parsed);
        core->parsed_capacity = head->count;
    }
    int64_t offset = (head->begins_at > 0 ? head->begins_at : 0) - 1;
    for (uint32_t i = 0; i < head->count; i++) {
        struct dn_parsed *parsed = &core->parsed[i];
        struct dn_event_in *in = &parsed->arrival.in;
        if (!dn_decode_event(reader, head->kind, in)) {
            return false;
        }
        if (head->kind == DN_RECORD_STREAM && (in->offset <= offset || in->offset >= head->next_offset)) {
            return false;
        }
        offset = in->offset;
        parsed->valid = event_valid(in, head->kind);
        parsed->arrival.index = index;
        parsed->arrival.item_hash = dn_hash64(in->item, in->item_length, 0);
        parsed->user_hash = dn_user_hash(in->user);
        parsed->user_guess = parsed->item_guess = DN_ID_NONE;
    }
    return true;
}

static void count_outcome(struct dn_meta *meta, enum dn_outcome outcome)
{
    switch (outcome) {
    case DN_OUTCOME_ACCEPTED: /* counted where it is applied */
        break;
    case DN_OUTCOME_DUPLICATE:
        meta->duplicates++;
        break;
    case DN_OUTCOME_LATE:
        meta->late++;
        break;
    default:
        meta->refused++;
        break;
    }
}

static void answer_events(struct dn_buffer *result, enum dn_result_status status, int64_t next_offset,
                          uint32_t count)
{
    dn_buffer_u8(result, (uint8_t)status);
    dn_buffer_i64(result, next_offset);
    dn_buffer_u32(result, count);
}

static enum dn_outcome api_event(struct dn_core *core, const struct dn_parsed *parsed)
{
    return parsed->valid ? dn_event_apply(core, &parsed->arrival, true) : DN_OUTCOME_INVALID;
}

/* ---- a stream's batch ------------------------------------------------------------------------------- */

/* Marks below `offset` become letters. */
static void bury_marks(struct dn_core *core, struct dn_rest *rest, int64_t offset)
{
    struct dn_marks *marks = &rest->marks;
    for (;;) {
        if (!marks->waiting) {
            if (marks->left == 0) {
                return;
            }
            (void)dn_decode_dead(&marks->reader, &marks->next); /* parse_marks has read them all */
            marks->left--;
            marks->waiting = true;
        }
        if (marks->next.offset >= offset) {
            return;
        }
        if (marks->next.offset >= rest->batch.progress.next_offset) {
            dn_dead_push(core, rest->batch.source, marks->next.offset, marks->next.reason);
        }
        marks->waiting = false;
    }
}

/* 0: no letter. An erased user's event is none: they asked for it to be gone. */
static uint8_t letter_of(enum dn_outcome outcome)
{
    switch (outcome) {
    case DN_OUTCOME_LATE:
        return DN_DEAD_LATE;
    case DN_OUTCOME_AHEAD:
        return DN_DEAD_AHEAD;
    case DN_OUTCOME_NO_ROOM:
        return DN_DEAD_NO_ROOM;
    case DN_OUTCOME_INVALID:
        return DN_DEAD_INVALID;
    default:
        return 0;
    }
}

static enum dn_outcome stream_outcome(struct dn_core *core, struct batch *batch,
                                      const struct dn_parsed *parsed)
{
    const struct dn_event_in *in = &parsed->arrival.in;
    const struct dn_meta *meta = &core->meta;
    struct dn_source_progress *progress = &batch->progress;
    if (in->offset < progress->next_offset) {
        return DN_OUTCOME_DUPLICATE;
    }
    if (!parsed->valid) {
        return DN_OUTCOME_INVALID;
    }
    if (in->time_ms < progress->floor_ms) {
        return DN_OUTCOME_LATE;
    }
    enum dn_outcome outcome = dn_event_apply(core, &parsed->arrival, false);
    if (outcome == DN_OUTCOME_ACCEPTED) {
        int64_t reached_ms = in->time_ms < meta->time_ms ? in->time_ms : meta->time_ms;
        int64_t floor_ms = reached_ms - meta->settings.lateness_ms;
        progress->floor_ms = floor_ms > progress->floor_ms ? floor_ms : progress->floor_ms;
        if (batch->counts) {
            progress->newest_ms = in->time_ms > progress->newest_ms ? in->time_ms : progress->newest_ms;
            progress->events++;
        }
    }
    return outcome;
}

static enum dn_outcome stream_event(struct dn_core *core, struct dn_rest *rest,
                                    const struct dn_parsed *parsed)
{
    struct batch *batch = &rest->batch;
    bury_marks(core, rest, parsed->arrival.in.offset);
    enum dn_outcome outcome = stream_outcome(core, batch, parsed);
    uint8_t reason = batch->counts ? letter_of(outcome) : 0;
    if (reason != 0) {
        dn_dead_push(core, batch->source, parsed->arrival.in.offset, reason);
    }
    return outcome;
}

static void stream_end(struct dn_core *core, struct dn_rest *rest)
{
    struct batch *batch = &rest->batch;
    bury_marks(core, rest, INT64_MAX);
    if (rest->head.next_offset > batch->progress.next_offset) {
        batch->progress.next_offset = rest->head.next_offset;
    }
    batch->progress.finished = 0; /* it is there: its place must stay its own */
    dn_source_move(core, batch->source, &batch->progress);
}

/* Its source and its answer's head. False: it is refused, and answered. */
static bool stream_begin(struct dn_core *core, struct dn_rest *rest, struct dn_buffer *result)
{
    const struct dn_record_head *head = &rest->head;
    struct batch batch = {.counts = head->version >= 2};
    batch.source = dn_source_find(core, head->source, head->source_length, head->partition);
    int64_t next_offset = DN_OFFSET_UNSET;
    if (batch.source != NULL) {
        next_offset = atomic_load_explicit(&batch.source->next_offset, memory_order_relaxed);
    }
    if ((head->begins_at > next_offset && !dn_mutant(DN_MUTANT_ACCEPT_GAP)) ||
        (head->begins_at == DN_OFFSET_UNSET && next_offset != DN_OFFSET_UNSET)) {
        answer_events(result, DN_RESULT_GAP, next_offset, 0);
        return false;
    }
    bool room = !batch.counts || dn_dead_room(core, (size_t)head->count + rest->marks.count);
    if (room && batch.source == NULL) {
        batch.source = dn_source_add(core, head->source, head->source_length, head->partition);
    }
    if (!room || batch.source == NULL) {
        answer_events(result, DN_RESULT_FULL, next_offset, 0);
        return false;
    }
    batch.progress = dn_source_progress(batch.source);
    answer_events(result, DN_RESULT_OK, head->next_offset > next_offset ? head->next_offset : next_offset,
                  head->count);
    rest->batch = batch;
    return true;
}

/* The next DN_APPLY_STEP events, and what is left of them when they were the last. */
static void rest_step(struct dn_core *core, struct dn_rest *rest, struct dn_buffer *result)
{
    const struct dn_record_head *head = &rest->head;
    bool stream = head->kind == DN_RECORD_STREAM;
    uint32_t left = head->count - rest->at;
    uint32_t until = rest->at + (left < DN_APPLY_STEP ? left : DN_APPLY_STEP);
    for (; rest->at < until; rest->at++) {
        const struct dn_parsed *parsed = &core->parsed[rest->at];
        look_ahead(core, core->parsed, head->count, rest->at);
        enum dn_outcome outcome = stream ? stream_event(core, rest, parsed) : api_event(core, parsed);
        count_outcome(&core->meta, outcome);
        dn_buffer_u8(result, (uint8_t)outcome);
        reclaim(core, rest->at);
    }
    rest->waits = rest->at < head->count;
    if (stream && !rest->waits) {
        stream_end(core, rest);
    }
}

/* ---- the other kinds ------------------------------------------------------------------------------- */

static void apply_erase(struct dn_core *core, struct dn_reader *reader, struct dn_buffer *result)
{
    struct dn_hash128 user = {.high = dn_reader_u64(reader)};
    user.low = dn_reader_u64(reader);
    int64_t until_ms = dn_reader_i64(reader);
    uint64_t request_id = dn_reader_u64(reader);
    if (reader->failed || dn_reader_left(reader) > 0 || until_ms < 0 ||
        until_ms > core->meta.time_ms + core->meta.settings.ahead_ms) {
        dn_buffer_u8(result, DN_RESULT_INVALID);
        return;
    }
    bool existed = false;
    bool done = dn_erase_apply(core, user, until_ms, request_id, &existed);
    dn_buffer_u8(result, done ? DN_RESULT_OK : DN_RESULT_FULL);
    dn_buffer_u8(result, existed);
}

static void apply_settings(struct dn_core *core, const struct dn_record_head *head, struct dn_reader *reader,
                           struct dn_buffer *result)
{
    struct dn_shard_settings settings = core->meta.settings;
    bool near = head->version >= DN_RECORD_VERSION_NEAR;
    if (!dn_decode_settings(reader, near, &settings) || dn_reader_left(reader) > 0 ||
        dn_shard_settings_check(&settings, NULL) != DN_OK) {
        dn_buffer_u8(result, DN_RESULT_INVALID);
        return;
    }
    if (settings.trend_half_life_ms != core->meta.settings.trend_half_life_ms) {
        dn_trend_half_life(core, settings.trend_half_life_ms);
    }
    if (near) {
        dn_near_settings(core, &settings);
    }
    core->meta.settings = settings;
    dn_buffer_u8(result, DN_RESULT_OK);
}

static void apply_dead_written(struct dn_core *core, struct dn_reader *reader, struct dn_buffer *result)
{
    uint64_t before = dn_reader_u64(reader);
    bool whole = !reader->failed && dn_reader_left(reader) == 0;
    dn_buffer_u8(result, whole && dn_dead_written(core, before) ? DN_RESULT_OK : DN_RESULT_INVALID);
}

static void answer_source(struct dn_buffer *result, enum dn_result_status status, int64_t next_offset)
{
    dn_buffer_u8(result, (uint8_t)status);
    dn_buffer_i64(result, next_offset);
}

/* Only where it still stands where who says so has seen it: whatever came meanwhile would be forgotten. */
static void apply_finished(struct dn_core *core, const struct dn_record_head *head, struct dn_buffer *result)
{
    struct dn_stream_source *source =
        dn_source_find(core, head->source, head->source_length, head->partition);
    int64_t next_offset = source != NULL ? dn_source_progress(source).next_offset : DN_OFFSET_UNSET;
    if (source != NULL && next_offset != head->next_offset) {
        answer_source(result, DN_RESULT_GAP, next_offset);
        return;
    }
    answer_source(result, DN_RESULT_OK, next_offset);
    if (source != NULL) {
        dn_source_finish(core, source);
    }
}

/* A partition that is forgotten keeps its place: letters name it, and its next batch finds it. */
static void apply_source(struct dn_core *core, const struct dn_record_head *head, struct dn_reader *reader,
                         struct dn_buffer *result)
{
    uint8_t how = dn_reader_u8(reader);
    if (reader->failed || dn_reader_left(reader) > 0 || how > DN_SOURCE_FINISHED ||
        (how == DN_SOURCE_FINISHED) != (head->version >= DN_RECORD_VERSION_FINISHED)) {
        dn_buffer_u8(result, DN_RESULT_INVALID);
        return;
    }
    if (how == DN_SOURCE_FINISHED) {
        apply_finished(core, head, result);
        return;
    }
    struct dn_source_progress progress = {.next_offset = DN_OFFSET_UNSET};
    struct dn_stream_source *source =
        dn_source_find(core, head->source, head->source_length, head->partition);
    bool full = false;
    if (source != NULL && how == DN_SOURCE_FORWARD) {
        progress = dn_source_progress(source);
        if (progress.next_offset > head->next_offset) {
            answer_source(result, DN_RESULT_GAP, progress.next_offset);
            return;
        }
    }
    if (source == NULL && head->next_offset != DN_OFFSET_UNSET) {
        source = dn_source_add(core, head->source, head->source_length, head->partition);
        full = source == NULL;
    }
    if (source != NULL) {
        progress = dn_source_progress(source);
    }
    answer_source(result, full ? DN_RESULT_FULL : DN_RESULT_OK, progress.next_offset);
    if (source == NULL) {
        return;
    }
    progress.next_offset = head->next_offset;
    progress.finished = 0;
    if (how == DN_SOURCE_FORGET_WATERMARK) {
        progress.floor_ms = 0;
        progress.newest_ms = DN_TIME_NONE;
    }
    dn_source_move(core, source, &progress);
}

static void apply_stall(struct dn_core *core, struct dn_reader *reader, struct dn_buffer *result)
{
    size_t length = 0;
    int64_t since_ms = dn_reader_i64(reader);
    const char *reason = (const char *)dn_reader_blob(reader, DN_STALL_REASON_MAX, &length);
    if (reader->failed || dn_reader_left(reader) > 0 || since_ms < 0 || since_ms >= DN_TIME_MAX_MS) {
        dn_buffer_u8(result, DN_RESULT_INVALID);
        return;
    }
    dn_stall_set(core, since_ms, reason, length);
    dn_buffer_u8(result, DN_RESULT_OK);
}

static void apply_of_events(struct dn_core *core, const struct dn_record_head *head, struct dn_reader *reader,
                            uint64_t index, struct dn_buffer *result)
{
    if (core->rest == NULL) {
        core->rest = dn_slab_alloc(core->slab, sizeof *core->rest);
    }
    struct dn_rest *rest = core->rest;
    *rest = (struct dn_rest){.head = *head, .index = index};
    if (!parse_events(core, reader, head, index) || !parse_marks(core, reader, head, &rest->marks) ||
        dn_reader_left(reader) > 0) {
        dn_buffer_u8(result, DN_RESULT_INVALID);
    } else if (head->kind == DN_RECORD_STREAM) {
        rest->waits = stream_begin(core, rest, result);
    } else {
        answer_events(result, DN_RESULT_OK, 0, head->count);
        rest->waits = true;
    }
}

static void time_move(struct dn_core *core, int64_t time_ms)
{
    if (time_ms > core->meta.time_ms && time_ms < DN_TIME_MAX_MS) {
        core->meta.time_ms = time_ms;
        dn_trend_advance(core);
        dn_popular_advance(core);
        dn_near_advance(core);
    }
}

static void record_begin(struct dn_core *core, uint64_t index, int64_t time_ms, const uint8_t *record,
                         size_t length, struct dn_buffer *result)
{
    struct dn_reader reader;
    struct dn_record_head head;
    time_move(core, time_ms);
    dn_reader_init(&reader, record, length);
    if (!dn_decode_head(&reader, &head)) {
        dn_buffer_u8(result, DN_RESULT_INVALID);
        return;
    }
    switch (head.kind) {
    case DN_RECORD_ERASE:
        apply_erase(core, &reader, result);
        break;
    case DN_RECORD_SETTINGS:
        apply_settings(core, &head, &reader, result);
        break;
    case DN_RECORD_DEAD_WRITTEN:
        apply_dead_written(core, &reader, result);
        break;
    case DN_RECORD_SOURCE:
        apply_source(core, &head, &reader, result);
        break;
    case DN_RECORD_STALL:
        apply_stall(core, &reader, result);
        break;
    default: /* dn_decode_head knows no other */
        apply_of_events(core, &head, &reader, index, result);
        break;
    }
}

bool dn_core_applying(const struct dn_core *core)
{
    return core->rest != NULL && core->rest->waits;
}

bool dn_core_apply_part(struct dn_core *core, uint64_t index, int64_t time_ms, const uint8_t *record,
                        size_t length, struct dn_buffer *result)
{
    if (!dn_core_applying(core)) {
        record_begin(core, index, time_ms, record, length, result);
    }
    if (dn_core_applying(core)) {
        DN_ASSERT(core->rest->index == index);
        rest_step(core, core->rest, result);
    }
    return !dn_core_applying(core);
}

/* ---- after an entry -------------------------------------------------------------------------------- */

static void expire(struct dn_core *core)
{
    struct dn_meta *meta = &core->meta;
    for (uint32_t i = 0; i < DN_FORGET_STEP; i++) {
        if (!dn_user_forget(core, meta->time_ms - meta->settings.idle_ms)) {
            break;
        }
        meta->expired++;
    }
    for (uint32_t i = 0; i < DN_FORGET_STEP && core->users.live > meta->settings.users_max; i++) {
        if (!dn_user_forget(core, INT64_MAX)) {
            break;
        }
        meta->evicted++;
    }
    for (uint32_t i = 0; i < DN_FORGET_STEP && core->items.live > meta->settings.items_max; i++) {
        if (!dn_item_evict(core)) {
            break;
        }
    }
    int64_t keep_ms = meta->settings.idle_ms > meta->settings.lateness_ms ? meta->settings.idle_ms
                                                                          : meta->settings.lateness_ms;
    for (uint32_t i = 0; i < DN_FORGET_STEP; i++) {
        if (!dn_tombstone_drop(core, meta->time_ms - keep_ms)) {
            break;
        }
    }
}

void dn_core_entry_done(struct dn_core *core, int64_t time_ms)
{
    DN_ASSERT(!dn_core_applying(core));
    time_move(core, time_ms);
    expire(core);
    dn_trend_publish(core, false);
    dn_capture_step(core, DN_CLOSE_STEP);
    dn_core_flush(core);
}
