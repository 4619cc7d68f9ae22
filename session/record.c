/* Records and results as bytes: the side of those who propose. */
#include "session/record.h"

#include "base/text.h"
#include "session/wire.h"

#include <string.h>

static void put_events(struct dn_buffer *out, const struct dn_event_in *events, size_t count, bool offsets)
{
    if (count > DN_EVENTS_PER_RECORD_MAX) {
        out->failed = true;
        return;
    }
    dn_buffer_u32(out, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        const struct dn_event_in *event = &events[i];
        if (event->item_length > DN_ID_MAX) {
            out->failed = true;
            return;
        }
        dn_buffer_u64(out, event->user.high);
        dn_buffer_u64(out, event->user.low);
        if (offsets) {
            dn_buffer_i64(out, event->offset);
        } else {
            dn_buffer_u64(out, event->event_id);
        }
        dn_buffer_i64(out, event->time_ms);
        dn_buffer_u16(out, event->weight);
        dn_buffer_u8(out, event->type);
        dn_buffer_u16(out, event->item_length);
        dn_buffer_append(out, event->item, event->item_length);
    }
}

static void put_head(struct dn_buffer *out, enum dn_record_kind kind)
{
    bool older = kind == DN_RECORD_EVENTS || kind == DN_RECORD_ERASE || kind == DN_RECORD_SETTINGS;
    dn_buffer_u8(out, (uint8_t)kind);
    dn_buffer_u8(out, older ? DN_RECORD_VERSION_MIN : DN_RECORD_VERSION_STREAMS);
}

static bool put_source(struct dn_buffer *out, enum dn_record_kind kind, const char *source,
                       uint32_t partition)
{
    size_t length = strlen(source);
    if (length > DN_SOURCE_MAX) {
        return false;
    }
    put_head(out, kind);
    dn_buffer_blob(out, source, length);
    dn_buffer_u32(out, partition);
    return true;
}

void dn_record_events(struct dn_buffer *out, const struct dn_event_in *events, size_t count)
{
    put_head(out, DN_RECORD_EVENTS);
    put_events(out, events, count, false);
}

void dn_record_stream(struct dn_buffer *out, const char *source, uint32_t partition, int64_t begins_at,
                      int64_t next_offset, const struct dn_event_in *events, size_t count,
                      const struct dn_dead_in *dead, size_t dead_count)
{
    if (dead_count > DN_EVENTS_PER_RECORD_MAX || !put_source(out, DN_RECORD_STREAM, source, partition)) {
        out->failed = true;
        return;
    }
    dn_buffer_i64(out, begins_at);
    dn_buffer_i64(out, next_offset);
    put_events(out, events, count, true);
    dn_buffer_u32(out, (uint32_t)dead_count);
    for (size_t i = 0; i < dead_count; i++) {
        dn_buffer_i64(out, dead[i].offset);
        dn_buffer_u8(out, dead[i].reason);
    }
}

/* Every event is stepped over, and only two are read: this runs beside apply for each batch. */
bool dn_record_stream_times(const uint8_t *record, size_t length, int64_t *ret_first_ms, int64_t *ret_last_ms)
{
    enum { TIME_AT = 24, ITEM_AT = 35 }; /* in an event as put_events wrote it */
    struct dn_reader reader, time;
    size_t name_length;
    dn_reader_init(&reader, record, length);
    if (dn_reader_u8(&reader) != DN_RECORD_STREAM) {
        return false;
    }
    dn_reader_u8(&reader);
    dn_reader_blob(&reader, DN_SOURCE_MAX, &name_length);
    dn_reader_bytes(&reader, sizeof(uint32_t) + 2 * sizeof(int64_t));
    uint32_t count = dn_reader_u32(&reader);
    const uint8_t *first = NULL, *last = NULL;
    for (uint32_t i = 0; i < count && !reader.failed; i++) {
        last = dn_reader_bytes(&reader, ITEM_AT);
        first = i == 0 ? last : first;
        dn_reader_bytes(&reader, dn_reader_u16(&reader));
    }
    if (reader.failed || count == 0) {
        return false;
    }
    dn_reader_init(&time, first + TIME_AT, sizeof(int64_t));
    *ret_first_ms = dn_reader_i64(&time);
    dn_reader_init(&time, last + TIME_AT, sizeof(int64_t));
    *ret_last_ms = dn_reader_i64(&time);
    return true;
}

void dn_record_dead_written(struct dn_buffer *out, uint64_t before)
{
    put_head(out, DN_RECORD_DEAD_WRITTEN);
    dn_buffer_u64(out, before);
}

static void put_source_word(struct dn_buffer *out, const char *source, uint32_t partition,
                            int64_t next_offset, uint8_t how)
{
    size_t start = out->length;
    if (!put_source(out, DN_RECORD_SOURCE, source, partition)) {
        out->failed = true;
        return;
    }
    dn_buffer_i64(out, next_offset);
    dn_buffer_u8(out, how);
    if (how == DN_SOURCE_FINISHED && !out->failed) {
        out->bytes[start + 1] = DN_RECORD_VERSION_FINISHED;
    }
}

void dn_record_source(struct dn_buffer *out, const char *source, uint32_t partition, int64_t next_offset,
                      bool forget_watermark)
{
    put_source_word(out, source, partition, next_offset, forget_watermark ? DN_SOURCE_FORGET_WATERMARK : 0);
}

void dn_record_source_forward(struct dn_buffer *out, const char *source, uint32_t partition,
                              int64_t next_offset)
{
    put_source_word(out, source, partition, next_offset, DN_SOURCE_FORWARD);
}

void dn_record_source_finished(struct dn_buffer *out, const char *source, uint32_t partition,
                               int64_t next_offset)
{
    put_source_word(out, source, partition, next_offset, DN_SOURCE_FINISHED);
}

void dn_record_stall(struct dn_buffer *out, int64_t since_ms, const char *reason)
{
    size_t length = strlen(reason);
    if (length > DN_STALL_REASON_MAX) {
        out->failed = true;
        return;
    }
    put_head(out, DN_RECORD_STALL);
    dn_buffer_i64(out, since_ms);
    dn_buffer_blob(out, reason, length);
}

void dn_record_erase(struct dn_buffer *out, struct dn_hash128 user, int64_t until_ms, uint64_t request_id)
{
    put_head(out, DN_RECORD_ERASE);
    dn_buffer_u64(out, user.high);
    dn_buffer_u64(out, user.low);
    dn_buffer_i64(out, until_ms);
    dn_buffer_u64(out, request_id);
}

void dn_record_settings_without_near(struct dn_buffer *out, const struct dn_shard_settings *settings)
{
    put_head(out, DN_RECORD_SETTINGS);
    dn_encode_settings(out, settings, false);
}

uint8_t dn_record_level(const uint8_t *record, size_t length)
{
    bool near = length >= 2 && record[0] == DN_RECORD_SETTINGS && record[1] >= DN_RECORD_VERSION_NEAR;
    return near ? DN_RECORD_LEVEL_NEAR : 1;
}

void dn_record_settings(struct dn_buffer *out, const struct dn_shard_settings *settings)
{
    size_t start = out->length;
    put_head(out, DN_RECORD_SETTINGS);
    dn_encode_settings(out, settings, true);
    if (!out->failed) {
        out->bytes[start + 1] = DN_RECORD_VERSION_NEAR;
    }
}

enum dn_code dn_result_parse(const uint8_t *bytes, size_t length, uint8_t kind, struct dn_result *ret,
                             struct dn_error *err)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    struct dn_result result = {.status = (enum dn_result_status)dn_reader_u8(&reader)};
    if (reader.failed || result.status > DN_RESULT_FULL) {
        return dn_fail(err, DN_CORRUPT, "result of a shard: no known status");
    }
    bool answered = dn_reader_left(&reader) > 0 || result.status == DN_RESULT_OK;
    if (answered && (kind == DN_RECORD_EVENTS || kind == DN_RECORD_STREAM)) {
        result.next_offset = dn_reader_i64(&reader);
        result.count = dn_reader_u32(&reader);
        result.outcomes = dn_reader_bytes(&reader, result.count);
    } else if (answered && kind == DN_RECORD_ERASE) {
        result.existed = dn_reader_u8(&reader) != 0;
    } else if (answered && kind == DN_RECORD_SOURCE) {
        result.next_offset = dn_reader_i64(&reader);
    }
    if (reader.failed || dn_reader_left(&reader) > 0) {
        return dn_fail(err, DN_CORRUPT, "result of a shard: %zu bytes do not fit a record of kind %u", length,
                       kind);
    }
    for (uint32_t i = 0; i < result.count; i++) {
        if (result.outcomes[i] > DN_OUTCOME_INVALID) {
            return dn_fail(err, DN_CORRUPT, "result of a shard: outcome %u of event %u is unknown",
                           result.outcomes[i], i);
        }
    }
    *ret = result;
    return DN_OK;
}

/* ---- names
 * ------------------------------------------------------------------------------------------------- */

/* Part of the format of files of dead letters, too. */
static const char *const reason_texts[] = {
    [DN_DEAD_UNDECODABLE] = "undecodable",
    [DN_DEAD_LIMIT] = "limit",
    [DN_DEAD_MISROUTED] = "misrouted",
    [DN_DEAD_LATE] = "late",
    [DN_DEAD_AHEAD] = "ahead",
    [DN_DEAD_NO_ROOM] = "no_room",
    [DN_DEAD_INVALID] = "invalid",
};
_Static_assert(sizeof reason_texts / sizeof *reason_texts == DN_DEAD_REASON_MAX + 1, "a text for each");

const char *dn_dead_reason_text(uint8_t reason)
{
    return reason >= 1 && reason <= DN_DEAD_REASON_MAX ? reason_texts[reason] : "unknown";
}

uint8_t dn_dead_reason_parse(const char *text)
{
    for (unsigned reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        if (strcmp(text, reason_texts[reason]) == 0) {
            return (uint8_t)reason;
        }
    }
    return 0;
}
