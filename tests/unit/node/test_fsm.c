/* The wrapper around a shard: which batches of a stream are observed as fresh, and how. */
#include "node/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"
#include "session/record.h"

#include <stdlib.h>
#include <string.h>

struct rig {
    struct dn_epoch *epoch;
    struct dn_histogram *freshness;
    struct dn_shard_seat seat;
    struct dn_fsm fsm;
    uint64_t index;
};

static void rig_open(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    rig->epoch = dn_epoch_create();
    rig->freshness = dn_histogram_create();
    rig->seat = (struct dn_shard_seat){
        .shard = dn_shard_create(rig->epoch), .freshness = rig->freshness, .since_ms = dn_wall_ms()};
    rig->fsm = dn_fsm_shard(&rig->seat);
}

static void rig_close(struct rig *rig)
{
    dn_shard_destroy(rig->seat.shard);
    dn_histogram_destroy(rig->freshness);
    dn_epoch_destroy(rig->epoch);
}

/* A batch of `count` events, one second apart, the newest of them age_ms ago; returns what apply answered. */
static uint8_t apply(struct rig *rig, int64_t entry_ms, int64_t begins_at, size_t count, int64_t age_ms)
{
    struct dn_event_in events[8];
    struct dn_buffer record, result;
    struct dn_apply at = {.index = ++rig->index, .time_ms = entry_ms};

    for (size_t i = 0; i < count; i++)
        events[i] = (struct dn_event_in){.user = {.high = 1, .low = i},
                                         .time_ms = dn_wall_ms() - age_ms - 1000 * (int64_t)(count - 1 - i),
                                         .weight = DN_WEIGHT_ONE,
                                         .type = DN_EVENT_VIEW,
                                         .offset = begins_at + 1 + (int64_t)i,
                                         .item = "item",
                                         .item_length = 4};
    dn_buffer_init(&record, 1 << 16);
    dn_buffer_init(&result, 1 << 16);
    dn_buffer_u8(&result, 99); /* another's answer stands before ours */
    dn_record_stream(&record, "s", 0, begins_at, begins_at + 9, events, count, NULL, 0);
    rig->fsm.apply(rig->fsm.state, &at, record.bytes, record.length, &result);
    rig->fsm.entry_done(rig->fsm.state, &at);
    uint8_t status = result.bytes[1];
    dn_buffer_free(&record);
    dn_buffer_free(&result);
    return status;
}

static void first_and_last_event_are_observed(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig);
    assert_int_equal(apply(&rig, dn_wall_ms(), DN_OFFSET_UNSET, 3, 5000), DN_RESULT_OK);
    assert_int_equal(dn_histogram_count(rig.freshness), 2);
    /* 5 s (the last) and 7 s (the first), within the histogram's 3 % and a slow machine's second. */
    uint64_t max_ns = dn_histogram_max_ns(rig.freshness);
    assert_in_range(max_ns, UINT64_C(6900000000), UINT64_C(60000000000));
    uint64_t least_ns = dn_histogram_quantile_ns(rig.freshness, 0);
    assert_in_range(least_ns, UINT64_C(4800000000), max_ns - UINT64_C(1500000000));
    rig_close(&rig);
}

static void only_what_became_visible_counts(void **state)
{
    struct rig rig;
    struct dn_buffer record, result;
    struct dn_apply at = {.index = 100, .time_ms = dn_wall_ms()};

    (void)state;
    rig_open(&rig);
    /* Committed before this process began: replayed, not waited for. */
    assert_int_equal(apply(&rig, rig.seat.since_ms - 1, DN_OFFSET_UNSET, 2, 0), DN_RESULT_OK);
    assert_int_equal(dn_histogram_count(rig.freshness), 0);
    /* Refused. */
    assert_int_equal(apply(&rig, dn_wall_ms(), 5000, 2, 0), DN_RESULT_GAP);
    assert_int_equal(dn_histogram_count(rig.freshness), 0);
    /* Without events. */
    assert_int_equal(apply(&rig, dn_wall_ms(), 8, 0, 0), DN_RESULT_OK);
    assert_int_equal(dn_histogram_count(rig.freshness), 0);
    /* No stream at all. */
    dn_buffer_init(&record, 1 << 16);
    dn_buffer_init(&result, 1 << 16);
    dn_record_stall(&record, 1, "x");
    rig.fsm.apply(rig.fsm.state, &at, record.bytes, record.length, &result);
    rig.fsm.entry_done(rig.fsm.state, &at);
    assert_int_equal(result.bytes[0], DN_RESULT_OK);
    assert_int_equal(dn_histogram_count(rig.freshness), 0);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
    /* From the future, by a clock that is ahead: no age. */
    rig.index = 200;
    assert_int_equal(apply(&rig, dn_wall_ms(), 17, 1, -3600000), DN_RESULT_OK);
    assert_int_equal(dn_histogram_count(rig.freshness), 2);
    assert_true(dn_histogram_max_ns(rig.freshness) < 1000000);
    rig_close(&rig);
}

/* Any part of a record is looked at without going past its end. */
static void broken_records_have_no_times(void **state)
{
    struct dn_event_in events[2] = {{.time_ms = 7, .item = "abc", .item_length = 3},
                                    {.time_ms = 9, .item = "", .item_length = 0}};
    struct dn_buffer record;
    int64_t first = 1, last = 1;

    (void)state;
    dn_buffer_init(&record, 1 << 16);
    dn_record_stream(&record, "stream", 3, 0, 2, events, 2, NULL, 0);
    assert_true(dn_record_stream_times(record.bytes, record.length, &first, &last));
    assert_int_equal(first, 7);
    assert_int_equal(last, 9);
    first = last = 1;
    for (size_t length = 0; length < record.length - sizeof(uint32_t);
         length++) { /* the count of dead ones */
        uint8_t *part = malloc(length + 1);

        memcpy(part, record.bytes, length);
        assert_false(dn_record_stream_times(part, length, &first, &last));
        free(part);
    }
    assert_int_equal(first, 1);
    assert_int_equal(last, 1);
    dn_buffer_clear(&record);
    dn_record_events(&record, events, 2);
    assert_false(dn_record_stream_times(record.bytes, record.length, &first, &last));
    dn_buffer_free(&record);
}

/* Everything else goes through to the shard. */
static void the_rest_is_the_shard(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig);
    uint64_t empty = rig.fsm.hash(rig.fsm.state);
    assert_int_equal(apply(&rig, dn_wall_ms(), DN_OFFSET_UNSET, 3, 0), DN_RESULT_OK);
    assert_true(rig.fsm.hash(rig.fsm.state) != empty);
    assert_true(rig.fsm.hash(rig.fsm.state) == dn_shard_hash(rig.seat.shard));
    void *capture = rig.fsm.snapshot_begin(rig.fsm.state);
    assert_non_null(capture);
    rig.fsm.snapshot_end(rig.fsm.state, capture);
    rig_close(&rig);
}

/* A long batch is applied a part at a time, and observed when all of it is visible. */
static void a_long_batch_in_parts(void **state)
{
    enum { COUNT = 5 * DN_APPLY_STEP };
    struct dn_event_in events[COUNT];
    struct dn_buffer record, result;
    struct rig rig;
    unsigned calls = 1;

    (void)state;
    rig_open(&rig);
    struct dn_apply at = {.index = 1, .time_ms = dn_wall_ms()};
    for (size_t i = 0; i < COUNT; i++)
        events[i] = (struct dn_event_in){.user = {.high = 1, .low = i},
                                         .time_ms = at.time_ms,
                                         .weight = DN_WEIGHT_ONE,
                                         .type = DN_EVENT_VIEW,
                                         .offset = (int64_t)i,
                                         .item = "item",
                                         .item_length = 4};
    dn_buffer_init(&record, 1 << 16);
    dn_buffer_init(&result, 1 << 16);
    dn_record_stream(&record, "s", 0, DN_OFFSET_UNSET, COUNT, events, COUNT, NULL, 0);
    while (!rig.fsm.apply_part(rig.fsm.state, &at, record.bytes, record.length, &result)) {
        assert_int_equal(dn_histogram_count(rig.freshness), 0);
        calls++;
    }
    rig.fsm.entry_done(rig.fsm.state, &at);
    assert_int_equal(calls, COUNT / DN_APPLY_STEP);
    assert_int_equal(result.bytes[0], DN_RESULT_OK);
    assert_int_equal(dn_histogram_count(rig.freshness), 2);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_and_last_event_are_observed),
        cmocka_unit_test(only_what_became_visible_counts),
        cmocka_unit_test(broken_records_have_no_times),
        cmocka_unit_test(the_rest_is_the_shard),
        cmocka_unit_test(a_long_batch_in_parts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
