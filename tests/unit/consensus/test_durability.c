/* What survives: restarts, snapshots, lagging nodes; and what keeps a node from starting. */
#include "cluster.h"

#include "consensus/internal.h"

#include <fcntl.h>

static void fill(struct cluster *c, unsigned node, unsigned count, size_t size)
{
    struct call call;
    char *record = malloc(size);
    for (unsigned i = 0; i < count; i++) {
        memset(record, 'a' + (int)(i % 26), size);
        assert_true(call_propose(&call, c->node[node], 0, record, size, 15000));
        if (call_end(&call) != DN_OK) {
            cluster_tell(c, 0);
        }
        must(call.code, &call);
    }
    free(record);
}

static void one_node_restarts_and_catches_up(void **unused)
{
    struct cluster c;
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start_all(&c);
    unsigned away = (leader_of(&c, 0) + 1) % 3, stays = (away + 1) % 3;
    fill(&c, stays, 20, 100);
    cluster_stop(&c, away, 0);
    fill(&c, stays, 20, 100);
    cluster_start(&c, away);
    must_converge(&c, 0);
    cluster_free(&c);
}

static void all_restart_from_the_log_alone(void **unused)
{
    struct cluster c;
    uint64_t hash, before;
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start_all(&c);
    fill(&c, 0, 50, 1000);
    must_converge(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        cluster_stop(&c, i, 0);
    }
    hash = c.state[0][0].hash;
    before = c.state[0][0].count;
    c.options.tick_ms = 100;
    cluster_start_all(&c);
    must_converge(&c, 0); /* one more record */
    for (unsigned i = 0; i < 3; i++) {
        cluster_stop(&c, i, 0);
        assert_int_equal(c.state[i][0].count, before + 1);
        assert_int_equal(atomic_load(&c.state[i][0].built), 0);
    }
    assert_true(hash != 0);
    cluster_free(&c);
}

static uint64_t snapshot_index(struct cluster *c, unsigned node)
{
    struct dn_group_status status;
    dn_consensus_status(c->node[node], 0, &status);
    return status.snapshot_index;
}

static void snapshots_and_a_lagging_node(void **unused)
{
    struct cluster c;
    uint64_t until = dn_monotonic_us() + 2 * PATIENCE_US;
    uint64_t count;
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.snapshot_log_bytes = 256 << 10;
    c.options.entry_max_bytes = 16 << 10;
    cluster_start_all(&c);
    unsigned leader = leader_of(&c, 0), away = (leader + 1) % 3;
    fill(&c, leader, 5, 100);
    cluster_stop(&c, away, 0);
    /* Far beyond what a leader keeps in its log after a snapshot. */
    uint64_t first = 0;
    for (unsigned round = 0; round < 60 && dn_monotonic_us() < until; round++) {
        fill(&c, leader, 20, 8000);
        first = snapshot_index(&c, leader);
        struct dn_group_status status;
        dn_consensus_status(c.node[leader], 0, &status);
        if (status.first_index > 60 && snapshot_index(&c, (leader + 2) % 3) > 60) {
            break;
        }
    }
    assert_true(first > 0);
    cluster_start(&c, away);
    must_converge(&c, 0);
    assert_true(atomic_load(&c.state[away][0].built) >= 1); /* it came by InstallSnapshot */
    fill(&c, away, 20, 100);
    must_converge(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        cluster_stop(&c, i, 0);
    }
    count = c.state[0][0].count;
    cluster_start_all(&c); /* from snapshot and log */
    must_converge(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(atomic_load(&c.state[i][0].built) >= 1);
        cluster_stop(&c, i, 0);
        assert_int_equal(c.state[i][0].count, count + 1);
        assert_int_equal(c.state[i][0].hash, c.state[0][0].hash);
        assert_int_equal(atomic_load(&c.fatal[i]), 0);
    }
    cluster_free(&c);
}

/* A snapshot that is being taken when the node stops, and one when a leader's arrives. */
static void stopping_while_snapshots_are_taken(void **unused)
{
    struct cluster c;
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.snapshot_log_bytes = 64 << 10;
    c.options.entry_max_bytes = 8 << 10;
    c.options.install_timeout_ms = 3600 * 1000; /* what waits for that does not end */
    cluster_start_all(&c);
    for (unsigned round = 0; round < 6; round++) {
        unsigned leader = leader_of(&c, 0), other = (leader + 1 + round % 2) % 3;
        fill(&c, leader, 15, 8000);
        cluster_stop(&c, other, 0);
        fill(&c, leader, 150, 8000);
        cluster_start(&c, other);
        fill(&c, leader, 15, 8000);
    }
    must_converge(&c, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(atomic_load(&c.fatal[i]), 0);
    }
    cluster_free(&c);
}

/* An answer to a request of the life before may still be on its way. */
static void no_life_numbers_requests_as_another(void **unused)
{
    struct cluster c;
    uint64_t first;
    (void)unused;
    cluster_init(&c, 1, 1);
    cluster_start_all(&c);
    leader_of(&c, 0);
    first = c.node[0]->next_request;
    cluster_stop(&c, 0, 0);
    cluster_start(&c, 0);
    uint64_t second = c.node[0]->next_request;
    assert_true((first > second ? first - second : second - first) > UINT32_MAX);
    cluster_free(&c);
}

static void a_snapshot_that_fails_is_tried_again(void **unused)
{
    struct cluster c;
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    (void)unused;
    cluster_init(&c, 1, 1);
    c.options.snapshot_log_bytes = 32 << 10;
    cluster_start_all(&c);
    leader_of(&c, 0);
    atomic_store(&c.state[0][0].failing_writes, 2);
    while (snapshot_index(&c, 0) == 0 && dn_monotonic_us() < until) {
        fill(&c, 0, 2, 3000);
        usleep(10000);
    }
    assert_true(snapshot_index(&c, 0) > 0);
    atomic_store(&c.state[0][0].failing_writes,
                 1); /* and one that waits for its next try when the node stops */
    while (atomic_load(&c.state[0][0].failing_writes) > 0 && dn_monotonic_us() < until) {
        fill(&c, 0, 2, 3000);
    }
    cluster_stop(&c, 0, 0);
    uint64_t count = c.state[0][0].count;
    cluster_start(&c, 0);
    must_converge(&c, 0);
    assert_int_equal(atomic_load(&c.fatal[0]), 0);
    cluster_stop(&c, 0, 0);
    assert_true(c.state[0][0].count >= count + 1);
    cluster_free(&c);
}

/* A slow own snapshot is under way when the leader's arrives: libraft would crash. */
static void incoming_snapshot_waits_for_our_own(void **unused)
{
    struct cluster c;
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.snapshot_log_bytes = 48 << 10;
    c.options.entry_max_bytes = 8 << 10;
    cluster_start_all(&c);
    unsigned leader = leader_of(&c, 0), away = (leader + 1) % 3;
    fill(&c, leader, 4, 8000);
    cluster_stop(&c, away, 0);
    fill(&c, leader, 250, 8000);
    c.state[away][0].write_us = 400000;
    c.options.snapshot_log_bytes = 1; /* it begins its own with the first entry */
    cluster_start(&c, away);
    fill(&c, leader, 30, 100);
    must_converge(&c, 0);
    assert_int_equal(atomic_load(&c.fatal[away]), 0);
    cluster_stop(&c, away, 0); /* in the middle of one, most likely */
    cluster_start(&c, away);
    must_converge(&c, 0);
    cluster_free(&c);
}

static void apply_slower_than_elections_yields(void **unused)
{
    struct cluster c;
    struct call call;
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start_all(&c);
    fill(&c, leader_of(&c, 0), 150, 50);
    for (unsigned i = 0; i < 3; i++) {
        cluster_stop(&c, i, 0);
        c.state[i][0].slow_us = 8000; /* the log takes over a second to apply: four election timeouts */
    }
    cluster_start_all(&c);
    must(propose(&c, 0, 0, "x", &call), &call);
    uint64_t term;
    struct dn_group_status status;
    dn_consensus_status(c.node[0], 0, &status);
    term = status.term;
    assert_true(term < 20); /* no election after election */
    assert_true(dn_consensus_loop_age_us(c.node[0]) < 5000000);
    must_converge(&c, 0);
    cluster_free(&c);
}

/* ---- what must not start ---------------------------------------------------------------------------- */

/* The journal's oldest segment. */
static void find_segment(struct cluster *c, unsigned node, char out[256])
{
    char dir[128];
    snprintf(dir, sizeof dir, "%s/%u/journal", c->dir, node);
    DIR *d = opendir(dir);
    struct dirent *entry;
    out[0] = 0;
    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        if (strstr(entry->d_name, ".seg") != NULL &&
            (out[0] == 0 || strcmp(entry->d_name, strrchr(out, '/') + 1) < 0)) {
            snprintf(out, 256, "%.100s/%.100s", dir, entry->d_name);
        }
    }
    closedir(d);
    assert_true(out[0] != 0);
}

#define DAMAGE_AT 4136 /* behind the header block, in the first records */

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

static void damaged_log_keeps_the_node_down(void **unused)
{
    struct cluster c;
    struct dn_error err = {0};
    char path[256];
    (void)unused;
    cluster_init(&c, 1, 1);
    cluster_start_all(&c);
    leader_of(&c, 0);
    fill(&c, 0, 20, 3000);
    cluster_stop(&c, 0, 0);
    find_segment(&c, 0, path);
    printf("# damaging %s\n", path);
    flip_byte(path, DAMAGE_AT);
    assert_true(cluster_start_err(&c, 0, &err) != DN_OK);
    printf("# %s\n", err.message);
    assert_non_null(strstr(err.message, "/journal"));
    assert_non_null(strstr(err.message, strrchr(path, '/') + 1));
    flip_byte(path, DAMAGE_AT);
    cluster_start(&c, 0); /* whole again */
    cluster_free(&c);
}

static void damaged_snapshot_keeps_the_node_down(void **unused)
{
    struct cluster c;
    struct dn_error err = {0};
    char path[256];
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    (void)unused;
    cluster_init(&c, 1, 1);
    c.options.snapshot_log_bytes = 32 << 10;
    cluster_start_all(&c);
    leader_of(&c, 0);
    while (snapshot_index(&c, 0) == 0 && dn_monotonic_us() < until) {
        fill(&c, 0, 10, 3000);
    }
    assert_true(snapshot_index(&c, 0) > 0);
    cluster_stop(&c, 0, 0);
    DIR *d;
    char dir[128];
    struct dirent *entry;
    snprintf(dir, sizeof dir, "%s/0/snapshots/0", c.dir);
    d = opendir(dir); /* all of them: an older one must not be taken silently */
    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        if (strstr(entry->d_name, ".state") != NULL) {
            snprintf(path, sizeof path, "%.100s/%.100s", dir, entry->d_name);
            flip_byte(path, 60);
        }
    }
    closedir(d);
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_CORRUPT);
    printf("# %s\n", err.message);
    assert_non_null(strstr(err.message, "snapshots/0"));
    cluster_free(&c);
}

static void someone_elses_data_is_refused(void **unused)
{
    struct cluster c;
    struct dn_error err = {0};
    char path[128];
    (void)unused;
    cluster_init(&c, 3, 1);
    cluster_start(&c, 0);
    struct cluster *twin = calloc(1, sizeof *twin); /* two processes, one directory */
    memcpy(twin->dir, c.dir, sizeof c.dir);
    twin->options = c.options;
    twin->nodes = 3;
    twin->groups = 1;
    assert_int_equal(cluster_start_err(twin, 0, &err), DN_PRECONDITION);
    assert_non_null(strstr(err.message, "in use"));
    dn_buffer_free(&twin->state[0][0].bytes);
    free(twin);
    cluster_free(&c);

    cluster_init(&c, 3, 1);
    cluster_start(&c, 0);
    cluster_stop(&c, 0, 0);
    c.options.cluster_id = "other";
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_PRECONDITION);
    assert_non_null(strstr(err.message, "cluster test"));
    c.options.cluster_id = "test";
    char keep[32];
    memcpy(keep, c.addresses[0], sizeof keep);
    snprintf(c.addresses[0], sizeof c.addresses[0], "127.0.0.1:%u", free_port());
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_PRECONDITION);
    assert_non_null(strstr(err.message, keep));
    memcpy(c.addresses[0], keep, sizeof keep);
    char other[128];
    snprintf(path, sizeof path, "%s/0", c.dir);
    snprintf(other, sizeof other, "%s/1", c.dir);
    assert_int_equal(rmdir(other), 0);
    assert_int_equal(rename(path, other), 0); /* node 2 finds node 1's directory */
    assert_int_equal(cluster_start_err(&c, 1, &err), DN_PRECONDITION);
    assert_non_null(strstr(err.message, "node 1"));
    assert_int_equal(rename(other, path), 0);
    snprintf(path, sizeof path, "%s/0/identity", c.dir);
    flip_byte(path, 60);
    assert_true(cluster_start_err(&c, 0, &err) != DN_OK);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_PRECONDITION);
    assert_non_null(strstr(err.message, "missing"));
    cluster_free(&c);
}

static void lost_journal_keeps_the_node_down(void **unused)
{
    struct cluster c;
    struct dn_error err = {0};
    char path[128];
    (void)unused;
    cluster_init(&c, 1, 2);
    cluster_start_all(&c);
    leader_of(&c, 0); /* it is a cluster by now */
    cluster_stop(&c, 0, 0);
    snprintf(path, sizeof path, "%s/0/journal", c.dir);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_CORRUPT);
    printf("# %s\n", err.message);
    assert_non_null(strstr(err.message, "/journal"));
    cluster_free(&c);
}

/* A busy group and one that only ticks: the quiet one's few entries must not keep the whole journal on the
 * disk. */
static void a_quiet_group_does_not_hold_the_journal(void **unused)
{
    struct cluster c;
    char dir[128], path[256];
    uint64_t until = dn_monotonic_us() + 3 * PATIENCE_US, bytes = 0;
    (void)unused;
    cluster_init(&c, 1, 2);
    c.options.snapshot_log_bytes = 1 << 20;
    c.options.journal_held_bytes = 1 << 20;
    c.options.tick_ms = 10;
    cluster_start_all(&c);
    leader_of(&c, 0);
    leader_of(&c, 1);
    snprintf(dir, sizeof dir, "%s/0/journal", c.dir);
    for (unsigned i = 0; i < 30; i++) {
        fill(&c, 0, 100, 8000); /* 24 MB in all */
    }
    do {
        DIR *d = opendir(dir);
        struct dirent *entry;
        struct stat about;
        bytes = 0;
        assert_non_null(d);
        while ((entry = readdir(d)) != NULL) {
            snprintf(path, sizeof path, "%.100s/%.100s", dir, entry->d_name);
            if (strstr(entry->d_name, ".seg") != NULL && stat(path, &about) == 0) {
                bytes += (uint64_t)about.st_size;
            }
        }
        closedir(d);
        fill(&c, 0, 1, 8000);
    } while (bytes > (8u << 20) && dn_monotonic_us() < until);
    printf("# the journal has %llu bytes\n", (unsigned long long)bytes);
    assert_true(bytes <= (8u << 20));
    cluster_stop(&c, 0, 0);
    cluster_start(&c, 0);
    cluster_free(&c);
}

static void bad_options_are_refused(void **unused)
{
    struct cluster c;
    struct dn_error err = {0};
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.cluster_id = "";
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_INVALID);
    c.options.cluster_id = "with space";
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_INVALID);
    c.options.cluster_id = "test";
    c.members[2].node_id = 1;
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_INVALID);
    c.members[2].node_id = 9;
    assert_int_equal(cluster_start_err(&c, 2, &err), DN_INVALID); /* itself missing */
    c.members[2].node_id = 3;
    c.members[2].address = "nowhere";
    assert_int_equal(cluster_start_err(&c, 0, &err), DN_INVALID);
    c.members[2].address = c.addresses[2];
    c.options.bind_address = c.addresses[1];
    cluster_start(&c, 0);
    assert_int_equal(cluster_start_err(&c, 1, &err), DN_IO); /* the port is taken */
    assert_non_null(strstr(err.message, c.addresses[1]));
    cluster_free(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_node_restarts_and_catches_up),
        cmocka_unit_test(all_restart_from_the_log_alone),
        cmocka_unit_test(snapshots_and_a_lagging_node),
        cmocka_unit_test(stopping_while_snapshots_are_taken),
        cmocka_unit_test(no_life_numbers_requests_as_another),
        cmocka_unit_test(a_snapshot_that_fails_is_tried_again),
        cmocka_unit_test(incoming_snapshot_waits_for_our_own),
        cmocka_unit_test(apply_slower_than_elections_yields),
        cmocka_unit_test(damaged_log_keeps_the_node_down),
        cmocka_unit_test(damaged_snapshot_keeps_the_node_down),
        cmocka_unit_test(someone_elses_data_is_refused),
        cmocka_unit_test(lost_journal_keeps_the_node_down),
        cmocka_unit_test(a_quiet_group_does_not_hold_the_journal),
        cmocka_unit_test(bad_options_are_refused),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]); /* one test, by a pattern of its name */
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
