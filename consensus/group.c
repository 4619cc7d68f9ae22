/* Group: one Raft instance: opening, its role, telling followers about commits, closing.
 *
 * Roles: (follower) -libraft turns leader-> leader, term barrier proposed -barrier applied here-> ready
 * (on_leader(true)) -libraft turns away, or the term changes-> follower (on_leader(false)). group_roles()
 * makes every transition.
 *
 * Commit notices: libraft tells followers of a commit with its next AppendEntries, up to a heartbeat later.
 * When nothing follows by itself, the leader sends an empty AppendEntries of its own right away, anchored
 * at the commit index: an entry of its own term that the follower is known to hold, so it is always a valid
 * message and never refused. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define COMPONENT "consensus"
#define STILL_US 50000         /* the log stands still for so long at most: a planned move costs no more */
#define STILL_PAUSE_US 2000000 /* writes go on for so long before the log stands still again */
#define STILL_ENTRIES 64       /* and only for a follower that lacks no more than so many entries */

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct group *g = container_of(fsm, struct group, raft_fsm);
    *result = NULL;
    return apply_enqueue(g, buf);
}

static void group_metrics(struct group *g)
{
    struct dn_metrics *m = g->c->o.metrics;
    char label[32];
    if (m == NULL) {
        return;
    }
    snprintf(label, sizeof label, "group=\"%u\"", g->id);
    g->m_commit = dn_metrics_histogram(m, "dunlin_commit_seconds", label, "Propose to applied here");
    g->m_leader = dn_metrics_gauge(m, "dunlin_leader", label, "1 when this node leads the group");
    g->m_term = dn_metrics_gauge(m, "dunlin_term", label, "Raft term");
    g->m_applied = dn_metrics_gauge(m, "dunlin_applied_index", label, "Applied Raft index");
    g->m_pending = dn_metrics_gauge(m, "dunlin_pending_proposals", label, "Proposals waiting");
    g->m_log_bytes = dn_metrics_gauge(m, "dunlin_log_bytes", label, "Log bytes since the last snapshot");
    g->m_entries = dn_metrics_counter(m, "dunlin_entries_applied_total", label, "Raft entries applied");
    g->m_snapshots = dn_metrics_counter(m, "dunlin_snapshots_total", label, "Snapshots stored");
    g->m_mismatch = dn_metrics_counter(m, "dunlin_hash_mismatches_total", label,
                                       "State hashes that differ from another node's");
    g->m_pauses = dn_metrics_counter(m, "dunlin_log_pauses_total", label,
                                     "Times a leader held new entries back to hand its group over");
    g->m_refused = dn_metrics_counter(m, "dunlin_proposals_refused_total", label, "Proposals refused");
}

static enum dn_code bootstrap_group(struct group *g, struct dn_error *err)
{
    struct dn_consensus *c = g->c;
    struct raft_configuration configuration;
    int rv = 0;
    raft_configuration_init(&configuration);
    for (unsigned i = 0; i < c->identity.initial.count && rv == 0; i++) {
        char text[MEMBER_TEXT_MAX];
        struct listed written = c->identity.initial.of[i];
        written.role = DN_ROLE_LEARNER; /* the vote is said beside the text */
        member_text(&written, text);
        rv = raft_configuration_add(&configuration, written.raft_id, text, RAFT_VOTER);
    }
    if (rv == 0) {
        rv = raft_bootstrap(&g->raft, &configuration);
    }
    raft_configuration_close(&configuration);
    if (rv != 0) {
        return dn_fail(err, DN_IO, "group %u: begin its log in '%s': %s: %s", g->id, g->c->journal_dir,
                       raft_strerror(rv), g->io.errmsg);
    }
    return DN_OK;
}

enum dn_code group_open(struct group *g, bool bootstrap, struct dn_error *err)
{
    struct dn_consensus *c = g->c;
    struct raft *r = &g->raft;
    int rv;
    enum dn_code code = snapstore_open(&g->store, c->data_dir, g->id, err);
    if (code != DN_OK) {
        return code;
    }
    g->prune.wanted = true; /* what the last life left */
    dn_buffer_init(&g->result, DN_RESULT_MAX);
    dn_buffer_init(&g->results, (size_t)1 << 30);
    g->raft_fsm = (struct raft_fsm){.version = 1,
                                    .data = g,
                                    .apply = fsm_apply,
                                    .snapshot = snapshot_fsm,
                                    .restore = snapshot_fsm_restore};
    raft_io_install(g);
    io_shim_install(g);
    rv = raft_init(r, &g->io, &g->raft_fsm, c->raft_id, c->members[0].address);
    if (rv != 0) {
        uv_close((uv_handle_t *)&g->ticker, NULL);
        return dn_fail(err, DN_INTERNAL, "group %u: %s: %s", g->id, raft_strerror(rv), r->errmsg);
    }
    g->opened = true;
    r->tracer = NULL;
    raft_set_election_timeout(r, c->o.election_timeout_ms);
    raft_set_heartbeat_timeout(r, c->o.heartbeat_ms);
    raft_set_install_snapshot_timeout(r, c->o.install_timeout_ms);
    raft_set_pre_vote(r, true);
    raft_set_snapshot_threshold(r, UINT_MAX);
    raft_set_snapshot_trailing(r, TRAILING_MAX);
    raft_set_capacity_threshold(r, 0); /* the free-space watermark is ours */
    uint64_t seed = c->nonce ^ (g->id * UINT64_C(0x9e3779b97f4a7c15));
    raft_seed(r, (unsigned)(seed ^ (seed >> 32)));
    group_metrics(g);
    return bootstrap ? bootstrap_group(g, err) : DN_OK;
}

enum dn_code group_start(struct group *g, struct dn_error *err)
{
    int rv = raft_start(&g->raft);
    if (rv != 0) {
        if (g->start_error.code != DN_OK) {
            return dn_fail(err, g->start_error.code, "group %u: restore from '%s': %s", g->id, g->c->data_dir,
                           g->start_error.message);
        }
        return dn_fail(
            err, rv == RAFT_NOMEM ? DN_NO_MEMORY : DN_CORRUPT,
            "group %u: load the log in '%s': %s: %s. The node does not start with less than it had; "
            "restore this node's data directory; an empty one under the same id is safe only while "
            "every other member is up and has applied all there is, for it would vote without its promises",
            g->id, g->c->journal_dir, raft_strerror(rv), raft_errmsg(&g->raft));
    }
    g->started = true;
    g->tick_at_us = dn_monotonic_us();
    apply_catch_up(g);
    status_publish(g);
    return DN_OK;
}

unsigned group_others(const struct group *g)
{
    unsigned count = 0;
    for (unsigned i = 0; i < g->raft.configuration.n; i++) {
        count += g->raft.configuration.servers[i].role == RAFT_VOTER &&
                 g->raft.configuration.servers[i].id != g->c->raft_id;
    }
    return count;
}

bool group_can_submit(struct group *g)
{
    /* While leadership is being handed over the log must stand still: libraft sends TimeoutNow once, and a
     * follower that lacks the last entry ignores it. */
    bool handing_over = (g->c->phase == PHASE_TRANSFER && group_others(g) > 0) ||
                        (g->still_until_us != 0 && dn_monotonic_us() < g->still_until_us);
    return g->started && !g->fenced && !g->c->disk_fault && !g->closing && !handing_over &&
           raft_state(&g->raft) == RAFT_LEADER && raft_transferee(&g->raft) == 0;
}

/* ---- roles ------------------------------------------------------------------------------------------ */

static void term_barrier_done(struct raft_barrier *req, int status)
{
    struct group *g = container_of(req, struct group, term_req);
    g->term_asked = false;
    if (status == 0 && raft_state(&g->raft) == RAFT_LEADER && raft_current_term(&g->raft) == g->term) {
        g->term_index = req->index;
    }
    consensus_kick(g->c);
}

static void lose_leadership(struct group *g)
{
    if (g->ready && g->c->o.on_leader != NULL) {
        g->c->o.on_leader(g->c->o.callback_data, g->id, false, g->term);
    }
    if (g->leader) {
        dn_info(COMPONENT, "group %u: no longer leader of term %llu", g->id, (unsigned long long)g->term);
    }
    g->leader = false;
    g->ready = false;
    g->term_index = 0;
}

static void gain_leadership(struct group *g, uint64_t term)
{
    dn_info(COMPONENT, "group %u: leader of term %llu", g->id, (unsigned long long)term);
    g->leader = true;
    g->term = term;
    memset(g->commit_sent, 0, sizeof g->commit_sent);
    age_lead(g);
}

void group_roles(struct group *g)
{
    raft_id leader_id = 0;
    const char *address;
    bool silent = g->fenced || g->c->disk_fault;
    bool leader = !silent && raft_state(&g->raft) == RAFT_LEADER;
    uint64_t term = raft_current_term(&g->raft);
    raft_leader(&g->raft, &leader_id, &address);
    if (silent) {
        leader_id = 0; /* whoever leads now, this node does not hear of it */
    }
    if (g->leader && (!leader || term != g->term)) {
        lose_leadership(g);
    }
    if (leader && !g->leader) {
        gain_leadership(g, term);
    }
    g->term = term;
    if (leader_id != g->leader_id) {
        g->leader_id = leader_id;
        g->leader_since_us = dn_monotonic_us();
        if (g->id == 0) {
            members_leader_moved(g->c);
        }
        g->retry_at_us = 0;
        propose_unforward(g);
        wait_unfence(g);
    }
    if (g->leader && g->term_index == 0 && !g->term_asked && group_can_submit(g)) {
        g->term_asked = raft_barrier(&g->raft, &g->term_req, term_barrier_done) == 0;
    }
    if (g->leader && !g->ready && g->term_index != 0 && atomic_load(&g->applied) >= g->term_index) {
        g->ready = true;
        if (g->c->o.on_leader != NULL) {
            g->c->o.on_leader(g->c->o.callback_data, g->id, true, g->term);
        }
    }
}

/* The leader's process is gone (its connection was reset and it takes no new one), or said goodbye. Waiting a
 * whole election timeout for what is known would be a choice. The leader is forgotten (so that pre-votes are
 * granted) and the timer brought forward, one tick apart on each node so that votes do not split. A false
 * alarm is harmless: Raft's safety knows no clocks, and the leader's next message sets all of it back. */
void group_leader_gone(struct group *g, uint64_t raft_id)
{
    struct dn_consensus *c = g->c;
    struct raft *r = &g->raft;
    if (!g->started || g->fenced || g->closing || raft_state(r) != RAFT_FOLLOWER ||
        r->follower_state.current_leader.id != raft_id || r->snapshot.installing ||
        !group_voter(g, raft_id) || !group_voter(g, c->raft_id)) {
        return;
    }
    /* Where we stand among the voters behind the one that is gone; groups begin with different ones. */
    unsigned voters = 0, before = 0, gone = 0;
    for (unsigned i = 0; i < r->configuration.n; i++) {
        const struct raft_server *s = &r->configuration.servers[i];
        voters += s->role == RAFT_VOTER;
        before += s->role == RAFT_VOTER && s->id < c->raft_id;
        gone += s->role == RAFT_VOTER && s->id < raft_id;
    }
    if (voters < 2) {
        return;
    }
    unsigned after = (before + voters - gone - 1) % voters;
    unsigned rank = (after + g->id) % (voters - 1);
    raft_time now = g->io.time(&g->io), timeout = r->follower_state.randomized_election_timeout;
    raft_time left = (raft_time)rank * 2 * c->o.heartbeat_ms;
    if (left >= timeout || now < timeout || r->election_timer_start + timeout <= now + left) {
        left = timeout; /* it ends by itself soon enough */
    }
    if (left < timeout) {
        r->election_timer_start = now - timeout + left;
    }
    dn_info(COMPONENT, "group %u: the leader (node %llu) closed its link: election in %llu ms", g->id,
            (unsigned long long)member_node(c, raft_id), (unsigned long long)left);
    group_forget_leader(g);
}

void group_forget_leader(struct group *g)
{
    struct raft *r = &g->raft;
    DN_ASSERT(raft_state(r) == RAFT_FOLLOWER);
    raft_free(r->follower_state.current_leader.address);
    r->follower_state.current_leader.address = NULL;
    r->follower_state.current_leader.id = 0;
}

static void transfer_done(struct raft_transfer *req)
{
    struct group *g = container_of(req, struct group, transfer);
    g->transferring = false;
}

bool group_hand_over(struct group *g, uint64_t to)
{
    struct dn_consensus *c = g->c;
    const struct raft_configuration *configuration = &g->raft.configuration;
    if (g->transferring || g->raft.transfer != NULL || configuration->n == 0) {
        return false;
    }
    bool near = false;
    for (unsigned k = 0; k < configuration->n; k++) { /* groups spread over the others */
        const struct raft_server *s = &configuration->servers[(k + g->id) % configuration->n];
        raft_index match;
        if (s->id == c->raft_id || s->role != RAFT_VOTER || (to != 0 && s->id != to) || !link_up(c, s->id) ||
            raft_match_index(&g->raft, s->id, &match) != 0) {
            continue;
        }
        if (match != raft_last_index(&g->raft)) {
            near = near || match + STILL_ENTRIES >= raft_last_index(&g->raft);
            continue;
        }
        if (raft_transfer(&g->raft, &g->transfer, s->id, transfer_done) != 0) {
            return false;
        }
        g->transferring = true;
        g->still_until_us = 0;
        dn_info(COMPONENT, "group %u: handing leadership to node %llu", g->id,
                (unsigned long long)member_node(c, s->id));
        return true;
    }
    uint64_t now_us = dn_monotonic_us();
    if (near && now_us >= g->still_next_us) { /* under load no follower ever has the last entry */
        if (g->m_pauses != NULL) {
            dn_counter_add(g->m_pauses, 1);
        }
        g->hand_to = to;
        g->still_until_us = now_us + STILL_US;
        g->still_next_us = g->still_until_us + STILL_PAUSE_US;
    }
    return false;
}

void group_hand_over_turn(struct group *g)
{
    if (g->still_until_us == 0) {
        return;
    }
    if (!g->leader || dn_monotonic_us() >= g->still_until_us || group_hand_over(g, g->hand_to)) {
        g->still_until_us = 0;
        consensus_kick(g->c);
    }
}

/* ---- commit notices --------------------------------------------------------------------------------- */

struct notice {
    struct raft_io_send req;
};

static void notice_sent(struct raft_io_send *req, int status)
{
    (void)status; /* a lost notice costs a heartbeat's delay */
    free(container_of(req, struct notice, req));
}

static void send_notice(struct group *g, unsigned member, uint64_t commit)
{
    struct notice *notice = malloc(sizeof *notice);
    struct raft_message message;
    if (notice == NULL) {
        return;
    }
    memset(&message, 0, sizeof message);
    message.type = RAFT_APPEND_ENTRIES;
    message.server_id = g->c->members[member].raft_id;
    message.server_address = g->c->members[member].address;
    message.append_entries.version = 0;
    message.append_entries.term = raft_current_term(&g->raft);
    message.append_entries.prev_log_index = commit;
    message.append_entries.prev_log_term = message.append_entries.term;
    message.append_entries.leader_commit = commit;
    notice->req.data = NULL;
    g->io.send(&g->io, &notice->req, &message, notice_sent);
}

static bool may_notify(const struct group *g, uint64_t commit)
{
    const struct raft *r = &g->raft;
    return g->leader && !g->fenced && !g->closing && g->term_index != 0 && commit >= g->term_index &&
           raft_state((struct raft *)r) == RAFT_LEADER && raft_current_term((struct raft *)r) == g->term;
}

void group_commit_notices(struct group *g)
{
    struct dn_consensus *c = g->c;
    uint64_t commit = raft_commit_index(&g->raft);
    if (!may_notify(g, commit)) {
        return;
    }
    for (unsigned i = 1; i < DN_MEMBERS_MAX; i++) {
        raft_index match;
        if (c->members[i].configured && g->commit_sent[i] < commit &&
            raft_match_index(&g->raft, c->members[i].raft_id, &match) == 0 && match >= commit) {
            send_notice(g, i, commit);
        }
    }
}

/* libraft takes a follower that did not answer between two ticks for lost, and sends it new entries only with
 * heartbeats from then on, until it stores something new. But it sends no heartbeat in a tick when something
 * was sent shortly before: after a burst and a pause of two ticks every follower is "lost", and the next
 * write waits up to a heartbeat. So each tick sends something to each. */
void group_keep_contact(struct group *g)
{
    struct dn_consensus *c = g->c;
    uint64_t commit = raft_commit_index(&g->raft);
    if (!may_notify(g, commit)) {
        return;
    }
    for (unsigned i = 1; i < DN_MEMBERS_MAX; i++) {
        raft_index match;
        if (c->members[i].configured && !g->sent_in_tick[i] &&
            raft_match_index(&g->raft, c->members[i].raft_id, &match) == 0 && match >= commit) {
            send_notice(g, i, commit);
        }
    }
}

/* ---- closing ---------------------------------------------------------------------------------------- */

bool group_may_close(const struct group *g)
{
    return !snapshot_busy(g);
}

static void raft_closed(struct raft *r)
{
    struct group *g = container_of(r, struct group, raft);
    g->closed = true;
    consensus_kick(g->c);
}

void group_close(struct group *g)
{
    g->closing = true;
    lose_leadership(g);
    raft_close(&g->raft, raft_closed);
}

void group_free(struct group *g)
{
    raft_io_free(g);
    apply_drop(g);
    for (struct batch *b = g->batches, *next; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    dn_buffer_free(&g->result);
    dn_buffer_free(&g->results);
    snapshot_free(g);
}
