/* The Kafka driver against librdkafka's own mock of a cluster, in this process. What the mock cannot do
 * (transactions, compaction, growing topics) is tested with a real broker: tests/integration. */
#include "ingest/source_kafka_private.h"
#include "tests/unit/ingest/kafka_source.h"

#include <librdkafka/rdkafka.h>

#include <librdkafka/rdkafka_mock.h>
#include <pthread.h>

#define PARTITIONS 8

struct mock {
    rd_kafka_t *producer;
    rd_kafka_mock_cluster_t *cluster;
    const char *brokers;
};

static struct mock mock_make(int brokers)
{
    struct mock mock;
    char text[512];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    /* Small batches: the mock answers a fetch with one batch, whatever the limits say. */
    rd_kafka_conf_set(conf, "batch.num.messages", "50", text, sizeof(text));
    rd_kafka_conf_set(conf, "linger.ms", "1", text, sizeof(text));
    rd_kafka_conf_set(conf, "log_level", "2", text, sizeof(text));
    rd_kafka_conf_set(conf, "message.max.bytes", "4000000", text, sizeof(text));
    mock.producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
    assert_non_null(mock.producer);
    mock.cluster = rd_kafka_mock_cluster_new(mock.producer, brokers);
    assert_non_null(mock.cluster);
    mock.brokers = rd_kafka_mock_cluster_bootstraps(mock.cluster);
    assert_true(rd_kafka_brokers_add(mock.producer, mock.brokers) > 0);
    return mock;
}

static void mock_destroy(struct mock *mock)
{
    rd_kafka_mock_cluster_destroy(mock->cluster);
    rd_kafka_destroy(mock->producer);
}

static void make_topic(struct mock *mock, const char *name, int partition_count)
{
    assert_int_equal(rd_kafka_mock_topic_create(mock->cluster, name, partition_count, 1), 0);
}

/* `count` messages "message N" of `size` bytes at least, N from `first` on, key "key N". */
static void produce(struct mock *mock, const char *topic, uint32_t partition, int first, int count,
                    size_t size)
{
    char *value = calloc(1, size + 64);
    assert_non_null(value);
    for (int i = first; i < first + count; i++) {
        char key[32];
        int key_length = snprintf(key, sizeof(key), "key %d", i);
        size_t length = (size_t)snprintf(value, 64, "message %d", i);
        length = length < size ? size : length;
        rd_kafka_resp_err_t error;
        while ((error = rd_kafka_producev(
                    mock->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION((int32_t)partition),
                    RD_KAFKA_V_KEY(key, (size_t)key_length), RD_KAFKA_V_VALUE(value, length),
                    RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END)) ==
               RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            rd_kafka_poll(mock->producer, 10);
        }
        assert_int_equal(error, 0);
    }
    free(value);
    assert_int_equal(rd_kafka_flush(mock->producer, WAIT_MS), 0);
}

/* ---- reading ---- */

static void test_reads_partitions_of_several_topics(void **state)
{
    (void)state;
    struct mock mock = mock_make(3);
    make_topic(&mock, "web", PARTITIONS);
    make_topic(&mock, "app", 1);
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        produce(&mock, "web", p, 0, 100 + (int)p, 0);
    }
    produce(&mock, "app", 0, 0, 7, 0);
    struct source *source = source_make(mock.brokers, "web app");
    source_open(source);
    struct dn_stream_info info[4];
    assert_int_equal(driver->streams(source->self, info, 4), 2);
    assert_string_equal(info[0].stream, "clicks/web");
    assert_string_equal(info[1].stream, "clicks/app");
    assert_false(info[0].local);
    wait_for(partitions(source, 0) == PARTITIONS && partitions(source, 1) == 1);
    assert_int_equal(status(source, 0, 3).state, DN_PARTITION_IDLE);
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        start(source, 0, p, DN_STREAM_OFFSET_UNSET);
    }
    start(source, 1, 0, 3);
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        int64_t position = 0;
        assert_int_equal(read_to_end(source, 0, p, &position), 100 + p);
        assert_int_equal(position, 100 + p);
        wait_for(status(source, 0, p).state == DN_PARTITION_AT_END);
        struct dn_partition_status now = status(source, 0, p);
        assert_int_equal(now.end_offset, 100 + p);
        assert_int_equal(now.begin_offset, 0);
        assert_string_equal(now.error, "");
        assert_true(dn_wall_ms() - now.heard_ms < 10000);
    }
    int64_t position = 3;
    assert_int_equal(read_to_end(source, 1, 0, &position), 4);
    assert_true(trouble_has(source, NULL));
    /* What comes later wakes the host, and is read on. */
    unsigned wakes = atomic_load(&source->wakes);
    produce(&mock, "app", 0, 7, 1, 0);
    wait_for(atomic_load(&source->wakes) > wakes);
    struct dn_message message = next_of(source, 1, 0);
    assert_int_equal(message.offset, 7);
    source_close(source);
    mock_destroy(&mock);
}

static void test_message_fields(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 1);
    int64_t before_ms = dn_wall_ms();
    produce(&mock, "t", 0, 5, 1, 0);
    assert_int_equal(rd_kafka_producev(mock.producer, RD_KAFKA_V_TOPIC("t"), RD_KAFKA_V_PARTITION(0),
                                       RD_KAFKA_V_TIMESTAMP(1234567), RD_KAFKA_V_END),
                     0);
    assert_int_equal(rd_kafka_flush(mock.producer, WAIT_MS), 0);
    struct source *source = source_make(mock.brokers, "t");
    source_open(source);
    start(source, 0, 0, 0);
    struct dn_message messages[2];
    wait_for(driver->read(source->self, 0, 0, messages, 1) == 1);
    assert_int_equal(messages[0].offset, 0);
    assert_int_equal(messages[0].next_offset, 1);
    assert_true(messages[0].time_ms >= before_ms);
    assert_int_equal(messages[0].key_length, 5);
    assert_memory_equal(messages[0].key, "key 5", 5);
    assert_int_equal(messages[0].length, 9);
    assert_memory_equal(messages[0].bytes, "message 5", 9);
    assert_false(messages[0].end || messages[0].too_large);
    driver->release(source->self, 0, 0);
    wait_for(driver->read(source->self, 0, 0, messages, 1) == 1);
    assert_null(messages[0].key);
    assert_null(messages[0].bytes);
    assert_int_equal(messages[0].time_ms, 1234567);
    driver->release(source->self, 0, 0);
    source_close(source);
    mock_destroy(&mock);
}

static void test_too_large(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 1);
    produce(&mock, "t", 0, 0, 1, 1000);
    produce(&mock, "t", 0, 1, 1, 1001);
    produce(&mock, "t", 0, 2, 1, 3000000);
    produce(&mock, "t", 0, 3, 1, 10);
    struct source *source = source_make(mock.brokers, "t");
    source->config.message_bytes = 1000;
    source_open(source);
    start(source, 0, 0, 0);
    static const struct {
        size_t length;
        bool too_large;
    } expected[] = {{1000, false}, {1001, true}, {3000000, true}, {10, false}};
    for (int i = 0; i < 4; i++) {
        struct dn_message message = next_of(source, 0, 0);
        assert_int_equal(message.offset, i);
        assert_int_equal(message.length, expected[i].length);
        assert_int_equal(message.too_large, expected[i].too_large);
        assert_int_equal(message.bytes == NULL, expected[i].too_large);
    }
    source_close(source);
    mock_destroy(&mock);
}

/* After each start the first message is the one asked for, while others come in all the time. */
struct load {
    struct mock *mock;
    atomic_bool stop;
};

static void *load_run(void *argument)
{
    struct load *load = argument;
    for (int i = 0; !atomic_load(&load->stop) && i < 60000; i += 20) {
        produce(load->mock, "t", 0, i, 20, 100);
        pause_ms(1);
    }
    return NULL;
}

static void test_start_again_and_again(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 1);
    produce(&mock, "t", 0, 0, 2000, 100);
    struct source *source = source_make(mock.brokers, "t");
    source_open(source);
    struct load load = {.mock = &mock};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, load_run, &load), 0);
    uint64_t seed = 7;
    for (int round = 0; round < 1000; round++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        int64_t offset = (int64_t)(seed >> 40) % 2000;
        start(source, 0, 0, offset);
        if (seed >> 33 & 1) {
            start(source, 0, 0, 1999 - offset); /* and at once again */
            offset = 1999 - offset;
        }
        struct dn_message messages[BATCH];
        size_t count = 0;
        wait_for((count = driver->read(source->self, 0, 0, messages, 1 + (size_t)(seed >> 50) % BATCH)) > 0);
        for (size_t i = 0; i < count; i++) {
            if (messages[i].end || messages[i].offset != offset + (int64_t)i) {
                fail_msg("round %d: asked for %lld, message %zu is %lld%s", round, (long long)offset, i,
                         (long long)messages[i].offset, messages[i].end ? " (the end)" : "");
            }
        }
        driver->release(source->self, 0, 0);
    }
    atomic_store(&load.stop, true);
    pthread_join(thread, NULL);
    driver->stop(source->self, 0, 0);
    struct dn_message message;
    pause_ms(50);
    assert_int_equal(driver->read(source->self, 0, 0, &message, 1), 0);
    assert_int_equal(status(source, 0, 0).state, DN_PARTITION_IDLE);
    source_close(source);
    mock_destroy(&mock);
}

/* ---- what goes wrong ---- */

static void test_gap(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 1);
    produce(&mock, "t", 0, 0, 10, 0);
    struct source *source = source_make(mock.brokers, "t");
    source_open(source);
    start(source, 0, 0, 12);
    struct dn_message message;
    wait_for(driver->read(source->self, 0, 0, &message, 1) == 0 &&
             status(source, 0, 0).state == DN_PARTITION_GAP);
    wait_for(status(source, 0, 0).end_offset == 10);
    struct dn_partition_status now = status(source, 0, 0);
    assert_int_equal(now.begin_offset, 0);
    assert_non_null(strstr(now.error, "offset 12 of t/0 is not there (it has 0 to 10)"));
    assert_non_null(strstr(now.error, "shorter"));
    /* It stays, until a person says where to go on. */
    produce(&mock, "t", 0, 10, 10, 0);
    pause_ms(300);
    assert_int_equal(driver->read(source->self, 0, 0, &message, 1), 0);
    assert_int_equal(status(source, 0, 0).state, DN_PARTITION_GAP);
    start(source, 0, 0, 12);
    assert_int_equal(next_of(source, 0, 0).offset, 12);
    assert_int_not_equal(status(source, 0, 0).state, DN_PARTITION_GAP);
    source_close(source);
    mock_destroy(&mock);
}

/* What ends in FAILED says which way out there is; what may pass by itself does not end there. */
static void test_failures_name_the_way_out(void **state)
{
    (void)state;
    assert_non_null(strstr(kafka_what_to_do(RD_KAFKA_RESP_ERR__BAD_MSG), "dunlin source skip"));
    assert_non_null(strstr(kafka_what_to_do(RD_KAFKA_RESP_ERR__BAD_COMPRESSION), "dunlin source skip"));
    assert_non_null(
        strstr(kafka_what_to_do(RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE), "dunlin source skip"));
    const char *denied = kafka_what_to_do(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    assert_non_null(strstr(denied, "allow it"));
    assert_null(strstr(denied, "skip")); /* leaving events out would not help */
    assert_null(kafka_what_to_do(RD_KAFKA_RESP_ERR__TRANSPORT));
    assert_null(kafka_what_to_do(RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE));
}

static void test_broker_down_and_up(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 1);
    produce(&mock, "t", 0, 0, 10, 0);
    rd_kafka_mock_broker_set_down(mock.cluster, -1);
    struct source *source = source_make(mock.brokers, "t");
    source_open(source);
    start(source, 0, 0, 0);
    wait_for(trouble_has(source, "no broker of 127.0.0.1"));
    struct dn_message message;
    wait_for(driver->read(source->self, 0, 0, &message, 1) == 0 &&
             status(source, 0, 0).state == DN_PARTITION_CONNECTING);
    assert_int_equal(partitions(source, 0), 0);
    rd_kafka_mock_broker_set_up(mock.cluster, -1);
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 0, &position), 10);
    wait_for(trouble_has(source, NULL) && status(source, 0, 0).state == DN_PARTITION_AT_END);

    rd_kafka_mock_broker_set_down(mock.cluster, -1);
    wait_for(trouble_has(source, "no broker of") && status(source, 0, 0).state == DN_PARTITION_CONNECTING);
    rd_kafka_mock_broker_set_up(mock.cluster, -1);
    wait_for(trouble_has(source, NULL) && status(source, 0, 0).state == DN_PARTITION_AT_END);
    produce(&mock, "t", 0, 10, 1, 0);
    assert_int_equal(next_of(source, 0, 0).offset, 10);
    source_close(source);
    mock_destroy(&mock);
}

static void test_close_with_a_dead_broker(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 2);
    produce(&mock, "t", 0, 0, 500, 100);
    produce(&mock, "t", 1, 0, 500, 100);
    struct source *source = source_make(mock.brokers, "t");
    snprintf(source->config.group_id, sizeof(source->config.group_id), "g");
    source_open(source);
    start(source, 0, 0, 0);
    start(source, 0, 1, 0);
    struct dn_message messages[16];
    wait_for(driver->read(source->self, 0, 0, messages, 16) > 0); /* never released */
    driver->mirror(source->self, 0, 0, 16);
    rd_kafka_mock_broker_set_down(mock.cluster, -1);
    pause_ms(1500);
    uint64_t begin_us = dn_monotonic_us();
    source_close(source);
    assert_true(dn_monotonic_us() - begin_us <
                15u * 1000 * 1000); /* not for ever; seconds on a busy machine */
    mock_destroy(&mock);
}

static void test_topic_missing(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "late", 2);
    produce(&mock, "late", 1, 0, 3, 0);
    rd_kafka_mock_topic_set_error(mock.cluster, "late", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    struct source *source = source_make(mock.brokers, "late");
    source_open(source);
    wait_for(trouble_has(source, "topic late does not exist yet"));
    assert_int_equal(partitions(source, 0), 0);
    rd_kafka_mock_topic_set_error(mock.cluster, "late", RD_KAFKA_RESP_ERR_NO_ERROR);
    wait_for(partitions(source, 0) == 2);
    start(source, 0, 1, DN_STREAM_OFFSET_UNSET);
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 1, &position), 3);
    wait_for(trouble_has(source, NULL));
    source_close(source);
    mock_destroy(&mock);
}

/* ---- memory ---- */

static const struct kafka_partition *inside(const struct source *source, uint32_t partition)
{
    return ((const struct kafka *)source->self)->topics[0]->partitions[partition];
}

/* 4.8 MB in each partition, and nobody reads: half a megabyte is fetched ahead, and the fetch that was under
 * way; after a while that is let go of, too; then everything can be read nevertheless. */
static void test_memory_of_what_is_not_read(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 2);
    produce(&mock, "t", 0, 0, 200, 24000);
    produce(&mock, "t", 1, 0, 200, 24000);
    struct source *source = source_make(mock.brokers, "t");
    source_property(source, "queued.max.messages.kbytes", "512");
    source_open(source);
    start(source, 0, 0, 0);
    start(source, 0, 1, 0);
    wait_for(rd_kafka_queue_length(inside(source, 1)->queue) >= 21); /* of 24 kB */
    pause_ms(1000);
    struct dn_message messages[BATCH];
    size_t ahead = driver->read(source->self, 0, 1, messages, BATCH);
    assert_in_range(ahead, 21, 21 + 50); /* the mock's batches are of 50 at most */
    driver->release(source->self, 0, 1);
    wait_for(status(source, 0, 1).state == DN_PARTITION_READING && inside(source, 1)->parked);
    assert_null(inside(source, 1)->queue);
    assert_true(inside(source, 0)->parked);
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 0, &position), 200);
    position = (int64_t)ahead;
    assert_int_equal(read_to_end(source, 0, 1, &position), 200 - ahead);
    source_close(source);
    mock_destroy(&mock);
}

/* ---- dead letters ---- */

static void test_fetch(void **state)
{
    (void)state;
    struct mock mock = mock_make(2);
    make_topic(&mock, "t", 2);
    make_topic(&mock, "u", 1);
    produce(&mock, "t", 0, 0, 3000, 100);
    produce(&mock, "t", 1, 5000, 10, 0);
    produce(&mock, "u", 0, 9000, 10, 2000);
    struct source *source = source_make(mock.brokers, "t u");
    source->config.message_bytes = 1000;
    void *fetcher;
    struct dn_error err = {0};
    assert_int_equal(driver->fetcher_open(&source->config, &source->host, &fetcher, &err), DN_OK);
    static const struct {
        const char *stream;
        uint32_t partition;
        int64_t offset;
        const char *begin;
    } wanted[] = {{"clicks/t", 0, 5, "message 5"},     {"clicks/t", 0, 6, "message 6"},
                  {"clicks/t", 0, 900, "message 900"}, {"clicks/t", 0, 2999, "message 2999"},
                  {"clicks/t", 0, 0, "message 0"},     {"clicks/t", 1, 9, "message 5009"},
                  {"clicks/u", 0, 3, "message 9003"},  {"clicks/t", 1, 0, "message 5000"}};
    struct dn_message message;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++) {
        enum dn_code code = driver->fetch(fetcher, wanted[i].stream, wanted[i].partition, wanted[i].offset,
                                          WAIT_MS, &message, &err);
        if (code != DN_OK) {
            fail_msg("%zu: %s", i, err.message);
        }
        assert_int_equal(message.offset, wanted[i].offset);
        assert_memory_equal(message.bytes, wanted[i].begin, strlen(wanted[i].begin));
        assert_false(message.too_large); /* the original bytes, whatever their size */
    }
    assert_int_equal(driver->fetch(fetcher, "clicks/t", 0, 4000, WAIT_MS, &message, &err), DN_NOT_FOUND);
    assert_int_equal(driver->fetch(fetcher, "clicks/t", 0, 3000, WAIT_MS, &message, &err), DN_NOT_FOUND);
    assert_int_equal(driver->fetch(fetcher, "other/t", 0, 1, WAIT_MS, &message, &err), DN_NOT_FOUND);
    rd_kafka_mock_broker_set_down(mock.cluster, -1);
    pause_ms(300);
    enum dn_code code = driver->fetch(fetcher, "clicks/t", 1, 3, 500, &message, &err);
    assert_true(code == DN_UNAVAILABLE || code == DN_DEADLINE);
    rd_kafka_mock_broker_set_up(mock.cluster, -1);
    wait_for(driver->fetch(fetcher, "clicks/t", 1, 3, 500, &message, &err) == DN_OK);
    assert_memory_equal(message.bytes, "message 5003", 12);
    driver->fetcher_close(fetcher);
    free(source);
    mock_destroy(&mock);
}

/* A broker that says once that an offset is out of range, as a leader may that has just become one: the
 * message is there all the same, and is not taken for lost. */
static void test_fetch_is_not_fooled(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 1);
    produce(&mock, "t", 0, 0, 10, 0);
    struct source *source = source_make(mock.brokers, "t");
    void *fetcher;
    struct dn_error err = {0};
    struct dn_message message;
    assert_int_equal(driver->fetcher_open(&source->config, &source->host, &fetcher, &err), DN_OK);
    rd_kafka_mock_push_request_errors(mock.cluster, 1 /* Fetch */, 1, RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE);
    assert_int_equal(driver->fetch(fetcher, "clicks/t", 0, 5, WAIT_MS, &message, &err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "offset 5"));
    assert_int_equal(driver->fetch(fetcher, "clicks/t", 0, 5, WAIT_MS, &message, &err), DN_OK);
    assert_memory_equal(message.bytes, "message 5", 9);
    driver->fetcher_close(fetcher);
    free(source);
    mock_destroy(&mock);
}

/* ---- the mirror ---- */

static int64_t committed(struct mock *mock, const char *group)
{
    char text[512];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", mock->brokers, text, sizeof(text));
    rd_kafka_conf_set(conf, "group.id", group, text, sizeof(text));
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
    assert_non_null(rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, "t", 0);
    rd_kafka_resp_err_t error = rd_kafka_committed(rk, list, WAIT_MS);
    int64_t offset = error ? -2 : list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy(rk);
    return offset;
}

static void test_mirror(void **state)
{
    (void)state;
    struct mock mock = mock_make(1);
    make_topic(&mock, "t", 1);
    produce(&mock, "t", 0, 0, 50, 0);
    struct source *source = source_make(mock.brokers, "t");
    snprintf(source->config.group_id, sizeof(source->config.group_id), "dashboards");
    source_open(source);
    start(source, 0, 0, 0);
    driver->mirror(source->self, 0, 0, 17);
    wait_for(committed(&mock, "dashboards") == 17);
    driver->mirror(source->self, 0, 0, 42);
    wait_for(committed(&mock, "dashboards") == 42);
    source_close(source);
    mock_destroy(&mock);
}

/* ---- configuration ---- */

static void expect_refused(struct source *source, const char *part)
{
    struct dn_error err = {0};
    void *self = NULL;
    if (driver->open(&source->config, &source->host, &self, &err) == DN_OK) {
        driver->close(self);
        fail_msg("was not refused; expected: %s", part);
    }
    assert_int_equal(err.code, DN_INVALID);
    if (!strstr(err.message, part) || !strstr(err.message, "clicks") || strstr(err.message, "s3cret")) {
        fail_msg("expected '%s', got: %s", part, err.message);
    }
    assert_int_equal(driver->fetcher_open(&source->config, &source->host, &self, &err), DN_INVALID);
    free(source);
}

static void expect_property_refused(const char *name, const char *value, const char *part)
{
    struct source *source = source_make("localhost:1", "t");
    source_property(source, name, value);
    expect_refused(source, part);
}

static void test_bad_configuration(void **state)
{
    (void)state;
    expect_refused(source_make("", "t"), "no brokers");
    expect_refused(source_make("localhost:1", ""), "topics");
    expect_refused(source_make("localhost:1", "a a"), "topic 'a' is named twice");
    expect_refused(source_make("localhost:1", "a/b"), "topic 'a/b'");
    expect_refused(source_make("localhost:1", "^a.*"), "topic '^a.*'");
    char name[80];
    memset(name, 'n', sizeof(name));
    name[58] = '\0'; /* with "clicks/" 65 bytes */
    expect_refused(source_make("localhost:1", name), "longer than");

    expect_property_refused("no.such.property", "s3cret", "no.such.property");
    expect_property_refused("security.protocol", "s3cret", "security.protocol: its value is not allowed");
    expect_property_refused("socket.timeout.ms", "s3cret", "socket.timeout.ms: its value is not allowed");
    expect_property_refused("auto.offset.reset", "earliest", "must raise the alarm");
    expect_property_refused("AUTO.offset.reset", "earliest", "must raise the alarm");
    expect_property_refused("enable.auto.commit", "true", "kept in the cluster");
    expect_property_refused("isolation.level", "read_uncommitted", "aborted transaction");
    expect_property_refused("group.id", "x", "group_id");
    expect_property_refused("bootstrap.servers", "x", "brokers");
    expect_property_refused("test.mock.num.brokers", "1", "mock");
    expect_property_refused("enable.partition.eof", "false", "idle from stalled");
}

static void test_secrets_are_blanked(void **state)
{
    (void)state;
    struct source *source = source_make("localhost:1", "t");
    source_property(source, "sasl.mechanism", "PLAIN");
    source_property(source, "sasl.password", "s3cret");
    source_property(source, "ssl.key.pem", "-----BEGIN");
    source_property(source, "sasl.username", "me");
    char text[] = "s3cret PLAIN s3cret: -----BEGIN some meat, s3crets3cret";
    kafka_redact(&source->config, text);
    assert_string_equal(text, "*** PLAIN ***: *** some meat, ******");
    free(source);
    /* A value that begins like a shorter one, which comes first. */
    static struct dn_source_config two = {.property_count = 2};
    char pair[] = "as dunlin with dunlin-hunter2";
    strcpy(two.properties[0].name, "sasl.username");
    strcpy(two.properties[0].value, "dunlin");
    strcpy(two.properties[1].name, "sasl.password");
    strcpy(two.properties[1].value, "dunlin-hunter2");
    kafka_redact(&two, pair);
    assert_string_equal(pair, "as *** with ***");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_partitions_of_several_topics),
        cmocka_unit_test(test_message_fields),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_start_again_and_again),
        cmocka_unit_test(test_gap),
        cmocka_unit_test(test_failures_name_the_way_out),
        cmocka_unit_test(test_broker_down_and_up),
        cmocka_unit_test(test_close_with_a_dead_broker),
        cmocka_unit_test(test_topic_missing),
        cmocka_unit_test(test_memory_of_what_is_not_read),
        cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_fetch_is_not_fooled),
        cmocka_unit_test(test_mirror),
        cmocka_unit_test(test_bad_configuration),
        cmocka_unit_test(test_secrets_are_blanked),
    };
    cmocka_set_test_filter(getenv("DUNLIN_TEST")); /* one of them, by name; all when it is not set */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
