/* index/scan.c against brute force in double, on FAISS indexes of its own. What is drawn follows from the
 * seed: fixed, or from DUNLIN_TEST_SEED; failures print it. */
#include "support.h"

#include "index/retrieval_internal.h"

#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_factory_c.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define TOLERANCE 1e-4 /* of a cosine: of long vectors rounding may add up to that */
#define EXACT 1e-6     /* else what is nearest by exact scores is found, however near the others */
#define EXACT_DIM 130u
#define LISTS 16u /* of IVF below, at most */
#define TRAINED 64u
#define LANES_MAX (1u << 17) /* scan.c's: what it scores at once */

static const char *const factories[] = {"Flat", "IVF16,Flat", "IVF13,Flat" /* lists fill no block */};
static uint64_t seed = 20240611;
static struct rng rng;
static struct dn_arena *memory; /* for all tests */

static void *take(size_t count, size_t size)
{
    void *taken = dn_arena_zalloc(memory, count * size);
    assert_non_null(taken);
    return taken;
}

static double dot(const float *a, const float *b, uint32_t dim)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

/* The query may be of any length; one without direction scores 0. */
static double cosine(const float *query, const float *vector, uint32_t dim)
{
    double square = dot(query, query, dim);
    return square > 0 && isfinite(square) ? dot(query, vector, dim) / sqrt(square) : 0;
}

static void set_length(float *vector, uint32_t dim, double length)
{
    double scale = length / sqrt(dot(vector, vector, dim));
    for (uint32_t i = 0; i < dim; i++) {
        vector[i] = (float)((double)vector[i] * scale);
    }
}

static float *random_units(uint32_t dim, size_t count)
{
    float *vectors = take(count * dim, sizeof *vectors);
    for (size_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < dim; k++) {
            vectors[i * dim + k] = rng_unit(&rng) + 1e-7f; /* never zero */
        }
        set_length(vectors + i * dim, dim, 1);
    }
    return vectors;
}

/* Row i is at a cosine of 1 - i * step from the query, each in a direction of its own. */
static float *fan(const float *query, uint32_t dim, size_t rows, double step)
{
    float *vectors = random_units(dim, rows);
    for (size_t row = 0; row < rows; row++) {
        float *vector = vectors + row * dim;
        double along = cosine(query, vector, dim), wanted = 1 - (double)row * step;
        double aside = sqrt((1 - wanted * wanted) / (1 - along * along));
        for (uint32_t i = 0; i < dim; i++) {
            vector[i] = (float)((wanted - along * aside) * (double)query[i] + aside * (double)vector[i]);
        }
    }
    return vectors;
}

struct bed {
    const char *factory;
    const float *vectors; /* the test's */
    uint32_t dim;
    size_t rows;
    struct dn_scan *scans[2]; /* with vector instructions and without */
    FaissIndex *index;        /* where few lists are looked into */
};

struct asked {
    const float *query;
    size_t want, lists;
    const uint8_t *allowed;
};

static FaissIndex *index_trained(const char *factory, const float *vectors, uint32_t dim, size_t rows,
                                 const float *sample, size_t sampled)
{
    FaissIndex *index = NULL;
    struct dn_error err = {0};
    dn_faiss_one_thread();
    if (dn_factory_make(factory, dim, &index, &err) != DN_OK ||
        faiss_Index_train(index, (idx_t)sampled, sample) != 0 ||
        (rows > 0 && faiss_Index_add(index, (idx_t)rows, vectors) != 0)) {
        fail_msg("%s: %s %s", factory, err.message, faiss_get_last_error());
    }
    return index;
}

static FaissIndex *index_of(const char *factory, const float *vectors, uint32_t dim, size_t rows)
{
    return index_trained(factory, vectors, dim, rows, random_units(dim, TRAINED), TRAINED);
}

static struct bed bed_over(FaissIndex *index, const char *factory, const float *vectors, uint32_t dim,
                           size_t rows)
{
    struct bed bed = {factory, vectors, dim, rows, {dn_scan_make(index), dn_scan_make(index)}, index};
    assert_true(bed.scans[0] != NULL && bed.scans[1] != NULL);
    dn_scan_plain(bed.scans[1]);
    return bed;
}

static struct bed bed_open(const char *factory, const float *vectors, uint32_t dim, size_t rows)
{
    return bed_over(index_of(factory, vectors, dim, rows), factory, vectors, dim, rows);
}

static void bed_close(const struct bed *bed)
{
    faiss_Index_free(bed->index);
    dn_scan_free(bed->scans[0]);
    dn_scan_free(bed->scans[1]);
}

static void fail_at(const struct bed *bed, const struct asked *asked, const char *why)
{
    fail_msg("seed %llu: %s: %s, dim %u, rows %zu, want %zu, lists %zu, allowed %s", (unsigned long long)seed,
             why, bed->factory, bed->dim, bed->rows, asked->want, asked->lists,
             asked->allowed ? "some" : "all");
}

/* Strikes out what is not in the lists of the nearest centres. Returns how far behind the next centre is. */
static double leave_lists(const struct bed *bed, const float *query, size_t lists, bool *eligible)
{
    struct dn_faiss_plain plain;
    struct dn_faiss_list list;
    double scores[LISTS], last = 2, next = -2;
    assert_true(dn_faiss_as_plain(bed->index, &plain) && plain.lists == LISTS);
    for (size_t i = 0; i < LISTS; i++) {
        scores[i] = cosine(query, plain.centres + i * bed->dim, bed->dim);
    }
    for (size_t i = 0; i < LISTS; i++) {
        size_t better = 0;
        for (size_t k = 0; k < LISTS; k++) {
            better += scores[k] > scores[i];
        }
        *(better < lists ? &last : &next) = better < lists ? fmin(last, scores[i]) : fmax(next, scores[i]);
        dn_faiss_list_of(bed->index, i, &list);
        for (size_t k = 0; k < list.count && better >= lists; k++) {
            eligible[list.rows[k]] = false;
        }
    }
    return last - next;
}

/* What may be found; how many that are. */
static size_t mark_eligible(const struct bed *bed, const struct asked *asked, bool *ret)
{
    size_t count = 0;
    memset(ret, true, bed->rows);
    if (asked->lists < LISTS) {
        (void)leave_lists(bed, asked->query, asked->lists, ret);
    }
    for (size_t row = 0; row < bed->rows; row++) {
        ret[row] &= asked->allowed == NULL || (asked->allowed[row / 8] >> (row % 8) & 1) != 0;
        count += ret[row];
    }
    return count;
}

static int descending(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x < y) - (x > y);
}

/* At least so many as there should be, each once, and none left out that is among the true nearest. */
static void check_rows(const struct bed *bed, const struct asked *asked, const int64_t *rows, size_t count)
{
    bool *eligible = take(bed->rows, sizeof *eligible), *seen = take(bed->rows, sizeof *seen);
    double *scores = take(bed->rows + 1, sizeof *scores), missing = -2;
    size_t possible = mark_eligible(bed, asked, eligible), scored = 0;
    size_t wanted = asked->want < possible ? asked->want : possible;
    if (count < wanted || count > possible || count > dn_scan_room(asked->want)) {
        fail_at(bed, asked, "another count");
    }
    for (size_t i = 0; i < count; i++) {
        if (rows[i] < 0 || (size_t)rows[i] >= bed->rows || seen[rows[i]] || !eligible[rows[i]]) {
            fail_at(bed, asked, "found none of the rows, or twice, or not allowed, or of another list");
        }
        seen[rows[i]] = true;
    }
    for (size_t row = 0; row < bed->rows; row++) {
        double score = cosine(asked->query, bed->vectors + row * bed->dim, bed->dim);
        missing = eligible[row] && !seen[row] ? fmax(missing, score) : missing;
        scores[scored] = score;
        scored += eligible[row];
    }
    qsort(scores, scored, sizeof *scores, descending);
    if (wanted > 0 && missing > scores[wanted - 1] + (bed->dim > EXACT_DIM ? TOLERANCE : EXACT)) {
        fail_at(bed, asked, "did not find the nearest");
    }
}

/* Both scans find the same, and what is right. Room for just what may be written, for the sanitizers. */
static void check(const struct bed *bed, const struct asked *asked)
{
    int64_t *rows[2];
    size_t counts[2];
    for (size_t i = 0; i < 2; i++) {
        size_t room = dn_scan_room(asked->want) < bed->rows ? dn_scan_room(asked->want) : bed->rows;
        rows[i] = malloc(room * sizeof **rows + (room == 0));
        if (rows[i] == NULL || !dn_scan_search(bed->scans[i], asked->query, asked->want, asked->lists,
                                               asked->allowed, memory, rows[i], &counts[i])) {
            fail_at(bed, asked, "no answer");
        }
    }
    check_rows(bed, asked, rows[0], counts[0]);
    if (counts[0] != counts[1] || memcmp(rows[0], rows[1], counts[0] * sizeof **rows) != 0) {
        fail_at(bed, asked, "the plain scorer finds others");
    }
    free(rows[0]);
    free(rows[1]);
}

/* Just so many rows: beyond them there is nothing to read. */
static uint8_t *bitmap(size_t rows, uint32_t one_in)
{
    uint8_t *allowed = take((rows + 7) / 8, 1);
    for (size_t row = 0; row < rows && one_in > 0; row++) {
        allowed[row / 8] |= (uint8_t)((rng_below(&rng, one_in) == 0) << (row % 8));
    }
    return allowed;
}

/* Each factory; all rows allowed, none, half, few; every number of rows that matters. */
static void check_all(const float *vectors, uint32_t dim, size_t rows, const float *query)
{
    const size_t wants[] = {0, 1, 5, rows / 6, rows / 6 + 1, rows / 2, rows * 5 / 6, rows, rows + 3};
    const uint8_t *allowed[] = {NULL, bitmap(rows, 0), bitmap(rows, 2), bitmap(rows, 100)};
    for (size_t i = 0; i < COUNT(factories); i++) {
        struct bed bed = bed_open(factories[i], vectors, dim, rows);
        faiss_Index_free(bed.index); /* the scans do without */
        bed.index = NULL;
        for (size_t k = 0; k < COUNT(wants) * COUNT(allowed); k++) {
            check(&bed, &(struct asked){query, wants[k / 4], LISTS, allowed[k % 4]});
        }
        assert_true(dn_scan_bytes(bed.scans[0]) >= rows * (dim * sizeof(int16_t) + sizeof(uint32_t)));
        bed_close(&bed);
    }
}

static void test_brute_force(void **unused __attribute__((unused)))
{
    static const uint32_t dims[] = {1, 2, 3, 7, 64, 65, 130};
    static const size_t rows[] = {0, 1, 7, 8, 9, 100, 1000};
    for (size_t i = 0; i < COUNT(dims) * COUNT(rows); i++) {
        uint32_t dim = dims[i % COUNT(dims)];
        size_t count = rows[i / COUNT(dims)];
        const float *vectors = random_units(dim, count + 1);
        check_all(vectors, dim, count, vectors + count * dim); /* one that is no row */
        check_all(vectors, dim, count, vectors);
    }
}

/* A sixth is better than the four sixths that are equal, and those than the rest; in no order. Then all
 * differ by next to nothing. */
static void test_nearly_equal(void **unused __attribute__((unused)))
{
    static const double steps[] = {1e-4, 1e-5, 1e-3};
    float *vectors = take(600 * 64, sizeof *vectors);
    const float *query = random_units(64, 1), *three = fan(query, 64, 3, 0.3);
    for (size_t row = 0; row < 600; row++) {
        size_t place = row * 7 % 600, from = place < 400 ? 1 : place < 500 ? 0 : 2;
        memcpy(vectors + row * 64, three + from * 64, 64 * sizeof *three);
    }
    check_all(vectors, 64, 600, query);
    for (size_t i = 0; i < COUNT(steps); i++) {
        check_all(fan(query, 64, 1000, steps[i]), 64, 1000, query);
    }
}

/* Vectors as long as they may be, along the axes, then all of equal parts: sums of nearly +-2^30. */
static void test_extremes(void **unused __attribute__((unused)))
{
    static const uint32_t dims[] = {1, 2, 7, 64, DN_VECTOR_DIM_MAX};
    for (size_t i = 0; i < 2 * COUNT(dims); i++) {
        uint32_t dim = dims[i / 2];
        float *vectors = take(40 * dim, sizeof *vectors);
        double part = i % 2 == 0 ? 1.0009 : 1.0009 / sqrt(dim);
        for (uint32_t k = 0; k < 40 * dim; k++) {
            uint32_t row = k / dim;
            bool zero = i % 2 == 0 && k % dim != row / 2 % dim;
            vectors[k] = (float)(zero ? 0 : row % 2 == 0 ? part : -part);
        }
        check_all(vectors, dim, 40, vectors);
        check_all(vectors, dim, 40, vectors + dim);
    }
}

/* Queries of any length, also of none; then away from all rows, so that all scores are negative. */
static void test_queries(void **unused __attribute__((unused)))
{
    static const float lengths[] = {1e-30f, 1e-22f, 1e-6f, 3, 1e6f, 1e25f, 0, INFINITY, NAN, -1, -1e25f};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        float *query = random_units(65, 1);
        const float *vectors = fan(query, 65, 300, 1e-3);
        for (uint32_t k = 0; k < 65; k++) {
            query[k] *= lengths[i];
        }
        check_all(vectors, 65, 300, query);
    }
}

/* Just the rows of the lists with the nearest centres are looked at. */
static void test_few_lists(void **unused __attribute__((unused)))
{
    struct bed bed = bed_open("IVF16,Flat", random_units(65, 500), 65, 500);
    const uint8_t *allowed[] = {NULL, bitmap(500, 4)};
    bool ignored[500];
    size_t checked = 0;
    for (size_t round = 0; round < 600; round++) {
        const float *query = random_units(65, 1);
        size_t lists = 1 + round % (LISTS - 1), want = 1 + rng_below(&rng, 600);
        if (leave_lists(&bed, query, lists, ignored) > TOLERANCE) { /* else rounding may choose others */
            check(&bed, &(struct asked){query, want, lists, allowed[round % 2]});
            checked++;
        }
    }
    assert_in_range(checked, 500, 600);
    bed_close(&bed);
}

/* Rows along axes: to a query along one of them nearly all centres are equally far, and must not push out the
 * nearest. */
static void test_equal_centres(void **unused __attribute__((unused)))
{
    float *vectors = take(160 * 32, sizeof *vectors);
    bool eligible[160];
    size_t checked = 0;
    for (size_t row = 0; row < 160; row++) {
        vectors[row * 32 + row % 32] = 1;
    }
    FaissIndex *index = index_trained("IVF16,Flat", vectors, 32, 160, vectors, 160);
    struct bed bed = bed_over(index, "IVF16,Flat", vectors, 32, 160);
    for (size_t axis = 0; axis < 32; axis++) {
        int64_t rows[160];
        size_t count = 0, missed = 0;
        memset(eligible, true, sizeof eligible);
        if (leave_lists(&bed, vectors + axis * 32, 1, eligible) <= TOLERANCE) {
            continue;
        }
        assert_true(dn_scan_search(bed.scans[0], vectors + axis * 32, 160, 2, NULL, memory, rows, &count));
        for (size_t row = 0; row < 160; row++) {
            size_t at = 0;
            while (at < count && rows[at] != (int64_t)row) {
                at++;
            }
            missed += eligible[row] && at == count;
        }
        assert_int_equal(missed, 0);
        checked++;
    }
    assert_true(checked > 8);
    bed_close(&bed);
}

static void expect_none(FaissIndex *index)
{
    assert_null(dn_scan_make(index));
    faiss_Index_free(index);
}

static void test_not_ours(void **unused __attribute__((unused)))
{
    static const char *const others[] = {"HNSW8", "PCA4,Flat", "SQ8", "IVF4,SQ8", "IVF4_HNSW8,Flat"};
    static const double lengths[] = {1.002, 1e30, INFINITY, NAN};
    FaissIndex *index;
    for (size_t i = 0; i < COUNT(others); i++) {
        expect_none(index_of(others[i], random_units(16, 100), 16, 100));
    }
    assert_int_equal(faiss_index_factory(&index, 16, "Flat", METRIC_L2), 0);
    expect_none(index);
    assert_int_equal(faiss_index_factory(&index, 16, "IVF4,Flat", METRIC_INNER_PRODUCT), 0);
    expect_none(index); /* not trained */
    for (size_t i = 0; i < COUNT(lengths) + 1; i++) {
        float *vectors = random_units(16, 20);
        set_length(vectors + 19 * 16, 16, lengths[i % COUNT(lengths)]);
        expect_none(index_of(factories[i / COUNT(lengths)], vectors, 16, 20));
    }
    dn_scan_free(NULL);
    assert_int_equal(dn_scan_bytes(NULL), 0);
}

/* From no memory at all to enough: refused, without touching what is returned, until it is answered. */
static void test_small_arena(void **unused __attribute__((unused)))
{
    struct bed bed = bed_open("IVF16,Flat", random_units(9, 100), 9, 100);
    size_t bytes = 0, count = 77;
    int64_t rows[100] = {-5};
    for (bool answered = false; !answered && bytes < 100000; bytes += 16) {
        struct dn_arena *small = dn_arena_create(16, bytes);
        answered = dn_scan_search(bed.scans[0], bed.vectors, 30, LISTS, NULL, small, rows, &count);
        assert_true(answered || (count == 77 && rows[0] == -5));
        dn_arena_destroy(small);
    }
    assert_true(bytes > 100 * sizeof(int32_t));
    check_rows(&bed, &(struct asked){bed.vectors, 30, LISTS, NULL}, rows, count);
    bed_close(&bed);
}

static void test_too_many(void **unused __attribute__((unused)))
{
    const float *vectors = random_units(2, LANES_MAX + 1);
    struct bed bed = bed_open("Flat", vectors, 2, LANES_MAX);
    check(&bed, &(struct asked){vectors, 10, LISTS, NULL});
    bed_close(&bed);
    FaissIndex *more = index_of("Flat", vectors, 2, LANES_MAX + 1);
    expect_none(more);
}

/* More that may be the nearest than are handed out: no answer is better than a wrong one. */
static void test_too_near(void **unused __attribute__((unused)))
{
    size_t rows = DN_SCAN_NEAR_MAX + 100, count = 77;
    float *vectors = take(rows * 3, sizeof *vectors);
    int64_t found[1] = {-5};
    for (size_t row = 0; row < rows; row++) {
        vectors[row * 3] = 1;
    }
    struct bed bed = bed_open("Flat", vectors, 3, rows);
    assert_false(dn_scan_search(bed.scans[0], vectors, 10, 1, NULL, memory, found, &count));
    assert_true(count == 77 && found[0] == -5);
    bed_close(&bed);
}

int main(void)
{
    const char *text = getenv("DUNLIN_TEST_SEED");
    seed = text != NULL ? strtoull(text, NULL, 10) : seed;
    rng.state = seed * 2 + 1;
    memory = dn_arena_create(1 << 20, 1u << 30);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brute_force),   cmocka_unit_test(test_nearly_equal),
        cmocka_unit_test(test_extremes),      cmocka_unit_test(test_queries),
        cmocka_unit_test(test_few_lists),     cmocka_unit_test(test_not_ours),
        cmocka_unit_test(test_equal_centres), cmocka_unit_test(test_small_arena),
        cmocka_unit_test(test_too_many),      cmocka_unit_test(test_too_near),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    dn_arena_destroy(memory);
    return failed;
}
