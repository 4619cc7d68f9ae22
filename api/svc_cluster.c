/* Cluster.Status: what this node knows of itself, its groups and its members. */
#include "api/service.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static char *text(const char *constant)
{
    return (char *)(uintptr_t)(constant ? constant : ""); /* protobuf-c does not write to it */
}

/* False: out of memory. In an epoch. */
static bool stream_fill(struct dn_call *call, const struct dn_shard *shard, Dunlin__V1__GroupStatus *to)
{
    char reason[DN_STALL_REASON_MAX + 1] = "";
    uint64_t written, next;
    int64_t since_ms = dn_shard_stalled(shard, reason);
    to->stream_stalled = since_ms != 0;
    to->stream_age_ms = dn_stalled_for_ms(since_ms);
    dn_shard_dead_range(shard, &written, &next);
    to->dead_waiting = next - written;
    if (since_ms == 0)
        return true;
    to->stream_reason = dn_arena_strndup(call->arena, reason, strlen(reason));
    return to->stream_reason != NULL;
}

static bool group_fill(struct dn_call *call, uint32_t group, Dunlin__V1__GroupStatus *to)
{
    const struct dn_app *app = dn_call_app(call);
    struct dn_group_status status;
    dn_consensus_status(app->options.consensus, group, &status);
    dunlin__v1__group_status__init(to);
    to->group = group;
    to->leader_id = status.leader_id;
    to->leader = text(dn_member_name(app, status.leader_id));
    to->term = status.term;
    to->commit_index = status.commit_index;
    to->applied_index = status.applied_index;
    to->first_index = status.first_index;
    to->snapshot_index = status.snapshot_index;
    to->log_bytes = status.log_bytes;
    to->hash_index = status.hash_index;
    to->state_hash = status.state_hash;
    to->age_known = status.age_known;
    to->age_us = status.age_us;
    to->is_leader = status.is_leader;
    to->no_space = status.no_space;
    if (group == 0) {
        to->items = dn_catalog_item_count(app->options.catalog);
        to->memory_bytes = dn_catalog_memory(app->options.catalog);
        return true;
    }
    struct dn_shard_stats stats;
    dn_shard_stats(app->options.shards[group - 1], &stats);
    to->users = stats.users;
    to->items = stats.items;
    to->events_applied = stats.events_applied;
    to->duplicates = stats.duplicates;
    to->late = stats.late;
    to->refused = stats.refused;
    to->memory_bytes = stats.memory_bytes;
    return stream_fill(call, app->options.shards[group - 1], to);
}

/* A stream that stands still is said here, in every answer (Freshness) and in the metrics, but it does not
 * make the node unready: all nodes have the same stream, so all would be taken out of traffic at once, and
 * answers from data that is a little old are better than none. False: out of memory. */
static bool stream_reason_give(struct dn_call *call, Dunlin__V1__StatusResponse *response)
{
    enum { TEXT_MAX = 2048 };
    char *text = dn_arena_zalloc(call->arena, TEXT_MAX);
    size_t length = 0;
    if (!text)
        return false;
    for (size_t i = 0; i < response->n_groups && length < TEXT_MAX; i++) {
        const Dunlin__V1__GroupStatus *group = response->groups[i];
        if (group->stream_stalled)
            length += (size_t)snprintf(text + length, TEXT_MAX - length,
                                       "%sshard %u: its streams stand still for %" PRIu64 " ms: %s",
                                       length > 0 ? "; " : "", group->group, group->stream_age_ms,
                                       group->stream_reason);
    }
    response->stream_reason = text;
    return true;
}

static bool groups_give(struct dn_call *call, Dunlin__V1__StatusResponse *response)
{
    const struct dn_app *app = dn_call_app(call);
    uint32_t count = app->options.shard_count + 1;
    Dunlin__V1__GroupStatus *groups = dn_arena_alloc(call->arena, count * sizeof *groups);
    response->groups = dn_arena_alloc(call->arena, count * sizeof *response->groups);
    if (!groups || !response->groups)
        return false;
    for (uint32_t group = 0; group < count; group++) {
        if (!group_fill(call, group, &groups[group]))
            return false;
        response->groups[group] = &groups[group];
    }
    response->n_groups = count;
    return true;
}

/* Those of the cluster when this node is in one, else those of the configuration. */
static bool members_give(struct dn_call *call, Dunlin__V1__StatusResponse *response)
{
    const struct dn_app *app = dn_call_app(call);
    struct dn_members now;
    dn_consensus_members(app->options.consensus, &now);
    bool formed = now.formed && now.count > 0;
    size_t count = formed ? now.count : app->options.member_count;
    Dunlin__V1__MemberStatus *members = dn_arena_alloc(call->arena, count * sizeof *members);
    response->members = dn_arena_alloc(call->arena, count * sizeof *response->members);
    if (!members || !response->members)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (formed && now.members[i].role == DN_ROLE_WAITING)
            continue;
        Dunlin__V1__MemberStatus *member = &members[response->n_members];
        const char *address = formed ? now.members[i].address : app->options.members[i].address;
        dunlin__v1__member_status__init(member);
        member->node_id = formed ? now.members[i].node_id : app->options.members[i].node_id;
        member->name = text(dn_member_name(app, member->node_id));
        member->peer_address = dn_arena_strndup(call->arena, address, strlen(address));
        if (!member->peer_address)
            return false;
        response->members[response->n_members++] = member;
    }
    return true;
}

static bool hashes_give(struct dn_call *call, const Dunlin__V1__StatusRequest *request,
                        Dunlin__V1__StatusResponse *response)
{
    const struct dn_app *app = dn_call_app(call);
    size_t count = request->n_hash_at;
    Dunlin__V1__HashAt *hashes = dn_arena_alloc(call->arena, count * sizeof *hashes);
    response->hashes = dn_arena_alloc(call->arena, count * sizeof *response->hashes);
    if (!hashes || !response->hashes)
        return false;
    for (size_t i = 0; i < count; i++) {
        const Dunlin__V1__GroupIndex *at = request->hash_at[i];
        uint64_t hash = 0;
        dunlin__v1__hash_at__init(&hashes[i]);
        hashes[i].group = at->group;
        hashes[i].index = at->index;
        hashes[i].known = dn_consensus_hash_at(app->options.consensus, at->group, at->index, &hash);
        hashes[i].hash = hashes[i].known ? hash : 0;
        response->hashes[i] = &hashes[i];
    }
    response->n_hashes = count;
    return true;
}

static bool hash_at_fits(struct dn_call *call, const Dunlin__V1__StatusRequest *request)
{
    if (request->n_hash_at > DN_HASH_AT_MAX) {
        dn_call_fail(call, DN_INVALID, "hash_at: %zu of them; at most %d", request->n_hash_at,
                     DN_HASH_AT_MAX);
        return false;
    }
    uint32_t shards = dn_call_app(call)->options.shard_count;
    for (size_t i = 0; i < request->n_hash_at; i++) {
        if (request->hash_at[i]->group > shards) {
            dn_call_fail(call, DN_INVALID, "hash_at[%zu].group: %u; from 0 to %u", i,
                         request->hash_at[i]->group, shards);
            return false;
        }
    }
    return true;
}

void dn_svc_status(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    Dunlin__V1__StatusRequest *request =
        dn_call_unpack(call, &dunlin__v1__status_request__descriptor, message, length);
    if (!request || !hash_at_fits(call, request))
        return;
    char reason[DN_API_REASON_MAX] = "";
    struct dn_retrieval_status retrieval;
    memset(&retrieval, 0, sizeof retrieval);
    if (app->options.retrieval)
        dn_retrieval_status(app->options.retrieval, &retrieval);
    Dunlin__V1__StatusResponse response = DUNLIN__V1__STATUS_RESPONSE__INIT;
    response.node = text(app->options.node_name);
    response.node_id = app->options.node_id;
    response.cluster_id = text(app->options.cluster_id);
    response.version = text(app->options.version);
    response.uptime_ms = (dn_monotonic_us() - app->started_us) / 1000;
    response.shards = app->options.shard_count;
    response.index_factory = retrieval.factory;
    response.index_built_items = retrieval.built_items;
    response.index_pending = retrieval.pending;
    response.index_building = retrieval.building;
    response.ready =
        !app->options.ready || app->options.ready(app->options.ready_data, reason, sizeof reason);
    response.not_ready_reason = response.ready ? text("") : reason;
    dn_epoch_enter(call->thread->reader);
    response.catalog_items = dn_catalog_item_count(app->options.catalog);
    response.vector_dim = dn_catalog_dim(app->options.catalog);
    bool fits = groups_give(call, &response) && stream_reason_give(call, &response) &&
                members_give(call, &response) && hashes_give(call, request, &response);
    dn_epoch_leave(call->thread->reader);
    if (fits)
        dn_call_reply(call, &response.base);
    else
        dn_fail_memory(call);
}
