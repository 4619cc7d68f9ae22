/* What vectors bring to an answer, over a real catalogue, real retrieval and a real shard: items that nobody
 * clicked, and one query for each of the session's interests. */
#include "base/arena.h"
#include "base/hash.h"
#include "recommend/recommend.h"
#include "session/record.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DIM 8
#define START_MS ((int64_t)1700000000000)
#define USERS 12
#define BETWEEN 60 /* items between two interests: more than one search asks for */

struct world {
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_catalog *catalog;
    struct dn_shard *shard;
    struct dn_retrieval *retrieval;
    struct dn_arena *arena;
    struct dn_recommend_world view;
    struct dn_recommend_settings settings;
    struct dn_model model;
    uint64_t index;
    struct dn_recommended *items;
    size_t count;
    struct dn_error err;
};

static void apply(struct world *w, const struct dn_buffer *record, int64_t time_ms)
{
    struct dn_buffer result;

    dn_buffer_init(&result, 1 << 16);
    dn_shard_apply(w->shard, ++w->index, 0, time_ms, record->bytes, record->length, &result);
    dn_shard_entry_done(w->shard, w->index, time_ms);
    assert_int_equal(result.bytes[0], DN_RESULT_OK);
    dn_buffer_free(&result);
}

static void put_settings(struct world *w)
{
    struct dn_shard_settings settings;
    struct dn_buffer record;

    dn_shard_settings_default(&settings);
    dn_buffer_init(&record, 1 << 16);
    dn_record_settings(&record, &settings);
    apply(w, &record, START_MS);
    dn_buffer_free(&record);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct dn_retrieval_options options = {.factory = "Flat"};

    assert_non_null(w);
    w->epoch = dn_epoch_create();
    w->reader = dn_epoch_register(w->epoch);
    w->catalog = dn_catalog_create(w->epoch, 1000);
    w->shard = dn_shard_create(w->epoch);
    put_settings(w);
    if (dn_retrieval_create(w->catalog, w->epoch, &options, &w->retrieval, &w->err) != DN_OK)
        fail_msg("retrieval: %s", w->err.message);
    w->arena = dn_arena_create(1 << 16, 64 << 20);
    dn_model_default(&w->model);
    w->view = (struct dn_recommend_world){.catalog = w->catalog,
                                          .retrieval = w->retrieval,
                                          .shards = (const struct dn_shard *const *)&w->shard,
                                          .shard_count = 1,
                                          .model = &w->model};
    dn_recommend_settings_default(&w->settings);
    dn_epoch_enter(w->reader);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;

    dn_epoch_leave(w->reader);
    dn_retrieval_destroy(w->retrieval);
    dn_epoch_unregister(w->reader);
    dn_shard_destroy(w->shard);
    dn_catalog_destroy(w->catalog);
    dn_epoch_destroy(w->epoch);
    dn_arena_destroy(w->arena);
    free(w);
    return 0;
}

/* Items are as alike as their angles are near; NAN: without a vector. */
static void put(struct world *w, const char *id, double degrees)
{
    double angle = degrees * 3.14159265358979 / 180;
    float vector[DIM] = {(float)cos(angle), (float)sin(angle)};
    struct dn_item item = {.id = id,
                           .id_length = (uint16_t)strlen(id),
                           .vector = isnan(degrees) ? NULL : vector,
                           .dim = isnan(degrees) ? 0 : DIM,
                           .category = "",
                           .price = NAN,
                           .available = true};
    struct dn_buffer record, result;

    dn_buffer_init(&record, 1 << 16);
    dn_buffer_init(&result, 1 << 16);
    dn_catalog_record_upsert(&record, &item, 1);
    dn_catalog_apply(w->catalog, ++w->index, 0, START_MS, record.bytes, record.length, &result);
    dn_catalog_entry_done(w->catalog, w->index, START_MS);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
}

static void click(struct world *w, unsigned user, const char *item, int64_t after_ms)
{
    struct dn_event_in event = {.user = {.low = user + 1, .high = 7},
                                .event_id = w->index + 1000,
                                .time_ms = START_MS + after_ms,
                                .weight = DN_WEIGHT_ONE,
                                .type = DN_EVENT_VIEW,
                                .item = item,
                                .item_length = (uint16_t)strlen(item)};
    struct dn_buffer record;

    dn_buffer_init(&record, 1 << 16);
    dn_record_events(&record, &event, 1);
    apply(w, &record, START_MS + after_ms);
    dn_buffer_free(&record);
}

/* Everybody clicks one after the other. */
static void walk(struct world *w, const char *const *items, size_t count)
{
    for (unsigned user = 0; user < USERS; user++)
        for (size_t i = 0; i < count; i++)
            click(w, user, items[i], 1000 * (int64_t)i);
}

static void ask(struct world *w, const char *const *clicked, size_t count, struct dn_recommend_query query)
{
    struct dn_event_view events[8];

    for (size_t i = 0; i < count; i++)
        events[i] = (struct dn_event_view){.item = clicked[i],
                                           .item_length = (uint16_t)strlen(clicked[i]),
                                           .item_hash = dn_hash64(clicked[i], strlen(clicked[i]), 0),
                                           .type = DN_EVENT_VIEW,
                                           .time_ms = START_MS + 100000 + (int64_t)i,
                                           .weight = 1,
                                           .current = true};
    struct dn_session_view session = {.version = 1, .event_count = count, .events = events};
    query.session = &session;
    dn_arena_reset(w->arena);
    if (dn_recommend(&w->view, &w->settings, &query, w->arena, &w->items, &w->count, &w->err) != DN_OK)
        fail_msg("%s", w->err.message);
}

/* The place of an item in the answer, from 1; 0: it is not there. */
static size_t place(const struct world *w, const char *id)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->items[i].item.id_length == strlen(id) && memcmp(w->items[i].item.id, id, strlen(id)) == 0)
            return i + 1;
    return 0;
}

/* ---- what nobody clicked ----------------------------------------------------------------------------- */

static void what_nobody_clicked_is_reached(void **state)
{
    static const char *const PATH[] = {"a", "b", "c"}, *const LONELY[] = {"d"};
    struct world *w = *state;

    put(w, "a", 0);
    put(w, "b", 80);
    put(w, "c", 85);
    put(w, "d", 40);
    put(w, "new", 1);
    put(w, "far", 170);
    walk(w, PATH, 3);
    /* The neighbours' items lead, then comes what is like the session, before what only trends. */
    ask(w, PATH, 1, (struct dn_recommend_query){.k = 4});
    assert_int_equal(place(w, "b"), 1);
    assert_int_equal(place(w, "c"), 2);
    assert_int_equal(place(w, "new"), 3);
    assert_string_equal(w->items[2].source, "session_vector");
    assert_string_equal(w->items[2].reason, "similar to 'a', which you viewed");
    /* Nothing better: nobody ever was where the session is. */
    ask(w, LONELY, 1, (struct dn_recommend_query){.k = 3});
    assert_true(place(w, "new") >= 1);
    assert_string_equal(w->items[place(w, "new") - 1].source, "session_vector");
}

/* The model has a word for what vectors alone offer, and for what they cannot speak of. */
static void the_model_tells_them_apart(void **state)
{
    static const char *const PATH[] = {"a", "b", "bare"};
    struct world *w = *state;

    put(w, "a", 0);
    put(w, "b", 80);
    put(w, "bare", (double)NAN);
    put(w, "new", 1);
    walk(w, PATH, 3);
    ask(w, PATH, 1, (struct dn_recommend_query){.k = 3});
    assert_int_equal(place(w, "new"), 3);
    w->model.weights[0][DN_FEATURE_VECTOR_ONLY] = 20;
    ask(w, PATH, 1, (struct dn_recommend_query){.k = 3});
    assert_int_equal(place(w, "new"), 1);
    assert_int_equal(place(w, "b"), 2); /* vectors offer it too, but not alone */
    w->model.weights[0][DN_FEATURE_NO_VECTOR] = 40;
    ask(w, PATH, 1, (struct dn_recommend_query){.k = 3});
    assert_int_equal(place(w, "bare"), 1);
    assert_int_equal(place(w, "new"), 2);
    /* What the session itself had is known without vectors. */
    w->model.weights[0][DN_FEATURE_NO_VECTOR] = 0;
    ask(w, PATH, 1, (struct dn_recommend_query){.k = 4, .include_seen = true});
    assert_int_equal(place(w, "new"), 1);
    assert_true(place(w, "a") > 1);
}

/* ---- interests --------------------------------------------------------------------------------------- */

static void put_two_interests(struct world *w)
{
    char id[16];

    put(w, "east", 0);
    put(w, "north", 90);
    put(w, "by-east", -1);
    put(w, "by-north", 91);
    for (int i = 0; i < BETWEEN; i++) {
        snprintf(id, sizeof id, "between-%d", i);
        put(w, id, 30 + 0.5 * i);
    }
}

static void each_interest_is_asked_for(void **state)
{
    static const char *const BOTH[] = {"east", "north", "east"};
    struct dn_recommend_query query = {.k = 10, .only = 1 + DN_SOURCE_VECTOR};
    struct world *w = *state;

    put_two_interests(w);
    w->settings.recency_decay = 1;
    w->settings.interests = 0;
    ask(w, BOTH, 3, query);
    assert_int_equal(place(w, "by-east") + place(w, "by-north"), 0); /* the mean is near neither */
    /* An item counts once: two of the three clicks are two interests. */
    w->settings.interests = 2;
    ask(w, BOTH, 3, query);
    assert_true(place(w, "by-east") >= 1 && place(w, "by-east") <= 8);
    assert_true(place(w, "by-north") >= 1 && place(w, "by-north") <= 8);
    w->settings.interests = 1; /* the newest */
    ask(w, BOTH, 3, query);
    assert_true(place(w, "by-east") >= 1);
    assert_int_equal(place(w, "by-north"), 0);
}

/* Mid is nearer to the newest item (12 degrees) than what the direction (38.7) puts before it. */
static void the_best_cosine_counts(void **state)
{
    static const char *const BOTH[] = {"north", "east"};
    struct dn_recommend_query query = {.k = 3, .only = 1 + DN_SOURCE_VECTOR};
    struct world *w = *state;

    put(w, "east", 0);
    put(w, "north", 90);
    put(w, "mid", 12);
    put(w, "off", 60);
    put(w, "there", 38.7);
    w->settings.interests = 0;
    ask(w, BOTH, 2, query);
    assert_int_equal(place(w, "there"), 1);
    assert_int_equal(place(w, "off"), 2);
    assert_int_equal(place(w, "mid"), 3);
    w->settings.interests = DN_INTERESTS_MAX;
    ask(w, BOTH, 2, query);
    assert_int_equal(place(w, "there"), 1);
    assert_int_equal(place(w, "mid"), 2);
    assert_int_equal(place(w, "off"), 3);
}

static void nothing_comes_twice_or_against_the_rules(void **state)
{
    static const char *const BOTH[] = {"north", "east"};
    struct dn_attribute excluded = {.value = "by-east", .value_length = 7};
    struct world *w = *state;

    put_two_interests(w);
    w->settings.interests = DN_INTERESTS_MAX;
    ask(w, BOTH, 2, (struct dn_recommend_query){.k = 40, .only = 1 + DN_SOURCE_VECTOR});
    assert_int_equal(w->count, 40);
    assert_true(place(w, "by-east") >= 1);
    for (size_t i = 0; i < w->count; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(w->items[i].item.slot != w->items[j].item.slot);
    ask(w, BOTH, 2,
        (struct dn_recommend_query){
            .k = 40, .only = 1 + DN_SOURCE_VECTOR, .exclude = &excluded, .exclude_count = 1});
    assert_int_equal(place(w, "by-east") + place(w, "east") + place(w, "north"), 0);
    assert_true(place(w, "by-north") >= 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_nobody_clicked_is_reached),
        TEST(the_model_tells_them_apart),
        TEST(each_interest_is_asked_for),
        TEST(the_best_cosine_counts),
        TEST(nothing_comes_twice_or_against_the_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
