/* dunlin-chaos: breaks real clusters on purpose, and judges what their clients were told. */
#include "chaos/cmd_check.h"
#include "chaos/run.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

const char *argp_program_version = "dunlin-chaos " DUNLIN_VERSION;

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} commands[] = {
    {"run", chaos_cmd_run, "start a cluster, let clients and faults loose on it, and judge"},
    {"check", chaos_cmd_check, "judge a history that was written before"},
    {"list", chaos_cmd_list, "print nemeses (faults), workloads and rules"},
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static void print_help(FILE *out)
{
    fputs("Usage: dunlin-chaos COMMAND [OPTION...]\n\nCommands:\n", out);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-8s%s\n", commands[i].name, commands[i].what);
    fputs("\n`dunlin-chaos COMMAND --help` tells a command's options. Exit codes: 0 valid, 1 a rule is "
          "violated, "
          "2 usage, 3 this machine could not do it.\n",
          out);
}

int main(int argc, char **argv)
{
    argp_err_exit_status = CHAOS_EXIT_USAGE;
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0)) {
        print_help(stdout);
        return CHAOS_EXIT_VALID;
    }
    if (argc >= 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
        puts(argp_program_version);
        return CHAOS_EXIT_VALID;
    }
    for (size_t i = 0; argc >= 2 && i < COMMAND_COUNT; i++) {
        char name[64];
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        snprintf(name, sizeof name, "dunlin-chaos %s", argv[1]);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    if (argc >= 2)
        fprintf(stderr, "dunlin-chaos: there is no command '%s'\n", argv[1]);
    print_help(stderr);
    return CHAOS_EXIT_USAGE;
}
