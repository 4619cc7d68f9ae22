#include "replay/load.h"
#include "replay/replay.h"

#include <stdlib.h>

static error_t parse(int key, char *text, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->input;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void on_outcome(void *data, const struct dn_feed_event *event, int outcome)
{
    dn_load_note_outcome(data, event, outcome);
}

static void print_summary(const struct dn_load *load, const struct dn_sender *sender, double seconds)
{
    json_t *object;

    if (!load->json) {
        dn_load_print_publish(sender, seconds);
        return;
    }
    object = json_object();
    dn_load_json_publish(object, sender, seconds);
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
}

int dn_replay_publish(int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_load_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .parser = parse,
        .children = children,
        .doc = "Publishes events through the API, in order for each user, sending again under the same event "
               "ids "
               "whatever was not answered.\v"
               "Example: dunlin-replay publish --to 127.0.0.1:7070,127.0.0.1:8070 --events events.jsonl"};
    struct dn_load load;
    struct dn_sender *sender = NULL;
    struct dn_error err;
    double seconds = 0;
    enum dn_code code;

    dn_load_default(&load);
    argp_parse(&argp, argc, argv, 0, NULL, &load);
    code = dn_load_open_acked(&load, &err);
    if (code == DN_OK) {
        struct dn_sender_options options = {.addresses = load.addresses,
                                            .address_count = load.address_count,
                                            .batch = load.batch,
                                            .lanes = load.in_flight,
                                            .deadline_ms = load.deadline_ms,
                                            .give_up_ms = load.give_up_ms,
                                            .k = 1,
                                            .on_outcome = on_outcome,
                                            .data = &load};
        code = dn_sender_create(&options, &sender, &err);
    }
    if (code == DN_OK) {
        code = dn_load_pump(&load, sender, NULL, NULL, 0, &seconds, &err);
        print_summary(&load, sender, seconds);
    }
    code = dn_load_close_acked(&load, code, &err);
    if (code != DN_OK)
        fprintf(stderr, "dunlin-replay: %s\n", err.message);
    dn_sender_destroy(sender);
    free(load.addresses_text);
    return code == DN_OK ? DN_EXIT_OK : DN_EXIT_FAILURE;
}
