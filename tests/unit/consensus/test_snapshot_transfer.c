/* Snapshots between nodes: chunks fetched, cut off, taken up again, damaged, served to two at once. */
#define NODES 5
#define GROUPS_MAX_HERE 4
#include "cluster.h"

#include "consensus/snapshot_store.h"

#include <fcntl.h>

#define RECORD_BYTES 65536
#define RECORDS 150
#define SLOW_RATE (1u << 20) /* a chunk a second */

static void fill(struct cluster *c, unsigned node, unsigned count, size_t size)
{
    struct call call;
    char *record = malloc(size);
    for (unsigned i = 0; i < count; i++) {
        memset(record, 'a' + (int)(i % 26), size);
        assert_true(call_propose(&call, c->node[node], 0, record, size, 30000));
        must(call_end(&call), &call);
    }
    free(record);
}

#define SENT_MAX 8 /* SNAP_PINS */

static uint64_t metric(struct dn_metrics *metrics, const char *name)
{
    struct dn_buffer page;
    char line[96];
    dn_buffer_init(&page, 1 << 20);
    dn_metrics_render(metrics, &page);
    dn_buffer_u8(&page, 0);
    snprintf(line, sizeof line, "\n%.80s ", name);
    const char *at = strstr((const char *)page.bytes, line);
    uint64_t value = at == NULL ? 0 : strtoull(at + strlen(line), NULL, 10);
    dn_buffer_free(&page);
    return value;
}

static uint64_t fetched(struct cluster *c)
{
    return metric(c->options.metrics, "dunlin_snapshot_chunks_fetched_total");
}

static void await_fetched(struct cluster *c, uint64_t count)
{
    uint64_t until = dn_monotonic_us() + 2 * PATIENCE_US;
    while (fetched(c) < count) {
        assert_true(dn_monotonic_us() < until);
        usleep(5000);
    }
}

static struct snap_name newest(struct cluster *c, unsigned node, size_t *ret_count)
{
    struct snapstore store;
    struct snap_name names[8] = {0};
    struct dn_error err;
    char dir[96];
    snprintf(dir, sizeof dir, "%s/%u", c->dir, node);
    if (snapstore_open(&store, dir, 0, &err) != DN_OK ||
        snapstore_list(&store, names, 8, ret_count, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
    return names[0];
}

static void newest_path(struct cluster *c, unsigned node, char path[PATH_MAX])
{
    struct snapstore store;
    struct dn_error err;
    size_t count = 0;
    char dir[96];
    struct snap_name name = newest(c, node, &count);
    assert_true(count > 0);
    snprintf(dir, sizeof dir, "%s/%u", c->dir, node);
    assert_int_equal(snapstore_open(&store, dir, 0, &err), DN_OK);
    snapstore_path(&store, &name, path);
}

static void flip_byte(const char *path, off_t offset)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    close(fd);
}

/* A cluster whose nodes in `away` (a bit each) are so far behind that only a snapshot of about 9 MiB helps.
 */
static unsigned lagging(struct cluster *c, unsigned nodes, unsigned away_count, unsigned away[2])
{
    cluster_init(c, nodes, 1);
    c->options.metrics = dn_metrics_create();
    c->options.snapshot_log_bytes = 1 << 20;
    c->options.entry_max_bytes = RECORD_BYTES;
    c->options.install_timeout_ms = 3600 * 1000; /* what waits for that does not end */
    cluster_start_all(c);
    unsigned leader = leader_of(c, 0);
    fill(c, leader, 2, 100);
    for (unsigned i = 0; i < away_count; i++) {
        away[i] = (leader + 1 + i) % nodes;
        cluster_stop(c, away[i], 0);
    }
    fill(c, leader, RECORDS, RECORD_BYTES);
    leader = leader_of(c, 0);
    struct dn_group_status status;
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    do { /* the last snapshot is stored, and the log before it dropped */
        usleep(10000);
        dn_consensus_status(c->node[leader], 0, &status);
        assert_true(dn_monotonic_us() < until);
    } while (status.first_index < 20 || status.log_bytes >= 1 << 20);
    return leader;
}

static void done(struct cluster *c)
{
    for (unsigned i = 0; i < c->nodes; i++) {
        assert_int_equal(atomic_load(&c->fatal[i]), 0);
    }
    struct dn_metrics *metrics = c->options.metrics;
    cluster_free(c);
    dn_metrics_destroy(metrics);
}

static void a_restart_goes_on_where_it_was(void **unused)
{
    struct cluster c;
    unsigned away[2];
    size_t count;
    (void)unused;
    unsigned leader = lagging(&c, 3, 1, away);
    struct snap_name name = newest(&c, leader, &count);
    c.options.snapshot_rate_bytes = SLOW_RATE;
    cluster_start(&c, away[0]);
    await_fetched(&c, 2);
    assert_int_equal(atomic_load(&c.state[away[0]][0].built), 0);
    cluster_stop(&c, away[0], 0);
    uint64_t before = fetched(&c);
    assert_true(before >= 2);
    c.options.snapshot_rate_bytes = 0;
    cluster_start(&c, away[0]);
    must_converge(&c, 0);
    assert_true(atomic_load(&c.state[away[0]][0].built) >= 1);
    struct snap_name after = newest(&c, leader_of(&c, 0), &count);
    if (snap_name_equal(&name, &after)) { /* no newer one was taken meanwhile: each chunk once */
        char path[PATH_MAX];
        struct stat st;
        newest_path(&c, leader, path);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(fetched(&c), (st.st_size + SNAP_CHUNK_BYTES - 1) / SNAP_CHUNK_BYTES);
    } else {
        printf("# another snapshot was taken meanwhile: chunks not counted\n");
    }
    must_converge(&c, 0);
    done(&c);
}

/* The leader waits for an answer about a snapshot that the follower's next life knows nothing of, and has a
 * newer one by then: it must hear the refusals of that, for the third node is down and nothing is committed
 * meanwhile. */
static void a_restart_while_the_leader_took_a_newer_one(void **unused)
{
    struct cluster c;
    unsigned away[2];
    struct dn_group_status before, status;
    struct call call;
    uint64_t until = dn_monotonic_us() + 3 * PATIENCE_US;
    (void)unused;
    unsigned leader = lagging(&c, 3, 1, away);
    unsigned third = 3 - leader - away[0];
    dn_consensus_status(c.node[leader], 0, &before);
    c.options.snapshot_rate_bytes = SLOW_RATE;
    cluster_start(&c, away[0]);
    await_fetched(&c, 1);
    do {
        fill(&c, leader, 10, RECORD_BYTES);
        dn_consensus_status(c.node[leader], 0, &status);
        assert_true(dn_monotonic_us() < until);
    } while (status.snapshot_index == before.snapshot_index || status.first_index == before.first_index);
    assert_int_equal(atomic_load(&c.state[away[0]][0].built), 0);
    cluster_stop(&c, away[0], 0);
    c.options.snapshot_rate_bytes = 0;
    cluster_start(&c, away[0]);
    /* Only now, or the leader loses its majority, and forgets what it waits for. */
    cluster_stop(&c, third, 0);
    assert_true(call_propose(&call, c.node[leader], 0, "after", 5, 40000));
    if (call_end(&call) != DN_OK) {
        cluster_tell(&c, 0);
    }
    must(call.code, &call);
    assert_true(atomic_load(&c.state[away[0]][0].built) >= 1);
    cluster_start(&c, third);
    must_converge(&c, 0);
    done(&c);
}

static void the_sender_dies_midway(void **unused)
{
    struct cluster c;
    unsigned away[2];
    struct dn_group_status before, status;
    (void)unused;
    unsigned leader = lagging(&c, 3, 1, away);
    c.options.snapshot_rate_bytes = SLOW_RATE;
    cluster_start(&c, away[0]);
    await_fetched(&c, 2);
    assert_int_equal(atomic_load(&c.state[away[0]][0].built), 0);
    dn_consensus_status(c.node[away[0]], 0, &before);
    cluster_stop(&c, leader, 0);
    must_converge(&c, 0); /* the third node leads and sends its own */
    /* For seven seconds it needs one that only fetches to have a majority: without an answer to what it sends
     * meanwhile it would step down every 300 ms. */
    dn_consensus_status(c.node[away[0]], 0, &status);
    assert_in_range(status.term, before.term + 1, before.term + 4);
    assert_true(atomic_load(&c.state[away[0]][0].built) >= 1);
    cluster_start(&c, leader);
    must_converge(&c, 0);
    done(&c);
}

static void two_at_once(void **unused)
{
    struct cluster c;
    unsigned away[2];
    (void)unused;
    lagging(&c, 5, 2, away);
    c.options.snapshot_rate_bytes = SLOW_RATE * 4;
    cluster_start(&c, away[0]);
    cluster_start(&c, away[1]);
    await_fetched(&c, 3);
    must_converge(&c, 0);
    assert_true(atomic_load(&c.state[away[0]][0].built) >= 1);
    assert_true(atomic_load(&c.state[away[1]][0].built) >= 1);
    assert_true(fetched(&c) >= 16); /* nine or ten chunks each */
    done(&c);
}

/* The sender's file went bad on its disk: no node takes it for good, and the sender makes another. */
static void a_damaged_chunk_at_the_sender(void **unused)
{
    struct cluster c;
    unsigned away[2];
    char path[PATH_MAX];
    size_t count;
    (void)unused;
    unsigned leader = lagging(&c, 3, 1, away);
    newest_path(&c, leader, path);
    struct snap_name bad = newest(&c, leader, &count);
    flip_byte(path, 3 * SNAP_CHUNK_BYTES + 100);
    cluster_start(&c, away[0]);
    must_converge(&c, 0);
    assert_true(atomic_load(&c.state[away[0]][0].built) >= 1);
    assert_true(metric(c.options.metrics, "dunlin_snapshot_chunks_refused_total") >= 1);
    if (leader == leader_of(&c, 0)) {
        assert_true(newest(&c, leader, &count).index > bad.index);
    }
    done(&c);
}

static void a_damaged_snapshot_of_our_own(void **unused)
{
    struct cluster c;
    struct dn_error err = {0};
    char path[PATH_MAX], moved[PATH_MAX];
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    size_t count = 0;
    (void)unused;
    cluster_init(&c, 1, 1);
    c.options.snapshot_log_bytes = 32 << 10;
    cluster_start_all(&c);
    leader_of(&c, 0);
    while (newest(&c, 0, &count).index == 0 || count == 0) {
        fill(&c, 0, 10, 3000);
        assert_true(dn_monotonic_us() < until);
    }
    struct dn_group_status status;
    do {
        usleep(5000);
        dn_consensus_status(c.node[0], 0, &status);
        assert_true(dn_monotonic_us() < until);
    } while (status.snapshot_index < newest(&c, 0, &count).index);
    cluster_stop(&c, 0, 0);
    newest_path(&c, 0, path);
    flip_byte(path, 1000);
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_CORRUPT);
    printf("# %s\n", err.message);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, "chunk 0 "));
    assert_non_null(strstr(err.message, "checksum"));
    flip_byte(path, 1000);
    snprintf(moved, sizeof moved, "%.500s.away", path);
    assert_int_equal(rename(path, moved), 0);
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_CORRUPT);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, "missing"));
    assert_int_equal(rename(moved, path), 0);
    cluster_start(&c, 0); /* whole again */
    must_converge(&c, 0);
    assert_int_equal(atomic_load(&c.fatal[0]), 0);
    cluster_free(&c);
}

/* Own snapshots and incoming ones at the same time, over and over; and old files do not pile up. */
static void own_snapshots_while_one_is_fetched(void **unused)
{
    struct cluster c;
    unsigned away[2];
    size_t count = 0;
    uint64_t until = dn_monotonic_us() + 2 * PATIENCE_US;
    (void)unused;
    unsigned leader = lagging(&c, 3, 1, away);
    c.state[away[0]][0].write_us = 300000;
    c.options.snapshot_log_bytes = 1; /* it begins its own with the first entry */
    c.options.snapshot_rate_bytes = SLOW_RATE * 4;
    cluster_start(&c, away[0]);
    while (atomic_load(&c.state[away[0]][0].built) == 0) {
        fill(&c, leader, 5, 1000);
        assert_true(dn_monotonic_us() < until);
    }
    must_converge(&c, 0);
    for (unsigned round = 0; round < 5; round++) {
        fill(&c, leader, 20, RECORD_BYTES);
    }
    must_converge(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        until = dn_monotonic_us() + PATIENCE_US;
        do { /* the one in force, the one before, and those that were sent in the last minute */
            (void)newest(&c, i, &count);
            usleep(20000);
            assert_true(dn_monotonic_us() < until);
        } while (count > 2 + SENT_MAX);
    }
    done(&c);
}

static unsigned led_by(struct cluster *c, unsigned groups, unsigned node)
{
    unsigned count = 0;
    for (unsigned g = 0; g < groups; g++) {
        count += leader_of(c, g) == node;
    }
    return count;
}

static void await_led(struct cluster *c, unsigned groups, unsigned node, unsigned count)
{
    uint64_t until = dn_monotonic_us() + 3 * PATIENCE_US;
    while (led_by(c, groups, node) != count) {
        assert_true(dn_monotonic_us() < until);
        usleep(10000);
    }
}

static uint64_t pauses_of(struct cluster *c, unsigned groups)
{
    uint64_t sum = 0;
    for (unsigned g = 0; g < groups; g++) {
        char name[80];
        snprintf(name, sizeof name, "dunlin_log_pauses_total{group=\"%u\"}", g);
        sum += metric(c->options.metrics, name);
    }
    return sum;
}

/* A node that comes back is to get its share of the leaders; but no log stands still for it while it lacks a
 * whole state. */
static void no_pause_for_one_that_lags(void **unused)
{
    enum { GROUPS = 4, AWAY = 2 };
    struct cluster c;
    char *record = malloc(RECORD_BYTES);
    (void)unused;
    cluster_init(&c, 3, GROUPS);
    c.options.metrics = dn_metrics_create();
    c.options.snapshot_log_bytes = 1 << 18;
    c.options.entry_max_bytes = RECORD_BYTES;
    c.options.balance_ms = 200;
    cluster_start_all(&c);
    leader_of(&c, 0);
    cluster_stop(&c, AWAY, 2000);
    for (unsigned g = 0; g < GROUPS; g++) {
        struct dn_group_status status = {0};
        for (unsigned i = 0; status.first_index < 20; i++) {
            struct call call;
            assert_true(i < 1000);
            memset(record, 'a' + (int)(i % 26), RECORD_BYTES);
            assert_true(call_propose(&call, c.node[0], g, record, RECORD_BYTES, 30000));
            must(call_end(&call), &call);
            dn_consensus_status(c.node[leader_of(&c, g)], g, &status);
        }
    }
    free(record);
    await_led(&c, GROUPS, 0, GROUPS / 2);
    uint64_t pauses = pauses_of(&c, GROUPS);
    c.options.snapshot_rate_bytes = SLOW_RATE;
    cluster_start(&c, AWAY);
    await_fetched(&c, 3); /* seconds */
    assert_int_equal(pauses_of(&c, GROUPS), pauses);
    for (unsigned g = 0; g < GROUPS; g++) {
        must_converge(&c, g);
    }
    await_led(&c, GROUPS, AWAY, 1);
    done(&c);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]); /* one test, by a pattern of its name */
    }
    const struct CMUnitTest tests[] = {

        cmocka_unit_test(a_restart_while_the_leader_took_a_newer_one),
        cmocka_unit_test(a_restart_goes_on_where_it_was),
        cmocka_unit_test(the_sender_dies_midway),
        cmocka_unit_test(two_at_once),
        cmocka_unit_test(a_damaged_chunk_at_the_sender),
        cmocka_unit_test(a_damaged_snapshot_of_our_own),
        cmocka_unit_test(own_snapshots_while_one_is_fetched),
        cmocka_unit_test(no_pause_for_one_that_lags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
