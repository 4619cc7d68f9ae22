/* Format: segments and records as bytes. Encoding only.
 *
 * A segment file, `<16 hexadecimal digits of its sequence>.seg`: one header block of DN_DISK_ALIGN bytes,
 * then records without gaps to the end of what was written; then zeros, or records of an earlier use of the
 * file, which carry another sequence. Numbers are little-endian.
 *
 *   header: 0 "DNJOURN1", 8 u32 version (1), 12 u32 crc32c of the 64 bytes with this field zero, 16 u64
 * sequence, 24 u64 base LSN (of the first record; where the segment before ends), 32 u64 length of the file
 * (0: not told), zeros up to 64 record: 0 u32 magic, 4 u32 crc32c of everything behind it, 8 u8 version (1),
 * 9 u8 kind, 10 u8 key id (0; for encryption at rest), 11 u8 0, 12 u32 group, 16 u32 payload length, 20 u32
 * sequence (low half), 24 u64 LSN, 32 u64 durable LSN, 40 payload, zeros up to a multiple of 8
 *
 * LSN of a record = base LSN + (its offset - DN_DISK_ALIGN). The durable LSN is where its batch begins:
 * everything before that was durable when the batch was written, as there is one write at a time.
 *
 * Payloads: ENTRIES u64 first index, u32 count, u32 0, then for each u64 term, u32 length, u8 type, 3 zeros,
 * bytes, zeros up to a multiple of 8. TERM u64 term, u64 vote. TRUNCATE u64 index. SNAPSHOT u64 index, u64
 * term, u64 keep from, marker. REMOVE nothing. STATE u64 term, u64 vote, u64 snapshot index, u64 its term,
 * u64 first index, u64 next index, marker. */
#ifndef DN_JOURNAL_FORMAT_H
#define DN_JOURNAL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FORMAT_VERSION 1
#define HEADER_BYTES 64
#define RECORD_BYTES 40 /* of a record's head */
#define ENTRY_BYTES 16  /* of an entry's head */
#define ENTRIES_BYTES 16
#define STATE_BYTES 48
#define SNAPSHOT_BYTES 24
#define PAYLOAD_MAX (16u << 20)

enum kind {
    KIND_ENTRIES = 1,
    KIND_TERM = 2,
    KIND_TRUNCATE = 3,
    KIND_SNAPSHOT = 4,
    KIND_REMOVE = 5,
    KIND_STATE = 6
};

struct header {
    uint64_t sequence, base_lsn;
};
/* The file's length is not told. */
void header_encode(const struct header *header, uint8_t out[HEADER_BYTES]);
void header_encode_length(const struct header *header, uint64_t file_bytes, uint8_t out[HEADER_BYTES]);
uint64_t header_length(const uint8_t bytes[HEADER_BYTES]);
bool header_decode(const uint8_t bytes[HEADER_BYTES], struct header *ret);

struct record {
    enum kind kind;
    uint32_t group, length, sequence;
    uint64_t lsn, durable_lsn;
};
static inline size_t record_size(size_t payload)
{
    return RECORD_BYTES + ((payload + 7) & ~(size_t)7);
}
/* Fills in the head of a record whose payload (and padding) is in place behind it. */
void record_seal(const struct record *record, uint8_t *bytes);
/* Four bytes that every record begins with: for looking fast. */
static inline bool record_magic(const uint8_t *bytes)
{
    return memcmp(bytes, "DNRL", 4) == 0;
}
/* Only the head: false when it cannot be one. length is within PAYLOAD_MAX. */
bool record_head(const uint8_t bytes[RECORD_BYTES], struct record *ret);
/* Head and payload (record_size(length) bytes are there): false when the checksum is wrong. */
bool record_sound(const uint8_t *bytes, const struct record *record);

uint32_t get_u32(const uint8_t *bytes);
uint64_t get_u64(const uint8_t *bytes);
void put_u32(uint8_t *bytes, uint32_t value);
void put_u64(uint8_t *bytes, uint64_t value);

/* Entries of an ENTRIES payload in turn. */
struct entry_view {
    uint64_t term;
    uint32_t length;
    uint8_t type;
    size_t offset; /* of its bytes in the payload */
};
/* *at: 0 at first. False at the end or where it is malformed; the whole was well-formed when *at == length
 * then. */
bool entries_next(const uint8_t *payload, size_t length, size_t *at, struct entry_view *ret);

#endif
