/* Streams that are gone: files that were read and deleted.
 *
 * The driver says that a stream is there no more. Each shard that knows it is told that it is finished, by
 * whoever reads it for that shard, at the offset that it has; the shard may then give its place to another
 * stream, and remembers it until it does. When the state of every shard says so (or never knew it), this node
 * lets the stream go: its feeds, its lanes, and the driver's entry, whose number may be another's from then
 * on.
 *
 * Said by itself is that of a stream that was read to its end, and of one that went while this node had not
 * opened it, which waits for nothing but its coming back (another leader may have read it to its end before).
 * A stream whose loss is a fault (GAP) stands still until a person decides (`dunlin source forget` puts the
 * same word into the state). What comes back after it was let go is a new stream to this node, and goes on at
 * the offset that the state still has; its lanes say that it is there (`revive`).
 */
#include "ingest/internal.h"

#include "base/log.h"

/* It went while it was not open, which is no trouble. */
static bool waits(const struct ingest_feed *feed)
{
    const struct ingest_source *source = feed->stream->source;
    struct dn_partition_status status;

    source->driver->status(source->self, feed->stream->index, feed->partition, &status);
    return status.state == DN_PARTITION_CONNECTING && status.waits;
}

/* Says what can be said. True: there is nothing left to say or to wait for. */
static bool is_over(struct ingest_feed *feed, uint32_t group)
{
    const struct ingest_stream *stream = feed->stream;
    const struct dn_ingest_target *target = &stream->source->ingest->options.target;
    struct ingest_lane *lane = feed->lanes[group - 1];
    int64_t ignored;

    if (lane != NULL && lane->over)
        return lane->out == 0;
    if (lane != NULL && !lane_is_settled(lane))
        return false;
    if (!target->next_offset(target->data, group, stream->info.stream, feed->partition, &ignored))
        return lane == NULL || waits(feed);
    if (target->finished(target->data, group, stream->info.stream, feed->partition)) {
        if (lane != NULL)
            lane->over = true;
        return true;
    }
    if (lane != NULL && (lane_is_at_end(lane) || waits(feed)))
        lane_finish(lane);
    return false;
}

static void forget_stream(struct ingest_stream *stream)
{
    struct ingest_source *source = stream->source;
    size_t index = stream->index;
    bool over = true;

    for (uint32_t p = 0; p < stream->feed_count; p++)
        for (uint32_t group = 1; group <= source->ingest->options.shard_count; group++)
            over &= is_over(stream->feeds[p], group);
    if (!over)
        return;
    dn_info("ingest", "%s is gone, and nothing of it is left to do", stream->info.stream);
    ingest_close_stream(stream);
    source->driver->forget(source->self, index);
}

void ingest_forget(struct dn_ingest *ingest)
{
    for (size_t s = 0; s < ingest->options.source_count; s++) {
        struct ingest_source *source = &ingest->sources[s];
        if (source->driver->forget == NULL || ingest->options.target.finished == NULL)
            continue;
        for (size_t i = 0; i < source->stream_count; i++)
            if (source->streams[i].source != NULL && source->streams[i].info.gone)
                forget_stream(&source->streams[i]);
    }
}
