/* A world of three shards and a catalogue for tests of what the shards' tables say. */
#ifndef DN_TESTS_UNIT_RECOMMEND_NEAR_WORLD_H
#define DN_TESTS_UNIT_RECOMMEND_NEAR_WORLD_H

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
static inline uint32_t below(uint32_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % bound;
}

static inline void apply(struct world *w, int shard, const struct dn_buffer *record)
{
    struct dn_buffer result;

    assert_false(record->failed);
    dn_buffer_init(&result, 1 << 20);
    dn_shard_apply(w->shards[shard], ++w->index, 0, w->time_ms, record->bytes, record->length, &result);
    dn_shard_entry_done(w->shards[shard], w->index, w->time_ms);
    assert_int_equal(result.bytes[0], DN_RESULT_OK);
    dn_buffer_free(&result);
}

static inline void put_items(struct world *w, int count)
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

static inline struct world *world_of(int items)
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

static inline struct world *world_create(void)
{
    return world_of(ITEMS);
}

static inline void world_destroy(struct world *w)
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
static inline void tick(struct world *w, int64_t time_ms)
{
    w->time_ms = time_ms > w->time_ms ? time_ms : w->time_ms;
    for (int i = 0; i < SHARDS; i++)
        dn_shard_entry_done(w->shards[i], ++w->index, w->time_ms);
}

static inline void click_weight(struct world *w, int user, int item, int64_t time_ms, uint8_t type,
                                float weight)
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

static inline void click_type(struct world *w, int user, int item, int64_t time_ms, uint8_t type)
{
    click_weight(w, user, item, time_ms, type, 1);
}

static inline void click(struct world *w, int user, int item, int64_t time_ms)
{
    click_type(w, user, item, time_ms, DN_EVENT_VIEW);
}

/* The items clicked one after another by each of `users` users. */
static inline void walk(struct world *w, int first_user, int users, const char *path)
{
    for (int user = first_user; user < first_user + users; user++)
        for (int i = 0; path[i] != 0; i++)
            click(w, user, path[i] - 'a', START_MS + 1000 * i);
}

static inline struct dn_session_view session_of(struct dn_event_view *events, const int *items, size_t count,
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

static inline void ask(struct world *w, const char *path, struct dn_recommend_query query)
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

/* Names of all items, and random numbers by DUNLIN_SEED: at the start of main. */
static inline void near_world_begin(void)
{
    const char *seed = getenv("DUNLIN_SEED");

    for (int i = ITEMS; i < ALL_ITEMS; i++) {
        snprintf(more_names[i], sizeof more_names[i], "m%d", i);
        NAMES[i] = more_names[i];
    }
    random_state = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    random_state = random_state * 2862933555777941757u + 3037000493u;
    printf("seed %s%llu (set DUNLIN_SEED to repeat)\n",
           seed ? "" : "of the clock: ", seed ? strtoull(seed, NULL, 10) : (unsigned long long)time(NULL));
}

#endif
