/* Replay: the subcommands of the program dunlin-replay. Each parses its own arguments (argv[0] is the name to
 * show in messages) and returns the exit code: 0 done, 1 failure, 2 usage. */
#ifndef DN_REPLAY_REPLAY_H
#define DN_REPLAY_REPLAY_H

enum { DN_EXIT_OK = 0, DN_EXIT_FAILURE = 1, DN_EXIT_USAGE = 2 };

int dn_replay_generate(int argc, char **argv);
int dn_replay_publish(int argc, char **argv);
int dn_replay_run(int argc, char **argv);
int dn_replay_check(int argc, char **argv);

#endif
