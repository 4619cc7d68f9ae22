/* Cluster.Status as an operation of a history. */
#include "chaos/workload_class.h"
#include "chaos/workload_client.h"
#include "chaos/workload_take.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <stdio.h>

#define PATH_STATUS "/dunlin.v1.Cluster/Status"

enum chaos_type workload_take_groups(struct workload_answer *answer, struct chaos_group *groups,
                                     size_t *ret_count)
{
    Dunlin__V1__StatusResponse *response =
        dunlin__v1__status_response__unpack(NULL, answer->length, answer->bytes);
    if (!response || response->n_groups > CHAOS_GROUPS_MAX) {
        workload_malformed(answer, "a status: it is none, or has too many groups");
        dunlin__v1__status_response__free_unpacked(response, NULL);
        return CHAOS_FAIL;
    }
    size_t count = 0;
    for (size_t i = 0; i < response->n_groups; i++) {
        const Dunlin__V1__GroupStatus *from = response->groups[i];
        if (from->term == 0)
            continue; /* not loaded yet, or part of no cluster: it knows nothing of this group */
        groups[count++] = (struct chaos_group){
            .group = from->group,
            .is_leader = from->is_leader,
            .leader = from->leader_id,
            .term = from->term,
            .commit = from->commit_index,
            .applied = from->applied_index,
            .hash_index = from->hash_index,
            .hash = from->hash_index > 0 ? from->state_hash : 0,
        };
    }
    /* A hash that was asked for can be compared with another node's: it goes before the newest one. */
    for (size_t i = 0; i < response->n_hashes; i++) {
        const Dunlin__V1__HashAt *at = response->hashes[i];
        for (size_t g = 0; g < count && at->known; g++) {
            if (groups[g].group == at->group) {
                groups[g].hash_index = at->index;
                groups[g].hash = at->hash;
            }
        }
    }
    *ret_count = count;
    dunlin__v1__status_response__free_unpacked(response, NULL);
    return CHAOS_OK;
}

enum chaos_type workload_status(struct workload_client *client, unsigned node,
                                const uint64_t hash_at[CHAOS_GROUPS_MAX], struct chaos_group *ret_groups,
                                size_t *ret_count)
{
    struct chaos_op op = {.f = CHAOS_STATUS, .node = node};
    Dunlin__V1__StatusRequest request = DUNLIN__V1__STATUS_REQUEST__INIT;
    Dunlin__V1__GroupIndex asked[CHAOS_GROUPS_MAX], *pointers[CHAOS_GROUPS_MAX];
    struct workload_answer answer;
    request.hash_at = pointers;
    for (uint32_t group = 0; group < CHAOS_GROUPS_MAX; group++) {
        if (hash_at[group] == 0)
            continue;
        Dunlin__V1__GroupIndex *at = &asked[request.n_hash_at];
        dunlin__v1__group_index__init(at);
        at->group = group;
        at->index = hash_at[group];
        pointers[request.n_hash_at++] = at;
    }
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_STATUS, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_read_type(answer.status);
    if (type == CHAOS_OK)
        type = workload_take_groups(&answer, ret_groups, ret_count);
    if (type == CHAOS_OK) {
        op.groups = ret_groups;
        op.groups_count = *ret_count;
    }
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}
