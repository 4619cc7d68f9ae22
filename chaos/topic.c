#include "chaos/topic.h"

#include "base/clock.h"

#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define ASK_MS 5000 /* one request */
#define AGAIN_MS 200

static rd_kafka_t *open_client(const struct chaos_topic *topic, struct dn_error *err)
{
    char why[256] = "";
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    bool good =
        rd_kafka_conf_set(conf, "bootstrap.servers", topic->brokers, why, sizeof why) == RD_KAFKA_CONF_OK &&
        rd_kafka_conf_set(conf, "log_level", "0", why, sizeof why) == RD_KAFKA_CONF_OK;
    rd_kafka_t *rk = good ? rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why) : NULL;
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        dn_fail(err, DN_INTERNAL, "a Kafka client: %s", why);
    }
    return rk;
}

/* What went wrong with the topic that was asked for; NULL: nothing. */
static const char *result_of(const rd_kafka_event_t *event, bool *ret_exists)
{
    const rd_kafka_CreateTopics_result_t *made =
        rd_kafka_event_CreateTopics_result((rd_kafka_event_t *)event);
    const rd_kafka_CreatePartitions_result_t *grown =
        rd_kafka_event_CreatePartitions_result((rd_kafka_event_t *)event);
    const rd_kafka_topic_result_t **list = NULL;
    size_t count = 0;
    if (made)
        list = rd_kafka_CreateTopics_result_topics(made, &count);
    else if (grown)
        list = rd_kafka_CreatePartitions_result_topics(grown, &count);
    if (count != 1)
        return "an answer without the topic";
    rd_kafka_resp_err_t code = rd_kafka_topic_result_error(list[0]);
    const char *text = rd_kafka_topic_result_error_string(list[0]);
    *ret_exists = code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS;
    return code == RD_KAFKA_RESP_ERR_NO_ERROR ? NULL : text ? text : rd_kafka_err2str(code);
}

/* Waits for the answer to what was asked on this queue. */
static enum dn_code answer(rd_kafka_queue_t *queue, const char *what, struct dn_error *err)
{
    bool exists = false; /* an answer to an earlier try was lost */
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, ASK_MS + ASK_MS / 2);
    const char *why = !event                        ? "no answer"
                      : rd_kafka_event_error(event) ? rd_kafka_event_error_string(event)
                                                    : result_of(event, &exists);
    enum dn_code code = why && !exists ? dn_fail(err, DN_UNAVAILABLE, "%s: %s", what, why) : DN_OK;
    if (event)
        rd_kafka_event_destroy(event);
    return code;
}

static rd_kafka_AdminOptions_t *options_of(rd_kafka_t *rk, rd_kafka_admin_op_t op)
{
    char why[128];
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, op);
    (void)rd_kafka_AdminOptions_set_request_timeout(options, ASK_MS, why, sizeof why);
    return options;
}

static enum dn_code create_once(rd_kafka_t *rk, const struct chaos_topic *topic, struct dn_error *err)
{
    char why[256] = "";
    rd_kafka_NewTopic_t *new_topic =
        rd_kafka_NewTopic_new(topic->name, (int)atomic_load(&topic->partitions), 1, why, sizeof why);
    if (!new_topic)
        return dn_fail(err, DN_INVALID, "the topic '%s': %s", topic->name, why);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_AdminOptions_t *options = options_of(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_CreateTopics(rk, &new_topic, 1, options, queue);
    enum dn_code code = answer(queue, "make the topic", err);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewTopic_destroy(new_topic);
    return code;
}

enum dn_code chaos_topic_create(struct chaos_topic *topic, unsigned timeout_ms, struct dn_error *err)
{
    uint64_t end_us = dn_monotonic_us() + (uint64_t)timeout_ms * 1000;
    rd_kafka_t *rk = open_client(topic, err);
    if (!rk)
        return DN_INTERNAL;
    enum dn_code code;
    while ((code = create_once(rk, topic, err)) == DN_UNAVAILABLE && dn_monotonic_us() < end_us)
        poll(NULL, 0, AGAIN_MS);
    rd_kafka_destroy(rk);
    return code;
}

/* How many partitions the broker says it has; 0: it says nothing. */
static unsigned partitions_now(rd_kafka_t *rk, const char *name)
{
    const struct rd_kafka_metadata *about;
    unsigned count = 0;
    if (rd_kafka_metadata(rk, 1, NULL, &about, ASK_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return 0;
    for (int i = 0; i < about->topic_cnt; i++)
        if (strcmp(about->topics[i].topic, name) == 0 && !about->topics[i].err)
            count = (unsigned)about->topics[i].partition_cnt;
    rd_kafka_metadata_destroy(about);
    return count;
}

static enum dn_code grow_to(rd_kafka_t *rk, const struct chaos_topic *topic, unsigned wanted,
                            struct dn_error *err)
{
    char why[256] = "";
    if (partitions_now(rk, topic->name) == wanted)
        return DN_OK; /* the answer to an earlier try was lost */
    rd_kafka_NewPartitions_t *to = rd_kafka_NewPartitions_new(topic->name, wanted, why, sizeof why);
    if (!to)
        return dn_fail(err, DN_INVALID, "the topic '%s': %s", topic->name, why);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_AdminOptions_t *options = options_of(rk, RD_KAFKA_ADMIN_OP_CREATEPARTITIONS);
    rd_kafka_CreatePartitions(rk, &to, 1, options, queue);
    enum dn_code code = answer(queue, "more partitions", err);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewPartitions_destroy(to);
    return code;
}

enum dn_code chaos_topic_grow(struct chaos_topic *topic, struct dn_error *err)
{
    unsigned wanted = atomic_load(&topic->partitions) + topic->step;
    if (wanted > topic->most)
        return dn_fail(err, DN_PRECONDITION, "the topic has all of its %u partitions", topic->most);
    rd_kafka_t *rk = open_client(topic, err);
    if (!rk)
        return DN_INTERNAL;
    enum dn_code code = grow_to(rk, topic, wanted, err);
    if (code == DN_OK)
        atomic_store(&topic->partitions, wanted);
    rd_kafka_destroy(rk);
    return code;
}
