/* Followed files: growth, unfinished lines, every way of rotation, restarts in between, and copies. */
#include "ingest/reader.h"
#include "ingest/source_file_table.h"
#include "tests/unit/ingest/source_file_help.h"

#define STREAMS 16

static char text[1 << 16];

static void *open_followed(void)
{
    config.follow = true;
    config.list_count = 0;
    add_path(path_of("app.log"));
    return open_source();
}

static int64_t read_stream(void *self, size_t stream)
{
    return read_all(self, stream, text, sizeof(text));
}

static size_t streams(void *self, size_t wanted)
{
    struct dn_stream_info infos[STREAMS];
    size_t count = wait_for_streams(self, infos, STREAMS, wanted);

    for (size_t i = 0; i < count; i++) {
        assert_true(infos[i].local);
        assert_int_equal(infos[i].partition_count, 1);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(infos[i].stream, infos[j].stream);
        }
    }
    return count;
}

static void name_of(void *self, size_t stream, char ret[DN_SOURCE_MAX + 1])
{
    struct dn_stream_info infos[STREAMS];

    assert_true(dn_source_file.streams(self, infos, STREAMS) > stream);
    memcpy(ret, infos[stream].stream, DN_SOURCE_MAX + 1);
}

/* The number of the stream with that name; after a restart the order may be another. */
static size_t stream_named(void *self, const char *name)
{
    struct dn_stream_info infos[STREAMS];
    size_t count = dn_source_file.streams(self, infos, STREAMS);

    for (size_t i = 0; i < count; i++) {
        if (strcmp(infos[i].stream, name) == 0) {
            return i;
        }
    }
    fail_msg("no stream '%s' among %zu", name, count);
    return 0;
}

static void move(const char *from, const char *to)
{
    assert_int_equal(rename(path_of(from), path_of(to)), 0);
}

/* As gzip does it: another file, and the plain one is gone. */
static void compress_file(const char *from, const char *to)
{
    static char bytes[1 << 16];
    int fd = open(path_of(from), O_RDONLY);
    ssize_t length = read(fd, bytes, sizeof(bytes));

    assert_true(length >= 0);
    close(fd);
    put_gzip(to, bytes, (size_t)length, "wb");
    assert_int_equal(unlink(path_of(from)), 0);
}

static void grows_line_by_line(void **state)
{
    struct dn_message message;
    void *self;

    (void)state;
    self = open_followed(); /* before there is a file */
    assert_int_equal(streams(self, 0), 0);
    assert_true(dn_source_file.trouble(self, text) > 0);
    assert_non_null(strstr(text, "No such file"));
    put_text("app.log", "{1");
    usleep(200000);
    assert_int_equal(streams(self, 0), 0); /* without a whole line nobody knows which file it is */
    append_text("app.log", "}\n{2}\n{3");
    assert_int_equal(streams(self, 1), 1);
    start(self, 0, DN_STREAM_OFFSET_UNSET);
    assert_int_equal(read_stream(self, 0), 8);
    assert_string_equal(text, "{1}|{2}|");
    assert_int_equal(dn_source_file.trouble(self, text), 0);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_AT_END);
    append_text("app.log", "3");
    assert_int_equal(dn_source_file.read(self, 0, 0, &message, 1), 0);
    append_text("app.log", "}\n");
    assert_int_equal(read_stream(self, 0), 13);
    assert_string_equal(text, "{33}|");
    dn_source_file.close(self);
    self = open_followed();
    start(self, 0, 8);
    assert_int_equal(read_stream(self, 0), 13);
    assert_string_equal(text, "{33}|");
    dn_source_file.close(self);
}

static void renamed_and_made_anew(void **state)
{
    char first[DN_SOURCE_MAX + 1], second[DN_SOURCE_MAX + 1];
    void *self;

    (void)state;
    put_text("app.log", "{1}\n{2}\n");
    self = open_followed();
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 8);
    name_of(self, 0, first);
    move("app.log", "app.log.1");
    append_text("app.log.1", "{3}\n"); /* its writer has not noticed yet */
    put_text("app.log", "{4}\n");
    assert_int_equal(read_stream(self, 0), 12);
    assert_string_equal(text, "{3}|");
    assert_int_equal(streams(self, 2), 2);
    name_of(self, 1, second);
    start(self, 1, DN_STREAM_OFFSET_UNSET);
    assert_int_equal(read_stream(self, 1), 4);
    assert_string_equal(text, "{4}|");
    dn_source_file.close(self);

    append_text("app.log.1", "{3b}\n");
    append_text("app.log", "{5}\n");
    self = open_followed(); /* both are known still */
    assert_int_equal(streams(self, 2), 2);
    start(self, stream_named(self, first), 12);
    assert_int_equal(read_stream(self, stream_named(self, first)), 17);
    assert_string_equal(text, "{3b}|");
    start(self, stream_named(self, second), 4);
    assert_int_equal(read_stream(self, stream_named(self, second)), 8);
    assert_string_equal(text, "{5}|");
    dn_source_file.close(self);
}

static void expect_dead_letter(const char *stream, int64_t offset, const char *bytes)
{
    struct dn_message message;
    struct dn_error err = {0};
    void *fetcher = NULL;

    assert_int_equal(dn_source_file.fetcher_open(&config, &host, &fetcher, &err), DN_OK);
    if (dn_source_file.fetch(fetcher, stream, 0, offset, 1000, &message, &err) != DN_OK) {
        fail_msg("fetch: %s", err.message);
    }
    assert_int_equal(message.length, strlen(bytes));
    assert_memory_equal(message.bytes, bytes, message.length);
    /* What another node follows is not said to be gone. */
    assert_int_equal(dn_source_file.fetch(fetcher, "clicks/other@9.0a1b", 0, 0, 1000, &message, &err),
                     DN_UNIMPLEMENTED);
    assert_non_null(strstr(err.message, "another node's"));
    assert_int_equal(dn_source_file.fetch(fetcher, "clicks/other@7.0a1b", 0, 0, 1000, &message, &err),
                     DN_NOT_FOUND);
    assert_int_equal(dn_stream_node(stream), host.node_id);
    move("app.log", "away"); /* a folder that is not mounted yet: nothing is said to be gone */
    assert_int_equal(dn_source_file.fetch(fetcher, "clicks/other@7.0a1b", 0, 0, 1000, &message, &err),
                     DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "nothing is read from it until it is there"));
    move("away", "app.log");
    dn_source_file.fetcher_close(fetcher);
}

/* Rotated n times while the node was down; `gzip`: and compressed. */
static void while_it_was_down(bool gzip)
{
    char first[DN_SOURCE_MAX + 1];
    void *self;

    put_text("app.log", "{1}\n{2}\n");
    put_text("app.log.1", "{history}\n");
    put_gzip("app.log.2.gz", "{older}\n", 8, "wb");
    self = open_followed();
    assert_int_equal(streams(self, 1), 1); /* what lay there is not read */
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 8);
    name_of(self, 0, first);
    dn_source_file.close(self);

    append_text("app.log", "{3}\n");
    move("app.log.2.gz", "app.log.4.gz");
    compress_file("app.log.1", "app.log.3.gz"); /* history stays history when it is compressed */
    move("app.log", "app.log.2");
    put_text("app.log.1", "{4}\n{5}\n"); /* came and went while nobody looked */
    put_text("app.log", "{6}\n");
    if (gzip) {
        compress_file("app.log.2", "app.log.2.gz");
        compress_file("app.log.1", "app.log.1.gz");
    }
    self = open_followed();
    assert_int_equal(streams(self, 3), 3);
    for (size_t i = 0; i < 3; i++) {
        char name[DN_SOURCE_MAX + 1];

        name_of(self, i, name);
        start(self, i, strcmp(name, first) == 0 ? 4 : 0); /* {2} was not replicated */
        assert_true(read_stream(self, i) > 0);
        if (strcmp(name, first) == 0) {
            assert_string_equal(text, "{2}|{3}|");
        } else if (text[1] == '4') {
            assert_string_equal(text, "{4}|{5}|");
        } else {
            assert_string_equal(text, "{6}|");
        }
    }
    usleep(1200000); /* another scan or two find nothing new */
    assert_int_equal(streams(self, 3), 3);
    expect_dead_letter(first, 8, "{3}");
    expect_dead_letter(first, 4, "{2}");
    dn_source_file.close(self);
    expect_dead_letter(first, 4, "{2}");
}

static void renamed_while_it_was_down(void **state)
{
    (void)state;
    while_it_was_down(false);
}

static void compressed_while_it_was_down(void **state)
{
    (void)state;
    while_it_was_down(true);
}

static void copied_and_truncated(void **state)
{
    void *self;

    (void)state;
    put_text("app.log", "{1}\n{2}\n");
    self = open_followed();
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 8);
    put_text("app.log.1", "{1}\n{2}\n{3}\n"); /* the copy has a line that was not read yet */
    usleep(1200000); /* a scan between the two steps takes the copy for nothing new */
    assert_int_equal(streams(self, 1), 1);
    assert_int_equal(truncate(path_of("app.log"), 0), 0);
    append_text("app.log", "{4}\n{5}\n{6}\n{7}\n"); /* already longer */
    assert_int_equal(read_stream(self, 0), 12);
    assert_string_equal(text, "{3}|");
    assert_int_equal(streams(self, 2), 2);
    start(self, 1, 0);
    assert_int_equal(read_stream(self, 1), 16);
    assert_string_equal(text, "{4}|{5}|{6}|{7}|");
    usleep(1200000);
    assert_int_equal(streams(self, 2), 2);
    dn_source_file.close(self);
}

static void truncated_without_a_copy(void **state)
{
    void *self;

    (void)state;
    put_text("app.log", "{1}\n{2}\n");
    self = open_followed();
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 8);
    put_text("app.log", "{3}\n"); /* another first line: another file; all of the old one was read */
    assert_int_equal(streams(self, 2), 2);
    start(self, 1, 0);
    assert_int_equal(read_stream(self, 1), 4);
    assert_string_equal(text, "{3}|");
    while (status_of(self, 0).state != DN_PARTITION_AT_END || status_of(self, 0).end_offset != 8) {
        struct dn_message message;

        turn(self, 0, &message, 1);
        assert_int_not_equal(status_of(self, 0).state, DN_PARTITION_GAP);
    }

    put_text("app.log", "{3}\n{4}\n");
    assert_int_equal(read_stream(self, 1), 8);
    put_text("app.log", "{3}\n"); /* the same first line, but shorter */
    assert_int_equal(read_stream(self, 1), -1);
    assert_int_equal(status_of(self, 1).state, DN_PARTITION_GAP);
    assert_non_null(strstr(status_of(self, 1).error, "it ends at byte 4"));
    dn_source_file.close(self);
}

static void gone_before_it_was_read(void **state)
{
    char first[DN_SOURCE_MAX + 1];
    void *self;

    (void)state;
    put_text("app.log", "{1}\n{2}\n");
    self = open_followed();
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 8);
    name_of(self, 0, first);
    dn_source_file.close(self);
    put_text("b", "{3}\n");
    move("b", "app.log");
    self = open_followed();
    assert_int_equal(streams(self, 2), 2);
    start(self, stream_named(self, first), 4);
    assert_int_equal(read_stream(self, stream_named(self, first)), -1);
    assert_int_equal(status_of(self, stream_named(self, first)).state, DN_PARTITION_GAP);
    assert_non_null(strstr(status_of(self, stream_named(self, first)).error, "gone before"));
    dn_source_file.close(self);
}

/* Read to the end after a rotation, and all of it replicated: a restart does not look for it again. */
static void finished_and_forgotten(void **state)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    char first[DN_SOURCE_MAX + 1];
    struct dn_message message;
    size_t count = 0;
    void *self;

    (void)state;
    put_text("app.log", "{1}\n{2}\n{3");
    self = open_followed();
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 8);
    name_of(self, 0, first);
    move("app.log", "app.log.1");
    put_text("app.log", "{4}\n");
    assert_int_equal(streams(self, 2), 2);
    while (count == 0 && dn_monotonic_us() < until) { /* the unfinished line, some seconds later */
        count = turn(self, 0, &message, 1);
    }
    assert_int_equal(count, 1);
    assert_int_equal(message.offset, 8);
    assert_int_equal(message.next_offset, 10);
    assert_memory_equal(message.bytes, "{3", 2);
    assert_int_equal(read_stream(self, 0), 10);
    dn_source_file.read(self, 0, 0, &message, 1);
    dn_source_file.mirror(self, 0, 0, 8);
    usleep(1500000);
    dn_source_file.close(self);

    self = open_followed(); /* was not replicated yet */
    assert_int_equal(streams(self, 2), 2);
    start(self, stream_named(self, first), 10);
    assert_int_equal(read_stream(self, stream_named(self, first)), 10);
    assert_string_equal(text, "");
    usleep(1500000);
    dn_source_file.close(self);

    self = open_followed();
    assert_int_equal(streams(self, 1), 1);
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 4);
    assert_string_equal(text, "{4}|");
    dn_source_file.close(self);
}

/* Files that all begin with the same line are told apart by their inodes, as long as they are only renamed.
 */
static void the_same_first_line(void **state)
{
    void *self;

    (void)state;
    put_text("app.log", "{head}\n{1}\n");
    self = open_followed();
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 11);
    move("app.log", "app.log.1");
    put_text("app.log", "{head}\n{2}\n");
    assert_int_equal(streams(self, 2), 2);
    start(self, 1, 0);
    assert_int_equal(read_stream(self, 1), 11);
    assert_string_equal(text, "{head}|{2}|");
    dn_source_file.close(self);
    move("app.log.1", "app.log.3");
    move("app.log", "app.log.2");
    put_text("app.log.1", "{head}\n{3}\n");
    put_text("app.log", "{head}\n{4}\n");
    self = open_followed();
    assert_int_equal(streams(self, 4), 4);
    dn_source_file.close(self);
}

/* The rest of a line comes after the file was taken as finished: said, not read as a line of its own. */
static void a_line_finished_too_late(void **state)
{
    struct dn_message message;
    void *self;

    (void)state;
    put_text("app.log", "{1}\n{2");
    self = open_followed();
    start(self, 0, 0);
    assert_int_equal(read_stream(self, 0), 4);
    move("app.log", "app.log.1");
    while (dn_source_file.read(self, 0, 0, &message, 1) == 0) {
        usleep(TURN_US);
    }
    assert_memory_equal(message.bytes, "{2", 2);
    append_text("app.log.1", "}\n{3}\n");
    assert_int_equal(read_stream(self, 0), -1);
    assert_string_equal(text, "");
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_FAILED);
    assert_non_null(strstr(status_of(self, 0).error, "it has grown after its last line"));
    dn_source_file.close(self);
}

static void what_cannot_be_followed(void **state)
{
    void *self;

    (void)state;
    config.follow = true;
    add_path(folder);
    expect_open_fails("is a folder");
    config.list_count = 0;
    add_path("-");
    expect_open_fails("cannot be followed");
    config.list_count = 0;
    add_path("x.gz");
    expect_open_fails("is compressed");
    put_gzip("app.log", "{1}\n", 4, "wb");
    config.list_count = 0;
    add_path(path_of("app.log"));
    expect_open_fails("is compressed");
    unlink(path_of("app.log"));
    self = open_followed();
    put_gzip("app.log", "{1}\n", 4, "wb"); /* later */
    while (dn_source_file.trouble(self, text) == 0 || strstr(text, "compressed") == NULL) {
        usleep(TURN_US);
    }
    assert_int_equal(streams(self, 0), 0);
    dn_source_file.close(self);
    write_file(path_of("data/follow-clicks"), "nonsense\n", 9, O_TRUNC);
    unlink(path_of("app.log"));
    {
        struct dn_error err;

        assert_int_equal(dn_source_file.open(&config, &host, &self, &err), DN_CORRUPT);
        assert_non_null(strstr(err.message, "delete it"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(grows_line_by_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(renamed_and_made_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(renamed_while_it_was_down, set_up, tear_down),
        cmocka_unit_test_setup_teardown(compressed_while_it_was_down, set_up, tear_down),
        cmocka_unit_test_setup_teardown(copied_and_truncated, set_up, tear_down),
        cmocka_unit_test_setup_teardown(truncated_without_a_copy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gone_before_it_was_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(finished_and_forgotten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_same_first_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_line_finished_too_late, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_followed, set_up, tear_down),
    };
    dn_file_quiet_ms = 500;
    return cmocka_run_group_tests_name("ingest.source_file_follow", tests, NULL, NULL);
}
