/* dunlin key: the cluster's pre-shared key. */
#include "node/cli.h"
#include "transport/transport.h"

#include <stdio.h>
#include <string.h>

struct arguments {
    struct dn_cli *cli;
    const char *action, *path;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0)
            arguments->action = arg;
        else if (state->arg_num == 1)
            arguments->path = arg;
        else
            argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!arguments->action || strcmp(arguments->action, "create") != 0 || !arguments->path)
            argp_error(state, "say: create FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int dn_cli_key(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        NULL,
        parse,
        "create FILE",
        "Makes a new random key for the links between nodes and writes it to FILE, which must not exist, "
        "readable by "
        "its owner only.\vCopy the file to every node (peers.key_file). Whoever has it can act as a node: "
        "treat it "
        "as a password. To change keys while the cluster runs, see peers.previous_key_file in `dunlind "
        "--sample-config`.",
        children,
        NULL,
        NULL};
    struct arguments arguments = {.cli = cli};
    struct dn_error err = {0};

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    if (dn_transport_key_create(arguments.path, &err) != DN_OK) {
        fprintf(stderr, "dunlin: key create: %s\n", err.message);
        return DN_CLI_FAILED;
    }
    if (cli->json)
        dn_cli_print_json(json_pack("{s:o}", "file", dn_cli_json_text(arguments.path)));
    else
        printf("key written to %s\n", arguments.path);
    return DN_CLI_OK;
}
