/* Nemeses: the faults, by name, and the seeded schedule that lets them loose. */
#ifndef DN_CHAOS_NEMESIS_H
#define DN_CHAOS_NEMESIS_H

#include "chaos/cluster.h"
#include "chaos/history.h"

#include <stdatomic.h>
#include <stdio.h>

#define CHAOS_NEMESES_MAX 64

struct chaos_nemesis_info {
    const char *name; /* "kill-leader" */
    const char *text; /* for people, one line */
};

/* All there are, in the order of --help. */
const struct chaos_nemesis_info *chaos_nemesis_list(unsigned *ret_count);

/* Whether a comma separated list of names means this one (of chaos_nemesis_list): "all" stands for all but
 * those of a stream's broker, "stream" for these. */
bool chaos_nemesis_is_named(const char *names, unsigned number);
/* The first word of the list that means nothing; NULL: there is none. "none" is a list of its own. */
const char *chaos_nemesis_unknown(const char *names, size_t *ret_length);

/* Tries each on this machine and cluster: ret_why[i] is NULL where it works, otherwise why not (static or
 * owned by the cluster): these are skipped, and printed. */
void chaos_nemesis_probe(struct chaos_cluster *cluster, const char *ret_why[CHAOS_NEMESES_MAX]);

struct chaos_schedule {
    uint64_t seed;
    const char *names; /* comma separated, "all" and "stream" among them; or "none" */
    int64_t duration_ms;
    int64_t fault_ms[2]; /* how long a fault lasts: between these (0, 0: the default) */
    int64_t quiet_ms[2]; /* how long none lasts in between */
};

/* Prints what the schedule would do, without doing it; the times are those of a cluster that takes none to
 * heal. DN_INVALID: a name that is none. */
enum dn_code chaos_schedule_print(const struct chaos_schedule *schedule, FILE *out, struct dn_error *err);

/* Runs the schedule on the calling thread until its duration is over or *stop: each fault is written into the
 * history when it begins and when it has ended. Then heals everything: all first members run, no fault is
 * left. The order and kinds of faults depend on the seed and the names alone; which node leads does not.
 * Every fault is four operations of f FAULT and the name: :invoke and :info with what "begin", then :invoke
 * and :info with what "end"; error of the :info tells people what was done. Blocks up to a minute after
 * *stop: it heals. An error: a fault could not be healed, or the cluster did not come back; the message says
 * which node. */
enum dn_code chaos_nemesis_run(struct chaos_cluster *cluster, struct chaos_history *history,
                               const struct chaos_schedule *schedule, const atomic_bool *stop,
                               struct dn_error *err);

#endif
