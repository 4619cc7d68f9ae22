/* dunlin: the command-line client. */
#include "node/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *argp_program_version = "dunlin " DUNLIN_VERSION;

static const struct {
    const char *name;
    int (*run)(struct dn_cli *cli, int argc, char **argv);
} commands[] = {
    {"status", dn_cli_status},
    {"health", dn_cli_health},
    {"publish", dn_cli_publish},
    {"recommend", dn_cli_recommend},
    {"similar", dn_cli_similar},
    {"trending", dn_cli_trending},
    {"session", dn_cli_session},
    {"catalog", dn_cli_catalog},
    {"key", dn_cli_key},
    {"journal", dn_cli_journal},
    {"member", dn_cli_member},
    {"source", dn_cli_source},
    {"deadletter", dn_cli_deadletter},
    {"replay", dn_cli_replay},
    {"model", dn_cli_model},
    {"eval", dn_cli_eval},
};

struct arguments {
    struct dn_cli cli;
    int command_at; /* in argv; 0: none */
};

/* Stops at the command: the rest is for its own parser. */
static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &arguments->cli;
        return 0;
    case ARGP_KEY_ARG:
        (void)text;
        arguments->command_at = state->next - 1;
        state->next = state->argc;
        return 0;
    case ARGP_KEY_END:
        if (arguments->command_at == 0)
            argp_error(state, "a command is missing");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .parser = parse,
        .args_doc = "COMMAND [OPTION...]",
        .children = children,
        .doc = "Talks to a dunlin cluster.\n\n"
               "  status                 groups, leaders, freshness, readiness\n"
               "  health                 is the node serving?\n"
               "  member list            who is in the cluster, and who waits to be\n"
               "  member add|promote|remove|replace ID  changes that\n"
               "  publish                an event, or a file of them\n"
               "  recommend USER         items for a user\n"
               "  similar ITEM           items near an item\n"
               "  trending               items with the most events of late\n"
               "  session get|delete     what is remembered of a user\n"
               "  catalog load|get|delete  the items\n"
               "  model show|reset|freeze|unfreeze|set\n"
               "                           the weights of recommendations, and their learning\n"
               "  source list|skip|reset|forget\n"
               "                           how far streams are read, and where to go on\n"
               "  deadletter list|replay   messages that gave no event, or came too late\n"
               "  key create FILE        a key for the links between nodes\n"
               "  journal verify|dump DIR  of a stopped node\n"
               "  replay log|source      the state rebuilt offline, and features for training\n"
               "  eval                   quality of recommendations, on a log of clicks\v"
               "`dunlin COMMAND --help` tells a command's options. Exit codes: 0 done, 1 the request failed "
               "or its answer could not be printed, 2 "
               "usage, 3 cannot connect."};
    const char *server = getenv("DUNLIN_SERVER");
    struct arguments arguments = {
        .cli = {.server = server != NULL && *server != '\0' ? server : "127.0.0.1:7070", .timeout_ms = 5000}};
    const char *command;

    argp_err_exit_status = DN_CLI_USAGE;
    argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &arguments);
    command = argv[arguments.command_at];
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        char name[64];
        int exit_code;

        if (strcmp(command, commands[i].name) != 0)
            continue;
        snprintf(name, sizeof name, "dunlin %s", command);
        argv[arguments.command_at] = name;
        exit_code = commands[i].run(&arguments.cli, argc - arguments.command_at, argv + arguments.command_at);
        dn_client_close(arguments.cli.client);
        return dn_cli_finish(exit_code);
    }
    fprintf(stderr, "dunlin: unknown command '%s'; `dunlin --help` lists them\n", command);
    return DN_CLI_USAGE;
}
