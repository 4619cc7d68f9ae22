/* Streams by name: dead letters, an operator's word on a source, stalls, what readers see of them, and logs
 * and snapshots of version 1. */
#include "harness.h"
#include "session/core.h"

#define MINUTE ((int64_t)60000)
#define HOUR (60 * MINUTE)
#define LETTERS_MAX 64

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

static enum dn_result_status batch(int64_t begins_at, int64_t next_offset, const struct dn_event_in *events,
                                   size_t count, const struct dn_dead_in *dead, size_t dead_count)
{
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, "clicks", 3, begins_at, next_offset, events, count, dead, dead_count);
    rig_apply(&rig);
    return rig.answer.status;
}

static struct dn_event_in at_offset(int64_t offset, uint64_t user, int64_t time_ms, const char *item)
{
    struct dn_event_in event = event_of(user, 0, time_ms, item);
    event.offset = offset;
    return event;
}

static enum dn_result_status written(uint64_t before)
{
    dn_buffer_clear(&rig.record);
    dn_record_dead_written(&rig.record, before);
    rig_apply(&rig);
    return rig.answer.status;
}

static enum dn_result_status source(const char *name, int64_t next_offset, bool forget_watermark)
{
    dn_buffer_clear(&rig.record);
    dn_record_source(&rig.record, name, 3, next_offset, forget_watermark);
    rig_apply(&rig);
    return rig.answer.status;
}

static enum dn_result_status stall(int64_t since_ms, const char *reason)
{
    dn_buffer_clear(&rig.record);
    dn_record_stall(&rig.record, since_ms, reason);
    rig_apply(&rig);
    return rig.answer.status;
}

static size_t letters(uint64_t from, struct dn_dead_letter *ret, size_t max)
{
    dn_epoch_enter(rig.reader);
    size_t count = dn_shard_dead_letters(rig.shard, from, ret, max);
    dn_epoch_leave(rig.reader);
    return count;
}

static void expect_range(uint64_t want_written, uint64_t want_next)
{
    uint64_t got_written = 99, got_next = 99;
    dn_epoch_enter(rig.reader);
    dn_shard_dead_range(rig.shard, &got_written, &got_next);
    dn_epoch_leave(rig.reader);
    assert_int_equal(got_written, want_written);
    assert_int_equal(got_next, want_next);
}

static int64_t stalled(char reason[DN_STALL_REASON_MAX + 1])
{
    dn_epoch_enter(rig.reader);
    int64_t since_ms = dn_shard_stalled(rig.shard, reason);
    dn_epoch_leave(rig.reader);
    return since_ms;
}

static struct dn_source_view view_of(const char *name)
{
    struct dn_source_view views[8], found = {.partition = 99};
    dn_epoch_enter(rig.reader);
    size_t count = dn_shard_sources(rig.shard, views, 8);
    dn_epoch_leave(rig.reader);
    assert_in_range(count, 0, 8);
    for (size_t i = 0; i < count; i++) {
        found = strcmp(views[i].name, name) == 0 ? views[i] : found;
    }
    return found;
}

/* `count` marks at offsets from `first` on, none between them. */
static void bury(int64_t begins_at, int64_t first, size_t count)
{
    static struct dn_dead_in dead[DN_EVENTS_PER_RECORD_MAX];
    for (size_t i = 0; i < count; i++) {
        dead[i] = (struct dn_dead_in){.offset = first + (int64_t)i, .reason = DN_DEAD_UNDECODABLE};
    }
    assert_int_equal(batch(begins_at, first + (int64_t)count, NULL, 0, dead, count), DN_RESULT_OK);
}

/* ---- dead letters -------------------------------------------------------------------------------------- */

static void test_letters_of_a_batch_lie_in_offset_order(void **state)
{
    (void)state;
    struct dn_event_in first = at_offset(2, 1, rig.now_ms, "a");
    assert_int_equal(batch(DN_OFFSET_UNSET, 5, &first, 1, NULL, 0), DN_RESULT_OK);
    rig_erase(&rig, 7, rig.now_ms, 500);
    const struct dn_event_in events[] = {
        at_offset(6, 1, rig.now_ms - HOUR, "a"),           /* late */
        at_offset(8, 2, rig.now_ms, "a"),                  /* fine */
        at_offset(9, 2, rig.now_ms + 25 * HOUR, "a"),      /* ahead */
        at_offset(11, 7, rig.now_ms, "a"),                 /* erased */
        at_offset(12, 2, -1, "a"),                         /* invalid */
        at_offset(20, 3, rig.now_ms - 4 * MINUTE, "late"), /* not late */
    };
    const struct dn_dead_in dead[] = {
        {5, DN_DEAD_LIMIT}, {7, DN_DEAD_UNDECODABLE}, {10, DN_DEAD_MISROUTED}, {21, DN_DEAD_LIMIT}};
    assert_int_equal(batch(5, 30, events, 6, dead, 4), DN_RESULT_OK);
    const uint8_t outcomes[] = {DN_OUTCOME_LATE,   DN_OUTCOME_ACCEPTED, DN_OUTCOME_AHEAD,
                                DN_OUTCOME_ERASED, DN_OUTCOME_INVALID,  DN_OUTCOME_ACCEPTED};
    assert_memory_equal(rig.answer.outcomes, outcomes, sizeof outcomes);
    assert_int_equal(rig.answer.next_offset, 30);
    const struct dn_dead_in want[] = {{5, DN_DEAD_LIMIT}, {6, DN_DEAD_LATE},       {7, DN_DEAD_UNDECODABLE},
                                      {9, DN_DEAD_AHEAD}, {10, DN_DEAD_MISROUTED}, {12, DN_DEAD_INVALID},
                                      {21, DN_DEAD_LIMIT}};
    struct dn_dead_letter got[LETTERS_MAX];
    assert_int_equal(letters(0, got, LETTERS_MAX), 7);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(got[i].number, i);
        assert_string_equal(got[i].source, "clicks");
        assert_int_equal(got[i].partition, 3);
        assert_int_equal(got[i].offset, want[i].offset);
        assert_int_equal(got[i].reason, want[i].reason);
        assert_int_equal(got[i].time_ms, rig.now_ms);
    }
    expect_range(0, 7);
    struct dn_shard_stats stats;
    dn_shard_stats(rig.shard, &stats);
    const uint64_t counts[] = {0, 1, 2, 1, 1, 1, 0, 1};
    assert_memory_equal(stats.dead, counts, sizeof counts);
    /* From the middle, and no more than asked for. */
    assert_int_equal(letters(4, got, 2), 2);
    assert_int_equal(got[0].offset, 10);
    assert_int_equal(letters(7, got, LETTERS_MAX), 0);
}

static void test_letter_where_there_is_no_room(void **state)
{
    (void)state;
    struct dn_shard_settings settings;
    dn_shard_settings(rig.shard, &settings);
    settings.users_max = 1;
    rig_settings(&rig, &settings);
    assert_int_equal(rig_click(&rig, 1, 1, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED);
    struct dn_event_in event = at_offset(0, 2, rig.now_ms, "a");
    assert_int_equal(batch(DN_OFFSET_UNSET, 1, &event, 1, NULL, 0), DN_RESULT_OK);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_NO_ROOM);
    struct dn_dead_letter got[2];
    assert_int_equal(letters(0, got, 2), 1);
    assert_int_equal(got[0].reason, DN_DEAD_NO_ROOM);
}

static void test_batch_that_comes_again_makes_no_second_letter(void **state)
{
    (void)state;
    struct dn_event_in events[] = {at_offset(0, 1, rig.now_ms, "a"), at_offset(2, 1, -1, "a"),
                                   at_offset(4, 1, -1, "a")};
    const struct dn_dead_in dead[] = {{1, DN_DEAD_LIMIT}, {3, DN_DEAD_LIMIT}, {5, DN_DEAD_LIMIT}};
    assert_int_equal(batch(DN_OFFSET_UNSET, 3, events, 2, dead, 1), DN_RESULT_OK);
    expect_range(0, 2);
    assert_int_equal(batch(0, 3, events, 2, dead, 1), DN_RESULT_OK);
    expect_range(0, 2);
    assert_int_equal(batch(0, 6, events, 3, dead, 3), DN_RESULT_OK);
    assert_int_equal(rig.answer.outcomes[1], DN_OUTCOME_DUPLICATE);
    assert_int_equal(rig.answer.outcomes[2], DN_OUTCOME_INVALID);
    struct dn_dead_letter got[LETTERS_MAX];
    assert_int_equal(letters(0, got, LETTERS_MAX), 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(got[i].offset, i + 1);
    }
}

static void test_bad_marks_are_refused_whole(void **state)
{
    (void)state;
    struct dn_event_in event = at_offset(5, 1, rig.now_ms, "a");
    static const struct {
        struct dn_dead_in dead[2];
        size_t count;
    } bad[] = {
        {{{3, DN_DEAD_LIMIT}, {3, DN_DEAD_LIMIT}}, 2},
        {{{4, DN_DEAD_LIMIT}, {3, DN_DEAD_LIMIT}}, 2},
        {{{1, DN_DEAD_LIMIT}}, 1},
        {{{-1, DN_DEAD_LIMIT}}, 1},
        {{{10, DN_DEAD_LIMIT}}, 1},
        {{{5, DN_DEAD_LIMIT}}, 1},
        {{{6, 0}}, 1},
        {{{6, DN_DEAD_LATE}}, 1},
        {{{4, DN_DEAD_MISROUTED}, {5, DN_DEAD_LIMIT}}, 2},
        {{{6, DN_DEAD_REASON_MAX + 1}}, 1},
    };
    assert_int_equal(batch(DN_OFFSET_UNSET, 2, NULL, 0, NULL, 0), DN_RESULT_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t before = dn_shard_hash(rig.shard);
        CHECK(batch(2, 10, &event, 1, bad[i].dead, bad[i].count) == DN_RESULT_INVALID, "case %zu", i);
        assert_true(dn_shard_hash(rig.shard) == before);
    }
    expect_range(0, 0);
    const struct dn_dead_in good[] = {{2, DN_DEAD_UNDECODABLE}, {9, DN_DEAD_MISROUTED}};
    assert_int_equal(batch(2, 10, &event, 1, good, 2), DN_RESULT_OK);
    expect_range(0, 2);
    /* Cut short, and stretched. */
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, "clicks", 3, 10, 12, NULL, 0, good, 0);
    dn_buffer_u8(&rig.record, 0);
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_INVALID);
    rig.record.length -= 2;
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_INVALID);
}

static void test_full_queue_refuses_the_batch_whole(void **state)
{
    (void)state;
    int64_t begins_at = DN_OFFSET_UNSET, next = 0;
    for (int i = 0; i < 3; i++) {
        bury(begins_at, next, 10000);
        begins_at = next += 10000;
    }
    bury(next, next, DN_DEAD_MAX - 30000 - 2);
    next += DN_DEAD_MAX - 30000 - 2;
    expect_range(0, DN_DEAD_MAX - 2);
    const struct dn_event_in events[] = {at_offset(next, 1, rig.now_ms, "a"),
                                         at_offset(next + 1, 1, rig.now_ms, "a")};
    const struct dn_dead_in dead = {next + 2, DN_DEAD_LIMIT};
    uint64_t before = dn_shard_hash(rig.shard);
    assert_int_equal(batch(next, next + 3, events, 2, &dead, 1), DN_RESULT_FULL);
    assert_int_equal(rig.answer.next_offset, next);
    assert_int_equal(rig.answer.count, 0);
    assert_true(dn_shard_hash(rig.shard) == before);
    /* Nor does a new partition get a place by it. */
    const struct dn_dead_in three[] = {{0, DN_DEAD_LIMIT}, {1, DN_DEAD_LIMIT}, {2, DN_DEAD_LIMIT}};
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, "new", 0, DN_OFFSET_UNSET, 3, NULL, 0, three, 3);
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_FULL);
    assert_int_equal(rig.answer.next_offset, DN_OFFSET_UNSET);
    assert_true(dn_shard_hash(rig.shard) == before);
    /* A gap is a gap, room or none. */
    assert_int_equal(batch(next + 1, next + 3, &events[1], 1, &dead, 1), DN_RESULT_GAP);
    /* What fits is taken, to the last place. */
    assert_int_equal(batch(next, next + 2, events, 1, NULL, 0), DN_RESULT_OK);
    assert_int_equal(batch(next + 2, next + 3, NULL, 0, &dead, 1), DN_RESULT_OK);
    bury(next + 3, next + 3, 1);
    expect_range(0, DN_DEAD_MAX);
    assert_int_equal(batch(next + 4, next + 4, NULL, 0, NULL, 0), DN_RESULT_OK);
    assert_int_equal(written(1), DN_RESULT_OK);
    bury(next + 4, next + 4, 1);
    expect_range(1, DN_DEAD_MAX + 1);
    static struct dn_dead_letter got[DN_DEAD_MAX + 1];
    assert_int_equal(letters(0, got, DN_DEAD_MAX + 1), DN_DEAD_MAX);
    for (size_t i = 0; i < DN_DEAD_MAX; i++) {
        assert_int_equal(got[i].number, i + 1);
    }
    assert_int_equal(got[DN_DEAD_MAX - 1].offset, next + 4);
}

static void test_written_letters_leave(void **state)
{
    (void)state;
    struct dn_dead_letter got[2];
    assert_int_equal(written(0), DN_RESULT_OK);
    assert_int_equal(written(1), DN_RESULT_INVALID);
    bury(DN_OFFSET_UNSET, 0, 300);
    assert_int_equal(written(301), DN_RESULT_INVALID);
    assert_int_equal(written(UINT64_MAX), DN_RESULT_INVALID);
    expect_range(0, 300);
    assert_int_equal(written(200), DN_RESULT_OK);
    expect_range(200, 300);
    uint64_t before = dn_shard_hash(rig.shard);
    assert_int_equal(written(150), DN_RESULT_OK);
    assert_true(dn_shard_hash(rig.shard) == before);
    expect_range(200, 300);
    assert_int_equal(letters(10, got, 2), 2);
    assert_int_equal(got[0].number, 200);
    assert_int_equal(got[0].offset, 200);
    assert_int_equal(written(300), DN_RESULT_OK);
    assert_int_equal(letters(0, got, 2), 0);
    struct dn_shard_stats stats;
    dn_shard_stats(rig.shard, &stats);
    assert_int_equal(stats.dead[DN_DEAD_UNDECODABLE], 300); /* counted for ever */
    /* Round the ring, in steps that fit nothing; the memory stays what it is. */
    uint64_t number = 300, bytes = stats.memory_bytes;
    for (int i = 0; i < 400; i++) {
        bury((int64_t)number, (int64_t)number, 389);
        assert_int_equal(letters(number + 388, got, 2), 1);
        assert_int_equal(got[0].offset, number + 388);
        number += 389;
        assert_int_equal(written(number - 7), DN_RESULT_OK);
    }
    expect_range(number - 7, number);
    /* Whoever looks for a number of a round before does not find another's letter. */
    const struct dn_dead_queue *queue = &dn_shard_core(rig.shard)->dead;
    assert_non_null(dn_dead_get(queue, number - 1));
    assert_null(dn_dead_get(queue, number - 1 - DN_DEAD_CHUNKS * DN_DEAD_CHUNK));
    dn_shard_stats(rig.shard, &stats);
    assert_in_range(stats.memory_bytes, 1, bytes + 65536);
}

/* ---- an operator's word ----------------------------------------------------------------------------------
 */

static void test_source_is_set_and_forgotten(void **state)
{
    (void)state;
    struct dn_event_in event = at_offset(10, 1, rig.now_ms, "a");
    assert_int_equal(batch(DN_OFFSET_UNSET, 20, &event, 1, NULL, 0), DN_RESULT_OK);
    struct dn_source_view view = view_of("clicks");
    assert_int_equal(view.partition, 3);
    assert_int_equal(view.next_offset, 20);
    assert_int_equal(view.events, 1);
    assert_int_equal(view.newest_ms, rig.now_ms);
    assert_int_equal(view.watermark_ms, rig.now_ms - 5 * MINUTE);
    /* Higher: what lies between is skipped. */
    assert_int_equal(source("clicks", 50, false), DN_RESULT_OK);
    assert_int_equal(rig.answer.next_offset, 20);
    assert_int_equal(batch(20, 60, NULL, 0, NULL, 0), DN_RESULT_OK);
    assert_int_equal(batch(61, 70, NULL, 0, NULL, 0), DN_RESULT_GAP);
    /* Lower: it is read again, and counts again; the watermark is still what it was. */
    assert_int_equal(source("clicks", 10, false), DN_RESULT_OK);
    assert_int_equal(rig.answer.next_offset, 60);
    event = at_offset(10, 1, rig.now_ms - HOUR, "a");
    assert_int_equal(batch(10, 11, &event, 1, NULL, 0), DN_RESULT_OK);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_LATE);
    assert_int_equal(source("clicks", 10, true), DN_RESULT_OK);
    view = view_of("clicks");
    assert_true(view.watermark_ms == INT64_MIN && view.newest_ms == INT64_MIN);
    assert_int_equal(view.events, 1);
    assert_int_equal(batch(10, 11, &event, 1, NULL, 0), DN_RESULT_OK);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_ACCEPTED);
    assert_int_equal(view_of("clicks").newest_ms, rig.now_ms - HOUR);
    /* Forgotten: the next batch must be a first one, at whatever offset. */
    assert_int_equal(source("clicks", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(rig.answer.next_offset, 11);
    int64_t next = 77;
    dn_epoch_enter(rig.reader);
    assert_false(dn_shard_next_offset(rig.shard, "clicks", 3, &next));
    dn_epoch_leave(rig.reader);
    assert_int_equal(view_of("clicks").next_offset, DN_OFFSET_UNSET);
    /* Whatever of before was on its way is refused, also what overlaps it. */
    assert_int_equal(batch(11, 12, NULL, 0, NULL, 0), DN_RESULT_GAP);
    assert_int_equal(rig.answer.next_offset, DN_OFFSET_UNSET);
    event = at_offset(3, 1, rig.now_ms, "a");
    assert_int_equal(batch(0, 12, &event, 1, NULL, 0), DN_RESULT_GAP);
    assert_int_equal(view_of("clicks").events, 2);
    assert_int_equal(source("clicks", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(rig.answer.next_offset, DN_OFFSET_UNSET);
    event = at_offset(0, 1, rig.now_ms, "a");
    assert_int_equal(batch(DN_OFFSET_UNSET, 5, &event, 1, NULL, 0), DN_RESULT_OK);
    assert_int_equal(rig.answer.outcomes[0], DN_OUTCOME_ACCEPTED);
    assert_int_equal(batch(DN_OFFSET_UNSET, 9, NULL, 0, NULL, 0), DN_RESULT_GAP);
}

static void test_source_never_seen(void **state)
{
    (void)state;
    uint64_t before = dn_shard_hash(rig.shard);
    assert_int_equal(source("none", DN_OFFSET_UNSET, true), DN_RESULT_OK);
    assert_int_equal(rig.answer.next_offset, DN_OFFSET_UNSET);
    assert_true(dn_shard_hash(rig.shard) == before);
    assert_int_equal(source("new", 7, false), DN_RESULT_OK);
    assert_int_equal(rig.answer.next_offset, DN_OFFSET_UNSET);
    assert_int_equal(view_of("new").next_offset, 7);
    assert_true(view_of("new").watermark_ms == INT64_MIN && view_of("new").newest_ms == INT64_MIN);
    struct dn_source_view one;
    assert_int_equal(source("other", 0, false), DN_RESULT_OK);
    dn_epoch_enter(rig.reader);
    assert_int_equal(dn_shard_sources(rig.shard, &one, 1), 2); /* how many there are, not how many were put */
    dn_epoch_leave(rig.reader);
    /* Not understood. */
    dn_buffer_clear(&rig.record);
    dn_record_source(&rig.record, "new", 3, -2, false);
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_INVALID);
    dn_buffer_clear(&rig.record);
    dn_record_source(&rig.record, "new", 3, 9, true);
    rig.record.bytes[rig.record.length - 1] = 3;
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_INVALID);
    assert_int_equal(view_of("new").next_offset, 7);
}

static void test_forward_does_not_go_back(void **state)
{
    (void)state;
    const struct {
        int64_t to;
        enum dn_result_status status;
        int64_t answer, then;
    } steps[] = {{5, DN_RESULT_OK, DN_OFFSET_UNSET, 5},
                 {9, DN_RESULT_OK, 5, 9},
                 {8, DN_RESULT_GAP, 9, 9},
                 {9, DN_RESULT_OK, 9, 9}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        dn_buffer_clear(&rig.record);
        dn_record_source_forward(&rig.record, "new", 3, steps[i].to);
        rig_apply(&rig);
        assert_int_equal(rig.answer.status, steps[i].status);
        assert_int_equal(rig.answer.next_offset, steps[i].answer);
        assert_int_equal(view_of("new").next_offset, steps[i].then);
    }
}

static void test_sources_are_bounded(void **state)
{
    (void)state;
    for (uint32_t partition = 0; partition < 4096; partition++) {
        dn_buffer_clear(&rig.record);
        dn_buffer_clear(&rig.result);
        dn_record_source(&rig.record, "many", partition, 1, false);
        dn_shard_apply(rig.shard, rig.index++, 0, rig.now_ms, rig.record.bytes, rig.record.length,
                       &rig.result);
        assert_int_equal(rig.result.bytes[0], DN_RESULT_OK);
    }
    assert_int_equal(source("one more", 1, false), DN_RESULT_FULL);
    assert_int_equal(rig.answer.next_offset, DN_OFFSET_UNSET);
    assert_int_equal(batch(DN_OFFSET_UNSET, 1, NULL, 0, NULL, 0), DN_RESULT_FULL);
}

/* ---- stalls
 * ------------------------------------------------------------------------------------------------ */

static void test_stall(void **state)
{
    (void)state;
    char reason[DN_STALL_REASON_MAX + 1], longest[DN_STALL_REASON_MAX + 2];
    assert_int_equal(stalled(reason), 0);
    assert_string_equal(reason, "");
    uint64_t before = dn_shard_hash(rig.shard);
    assert_int_equal(stall(rig.now_ms - 5000, "broker 1 is down"), DN_RESULT_OK);
    assert_int_equal(stalled(reason), rig.now_ms - 5000);
    assert_string_equal(reason, "broker 1 is down");
    uint64_t other = dn_shard_hash(rig.shard);
    assert_true(other != before);
    assert_int_equal(stall(rig.now_ms - 5000, "broker 2 is down"), DN_RESULT_OK);
    assert_true(dn_shard_hash(rig.shard) != other);
    assert_int_equal(stall(0, "said, but for nothing"), DN_RESULT_OK);
    assert_int_equal(stalled(reason), 0);
    assert_string_equal(reason, "");
    assert_true(dn_shard_hash(rig.shard) == before);
    memset(longest, 'x', sizeof longest);
    longest[DN_STALL_REASON_MAX] = '\0';
    assert_int_equal(stall(1, longest), DN_RESULT_OK);
    assert_int_equal(stalled(reason), 1);
    assert_string_equal(reason, longest);
    assert_int_equal(stall(-1, ""), DN_RESULT_INVALID);
    assert_int_equal(stall(INT64_MAX, ""), DN_RESULT_INVALID);
    assert_int_equal(stalled(reason), 1);
    longest[DN_STALL_REASON_MAX] = 'x';
    longest[DN_STALL_REASON_MAX + 1] = '\0';
    dn_buffer_clear(&rig.record);
    dn_record_stall(&rig.record, 1, longest);
    assert_true(rig.record.failed);
}

/* ---- snapshots
 * ------------------------------------------------------------------------------------------------ */

static void test_snapshot_sees_its_moment(void **state)
{
    (void)state;
    char reason[DN_STALL_REASON_MAX + 1];
    struct dn_event_in event = at_offset(0, 1, rig.now_ms, "a");
    assert_int_equal(batch(DN_OFFSET_UNSET, 1, &event, 1, NULL, 0), DN_RESULT_OK);
    bury(1, 1, 1000);
    assert_int_equal(written(100), DN_RESULT_OK);
    assert_int_equal(stall(1234, "it was so"), DN_RESULT_OK);
    uint64_t hash = dn_shard_hash(rig.shard);
    void *capture = dn_shard_snapshot_begin(rig.shard);
    /* All of it goes, and other comes, with the memory of what went to be had. */
    assert_int_equal(stall(5678, "it is so"), DN_RESULT_OK);
    bury(1001, 1001, 10000);
    assert_int_equal(written(9000), DN_RESULT_OK);
    assert_int_equal(source("clicks", DN_OFFSET_UNSET, true), DN_RESULT_OK);
    assert_int_equal(source("another", 4, true), DN_RESULT_OK);
    for (int i = 0; i < 20; i++) {
        rig_tick(&rig, 1000);
    }
    bury(DN_OFFSET_UNSET, 0, 5000);
    struct dn_buffer bytes;
    struct dn_error err;
    dn_buffer_init(&bytes, 16u << 20);
    assert_int_equal(whole_write(dn_shard_snapshot_write, rig.shard, capture, &bytes, &err), DN_OK);
    dn_shard_snapshot_end(rig.shard, capture);
    uint64_t after = dn_shard_hash(rig.shard);
    rig_restore(&rig, &bytes);
    assert_true(dn_shard_hash(rig.shard) == hash && hash != after);
    expect_range(100, 1000);
    struct dn_dead_letter got[LETTERS_MAX];
    assert_int_equal(letters(0, got, LETTERS_MAX), LETTERS_MAX);
    assert_int_equal(got[0].number, 100);
    assert_int_equal(got[0].offset, 101);
    assert_string_equal(got[0].source, "clicks");
    assert_int_equal(stalled(reason), 1234);
    assert_string_equal(reason, "it was so");
    struct dn_source_view view = view_of("clicks");
    assert_int_equal(view.next_offset, 1001);
    assert_int_equal(view.events, 1);
    struct dn_shard_stats stats;
    dn_shard_stats(rig.shard, &stats);
    assert_int_equal(stats.dead[DN_DEAD_UNDECODABLE], 1000);
    bury(1001, 1001, 10);
    expect_range(100, 1010);
    dn_buffer_free(&bytes);
}

/* A shard whose only part with numbers worth forging is the queue: the section is found by its first bytes.
 */
static void test_forged_letters_are_refused(void **state)
{
    (void)state;
    struct dn_buffer bytes;
    bury(DN_OFFSET_UNSET, 0, 2);
    assert_int_equal(written(1), DN_RESULT_OK);
    dn_buffer_init(&bytes, 1u << 20);
    rig_snapshot(&rig, &bytes);
    /* u8 tag, u32 count, u64 written, 7 counts, then u32 source, i64 offset, i64 time, u8 reason. */
    uint8_t head[13] = {6, 1, 0, 0, 0, 1};
    size_t at = 0;
    while (at + sizeof head < bytes.length && memcmp(bytes.bytes + at, head, sizeof head) != 0) {
        at++;
    }
    assert_in_range(at, 100, bytes.length - sizeof head);
    const size_t counts = at + 13, letter = counts + 7 * 8;
    const struct {
        size_t at;
        uint8_t value;
        const char *text;
    } forged[] = {
        {at + 1, 2, "bad counts"},         /* more letters than were ever counted, from `written` on */
        {at + 1, 3, "bad counts"},         /* more than numbers */
        {at + 5, 0, "bad counts"},         /* another number */
        {counts, 3, "bad counts"},         /* another count */
        {counts + 7, 0xff, "bad counts"},  /* a count that overflows with another */
        {letter, 1, "bad letter"},         /* no such source */
        {letter + 11, 0x80, "bad letter"}, /* a negative offset */
        {letter + 16, 0x7f, "bad letter"}, /* judged in the future */
        {letter + 19, 0x80, "bad letter"}, /* before all time */
        {letter + 20, 0, "bad letter"},    /* no reason */
        {letter + 20, 8, "bad letter"},    /* an unknown one */
        {letter + 20, 2, "bad letter"},    /* one that was not counted */
    };
    for (size_t i = 0; i < sizeof forged / sizeof forged[0]; i++) {
        struct dn_error err = {0};
        void *built = NULL;
        uint8_t kept = bytes.bytes[forged[i].at];
        bytes.bytes[forged[i].at] = forged[i].value;
        CHECK(whole_build(dn_shard_restore_build, rig.shard, bytes.bytes, bytes.length, &built, &err) ==
                  DN_CORRUPT,
              "case %zu", i);
        CHECK(strstr(err.message, forged[i].text) != NULL, "case %zu: %s", i, err.message);
        bytes.bytes[forged[i].at] = kept;
    }
    rig_restore(&rig, &bytes);
    dn_buffer_free(&bytes);
}

/* ---- version 1
 * -------------------------------------------------------------------------------------------------- */

/* Written by a build from before version 2, with the state hash after each record. */
#define V1_START_MS 1000000000
static const struct {
    const char *record;
    uint64_t hash;
} v1_log[] = {
    {"040140771b0000000000e093040000000000005c26050000000000c87e9a0000000003000000c8000000404b4c0080841e00009"
     "74901"
     "00000000",
     0xebcb6dd024b04e71},
    {"010102000000157c4a7fb979379e01000000000000004d00000000000000e8cd9a3b000000000001020100612af894fe72f36e3"
     "c0200"
     "0000000000004e00000000000000e3cd9a3b0000000000010202006263",
     0x20326062149e8b28},
    {"020106000000636c69636b7302000000ffffffffffffffff090000000000000002000000157c4a7fb979379e010000000000000"
     "00400"
     "000000000000d0d19a3b000000000001020100643f74df7d2c6da6da0300000000000000060000000000000050e3633b0000000"
     "00001"
     "02010061",
     0xb0f33af319e55858},
    {"03012af894fe72f36e3c0200000000000000b8d59a3b00000000f401000000000000", 0xf86dfede0d235de5},
    {"020106000000636c69636b730200000009000000000000000c0000000000000002000000157c4a7fb979379e010000000000000"
     "00900"
     "00000000000020eb633b000000000001020100643f74df7d2c6da6da03000000000000000b00000000000000a0d99a3b0000000"
     "00001"
     "02010065",
     0xed0069fa78fff46d},
};
#define V1_SNAPSHOT_AFTER 4
static const char v1_snapshot[] =
    "444e534801000101000000b8d59a3b00000000d0d19a3b0000000000000000000000000300000000000000010000000000000001"
    "0000"
    "000000000000987f3300000000050000000300000000000000000000000000000001000000000000000000000000000000010000"
    "0000"
    "0000000000000000000000000000000000000040771b0000000000e093040000000000005c26050000000000c87e9a0000000003"
    "000000"
    "c8000000404b4c0080841e0000974901000000000203000000000000000080c64d00000000050000000000000000000000010100"
    "6101"
    "0000000080c64d000000000500000001000000000000000102006263020000000080c64d00000000050000000000000000000000"
    "0101"
    "0064030100000006000000636c69636b7302000000f03d963b00000000090000000000000004010000002af894fe72f36e3c0200"
    "0000"
    "00000000b8d59a3b00000000f4010000000000000100000000000000010501000000157c4a7fb979379e01000000000000000300"
    "0000"
    "00000000d0d19a3b000000000300000000000000e8cd9a3b00000000083a963b0000000002000000000002000000000000000000"
    "0000"
    "000002000000e8cd9a3b000000004d0000000000000000000000000102d0d19a3b000000000000000000000000020000000001"
    "02e55d230ddefe6df8";

static void from_hex(const char *text, struct dn_buffer *out)
{
    dn_buffer_clear(out);
    for (size_t i = 0; text[i] != '\0'; i += 2) {
        unsigned byte = 0;
        assert_int_equal(sscanf(text + i, "%2x", &byte), 1);
        dn_buffer_u8(out, (uint8_t)byte);
    }
}

/* A log of version 1 and a snapshot of it give the state that they gave then, and go on alike. */
static void test_version_1(void **state)
{
    (void)state;
    struct rig old;
    struct dn_buffer bytes;
    rig_open(&old);
    rig.index = 1;
    rig_close(&rig);
    rig_open(&rig);
    for (size_t i = 0; i < sizeof v1_log / sizeof v1_log[0]; i++) {
        rig.now_ms = V1_START_MS + (int64_t)i * 1000;
        from_hex(v1_log[i].record, &rig.record);
        rig_apply(&rig);
        CHECK(dn_shard_hash(rig.shard) == v1_log[i].hash, "record %zu", i);
        if (i + 1 == V1_SNAPSHOT_AFTER) {
            dn_buffer_init(&bytes, 4096);
            from_hex(v1_snapshot, &bytes);
            rig_restore(&old, &bytes);
            old.index = rig.index;
            dn_buffer_free(&bytes);
        } else if (i >= V1_SNAPSHOT_AFTER) {
            old.now_ms = rig.now_ms;
            from_hex(v1_log[i].record, &old.record);
            rig_apply(&old);
        }
    }
    assert_true(dn_shard_hash(old.shard) == dn_shard_hash(rig.shard));
    expect_range(0, 0); /* the late ones of then were no letters */
    struct dn_shard_stats stats;
    dn_shard_stats(rig.shard, &stats);
    assert_int_equal(stats.late, 2);
    struct dn_source_view views[1];
    assert_int_equal(dn_shard_sources(rig.shard, views, 1), 1);
    assert_int_equal(views[0].next_offset, 12);
    assert_int_equal(views[0].watermark_ms, V1_START_MS + 4000 - 5 * MINUTE);
    assert_true(views[0].newest_ms == INT64_MIN && views[0].events == 0);
    /* What older builds understand is written as they read it. */
    rig_click(&rig, 1, 500, rig.now_ms, "a");
    assert_int_equal(rig.record.bytes[1], 1);
    /* A kind that version 1 had not, and a version to come. */
    dn_buffer_clear(&rig.record);
    dn_record_stall(&rig.record, 1, "");
    rig.record.bytes[1] = 1;
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_INVALID);
    rig.record.bytes[1] = 3; /* is a finished source's only */
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_INVALID);
    rig_close(&old);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_letters_of_a_batch_lie_in_offset_order),
        CASE(test_letter_where_there_is_no_room),
        CASE(test_batch_that_comes_again_makes_no_second_letter),
        CASE(test_bad_marks_are_refused_whole),
        CASE(test_full_queue_refuses_the_batch_whole),
        CASE(test_written_letters_leave),
        CASE(test_source_is_set_and_forgotten),
        CASE(test_source_never_seen),
        CASE(test_forward_does_not_go_back),
        CASE(test_sources_are_bounded),
        CASE(test_stall),
        CASE(test_snapshot_sees_its_moment),
        CASE(test_forged_letters_are_refused),
        CASE(test_version_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
