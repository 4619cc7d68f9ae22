#include "tests/virtual/cluster.h"

#include "tests/virtual/internal.h"

#define INDEXES_MAX 32768
#define TERMS_MAX 4096
#define PAUSED_ONE_IN 50
#define SLICE_NS (5 * SIM_MS) /* longer than consensus' own */
#define ARENA_BLOCK 65536
#define ARENA_MAX ((size_t)4 << 20)

struct cluster cluster;
struct cluster_counts cluster_counts;
void (*cluster_on_end)(unsigned node);

static uint64_t hashes[GROUPS_MAX][INDEXES_MAX];
static unsigned leaders[GROUPS_MAX][TERMS_MAX]; /* node + 1 */
static char addresses[NODES_MAX][32], binds[NODES_MAX][32], data_dirs[NODES_MAX][32];
static struct dn_member members[NODES_MAX];

/* ---- the state machine, watched ----------------------------------------------------------------------- */

static void check_hash(const struct replica *r, uint64_t index, const char *when)
{
    uint64_t hash = dn_shard_hash(r->shard);
    SIM_CHECK(index < INDEXES_MAX, "too many entries: make lives shorter");
    uint64_t *known = &hashes[r->group][index];
    if (*known == 0) {
        *known = hash;
    }
    sim_note(index, hash);
    SIM_CHECK(*known == hash, "node %u, group %u: the state after index %llu %s is not what it was elsewhere",
              r->node, r->group, (unsigned long long)index, when);
}

/* Computing takes no time here, so a slice would never be over: now and then it is after a part. A record of
 * one part may go on after the pause too: its entry is then the one that is half applied. */
static bool fsm_apply_part(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                           struct dn_buffer *out)
{
    struct replica *r = state;
    if (!r->paused && fiber_running() && sim_chance(PAUSED_ONE_IN)) {
        r->paused = true;
        cluster_counts.slices_cut++;
        fiber_sleep(SLICE_NS);
        return false; /* nothing of it is applied yet */
    }
    r->paused = false;
    bool done = dn_shard_apply_part(r->shard, at->index, at->ordinal, at->time_ms, record, length, out);
    r->begun = !done;
    cluster_counts.applied += done;
    return done;
}

static void fsm_apply(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                      struct dn_buffer *out)
{
    while (!fsm_apply_part(state, at, record, length, out)) {
    }
}

static void fsm_entry_done(void *state, const struct dn_apply *at)
{
    struct replica *r = state;
    dn_shard_entry_done(r->shard, at->index, at->time_ms);
    check_hash(r, at->index, "");
}

static uint64_t fsm_hash(void *state)
{
    return dn_shard_hash(((struct replica *)state)->shard);
}

static void *fsm_snapshot_begin(void *state)
{
    cluster_counts.snapshots_taken++;
    const struct replica *r = state;
    SIM_CHECK(!r->paused && !r->begun, "node %u, group %u: a snapshot in the middle of an entry", r->node,
              r->group);
    return dn_shard_snapshot_begin(((struct replica *)state)->shard);
}

static enum dn_code fsm_snapshot_write(void *state, void *capture, struct dn_sink *out, struct dn_error *err)
{
    return dn_shard_snapshot_write(((struct replica *)state)->shard, capture, out, err);
}

static void fsm_snapshot_end(void *state, void *capture)
{
    dn_shard_snapshot_end(((struct replica *)state)->shard, capture);
}

static enum dn_code fsm_restore_build(void *state, struct dn_source *in, void **ret_built,
                                      struct dn_error *err)
{
    return dn_shard_restore_build(((struct replica *)state)->shard, in, ret_built, err);
}

static void fsm_restore_install(void *state, void *built)
{
    struct replica *r = state;
    r->paused = r->begun = false;
    dn_shard_restore_install(r->shard, built);
    cluster_counts.snapshots_installed += cluster.nodes[r->node].ready;
}

static void fsm_restore_discard(void *state, void *built)
{
    dn_shard_restore_discard(((struct replica *)state)->shard, built);
}

/* ---- a node's process --------------------------------------------------------------------------------- */

static void on_fatal(void *data, const char *reason)
{
    struct node *node = data;
    unsigned number = (unsigned)(node - cluster.nodes);
    sim_trace("node %u: gives up: %s", number, reason);
    SIM_CHECK(node->faulty, "node %u gives up with a sound disk: %s", number, reason);
    cluster_counts.given_up++;
    sim_exit();
}

static void on_removed(void *data, const char *reason)
{
    unsigned number = (unsigned)((struct node *)data - cluster.nodes);
    SIM_CHECK(false, "node %u was removed, which nobody asked for: %s", number, reason);
}

static void on_leader(void *data, uint32_t group, bool leader, uint64_t term)
{
    struct node *node = data;
    unsigned number = (unsigned)(node - cluster.nodes);
    sim_trace("node %u: group %u: %s of term %llu", number, group, leader ? "leader" : "no leader any more",
              (unsigned long long)term);
    node->leads[group] = leader;
    node->led_term[group] = term;
    if (!leader) {
        return;
    }
    SIM_CHECK(term < TERMS_MAX, "too many terms");
    unsigned *known = &leaders[group][term];
    SIM_CHECK(*known == 0 || *known == number + 1, "group %u: nodes %u and %u both lead term %llu", group,
              *known - 1, number, (unsigned long long)term);
    cluster_counts.elections += *known == 0;
    *known = number + 1;
}

static void on_applied(void *data)
{
    const struct node *node = data;
    for (uint32_t g = 0; g < cluster.group_count; g++) {
        dn_epoch_reclaim(node->replicas[g].epoch, 64);
    }
}

static struct dn_fsm make_replica(struct replica *r, unsigned node, uint32_t group)
{
    r->node = node;
    r->group = group;
    r->begun = r->paused = false;
    r->epoch = dn_epoch_create();
    r->reader = dn_epoch_register(r->epoch);
    r->shard = dn_shard_create(r->epoch);
    SIM_CHECK(r->shard != NULL && r->reader != NULL, "out of memory");
    return (struct dn_fsm){.state = r,
                           .apply = fsm_apply,
                           .apply_part = fsm_apply_part,
                           .entry_done = fsm_entry_done,
                           .hash = fsm_hash,
                           .snapshot_begin = fsm_snapshot_begin,
                           .snapshot_write = fsm_snapshot_write,
                           .snapshot_end = fsm_snapshot_end,
                           .restore_build = fsm_restore_build,
                           .restore_install = fsm_restore_install,
                           .restore_discard = fsm_restore_discard};
}

static void node_main(void *arg)
{
    struct node *node = arg;
    unsigned number = (unsigned)(node - cluster.nodes);
    struct dn_consensus_options options = cluster.options;
    struct dn_fsm fsms[GROUPS_MAX];
    struct dn_error err;
    node->arena = dn_arena_create(ARENA_BLOCK, ARENA_MAX);
    for (uint32_t g = 0; g < cluster.group_count; g++) {
        fsms[g] = make_replica(&node->replicas[g], number, g);
    }
    options.fsms = fsms;
    options.node_id = number + 1;
    options.address = addresses[number];
    options.data_dir = data_dirs[number];
    options.bind_address = binds[number];
    options.on_applied = on_applied;
    options.on_fatal = on_fatal;
    options.on_leader = on_leader;
    options.on_removed = on_removed;
    options.callback_data = node;
    struct dn_consensus *consensus = NULL;
    enum dn_code code = dn_consensus_start(&options, &consensus, &err);
    if (code != DN_OK) {
        sim_trace("node %u: does not start: %s", number, err.message);
        SIM_CHECK(node->faulty, "node %u does not start with a sound disk: %s", number, err.message);
        cluster_counts.refused_start++;
        sim_exit();
    }
    node->consensus = consensus;
    node->ready = true;
    sim_trace("node %u: started", number);
}

static void stop_main(void *arg)
{
    struct node *node = arg;
    unsigned transfer_ms = (unsigned)sim_random(600);
    while (!node->ready) {
        fiber_sleep(SIM_MS);
    }
    dn_consensus_stop(node->consensus, transfer_ms);
    node->ready = false;
    dn_consensus_destroy(node->consensus);
    cluster_counts.graceful_stops++;
    sim_exit();
}

void cluster_node_ended(unsigned number)
{
    struct node *node = &cluster.nodes[number];
    node->running = node->ready = node->stopping = false;
    node->consensus = NULL;
    memset(node->replicas, 0, sizeof node->replicas);
    memset(node->leads, 0, sizeof node->leads);
    if (cluster_on_end != NULL) {
        cluster_on_end(number);
    }
}

static void process_died(unsigned machine)
{
    cluster_node_ended(machine);
}

void cluster_start_node(unsigned number)
{
    struct node *node = &cluster.nodes[number];
    SIM_CHECK(!node->running, "node %u runs", number);
    node->running = true;
    node->restart_at = 0;
    node->faulty = node->failing;
    sim_start(number, node_main, node);
}

static void restart_due(void *arg, uint64_t tag)
{
    struct node *node = arg;
    if (!node->running && node->restart_at == tag) {
        cluster_start_node((unsigned)(node - cluster.nodes));
    }
}

void cluster_restart_later(unsigned number, uint64_t delay_ns)
{
    struct node *node = &cluster.nodes[number];
    node->restart_at = sim_now() + delay_ns;
    sim_at(node->restart_at, restart_due, node, node->restart_at);
}

void cluster_stop_node(unsigned number)
{
    struct node *node = &cluster.nodes[number];
    if (node->running && !node->stopping) {
        node->stopping = true;
        sim_trace("node %u: is asked to stop", number);
        sim_thread(number, stop_main, node);
    }
}

void cluster_fail_disk(unsigned number, const struct sim_disk_faults *faults)
{
    struct node *node = &cluster.nodes[number];
    node->failing =
        faults->read_one_in > 0 || faults->write_one_in > 0 || faults->flush_one_in > 0 || faults->full;
    node->faulty |= node->failing;
    sim_disk_faults(number, faults);
}

bool cluster_status(unsigned number, uint32_t group, struct dn_group_status *ret)
{
    const struct node *node = &cluster.nodes[number];
    if (!node->ready) {
        return false;
    }
    sim_enter(number);
    dn_consensus_status(node->consensus, group, ret);
    sim_leave();
    return true;
}

bool cluster_converged(void)
{
    for (uint32_t g = 0; g < cluster.group_count; g++) {
        struct dn_group_status first, other;
        for (unsigned i = 0; i < cluster.node_count; i++) {
            struct dn_group_status *status = i == 0 ? &first : &other;
            if (!cluster_status(i, g, status) || status->leader_id == 0 || status->applied_index == 0) {
                return false;
            }
            if (i > 0 &&
                (other.applied_index != first.applied_index || other.state_hash != first.state_hash ||
                 other.hash_index != first.hash_index || other.leader_id != first.leader_id)) {
                return false;
            }
        }
    }
    return true;
}

void cluster_tell(FILE *out)
{
    for (unsigned i = 0; i < cluster.node_count; i++) {
        for (uint32_t g = 0; g < cluster.group_count; g++) {
            struct dn_group_status status;
            if (!cluster_status(i, g, &status)) {
                fprintf(out, "node %u: group %u: not ready\n", i, g);
                continue;
            }
            fprintf(
                out,
                "node %u: group %u: term %llu, leader %016llx%s, log from %llu, commit %llu, applied %llu, "
                "snapshot %llu, hash %016llx at %llu\n",
                i, g, (unsigned long long)status.term, (unsigned long long)status.leader_id,
                status.is_leader ? " (itself)" : "", (unsigned long long)status.first_index,
                (unsigned long long)status.commit_index, (unsigned long long)status.applied_index,
                (unsigned long long)status.snapshot_index, (unsigned long long)status.state_hash,
                (unsigned long long)status.hash_index);
        }
    }
}

void cluster_open(uint64_t seed)
{
    unsigned nodes = seed % 8 == 7 ? 5 : 3;
    cluster_open_as(seed, nodes, nodes, seed % 4 == 3 ? 3 : 2);
}

void cluster_open_as(uint64_t seed, unsigned nodes, unsigned initial, uint32_t groups)
{
    sim_open(seed, nodes);
    memset(&cluster, 0, sizeof cluster);
    memset(hashes, 0, sizeof hashes);
    memset(leaders, 0, sizeof leaders);
    cluster.node_count = nodes;
    cluster.group_count = groups;
    sim_on_death = process_died;
    for (unsigned i = 0; i < nodes; i++) {
        snprintf(addresses[i], sizeof addresses[i], sim_chance(4) ? "node-%u:%u" : "10.0.0.%u:%u", i + 1,
                 SIM_PORT);
        snprintf(binds[i], sizeof binds[i], "10.0.0.%u:%u", i + 1, SIM_PORT);
        snprintf(data_dirs[i], sizeof data_dirs[i], SIM_PREFIX "%u", i);
        members[i] = (struct dn_member){.node_id = i + 1, .address = addresses[i]};
    }
    cluster.options = (struct dn_consensus_options){
        .cluster_id = "virtual",
        .members = members,
        .member_count = initial,
        .journal_disk = "pool",
        .group_count = groups,
        .segment_bytes = sim_chance(3) ? 128u << 10 : 64u << 10,
        .snapshot_log_bytes = sim_between(2u << 10, 16u << 10),
        .journal_held_bytes = 256u << 10,
        .balance_ms = sim_chance(2) ? 500 : UINT32_MAX,
        .min_free_bytes = 1u << 20,
    };
}

void cluster_close(void)
{
    sim_close();
    memset(&cluster, 0, sizeof cluster);
}
