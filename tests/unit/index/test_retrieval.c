/* Retrieval against brute force: exactness, recall, freshness, filters, the cache, and threads. */
#include "support.h"

#include "base/clock.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIM 32u
#define WAIT_US 60000000u /* far above what a build takes; only a failure waits so long */

/* ---- help
 * -------------------------------------------------------------------------------------------------------- */

static void name_of(uint32_t id, char ret[32])
{
    snprintf(ret, 32, "item-%u", id);
}

struct made {
    struct dn_item item;
    struct dn_attribute attribute;
    char id[32], category[32], rare[8];
    float vector[DIM];
};

/* Every 1000th item is rare, every 10th is away, categories go round. */
static void make_item(uint32_t id, uint32_t variant, struct made *ret)
{
    memset(ret, 0, sizeof *ret);
    name_of(id, ret->id);
    make_vector(id, variant, DIM, ret->vector);
    ret->item = plain_item(ret->id, ret->vector, DIM);
    snprintf(ret->category, sizeof ret->category, "cat-%u", id % 8);
    snprintf(ret->rare, sizeof ret->rare, "%s", id % 1000 == 7 ? "yes" : "no");
    ret->item.category = ret->category;
    ret->item.category_length = (uint16_t)strlen(ret->category);
    ret->item.price = id;
    ret->item.available = id % 10 != 3;
    ret->attribute = attribute("rare", ret->rare);
    ret->item.attributes = &ret->attribute;
    ret->item.attribute_count = 1;
}

static void put(struct world *w, uint32_t from, uint32_t to, uint32_t variant)
{
    struct made *made = calloc(500, sizeof *made);
    struct dn_item *items = calloc(500, sizeof *items);
    for (uint32_t id = from; id < to;) {
        uint32_t count = 0;
        for (; id < to && count < 500; id++, count++) {
            make_item(id, variant, &made[count]);
            items[count] = made[count].item;
        }
        dn_buffer_clear(&w->record);
        dn_catalog_record_upsert(&w->record, items, count);
        world_apply(w);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(world_outcome(w, i), DN_ITEM_OK);
        }
    }
    free(made);
    free(items);
}

static struct dn_retrieval *open_retrieval(struct world *w, const char *factory, const char *cache_dir,
                                           uint32_t rebuild_changes)
{
    struct dn_retrieval_options options = {
        .factory = factory, .cache_dir = cache_dir, .rebuild_changes = rebuild_changes};
    struct dn_retrieval *retrieval;
    struct dn_error err = {0};
    if (dn_retrieval_create(w->catalog, w->epoch, &options, &retrieval, &err) != DN_OK) {
        fail_msg("create: %s", err.message);
    }
    return retrieval;
}

/* Until the index covers `version` at least. */
static struct dn_retrieval_status wait_built(struct dn_retrieval *retrieval, uint64_t version)
{
    struct dn_retrieval_status status;
    uint64_t until = dn_monotonic_us() + WAIT_US;
    do {
        usleep(2000);
        dn_retrieval_status(retrieval, &status);
        if (dn_monotonic_us() > until) {
            fail_msg("no index for version %llu: built %llu, error '%s'", (unsigned long long)version,
                     (unsigned long long)status.built_version, status.error);
        }
    } while (status.built_version < version || status.building);
    return status;
}

static size_t search(struct world *w, struct dn_retrieval *retrieval, const float *query, size_t k,
                     const struct dn_filter *filter, const uint32_t *excluded, size_t excluded_count,
                     struct dn_hit *ret)
{
    size_t count = 0;
    struct dn_error err = {0};
    dn_arena_reset(w->arena);
    enum dn_code code = dn_retrieval_search(retrieval, NULL, query, DIM, k, filter, excluded, excluded_count,
                                            w->arena, ret, &count, &err);
    if (code != DN_OK) {
        fail_msg("search: %s", err.message);
    }
    return count;
}

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (uint32_t i = 0; i < DIM; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

/* By brute force over the catalogue as it is; in an epoch. Returns how many pass, best `k` scores in ret. */
static size_t brute(struct world *w, const float *query, size_t k, const struct dn_filter *filter,
                    const uint32_t *excluded, size_t excluded_count, double *ret)
{
    size_t count = 0;
    double norm = sqrt(dot(query, query));
    for (uint32_t slot = 0; slot < dn_catalog_slot_bound(w->catalog); slot++) {
        struct dn_item item;
        if (dn_catalog_get_slot(w->catalog, slot, &item) != DN_OK || item.vector == NULL ||
            !dn_filter_match(filter, &item)) {
            continue;
        }
        bool out = false;
        for (size_t i = 0; i < excluded_count; i++) {
            out = out || excluded[i] == slot;
        }
        if (out) {
            continue;
        }
        double score = dot(query, item.vector) / norm;
        size_t at = count < k ? count++ : k;
        for (; at > 0 && ret[at - 1] < score; at--) {
            if (at < k) {
                ret[at] = ret[at - 1];
            }
        }
        if (at < k) {
            ret[at] = score;
        }
    }
    return count;
}

/* The share of true neighbours found; checks everything that must hold whatever the index: order, no repeats,
 * true scores, only items that pass. */
static double check_search(struct world *w, struct dn_retrieval *retrieval, const float *query, size_t k,
                           const struct dn_filter *filter, const uint32_t *excluded, size_t excluded_count)
{
    struct dn_hit *hits = calloc(k, sizeof *hits);
    double *want = calloc(k + 1, sizeof *want);
    dn_epoch_enter(w->reader);
    size_t count = search(w, retrieval, query, k, filter, excluded, excluded_count, hits);
    size_t true_count = brute(w, query, k, filter, excluded, excluded_count, want);
    assert_int_equal(count, true_count);
    double norm = sqrt(dot(query, query));
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        struct dn_item item;
        assert_int_equal(dn_catalog_get_slot(w->catalog, hits[i].slot, &item), DN_OK);
        assert_true(dn_filter_match(filter, &item));
        assert_true(fabs((double)hits[i].score - dot(query, item.vector) / norm) < 1e-5);
        for (size_t j = 0; j < excluded_count; j++) {
            assert_int_not_equal(hits[i].slot, excluded[j]);
        }
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(hits[i].slot, hits[j].slot);
        }
        assert_true(i == 0 || hits[i - 1].score > hits[i].score ||
                    (hits[i - 1].score == hits[i].score && hits[i - 1].slot < hits[i].slot));
        found += (double)hits[i].score >= want[count - 1] - 1e-5;
    }
    dn_epoch_leave(w->reader);
    free(hits);
    free(want);
    return count == 0 ? 1 : (double)found / (double)count;
}

static double mean_recall(struct world *w, struct dn_retrieval *retrieval, size_t k,
                          const struct dn_filter *filter, struct rng *rng, int queries)
{
    double sum = 0;
    for (int i = 0; i < queries; i++) {
        float query[DIM];
        make_vector(rng_below(rng, 100000), 500 + rng_below(rng, 100), DIM, query);
        sum += check_search(w, retrieval, query, k, filter, NULL, 0);
    }
    return sum / queries;
}

/* ---- exactness and recall
 * ------------------------------------------------------------------------------------------ */

static struct dn_filter_term equals(const char *name, const struct dn_attribute *value)
{
    return (struct dn_filter_term){.op = DN_FILTER_EQ,
                                   .name = name,
                                   .name_length = (uint16_t)strlen(name),
                                   .values = value,
                                   .value_count = 1};
}

static void check_filters(struct world *w, struct dn_retrieval *retrieval, double least)
{
    struct rng rng = {.state = 5};
    struct dn_attribute yes = attribute("", "yes"), category = attribute("", "cat-3"),
                        nothing = attribute("", "?");
    struct dn_attribute several[2] = {attribute("", "cat-1"), attribute("", "cat-5")};
    struct dn_filter_term rare = equals("rare", &yes), in = equals("category", &category);
    struct dn_filter_term none = equals("category", &nothing);
    struct dn_filter_term many = {
        .op = DN_FILTER_IN, .name = "category", .name_length = 8, .values = several, .value_count = 2};
    struct dn_filter_term cheap = {
        .op = DN_FILTER_RANGE, .name = "price", .name_length = 5, .min = -INFINITY, .max = 999};
    struct dn_filter_term both[2] = {many, cheap};
    const struct dn_filter filters[] = {
        {.only_available = true},          {.terms = &rare, .term_count = 1},
        {.terms = &in, .term_count = 1},   {.terms = &in, .term_count = 1, .only_available = true},
        {.terms = &many, .term_count = 1}, {.terms = &cheap, .term_count = 1, .only_available = true},
        {.terms = both, .term_count = 2},  {.terms = &none, .term_count = 1},
    };
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        dn_epoch_enter(w->reader);
        assert_int_equal(dn_filter_check(w->catalog, &filters[i], NULL), DN_OK);
        dn_epoch_leave(w->reader);
        double recall = mean_recall(w, retrieval, 20, &filters[i], &rng, 20);
        if (recall < least) {
            fail_msg("filter %zu: recall %.4f, at least %.2f is wanted", i, recall, least);
        }
    }
}

static void check_kind(const char *factory, uint32_t items, double least)
{
    struct world w;
    world_open(&w, 100000);
    put(&w, 0, items, 1);
    struct dn_retrieval *retrieval = open_retrieval(&w, factory, NULL, 100000);
    struct dn_retrieval_status status = wait_built(retrieval, w.index);
    assert_int_equal(status.built_items, items);
    assert_int_equal(status.builds, 1);
    struct rng rng = {.state = 1};
    double recall = mean_recall(&w, retrieval, 20, NULL, &rng, 50);
    print_message("%s: recall@20 %.4f\n", status.factory, recall);
    assert_true(recall >= least);
    assert_true(mean_recall(&w, retrieval, 1, NULL, &rng, 30) >= least);
    assert_true(mean_recall(&w, retrieval, 300, NULL, &rng, 10) >= least);
    check_filters(&w, retrieval, least);
    /* After changes: every tenth item gets another vector, some go, some come. */
    for (uint32_t id = 0; id < items; id += 10) {
        put(&w, id, id + 1, 2);
    }
    for (uint32_t id = 5; id < items; id += 20) {
        char name[32];
        name_of(id, name);
        assert_int_equal(world_delete(&w, name), DN_ITEM_OK);
    }
    put(&w, items, items + items / 20, 1);
    assert_true(mean_recall(&w, retrieval, 20, NULL, &rng, 50) >= least);
    check_filters(&w, retrieval, least);
    dn_retrieval_status(retrieval, &status);
    assert_int_equal(status.builds, 1);
    dn_retrieval_destroy(retrieval);
    world_close(&w);
}

static void test_flat(void **unused)
{
    (void)unused;
    check_kind("auto", 6000, 1.0);
}

static void test_ivf(void **unused)
{
    (void)unused;
    check_kind("IVF64,Flat", 6000, 0.97);
}

static void test_hnsw(void **unused)
{
    (void)unused;
    check_kind("HNSW32", 6000, 0.95);
}

static void test_lossy(void **unused)
{
    (void)unused;
    /* A kind behind a transform, and quantised: scores are true all the same. */
    check_kind("PCA16,IVF16,SQ8", 3000, 0.5);
}

/* ---- edges
 * ------------------------------------------------------------------------------------------------------------
 */

static void test_edges(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 1000);
    struct dn_retrieval *retrieval = open_retrieval(&w, "auto", NULL, 1);
    float query[DIM] = {1}, zero[DIM] = {0}, odd[DIM] = {NAN};
    struct dn_hit hits[100];
    size_t count = 9;
    struct dn_error err;
    dn_epoch_enter(w.reader);
    assert_int_equal(search(&w, retrieval, query, 10, NULL, NULL, 0, hits), 0); /* nothing there */
    dn_epoch_leave(w.reader);
    struct dn_item bare = plain_item("bare", NULL, 0);
    assert_int_equal(world_upsert(&w, &bare), DN_ITEM_OK);
    dn_epoch_enter(w.reader);
    assert_int_equal(search(&w, retrieval, query, 10, NULL, NULL, 0, hits), 0); /* nothing with a vector */
    dn_epoch_leave(w.reader);
    put(&w, 0, 5, 1);
    for (int built = 0; built < 2; built++) {
        dn_epoch_enter(w.reader);
        assert_int_equal(search(&w, retrieval, query, 100, NULL, NULL, 0, hits),
                         5); /* k above the catalogue */
        uint32_t excluded[5] = {hits[3].slot, hits[0].slot, UINT32_MAX, hits[0].slot, 77};
        assert_int_equal(search(&w, retrieval, query, 100, NULL, excluded, 5, hits), 3);
        dn_epoch_leave(w.reader);
        wait_built(retrieval, w.index);
    }
    dn_epoch_enter(w.reader);
    assert_int_equal(
        dn_retrieval_search(retrieval, NULL, query, DIM, 0, NULL, NULL, 0, w.arena, hits, &count, &err),
        DN_INVALID);
    assert_int_equal(
        dn_retrieval_search(retrieval, NULL, query, DIM - 1, 5, NULL, NULL, 0, w.arena, hits, &count, &err),
        DN_INVALID);
    assert_non_null(strstr(err.message, "31 numbers; the catalogue's have 32"));
    assert_int_equal(
        dn_retrieval_search(retrieval, NULL, zero, DIM, 5, NULL, NULL, 0, w.arena, hits, &count, &err),
        DN_INVALID);
    assert_int_equal(
        dn_retrieval_search(retrieval, NULL, odd, DIM, 5, NULL, NULL, 0, w.arena, hits, &count, &err),
        DN_INVALID);
    assert_int_equal(count, 9);
    struct dn_arena *small = dn_arena_create(16, 16);
    assert_int_equal(
        dn_retrieval_search(retrieval, NULL, query, DIM, 5, NULL, NULL, 0, small, hits, &count, &err),
        DN_EXHAUSTED);
    dn_arena_destroy(small);
    dn_epoch_leave(w.reader);
    dn_retrieval_destroy(retrieval);
    world_close(&w);
}

static void test_ties(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 1000);
    float vector[DIM] = {0.5f, -1, 2};
    char id[16];
    for (int i = 0; i < 200; i++) {
        snprintf(id, sizeof id, "tie-%d", i);
        struct dn_item item = plain_item(id, vector, DIM);
        assert_int_equal(world_upsert(&w, &item), DN_ITEM_OK);
    }
    struct dn_retrieval *retrieval = open_retrieval(&w, "auto", NULL, 1000);
    wait_built(retrieval, w.index);
    assert_true(check_search(&w, retrieval, vector, 50, NULL, NULL, 0) >= 1);
    assert_true(check_search(&w, retrieval, vector, 200, NULL, NULL, 0) >= 1);
    dn_retrieval_destroy(retrieval);
    world_close(&w);
}

static void test_factory_string(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 10);
    struct dn_retrieval *retrieval = NULL;
    struct dn_error err = {0};
    const char *const wrong[] = {"", "HNSV32", "IVF64,Flat,",
                                 "a string that is far longer than any factory string "
                                 "that FAISS has ever understood or will"};
    for (size_t i = 0; i < 4; i++) {
        struct dn_retrieval_options options = {.factory = wrong[i]};
        assert_int_equal(dn_retrieval_create(w.catalog, w.epoch, &options, &retrieval, &err), DN_INVALID);
        assert_non_null(strstr(err.message, "factory string"));
    }
    struct dn_retrieval_options options = {.factory = "Flat", .depth = -1};
    assert_int_equal(dn_retrieval_create(w.catalog, w.epoch, &options, &retrieval, &err), DN_INVALID);
    dn_retrieval_destroy(NULL);
    world_close(&w);
}

/* ---- freshness
 * ----------------------------------------------------------------------------------------------------------
 */

static bool finds(struct world *w, struct dn_retrieval *retrieval, uint32_t id, uint32_t variant)
{
    float query[DIM];
    make_vector(id, variant, DIM, query);
    struct dn_hit hit;
    struct dn_item item;
    char name[32];
    name_of(id, name);
    dn_epoch_enter(w->reader);
    bool found = search(w, retrieval, query, 1, NULL, NULL, 0, &hit) == 1 &&
                 dn_catalog_get_slot(w->catalog, hit.slot, &item) == DN_OK &&
                 item.id_length == strlen(name) && memcmp(item.id, name, item.id_length) == 0 &&
                 hit.score > 0.9999f;
    dn_epoch_leave(w->reader);
    return found;
}

static void check_fresh(const char *factory)
{
    struct world w;
    world_open(&w, 100000);
    put(&w, 0, 3000, 1);
    struct dn_retrieval *retrieval = open_retrieval(&w, factory, NULL, 300);
    wait_built(retrieval, w.index);
    struct rng rng = {.state = 11};
    uint32_t variants[3300];
    for (uint32_t i = 0; i < 3300; i++) {
        variants[i] = i < 3000;
    }
    for (int i = 0; i < 3000; i++) {
        uint32_t id = rng_below(&rng, 3300);
        char name[32];
        name_of(id, name);
        if (variants[id] != 0 && rng_below(&rng, 3) == 0) {
            assert_int_equal(world_delete(&w, name), DN_ITEM_OK);
            assert_false(finds(&w, retrieval, id, variants[id]));
            variants[id] = 0;
            continue;
        }
        uint32_t before = variants[id];
        variants[id] = 1 + rng_below(&rng, 50);
        put(&w, id, id + 1, variants[id]);
        assert_true(finds(&w, retrieval, id, variants[id]));
        if (before != 0 && before != variants[id]) {
            assert_false(finds(&w, retrieval, id, before));
        }
    }
    struct dn_retrieval_status status = wait_built(retrieval, 1);
    assert_true(status.builds > 1);
    dn_retrieval_destroy(retrieval);
    world_close(&w);
}

static void test_fresh(void **unused)
{
    (void)unused;
    check_fresh("Flat");
    check_fresh("IVF16,Flat");
    check_fresh("HNSW16");
}

/* A change of price or availability leaves the row as it is: nothing to search beside it, filters see it. */
static void test_attribute_change(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 10000);
    put(&w, 0, 2000, 1);
    struct dn_retrieval *retrieval = open_retrieval(&w, "Flat", NULL, 10000);
    wait_built(retrieval, w.index);
    struct dn_filter available = {.only_available = true};
    for (uint32_t id = 0; id < 2000; id += 4) {
        struct made made;
        make_item(id, 1, &made);
        made.item.available = false;
        assert_int_equal(world_upsert(&w, &made.item), DN_ITEM_OK);
        assert_true(check_search(&w, retrieval, made.vector, 3, &available, NULL, 0) >= 1);
    }
    struct dn_retrieval_status status;
    usleep(100000);
    dn_retrieval_status(retrieval, &status);
    assert_int_equal(status.pending, 0);
    assert_int_equal(status.builds, 1);
    dn_retrieval_destroy(retrieval);
    world_close(&w);
}

/* A restore renumbers the slots: right at once, and mapped rather than rebuilt afterwards. */
static void test_restore(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 10000);
    put(&w, 0, 3000, 1);
    char name[32];
    for (uint32_t id = 0; id < 100; id++) {
        name_of(id, name);
        (void)world_delete(&w, name); /* so that the restored slots are others */
    }
    struct dn_retrieval *retrieval = open_retrieval(&w, "IVF16,Flat", NULL, 500);
    wait_built(retrieval, w.index);
    struct dn_buffer bytes;
    dn_buffer_init(&bytes, 64u << 20);
    void *capture = dn_catalog_snapshot_begin(w.catalog);
    assert_int_equal(whole_write(dn_catalog_snapshot_write, w.catalog, capture, &bytes, NULL), DN_OK);
    dn_catalog_snapshot_end(w.catalog, capture);
    put(&w, 5000, 5400, 1);
    void *built;
    assert_int_equal(
        whole_build(dn_catalog_restore_build, w.catalog, bytes.bytes, bytes.length, &built, NULL), DN_OK);
    /* Who holds a pin keeps the state that its slots belong to. */
    const struct dn_catalog *pin = dn_catalog_pin(w.catalog);
    struct dn_item item, before;
    name_of(1234, name);
    assert_int_equal(dn_catalog_get(pin, name, strlen(name), &before), DN_OK);
    dn_catalog_restore_install(w.catalog, built);
    assert_ptr_equal(dn_catalog_pin(pin), pin);
    assert_int_equal(dn_catalog_get_slot(pin, before.slot, &item), DN_OK);
    assert_memory_equal(item.id, name, strlen(name));
    struct dn_hit hit;
    size_t found = 0;
    assert_int_equal(dn_retrieval_search(retrieval, pin, before.vector, DIM, 1, NULL, NULL, 0, w.arena, &hit,
                                         &found, NULL),
                     DN_OK);
    assert_int_equal(found, 1);
    assert_int_equal(hit.slot, before.slot);
    assert_int_equal(dn_catalog_get(w.catalog, name, strlen(name), &item), DN_OK);
    assert_int_not_equal(item.slot, before.slot);
    struct rng rng = {.state = 3};
    for (int i = 0; i < 20; i++) {
        assert_true(mean_recall(&w, retrieval, 10, NULL, &rng, 5) >= 0.97);
        assert_false(finds(&w, retrieval, 5001, 1));
        assert_true(finds(&w, retrieval, 1234, 1));
        usleep(10000);
    }
    struct dn_retrieval_status status;
    dn_retrieval_status(retrieval, &status);
    assert_int_equal(status.builds, 1);
    assert_int_equal(status.pending, 0);
    /* Another node's larger catalogue: its first search already sees all of it. */
    struct world larger;
    world_open(&larger, 10000);
    put(&larger, 0, 9000, 1);
    dn_buffer_clear(&bytes);
    capture = dn_catalog_snapshot_begin(larger.catalog);
    assert_int_equal(whole_write(dn_catalog_snapshot_write, larger.catalog, capture, &bytes, NULL), DN_OK);
    dn_catalog_snapshot_end(larger.catalog, capture);
    assert_int_equal(
        whole_build(dn_catalog_restore_build, w.catalog, bytes.bytes, bytes.length, &built, NULL), DN_OK);
    dn_catalog_restore_install(w.catalog, built);
    for (uint32_t id = 7; id < 9000; id += 450) {
        assert_true(finds(&w, retrieval, id, 1));
    }
    world_close(&larger);
    dn_buffer_free(&bytes);
    dn_retrieval_destroy(retrieval);
    world_close(&w);
}

/* ---- the cache
 * ------------------------------------------------------------------------------------------------------------
 */

static void remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        (void)unlink(path);
    }
    closedir(dir);
    assert_int_equal(rmdir(folder), 0);
}

static uint8_t *slurp(const char *path, size_t *ret_length)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *ret_length = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*ret_length);
    assert_int_equal(fread(bytes, 1, *ret_length, file), *ret_length);
    fclose(file);
    return bytes;
}

static void spill(const char *path, const uint8_t *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    fclose(file);
}

/* Opens retrieval on the cache; returns whether it was used. */
static bool opens_from_cache(struct world *w, const char *factory, const char *folder, const char *path)
{
    /* The file is written after the index is published: wait for it, since the test goes on to damage it. */
    struct dn_retrieval *retrieval = open_retrieval(w, factory, folder, 5000);
    struct dn_retrieval_status status = wait_built(retrieval, w->index);
    struct rng rng = {.state = 8};
    assert_true(mean_recall(w, retrieval, 10, NULL, &rng, 10) >= 0.97);
    uint64_t until = dn_monotonic_us() + WAIT_US;
    while (access(path, R_OK) != 0 && dn_monotonic_us() < until) {
        usleep(2000);
    }
    dn_retrieval_destroy(retrieval);
    assert_int_equal(status.builds, status.loaded_from_cache ? 0 : 1);
    return status.loaded_from_cache;
}

static void test_cache(void **unused)
{
    (void)unused;
    char folder[] = "/tmp/dunlin-index-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char path[128];
    snprintf(path, sizeof path, "%s/items.index", folder);
    struct world w;
    world_open(&w, 10000);
    put(&w, 0, 2000, 1);
    assert_false(opens_from_cache(&w, "IVF16,Flat", folder, path));
    assert_true(opens_from_cache(&w, "IVF16,Flat", folder, path));
    /* Another node's numbering of the slots, and changes since: still used, still right. */
    struct world other;
    world_open(&other, 10000);
    for (uint32_t id = 2100; id-- > 100;) {
        put(&other, id, id + 1, id % 50 == 0 ? 2 : 1);
    }
    assert_true(opens_from_cache(&other, "IVF16,Flat", folder, path));
    world_close(&other);
    /* Another kind is wanted. */
    assert_false(opens_from_cache(&w, "Flat", folder, path));
    assert_true(opens_from_cache(&w, "Flat", folder, path));
    /* Damage of any kind: refused, built anew, and the file is good again. */
    struct rng rng = {.state = 17};
    for (int i = 0; i < 12; i++) {
        size_t length;
        uint8_t *bytes = slurp(path, &length);
        size_t at = i < 4 ? rng_below(&rng, 112) : rng_below(&rng, (uint32_t)length);
        bytes[at] ^= (uint8_t)(1 + rng_below(&rng, 255));
        spill(path, bytes, i % 3 == 2 ? at : length);
        free(bytes);
        assert_false(opens_from_cache(&w, "Flat", folder, path));
    }
    assert_true(opens_from_cache(&w, "Flat", folder, path));
    /* A catalogue that has little in common with it. */
    world_open(&other, 10000);
    put(&other, 5000, 8000, 1);
    assert_false(opens_from_cache(&other, "Flat", folder, path));
    world_close(&other);
    world_close(&w);
    remove_folder(folder);
}

/* ---- threads
 * ----------------------------------------------------------------------------------------------------------------
 */

#define STABLE 400u /* items no writer touches */
#define MOVING 600u

struct searching {
    struct world *world;
    struct dn_retrieval *retrieval;
    atomic_bool stop;
    atomic_uint deleted_up_to; /* items MOVING_FROM.. below this are gone for good */
    atomic_ullong searches, faults;
};

#define DOOMED_FROM 10000u
#define DOOMED 600u

/* Stable items are always found; doomed ones are not once the writer has said that they are gone. */
static void *search_on(void *data)
{
    struct searching *s = data;
    struct dn_epoch_reader *reader = dn_epoch_register(s->world->epoch);
    struct dn_arena *arena = dn_arena_create(1 << 16, 64u << 20);
    struct rng rng = {.state = (uint64_t)(uintptr_t)&reader | 1};
    while (!atomic_load(&s->stop)) {
        float query[DIM];
        struct dn_hit hits[10];
        size_t count = 0;
        uint32_t gone = atomic_load(&s->deleted_up_to);
        bool stable = gone == DOOMED_FROM || rng_below(&rng, 2) == 0;
        uint32_t id = stable ? rng_below(&rng, STABLE) : DOOMED_FROM + rng_below(&rng, gone - DOOMED_FROM);
        make_vector(id, 1, DIM, query);
        struct dn_filter filter = {.only_available = rng_below(&rng, 2) == 0};
        if (stable && id % 10 == 3) {
            filter.only_available = false;
        }
        char name[32];
        name_of(id, name);
        dn_arena_reset(arena);
        dn_epoch_enter(reader);
        bool fault = dn_retrieval_search(s->retrieval, NULL, query, DIM, 10, &filter, NULL, 0, arena, hits,
                                         &count, NULL) != DN_OK;
        bool found = false;
        for (size_t i = 0; i < count; i++) {
            struct dn_item item;
            found = found || (dn_catalog_get_slot(s->world->catalog, hits[i].slot, &item) == DN_OK &&
                              item.id_length == strlen(name) && memcmp(item.id, name, item.id_length) == 0);
        }
        dn_epoch_leave(reader);
        atomic_fetch_add(&s->searches, 1);
        atomic_fetch_add(&s->faults, fault || found != stable);
    }
    dn_arena_destroy(arena);
    dn_epoch_unregister(reader);
    return NULL;
}

static void check_threads(const char *factory)
{
    struct world w;
    world_open(&w, 100000);
    put(&w, 0, STABLE + MOVING, 1);
    put(&w, DOOMED_FROM, DOOMED_FROM + DOOMED, 1);
    struct dn_retrieval *retrieval = open_retrieval(&w, factory, NULL, 150);
    wait_built(retrieval, w.index);
    struct searching s = {.world = &w, .retrieval = retrieval, .deleted_up_to = DOOMED_FROM};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, search_on, &s), 0);
    }
    struct rng rng = {.state = 23};
    struct dn_retrieval_status status;
    uint64_t until = dn_monotonic_us() + WAIT_US;
    for (uint32_t i = 0;; i++) {
        uint32_t id = STABLE + rng_below(&rng, MOVING);
        char name[32];
        name_of(id, name);
        if (rng_below(&rng, 4) == 0) {
            (void)world_delete(&w, name);
        } else {
            put(&w, id, id + 1, 2 + rng_below(&rng, 1000));
        }
        if (i % 4 == 0 && i / 4 < DOOMED) {
            name_of(DOOMED_FROM + i / 4, name);
            assert_int_equal(world_delete(&w, name), DN_ITEM_OK);
            atomic_store(&s.deleted_up_to, DOOMED_FROM + i / 4 + 1);
        }
        /* A stable item is written again as it is, to be replaced under the searches. */
        put(&w, i % STABLE, i % STABLE + 1, 1);
        dn_retrieval_status(retrieval, &status);
        if (i / 4 >= DOOMED && status.builds >= 3 && atomic_load(&s.searches) > 500) {
            break;
        }
        if (dn_monotonic_us() > until) {
            fail_msg("builds %llu, searches %llu", (unsigned long long)status.builds,
                     (unsigned long long)atomic_load(&s.searches));
        }
        if (i / 4 >= DOOMED) {
            usleep(1000);
        }
    }
    atomic_store(&s.stop, true);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&s.faults), 0);
    dn_retrieval_destroy(retrieval);
    world_close(&w);
}

static void test_threads(void **unused)
{
    (void)unused;
    check_threads("Flat");
    check_threads("IVF8,Flat");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges),   cmocka_unit_test(test_ties),
        cmocka_unit_test(test_flat),    cmocka_unit_test(test_ivf),
        cmocka_unit_test(test_hnsw),    cmocka_unit_test(test_lossy),
        cmocka_unit_test(test_fresh),   cmocka_unit_test(test_attribute_change),
        cmocka_unit_test(test_restore), cmocka_unit_test(test_factory_string),
        cmocka_unit_test(test_cache),   cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
