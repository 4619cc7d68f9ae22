/* What was shown: hits and clicks, windows, late and old clicks, users that share a slot, forgetting,
 * distinct items, threads. */
#include "api/shown.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { USERS = 64, NOW_S = 1700000000, THREADS = 4, ROUNDS = 20000 };
#define NOW_MS ((int64_t)NOW_S * 1000)
#define MINUTE_MS 60000ll

static const struct dn_experiment TWO = {
    .name = "x", .variants = {{.name = "a", .share = 0.5}, {.name = "b", .share = 0.5}}, .count = 2};

struct world {
    struct dn_metrics *metrics;
    struct dn_shown *shown;
};

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->metrics = dn_metrics_create();
    w->shown = dn_shown_create(USERS, &TWO, w->metrics);
    assert_non_null(w->shown);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    dn_shown_destroy(w->shown);
    dn_metrics_destroy(w->metrics);
    free(w);
    return 0;
}

static uint64_t count(struct world *w, const char *name, const char *labels)
{
    return dn_counter_value(dn_metrics_counter(w->metrics, name, labels, ""));
}

static uint64_t item_hash(unsigned item)
{
    return dn_hash64(&item, sizeof item, 0);
}

/* Items first .. first + count - 1, all of that source; category: 'A' + item % 3, none for every fourth. */
static void show(struct world *w, const struct dn_hash128 *user, size_t variant, unsigned first, size_t items,
                 const char *source, int64_t now_ms)
{
    static const char categories[] = "ABC";
    struct dn_recommended list[64];
    for (unsigned i = 0; i < items; i++)
        list[i] = (struct dn_recommended){
            .item = {.id_hash = item_hash(first + i),
                     .category = &categories[(first + i) % 3],
                     .category_length = (first + i) % 4 != 0},
            .source = source,
        };
    dn_shown_put(w->shown, user, variant, list, items, now_ms);
}

static void event(struct world *w, struct dn_hash128 user, uint64_t hash, int64_t time_ms,
                  enum dn_event_type type)
{
    const struct dn_applied applied = {.user = user, .item_hash = hash, .time_ms = time_ms, .type = type};
    dn_shown_applied(w->shown, &applied);
}

static void click(struct world *w, struct dn_hash128 user, uint64_t hash, int64_t time_ms)
{
    event(w, user, hash, time_ms, DN_EVENT_CLICK);
}

static void test_hits(void **state)
{
    struct world *w = *state;
    struct dn_hash128 ann = {.high = 1, .low = 5}, bob = {.high = 2, .low = 6}, cid = {.high = 3, .low = 7};
    show(w, &ann, 0, 10, 5, "rules", NOW_MS);
    show(w, &bob, 1, 20, 5, "pinned", NOW_MS);
    show(w, &cid, DN_VARIANT_NONE, 30, 5, "trending", NOW_MS);
    click(w, ann, item_hash(12), NOW_MS + 1);
    click(w, ann, item_hash(12), NOW_MS + 2); /* cart, after the view */
    click(w, ann, item_hash(99), NOW_MS + 3);
    click(w, bob, item_hash(12), NOW_MS + 3); /* on somebody else's list */
    click(w, bob, item_hash(24), NOW_MS + 3);
    click(w, cid, item_hash(30), NOW_MS + 3);
    click(w, (struct dn_hash128){.high = 9, .low = 9}, item_hash(30), NOW_MS);
    assert_int_equal(count(w, "dunlin_shown_lists_total", "variant=\"a\""), 1);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), 2);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"b\""), 2);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"\""), 1);
    assert_int_equal(count(w, "dunlin_shown_hits_total", "variant=\"a\",source=\"rules\""), 1);
    assert_int_equal(count(w, "dunlin_shown_hits_total", "variant=\"b\",source=\"other\""), 1);
    assert_int_equal(count(w, "dunlin_shown_hits_total", "variant=\"\",source=\"trending\""), 1);
    assert_int_equal(count(w, "dunlin_shown_hits_total", "variant=\"b\",source=\"rules\""), 0);
    assert_int_equal(count(w, "dunlin_shown_items_total", "source=\"rules\""), 5);
    assert_int_equal(count(w, "dunlin_shown_items_total", "source=\"other\""), 5);
    /* The next list takes the place of the last. */
    show(w, &ann, 0, 40, 5, "covis", NOW_MS + 10);
    click(w, ann, item_hash(11), NOW_MS + 11);
    click(w, ann, item_hash(41), NOW_MS + 11);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), 4);
    assert_int_equal(count(w, "dunlin_shown_hits_total", "variant=\"a\",source=\"covis\""), 1);
}

static void test_limits(void **state)
{
    struct world *w = *state;
    struct dn_hash128 ann = {.high = 1, .low = 5}, other = {.high = 2, .low = 5 + USERS};
    uint64_t clicks = count(w, "dunlin_shown_clicks_total", "variant=\"a\"");
    /* A list that is longer than what is kept. */
    show(w, &ann, 0, 100, 40, "rules", NOW_MS);
    click(w, ann, item_hash(119), NOW_MS + 29 * MINUTE_MS);
    click(w, ann, item_hash(120), NOW_MS + 29 * MINUTE_MS);
    assert_int_equal(count(w, "dunlin_shown_hits_total", "variant=\"a\",source=\"rules\""), 1);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), clicks + 2);
    click(w, ann, item_hash(118), NOW_MS + 31 * MINUTE_MS); /* too late */
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), clicks + 2);
    /* Two users of one slot: the newer one has it. */
    show(w, &ann, 0, 100, 5, "rules", NOW_MS);
    show(w, &other, 0, 100, 5, "rules", NOW_MS);
    click(w, ann, item_hash(101), NOW_MS);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), clicks + 2);
    click(w, other, item_hash(101), NOW_MS);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), clicks + 3);
    dn_shown_forget(w->shown, ann); /* not theirs */
    click(w, other, item_hash(102), NOW_MS);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), clicks + 4);
    dn_shown_forget(w->shown, other);
    click(w, other, item_hash(103), NOW_MS);
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), clicks + 4);
    /* Somebody unknown. */
    uint64_t lists = count(w, "dunlin_shown_lists_total", "variant=\"\"");
    show(w, NULL, DN_VARIANT_NONE, 100, 5, "rules", NOW_MS);
    assert_int_equal(count(w, "dunlin_shown_lists_total", "variant=\"\""), lists + 1);
}

/* clicks of variant a, and hits of its rules, since `before` */
static void expect(struct world *w, const uint64_t before[2], uint64_t clicks, uint64_t hits)
{
    assert_int_equal(count(w, "dunlin_shown_clicks_total", "variant=\"a\""), before[0] + clicks);
    assert_int_equal(count(w, "dunlin_shown_hits_total", "variant=\"a\",source=\"rules\""), before[1] + hits);
}

/* What counts is when a click happened, not when it is applied. */
static void test_times(void **state)
{
    struct world *w = *state;
    struct dn_hash128 ann = {.high = 1, .low = 5};
    const uint64_t before[2] = {0, 0};
    show(w, &ann, 0, 10, 5, "rules", NOW_MS + 200);
    click(w, ann, item_hash(10), NOW_MS + 199); /* before it was shown: read once more, or another page's */
    click(w, ann, item_hash(11), NOW_MS - 20 * MINUTE_MS);
    click(w, ann, item_hash(12), 0);
    expect(w, before, 0, 0);
    click(w, ann, item_hash(10), NOW_MS + 200);
    expect(w, before, 1, 1);
    click(w, ann, item_hash(13), NOW_MS + 200 + DN_SHOWN_WINDOW_MS);
    click(w, ann, item_hash(13), INT64_MAX);
    expect(w, before, 1, 1);
    /* The click that led to the next list comes after that list was given, by a stream. */
    show(w, &ann, 0, 20, 5, "rules", NOW_MS + 5000);
    click(w, ann, item_hash(11), NOW_MS + 4900);
    click(w, ann, item_hash(21), NOW_MS + 4950); /* on what was not shown yet */
    expect(w, before, 3, 2);
    click(w, ann, item_hash(21), NOW_MS + 5100);
    click(w, ann, item_hash(12), NOW_MS + 5200); /* on the list before the last */
    expect(w, before, 5, 3);
    click(w, ann, item_hash(10), NOW_MS + 300); /* the hit that was counted */
    expect(w, before, 5, 3);
    show(w, &ann, 0, 30, 5, "rules", NOW_MS + 6000);
    click(w, ann, item_hash(13), NOW_MS + 4000); /* its list is gone */
    expect(w, before, 5, 3);
    show(w, &ann, 0, 0, 0, "rules", NOW_MS + 7000); /* nothing could be shown */
    click(w, ann, item_hash(30), NOW_MS + 7000);
    expect(w, before, 5, 3);
    click(w, ann, item_hash(30), NOW_MS + 6999);
    expect(w, before, 6, 4);
}

static void test_types(void **state)
{
    struct world *w = *state;
    struct dn_hash128 ann = {.high = 1, .low = 5};
    const uint64_t before[2] = {0, 0};
    show(w, &ann, 0, 10, 9, "rules", NOW_MS);
    event(w, ann, item_hash(10), NOW_MS, DN_EVENT_DISLIKE);
    event(w, ann, item_hash(10), NOW_MS, DN_EVENT_REMOVE);
    expect(w, before, 0, 0);
    event(w, ann, item_hash(10), NOW_MS, DN_EVENT_VIEW);
    event(w, ann, item_hash(11), NOW_MS, DN_EVENT_BUY);
    event(w, ann, item_hash(12), NOW_MS, DN_EVENT_CLICK);
    expect(w, before, 3, 3);
}

/* An erase that is applied, whichever node it was asked of. */
static void test_erased(void **state)
{
    struct world *w = *state;
    struct dn_hash128 ann = {.high = 1, .low = 5}, other = {.high = 2, .low = 5 + USERS};
    const uint64_t before[2] = {0, 0};
    show(w, &ann, 0, 10, 5, "rules", NOW_MS);
    show(w, &ann, 0, 20, 5, "rules", NOW_MS + 100);
    dn_shown_erased(w->shown, other);
    click(w, ann, item_hash(20), NOW_MS + 101);
    expect(w, before, 1, 1);
    dn_shown_erased(w->shown, ann);
    click(w, ann, item_hash(21), NOW_MS + 101);
    click(w, ann, item_hash(11), NOW_MS + 50);
    expect(w, before, 1, 1);
    show(w, &other, 0, 10, 5, "rules", NOW_MS);
    show(w, &ann, 0, 10, 5, "rules", NOW_MS + 100); /* takes the slot: the other one's list is not theirs */
    click(w, ann, item_hash(11), NOW_MS + 50);
    expect(w, before, 1, 1);
}

/* A snapshot came: whom it erased nobody says. */
static void test_replaced(void **state)
{
    struct world *w = *state;
    struct dn_hash128 ann = {.high = 1, .low = 5}, eve = {.high = 3, .low = 6};
    const uint64_t before[2] = {0, 0};
    show(w, &ann, 0, 10, 5, "rules", NOW_MS);
    show(w, &eve, 0, 10, 5, "rules", NOW_MS);
    click(w, ann, item_hash(10), NOW_MS + 1);
    expect(w, before, 1, 1);
    dn_shown_replaced(w->shown);
    (void)dn_shown_distinct(w->shown, NOW_MS + 2);
    click(w, ann, item_hash(11), NOW_MS + 3);
    click(w, eve, item_hash(10), NOW_MS + 3);
    expect(w, before, 1, 1);
    show(w, &ann, 0, 10, 5, "rules", NOW_MS + 4); /* and all goes on */
    (void)dn_shown_distinct(w->shown, NOW_MS + 5);
    click(w, ann, item_hash(11), NOW_MS + 6);
    expect(w, before, 2, 2);
}

static void test_categories(void **state)
{
    struct world *w = *state;
    show(w, NULL, 1, 0, 9, "rules", NOW_MS); /* without a category: 0 4 8; A: 3 6; B: 1 7; C: 2 5 */
    assert_int_equal(count(w, "dunlin_shown_categories_total", "variant=\"b\""), 3);
    assert_int_equal(count(w, "dunlin_shown_categorised_items_total", "variant=\"b\""), 6);
}

static void show_many(struct world *w, unsigned first, unsigned items)
{
    for (unsigned i = 0; i < items; i += 10)
        show(w, NULL, DN_VARIANT_NONE, first + i, 10, "rules", NOW_MS);
}

static void test_distinct(void **state)
{
    struct world *w = *state;
    assert_true(dn_shown_distinct(w->shown, NOW_MS) == 0);
    show_many(w, 0, 100);
    show_many(w, 0, 100);
    assert_in_range(dn_shown_distinct(w->shown, NOW_MS), 97, 103);
    show_many(w, 0, 10000);
    assert_in_range(dn_shown_distinct(w->shown, NOW_MS), 9400, 10600);
    show_many(w, 0, 300000);
    assert_in_range(dn_shown_distinct(w->shown, NOW_MS), 282000, 318000);
    /* The window before counts, and the one before that does not. */
    assert_in_range(dn_shown_distinct(w->shown, NOW_MS + 11 * MINUTE_MS), 282000, 318000);
    show_many(w, 1000000, 1000);
    assert_in_range(dn_shown_distinct(w->shown, NOW_MS + 22 * MINUTE_MS), 940, 1060);
    assert_true(dn_shown_distinct(w->shown, NOW_MS + 33 * MINUTE_MS) == 0);
    show_many(w, 0, 100);
    (void)dn_shown_distinct(w->shown, NOW_MS - 100 * MINUTE_MS); /* a clock that was set back */
    assert_in_range(dn_shown_distinct(w->shown, NOW_MS - 80 * MINUTE_MS), 97, 103);
    assert_true(dn_shown_distinct(w->shown, NOW_MS - 60 * MINUTE_MS) == 0);
}

static void *hammer(void *data)
{
    struct world *w = data;
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct dn_hash128 user = {.high = i % 7, .low = i % 7};
        show(w, &user, i % 2, i % 50, 20, "rules", NOW_MS);
        click(w, user, item_hash(i % 50), NOW_MS);
        if (i % 16 == 0)
            dn_shown_forget(w->shown, user);
        if (i % 16 == 8)
            dn_shown_erased(w->shown, user);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct world *w = *state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, w), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    uint64_t lists = count(w, "dunlin_shown_lists_total", "variant=\"a\"") +
                     count(w, "dunlin_shown_lists_total", "variant=\"b\"");
    uint64_t clicks = count(w, "dunlin_shown_clicks_total", "variant=\"a\"") +
                      count(w, "dunlin_shown_clicks_total", "variant=\"b\"");
    uint64_t hits = count(w, "dunlin_shown_hits_total", "variant=\"a\",source=\"rules\"") +
                    count(w, "dunlin_shown_hits_total", "variant=\"b\",source=\"rules\"");
    assert_int_equal(lists, THREADS * ROUNDS);
    assert_true(hits > 0 && hits <= clicks && clicks <= (uint64_t)THREADS * ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_limits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_times, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_types, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_erased, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_categories, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_distinct, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
