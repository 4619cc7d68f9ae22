/* Whom nodes say that they follow: of one term never two leaders, also while a node has voted in a new term
 * and nobody has led it yet. */
#define NODES 5 /* many that vote: more to be caught */
#include "tests/unit/consensus/cluster.h"

#define ROUNDS 12
#define TERMS_MAX 4096

struct watch {
    struct cluster *cluster;
    unsigned left_out; /* the node that is stopped meanwhile */
    _Atomic bool stop;
    uint64_t leaders[TERMS_MAX]; /* by term, as the first that told said; 0: nobody has */
    uint64_t told;
};

static void *watch(void *data)
{
    struct watch *w = data;
    while (!atomic_load(&w->stop)) {
        for (unsigned i = 0; i < NODES; i++) {
            struct dn_group_status status;
            if (i == w->left_out) {
                continue;
            }
            dn_consensus_status(w->cluster->node[i], 0, &status);
            if (status.leader_id == 0 || status.term >= TERMS_MAX) {
                continue;
            }
            uint64_t *leader = &w->leaders[status.term];
            if (*leader != 0 && *leader != status.leader_id) {
                fprintf(stderr, "# node %u says that node %llu leads term %llu; node %llu does\n", i + 1,
                        (unsigned long long)status.leader_id, (unsigned long long)status.term,
                        (unsigned long long)*leader);
                return w; /* asserted by who joins */
            }
            *leader = status.leader_id;
            w->told++;
        }
    }
    return NULL;
}

static void one_leader_a_term(void **unused)
{
    struct cluster c;
    struct watch w = {.cluster = &c};
    struct call call;
    (void)unused;
    cluster_init(&c, NODES, 1);
    cluster_start_all(&c);
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t thread;
        void *wrong;
        unsigned leader = leader_of(&c, 0);
        must(propose(&c, leader, 0, "x", &call), &call);
        must_converge(&c, 0);
        w.left_out = leader;
        atomic_store(&w.stop, false);
        assert_int_equal(pthread_create(&thread, NULL, watch, &w), 0);
        cluster_stop(&c, leader, 2000); /* it hands over: another asks for votes while all still follow it */
        leader_of(&c, 0);
        atomic_store(&w.stop, true);
        pthread_join(thread, &wrong);
        assert_null(wrong);
        cluster_start(&c, leader);
    }
    assert_true(w.told > 0);
    cluster_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_leader_a_term)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
