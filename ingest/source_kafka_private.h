/* The Kafka driver's insides: shared by source_kafka*.c, and by nobody else.
 *
 * Invariants:
 * 1. librdkafka's own consumer position, group membership and stored offsets are not used: a partition is
 * read by the legacy, partition-wise interface (rd_kafka_consume_start_queue), from an offset that we say.
 * Each partition stands for itself there: starting one touches no other, and each start and stop takes
 * effect, by librdkafka's version barrier, before the call returns. (rd_kafka_assign goes through the group's
 * state machine, which serialises all partitions, and acts later.)
 * 2. A partition's queue belongs to it alone, so what is not read fills only its own, and stops its fetching.
 * 3. What blocks (metadata, offsets that a broker must be asked for, commits) runs on the watching thread;
 * what both threads see stands under `lock`.
 * 4. `position` is where the next message may be: next_offset of the last that was given out. */
#ifndef DN_INGEST_SOURCE_KAFKA_PRIVATE_H
#define DN_INGEST_SOURCE_KAFKA_PRIVATE_H

#include "ingest/source.h"

#include <librdkafka/rdkafka.h>

#include <pthread.h>
#include <stdatomic.h>

#define KAFKA_BROKERS_MAX 256       /* whose last sign of life is remembered */
#define KAFKA_READ_MAX 512          /* messages in one read */
#define KAFKA_HEARD_LIMIT_MS 2500   /* silence for longer: out of touch */
#define KAFKA_METADATA_MS 2000      /* between questions for partitions and leaders */
#define KAFKA_METADATA_RETRY_MS 500 /* the same when the last was not answered, or a topic is missing */
#define KAFKA_QUESTION_MS 800       /* patience for an answer; close() waits at most for one */
#define KAFKA_MIRROR_MS 3000        /* between commits to the consumer group */
#define KAFKA_TICK_MS 100           /* of the watching thread */
#define KAFKA_PARK_MS 5000 /* a partition with messages that nobody reads for so long lets go of them */
#define KAFKA_QUEUE_MESSAGES 10000 /* fetched ahead in a partition */
#define KAFKA_QUEUE_KBYTES 2048    /* the same in bytes, without the bookkeeping of each message */

struct kafka_partition {
    uint32_t topic, number;
    /* The ingest thread's. */
    bool started, parked;
    rd_kafka_queue_t *queue; /* while started and not parked */
    int64_t position;        /* DN_STREAM_OFFSET_UNSET: the beginning */
    unsigned refusals;       /* of `position`, one after another */
    bool filled;             /* its queue was full when last seen: fetching may have stopped */
    uint64_t read_us;        /* monotonic, when it was last read */
    rd_kafka_message_t *held[KAFKA_READ_MAX];
    size_t held_count;
    bool at_end, gap, failed;
    char error[DN_SOURCE_TEXT_MAX];
    /* Both threads', under the lock. */
    int32_t leader;           /* a broker's id; -1: none known */
    bool want_offsets;        /* the watching thread shall ask for what follows */
    int64_t begin, end;       /* as answered; -1: not yet */
    int64_t mirror, mirrored; /* to be committed, and committed; -1: nothing */
};

struct kafka_topic {
    char name[DN_SOURCE_TEXT_MAX];
    char stream[DN_SOURCE_MAX + 1];
    rd_kafka_topic_t *handle;
    /* Under the lock. */
    uint32_t partition_count;
    rd_kafka_resp_err_t error; /* of the topic as a whole, as last answered */
    struct kafka_partition *partitions[DN_SOURCE_PARTITIONS_MAX]; /* NULL: not asked for yet */
};

enum kafka_trouble { KAFKA_FINE, KAFKA_REFUSED, KAFKA_SILENT, KAFKA_NO_TOPIC, KAFKA_TOO_MANY };

struct kafka {
    const struct dn_source_config *config;
    const struct dn_source_host *host;
    rd_kafka_t *rk;
    struct kafka_topic *topics[DN_SOURCE_LIST_MAX];
    size_t topic_count;
    uint64_t housekept_us; /* the ingest thread's */

    pthread_t watcher;
    atomic_bool stopping;
    atomic_ulong commits_failed;
    pthread_mutex_t lock;
    pthread_cond_t wanted; /* the watching thread has something to do */
    struct {
        int32_t id;
        int64_t heard_ms; /* wall time */
    } brokers[KAFKA_BROKERS_MAX];
    size_t broker_count;
    int64_t answered_ms; /* wall time of the last answer to a question for metadata; or of open() */
    int64_t asked_next_ms, mirror_next_ms;
    bool unanswered; /* the last question */
    bool too_many;   /* partitions */
    bool refused;    /* credentials or certificates, since the last answer */
    char last_error[DN_SOURCE_TEXT_MAX];
    enum kafka_trouble trouble;
    int64_t trouble_since_ms;
    char trouble_text[DN_SOURCE_TEXT_MAX];
};

/* ---- source_kafka_conf.c ---- */

/* The settings of a consumer; `opaque` reaches every callback. For the driver itself, or the dead letters'
 * fetcher. DN_INVALID: the name of the setting that is wrong, never a value. */
enum dn_code kafka_conf(const struct dn_source_config *config, bool fetcher, void *opaque,
                        rd_kafka_conf_t **ret_conf, struct dn_error *err);
/* Topics, brokers and names. */
enum dn_code kafka_check(const struct dn_source_config *config, struct dn_error *err);
/* A client of these settings; takes `conf` in any case. */
enum dn_code kafka_client(const struct dn_source_config *config, rd_kafka_conf_t *conf, rd_kafka_t **ret_rk,
                          struct dn_error *err);
/* Puts "***" where a value of the configuration that may be a secret stands in a text of librdkafka's. */
void kafka_redact(const struct dn_source_config *config, char *text);

/* ---- source_kafka_watch.c ---- */

void kafka_on_error(rd_kafka_t *rk, int error, const char *reason, void *opaque);
int kafka_on_statistics(rd_kafka_t *rk, char *json, size_t length, void *opaque);
void kafka_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t *offsets,
                     void *opaque);
void *kafka_watch(void *argument); /* the thread */
/* Wall time when this broker last said something; 0: never. The lock is held. */
int64_t kafka_heard(const struct kafka *kafka, int32_t broker);

/* ---- source_kafka_read.c: as in struct dn_source_driver ---- */

enum dn_code kafka_start(void *self, size_t stream, uint32_t number, int64_t offset, struct dn_error *err);
void kafka_stop(void *self, size_t stream, uint32_t number);
size_t kafka_read(void *self, size_t stream, uint32_t number, struct dn_message *ret, size_t max);
void kafka_release(void *self, size_t stream, uint32_t number);
void kafka_status(void *self, size_t stream, uint32_t number, struct dn_partition_status *ret);
void kafka_mirror(void *self, size_t stream, uint32_t number, int64_t next_offset);
/* Of an error that does not get better by itself: what a person can do, to be put behind its text. NULL: it
 * may get better. */
const char *kafka_what_to_do(rd_kafka_resp_err_t error);
/* librdkafka's message as ours; message_bytes 0: of any size. */
void kafka_message(const rd_kafka_message_t *message, uint64_t message_bytes, struct dn_message *ret);

/* ---- source_kafka_fetch.c: as in struct dn_source_driver ---- */

enum dn_code kafka_fetcher_open(const struct dn_source_config *config, const struct dn_source_host *host,
                                void **ret_fetcher, struct dn_error *err);
void kafka_fetcher_close(void *fetcher);
enum dn_code kafka_fetch(void *fetcher, const char *stream, uint32_t partition, int64_t offset,
                         unsigned timeout_ms, struct dn_message *ret, struct dn_error *err);
void kafka_fetcher_on_error(rd_kafka_t *rk, int error, const char *reason, void *opaque);

#endif
