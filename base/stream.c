#include "base/stream.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>

/* ---- writing ---------------------------------------------------------------------------------------- */

static void drain(struct dn_sink *sink)
{
    size_t length = sink->used;
    sink->used = 0;
    sink->code = sink->drain(sink, sink->buffer, length, &sink->error);
    sink->error.code = sink->code;
}

enum dn_code dn_sink_write(struct dn_sink *sink, const void *bytes, size_t length)
{
    const uint8_t *from = bytes;
    while (sink->code == DN_OK && length > 0) {
        size_t room = sink->capacity - sink->used;
        size_t part = length < room ? length : room;
        memcpy(sink->buffer + sink->used, from, part);
        sink->used += part;
        sink->total += part;
        from += part;
        length -= part;
        if (sink->used == sink->capacity) {
            drain(sink);
        }
    }
    return sink->code;
}

enum dn_code dn_sink_spill(struct dn_sink *sink, struct dn_buffer *scratch)
{
    if (scratch->failed && sink->code == DN_OK) {
        sink->code =
            dn_fail(&sink->error, DN_NO_MEMORY, "no memory for a part of %zu bytes", scratch->length);
    }
    (void)dn_sink_write(sink, scratch->bytes, scratch->length);
    dn_buffer_clear(scratch);
    return sink->code;
}

enum dn_code dn_sink_flush(struct dn_sink *sink)
{
    if (sink->code == DN_OK && sink->used > 0) {
        drain(sink);
    }
    return sink->code;
}

/* ---- reading ---------------------------------------------------------------------------------------- */

/* More bytes behind what is there; false when none came. */
static bool fill(struct dn_source *source)
{
    size_t got = 0;
    if (source->from > 0) {
        memmove(source->buffer, source->buffer + source->from, source->to - source->from);
        source->to -= source->from;
        source->from = 0;
    }
    DN_ASSERT(source->to < source->capacity);
    source->code = source->fill(source, source->buffer + source->to, source->capacity - source->to, &got,
                                &source->error);
    if (source->code != DN_OK) {
        source->error.code = source->code;
        return false;
    }
    DN_ASSERT(got <= source->capacity - source->to);
    source->to += got;
    return got > 0;
}

static enum dn_code cut_short(struct dn_source *source, uint64_t wanted)
{
    if (source->code == DN_OK) {
        source->code = dn_fail(&source->error, DN_CORRUPT,
                               "it ends at byte %" PRIu64 ", where %" PRIu64 " more should follow",
                               source->total + (source->to - source->from), wanted);
    }
    return source->code;
}

enum dn_code dn_source_window(struct dn_source *source, size_t length, const uint8_t **ret_bytes,
                              size_t *ret_length)
{
    DN_ASSERT(length <= source->capacity);
    while (source->code == DN_OK && source->to - source->from < length && fill(source)) {
    }
    if (source->code == DN_OK) {
        size_t have = source->to - source->from;
        *ret_bytes = source->buffer + source->from;
        *ret_length = have < length ? have : length;
    }
    return source->code;
}

enum dn_code dn_source_peek(struct dn_source *source, size_t length, const uint8_t **ret_bytes)
{
    const uint8_t *bytes = NULL;
    size_t have = 0;
    if (dn_source_window(source, length, &bytes, &have) != DN_OK) {
        return source->code;
    }
    if (have < length) {
        return cut_short(source, length - have);
    }
    *ret_bytes = bytes;
    return DN_OK;
}

static void take(struct dn_source *source, size_t length)
{
    source->from += length;
    source->total += length;
}

/* The next unread bytes as far as `most`; 0 at the end or after a failure. */
static size_t some(struct dn_source *source, uint64_t most)
{
    if (source->code != DN_OK || (source->from == source->to && !fill(source))) {
        return 0;
    }
    size_t have = source->to - source->from;
    return have < most ? have : (size_t)most;
}

enum dn_code dn_source_read(struct dn_source *source, void *bytes, size_t length)
{
    uint8_t *to = bytes;
    while (source->code == DN_OK && length > 0) {
        size_t part = some(source, length);
        if (part == 0) {
            return cut_short(source, length);
        }
        memcpy(to, source->buffer + source->from, part);
        take(source, part);
        to += part;
        length -= part;
    }
    return source->code;
}

enum dn_code dn_source_skip(struct dn_source *source, uint64_t length)
{
    while (source->code == DN_OK && length > 0) {
        size_t part = some(source, length);
        if (part == 0) {
            return cut_short(source, length);
        }
        take(source, part);
        length -= part;
    }
    return source->code;
}

enum dn_code dn_source_end(struct dn_source *source)
{
    if (some(source, 1) > 0) {
        source->code =
            dn_fail(&source->error, DN_CORRUPT, "bytes are left over at byte %" PRIu64, source->total);
    }
    return source->code;
}

/* ---- values ----------------------------------------------------------------------------------------- */

const uint8_t *dn_source_bytes(struct dn_source *source, size_t length)
{
    const uint8_t *bytes = NULL;
    if (dn_source_peek(source, length, &bytes) != DN_OK) {
        return NULL;
    }
    take(source, length);
    return bytes;
}

static uint64_t value(struct dn_source *source, size_t length)
{
    uint64_t value = 0;
    const uint8_t *bytes = dn_source_bytes(source, length);
    if (bytes != NULL) {
        memcpy(&value, bytes, length);
    }
    return le64toh(value);
}

uint8_t dn_source_u8(struct dn_source *source)
{
    return (uint8_t)value(source, 1);
}

uint16_t dn_source_u16(struct dn_source *source)
{
    return (uint16_t)value(source, 2);
}

uint32_t dn_source_u32(struct dn_source *source)
{
    return (uint32_t)value(source, 4);
}

uint64_t dn_source_u64(struct dn_source *source)
{
    return value(source, 8);
}

int64_t dn_source_i64(struct dn_source *source)
{
    return (int64_t)value(source, 8);
}

const uint8_t *dn_source_blob(struct dn_source *source, size_t max, size_t *ret_length)
{
    uint32_t length = dn_source_u32(source);
    if (source->code == DN_OK && length > max) {
        source->code = dn_fail(&source->error, DN_CORRUPT,
                               "a part of %" PRIu32 " bytes; at most %zu are allowed", length, max);
    }
    if (source->code != DN_OK) {
        return NULL;
    }
    const uint8_t *bytes = dn_source_bytes(source, length);
    if (bytes != NULL) {
        *ret_length = length;
    }
    return bytes;
}

/* ---- in memory --------------------------------------------------------------------------------------- */

static enum dn_code buffer_drain(struct dn_sink *sink, const uint8_t *bytes, size_t length,
                                 struct dn_error *err)
{
    struct dn_buffer_sink *self = (struct dn_buffer_sink *)sink; /* its first member */
    dn_buffer_append(self->out, bytes, length);
    if (self->out->failed) {
        return dn_fail(err, DN_NO_MEMORY, "no memory beyond %zu bytes", self->out->length);
    }
    return DN_OK;
}

void dn_buffer_sink_init(struct dn_buffer_sink *sink, struct dn_buffer *out, uint8_t *room, size_t capacity)
{
    DN_ASSERT(capacity > 0);
    *sink = (struct dn_buffer_sink){.out = out};
    sink->sink = (struct dn_sink){.drain = buffer_drain, .buffer = room, .capacity = capacity};
}

static enum dn_code bytes_fill(struct dn_source *source, uint8_t *bytes, size_t length, size_t *ret_length,
                               struct dn_error *err)
{
    struct dn_bytes_source *self = (struct dn_bytes_source *)source; /* its first member */
    size_t left = self->length - self->at, part = length < left ? length : left;
    (void)err;
    if (part > 0) {
        memcpy(bytes, self->bytes + self->at, part);
    }
    self->at += part;
    *ret_length = part;
    return DN_OK;
}

void dn_bytes_source_init(struct dn_bytes_source *source, const void *bytes, size_t length, uint8_t *room,
                          size_t capacity)
{
    DN_ASSERT(capacity > 0);
    *source = (struct dn_bytes_source){.bytes = bytes, .length = length};
    source->source = (struct dn_source){.fill = bytes_fill, .buffer = room, .capacity = capacity};
}
