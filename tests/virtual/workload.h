/* What is done with the cluster, and what was seen of it: clients that publish and read at all levels, and a
 * stream consumer on whoever leads a shard. All of it goes into a history as the chaos program writes it, for
 * the same checkers. */
#ifndef DN_TESTS_VIRTUAL_WORKLOAD_H
#define DN_TESTS_VIRTUAL_WORKLOAD_H

#include "chaos/history.h"
#include "tests/virtual/cluster.h"

struct workload_counts {
    uint64_t published, acknowledged, unknown, refused, duplicates, reads, reads_failed, ages_known, batches,
        gaps;
};
extern struct workload_counts workload_counts;

void workload_open(void);
void workload_close(void);
/* Each client and each consumer takes a step, at its own times, from now on. */
void workload_begin(void);
/* No new events; what is not answered is tried again. */
void workload_calm(void);
/* Everything that was published is answered, and the stream is in. */
bool workload_done(void);
/* Ends what was asked of a node whose process is gone. */
void workload_node_ended(unsigned node);
/* A fault, as the history has it: name, "begin" or "end". */
void workload_fault(const char *name, const char *what, enum chaos_type type);
void workload_status(void); /* of all nodes, into the history */
/* Reads every user at every node; what must be there is. */
void workload_final_reads(void);
struct chaos_history *workload_history(void);

#endif
