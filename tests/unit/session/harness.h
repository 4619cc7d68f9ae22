/* What the session tests share: a seeded generator, a shard with its epoch, short ways to build records. */
#ifndef DN_TEST_SESSION_HARNESS_H
#define DN_TEST_SESSION_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/text.h"
#include "session/record.h"
#include "session/session.h"
#include "tests/whole_stream.h"

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                  \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint64_t rng_below(struct rng *rng, uint64_t bound)
{
    return rng_next(rng) % bound;
}

static inline bool rng_chance(struct rng *rng, unsigned percent)
{
    return rng_below(rng, 100) < percent;
}

struct rig {
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_arena *arena;
    struct dn_shard *shard;
    struct dn_buffer record, result;
    struct dn_result answer;
    uint64_t index;
    int64_t now_ms;
};

static inline void rig_open(struct rig *rig)
{
    *rig = (struct rig){.index = 1, .now_ms = 1000000000};
    rig->epoch = dn_epoch_create();
    rig->reader = dn_epoch_register(rig->epoch);
    rig->arena = dn_arena_create(65536, 16u << 20);
    rig->shard = dn_shard_create(rig->epoch);
    assert_non_null(rig->shard);
    dn_buffer_init(&rig->record, 4u << 20);
    dn_buffer_init(&rig->result, 4u << 20);
}

static inline void rig_close(struct rig *rig)
{
    dn_shard_destroy(rig->shard);
    dn_epoch_unregister(rig->reader);
    dn_epoch_destroy(rig->epoch);
    dn_arena_destroy(rig->arena);
    dn_buffer_free(&rig->record);
    dn_buffer_free(&rig->result);
}

/* Applies what is in rig->record as one entry and parses the answer. */
static inline void rig_apply(struct rig *rig)
{
    assert_false(rig->record.failed);
    dn_buffer_clear(&rig->result);
    dn_shard_apply(rig->shard, rig->index, 0, rig->now_ms, rig->record.bytes, rig->record.length,
                   &rig->result);
    dn_shard_entry_done(rig->shard, rig->index, rig->now_ms);
    rig->index++;
    struct dn_error err;
    if (dn_result_parse(rig->result.bytes, rig->result.length, rig->record.bytes[0], &rig->answer, &err) !=
        DN_OK) {
        fail_msg("%s", err.message);
    }
    assert_true(dn_shard_hash(rig->shard) == dn_shard_hash_recompute(rig->shard));
}

static inline void rig_tick(struct rig *rig, int64_t ms)
{
    rig->now_ms += ms;
    dn_shard_entry_done(rig->shard, rig->index++, rig->now_ms);
    assert_true(dn_shard_hash(rig->shard) == dn_shard_hash_recompute(rig->shard));
}

static inline void rig_events(struct rig *rig, const struct dn_event_in *events, size_t count)
{
    dn_buffer_clear(&rig->record);
    dn_record_events(&rig->record, events, count);
    rig_apply(rig);
}

static inline struct dn_hash128 user_of(uint64_t n)
{
    return (struct dn_hash128){.high = n * 0x9e3779b97f4a7c15u, .low = n};
}

static inline struct dn_event_in event_of(uint64_t user, uint64_t id, int64_t time_ms, const char *item)
{
    return (struct dn_event_in){
        .user = user_of(user),
        .event_id = id,
        .time_ms = time_ms,
        .weight = DN_WEIGHT_ONE,
        .type = DN_EVENT_CLICK,
        .item = item,
        .item_length = (uint16_t)strlen(item),
    };
}

/* One API event in an entry of its own. */
static inline enum dn_outcome rig_click(struct rig *rig, uint64_t user, uint64_t id, int64_t time_ms,
                                        const char *item)
{
    struct dn_event_in event = event_of(user, id, time_ms, item);
    rig_events(rig, &event, 1);
    assert_int_equal(rig->answer.status, DN_RESULT_OK);
    assert_int_equal(rig->answer.count, 1);
    return (enum dn_outcome)rig->answer.outcomes[0];
}

static inline void rig_settings(struct rig *rig, const struct dn_shard_settings *settings)
{
    dn_buffer_clear(&rig->record);
    dn_record_settings(&rig->record, settings);
    rig_apply(rig);
}

static inline void rig_erase(struct rig *rig, uint64_t user, int64_t until_ms, uint64_t request_id)
{
    dn_buffer_clear(&rig->record);
    dn_record_erase(&rig->record, user_of(user), until_ms, request_id);
    rig_apply(rig);
}

/* The view lives in rig->arena until the next call. */
static inline enum dn_code rig_read(struct rig *rig, uint64_t user, struct dn_session_view *ret)
{
    dn_arena_reset(rig->arena);
    dn_epoch_enter(rig->reader);
    enum dn_code code = dn_shard_read(rig->shard, user_of(user), rig->arena, ret);
    dn_epoch_leave(rig->reader);
    return code;
}

/* Snapshot bytes of the shard as it is now. */
static inline void rig_snapshot(struct rig *rig, struct dn_buffer *ret)
{
    struct dn_error err;
    void *capture = dn_shard_snapshot_begin(rig->shard);
    if (whole_write(dn_shard_snapshot_write, rig->shard, capture, ret, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
    dn_shard_snapshot_end(rig->shard, capture);
}

static inline void rig_restore(struct rig *rig, const struct dn_buffer *bytes)
{
    struct dn_error err;
    void *built = NULL;
    if (whole_build(dn_shard_restore_build, rig->shard, bytes->bytes, bytes->length, &built, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
    dn_shard_restore_install(rig->shard, built);
}

#endif
