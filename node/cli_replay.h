/* Private to node: what the actions of `dunlin replay` share. */
#ifndef DN_NODE_CLI_REPLAY_H
#define DN_NODE_CLI_REPLAY_H

#include "node/cli.h"
#include "node/replay.h"

/* argv[0] is the name shown; the exit code. */
int dn_cli_replay_log(struct dn_cli *cli, int argc, char **argv);
int dn_cli_replay_source(struct dn_cli *cli, int argc, char **argv);

/* Where a dump, or features, go: "-" is standard output. NULL: complained. */
FILE *dn_cli_replay_create(const char *path);
/* Flushes and closes; complains and says false where that fails. */
bool dn_cli_replay_close(FILE *file, const char *path);
/* Prints "dunlin: replay: message"; DN_CLI_FAILED. */
int dn_cli_replay_complain(enum dn_code code, const struct dn_error *err);

#endif
