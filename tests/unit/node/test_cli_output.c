/* What the client prints is JSON where JSON was asked for, or the exit code says that it is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/cli.h"
#include "node/cli_eval.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void becomes(const char *text, const char *wanted)
{
    json_t *string = dn_cli_json_text(text);

    assert_non_null(string);
    assert_string_equal(json_string_value(string), wanted);
    json_decref(string);
}

static void any_text_is_a_string(void **state)
{
    (void)state;
    becomes("", "");
    becomes("clicks.tsv", "clicks.tsv");
    becomes("h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xa6", "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xa6");
    becomes("\xff.tsv", "\xef\xbf\xbd.tsv");
    becomes("a\xc3", "a\xef\xbf\xbd");
    becomes("\xe2\x82z\xed\xa0\x80",
            "\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* cut off, a surrogate */
}

/* What `dunlin eval --json` prints of these methods. */
static json_t *printed(struct dn_eval_result *result, unsigned first, unsigned second)
{
    static char text[65536];
    char path[] = "/tmp/dunlin_output.XXXXXX";
    int fd = mkstemp(path), output = dup(STDOUT_FILENO);
    struct dn_eval_facts facts = {.format = "timed"};
    struct dn_cli_eval_report report = {.events = "\xff.tsv", .facts = &facts, .result = result};

    assert_true(fd >= 0);
    unlink(path);
    result->method_count = 2;
    result->k_count = 1;
    result->methods[0].name = dn_eval_method_name(first);
    result->methods[1].name = dn_eval_method_name(second);
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    bool whole = dn_cli_eval_json(&report);
    fflush(stdout);
    dup2(output, STDOUT_FILENO);
    close(output);
    ssize_t length = pread(fd, text, sizeof text - 1, 0);
    close(fd);
    assert_true(whole && length > 0);
    text[length] = '\0';
    json_t *object = json_loads(text, 0, NULL);
    assert_non_null(object);
    return object;
}

static const json_t *less(const json_t *object, size_t method, const char *name)
{
    const json_t *of = json_array_get(json_object_get(object, "methods"), method);
    const json_t *at = json_array_get(json_object_get(of, "at"), 0);

    assert_non_null(json_object_get(at, name));
    return json_object_get(at, name);
}

static void an_evaluation_is_json(void **state)
{
    struct dn_eval_result *result = calloc(1, sizeof *result);

    (void)state;
    assert_non_null(result);
    result->methods[1].at[0].hr_less.mean = -0.25;
    json_t *object = printed(result, DN_EVAL_BLEND, DN_EVAL_POPULAR);
    assert_string_equal(json_string_value(json_object_get(json_object_get(object, "log"), "events")),
                        "\xef\xbf\xbd.tsv");
    assert_true(json_is_null(less(object, 0, "hr_less_blend")));
    assert_true(json_is_null(less(object, 0, "mrr_less_blend")));
    assert_true(json_real_value(json_object_get(less(object, 1, "hr_less_blend"), "mean")) == -0.25);
    assert_true(json_is_object(less(object, 1, "mrr_less_blend")));
    json_decref(object);
    object = printed(result, DN_EVAL_POPULAR, DN_EVAL_SOURCES);
    for (size_t m = 0; m < 2; m++) {
        assert_true(json_is_null(less(object, m, "hr_less_blend")));
        assert_true(json_is_null(less(object, m, "mrr_less_blend")));
    }
    json_decref(object);
    free(result);
}

/* A program of its own: what failed is remembered to its end. Its exit code. */
static int program(void (*print)(void), const char *to)
{
    fflush(stdout);
    pid_t child = fork();

    if (child == 0) {
        int fd = open(to, O_WRONLY | O_CLOEXEC), errors = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(fd, STDOUT_FILENO);
        dup2(errors, STDERR_FILENO);
        print();
        _exit(dn_cli_finish(DN_CLI_OK));
    }
    int status = -1;
    assert_true(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void print_nothing(void)
{
}

static void print_text(void)
{
    printf("a table\n");
}

static void print_object(void)
{
    if (!dn_cli_print_json(json_pack("{s:i}", "a", 1)))
        _exit(77);
}

static void print_object_badly(void)
{
    if (dn_cli_print_json(json_pack("{s:i}", "a", 1)))
        _exit(77);
}

static void print_what_is_none(void)
{
    if (dn_cli_print_json(json_pack("{s:s}", "a", "\xff")))
        _exit(77);
    if (dn_cli_finish(DN_CLI_USAGE) != DN_CLI_USAGE)
        _exit(78);
}

static void the_exit_code_tells_what_was_not_printed(void **state)
{
    (void)state;
    assert_int_equal(program(print_nothing, "/dev/null"), DN_CLI_OK);
    assert_int_equal(program(print_text, "/dev/null"), DN_CLI_OK);
    assert_int_equal(program(print_object, "/dev/null"), DN_CLI_OK);
    assert_int_equal(program(print_what_is_none, "/dev/null"), DN_CLI_FAILED);
    if (access("/dev/full", W_OK) != 0)
        skip();
    assert_int_equal(program(print_nothing, "/dev/full"), DN_CLI_OK);
    assert_int_equal(program(print_text, "/dev/full"), DN_CLI_FAILED);
    assert_int_equal(program(print_object_badly, "/dev/full"), DN_CLI_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_text_is_a_string),
        cmocka_unit_test(an_evaluation_is_json),
        cmocka_unit_test(the_exit_code_tells_what_was_not_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
