/* API: dunlin.v1 and grpc.health.v1 on gRPC (HTTP/2 by nghttp2, sockets by libuv).
 *
 * N threads, each with its own loop and its own listening socket (SO_REUSEPORT): a request is parsed,
 * computed and answered on the thread that accepted it. A call that must wait (a write, a SESSION or
 * LINEARIZABLE read) parks; the consensus thread posts the completion to the call's thread. */
#ifndef DN_API_API_H
#define DN_API_API_H

#include "base/error.h"
#include "base/hash.h"
#include "base/metrics.h"
#include "consensus/consensus.h"
#include "index/index.h"
#include "recommend/recommend.h"
#include "recommend/variant.h"
#include "session/session.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define DN_API_REASON_MAX 640 /* bytes of the reason that `ready` gives */

struct dn_api_limits {            /* 0: the default behind it */
    uint32_t message_bytes;       /* one request message: 4 MiB */
    uint32_t connections;         /* per thread: 1024 */
    uint32_t streams;             /* concurrent, per connection: 256 */
    uint32_t arena_bytes;         /* memory of one request: 32 MiB */
    uint32_t default_deadline_ms; /* when the client gives none: 5000 */
    uint32_t max_deadline_ms;     /* 60000 */
    uint32_t pending_calls;       /* parked calls per thread: 10000 */
    uint64_t pending_bytes;       /* request and response bytes held per thread: 256 MiB */
    uint32_t idle_timeout_ms;     /* a connection that finished no request for this long is closed: 300000 */
    uint32_t resets_per_s; /* calls given up, per connection, in the long run: 2000 (DN_RESETS_BURST_S) */
};

/* What this node knows of a partition that it reads for a shard. The API may not know ingest: the node fills
 * these. */
struct dn_api_source_row {
    char source[DN_SOURCE_MAX + 1];
    char stream[DN_SOURCE_MAX + 1];
    uint32_t partition, group; /* group 0: trouble of the source as a whole; partition means nothing then */
    uint8_t state;             /* dunlin.v1.PartitionState */
    bool keyed, stalled;
    int64_t next_offset, begin_offset, end_offset, lag_records, lag_ms; /* -1: unknown */
    char error[512];
};

struct dn_api_options {
    const char *address; /* "host:port"; port 0 picks one */
    unsigned threads;    /* 0: 1 */
    struct dn_api_limits limits;
    const char *node_name;
    uint64_t node_id;
    const char *cluster_id;
    const char *version;
    const struct dn_member *members;
    const char *const *member_names;
    size_t member_count;
    uint32_t shard_count; /* session shards: groups 1..shard_count */
    struct dn_consensus *consensus;
    struct dn_epoch *epoch;
    struct dn_shard *const *shards; /* shards[g-1] is group g; all are hosted here */
    const struct dn_catalog *catalog;
    struct dn_retrieval *retrieval;
    struct dn_recommend_settings recommend;
    uint32_t shown_users;                /* users whose last answer is kept to look for clicks; 0: none */
    struct dn_experiment experiment;     /* dn_experiment_check'ed; count 0: none */
    uint8_t hash_key[DN_HASH_KEY_BYTES]; /* user and event ids are hashed with it */
    uint32_t freshness_alarm_ms;         /* answers older than this say stale; default 2000 */
    /* Whether the node is ready to serve; writes the reason when not. Any thread. */
    bool (*ready)(void *data, char *ret_reason, size_t size);
    void *ready_data;
    /* While it is false, calls about users and items are UNAVAILABLE with the reason that `ready` gives; the
     * Cluster and Health services answer all the same. NULL: always open. Read by the API threads. */
    const atomic_bool *open;
    struct dn_metrics *metrics;
    /* What this node reads now: puts at most `max` rows into ret and returns how many there are. Any thread.
     * NULL: it reads nothing. */
    size_t (*source_rows)(void *data, struct dn_api_source_row *ret, size_t max);
    /* Is that stream one of this node's sources', and there? Any thread. NULL: none is. */
    bool (*source_has)(void *data, const char *stream);
    void *source_data;
};

struct dn_api;

/* Listens and starts the threads. The error names the address and why (in use, not allowed). */
enum dn_code dn_api_start(const struct dn_api_options *options, struct dn_api **ret, struct dn_error *err);
/* The port in use (for port 0). */
uint16_t dn_api_port(const struct dn_api *api);
/* From now on grpc.health.v1 says NOT_SERVING, connections get GOAWAY, new streams are refused, running calls
 * go on; returns when all are done or after drain_ms. */
void dn_api_drain(struct dn_api *api, unsigned drain_ms);
/* Closes everything and joins the threads. Completions still in flight from consensus must have come in:
 * stop consensus first. */
void dn_api_stop(struct dn_api *api);
void dn_api_destroy(struct dn_api *api);

/* True when every API loop turned within the last max_age_us. */
bool dn_api_alive(const struct dn_api *api, uint64_t max_age_us);

/* The shard (group number) of a user: 1 + murmur2(user) mod shard_count. */
uint32_t dn_api_shard_of(const char *user, size_t length, uint32_t shard_count);

#endif
