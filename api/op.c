/* Ops: the asynchronous half of a call.
 *
 * Happy path: a method takes an op (dn_call_op), hands it to consensus (dn_op_propose, dn_op_wait) and parks
 * (dn_call_park). The consensus thread runs proposal_done or wait_done, which copies the answer into the op
 * and posts it (dn_op_done); the call's thread takes it off the queue (dn_op_returned) and, when it was the
 * last, runs the call's resume function.
 *
 * Failures: the thread has too much waiting (dn_call_op answers RESOURCE_EXHAUSTED); consensus' queue is full
 * (the op is abandoned: it counts as completed with DN_EXHAUSTED); the client cancelled or the deadline
 * passed meanwhile (the op is only counted; the call's memory goes when the last one is back). */
#include "api/server.h"

#include <stdio.h>
#include <string.h>

struct dn_op *dn_call_op(struct dn_call *call, size_t result_capacity)
{
    struct dn_thread *thread = call->thread;
    struct dn_server *server = thread->server;
    if ((!call->parked && thread->parked_count >= server->limits.pending_calls) ||
        thread->op_count >= thread->op_max) {
        dn_counter_add(server->counters.limit_pending_calls, 1);
        call->busy = true;
        dn_call_fail(call, DN_EXHAUSTED,
                     "%zu calls wait on this node already: send fewer at once, or try again later",
                     thread->parked_count);
        return NULL;
    }
    struct dn_op *op = dn_arena_zalloc(call->arena, sizeof *op);
    uint8_t *result = dn_arena_alloc(call->arena, result_capacity);
    if (!op || !result) {
        dn_call_fail(call, DN_EXHAUSTED,
                     "the call needs more memory than one call may take: send less at once");
        return NULL;
    }
    op->call = call;
    op->result = result;
    op->result_capacity = result_capacity;
    op->code = DN_INTERNAL;
    /* In the order they were asked for: methods read the answers in that order. */
    struct dn_op **end = &call->ops;
    while (*end)
        end = &(*end)->next;
    *end = op;
    call->holds++;
    thread->op_count++;
    if (!call->parked) {
        call->parked = true;
        thread->parked_count++;
    }
    return op;
}

void dn_op_done(struct dn_op *op)
{
    struct dn_thread *thread = op->call->thread;
    bool posted = dn_queue_push(thread->completions, op);
    DN_ASSERT(posted); /* op_max places, and no more ops than that are out */
    /* op may be gone from here on */
    uv_async_send(&thread->async);
}

void dn_op_abandon(struct dn_op *op, enum dn_code code, const char *message)
{
    op->code = code;
    op->call->busy = op->call->busy || code == DN_EXHAUSTED;
    snprintf(op->message, sizeof op->message, "%s", message);
    op->call->thread->op_count--;
    DN_ASSERT(op->call->holds > 1); /* the running method holds the call */
    op->call->holds--;
}

void dn_op_returned(struct dn_op *op)
{
    op->call->thread->op_count--;
    op->call->busy = op->call->busy || op->busy;
    dn_call_drop_hold(op->call);
}

void dn_call_drop_hold(struct dn_call *call)
{
    struct dn_thread *thread = call->thread;
    DN_ASSERT(call->holds > 0);
    if (--call->holds > 0)
        return;
    for (;;) {
        if (call->parked) {
            call->parked = false;
            thread->parked_count--;
        }
        void (*resume)(struct dn_call *) = call->resume;
        call->resume = NULL;
        if (!call->conn) {
            dn_call_free(call);
            return;
        }
        if (!dn_call_open(call))
            return; /* answered: it goes when its stream closes */
        if (!resume) {
            /* A method that neither answered nor parked is a mistake of ours; the client gets an answer. */
            dn_call_fail(call, DN_INTERNAL, "the method gave no answer");
            return;
        }
        call->holds = 1;
        resume(call);
        if (--call->holds > 0)
            return; /* it waits again */
    }
}

void dn_call_park(struct dn_call *call, void (*resume)(struct dn_call *call))
{
    DN_ASSERT(call->holds > 0); /* only from a running method */
    call->resume = resume;
}
