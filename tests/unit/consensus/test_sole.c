/* A sole voter with a replica is killed again and again while others write through the replica. libraft
 * elects a sole voter in the term it had; if a new life wrote in the old term, the replica would keep what it
 * got from the life before in the same places. Voter and replica must end equal, with every acknowledged
 * record. */
#define NODES 2
#include "cluster.h"

#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define ROUNDS 8
#define WRITERS 16

static const char *self_path;
static volatile sig_atomic_t asked_to_end;

static void on_term(int signal)
{
    (void)signal;
    asked_to_end = 1;
}

/* ---- the voter, in a process of its own -----------------------------------------------------------------
 */

struct adding {
    struct dn_member_change change;
    _Atomic int code; /* -1: under way */
};

static void added(struct dn_member_change *change, enum dn_code code, const struct dn_error *err)
{
    struct adding *adding = change->data;
    (void)err;
    atomic_store(&adding->code, (int)code);
}

static void add_replica(struct cluster *c, struct adding *adding)
{
    int code = atomic_load(&adding->code);
    if (code == -1 || code == DN_OK || code == DN_EXISTS)
        return;
    atomic_store(&adding->code, -1);
    adding->change = (struct dn_member_change){.op = DN_MEMBER_ADD,
                                               .node_id = 2,
                                               .replica = true,
                                               .deadline_us = dn_monotonic_us() + 5000000,
                                               .done = added,
                                               .data = adding};
    if (!dn_consensus_member_change(c->node[0], &adding->change))
        atomic_store(&adding->code, DN_UNAVAILABLE);
}

static int run_voter(char **argv)
{
    struct cluster *c = calloc(1, sizeof *c);
    struct dn_error err = {0};
    struct dn_group_status before, after;
    static struct adding adding = {.code = DN_UNAVAILABLE};
    snprintf(c->dir, sizeof c->dir, "%s", argv[2]);
    c->nodes = 2;
    c->groups = 1;
    for (unsigned i = 0; i < 2; i++) {
        snprintf(c->addresses[i], sizeof c->addresses[i], "%s", argv[3 + i]);
        c->members[i] = (struct dn_member){i + 1, c->addresses[i]};
    }
    c->options = (struct dn_consensus_options){.cluster_id = "test",
                                               .members = c->members,
                                               .member_count = 1,
                                               .group_count = 1,
                                               .segment_bytes = 256 << 10,
                                               .min_free_bytes = 1 << 20};
    dn_log_set_level(DN_LOG_ERROR);
    signal(SIGTERM, on_term);
    if (cluster_start_err(c, 0, &err) != DN_OK) {
        fprintf(stderr, "voter: %s\n", err.message);
        return 1;
    }
    while (!asked_to_end) {
        add_replica(c, &adding);
        usleep(5000);
    }
    do {
        dn_consensus_status(c->node[0], 0, &before);
        usleep(500000);
        dn_consensus_status(c->node[0], 0, &after);
    } while (before.state_hash != after.state_hash);
    cluster_stop(c, 0, 0);
    printf("%llu %llx", (unsigned long long)c->state[0][0].count, (unsigned long long)c->state[0][0].hash);
    fflush(stdout);
    return 0;
}

/* ---- the replica and its writers, here -------------------------------------------------------------------
 */

static pid_t spawn(struct cluster *c, int *ret_out)
{
    int out[2];
    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        close(out[0]);
        close(out[1]);
        execl(self_path, self_path, "--voter", c->dir, c->addresses[0], c->addresses[1], NULL);
        _exit(127);
    }
    close(out[1]);
    *ret_out = out[0];
    return pid;
}

struct writer {
    struct cluster *c;
    pthread_t thread;
    unsigned number;
    _Atomic bool *stop;
    uint64_t done;
};

static void *write_on(void *arg)
{
    struct writer *w = arg;
    char record[300];
    memset(record, 'y', sizeof record);
    while (!atomic_load(w->stop)) {
        struct call call;
        snprintf(record, sizeof record, "%u.%llu", w->number, (unsigned long long)w->done);
        if (call_propose(&call, w->c->node[1], 0, record, sizeof record, 5000) && call_end(&call) == DN_OK)
            w->done++;
    }
    return NULL;
}

static void voter_and_replica_stay_equal(void **state)
{
    struct cluster c;
    struct writer writers[WRITERS];
    struct dn_members all;
    _Atomic bool stop = false;
    uint64_t done = 0;
    int out, status;
    (void)state;
    cluster_init(&c, 2, 1);
    c.options.member_count = 1;
    c.options.balance_ms = UINT_MAX;
    pid_t voter = spawn(&c, &out);
    cluster_start(&c, 1);
    uint64_t until = dn_monotonic_us() + 2 * PATIENCE_US;
    do {
        assert_true(dn_monotonic_us() < until);
        usleep(10000);
        dn_consensus_members(c.node[1], &all);
    } while (!all.formed);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.c = &c, .number = i, .stop = &stop};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]), 0);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        usleep(500000 + round * 1371);
        kill(voter, SIGKILL);
        assert_int_equal(waitpid(voter, &status, 0), voter);
        close(out);
        voter = spawn(&c, &out);
    }
    usleep(1000000);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(writers[i].thread, NULL);
        done += writers[i].done;
    }
    struct call call;
    must(propose(&c, 1, 0, "last", &call), &call); /* applied here, so all before it is */
    kill(voter, SIGTERM);
    char said[128] = "", here[128];
    for (size_t got = 0; got < sizeof said - 1;) {
        ssize_t n = read(out, said + got, sizeof said - 1 - got);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    assert_int_equal(waitpid(voter, &status, 0), voter);
    close(out);
    cluster_stop(&c, 1, 0);
    snprintf(here, sizeof here, "%llu %llx", (unsigned long long)c.state[1][0].count,
             (unsigned long long)c.state[1][0].hash);
    print_message("# %llu acknowledged; the voter: %s, the replica: %s\n", (unsigned long long)done, said,
                  here);
    assert_string_equal(said, here);
    assert_true(c.state[1][0].count > done);
    cluster_free(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(voter_and_replica_stay_equal)};
    static char path[512];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (argc == 5 && strcmp(argv[1], "--voter") == 0)
        return run_voter(argv);
    self_path = n > 0 ? path : argv[0];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
