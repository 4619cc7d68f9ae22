/* Kafka as a source, on librdkafka: opening, closing, and what is known of the whole. How it works: see
 * source_kafka_private.h.
 *
 * Failure modes: no broker answers (trouble(); partitions CONNECTING; librdkafka tries on for ever); a topic
 * is missing (trouble(); it is read once it is there); credentials are refused (trouble()); an offset is
 * gone, or not there yet (the partition's GAP: a person decides); a broker that stands still with its
 * connections open (KAFKA_HEARD_LIMIT_MS). */
#include "ingest/source_kafka_private.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void destroy_topic(struct kafka *kafka, size_t index)
{
    struct kafka_topic *topic = kafka->topics[index];
    for (uint32_t p = 0; topic && p < DN_SOURCE_PARTITIONS_MAX; p++) {
        if (topic->partitions[p]) {
            kafka_stop(kafka, index, p);
            kafka_release(kafka, index, p);
            free(topic->partitions[p]);
        }
    }
    if (topic && topic->handle) {
        rd_kafka_topic_destroy(topic->handle);
    }
    free(topic);
}

/* In this order: messages and queues, topics, then the client, which waits for all that refers to it. Its
 * consumer is not closed: there is no group to leave, and closing one waits for brokers. */
static void destroy(struct kafka *kafka)
{
    for (size_t i = 0; i < kafka->topic_count; i++) {
        destroy_topic(kafka, i);
    }
    if (kafka->rk) {
        rd_kafka_destroy_flags(kafka->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    }
    pthread_cond_destroy(&kafka->wanted);
    pthread_mutex_destroy(&kafka->lock);
    free(kafka);
}

static enum dn_code make_topics(struct kafka *kafka, struct dn_error *err)
{
    const struct dn_source_config *config = kafka->config;
    for (size_t i = 0; i < config->list_count; i++) {
        struct kafka_topic *topic = calloc(1, sizeof(*topic));
        if (!topic) {
            return dn_fail(err, DN_NO_MEMORY, "source '%s': topic %s", config->name, config->list[i]);
        }
        kafka->topics[kafka->topic_count++] = topic;
        snprintf(topic->name, sizeof(topic->name), "%s", config->list[i]);
        char stream[sizeof(config->name) + sizeof(topic->name) + 1];
        snprintf(stream, sizeof(stream), "%s/%s", config->name, topic->name);
        memcpy(topic->stream, stream, sizeof(topic->stream) - 1); /* kafka_check(): it fits */
        topic->handle = rd_kafka_topic_new(kafka->rk, topic->name, NULL);
        if (!topic->handle) {
            return dn_fail(err, DN_INVALID, "source '%s': topic %s: %s", config->name, topic->name,
                           rd_kafka_err2str(rd_kafka_last_error()));
        }
    }
    return DN_OK;
}

static struct kafka *make(const struct dn_source_config *config, const struct dn_source_host *host)
{
    struct kafka *kafka = calloc(1, sizeof(*kafka));
    if (kafka) {
        kafka->config = config;
        kafka->host = host;
        kafka->answered_ms = dn_wall_ms();
        pthread_condattr_t monotonic;
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&kafka->wanted, &monotonic);
        pthread_condattr_destroy(&monotonic);
        pthread_mutex_init(&kafka->lock, NULL);
    }
    return kafka;
}

static enum dn_code kafka_check_all(const struct dn_source_config *config, struct dn_error *err)
{
    rd_kafka_conf_t *conf;
    enum dn_code code = kafka_check(config, err);
    if (code == DN_OK) {
        code = kafka_conf(config, false, NULL, &conf, err);
    }
    if (code == DN_OK) {
        rd_kafka_conf_destroy(conf);
    }
    return code;
}

static enum dn_code kafka_open(const struct dn_source_config *config, const struct dn_source_host *host,
                               void **ret_self, struct dn_error *err)
{
    enum dn_code code = kafka_check(config, err);
    if (code != DN_OK) {
        return code;
    }
    struct kafka *kafka = make(config, host);
    if (!kafka) {
        return dn_fail(err, DN_NO_MEMORY, "source '%s'", config->name);
    }
    rd_kafka_conf_t *conf;
    code = kafka_conf(config, false, kafka, &conf, err);
    if (code == DN_OK) {
        code = kafka_client(config, conf, &kafka->rk, err);
    }
    if (code == DN_OK) {
        code = make_topics(kafka, err);
    }
    if (code == DN_OK && pthread_create(&kafka->watcher, NULL, kafka_watch, kafka) != 0) {
        code = dn_fail(err, DN_NO_MEMORY, "source '%s': no thread can be started", config->name);
    }
    if (code != DN_OK) {
        destroy(kafka);
        return code;
    }
    *ret_self = kafka;
    return DN_OK;
}

static void kafka_close(void *self)
{
    struct kafka *kafka = self;
    pthread_mutex_lock(&kafka->lock);
    atomic_store(&kafka->stopping, true);
    pthread_cond_signal(&kafka->wanted);
    pthread_mutex_unlock(&kafka->lock);
    pthread_join(kafka->watcher, NULL);
    destroy(kafka);
}

static size_t kafka_streams(void *self, struct dn_stream_info *ret, size_t max)
{
    struct kafka *kafka = self;
    pthread_mutex_lock(&kafka->lock);
    for (size_t i = 0; i < kafka->topic_count && i < max; i++) {
        ret[i] = (struct dn_stream_info){.partition_count = kafka->topics[i]->partition_count};
        memcpy(ret[i].stream, kafka->topics[i]->stream, sizeof(ret[i].stream));
    }
    pthread_mutex_unlock(&kafka->lock);
    return kafka->topic_count;
}

static int64_t kafka_trouble(void *self, char ret_text[DN_SOURCE_TEXT_MAX])
{
    struct kafka *kafka = self;
    pthread_mutex_lock(&kafka->lock);
    memcpy(ret_text, kafka->trouble_text, DN_SOURCE_TEXT_MAX);
    int64_t since_ms = kafka->trouble_since_ms;
    pthread_mutex_unlock(&kafka->lock);
    return since_ms;
}

const struct dn_source_driver dn_source_kafka = {
    .kind = "kafka",
    .check = kafka_check_all,
    .open = kafka_open,
    .close = kafka_close,
    .streams = kafka_streams,
    .trouble = kafka_trouble,
    .start = kafka_start,
    .stop = kafka_stop,
    .read = kafka_read,
    .release = kafka_release,
    .status = kafka_status,
    .mirror = kafka_mirror,
    .fetcher_open = kafka_fetcher_open,
    .fetcher_close = kafka_fetcher_close,
    .fetch = kafka_fetch,
};
