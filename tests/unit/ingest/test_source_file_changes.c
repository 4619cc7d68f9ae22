/* Files that are not followed, and change: they grow, their last line is under way, another one gets their
 * name. */
#include "ingest/source_file_table.h"
#include "tests/unit/ingest/source_file_help.h"

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

/* A write that is under way shows its first page before the rest. */
static void a_line_under_way(void **state)
{
    struct dn_message messages[2];
    char text[256];
    void *self;

    (void)state;
    dn_file_quiet_ms = 300;
    put_text("a", "{1}\n{2");
    add_path(path_of("a"));
    self = open_source();
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 4);
    assert_string_equal(text, "{1}|");
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 2), 0);
    append_text("a", "2}\n");
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 9);
    assert_string_equal(text, "{22}|");
    append_text("a", "{3}"); /* and nobody goes on */
    do {
        (void)read_all(self, 0, text, sizeof(text));
    } while (text[0] == '\0');
    assert_string_equal(text, "{3}|");
    dn_source_file.close(self);
    dn_file_quiet_ms = 0;
}

/* Of a file that is being copied, which may stop for long. */
static void half_a_line(void **state)
{
    static const char *const HALVES[] = {"{\"a\": {2}", "{\"a\": \"}", "{\"a\": \"\\\"}", "{\"a\"", "\"a"};
    struct dn_message messages[2];
    char text[256], wanted[64];

    (void)state;
    dn_file_quiet_ms = 100;
    add_path(path_of("a"));
    for (size_t i = 0; i < sizeof(HALVES) / sizeof(HALVES[0]); i++) {
        void *self;

        snprintf(text, sizeof(text), "{1}\n%s", HALVES[i]);
        put_text("a", text);
        self = open_source();
        start(self, 0, 0);
        assert_int_equal(read_all(self, 0, text, sizeof(text)), 4);
        for (int turns = 0; turns < 100; turns++) { /* for longer than a line that may be whole rests */
            assert_int_equal(turn(self, 0, messages, 2), 0);
        }
        assert_int_equal(status_of(self, 0).state, DN_PARTITION_AT_END);
        assert_non_null(strstr(status_of(self, 0).error, "from byte 4 on, is unfinished"));
        append_text("a", "+}\n");
        (void)read_all(self, 0, text, sizeof(text));
        snprintf(wanted, sizeof(wanted), "%s+}|", HALVES[i]);
        assert_string_equal(text, wanted);
        assert_string_equal(status_of(self, 0).error, "");
        dn_source_file.close(self);
    }
    dn_file_quiet_ms = 0;
}

/* It is not waited for in vain. */
static void half_a_line_for_ever(void **state)
{
    char text[256];
    void *self;

    (void)state;
    dn_file_quiet_ms = 5;
    put_text("a", "{1}\n{2");
    add_path(path_of("a"));
    self = open_source();
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 4);
    do {
        (void)read_all(self, 0, text, sizeof(text));
    } while (text[0] == '\0');
    assert_string_equal(text, "{2|");
    assert_string_equal(status_of(self, 0).error, "");
    dn_source_file.close(self);
    dn_file_quiet_ms = 0;
}

/* Nobody waits: the end is told behind all that is there. */
static void a_last_line_that_stands_still(void **state)
{
    char text[256];
    void *self;

    (void)state;
    dn_file_quiet_ms = 5000;
    host.still = true;
    put_text("a", "{1}\n{2}\n{3");
    add_path(path_of("a"));
    self = open_source();
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 10);
    assert_string_equal(text, "{1}|{2}|{3|");
    dn_source_file.close(self);
    host.still = false;
    dn_file_quiet_ms = 0;
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
    /* It stays so when it is tried again, at any place in what was read. */
    start(self, 0, 8);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), -1);
    dn_source_file.stop(self, 0, 0);
    start(self, 0, 4);
    assert_int_equal(read_all(self, 0, text, sizeof(text)), -1);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_GAP);
    start(self, 0, 0); /* a person's word */
    assert_int_equal(read_all(self, 0, text, sizeof(text)), 12);
    assert_string_equal(text, "{1}|{3}|{4}|");
    dn_source_file.close(self);
}

/* What tells a file from another one that gets its name. */
static void contents(void **state)
{
    int64_t first;
    void *self;

    (void)state;
    put_text("a", "\n{1");
    put_text("b", "{2}\n");
    add_path(path_of("a"));
    add_path(path_of("b"));
    self = open_source();
    assert_int_equal(dn_source_file.contents(self, 0), -1); /* not yet */
    append_text("a", "1}\n");
    first = dn_source_file.contents(self, 0);
    assert_true(first > 0);
    assert_true(dn_source_file.contents(self, 1) > 0 && dn_source_file.contents(self, 1) != first);
    append_text("a", "{3}\n");
    assert_true(dn_source_file.contents(self, 0) == first);
    put_gzip("a", "\n{11}\n{3}\n", 10, "wb");
    assert_true(dn_source_file.contents(self, 0) == first);
    put_text("a", "\n{12}\n");
    assert_true(dn_source_file.contents(self, 0) > 0 && dn_source_file.contents(self, 0) != first);
    assert_int_equal(unlink(path_of("a")), 0);
    assert_int_equal(dn_source_file.contents(self, 0), -1);
    dn_source_file.close(self);

    config.list_count = 0;
    config.follow = true; /* its name tells */
    add_path(path_of("b"));
    self = open_source();
    assert_int_equal(wait_for_streams(self, NULL, 0, 1), 1);
    assert_int_equal(dn_source_file.contents(self, 0), 0);
    dn_source_file.close(self);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_unfinished_last_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_line_under_way, set_up, tear_down),
        cmocka_unit_test_setup_teardown(half_a_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(half_a_line_for_ever, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_last_line_that_stands_still, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_that_grow, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_that_are_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(contents, set_up, tear_down),
    };
    dn_file_quiet_ms = 0; /* a last line without newline is one at once */
    return cmocka_run_group_tests_name("ingest.source_file_changes", tests, NULL, NULL);
}
