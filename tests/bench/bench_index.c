/* Search latency on one thread: bench_index [items] [dim] [factory...]; prints one JSON line for each kind
 * and question. Vectors are clustered, as real ones are (that flatters IVF). */
#include "base/arena.h"
#include "base/buffer.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "index/index.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define K 20u
#define SEARCHES 5000u
#define BATCH 500u

static uint64_t seed = 88172645463325252u;

static float next_unit(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (float)(seed >> 40) / 8388608.0f - 1.0f;
}

static void make_vector(const float *centres, uint32_t dim, float *ret)
{
    uint32_t centre = (uint32_t)((double)(next_unit() + 1) * 0.5 * 255);
    for (uint32_t i = 0; i < dim; i++) {
        ret[i] = centres[centre * dim + i] + 0.8f * next_unit();
    }
}

static void load(struct dn_catalog *catalog, const float *centres, uint32_t items, uint32_t dim)
{
    struct dn_buffer record, result;
    dn_buffer_init(&record, 64u << 20);
    dn_buffer_init(&result, 1u << 20);
    struct dn_item *batch = calloc(BATCH, sizeof *batch);
    float *vectors = calloc((size_t)BATCH * dim, sizeof *vectors);
    char(*ids)[24] = calloc(BATCH, sizeof *ids);
    char(*categories)[24] = calloc(BATCH, sizeof *categories);
    uint64_t index = 0;
    for (uint32_t id = 0; id < items;) {
        uint32_t count = 0;
        for (; count < BATCH && id < items; count++, id++) {
            make_vector(centres, dim, vectors + (size_t)count * dim);
            batch[count] = (struct dn_item){
                .id = ids[count],
                .id_length = (uint16_t)snprintf(ids[count], sizeof ids[count], "item-%u", id),
                .vector = vectors + (size_t)count * dim,
                .dim = dim,
                .category = categories[count],
                .category_length =
                    (uint16_t)snprintf(categories[count], sizeof categories[count], "cat-%u", id % 20),
                .price = id,
                .available = id % 20 != 0,
            };
        }
        dn_buffer_clear(&record);
        dn_buffer_clear(&result);
        dn_catalog_record_upsert(&record, batch, count);
        dn_catalog_apply(catalog, ++index, 0, 0, record.bytes, record.length, &result);
        dn_catalog_entry_done(catalog, index, 0);
    }
    free(batch);
    free(vectors);
    free(ids);
    free(categories);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
}

static void measure(struct dn_retrieval *retrieval, struct dn_epoch_reader *reader, const float *centres,
                    uint32_t items, uint32_t dim, const char *question, const struct dn_filter *filter)
{
    struct dn_arena *arena = dn_arena_create(1u << 20, 1u << 30);
    struct dn_histogram *times = dn_histogram_create();
    float *query = calloc(dim, sizeof *query);
    for (uint32_t i = 0; i < SEARCHES; i++) {
        struct dn_hit hits[K];
        size_t count;
        struct dn_error err;
        make_vector(centres, dim, query);
        dn_arena_reset(arena);
        uint64_t start = dn_monotonic_ns();
        dn_epoch_enter(reader);
        enum dn_code code =
            dn_retrieval_search(retrieval, NULL, query, dim, K, filter, NULL, 0, arena, hits, &count, &err);
        dn_epoch_leave(reader);
        dn_histogram_observe_ns(times, dn_monotonic_ns() - start);
        if (code != DN_OK) {
            fprintf(stderr, "bench_index: %s\n", err.message);
            exit(1);
        }
    }
    struct dn_retrieval_status status;
    dn_retrieval_status(retrieval, &status);
    printf(
        "{\"bench\":\"index_search\",\"items\":%u,\"dim\":%u,\"k\":%u,\"index\":\"%s\",\"question\":\"%s\","
        "\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
        items, dim, K, status.factory, question, (double)dn_histogram_quantile_ns(times, 0.5) / 1000,
        (double)dn_histogram_quantile_ns(times, 0.99) / 1000);
    fflush(stdout);
    free(query);
    dn_histogram_destroy(times);
    dn_arena_destroy(arena);
}

static int bench_kind(const struct dn_catalog *catalog, struct dn_epoch *epoch,
                      struct dn_epoch_reader *reader, const float *centres, uint32_t items, uint32_t dim,
                      const char *factory)
{
    struct dn_retrieval_options options = {.factory = factory};
    struct dn_retrieval *retrieval;
    struct dn_error err;
    if (dn_retrieval_create(catalog, epoch, &options, &retrieval, &err) != DN_OK) {
        fprintf(stderr, "bench_index: %s\n", err.message);
        return 1;
    }
    struct dn_retrieval_status status;
    do {
        usleep(10000);
        dn_retrieval_status(retrieval, &status);
    } while (status.builds == 0 && status.error[0] == '\0');
    struct dn_filter available = {.only_available = true};
    struct dn_attribute category = {.value = "cat-3", .value_length = 5};
    struct dn_filter_term one_in_20 = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &category, .value_count = 1};
    struct dn_filter_term half = {
        .op = DN_FILTER_RANGE, .name = "price", .name_length = 5, .min = 0, .max = items / 2};
    measure(retrieval, reader, centres, items, dim, "all", NULL);
    measure(retrieval, reader, centres, items, dim, "available (19 in 20)", &available);
    measure(retrieval, reader, centres, items, dim, "price (1 in 2)",
            &(struct dn_filter){.terms = &half, .term_count = 1});
    measure(retrieval, reader, centres, items, dim, "category (1 in 20)",
            &(struct dn_filter){.terms = &one_in_20, .term_count = 1});
    dn_retrieval_destroy(retrieval);
    return 0;
}

int main(int argc, char **argv)
{
    uint32_t items = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 18000;
    uint32_t dim = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 64;
    if (items == 0 || dim == 0 || dim > DN_VECTOR_DIM_MAX) {
        fprintf(stderr, "usage: bench_index [items] [dim] [factory...]\n");
        return 2;
    }
    float *centres = calloc(256 * (size_t)dim, sizeof *centres);
    for (size_t i = 0; i < 256 * (size_t)dim; i++) {
        centres[i] = next_unit();
    }
    struct dn_epoch *epoch = dn_epoch_create();
    struct dn_epoch_reader *reader = dn_epoch_register(epoch);
    struct dn_catalog *catalog = dn_catalog_create(epoch, items);
    load(catalog, centres, items, dim);
    const char *const usual[] = {"Flat", "IVF512,Flat"};
    int failed = 0;
    for (int i = 0; i < (argc > 3 ? argc - 3 : 2); i++) {
        failed |= bench_kind(catalog, epoch, reader, centres, items, dim, argc > 3 ? argv[i + 3] : usual[i]);
    }
    dn_epoch_unregister(reader);
    dn_catalog_destroy(catalog);
    dn_epoch_destroy(epoch);
    free(centres);
    return failed;
}
