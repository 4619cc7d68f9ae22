/* History: the groups of a stopped node, read from its data directory and applied to state machines anew.
 *
 * Nothing is written, and nothing but the directory is needed: a copy of it will do. The lock of the
 * directory is shared while a history is open, so that no node starts on it. One thread.
 *
 * What a log says of its own end: an entry in it was proposed, and is in the log of at least this node; only
 * a majority makes it committed, and how far that had come is not written down. A leader that fails may leave
 * entries behind that the next one replaces. But the ticks in the log carry what nodes had *applied*, with
 * hashes of their states, and nothing is applied that is not committed: everything up to the last such mark
 * is sure, and so is a snapshot, and all that the only voter has. What follows is nearly always committed
 * too. */
#ifndef DN_CONSENSUS_HISTORY_H
#define DN_CONSENSUS_HISTORY_H

#include "base/error.h"
#include "consensus/consensus.h"

#include <stdbool.h>
#include <stdint.h>

struct dn_history;

/* DN_PRECONDITION: a node runs on it. DN_NOT_FOUND: no data directory. DN_CORRUPT names file and offset. */
enum dn_code dn_history_open(const char *data_dir, struct dn_history **ret, struct dn_error *err);
void dn_history_close(struct dn_history *history); /* NULL allowed */

struct dn_history_group {
    bool known;              /* false: the directory has nothing of it; all else is 0 */
    uint64_t snapshot_index; /* of the newest snapshot; 0: none */
    uint64_t first_index;    /* of the entries that are kept */
    uint64_t last_index;     /* first_index - 1: there are none */
    uint64_t sure_index;     /* everything up to it is known to be committed */
    uint64_t term;           /* the node's last */
};
/* Reads the group's entries once. group < DN_GROUPS_MAX. DN_CORRUPT, DN_UNIMPLEMENTED (a newer program's),
 * DN_IO. */
enum dn_code dn_history_look(struct dn_history *history, uint32_t group, struct dn_history_group *ret,
                             struct dn_error *err);

struct dn_history_options {
    uint32_t group;
    bool from_start;   /* without the snapshot: from entry 1 */
    uint64_t to_index; /* the last one applied; at least the snapshot's, or 1 with from_start */
    void (*progress)(void *data, uint64_t index); /* after each entry; may be NULL */
    void *data;
};

struct dn_history_result {
    uint64_t from_index;     /* of the snapshot; 0: from nothing */
    uint64_t index, hash;    /* the state's hash as of this index */
    int64_t time_ms;         /* the group's time */
    uint64_t entries;        /* applied: those with records or a tick */
    uint64_t records;        /* in them */
    uint64_t checked;        /* hashes that nodes had reported and that are ours */
    uint64_t differing;      /* that are not */
    uint64_t differs_at;     /* the first index of those; 0: none */
    uint64_t differing_node; /* raft id of who reported that one */
};
/* Brings the state machine, which must be empty, to what the cluster's was at to_index: snapshot, then
 * entries, each as consensus applies it. Hashes that nodes reported in the log are compared on the way; what
 * differs is told in the result and is no error. DN_RANGE: the log does not reach there, or begins too late;
 * says what there is. On failure the state machine is somewhere between. */
enum dn_code dn_history_replay(struct dn_history *history, const struct dn_history_options *options,
                               const struct dn_fsm *fsm, struct dn_history_result *ret, struct dn_error *err);

#endif
