/* Buffer: a growing byte array with a hard maximum; and little-endian encoding on it. One owner.
 *
 * Writers never fail one by one: the first failure (memory, maximum) sets `failed`, later writes do nothing,
 * and the caller checks once at the end. */
#ifndef DN_BASE_BUFFER_H
#define DN_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dn_buffer {
    uint8_t *bytes;
    size_t length;
    size_t capacity;
    size_t max;
    bool failed;
};

/* An empty buffer that may grow to max bytes; nothing is allocated yet. */
void dn_buffer_init(struct dn_buffer *buffer, size_t max);
void dn_buffer_free(struct dn_buffer *buffer);
void dn_buffer_clear(struct dn_buffer *buffer); /* length 0, failed false; keeps the memory */

/* Makes room for `extra` more bytes and returns where they start, without moving length; NULL on failure. */
uint8_t *dn_buffer_reserve(struct dn_buffer *buffer, size_t extra);
void dn_buffer_append(struct dn_buffer *buffer, const void *bytes, size_t length);
void dn_buffer_u8(struct dn_buffer *buffer, uint8_t value);
void dn_buffer_u16(struct dn_buffer *buffer, uint16_t value);
void dn_buffer_u32(struct dn_buffer *buffer, uint32_t value);
void dn_buffer_u64(struct dn_buffer *buffer, uint64_t value);
void dn_buffer_i64(struct dn_buffer *buffer, int64_t value);
void dn_buffer_f32(struct dn_buffer *buffer, float value);
/* u32 length, then the bytes. */
void dn_buffer_blob(struct dn_buffer *buffer, const void *bytes, size_t length);
/* Zero bytes up to the next multiple of `alignment` (a power of two). */
void dn_buffer_pad(struct dn_buffer *buffer, size_t alignment);

/* Reader: takes values off the front of a byte range. Past the end it sets `failed` and gives zeros; the
 * caller checks `failed` once at the end, and before it trusts a length. */
struct dn_reader {
    const uint8_t *bytes;
    size_t length;
    size_t offset;
    bool failed;
};

void dn_reader_init(struct dn_reader *reader, const void *bytes, size_t length);
size_t dn_reader_left(const struct dn_reader *reader);
uint8_t dn_reader_u8(struct dn_reader *reader);
uint16_t dn_reader_u16(struct dn_reader *reader);
uint32_t dn_reader_u32(struct dn_reader *reader);
uint64_t dn_reader_u64(struct dn_reader *reader);
int64_t dn_reader_i64(struct dn_reader *reader);
float dn_reader_f32(struct dn_reader *reader);
/* `length` bytes in place (no copy), or NULL and failed. */
const uint8_t *dn_reader_bytes(struct dn_reader *reader, size_t length);
/* A blob written by dn_buffer_blob, in place; fails if it is longer than `max`. */
const uint8_t *dn_reader_blob(struct dn_reader *reader, size_t max, size_t *ret_length);

#endif
