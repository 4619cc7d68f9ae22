/* What is popular: counters that fade, and tops, against floating point; and after a restore. */
#include "harness.h"
#include "session/near.h"

#include <math.h>

#define MINUTE ((int64_t)60000)
#define HOUR (60 * MINUTE)

static struct rig rig;

static int setup(void **state)
{
    (void)state;
    rig_open(&rig);
    rig.now_ms = 100 * 24 * HOUR;
    rig_tick(&rig, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

/* ---- trending, against floating point ---------------------------------------------------------------- */

#define TREND_ITEMS 400
#define TREND_EVENTS 6000

static double trending_of(int item)
{
    char name[16];
    struct dn_near_item named;
    double trending = 0;
    snprintf(name, sizeof name, "i%d", item);
    dn_epoch_enter(rig.reader);
    uint32_t id = dn_near_find(rig.shard, dn_hash64(name, strlen(name), 0), name, (uint16_t)strlen(name));
    if (id != DN_NEAR_NONE && dn_near_item(rig.shard, id, &named)) {
        trending = named.trending;
    }
    dn_epoch_leave(rig.reader);
    return trending;
}

static void test_trending(void **state)
{
    (void)state;
    static struct {
        int item;
        int64_t time;
        double weight;
    } events[TREND_EVENTS];
    struct rng rng = {3};
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.trend_half_life_ms = HOUR;
    settings.lateness_ms = 24 * HOUR;
    rig_settings(&rig, &settings);
    for (int i = 0; i < TREND_EVENTS; i++) {
        char name[16];
        double u = (double)rng_below(&rng, 1000) / 1000;
        events[i].item = (int)(u * u * u * TREND_ITEMS);
        events[i].time = rig.now_ms - (int64_t)rng_below(&rng, 20 * (uint64_t)MINUTE);
        snprintf(name, sizeof name, "i%d", events[i].item);
        struct dn_event_in in = event_of(rng_below(&rng, 50), 1 + rng_next(&rng), events[i].time, name);
        in.weight = (uint16_t)(1 + rng_below(&rng, 600));
        in.type = (uint8_t)(1 + rng_below(&rng, DN_EVENT_TYPE_MAX));
        bool negative = in.type == DN_EVENT_DISLIKE || in.type == DN_EVENT_REMOVE;
        rig_events(&rig, &in, 1);
        bool counted = rig.answer.outcomes[0] == DN_OUTCOME_ACCEPTED && !negative;
        events[i].weight = counted ? (double)in.weight / 256 : 0;
        rig_tick(&rig, (int64_t)rng_below(&rng, 20000)); /* 16 hours in all: the landmark moves twice */
    }
    rig_tick(&rig, 1000);
    double want[TREND_ITEMS] = {0};
    for (int i = 0; i < TREND_EVENTS; i++) {
        want[events[i].item] +=
            events[i].weight * exp2(-(double)(rig.now_ms - events[i].time) / (double)HOUR);
    }
    struct dn_trend_view got[DN_TREND_MAX];
    dn_epoch_enter(rig.reader);
    size_t count = dn_shard_trending(rig.shard, got, DN_TREND_MAX);
    assert_int_equal(count, DN_TREND_MAX);
    double least = got[count - 1].score;
    bool listed[TREND_ITEMS] = {false};
    for (size_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%.*s", got[i].item_length, got[i].item);
        int item = atoi(name + 1);
        listed[item] = true;
        CHECK(fabs(got[i].score - want[item]) <= 0.03 * want[item] + 0.01, "item %d: %f, not %f", item,
              (double)got[i].score, want[item]);
        assert_true(i == 0 || got[i - 1].score >= got[i].score);
    }
    for (int item = 0; item < TREND_ITEMS; item++) {
        CHECK(listed[item] || want[item] <= least * 1.03 + 0.01, "item %d with %f is missing", item,
              want[item]);
    }
    dn_epoch_leave(rig.reader);
    for (int item = 0; item < TREND_ITEMS; item++) { /* the counters of all of them */
        double trending = trending_of(item);
        CHECK(fabs(trending - want[item]) <= 0.03 * want[item] + 0.01, "item %d: %f, not %f", item, trending,
              want[item]);
    }
    /* What one event adds is known to the last bit of the table, also of one from before the landmark. */
    for (int i = 0; i < 200; i++) {
        char name[16];
        int item = (int)rng_below(&rng, TREND_ITEMS), weight = 1 + (int)rng_below(&rng, 600);
        int64_t time_ms = rig.now_ms - (int64_t)rng_below(&rng, 10 * (uint64_t)HOUR);
        snprintf(name, sizeof name, "i%d", item);
        struct dn_event_in in = event_of(1000 + (uint64_t)i, 1 + rng_next(&rng), time_ms, name);
        in.weight = (uint16_t)weight;
        double was = trending_of(item);
        rig_events(&rig, &in, 1);
        assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_ACCEPTED);
        double more = trending_of(item) - was;
        dn_epoch_enter(rig.reader);
        double said = dn_near_trending(rig.shard, time_ms, (float)weight / 256);
        dn_epoch_leave(rig.reader);
        CHECK(fabs(more - said) < 1e-9 * (1 + was), "%g, not %g", said, more);
    }
    rig_tick(&rig, 1000);
    dn_epoch_enter(rig.reader);
    dn_shard_trending(rig.shard, got, 1);
    dn_epoch_leave(rig.reader);

    /* A new half-life changes how it goes on, not what it is. */
    settings.trend_half_life_ms = 10 * MINUTE;
    float before = got[0].score;
    rig_settings(&rig, &settings);
    rig_tick(&rig, 300);
    dn_epoch_enter(rig.reader);
    dn_shard_trending(rig.shard, got, 1);
    dn_epoch_leave(rig.reader);
    CHECK(fabsf(got[0].score - before) < 0.02f * before, "%f, not %f", (double)got[0].score, (double)before);
    rig_tick(&rig, 10 * MINUTE);
    dn_epoch_enter(rig.reader);
    dn_shard_trending(rig.shard, got, 1);
    dn_epoch_leave(rig.reader);
    CHECK(fabsf(got[0].score - before / 2) < 0.02f * before, "%f, not half of %f", (double)got[0].score,
          (double)before);
    /* In the end nothing trends. */
    rig_tick(&rig, 48 * HOUR);
    rig_tick(&rig, 1000);
    dn_epoch_enter(rig.reader);
    assert_int_equal(dn_shard_trending(rig.shard, got, DN_TREND_MAX), 0);
    dn_epoch_leave(rig.reader);
}

/* ---- the items with the most events ever -------------------------------------------------------------- */

static void test_most_clicked(void **state)
{
    (void)state;
    enum { ITEMS = 600, EVENTS = 6000 };
    int want[ITEMS] = {0};
    struct rng rng = {11};
    struct dn_trend_view got[DN_TREND_MAX], again[DN_TREND_MAX];
    struct dn_shard_settings settings;
    dn_shard_settings_default(&settings); /* with tables */
    rig_settings(&rig, &settings);
    for (int i = 0; i < EVENTS; i++) {
        char name[16];
        int item = (int)(rng_below(&rng, ITEMS) * rng_below(&rng, ITEMS) / ITEMS);
        snprintf(name, sizeof name, "i%d", item);
        want[item] +=
            rig_click(&rig, rng_below(&rng, 50), 1 + rng_next(&rng), rig.now_ms, name) == DN_OUTCOME_ACCEPTED;
    }
    rig_tick(&rig, 24 * HOUR); /* it does not fade */
    dn_epoch_enter(rig.reader);
    size_t count = dn_shard_most_clicked(rig.shard, got, DN_TREND_MAX);
    assert_int_equal(count, DN_TREND_MAX);
    int least = (int)got[count - 1].score, better = 0;
    for (size_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%.*s", got[i].item_length, got[i].item);
        int item = atoi(name + 1);
        assert_true(got[i].score == (float)want[item] && (i == 0 || got[i - 1].score >= got[i].score));
    }
    for (int item = 0; item < ITEMS; item++) {
        better += want[item] > least;
    }
    assert_true(better > 0 && (size_t)better < count);
    assert_true(got[better].score == (float)least && got[better - 1].score > (float)least);
    dn_epoch_leave(rig.reader);
    /* A restored shard has the same. */
    struct dn_buffer bytes;
    dn_buffer_init(&bytes, 64u << 20);
    rig_snapshot(&rig, &bytes);
    rig_restore(&rig, &bytes);
    dn_buffer_free(&bytes);
    dn_epoch_enter(rig.reader);
    assert_int_equal(dn_shard_most_clicked(rig.shard, again, DN_TREND_MAX), count);
    for (size_t i = 0; i < count; i++) {
        CHECK(again[i].score == got[i].score, "place %zu", i);
    }
    dn_epoch_leave(rig.reader);
}

/* ---- counters that halve every hour, day and week ------------------------------------------------------ */

enum { POPULAR_ITEMS = 40, POPULAR_EVENTS = 1500 };
static const int64_t SPAN_MS[DN_POPULAR_SPANS] = {HOUR, 24 * HOUR, 7 * 24 * HOUR};
static struct {
    int item;
    int64_t time_ms;
    double weight;
} popular_events[POPULAR_EVENTS];

static void check_popular(void)
{
    for (int item = 0; item < POPULAR_ITEMS; item++) {
        char name[16];
        snprintf(name, sizeof name, "i%d", item);
        dn_epoch_enter(rig.reader);
        uint32_t id = dn_near_find(rig.shard, dn_hash64(name, strlen(name), 0), name, (uint16_t)strlen(name));
        for (enum dn_popular_span span = 0; span < DN_POPULAR_SPANS && id != DN_NEAR_NONE; span++) {
            double want = 0,
                   got = (double)dn_near_popular(rig.shard, id, dn_hash64(name, strlen(name), 0), span);
            for (int i = 0; i < POPULAR_EVENTS; i++) {
                if (popular_events[i].item == item) {
                    want += popular_events[i].weight *
                            exp2(-(double)(rig.now_ms - popular_events[i].time_ms) / (double)SPAN_MS[span]);
                }
            }
            CHECK(fabs(got - want) <= 1e-4 * want + 1e-6, "item %d, span %d: %g, not %g", item, (int)span,
                  got, want);
        }
        dn_epoch_leave(rig.reader);
    }
}

static void test_popular(void **state)
{
    (void)state;
    struct rng rng = {17};
    struct dn_shard_settings settings;
    dn_shard_settings_default(&settings);
    settings.lateness_ms = 24 * HOUR;
    settings.idle_ms = 365 * 24 * HOUR; /* nobody is forgotten */
    rig_settings(&rig, &settings);
    for (int i = 0; i < POPULAR_EVENTS; i++) { /* 90 days: all landmarks move, and sessions hold all events */
        char name[16];
        uint64_t user = rng_below(&rng, 300);
        popular_events[i].item = (int)rng_below(&rng, POPULAR_ITEMS);
        popular_events[i].time_ms = rig.now_ms - (int64_t)rng_below(&rng, 3 * (uint64_t)HOUR);
        snprintf(name, sizeof name, "i%d", popular_events[i].item);
        struct dn_event_in in = event_of(user, 1 + rng_next(&rng), popular_events[i].time_ms, name);
        in.weight = (uint16_t)(1 + rng_below(&rng, 600));
        in.type = (uint8_t)(1 + rng_below(&rng, DN_EVENT_TYPE_MAX));
        rig_events(&rig, &in, 1);
        assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_ACCEPTED);
        bool negative = in.type == DN_EVENT_DISLIKE || in.type == DN_EVENT_REMOVE;
        popular_events[i].weight = negative ? 0 : (double)in.weight / 256;
        rig_tick(&rig, (int64_t)rng_below(&rng, 3 * (uint64_t)HOUR));
    }
    rig_tick(&rig, 1000);
    check_popular();
    /* Made anew from the sessions. */
    struct dn_buffer bytes;
    dn_buffer_init(&bytes, 64u << 20);
    rig_snapshot(&rig, &bytes);
    rig_restore(&rig, &bytes);
    dn_buffer_free(&bytes);
    check_popular();
    rig_tick(&rig, 9 * HOUR); /* and they go on fading */
    check_popular();
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_trending),
        CASE(test_most_clicked),
        CASE(test_popular),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
