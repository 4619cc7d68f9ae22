/* Membership: who the members are, changes of that, and the spread of leaders.
 *
 * The Raft configuration of group 0 is the list of members. A change is asked for at any node, carried out by
 * the leader of group 0 as one single-server change of Raft's (dissertation, section 4.1), and the leaders of
 * all groups then bring their own group to it step by step (reconcile):
 *
 *   add -> spare (libraft's word for: in the configuration, gets nothing) -> standby (catches up)
 *       -> when close: voter, unless it is a replica
 *   replace = add, and when the new one votes: remove the old one
 *   remove -> gone from group 0 -> gone from each group (a leader that is to go hands over first)
 *
 * One step at a time in each group: libraft allows no second change before the first is committed, and none
 * is begun before the leader's own term has a committed entry (`ready`), or two overlapping majorities might
 * not overlap (Ongaro, 2015). Reconciling against an old copy of group 0's list does no harm: it is a list
 * that was in force once, and a newer one follows.
 *
 * Slots (struct member) are this node's own memory of who is who; slot 0 is itself. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPONENT "consensus"
#define SLOT_KEEP_US 10000000 /* a node that is no member is forgotten after this long */
#define SLOT_YIELD_US 2000000 /* or sooner, when its slot is needed */
#define STEP_PAUSE_US 100000  /* between two looks at what is to be reconciled */
#define STEP_RETRY_US 1000000 /* after a step that failed */
#define VIEW_PAUSE_US 100000  /* the list that other threads see is made this often */
#define CALM_US 1000000       /* leaders have been the same for so long before one is moved */
#define CLOSE_ENTRIES 1024    /* a learner that lacks fewer is close enough for a vote */
#define GREET_AGAIN_US 500000 /* between two greetings of one who may not know yet */

/* ---- slots --------------------------------------------------------------------------------------------- */

int member_find(const struct dn_consensus *c, uint64_t raft_id)
{
    for (int i = 0; i < DN_MEMBERS_MAX; i++) {
        if (c->members[i].raft_id == raft_id && raft_id != 0) {
            return i;
        }
    }
    return -1;
}

uint64_t member_node(const struct dn_consensus *c, uint64_t raft_id)
{
    int slot = member_find(c, raft_id);
    return slot < 0 ? 0 : c->members[slot].node_id;
}

static bool slot_free(const struct dn_consensus *c, int slot)
{
    return c->members[slot].raft_id == 0 && !c->serve[slot].busy && c->serve[slot].count == 0;
}

static void forget(struct dn_consensus *c, int slot)
{
    if (c->transport != NULL) {
        dn_transport_peer_remove(c->transport, c->members[slot].raft_id);
    }
    memset(&c->members[slot], 0, sizeof c->members[slot]);
}

/* A slot for a newcomer: a free one, or that of a stranger not heard of lately. */
static int find_slot(struct dn_consensus *c, uint64_t now_us)
{
    int oldest = -1;
    for (int i = 1; i < DN_MEMBERS_MAX; i++) {
        if (slot_free(c, i)) {
            return i;
        }
        const struct member *m = &c->members[i];
        if (m->raft_id != 0 && !m->configured && now_us - m->seen_us > SLOT_YIELD_US &&
            (oldest < 0 || m->seen_us < c->members[oldest].seen_us)) {
            oldest = i;
        }
    }
    if (oldest >= 0) {
        forget(c, oldest);
    }
    return oldest >= 0 && slot_free(c, oldest) ? oldest : -1;
}

int member_take(struct dn_consensus *c, uint64_t raft_id, uint64_t node_id, const char *address)
{
    uint64_t now_us = dn_monotonic_us();
    int slot = member_find(c, raft_id);
    if (slot < 0) {
        slot = find_slot(c, now_us);
        if (slot < 0) {
            return -1;
        }
        c->members[slot] = (struct member){.raft_id = raft_id, .seen_us = now_us};
        for (uint32_t i = 0; i < c->o.group_count; i++) {
            struct group *g = &c->groups[i];
            g->commit_sent[slot] = 0;
            memset(&g->snapshot_sent[slot], 0, sizeof g->snapshot_sent[slot]);
            memset(&g->stamps[slot], 0, sizeof g->stamps[slot]);
            memset(g->reports[slot], 0, sizeof g->reports[slot]);
            g->report_next[slot] = 0;
        }
    }
    if (slot > 0) {
        c->members[slot].node_id = node_id != 0 ? node_id : c->members[slot].node_id;
        if (address != NULL) {
            snprintf(c->members[slot].address, sizeof c->members[slot].address, "%s", address);
        }
    }
    return slot;
}

/* ---- configurations ------------------------------------------------------------------------------------ */

const struct raft_server *group_server(const struct group *g, uint64_t raft_id)
{
    const struct raft_configuration *configuration = &g->raft.configuration;
    for (unsigned i = 0; g->started && i < configuration->n; i++) {
        if (configuration->servers[i].id == raft_id) {
            return &configuration->servers[i];
        }
    }
    return NULL;
}

bool group_voter(const struct group *g, uint64_t raft_id)
{
    const struct raft_server *server = group_server(g, raft_id);
    return server != NULL && server->role == RAFT_VOTER;
}

uint64_t members_index(const struct group *g)
{
    return g->started ? g->raft.configuration_committed_index : 0;
}

bool group_members(const struct group *g, struct member_list *ret, uint64_t *ret_index)
{
    const struct raft *r = &g->raft;
    struct dn_error err;
    *ret_index = members_index(g);
    if (*ret_index == 0) {
        return false;
    }
    /* With no change under way the one in force is the committed one. */
    const struct raft_configuration *committed =
        r->configuration_uncommitted_index == 0 ? &r->configuration : &r->configuration_committed;
    return committed->n > 0 && member_list_from(committed, ret, &err) == DN_OK;
}

static uint64_t config_sum(const struct dn_consensus *c)
{
    uint64_t sum = c->forming == FORMED;
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        const struct group *g = &c->groups[i];
        if (g->started) {
            const uint64_t indexes[2] = {g->raft.configuration_committed_index,
                                         g->raft.configuration_uncommitted_index};
            sum = dn_hash64(indexes, sizeof indexes, sum);
        }
    }
    return sum;
}

static void take_group(struct dn_consensus *c, const struct group *g, uint64_t now_us,
                       bool configured[DN_MEMBERS_MAX], bool listed_now[DN_MEMBERS_MAX])
{
    const struct raft_configuration *configuration = &g->raft.configuration;
    for (unsigned i = 0; g->started && i < configuration->n; i++) {
        const struct raft_server *server = &configuration->servers[i];
        struct listed listed;
        struct dn_error err;
        if (!member_parse(server->address, server->role, &listed)) {
            dn_err(COMPONENT, "group %u: its configuration has '%.64s', which names no member", g->id,
                   server->address);
            continue;
        }
        int slot = member_take(c, server->id, listed.node_id, listed.address);
        if (slot < 0) {
            dn_err(COMPONENT, "node %llu is a member, and there is no room to know it",
                   (unsigned long long)listed.node_id);
        } else {
            configured[slot] = c->members[slot].configured = true;
            listed_now[slot] |= g->id == 0;
            c->members[slot].seen_us = now_us;
            if (slot > 0 && dn_transport_peer_add(c->transport, server->id, listed.address, &err) != DN_OK) {
                dn_err(COMPONENT, "%s", err.message);
            }
        }
    }
}

/* Brings the slots up to the groups' configurations. */
static void take_configurations(struct dn_consensus *c, uint64_t now_us)
{
    bool was[DN_MEMBERS_MAX], now[DN_MEMBERS_MAX] = {false}, listed[DN_MEMBERS_MAX] = {false};
    for (unsigned i = 0; i < DN_MEMBERS_MAX; i++) {
        was[i] = c->members[i].configured;
    }
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        take_group(c, &c->groups[i], now_us, now, listed);
    }
    for (unsigned i = 0; i < DN_MEMBERS_MAX;
         i++) { /* not before: a slot that is needed must not be given away */
        c->members[i].configured = now[i];
        c->members[i].listed = listed[i];
    }
    for (unsigned i = 1; i < DN_MEMBERS_MAX; i++) {
        struct member *m = &c->members[i];
        if (m->raft_id != 0 && m->greet_us == 0 && !(m->configured && m->listed)) {
            m->greet_us = now_us; /* it may not know */
        }
        if (m->raft_id == 0 || was[i] == m->configured) {
            continue;
        }
        dn_info(COMPONENT, "node %llu (%s, raft id %016llx) is %s", (unsigned long long)m->node_id,
                m->address, (unsigned long long)m->raft_id,
                m->configured ? "a member" : "no member any more");
        m->greet_us = now_us;
    }
    struct member_list list;
    uint64_t index;
    if (group_members(&c->groups[0], &list, &index)) {
        members_heard(c, &list, index);
    }
    c->view_at_us = 0;
}

/* Our own configuration may be far behind: a newcomer must reach its leader all the same. */
void members_heard(struct dn_consensus *c, const struct member_list *list, uint64_t index)
{
    struct dn_error err;
    if (index <= c->newest_index) {
        return;
    }
    c->newest_index = index;
    c->newest = *list;
    for (unsigned i = 0; i < list->count; i++) {
        const struct listed *m = &list->of[i];
        if (member_take(c, m->raft_id, m->node_id, m->raft_id == c->raft_id ? NULL : m->address) > 0) {
            dn_transport_peer_add(c->transport, m->raft_id, m->address, &err);
        }
    }
}

/* Those who became or ceased to be members are told at once, and until they know. */
static void greet_changed(struct dn_consensus *c, uint64_t now_us)
{
    for (unsigned i = 1; i < DN_MEMBERS_MAX; i++) {
        struct member *m = &c->members[i];
        if (m->raft_id != 0 && m->greet_us != 0 && now_us >= m->greet_us) {
            bool settled = m->configured && m->listed && m->greeted && !m->empty;
            m->greet_us = settled ? 0 : now_us + GREET_AGAIN_US;
            forming_greet(c, i);
        }
    }
}

static void forget_strangers(struct dn_consensus *c, uint64_t now_us)
{
    for (int i = 1; i < DN_MEMBERS_MAX; i++) {
        struct member *m = &c->members[i];
        if (m->raft_id == 0 || m->configured) {
            continue;
        }
        if (member_list_find(&c->newest, m->raft_id) != NULL) {
            m->seen_us = now_us;
        } else if (now_us - m->seen_us > SLOT_KEEP_US) {
            forget(c, i);
            c->view_at_us = 0;
        }
    }
}

/* ---- steps --------------------------------------------------------------------------------------------- */

static void step_done(struct raft_change *req, int status)
{
    struct group *g = container_of(req, struct group, change);
    struct dn_consensus *c = g->c;
    g->changing = false;
    g->step_at_us = status == 0 ? 0 : dn_monotonic_us() + STEP_RETRY_US;
    if (status != 0) {
        dn_info(COMPONENT, "group %u: a change of members came to nothing: %s", g->id, raft_strerror(status));
    }
    if (g->id == 0) {
        changes_step_over(c, status == 0);
    }
    consensus_kick(c);
}

/* May a change be begun? */
bool member_step_free(const struct group *g)
{
    const struct raft *r = &g->raft;
    return g->ready && !g->changing && !g->transferring && g->c->phase == PHASE_RUN &&
           raft_state((struct raft *)r) == RAFT_LEADER && r->configuration_uncommitted_index == 0 &&
           r->leader_state.promotee_id == 0 && raft_transferee((struct raft *)r) == 0 && !g->fenced &&
           !g->c->disk_fault;
}

static bool step_begun(struct group *g, int rv, const char *what, uint64_t raft_id)
{
    if (rv != 0) {
        dn_warn(COMPONENT, "group %u: %s of node %llu: %s", g->id, what,
                (unsigned long long)member_node(g->c, raft_id), raft_strerror(rv));
        g->step_at_us = dn_monotonic_us() + STEP_RETRY_US;
        return false;
    }
    dn_info(COMPONENT, "group %u: %s of node %llu (raft id %016llx)", g->id, what,
            (unsigned long long)member_node(g->c, raft_id), (unsigned long long)raft_id);
    g->changing = true;
    return true;
}

bool member_step_add(struct group *g, const struct listed *member)
{
    char text[MEMBER_TEXT_MAX];
    struct listed written = *member;
    if (written.role == DN_ROLE_VOTER) {
        written.role = DN_ROLE_LEARNER;
    }
    member_text(&written, text);
    return step_begun(g, raft_add(&g->raft, &g->change, member->raft_id, text, step_done), "addition",
                      member->raft_id);
}

bool member_step_assign(struct group *g, uint64_t raft_id, int role)
{
    return step_begun(g, raft_assign(&g->raft, &g->change, raft_id, role, step_done),
                      role == RAFT_VOTER ? "promotion" : "catching up", raft_id);
}

bool member_step_remove(struct group *g, uint64_t raft_id)
{
    return step_begun(g, raft_remove(&g->raft, &g->change, raft_id, step_done), "removal", raft_id);
}

bool member_close(const struct group *g, uint64_t raft_id)
{
    raft_index match = 0;
    return link_up(g->c, raft_id) && raft_match_index((struct raft *)&g->raft, raft_id, &match) == 0 &&
           match + CLOSE_ENTRIES >= raft_last_index((struct raft *)&g->raft);
}

/* Group 0: its own standing orders. */
static void reconcile_first(struct group *g)
{
    const struct raft_configuration *configuration = &g->raft.configuration;
    for (unsigned i = 0; i < configuration->n; i++) {
        const struct raft_server *s = &configuration->servers[i];
        struct listed m;
        if (!member_parse(s->address, s->role, &m)) {
            continue;
        }
        if (s->role == RAFT_SPARE) {
            member_step_assign(g, s->id, RAFT_STANDBY);
            return;
        }
        if (s->role == RAFT_STANDBY && m.role == DN_ROLE_LEARNER && member_close(g, s->id)) {
            if (m.replaces != 0 && group_voter(g, m.replaces) && !link_up(g->c, m.replaces)) {
                member_step_remove(g, m.replaces); /* the lost one first: four voters would need three */
                return;
            }
            member_step_assign(g, s->id, RAFT_VOTER);
            return;
        }
        if ((s->role == RAFT_VOTER || m.role == DN_ROLE_REPLICA) && m.replaces != 0 &&
            group_server(g, m.replaces) != NULL) {
            if (m.replaces == g->c->raft_id) {
                group_hand_over(g, 0);
            } else {
                member_step_remove(g, m.replaces);
            }
            return;
        }
    }
}

/* The other groups follow the list. */
static void reconcile(struct group *g, const struct member_list *wanted)
{
    const struct raft_configuration *configuration = &g->raft.configuration;
    bool waiting = false;
    for (unsigned i = 0; i < configuration->n; i++) { /* the lost ones first: they only raise the majority */
        const struct raft_server *s = &configuration->servers[i];
        if (member_list_find(wanted, s->id) == NULL && s->id != g->c->raft_id && !link_up(g->c, s->id)) {
            member_step_remove(g, s->id);
            return;
        }
    }
    for (unsigned i = 0; i < wanted->count; i++) {
        const struct listed *m = &wanted->of[i];
        const struct raft_server *s = group_server(g, m->raft_id);
        if (s == NULL && configuration->n < DN_MEMBERS_MAX - 1) {
            member_step_add(g, m);
            return;
        }
        if (s == NULL) {
            continue; /* somebody must go first */
        }
        if (s->role == RAFT_SPARE) {
            member_step_assign(g, m->raft_id, RAFT_STANDBY);
            return;
        }
        if (m->role == DN_ROLE_VOTER && s->role == RAFT_STANDBY) {
            if (member_close(g, m->raft_id)) {
                member_step_assign(g, m->raft_id, RAFT_VOTER);
                return;
            }
            waiting = true;
        }
    }
    for (unsigned i = 0; !waiting && i < configuration->n; i++) { /* new ones vote before old ones go */
        const struct raft_server *s = &configuration->servers[i];
        if (member_list_find(wanted, s->id) != NULL) {
            continue;
        }
        if (s->id == g->c->raft_id) {
            group_hand_over(g, 0);
        } else {
            member_step_remove(g, s->id);
        }
        return;
    }
}

static void steps(struct dn_consensus *c, uint64_t now_us)
{
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        struct group *g = &c->groups[i];
        if (!g->leader || now_us < g->step_at_us || !member_step_free(g)) {
            continue;
        }
        g->step_at_us = now_us + STEP_PAUSE_US;
        if (i == 0) {
            reconcile_first(g);
        } else if (c->newest_index > 0) {
            reconcile(g, &c->newest);
        }
    }
}

/* ---- leaders are spread over the nodes ----------------------------------------------------------------- */

static void balance(struct dn_consensus *c, uint64_t now_us)
{
    unsigned leads[DN_MEMBERS_MAX] = {0};
    int least = -1;
    if (c->o.balance_ms == UINT_MAX || c->forming != FORMED || now_us < c->balance_at_us) {
        return;
    }
    c->balance_at_us = now_us + CALM_US / 4;
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        struct group *g = &c->groups[i];
        int slot = member_find(c, g->leader_id);
        if (slot < 0 || now_us - g->leader_since_us < CALM_US || g->changing || g->transferring) {
            return; /* wait until all is quiet */
        }
        leads[slot]++;
    }
    for (int i = 1; i < DN_MEMBERS_MAX; i++) {
        const struct member *m = &c->members[i];
        if (m->raft_id != 0 && group_voter(&c->groups[0], m->raft_id) && link_up(c, m->raft_id) &&
            (least < 0 || leads[i] < leads[least] ||
             (leads[i] == leads[least] && m->node_id < c->members[least].node_id))) {
            least = i;
        }
    }
    for (uint32_t i = c->o.group_count; least >= 0 && leads[0] >= leads[least] + 2 && i-- > 0;) {
        struct group *g = &c->groups[i];
        if (g->ready && member_step_free(g) && group_voter(g, c->members[least].raft_id) &&
            group_hand_over(g, c->members[least].raft_id)) {
            c->balance_at_us = now_us + (uint64_t)c->o.balance_ms * 1000;
            return;
        }
    }
}

/* ---- turns --------------------------------------------------------------------------------------------- */

static void count_groups(const struct dn_consensus *c, struct dn_member_info *info)
{
    for (uint32_t k = 0; k < c->o.group_count; k++) {
        const struct group *g = &c->groups[k];
        info->groups += group_server(g, info->raft_id) != NULL;
        info->voting += group_voter(g, info->raft_id);
        info->leading += g->leader_id == info->raft_id;
    }
}

static void make_view(struct dn_consensus *c)
{
    struct dn_members *view = calloc(1, sizeof *view);
    struct member_list list = {0};
    if (view == NULL) {
        return; /* the old one stays a little longer */
    }
    view->formed = c->forming == FORMED;
    snprintf(view->waiting_for, sizeof view->waiting_for, "%s", c->waiting_for);
    if (!view->formed || !group_members(&c->groups[0], &list, &view->config_index)) {
        list.count = 0;
    }
    for (unsigned i = 0; i < list.count; i++) {
        const struct listed *m = &list.of[i];
        struct dn_member_info *info = &view->members[view->count++];
        *info = (struct dn_member_info){.node_id = m->node_id,
                                        .raft_id = m->raft_id,
                                        .role = m->role,
                                        .replaces = m->replaces,
                                        .self = m->raft_id == c->raft_id};
        memcpy(info->address, m->address, sizeof info->address);
        info->connected = info->self || link_up(c, m->raft_id);
        info->level = info->self ? c->o.level : link_level(c, m->raft_id);
        count_groups(c, info);
    }
    for (unsigned i = 0; i < DN_MEMBERS_MAX && view->count < DN_MEMBERS_MAX; i++) {
        const struct member *m = &c->members[i];
        bool waits = i == 0 ? !view->formed : m->raft_id != 0 && !m->configured && m->greeted && m->empty;
        bool leaves = view->formed && m->raft_id != 0 && m->configured &&
                      member_list_find(&list, m->raft_id) == NULL && list.count > 0;
        if (waits || leaves) {
            struct dn_member_info *info = &view->members[view->count++];
            *info = (struct dn_member_info){.node_id = m->node_id,
                                            .raft_id = m->raft_id,
                                            .role = leaves ? DN_ROLE_LEAVING : DN_ROLE_WAITING,
                                            .self = i == 0,
                                            .connected = i == 0 || link_up(c, m->raft_id),
                                            .level = i == 0 ? c->o.level : link_level(c, m->raft_id)};
            memcpy(info->address, m->address, sizeof info->address);
            count_groups(c, info);
        }
    }
    for (size_t i = 1; i < view->count; i++) { /* members by name, then those that wait */
        for (size_t k = i; k > 0; k--) {
            struct dn_member_info *a = &view->members[k - 1], *b = &view->members[k], swap = *a;
            bool a_waits = a->role == DN_ROLE_WAITING, b_waits = b->role == DN_ROLE_WAITING;
            if (a_waits < b_waits || (a_waits == b_waits && a->node_id <= b->node_id)) {
                break;
            }
            *a = *b;
            *b = swap;
        }
    }
    uv_mutex_lock(&c->view_lock);
    c->view = *view;
    uv_mutex_unlock(&c->view_lock);
    free(view);
}

void members_turn(struct dn_consensus *c, uint64_t now_us)
{
    uint64_t sum = config_sum(c);
    if (sum != c->configs_seen) {
        c->configs_seen = sum;
        take_configurations(c, now_us);
    }
    changes_turn(c, now_us);
}

void members_housekeep(struct dn_consensus *c, uint64_t now_us)
{
    if (c->forming == FORMED && c->phase == PHASE_RUN) {
        steps(c, now_us);
        balance(c, now_us);
        greet_changed(c, now_us);
        forget_strangers(c, now_us);
    }
    if (now_us >= c->view_at_us) {
        c->view_at_us = now_us + VIEW_PAUSE_US;
        make_view(c);
    }
}

/* ---- doors for other threads --------------------------------------------------------------------------- */

void dn_consensus_members(struct dn_consensus *c, struct dn_members *ret)
{
    uv_mutex_lock(&c->view_lock);
    *ret = c->view;
    uv_mutex_unlock(&c->view_lock);
}

uint8_t dn_consensus_level(struct dn_consensus *c)
{
    uint8_t least = UINT8_MAX;
    uv_mutex_lock(&c->view_lock);
    const struct dn_members *view = &c->view;
    bool member = false;
    for (size_t i = 0; i < view->count; i++) {
        const struct dn_member_info *info = &view->members[i];
        if (info->role != DN_ROLE_WAITING) {
            least = info->level < least ? info->level : least;
            member |= info->self;
        }
    }
    least = member && view->formed ? least : 0;
    uv_mutex_unlock(&c->view_lock);
    return least;
}
