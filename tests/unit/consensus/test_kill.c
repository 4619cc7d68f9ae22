/* SIGKILL: node 1 lives in a process of its own and is killed again and again while nodes 2 and 3 (here)
 * write. Every record acknowledged is in the state of all three at the end, once, and the states are equal.
 */
#include "cluster.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define ROUNDS 6
#define RECORDS_MAX 200000

static const char *self_path;
static volatile sig_atomic_t asked_to_end;

static void on_term(int signal)
{
    (void)signal;
    asked_to_end = 1;
}

/* Child: `test --node DIR ADDRESS ADDRESS ADDRESS`; on SIGTERM it waits for quiet and prints count and hash.
 */
static int run_node(char **argv)
{
    struct cluster *c = calloc(1, sizeof *c);
    struct dn_error err;
    struct dn_group_status before, after;
    snprintf(c->dir, sizeof c->dir, "%s", argv[2]);
    c->nodes = 3;
    c->groups = 1;
    for (unsigned i = 0; i < 3; i++) {
        snprintf(c->addresses[i], sizeof c->addresses[i], "%s", argv[3 + i]);
        c->members[i] = (struct dn_member){i + 1, c->addresses[i]};
    }
    c->data[0].cluster = c;
    c->options = (struct dn_consensus_options){.cluster_id = "test",
                                               .members = c->members,
                                               .member_count = 3,
                                               .group_count = 1,
                                               .segment_bytes = 256 << 10,
                                               .snapshot_log_bytes = 128 << 10,
                                               .min_free_bytes = 1 << 20};
    dn_log_set_level(DN_LOG_ERROR);
    signal(SIGTERM, on_term);
    if (cluster_start_err(c, 0, &err) != DN_OK) {
        fprintf(stderr, "child: %s\n", err.message);
        return 1;
    }
    while (!asked_to_end) {
        usleep(5000);
    }
    do { /* quiet: nothing but ticks for a while, which do not change this state */
        dn_consensus_status(c->node[0], 0, &before);
        usleep(500000);
        dn_consensus_status(c->node[0], 0, &after);
    } while (before.state_hash != after.state_hash);
    cluster_stop(c, 0, 0);
    printf("%llu %llx\n", (unsigned long long)c->state[0][0].count, (unsigned long long)c->state[0][0].hash);
    fflush(stdout);
    dn_buffer_free(&c->state[0][0].bytes); /* the directory is the parent's */
    free(c);
    return 0;
}

/* Returns when it runs its own program: until then it holds what this process has locked. */
static pid_t spawn(struct cluster *c, int *ret_out)
{
    int out[2], begun[2];
    char byte;
    assert_int_equal(pipe(out), 0);
    assert_int_equal(pipe2(begun, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* no orphans, whatever becomes of the test */
        dup2(out[1], 1);
        close(out[0]);
        close(out[1]);
        execl(self_path, self_path, "--node", c->dir, c->addresses[0], c->addresses[1], c->addresses[2],
              NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    close(out[1]);
    close(begun[1]);
    assert_int_equal(read(begun[0], &byte, 1), 0);
    close(begun[0]);
    *ret_out = out[0];
    return pid;
}

/* Who leads, as nodes 2 and 3 see it; 0 unknown. */
static uint64_t leader_id(struct cluster *c)
{
    struct dn_group_status status;
    dn_consensus_status(c->node[1], 0, &status);
    return status.leader_id;
}

/* Makes the child lead: leaders here are stopped (they hand over) until it is its turn. */
static void make_child_lead(struct cluster *c)
{
    struct call call;
    for (unsigned tries = 0; tries < 40; tries++) {
        must(propose(c, 1, 0, "settle", &call), &call);
        uint64_t id = leader_id(c);
        if (id == 1) {
            return;
        }
        usleep(300000); /* let the child catch up */
        if (id == 2 || id == 3) {
            cluster_stop(c, (unsigned)id - 1, 1000);
            cluster_start(c, (unsigned)id - 1);
        }
    }
    printf("# the child was not elected; it is killed as a follower\n");
}

static void killed_nodes_lose_nothing(void **unused)
{
    struct cluster c;
    struct call call;
    int out;
    unsigned next = 0;
    uint8_t *acknowledged = calloc(1, RECORDS_MAX);
    unsigned *seen = calloc(RECORDS_MAX, sizeof *seen);
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.snapshot_log_bytes = 128 << 10;
    pid_t child = spawn(&c, &out);
    cluster_start(&c, 1);
    cluster_start(&c, 2);
    for (unsigned round = 0; round < ROUNDS; round++) {
        make_child_lead(&c);
        for (unsigned i = 0; i < 120; i++) {
            char text[200];
            uint64_t start = dn_monotonic_us();
            memset(text, '.', sizeof text);
            text[sizeof text - 1] = 0;
            text[snprintf(text, sizeof text, "r%u", next)] = '.';
            if (i == 60) {
                kill(child, SIGKILL);
                waitpid(child, NULL, 0);
                close(out);
                start = dn_monotonic_us();
            }
            assert_true(call_propose(&call, c.node[1 + i % 2], 0, text, strlen(text), 15000));
            must(call_end(&call), &call);
            acknowledged[next++] = 1;
            if (i == 60) {
                printf("# leader killed: next write after %llu ms\n",
                       (unsigned long long)((dn_monotonic_us() - start) / 1000));
            }
        }
        child = spawn(&c, &out);
    }
    must_converge(&c, 0); /* nodes 2 and 3 */
    usleep(500000);
    kill(child, SIGTERM);
    char line[128] = "", expect[128];
    size_t got = 0;
    ssize_t n;
    while (got < sizeof line - 1 && (n = read(out, line + got, sizeof line - 1 - got)) > 0) {
        got += (size_t)n;
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(out);
    cluster_stop(&c, 1, 0);
    cluster_stop(&c, 2, 0);
    struct log_state *s = &c.state[1][0];
    snprintf(expect, sizeof expect, "%llu %llx\n", (unsigned long long)s->count, (unsigned long long)s->hash);
    assert_string_equal(line, expect);
    struct dn_reader reader;
    dn_reader_init(&reader, s->bytes.bytes, s->bytes.length);
    while (dn_reader_left(&reader) > 0) {
        size_t length;
        unsigned number;
        char text[16] = "";
        dn_reader_u64(&reader);
        dn_reader_u32(&reader);
        const uint8_t *bytes = dn_reader_blob(&reader, 4096, &length);
        assert_false(reader.failed);
        memcpy(text, bytes, length < 15 ? length : 15);
        if (sscanf(text, "r%u.", &number) == 1) {
            assert_true(number < next);
            seen[number]++;
        }
    }
    unsigned repeated = 0;
    for (unsigned i = 0; i < next; i++) {
        assert_true(acknowledged[i] && seen[i] >= 1);
        repeated += seen[i] > 1;
    }
    /* A retry after a leader's death may repeat a record (that is what event ids are for), one each at most.
     */
    printf("# %u acknowledged, %u of them repeated by a retry\n", next, repeated);
    assert_true(repeated <= ROUNDS);
    cluster_free(&c);
    free(acknowledged);
    free(seen);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed_nodes_lose_nothing)};
    static char path[512];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (argc == 6 && strcmp(argv[1], "--node") == 0) {
        return run_node(argv);
    }
    self_path = n > 0 ? path : argv[0];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
