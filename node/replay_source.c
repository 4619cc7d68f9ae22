/* The happy path: an event of the merge -> its shard -> `pending` of that shard, while it is of the same feed
 * -> full, or another feed's turn: one record, applied as one entry whose time is the clock.
 *
 * Where a batch ends changes nothing: an event's watermark is held back by the group's time only while that
 * is behind the event's own (a producer's clock that is ahead), and such an event is applied by itself. */
#include "node/replay_source.h"

#include "session/record.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    BATCH_EVENTS = 512,
    RECORD_BYTES_MAX = 8 << 20,
    RESULT_BYTES_MAX = 1 << 20,
    LETTERS_MAX = DN_DEAD_MAX / 2, /* then they are taken for written: a batch must have room */
    PROGRESS_EVERY = 1024
};
#define IDLE_NEVER_MS (INT64_C(3650) * 86400000) /* the most that settings allow */

struct lane { /* of a feed and a shard */
    int64_t next_offset;
    int64_t passed_ms; /* events before it are late: by those after until_ms */
};

struct pending {                      /* of a shard */
    const struct dn_merge_event *any; /* of the feed: only its stream and partition are still true */
    size_t feed;
    struct dn_event_in *events;
    size_t *item_at; /* of each event's item in `items` */
    struct dn_buffer items;
    uint32_t count;
    int64_t next_offset;
    uint64_t index; /* of the last entry */
};

struct run {
    const struct dn_replay_source_options *options;
    struct dn_replay_state *state;
    struct dn_merge *merge;
    struct lane *lanes; /* feeds * shards */
    uint32_t *closed;   /* by feed: shards for which all that follows is late */
    struct pending pending[DN_SHARDS_MAX];
    struct dn_buffer record, answer;
    uint32_t batch_events;
    int64_t clock_ms;
    struct dn_replay_source_result result;
};

/* ---- entries -------------------------------------------------------------------------------------------
 */

/* Applies run->record as one entry of the shard. */
static enum dn_code apply(struct run *run, uint32_t group, struct dn_result *ret, struct dn_error *err)
{
    struct dn_shard *shard = run->state->seats[group - 1].shard;
    uint64_t index = ++run->pending[group - 1].index;

    if (run->record.failed)
        return dn_fail(err, DN_NO_MEMORY, "a record of shard %u", group);
    dn_buffer_clear(&run->answer);
    dn_shard_apply(shard, index, 0, run->clock_ms, run->record.bytes, run->record.length, &run->answer);
    dn_shard_entry_done(shard, index, run->clock_ms);
    return dn_result_parse(run->answer.bytes, run->answer.length, run->record.bytes[0], ret, err);
}

static void count_outcome(struct run *run, enum dn_outcome outcome, int64_t time_ms)
{
    struct dn_replay_source_result *result = &run->result;

    switch (outcome) {
    case DN_OUTCOME_ACCEPTED:
        result->accepted++;
        result->first_ms = result->first_ms < 0 || time_ms < result->first_ms ? time_ms : result->first_ms;
        result->last_ms = time_ms > result->last_ms ? time_ms : result->last_ms;
        break;
    case DN_OUTCOME_LATE:
        result->late++;
        break;
    case DN_OUTCOME_AHEAD:
        result->ahead++;
        break;
    default:
        result->refused++;
        break;
    }
}

/* Dead letters are for somebody else: here they only must not fill their queue. */
static enum dn_code drop_letters(struct run *run, uint32_t group, struct dn_error *err)
{
    uint64_t written, next;
    struct dn_result ignored;

    dn_shard_dead_range(run->state->seats[group - 1].shard, &written, &next);
    if (next - written < LETTERS_MAX)
        return DN_OK;
    dn_buffer_clear(&run->record);
    dn_record_dead_written(&run->record, next);
    return apply(run, group, &ignored, err);
}

static enum dn_code flush(struct run *run, uint32_t group, struct dn_error *err)
{
    struct pending *pending = &run->pending[group - 1];
    const struct dn_replay_watch *watch = run->options->watch;
    struct dn_result result = {0};

    if (pending->count == 0)
        return DN_OK;
    struct lane *lane = &run->lanes[pending->feed * run->state->shard_count + group - 1];
    for (uint32_t i = 0; i < pending->count; i++)
        pending->events[i].item = (const char *)pending->items.bytes + pending->item_at[i];
    dn_buffer_clear(&run->record);
    dn_record_stream(&run->record, pending->any->stream, pending->any->partition, lane->next_offset,
                     pending->next_offset, pending->events, pending->count, NULL, 0);
    enum dn_code code = apply(run, group, &result, err);
    if (code != DN_OK)
        return code;
    if (result.status != DN_RESULT_OK || result.count != pending->count)
        return dn_fail(err, DN_INTERNAL,
                       "%s partition %u: shard %u refused a batch at offset %" PRId64 " (status %d)",
                       pending->any->stream, pending->any->partition, group, pending->events[0].offset,
                       (int)result.status);
    bool going = true;
    for (uint32_t i = 0; i < pending->count; i++) {
        enum dn_outcome outcome = result.outcomes[i];
        count_outcome(run, outcome, pending->events[i].time_ms);
        if (watch != NULL && watch->after != NULL)
            going = watch->after(watch->data, outcome) && going;
    }
    lane->next_offset = pending->next_offset;
    pending->count = 0;
    dn_buffer_clear(&pending->items);
    return going ? drop_letters(run, group, err) : dn_fail(err, DN_CANCELLED, "stopped");
}

static void add(struct run *run, const struct dn_replay_event *event)
{
    struct pending *pending = &run->pending[event->group - 1];
    const struct dn_merge_event *in = event->in;

    pending->any = in;
    pending->feed = in->feed;
    pending->next_offset = in->next_offset;
    pending->item_at[pending->count] = pending->items.length;
    dn_buffer_append(&pending->items, in->item, in->item_length);
    pending->events[pending->count++] = (struct dn_event_in){.user = event->user,
                                                             .time_ms = in->time_ms,
                                                             .weight = in->weight,
                                                             .type = in->type,
                                                             .offset = in->offset,
                                                             .item_length = in->item_length};
    run->record.failed = run->record.failed || pending->items.failed;
}

static enum dn_code apply_event(struct run *run, const struct dn_replay_event *event, struct dn_error *err)
{
    struct pending *pending = &run->pending[event->group - 1];
    const struct dn_replay_watch *watch = run->options->watch;
    const struct dn_merge_event *in = event->in;
    bool alone = in->time_ms > in->clock_ms; /* see above */
    enum dn_code code = DN_OK;

    if (alone || pending->feed != in->feed)
        code = flush(run, event->group, err);
    if (in->clock_ms > run->clock_ms)
        run->clock_ms = in->clock_ms;
    if (code == DN_OK && watch != NULL && watch->before != NULL &&
        !watch->before(watch->data, run->state, event))
        code = dn_fail(err, DN_CANCELLED, "stopped");
    if (code != DN_OK)
        return code;
    add(run, event);
    return alone || pending->count >= run->batch_events ? flush(run, event->group, err) : DN_OK;
}

/* ---- events --------------------------------------------------------------------------------------------
 */

/* As ingest's topology.c has it, for a topic that was never read otherwise. */
static bool is_misrouted(const struct run *run, const struct dn_merge_event *in, uint32_t group)
{
    uint32_t shards = run->state->shard_count;

    return in->source->kind == DN_SOURCE_KAFKA && in->source->keyed && in->partition_count % shards == 0 &&
           group != 1 + in->partition % shards;
}

/* An event after the end: all that it does is to make others late. A feed in which nothing can count any more
 * is not read on. */
static void pass(struct run *run, const struct dn_merge_event *in, struct lane *lane)
{
    int64_t reached_ms = in->time_ms < in->clock_ms ? in->time_ms : in->clock_ms;
    int64_t floor_ms = reached_ms - run->options->settings.lateness_ms;
    bool was_closed = lane->passed_ms > run->options->until_ms;

    run->result.beyond++;
    lane->passed_ms = floor_ms > lane->passed_ms ? floor_ms : lane->passed_ms;
    if (!was_closed && lane->passed_ms > run->options->until_ms &&
        ++run->closed[in->feed] == run->state->shard_count)
        dn_merge_drop(run->merge, in->feed);
}

static enum dn_code take(struct run *run, const struct dn_merge_event *in, struct dn_error *err)
{
    const struct dn_replay_source_options *options = run->options;
    struct dn_replay_event event = {.in = in,
                                    .group =
                                        dn_shard_of_user(in->user, in->user_length, run->state->shard_count),
                                    .user = dn_keyed_hash128(options->hash_key, in->user, in->user_length)};
    struct lane *lane = &run->lanes[in->feed * run->state->shard_count + event.group - 1];

    if (is_misrouted(run, in, event.group)) {
        run->result.misrouted++;
        return DN_OK;
    }
    if (in->time_ms > options->until_ms) {
        pass(run, in, lane);
        return DN_OK;
    }
    if (in->time_ms < lane->passed_ms) {
        run->result.late++;
        return DN_OK;
    }
    if (options->watch != NULL && options->watch->user != NULL &&
        !options->watch->user(options->watch->user_data, &event))
        return dn_fail(err, DN_NO_MEMORY, "a user's id");
    return apply_event(run, &event, err);
}

static enum dn_code take_all(struct run *run, struct dn_error *err)
{
    const struct dn_merge_event *in;
    uint64_t taken = 0;
    enum dn_code code;

    while ((code = dn_merge_next(run->merge, &in, err)) == DN_OK) {
        code = take(run, in, err);
        if (code != DN_OK)
            return code;
        if (run->options->progress != NULL && ++taken % PROGRESS_EVERY == 0) {
            dn_merge_counts(run->merge, &run->result.read);
            run->options->progress(run->options->progress_data, &run->result.read);
        }
    }
    if (code != DN_NOT_FOUND)
        return code;
    code = DN_OK;
    for (uint32_t group = 1; code == DN_OK && group <= run->state->shard_count; group++)
        code = flush(run, group, err);
    return code;
}

/* ---- life ----------------------------------------------------------------------------------------------
 */

static enum dn_code open_shards(struct run *run, struct dn_error *err)
{
    struct dn_shard_settings settings = run->options->settings;
    struct dn_result ignored;
    enum dn_code code = DN_OK;

    settings.idle_ms = IDLE_NEVER_MS;
    code = dn_shard_settings_check(&settings, err);
    for (uint32_t i = 0; code == DN_OK && i < run->state->shard_count; i++) {
        struct pending *pending = &run->pending[i];
        pending->feed = SIZE_MAX;
        dn_buffer_init(&pending->items, (size_t)DN_ID_MAX * run->batch_events);
        pending->events = calloc(run->batch_events, sizeof(*pending->events));
        pending->item_at = calloc(run->batch_events, sizeof(*pending->item_at));
        if (pending->events == NULL || pending->item_at == NULL)
            return dn_fail(err, DN_NO_MEMORY, "batches of %u events", run->batch_events);
        dn_buffer_clear(&run->record);
        dn_record_settings(&run->record, &settings);
        code = apply(run, i + 1, &ignored, err);
    }
    return code;
}

static enum dn_code open_lanes(struct run *run, struct dn_error *err)
{
    size_t feeds = dn_merge_feeds(run->merge), count = feeds * run->state->shard_count;

    run->lanes = calloc(count + 1, sizeof(*run->lanes));
    run->closed = calloc(feeds + 1, sizeof(*run->closed));
    if (run->lanes == NULL || run->closed == NULL)
        return dn_fail(err, DN_NO_MEMORY, "%zu partitions", feeds);
    for (size_t i = 0; i < count; i++)
        run->lanes[i] = (struct lane){.next_offset = DN_OFFSET_UNSET, .passed_ms = INT64_MIN};
    run->result.feeds = feeds;
    return DN_OK;
}

static void close_run(struct run *run)
{
    for (uint32_t i = 0; i < run->state->shard_count; i++) {
        dn_buffer_free(&run->pending[i].items);
        free(run->pending[i].events);
        free(run->pending[i].item_at);
    }
    dn_buffer_free(&run->record);
    dn_buffer_free(&run->answer);
    dn_merge_close(run->merge);
    free(run->lanes);
    free(run->closed);
    free(run);
}

enum dn_code dn_replay_source(const struct dn_replay_source_options *options, struct dn_replay_state *state,
                              struct dn_replay_source_result *ret, struct dn_error *err)
{
    struct run *run = calloc(1, sizeof(*run));
    const struct dn_replay_watch *watch = options->watch;
    struct dn_merge_options merge = options->merge;

    if (run == NULL)
        return dn_fail(err, DN_NO_MEMORY, "replay %zu sources", merge.source_count);
    bool single = watch != NULL && (watch->before != NULL || watch->after != NULL);
    run->options = options;
    run->state = state;
    run->batch_events = single ? 1 : options->batch_events != 0 ? options->batch_events : BATCH_EVENTS;
    run->result.first_ms = run->result.last_ms = -1;
    DN_ASSERT(run->batch_events <= DN_EVENTS_PER_RECORD_MAX);
    dn_buffer_init(&run->record, RECORD_BYTES_MAX);
    dn_buffer_init(&run->answer, RESULT_BYTES_MAX);
    merge.ahead_ms = options->settings.ahead_ms;
    enum dn_code code = open_shards(run, err);
    if (code == DN_OK)
        code = dn_merge_open(&merge, &run->merge, err);
    if (code == DN_OK)
        code = open_lanes(run, err);
    if (code == DN_OK)
        code = take_all(run, err);
    if (code == DN_OK) {
        dn_merge_counts(run->merge, &run->result.read);
        run->result.ahead += run->result.read.runaways;
        *ret = run->result;
    }
    close_run(run);
    return code;
}
