/* A feed: one partition, read once for all lanes of this node, decoded, and routed to the lane of its user.
 *
 * Where lanes want different offsets (a shard that this node has just begun to lead may be far behind, or
 * ahead of the others), reading begins at the least, and each lane takes nothing below its own. */
#include "ingest/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define NS_PER_MS 1000000u

static void release(struct ingest_feed *feed)
{
    struct ingest_source *source = feed->stream->source;

    if (feed->held)
        source->driver->release(source->self, feed->stream->index, feed->partition);
    feed->held = false;
    feed->count = feed->at = 0;
}

int64_t feed_lane_next(const struct ingest_feed *feed, const struct ingest_lane *lane)
{
    return lane->behind || lane->next_offset > feed->position ? lane->next_offset : feed->position;
}

void feed_stop(struct ingest_feed *feed)
{
    struct ingest_source *source = feed->stream->source;

    release(feed);
    if (feed->started)
        source->driver->stop(source->self, feed->stream->index, feed->partition);
    /* What lanes in step have gathered stays theirs: they will pass over it when it is read again. */
    for (uint32_t i = 0; i < source->ingest->options.shard_count; i++) {
        struct ingest_lane *lane = feed->lanes[i];
        if (lane != NULL && lane->state == LANE_RUNNING) {
            lane->next_offset = feed_lane_next(feed, lane);
            lane->behind = false;
        }
    }
    feed->position = DN_STREAM_OFFSET_UNSET;
    feed->mirrored = -1; /* the driver forgets what was not committed yet */
    feed->started = feed->at_end = false;
}

static bool runs(const struct ingest_lane *lane)
{
    return lane != NULL && lane->state == LANE_RUNNING && !lane->leaving;
}

/* The least offset that a running lane wants; false: no lane runs. */
static bool wanted(const struct ingest_feed *feed, int64_t *ret_offset)
{
    const uint32_t shards = feed->stream->source->ingest->options.shard_count;
    bool any = false;

    for (uint32_t i = 0; i < shards; i++) {
        const struct ingest_lane *lane = feed->lanes[i];
        if (!runs(lane))
            continue;
        int64_t next = feed_lane_next(feed, lane);
        if (!any || next < *ret_offset)
            *ret_offset = next;
        any = true;
    }
    return any;
}

/* False: a lane has to ask the state again, for another file stands there than it reads. */
static bool same_contents(struct ingest_feed *feed)
{
    bool same = true;

    for (uint32_t i = 0; i < feed->stream->source->ingest->options.shard_count; i++) {
        struct ingest_lane *lane = feed->lanes[i];
        if (!runs(lane) || lane_same_contents(lane))
            continue;
        lane_desync(lane, 0, NULL);
        same = false;
    }
    return same;
}

static bool start(struct ingest_feed *feed, int64_t offset)
{
    struct ingest_source *source = feed->stream->source;
    struct dn_error err = {0};

    feed_stop(feed);
    if (!same_contents(feed))
        return false;
    if (source->driver->start(source->self, feed->stream->index, feed->partition, offset, &err) != DN_OK) {
        feed->retry_us = source->ingest->now_us + INGEST_RETRY_MAX_US;
        snprintf(feed->error, sizeof feed->error, "%s", err.message);
        return false;
    }
    dn_counter_add(source->seeks, 1);
    feed->error[0] = 0;
    feed->started = true;
    feed->started_us = source->ingest->now_us;
    feed->position = offset;
    feed->message_ms = -1;
    feed->end_ms = 0;
    return true;
}

/* Reading goes on where the lanes want it; false: there is nothing to read for, or not now. */
static bool settle(struct ingest_feed *feed)
{
    bool look = feed->seek;
    int64_t offset = DN_STREAM_OFFSET_UNSET;

    /* While no lane runs nothing is read, for it would pass by all of them. The place is kept: where they go
     * on may be here. */
    if (!wanted(feed, &offset)) {
        feed->seek = false;
        if (feed->started && look)
            feed_stop(feed);
        return false;
    }
    if (feed->started && !look)
        return true;
    if (feed->started && offset == feed->position) {
        feed->seek = false;
        return true;
    }
    if (feed->stream->source->ingest->now_us < feed->retry_us)
        return false;
    feed->seek = false;
    return start(feed, offset);
}

/* ---- messages
 * ----------------------------------------------------------------------------------------------- */

static bool takes(const struct ingest_lane *lane, int64_t offset)
{
    return runs(lane) && !lane->behind && offset >= lane->next_offset;
}

/* False: no room now. The message passes by where its dead letter is not this node's to note. */
static bool deliver_dead(struct ingest_feed *feed, int64_t offset, enum dn_dead_reason reason,
                         const struct dn_error *err)
{
    struct ingest_lane *lane = feed->lanes[feed->home - 1];

    if (!takes(lane, offset))
        return true;
    if (!lane_room(lane) || !lane_add_dead(lane, offset, reason))
        return false;
    dn_counter_add(feed->stream->source->dead, 1);
    dn_debug("ingest", "%s partition %u offset %lld is a dead letter: %s", feed->stream->info.stream,
             feed->partition, (long long)offset, err->message);
    return true;
}

static bool deliver_event(struct ingest_feed *feed, const struct dn_message *message,
                          const struct dn_decoded *event)
{
    static const struct dn_error MISROUTED = {.message = "its user belongs to another shard's partitions"};
    const struct dn_ingest_options *options = &feed->stream->source->ingest->options;
    uint32_t group = dn_shard_of_user(event->user, event->user_length, options->shard_count);
    struct ingest_lane *lane = feed->lanes[group - 1];

    if (!feed->reads[group])
        return deliver_dead(feed, message->offset, DN_DEAD_MISROUTED, &MISROUTED);
    if (!takes(lane, message->offset))
        return true;
    return lane_room(lane) &&
           lane_add_event(lane, message->offset,
                          dn_keyed_hash128(options->hash_key, event->user, event->user_length), event);
}

/* False: not now; the message stays the next one. */
static bool deliver(struct ingest_feed *feed, const struct dn_message *message)
{
    struct ingest_source *source = feed->stream->source;
    enum dn_dead_reason reason = DN_DEAD_UNDECODABLE;
    struct dn_error err = {0};
    struct dn_decoded event;
    bool taken = true;

    if (message->end) {
        if (message->next_offset > feed->position)
            feed->position = message->next_offset;
        feed->at_end = true;
        feed->end_ms = feed->fetched_ms;
        return true;
    }
    switch (dn_schema_decode(source->schema, message, &event, &reason, &err)) {
    case DN_DECODED:
        taken = deliver_event(feed, message, &event);
        break;
    case DN_DECODE_DEAD:
        taken = deliver_dead(feed, message->offset, reason, &err);
        break;
    case DN_DECODE_SKIPPED:
        dn_counter_add(source->skipped, 1);
        break;
    }
    if (!taken)
        return false;
    feed->at_end = false;
    feed->position = message->next_offset;
    /* A producer's clock may be ahead: what it brings is not fresher than now. */
    int64_t now_ms = dn_wall_ms();
    feed->message_ms = message->time_ms < now_ms ? message->time_ms : now_ms;
    return true;
}

/* How far behind its producers this reads; the newest message stands for those read with it. */
static void observe_delay(const struct ingest_feed *feed)
{
    const struct dn_message *newest = &feed->messages[feed->count - 1];

    if (newest->end || newest->time_ms < 0)
        return;
    int64_t delay_ms = feed->fetched_ms - newest->time_ms;
    dn_histogram_observe_ns(feed->stream->source->read_delay,
                            delay_ms > 0 ? (uint64_t)delay_ms * NS_PER_MS : 0);
}

/* The next messages. False: none. */
static bool fetch(struct ingest_feed *feed)
{
    struct ingest_source *source = feed->stream->source;

    release(feed);
    feed->fetched_ms = dn_wall_ms();
    feed->count = source->driver->read(source->self, feed->stream->index, feed->partition, feed->messages,
                                       INGEST_READ_MAX);
    feed->held = true;
    feed->dry = feed->count == 0;
    if (feed->dry)
        release(feed);
    else
        observe_delay(feed);
    return feed->count > 0;
}

bool feed_turn(struct ingest_feed *feed)
{
    struct ingest_source *source = feed->stream->source;
    size_t taken = 0;

    if (!settle(feed))
        return false;
    while (taken < INGEST_SLICE) {
        if (feed->at == feed->count && !fetch(feed))
            return false;
        const struct dn_message *message = &feed->messages[feed->at];
        /* A driver that goes back would have events counted at offsets that are others'. */
        if (!message->end && message->offset < feed->position) {
            dn_err("ingest", "%s partition %u: offset %lld came after %lld: reading it again",
                   feed->stream->info.stream, feed->partition, (long long)message->offset,
                   (long long)feed->position);
            feed_stop(feed);
            feed->seek = true;
            return false;
        }
        if (!deliver(feed, message))
            return false; /* a completion, or a turn's end, wakes us */
        feed->at++;
        taken++;
        if (!message->end) {
            dn_counter_add(source->messages, 1);
            dn_counter_add(source->bytes, message->length);
        }
    }
    return true;
}
