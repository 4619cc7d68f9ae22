/* The file that dead letters go to: durable, whole lines, rotated, and shared with care. */
#include "tests/unit/base/cmocka_all.h"

#include "ingest/deadletter.h"
#include "ingest/deadletter_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- flushes that are counted, and fail when they are told to ----------------------------------------- */

static unsigned data_flushes, folder_flushes, data_failures, folder_failures;

int fdatasync(int fd)
{
    if (data_failures > 0) {
        data_failures--;
        errno = EIO;
        return -1;
    }
    data_flushes++;
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    if (folder_failures > 0) {
        folder_failures--;
        errno = EIO;
        return -1;
    }
    folder_flushes++;
    return (int)syscall(SYS_fsync, fd);
}

static uint64_t free_bytes = UINT64_MAX; /* what the disk is said to have; this: what it has */

int fstatvfs(int fd, struct statvfs *ret)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rv = statvfs(path, ret);
    if (rv == 0 && free_bytes != UINT64_MAX) {
        ret->f_frsize = 4096;
        ret->f_bavail = free_bytes / 4096;
    }
    return rv;
}

static const char *rotates; /* somebody else does so with this file before our next lock */

int flock(int fd, int operation)
{
    char to[160];
    if (rotates != NULL) {
        snprintf(to, sizeof to, "%s.1", rotates);
        assert_int_equal(rename(rotates, to), 0);
        close(open(rotates, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        rotates = NULL;
    }
    return (int)syscall(SYS_flock, fd, operation);
}

/* ---- a folder for each test --------------------------------------------------------------------------- */

struct place {
    char folder[64];
    char path[128];
    struct dn_dead_writer *writer;
    struct dn_error err;
};

static int open_place(void **state)
{
    struct place *place = calloc(1, sizeof *place);
    assert_non_null(place);
    strcpy(place->folder, "dead_writer.XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    snprintf(place->path, sizeof place->path, "%s/one/two/dead.jsonl", place->folder);
    data_flushes = folder_flushes = data_failures = folder_failures = 0;
    if (dn_dead_writer_open(place->path, 100, &place->writer, &place->err) != DN_OK)
        fail_msg("%s", place->err.message);
    *state = place;
    return 0;
}

static int close_place(void **state)
{
    struct place *place = *state;
    char command[128];
    dn_dead_writer_close(place->writer);
    snprintf(command, sizeof command, "rm -rf '%s'", place->folder);
    free(place);
    return system(command);
}

static void append(struct place *place, const char *lines)
{
    if (dn_dead_writer_append(place->writer, lines, strlen(lines), &place->err) != DN_OK)
        fail_msg("%s", place->err.message);
}

static void appended_not(struct place *place, const char *lines, enum dn_code code, const char *said)
{
    assert_int_equal(dn_dead_writer_append(place->writer, lines, strlen(lines), &place->err), code);
    if (strstr(place->err.message, said) == NULL)
        fail_msg("'%s' does not say '%s'", place->err.message, said);
}

static char *numbered(const struct place *place, int number, char ret[160])
{
    snprintf(ret, 160, number == 0 ? "%s" : "%s.%d", place->path, number);
    return ret;
}

/* number 0: the file itself. NULL for content: it is not there. */
static void expect(const struct place *place, int number, const char *content)
{
    char path[160], text[4096];
    FILE *file = fopen(numbered(place, number, path), "r");

    if (content == NULL) {
        assert_null(file);
        return;
    }
    if (file == NULL)
        fail_msg("%s is not there", path);
    size_t length = fread(text, 1, sizeof text - 1, file);
    text[length] = '\0';
    fclose(file);
    assert_string_equal(text, content);
}

static void put(const struct place *place, int number, const char *content)
{
    char path[160];
    FILE *file = fopen(numbered(place, number, path), "w");
    assert_non_null(file);
    assert_true(fputs(content, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* ---- tests -------------------------------------------------------------------------------------------- */

/* The folders are made for us alone; a new file's name is flushed once, its bytes each time. */
static void appending(void **state)
{
    struct place *place = *state;
    char folder[128];
    struct stat info;

    assert_int_equal(folder_flushes, 2); /* one/, two/ */
    append(place, "a\n");
    assert_int_equal(folder_flushes, 3);
    append(place, "b\nc\n");
    append(place, "d\n");
    assert_int_equal(folder_flushes, 3);
    assert_int_equal(data_flushes, 3);
    expect(place, 0, "a\nb\nc\nd\n");
    assert_int_equal(stat(place->path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    snprintf(folder, sizeof folder, "%s/one", place->folder);
    assert_int_equal(stat(folder, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
}

/* A crash left a line without its end: it is ended, the new ones are whole. */
static void torn_tail(void **state)
{
    struct place *place = *state;
    put(place, 0, "{}\n{\"tor");
    append(place, "{1}\n");
    append(place, "{2}\n");
    expect(place, 0, "{}\n{\"tor\n{1}\n{2}\n");
}

/* A flush fails: the bytes are taken back, and are written (not only flushed) again. */
static void flush_fails(void **state)
{
    struct place *place = *state;
    append(place, "a\n");
    data_failures = 1;
    appended_not(place, "b\n", DN_IO, "flush");
    expect(place, 0, "a\n");
    append(place, "b\n");
    expect(place, 0, "a\nb\n");
}

/* The folder's flush fails: a file that has no durable name is not durable; tried until it has. */
static void name_not_durable(void **state)
{
    struct place *place = *state;
    folder_failures = 2;
    appended_not(place, "a\n", DN_IO, "flush the folder");
    appended_not(place, "a\n", DN_IO, "flush the folder");
    append(place, "a\n");
    assert_int_equal(folder_flushes, 3);
}

/* No room in the middle of a line: what was written of it is taken back. */
static void no_room(void **state)
{
    struct place *place = *state;
    struct rlimit old, low;

    append(place, "first\n");
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 10;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    enum dn_code code = dn_dead_writer_append(place->writer, "second line\n", 12, &place->err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(code, DN_IO);
    assert_non_null(strstr(place->err.message, "write to"));
    expect(place, 0, "first\n");
    append(place, "second line\n");
    expect(place, 0, "first\nsecond line\n");
}

/* The journal's disk is not filled up to the last byte. */
static void nearly_full(void **state)
{
    struct place *place = *state;
    append(place, "a\n");
    free_bytes = DN_DEAD_FREE_MIN;
    appended_not(place, "b\n", DN_NO_SPACE, "128 MiB are free");
    expect(place, 0, "a\n");
    free_bytes = DN_DEAD_FREE_MIN + 4096;
    append(place, "b\n");
    free_bytes = UINT64_MAX;
    expect(place, 0, "a\nb\n");
}

/* A device is no file that letters can be kept in: refused before anything is written. */
static void device(void **state)
{
    struct place *place = *state;
    struct dn_dead_writer *writer;

    if (access("/dev/full", W_OK) != 0)
        skip();
    assert_int_equal(dn_dead_writer_open("/dev/full", 100, &writer, &place->err), DN_OK);
    assert_int_equal(dn_dead_writer_append(writer, "a\n", 2, &place->err), DN_INVALID);
    assert_non_null(strstr(place->err.message, "no regular file"));
    dn_dead_writer_close(writer);
}

/* Too large: renamed, and those before it further on; a hole in the row is filled; nothing is dropped before
 * DN_DEAD_FILES_KEPT are there, and then the oldest. */
static void rotation(void **state)
{
    struct place *place = *state;
    char line[81], text[81];

    for (int i = 0; i < DN_DEAD_FILES_KEPT + 3; i++) {
        memset(line, 'a' + i, 79);
        line[79] = '\n';
        line[80] = '\0';
        append(place, line);
    }
    assert_int_equal(dn_dead_writer_dropped(place->writer), 2);
    for (int number = 0; number <= DN_DEAD_FILES_KEPT; number++) {
        memset(text, 'a' + DN_DEAD_FILES_KEPT + 2 - number, 79);
        text[79] = '\n';
        text[80] = '\0';
        expect(place, number, text);
    }
    expect(place, DN_DEAD_FILES_KEPT + 1, NULL);
    char path[160];
    assert_int_equal(unlink(numbered(place, 3, path)), 0); /* somebody took it away */
    append(place, "this line is longer than the twenty bytes that are left\n");
    assert_int_equal(dn_dead_writer_dropped(place->writer), 2);
    memset(text, 'a' + DN_DEAD_FILES_KEPT + 2 - 4, 79);
    expect(place, 4, text); /* stays */
    memset(text, 'a' + DN_DEAD_FILES_KEPT + 2 - 2, 79);
    expect(place, 3, text);
    memset(text, 'a' + DN_DEAD_FILES_KEPT + 2, 79);
    expect(place, 1, text);
}

/* A batch that is larger than a file may be has a file of its own. */
static void large_batch(void **state)
{
    struct place *place = *state;
    char line[301];
    memset(line, 'x', 299);
    strcpy(line + 299, "\n");
    append(place, line);
    expect(place, 1, NULL);
    append(place, "a\n");
    expect(place, 1, line);
    expect(place, 0, "a\n");
}

/* After a rotation the new file's name is made durable too. */
static void rotation_is_durable(void **state)
{
    struct place *place = *state;
    put(place, 0,
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123\n");
    append(place, "\n");
    unsigned before = folder_flushes;
    append(place, "abcdefghijkl\n");
    assert_int_equal(folder_flushes, before + 2); /* the renames, and the new file */
    expect(place, 0, "abcdefghijkl\n");
}

/* An operator moves the file away, or the whole folder: the next letters make it anew. */
static void moved_away(void **state)
{
    struct place *place = *state;
    char other[160], folder[128], folder2[128];

    append(place, "a\n");
    snprintf(other, sizeof other, "%s.old", place->path);
    assert_int_equal(rename(place->path, other), 0);
    unsigned before = folder_flushes;
    append(place, "b\n");
    expect(place, 0, "b\n");
    assert_int_equal(folder_flushes, before + 1);
    snprintf(folder, sizeof folder, "%s/one", place->folder);
    snprintf(folder2, sizeof folder2, "%s/three", place->folder);
    assert_int_equal(rename(folder, folder2), 0);
    append(place, "c\n");
    expect(place, 0, "c\n");
}

/* Another process is in the middle of a write: not now. */
static void locked(void **state)
{
    struct place *place = *state;
    append(place, "a\n");
    int fd = open(place->path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    appended_not(place, "b\n", DN_UNAVAILABLE, "another process");
    close(fd);
    append(place, "b\n");
    expect(place, 0, "a\nb\n");
}

/* Another process rotates between our opening and our lock: the bytes go to the new file. */
static void rotated_meanwhile(void **state)
{
    struct place *place = *state;
    append(place, "a\n");
    rotates = place->path;
    append(place, "b\n");
    expect(place, 0, "b\n");
    expect(place, 1, "a\n");
}

/* Two nodes of one machine with the same path: no line is lost over rotations. */
static void shared(void **state)
{
    struct place *place = *state;
    struct dn_dead_writer *other;
    struct dn_error err;
    char path[160], line[64];
    unsigned lines = 0;

    assert_int_equal(dn_dead_writer_open(place->path, 100, &other, &err), DN_OK);
    assert_string_equal(dn_dead_writer_path(other), dn_dead_writer_path(place->writer));
    for (unsigned i = 0; i < 40; i++) {
        snprintf(line, sizeof line, "line %02u with some bytes\n", i);
        assert_int_equal(dn_dead_writer_append(i % 3 == 0 ? other : place->writer, line, strlen(line), &err),
                         DN_OK);
    }
    /* 4 lines a file: 9 files and the last */
    for (int number = DN_DEAD_FILES_KEPT; number >= 0; number--) {
        FILE *file = fopen(numbered(place, number, path), "r");
        assert_non_null(file);
        while (fgets(line, sizeof line, file) != NULL) {
            char want[64];
            snprintf(want, sizeof want, "line %02u with some bytes\n", lines + 4);
            assert_string_equal(line, want);
            lines++;
        }
        fclose(file);
    }
    assert_int_equal(lines, 36); /* the first 4 were dropped with the tenth file */
    assert_int_equal(dn_dead_writer_dropped(other) + dn_dead_writer_dropped(place->writer), 1);
    dn_dead_writer_close(other);
}

/* The same file by other names is the same path; what cannot be a file is refused. */
static void paths(void **state)
{
    struct place *place = *state;
    struct dn_dead_writer *other;
    struct dn_error err;
    char path[256], link[128];

    snprintf(link, sizeof link, "%s/link", place->folder);
    assert_int_equal(symlink("one/two", link), 0);
    snprintf(path, sizeof path, "%s/link/../two/./dead.jsonl", place->folder);
    assert_int_equal(dn_dead_writer_open(path, 100, &other, &err), DN_OK);
    assert_string_equal(dn_dead_writer_path(other), dn_dead_writer_path(place->writer));
    dn_dead_writer_close(other);
    static const char *const bad[] = {"", "x/", "x/.", "..", "."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(dn_dead_writer_open(bad[i], 100, &other, &err), DN_INVALID);
    put(place, 0, "");
    snprintf(path, sizeof path, "%s/below", place->path);
    assert_int_equal(dn_dead_writer_open(path, 100, &other, &err), DN_IO);
    snprintf(path, sizeof path, "%s/pipe", place->folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(dn_dead_writer_open(path, 100, &other, &err), DN_OK);
    assert_int_equal(dn_dead_writer_append(other, "a\n", 2, &err), DN_INVALID); /* and does not hang */
    dn_dead_writer_close(other);
}

#define WITH_PLACE(test) cmocka_unit_test_setup_teardown(test, open_place, close_place)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_PLACE(appending),
        WITH_PLACE(torn_tail),
        WITH_PLACE(flush_fails),
        WITH_PLACE(name_not_durable),
        WITH_PLACE(no_room),
        WITH_PLACE(nearly_full),
        WITH_PLACE(device),
        WITH_PLACE(rotation),
        WITH_PLACE(large_batch),
        WITH_PLACE(rotation_is_durable),
        WITH_PLACE(moved_away),
        WITH_PLACE(locked),
        WITH_PLACE(rotated_meanwhile),
        WITH_PLACE(shared),
        WITH_PLACE(paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
