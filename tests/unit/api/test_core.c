/* The server core against a client that is in full control: gRPC's protocol, deadlines, cancellation, limits,
 * streams, drain and stop. Ops are completed by the test, on its own thread, as consensus would. */
#include "core.h"

static struct dn_server *server;
static struct h2 h2;

#define GIVEN_UP 3000

static int setup_with(struct dn_api_limits limits)
{
    server = core_start(1, limits);
    return h2_open(&h2, server->port) ? 0 : -1;
}

static int setup(void **state)
{
    (void)state;
    return setup_with((struct dn_api_limits){0});
}

static int teardown(void **state)
{
    (void)state;
    static struct dn_op *ops[CORE_OPS_MAX];
    h2_shut(&h2);
    size_t count = core_take(ops);
    for (size_t i = 0; i < count; i++)
        core_complete(ops[i], DN_UNAVAILABLE, "the end");
    core_end(server);
    return 0;
}

static uint64_t counted(const char *name, const char *labels)
{
    return dn_counter_value(dn_metrics_counter(server->metrics, name, labels, ""));
}

/* Waits for a counter that another thread moves. */
static bool counts_to(const char *name, const char *labels, uint64_t value)
{
    uint64_t end = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    while (counted(name, labels) < value && dn_monotonic_us() < end)
        h2_turn(&h2, 5);
    return counted(name, labels) == value;
}

/* ---- the protocol ------------------------------------------------------------------------------------- */

static void test_echo(void **state)
{
    (void)state;
    struct h2_answer answer;
    for (int i = 0; i < 3; i++) {
        assert_true(h2_call(&h2, "/t.T/Echo", NULL, "hello", 5, &answer));
        assert_int_equal(answer.http_status, 200);
        assert_int_equal(answer.grpc_status, 0);
        assert_int_equal(answer.length, 10);
        assert_memory_equal(answer.body, "\0\0\0\0\5hello", 10);
        assert_int_equal(answer.close_code, NGHTTP2_NO_ERROR);
        h2_free(&answer);
    }
    assert_true(h2_call(&h2, "/t.T/Echo", NULL, "", 0, &answer));
    assert_int_equal(answer.grpc_status, 0);
    assert_memory_equal(answer.body, "\0\0\0\0\0", 5);
    h2_free(&answer);
    assert_int_equal(counted("dunlin_requests_total", "method=\"T.Echo\",code=\"OK\""), 4);
}

static void test_large_both_ways(void **state)
{
    (void)state;
    struct h2_answer answer;
    size_t length = 3 << 20;
    uint8_t *bytes = malloc(length);
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(i * 31 >> 3);
    assert_true(h2_call(&h2, "/t.T/Echo", NULL, bytes, length, &answer));
    assert_int_equal(answer.grpc_status, 0);
    assert_int_equal(answer.length, length + 5);
    assert_memory_equal(answer.body + 5, bytes, length);
    h2_free(&answer);
    free(bytes);
}

static void expect(const char *path, const struct h2_header *more, const char *message, int status,
                   const char *text)
{
    struct h2_answer answer;
    assert_true(h2_call(&h2, path, more, message, strlen(message), &answer));
    assert_int_equal(answer.http_status, 200);
    assert_int_equal(answer.grpc_status, status);
    if (!strstr(answer.message, text))
        fail_msg("'%s' is not in '%s'", text, answer.message);
    assert_int_equal(answer.length, 0);
    h2_free(&answer);
}

static void test_errors(void **state)
{
    (void)state;
    expect("/t.T/Nothing", NULL, "", 12, "no method '/t.T/Nothing");
    expect("/t.T/Fail", NULL, "x\x01", 9, "100%25 of \"x%01\"%0A%C3%A4");
    expect("/t.T/Silent", NULL, "", 13, "no answer");
    expect("/t.T/Full", NULL, "", 8, "queue is full");
    expect("/t.T/Big", NULL, "99999999", 8, "memory");
    static const struct h2_header gzip[] = {{"grpc-encoding", "gzip"}, {NULL, NULL}};
    static const struct h2_header identity[] = {{"grpc-encoding", "identity"}, {NULL, NULL}};
    expect("/t.T/Echo", gzip, "", 12, "compressed");
    struct h2_answer answer;
    assert_true(h2_call(&h2, "/t.T/Echo", gzip, "", 0, &answer));
    assert_string_equal(answer.accept_encoding, "identity");
    assert_true(h2_call(&h2, "/t.T/Echo", identity, "", 0, &answer));
    assert_int_equal(answer.grpc_status, 0);
    h2_free(&answer);
    assert_int_equal(counted("dunlin_requests_total", "method=\"unknown\",code=\"UNIMPLEMENTED\""), 1);
}

static void test_http_errors(void **state)
{
    (void)state;
    static const struct h2_header json[] = {{"content-type", "application/json"}, {NULL, NULL}};
    static const struct h2_header web[] = {{"content-type", "application/grpc-web"}, {NULL, NULL}};
    static const struct h2_header proto[] = {{"content-type", "application/grpc+proto"}, {NULL, NULL}};
    static const struct h2_header none[] = {{NULL, NULL}};
    struct {
        const char *method;
        const struct h2_header *headers;
        int status;
    } cases[] = {{"POST", json, 415},
                 {"POST", web, 415},
                 {"POST", none, 415},
                 {"GET", h2_grpc, 405},
                 {"POST", proto, 200}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct h2_answer answer = {.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5};
        h2_start(&h2, cases[i].method, "/t.T/Echo", cases[i].headers, NULL, &answer);
        assert_true(h2_until(&h2, &answer.closed, H2_WAIT_MS));
        assert_int_equal(answer.http_status, cases[i].status);
        h2_free(&answer);
    }
}

/* Bodies that are not exactly one message. */
static void test_framing(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        int status;
        const char *text;
    } cases[] = {
        {"", 0, 12, "sent none"},
        {"\0\0\0", 3, 13, "middle"},
        {"\0\0\0\0\x09xyz", 8, 13, "middle"},
        {"\0\0\0\0\1x\0\0\0\0\1y", 12, 12, "sent more"},
        {"\1\0\0\0\1x", 6, 13, "compressed"},
        {"\x09\0\0\0\1x", 6, 13, "first byte is 9"},
        {"\0\xff\xff\xff\xffx", 6, 8, "at most 4194304"},
        {"\0\0\x40\0\1x", 6, 8, "4194305 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct h2_answer answer = {.out = (const uint8_t *)cases[i].bytes, .out_length = cases[i].length};
        h2_start(&h2, "POST", "/t.T/Echo", h2_grpc, NULL, &answer);
        assert_true(h2_until(&h2, &answer.closed, H2_WAIT_MS));
        assert_int_equal(answer.grpc_status, cases[i].status);
        if (!strstr(answer.message, cases[i].text))
            fail_msg("case %zu: '%s' is not in '%s'", i, cases[i].text, answer.message);
        h2_free(&answer);
    }
    expect("/t.T/Fail", NULL, "still here", 9, "still here");
}

/* An early answer to a request that has not ended: the stream is reset without an error behind it. */
static void test_early_answer(void **state)
{
    (void)state;
    struct h2_answer answer = {
        .out = (const uint8_t *)"\0\xff\xff\xff\xff", .out_length = 5, .out_open = true};
    h2_start(&h2, "POST", "/t.T/Echo", h2_grpc, NULL, &answer);
    assert_true(h2_until(&h2, &answer.closed, H2_WAIT_MS));
    assert_int_equal(answer.grpc_status, 8);
    assert_int_equal(answer.close_code, NGHTTP2_NO_ERROR);
    h2_free(&answer);
}

static void test_long_headers(void **state)
{
    (void)state;
    static struct h2_header many[1025];
    static char names[1024][32];
    for (size_t i = 0; i < 300; i++) {
        snprintf(names[i], sizeof names[i], "x-filler-%zu", i);
        many[i] = (struct h2_header){names[i], "some value of a header"};
    }
    many[300] = (struct h2_header){NULL, NULL};
    expect("/t.T/Echo", many, "", 8, "headers take");
    expect("/t.T/Fail", NULL, "still here", 9, "still here");
}

/* ---- deadlines and cancellation --------------------------------------------------------------------------
 */

static void timeout_call(const char *path, const char *timeout, int status, const char *text)
{
    const struct h2_header more[] = {{"grpc-timeout", timeout}, {NULL, NULL}};
    expect(path, more, "", status, text);
}

static void test_deadlines(void **state)
{
    (void)state;
    timeout_call("/t.T/Park", "200m", 4, "the deadline passed while");
    timeout_call("/t.T/Park", "200000u", 4, "the deadline passed while");
    timeout_call("/t.T/Park", "9999n", 4, "deadline");
    timeout_call("/t.T/Echo", "0S", 4, "had passed");
    static const char *const bad[] = {"", "S", "5", "5s", "-5S", "123456789S", "1.5S", "5 S", "0x5S"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        timeout_call("/t.T/Echo", bad[i], 3, "grpc-timeout");
    static const char *const good[] = {"1H", "99999999H", "2M", "5S", "99999999m", "99999999u"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        const struct h2_header more[] = {{"grpc-timeout", good[i]}, {NULL, NULL}};
        struct h2_answer answer;
        assert_true(h2_call(&h2, "/t.T/Echo", more, "x", 1, &answer));
        assert_int_equal(answer.grpc_status, 0);
        h2_free(&answer);
    }
    /* a request that never ends has a deadline too */
    const struct h2_header more[] = {{"grpc-timeout", "40m"}, {NULL, NULL}};
    struct h2_answer answer = {.out = (const uint8_t *)"\0\0\0\0\5he", .out_length = 7, .out_open = true};
    h2_start(&h2, "POST", "/t.T/Echo", h2_grpc, more, &answer);
    assert_true(h2_until(&h2, &answer.closed, H2_WAIT_MS));
    assert_int_equal(answer.grpc_status, 4);
    assert_int_equal(answer.close_code, NGHTTP2_NO_ERROR);
    h2_free(&answer);
}

static void test_park_and_complete(void **state)
{
    (void)state;
    struct h2_answer answers[20];
    struct dn_op *ops[CORE_OPS_MAX];
    memset(answers, 0, sizeof answers);
    for (size_t i = 0; i < 20; i++) {
        answers[i].out = (const uint8_t *)"\0\0\0\0\0";
        answers[i].out_length = 5;
        h2_start(&h2, "POST", "/t.T/Park", h2_grpc, NULL, &answers[i]);
    }
    assert_true(core_wait_parked(&h2, 20));
    assert_int_equal(core_take(ops), 20);
    for (size_t i = 0; i < 20; i++)
        core_complete(ops[i], i % 2 ? DN_OK : DN_NOT_LEADER, i % 2 ? "yes" : "nobody leads");
    for (size_t i = 0; i < 20; i++) {
        assert_true(h2_until(&h2, &answers[i].closed, H2_WAIT_MS));
        if (answers[i].grpc_status == 0) {
            assert_int_equal(answers[i].length, 8);
            assert_memory_equal(answers[i].body + 5, "yes", 3);
        } else {
            assert_int_equal(answers[i].grpc_status, 14);
            assert_string_equal(answers[i].message, "nobody leads");
        }
        h2_free(&answers[i]);
    }
    assert_int_equal(counted("dunlin_requests_total", "method=\"T.Park\",code=\"OK\""), 10);
    assert_int_equal(counted("dunlin_requests_total", "method=\"T.Park\",code=\"UNAVAILABLE\""), 10);
}

/* The completion comes after the client gave up, or after the deadline's answer: the call's memory is still
 * there. */
static void test_late_completions(void **state)
{
    (void)state;
    struct h2_answer cancelled[8], late;
    struct dn_op *ops[CORE_OPS_MAX];
    memset(cancelled, 0, sizeof cancelled);
    for (size_t i = 0; i < 8; i++) {
        cancelled[i].out = (const uint8_t *)"\0\0\0\0\0";
        cancelled[i].out_length = 5;
        h2_start(&h2, "POST", "/t.T/Park", h2_grpc, NULL, &cancelled[i]);
    }
    assert_true(core_wait_parked(&h2, 8));
    for (size_t i = 0; i < 8; i++)
        nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, cancelled[i].stream_id, NGHTTP2_CANCEL);
    assert_true(counts_to("dunlin_api_cancelled_total", "", 8));
    const struct h2_header more[] = {{"grpc-timeout", "20m"}, {NULL, NULL}};
    assert_true(h2_call(&h2, "/t.T/Park", more, "", 0, &late));
    assert_int_equal(late.grpc_status, 4);
    assert_int_equal(core_take(ops), 9);
    for (size_t i = 0; i < 9; i++)
        core_complete(ops[i], DN_OK, "too late");
    h2_free(&late);
    expect("/t.T/Fail", NULL, "still here", 9, "still here");
}

/* A proxy or a client that hedges gives up calls all day on one connection: the others must not feel it. */
static void test_many_given_up(void **state)
{
    (void)state;
    struct h2_answer waiting = {.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5}, given_up;
    struct dn_op *op;
    h2_start(&h2, "POST", "/t.T/Park", h2_grpc, NULL, &waiting);
    assert_true(core_wait_parked(&h2, 1));
    for (size_t i = 1; i <= GIVEN_UP; i++) {
        memset(&given_up, 0, sizeof given_up);
        given_up.out_open = true;
        h2_start(&h2, "POST", "/t.T/Echo", h2_grpc, NULL, &given_up);
        h2_turn(&h2, 0);
        nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, given_up.stream_id, NGHTTP2_CANCEL);
        if (i % 10 == 0 && !counts_to("dunlin_api_cancelled_total", "", i))
            fail_msg("the connection ended after %zu resets", i - 10);
    }
    assert_int_equal(core_take(&op), 1);
    core_complete(op, DN_OK, "not given up");
    assert_true(h2_until(&h2, &waiting.closed, H2_WAIT_MS));
    assert_int_equal(waiting.grpc_status, 0);
    h2_free(&waiting);
}

/* The connection goes while calls are parked. */
static void test_connection_lost(void **state)
{
    (void)state;
    struct h2 other;
    struct h2_answer answer = {.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5};
    struct dn_op *ops[CORE_OPS_MAX];
    assert_true(h2_open(&other, server->port));
    h2_start(&other, "POST", "/t.T/Park", h2_grpc, NULL, &answer);
    assert_true(core_wait_parked(&other, 1));
    h2_shut(&other);
    assert_true(counts_to("dunlin_api_cancelled_total", "", 1));
    assert_int_equal(core_take(ops), 1);
    core_complete(ops[0], DN_OK, "nobody there");
    expect("/t.T/Fail", NULL, "still here", 9, "still here");
}

/* ---- limits
 * ------------------------------------------------------------------------------------------------ */

static int setup_small(void **state)
{
    (void)state;
    return setup_with((struct dn_api_limits){.message_bytes = 1 << 20,
                                             .connections = 3,
                                             .streams = 40,
                                             .pending_calls = 10,
                                             .pending_bytes = 3 << 20,
                                             .idle_timeout_ms = 300});
}

static void pending_calls_round(uint64_t round)
{
    struct h2_answer answers[12];
    struct dn_op *ops[CORE_OPS_MAX];
    size_t refused = 0;
    memset(answers, 0, sizeof answers);
    for (size_t i = 0; i < 12; i++) {
        answers[i].out = (const uint8_t *)"\0\0\0\0\0";
        answers[i].out_length = 5;
        h2_start(&h2, "POST", "/t.T/Park", h2_grpc, NULL, &answers[i]);
    }
    assert_true(core_wait_parked(&h2, 10 * round));
    assert_true(h2_until(&h2, &answers[11].closed, H2_WAIT_MS));
    assert_true(h2_until(&h2, &answers[10].closed, H2_WAIT_MS));
    assert_int_equal(answers[10].grpc_status, 8);
    assert_non_null(strstr(answers[10].message, "10 calls wait"));
    assert_true(h2_pushed_back(&answers[10]));
    assert_int_equal(core_take(ops), 10);
    for (size_t i = 0; i < 10; i++)
        core_complete(ops[i], DN_OK, "fine");
    for (size_t i = 0; i < 12; i++) {
        assert_true(h2_until(&h2, &answers[i].closed, H2_WAIT_MS));
        refused += answers[i].grpc_status == 8;
        h2_free(&answers[i]);
    }
    assert_int_equal(refused, 2);
    assert_int_equal(counted("dunlin_api_limit_total", "limit=\"pending_calls\""), 2 * round);
}

/* What is too much now, and may not be later, comes with a time to wait; what never fits does not. */
static void test_when_to_come_back(void **state)
{
    (void)state;
    static const struct {
        const char *path, *message;
        bool later;
    } cases[] = {{"/t.T/Full", "", true}, {"/t.T/Big", "99999999", false}, {"/t.T/Fail", "", false}};
    struct h2_answer answer;
    int first_ms = -1;
    bool spread = false;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *message = cases[i].message;
        assert_true(h2_call(&h2, cases[i].path, NULL, message, strlen(message), &answer));
        if (cases[i].later ? !h2_pushed_back(&answer) : answer.pushback_ms != -1)
            fail_msg("%s: told to wait for %d ms", cases[i].path, answer.pushback_ms);
        h2_free(&answer);
    }
    for (int i = 0; i < 100 && !spread; i++) {
        assert_true(h2_call(&h2, "/t.T/Full", NULL, "", 0, &answer));
        assert_true(h2_pushed_back(&answer));
        first_ms = first_ms < 0 ? answer.pushback_ms : first_ms;
        spread = answer.pushback_ms != first_ms;
        h2_free(&answer);
    }
    assert_true(spread); /* not all at the same moment */
}

/* Twice: what the first round took is given back. */
static void test_pending_calls(void **state)
{
    (void)state;
    pending_calls_round(1);
    pending_calls_round(2);
}

static void test_calls_refused(void **state)
{
    (void)state;
    /* More calls than twice pending_calls that never end: the streams are refused, not the process filled. */
    struct h2_answer answers[30];
    memset(answers, 0, sizeof answers);
    for (size_t i = 0; i < 30; i++) {
        answers[i].out_open = true;
        h2_start(&h2, "POST", "/t.T/Echo", h2_grpc, NULL, &answers[i]);
    }
    for (size_t i = 20; i < 30; i++) {
        assert_true(h2_until(&h2, &answers[i].closed, H2_WAIT_MS));
        assert_int_equal(answers[i].close_code, NGHTTP2_REFUSED_STREAM);
    }
    assert_int_equal(counted("dunlin_api_limit_total", "limit=\"streams\""), 10);
    assert_false(answers[0].closed);
    for (size_t i = 0; i < 20; i++)
        nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, answers[i].stream_id, NGHTTP2_CANCEL);
    assert_true(counts_to("dunlin_api_cancelled_total", "", 20));
    expect("/t.T/Fail", NULL, "still here", 9, "still here");
}

static void test_pending_bytes(void **state)
{
    (void)state;
    /* Four messages of 1 MiB announced, three fit; their bodies never come. */
    struct h2_answer answers[4];
    memset(answers, 0, sizeof answers);
    size_t refused = 0;
    for (size_t i = 0; i < 4; i++) {
        answers[i].out = (const uint8_t *)"\0\0\x0f\xff\x00";
        answers[i].out_length = 5;
        answers[i].out_open = true;
        h2_start(&h2, "POST", "/t.T/Echo", h2_grpc, NULL, &answers[i]);
    }
    assert_true(h2_until(&h2, &answers[3].closed, H2_WAIT_MS));
    for (size_t i = 0; i < 4; i++) {
        refused += answers[i].grpc_status == 8;
        if (!answers[i].closed)
            nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, answers[i].stream_id, NGHTTP2_CANCEL);
    }
    assert_int_equal(refused, 1);
    assert_non_null(strstr(answers[3].message, "as many bytes"));
    assert_true(h2_pushed_back(&answers[3]));
    assert_true(counts_to("dunlin_api_cancelled_total", "", 3));
    assert_int_equal(counted("dunlin_api_limit_total", "limit=\"pending_bytes\""), 1);
    /* what they held is given back */
    static char megabyte[1 << 20];
    for (int i = 0; i < 5; i++) {
        struct h2_answer answer;
        assert_true(h2_call(&h2, "/t.T/Echo", NULL, megabyte, sizeof megabyte - 1, &answer));
        assert_int_equal(answer.grpc_status, 0);
        h2_free(&answer);
    }
}

static void test_connections(void **state)
{
    (void)state;
    struct h2 more[3];
    struct h2_answer answer;
    expect("/t.T/Fail", NULL, "", 9, "");
    for (size_t i = 0; i < 2; i++) {
        assert_true(h2_open(&more[i], server->port));
        assert_true(h2_call(&more[i], "/t.T/Echo", NULL, "x", 1, &answer));
        h2_free(&answer);
    }
    assert_true(h2_open(&more[2], server->port)); /* accepted by the kernel, closed by us */
    assert_false(h2_call(&more[2], "/t.T/Echo", NULL, "x", 1, &answer));
    assert_true(more[2].gone);
    assert_int_equal(counted("dunlin_api_limit_total", "limit=\"connections\""), 1);
    for (size_t i = 0; i < 3; i++)
        h2_shut(&more[i]);
}

static void test_idle(void **state)
{
    (void)state;
    struct h2 silent = {0};
    uint8_t byte;
    expect("/t.T/Fail", NULL, "", 9, "");
    silent.fd = h2_socket(server->port); /* never speaks */
    assert_true(silent.fd >= 0);
    assert_true(counts_to("dunlin_api_idle_closed_total", "", 2));
    assert_true(h2_until(&h2, &h2.goaway, H2_WAIT_MS));
    while (recv(silent.fd, &byte, 1, 0) > 0) /* the server's SETTINGS, then the end */
        ;
    close(silent.fd);
}

/* A reader that gives no window: the answer waits in its call, other calls go on, and the stream does not
 * last for ever. */
static void test_slow_reader(void **state)
{
    (void)state;
    struct h2_answer slow = {.out = (const uint8_t *)"\0\0\0\0\7"
                                                     "3000000",
                             .out_length = 12},
                     answer;
    h2.no_window = true;
    h2_start(&h2, "POST", "/t.T/Big", h2_grpc, NULL, &slow);
    uint64_t end = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    while (slow.length < 65535 && dn_monotonic_us() < end)
        h2_turn(&h2, 20);
    assert_int_equal(slow.length, 65535); /* one window's worth */
    struct h2 other;
    assert_true(h2_open(&other, server->port));
    for (int i = 0; i < 20; i++) {
        assert_true(h2_call(&other, "/t.T/Echo", NULL, "quick", 5, &answer));
        assert_int_equal(answer.grpc_status, 0);
        h2_free(&answer);
    }
    h2_shut(&other);
    assert_false(slow.closed);
    nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, slow.stream_id, NGHTTP2_CANCEL);
    h2_turn(&h2, 20);
    h2_free(&slow);
}

static int setup_resets(void **state)
{
    (void)state;
    return setup_with((struct dn_api_limits){.resets_per_s = 1});
}

/* Streams opened and reset as fast as can be: the connection is ended, the server goes on. */
static void test_rapid_reset(void **state)
{
    (void)state;
    struct h2_answer answer;
    for (int i = 0; i < 20000 && !h2.gone && !h2.goaway; i++) {
        static struct h2_answer none;
        none = (struct h2_answer){.out_open = true};
        h2_start(&h2, "POST", "/t.T/Echo", h2_grpc, NULL, &none);
        if (none.stream_id < 0)
            break;
        nghttp2_session_send(h2.session);
        nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, none.stream_id, NGHTTP2_CANCEL);
        h2_turn(&h2, 0);
    }
    uint64_t end = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    while (!h2.gone && !h2.goaway && dn_monotonic_us() < end)
        h2_turn(&h2, 20);
    assert_true(h2.gone || h2.goaway);
    h2_shut(&h2);
    assert_true(h2_open(&h2, server->port));
    assert_true(h2_call(&h2, "/t.T/Echo", NULL, "x", 1, &answer));
    assert_int_equal(answer.grpc_status, 0);
    h2_free(&answer);
}

/* ---- streams, drain, stop
 * ------------------------------------------------------------------------------------ */

static bool body_reaches(struct h2_answer *answer, size_t length)
{
    uint64_t end = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    while (answer->length < length && !h2.gone && dn_monotonic_us() < end)
        h2_turn(&h2, 10);
    return answer->length == length;
}

static void test_stream(void **state)
{
    (void)state;
    struct h2_answer answer = {.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5};
    h2_start(&h2, "POST", "/t.T/Stream", h2_grpc, NULL, &answer);
    assert_true(h2_until(&h2, &answer.headers, H2_WAIT_MS));
    assert_int_equal(answer.length, 0);
    for (uint32_t value = 1; value <= 3; value++) {
        atomic_store(&core_stream_value, value);
        assert_true(body_reaches(&answer, 9 * value));
        assert_memory_equal(answer.body + 9 * (value - 1) + 5, &value, 4);
    }
    assert_false(answer.closed);
    atomic_store(&core_stream_finish, true);
    assert_true(h2_until(&h2, &answer.closed, H2_WAIT_MS));
    assert_int_equal(answer.grpc_status, 10);
    assert_string_equal(answer.message, "over");
    h2_free(&answer);
    /* with a deadline; and one that the client cancels */
    atomic_store(&core_stream_finish, false);
    const struct h2_header more[] = {{"grpc-timeout", "50m"}, {NULL, NULL}};
    assert_true(h2_call(&h2, "/t.T/Stream", more, "", 0, &answer));
    assert_int_equal(answer.grpc_status, 4);
    h2_free(&answer);
    answer = (struct h2_answer){.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5};
    h2_start(&h2, "POST", "/t.T/Stream", h2_grpc, NULL, &answer);
    assert_true(h2_until(&h2, &answer.headers, H2_WAIT_MS));
    nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, answer.stream_id, NGHTTP2_CANCEL);
    assert_true(counts_to("dunlin_api_cancelled_total", "", 1));
    h2_free(&answer);
}

static void *drain_main(void *data)
{
    dn_server_drain(data, H2_WAIT_MS);
    return NULL;
}

static void test_drain(void **state)
{
    (void)state;
    struct h2_answer parked = {.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5}, stream = parked;
    struct dn_op *ops[CORE_OPS_MAX];
    pthread_t thread;
    h2_start(&h2, "POST", "/t.T/Park", h2_grpc, NULL, &parked);
    h2_start(&h2, "POST", "/t.T/Stream", h2_grpc, NULL, &stream);
    assert_true(core_wait_parked(&h2, 1));
    assert_int_equal(pthread_create(&thread, NULL, drain_main, server), 0);
    assert_true(h2_until(&h2, &h2.goaway, H2_WAIT_MS));
    assert_true(h2_until(&h2, &stream.closed, H2_WAIT_MS));
    assert_int_equal(stream.grpc_status, 10);
    /* nobody new gets in, what runs goes on */
    uint64_t end = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    int fd = -1;
    while ((fd = h2_socket(server->port)) >= 0 && dn_monotonic_us() < end)
        close(fd);
    assert_true(fd < 0);
    assert_false(parked.closed);
    assert_int_equal(core_take(ops), 1);
    core_complete(ops[0], DN_OK, "in time");
    assert_true(h2_until(&h2, &parked.closed, H2_WAIT_MS));
    assert_int_equal(parked.grpc_status, 0);
    pthread_join(thread, NULL);
    end = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    while (!h2.gone && dn_monotonic_us() < end)
        h2_turn(&h2, 20);
    assert_true(h2.gone); /* the last call is answered: the connection is closed */
    h2_free(&parked);
    h2_free(&stream);
}

static void test_drain_gives_up(void **state)
{
    (void)state;
    struct h2_answer parked = {.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5};
    h2_start(&h2, "POST", "/t.T/Park", h2_grpc, NULL, &parked);
    assert_true(core_wait_parked(&h2, 1));
    dn_server_drain(server, 100); /* teardown completes the op, then stops */
}

static void test_ports(void **state)
{
    (void)state;
    struct dn_error err;
    struct dn_server *second = NULL;
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", server->port);
    struct dn_server_options options = {.address = address,
                                        .threads = 2,
                                        .methods = core_methods,
                                        .method_count = sizeof core_methods / sizeof core_methods[0]};
    assert_int_equal(dn_server_start(&options, &second, &err), DN_EXISTS);
    assert_non_null(strstr(err.message, "in use"));
    assert_non_null(strstr(err.message, address));
    options.address = "192.0.2.1:7070"; /* not ours */
    assert_int_not_equal(dn_server_start(&options, &second, &err), DN_OK);
    options.address = "nonsense";
    assert_int_equal(dn_server_start(&options, &second, &err), DN_INVALID);
    assert_null(second);
    assert_true(dn_server_alive(server, 10000000));
}

/* ---- many threads: for the thread sanitizer
 * -------------------------------------------------------------------- */

#define THREADS 3
#define CALLS_A_THREAD 300

static atomic_bool completer_stop;

static void *completer_main(void *data)
{
    (void)data;
    static struct dn_op *ops[CORE_OPS_MAX];
    while (!atomic_load(&completer_stop)) {
        size_t count = core_take(ops);
        for (size_t i = 0; i < count; i++)
            core_complete(ops[i], DN_OK, "done");
        if (count == 0)
            usleep(200);
    }
    return NULL;
}

static void *caller_main(void *data)
{
    struct h2 mine;
    uintptr_t bad = 0;
    if (!h2_open(&mine, *(uint16_t *)data))
        return (void *)1;
    for (int i = 0; i < CALLS_A_THREAD; i++) {
        struct h2_answer answer;
        /* every fifth is given up by its deadline, or just before */
        const struct h2_header more[] = {{"grpc-timeout", i % 5 ? "20S" : "300u"}, {NULL, NULL}};
        if (!h2_call(&mine, i % 2 ? "/t.T/Park" : "/t.T/Echo", more, "abc", 3, &answer) ||
            (answer.grpc_status != 0 && (i % 5 || answer.grpc_status != 4)))
            bad++;
        h2_free(&answer);
    }
    h2_shut(&mine);
    return (void *)bad;
}

static void test_threads(void **state)
{
    (void)state;
    struct dn_server *many = core_start(2, (struct dn_api_limits){0});
    pthread_t callers[THREADS], completer;
    uint16_t port = many->port;
    atomic_store(&completer_stop, false);
    assert_int_equal(pthread_create(&completer, NULL, completer_main, NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&callers[i], NULL, caller_main, &port), 0);
    for (size_t i = 0; i < THREADS; i++) {
        void *bad;
        pthread_join(callers[i], &bad);
        assert_null(bad);
    }
    dn_server_drain(many, 5000);
    atomic_store(&completer_stop, true);
    pthread_join(completer, NULL);
    core_end(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_echo, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_when_to_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_http_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_framing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_early_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadlines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_park_and_complete, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_completions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connection_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pending_calls, setup_small, teardown),
        cmocka_unit_test_setup_teardown(test_calls_refused, setup_small, teardown),
        cmocka_unit_test_setup_teardown(test_pending_bytes, setup_small, teardown),
        cmocka_unit_test_setup_teardown(test_connections, setup_small, teardown),
        cmocka_unit_test_setup_teardown(test_idle, setup_small, teardown),
        cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rapid_reset, setup_resets, teardown),
        cmocka_unit_test_setup_teardown(test_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drain_gives_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
