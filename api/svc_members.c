/* Cluster.ListMembers and Cluster.ChangeMember: who is part of the cluster, and who is to be. */
#include "api/service.h"

#include <string.h>

static char *text(const char *constant)
{
    return (char *)(uintptr_t)constant; /* protobuf-c does not write to it */
}

const char *dn_member_name(const struct dn_app *app, uint64_t node_id)
{
    if (node_id == app->options.node_id)
        return app->options.node_name ? app->options.node_name : "";
    for (size_t i = 0; i < app->options.member_count; i++)
        if (app->options.members[i].node_id == node_id)
            return app->options.member_names ? app->options.member_names[i] : "";
    return "";
}

_Static_assert((int)DN_ROLE_WAITING == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_WAITING &&
                   (int)DN_ROLE_LEARNER == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_LEARNER &&
                   (int)DN_ROLE_REPLICA == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_REPLICA &&
                   (int)DN_ROLE_VOTER == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_VOTER &&
                   (int)DN_ROLE_LEAVING == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_LEAVING,
               "roles have the numbers of the protobuf file");

static bool member_fill(struct dn_call *call, const struct dn_member_info *from, Dunlin__V1__Member *to)
{
    dunlin__v1__member__init(to);
    to->node_id = from->node_id;
    to->raft_id = from->raft_id;
    to->address = dn_arena_strndup(call->arena, from->address, strnlen(from->address, DN_ADDRESS_MAX));
    to->role = (Dunlin__V1__MemberRole)from->role;
    to->replaces = from->replaces;
    to->connected = from->connected;
    to->self = from->self;
    to->groups = from->groups;
    to->voting = from->voting;
    to->leading = from->leading;
    to->name = text(dn_member_name(dn_call_app(call), from->node_id));
    return to->address != NULL;
}

void dn_svc_list_members(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    if (!dn_call_unpack(call, &dunlin__v1__list_members_request__descriptor, message, length))
        return;
    struct dn_members members;
    dn_consensus_members(app->options.consensus, &members);
    DN_ASSERT(members.count <= DN_MEMBERS_MAX);
    Dunlin__V1__Member infos[DN_MEMBERS_MAX], *pointers[DN_MEMBERS_MAX];
    Dunlin__V1__ListMembersResponse response = DUNLIN__V1__LIST_MEMBERS_RESPONSE__INIT;
    response.formed = members.formed;
    response.waiting_for = members.waiting_for;
    response.config_index = members.config_index;
    response.groups = app->options.shard_count + 1;
    response.node_id = app->options.node_id;
    response.members = pointers;
    response.n_members = members.count;
    for (size_t i = 0; i < members.count; i++) {
        pointers[i] = &infos[i];
        if (!member_fill(call, &members.members[i], &infos[i])) {
            dn_fail_memory(call);
            return;
        }
    }
    dn_call_reply(call, &response.base);
}

/* ---- changes
 * --------------------------------------------------------------------------------------------------- */

static bool change_read(struct dn_call *call, const Dunlin__V1__ChangeMemberRequest *request,
                        struct dn_member_change *ret)
{
    switch ((int)request->op) {
    case DUNLIN__V1__MEMBER_OP__MEMBER_OP_ADD:
        ret->op = DN_MEMBER_ADD;
        break;
    case DUNLIN__V1__MEMBER_OP__MEMBER_OP_PROMOTE:
        ret->op = DN_MEMBER_PROMOTE;
        break;
    case DUNLIN__V1__MEMBER_OP__MEMBER_OP_REMOVE:
        ret->op = DN_MEMBER_REMOVE;
        break;
    case DUNLIN__V1__MEMBER_OP__MEMBER_OP_REPLACE:
        ret->op = DN_MEMBER_REPLACE;
        break;
    default:
        dn_call_fail(call, DN_INVALID, "op: %d; one of ADD (1), PROMOTE (2), REMOVE (3), REPLACE (4)",
                     (int)request->op);
        return false;
    }
    if (request->node_id == 0) {
        dn_call_fail(call, DN_INVALID, "node_id: 0; nodes are numbered from 1");
        return false;
    }
    if (request->replica && ret->op != DN_MEMBER_ADD) {
        dn_call_fail(call, DN_INVALID, "replica: goes with ADD only");
        return false;
    }
    ret->node_id = request->node_id;
    ret->replica = request->replica;
    return true;
}

static void change_resume(struct dn_call *call)
{
    const struct dn_op *op = call->ops;
    Dunlin__V1__ChangeMemberResponse response = DUNLIN__V1__CHANGE_MEMBER_RESPONSE__INIT;
    if (op->code == DN_OK)
        dn_call_reply(call, &response.base);
    else
        dn_call_fail(call, op->code, "%s", op->result_length > 0 ? (const char *)op->result : op->message);
}

void dn_svc_change_member(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    Dunlin__V1__ChangeMemberRequest *request =
        dn_call_unpack(call, &dunlin__v1__change_member_request__descriptor, message, length);
    struct dn_member_change read = {0};
    if (!request || !change_read(call, request, &read))
        return;
    struct dn_member_change *change = dn_arena_memdup(call->arena, &read, sizeof read);
    if (!change) {
        dn_fail_memory(call);
        return;
    }
    struct dn_op *op = dn_call_op(call, DN_ERROR_MESSAGE_MAX);
    if (!op)
        return;
    dn_op_member_change(op, app->options.consensus, change);
    dn_call_park(call, change_resume);
}
