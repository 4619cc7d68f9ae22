/* Inside retrieval: what the builder, the cache and the search share.
 *
 * Invariants:
 *  1. A generation (rows' places, uncovered slots, place in the recent log) never changes once published.
 *  2. A row counts only if the block now in its slot has the id and the vector of the row, by hash. So a
 * deleted, replaced or moved item is never returned, while a change of price or availability costs nothing.
 *  3. Every item with a vector is a valid row, or in `uncovered`, or in the recent log from `since` on; or
 * the log has dropped that part and the search scans everything.
 *  4. A generation belongs to one state of the catalogue (`state_generation`): after a restore installed
 *     another, searches scan everything until the builder has mapped the rows to the new slots.
 *  5. One build at a time, on retrieval's own thread, which is the only one that publishes generations and
 *     touches `built`'s reference count.
 *
 * A replaced generation is freed when no search can hold it. The epoch cannot tell retrieval that (only its
 * writer, the consensus thread, may retire), so searches count themselves in and out of a phase (guard_enter,
 * guard_leave): the builder swaps, turns the phase and waits for the old one to empty. */
#ifndef DN_INDEX_RETRIEVAL_INTERNAL_H
#define DN_INDEX_RETRIEVAL_INTERNAL_H

#include "index/catalog_internal.h"
#include "index/faiss_shim.h"
#include "index/scan.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define DN_FACTORY_MAX 64u
#define DN_AUTO_FLAT_BELOW 8000u /* vectors: exact search is fast enough below */
#define DN_ROWS_MAX (1u << 28)
#define DN_PROBE_K 20u
#define DN_PROBE_WIDE 320u

/* A FAISS index and what its rows were built from. Shared by generations. */
struct dn_built {
    FaissIndex *index;
    struct dn_scan *scan; /* the same in 16 bits, which is searched instead; NULL: not of such a kind */
    enum dn_faiss_kind kind;
    char factory[DN_FACTORY_MAX];
    uint32_t dim;
    uint32_t rows;
    uint64_t version;  /* of the catalogue it was built from */
    size_t lists;      /* IVF lists, else 0 */
    size_t depth;      /* IVF lists probed, or efSearch: for DN_PROBE_K neighbours */
    size_t depth_wide; /* IVF: lists probed for DN_PROBE_WIDE neighbours; in between and beyond by a line */
    bool selects;      /* the kind honours a bitmap of rows */
    bool from_cache;
    uint64_t *id_hash;     /* per row */
    uint64_t *vector_hash; /* per row */
    uint32_t references;   /* builder thread only */
    size_t file_bytes;     /* about what the index takes */
};

/* Where a row's item is, and whether it is still that: what a search looks at of each row that it found, in
 * one line of the cache. */
struct dn_place {
    uint64_t check; /* dn_place_check of the block */
    uint32_t slot;  /* DN_SLOT_NONE: its item was gone when the rows were mapped */
    uint32_t unused;
};

static inline uint64_t dn_place_check(uint64_t id_hash, uint64_t vector_hash)
{
    return id_hash ^ (vector_hash << 32 | vector_hash >> 32);
}

struct dn_generation {
    struct dn_built *built;
    struct dn_place *places; /* per row */
    uint32_t *uncovered;
    size_t uncovered_count;
    uint32_t live_rows; /* rows that had their item when they were mapped */
    uint64_t since;     /* recent log */
    uint64_t state_generation;
    uint64_t version; /* of the catalogue when the rows were mapped */
};

struct dn_retrieval {
    const struct dn_catalog *catalog;
    struct dn_epoch *epoch;
    char factory[DN_FACTORY_MAX]; /* "auto" or an index_factory string */
    char *cache_path;             /* NULL: none */
    uint32_t rebuild_changes;
    double depth;

    _Atomic(struct dn_generation *) current;
    _Atomic uint64_t phase;
    _Atomic uint64_t inside[2];

    pthread_t thread;
    pthread_mutex_t lock; /* stop, status */
    pthread_cond_t wake;
    bool stop;
    struct dn_retrieval_status status;

    /* builder thread only */
    struct dn_epoch_reader *reader;
    bool cache_tried;
    uint64_t seen_changes, seen_generation;
    uint64_t quiet_since_us, crossed_since_us, failed_at_us;
};

/* ---- retrieval_build.c (builder thread) -------------------------------------------------------------------
 */

/* Builds from the catalogue as it is; the reader is this thread's. DN_ABORTED: the state changed hands. */
enum dn_code dn_built_make(struct dn_retrieval *retrieval, struct dn_epoch_reader *reader,
                           struct dn_generation **ret, struct dn_error *err);
/* Maps built's rows to the catalogue as it is. Takes a reference to built on success. */
enum dn_code dn_generation_map(struct dn_retrieval *retrieval, struct dn_epoch_reader *reader,
                               struct dn_built *built, struct dn_generation **ret, struct dn_error *err);
void dn_generation_free(struct dn_generation *generation);
void dn_built_release(struct dn_built *built);
/* The configured depth (dn_retrieval_options), in force from now on. */
void dn_built_set_depth(struct dn_built *built, double asked);
bool dn_built_selects(const struct dn_built *built);
/* Rows among which are the `want` nearest to a query of unit length, in no order; those below 0 are none.
 * ret_rows has room for dn_scan_room(want). lists: to look into, 0: IVF's own depth. allowed: bitmap of rows;
 * NULL: all. */
enum dn_code dn_built_search(const struct dn_built *built, const float *query, size_t want, size_t lists,
                             const uint8_t *allowed, struct dn_arena *scratch, int64_t *ret_rows,
                             size_t *ret_count, struct dn_error *err);
/* How many rows a search for k items asks for when nothing is left out. */
size_t dn_search_want(const struct dn_built *built, size_t k);
/* The factory string in use for so many vectors. */
void dn_factory_resolve(const char *factory, uint64_t vectors, char ret[DN_FACTORY_MAX]);
enum dn_code dn_factory_make(const char *factory, uint32_t dim, FaissIndex **ret, struct dn_error *err);

/* ---- retrieval_cache.c (builder thread)
 * -------------------------------------------------------------------- */

enum dn_code dn_cache_write(const char *path, const struct dn_built *built, struct dn_error *err);
/* DN_NOT_FOUND: no file. DN_CORRUPT: refused, with the reason. The caller releases. */
enum dn_code dn_cache_read(const char *path, struct dn_built **ret, struct dn_error *err);

/* ---- vectors
 * ------------------------------------------------------------------------------------------------ */

typedef float dn_lanes __attribute__((vector_size(8 * sizeof(float))));

/* Eight running sums: the order is fixed, so every path scores a pair alike. As a vector: at -O2 the loop
 * over them was not made one, and took eight times the instructions. */
static inline float dn_dot(const float *a, const float *b, uint32_t dim)
{
    dn_lanes sum = {0};
    uint32_t i = 0;
    for (; i + 8 <= dim; i += 8) {
        dn_lanes x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        sum += x * y;
    }
    float rest = 0;
    for (; i < dim; i++) {
        rest += a[i] * b[i];
    }
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7])) + rest;
}

#endif
