/* Nemeses of membership, by the public API: a disk lost and replaced, a node taken in, a node taken out. */
#include "chaos/nemesis_internal.h"

#include "client/client.h"
#include "dunlin/v1/dunlin.pb-c.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALL_MS 3000
#define CHANGE_MS 120000 /* a change, with its catching up, that takes longer has failed */
#define LOOK_EVERY_MS 100
#define OPEN_FOLDERS 8 /* of nftw */

/* ---- an empty disk
 * ------------------------------------------------------------------------------------------ */

static int remove_one(const char *path, const struct stat *about, int type, struct FTW *where)
{
    (void)about;
    (void)type;
    return where->level == 0 ? 0 : remove(path);
}

static void wipe(const char *folder, void *data)
{
    int *failed = data;

    *failed = nftw(folder, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) == 0 ? 0 : errno;
}

enum dn_code nemesis_wipe(struct chaos_cluster *c, unsigned node, struct dn_error *err)
{
    int failed = 0;
    enum dn_code code = cluster_disk_visit(c, node, wipe, &failed, err);

    if (code == DN_OK && failed != 0 && failed != ENOENT)
        code = dn_fail(err, DN_IO, "empty node %u's data directory: %s", node, strerror(failed));
    return code;
}

/* ---- asking
 * ------------------------------------------------------------------------------------------------- */

static enum dn_code call(struct chaos_cluster *c, unsigned node, const char *path, const uint8_t *message,
                         size_t length, uint8_t **ret_bytes, size_t *ret_length, struct dn_error *err)
{
    struct dn_client *client;
    enum dn_code code = dn_client_connect(c->nodes[node].api, CALL_MS, &client, err);

    if (code != DN_OK)
        return code;
    code = dn_client_call(client, path, message, length, CALL_MS, ret_bytes, ret_length, err);
    dn_client_close(client);
    return code;
}

struct standing {
    bool known, listed, waiting, voter, everywhere; /* everywhere: it votes in all groups */
};

static struct standing standing_of(struct chaos_cluster *c, unsigned asked, unsigned node)
{
    struct standing s = {0};
    uint8_t *bytes;
    size_t length;
    struct dn_error err;

    if (call(c, asked, "/dunlin.v1.Cluster/ListMembers", NULL, 0, &bytes, &length, &err) != DN_OK)
        return s;
    Dunlin__V1__ListMembersResponse *list = dunlin__v1__list_members_response__unpack(NULL, length, bytes);
    s.known = list != NULL && list->formed;
    for (size_t i = 0; s.known && i < list->n_members; i++) {
        const Dunlin__V1__Member *m = list->members[i];
        if (m->node_id != node)
            continue;
        bool waits = m->role == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_WAITING;
        s.waiting |= waits;
        s.listed |= !waits;
        s.voter |= m->role == DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_VOTER;
        s.everywhere |= m->voting == list->groups;
    }
    if (list != NULL)
        dunlin__v1__list_members_response__free_unpacked(list, NULL);
    free(bytes);
    return s;
}

/* A member that runs, but not this one. */
static unsigned other_than(struct chaos_cluster *c, unsigned node, unsigned round)
{
    for (unsigned i = 0; i < c->o.nodes; i++) {
        unsigned one = 1 + (round + i) % c->o.nodes;
        if (one != node && chaos_cluster_is_running(c, one) && !cluster_node_is_paused(c, one))
            return one;
    }
    return 0;
}

/* ---- changing
 * ------------------------------------------------------------------------------------------------- */

/* A node that gets in says so itself: the others may still know it as what it was before its disk was lost.
 */
static bool is_done(struct chaos_cluster *c, const struct standing *seen, Dunlin__V1__MemberOp op,
                    unsigned node)
{
    if (op == DUNLIN__V1__MEMBER_OP__MEMBER_OP_REMOVE)
        return seen->known && !seen->listed;
    struct standing own = standing_of(c, node, node);
    return own.known && own.voter && own.everywhere;
}

/* Asked again until the list shows it: an answer that did not come says nothing. */
static enum dn_code change(struct chaos_cluster *c, Dunlin__V1__MemberOp op, unsigned node,
                           struct dn_error *err)
{
    Dunlin__V1__ChangeMemberRequest request = DUNLIN__V1__CHANGE_MEMBER_REQUEST__INIT;
    uint8_t message[32], *bytes;
    size_t length;
    int64_t end = nemesis_now_ms() + CHANGE_MS;
    struct dn_error last = {.message = "nobody answers"};

    request.op = op;
    request.node_id = node;
    DN_ASSERT(dunlin__v1__change_member_request__get_packed_size(&request) <= sizeof message);
    size_t size = dunlin__v1__change_member_request__pack(&request, message);
    for (unsigned round = 0; nemesis_now_ms() < end; round++) {
        unsigned asked = other_than(c, node, round);
        if (asked != 0) {
            struct standing s = standing_of(c, asked, node);
            if (is_done(c, &s, op, node))
                return DN_OK;
            bool to_do = op == DUNLIN__V1__MEMBER_OP__MEMBER_OP_REMOVE ? s.listed : s.waiting;
            if (s.known && to_do &&
                call(c, asked, "/dunlin.v1.Cluster/ChangeMember", message, size, &bytes, &length, &last) ==
                    DN_OK)
                free(bytes);
        }
        poll(NULL, 0, LOOK_EVERY_MS);
    }
    return dn_fail(err, DN_DEADLINE, "change of member %u (op %d) not done within %d s: %s", node, (int)op,
                   CHANGE_MS / 1000, last.message);
}

enum dn_code nemesis_replace(struct chaos_cluster *c, unsigned node, struct dn_error *err)
{
    enum dn_code code = cluster_node_start(c, node, err);

    if (code == DN_OK)
        code = change(c, DUNLIN__V1__MEMBER_OP__MEMBER_OP_REPLACE, node, err);
    return code;
}

static enum dn_code take_out(struct chaos_cluster *c, unsigned node, struct dn_error *err)
{
    cluster_node_expect_end(c, node);
    enum dn_code code = change(c, DUNLIN__V1__MEMBER_OP__MEMBER_OP_REMOVE, node, err);
    if (code == DN_OK && !cluster_node_wait_end(c, node, CLUSTER_STOP_MS)) {
        char text[128];
        snprintf(text, sizeof text, "node %u was removed and did not leave within %d s", node,
                 CLUSTER_STOP_MS / 1000);
        cluster_crash(c, node, text);
    }
    const struct cluster_node *n = &c->nodes[node];
    if (code == DN_OK && !chaos_cluster_is_running(c, node) &&
        (!WIFEXITED(n->status) || WEXITSTATUS(n->status) != 0)) {
        char text[128];
        snprintf(text, sizeof text, "node %u was removed and ended with status %#x instead of code 0", node,
                 (unsigned)n->status);
        cluster_crash(c, node, text);
    }
    cluster_node_kill(c, node);
    return code == DN_OK ? nemesis_wipe(c, node, err) : code;
}

static enum dn_code take_in(struct chaos_cluster *c, unsigned node, struct dn_error *err)
{
    enum dn_code code = cluster_node_start(c, node, err);

    return code == DN_OK ? change(c, DUNLIN__V1__MEMBER_OP__MEMBER_OP_ADD, node, err) : code;
}

/* ---- the faults
 * ------------------------------------------------------------------------------------------------- */

static enum dn_code lose_disk(struct fault *f, struct dn_error *err)
{
    unsigned node = fault_any(f);

    if (node == 0)
        return dn_fail(err, DN_PRECONDITION, "no node runs");
    f->node = node;
    cluster_node_kill(f->c, node);
    fault_say(f, "node %u killed, its disk is lost", node);
    return nemesis_wipe(f->c, node, err);
}

static enum dn_code replace_disk(struct fault *f, struct dn_error *err)
{
    if (f->node == 0)
        return DN_OK;
    fault_say(f, "node %u replaced itself", f->node);
    return nemesis_replace(f->c, f->node, err);
}

static enum dn_code shrink(struct fault *f, struct dn_error *err)
{
    f->node = fault_any(f);
    if (f->node == 0)
        return dn_fail(err, DN_PRECONDITION, "no node runs");
    fault_say(f, "node %u removed", f->node);
    enum dn_code code = take_out(f->c, f->node, err);
    f->on = code == DN_OK;
    return code;
}

static enum dn_code grow_back(struct fault *f, struct dn_error *err)
{
    if (f->node == 0)
        return DN_OK;
    fault_say(f, "node %u added again, with an empty disk", f->node);
    if (!f->on) { /* nobody knows whether it was removed: it is, and then comes back */
        enum dn_code code = take_out(f->c, f->node, err);
        if (code != DN_OK)
            return code;
    }
    return take_in(f->c, f->node, err);
}

static enum dn_code grow(struct fault *f, struct dn_error *err)
{
    f->node = f->c->o.nodes + 1 + fault_draw(f, f->c->o.spares);
    fault_say(f, "node %u added", f->node);
    return take_in(f->c, f->node, err);
}

static enum dn_code shrink_back(struct fault *f, struct dn_error *err)
{
    fault_say(f, "node %u removed", f->node);
    return take_out(f->c, f->node, err);
}

static const char *needs_spares(struct chaos_cluster *c)
{
    return c->o.spares > 0 ? NULL : "the cluster has no spare node";
}

static const char *needs_three(struct chaos_cluster *c)
{
    return c->o.nodes >= 3 ? NULL : "needs three nodes";
}

const struct nemesis NEMESES_MEMBERS[] = {
    {{"wipe-and-replace", "a node loses its disk and takes its place again"},
     NEMESIS_MEMBERS,
     needs_three,
     lose_disk,
     NULL,
     replace_disk},
    {{"grow", "a spare node is added, and removed again"},
     NEMESIS_MEMBERS,
     needs_spares,
     grow,
     NULL,
     shrink_back},
    {{"shrink", "a node is removed, and added again with an empty disk"},
     NEMESIS_MEMBERS,
     needs_three,
     shrink,
     NULL,
     grow_back},
};
const unsigned NEMESES_MEMBERS_COUNT = sizeof NEMESES_MEMBERS / sizeof *NEMESES_MEMBERS;
