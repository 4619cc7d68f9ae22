#include "base/clock.h"
#include "base/log.h"
#include "tests/unit/base/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Standard error goes to a file while a test runs. */
struct capture {
    int saved, file;
};

static struct capture capture_start(void)
{
    char path[] = "/tmp/dunlin_test_log_XXXXXX";
    struct capture capture = {.saved = dup(STDERR_FILENO), .file = mkstemp(path)};

    assert_true(capture.saved >= 0 && capture.file >= 0);
    unlink(path);
    fcntl(capture.file, F_SETFL, O_APPEND);
    dup2(capture.file, STDERR_FILENO);
    return capture;
}

static size_t capture_end(struct capture *capture, char *text, size_t size)
{
    ssize_t length;

    dup2(capture->saved, STDERR_FILENO);
    length = pread(capture->file, text, size - 1, 0);
    close(capture->saved);
    close(capture->file);
    assert_true(length >= 0);
    text[length] = '\0';
    return (size_t)length;
}

static void a_line_has_time_level_component_and_message(void **state)
{
    struct capture capture = capture_start();
    char text[4096];
    struct tm utc = {0};
    int64_t logged_ms, now_ms;
    char *rest;

    (void)state;
    dn_warn("consensus", "group %d lost its leader", 3);
    capture_end(&capture, text, sizeof(text));
    now_ms = dn_wall_ms();
    rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &utc);
    assert_non_null(rest);
    logged_ms = (int64_t)timegm(&utc) * 1000 + strtol(rest + 1, &rest, 10);
    assert_in_range(now_ms - logged_ms + 60000, 0, 120000);
    assert_string_equal(rest, "Z warn  consensus: group 3 lost its leader\n");
}

static void lines_below_the_level_are_dropped(void **state)
{
    struct capture capture = capture_start();
    char text[4096];

    (void)state;
    dn_debug("x", "one");
    dn_info("x", "two");
    dn_log_set_level(DN_LOG_ERROR);
    dn_warn("x", "three");
    dn_err("x", "four");
    dn_log_set_level(DN_LOG_DEBUG);
    dn_debug("x", "five");
    dn_log_set_level(DN_LOG_INFO);
    capture_end(&capture, text, sizeof(text));
    assert_null(strstr(text, "one"));
    assert_non_null(strstr(text, "two"));
    assert_null(strstr(text, "three"));
    assert_non_null(strstr(text, "error x: four"));
    assert_non_null(strstr(text, "five"));
}

static void control_characters_cannot_forge_a_line(void **state)
{
    struct capture capture = capture_start();
    char text[4096];

    (void)state;
    dn_info("x", "user said '%s'", "a\n2031 error x: \x1b[2J\x7f caf\xc3\xa9");
    capture_end(&capture, text, sizeof(text));
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_non_null(strstr(text, "'a?2031 error x: ?[2J? caf\xc3\xa9'\n"));
}

static void a_long_message_is_cut_and_ends_its_line(void **state)
{
    static char message[10000];
    struct capture capture = capture_start();
    char text[20000];
    size_t length;

    (void)state;
    memset(message, 'y', sizeof(message) - 1);
    dn_info("x", "%s", message);
    dn_info(message, "%s", "component of our own, far too long");
    length = capture_end(&capture, text, sizeof(text));
    assert_true(length < 2 * 2048 + 1);
    assert_non_null(strstr(text, "y...\n"));
    assert_int_equal(text[length - 1], '\n');
}

static void errno_is_kept_though_the_write_fails(void **state)
{
    int saved = dup(STDERR_FILENO), unwritable = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int after;

    (void)state;
    assert_true(saved >= 0 && unwritable >= 0);
    dup2(unwritable, STDERR_FILENO);
    errno = ENOSPC;
    dn_info("x", "lost");
    after = errno;
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(unwritable);
    assert_int_equal(after, ENOSPC);
}

#define WRITERS 4
#define LINES_EACH 200

static void *write_lines(void *argument)
{
    for (int i = 0; i < LINES_EACH; i++) {
        dn_info("w", "<%s>", (const char *)argument);
    }
    return NULL;
}

static void lines_of_several_threads_do_not_mix(void **state)
{
    static char bodies[WRITERS][301];
    static char text[WRITERS * LINES_EACH * 400];
    struct capture capture = capture_start();
    pthread_t threads[WRITERS];
    int lines = 0;

    (void)state;
    for (int i = 0; i < WRITERS; i++) {
        memset(bodies[i], 'a' + i, 300);
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, bodies[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    capture_end(&capture, text, sizeof(text));
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), lines++) {
        char *body = strchr(line, '<');

        assert_non_null(body);
        assert_int_equal(strlen(body), 302);
        assert_int_equal(strspn(body + 1, (char[]){body[1], '\0'}), 300);
    }
    assert_int_equal(lines, WRITERS * LINES_EACH);
}

static void levels_are_parsed(void **state)
{
    enum dn_log_level level = DN_LOG_WARN;

    (void)state;
    assert_false(dn_log_level_parse("loud", &level));
    assert_false(dn_log_level_parse("", &level));
    assert_false(dn_log_level_parse("INFO", &level));
    assert_int_equal(level, DN_LOG_WARN);
    assert_true(dn_log_level_parse("debug", &level));
    assert_int_equal(level, DN_LOG_DEBUG);
    assert_true(dn_log_level_parse("error", &level));
    assert_int_equal(level, DN_LOG_ERROR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_time_level_component_and_message),
        cmocka_unit_test(lines_below_the_level_are_dropped),
        cmocka_unit_test(control_characters_cannot_forge_a_line),
        cmocka_unit_test(a_long_message_is_cut_and_ends_its_line),
        cmocka_unit_test(errno_is_kept_though_the_write_fails),
        cmocka_unit_test(lines_of_several_threads_do_not_mix),
        cmocka_unit_test(levels_are_parsed),
    };
    return cmocka_run_group_tests_name("base.log", tests, NULL, NULL);
}
