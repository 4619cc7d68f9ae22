/* Reading partitions, on the ingest thread.
 *
 * start() stops what runs and starts anew at the offset: librdkafka gives every message the version of the
 * start that fetched it, and drops those of an older version when they are taken from the queue. Its error
 * for an offset that is not there has no version, though, and may be about an offset of before: so it counts
 * only when it is about our position, and comes again after one more start.
 *
 * A partition whose messages nobody reads is parked after KAFKA_PARK_MS: each message that waits keeps the
 * whole answer that it came in, with other partitions' messages. */
#include "ingest/source_kafka_private.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFUSALS_MAX 2          /* of an offset, before a person is asked */
#define HOUSEKEEPING_US 1000000 /* between looks for partitions to park */

static struct kafka_partition *partition_of(struct kafka *kafka, size_t stream, uint32_t number)
{
    return stream < kafka->topic_count && number < DN_SOURCE_PARTITIONS_MAX
               ? kafka->topics[stream]->partitions[number]
               : NULL;
}

static struct kafka_partition *make_partition(struct kafka *kafka, size_t stream, uint32_t number)
{
    struct kafka_partition *partition = calloc(1, sizeof(*partition));
    if (partition) {
        partition->topic = (uint32_t)stream;
        partition->number = number;
        partition->leader = -1;
        partition->begin = partition->end = -1;
        partition->mirror = partition->mirrored = -1;
        pthread_mutex_lock(&kafka->lock);
        kafka->topics[stream]->partitions[number] = partition;
        kafka->asked_next_ms = 0; /* for its leader */
        pthread_cond_signal(&kafka->wanted);
        pthread_mutex_unlock(&kafka->lock);
    }
    return partition;
}

/* ---- start and stop ---- */

/* On librdkafka's threads, under its locks. */
static void on_queue(rd_kafka_t *rk, void *opaque)
{
    (void)rk;
    const struct kafka *kafka = opaque;
    kafka->host->wake(kafka->host->data);
}

/* Waits for librdkafka's main thread, which does nothing long. The queue goes with what is left in it. */
static void fetch_no_more(struct kafka *kafka, struct kafka_partition *partition)
{
    if (partition->queue) {
        rd_kafka_consume_stop(kafka->topics[partition->topic]->handle, (int32_t)partition->number);
        rd_kafka_queue_cb_event_enable(partition->queue, NULL, NULL);
        rd_kafka_queue_destroy(partition->queue);
        partition->queue = NULL;
    }
}

static enum dn_code fetch_from(struct kafka *kafka, struct kafka_partition *partition, struct dn_error *err)
{
    fetch_no_more(kafka, partition);
    partition->parked = false;
    partition->filled = false;
    partition->read_us = dn_monotonic_us();
    partition->queue = rd_kafka_queue_new(kafka->rk);
    rd_kafka_queue_cb_event_enable(partition->queue, on_queue, kafka);
    int64_t offset =
        partition->position == DN_STREAM_OFFSET_UNSET ? RD_KAFKA_OFFSET_BEGINNING : partition->position;
    const struct kafka_topic *topic = kafka->topics[partition->topic];
    if (rd_kafka_consume_start_queue(topic->handle, (int32_t)partition->number, offset, partition->queue) !=
        0) {
        rd_kafka_resp_err_t error = rd_kafka_last_error();
        rd_kafka_queue_cb_event_enable(partition->queue, NULL, NULL);
        rd_kafka_queue_destroy(partition->queue);
        partition->queue = NULL;
        return dn_fail(err, DN_INTERNAL,
                       "source '%s': topic %s, partition %u: could not start at offset %lld: %s",
                       kafka->config->name, topic->name, partition->number, (long long)partition->position,
                       rd_kafka_err2str(error));
    }
    return DN_OK;
}

enum dn_code kafka_start(void *self, size_t stream, uint32_t number, int64_t offset, struct dn_error *err)
{
    struct kafka *kafka = self;
    if (stream >= kafka->topic_count || number >= DN_SOURCE_PARTITIONS_MAX ||
        (offset < 0 && offset != DN_STREAM_OFFSET_UNSET)) {
        return dn_fail(err, DN_INVALID, "source '%s': there is no stream %zu, partition %u, offset %lld",
                       kafka->config->name, stream, number, (long long)offset);
    }
    struct kafka_partition *partition = partition_of(kafka, stream, number);
    if (!partition && !(partition = make_partition(kafka, stream, number))) {
        return dn_fail(err, DN_NO_MEMORY, "source '%s': partition %u", kafka->config->name, number);
    }
    partition->position = offset;
    partition->refusals = 0;
    partition->at_end = partition->gap = partition->failed = false;
    partition->error[0] = '\0';
    enum dn_code code = fetch_from(kafka, partition, err);
    partition->started = code == DN_OK;
    kafka->host->wake(kafka->host->data);
    return code;
}

void kafka_stop(void *self, size_t stream, uint32_t number)
{
    struct kafka *kafka = self;
    struct kafka_partition *partition = partition_of(kafka, stream, number);
    if (!partition) {
        return;
    }
    fetch_no_more(kafka, partition);
    partition->started = partition->parked = false;
    pthread_mutex_lock(&kafka->lock);
    partition->mirror = partition->mirrored = -1; /* whoever reads on mirrors on */
    partition->want_offsets = false;
    pthread_mutex_unlock(&kafka->lock);
}

/* ---- reading ---- */

void kafka_message(const rd_kafka_message_t *message, uint64_t message_bytes, struct dn_message *ret)
{
    rd_kafka_timestamp_type_t kind;
    int64_t time_ms = rd_kafka_message_timestamp(message, &kind);
    *ret = (struct dn_message){
        .offset = message->offset,
        .next_offset = message->offset + 1,
        .time_ms = kind == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : time_ms,
        .key = message->key,
        .key_length = message->key_len,
        .bytes = message->payload,
        .length = message->len,
    };
    if (message_bytes > 0 && message->len > message_bytes) {
        ret->too_large = true;
        ret->bytes = NULL;
    }
}

static void want_offsets(struct kafka *kafka, struct kafka_partition *partition)
{
    pthread_mutex_lock(&kafka->lock);
    partition->want_offsets = true;
    pthread_cond_signal(&kafka->wanted);
    pthread_mutex_unlock(&kafka->lock);
}

/* The offset is not there. `about` is the offset that librdkafka complains of. */
static void refused(struct kafka *kafka, struct kafka_partition *partition, int64_t about)
{
    if (about >= partition->position && ++partition->refusals >= REFUSALS_MAX) {
        fetch_no_more(kafka, partition);
        partition->gap = true;
        partition->at_end = false;
        pthread_mutex_lock(&kafka->lock);
        partition->begin = partition->end = -1;
        pthread_mutex_unlock(&kafka->lock);
        want_offsets(kafka, partition);
        return;
    }
    struct dn_error err;
    if (fetch_from(kafka, partition, &err) != DN_OK) {
        partition->failed = true;
        snprintf(partition->error, sizeof(partition->error), "%s", err.message);
    }
}

const char *kafka_what_to_do(rd_kafka_resp_err_t error)
{
    switch (error) {
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
        return ": allow it to the user that the properties name";
    case RD_KAFKA_RESP_ERR_INVALID_MSG:
    case RD_KAFKA_RESP_ERR__BAD_MSG:
    case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
        return ": messages from here on are damaged; 'dunlin source skip' goes on behind them";
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE:
    case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED:
        return ": this build of librdkafka cannot decompress them; 'dunlin source skip' goes on behind them";
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
        return ": brokers and librdkafka do not understand each other: one of them is too old";
    case RD_KAFKA_RESP_ERR__FATAL:
        return ": restart this node";
    default:
        return NULL;
    }
}

static void failed(struct kafka *kafka, struct kafka_partition *partition, const rd_kafka_message_t *message)
{
    const char *topic = kafka->topics[partition->topic]->name;
    const char *what_to_do = kafka_what_to_do(message->err);

    switch (message->err) {
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
        snprintf(partition->error, sizeof(partition->error),
                 "partition %u of topic %.255s does not exist yet, or no longer: it is read once it does",
                 partition->number, topic);
        break;
    default:
        snprintf(partition->error, sizeof(partition->error), "%.380s%s", rd_kafka_message_errstr(message),
                 what_to_do != NULL ? what_to_do : "");
        kafka_redact(kafka->config, partition->error);
        break;
    }
    partition->failed |= what_to_do != NULL;
}

/* True: *ret is to be given out. The message is kept or destroyed. */
static bool take(struct kafka *kafka, struct kafka_partition *partition, rd_kafka_message_t *message,
                 struct dn_message *ret)
{
    if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        kafka_message(message, kafka->config->message_bytes, ret);
        partition->held[partition->held_count++] = message;
        partition->at_end = false;
    } else if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        *ret = (struct dn_message){.offset = message->offset, .next_offset = message->offset, .end = true};
        partition->at_end = true;
        rd_kafka_message_destroy(message);
    } else {
        failed(kafka, partition, message);
        rd_kafka_message_destroy(message);
        return false;
    }
    partition->position = ret->next_offset;
    partition->refusals = 0;
    partition->failed = false;
    partition->error[0] = '\0';
    return true;
}

/* Takes what librdkafka gave; at an offset that is not there everything after is of no use. */
static size_t take_all(struct kafka *kafka, struct kafka_partition *partition, rd_kafka_message_t **from,
                       size_t count, struct dn_message *ret)
{
    size_t taken = 0;
    for (size_t i = 0; i < count; i++) {
        if (from[i]->err != RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
            taken += take(kafka, partition, from[i], &ret[taken]);
            continue;
        }
        int64_t about = from[i]->offset;
        for (; i < count; i++) {
            rd_kafka_message_destroy(from[i]);
        }
        refused(kafka, partition, about);
    }
    return taken;
}

static size_t waiting_bytes(const struct dn_message *messages, size_t count, size_t waiting)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bytes += messages[i].length;
    }
    return count > 0 ? bytes / count * waiting : 0;
}

/* Fetching stops for up to a second once the queue is full; when there is room again, see ask_offsets().
 * How many bytes wait is not told: as many a message as in those just read. */
static void watch_filling(struct kafka *kafka, struct kafka_partition *partition,
                          const struct dn_message *got, size_t count)
{
    size_t waiting = rd_kafka_queue_length(partition->queue);
    size_t bytes = waiting_bytes(got, count, waiting);
    if (waiting > KAFKA_QUEUE_MESSAGES / 4 * 3 || bytes > (size_t)KAFKA_QUEUE_KBYTES * 1024 / 4 * 3) {
        partition->filled = true;
    } else if (partition->filled && waiting < KAFKA_QUEUE_MESSAGES / 8 * 5 &&
               bytes < (size_t)KAFKA_QUEUE_KBYTES * 1024 / 8 * 5) {
        partition->filled = false;
        want_offsets(kafka, partition);
    }
}

static void keep_house(struct kafka *kafka, struct kafka_partition *partition, uint64_t now_us)
{
    if (partition->queue && now_us - partition->read_us > KAFKA_PARK_MS * 1000u &&
        rd_kafka_queue_length(partition->queue) > 0) {
        fetch_no_more(kafka, partition);
        partition->parked = true;
    }
    if (partition->gap) {
        want_offsets(kafka, partition); /* what there is may change while a person decides */
    }
}

static void keep_all_house(struct kafka *kafka)
{
    uint64_t now_us = dn_monotonic_us();
    if (now_us - kafka->housekept_us < HOUSEKEEPING_US) {
        return;
    }
    kafka->housekept_us = now_us;
    for (size_t i = 0; i < kafka->topic_count; i++) {
        for (uint32_t p = 0; p < DN_SOURCE_PARTITIONS_MAX; p++) {
            if (kafka->topics[i]->partitions[p]) {
                keep_house(kafka, kafka->topics[i]->partitions[p], now_us);
            }
        }
    }
}

size_t kafka_read(void *self, size_t stream, uint32_t number, struct dn_message *ret, size_t max)
{
    struct kafka *kafka = self;
    struct kafka_partition *partition = partition_of(kafka, stream, number);
    if (!partition || !partition->started || partition->gap) {
        return 0;
    }
    DN_ASSERT(partition->held_count == 0);
    partition->read_us = dn_monotonic_us();
    keep_all_house(kafka);
    if (partition->parked) {
        struct dn_error err;
        if (fetch_from(kafka, partition, &err) != DN_OK) {
            partition->failed = true;
            snprintf(partition->error, sizeof(partition->error), "%s", err.message);
            return 0;
        }
    }
    if (!partition->queue) {
        return 0;
    }
    rd_kafka_message_t *got[KAFKA_READ_MAX];
    ssize_t count =
        rd_kafka_consume_batch_queue(partition->queue, 0, got, max < KAFKA_READ_MAX ? max : KAFKA_READ_MAX);
    if (count <= 0) {
        return 0;
    }
    size_t taken = take_all(kafka, partition, got, (size_t)count, ret);
    if (partition->queue) {
        watch_filling(kafka, partition, ret, taken);
    }
    return taken;
}

void kafka_release(void *self, size_t stream, uint32_t number)
{
    struct kafka_partition *partition = partition_of(self, stream, number);
    for (size_t i = 0; partition && i < partition->held_count; i++) {
        rd_kafka_message_destroy(partition->held[i]);
    }
    if (partition) {
        partition->held_count = 0;
    }
}

/* ---- what is known ---- */

static void gap_text(const struct kafka *kafka, const struct kafka_partition *partition,
                     struct dn_partition_status *status)
{
    const char *what = "the broker no longer has it, or not yet";
    if (status->begin_offset >= 0 && partition->position < status->begin_offset) {
        what = "messages were deleted before they were read";
    } else if (status->end_offset >= 0 && partition->position > status->end_offset) {
        what = "the topic is shorter: it was deleted and made again, or lost its end";
    }
    char there[64] = "";
    if (status->end_offset >= 0) {
        snprintf(there, sizeof(there), " (it has %lld to %lld)", (long long)status->begin_offset,
                 (long long)status->end_offset);
    }
    snprintf(status->error, sizeof(status->error),
             "offset %lld of %.255s/%u is not there%s: %s; see dunlin source skip and reset",
             (long long)partition->position, kafka->topics[partition->topic]->name, partition->number, there,
             what);
}

static enum dn_partition_state state_of(const struct kafka_partition *partition, int64_t heard_ms)
{
    if (!partition->started) {
        return DN_PARTITION_IDLE;
    }
    if (partition->gap) {
        return DN_PARTITION_GAP;
    }
    if (partition->failed) {
        return DN_PARTITION_FAILED;
    }
    /* What waits here can be read, whether a broker is there or not. */
    if (partition->parked || (partition->queue && rd_kafka_queue_length(partition->queue) > 0)) {
        return DN_PARTITION_READING;
    }
    if (dn_wall_ms() - heard_ms > KAFKA_HEARD_LIMIT_MS) {
        return DN_PARTITION_CONNECTING;
    }
    return partition->at_end ? DN_PARTITION_AT_END : DN_PARTITION_READING;
}

void kafka_status(void *self, size_t stream, uint32_t number, struct dn_partition_status *ret)
{
    struct kafka *kafka = self;
    const struct kafka_partition *partition = partition_of(kafka, stream, number);
    *ret = (struct dn_partition_status){.state = DN_PARTITION_IDLE, .begin_offset = -1, .end_offset = -1};
    keep_all_house(kafka);
    if (!partition) {
        return;
    }
    int64_t begin, end;
    if (!partition->gap &&
        rd_kafka_get_watermark_offsets(kafka->rk, kafka->topics[stream]->name, (int32_t)number, &begin,
                                       &end) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        ret->begin_offset = begin >= 0 ? begin : -1;
        ret->end_offset = end >= 0 ? end : -1;
    }
    pthread_mutex_lock(&kafka->lock);
    ret->heard_ms = kafka_heard(kafka, partition->leader);
    if (ret->begin_offset < 0) {
        ret->begin_offset = partition->begin;
    }
    if (ret->end_offset < 0) {
        ret->end_offset = partition->end;
    }
    pthread_mutex_unlock(&kafka->lock);
    ret->state = state_of(partition, ret->heard_ms);
    memcpy(ret->error, partition->error, sizeof(ret->error));
    if (partition->gap) {
        gap_text(kafka, partition, ret);
    }
}

void kafka_mirror(void *self, size_t stream, uint32_t number, int64_t next_offset)
{
    struct kafka *kafka = self;
    struct kafka_partition *partition = partition_of(kafka, stream, number);
    if (partition && kafka->config->group_id[0] && next_offset >= 0) {
        pthread_mutex_lock(&kafka->lock);
        partition->mirror = next_offset;
        pthread_mutex_unlock(&kafka->lock);
    }
}
