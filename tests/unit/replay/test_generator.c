/* The generated stream has the shape it promises, is in order, and is the same for the same seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hash.h"
#include "replay/generator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SESSIONS 60000u

static const struct dn_generator_options shape = {.users = 50000,
                                                  .items = 5000,
                                                  .sessions = SESSIONS,
                                                  .seed = 7,
                                                  .dim = 16,
                                                  .start_ms = 1000000000000,
                                                  .rate_events_per_s = 50};

struct seen {
    uint32_t clicks, user, cluster_hits, distinct_from_before;
    int64_t first_ms, last_ms;
};

static struct dn_generator *create(const struct dn_generator_options *options)
{
    struct dn_generator *generator;
    struct dn_error err;

    if (dn_generator_create(options, &generator, &err) != DN_OK)
        fail_msg("%s", err.message);
    return generator;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int compare_f64(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void assert_near(const char *what, double value, double expected, double tolerance)
{
    if (fabs(value - expected) > tolerance * expected)
        fail_msg("seed %llu: %s is %g, expected %g within %g %%", (unsigned long long)shape.seed, what, value,
                 expected, tolerance * 100);
}

static struct seen *collect(uint32_t *item_counts, uint64_t *ret_types)
{
    struct dn_generator *generator = create(&shape);
    struct seen *sessions = calloc(SESSIONS, sizeof *sessions);
    struct dn_generated_event event;
    int64_t last_ms = 0;
    enum dn_code code;

    while ((code = dn_generator_next(generator, &event, NULL)) == DN_OK) {
        struct seen *session = &sessions[event.session];

        assert_true(event.session < SESSIONS && event.user < shape.users && event.item < shape.items);
        assert_true(event.time_ms >= last_ms);
        assert_int_equal(event.click, session->clicks);
        if (session->clicks++ == 0) {
            session->user = event.user;
            session->first_ms = event.time_ms;
        } else {
            assert_int_equal(session->user, event.user);
            assert_true(event.time_ms - session->last_ms <= 1700000);
        }
        session->last_ms = last_ms = event.time_ms;
        item_counts[event.item]++;
        assert_true(event.type >= 1 && event.type <= 4);
        ret_types[event.type]++;
    }
    assert_int_equal(code, DN_NOT_FOUND);
    assert_true(dn_generator_overlaps(generator) < SESSIONS / 1000);
    dn_generator_destroy(generator);
    return sessions;
}

static void check_sessions(const struct seen *sessions)
{
    static uint32_t clicks[SESSIONS];
    static double durations[SESSIONS];
    size_t longer = 0;

    for (size_t i = 0; i < SESSIONS; i++) {
        clicks[i] = sessions[i].clicks;
        assert_true(clicks[i] >= 1);
        if (clicks[i] > 1)
            durations[longer++] = (double)(sessions[i].last_ms - sessions[i].first_ms) / 1000;
    }
    qsort(clicks, SESSIONS, sizeof clicks[0], compare_u32);
    qsort(durations, longer, sizeof durations[0], compare_f64);
    assert_int_equal(clicks[SESSIONS / 2], 3);
    assert_int_equal(clicks[SESSIONS * 9 / 10], 10);
    assert_near("clicks p99", clicks[SESSIONS * 99 / 100], 27, 0.06);
    assert_near("duration p50", durations[longer / 2], 248, 0.04);
    assert_near("duration p99", durations[longer * 99 / 100], 3359, 0.05);
}

/* Slope of log popularity over log rank, least squares, ranks 10 to 1000: close to Zipf's -1. */
static void check_popularity(uint32_t *counts)
{
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0, slope;

    qsort(counts, shape.items, sizeof *counts, compare_u32);
    for (uint32_t rank = 10; rank <= 1000; rank++) {
        double x = log(rank), y = log(counts[shape.items - rank]);
        n++, sx += x, sy += y, sxx += x * x, sxy += x * y;
    }
    slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
    if (slope > -0.6 || slope < -1.2)
        fail_msg("seed %llu: popularity falls with the power %g of rank", (unsigned long long)shape.seed,
                 slope);
}

static void test_shape(void **state)
{
    uint32_t *item_counts = calloc(shape.items, sizeof *item_counts);
    uint64_t types[5] = {0}, total;
    struct seen *sessions = collect(item_counts, types);

    (void)state;
    check_sessions(sessions);
    check_popularity(item_counts);
    total = types[1] + types[2] + types[3] + types[4];
    assert_near("events a session", (double)total / SESSIONS, 4.7, 0.03);
    assert_true(types[1] > types[2] && types[2] > types[3] && types[3] > types[4] && types[4] > total / 100);
    free(sessions);
    free(item_counts);
}

/* Items of a cluster are alike, others are not; a session stays mostly in one cluster and comes back. */
static void test_tastes(void **state)
{
    struct dn_generator *generator = create(&shape);
    struct dn_generated_event event;
    struct dn_generated_item item;
    static uint32_t last_cluster[SESSIONS], last_items[SESSIONS];
    static bool started[SESSIONS];
    uint64_t pairs = 0, same_cluster = 0, same_item = 0;
    float first[16], vector[16];
    double alike = 0, unlike = 0;
    uint32_t alike_count = 0, unlike_count = 0, cluster;

    (void)state;
    dn_generator_item(generator, 0, &item, first);
    cluster = item.cluster;
    for (uint32_t i = 0; i < shape.items; i++) {
        double squares = 0, dot = 0;

        dn_generator_item(generator, i, &item, vector);
        for (int d = 0; d < 16; d++) {
            squares += (double)vector[d] * (double)vector[d];
            dot += (double)vector[d] * (double)first[d];
        }
        assert_true(fabs(squares - 1) < 1e-4);
        assert_true(item.price > 0);
        if (i > 0 && item.cluster == cluster)
            alike += dot, alike_count++;
        else if (i > 0)
            unlike += fabs(dot), unlike_count++;
    }
    assert_int_equal(alike_count, shape.items / 50 - 1); /* 50 clusters of 100 */
    assert_true(alike / alike_count > 0.5);
    assert_true(unlike / unlike_count < 0.3);
    while (dn_generator_next(generator, &event, NULL) == DN_OK) {
        dn_generator_item(generator, event.item, &item, vector);
        if (started[event.session]) {
            pairs++;
            same_cluster += item.cluster == last_cluster[event.session];
            same_item += event.item == last_items[event.session];
        }
        started[event.session] = true;
        last_cluster[event.session] = item.cluster;
        last_items[event.session] = event.item;
    }
    assert_true(same_cluster > pairs * 6 / 10);
    assert_true(same_item > pairs / 20 && same_item < pairs / 2);
    dn_generator_destroy(generator);
}

static uint64_t fingerprint(uint64_t seed, double rate, uint64_t *ret_events)
{
    struct dn_generator_options options = shape;
    struct dn_generator *generator;
    struct dn_generated_event event;
    uint64_t hash = 0;

    options.seed = seed;
    options.sessions = 3000;
    options.rate_events_per_s = rate;
    generator = create(&options);
    *ret_events = 0;
    while (dn_generator_next(generator, &event, NULL) == DN_OK) {
        const uint64_t numbers[] = {event.user,    event.item, (uint64_t)event.type, (uint64_t)event.time_ms,
                                    event.session, event.click};
        hash = dn_hash64(numbers, sizeof numbers, hash);
        ++*ret_events;
    }
    dn_generator_destroy(generator);
    return hash;
}

static void test_determinism(void **state)
{
    uint64_t a, b, c;

    (void)state;
    assert_true(fingerprint(3, 100, &a) == fingerprint(3, 100, &b));
    assert_int_equal(a, b);
    assert_true(fingerprint(3, 100, &a) != fingerprint(4, 100, &c));
    /* How sessions overlap changes their order, not what is in them. */
    fingerprint(3, 1, &c);
    assert_int_equal(a, c);
}

static void test_small_and_bad(void **state)
{
    struct dn_generator_options options = {
        .users = 1, .items = 1, .sessions = 10, .seed = 0, .dim = 1, .start_ms = 0, .rate_events_per_s = 1};
    struct dn_generator *generator = create(&options);
    struct dn_generated_event event;
    struct dn_generated_item item;
    struct dn_error err;
    float vector;
    size_t events = 0;

    (void)state;
    dn_generator_item(generator, 0, &item, &vector);
    assert_true(fabsf(vector) > 0.99f);
    while (dn_generator_next(generator, &event, NULL) == DN_OK)
        events++;
    assert_true(events >= 10);
    dn_generator_destroy(generator);
    options.users = 0;
    assert_int_equal(dn_generator_create(&options, &generator, &err), DN_INVALID);
    options.users = 1;
    options.rate_events_per_s = NAN;
    assert_int_equal(dn_generator_create(&options, &generator, &err), DN_INVALID);
    options.rate_events_per_s = 1;
    options.dim = 4096;
    assert_int_equal(dn_generator_create(&options, &generator, &err), DN_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shape), cmocka_unit_test(test_tastes),
                                       cmocka_unit_test(test_determinism),
                                       cmocka_unit_test(test_small_and_bad)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
