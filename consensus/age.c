/* Age: how old a read may be, and whether states are equal; and the status other threads read.
 *
 * A stamp is a node's own clock (CLOCK_BOOTTIME, with a nonce of its process life). Age = clock now - newest
 * stamp of ours of which we know: all that was committed before it is applied here. No clocks of different
 * machines are compared. Two ways lead to that knowledge:
 *
 *  1. Rounds (the read index of the Raft dissertation, section 6.4, without a log entry). A leader sends a
 *     numbered round to every member a few times a second; who is in its term answers with a stamp (and with
 *     its state hash). A stamp is confirmed for a group when a majority of its voters has answered a round
 * that was sent after the stamp arrived: nobody else can have led at that time, so the leader's commit index
 * of that moment covers all that was committed. The next round gives the stamp back with that index; it
 * counts here as soon as that index is applied.
 *  2. Ticks: under load, entries carry the latest stamps; what applies the entry has applied all before it.
 *     An idle group hardly ticks, and its disk rests.
 *
 * Ticks carry state hashes too, at indexes that are multiples of CHECK_EVERY. All nodes see the same reports
 * in the log; one that finds a majority of the others agreeing on a hash that differs from its own at that
 * index is in the minority and stops (consensus_fatal). */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mutant.h"

#include <string.h>

#define COMPONENT "consensus"

/* ---- hashes ----------------------------------------------------------------------------------------- */

static void ring_put(struct group *g, uint64_t index, uint64_t hash)
{
    unsigned slot = (unsigned)(index % DN_HASH_RING);
    atomic_store_explicit(&g->ring[slot].index, 0, memory_order_relaxed);
    atomic_store_explicit(&g->ring[slot].hash, hash, memory_order_release);
    atomic_store_explicit(&g->ring[slot].index, index, memory_order_release);
    if (index % CHECK_EVERY == 0) {
        g->checks[index / CHECK_EVERY % CHECK_RING] = (struct report){index, hash};
    }
}

static uint64_t hash_before(struct group *g, uint64_t index, uint64_t otherwise)
{
    unsigned slot = (unsigned)(index % DN_HASH_RING);
    if (atomic_load_explicit(&g->ring[slot].index, memory_order_relaxed) == index) {
        return atomic_load_explicit(&g->ring[slot].hash, memory_order_relaxed);
    }
    return otherwise;
}

/* The state moved from `from` to `index`. What lies between holds no records: the hash was the old one. */
void age_record_hash(struct group *g, uint64_t from, uint64_t index, uint64_t hash)
{
    uint64_t old = hash_before(g, from, hash);
    uint64_t i = index - from > DN_HASH_RING ? index - DN_HASH_RING + 1 : from + 1;
    for (; i < index; i++) {
        ring_put(g, i, old);
    }
    ring_put(g, index, hash);
}

void age_reset(struct group *g, uint64_t index, uint64_t hash)
{
    for (unsigned i = 0; i < DN_HASH_RING; i++) {
        atomic_store_explicit(&g->ring[i].index, 0, memory_order_relaxed);
    }
    memset(g->checks, 0, sizeof g->checks);
    ring_put(g, index, hash);
}

bool dn_consensus_hash_at(const struct dn_consensus *c, uint32_t group, uint64_t index, uint64_t *ret_hash)
{
    const struct group *g = &c->groups[group];
    unsigned slot = (unsigned)(index % DN_HASH_RING);
    uint64_t before = atomic_load_explicit(&g->ring[slot].index, memory_order_acquire);
    uint64_t hash = atomic_load_explicit(&g->ring[slot].hash, memory_order_acquire);
    uint64_t after = atomic_load_explicit(&g->ring[slot].index, memory_order_relaxed);
    if (index == 0 || before != index || after != index) {
        return false;
    }
    *ret_hash = hash;
    return true;
}

static struct report own_report(const struct group *g)
{
    uint64_t applied = atomic_load_explicit(&g->applied, memory_order_relaxed);
    uint64_t index = applied - applied % CHECK_EVERY;
    struct report check = g->checks[index / CHECK_EVERY % CHECK_RING];
    return index != 0 && check.index == index ? check : (struct report){0, 0};
}

static void compare(struct group *g, uint64_t index)
{
    struct dn_consensus *c = g->c;
    struct report own = g->checks[index / CHECK_EVERY % CHECK_RING];
    unsigned others = g->raft.configuration.n > 0 ? g->raft.configuration.n - 1 : 0, differ = 0, agree = 0;
    uint64_t first = 0;
    if (own.index != index) {
        return;
    }
    for (unsigned m = 1; m < DN_MEMBERS_MAX; m++) {
        for (unsigned k = 0; k < REPORTS_KEPT; k++) {
            const struct report *r = &g->reports[m][k];
            if (r->index == index && r->hash != own.hash) {
                first = differ++ == 0 ? r->hash : first;
                agree += r->hash == first;
                break;
            }
        }
    }
    if (differ == 0) {
        return;
    }
    if (g->mismatch_index != index) {
        g->mismatch_index = index;
        dn_err(COMPONENT, "group %u: state hash %016llx at index %llu differs from %u other node(s): %016llx",
               g->id, (unsigned long long)own.hash, (unsigned long long)index, differ,
               (unsigned long long)first);
        if (g->m_mismatch != NULL) {
            dn_counter_add(g->m_mismatch, 1);
        }
    }
    if (agree * 2 > others && agree >= 2) {
        g->fenced = true;
        consensus_fatal(
            c,
            "group %u: this node's state at index %llu is in the minority (%u of %u others agree on "
            "another): its memory or disk is damaged, or it runs another program; do not start it again on "
            "this data",
            g->id, (unsigned long long)index, agree, others);
    }
}

/* ---- ticks ------------------------------------------------------------------------------------------ */

uint32_t age_marks(struct group *g, struct entry_mark marks[DN_MEMBERS_MAX])
{
    struct dn_consensus *c = g->c;
    struct report own = own_report(g);
    uint32_t count = 0;
    for (unsigned i = 0; i < DN_MEMBERS_MAX; i++) {
        if (i == 0) {
            marks[count++] = (struct entry_mark){c->raft_id, c->nonce, dn_boottime_us(), own.index, own.hash};
        } else if (g->stamps[i].nonce != 0) {
            marks[count++] =
                (struct entry_mark){c->members[i].raft_id, g->stamps[i].nonce, g->stamps[i].stamp_us,
                                    g->stamps[i].hash_index, g->stamps[i].hash};
        }
    }
    return count;
}

void age_applied(struct group *g, const struct entry_view *view)
{
    struct dn_consensus *c = g->c;
    for (uint32_t i = 0; i < view->head.mark_count; i++) {
        struct entry_mark mark = entry_mark_at(view, i);
        int member = member_find(c, mark.raft_id);
        if (member < 0) {
            continue;
        }
        if (member == 0) {
            uint64_t base = atomic_load_explicit(&g->age_base_us, memory_order_relaxed);
            if (mark.nonce == c->nonce && mark.stamp_us > base) {
                atomic_store_explicit(&g->age_base_us, mark.stamp_us, memory_order_release);
            }
        } else if (mark.hash_index != 0 && mark.hash_index % CHECK_EVERY == 0) {
            unsigned slot = g->report_next[member];
            unsigned last = (slot + REPORTS_KEPT - 1) % REPORTS_KEPT;
            if (g->reports[member][last].index != mark.hash_index) {
                g->reports[member][slot] = (struct report){mark.hash_index, mark.hash};
                g->report_next[member] = (slot + 1) % REPORTS_KEPT;
                compare(g, mark.hash_index);
            }
        }
    }
}

/* ---- rounds ------------------------------------------------------------------------------------------ */

void age_lead(struct group *g)
{
    memset(g->stamps, 0, sizeof g->stamps);
    g->round_floor = g->c->round;
}

/* The newest round that a majority of the voters has answered, ourselves included. */
static uint64_t round_sure(const struct group *g)
{
    const struct raft_configuration *configuration = &g->raft.configuration;
    uint64_t echoes[DN_MEMBERS_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < configuration->n; i++) {
        if (configuration->servers[i].role != RAFT_VOTER || count == DN_MEMBERS_MAX) {
            continue;
        }
        int slot = member_find(g->c, configuration->servers[i].id);
        uint64_t echo = slot < 0 ? 0 : slot == 0 ? g->c->round : g->stamps[slot].echo;
        unsigned at = count++;
        for (; at > 0 && echoes[at - 1] < echo; at--) { /* largest first */
            echoes[at] = echoes[at - 1];
        }
        echoes[at] = echo;
    }
    return count == 0 || echoes[count / 2] <= g->round_floor ? 0 : echoes[count / 2];
}

static void promise(struct group *g, uint64_t stamp_us, uint64_t index)
{
    if (g->promised.index == 0) { /* an older one that waits comes first: under load none would ever be met */
        g->promised.stamp_us = stamp_us;
        g->promised.index = index;
    }
    age_moved(g);
}

void age_moved(struct group *g)
{
    if (g->promised.index == 0 ||
        atomic_load_explicit(&g->applied, memory_order_relaxed) < g->promised.index) {
        return;
    }
    if (g->promised.stamp_us > atomic_load_explicit(&g->age_base_us, memory_order_relaxed)) {
        atomic_store_explicit(&g->age_base_us, g->promised.stamp_us, memory_order_release);
    }
    g->promised.index = 0;
}

/* Stamps that waited for the round which a majority has now answered become sure; a newer one waits. */
static void confirm(struct group *g, unsigned slot, uint64_t sure)
{
    struct dn_consensus *c = g->c;
    if (g->stamps[slot].wait_nonce != 0 && g->stamps[slot].wait_round < sure) {
        g->stamps[slot].sure_nonce = g->stamps[slot].wait_nonce;
        g->stamps[slot].sure_us = g->stamps[slot].wait_us;
        g->stamps[slot].sure_index = g->stamps[slot].wait_index;
        g->stamps[slot].wait_nonce = 0;
    }
    if (g->stamps[slot].wait_nonce == 0 && g->stamps[slot].nonce != 0) {
        g->stamps[slot].wait_nonce = g->stamps[slot].nonce;
        g->stamps[slot].wait_us = g->stamps[slot].stamp_us;
        g->stamps[slot].wait_index = raft_commit_index(&g->raft);
        g->stamps[slot].wait_round = c->round;
    }
}

static bool leads(const struct group *g)
{
    return g->started && g->leader && g->term_index != 0 && !g->fenced && !g->closing && !g->c->disk_fault &&
           raft_state((struct raft *)&g->raft) == RAFT_LEADER &&
           raft_current_term((struct raft *)&g->raft) == g->term;
}

void age_stamps_in(struct dn_consensus *c, uint64_t raft_id, const struct wire_frame *frame)
{
    int slot = member_find(c, raft_id);
    for (uint32_t i = 0; slot > 0 && i < frame->stamp_count; i++) {
        const struct wire_stamp *s = &frame->stamps[i];
        if (s->group >= c->o.group_count || !leads(&c->groups[s->group])) {
            continue;
        }
        struct group *g = &c->groups[s->group];
        if (frame->round <= g->round_floor || frame->round > c->round) {
            continue; /* an answer to an earlier term of ours */
        }
        if (frame->round > g->stamps[slot].echo) {
            g->stamps[slot].echo = frame->round;
        }
        g->stamps[slot].nonce = frame->nonce;
        g->stamps[slot].stamp_us = frame->stamp_us;
        g->stamps[slot].hash_index = s->hash_index;
        g->stamps[slot].hash = s->hash;
        uint64_t sure = round_sure(g);
        for (unsigned k = 0; k < DN_MEMBERS_MAX; k++) {
            confirm(g, k, sure);
        }
        if (g->stamps[0].sure_nonce != 0) {
            g->stamps[0].sure_nonce = 0;
            promise(g, g->stamps[0].sure_us, g->stamps[0].sure_index);
        }
    }
}

/* To every member, one frame for all the groups we lead. */
void age_send_round(struct dn_consensus *c)
{
    uint64_t now_us = dn_boottime_us();
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        struct group *g = &c->groups[i];
        if (leads(g)) {
            g->stamps[0].nonce = c->nonce;
            g->stamps[0].stamp_us = now_us;
            confirm(g, 0, round_sure(g)); /* it waits from before this round on */
        }
    }
    c->round++;
    for (unsigned m = 1; m < DN_MEMBERS_MAX; m++) {
        struct wire_frame frame = {.type = WIRE_ROUND, .round = c->round};
        if (!c->members[m].configured || !link_up(c, c->members[m].raft_id)) {
            continue;
        }
        for (uint32_t k = 0; k < c->o.group_count; k++) { /* each group's stamp is the first in turn */
            uint32_t i = (uint32_t)((k + c->round) % c->o.group_count);
            struct group *g = &c->groups[i];
            if (!leads(g) || group_server(g, c->members[m].raft_id) == NULL) {
                continue;
            }
            struct wire_lead lead = {i, g->term, 0};
            /* A frame gives back one stamp: that of the first group that has one; others that have the same.
             */
            if (g->stamps[m].sure_nonce != 0 &&
                (frame.nonce == 0 ||
                 (frame.nonce == g->stamps[m].sure_nonce && frame.stamp_us == g->stamps[m].sure_us))) {
                frame.nonce = g->stamps[m].sure_nonce;
                frame.stamp_us = g->stamps[m].sure_us;
                lead.index = g->stamps[m].sure_index;
                g->stamps[m].sure_nonce = 0;
            }
            frame.leads[frame.lead_count++] = lead;
        }
        if (frame.lead_count > 0) {
            link_send(c, c->members[m].raft_id, &frame);
        }
    }
    for (uint32_t i = 0; i < c->o.group_count; i++) { /* a majority of one needs no answers */
        struct group *g = &c->groups[i];
        if (leads(g) && group_others(g) == 0) {
            promise(g, now_us, raft_commit_index(&g->raft));
        }
    }
}

void age_round_in(struct dn_consensus *c, uint64_t raft_id, const struct wire_frame *frame)
{
    struct wire_frame answer = {
        .type = WIRE_STAMPS, .round = frame->round, .nonce = c->nonce, .stamp_us = dn_boottime_us()};
    for (uint32_t i = 0; i < frame->lead_count && answer.stamp_count < DN_GROUPS_MAX; i++) {
        const struct wire_lead *lead = &frame->leads[i];
        struct group *g = lead->group < c->o.group_count ? &c->groups[lead->group] : NULL;
        if (g == NULL || !g->started || g->fenced || g->closing || c->disk_fault) {
            continue;
        }
        if (lead->index != 0 && frame->nonce == c->nonce) {
            promise(g, frame->stamp_us, lead->index);
        }
        if (raft_current_term(&g->raft) == lead->term) { /* we have not helped anyone to a newer one */
            struct report own = own_report(g);
            answer.stamps[answer.stamp_count++] = (struct wire_stamp){lead->group, own.index, own.hash};
        }
    }
    if (answer.stamp_count > 0) {
        link_send(c, raft_id, &answer);
    }
}

/* ---- what other threads read ------------------------------------------------------------------------ */

uint64_t dn_consensus_applied(const struct dn_consensus *c, uint32_t group)
{
    return atomic_load_explicit(&c->groups[group].applied, memory_order_acquire);
}

bool dn_consensus_age_us(const struct dn_consensus *c, uint32_t group, uint64_t *ret_age_us)
{
    uint64_t base = atomic_load_explicit(&c->groups[group].age_base_us, memory_order_acquire);
    uint64_t now = dn_boottime_us();
    if (base == 0) {
        return false;
    }
    *ret_age_us = now > base && !dn_mutant(DN_MUTANT_UNDERSTATE_AGE) ? now - base : 0;
    return true;
}

/* A sequence lock without fences: fields are stored with release and loaded with acquire, so a reader that
 * sees a newer field also sees the odd sequence number stored before it. */
void status_publish(struct group *g)
{
    uint64_t sequence = atomic_load_explicit(&g->status_seq, memory_order_relaxed);
    uint64_t applied = atomic_load_explicit(&g->applied, memory_order_relaxed);
    uint64_t snapshot = g->raft.trail.snapshot.index;
    const uint64_t fields[STATUS_FIELDS] = {
        member_node(g->c, g->leader_id),
        g->term,
        raft_commit_index(&g->raft),
        applied,
        g->raft.trail.offset + 1,
        snapshot,
        g->log_bytes,
        applied,
        hash_before(g, applied, 0),
        g->leader && !g->fenced,
    };
    atomic_store_explicit(&g->status_seq, sequence + 1, memory_order_relaxed);
    for (unsigned i = 0; i < STATUS_FIELDS; i++) {
        atomic_store_explicit(&g->status[i], fields[i], memory_order_release);
    }
    atomic_store_explicit(&g->status_seq, sequence + 2, memory_order_release);
    if (g->m_leader != NULL) {
        dn_gauge_set(g->m_leader, g->leader ? 1 : 0);
        dn_gauge_set(g->m_term, (double)g->term);
        dn_gauge_set(g->m_applied, (double)applied);
        dn_gauge_set(g->m_log_bytes, (double)g->log_bytes);
    }
}

void dn_consensus_status(const struct dn_consensus *c, uint32_t group, struct dn_group_status *ret)
{
    const struct group *g = &c->groups[group];
    uint64_t fields[STATUS_FIELDS];
    uint64_t before, after;
    do {
        before = atomic_load_explicit(&g->status_seq, memory_order_acquire);
        for (unsigned i = 0; i < STATUS_FIELDS; i++) {
            fields[i] = atomic_load_explicit(&g->status[i], memory_order_acquire);
        }
        after = atomic_load_explicit(&g->status_seq, memory_order_relaxed);
    } while (before != after || before % 2 != 0);
    *ret = (struct dn_group_status){.group = group,
                                    .leader_id = fields[0],
                                    .term = fields[1],
                                    .commit_index = fields[2],
                                    .applied_index = fields[3],
                                    .first_index = fields[4],
                                    .snapshot_index = fields[5],
                                    .log_bytes = fields[6],
                                    .hash_index = fields[7],
                                    .state_hash = fields[8],
                                    .is_leader = fields[9] != 0};
    ret->no_space = atomic_load_explicit(&c->no_space, memory_order_relaxed);
    ret->age_known = dn_consensus_age_us(c, group, &ret->age_us);
}
