/* What the files of the dead-letter thread share. Everything is that thread's own, but for what struct
 * dn_deadletters says is under its lock.
 *
 * A letter's way, by (group, number):
 *
 *      waits --pick--> taken --fetch, put--> in its out's batch --submit, settle--> written
 *        ^                |                           |                                |
 *        +--- no bytes ---+----- not durable ---------+        all below n written: propose(n)
 *            for now
 *
 * 1. `written` is set only after the letter is durable; a proposal covers written letters only.
 * 2. `taken` is set exactly while the letter is in a batch, or written: it is in one batch at most.
 *    On a node that does not lead, only letters of its own streams are taken. A leader's letters of another
 *    node's streams are written when that node has said so (deadletter_reader.c).
 * 3. A feed (source) or an out (file, topic) that fails waits by itself (struct patience); others go on. A
 *    letter that waits holds back the proposals of its group, and nothing else.
 * 4. Nothing survives a restart, or has to: letters written and not proposed are written again. */
#ifndef DN_INGEST_DEADLETTER_PRIVATE_H
#define DN_INGEST_DEADLETTER_PRIVATE_H

#include "base/buffer.h"
#include "base/metrics.h"
#include "ingest/deadletter.h"
#include "ingest/deadletter_file.h"
#include "ingest/deadletter_topic.h"
#include "ingest/deadletter_writer.h"
#include "ingest/reader.h"
#include "session/record.h"

#include <pthread.h>

#define GROUP_LETTERS_MAX 256              /* taken of one group in a turn */
#define TURN_LETTERS_MAX 1024              /* of all groups; and in a batch of an out */
#define BATCH_BYTES_MAX ((size_t)16 << 20) /* a batch takes no more letters when it has as many */
#define TURN_MS 500                        /* a turn fetches no longer before it writes */
#define FETCH_MS 2000                      /* a fetch may take */
#define RETRY_MIN_MS 250
#define RETRY_MAX_MS 30000
#define STRANGERS_MAX 64 /* names of sources that are not configured */
#define FEEDS_MAX (DN_SOURCES_CONFIGURED_MAX + STRANGERS_MAX + 1)
#define OUTS_MAX (DN_SOURCES_CONFIGURED_MAX + FEEDS_MAX) /* a topic's source may need its file too */
#define BLOCKED_MAX 64                                   /* partitions of a source that wait each by itself */
#define LOG_EVERY_US (60u * 1000000u)
#define PROPOSAL_US 5000000u

/* Something that failed is let be for a while, longer each time; and people are told. */
struct patience {
    uint64_t until_us; /* not before; 0: at any time */
    uint32_t failures; /* in a row */
    int64_t since_ms;  /* wall time of the first; 0: none */
    uint64_t told_us;  /* the log was */
    char text[DN_SOURCE_TEXT_MAX];
};

struct blocked {
    char stream[DN_SOURCE_MAX + 1];
    uint32_t partition;
    struct patience patience;
};

struct entry { /* of a batch */
    uint32_t group;
    uint64_t number;
    struct feed *feed;
    uint8_t reason;
    bool without_bytes;
    bool has_key;
    size_t at, length;         /* the line, in the batch's bytes */
    size_t key_at, key_length; /* topics */
};

struct out {
    struct dn_dead_writer *writer; /* one of the two */
    struct dn_dead_topic *topic;
    struct dn_buffer bytes; /* the batch: lines, and for a topic keys */
    struct entry entries[TURN_LETTERS_MAX];
    size_t count;
    bool sending;               /* the batch is with the topic, */
    uint64_t sent_us;           /* since then */
    struct dn_dead_post *posts; /* TURN_LETTERS_MAX, of a topic */
    struct patience patience;
};

struct feed {
    char name[DN_SOURCE_NAME_MAX + 1];
    const struct dn_source_config *config; /* NULL: not configured any more */
    const struct dn_source_driver *driver;
    void *fetcher; /* NULL: not opened yet */
    bool dropped;  /* DN_DEAD_DROPPED */
    struct out *out;
    struct out *overflow; /* a file, for letters that are too large for the topic; NULL: not needed yet */
    struct blocked blocked[BLOCKED_MAX];
    size_t blocked_count;
    uint64_t rest_until_us;
    struct patience patience;
    uint64_t untold[DN_DEAD_REASON_MAX + 1]; /* written since the log said so; [0]: for no known reason */
    uint64_t untold_without_bytes, untold_overflow, told_us;
    struct dn_counter *written[DN_DEAD_REASON_MAX + 1], *without_bytes, *fetch_failures, *write_failures;
};

#define BITMAP_WORDS (DN_DEAD_MAX / 64)
#define ABSENT_MAX 64 /* streams of other nodes whose letters wait, of a group */

struct absent { /* a stream of another node, whose letters wait for that node */
    char stream[DN_SOURCE_MAX + 1];
    uint64_t seen;     /* by which look at the queue, the last time */
    uint64_t oldest;   /* its letter that waits longest, */
    uint64_t since_us; /* and since when it is the oldest */
    uint64_t newest;   /* of those seen */
    uint64_t given_up; /* letters below are written without their bytes */
};

struct group {
    uint32_t number;
    bool led;
    uint64_t base; /* the oldest that waits; bits are by number modulo DN_DEAD_MAX, from base on */
    uint64_t taken[BITMAP_WORDS], written[BITMAP_WORDS];
    uint64_t
        accepted; /* a proposal up to here was applied; what `base` becomes when the queue is looked at */
    struct absent absent[ABSENT_MAX];
    size_t absent_count;
    struct {
        uint64_t look, node_id, before;
    } word;         /* DN_READER_LETTERS of a node, as it was at that look */
    uint64_t looks; /* at the queue */
    /* As a node that does not lead it: */
    uint64_t looked;          /* letters below are others', or taken */
    uint64_t settled;         /* letters below are others', or written; at most `looked` */
    uint64_t own;             /* below this, and `settled`, there are own letters that are written */
    struct patience patience; /* of proposals */
    struct dn_gauge *waiting;
    struct dn_counter *propose_failures;

    uint64_t proposed_before;
    bool proposed_own; /* DN_READER_LETTERS, not "written below" */
    struct dn_proposal proposal;
    struct dn_buffer record;
    struct dn_deadletters *owner;
    /* Under the lock: */
    bool proposed, answered;
    enum dn_code answer;
    char answer_text[DN_SOURCE_TEXT_MAX];
};

struct pick { /* one turn's */
    struct group *group;
    struct feed *feed;
    const char *note; /* why nobody is asked for its bytes; NULL: its source is */
    struct dn_dead_letter letter;
};

struct dn_deadletters {
    struct dn_ingest_options options;
    struct dn_source_host host;
    pthread_t thread;

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* Under the lock: */
    bool stopping, woken, finished;
    bool closed; /* consensus is asked no more: it may be gone */
    bool asking; /* in target.propose or target.leads just now */
    uint64_t stop_by_us;
    int64_t trouble_ms;
    char trouble[DN_SOURCE_TEXT_MAX];

    struct feed *feeds[FEEDS_MAX];
    size_t feed_count;
    struct out *outs[OUTS_MAX];
    size_t out_count;
    struct group *groups; /* options.shard_count */
    bool has_own;         /* sources are configured that only this node reads */
    uint64_t members[DN_MEMBERS_MAX];
    size_t member_count;  /* 0: not known */
    uint32_t first_group; /* turns begin with another one each time */
    struct pick picks[TURN_LETTERS_MAX];
    size_t pick_count;
    struct dn_dead_letter looked[GROUP_LETTERS_MAX];
    uint64_t waiting_looked_us;
    uint64_t files_dropped; /* as told to the metric */
    struct dn_counter *m_files_dropped;
};

/* ---- deadletter_group.c: which letters of a group are where, and proposals --------------------------- */

bool dead_group_is_taken(const struct group *group, uint64_t number);
bool dead_group_is_written(const struct group *group, uint64_t number);
void dead_group_take(struct group *group, uint64_t number);
void dead_group_untake(struct group *group, uint64_t number);
void dead_group_written(struct group *group, uint64_t number);
/* The first from `from` on that is not taken; base + DN_DEAD_MAX: none. */
uint64_t dead_group_next_free(const struct group *group, uint64_t from);
/* The queue begins at `oldest` now. */
void dead_group_advance(struct group *group, uint64_t oldest);
/* Proposes what may be; takes in answers. True: an answer came. *ret_under_way: none came to the last one. */
bool dead_group_propose(struct dn_deadletters *d, struct group *group, bool *ret_under_way);
struct group *dead_group_of(struct dn_deadletters *d, uint32_t number);

/* ---- deadletter_collect.c: from the queue into the outs' batches -------------------------------------- */

void dead_collect(struct dn_deadletters *d);
/* The feed of a stream; makes one for a name that is not configured. NULL: out of memory, try later. */
struct feed *dead_feed_of(struct dn_deadletters *d, const char *stream);
enum dn_code dead_feed_create(struct dn_deadletters *d, const struct dn_source_config *config,
                              struct dn_error *err);
void dead_feed_destroy(struct feed *feed);
/* A letter of the feed is written (or dropped). */
void dead_feed_count(struct feed *feed, uint8_t reason, bool without_bytes);
void dead_feed_log(struct feed *feed, uint64_t now_us, bool at_once);

/* ---- deadletter_reader.c: letters of streams that only one node can read --------------------------------
 */

/* Once a turn, before what follows. */
void dead_readers_look(struct dn_deadletters *d);
/* Does another node have it, and will it write it? Then it is left, or is written by now (and taken). False:
 * this node's to write; *ret_note: and why without its bytes, or NULL. */
bool dead_reader_has(struct dn_deadletters *d, struct group *group, const struct dn_dead_letter *letter,
                     const char **ret_note);
/* After all letters of the group were looked at. */
void dead_readers_looked(struct group *group);
/* Is the stream this node's, and nobody else's? */
bool dead_is_own(const struct dn_deadletters *d, const char *stream);
/* The number below which this node's own letters are written, where the state does not know yet: true. */
bool dead_own_written(struct dn_deadletters *d, struct group *group, uint64_t *ret_before);
/* "They are written." */
void dead_own_record(struct dn_deadletters *d, struct group *group, uint64_t before);

/* ---- deadletter_out.c: batches into files and topics -------------------------------------------------- */

/* The file or topic of a source; the same object for the same file. */
enum dn_code dead_out_of(struct dn_deadletters *d, const struct feed *feed, struct out **ret,
                         struct dn_error *err);
void dead_out_destroy(struct out *out);
const char *dead_out_name(const struct out *out); /* for people: the path, or the topic */
bool dead_out_takes(const struct out *out, uint64_t now_us);
/* Puts the letter into the batch. False: no memory, not now. */
bool dead_out_put(struct out *out, const struct pick *pick, const struct dn_message *message, bool gone,
                  const char *note);
/* Submits batches and takes in what became of them. True: letters are written now. */
bool dead_outs_flush(struct dn_deadletters *d);
bool dead_outs_sending(const struct dn_deadletters *d);

/* ---- deadletter.c -------------------------------------------------------------------------------------- */

bool dead_patience_ready(const struct patience *patience, uint64_t now_us);
/* `who` begins the log's line. */
void dead_patience_failed(struct patience *patience, const char *who, const char *text);
void dead_patience_good(struct patience *patience, const char *who);
bool dead_stopping(struct dn_deadletters *d);
/* Around what asks consensus. False: it may not be asked any more. */
bool dead_ask(struct dn_deadletters *d);
void dead_asked(struct dn_deadletters *d);

#endif
