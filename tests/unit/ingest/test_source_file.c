/* Files that are not followed: lines and their offsets, gzip, protobuf, folders, names, faults, growth. */
#include "base/hash.h"
#include "tests/unit/ingest/source_file_help.h"

/* Reads clicks.jsonl from `offset`; checks the lines, and where the end is. */
static void expect_lines(const char *name, int64_t offset, const char *lines, int64_t end)
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

static void expect_state(const char *name, int64_t offset, enum dn_partition_state state, const char *error)
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

static void lines_and_offsets(void **state)
{
    struct dn_message messages[8];
    void *self;

    (void)state;
    put_text("a", "{1}\n\n{22}\r\n\n\r\n{3}\n\n");
    expect_lines("a", DN_STREAM_OFFSET_UNSET, "{1}|{22}|{3}|", 19);
    expect_lines("a", 0, "{1}|{22}|{3}|", 19);
    expect_lines("a", 4, "{22}|{3}|", 19); /* an empty line */
    expect_lines("a", 5, "{22}|{3}|", 19);
    expect_lines("a", 14, "{3}|", 19);
    expect_lines("a", 18, "", 19);
    expect_lines("a", 19, "", 19);

    self = open_source();
    start(self, 0, 0);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 3);
    assert_int_equal(messages[0].offset, 0);
    assert_int_equal(messages[0].next_offset, 5);
    assert_int_equal(messages[1].offset, 5);
    assert_int_equal(messages[1].next_offset, 14);
    assert_int_equal(messages[2].offset, 14);
    assert_int_equal(messages[2].next_offset, 19);
    dn_source_file.release(self, 0, 0);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 1);
    assert_true(messages[0].end);
    assert_int_equal(messages[0].next_offset, 19);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 0); /* told once */
    start(self, 0, 14);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 1);
    assert_int_equal(messages[0].offset, 14);
    dn_source_file.stop(self, 0, 0);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 0);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_IDLE);
    dn_source_file.close(self);
}

static void not_the_beginning_of_a_line(void **state)
{
    (void)state;
    put_text("a", "{1}\n{22}\n{3");
    expect_state("a", 1, DN_PARTITION_FAILED, "no line begins at byte 1");
    expect_state("a", 3, DN_PARTITION_FAILED, "no line begins at byte 3");
    expect_state("a", 10, DN_PARTITION_FAILED, "no line begins at byte 10");
    expect_lines("a", 11, "", 11);
    expect_state("a", 12, DN_PARTITION_GAP, "it ends at byte 11");
    expect_state("a", 1000000, DN_PARTITION_GAP, "dunlin source skip");
    put_text("a", "");
    expect_lines("a", 0, "", 0);
    expect_state("a", 1, DN_PARTITION_GAP, "it ends at byte 0");
}

static void an_unfinished_last_line(void **state)
{
    struct dn_message messages[2];
    char text[256];
    void *self;

    (void)state;
    put_text("a", "{1}\n{2}");
    expect_lines("a", 0, "{1}|{2}|", 7);

    self = open_source();
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 7);
    append_text("a", "");
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 2), 0);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_AT_END);
    append_text("a", "}\n{3}\n");
    assert_int_equal(read_all(self, 0, text, sizeof(text)), -1);
    assert_string_equal(text, "");
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_FAILED);
    assert_non_null(strstr(status_of(self, 0).error, "set follow"));
    dn_source_file.close(self);
    expect_state("a", 7, DN_PARTITION_FAILED, "set follow"); /* and after a restart too */
}

static void lines_too_long(void **state)
{
    char text[64];

    (void)state;
    config.message_bytes = 5;
    put_text("a", "12345\n123456\n12345\r\n123456\r\n1234567\n\n1\n123456789");
    expect_lines("a", 0, "12345|<6>|12345|<6>|<7>|1|<9>|", 48);
    put_text("a", "123456\r");
    expect_lines("a", 0, "<6>|", 7);
    /* longer than any buffer, and cut by one between CR and newline */
    for (size_t length = (512u << 10) - 3; length < (512u << 10) + 4; length++) {
        char *line = malloc(length + 8);

        assert_non_null(line);
        memset(line, 'x', length);
        memcpy(line + length, "\r\n{1}\n", 7);
        put_text("a", line);
        snprintf(text, sizeof(text), "<%zu>|{1}|", length);
        expect_lines("a", 0, text, (int64_t)length + 6);
        free(line);
    }
}

static void a_line_that_needs_a_larger_buffer(void **state)
{
    size_t length = 3000000;
    char *line = malloc(length + 8);
    struct dn_message messages[3];
    size_t count = 0;
    void *self;

    (void)state;
    assert_non_null(line);
    config.message_bytes = length;
    memset(line, 'x', length);
    memcpy(line + length, "\r\n{1}\n", 7);
    put_text("a", line);
    add_path(path_of("a"));
    self = open_source();
    start(self, 0, 0);
    while (count == 0) {
        count = turn(self, 0, messages, 3);
    }
    assert_int_equal(messages[0].length, length);
    assert_false(messages[0].too_large);
    assert_memory_equal(messages[0].bytes, line, length);
    dn_source_file.close(self);
    config.message_bytes = length - 1;
    expect_lines("a", 0, "<3000000>|{1}|", (int64_t)length + 6);
    free(line);
}

static void files_that_grow(void **state)
{
    struct dn_message messages[2];
    char text[256];
    unsigned before;
    void *self;

    (void)state;
    put_text("a", "{1}\n");
    add_path(path_of("a"));
    self = open_source();
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 4);
    assert_string_equal(text, "{1}|");
    before = atomic_load(&wakes);
    append_text("a", "\n{2}\n");
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 9);
    assert_string_equal(text, "{2}|");
    while (atomic_load(&wakes) == before) { /* the test's time limit is the assertion */
        usleep(TURN_US);
    }
    put_text("a", "{7}\n"); /* shorter */
    assert_int_equal(read_all(self, 0, text, sizeof(text)), -1);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_GAP);
    assert_non_null(strstr(status_of(self, 0).error, "truncated or replaced"));
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 2), 0);

    put_text("a", "{1}\n{2}\n");
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 8);
    put_text("a", "{1}\n{3}\n{4}\n"); /* longer, but another */
    assert_int_equal(read_all(self, 0, text, sizeof(text)), -1);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_GAP);
    assert_non_null(strstr(status_of(self, 0).error, "other bytes"));
    dn_source_file.close(self);
}

static void files_that_are_replaced(void **state)
{
    char text[256];
    void *self;

    (void)state;
    put_text("a", "{1}\n");
    add_path(path_of("a"));
    self = open_source();
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 4);
    put_text("b", "{1}\n{2}\n"); /* copied anew */
    assert_int_equal(rename(path_of("b"), path_of("a")), 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 8);
    assert_string_equal(text, "{2}|");
    put_text("b", "{1}\n{3}\n{4}\n");
    assert_int_equal(rename(path_of("b"), path_of("a")), 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), -1);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_GAP);
    assert_non_null(strstr(status_of(self, 0).error, "replaced by another file"));
    dn_source_file.close(self);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_and_offsets, set_up, tear_down),
        cmocka_unit_test_setup_teardown(not_the_beginning_of_a_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_unfinished_last_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lines_too_long, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_line_that_needs_a_larger_buffer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_that_grow, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_that_are_replaced, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("ingest.source_file", tests, NULL, NULL);
}
