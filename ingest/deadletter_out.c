/* Batches of letters into files and topics. */
#include "ingest/deadletter_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TELL_AFTER_US 1000000u /* that a topic has not acknowledged */
#define BATCH_LIMIT (BATCH_BYTES_MAX + DN_DEAD_LINE_MAX + DN_DEAD_LINE_MAX) /* one letter above the mark */

const char *dead_out_name(const struct out *out)
{
    return out->writer != NULL ? dn_dead_writer_path(out->writer) : dn_dead_topic_name(out->topic);
}

/* ---- making ------------------------------------------------------------------------------------------ */

static struct out *out_new(struct dn_deadletters *d)
{
    DN_ASSERT(d->out_count < OUTS_MAX);
    struct out *out = calloc(1, sizeof *out);
    if (out != NULL)
        dn_buffer_init(&out->bytes, BATCH_LIMIT);
    return out;
}

void dead_out_destroy(struct out *out)
{
    if (out == NULL)
        return;
    dn_dead_topic_close(out->topic);
    dn_dead_writer_close(out->writer);
    dn_buffer_free(&out->bytes);
    free(out->posts);
    free(out);
}

static enum dn_code file_out(struct dn_deadletters *d, const char *path, struct out **ret,
                             struct dn_error *err)
{
    struct dn_dead_writer *writer;
    enum dn_code code = dn_dead_writer_open(path, DN_DEAD_FILE_MAX, &writer, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < d->out_count; i++) {
        struct out *out = d->outs[i];
        if (out->writer != NULL &&
            strcmp(dn_dead_writer_path(out->writer), dn_dead_writer_path(writer)) == 0) {
            dn_dead_writer_close(writer);
            *ret = out;
            return DN_OK;
        }
    }
    struct out *out = out_new(d);
    if (out == NULL) {
        dn_dead_writer_close(writer);
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    }
    out->writer = writer;
    d->outs[d->out_count++] = out;
    *ret = out;
    return DN_OK;
}

static enum dn_code default_file_out(struct dn_deadletters *d, const char *name, struct out **ret,
                                     struct dn_error *err)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/deadletters/%s.jsonl", d->options.data_dir, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return dn_fail(err, DN_INVALID, "the data directory's path is too long");
    return file_out(d, path, ret, err);
}

static enum dn_code topic_out(struct dn_deadletters *d, const struct dn_source_config *config,
                              struct out **ret, struct dn_error *err)
{
    struct out *out = out_new(d);
    if (out == NULL || (out->posts = calloc(TURN_LETTERS_MAX, sizeof *out->posts)) == NULL) {
        free(out);
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    }
    enum dn_code code = dn_dead_topic_open(config, &out->topic, err);
    if (code != DN_OK) {
        dead_out_destroy(out);
        return code;
    }
    d->outs[d->out_count++] = out;
    *ret = out;
    return DN_OK;
}

enum dn_code dead_out_of(struct dn_deadletters *d, const struct feed *feed, struct out **ret,
                         struct dn_error *err)
{
    const struct dn_source_config *config = feed->config;
    if (config != NULL && config->dead_sink == DN_DEAD_TO_TOPIC)
        return topic_out(d, config, ret, err);
    if (config != NULL && config->dead_sink == DN_DEAD_TO_FILE && config->dead_to[0] != '\0')
        return file_out(d, config->dead_to, ret, err);
    return default_file_out(d, feed->name, ret, err);
}

/* ---- filling ----------------------------------------------------------------------------------------- */

bool dead_out_takes(const struct out *out, uint64_t now_us)
{
    return !out->sending && out->count < TURN_LETTERS_MAX && out->bytes.length < BATCH_BYTES_MAX &&
           dead_patience_ready(&out->patience, now_us);
}

static void fill_line(struct dn_dead_line *line, const struct pick *pick, const struct dn_message *message,
                      bool gone, const char *note)
{
    const struct dn_dead_letter *letter = &pick->letter;
    *line = (struct dn_dead_line){
        .shard = pick->group->number,
        .number = letter->number,
        .reason = letter->reason,
        .partition = letter->partition,
        .offset = letter->offset,
        .judged_ms = letter->time_ms,
        .time_ms = message == NULL ? -1 : message->time_ms,
        .gone = gone,
    };
    snprintf(line->source, sizeof line->source, "%s", pick->feed->name);
    snprintf(line->stream, sizeof line->stream, "%s", letter->source);
    snprintf(line->note, sizeof line->note, "%s", note);
    if (message == NULL)
        return;
    line->key = message->key;
    line->key_length = message->key_length;
    line->bytes = message->bytes;
    line->length = message->length;
    if (message->bytes == NULL)
        line->length = 0;
    if (message->too_large)
        snprintf(line->note, sizeof line->note, "too large to keep: %zu bytes", message->length);
}

/* An encoded message that is longer than a line may be: its place is known, its bytes stay in the source. */
static void give_up_bytes(struct dn_dead_line *line)
{
    snprintf(line->note, sizeof line->note, "too large to write: %zu bytes", line->length + line->key_length);
    line->key = line->bytes = NULL;
    line->key_length = line->length = 0;
}

bool dead_out_put(struct out *out, const struct pick *pick, const struct dn_message *message, bool gone,
                  const char *note)
{
    struct dn_dead_line line;
    size_t at = out->bytes.length;

    fill_line(&line, pick, message, gone, note);
    if ((line.length + line.key_length) / 3 * 4 > DN_DEAD_LINE_MAX - 4096)
        give_up_bytes(&line);
    struct entry entry = {
        .group = line.shard,
        .number = line.number,
        .feed = pick->feed,
        .reason = line.reason,
        .without_bytes = line.bytes == NULL && (message == NULL || message->too_large),
        .has_key = line.key != NULL,
        .at = at,
    };
    dn_dead_line_write(&out->bytes, &line);
    entry.length = out->bytes.length - at;
    entry.key_at = out->bytes.length;
    if (out->topic != NULL && line.key != NULL) {
        dn_buffer_append(&out->bytes, line.key, line.key_length);
        entry.key_length = line.key_length;
    }
    if (out->bytes.failed) { /* memory: without this one, and again later */
        out->bytes.failed = false;
        out->bytes.length = at;
        return false;
    }
    out->entries[out->count++] = entry;
    return true;
}

/* ---- submitting -------------------------------------------------------------------------------------- */

static void written(struct dn_deadletters *d, const struct entry *entry)
{
    dead_group_written(dead_group_of(d, entry->group), entry->number);
    dead_feed_count(entry->feed, entry->reason, entry->without_bytes);
}

static void not_written(struct dn_deadletters *d, const struct entry *entry)
{
    dead_group_untake(dead_group_of(d, entry->group), entry->number);
    if (entry->feed->write_failures != NULL)
        dn_counter_add(entry->feed->write_failures, 1);
}

static void batch_done(struct out *out)
{
    out->count = 0;
    out->sending = false;
    if (out->bytes.capacity > 2 * BATCH_BYTES_MAX)
        dn_buffer_free(&out->bytes); /* a giant came by */
    else
        dn_buffer_clear(&out->bytes);
}

/* How the log and people call it. */
static void out_who(const struct out *out, char ret[PATH_MAX + 32])
{
    snprintf(ret, PATH_MAX + 32, "dead letters to %s '%s'", out->topic == NULL ? "file" : "topic",
             dead_out_name(out));
}

static bool flush_file(struct dn_deadletters *d, struct out *out)
{
    char who[PATH_MAX + 32];
    struct dn_error err;

    out_who(out, who);
    enum dn_code code = dn_dead_writer_append(out->writer, out->bytes.bytes, out->bytes.length, &err);
    for (size_t i = 0; i < out->count; i++) {
        if (code == DN_OK)
            written(d, &out->entries[i]);
        else
            not_written(d, &out->entries[i]);
    }
    if (code == DN_OK)
        dead_patience_good(&out->patience, who);
    else
        dead_patience_failed(&out->patience, who, err.message);
    batch_done(out);
    return code == DN_OK;
}

static void send_topic(struct out *out)
{
    for (size_t i = 0; i < out->count; i++) {
        const struct entry *entry = &out->entries[i];
        out->posts[i] = (struct dn_dead_post){
            .key = entry->has_key ? out->bytes.bytes + entry->key_at : NULL,
            .key_length = entry->key_length,
            .line = out->bytes.bytes + entry->at,
            .length = entry->length - 1, /* a topic needs no line end */
        };
    }
    out->sending = true;
    out->sent_us = dn_monotonic_us();
    dn_dead_topic_send(out->topic, out->posts, out->count);
}

/* The topic will never take them: the source's file does. Their bytes are not lost, and the queue goes on.
 * Those that are durable there become delivered. */
static enum dn_code write_overflow(struct dn_deadletters *d, struct out *out, struct dn_error *err)
{
    struct dn_buffer lines;
    struct feed *feed = out->entries[0].feed; /* a topic is one source's */
    enum dn_code code = DN_OK;
    uint64_t count = 0;

    dn_buffer_init(&lines, BATCH_LIMIT);
    for (size_t i = 0; i < out->count; i++) {
        if (out->posts[i].state != DN_POST_TOO_LARGE)
            continue;
        dn_buffer_append(&lines, out->bytes.bytes + out->entries[i].at, out->entries[i].length);
        count++;
    }
    if (count > 0 && feed->overflow == NULL)
        code = default_file_out(d, feed->name, &feed->overflow, err);
    if (count > 0 && code == DN_OK)
        code = lines.failed ? dn_fail(err, DN_NO_MEMORY, "out of memory")
                            : dn_dead_writer_append(feed->overflow->writer, lines.bytes, lines.length, err);
    dn_buffer_free(&lines);
    for (size_t i = 0; i < out->count && code == DN_OK; i++) {
        if (out->posts[i].state == DN_POST_TOO_LARGE)
            out->posts[i].state = DN_POST_DELIVERED;
    }
    feed->untold_overflow += code == DN_OK ? count : 0;
    return code;
}

/* The batch waits for the brokers. That is no failure yet, but people are told when it takes long. */
static void say_waiting(struct out *out, const char *who)
{
    const char *trouble = dn_dead_topic_error(out->topic);
    if (out->patience.since_ms == 0 && dn_monotonic_us() - out->sent_us > TELL_AFTER_US)
        dead_patience_failed(&out->patience, who, trouble[0] != '\0' ? trouble : "not acknowledged yet");
}

/* True: some were written. */
static bool settle_topic(struct dn_deadletters *d, struct out *out)
{
    char who[PATH_MAX + 32];
    struct dn_error err = {.message = ""};
    bool any = false, failed = false;

    out_who(out, who);
    if (dn_dead_topic_poll(out->topic) > 0) {
        say_waiting(out, who);
        return false;
    }
    write_overflow(d, out, &err);
    for (size_t i = 0; i < out->count; i++) {
        bool good = out->posts[i].state == DN_POST_DELIVERED;
        if (good)
            written(d, &out->entries[i]);
        else
            not_written(d, &out->entries[i]);
        any = any || good;
        failed = failed || !good;
    }
    if (failed)
        dead_patience_failed(&out->patience, who,
                             err.message[0] != '\0' ? err.message : dn_dead_topic_error(out->topic));
    else
        dead_patience_good(&out->patience, who);
    batch_done(out);
    return any;
}

bool dead_outs_flush(struct dn_deadletters *d)
{
    bool any = false;
    for (size_t i = 0; i < d->out_count; i++) {
        struct out *out = d->outs[i];
        if (out->count == 0)
            continue;
        if (out->topic == NULL) {
            any = flush_file(d, out) || any;
            continue;
        }
        if (!out->sending)
            send_topic(out);
        any = settle_topic(d, out) || any;
    }
    return any;
}

bool dead_outs_sending(const struct dn_deadletters *d)
{
    for (size_t i = 0; i < d->out_count; i++) {
        if (d->outs[i]->sending)
            return true;
    }
    return false;
}
