/* One search: what was built (scan.h, or FAISS), exactly over what changed since, one result.
 *
 * Order matters (catalog_internal.h, invariant 5): the index, then each row against the directory, and only
 * then the recent log's head: an item that changed in between is met in the log.
 *
 * Which way the index is asked:
 *   - no filter terms, or terms that a sample says pass often: some more than k, then drop what does not
 * pass;
 *   - otherwise, or when that gave too few: a bitmap of the rows that pass; few of them: exactly, without
 * FAISS; else FAISS inside the bitmap, and exactly if that still gave too few (an IVF's unprobed lists,
 * HNSW). Everything is scanned exactly while there is no index for the catalogue's present state. */
#include "index/retrieval_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROW_STAGES 3u        /* of prefetch_row */
#define ROWS_AHEAD 4u        /* steps from one to the next */
#define FLOATS_A_LINE 16u    /* of the cache */
#define SAMPLE_ROWS 256u     /* rows looked at to guess how often a filter passes */
#define SAMPLE_PASS_MIN 4u   /* fewer of them pass: the guess is worth nothing */
#define OVERSAMPLE_MAX 4096u /* rows asked of the index at once */
#define OVERSAMPLE 1.1       /* times what is wanted */
#define OVERSAMPLE_TERMS 1.5 /* where a sample guessed how many pass */
#define OVERSAMPLE_SLACK 8u
#define PREFETCH_ROWS 12u
#define INSERTION_MAX 64u
#define EXACT_ROWS_MAX 2048u /* passing rows that are scored without FAISS */

struct search {
    const struct dn_state *state;
    const struct dn_generation *generation;
    const struct dn_filter *filter;
    bool terms;
    const float *query; /* unit length */
    uint32_t dim;
    const uint32_t *excluded; /* sorted */
    size_t excluded_count;
    struct dn_arena *scratch;
    /* The k best so far: in no order until there are so many, then a heap with the worst on top. */
    struct dn_hit *heap;
    size_t count, k;
    bool heaped;
};

/* ---- collecting
 * ------------------------------------------------------------------------------------------------ */

static bool better(struct dn_hit a, struct dn_hit b)
{
    return a.score > b.score || (a.score == b.score && a.slot < b.slot);
}

static void sift_down(struct dn_hit *heap, size_t count, size_t at)
{
    for (;;) {
        size_t worst = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++) {
            if (better(heap[worst], heap[child])) {
                worst = child;
            }
        }
        if (worst == at) {
            return;
        }
        struct dn_hit swap = heap[at];
        heap[at] = heap[worst];
        heap[worst] = swap;
        at = worst;
    }
}

static void make_heap(struct search *s)
{
    for (size_t at = s->heaped ? 0 : s->count / 2; at-- > 0;) {
        sift_down(s->heap, s->count, at);
    }
    s->heaped = true;
}

static void push(struct search *s, uint32_t slot, float score, bool may_repeat)
{
    struct dn_hit hit = {.slot = slot, .score = score};
    if (s->count == s->k) {
        make_heap(s);
        if (!better(hit, s->heap[0])) {
            return;
        }
    }
    for (size_t i = 0; may_repeat && i < s->count; i++) {
        if (s->heap[i].slot == slot) {
            return; /* met before: either sight of it was true during this call */
        }
    }
    if (s->count == s->k) {
        s->heap[0] = hit;
        sift_down(s->heap, s->count, 0);
        return;
    }
    s->heap[s->count++] = hit;
    s->heaped = false;
}

/* To best-first order: a heap that is taken apart; few are sorted faster by moving each to its place. */
static void finish(struct search *s, struct dn_hit *ret_hits)
{
    if (s->count > INSERTION_MAX) {
        make_heap(s);
    }
    for (size_t end = s->count; s->count > INSERTION_MAX && end > 1; end--) {
        struct dn_hit swap = s->heap[0];
        s->heap[0] = s->heap[end - 1];
        s->heap[end - 1] = swap;
        sift_down(s->heap, end - 1, 0);
    }
    for (size_t i = 1; s->count <= INSERTION_MAX && i < s->count; i++) {
        struct dn_hit hit = s->heap[i];
        size_t at = i;
        for (; at > 0 && better(hit, s->heap[at - 1]); at--) {
            s->heap[at] = s->heap[at - 1];
        }
        s->heap[at] = hit;
    }
    memcpy(ret_hits, s->heap, s->count * sizeof *ret_hits);
}

/* ---- what passes
 * ------------------------------------------------------------------------------------------------- */

static bool is_excluded(const struct search *s, uint32_t slot)
{
    size_t low = 0, high = s->excluded_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->excluded[middle] == slot) {
            return true;
        }
        if (s->excluded[middle] < slot) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return false;
}

static bool passes(const struct search *s, const struct dn_block *block)
{
    if (block == NULL || block->dim != s->dim || is_excluded(s, block->slot)) {
        return false;
    }
    if (s->filter == NULL) {
        return true;
    }
    if (s->filter->only_available && !block->available) {
        return false;
    }
    if (!s->terms) {
        return true;
    }
    struct dn_item item;
    dn_block_view(block, &item);
    return dn_filter_match(s->filter, &item);
}

/* The block that a row stands for, if it still does. */
static const struct dn_block *row_block(const struct search *s, uint32_t row)
{
    const struct dn_place *place = &s->generation->places[row];
    const struct dn_block *block = dn_state_block(s->state, place->slot);
    bool same = block != NULL && dn_place_check(block->id_hash, block->vector_hash) == place->check;
    return same ? block : NULL;
}

static void score(struct search *s, const struct dn_block *block, bool may_repeat)
{
    push(s, block->slot, dn_dot(s->query, block->vector, s->dim), may_repeat);
}

/* ---- exactly
 * ------------------------------------------------------------------------------------------------------- */

static void scan_everything(struct search *s)
{
    s->count = 0;
    uint32_t bound = atomic_load_explicit(&s->state->slot_bound, memory_order_acquire);
    for (uint32_t slot = 0; slot < bound; slot++) {
        const struct dn_block *block = dn_state_block(s->state, slot);
        if (passes(s, block)) {
            score(s, block, false);
        }
    }
}

/* Items no row covers, then the log. False: the log has dropped what this generation needs of it. */
static bool scan_recent(struct search *s)
{
    const struct dn_generation *g = s->generation;
    for (size_t i = 0; i < g->uncovered_count; i++) {
        const struct dn_block *block = dn_state_block(s->state, g->uncovered[i]);
        if (passes(s, block)) {
            score(s, block, true);
        }
    }
    uint64_t head = atomic_load_explicit(&s->state->log_head, memory_order_acquire);
    if (head - g->since > (uint64_t)DN_LOG_CHUNK * (DN_LOG_CHUNKS - 1) ||
        head - g->since > atomic_load_explicit(&s->state->slot_bound, memory_order_acquire)) {
        return head == g->since;
    }
    for (uint64_t seq = g->since; seq < head;) {
        const struct dn_log_chunk *chunk =
            atomic_load_explicit(&s->state->log[(seq / DN_LOG_CHUNK) % DN_LOG_CHUNKS], memory_order_acquire);
        uint64_t base = seq - seq % DN_LOG_CHUNK;
        if (chunk == NULL || chunk->base != base) {
            return false;
        }
        for (; seq < head && seq < base + DN_LOG_CHUNK; seq++) {
            const struct dn_block *block = dn_state_block(s->state, chunk->slots[seq - base]);
            /* Changed again: its later entry will do, unless that lies behind the head read above. */
            if (block == NULL || (block->log_seq != seq && block->log_seq < head)) {
                continue;
            }
            if (passes(s, block)) {
                score(s, block, true);
            }
        }
    }
    return true;
}

/* ---- the index
 * -----------------------------------------------------------------------------------------------------------
 */

/* Lists to probe so that about `reach` rows are within reach; 0: the index's own depth does. */
static size_t lists_for(const struct dn_built *built, uint64_t reach)
{
    if (built->kind != DN_FAISS_IVF) {
        return 0;
    }
    uint64_t lists = built->depth;
    if (reach > DN_PROBE_K) {
        uint64_t wider = built->depth_wide > built->depth ? built->depth_wide - built->depth : 0;
        uint64_t by_line = wider * (reach - DN_PROBE_K) / (DN_PROBE_WIDE - DN_PROBE_K);
        uint64_t by_room = 2 * reach * built->lists / built->rows; /* at least where the rows would fit */
        lists += by_line > by_room ? by_line : by_room;
    }
    return lists < built->lists ? (size_t)lists : built->lists;
}

/* Rows lie all over memory, and each look behind the last is another miss: what a later step reads is asked
 * for some steps before. */
static void prefetch_row(const struct search *s, int64_t row, size_t stage)
{
    const struct dn_generation *g = s->generation;
    if (row < 0 || row >= (int64_t)g->built->rows) {
        return;
    }
    if (stage == 0) {
        __builtin_prefetch(&g->places[row]);
        return;
    }
    const struct dn_block *block = dn_state_block(s->state, g->places[row].slot);
    if (block == NULL) {
        return;
    }
    if (stage == 1) {
        __builtin_prefetch(block);
        __builtin_prefetch(&block->slot);
    } else if (block->dim == s->dim) {
        for (uint32_t i = 0; i < s->dim; i += FLOATS_A_LINE) {
            __builtin_prefetch(block->vector + i);
        }
    }
}

/* The scan makes up for what rounding hides (scan.h); other kinds need some more. */
size_t dn_search_want(const struct dn_built *built, size_t k)
{
    return built->scan != NULL ? k : (size_t)ceil((double)k * OVERSAMPLE) + OVERSAMPLE_SLACK;
}

enum dn_code dn_built_search(const struct dn_built *built, const float *query, size_t want, size_t lists,
                             const uint8_t *allowed, struct dn_arena *scratch, int64_t *ret_rows,
                             size_t *ret_count, struct dn_error *err)
{
    if (built->scan != NULL && dn_scan_search(built->scan, query, want, lists > 0 ? lists : built->depth,
                                              allowed, scratch, ret_rows, ret_count)) {
        return DN_OK;
    }
    float *scores = dn_arena_alloc(scratch, want * sizeof *scores);
    if (scores == NULL) {
        return dn_fail(err, DN_EXHAUSTED, "search for %zu neighbours: the request's memory is used up", want);
    }
    char error[256] = "";
    if (!dn_faiss_search(built->index, query, want, lists, allowed, (size_t)built->rows / 8 + 1, scores,
                         ret_rows, error, sizeof error)) {
        return dn_fail(err, DN_INTERNAL, "FAISS search: %s", error);
    }
    *ret_count = want;
    return DN_OK;
}

/* Asks for `want` rows and scores those that pass. *ret_met: how many passed. */
static enum dn_code ask_built(struct search *s, size_t want, size_t lists, const uint8_t *allowed,
                              size_t *ret_met, struct dn_error *err)
{
    const struct dn_built *built = s->generation->built;
    int64_t *rows = dn_arena_alloc(s->scratch, dn_scan_room(want) * sizeof *rows);
    size_t count = 0;
    if (rows == NULL) {
        return dn_fail(err, DN_EXHAUSTED, "search for %zu neighbours: the request's memory is used up", want);
    }
    enum dn_code code = dn_built_search(built, s->query, want, lists, allowed, s->scratch, rows, &count, err);
    if (code != DN_OK) {
        return code;
    }
    for (size_t i = 0; i < count + ROW_STAGES * ROWS_AHEAD; i++) {
        for (size_t stage = 0; stage < ROW_STAGES; stage++) {
            if (i >= stage * ROWS_AHEAD && i - stage * ROWS_AHEAD < count) {
                prefetch_row(s, rows[i - stage * ROWS_AHEAD], stage);
            }
        }
        size_t at = i - ROW_STAGES * ROWS_AHEAD;
        if (i < ROW_STAGES * ROWS_AHEAD || rows[at] < 0 || rows[at] >= (int64_t)built->rows) {
            continue;
        }
        const struct dn_block *block = row_block(s, (uint32_t)rows[at]);
        if (passes(s, block)) {
            score(s, block, false);
            (*ret_met)++;
        }
    }
    return DN_OK;
}

/* About which share of rows will pass, in (0, 1]; 0: too few to tell. */
static double pass_share(const struct search *s)
{
    const struct dn_generation *g = s->generation;
    uint32_t rows = g->built->rows;
    if (s->terms) {
        uint32_t sample = rows < SAMPLE_ROWS ? rows : SAMPLE_ROWS;
        uint32_t met = 0;
        for (uint32_t i = 0; i < sample; i++) {
            met += passes(s, row_block(s, (uint32_t)((uint64_t)i * rows / sample)));
        }
        return met < SAMPLE_PASS_MIN ? 0 : (double)met / sample;
    }
    double share = 1;
    uint64_t items = atomic_load_explicit(&s->state->item_count, memory_order_relaxed);
    if (s->filter != NULL && s->filter->only_available && items > 0) {
        uint64_t away = atomic_load_explicit(&s->state->unavailable_count, memory_order_relaxed);
        share = away < items ? (double)(items - away) / (double)items : 0;
    }
    uint64_t logged = atomic_load_explicit(&s->state->log_head, memory_order_relaxed) - g->since;
    uint64_t vectors = atomic_load_explicit(&s->state->vector_count, memory_order_relaxed);
    uint64_t stale = (uint64_t)(rows - g->live_rows) + logged + (rows > vectors ? rows - vectors : 0);
    return stale < rows ? share * (double)(rows - stale) / rows : 0;
}

/* The rows that pass, as a bitmap, and the first of them as a list. */
static enum dn_code select_rows(struct search *s, uint8_t **ret_allowed, const struct dn_block **listed,
                                size_t *ret_passing, struct dn_error *err)
{
    uint32_t rows = s->generation->built->rows;
    uint8_t *allowed = dn_arena_zalloc(s->scratch, (size_t)rows / 8 + 1);
    if (allowed == NULL) {
        return dn_fail(err, DN_EXHAUSTED, "filtered search over %u items: the request's memory is used up",
                       rows);
    }
    size_t passing = 0;
    for (uint32_t row = 0; row < rows; row++) {
        if (row + PREFETCH_ROWS < rows) {
            /* Blocks lie all over memory: that wait, not the matching, is the cost. */
            const struct dn_block *ahead =
                dn_state_block(s->state, s->generation->places[row + PREFETCH_ROWS].slot);
            if (ahead != NULL) {
                __builtin_prefetch(ahead);
                __builtin_prefetch(&ahead->category);
                __builtin_prefetch(&ahead->available);
            }
        }
        const struct dn_block *block = row_block(s, row);
        if (!passes(s, block)) {
            continue;
        }
        allowed[row / 8] |= (uint8_t)(1u << (row % 8));
        if (passing < EXACT_ROWS_MAX) {
            listed[passing] = block;
        }
        passing++;
    }
    *ret_allowed = allowed;
    *ret_passing = passing;
    return DN_OK;
}

static void scan_allowed(struct search *s, const uint8_t *allowed)
{
    s->count = 0;
    for (uint32_t row = 0; row < s->generation->built->rows; row++) {
        if ((allowed[row / 8] >> (row % 8) & 1) == 0) {
            continue;
        }
        const struct dn_block *block = row_block(s, row);
        if (passes(s, block)) {
            score(s, block, false);
        }
    }
}

static enum dn_code search_selected(struct search *s, struct dn_error *err)
{
    const struct dn_built *built = s->generation->built;
    const struct dn_block **listed = dn_arena_alloc(s->scratch, EXACT_ROWS_MAX * sizeof(struct dn_block *));
    if (listed == NULL) {
        return dn_fail(err, DN_EXHAUSTED, "filtered search: the request's memory is used up");
    }
    uint8_t *allowed = NULL;
    size_t passing = 0;
    s->count = 0;
    enum dn_code code = select_rows(s, &allowed, listed, &passing, err);
    if (code != DN_OK) {
        return code;
    }
    if (passing <= EXACT_ROWS_MAX) {
        for (size_t i = 0; i < passing; i++) {
            score(s, listed[i], false);
        }
        return DN_OK;
    }
    size_t want = s->k + OVERSAMPLE_SLACK < passing ? s->k + OVERSAMPLE_SLACK : passing;
    size_t lists = lists_for(built, (uint64_t)want * built->rows / passing);
    size_t wanted = s->k < passing ? s->k : passing;
    size_t met = 0;
    if (built->selects && want <= OVERSAMPLE_MAX) {
        code = ask_built(s, want, lists, allowed, &met, err);
    }
    if (code == DN_OK && met < wanted) {
        scan_allowed(s, allowed);
    }
    return code;
}

static enum dn_code search_rows(struct search *s, struct dn_error *err)
{
    const struct dn_built *built = s->generation->built;
    double share = pass_share(s);
    if (s->terms && share * built->rows <= EXACT_ROWS_MAX) {
        return search_selected(s, err); /* few enough to score them all */
    }
    double want = INFINITY;
    if (share >= 1 && !s->terms) {
        want = (double)dn_search_want(built, s->k);
    } else if (share > 0) {
        want = ceil((double)s->k / share * (s->terms ? OVERSAMPLE_TERMS : OVERSAMPLE)) + OVERSAMPLE_SLACK;
    }
    want += (double)s->excluded_count;
    if (want > OVERSAMPLE_MAX || want > (double)built->rows) {
        return search_selected(s, err);
    }
    size_t met = 0;
    enum dn_code code = ask_built(s, (size_t)want, lists_for(built, (uint64_t)want), NULL, &met, err);
    if (code != DN_OK || met >= s->k) {
        return code;
    }
    return search_selected(s, err);
}

/* ---- the call
 * -------------------------------------------------------------------------------------------------------- */

static unsigned guard_enter(struct dn_retrieval *retrieval)
{
    for (;;) {
        uint64_t phase = atomic_load(&retrieval->phase);
        atomic_fetch_add(&retrieval->inside[phase & 1], 1);
        if (atomic_load(&retrieval->phase) == phase) {
            return (unsigned)(phase & 1);
        }
        atomic_fetch_sub(&retrieval->inside[phase & 1], 1);
    }
}

static void guard_leave(struct dn_retrieval *retrieval, unsigned side)
{
    atomic_fetch_sub(&retrieval->inside[side], 1);
}

static int compare_slots(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static enum dn_code prepare(struct search *s, const float *query, size_t k, const uint32_t *excluded,
                            size_t excluded_count, struct dn_error *err)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->dim; i++) {
        sum += (double)query[i] * (double)query[i];
    }
    if (!(sum > 0) || !isfinite(sum)) {
        return dn_fail(err, DN_INVALID, "query vector is zero or holds a number that is NaN or infinite");
    }
    uint32_t bound = atomic_load_explicit(&s->state->slot_bound, memory_order_acquire);
    s->k = k < bound ? k : bound;
    float *unit = dn_arena_alloc(s->scratch, s->dim * sizeof *unit);
    uint32_t *sorted = dn_arena_alloc(s->scratch, excluded_count * sizeof *sorted);
    s->heap = dn_arena_alloc(s->scratch, s->k * sizeof *s->heap);
    if (unit == NULL || sorted == NULL || s->heap == NULL) {
        return dn_fail(err, DN_EXHAUSTED, "search for %zu neighbours: the request's memory is used up", k);
    }
    double scale = 1.0 / sqrt(sum);
    for (uint32_t i = 0; i < s->dim; i++) {
        unit[i] = (float)((double)query[i] * scale);
    }
    if (excluded_count > 0) {
        memcpy(sorted, excluded, excluded_count * sizeof *sorted);
        qsort(sorted, excluded_count, sizeof *sorted, compare_slots);
    }
    s->query = unit;
    s->excluded = sorted;
    s->excluded_count = excluded_count;
    return DN_OK;
}

enum dn_code dn_retrieval_search(struct dn_retrieval *retrieval, const struct dn_catalog *catalog,
                                 const float *query, uint32_t dim, size_t k, const struct dn_filter *filter,
                                 const uint32_t *excluded, size_t excluded_count, struct dn_arena *scratch,
                                 struct dn_hit *ret_hits, size_t *ret_count, struct dn_error *err)
{
    struct search s = {
        .state = dn_catalog_state(catalog != NULL ? catalog : retrieval->catalog),
        .filter = filter,
        .terms = filter != NULL && filter->term_count > 0,
        .dim = dim,
        .scratch = scratch,
    };
    uint32_t catalog_dim = atomic_load_explicit(&s.state->dim, memory_order_acquire);
    if (k == 0 || query == NULL || dim == 0) {
        return dn_fail(err, DN_INVALID, "a search needs a query vector and k of at least 1");
    }
    if (catalog_dim != 0 && dim != catalog_dim) {
        return dn_fail(err, DN_INVALID, "query vector has %u numbers; the catalogue's have %u", dim,
                       catalog_dim);
    }
    enum dn_code code = prepare(&s, query, k, excluded, excluded_count, err);
    if (code != DN_OK) {
        return code;
    }
    if (s.k == 0 || catalog_dim == 0) {
        *ret_count = 0;
        return DN_OK;
    }
    dn_faiss_one_thread();
    unsigned side = guard_enter(retrieval);
    s.generation = atomic_load(&retrieval->current);
    if (s.generation == NULL || s.generation->state_generation != s.state->generation) {
        scan_everything(&s);
    } else {
        code = search_rows(&s, err);
        if (code == DN_OK && !scan_recent(&s)) {
            scan_everything(&s);
        }
    }
    guard_leave(retrieval, side);
    if (code == DN_OK) {
        finish(&s, ret_hits);
        *ret_count = s.count;
    }
    return code;
}
