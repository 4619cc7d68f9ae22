/* Single messages again, for dead letters: a consumer of its own, used by one thread, which may wait.
 *
 * One partition is open at a time. For an offset a little further on it reads on, so that a run of dead
 * letters costs one fetch; for any other it starts there anew.
 *
 * That a message is no more is final: its letter is written without it. A new leader of the partition says
 * for a moment that the log ends before what its followers acknowledged (it does not know yet how far they
 * are), so an end, or an error, is no proof: then the brokers are asked for the log's offsets, which such a
 * leader refuses to tell. */
#include "ingest/source_kafka_private.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SKIP_MAX 2000 /* messages read over on the way to an offset; farther: start anew */
#define STEP_MS 100   /* between looks for an error that no partition tells */
#define CONFIRM_MS KAFKA_QUESTION_MS

struct fetcher {
    const struct dn_source_config *config; /* first: see on_log() */
    rd_kafka_t *rk;
    rd_kafka_topic_t *topic; /* of what is open; NULL: nothing is */
    char name[DN_SOURCE_TEXT_MAX];
    uint32_t partition;
    rd_kafka_queue_t *queue;
    int64_t position;
    rd_kafka_message_t *held;
    char last_error[DN_SOURCE_TEXT_MAX]; /* of the connection */
};

/* In rd_kafka_poll, on our thread. */
void kafka_fetcher_on_error(rd_kafka_t *rk, int error, const char *reason, void *opaque)
{
    (void)rk;
    struct fetcher *fetcher = opaque;
    if (error != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
        snprintf(fetcher->last_error, sizeof(fetcher->last_error), "%s", reason);
        kafka_redact(fetcher->config, fetcher->last_error);
    }
}

static void let_go(struct fetcher *fetcher)
{
    if (fetcher->held) {
        rd_kafka_message_destroy(fetcher->held);
        fetcher->held = NULL;
    }
}

static void close_partition(struct fetcher *fetcher)
{
    let_go(fetcher);
    if (fetcher->queue) {
        rd_kafka_consume_stop(fetcher->topic, (int32_t)fetcher->partition);
        rd_kafka_queue_destroy(fetcher->queue);
        fetcher->queue = NULL;
    }
    if (fetcher->topic) {
        rd_kafka_topic_destroy(fetcher->topic);
        fetcher->topic = NULL;
    }
}

enum dn_code kafka_fetcher_open(const struct dn_source_config *config, const struct dn_source_host *host,
                                void **ret_fetcher, struct dn_error *err)
{
    (void)host;
    enum dn_code code = kafka_check(config, err);
    if (code != DN_OK) {
        return code;
    }
    struct fetcher *fetcher = calloc(1, sizeof(*fetcher));
    if (!fetcher) {
        return dn_fail(err, DN_NO_MEMORY, "source '%s'", config->name);
    }
    fetcher->config = config;
    rd_kafka_conf_t *conf;
    code = kafka_conf(config, true, fetcher, &conf, err);
    if (code == DN_OK) {
        code = kafka_client(config, conf, &fetcher->rk, err);
    }
    if (code != DN_OK) {
        free(fetcher);
        return code;
    }
    *ret_fetcher = fetcher;
    return DN_OK;
}

void kafka_fetcher_close(void *self)
{
    struct fetcher *fetcher = self;
    close_partition(fetcher);
    rd_kafka_destroy_flags(fetcher->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    free(fetcher);
}

static enum dn_code open_partition(struct fetcher *fetcher, const char *name, uint32_t partition,
                                   int64_t offset, struct dn_error *err)
{
    close_partition(fetcher);
    snprintf(fetcher->name, sizeof(fetcher->name), "%s", name);
    fetcher->partition = partition;
    fetcher->position = offset;
    fetcher->topic = rd_kafka_topic_new(fetcher->rk, name, NULL);
    if (!fetcher->topic) {
        return dn_fail(err, DN_INVALID, "topic %s: %s", name, rd_kafka_err2str(rd_kafka_last_error()));
    }
    fetcher->queue = rd_kafka_queue_new(fetcher->rk);
    if (rd_kafka_consume_start_queue(fetcher->topic, (int32_t)partition, offset, fetcher->queue) != 0) {
        enum dn_code code = dn_fail(err, DN_INTERNAL, "topic %s, partition %u: %s", name, partition,
                                    rd_kafka_err2str(rd_kafka_last_error()));
        rd_kafka_queue_destroy(fetcher->queue);
        fetcher->queue = NULL;
        return code;
    }
    return DN_OK;
}

static enum dn_code seek_to(struct fetcher *fetcher, const char *name, uint32_t partition, int64_t offset,
                            struct dn_error *err)
{
    if (fetcher->queue && fetcher->partition == partition && strcmp(fetcher->name, name) == 0 &&
        offset >= fetcher->position && offset - fetcher->position <= SKIP_MAX) {
        return DN_OK;
    }
    return open_partition(fetcher, name, partition, offset, err);
}

static enum dn_code gone(struct fetcher *fetcher, int64_t offset, struct dn_error *err)
{
    return dn_fail(err, DN_NOT_FOUND, "topic %s, partition %u has offset %lld no more", fetcher->name,
                   fetcher->partition, (long long)offset);
}

static bool is_unknown(rd_kafka_resp_err_t error)
{
    return error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || error == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
           error == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
}

/* It looks as if the message were no more: DN_NOT_FOUND when the brokers' answer for the whole log says so
 * too. */
static enum dn_code confirm_gone(struct fetcher *fetcher, int64_t offset, struct dn_error *err)
{
    int64_t begin, end;
    rd_kafka_resp_err_t error = rd_kafka_query_watermark_offsets(
        fetcher->rk, fetcher->name, (int32_t)fetcher->partition, &begin, &end, CONFIRM_MS);
    if (is_unknown(error) || (!error && (offset < begin || offset >= end))) {
        return gone(fetcher, offset, err);
    }
    return dn_fail(err, DN_UNAVAILABLE, "topic %s, partition %u: offset %lld cannot be read just now%s%s",
                   fetcher->name, fetcher->partition, (long long)offset, error ? ": " : "",
                   error ? rd_kafka_err2str(error) : "");
}

/* What an error in place of a message means. */
static enum dn_code judge_error(struct fetcher *fetcher, const rd_kafka_message_t *message, int64_t offset,
                                struct dn_error *err)
{
    switch (message->err) {
    case RD_KAFKA_RESP_ERR__PARTITION_EOF:
        /* It was there once, and everything that is was read past? */
        return message->offset > offset ? gone(fetcher, offset, err) : confirm_gone(fetcher, offset, err);
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
        /* One from before this start says nothing of this offset. */
        return message->offset == offset ? confirm_gone(fetcher, offset, err)
                                         : dn_fail(err, DN_UNAVAILABLE, "reading was disturbed; try again");
    default:
        if (is_unknown(message->err)) {
            return confirm_gone(fetcher, offset, err);
        }
        break;
    }
    char text[DN_SOURCE_TEXT_MAX];
    snprintf(text, sizeof(text), "%.400s", rd_kafka_message_errstr(message));
    kafka_redact(fetcher->config, text);
    return dn_fail(err, DN_UNAVAILABLE, "topic %s, partition %u: %s", fetcher->name, fetcher->partition,
                   text);
}

/* Reads until the message at `offset` is held (DN_OK), or is known not to come. */
static enum dn_code read_to(struct fetcher *fetcher, int64_t offset, unsigned timeout_ms,
                            struct dn_error *err)
{
    uint64_t until_us = dn_monotonic_us() + timeout_ms * UINT64_C(1000);
    for (;;) {
        uint64_t now_us = dn_monotonic_us();
        uint64_t left_ms = now_us < until_us ? (until_us - now_us + 999) / 1000 : 0;
        rd_kafka_poll(fetcher->rk, 0);
        rd_kafka_message_t *message =
            rd_kafka_consume_queue(fetcher->queue, left_ms < STEP_MS ? (int)left_ms : STEP_MS);
        if (!message) {
            if (left_ms > 0) {
                continue;
            }
            return dn_fail(err, fetcher->last_error[0] ? DN_UNAVAILABLE : DN_DEADLINE,
                           "topic %s, partition %u: no answer within %u ms%s%s", fetcher->name,
                           fetcher->partition, timeout_ms, fetcher->last_error[0] ? ": " : "",
                           fetcher->last_error);
        }
        enum dn_code code = DN_OK;
        bool there = false;
        fetcher->last_error[0] = '\0';
        if (message->err) {
            code = judge_error(fetcher, message, offset, err);
        } else if (message->offset == offset) {
            there = true;
        } else if (message->offset > offset) {
            code = gone(fetcher, offset, err);
        }
        if (there) {
            fetcher->held = message;
            fetcher->position = offset + 1;
            return DN_OK;
        }
        fetcher->position = message->err ? fetcher->position : message->offset + 1;
        rd_kafka_message_destroy(message);
        if (code != DN_OK) {
            return code;
        }
    }
}

enum dn_code kafka_fetch(void *self, const char *stream, uint32_t partition, int64_t offset,
                         unsigned timeout_ms, struct dn_message *ret, struct dn_error *err)
{
    struct fetcher *fetcher = self;
    let_go(fetcher);
    size_t length = strlen(fetcher->config->name);
    if (strncmp(stream, fetcher->config->name, length) != 0 || stream[length] != '/' || !stream[length + 1] ||
        offset < 0 || partition > INT32_MAX) {
        return dn_fail(err, DN_NOT_FOUND, "source '%s' has no stream '%s', partition %u, offset %lld",
                       fetcher->config->name, stream, partition, (long long)offset);
    }
    enum dn_code code = seek_to(fetcher, stream + length + 1, partition, offset, err);
    if (code == DN_OK) {
        code = read_to(fetcher, offset, timeout_ms, err);
    }
    if (code == DN_OK) {
        kafka_message(fetcher->held, 0, ret);
    } else if (code != DN_DEADLINE) {
        close_partition(fetcher); /* where it stands is not known any more */
    }
    return code;
}
