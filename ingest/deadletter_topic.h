/* A topic that dead letters are sent to: librdkafka's producer, idempotent, acknowledged by all replicas in
 * sync. Private to ingest. One thread; nothing here waits, but for close. */
#ifndef DN_INGEST_DEADLETTER_TOPIC_H
#define DN_INGEST_DEADLETTER_TOPIC_H

#include "base/error.h"
#include "ingest/source.h"

#include <stddef.h>
#include <stdint.h>

struct dn_dead_topic;

enum dn_dead_post_state {
    DN_POST_WAITING,
    DN_POST_DELIVERED,
    DN_POST_TOO_LARGE, /* for this topic, now and always */
    DN_POST_FAILED,
};

struct dn_dead_post {   /* the caller's, with the bytes: alive until it does not wait any more */
    const uint8_t *key; /* NULL: none */
    size_t key_length;
    const uint8_t *line;
    size_t length;
    enum dn_dead_post_state state;
};

/* The brokers and properties are the source's, the topic is config->dead_to. Waits for no broker. DN_INVALID:
 * a property, by its name only. */
enum dn_code dn_dead_topic_open(const struct dn_source_config *config, struct dn_dead_topic **ret,
                                struct dn_error *err);
/* What waits is given up: DN_POST_FAILED. NULL allowed. */
void dn_dead_topic_close(struct dn_dead_topic *topic);

const char *dn_dead_topic_name(const struct dn_dead_topic *topic);
void dn_dead_topic_send(struct dn_dead_topic *topic, struct dn_dead_post *posts, size_t count);
/* Takes in what happened; returns how many posts wait. */
size_t dn_dead_topic_poll(struct dn_dead_topic *topic);
/* The last error since the last delivery; "" : none. Valid until the next call. */
const char *dn_dead_topic_error(const struct dn_dead_topic *topic);

#endif
