#include "chaos/workload_stream.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FAVOURITE 0 /* the client whose users the producer mostly works on, too */
#define DUD_OF 20   /* one line in so many is no event */
#define LINE_MAX_BYTES 256
#define RANDOM_STREAM 1000000 /* far from the numbers of clients */

enum dn_code workload_stream_create(const char *path, struct dn_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return dn_fail(err, DN_IO, "make the stream's file '%s': %s", path, strerror(errno));
    close(fd);
    return DN_OK;
}

bool workload_stream_yaml(const char *path, char *ret_text, size_t size)
{
    int length =
        snprintf(ret_text, size,
                 "sources:\n  - name: " WORKLOAD_STREAM "\n    kind: file\n    paths: [\"%s\"]\n", path);
    return length > 0 && (size_t)length < size;
}

enum dn_code workload_stream_open(struct workload_stream *stream, const char *path,
                                  struct chaos_history *history, struct workload_users *users, uint64_t seed,
                                  struct dn_error *err)
{
    *stream = (struct workload_stream){
        .fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC),
        .history = history,
        .users = users,
        .random = workload_random_make(seed, RANDOM_STREAM),
    };
    snprintf(stream->partition, sizeof stream->partition, "%s/0", WORKLOAD_STREAM);
    if (stream->fd < 0)
        return dn_fail(err, DN_IO, "open the stream's file '%s': %s", path, strerror(errno));
    return DN_OK;
}

void workload_stream_close(struct workload_stream *stream)
{
    if (stream->fd >= 0)
        close(stream->fd);
    stream->fd = -1;
}

static void note(struct workload_stream *stream, enum chaos_type type, uint64_t user,
                 struct chaos_event *event)
{
    struct chaos_op op = {
        .type = type,
        .f = CHAOS_INGEST,
        .process = CHAOS_NEMESIS,
        .key = user,
        .name = stream->partition,
        .events = event,
        .events_count = 1,
    };
    chaos_history_append(stream->history, &op);
}

static enum dn_code append(struct workload_stream *stream, const char *line, uint64_t user,
                           struct chaos_event *event, struct dn_error *err)
{
    size_t length = strlen(line);
    if (stream->end > INT32_MAX - LINE_MAX_BYTES)
        return dn_fail(
            err, DN_EXHAUSTED,
            "the stream's file has all bytes that a history can name: a lower --rate lasts longer");
    event->offset = (int32_t)stream->end;
    note(stream, CHAOS_INFO, user, event);
    ssize_t written = write(stream->fd, line, length);
    if (written != (ssize_t)length)
        return dn_fail(err, DN_IO, "write to the stream's file: %s",
                       written < 0 ? strerror(errno) : "only a part of a line was written");
    stream->end += written;
    note(stream, CHAOS_OK, user, event);
    return DN_OK;
}

/* A line that is no event, in one of the ways that happen. */
static enum dn_code append_dud(struct workload_stream *stream, struct dn_error *err)
{
    static const char *const forms[] = {
        "{\"user_id\":\"u-1\",\"item_id\":\"dud-%" PRIu64 "\",\"type\":\"click\"}\n",
        "{\"user_id\":\"u-1\",\"time_ms\":1700000000000,\"type\":\"dud-%" PRIu64 "\"}\n",
        "{\"user_id\":\"u-1\",\"item_id\":\"dud-%" PRIu64 "\",\"time_ms\":17000\n",
        "dud-%" PRIu64 "\n",
        "[{\"item_id\":\"dud-%" PRIu64 "\"}]\n",
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
             "\",\"type\":\"click\",\"time_ms\":%" PRId64 "}\n",
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

void workload_stream_tell_end(const struct workload_stream *stream)
{
    struct chaos_row row = {.of = {[CHAOS_ROW_NEXT_OFFSET] = (uint64_t)stream->end}};
    struct chaos_op op = {
        .type = CHAOS_INVOKE, .f = CHAOS_OFFSETS, .process = CHAOS_NEMESIS, .name = WORKLOAD_STREAM};
    chaos_history_append(stream->history, &op);
    op.type = CHAOS_OK;
    op.rows = &row;
    op.rows_count = 1;
    chaos_history_append(stream->history, &op);
}
