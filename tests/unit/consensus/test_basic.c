/* Three nodes in one process: proposing from everywhere, waits, ages, leadership, restarts. */
#include "cluster.h"
#include "consensus/entry.h"

static void proposals_from_all_nodes_are_applied(void **unused)
{
    struct cluster c;
    struct call call;
    uint64_t last = 0;
    (void)unused;
    cluster_init(&c, 3, 2);
    cluster_start_all(&c);
    for (unsigned i = 0; i < 60; i++) {
        char text[32];
        snprintf(text, sizeof text, "record-%u", i);
        must(propose(&c, i % 3, i % 2, text, &call), &call);
        assert_true(call.index > 0);
        assert_int_equal(call.result_length, strlen(text));
        assert_memory_equal(call.result, text, strlen(text));
        /* done means applied here */
        assert_true(dn_consensus_applied(c.node[i % 3], i % 2) >= call.index);
        last = call.index;
    }
    assert_true(last > 0);
    must_converge(&c, 0);
    must_converge(&c, 1);
    for (unsigned i = 0; i < 3; i++) {
        cluster_stop(&c, i, 0);
    }
    for (unsigned i = 1; i < 3; i++) { /* byte for byte, index for index */
        for (unsigned g = 0; g < 2; g++) {
            assert_int_equal(c.state[i][g].bytes.length, c.state[0][g].bytes.length);
            assert_memory_equal(c.state[i][g].bytes.bytes, c.state[0][g].bytes.bytes,
                                c.state[0][g].bytes.length);
        }
    }
    assert_true(atomic_load(&c.leader_calls) >= 2);
    assert_true(atomic_load(&c.applied_calls) > 0);
    cluster_free(&c);
}

/* ---- many threads ----------------------------------------------------------------------------------- */

#define THREADS 6
#define PER_THREAD 300
#define WINDOW 32

struct proposer {
    struct cluster *cluster;
    unsigned node, id;
    unsigned failed;
};

static void *propose_many(void *arg)
{
    struct proposer *p = arg;
    struct call *calls = calloc(WINDOW, sizeof *calls);
    char(*texts)[32] = calloc(WINDOW, sizeof *texts);
    for (unsigned i = 0; i < PER_THREAD + WINDOW; i++) {
        struct call *call = &calls[i % WINDOW];
        if (i >= WINDOW && call_end(call) != DN_OK) {
            p->failed++;
        }
        if (i < PER_THREAD) {
            snprintf(texts[i % WINDOW], sizeof *texts, "t%u-%u", p->id, i);
            while (!call_propose(call, p->cluster->node[p->node], 0, texts[i % WINDOW],
                                 strlen(texts[i % WINDOW]), 15000)) {
                usleep(100);
            }
        } else if (i + 1 == PER_THREAD + WINDOW) {
            break;
        }
    }
    free(calls);
    free(texts);
    return NULL;
}

/* Counts how often each record occurs in a node's state. */
static void count_records(const struct log_state *s, unsigned counts[THREADS][PER_THREAD])
{
    struct dn_reader reader;
    dn_reader_init(&reader, s->bytes.bytes, s->bytes.length);
    while (dn_reader_left(&reader) > 0) {
        size_t length;
        unsigned t, n;
        char text[32] = "";
        dn_reader_u64(&reader);
        dn_reader_u32(&reader);
        const uint8_t *bytes = dn_reader_blob(&reader, 31, &length);
        assert_false(reader.failed);
        memcpy(text, bytes, length);
        if (sscanf(text, "t%u-%u", &t, &n) == 2) {
            counts[t][n]++;
        }
    }
}

static void threads_propose_on_all_nodes(void **unused)
{
    struct cluster c;
    struct proposer proposers[THREADS];
    pthread_t threads[THREADS];
    static unsigned counts[THREADS][PER_THREAD];
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start_all(&c);
    leader_of(&c, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        proposers[i] = (struct proposer){&c, i % 3, i, 0};
        pthread_create(&threads[i], NULL, propose_many, &proposers[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(proposers[i].failed, 0);
    }
    must_converge(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        cluster_stop(&c, i, 0);
    }
    count_records(&c.state[1][0], counts);
    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned n = 0; n < PER_THREAD; n++) {
            assert_true(counts[t][n] >= 1); /* more than once only after a change of leader */
        }
    }
    assert_true(c.state[1][0].entries < c.state[1][0].count); /* records were packed */
    cluster_free(&c);
}

/* ---- waits ------------------------------------------------------------------------------------------ */

static void waits_hold_what_they_promise(void **unused)
{
    struct cluster c;
    struct call call, wait;
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start_all(&c);
    for (unsigned round = 0; round < 30; round++) {
        unsigned writer = round % 3, reader = (round + 1) % 3;
        must(propose(&c, writer, 0, "x", &call), &call);
        must(wait_for(&c, reader, 0, DN_WAIT_APPLIED, call.index, 10000, &wait), &wait);
        assert_true(dn_consensus_applied(c.node[reader], 0) >= call.index);
        must(propose(&c, writer, 0, "y", &call), &call);
        must(wait_for(&c, reader, 0, DN_WAIT_BARRIER, 0, 10000, &wait), &wait);
        assert_true(wait.index >= call.index);
    }
    for (unsigned i = 0; i < 3; i++) { /* an index nobody committed, at the leader and at followers */
        assert_int_equal(wait_for(&c, i, 0, DN_WAIT_APPLIED, call.index + 100000, 10000, &wait), DN_RANGE);
    }
    cluster_free(&c);
}

static void followers_see_commits_at_once(void **unused)
{
    struct cluster c;
    struct call call;
    uint64_t delays[200], worst = 0;
    unsigned count = 0, slow = 0;
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.heartbeat_ms = 300; /* a heartbeat must not be what tells them */
    c.options.election_timeout_ms = 3000;
    c.options.tick_ms = 10000;
    cluster_start_all(&c);
    unsigned leader = leader_of(&c, 0), follower = (leader + 1) % 3;
    must(propose(&c, leader, 0, "warm", &call), &call);
    for (unsigned i = 0; i < 100; i++) {
        must(propose(&c, leader, 0, "x", &call), &call);
        uint64_t start = dn_monotonic_us();
        while (dn_consensus_applied(c.node[follower], 0) < call.index &&
               dn_monotonic_us() - start < PATIENCE_US) {
            usleep(20);
        }
        delays[count] = dn_monotonic_us() - start;
        worst = delays[count] > worst ? delays[count] : worst;
        slow += delays[count] > 100000;
        count++;
    }
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        sum += delays[i];
    }
    printf("# follower sees a commit after the leader's client: mean %llu us, worst %llu us\n",
           (unsigned long long)(sum / count), (unsigned long long)worst);
    assert_true(slow < count / 2); /* without notices all of them take a heartbeat */
    cluster_free(&c);
}

static void ages_become_known_and_stay_small(void **unused)
{
    struct cluster c;
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    bool all = false;
    (void)unused;
    cluster_init(&c, 3, 2);
    c.options.tick_ms = 100;
    cluster_start_all(&c);
    while (!all && dn_monotonic_us() < until) { /* idle: nothing is proposed at all */
        all = true;
        for (unsigned i = 0; i < 3; i++) {
            for (unsigned g = 0; g < 2; g++) {
                uint64_t age;
                all &= dn_consensus_age_us(c.node[i], g, &age) && age < 1500000;
            }
        }
        usleep(1000);
    }
    assert_true(all);
    /* Alone, a node does not pretend to be fresh. */
    unsigned last = leader_of(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        if (i != last) {
            cluster_stop(&c, i, 0);
        }
    }
    uint64_t first, later;
    assert_true(dn_consensus_age_us(c.node[last], 0, &first));
    usleep(600000);
    assert_true(dn_consensus_age_us(c.node[last], 0, &later));
    assert_true(later >= first + 500000 || later >= 500000);
    cluster_free(&c);
}

/* ---- leadership and limits -------------------------------------------------------------------------- */

static void leader_leaves_others_go_on(void **unused)
{
    struct cluster c;
    struct call call, unheard;
    (void)unused;
    cluster_init(&c, 3, 2);
    cluster_start_all(&c);
    must(propose(&c, 0, 0, "before", &call), &call);
    for (unsigned round = 0; round < 3; round++) {
        unsigned leader = leader_of(&c, 0);
        uint64_t start = dn_monotonic_us();
        assert_true(call_propose(&unheard, c.node[leader], 0, "racing", 6, 15000));
        cluster_stop(&c, leader, 2000);
        enum dn_code code = call_end(&unheard); /* it ended, either way */
        assert_true(code == DN_OK || code == DN_UNAVAILABLE);
        unsigned other = (leader + 1) % 3;
        must(propose(&c, other, 0, "after", &call), &call);
        printf("# planned move of leadership, first write after it: %llu ms\n",
               (unsigned long long)((dn_monotonic_us() - start) / 1000));
        cluster_start(&c, leader);
        must_converge(&c, 0);
        must_converge(&c, 1);
    }
    cluster_free(&c);
}

static void no_majority_means_deadline(void **unused)
{
    struct cluster c;
    struct call call;
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start_all(&c);
    unsigned leader = leader_of(&c, 0);
    cluster_stop(&c, (leader + 1) % 3, 0);
    cluster_stop(&c, (leader + 2) % 3, 0);
    assert_true(call_propose(&call, c.node[leader], 0, "alone", 5, 700));
    assert_int_equal(call_end(&call), DN_DEADLINE);
    assert_int_equal(wait_for(&c, leader, 0, DN_WAIT_BARRIER, 0, 700, &call), DN_DEADLINE);
    assert_true(strlen(call.err.message) > 0);
    /* What still waits when the node stops is told so. */
    assert_true(call_propose(&call, c.node[leader], 0, "waiting", 7, 60000));
    cluster_stop(&c, leader, 100);
    assert_int_equal(call_end(&call), DN_UNAVAILABLE);
    cluster_free(&c);
}

static void large_records_and_limits(void **unused)
{
    struct cluster c;
    struct call call;
    size_t length = DN_RECORD_MAX;
    char *record = malloc(length + 1);
    (void)unused;
    memset(record, 'r', length + 1);
    cluster_init(&c, 3, 1);
    cluster_start_all(&c);
    unsigned leader = leader_of(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(call_propose(&call, c.node[(leader + i) % 3], 0, record, length, 15000));
        must(call_end(&call), &call);
    }
    assert_true(call_propose(&call, c.node[leader], 0, record, length + 1, 15000));
    assert_int_equal(call_end(&call), DN_INVALID);
    assert_true(call_propose(&call, c.node[leader], 0, record, 0, 15000));
    assert_int_equal(call_end(&call), DN_INVALID);
    must_converge(&c, 0);
    cluster_free(&c);
    free(record);
}

static void nearly_full_disk_refuses_writes_only(void **unused)
{
    struct cluster c;
    struct call call;
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    (void)unused;
    cluster_init(&c, 1, 1);
    c.options.min_free_bytes = UINT64_MAX / 4; /* no disk has that */
    cluster_start_all(&c);
    leader_of(&c, 0);
    do {
        struct dn_group_status status;
        dn_consensus_status(c.node[0], 0, &status);
        if (status.no_space) {
            break;
        }
        usleep(1000);
    } while (dn_monotonic_us() < until);
    assert_int_equal(propose(&c, 0, 0, "x", &call), DN_NO_SPACE);
    must(wait_for(&c, 0, 0, DN_WAIT_BARRIER, 0, 10000, &call), &call); /* reads go on */
    cluster_free(&c);
}

static void a_node_in_the_minority_stops(void **unused)
{
    struct cluster c;
    struct call call;
    uint64_t until = dn_monotonic_us() + 4 * PATIENCE_US;
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.tick_ms = 40;
    cluster_start_all(&c);
    must(propose(&c, 0, 0, "x", &call), &call);
    unsigned sick = (leader_of(&c, 0) + 1) % 3;
    cluster_stop(&c, sick, 0);
    cluster_start(&c, sick);
    must_converge(&c, 0);
    cluster_stop(&c, sick, 0);
    c.sick_from[sick] = true; /* its state machine miscounts in its next life */
    cluster_start(&c, sick);
    while (atomic_load(&c.fatal[sick]) == 0 && dn_monotonic_us() < until) {
        usleep(2000);
    }
    assert_true(atomic_load(&c.fatal[sick]) == 1);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(i == sick || atomic_load(&c.fatal[i]) == 0);
    }
    cluster_free(&c);
}

/* More than may wait: refused with a code, and nothing is forgotten. */
static void a_flood_is_refused_in_time(void **unused)
{
    enum { FLOOD = 50000 };
    struct cluster c;
    struct call *calls = calloc(FLOOD, sizeof *calls);
    unsigned exhausted = 0, late = 0, refused = 0;
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start(&c, 0); /* alone: no leader */
    for (unsigned i = 0; i < FLOOD; i++) {
        if (!call_propose(&calls[i], c.node[0], 0, "flood", 5, 3000)) {
            refused++;
            calls[i].code = DN_CANCELLED;
            atomic_store(&calls[i].over, true);
            usleep(100);
        }
    }
    for (unsigned i = 0; i < FLOOD; i++) {
        enum dn_code code = call_end(&calls[i]);
        exhausted += code == DN_EXHAUSTED;
        late += code == DN_DEADLINE;
        assert_true(code == DN_EXHAUSTED || code == DN_DEADLINE || code == DN_CANCELLED);
    }
    printf("# %u refused at the door, %u exhausted, %u past their deadline\n", refused, exhausted, late);
    assert_true(exhausted > 0 && late > 0);
    cluster_free(&c);
    free(calls);
}

/* ---- feature levels --------------------------------------------------------------------------------- */

static void await_level(struct cluster *c, unsigned node, uint8_t level)
{
    uint64_t end_us = dn_monotonic_us() + 30000000;
    while (dn_consensus_level(c->node[node]) != level) {
        if (dn_monotonic_us() > end_us) {
            fail_msg("level is %u, not %u", dn_consensus_level(c->node[node]), level);
        }
        usleep(1000);
    }
}

/* The feature level of the entry in the (stopped) node's journal whose only record begins with this text. */
static uint8_t level_of_entry(const struct cluster *c, unsigned node, const char *text)
{
    enum { HEAD = ENTRY_HEADER_BYTES + 4, SEGMENT = 256 << 10 };
    static uint8_t bytes[SEGMENT];
    const uint8_t *at = NULL;
    for (unsigned segment = 1; segment < 9 && at == NULL; segment++) { /* each life begins one */
        char path[128];
        snprintf(path, sizeof path, "%s/%u/journal/%016x.seg", c->dir, node, segment);
        FILE *file = fopen(path, "re");
        size_t length = file != NULL ? fread(bytes, 1, sizeof bytes, file) : 0;
        if (file != NULL) {
            fclose(file);
        }
        at = memmem(bytes, length, text, strlen(text));
    }
    if (at == NULL || at - bytes < HEAD || (at - HEAD)[0] != ENTRY_VERSION) {
        fail_msg("node %u: no entry with '%s'", node, text);
        return 0;
    }
    return (at - HEAD)[1];
}

static void levels_are_of_the_least_member(void **unused)
{
    struct cluster c;
    struct call call;
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.tick_ms = 10000; /* no tick in an entry */
    c.levels[1] = 1;           /* an older build */
    cluster_start_all(&c);
    must(propose(&c, 0, 0, "first", &call), &call);
    await_level(&c, 0, 1);
    await_level(&c, 2, 1);
    cluster_stop(&c, 1, 0);
    await_level(&c, 0, 0); /* who is away may come back as anything */
    c.levels[1] = 0;
    cluster_start(&c, 1);
    for (unsigned i = 0; i < 3; i++) {
        await_level(&c, i, DN_LEVEL);
    }
    must(propose(&c, 0, 0, NEWER_RECORD, &call), &call);
    must(propose(&c, 0, 0, "older", &call), &call);
    must_converge(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        cluster_stop(&c, i, 0);
        assert_int_equal(level_of_entry(&c, i, "first"), 1);
        assert_int_equal(level_of_entry(&c, i, NEWER_RECORD), DN_LEVEL);
        assert_int_equal(level_of_entry(&c, i, "older"), 1);
    }
    cluster_free(&c);
}

static void names_are_resolved(void **unused)
{
    struct cluster c;
    struct call call;
    (void)unused;
    cluster_init(&c, 3, 1);
    for (unsigned i = 0; i < 3; i++) {
        unsigned port = (unsigned)atoi(strchr(c.addresses[i], ':') + 1);
        snprintf(c.addresses[i], sizeof c.addresses[i], "localhost:%u", port);
    }
    cluster_start_all(&c);
    for (unsigned i = 0; i < 9; i++) {
        must(propose(&c, i % 3, 0, "x", &call), &call);
    }
    must_converge(&c, 0);
    cluster_free(&c);
}

static void one_node_is_a_cluster(void **unused)
{
    struct cluster c;
    struct call call;
    (void)unused;
    cluster_init(&c, 1, 2);
    cluster_start_all(&c);
    for (unsigned i = 0; i < 50; i++) {
        must(propose(&c, 0, i % 2, "x", &call), &call);
    }
    must(wait_for(&c, 0, 1, DN_WAIT_BARRIER, 0, 10000, &call), &call);
    cluster_stop(&c, 0, 1000);
    cluster_start(&c, 0);
    must(wait_for(&c, 0, 1, DN_WAIT_BARRIER, 0, 10000, &call), &call);
    cluster_stop(&c, 0, 0);
    assert_int_equal(c.state[0][0].count, 25);
    assert_int_equal(c.state[0][1].count, 25);
    cluster_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(proposals_from_all_nodes_are_applied),
        cmocka_unit_test(threads_propose_on_all_nodes),
        cmocka_unit_test(waits_hold_what_they_promise),
        cmocka_unit_test(followers_see_commits_at_once),
        cmocka_unit_test(ages_become_known_and_stay_small),
        cmocka_unit_test(leader_leaves_others_go_on),
        cmocka_unit_test(no_majority_means_deadline),
        cmocka_unit_test(large_records_and_limits),
        cmocka_unit_test(nearly_full_disk_refuses_writes_only),
        cmocka_unit_test(a_node_in_the_minority_stops),
        cmocka_unit_test(a_flood_is_refused_in_time),
        cmocka_unit_test(levels_are_of_the_least_member),
        cmocka_unit_test(names_are_resolved),
        cmocka_unit_test(one_node_is_a_cluster),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
