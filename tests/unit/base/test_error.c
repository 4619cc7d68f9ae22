#include "base/error.h"
#include "base/text.h"
#include "tests/unit/base/cmocka_all.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void every_code_has_a_text_of_its_own_and_a_grpc_number(void **state)
{
    (void)state;
    for (int a = 0; a < DN_CODE_COUNT; a++) {
        assert_true(strlen(dn_code_text((enum dn_code)a)) > 0);
        assert_in_range(dn_code_grpc((enum dn_code)a), 0, 16);
        assert_int_equal(dn_code_grpc((enum dn_code)a) == 0, a == DN_OK);
        for (int b = 0; b < a; b++) {
            assert_string_not_equal(dn_code_text((enum dn_code)a), dn_code_text((enum dn_code)b));
        }
    }
    assert_int_equal(dn_code_grpc(DN_INVALID), 3);
    assert_int_equal(dn_code_grpc(DN_NOT_LEADER), 14);
    assert_string_equal(dn_code_text(DN_CODE_COUNT), "unknown code");
    assert_int_equal(dn_code_grpc(DN_CODE_COUNT), 2);
    assert_int_equal(dn_code_grpc((enum dn_code) - 1), 2);
}

static void fail_fills_and_returns(void **state)
{
    struct dn_error err = {0};

    (void)state;
    assert_int_equal(dn_fail(&err, DN_CORRUPT, "at %d", 7), DN_CORRUPT);
    assert_int_equal(err.code, DN_CORRUPT);
    assert_string_equal(err.message, "at 7");
    assert_int_equal(dn_fail(NULL, DN_IO, "unseen"), DN_IO);
}

static void wrap_puts_context_in_front(void **state)
{
    struct dn_error err = {0};

    (void)state;
    dn_fail(&err, DN_INVALID, "vector has 3 numbers, not 64");
    assert_int_equal(dn_wrap(&err, DN_INTERNAL, "line %d", 7), DN_INVALID);
    dn_wrap(&err, DN_INTERNAL, "load catalogue '%s'", "x.jsonl");
    assert_string_equal(err.message, "load catalogue 'x.jsonl': line 7: vector has 3 numbers, not 64");
    assert_int_equal(err.code, DN_INVALID);
    assert_int_equal(dn_wrap(NULL, DN_IO, "unseen"), DN_IO);
}

static void wrap_of_an_empty_error_takes_the_code(void **state)
{
    struct dn_error err = {0};

    (void)state;
    assert_int_equal(dn_wrap(&err, DN_NO_SPACE, "write 'journal'"), DN_NO_SPACE);
    assert_int_equal(err.code, DN_NO_SPACE);
    assert_string_equal(err.message, "write 'journal': no space left");
}

static void arguments_may_point_into_the_message(void **state)
{
    struct dn_error err = {0};

    (void)state;
    dn_fail(&err, DN_IO, "inner");
    dn_fail(&err, DN_IO, "<%s>", err.message);
    assert_string_equal(err.message, "<inner>");
    dn_wrap(&err, DN_IO, "[%s]", err.message);
    assert_string_equal(err.message, "[<inner>]: <inner>");
}

static void long_messages_are_cut_with_dots(void **state)
{
    char text[2 * DN_ERROR_MESSAGE_MAX];
    struct dn_error err = {0};

    (void)state;
    memset(text, 'x', sizeof(text));
    for (size_t length = DN_ERROR_MESSAGE_MAX - 6; length < sizeof(text); length++) {
        text[length] = '\0';
        dn_fail(&err, DN_IO, "%s", text);
        if (length < DN_ERROR_MESSAGE_MAX) {
            assert_string_equal(err.message, text);
        } else {
            assert_int_equal(strlen(err.message), DN_ERROR_MESSAGE_MAX - 1);
            assert_string_equal(err.message + DN_ERROR_MESSAGE_MAX - 4, "...");
        }
        text[length] = 'x';
    }
    for (int i = 0; i < 400; i++) { /* context added for ever stays inside */
        dn_wrap(&err, DN_IO, "layer %d", i);
        assert_true(strlen(err.message) < DN_ERROR_MESSAGE_MAX);
    }
    assert_int_equal(strncmp(err.message, "layer 399: layer 398: ", 22), 0);
    assert_string_equal(err.message + strlen(err.message) - 3, "...");
    text[sizeof(text) - 1] = '\0';
    dn_wrap(&err, DN_IO, "%s", text);
    assert_string_equal(err.message + strlen(err.message) - 3, "...");
}

static void a_cut_splits_no_character(void **state)
{
    char text[2 * DN_ERROR_MESSAGE_MAX];
    struct dn_error err = {0};

    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        size_t length = shift;

        memset(text, 'x', shift);
        while (length + 4 < sizeof(text)) {
            memcpy(text + length, "\xF0\x9F\x90\xA6", 4);
            length += 4;
        }
        text[length] = '\0';
        dn_fail(&err, DN_IO, "%s", text);
        assert_true(dn_utf8_valid(err.message, strlen(err.message)));
        dn_wrap(&err, DN_IO, "%s", text + shift);
        assert_true(dn_utf8_valid(err.message, strlen(err.message)));
    }
}

static void a_failed_assertion_aborts_and_says_where(void **state)
{
    char output[512] = {0};
    int channel[2], status;
    ssize_t got;
    pid_t child;

    (void)state;
    assert_int_equal(pipe(channel), 0);
    child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(channel[1], STDERR_FILENO);
        DN_ASSERT(1 == 1);
        DN_ASSERT(1 + 1 == 3);
        _exit(0);
    }
    assert_true(child > 0);
    close(channel[1]);
    got = read(channel[0], output, sizeof(output) - 1);
    close(channel[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_true(got > 0);
    assert_non_null(strstr(output, "test_error.c:"));
    assert_non_null(strstr(output, "1 + 1 == 3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_text_of_its_own_and_a_grpc_number),
        cmocka_unit_test(fail_fills_and_returns),
        cmocka_unit_test(wrap_puts_context_in_front),
        cmocka_unit_test(wrap_of_an_empty_error_takes_the_code),
        cmocka_unit_test(arguments_may_point_into_the_message),
        cmocka_unit_test(long_messages_are_cut_with_dots),
        cmocka_unit_test(a_cut_splits_no_character),
        cmocka_unit_test(a_failed_assertion_aborts_and_says_where),
    };
    return cmocka_run_group_tests_name("base.error", tests, NULL, NULL);
}
