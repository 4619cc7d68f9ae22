/* A replay reads as many files as a source may have, through the real driver, and says so when it cannot. */
#include "replay_rig.h"

#include <errno.h>
#include <ftw.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINES = 3, FEW_FILES = 300, LOW_FILES = 100, BLAMED = 3, UNBLAMED = 4 };

static char folder[] = "/tmp/dunlin-replay-files.XXXXXX";
static struct rlimit before;

/* More than one line: a feed's first event is looked at together with its next one, so that a file of one
 * is at its end, and closed, before the others are begun. */
static void write_lines(const char *path, unsigned number)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    for (unsigned line = 0; line < LINES; line++)
        fprintf(file, "{\"user_id\":\"u%u\",\"item_id\":\"i%u\",\"time_ms\":%lld}\n", number, line,
                (long long)(BEGIN_MS + number + line * DN_SOURCE_PARTITIONS_MAX));
    assert_int_equal(fclose(file), 0);
}

/* In another order of names than of times, so that the merge needs every file's head at once. */
static void write_files(unsigned count)
{
    char path[64];

    for (unsigned i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "%s/in/%05u.jsonl", folder, count - i);
        write_lines(path, i);
    }
}

static int make_folder(void **unused)
{
    char path[64];

    (void)unused;
    snprintf(folder, sizeof(folder), "/tmp/dunlin-replay-files.XXXXXX");
    if (mkdtemp(folder) == NULL || getrlimit(RLIMIT_NOFILE, &before) != 0)
        return -1;
    snprintf(path, sizeof(path), "%s/in", folder);
    begin(1);
    options.merge.driver = NULL; /* the real one */
    snprintf(config.list[0], sizeof(config.list[0]), "%s", path);
    config.list_count = 1;
    return mkdir(path, 0700);
}

static int remove_one(const char *path, const struct stat *about, int flag, struct FTW *at)
{
    (void)about, (void)flag, (void)at;
    return remove(path);
}

static int remove_folder(void **unused)
{
    (void)unused;
    return setrlimit(RLIMIT_NOFILE, &before) != 0 || nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0;
}

static void replays_all_of(unsigned count)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;

    replay(&state, &result);
    assert_int_equal(result.feeds, count);
    assert_int_equal(result.accepted, LINES * count);
    assert_int_equal(result.first_ms, BEGIN_MS);
    assert_int_equal(result.last_ms, BEGIN_MS + count - 1 + (LINES - 1) * DN_SOURCE_PARTITIONS_MAX);
    dn_replay_state_close(&state);
}

static void a_folder_of_many_files_is_read(void **unused)
{
    (void)unused;
    write_files(FEW_FILES);
    replays_all_of(FEW_FILES);
}

/* Fewer files may be open as the process starts than are needed; it may have more. */
static void as_many_as_a_source_may_have(void **unused)
{
    struct rlimit low = {.rlim_cur = LOW_FILES, .rlim_max = before.rlim_max};

    (void)unused;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    write_files(DN_SOURCE_PARTITIONS_MAX);
    replays_all_of(DN_SOURCE_PARTITIONS_MAX);
}

static enum dn_code fails(struct dn_error *err)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;

    if (dn_replay_state_open(&state, SHARDS, err) != DN_OK)
        return DN_INTERNAL;
    enum dn_code code = dn_replay_source(&options, &state, &result, err);
    dn_replay_state_close(&state);
    return code;
}

/* In a process of its own: a hard limit is not got back. */
static void too_few_may_be_open(void **unused)
{
    (void)unused;
    write_files(FEW_FILES);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit hard = {.rlim_cur = LOW_FILES, .rlim_max = LOW_FILES};
        struct dn_error err = {0};
        bool blamed = setrlimit(RLIMIT_NOFILE, &hard) == 0 && fails(&err) == DN_PRECONDITION &&
                      strstr(err.message, "its 300 files are open at the same time, and this process may "
                                          "open 100 files where 364 are needed") != NULL;
        _exit(blamed ? BLAMED : UNBLAMED);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), BLAMED);
}

static void more_files_than_that_are_refused(void **unused)
{
    struct dn_error err = {0};
    char path[64];

    (void)unused;
    options.merge.patience_ms = 50;
    write_files(DN_SOURCE_PARTITIONS_MAX + 1);
    assert_int_equal(fails(&err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "more than 1024 files"));
    /* also when it is a file named by itself for which there is no room */
    snprintf(path, sizeof(path), "%s/in/00001.jsonl", folder);
    assert_int_equal(remove(path), 0);
    snprintf(config.list[1], sizeof(config.list[1]), "%s/one.jsonl", folder);
    write_lines(config.list[1], 0);
    config.list_count = 2;
    err.message[0] = '\0';
    assert_int_equal(fails(&err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "one.jsonl: more than 1024 files"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_folder_of_many_files_is_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(as_many_as_a_source_may_have, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(too_few_may_be_open, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(more_files_than_that_are_refused, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
