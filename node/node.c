/* A node's life: opens everything from the bottom up, waits, closes from the top down.
 *
 * Invariants:
 *  1. The consensus thread is the one writer of catalogue, shards and epoch; it is stopped before they are
 *     freed, and nothing applies after that.
 *  2. The API answers about users and items only once the cluster's facts are known to be this node's
 *     (steward.c).
 *  3. From the first signal on, the process ends within drain + transfer + SPARE_S, and SOURCE_S for each
 *     source, whatever hangs: an alarm sees to it. A second signal ends it at once. Killing it is always
 *     safe. */
#include "node/node.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "node/learner.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    TURN_MS = 100,
    TRANSFER_MS = 2000,
    SPARE_S = 10,
    SOURCE_S = 2,       /* a source may take a second to close, and so may what fetches its dead letters */
    RECLAIM_MAX = 1024, /* objects freed in one loop turn */
};

/* ---- callbacks on the consensus thread -------------------------------------------------------------------
 */

static void on_applied(void *data)
{
    struct dn_node *node = data;

    atomic_store_explicit(&node->epoch_backlog, dn_epoch_reclaim(node->epoch, RECLAIM_MAX),
                          memory_order_relaxed);
}

static void on_fatal(void *data, const char *reason)
{
    (void)data;
    dn_err("node", "fatal: %s; leaving the process", reason);
    _exit(DN_EXIT_FATAL); /* no clean-up: what is on disk is whole, what is in memory is in doubt */
}

static void on_leader(void *data, uint32_t group, bool leader, uint64_t term)
{
    struct dn_node *node = data;

    dn_info("node", "group %u: %s leader in term %llu", group, leader ? "now" : "no longer",
            (unsigned long long)term);
    if (leader)
        dn_steward_on_leader(node->steward, group);
    if (group == 0)
        dn_learning_lead(node->learning, leader);
    dn_streams_wake(node->streams);
}

/* Learner's thread. */
static bool propose(void *data, struct dn_proposal *proposal)
{
    struct dn_node *node = data;
    struct dn_consensus *consensus = atomic_load(&node->consensus);

    return consensus && dn_consensus_propose(consensus, proposal);
}

/* Learner's thread. */
static bool may_have_a_model(void *data)
{
    struct dn_node *node = data;
    struct dn_consensus *consensus = atomic_load(&node->consensus);

    return consensus && dn_consensus_level(consensus) >= DN_LEVEL_MODEL;
}

static void on_removed(void *data, const char *reason)
{
    struct dn_node *node = data;

    if (atomic_load(&node->removed))
        return;
    dn_warn("node", "the cluster has removed this node: %s", reason);
    snprintf(node->removed_reason, sizeof(node->removed_reason), "%s", reason);
    atomic_store(&node->removed, true); /* the main thread drains and leaves */
}

/* ---- opening ---------------------------------------------------------------------------------------------
 */

static enum dn_code make_data_dir(const char *path, struct dn_error *err)
{
    char partial[DN_CONFIG_TEXT_MAX];
    struct stat info;
    size_t length = strlen(path);

    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        memcpy(partial, path, i);
        partial[i] = 0;
        if (mkdir(partial, 0700) != 0 && errno != EEXIST)
            return dn_fail(err, DN_IO, "node.data_dir: cannot make %s: %s", partial, strerror(errno));
    }
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return dn_fail(err, DN_IO, "node.data_dir: %s is not a folder", path);
    if (access(path, R_OK | W_OK | X_OK) != 0)
        return dn_fail(err, DN_IO, "node.data_dir: %s: %s", path, strerror(errno));
    return DN_OK;
}

/* Listeners with SO_REUSEPORT let a second process of the same user share a port unseen. So before the API
 * opens its sockets, the address is bound once without it. */
static enum dn_code probe_address(const char *key, const char *address, struct dn_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char host[256], service[8];
    uint16_t port = 0;
    int on = 1;
    enum dn_code code = DN_OK;

    DN_ASSERT(dn_parse_address(address, host, &port));
    snprintf(service, sizeof(service), "%u", port);
    int rv = getaddrinfo(host, service, &hints, &found);
    if (rv != 0)
        return dn_fail(err, DN_UNAVAILABLE, "%s %s: %s", key, address, gai_strerror(rv));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0)
        code = dn_fail(err, DN_UNAVAILABLE, "%s %s: cannot listen: %s", key, address, strerror(errno));
    if (fd >= 0)
        close(fd);
    freeaddrinfo(found);
    return code;
}

static enum dn_exit fail(enum dn_exit exit_code, const struct dn_error *err)
{
    dn_err("node", "%s", err->message);
    return exit_code;
}

/* Members in the terms of consensus. */
static void read_members(struct dn_node *node)
{
    const struct dn_config *config = node->config;

    for (size_t i = 0; i < config->cluster.member_count; i++) {
        node->members[i] = (struct dn_member){.node_id = config->cluster.members[i].id,
                                              .address = config->cluster.members[i].address};
        node->member_names[i] = config->cluster.members[i].name;
    }
}

static struct dn_learning *make_learning(struct dn_node *node)
{
    const struct dn_config *config = node->config;
    struct dn_learning_options options = {
        .epoch = node->epoch,
        .catalog = node->catalog,
        .shards = node->shards,
        .shard_count = node->shard_count,
        .metrics = node->metrics,
        .node_id = config->node.id,
        .enabled = config->recommend.learning.enabled,
        .alone = !config->recommend.learning.network,
        .samples_per_s = (unsigned)config->recommend.learning.samples_per_s,
        .interval_ms = (unsigned)config->recommend.learning.interval_ms,
        .propose = propose,
        .may = may_have_a_model,
        .data = node,
    };

    dn_config_recommend_settings(config, &options.settings);
    return dn_learning_create(&options);
}

static enum dn_exit open_state(struct dn_node *node, char *cache_dir, size_t cache_dir_size)
{
    const struct dn_config *config = node->config;
    struct dn_error err = {0};

    node->metrics = dn_metrics_create();
    node->epoch = dn_epoch_create();
    if (!node->metrics || !node->epoch)
        goto no_memory;
    node->reader = dn_epoch_register(node->epoch);
    node->catalog = dn_catalog_create(node->epoch, (uint32_t)config->index.items_max);
    if (!node->reader || !node->catalog)
        goto no_memory;
    for (uint32_t i = 0; i < node->shard_count; i++) {
        node->shards[i] = dn_shard_create(node->epoch);
        if (!node->shards[i])
            goto no_memory;
        node->seats[i] = (struct dn_shard_seat){
            .shard = node->shards[i],
            .freshness = dn_metrics_histogram(node->metrics, "dunlin_event_to_visible_seconds", "",
                                              "From the time of an event of a stream until it is visible on "
                                              "this node (first and last event of each batch)"),
            .since_ms = dn_wall_ms(),
        };
    }
    node->steward = dn_steward_create(node);
    node->streams = dn_streams_create(node);
    node->learning = make_learning(node);
    if (!node->steward || !node->streams || !node->learning)
        goto no_memory;
    snprintf(cache_dir, cache_dir_size, "%s/index", config->node.data_dir);
    if (make_data_dir(cache_dir, &err) != DN_OK)
        return fail(DN_EXIT_DATA, &err);
    return DN_EXIT_OK;
no_memory:
    dn_err("node", "out of memory at start");
    return DN_EXIT_FAILURE;
}

static enum dn_exit open_retrieval(struct dn_node *node, const char *cache_dir)
{
    const struct dn_config *config = node->config;
    struct dn_retrieval_options options = {
        .factory = config->index.factory,
        .cache_dir = cache_dir,
        .rebuild_changes = (uint32_t)config->index.rebuild_changes,
        .depth = config->index.depth,
    };
    struct dn_error err = {0};
    enum dn_code code = dn_retrieval_create(node->catalog, node->epoch, &options, &node->retrieval, &err);

    if (code == DN_OK)
        return DN_EXIT_OK;
    dn_wrap(&err, code, "index.factory '%s'", config->index.factory);
    return fail(code == DN_INVALID ? DN_EXIT_USAGE : DN_EXIT_FAILURE, &err);
}

static enum dn_exit start_learning(struct dn_node *node)
{
    struct dn_error err = {0};

    return dn_learning_start(node->learning, node->retrieval, &err) == DN_OK ? DN_EXIT_OK
                                                                             : fail(DN_EXIT_FAILURE, &err);
}

static enum dn_exit consensus_exit(enum dn_code code)
{
    switch (code) {
    case DN_INVALID:
    case DN_EXISTS:
    case DN_DENIED:
    case DN_PRECONDITION:
    case DN_CORRUPT:
    case DN_UNIMPLEMENTED: /* written by a newer version */
        return DN_EXIT_DATA;
    case DN_UNAVAILABLE: /* the peer address */
        return DN_EXIT_ADDRESS;
    default:
        return DN_EXIT_FAILURE;
    }
}

static enum dn_exit open_consensus(struct dn_node *node, bool bootstrap_alone)
{
    const struct dn_config *config = node->config;
    struct dn_fsm fsms[DN_GROUPS_MAX];
    struct dn_consensus *consensus = NULL;
    struct dn_error err = {0};

    fsms[0] = dn_fsm_catalog(node->catalog);
    for (uint32_t i = 0; i < node->shard_count; i++)
        fsms[i + 1] = dn_fsm_shard(&node->seats[i]);
    const char *address = config->node.address[0] ? config->node.address : NULL;
    struct dn_consensus_options options = {
        .data_dir = config->node.data_dir,
        .cluster_id = config->cluster.id,
        .node_id = config->node.id,
        .members = node->members,
        .member_count = config->cluster.member_count,
        .address = address,
        .bootstrap_alone = bootstrap_alone,
        .balance_ms = config->raft.balance_ms > 0 ? (unsigned)config->raft.balance_ms : UINT_MAX,
        .bind_address = config->peers.bind[0] ? config->peers.bind : address,
        .group_count = node->shard_count + 1,
        .fsms = fsms,
        .election_timeout_ms = (unsigned)config->raft.election_timeout_ms,
        .heartbeat_ms = (unsigned)config->raft.heartbeat_ms,
        .tick_ms = (unsigned)config->raft.tick_ms,
        .snapshot_log_bytes = config->raft.snapshot_log_bytes,
        .min_free_bytes = config->raft.min_free_bytes,
        .segment_bytes = config->raft.segment_bytes,
        .key_file = config->peers.key_file[0] ? config->peers.key_file : NULL,
        .previous_key_file = config->peers.previous_key_file[0] ? config->peers.previous_key_file : NULL,
        .journal_disk = strcmp(config->raft.journal_io, "auto") == 0 ? NULL : config->raft.journal_io,
        .entry_max_bytes = (unsigned)config->raft.entry_max_bytes,
        .inflight_max = (unsigned)config->raft.inflight_entries,
        .metrics = node->metrics,
        .on_applied = on_applied,
        .on_fatal = on_fatal,
        .on_leader = on_leader,
        .on_removed = on_removed,
        .callback_data = node,
    };
    enum dn_code code = dn_consensus_start(&options, &consensus, &err);
    if (code != DN_OK)
        return fail(strstr(err.message, "peer port") ? DN_EXIT_ADDRESS : consensus_exit(code), &err);
    atomic_store(&node->consensus, consensus);
    return DN_EXIT_OK;
}

static enum dn_exit open_api(struct dn_node *node)
{
    const struct dn_config *config = node->config;
    struct dn_api *api = NULL;
    struct dn_error err = {0};
    struct dn_api_options options = {
        .address = config->api.address,
        .threads = (unsigned)config->api.threads,
        .limits =
            {
                .message_bytes = (uint32_t)config->api.message_bytes,
                .connections = (uint32_t)config->api.connections,
                .streams = (uint32_t)config->api.streams,
                .arena_bytes = (uint32_t)config->api.arena_bytes,
                .default_deadline_ms = (uint32_t)config->api.default_deadline_ms,
                .max_deadline_ms = (uint32_t)config->api.max_deadline_ms,
                .pending_calls = (uint32_t)config->api.pending_calls,
                .pending_bytes = config->api.pending_bytes,
                .idle_timeout_ms = (uint32_t)config->api.idle_timeout_ms,
                .resets_per_s = (uint32_t)config->api.resets_per_s,
            },
        .node_name = config->node.name,
        .node_id = config->node.id,
        .cluster_id = config->cluster.id,
        .version = DUNLIN_VERSION,
        .members = node->members,
        .member_names = node->member_names,
        .member_count = config->cluster.member_count,
        .shard_count = node->shard_count,
        .consensus = atomic_load(&node->consensus),
        .epoch = node->epoch,
        .shards = node->shards,
        .catalog = node->catalog,
        .retrieval = node->retrieval,
        .freshness_alarm_ms = (uint32_t)config->freshness_alarm_ms,
        .shown_users = (uint32_t)config->recommend.shown_users,
        .ready = dn_node_ready,
        .ready_data = node,
        .open = &node->facts_known,
        .metrics = node->metrics,
        .source_rows = dn_streams_api_rows,
        .source_has = dn_streams_api_has,
        .source_data = node->streams,
    };

    dn_config_recommend_settings(config, &options.recommend);
    dn_config_experiment(config, &options.experiment);
    memcpy(options.hash_key, node->hash_key, sizeof(options.hash_key));
    /* Once more: the port may have been taken while state was restored. */
    enum dn_code code = probe_address("api.address", config->api.address, &err);
    if (code == DN_OK)
        code = dn_api_start(&options, &api, &err);
    if (code != DN_OK)
        return fail(code == DN_NO_MEMORY || code == DN_EXHAUSTED ? DN_EXIT_FAILURE : DN_EXIT_ADDRESS, &err);
    atomic_store(&node->api, api);
    dn_info("node", "api listens on %s, port %u", config->api.address, dn_api_port(api));
    return DN_EXIT_OK;
}

static enum dn_exit open_admin(struct dn_node *node)
{
    struct dn_error err = {0};
    enum dn_code code = dn_admin_start(node, &node->admin, &err);

    if (code != DN_OK)
        return fail(code == DN_UNAVAILABLE ? DN_EXIT_ADDRESS : DN_EXIT_FAILURE, &err);
    dn_info("node", "admin listens on %s, port %u", node->config->admin.address, dn_admin_port(node->admin));
    return DN_EXIT_OK;
}

static enum dn_exit open_key(struct dn_node *node)
{
    struct dn_error err = {0};
    bool derived = false;

    if (dn_config_hash_key(node->config, node->hash_key, &derived, &err) != DN_OK)
        return fail(DN_EXIT_USAGE, &err);
    if (derived)
        dn_warn("node",
                "secrets.hash_key_file is not set: user ids are hashed with a key made from cluster.id, "
                "which is no secret (fine on loopback only)");
    dn_key_fingerprint(node->hash_key, node->fingerprint);
    return DN_EXIT_OK;
}

static enum dn_exit open_all(struct dn_node *node, bool bootstrap_alone)
{
    const struct dn_config *config = node->config;
    char cache_dir[DN_CONFIG_TEXT_MAX + 8];
    struct dn_error err = {0};
    enum dn_exit rv;

    rv = open_key(node);
    if (rv != DN_EXIT_OK)
        return rv;
    if (dn_streams_check(config, &err) != DN_OK)
        return fail(DN_EXIT_USAGE, &err);
    if (make_data_dir(config->node.data_dir, &err) != DN_OK)
        return fail(DN_EXIT_DATA, &err);
    if (probe_address("api.address", config->api.address, &err) != DN_OK ||
        probe_address("admin.address", config->admin.address, &err) != DN_OK)
        return fail(DN_EXIT_ADDRESS, &err);
    rv = open_state(node, cache_dir, sizeof(cache_dir));
    if (rv != DN_EXIT_OK)
        return rv;
    /* Consensus restores the catalogue, so retrieval, which follows it, comes after. It also knows whose data
     * directory this is, so what it says about that comes before what facts_seen says. */
    rv = open_consensus(node, bootstrap_alone);
    if (rv != DN_EXIT_OK)
        return rv;
    if (dn_steward_check_file(node->steward, &err) != DN_OK)
        return fail(DN_EXIT_DATA, &err);
    rv = open_retrieval(node, cache_dir);
    if (rv != DN_EXIT_OK)
        return rv;
    rv = start_learning(node);
    if (rv != DN_EXIT_OK)
        return rv;
    rv = open_admin(node);
    if (rv != DN_EXIT_OK)
        return rv;
    return open_api(node);
}

/* ---- closing ---------------------------------------------------------------------------------------------
 */

static void close_all(struct dn_node *node)
{
    struct dn_consensus *consensus = atomic_load(&node->consensus);
    struct dn_api *api = atomic_load(&node->api);

    atomic_store(&node->draining, true);
    if (api)
        dn_api_drain(api, (unsigned)node->config->node.drain_ms);
    if (node->streams)
        dn_streams_stop(node->streams);
    dn_learning_stop(node->learning);
    if (consensus)
        dn_consensus_stop(consensus, TRANSFER_MS);
    if (api)
        dn_api_stop(api);
    dn_admin_stop(node->admin);
    dn_api_destroy(api);
    if (node->retrieval)
        dn_retrieval_destroy(node->retrieval);
    dn_consensus_destroy(consensus);
    dn_learning_destroy(node->learning);
    dn_streams_destroy(node->streams);
    dn_steward_destroy(node->steward);
    for (uint32_t i = 0; i < node->shard_count; i++)
        if (node->shards[i])
            dn_shard_destroy(node->shards[i]);
    if (node->catalog)
        dn_catalog_destroy(node->catalog);
    if (node->reader)
        dn_epoch_unregister(node->reader);
    if (node->epoch)
        dn_epoch_destroy(node->epoch);
    if (node->metrics)
        dn_metrics_destroy(node->metrics);
}

/* ---- running ---------------------------------------------------------------------------------------------
 */

static void on_second_signal(int number)
{
    static const char SECOND[] = "second signal: leaving at once\n",
                      SLOW[] = "shutdown took too long: leaving\n";
    ssize_t ignored = number == SIGALRM ? write(STDERR_FILENO, SLOW, sizeof(SLOW) - 1)
                                        : write(STDERR_FILENO, SECOND, sizeof(SECOND) - 1);

    (void)ignored;
    _exit(DN_EXIT_FAILURE);
}

static void bound_shutdown(const struct dn_node *node, const sigset_t *stops)
{
    struct sigaction action = {.sa_handler = on_second_signal};

    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    pthread_sigmask(SIG_UNBLOCK, stops, NULL);
    alarm((unsigned)(node->config->node.drain_ms / 1000) + TRANSFER_MS / 1000 + SPARE_S +
          (unsigned)node->config->source_count * SOURCE_S);
}

/* Until a signal, until the cluster removes the node, or until it finds that it must not go on. */
static enum dn_exit run(struct dn_node *node, const sigset_t *stops)
{
    const struct timespec turn = {.tv_nsec = TURN_MS * 1000000L};

    for (;;) {
        struct dn_error err = {0};
        int number = sigtimedwait(stops, NULL, &turn);

        if (number > 0) {
            dn_info("node", "signal %d: draining", number);
            return DN_EXIT_OK;
        }
        if (atomic_load(&node->removed)) {
            dn_info("node", "removed: draining");
            return DN_EXIT_OK;
        }
        if (dn_steward_turn(node->steward, &err) != DN_OK)
            return fail(DN_EXIT_DATA, &err);
        enum dn_code code = dn_streams_turn(node->streams, &err);
        if (code != DN_OK)
            return fail(code == DN_INVALID ? DN_EXIT_USAGE : DN_EXIT_FAILURE, &err);
    }
}

enum dn_exit dn_node_run(const struct dn_config *config, bool bootstrap_alone)
{
    struct dn_node *node = calloc(1, sizeof(*node));
    sigset_t stops;
    enum dn_exit rv;

    if (!node)
        return DN_EXIT_FAILURE;
    node->config = config;
    node->started_us = dn_monotonic_us();
    node->shard_count = (uint32_t)config->cluster.shards;
    read_members(node);
    signal(SIGPIPE, SIG_IGN);
    /* Blocked before any thread starts, so that every thread inherits it and only sigtimedwait takes them. */
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stops, NULL);
    dn_info("node", "dunlind %s: node %llu (%s) of cluster %s, %u shards, data in %s", DUNLIN_VERSION,
            (unsigned long long)config->node.id, config->node.name, config->cluster.id, node->shard_count,
            config->node.data_dir);

    rv = open_all(node, bootstrap_alone);
    if (rv == DN_EXIT_OK)
        rv = run(node, &stops);
    bound_shutdown(node, &stops);
    close_all(node);
    if (rv == DN_EXIT_OK && atomic_load(&node->removed))
        dn_warn(
            "node",
            "stopped for good: node %llu is no longer a member of cluster %s (%s); it does not start again "
            "with the data in %s",
            (unsigned long long)config->node.id, config->cluster.id, node->removed_reason,
            config->node.data_dir);
    else if (rv == DN_EXIT_OK)
        dn_info("node", "stopped");
    free(node);
    return rv;
}
