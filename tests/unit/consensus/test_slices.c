/* Applying does not hold the loop: a turn ends after a few milliseconds wherever it is, between two records
 * of an entry and within one, and groups take turns. What a part costs is more than a turn's budget here, so
 * that after each of them there must be another turn, however fast the machine is. */
#define NODES 1
#define GROUPS_MAX_HERE 4
#include "cluster.h"

#include "consensus/internal.h"

#define PART_US (APPLY_SLICE_US + 500)
#define RECORDS 10 /* of each group */

static struct cluster c;
static struct dn_consensus *_Atomic node;
static uint64_t last_turn, in_one_turn, seen_early, starved;
static _Atomic uint64_t parts;
static unsigned passed_over[GROUPS_MAX_HERE];

/* On the consensus thread. */
static void look(struct log_state *s, const struct dn_apply *at)
{
    struct dn_consensus *n = atomic_load(&node);
    uint32_t id = (uint32_t)(s - c.state[0]);
    if (n == NULL) {
        return;
    }
    uint64_t turn = atomic_load(&n->loop_turn_us);
    in_one_turn += turn == last_turn;
    last_turn = turn;
    atomic_fetch_add(&parts, 1);
    seen_early += atomic_load(&n->groups[id].applied) >= at->index;
    for (uint32_t g = 0; g < c.groups; g++) {
        bool passed = g != id && n->groups[g].queue_first != NULL;
        passed_over[g] = passed ? passed_over[g] + 1 : 0;
        starved += passed_over[g] >= c.groups;
    }
}

static void open_cluster(void)
{
    cluster_init(&c, 1, GROUPS_MAX_HERE);
    c.options.snapshot_log_bytes = 2000;
    c.options.inflight_max = 2; /* the rest is packed together */
    for (unsigned g = 0; g < GROUPS_MAX_HERE; g++) {
        c.state[0][g].look = look;
        c.state[0][g].slow_us = PART_US;
    }
    last_turn = in_one_turn = seen_early = starved = 0;
    atomic_store(&parts, 0);
    cluster_start_all(&c);
    for (unsigned g = 0; g < GROUPS_MAX_HERE; g++) {
        leader_of(&c, g);
    }
    atomic_store(&node, c.node[0]);
}

static uint64_t entries_of(unsigned g)
{
    return atomic_load(&c.node[0]->groups[g].applied);
}

static void one_part_a_turn(void **state)
{
    static struct call calls[GROUPS_MAX_HERE][RECORDS];
    static char texts[RECORDS][200];
    uint64_t before[GROUPS_MAX_HERE], entries = 0;
    (void)state;
    open_cluster();
    for (unsigned g = 0; g < c.groups; g++) {
        before[g] = entries_of(g);
    }
    for (unsigned i = 0; i < RECORDS; i++) { /* of one, two and three parts */
        memset(texts[i], 'a' + (int)i, sizeof texts[i]);
        for (unsigned g = 0; g < c.groups; g++) {
            assert_true(call_propose(&calls[g][i], c.node[0], g, texts[i], sizeof texts[i] - i, 20000));
        }
    }
    for (unsigned g = 0; g < c.groups; g++) {
        for (unsigned i = 0; i < RECORDS; i++) {
            must(call_end(&calls[g][i]), &calls[g][i]);
            assert_int_equal(calls[g][i].result_length, sizeof calls[g][i].result);
            assert_memory_equal(calls[g][i].result, texts[i], sizeof calls[g][i].result);
        }
        entries += entries_of(g) - before[g];
    }
    atomic_store(&node, NULL);
    must_converge(&c, 1);
    print_message("# %" PRIu64 " parts of %u records in %" PRIu64 " entries\n", atomic_load(&parts),
                  RECORDS * c.groups, entries);
    assert_true(atomic_load(&parts) >= RECORDS * c.groups);
    assert_int_equal(in_one_turn, 0);
    assert_int_equal(seen_early, 0);
    assert_int_equal(starved, 0);
    assert_int_equal(c.fatal[0], 0);
    cluster_free(&c);
}

/* Told to stop in the middle of an entry: all of it is there afterwards, once. */
static void stopped_in_the_middle(void **state)
{
    static struct call calls[RECORDS];
    static const char text[] = "a record of three parts..";
    struct call call;
    (void)state;
    assert_int_equal(strlen(text) % 3, 1);
    open_cluster();
    for (unsigned i = 0; i < RECORDS; i++) {
        assert_true(call_propose(&calls[i], c.node[0], 1, text, strlen(text), 20000));
    }
    while (atomic_load(&parts) < 5) { /* in the middle of the second record */
        usleep(100);
    }
    atomic_store(&node, NULL);
    cluster_stop(&c, 0, 0);
    unsigned done = 0;
    for (unsigned i = 0; i < RECORDS; i++) {
        done += call_end(&calls[i]) == DN_OK; /* the others may come yet */
    }
    assert_true(done < RECORDS);
    c.state[0][1].slow_us = 0;
    cluster_start_all(&c);
    must(wait_for(&c, leader_of(&c, 1), 1, DN_WAIT_BARRIER, 0, 20000, &call), &call);
    assert_in_range(c.state[0][1].count, done, RECORDS);
    must_converge(&c, 1);
    cluster_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_part_a_turn),
        cmocka_unit_test(stopped_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
