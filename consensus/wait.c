/* Wait: barriers and applied-waits.
 *
 * State machine of a wait:
 *   accepted -> unapplied   (APPLIED, the index may be known to be committed or soon will be)
 *            -> unfenced    (BARRIER; or APPLIED whose index stays unknown for ASK_AFTER_US)
 *   unfenced -wait_turn-> in the group's fence: one barrier in flight at a time, here (raft_barrier) or asked
 *            of the leader over the peer link; it serves all that arrived before it was sent
 *   in the fence -fence_done(index)-> unapplied, waiting for the barrier's index (or DN_RANGE: an APPLIED
 * wait whose index lies beyond it); a wait of another node is answered with the index unapplied -wait_moved->
 * done DN_OK A fence that fails (leadership lost, link down) gives its waits back to unfenced. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/mutant.h"

#include <string.h>

void waits_push(struct waits *list, struct dn_wait *w)
{
    struct wait_link *link = wlink(w);
    link->next = NULL;
    link->prev = list->last;
    if (list->last == NULL) {
        list->first = w;
    } else {
        wlink(list->last)->next = w;
    }
    list->last = w;
    if (list->count++ == 0 || w->deadline_us < list->due_us) {
        list->due_us = w->deadline_us;
    }
}

void waits_remove(struct waits *list, struct dn_wait *w)
{
    struct wait_link *link = wlink(w);
    if (link->prev == NULL) {
        list->first = link->next;
    } else {
        wlink(link->prev)->next = link->next;
    }
    if (link->next == NULL) {
        list->last = link->prev;
    } else {
        wlink(link->next)->prev = link->prev;
    }
    link->next = link->prev = NULL;
    list->count--;
}

static void finish(struct group *g, struct dn_wait *w, enum dn_code code, const char *why)
{
    struct dn_error err;
    if (code == DN_OK) {
        w->done(w, DN_OK, atomic_load_explicit(&g->applied, memory_order_relaxed), NULL);
        return;
    }
    dn_fail(&err, code, "group %u: %s", g->id, why);
    w->done(w, code, atomic_load_explicit(&g->applied, memory_order_relaxed), &err);
}

void wait_accept(struct dn_consensus *c, struct dn_wait *w, bool remote)
{
    struct group *g = &c->groups[w->group];
    memset(w->opaque, 0, sizeof w->opaque);
    wlink(w)->remote = remote;
    if (dn_mutant(w->kind == DN_WAIT_APPLIED ? DN_MUTANT_SKIP_TOKEN_WAIT : DN_MUTANT_SKIP_BARRIER)) {
        finish(g, w, DN_OK, NULL);
    } else if (w->kind == DN_WAIT_APPLIED &&
               w->index <= atomic_load_explicit(&g->applied, memory_order_relaxed)) {
        finish(g, w, DN_OK, NULL);
    } else if (g->unfenced.count + g->unapplied.count + g->fence.waits.count >= WAITS_MAX) {
        finish(g, w, DN_EXHAUSTED, "too many reads wait: slow down and try again");
    } else if (w->kind == DN_WAIT_APPLIED) {
        wlink(w)->ask_at_us = dn_monotonic_us() + ASK_AFTER_US;
        waits_push(&g->unapplied, w);
    } else {
        waits_push(&g->unfenced, w);
    }
}

/* ---- the fence -------------------------------------------------------------------------------------- */

static void fence_waits_back(struct group *g)
{
    while (g->fence.waits.first != NULL) {
        struct dn_wait *w = g->fence.waits.first;
        waits_remove(&g->fence.waits, w);
        waits_push(&g->unfenced, w);
    }
}

static void fence_done(struct group *g, uint64_t index)
{
    uint64_t applied = atomic_load_explicit(&g->applied, memory_order_relaxed);
    while (g->fence.waits.first != NULL) {
        struct dn_wait *w = g->fence.waits.first;
        waits_remove(&g->fence.waits, w);
        if (wlink(w)->remote) {
            w->index = index;
            finish(g, w, DN_OK, NULL);
        } else if (w->kind == DN_WAIT_APPLIED && w->index > index) {
            finish(g, w, DN_RANGE,
                   "the index is beyond what the leader has committed: not a token of this cluster");
        } else {
            if (w->kind == DN_WAIT_BARRIER) {
                w->index = index;
            }
            wlink(w)->ask_at_us = 0;
            if (w->index <= applied) {
                finish(g, w, DN_OK, NULL);
            } else {
                waits_push(&g->unapplied, w);
            }
        }
    }
}

static void barrier_cb(struct raft_barrier *req, int status)
{
    struct group *g = container_of(req, struct group, fence.req);
    g->fence.active = false;
    g->fence.local = false;
    if (status == 0) {
        fence_done(g, req->index);
    } else {
        fence_waits_back(g);
    }
    consensus_kick(g->c);
}

static void fence_fill(struct group *g)
{
    g->fence.waits = g->unfenced;
    memset(&g->unfenced, 0, sizeof g->unfenced);
    g->fence.active = true;
}

static void ask_leader(struct group *g)
{
    struct wire_frame frame = {.type = WIRE_BARRIER, .group = g->id};
    frame.request = ++g->c->next_request;
    if (link_send(g->c, g->leader_id, &frame)) {
        fence_fill(g);
        g->fence.request = frame.request;
    }
}

static void return_remote(struct group *g)
{
    for (struct dn_wait *w = g->unfenced.first, *next; w != NULL; w = next) {
        next = wlink(w)->next;
        if (wlink(w)->remote) {
            waits_remove(&g->unfenced, w);
            finish(g, w, DN_NOT_LEADER, "this node does not lead the group");
        }
    }
}

void wait_turn(struct group *g)
{
    uint64_t now;
    if (g->fence.active || g->unfenced.first == NULL) {
        return;
    }
    if (group_can_submit(g)) {
        if (raft_barrier(&g->raft, &g->fence.req, barrier_cb) == 0) {
            fence_fill(g);
            g->fence.local = true;
        }
        return;
    }
    if (g->leader) {
        return;
    }
    return_remote(g);
    now = dn_monotonic_us();
    if (g->unfenced.first != NULL && g->leader_id != 0 && now >= g->retry_at_us) {
        ask_leader(g);
    }
}

void wait_answer(struct dn_consensus *c, const struct wire_frame *frame)
{
    struct group *g = &c->groups[frame->group];
    if (!g->fence.active || g->fence.local || g->fence.request != frame->request) {
        return;
    }
    g->fence.active = false;
    if (frame->code == DN_OK) {
        fence_done(g, frame->index);
    } else {
        g->retry_at_us = dn_monotonic_us() + RETRY_AFTER_US;
        fence_waits_back(g);
    }
}

void wait_unfence(struct group *g)
{
    if (g->fence.active && !g->fence.local) {
        g->fence.active = false;
        fence_waits_back(g);
    }
}

static void finish_applied(struct group *g, struct waits *list, bool fenced)
{
    uint64_t applied = atomic_load_explicit(&g->applied, memory_order_relaxed);
    for (struct dn_wait *w = list->first, *next; w != NULL; w = next) {
        next = wlink(w)->next;
        if (w->index <= applied && (!fenced || w->kind == DN_WAIT_APPLIED)) {
            waits_remove(list, w);
            finish(g, w, DN_OK, NULL);
        }
    }
}

/* An APPLIED wait that asks the leader about its index needs no answer once the index is here. */
void wait_moved(struct group *g)
{
    finish_applied(g, &g->unapplied, false);
    finish_applied(g, &g->unfenced, true);
    finish_applied(g, &g->fence.waits, true);
}

/* ---- deadlines and the end -------------------------------------------------------------------------- */

static void expire_list(struct group *g, struct waits *list, uint64_t now, const char *why)
{
    uint64_t due = UINT64_MAX;
    if (list->count == 0 || now < list->due_us) {
        return;
    }
    for (struct dn_wait *w = list->first, *next; w != NULL; w = next) {
        next = wlink(w)->next;
        if (w->deadline_us <= now) {
            waits_remove(list, w);
            finish(g, w, DN_DEADLINE, why);
        } else if (w->deadline_us < due) {
            due = w->deadline_us;
        }
    }
    list->due_us = due;
}

void wait_expire(struct group *g, uint64_t now)
{
    uint64_t commit = g->started ? raft_commit_index(&g->raft) : 0;
    for (struct dn_wait *w = g->unapplied.first, *next; w != NULL; w = next) {
        next = wlink(w)->next;
        if (wlink(w)->ask_at_us != 0 && wlink(w)->ask_at_us <= now && w->index > commit) {
            waits_remove(&g->unapplied, w);
            waits_push(&g->unfenced, w);
        }
    }
    expire_list(g, &g->unfenced, now,
                g->leader_id == 0 ? "no leader is known" : "the leader was not reached");
    expire_list(g, &g->fence.waits, now, "the leader did not answer (no majority?)");
    expire_list(g, &g->unapplied, now, "committed, not yet applied here");
}

static void fail_list(struct group *g, struct waits *list, enum dn_code code, const char *why)
{
    while (list->first != NULL) {
        struct dn_wait *w = list->first;
        waits_remove(list, w);
        finish(g, w, code, why);
    }
}

void wait_fail_all(struct group *g, enum dn_code code, const char *why)
{
    fail_list(g, &g->unfenced, code, why);
    fail_list(g, &g->fence.waits, code, why);
    fail_list(g, &g->unapplied, code, why);
}
