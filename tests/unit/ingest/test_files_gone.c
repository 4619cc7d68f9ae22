/* Files that go: more of them than there are places, with the real driver, the ingest thread, and shards. */
#include "ingest/ingest.h"
#include "ingest/source_file_table.h"
#include "ingest/source_file_watch.h"
#include "session/core.h"
#include "tests/unit/ingest/source_file_help.h"

#include <pthread.h>

#define SHARDS 2u
#define PLACES 600u
#define ROTATIONS 1100 /* more than the places of a shard, than a source's files and ingest's streams */
#define BEHIND 400     /* files that are not settled, at most */
#define LINES 4
#define STEP 20 /* rotations between two looks at whether all was read; divides them */
#define ROWS_MAX 4096
#define NOW_MS INT64_C(1700000000000)

static struct {
    pthread_mutex_t lock;
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_shard *shards[SHARDS];
    uint64_t index;
    struct dn_ingest *ingest;
    struct dn_metrics *metrics;
    bool refuse; /* no leader is to be had */
} world;

/* ---- the replicated state: one copy, which takes everything at once ---- */

static void apply(uint32_t group, const uint8_t *record, size_t length, struct dn_buffer *result)
{
    pthread_mutex_lock(&world.lock);
    dn_shard_apply(world.shards[group - 1], ++world.index, 0, NOW_MS, record, length, result);
    dn_shard_entry_done(world.shards[group - 1], world.index, NOW_MS);
    pthread_mutex_unlock(&world.lock);
}

static bool target_propose(void *data, struct dn_proposal *proposal)
{
    struct dn_buffer result;

    (void)data;
    if (world.refuse)
        return false;
    dn_buffer_init(&result, 1 << 20);
    apply(proposal->group, proposal->record, proposal->length, &result);
    proposal->done(proposal, DN_OK, world.index, result.bytes, result.length, NULL);
    dn_buffer_free(&result);
    return true;
}

static bool target_leads(void *data, uint32_t group)
{
    (void)data;
    (void)group;
    return true;
}

static bool target_next_offset(void *data, uint32_t group, const char *stream, uint32_t partition,
                               int64_t *ret)
{
    (void)data;
    pthread_mutex_lock(&world.lock);
    dn_epoch_enter(world.reader);
    bool known = dn_shard_next_offset(world.shards[group - 1], stream, partition, ret);
    dn_epoch_leave(world.reader);
    pthread_mutex_unlock(&world.lock);
    return known;
}

static bool target_finished(void *data, uint32_t group, const char *stream, uint32_t partition)
{
    (void)data;
    pthread_mutex_lock(&world.lock);
    dn_epoch_enter(world.reader);
    bool finished = dn_shard_source_finished(world.shards[group - 1], stream, partition);
    dn_epoch_leave(world.reader);
    pthread_mutex_unlock(&world.lock);
    return finished;
}

static int64_t target_stalled(void *data, uint32_t group, char ret_reason[DN_STALL_REASON_MAX + 1])
{
    (void)data;
    pthread_mutex_lock(&world.lock);
    dn_epoch_enter(world.reader);
    int64_t since_ms = dn_shard_stalled(world.shards[group - 1], ret_reason);
    dn_epoch_leave(world.reader);
    pthread_mutex_unlock(&world.lock);
    return since_ms;
}

static uint64_t applied(void)
{
    struct dn_shard_stats stats;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < SHARDS; i++) {
        dn_shard_stats(world.shards[i], &stats);
        sum += stats.events_applied;
        assert_int_equal(stats.late, 0);
    }
    return sum;
}

/* How many sources a shard knows; of them in use, finished. */
static size_t known(uint32_t group, size_t *ret_in_use)
{
    static struct dn_source_view views[DN_SOURCES_MAX];

    pthread_mutex_lock(&world.lock);
    dn_epoch_enter(world.reader);
    size_t count = dn_shard_sources(world.shards[group - 1], views, DN_SOURCES_MAX);
    dn_epoch_leave(world.reader);
    pthread_mutex_unlock(&world.lock);
    *ret_in_use = 0;
    for (size_t i = 0; i < count; i++)
        *ret_in_use += !views[i].finished;
    return count;
}

/* ---- a node ---- */

static size_t rows(struct dn_ingest_row *ret)
{
    static struct dn_ingest_row found[ROWS_MAX];

    return dn_ingest_rows(world.ingest, ret != NULL ? ret : found, ROWS_MAX);
}

static void start_node(bool follow)
{
    struct dn_error err = {0};

    config.follow = follow;
    config.batch_events = 100;
    config.batch_bytes = 65536;
    config.batch_ms = 1;
    config.inflight_batches = 4;
    config.dead_sink = DN_DEAD_DROPPED;
    struct dn_ingest_options options = {
        .sources = &config,
        .source_count = 1,
        .shard_count = SHARDS,
        .node_id = 1,
        .data_dir = data_folder,
        .stall_ms = 2000,
        .metrics = world.metrics,
        .target = {.propose = target_propose,
                   .leads = target_leads,
                   .next_offset = target_next_offset,
                   .finished = target_finished,
                   .stalled = target_stalled},
    };
    if (dn_ingest_start(&options, &world.ingest, &err) != DN_OK)
        fail_msg("%s", err.message);
}

static void stop_node(void)
{
    dn_ingest_stop(world.ingest, 1000);
    dn_ingest_destroy(world.ingest);
    world.ingest = NULL;
}

static int open_world(void **state)
{
    set_up(state);
    assert_int_equal(mkdir(path_of("in"), 0700), 0);
    dn_file_quiet_ms = 200;
    dn_file_glance_ms = 1;
    dn_sources_max = PLACES;
    memset(&world, 0, sizeof world);
    pthread_mutex_init(&world.lock, NULL);
    world.epoch = dn_epoch_create();
    world.reader = dn_epoch_register(world.epoch);
    world.metrics = dn_metrics_create();
    for (uint32_t i = 0; i < SHARDS; i++)
        world.shards[i] = dn_shard_create(world.epoch);
    return 0;
}

static int close_world(void **state)
{
    if (world.ingest != NULL)
        stop_node();
    for (uint32_t i = 0; i < SHARDS; i++)
        dn_shard_destroy(world.shards[i]);
    dn_epoch_unregister(world.reader);
    dn_epoch_destroy(world.epoch);
    dn_metrics_destroy(world.metrics);
    dn_sources_max = DN_SOURCES_MAX;
    dn_file_glance_ms = 50;
    return tear_down(state);
}

/* LINES events of users of both shards, which no other file has. */
static void put_events(const char *name, int number)
{
    char lines[LINES * 128];
    size_t used = 0;

    for (int i = 0; i < LINES; i++)
        used += (size_t)snprintf(lines + used, sizeof lines - used,
                                 "{\"user_id\":\"u%d-%d\",\"item_id\":\"i%d\",\"time_ms\":%lld}\n", number, i,
                                 i, (long long)NOW_MS);
    put_text(name, lines);
}

static void move(const char *from, const char *to)
{
    assert_int_equal(rename(path_of(from), path_of(to)), 0);
}

static void dump(void)
{
    static struct dn_ingest_row found[ROWS_MAX];
    size_t count = rows(found);

    for (size_t i = 0; i < count; i++)
        fprintf(stderr, "%s group %u state %d next %lld end %lld %s\n", found[i].stream, found[i].group,
                (int)found[i].state, (long long)found[i].next_offset, (long long)found[i].end_offset,
                found[i].error);
}

/* The ingest thread looks around at each turn, not ten times a second. */
#define WAIT_FOR(condition)                                                                                  \
    for (uint64_t until_us = dn_monotonic_us() + PATIENCE_US; !(condition); usleep(1000)) {                  \
        dn_ingest_wake(world.ingest);                                                                        \
        if (dn_monotonic_us() > until_us) {                                                                  \
            dump();                                                                                          \
            fail_msg("line %d: " #condition " did not come: %llu events, %zu rows", __LINE__,                \
                     (unsigned long long)applied(), rows(NULL));                                             \
        }                                                                                                    \
    }

static bool all_finished(void)
{
    size_t one, two;

    known(1, &one);
    known(2, &two);
    return one == 0 && two == 0;
}

/* Every lane is at its end, in the state. */
static bool all_committed(void)
{
    static struct dn_ingest_row found[ROWS_MAX];
    size_t count = rows(found);
    bool all = count > 0;

    for (size_t i = 0; i < count; i++)
        all &= found[i].state == DN_PARTITION_AT_END && found[i].lag_records == 0;
    return all;
}

/* ---- followed ---- */

static void rotates_more_often_than_there_are_places(void **state)
{
    char name[64], old[64];
    size_t most = 0, in_use;

    (void)state;
    config.list_count = 0;
    add_path(path_of("in/app.log"));
    start_node(true);
    for (int i = 0; i < ROTATIONS; i++) {
        put_events("in/new", i);
        move("in/new", "in/app.log");
        if (i % STEP == 0) { /* what is deleted below was read */
            WAIT_FOR(applied() == (uint64_t)(i + 1) * LINES);
        } else {
            usleep(2000);
        }
        snprintf(name, sizeof name, "in/app.log.%d", i);
        move("in/app.log", name);
        for (int j = i - STEP; i % STEP == 0 && j >= 0 && j < i; j++) {
            snprintf(old, sizeof old, "in/app.log.%d", j);
            assert_int_equal(unlink(path_of(old)), 0);
        }
        WAIT_FOR(rows(NULL) <= (size_t)BEHIND * SHARDS);
        most = rows(NULL) > most ? rows(NULL) : most;
    }
    WAIT_FOR(applied() == (uint64_t)ROTATIONS * LINES);
    for (int j = ROTATIONS - STEP; j < ROTATIONS; j++) {
        snprintf(old, sizeof old, "in/app.log.%d", j);
        assert_int_equal(unlink(path_of(old)), 0);
    }
    WAIT_FOR(all_finished());
    assert_int_equal(applied(), (uint64_t)ROTATIONS * LINES);
    for (uint32_t group = 1; group <= SHARDS; group++)
        assert_int_equal(known(group, &in_use), PLACES);
    WAIT_FOR(rows(NULL) <= 1); /* one: that the path is not there */
    printf("%d rotations, at most %zu files at a time\n", ROTATIONS, most / SHARDS);
}

static size_t read_bytes(const char *name, char *bytes, size_t room)
{
    int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);
    ssize_t length = read(fd, bytes, room);

    assert_true(length > 0);
    close(fd);
    return (size_t)length;
}

/* What was forgotten and comes back is not counted again: not as it was, not as a copy, not compressed, not
 * after a restart. */
static void what_comes_back_is_known(void **state)
{
    size_t in_use, length;
    char bytes[1024];

    (void)state;
    config.list_count = 0;
    add_path(path_of("in/app.log"));
    start_node(true);
    put_events("in/app.log", 1);
    WAIT_FOR(applied() == LINES);
    move("in/app.log", "in/app.log.1");
    put_events("in/app.log", 2);
    WAIT_FOR(applied() == 2 * LINES);
    length = read_bytes("in/app.log.1", bytes, sizeof bytes);
    assert_int_equal(unlink(path_of("in/app.log.1")), 0);
    WAIT_FOR((known(1, &in_use), in_use) == 1 && rows(NULL) == SHARDS);
    write_file(path_of("in/app.log.1"), bytes, length, 0);
    usleep(300000);
    assert_int_equal(applied(), 2 * LINES);
    stop_node();
    put_gzip("in/app.log.2.gz", bytes, length, "wb");
    assert_int_equal(unlink(path_of("in/app.log.1")), 0);
    config.list_count = 0;
    add_path(path_of("in/app.log"));
    start_node(true);
    append_text("in/app.log", "{\"user_id\":\"z\",\"item_id\":\"i\",\"time_ms\":1700000000000}\n");
    WAIT_FOR(applied() == 2 * LINES + 1);
    usleep(300000);
    assert_int_equal(applied(), 2 * LINES + 1);
}

/* Deleted while the node was down: its place is given back all the same. */
static void deleted_while_the_node_was_down(void **state)
{
    size_t in_use;

    (void)state;
    config.list_count = 0;
    add_path(path_of("in/app.log"));
    start_node(true);
    put_events("in/app.log", 1);
    WAIT_FOR(applied() == LINES);
    move("in/app.log", "in/app.log.1");
    put_events("in/app.log", 2);
    WAIT_FOR(applied() == 2 * LINES);
    usleep(2 * dn_file_quiet_ms * 1000 + 1200000); /* the rotated one is known to be done */
    stop_node();
    assert_int_equal(unlink(path_of("in/app.log.1")), 0);
    config.list_count = 0;
    add_path(path_of("in/app.log"));
    known(1, &in_use);
    assert_int_equal(in_use, 2);
    start_node(true);
    WAIT_FOR((known(1, &in_use), in_use) == 1 && (known(2, &in_use), in_use) == 1);
    WAIT_FOR(rows(NULL) == SHARDS);
    assert_int_equal(applied(), 2 * LINES);
}

/* A file that was not read to its end stands still, loudly, until somebody says that it is over. */
static void a_lost_file_waits_for_a_word(void **state)
{
    static struct dn_ingest_row found[ROWS_MAX];
    struct dn_buffer record, result;
    size_t in_use;

    (void)state;
    config.list_count = 0;
    add_path(path_of("in/app.log"));
    start_node(true);
    put_events("in/app.log", 1);
    WAIT_FOR(applied() == LINES && all_committed());
    world.refuse = true; /* it is read, and does not come into the state */
    append_text("in/app.log", "{\"user_id\":\"z\",\"item_id\":\"i\",\"time_ms\":1700000000000}\n");
    stop_node();
    move("in/app.log", "kept");
    put_events("in/app.log", 2);
    world.refuse = false;
    config.list_count = 0;
    add_path(path_of("in/app.log"));
    start_node(true);
    WAIT_FOR(applied() == 2 * LINES);
    usleep(4 * dn_file_quiet_ms * 1000);
    assert_int_equal(rows(found), 2 * SHARDS);
    size_t lost = found[0].state == DN_PARTITION_GAP ? 0 : SHARDS;
    assert_int_equal(found[lost].state, DN_PARTITION_GAP);
    known(1, &in_use);
    assert_int_equal(in_use, 2);
    dn_buffer_init(&record, 4096);
    dn_buffer_init(&result, 4096);
    for (uint32_t group = 1; group <= SHARDS; group++) {
        int64_t next;
        assert_true(target_next_offset(NULL, group, found[lost].stream, 0, &next));
        dn_buffer_clear(&record);
        dn_buffer_clear(&result);
        dn_record_source_finished(&record, found[lost].stream, 0, next);
        apply(group, record.bytes, record.length, &result);
        assert_int_equal(result.bytes[0], DN_RESULT_OK);
    }
    dn_buffer_free(&record);
    dn_buffer_free(&result);
    WAIT_FOR(rows(NULL) == SHARDS);
    assert_false(dn_ingest_has(world.ingest, found[lost].stream));
}

/* ---- folders ---- */

static void wait_for_files(size_t files)
{
    WAIT_FOR(rows(NULL) == files * SHARDS);
}

static bool another(const struct dn_ingest_row *row)
{
    return row->state == DN_PARTITION_GAP || strstr(row->error, "another file has this name") != NULL;
}

static void a_folder_s_files_come_and_go(void **state)
{
    char name[64];
    size_t in_use;

    (void)state;
    config.list_count = 0;
    add_path(path_of("in"));
    put_events("in/stays", ROTATIONS);
    start_node(false);
    for (int i = 0; i < ROTATIONS; i += STEP) {
        for (int j = i; j < i + STEP; j++) {
            snprintf(name, sizeof name, "in/file-%d", j);
            put_events("new", j);
            move("new", name);
        }
        WAIT_FOR(applied() == (uint64_t)(i + STEP + 1) * LINES && all_committed());
        for (int j = i; j < i + STEP; j++) {
            snprintf(name, sizeof name, "in/file-%d", j);
            assert_int_equal(unlink(path_of(name)), 0);
        }
        WAIT_FOR(rows(NULL) <= (size_t)BEHIND * SHARDS);
    }
    wait_for_files(1);
    known(1, &in_use);
    assert_int_equal(in_use, 1);
    assert_int_equal(applied(), (uint64_t)(ROTATIONS + 1) * LINES);
    /* One comes back as it was, and grows. */
    put_events("in/file-1099", 1099);
    wait_for_files(2);
    WAIT_FOR((known(1, &in_use), in_use) == 2); /* and keeps its place from now on */
    assert_int_equal(applied(), (uint64_t)(ROTATIONS + 1) * LINES);
    append_text("in/file-1099", "{\"user_id\":\"z\",\"item_id\":\"i\",\"time_ms\":1700000000000}\n");
    WAIT_FOR(applied() == (uint64_t)(ROTATIONS + 1) * LINES + 1);
    /* Another one, under a name that was used: that is said, and not read from the middle. */
    static struct dn_ingest_row found[ROWS_MAX];
    put_text("in/file-1098", "{\"other\": 1}\n");
    for (int i = 0; i < 100; i++)
        append_text("in/file-1098", "{\"other\": 1}\n");
    wait_for_files(3);
    WAIT_FOR(rows(found) == 3 * SHARDS &&
             (another(&found[0]) || another(&found[SHARDS]) || another(&found[2 * SHARDS])));
}

/* Its end is its end, also before it is forgotten; and a folder whose files were all read and deleted is no
 * trouble. */
static void a_deleted_file_does_not_stand_still(void **state)
{
    static struct dn_ingest_row found[ROWS_MAX];

    (void)state;
    config.list_count = 0;
    add_path(path_of("in"));
    put_events("in/a", 1);
    put_events("in/b", 2);
    dn_file_quiet_ms = 60000; /* for longer than the test */
    start_node(false);
    usleep(100000);
    append_text("in/a", "{\"user_id\":\"z\",\"item_id\":\"i\",\"time_ms\":1700000000000}\n");
    WAIT_FOR(applied() == 2 * LINES + 1 && all_committed());
    assert_int_equal(unlink(path_of("in/a")), 0);
    assert_int_equal(unlink(path_of("in/b")), 0);
    usleep(4500000); /* stall_ms, and what a driver may be silent for */
    assert_int_equal(rows(found), 2 * SHARDS);
    for (size_t i = 0; i < 2 * SHARDS; i++)
        assert_false(found[i].stalled);
}

/* A file system that is not there for a while takes nothing away. */
static void a_folder_that_is_not_mounted(void **state)
{
    size_t in_use;

    (void)state;
    config.list_count = 0;
    add_path(path_of("in"));
    put_events("in/a", 1);
    put_events("in/b", 2);
    start_node(false);
    WAIT_FOR(applied() == 2 * LINES && all_committed());
    move("in", "mounted");
    usleep(600000); /* no folder at all: many scans */
    assert_int_equal(mkdir(path_of("in"), 0700), 0);
    put_events("in/stray", 3);
    WAIT_FOR(applied() == 3 * LINES);
    usleep(600000); /* another folder, which has not these files */
    known(1, &in_use);
    assert_int_equal(in_use, 3);
    assert_int_equal(rows(NULL), 3 * SHARDS);
    move("in", "was-below");
    move("mounted", "in");
    append_text("in/a", "{\"user_id\":\"z\",\"item_id\":\"i\",\"time_ms\":1700000000000}\n");
    WAIT_FOR(applied() == 3 * LINES + 1);
}

/* The same where the file is followed. */
static void a_followed_folder_that_is_not_mounted(void **state)
{
    size_t in_use;

    (void)state;
    config.list_count = 0;
    add_path(path_of("in/app.log"));
    start_node(true);
    put_events("in/app.log", 1);
    WAIT_FOR(applied() == LINES);
    move("in/app.log", "in/app.log.1");
    put_events("in/app.log", 2);
    WAIT_FOR(applied() == 2 * LINES && all_committed());
    usleep(3 * dn_file_quiet_ms * 1000);
    move("in", "mounted");
    usleep(600000);
    assert_int_equal(mkdir(path_of("in"), 0700), 0);
    usleep(600000);
    known(1, &in_use);
    assert_int_equal(in_use, 2);
    assert_int_equal(rmdir(path_of("in")), 0);
    move("mounted", "in");
    WAIT_FOR(rows(NULL) == 2 * SHARDS);
    assert_int_equal(unlink(path_of("in/app.log.1")), 0);
    WAIT_FOR((known(1, &in_use), in_use) == 1);
    assert_int_equal(applied(), 2 * LINES);
}

/* An operator's word on a file that is there holds no longer than until it is noticed. */
static void a_file_that_is_there_keeps_its_place(void **state)
{
    static struct dn_ingest_row found[ROWS_MAX];
    struct dn_buffer record, result;
    size_t in_use;

    (void)state;
    config.list_count = 0;
    add_path(path_of("in"));
    put_events("in/a", 1);
    start_node(false);
    WAIT_FOR(applied() == LINES && all_committed() && rows(found) == SHARDS);
    assert_true(dn_ingest_has(world.ingest, found[0].stream));
    dn_buffer_init(&record, 4096);
    dn_buffer_init(&result, 4096);
    dn_record_source_finished(&record, found[0].stream, 0, found[0].next_offset);
    apply(1, record.bytes, record.length, &result);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
    known(1, &in_use);
    assert_int_equal(in_use, 0);
    WAIT_FOR((known(1, &in_use), in_use) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rotates_more_often_than_there_are_places, open_world, close_world),
        cmocka_unit_test_setup_teardown(what_comes_back_is_known, open_world, close_world),
        cmocka_unit_test_setup_teardown(deleted_while_the_node_was_down, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_lost_file_waits_for_a_word, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_folder_s_files_come_and_go, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_deleted_file_does_not_stand_still, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_folder_that_is_not_mounted, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_followed_folder_that_is_not_mounted, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_file_that_is_there_keeps_its_place, open_world, close_world),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
