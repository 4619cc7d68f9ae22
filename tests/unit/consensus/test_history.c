/* A stopped node's log, applied anew: the same state, and what is known of the log's end. */
#include "cluster.h"

#include "consensus/history.h"

#include <fcntl.h>

#define RECORDS 200

static struct call call;

static void fill(struct cluster *c, uint32_t group, unsigned records)
{
    char text[64];
    for (unsigned i = 0; i < records; i++) {
        snprintf(text, sizeof text, "record %u of group %u", i, group);
        must(propose(c, leader_of(c, group), group, text, &call), &call);
    }
}

/* Many at once: several records in an entry. */
static void burst(struct cluster *c, uint32_t group)
{
    static struct call calls[64];
    unsigned leader = leader_of(c, group);
    for (unsigned i = 0; i < 64; i++) {
        assert_true(call_propose(&calls[i], c->node[leader], group, "of many", 7, 15000));
    }
    for (unsigned i = 0; i < 64; i++) {
        must(call_end(&calls[i]), &calls[i]);
    }
}

/* Until every node has applied, and reported in a tick, what was there when this was called. */
static void let_report(struct cluster *c, uint32_t group)
{
    must_converge(c, group);
    usleep(100000); /* some ticks; if there were none, fewer hashes are compared and the test says so */
    must_converge(c, group);
}

static void state_open(struct log_state *state, struct dn_fsm *fsm)
{
    memset(state, 0, sizeof *state);
    dn_buffer_init(&state->bytes, (size_t)1 << 30);
    *fsm = log_fsm(state);
}

static struct dn_history *open_node(const struct cluster *c, unsigned node)
{
    struct dn_history *history = NULL;
    struct dn_error err = {0};
    char dir[96];
    snprintf(dir, sizeof dir, "%s/%u", c->dir, node);
    if (dn_history_open(dir, &history, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
    return history;
}

static void look(struct dn_history *history, uint32_t group, struct dn_history_group *ret)
{
    struct dn_error err = {0};
    if (dn_history_look(history, group, ret, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
}

static void replay(struct dn_history *history, const struct dn_history_options *options,
                   struct log_state *state, struct dn_history_result *ret)
{
    struct dn_fsm fsm;
    struct dn_error err = {0};
    state_open(state, &fsm);
    if (dn_history_replay(history, options, &fsm, ret, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
    assert_true(ret->hash == fsm.hash(state));
}

static enum dn_code refuse(struct dn_history *history, const struct dn_history_options *options,
                           const char *says)
{
    struct dn_history_result result;
    struct log_state state;
    struct dn_fsm fsm;
    struct dn_error err = {0};
    state_open(&state, &fsm);
    enum dn_code code = dn_history_replay(history, options, &fsm, &result, &err);
    dn_buffer_free(&state.bytes);
    if (strstr(err.message, says) == NULL) {
        fail_msg("'%s' is not in: %s", says, err.message);
    }
    return code;
}

struct told {
    uint64_t index, hash;
};

static struct told ask(const struct cluster *c, unsigned node, uint32_t group)
{
    struct dn_group_status status;
    dn_consensus_status(c->node[node], group, &status);
    return (struct told){status.hash_index, status.state_hash};
}

static void same_as_live(const struct cluster *c, unsigned node, uint32_t group, struct told told)
{
    struct dn_history *history = open_node(c, node);
    struct dn_history_group had;
    struct dn_history_result result;
    struct log_state state;
    look(history, group, &had);
    assert_true(had.known);
    assert_true(had.sure_index > 0 && had.sure_index <= had.last_index && told.index <= had.last_index);

    struct dn_history_options options = {.group = group, .to_index = told.index};
    replay(history, &options, &state, &result);
    assert_int_equal(result.index, told.index);
    assert_true(result.hash == told.hash);
    assert_int_equal(result.from_index, had.snapshot_index);
    dn_buffer_free(&state.bytes);

    options.to_index = had.last_index;
    replay(history, &options, &state, &result);
    assert_int_equal(result.index, had.last_index);
    assert_true(result.checked > 0);
    assert_int_equal(result.differing, 0);
    assert_true(result.time_ms >= state.time_ms && state.time_ms > 0);
    const struct log_state *live = &c->state[node][group]; /* applied all that is in its log */
    assert_int_equal(state.count, live->count);
    assert_memory_equal(state.bytes.bytes, live->bytes.bytes, live->bytes.length);
    dn_buffer_free(&state.bytes);
    dn_history_close(history);
}

static void every_node_gives_its_state_again(void **unused)
{
    struct cluster c;
    struct told told[NODES][2];
    (void)unused;
    cluster_init(&c, 3, 2);
    c.options.tick_ms = 20;
    cluster_start_all(&c);
    for (uint32_t group = 0; group < 2; group++) {
        fill(&c, group, RECORDS);
        burst(&c, group);
        let_report(&c, group);
    }
    for (unsigned node = 0; node < 3; node++) {
        for (uint32_t group = 0; group < 2; group++) {
            told[node][group] = ask(&c, node, group);
        }
    }
    for (unsigned node = 0; node < 3; node++) {
        cluster_stop(&c, node, 0);
    }
    for (unsigned node = 0; node < 3; node++) {
        for (uint32_t group = 0; group < 2; group++) {
            same_as_live(&c, node, group, told[node][group]);
        }
    }
    cluster_free(&c);
}

/* With a snapshot: the log begins behind entry 1, or still holds it. */
static void a_snapshot_is_where_it_begins(void **unused)
{
    struct cluster c;
    struct dn_history_group had;
    (void)unused;
    cluster_init(&c, 1, 1);
    c.options.tick_ms = 20;
    c.options.snapshot_log_bytes = 8192;
    cluster_start_all(&c);
    uint64_t until_us = dn_monotonic_us() + PATIENCE_US;
    struct dn_group_status status = {0};
    while (status.first_index <= 1 && dn_monotonic_us() < until_us) {
        fill(&c, 0, 100);
        dn_consensus_status(c.node[0], 0, &status);
    }
    assert_true(status.first_index > 1);
    do { /* until hashes of what is behind the last snapshot are in the log's ticks */
        fill(&c, 0, 10);
        let_report(&c, 0);
        dn_consensus_status(c.node[0], 0, &status);
    } while (status.applied_index < status.snapshot_index + 40);
    struct told told = ask(&c, 0, 0);
    cluster_stop(&c, 0, 0);
    same_as_live(&c, 0, 0, told);

    struct dn_history *history = open_node(&c, 0);
    look(history, 0, &had);
    assert_true(had.snapshot_index > 0 && had.first_index > 1);
    assert_int_equal(had.sure_index, had.last_index); /* the only voter */
    struct dn_history_options options = {.to_index = had.last_index, .from_start = true};
    assert_int_equal(refuse(history, &options, "no longer at 1"), DN_RANGE);
    options = (struct dn_history_options){.to_index = had.snapshot_index - 1};
    assert_int_equal(refuse(history, &options, "before the snapshot"), DN_RANGE);
    options = (struct dn_history_options){.to_index = had.last_index + 1};
    assert_int_equal(refuse(history, &options, "ends at"), DN_RANGE);
    options = (struct dn_history_options){.group = 1, .to_index = 1};
    assert_int_equal(refuse(history, &options, "nothing of this group"), DN_NOT_FOUND);
    dn_history_close(history);
    cluster_free(&c);
}

/* From entry 1 it is the same, and every prefix is one of the states that were. */
static void any_index_can_be_reached(void **unused)
{
    struct cluster c;
    struct told told[20];
    struct dn_history_result result;
    struct log_state state;
    (void)unused;
    cluster_init(&c, 1, 1);
    cluster_start_all(&c);
    for (unsigned i = 0; i < 20; i++) {
        fill(&c, 0, 1);
        told[i] = (struct told){.index = call.index};
        assert_true(dn_consensus_hash_at(c.node[0], 0, call.index, &told[i].hash));
    }
    cluster_stop(&c, 0, 0);
    struct dn_history *history = open_node(&c, 0);
    for (unsigned i = 0; i < 20; i++) {
        struct dn_history_options options = {.to_index = told[i].index, .from_start = i % 2 == 0};
        replay(history, &options, &state, &result);
        assert_int_equal(result.index, told[i].index);
        assert_true(result.hash == told[i].hash);
        assert_int_equal(state.count, i + 1);
        dn_buffer_free(&state.bytes);
    }
    dn_history_close(history);
    cluster_free(&c);
}

/* A state machine that counts otherwise than the nodes did is told. */
static void reported_hashes_are_compared(void **unused)
{
    struct cluster c;
    struct dn_history_group had;
    struct dn_history_result result;
    struct log_state state;
    struct dn_fsm fsm;
    struct dn_error err = {0};
    (void)unused;
    cluster_init(&c, 1, 1);
    c.options.tick_ms = 20;
    cluster_start_all(&c);
    fill(&c, 0, RECORDS);
    let_report(&c, 0);
    cluster_stop(&c, 0, 0);
    struct dn_history *history = open_node(&c, 0);
    look(history, 0, &had);
    state_open(&state, &fsm);
    state.sick = true;
    struct dn_history_options options = {.to_index = had.last_index};
    assert_int_equal(dn_history_replay(history, &options, &fsm, &result, &err), DN_OK);
    assert_int_equal(result.checked, 0);
    assert_true(result.differing > 0 && result.differs_at > 0 && result.differs_at <= had.last_index);
    assert_true(result.differing_node != 0);
    dn_buffer_free(&state.bytes);
    dn_history_close(history);
    cluster_free(&c);
}

static void what_is_no_stopped_node_is_refused(void **unused)
{
    struct cluster c;
    struct dn_history *history = NULL;
    struct dn_error err = {0};
    char dir[96], path[160];
    (void)unused;
    cluster_init(&c, 1, 1);
    snprintf(dir, sizeof dir, "%s/0", c.dir);
    assert_int_equal(dn_history_open(dir, &history, &err), DN_NOT_FOUND); /* empty */
    assert_int_equal(dn_history_open("/nowhere", &history, &err), DN_NOT_FOUND);
    cluster_start_all(&c);
    fill(&c, 0, RECORDS);
    assert_int_equal(dn_history_open(dir, &history, &err), DN_PRECONDITION);
    assert_non_null(strstr(err.message, "running"));
    cluster_stop(&c, 0, 0);

    /* While a history is open, no node starts on the directory. */
    history = open_node(&c, 0);
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_PRECONDITION);
    dn_history_close(history);

    /* A flipped bit in the middle of the log. */
    snprintf(path, sizeof path, "%s/journal/%016x.seg", dir, 1);
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, 4096 + 200), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, 4096 + 200), 1);
    close(fd);
    assert_int_equal(dn_history_open(dir, &history, &err), DN_CORRUPT);
    assert_non_null(strstr(err.message, ".seg"));
    cluster_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_node_gives_its_state_again),   cmocka_unit_test(a_snapshot_is_where_it_begins),
        cmocka_unit_test(any_index_can_be_reached),           cmocka_unit_test(reported_hashes_are_compared),
        cmocka_unit_test(what_is_no_stopped_node_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
