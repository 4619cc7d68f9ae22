/* For the tests of the file source: a folder of its own, files in it, and a driver that is turned by hand. */
#ifndef DN_TESTS_UNIT_INGEST_SOURCE_FILE_HELP_H
#define DN_TESTS_UNIT_INGEST_SOURCE_FILE_HELP_H

#include "base/clock.h"
#include "ingest/source.h"
#include "tests/unit/base/cmocka_all.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define PATIENCE_US 30000000u /* before a test gives up */
#define TURN_US 2000

static char folder[256]; /* in which the test works */
static struct dn_source_config config;
static atomic_uint wakes;

static inline void wake(void *data)
{
    atomic_fetch_add((atomic_uint *)data, 1);
}

static char data_folder[300];
static struct dn_source_host host = {.wake = wake, .data = &wakes, .node_id = 7, .data_dir = data_folder};

static inline const char *path_of(const char *name)
{
    static char paths[8][600];
    static unsigned turn;
    char *path = paths[turn++ % 8];

    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

static inline void empty_folder(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char name[PATH_MAX + 300];

        snprintf(name, sizeof(name), "%.*s/%s", PATH_MAX, path, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && unlink(name) != 0) {
            empty_folder(name);
            assert_int_equal(rmdir(name), 0);
        }
    }
    closedir(dir);
}

static inline int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/dunlin_source_file.XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(data_folder, sizeof(data_folder), "%s/data", folder);
    assert_int_equal(mkdir(data_folder, 0700), 0);
    memset(&config, 0, sizeof(config));
    strcpy(config.name, "clicks");
    config.kind = DN_SOURCE_FILE;
    config.message_bytes = 1 << 20;
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    empty_folder(folder);
    assert_int_equal(rmdir(folder), 0);
    return 0;
}

static inline void add_path(const char *path)
{
    snprintf(config.list[config.list_count++], DN_SOURCE_TEXT_MAX, "%s", path);
}

static inline void write_file(const char *path, const void *bytes, size_t length, int flags)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), (ssize_t)length);
    close(fd);
}

static inline void put_text(const char *name, const char *text)
{
    write_file(path_of(name), text, strlen(text), O_TRUNC);
}

static inline void append_text(const char *name, const char *text)
{
    write_file(path_of(name), text, strlen(text), O_APPEND);
}

static inline void put_gzip(const char *name, const void *bytes, size_t length, const char *mode)
{
    gzFile file = gzopen(path_of(name), mode);

    assert_non_null(file);
    if (length > 0) {
        assert_int_equal(gzwrite(file, bytes, (unsigned)length), (int)length);
    }
    assert_int_equal(gzclose(file), Z_OK);
}

static inline void *open_source(void)
{
    struct dn_error err = {0};
    void *self = NULL;

    if (dn_source_file.open(&config, &host, &self, &err) != DN_OK) {
        fail_msg("open: %s", err.message);
    }
    return self;
}

static inline void start(void *self, size_t stream, int64_t offset)
{
    struct dn_error err = {0};

    if (dn_source_file.start(self, stream, 0, offset, &err) != DN_OK) {
        fail_msg("start: %s", err.message);
    }
}

static inline struct dn_partition_status status_of(void *self, size_t stream)
{
    struct dn_partition_status status;

    dn_source_file.status(self, stream, 0, &status);
    return status;
}

/* Reads once; waits a little where nothing came. */
static inline size_t turn(void *self, size_t stream, struct dn_message *messages, size_t max)
{
    size_t count = dn_source_file.read(self, stream, 0, messages, max);

    if (count == 0) {
        usleep(TURN_US);
    }
    return count;
}

/* Everything that comes until an `end`: lines, one after the other with '|' behind each, and the offsets of
 * all are checked to rise. Returns the end's offset; -1: GAP or FAILED. */
static inline int64_t read_all(void *self, size_t stream, char *text, size_t room)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    struct dn_message messages[7];
    int64_t next = -1;
    size_t used = 0;

    text[0] = '\0';
    while (dn_monotonic_us() < until) {
        size_t count = turn(self, stream, messages, 7);
        struct dn_partition_status status = status_of(self, stream);

        for (size_t i = 0; i < count; i++) {
            assert_true(messages[i].offset >= next);
            assert_true(messages[i].next_offset >= messages[i].offset);
            assert_int_equal(messages[i].time_ms, -1);
            assert_null(messages[i].key);
            next = messages[i].next_offset;
            if (messages[i].end) {
                assert_int_equal(i + 1, count);
                return next;
            }
            if (messages[i].too_large) {
                used += (size_t)snprintf(text + used, room - used, "<%zu>|", messages[i].length);
            } else {
                used += (size_t)snprintf(text + used, room - used, "%.*s|", (int)messages[i].length,
                                         (const char *)messages[i].bytes);
            }
            assert_true(used < room);
        }
        dn_source_file.release(self, stream, 0);
        if (status.state == DN_PARTITION_GAP || status.state == DN_PARTITION_FAILED) {
            return -1;
        }
    }
    fail_msg("no end came: %s", status_of(self, stream).error);
    return -1;
}

/* Reads clicks.jsonl from `offset`; checks the lines, and where the end is. */
static inline void expect_lines(const char *name, int64_t offset, const char *lines, int64_t end)
{
    char text[4096];
    void *self;

    config.list_count = 0;
    add_path(path_of(name));
    self = open_source();
    start(self, 0, offset);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), end);
    assert_string_equal(text, lines);
    if (end >= 0) {
        assert_int_equal(status_of(self, 0).state, DN_PARTITION_AT_END);
        assert_true(status_of(self, 0).heard_ms > 0);
        assert_int_equal(status_of(self, 0).begin_offset, 0);
        assert_int_equal(status_of(self, 0).end_offset, end);
        assert_string_equal(status_of(self, 0).error, "");
    }
    dn_source_file.close(self);
}

static inline void expect_state(const char *name, int64_t offset, enum dn_partition_state state,
                                const char *error)
{
    char text[4096];
    void *self;

    config.list_count = 0;
    add_path(path_of(name));
    self = open_source();
    start(self, 0, offset);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), -1);
    assert_int_equal(status_of(self, 0).state, state);
    if (strstr(status_of(self, 0).error, error) == NULL) {
        fail_msg("'%s' does not say '%s'", status_of(self, 0).error, error);
    }
    dn_source_file.close(self);
}

static inline size_t wait_for_streams(void *self, struct dn_stream_info *infos, size_t max, size_t wanted)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    size_t count;

    while ((count = dn_source_file.streams(self, infos, max)) < wanted && dn_monotonic_us() < until) {
        usleep(TURN_US);
    }
    return count;
}

static inline void expect_open_fails(const char *text)
{
    struct dn_error err = {0};
    void *self = NULL;

    assert_int_equal(dn_source_file.open(&config, &host, &self, &err), DN_INVALID);
    if (strstr(err.message, text) == NULL || strstr(err.message, "'clicks'") == NULL) {
        fail_msg("'%s' does not say '%s'", err.message, text);
    }
}

#endif
