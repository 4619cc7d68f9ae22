/* Members come and go, by name and raft id, while writes go on; and nothing but the rules makes a cluster. */
#define NODES 6
#include "cluster.h"

#include <limits.h>

#define GROUPS 2

static void init(struct cluster *c, unsigned initial)
{
    cluster_init(c, NODES, GROUPS);
    c->options.member_count = initial;
    c->options.balance_ms = UINT_MAX;
}

static void start(struct cluster *c, unsigned count)
{
    init(c, count);
    for (unsigned i = 0; i < count; i++)
        cluster_start(c, i);
}

/* ---- asking ------------------------------------------------------------------------------------------- */

struct asked {
    struct dn_member_change change;
    _Atomic bool over;
    enum dn_code code;
    struct dn_error err;
};

static void answered(struct dn_member_change *change, enum dn_code code, const struct dn_error *err)
{
    struct asked *asked = change->data;
    asked->code = code;
    asked->err = *err;
    atomic_store(&asked->over, true);
}

static enum dn_code ask(struct cluster *c, unsigned at, enum dn_member_op op, uint64_t node_id, bool replica,
                        struct asked *asked)
{
    memset(asked, 0, sizeof *asked);
    asked->change = (struct dn_member_change){.op = op,
                                              .node_id = node_id,
                                              .replica = replica,
                                              .deadline_us = dn_monotonic_us() + PATIENCE_US,
                                              .done = answered,
                                              .data = asked};
    assert_true(dn_consensus_member_change(c->node[at], &asked->change));
    while (!atomic_load(&asked->over))
        usleep(200);
    return asked->code;
}

/* Asks until the node that is to be let in has made itself known to the leader. */
static void must_ask(struct cluster *c, unsigned at, enum dn_member_op op, uint64_t node_id, bool replica)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    struct asked asked;
    while (ask(c, at, op, node_id, replica, &asked) != DN_OK) {
        bool soon = asked.code == DN_NOT_FOUND || asked.code == DN_PRECONDITION;
        if (!soon || dn_monotonic_us() > until)
            fail_msg("op %d of node %u: %s: %s", (int)op, (unsigned)node_id, dn_code_text(asked.code),
                     asked.err.message);
        usleep(20000);
    }
}

/* The member of that name as `at` sees it; the newest, when it is being replaced. */
static bool find(struct cluster *c, unsigned at, uint64_t node_id, struct dn_member_info *ret,
                 struct dn_members *ret_all)
{
    bool found = false;
    dn_consensus_members(c->node[at], ret_all);
    for (size_t i = 0; i < ret_all->count; i++)
        if (ret_all->members[i].node_id == node_id) {
            *ret = ret_all->members[i];
            found = true;
        }
    return found;
}

static void until_role(struct cluster *c, unsigned at, uint64_t node_id, enum dn_member_role role,
                       unsigned groups, unsigned voting)
{
    uint64_t until = dn_monotonic_us() + 2 * PATIENCE_US;
    struct dn_member_info info = {0};
    struct dn_members all;
    while (!find(c, at, node_id, &info, &all) || info.role != role || info.groups != groups ||
           info.voting != voting) {
        if (dn_monotonic_us() > until)
            fail_msg("node %u: role %d in %u groups, voting in %u; waiting for: %s", (unsigned)node_id,
                     (int)info.role, info.groups, info.voting, all.waiting_for);
        usleep(5000);
    }
}

static void until_gone(struct cluster *c, unsigned at, uint64_t node_id)
{
    uint64_t until = dn_monotonic_us() + 2 * PATIENCE_US;
    struct dn_member_info info;
    struct dn_members all;
    while (find(c, at, node_id, &info, &all)) {
        assert_true(dn_monotonic_us() < until);
        usleep(5000);
    }
}

static void until_formed(struct cluster *c, unsigned at, bool formed)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    struct dn_members all;
    do {
        dn_consensus_members(c->node[at], &all);
        assert_true(dn_monotonic_us() < until);
        usleep(5000);
    } while (all.formed != formed);
}

static void until_waiting_for(struct cluster *c, unsigned at, const char *text)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    struct dn_members all;
    do {
        dn_consensus_members(c->node[at], &all);
        if (dn_monotonic_us() > until)
            fail_msg("waiting for '%s', not for '%s'", all.waiting_for, text);
        usleep(5000);
    } while (strstr(all.waiting_for, text) == NULL);
    assert_false(all.formed);
}

static void until_removed(struct cluster *c, unsigned node)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    while (atomic_load(&c->removed[node]) == 0) {
        assert_true(dn_monotonic_us() < until);
        usleep(5000);
    }
}

/* ---- writers that go on meanwhile ---------------------------------------------------------------------- */

struct writer {
    struct cluster *c;
    pthread_t thread;
    unsigned node;
    uint32_t group;
    _Atomic bool stop;
    uint64_t done;
    uint64_t longest_us;
};

static void *write_on(void *arg)
{
    struct writer *w = arg;
    while (!atomic_load(&w->stop)) {
        struct call call;
        char text[32];
        uint64_t start_us = dn_monotonic_us();
        snprintf(text, sizeof text, "%u.%u.%llu", w->node, w->group, (unsigned long long)w->done);
        enum dn_code code = propose(w->c, w->node, w->group, text, &call);
        if (code != DN_OK)
            fail_msg("write: %s: %s", dn_code_text(code), call.err.message);
        uint64_t took_us = dn_monotonic_us() - start_us;
        w->longest_us = took_us > w->longest_us ? took_us : w->longest_us;
        w->done++;
    }
    return NULL;
}

static void write_begin(struct writer *w, struct cluster *c, unsigned node)
{
    for (uint32_t g = 0; g < GROUPS; g++) {
        w[g] = (struct writer){.c = c, .node = node, .group = g};
        assert_int_equal(pthread_create(&w[g].thread, NULL, write_on, &w[g]), 0);
    }
}

static void write_end(struct writer *w)
{
    for (uint32_t g = 0; g < GROUPS; g++) {
        atomic_store(&w[g].stop, true);
        pthread_join(w[g].thread, NULL);
        assert_true(w[g].done > 0);
        print_message("# group %u: %llu writes, the longest took %llu ms\n", g, (unsigned long long)w[g].done,
                      (unsigned long long)w[g].longest_us / 1000);
    }
}

static void converge(struct cluster *c)
{
    for (uint32_t g = 0; g < GROUPS; g++)
        must_converge(c, g);
}

/* ---- the tests ----------------------------------------------------------------------------------------- */

static void grows_and_shrinks(void **state)
{
    struct cluster c;
    struct writer writers[GROUPS];
    (void)state;
    start(&c, 3);
    leader_of(&c, 0);
    write_begin(writers, &c, 2);
    for (unsigned i = 3; i < 5; i++) {
        cluster_start(&c, i);
        must_ask(&c, 2, DN_MEMBER_ADD, i + 1, false); /* at whatever node */
    }
    for (unsigned i = 0; i < 5; i++)
        until_role(&c, i, 5, DN_ROLE_VOTER, GROUPS, GROUPS);
    until_role(&c, 0, 4, DN_ROLE_VOTER, GROUPS, GROUPS);
    for (unsigned i = 0; i < 2; i++) { /* leaders among them */
        must_ask(&c, 2, DN_MEMBER_REMOVE, i + 1, false);
        until_gone(&c, 2, i + 1);
        until_removed(&c, i);
        cluster_stop(&c, i, 1000);
    }
    write_end(writers);
    for (unsigned i = 2; i < 5; i++)
        until_role(&c, i, 3, DN_ROLE_VOTER, GROUPS, GROUPS);
    converge(&c);
    struct dn_error err;
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_PRECONDITION); /* it knows that it is none of them */
    assert_non_null(strstr(err.message, "removed"));
    for (unsigned i = 0; i < NODES; i++)
        assert_int_equal(atomic_load(&c.fatal[i]), 0);
    cluster_free(&c);
}

static void two_become_one(void **state)
{
    struct cluster c;
    (void)state;
    start(&c, 2);
    leader_of(&c, 0);
    must_ask(&c, 0, DN_MEMBER_REMOVE, 2, false);
    until_gone(&c, 0, 2);
    until_removed(&c, 1);
    cluster_stop(&c, 1, 0);
    struct asked asked;
    assert_int_equal(ask(&c, 0, DN_MEMBER_REMOVE, 1, false, &asked), DN_PRECONDITION);
    converge(&c);
    cluster_free(&c);
}

static void a_lost_disk_is_replaced(void **state)
{
    struct cluster c;
    struct writer writers[GROUPS];
    struct dn_member_info before, after;
    struct dn_members all;
    struct asked asked;
    struct call call;
    char big[2000];
    (void)state;
    init(&c, 3);
    c.options.snapshot_log_bytes = 64 << 10;
    for (unsigned i = 0; i < 3; i++)
        cluster_start(&c, i);
    unsigned lost = leader_of(&c, 0), other = (lost + 1) % 3;
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    for (unsigned i = 0; i < 400; i++) /* the log alone does not have it all any more */
        must(propose(&c, other, 1, big, &call), &call);
    converge(&c);
    assert_true(find(&c, other, lost + 1, &before, &all));
    cluster_stop(&c, lost, 0);
    cluster_wipe(&c, lost);
    leader_of(&c, 0);
    write_begin(writers, &c, other);
    cluster_start(&c, lost);
    until_waiting_for(&c, lost, "member replace");
    must_ask(&c, other, DN_MEMBER_REPLACE, lost + 1, false);
    until_role(&c, other, lost + 1, DN_ROLE_VOTER, GROUPS, GROUPS);
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    do { /* the old one goes when the new one votes */
        assert_true(dn_monotonic_us() < until);
        usleep(5000);
        assert_true(find(&c, other, lost + 1, &after, &all));
    } while (all.count != 3);
    assert_true(after.raft_id != before.raft_id);
    assert_int_equal(after.replaces, before.raft_id);
    write_end(writers);
    converge(&c);
    assert_true(atomic_load(&c.state[lost][1].built) > 0); /* it came by a snapshot */
    assert_int_equal(ask(&c, other, DN_MEMBER_REPLACE, lost + 1, false, &asked), DN_PRECONDITION);
    for (unsigned i = 0; i < 3; i++) { /* and all of it outlives a restart */
        cluster_stop(&c, i, 1000);
        cluster_start(&c, i);
    }
    converge(&c);
    cluster_free(&c);
}

static void replicas_have_no_vote(void **state)
{
    struct cluster c;
    struct call call;
    (void)state;
    start(&c, 3);
    leader_of(&c, 0);
    cluster_start(&c, 3);
    must_ask(&c, 0, DN_MEMBER_ADD, 4, true);
    until_role(&c, 0, 4, DN_ROLE_REPLICA, GROUPS, 0);
    converge(&c);
    must(wait_for(&c, 3, 1, DN_WAIT_BARRIER, 0, 15000, &call), &call); /* it answers reads */
    uint64_t age = 0, until = dn_monotonic_us() + PATIENCE_US;
    while (!dn_consensus_age_us(c.node[3], 1, &age)) {
        assert_true(dn_monotonic_us() < until);
        usleep(5000);
    }
    /* Two of the three voters gone: what is left is no majority, however fresh the replica is. */
    unsigned leader = leader_of(&c, 1);
    for (unsigned i = 0; i < 3; i++)
        if (i != leader)
            cluster_stop(&c, i, 0);
    assert_true(call_propose(&call, c.node[3], 1, "x", 1, 1000));
    assert_int_equal(call_end(&call), DN_DEADLINE);
    for (unsigned i = 0; i < 3; i++)
        if (i != leader)
            cluster_start(&c, i);
    leader_of(&c, 0);
    must_ask(&c, 0, DN_MEMBER_PROMOTE, 4, false);
    until_role(&c, 0, 4, DN_ROLE_VOTER, GROUPS, GROUPS);
    converge(&c);
    cluster_free(&c);
}

static void only_all_of_them_form_a_cluster(void **state)
{
    struct cluster c;
    struct call call;
    (void)state;
    init(&c, 3);
    cluster_start(&c, 0);
    until_waiting_for(&c, 0, "not reachable");
    cluster_start(&c, 1);
    usleep(500000);
    until_waiting_for(&c, 0, "node 3");
    /* The third is configured otherwise. */
    c.options.member_count = 4;
    cluster_start(&c, 2);
    until_waiting_for(&c, 0, "other initial members");
    cluster_stop(&c, 2, 0);
    c.options.member_count = 3;
    cluster_start(&c, 2); /* the same raft id, the right list */
    for (unsigned i = 0; i < 3; i++)
        until_formed(&c, i, true);
    must(propose(&c, 0, 1, "first", &call), &call);
    converge(&c);
    cluster_free(&c);
}

static void lost_disks_form_no_new_cluster(void **state)
{
    struct cluster c;
    struct call call;
    (void)state;
    start(&c, 3);
    must(propose(&c, 0, 1, "kept", &call), &call);
    converge(&c);
    for (unsigned i = 0; i < 3; i++)
        cluster_stop(&c, i, 0);
    cluster_wipe(&c, 0); /* the one that would form it, and another: a majority of empty disks */
    cluster_wipe(&c, 1);
    for (unsigned i = 0; i < 3; i++)
        cluster_start(&c, i);
    until_waiting_for(&c, 0, "member replace 1");
    until_waiting_for(&c, 1, "member replace 2");
    assert_true(call_propose(&call, c.node[0], 1, "x", 1, 500));
    assert_int_equal(call_end(&call), DN_DEADLINE);
    assert_true(call_propose(&call, c.node[2], 1, "x", 1, 500));
    assert_int_equal(call_end(&call), DN_DEADLINE); /* no majority, and it does not pretend */
    struct dn_group_status status;
    dn_consensus_status(c.node[2], 1, &status);
    assert_true(status.commit_index > 0 || status.applied_index == 0);
    cluster_free(&c);
}

static void a_wiped_node_stays_out_while_others_go_on(void **state)
{
    struct cluster c;
    struct call call;
    struct asked asked;
    (void)state;
    start(&c, 3);
    must(propose(&c, 0, 1, "kept", &call), &call);
    for (unsigned i = 0; i < 3; i++)
        cluster_stop(&c, i, 0);
    cluster_wipe(&c, 0);
    for (unsigned i = 0; i < 3; i++)
        cluster_start(&c, i);
    must(propose(&c, 1, 1, "more", &call), &call);
    until_waiting_for(&c, 0, "member replace 1");
    assert_int_equal(ask(&c, 1, DN_MEMBER_ADD, 1, false, &asked), DN_EXISTS);
    assert_int_equal(ask(&c, 1, DN_MEMBER_ADD, 9, false, &asked), DN_NOT_FOUND);
    assert_int_equal(ask(&c, 1, DN_MEMBER_REPLACE, 9, false, &asked), DN_NOT_FOUND);
    assert_int_equal(ask(&c, 1, DN_MEMBER_PROMOTE, 9, false, &asked), DN_NOT_FOUND);
    assert_int_equal(ask(&c, 1, DN_MEMBER_REMOVE, 9, false, &asked), DN_NOT_FOUND);
    /* With one of three voters lost, taking away another leaves one of two: no majority. */
    assert_int_equal(ask(&c, 1, DN_MEMBER_REMOVE, 2, false, &asked), DN_PRECONDITION);
    assert_int_equal(ask(&c, 1, DN_MEMBER_REMOVE, 3, false, &asked), DN_PRECONDITION);
    /* The lost one may go. */
    must_ask(&c, 1, DN_MEMBER_REMOVE, 1, false);
    until_waiting_for(&c, 0, "member add 1");
    must_ask(&c, 1, DN_MEMBER_ADD, 1, false);
    until_role(&c, 0, 1, DN_ROLE_VOTER, GROUPS, GROUPS);
    converge(&c);
    cluster_free(&c);
}

static void one_begins_alone_when_told(void **state)
{
    struct cluster c;
    struct call call;
    struct dn_error err;
    (void)state;
    init(&c, 3);
    c.options.bootstrap_alone = true;
    cluster_start(&c, 0);
    must(propose(&c, 0, 1, "alone", &call), &call);
    cluster_stop(&c, 0, 0);
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_PRECONDITION); /* it is part of a cluster now */
    c.options.bootstrap_alone = false;
    for (unsigned i = 0; i < 3; i++)
        cluster_start(&c, i);
    for (unsigned i = 1; i < 3; i++) {
        until_waiting_for(&c, i, "member add");
        must_ask(&c, 0, DN_MEMBER_ADD, i + 1, false);
        until_role(&c, i, i + 1, DN_ROLE_VOTER, GROUPS, GROUPS);
    }
    converge(&c);
    cluster_free(&c);
}

/* Somebody believes the others lost and forms another cluster of the same id; one of its members knocks at
 * the first one's doors, with a newer list. Neither takes the other's word. */
static void another_cluster_of_the_same_id(void **state)
{
    struct cluster c;
    struct call call;
    struct dn_members all;
    struct dn_member keep[NODES];
    (void)state;
    start(&c, 3);
    must(propose(&c, 0, 1, "precious", &call), &call);
    converge(&c);
    memcpy(keep, c.members, sizeof keep);
    c.options.bootstrap_alone = true;
    c.options.member_count = 1;
    c.members[0] = keep[3];
    cluster_start(&c, 3);
    until_formed(&c, 3, true);
    c.options.bootstrap_alone = false;
    c.options.member_count = 4;
    memcpy(c.members, keep, sizeof keep);
    c.members[0] = keep[3]; /* it hears of the new one first */
    c.members[3] = keep[0];
    cluster_start(&c, 4);
    struct asked asked;
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    while (ask(&c, 3, DN_MEMBER_ADD, 5, false, &asked) != DN_OK && dn_monotonic_us() < until)
        usleep(50000);
    usleep(3000000); /* greetings, and steps that must not be taken */
    for (unsigned i = 0; i < 3; i++) {
        dn_consensus_members(c.node[i], &all);
        unsigned members = 0;
        for (size_t k = 0; k < all.count; k++)
            members += all.members[k].role == DN_ROLE_VOTER;
        assert_int_equal(members, 3);
        assert_int_equal(all.config_index, 1);
        assert_int_equal(atomic_load(&c.removed[i]), 0);
    }
    must(propose(&c, 0, 1, "more", &call), &call);
    cluster_stop(&c, 0, 0);
    cluster_start(&c, 0);
    cluster_stop(&c, 3, 0);
    cluster_stop(&c, 4, 0);
    converge(&c);
    cluster_free(&c);
}

static void stopped_while_it_forms(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        struct cluster c;
        struct dn_members all;
        init(&c, 3);
        for (unsigned i = 0; i < 3; i++)
            cluster_start(&c, i);
        uint64_t until = dn_monotonic_us() + PATIENCE_US;
        do {
            dn_consensus_members(c.node[0], &all);
            usleep(100);
        } while (strstr(all.waiting_for, "forms") == NULL && !all.formed && dn_monotonic_us() < until);
        usleep(round * 500);
        for (unsigned i = 3; i-- > 0;)
            cluster_stop(&c, i, 0);
        if (round % 5 == 0) {
            for (unsigned i = 0; i < 3; i++)
                cluster_start(&c, i);
            converge(&c);
        }
        cluster_free(&c);
    }
}

/* A cluster that grew from one node, whose disk is lost; its own configuration still lists only itself. */
static void grown_from_one(void **state)
{
    struct cluster c;
    struct call call;
    (void)state;
    init(&c, 1);
    cluster_start(&c, 0);
    cluster_start(&c, 1);
    cluster_start(&c, 2);
    for (unsigned i = 1; i < 3; i++) {
        must_ask(&c, 0, DN_MEMBER_ADD, i + 1, false);
        until_role(&c, 0, i + 1, DN_ROLE_VOTER, GROUPS, GROUPS);
    }
    must(propose(&c, 1, 1, "precious", &call), &call);
    converge(&c);
    cluster_stop(&c, 0, 1000);
    cluster_wipe(&c, 0);
    cluster_start(&c, 0);
    until_waiting_for(&c, 0, "a cluster grew from this node");
    usleep(2500000);
    until_waiting_for(&c, 0, "a cluster grew from this node");
    cluster_stop(&c, 0, 0);
    c.options.member_count = 3; /* as it says */
    cluster_start(&c, 0);
    must_ask(&c, 1, DN_MEMBER_REPLACE, 1, false);
    until_role(&c, 0, 1, DN_ROLE_VOTER, GROUPS, GROUPS);
    converge(&c);
    cluster_free(&c);
}

/* The leader of a group is taken out while the group is busy: the log stands still for a moment, or no
 * follower would ever have all of it. */
struct flood {
    struct cluster *c;
    pthread_t thread;
    unsigned node;
    _Atomic bool *stop;
    uint64_t done;
};

static void *flood_on(void *arg)
{
    enum { RING = 256 };
    struct flood *f = arg;
    struct call *ring = calloc(RING, sizeof *ring);
    bool used[RING] = {false};
    static const char record[400] = "y";
    for (unsigned k = 0; !atomic_load(f->stop); k = (k + 1) % RING) {
        if (used[k] && !atomic_load(&ring[k].over)) {
            usleep(500);
            continue;
        }
        f->done += used[k] && ring[k].code == DN_OK;
        used[k] = call_propose(&ring[k], f->c->node[f->node], 1, record, sizeof record, 20000);
    }
    for (unsigned k = 0; k < RING; k++)
        if (used[k])
            call_end(&ring[k]);
    free(ring);
    return NULL;
}

static void a_busy_leader_leaves(void **state)
{
    struct cluster c;
    struct flood floods[2];
    _Atomic bool stop = false;
    (void)state;
    start(&c, 3);
    unsigned leader = leader_of(&c, 1), other = (leader + 1) % 3;
    for (unsigned i = 0; i < 2; i++) {
        floods[i] = (struct flood){.c = &c, .node = (leader + 1 + i) % 3, .stop = &stop};
        assert_int_equal(pthread_create(&floods[i].thread, NULL, flood_on, &floods[i]), 0);
    }
    must_ask(&c, other, DN_MEMBER_REMOVE, leader + 1, false);
    until_gone(&c, other, leader + 1);
    until_removed(&c, leader);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(floods[i].thread, NULL);
        assert_true(floods[i].done > 0);
    }
    cluster_stop(&c, leader, 0);
    converge(&c);
    cluster_free(&c);
}

static void leaders_are_spread(void **state)
{
    struct cluster c;
    (void)state;
    init(&c, 2);
    c.options.balance_ms = 200;
    for (unsigned i = 0; i < 2; i++)
        cluster_start(&c, i);
    uint64_t until = dn_monotonic_us() + 2 * PATIENCE_US;
    while (leader_of(&c, 0) == leader_of(&c, 1)) {
        assert_true(dn_monotonic_us() < until);
        usleep(5000);
    }
    /* One that comes back gets its share again. */
    cluster_stop(&c, 0, 1000);
    cluster_start(&c, 0);
    while (leader_of(&c, 0) == leader_of(&c, 1)) {
        assert_true(dn_monotonic_us() < until);
        usleep(5000);
    }
    converge(&c);
    cluster_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_shrinks),
        cmocka_unit_test(two_become_one),
        cmocka_unit_test(a_lost_disk_is_replaced),
        cmocka_unit_test(replicas_have_no_vote),
        cmocka_unit_test(only_all_of_them_form_a_cluster),
        cmocka_unit_test(lost_disks_form_no_new_cluster),
        cmocka_unit_test(a_wiped_node_stays_out_while_others_go_on),
        cmocka_unit_test(one_begins_alone_when_told),
        cmocka_unit_test(leaders_are_spread),
        cmocka_unit_test(another_cluster_of_the_same_id),
        cmocka_unit_test(stopped_while_it_forms),
        cmocka_unit_test(grown_from_one),
        cmocka_unit_test(a_busy_leader_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
