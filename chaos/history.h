/* History: what clients asked and were told, and what was done to the cluster, as Jepsen writes it: one
 * operation is an :invoke line and at most one :ok, :fail or :info line of the same process. :ok: it
 * happened. :fail: it surely did not. :info: nobody knows; it may still happen at any later time, and the
 * process is not used again (the client goes on as process + number of clients). Process -1 is Jepsen's
 * :nemesis.
 *
 * In memory a history is an array of struct chaos_op in the order of :index, which is the order of :time. On
 * disk it is EDN, a map a line (https://github.com/edn-format/edn, https://github.com/jepsen-io/history):
 *
 *   {:index 7, :time 123456789, :type :invoke, :process 3, :f :publish, :node "n1",
 *    :value {:user 12, :events [[1041 1700000000123]]}}
 *
 * Numbers stand for names: user 12 is "u-12", event 1041 has event id "e-1041" and item id "i-1041": an event
 * is alone with its item, so that a session's list of items names its events. Catalogue item 5 is "c-5"; its
 * value is its attribute "v" (a number that one writer uses once). */
#ifndef DN_CHAOS_HISTORY_H
#define DN_CHAOS_HISTORY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CHAOS_NEMESIS (-1)
#define CHAOS_NOT_BEGUN                                                                                      \
    "not begun: "       /* how the error of a FAULT's :info "begin" starts when it was not made */
#define CHAOS_NO_USER 0 /* INGEST: its messages are no events of anybody */
#define CHAOS_NODES_MAX 7
#define CHAOS_GROUPS_MAX 64
#define CHAOS_LIST_MAX 1024      /* elements of one list in one operation */
#define CHAOS_OPS_MAX 50000000ul /* lines of a history */
/* How the error of a client's :fail or :info starts when the answer was OK and is not what an answer can be.
 */
#define CHAOS_MALFORMED "malformed answer: "
/* A stall of the machine under the cluster, as a fault: its "begin" stands CHAOS_STALL_NS after it began. */
#define CHAOS_SLOW_MACHINE "slow-machine"
#define CHAOS_STALL_NS INT64_C(1000000000)

enum chaos_type { CHAOS_INVOKE, CHAOS_OK, CHAOS_FAIL, CHAOS_INFO };

enum chaos_f {
    CHAOS_PUBLISH, /* events of one user */
    CHAOS_READ,    /* a user's session (Sessions.Get) */
    CHAOS_ERASE,   /* a user's session deleted */
    CHAOS_UPSERT,  /* one catalogue item gets a value */
    CHAOS_DELETE,  /* one catalogue item is deleted */
    CHAOS_GET,     /* one catalogue item read */
    CHAOS_SIMILAR, /* which catalogue items are near a vector that only this item has */
    /* What a stream has: one user's events with their offsets (user 0: messages that are no events). :info
     * before it has them (a broker's offsets are not known then), :ok once it surely has; :fail once it
     * surely has not and never will. No client asks: process CHAOS_NEMESIS, without pairs. */
    CHAOS_INGEST,
    CHAOS_MEMBER,  /* a change of members */
    CHAOS_STATUS,  /* a node's terms, leaders, indexes and state hashes */
    CHAOS_FAULT,   /* process CHAOS_NEMESIS: :invoke when it begins or ends, :info when that is done */
    CHAOS_OFFSETS, /* how far a node's shards have read a stream (Sources.List); of process CHAOS_NEMESIS:
                      where the stream ends */
    CHAOS_DEAD_LETTERS, /* what a node's shards counted as dead (DeadLetters.List) */
    CHAOS_F_COUNT,
};

enum chaos_level { CHAOS_LOCAL, CHAOS_SESSION, CHAOS_LINEARIZABLE };

struct chaos_event {
    uint64_t id;
    int64_t time_ms;
    int32_t outcome; /* of dunlin.v1.EventOutcome, in the :ok of a publish; -1 elsewhere */
    int32_t offset;  /* CHAOS_INGEST: its offset, in an :ok always; -1: not known, and elsewhere */
};

struct chaos_group {
    uint32_t group;
    bool is_leader;
    uint64_t leader; /* node number; 0: unknown */
    uint64_t term, commit, applied;
    uint64_t hash_index, hash; /* the state's hash after this index; 0, 0: none told */
};

/* Numbers of a row. OFFSETS: a partition as a shard holds it (of the nemesis: the offset after the last
 * message; the only shard that reads it, or 0: all do). DEAD_LETTERS: a shard; undecodable messages and all
 * other dead ones it ever counted, and those that are not written elsewhere yet. */
enum { CHAOS_ROW_PARTITION, CHAOS_ROW_SHARD, CHAOS_ROW_NEXT_OFFSET, CHAOS_ROW_EVENTS, CHAOS_ROW_NUMBERS };
enum { CHAOS_ROW_DEAD_SHARD, CHAOS_ROW_UNDECODABLE, CHAOS_ROW_REFUSED, CHAOS_ROW_WAITING };

struct chaos_row {
    uint64_t of[CHAOS_ROW_NUMBERS];
};

struct chaos_op {
    uint64_t index;
    int64_t time_ns; /* monotonic, since the run began */
    enum chaos_type type;
    enum chaos_f f;
    int32_t process;
    uint32_t node;     /* the node asked, 1..; for a fault the node it hits; 0: none */
    const char *error; /* :fail, :info: why; NULL: nothing to say */

    uint64_t key; /* the user, or the catalogue item */
    enum chaos_level level;

    /* PUBLISH: what is published (:invoke), with outcomes (:ok). READ :ok: the list as read, in its order.
     * INGEST. */
    struct chaos_event *events;
    size_t events_count;

    /* READ, GET and SIMILAR :invoke, level SESSION: what the token covers: events of this user, or a value of
     * this item, acknowledged under a token that is part of it or returned by an earlier read whose token is.
     * Any level: empty when no token was given. */
    uint64_t *token;
    size_t token_count;

    /* :ok of reads. */
    bool found;
    bool age_known;
    uint64_t age_us;
    uint32_t shard;
    uint64_t applied; /* index of the shard at which it was answered */
    uint64_t version; /* of the session or item: index of its last change */

    uint64_t value; /* UPSERT; GET :ok when found */
    uint64_t *near; /* SIMILAR :ok: catalogue items, nearest first */
    size_t near_count;

    struct chaos_group *groups; /* STATUS :ok */
    size_t groups_count;

    struct chaos_row *rows; /* OFFSETS and DEAD_LETTERS :ok */
    size_t rows_count;

    /* INGEST: "STREAM/PARTITION"; OFFSETS: "STREAM". FAULT: "kill", "pause", "partition-one", ...; MEMBER:
     * "add 4". what: "begin", "end" (FAULT), and more for people. */
    const char *name;
    const char *what;
};

struct chaos_history;

/* An empty history. Takes memory as it grows; every list and text that is appended is copied into it. */
struct chaos_history *chaos_history_create(void);
void chaos_history_destroy(struct chaos_history *history); /* NULL allowed */

/* Any thread (it locks): sets index and time_ns of *op (time_ns from the clock, since chaos_history_create)
 * and copies it to the end. Returns its index. Aborts the program with a message when memory or CHAOS_OPS_MAX
 * is at its end: a history with holes proves nothing. */
uint64_t chaos_history_append(struct chaos_history *history, const struct chaos_op *op);
/* The same with index and time_ns as they are: for tests and the simulator. index must be the number of ops
 * so far. */
void chaos_history_append_as_is(struct chaos_history *history, const struct chaos_op *op);

size_t chaos_history_count(const struct chaos_history *history);
/* Stays where it is while the history lives. Not while others append. */
const struct chaos_op *chaos_history_at(const struct chaos_history *history, size_t index);
/* The index of the :ok, :fail or :info of an :invoke, or of the :invoke of one of those; SIZE_MAX: none. */
size_t chaos_history_pair(const struct chaos_history *history, size_t index);
int64_t chaos_history_now_ns(const struct chaos_history *history);

/* EDN. Reading refuses what is not of the form above, with line and reason. */
enum dn_code chaos_history_write(const struct chaos_history *history, FILE *out, struct dn_error *err);
enum dn_code chaos_history_read(FILE *in, const char *name, struct chaos_history **ret, struct dn_error *err);

const char *chaos_f_name(enum chaos_f f);          /* "publish" */
const char *chaos_type_name(enum chaos_type type); /* "invoke" */
const char *chaos_level_name(enum chaos_level level);

#endif
