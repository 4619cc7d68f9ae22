/* Internal: the structs the files of this room share. Everything here belongs to the consensus thread (the
 * thread that runs `loop`) unless it is _Atomic, or says otherwise.
 *
 * Invariants:
 *  1. A proposal or wait is in exactly one place: an API queue, one `struct items` list, or a slot of a
 * batch; its `done` runs exactly once, on the consensus thread.
 *  2. Records are applied in index order, by apply.c only; `applied` is published after entry_done, and
 *     completions run after that. An entry leaves the queue when it is applied whole: while one is begun
 * there is no snapshot (snapshot_fsm asks for an empty queue).
 *  3. libraft never sees a failed disk operation: io_shim.c turns it into consensus_fatal() and fences the
 *     group (no ticks, no sends, no receives), because libraft asserts.
 *  4. A group never has its own snapshot and an incoming one inside libraft at once (snapshot.c).
 *     Nor does libraft see one whose files are not all here and whose state is not built.
 *  5. Nothing on this thread waits for disk, name service or a peer. */
#ifndef DN_CONSENSUS_INTERNAL_H
#define DN_CONSENSUS_INTERNAL_H

#include "base/buffer.h"
#include "base/queue.h"
#include "consensus/consensus.h"
#include "consensus/entry.h"
#include "consensus/greet.h"
#include "consensus/identity.h"
#include "consensus/snapshot_store.h"
#include "consensus/wire.h"

#include "journal/journal.h"
#include "transport/transport.h"

#include <raft.h>
#include <uv.h>

#include <limits.h>
#include <stdatomic.h>

#define API_QUEUE_MAX 16384           /* calls waiting for the thread */
#define CHANGE_QUEUE_MAX 64           /* changes of members */
#define TURN_TAKE_MAX 4096            /* calls taken from it in one loop turn */
#define PENDING_MAX 32768             /* proposals waiting in one group */
#define PENDING_BYTES_MAX (64u << 20) /* and their bytes */
#define FORWARD_MAX 2048              /* proposals of one group at the leader, unanswered */
#define FORWARD_BYTES_MAX (16u << 20)
#define WAITS_MAX 65536     /* waits in one group */
#define APPLY_SLICE_US 4000 /* applying in one loop turn, all groups together */
#define APPLY_SHARE_US 1000 /* of one group, until the next one's turn */
#define HOUSEKEEP_MS 10     /* period of the timer that looks at deadlines */
#define ASK_AFTER_US 20000  /* a wait for an unknown index asks the leader after this long */
#define RETRY_AFTER_US 5000 /* pause after a leader said it is none */
#define CONNECT_TIMEOUT_MS 1000
#define USER_TIMEOUT_MS 500 /* TCP_USER_TIMEOUT */
#define SNAPSHOT_TRIES_MAX 5
#define SNAPSHOT_RETRY_MS 1000
#define FETCH_WINDOW_BYTES (4u << 20) /* of snapshots asked for and not yet written, all groups together */
#define FETCH_SLOTS 4                 /* chunks under way for one group */
/* Pool jobs for others' snapshots: fetched, built, served. With our own that leaves one of libuv's four
 * threads to the log at any time. */
#define BULK_JOBS_MAX 2
#define BUILD_JOBS_MAX 1
#define FETCH_STALL_US 5000000      /* an ask without an answer is repeated */
#define FETCH_GIVE_UP_US 30000000   /* a fetch that does not get on at all is given up */
#define FETCH_BAD_MAX 8             /* chunks refused or not to be had until it is given up */
#define FETCH_PAUSE_US 500000       /* after such a one */
#define FETCH_LOG_US 5000000        /* progress is logged this often */
#define SERVE_QUEUE_MAX 16          /* asks of one node that wait here */
#define SERVE_LINK_BYTES (1u << 20) /* the next chunk is read when no more waits on the link */
#define SNAP_PINS 8                 /* older snapshots that are being sent */
#define SNAP_PIN_US 60000000        /* kept so long after the last ask */
#define TRAILING_MIN 64
#define TRAILING_MAX 4096
#define TRAILING_HELD 8      /* kept by a group that holds the journal back */
#define CHECK_EVERY 16       /* hashes are compared at indexes that are multiples of this */
#define CHECK_RING 1024      /* such hashes kept */
#define REPORTS_KEPT 4       /* reported hashes kept for each node */
#define QUIET_TICKS 4        /* a group without records ticks so often as usual, */
#define QUIET_FACTOR 50      /* then so much more seldom: time and state hashes go on, the disk rests */
#define LOG_PAUSE_US 1000000 /* between two log lines about the same thing */

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

struct group;
struct batch;

/* ---- intrusive lists over the callers' opaque words ------------------------------------------------- */

/* What consensus keeps in dn_proposal.opaque. */
struct proposal_link {
    struct dn_proposal *next, *prev;
    struct batch *batch; /* while in a batch */
    uint64_t request;    /* while forwarded: request id; afterwards the index to wait for */
    uint64_t start_ns;
    uint8_t *result; /* forwarded and answered: malloc */
    uint32_t result_length;
    uint32_t ordinal;    /* slot in the batch */
    uint64_t remote : 1; /* came over a peer link */
    uint64_t unsure : 1; /* an earlier try may be in a log */
};
_Static_assert(sizeof(struct proposal_link) <= sizeof(((struct dn_proposal *)0)->opaque), "opaque too small");

struct wait_link {
    struct dn_wait *next, *prev;
    uint64_t ask_at_us; /* when to ask the leader about an index not known to be committed; 0: known */
    uint64_t remote;    /* came over a peer link */
};
_Static_assert(sizeof(struct wait_link) <= sizeof(((struct dn_wait *)0)->opaque), "opaque too small");

static inline struct proposal_link *plink(struct dn_proposal *proposal)
{
    return (struct proposal_link *)(void *)proposal->opaque;
}

static inline struct wait_link *wlink(struct dn_wait *wait)
{
    return (struct wait_link *)(void *)wait->opaque;
}

struct proposals {
    struct dn_proposal *first, *last;
    size_t count, bytes;
    uint64_t due_us; /* no deadline in the list is earlier */
};

struct waits {
    struct dn_wait *first, *last;
    size_t count;
    uint64_t due_us;
};

void proposals_push(struct proposals *list, struct dn_proposal *proposal);
void proposals_push_front(struct proposals *list, struct dn_proposal *proposal);
void proposals_remove(struct proposals *list, struct dn_proposal *proposal);
void waits_push(struct waits *list, struct dn_wait *wait);
void waits_remove(struct waits *list, struct dn_wait *wait);

/* ---- one group -------------------------------------------------------------------------------------- */

/* An entry of ours on its way through Raft. Freed when libraft is done with `req` and the proposals are. */
struct batch {
    struct raft_apply req;
    struct group *group;
    struct batch *next, *prev;
    uint64_t sequence;
    uint32_t count;
    bool raft_done;              /* the callback of raft_apply ran */
    bool applied;                /* our own apply is done with it */
    struct dn_proposal *items[]; /* NULL: completed early (deadline) */
};

struct queued_entry {
    struct queued_entry *next;
    uint64_t index;
    size_t length;
    uint64_t queued_us; /* only DN_MUTANT_APPLY_LATE asks */
    uint64_t bytes[];   /* aligned */
};

/* How far the entry at the head of the queue is applied. */
struct applying {
    bool begun;
    struct entry_view view; /* of its bytes */
    struct dn_apply at;     /* ordinal: the record that is next, or begun */
    size_t offset;          /* for entry_next */
    bool record_begun;
    struct entry_record record;
    size_t *ends; /* an entry of ours: where in group.results each record's answer ends; else NULL */
};

struct report {
    uint64_t index, hash;
};

/* One barrier in flight, here (raft_barrier) or at the leader (peer link), and those it serves. */
struct fence {
    struct raft_barrier req;
    bool active;
    bool local;       /* req is libraft's until its callback */
    uint64_t request; /* peer link */
    uint64_t sent_us;
    struct waits waits;
};

enum hold_state {
    HOLD_NONE,
    HOLD_WAITING,    /* for the folder to be tidied */
    HOLD_FETCHING,   /* its chunks */
    HOLD_FETCHED,    /* waits for a pool job to be free */
    HOLD_BUILDING,   /* a pool thread builds the state */
    HOLD_READY,      /* waits for our own snapshot to be over */
    HOLD_INSTALLING, /* libraft has it */
    HOLD_PAUSED,     /* it failed; the leader is asked again in a while */
};

/* An InstallSnapshot that libraft has not seen yet. */
struct hold {
    enum hold_state state;
    struct raft_message message;
    char *address; /* of the message; ours until libraft has it */
    struct manifest *manifest;
    struct fetch *fetch;
    uv_work_t work;
    struct dn_error error;
    enum dn_code code;
    bool dropped;      /* a newer leader is known: forget it when the build is over */
    void *built;       /* by fsm.restore_build */
    void *base;        /* of the message's bytes: how fsm->restore knows it again */
    uint64_t until_us; /* HOLD_PAUSED */
};

/* A snapshot that was asked for lately. */
struct pin {
    struct manifest *manifest;
    uint64_t until_us;
};

/* What libraft waits to hear of from a follower (io_shim.c, snapshot_refused). */
struct snapshot_sent {
    uint64_t raft_id, term, index; /* index 0: nothing */
};

struct prune {
    bool wanted, busy;
    uint64_t at_us; /* not before */
    uv_work_t work;
    struct snap_name keep[2 + SNAP_PINS];
    size_t keep_count;
    uint64_t above;
};

enum snap_state { SNAP_NONE, SNAP_CAPTURED, SNAP_WRITING, SNAP_RETRY, SNAP_STORING };

struct snap {
    enum snap_state state;
    void *capture;
    uint64_t index;
    int64_t time_ms;
    uint64_t bytes_at; /* of log when captured */
    unsigned tries;
    uint64_t retry_at_us;
    uint64_t state_hash;
    struct manifest *manifest;
    struct dn_buffer buffer; /* its bytes */
    struct raft_buffer raft_buffer;
    struct raft_snapshot raft_snapshot;
    uv_work_t work;
    struct dn_error error;
    enum dn_code code;
    struct raft_io_snapshot_put put;   /* ours, given to raft_io.c */
    struct raft_io_snapshot_put *orig; /* libraft's */
    raft_io_snapshot_put_cb orig_cb;
    unsigned trailing;
};

enum { STATUS_FIELDS = 10 };

struct group {
    struct dn_consensus *c;
    uint32_t id;
    struct dn_fsm fsm;

    /* libraft */
    struct raft raft;
    struct raft_io io;
    struct raft_io real; /* raft_io.c's own methods, behind those of io_shim.c */
    struct raft_fsm raft_fsm;
    raft_io_tick_cb raft_tick; /* libraft's, called by io_shim.c */
    raft_io_recv_cb raft_recv;
    bool opened, started, closing, closed;
    uint64_t heard_us; /* a leader's message came */
    bool fenced;       /* invariant 3 */
    struct dn_error start_error;

    /* disk and network (raft_io.c) */
    uv_timer_t ticker;
    raft_io_tick_cb tick; /* io_shim.c's */
    raft_io_recv_cb recv;
    raft_io_close_cb close_cb;
    uint64_t random;
    uint64_t io_term;
    uint64_t io_last;             /* last index given to the journal */
    struct dn_buffer first_entry; /* the configuration, between bootstrap and load: the journal reads back
                                     only what it found when it was opened */
    struct raft_io_pending *io_pending; /* appends that are not durable yet */
    uint64_t promise_lsn;               /* end of the newest term or vote in the journal */
    struct raft_io_held *held_first, *held_last;
    size_t held_count;
    struct dn_journal_wait held_wait, put_wait;
    bool held_waiting, put_waiting;
    struct raft_io_snapshot_put *put_req;
    uint8_t *marker; /* of the newest snapshot, as it is in the journal; NULL: none */
    size_t marker_length;
    uint64_t marker_index, marker_term;

    /* roles */
    bool leader;   /* libraft is in state leader */
    bool ready;    /* and its term barrier was applied: announced by on_leader */
    uint64_t term; /* as of the last look */
    uint64_t leader_id;
    uint64_t term_index; /* an index of our own term that is committed; 0: none yet */
    struct raft_barrier term_req;
    bool term_asked;
    struct raft_transfer transfer;
    bool transferring;
    struct raft_change change; /* membership.c */
    bool changing;
    uint64_t step_at_us;                             /* no look before at what is to be reconciled */
    uint64_t still_until_us, still_next_us, hand_to; /* group_hand_over: the log stands still meanwhile */
    uint64_t leader_since_us;                        /* leader_id is what it is */

    /* proposals (propose.c) */
    struct proposals pending;   /* waiting to be packed or forwarded */
    struct proposals forwarded; /* at the leader */
    struct proposals answered;  /* applied at the leader; here not yet */
    struct batch *batches, *batches_last;
    unsigned inflight;
    uint64_t retry_at_us; /* do not forward before */

    /* waits (wait.c) */
    struct waits unfenced; /* need a barrier */
    struct waits unapplied;
    struct fence fence;

    /* applying (apply.c) */
    struct queued_entry *queue_first, *queue_last;
    uint64_t queued_index; /* newest index given to fsm->apply */
    struct applying applying;
    _Atomic uint64_t applied;
    int64_t time_ms;
    struct dn_buffer result;
    struct dn_buffer results; /* of the entry being applied, when it is ours */
    uint64_t log_bytes;       /* applied since the last snapshot */
    uint64_t log_entries;

    /* age and hashes (age.c) */
    uint64_t tick_at_us;
    bool tick_now;                /* put a tick section in the next entry */
    uint64_t tick_looked_us;      /* whether a quiet group holds back the journal */
    unsigned quiet_ticks;         /* ticks since the last entry with records */
    _Atomic uint64_t age_base_us; /* 0: unknown */
    struct {
        uint64_t nonce, stamp_us, hash_index, hash;
        uint64_t echo; /* newest round that it answered in our term */
        /* A stamp that waits for a round sent after it came to be answered by a majority, and one that did.
         */
        uint64_t wait_nonce, wait_us, wait_index, wait_round;
        uint64_t sure_nonce, sure_us, sure_index;
    } stamps[DN_MEMBERS_MAX]; /* latest from each member, when leading; slot 0: our own */
    uint64_t round_floor;     /* rounds up to this one were sent before this term of ours */
    struct {
        uint64_t stamp_us, index; /* index 0: none */
    } promised;                   /* our stamp holds for this group once this index is applied here */
    struct report reports[DN_MEMBERS_MAX][REPORTS_KEPT];
    unsigned report_next[DN_MEMBERS_MAX];
    struct report checks[CHECK_RING];
    uint64_t mismatch_index; /* last one counted */
    struct {
        _Atomic uint64_t index, hash;
    } ring[DN_HASH_RING];

    /* snapshots */
    struct snapstore store;
    struct manifest *in_force, *previous; /* what Raft has, and the one before */
    const void *loaded; /* while loading: the bytes of the manifest that snapshot_load restored */
    struct snap snap;
    struct hold hold;
    struct {
        struct raft_message message;
        char *address; /* NULL: none */
    } next;            /* an InstallSnapshot that waits for the one held to be over */
    struct pin pins[SNAP_PINS];
    struct prune prune;
    unsigned fetch_jobs;  /* pool jobs of its fetch, and of those given up */
    unsigned pool_jobs;   /* all those on this group's snapshots */
    bool damaged;         /* the file of the one in force: take another soon */
    atomic_bool stopping; /* read by pool threads */

    /* commit notices: highest leader_commit sent to each member in this term */
    uint64_t commit_sent[DN_MEMBERS_MAX];
    bool sent_in_tick[DN_MEMBERS_MAX];                  /* an AppendEntries, since the last tick began */
    uint64_t loaded_index, loaded_term;                 /* of the snapshot that was read last to be sent */
    struct snapshot_sent snapshot_sent[DN_MEMBERS_MAX]; /* the last one that each member was sent */

    _Atomic uint64_t status_seq;
    _Atomic uint64_t status[STATUS_FIELDS];

    struct dn_histogram *m_commit;
    struct dn_gauge *m_leader, *m_term, *m_applied, *m_pending, *m_log_bytes;
    struct dn_counter *m_entries, *m_snapshots, *m_mismatch, *m_refused, *m_pauses;
};

/* ---- peers ------------------------------------------------------------------------------------------ */

/* A slot: a node that we know of, member or not. Slot 0 is this node. What other structs keep by slot is
 * cleared when the slot gets another owner (member_take). */
struct member {
    uint64_t raft_id;     /* 0: the slot is free */
    uint64_t node_id;     /* its name */
    uint64_t incarnation; /* of the process that sent last; 0: none yet */
    uint64_t
        link; /* counts up whenever a connection with it came or went: what was asked before may be lost */
    char address[DN_ADDRESS_MAX];
    bool configured;      /* in some group's configuration */
    bool listed;          /* in group 0's */
    uint32_t group_count; /* of its configuration */
    bool greeted, empty;  /* as it said itself: part of no cluster yet */
    uint64_t list_hash;   /* of the initial members it was configured with */
    uint64_t seen_us;     /* when it greeted, or was configured, last */
    uint64_t greet_us;    /* do not greet it again before */
};

/* Who asked for something: a node in one of its lives. */
struct asker {
    uint64_t raft_id, incarnation;
};

/* Chunks that a node asked us for. */
struct serve {
    bool busy; /* one is being read */
    unsigned first, count;
    struct serve_ask {
        struct asker asker;
        uint64_t request;
        uint32_t group, chunk;
        struct manifest *manifest;
    } asks[SERVE_QUEUE_MAX];
};

/* ---- the node --------------------------------------------------------------------------------------- */

enum phase { PHASE_RUN, PHASE_TRANSFER, PHASE_DRAIN, PHASE_CLOSE, PHASE_HANDLES };

struct dn_consensus {
    struct dn_consensus_options o;
    char *data_dir, *cluster_id, *bind_address, *key_file, *previous_key_file;
    char journal_dir[PATH_MAX];
    struct member members[DN_MEMBERS_MAX]; /* slot 0: this node */
    uint64_t raft_id;
    struct identity identity;

    /* forming.c */
    struct member_list initial; /* not formed: those we were configured with, raft ids as far as known;
                                   formed: those the cluster began with */
    uint64_t list_hash;
    enum forming { FORMING_NOT, FORMING_WAITING, FORMING_WRITING, FORMED } forming;
    bool sole; /* the only initial member: forms, if nobody knows better, at sole_at_us */
    uint64_t sole_at_us;
    bool expected; /* this node is among the initial ones */
    struct dn_journal_wait formed_wait;
    char waiting_for[512], refused[400];
    uint64_t forming_at_us, forming_log_us, refused_us;

    /* membership.c */
    uint64_t configs_seen; /* sum of all groups' configuration indexes when the slots were last brought up to
                              date */
    /* The newest committed configuration of group 0 that we have heard of: a node that was taken out of group
     * 0 gets no more of it, and must know that it is to leave the others. */
    struct member_list newest;
    uint64_t newest_index;
    uint64_t balance_at_us;
    bool removed;
    struct dn_member_change *changes;
    struct dn_queue *change_queue;
    uv_mutex_t view_lock;
    struct dn_members view; /* what dn_consensus_members answers; under view_lock */
    uint64_t view_at_us;
    struct group *groups;
    uint64_t nonce; /* of this process life */
    int lock_fd;

    uv_loop_t loop;
    uv_thread_t thread;
    bool loop_open, thread_running, timers_open;
    uv_async_t async;
    uv_check_t check;
    uv_idle_t idle;
    uv_timer_t timer;
    uv_fs_t statfs;
    bool statfs_busy;
    uint64_t statfs_at_us;

    struct dn_queue *proposals, *waits;
    _Atomic bool closed;      /* no more calls are taken */
    _Atomic unsigned callers; /* threads inside propose or wait */
    _Atomic bool stop_asked;
    _Atomic unsigned stop_transfer_ms;
    enum phase phase;
    uint64_t phase_until_us;
    bool fatal_called;

    uint64_t sequence; /* last entry of ours */
    uint64_t next_request;

    /* disk and network, shared by all groups */
    struct dn_disk *disk;
    struct dn_journal *journal;
    bool disk_fault; /* the journal cannot write: all groups are silent */
    bool journal_closing, journal_closed;
    struct dn_transport_keys *keys;
    struct dn_transport *transport;
    bool transport_closing, transport_closed;
    struct dn_buffer message; /* scratch: head of the message being sent */

    unsigned snapshot_jobs;
    unsigned fetch_jobs, build_jobs, serve_jobs;
    uint64_t fetch_bytes;   /* asked for and not yet written */
    uint64_t fetch_next_us; /* no ask before: snapshot_rate_bytes */
    struct serve serve[DN_MEMBERS_MAX];
    unsigned serve_from; /* member whose turn is first */
    bool moved;          /* some group's applied index moved in this turn */
    bool work_left;
    unsigned apply_from; /* group the next slice starts with: the one after the last that had a share */
    uint64_t round, round_at_us; /* rounds sent so far, of all groups together */
    uint64_t malformed_log_us;

    _Atomic bool no_space;
    bool ticks_stopped;
    _Atomic uint64_t loop_turn_us;

    struct dn_histogram *m_slice;
    struct dn_counter *m_malformed, *m_chunks_in, *m_chunks_out, *m_chunks_bad;
    struct dn_gauge *m_queue, *m_free, *m_fault;
};

/* Room for one more pool job: BULK_JOBS_MAX. */
static inline bool bulk_room(const struct dn_consensus *c)
{
    return c->fetch_jobs + c->build_jobs + c->serve_jobs < BULK_JOBS_MAX;
}

/* consensus.c */
void consensus_kick(struct dn_consensus *c); /* run a turn soon, even if nothing else happens */
void consensus_fatal(struct dn_consensus *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* membership.c */
int member_find(const struct dn_consensus *c, uint64_t raft_id); /* its slot; -1: none */
/* Finds or makes the slot of a node. -1: all are taken by members and nodes seen lately. */
int member_take(struct dn_consensus *c, uint64_t raft_id, uint64_t node_id, const char *address);
uint64_t member_node(const struct dn_consensus *c, uint64_t raft_id); /* its name, for logs; 0: unknown */
const struct raft_server *group_server(const struct group *g, uint64_t raft_id); /* NULL: not in its
                                                                                    configuration */
bool group_voter(const struct group *g, uint64_t raft_id);
/* The committed configuration. False: not known (yet). */
bool group_members(const struct group *g, struct member_list *ret, uint64_t *ret_index);
uint64_t members_index(const struct group *g); /* of it; 0: not known */
void members_heard(struct dn_consensus *c, const struct member_list *list, uint64_t index);
void members_turn(struct dn_consensus *c, uint64_t now_us);
/* Steps of one group: begun only when member_step_free says so. */
bool member_step_free(const struct group *g);
bool member_step_add(struct group *g, const struct listed *member);
bool member_step_assign(struct group *g, uint64_t raft_id, int role);
bool member_step_remove(struct group *g, uint64_t raft_id);
bool member_close(const struct group *g, uint64_t raft_id); /* connected, and its log is nearly ours */

/* member_change.c */
void changes_turn(struct dn_consensus *c, uint64_t now_us);
void changes_step_over(struct dn_consensus *c, bool done); /* group 0's step */
void members_housekeep(struct dn_consensus *c, uint64_t now_us);
void members_drain(struct dn_consensus *c, enum dn_code code, const char *why);
void members_request(struct dn_consensus *c, const struct asker *asker, const struct wire_frame *frame);
void members_answer(struct dn_consensus *c, const struct wire_frame *frame);
void members_lost(struct dn_consensus *c, uint64_t raft_id); /* answers of it may be missing */
void members_leader_moved(struct dn_consensus *c);

/* forming.c */
enum dn_code forming_begin(struct dn_consensus *c, struct dn_error *err); /* before the loop runs */
void forming_turn(struct dn_consensus *c, uint64_t now_us);
void forming_greet(struct dn_consensus *c, unsigned slot); /* tells it who we are, if it is connected */
void forming_greeted(struct dn_consensus *c, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                     size_t length);
void forming_mistaken(struct dn_consensus *c,
                      const struct dn_transport_peer_id *peer);                     /* it knows who lived at
                                                                                      our address before */
bool forming_peer(struct dn_consensus *c, const struct dn_transport_peer_id *peer); /* a stranger dialled us,
                                                                                       or was found at an
                                                                                       initial address */

/* group.c */
enum dn_code group_open(struct group *g, bool bootstrap, struct dn_error *err);
enum dn_code group_start(struct group *g, struct dn_error *err);
void group_roles(struct group *g);
void group_leader_gone(struct group *g, uint64_t raft_id);
/* A follower: it follows nobody until it hears of a leader. */
void group_forget_leader(struct group *g);
void group_commit_notices(struct group *g);
void group_keep_contact(struct group *g); /* after a tick */
bool group_may_close(const struct group *g);
void group_close(struct group *g);
void group_free(struct group *g);
bool group_can_submit(struct group *g);
unsigned group_others(const struct group *g); /* other voters of it */
/* Hands leadership to a connected voter whose log is complete: to that one, or (0) to any. When none is, the
 * log stands still for a while so that one may be, and it is tried again each turn. False: not now. */
bool group_hand_over(struct group *g, uint64_t to);
void group_hand_over_turn(struct group *g);

/* io_shim.c */
void io_shim_install(struct group *g);

/* apply.c */
int apply_enqueue(struct group *g, const struct raft_buffer *buf);
bool apply_turn(struct dn_consensus *c); /* true: work is left */
void apply_catch_up(struct group *g);    /* publishes past entries that are not records */
void apply_publish(struct group *g, uint64_t index);
void apply_reset(struct group *g, uint64_t index, int64_t time_ms); /* after a restored snapshot */
void apply_drop(struct group *g);

/* propose.c */
void propose_accept(struct dn_consensus *c, struct dn_proposal *proposal, bool remote);
void propose_turn(struct group *g);
void propose_finish(struct group *g, struct dn_proposal *proposal, enum dn_code code, uint64_t index,
                    const uint8_t *result, size_t length, const struct dn_error *err);
struct batch *propose_batch_of(struct group *g, uint64_t sequence);
void propose_applied(struct group *g, struct batch *batch, uint64_t index, const size_t *ends);
void propose_moved(struct group *g);
void propose_restored(struct group *g); /* after apply_reset */
void propose_answer(struct dn_consensus *c, const struct wire_frame *frame);
void propose_unforward(struct group *g); /* what is at a leader that is none any more comes back */
void propose_expire(struct group *g, uint64_t now_us);
void propose_fail_all(struct group *g, enum dn_code code, const char *why);

/* wait.c */
void wait_accept(struct dn_consensus *c, struct dn_wait *wait, bool remote);
void wait_turn(struct group *g);
void wait_moved(struct group *g);
void wait_answer(struct dn_consensus *c, const struct wire_frame *frame);
void wait_unfence(struct group *g); /* the asked leader is gone */
void wait_expire(struct group *g, uint64_t now_us);
void wait_fail_all(struct group *g, enum dn_code code, const char *why);

/* age.c */
uint32_t age_marks(struct group *g, struct entry_mark marks[DN_MEMBERS_MAX]);
void age_applied(struct group *g, const struct entry_view *view);
void age_record_hash(struct group *g, uint64_t from, uint64_t index, uint64_t hash);
void age_reset(struct group *g, uint64_t index, uint64_t hash);
void age_stamps_in(struct dn_consensus *c, uint64_t raft_id, const struct wire_frame *frame);
void age_send_round(struct dn_consensus *c);
void age_round_in(struct dn_consensus *c, uint64_t raft_id, const struct wire_frame *frame);
void age_moved(struct group *g); /* applied moved */
void age_lead(struct group *g);  /* a term of ours begins */
void status_publish(struct group *g);

/* snapshot.c */
int snapshot_fsm(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs);
int snapshot_fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf);
int snapshot_put_shim(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                      const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb);
bool snapshot_holding(const struct group *g); /* AppendEntries teach nothing meanwhile */
bool snapshot_hold(struct group *g,
                   struct raft_message *message); /* true: message was taken or rewritten away */
void snapshot_turn(struct group *g, uint64_t now_us);
bool snapshot_busy(const struct group *g); /* a pool job runs */
void snapshot_stop(struct group *g);       /* tells pool jobs to end early */
void snapshot_cancel(struct group *g);     /* while closing: give back what libraft still waits for */
void snapshot_free(struct group *g);
void snapshot_message_free(struct raft_message *message);

enum dn_code snapshot_load(struct group *g, const struct raft_buffer *buf, struct dn_error *err);

/* snapshot_fetch.c: the receiving side */
struct fetch;
enum fetch_state { FETCH_RUNNING, FETCH_WHOLE, FETCH_FAILED };
struct fetch *fetch_start(struct group *g, uint64_t raft_id, struct manifest *manifest); /* NULL: no memory */
enum fetch_state fetch_turn(struct fetch *fetch, uint64_t now_us, struct dn_error *err);
void fetch_end(struct fetch *fetch); /* frees it, after its pool job where one runs */
void fetch_answer(struct dn_consensus *c, uint64_t raft_id, const struct wire_frame *frame);

/* snapshot_serve.c: the sending side */
void serve_ask(struct dn_consensus *c, const struct asker *asker, const struct wire_frame *frame);
void serve_turn(struct dn_consensus *c);
void serve_forget(struct dn_consensus *c); /* asks that wait */

/* raft_io.c */
void raft_io_install(struct group *g); /* fills g->io; io_shim_install comes after */
void raft_io_receive(struct dn_consensus *c, unsigned member, const uint8_t *bytes, size_t length);
void raft_io_turn(struct group *g); /* runs callbacks that are due */
void raft_io_fault(struct group *g, bool fault);
void raft_io_free(struct group *g); /* after the journal is gone */

/* link.c */
enum dn_code link_open(struct dn_consensus *c, struct dn_error *err);
void link_free(struct dn_consensus *c);
bool link_up(const struct dn_consensus *c, uint64_t raft_id);
uint8_t link_level(const struct dn_consensus *c, uint64_t raft_id); /* its feature level; 0: not known */
/* False: not connected, or no room now. */
bool link_send(struct dn_consensus *c, uint64_t raft_id, const struct wire_frame *frame);
bool link_is(const struct dn_consensus *c, const struct asker *asker); /* still there, in the same life */
/* To who asked, or the connection ends, which tells it that something is missing. */
/* What this node asked for cannot be answered: it is told to ask again, now or when there is a connection. */
void link_unanswered(struct dn_consensus *c, const struct asker *asker);
void link_answer(struct dn_consensus *c, const struct asker *asker, const struct wire_frame *frame);
size_t link_bulk_queued(const struct dn_consensus *c, uint64_t raft_id);
void link_malformed(struct dn_consensus *c, unsigned member, const struct dn_error *err);

#endif
