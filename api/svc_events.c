/* Events.Publish: many events in, one outcome each out, and a token over the shards they went to.
 *
 * Happy path: every event is checked; events are grouped by shard in the request's order; a record a shard
 * (or for each PART_EVENTS_MAX of them) is proposed; when all are back, outcomes go to their places.
 *
 * Failures: one bad event refuses the whole call before anything is proposed. A record that gets no answer in
 * time makes its events UNKNOWN when another was answered, and fails the call otherwise; either way the
 * same event ids may be sent again. */
#include "api/service.h"

#include "base/clock.h"
#include "base/text.h"
#include "session/record.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PART_EVENTS_MAX 2000 /* some 100 kB: two fit one entry, and other calls' records come in between */
#define RESULT_HEAD_BYTES 16 /* status, next_offset, count: more than they take */

struct part { /* one record's events, all of one shard */
    uint32_t group;
    uint32_t first, count; /* in grouped order */
    struct dn_op *op;
};

struct publish {
    size_t count, part_count;
    uint32_t *place;   /* event in the request -> position in grouped order */
    uint8_t *outcomes; /* in grouped order */
    struct part parts[DN_GROUPS_MAX + DN_EVENTS_PER_RECORD_MAX / PART_EVENTS_MAX];
};

static bool event_id_fits(struct dn_call *call, size_t number, const char *field, const char *id,
                          bool may_be_empty)
{
    size_t length = strlen(id);
    if (may_be_empty && length == 0)
        return true;
    if (dn_id_valid(id, length))
        return true;
    char name[64];
    snprintf(name, sizeof name, "events[%zu].%s", number, field);
    return dn_check_id(call, name, id);
}

static bool event_check(struct dn_call *call, size_t number, const Dunlin__V1__Event *event, int64_t now_ms)
{
    if (!event_id_fits(call, number, "user_id", event->user_id, false) ||
        !event_id_fits(call, number, "item_id", event->item_id, false) ||
        !event_id_fits(call, number, "event_id", event->event_id, true))
        return false;
    if ((int)event->type < 0 || (int)event->type > DN_EVENT_TYPE_MAX) {
        dn_call_fail(call, DN_INVALID, "events[%zu].type: %d is not an event type", number, (int)event->type);
        return false;
    }
    if (!isfinite(event->weight) || event->weight < 0 || event->weight > 255) {
        dn_call_fail(call, DN_INVALID, "events[%zu].weight: %g; from 0 (taken as 1) to 255", number,
                     (double)event->weight);
        return false;
    }
    if (event->time_ms < 0) {
        dn_call_fail(call, DN_INVALID,
                     "events[%zu].time_ms: %" PRId64 "; milliseconds since 1970, or 0 for now", number,
                     event->time_ms);
        return false;
    }
    if (event->time_ms > now_ms + DN_TIME_AHEAD_MAX_MS) {
        dn_call_fail(call, DN_INVALID,
                     "events[%zu].time_ms: %" PRId64 " is more than a day ahead of this node's clock", number,
                     event->time_ms);
        return false;
    }
    return true;
}

/* Keyed hash over (user, 0, event id); never 0, which means "none" in a record. */
static uint64_t event_id_hash(const struct dn_app *app, const Dunlin__V1__Event *event)
{
    uint8_t bytes[2 * DN_ID_MAX + 1];
    size_t user_length = strlen(event->user_id), id_length = strlen(event->event_id);
    memcpy(bytes, event->user_id, user_length);
    bytes[user_length] = 0;
    memcpy(bytes + user_length + 1, event->event_id, id_length);
    return dn_keyed_hash64(app->options.hash_key, bytes, user_length + 1 + id_length);
}

static void event_convert(struct dn_call *call, const Dunlin__V1__Event *from, int64_t now_ms,
                          struct dn_event_in *to)
{
    const struct dn_app *app = dn_call_app(call);
    uint64_t id = from->event_id[0] ? event_id_hash(app, from) : dn_thread_random(call->thread);
    float weight = from->weight > 0 ? roundf(from->weight * DN_WEIGHT_ONE) : (float)DN_WEIGHT_ONE;
    *to = (struct dn_event_in){
        .user = dn_user_hash(app, from->user_id),
        .event_id = id ? id : 1,
        .time_ms = from->time_ms ? from->time_ms : now_ms,
        .weight = weight < 1 ? 1 : (uint16_t)weight,
        .type = from->type ? (uint8_t)from->type : DN_EVENT_VIEW,
        .item = from->item_id,
        .item_length = (uint16_t)strlen(from->item_id),
    };
}

/* Groups events by shard, keeping their order: a counting sort. */
static struct dn_event_in *events_group(struct dn_call *call, const Dunlin__V1__PublishRequest *request,
                                        int64_t now_ms, struct publish *publish)
{
    const struct dn_app *app = dn_call_app(call);
    size_t count = request->n_events;
    struct dn_event_in *events = dn_arena_alloc(call->arena, count * sizeof *events);
    uint32_t *groups = dn_arena_alloc(call->arena, count * sizeof *groups);
    publish->place = dn_arena_alloc(call->arena, count * sizeof *publish->place);
    publish->outcomes = dn_arena_alloc(call->arena, count);
    if (!events || !groups || !publish->place || !publish->outcomes)
        return NULL;
    uint32_t next[DN_GROUPS_MAX] = {0};
    for (size_t i = 0; i < count; i++) {
        const char *user = request->events[i]->user_id;
        groups[i] = dn_api_shard_of(user, strlen(user), app->options.shard_count);
        next[groups[i]]++;
    }
    uint32_t first = 0;
    for (uint32_t group = 1; group <= app->options.shard_count; group++) {
        uint32_t of_group = next[group];
        next[group] = first;
        for (uint32_t done = 0; done < of_group; done += PART_EVENTS_MAX) {
            uint32_t left = of_group - done;
            publish->parts[publish->part_count++] =
                (struct part){.group = group,
                              .first = first + done,
                              .count = left < PART_EVENTS_MAX ? left : PART_EVENTS_MAX};
        }
        first += of_group;
    }
    for (size_t i = 0; i < count; i++) {
        publish->place[i] = next[groups[i]]++;
        event_convert(call, request->events[i], now_ms, &events[publish->place[i]]);
    }
    return events;
}

static void publish_answer(struct dn_call *call, const struct publish *publish, const struct dn_token *token,
                           const char *unknown)
{
    Dunlin__V1__PublishResponse response = DUNLIN__V1__PUBLISH_RESPONSE__INIT;
    response.n_outcomes = publish->count;
    response.outcomes = dn_arena_alloc(call->arena, publish->count * sizeof *response.outcomes);
    if (!response.outcomes) {
        dn_fail_memory(call);
        return;
    }
    for (size_t i = 0; i < publish->count; i++) {
        uint8_t outcome = publish->outcomes[publish->place[i]];
        response.outcomes[i] = (Dunlin__V1__EventOutcome)outcome;
        response.accepted += outcome == DN_OUTCOME_ACCEPTED;
    }
    response.message = (char *)(uintptr_t)unknown;
    if (dn_token_give(call, token, &response.token))
        dn_call_reply(call, &response.base);
}

/* None of its events is or will be counted (consensus.h). */
static bool surely_refused(const struct part *part)
{
    return part->op->code == DN_EXHAUSTED || part->op->code == DN_NO_SPACE;
}

static void publish_resume(struct dn_call *call)
{
    struct publish *publish = call->state_of_method;
    struct dn_token token = {.count = 0};
    const struct part *failed = NULL; /* the first; one that may be done yet comes before all refused */
    size_t answered = 0;
    for (size_t i = 0; i < publish->part_count; i++) {
        const struct part *part = &publish->parts[i];
        const struct dn_op *op = part->op;
        uint8_t *outcomes = publish->outcomes + part->first;
        if (op->code != DN_OK) {
            memset(outcomes, DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN, part->count);
            failed = failed && !(surely_refused(failed) && !surely_refused(part)) ? failed : part;
            continue;
        }
        struct dn_result result;
        answered++;
        dn_token_raise(&token, part->group, op->index);
        if (dn_result_parse(op->result, op->result_length, DN_RECORD_EVENTS, &result, NULL) != DN_OK ||
            result.status != DN_RESULT_OK || result.count != part->count)
            memset(outcomes, DN_OUTCOME_INVALID, part->count);
        else
            memcpy(outcomes, result.outcomes, part->count);
    }
    if (answered == 0) {
        DN_ASSERT(failed != NULL); /* a publish has at least one part */
        dn_call_fail(call, failed->op->code, "shard %u: %s (publish again with the same event ids)",
                     failed->group, failed->op->message);
        return;
    }
    char unknown[DN_OP_MESSAGE_MAX + 64] = "";
    if (failed)
        snprintf(unknown, sizeof unknown, "shard %u: %s", failed->group, failed->op->message);
    publish_answer(call, publish, &token, unknown);
}

void dn_svc_publish(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    struct dn_thread *thread = call->thread;
    Dunlin__V1__PublishRequest *request =
        dn_call_unpack(call, &dunlin__v1__publish_request__descriptor, message, length);
    if (!request)
        return;
    if (request->n_events == 0 || request->n_events > DN_EVENTS_PER_CALL_MAX) {
        dn_call_fail(call, DN_INVALID, "events: %zu of them; from 1 to %d in a call", request->n_events,
                     DN_EVENTS_PER_CALL_MAX);
        return;
    }
    int64_t now_ms = dn_wall_ms();
    for (size_t i = 0; i < request->n_events; i++)
        if (!event_check(call, i, request->events[i], now_ms))
            return;
    struct publish *publish = dn_arena_zalloc(call->arena, sizeof *publish);
    struct dn_event_in *events = NULL;
    if (publish) {
        publish->count = request->n_events;
        events = events_group(call, request, now_ms, publish);
    }
    if (!events) {
        dn_fail_memory(call);
        return;
    }
    call->state_of_method = publish;
    /* All ops and records first: from the first proposal on, the call can no longer be refused whole. */
    for (size_t i = 0; i < publish->part_count; i++) {
        struct part *part = &publish->parts[i];
        dn_buffer_clear(&thread->scratch);
        dn_record_events(&thread->scratch, events + part->first, part->count);
        uint8_t *record = thread->scratch.failed
                              ? NULL
                              : dn_arena_memdup(call->arena, thread->scratch.bytes, thread->scratch.length);
        if (!record) {
            dn_fail_memory(call);
            goto err_ops;
        }
        part->op = dn_call_op(call, RESULT_HEAD_BYTES + part->count);
        if (!part->op)
            goto err_ops;
        part->op->record = record;
        part->op->record_length = thread->scratch.length;
    }
    for (size_t i = 0; i < publish->part_count; i++) {
        struct part *part = &publish->parts[i];
        dn_op_propose(part->op, app->options.consensus, part->group, part->op->record,
                      part->op->record_length);
    }
    dn_call_park(call, publish_resume);
    return;

err_ops:
    for (size_t i = 0; i < publish->part_count && publish->parts[i].op; i++)
        dn_op_abandon(publish->parts[i].op, DN_EXHAUSTED, "");
}
