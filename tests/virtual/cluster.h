/* A cluster of simulated nodes: on each machine one process with the real consensus, journal and transport,
 * and session shards behind all groups (group 0 too). What holds at every step is checked here: equal hashes
 * at equal index, one leader a term, no reason for a node to refuse its own data. */
#ifndef DN_TESTS_VIRTUAL_CLUSTER_H
#define DN_TESTS_VIRTUAL_CLUSTER_H

#include "consensus/consensus.h"
#include "session/session.h"
#include "tests/virtual/sim.h"

#include <stdio.h>

#define GROUPS_MAX 3
#define NODES_MAX 5

struct replica { /* of one group, in one process; gone with it */
    struct dn_shard *shard;
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    unsigned node;
    uint32_t group;
    bool begun;  /* a record is half applied */
    bool paused; /* the loop had other work before the next part */
};

struct node {
    bool running;        /* a process of it is there */
    bool ready;          /* dn_consensus_start has returned */
    bool stopping;       /* it was asked to stop */
    bool failing;        /* its disk fails now */
    bool faulty;         /* it failed since the process began: the node may give up, and refuse to start */
    uint64_t restart_at; /* 0: nobody will */
    struct dn_consensus *consensus;
    struct replica replicas[GROUPS_MAX];
    struct dn_arena *arena; /* for reads */
    bool leads[GROUPS_MAX]; /* as it was told */
    uint64_t led_term[GROUPS_MAX];
};

struct cluster_counts {
    uint64_t elections, snapshots_installed, snapshots_taken, applied, given_up, refused_start,
        graceful_stops, slices_cut;
};

struct cluster {
    unsigned node_count;
    uint32_t group_count;
    struct node nodes[NODES_MAX];
    struct dn_consensus_options options;
};

extern struct cluster cluster;
extern struct cluster_counts cluster_counts;
/* Called in the simulator when a node's process ended, whatever the reason. */
extern void (*cluster_on_end)(unsigned node);

/* Begins a life: 3 nodes or 5, group 0 and one or two shards, as the seed says. No node runs yet. */
void cluster_open(uint64_t seed);
/* The same with chosen numbers; only the first `initial` nodes are configured as members. */
void cluster_open_as(uint64_t seed, unsigned nodes, unsigned initial, uint32_t groups);
void cluster_close(void);
void cluster_start_node(unsigned node);
void cluster_stop_node(unsigned node); /* in good order */
/* After sim_kill or sim_power_loss. */
void cluster_node_ended(unsigned node);
void cluster_fail_disk(unsigned node, const struct sim_disk_faults *faults);
/* A node whose process has ended is started again at that time. */
void cluster_restart_later(unsigned node, uint64_t delay_ns);
bool cluster_status(unsigned node, uint32_t group, struct dn_group_status *ret); /* false: it is not ready */
/* All nodes are up and at the same index of every group, with the same hash. */
bool cluster_converged(void);
void cluster_tell(FILE *out); /* what each node says of each group, for whoever looks into a failure */

#endif
