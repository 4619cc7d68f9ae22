/* The client against a small server that behaves well, badly, late, and not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"
#include "client/client.h"
#include "client/internal.h"
#include "tiny_server.h"

static struct tiny_server server;
static struct dn_client *client;

static int set_up(void **state)
{
    struct dn_error err;

    (void)state;
    memset(&server, 0, sizeof server);
    tiny_start(&server);
    if (dn_client_connect(server.address, 5000, &client, &err) != DN_OK) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    dn_client_close(client);
    tiny_stop(&server);
    return 0;
}

/* One call that must end with `code`; the error's text must contain `text`. */
static void expect_error(const char *path, enum dn_code code, const char *text)
{
    struct dn_error err = {0};
    uint8_t *bytes = NULL;
    size_t length = 0;

    assert_int_equal(dn_client_call(client, path, (const uint8_t *)"hello", 5, 5000, &bytes, &length, &err),
                     code);
    assert_null(bytes);
    if (strstr(err.message, text) == NULL)
        fail_msg("%s: '%s' does not contain '%s'", path, err.message, text);
}

static void expect_echo(const char *path, const char *message)
{
    struct dn_error err = {0};
    uint8_t *bytes = NULL;
    size_t length = 0;

    if (dn_client_call(client, path, (const uint8_t *)message, strlen(message), 5000, &bytes, &length,
                       &err) != DN_OK)
        fail_msg("%s: %s", path, err.message);
    assert_int_equal(length, strlen(message));
    assert_memory_equal(bytes, message, length);
    free(bytes);
}

static void test_echo(void **state)
{
    (void)state;
    expect_echo("/t/Echo", "hello");
    expect_echo("/t/Echo", "");
    for (int i = 0; i < 300; i++)
        expect_echo("/t/Echo", "again");
    assert_int_equal(dn_client_pending(client), 0);
}

static void test_statuses(void **state)
{
    (void)state;
    expect_error("/t/Status", DN_INVALID, "k must be 1% of \xc3\xa9t\xe9%zz?");
    expect_error("/t/LateStatus", DN_UNAVAILABLE, "");
    expect_error("/t/Nothing", DN_UNIMPLEMENTED, "no such method");
    expect_error("/t/Html", DN_UNIMPLEMENTED, "HTTP status 404");
    expect_error("/t/NoStatus", DN_INTERNAL, "without a grpc-status");
    expect_error("/t/BadStatus", DN_INTERNAL, "");
    expect_error("/t/EmptyOk", DN_INTERNAL, "cut short");
    expect_error("/t/Cut", DN_INTERNAL, "cut short");
    expect_error("/t/Two", DN_INTERNAL, "more than one message");
    expect_error("/t/Compressed", DN_INTERNAL, "compressed");
    expect_error("/t/Huge", DN_EXHAUSTED, "longer than 64 MiB");
    expect_error("/t/Refuse", DN_UNAVAILABLE, "reset");
    expect_echo("/t/Echo", "and the connection lives on");
}

/* When to come back, as the server says with an error, of the last call. */
static void test_pushback(void **state)
{
    (void)state;
    expect_error("/t/Nothing", DN_UNIMPLEMENTED, "");
    assert_int_equal(dn_client_pushback_ms(client), -1);
    server.pushback = "120";
    expect_error("/t/Nothing", DN_UNIMPLEMENTED, "");
    assert_int_equal(dn_client_pushback_ms(client), 120);
    expect_echo("/t/Echo", "went well");
    assert_int_equal(dn_client_pushback_ms(client), -1);
    server.pushback = "-1";
    expect_error("/t/Nothing", DN_UNIMPLEMENTED, "");
    assert_int_equal(dn_client_pushback_ms(client), -1);
}

/* More than every window in both directions. */
static void test_large_messages(void **state)
{
    const size_t size = 5 << 20;
    uint8_t *big = malloc(size), *bytes = NULL;
    struct dn_error err = {0};
    size_t length = 0;

    (void)state;
    for (size_t i = 0; i < size; i++)
        big[i] = (uint8_t)(i * 2654435761u >> 24);
    assert_int_equal(dn_client_call(client, "/t/Echo", big, size, 60000, &bytes, &length, &err), DN_OK);
    assert_int_equal(length, size);
    assert_memory_equal(bytes, big, size);
    free(bytes);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(dn_client_call(client, "/t/Big", NULL, 0, 60000, &bytes, &length, &err), DN_OK);
        assert_int_equal(length, size);
        free(bytes);
    }
    /* The server answers after the first bytes: the error must come, not a hang or a broken connection. */
    bytes = NULL;
    assert_int_equal(dn_client_call(client, "/t/Early", big, size, 60000, &bytes, &length, &err),
                     DN_EXHAUSTED);
    assert_string_equal(err.message, "too long");
    expect_echo("/t/Echo", "alive");
    assert_int_equal(
        dn_client_send(client, "/t/Echo", big, (size_t)DN_CLIENT_MESSAGE_MAX + 1, 0, NULL, NULL, &err),
        DN_EXHAUSTED);
    free(big);
}

struct seen {
    int status[512];
    int order[512];
    char text[512][48];
    size_t count;
};
struct tagged {
    struct seen *seen;
    int tag;
};

static void note(void *data, const struct dn_reply *reply)
{
    struct tagged *tagged = data;
    struct seen *seen = tagged->seen;

    seen->status[tagged->tag]++;
    seen->order[seen->count++] = tagged->tag;
    snprintf(seen->text[tagged->tag], sizeof seen->text[0], "%d %.*s", reply->grpc_status, (int)reply->length,
             (const char *)reply->bytes);
}

static void send_tagged(struct tagged *tagged, const char *path, const char *message, unsigned deadline_ms)
{
    struct dn_error err;

    if (dn_client_send(client, path, (const uint8_t *)message, strlen(message), deadline_ms, note, tagged,
                       &err) != DN_OK)
        fail_msg("%s", err.message);
}

static void poll_until_idle(void)
{
    uint64_t start_us = dn_monotonic_us();

    while (dn_client_pending(client) > 0) {
        (void)dn_client_poll(client, 100, NULL);
        if (dn_monotonic_us() - start_us > 60000000)
            fail_msg("calls still pending after a minute");
    }
}

static void test_many_in_flight(void **state)
{
    static struct seen seen;
    static struct tagged tags[512];
    char text[16];

    (void)state;
    memset(&seen, 0, sizeof seen);
    for (int i = 0; i < 40; i++) {
        tags[i] = (struct tagged){&seen, i};
        snprintf(text, sizeof text, "m%d", i);
        send_tagged(&tags[i], "/t/Hold", text, 0);
    }
    tags[40] = (struct tagged){&seen, 40};
    send_tagged(&tags[40], "/t/Release", "", 0);
    assert_int_equal(dn_client_pending(client), 41);
    poll_until_idle();
    assert_int_equal(seen.count, 41);
    for (int i = 0; i < 40; i++) {
        snprintf(text, sizeof text, "0 m%d", i);
        assert_string_equal(seen.text[i], text);
        assert_int_equal(seen.status[i], 1);
    }
    /* Far more calls than the server takes at once. */
    memset(&seen, 0, sizeof seen);
    for (int i = 0; i < 512; i++) {
        tags[i] = (struct tagged){&seen, i};
        snprintf(text, sizeof text, "n%d", i);
        send_tagged(&tags[i], "/t/Echo", text, 60000);
    }
    poll_until_idle();
    assert_int_equal(seen.count, 512);
    for (int i = 0; i < 512; i++) {
        snprintf(text, sizeof text, "0 n%d", i);
        assert_string_equal(seen.text[i], text);
    }
}

static void test_deadline(void **state)
{
    static struct seen seen;
    struct tagged tag = {&seen, 0};

    (void)state;
    memset(&seen, 0, sizeof seen);
    send_tagged(&tag, "/t/Never", "x", 150);
    expect_echo("/t/Echo", "others go on");
    poll_until_idle();
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.text[0], "4 ");
    expect_echo("/t/Echo", "still here");
    assert_int_equal(atomic_load(&server.held_timeout_ms), 150);
    assert_int_equal(atomic_load(&server.resets), 1);
}

/* A deadline that passes while the call still waits for a free stream. */
static void test_deadline_in_queue(void **state)
{
    static struct seen seen;
    static struct tagged tags[150];

    (void)state;
    memset(&seen, 0, sizeof seen);
    expect_echo("/t/Echo", "so that the server's limit of 100 streams is known");
    for (int i = 0; i < 150; i++) {
        tags[i] = (struct tagged){&seen, i};
        send_tagged(&tags[i], "/t/Never", "x", 200);
    }
    poll_until_idle();
    assert_int_equal(seen.count, 150);
    for (int i = 0; i < 150; i++)
        assert_string_equal(seen.text[i], "4 ");
    expect_echo("/t/Echo", "alive");
}

static void test_goaway(void **state)
{
    static struct seen seen;
    struct tagged tags[4];
    struct dn_error err;

    (void)state;
    memset(&seen, 0, sizeof seen);
    for (int i = 0; i < 4; i++)
        tags[i] = (struct tagged){&seen, i};
    send_tagged(&tags[0], "/t/Echo", "a", 0);
    send_tagged(&tags[1], "/t/Goaway", "b", 0);
    send_tagged(&tags[2], "/t/Never", "c", 0);
    send_tagged(&tags[3], "/t/Never", "d", 0);
    poll_until_idle();
    assert_string_equal(seen.text[0], "0 a");
    assert_string_equal(seen.text[1], "0 b");
    assert_string_equal(seen.text[2], "14 ");
    assert_string_equal(seen.text[3], "14 ");
    assert_int_equal(dn_client_send(client, "/t/Echo", NULL, 0, 0, note, &tags[0], &err), DN_UNAVAILABLE);
    assert_int_equal(dn_client_poll(client, 0, &err), DN_UNAVAILABLE);
    assert_int_equal(seen.count, 4);
}

static void test_connection_lost(void **state)
{
    static struct seen seen;
    struct tagged tags[3];
    struct dn_error err;

    (void)state;
    memset(&seen, 0, sizeof seen);
    for (int i = 0; i < 3; i++)
        tags[i] = (struct tagged){&seen, i};
    send_tagged(&tags[0], "/t/Never", "a", 0);
    send_tagged(&tags[1], "/t/Never", "b", 0);
    send_tagged(&tags[2], "/t/Close", "c", 0);
    poll_until_idle();
    for (int i = 0; i < 3; i++)
        assert_string_equal(seen.text[i], "-1 ");
    assert_int_equal(dn_client_poll(client, 0, &err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, server.address));
    expect_error("/t/Echo", DN_UNAVAILABLE, server.address);
}

static void test_close_completes_calls(void **state)
{
    static struct seen seen;
    struct tagged tags[2] = {{&seen, 0}, {&seen, 1}};

    (void)state;
    memset(&seen, 0, sizeof seen);
    send_tagged(&tags[0], "/t/Never", "a", 0);
    (void)dn_client_poll(client, 20, NULL);
    send_tagged(&tags[1], "/t/Never", "b", 0);
    dn_client_close(client);
    client = NULL;
    assert_int_equal(seen.count, 2);
    assert_string_equal(seen.text[0], "1 ");
    assert_string_equal(seen.text[1], "1 ");
}

struct chain {
    int left;
    int failed;
};

static void next_link(void *data, const struct dn_reply *reply)
{
    struct chain *chain = data;

    if (reply->grpc_status != 0)
        chain->failed++;
    if (chain->left-- > 0 &&
        dn_client_send(client, "/t/Echo", (const uint8_t *)"x", 1, 5000, next_link, chain, NULL) != DN_OK)
        chain->failed++;
}

static void test_callback_sends(void **state)
{
    struct chain chain = {.left = 200};

    (void)state;
    next_link(&chain, &(struct dn_reply){0});
    poll_until_idle();
    assert_int_equal(chain.left, -1);
    assert_int_equal(chain.failed, 0);
}

static void test_connect_errors(void **state)
{
    static const char *const bad[] = {"", "nowhere", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:99999", "a:b"};
    struct dn_client *other = NULL;
    struct dn_error err;
    struct tiny_server idle = {0};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dn_client_connect(bad[i], 100, &other, &err), DN_INVALID);
        assert_non_null(strstr(err.message, "HOST:PORT"));
    }
    tiny_listen(&idle); /* a port that is free again a moment later */
    close(idle.listener);
    assert_int_equal(dn_client_connect(idle.address, 2000, &other, &err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "refused"));
    assert_null(other);
}

static void test_status_text(void **state)
{
    static const struct {
        const char *text;
        int status;
    } statuses[] = {{"0", 0}, {"16", 16}, {"17", 2}, {"", 2}, {"-1", 2}, {"007", 2}, {"1x", 2}, {"05", 5}};
    static const struct {
        const char *text;
        int pushback_ms;
    } pushbacks[] = {{"0", 0},   {"199", 199}, {"999999", 999999}, {"1000000", -1},
                     {"-1", -1}, {"", -1},     {"1s", -1},         {"18446744073709551616", -1}};
    char text[8];

    (void)state;
    for (size_t i = 0; i < sizeof pushbacks / sizeof pushbacks[0]; i++)
        assert_int_equal(
            dn_client_parse_pushback((const uint8_t *)pushbacks[i].text, strlen(pushbacks[i].text)),
            pushbacks[i].pushback_ms);
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++)
        assert_int_equal(dn_client_parse_status((const uint8_t *)statuses[i].text, strlen(statuses[i].text)),
                         statuses[i].status);
    assert_int_equal(dn_client_percent_decode((const uint8_t *)"%41%4", 5, text, sizeof text), 3);
    assert_string_equal(text, "A%4");
    assert_int_equal(dn_client_percent_decode((const uint8_t *)"123456789", 9, text, sizeof text), 7);
    assert_string_equal(text, "1234567");
    for (int status = -1; status < 20; status++)
        assert_true(dn_client_code(status) == DN_OK ? status == 0 : true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_echo, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_statuses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pushback, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_large_messages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_in_flight, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deadline, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deadline_in_queue, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_goaway, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_connection_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close_completes_calls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_callback_sends, set_up, tear_down),
        cmocka_unit_test(test_connect_errors),
        cmocka_unit_test(test_status_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
