/* Events on their way to Events.Publish: what `publish` and `deadletter replay` share. */
#include "node/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Comes back when the node says when (it refused all of it, and none is counted), for as long as a call may
 * take. */
static int publish(struct dn_cli *cli, const Dunlin__V1__PublishRequest *request, ProtobufCMessage **ret)
{
    unsigned waited_ms = 0;

    for (;;) {
        struct dn_error err = {0};
        bool connected;
        int exit_code = dn_cli_connect(cli);

        if (exit_code != DN_CLI_OK)
            return exit_code;
        enum dn_code code = dn_cli_try(cli, "/dunlin.v1.Events/Publish", &request->base,
                                       &dunlin__v1__publish_response__descriptor, ret, &connected, &err);
        if (code == DN_OK)
            return DN_CLI_OK;
        int pushback_ms = code == DN_EXHAUSTED ? dn_client_pushback_ms(cli->client) : -1;
        if (pushback_ms < 0 || waited_ms + (unsigned)pushback_ms + 1 > cli->timeout_ms)
            return dn_cli_complain(cli, "Publish", code, err.message);
        struct timespec pause = {.tv_sec = pushback_ms / 1000, .tv_nsec = pushback_ms % 1000 * 1000000L};
        (void)nanosleep(&pause, NULL);
        waited_ms += (unsigned)pushback_ms + 1; /* so that 0 does not go on for ever */
    }
}

int dn_cli_batch_send(struct dn_cli *cli, struct dn_cli_batch *batch, struct dn_cli_totals *totals)
{
    static Dunlin__V1__Event events[DN_CLI_BATCH_MAX];
    static Dunlin__V1__Event *pointers[DN_CLI_BATCH_MAX];
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    const Dunlin__V1__PublishResponse *response;
    ProtobufCMessage *answer;
    int exit_code;

    for (size_t i = 0; i < batch->count; i++) {
        dunlin__v1__event__init(&events[i]);
        events[i].user_id = batch->events[i].key;
        events[i].item_id = batch->events[i].item;
        events[i].event_id = batch->events[i].event_id;
        events[i].type = (Dunlin__V1__EventType)batch->events[i].type;
        events[i].time_ms = batch->events[i].time_ms;
        events[i].weight = batch->events[i].weight;
        pointers[i] = &events[i];
    }
    request.events = pointers;
    request.n_events = batch->count;
    batch->count = 0;
    exit_code = publish(cli, &request, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    response = (const Dunlin__V1__PublishResponse *)answer;
    for (size_t i = 0; i < response->n_outcomes; i++)
        if ((unsigned)response->outcomes[i] < DN_CLI_OUTCOMES)
            totals->outcomes[response->outcomes[i]]++;
    free(totals->token);
    totals->token = dn_cli_hex(&response->token);
    if (response->message[0] != '\0')
        snprintf(totals->message, sizeof totals->message, "%s", dn_cli_clean(response->message));
    protobuf_c_message_free_unpacked(answer, NULL);
    return DN_CLI_OK;
}

uint64_t dn_cli_totals_refused(const struct dn_cli_totals *totals)
{
    uint64_t refused = 0;

    for (int i = 2; i < DN_CLI_OUTCOMES; i++) /* neither accepted nor duplicate */
        refused += totals->outcomes[i];
    return refused;
}
