/* Snapshot store: the state files of one group's snapshots. Knows neither libraft nor the network.
 *
 * What Raft calls its snapshot is a manifest: what the state is (group, index, term, hash, length) and a hash
 * for each chunk of the file that holds it. The file lies beside the log, in data_dir/snapshots/GROUP:
 *
 *   INDEX-TERM-ID.state  a whole snapshot; ID is the first half of the manifest's digest, so that files of
 *                        one name have the same bytes on every node
 *   INDEX-TERM-ID.fetch  one that is being fetched: chunks that match the manifest are kept over a restart
 *   writing.tmp          our own, on its way
 *
 * Chunks have fixed places: chunk_offset(n) depends on n only. The first SNAP_TIER_CHUNKS have 1 MiB, so many
 * more have 4 MiB, and as many again 16 MiB: the manifest stays small for any state, and so does the memory
 * for one chunk.
 *
 * Invariants:
 *  1. A .state file is whole and durable, name included: it gets its name last. Its manifest goes to Raft
 * after that.
 *  2. No byte of a file is used before its chunk matched the manifest's hash.
 *  3. Every function here waits for the disk: pool threads, or the thread that starts the node. Nothing is
 * shared but the folder; snapstore_prune never runs while a file of the group is being made (the caller sees
 * to it).
 *
 * Manifest, little-endian: magic "DNSNAP2\0", u16 version, u16 level, u32 group, u64 index, u64 term, i64
 * time_ms, u64 state_hash, u64 total_bytes, u32 chunk_count, 12 zero bytes, 16 bytes for each chunk, 16 bytes
 * digest of all that. All hashes are BLAKE2b. */
#ifndef DN_CONSENSUS_SNAPSHOT_STORE_H
#define DN_CONSENSUS_SNAPSHOT_STORE_H

#include "base/buffer.h"
#include "base/stream.h"
#include "consensus/consensus.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAP_HASH_BYTES 16
#define SNAP_TIER_CHUNKS 4096u
#define SNAP_TIERS 3u
#define SNAP_CHUNK_BYTES (1u << 20) /* of the first tier; each next has four times as much */
#define SNAP_CHUNK_MAX (SNAP_CHUNK_BYTES << (2 * (SNAP_TIERS - 1)))
#define SNAP_CHUNKS_MAX (SNAP_TIER_CHUNKS * SNAP_TIERS) /* 84 GiB of state */
#define SNAP_MANIFEST_HEAD_BYTES 72
#define SNAP_MANIFEST_MAX (SNAP_MANIFEST_HEAD_BYTES + (SNAP_CHUNKS_MAX + 1) * SNAP_HASH_BYTES)
#define SNAP_NAME_MAX 96

/* Which snapshot. */
struct snap_name {
    uint64_t index, term, id;
};

static inline bool snap_name_equal(const struct snap_name *a, const struct snap_name *b)
{
    return a->index == b->index && a->term == b->term && a->id == b->id;
}

struct manifest {
    unsigned refs; /* manifest_ref: one thread only */
    uint32_t group;
    struct snap_name name;
    int64_t time_ms;     /* the group's log time */
    uint64_t state_hash; /* as dn_fsm.hash gave it */
    uint64_t total_bytes;
    uint32_t chunk_count;
    uint8_t *hashes; /* SNAP_HASH_BYTES for each chunk */
};

/* From bytes of anybody: every length is checked, nothing larger than `length` is allocated. Release with
 * manifest_unref. DN_CORRUPT, DN_UNIMPLEMENTED (a newer program's), DN_NO_MEMORY. */
enum dn_code manifest_decode(uint32_t group, const void *bytes, size_t length, struct manifest **ret,
                             struct dn_error *err);
/* Sets name.id too. out->failed tells of memory. Its length is a multiple of 8. */
void manifest_encode(struct manifest *manifest, struct dn_buffer *out);
struct manifest *manifest_ref(struct manifest *manifest);
void manifest_unref(struct manifest *manifest); /* NULL allowed */

uint64_t chunk_offset(uint32_t chunk);
uint32_t chunk_bytes(const struct manifest *manifest, uint32_t chunk); /* the last one may be short */
bool chunk_matches(const struct manifest *manifest, uint32_t chunk, const void *bytes, size_t length);

/* ---- the folder ------------------------------------------------------------------------------------- */

struct snapstore {
    uint32_t group;
    char dir[PATH_MAX - SNAP_NAME_MAX];
};

/* Makes the folders where they are missing. */
enum dn_code snapstore_open(struct snapstore *store, const char *data_dir, uint32_t group,
                            struct dn_error *err);

/* Path of a whole snapshot, for messages. */
void snapstore_path(const struct snapstore *store, const struct snap_name *name, char out[PATH_MAX]);

/* The names of the whole snapshots, newest first, at most `max`; how many there are in *ret_count. */
enum dn_code snapstore_list(const struct snapstore *store, struct snap_name *names, size_t max,
                            size_t *ret_count, struct dn_error *err);

/* Removes all files but the snapshots in `keep`, what is fetched of them, and the one newest file (whole or
 * not) of an index above `above`: a transfer that a restart cut off. */
enum dn_code snapstore_prune(const struct snapstore *store, const struct snap_name *keep, size_t keep_count,
                             uint64_t above, struct dn_error *err);

/* ---- writing our own -------------------------------------------------------------------------------- */

struct snapstore_point {
    uint64_t index, term;
    int64_t time_ms;
    uint64_t state_hash;
};
/* Streams the capture to a file, makes it durable, and gives its manifest. `stop` (may be NULL): DN_CANCELLED
 * soon after it became true. DN_NO_SPACE is told from other faults. A failure leaves no file. */
enum dn_code snapstore_write(const struct snapstore *store, const struct snapstore_point *point,
                             const struct dn_fsm *fsm, void *capture, const atomic_bool *stop,
                             struct manifest **ret, struct dn_error *err);

/* ---- reading ---------------------------------------------------------------------------------------- */

/* A stream over a whole snapshot that checks each chunk before it gives a byte of it. The manifest must
 * outlive it. Errors name the file and the chunk. DN_NOT_FOUND: there is no such file. */
enum dn_code snapstore_source_open(const struct snapstore *store, const struct manifest *manifest,
                                   const atomic_bool *stop, struct dn_source **ret, struct dn_error *err);
void snapstore_source_close(struct dn_source *source); /* NULL allowed */

/* One chunk, checked, into a buffer of chunk_bytes(). DN_NOT_FOUND, DN_CORRUPT, DN_IO. */
enum dn_code snapstore_read(const struct snapstore *store, const struct manifest *manifest, uint32_t chunk,
                            uint8_t *buffer, struct dn_error *err);

/* The whole of it: opens a source and builds the state from it. */
enum dn_code snapstore_build(const struct snapstore *store, const struct manifest *manifest,
                             const struct dn_fsm *fsm, const atomic_bool *stop, void **ret_built,
                             struct dn_error *err);

/* ---- receiving -------------------------------------------------------------------------------------- */

/* A file that is being fetched. */
struct snapfetch {
    struct snapstore store;
    const struct manifest *manifest;
    int fd; /* -1: closed */
    bool whole;
    uint32_t missing;
    uint8_t *have; /* a bit for each chunk */
};
/* Looks at what is there already (an earlier attempt's, or all of it) and keeps what matches. Reserves the
 * space: DN_NO_SPACE. The manifest must outlive it. */
enum dn_code snapfetch_open(struct snapfetch *fetch, const struct snapstore *store,
                            const struct manifest *manifest, const atomic_bool *stop, struct dn_error *err);
static inline bool snapfetch_has(const struct snapfetch *fetch, uint32_t chunk)
{
    return (fetch->have[chunk / 8] >> (chunk % 8) & 1) != 0;
}
/* Writes one chunk. DN_CORRUPT: the bytes are not those of the manifest, nothing was written. Does not mark
 * it: that is for the thread that looks at `have`, when the write is over. */
enum dn_code snapfetch_put(struct snapfetch *fetch, uint32_t chunk, const uint8_t *bytes, size_t length,
                           struct dn_error *err);
void snapfetch_mark(struct snapfetch *fetch, uint32_t chunk);
/* All chunks are there: makes the file durable and gives it its name. */
enum dn_code snapfetch_finish(struct snapfetch *fetch, struct dn_error *err);
void snapfetch_close(struct snapfetch *fetch); /* leaves the file for a next time */

#endif
