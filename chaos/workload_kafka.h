/* A producer of the stream's topic that knows what became of each message.
 *
 * A message waits until the broker confirms it (delivery report). When the oldest has waited for
 * WORKLOAD_KAFKA_PATIENCE_MS, the producer gives up all that wait and another one takes its place, as if a
 * program had been started again: the broker may have them or not, and nobody sends them again. A producer by
 * itself may neither be given a timeout nor go on after one: librdkafka then sends what it had sent before
 * under a new epoch, and the broker, which has it already, takes it as new.
 *
 * When all is over the topic is read from its beginning to its end: what is there is there once (a producer
 * is idempotent), every confirmed message is, where the broker said; one that was given up is, or surely is
 * not. One thread. */
#ifndef DN_CHAOS_WORKLOAD_KAFKA_H
#define DN_CHAOS_WORKLOAD_KAFKA_H

#include "chaos/history.h"
#include "chaos/topic.h"

#define WORKLOAD_KAFKA_PATIENCE_MS 4000

struct workload_kafka;

struct workload_kafka_counts {
    uint64_t produced, confirmed;
    uint64_t given_up; /* the broker may have it or not, */
    uint64_t found;    /* and in the end it had: also of those that nothing was heard of at all */
};

/* stream: its name in the history. All outlive it. */
enum dn_code workload_kafka_open(struct chaos_topic *topic, struct chaos_history *history, const char *stream,
                                 struct workload_kafka **ret, struct dn_error *err);
void workload_kafka_close(struct workload_kafka *kafka); /* NULL allowed */

/* Sends it, to the partition that murmur2 of the key gives, and takes what was confirmed meanwhile. user:
 * CHAOS_NO_USER when it is no event. An error: the producer is broken for good. */
enum dn_code workload_kafka_put(struct workload_kafka *kafka, const char *key, uint64_t user,
                                const struct chaos_event *event, const char *text, struct dn_error *err);

/* Waits for what is on its way, reads the topic back, and writes into the history what became known.
 * ret_ends: where each partition ends, CHAOS_PARTITIONS_MAX of them. */
enum dn_code workload_kafka_finish(struct workload_kafka *kafka, int64_t *ret_ends, unsigned *ret_partitions,
                                   struct dn_error *err);
void workload_kafka_count(const struct workload_kafka *kafka, struct workload_kafka_counts *ret);

#endif
