/* The producer. A fatal error of librdkafka's (its sequence numbers cannot go on) ends a producer for good:
 * the next send makes a new one. */
#include "ingest/deadletter_topic.h"

#include "base/log.h"

#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KAFKA_TEXT_MAX 512
#define CLOSE_MS 1000
#define SECRET_MIN 3 /* shorter values are not looked for in texts: they are everywhere */

struct setting {
    const char *name, *value;
};

/* Before the source's properties, which win. */
static const struct setting defaults[] = {
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "1000"}, /* librdkafka's own 10 s would hold letters up after a restart */
};

/* After them: these win. */
static const struct setting settings[] = {
    {"enable.idempotence", "true"},
    {"acks", "all"},
    {"linger.ms", "5"},
    {"message.timeout.ms", "30000"},
    {"topic.metadata.propagation.max.ms", "10000"},
    /* A letter is larger than its message, and the broker says what is too large. One that is goes alone. */
    {"message.max.bytes", "1000000000"},
    {"batch.size", "262144"},
    {"queue.buffering.max.kbytes", "1048576"},
    {"delivery.report.only.error", "false"},
};

struct dn_dead_topic {
    const struct dn_source_config *config;
    rd_kafka_t *producer; /* NULL: made again at the next send */
    size_t waiting;
    char error[KAFKA_TEXT_MAX];
};

static void redact_value(char *text, const char *value)
{
    size_t length = strlen(value);
    for (char *at = strstr(text, value); at != NULL; at = strstr(at, value)) {
        memmove(at + 3, at + length, strlen(at + length) + 1);
        memcpy(at, "***", 3);
        at += 3;
    }
}

/* What librdkafka says may have a property's value in it. */
static void redact(const struct dn_source_config *config, char *text)
{
    for (size_t length = DN_SOURCE_TEXT_MAX; length-- > SECRET_MIN;) { /* longer ones may begin like others */
        for (size_t i = 0; i < config->property_count; i++)
            if (strlen(config->properties[i].value) == length)
                redact_value(text, config->properties[i].value);
    }
}

static void on_delivery(rd_kafka_t *producer, const rd_kafka_message_t *message, void *opaque)
{
    struct dn_dead_topic *topic = opaque;
    struct dn_dead_post *post = message->_private;

    (void)producer;
    DN_ASSERT(topic->waiting > 0 && post->state == DN_POST_WAITING);
    topic->waiting--;
    if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        post->state = DN_POST_DELIVERED;
        topic->error[0] = '\0';
        return;
    }
    post->state = message->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ? DN_POST_TOO_LARGE : DN_POST_FAILED;
    snprintf(topic->error, sizeof topic->error, "not delivered: %s", rd_kafka_err2str(message->err));
}

static void on_error(rd_kafka_t *producer, int code, const char *reason, void *opaque)
{
    struct dn_dead_topic *topic = opaque;
    (void)producer;
    snprintf(topic->error, sizeof topic->error, "%s (%s)", reason, rd_kafka_err2name(code));
    redact(topic->config, topic->error);
}

/* Its threads call it. What matters comes by on_error too. */
static void on_log(const rd_kafka_t *producer, int level, const char *facility, const char *text)
{
    const struct dn_dead_topic *topic = rd_kafka_opaque(producer);
    char line[2 * KAFKA_TEXT_MAX];
    snprintf(line, sizeof line, "librdkafka: %d %s: %s", level, facility, text);
    redact(topic->config, line);
    dn_debug("deadletter", "%s", line);
}

/* The text of librdkafka's would repeat the value, which may be a secret. */
static enum dn_code set(rd_kafka_conf_t *conf, const char *name, const char *value, struct dn_error *err)
{
    char ignored[KAFKA_TEXT_MAX];
    switch (rd_kafka_conf_set(conf, name, value, ignored, sizeof ignored)) {
    case RD_KAFKA_CONF_OK:
        return DN_OK;
    case RD_KAFKA_CONF_UNKNOWN:
        return dn_fail(err, DN_INVALID, "the property '%s' is not known to librdkafka %s", name,
                       rd_kafka_version_str());
    default:
        return dn_fail(err, DN_INVALID, "the property '%s' cannot have the value that was given", name);
    }
}

static enum dn_code fill(rd_kafka_conf_t *conf, const struct dn_source_config *config, struct dn_error *err)
{
    enum dn_code code = set(conf, "bootstrap.servers", config->brokers, err);
    for (size_t i = 0; code == DN_OK && i < sizeof defaults / sizeof *defaults; i++)
        code = set(conf, defaults[i].name, defaults[i].value, err);
    for (size_t i = 0; code == DN_OK && i < config->property_count; i++) {
        /* Its transactions would have to be begun and ended. */
        if (strcmp(config->properties[i].name, "transactional.id") != 0)
            code = set(conf, config->properties[i].name, config->properties[i].value, err);
    }
    for (size_t i = 0; code == DN_OK && i < sizeof settings / sizeof *settings; i++)
        code = set(conf, settings[i].name, settings[i].value, err);
    return code;
}

static enum dn_code make_producer(struct dn_dead_topic *topic, struct dn_error *err)
{
    char text[KAFKA_TEXT_MAX];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    enum dn_code code = fill(conf, topic->config, err);
    if (code == DN_OK) {
        rd_kafka_conf_set_opaque(conf, topic);
        rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
        rd_kafka_conf_set_error_cb(conf, on_error);
        rd_kafka_conf_set_log_cb(conf, on_log);
        topic->producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
        if (topic->producer != NULL)
            return DN_OK;
        redact(topic->config, text);
        code = dn_fail(err, DN_INVALID, "%s", text);
    }
    rd_kafka_conf_destroy(conf);
    return code;
}

static void end_producer(struct dn_dead_topic *topic)
{
    if (topic->producer == NULL)
        return;
    rd_kafka_purge(topic->producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_flush(topic->producer, CLOSE_MS); /* serves the reports of what was given up */
    rd_kafka_destroy(topic->producer);
    topic->producer = NULL;
}

enum dn_code dn_dead_topic_open(const struct dn_source_config *config, struct dn_dead_topic **ret,
                                struct dn_error *err)
{
    if (config->brokers[0] == '\0' || config->dead_to[0] == '\0')
        return dn_fail(err, DN_INVALID, "dead letters to a topic need brokers and the topic's name");
    struct dn_dead_topic *topic = calloc(1, sizeof *topic);
    if (topic == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    topic->config = config;
    enum dn_code code = make_producer(topic, err);
    if (code != DN_OK) {
        free(topic);
        return dn_wrap(err, code, "dead letters to topic '%s'", config->dead_to);
    }
    *ret = topic;
    return DN_OK;
}

void dn_dead_topic_close(struct dn_dead_topic *topic)
{
    if (topic == NULL)
        return;
    end_producer(topic);
    free(topic);
}

const char *dn_dead_topic_name(const struct dn_dead_topic *topic)
{
    return topic->config->dead_to;
}

/* Refused at once: as if a report had come. */
static void refused(struct dn_dead_topic *topic, struct dn_dead_post *post, rd_kafka_resp_err_t reason)
{
    post->state = reason == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ? DN_POST_TOO_LARGE : DN_POST_FAILED;
    topic->waiting--;
    snprintf(topic->error, sizeof topic->error, "not sent: %s", rd_kafka_err2str(reason));
}

void dn_dead_topic_send(struct dn_dead_topic *topic, struct dn_dead_post *posts, size_t count)
{
    char text[KAFKA_TEXT_MAX];
    struct dn_error err;

    if (topic->producer != NULL && rd_kafka_fatal_error(topic->producer, text, sizeof text) != 0) {
        dn_warn("deadletter", "topic '%s': the producer is made anew: %s", topic->config->dead_to, text);
        end_producer(topic);
    }
    bool able = topic->producer != NULL || make_producer(topic, &err) == DN_OK;
    for (size_t i = 0; i < count; i++) {
        struct dn_dead_post *post = &posts[i];
        post->state = DN_POST_WAITING;
        topic->waiting++;
        if (!able) {
            refused(topic, post, RD_KAFKA_RESP_ERR__STATE);
            continue;
        }
        rd_kafka_resp_err_t reason =
            rd_kafka_producev(topic->producer, RD_KAFKA_V_TOPIC(topic->config->dead_to),
                              RD_KAFKA_V_KEY(post->key, post->key_length),
                              RD_KAFKA_V_VALUE((void *)(uintptr_t)post->line, post->length),
                              RD_KAFKA_V_OPAQUE(post), RD_KAFKA_V_END);
        if (reason != RD_KAFKA_RESP_ERR_NO_ERROR)
            refused(topic, post, reason);
    }
}

size_t dn_dead_topic_poll(struct dn_dead_topic *topic)
{
    if (topic->producer != NULL)
        rd_kafka_poll(topic->producer, 0);
    return topic->waiting;
}

const char *dn_dead_topic_error(const struct dn_dead_topic *topic)
{
    return topic->error;
}
