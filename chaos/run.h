/* dunlin-chaos run: from options to a verdict. Private to the program's subcommands. */
#ifndef DN_CHAOS_RUN_H
#define DN_CHAOS_RUN_H

#include "chaos/cluster.h"
#include "chaos/workload.h"
#include "chaos/workload_stream.h"

enum { CHAOS_EXIT_VALID = 0, CHAOS_EXIT_VIOLATED = 1, CHAOS_EXIT_USAGE = 2, CHAOS_EXIT_UNABLE = 3 };

#define CHAOS_RUN_TEXT 512

struct chaos_run_options {
    unsigned nodes, spares, shards, seconds, clients, rate, deadline_ms;
    int64_t fault_ms[2], quiet_ms[2]; /* 0, 0: the schedule's default */
    uint64_t seed;
    const char *nemeses; /* comma separated; "all", "none"; NULL: the workload's default */
    const struct chaos_workload *workload;
    enum chaos_net net;
    const char *programs;             /* NULL: where this program is */
    const char *out;                  /* NULL: a new folder under TMPDIR */
    const char *mutant;               /* NULL: none */
    enum workload_stream_kind stream; /* of workloads that have one */
    const char *kafka; /* scripts/kafka.sh; NULL: of the folder that this program was begun in */
    bool plain_disks, keep, json;
};

/* argv[0] stands in messages. Ends the program with CHAOS_EXIT_USAGE when they are wrong. */
void chaos_run_options_parse(int argc, char **argv, struct chaos_run_options *ret);
/* The command line that makes the same run again. */
void chaos_run_options_print(const struct chaos_run_options *options, char *ret_text, size_t size);

/* Removes the nodes' data below this folder of a run; their logs and configurations stay. */
void chaos_run_remove_data(const char *folder);

/* The subcommands; each returns the exit code. */
int chaos_cmd_run(int argc, char **argv);
int chaos_cmd_list(int argc, char **argv);

#endif
