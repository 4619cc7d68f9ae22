/* What is known of users, their events, reads and erasures: made in one pass over the history, then judged
 * user by user. Private to the checkers. */
#ifndef DN_CHAOS_CHECK_SESSIONS_H
#define DN_CHAOS_CHECK_SESSIONS_H

#include "chaos/check_private.h"

struct fact_event {
    uint64_t id;
    int64_t time_ms;
    uint32_t user;
    uint32_t asked;    /* first :invoke that has it; NEVER: nobody wrote it */
    uint32_t possible; /* first :invoke that may have counted it: it is committed after this, if at all */
    uint32_t acked;    /* first answer that it counted */
    uint32_t known;    /* first answer or read that proves it: it was committed before this */
    uint32_t accepted; /* first ACCEPTED */
    uint32_t refused;  /* an answer that it did not count */
    uint32_t seen;     /* 1 + the :invoke of the latest read that has it; 0: none */
    uint32_t stamp, position, token_stamp; /* of the list that is looked at */
    uint32_t stream,
        sure_rank; /* of an event with an offset: how many sure ones are before it; NEVER: no stream */
    int32_t offset;
    uint32_t written; /* the stream surely has it; NEVER: nobody knows */
    bool sure;        /* the stream's event is surely not late */
    bool times_differ, lost;
};

struct fact_read {
    uint32_t user, invoke, ok;
    uint32_t latest;         /* the largest `possible` of its events: its state is no older */
    size_t list, list_count; /* in facts.lists */
    uint64_t version, applied;
    bool found;
};

struct fact_erase {
    uint32_t user, invoke, end; /* NEVER: it may still happen */
    uint32_t end_max;           /* of this and those of the user before it */
};

struct fact_erased { /* erasures that were acknowledged, by their end */
    uint32_t user, end, invoke_max;
};

struct fact_user {
    uint64_t key;
    size_t events, events_count; /* in facts.by_user, by `possible` */
    size_t reads, reads_count;   /* in facts.reads, by `ok` */
    size_t erases, erases_count;
    size_t erased, erased_count;
};

struct fact_stream {         /* what one source has of one user, by offset */
    size_t list, list_count; /* in facts.streamed */
    uint32_t source;
    uint32_t stamp, last, sure_seen; /* of the list that is looked at: event of the largest offset */
};

struct facts {
    struct chaos_check *check;
    struct chaos_table user_table, event_table, source_table, stream_table;
    struct fact_user *users;
    struct fact_event *events;
    struct fact_read *reads;
    struct fact_erase *erases;
    struct fact_erased *erased;
    struct fact_stream *streams;
    uint32_t *lists, *by_user, *streamed;
    size_t users_count, users_capacity, events_count, events_capacity, reads_count, reads_capacity;
    size_t erases_count, erases_capacity, erased_count, lists_count, lists_capacity, streams_count,
        streams_capacity;
    size_t streamed_count, streamed_capacity, sources_count;
};

void chaos_facts_gather(struct facts *facts, struct chaos_check *check);
void chaos_facts_free(struct facts *facts);

/* An erasure of the user that began before `before` may have been committed as late as this; 0: there is
 * none. */
uint32_t chaos_erased_until(const struct facts *facts, const struct fact_user *user, uint32_t before);
/* An erasure was acknowledged before `before` that began at this or later; 0: there is none. */
uint32_t chaos_erased_since(const struct facts *facts, const struct fact_user *user, uint32_t before);

#endif
