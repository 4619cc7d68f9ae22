/* Is the node alive (its loops turn), and is it ready (it should get traffic)? */
#include "node/node.h"

#include <stdio.h>

/* Changes to a never-built index that are still searched fast enough one by one. */
enum { UNBUILT_MAX = 50000, LOOP_AGE_MAX_US = 2000000 };

static bool group_ready(const struct dn_node *node, struct dn_consensus *consensus, uint32_t group,
                        char *ret_reason, size_t size)
{
    uint64_t alarm_ms = node->config->freshness_alarm_ms;
    struct dn_group_status status;
    uint64_t age_us;

    dn_consensus_status(consensus, group, &status);
    if (status.leader_id == 0) {
        snprintf(ret_reason, size, "group %u has no leader", group);
        return false;
    }
    if (!dn_consensus_age_us(consensus, group, &age_us)) {
        snprintf(ret_reason, size, "group %u: the age of its data is not known yet", group);
        return false;
    }
    if (age_us >= alarm_ms * 1000) {
        snprintf(ret_reason, size, "group %u: its data is %llu ms old (alarm at %llu ms)", group,
                 (unsigned long long)(age_us / 1000), (unsigned long long)alarm_ms);
        return false;
    }
    return true;
}

/* A node that is no part of a cluster has no groups to speak of: the reason is what it waits for. */
static void explain_waiting(struct dn_consensus *consensus, char *ret_reason, size_t size)
{
    struct dn_members members;

    dn_consensus_members(consensus, &members);
    if (!members.formed)
        snprintf(ret_reason, size, "not part of a cluster yet: %s",
                 members.waiting_for[0] ? members.waiting_for : "starting");
}

bool dn_node_ready(void *data, char *ret_reason, size_t size)
{
    struct dn_node *node = data;
    struct dn_consensus *consensus = atomic_load(&node->consensus);
    struct dn_retrieval_status index;

    if (size > 0)
        ret_reason[0] = 0;
    if (!consensus) {
        snprintf(ret_reason, size, "starting");
        return false;
    }
    if (atomic_load(&node->draining)) {
        snprintf(ret_reason, size, "shutting down");
        return false;
    }
    for (uint32_t group = 0; group <= node->shard_count; group++)
        if (!group_ready(node, consensus, group, ret_reason, size)) {
            explain_waiting(consensus, ret_reason, size);
            return false;
        }
    if (!atomic_load(&node->facts_known)) {
        snprintf(ret_reason, size, "waiting for the cluster's facts (shard count, key)");
        return false;
    }
    if (!atomic_load(&node->api)) {
        snprintf(ret_reason, size, "the API does not listen yet");
        return false;
    }
    dn_retrieval_status(node->retrieval, &index);
    if (index.built_version == 0 && index.building && index.pending > UNBUILT_MAX) {
        snprintf(ret_reason, size, "the first index is being built");
        return false;
    }
    return true;
}

bool dn_node_alive(struct dn_node *node, char *ret_reason, size_t size)
{
    struct dn_consensus *consensus = atomic_load(&node->consensus);
    struct dn_api *api = atomic_load(&node->api);

    if (size > 0)
        ret_reason[0] = 0;
    if (consensus && !atomic_load(&node->draining) && dn_consensus_loop_age_us(consensus) > LOOP_AGE_MAX_US) {
        snprintf(ret_reason, size, "the consensus loop has not turned for %llu ms",
                 (unsigned long long)(dn_consensus_loop_age_us(consensus) / 1000));
        return false;
    }
    if (!atomic_load(&node->draining) && dn_streams_loop_age_us(node->streams) > LOOP_AGE_MAX_US) {
        snprintf(ret_reason, size, "the ingest loop has not turned for %llu ms",
                 (unsigned long long)(dn_streams_loop_age_us(node->streams) / 1000));
        return false;
    }
    if (api && !dn_api_alive(api, LOOP_AGE_MAX_US)) {
        snprintf(ret_reason, size, "an API loop has not turned for two seconds");
        return false;
    }
    return true;
}
