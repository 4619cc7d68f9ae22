/* What the rules of a request cost: a filter for each item, the last step of a request, and what is noted of
 * an answer. Prints nanoseconds or microseconds a time, on one thread; no arguments. */
#include "api/shown.h"
#include "index/index.h"
#include "recommend/rerank.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ITEMS = 600, DIM = 64, K = 20, MATCHES = 3000000, RERANKS = 3000, PUTS = 1000000 };

struct made {
    char id[12], title[16], brand[8];
    struct dn_attribute attributes[2];
    float vector[DIM];
    struct dn_item item;
};

static struct made made[ITEMS];

/* Of this process's processor time: what else runs does not count. */
static uint64_t cpu_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void make_items(void)
{
    static const char *const categories[] = {"shoes", "hats", "coats", "socks", "belts"};
    for (int i = 0; i < ITEMS; i++) {
        struct made *m = &made[i];
        double norm = 0;
        snprintf(m->id, sizeof m->id, "item-%d", i);
        snprintf(m->title, sizeof m->title, "%s %d", i % 3 ? "Red" : "Blue", i);
        snprintf(m->brand, sizeof m->brand, "b%d", i % 7);
        m->attributes[0] = (struct dn_attribute){"brand", m->brand, 5, (uint16_t)strlen(m->brand)};
        m->attributes[1] = (struct dn_attribute){"title", m->title, 5, (uint16_t)strlen(m->title)};
        for (int d = 0; d < DIM; d++) {
            m->vector[d] = (float)((i * 7919 + d * 104729) % 1000) / 500 - 1;
            norm += (double)(m->vector[d] * m->vector[d]);
        }
        for (int d = 0; d < DIM; d++)
            m->vector[d] /= (float)sqrt(norm);
        m->item = (struct dn_item){.id = m->id,
                                   .id_length = (uint16_t)strlen(m->id),
                                   .id_hash = dn_hash64(m->id, strlen(m->id), 0),
                                   .vector = m->vector,
                                   .dim = DIM,
                                   .category = categories[i % 5],
                                   .category_length = (uint16_t)strlen(categories[i % 5]),
                                   .price = i % 100,
                                   .available = true,
                                   .attributes = m->attributes,
                                   .attribute_count = 2};
    }
}

static void read_filter(const char *text, struct dn_arena *arena, struct dn_filter *ret)
{
    struct dn_filter_tree tree;
    struct dn_error err;
    *ret = (struct dn_filter){.only_available = true};
    DN_ASSERT(dn_filter_parse(text, strlen(text), arena, &tree, NULL, &err) == DN_OK);
    DN_ASSERT(dn_filter_plan(&tree, arena, ret, &err) == DN_OK);
}

static void bench_filter(const char *text, struct dn_arena *arena)
{
    struct dn_filter filter;
    size_t passed = 0;
    read_filter(text, arena, &filter);
    uint64_t start_us = cpu_us();
    for (int i = 0; i < MATCHES; i++)
        passed += dn_filter_match(&filter, &made[i % ITEMS].item);
    uint64_t took_us = cpu_us() - start_us;
    printf("%6.1f ns an item, %2.0f %% pass   %s\n", (double)took_us * 1000 / MATCHES,
           100.0 * (double)passed / MATCHES, text);
}

static void bench_rerank(const char *what, const struct dn_rules *rules, size_t k, struct dn_arena *arena)
{
    static struct dn_rerank_item items[ITEMS];
    struct dn_rerank rerank = {.rules = rules, .k = k};
    struct dn_rerank_item *out;
    struct dn_error err;
    size_t count = 0;
    uint64_t took_us = 0;
    for (int round = 0; round < RERANKS; round++) {
        for (int i = 0; i < ITEMS; i++)
            items[i] = (struct dn_rerank_item){
                .item = made[i].item, .score = (float)((i * 31 + round) % 997) / 100, .from = (uint32_t)i};
        uint64_t start_us = cpu_us();
        DN_ASSERT(dn_rerank(&rerank, items, ITEMS, arena, &out, &count, &err) == DN_OK);
        took_us += cpu_us() - start_us;
        dn_arena_reset(arena);
    }
    printf("%6.1f us a request, k %zu of %d candidates   %s\n", (double)took_us / RERANKS, k, ITEMS, what);
}

static void bench_shown(void)
{
    static const struct dn_experiment none;
    struct dn_metrics *metrics = dn_metrics_create();
    struct dn_shown *shown = dn_shown_create(65536, &none, metrics);
    struct dn_recommended list[K];
    DN_ASSERT(shown != NULL);
    for (int i = 0; i < K; i++)
        list[i] = (struct dn_recommended){.item = made[i].item,
                                          .source = dn_recommend_source_name((unsigned)i % 5)};
    uint64_t start_us = cpu_us();
    for (uint64_t i = 0; i < PUTS; i++) {
        struct dn_hash128 user = {.high = i, .low = i * 2654435761u};
        dn_shown_put(shown, &user, DN_VARIANT_NONE, list, K, 1000000);
    }
    uint64_t middle_us = cpu_us();
    for (uint64_t i = 0; i < PUTS; i++) {
        struct dn_applied event = {.user = {.high = i, .low = i * 2654435761u},
                                   .item_hash = list[i % K].item.id_hash,
                                   .time_ms = 1000000};
        dn_shown_applied(shown, &event);
    }
    uint64_t end_us = cpu_us();
    for (uint64_t i = 0; i < PUTS; i++) {
        struct dn_applied event = {.user = {.high = i * 0x9e3779b97f4a7c15u, .low = i * 2654435761u},
                                   .item_hash = list[i % K].item.id_hash,
                                   .time_ms = 1000000};
        dn_shown_applied(shown, &event);
    }
    uint64_t strangers_us = cpu_us();
    printf(
        "%6.1f ns an answer of %d noted, %.1f ns a click looked up, %.1f ns one of somebody without a list\n",
        (double)(middle_us - start_us) * 1000 / PUTS, K, (double)(end_us - middle_us) * 1000 / PUTS,
        (double)(strangers_us - end_us) * 1000 / PUTS);
    dn_shown_destroy(shown);
    dn_metrics_destroy(metrics);
}

int main(void)
{
    struct dn_arena *arena = dn_arena_create(1u << 20, 64u << 20),
                    *filters = dn_arena_create(65536, 1u << 20);
    struct dn_filter dune;
    DN_ASSERT(arena != NULL && filters != NULL);
    make_items();
    bench_filter("category = shoes", filters);
    bench_filter("category = shoes and price < 50", filters);
    bench_filter("category = shoes and (price < 50 or brand in (b1, b2)) and not title prefix Re", filters);
    bench_filter("not (category = shoes or category = hats) or price = 5..10 or brand = b3", filters);
    read_filter("brand = b3", filters, &dune);
    struct dn_boost boost = {.filter = &dune, .times = 2};
    bench_rerank("no rules", NULL, K, arena);
    bench_rerank("one boost", &(struct dn_rules){.boosts = &boost, .boost_count = 1}, K, arena);
    bench_rerank("a cap of 3", &(struct dn_rules){.category_cap = 3}, K, arena);
    bench_rerank("diversity", &(struct dn_rules){.diversity = 0.3f}, K, arena);
    bench_rerank("diversity", &(struct dn_rules){.diversity = 0.3f}, 200, arena);
    bench_shown();
    dn_arena_destroy(filters);
    dn_arena_destroy(arena);
    return 0;
}
