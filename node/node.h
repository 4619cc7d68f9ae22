/* Private to node: one running dunlind.
 *
 *   opening -> waiting -> (facts known) -> serving -> draining -> stopped
 *
 * The main thread owns the life of everything: it opens from the bottom up, then turns a slow loop (steward)
 * that proposes settings and facts and learns whether they match; it ends at a signal, or when the cluster
 * removed this node, and closes from the top down. Until the facts are known, the API answers about the
 * cluster and itself only. The consensus thread is the one writer of catalogue and shards. */
#ifndef DN_NODE_NODE_H
#define DN_NODE_NODE_H

#include "api/api.h"
#include "base/epoch.h"
#include "base/metrics.h"
#include "consensus/consensus.h"
#include "index/index.h"
#include "ingest/ingest.h"
#include "node/config.h"
#include "session/session.h"

#include <stdatomic.h>

/* Exit codes of dunlind. */
enum dn_exit {
    DN_EXIT_OK = 0,
    DN_EXIT_FAILURE = 1, /* at run time */
    DN_EXIT_USAGE = 2,   /* options or configuration */
    DN_EXIT_DATA =
        3, /* data directory refused or damaged, or a key or shard count that is not the cluster's */
    DN_EXIT_ADDRESS = 4, /* in use, or not this machine's */
    DN_EXIT_FATAL = 5,   /* the state is in the minority, or a group failed for good */
};

#define DN_SHARDS_MAX (DN_GROUPS_MAX - 1)

struct dn_shard_seat { /* what stands behind a shard's dn_fsm (fsm.c) */
    struct dn_shard *shard;
    struct dn_histogram *freshness; /* of stream events: from their own time until they are visible here */
    int64_t since_ms;               /* wall time; what was committed before is not observed */
};

struct dn_steward;
struct dn_admin;
struct dn_streams;
struct dn_learning;

struct dn_node {
    const struct dn_config *config;
    uint8_t hash_key[DN_HASH_KEY_BYTES];
    char fingerprint[DN_FINGERPRINT_MAX];
    uint64_t started_us;

    struct dn_metrics *metrics;
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader; /* the main thread's */
    struct dn_catalog *catalog;
    uint32_t shard_count;
    struct dn_shard *shards[DN_SHARDS_MAX];
    struct dn_shard_seat seats[DN_SHARDS_MAX];
    struct dn_retrieval *retrieval;
    struct dn_member members[DN_NODES_MAX];
    const char *member_names[DN_NODES_MAX];

    /* Set once by the main thread, when the thing runs; read by callbacks and by the admin thread. */
    _Atomic(struct dn_consensus *) consensus;
    _Atomic(struct dn_api *) api;
    struct dn_steward *steward;
    struct dn_learning *learning; /* there from before consensus starts until after it stopped */
    struct dn_streams *streams;   /* there from before consensus starts until after it stopped */
    struct dn_admin *admin;
    atomic_bool facts_known; /* the cluster's shard count and key fingerprint are those of this node */
    atomic_bool draining;
    char removed_reason[DN_ERROR_MESSAGE_MAX]; /* written before `removed` is set */
    atomic_bool removed;                       /* the cluster has removed this node */
    _Atomic uint64_t epoch_backlog;            /* objects that wait to be freed */
};

/* Runs the node until a signal, or until the cluster removes it; returns the exit code. Errors are logged.
 * bootstrap_alone: as in struct dn_consensus_options. */
enum dn_exit dn_node_run(const struct dn_config *config, bool bootstrap_alone);

/* Whether the node should get traffic; writes why not. Any thread, no epoch needed. */
bool dn_node_ready(void *node, char *ret_reason, size_t size);
/* Whether its loops turned within the last two seconds; writes which did not. Any thread. */
bool dn_node_alive(struct dn_node *node, char *ret_reason, size_t size);

/* ---- state machines (fsm.c) -----------------------------------------------------------------------------
 */

struct dn_fsm dn_fsm_catalog(struct dn_catalog *catalog);
struct dn_fsm dn_fsm_shard(struct dn_shard_seat *seat); /* which outlives it */

/* ---- steward: settings and facts (steward.c; main thread, except where they say) ------------------------
 */

struct dn_steward *dn_steward_create(struct dn_node *node);
void dn_steward_destroy(struct dn_steward *steward); /* after consensus stopped; NULL allowed */
/* Compares facts_seen in data_dir with the configuration. DN_PRECONDITION, DN_CORRUPT, DN_IO. */
enum dn_code dn_steward_check_file(struct dn_steward *steward, struct dn_error *err);
/* One round: proposes what is missing where this node leads; learns the facts. DN_PRECONDITION: they are not
 * ours. */
enum dn_code dn_steward_turn(struct dn_steward *steward, struct dn_error *err);
/* This node leads `group` now. Consensus thread. */
void dn_steward_on_leader(struct dn_steward *steward, uint32_t group);

/* ---- streams (stream.c) ---------------------------------------------------------------------------------
 */

/* What of the sources' configuration can be checked without reading any. DN_INVALID. */
enum dn_code dn_streams_check(const struct dn_config *config, struct dn_error *err);
/* NULL: out of memory. Nothing is read yet. */
struct dn_streams *dn_streams_create(struct dn_node *node);
/* Main thread, every turn: starts the sources once the facts are known; where none are configured, takes back
 * what older ones said of standing still. DN_INVALID: a source's configuration. A broker that is down, or a
 * file that is not there yet, is no error. */
enum dn_code dn_streams_turn(struct dn_streams *streams, struct dn_error *err);
/* Leaderships changed. Any thread. */
void dn_streams_wake(struct dn_streams *streams);
/* Reads no more; consensus still runs. May take a second for each source. */
void dn_streams_stop(struct dn_streams *streams);
void dn_streams_destroy(struct dn_streams *streams); /* after consensus stopped; NULL allowed */
/* Microseconds since the ingest thread last turned; 0 where there is none. Any thread. */
uint64_t dn_streams_loop_age_us(const struct dn_streams *streams);
/* As dn_ingest_rows; none before the start. */
size_t dn_streams_rows(struct dn_streams *streams, struct dn_ingest_row *ret, size_t max);
/* As dn_ingest_has; false before the start. */
bool dn_streams_has(struct dn_streams *streams, const char *stream);
/* As dn_deadletters_trouble. */
int64_t dn_streams_letters_trouble(struct dn_streams *streams, char ret_text[DN_SOURCE_TEXT_MAX]);
/* stream_page.c: the streams' part of the metrics page; `reader` is the calling thread's. */
void dn_streams_render(struct dn_node *node, struct dn_epoch_reader *reader, struct dn_buffer *out);
/* As struct dn_api_options wants it; data is the struct dn_streams. */
size_t dn_streams_api_rows(void *data, struct dn_api_source_row *ret, size_t max);
bool dn_streams_api_has(void *data, const char *stream);

/* ---- admin port (admin.c, gauges.c) ----------------------------------------------------------------------
 */

/* DN_UNAVAILABLE: the address cannot be had. */
enum dn_code dn_admin_start(struct dn_node *node, struct dn_admin **ret, struct dn_error *err);
void dn_admin_stop(struct dn_admin *admin); /* NULL allowed */
uint16_t dn_admin_port(const struct dn_admin *admin);

/* Brings the gauges up to date. `reader` is the calling thread's. */
void dn_gauges_update(struct dn_node *node, struct dn_epoch_reader *reader);

#endif
