/* The dead-letter thread: at least once, one bad source does not hold up another, nothing proposed before it
 * is durable (dead_rig.h checks that in every test). */
#include "tests/unit/ingest/dead_rig.h"

#include "base/metrics.h"

static char *in_data(const struct rig *rig, const char *name, char ret[128])
{
    snprintf(ret, 128, "%s/deadletters/%s", rig->data_dir, name);
    return ret;
}

/* Two sources into one file that is named in two ways, several partitions and shards: everything arrives, as
 * it was, once; the queues are empty after it. */
static void all_arrive(void **state)
{
    struct rig *rig = *state;
    char other[128];
    struct stat info;

    snprintf(other, sizeof other, "%s/dead/../dead/both.jsonl", rig->folder);
    rig_source(rig, "b", DN_DEAD_TO_FILE, other);
    for (uint32_t group = 1; group <= SHARDS; group++) {
        rig_bury(rig, group, "a/web", group, 700);
        rig_bury(rig, group, "b/app", 9, 400);
    }
    rig_start(rig);
    rig_bury(rig, 2, "a/web", 3, 5);
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 1, 1, 1), 1100);
    assert_int_equal(rig_letters(rig, 2, 1, 1), 1105);
    assert_int_equal(rig_letters(rig, 3, 1, 1), 1100);
    assert_int_equal(rig_check_file(rig->file), 3305);
    assert_int_equal(stat(rig->file, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(atomic_load(&fetches), 3305);
    rig_bury(rig, 3, "b/app", 9, 1); /* later, from where it was */
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 3, 1, 1), 1101);
}

/* No place named: the file of the source in the data directory, which nobody else may read. */
static void default_place(void **state)
{
    struct rig *rig = *state;
    char path[128];
    struct stat info;

    rig_source(rig, "c", DN_DEAD_TO_FILE, "");
    rig_bury(rig, 1, "c/x", 0, 3);
    rig_start(rig);
    rig_wait_empty(rig);
    assert_int_equal(rig_check_file(in_data(rig, "c.jsonl", path)), 3);
    assert_int_equal(stat(in_data(rig, "", path), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
}

static struct dn_dead_line first_line(const char *path)
{
    struct dn_dead_file *file;
    struct dn_dead_line line;
    struct dn_buffer buffer;
    struct dn_error err;

    if (dn_dead_file_open(path, &file, &err) != DN_OK)
        fail_msg("%s", err.message);
    dn_buffer_init(&buffer, 1u << 20);
    if (dn_dead_file_next(file, &buffer, &line, &err) != DN_OK)
        fail_msg("%s", err.message);
    dn_dead_file_close(file);
    dn_buffer_free(&buffer);
    return line;
}

/* The source has it no more. */
static void gone(void **state)
{
    struct rig *rig = *state;
    fetch_says("a/", -1, DN_NOT_FOUND);
    rig_bury(rig, 1, "a/web", 4, 2);
    rig_start(rig);
    rig_wait_empty(rig);
    struct dn_dead_line line = first_line(rig->file);
    assert_true(line.gone);
    assert_null(line.bytes);
    assert_true(line.time_ms == -1);
    assert_int_equal(line.partition, 4);
    assert_string_equal(line.stream, "a/web");
}

/* The source says that it never will: the letter does not wait for ever, and is not said to be gone. */
static void hopeless(void **state)
{
    struct rig *rig = *state;
    fetch_says("a/", -1, DN_CORRUPT);
    rig_bury(rig, 1, "a/web", 4, 2);
    rig_start(rig);
    rig_wait_empty(rig);
    struct dn_dead_line line = first_line(rig->file);
    assert_false(line.gone);
    assert_null(line.bytes);
    assert_string_equal(line.note, "the test wants it");
}

/* Sources that the configuration does not name, one of them with a name that is no file's. */
static void strangers(void **state)
{
    struct rig *rig = *state;
    char path[128];

    rig_bury(rig, 1, "old/topic", 0, 3);
    rig_bury(rig, 1, "../etc/x", 0, 2);
    rig_bury(rig, 1, "a/web", 0, 2);
    rig_start(rig);
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 1, 1, 1), 7);
    assert_int_equal(rig_check_file(rig->file), 2);
    assert_int_equal(atomic_load(&fetches), 2);
    struct dn_dead_line line = first_line(in_data(rig, "old.jsonl", path));
    assert_string_equal(line.source, "old");
    assert_null(line.bytes);
    assert_false(line.gone);
    assert_non_null(strstr(line.note, "not configured"));
    line = first_line(in_data(rig, "unknown.jsonl", path));
    assert_string_equal(line.stream, "../etc/x");
}

/* One source does not answer: the other's letters are written all the same, also behind the first's in the
 * same queue; other shards go on; people are told which. When it answers again, all is written, and what was
 * before is not written again. */
static void blocked_source(void **state)
{
    struct rig *rig = *state;
    char text[DN_SOURCE_TEXT_MAX];

    rig_source(rig, "b", DN_DEAD_TO_FILE, rig->file);
    fetch_says("a/", -1, DN_UNAVAILABLE);
    rig_bury(rig, 1, "a/web", 0, 300); /* more than a turn takes */
    rig_bury(rig, 1, "b/app", 0, 300);
    rig_bury(rig, 2, "b/app", 1, 40);
    rig_start(rig);
    WAIT_FOR(rig_waiting(rig, 2) == 0);
    WAIT_FOR(rig_letters(rig, 1, 1, 1) == 300);
    assert_int_equal(rig_waiting(rig, 1), 600);
    WAIT_FOR(rig_trouble(rig, text) != 0);
    assert_non_null(strstr(text, "a/web"));
    rig_bury(rig, 3, "b/app", 2, 10);
    WAIT_FOR(rig_waiting(rig, 3) == 0);
    assert_in_range(atomic_load(&fetches), 350, 380); /* it was tried now and then, not all the time */
    fetch_is_well();
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 1, 1, 1), 600);
    WAIT_FOR(rig_trouble(rig, text) == 0);
    assert_string_equal(text, "");
}

/* One partition does not answer: the source's others do. */
static void blocked_partition(void **state)
{
    struct rig *rig = *state;
    fetch_says("a/web", 3, DN_DEADLINE);
    rig_bury(rig, 1, "a/web", 3, 20);
    rig_bury(rig, 1, "a/web", 5, 20);
    rig_bury(rig, 2, "a/web", 4, 20);
    rig_start(rig);
    WAIT_FOR(rig_waiting(rig, 2) == 0);
    WAIT_FOR(rig_letters(rig, 1, 1, 1) == 20);
    fetch_is_well();
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 1, 1, 1), 40);
}

/* And does so for as long as it likes, and before the others by its number: they are tried first, each time.
 */
static void blocked_first(void **state)
{
    struct rig *rig = *state;
    fetch_says("a/web", 0, DN_UNAVAILABLE);
    rig_bury(rig, 1, "a/web", 0, 20);
    rig_start(rig);
    WAIT_FOR(atomic_load(&fetches) >= 3); /* it failed, again and again */
    for (uint32_t i = 1; i <= 3; i++) {
        rig_bury(rig, 2, "a/web", i, 20);
        WAIT_FOR(rig_waiting(rig, 2) == 0);
    }
    assert_in_range(atomic_load(&fetches), 63, 75);
}

/* A fetch that takes long and fails: those that have not failed come next, though all of the source rested.
 */
static void blocked_last(void **state)
{
    struct rig *rig = *state;
    atomic_store(&fetch_hangs, true);
    fetch_says("a/web", 0, DN_DEADLINE);
    rig_bury(rig, 1, "a/web", 0, 20);
    rig_start(rig);
    WAIT_FOR(atomic_load(&fetches) == 1);
    nanosleep(&(struct timespec){.tv_nsec = 200000000},
              NULL); /* the rest is longer than the partition's wait */
    rig_bury(rig, 2, "a/web", 1, 2);
    uint64_t released_us = dn_monotonic_us();
    atomic_store(&fetch_hangs, false);
    WAIT_FOR(rig_waiting(rig, 2) == 0);
    pthread_mutex_lock(&source_mutex);
    uint32_t second = fetched[1].partition;
    uint64_t second_us = fetched[1].at_us;
    pthread_mutex_unlock(&source_mutex);
    assert_int_equal(second, 1);
    assert_true(second_us - released_us >= 600000); /* three times what it took */
    fetch_is_well();
    rig_wait_empty(rig);
}

/* A flush that fails: nothing is proposed on the strength of it, also when the next flush says that all is
 * well; the file stays JSON lines. */
static void flush_fails(void **state)
{
    struct rig *rig = *state;
    char text[DN_SOURCE_TEXT_MAX];

    atomic_store(&flushes_fail, 2);
    rig_bury(rig, 1, "a/web", 0, 10);
    rig_start(rig);
    WAIT_FOR(atomic_load(&flushes_fail) == 1);
    WAIT_FOR(rig_trouble(rig, text) != 0);
    assert_non_null(strstr(text, "both.jsonl"));
    assert_non_null(strstr(text, "Input/output error"));
    rig_wait_empty(rig);
    assert_int_equal(rig_check_file(rig->file), 10);
    WAIT_FOR(rig_trouble(rig, text) == 0);
}

/* The folder cannot be written to any more: as with a full disk, the letters wait. */
static void no_folder(void **state)
{
    struct rig *rig = *state;
    char text[DN_SOURCE_TEXT_MAX], folder[96];

    snprintf(folder, sizeof folder, "%s/dead", rig->folder);
    rig_start(rig);
    assert_int_equal(rmdir(folder), 0);
    int fd = open(folder, O_CREAT | O_WRONLY | O_CLOEXEC, 0600); /* in its place */
    assert_true(fd >= 0);
    close(fd);
    rig_bury(rig, 1, "a/web", 0, 10);
    WAIT_FOR(rig_trouble(rig, text) != 0);
    assert_int_equal(rig_waiting(rig, 1), 10);
    assert_int_equal(unlink(folder), 0); /* and now it is made anew */
    rig_wait_empty(rig);
    assert_int_equal(rig_check_file(rig->file), 10);
}

/* Proposals that fail, or of which nobody knows: the queue tells. Nothing is written twice for it. */
static void proposals_fail(void **state)
{
    static const enum answer answers[] = {ANSWER_LOST, ANSWER_BUSY, ANSWER_UNKNOWN};
    struct rig *rig = *state;
    char text[DN_SOURCE_TEXT_MAX];

    rig_start(rig);
    for (size_t i = 0; i < 3; i++) {
        rig_answer(rig, answers[i]);
        rig_bury(rig, 1, "a/web", 0, 50);
        WAIT_FOR(rig_trouble(rig, text) != 0);
        assert_non_null(strstr(text, "shard 1"));
        if (answers[i] != ANSWER_UNKNOWN)
            assert_int_equal(rig_waiting(rig, 1), 50);
        rig_answer(rig, ANSWER_OK);
        rig_bury(rig, 1, "a/web", 0, 1);
        rig_wait_empty(rig);
        WAIT_FOR(rig_trouble(rig, text) == 0);
    }
    assert_int_equal(rig_letters(rig, 1, 1, 1), 153);
}

/* Killed after the write and before the proposal counts: the next life writes the same letters again, with
 * the same numbers, and the queue is empty then. */
static void crash_before_proposal(void **state)
{
    struct rig *rig = *state;

    rig_answer(rig, ANSWER_LOST);
    rig_bury(rig, 1, "a/web", 0, 30);
    rig_start(rig);
    WAIT_FOR(rig_letters(rig, 1, 1, 1) == 30);
    rig_stop(rig, 0);
    assert_int_equal(rig_waiting(rig, 1), 30);
    rig_answer(rig, ANSWER_OK);
    rig_start(rig);
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 1, 2, 2), 30);
    assert_int_equal(rig_check_file(rig->file), 60);
}

/* A full queue, and numbers beyond what the thread remembers at once: the row of bits goes round. */
static void full_queue(void **state)
{
    struct rig *rig = *state;

    rig_source(rig, "d", DN_DEAD_DROPPED, "");
    rig->check_files = false; /* it would read what is dropped in vain */
    rig_start(rig);
    for (unsigned i = 0; i < 5; i++)
        rig_bury(rig, 1, "d/x", 0, 1000);
    rig_wait_empty(rig);
    rig_lead(rig, 1, false);
    for (unsigned i = 0; i < 32; i++)
        rig_bury(rig, 1, i % 8 == 7 ? "d/x" : "a/web", i % 8, 1000);
    rig_lead(rig, 1, true);
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 1, 1, 1), 28000);
    assert_int_equal(rig_check_file(rig->file), 28000);
}

/* Only the leader of a shard looks at its queue. */
static void only_the_leader(void **state)
{
    struct rig *rig = *state;

    rig_lead(rig, 2, false);
    rig_bury(rig, 2, "a/web", 0, 10);
    rig_bury(rig, 1, "a/web", 1, 10);
    rig_start(rig);
    WAIT_FOR(rig_waiting(rig, 1) == 0);
    rig_bury(rig, 3, "a/web", 2, 10); /* some turns later */
    WAIT_FOR(rig_waiting(rig, 3) == 0);
    assert_int_equal(rig_waiting(rig, 2), 10);
    assert_int_equal(rig_letters(rig, 2, 1, 1), 0);
    rig_lead(rig, 2, true);
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 2, 1, 1), 10);
}

/* No leader any more between the write and the proposal: then it is the next leader's to propose. */
static void leader_no_more(void **state)
{
    struct rig *rig = *state;

    size_t queued;

    rig->answer_group = 1;
    rig_answer(rig, ANSWER_LOST);
    rig_bury(rig, 1, "a/web", 0, 10);
    rig_start(rig);
    WAIT_FOR(rig_proposals(rig, 1, &queued) > 0);
    rig_lead(rig, 1, false);
    for (unsigned i = 0; i < 2; i++) { /* until a whole turn has seen it */
        rig_bury(rig, 2, "a/web", 1, 1);
        WAIT_FOR(rig_waiting(rig, 2) == 0);
    }
    WAIT_FOR((rig_proposals(rig, 1, &queued), queued == 0));
    rig_answer(rig, ANSWER_OK);
    for (unsigned i = 0; i < 8; i++) { /* some turns, for longer than a failed proposal waits */
        rig_bury(rig, 2, "a/web", 1, 1);
        WAIT_FOR(rig_waiting(rig, 2) == 0);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    assert_int_equal(rig_waiting(rig, 1), 10);
    rig_lead(rig, 1, true);
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 1, 1, 1), 10);
}

/* Another leader took letters out meanwhile: they are not looked for, and the rest is found. */
static void another_leader(void **state)
{
    struct rig *rig = *state;
    struct dn_buffer record;

    fetch_says("a/", -1, DN_UNAVAILABLE);
    rig_bury(rig, 1, "a/web", 0, 30);
    rig_start(rig);
    WAIT_FOR(atomic_load(&fetches) > 0);
    dn_buffer_init(&record, 1024);
    dn_record_dead_written(&record, 20);
    pthread_mutex_lock(&rig->mutex);
    rig_apply(rig, 1, record.bytes, record.length);
    pthread_mutex_unlock(&rig->mutex);
    dn_buffer_free(&record);
    fetch_is_well();
    rig_wait_empty(rig);
    assert_int_equal(rig_letters(rig, 1, 1, 1), 10);
    assert_int_equal(rig_highest(rig, 1), 30);
}

/* Dropped by the configuration: out of the queue at once, fetched and written nowhere. */
static void dropped(void **state)
{
    struct rig *rig = *state;

    rig->check_files = false;
    rig_source(rig, "d", DN_DEAD_DROPPED, "");
    rig_bury(rig, 1, "d/x", 0, 500);
    rig_start(rig);
    rig_wait_empty(rig);
    assert_int_equal(atomic_load(&fetches), 0);
    assert_int_equal(rig_letters(rig, 1, 0, 0), 0);
}

/* The proposal hangs: stop comes back in time, and the end of consensus frees what is held. */
static void stop_is_bounded(void **state)
{
    struct rig *rig = *state;

    rig_answer(rig, ANSWER_HELD);
    rig_bury(rig, 1, "a/web", 0, 10);
    rig_start(rig);
    WAIT_FOR(rig_letters(rig, 1, 1, 1) == 10);
    uint64_t began_us = dn_monotonic_us();
    dn_deadletters_stop(rig->letters, 50);
    assert_true(dn_monotonic_us() - began_us < WAIT_MS * UINT64_C(1000));
    rig_stop(rig, 0);
    assert_int_equal(rig_waiting(rig, 1), 10);
}

static void *answer_later(void *rig)
{
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    rig_answer(rig, ANSWER_OK);
    return NULL;
}

/* Stop waits for the answer to a proposal: what was written is not written again. */
static void stop_waits(void **state)
{
    struct rig *rig = *state;

    rig_answer(rig, ANSWER_HELD);
    rig_bury(rig, 1, "a/web", 0, 10);
    rig_start(rig);
    WAIT_FOR(rig_highest(rig, 1) == 10);
    pthread_t later;
    assert_int_equal(pthread_create(&later, NULL, answer_later, rig), 0);
    dn_deadletters_stop(rig->letters, WAIT_MS);
    assert_int_equal(rig_waiting(rig, 1), 0);
    pthread_join(later, NULL);
}

/* A fetch outlasts stop: what it brings is proposed to nobody, as consensus may be gone by then. */
static void stop_during_fetch(void **state)
{
    struct rig *rig = *state;

    atomic_store(&fetch_hangs, true);
    rig_bury(rig, 1, "a/web", 0, 1);
    rig_start(rig);
    WAIT_FOR(atomic_load(&fetches) == 1);
    dn_deadletters_stop(rig->letters, 10);
    pthread_mutex_lock(&rig->mutex);
    rig->no_proposals = true;
    pthread_mutex_unlock(&rig->mutex);
    atomic_store(&fetch_hangs, false);
    rig_stop(rig, 0);
    assert_int_equal(rig_letters(rig, 1, 1, 1), 1); /* it was written all the same */
    assert_int_equal(rig_waiting(rig, 1), 1);
}

/* A path that cannot be a file's is said at the start, with the source's name. */
static void bad_place(void **state)
{
    struct rig *rig = *state;
    struct dn_deadletters *letters;
    struct dn_error err;
    char path[128];

    snprintf(path, sizeof path, "%s/file", rig->folder);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    strcat(path, "/x.jsonl");
    rig_source(rig, "bad", DN_DEAD_TO_FILE, path);
    assert_int_equal(dn_deadletters_start(&rig->options, &letters, &err), DN_IO);
    assert_non_null(strstr(err.message, "source 'bad'"));
    assert_non_null(strstr(err.message, rig->folder));
}

static uint64_t counter(struct dn_metrics *metrics, const char *name, const char *labels)
{
    return dn_counter_value(dn_metrics_counter(metrics, name, labels, ""));
}

static void metrics(void **state)
{
    struct rig *rig = *state;
    struct dn_metrics *metrics = dn_metrics_create();

    rig->options.metrics = metrics;
    fetch_says("a/", 7, DN_UNAVAILABLE);
    rig_bury(rig, 2, "a/web", 0, 9);
    rig_bury(rig, 2, "a/web", 7, 60);
    rig_start(rig);
    struct dn_gauge *waiting = dn_metrics_gauge(metrics, "dunlin_dead_letters_waiting", "group=\"2\"", "");
    WAIT_FOR(dn_gauge_value(waiting) == 60);
    assert_int_equal(
        counter(metrics, "dunlin_dead_letters_written_total", "source=\"a\",reason=\"undecodable\""), 3);
    assert_int_equal(counter(metrics, "dunlin_dead_letters_written_total", "source=\"a\",reason=\"limit\""),
                     3);
    assert_true(counter(metrics, "dunlin_dead_letter_failures_total", "source=\"a\",step=\"fetch\"") > 0);
    pthread_mutex_lock(&source_mutex);
    rules[0].code = DN_NOT_FOUND;
    pthread_mutex_unlock(&source_mutex);
    rig_wait_empty(rig);
    WAIT_FOR(dn_gauge_value(waiting) == 0);
    assert_int_equal(counter(metrics, "dunlin_dead_letters_without_bytes_total", "source=\"a\""), 60);
    rig_stop(rig, 1000);
    dn_metrics_destroy(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(all_arrive),
        WITH_RIG(default_place),
        WITH_RIG(gone),
        WITH_RIG(hopeless),
        WITH_RIG(strangers),
        WITH_RIG(blocked_source),
        WITH_RIG(blocked_partition),
        WITH_RIG(blocked_first),
        WITH_RIG(blocked_last),
        WITH_RIG(flush_fails),
        WITH_RIG(no_folder),
        WITH_RIG(proposals_fail),
        WITH_RIG(crash_before_proposal),
        WITH_RIG(full_queue),
        WITH_RIG(only_the_leader),
        WITH_RIG(leader_no_more),
        WITH_RIG(another_leader),
        WITH_RIG(dropped),
        WITH_RIG(stop_is_bounded),
        WITH_RIG(stop_waits),
        WITH_RIG(stop_during_fetch),
        WITH_RIG(bad_place),
        WITH_RIG(metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
