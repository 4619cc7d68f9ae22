/* The named cases: what each rule of the state machine is for, one test a rule. */
#include "harness.h"

#include <sys/resource.h>

#define MINUTE ((int64_t)60000)
#define HOUR (60 * MINUTE)
#define LONG_RECORD 4000
#define MOST_MB 90

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

/* One stream batch of `count` events of one user, offsets from `first` in steps of `step`. */
static enum dn_result_status stream(const char *source, uint32_t partition, int64_t begins_at,
                                    int64_t next_offset, int64_t first, int64_t step, size_t count,
                                    int64_t time_ms)
{
    struct dn_event_in events[16];
    for (size_t i = 0; i < count; i++) {
        events[i] = event_of(1, 0, time_ms, "streamed");
        events[i].offset = first + (int64_t)i * step;
    }
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, source, partition, begins_at, next_offset, events, count, NULL, 0);
    rig_apply(&rig);
    return rig.answer.status;
}

static size_t events_of(uint64_t user)
{
    struct dn_session_view view;
    return rig_read(&rig, user, &view) == DN_OK ? view.event_count : 0;
}

static void test_offsets_with_gaps(void **state)
{
    (void)state;
    int64_t next = 0;
    assert_int_equal(stream("k", 0, DN_OFFSET_UNSET, 40, 10, 7, 3, rig.now_ms), DN_RESULT_OK);
    assert_int_equal(rig.answer.next_offset, 40);
    /* Nothing but a gap: transactions leave batches without events. */
    assert_int_equal(stream("k", 0, 40, 55, 0, 0, 0, rig.now_ms), DN_RESULT_OK);
    assert_int_equal(stream("k", 0, 55, 70, 60, 3, 2, rig.now_ms), DN_RESULT_OK);
    assert_int_equal(events_of(1), 5);
    dn_epoch_enter(rig.reader);
    assert_true(dn_shard_next_offset(rig.shard, "k", 0, &next));
    assert_int_equal(next, 70);
    assert_false(dn_shard_next_offset(rig.shard, "k", 1, &next));
    assert_false(dn_shard_next_offset(rig.shard, "kk", 0, &next));
    dn_epoch_leave(rig.reader);
}

static void test_batch_lost_at_a_change_of_leader(void **state)
{
    (void)state;
    assert_int_equal(stream("k", 0, DN_OFFSET_UNSET, 3, 0, 1, 3, rig.now_ms), DN_RESULT_OK);
    /* 3..6 is lost; 6..9 arrives. */
    assert_int_equal(stream("k", 0, 6, 9, 6, 1, 3, rig.now_ms), DN_RESULT_GAP);
    assert_int_equal(rig.answer.next_offset, 3);
    assert_int_equal(events_of(1), 3);
    /* The consumer seeks back, and reads a little more than it must. */
    assert_int_equal(stream("k", 0, 1, 6, 1, 1, 5, rig.now_ms), DN_RESULT_OK);
    const uint8_t want[] = {DN_OUTCOME_DUPLICATE, DN_OUTCOME_DUPLICATE, DN_OUTCOME_ACCEPTED,
                            DN_OUTCOME_ACCEPTED, DN_OUTCOME_ACCEPTED};
    assert_memory_equal(rig.answer.outcomes, want, sizeof want);
    assert_int_equal(stream("k", 0, 6, 9, 6, 1, 3, rig.now_ms), DN_RESULT_OK);
    assert_int_equal(events_of(1), 9);
}

static void test_first_batch_lost(void **state)
{
    (void)state;
    /* The second batch of a new partition must not pass for the first. */
    assert_int_equal(stream("k", 0, 3, 6, 3, 1, 3, rig.now_ms), DN_RESULT_GAP);
    assert_int_equal(rig.answer.next_offset, DN_OFFSET_UNSET);
    assert_int_equal(events_of(1), 0);
    assert_int_equal(stream("k", 0, DN_OFFSET_UNSET, 3, 0, 1, 3, rig.now_ms), DN_RESULT_OK);
    /* Nor may a first batch that comes again, or from a consumer that does not know better, skip anything. */
    assert_int_equal(stream("k", 0, DN_OFFSET_UNSET, 90, 80, 1, 3, rig.now_ms), DN_RESULT_GAP);
    assert_int_equal(rig.answer.next_offset, 3);
    assert_int_equal(events_of(1), 3);
}

static void test_repeats_inside_and_beyond_the_window(void **state)
{
    (void)state;
    int64_t t = rig.now_ms;
    assert_int_equal(rig_click(&rig, 1, 77, t, "a"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 1, 77, t, "a"), DN_OUTCOME_DUPLICATE);
    assert_int_equal(rig_click(&rig, 2, 77, t, "a"), DN_OUTCOME_ACCEPTED); /* ids belong to their users */
    /* However many events push it off the list, the id stays. */
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.events_per_user = 2;
    rig_settings(&rig, &settings);
    for (uint64_t i = 0; i < 20; i++) {
        assert_int_equal(rig_click(&rig, 1, 100 + i, t + 1, "b"), DN_OUTCOME_ACCEPTED);
    }
    assert_int_equal(events_of(1), 2);
    assert_int_equal(rig_click(&rig, 1, 77, t, "a"), DN_OUTCOME_DUPLICATE);
    /* Beyond the allowed lateness the id is gone, and the repeat is late. */
    rig_tick(&rig, 6 * MINUTE);
    assert_int_equal(rig_click(&rig, 1, 300, rig.now_ms, "c"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 1, 77, t, "a"), DN_OUTCOME_LATE);
    /* A new event as old as the allowance permits is not. */
    assert_int_equal(rig_click(&rig, 1, 301, rig.now_ms - 5 * MINUTE, "c"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 1, 302, rig.now_ms - 5 * MINUTE - 1, "c"), DN_OUTCOME_LATE);
}

static void test_window_full(void **state)
{
    (void)state;
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.ids_per_user = 3;
    rig_settings(&rig, &settings);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(rig_click(&rig, 1, 1 + i, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
    }
    assert_int_equal(rig_click(&rig, 1, 9, rig.now_ms, "a"), DN_OUTCOME_WINDOW_FULL);
    assert_int_equal(rig_click(&rig, 1, 1, rig.now_ms, "a"), DN_OUTCOME_DUPLICATE);
    rig_tick(&rig, 6 * MINUTE);
    assert_int_equal(rig_click(&rig, 1, 9, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
}

static void test_client_clock_a_day_ahead(void **state)
{
    (void)state;
    int64_t day = 24 * HOUR;
    assert_int_equal(rig_click(&rig, 1, 1, rig.now_ms + day + 1, "a"), DN_OUTCOME_AHEAD);
    assert_int_equal(rig_click(&rig, 1, 2, rig.now_ms + day, "a"), DN_OUTCOME_ACCEPTED);
    /* Nobody else is late for it, and neither is this user when their clock is put right. */
    assert_int_equal(rig_click(&rig, 2, 3, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 1, 4, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 1, 5, rig.now_ms - 4 * MINUTE, "a"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 1, 2, rig.now_ms + day, "a"), DN_OUTCOME_DUPLICATE);
}

static void test_silent_source(void **state)
{
    (void)state;
    int64_t t = rig.now_ms;
    assert_int_equal(stream("a", 0, DN_OFFSET_UNSET, 1, 0, 1, 1, t), DN_RESULT_OK);
    assert_int_equal(stream("b", 0, DN_OFFSET_UNSET, 1, 0, 1, 1, t), DN_RESULT_OK);
    /* b's broker is down for an hour; a and the group's time go on, ticks included. */
    for (int64_t i = 1; i <= 60; i++) {
        rig_tick(&rig, MINUTE);
        assert_int_equal(stream("a", 0, i, i + 1, i, 1, 1, rig.now_ms), DN_RESULT_OK);
    }
    assert_int_equal(stream("b", 0, 1, 2, 1, 1, 1, t + 1), DN_RESULT_OK);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_ACCEPTED);
    /* For a, the same time is late; the offset goes on all the same. */
    assert_int_equal(stream("a", 0, 61, 62, 61, 1, 1, t + 1), DN_RESULT_OK);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_LATE);
    assert_int_equal(rig.answer.next_offset, 62);
}

static void test_sessions_by_event_time(void **state)
{
    (void)state;
    struct dn_session_view view;
    int64_t t = rig.now_ms - 3 * HOUR;
    assert_int_equal(stream("k", 0, DN_OFFSET_UNSET, 1, 0, 1, 1, t), DN_RESULT_OK);
    rig_click(&rig, 1, 1, t + 40 * MINUTE, "b");
    rig_read(&rig, 1, &view);
    assert_int_equal(view.session_events, 1);
    assert_int_equal(view.start_ms, t + 40 * MINUTE);
    assert_false(view.events[0].current);
    assert_true(view.events[1].current);
    /* An event between the two, 20 minutes from each, makes one session of them. */
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.lateness_ms = HOUR;
    rig_settings(&rig, &settings);
    rig_click(&rig, 2, 2, t, "x");
    struct dn_event_in between = event_of(2, 3, t + 40 * MINUTE, "y");
    rig_events(&rig, &between, 1);
    assert_int_equal(rig_click(&rig, 2, 4, t + 20 * MINUTE, "z"), DN_OUTCOME_ACCEPTED);
    rig_read(&rig, 2, &view);
    assert_int_equal(view.session_events, 3);
    assert_int_equal(view.counts[DN_EVENT_CLICK], 3);
    assert_int_equal(view.start_ms, t);
    assert_memory_equal(view.events[1].item, "z", 1);
    /* Exactly the gap still belongs; one millisecond more does not. */
    rig_click(&rig, 2, 5, t + 70 * MINUTE, "w");
    rig_read(&rig, 2, &view);
    assert_int_equal(view.session_events, 4);
    rig_click(&rig, 2, 6, t + 100 * MINUTE + 1, "v");
    rig_read(&rig, 2, &view);
    assert_int_equal(view.session_events, 1);
    assert_int_equal(view.event_count, 5);
    /* Late enough to be history: kept, not counted. */
    rig_click(&rig, 2, 7, t + 70 * MINUTE, "u");
    rig_read(&rig, 2, &view);
    assert_int_equal(view.session_events, 1);
    assert_int_equal(view.event_count, 6);
}

static void test_erase(void **state)
{
    (void)state;
    int64_t t = rig.now_ms;
    rig_click(&rig, 1, 1, t - MINUTE, "a");
    rig_click(&rig, 1, 2, t + 1, "a"); /* their clock is a little ahead */
    rig_erase(&rig, 1, t, 500);
    assert_int_equal(rig.answer.status, DN_RESULT_OK);
    assert_true(rig.answer.existed);
    assert_int_equal(events_of(1), 0);
    /* Nothing that was counted comes back, by retry or from the stream. */
    assert_int_equal(rig_click(&rig, 1, 1, t - MINUTE, "a"), DN_OUTCOME_ERASED);
    assert_int_equal(rig_click(&rig, 1, 2, t + 1, "a"), DN_OUTCOME_ERASED);
    stream("k", 0, DN_OFFSET_UNSET, 1, 0, 1, 1, t - 2 * MINUTE);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_ERASED);
    /* What comes after is new; the repeat of the request does not take it. */
    rig_tick(&rig, 1000);
    assert_int_equal(rig_click(&rig, 1, 3, rig.now_ms, "b"), DN_OUTCOME_ACCEPTED);
    rig_erase(&rig, 1, t, 500);
    assert_true(rig.answer.existed);
    assert_int_equal(events_of(1), 1);
    rig_erase(&rig, 7, t, 501);
    assert_false(rig.answer.existed);
    /* A request that would block the user for long is refused. */
    rig_erase(&rig, 1, rig.now_ms + 25 * HOUR, 502);
    assert_int_equal(rig.answer.status, DN_RESULT_INVALID);
    assert_int_equal(events_of(1), 1);
}

static void test_eviction_takes_the_longest_idle_with_an_empty_window(void **state)
{
    (void)state;
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.users_max = 3;
    rig_settings(&rig, &settings);
    int64_t t = rig.now_ms;
    for (uint64_t user = 1; user <= 3; user++) {
        assert_int_equal(rig_click(&rig, user, user, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
        rig_tick(&rig, 1000);
    }
    /* All windows hold an id that may come again: nobody may be forgotten. */
    assert_int_equal(rig_click(&rig, 4, 4, rig.now_ms, "a"), DN_OUTCOME_NO_ROOM);
    rig_tick(&rig, 4 * MINUTE);
    assert_int_equal(rig_click(&rig, 1, 10, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED); /* 1 is busy again */
    rig_tick(&rig, 2 * MINUTE);
    assert_int_equal(rig_click(&rig, 4, 4, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(events_of(1), 2);
    assert_int_equal(events_of(2), 0);
    assert_int_equal(events_of(3), 1);
    /* Forgotten, but not forgotten what was counted. */
    rig_tick(&rig, 6 * MINUTE);
    assert_int_equal(rig_click(&rig, 2, 2, t + 1000, "a"), DN_OUTCOME_LATE);
}

static void test_clocks_ahead_do_not_stop_eviction(void **state)
{
    (void)state;
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.users_max = 300;
    rig_settings(&rig, &settings);
    /* The longest idle hundred have windows that stay open for a day: more than are looked at in one go. */
    for (uint64_t user = 0; user < 300; user++) {
        int64_t ahead_ms = user < 100 ? 23 * HOUR : 0;
        assert_int_equal(rig_click(&rig, user, 1, rig.now_ms + ahead_ms, "a"), DN_OUTCOME_ACCEPTED);
    }
    rig_tick(&rig, HOUR);
    for (uint64_t user = 1000; user < 1200; user++) {
        enum dn_outcome outcome = rig_click(&rig, user, 1, rig.now_ms, "a");
        assert_int_equal(outcome, user == 1000 ? DN_OUTCOME_NO_ROOM : DN_OUTCOME_ACCEPTED);
    }
    assert_int_equal(events_of(5), 1);
    assert_int_equal(rig_click(&rig, 5, 1, rig.now_ms + 22 * HOUR, "a"), DN_OUTCOME_DUPLICATE);
}

static void test_one_erase_makes_nobody_else_late(void **state)
{
    (void)state;
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.users_max = 2;
    rig_settings(&rig, &settings);
    /* A user whose clock is ahead is erased, and comes back by a stream: their floor is in the future. */
    int64_t ahead_ms = rig.now_ms + 12 * HOUR;
    assert_int_equal(rig_click(&rig, 1, 1, ahead_ms, "a"), DN_OUTCOME_ACCEPTED);
    rig_erase(&rig, 1, rig.now_ms, 500);
    assert_int_equal(stream("k", 0, DN_OFFSET_UNSET, 1, 0, 1, 1, ahead_ms + 1), DN_RESULT_OK);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 2, 1, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
    rig_tick(&rig, HOUR);
    for (uint64_t user = 3; user < 10; user++) {
        assert_int_equal(rig_click(&rig, user, 1, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
        rig_tick(&rig, HOUR);
    }
    assert_int_equal(events_of(1), 1);
}

static void test_full_tombstones_behind_one_of_the_future(void **state)
{
    (void)state;
    int64_t t = rig.now_ms;
    assert_int_equal(rig_click(&rig, 1, 1, t + 20 * HOUR, "a"), DN_OUTCOME_ACCEPTED);
    struct rig *r = &rig;
    for (uint64_t user = 1; user <= 65537; user++) {
        dn_buffer_clear(&r->record);
        dn_buffer_clear(&r->result);
        dn_record_erase(&r->record, user_of(user), t, 900);
        dn_shard_apply(r->shard, r->index++, 0, r->now_ms, r->record.bytes, r->record.length, &r->result);
        assert_int_equal(r->result.bytes[0], user <= 65536 ? DN_RESULT_OK : DN_RESULT_FULL);
    }
    rig_tick(&rig, HOUR);
    rig_erase(&rig, 70000, t, 900);
    assert_int_equal(rig.answer.status, DN_RESULT_OK);
    /* What was dropped still holds, by the floor of all who are not known. */
    assert_int_equal(rig_click(&rig, 2, 1, t, "a"), DN_OUTCOME_LATE);
    assert_int_equal(rig_click(&rig, 1, 1, t + 20 * HOUR, "a"), DN_OUTCOME_ERASED);
}

static void test_order_is_in_the_hash(void **state)
{
    (void)state;
    struct rig other;
    rig_open(&other);
    other.now_ms = rig.now_ms;
    rig_tick(&other, 0);
    other.index = rig.index;
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.events_per_user = 3;
    rig_settings(&rig, &settings);
    rig_settings(&other, &settings);
    struct dn_event_in in[3] = {event_of(1, 1, rig.now_ms, "a"), event_of(1, 2, rig.now_ms, "b"),
                                event_of(1, 3, rig.now_ms, "c")};
    struct dn_event_in swapped[3] = {in[1], in[0], in[2]};
    rig_events(&rig, in, 3);
    rig_events(&other, swapped, 3);
    assert_true(dn_shard_hash(rig.shard) != dn_shard_hash(other.shard));
    /* The first of equals leaves the list: those behind it move up. */
    for (uint64_t i = 0; i < 6; i++) {
        rig_click(&rig, 1, 10 + i, rig.now_ms + (int64_t)(i / 3), "d");
    }
    rig_close(&other);
}

static void test_expiry_by_arrival(void **state)
{
    (void)state;
    struct dn_shard_stats stats;
    int64_t t = rig.now_ms;
    for (uint64_t user = 0; user < 500; user++) {
        rig_click(&rig, user, 1 + user, rig.now_ms, "a");
    }
    rig_tick(&rig, 30 * 24 * HOUR);
    rig_tick(&rig, 1); /* a bounded number at a time */
    dn_shard_stats(rig.shard, &stats);
    assert_in_range(stats.users, 1, 499);
    for (int i = 0; i < 10; i++) {
        rig_tick(&rig, 1);
    }
    dn_shard_stats(rig.shard, &stats);
    assert_int_equal(stats.users, 0);
    assert_int_equal(stats.expired, 500);
    assert_int_equal(rig_click(&rig, 3, 4, t, "a"), DN_OUTCOME_LATE);
}

static void test_items_are_bounded(void **state)
{
    (void)state;
    struct dn_shard_settings settings;
    struct dn_shard_stats stats;
    dn_shard_settings(rig.shard, &settings);
    settings.items_max = 4;
    settings.events_per_user = 2;
    rig_settings(&rig, &settings);
    char name[16];
    for (uint64_t i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "item-%llu", (unsigned long long)i);
        assert_int_equal(rig_click(&rig, 1, 1 + i, rig.now_ms, name), DN_OUTCOME_ACCEPTED);
    }
    dn_shard_stats(rig.shard, &stats);
    assert_int_equal(stats.items, 4);
    assert_int_equal(rig_click(&rig, 2, 1, rig.now_ms, "item-50"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 3, 1, rig.now_ms, "item-51"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(&rig, 4, 1, rig.now_ms, "item-52"), DN_OUTCOME_NO_ROOM);
}

static void test_settings_are_checked(void **state)
{
    (void)state;
    struct dn_shard_settings settings, now;
    struct dn_error err;
    dn_shard_settings_default(&settings);
    assert_int_equal(dn_shard_settings_check(&settings, &err), DN_OK);
    settings.events_per_user = 1;
    assert_int_equal(dn_shard_settings_check(&settings, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "events_per_user"));
    assert_non_null(strstr(err.message, "1000"));
    rig_settings(&rig, &settings);
    assert_int_equal(rig.answer.status, DN_RESULT_INVALID);
    dn_shard_settings(rig.shard, &now);
    assert_int_equal(now.events_per_user, 50);
}

static void test_bad_events_are_answered_one_by_one(void **state)
{
    (void)state;
    char long_item[DN_ID_MAX];
    memset(long_item, 'x', sizeof long_item);
    struct dn_event_in events[8];
    for (size_t i = 0; i < 8; i++) {
        events[i] = event_of(1, 1 + i, rig.now_ms, "fine");
    }
    events[0].item_length = 0;
    events[1].item = "\xff\xfe";
    events[1].item_length = 2;
    events[2].type = 0;
    events[3].type = DN_EVENT_TYPE_MAX + 1;
    events[4].time_ms = -1;
    events[5].time_ms = INT64_MAX;
    events[6].event_id = 0;
    events[7].item = long_item;
    events[7].item_length = DN_ID_MAX;
    rig_events(&rig, events, 8);
    assert_int_equal(rig.answer.status, DN_RESULT_OK);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(rig.answer.outcomes[i], DN_OUTCOME_INVALID);
    }
    assert_int_equal(rig.answer.outcomes[7], DN_OUTCOME_ACCEPTED);
}

static void test_arena_cap(void **state)
{
    (void)state;
    struct dn_session_view view;
    for (uint64_t i = 0; i < 50; i++) {
        rig_click(&rig, 1, 1 + i, rig.now_ms, "a");
    }
    struct dn_arena *small = dn_arena_create(256, 512);
    dn_epoch_enter(rig.reader);
    assert_int_equal(dn_shard_read(rig.shard, user_of(1), small, &view), DN_NO_MEMORY);
    dn_epoch_leave(rig.reader);
    dn_arena_destroy(small);
}

static void test_memory_comes_back(void **state)
{
    (void)state;
    struct dn_shard_settings settings;
    struct dn_shard_stats stats;
    struct rng rng = {5};
    dn_shard_settings(rig.shard, &settings);
    settings.users_max = 200;
    settings.items_max = 500;
    settings.lateness_ms = 1000;
    rig_settings(&rig, &settings);
    uint64_t after_warm_up = 0;
    for (int i = 0; i < 6000; i++) {
        char name[16];
        snprintf(name, sizeof name, "i%llu", (unsigned long long)rng_below(&rng, 5000));
        rig_click(&rig, rng_below(&rng, 100000), 1 + rng_next(&rng), rig.now_ms, name);
        rig.now_ms += 100;
        if (i == 2000) {
            dn_shard_stats(rig.shard, &stats);
            after_warm_up = stats.memory_bytes;
        }
    }
    dn_shard_stats(rig.shard, &stats);
    assert_int_equal(stats.users, 200);
    assert_in_range(stats.memory_bytes, 1, after_warm_up + after_warm_up / 10);
}

/* Tables shrink by halves and are never moved in one go: what is left, and what comes, is found all the way.
 */
static void test_tables_shrink(void **state)
{
    (void)state;
    struct dn_event_in in[500];
    struct dn_shard_stats stats;
    uint64_t next = 0;
    for (int wave = 0; wave < 3; wave++) {
        for (int record = 0; record < (wave == 0 ? 60 : 20); record++) {
            for (size_t i = 0; i < 500; i++) {
                in[i] = event_of(next++, 1, rig.now_ms, "a");
            }
            dn_buffer_clear(&rig.record);
            dn_buffer_clear(&rig.result);
            dn_record_events(&rig.record, in, 500);
            dn_shard_apply(rig.shard, rig.index++, 0, rig.now_ms, rig.record.bytes, rig.record.length,
                           &rig.result);
            for (uint64_t user = next - 500; user < next; user += 7) {
                assert_int_equal(events_of(user), 1);
                assert_int_equal(events_of(record > 0 ? user - 200 : user), 1);
            }
        }
        assert_true(dn_shard_hash(rig.shard) == dn_shard_hash_recompute(rig.shard));
        rig.now_ms += 31 * 24 * HOUR;
        for (int i = 0; i < 500; i++) {
            dn_shard_entry_done(rig.shard, rig.index++, rig.now_ms);
        }
        dn_shard_stats(rig.shard, &stats);
        assert_int_equal(stats.users, 0);
    }
}

/* One record of many events of one user with a large window: each event leaves a large block behind. */
static void test_memory_of_one_long_record(void **state)
{
    (void)state;
    struct dn_shard_settings settings;
    struct dn_shard_stats stats;
    dn_shard_settings(rig.shard, &settings);
    settings.events_per_user = LONG_RECORD / 4;
    settings.ids_per_user = LONG_RECORD;
    rig_settings(&rig, &settings);
    static struct dn_event_in in[LONG_RECORD];
    for (uint64_t i = 0; i < LONG_RECORD; i++) {
        in[i] = event_of(1, 1 + i, rig.now_ms, "a");
    }
    dn_buffer_clear(&rig.record);
    dn_buffer_clear(&rig.result);
    dn_record_events(&rig.record, in, LONG_RECORD);
    dn_shard_apply(rig.shard, rig.index++, 0, rig.now_ms, rig.record.bytes, rig.record.length, &rig.result);
    dn_shard_entry_done(rig.shard, rig.index, rig.now_ms);
    dn_shard_stats(rig.shard, &stats);
    assert_int_equal(stats.events_applied, LONG_RECORD);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they keep what is freed */
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    CHECK(usage.ru_maxrss / 1024 < MOST_MB, "%ld MB", usage.ru_maxrss / 1024);
#endif
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_offsets_with_gaps),
        CASE(test_batch_lost_at_a_change_of_leader),
        CASE(test_first_batch_lost),
        CASE(test_repeats_inside_and_beyond_the_window),
        CASE(test_window_full),
        CASE(test_client_clock_a_day_ahead),
        CASE(test_silent_source),
        CASE(test_sessions_by_event_time),
        CASE(test_erase),
        CASE(test_eviction_takes_the_longest_idle_with_an_empty_window),
        CASE(test_clocks_ahead_do_not_stop_eviction),
        CASE(test_one_erase_makes_nobody_else_late),
        CASE(test_full_tombstones_behind_one_of_the_future),
        CASE(test_order_is_in_the_hash),
        CASE(test_expiry_by_arrival),
        CASE(test_items_are_bounded),
        CASE(test_settings_are_checked),
        CASE(test_bad_events_are_answered_one_by_one),
        CASE(test_arena_cap),
        CASE(test_memory_comes_back),
        CASE(test_tables_shrink),
        CASE(test_memory_of_one_long_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
