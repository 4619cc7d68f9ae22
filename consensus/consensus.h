/* Consensus: several Raft groups on one thread, behind a header that shows neither libraft nor the disk.
 *
 * One `struct dn_consensus` is one node's part: a libuv loop on its own thread drives every group this node
 * hosts. Group 0 is the catalogue, groups 1..S are session shards. A group replicates *records*: opaque byte
 * strings that its state machine (struct dn_fsm) applies. Records of many callers that are due together are
 * packed into one Raft entry, which carries a format version, a feature level and the leader's wall time.
 *
 * What is promised:
 *  1. A record whose completion says DN_OK was applied on this node, is on the disks of a majority, and is
 *     applied once and in the same order on every node.
 *  2. A record whose completion says anything else may still be applied later, once: callers make records
 *     idempotent (event ids) and may propose them again.
 *  3. Nothing stops the loop for more than about 5 ms: applies are queued and done a record, or a part of one
 *     (dn_fsm.apply_part), at a time with a look at the clock after each, snapshots are written by a pool
 *     thread, the disk is never waited for.
 *  4. A damaged log or snapshot, or the data directory of another node, keeps the node from starting; it
 *     never votes with less than it had.
 *
 * Any node takes a proposal or a barrier: a follower passes it to the leader over the peer link, and tries
 * again with the next leader until the deadline. */
#ifndef DN_CONSENSUS_CONSENSUS_H
#define DN_CONSENSUS_CONSENSUS_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/metrics.h"
#include "base/stream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_NODES_MAX 7           /* initial members of a cluster */
#define DN_MEMBERS_MAX 16        /* members and nodes that wait to become one */
#define DN_ADDRESS_MAX 256       /* "host:port", with its zero */
#define DN_GROUPS_MAX 65         /* group 0 and at most 64 shards */
#define DN_RECORD_MAX (4u << 20) /* bytes in one record */
#define DN_RESULT_MAX (1u << 20) /* bytes in one record's result */

/* ---- feature levels ------------------------------------------------------------------------------- */

/* What a build understands. Each node tells its level with every connection, and an entry says which one its
 * reader needs: a build that is too old stops there and says so, and is never another than its peers
 * unnoticed. So that upgrading one node does not stop the others, a record of a new level is proposed only
 * while dn_consensus_level says that all members have it.
 *   1  all before
 *   2  settings with the tables of what is near an item (DN_RECORD_SETTINGS, version 4); the catalogue's
 *      model (DN_CATALOG_MODEL) */
#define DN_LEVEL_NEAR 2
#define DN_LEVEL_MODEL 2
#define DN_LEVEL 2 /* of this build */

/* ---- state machines ------------------------------------------------------------------------------- */

/* Where and when a record is applied: the same on every node. */
struct dn_apply {
    uint64_t index;   /* Raft index of the entry */
    uint32_t ordinal; /* position of the record in its entry, from 0 */
    int64_t time_ms;  /* the group's time: the largest leader's wall time in its log so far */
};

/* A replicated state machine. All functions are called on the consensus thread except where they say pool
 * thread. They must be deterministic: no clock, no random numbers, no pointer order, no node settings. */
struct dn_fsm {
    void *state;
    /* Applies one record and appends the answer for its proposer to `result` (which is empty at entry; it is
     * built on every node and dropped on those that did not propose). Never fails: a record that is not
     * understood or not allowed is answered with a refusal. */
    void (*apply)(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                  struct dn_buffer *result);
    /* The same in parts of a millisecond at most, so that other work comes in between. False: there is more:
     * it is called again with the same arguments (bytes and buffer are where they were) until it says true,
     * and before that nothing is called but snapshot_end, the pool thread's functions, and restore_install,
     * which forgets the begun record. State and answer must not depend on what came in between. NULL: no
     * record takes `apply` longer than that. */
    bool (*apply_part)(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                       struct dn_buffer *result);
    /* The feature level that a reader of this record needs. Must be quick; NULL: 1, of all records. */
    uint8_t (*level)(const uint8_t *record, size_t length);
    /* Once after the records of every entry (ticks have none): expiry and decay move on here, in bounded
     * steps; after it returns, readers may be told that at->index is applied. */
    void (*entry_done)(void *state, const struct dn_apply *at);
    /* A hash of the whole state, kept up to date incrementally: O(1). */
    uint64_t (*hash)(void *state);
    /* Captures the state at this moment in O(1) or nearly; at most one capture is open at a time. */
    void *(*snapshot_begin)(void *state);
    /* Pool thread, while apply goes on: writes the captured state to `out`; the caller flushes it. */
    enum dn_code (*snapshot_write)(void *state, void *capture, struct dn_sink *out, struct dn_error *err);
    /* Closes the capture, whether it was written or not. */
    void (*snapshot_end)(void *state, void *capture);
    /* Pool thread, or the starting thread: builds a new state from a stream that snapshot_write made, without
     * touching the live one; reads to its end. The bytes passed checksums but are checked all the same. */
    enum dn_code (*restore_build)(void *state, struct dn_source *in, void **ret_built, struct dn_error *err);
    /* Puts the built state in place of the live one: a pointer swap. */
    void (*restore_install)(void *state, void *built);
    /* Frees a built state that will not be installed. */
    void (*restore_discard)(void *state, void *built);
};

/* ---- life ----------------------------------------------------------------------------------------- */

struct dn_member {
    uint64_t node_id;    /* 1.. ; unique */
    const char *address; /* "host:port" of the peer port */
};

struct dn_consensus_options {
    const char *data_dir;   /* exists; data_dir/journal holds all groups' log, snapshots/<group> states */
    const char *cluster_id; /* 1..64 printable characters; bound into every peer connection */
    uint64_t node_id;       /* this node; one of members */
    /* The initial members: identical on every one of them; used when the data directory is empty. They form
     * the cluster when all of them are reachable, empty, and say the same. A node that is not among them, or
     * finds a cluster formed without it, waits until it is made a member, and learns the others from these.
     */
    const struct dn_member *members;
    size_t member_count;
    const char *address;  /* of this node's peer port, for the others; NULL: from members */
    bool bootstrap_alone; /* an empty node forms a cluster of itself without asking anyone: the way out when
                             the others are lost for good */
    unsigned balance_ms; /* leaders are spread over the nodes, one move at most this often; 0: 5000; UINT_MAX:
                            never */
    const char *bind_address; /* "host:port" to listen on for peers; NULL: own member address */
    const char *key_file;     /* the cluster's pre-shared key (transport/transport.h); NULL: none, anyone who
                                 reaches the peer port is believed */
    const char *previous_key_file; /* accepted too, while keys are changed; may be NULL */
    const char *journal_disk;  /* NULL: io_uring where it works, else the thread pool; or one of "io_uring",
                                  "pool" */
    uint32_t group_count;      /* groups 0..group_count-1 */
    const struct dn_fsm *fsms; /* group_count of them; copied */
    unsigned election_timeout_ms; /* 0: 300 */
    unsigned heartbeat_ms;        /* 0: 50 */
    unsigned tick_ms; /* a busy leader commits a tick this often, an idle one every 50th time, and a
                         round goes out twice as often (age.c); 0: 200 */
    uint64_t snapshot_log_bytes; /* snapshot a group after this many bytes of log; 0: 64 MiB */
    uint64_t
        journal_held_bytes; /* a group whose log holds back more of the journal is snapshotted; 0: 256 MiB */
    uint64_t snapshot_rate_bytes; /* a leader's snapshot is fetched at most so fast, a second; 0: 256 MiB */
    unsigned install_timeout_ms;  /* a leader that hears nothing of a snapshot sends it again; 0: 20 s */
    uint64_t min_free_bytes;      /* refuse proposals below this much free disk; 0: 64 MiB */
    size_t segment_bytes;         /* of the journal; 0: 16 MiB; a multiple of 4096, at least 64 KiB */
    uint8_t level;                /* what this node says it understands; 0: DN_LEVEL. Less: for tests */
    unsigned entry_max_bytes; /* most bytes packed into one entry (a larger record goes alone); 0: 256 KiB */
    unsigned inflight_max;    /* entries proposed and not yet applied, per group; 0: 8 */
    struct dn_metrics *metrics; /* may be NULL */
    /* Called on the consensus thread after applied indexes moved, once a loop turn. May be NULL. */
    void (*on_applied)(void *data);
    /* Called on the consensus thread when this node finds its state in the minority, or a group fails for
     * good: log it and leave the process. May be NULL (then the node aborts). */
    void (*on_fatal)(void *data, const char *reason);
    /* Called on the consensus thread when this node became (true) or stopped being (false) a group's leader,
     * once everything committed before was applied. May be NULL. */
    void (*on_leader)(void *data, uint32_t group, bool leader, uint64_t term);
    /* Called on the consensus thread when the cluster has removed this node: hand over and leave. It will
     * not start on this data directory again. May be NULL (then on_fatal). */
    void (*on_removed)(void *data, const char *reason);
    void *callback_data;
};

struct dn_consensus;

/* Opens the data directory, recovers every group, restores state, and starts the thread. On failure the
 * error names the file (and the offset) and what to do. The identity file (node, cluster, address) in
 * data_dir is written on first start and checked later. */
enum dn_code dn_consensus_start(const struct dn_consensus_options *options, struct dn_consensus **ret,
                                struct dn_error *err);

/* Hands leadership of every led group over (waiting at most transfer_ms), completes what is queued with
 * DN_UNAVAILABLE, stops the thread. Not from the consensus thread. Does not free. */
void dn_consensus_stop(struct dn_consensus *consensus, unsigned transfer_ms);
void dn_consensus_destroy(struct dn_consensus *consensus); /* after stop; NULL allowed */

/* ---- proposing and waiting (any thread; completions run on the consensus thread) -------------------- */

/* The struct belongs to the caller and stays untouched and alive until `done` ran. */
struct dn_proposal {
    uint32_t group;
    const uint8_t *record; /* alive until done */
    size_t length;         /* 1..DN_RECORD_MAX */
    uint64_t deadline_us;  /* dn_monotonic_us() time after which it is given up: DN_DEADLINE */
    /* code DN_OK: index is where it was applied, result what apply answered (valid during the call).
     * DN_EXHAUSTED / DN_NO_SPACE: refused before it was proposed anywhere. DN_DEADLINE, DN_UNAVAILABLE: it
     * may still be applied. err->message says which and why. */
    void (*done)(struct dn_proposal *proposal, enum dn_code code, uint64_t index, const uint8_t *result,
                 size_t result_length, const struct dn_error *err);
    void *data;
    uint64_t opaque[8]; /* consensus' own */
};

/* False when the queue to the consensus thread is full (done is not called): answer RESOURCE_EXHAUSTED. */
bool dn_consensus_propose(struct dn_consensus *consensus, struct dn_proposal *proposal);

enum dn_wait_kind {
    DN_WAIT_APPLIED, /* until `index` is applied here; DN_RANGE if it is beyond what the leader has committed
                      */
    DN_WAIT_BARRIER, /* until all that was committed anywhere when this was called is applied here */
};

struct dn_wait {
    uint32_t group;
    enum dn_wait_kind kind;
    uint64_t index; /* DN_WAIT_APPLIED */
    uint64_t deadline_us;
    void (*done)(struct dn_wait *wait, enum dn_code code, uint64_t applied, const struct dn_error *err);
    void *data;
    uint64_t opaque[8];
};

bool dn_consensus_wait(struct dn_consensus *consensus, struct dn_wait *wait);

/* ---- membership (any thread) -------------------------------------------------------------------------

 * A node has a name for people (node_id) and a random raft id, one for each data directory: a node that lost
 * its disk is another one to Raft, whatever its name. The Raft configuration of group 0 is the list of
 * members; the leaders of the other groups follow it, one change at a time (Raft dissertation, chapter 4). */

enum dn_member_role {
    DN_ROLE_WAITING, /* no member: it greeted us and waits for `member add` or `member replace` */
    DN_ROLE_LEARNER, /* catches up; becomes a voter by itself when it is close in every group */
    DN_ROLE_REPLICA, /* a learner that stays one: it serves reads and has no vote */
    DN_ROLE_VOTER,
    DN_ROLE_LEAVING, /* taken out of group 0, and on its way out of the others */
};

struct dn_member_info {
    uint64_t node_id, raft_id;
    char address[DN_ADDRESS_MAX];
    enum dn_member_role role; /* in group 0 */
    uint64_t replaces;        /* raft id of the member it takes the place of; 0: none */
    bool connected;           /* to this node; true for itself */
    uint8_t level;            /* its feature level; 0: not connected, or a build before levels */
    bool self;
    uint32_t groups, voting; /* groups it is in, and those it votes in, as this node knows them */
    uint32_t leading;        /* groups it leads */
};

struct dn_members {
    bool formed;           /* this node is part of a cluster */
    char waiting_for[512]; /* not formed: what is missing, for people */
    uint64_t config_index; /* of group 0 */
    size_t count;
    struct dn_member_info members[DN_MEMBERS_MAX]; /* by node_id; those that wait come last */
};
void dn_consensus_members(struct dn_consensus *consensus, struct dn_members *ret);
/* The least feature level of all members, those on their way in or out too; 0: that of one of them is not
 * known (it is not connected, or older than levels), or this node is no member. Any thread. */
uint8_t dn_consensus_level(struct dn_consensus *consensus);

enum dn_member_op {
    DN_MEMBER_ADD,     /* a waiting node becomes a learner, or a replica */
    DN_MEMBER_PROMOTE, /* a replica gets a vote; DN_PRECONDITION while it is not close */
    DN_MEMBER_REMOVE,
    DN_MEMBER_REPLACE, /* a waiting node of the same name takes the place of a member: it is added, promoted
                          when it is close, and then the old one is removed */
};

/* The struct belongs to the caller and stays untouched and alive until `done` ran. */
struct dn_member_change {
    enum dn_member_op op;
    uint64_t node_id;
    bool replica; /* DN_MEMBER_ADD: stays without a vote */
    uint64_t deadline_us;
    /* DN_OK: committed in group 0; the other groups follow. DN_PRECONDITION, DN_NOT_FOUND, DN_EXISTS: err
     * says what to do. DN_DEADLINE, DN_UNAVAILABLE: it may have happened; look at the list. */
    void (*done)(struct dn_member_change *change, enum dn_code code, const struct dn_error *err);
    void *data;
    uint64_t opaque[64]; /* consensus' own */
};
/* At any node: passed on to the leader of group 0. False: too many are under way. */
bool dn_consensus_member_change(struct dn_consensus *consensus, struct dn_member_change *change);

/* ---- queries (any thread, wait-free) ---------------------------------------------------------------- */

/* Index up to which the group's state machine is applied and visible here. */
uint64_t dn_consensus_applied(const struct dn_consensus *consensus, uint32_t group);

/* True and the age in microseconds: everything committed longer ago than that is visible here. False while
 * unknown (no stamp of this process has come back through the log yet). */
bool dn_consensus_age_us(const struct dn_consensus *consensus, uint32_t group, uint64_t *ret_age_us);

struct dn_group_status {
    uint32_t group;
    uint64_t leader_id; /* 0: unknown */
    uint64_t term;
    uint64_t commit_index;
    uint64_t applied_index;
    uint64_t first_index;    /* first index still in the log */
    uint64_t snapshot_index; /* 0: none */
    uint64_t log_bytes;      /* bytes of entries since the last snapshot */
    uint64_t hash_index;     /* state_hash is the state's hash as of this applied index */
    uint64_t state_hash;
    bool age_known;
    uint64_t age_us;
    bool is_leader;
    bool no_space; /* proposals are refused: the disk is nearly full */
};
/* A consistent picture of one group, at most a loop turn old. */
void dn_consensus_status(const struct dn_consensus *consensus, uint32_t group, struct dn_group_status *ret);

/* The state hash as of exactly `index`, when it is among the last DN_HASH_RING applied indexes. */
#define DN_HASH_RING 256
bool dn_consensus_hash_at(const struct dn_consensus *consensus, uint32_t group, uint64_t index,
                          uint64_t *ret_hash);

/* Microseconds since the consensus loop last turned: liveness. */
uint64_t dn_consensus_loop_age_us(const struct dn_consensus *consensus);

#endif
