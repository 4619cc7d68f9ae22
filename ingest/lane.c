/* A lane: one shard's part of a partition, gathered into batches and proposed.
 *
 * Happy path: events are added in the order of their offsets; when a batch is full or old enough it is
 * encoded and proposed (send), up to the group's number at once, each beginning where the one before it ends;
 * they come back in order (lane_batch_done) and the offset is committed.
 *
 * Failures: consensus' queue is full (what is gathered stays, and is tried in the next turn; the feed is not
 * read meanwhile); a batch is refused, or nobody knows what became of it: everything gathered is dropped,
 * what is out comes back (refused as gaps, or counted), and the lane asks the state where to go on. */
#include "ingest/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_BYTES_MAX DN_RECORD_MAX
#define FIRST_CAPACITY 64u
#define NS_PER_US 1000u

struct ingest_lane *lane_create(struct ingest_feed *feed, uint32_t group)
{
    struct ingest_lane *lane = calloc(1, sizeof *lane);

    if (lane == NULL)
        return NULL;
    lane->feed = feed;
    lane->group = group;
    lane->backoff_us = INGEST_RETRY_US;
    /* Where the leader before this one said that they stand still, that holds until something was read; but
     * for what it said of another node's own streams. */
    const struct dn_ingest_options *options = &feed->stream->source->ingest->options;
    char reason[DN_STALL_REASON_MAX + 1];
    int64_t stalled_ms = options->target.stalled(options->target.data, group, reason);
    uint64_t reader = stalled_ms != 0 ? ingest_reason_reader(reason) : 0;
    if (reader != 0 && reader != options->node_id)
        stalled_ms = 0;
    lane->fresh_ms = stalled_ms != 0 ? stalled_ms : dn_wall_ms();
    dn_buffer_init(&lane->items, RECORD_BYTES_MAX);
    return lane;
}

/* What a flood left behind. */
static void give_memory_back(struct ingest_lane *lane)
{
    free(lane->events);
    free(lane->item_at);
    free(lane->dead);
    lane->events = NULL;
    lane->item_at = NULL;
    lane->dead = NULL;
    lane->event_capacity = lane->dead_capacity = 0;
    dn_buffer_free(&lane->items);
}

void lane_free(struct ingest_lane *lane)
{
    if (lane == NULL)
        return;
    give_memory_back(lane);
    free(lane);
}

static void forget_gathered(struct ingest_lane *lane)
{
    lane->event_count = lane->dead_count = 0;
    lane->bytes = 0;
    dn_buffer_clear(&lane->items);
}

void lane_desync(struct ingest_lane *lane, uint64_t retry_after_us, const char *why)
{
    struct dn_ingest *ingest = lane->feed->stream->source->ingest;

    forget_gathered(lane);
    lane->state = LANE_SYNCING;
    lane->retry_us = ingest->now_us + retry_after_us;
    if (why != NULL && why != lane->error)
        snprintf(lane->error, sizeof lane->error, "%s", why);
}

/* ---- gathering
 * ---------------------------------------------------------------------------------------------- */

static const struct dn_source_config *config_of(const struct ingest_lane *lane)
{
    return lane->feed->stream->source->config;
}

static bool is_full(const struct ingest_lane *lane)
{
    const struct dn_source_config *config = config_of(lane);

    return lane->event_count + lane->dead_count >= config->batch_events || lane->bytes >= config->batch_bytes;
}

static uint32_t doubled(uint32_t capacity)
{
    return capacity == 0 ? FIRST_CAPACITY : 2 * capacity;
}

static bool event_place(struct ingest_lane *lane)
{
    if (lane->event_count < lane->event_capacity)
        return true;
    uint32_t wanted = doubled(lane->event_capacity);
    struct dn_event_in *events = realloc(lane->events, wanted * sizeof *events);
    if (events != NULL)
        lane->events = events;
    uint32_t *item_at = realloc(lane->item_at, wanted * sizeof *item_at);
    if (item_at != NULL)
        lane->item_at = item_at;
    if (events == NULL || item_at == NULL)
        return false;
    lane->event_capacity = wanted;
    return true;
}

static bool dead_place(struct ingest_lane *lane)
{
    if (lane->dead_count < lane->dead_capacity)
        return true;
    uint32_t wanted = doubled(lane->dead_capacity);
    struct dn_dead_in *dead = realloc(lane->dead, wanted * sizeof *dead);
    if (dead == NULL)
        return false;
    lane->dead = dead;
    lane->dead_capacity = wanted;
    return true;
}

static void gathered_one(struct ingest_lane *lane, size_t bytes)
{
    if (lane->event_count + lane->dead_count == 0)
        lane->oldest_us = lane->feed->stream->source->ingest->now_us;
    lane->bytes += bytes;
}

bool lane_add_event(struct ingest_lane *lane, int64_t offset, struct dn_hash128 user,
                    const struct dn_decoded *event)
{
    if (!event_place(lane))
        return false;
    size_t at = lane->items.length;
    dn_buffer_append(&lane->items, event->item, event->item_length);
    if (lane->items.failed) {
        lane->items.failed = false;
        return false;
    }
    gathered_one(lane, INGEST_EVENT_BYTES + event->item_length);
    lane->item_at[lane->event_count] = (uint32_t)at;
    lane->events[lane->event_count++] = (struct dn_event_in){
        .user = user,
        .time_ms = event->time_ms,
        .weight = event->weight,
        .type = event->type,
        .offset = offset,
        .item_length = event->item_length,
    };
    return true;
}

bool lane_add_dead(struct ingest_lane *lane, int64_t offset, enum dn_dead_reason reason)
{
    if (!dead_place(lane))
        return false;
    gathered_one(lane, sizeof offset + 1);
    lane->dead[lane->dead_count++] = (struct dn_dead_in){.offset = offset, .reason = (uint8_t)reason};
    return true;
}

/* ---- sending
 * ------------------------------------------------------------------------------------------------ */

/* Consensus thread. */
static void on_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index, const uint8_t *result,
                    size_t length, const struct dn_error *err)
{
    struct ingest_batch *batch = proposal->data;
    struct dn_ingest *ingest = batch->ingest;
    struct dn_result answer;

    (void)index;
    batch->code = code;
    batch->answered = false;
    batch->error[0] = 0;
    if (code != DN_OK) {
        snprintf(batch->error, sizeof batch->error, "%.150s",
                 err != NULL ? err->message : dn_code_text(code));
    } else if (dn_result_parse(result, length, proposal->record[0], &answer, NULL) == DN_OK) {
        batch->answered = true;
        batch->status = answer.status;
        batch->state_offset = answer.next_offset;
    }
    bool posted = dn_queue_push(ingest->done, batch);
    DN_ASSERT(posted); /* no more are out than it has places */
    ingest_wake(ingest);
}

static struct ingest_batch *take_batch(struct dn_ingest *ingest)
{
    struct ingest_batch *batch = ingest->free_batches;

    if (ingest->batches_out >= INGEST_BATCHES_OUT_MAX)
        return NULL;
    if (batch != NULL) {
        ingest->free_batches = batch->next;
    } else {
        batch = calloc(1, sizeof *batch);
        if (batch == NULL)
            return NULL;
        batch->ingest = ingest;
        dn_buffer_init(&batch->record, RECORD_BYTES_MAX);
    }
    dn_buffer_clear(&batch->record);
    batch->mark = batch->finish = false;
    return batch;
}

static void give_back(struct ingest_batch *batch)
{
    batch->freed_us = batch->ingest->now_us;
    batch->next = batch->ingest->free_batches;
    batch->ingest->free_batches = batch;
}

void lane_trim_batches(struct dn_ingest *ingest, uint64_t keep_us)
{
    struct ingest_batch **place = &ingest->free_batches;

    while (*place != NULL && ingest->now_us - (*place)->freed_us < keep_us)
        place = &(*place)->next;
    while (*place != NULL) {
        struct ingest_batch *batch = *place;
        *place = batch->next;
        dn_buffer_free(&batch->record);
        free(batch);
    }
}

/* Where the lane stands once what is gathered is counted. */
static int64_t reached(const struct ingest_lane *lane)
{
    return feed_lane_next(lane->feed, lane);
}

/* Proposes the batch's record. False: not now; the batch was given back. */
static bool propose(struct ingest_lane *lane, struct ingest_batch *batch)
{
    struct ingest_source *source = lane->feed->stream->source;
    struct dn_ingest *ingest = source->ingest;
    struct ingest_group *group = &ingest->groups[lane->group];

    batch->lane = lane;
    batch->sent_us = dn_monotonic_us();
    batch->proposal = (struct dn_proposal){
        .group = lane->group,
        .record = batch->record.bytes,
        .length = batch->record.length,
        .deadline_us = batch->sent_us + INGEST_PROPOSAL_US,
        .done = on_done,
        .data = batch,
    };
    /* Counted first: it may be back before propose returns. Only this thread takes it off the queue. */
    lane->out++;
    group->out++;
    ingest->batches_out++;
    if (!batch->record.failed &&
        ingest->options.target.propose(ingest->options.target.data, &batch->proposal)) {
        dn_counter_add(source->proposals, 1);
        return true;
    }
    lane->out--;
    group->out--;
    ingest->batches_out--;
    give_back(batch);
    dn_counter_add(source->refusals, 1);
    lane->retry_us = ingest->now_us + INGEST_FULL_US;
    return false;
}

static struct ingest_batch *batch_for(struct ingest_lane *lane)
{
    struct dn_ingest *ingest = lane->feed->stream->source->ingest;
    const struct ingest_group *group = &ingest->groups[lane->group];

    if (group->out >= group->out_max || ingest->now_us < lane->retry_us)
        return NULL;
    struct ingest_batch *batch = take_batch(ingest);
    if (batch == NULL) /* no memory: looked for again, and not at once */
        lane->retry_us = ingest->now_us + INGEST_FULL_US;
    return batch;
}

static int64_t contents_of(const struct ingest_lane *lane)
{
    const struct ingest_source *source = lane->feed->stream->source;

    if (source->driver->contents == NULL)
        return 0;
    return source->driver->contents(source->self, lane->feed->stream->index);
}

/* False: not now, nothing changed; or the lane has to look what it reads. */
static bool send(struct ingest_lane *lane)
{
    if (lane->vague && contents_of(lane) > 0) { /* known by now: is it what the state has read? */
        lane_desync(lane, 0, NULL);
        return false;
    }
    struct ingest_batch *batch = batch_for(lane);
    if (batch == NULL)
        return false;
    for (uint32_t i = 0; i < lane->event_count; i++)
        lane->events[i].item = (const char *)lane->items.bytes + lane->item_at[i];
    batch->next_offset = reached(lane);
    /* A message's own time may be old while the stream is read to its end again and again. */
    batch->newest_ms = lane->feed->message_ms;
    if (batch->newest_ms >= 0 && lane->feed->end_ms > batch->newest_ms)
        batch->newest_ms = lane->feed->end_ms;
    dn_record_stream(&batch->record, lane->feed->stream->info.stream, lane->feed->partition, lane->begins_at,
                     batch->next_offset, lane->events, lane->event_count, lane->dead, lane->dead_count);
    if (!propose(lane, batch))
        return false;
    lane->begins_at = reached(lane);
    lane->sent = true;
    lane->revive = false;
    forget_gathered(lane);
    return true;
}

bool lane_room(struct ingest_lane *lane)
{
    const struct ingest_group *group = &lane->feed->stream->source->ingest->groups[lane->group];
    bool room = !is_full(lane) || (group->waiting == 0 && send(lane));

    lane->held_up = !room;
    return room;
}

/* ---- coming back
 * -------------------------------------------------------------------------------------------- */

static void refuse(struct ingest_lane *lane, bool wait, const char *why)
{
    lane_desync(lane, wait ? lane->backoff_us : 0, why);
    if (wait)
        lane->backoff_us =
            lane->backoff_us * 2 < INGEST_RETRY_MAX_US ? lane->backoff_us * 2 : INGEST_RETRY_MAX_US;
}

static void taken(struct ingest_lane *lane, const struct ingest_batch *batch)
{
    lane->backoff_us = INGEST_RETRY_US;
    lane->error[0] = 0;
    if (batch->state_offset > lane->committed)
        lane->committed = batch->state_offset;
    int64_t fresh_ms = batch->newest_ms >= 0 ? batch->newest_ms : dn_wall_ms();
    if (fresh_ms > lane->fresh_ms)
        lane->fresh_ms = fresh_ms;
    if (batch->state_offset != batch->next_offset && lane->state == LANE_RUNNING)
        refuse(lane, false, "the offset was moved");
}

static void judge(struct ingest_lane *lane, const struct ingest_batch *batch)
{
    if (batch->code != DN_OK) {
        refuse(lane, true, batch->error);
        return;
    }
    if (!batch->answered) {
        refuse(lane, true, "the state machine's answer was not understood");
        return;
    }
    switch (batch->status) {
    case DN_RESULT_OK:
        taken(lane, batch);
        return;
    case DN_RESULT_GAP: /* expected of all that follow one that was lost */
        refuse(lane, false, NULL);
        return;
    case DN_RESULT_FULL:
        refuse(lane, true,
               "the shard has no room: its dead letters are full (`dunlin deadletter list`), or 4,096 "
               "partitions of streams are in use (`dunlin source forget`)");
        return;
    case DN_RESULT_INVALID:
        break;
    }
    dn_counter_add(lane->feed->stream->source->invalid, 1);
    dn_err("ingest", "%s partition %u: group %u refused a batch as invalid", lane->feed->stream->info.stream,
           lane->feed->partition, lane->group);
    refuse(lane, true, "the state machine refused a batch as invalid: this is a fault of dunlin");
}

/* Where it has not come into the state, it is said again: ingest_forget looks. */
static void finish_done(struct ingest_lane *lane, const struct ingest_batch *batch)
{
    if (batch->code == DN_OK && batch->answered && batch->status == DN_RESULT_OK)
        return;
    if (batch->code == DN_OK && batch->answered && batch->status == DN_RESULT_GAP)
        lane_desync(lane, 0, NULL); /* the offset was moved */
    else
        lane->retry_us = lane->feed->stream->source->ingest->now_us + INGEST_RETRY_MAX_US;
}

/* A mark: it is in the state now, or was before. */
static bool stands(const struct ingest_batch *batch)
{
    return batch->code == DN_OK && batch->answered &&
           (batch->status == DN_RESULT_OK || batch->status == DN_RESULT_GAP);
}

static bool is_of_contents(const struct ingest_batch *batch)
{
    return batch->mark && batch->proposal.record[0] == DN_RECORD_SOURCE;
}

void lane_batch_done(struct ingest_batch *batch)
{
    struct ingest_lane *lane = batch->lane;

    DN_ASSERT(lane->out > 0);
    dn_histogram_observe_ns(lane->feed->stream->source->commit_delay,
                            (dn_monotonic_us() - batch->sent_us) * NS_PER_US);
    lane->out--;
    batch->ingest->groups[lane->group].out--;
    batch->ingest->batches_out--;
    if (batch->code != DN_OK || !batch->answered || batch->status != DN_RESULT_OK)
        dn_counter_add(lane->feed->stream->source->refusals, 1);
    if (batch->finish)
        finish_done(lane, batch);
    else if (is_of_contents(batch) && batch->answered && batch->status == DN_RESULT_FULL)
        lane->unmarked = true; /* it is a help, and none that is worth standing still */
    else if (!batch->mark || !stands(batch))
        judge(lane, batch);
    give_back(batch);
}

/* ---- turning
 * ------------------------------------------------------------------------------------------------ */

static int64_t state_offset(const struct ingest_lane *lane)
{
    const struct dn_ingest_target *target = &lane->feed->stream->source->ingest->options.target;
    int64_t offset = DN_OFFSET_UNSET;

    if (!target->next_offset(target->data, lane->group, lane->feed->stream->info.stream,
                             lane->feed->partition, &offset))
        return DN_OFFSET_UNSET;
    return offset;
}

static bool finished_in_state(const struct ingest_lane *lane)
{
    const struct ingest_stream *stream = lane->feed->stream;
    const struct dn_ingest_target *target = &stream->source->ingest->options.target;

    return target->finished != NULL &&
           target->finished(target->data, lane->group, stream->info.stream, lane->feed->partition);
}

/* The state says that all shards read this stream, or need not: topology.c. Else it is told so first; an
 * answer that it knows already (GAP) is as good. */
static bool is_marked(struct ingest_lane *lane)
{
    const struct ingest_stream *stream = lane->feed->stream;
    const struct dn_ingest_options *options = &stream->source->ingest->options;
    struct ingest_batch *batch;
    int64_t ignored;

    if (stream->keyed || options->shard_count == 1 || stream->source->config->kind != DN_SOURCE_KAFKA ||
        options->target.next_offset(options->target.data, lane->group, stream->info.stream, INGEST_ALL_READ,
                                    &ignored))
        return true;
    batch = batch_for(lane);
    if (batch != NULL) {
        batch->mark = true;
        dn_record_stream(&batch->record, stream->info.stream, INGEST_ALL_READ, DN_OFFSET_UNSET, 0, NULL, 0,
                         NULL, 0);
        propose(lane, batch);
    }
    return false;
}

/* What the state has read of that name; DN_OFFSET_UNSET: it does not know. */
static int64_t contents_read(const struct ingest_lane *lane)
{
    const struct dn_ingest_target *target = &lane->feed->stream->source->ingest->options.target;
    int64_t contents;

    if (!target->next_offset(target->data, lane->group, lane->feed->stream->info.stream,
                             DN_PARTITION_CONTENTS, &contents))
        return DN_OFFSET_UNSET;
    return contents;
}

bool lane_same_contents(const struct ingest_lane *lane)
{
    int64_t contents = contents_of(lane);

    return contents <= 0 || lane->unmarked || contents == contents_read(lane);
}

/* Where places are scarce, what tells contents apart goes before any offset does: it counts as finished from
 * the beginning. False: not now. */
static bool offer_place(struct ingest_lane *lane, int64_t contents)
{
    const struct ingest_stream *stream = lane->feed->stream;
    const struct dn_ingest_target *target = &stream->source->ingest->options.target;
    struct ingest_batch *batch;

    if (lane->placed || target->finished == NULL ||
        target->finished(target->data, lane->group, stream->info.stream, DN_PARTITION_CONTENTS))
        return true;
    batch = batch_for(lane);
    if (batch == NULL)
        return false;
    /* Once is enough: where it is lost, the next leader says it. */
    batch->finish = true;
    dn_record_source_finished(&batch->record, stream->info.stream, DN_PARTITION_CONTENTS, contents);
    lane->placed = propose(lane, batch);
    return lane->placed;
}

/* A file may be replaced under its name while nobody reads it. So the state is told what a file begins with
 * before anything of it is counted, and one that begins otherwise is not read on in its middle. */
static bool knows_contents(struct ingest_lane *lane)
{
    struct ingest_stream *stream = lane->feed->stream;
    int64_t contents = contents_of(lane), read = contents > 0 ? contents_read(lane) : DN_OFFSET_UNSET;
    struct ingest_batch *batch;

    lane->vague = contents < 0;
    if (contents <= 0 || lane->unmarked)
        return true;
    if (contents == read)
        return offer_place(lane, contents);
    if (read != DN_OFFSET_UNSET && state_offset(lane) > 0) {
        lane->retry_us = stream->source->ingest->now_us + INGEST_RETRY_MAX_US;
        snprintf(lane->error, sizeof lane->error,
                 "another file has this name than the one that was read: rename it, or have it read "
                 "from its beginning: 'dunlin source reset'");
        return false;
    }
    batch = batch_for(lane);
    if (batch != NULL) {
        batch->mark = true;
        lane->placed = false;
        dn_record_source(&batch->record, stream->info.stream, DN_PARTITION_CONTENTS, contents, false);
        propose(lane, batch);
    }
    return false;
}

static void sync(struct ingest_lane *lane)
{
    struct dn_ingest *ingest = lane->feed->stream->source->ingest;
    const struct ingest_group *group = &ingest->groups[lane->group];

    /* What a file begins with is read from the disk: not before it can be told. */
    if (group->out >= group->out_max && lane->feed->stream->source->driver->contents != NULL)
        return;
    lane->over = lane->over && lane->feed->stream->info.gone;
    if (!is_marked(lane) || !knows_contents(lane))
        return;
    lane->begins_at = lane->next_offset = lane->committed = state_offset(lane);
    lane->behind = lane->feed->started && lane->next_offset < lane->feed->position;
    lane->look_us = lane->progress_us = ingest->now_us;
    lane->revive = finished_in_state(lane);
    lane->state = LANE_RUNNING;
    lane->feed->seek = true;
}

/* Somebody else may have moved the offset: an operator, or a leader before this one. (The state's list is
 * searched for it: 2.5 us where it knows 4,096 partitions, so 1 % of a core for as many idle lanes.) */
static void look(struct ingest_lane *lane)
{
    struct dn_ingest *ingest = lane->feed->stream->source->ingest;

    if (lane->out > 0 || ingest->now_us - lane->look_us < INGEST_LOOK_US)
        return;
    lane->look_us = ingest->now_us;
    lane->over = lane->over && lane->feed->stream->info.gone;
    if (lane->over)
        return;
    lane->revive = finished_in_state(lane);
    if (state_offset(lane) != lane->committed || (lane->vague && lane->committed > 0))
        lane_desync(lane, 0, NULL);
}

static bool is_due(const struct ingest_lane *lane)
{
    uint64_t now_us = lane->feed->stream->source->ingest->now_us;

    if (lane->event_count + lane->dead_count > 0)
        return is_full(lane) || (lane->out == 0 && lane->feed->dry) ||
               now_us - lane->oldest_us >= config_of(lane)->batch_ms * 1000;
    /* What is there keeps its place in the state, also where nothing is added to it. */
    if (lane->revive && !lane->feed->stream->info.gone && lane->begins_at >= 0)
        return true;
    return reached(lane) > lane->begins_at && now_us - lane->progress_us >= INGEST_OFFSETS_US;
}

bool lane_turn(struct ingest_lane *lane)
{
    struct dn_ingest *ingest = lane->feed->stream->source->ingest;

    if (lane->leaving) {
        if (lane->state == LANE_RUNNING)
            lane_desync(lane, 0, NULL);
        return lane->out > 0;
    }
    if (lane->event_count + lane->dead_count == 0 && lane->event_capacity + lane->dead_capacity > 0 &&
        ingest->now_us - lane->oldest_us >= INGEST_KEEP_US)
        give_memory_back(lane);
    if (lane->state == LANE_SYNCING && lane->out == 0 && ingest->now_us >= lane->retry_us)
        sync(lane);
    if (lane->state != LANE_RUNNING)
        return true;
    look(lane);
    if (lane->state != LANE_RUNNING || !is_due(lane))
        return true;
    struct ingest_group *group = &ingest->groups[lane->group];
    if (send(lane))
        lane->progress_us = ingest->now_us;
    else if (group->out >= group->out_max)
        group->waiting++;
    return true;
}

bool lane_is_settled(const struct ingest_lane *lane)
{
    return lane->state == LANE_RUNNING && !lane->leaving && lane->out == 0 &&
           lane->event_count + lane->dead_count == 0 && lane->begins_at == lane->committed;
}

bool lane_is_at_end(const struct ingest_lane *lane)
{
    const struct ingest_feed *feed = lane->feed;

    return lane_is_settled(lane) && !lane->behind && feed->started && feed->at_end &&
           feed->at == feed->count && lane->next_offset <= feed->position &&
           lane->committed == feed->position;
}

void lane_finish(struct ingest_lane *lane)
{
    struct ingest_batch *batch = batch_for(lane);

    if (batch == NULL)
        return;
    /* First what its contents begin with, where that is still in use (offer_place was not heard). */
    const struct ingest_stream *stream = lane->feed->stream;
    const struct dn_ingest_target *target = &stream->source->ingest->options.target;
    int64_t contents = contents_read(lane);
    bool begins = contents != DN_OFFSET_UNSET && target->finished != NULL &&
                  !target->finished(target->data, lane->group, stream->info.stream, DN_PARTITION_CONTENTS);
    batch->finish = true;
    dn_record_source_finished(&batch->record, stream->info.stream,
                              begins ? DN_PARTITION_CONTENTS : lane->feed->partition,
                              begins ? contents : lane->committed);
    propose(lane, batch);
}

uint64_t lane_due_us(const struct ingest_lane *lane)
{
    const struct ingest_group *group = &lane->feed->stream->source->ingest->groups[lane->group];

    if (lane->state == LANE_SYNCING)
        return lane->out == 0 && group->out < group->out_max ? lane->retry_us : UINT64_MAX;
    if (lane->event_count + lane->dead_count == 0 || group->out >= group->out_max)
        return UINT64_MAX;
    uint64_t due_us = lane->oldest_us + config_of(lane)->batch_ms * 1000;
    return due_us > lane->retry_us ? due_us : lane->retry_us;
}
