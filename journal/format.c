/* The encoding of format.h. */
#include "journal/format.h"

#include "base/hash.h"

#include <string.h>

#define RECORD_MAGIC 0x4c524e44u /* "DNRL", as record_magic has it */

static const char header_magic[8] = {'D', 'N', 'J', 'O', 'U', 'R', 'N', '1'};

uint32_t get_u32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

uint64_t get_u64(const uint8_t *bytes)
{
    return get_u32(bytes) | (uint64_t)get_u32(bytes + 4) << 32;
}

void put_u32(uint8_t *bytes, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

void put_u64(uint8_t *bytes, uint64_t value)
{
    put_u32(bytes, (uint32_t)value);
    put_u32(bytes + 4, (uint32_t)(value >> 32));
}

static uint32_t header_checksum(const uint8_t bytes[HEADER_BYTES])
{
    static const uint8_t zeros[4];
    uint32_t crc = dn_crc32c(0, bytes, 12);
    crc = dn_crc32c(crc, zeros, sizeof zeros);
    return dn_crc32c(crc, bytes + 16, HEADER_BYTES - 16);
}

void header_encode(const struct header *header, uint8_t out[HEADER_BYTES])
{
    header_encode_length(header, 0, out);
}

void header_encode_length(const struct header *header, uint64_t file_bytes, uint8_t out[HEADER_BYTES])
{
    memset(out, 0, HEADER_BYTES);
    memcpy(out, header_magic, sizeof header_magic);
    put_u32(out + 8, FORMAT_VERSION);
    put_u64(out + 16, header->sequence);
    put_u64(out + 24, header->base_lsn);
    put_u64(out + 32, file_bytes);
    put_u32(out + 12, header_checksum(out));
}

uint64_t header_length(const uint8_t bytes[HEADER_BYTES])
{
    return get_u64(bytes + 32);
}

bool header_decode(const uint8_t bytes[HEADER_BYTES], struct header *ret)
{
    if (memcmp(bytes, header_magic, sizeof header_magic) != 0 || get_u32(bytes + 8) != FORMAT_VERSION ||
        get_u32(bytes + 12) != header_checksum(bytes))
        return false;
    ret->sequence = get_u64(bytes + 16);
    ret->base_lsn = get_u64(bytes + 24);
    return true;
}

void record_seal(const struct record *record, uint8_t *bytes)
{
    put_u32(bytes, RECORD_MAGIC);
    bytes[8] = FORMAT_VERSION;
    bytes[9] = (uint8_t)record->kind;
    bytes[10] = 0;
    bytes[11] = 0;
    put_u32(bytes + 12, record->group);
    put_u32(bytes + 16, record->length);
    put_u32(bytes + 20, record->sequence);
    put_u64(bytes + 24, record->lsn);
    put_u64(bytes + 32, record->durable_lsn);
    put_u32(bytes + 4, dn_crc32c(0, bytes + 8, record_size(record->length) - 8));
}

bool record_head(const uint8_t bytes[RECORD_BYTES], struct record *ret)
{
    if (get_u32(bytes) != RECORD_MAGIC || bytes[8] != FORMAT_VERSION || bytes[9] < KIND_ENTRIES ||
        bytes[9] > KIND_STATE || bytes[10] != 0 || bytes[11] != 0 || get_u32(bytes + 16) > PAYLOAD_MAX)
        return false;
    *ret = (struct record){(enum kind)bytes[9], get_u32(bytes + 12), get_u32(bytes + 16),
                           get_u32(bytes + 20), get_u64(bytes + 24), get_u64(bytes + 32)};
    return true;
}

bool record_sound(const uint8_t *bytes, const struct record *record)
{
    return get_u32(bytes + 4) == dn_crc32c(0, bytes + 8, record_size(record->length) - 8);
}

bool entries_next(const uint8_t *payload, size_t length, size_t *at, struct entry_view *ret)
{
    if (*at == 0)
        *at = ENTRIES_BYTES;
    if (length < *at || length - *at < ENTRY_BYTES)
        return false;
    const uint8_t *head = payload + *at;
    size_t bytes = get_u32(head + 8), room = length - *at - ENTRY_BYTES;
    if (bytes > room || ((bytes + 7) & ~(size_t)7) > room)
        return false;
    *ret = (struct entry_view){get_u64(head), (uint32_t)bytes, head[12], *at + ENTRY_BYTES};
    *at += ENTRY_BYTES + ((bytes + 7) & ~(size_t)7);
    return true;
}
