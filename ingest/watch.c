/* How far behind each stream is, and whether it stands still.
 *
 * A lane is *fresh* as of a wall time: what its stream held then is in the state. At the stream's end that is
 * when the driver last knew itself in touch; before it, the time of the newest message that was counted;
 * where messages carry no time (files), when the lane last got on. A lane that is not fresh for longer than
 * stall_ms stands still, whatever the reason, and so do all streams of a source that has trouble as a whole.
 * The leader puts the first word of it, and the word that it is over, into the log: every replica then says
 * so in its answers. Of streams that only another node reads it knows by heard.c. */
#include "ingest/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_GAP_US 5000000u      /* a partition that cannot be read is tried again so often */
#define TROUBLE_EVERY_US 60000000u /* the same of a source as a whole, when it is another trouble */
#define ROWS_FIRST 64u

static struct dn_ingest_row *add_row(struct ingest_watch *watch)
{
    if (watch->count == watch->capacity) {
        size_t capacity = watch->capacity == 0 ? ROWS_FIRST : 2 * watch->capacity;
        struct dn_ingest_row *rows = realloc(watch->rows, capacity * sizeof *rows);
        if (rows == NULL)
            return NULL;
        watch->rows = rows;
        watch->capacity = capacity;
    }
    struct dn_ingest_row *row = &watch->rows[watch->count++];
    memset(row, 0, sizeof *row);
    return row;
}

static bool is_late(const struct ingest_watch *watch, int64_t since_ms)
{
    return since_ms > 0 &&
           watch->now_ms - since_ms > (int64_t)watch->ingest->options.stall_ms + INGEST_HEARD_MS;
}

struct worst {
    int64_t *since_ms;
    char *reason; /* DN_STALL_REASON_MAX + 1 */
};

static void note_worst(struct worst worst, int64_t since_ms, const char *what, uint32_t partition,
                       const char *why)
{
    if (*worst.since_ms != 0 && *worst.since_ms <= since_ms)
        return;
    *worst.since_ms = since_ms;
    ingest_reason(what, partition, why, worst.reason);
}

/* own: only this node reads it. */
static void note(struct ingest_watch *watch, uint32_t group, bool own, int64_t since_ms, const char *what,
                 uint32_t partition, const char *why)
{
    watch->troubled[group] += partition != UINT32_MAX;
    note_worst((struct worst){&watch->since_ms[group], watch->reason[group]}, since_ms, what, partition, why);
    if (own)
        note_worst((struct worst){&watch->own_since_ms[group], watch->own_reason[group]}, since_ms, what,
                   partition, why);
}

static void note_own_fresh(struct ingest_watch *watch, uint32_t group, int64_t fresh_ms)
{
    if (fresh_ms < watch->own_ms[group])
        watch->own_ms[group] = fresh_ms;
}

/* ---- lanes
 * -------------------------------------------------------------------------------------------------- */

static void freshen(struct ingest_lane *lane, const struct dn_partition_status *status, int64_t now_ms)
{
    const struct ingest_feed *feed = lane->feed;
    bool nothing_left = lane->state == LANE_RUNNING && !lane->behind && lane->out == 0 &&
                        lane->event_count + lane->dead_count == 0 && lane->next_offset <= feed->position;

    if (status->waits)
        lane->fresh_ms = now_ms;
    if (lane->fresh_ms > now_ms) /* the wall clock was set back */
        lane->fresh_ms = now_ms;
    if (!nothing_left || !feed->started)
        return;
    bool at_end = feed->at_end && status->state == DN_PARTITION_AT_END;
    int64_t fresh_ms = at_end ? status->heard_ms : feed->message_ms;
    if (at_end) /* whatever it was, it is over */
        lane->error[0] = 0;
    if (fresh_ms > lane->fresh_ms)
        lane->fresh_ms = fresh_ms < now_ms ? fresh_ms : now_ms;
}

static int64_t lag_records(const struct ingest_lane *lane, const struct dn_partition_status *status)
{
    int64_t from = lane->committed == DN_OFFSET_UNSET ? status->begin_offset : lane->committed;

    if (status->end_offset < 0 || from < 0 || status->state == DN_PARTITION_GAP)
        return -1;
    return status->end_offset > from ? status->end_offset - from : 0;
}

/* A file's lines have no times of their own: before its end, that it gets on says nothing of how far it is.
 */
static int64_t lag_ms(const struct ingest_watch *watch, const struct ingest_lane *lane)
{
    const struct ingest_feed *feed = lane->feed;

    if (feed->stream->source->config->kind == DN_SOURCE_FILE && !feed->at_end)
        return -1;
    return watch->now_ms > lane->fresh_ms ? watch->now_ms - lane->fresh_ms : 0;
}

static const char *why_of(const struct ingest_lane *lane, const struct dn_partition_status *status)
{
    if (lane->feed->error[0] != 0)
        return lane->feed->error;
    if (status->error[0] != 0)
        return status->error;
    if (lane->error[0] != 0)
        return lane->error;
    if (lane->feed->stream->source->trouble_ms != 0) /* what it is about as a whole */
        return lane->feed->stream->source->trouble;
    return status->state == DN_PARTITION_CONNECTING ? "nothing is heard of it" : "behind";
}

static void watch_lane(struct ingest_watch *watch, struct ingest_lane *lane,
                       const struct dn_partition_status *status)
{
    const struct ingest_stream *stream = lane->feed->stream;

    freshen(lane, status, watch->now_ms);
    bool broken = status->state == DN_PARTITION_GAP || status->state == DN_PARTITION_FAILED;
    bool stalled = is_late(watch, lane->fresh_ms) || broken;
    const char *why = why_of(lane, status);
    if (stalled)
        note(watch, lane->group, stream->info.local, lane->fresh_ms, stream->info.stream,
             lane->feed->partition, why);
    if (stream->info.local)
        note_own_fresh(watch, lane->group, lane->fresh_ms);
    struct dn_ingest_row *row = add_row(watch);
    if (row == NULL)
        return;
    snprintf(row->source, sizeof row->source, "%s", stream->source->config->name);
    snprintf(row->stream, sizeof row->stream, "%s", stream->info.stream);
    row->partition = lane->feed->partition;
    row->group = lane->group;
    row->state = status->state;
    row->keyed = stream->keyed;
    row->next_offset = lane->committed;
    row->begin_offset = status->begin_offset;
    row->end_offset = status->end_offset;
    row->lag_records = lag_records(lane, status);
    row->lag_ms = lag_ms(watch, lane);
    row->stalled = stalled;
    if (why != NULL && (stalled || broken || status->error[0] != 0 || lane->error[0] != 0))
        snprintf(row->error, sizeof row->error, "%s", why);
}

/* The offset that the feed begins at cannot be had. Lanes that want another one need not wait with those that
 * want it: these are tried again by themselves. False: all want the same. */
static bool part_ways(struct ingest_watch *watch, struct ingest_feed *feed, const char *why)
{
    unsigned stuck = 0, others = 0;

    for (uint32_t i = 0; i < watch->ingest->options.shard_count; i++) {
        const struct ingest_lane *lane = feed->lanes[i];
        if (lane != NULL && lane->state == LANE_RUNNING && !lane->leaving)
            *(lane->next_offset <= feed->position ? &stuck : &others) += 1;
    }
    if (stuck == 0 || others == 0)
        return false;
    for (uint32_t i = 0; i < watch->ingest->options.shard_count; i++) {
        struct ingest_lane *lane = feed->lanes[i];
        if (lane != NULL && lane->state == LANE_RUNNING && lane->next_offset <= feed->position)
            lane_desync(lane, RETRY_GAP_US, why);
    }
    return true;
}

static void watch_feed(struct ingest_watch *watch, struct ingest_feed *feed)
{
    const struct ingest_source *source = feed->stream->source;
    struct dn_partition_status status = {.begin_offset = -1, .end_offset = -1};
    int64_t least = INT64_MAX;

    if (feed->lane_count == 0)
        return;
    source->driver->status(source->self, feed->stream->index, feed->partition, &status);
    for (uint32_t i = 0; i < watch->ingest->options.shard_count; i++) {
        struct ingest_lane *lane = feed->lanes[i];
        if (lane == NULL || lane->leaving)
            continue;
        watch_lane(watch, lane, &status);
        if (lane->committed < least)
            least = lane->committed;
    }
    if (source->driver->mirror != NULL && least != INT64_MAX && least >= 0 && least != feed->mirrored) {
        source->driver->mirror(source->self, feed->stream->index, feed->partition, least);
        feed->mirrored = least;
    }
    if ((status.state == DN_PARTITION_GAP || status.state == DN_PARTITION_FAILED) && feed->started &&
        ((status.state == DN_PARTITION_GAP && part_ways(watch, feed, status.error)) ||
         watch->ingest->now_us - feed->started_us > RETRY_GAP_US))
        feed_stop(feed); /* and it is started again where its lanes want it */
}

/* ---- sources
 * ------------------------------------------------------------------------------------------------ */

/* What is wrong with the source as a whole, in full, once: a group's word has room for a part of one source's
 * only. */
static void tell_trouble(const struct ingest_watch *watch, struct ingest_source *source)
{
    uint64_t now_us = watch->ingest->now_us;

    if (source->trouble_ms == 0) {
        if (source->told_ms != 0)
            dn_info("ingest", "source '%s': what was wrong is over", source->config->name);
        source->told_ms = 0;
        return;
    }
    if (!is_late(watch, source->trouble_ms) || source->told_ms == source->trouble_ms ||
        (source->told_ms != 0 && now_us - source->told_us < TROUBLE_EVERY_US))
        return;
    dn_warn("ingest", "source '%s': %s", source->config->name, source->trouble);
    source->told_ms = source->trouble_ms;
    source->told_us = now_us;
}

static void watch_source(struct ingest_watch *watch, struct ingest_source *source)
{
    struct dn_ingest *ingest = watch->ingest;

    watch->blind |= source->trouble_ms != 0 || source->stream_count == 0;
    for (size_t i = 0; i < source->stream_count; i++)
        for (uint32_t p = 0; p < source->streams[i].feed_count; p++)
            watch_feed(watch, source->streams[i].feeds[p]);
    tell_trouble(watch, source);
    if (source->trouble_ms == 0)
        return;
    bool late = is_late(watch, source->trouble_ms);
    bool own = dn_source_is_local(source->config);
    watch->own_trouble = watch->own_trouble || own;
    for (uint32_t group = 1; group <= ingest->options.shard_count; group++) {
        if (late)
            note(watch, group, own, source->trouble_ms, source->config->name, UINT32_MAX, source->trouble);
        if (own)
            note_own_fresh(watch, group, source->trouble_ms);
    }
    struct dn_ingest_row *row = add_row(watch);
    if (row == NULL)
        return;
    snprintf(row->source, sizeof row->source, "%s", source->config->name);
    row->partition = UINT32_MAX;
    row->state = DN_PARTITION_CONNECTING;
    row->next_offset = row->begin_offset = row->end_offset = row->lag_records = -1;
    row->lag_ms = watch->now_ms - source->trouble_ms;
    row->stalled = late;
    snprintf(row->error, sizeof row->error, "%s", source->trouble);
}

/* ---- groups
 * ------------------------------------------------------------------------------------------------- */

/* Consensus thread. Whatever became of it: the next look compares again. */
static void on_stall_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index,
                          const uint8_t *result, size_t length, const struct dn_error *err)
{
    struct ingest_group *group = proposal->data;

    (void)code;
    (void)index;
    (void)result;
    (void)length;
    (void)err;
    atomic_store(&group->stall_out, false);
}

void ingest_propose_stall(struct dn_ingest *ingest, uint32_t number, int64_t since_ms, const char *reason)
{
    struct ingest_group *group = &ingest->groups[number];

    if (atomic_load(&group->stall_out))
        return; /* its record is being read */
    if (group->stall_record.max == 0)
        dn_buffer_init(&group->stall_record, DN_STALL_REASON_MAX + 64);
    dn_buffer_clear(&group->stall_record);
    dn_record_stall(&group->stall_record, since_ms, reason);
    if (group->stall_record.failed)
        return;
    group->stall_us = ingest->now_us;
    group->stall = (struct dn_proposal){
        .group = number,
        .record = group->stall_record.bytes,
        .length = group->stall_record.length,
        .deadline_us = dn_monotonic_us() + INGEST_PROPOSAL_US,
        .done = on_stall_done,
        .data = group,
    };
    atomic_store(&group->stall_out, true);
    if (!ingest->options.target.propose(ingest->options.target.data, &group->stall))
        atomic_store(&group->stall_out, false);
}

/* Streams of other nodes. */
static void watch_readers(struct ingest_watch *watch, uint32_t number)
{
    const char *why;
    int64_t since_ms;
    uint64_t reader = ingest_standing(watch->ingest, number, &since_ms, &why);

    if (reader == 0)
        return;
    if (since_ms > watch->now_ms)
        since_ms = watch->now_ms;
    if (watch->since_ms[number] != 0 && watch->since_ms[number] <= since_ms)
        return;
    watch->since_ms[number] = since_ms;
    watch->reader[number] = reader;
    size_t length = ingest_reader_prefix(reader, watch->reason[number], DN_STALL_REASON_MAX + 1);
    snprintf(watch->reason[number] + length, DN_STALL_REASON_MAX + 1 - length, "%s", why);
}

/* The reason that was told is another one. A reader may have told its own better: that stays. */
static bool is_other_reason(const struct ingest_watch *watch, uint32_t number, const char *said)
{
    if (watch->reader[number] != 0)
        return ingest_reason_reader(said) != watch->reader[number];
    return strcmp(said, watch->reason[number]) != 0;
}

static void watch_group(struct ingest_watch *watch, uint32_t number)
{
    struct dn_ingest *ingest = watch->ingest;
    struct ingest_group *group = &ingest->groups[number];
    char said[DN_STALL_REASON_MAX + 1];

    ingest_say(watch, number);
    if (!group->leads) {
        group->stalled_ms = 0;
        ingest_explain(watch, number);
        return;
    }
    if (atomic_load(&group->stall_out))
        return; /* its record is being read */
    ingest_reason_count(watch->reason[number], watch->troubled[number]);
    watch_readers(watch, number);
    int64_t told_ms = ingest->options.target.stalled(ingest->options.target.data, number, said);
    /* Who sees nothing takes nothing back: a node that was started while the broker is down knows no
     * partition that could stand still. */
    if (watch->since_ms[number] == 0 && watch->blind && told_ms != 0) {
        group->stalled_ms = told_ms;
        return;
    }
    bool now = watch->since_ms[number] != 0, before = group->stalled_ms != 0;
    if (now && !before)
        dn_warn("ingest", "group %u: its streams stand still for %lld ms: %s", number,
                (long long)(watch->now_ms - watch->since_ms[number]), watch->reason[number]);
    else if (!now && before)
        dn_info("ingest", "group %u: its streams run again", number);
    if (now != before) {
        group->stalled_ms = watch->since_ms[number];
        snprintf(group->reason, sizeof group->reason, "%s", watch->reason[number]);
    }
    bool other_reason = now && told_ms != 0 && is_other_reason(watch, number, said) &&
                        ingest->now_us - group->stall_us > INGEST_REASON_US;
    if (other_reason)
        snprintf(group->reason, sizeof group->reason, "%s", watch->reason[number]);
    if (other_reason || (told_ms != 0) != (group->stalled_ms != 0))
        ingest_propose_stall(ingest, number, group->stalled_ms, group->reason);
}

/* Without memory the old ones stay. */
static void tell_names(struct dn_ingest *ingest)
{
    size_t most = 0, count = 0;

    for (size_t s = 0; s < ingest->options.source_count; s++)
        most += ingest->sources[s].stream_count;
    char(*names)[DN_SOURCE_MAX + 1] = calloc(most + 1, sizeof *names);
    if (names == NULL)
        return;
    for (size_t s = 0; s < ingest->options.source_count; s++)
        for (size_t i = 0; i < ingest->sources[s].stream_count; i++) {
            const struct dn_stream_info *info = &ingest->sources[s].streams[i].info;
            if (info->stream[0] != 0 && !info->gone)
                memcpy(names[count++], info->stream, sizeof names[0]);
        }
    pthread_mutex_lock(&ingest->rows_lock);
    void *old = ingest->names;
    ingest->names = names;
    ingest->name_count = count;
    pthread_mutex_unlock(&ingest->rows_lock);
    free(old);
}

void ingest_watch(struct dn_ingest *ingest)
{
    struct ingest_watch *watch = calloc(1, sizeof *watch);

    if (watch == NULL)
        return;
    watch->ingest = ingest;
    watch->now_ms = dn_wall_ms();
    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        watch->own_ms[group] = watch->now_ms;
    ingest_listen(ingest);
    for (size_t s = 0; s < ingest->options.source_count; s++)
        watch_source(watch, &ingest->sources[s]);
    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        watch_group(watch, group);
    pthread_mutex_lock(&ingest->rows_lock);
    struct dn_ingest_row *old = ingest->rows;
    ingest->rows = watch->rows;
    ingest->row_count = watch->count;
    pthread_mutex_unlock(&ingest->rows_lock);
    free(old);
    free(watch);
    tell_names(ingest);
}

bool dn_ingest_has(struct dn_ingest *ingest, const char *stream)
{
    bool found = false;

    pthread_mutex_lock(&ingest->rows_lock);
    for (size_t i = 0; i < ingest->name_count && !found; i++)
        found = strcmp(ingest->names[i], stream) == 0;
    pthread_mutex_unlock(&ingest->rows_lock);
    return found;
}

size_t dn_ingest_rows(struct dn_ingest *ingest, struct dn_ingest_row *ret, size_t max)
{
    pthread_mutex_lock(&ingest->rows_lock);
    size_t count = ingest->row_count;
    if (count > 0 && max > 0)
        memcpy(ret, ingest->rows, (count < max ? count : max) * sizeof *ret);
    pthread_mutex_unlock(&ingest->rows_lock);
    return count;
}
