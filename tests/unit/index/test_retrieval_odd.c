/* Vectors that nobody has, but anybody may put into a catalogue: the index is built over them all the same.
 */
#include "support.h"

#include "base/clock.h"
#include "index/retrieval_internal.h"

#include <math.h>
#include <unistd.h>

#define DIM 64u
#define ITEMS 2000u
#define WAIT_US 60000000u

/* Two of the first kind cancel but for what a float can hardly square: the query with which the builder
 * measures its index. It was rounded as if it were long. */
static void opposite(uint32_t id, struct rng *rng, float vector[DIM])
{
    for (uint32_t i = 0; i < DIM; i++) {
        vector[i] = i == 1 ? 1.35e-23f : 1.3e-23f;
    }
    vector[0] = rng_below(rng, 2) != 0 ? 1 : -1;
    for (uint32_t i = 0; id % 10 == 9 && i < DIM; i++) {
        vector[i] = 0.125f;
    }
}

static void load(struct world *w)
{
    struct rng rng = {.state = 5};
    for (uint32_t id = 0; id < ITEMS; id++) {
        float vector[DIM];
        char name[32];
        snprintf(name, sizeof name, "i%u", id);
        opposite(id, &rng, vector);
        struct dn_item item = plain_item(name, vector, DIM);
        assert_int_equal(world_upsert(w, &item), DN_ITEM_OK);
    }
}

static struct dn_retrieval *build(struct world *w, const char *factory, uint32_t items,
                                  struct dn_retrieval_status *ret)
{
    struct dn_retrieval *retrieval;
    struct dn_retrieval_options options = {.factory = factory, .rebuild_changes = 100};
    struct dn_error err = {0};
    assert_int_equal(dn_retrieval_create(w->catalog, w->epoch, &options, &retrieval, &err), DN_OK);
    for (uint64_t end = dn_monotonic_us() + WAIT_US; ret->built_items < items && dn_monotonic_us() < end;) {
        usleep(2000);
        dn_retrieval_status(retrieval, ret);
    }
    assert_int_equal(ret->built_items, items);
    return retrieval;
}

static void test_opposite_vectors(void **unused)
{
    (void)unused;
    struct world w;
    struct dn_retrieval_status status = {0};
    world_open(&w, 2 * ITEMS);
    load(&w);
    dn_retrieval_destroy(build(&w, "IVF8,Flat", ITEMS, &status));
    world_close(&w);
}

#define VARIANTS 300u
#define SPREAD 0.003f
#define K 20u

/* Groups of items that hardly differ: sizes of one shoe. */
static float *load_variants(struct world *w, uint32_t items)
{
    struct rng rng = {.state = 7};
    float *vectors = calloc((size_t)items * DIM, sizeof *vectors), base[DIM];
    assert_non_null(vectors);
    for (uint32_t id = 0; id < items; id++) {
        char name[32];
        float *vector = vectors + (size_t)id * DIM, square = 0;
        for (uint32_t i = 0; i < DIM; i++) {
            base[i] = id % VARIANTS == 0 ? rng_unit(&rng) : base[i];
            vector[i] = base[i] + SPREAD * rng_unit(&rng);
            square += vector[i] * vector[i];
        }
        for (uint32_t i = 0; i < DIM; i++) {
            vector[i] /= sqrtf(square);
        }
        snprintf(name, sizeof name, "i%u", id);
        struct dn_item item = plain_item(name, vector, DIM);
        assert_int_equal(world_upsert(w, &item), DN_ITEM_OK);
    }
    return vectors;
}

/* How many of the K hits are as near as the true K-th. */
static uint32_t near_enough(const float *vectors, uint32_t items, const float *query,
                            const struct dn_hit *hits, size_t count)
{
    uint32_t found = 0;
    for (size_t h = 0; h < count; h++) {
        uint32_t better = 0;
        for (uint32_t id = 0; id < items; id++) {
            better += dn_dot(query, vectors + (size_t)id * DIM, DIM) > hits[h].score + 1e-6f;
        }
        found += better < K;
    }
    return found;
}

static void check_variants(const char *factory, uint32_t items)
{
    struct world w;
    struct dn_retrieval_status status = {0};
    world_open(&w, 2 * items);
    float *vectors = load_variants(&w, items);
    struct dn_retrieval *retrieval = build(&w, factory, items, &status);
    struct dn_arena *arena = dn_arena_create(1 << 20, 1 << 25);
    uint32_t found = 0;
    for (uint32_t q = 0; q < 50; q++) {
        const float *query = vectors + (size_t)(q * items / 50) * DIM;
        struct dn_hit hits[K];
        struct dn_error err;
        size_t count = 0;
        dn_epoch_enter(w.reader);
        assert_int_equal(dn_retrieval_search(retrieval, w.catalog, query, DIM, K, NULL, NULL, 0, arena, hits,
                                             &count, &err),
                         DN_OK);
        dn_epoch_leave(w.reader);
        found += near_enough(vectors, items, query, hits, count);
        dn_arena_reset(arena);
    }
    print_message("%s: recall %.3f\n", factory, found / (50.0 * K));
    assert_true(found >= 50 * K * 99 / 100);
    dn_arena_destroy(arena);
    dn_retrieval_destroy(retrieval);
    free(vectors);
    world_close(&w);
}

/* Rounded scores alone found half of the nearest among such. */
static void test_variants(void **unused)
{
    (void)unused;
    check_variants("Flat", 6000);
    check_variants("IVF64,Flat", 6000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_opposite_vectors),
                                       cmocka_unit_test(test_variants)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
