/* The Kafka driver's second thread: asks the brokers what must be asked for, and keeps what they say.
 *
 * In turn: librdkafka's own reports (errors, statistics, commits), metadata (partition counts, leaders; new
 * partitions and late topics are noticed by it), the offsets of a partition whose reading failed or whose
 * queue was full, the mirror. Statistics tell when each broker was last heard: every partition that is read
 * has a fetch under way there, which is answered within fetch.wait.max.ms, so silence means out of touch even
 * while the connection stands. */
#include "ingest/source_kafka_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* ---- reports of librdkafka: on this thread, in rd_kafka_poll ---- */

void kafka_on_error(rd_kafka_t *rk, int error, const char *reason, void *opaque)
{
    (void)rk;
    struct kafka *kafka = opaque;
    if (error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
        return; /* the one before it says why */
    }
    pthread_mutex_lock(&kafka->lock);
    snprintf(kafka->last_error, sizeof(kafka->last_error), "%s", reason);
    kafka_redact(kafka->config, kafka->last_error);
    if (error == RD_KAFKA_RESP_ERR__AUTHENTICATION || error == RD_KAFKA_RESP_ERR__SSL ||
        error == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED) {
        kafka->refused = true;
    }
    pthread_mutex_unlock(&kafka->lock);
}

/* A wall clock that was set back must not keep us in touch: what lies ahead of now is forgotten. */
static void set_heard(struct kafka *kafka, int32_t id, int64_t heard_ms, int64_t now_ms)
{
    size_t at = 0;
    while (at < kafka->broker_count && kafka->brokers[at].id != id) {
        at++;
    }
    if (at == KAFKA_BROKERS_MAX) {
        return; /* its partitions look out of touch, which is said */
    }
    if (at == kafka->broker_count) {
        kafka->broker_count++;
        kafka->brokers[at].id = id;
        kafka->brokers[at].heard_ms = 0;
    }
    if (heard_ms > kafka->brokers[at].heard_ms || kafka->brokers[at].heard_ms > now_ms) {
        kafka->brokers[at].heard_ms = heard_ms;
    }
}

int64_t kafka_heard(const struct kafka *kafka, int32_t broker)
{
    for (size_t i = 0; i < kafka->broker_count; i++) {
        if (kafka->brokers[i].id == broker) {
            return kafka->brokers[i].heard_ms;
        }
    }
    return 0;
}

/* Of a broker's entry in the statistics; "logical" ones are a second connection to a group's coordinator. */
static void take_broker(struct kafka *kafka, json_t *broker, int64_t now_ms)
{
    const char *state = json_string_value(json_object_get(broker, "state"));
    const char *origin = json_string_value(json_object_get(broker, "source"));
    json_int_t id = json_integer_value(json_object_get(broker, "nodeid"));
    json_t *idle_us = json_object_get(broker, "rxidle");
    if (!state || strcmp(state, "UP") != 0 || !origin || strcmp(origin, "logical") == 0 || id < 0 ||
        id > INT32_MAX || !json_is_integer(idle_us) || json_integer_value(idle_us) < 0) {
        return;
    }
    set_heard(kafka, (int32_t)id, now_ms - (int64_t)json_integer_value(idle_us) / 1000, now_ms);
}

/* The statistics up to their list of topics, which is long and not needed; NULL: they are not as expected. */
static json_t *parse_brokers(char *json, size_t length)
{
    static const char topics[] = "\"topics\":{";
    char *end = memmem(json, length, topics, sizeof(topics) - 1);
    if (!end) {
        return json_loadb(json, length, 0, NULL);
    }
    /* A broker's name cannot have a quote in it, so this is where the list begins: what was before ends here.
     */
    while (end > json && end[-1] != ',') {
        end--;
    }
    if (end == json) {
        return NULL;
    }
    end[-1] = '}';
    return json_loadb(json, (size_t)(end - json), 0, NULL);
}

int kafka_on_statistics(rd_kafka_t *rk, char *json, size_t length, void *opaque)
{
    (void)rk;
    struct kafka *kafka = opaque;
    int64_t now_ms = dn_wall_ms();
    json_t *root = parse_brokers(json, length);
    const char *name;
    json_t *broker;
    pthread_mutex_lock(&kafka->lock);
    json_object_foreach(json_object_get(root, "brokers"), name, broker)
    {
        take_broker(kafka, broker, now_ms);
    }
    pthread_mutex_unlock(&kafka->lock);
    json_decref(root);
    return 0; /* librdkafka frees the text */
}

static struct kafka_topic *topic_of(struct kafka *kafka, const char *name)
{
    for (size_t i = 0; i < kafka->topic_count; i++) {
        if (strcmp(kafka->topics[i]->name, name) == 0) {
            return kafka->topics[i];
        }
    }
    return NULL;
}

/* They are committed again: nothing may come after them that would be. */
static void mirror_again(struct kafka *kafka, const rd_kafka_topic_partition_list_t *offsets)
{
    pthread_mutex_lock(&kafka->lock);
    for (int i = 0; offsets && i < offsets->cnt; i++) {
        struct kafka_topic *topic = topic_of(kafka, offsets->elems[i].topic);
        int32_t number = offsets->elems[i].partition;
        if (topic && number >= 0 && number < DN_SOURCE_PARTITIONS_MAX && topic->partitions[number]) {
            topic->partitions[number]->mirrored = -1;
        }
    }
    pthread_mutex_unlock(&kafka->lock);
}

/* Best effort: a commit that fails is made again a little later. */
void kafka_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t *offsets,
                     void *opaque)
{
    (void)rk;
    struct kafka *kafka = opaque;
    if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
        atomic_fetch_add(&kafka->commits_failed, 1);
        dn_debug("kafka", "%s: offsets could not be mirrored to group '%s': %s", kafka->config->name,
                 kafka->config->group_id, rd_kafka_err2str(error));
        mirror_again(kafka, offsets);
    }
}

/* ---- metadata ---- */

/* How many partitions a topic may still have under the source's limit. */
static uint32_t room_for(const struct kafka *kafka, const struct kafka_topic *topic)
{
    uint32_t others = 0;
    for (size_t i = 0; i < kafka->topic_count; i++) {
        others += kafka->topics[i] == topic ? 0 : kafka->topics[i]->partition_count;
    }
    return DN_SOURCE_PARTITIONS_MAX - others;
}

/* True: there are partitions that were not there before. They never become fewer: a number keeps its meaning,
 * and what is gone is said by the reading of it. */
static bool take_topic(struct kafka *kafka, const struct rd_kafka_metadata_topic *from)
{
    struct kafka_topic *topic = topic_of(kafka, from->topic);
    if (!topic) {
        return false;
    }
    topic->error = from->err;
    uint32_t before = topic->partition_count, count = (uint32_t)(from->partition_cnt);
    if (from->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        count = 0;
    }
    if (count > room_for(kafka, topic)) {
        count = room_for(kafka, topic);
        kafka->too_many = true;
    }
    for (uint32_t i = 0; i < DN_SOURCE_PARTITIONS_MAX; i++) {
        if (topic->partitions[i]) {
            topic->partitions[i]->leader = -1;
        }
    }
    for (int i = 0; i < from->partition_cnt; i++) {
        int32_t number = from->partitions[i].id;
        if (number >= 0 && number < DN_SOURCE_PARTITIONS_MAX && topic->partitions[number]) {
            topic->partitions[number]->leader = from->partitions[i].leader;
        }
    }
    topic->partition_count = count > before ? count : before;
    return topic->partition_count > before;
}

static bool any_missing(const struct kafka *kafka)
{
    for (size_t i = 0; i < kafka->topic_count; i++) {
        if (kafka->topics[i]->error || kafka->topics[i]->partition_count == 0) {
            return true;
        }
    }
    return false;
}

static void ask_metadata(struct kafka *kafka)
{
    const struct rd_kafka_metadata *metadata = NULL;
    rd_kafka_resp_err_t error = rd_kafka_metadata(kafka->rk, 0, NULL, &metadata, KAFKA_QUESTION_MS);
    bool grown = false;
    pthread_mutex_lock(&kafka->lock);
    kafka->unanswered = error != RD_KAFKA_RESP_ERR_NO_ERROR;
    if (error) {
        if (!kafka->last_error[0]) {
            snprintf(kafka->last_error, sizeof(kafka->last_error), "%s", rd_kafka_err2str(error));
        }
    } else {
        kafka->answered_ms = dn_wall_ms();
        kafka->refused = false;
        kafka->last_error[0] = '\0';
        for (int i = 0; i < metadata->topic_cnt; i++) {
            grown |= take_topic(kafka, &metadata->topics[i]);
        }
    }
    bool soon = kafka->unanswered || any_missing(kafka);
    kafka->asked_next_ms = dn_wall_ms() + (soon ? KAFKA_METADATA_RETRY_MS : KAFKA_METADATA_MS);
    pthread_mutex_unlock(&kafka->lock);
    if (metadata) {
        rd_kafka_metadata_destroy(metadata);
    }
    if (grown) {
        kafka->host->wake(kafka->host->data);
    }
}

/* ---- offsets of partitions ---- */

static struct kafka_partition *take_wanted(struct kafka *kafka)
{
    for (size_t i = 0; i < kafka->topic_count; i++) {
        for (uint32_t p = 0; p < DN_SOURCE_PARTITIONS_MAX; p++) {
            struct kafka_partition *partition = kafka->topics[i]->partitions[p];
            if (partition && partition->want_offsets) {
                partition->want_offsets = false;
                return partition;
            }
        }
    }
    return NULL;
}

/* The question also wakes librdkafka's thread for that broker, which may sleep for a second when the queues
 * it fills were full (2.0.2 has no setting for that), although they are no longer. */
static void ask_offsets(struct kafka *kafka)
{
    for (;;) {
        pthread_mutex_lock(&kafka->lock);
        struct kafka_partition *partition = kafka->unanswered ? NULL : take_wanted(kafka);
        pthread_mutex_unlock(&kafka->lock);
        if (!partition || atomic_load(&kafka->stopping)) {
            return;
        }
        int64_t begin, end;
        rd_kafka_resp_err_t error =
            rd_kafka_query_watermark_offsets(kafka->rk, kafka->topics[partition->topic]->name,
                                             (int32_t)partition->number, &begin, &end, KAFKA_QUESTION_MS);
        if (error) {
            dn_debug("kafka", "%s: offsets of %s/%u: %s", kafka->config->name,
                     kafka->topics[partition->topic]->name, partition->number, rd_kafka_err2str(error));
            return;
        }
        pthread_mutex_lock(&kafka->lock);
        partition->begin = begin;
        partition->end = end;
        pthread_mutex_unlock(&kafka->lock);
        kafka->host->wake(kafka->host->data);
    }
}

static void commit_mirror(struct kafka *kafka)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
    pthread_mutex_lock(&kafka->lock);
    for (size_t i = 0; i < kafka->topic_count; i++) {
        for (uint32_t p = 0; p < DN_SOURCE_PARTITIONS_MAX; p++) {
            struct kafka_partition *partition = kafka->topics[i]->partitions[p];
            if (partition && partition->mirror != partition->mirrored && partition->mirror >= 0) {
                rd_kafka_topic_partition_list_add(list, kafka->topics[i]->name, (int32_t)p)->offset =
                    partition->mirror;
                partition->mirrored = partition->mirror;
            }
        }
    }
    pthread_mutex_unlock(&kafka->lock);
    if (list->cnt > 0 && rd_kafka_commit(kafka->rk, list, 1) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        atomic_fetch_add(&kafka->commits_failed, 1);
        mirror_again(kafka, list);
    }
    rd_kafka_topic_partition_list_destroy(list);
}

/* ---- trouble ---- */

static enum kafka_trouble judge(struct kafka *kafka, int64_t now_ms, char text[DN_SOURCE_TEXT_MAX])
{
    const char *why = kafka->last_error[0] ? kafka->last_error : "no answer";
    if (kafka->unanswered && kafka->refused) {
        snprintf(
            text, DN_SOURCE_TEXT_MAX,
            "a broker refused us: %.300s; check the source's security.protocol, sasl.* and ssl.* properties",
            why);
        return KAFKA_REFUSED;
    }
    if (kafka->unanswered && now_ms - kafka->answered_ms > KAFKA_HEARD_LIMIT_MS) {
        snprintf(text, DN_SOURCE_TEXT_MAX, "no broker of %.150s answers: %.300s", kafka->config->brokers,
                 why);
        return KAFKA_SILENT;
    }
    for (size_t i = 0; i < kafka->topic_count && kafka->answered_ms > 0; i++) {
        const struct kafka_topic *topic = kafka->topics[i];
        if (topic->error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
            snprintf(text, DN_SOURCE_TEXT_MAX,
                     "topic %.255s does not exist yet, or no longer: it is read once it does", topic->name);
            return KAFKA_NO_TOPIC;
        }
        if (topic->error == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) {
            snprintf(
                text, DN_SOURCE_TEXT_MAX,
                "the brokers do not let us read topic %.255s: allow it to the user that the properties name",
                topic->name);
            return KAFKA_REFUSED;
        }
        if (topic->error && topic->partition_count == 0) {
            snprintf(text, DN_SOURCE_TEXT_MAX, "topic %.255s: %s", topic->name,
                     rd_kafka_err2str(topic->error));
            return KAFKA_NO_TOPIC;
        }
    }
    if (kafka->too_many) {
        snprintf(
            text, DN_SOURCE_TEXT_MAX,
            "the topics have more than %d partitions together: the rest is not read; make two sources of it",
            DN_SOURCE_PARTITIONS_MAX);
        return KAFKA_TOO_MANY;
    }
    text[0] = '\0';
    return KAFKA_FINE;
}

static void update_trouble(struct kafka *kafka)
{
    char text[DN_SOURCE_TEXT_MAX];
    int64_t now_ms = dn_wall_ms();
    pthread_mutex_lock(&kafka->lock);
    enum kafka_trouble trouble = judge(kafka, now_ms, text);
    bool changed = trouble != kafka->trouble;
    if (changed) {
        kafka->trouble = trouble;
        kafka->trouble_since_ms = trouble == KAFKA_FINE ? 0 : now_ms;
    }
    memcpy(kafka->trouble_text, text, sizeof(text));
    pthread_mutex_unlock(&kafka->lock);
    if (changed) {
        kafka->host->wake(kafka->host->data);
    }
}

/* ---- the thread ---- */

static bool wants_offsets(const struct kafka *kafka)
{
    for (size_t i = 0; i < kafka->topic_count; i++) {
        for (uint32_t p = 0; p < DN_SOURCE_PARTITIONS_MAX; p++) {
            if (kafka->topics[i]->partitions[p] && kafka->topics[i]->partitions[p]->want_offsets) {
                return true;
            }
        }
    }
    return false;
}

static void rest(struct kafka *kafka)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += KAFKA_TICK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&kafka->lock);
    if (!atomic_load(&kafka->stopping) && (kafka->unanswered || !wants_offsets(kafka))) {
        pthread_cond_timedwait(&kafka->wanted, &kafka->lock, &until);
    }
    pthread_mutex_unlock(&kafka->lock);
}

/* A wall clock that was set back must not silence us: hence the second condition. */
static bool is_due(struct kafka *kafka, const int64_t *next_ms, int64_t every_ms)
{
    int64_t now_ms = dn_wall_ms();
    pthread_mutex_lock(&kafka->lock);
    bool due = now_ms >= *next_ms || *next_ms > now_ms + every_ms;
    pthread_mutex_unlock(&kafka->lock);
    return due;
}

void *kafka_watch(void *argument)
{
    struct kafka *kafka = argument;
    while (!atomic_load(&kafka->stopping)) {
        rd_kafka_poll(kafka->rk, 0);
        if (is_due(kafka, &kafka->asked_next_ms, KAFKA_METADATA_MS)) {
            ask_metadata(kafka);
        }
        ask_offsets(kafka);
        if (kafka->config->group_id[0] && !kafka->unanswered &&
            is_due(kafka, &kafka->mirror_next_ms, KAFKA_MIRROR_MS)) {
            kafka->mirror_next_ms = dn_wall_ms() + KAFKA_MIRROR_MS;
            commit_mirror(kafka);
        }
        update_trouble(kafka);
        rest(kafka);
    }
    return NULL;
}
