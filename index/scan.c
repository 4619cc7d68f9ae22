/* Searching vectors of 16-bit integers: scan.h. */
#include "index/scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LANES 8u
#define BLOCK_NUMBERS(pairs) ((pairs)*2 * LANES)
#define ONE 32000.0f        /* a number of 1: ONE * ONE and what rounding adds are below 2^30 */
#define LENGTH_MAX 1.001    /* of a vector */
#define STRUCK (-(1 << 30)) /* the score of what must not be found; others are above */
#define MAXIMA_A_WANTED 4u  /* scores are counted by the largest of every few: as many of these */
#define NEAR_A_WANTED 4u    /* what reaches the first guess is about that much, and seldom more */
/* Scored at once: 512 KiB of the request's memory; FAISS does more with less. */
#define LANES_MAX (1u << 17)
#define MARGIN 102400 /* a cosine of 1e-4: many times what rounding makes of two */
#define ROW_NONE UINT32_MAX
#define FIRST_BITS 10u /* of a score's 31, by which scores are counted at first, ... */
#define NEXT_BITS 10u  /* ... and then those that are as good as the last by them */
#define FIRST_SHIFT (31u - FIRST_BITS)
#define NEXT_SHIFT (FIRST_SHIFT - NEXT_BITS)

/* Scores blocks of eight vectors: sums of products. */
typedef void score_blocks(const int16_t *numbers, size_t blocks, const int16_t *query, size_t pairs,
                          int32_t *ret);

struct dn_scan {
    uint32_t dim;
    size_t pairs; /* of numbers: the last may have but one */
    size_t lists; /* 0: no lists, all rows are one */
    size_t bytes;
    score_blocks *score;
    int16_t *centres; /* of lists; [block][pair of numbers][lane][2] */
    int16_t *vectors; /* list after list, each filled up to whole blocks */
    size_t *first;    /* [lists + 1] blocks of `vectors` */
    uint32_t *rows;   /* [block][lane]; ROW_NONE: filled up */
};

/* ---- scoring ------------------------------------------------------------------------------------------ */

static void score_plain(const int16_t *numbers, size_t blocks, const int16_t *query, size_t pairs,
                        int32_t *ret)
{
    for (size_t block = 0; block < blocks; block++, ret += LANES) {
        int32_t sums[LANES] = {0};
        for (size_t pair = 0; pair < pairs; pair++, numbers += 2 * LANES) {
            for (size_t lane = 0; lane < LANES; lane++) {
                sums[lane] +=
                    numbers[2 * lane] * query[2 * pair] + numbers[2 * lane + 1] * query[2 * pair + 1];
            }
        }
        memcpy(ret, sums, sizeof sums);
    }
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i add_pair(__m256i sums, const int16_t *numbers, __m256i both)
{
    __m256i eight;
    memcpy(&eight, numbers, sizeof eight);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(eight, both));
}

/* Two blocks at a time share what is read of the query; the last may be alone, and is taken for both. */
AVX2 static void score_avx2(const int16_t *numbers, size_t blocks, const int16_t *query, size_t pairs,
                            int32_t *ret)
{
    size_t step = BLOCK_NUMBERS(pairs);
    for (; blocks > 0; numbers += 2 * step, ret += 2 * LANES) {
        const int16_t *second = blocks > 1 ? numbers + step : numbers;
        __m256i a = _mm256_setzero_si256(), b = _mm256_setzero_si256();
        for (size_t pair = 0; pair < pairs; pair++) {
            int32_t both;
            memcpy(&both, query + 2 * pair, sizeof both);
            a = add_pair(a, numbers + pair * 2 * LANES, _mm256_set1_epi32(both));
            b = add_pair(b, second + pair * 2 * LANES, _mm256_set1_epi32(both));
        }
        memcpy(ret, &a, sizeof a);
        if (blocks == 1) {
            return;
        }
        memcpy(ret + LANES, &b, sizeof b);
        blocks -= 2;
    }
}
#endif

static score_blocks *best_scorer(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return score_avx2;
    }
#endif
    return score_plain;
}

void dn_scan_plain(struct dn_scan *scan)
{
    scan->score = score_plain;
}

/* ---- making ------------------------------------------------------------------------------------------- */

/* False: longer than a unit vector, or no number. */
static bool put_vector(int16_t *blocks, size_t place, const float *vector, uint32_t dim, size_t pairs)
{
    int16_t *numbers = blocks + place / LANES * BLOCK_NUMBERS(pairs) + place % LANES * 2;
    double square = 0;
    for (uint32_t i = 0; i < dim; i++) {
        square += (double)vector[i] * (double)vector[i];
    }
    if (!(square <= LENGTH_MAX * LENGTH_MAX)) {
        return false;
    }
    for (uint32_t i = 0; i < dim; i++) {
        numbers[(size_t)(i / 2) * 2 * LANES + i % 2] = (int16_t)lrintf(vector[i] * ONE);
    }
    return true;
}

static size_t blocks_for(size_t count)
{
    return (count + LANES - 1) / LANES;
}

/* The rows of one list, from the block *at on. */
static bool put_list(struct dn_scan *scan, const struct dn_faiss_list *list, size_t *at)
{
    size_t place = *at * LANES;
    for (size_t i = 0; i < list->count; i++) {
        if (!put_vector(scan->vectors, place + i, list->vectors + i * scan->dim, scan->dim, scan->pairs)) {
            return false;
        }
        scan->rows[place + i] = list->rows == NULL ? (uint32_t)i : (uint32_t)list->rows[i];
    }
    for (size_t i = list->count; i % LANES != 0; i++) {
        scan->rows[place + i] = ROW_NONE;
    }
    *at += blocks_for(list->count);
    return true;
}

static bool allocate(struct dn_scan *scan, size_t lists, size_t blocks)
{
    size_t block_bytes = BLOCK_NUMBERS(scan->pairs) * sizeof(int16_t), centres = blocks_for(scan->lists);
    scan->first = calloc(lists + 1, sizeof *scan->first);
    scan->rows = calloc(blocks + 1, LANES * sizeof *scan->rows);
    scan->vectors = calloc(blocks + 1, block_bytes);
    scan->centres = calloc(centres + 1, block_bytes);
    scan->bytes = (blocks + centres) * block_bytes + blocks * LANES * sizeof *scan->rows;
    return scan->first != NULL && scan->rows != NULL && scan->vectors != NULL && scan->centres != NULL;
}

static bool fill(struct dn_scan *scan, const FaissIndex *index, const struct dn_faiss_plain *plain)
{
    struct dn_faiss_list list;
    size_t lists = plain->lists > 0 ? plain->lists : 1, blocks = 0, at = 0;
    for (size_t i = 0; i < lists; i++) {
        dn_faiss_list_of(index, i, &list);
        blocks += blocks_for(list.count);
    }
    if ((plain->lists == 0 && blocks * LANES > LANES_MAX) || !allocate(scan, lists, blocks)) {
        return false;
    }
    for (size_t i = 0; i < plain->lists; i++) {
        if (!put_vector(scan->centres, i, plain->centres + i * scan->dim, scan->dim, scan->pairs)) {
            return false;
        }
    }
    for (size_t i = 0; i < lists; i++) {
        scan->first[i] = at;
        dn_faiss_list_of(index, i, &list);
        if (!put_list(scan, &list, &at)) {
            return false;
        }
    }
    scan->first[lists] = at;
    return true;
}

struct dn_scan *dn_scan_make(const FaissIndex *index)
{
    struct dn_faiss_plain plain;
    if (!dn_faiss_as_plain(index, &plain)) {
        return NULL;
    }
    struct dn_scan *scan = calloc(1, sizeof *scan);
    if (scan == NULL) {
        return NULL;
    }
    scan->dim = (uint32_t)plain.dim;
    scan->pairs = (plain.dim + 1) / 2;
    scan->lists = plain.lists;
    scan->score = best_scorer();
    if (!fill(scan, index, &plain)) {
        dn_scan_free(scan);
        return NULL;
    }
    return scan;
}

void dn_scan_free(struct dn_scan *scan)
{
    if (scan == NULL) {
        return;
    }
    free(scan->centres);
    free(scan->vectors);
    free(scan->first);
    free(scan->rows);
    free(scan);
}

size_t dn_scan_bytes(const struct dn_scan *scan)
{
    return scan == NULL ? 0 : scan->bytes;
}

/* ---- the best ----------------------------------------------------------------------------------------- */

static uint32_t key_of(int32_t score)
{
    return (uint32_t)(score - STRUCK);
}

/* From the last bucket down to where `want` have been met. *ret_met: without that one. */
static uint32_t cut_at(const uint32_t *buckets, uint32_t count, size_t want, size_t *ret_met)
{
    uint32_t cut = count - 1;
    size_t met = 0;
    while (cut > 0 && met + buckets[cut] < want) {
        met += buckets[cut--];
    }
    *ret_met = met;
    return cut;
}

/* Never down to what was struck out. */
static int32_t lowered(int32_t score, int32_t margin)
{
    return score - STRUCK > margin ? score - margin : STRUCK + 1;
}

/* A score that at least `want` reach, if there are so many: the largest of every few are counted, `count`
 * being whole blocks. Above STRUCK. */
static int32_t reached_by(const int32_t *scores, size_t count, size_t want)
{
    uint32_t buckets[1u << FIRST_BITS] = {0};
    size_t each = count / (MAXIMA_A_WANTED * want + 1) / LANES * LANES, met;
    each = each > LANES ? each : LANES;
    for (size_t at = 0; at < count; at += each) {
        int32_t most[LANES];
        memcpy(most, scores + at, sizeof most);
        for (size_t i = at + LANES; i < at + each && i < count; i += LANES) {
            for (size_t lane = 0; lane < LANES; lane++) {
                most[lane] = scores[i + lane] > most[lane] ? scores[i + lane] : most[lane];
            }
        }
        for (size_t lane = 0; lane < LANES; lane++) {
            buckets[key_of(most[lane]) >> FIRST_SHIFT]++;
        }
    }
    uint32_t cut = cut_at(buckets, 1u << FIRST_BITS, want, &met);
    return cut > 0 ? STRUCK + (int32_t)(cut << FIRST_SHIFT) : STRUCK + 1;
}

/* Places that reach `least`, in order; SIZE_MAX: they are more than `room`. */
static size_t reaching(const int32_t *scores, size_t count, int32_t least, uint32_t *ret, size_t room)
{
    size_t found = 0;
    for (size_t at = 0; at < count; at += LANES) {
        int32_t any = 0;
        for (size_t lane = 0; lane < LANES; lane++) {
            any |= scores[at + lane] >= least;
        }
        if (any == 0) {
            continue;
        }
        if (found + LANES > room) {
            return SIZE_MAX;
        }
        for (size_t lane = 0; lane < LANES; lane++) {
            ret[found] = (uint32_t)(at + lane);
            found += scores[at + lane] >= least;
        }
    }
    return found;
}

/* The want-th best score of those places, or a little less; there are more than `want`. */
static int32_t nth_score(const int32_t *scores, const uint32_t *places, size_t count, size_t want)
{
    uint32_t first[1u << FIRST_BITS] = {0}, next[1u << NEXT_BITS] = {0};
    for (size_t i = 0; i < count; i++) {
        first[key_of(scores[places[i]]) >> FIRST_SHIFT]++;
    }
    size_t above, met;
    uint32_t cut = cut_at(first, 1u << FIRST_BITS, want, &above);
    for (size_t i = 0; i < count; i++) {
        uint32_t key = key_of(scores[places[i]]);
        if (key >> FIRST_SHIFT == cut) {
            next[key >> NEXT_SHIFT & ((1u << NEXT_BITS) - 1)]++;
        }
    }
    uint32_t least = cut << NEXT_BITS | cut_at(next, 1u << NEXT_BITS, want - above, &met);
    return STRUCK + (int32_t)(least << NEXT_SHIFT);
}

/* Places of the best `want` scores of whole blocks, and of those that are worse by `margin` at most, in order
 * of places. ret has room for `room`. False: they are more. */
static bool best_of(const int32_t *scores, size_t count, size_t want, int32_t margin, uint32_t *ret,
                    size_t room, size_t *ret_count)
{
    int32_t least = reached_by(scores, count, want);
    size_t kept = 0, found = reaching(scores, count, lowered(least, margin), ret, room);
    if (found == SIZE_MAX) {
        return false;
    }
    if (found > want) {
        least = lowered(nth_score(scores, ret, found, want), margin);
        for (size_t i = 0; i < found; i++) {
            ret[kept] = ret[i];
            kept += scores[ret[i]] >= least;
        }
        found = kept;
    }
    *ret_count = found;
    return true;
}

/* ---- searching ---------------------------------------------------------------------------------------- */

/* Brought to unit length, whatever it has. */
static const int16_t *round_query(const struct dn_scan *scan, const float *query, struct dn_arena *scratch)
{
    int16_t *rounded = dn_arena_zalloc(scratch, scan->pairs * 2 * sizeof *rounded);
    double square = 0; /* of a float's range: neither 0 nor infinite, nor inexact, unless the query is */
    for (uint32_t i = 0; i < scan->dim; i++) {
        square += (double)query[i] * (double)query[i];
    }
    if (!(square > 0) || !isfinite(square)) {
        return rounded; /* no direction: all rows are as near */
    }
    double scale = (double)ONE / sqrt(square);
    for (uint32_t i = 0; rounded != NULL && i < scan->dim; i++) {
        rounded[i] = (int16_t)lrint((double)query[i] * scale);
    }
    return rounded;
}

/* Of places that best_of found without a margin just `want`: the extra ones are as good as the last, and go.
 */
static size_t drop_ties(const int32_t *scores, uint32_t *places, size_t count, size_t want)
{
    uint32_t last = UINT32_MAX;
    size_t ties = count - want, kept = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t key = key_of(scores[places[i]]) >> NEXT_SHIFT;
        last = key < last ? key : last;
    }
    for (size_t i = 0; i < count; i++) {
        bool drops = ties > 0 && key_of(scores[places[i]]) >> NEXT_SHIFT == last;
        ties -= drops;
        places[kept] = places[i];
        kept += !drops;
    }
    return kept;
}

/* The lists to look into, those of the nearest centres. */
static bool choose_lists(const struct dn_scan *scan, const int16_t *query, size_t lists,
                         struct dn_arena *scratch, uint32_t **ret, size_t *ret_count)
{
    size_t want = lists < scan->lists ? lists : scan->lists;
    size_t blocks = blocks_for(scan->lists);
    *ret = dn_arena_zalloc(scratch, (blocks + 1) * LANES * sizeof **ret);
    *ret_count = 1;
    if (*ret == NULL || scan->lists == 0) {
        return *ret != NULL; /* the one list */
    }
    int32_t *scores = dn_arena_alloc(scratch, blocks * LANES * sizeof *scores);
    if (scores == NULL) {
        return false;
    }
    scan->score(scan->centres, blocks, query, scan->pairs, scores);
    for (size_t i = scan->lists; i < blocks * LANES; i++) {
        scores[i] = STRUCK;
    }
    if (!best_of(scores, blocks * LANES, want, 0, *ret, (blocks + 1) * LANES, ret_count)) {
        return false;
    }
    if (*ret_count > want) {
        *ret_count = drop_ties(scores, *ret, *ret_count, want);
    }
    return true;
}

static bool is_allowed(uint32_t row, const uint8_t *allowed)
{
    return row != ROW_NONE && (allowed[row / 8] >> (row % 8) & 1) != 0;
}

/* Of a list; the rows that fill up its last block are struck out. */
static void score_list(const struct dn_scan *scan, size_t list, const int16_t *query, int32_t *ret)
{
    size_t first = scan->first[list], blocks = scan->first[list + 1] - first;
    const uint32_t *rows = scan->rows + first * LANES;
    scan->score(scan->vectors + first * BLOCK_NUMBERS(scan->pairs), blocks, query, scan->pairs, ret);
    for (size_t i = blocks > 0 ? (blocks - 1) * LANES : 0; i < blocks * LANES; i++) {
        ret[i] = rows[i] == ROW_NONE ? STRUCK : ret[i];
    }
}

/* The same where not all rows are allowed: blocks that have none need not be read. */
static void score_allowed(const struct dn_scan *scan, size_t list, const int16_t *query,
                          const uint8_t *allowed, int32_t *ret)
{
    for (size_t block = scan->first[list]; block < scan->first[list + 1]; block++, ret += LANES) {
        const uint32_t *rows = scan->rows + block * LANES;
        bool any = false;
        for (size_t lane = 0; lane < LANES && !any; lane++) {
            any = is_allowed(rows[lane], allowed);
        }
        if (any) {
            scan->score(scan->vectors + block * BLOCK_NUMBERS(scan->pairs), 1, query, scan->pairs, ret);
        }
        for (size_t lane = 0; lane < LANES; lane++) {
            ret[lane] = any && is_allowed(rows[lane], allowed) ? ret[lane] : STRUCK;
        }
    }
}

/* From places among the scores of the chosen lists to rows. Places come in order, so list after list. */
static void rows_of(const struct dn_scan *scan, const uint32_t *chosen, const uint32_t *places, size_t count,
                    int64_t *ret)
{
    size_t list = 0, begin = 0, end = 0;
    for (size_t i = 0; i < count; i++) {
        while (places[i] >= end) {
            begin = end;
            end += (scan->first[chosen[list] + 1] - scan->first[chosen[list]]) * LANES;
            list++;
        }
        ret[i] = scan->rows[scan->first[chosen[list - 1]] * LANES + (places[i] - begin)];
    }
}

size_t dn_scan_room(size_t want)
{
    return DN_SCAN_NEAR_MAX + NEAR_A_WANTED * want;
}

bool dn_scan_search(const struct dn_scan *scan, const float *query, size_t want, size_t lists,
                    const uint8_t *allowed, struct dn_arena *scratch, int64_t *ret_rows, size_t *ret_count)
{
    uint32_t *chosen;
    size_t count, lanes = 0, at = 0;
    const int16_t *rounded = round_query(scan, query, scratch);
    if (rounded == NULL || !choose_lists(scan, rounded, lists, scratch, &chosen, &count)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        lanes += (scan->first[chosen[i] + 1] - scan->first[chosen[i]]) * LANES;
    }
    int32_t *scores = lanes <= LANES_MAX ? dn_arena_alloc(scratch, lanes * sizeof *scores) : NULL;
    size_t room = dn_scan_room(want) < lanes ? dn_scan_room(want) : lanes;
    uint32_t *found = dn_arena_alloc(scratch, room * sizeof *found);
    if (scores == NULL || found == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (allowed == NULL) {
            score_list(scan, chosen[i], rounded, scores + at);
        } else {
            score_allowed(scan, chosen[i], rounded, allowed, scores + at);
        }
        at += (scan->first[chosen[i] + 1] - scan->first[chosen[i]]) * LANES;
    }
    if (!best_of(scores, lanes, want, MARGIN, found, room, ret_count)) {
        return false;
    }
    rows_of(scan, chosen, found, *ret_count, ret_rows);
    return true;
}
