/* Who is told of events: only what is a user's newest and follows another of the session, once each, and the
 * state is the same whether anybody listens. */
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

static void test_the_state_is_the_same(void **unused)
{
    (void)unused;
    struct rig alone, heard_of;
    struct heard heard = {0};
    rig_open(&alone);
    rig_open(&heard_of);
    dn_shard_listen(heard_of.shard, hear, &heard);
    for (uint64_t i = 0; i < 300; i++) {
        const char *item = i % 7 < 3 ? "p" : "q";
        (void)rig_click(&alone, i % 11, i + 1, alone.now_ms + (int64_t)i, item);
        (void)rig_click(&heard_of, i % 11, i + 1, heard_of.now_ms + (int64_t)i, item);
        heard.count = 0;
    }
    assert_true(dn_shard_hash(alone.shard) == dn_shard_hash(heard_of.shard));
    rig_close(&alone);
    rig_close(&heard_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_is_told),
        cmocka_unit_test(test_streams_tell_too_and_a_restore_keeps_the_listener),
        cmocka_unit_test(test_the_state_is_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
