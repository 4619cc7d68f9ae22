/* The inside of ingest. Private to the room.
 *
 *   source -> stream -> feed (one partition, read once by this node) -> lane (a shard's part of it) -> batch
 *
 * Invariants:
 *  1. A lane proposes batches that continue each other: each begins where the one before it ended. The first
 *     begins at the offset that the state held when the lane was synchronised, with none of its batches out.
 *  2. A message's offset passes a lane (batch.next_offset) only together with what it gave for that shard:
 * its event, its dead letter, or nothing because it is another shard's.
 *  3. A feed reads from the least offset any of its running lanes wants; a lane takes nothing below its own.
 *  4. Whatever is in doubt (a refusal, a lost answer, an offset moved by others) ends in SYNCING: nothing new
 * is proposed until all that is out has come back, and then the state is asked.
 *  5. What is out and what is gathered is bounded: batches of a group, bytes of a batch.
 *  6. What a file begins with is in the state (DN_PARTITION_CONTENTS) before any of its events is, if there
 * is room for it; a lane that stands in the middle of a file runs only where that is so still.
 *
 * A lane:
 *
 *   SYNCING --nothing out, and not before retry_us: sync--> RUNNING --refused, unknown, moved--> SYNCING
 *   any     --its shard is read elsewhere: `leaving`, nothing out--> gone
 *
 * Everything here belongs to the ingest thread but for what says otherwise. */
#ifndef DN_INGEST_INTERNAL_H
#define DN_INGEST_INTERNAL_H

#include "base/buffer.h"
#include "base/queue.h"
#include "ingest/ingest.h"
#include "ingest/reader.h"
#include "ingest/schema.h"
#include "session/record.h"

#include <pthread.h>
#include <stdatomic.h>

#define INGEST_READ_MAX 256u        /* messages of a feed at a time */
#define INGEST_SLICE 2048u          /* messages of a feed in a turn */
#define INGEST_TURN_US 50000u       /* it turns at least so often */
#define INGEST_REFRESH_US 100000u   /* streams and leaderships are looked at */
#define INGEST_RULES_US 2000000u    /* and who reads which partition */
#define INGEST_OFFSETS_US 1000000u  /* offsets without events are committed so often at most */
#define INGEST_LOOK_US 1000000u     /* an idle lane asks the state whether its offset was moved */
#define INGEST_WATCH_US 200000u     /* rows, stalls */
#define INGEST_PROPOSAL_US 5000000u /* deadline of a batch */
#define INGEST_RETRY_US 20000u      /* after a first refusal; doubled for each one after it */
#define INGEST_FULL_US 1000u        /* consensus' queue was full, or there is no memory */
#define INGEST_RETRY_MAX_US 1000000u
#define INGEST_KEEP_US 10000000u     /* memory that was not used for so long is given back */
#define INGEST_REASON_US 10000000u   /* a reason that changed is told at most so often */
#define INGEST_SAY_MAX_US 5000000u   /* a reader is heard of at least so often */
#define INGEST_HEARD_MS 1500         /* a driver in touch says so at least this often */
#define INGEST_ALL_READ UINT32_MAX   /* a partition that is a mark: every shard reads all of the stream */
#define INGEST_STREAMS_MAX 1024u     /* of a source, at a time */
#define INGEST_BATCHES_OUT_MAX 4096u /* of all groups: the queue of those that came back */
#define INGEST_EVENT_BYTES 37u       /* of an event in a record, beside its item */

enum lane_state { LANE_SYNCING, LANE_RUNNING };

struct ingest_feed;
struct dn_ingest;

struct ingest_batch { /* one record: on its way, or kept for reuse */
    struct dn_proposal proposal;
    struct dn_ingest *ingest;
    struct ingest_lane *lane;
    struct dn_buffer record;
    int64_t next_offset;
    int64_t newest_ms; /* what its stream held then is in it; -1: unknown */
    uint64_t sent_us;
    bool mark;   /* of INGEST_ALL_READ or DN_PARTITION_CONTENTS: no offset of the lane's partition */
    bool finish; /* no events: the word that the partition is finished */
    /* Written by the consensus thread before it is put into `done`. */
    enum dn_code code;
    enum dn_result_status status;
    int64_t state_offset; /* next_offset of the answer */
    bool answered;        /* status and state_offset hold */
    char error[160];
    struct ingest_batch *next; /* free ones, */
    uint64_t freed_us;         /* since then; the newest first */
};

struct ingest_lane {
    struct ingest_feed *feed;
    uint32_t group;
    enum lane_state state;
    bool leaving;
    uint64_t retry_us; /* neither synchronised nor sent before this */
    uint64_t backoff_us;
    uint64_t look_us;    /* when the state was last compared */
    int64_t begins_at;   /* of the next batch: end of the one before it, or what the state held */
    int64_t next_offset; /* everything below was gathered; in step with its feed: or below feed->position */
    bool vague;          /* what its stream's contents begin with was not known when it was synchronised */
    bool unmarked;       /* the shard has no room to remember that */
    bool behind;         /* out of step: the feed is past next_offset, and must go back */
    int64_t committed;   /* what the state held last */
    int64_t fresh_ms;    /* wall time: what the stream held then is in the state; at first when the lane was
                            made, or since when the state says that it stands still */
    unsigned out;        /* batches on their way */
    bool held_up;        /* its feed stands still until it has room again */
    bool sent;           /* in this turn of the lanes */
    bool revive;         /* the state takes it for finished, and it is there: to be told so */
    bool over;   /* its stream is gone, and the state took it for finished: it may have forgotten it since */
    bool placed; /* the state may give the place of what tells its contents to another */
    uint64_t progress_us; /* since when begins_at lags behind the feed without events */
    /* What is gathered. */
    struct dn_event_in *events;
    uint32_t *item_at; /* of each event's item in `items` */
    struct dn_dead_in *dead;
    uint32_t event_count, event_capacity, dead_count, dead_capacity;
    struct dn_buffer items;
    size_t bytes;             /* as a record, about */
    uint64_t oldest_us;       /* when the first was gathered; still known when they are sent */
    char error[160];          /* why it does not run; empty: it does */
    struct ingest_lane *next; /* of all */
};

struct ingest_feed {
    struct ingest_stream *stream;
    uint32_t partition,
        home; /* home: the group of its users where keyed; the group that notes its dead letters */
    struct ingest_lane **lanes; /* by group - 1 */
    unsigned lane_count;
    bool started;
    bool seek; /* a lane was synchronised: is this still the place to read at? */
    uint64_t retry_us, started_us;
    int64_t position;   /* everything below was delivered since the start; DN_STREAM_OFFSET_UNSET: nothing */
    int64_t message_ms; /* time of the newest message delivered; -1 */
    int64_t fetched_ms; /* wall time when `messages` was fetched */
    int64_t end_ms;     /* wall time when the end was last fetched, as delivered; 0: not since the start */
    bool at_end;        /* position is the end, as far as was heard */
    bool dry;           /* the driver had no more in this turn */
    struct dn_message *messages;
    size_t count, at;
    bool held;                 /* messages are not released yet */
    bool reads[DN_GROUPS_MAX]; /* by the rule, by group */
    int64_t mirrored;          /* offset that was last mirrored; -1 */
    char error[DN_SOURCE_TEXT_MAX];
};

struct ingest_stream {
    struct ingest_source *source;
    size_t index; /* the driver's number */
    struct dn_stream_info info;
    bool keyed;    /* read so now */
    bool all_read; /* it was read as not keyed, by some shard, at some time: it stays so */
    bool said_keyed;
    uint32_t said_count; /* partition count that was last logged */
    struct ingest_feed **feeds;
    uint32_t feed_count;
};

struct ingest_source {
    struct dn_ingest *ingest;
    const struct dn_source_config *config;
    const struct dn_source_driver *driver;
    void *self;
    struct dn_schema *schema;
    struct dn_source_host host;
    struct ingest_stream *streams;
    size_t stream_count;
    int64_t trouble_ms;
    char trouble[DN_SOURCE_TEXT_MAX];
    int64_t told_ms;  /* trouble_ms of what is in the log; 0: nothing is */
    uint64_t told_us; /* monotonic, when it came there */
    struct dn_counter *messages, *bytes, *skipped, *dead, *seeks, *proposals, *refusals, *invalid;
    struct dn_histogram *read_delay, *commit_delay;
};

struct ingest_reader { /* another node with streams of its own (reader.h) */
    uint64_t node_id;
    int64_t heard_ms;  /* DN_READER_HEARD */
    uint64_t moved_us; /* when that moved last, by this node's clock */
};

struct ingest_word { /* of this node's own streams, to a shard */
    struct dn_proposal proposal;
    struct dn_buffer record;
    atomic_bool out;
    int64_t first_ms;  /* what they held then was counted when this was looked at first; 0: not yet */
    bool well;         /* and it has got on since */
    uint64_t said_us;  /* the last word, */
    uint64_t heard_us; /* and the last DN_READER_HEARD */
};

struct ingest_group {
    bool leads;
    unsigned out, out_max; /* batches on their way */
    unsigned waiting;      /* lanes that were due in the last turn and could not send for it */
    /* What is said of its streams. */
    struct dn_proposal stall;
    struct dn_buffer stall_record;
    atomic_bool stall_out;
    int64_t stalled_ms; /* as this node sees it; 0: they run */
    uint64_t stall_us;  /* when it was last proposed */
    char reason[DN_STALL_REASON_MAX + 1];
    struct ingest_word word;
};

/* One look at everything. */
struct ingest_watch {
    struct dn_ingest *ingest;
    int64_t now_ms;
    struct dn_ingest_row *rows; /* being made */
    size_t count, capacity;
    int64_t since_ms[DN_GROUPS_MAX]; /* of the worst; 0: none stands still */
    char reason[DN_GROUPS_MAX][DN_STALL_REASON_MAX + 1];
    unsigned troubled[DN_GROUPS_MAX]; /* partitions that stand still */
    bool blind;                       /* some source does not know (yet, or just now) what there is to read */
    uint64_t reader[DN_GROUPS_MAX];   /* the node whose own streams the worst are; 0: none's, or this one's */
    /* Of the streams that only this node reads. */
    int64_t own_ms[DN_GROUPS_MAX]; /* what they held then is in the shard */
    int64_t own_since_ms[DN_GROUPS_MAX];
    bool own_trouble; /* one of these sources as a whole has some */
    char own_reason[DN_GROUPS_MAX][DN_STALL_REASON_MAX + 1];
};

struct dn_ingest {
    struct dn_ingest_options options;
    struct ingest_source sources[DN_SOURCES_CONFIGURED_MAX];
    struct ingest_group groups[DN_GROUPS_MAX];
    struct ingest_lane *lanes;
    struct ingest_batch *free_batches;
    struct dn_stream_info *infos; /* scratch of refresh */
    unsigned batches_out;
    struct dn_queue *done;
    pthread_t thread;
    bool threaded;
    int wake_fd;
    struct dn_metrics *metrics; /* the options', or its own */
    atomic_bool asleep, stopping, look;
    _Atomic uint64_t turned_us, stop_by_us;
    uint64_t now_us, refresh_us, rules_us, watch_us, started_us;
    bool has_own;      /* sources are configured that only this node reads */
    bool own_stands;   /* as the log says */
    uint64_t heard_us; /* when others were last listened to */
    struct ingest_reader readers[DN_MEMBERS_MAX];
    size_t reader_count;
    pthread_mutex_t rows_lock;
    struct dn_ingest_row *rows; /* behind rows_lock */
    size_t row_count;
    char (*names)[DN_SOURCE_MAX + 1]; /* of streams that are there */
    size_t name_count;
};

/* ---- ingest.c */
void ingest_wake(struct dn_ingest *ingest);

/* ---- topology.c: which feeds and lanes there are */
/* Looks at streams and leaderships; opens and closes feeds and lanes. rules: also at who reads what. */
void ingest_refresh(struct dn_ingest *ingest, bool rules);
/* Releases and stops every feed; the drivers are still open. */
void ingest_close_feeds(struct dn_ingest *ingest);
void ingest_topology_free(struct dn_ingest *ingest);

/* Drops a stream's feeds and lanes, of which nothing is out. */
void ingest_close_stream(struct ingest_stream *stream);

/* ---- forget.c: streams that are gone */
void ingest_forget(struct dn_ingest *ingest);

/* ---- feed.c */
/* What a running lane takes next. */
int64_t feed_lane_next(const struct ingest_feed *feed, const struct ingest_lane *lane);
/* Reads and delivers a slice; true if there is more to do at once. */
bool feed_turn(struct ingest_feed *feed);
void feed_stop(struct ingest_feed *feed);

/* ---- lane.c */
struct ingest_lane *lane_create(struct ingest_feed *feed, uint32_t group);
void lane_free(struct ingest_lane *lane);
/* Room for one more event? If not, what is gathered was sent or waits for its turn, behind the lanes of its
 * group that waited before. */
bool lane_room(struct ingest_lane *lane);
/* False: no memory; nothing was added. */
bool lane_add_event(struct ingest_lane *lane, int64_t offset, struct dn_hash128 user,
                    const struct dn_decoded *event);
bool lane_add_dead(struct ingest_lane *lane, int64_t offset, enum dn_dead_reason reason);
/* Sends what is due, synchronises; false when it is `leaving` and nothing is out. */
bool lane_turn(struct ingest_lane *lane);
/* Whether its stream's contents still are those that the state has read. */
bool lane_same_contents(const struct ingest_lane *lane);
/* When lane_turn has something to do by time alone, in us; UINT64_MAX: nothing. */
uint64_t lane_due_us(const struct ingest_lane *lane);
/* Back to SYNCING: what is gathered is dropped. */
void lane_desync(struct ingest_lane *lane, uint64_t retry_after_us, const char *why);
/* It runs, and nothing of it is under way. */
bool lane_is_settled(const struct ingest_lane *lane);
/* And everything that was read of its feed, which is at its end, is in the state. */
bool lane_is_at_end(const struct ingest_lane *lane);
/* Proposes that the partition is finished at what a settled lane has committed, as soon as there is room. */
void lane_finish(struct ingest_lane *lane);
/* A batch that came back. */
void lane_batch_done(struct ingest_batch *batch);
/* Frees the batches that nobody took for keep_us. */
void lane_trim_batches(struct dn_ingest *ingest, uint64_t keep_us);

/* ---- watch.c: rows, stalls */
void ingest_watch(struct dn_ingest *ingest);
/* Has the shard's state told that its streams stand still since then (0: no longer). One at a time. */
void ingest_propose_stall(struct dn_ingest *ingest, uint32_t group, int64_t since_ms, const char *reason);

/* ---- heard.c: streams that only one node reads (reader.h) */
/* Notes which readers are heard of. */
void ingest_listen(struct dn_ingest *ingest);
/* The reader whose streams stand still in the shard for longest, as it says, or because nothing is heard of
 * it for too long; 0: none's. *ret_why: for people. */
uint64_t ingest_standing(const struct dn_ingest *ingest, uint32_t group, int64_t *ret_since_ms,
                         const char **ret_why);
/* What every reason of that reader's streams begins with. Returns its length. */
size_t ingest_reader_prefix(uint64_t node_id, char *ret, size_t size);
/* Whose streams the reason is about; 0: it does not begin so. */
uint64_t ingest_reason_reader(const char *reason);
/* Says of this node's own streams what the look has found. */
void ingest_say(const struct ingest_watch *watch, uint32_t group);
/* As leader of no shard it knows more of the reason than who leads. */
void ingest_explain(const struct ingest_watch *watch, uint32_t group);
void ingest_heard_free(struct dn_ingest *ingest);

/* ---- reason.c */
/* What stands still and why; partition UINT32_MAX: a source as a whole. Cut to what fits. */
void ingest_reason(const char *what, uint32_t partition, const char *why, char ret[DN_STALL_REASON_MAX + 1]);
/* A reason of that reader's streams, with what such reasons begin with. */
void ingest_reason_of(uint64_t node_id, const char *reason, char ret[DN_STALL_REASON_MAX + 1]);
/* Puts before a reason how many partitions stand still, where it is not the only one. */
void ingest_reason_count(char reason[DN_STALL_REASON_MAX + 1], unsigned partitions);

#endif
