/* Dead letters to a topic, against librdkafka's mock of a cluster: acknowledged before they leave the queue,
 * whatever the brokers do meanwhile. */
#include "tests/unit/ingest/dead_rig.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#define PRODUCE 0 /* Kafka's number of the request */
#define TOPIC "dead"
#define PARTITIONS 2

static rd_kafka_t *host;
static rd_kafka_mock_cluster_t *cluster;

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char text[256];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK)
        fail_msg("%s", text);
}

static int open_cluster(void **state)
{
    char text[256];
    if (rig_open(state) != 0)
        return 1;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "log_level", "0");
    host = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    assert_non_null(host);
    cluster = rd_kafka_mock_cluster_new(host, 1);
    assert_non_null(cluster);
    assert_int_equal(rd_kafka_mock_topic_create(cluster, TOPIC, PARTITIONS, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    struct rig *rig = *state;
    struct dn_source_config *config = rig_source(rig, "t", DN_DEAD_TO_TOPIC, TOPIC);
    snprintf(config->brokers, sizeof config->brokers, "%s", rd_kafka_mock_cluster_bootstraps(cluster));
    rig->check_files = false;
    return 0;
}

static int close_cluster(void **state)
{
    int rv = rig_close(state);
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(host);
    return rv;
}

/* Checks one message; its number is marked. */
static void check_message(const rd_kafka_message_t *message, unsigned seen[SEEN_MAX])
{
    struct dn_dead_line line;
    struct dn_buffer buffer;
    struct dn_error err;
    char text[256];

    dn_buffer_init(&buffer, 1u << 20);
    if (dn_dead_line_parse(message->payload, message->len, &buffer, &line, &err) != DN_OK)
        fail_msg("%s", err.message);
    int length = text_of(line.stream, line.partition, line.offset, text, sizeof text);
    assert_int_equal(line.length, length);
    assert_memory_equal(line.bytes, text, line.length);
    assert_int_equal(message->key != NULL, line.key != NULL);
    assert_int_equal(message->key_len, line.key_length);
    if (line.key != NULL)
        assert_memory_equal(message->key, line.key, line.key_length);
    assert_int_equal(((const char *)message->payload)[message->len - 1], '}');
    assert_true(line.number < SEEN_MAX);
    seen[line.number]++;
    dn_buffer_free(&buffer);
}

/* How many different letters of shard 1 are in the topic; each at least once. *ret_repeats: more often. */
static size_t topic_letters(size_t *ret_repeats)
{
    static unsigned seen[SEEN_MAX];
    char text[256];
    size_t count = 0;

    memset(seen, 0, sizeof seen);
    *ret_repeats = 0;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster));
    set(conf, "group.id", "reader");
    set(conf, "enable.auto.commit", "false");
    set(conf, "enable.partition.eof", "true");
    rd_kafka_t *reader = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    assert_non_null(reader);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(2);
    rd_kafka_topic_partition_list_add(list, TOPIC, 0)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_topic_partition_list_add(list, TOPIC, 1)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_assign(reader, list);
    rd_kafka_topic_partition_list_destroy(list);
    for (unsigned ends = 0; ends < PARTITIONS;) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(reader, WAIT_MS);
        assert_non_null(message);
        ends += message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
        if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
            check_message(message, seen);
        rd_kafka_message_destroy(message);
    }
    rd_kafka_consumer_close(reader);
    rd_kafka_destroy(reader);
    for (size_t i = 0; i < SEEN_MAX; i++) {
        count += seen[i] > 0;
        *ret_repeats += seen[i] > 1 ? seen[i] - 1 : 0;
    }
    return count;
}

static void all_arrive(void **state)
{
    struct rig *rig = *state;
    size_t repeats;

    rig_bury(rig, 1, "t/web", 0, 900);
    rig_bury(rig, 1, "t/web", 1, 300);
    rig_start(rig);
    rig_wait_empty(rig);
    assert_int_equal(topic_letters(&repeats), 1200);
    assert_int_equal(repeats, 0);
    rig_bury(rig, 1, "t/web", 1, 3);
    rig_wait_empty(rig);
    assert_int_equal(topic_letters(&repeats), 1203);
}

/* The broker is down: letters of other sources go out, those of this one wait, and people are told. It comes
 * back: all arrives. */
static void broker_down(void **state)
{
    struct rig *rig = *state;
    char text[DN_SOURCE_TEXT_MAX];
    size_t repeats;

    rd_kafka_mock_broker_set_down(cluster, -1);
    rig_bury(rig, 1, "t/web", 0, 40);
    rig_start(rig);
    rig_bury(rig, 2, "a/web", 0, 40);
    WAIT_FOR(rig_waiting(rig, 2) == 0);
    WAIT_FOR(rig_trouble(rig, text) != 0);
    assert_non_null(strstr(text, "topic 'dead'"));
    assert_int_equal(rig_waiting(rig, 1), 40);
    rd_kafka_mock_broker_set_up(cluster, -1);
    rig_wait_empty(rig);
    assert_int_equal(topic_letters(&repeats), 40);
    WAIT_FOR(rig_trouble(rig, text) == 0);
}

/* Errors that a broker gives and takes back, and connections that break: nothing is lost, nor written twice.
 */
static void broker_errors(void **state)
{
    struct rig *rig = *state;
    size_t repeats;

    rd_kafka_mock_push_request_errors(
        cluster, PRODUCE, 4, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR__TRANSPORT,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS);
    rig_bury(rig, 1, "t/web", 0, 100);
    rig_start(rig);
    rig_wait_empty(rig);
    assert_int_equal(topic_letters(&repeats), 100);
}

/* The broker will not have them: they are not lost, and do not wait for ever, but stand in the source's file.
 */
static void too_large(void **state)
{
    struct rig *rig = *state;
    char path[128];
    size_t repeats;

    rd_kafka_mock_push_request_errors(cluster, PRODUCE, 2, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
                                      RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    rig_bury(rig, 1, "t/web", 0, 30);
    rig_start(rig);
    rig_wait_empty(rig);
    snprintf(path, sizeof path, "%s/deadletters/t.jsonl", rig->data_dir);
    size_t in_file = rig_check_file(path);
    assert_true(in_file > 0);
    assert_int_equal(topic_letters(&repeats), 30 - in_file);
    assert_int_equal(repeats, 0);
}

/* The broker refuses for good: the batch fails, is said, and goes out again later; then it is there. */
static void refused_then_not(void **state)
{
    struct rig *rig = *state;
    char text[DN_SOURCE_TEXT_MAX];
    size_t repeats;

    rd_kafka_mock_push_request_errors(cluster, PRODUCE, 2, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                                      RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    rig_bury(rig, 1, "t/web", 0, 30);
    rig_start(rig);
    WAIT_FOR(rig_trouble(rig, text) != 0);
    assert_non_null(strstr(text, "uthoriz"));
    rig_wait_empty(rig);
    assert_int_equal(topic_letters(&repeats), 30);
}

/* The topic is not there (yet): the letters wait, and people are told. */
static void missing_topic(void **state)
{
    struct rig *rig = *state;
    char text[DN_SOURCE_TEXT_MAX];
    size_t repeats;

    rd_kafka_mock_topic_set_error(cluster, TOPIC, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rig_bury(rig, 1, "t/web", 0, 30);
    rig_start(rig);
    WAIT_FOR(rig_trouble(rig, text) != 0);
    assert_non_null(strstr(text, "topic 'dead'"));
    assert_int_equal(rig_waiting(rig, 1), 30);
    rd_kafka_mock_topic_set_error(cluster, TOPIC, RD_KAFKA_RESP_ERR_NO_ERROR);
    rig_wait_empty(rig);
    assert_int_equal(topic_letters(&repeats), 30);
}

/* Ended while the broker is away: in time, and nothing was proposed. The next life brings the letters. */
static void stopped_while_down(void **state)
{
    struct rig *rig = *state;
    char text[DN_SOURCE_TEXT_MAX];
    size_t repeats;

    rd_kafka_mock_broker_set_down(cluster, -1);
    rig_bury(rig, 1, "t/web", 0, 20);
    rig_start(rig);
    WAIT_FOR(rig_trouble(rig, text) != 0);
    rig_stop(rig, 100);
    assert_int_equal(rig_waiting(rig, 1), 20);
    assert_int_equal(rig->shards[1].proposals, 0);
    rd_kafka_mock_broker_set_up(cluster, -1);
    rig_start(rig);
    rig_wait_empty(rig);
    assert_int_equal(topic_letters(&repeats), 20);
}

/* A property that is wrong is named; its value, which may be a secret, is not said. */
static void bad_property(void **state)
{
    struct rig *rig = *state;
    struct dn_deadletters *letters;
    struct dn_error err;
    static const char *const names[] = {"sasl.mechanism", "no.such.property", "security.protocol",
                                        "ssl.key.pem"};

    struct dn_source_config *config = &rig->sources[1];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        config->property_count = 1;
        strcpy(config->properties[0].name, names[i]);
        strcpy(config->properties[0].value, "hunter2-secret");
        if (i == 0) { /* a value that only rd_kafka_new refuses */
            config->property_count = 2;
            strcpy(config->properties[1].name, "security.protocol");
            strcpy(config->properties[1].value, "sasl_plaintext");
        }
        if (i == 3) {
            config->property_count = 2;
            strcpy(config->properties[1].name, "security.protocol");
            strcpy(config->properties[1].value, "ssl");
        }
        if (dn_deadletters_start(&rig->options, &letters, &err) != DN_INVALID)
            fail_msg("%s: not refused", names[i]);
        assert_null(strstr(err.message, "hunter2"));
        assert_non_null(strstr(err.message, "source 't'"));
    }
    config->property_count = 0;
    config->brokers[0] = '\0';
    assert_int_equal(dn_deadletters_start(&rig->options, &letters, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "brokers"));
}

/* ---- the real sources ---------------------------------------------------------------------------------- */

static void produce(const char *topic, unsigned count)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster));
    rd_kafka_t *producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    assert_non_null(producer);
    for (unsigned i = 0; i < count; i++) {
        int length = snprintf(text, sizeof text, "message %u", i);
        assert_int_equal(rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
                                           RD_KAFKA_V_KEY("k", 1), RD_KAFKA_V_VALUE(text, (size_t)length),
                                           RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END),
                         RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    assert_int_equal(rd_kafka_flush(producer, WAIT_MS), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_destroy(producer);
}

/* From a topic, through the real driver, into the source's file; the last ones are not there (any more). */
static void from_kafka(void **state)
{
    struct rig *rig = *state;
    char path[128];

    assert_int_equal(rd_kafka_mock_topic_create(cluster, "clicks", 1, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    produce("clicks", 110);
    struct dn_source_config *config = rig_source(rig, "k", DN_DEAD_TO_FILE, "");
    config->kind = DN_SOURCE_KAFKA;
    config->message_bytes = 1000000;
    snprintf(config->brokers, sizeof config->brokers, "%s", rd_kafka_mock_cluster_bootstraps(cluster));
    strcpy(config->list[0], "clicks");
    config->list_count = 1;
    rig->options.driver = NULL;
    rig->check_files = true;
    rig_bury(rig, 1, "k/clicks", 0, 40); /* every third offset: those from 110 on are not there */
    rig_start(rig);
    rig_wait_empty(rig);
    snprintf(path, sizeof path, "%s/deadletters/k.jsonl", rig->data_dir);
    struct dn_dead_line line;
    struct dn_dead_file *file;
    struct dn_buffer buffer;
    struct dn_error err;
    char text[64];
    assert_int_equal(dn_dead_file_open(path, &file, &err), DN_OK);
    dn_buffer_init(&buffer, 1u << 20);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(dn_dead_file_next(file, &buffer, &line, &err), DN_OK);
        assert_true(line.offset == 3 * i);
        assert_int_equal(line.gone, line.offset >= 110);
        if (line.gone)
            continue;
        int length = snprintf(text, sizeof text, "message %u", (unsigned)line.offset);
        assert_int_equal(line.length, length);
        assert_memory_equal(line.bytes, text, line.length);
        assert_int_equal(line.key_length, 1);
    }
    assert_int_equal(dn_dead_file_next(file, &buffer, &line, &err), DN_NOT_FOUND);
    dn_dead_file_close(file);
    dn_buffer_free(&buffer);
}

#define WITH_CLUSTER(test) cmocka_unit_test_setup_teardown(test, open_cluster, close_cluster)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CLUSTER(all_arrive),    WITH_CLUSTER(broker_down),      WITH_CLUSTER(broker_errors),
        WITH_CLUSTER(too_large),     WITH_CLUSTER(refused_then_not), WITH_CLUSTER(stopped_while_down),
        WITH_CLUSTER(missing_topic), WITH_CLUSTER(bad_property),     WITH_CLUSTER(from_kafka),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
