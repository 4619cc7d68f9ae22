#include "tests/virtual/scenario.h"

#include "base/clock.h"
#include "tests/virtual/cluster.h"
#include "tests/virtual/internal.h"

#define BOUND_NS (20 * SIM_S)

/* ---- changes of members ------------------------------------------------------------------------------- */

static bool change_over;
static enum dn_code change_code;

static void changed(struct dn_member_change *change, enum dn_code code, const struct dn_error *err)
{
    (void)change;
    change_over = true;
    change_code = code;
    sim_trace("change of members: %d %s", (int)code, code == DN_OK ? "" : err->message);
}

static void change_members(unsigned at, enum dn_member_op op, unsigned node)
{
    static struct dn_member_change change;
    change_over = false;
    sim_enter(at);
    change = (struct dn_member_change){
        .op = op, .node_id = node + 1, .deadline_us = dn_monotonic_us() + BOUND_NS / 1000, .done = changed};
    SIM_CHECK(dn_consensus_member_change(cluster.nodes[at].consensus, &change), "not taken");
    sim_leave();
}

static enum dn_member_role role_of(unsigned at, unsigned node)
{
    static struct dn_members members;
    enum dn_member_role role = DN_ROLE_WAITING;
    if (!cluster.nodes[at].ready) {
        return role;
    }
    sim_enter(at);
    dn_consensus_members(cluster.nodes[at].consensus, &members);
    sim_leave();
    for (size_t i = 0; i < members.count; i++) {
        role = members.members[i].node_id == node + 1 ? members.members[i].role : role;
    }
    return role;
}

static bool sees(unsigned at, unsigned node)
{
    static struct dn_members members;
    bool seen = false;
    sim_enter(at);
    dn_consensus_members(cluster.nodes[at].consensus, &members);
    sim_leave();
    for (size_t i = 0; i < members.count; i++) {
        seen |= members.members[i].node_id == node + 1 && members.members[i].connected;
    }
    return seen;
}

static int leader_of(uint32_t group)
{
    for (unsigned i = 0; i < cluster.node_count; i++) {
        struct dn_group_status status;
        if (cluster_status(i, group, &status) && status.is_leader && cluster.nodes[i].leads[group]) {
            return (int)i;
        }
    }
    return -1;
}

#define UNTIL(condition, what)                                                                               \
    for (uint64_t until_ = sim_now() + BOUND_NS; !(condition); sim_run_until(sim_now() + SIM_MS)) {          \
        SIM_CHECK(sim_now() < until_, "%s", what);                                                           \
    }

/* A learner's promotion is cut off on its way to it; the others commit it, and then one of them is gone: the
 * learner's vote is needed, and it does not know that it has one. (io_shim.c, vote_of_a_standby) */
static bool lost_promotion(uint64_t seed)
{
    cluster_open_as(seed, 3, 2, 1);
    for (unsigned i = 0; i < 3; i++) {
        cluster_start_node(i);
    }
    UNTIL(leader_of(0) >= 0 && sees((unsigned)leader_of(0), 2), "the cluster forms and hears of node 3");
    unsigned leader = (unsigned)leader_of(0), other = 1 - leader;
    sim_net_latency(leader, 2, 150 * SIM_MS, 160 * SIM_MS);
    change_members(leader, DN_MEMBER_ADD, 2);
    UNTIL(role_of(leader, 2) == DN_ROLE_VOTER, "node 3 is promoted");
    sim_net_cut(leader, 2, true); /* what says so is on its way */
    sim_net_cut(other, 2, true);
    bool met = role_of(leader, 2) == DN_ROLE_VOTER && role_of(2, 2) != DN_ROLE_VOTER;
    if (met) {
        sim_kill(other);
        cluster_node_ended(other);
        sim_run_until(sim_now() + 2 * SIM_S); /* the leader alone is none, and what travelled is lost */
        sim_net_cut(leader, 2, false);
        sim_net_latency(leader, 2, 50 * SIM_US, 400 * SIM_US);
        UNTIL(leader_of(0) >= 0, "the learner votes, and there is a leader");
        UNTIL(role_of(2, 2) == DN_ROLE_VOTER, "node 3 learns that it votes");
    }
    cluster_close();
    return met;
}

bool scenario_run(const char *name, uint64_t seed, uint64_t count)
{
    uint64_t met = 0;
    if (strcmp(name, "lost-promotion") != 0) {
        fprintf(stderr, "there is no scenario '%s'\n", name);
        return false;
    }
    cluster_on_end = NULL;
    for (uint64_t i = 0; i < count; i++) {
        met += lost_promotion(seed + i);
    }
    printf("%s: met in %llu of %llu courses, and all went well\n", name, (unsigned long long)met,
           (unsigned long long)count);
    SIM_CHECK(met > 0, "no course met the point in question");
    return true;
}
