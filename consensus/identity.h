/* Identity: whose data a directory holds. data_dir/identity says cluster, node, raft id, address, group
 * count, and the members the cluster began with; data_dir/lock keeps a second process out.
 *
 * State machine of the directory: (empty) -> "new" (the raft id is chosen; the node is part of no cluster) ->
 * "ready" (every group's first entry is in the journal; only from here on does it speak Raft) -> "removed"
 * (the cluster has removed this node; it never starts again). A crash in "new" is begun again from nothing
 * but the raft id; in "ready" a missing group is data loss, and the node refuses to start: it must never vote
 * with less than it had. */
#ifndef DN_CONSENSUS_IDENTITY_H
#define DN_CONSENSUS_IDENTITY_H

#include "base/error.h"
#include "consensus/greet.h"

#include <stdbool.h>
#include <stdint.h>

struct identity {
    /* what the configuration says */
    const char *cluster_id;
    uint64_t node_id;
    const char *address;
    uint32_t group_count;
    /* what only the directory knows */
    uint64_t raft_id;      /* random, never 0 */
    uint64_t joined_index; /* of the configuration of group 0 that let this node in; 0: an initial member */
    struct member_list initial; /* "ready": the first entry of every group's log */
};

/* Takes data_dir/lock; the descriptor is the lock (close it to let go). */
enum dn_code identity_lock(const char *data_dir, int *ret_fd, struct dn_error *err);

/* Compares data_dir's identity with the first part of *id and fills in the second, writing it when the
 * directory is new. *ret_ready: the groups were bootstrapped in an earlier life. In state "new" what is left
 * of data_dir/journal is removed. */
enum dn_code identity_open(const char *data_dir, struct identity *id, bool *ret_ready, struct dn_error *err);

/* All groups are bootstrapped and on disk. */
enum dn_code identity_ready(const char *data_dir, const struct identity *id, struct dn_error *err);

/* The cluster has removed this node. */
enum dn_code identity_removed(const char *data_dir, const struct identity *id, struct dn_error *err);

#endif
