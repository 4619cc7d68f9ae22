/* Identity: whose data a directory holds. data_dir/identity says cluster, node, address and group count;
 * data_dir/lock keeps a second process out.
 *
 * State machine of the directory: (empty) -> "new" (identity written, groups being bootstrapped) -> "ready"
 * (every group's first entry is in the journal; only from here on does the node speak to others). A crash in
 * "new" is begun again from nothing; in "ready" a missing group is data loss, and the node refuses to start:
 * it must never vote with less than it had. */
#ifndef DN_CONSENSUS_IDENTITY_H
#define DN_CONSENSUS_IDENTITY_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct identity {
    const char *cluster_id;
    uint64_t node_id;
    const char *address;
    uint32_t group_count;
};

/* Takes data_dir/lock; the descriptor is the lock (close it to let go). */
enum dn_code identity_lock(const char *data_dir, int *ret_fd, struct dn_error *err);

/* Compares data_dir's identity with *want, writing it when the directory is new. *ret_ready: the groups were
 * bootstrapped in an earlier life. In state "new" what is left of data_dir/journal is removed. */
enum dn_code identity_open(const char *data_dir, const struct identity *want, bool *ret_ready,
                           struct dn_error *err);

/* All groups are bootstrapped and on disk. */
enum dn_code identity_ready(const char *data_dir, const struct identity *want, struct dn_error *err);

#endif
