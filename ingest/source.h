/* What a source of events must provide: the seam behind which Kafka and files are alike.
 *
 * A *source* is one entry of the configuration. It brings *streams* (a topic; a file), each made of
 * *partitions* in which every message has an offset. Offsets rise, gaps are allowed (compaction,
 * transactions), and the same offset always means the same message. The driver reads; it remembers nothing:
 * where to read from is said by those who hold the replicated offsets.
 *
 * All functions are called on the ingest thread, do not block for longer than a few milliseconds, and never
 * call back, except where they say otherwise. A driver has threads of its own if it needs them; it wakes the
 * ingest thread by dn_source_host.wake, which any thread may call. */
#ifndef DN_INGEST_SOURCE_H
#define DN_INGEST_SOURCE_H

#include "base/error.h"
#include "session/session.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_SOURCES_CONFIGURED_MAX 16
#define DN_SOURCE_NAME_MAX 32                /* bytes in a source's name: letters, digits, - and _ */
#define DN_SOURCE_PARTITIONS_MAX 1024        /* partitions of all streams of a source */
#define DN_SOURCE_TEXT_MAX 512               /* with the NUL */
#define DN_SOURCE_LIST_MAX 16                /* topics or paths */
#define DN_SOURCE_PROPERTIES_MAX 32          /* settings passed through to the client library */
#define DN_STREAM_OFFSET_UNSET ((int64_t)-1) /* the beginning of what there is */

/* ---- configuration ---------------------------------------------------------------------------------- */

enum dn_source_kind { DN_SOURCE_KAFKA, DN_SOURCE_FILE };
enum dn_source_format { DN_FORMAT_JSON, DN_FORMAT_PROTOBUF };
enum dn_time_unit { DN_TIME_MS, DN_TIME_S, DN_TIME_US, DN_TIME_NS, DN_TIME_ISO8601 };

#define DN_SOURCE_TYPES_MAX 32

/* Where an event's fields stand in a message. A path names nested objects with dots: "context.user.id". */
struct dn_source_fields {            /* an empty path: the name in parentheses */
    char user[DN_SOURCE_TEXT_MAX];   /* ("user_id"); "@key": the message's key */
    char item[DN_SOURCE_TEXT_MAX];   /* ("item_id") */
    char type[DN_SOURCE_TEXT_MAX];   /* ("type") */
    char time[DN_SOURCE_TEXT_MAX];   /* ("time_ms"); "@time": the message's own time */
    char weight[DN_SOURCE_TEXT_MAX]; /* ("weight") */
    enum dn_time_unit time_unit;
    char constant_type[DN_SOURCE_TEXT_MAX]; /* every event has this type; empty: from the field, else view */
    struct {
        char name[64];
        uint8_t type; /* enum dn_event_type; 0: such messages are no events, and are passed over */
    } types[DN_SOURCE_TYPES_MAX]; /* other names for types, beside view, click, cart, ... */
    size_t type_count;
};

enum dn_dead_sink { DN_DEAD_TO_FILE, DN_DEAD_TO_TOPIC, DN_DEAD_DROPPED };

struct dn_source_config {
    char name[DN_SOURCE_NAME_MAX + 1];
    enum dn_source_kind kind;
    enum dn_source_format format;
    struct dn_source_fields fields;
    uint64_t message_bytes; /* a larger message is a dead letter */
    bool keyed;             /* messages are partitioned by user id, with murmur2 (Java's default) */
    uint64_t batch_events, batch_bytes, batch_ms, inflight_batches;

    char list[DN_SOURCE_LIST_MAX][DN_SOURCE_TEXT_MAX]; /* topics, or paths (a file, a folder, "-") */
    size_t list_count;
    bool follow; /* files: goes on as they grow, and over rotation */

    char brokers[DN_SOURCE_TEXT_MAX];
    struct {
        char name[64];
        char value[DN_SOURCE_TEXT_MAX];     /* may be a secret: never printed or logged */
    } properties[DN_SOURCE_PROPERTIES_MAX]; /* librdkafka's, as they are: security.protocol, ... */
    size_t property_count;
    char group_id[DN_SOURCE_TEXT_MAX]; /* offsets are mirrored to it; empty: they are not */

    enum dn_dead_sink dead_sink;
    char dead_to[DN_SOURCE_TEXT_MAX]; /* the file, or the topic */
};

/* ---- messages --------------------------------------------------------------------------------------- */

struct dn_message {
    int64_t offset;
    int64_t next_offset; /* where reading goes on after it: offset + 1 in Kafka, the next line in a file */
    int64_t time_ms;     /* of the message itself; -1: it has none */
    const uint8_t *key;  /* NULL: none */
    size_t key_length;
    const uint8_t *bytes; /* NULL: it has none (a compacted topic's tombstone) */
    size_t length;
    /* No message, but a fact: everything before next_offset was delivered, and nothing comes after it now. */
    bool end;
    /* The message's bytes were not kept: longer than message_bytes. `bytes` is NULL, `length` what it was. */
    bool too_large;
};

enum dn_partition_state {
    DN_PARTITION_IDLE,       /* not started */
    DN_PARTITION_CONNECTING, /* nothing heard yet, or no longer */
    DN_PARTITION_READING,
    DN_PARTITION_AT_END, /* and in touch: messages would have come */
    DN_PARTITION_GAP,    /* the offset asked for is not there any more, or not yet: a person must decide */
    DN_PARTITION_FAILED, /* cannot go on by itself: see the text */
};

struct dn_partition_status {
    enum dn_partition_state state;
    bool waits; /* CONNECTING, and nothing is wrong: its turn has not come, or what it was is gone for good */
    int64_t begin_offset, end_offset; /* of what the stream holds; -1: unknown */
    int64_t heard_ms;                 /* wall time when the driver last knew itself in touch; 0: never */
    char error[DN_SOURCE_TEXT_MAX];   /* the last one, for people, with what to do; empty: none */
};

/* ---- the driver ------------------------------------------------------------------------------------- */

struct dn_source_host {
    void (*wake)(void *data); /* something may be there to read, or changed. Any thread. */
    void *data;
    uint64_t node_id;
    const char *data_dir; /* of this node */
    bool still;           /* nobody waits for more: what stands at the end of a file now is whole */
    /* Files that are not followed, open at a time; others wait until one was read to its end. 0: 64. */
    size_t open_files_max;
};

struct dn_stream_info {
    char stream[DN_SOURCE_MAX + 1]; /* its name in the replicated state: "source/topic"; empty: the number
                                       is nobody's, since what had it was forgotten */
    uint32_t partition_count;       /* numbered from 0; may grow */
    /* Only this node can read it: it does so for every shard, whoever leads it. Its name says whose it is
     * (dn_stream_node, reader.h). */
    bool local;
    /* It is there no more: looked for long enough, where it was, and with nothing of it still open. What was
     * AT_END then was all of it. It may come back. */
    bool gone;
};

struct dn_source_driver {
    const char *kind; /* "kafka" */
    /* What open would find wrong with the configuration by itself. Asks no broker. Any thread. */
    enum dn_code (*check)(const struct dn_source_config *config, struct dn_error *err);
    /* Does not wait for a broker or a file to be there. `config` and `host` outlive it. Errors: what is wrong
     * with the configuration. */
    enum dn_code (*open)(const struct dn_source_config *config, const struct dn_source_host *host,
                         void **ret_self, struct dn_error *err);
    void (*close)(void *self); /* may take a second */
    /* The streams known now, by a stable number (an index into ret that does not change until it is
     * forgotten; new ones come at the end, or where one was forgotten). Returns how many, nobody's numbers
     * included. */
    size_t (*streams)(void *self, struct dn_stream_info *ret, size_t max);
    /* Lets go of a stream that is gone and not started: its number may become another's, or its own again
     * when it comes back. NULL: no stream of this driver is ever gone. */
    void (*forget)(void *self, size_t stream);
    /* What is wrong with the source as a whole (no broker, no such topic or file), and since when (wall time,
     * ms); 0 and an empty text: nothing. */
    int64_t (*trouble)(void *self, char ret_text[DN_SOURCE_TEXT_MAX]);

    /* Reads from `offset` on (DN_STREAM_OFFSET_UNSET: from the beginning); again: from there, and nothing
     * that was fetched before comes any more. */
    enum dn_code (*start)(void *self, size_t stream, uint32_t partition, int64_t offset,
                          struct dn_error *err);
    void (*stop)(void *self, size_t stream, uint32_t partition);
    /* Up to `max` messages, at once; 0: nothing now. They are valid until `release`, which is called before
     * the partition is read again. Memory is bounded by what is read: a partition that is not read fetches no
     * more than a little ahead. */
    size_t (*read)(void *self, size_t stream, uint32_t partition, struct dn_message *ret, size_t max);
    void (*release)(void *self, size_t stream, uint32_t partition);
    /* What stands under the stream's name now, told from other contents by what they begin with: > 0. 0: they
     * cannot be mistaken for others; -1: not known now. NULL: 0. */
    int64_t (*contents)(void *self, size_t stream);
    void (*status)(void *self, size_t stream, uint32_t partition, struct dn_partition_status *ret);
    /* Everything below is in the replicated state: mirrored where people look for it, best effort. May be
     * NULL. */
    void (*mirror)(void *self, size_t stream, uint32_t partition, int64_t next_offset);

    /* ---- dead letters: on a thread of its own, may block; an object of its own beside `open`'s ---- */

    /* Opens what fetch needs. */
    enum dn_code (*fetcher_open)(const struct dn_source_config *config, const struct dn_source_host *host,
                                 void **ret_fetcher, struct dn_error *err);
    void (*fetcher_close)(void *fetcher);
    /* The message at exactly that offset; valid until the next call. DN_NOT_FOUND: it is not there any more.
     * DN_UNIMPLEMENTED: this node cannot tell, the stream may be another's (`local`).
     * DN_DEADLINE, DN_UNAVAILABLE: try again. Quick for rising offsets of one partition. */
    enum dn_code (*fetch)(void *fetcher, const char *stream, uint32_t partition, int64_t offset,
                          unsigned timeout_ms, struct dn_message *ret, struct dn_error *err);
};

extern const struct dn_source_driver dn_source_kafka; /* source_kafka.c */
extern const struct dn_source_driver dn_source_file;  /* source_file.c */

#endif
