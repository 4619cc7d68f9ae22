/* A server core with methods of the tests' own: echo, calls that park until the test completes them, answers
 * of any size, a stream. No services, no consensus. */
#ifndef DN_TEST_API_CORE_H
#define DN_TEST_API_CORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/service.h"
#include "h2.h"

#include <pthread.h>

#define CORE_OPS_MAX 4096

/* Ops that a test method handed out; the test completes them on another thread, as consensus would. */
static struct {
    pthread_mutex_t lock;
    struct dn_op *ops[CORE_OPS_MAX];
    size_t count, ever;
} core_parked = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic bool core_stream_finish;
static _Atomic uint32_t core_stream_value;

static void core_echo(struct dn_call *call, const uint8_t *message, size_t length)
{
    dn_call_reply_bytes(call, message, length);
}

static void core_resume(struct dn_call *call)
{
    const struct dn_op *op = call->ops;
    if (op->code != DN_OK)
        dn_call_fail(call, op->code, "%s", op->message);
    else
        dn_call_reply_bytes(call, op->result, op->result_length);
}

static void core_park(struct dn_call *call, const uint8_t *message, size_t length)
{
    (void)message, (void)length;
    struct dn_op *op = dn_call_op(call, 16);
    if (!op)
        return;
    pthread_mutex_lock(&core_parked.lock);
    DN_ASSERT(core_parked.count < CORE_OPS_MAX);
    core_parked.ops[core_parked.count++] = op;
    core_parked.ever++;
    pthread_mutex_unlock(&core_parked.lock);
    dn_call_park(call, core_resume);
}

/* Asks for an op and cannot hand it out, as when consensus' queue is full. */
static void core_abandon(struct dn_call *call, const uint8_t *message, size_t length)
{
    (void)message, (void)length;
    struct dn_op *op = dn_call_op(call, 16);
    if (!op)
        return;
    dn_op_abandon(op, DN_EXHAUSTED, "the queue is full");
    dn_call_park(call, core_resume);
}

/* The message is a decimal size: so many bytes come back. */
static void core_big(struct dn_call *call, const uint8_t *message, size_t length)
{
    char text[16];
    snprintf(text, sizeof text, "%.*s", (int)length, (const char *)message);
    size_t size = strtoul(text, NULL, 10);
    uint8_t *bytes = dn_arena_zalloc(call->arena, size);
    if (bytes)
        dn_call_reply_bytes(call, bytes, size);
    else
        dn_call_fail(call, DN_EXHAUSTED, "out of memory");
}

static void core_fail(struct dn_call *call, const uint8_t *message, size_t length)
{
    dn_call_fail(call, DN_PRECONDITION, "100%% of \"%.*s\"\n\xc3\xa4", (int)length, (const char *)message);
}

static void core_silent(struct dn_call *call, const uint8_t *message, size_t length)
{
    (void)call, (void)message, (void)length;
}

static void core_stream(struct dn_call *call, const uint8_t *message, size_t length)
{
    (void)message, (void)length;
    call->state_of_method = dn_arena_zalloc(call->arena, sizeof(uint32_t));
    struct dn_thread *thread = call->thread;
    call->list_next = thread->watchers;
    call->list_link = &thread->watchers;
    if (call->list_next)
        call->list_next->list_link = &call->list_next;
    thread->watchers = call;
    dn_call_stream_begin(call);
}

/* Sends each new value once; ends when told. */
static bool core_stream_pull(struct dn_call *call)
{
    uint32_t *last = call->state_of_method;
    uint32_t value = atomic_load(&core_stream_value);
    if (*last != value) {
        *last = value;
        return dn_call_stream_put(call, (const uint8_t *)&value, sizeof value);
    }
    if (atomic_load(&core_stream_finish) || atomic_load(&call->thread->server->draining))
        dn_call_stream_end(call, DN_ABORTED, "over");
    return false;
}

static const struct dn_method core_methods[] = {
    {"/t.T/Echo", "T.Echo", core_echo, NULL},
    {"/t.T/Park", "T.Park", core_park, NULL},
    {"/t.T/Big", "T.Big", core_big, NULL},
    {"/t.T/Fail", "T.Fail", core_fail, NULL},
    {"/t.T/Silent", "T.Silent", core_silent, NULL},
    {"/t.T/Stream", "T.Stream", core_stream, core_stream_pull},
    {"/t.T/Full", "T.Full", core_abandon, NULL},
    {"/dunlin.v1.Cluster/Ping", "Cluster.Ping", dn_svc_ping, NULL},
};

static struct dn_server *core_start(unsigned threads, struct dn_api_limits limits)
{
    struct dn_error err = {.code = DN_OK};
    struct dn_server *server = NULL;
    struct dn_server_options options = {
        .address = "127.0.0.1:0",
        .threads = threads,
        .limits = limits,
        .methods = core_methods,
        .method_count = sizeof core_methods / sizeof core_methods[0],
    };
    if (dn_server_start(&options, &server, &err) != DN_OK)
        fail_msg("start: %s", err.message);
    atomic_store(&core_stream_finish, false);
    atomic_store(&core_stream_value, 0);
    core_parked.count = 0;
    core_parked.ever = 0;
    return server;
}

/* Takes out up to CORE_OPS_MAX parked ops. */
static inline size_t core_take(struct dn_op **ret)
{
    pthread_mutex_lock(&core_parked.lock);
    size_t count = core_parked.count;
    memcpy(ret, core_parked.ops, count * sizeof *ret);
    core_parked.count = 0;
    pthread_mutex_unlock(&core_parked.lock);
    return count;
}

static inline void core_complete(struct dn_op *op, enum dn_code code, const char *text)
{
    op->code = code;
    snprintf(op->message, sizeof op->message, "%s", text);
    op->result_length = strlen(text) < op->result_capacity ? strlen(text) : op->result_capacity;
    memcpy(op->result, text, op->result_length);
    dn_op_done(op);
}

static void core_end(struct dn_server *server)
{
    dn_server_stop(server);
    dn_server_destroy(server);
}

/* Waits until at least `count` ops were ever parked. */
static inline bool core_wait_parked(struct h2 *h2, size_t count)
{
    uint64_t end = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    for (;;) {
        pthread_mutex_lock(&core_parked.lock);
        size_t ever = core_parked.ever;
        pthread_mutex_unlock(&core_parked.lock);
        if (ever >= count)
            return true;
        if (dn_monotonic_us() > end)
            return false;
        h2_turn(h2, 5);
    }
}

#endif
