/* `dunlin recommend`: what its options put into the request, and options that end it before any node is
 * asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/cli.h"
#include "tests/unit/client/tiny_server.h"

#include <sys/wait.h>

static struct tiny_server server;
static struct dn_cli cli;
static Dunlin__V1__RecommendRequest *got;         /* the newest; written before the answer, read behind it */
static Dunlin__V1__TrendingRequest *got_trending; /* the same bytes, as that */

static void answer(struct tiny_server *tiny, struct tiny_stream *stream, const uint8_t *message,
                   size_t length)
{
    Dunlin__V1__RecommendResponse response = DUNLIN__V1__RECOMMEND_RESPONSE__INIT;
    uint8_t bytes[256];

    dunlin__v1__recommend_request__free_unpacked(got, NULL);
    got = dunlin__v1__recommend_request__unpack(NULL, length, message);
    dunlin__v1__trending_request__free_unpacked(got_trending, NULL);
    got_trending = dunlin__v1__trending_request__unpack(NULL, length, message);
    response.variant = (char *)(uintptr_t) "diverse";
    size_t size = dunlin__v1__recommend_response__pack(&response, bytes);
    tiny_body(stream, bytes, size, size);
    tiny_answer(tiny, stream, "0");
}

static int set_up(void **state)
{
    (void)state;
    server.custom = answer;
    tiny_start(&server);
    cli = (struct dn_cli){.server = server.address, .timeout_ms = 5000};
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    dn_client_close(cli.client);
    tiny_stop(&server);
    dunlin__v1__trending_request__free_unpacked(got_trending, NULL);
    dunlin__v1__recommend_request__free_unpacked(got, NULL);
    return 0;
}

#define ARGUMENTS_MAX 48

/* The options end in NULL; argp may write into them. */
static int run_command(int (*command)(struct dn_cli *, int, char **), const char *const *options)
{
    char *arguments[ARGUMENTS_MAX + 1] = {strdup("dunlin x")};
    int count = 1;

    for (; options[count - 1] != NULL; count++) {
        assert_true(count < ARGUMENTS_MAX);
        arguments[count] = strdup(options[count - 1]);
    }
    int exit_code = command(&cli, count, arguments);
    for (int i = 0; i < count; i++)
        free(arguments[i]);
    return exit_code;
}

static int run(const char *const *options)
{
    return run_command(dn_cli_recommend, options);
}

static void test_plain(void **state)
{
    (void)state;
    assert_int_equal(run((const char *const[]){"ada", "-k", "7", NULL}), DN_CLI_OK);
    assert_string_equal(got->user_id, "ada");
    assert_int_equal(got->k, 7);
    assert_true(got->diversity == 0 && got->category_cap == 0 && got->n_boosts == 0 && got->n_pins == 0);
    assert_true(!got->exclude_purchased && !got->do_not_record);
    assert_string_equal(got->anchor, "");
    assert_string_equal(got->variant, "");
}

static void test_rules(void **state)
{
    (void)state;
    assert_int_equal(run((const char *const[]){"ada",
                                               "--filter",
                                               "a = b or c > 5",
                                               "--filter",
                                               "d = e",
                                               "--diversity",
                                               "0.25",
                                               "--category-cap",
                                               "3",
                                               "--boost",
                                               "x2.5:brand = dune",
                                               "--boost",
                                               "-1:price < 5 and not brand = b",
                                               "--boost=+0.5:a=b",
                                               "--pin",
                                               "3:x:y",
                                               "--pin",
                                               "1:z",
                                               "--exclude-purchased",
                                               "--anchor",
                                               "an item",
                                               "--variant",
                                               "-",
                                               "--do-not-record",
                                               NULL}),
                     DN_CLI_OK);
    assert_int_equal(got->filter->n_terms, 3);
    assert_int_equal(got->filter->n_steps, 5);
    assert_true(got->diversity == 0.25f);
    assert_int_equal(got->category_cap, 3);
    assert_int_equal(got->n_boosts, 3);
    assert_true(got->boosts[0]->times == 2.5f && got->boosts[0]->plus == 0);
    assert_int_equal(got->boosts[0]->filter->n_terms, 1);
    assert_int_equal(got->boosts[0]->filter->n_steps, 0);
    assert_true(got->boosts[1]->times == 0 && got->boosts[1]->plus == -1);
    assert_int_equal(got->boosts[1]->filter->n_steps, 4);
    assert_true(got->boosts[2]->plus == 0.5f);
    assert_int_equal(got->n_pins, 2);
    assert_int_equal(got->pins[0]->place, 3);
    assert_string_equal(got->pins[0]->item_id, "x:y");
    assert_string_equal(got->pins[1]->item_id, "z");
    assert_true(got->exclude_purchased && got->do_not_record);
    assert_string_equal(got->anchor, "an item");
    assert_string_equal(got->variant, "-");
}

static void test_windows(void **state)
{
    static const char *const windows[] = {"trend", "hour", "day", "week", "ever"};

    (void)state;
    assert_int_equal(run_command(dn_cli_trending, (const char *const[]){"-k", "3", NULL}), DN_CLI_OK);
    assert_int_equal(got_trending->window, DUNLIN__V1__POPULARITY_WINDOW__POPULARITY_WINDOW_TREND);
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        assert_int_equal(
            run_command(dn_cli_trending, (const char *const[]){"-k", "3", "--window", windows[i], NULL}),
            DN_CLI_OK);
        assert_int_equal(got_trending->k, 3);
        assert_int_equal(got_trending->window, i);
    }
    assert_int_equal(got_trending->window, DUNLIN__V1__POPULARITY_WINDOW__POPULARITY_WINDOW_EVER);
}

/* Each in a process of its own: argp ends it. */
static void test_refused(void **state)
{
    static const char *const cases[][2] = {
        {"--filter", "a ="},     {"--diversity", "1.5"}, {"--diversity", "x"},   {"--diversity", "nan"},
        {"--category-cap", "0"}, {"--boost", ""},        {"--boost", "x2"},      {"--boost", "x:a=b"},
        {"--boost", "2:a=b"},    {"--boost", "x0:a=b"},  {"--boost", "x-1:a=b"}, {"--boost", "x2:a="},
        {"--boost", "xnan:a=b"}, {"--pin", "item"},      {"--pin", "0:item"},    {"--pin", "1:"},
        {"--pin", "1001:item"},  {"--window", "month"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = 0;
        pid_t child = fork();

        assert_true(child >= 0);
        if (child == 0) {
            argp_err_exit_status = DN_CLI_USAGE;
            if (freopen("/dev/null", "w", stderr) == NULL)
                _exit(99);
            cli.client = NULL;
            cli.server = "127.0.0.1:1"; /* nobody is asked */
            const char *const window[] = {cases[i][0], cases[i][1], NULL};
            if (strcmp(cases[i][0], "--window") == 0)
                _exit(run_command(dn_cli_trending, window));
            _exit(run((const char *const[]){"ada", cases[i][0], cases[i][1], NULL}));
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != DN_CLI_USAGE)
            fail_msg("%s '%s': status %#x", cases[i][0], cases[i][1], (unsigned)status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refused), cmocka_unit_test(test_plain),
                                       cmocka_unit_test(test_rules), cmocka_unit_test(test_windows)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
