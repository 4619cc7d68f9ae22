/* Streams that are over: their places are given to others, and what comes back of them does not count twice
 * while they are remembered. */
#include "harness.h"
#include "session/core.h"

#include <pthread.h>
#include <stdatomic.h>

#define PLACES 3u

static struct rig rig;

static int setup(void **state)
{
    (void)state;
    rig_open(&rig);
    dn_sources_max = PLACES;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_close(&rig);
    dn_sources_max = DN_SOURCES_MAX;
    return 0;
}

/* One event and, where dead, a letter behind it. */
static enum dn_result_status batch(const char *name, int64_t begins_at, bool dead)
{
    int64_t offset = begins_at < 0 ? 0 : begins_at;
    struct dn_event_in event = event_of((uint64_t)offset + 1, 0, rig.now_ms, "a");
    struct dn_dead_in mark = {offset + 1, DN_DEAD_LIMIT};
    event.offset = offset;
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, name, 0, begins_at, offset + 2, &event, 1, &mark, dead ? 1 : 0);
    rig_apply(&rig);
    return rig.answer.status;
}

static enum dn_result_status finish(const char *name, int64_t next_offset)
{
    dn_buffer_clear(&rig.record);
    dn_record_source_finished(&rig.record, name, 0, next_offset);
    rig_apply(&rig);
    return rig.answer.status;
}

static enum dn_result_status written(uint64_t before)
{
    dn_buffer_clear(&rig.record);
    dn_record_dead_written(&rig.record, before);
    rig_apply(&rig);
    return rig.answer.status;
}

static int64_t offset_of(const char *name)
{
    int64_t next_offset = -2;
    dn_epoch_enter(rig.reader);
    bool known = dn_shard_next_offset(rig.shard, name, 0, &next_offset);
    dn_epoch_leave(rig.reader);
    return known ? next_offset : DN_OFFSET_UNSET;
}

static bool finished(const char *name)
{
    dn_epoch_enter(rig.reader);
    bool is = dn_shard_source_finished(rig.shard, name, 0);
    dn_epoch_leave(rig.reader);
    return is;
}

static void fill(void)
{
    assert_int_equal(batch("a", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(batch("b", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(batch("c", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(batch("d", DN_OFFSET_UNSET, false), DN_RESULT_FULL);
}

static void test_the_first_finished_is_forgotten_first(void **state)
{
    (void)state;
    fill();
    assert_int_equal(finish("c", 2), DN_RESULT_OK);
    assert_int_equal(rig.answer.next_offset, 2);
    assert_int_equal(finish("a", 2), DN_RESULT_OK);
    assert_int_equal(finish("c", 2), DN_RESULT_OK); /* said again: its turn stays */
    assert_true(finished("a") && finished("c") && !finished("b"));
    assert_int_equal(offset_of("c"), 2); /* remembered */
    assert_int_equal(batch("d", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(offset_of("c"), DN_OFFSET_UNSET);
    assert_int_equal(offset_of("a"), 2);
    assert_int_equal(batch("e", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(offset_of("a"), DN_OFFSET_UNSET);
    assert_int_equal(batch("f", DN_OFFSET_UNSET, false), DN_RESULT_FULL);
    assert_int_equal(offset_of("b"), 2);
    dn_epoch_enter(rig.reader);
    struct dn_source_view views[PLACES + 1];
    assert_int_equal(dn_shard_sources(rig.shard, views, PLACES + 1), PLACES);
    dn_epoch_leave(rig.reader);
    assert_string_equal(views[0].name, "e");
    assert_string_equal(views[1].name, "b");
    assert_string_equal(views[2].name, "d");
}

/* A file that comes back, or a batch that was on its way for long, finds its offset. */
static void test_what_comes_back_does_not_count_twice(void **state)
{
    (void)state;
    struct dn_shard_stats stats;
    fill();
    assert_int_equal(finish("a", 2), DN_RESULT_OK);
    assert_int_equal(batch("a", DN_OFFSET_UNSET, false), DN_RESULT_GAP);
    assert_true(finished("a"));
    dn_shard_stats(rig.shard, &stats);
    assert_int_equal(stats.events_applied, 3);
    /* It is there again, and nothing was added to it: an empty batch keeps its place. */
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, "a", 0, 2, 2, NULL, 0, NULL, 0);
    rig_apply(&rig);
    assert_int_equal(rig.answer.status, DN_RESULT_OK);
    assert_false(finished("a"));
    assert_int_equal(batch("d", DN_OFFSET_UNSET, false), DN_RESULT_FULL);
    assert_int_equal(batch("a", 2, false), DN_RESULT_OK);
    assert_int_equal(offset_of("a"), 4);
}

static void test_a_word_that_is_out_of_date_changes_nothing(void **state)
{
    (void)state;
    fill();
    uint64_t before = dn_shard_hash(rig.shard);
    assert_int_equal(finish("a", 1), DN_RESULT_GAP);
    assert_int_equal(rig.answer.next_offset, 2);
    assert_int_equal(finish("a", 3), DN_RESULT_GAP);
    assert_int_equal(finish("a", DN_OFFSET_UNSET), DN_RESULT_GAP);
    assert_false(finished("a"));
    assert_true(dn_shard_hash(rig.shard) == before);
    assert_int_equal(finish("never seen", 7), DN_RESULT_OK); /* and no place is taken for it */
    assert_int_equal(rig.answer.next_offset, DN_OFFSET_UNSET);
    assert_true(dn_shard_hash(rig.shard) == before);
    /* An operator's word puts it in use again. */
    assert_int_equal(finish("a", 2), DN_RESULT_OK);
    assert_true(dn_shard_hash(rig.shard) != before);
    dn_buffer_clear(&rig.record);
    dn_record_source(&rig.record, "a", 0, 2, false);
    rig_apply(&rig);
    assert_false(finished("a"));
    assert_true(dn_shard_hash(rig.shard) == before);
}

static void test_letters_keep_the_place(void **state)
{
    (void)state;
    struct dn_dead_letter letters[4];
    assert_int_equal(batch("a", DN_OFFSET_UNSET, true), DN_RESULT_OK);
    assert_int_equal(batch("b", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(batch("c", DN_OFFSET_UNSET, true), DN_RESULT_OK);
    assert_int_equal(finish("a", 2), DN_RESULT_OK);
    assert_int_equal(finish("c", 2), DN_RESULT_OK);
    assert_int_equal(batch("d", DN_OFFSET_UNSET, false), DN_RESULT_FULL);
    dn_epoch_enter(rig.reader);
    assert_int_equal(dn_shard_dead_letters(rig.shard, 0, letters, 4), 2);
    dn_epoch_leave(rig.reader);
    assert_string_equal(letters[0].source, "a");
    assert_string_equal(letters[1].source, "c");
    assert_int_equal(written(1), DN_RESULT_OK);
    assert_int_equal(batch("d", DN_OFFSET_UNSET, true), DN_RESULT_OK);
    assert_int_equal(offset_of("a"), DN_OFFSET_UNSET);
    assert_int_equal(batch("e", DN_OFFSET_UNSET, false), DN_RESULT_FULL); /* c has a letter still */
    assert_int_equal(written(2), DN_RESULT_OK);
    assert_int_equal(batch("e", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    dn_epoch_enter(rig.reader);
    assert_int_equal(dn_shard_dead_letters(rig.shard, 0, letters, 4), 1);
    dn_epoch_leave(rig.reader);
    assert_string_equal(letters[0].source, "d");
}

/* The name of a source whose place was given away while a snapshot of it is written. */
static void test_a_snapshot_keeps_its_names(void **state)
{
    (void)state;
    struct rig twin;
    struct dn_buffer bytes;
    dn_buffer_init(&bytes, 1u << 20);
    fill();
    assert_int_equal(finish("b", 2), DN_RESULT_OK);
    assert_int_equal(finish("a", 2), DN_RESULT_OK);
    uint64_t hash = dn_shard_hash(rig.shard);
    void *capture = dn_shard_snapshot_begin(rig.shard);
    for (int i = 0; i < 100; i++) {
        char name[16], other[16];
        snprintf(name, sizeof name, "new-%d", i);
        snprintf(other, sizeof other, "new-%d", i - 1);
        assert_int_equal(batch(name, DN_OFFSET_UNSET, false), DN_RESULT_OK);
        assert_true(i == 0 || finish(other, 2) == DN_RESULT_OK);
        rig_tick(&rig, 10); /* and memory is given back */
    }
    assert_int_equal(whole_write(dn_shard_snapshot_write, rig.shard, capture, &bytes, NULL), DN_OK);
    dn_shard_snapshot_end(rig.shard, capture);
    assert_int_equal(bytes.bytes[4], 3);
    rig_open(&twin);
    twin.index = rig.index, twin.now_ms = rig.now_ms;
    rig_restore(&twin, &bytes);
    assert_true(dn_shard_hash(twin.shard) == hash);
    rig_close(&rig);
    rig = twin;
    assert_true(finished("a") && finished("b") && !finished("c"));
    assert_int_equal(batch("d", DN_OFFSET_UNSET, false), DN_RESULT_OK);
    assert_int_equal(offset_of("b"), DN_OFFSET_UNSET); /* the order is remembered too */
    assert_int_equal(offset_of("a"), 2);
    dn_buffer_free(&bytes);
}

/* Builds that know nothing of it read what has none of it. */
static void test_without_finished_ones_it_is_version_2(void **state)
{
    (void)state;
    struct dn_buffer bytes;
    dn_buffer_init(&bytes, 1u << 20);
    fill();
    assert_int_equal(rig.record.bytes[1], 2); /* records too */
    rig_snapshot(&rig, &bytes);
    assert_int_equal(bytes.bytes[4], 2);
    uint64_t hash = dn_shard_hash(rig.shard);
    rig_restore(&rig, &bytes);
    assert_true(dn_shard_hash(rig.shard) == hash);
    assert_int_equal(offset_of("a"), 2);
    dn_buffer_free(&bytes);
}

static void test_forged_orders_are_refused(void **state)
{
    (void)state;
    struct dn_buffer bytes;
    struct dn_error err = {0};
    void *built = NULL;
    dn_buffer_init(&bytes, 1u << 20);
    fill();
    assert_int_equal(finish("a", 2), DN_RESULT_OK);
    assert_int_equal(finish("b", 2), DN_RESULT_OK);
    rig_snapshot(&rig, &bytes);
    uint8_t head[6] = {DN_SECTION_SOURCES, 3, 0, 0, 0, 1};
    size_t at = 0;
    while (at + sizeof head < bytes.length && memcmp(bytes.bytes + at, head, sizeof head) != 0) {
        at++;
    }
    /* u32 length, name, u32 partition, i64 floor, offset, newest, u64 events, finished. */
    const size_t one = 4 + 1 + 4 + 5 * 8, order = at + 5 + one - 8;
    assert_int_equal(bytes.bytes[order], 1);
    assert_int_equal(bytes.bytes[order + one], 2);
    bytes.bytes[order] = 2;
    assert_int_equal(whole_build(dn_shard_restore_build, rig.shard, bytes.bytes, bytes.length, &built, &err),
                     DN_CORRUPT);
    assert_non_null(strstr(err.message, "two finished at once"));
    bytes.bytes[order] = 1;
    bytes.bytes[order + 2 * one] = 7; /* one that is not */
    assert_int_equal(whole_build(dn_shard_restore_build, rig.shard, bytes.bytes, bytes.length, &built, &err),
                     DN_CORRUPT);
    dn_buffer_free(&bytes);
}

/* Without bound in a shard's life, as files are rotated. */
static void test_many_more_than_there_are_places(void **state)
{
    (void)state;
    char name[16], before[16];
    struct dn_shard_stats stats;
    uint64_t bytes = 0;
    dn_sources_max = 50;
    for (int i = 0; i < 3 * (int)DN_SOURCES_MAX; i++) {
        snprintf(name, sizeof name, "f%d", i);
        snprintf(before, sizeof before, "f%d", i - 1);
        assert_int_equal(batch(name, DN_OFFSET_UNSET, i % 3 == 0), DN_RESULT_OK);
        assert_true(i == 0 || finish(before, 2) == DN_RESULT_OK);
        assert_int_equal(written((uint64_t)i / 3), DN_RESULT_OK);
        dn_shard_stats(rig.shard, &stats);
        bytes = i == 1000 ? stats.memory_bytes : bytes;
    }
    assert_int_equal(stats.events_applied, 3 * DN_SOURCES_MAX);
    assert_in_range(stats.memory_bytes, 1, bytes + 65536);
    assert_int_equal(offset_of("f12250"), 2); /* a few of the last are remembered, and no more */
    assert_int_equal(offset_of("f12000"), DN_OFFSET_UNSET);
}

/* ---- readers ---- */

#define STREAMS 8
#define LETTERS 40
#define ROUNDS 3000

static atomic_bool stop;
static atomic_int bad, seen;

static void *reader_thread(void *data)
{
    static _Thread_local struct dn_dead_letter letters[LETTERS];
    struct dn_epoch_reader *reader = dn_epoch_register(rig.epoch);
    (void)data;
    while (!atomic_load(&stop)) {
        dn_epoch_enter(reader);
        size_t count = dn_shard_dead_letters(rig.shard, 0, letters, LETTERS);
        for (size_t i = 0; i < count; i++) {
            char want[8]; /* a letter's offset says whose it is */
            snprintf(want, sizeof want, "s%d", (int)(letters[i].offset % STREAMS));
            bad += strcmp(letters[i].source, want) != 0;
        }
        seen += (int)count;
        dn_epoch_leave(reader);
    }
    dn_epoch_unregister(reader);
    return NULL;
}

/* Whoever reads letters while places are given away never sees one under another's name. */
static void test_readers_see_right_names(void **state)
{
    (void)state;
    pthread_t threads[2];
    dn_sources_max = 2;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, reader_thread, NULL), 0);
    }
    uint64_t next = 0;
    for (int round = 0; round < ROUNDS || atomic_load(&seen) < 1000; round++) {
        struct dn_dead_in marks[LETTERS];
        char name[8];
        for (int i = 0; i < LETTERS; i++) {
            marks[i] = (struct dn_dead_in){round % STREAMS + (int64_t)i * STREAMS, DN_DEAD_LIMIT};
        }
        snprintf(name, sizeof name, "s%d", round % STREAMS);
        dn_buffer_clear(&rig.record);
        dn_record_stream(&rig.record, name, 0, DN_OFFSET_UNSET, (int64_t)LETTERS * STREAMS, NULL, 0, marks,
                         LETTERS);
        rig_apply(&rig);
        assert_int_equal(rig.answer.status, DN_RESULT_OK);
        next += LETTERS;
        assert_int_equal(written(next), DN_RESULT_OK);
        assert_int_equal(finish(name, (int64_t)LETTERS * STREAMS), DN_RESULT_OK);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&bad), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_the_first_finished_is_forgotten_first),
        CASE(test_what_comes_back_does_not_count_twice),
        CASE(test_a_word_that_is_out_of_date_changes_nothing),
        CASE(test_letters_keep_the_place),
        CASE(test_a_snapshot_keeps_its_names),
        CASE(test_without_finished_ones_it_is_version_2),
        CASE(test_forged_orders_are_refused),
        CASE(test_many_more_than_there_are_places),
        CASE(test_readers_see_right_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
