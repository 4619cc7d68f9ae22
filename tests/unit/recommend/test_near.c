/* What the shards' tables say of a session, through real shards and a real catalogue: neighbours, rules and
 * co-visitation lead, what the session itself added is left out, a label as if it had never been clicked, and
 * the learner finds what predicts. */
#include "base/arena.h"
#include "base/hash.h"
#include "recommend/gather.h"
#include "recommend/learn.h"
#include "session/record.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define SHARDS 3
#define ITEMS 12
#define ALL_ITEMS 160 /* of one test */
#define START_MS ((int64_t)1700000000000)
#define ROUNDS 60
#define SCORES_NEAR 1e-4f /* sums in another order */

struct world {
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_catalog *catalog;
    struct dn_shard *shards[SHARDS];
    struct dn_arena *arena;
    struct dn_recommend_world view;
    struct dn_recommend_settings settings;
    uint64_t index;
    int64_t time_ms;
    struct dn_recommended *items;
    size_t count;
    struct dn_error err;
};

static const char *NAMES[ALL_ITEMS] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"};
static char more_names[ALL_ITEMS][8];

static uint64_t random_state;
static uint32_t below(uint32_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % bound;
}

static void apply(struct world *w, int shard, const struct dn_buffer *record)
{
    struct dn_buffer result;

    assert_false(record->failed);
    dn_buffer_init(&result, 1 << 20);
    dn_shard_apply(w->shards[shard], ++w->index, 0, w->time_ms, record->bytes, record->length, &result);
    dn_shard_entry_done(w->shards[shard], w->index, w->time_ms);
    assert_int_equal(result.bytes[0], DN_RESULT_OK);
    dn_buffer_free(&result);
}

static void put_items(struct world *w, int count)
{
    struct dn_buffer record, result;
    struct dn_item items[ALL_ITEMS];

    for (int i = 0; i < count; i++)
        items[i] = (struct dn_item){.id = NAMES[i],
                                    .id_length = (uint16_t)strlen(NAMES[i]),
                                    .category = i % 2 ? "odd" : "even",
                                    .category_length = i % 2 ? 3 : 4,
                                    .price = 1 + i,
                                    .available = true};
    dn_buffer_init(&record, 1 << 20);
    dn_buffer_init(&result, 1 << 20);
    dn_catalog_record_upsert(&record, items, (size_t)count);
    dn_catalog_apply(w->catalog, 1, 0, START_MS, record.bytes, record.length, &result);
    dn_catalog_entry_done(w->catalog, 1, START_MS);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
}

static struct world *world_of(int items)
{
    struct world *w = calloc(1, sizeof *w);
    struct dn_shard_settings settings;
    struct dn_buffer record;

    assert_non_null(w);
    w->epoch = dn_epoch_create();
    w->reader = dn_epoch_register(w->epoch);
    w->catalog = dn_catalog_create(w->epoch, 1000);
    w->arena = dn_arena_create(1 << 16, 64 << 20);
    w->time_ms = START_MS;
    dn_shard_settings_default(&settings);
    dn_buffer_init(&record, 1 << 16);
    dn_record_settings(&record, &settings);
    for (int i = 0; i < SHARDS; i++) {
        w->shards[i] = dn_shard_create(w->epoch);
        apply(w, i, &record);
    }
    dn_buffer_free(&record);
    put_items(w, items);
    w->view = (struct dn_recommend_world){
        .catalog = w->catalog, .shards = (const struct dn_shard *const *)w->shards, .shard_count = SHARDS};
    dn_recommend_settings_default(&w->settings);
    dn_epoch_enter(w->reader);
    return w;
}

static struct world *world_create(void)
{
    return world_of(ITEMS);
}

static void world_destroy(struct world *w)
{
    dn_epoch_leave(w->reader);
    dn_epoch_unregister(w->reader);
    for (int i = 0; i < SHARDS; i++)
        dn_shard_destroy(w->shards[i]);
    dn_catalog_destroy(w->catalog);
    dn_epoch_destroy(w->epoch);
    dn_arena_destroy(w->arena);
    free(w);
}

static struct dn_hash128 user_hash(int user)
{
    return (struct dn_hash128){.low = 1000003u * (unsigned)user + 7, .high = 1 + (unsigned)user};
}

/* Time passes in all shards alike. */
static void tick(struct world *w, int64_t time_ms)
{
    w->time_ms = time_ms > w->time_ms ? time_ms : w->time_ms;
    for (int i = 0; i < SHARDS; i++)
        dn_shard_entry_done(w->shards[i], ++w->index, w->time_ms);
}

static void click_weight(struct world *w, int user, int item, int64_t time_ms, uint8_t type, float weight)
{
    struct dn_event_in event = {.user = user_hash(user),
                                .event_id = w->index + 1000,
                                .time_ms = time_ms,
                                .weight = (uint16_t)(weight * DN_WEIGHT_ONE),
                                .type = type,
                                .item = NAMES[item],
                                .item_length = (uint16_t)strlen(NAMES[item])};
    struct dn_buffer record;

    dn_buffer_init(&record, 1 << 16);
    dn_record_events(&record, &event, 1);
    w->time_ms = time_ms > w->time_ms ? time_ms : w->time_ms;
    apply(w, user % SHARDS, &record);
    dn_buffer_free(&record);
}

static void click_type(struct world *w, int user, int item, int64_t time_ms, uint8_t type)
{
    click_weight(w, user, item, time_ms, type, 1);
}

static void click(struct world *w, int user, int item, int64_t time_ms)
{
    click_type(w, user, item, time_ms, DN_EVENT_VIEW);
}

/* The items clicked one after another by each of `users` users. */
static void walk(struct world *w, int first_user, int users, const char *path)
{
    for (int user = first_user; user < first_user + users; user++)
        for (int i = 0; path[i] != 0; i++)
            click(w, user, path[i] - 'a', START_MS + 1000 * i);
}

static struct dn_session_view session_of(struct dn_event_view *events, const int *items, size_t count,
                                         int64_t first_ms)
{
    for (size_t i = 0; i < count; i++)
        events[i] =
            (struct dn_event_view){.item = NAMES[items[i]],
                                   .item_length = (uint16_t)strlen(NAMES[items[i]]),
                                   .item_hash = dn_hash64(NAMES[items[i]], strlen(NAMES[items[i]]), 0),
                                   .type = DN_EVENT_VIEW,
                                   .time_ms = first_ms + 1000 * (int64_t)i,
                                   .weight = 1,
                                   .current = true};
    return (struct dn_session_view){.event_count = count,
                                    .events = events,
                                    .session_events = (uint32_t)count,
                                    .start_ms = first_ms,
                                    .last_ms = first_ms + 1000 * ((int64_t)count - 1)};
}

static void ask(struct world *w, const char *path, struct dn_recommend_query query)
{
    struct dn_event_view events[32];
    int items[32];
    size_t count = strlen(path);

    for (size_t i = 0; i < count; i++)
        items[i] = path[i] - 'a';
    struct dn_session_view session = session_of(events, items, count, START_MS + 60000);
    query.session = &session;
    dn_arena_reset(w->arena);
    if (dn_recommend(&w->view, &w->settings, &query, w->arena, &w->items, &w->count, &w->err) != DN_OK)
        fail_msg("%s", w->err.message);
}

static char at(const struct world *w, size_t i)
{
    assert_true(i < w->count);
    return w->items[i].item.id[0];
}

/* ---- what is said ------------------------------------------------------------------------------------ */

static void neighbours_and_rules_lead(void **state)
{
    struct world *w = world_create();

    (void)state;
    walk(w, 1, 6, "abc");
    walk(w, 20, 3, "de");
    ask(w, "a", (struct dn_recommend_query){.k = 2});
    assert_int_equal(at(w, 0), 'b');
    assert_int_equal(at(w, 1), 'c');
    assert_true(w->items[0].score > w->items[1].score && w->items[0].score == 1);
    ask(w, "d", (struct dn_recommend_query){.k = 1});
    assert_int_equal(at(w, 0), 'e');
    /* Single sources, and what they say. */
    static const unsigned SOURCES[] = {DN_SOURCE_VSTAN, DN_SOURCE_VMIS, DN_SOURCE_RULES, DN_SOURCE_COVIS};
    for (size_t i = 0; i < 4; i++) {
        ask(w, "a", (struct dn_recommend_query){.k = 3, .only = 1 + SOURCES[i]});
        assert_string_equal(w->items[0].source, dn_recommend_source_name(SOURCES[i]));
        assert_true(at(w, 0) == 'b' || at(w, 0) == 'c');
    }
    ask(w, "a", (struct dn_recommend_query){.k = 1, .only = 1 + DN_SOURCE_RULES});
    assert_int_equal(at(w, 0), 'b');
    assert_string_equal(w->items[0].reason, "often after 'a'");
    ask(w, "b", (struct dn_recommend_query){.k = 5, .only = 1 + DN_SOURCE_RULES});
    assert_int_equal(at(w, 0), 'c'); /* a never follows b */
    assert_string_equal(w->items[1].source, "trending");
    ask(w, "b", (struct dn_recommend_query){.k = 5, .only = 1 + DN_SOURCE_COVIS});
    assert_true((at(w, 0) == 'c' && at(w, 1) == 'a') || (at(w, 0) == 'a' && at(w, 1) == 'c'));
    world_destroy(w);
}

static void sources_can_be_off(void **state)
{
    struct world *w = world_create();
    uint32_t near =
        1u << DN_SOURCE_VSTAN | 1u << DN_SOURCE_VMIS | 1u << DN_SOURCE_RULES | 1u << DN_SOURCE_COVIS;

    (void)state;
    walk(w, 1, 6, "abc");
    ask(w, "a", (struct dn_recommend_query){.k = 2, .sources_off = near});
    assert_string_equal(w->items[0].source, "trending");
    for (unsigned source = 0; source < 4; source++) {
        ask(w, "a", (struct dn_recommend_query){.k = 2, .sources_off = near & ~(1u << source)});
        assert_string_equal(w->items[0].source, dn_recommend_source_name(source));
    }
    ask(w, "a",
        (struct dn_recommend_query){
            .k = 2, .sources_off = near | 1u << DN_SOURCE_TRENDING | 1u << DN_SOURCE_CATALOG});
    assert_int_equal(w->count, 0);
    world_destroy(w);
}

static void filters_and_seen_hold(void **state)
{
    struct world *w = world_create();
    struct dn_attribute even = {.value = "even", .value_length = 4};
    struct dn_filter_term term = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &even, .value_count = 1};
    struct dn_filter filter = {.terms = &term, .term_count = 1, .only_available = true};

    (void)state;
    walk(w, 1, 6, "abcd");
    ask(w, "a", (struct dn_recommend_query){.k = 1, .filter = &filter});
    assert_int_equal(at(w, 0), 'c');
    ask(w, "ab", (struct dn_recommend_query){.k = 12});
    assert_int_equal(w->count, 10);
    for (size_t i = 0; i < w->count; i++)
        assert_true(at(w, i) != 'a' && at(w, i) != 'b');
    ask(w, "ab", (struct dn_recommend_query){.k = 12, .include_seen = true});
    assert_int_equal(w->count, 12);
    world_destroy(w);
}

/* What a filter keeps may be far from the best of all: it is found before trending fills the places. */
static void a_filter_reaches_what_is_rare(void **state)
{
    enum { AFTER_A = ALL_ITEMS - ITEMS };
    struct world *w = world_of(ALL_ITEMS);
    struct dn_attribute odd = {.value = "odd", .value_length = 3};
    struct dn_filter_term term = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &odd, .value_count = 1};
    struct dn_filter filter = {.terms = &term, .term_count = 1, .only_available = true};
    int user = SHARDS; /* all of one shard */

    (void)state;
    for (int i = 0, item = ITEMS; i < AFTER_A; i++, item++)
        for (int times = item % 2 == 0 ? 4 : item % 8 == 1; times-- > 0; user += SHARDS) {
            click(w, user, 0, START_MS);
            click(w, user, item, START_MS + 1000);
        }
    uint32_t neighbours = 1u << DN_SOURCE_VSTAN | 1u << DN_SOURCE_VMIS;
    ask(w, "a", (struct dn_recommend_query){.k = 15, .filter = &filter, .sources_off = neighbours});
    assert_int_equal(w->count, 15);
    for (size_t i = 0; i < w->count; i++) {
        assert_true(strcmp(w->items[i].source, "rules") == 0 || strcmp(w->items[i].source, "covis") == 0);
        assert_memory_equal(w->items[i].item.category, "odd", 3);
    }
    world_destroy(w);
}

/* Scores are those of the order: with the boosts. */
static void boosts_are_in_the_scores(void **state)
{
    struct world *w = world_create();
    struct dn_attribute even = {.value = "even", .value_length = 4};
    struct dn_filter_term term = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &even, .value_count = 1};
    struct dn_filter filter = {.terms = &term, .term_count = 1, .only_available = true};
    struct dn_boost boost = {.filter = &filter, .times = 1, .plus = 5};
    struct dn_rules rules = {.boosts = &boost, .boost_count = 1};

    (void)state;
    walk(w, 1, 6, "abcd");
    ask(w, "a", (struct dn_recommend_query){.k = 11, .rules = &rules});
    assert_int_equal(at(w, 0), 'c');
    assert_true(w->items[0].score == 1);
    assert_int_equal(w->count, 11);
    for (size_t i = 1; i < w->count; i++)
        assert_true(w->items[i].score <= w->items[i - 1].score);
    assert_true(w->items[10].score < 0); /* what fills, with its boost, stays behind */
    world_destroy(w);
}

/* Whose row it is says the reason: the newest item that has one. */
static void reasons_name_the_item_with_a_row(void **state)
{
    struct world *w = world_create();

    (void)state;
    walk(w, 1, 6, "abc");
    ask(w, "al", (struct dn_recommend_query){.k = 2, .only = 1 + DN_SOURCE_RULES});
    assert_int_equal(at(w, 0), 'b');
    assert_string_equal(w->items[0].reason, "often after 'a'");
    ask(w, "al", (struct dn_recommend_query){.k = 2, .only = 1 + DN_SOURCE_COVIS});
    assert_string_equal(w->items[0].reason, "often together with 'a'");
    world_destroy(w);
}

/* A dislike is no neighbourhood. */
static void dislikes_are_not_counted(void **state)
{
    struct world *w = world_create();

    (void)state;
    for (int user = 1; user < 6; user++) {
        click(w, user, 0, START_MS);
        click_type(w, user, 1, START_MS + 1000, DN_EVENT_DISLIKE);
        click(w, user, 2, START_MS + 2000);
    }
    ask(w, "a", (struct dn_recommend_query){.k = 12});
    for (size_t i = 0; i < w->count; i++)
        if (at(w, i) == 'b')
            assert_true(strcmp(w->items[i].source, "trending") == 0 ||
                        strcmp(w->items[i].source, "catalog") == 0);
    assert_int_equal(at(w, 0), 'c');
    world_destroy(w);
}

/* ---- what is left out -------------------------------------------------------------------------------- */

struct gathered {
    struct dn_candidate of[ITEMS];
    bool there[ITEMS];
};

static void gather(struct world *w, const struct dn_session_view *session, int user,
                   const struct dn_event_view *label, struct gathered *ret)
{
    struct dn_recommend_query query = {.session = session, .k = 5, .include_seen = true};
    struct dn_label clicked = {.name = label ? label->item : "",
                               .length = 1,
                               .hash = label ? label->item_hash : 0,
                               .time_ms = label ? label->time_ms : 0,
                               .weight = label ? label->weight : 0};
    struct dn_recommend_world held;
    struct dn_pipeline pipeline;
    struct dn_gathered gathered;

    if (user > 0)
        query.user = user_hash(user);
    memset(ret, 0, sizeof *ret);
    dn_arena_reset(w->arena);
    assert_int_equal(dn_pipeline_begin(&pipeline, &held, &w->view, &w->settings, &query, w->arena, &w->err),
                     DN_OK);
    assert_int_equal(dn_gather(&pipeline, label ? &clicked : NULL, &gathered, &w->err), DN_OK);
    for (size_t i = 0; i < gathered.count; i++) {
        int item = gathered.list[i].item.id[0] - 'a';
        assert_false(ret->there[item]);
        ret->there[item] = true;
        ret->of[item] = gathered.list[i];
    }
}

static void assert_near(float a, float b, const char *what, int item)
{
    if (fabsf(a - b) > SCORES_NEAR * (1 + fabsf(a)))
        fail_msg("%s of '%s': %g and %g", what, NAMES[item], (double)a, (double)b);
}

/* What is left of a pair that was taken out again, is a rounding; it may name an item that nothing else
 * names. */
static float sum_of(const struct gathered *gathered, int item)
{
    float sum = 0;

    for (unsigned source = 0; source < DN_NEAR_SOURCES && gathered->there[item]; source++)
        sum += gathered->of[item].score[source];
    return sum;
}

static void assert_same(const struct gathered *a, const struct gathered *b)
{
    for (int i = 0; i < ITEMS; i++) {
        if (a->there[i] != b->there[i]) {
            if (sum_of(a, i) + sum_of(b, i) > SCORES_NEAR)
                fail_msg("'%s' is named by one alone", NAMES[i]);
            continue;
        }
        if (!a->there[i])
            continue;
        for (unsigned source = 0; source < DN_NEAR_SOURCES; source++)
            assert_near(a->of[i].score[source], b->of[i].score[source], dn_recommend_source_name(source), i);
        assert_near(a->of[i].after_last, b->of[i].after_last, "after_last", i);
        assert_near(a->of[i].near_last, b->of[i].near_last, "near_last", i);
        assert_int_equal(a->of[i].position, b->of[i].position);
        if (sum_of(a, i) > 0 && sum_of(b, i) > 0) {
            assert_near(a->of[i].clicks, b->of[i].clicks, "clicks", i);
            assert_near(a->of[i].recent, b->of[i].recent, "recent", i);
            assert_near(a->of[i].trending, b->of[i].trending, "trending", i);
        }
    }
}

/* Nothing of a source that is off is left: no feature of its own either. */
static void what_is_off_says_nothing(void **state)
{
    struct world *w = world_create();
    struct dn_event_view events[2];
    struct gathered got;
    const int items[] = {0};

    (void)state;
    walk(w, 1, 6, "abc");
    struct dn_session_view session = session_of(events, items, 1, START_MS + 60000);
    gather(w, &session, 0, NULL, &got);
    assert_true(got.there[1] && got.of[1].after_last > 0 && got.of[1].near_last > 0);
    w->settings.sources_off = 1u << DN_SOURCE_RULES;
    gather(w, &session, 0, NULL, &got);
    assert_true(got.there[1] && got.of[1].after_last == 0 && got.of[1].near_last > 0);
    w->settings.sources_off = 1u << DN_SOURCE_COVIS;
    gather(w, &session, 0, NULL, &got);
    assert_true(got.there[1] && got.of[1].after_last > 0 && got.of[1].near_last == 0);
    world_destroy(w);
}

/* Others' random clicks into both worlds; the session of one user only into the second. What the second says
 * to that user must be what the first says to nobody; and with the session's last click as the label, what
 * the first says of the session before it. */
static void the_own_session_is_left_out(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        struct world *without = world_create(), *with = world_create();
        struct dn_event_view events[16];
        struct gathered a, b;
        int items[16];
        size_t count = 2 + below(12);

        for (int user = 1; user <= 20; user++)
            for (uint32_t n = 1 + below(6), i = 0; i < n; i++) {
                int item = (int)below(ITEMS);
                click(without, user, item, START_MS + 1000 * (int64_t)i);
                click(with, user, item, START_MS + 1000 * (int64_t)i);
            }
        for (size_t i = 0; i < count; i++)
            items[i] = (int)below(ITEMS - 4);
        struct dn_session_view session = session_of(events, items, count, START_MS + 30000);
        for (size_t i = 0; i < count; i++) {
            events[i].weight = (float)(1 + below(512)) / DN_WEIGHT_ONE;
            click_weight(with, 77, items[i], events[i].time_ms, DN_EVENT_VIEW, events[i].weight);
        }
        int64_t asked_ms = START_MS + 60000 + 3600 * 1000 * (int64_t)below(60); /* beyond a landmark or two */
        tick(with, asked_ms);
        tick(without, asked_ms);
        gather(without, &session, 0, NULL, &a);
        gather(with, &session, 77, NULL, &b);
        assert_same(&a, &b);
        struct dn_session_view before = session;
        before.event_count--;
        before.session_events--;
        before.last_ms -= 1000;
        gather(without, &before, 0, NULL, &a);
        gather(with, &before, 77, &events[count - 1], &b);
        assert_same(&a, &b);
        world_destroy(without);
        world_destroy(with);
    }
}

/* ---- what trends ------------------------------------------------------------------------------------- */

static double trending_of(struct world *w, const struct dn_session_view *session, int item)
{
    struct gathered gathered;

    gather(w, session, 0, NULL, &gathered);
    return gathered.there[item] ? (double)gathered.of[item].trending : -1;
}

/* Summed over shards, by event weight, halved every 6 hours; and a feature of its logarithm. */
static void what_trends_is_a_feature(void **state)
{
    struct world *w = world_create();
    struct dn_event_view events[4];
    int items[1] = {0};
    struct dn_features features;
    struct dn_recommend_world held;
    struct dn_pipeline pipeline;
    struct dn_gathered gathered;

    (void)state;
    walk(w, 1, 6, "abc");
    for (int user = 1; user <= 6; user++)
        click_weight(w, user, 1, START_MS + 5000, DN_EVENT_CART, 2);
    tick(w, START_MS + 10000);
    struct dn_session_view session = session_of(events, items, 1, START_MS + 10000);
    assert_true(fabs(trending_of(w, &session, 1) - 18) < 0.3);
    assert_true(fabs(trending_of(w, &session, 2) - 6) < 0.1);
    tick(w, START_MS + 6 * 3600 * 1000);
    assert_true(fabs(trending_of(w, &session, 1) - 9) < 0.15);

    struct dn_recommend_query query = {.session = &session, .k = 5, .include_seen = true};
    dn_arena_reset(w->arena);
    assert_int_equal(dn_pipeline_begin(&pipeline, &held, &w->view, &w->settings, &query, w->arena, &w->err),
                     DN_OK);
    assert_int_equal(dn_gather(&pipeline, NULL, &gathered, &w->err), DN_OK);
    assert_int_equal(dn_features_read(&pipeline, &gathered, &features, &w->err), DN_OK);
    assert_non_null(features.of[DN_FEATURE_TRENDING]);
    float b = 0, c = 0;
    for (size_t i = 0; i < gathered.count; i++) {
        b = gathered.list[i].item.id[0] == 'b' ? features.of[DN_FEATURE_TRENDING][i] : b;
        c = gathered.list[i].item.id[0] == 'c' ? features.of[DN_FEATURE_TRENDING][i] : c;
    }
    assert_true(b > c && c > 0.1f && b < 1);
    world_destroy(w);
}

static void assert_popular(struct world *w, enum dn_window window, const char *order)
{
    dn_arena_reset(w->arena);
    assert_int_equal(dn_trending(&w->view, window, ITEMS, NULL, w->arena, &w->items, &w->count, &w->err),
                     DN_OK);
    assert_int_equal(w->count, strlen(order));
    for (size_t i = 0; i < w->count; i++) {
        assert_int_equal(at(w, i), order[i]);
        assert_true(i == 0 || w->items[i - 1].score >= w->items[i].score);
    }
}

static void popularity_by_window(void **state)
{
    const int64_t HOUR_MS = 3600 * 1000, DAY_MS = 24 * HOUR_MS;
    struct world *w = world_create();

    (void)state;
    for (enum dn_window window = 0; window < DN_WINDOW_COUNT; window++)
        assert_popular(w, window, "");
    for (int user = 1; user <= 20; user++) /* three weeks ago */
        click(w, user, 0, START_MS);
    tick(w, START_MS + 19 * DAY_MS);
    for (int user = 20; user < 28; user++) /* two days ago */
        click(w, user, 1, w->time_ms);
    tick(w, w->time_ms + 2 * DAY_MS - 4 * HOUR_MS);
    for (int user = 30; user < 34; user++) /* four hours ago */
        click(w, user, 2, w->time_ms);
    tick(w, w->time_ms + 4 * HOUR_MS);
    click(w, 50, 3, w->time_ms);
    click_type(w, 60, 4, w->time_ms, DN_EVENT_DISLIKE);
    tick(w, w->time_ms + 2000);
    assert_popular(w, DN_WINDOW_HOUR, "dcb"); /* 504 halvings leave nothing of the first */
    assert_true(fabsf(w->items[1].score - 0.25f) < 0.01f);
    assert_string_equal(w->items[0].reason, "popular this hour");
    assert_popular(w, DN_WINDOW_TREND, "cdb");
    assert_string_equal(w->items[0].reason, "trending now");
    assert_popular(w, DN_WINDOW_DAY, "cbda");
    assert_true(fabsf(w->items[1].score - 2) < 0.02f);
    assert_popular(w, DN_WINDOW_WEEK, "bcad");
    assert_true(fabsf(w->items[2].score - 2.5f) < 0.02f);
    assert_popular(w, DN_WINDOW_EVER, "abcd");
    assert_true(w->items[0].score == 20 && w->items[2].score == 4 && w->items[3].score == 1);
    assert_string_equal(w->items[0].reason, "most events ever");
    world_destroy(w);
}

/* ---- learning ---------------------------------------------------------------------------------------- */

/* The last item before always comes again, and rules are noise: what no default weights know. */
static void the_learner_finds_what_predicts(void **state)
{
    struct world *w = world_create();
    struct dn_model model;
    struct dn_event_view events[8];
    double first = 0, last = 0;
    int steps = 0;

    (void)state;
    dn_model_default(&model);
    struct dn_learner *learner = dn_learner_create(&model);
    assert_non_null(learner);
    for (int user = 100; user < 600; user++) {
        int x = (int)below(ITEMS), y = (x + 1 + (int)below(ITEMS - 1)) % ITEMS;
        int items[3] = {x, y, x};
        struct dn_session_view session = session_of(events, items, 3, START_MS + 1000 * (int64_t)user);
        struct dn_learned learned;
        for (int i = 0; i < 3; i++)
            click(w, user, items[i], events[i].time_ms);
        dn_arena_reset(w->arena);
        assert_int_equal(dn_learner_step(learner, &w->view, &w->settings, user_hash(user), &session, w->arena,
                                         &learned, &w->err),
                         DN_OK);
        assert_true(learned.used);
        first += user < 150 ? (double)learned.loss : 0;
        last += user >= 550 ? (double)learned.loss : 0;
        steps++;
    }
    assert_int_equal(steps, 500);
    if (!(last < first / 2))
        fail_msg("the loss of 50 steps was %g first, and %g last", first, last);
    dn_learner_model(learner, &model);
    assert_true(model.weights[0][DN_FEATURE_SEEN_BEFORE] > 0.5f);
    w->view.model = &model;
    ask(w, "ab", (struct dn_recommend_query){.k = 3, .include_seen = true});
    assert_int_equal(at(w, 0), 'a');
    /* And not without what was learned. */
    dn_model_default(&model);
    dn_learner_reset(learner, &model);
    struct dn_model again;
    dn_learner_model(learner, &again);
    assert_memory_equal(&again, &model, sizeof model);
    dn_learner_destroy(learner);
    world_destroy(w);
}

/* Corrections move an answer while the network leads, and not before; a learner brings it that far. */
static void a_network_that_leads_serves(void **state)
{
    struct world *w = world_create();
    struct dn_event_view events[4];
    struct dn_learned learned = {0};
    struct dn_model model;
    int items[3] = {0, 1, 2};
    float before = 0;

    (void)state;
    for (int user = 1; user < 10; user++)
        walk(w, user, 6, user % 3 ? "abc" : "abd");
    dn_model_default(&model);
    w->view.model = &model;
    ask(w, "ab", (struct dn_recommend_query){.k = 4, .include_seen = true});
    char first = w->items[0].item.id[0], second = w->items[1].item.id[0];
    /* One unit, open where the item is not the best one: lifted. */
    model.network.steps = 1;
    model.network.weights[DN_NETWORK_LENGTHS + 1][0] = 1;
    model.network.weights[DN_NETWORK_LEAD][0] = -1;
    model.network.weights[DN_NETWORK_OUT][0] = 19;
    ask(w, "ab", (struct dn_recommend_query){.k = 4, .include_seen = true});
    assert_int_equal(at(w, 0), first);
    model.network.leads = true;
    ask(w, "ab", (struct dn_recommend_query){.k = 4, .include_seen = true});
    assert_int_not_equal(at(w, 0), first);
    assert_true(second != first);
    dn_model_default(&model);
    struct dn_learner *learner = dn_learner_create(&model);
    struct dn_session_view session = session_of(events, items, 3, START_MS + 100000);
    for (int step = 0; step < 30; step++) {
        dn_arena_reset(w->arena);
        assert_int_equal(dn_learner_step(learner, &w->view, &w->settings, user_hash(77), &session, w->arena,
                                         &learned, &w->err),
                         DN_OK);
        assert_true(learned.used && learned.network_loss > 0);
        before = step == 0 ? learned.network_loss : before;
        assert_true(step > 0 || fabsf(learned.network_loss - learned.loss) < 1e-3f);
    }
    assert_true(learned.network_loss < before);
    dn_learner_model(learner, &model);
    assert_int_equal(model.network.steps, 30);
    assert_false(model.network.leads);
    dn_learner_destroy(learner);
    world_destroy(w);
}

static void what_is_no_label(void **state)
{
    struct world *w = world_create();
    struct dn_event_view events[4];
    int items[2] = {0, 1};
    struct dn_learned learned;
    struct dn_model model;

    (void)state;
    dn_model_default(&model);
    struct dn_learner *learner = dn_learner_create(&model);
    walk(w, 1, 6, "ab");
    struct dn_session_view session = session_of(events, items, 2, START_MS);
    session.event_count = 1;
    assert_int_equal(
        dn_learner_step(learner, &w->view, &w->settings, user_hash(1), &session, w->arena, &learned, &w->err),
        DN_OK);
    assert_false(learned.used);
    session.event_count = 2;
    events[1].type = DN_EVENT_DISLIKE;
    assert_int_equal(
        dn_learner_step(learner, &w->view, &w->settings, user_hash(1), &session, w->arena, &learned, &w->err),
        DN_OK);
    assert_false(learned.used);
    events[1].type = DN_EVENT_VIEW;
    events[0].current = false;
    assert_int_equal(
        dn_learner_step(learner, &w->view, &w->settings, user_hash(1), &session, w->arena, &learned, &w->err),
        DN_OK);
    assert_false(learned.used);
    events[0].current = true;
    assert_int_equal(
        dn_learner_step(learner, &w->view, &w->settings, user_hash(1), &session, w->arena, &learned, &w->err),
        DN_OK);
    assert_true(learned.used && learned.rank == 1 && learned.loss > 0);
    dn_learner_destroy(learner);
    world_destroy(w);
}

/* ---- the model's bytes ------------------------------------------------------------------------------- */

static void the_model_as_bytes(void **state)
{
    struct dn_model model = {0}, back;
    struct dn_buffer out;
    struct dn_error err;

    (void)state;
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
            model.weights[v][f] = (float)(int)below(2000) / 64 - 15;
    model.weights[1][2] = NAN;
    model.weights[1][3] = 1e9f;
    model.weights[1][4] = -INFINITY;
    dn_buffer_init(&out, DN_MODEL_BYTES_MAX);
    dn_model_encode(&model, &out);
    assert_false(out.failed);
    assert_int_equal(dn_model_decode(out.bytes, out.length, &back, &err), DN_OK);
    model.weights[1][2] = 0;
    model.weights[1][3] = DN_WEIGHT_MAX;
    model.weights[1][4] = -DN_WEIGHT_MAX;
    assert_memory_equal(&model, &back, sizeof model);
    for (size_t length = 0; length < out.length; length++)
        assert_int_equal(dn_model_decode(out.bytes, length, &back, &err), DN_CORRUPT);
    out.bytes[0] ^= 1;
    assert_int_equal(dn_model_decode(out.bytes, out.length, &back, &err), DN_CORRUPT);
    dn_buffer_free(&out);
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
        for (size_t g = 0; g < f; g++)
            assert_string_not_equal(dn_feature_name(f), dn_feature_name(g));
    assert_null(dn_feature_name(DN_FEATURE_COUNT));
}

int main(void)
{
    const char *seed = getenv("DUNLIN_SEED");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_and_rules_lead),
        cmocka_unit_test(sources_can_be_off),
        cmocka_unit_test(filters_and_seen_hold),
        cmocka_unit_test(a_filter_reaches_what_is_rare),
        cmocka_unit_test(reasons_name_the_item_with_a_row),
        cmocka_unit_test(boosts_are_in_the_scores),
        cmocka_unit_test(what_is_off_says_nothing),
        cmocka_unit_test(dislikes_are_not_counted),
        cmocka_unit_test(the_own_session_is_left_out),
        cmocka_unit_test(what_trends_is_a_feature),
        cmocka_unit_test(popularity_by_window),
        cmocka_unit_test(the_learner_finds_what_predicts),
        cmocka_unit_test(a_network_that_leads_serves),
        cmocka_unit_test(what_is_no_label),
        cmocka_unit_test(the_model_as_bytes),
    };

    for (int i = ITEMS; i < ALL_ITEMS; i++) {
        snprintf(more_names[i], sizeof more_names[i], "m%d", i);
        NAMES[i] = more_names[i];
    }
    random_state = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    random_state = random_state * 2862933555777941757u + 3037000493u;
    printf("seed %s%llu (set DUNLIN_SEED to repeat)\n",
           seed ? "" : "of the clock: ", seed ? strtoull(seed, NULL, 10) : (unsigned long long)time(NULL));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
