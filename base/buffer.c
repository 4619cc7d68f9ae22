#include "base/buffer.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

#define CAPACITY_FIRST 64

void dn_buffer_init(struct dn_buffer *buffer, size_t max)
{
    *buffer = (struct dn_buffer){.max = max};
}

void dn_buffer_free(struct dn_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct dn_buffer){.max = buffer->max};
}

void dn_buffer_clear(struct dn_buffer *buffer)
{
    buffer->length = 0;
    buffer->failed = false;
}

/* Doubles the capacity until `needed` fits, or takes all of max. needed <= max. */
static bool grow(struct dn_buffer *buffer, size_t needed)
{
    size_t capacity = buffer->capacity > 0 ? buffer->capacity : CAPACITY_FIRST;
    uint8_t *bytes;

    while (capacity < needed) {
        if (capacity > buffer->max / 2) {
            capacity = buffer->max;
            break;
        }
        capacity *= 2;
    }
    if (capacity > buffer->max) {
        capacity = buffer->max;
    }
    bytes = realloc(buffer->bytes, capacity);
    if (bytes == NULL) {
        return false;
    }
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}

uint8_t *dn_buffer_reserve(struct dn_buffer *buffer, size_t extra)
{
    size_t wanted = extra > 0 ? extra : 1; /* NULL means failure, so even nothing needs a place */

    if (buffer->failed) {
        return NULL;
    }
    if (extra == 0 && buffer->bytes != NULL) {
        return buffer->bytes + buffer->length;
    }
    if (wanted > buffer->capacity - buffer->length &&
        (wanted > buffer->max - buffer->length || !grow(buffer, buffer->length + wanted))) {
        buffer->failed = true;
        return NULL;
    }
    return buffer->bytes + buffer->length;
}

void dn_buffer_append(struct dn_buffer *buffer, const void *bytes, size_t length)
{
    uint8_t *place;

    if (length == 0) {
        return;
    }
    place = dn_buffer_reserve(buffer, length);
    if (place != NULL) {
        memcpy(place, bytes, length);
        buffer->length += length;
    }
}

static void append_little_endian(struct dn_buffer *buffer, uint64_t value, size_t size)
{
    uint8_t *place = dn_buffer_reserve(buffer, size);

    if (place == NULL) {
        return;
    }
    for (size_t i = 0; i < size; i++) {
        place[i] = (uint8_t)(value >> (8 * i));
    }
    buffer->length += size;
}

void dn_buffer_u8(struct dn_buffer *buffer, uint8_t value)
{
    append_little_endian(buffer, value, 1);
}

void dn_buffer_u16(struct dn_buffer *buffer, uint16_t value)
{
    append_little_endian(buffer, value, 2);
}

void dn_buffer_u32(struct dn_buffer *buffer, uint32_t value)
{
    append_little_endian(buffer, value, 4);
}

void dn_buffer_u64(struct dn_buffer *buffer, uint64_t value)
{
    append_little_endian(buffer, value, 8);
}

void dn_buffer_i64(struct dn_buffer *buffer, int64_t value)
{
    append_little_endian(buffer, (uint64_t)value, 8);
}

void dn_buffer_f32(struct dn_buffer *buffer, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    append_little_endian(buffer, bits, 4);
}

void dn_buffer_blob(struct dn_buffer *buffer, const void *bytes, size_t length)
{
    /* Room for both parts first: a blob is written whole or not at all. */
    if (length > UINT32_MAX - 4 || dn_buffer_reserve(buffer, length + 4) == NULL) {
        buffer->failed = true;
        return;
    }
    dn_buffer_u32(buffer, (uint32_t)length);
    dn_buffer_append(buffer, bytes, length);
}

void dn_buffer_pad(struct dn_buffer *buffer, size_t alignment)
{
    size_t missing;
    uint8_t *place;

    DN_ASSERT(alignment > 0 && (alignment & (alignment - 1)) == 0);
    missing = (alignment - (buffer->length & (alignment - 1))) & (alignment - 1);
    if (missing == 0) {
        return;
    }
    place = dn_buffer_reserve(buffer, missing);
    if (place != NULL) {
        memset(place, 0, missing);
        buffer->length += missing;
    }
}

void dn_reader_init(struct dn_reader *reader, const void *bytes, size_t length)
{
    static const uint8_t nothing[1];

    DN_ASSERT(bytes != NULL || length == 0);
    *reader = (struct dn_reader){.bytes = bytes != NULL ? bytes : nothing, .length = length};
}

size_t dn_reader_left(const struct dn_reader *reader)
{
    return reader->failed ? 0 : reader->length - reader->offset;
}

const uint8_t *dn_reader_bytes(struct dn_reader *reader, size_t length)
{
    const uint8_t *place;

    if (reader->failed || length > reader->length - reader->offset) {
        reader->failed = true;
        return NULL;
    }
    place = reader->bytes + reader->offset;
    reader->offset += length;
    return place;
}

static uint64_t take_little_endian(struct dn_reader *reader, size_t size)
{
    const uint8_t *place = dn_reader_bytes(reader, size);
    uint64_t value = 0;

    if (place == NULL) {
        return 0;
    }
    for (size_t i = 0; i < size; i++) {
        value |= (uint64_t)place[i] << (8 * i);
    }
    return value;
}

uint8_t dn_reader_u8(struct dn_reader *reader)
{
    return (uint8_t)take_little_endian(reader, 1);
}

uint16_t dn_reader_u16(struct dn_reader *reader)
{
    return (uint16_t)take_little_endian(reader, 2);
}

uint32_t dn_reader_u32(struct dn_reader *reader)
{
    return (uint32_t)take_little_endian(reader, 4);
}

uint64_t dn_reader_u64(struct dn_reader *reader)
{
    return take_little_endian(reader, 8);
}

int64_t dn_reader_i64(struct dn_reader *reader)
{
    return (int64_t)take_little_endian(reader, 8);
}

float dn_reader_f32(struct dn_reader *reader)
{
    uint32_t bits = dn_reader_u32(reader);
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

const uint8_t *dn_reader_blob(struct dn_reader *reader, size_t max, size_t *ret_length)
{
    size_t length = dn_reader_u32(reader);
    const uint8_t *place = NULL;

    if (length > max) {
        reader->failed = true;
    }
    if (!reader->failed) {
        place = dn_reader_bytes(reader, length);
    }
    *ret_length = place != NULL ? length : 0; /* zeros on failure, as the other takers give */
    return place;
}
