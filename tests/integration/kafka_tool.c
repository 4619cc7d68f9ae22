/* What tests do to a Kafka broker, on librdkafka: topics, records, transactions, offsets. Starting Java for
 * each of it would take seconds. Usage: see usage(). Exit codes: 0 done, 1 failed (the message says what), 2
 * usage. */
#include "base/clock.h"
#include "base/hash.h"
#include "base/metrics.h"
#include "base/text.h"

#include <librdkafka/rdkafka.h>

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAIT_MS 15000
#define TEXT_MAX 512
#define PARTITIONS_MAX 1024
#define VALUE_MAX (32 * 1024 * 1024)

static void usage(void)
{
    fputs(
        "Usage: kafka_tool BROKERS [-X PROPERTY=VALUE]... COMMAND\n"
        "  create TOPIC PARTITIONS [NAME=VALUE]...     the topic's settings: cleanup.policy=compact, ...; "
        "replicas=N\n"
        "  delete TOPIC                                returns once it is gone from the metadata\n"
        "  grow TOPIC PARTITIONS\n"
        "  delete-records TOPIC PARTITION BEFORE       as retention does: what is below offset BEFORE\n"
        "  ends TOPIC                                  a line for each partition: number, begin, end\n"
        "  leaders TOPIC                               a line for each partition: number, leader, those in "
        "sync\n"
        "  dump TOPIC                                  a line for each message: its value, in hexadecimal "
        "digits; \\0: none\n"
        "  committed GROUP TOPIC                       a line for each partition: number, offset (-1: none)\n"
        "  produce TOPIC COUNT [OPTION]...             click events as JSON, keyed by user as Java's "
        "producer does;\n"
        "                                              prints: acknowledged, committed, aborted, "
        "microseconds in all,\n"
        "                                              p50 and p99 of the microseconds until a record is "
        "acknowledged\n"
        "    --rate N           a second (default: as fast as it goes)\n"
        "    --size BYTES       of a value, at least (default: 0)\n"
        "    --users N          user ids user-0 to user-N-1, in turn (default: 1000)\n"
        "    --first N          the number of the first event: its item is item-N (default: 0)\n"
        "    --time MS          of the first event, each later one a millisecond more (default: now); 0: "
        "each event's is\n"
        "                       when it is produced\n"
        "    --scatter 1        users and items not in turn, but scattered as if drawn\n"
        "    --items N          item ids item-0 to item-N-1, in turn (default: each event's its own)\n"
        "    --partition P      there, whatever the key\n"
        "    --key TEXT         the key of all (for compaction)\n"
        "    --transaction ID   in transactions under this id\n"
        "    --every N          records in a transaction (default: 100)\n"
        "    --abort-every M    each M-th transaction is aborted; its items are called aborted-N (default: "
        "none)\n"
        "  produce-lines TOPIC [--partition P]         each line of standard input: KEY TAB VALUE; no TAB: "
        "no key;\n"
        "                                              a value of \\0: none (a tombstone)\n"
        "  produce-hex TOPIC [--partition P]           the same with values in hexadecimal digits\n",
        stderr);
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "kafka_tool: %s: %s\n", what, why);
    return 1;
}

/* ---- clients ---- */

struct tool {
    const char *brokers;
    const char *properties[32]; /* NAME=VALUE */
    size_t property_count;
};

static bool set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char text[TEXT_MAX];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK) {
        return true;
    }
    fail(name, text);
    return false;
}

static bool set_pair(rd_kafka_conf_t *conf, const char *pair)
{
    char name[TEXT_MAX];
    const char *equals = strchr(pair, '=');
    if (!equals || (size_t)(equals - pair) >= sizeof(name)) {
        fail(pair, "not NAME=VALUE");
        return false;
    }
    snprintf(name, sizeof(name), "%.*s", (int)(equals - pair), pair);
    return set(conf, name, equals + 1);
}

static rd_kafka_conf_t *make_conf(const struct tool *tool)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    bool good = set(conf, "bootstrap.servers", tool->brokers) && set(conf, "log_level", "3") &&
                set(conf, "allow.auto.create.topics", "false") &&
                /* Else it is back only 10 s after its broker, and a test takes that for our own delay. */
                set(conf, "reconnect.backoff.max.ms", "500");
    for (size_t i = 0; good && i < tool->property_count; i++) {
        good = set_pair(conf, tool->properties[i]);
    }
    if (!good) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    return conf;
}

static rd_kafka_t *make_client(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
    char text[TEXT_MAX];
    rd_kafka_t *rk = conf ? rd_kafka_new(type, conf, text, sizeof(text)) : NULL;
    if (conf && !rk) {
        fail("client", text);
        rd_kafka_conf_destroy(conf);
    }
    return rk;
}

/* ---- topics ---- */

/* Waits for one admin result; true: it and each of its topics went well. */
static bool admin_done(rd_kafka_queue_t *queue, const char *what)
{
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, WAIT_MS);
    const rd_kafka_topic_result_t **results = NULL;
    size_t count = 0;
    const char *why = event ? NULL : "no answer";
    if (event && rd_kafka_event_error(event)) {
        why = rd_kafka_event_error_string(event);
    }
    if (event && rd_kafka_event_CreateTopics_result(event)) {
        results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count);
    } else if (event && rd_kafka_event_DeleteTopics_result(event)) {
        results = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &count);
    } else if (event && rd_kafka_event_CreatePartitions_result(event)) {
        results =
            rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), &count);
    }
    for (size_t i = 0; !why && i < count; i++) {
        if (rd_kafka_topic_result_error(results[i])) {
            why = rd_kafka_topic_result_error_string(results[i]);
            why = why ? why : rd_kafka_err2str(rd_kafka_topic_result_error(results[i]));
        }
    }
    if (why) {
        fail(what, why);
    }
    if (event) {
        rd_kafka_event_destroy(event);
    }
    return !why;
}

/* How many partitions the brokers say it has; 0: it is not there; -1: no answer. */
static int partitions_now(rd_kafka_t *rk, const char *topic)
{
    const struct rd_kafka_metadata *metadata;
    if (rd_kafka_metadata(rk, 1, NULL, &metadata, WAIT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return -1;
    }
    int count = 0;
    for (int i = 0; i < metadata->topic_cnt; i++) {
        if (strcmp(metadata->topics[i].topic, topic) == 0 && !metadata->topics[i].err) {
            count = metadata->topics[i].partition_cnt;
        }
    }
    rd_kafka_metadata_destroy(metadata);
    return count;
}

/* Metadata follow an admin answer a moment later. */
static int wait_partitions(rd_kafka_t *rk, const char *topic, int wanted)
{
    for (int waited_ms = 0; waited_ms < WAIT_MS; waited_ms += 50) {
        if (partitions_now(rk, topic) == wanted) {
            return 0;
        }
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    return fail(topic, "the brokers' metadata do not follow");
}

static int create(rd_kafka_t *rk, int count, char **words)
{
    int64_t partitions;
    if (count < 2 || !dn_parse_i64(words[1], 1, PARTITIONS_MAX, &partitions)) {
        usage();
        return 2;
    }
    char text[TEXT_MAX];
    int64_t replicas = 1;
    for (int i = 2; i < count; i++) {
        if (strncmp(words[i], "replicas=", 9) == 0 && !dn_parse_i64(words[i] + 9, 1, 9, &replicas)) {
            return fail(words[i], "1 to 9 are possible");
        }
    }
    rd_kafka_NewTopic_t *topic =
        rd_kafka_NewTopic_new(words[0], (int)partitions, (int)replicas, text, sizeof(text));
    if (!topic) {
        return fail(words[0], text);
    }
    for (int i = 2; i < count; i++) {
        char *equals = strchr(words[i], '=');
        if (!equals) {
            rd_kafka_NewTopic_destroy(topic);
            return fail(words[i], "not NAME=VALUE");
        }
        if (strncmp(words[i], "replicas=", 9) != 0) {
            *equals = '\0';
            rd_kafka_NewTopic_set_config(topic, words[i], equals + 1);
        }
    }
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_CreateTopics(rk, &topic, 1, NULL, queue);
    bool good = admin_done(queue, words[0]);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewTopic_destroy(topic);
    return good ? wait_partitions(rk, words[0], (int)partitions) : 1;
}

static int delete_topic(rd_kafka_t *rk, int count, char **words)
{
    (void)count;
    rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(words[0]);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_DeleteTopics(rk, &topic, 1, NULL, queue);
    bool good = admin_done(queue, words[0]);
    rd_kafka_queue_destroy(queue);
    rd_kafka_DeleteTopic_destroy(topic);
    return good ? wait_partitions(rk, words[0], 0) : 1;
}

static int grow(rd_kafka_t *rk, int count, char **words)
{
    int64_t partitions;
    if (count != 2 || !dn_parse_i64(words[1], 1, PARTITIONS_MAX, &partitions)) {
        usage();
        return 2;
    }
    char text[TEXT_MAX];
    rd_kafka_NewPartitions_t *to =
        rd_kafka_NewPartitions_new(words[0], (size_t)partitions, text, sizeof(text));
    if (!to) {
        return fail(words[0], text);
    }
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_CreatePartitions(rk, &to, 1, NULL, queue);
    bool good = admin_done(queue, words[0]);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewPartitions_destroy(to);
    return good ? wait_partitions(rk, words[0], (int)partitions) : 1;
}

static int delete_records(rd_kafka_t *rk, int count, char **words)
{
    int64_t partition, before;
    if (count != 3 || !dn_parse_i64(words[1], 0, PARTITIONS_MAX, &partition) ||
        !dn_parse_i64(words[2], 0, INT64_MAX, &before)) {
        usage();
        return 2;
    }
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, words[0], (int32_t)partition)->offset = before;
    rd_kafka_DeleteRecords_t *request = rd_kafka_DeleteRecords_new(list);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_DeleteRecords(rk, &request, 1, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, WAIT_MS);
    const char *why = event ? NULL : "no answer";
    if (event && rd_kafka_event_error(event)) {
        why = rd_kafka_event_error_string(event);
    } else if (event) {
        const rd_kafka_topic_partition_list_t *offsets =
            rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event));
        if (offsets->elems[0].err) {
            why = rd_kafka_err2str(offsets->elems[0].err);
        }
    }
    int code = why ? fail(words[0], why) : 0;
    if (event) {
        rd_kafka_event_destroy(event);
    }
    rd_kafka_queue_destroy(queue);
    rd_kafka_DeleteRecords_destroy(request);
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

static int ends(rd_kafka_t *rk, int count, char **words)
{
    (void)count;
    int partitions = partitions_now(rk, words[0]);
    if (partitions <= 0) {
        return fail(words[0], partitions == 0 ? "no such topic" : "no answer");
    }
    for (int p = 0; p < partitions; p++) {
        int64_t begin, end;
        rd_kafka_resp_err_t error = rd_kafka_query_watermark_offsets(rk, words[0], p, &begin, &end, WAIT_MS);
        if (error) {
            return fail(words[0], rd_kafka_err2str(error));
        }
        printf("%d %" PRId64 " %" PRId64 "\n", p, begin, end);
    }
    return 0;
}

static void print_leader(const struct rd_kafka_metadata_partition *partition)
{
    printf("%d %d", partition->id, partition->leader);
    for (int i = 0; i < partition->isr_cnt; i++) {
        printf(" %d", partition->isrs[i]);
    }
    puts("");
}

static int leaders(rd_kafka_t *rk, int count, char **words)
{
    (void)count;
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t error = rd_kafka_metadata(rk, 1, NULL, &metadata, WAIT_MS);
    if (error) {
        return fail(words[0], rd_kafka_err2str(error));
    }
    bool found = false;
    for (int i = 0; i < metadata->topic_cnt; i++) {
        if (strcmp(metadata->topics[i].topic, words[0]) != 0) {
            continue;
        }
        found = true;
        for (int p = 0; p < metadata->topics[i].partition_cnt; p++) {
            print_leader(&metadata->topics[i].partitions[p]);
        }
    }
    rd_kafka_metadata_destroy(metadata);
    return found ? 0 : fail(words[0], "no such topic");
}

static void print_hex(const rd_kafka_message_t *message)
{
    const unsigned char *value = message->payload;
    if (!value) {
        puts("\\0");
        return;
    }
    for (size_t i = 0; i < message->len; i++) {
        printf("%02x", value[i]);
    }
    puts("");
}

/* From the beginning of a partition to where it ends just now. */
static int dump_partition(rd_kafka_t *rk, rd_kafka_topic_t *topic, int32_t partition)
{
    if (rd_kafka_consume_start(topic, partition, RD_KAFKA_OFFSET_BEGINNING) != 0) {
        return fail("dump", rd_kafka_err2str(rd_kafka_last_error()));
    }
    const char *why = NULL;
    for (bool end = false; !end && !why;) {
        rd_kafka_message_t *message = rd_kafka_consume(topic, partition, WAIT_MS);
        if (!message) {
            why = "no answer";
        } else if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            end = true;
        } else if (message->err) {
            why = rd_kafka_err2str(message->err);
        } else {
            print_hex(message);
        }
        if (message) {
            rd_kafka_message_destroy(message);
        }
        rd_kafka_poll(rk, 0);
    }
    rd_kafka_consume_stop(topic, partition);
    return why ? fail("dump", why) : 0;
}

static int dump(const struct tool *tool, int count, char **words)
{
    rd_kafka_conf_t *conf = count == 1 ? make_conf(tool) : NULL;
    if (!conf || !set(conf, "enable.partition.eof", "true")) {
        usage();
        return 2;
    }
    rd_kafka_t *rk = make_client(RD_KAFKA_CONSUMER, conf);
    if (!rk) {
        return 1;
    }
    int partitions = partitions_now(rk, words[0]);
    int code = partitions > 0 ? 0 : fail(words[0], partitions == 0 ? "no such topic" : "no answer");
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, words[0], NULL);
    for (int32_t p = 0; code == 0 && p < partitions; p++) {
        code = dump_partition(rk, topic, p);
    }
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
    return code;
}

static int committed(const struct tool *tool, int count, char **words)
{
    rd_kafka_conf_t *conf = count == 2 ? make_conf(tool) : NULL;
    if (!conf || !set(conf, "group.id", words[0])) {
        usage();
        return 2;
    }
    rd_kafka_t *rk = make_client(RD_KAFKA_CONSUMER, conf);
    if (!rk) {
        return 1;
    }
    int partitions = partitions_now(rk, words[1]);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
    for (int p = 0; p < partitions; p++) {
        rd_kafka_topic_partition_list_add(list, words[1], p);
    }
    rd_kafka_resp_err_t error = rd_kafka_committed(rk, list, WAIT_MS);
    int code = error ? fail(words[0], rd_kafka_err2str(error)) : 0;
    for (int p = 0; code == 0 && p < list->cnt; p++) {
        printf("%d %" PRId64 "\n", p, list->elems[p].offset < 0 ? -1 : list->elems[p].offset);
    }
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy(rk);
    return code;
}

/* ---- producing ---- */

struct produce {
    const char *topic, *key, *transaction;
    int64_t count, rate, size, users, items, scatter, first, time_ms, partition, every, abort_every;
    uint64_t acknowledged, failed, committed, aborted;
    char first_error[TEXT_MAX];
    struct dn_histogram *delay; /* from the call that produced a record to the broker's answer */
};

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    struct produce *produce = opaque;
    /* What an abort takes back from the queue was never wanted. */
    if (message->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE || message->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT) {
        return;
    }
    if (message->err) {
        produce->failed++;
        snprintf(produce->first_error, sizeof(produce->first_error), "%s", rd_kafka_err2str(message->err));
    } else {
        produce->acknowledged++;
        if (produce->delay)
            dn_histogram_observe_ns(produce->delay, (uint64_t)rd_kafka_message_latency(message) * 1000);
    }
}

static rd_kafka_t *make_producer(const struct tool *tool, struct produce *produce)
{
    rd_kafka_conf_t *conf = make_conf(tool);
    if (!conf) {
        return NULL;
    }
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_opaque(conf, produce);
    bool good = set(conf, "enable.idempotence", "true") && set(conf, "linger.ms", "5") &&
                set(conf, "partitioner", "murmur2_random") && set(conf, "message.max.bytes", "20971520");
    if (good && produce->transaction) {
        good = set(conf, "transactional.id", produce->transaction);
    }
    if (!good) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    rd_kafka_t *rk = make_client(RD_KAFKA_PRODUCER, conf);
    rd_kafka_error_t *error = rk && produce->transaction ? rd_kafka_init_transactions(rk, WAIT_MS) : NULL;
    if (error) {
        fail("transactions", rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        rd_kafka_destroy(rk);
        return NULL;
    }
    return rk;
}

/* Puts a record into the queue; waits while it is full. */
static bool send_record(rd_kafka_t *rk, const struct produce *produce, const char *key, size_t key_length,
                        const char *value, size_t length)
{
    for (;;) {
        rd_kafka_resp_err_t error = rd_kafka_producev(
            rk, RD_KAFKA_V_TOPIC(produce->topic), RD_KAFKA_V_PARTITION((int32_t)produce->partition),
            RD_KAFKA_V_KEY(key, key_length), RD_KAFKA_V_VALUE((void *)(uintptr_t)value, length),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (error == RD_KAFKA_RESP_ERR_NO_ERROR) {
            rd_kafka_poll(rk, 0);
            return true;
        }
        if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            fail(produce->topic, rd_kafka_err2str(error));
            return false;
        }
        rd_kafka_poll(rk, 10);
    }
}

static bool send_event(rd_kafka_t *rk, const struct produce *produce, int64_t number, bool aborted,
                       char *value)
{
    char user[64];
    int64_t place = produce->scatter ? (int64_t)(dn_hash64(&number, sizeof(number), 0) >> 1) : number;
    int length = snprintf(user, sizeof(user), "user-%" PRId64, place % produce->users);
    const char *key = produce->key ? produce->key : user;
    size_t key_length = produce->key ? strlen(produce->key) : (size_t)length;
    int64_t item =
        produce->items > 0 ? place / (produce->scatter ? produce->users : 1) % produce->items : number;
    int64_t time_ms = produce->time_ms > 0 ? produce->time_ms + number - produce->first : dn_wall_ms();
    int bytes = snprintf(value, 512,
                         "{\"user_id\":\"%s\",\"item_id\":\"%s-%" PRId64
                         "\",\"type\":\"view\",\"time_ms\":%" PRId64 ",\"pad\":\"",
                         user, aborted ? "aborted" : "item", item, time_ms);
    while (bytes + 2 < produce->size) {
        value[bytes++] = 'x';
    }
    memcpy(value + bytes, "\"}", 2);
    return send_record(rk, produce, key, key_length, value, (size_t)bytes + 2);
}

static bool check_transaction(rd_kafka_error_t *error)
{
    if (error) {
        fail("transaction", rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
    }
    return !error;
}

static void keep_rate(rd_kafka_t *rk, const struct produce *produce, int64_t sent, uint64_t begin_us)
{
    uint64_t due_us = begin_us + (uint64_t)(sent * 1000000 / produce->rate);
    for (uint64_t now_us = dn_monotonic_us(); now_us < due_us; now_us = dn_monotonic_us()) {
        rd_kafka_poll(rk, (int)((due_us - now_us + 999) / 1000));
    }
}

static bool end_transaction(rd_kafka_t *rk, struct produce *produce, bool abort, int64_t records)
{
    *(abort ? &produce->aborted : &produce->committed) += (uint64_t)records;
    if (!abort) {
        return check_transaction(rd_kafka_commit_transaction(rk, WAIT_MS));
    }
    rd_kafka_flush(rk, WAIT_MS); /* what is aborted shall be in the log */
    return check_transaction(rd_kafka_abort_transaction(rk, WAIT_MS));
}

static bool send_all(rd_kafka_t *rk, struct produce *produce, char *value)
{
    uint64_t begin_us = dn_monotonic_us();
    for (int64_t i = 0; i < produce->count; i++) {
        int64_t transaction = i / produce->every, in_it = i % produce->every;
        bool abort =
            produce->transaction && produce->abort_every > 0 && (transaction + 1) % produce->abort_every == 0;
        if (produce->transaction && in_it == 0 && !check_transaction(rd_kafka_begin_transaction(rk))) {
            return false;
        }
        if (!send_event(rk, produce, produce->first + i, abort, value)) {
            return false;
        }
        if (produce->transaction && (in_it == produce->every - 1 || i == produce->count - 1) &&
            !end_transaction(rk, produce, abort, in_it + 1)) {
            return false;
        }
        if (produce->rate > 0) {
            keep_rate(rk, produce, i + 1, begin_us);
        }
    }
    return true;
}

static int finish(rd_kafka_t *rk, struct produce *produce, bool good)
{
    if (rd_kafka_flush(rk, 8 * WAIT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        good = fail(produce->topic, "not everything was acknowledged") == 0;
    }
    if (produce->failed > 0) {
        good = fail(produce->topic, produce->first_error) == 0;
    }
    rd_kafka_destroy(rk);
    return good ? 0 : 1;
}

static bool parse_options(struct produce *produce, int count, char **words)
{
    const struct {
        const char *name;
        int64_t *number, min;
        const char **text;
    } options[] = {
        {"--rate", &produce->rate, 1, NULL},    {"--size", &produce->size, 0, NULL},
        {"--users", &produce->users, 1, NULL},  {"--first", &produce->first, 0, NULL},
        {"--time", &produce->time_ms, 0, NULL}, {"--partition", &produce->partition, 0, NULL},
        {"--items", &produce->items, 1, NULL},  {"--scatter", &produce->scatter, 0, NULL},
        {"--key", NULL, 0, &produce->key},      {"--transaction", NULL, 0, &produce->transaction},
        {"--every", &produce->every, 1, NULL},  {"--abort-every", &produce->abort_every, 1, NULL},
    };
    for (int i = 0; i < count; i += 2) {
        size_t at = 0;
        while (at < sizeof(options) / sizeof(*options) && strcmp(options[at].name, words[i]) != 0) {
            at++;
        }
        if (at == sizeof(options) / sizeof(*options) || i + 1 == count) {
            return false;
        }
        if (options[at].text) {
            *options[at].text = words[i + 1];
        } else if (!dn_parse_i64(words[i + 1], options[at].min, INT64_MAX / 2, options[at].number)) {
            return false;
        }
    }
    return produce->size <= VALUE_MAX - 1024;
}

static int produce_events(const struct tool *tool, int count, char **words)
{
    struct produce produce = {.topic = words[0],
                              .users = 1000,
                              .time_ms = dn_wall_ms(),
                              .partition = RD_KAFKA_PARTITION_UA,
                              .every = 100};
    if (count < 2 || !dn_parse_i64(words[1], 0, INT64_MAX / 2000000, &produce.count) ||
        !parse_options(&produce, count - 2, words + 2)) {
        usage();
        return 2;
    }
    char *value = malloc((size_t)produce.size + 1024);
    produce.delay = dn_histogram_create();
    rd_kafka_t *rk = value && produce.delay ? make_producer(tool, &produce) : NULL;
    int code = 1;
    if (rk) {
        uint64_t begin_us = dn_monotonic_us();
        code = finish(rk, &produce, send_all(rk, &produce, value));
        printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
               produce.acknowledged, produce.committed, produce.aborted, dn_monotonic_us() - begin_us,
               dn_histogram_quantile_ns(produce.delay, .5) / 1000,
               dn_histogram_quantile_ns(produce.delay, .99) / 1000);
    }
    dn_histogram_destroy(produce.delay);
    free(value);
    return code;
}

/* In place; the number of bytes, -1: no hexadecimal digits, or an odd number of them. */
static ssize_t from_hex(char *text, size_t length)
{
    for (size_t i = 0; i + 1 < length; i += 2) {
        char pair[3] = {text[i], text[i + 1], 0}, *end;
        unsigned long byte = strtoul(pair, &end, 16);
        if (*end != 0 || !isxdigit((unsigned char)pair[0])) {
            return -1;
        }
        text[i / 2] = (char)byte;
    }
    return length % 2 == 0 ? (ssize_t)(length / 2) : -1;
}

static int produce_lines(const struct tool *tool, int count, char **words, bool hex)
{
    struct produce produce = {.topic = words[0], .partition = RD_KAFKA_PARTITION_UA};
    if (!parse_options(&produce, count - 1, words + 1)) {
        usage();
        return 2;
    }
    rd_kafka_t *rk = make_producer(tool, &produce);
    if (!rk) {
        return 1;
    }
    char *line = NULL;
    size_t room = 0;
    bool good = true;
    for (ssize_t length; good && (length = getline(&line, &room, stdin)) > 0;) {
        length -= line[length - 1] == '\n';
        char *tab = memchr(line, '\t', (size_t)length);
        char *value = tab ? tab + 1 : line;
        ssize_t bytes = line + length - value;
        bool none = bytes == 2 && memcmp(value, "\\0", 2) == 0;
        if (hex && !none && (bytes = from_hex(value, (size_t)bytes)) < 0) {
            good = fail(words[0], "not hexadecimal") == 0;
            break;
        }
        good = send_record(rk, &produce, tab ? line : NULL, tab ? (size_t)(tab - line) : 0,
                           none ? NULL : value, none ? 0 : (size_t)bytes);
    }
    free(line);
    return finish(rk, &produce, good);
}

/* ---- main ---- */

static const struct {
    const char *name;
    int (*run)(rd_kafka_t *rk, int count, char **words);
} commands[] = {
    {"create", create}, {"delete", delete_topic}, {"grow", grow}, {"delete-records", delete_records},
    {"ends", ends},     {"leaders", leaders},
};

static int run(const struct tool *tool, const char *name, int count, char **words)
{
    if (strcmp(name, "produce") == 0) {
        return produce_events(tool, count, words);
    }
    if (strcmp(name, "produce-lines") == 0 || strcmp(name, "produce-hex") == 0) {
        return produce_lines(tool, count, words, strcmp(name, "produce-hex") == 0);
    }
    if (strcmp(name, "dump") == 0) {
        return dump(tool, count, words);
    }
    if (strcmp(name, "committed") == 0) {
        return committed(tool, count, words);
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
        if (strcmp(commands[i].name, name) == 0) {
            rd_kafka_t *rk = make_client(RD_KAFKA_PRODUCER, make_conf(tool));
            int code = rk ? commands[i].run(rk, count, words) : 1;
            if (rk) {
                rd_kafka_destroy(rk);
            }
            return code;
        }
    }
    usage();
    return 2;
}

int main(int argc, char **argv)
{
    struct tool tool = {.brokers = argc > 1 ? argv[1] : NULL};
    int at = 2;
    while (at + 1 < argc && strcmp(argv[at], "-X") == 0 && tool.property_count < 32) {
        tool.properties[tool.property_count++] = argv[at + 1];
        at += 2;
    }
    if (at + 1 >= argc) {
        usage();
        return 2;
    }
    return run(&tool, argv[at], argc - at - 1, argv + at + 1);
}
