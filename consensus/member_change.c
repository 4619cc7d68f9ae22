/* Changes of members that somebody asks for: from a call, or another node's frame, to a step of Raft's in
 * group 0, at its leader.
 *
 * State machine of a change:
 *
 *   waiting -not the leader: forward-> asked -answer-> done
 *      |  ^                              | NOT_LEADER, link lost, leader moved: "again"
 *      |  +------------------------------+
 *      +-carry_out-> running (libraft has it) -committed-> done DN_OK
 *         ^              | leadership lost: "again"
 *         +--------------+
 *
 * From every state but running the deadline leads to done, from each the end of the node. A change that is
 * tried again may have happened the first time: what it asks for is then found done, and that is DN_OK. */
#include "consensus/internal.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHANGES_MAX 64        /* asked for and not done, at one node */
#define CHANGE_AGAIN_US 50000 /* between two attempts of one change */
#define KNOCK_US                                                                                             \
    3000000 /* a node that is to be let in may take so long to make itself known to the leader               \
             */

/* What consensus keeps in dn_member_change.opaque. */
struct change_link {
    struct dn_member_change *next;
    uint64_t request;  /* at the leader under this number; 0: not there */
    uint64_t again_us; /* not before */
    uint64_t since_us; /* accepted here */
    struct asker asker;
    uint64_t asker_request;
    uint64_t target;    /* raft id of the member it began to change; 0: not begun */
    bool remote, again; /* again: it was tried before, and may have happened */
    bool running;       /* libraft has it */
    bool failed;        /* and gave it back */
};
_Static_assert(sizeof(struct change_link) <= sizeof(((struct dn_member_change *)0)->opaque),
               "opaque too small");

static struct change_link *clink(struct dn_member_change *change)
{
    return (struct change_link *)(void *)change->opaque;
}

/* ---- changes that are asked for ------------------------------------------------------------------------ */

static void finish(struct dn_consensus *c, struct dn_member_change *change, enum dn_code code,
                   const struct dn_error *err)
{
    struct dn_member_change **at = &c->changes;
    while (*at != change) {
        at = &clink(*at)->next;
    }
    *at = clink(change)->next;
    change->done(change, code, err);
}

static void fail(struct dn_consensus *c, struct dn_member_change *change, enum dn_code code,
                 const char *format, ...) __attribute__((format(printf, 4, 5)));
static void fail(struct dn_consensus *c, struct dn_member_change *change, enum dn_code code,
                 const char *format, ...)
{
    struct dn_error err = {.code = code};
    va_list args;
    va_start(args, format);
    vsnprintf(err.message, sizeof err.message, format, args);
    va_end(args);
    finish(c, change, code, &err);
}

static void succeed(struct dn_consensus *c, struct dn_member_change *change)
{
    struct dn_error err = {0};
    finish(c, change, DN_OK, &err);
}

/* The node of that name that waits at our door. -1: none; -2: several. */
static int waiting_slot(const struct dn_consensus *c, uint64_t node_id)
{
    int found = -1;
    for (int i = 1; i < DN_MEMBERS_MAX; i++) {
        const struct member *m = &c->members[i];
        if (m->raft_id != 0 && !m->configured && m->greeted && m->empty && m->node_id == node_id &&
            link_up(c, m->raft_id)) {
            found = found == -1 ? i : -2;
        }
    }
    return found;
}

static void begin(struct dn_member_change *change, uint64_t raft_id, bool begun)
{
    if (begun) {
        clink(change)->target = raft_id;
        clink(change)->running = true;
        clink(change)->failed = false;
    }
}

static void begin_add(struct dn_consensus *c, struct dn_member_change *change, const struct listed *old,
                      const struct member_list *list)
{
    struct group *g = &c->groups[0];
    unsigned long long name = change->node_id;
    int slot = waiting_slot(c, change->node_id);
    if (slot == -2) {
        fail(c, change, DN_PRECONDITION,
             "two nodes of the name %llu wait: stop one of them, its name is taken from node.id", name);
        return;
    }
    if (slot < 0 && dn_monotonic_us() < clink(change)->since_us + KNOCK_US) {
        return; /* we look again soon */
    }
    if (slot < 0) {
        fail(c, change, DN_NOT_FOUND,
             "no node %llu waits: start it on an empty data directory, with this cluster's id and key and "
             "some "
             "members to ask; 'dunlin member list' shows it when it is there",
             name);
        return;
    }
    const struct member *m = &c->members[slot];
    if (m->group_count != c->o.group_count) {
        fail(c, change, DN_PRECONDITION,
             "node %llu has %u groups and this cluster has %u: set its cluster.shards to %u", name,
             m->group_count, c->o.group_count, c->o.group_count - 1);
        return;
    }
    if (list->count >= DN_MEMBERS_MAX - 2) {
        fail(c, change, DN_EXHAUSTED, "a cluster has at most %d members", DN_MEMBERS_MAX - 2);
        return;
    }
    struct listed listed = {.raft_id = m->raft_id,
                            .node_id = change->node_id,
                            .replaces = old == NULL ? 0 : old->raft_id,
                            .role = change->replica || (old != NULL && old->role == DN_ROLE_REPLICA)
                                        ? DN_ROLE_REPLICA
                                        : DN_ROLE_LEARNER};
    memcpy(listed.address, m->address, sizeof listed.address);
    begin(change, m->raft_id, member_step_add(g, &listed));
}

static void begin_promote(struct dn_consensus *c, struct dn_member_change *change, const struct listed *m)
{
    struct group *g = &c->groups[0];
    if (m->role == DN_ROLE_VOTER) {
        succeed(c, change);
    } else if (m->role == DN_ROLE_LEARNER) {
        fail(c, change, DN_PRECONDITION,
             "node %llu catches up, and becomes a voter by itself when it is close ('dunlin member list')",
             (unsigned long long)m->node_id);
    } else if (!member_close(g, m->raft_id)) {
        fail(c, change, DN_PRECONDITION,
             "node %llu is not connected, or has not caught up yet: try again when it has",
             (unsigned long long)m->node_id);
    } else {
        begin(change, m->raft_id, member_step_assign(g, m->raft_id, RAFT_VOTER));
    }
}

static void begin_remove(struct dn_consensus *c, struct dn_member_change *change, const struct listed *m,
                         const struct member_list *list)
{
    struct group *g = &c->groups[0];
    unsigned voters = 0, reachable = 0;
    for (unsigned i = 0; i < list->count; i++) {
        const struct listed *other = &list->of[i];
        if (other->role == DN_ROLE_VOTER && other->raft_id != m->raft_id) {
            voters++;
            reachable += other->raft_id == c->raft_id || link_up(c, other->raft_id);
        }
    }
    if (m->role == DN_ROLE_VOTER && voters == 0) {
        fail(c, change, DN_PRECONDITION, "node %llu is the only voter", (unsigned long long)m->node_id);
    } else if (m->role == DN_ROLE_VOTER && reachable * 2 <= voters) {
        fail(c, change, DN_PRECONDITION,
             "without node %llu, %u of %u voters could be reached: no majority, and not even this change "
             "could be "
             "made. Bring a node back, or remove one that is lost, first",
             (unsigned long long)m->node_id, reachable, voters);
    } else if (m->raft_id == c->raft_id) {
        group_hand_over(g, 0); /* the next leader removes us; we ask it */
    } else {
        begin(change, m->raft_id, member_step_remove(g, m->raft_id));
    }
}

/* At the leader of group 0. */
static void carry_out(struct dn_consensus *c, struct dn_member_change *change)
{
    struct change_link *link = clink(change);
    struct member_list list;
    uint64_t index;
    unsigned long long name = change->node_id;
    if (!group_members(&c->groups[0], &list, &index)) {
        return;
    }
    const struct listed *m = member_list_named(&list, change->node_id);
    if (change->op == DN_MEMBER_REPLACE) { /* the newest of that name, if two are there */
        for (unsigned i = 0; i < list.count; i++) {
            m = list.of[i].node_id == change->node_id && m != NULL && list.of[i].replaces == m->raft_id
                    ? &list.of[i]
                    : m;
        }
    }
    if (link->target != 0 && !link->failed) {
        succeed(c, change); /* step_done said so */
        return;
    }
    switch (change->op) {
    case DN_MEMBER_ADD:
        if (m == NULL) {
            begin_add(c, change, NULL, &list);
        } else if (link->again && (link->target == 0 || link->target == m->raft_id)) {
            succeed(c, change);
        } else {
            fail(c, change, DN_EXISTS,
                 "node %llu is a member already: 'dunlin member replace %llu' if its data is lost", name,
                 name);
        }
        break;
    case DN_MEMBER_REPLACE:
        if (m == NULL) {
            fail(c, change, DN_NOT_FOUND, "no member has the name %llu: use 'dunlin member add %llu'", name,
                 name);
        } else if (link->again && m->replaces != 0 && waiting_slot(c, change->node_id) == -1) {
            succeed(c, change);
        } else if (waiting_slot(c, change->node_id) == -1 && link_up(c, m->raft_id)) {
            fail(c, change, DN_PRECONDITION,
                 "node %llu is here, with its data, and no other node of that name waits", name);
        } else {
            begin_add(c, change, m, &list);
        }
        break;
    case DN_MEMBER_PROMOTE:
        if (m == NULL) {
            fail(c, change, DN_NOT_FOUND, "no member has the name %llu", name);
        } else {
            begin_promote(c, change, m);
        }
        break;
    case DN_MEMBER_REMOVE:
        if (m != NULL) {
            begin_remove(c, change, m, &list);
        } else if (link->again) {
            succeed(c, change);
        } else {
            fail(c, change, DN_NOT_FOUND, "no member has the name %llu", name);
        }
        break;
    }
}

static void forward(struct dn_consensus *c, struct dn_member_change *change, uint64_t now_us)
{
    struct change_link *link = clink(change);
    struct wire_frame frame = {.type = WIRE_MEMBER,
                               .request = ++c->next_request,
                               .left_ms = (uint32_t)((change->deadline_us - now_us) / 1000) + 1,
                               .op = (uint8_t)change->op,
                               .flags = (uint8_t)((change->replica ? WIRE_MEMBER_REPLICA : 0) |
                                                  (link->again ? WIRE_MEMBER_AGAIN : 0)),
                               .node_id = change->node_id};
    if (link_send(c, c->groups[0].leader_id, &frame)) {
        link->request = frame.request;
    }
}

static void work_on(struct dn_consensus *c, struct dn_member_change *change, uint64_t now_us)
{
    struct group *g = &c->groups[0];
    struct change_link *link = clink(change);
    bool leading = g->leader && raft_state(&g->raft) == RAFT_LEADER;
    if (now_us >= change->deadline_us && !link->running) {
        fail(c, change, DN_DEADLINE,
             c->forming == FORMED
                 ? "the leader of group 0 did not get to it in time; it may have happened: look "
                   "at 'dunlin member list'"
                 : "this node is part of no cluster yet");
        return;
    }
    if (link->running || link->request != 0 || now_us < link->again_us || c->forming != FORMED) {
        return;
    }
    link->again_us = now_us + CHANGE_AGAIN_US;
    if (leading) {
        if (member_step_free(g)) {
            carry_out(c, change);
        } else if (link->target != 0 && !link->failed) {
            succeed(c, change);
        }
    } else if (link->remote) {
        fail(c, change, link->again || link->target != 0 ? DN_UNAVAILABLE : DN_NOT_LEADER,
             "this node does not lead group 0");
    } else if (g->leader_id != 0) {
        forward(c, change, now_us);
    }
}

static void accept_change(struct dn_consensus *c, struct dn_member_change *change)
{
    struct dn_member_change **at = &c->changes;
    unsigned count = 0;
    for (; *at != NULL; at = &clink(*at)->next) {
        count++;
    }
    *at = change;
    clink(change)->next = NULL;
    clink(change)->since_us = dn_monotonic_us();
    if (count >= CHANGES_MAX) {
        fail(c, change, DN_EXHAUSTED, "%d changes of members wait already", CHANGES_MAX);
    }
}

struct remote_change {
    struct dn_member_change change;
    struct dn_consensus *c;
};

static void remote_done(struct dn_member_change *change, enum dn_code code, const struct dn_error *err)
{
    struct remote_change *r = container_of(change, struct remote_change, change);
    struct wire_frame frame = {.type = WIRE_MEMBER_ANSWER,
                               .request = clink(change)->asker_request,
                               .code = code,
                               .message = err->message,
                               .message_length = strlen(err->message)};
    link_answer(r->c, &clink(change)->asker, &frame);
    free(r);
}

void members_request(struct dn_consensus *c, const struct asker *asker, const struct wire_frame *frame)
{
    struct remote_change *r = calloc(1, sizeof *r);
    if (r == NULL) {
        link_unanswered(c, asker); /* it asks again */
        return;
    }
    r->c = c;
    r->change.op = (enum dn_member_op)frame->op;
    r->change.node_id = frame->node_id;
    r->change.replica = frame->flags & WIRE_MEMBER_REPLICA;
    r->change.deadline_us = dn_monotonic_us() + (uint64_t)frame->left_ms * 1000;
    r->change.done = remote_done;
    struct change_link *link = clink(&r->change);
    link->remote = true;
    link->again = frame->flags & WIRE_MEMBER_AGAIN;
    link->asker = *asker;
    link->asker_request = frame->request;
    accept_change(c, &r->change);
    consensus_kick(c);
}

void members_answer(struct dn_consensus *c, const struct wire_frame *frame)
{
    for (struct dn_member_change *p = c->changes; p != NULL; p = clink(p)->next) {
        struct change_link *link = clink(p);
        if (link->request != frame->request || frame->request == 0) {
            continue;
        }
        link->request = 0;
        if (frame->code == DN_NOT_LEADER || frame->code == DN_DEADLINE || frame->code == DN_UNAVAILABLE) {
            link->again |= frame->code != DN_NOT_LEADER;
        } else {
            fail(c, p, frame->code, "%.*s", (int)frame->message_length, frame->message);
        }
        return;
    }
}

void members_lost(struct dn_consensus *c, uint64_t raft_id)
{
    for (struct dn_member_change *p = c->changes; p != NULL; p = clink(p)->next) {
        if (clink(p)->request != 0 && c->groups[0].leader_id == raft_id) {
            clink(p)->request = 0;
            clink(p)->again = true;
        }
    }
}

void members_leader_moved(struct dn_consensus *c)
{
    for (struct dn_member_change *p = c->changes; p != NULL; p = clink(p)->next) {
        if (clink(p)->request != 0) {
            clink(p)->request = 0;
            clink(p)->again = true;
        }
    }
}

void members_drain(struct dn_consensus *c, enum dn_code code, const char *why)
{
    struct dn_member_change *change;
    while ((change = dn_queue_pop(c->change_queue)) != NULL) {
        memset(change->opaque, 0, sizeof change->opaque);
        accept_change(c, change);
    }
    while (c->changes != NULL) {
        fail(c, c->changes, code, "%s", why);
    }
}

void changes_step_over(struct dn_consensus *c, bool done)
{
    for (struct dn_member_change *p = c->changes; p != NULL; p = clink(p)->next) {
        if (clink(p)->running) {
            clink(p)->running = false;
            clink(p)->failed = !done;
            clink(p)->again |= !done; /* it may yet be committed by the next leader */
        }
    }
}

void changes_turn(struct dn_consensus *c, uint64_t now_us)
{
    struct dn_member_change *change, *next;
    while ((change = dn_queue_pop(c->change_queue)) != NULL) {
        memset(change->opaque, 0, sizeof change->opaque);
        accept_change(c, change);
    }
    for (change = c->changes; change != NULL; change = next) {
        next = clink(change)->next;
        work_on(c, change, now_us);
    }
}
