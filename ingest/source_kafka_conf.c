/* The Kafka driver's settings: ours, then the operator's, of which those that exactly-once rests on are
 * refused. No text from here, and none of librdkafka's that passes kafka_redact(), has a value in it that may
 * be a secret. */
#include "ingest/source_kafka_private.h"

#include "base/log.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>

#define TOPIC_NAME_MAX 249 /* Kafka's own limit */
#define SECRET_MIN 3       /* shorter values are not looked for in texts: they are everywhere */

struct setting {
    const char *name, *value;
};

/* What the operator cannot change, and why: these are the driver's promise. */
static const struct {
    const char *name, *why;
} owned[] = {
    {"bootstrap.servers", "the source's brokers say it"},
    {"metadata.broker.list", "the source's brokers say it"},
    {"group.id", "the source's group_id says it"},
    {"group.instance.id", "offsets are kept in the cluster, not by the group"},
    {"session.timeout.ms", "the group is never joined"},
    {"enable.auto.commit", "offsets are kept in the cluster, and only mirrored to the group"},
    {"auto.commit.enable", "offsets are kept in the cluster, and only mirrored to the group"},
    {"auto.commit.interval.ms", "offsets are kept in the cluster, and only mirrored to the group"},
    {"enable.auto.offset.store", "offsets are kept in the cluster, and only mirrored to the group"},
    {"offset.store.method", "offsets are kept in the cluster, and only mirrored to the group"},
    {"offset.store.path", "offsets are kept in the cluster, and only mirrored to the group"},
    {"auto.offset.reset", "events that are gone must raise the alarm, not be passed over"},
    {"isolation.level", "what an aborted transaction wrote must not be counted"},
    {"enable.partition.eof", "the end of a partition tells idle from stalled"},
    {"statistics.interval.ms", "it tells whether a broker is alive"},
    {"allow.auto.create.topics", "a topic that is missing must raise the alarm, not be made"},
    {"test.mock.num.brokers", "it puts a mock in the place of the brokers"},
};

/* What the operator may change. */
static const struct setting defaults[] = {
    {"client.id", "dunlin"},
    {"fetch.wait.max.ms", "100"},
    {"fetch.error.backoff.ms", "100"},
    /* A larger record still passes: a broker sends the first batch whole. A message that waits unread keeps
     * its whole answer in memory, so answers are small. */
    {"fetch.message.max.bytes", "524288"},
    {"fetch.max.bytes", "8388608"},
    {"receive.message.max.bytes", "134217728"},
    {"socket.timeout.ms", "10000"},
    {"socket.keepalive.enable", "true"},
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "1000"},
    {"topic.metadata.refresh.interval.ms", "5000"},
    {"topic.metadata.propagation.max.ms", "5000"},
    /* A broker that wants TLS hangs up on one who does not: the only hint that there is. It reaches people by
     * trouble(), while nobody answers. */
    {"log.connection.close", "true"},
};

static const struct setting reading[] = {
    {"enable.auto.commit", "false"},  {"enable.auto.offset.store", "false"},
    {"auto.offset.reset", "error"},   {"isolation.level", "read_committed"},
    {"enable.partition.eof", "true"}, {"allow.auto.create.topics", "false"},
};

static bool is_secret(const char *name)
{
    static const char *const parts[] = {"password",    "secret", "key",   "pem",        "jaas",
                                        "oauthbearer", "token",  "sasl.", "certificate"};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        if (strcasestr(name, parts[i])) {
            return true;
        }
    }
    return false;
}

static void redact_value(char *text, const char *value)
{
    size_t length = strlen(value);
    if (length < SECRET_MIN) {
        return;
    }
    for (char *at = strstr(text, value); at; at = strstr(at + 3, value)) {
        memmove(at + 3, at + length, strlen(at + length) + 1);
        memcpy(at, "***", 3);
    }
}

/* Longer values first: one that begins like a shorter one would keep its end. */
void kafka_redact(const struct dn_source_config *config, char *text)
{
    for (size_t length = DN_SOURCE_TEXT_MAX; length-- > SECRET_MIN;) {
        for (size_t i = 0; i < config->property_count; i++) {
            const char *name = config->properties[i].name, *value = config->properties[i].value;
            /* "sasl.mechanism" is no secret, and a text about it is worth reading. */
            if (strlen(value) == length && is_secret(name) && !strstr(name, "mechanism")) {
                redact_value(text, value);
            }
        }
    }
}

/* ---- checks ---- */

static bool topic_name_valid(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= TOPIC_NAME_MAX && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == length;
}

enum dn_code kafka_check(const struct dn_source_config *config, struct dn_error *err)
{
    if (!config->brokers[0]) {
        return dn_fail(err, DN_INVALID, "source '%s': no brokers: say host:port,...", config->name);
    }
    if (config->list_count == 0 || config->list_count > DN_SOURCE_LIST_MAX) {
        return dn_fail(err, DN_INVALID, "source '%s': %zu topics: 1 to %d are allowed", config->name,
                       config->list_count, DN_SOURCE_LIST_MAX);
    }
    for (size_t i = 0; i < config->list_count; i++) {
        const char *topic = config->list[i];
        if (!topic_name_valid(topic)) {
            return dn_fail(err, DN_INVALID,
                           "source '%s': topic '%s': a name is 1 to %d letters, digits, '.', '_' and '-'",
                           config->name, topic, TOPIC_NAME_MAX);
        }
        if (strlen(config->name) + 1 + strlen(topic) > DN_SOURCE_MAX) {
            return dn_fail(err, DN_INVALID,
                           "source '%s': topic '%s': both names together are longer than %d bytes; give the "
                           "source a shorter one",
                           config->name, topic, DN_SOURCE_MAX - 1);
        }
        for (size_t j = 0; j < i; j++) {
            if (strcmp(config->list[j], topic) == 0) {
                return dn_fail(err, DN_INVALID, "source '%s': topic '%s' is named twice", config->name,
                               topic);
            }
        }
    }
    return DN_OK;
}

/* ---- settings ---- */

static enum dn_code set_own(rd_kafka_conf_t *conf, const char *name, const char *value, struct dn_error *err)
{
    char text[DN_SOURCE_TEXT_MAX];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) != RD_KAFKA_CONF_OK) {
        return dn_fail(err, DN_INTERNAL, "librdkafka %s does not take the setting %s", rd_kafka_version_str(),
                       name);
    }
    return DN_OK;
}

static enum dn_code set_all(rd_kafka_conf_t *conf, const struct setting *settings, size_t count,
                            struct dn_error *err)
{
    for (size_t i = 0; i < count; i++) {
        enum dn_code code = set_own(conf, settings[i].name, settings[i].value, err);
        if (code != DN_OK) {
            return code;
        }
    }
    return DN_OK;
}

static enum dn_code set_property(const struct dn_source_config *config, rd_kafka_conf_t *conf,
                                 const char *name, const char *value, struct dn_error *err)
{
    for (size_t i = 0; i < sizeof(owned) / sizeof(*owned); i++) {
        if (strcasecmp(name, owned[i].name) == 0) {
            return dn_fail(err, DN_INVALID, "source '%s': property %s cannot be set: %s", config->name, name,
                           owned[i].why);
        }
    }
    char text[DN_SOURCE_TEXT_MAX]; /* has the value in it: not shown */
    switch (rd_kafka_conf_set(conf, name, value, text, sizeof(text))) {
    case RD_KAFKA_CONF_OK:
        return DN_OK;
    case RD_KAFKA_CONF_UNKNOWN:
        return dn_fail(
            err, DN_INVALID,
            "source '%s': property %s is none that librdkafka %s knows, or it was built without it; "
            "its names are in librdkafka's CONFIGURATION.md",
            config->name, name, rd_kafka_version_str());
    default:
        return dn_fail(
            err, DN_INVALID,
            "source '%s': property %s: its value is not allowed; see librdkafka's CONFIGURATION.md",
            config->name, name);
    }
}

/* librdkafka's own log is for those who look for its faults; what matters reaches people by trouble(). */
static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    const struct dn_source_config *const *owner = rd_kafka_opaque(rk);
    char line[2 * DN_SOURCE_TEXT_MAX];
    snprintf(line, sizeof(line), "%s: %s: %s", (*owner)->name, facility, text);
    kafka_redact(*owner, line);
    if (level <= LOG_CRIT) {
        dn_err("kafka", "%s", line);
    } else {
        dn_debug("kafka", "%s", line);
    }
}

static enum dn_code set_driver(const struct dn_source_config *config, rd_kafka_conf_t *conf,
                               struct dn_error *err)
{
    rd_kafka_conf_set_error_cb(conf, kafka_on_error);
    rd_kafka_conf_set_stats_cb(conf, kafka_on_statistics);
    rd_kafka_conf_set_offset_commit_cb(conf, kafka_on_commit);
    enum dn_code code = set_own(conf, "statistics.interval.ms", "500", err);
    if (code == DN_OK && config->group_id[0]) {
        code = set_own(conf, "group.id", config->group_id, err);
    }
    /* The group is never joined, but so long a commit that finds no coordinator holds up the client's end. */
    if (code == DN_OK && config->group_id[0]) {
        code = set_own(conf, "session.timeout.ms", "1000", err);
    }
    return code;
}

/* A fetcher wants one message, and perhaps the next ones. */
static enum dn_code set_fetcher(rd_kafka_conf_t *conf, struct dn_error *err)
{
    static const struct setting small[] = {
        {"queued.min.messages", "1000"},
        {"queued.max.messages.kbytes", "1024"},
        {"fetch.message.max.bytes", "131072"},
    };
    rd_kafka_conf_set_error_cb(conf, kafka_fetcher_on_error);
    return set_all(conf, small, sizeof(small) / sizeof(*small), err);
}

static enum dn_code set_ahead(rd_kafka_conf_t *conf, struct dn_error *err)
{
    char messages[16], kbytes[16];
    snprintf(messages, sizeof(messages), "%d", KAFKA_QUEUE_MESSAGES);
    snprintf(kbytes, sizeof(kbytes), "%d", KAFKA_QUEUE_KBYTES);
    enum dn_code code = set_own(conf, "queued.min.messages", messages, err);
    return code == DN_OK ? set_own(conf, "queued.max.messages.kbytes", kbytes, err) : code;
}

static enum dn_code fill(const struct dn_source_config *config, bool fetcher, rd_kafka_conf_t *conf,
                         struct dn_error *err)
{
    enum dn_code code = set_all(conf, defaults, sizeof(defaults) / sizeof(*defaults), err);
    if (code == DN_OK) {
        code = set_ahead(conf, err);
    }
    for (size_t i = 0; code == DN_OK && i < config->property_count; i++) {
        code = set_property(config, conf, config->properties[i].name, config->properties[i].value, err);
    }
    if (code == DN_OK) {
        code = set_all(conf, reading, sizeof(reading) / sizeof(*reading), err);
    }
    if (code == DN_OK) {
        code = fetcher ? set_fetcher(conf, err) : set_driver(config, conf, err);
    }
    if (code != DN_OK) {
        return code;
    }
    char text[DN_SOURCE_TEXT_MAX];
    if (rd_kafka_conf_set(conf, "bootstrap.servers", config->brokers, text, sizeof(text)) !=
        RD_KAFKA_CONF_OK) {
        return dn_fail(err, DN_INVALID, "source '%s': brokers '%s': %s", config->name, config->brokers, text);
    }
    return DN_OK;
}

enum dn_code kafka_conf(const struct dn_source_config *config, bool fetcher, void *opaque,
                        rd_kafka_conf_t **ret_conf, struct dn_error *err)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    enum dn_code code = fill(config, fetcher, conf, err);
    if (code != DN_OK) {
        rd_kafka_conf_destroy(conf);
        return code;
    }
    rd_kafka_conf_set_log_cb(conf, on_log);
    rd_kafka_conf_set_opaque(conf, opaque);
    *ret_conf = conf;
    return DN_OK;
}

enum dn_code kafka_client(const struct dn_source_config *config, rd_kafka_conf_t *conf, rd_kafka_t **ret_rk,
                          struct dn_error *err)
{
    char text[DN_SOURCE_TEXT_MAX];
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        kafka_redact(config, text);
        return dn_fail(err, DN_INVALID, "source '%s': librdkafka: %s", config->name, text);
    }
    *ret_rk = rk;
    return DN_OK;
}
