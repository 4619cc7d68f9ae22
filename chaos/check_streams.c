/* Streams by their numbers: what nodes say of how far they have read (OFFSETS) and of what they counted as
 * dead (DEAD_LETTERS), against what the streams have (INGEST).
 *
 * What is sound to say at any time: the shards of one node never counted more events of a partition than it
 * had, nor more dead letters than there were messages that are no events; nothing that was produced is late,
 * ahead or refused for want of room. At the end, when all there is was read: every shard stands at the end of
 * every partition, no further back than any node ever said, and the counts are exact but for users who were
 * erased (their events may have been dropped as such). A message whose end nobody knows (:info alone) may be
 * there or not; one that is surely not there (:fail) is as if it had never been asked for. That no node goes
 * back meanwhile is judged with the commit indexes (check_cluster.c); events themselves with their sessions
 * (check_sessions.c). */
#include "chaos/check_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEVER CHAOS_NEVER

struct partition {
    uint64_t asked, firm;               /* events: perhaps in it; surely, and of users whom nobody erased */
    uint64_t end;                       /* the offset after its last message */
    uint32_t end_at;                    /* NEVER: not told */
    uint64_t only;                      /* the one shard that reads it; 0: all do */
    uint64_t stream;                    /* hash of its name, where the end was told */
    uint64_t reached[CHAOS_GROUPS_MAX]; /* by shard: the largest next offset that was told, */
    uint32_t reached_at[CHAOS_GROUPS_MAX];
    uint64_t sum; /* of the answer that is looked at */
    uint32_t shards_seen;
};

struct streams {
    struct chaos_check *check;
    uint32_t shards;
    struct chaos_table names, erased; /* hash of "STREAM/PARTITION"; user */
    struct partition *list;
    size_t count, capacity;
    uint64_t dead_asked, dead_firm; /* messages that are no events */
};

static struct partition *partition_of(struct streams *streams, uint64_t name)
{
    uint32_t number = chaos_table_put(&streams->names, name, 0, (uint32_t)streams->count);
    if (number == streams->count) {
        streams->list = chaos_room(streams->list, number, &streams->capacity, sizeof *streams->list);
        streams->list[streams->count++] = (struct partition){.end_at = NEVER};
    }
    return &streams->list[number];
}

static void gather_erased(struct streams *streams)
{
    for (size_t i = 0; i < streams->check->count; i++) {
        const struct chaos_op *op = chaos_history_at(streams->check->history, i);
        if (op->f == CHAOS_ERASE && op->type == CHAOS_INVOKE) {
            chaos_table_put(&streams->erased, op->key, 0, 0);
        }
    }
}

static void ingest(struct streams *streams, const struct chaos_op *op)
{
    struct partition *partition = partition_of(streams, chaos_source_hash(op->name));
    bool sure = op->type == CHAOS_OK;
    if (op->type == CHAOS_FAIL) {
        uint64_t *asked = op->key == CHAOS_NO_USER ? &streams->dead_asked : &partition->asked;
        *asked -= op->events_count < *asked ? op->events_count : *asked;
    } else if (op->key == CHAOS_NO_USER) {
        streams->dead_asked += sure ? 0 : op->events_count;
        streams->dead_firm += sure ? op->events_count : 0;
    } else if (!sure) {
        partition->asked += op->events_count;
    } else if (chaos_table_find(&streams->erased, op->key, 0) == NEVER) {
        partition->firm += op->events_count;
    }
}

/* ---- offsets -------------------------------------------------------------------------------------- */

static void judge_row(struct streams *streams, const struct chaos_op *ok, bool final,
                      const struct chaos_row *row, struct partition *partition)
{
    uint64_t shard = row->of[CHAOS_ROW_SHARD], next = row->of[CHAOS_ROW_NEXT_OFFSET];
    uint32_t at = (uint32_t)ok->index;
    partition->sum += row->of[CHAOS_ROW_EVENTS];
    partition->shards_seen++;
    if (shard >= CHAOS_GROUPS_MAX) {
        return;
    }
    if (final && partition->end_at != NEVER && partition->only != 0 && shard != partition->only) {
        chaos_violated(streams->check, CHAOS_RULE_OFFSET, partition->end_at, at, NEVER,
                       "%s, partition %" PRIu64 ": only shard %" PRIu64 " reads it, and shard %" PRIu64
                       " of node %" PRIu32 " has an offset of it",
                       ok->name, row->of[CHAOS_ROW_PARTITION], partition->only, shard, ok->node);
    }
    if (final && partition->end_at != NEVER && next != partition->end) {
        chaos_violated(streams->check, CHAOS_RULE_OFFSET, partition->end_at, at, NEVER,
                       "%s, partition %" PRIu64 ": it ends at %" PRIu64 ", and shard %" PRIu64
                       " of node %" PRIu32 " stands at %" PRIu64,
                       ok->name, row->of[CHAOS_ROW_PARTITION], partition->end, shard, ok->node, next);
    } else if (final && next < partition->reached[shard]) {
        chaos_violated(streams->check, CHAOS_RULE_OFFSET, partition->reached_at[shard], at, NEVER,
                       "%s, partition %" PRIu64 ", shard %" PRIu64 ": %" PRIu64
                       " was told, and in the end node %" PRIu32 " stands at %" PRIu64,
                       ok->name, row->of[CHAOS_ROW_PARTITION], shard, partition->reached[shard], ok->node,
                       next);
    }
    if (next > partition->reached[shard]) {
        partition->reached[shard] = next;
        partition->reached_at[shard] = at;
    }
}

static void judge_counts(struct streams *streams, const struct chaos_op *ok, bool final,
                         const struct partition *partition)
{
    uint32_t at = (uint32_t)ok->index;
    if (partition->sum > partition->asked) {
        chaos_violated(streams->check, CHAOS_RULE_STREAM, at, NEVER, NEVER,
                       "%s: node %" PRIu32 " counted %" PRIu64 " events of a partition that has %" PRIu64,
                       ok->name, ok->node, partition->sum, partition->asked);
    }
    if (!final || partition->end_at == NEVER) {
        return;
    }
    if (partition->sum < partition->firm) {
        chaos_violated(streams->check, CHAOS_RULE_STREAM, at, NEVER, NEVER,
                       "%s: node %" PRIu32 " counted %" PRIu64 " events of a partition that has %" PRIu64
                       " of users whom nobody erased",
                       ok->name, ok->node, partition->sum, partition->firm);
    }
    uint32_t shards = partition->only != 0 ? 1 : streams->shards;
    if (partition->shards_seen != shards) {
        chaos_violated(streams->check, CHAOS_RULE_OFFSET, partition->end_at, at, NEVER,
                       "%s: in the end node %" PRIu32 " has offsets of a partition in %" PRIu32
                       " shards of %" PRIu32,
                       ok->name, ok->node, partition->shards_seen, shards);
    }
}

/* Whether the partition that this row is of is in none before it. */
static bool is_first(const struct chaos_op *ok, size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (ok->rows[k].of[CHAOS_ROW_PARTITION] == ok->rows[i].of[CHAOS_ROW_PARTITION]) {
            return false;
        }
    }
    return true;
}

static void judge_offsets(struct streams *streams, const struct chaos_op *ok, bool final)
{
    for (size_t p = 0; p < streams->count; p++) {
        streams->list[p].sum = streams->list[p].shards_seen = 0;
    }
    for (size_t i = 0; i < ok->rows_count; i++) {
        uint64_t name = chaos_partition_hash(ok->name, ok->rows[i].of[CHAOS_ROW_PARTITION]);
        judge_row(streams, ok, final, &ok->rows[i], partition_of(streams, name));
    }
    for (size_t i = 0; i < ok->rows_count; i++) {
        if (is_first(ok, i)) {
            uint64_t name = chaos_partition_hash(ok->name, ok->rows[i].of[CHAOS_ROW_PARTITION]);
            judge_counts(streams, ok, final, partition_of(streams, name));
            chaos_judged(streams->check, CHAOS_RULE_STREAM, 1);
            chaos_judged(streams->check, CHAOS_RULE_OFFSET, final);
        }
    }
    for (size_t p = 0; final && p < streams->count; p++) {
        struct partition *partition = &streams->list[p];
        if (partition->end_at != NEVER && partition->end > 0 && partition->shards_seen == 0 &&
            partition->stream == chaos_source_hash(ok->name)) {
            chaos_violated(streams->check, CHAOS_RULE_OFFSET, partition->end_at, (uint32_t)ok->index, NEVER,
                           "%s: in the end node %" PRIu32 " knows no offset of a partition that ends at"
                           " %" PRIu64,
                           ok->name, ok->node, partition->end);
        }
    }
}

static void take_end(struct streams *streams, const struct chaos_op *op)
{
    for (size_t i = 0; i < op->rows_count; i++) {
        uint64_t name = chaos_partition_hash(op->name, op->rows[i].of[CHAOS_ROW_PARTITION]);
        struct partition *partition = partition_of(streams, name);
        partition->end = op->rows[i].of[CHAOS_ROW_NEXT_OFFSET];
        partition->only = op->rows[i].of[CHAOS_ROW_SHARD];
        partition->end_at = (uint32_t)op->index;
        partition->stream = chaos_source_hash(op->name);
    }
}

/* ---- dead letters --------------------------------------------------------------------------------- */

static void judge_dead(struct streams *streams, const struct chaos_op *ok, bool final)
{
    uint64_t undecodable = 0, refused = 0;
    uint32_t at = (uint32_t)ok->index;
    for (size_t i = 0; i < ok->rows_count; i++) {
        undecodable += ok->rows[i].of[CHAOS_ROW_UNDECODABLE];
        refused += ok->rows[i].of[CHAOS_ROW_REFUSED];
    }
    chaos_judged(streams->check, CHAOS_RULE_STREAM, streams->dead_asked > 0);
    if (undecodable > streams->dead_asked) {
        chaos_violated(streams->check, CHAOS_RULE_STREAM, at, NEVER, NEVER,
                       "node %" PRIu32 " counted %" PRIu64 " undecodable messages; the streams had %" PRIu64,
                       ok->node, undecodable, streams->dead_asked);
    } else if (final && undecodable < streams->dead_firm) {
        chaos_violated(streams->check, CHAOS_RULE_STREAM, at, NEVER, NEVER,
                       "in the end node %" PRIu32 " has counted %" PRIu64
                       " undecodable messages; the streams have %" PRIu64,
                       ok->node, undecodable, streams->dead_firm);
    }
    if (refused > 0) {
        chaos_violated(streams->check, CHAOS_RULE_STREAM, at, NEVER, NEVER,
                       "node %" PRIu32 " counted %" PRIu64
                       " dead letters of other kinds; nothing in the streams is late or too much",
                       ok->node, refused);
    }
}

void chaos_check_streams(struct chaos_check *check)
{
    struct streams streams = {.check = check, .shards = chaos_shards(check->history)};
    gather_erased(&streams);
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        if (op->f == CHAOS_INGEST) {
            ingest(&streams, op);
        } else if (op->type == CHAOS_OK && (op->f == CHAOS_OFFSETS || op->f == CHAOS_DEAD_LETTERS)) {
            size_t pair = chaos_history_pair(check->history, i);
            bool final = pair != SIZE_MAX && pair > check->final_from;
            if (op->f == CHAOS_DEAD_LETTERS) {
                judge_dead(&streams, op, final);
            } else if (op->process == CHAOS_NEMESIS) {
                take_end(&streams, op);
            } else {
                judge_offsets(&streams, op, final);
            }
        }
    }
    chaos_table_free(&streams.names);
    chaos_table_free(&streams.erased);
    free(streams.list);
}

/* ---- names ---------------------------------------------------------------------------------------- */

uint64_t chaos_source_hash(const char *name)
{
    uint64_t hash = 1469598103934665603u; /* FNV-1a */
    for (const char *c = name; c != NULL && *c != '\0'; c++) {
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    }
    return hash;
}

uint64_t chaos_partition_hash(const char *stream, uint64_t partition)
{
    char name[CHAOS_STREAM_NAME_MAX + 24];
    snprintf(name, sizeof name, "%.*s/%" PRIu64, CHAOS_STREAM_NAME_MAX, stream != NULL ? stream : "",
             partition);
    return chaos_source_hash(name);
}
