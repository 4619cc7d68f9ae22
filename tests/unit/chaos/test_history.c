/* The history in memory: many threads append, pairs are found, nothing moves. */
#include "chaos/history.h"
#include "tests/unit/base/cmocka_all.h"

#include <pthread.h>
#include <string.h>

#define THREADS 4
#define OPS 3000

struct client {
    struct chaos_history *history;
    int32_t number;
};

static void *client_run(void *data)
{
    const struct client *client = data;
    for (int i = 0; i < OPS; i++) {
        struct chaos_event event = {
            .id = (uint64_t)i, .time_ms = client->number, .outcome = -1, .offset = -1};
        struct chaos_op op = {.f = CHAOS_PUBLISH, .process = client->number, .key = (uint64_t)i};
        op.events = &event;
        op.events_count = 1;
        chaos_history_append(client->history, &op);
        op.type = CHAOS_OK;
        event.outcome = 0;
        chaos_history_append(client->history, &op);
    }
    return NULL;
}

static void threads(void **state)
{
    struct chaos_history *history = chaos_history_create();
    pthread_t thread[THREADS];
    struct client clients[THREADS];
    uint64_t next[THREADS] = {0};
    (void)state;
    for (int i = 0; i < THREADS; i++) {
        clients[i] = (struct client){.history = history, .number = i};
        assert_int_equal(pthread_create(&thread[i], NULL, client_run, &clients[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
    }
    assert_int_equal(chaos_history_count(history), 2 * THREADS * OPS);
    for (size_t i = 0; i < chaos_history_count(history); i++) {
        const struct chaos_op *op = chaos_history_at(history, i);
        size_t pair = chaos_history_pair(history, i);
        assert_int_equal(op->index, i);
        assert_true(i == 0 || op->time_ns >= chaos_history_at(history, i - 1)->time_ns);
        assert_int_equal(op->events[0].id, op->key);
        assert_int_equal(op->events[0].time_ms, op->process);
        assert_int_equal(chaos_history_pair(history, pair), i);
        assert_int_equal(chaos_history_at(history, pair)->key, op->key);
        assert_int_equal(chaos_history_at(history, pair)->process, op->process);
        if (op->type == CHAOS_INVOKE) {
            assert_int_equal(op->key, next[op->process]++);
            assert_true(pair > i);
        }
    }
    assert_true(chaos_history_now_ns(history) >=
                chaos_history_at(history, chaos_history_count(history) - 1)->time_ns);
    chaos_history_destroy(history);
}

static uint64_t fault(struct chaos_history *history, enum chaos_type type, const char *name)
{
    struct chaos_op op = {
        .f = CHAOS_FAULT, .process = CHAOS_NEMESIS, .type = type, .name = name, .what = "begin"};
    return chaos_history_append(history, &op);
}

static void nemesis(void **state)
{
    struct chaos_history *history = chaos_history_create();
    struct chaos_op ingest = {.f = CHAOS_INGEST, .process = CHAOS_NEMESIS, .key = 1};
    (void)state;
    uint64_t kill = fault(history, CHAOS_INVOKE, "kill"), cut = fault(history, CHAOS_INVOKE, "cut");
    uint64_t open = fault(history, CHAOS_INVOKE, "open");
    uint64_t stream = chaos_history_append(history, &ingest);
    assert_int_equal(chaos_history_pair(history, fault(history, CHAOS_INFO, "kill")), kill);
    assert_int_equal(chaos_history_pair(history, fault(history, CHAOS_INFO, "cut")), cut);
    assert_true(chaos_history_pair(history, open) == SIZE_MAX);
    assert_true(chaos_history_pair(history, stream) == SIZE_MAX);
    chaos_history_destroy(history);
}

/* What is appended is copied; a text that is no UTF-8, or far too long, is made fit for EDN. */
static void copies(void **state)
{
    struct chaos_history *history = chaos_history_create();
    char text[5000] = "a\xff";
    uint64_t list[2] = {1, 2};
    struct chaos_op op = {.f = CHAOS_READ, .error = text, .token = list, .token_count = 2};
    (void)state;
    chaos_history_append(history, &op);
    memset(text, 'b', sizeof text - 1);
    list[0] = 7;
    const struct chaos_op *copy = chaos_history_at(history, 0);
    assert_string_equal(copy->error, "a?");
    assert_int_equal(copy->token[0], 1);
    op.type = CHAOS_FAIL;
    chaos_history_append(history, &op);
    assert_int_equal(strlen(chaos_history_at(history, 1)->error), 2000);
    chaos_history_destroy(history);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads),
        cmocka_unit_test(nemesis),
        cmocka_unit_test(copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
