/* `dunlin publish` comes back when a node that is too busy says when, for as long as a call may take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"
#include "node/cli.h"
#include "tests/unit/client/tiny_server.h"

enum { PUSHBACK_MS = 20 };

static struct tiny_server server;
static struct dn_cli cli;
static struct dn_cli_batch batch;
static struct dn_cli_totals totals;
static atomic_int asked, busy_times;
static _Atomic(const char *) refusal;

/* Refuses the first calls, then takes every event. */
static void answer(struct tiny_server *tiny, struct tiny_stream *stream, const uint8_t *message,
                   size_t length)
{
    Dunlin__V1__PublishRequest *request = dunlin__v1__publish_request__unpack(NULL, length, message);
    Dunlin__V1__PublishResponse response = DUNLIN__V1__PUBLISH_RESPONSE__INIT;
    Dunlin__V1__EventOutcome outcomes[DN_CLI_BATCH_MAX] = {DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED};
    uint8_t bytes[256];

    if (atomic_fetch_add(&asked, 1) < busy_times) {
        tiny_trailers_only(tiny, stream, "200", "application/grpc", refusal, "the queue is full");
    } else {
        response.n_outcomes = request->n_events;
        response.outcomes = outcomes;
        size_t size = dunlin__v1__publish_response__pack(&response, bytes);
        tiny_body(stream, bytes, size, size);
        tiny_answer(tiny, stream, "0");
    }
    dunlin__v1__publish_request__free_unpacked(request, NULL);
}

static int set_up(void **state)
{
    (void)state;
    memset(&server, 0, sizeof server);
    memset(&totals, 0, sizeof totals);
    server.custom = answer;
    server.pushback = "20";
    tiny_start(&server);
    cli = (struct dn_cli){.server = server.address, .timeout_ms = 5000};
    atomic_store(&asked, 0);
    refusal = "8";
    batch.count = 1;
    snprintf(batch.events[0].key, sizeof batch.events[0].key, "ann");
    snprintf(batch.events[0].item, sizeof batch.events[0].item, "hat");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(totals.token);
    dn_client_close(cli.client);
    tiny_stop(&server);
    return 0;
}

static void it_comes_back(void **state)
{
    uint64_t begin_us = dn_monotonic_us();

    (void)state;
    busy_times = 3;
    assert_int_equal(dn_cli_batch_send(&cli, &batch, &totals), DN_CLI_OK);
    assert_int_equal(atomic_load(&asked), 4);
    assert_int_equal(totals.outcomes[DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED], 1);
    assert_true(dn_monotonic_us() - begin_us >= 3 * PUSHBACK_MS * 1000u); /* not before it was told to */
}

static void not_for_ever(void **state)
{
    (void)state;
    busy_times = 1000000;
    cli.timeout_ms = 50 * PUSHBACK_MS; /* a machine that is all busy gets to ask at least once in it */
    assert_int_equal(dn_cli_batch_send(&cli, &batch, &totals), DN_CLI_FAILED);
    assert_true(atomic_load(&asked) >= 1 && atomic_load(&asked) <= 50);
    /* told to come back at once, it ends too */
    server.pushback = "0";
    batch.count = 1;
    assert_int_equal(dn_cli_batch_send(&cli, &batch, &totals), DN_CLI_FAILED);
}

static void only_where_it_is_told_to(void **state)
{
    (void)state;
    busy_times = 1;
    server.pushback = NULL;
    assert_int_equal(dn_cli_batch_send(&cli, &batch, &totals), DN_CLI_FAILED);
    assert_int_equal(atomic_load(&asked), 1);
    /* another failure may have counted it */
    server.pushback = "20";
    refusal = "4";
    atomic_store(&asked, 0);
    batch.count = 1;
    assert_int_equal(dn_cli_batch_send(&cli, &batch, &totals), DN_CLI_FAILED);
    assert_int_equal(atomic_load(&asked), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(not_for_ever, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_where_it_is_told_to, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
