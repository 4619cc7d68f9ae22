/* A whole one-member cluster in this process: consensus, two shards, catalogue, retrieval, and the API on a
 * free port. */
#ifndef DN_TEST_API_CLUSTER_H
#define DN_TEST_API_CLUSTER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/api.h"
#include "base/clock.h"

#include "tests/free_port.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLUSTER_SHARDS 2
#define CLUSTER_WAIT_MS 30000

struct cluster {
    char directory[64];
    struct dn_metrics *metrics;
    struct dn_epoch *epoch;
    struct dn_shard *shards[CLUSTER_SHARDS];
    struct dn_catalog *catalog;
    struct dn_retrieval *retrieval;
    struct dn_consensus *consensus;
    struct dn_api *api;
    char address[32];
    atomic_bool ready;
    /* What the node says it reads. Set while no call is under way. */
    struct dn_api_source_row *rows;
    size_t row_count;
    const char *has; /* a stream of this node's sources */
};

/* Of every cluster that is started; a test sets it before. */
static struct dn_experiment cluster_experiment;

static const uint8_t cluster_key[DN_HASH_KEY_BYTES] = "a cluster's key";

/* The wrappers that the node has too: struct dn_apply into plain values. */
static inline void cluster_shard_apply(void *state, const struct dn_apply *at, const uint8_t *record,
                                       size_t length, struct dn_buffer *result)
{
    dn_shard_apply(state, at->index, at->ordinal, at->time_ms, record, length, result);
}

static inline void cluster_shard_done(void *state, const struct dn_apply *at)
{
    dn_shard_entry_done(state, at->index, at->time_ms);
}

static inline bool cluster_shard_apply_part(void *state, const struct dn_apply *at, const uint8_t *record,
                                            size_t length, struct dn_buffer *result)
{
    return dn_shard_apply_part(state, at->index, at->ordinal, at->time_ms, record, length, result);
}

static inline void cluster_catalog_apply(void *state, const struct dn_apply *at, const uint8_t *record,
                                         size_t length, struct dn_buffer *result)
{
    dn_catalog_apply(state, at->index, at->ordinal, at->time_ms, record, length, result);
}

static inline void cluster_catalog_done(void *state, const struct dn_apply *at)
{
    dn_catalog_entry_done(state, at->index, at->time_ms);
}

static inline struct dn_fsm cluster_shard_fsm(struct dn_shard *shard)
{
    return (struct dn_fsm){
        .state = shard,
        .apply = cluster_shard_apply,
        .apply_part = cluster_shard_apply_part,
        .entry_done = cluster_shard_done,
        .hash = dn_shard_hash,
        .snapshot_begin = dn_shard_snapshot_begin,
        .snapshot_write = dn_shard_snapshot_write,
        .snapshot_end = dn_shard_snapshot_end,
        .restore_build = dn_shard_restore_build,
        .restore_install = dn_shard_restore_install,
        .restore_discard = dn_shard_restore_discard,
    };
}

static inline struct dn_fsm cluster_catalog_fsm(struct dn_catalog *catalog)
{
    return (struct dn_fsm){
        .state = catalog,
        .apply = cluster_catalog_apply,
        .entry_done = cluster_catalog_done,
        .hash = dn_catalog_hash,
        .snapshot_begin = dn_catalog_snapshot_begin,
        .snapshot_write = dn_catalog_snapshot_write,
        .snapshot_end = dn_catalog_snapshot_end,
        .restore_build = dn_catalog_restore_build,
        .restore_install = dn_catalog_restore_install,
        .restore_discard = dn_catalog_restore_discard,
    };
}

static inline uint16_t cluster_free_port(void)
{
    uint16_t port = test_free_port();
    if (port == 0)
        fail_msg("no free port");
    return port;
}

static inline bool cluster_ready(void *data, char *ret_reason, size_t size)
{
    struct cluster *cluster = data;
    if (atomic_load(&cluster->ready))
        return true;
    snprintf(ret_reason, size, "the test says so");
    return false;
}

static inline bool cluster_source_has(void *data, const char *stream)
{
    const struct cluster *cluster = data;
    return cluster->has && strcmp(cluster->has, stream) == 0;
}

static inline size_t cluster_source_rows(void *data, struct dn_api_source_row *ret, size_t max)
{
    struct cluster *cluster = data;
    for (size_t i = 0; i < cluster->row_count && i < max; i++)
        ret[i] = cluster->rows[i];
    return cluster->row_count;
}

static inline void cluster_state_create(struct cluster *cluster)
{
    struct dn_error err;
    cluster->metrics = dn_metrics_create();
    cluster->epoch = dn_epoch_create();
    for (size_t i = 0; i < CLUSTER_SHARDS; i++)
        cluster->shards[i] = dn_shard_create(cluster->epoch);
    cluster->catalog = dn_catalog_create(cluster->epoch, 10000);
    struct dn_retrieval_options retrieval = {.factory = "auto"};
    if (dn_retrieval_create(cluster->catalog, cluster->epoch, &retrieval, &cluster->retrieval, &err) != DN_OK)
        fail_msg("retrieval: %s", err.message);
}

static inline void cluster_consensus_start(struct cluster *cluster)
{
    static char peer[32];
    struct dn_error err;
    struct dn_fsm fsms[CLUSTER_SHARDS + 1] = {cluster_catalog_fsm(cluster->catalog)};
    for (size_t i = 0; i < CLUSTER_SHARDS; i++)
        fsms[i + 1] = cluster_shard_fsm(cluster->shards[i]);
    snprintf(peer, sizeof peer, "127.0.0.1:%u", cluster_free_port());
    struct dn_member member = {.node_id = 1, .address = peer};
    struct dn_consensus_options options = {
        .data_dir = cluster->directory,
        .cluster_id = "test",
        .node_id = 1,
        .members = &member,
        .member_count = 1,
        .group_count = CLUSTER_SHARDS + 1,
        .fsms = fsms,
        .metrics = cluster->metrics,
    };
    if (dn_consensus_start(&options, &cluster->consensus, &err) != DN_OK)
        fail_msg("consensus: %s", err.message);
}

static inline void cluster_api_start(struct cluster *cluster, struct dn_api_limits limits)
{
    static const char *const names[] = {"solo"};
    static const struct dn_member member = {.node_id = 1, .address = "127.0.0.1:1"};
    struct dn_error err;
    struct dn_api_options options = {
        .address = "127.0.0.1:0",
        .threads = 2,
        .limits = limits,
        .node_name = "solo",
        .node_id = 1,
        .cluster_id = "test",
        .version = "9.8.7",
        .members = &member,
        .member_names = names,
        .member_count = 1,
        .shard_count = CLUSTER_SHARDS,
        .consensus = cluster->consensus,
        .epoch = cluster->epoch,
        .shards = cluster->shards,
        .catalog = cluster->catalog,
        .retrieval = cluster->retrieval,
        .ready = cluster_ready,
        .ready_data = cluster,
        .metrics = cluster->metrics,
        .source_rows = cluster_source_rows,
        .source_has = cluster_source_has,
        .source_data = cluster,
        .experiment = cluster_experiment,
        .shown_users = 1000,
    };
    dn_recommend_settings_default(&options.recommend);
    memcpy(options.hash_key, cluster_key, sizeof options.hash_key);
    atomic_store(&cluster->ready, true);
    if (dn_api_start(&options, &cluster->api, &err) != DN_OK)
        fail_msg("api: %s", err.message);
    snprintf(cluster->address, sizeof cluster->address, "127.0.0.1:%u", dn_api_port(cluster->api));
}

/* Until every group has a leader and knows its age. */
static inline void cluster_wait_leaders(struct cluster *cluster)
{
    uint64_t end = dn_monotonic_us() + CLUSTER_WAIT_MS * 1000ull;
    for (uint32_t group = 0; group <= CLUSTER_SHARDS; group++) {
        uint64_t age_us;
        while (!dn_consensus_age_us(cluster->consensus, group, &age_us)) {
            if (dn_monotonic_us() > end)
                fail_msg("group %u has no leader", group);
            usleep(5000);
        }
    }
}

static inline void cluster_start(struct cluster *cluster, struct dn_api_limits limits)
{
    memset(cluster, 0, sizeof *cluster);
    snprintf(cluster->directory, sizeof cluster->directory, "/tmp/dunlin-api-XXXXXX");
    if (!mkdtemp(cluster->directory))
        fail_msg("mkdtemp");
    cluster_state_create(cluster);
    cluster_consensus_start(cluster);
    cluster_api_start(cluster, limits);
    cluster_wait_leaders(cluster);
}

static inline int cluster_remove(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    (void)info, (void)type, (void)ftw;
    return remove(path);
}

static inline void cluster_stop(struct cluster *cluster)
{
    dn_consensus_stop(cluster->consensus, 100);
    dn_api_stop(cluster->api);
    dn_api_destroy(cluster->api);
    dn_consensus_destroy(cluster->consensus);
    dn_retrieval_destroy(cluster->retrieval);
    for (size_t i = 0; i < CLUSTER_SHARDS; i++)
        dn_shard_destroy(cluster->shards[i]);
    dn_catalog_destroy(cluster->catalog);
    dn_epoch_destroy(cluster->epoch);
    dn_metrics_destroy(cluster->metrics);
    nftw(cluster->directory, cluster_remove, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
