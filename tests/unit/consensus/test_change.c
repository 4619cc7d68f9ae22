/* Changes of leader at bad moments: what is under way then ends, once, and soon. */
#include "cluster.h"

#include "consensus/wire.h"

static void fill(struct cluster *c, unsigned node, unsigned count, size_t size)
{
    struct call call;
    char *record = malloc(size);
    for (unsigned i = 0; i < count; i++) {
        memset(record, 'a' + (int)(i % 26), size);
        assert_true(call_propose(&call, c->node[node], 0, record, size, 15000));
        must(call_end(&call), &call);
    }
    free(record);
}

/* ---- a snapshot takes the place of entries that wait to be applied ------------------------------------ */

/* A leader too slow to apply its own committed entries is deposed and falls so far behind that it is sent a
 * snapshot while they wait: their proposals must end, and it must be able to propose again. */
static void restored_over_own_entries(void **unused)
{
    enum { OWN = 40, RECORD = 5000 };
    struct cluster c;
    struct call *calls = calloc(OWN, sizeof *calls), call;
    struct dn_group_status status;
    char record[RECORD];
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.snapshot_log_bytes = 64 << 10;
    c.options.entry_max_bytes = 4 << 10; /* each record is an entry */
    c.options.inflight_max = OWN;
    cluster_start_all(&c);
    unsigned slow = leader_of(&c, 0), other = (slow + 1) % 3;
    must(propose(&c, slow, 0, "before", &call), &call);
    memset(record, 'x', sizeof record);
    c.state[slow][0].slow_us = 700000; /* two election timeouts */
    for (unsigned i = 0; i < OWN; i++) {
        assert_true(call_propose(&calls[i], c.node[slow], 0, record, sizeof record, 60000));
    }
    usleep(300000);
    fill(&c, other, 300, 4000); /* far beyond what is kept in the log */
    uint64_t until = dn_monotonic_us() + 2 * PATIENCE_US;
    do {
        usleep(10000);
        dn_consensus_status(c.node[slow], 0, &status);
    } while (status.applied_index < call.index + OWN + 20 && dn_monotonic_us() < until);
    assert_true(atomic_load(&c.state[slow][0].built) > 0);
    c.state[slow][0].slow_us = 0;
    uint64_t start = dn_monotonic_us();
    for (unsigned i = 0; i < OWN; i++) {
        must(call_end(&calls[i]), &calls[i]);
    }
    assert_true(dn_monotonic_us() - start < PATIENCE_US);
    for (unsigned i = 0; i < 3; i++) { /* the once slow node leads again, alone with `other` */
        if (i != slow && i != other) {
            cluster_stop(&c, i, 0);
        }
    }
    for (unsigned tries = 0; leader_of(&c, 0) != slow && tries < 20; tries++) {
        cluster_stop(&c, other, 1000);
        cluster_start(&c, other);
    }
    fill(&c, slow, 100, 100);
    cluster_free(&c);
    free(calls);
}

/* ---- a leader that takes long to stop ----------------------------------------------------------------- */

struct stopper {
    struct cluster *cluster;
    unsigned node;
};

static void *stop_node(void *arg)
{
    struct stopper *s = arg;
    dn_consensus_stop(s->cluster->node[s->node], 0);
    return NULL;
}

/* It waits for a snapshot that is being written; meanwhile it must not go on as a leader that does nothing.
 */
static void writes_go_on_while_a_leader_stops(void **unused)
{
    enum { WRITE_US = 4000000 };
    struct cluster c;
    struct call call;
    pthread_t thread;
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.snapshot_log_bytes = 64 << 10;
    cluster_start_all(&c);
    unsigned leader = leader_of(&c, 0), other = (leader + 1) % 3;
    c.state[leader][0].write_us = WRITE_US;
    while (atomic_load(&c.state[leader][0].writes) == 0) {
        fill(&c, leader, 5, 8000);
    }
    struct stopper stopper = {&c, leader};
    assert_int_equal(pthread_create(&thread, NULL, stop_node, &stopper), 0);
    uint64_t start = dn_monotonic_us(), longest = 0;
    while (dn_monotonic_us() - start < WRITE_US + 500000) {
        uint64_t from = dn_monotonic_us();
        must(propose(&c, other, 0, "while", &call), &call);
        uint64_t took = dn_monotonic_us() - from;
        longest = took > longest ? took : longest;
        usleep(5000);
    }
    pthread_join(thread, NULL);
    printf("# longest write while the leader stopped: %llu ms\n", (unsigned long long)(longest / 1000));
    assert_true(longest < WRITE_US / 2);
    cluster_free(&c);
}

/* ---- links that nobody closed ------------------------------------------------------------------------- */

static int dial(struct cluster *c, unsigned node)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_port = htons((uint16_t)atoi(strchr(c->addresses[node], ':') + 1));
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* What a node behind a flapping network leaves at its peers: links that look open there. It must find room
 * for a new one all the same. */
static void dead_links_leave_room(void **unused)
{
    enum { DEAD = 70 };
    struct cluster c;
    struct call call;
    int dead[DEAD];
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start_all(&c);
    unsigned leader = leader_of(&c, 0), other = (leader + 1) % 3;
    must(propose(&c, other, 0, "before", &call), &call);
    cluster_stop(&c, other, 0);
    for (unsigned i = 0; i < DEAD; i++) {
        dead[i] = dial(&c, leader);
        usleep(2000);
    }
    cluster_start(&c, other);
    for (unsigned i = 0; i < 20; i++) {
        usleep(50000);
        must(propose(&c, other, 0, "after", &call), &call);
    }
    assert_int_equal(leader_of(&c, 0), leader); /* it was forwarded, not solved by an election */
    for (unsigned i = 0; i < DEAD; i++) {
        close(dead[i]);
    }
    cluster_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(restored_over_own_entries),
        cmocka_unit_test(writes_go_on_while_a_leader_stops),
        cmocka_unit_test(dead_links_leave_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
