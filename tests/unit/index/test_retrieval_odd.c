/* Vectors that nobody has, but anybody may put into a catalogue: the index is built over them all the same.
 */
#include "support.h"

#include "base/clock.h"

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

static void test_opposite_vectors(void **unused)
{
    (void)unused;
    struct world w;
    struct dn_retrieval *retrieval;
    struct dn_retrieval_options options = {.factory = "IVF8,Flat", .rebuild_changes = 100};
    struct dn_retrieval_status status = {0};
    struct dn_error err = {0};
    world_open(&w, 2 * ITEMS);
    load(&w);
    assert_int_equal(dn_retrieval_create(w.catalog, w.epoch, &options, &retrieval, &err), DN_OK);
    for (uint64_t end = dn_monotonic_us() + WAIT_US; status.built_items < ITEMS && dn_monotonic_us() < end;) {
        usleep(2000);
        dn_retrieval_status(retrieval, &status);
    }
    assert_int_equal(status.built_items, ITEMS);
    dn_retrieval_destroy(retrieval);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_opposite_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
