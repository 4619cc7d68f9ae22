/* Gathers what is known of users. */
#include "chaos/check_sessions.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <stdlib.h>
#include <string.h>

#define LATENESS_MS                                                                                          \
    300000 /* the server's default: what is older than the newest by more may be dropped as late */

enum {
    ACCEPTED = DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED,
    DUPLICATE = DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_DUPLICATE,
    ERASED = DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ERASED,
    UNKNOWN = DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN
};

/* An event that was refused because its user was erased. */
struct refusal {
    uint32_t event, invoke, end;
};
struct refusals {
    struct refusal *list;
    size_t count, capacity;
};

/* ---- names ---------------------------------------------------------------------------------------- */

static uint32_t user_of(struct facts *facts, uint64_t key)
{
    uint32_t user = chaos_table_put(&facts->user_table, key, 0, (uint32_t)facts->users_count);
    if (user == facts->users_count) {
        facts->users = chaos_room(facts->users, user, &facts->users_capacity, sizeof *facts->users);
        facts->users[facts->users_count++] = (struct fact_user){.key = key};
    }
    return user;
}

static uint32_t event_of(struct facts *facts, uint32_t user, uint64_t id)
{
    uint32_t event = chaos_table_put(&facts->event_table, user, id, (uint32_t)facts->events_count);
    if (event == facts->events_count) {
        facts->events = chaos_room(facts->events, event, &facts->events_capacity, sizeof *facts->events);
        facts->events[facts->events_count++] = (struct fact_event){.id = id,
                                                                   .user = user,
                                                                   .asked = CHAOS_NEVER,
                                                                   .possible = CHAOS_NEVER,
                                                                   .acked = CHAOS_NEVER,
                                                                   .known = CHAOS_NEVER,
                                                                   .accepted = CHAOS_NEVER,
                                                                   .refused = CHAOS_NEVER,
                                                                   .stream = CHAOS_NEVER,
                                                                   .written = CHAOS_NEVER,
                                                                   .offset = -1};
    }
    return event;
}

/* ---- publishes ------------------------------------------------------------------------------------ */

static void possible(struct fact_event *event, uint32_t invoke)
{
    event->possible = chaos_min(event->possible, invoke);
}

/* The outcome of the invoke's event number i in its answer; -1: none told. */
static int outcome_of(const struct chaos_op *ok, uint64_t id, size_t i)
{
    if (i < ok->events_count && ok->events[i].id == id) {
        return ok->events[i].outcome;
    }
    for (i = 0; i < ok->events_count; i++) {
        if (ok->events[i].id == id) {
            return ok->events[i].outcome;
        }
    }
    return -1;
}

static void accepted(struct facts *facts, struct fact_event *event, uint32_t ok)
{
    if (event->accepted != CHAOS_NEVER) {
        chaos_violated(facts->check, CHAOS_RULE_TWICE, event->accepted, ok, CHAOS_NEVER,
                       "event %llu of user %llu was answered ACCEPTED twice: a repeat is a DUPLICATE",
                       (unsigned long long)event->id, (unsigned long long)facts->users[event->user].key);
    }
    event->accepted = chaos_min(event->accepted, ok);
}

static void answered(struct facts *facts, struct refusals *refusals, uint32_t number, uint32_t invoke,
                     uint32_t ok, int outcome)
{
    struct fact_event *event = &facts->events[number];
    switch (outcome) {
    case ACCEPTED:
        accepted(facts, event, ok);
        /* fall through */
    case DUPLICATE:
        event->acked = chaos_min(event->acked, ok);
        possible(event, invoke);
        break;
    case UNKNOWN:
    case -1:
        possible(event, invoke);
        break;
    case ERASED: /* the server's own repeat may have come too late: decided when the erasures are known */
        refusals->list =
            chaos_room(refusals->list, refusals->count, &refusals->capacity, sizeof *refusals->list);
        refusals->list[refusals->count++] = (struct refusal){.event = number, .invoke = invoke, .end = ok};
        break;
    default:
        event->refused = chaos_min(event->refused, ok);
        break;
    }
}

static void publish(struct facts *facts, struct refusals *refusals, const struct chaos_op *invoke)
{
    size_t pair = chaos_history_pair(facts->check->history, invoke->index);
    const struct chaos_op *end = pair == SIZE_MAX ? NULL : chaos_history_at(facts->check->history, pair);
    uint32_t user = user_of(facts, invoke->key), at = (uint32_t)invoke->index;
    for (size_t i = 0; i < invoke->events_count; i++) {
        uint32_t number = event_of(facts, user, invoke->events[i].id);
        struct fact_event *event = &facts->events[number];
        if (event->asked == CHAOS_NEVER) {
            event->asked = at;
            event->time_ms = invoke->events[i].time_ms;
        }
        /* 0: the node gives it its own time */
        event->times_differ |= event->time_ms != invoke->events[i].time_ms || event->time_ms == 0;
        if (end == NULL) {
            possible(event, at);
        } else if (end->type == CHAOS_FAIL) {
            event->refused = chaos_min(event->refused, (uint32_t)pair);
        } else {
            answered(facts, refusals, number, at, (uint32_t)pair, outcome_of(end, event->id, i));
        }
    }
}

static void ingest(struct facts *facts, const struct chaos_op *op)
{
    uint32_t user = user_of(facts, op->key), at = (uint32_t)op->index;
    uint64_t name = chaos_source_hash(op->name);
    uint32_t source = chaos_table_put(&facts->source_table, name, 0, (uint32_t)facts->sources_count);
    facts->sources_count += source == facts->sources_count;
    uint32_t stream = chaos_table_put(&facts->stream_table, source, user, (uint32_t)facts->streams_count);
    if (stream == facts->streams_count) {
        facts->streams = chaos_room(facts->streams, stream, &facts->streams_capacity, sizeof *facts->streams);
        facts->streams[facts->streams_count++] = (struct fact_stream){.source = source};
    }
    for (size_t i = 0; i < op->events_count; i++) {
        uint32_t number = event_of(facts, user, op->events[i].id);
        struct fact_event *event = &facts->events[number];
        if (event->stream == CHAOS_NEVER && op->events[i].offset >= 0) {
            event->stream = stream;
            event->offset = op->events[i].offset;
            facts->streamed = chaos_room(facts->streamed, facts->streamed_count, &facts->streamed_capacity,
                                         sizeof *facts->streamed);
            facts->streamed[facts->streamed_count++] = number;
        }
        event->asked = chaos_min(event->asked, at);
        event->time_ms = op->events[i].time_ms;
        if (op->type == CHAOS_FAIL) {
            event->possible = CHAOS_NEVER;
            event->refused = at;
            continue;
        }
        event->written = op->type == CHAOS_OK ? chaos_min(event->written, at) : event->written;
        possible(event, at);
    }
}

static void erase(struct facts *facts, const struct chaos_op *invoke)
{
    size_t pair = chaos_history_pair(facts->check->history, invoke->index);
    const struct chaos_op *end = pair == SIZE_MAX ? NULL : chaos_history_at(facts->check->history, pair);
    if (end != NULL && end->type == CHAOS_FAIL) {
        return;
    }
    facts->erases =
        chaos_room(facts->erases, facts->erases_count, &facts->erases_capacity, sizeof *facts->erases);
    facts->erases[facts->erases_count++] = (struct fact_erase){
        .user = user_of(facts, invoke->key),
        .invoke = (uint32_t)invoke->index,
        .end = end != NULL && end->type == CHAOS_OK ? (uint32_t)pair : CHAOS_NEVER,
    };
}

/* ---- reads ---------------------------------------------------------------------------------------- */

static void read_ended(struct facts *facts, const struct chaos_op *ok)
{
    size_t pair = chaos_history_pair(facts->check->history, ok->index);
    struct fact_read read = {
        .user = user_of(facts, ok->key),
        .invoke = (uint32_t)pair,
        .ok = (uint32_t)ok->index,
        .list = facts->lists_count,
        .list_count = ok->events_count,
        .version = ok->version,
        .applied = ok->applied,
        .found = ok->found,
    };
    for (size_t i = 0; i < ok->events_count; i++) {
        uint32_t number = event_of(facts, read.user, ok->events[i].id);
        struct fact_event *event = &facts->events[number];
        event->known = chaos_min(event->known, read.ok);
        event->seen = chaos_max(event->seen, read.invoke + 1);
        facts->lists =
            chaos_room(facts->lists, facts->lists_count, &facts->lists_capacity, sizeof *facts->lists);
        facts->lists[facts->lists_count++] = number;
    }
    facts->reads = chaos_room(facts->reads, facts->reads_count, &facts->reads_capacity, sizeof *facts->reads);
    facts->reads[facts->reads_count++] = read;
}

static void gather(struct facts *facts, struct refusals *refusals)
{
    for (size_t i = 0; i < facts->check->count; i++) {
        const struct chaos_op *op = chaos_history_at(facts->check->history, i);
        if (op->f == CHAOS_INGEST) {
            if (op->key != CHAOS_NO_USER) {
                ingest(facts, op);
            }
        } else if (op->f == CHAOS_READ && op->type == CHAOS_OK) {
            read_ended(facts, op);
        } else if (op->f == CHAOS_PUBLISH && op->type == CHAOS_INVOKE) {
            publish(facts, refusals, op);
        } else if (op->f == CHAOS_ERASE && op->type == CHAOS_INVOKE) {
            erase(facts, op);
        }
    }
}

/* ---- by user -------------------------------------------------------------------------------------- */

/* One pass of a counting sort: where each user's things begin. `from` and `count` are offsets into fact_user.
 */
#define GROUP_BY_USER(facts, list, list_count, user_field, from, count)                                      \
    do {                                                                                                     \
        size_t at_ = 0;                                                                                      \
        for (size_t i_ = 0; i_ < (list_count); i_++) {                                                       \
            (facts)->users[(list)[i_].user_field].count++;                                                   \
        }                                                                                                    \
        for (size_t u_ = 0; u_ < (facts)->users_count; u_++) {                                               \
            (facts)->users[u_].from = at_;                                                                   \
            at_ += (facts)->users[u_].count;                                                                 \
            (facts)->users[u_].count = 0;                                                                    \
        }                                                                                                    \
    } while (0)

static struct facts *sorted; /* what the comparisons below look at; qsort has no argument for it */

static int by_possible(const void *a, const void *b)
{
    uint32_t left = sorted->events[*(const uint32_t *)a].possible;
    uint32_t right = sorted->events[*(const uint32_t *)b].possible;
    return left < right ? -1 : left > right;
}

static void group_events(struct facts *facts)
{
    facts->by_user = chaos_alloc(facts->events_count, sizeof *facts->by_user);
    GROUP_BY_USER(facts, facts->events, facts->events_count, user, events, events_count);
    for (size_t i = 0; i < facts->events_count; i++) {
        struct fact_user *user = &facts->users[facts->events[i].user];
        facts->by_user[user->events + user->events_count++] = (uint32_t)i;
        facts->events[i].known = chaos_min(facts->events[i].known, facts->events[i].acked);
    }
    sorted = facts;
    for (size_t i = 0; i < facts->users_count; i++) {
        const struct fact_user *user = &facts->users[i];
        qsort(facts->by_user + user->events, user->events_count, sizeof *facts->by_user, by_possible);
    }
}

static void group_reads(struct facts *facts)
{
    struct fact_read *grouped = chaos_alloc(facts->reads_count, sizeof *grouped);
    GROUP_BY_USER(facts, facts->reads, facts->reads_count, user, reads, reads_count);
    for (size_t i = 0; i < facts->reads_count; i++) {
        struct fact_read *read = &facts->reads[i];
        struct fact_user *user = &facts->users[read->user];
        for (size_t j = 0; j < read->list_count; j++) {
            uint32_t at = facts->events[facts->lists[read->list + j]].possible;
            read->latest = at == CHAOS_NEVER ? read->latest : chaos_max(read->latest, at);
        }
        grouped[user->reads + user->reads_count++] = *read;
    }
    free(facts->reads);
    facts->reads = grouped;
}

static int by_end(const void *a, const void *b)
{
    uint32_t left = ((const struct fact_erased *)a)->end, right = ((const struct fact_erased *)b)->end;
    return left < right ? -1 : left > right;
}

static void group_erases(struct facts *facts)
{
    struct fact_erase *grouped = chaos_alloc(facts->erases_count, sizeof *grouped);
    facts->erased = chaos_alloc(facts->erases_count, sizeof *facts->erased);
    GROUP_BY_USER(facts, facts->erases, facts->erases_count, user, erases, erases_count);
    for (size_t i = 0; i < facts->erases_count; i++) {
        struct fact_erase *erase = &facts->erases[i];
        struct fact_user *user = &facts->users[erase->user];
        struct fact_erase *to = &grouped[user->erases + user->erases_count];
        *to = *erase;
        to->end_max = user->erases_count > 0 ? chaos_max(to[-1].end_max, to->end) : to->end;
        user->erases_count++;
    }
    free(facts->erases);
    facts->erases = grouped;
    for (size_t i = 0; i < facts->users_count; i++) {
        struct fact_user *user = &facts->users[i];
        user->erased = facts->erased_count;
        for (size_t j = 0; j < user->erases_count; j++) {
            const struct fact_erase *erase = &grouped[user->erases + j];
            if (erase->end != CHAOS_NEVER) {
                facts->erased[facts->erased_count++] =
                    (struct fact_erased){.user = erase->user, .end = erase->end, .invoke_max = erase->invoke};
            }
        }
        user->erased_count = facts->erased_count - user->erased;
        struct fact_erased *own = facts->erased + user->erased;
        qsort(own, user->erased_count, sizeof *own, by_end);
        for (size_t j = 1; j < user->erased_count; j++) {
            own[j].invoke_max = chaos_max(own[j].invoke_max, own[j - 1].invoke_max);
        }
    }
}

uint32_t chaos_erased_until(const struct facts *facts, const struct fact_user *user, uint32_t before)
{
    const struct fact_erase *own = facts->erases + user->erases;
    size_t from = 0, to = user->erases_count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (own[middle].invoke < before) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from == 0 ? 0 : own[from - 1].end_max;
}

uint32_t chaos_erased_since(const struct facts *facts, const struct fact_user *user, uint32_t before)
{
    const struct fact_erased *own = facts->erased + user->erased;
    size_t from = 0, to = user->erased_count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (own[middle].end < before) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from == 0 ? 0 : own[from - 1].invoke_max;
}

/* An erasure that was on its way together with the publish may have come between the server's two tries. */
static void settle_refusals(struct facts *facts, const struct refusals *refusals)
{
    for (size_t i = 0; i < refusals->count; i++) {
        const struct refusal *refusal = &refusals->list[i];
        struct fact_event *event = &facts->events[refusal->event];
        const struct fact_user *user = &facts->users[event->user];
        if (chaos_erased_until(facts, user, refusal->end) > refusal->invoke) {
            possible(event, refusal->invoke);
        } else {
            event->refused = chaos_min(event->refused, refusal->end);
        }
    }
}

/* ---- streams -------------------------------------------------------------------------------------- */

static int by_source_offset(const void *a, const void *b)
{
    const struct fact_event *left = &sorted->events[*(const uint32_t *)a];
    const struct fact_event *right = &sorted->events[*(const uint32_t *)b];
    uint32_t left_source = sorted->streams[left->stream].source,
             right_source = sorted->streams[right->stream].source;
    if (left_source != right_source) {
        return left_source < right_source ? -1 : 1;
    }
    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

/* Which stream events are surely not late, then each stream's list by offset. */
static void group_streams(struct facts *facts)
{
    int64_t newest_ms = INT64_MIN;
    uint32_t source = CHAOS_NEVER;
    sorted = facts;
    if (facts->streamed_count == 0) {
        return;
    }
    qsort(facts->streamed, facts->streamed_count, sizeof *facts->streamed, by_source_offset);
    for (size_t i = 0; i < facts->streamed_count; i++) {
        struct fact_event *event = &facts->events[facts->streamed[i]];
        struct fact_stream *stream = &facts->streams[event->stream];
        newest_ms = stream->source != source ? INT64_MIN : newest_ms;
        source = stream->source;
        event->sure = newest_ms == INT64_MIN || event->time_ms >= newest_ms - LATENESS_MS;
        newest_ms = event->time_ms > newest_ms ? event->time_ms : newest_ms;
        stream->list_count++;
    }
    uint32_t *grouped = chaos_alloc(facts->streamed_count, sizeof *grouped);
    uint32_t *sure = chaos_alloc(facts->streams_count, sizeof *sure);
    size_t at = 0;
    for (size_t i = 0; i < facts->streams_count; i++) {
        facts->streams[i].list = at;
        at += facts->streams[i].list_count;
        facts->streams[i].list_count = 0;
    }
    for (size_t i = 0; i < facts->streamed_count; i++) {
        struct fact_event *event = &facts->events[facts->streamed[i]];
        struct fact_stream *stream = &facts->streams[event->stream];
        grouped[stream->list + stream->list_count++] = facts->streamed[i];
        event->sure_rank = sure[event->stream];
        sure[event->stream] += event->sure;
    }
    free(sure);
    free(facts->streamed);
    facts->streamed = grouped;
}

/* ---- all ------------------------------------------------------------------------------------------ */

void chaos_facts_gather(struct facts *facts, struct chaos_check *check)
{
    struct refusals refusals = {0};
    memset(facts, 0, sizeof *facts);
    facts->check = check;
    gather(facts, &refusals);
    group_erases(facts);
    settle_refusals(facts, &refusals);
    group_events(facts);
    group_reads(facts);
    group_streams(facts);
    free(refusals.list);
}

void chaos_facts_free(struct facts *facts)
{
    chaos_table_free(&facts->user_table);
    chaos_table_free(&facts->event_table);
    chaos_table_free(&facts->source_table);
    chaos_table_free(&facts->stream_table);
    free(facts->users);
    free(facts->events);
    free(facts->reads);
    free(facts->erases);
    free(facts->erased);
    free(facts->streams);
    free(facts->lists);
    free(facts->by_user);
    free(facts->streamed);
}
