/* For tests of the pipeline: a real catalogue, real retrieval, real shards; items put, trends made, answers
 * asked for. */
#ifndef DN_TESTS_RECOMMEND_PIPELINE_H
#define DN_TESTS_RECOMMEND_PIPELINE_H

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

enum { DIM = 8, SHARDS = 2, ID_TEXT_MAX = 64, NOW_MS = 1700000000 };
#define START_MS ((int64_t)NOW_MS * 1000)

struct world {
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_catalog *catalog;
    struct dn_shard *shards[SHARDS];
    struct dn_retrieval *retrieval;
    struct dn_arena *arena;
    struct dn_recommend_world view;
    struct dn_recommend_settings settings;
    uint64_t index;
    int64_t later_ms;
    struct dn_recommended *items;
    size_t count;
    struct dn_error err;
};

static inline int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct dn_retrieval_options options = {.factory = "Flat"};

    assert_non_null(w);
    w->epoch = dn_epoch_create();
    w->reader = dn_epoch_register(w->epoch);
    w->catalog = dn_catalog_create(w->epoch, 100000);
    for (int i = 0; i < SHARDS; i++)
        w->shards[i] = dn_shard_create(w->epoch);
    if (dn_retrieval_create(w->catalog, w->epoch, &options, &w->retrieval, &w->err) != DN_OK)
        fail_msg("retrieval: %s", w->err.message);
    w->arena = dn_arena_create(1 << 16, 64 << 20);
    w->view = (struct dn_recommend_world){.catalog = w->catalog,
                                          .retrieval = w->retrieval,
                                          .shards = (const struct dn_shard *const *)w->shards,
                                          .shard_count = SHARDS};
    dn_recommend_settings_default(&w->settings);
    dn_epoch_enter(w->reader);
    *state = w;
    return 0;
}

static inline int tear_down(void **state)
{
    struct world *w = *state;

    dn_epoch_leave(w->reader);
    dn_retrieval_destroy(w->retrieval);
    dn_epoch_unregister(w->reader);
    for (int i = 0; i < SHARDS; i++)
        dn_shard_destroy(w->shards[i]);
    dn_catalog_destroy(w->catalog);
    dn_epoch_destroy(w->epoch);
    dn_arena_destroy(w->arena);
    free(w);
    return 0;
}

static inline void put_item(struct world *w, const struct dn_item *item)
{
    struct dn_buffer record, result;
    uint32_t count = 0;
    const uint8_t *outcomes = NULL;

    dn_buffer_init(&record, 1 << 20);
    dn_buffer_init(&result, 1 << 20);
    dn_catalog_record_upsert(&record, item, 1);
    dn_catalog_apply(w->catalog, ++w->index, 0, START_MS, record.bytes, record.length, &result);
    dn_catalog_entry_done(w->catalog, w->index, START_MS);
    assert_int_equal(dn_catalog_result_parse(result.bytes, result.length, &count, &outcomes, &w->err), DN_OK);
    assert_int_equal(count, 1);
    assert_int_equal(outcomes[0], DN_ITEM_OK);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
}

/* An item whose vector is (cos a, sin a, 0, ...): items are as alike as their angles are near. */
static inline void put(struct world *w, const char *id, double degrees, const char *category, double price)
{
    float vector[DIM] = {0};
    double angle = degrees * 3.14159265358979 / 180;

    vector[0] = (float)cos(angle);
    vector[1] = (float)sin(angle);
    put_item(w, &(struct dn_item){.id = id,
                                  .id_length = (uint16_t)strlen(id),
                                  .vector = vector,
                                  .dim = DIM,
                                  .category = category,
                                  .category_length = (uint16_t)strlen(category),
                                  .price = price,
                                  .available = true});
}

static inline void put_plain(struct world *w, const char *id, const char *category, bool available)
{
    put_item(w, &(struct dn_item){.id = id,
                                  .id_length = (uint16_t)strlen(id),
                                  .category = category,
                                  .category_length = (uint16_t)strlen(category),
                                  .price = NAN,
                                  .available = available});
}

static inline void put_bare(struct world *w, const char *id, bool available)
{
    put_plain(w, id, "", available);
}

/* Ten items i0..i9 at 0, 10, .. 90 degrees; even ones in category "even"; price = number. */
static inline void put_ten(struct world *w)
{
    char id[8];

    for (int i = 0; i < 10; i++) {
        snprintf(id, sizeof(id), "i%d", i);
        put(w, id, 10.0 * i, i % 2 ? "odd" : "even", i);
    }
}

/* Somebody else clicks an item n times. */
static inline void trend(struct world *w, int shard, const char *item, int n)
{
    struct dn_buffer record, result;

    dn_buffer_init(&record, 1 << 20);
    dn_buffer_init(&result, 1 << 20);
    for (int i = 0; i < n; i++) {
        struct dn_event_in event = {.user = {(uint64_t)shard + 1, ++w->index},
                                    .event_id = w->index,
                                    .time_ms = START_MS,
                                    .weight = DN_WEIGHT_ONE,
                                    .type = DN_EVENT_VIEW,
                                    .item = item,
                                    .item_length = (uint16_t)strlen(item)};

        dn_buffer_clear(&record);
        dn_buffer_clear(&result);
        dn_record_events(&record, &event, 1);
        dn_shard_apply(w->shards[shard], w->index, 0, START_MS, record.bytes, record.length, &result);
        dn_shard_entry_done(w->shards[shard], w->index, START_MS);
        struct dn_result parsed;
        assert_int_equal(dn_result_parse(result.bytes, result.length, DN_RECORD_EVENTS, &parsed, &w->err),
                         DN_OK);
        assert_int_equal(parsed.outcomes[0], DN_OUTCOME_ACCEPTED);
    }
    /* A shard shows its trends to readers a few times a second of its own time. */
    w->later_ms += 1000;
    dn_shard_entry_done(w->shards[shard], ++w->index, START_MS + w->later_ms);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
}

static inline struct dn_event_view event(const char *item, uint8_t type, int64_t age_ms)
{
    return (struct dn_event_view){.item = item,
                                  .item_length = (uint16_t)strlen(item),
                                  .item_hash = dn_hash64(item, strlen(item), 0),
                                  .type = type,
                                  .time_ms = START_MS - age_ms,
                                  .weight = 1,
                                  .current = true};
}

static inline enum dn_code ask(struct world *w, const struct dn_event_view *events, size_t count,
                               struct dn_recommend_query query)
{
    struct dn_session_view session = {.version = 1, .event_count = count, .events = events};

    if (count > 0)
        query.session = &session;
    dn_arena_reset(w->arena);
    w->items = NULL;
    w->count = 0;
    return dn_recommend(&w->view, &w->settings, &query, w->arena, &w->items, &w->count, &w->err);
}

static inline const char *id_at(const struct world *w, size_t i)
{
    static char text[4][ID_TEXT_MAX];
    static int turn;

    assert_true(i < w->count);
    turn = (turn + 1) % 4;
    snprintf(text[turn], sizeof(text[0]), "%.*s", w->items[i].item.id_length, w->items[i].item.id);
    return text[turn];
}

static inline bool has(const struct world *w, const char *id)
{
    for (size_t i = 0; i < w->count; i++)
        if (strcmp(id_at(w, i), id) == 0)
            return true;
    return false;
}

/* So many of the answer are of the category. */
static inline size_t of_category(const struct world *w, const char *category)
{
    size_t count = 0;

    for (size_t i = 0; i < w->count; i++)
        count += w->items[i].item.category_length == strlen(category) &&
                 memcmp(w->items[i].item.category, category, strlen(category)) == 0;
    return count;
}

#endif
