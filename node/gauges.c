/* Gauges that are read from the state when somebody asks. */
#include "node/node.h"

#include "base/clock.h"
#include "ingest/deadletter.h"
#include "session/record.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { LABELS_MAX = 96 };

struct shelf {
    struct dn_metrics *metrics;
    char labels[LABELS_MAX];
};

static void set(const struct shelf *shelf, const char *name, double value, const char *help)
{
    dn_gauge_set(dn_metrics_gauge(shelf->metrics, name, shelf->labels, help), value);
}

static void update_group(struct dn_node *node, struct dn_consensus *consensus, uint32_t group)
{
    struct shelf shelf = {.metrics = node->metrics};
    struct dn_group_status status;

    snprintf(shelf.labels, sizeof(shelf.labels), "group=\"%u\"", group);
    dn_consensus_status(consensus, group, &status);
    set(&shelf, "dunlin_group_leader", status.is_leader, "1 where this node leads the group");
    set(&shelf, "dunlin_group_leader_id", (double)status.leader_id,
        "Node id of the group's leader; 0: unknown");
    set(&shelf, "dunlin_group_term", (double)status.term, "Raft term");
    set(&shelf, "dunlin_group_commit_index", (double)status.commit_index, "Last committed index known here");
    set(&shelf, "dunlin_group_applied_index", (double)status.applied_index, "Last applied index");
    set(&shelf, "dunlin_group_log_bytes", (double)status.log_bytes, "Log since the last snapshot");
    set(&shelf, "dunlin_group_age_seconds", status.age_known ? (double)status.age_us / 1e6 : (double)INFINITY,
        "Age of the data reads see here; +Inf: unknown");
    set(&shelf, "dunlin_group_no_space", status.no_space,
        "1 while writes are refused for want of disk space");
}

static void update_shard(struct dn_node *node, uint32_t group)
{
    struct shelf shelf = {.metrics = node->metrics};
    struct dn_shard_stats stats;

    snprintf(shelf.labels, sizeof(shelf.labels), "group=\"%u\"", group);
    dn_shard_stats(node->shards[group - 1], &stats);
    set(&shelf, "dunlin_sessions", (double)stats.users, "Users with a session");
    set(&shelf, "dunlin_session_items", (double)stats.items, "Item ids known to the shard");
    set(&shelf, "dunlin_session_memory_bytes", (double)stats.memory_bytes, "Memory of the shard's state");
    set(&shelf, "dunlin_near_rows", (double)stats.near_rows,
        "Items of which is kept what is clicked near them");
    set(&shelf, "dunlin_near_pairs", (double)stats.near_pairs, "Items kept in those rows");
    set(&shelf, "dunlin_near_visitors", (double)stats.near_visits, "Newest users of items that are kept");
    set(&shelf, "dunlin_near_memory_bytes", (double)stats.near_bytes,
        "Memory of these tables, part of dunlin_session_memory_bytes");
    set(&shelf, "dunlin_session_events_applied", (double)stats.events_applied,
        "Events applied in the shard's life");
    set(&shelf, "dunlin_session_events_duplicate", (double)stats.duplicates,
        "Repeated events, not counted again");
    set(&shelf, "dunlin_session_events_late", (double)stats.late, "Events older than the allowed lateness");
    set(&shelf, "dunlin_session_events_refused", (double)stats.refused, "Events refused for other reasons");
    set(&shelf, "dunlin_session_users_evicted", (double)stats.evicted, "Users that made room for others");
    set(&shelf, "dunlin_session_users_expired", (double)stats.expired, "Users forgotten for being idle");
    set(&shelf, "dunlin_session_users_erased", (double)stats.erased, "Users deleted by request");
    set(&shelf, "dunlin_session_newest_event_seconds", (double)stats.max_event_ms / 1e3,
        "Time of the newest event applied (Unix time)");
}

/* In an epoch. */
static void update_stream(struct dn_node *node, uint32_t group)
{
    struct shelf shelf = {.metrics = node->metrics};
    const struct dn_shard *shard = node->shards[group - 1];
    char reason[DN_STALL_REASON_MAX + 1];
    struct dn_shard_stats stats;
    uint64_t written, next;

    snprintf(shelf.labels, sizeof(shelf.labels), "group=\"%u\"", group);
    int64_t since_ms = dn_shard_stalled(shard, reason), now_ms = dn_wall_ms();
    set(&shelf, "dunlin_stream_stalled", since_ms != 0,
        "1 while the shard's streams bring nothing new although they should");
    set(&shelf, "dunlin_stream_stalled_seconds",
        since_ms != 0 && now_ms > since_ms ? (double)(now_ms - since_ms) / 1e3 : 0,
        "For how long the shard's streams stand still");
    dn_shard_dead_range(shard, &written, &next);
    set(&shelf, "dunlin_dead_letters_waiting", (double)(next - written), "Dead letters not written yet");
    dn_shard_stats(shard, &stats);
    for (unsigned dead = 1; dead <= DN_DEAD_REASON_MAX; dead++) {
        snprintf(shelf.labels, sizeof(shelf.labels), "group=\"%u\",reason=\"%s\"", group,
                 dn_dead_reason_text((uint8_t)dead));
        set(&shelf, "dunlin_dead_letters", (double)stats.dead[dead], "Dead letters in the shard's life");
    }
}

static void update_members(struct dn_node *node, struct dn_consensus *consensus)
{
    static const char *const ROLES[] = {
        [DN_ROLE_WAITING] = "waiting", [DN_ROLE_LEARNER] = "learner", [DN_ROLE_REPLICA] = "replica",
        [DN_ROLE_VOTER] = "voter",     [DN_ROLE_LEAVING] = "leaving",
    };
    enum { ROLE_COUNT = sizeof(ROLES) / sizeof(ROLES[0]) };
    struct shelf shelf = {.metrics = node->metrics};
    unsigned counts[ROLE_COUNT] = {0};
    struct dn_members members;

    dn_consensus_members(consensus, &members);
    for (size_t i = 0; i < members.count; i++)
        counts[members.members[i].role]++;
    for (size_t role = 0; role < ROLE_COUNT; role++) {
        snprintf(shelf.labels, sizeof(shelf.labels), "role=\"%s\"", ROLES[role]);
        set(&shelf, "dunlin_members", counts[role],
            "Nodes of the cluster by what they are in group 0, as this node knows it");
    }
    shelf.labels[0] = 0;
    set(&shelf, "dunlin_formed", members.formed, "1 when this node is part of a cluster");
}

/* Resident memory of the process, from the second number of /proc/self/statm. */
static double resident_bytes(void)
{
    unsigned long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    if (!file)
        return 0;
    int got = fscanf(file, "%lu %lu", &total, &resident);
    fclose(file);
    return got == 2 ? (double)resident * (double)sysconf(_SC_PAGESIZE) : 0;
}

static void update_index(struct dn_node *node)
{
    struct shelf shelf = {.metrics = node->metrics};
    struct dn_retrieval_status status;

    dn_retrieval_status(node->retrieval, &status);
    set(&shelf, "dunlin_catalog_items", (double)dn_catalog_item_count(node->catalog),
        "Items of the catalogue");
    set(&shelf, "dunlin_catalog_version", (double)dn_catalog_version(node->catalog),
        "Applied index of the catalogue's last change");
    set(&shelf, "dunlin_catalog_memory_bytes", (double)dn_catalog_memory(node->catalog),
        "Memory of the catalogue");
    set(&shelf, "dunlin_index_built_items", (double)status.built_items, "Items in the built index");
    set(&shelf, "dunlin_index_pending", (double)status.pending, "Changes searched beside the built index");
    set(&shelf, "dunlin_index_building", status.building, "1 while an index is being built");
    set(&shelf, "dunlin_index_builds", (double)status.builds, "Indexes built since start");
    set(&shelf, "dunlin_index_memory_bytes", (double)status.memory_bytes, "Memory of the index");
    set(&shelf, "dunlin_index_error", status.error[0] != 0, "1 when the last build failed (see the log)");
}

static void update_model(struct dn_node *node)
{
    struct shelf shelf = {.metrics = node->metrics};
    struct dn_catalog_model model;
    struct dn_model weights;

    bool learned = dn_catalog_model(node->catalog, &model);
    bool known = learned && dn_model_decode(model.bytes, model.length, &weights, NULL) == DN_OK;
    set(&shelf, "dunlin_model_network_leads", known && weights.network.leads,
        "1 while the network serves, 0 while the weights do alone");
    set(&shelf, "dunlin_model_learned", learned, "1 while there are weights, 0 while the default counts");
    set(&shelf, "dunlin_model_version", (double)model.version,
        "Applied index of the last change of the model's weights");
    set(&shelf, "dunlin_model_generation", (double)model.generation, "How often the model was reset or set");
    set(&shelf, "dunlin_model_steps", (double)model.steps, "Clicks of this generation it was learned from");
    set(&shelf, "dunlin_model_node_id", (double)model.node_id, "Node that learned it; 0: none");
    set(&shelf, "dunlin_model_frozen", model.frozen, "1 while nothing that is learned counts");
    set(&shelf, "dunlin_model_age_seconds",
        model.version == 0 ? (double)INFINITY : (double)(dn_wall_ms() - model.time_ms) / 1e3,
        "Time since the weights changed; +Inf: never");
}

void dn_gauges_update(struct dn_node *node, struct dn_epoch_reader *reader)
{
    struct shelf shelf = {.metrics = node->metrics};
    struct dn_consensus *consensus = atomic_load(&node->consensus);
    char reason[DN_API_REASON_MAX];

    dn_epoch_enter(reader);
    for (uint32_t group = 0; consensus && group <= node->shard_count; group++)
        update_group(node, consensus, group);
    for (uint32_t group = 1; group <= node->shard_count; group++)
        update_shard(node, group);
    for (uint32_t group = 1; group <= node->shard_count; group++)
        update_stream(node, group);
    update_index(node);
    update_model(node);
    dn_epoch_leave(reader);
    if (consensus) {
        update_members(node, consensus);
        set(&shelf, "dunlin_consensus_loop_age_seconds", (double)dn_consensus_loop_age_us(consensus) / 1e6,
            "Time since the consensus loop last turned");
    }
    set(&shelf, "dunlin_ingest_loop_age_seconds", (double)dn_streams_loop_age_us(node->streams) / 1e6,
        "Time since the ingest loop last turned; 0 where no source is configured");
    set(&shelf, "dunlin_ready", dn_node_ready(node, reason, sizeof(reason)),
        "1 when the node is ready for traffic");
    set(&shelf, "dunlin_freshness_alarm_seconds", (double)node->config->freshness_alarm_ms / 1e3,
        "Data older than this is stale");
    set(&shelf, "dunlin_epoch_backlog", (double)atomic_load(&node->epoch_backlog),
        "Replaced objects that wait for readers before they are freed");
    set(&shelf, "process_resident_memory_bytes", resident_bytes(), "Resident memory");
    set(&shelf, "dunlin_uptime_seconds", (double)(dn_monotonic_us() - node->started_us) / 1e6,
        "Time since start");
    snprintf(shelf.labels, sizeof(shelf.labels), "version=\"%s\"", DUNLIN_VERSION);
    set(&shelf, "dunlin_build_info", 1, "Version of the program");
}
