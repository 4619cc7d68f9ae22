/* The topic that nodes read where the stream is a Kafka broker's: made, and given more partitions. Any
 * thread, but one change at a time. */
#ifndef DN_CHAOS_TOPIC_H
#define DN_CHAOS_TOPIC_H

#include "base/error.h"

#include <stdatomic.h>

#define CHAOS_TOPIC "clicks" /* its name */
#define CHAOS_PARTITIONS_MAX 64

struct chaos_topic {
    char brokers[64]; /* host:port */
    const char *name;
    unsigned step, most;    /* it grows by so many partitions, to at most so many */
    atomic_uint partitions; /* as the broker has confirmed */
};

/* With the partitions that it says. Tries for up to timeout_ms. DN_UNAVAILABLE: what the broker said last. */
enum dn_code chaos_topic_create(struct chaos_topic *topic, unsigned timeout_ms, struct dn_error *err);
/* Gives it `step` more partitions. DN_PRECONDITION: it has the most already. DN_UNAVAILABLE: the broker did
 * not confirm it: it may have more all the same, and the next call asks for the same number again. */
enum dn_code chaos_topic_grow(struct chaos_topic *topic, struct dn_error *err);

#endif
