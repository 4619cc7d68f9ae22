#include "node/cli_replay.h"

int dn_cli_replay_source(struct dn_cli *cli, int argc, char **argv)
{
    (void)cli;
    (void)argc;
    (void)argv;
    fprintf(stderr, "not yet\n");
    return DN_CLI_FAILED;
}
