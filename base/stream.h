/* Byte streams with a small fixed buffer: a snapshot is written to one and read from one, so that no step
 * needs memory in proportion to the state. The other end (files, a buffer in tests) is one function.
 *
 * Invariants:
 *  1. The first failure stays: later calls do nothing, writes return it, reads give zeros and NULL.
 *  2. drain gets a full buffer each time but the last: what it cuts (chunks) does not depend on how it was
 * written. One owner; no thread of its own. */
#ifndef DN_BASE_STREAM_H
#define DN_BASE_STREAM_H

#include "base/buffer.h"
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Every source's buffer is at least this large: the most that dn_source_bytes and dn_source_peek are asked
 * for. */
#define DN_STREAM_BUFFER_BYTES (256u << 10)

/* Where written bytes go. */
struct dn_sink {
    /* Takes buffer[0..length). May put another buffer and capacity in place before it returns. */
    enum dn_code (*drain)(struct dn_sink *sink, const uint8_t *bytes, size_t length, struct dn_error *err);
    uint8_t *buffer; /* of `capacity` bytes, the owner's */
    size_t capacity, used;
    uint64_t total; /* bytes written so far */
    enum dn_code code;
    struct dn_error error; /* when code is not DN_OK */
};
enum dn_code dn_sink_write(struct dn_sink *sink, const void *bytes, size_t length);
/* Writes what `scratch` holds and clears it. A scratch that failed (no memory) fails the sink. */
enum dn_code dn_sink_spill(struct dn_sink *sink, struct dn_buffer *scratch);
enum dn_code dn_sink_flush(struct dn_sink *sink);

/* Where read bytes come from. fill gives at most `length` bytes, *ret_length 0 at the end (and again if it is
 * asked again). */
struct dn_source {
    enum dn_code (*fill)(struct dn_source *source, uint8_t *bytes, size_t length, size_t *ret_length,
                         struct dn_error *err);
    uint8_t *buffer;
    size_t capacity, from, to; /* buffer[from..to) is unread */
    uint64_t total;            /* bytes read so far */
    enum dn_code code;
    struct dn_error error;
};
/* Exactly `length` bytes; DN_CORRUPT where the stream ends before. */
enum dn_code dn_source_read(struct dn_source *source, void *bytes, size_t length);
/* Makes the next `length` (<= capacity) bytes lie together and points at them, without taking them. */
enum dn_code dn_source_peek(struct dn_source *source, size_t length, const uint8_t **ret_bytes);
/* As peek, but fewer where the stream ends before: for records that tell their length as they are parsed. */
enum dn_code dn_source_window(struct dn_source *source, size_t length, const uint8_t **ret_bytes,
                              size_t *ret_length);
enum dn_code dn_source_skip(struct dn_source *source, uint64_t length);
enum dn_code dn_source_end(struct dn_source *source); /* DN_CORRUPT where bytes are left */

/* Values in the form that dn_buffer_u8 and its kin write. Zero (NULL) after a failure: look at source->code
 * before a length is trusted. Pointers are good until the next call. */
uint8_t dn_source_u8(struct dn_source *source);
uint16_t dn_source_u16(struct dn_source *source);
uint32_t dn_source_u32(struct dn_source *source);
uint64_t dn_source_u64(struct dn_source *source);
int64_t dn_source_i64(struct dn_source *source);
const uint8_t *dn_source_bytes(struct dn_source *source, size_t length); /* length <= capacity */
/* A blob written by dn_buffer_blob; fails if it is longer than `max` (<= capacity). */
const uint8_t *dn_source_blob(struct dn_source *source, size_t max, size_t *ret_length);

/* The ends of a stream in memory. `room` (the stream's own buffer) belongs to the caller. */
struct dn_buffer_sink {
    struct dn_sink sink;
    struct dn_buffer *out;
};
void dn_buffer_sink_init(struct dn_buffer_sink *sink, struct dn_buffer *out, uint8_t *room, size_t capacity);

struct dn_bytes_source {
    struct dn_source source;
    const uint8_t *bytes;
    size_t length, at;
};
void dn_bytes_source_init(struct dn_bytes_source *source, const void *bytes, size_t length, uint8_t *room,
                          size_t capacity);

#endif
