/* Building the FAISS index, and mapping a built index onto the catalogue as it is now.
 *
 * Build: note the recent log's head -> copy every vector, chunk by chunk inside short epochs -> factory,
 * train, add -> choose the depth by measuring recall -> generation. What changes meanwhile is in the log from
 * the noted head on. Map: note the head -> look every row's item up by its hashes -> list the items no row
 * covers. */
#include "base/log.h"
#include "index/retrieval_internal.h"

#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_factory_c.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRAIN_POINTS_PER_LIST 64
#define TRAIN_ROUNDS 10
#define PROBE_QUERIES 48u /* queries that measure recall after a build */
#define RECALL_WANTED 0.99
#define PROBE_ARENA_BLOCK (1u << 20)
#define PROBE_ARENA_MAX (32u << 20)
#define HNSW_DEPTH_MIN 32u
#define HNSW_DEPTH_MAX 1024u
#define ADD_ROWS 4096u /* rows given to FAISS at once: a stop is noticed between */

struct rows {
    uint32_t count, capacity, dim;
    float *matrix;
    uint32_t *slots;
    uint64_t *id_hash, *vector_hash;
};

/* ---- life of what is built
 * ---------------------------------------------------------------------------------- */

static void built_free(struct dn_built *built)
{
    if (built == NULL) {
        return;
    }
    if (built->index != NULL) {
        faiss_Index_free(built->index);
    }
    dn_scan_free(built->scan);
    free(built->id_hash);
    free(built->vector_hash);
    free(built);
}

void dn_built_release(struct dn_built *built)
{
    if (built != NULL && --built->references == 0) {
        built_free(built);
    }
}

void dn_generation_free(struct dn_generation *generation)
{
    if (generation == NULL) {
        return;
    }
    dn_built_release(generation->built);
    free(generation->places);
    free(generation->uncovered);
    free(generation);
}

/* ---- factory
 * -------------------------------------------------------------------------------------------------- */

void dn_factory_resolve(const char *factory, uint64_t vectors, char ret[DN_FACTORY_MAX])
{
    if (strcmp(factory, "auto") != 0) {
        snprintf(ret, DN_FACTORY_MAX, "%s", factory);
    } else if (vectors < DN_AUTO_FLAT_BELOW) {
        snprintf(ret, DN_FACTORY_MAX, "Flat");
    } else {
        double lists = exp2(round(log2(4 * sqrt((double)vectors))));
        snprintf(ret, DN_FACTORY_MAX, "IVF%u,Flat", (unsigned)lists);
    }
}

enum dn_code dn_factory_make(const char *factory, uint32_t dim, FaissIndex **ret, struct dn_error *err)
{
    FaissIndex *index = NULL;
    if (faiss_index_factory(&index, (int)dim, factory, METRIC_INNER_PRODUCT) != 0 || index == NULL) {
        const char *why = faiss_get_last_error();
        return dn_fail(err, DN_INVALID, "FAISS does not understand the factory string '%s': %s", factory,
                       why != NULL ? why : "no reason given");
    }
    dn_faiss_bound_training(index, TRAIN_POINTS_PER_LIST, TRAIN_ROUNDS);
    *ret = index;
    return DN_OK;
}

/* ---- collecting vectors
 * ------------------------------------------------------------------------------------------ */

static void rows_free(struct rows *rows)
{
    free(rows->matrix);
    free(rows->slots);
    free(rows->id_hash);
    free(rows->vector_hash);
}

static bool grow(void **array, size_t count, size_t size)
{
    void *grown = realloc(*array, count * size);
    if (grown != NULL) {
        *array = grown;
    }
    return grown != NULL;
}

static bool rows_reserve(struct rows *rows, uint32_t capacity)
{
    if (capacity > DN_ROWS_MAX || !grow((void **)&rows->matrix, capacity, rows->dim * sizeof(float)) ||
        !grow((void **)&rows->slots, capacity, sizeof(uint32_t)) ||
        !grow((void **)&rows->id_hash, capacity, sizeof(uint64_t)) ||
        !grow((void **)&rows->vector_hash, capacity, sizeof(uint64_t))) {
        return false;
    }
    rows->capacity = capacity;
    return true;
}

static bool rows_add(struct rows *rows, uint32_t slot, const struct dn_block *block)
{
    if (rows->count == rows->capacity && !rows_reserve(rows, rows->capacity + rows->capacity / 2 + 1024)) {
        return false;
    }
    memcpy(rows->matrix + (size_t)rows->count * rows->dim, block->vector, rows->dim * sizeof(float));
    rows->slots[rows->count] = slot;
    rows->id_hash[rows->count] = block->id_hash;
    rows->vector_hash[rows->count] = block->vector_hash;
    rows->count++;
    return true;
}

/* What a walk over the catalogue starts from. */
struct origin {
    uint64_t generation, version, since;
    uint32_t dim;
    uint64_t vectors;
};

static struct origin origin_now(const struct dn_retrieval *retrieval, struct dn_epoch_reader *reader)
{
    dn_epoch_enter(reader);
    const struct dn_state *state = dn_catalog_state(retrieval->catalog);
    struct origin origin = {
        .generation = state->generation,
        .version = atomic_load_explicit(&state->version, memory_order_acquire),
        .since = atomic_load_explicit(&state->log_head, memory_order_acquire),
        .dim = atomic_load_explicit(&state->dim, memory_order_acquire),
        .vectors = atomic_load_explicit(&state->vector_count, memory_order_acquire),
    };
    dn_epoch_leave(reader);
    return origin;
}

/* Calls each(data, slot, block) for every block with a vector; short epochs. */
static enum dn_code walk(struct dn_retrieval *retrieval, struct dn_epoch_reader *reader,
                         const struct origin *origin,
                         bool (*each)(void *data, uint32_t slot, const struct dn_block *block), void *data)
{
    enum dn_code code = DN_OK;
    uint32_t bound = 1;
    for (uint32_t slot = 0; slot < bound && code == DN_OK;) {
        dn_epoch_enter(reader);
        const struct dn_state *state = dn_catalog_state(retrieval->catalog);
        if (state->generation != origin->generation) {
            code = DN_ABORTED;
        }
        bound = atomic_load_explicit(&state->slot_bound, memory_order_acquire);
        uint32_t end = slot + DN_DIRECTORY_CHUNK / 4;
        for (; code == DN_OK && slot < end && slot < bound; slot++) {
            const struct dn_block *block = dn_state_block(state, slot);
            if (block != NULL && block->dim == origin->dim && block->dim > 0 && !each(data, slot, block)) {
                code = DN_NO_MEMORY;
            }
        }
        dn_epoch_leave(reader);
    }
    return code;
}

static bool collect(void *data, uint32_t slot, const struct dn_block *block)
{
    return rows_add(data, slot, block);
}

/* ---- depth
 * -------------------------------------------------------------------------------------------------------- */

/* The k-th best score of each probe query, by brute force. `best` has room for k. */
static void probe_truth(const struct rows *rows, const float *queries, uint32_t k, float *best,
                        float *ret_kth)
{
    for (uint32_t q = 0; q < PROBE_QUERIES; q++) {
        uint32_t count = 0;
        for (uint32_t row = 0; row < rows->count; row++) {
            float score =
                dn_dot(queries + (size_t)q * rows->dim, rows->matrix + (size_t)row * rows->dim, rows->dim);
            if (count == k && score <= best[k - 1]) {
                continue;
            }
            uint32_t at = count < k ? count++ : k - 1;
            for (; at > 0 && best[at - 1] < score; at--) {
                best[at] = best[at - 1];
            }
            best[at] = score;
        }
        ret_kth[q] = best[count - 1];
    }
}

/* Every other one is an item, the rest the middle of two items, as a session's vector is. */
static void probe_queries(const struct rows *rows, float *ret_queries)
{
    for (uint32_t q = 0; q < PROBE_QUERIES; q++) {
        const float *a = rows->matrix + (size_t)((uint64_t)q * rows->count / PROBE_QUERIES) * rows->dim;
        uint64_t other = ((uint64_t)q * 2654435761u + 97) % rows->count;
        const float *b = q % 2 == 0 ? a : rows->matrix + (size_t)other * rows->dim;
        float *query = ret_queries + (size_t)q * rows->dim;
        for (uint32_t i = 0; i < rows->dim; i++) {
            query[i] = a[i] + b[i];
        }
    }
}

/* Asks as a search does; what it would return of what is found counts. */
static uint32_t probe_found(const struct dn_built *built, const struct rows *rows, const float *query,
                            uint32_t k, size_t depth, float kth, struct dn_arena *scratch)
{
    size_t want = dn_search_want(built, k) < rows->count ? dn_search_want(built, k) : rows->count, count = 0;
    int64_t *ids = dn_arena_alloc(scratch, dn_scan_room(want) * sizeof *ids);
    struct dn_error err;
    uint32_t found = 0;
    if (ids == NULL || dn_built_search(built, query, want, built->kind == DN_FAISS_IVF ? depth : 0, NULL,
                                       scratch, ids, &count, &err) != DN_OK) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        /* At least as near as the true k-th: ties count whichever row is named. */
        found +=
            ids[i] >= 0 && dn_dot(query, rows->matrix + (size_t)ids[i] * rows->dim, rows->dim) >= kth - 1e-6f;
    }
    return found < k ? found : k;
}

static double probe_recall(const struct dn_built *built, const struct rows *rows, const float *queries,
                           uint32_t k, size_t depth, const float *kth, struct dn_arena *scratch)
{
    uint32_t wanted = k < rows->count ? k : rows->count;
    uint64_t found = 0;
    for (uint32_t q = 0; q < PROBE_QUERIES; q++) {
        const float *query = queries + (size_t)q * rows->dim;
        found += probe_found(built, rows, query, wanted, depth, kth[q], scratch);
        dn_arena_reset(scratch);
    }
    return (double)found / (double)((uint64_t)wanted * PROBE_QUERIES);
}

/* The least depth, doubling from `least`, that finds the k nearest. Leaves the index at that depth. */
static size_t depth_for(struct dn_built *built, const struct rows *rows, const float *queries, uint32_t k,
                        size_t least, size_t most, struct dn_arena *scratch)
{
    float best[DN_PROBE_WIDE], kth[PROBE_QUERIES];
    probe_truth(rows, queries, k, best, kth);
    for (size_t depth = least;; depth = depth * 2 < most ? depth * 2 : most) {
        dn_faiss_set_depth(built->index, depth);
        if (depth >= most || probe_recall(built, rows, queries, k, depth, kth, scratch) >= RECALL_WANTED) {
            return depth;
        }
    }
}

void dn_built_set_depth(struct dn_built *built, double asked)
{
    bool ivf = built->kind == DN_FAISS_IVF;
    double most = ivf ? (double)built->lists : (double)HNSW_DEPTH_MAX;
    double depth = ceil(ivf ? asked * most : asked);
    built->depth = depth < 1 ? 1 : depth > most ? (size_t)most : (size_t)depth;
    built->depth_wide = built->depth;
    dn_faiss_set_depth(built->index, built->depth);
}

static enum dn_code choose_depth(struct dn_built *built, const struct rows *rows, double asked,
                                 struct dn_error *err)
{
    bool ivf = built->kind == DN_FAISS_IVF;
    size_t least = ivf ? 1 : HNSW_DEPTH_MIN;
    size_t most = ivf ? built->lists : HNSW_DEPTH_MAX;
    if (asked > 0) {
        dn_built_set_depth(built, asked);
        return DN_OK;
    }
    float *queries = calloc((size_t)PROBE_QUERIES * rows->dim, sizeof *queries);
    struct dn_arena *scratch = dn_arena_create(PROBE_ARENA_BLOCK, PROBE_ARENA_MAX);
    enum dn_code code = DN_OK;
    if (queries == NULL || scratch == NULL) {
        code = dn_fail(err, DN_NO_MEMORY, "measuring the index: out of memory");
    } else {
        probe_queries(rows, queries);
        built->depth = depth_for(built, rows, queries, DN_PROBE_K, least, most, scratch);
        built->depth_wide = built->depth;
        if (ivf) {
            built->depth_wide = depth_for(built, rows, queries, DN_PROBE_WIDE, built->depth, most, scratch);
        }
        dn_faiss_set_depth(built->index, built->depth);
    }
    dn_arena_destroy(scratch);
    free(queries);
    return code;
}

/* Asked of the index itself, since not every kind honours a set of allowed rows. */
bool dn_built_selects(const struct dn_built *built)
{
    if (built->scan != NULL) {
        return true;
    }
    float query[DN_VECTOR_DIM_MAX];
    for (uint32_t i = 0; i < built->dim; i++) {
        query[i] = 1;
    }
    size_t bytes = (size_t)built->rows / 8 + 1;
    uint8_t *allowed = calloc(1, bytes);
    if (allowed == NULL) {
        return false;
    }
    allowed[0] = 1;
    float scores[2];
    int64_t ids[2] = {-1, -1};
    char error[128];
    bool fine = dn_faiss_search(built->index, query, 2, built->lists, allowed, bytes, scores, ids, error,
                                sizeof error);
    free(allowed);
    return fine && ids[0] <= 0 && ids[1] <= 0;
}

/* ---- building
 * ------------------------------------------------------------------------------------------------------ */

static bool stopping(struct dn_retrieval *retrieval)
{
    pthread_mutex_lock(&retrieval->lock);
    bool stop = retrieval->stop;
    pthread_mutex_unlock(&retrieval->lock);
    return stop;
}

static enum dn_code train_and_add(struct dn_retrieval *retrieval, struct dn_built *built,
                                  const struct rows *rows, struct dn_error *err)
{
    if (faiss_Index_train(built->index, rows->count, rows->matrix) != 0) {
        return dn_fail(err, DN_INTERNAL, "training '%s' on %u vectors: %s", built->factory, rows->count,
                       faiss_get_last_error());
    }
    for (uint32_t row = 0; row < rows->count; row += ADD_ROWS) {
        if (stopping(retrieval)) {
            return dn_fail(err, DN_CANCELLED, "stopping");
        }
        uint32_t count = rows->count - row < ADD_ROWS ? rows->count - row : ADD_ROWS;
        if (faiss_Index_add(built->index, count, rows->matrix + (size_t)row * rows->dim) != 0) {
            return dn_fail(err, DN_INTERNAL, "adding to '%s': %s", built->factory, faiss_get_last_error());
        }
    }
    return DN_OK;
}

static enum dn_code built_from_rows(struct dn_retrieval *retrieval, struct rows *rows,
                                    const struct origin *origin, struct dn_built **ret, struct dn_error *err)
{
    struct dn_built *built = calloc(1, sizeof *built);
    if (built == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "building the index: out of memory");
    }
    built->references = 1;
    built->dim = rows->dim;
    built->rows = rows->count;
    built->version = origin->version;
    dn_factory_resolve(retrieval->factory, rows->count, built->factory);
    enum dn_code code = dn_factory_make(built->factory, rows->dim, &built->index, err);
    if (code != DN_OK) {
        goto fail;
    }
    built->kind = dn_faiss_kind(built->index);
    built->lists = dn_faiss_lists(built->index);
    code = train_and_add(retrieval, built, rows, err);
    if (code != DN_OK) {
        goto fail;
    }
    built->scan = dn_scan_make(built->index);
    if (built->kind != DN_FAISS_OTHER) {
        code = choose_depth(built, rows, retrieval->depth, err);
        if (code != DN_OK) {
            goto fail;
        }
    }
    built->selects = dn_built_selects(built);
    built->file_bytes = (size_t)rows->count * (rows->dim * sizeof(float) + 16);
    built->id_hash = rows->id_hash;
    built->vector_hash = rows->vector_hash;
    rows->id_hash = NULL;
    rows->vector_hash = NULL;
    *ret = built;
    return DN_OK;
fail:
    built_free(built);
    return code;
}

/* With their checks, and without slots. */
static struct dn_place *places_make(const struct dn_built *built)
{
    struct dn_place *places = calloc(built->rows, sizeof *places);
    for (uint32_t row = 0; places != NULL && row < built->rows; row++) {
        places[row].check = dn_place_check(built->id_hash[row], built->vector_hash[row]);
        places[row].slot = DN_SLOT_NONE;
    }
    return places;
}

enum dn_code dn_built_make(struct dn_retrieval *retrieval, struct dn_epoch_reader *reader,
                           struct dn_generation **ret, struct dn_error *err)
{
    struct origin origin = origin_now(retrieval, reader);
    struct rows rows = {.dim = origin.dim};
    struct dn_generation *generation = calloc(1, sizeof *generation);
    enum dn_code code = DN_NO_MEMORY;
    if (generation == NULL || !rows_reserve(&rows, (uint32_t)origin.vectors + 1024)) {
        code = dn_fail(err, DN_NO_MEMORY, "building the index of %llu vectors: out of memory",
                       (unsigned long long)origin.vectors);
        goto out;
    }
    code = walk(retrieval, reader, &origin, collect, &rows);
    if (code != DN_OK || rows.count == 0) {
        code = dn_fail(err, code == DN_NO_MEMORY ? code : DN_ABORTED,
                       "collecting vectors: the catalogue changed hands, or memory is out");
        goto out;
    }
    code = built_from_rows(retrieval, &rows, &origin, &generation->built, err);
    if (code != DN_OK) {
        goto out;
    }
    generation->places = places_make(generation->built);
    if (generation->places == NULL) {
        code = dn_fail(err, DN_NO_MEMORY, "places of %u rows: out of memory", rows.count);
        goto out;
    }
    for (uint32_t row = 0; row < rows.count; row++) {
        generation->places[row].slot = rows.slots[row];
    }
    generation->live_rows = generation->built->rows;
    generation->since = origin.since;
    generation->state_generation = origin.generation;
    generation->version = origin.version;
    *ret = generation;
    generation = NULL;
out:
    rows_free(&rows);
    dn_generation_free(generation);
    return code;
}

/* ---- mapping
 * ---------------------------------------------------------------------------------------------------------
 */

struct mapping {
    uint8_t *covered; /* by slot */
    size_t covered_slots;
    uint32_t *uncovered;
    size_t count, capacity;
};

static bool list_uncovered(void *data, uint32_t slot, const struct dn_block *block)
{
    (void)block;
    struct mapping *m = data;
    if (slot < m->covered_slots && (m->covered[slot / 8] >> (slot % 8) & 1) != 0) {
        return true;
    }
    if (m->count == m->capacity) {
        size_t capacity = m->capacity * 2 + 256;
        if (!grow((void **)&m->uncovered, capacity, sizeof *m->uncovered)) {
            return false;
        }
        m->capacity = capacity;
    }
    m->uncovered[m->count++] = slot;
    return true;
}

static enum dn_code map_rows(struct dn_retrieval *retrieval, struct dn_epoch_reader *reader,
                             const struct origin *origin, const struct dn_built *built,
                             struct dn_place *places, struct mapping *m, uint32_t *ret_stale)
{
    enum dn_code code = DN_OK;
    for (uint32_t row = 0; row < built->rows && code == DN_OK;) {
        dn_epoch_enter(reader);
        const struct dn_state *state = dn_catalog_state(retrieval->catalog);
        if (state->generation != origin->generation) {
            code = DN_ABORTED;
        }
        uint32_t end = row + DN_DIRECTORY_CHUNK / 4;
        for (; code == DN_OK && row < end && row < built->rows; row++) {
            const struct dn_block *block =
                dn_state_find_hashes(state, built->id_hash[row], built->vector_hash[row]);
            if (block == NULL) {
                (*ret_stale)++;
            } else {
                places[row].slot = block->slot;
                if (block->slot < m->covered_slots) {
                    m->covered[block->slot / 8] |= (uint8_t)(1u << (block->slot % 8));
                }
            }
        }
        dn_epoch_leave(reader);
    }
    return code;
}

enum dn_code dn_generation_map(struct dn_retrieval *retrieval, struct dn_epoch_reader *reader,
                               struct dn_built *built, struct dn_generation **ret, struct dn_error *err)
{
    struct origin origin = origin_now(retrieval, reader);
    if (origin.dim != built->dim) {
        return dn_fail(err, DN_PRECONDITION, "the index has vectors of %u numbers, the catalogue of %u",
                       built->dim, origin.dim);
    }
    struct mapping m = {.covered_slots = 0};
    struct dn_generation *generation = calloc(1, sizeof *generation);
    struct dn_place *places = places_make(built);
    dn_epoch_enter(reader);
    m.covered_slots = (size_t)dn_catalog_slot_bound(retrieval->catalog);
    dn_epoch_leave(reader);
    m.covered = calloc(1, m.covered_slots / 8 + 1);
    enum dn_code code = DN_NO_MEMORY;
    uint32_t stale = 0;
    if (generation != NULL && places != NULL && m.covered != NULL) {
        code = map_rows(retrieval, reader, &origin, built, places, &m, &stale);
    }
    if (code == DN_OK) {
        code = walk(retrieval, reader, &origin, list_uncovered, &m);
    }
    free(m.covered);
    if (code != DN_OK) {
        free(m.uncovered);
        free(places);
        free(generation);
        return dn_fail(err, code, "mapping the index to the catalogue: %s", dn_code_text(code));
    }
    built->references++;
    *generation = (struct dn_generation){
        .built = built,
        .places = places,
        .uncovered = m.uncovered,
        .uncovered_count = m.count,
        .live_rows = built->rows - stale,
        .since = origin.since,
        .state_generation = origin.generation,
        .version = origin.version,
    };
    *ret = generation;
    return DN_OK;
}
