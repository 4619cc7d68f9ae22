/* The stream that nodes read beside what clients ask, to which one producer appends: a file of lines, the
 * same for all nodes, or a Kafka topic. Most messages are new events of the users that clients work on; some
 * are no events. One thread, but where it says otherwise. */
#ifndef DN_CHAOS_WORKLOAD_STREAM_H
#define DN_CHAOS_WORKLOAD_STREAM_H

#include "chaos/history.h"
#include "chaos/topic.h"
#include "chaos/workload_random.h"
#include "chaos/workload_users.h"

#define WORKLOAD_STREAM "chaos" /* its source's name in the configuration, and its own in histories */

enum workload_stream_kind {
    WORKLOAD_FILE,
    WORKLOAD_KAFKA,         /* keyed by user: each partition is one shard's */
    WORKLOAD_KAFKA_UNKEYED, /* any event in any partition: all shards read all */
};

struct workload_stream_options {
    enum workload_stream_kind kind;
    const char *path;          /* WORKLOAD_FILE */
    struct chaos_topic *topic; /* the others; it exists */
    unsigned shards;
};

struct workload_kafka;

struct workload_stream {
    struct workload_stream_options options;
    struct chaos_history *history;
    struct workload_users *users;
    struct workload_random random;
    uint64_t last_dud; /* number of the last message that is no event */
    int fd;
    struct workload_kafka *kafka;
    /* Where each partition ends; of a topic once it is finished. */
    int64_t ends[CHAOS_PARTITIONS_MAX];
    unsigned partitions;
};

/* Makes the file, empty, before nodes start; it must not exist. */
enum dn_code workload_stream_create(const char *path, struct dn_error *err);
/* What a node's configuration says of it; CLUSTER_BROKERS (cluster.h) stands for a broker's address. Returns
 * false when it does not fit. */
bool workload_stream_yaml(enum workload_stream_kind kind, const char *path, char *ret_text, size_t size);

/* options, history and users outlive it. */
enum dn_code workload_stream_open(struct workload_stream *stream,
                                  const struct workload_stream_options *options,
                                  struct chaos_history *history, struct workload_users *users, uint64_t seed,
                                  struct dn_error *err);
void workload_stream_close(struct workload_stream *stream);

/* Appends some events of one user, a message each, or a message that is none; each is in the history before,
 * and once the stream surely has it. An error ends the stream: nothing more is known of what it has. */
enum dn_code workload_stream_step(struct workload_stream *stream, struct dn_error *err);
/* After the last step, once; the broker runs. Settles what the stream has, and writes into the history where
 * it ends. An error: it has not what it confirmed, or cannot be asked; what is known is told all the same.
 * May take half a minute. */
enum dn_code workload_stream_finish(struct workload_stream *stream, struct dn_error *err);
/* What was produced, for people. After workload_stream_finish. */
void workload_stream_describe(const struct workload_stream *stream, char *ret_text, size_t size);

/* Whether these OFFSETS of a node say that each shard has all that it is to read. False: ret_text says what
 * is missing. After workload_stream_finish. */
bool workload_stream_is_read(const struct workload_stream *stream, const struct chaos_row *rows, size_t count,
                             char *ret_text, size_t size);

#endif
