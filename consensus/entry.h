/* Entry: what one Raft command entry is made of. Encoding only: no state, any thread.
 *
 *   offset 0   u8   format version (ENTRY_VERSION)
 *          1   u8   feature level, 1 to ENTRY_LEVEL: what a reader must understand
 *          2   u16  flags: bit 0 = a tick section follows the header
 *          4   u32  number of records
 *          8   i64  leader's wall clock, ms since 1970
 *         16   u64  nonce of the proposing process (random at its start)
 *         24   u64  sequence number of the entry in that process
 *         32   tick section, if any: u32 count, u32 zero, then count marks of 40 bytes
 *              records: u32 length, bytes
 *              zeros up to a multiple of 8 (libraft writes entries in words)
 *
 * Nonce and sequence let the proposer know its own entry again, whatever index and term it ends up with. The
 * disk and the wire below carry checksums; the decoder checks structure all the same. */
#ifndef DN_CONSENSUS_ENTRY_H
#define DN_CONSENSUS_ENTRY_H

#include "base/error.h"
#include "consensus/consensus.h"

#include <stddef.h>
#include <stdint.h>

#define ENTRY_VERSION 1
#define ENTRY_LEVEL DN_LEVEL /* the newest that is read; written is the least that will do */
#define ENTRY_HEADER_BYTES 32
#define ENTRY_MARK_BYTES 40
#define ENTRY_RECORDS_MAX 65536
#define ENTRY_FLAG_TICK 1u

/* One node's mark in a tick: its clock stamp, and the state hash it reported. */
struct entry_mark {
    uint64_t raft_id;
    uint64_t nonce;      /* of the process life the stamp belongs to */
    uint64_t stamp_us;   /* that node's CLOCK_BOOTTIME */
    uint64_t hash_index; /* 0: no hash reported */
    uint64_t hash;
};

struct entry_head {
    int64_t time_ms;
    uint64_t nonce;
    uint64_t sequence;
    uint32_t count;      /* records */
    uint32_t mark_count; /* marks; with has_tick */
    bool has_tick;
    uint8_t level;                  /* 0 when encoding: 1 */
    const struct entry_mark *marks; /* encoding only */
};

struct entry_record {
    const uint8_t *bytes;
    size_t length;
};

/* Bytes of an entry whose records take records_bytes in all (without their length words). */
size_t entry_size(const struct entry_head *head, size_t records_bytes);

/* Writes an entry of exactly entry_size() bytes to `out`. */
void entry_encode(const struct entry_head *head, const struct entry_record *records, uint8_t *out);

/* A checked entry: every length inside was verified. */
struct entry_view {
    struct entry_head head; /* marks is NULL: use entry_mark_at */
    const uint8_t *mark_bytes;
    const uint8_t *record_bytes;
    size_t record_length;
};

/* DN_OK, DN_UNIMPLEMENTED (a version or level this program does not know), or DN_CORRUPT. */
enum dn_code entry_decode(const uint8_t *bytes, size_t length, struct entry_view *ret, struct dn_error *err);

struct entry_mark entry_mark_at(const struct entry_view *view, uint32_t i);

/* Takes the record at *offset (0 to start) and moves on; call it exactly head.count times. */
struct entry_record entry_next(const struct entry_view *view, size_t *offset);

#endif
