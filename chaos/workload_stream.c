#include "chaos/workload_stream.h"

#include "base/clock.h"
#include "chaos/cluster.h"
#include "chaos/workload_kafka.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FAVOURITE 0 /* the client whose users the producer mostly works on, too */
#define DUD_OF 20   /* one message in so many is no event */
#define LINE_MAX_BYTES 256
/* Small batches, many on their way at once: whatever a change of leaders or an outage may lose, it meets
 * some. */
#define BATCH_YAML "    batch: {events: 4, ms: 0, inflight: 64}\n"
#define RANDOM_STREAM 1000000 /* far from the numbers of clients */

enum dn_code workload_stream_create(const char *path, struct dn_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return dn_fail(err, DN_IO, "make the stream's file '%s': %s", path, strerror(errno));
    close(fd);
    return DN_OK;
}

bool workload_stream_yaml(enum workload_stream_kind kind, const char *path, char *ret_text, size_t size)
{
    int length =
        kind == WORKLOAD_FILE
            ? snprintf(ret_text, size,
                       "sources:\n  - name: " WORKLOAD_STREAM "\n    kind: file\n    paths: [\"%s\"]\n", path)
            : snprintf(ret_text, size,
                       "sources:\n  - name: " WORKLOAD_STREAM
                       "\n    kind: kafka\n    brokers: \"" CLUSTER_BROKERS "\"\n    topics: [" CHAOS_TOPIC
                       "]\n    keyed: %s\n" BATCH_YAML,
                       kind == WORKLOAD_KAFKA ? "true" : "false");
    return length > 0 && (size_t)length < size;
}

enum dn_code workload_stream_open(struct workload_stream *stream,
                                  const struct workload_stream_options *options,
                                  struct chaos_history *history, struct workload_users *users, uint64_t seed,
                                  struct dn_error *err)
{
    *stream = (struct workload_stream){
        .options = *options,
        .fd = -1,
        .history = history,
        .users = users,
        .random = workload_random_make(seed, RANDOM_STREAM),
    };
    if (options->kind != WORKLOAD_FILE)
        return workload_kafka_open(options->topic, history, WORKLOAD_STREAM, &stream->kafka, err);
    stream->partitions = 1;
    stream->fd = open(options->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (stream->fd < 0)
        return dn_fail(err, DN_IO, "open the stream's file '%s': %s", options->path, strerror(errno));
    return DN_OK;
}

void workload_stream_close(struct workload_stream *stream)
{
    workload_kafka_close(stream->kafka);
    stream->kafka = NULL;
    if (stream->fd >= 0)
        close(stream->fd);
    stream->fd = -1;
}

/* ---- messages ---------------------------------------------------------------------------------------- */

static void note(struct workload_stream *stream, enum chaos_type type, uint64_t user,
                 struct chaos_event *event)
{
    struct chaos_op op = {
        .type = type,
        .f = CHAOS_INGEST,
        .process = CHAOS_NEMESIS,
        .key = user,
        .name = WORKLOAD_STREAM "/0",
        .events = event,
        .events_count = 1,
    };
    chaos_history_append(stream->history, &op);
}

static enum dn_code append_line(struct workload_stream *stream, const char *text, uint64_t user,
                                struct chaos_event *event, struct dn_error *err)
{
    char line[LINE_MAX_BYTES + 1];
    int length = snprintf(line, sizeof line, "%s\n", text);
    if (stream->ends[0] > INT32_MAX - LINE_MAX_BYTES)
        return dn_fail(
            err, DN_EXHAUSTED,
            "the stream's file has all bytes that a history can name: a lower --rate lasts longer");
    event->offset = (int32_t)stream->ends[0];
    note(stream, CHAOS_INFO, user, event);
    ssize_t written = write(stream->fd, line, (size_t)length);
    if (written != (ssize_t)length)
        return dn_fail(err, DN_IO, "write to the stream's file: %s",
                       written < 0 ? strerror(errno) : "only a part of a line was written");
    stream->ends[0] += written;
    note(stream, CHAOS_OK, user, event);
    return DN_OK;
}

/* user: CHAOS_NO_USER when it is no event. */
static enum dn_code append(struct workload_stream *stream, const char *text, uint64_t user,
                           struct chaos_event *event, struct dn_error *err)
{
    char key[32];
    if (stream->options.kind == WORKLOAD_FILE)
        return append_line(stream, text, user, event, err);
    bool keyed = stream->options.kind == WORKLOAD_KAFKA && user != CHAOS_NO_USER;
    snprintf(key, sizeof key, "%s-%" PRIu64, keyed ? "u" : "e", keyed ? user : event->id);
    return workload_kafka_put(stream->kafka, key, user, event, text, err);
}

/* A message that is no event, in one of the ways that happen. */
static enum dn_code append_dud(struct workload_stream *stream, struct dn_error *err)
{
    static const char *const forms[] = {
        "{\"user_id\":\"u-1\",\"item_id\":\"dud-%" PRIu64 "\",\"type\":\"click\",\"time_ms\":\"soon\"}",
        "{\"user_id\":\"u-1\",\"time_ms\":1700000000000,\"type\":\"dud-%" PRIu64 "\"}",
        "{\"user_id\":\"u-1\",\"item_id\":\"dud-%" PRIu64 "\",\"time_ms\":17000",
        "dud-%" PRIu64,
        "[{\"item_id\":\"dud-%" PRIu64 "\"}]",
    };
    char line[LINE_MAX_BYTES];
    struct chaos_event event = {.id = ++stream->last_dud, .time_ms = dn_wall_ms(), .outcome = -1};
    snprintf(line, sizeof line, forms[workload_random_below(&stream->random, sizeof forms / sizeof *forms)],
             event.id);
    return append(stream, line, CHAOS_NO_USER, &event, err);
}

static enum dn_code append_event(struct workload_stream *stream, uint64_t user, struct chaos_event *event,
                                 struct dn_error *err)
{
    char line[LINE_MAX_BYTES];
    snprintf(line, sizeof line,
             "{\"user_id\":\"u-%" PRIu64 "\",\"item_id\":\"i-%" PRIu64
             "\",\"type\":\"click\",\"time_ms\":%" PRId64 "}",
             user, event->id, event->time_ms);
    return append(stream, line, user, event, err);
}

enum dn_code workload_stream_step(struct workload_stream *stream, struct dn_error *err)
{
    struct workload_plan plan;
    if (workload_random_one(&stream->random, 1, DUD_OF))
        return append_dud(stream, err);
    workload_users_new_events(stream->users, &stream->random, FAVOURITE, dn_wall_ms(), &plan);
    enum dn_code code = DN_OK;
    for (size_t i = 0; i < plan.count && code == DN_OK; i++)
        code = append_event(stream, plan.user, &plan.events[i], err);
    return code;
}

/* ---- the end ----------------------------------------------------------------------------------------- */

/* The only shard that reads the partition; 0: all do. */
static unsigned only_shard(const struct workload_stream *stream, unsigned partition)
{
    return stream->options.kind == WORKLOAD_KAFKA ? 1 + partition % stream->options.shards : 0;
}

static void tell_ends(const struct workload_stream *stream)
{
    struct chaos_row rows[CHAOS_PARTITIONS_MAX];
    for (unsigned p = 0; p < stream->partitions; p++)
        rows[p] = (struct chaos_row){.of = {[CHAOS_ROW_PARTITION] = p,
                                            [CHAOS_ROW_SHARD] = only_shard(stream, p),
                                            [CHAOS_ROW_NEXT_OFFSET] = (uint64_t)stream->ends[p]}};
    struct chaos_op op = {
        .type = CHAOS_INVOKE, .f = CHAOS_OFFSETS, .process = CHAOS_NEMESIS, .name = WORKLOAD_STREAM};
    chaos_history_append(stream->history, &op);
    op.type = CHAOS_OK;
    op.rows = rows;
    op.rows_count = stream->partitions;
    chaos_history_append(stream->history, &op);
}

enum dn_code workload_stream_finish(struct workload_stream *stream, struct dn_error *err)
{
    enum dn_code code = DN_OK;
    if (stream->kafka)
        code = workload_kafka_finish(stream->kafka, stream->ends, &stream->partitions, err);
    tell_ends(stream);
    return code;
}

void workload_stream_describe(const struct workload_stream *stream, char *ret_text, size_t size)
{
    struct workload_kafka_counts counts;
    if (!stream->kafka) {
        snprintf(ret_text, size, "the stream: a file of %" PRId64 " bytes", stream->ends[0]);
        return;
    }
    workload_kafka_count(stream->kafka, &counts);
    snprintf(ret_text, size,
             "the stream: a topic of %u partitions; of %" PRIu64 " messages the broker confirmed %" PRIu64
             ", and had %" PRIu64 " of the others",
             stream->partitions, counts.produced, counts.confirmed, counts.found);
}

bool workload_stream_is_read(const struct workload_stream *stream, const struct chaos_row *rows, size_t count,
                             char *ret_text, size_t size)
{
    size_t wanted = 0, there = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t partition = rows[i].of[CHAOS_ROW_PARTITION], next = rows[i].of[CHAOS_ROW_NEXT_OFFSET];
        int64_t end = partition < stream->partitions ? stream->ends[partition] : 0;
        if (next != (uint64_t)end) {
            snprintf(ret_text, size,
                     "shard %" PRIu64 " stands at %" PRIu64 " of %" PRId64 " of partition %" PRIu64,
                     rows[i].of[CHAOS_ROW_SHARD], next, end, partition);
            return false;
        }
        there += end > 0;
    }
    for (unsigned p = 0; p < stream->partitions; p++)
        if (stream->ends[p] > 0)
            wanted += only_shard(stream, p) == 0 ? stream->options.shards : 1;
    if (there != wanted)
        snprintf(ret_text, size, "%zu offsets are known of %zu", there, wanted);
    return there == wanted;
}
