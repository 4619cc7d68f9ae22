/* Read levels: how new the state must be before a method looks at it.
 *
 * Happy path: LOCAL runs at once; SESSION runs at once when the token's indexes are applied here (the usual
 * case), else it waits for them; LINEARIZABLE waits for a barrier. Waiting parks the call.
 *
 * Failures: too stale or of unknown age (UNAVAILABLE: another node may do better), a token from elsewhere
 * (INVALID_ARGUMENT), an index nobody committed (OUT_OF_RANGE), no leader in time. */
#include "api/service.h"

#include "base/clock.h"

#include <inttypes.h>
#include <string.h>

static void look_at_ages(const struct dn_app *app, struct dn_read *read)
{
    read->looked_us = dn_boottime_us();
    read->age_known = true;
    for (size_t i = 0; i < read->group_count; i++) {
        uint64_t age_us = 0;
        read->age_known =
            dn_consensus_age_us(app->options.consensus, read->groups[i], &age_us) && read->age_known;
        read->age_us = age_us > read->age_us ? age_us : read->age_us;
    }
}

static void read_go(struct dn_call *call, struct dn_read *read)
{
    const struct dn_app *app = dn_call_app(call);
    read->applied = dn_consensus_applied(app->options.consensus, read->group);
    look_at_ages(app, read);
    dn_epoch_enter(call->thread->reader);
    read->next(call, read, read->state);
    dn_epoch_leave(call->thread->reader);
}

static void read_resume(struct dn_call *call)
{
    for (const struct dn_op *op = call->ops; op; op = op->next) {
        if (op->code != DN_OK) {
            dn_call_fail(call, op->code, "waiting for the state to be as new as asked for: %s", op->message);
            return;
        }
    }
    /* Thousands may wait for one barrier, and their answers may be large: the request was small when it came
     * in, so the limit is looked at again. */
    const struct dn_server *server = call->thread->server;
    if (call->thread->pending_bytes > server->limits.pending_bytes) {
        dn_counter_add(server->counters.limit_pending_bytes, 1);
        call->busy = true;
        dn_call_fail(call, DN_EXHAUSTED,
                     "this node holds as many bytes of unfinished calls as it may: try again later");
        return;
    }
    read_go(call, call->state_of_method);
}

static bool fresh_enough(struct dn_call *call, uint64_t max_ms, const uint32_t *groups, size_t count)
{
    const struct dn_app *app = dn_call_app(call);
    for (size_t i = 0; i < count; i++) {
        uint64_t age_us;
        if (!dn_consensus_age_us(app->options.consensus, groups[i], &age_us)) {
            dn_call_fail(call, DN_UNAVAILABLE, "the age of shard %u is not known on this node yet",
                         groups[i]);
            return false;
        }
        if (age_us / 1000 > max_ms || (age_us / 1000 == max_ms && age_us % 1000 > 0)) {
            dn_call_fail(call, DN_UNAVAILABLE,
                         "shard %u is %" PRIu64 " ms old on this node; max_staleness_ms is %" PRIu64,
                         groups[i], age_us / 1000, max_ms);
            return false;
        }
    }
    return true;
}

static bool wait_for_token(struct dn_call *call, const struct dn_read *read, const uint32_t *groups,
                           size_t count)
{
    const struct dn_app *app = dn_call_app(call);
    for (size_t i = 0; i < count; i++) {
        uint64_t index = dn_token_index(&read->token, groups[i]);
        if (index == 0 || dn_consensus_applied(app->options.consensus, groups[i]) >= index)
            continue;
        struct dn_op *op = dn_call_op(call, 0);
        if (!op)
            return false;
        dn_op_wait(op, app->options.consensus, groups[i], DN_WAIT_APPLIED, index);
    }
    return true;
}

static bool wait_for_barriers(struct dn_call *call, const uint32_t *groups, size_t count)
{
    const struct dn_app *app = dn_call_app(call);
    for (size_t i = 0; i < count; i++) {
        struct dn_op *op = dn_call_op(call, 0);
        if (!op)
            return false;
        dn_op_wait(op, app->options.consensus, groups[i], DN_WAIT_BARRIER, 0);
    }
    return true;
}

void dn_read_begin(struct dn_call *call, const Dunlin__V1__ReadOptions *options, const uint32_t *groups,
                   size_t group_count,
                   void (*next)(struct dn_call *call, const struct dn_read *read, void *state), void *state)
{
    const struct dn_app *app = dn_call_app(call);
    struct dn_read *read = dn_arena_zalloc(call->arena, sizeof *read);
    if (!read) {
        dn_fail_memory(call);
        return;
    }
    read->next = next;
    read->state = state;
    DN_ASSERT(group_count >= 1 && group_count <= DN_GROUPS_MAX);
    read->group = groups[0];
    read->group_count = group_count;
    memcpy(read->groups, groups, group_count * sizeof *groups);
    call->state_of_method = read;
    int level = options ? (int)options->level : (int)DUNLIN__V1__READ_LEVEL__READ_LEVEL_LOCAL;
    if (options && options->token.len > 0) {
        struct dn_error err;
        if (dn_token_decode(options->token.data, options->token.len, app->token_key,
                            app->options.shard_count + 1, &read->token, &err) != DN_OK) {
            dn_wrap(&err, DN_INVALID, "read");
            dn_call_fail_error(call, &err);
            return;
        }
    }
    if (level != DUNLIN__V1__READ_LEVEL__READ_LEVEL_LOCAL && options->max_staleness_ms > 0) {
        dn_call_fail(call, DN_INVALID, "read.max_staleness_ms: only for READ_LEVEL_LOCAL");
        return;
    }
    switch (level) {
    case DUNLIN__V1__READ_LEVEL__READ_LEVEL_LOCAL:
        if (options && options->max_staleness_ms > 0 &&
            !fresh_enough(call, options->max_staleness_ms, groups, group_count))
            return;
        break;
    case DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION:
        if (options->token.len == 0) {
            dn_call_fail(call, DN_INVALID,
                         "read.token: missing; READ_LEVEL_SESSION needs the token of an earlier answer");
            return;
        }
        if (!wait_for_token(call, read, groups, group_count))
            return;
        break;
    case DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE:
        if (!wait_for_barriers(call, groups, group_count))
            return;
        break;
    default:
        dn_call_fail(call, DN_INVALID, "read.level: %d is not a read level (0, 1 or 2)", level);
        return;
    }
    if (call->ops)
        dn_call_park(call, read_resume);
    else
        read_go(call, read);
}

/* Since when the streams of any of these shards stand still; 0: they do not. In an epoch. */
static int64_t stalled_since(const struct dn_app *app, const struct dn_read *read)
{
    char reason[DN_STALL_REASON_MAX + 1];
    int64_t since_ms = 0;
    for (size_t i = 0; i < read->group_count; i++) {
        if (read->groups[i] == 0)
            continue; /* the catalogue */
        int64_t shard_ms = dn_shard_stalled(app->options.shards[read->groups[i] - 1], reason);
        if (shard_ms != 0 && (since_ms == 0 || shard_ms < since_ms))
            since_ms = shard_ms;
    }
    return since_ms;
}

uint64_t dn_stalled_for_ms(int64_t since_ms)
{
    int64_t now_ms = dn_wall_ms();
    return since_ms != 0 && now_ms > since_ms ? (uint64_t)(now_ms - since_ms) : 0;
}

void dn_read_freshness(const struct dn_call *call, const struct dn_read *read, Dunlin__V1__Freshness *ret)
{
    const struct dn_app *app = dn_call_app(call);
    uint64_t age_us = read->age_us + (dn_boottime_us() - read->looked_us);
    dunlin__v1__freshness__init(ret);
    ret->age_known = read->age_known;
    ret->age_us = ret->age_known ? age_us : 0;
    int64_t since_ms = stalled_since(app, read);
    ret->stream_stalled = since_ms != 0;
    ret->stream_age_ms = dn_stalled_for_ms(since_ms);
    ret->stale = ret->stream_stalled || !ret->age_known || age_us > app->options.freshness_alarm_ms * 1000ull;
    ret->applied_index = read->applied;
    ret->shard = read->group;
    ret->node = (char *)(uintptr_t)app->options.node_name;
}

bool dn_token_give(struct dn_call *call, const struct dn_token *token, ProtobufCBinaryData *ret)
{
    uint8_t bytes[DN_TOKEN_BYTES_MAX];
    size_t length = dn_token_encode(token, dn_call_app(call)->token_key, bytes);
    ret->data = dn_arena_memdup(call->arena, bytes, length);
    ret->len = length;
    if (!ret->data)
        dn_fail_memory(call);
    return ret->data != NULL;
}
