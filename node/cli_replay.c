/* dunlin replay: the state rebuilt offline, from a node's log or from the history of sources. */
#include "node/cli_replay.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

FILE *dn_cli_replay_create(const char *path)
{
    if (strcmp(path, "-") == 0)
        return stdout;
    FILE *file = fopen(path, "we");
    if (file == NULL)
        fprintf(stderr, "dunlin: replay: create '%s': %s\n", path, strerror(errno));
    return file;
}

bool dn_cli_replay_close(FILE *file, const char *path)
{
    bool whole = ferror(file) == 0 && fflush(file) == 0;

    if (file != stdout && fclose(file) != 0)
        whole = false;
    if (!whole)
        fprintf(stderr, "dunlin: replay: write '%s': %s\n", path, strerror(errno));
    return whole;
}

int dn_cli_replay_complain(enum dn_code code, const struct dn_error *err)
{
    fprintf(stderr, "dunlin: replay: %s: %s\n", dn_code_text(code), dn_cli_clean(err->message));
    return DN_CLI_FAILED;
}

struct arguments {
    struct dn_cli *cli;
    int action_at; /* in argv; 0: none */
};

/* Stops at the action: the rest is for its own parser. */
static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case ARGP_KEY_ARG:
        if (strcmp(text, "log") != 0 && strcmp(text, "source") != 0)
            argp_error(state, "unknown action '%s': use log or source", text);
        arguments->action_at = state->next - 1;
        state->next = state->argc;
        return 0;
    case ARGP_KEY_END:
        if (arguments->action_at == 0)
            argp_error(state, "say log or source");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int dn_cli_replay(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .parser = parse,
        .args_doc = "log --data-dir DIR [OPTION...]\nsource --config FILE [OPTION...]",
        .children = children,
        .doc =
            "Rebuilds session state offline, with the state machine that the cluster runs.\n\n"
            "  log      from the data directory of a stopped node, or a copy of it\n"
            "  source   from the history of the configured sources, until a time; and writes features for "
            "training\v"
            "`dunlin replay log --help` and `dunlin replay source --help` tell more. Exit codes: 0 done, 1 "
            "it failed, or a state is not what nodes had reported, 2 usage."};
    struct arguments arguments = {.cli = cli};
    char name[32];

    argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &arguments);
    bool log = strcmp(argv[arguments.action_at], "log") == 0;
    snprintf(name, sizeof(name), "dunlin replay %s", log ? "log" : "source");
    argv[arguments.action_at] = name;
    return (log ? dn_cli_replay_log : dn_cli_replay_source)(cli, argc - arguments.action_at,
                                                            argv + arguments.action_at);
}
