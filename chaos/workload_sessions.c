/* Publish, Sessions.Get and Sessions.Delete, as operations of a history. */
#include "chaos/workload_class.h"
#include "chaos/workload_client.h"
#include "chaos/workload_take.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define PATH_PUBLISH "/dunlin.v1.Events/Publish"
#define PATH_GET "/dunlin.v1.Sessions/Get"
#define PATH_DELETE "/dunlin.v1.Sessions/Delete"
#define NAME_MAX_BYTES 24     /* "u-18446744073709551615" */
#define UNREADABLE UINT64_MAX /* stands for an item that no client ever published */

/* ---- publish ---------------------------------------------------------------------------------------- */

/* What cannot be an answer to these events; NULL: nothing. */
static const char *outcomes_wrong(const Dunlin__V1__PublishResponse *response, size_t count)
{
    size_t accepted = 0, counted = 0;
    if (!response || response->n_outcomes != count)
        return "it has not one outcome an event";
    for (size_t i = 0; i < count; i++) {
        if ((unsigned)response->outcomes[i] > DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN)
            return "an outcome is none that there is";
        accepted += response->outcomes[i] == DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED;
        counted += response->outcomes[i] == DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_DUPLICATE;
    }
    if (response->accepted != accepted)
        return "it counts other events as accepted than it names";
    return accepted + counted > 0 && response->token.len == 0 ? "it has no token" : NULL;
}

enum chaos_type workload_take_outcomes(struct workload_answer *answer, struct chaos_event *events,
                                       size_t count, struct workload_tokens *tokens)
{
    Dunlin__V1__PublishResponse *response =
        dunlin__v1__publish_response__unpack(NULL, answer->length, answer->bytes);
    uint64_t counted[WORKLOAD_EVENTS_MAX];
    size_t counted_count = 0, unknown = 0;
    const char *wrong = outcomes_wrong(response, count);
    if (wrong != NULL) {
        workload_malformed(answer, "to %zu events: %s", count, wrong);
        dunlin__v1__publish_response__free_unpacked(response, NULL);
        return CHAOS_INFO;
    }
    for (size_t i = 0; i < count; i++) {
        events[i].outcome = (int32_t)response->outcomes[i];
        unknown += response->outcomes[i] == DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN;
        if (response->outcomes[i] == DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED ||
            response->outcomes[i] == DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_DUPLICATE)
            counted[counted_count++] = events[i].id;
    }
    if (tokens && counted_count > 0)
        workload_tokens_wrote(tokens, response->token.data, response->token.len, counted, counted_count);
    if (unknown > 0)
        snprintf(answer->message, sizeof answer->message, "%s", response->message);
    dunlin__v1__publish_response__free_unpacked(response, NULL);
    return unknown > 0 ? CHAOS_INFO : CHAOS_OK;
}

enum chaos_type workload_publish(struct workload_client *client, unsigned node, uint64_t user,
                                 struct chaos_event *events, size_t count, uint32_t shard,
                                 struct workload_tokens *tokens)
{
    struct chaos_op op = {
        .f = CHAOS_PUBLISH, .node = node, .key = user, .events = events, .events_count = count};
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    Dunlin__V1__Event list[WORKLOAD_EVENTS_MAX], *pointers[WORKLOAD_EVENTS_MAX];
    char user_name[NAME_MAX_BYTES], items[WORKLOAD_EVENTS_MAX][NAME_MAX_BYTES],
        ids[WORKLOAD_EVENTS_MAX][NAME_MAX_BYTES];
    struct workload_answer answer;
    DN_ASSERT(count >= 1 && count <= WORKLOAD_EVENTS_MAX);
    snprintf(user_name, sizeof user_name, "u-%" PRIu64, user);
    for (size_t i = 0; i < count; i++) {
        snprintf(items[i], sizeof items[i], "i-%" PRIu64, events[i].id);
        snprintf(ids[i], sizeof ids[i], "e-%" PRIu64, events[i].id);
        dunlin__v1__event__init(&list[i]);
        list[i].user_id = user_name;
        list[i].item_id = items[i];
        list[i].event_id = ids[i];
        list[i].type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK;
        list[i].time_ms = events[i].time_ms;
        pointers[i] = &list[i];
        events[i].outcome = events[i].offset = -1;
    }
    request.n_events = count;
    request.events = pointers;
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_PUBLISH, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_write_type(answer.status, answer.message);
    if (type == CHAOS_OK)
        type = workload_take_outcomes(&answer, events, count, tokens);
    if (type == CHAOS_OK && shard > 0)
        workload_acknowledged(client, shard);
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}

/* ---- read ------------------------------------------------------------------------------------------- */

/* The list as it was answered, malloc'ed; the ids alone too, for tokens. */
static bool take_list(const Dunlin__V1__GetSessionResponse *response, struct chaos_op *op, uint64_t **ret_ids)
{
    size_t count = response->n_events;
    if (count > CHAOS_LIST_MAX)
        return false;
    op->events = calloc(count + 1, sizeof *op->events);
    *ret_ids = malloc((count + 1) * sizeof **ret_ids);
    DN_ASSERT(op->events != NULL && *ret_ids != NULL); /* a test program: nothing to go on with */
    op->events_count = count;
    for (size_t i = 0; i < count; i++) {
        const Dunlin__V1__SessionEvent *event = response->events[i];
        uint64_t id = UNREADABLE;
        (void)workload_number(event->item_id, "i-", &id);
        op->events[i] =
            (struct chaos_event){.id = id, .time_ms = event->time_ms, .outcome = -1, .offset = -1};
        (*ret_ids)[i] = id;
    }
    return true;
}

/* What cannot be a session; NULL: nothing. */
static const char *session_wrong(const Dunlin__V1__GetSessionResponse *response)
{
    if (!response || !response->freshness)
        return "it is no session, or has no freshness";
    if (response->freshness->shard == 0)
        return "it is of no shard";
    if (!response->found && (response->n_events > 0 || response->version > 0))
        return "it was not found, and has events or a version";
    for (size_t i = 0; i < response->n_events; i++)
        if (response->events[i]->type != DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK)
            return "an event is of a type that nobody published";
    return response->token.len == 0 ? "it has no token" : NULL;
}

enum chaos_type workload_take_session(struct workload_answer *answer, struct chaos_op *op,
                                      const struct workload_token *given, struct workload_tokens *tokens,
                                      uint32_t *ret_shard)
{
    Dunlin__V1__GetSessionResponse *response =
        dunlin__v1__get_session_response__unpack(NULL, answer->length, answer->bytes);
    uint64_t *ids = NULL;
    const char *wrong = session_wrong(response);
    if (wrong != NULL || !take_list(response, op, &ids)) {
        workload_malformed(answer, "a session: %s", wrong != NULL ? wrong : "it has too many events");
        dunlin__v1__get_session_response__free_unpacked(response, NULL);
        return CHAOS_FAIL;
    }
    op->found = response->found;
    op->version = response->version;
    op->age_known = response->freshness->age_known;
    op->age_us = response->freshness->age_us;
    op->shard = *ret_shard = response->freshness->shard;
    op->applied = response->freshness->applied_index;
    if (tokens)
        workload_tokens_read(tokens, given, response->token.data, response->token.len, ids, op->events_count);
    free(ids);
    dunlin__v1__get_session_response__free_unpacked(response, NULL);
    return CHAOS_OK;
}

enum chaos_type workload_read(struct workload_client *client, unsigned node, uint64_t user,
                              enum chaos_level level, bool with_token, struct workload_tokens *tokens,
                              uint32_t *ret_shard)
{
    struct chaos_op op = {.f = CHAOS_READ, .node = node, .key = user};
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    Dunlin__V1__ReadOptions options = DUNLIN__V1__READ_OPTIONS__INIT;
    char user_name[NAME_MAX_BYTES];
    struct workload_answer answer;
    const struct workload_token *given =
        with_token && tokens ? workload_tokens_pick(tokens, &client->random) : NULL;
    op.level = level == CHAOS_SESSION && !given ? CHAOS_LOCAL : level;
    options.level = (Dunlin__V1__ReadLevel)op.level;
    if (given) {
        options.token = (ProtobufCBinaryData){given->length, given->bytes};
        op.token = given->covers;
        op.token_count = given->covers_count;
    }
    snprintf(user_name, sizeof user_name, "u-%" PRIu64, user);
    request.user_id = user_name;
    request.read = &options;
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_GET, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_read_type(answer.status);
    if (type == CHAOS_OK)
        type = workload_take_session(&answer, &op, given, tokens, ret_shard);
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    free(op.events);
    return type;
}

/* ---- erase ------------------------------------------------------------------------------------------ */

enum chaos_type workload_take_erased(struct workload_answer *answer)
{
    Dunlin__V1__DeleteSessionResponse *response =
        dunlin__v1__delete_session_response__unpack(NULL, answer->length, answer->bytes);
    bool fine = response && response->token.len > 0;
    if (!fine)
        workload_malformed(answer, "to an erasure: it is none, or has no token");
    dunlin__v1__delete_session_response__free_unpacked(response, NULL);
    return fine ? CHAOS_OK : CHAOS_INFO;
}

enum chaos_type workload_erase(struct workload_client *client, unsigned node, uint64_t user)
{
    struct chaos_op op = {.f = CHAOS_ERASE, .node = node, .key = user};
    Dunlin__V1__DeleteSessionRequest request = DUNLIN__V1__DELETE_SESSION_REQUEST__INIT;
    char user_name[NAME_MAX_BYTES];
    struct workload_answer answer;
    snprintf(user_name, sizeof user_name, "u-%" PRIu64, user);
    request.user_id = user_name;
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_DELETE, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_write_type(answer.status, answer.message);
    if (type == CHAOS_OK)
        type = workload_take_erased(&answer);
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}
