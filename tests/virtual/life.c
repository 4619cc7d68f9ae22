#include "tests/virtual/life.h"

#include "tests/virtual/cluster.h"
#include "tests/virtual/internal.h"
#include "tests/virtual/workload.h"

#define STEP_NS (10 * SIM_MS)
#define STATUS_EVERY 5 /* steps */
#define FAULTS_MIN_NS (1500 * SIM_MS)
#define FAULTS_MAX_NS (4 * SIM_S)
#define RECOVERY_BOUND_NS (10 * SIM_S)  /* less than libraft waits for an answer to a snapshot: 20 */
#define EVENTS_BOUND UINT64_C(20000000) /* of one life: more is a loop that does not end */

uint64_t life_faults[LIFE_FAULT_COUNT], life_judged[CHAOS_RULE_COUNT];
uint64_t life_recovery_ms_sum, life_recovery_ms_max;

static struct nemesis {
    bool allowed[LIFE_FAULT_COUNT]; /* each life has some kinds only: rare ones then come together too */
    uint64_t pause_ns;              /* between two faults, on average */
    bool over;
    /* When the last of the faults on a disk or a link ends: an older one's end must not mend a newer one. */
    uint64_t disk_well_ns[SIM_MACHINES_MAX], link_well_ns[SIM_MACHINES_MAX][SIM_MACHINES_MAX];
    struct election {
        bool running;
        unsigned voter, first, second; /* candidates */
        uint64_t life;                 /* of the voter's process */
        uint64_t until_ns;
    } election;
} nemesis;

/* ---- faults ------------------------------------------------------------------------------------------- */

static void node_ended(unsigned node)
{
    workload_node_ended(node);
    bool soon = nemesis.election.voter == node && nemesis.election.running;
    cluster_restart_later(node, soon ? sim_between(SIM_MS, 10 * SIM_MS)
                                     : sim_between(5 * SIM_MS, sim_chance(4) ? 2 * SIM_S : 300 * SIM_MS));
}

static void crash(unsigned node, bool power)
{
    if (!sim_alive(node)) {
        return;
    }
    if (power) {
        sim_power_loss(node);
    } else {
        sim_kill(node);
    }
    cluster_node_ended(node);
}

static void disk_well(void *arg, uint64_t node)
{
    static const struct sim_disk_faults none = {.flush_min_ns = 60 * SIM_US, .flush_max_ns = 500 * SIM_US};
    (void)arg;
    if (nemesis.over || sim_now() >= nemesis.disk_well_ns[node]) {
        cluster_fail_disk((unsigned)node, &none);
    }
}

static void heal_disk_at(unsigned node, uint64_t time_ns)
{
    uint64_t *well_ns = &nemesis.disk_well_ns[node];
    *well_ns = time_ns > *well_ns ? time_ns : *well_ns;
    sim_at(time_ns, disk_well, NULL, node);
}

static void link_well(void *arg, uint64_t link)
{
    unsigned from = (unsigned)link / SIM_MACHINES_MAX, to = (unsigned)link % SIM_MACHINES_MAX;
    (void)arg;
    if (!nemesis.over && (nemesis.election.running || sim_now() < nemesis.link_well_ns[from][to])) {
        return; /* an election's own end mends all */
    }
    sim_net_cut(from, to, false);
    sim_net_latency(from, to, 50 * SIM_US, 400 * SIM_US);
    sim_net_corrupt(from, to, 0);
}

static void heal_link_at(unsigned from, unsigned to, uint64_t time_ns)
{
    uint64_t *well_ns = &nemesis.link_well_ns[from][to];
    *well_ns = time_ns > *well_ns ? time_ns : *well_ns;
    sim_at(time_ns, link_well, NULL, from * SIM_MACHINES_MAX + to);
}

static uint64_t fault_ends(void)
{
    return sim_now() + sim_between(20 * SIM_MS, sim_chance(3) ? 3 * SIM_S : 800 * SIM_MS);
}

static void cut(unsigned from, unsigned to, uint64_t until_ns)
{
    sim_net_cut(from, to, true);
    heal_link_at(from, to, until_ns);
}

static void cut_both(unsigned a, unsigned b, bool reset)
{
    uint64_t until_ns = fault_ends();
    if (reset) {
        sim_net_reset(a, b);
    }
    cut(a, b, until_ns);
    cut(b, a, until_ns);
}

static void network_fault(enum life_fault fault, unsigned node, unsigned other)
{
    uint64_t until_ns = fault_ends();
    bool reset = sim_chance(3);
    switch (fault) {
    case LIFE_isolate:
        for (unsigned i = 0; i < cluster.node_count; i++) {
            if (i != node) {
                cut_both(node, i, reset);
            }
        }
        break;
    case LIFE_pair:
        cut_both(node, other, reset);
        break;
    case LIFE_one_way:
        cut(node, other, until_ns);
        break;
    case LIFE_reset:
        sim_net_reset(node, other);
        break;
    case LIFE_slow:
        sim_net_latency(node, other, SIM_MS, sim_between(5 * SIM_MS, 400 * SIM_MS));
        heal_link_at(node, other, until_ns);
        break;
    default:
        sim_net_corrupt(node, other, (unsigned)sim_between(5, 200));
        heal_link_at(node, other, until_ns);
        break;
    }
}

static void disk_fault(enum life_fault fault, unsigned node)
{
    struct sim_disk_faults faults = {.flush_min_ns = 60 * SIM_US, .flush_max_ns = 500 * SIM_US};
    if (fault == LIFE_disk_errors) {
        faults.read_one_in = sim_chance(3) ? (unsigned)sim_between(3, 30) : 0;
        faults.write_one_in = sim_chance(2) ? (unsigned)sim_between(2, 30) : 0;
        faults.flush_one_in = sim_chance(2) ? (unsigned)sim_between(1, 20) : 0;
    } else if (fault == LIFE_disk_full) {
        faults.full = true;
    } else {
        faults.flush_max_ns = sim_between(5 * SIM_MS, 600 * SIM_MS);
    }
    cluster_fail_disk(node, &faults);
    heal_disk_at(node, fault_ends());
}

static void process_fault(enum life_fault fault, unsigned node)
{
    switch (fault) {
    case LIFE_kill:
    case LIFE_power:
        crash(node, fault == LIFE_power);
        break;
    case LIFE_aimed:
        sim_crash_in_disk(node, (unsigned)sim_random(12), sim_chance(2));
        break;
    case LIFE_all:
        for (unsigned i = 0; i < cluster.node_count; i++) {
            crash(i, sim_chance(2));
        }
        break;
    case LIFE_pause:
        if (sim_alive(node)) {
            sim_pause(node, fault_ends());
        }
        break;
    default:
        cluster_stop_node(node);
        break;
    }
}

/* Who votes must not forget it. All three nodes are apart for a while; then two may talk, and one of them is
 * killed in one of its next disk operations, about when it votes and before it has the new leader's first
 * entry. When it is back at once, it may talk to the third node only, which asks for its vote in the same
 * term. */
static void join(unsigned a, unsigned b, bool joined)
{
    sim_net_cut(a, b, !joined);
    sim_net_cut(b, a, !joined);
}

static void election_step(void *arg, uint64_t tag)
{
    struct election *e = &nemesis.election;
    (void)arg, (void)tag;
    if (!e->running) {
        return;
    }
    if (processes[e->voter].life != e->life && cluster.nodes[e->voter].ready) {
        join(e->first, e->voter, false);
        join(e->second, e->voter, true);
        e->running = false;
    } else if (sim_now() < e->until_ns) {
        sim_at(sim_now() + SIM_MS / 2, election_step, NULL, 0);
        return;
    }
    e->running = false;
    uint64_t until_ns = sim_now() + sim_between(600 * SIM_MS, 1200 * SIM_MS);
    for (unsigned i = 0; i < cluster.node_count; i++) {
        for (unsigned j = 0; j < cluster.node_count; j++) {
            heal_link_at(i, j, until_ns);
        }
    }
}

static void election_begin(void *arg, uint64_t tag)
{
    struct election *e = &nemesis.election;
    (void)arg, (void)tag;
    if (e->running && sim_alive(e->voter)) {
        e->life = processes[e->voter].life;
        sim_crash_in_disk(e->voter, (unsigned)sim_random(8), sim_chance(4));
        join(e->first, e->voter, true);
    }
    election_step(NULL, 0);
}

static void election_fault(unsigned voter)
{
    struct election *e = &nemesis.election;
    if (e->running || cluster.node_count != 3) {
        return;
    }
    *e = (struct election){.running = true, .voter = voter};
    e->first = (voter + 1 + (unsigned)sim_random(2)) % 3;
    e->second = 3 - voter - e->first;
    e->life = processes[voter].life;
    e->until_ns = sim_now() + 2 * SIM_S;
    for (unsigned i = 0; i < 3; i++) {
        join(i, (i + 1) % 3, false);
    }
    sim_at(sim_now() + sim_between(300 * SIM_MS, 700 * SIM_MS), election_begin, NULL, 0);
}

static void nemesis_acts(void)
{
    enum life_fault fault = (enum life_fault)sim_random(LIFE_FAULT_COUNT);
    unsigned node = (unsigned)sim_random(cluster.node_count);
    unsigned other = (node + 1 + (unsigned)sim_random(cluster.node_count - 1)) % cluster.node_count;
    if (!nemesis.allowed[fault] || (fault == LIFE_all && !sim_chance(4))) {
        return;
    }
    life_faults[fault]++;
    if (fault <= LIFE_stop) {
        process_fault(fault, node);
    } else if (fault <= LIFE_corrupt) {
        network_fault(fault, node, other);
    } else if (fault <= LIFE_disk_slow) {
        disk_fault(fault, node);
    } else if (fault == LIFE_election) {
        election_fault(node);
    } else {
        sim_clock_jump(node, (int64_t)sim_random(7200000) - 3600000);
    }
}

static void nemesis_step(void *arg, uint64_t tag)
{
    if (!nemesis.over) {
        nemesis_acts();
        sim_at(sim_now() + sim_random(2 * nemesis.pause_ns), nemesis_step, arg, tag);
    }
}

static void nemesis_begin(void)
{
    bool any = false;
    nemesis = (struct nemesis){.pause_ns = sim_between(4 * SIM_MS, 60 * SIM_MS)};
    while (!any) {
        for (unsigned i = 0; i < LIFE_FAULT_COUNT; i++) {
            nemesis.allowed[i] = sim_chance(4);
            any |= nemesis.allowed[i];
        }
    }
    workload_fault("mixed", "begin", CHAOS_INVOKE);
    workload_fault("mixed", "begin", CHAOS_INFO);
    sim_at(sim_now() + sim_random(200 * SIM_MS), nemesis_step, NULL, 0);
}

static void heal(void)
{
    sim_trace("all faults end");
    nemesis.over = true;
    nemesis.election.running = false;
    workload_fault("mixed", "end", CHAOS_INVOKE);
    for (unsigned i = 0; i < cluster.node_count; i++) {
        disk_well(NULL, i);
        sim_unpause(i);
        processes[i].crash_after = 0;
        for (unsigned j = 0; j < cluster.node_count; j++) {
            link_well(NULL, i * SIM_MACHINES_MAX + j);
        }
    }
}

/* ---- phases ------------------------------------------------------------------------------------------- */

static void step(void)
{

    sim_run_until(sim_now() + STEP_NS);
    if (sim_now() / STEP_NS % STATUS_EVERY == 0) {
        workload_status();
    }
}

static void start_later(void *arg, uint64_t node)
{
    (void)arg;
    if (!cluster.nodes[node].running) {
        cluster_start_node((unsigned)node);
    }
}

static void recover(void)
{
    uint64_t healed_ns = sim_now(), events = sim_counts.events;
    bool told = false;
    for (unsigned stable = 0; stable < 3; stable = workload_done() && cluster_converged() ? stable + 1 : 0) {
        step();
        bool ready = true;
        for (unsigned i = 0; i < cluster.node_count; i++) {
            ready &= cluster.nodes[i].ready && !cluster.nodes[i].stopping && !processes[i].crash_due;
        }
        if (ready && !told) {
            workload_fault("mixed", "end", CHAOS_INFO);
            workload_calm();
            told = true;
        }
        if (sim_now() - healed_ns >= RECOVERY_BOUND_NS) {
            cluster_tell(stderr);
        }
        SIM_CHECK(sim_now() - healed_ns < RECOVERY_BOUND_NS, "not well %llu s after the last fault",
                  (unsigned long long)(RECOVERY_BOUND_NS / SIM_S));
        SIM_CHECK(sim_counts.events - events < EVENTS_BOUND, "the simulation does not end");
    }
    uint64_t took_ms = (sim_now() - healed_ns) / SIM_MS;
    life_recovery_ms_sum += took_ms;
    life_recovery_ms_max = took_ms > life_recovery_ms_max ? took_ms : life_recovery_ms_max;
}

static void judge(void)
{
    struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    int violated = chaos_check(workload_history(), NULL, judgements);
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        life_judged[rule] += judgements[rule].judged;
        for (size_t i = 0; i < judgements[rule].examples_count; i++) {
            fprintf(stderr, "%s: %s (lines %zu, %zu, %zu)\n", chaos_rule_name((enum chaos_rule)rule),
                    judgements[rule].examples[i].text, judgements[rule].examples[i].index[0],
                    judgements[rule].examples[i].index[1], judgements[rule].examples[i].index[2]);
        }
    }
    const char *keep = getenv("DUNLIN_VIRTUAL_HISTORY");
    if (keep != NULL) {
        struct dn_error err;
        FILE *out = fopen(keep, "w");
        SIM_CHECK(out != NULL && chaos_history_write(workload_history(), out, &err) == DN_OK, "write '%s'",
                  keep);
        fclose(out);
    }
    SIM_CHECK(violated == 0, "the history violates %d rules", violated);
}

uint64_t life_run(uint64_t seed)
{
    cluster_open(seed);
    workload_open();
    cluster_on_end = node_ended;
    bool faults_at_once = sim_chance(3);
    for (unsigned i = 0; i < cluster.node_count; i++) {
        sim_at(sim_random(300 * SIM_MS), start_later, NULL, i);
    }
    workload_begin();
    while (!faults_at_once && (sim_now() < 400 * SIM_MS || !cluster_converged())) {
        step();
        SIM_CHECK(sim_now() < RECOVERY_BOUND_NS, "the cluster does not form");
    }
    nemesis_begin();
    uint64_t until_ns = sim_now() + sim_between(FAULTS_MIN_NS, FAULTS_MAX_NS);
    while (sim_now() < until_ns) {
        step();
    }
    heal();
    recover();
    workload_final_reads();
    judge();
    uint64_t hash = sim_trace_hash();
    workload_close();
    cluster_close();
    return hash;
}
