/* dunlin-replay: makes clickstreams, publishes them, measures the answers, and checks that nothing was lost.
 */
#include "replay/replay.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

const char *argp_program_version = "dunlin-replay " DUNLIN_VERSION;

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} commands[] = {
    {"generate", dn_replay_generate, "write a clickstream and a catalogue made from a seed"},
    {"publish", dn_replay_publish, "publish events from a file through the API"},
    {"run", dn_replay_run, "publish events, ask for recommendations, measure latency and hit rate"},
    {"check", dn_replay_check, "compare acknowledged events with the sessions on every node"},
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static void print_help(FILE *out)
{
    fputs("Usage: dunlin-replay COMMAND [OPTION...]\n\nCommands:\n", out);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-10s%s\n", commands[i].name, commands[i].what);
    fputs("\n`dunlin-replay COMMAND --help` tells a command's options. Exit codes: 0 done, 1 failure, 2 "
          "usage.\n",
          out);
}

int main(int argc, char **argv)
{
    argp_err_exit_status = DN_EXIT_USAGE;
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0)) {
        print_help(stdout);
        return DN_EXIT_OK;
    }
    if (argc >= 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
        puts(argp_program_version);
        return DN_EXIT_OK;
    }
    for (size_t i = 0; argc >= 2 && i < COMMAND_COUNT; i++) {
        char name[64];

        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        snprintf(name, sizeof name, "dunlin-replay %s", commands[i].name);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    if (argc >= 2)
        fprintf(stderr, "dunlin-replay: unknown command '%s'\n\n", argv[1]);
    print_help(stderr);
    return DN_EXIT_USAGE;
}
