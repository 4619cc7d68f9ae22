/* Forming: how a node with an empty data directory becomes part of a cluster, and what nodes tell each other
 * about it.
 *
 * Every node greets those it connects to (greet.h). Of the initial members, the one with the lowest node id
 * forms the cluster, once all the others are connected to it, empty, and configured with the same list: it
 * writes the first entry of every group's log, a configuration of these names and raft ids, and tells it to
 * the others, who write the same. Only one node ever chooses, so two clusters cannot come of it; and a node
 * that answers "I am part of a cluster" stops it: lost disks never make a new, empty cluster beside the data
 * of the others.
 *
 *   WAITING -all initial members are here, empty, of one mind (lowest id), or a member of a cluster says that
 *            we are in its list-> WRITING -first entries durable, identity "ready"-> FORMED
 *
 * A node that joins later begins its log with the same first entry and gets the rest by Raft. One whose name
 * is known under another raft id lost its disk, or is a second one with that name: it waits until somebody
 * says `member replace`.
 *
 * A node that is told by a member, whose configuration of group 0 is newer than its own, that it is in no
 * group any more, has been removed: it says so and leaves. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPONENT "consensus"
#define SOLE_WAIT_US 1000000     /* two pauses of the transport between attempts */
#define GREET_PAUSE_US 400000    /* between two greetings of a node that waits */
#define FORMING_TURN_US 100000   /* looks at who is here this often */
#define FORMING_LOG_US 5000000   /* and says what it waits for this often */
#define FORMING_STALE_US 3000000 /* an initial member not heard of for so long is looked for anew */

/* ---- greeting ------------------------------------------------------------------------------------------ */

static void greet(struct dn_consensus *c, unsigned slot, bool reply)
{
    struct member *m = &c->members[slot];
    struct greeting *g = calloc(1, sizeof *g);
    if (g == NULL || !link_up(c, m->raft_id)) {
        free(g); /* it will be greeted again, or asks */
        return;
    }
    g->reply = reply;
    g->empty = c->forming != FORMED;
    g->node_id = c->o.node_id;
    snprintf(g->address, sizeof g->address, "%s", c->members[0].address);
    g->group_count = c->o.group_count;
    g->list_hash = c->list_hash;
    if (!g->empty && group_members(&c->groups[0], &g->members, &g->config_index)) {
        g->initial = c->identity.initial;
        for (uint32_t i = 0; i < c->o.group_count; i++) {
            struct member_list list;
            uint64_t index;
            bool known = group_members(&c->groups[i], &list, &index);
            g->in_groups += !known || member_list_find(&list, m->raft_id) != NULL;
        }
    } else {
        g->config_index = 0;
        g->members.count = 0;
    }
    dn_buffer_clear(&c->message);
    greeting_encode(g, &c->message);
    if (!c->message.failed) {
        struct dn_transport_part part = {c->message.bytes, c->message.length};
        dn_transport_send(c->transport, m->raft_id, DN_TRANSPORT_NORMAL, &part, 1);
    }
    free(g);
}

void forming_greet(struct dn_consensus *c, unsigned slot)
{
    greet(c, slot, false);
}

static uint64_t name_of(const struct dn_transport_peer_id *peer)
{
    return strncmp(peer->name, "node-", 5) == 0 ? strtoull(peer->name + 5, NULL, 10) : 0;
}

bool forming_peer(struct dn_consensus *c, const struct dn_transport_peer_id *peer)
{
    return name_of(peer) != 0 && member_take(c, peer->raft_id, name_of(peer), NULL) >= 0;
}

/* ---- becoming part of a cluster ------------------------------------------------------------------------ */

static void formed(struct dn_journal_wait *wait)
{
    struct dn_consensus *c = container_of(wait, struct dn_consensus, formed_wait);
    struct dn_error err = {0};
    if (c->phase != PHASE_RUN) {
        return; /* the groups are closing */
    }
    enum dn_code code = identity_ready(c->data_dir, &c->identity, &err);
    for (uint32_t i = 0; code == DN_OK && i < c->o.group_count; i++) {
        code = group_start(&c->groups[i], &err);
    }
    if (code != DN_OK) {
        consensus_fatal(c, "begin this node's logs: %s", err.message);
        return;
    }
    dn_journal_forget(c->journal);
    c->forming = FORMED;
    c->waiting_for[0] = 0;
    consensus_kick(c);
}

/* Begins every group's log with a configuration of these members. `formed` runs when that is durable. */
static enum dn_code write_first(struct dn_consensus *c, const struct member_list *initial,
                                uint64_t joined_index, struct dn_error *err)
{
    enum dn_code code = DN_OK;
    c->identity.initial = *initial;
    c->identity.joined_index = joined_index;
    c->forming = FORMING_WRITING;
    for (uint32_t i = 0; code == DN_OK && i < c->o.group_count; i++) {
        code = group_open(&c->groups[i], true, err);
    }
    if (code == DN_OK) {
        c->formed_wait.done = formed;
        dn_journal_when_durable(c->journal, &c->formed_wait);
    }
    return code;
}

static void form(struct dn_consensus *c, const struct member_list *initial, uint64_t joined_index)
{
    struct dn_error err = {0};
    if (write_first(c, initial, joined_index, &err) != DN_OK) {
        consensus_fatal(c, "begin this node's logs: %s", err.message);
    }
}

static enum dn_code forming_alone(struct dn_consensus *c, struct dn_error *err)
{
    struct member_list list = {.count = 1};
    list.of[0] = (struct listed){.raft_id = c->raft_id, .node_id = c->o.node_id, .role = DN_ROLE_VOTER};
    memcpy(list.of[0].address, c->members[0].address, sizeof list.of[0].address);
    enum dn_code code = write_first(c, &list, 0, err);
    if (code != DN_OK) {
        return code;
    }
    dn_journal_turn(c->journal);
    while (c->forming != FORMED && !c->fatal_called) { /* the loop does not run yet: it is turned here */
        if (c->disk_fault) {                           /* the wait stays with the journal, which is closed
                                                          without calling it */
            const struct dn_error *why = dn_journal_fault(c->journal);
            return dn_fail(err, DN_IO, "begin the logs in '%s': %s", c->journal_dir,
                           why == NULL ? "the disk failed" : why->message);
        }
        uv_run(&c->loop, UV_RUN_ONCE);
    }
    return c->fatal_called ? dn_fail(err, DN_IO, "begin the logs in '%s'", c->journal_dir) : DN_OK;
}

/* ---- the initial members ------------------------------------------------------------------------------- */

/* The slot of the node of that name that was heard of last. -1: none. */
static int slot_named(const struct dn_consensus *c, uint64_t node_id)
{
    int best = -1;
    for (int i = 1; i < DN_MEMBERS_MAX; i++) {
        if (c->members[i].raft_id != 0 && c->members[i].node_id == node_id && c->members[i].greeted &&
            (best < 0 || c->members[i].seen_us > c->members[best].seen_us)) {
            best = i;
        }
    }
    return best;
}

/* True: *m is here, empty, and configured as we are. Otherwise what is wrong is added to `why`. */
static bool of_one_mind(struct dn_consensus *c, struct listed *m, char *why, size_t size)
{
    size_t length = strlen(why);
    int slot = slot_named(c, m->node_id);
    const char *fault = NULL;
    if (slot < 0 || !link_up(c, c->members[slot].raft_id)) {
        fault = "is not reachable";
    } else if (!c->members[slot].empty) {
        fault = "is part of a cluster already";
    } else if (c->members[slot].list_hash != c->list_hash) {
        fault = "is configured with other initial members, another cluster id or number of groups";
    }
    if (fault == NULL) {
        m->raft_id = c->members[slot].raft_id;
        return true;
    }
    snprintf(why + length, size - length, "%snode %llu (%s) %s", length == 0 ? "" : "; ",
             (unsigned long long)m->node_id, m->address, fault);
    return false;
}

static void look_anew(struct dn_consensus *c, struct listed *m, uint64_t now_us)
{
    int slot = slot_named(c, m->node_id);
    struct dn_error err;
    if (slot >= 0 && !link_up(c, c->members[slot].raft_id) &&
        now_us - c->members[slot].seen_us > FORMING_STALE_US) {
        /* Perhaps its disk was emptied, and it has another raft id now. */
        dn_transport_peer_remove(c->transport, c->members[slot].raft_id);
        memset(&c->members[slot], 0, sizeof c->members[slot]);
        dn_transport_peer_add(c->transport, 0, m->address, &err);
    }
}

/* The only initial member asks nobody. But a cluster may have grown from it, and its disk be a new one: then
 * the others still dial its address, each within half a second, and ask for the raft id it had. */
static bool sole_may_form(const struct dn_consensus *c, uint64_t now_us)
{
    return now_us >= c->sole_at_us;
}

void forming_mistaken(struct dn_consensus *c, const struct dn_transport_peer_id *peer)
{
    if (c->forming != FORMING_WAITING || !c->sole) {
        return;
    }
    c->sole_at_us = UINT64_MAX;
    snprintf(
        c->waiting_for, sizeof c->waiting_for,
        "%.64s knows this address by another raft id: a cluster grew from this node, whose data is lost. "
        "List the cluster's members in cluster.members, and 'dunlin member replace %llu' lets it in",
        peer->name, (unsigned long long)c->o.node_id);
}

static void try_form(struct dn_consensus *c, uint64_t now_us)
{
    char why[sizeof c->waiting_for] = "";
    bool all = true;
    uint64_t lowest = c->o.node_id;
    for (unsigned i = 0; i < c->initial.count; i++) {
        struct listed *m = &c->initial.of[i];
        if (m->node_id == c->o.node_id) {
            m->raft_id = c->raft_id;
            continue;
        }
        lowest = m->node_id < lowest ? m->node_id : lowest;
        all &= of_one_mind(c, m, why, sizeof why);
        look_anew(c, m, now_us);
    }
    if (c->sole && !sole_may_form(c, now_us)) {
        return;
    }
    if (all && c->expected && lowest == c->o.node_id) {
        dn_info(COMPONENT, "all %u initial members are here and empty: this node forms the cluster",
                c->initial.count);
        form(c, &c->initial, 0);
        return;
    }
    if (c->refused[0] != 0 && now_us - c->refused_us < 3 * FORMING_LOG_US) {
        snprintf(c->waiting_for, sizeof c->waiting_for, "%s", c->refused);
    } else if (all) {
        snprintf(c->waiting_for, sizeof c->waiting_for, "node %llu, which forms the cluster",
                 (unsigned long long)lowest);
    } else {
        snprintf(c->waiting_for, sizeof c->waiting_for, "%s", why);
    }
}

void forming_turn(struct dn_consensus *c, uint64_t now_us)
{
    if (c->forming != FORMING_WAITING || now_us < c->forming_at_us) {
        return;
    }
    c->forming_at_us = now_us + FORMING_TURN_US;
    for (unsigned i = 1; i < DN_MEMBERS_MAX; i++) {
        if (c->members[i].raft_id != 0 && now_us >= c->members[i].greet_us) {
            c->members[i].greet_us = now_us + GREET_PAUSE_US;
            greet(c, i, false);
        }
    }
    try_form(c, now_us);
    if (c->forming == FORMING_WAITING && now_us >= c->forming_log_us) {
        if (c->forming_log_us != 0) {
            dn_info(COMPONENT, "this node is part of no cluster yet; waiting for: %s", c->waiting_for);
        }
        c->forming_log_us = now_us + (c->forming_log_us == 0 ? FORMING_LOG_US / 5 : FORMING_LOG_US);
    }
}

/* ---- what others say ----------------------------------------------------------------------------------- */

static void refused(struct dn_consensus *c, const char *format, uint64_t by)
{
    snprintf(c->refused, sizeof c->refused, format, (unsigned long long)by, (unsigned long long)c->o.node_id,
             (unsigned long long)c->o.node_id);
    c->refused_us = dn_monotonic_us();
}

/* A member of a cluster greeted us, who are part of none. */
static void met_cluster(struct dn_consensus *c, const struct greeting *g)
{
    struct dn_error err;
    for (unsigned i = 0; i < g->members.count; i++) { /* one of them leads group 0: it must hear of us */
        const struct listed *m = &g->members.of[i];
        if (m->raft_id != c->raft_id && m->node_id != c->o.node_id &&
            member_take(c, m->raft_id, m->node_id, m->address) >= 0) {
            dn_transport_peer_add(c->transport, m->raft_id, m->address, &err);
        }
    }
    if (g->group_count != c->o.group_count) {
        refused(c,
                "a cluster with another number of groups (node %llu is a member): set this node's "
                "cluster.shards to the cluster's",
                g->node_id);
    } else if (member_list_find(&g->members, c->raft_id) != NULL) {
        dn_info(COMPONENT, "node %llu says that this node is a member: its logs begin",
                (unsigned long long)g->node_id);
        form(c, &g->initial, member_list_find(&g->initial, c->raft_id) != NULL ? 0 : g->config_index);
    } else if (member_list_named(&g->members, c->o.node_id) != NULL) {
        refused(
            c,
            "the cluster (says node %llu) knows node %llu under another raft id: this data directory is "
            "empty and is not the one it had. If that one is lost, 'dunlin member replace %llu' lets this "
            "node in; if it is not, stop this node and give it its own back",
            g->node_id);
    } else {
        refused(c, "node %llu is part of a cluster that does not have node %llu: 'dunlin member add %llu'",
                g->node_id);
    }
}

static void check_removed(struct dn_consensus *c, const struct greeting *g)
{
    struct dn_error err = {0};
    uint64_t own = members_index(&c->groups[0]);
    own = c->identity.joined_index > own ? c->identity.joined_index : own;
    if (c->removed || g->config_index <= own || g->in_groups > 0 ||
        member_list_find(&g->members, c->raft_id) != NULL) {
        return;
    }
    c->removed = true;
    if (identity_removed(c->data_dir, &c->identity, &err) != DN_OK) {
        dn_err(COMPONENT, "%s", err.message); /* the others will tell it again */
    }
    char reason[160];
    snprintf(reason, sizeof reason, "the cluster has removed this node (says node %llu, as of index %llu)",
             (unsigned long long)g->node_id, (unsigned long long)g->config_index);
    if (c->o.on_removed != NULL) {
        dn_warn(COMPONENT, "%s", reason);
        c->o.on_removed(c->o.callback_data, reason);
    } else {
        consensus_fatal(c, "%s", reason);
    }
}

/* Clusters are told apart by the raft ids they began with. */
static bool same_beginning(const struct dn_consensus *c, const struct greeting *g)
{
    bool same = g->initial.count == c->identity.initial.count;
    for (unsigned i = 0; same && i < g->initial.count; i++) {
        same = g->initial.of[i].raft_id == c->identity.initial.of[i].raft_id;
    }
    return same;
}

void forming_greeted(struct dn_consensus *c, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                     size_t length)
{
    struct greeting *g = malloc(sizeof *g);
    struct dn_error err;
    int slot;
    if (g == NULL) {
        return;
    }
    slot = member_take(c, from->raft_id, name_of(from), NULL);
    if (slot < 0) {
        goto out;
    }
    if (greeting_decode(bytes, length, g, &err) != DN_OK) {
        link_malformed(c, (unsigned)slot, &err);
        goto out;
    }
    struct member *m = &c->members[slot];
    m->node_id = g->node_id;
    m->greeted = true;
    m->empty = g->empty;
    m->list_hash = g->list_hash;
    m->group_count = g->group_count;
    m->seen_us = dn_monotonic_us();
    if (!g->empty && c->forming == FORMED && !same_beginning(c, g)) {
        uint64_t now_us = dn_monotonic_us();
        if (now_us >= c->malformed_log_us) {
            c->malformed_log_us = now_us + LOG_PAUSE_US;
            dn_err(COMPONENT,
                   "node %llu at %s is part of another cluster of the same id and key: it is not heard. Two "
                   "clusters "
                   "must not share a cluster.id",
                   (unsigned long long)g->node_id, g->address);
        }
        goto out;
    }
    if (!m->configured) { /* of members the configuration says where they are */
        snprintf(m->address, sizeof m->address, "%s", g->address);
        dn_transport_peer_add(c->transport, m->raft_id, m->address, &err);
    }
    if (!g->empty && c->forming == FORMING_WAITING) {
        met_cluster(c, g);
    } else if (!g->empty && c->forming == FORMED) {
        members_heard(c, &g->members, g->config_index);
        check_removed(c, g);
    }
    if (!g->reply && (g->empty || !m->configured) && c->forming == FORMED) {
        greet(c, (unsigned)slot, true);
    }
out:
    free(g);
}

/* ---- start --------------------------------------------------------------------------------------------- */

static uint64_t hash_list(const struct dn_consensus *c)
{
    uint64_t hash = dn_hash64(c->cluster_id, strlen(c->cluster_id), c->o.group_count);
    uint64_t sum = 0; /* in whatever order they are configured */
    for (unsigned i = 0; i < c->initial.count; i++) {
        const struct listed *m = &c->initial.of[i];
        sum += dn_hash64(m->address, strlen(m->address), m->node_id);
    }
    return hash ^ sum;
}

enum dn_code forming_begin(struct dn_consensus *c, struct dn_error *err)
{
    bool alone = c->o.bootstrap_alone;
    c->sole = c->initial.count == 1 && c->expected;
    c->sole_at_us = dn_monotonic_us() + SOLE_WAIT_US;
    enum dn_code code = DN_OK;
    c->list_hash = hash_list(c);
    if (alone) {
        return forming_alone(c, err);
    }
    c->forming = FORMING_WAITING;
    snprintf(c->waiting_for, sizeof c->waiting_for, "the other members, which are being looked for");
    for (unsigned i = 0; code == DN_OK && i < c->initial.count; i++) {
        if (c->initial.of[i].node_id != c->o.node_id) {
            code = dn_transport_peer_add(c->transport, 0, c->initial.of[i].address, err);
        }
    }
    return code;
}
