/* Figure 8 of the Raft paper (Ongaro and Ousterhout, 2014), on libraft's fixture in virtual time.
 *
 * Servers 0 and 1 hold entry A of term 2, server 2 holds entry B of term 3 at the same index. Server 0 is
 * elected with server 1's vote and dies k steps later; then server 2 may be elected by server 1. A library
 * that commits A by counting replicas lets server 0 apply A and server 2 overwrite it. For every k: what any
 * server applied at an index is what every server applies there. libraft 0.15 fails here; the one we build on
 * must not. The sweep is checked to contain both dangerous ends: A applied before the death, and B winning.
 */
#include <raft.h>
#include <raft/fixture.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define SERVERS 3
#define APPLIED_MAX 64
#define KILL_STEPS 120
#define A UINT64_C(0xaaaa)
#define B UINT64_C(0xbbbb)

struct machine {
    struct raft_fsm fsm;
    struct raft *raft;
    uint64_t applied[APPLIED_MAX]; /* by index; 0: nothing */
    unsigned count;
};

static int machine_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct machine *m = fsm->data;
    uint64_t index = raft_last_applied(m->raft) + 1, value;
    assert_int_equal(buf->len, sizeof value);
    memcpy(&value, buf->base, sizeof value);
    assert_true(index < APPLIED_MAX);
    assert_true(m->applied[index] == 0);
    m->applied[index] = value;
    m->count++;
    *result = NULL;
    return 0;
}

static int machine_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    (void)fsm;
    (void)bufs;
    (void)n_bufs;
    return RAFT_BUSY;
}

static int machine_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    (void)fsm;
    (void)buf;
    return RAFT_INVALID;
}

static void add(struct raft_fixture *f, unsigned server, raft_term term, uint64_t value)
{
    struct raft_entry entry = {.term = term, .type = RAFT_COMMAND};
    entry.buf.len = sizeof value;
    entry.buf.base = raft_malloc(sizeof value);
    memcpy(entry.buf.base, &value, sizeof value);
    raft_fixture_add_entry(f, server, &entry);
}

static void cut(struct raft_fixture *f, unsigned i, unsigned j, bool whole)
{
    if (whole) {
        raft_fixture_reconnect(f, i, j);
        raft_fixture_reconnect(f, j, i);
    } else {
        raft_fixture_disconnect(f, i, j);
        raft_fixture_disconnect(f, j, i);
    }
}

struct outcome {
    bool a_applied_by_0, b_won, a_won;
};

static struct outcome run(unsigned kill_after, bool prefer_2)
{
    struct raft_fixture f;
    struct machine machines[SERVERS];
    struct raft_configuration configuration;
    struct outcome outcome = {0};
    memset(machines, 0, sizeof machines);
    assert_int_equal(raft_fixture_init(&f), 0);
    for (unsigned i = 0; i < SERVERS; i++) {
        machines[i].fsm = (struct raft_fsm){.version = 1,
                                            .data = &machines[i],
                                            .apply = machine_apply,
                                            .snapshot = machine_snapshot,
                                            .restore = machine_restore};
        assert_int_equal(raft_fixture_grow(&f, &machines[i].fsm), 0);
        machines[i].raft = raft_fixture_get(&f, i);
        machines[i].raft->tracer = NULL;
    }
    assert_int_equal(raft_fixture_configuration(&f, SERVERS, &configuration), 0);
    assert_int_equal(raft_fixture_bootstrap(&f, &configuration), 0);
    raft_configuration_close(&configuration);
    add(&f, 0, 2, A);
    add(&f, 1, 2, A);
    add(&f, 2, 3, B);
    for (unsigned i = 0; i < SERVERS; i++) {
        raft_fixture_set_term(&f, i, 3);
    }
    assert_int_equal(raft_fixture_start(&f), 0);
    cut(&f, 0, 2, false);
    cut(&f, 1, 2, false);
    raft_fixture_start_elect(&f, 0);
    assert_true(raft_fixture_step_until_state_is(&f, 0, RAFT_LEADER, 20000));
    raft_fixture_step_n(&f, kill_after + 1);
    raft_fixture_kill(&f, 0);
    cut(&f, 1, 2, true);
    /* Until one of the two left leads and has committed an entry of its own term. */
    for (unsigned step = 0; step < 20000; step++) {
        if (step % 500 == 0) { /* whoever cannot win must not keep the other from trying for ever */
            raft_fixture_set_randomized_election_timeout(&f, prefer_2 ? 1 : 2, 1900);
            raft_fixture_set_randomized_election_timeout(&f, prefer_2 ? 2 : 1, 1000);
            prefer_2 = !prefer_2;
        }
        bool led = raft_state(machines[1].raft) == RAFT_LEADER || raft_state(machines[2].raft) == RAFT_LEADER;
        if (led && raft_last_applied(machines[1].raft) >= 3 && raft_last_applied(machines[2].raft) >= 3) {
            break;
        }
        raft_fixture_step(&f);
    }
    assert_true(machines[1].count > 0 && machines[2].count > 0);
    for (unsigned i = 0; i < SERVERS; i++) {
        for (unsigned j = 0; j < i; j++) {
            for (unsigned index = 0; index < APPLIED_MAX; index++) {
                uint64_t x = machines[i].applied[index], y = machines[j].applied[index];
                if (x != 0 && y != 0 && x != y) {
                    fail_msg("killed after %u steps: index %u is %llx on server %u, %llx on server %u",
                             kill_after, index, (unsigned long long)x, i, (unsigned long long)y, j);
                }
            }
        }
    }
    outcome.a_applied_by_0 = machines[0].applied[2] == A;
    outcome.a_won = machines[1].applied[2] == A;
    outcome.b_won = machines[1].applied[2] == B;
    raft_fixture_close(&f);
    return outcome;
}

static void nothing_committed_is_overwritten(void **unused)
{
    unsigned applied = 0, b_won = 0, a_won = 0;
    (void)unused;
    for (unsigned k = 0; k < KILL_STEPS; k++) {
        for (unsigned prefer = 0; prefer < 2; prefer++) {
            struct outcome o = run(k, prefer == 1);
            assert_false(o.a_applied_by_0 && !o.a_won);
            applied += o.a_applied_by_0;
            a_won += o.a_won;
            b_won += o.b_won;
        }
    }
    printf("# %u runs: A applied before the death in %u, A survived in %u, B in %u\n", 2 * KILL_STEPS,
           applied, a_won, b_won);
    assert_true(applied > 0 && b_won > 0);
    assert_int_equal(a_won + b_won, 2 * KILL_STEPS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_committed_is_overwritten)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
