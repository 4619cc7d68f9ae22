/* Which feeds and lanes there are: looked at every tenth of a second, since brokers, files and leaderships
 * change without asking.
 *
 * The rule by which shards read a partition of a stream:
 *  - keyed, and the partition count a multiple of the shards, and never read otherwise: partition p is read
 * by shard 1 + p mod shards;
 *  - anything else: every partition by every shard.
 *
 * "Never read otherwise" stands in the replicated state, as the offset of a partition INGEST_ALL_READ: a
 * shard commits it before its first batch of a stream that is not keyed. Without it, a topic that grew into
 * its keys could lose events: the shard of partition p has passed over those of other shards' users, and the
 * shard they are for would not look there any more, if it had not begun to. The mark of any shard counts for
 * all; one that is not seen yet on this node will be, and the shards that begin to read a partition then
 * begin at its beginning. */
#include "ingest/internal.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- feeds
 * -------------------------------------------------------------------------------------------------- */

static void feed_free(struct ingest_feed *feed)
{
    if (feed == NULL)
        return;
    free(feed->lanes);
    free(feed->messages);
    free(feed);
}

static struct ingest_feed *feed_create(struct ingest_stream *stream, uint32_t partition)
{
    const uint32_t shards = stream->source->ingest->options.shard_count;
    struct ingest_feed *feed = calloc(1, sizeof *feed);

    if (feed == NULL)
        return NULL;
    feed->stream = stream;
    feed->partition = partition;
    feed->home = 1 + partition % shards;
    feed->position = DN_STREAM_OFFSET_UNSET;
    feed->message_ms = feed->mirrored = -1;
    feed->lanes = calloc(shards, sizeof *feed->lanes);
    feed->messages = calloc(INGEST_READ_MAX, sizeof *feed->messages);
    if (feed->lanes != NULL && feed->messages != NULL)
        return feed;
    feed_free(feed);
    return NULL;
}

static void say_rule(struct ingest_stream *stream)
{
    const uint32_t shards = stream->source->ingest->options.shard_count, count = stream->info.partition_count;

    if (count == 0 || (count == stream->said_count && stream->keyed == stream->said_keyed))
        return;
    stream->said_count = count;
    stream->said_keyed = stream->keyed;
    if (stream->keyed)
        dn_info("ingest", "%s: %u partitions, keyed by user: partition p is read by shard 1 + p mod %u",
                stream->info.stream, count, shards);
    else if (stream->source->config->keyed && count % shards == 0)
        dn_warn(
            "ingest",
            "%s: %u partitions, read as not keyed, since it was read so before: all of it by each shard's "
            "leader. It stays so. Under another source's name it would be read as keyed, but from its "
            "beginning: what it still holds would be counted again. To change it, let producers go on in a "
            "new topic",
            stream->info.stream, count);
    else if (stream->source->config->keyed)
        dn_warn(
            "ingest",
            "%s: its %u partitions are no multiple of the %u shards: it is read as not keyed, all of it by "
            "each shard's leader. Give it a multiple of %u partitions",
            stream->info.stream, count, shards, shards);
    else if (stream->source->config->kind == DN_SOURCE_KAFKA && shards > 1)
        dn_warn("ingest", "%s: %u partitions, not keyed by user: all of it is read by each shard's leader",
                stream->info.stream, count);
    else
        dn_info("ingest", "%s: %u partitions", stream->info.stream, count);
}

/* Partitions only grow; a topic that was made anew with fewer keeps the feeds, which say what is wrong. */
static bool grow_feeds(struct ingest_stream *stream)
{
    uint32_t count = stream->info.partition_count;

    if (count > DN_SOURCE_PARTITIONS_MAX)
        count = DN_SOURCE_PARTITIONS_MAX;
    if (count <= stream->feed_count)
        return false;
    struct ingest_feed **feeds = realloc(stream->feeds, count * sizeof *feeds);
    if (feeds == NULL)
        return false;
    stream->feeds = feeds;
    while (stream->feed_count < count) {
        struct ingest_feed *feed = feed_create(stream, stream->feed_count);
        if (feed == NULL)
            return true;
        feeds[stream->feed_count++] = feed;
    }
    return true;
}

/* ---- lanes
 * -------------------------------------------------------------------------------------------------- */

static void set_rule(struct ingest_feed *feed)
{
    const struct dn_ingest_options *options = &feed->stream->source->ingest->options;

    for (uint32_t group = 1; group <= options->shard_count; group++)
        feed->reads[group] = !feed->stream->keyed || group == feed->home;
}

static bool was_read_by_all(const struct ingest_stream *stream)
{
    const struct dn_ingest_options *options = &stream->source->ingest->options;
    int64_t ignored;

    for (uint32_t group = 1; group <= options->shard_count; group++)
        if (options->target.next_offset(options->target.data, group, stream->info.stream, INGEST_ALL_READ,
                                        &ignored))
            return true;
    return false;
}

/* Lanes that ran as keyed commit the mark before they go on. */
static void desync_lanes(struct ingest_stream *stream)
{
    for (uint32_t p = 0; p < stream->feed_count; p++)
        for (uint32_t i = 0; i < stream->source->ingest->options.shard_count; i++) {
            struct ingest_lane *lane = stream->feeds[p]->lanes[i];
            if (lane != NULL && lane->state == LANE_RUNNING)
                lane_desync(lane, 0, NULL);
        }
}

static void set_keyed(struct ingest_stream *stream, bool look)
{
    const uint32_t count = stream->info.partition_count;
    bool before = stream->keyed;

    if (look && stream->source->config->keyed && !stream->all_read)
        stream->all_read = was_read_by_all(stream);
    stream->keyed = stream->source->config->keyed && !stream->all_read && count > 0 &&
                    count % stream->source->ingest->options.shard_count == 0;
    if (before && !stream->keyed)
        desync_lanes(stream);
    for (uint32_t p = 0; p < stream->feed_count; p++)
        set_rule(stream->feeds[p]);
}

static void add_lane(struct ingest_feed *feed, uint32_t group)
{
    struct dn_ingest *ingest = feed->stream->source->ingest;
    struct ingest_lane *lane = lane_create(feed, group);

    if (lane == NULL)
        return; /* the next look tries again */
    lane->next = ingest->lanes;
    ingest->lanes = lane;
    feed->lanes[group - 1] = lane;
    feed->lane_count++;
}

static void set_lanes(struct ingest_feed *feed)
{
    const struct dn_ingest *ingest = feed->stream->source->ingest;

    for (uint32_t group = 1; group <= ingest->options.shard_count; group++) {
        struct ingest_lane *lane = feed->lanes[group - 1];
        bool here = feed->reads[group] && (feed->stream->info.local || ingest->groups[group].leads);
        if (here && lane == NULL)
            add_lane(feed, group);
        else if (here && lane->leaving)
            lane->leaving = false; /* it was never gone */
        else if (!here && lane != NULL)
            lane->leaving = true;
    }
}

/* ---- all
 * ---------------------------------------------------------------------------------------------------- */

static void see_streams(struct ingest_source *source, bool rules)
{
    struct dn_ingest *ingest = source->ingest;
    size_t count = source->driver->streams(source->self, ingest->infos, INGEST_STREAMS_MAX);

    if (count > INGEST_STREAMS_MAX)
        count = INGEST_STREAMS_MAX;
    for (size_t i = 0; i < count; i++) {
        struct ingest_stream *stream = &source->streams[i];
        bool first = stream->source == NULL;
        if (ingest->infos[i].stream[0] == 0)
            continue; /* nobody's: it was forgotten */
        stream->source = source;
        stream->index = i;
        stream->info = ingest->infos[i];
        bool grew = grow_feeds(stream);
        set_keyed(stream, rules || grew || first);
        say_rule(stream);
    }
    source->stream_count = count;
    source->trouble_ms = source->driver->trouble(source->self, source->trouble);
}

static void each_feed(struct dn_ingest *ingest, void (*visit)(struct ingest_feed *feed))
{
    for (size_t s = 0; s < ingest->options.source_count; s++)
        for (size_t i = 0; i < ingest->sources[s].stream_count; i++)
            for (uint32_t p = 0; p < ingest->sources[s].streams[i].feed_count; p++)
                visit(ingest->sources[s].streams[i].feeds[p]);
}

void ingest_refresh(struct dn_ingest *ingest, bool rules)
{
    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        ingest->groups[group].leads = ingest->options.target.leads(ingest->options.target.data, group);
    for (size_t s = 0; s < ingest->options.source_count; s++)
        see_streams(&ingest->sources[s], rules);
    if (rules)
        ingest->rules_us = ingest->now_us;
    each_feed(ingest, set_lanes);
}

void ingest_close_feeds(struct dn_ingest *ingest)
{
    each_feed(ingest, feed_stop);
}

void ingest_close_stream(struct ingest_stream *stream)
{
    struct dn_ingest *ingest = stream->source->ingest;

    for (struct ingest_lane **place = &ingest->lanes; *place != NULL;) {
        struct ingest_lane *lane = *place;
        if (lane->feed->stream != stream) {
            place = &lane->next;
            continue;
        }
        DN_ASSERT(lane->out == 0);
        *place = lane->next;
        lane->feed->lanes[lane->group - 1] = NULL;
        lane_free(lane);
    }
    for (uint32_t p = 0; p < stream->feed_count; p++) {
        feed_stop(stream->feeds[p]);
        feed_free(stream->feeds[p]);
    }
    free(stream->feeds);
    memset(stream, 0, sizeof *stream);
}

void ingest_topology_free(struct dn_ingest *ingest)
{
    each_feed(ingest, feed_free);
    for (size_t s = 0; s < ingest->options.source_count; s++) {
        struct ingest_source *source = &ingest->sources[s];
        for (size_t i = 0; source->streams != NULL && i < source->stream_count; i++)
            free(source->streams[i].feeds);
        free(source->streams);
    }
    while (ingest->lanes != NULL) {
        struct ingest_lane *lane = ingest->lanes;
        ingest->lanes = lane->next;
        lane_free(lane);
    }
}
