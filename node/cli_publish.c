#include "node/cli.h"

#include "base/text.h"
#include "client/names.h"
#include "client/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    struct dn_cli *cli;
    struct dn_feed_event event; /* of the options */
    const char *file;
    bool have_options;
};

enum { KEY_USER = 256, KEY_ITEM, KEY_TYPE, KEY_EVENT_ID, KEY_WEIGHT, KEY_TIME };

static const struct argp_option option_list[] = {
    {"user", KEY_USER, "ID", 0, "The user", 10},
    {"item", KEY_ITEM, "ID", 0, "The item", 10},
    {"type", KEY_TYPE, "TYPE", 0, "view (default), click, cart, buy, like, dislike, play or remove", 10},
    {"event-id", KEY_EVENT_ID, "ID", 0, "The same id again counts once", 10},
    {"weight", KEY_WEIGHT, "W", 0, "0 to 255 (default 1)", 10},
    {"time", KEY_TIME, "MS", 0, "When it happened, ms since 1970 (default now)", 10},
    {0},
};

static void take_id(struct argp_state *state, const char *name, const char *text, char ret[DN_ID_MAX + 1])
{
    size_t length = strlen(text);

    if (!dn_id_valid(text, length))
        argp_error(state, "--%s must be 1 to %d bytes of UTF-8", name, DN_ID_MAX);
    else
        memcpy(ret, text, length + 1);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;
    struct dn_feed_event *event = &arguments->event;
    char *end;
    double weight;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case KEY_USER:
        take_id(state, "user", text, event->key);
        break;
    case KEY_ITEM:
        take_id(state, "item", text, event->item);
        break;
    case KEY_EVENT_ID:
        take_id(state, "event-id", text, event->event_id);
        break;
    case KEY_TYPE:
        if (!dn_event_type_parse(text, &event->type))
            argp_error(state, "--type must be view, click, cart, buy, like, dislike, play or remove");
        break;
    case KEY_WEIGHT:
        weight = strtod(text, &end);
        if (end == text || *end != '\0' || !(weight >= 0 && weight <= 255))
            argp_error(state, "--weight must be a number from 0 to 255, not '%s'", text);
        event->weight = (float)weight;
        break;
    case KEY_TIME:
        event->time_ms = dn_cli_number(state, "--time", text, 0, INT64_C(32503680000000));
        break;
    case ARGP_KEY_ARG:
        if (arguments->file != NULL)
            argp_error(state, "unexpected argument '%s'", text);
        arguments->file = text;
        return 0;
    case ARGP_KEY_END:
        if (arguments->file != NULL && arguments->have_options)
            argp_error(state, "give a file (or -) or the options of one event, not both");
        if (arguments->file == NULL && (event->key[0] == '\0' || event->item[0] == '\0'))
            argp_error(state, "--user and --item are needed, or a file of JSON lines (- is standard input)");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    arguments->have_options = true;
    return 0;
}

static int publish_file(struct arguments *arguments, struct dn_cli_totals *totals)
{
    static struct dn_cli_batch batch;
    struct dn_progress progress;
    struct dn_feed *feed = NULL;
    struct dn_error err;
    uint64_t sent = 0;
    int exit_code = DN_CLI_OK;
    enum dn_code code = dn_feed_open(arguments->file, DN_FEED_AUTO, DN_FEED_KEY_USER, "", &feed, &err);

    dn_progress_begin(&progress, "events", 0);
    while (code == DN_OK && exit_code == DN_CLI_OK) {
        code = dn_feed_next(feed, &batch.events[batch.count], &err);
        if (code == DN_OK)
            batch.count++;
        if (batch.count == DN_CLI_BATCH_MAX || (code == DN_NOT_FOUND && batch.count > 0)) {
            sent += batch.count;
            exit_code = dn_cli_batch_send(arguments->cli, &batch, totals);
            dn_progress_update(&progress, sent);
        }
    }
    dn_progress_end(&progress);
    dn_feed_close(feed);
    if (exit_code == DN_CLI_OK && code != DN_NOT_FOUND)
        return dn_cli_complain(arguments->cli, "publish", code, err.message);
    return exit_code;
}

static int publish_one(struct arguments *arguments, struct dn_cli_totals *totals)
{
    static struct dn_cli_batch batch;

    batch.events[0] = arguments->event;
    batch.count = 1;
    return dn_cli_batch_send(arguments->cli, &batch, totals);
}

static void print_totals(const struct dn_cli *cli, const struct dn_cli_totals *totals)
{
    const char *token = totals->token != NULL ? totals->token : "";

    if (cli->json) {
        json_t *object = json_pack("{s:s, s:s}", "token", token, "message", totals->message);

        for (int i = 0; i < DN_CLI_OUTCOMES; i++)
            json_object_set_new(object, dn_event_outcome_name(i),
                                json_integer((json_int_t)totals->outcomes[i]));
        dn_cli_print_json(object);
        return;
    }
    for (int i = 0; i < DN_CLI_OUTCOMES; i++)
        if (totals->outcomes[i] > 0)
            printf("%s %llu\n", dn_event_outcome_name(i), (unsigned long long)totals->outcomes[i]);
    if (*token != '\0')
        printf("token %s\n", token);
}

int dn_cli_publish(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {.options = option_list,
                                     .parser = parse,
                                     .args_doc = "--user U --item I\nFILE|-",
                                     .children = children,
                                     .doc = "Publishes one event, or a file of JSON lines "
                                            "{\"user\",\"item\",\"type\",\"time_ms\",\"event_id\","
                                            "\"weight\"}.\v"
                                            "Exit code 0 when every event was accepted or had been before. "
                                            "For large files and several nodes: "
                                            "dunlin-replay publish."};
    struct arguments arguments = {.cli = cli};
    struct dn_cli_totals totals = {0};
    int exit_code;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    exit_code = arguments.file != NULL ? publish_file(&arguments, &totals) : publish_one(&arguments, &totals);
    print_totals(cli, &totals);
    uint64_t refused = dn_cli_totals_refused(&totals);
    if (exit_code == DN_CLI_OK && refused > 0) {
        fprintf(stderr, "dunlin: publish: %llu events were not taken%s%s\n", (unsigned long long)refused,
                totals.message[0] != '\0' ? ": " : "", totals.message);
        exit_code = DN_CLI_FAILED;
    }
    free(totals.token);
    return exit_code;
}
