#include "chaos/workload_kafka.h"

#include "base/clock.h"
#include "base/hash.h"

#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_HEADER "n" /* of a message: its place in `list`, so that it is known again */
#define METADATA_MS 1000
#define FULL_MS 100 /* how long a full queue is waited for, again and again */
#define FLUSH_MS (3 * WORKLOAD_KAFKA_PATIENCE_MS)
#define PURGE_MS 2000
#define READ_BACK_MS 60000
#define READ_MS 500

struct message {
    uint64_t user;
    struct chaos_event event; /* offset: -1 while it is not known */
    uint32_t partition;
    bool confirmed, given_up, noted, found; /* noted: the history has its :ok; found: read back */
    uint64_t sent_us;
};

struct workload_kafka {
    struct chaos_topic *topic;
    struct chaos_history *history;
    const char *stream;
    rd_kafka_t *producer;
    unsigned partitions; /* that the producer knows of */
    struct message *list;
    size_t count, capacity;
    size_t oldest; /* all before it are confirmed or given up */
    struct workload_kafka_counts counts;
};

/* ---- the history ------------------------------------------------------------------------------------ */

static void note(struct workload_kafka *kafka, enum chaos_type type, struct message *message)
{
    char partition[64];
    snprintf(partition, sizeof partition, "%s/%" PRIu32, kafka->stream, message->partition);
    struct chaos_op op = {
        .type = type,
        .f = CHAOS_INGEST,
        .process = CHAOS_NEMESIS,
        .key = message->user,
        .name = partition,
        .events = &message->event,
        .events_count = 1,
    };
    chaos_history_append(kafka->history, &op);
    message->noted = message->noted || type == CHAOS_OK;
}

/* A producer that had to ask again is told that the broker has it, and not where. */
static void on_delivery(rd_kafka_t *producer, const rd_kafka_message_t *report, void *opaque)
{
    struct workload_kafka *kafka = opaque;
    struct message *message = &kafka->list[(uintptr_t)report->_private];
    (void)producer;
    if (report->err) {
        message->given_up = true;
        kafka->counts.given_up++;
        return;
    }
    message->confirmed = true;
    kafka->counts.confirmed++;
    if (report->offset >= 0 && report->offset <= INT32_MAX) {
        message->event.offset = (int32_t)report->offset;
        note(kafka, CHAOS_OK, message);
    }
}

/* ---- clients ---------------------------------------------------------------------------------------- */

struct setting {
    const char *name, *value;
};

/* `settings` ends with a NULL name. */
static rd_kafka_t *open_client(struct workload_kafka *kafka, rd_kafka_type_t type,
                               const struct setting *settings, struct dn_error *err)
{
    char why[256] = "";
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    bool good = rd_kafka_conf_set(conf, "bootstrap.servers", kafka->topic->brokers, why, sizeof why) ==
                RD_KAFKA_CONF_OK;
    for (; good && settings->name; settings++)
        good = rd_kafka_conf_set(conf, settings->name, settings->value, why, sizeof why) == RD_KAFKA_CONF_OK;
    if (type == RD_KAFKA_PRODUCER)
        rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_opaque(conf, kafka);
    rd_kafka_t *rk = good ? rd_kafka_new(type, conf, why, sizeof why) : NULL;
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        dn_fail(err, DN_INTERNAL, "a Kafka client: %s", why);
    }
    return rk;
}

static enum dn_code open_producer(struct workload_kafka *kafka, struct dn_error *err)
{
    static const struct setting settings[] = {{"log_level", "0"},
                                              {"enable.idempotence", "true"},
                                              {"linger.ms", "2"},
                                              {"message.timeout.ms", "0"}, /* never: see the header */
                                              {"reconnect.backoff.max.ms", "500"},
                                              {NULL, NULL}};
    kafka->producer = open_client(kafka, RD_KAFKA_PRODUCER, settings, err);
    return kafka->producer ? DN_OK : DN_INTERNAL;
}

enum dn_code workload_kafka_open(struct chaos_topic *topic, struct chaos_history *history, const char *stream,
                                 struct workload_kafka **ret, struct dn_error *err)
{
    struct workload_kafka *kafka = calloc(1, sizeof *kafka);
    if (!kafka)
        return dn_fail(err, DN_NO_MEMORY, "the stream's producer");
    *kafka = (struct workload_kafka){
        .topic = topic, .history = history, .stream = stream, .partitions = atomic_load(&topic->partitions)};
    enum dn_code code = open_producer(kafka, err);
    if (code != DN_OK) {
        workload_kafka_close(kafka);
        return code;
    }
    *ret = kafka;
    return DN_OK;
}

/* What waits is given up, in the queue and on its way. */
static void close_producer(struct workload_kafka *kafka)
{
    if (kafka->producer) {
        (void)rd_kafka_purge(kafka->producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
        (void)rd_kafka_flush(kafka->producer, PURGE_MS); /* its reports */
        rd_kafka_destroy(kafka->producer);
    }
    kafka->producer = NULL;
}

void workload_kafka_close(struct workload_kafka *kafka)
{
    if (!kafka)
        return;
    close_producer(kafka);
    free(kafka->list);
    free(kafka);
}

/* ---- producing -------------------------------------------------------------------------------------- */

/* The topic may have grown. A partition is used from when the producer knows it. */
static void look_for_partitions(struct workload_kafka *kafka)
{
    const struct rd_kafka_metadata *about;
    unsigned wanted = atomic_load(&kafka->topic->partitions);
    if (wanted == kafka->partitions)
        return;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(kafka->producer, kafka->topic->name, NULL);
    if (topic &&
        rd_kafka_metadata(kafka->producer, 0, topic, &about, METADATA_MS) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        if (about->topic_cnt == 1 && about->topics[0].partition_cnt >= (int)wanted)
            kafka->partitions = wanted;
        rd_kafka_metadata_destroy(about);
    }
    if (topic)
        rd_kafka_topic_destroy(topic);
}

static enum dn_code has_room(struct workload_kafka *kafka, struct dn_error *err)
{
    if (kafka->count < kafka->capacity)
        return DN_OK;
    size_t capacity = kafka->capacity > 0 ? 2 * kafka->capacity : 4096;
    struct message *list = realloc(kafka->list, capacity * sizeof *list);
    if (!list)
        return dn_fail(err, DN_NO_MEMORY, "the stream's %zu messages", kafka->count);
    kafka->list = list;
    kafka->capacity = capacity;
    return DN_OK;
}

static rd_kafka_resp_err_t produce(struct workload_kafka *kafka, const char *key, const char *text,
                                   uint64_t number)
{
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
    const rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = kafka->topic->name},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = (int32_t)kafka->list[number].partition},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {.ptr = (void *)key, .size = strlen(key)}},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {.ptr = (void *)text, .size = strlen(text)}},
        {.vtype = RD_KAFKA_VTYPE_HEADER,
         .u.header = {.name = NUMBER_HEADER, .val = &number, .size = sizeof number}},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = (void *)(uintptr_t)number},
    };
    rd_kafka_error_t *why = rd_kafka_produceva(kafka->producer, parts, sizeof parts / sizeof *parts);
    if (why) {
        code = rd_kafka_error_code(why);
        rd_kafka_error_destroy(why);
    }
    return code;
}

/* Whether the oldest that waits has waited for too long. */
static bool is_stuck(struct workload_kafka *kafka)
{
    while (kafka->oldest < kafka->count &&
           (kafka->list[kafka->oldest].confirmed || kafka->list[kafka->oldest].given_up))
        kafka->oldest++;
    return kafka->oldest < kafka->count && dn_monotonic_us() - kafka->list[kafka->oldest].sent_us >
                                               WORKLOAD_KAFKA_PATIENCE_MS * UINT64_C(1000);
}

enum dn_code workload_kafka_put(struct workload_kafka *kafka, const char *key, uint64_t user,
                                const struct chaos_event *event, const char *text, struct dn_error *err)
{
    char why[256];
    enum dn_code code = has_room(kafka, err);
    if (code == DN_OK && is_stuck(kafka)) {
        close_producer(kafka);
        code = open_producer(kafka, err);
    }
    if (code != DN_OK)
        return code;
    look_for_partitions(kafka);
    size_t number = kafka->count++;
    struct message *message = &kafka->list[number];
    *message = (struct message){.user = user,
                                .sent_us = dn_monotonic_us(),
                                .event = *event,
                                .partition = dn_murmur2(key, strlen(key)) % kafka->partitions};
    message->event.offset = -1;
    note(kafka, CHAOS_INFO, message);
    kafka->counts.produced++;
    rd_kafka_resp_err_t sent;
    while ((sent = produce(kafka, key, text, number)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        rd_kafka_poll(kafka->producer, FULL_MS);
    rd_kafka_poll(kafka->producer, 0);
    if (sent != RD_KAFKA_RESP_ERR_NO_ERROR)
        return dn_fail(err, DN_UNAVAILABLE, "the stream's producer: %s", rd_kafka_err2str(sent));
    if (rd_kafka_fatal_error(kafka->producer, why, sizeof why) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return dn_fail(err, DN_UNAVAILABLE, "the stream's producer is broken: %s", why);
    return DN_OK;
}

/* ---- reading back ----------------------------------------------------------------------------------- */

struct reading {
    struct workload_kafka *kafka;
    rd_kafka_t *consumer;
    int64_t *ends;
    unsigned left; /* partitions that are not read to their end */
    uint64_t until_us;
};

static enum dn_code find_ends(struct reading *reading, struct dn_error *err)
{
    const struct chaos_topic *topic = reading->kafka->topic;
    for (unsigned p = 0; p < reading->kafka->partitions; p++) {
        int64_t begin = 0, end = 0;
        rd_kafka_resp_err_t code;
        do {
            code = rd_kafka_query_watermark_offsets(reading->consumer, topic->name, (int32_t)p, &begin, &end,
                                                    METADATA_MS);
        } while (code != RD_KAFKA_RESP_ERR_NO_ERROR && dn_monotonic_us() < reading->until_us);
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
            return dn_fail(err, DN_UNAVAILABLE, "the end of partition %u: %s", p, rd_kafka_err2str(code));
        if (begin != 0)
            return dn_fail(err, DN_CORRUPT,
                           "partition %u begins at %" PRId64 ": the broker threw messages away", p, begin);
        reading->ends[p] = end;
        reading->left += end > 0;
    }
    return DN_OK;
}

static enum dn_code assign(struct reading *reading, struct dn_error *err)
{
    const struct workload_kafka *kafka = reading->kafka;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)kafka->partitions);
    for (unsigned p = 0; p < kafka->partitions; p++)
        if (reading->ends[p] > 0)
            rd_kafka_topic_partition_list_add(list, kafka->topic->name, (int32_t)p)->offset = 0;
    rd_kafka_resp_err_t code = rd_kafka_assign(reading->consumer, list);
    rd_kafka_topic_partition_list_destroy(list);
    return code == RD_KAFKA_RESP_ERR_NO_ERROR
               ? DN_OK
               : dn_fail(err, DN_INTERNAL, "read the topic back: %s", rd_kafka_err2str(code));
}

/* The message of ours that this is; NULL: none. */
static struct message *known_again(struct workload_kafka *kafka, const rd_kafka_message_t *got)
{
    rd_kafka_headers_t *headers = NULL;
    const void *value = NULL;
    size_t size = 0;
    uint64_t number;
    if (rd_kafka_message_headers(got, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR ||
        rd_kafka_header_get_last(headers, NUMBER_HEADER, &value, &size) != RD_KAFKA_RESP_ERR_NO_ERROR ||
        size != sizeof number)
        return NULL;
    memcpy(&number, value, sizeof number);
    return number < kafka->count ? &kafka->list[number] : NULL;
}

static enum dn_code take(struct reading *reading, const rd_kafka_message_t *got, struct dn_error *err)
{
    struct workload_kafka *kafka = reading->kafka;
    struct message *message = known_again(kafka, got);
    if (got->partition < 0 || got->partition >= (int32_t)kafka->partitions || got->offset > INT32_MAX ||
        !message || message->partition != (uint32_t)got->partition)
        return dn_fail(err, DN_CORRUPT,
                       "the broker has a message at %" PRId32 "/%" PRId64 " that nobody sent there",
                       got->partition, got->offset);
    if (message->found || (message->event.offset >= 0 && message->event.offset != got->offset))
        return dn_fail(err, DN_CORRUPT,
                       "the broker has a message of partition %" PRId32 " at %" PRId64
                       ", and had it at %" PRId32,
                       got->partition, got->offset, message->event.offset);
    message->found = true;
    message->event.offset = (int32_t)got->offset;
    kafka->counts.found += !message->confirmed;
    if (!message->noted)
        note(kafka, CHAOS_OK, message);
    reading->left -= got->offset + 1 == reading->ends[got->partition];
    return DN_OK;
}

static enum dn_code read_all(struct reading *reading, struct dn_error *err)
{
    enum dn_code code = find_ends(reading, err);
    if (code == DN_OK)
        code = assign(reading, err);
    while (code == DN_OK && reading->left > 0) {
        rd_kafka_message_t *got = rd_kafka_consumer_poll(reading->consumer, READ_MS);
        if (got && !got->err && got->offset < reading->ends[got->partition])
            code = take(reading, got, err);
        if (got)
            rd_kafka_message_destroy(got);
        if (code == DN_OK && reading->left > 0 && dn_monotonic_us() > reading->until_us)
            code = dn_fail(err, DN_DEADLINE, "the topic could not be read back within %d s",
                           READ_BACK_MS / 1000);
    }
    return code;
}

static enum dn_code settle(struct workload_kafka *kafka, struct dn_error *err)
{
    size_t lost = 0;
    const struct message *first = NULL;
    for (size_t i = 0; i < kafka->count; i++) {
        struct message *message = &kafka->list[i];
        if (message->confirmed && !message->found) {
            first = lost++ == 0 ? message : first;
        } else if (!message->found) {
            note(kafka, CHAOS_FAIL, message);
        }
    }
    return lost == 0
               ? DN_OK
               : dn_fail(err, DN_CORRUPT,
                         "the broker lost %zu messages that it had confirmed; the first: number %" PRIu64
                         " for partition %" PRIu32 ", offset %" PRId32 " (-1: it did not say)",
                         lost, first->event.id, first->partition, first->event.offset);
}

enum dn_code workload_kafka_finish(struct workload_kafka *kafka, int64_t *ret_ends, unsigned *ret_partitions,
                                   struct dn_error *err)
{
    static const struct setting settings[] = {
        {"log_level", "0"}, {"group.id", "chaos-read-back"}, {"enable.auto.commit", "false"}, {NULL, NULL}};
    (void)rd_kafka_flush(kafka->producer, FLUSH_MS); /* what became of the rest is seen by reading */
    close_producer(kafka);
    struct reading reading = {
        .kafka = kafka, .ends = ret_ends, .until_us = dn_monotonic_us() + READ_BACK_MS * UINT64_C(1000)};
    reading.consumer = open_client(kafka, RD_KAFKA_CONSUMER, settings, err);
    if (!reading.consumer)
        return DN_INTERNAL;
    enum dn_code code = read_all(&reading, err);
    if (code == DN_OK)
        code = settle(kafka, err);
    *ret_partitions = kafka->partitions;
    rd_kafka_consumer_close(reading.consumer);
    rd_kafka_destroy(reading.consumer);
    return code;
}

void workload_kafka_count(const struct workload_kafka *kafka, struct workload_kafka_counts *ret)
{
    *ret = kafka->counts;
}
