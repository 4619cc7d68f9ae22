/* Who is told of events: a listener of what is a user's newest and follows another of the session, a watch of
 * all that is counted and of erases, once each; and the state is the same whether anybody listens. */
#include "harness.h"

#define HEARD_MOST 64

struct heard {
    size_t count;
    struct dn_hash128 users[HEARD_MOST];
    enum dn_event_type types[HEARD_MOST];
};

static void hear(void *data, struct dn_hash128 user, enum dn_event_type type)
{
    struct heard *heard = data;
    assert_true(heard->count < HEARD_MOST);
    heard->users[heard->count] = user;
    heard->types[heard->count++] = type;
}

static void expect(struct heard *heard, uint64_t user, size_t count)
{
    CHECK(heard->count == count, "%zu, not %zu", heard->count, count);
    for (size_t i = 0; i < count; i++) {
        assert_true(heard->users[i].low == user_of(user).low && heard->users[i].high == user_of(user).high);
        assert_int_equal(heard->types[i], DN_EVENT_CLICK);
    }
    heard->count = 0;
}

static void test_who_is_told(void **unused)
{
    (void)unused;
    struct rig rig;
    struct heard heard = {0};
    struct dn_shard_settings settings;
    rig_open(&rig);
    dn_shard_settings(rig.shard, &settings);
    dn_shard_listen(rig.shard, hear, &heard);
    rig_tick(&rig, 0); /* the shard learns the time */
    int64_t t = rig.now_ms;
    assert_int_equal(rig_click(&rig, 1, 1, t, "a"), DN_OUTCOME_ACCEPTED);
    expect(&heard, 1, 0); /* the session's first */
    assert_int_equal(rig_click(&rig, 1, 2, t + 1, "b"), DN_OUTCOME_ACCEPTED);
    expect(&heard, 1, 1);
    assert_int_equal(rig_click(&rig, 1, 3, t + 1, "c"), DN_OUTCOME_ACCEPTED);
    expect(&heard, 1, 1); /* of the same moment, but behind it */
    assert_int_equal(rig_click(&rig, 1, 3, t + 1, "c"), DN_OUTCOME_DUPLICATE);
    expect(&heard, 1, 0);
    assert_int_equal(rig_click(&rig, 1, 4, t - 1000, "d"), DN_OUTCOME_ACCEPTED);
    expect(&heard, 1, 0); /* not the newest */
    assert_int_equal(rig_click(&rig, 1, 5, t - 2 * settings.lateness_ms, "e"), DN_OUTCOME_LATE);
    expect(&heard, 1, 0);
    assert_int_equal(rig_click(&rig, 1, 6, t + settings.gap_ms + 2, "f"), DN_OUTCOME_ACCEPTED);
    expect(&heard, 1, 0); /* the next session's first */
    assert_int_equal(rig_click(&rig, 1, 7, t + settings.gap_ms + 3, "g"), DN_OUTCOME_ACCEPTED);
    expect(&heard, 1, 1);
    rig_close(&rig);
}

static void test_streams_tell_too_and_a_restore_keeps_the_listener(void **unused)
{
    (void)unused;
    struct rig rig;
    struct heard heard = {0};
    struct dn_event_in events[3];
    struct dn_buffer bytes;
    rig_open(&rig);
    dn_shard_listen(rig.shard, hear, &heard);
    for (size_t i = 0; i < 3; i++) {
        events[i] = event_of(2, 0, rig.now_ms + (int64_t)i, i == 1 ? "x" : "y");
        events[i].offset = (int64_t)i;
    }
    dn_record_stream(&rig.record, "s", 0, DN_OFFSET_UNSET, 3, events, 3, NULL, 0);
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_OK);
    expect(&heard, 2, 2);
    dn_buffer_init(&bytes, 1u << 20);
    rig_snapshot(&rig, &bytes);
    rig_restore(&rig, &bytes);
    expect(&heard, 2, 0); /* nothing is applied by that */
    assert_int_equal(rig_click(&rig, 2, 9, rig.now_ms + 5, "z"), DN_OUTCOME_ACCEPTED);
    expect(&heard, 2, 1);
    dn_buffer_free(&bytes);
    rig_close(&rig);
}

struct watched {
    size_t applied, erased, replaced;
    struct dn_applied last;
    struct dn_hash128 last_erased;
};

static void watch_applied(void *data, const struct dn_applied *event)
{
    struct watched *watched = data;
    watched->applied++;
    watched->last = *event;
}

static void watch_replaced(void *data)
{
    struct watched *watched = data;
    watched->replaced++;
}

static void watch_erased(void *data, struct dn_hash128 user)
{
    struct watched *watched = data;
    watched->erased++;
    watched->last_erased = user;
}

/* `applied` and `erased` in all; the last event was of that user, item and time. */
static void expect_watched(const struct watched *watched, size_t applied, size_t erased, uint64_t user,
                           const char *item, int64_t time_ms)
{
    CHECK(watched->applied == applied, "%zu, not %zu", watched->applied, applied);
    CHECK(watched->erased == erased, "%zu, not %zu", watched->erased, erased);
    assert_true(dn_hash128_equal(watched->last.user, user_of(user)));
    assert_true(watched->last.item_hash == dn_hash64(item, strlen(item), 0));
    assert_true(watched->last.time_ms == time_ms);
    assert_int_equal(watched->last.type, DN_EVENT_CLICK);
}

static void test_a_watch_is_told_of_all_that_counts(void **unused)
{
    (void)unused;
    struct rig rig;
    struct watched watched = {0};
    const struct dn_shard_watch watch = {
        .applied = watch_applied, .erased = watch_erased, .replaced = watch_replaced, .data = &watched};
    struct dn_shard_settings settings;
    struct dn_buffer bytes;
    rig_open(&rig);
    dn_shard_settings(rig.shard, &settings);
    rig_tick(&rig, 0);
    int64_t t = rig.now_ms;
    assert_int_equal(rig_click(&rig, 1, 1, t, "before"), DN_OUTCOME_ACCEPTED);
    dn_shard_watch(rig.shard, &watch);
    assert_int_equal(rig_click(&rig, 1, 2, t, "a"), DN_OUTCOME_ACCEPTED);
    expect_watched(&watched, 1, 0, 1, "a", t);
    assert_int_equal(rig_click(&rig, 1, 2, t, "a"), DN_OUTCOME_DUPLICATE);
    assert_int_equal(rig_click(&rig, 1, 3, t - 2 * settings.lateness_ms, "b"), DN_OUTCOME_LATE);
    assert_int_equal(rig_click(&rig, 1, 4, t + 2 * settings.ahead_ms, "b"), DN_OUTCOME_AHEAD);
    expect_watched(&watched, 1, 0, 1, "a", t);
    assert_int_equal(rig_click(&rig, 1, 5, t - 1000, "old"), DN_OUTCOME_ACCEPTED); /* not the newest */
    expect_watched(&watched, 2, 0, 1, "old", t - 1000);

    /* A stream's batch, and the same again. */
    struct dn_event_in event = event_of(2, 0, t + 7, "s");
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, "s", 0, DN_OFFSET_UNSET, 1, &event, 1, NULL, 0);
    rig_apply(&rig);
    expect_watched(&watched, 3, 0, 2, "s", t + 7);
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, "s", 0, 0, 1, &event, 1, NULL, 0);
    rig_apply(&rig);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_DUPLICATE);
    expect_watched(&watched, 3, 0, 2, "s", t + 7);

    /* Nothing is applied by a restore, and what is applied after it is told of. */
    dn_buffer_init(&bytes, 1u << 20);
    rig_snapshot(&rig, &bytes);
    assert_int_equal(watched.replaced, 0);
    rig_restore(&rig, &bytes);
    expect_watched(&watched, 3, 0, 2, "s", t + 7);
    assert_int_equal(watched.replaced, 1);
    assert_int_equal(rig_click(&rig, 2, 6, t + 8, "c"), DN_OUTCOME_ACCEPTED);
    expect_watched(&watched, 4, 0, 2, "c", t + 8);

    rig_erase(&rig, 2, t + 8, 77);
    expect_watched(&watched, 4, 1, 2, "c", t + 8);
    assert_true(dn_hash128_equal(watched.last_erased, user_of(2)));
    assert_int_equal(rig_click(&rig, 2, 7, t + 8, "d"), DN_OUTCOME_ERASED);
    expect_watched(&watched, 4, 1, 2, "c", t + 8);
    dn_shard_watch(rig.shard, NULL);
    assert_int_equal(rig_click(&rig, 2, 8, t + 9, "e"), DN_OUTCOME_ACCEPTED);
    expect_watched(&watched, 4, 1, 2, "c", t + 8);
    dn_buffer_free(&bytes);
    rig_close(&rig);
}

static void test_the_state_is_the_same(void **unused)
{
    (void)unused;
    struct rig alone, heard_of;
    struct heard heard = {0};
    struct watched watched = {0};
    const struct dn_shard_watch watch = {
        .applied = watch_applied, .erased = watch_erased, .replaced = watch_replaced, .data = &watched};
    rig_open(&alone);
    rig_open(&heard_of);
    dn_shard_listen(heard_of.shard, hear, &heard);
    dn_shard_watch(heard_of.shard, &watch);
    for (uint64_t i = 0; i < 300; i++) {
        const char *item = i % 7 < 3 ? "p" : "q";
        (void)rig_click(&alone, i % 11, i + 1, alone.now_ms + (int64_t)i, item);
        (void)rig_click(&heard_of, i % 11, i + 1, heard_of.now_ms + (int64_t)i, item);
        heard.count = 0;
    }
    assert_true(watched.applied == 300);
    assert_true(dn_shard_hash(alone.shard) == dn_shard_hash(heard_of.shard));
    rig_close(&alone);
    rig_close(&heard_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_is_told),
        cmocka_unit_test(test_streams_tell_too_and_a_restore_keeps_the_listener),
        cmocka_unit_test(test_a_watch_is_told_of_all_that_counts),
        cmocka_unit_test(test_the_state_is_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
