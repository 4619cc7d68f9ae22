/* The producer of a topic, against librdkafka's own mock of a broker in this process: what the history says
 * is what the broker has, also of messages that it never confirmed; and a broker that has something else is
 * found out. */
#include "chaos/workload_kafka.h"

#include "tests/unit/base/cmocka_all.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PARTITIONS 4
#define MESSAGES 300
#define FEW 10
#define ATTEMPTS 100000
#define WAIT_MS 20000
#define TOPIC "clicks"

struct mock {
    rd_kafka_t *owner;
    rd_kafka_mock_cluster_t *cluster;
    struct chaos_topic topic;
    struct chaos_history *history;
    struct workload_kafka *kafka;
};

static void begin(struct mock *mock)
{
    char why[256];
    struct dn_error err;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    assert_int_equal(rd_kafka_conf_set(conf, "log_level", "0", why, sizeof why), RD_KAFKA_CONF_OK);
    mock->owner = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    assert_non_null(mock->owner);
    mock->cluster = rd_kafka_mock_cluster_new(mock->owner, 1);
    assert_non_null(mock->cluster);
    const char *brokers = rd_kafka_mock_cluster_bootstraps(mock->cluster);
    assert_true(rd_kafka_brokers_add(mock->owner, brokers) > 0);
    assert_int_equal(rd_kafka_mock_topic_create(mock->cluster, TOPIC, PARTITIONS, 1), 0);
    mock->topic = (struct chaos_topic){.name = TOPIC, .step = PARTITIONS, .most = PARTITIONS};
    snprintf(mock->topic.brokers, sizeof mock->topic.brokers, "%s", brokers);
    atomic_init(&mock->topic.partitions, PARTITIONS);
    mock->history = chaos_history_create();
    assert_int_equal(workload_kafka_open(&mock->topic, mock->history, "chaos", &mock->kafka, &err), DN_OK);
}

static void end(struct mock *mock)
{
    workload_kafka_close(mock->kafka);
    rd_kafka_mock_cluster_destroy(mock->cluster);
    rd_kafka_destroy(mock->owner);
    chaos_history_destroy(mock->history);
}

static void put(struct mock *mock, uint64_t id)
{
    struct chaos_event event = {.id = id, .time_ms = 1000 + (int64_t)id, .outcome = -1, .offset = 77};
    struct dn_error err;
    char key[32];
    snprintf(key, sizeof key, "u-%llu", (unsigned long long)(id % 17));
    assert_int_equal(
        workload_kafka_put(mock->kafka, key, id % 10 == 0 ? CHAOS_NO_USER : id % 17 + 1, &event, "{}", &err),
        DN_OK);
}

/* By event: what the history says, once and not more. Returns how many are of this type. */
static size_t told(const struct mock *mock, enum chaos_type type, bool *ret_of, int32_t next[PARTITIONS])
{
    size_t count = 0;
    for (size_t i = 0; i < chaos_history_count(mock->history); i++) {
        const struct chaos_op *op = chaos_history_at(mock->history, i);
        assert_true(op->f == CHAOS_INGEST && op->events_count == 1 && op->process == CHAOS_NEMESIS);
        if (op->type != type) {
            continue;
        }
        count++;
        assert_false(ret_of[op->events[0].id]);
        ret_of[op->events[0].id] = true;
        assert_int_equal(op->events[0].offset >= 0, type == CHAOS_OK);
        if (type == CHAOS_OK) { /* confirmed in the partition's order: nothing is left out */
            assert_memory_equal(op->name, "chaos/", 6);
            int partition = op->name[6] - '0';
            assert_true(partition >= 0 && partition < PARTITIONS && op->name[7] == '\0');
            assert_int_equal(op->events[0].offset, next[partition]++);
        }
    }
    return count;
}

static void all_is_confirmed(void **state)
{
    struct mock mock;
    struct dn_error err = {0};
    int64_t ends[CHAOS_PARTITIONS_MAX] = {0};
    unsigned partitions = 0;
    bool asked[MESSAGES + 1] = {false}, ok[MESSAGES + 1] = {false}, never[MESSAGES + 1] = {false};
    int32_t next[PARTITIONS] = {0};
    (void)state;
    begin(&mock);
    for (uint64_t id = 1; id <= MESSAGES; id++) {
        put(&mock, id);
    }
    enum dn_code code = workload_kafka_finish(mock.kafka, ends, &partitions, &err);
    if (code != DN_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(partitions, PARTITIONS);
    assert_int_equal(told(&mock, CHAOS_INFO, asked, next), MESSAGES);
    assert_int_equal(told(&mock, CHAOS_OK, ok, next), MESSAGES);
    assert_int_equal(told(&mock, CHAOS_FAIL, never, next), 0);
    for (int p = 0; p < PARTITIONS; p++) {
        assert_true(ends[p] > 0);
        assert_int_equal(ends[p], next[p]);
    }
    end(&mock);
}

/* A broker that is gone for longer than the producer waits: what was sent meanwhile is surely not there, or
 * it is found, and nothing else is. */
static void what_was_given_up(void **state)
{
    static bool ok[ATTEMPTS + 1], never[ATTEMPTS + 1];
    struct mock mock;
    struct dn_error err = {0};
    int64_t ends[CHAOS_PARTITIONS_MAX] = {0};
    unsigned partitions = 0;
    int32_t next[PARTITIONS] = {0};
    struct workload_kafka_counts counts = {0};
    uint64_t id = 0;
    (void)state;
    begin(&mock);
    while (counts.confirmed < MESSAGES) {
        assert_true(++id < ATTEMPTS);
        put(&mock, id);
        workload_kafka_count(mock.kafka, &counts);
        usleep(1000);
    }
    rd_kafka_mock_broker_set_down(mock.cluster, 1);
    while (counts.given_up < FEW) {
        assert_true(++id < ATTEMPTS);
        put(&mock, id);
        workload_kafka_count(mock.kafka, &counts);
        usleep(20000);
    }
    rd_kafka_mock_broker_set_up(mock.cluster, 1);
    enum dn_code code = workload_kafka_finish(mock.kafka, ends, &partitions, &err);
    if (code != DN_OK) {
        fail_msg("%s", err.message);
    }
    workload_kafka_count(mock.kafka, &counts);
    assert_int_equal(counts.produced, id);
    assert_int_equal(told(&mock, CHAOS_OK, ok, next), counts.confirmed + counts.found);
    assert_int_equal(told(&mock, CHAOS_FAIL, never, next), id - counts.confirmed - counts.found);
    for (uint64_t i = 1; i <= id; i++) {
        assert_true(ok[i] != never[i]);
    }
    for (int p = 0; p < PARTITIONS; p++) {
        assert_int_equal(ends[p], next[p]);
    }
    end(&mock);
}

/* Somebody else writes into the topic: rules would count what nobody sent. */
static void another_producer_is_found(void **state)
{
    struct mock mock;
    struct dn_error err = {0};
    int64_t ends[CHAOS_PARTITIONS_MAX] = {0};
    unsigned partitions = 0;
    uint64_t number = 0;
    (void)state;
    for (int twice = 0; twice < 2; twice++) { /* one without a number; one with another message's */
        begin(&mock);
        put(&mock, 1);
        assert_int_equal(rd_kafka_producev(mock.owner, RD_KAFKA_V_TOPIC(TOPIC), RD_KAFKA_V_PARTITION(0),
                                           RD_KAFKA_V_VALUE((void *)"{}", 2),
                                           RD_KAFKA_V_HEADER(twice ? "n" : "m", &number, sizeof number),
                                           RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END),
                         RD_KAFKA_RESP_ERR_NO_ERROR);
        assert_int_equal(rd_kafka_flush(mock.owner, WAIT_MS), RD_KAFKA_RESP_ERR_NO_ERROR);
        assert_int_equal(workload_kafka_finish(mock.kafka, ends, &partitions, &err), DN_CORRUPT);
        end(&mock);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_confirmed),
        cmocka_unit_test(what_was_given_up),
        cmocka_unit_test(another_producer_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
