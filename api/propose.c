/* Handing ops to consensus, and taking its completions: the only place of the server core that knows it. */
#include "api/server.h"
#include "base/clock.h"

#include <string.h>

/* The share of the time left, and its most, kept back for the way from consensus to the client. */
#define DEADLINE_MARGIN_DIVISOR 10
#define DEADLINE_MARGIN_MAX_US 50000

static void op_message(struct dn_op *op, const char *message)
{
    size_t length = strnlen(message, sizeof op->message - 1);
    memcpy(op->message, message, length);
    op->message[length] = '\0';
}

static uint64_t op_deadline_us(const struct dn_call *call)
{
    uint64_t now = dn_monotonic_us();
    if (call->deadline_us <= now)
        return call->deadline_us;
    uint64_t margin = (call->deadline_us - now) / DEADLINE_MARGIN_DIVISOR;
    if (margin > DEADLINE_MARGIN_MAX_US)
        margin = DEADLINE_MARGIN_MAX_US;
    return call->deadline_us - margin;
}

/* Consensus thread. */
static void proposal_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index,
                          const uint8_t *result, size_t result_length, const struct dn_error *err)
{
    struct dn_op *op = proposal->data;
    op->code = code;
    op->busy = code == DN_EXHAUSTED;
    op->index = index;
    if (code == DN_OK) {
        op->result_length = result_length < op->result_capacity ? result_length : op->result_capacity;
        if (op->result_length > 0)
            memcpy(op->result, result, op->result_length);
    } else {
        op_message(op, err && err->message[0] ? err->message : dn_code_text(code));
    }
    dn_op_done(op);
}

/* Consensus thread. */
static void wait_done(struct dn_wait *wait, enum dn_code code, uint64_t applied, const struct dn_error *err)
{
    struct dn_op *op = wait->data;
    op->code = code;
    op->busy = code == DN_EXHAUSTED;
    op->index = applied;
    if (code != DN_OK)
        op_message(op, err && err->message[0] ? err->message : dn_code_text(code));
    dn_op_done(op);
}

/* Consensus thread. */
static void member_change_done(struct dn_member_change *change, enum dn_code code, const struct dn_error *err)
{
    struct dn_op *op = change->data;
    const char *message = err && err->message[0] ? err->message : dn_code_text(code);
    op->code = code;
    if (code != DN_OK && op->result_capacity > 0) {
        op->result_length = strnlen(message, op->result_capacity - 1);
        memcpy(op->result, message, op->result_length);
        op->result[op->result_length++] = '\0';
    }
    dn_op_done(op);
}

/* Consensus took nothing: it has enough, or it has stopped. Clients try elsewhere only when told so. */
static void refused(struct dn_op *op, const char *full)
{
    if (atomic_load(&op->call->thread->server->draining))
        dn_op_abandon(op, DN_UNAVAILABLE, "the node is shutting down: try another one");
    else
        dn_op_abandon(op, DN_EXHAUSTED, full);
}

#define QUEUE_FULL "the node's queue of writes and waits is full: try again later"

void dn_op_propose(struct dn_op *op, struct dn_consensus *consensus, uint32_t group, const uint8_t *record,
                   size_t length)
{
    op->proposal = (struct dn_proposal){
        .group = group,
        .record = record,
        .length = length,
        .deadline_us = op_deadline_us(op->call),
        .done = proposal_done,
        .data = op,
    };
    if (!dn_consensus_propose(consensus, &op->proposal))
        refused(op, QUEUE_FULL);
}

void dn_op_wait(struct dn_op *op, struct dn_consensus *consensus, uint32_t group, enum dn_wait_kind kind,
                uint64_t index)
{
    op->wait = (struct dn_wait){
        .group = group,
        .kind = kind,
        .index = index,
        .deadline_us = op_deadline_us(op->call),
        .done = wait_done,
        .data = op,
    };
    if (!dn_consensus_wait(consensus, &op->wait))
        refused(op, QUEUE_FULL);
}

void dn_op_member_change(struct dn_op *op, struct dn_consensus *consensus, struct dn_member_change *change)
{
    change->deadline_us = op_deadline_us(op->call);
    change->done = member_change_done;
    change->data = op;
    if (!dn_consensus_member_change(consensus, change))
        refused(op, "too many changes of members are under way: try again later");
}
