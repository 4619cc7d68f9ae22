/* Sessions: Get and Delete. */
#include "api/service.h"

#include "base/clock.h"
#include "session/record.h"

#include <string.h>

#define ERASE_RESULT_BYTES 16

static bool events_give(struct dn_call *call, const struct dn_session_view *session,
                        Dunlin__V1__GetSessionResponse *response)
{
    size_t count = session->event_count;
    Dunlin__V1__SessionEvent *events = dn_arena_alloc(call->arena, count * sizeof *events);
    Dunlin__V1__SessionEvent **pointers = dn_arena_alloc(call->arena, count * sizeof *pointers);
    if (!events || !pointers)
        return false;
    for (size_t i = 0; i < count; i++) {
        const struct dn_event_view *from = &session->events[i];
        dunlin__v1__session_event__init(&events[i]);
        events[i].item_id = dn_arena_strndup(call->arena, from->item, from->item_length);
        if (!events[i].item_id)
            return false;
        events[i].type = (Dunlin__V1__EventType)from->type;
        events[i].time_ms = from->time_ms;
        events[i].weight = from->weight;
        events[i].current = from->current;
        pointers[i] = &events[i];
    }
    response->n_events = count;
    response->events = pointers;
    return true;
}

static bool counts_give(struct dn_call *call, const struct dn_session_view *session,
                        Dunlin__V1__GetSessionResponse *response)
{
    Dunlin__V1__TypeCount *counts = dn_arena_alloc(call->arena, DN_EVENT_TYPE_MAX * sizeof *counts);
    Dunlin__V1__TypeCount **pointers = dn_arena_alloc(call->arena, DN_EVENT_TYPE_MAX * sizeof *pointers);
    if (!counts || !pointers)
        return false;
    size_t used = 0;
    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++) {
        if (session->counts[type] == 0)
            continue;
        dunlin__v1__type_count__init(&counts[used]);
        counts[used].type = (Dunlin__V1__EventType)type;
        counts[used].count = session->counts[type];
        pointers[used] = &counts[used];
        used++;
    }
    response->n_counts = used;
    response->counts = pointers;
    return true;
}

static void get_next(struct dn_call *call, const struct dn_read *read, void *state)
{
    const struct dn_app *app = dn_call_app(call);
    const Dunlin__V1__GetSessionRequest *request = state;
    struct dn_session_view session;
    enum dn_code code = dn_shard_read(app->options.shards[read->group - 1],
                                      dn_user_hash(app, request->user_id), call->arena, &session);
    if (code == DN_NO_MEMORY) {
        dn_fail_memory(call);
        return;
    }
    struct dn_token token = read->token;
    dn_token_raise(&token, read->group, code == DN_OK ? session.version : read->applied);
    Dunlin__V1__GetSessionResponse response = DUNLIN__V1__GET_SESSION_RESPONSE__INIT;
    Dunlin__V1__Freshness freshness;
    dn_read_freshness(call, read, &freshness);
    response.freshness = &freshness;
    if (code == DN_OK) {
        response.found = true;
        response.start_ms = session.start_ms;
        response.last_ms = session.last_ms;
        response.session_events = session.session_events;
        response.version = session.version;
        if (!events_give(call, &session, &response) || !counts_give(call, &session, &response)) {
            dn_fail_memory(call);
            return;
        }
    }
    if (dn_token_give(call, &token, &response.token))
        dn_call_reply(call, &response.base);
}

void dn_svc_session_get(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    Dunlin__V1__GetSessionRequest *request =
        dn_call_unpack(call, &dunlin__v1__get_session_request__descriptor, message, length);
    if (!request || !dn_check_id(call, "user_id", request->user_id))
        return;
    uint32_t group = dn_api_shard_of(request->user_id, strlen(request->user_id), app->options.shard_count);
    dn_read_begin(call, request->read, &group, 1, get_next, request);
}

static void delete_resume(struct dn_call *call)
{
    const struct dn_op *op = call->ops;
    struct dn_result result;
    struct dn_error err = {.code = DN_OK};
    if (op->code != DN_OK) {
        dn_call_fail(call, op->code, "%s (the session may or may not be deleted: delete it again)",
                     op->message);
        return;
    }
    if (dn_result_parse(op->result, op->result_length, DN_RECORD_ERASE, &result, &err) != DN_OK ||
        result.status != DN_RESULT_OK) {
        dn_call_fail(call, DN_INTERNAL, "the shard did not understand the deletion %s",
                     err.code ? err.message : "");
        return;
    }
    Dunlin__V1__DeleteSessionResponse response = DUNLIN__V1__DELETE_SESSION_RESPONSE__INIT;
    struct dn_token token = {.count = 0};
    dn_token_raise(&token, (uint32_t)(uintptr_t)call->state_of_method, op->index);
    response.existed = result.existed;
    if (dn_token_give(call, &token, &response.token))
        dn_call_reply(call, &response.base);
}

void dn_svc_session_delete(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    struct dn_buffer *scratch = &call->thread->scratch;
    Dunlin__V1__DeleteSessionRequest *request =
        dn_call_unpack(call, &dunlin__v1__delete_session_request__descriptor, message, length);
    if (!request || !dn_check_id(call, "user_id", request->user_id))
        return;
    uint32_t group = dn_api_shard_of(request->user_id, strlen(request->user_id), app->options.shard_count);
    if (app->shown)
        dn_shown_forget(app->shown, dn_user_hash(app, request->user_id));
    dn_buffer_clear(scratch);
    dn_record_erase(scratch, dn_user_hash(app, request->user_id), dn_wall_ms(),
                    dn_thread_random(call->thread));
    uint8_t *record = scratch->failed ? NULL : dn_arena_memdup(call->arena, scratch->bytes, scratch->length);
    if (!record) {
        dn_fail_memory(call);
        return;
    }
    struct dn_op *op = dn_call_op(call, ERASE_RESULT_BYTES);
    if (!op)
        return;
    call->state_of_method = (void *)(uintptr_t)group;
    dn_op_propose(op, app->options.consensus, group, record, scratch->length);
    dn_call_park(call, delete_resume);
}
