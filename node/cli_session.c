#include "node/cli.h"

#include "client/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct arguments {
    struct dn_cli *cli;
    struct dn_cli_read read;
    const char *action, *user;
};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        state->child_inputs[1] = &arguments->read;
        break;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0 && strcmp(text, "get") != 0 && strcmp(text, "delete") != 0)
            argp_error(state, "unknown action '%s': use get or delete", text);
        if (state->arg_num > 1)
            argp_error(state, "unexpected argument '%s'", text);
        *(state->arg_num == 0 ? &arguments->action : &arguments->user) = text;
        break;
    case ARGP_KEY_END:
        if (arguments->user == NULL)
            argp_error(state, "expected get USER or delete USER");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const char *time_text(int64_t time_ms, char *buffer, size_t size)
{
    time_t seconds = (time_t)(time_ms / 1000);
    struct tm parts;
    char date[40];

    if (gmtime_r(&seconds, &parts) == NULL || strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &parts) == 0)
        snprintf(buffer, size, "%lld", (long long)time_ms);
    else
        snprintf(buffer, size, "%s.%03d", date, (int)(time_ms % 1000));
    return buffer;
}

static void session_json(const Dunlin__V1__GetSessionResponse *session, const char *token)
{
    json_t *events = json_array(), *counts = json_object();

    for (size_t i = 0; i < session->n_events; i++) {
        const Dunlin__V1__SessionEvent *event = session->events[i];

        json_array_append_new(events, json_pack("{s:s, s:s, s:I, s:f, s:b}", "item", event->item_id, "type",
                                                dn_event_type_name((int)event->type), "time_ms",
                                                (json_int_t)event->time_ms, "weight", (double)event->weight,
                                                "current", event->current != 0));
    }
    for (size_t i = 0; i < session->n_counts; i++)
        json_object_set_new(counts, dn_event_type_name((int)session->counts[i]->type),
                            json_integer(session->counts[i]->count));
    dn_cli_print_json(json_pack(
        "{s:b, s:o, s:I, s:I, s:I, s:o, s:I, s:o, s:s}", "found", session->found != 0, "events", events,
        "start_ms", (json_int_t)session->start_ms, "last_ms", (json_int_t)session->last_ms, "session_events",
        (json_int_t)session->session_events, "counts", counts, "version", (json_int_t)session->version,
        "freshness", dn_cli_json_freshness(session->freshness), "token", token));
}

static void session_text(const Dunlin__V1__GetSessionResponse *session, const char *token)
{
    char buffer[64];

    if (!session->found)
        puts("no session");
    for (size_t i = 0; i < session->n_events; i++) {
        const Dunlin__V1__SessionEvent *event = session->events[i];

        printf("%c %s  %-8s %-24s %.2f\n", event->current ? '*' : ' ',
               time_text(event->time_ms, buffer, sizeof buffer), dn_event_type_name((int)event->type),
               dn_cli_clean(event->item_id), (double)event->weight);
    }
    if (session->found)
        printf("current session (*): %u events, version %llu\n", session->session_events,
               (unsigned long long)session->version);
    dn_cli_print_freshness(session->freshness);
    if (*token != '\0')
        printf("token %s\n", token);
}

static int get_session(struct arguments *arguments)
{
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    const Dunlin__V1__GetSessionResponse *session;
    ProtobufCMessage *answer;
    char *token;
    int exit_code;

    request.user_id = (char *)(uintptr_t)arguments->user;
    request.read = &arguments->read.options;
    exit_code = dn_cli_call(arguments->cli, "/dunlin.v1.Sessions/Get", &request.base,
                            &dunlin__v1__get_session_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    session = (const Dunlin__V1__GetSessionResponse *)answer;
    token = dn_cli_hex(&session->token);
    (arguments->cli->json ? session_json : session_text)(session, token);
    exit_code = session->found ? DN_CLI_OK : DN_CLI_FAILED;
    free(token);
    protobuf_c_message_free_unpacked(answer, NULL);
    return exit_code;
}

static int delete_session(struct arguments *arguments)
{
    Dunlin__V1__DeleteSessionRequest request = DUNLIN__V1__DELETE_SESSION_REQUEST__INIT;
    const Dunlin__V1__DeleteSessionResponse *response;
    ProtobufCMessage *answer;
    char *token;
    int exit_code;

    request.user_id = (char *)(uintptr_t)arguments->user;
    exit_code = dn_cli_call(arguments->cli, "/dunlin.v1.Sessions/Delete", &request.base,
                            &dunlin__v1__delete_session_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    response = (const Dunlin__V1__DeleteSessionResponse *)answer;
    token = dn_cli_hex(&response->token);
    if (arguments->cli->json)
        dn_cli_print_json(json_pack("{s:b, s:s}", "existed", response->existed != 0, "token", token));
    else
        printf("%s\ntoken %s\n", response->existed ? "deleted" : "there was no session", token);
    free(token);
    protobuf_c_message_free_unpacked(answer, NULL);
    return DN_CLI_OK;
}

int dn_cli_session(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {
        {&dn_cli_argp, 0, NULL, 0}, {&dn_cli_read_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {.parser = parse,
                                     .args_doc = "get USER\ndelete USER",
                                     .children = children,
                                     .doc = "Shows or deletes what the cluster remembers of a user."};
    struct arguments arguments = {.cli = cli};

    dn_cli_read_init(&arguments.read);
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    return strcmp(arguments.action, "get") == 0 ? get_session(&arguments) : delete_session(&arguments);
}
