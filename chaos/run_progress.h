/* What a run prints while it goes on: a line that is drawn again on a terminal, plain lines now and then
 * else. On standard error. One thread. */
#ifndef DN_CHAOS_RUN_PROGRESS_H
#define DN_CHAOS_RUN_PROGRESS_H

#include "chaos/pool.h"

struct run_progress {
    const struct chaos_cluster *cluster;
    const struct workload_counts *counts; /* NULL: not yet */
    bool terminal;
    uint64_t began_ns, drawn_ns;
    unsigned long long drawn_operations;
};

void run_progress_begin(struct run_progress *progress, const struct chaos_cluster *cluster);
/* The line, when it is time for it: phase and counts. */
void run_progress_tick(struct run_progress *progress, const char *phase);
/* A line that stays. */
void run_progress_say(struct run_progress *progress, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
