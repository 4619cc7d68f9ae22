/* Journal: appending, writing, faults, life.
 *
 * Happy path: dn_journal_append and its like put records into `pending` -> dn_journal_turn (before the loop
 * sleeps) copies as many as fit behind the tail of the current segment, seals them and starts one write ->
 * written -> the group states move on, waits come true, the next turn.
 *
 * When the current segment is full (or there is none, or a write to it failed) the write opens the next
 * segment: header block and STATE records first, in the same write. When the next segment is not made yet,
 * what is pending waits for it.
 *
 * Failures: a write that fails leaves everything in `pending`; the journal is in fault, the segment is given
 * up at what was durable in it, and the retry timer takes the next one. */
#include "journal/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COMPONENT "journal"
#define PENDING_BYTES_MAX ((size_t)1 << 30) /* more means that callers do not stop while there is a fault */

static void written(struct dn_disk_op *op, int result);
static void on_retry(uv_timer_t *timer);

/* ---- appending ---------------------------------------------------------------------------------------- */

/* Room for a record's head and payload; NULL: out of memory. */
static uint8_t *record_begin(struct dn_journal *journal, enum kind kind, uint32_t group, size_t length)
{
    DN_ASSERT(group < DN_JOURNAL_GROUPS_MAX && length <= PAYLOAD_MAX && !journal->closing &&
              !journal->o.read_only);
    size_t size = record_size(length);
    uint8_t *bytes = dn_buffer_reserve(&journal->pending, size);
    if (!bytes) {
        journal->pending.failed = false;
        return NULL;
    }
    memset(bytes, 0, RECORD_BYTES);
    memset(bytes + size - 8, 0, 8); /* padding */
    struct record record = {.kind = kind, .group = group, .length = (uint32_t)length};
    bytes[9] = (uint8_t)record.kind;
    put_u32(bytes + 12, group);
    put_u32(bytes + 16, record.length);
    return bytes + RECORD_BYTES;
}

static void record_end(struct dn_journal *journal, size_t length)
{
    journal->pending.length += record_size(length);
    journal->appended += record_size(length);
}

bool dn_journal_set_term(struct dn_journal *journal, uint32_t group, uint64_t term, uint64_t voted_for)
{
    uint8_t *payload = record_begin(journal, KIND_TERM, group, 16);
    if (!payload)
        return false;
    put_u64(payload, term);
    put_u64(payload + 8, voted_for);
    record_end(journal, 16);
    return true;
}

static size_t entry_size(const struct dn_journal_entry *entry)
{
    return ENTRY_BYTES + ((entry->length + 7) & ~(size_t)7);
}

/* One ENTRIES record of the first entries; returns how many went in, 0: out of memory. */
static size_t append_some(struct dn_journal *journal, uint32_t group, uint64_t first_index,
                          const struct dn_journal_entry *entries, size_t count)
{
    size_t length = ENTRIES_BYTES, n = 0;
    size_t target =
        journal->o.segment_bytes / 4 < RECORD_TARGET ? journal->o.segment_bytes / 4 : RECORD_TARGET;
    while (n < count && (n == 0 || length + entry_size(&entries[n]) <= target))
        length += entry_size(&entries[n++]);
    uint8_t *payload = record_begin(journal, KIND_ENTRIES, group, length);
    if (!payload)
        return 0;
    put_u64(payload, first_index);
    put_u32(payload + 8, (uint32_t)n);
    put_u32(payload + 12, 0);
    uint8_t *at = payload + ENTRIES_BYTES;
    for (size_t i = 0; i < n; i++) {
        size_t padded = entry_size(&entries[i]) - ENTRY_BYTES;
        put_u64(at, entries[i].term);
        put_u32(at + 8, (uint32_t)entries[i].length);
        put_u32(at + 12, entries[i].type);
        at += ENTRY_BYTES;
        if (entries[i].length > 0)
            memcpy(at, entries[i].bytes, entries[i].length);
        memset(at + entries[i].length, 0, padded - entries[i].length);
        at += padded;
    }
    record_end(journal, length);
    return n;
}

bool dn_journal_append(struct dn_journal *journal, uint32_t group, uint64_t first_index,
                       const struct dn_journal_entry *entries, size_t count)
{
    size_t length = journal->pending.length, done = 0;
    uint64_t appended = journal->appended;
    for (size_t i = 0; i < count; i++)
        DN_ASSERT(entries[i].length <= DN_JOURNAL_ENTRY_MAX);
    while (done < count) {
        size_t n = append_some(journal, group, first_index + done, entries + done, count - done);
        if (n == 0) { /* all or nothing */
            journal->pending.length = length;
            journal->appended = appended;
            return false;
        }
        done += n;
    }
    return true;
}

bool dn_journal_truncate(struct dn_journal *journal, uint32_t group, uint64_t index)
{
    uint8_t *payload = record_begin(journal, KIND_TRUNCATE, group, 8);
    if (!payload)
        return false;
    put_u64(payload, index);
    record_end(journal, 8);
    return true;
}

bool dn_journal_snapshot(struct dn_journal *journal, uint32_t group, uint64_t index, uint64_t term,
                         uint64_t keep_from, const void *marker, size_t marker_length)
{
    DN_ASSERT(group < DN_JOURNAL_GROUPS_MAX && marker_length <= DN_JOURNAL_MARKER_MAX &&
              keep_from <= index + 1);
    if (!state_reserve_marker(journal, group, marker_length))
        return false;
    uint8_t *payload = record_begin(journal, KIND_SNAPSHOT, group, SNAPSHOT_BYTES + marker_length);
    if (!payload)
        return false;
    put_u64(payload, index);
    put_u64(payload + 8, term);
    put_u64(payload + 16, keep_from);
    if (marker_length > 0)
        memcpy(payload + SNAPSHOT_BYTES, marker, marker_length);
    record_end(journal, SNAPSHOT_BYTES + marker_length);
    return true;
}

bool dn_journal_remove_group(struct dn_journal *journal, uint32_t group)
{
    if (!record_begin(journal, KIND_REMOVE, group, 0))
        return false;
    record_end(journal, 0);
    return true;
}

/* ---- waiting ------------------------------------------------------------------------------------------ */

static struct dn_journal_wait **wait_next(struct dn_journal_wait *wait)
{
    return (struct dn_journal_wait **)(void *)&wait->opaque[0];
}

void dn_journal_when_durable(struct dn_journal *journal, struct dn_journal_wait *wait)
{
    *wait_next(wait) = NULL;
    wait->opaque[1] = journal->appended;
    *journal->waits_last = wait;
    journal->waits_last = wait_next(wait);
}

static void waits_fire(struct dn_journal *journal)
{
    while (journal->waits && journal->waits->opaque[1] <= journal->durable) {
        struct dn_journal_wait *wait = journal->waits;
        journal->waits = *wait_next(wait);
        if (!journal->waits)
            journal->waits_last = &journal->waits;
        wait->done(wait);
    }
}

uint64_t dn_journal_appended(const struct dn_journal *journal)
{
    return journal->appended;
}

uint64_t dn_journal_durable(const struct dn_journal *journal)
{
    return journal->durable;
}

const struct dn_error *dn_journal_fault(const struct dn_journal *journal)
{
    return journal->fault ? &journal->fault_error : NULL;
}

/* ---- faults ------------------------------------------------------------------------------------------- */

void journal_fault(struct dn_journal *journal, const char *what, const char *file, int error)
{
    bool first = !journal->fault;
    dn_fail(&journal->fault_error,
            error == ENOSPC   ? DN_NO_SPACE
            : error == ENOMEM ? DN_NO_MEMORY
                              : DN_IO,
            "%s in '%s' (%s): %s. %s", what, journal->name, file, strerror(error),
            error == ENOSPC   ? "Make room on that disk; it is tried again every second"
            : error == ENOMEM ? "It is tried again every second"
                              : "It is tried again every second; look at the disk and the kernel's log");
    journal->fault = true;
    journal->retry_at_us = dn_monotonic_us() + RETRY_MS * 1000;
    if (journal->handles_open && !journal->closing)
        uv_timer_start(&journal->retry, on_retry, RETRY_MS, 0);
    if (first && journal->m_faults)
        dn_counter_add(journal->m_faults, 1);
    if (first && journal->o.on_fault)
        journal->o.on_fault(journal->o.data, true, &journal->fault_error);
}

void journal_well(struct dn_journal *journal)
{
    if (!journal->fault)
        return;
    journal->fault = false;
    if (journal->o.on_fault)
        journal->o.on_fault(journal->o.data, false, &journal->fault_error);
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static struct segment *current(const struct dn_journal *journal)
{
    return journal->segments[journal->segment_count - 1];
}

static bool out_reserve(struct dn_journal *journal, size_t bytes)
{
    size_t room = bytes < BATCH_BYTES_MAX / 4 ? BATCH_BYTES_MAX / 4 : bytes;
    void *out = NULL;
    if (bytes <= journal->out_room)
        return true;
    if (posix_memalign(&out, DN_DISK_ALIGN, room) != 0)
        return false;
    free(journal->out);
    journal->out = out;
    journal->out_room = room;
    return true;
}

static size_t pending_record_size(const uint8_t *bytes)
{
    return record_size(get_u32(bytes + 16));
}

/* How many bytes of pending, in whole records, fit into `room`. */
static size_t pending_fit(const struct dn_journal *journal, uint64_t room)
{
    size_t fit = 0;
    while (fit < journal->pending.length) {
        size_t size = pending_record_size(journal->pending.bytes + fit);
        if (size > room - fit || (fit > 0 && fit + size > BATCH_BYTES_MAX))
            break;
        fit += size;
    }
    return fit;
}

static void seal_all(uint8_t *bytes, size_t length, const struct segment *segment, uint64_t offset,
                     uint64_t durable_lsn)
{
    for (size_t at = 0; at < length;) {
        struct record record = {.kind = (enum kind)bytes[at + 9],
                                .group = get_u32(bytes + at + 12),
                                .length = get_u32(bytes + at + 16),
                                .sequence = (uint32_t)segment->sequence,
                                .lsn = segment->base_lsn + (offset + at - DN_DISK_ALIGN),
                                .durable_lsn = durable_lsn};
        record_seal(&record, bytes + at);
        at += record_size(record.length);
    }
}

static size_t put_states(const struct dn_journal *journal, uint8_t *bytes)
{
    size_t at = 0;
    for (uint32_t i = 0; i < DN_JOURNAL_GROUPS_MAX; i++) {
        const struct group_state *state = &journal->groups[i];
        if (!state->known)
            continue;
        size_t size = record_size(STATE_BYTES + state->marker_length);
        memset(bytes + at, 0, RECORD_BYTES);
        memset(bytes + at + size - 8, 0, 8);
        size_t length = state_encode(state, bytes + at + RECORD_BYTES);
        bytes[at + 9] = KIND_STATE;
        put_u32(bytes + at + 12, i);
        put_u32(bytes + at + 16, (uint32_t)length);
        at += size;
    }
    return at;
}

/* Starts the write of out[0..length) at `offset`, zeros up to the end of its last block included. */
static void write_start(struct dn_journal *journal, struct segment *segment, uint64_t offset, size_t length)
{
    size_t padded = (length + DN_DISK_ALIGN - 1) / DN_DISK_ALIGN * DN_DISK_ALIGN;
    memset(journal->out + length, 0, padded - length);
    journal->write_from = offset;
    journal->write_end = offset + length;
    journal->writing = true;
    journal->write_started_us = dn_monotonic_us();
    journal->write_op.done = written;
    journal->write_op.data = journal;
    if (journal->m_writes) {
        dn_counter_add(journal->m_writes, 1);
        dn_counter_add(journal->m_bytes, padded);
    }
    journal->disk->ops->write(segment->file, offset, journal->out, padded, &journal->write_op);
    journal->disk->ops->submit(journal->disk);
}

/* True: a write was started. False: nothing fits, or no memory (a fault then). */
static bool write_current(struct dn_journal *journal)
{
    struct segment *segment = current(journal);
    size_t tail = segment->end % DN_DISK_ALIGN;
    size_t fit = pending_fit(journal, segment->bytes - segment->end);
    if (fit == 0)
        return false;
    if (!out_reserve(journal, tail + fit + DN_DISK_ALIGN)) {
        journal_fault(journal, "write", "memory", ENOMEM);
        return true;
    }
    memcpy(journal->out, journal->tail, tail);
    memcpy(journal->out + tail, journal->pending.bytes, fit);
    seal_all(journal->out + tail, fit, segment, segment->end, journal->durable_lsn);
    journal->inflight = fit;
    journal->switching = false;
    write_start(journal, segment, segment->end - tail, tail + fit);
    return true;
}

static void write_switch(struct dn_journal *journal)
{
    size_t states = state_size(journal);
    size_t first = pending_record_size(journal->pending.bytes);
    uint64_t needed = DN_DISK_ALIGN + states + first;
    journal->next_wanted = true;
    if (journal->next_state == NEXT_NONE)
        segment_make_next(journal, needed);
    if (journal->next_state != NEXT_READY)
        return;
    struct segment *next = journal->next;
    if (next->bytes <
        needed) { /* an entry larger than a segment: one of its own size, under the next number */
        journal->spoiled = next->sequence;
        next->base_lsn = journal->durable_lsn;
        journal->next = NULL;
        journal->next_state = NEXT_NONE;
        if (journal->recycled ||
            journal->removing) {         /* the one being removed may be on its way to be spare */
            segment_free(journal, next); /* its file stays unused; recovery passes over it */
        } else {
            next->writable = true;
            journal->recycled = next;
            segment_name(next->sequence, journal->recycled_name);
        }
        segment_make_next(journal, needed);
        if (journal->next_state != NEXT_READY)
            return;
        next = journal->next;
    }
    size_t fit = pending_fit(journal, next->bytes - DN_DISK_ALIGN - states);
    if (!out_reserve(journal, 2 * DN_DISK_ALIGN + states + fit)) {
        journal_fault(journal, "write", "memory", ENOMEM);
        return;
    }
    struct header header = {next->sequence, journal->durable_lsn};
    next->base_lsn = journal->durable_lsn;
    next->end = DN_DISK_ALIGN;
    next->writable = true;
    memset(journal->out, 0, DN_DISK_ALIGN);
    header_encode_length(&header, next->bytes, journal->out);
    size_t put = put_states(journal, journal->out + DN_DISK_ALIGN);
    DN_ASSERT(put == states);
    memcpy(journal->out + DN_DISK_ALIGN + states, journal->pending.bytes, fit);
    seal_all(journal->out + DN_DISK_ALIGN, states + fit, next, DN_DISK_ALIGN, journal->durable_lsn);
    journal->inflight = fit;
    journal->next_wanted = false;
    journal->switching = true;
    write_start(journal, next, 0, DN_DISK_ALIGN + states + fit);
}

void dn_journal_turn(struct dn_journal *journal)
{
    if (journal->o.read_only || journal->closed)
        return;
    waits_fire(journal);
    if (journal->writing || (journal->pending.length == 0 && !journal->fault))
        return;
    if (journal->fault && journal->handles_open && dn_monotonic_us() < journal->retry_at_us)
        return;
    if (journal->pending.length == 0) { /* the fault was for want of a segment, and ends with one */
        segment_make_next(journal, 0);
        return;
    }
    if (journal->open && !journal->broken && write_current(journal))
        return;
    write_switch(journal);
}

/* ---- a write has ended -------------------------------------------------------------------------------- */

static bool push_segment(struct dn_journal *journal, struct segment *segment)
{
    if (journal->segment_count == journal->segment_room) {
        size_t room = journal->segment_room == 0 ? 16 : journal->segment_room * 2;
        struct segment **segments = realloc(journal->segments, room * sizeof *segments);
        if (!segments)
            return false;
        journal->segments = segments;
        journal->segment_room = room;
    }
    journal->segments[journal->segment_count++] = segment;
    return true;
}

static void write_failed(struct dn_journal *journal, int error)
{
    char name[DN_DISK_NAME_MAX];
    struct segment *failed = journal->switching ? journal->next : current(journal);
    segment_name(failed->sequence, name);
    journal->inflight = 0;
    if (journal->switching) { /* its file stays, unused and with a sequence that is never used again */
        journal->spoiled = failed->sequence;
        journal->next = NULL;
        journal->next_state = NEXT_NONE;
        segment_free(journal, failed);
    } else {
        journal->broken = true;
    }
    journal_fault(journal, "write", name, error);
}

/* The records just written become part of what is known. */
static void take_in(struct dn_journal *journal, struct segment *segment)
{
    struct found *found = journal->found;
    journal->found = NULL; /* only recovery looks for places */
    for (size_t at = 0; at < journal->inflight;) {
        const uint8_t *bytes = journal->pending.bytes + at;
        struct record record = {
            .kind = (enum kind)bytes[9], .group = get_u32(bytes + 12), .length = get_u32(bytes + 16)};
        struct dn_error err;
        enum dn_code code = state_apply(journal, &record, bytes + RECORD_BYTES, 0, 0, &err);
        if (code != DN_OK) /* our caller's mistake: a restart is safe, going on is not */
            dn_err(COMPONENT, "'%s': %s", journal->name, err.message);
        DN_ASSERT(code == DN_OK);
        state_note(segment, &record, bytes + RECORD_BYTES);
        journal->trimmed |= record.kind == KIND_SNAPSHOT || record.kind == KIND_REMOVE;
        at += record_size(record.length);
    }
    journal->found = found;
}

static void pending_drop(struct dn_journal *journal)
{
    struct dn_buffer *pending = &journal->pending;
    memmove(pending->bytes, pending->bytes + journal->inflight, pending->length - journal->inflight);
    pending->length -= journal->inflight;
    if (pending->length == 0 && pending->capacity > KEEP_BUFFER_BYTES) {
        dn_buffer_free(pending);
        dn_buffer_init(pending, PENDING_BYTES_MAX);
    }
    journal->inflight = 0;
}

static void written(struct dn_disk_op *op, int result)
{
    struct dn_journal *journal = op->data;
    journal->writing = false;
    if (journal->m_seconds)
        dn_histogram_observe_ns(journal->m_seconds, (dn_monotonic_us() - journal->write_started_us) * 1000);
    if (result == 0 && journal->switching && !push_segment(journal, journal->next))
        result = -ENOMEM;
    if (result != 0) {
        write_failed(journal, -result);
        if (journal->closing)
            journal_close_step(journal);
        return;
    }
    if (journal->switching) {
        journal->next = NULL;
        journal->next_state = NEXT_NONE;
        journal->open = true;
        journal->broken = false;
    }
    struct segment *segment = current(journal);
    segment->end = journal->write_end;
    journal->durable_lsn = segment->base_lsn + (segment->end - DN_DISK_ALIGN);
    size_t tail = segment->end % DN_DISK_ALIGN;
    uint64_t block = segment->end - tail;
    memcpy(journal->tail, journal->out + (block - journal->write_from), tail);
    take_in(journal, segment);
    journal->durable += journal->inflight;
    pending_drop(journal);
    journal_well(journal);
    if (journal->switching || journal->trimmed) {
        journal->trimmed = false;
        segments_release(journal);
    }
    if (journal->next_state == NEXT_NONE && !journal->closing && dn_monotonic_us() >= journal->make_after_us)
        segment_make_next(journal, 0);
    waits_fire(journal);
    if (journal->closing)
        journal_close_step(journal);
    else
        dn_journal_turn(journal);
}

/* ---- life --------------------------------------------------------------------------------------------- */

static void on_prepare(uv_prepare_t *prepare)
{
    dn_journal_turn(prepare->data);
}

static void on_retry(uv_timer_t *timer)
{
    struct dn_journal *journal = timer->data;
    journal->retry_at_us = 0;
    dn_journal_turn(journal);
}

static void make_metrics(struct dn_journal *journal)
{
    struct dn_metrics *m = journal->o.metrics;
    if (!m)
        return;
    journal->m_writes = dn_metrics_counter(m, "dunlin_journal_writes_total", "", "Writes made durable");
    journal->m_bytes =
        dn_metrics_counter(m, "dunlin_journal_bytes_total", "", "Bytes written to the journal");
    journal->m_faults =
        dn_metrics_counter(m, "dunlin_journal_faults_total", "", "Times the disk failed or was full");
    journal->m_seconds = dn_metrics_histogram(m, "dunlin_journal_write_seconds", "", "One durable write");
    journal->m_segments =
        dn_metrics_gauge(m, "dunlin_journal_segments", "", "Segments of the journal in use");
}

static enum dn_code check_options(const struct dn_journal *journal, struct dn_error *err)
{
    uint64_t bytes = journal->o.segment_bytes;
    if (bytes % DN_DISK_ALIGN != 0 || bytes < SEGMENT_BYTES_MIN)
        return dn_fail(err, DN_INVALID, "segment_bytes must be a multiple of %u and at least %u",
                       DN_DISK_ALIGN, SEGMENT_BYTES_MIN);
    return DN_OK;
}

enum dn_code dn_journal_open(const struct dn_journal_options *options, struct dn_journal **ret,
                             struct dn_error *err)
{
    struct dn_journal *journal = calloc(1, sizeof *journal);
    if (!journal)
        return dn_fail(err, DN_NO_MEMORY, "open the journal");
    journal->o = *options;
    if (journal->o.segment_bytes == 0)
        journal->o.segment_bytes = SEGMENT_BYTES_DEFAULT;
    journal->disk = options->disk;
    journal->name = strdup(options->name);
    journal->waits_last = &journal->waits;
    journal->tail = calloc(1, DN_DISK_ALIGN);
    journal->blank = calloc(1, sizeof *journal->blank);
    dn_buffer_init(&journal->pending, PENDING_BYTES_MAX);
    enum dn_code code = !journal->name || !journal->tail || !journal->blank
                            ? dn_fail(err, DN_NO_MEMORY, "open the journal")
                            : check_options(journal, err);
    if (code == DN_OK)
        code = recover(journal, err);
    if (code != DN_OK) {
        dn_journal_destroy(journal);
        return code;
    }
    if (!journal->o.read_only) {
        make_metrics(journal);
        if (options->loop) {
            uv_prepare_init(options->loop, &journal->prepare);
            uv_timer_init(options->loop, &journal->retry);
            journal->prepare.data = journal->retry.data = journal;
            uv_prepare_start(&journal->prepare, on_prepare);
            journal->handles_open = true;
        }
        segment_make_next(journal, 0);
    }
    *ret = journal;
    return DN_OK;
}

static void handle_closed(uv_handle_t *handle)
{
    struct dn_journal *journal = handle->data;
    if (--journal->handles_left == 0 && journal->closed_cb)
        journal->closed_cb(journal->closed_data);
}

/* Called whenever something that closing waits for has ended. */
void journal_close_step(struct dn_journal *journal)
{
    if (journal->closed || journal->writing || journal->next_state == NEXT_MAKING || journal->removing)
        return;
    if (journal->pending.length > 0 && !journal->fault) {
        dn_journal_turn(journal);
        if (journal->writing || journal->next_state == NEXT_MAKING || !journal->fault)
            return;
    }
    journal->closed = true;
    if (!journal->handles_open) {
        if (journal->closed_cb)
            journal->closed_cb(journal->closed_data);
        return;
    }
    journal->handles_left = 2;
    uv_close((uv_handle_t *)&journal->prepare, handle_closed);
    uv_close((uv_handle_t *)&journal->retry, handle_closed);
}

void dn_journal_close(struct dn_journal *journal, void (*closed)(void *data), void *data)
{
    journal->closing = true;
    journal->closed_cb = closed;
    journal->closed_data = data;
    journal_close_step(journal);
}

void dn_journal_destroy(struct dn_journal *journal)
{
    if (!journal)
        return;
    for (size_t i = 0; i < journal->segment_count; i++)
        segment_free(journal, journal->segments[i]);
    segment_free(journal, journal->blank);
    segment_free(journal, journal->next);
    segment_free(journal, journal->recycled);
    segment_free(journal, journal->removing); /* only where a test abandons a disk that is at work */
    state_free(journal);
    dn_buffer_free(&journal->pending);
    free(journal->segments);
    free(journal->tail);
    free(journal->out);
    free(journal->name);
    free(journal);
}
