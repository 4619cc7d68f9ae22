/* The cluster's key is changed under three nodes that talk all the time, one node after the other: nobody is
 * refused, only the connections of the node that starts again end, and no message is altered or out of order.
 * A step left out shows, and refusals are told by reason. */
#include "tests/unit/transport/net.h"

#include "base/buffer.h"
#include "transport/handshake.h"

#include <stdio.h>

#define NODES 3

/* ---- talk: u64 numbers from each node to each other --------------------------------------------------- */

struct talk {
    uint64_t sent[NODES], heard[NODES]; /* to and from each node; heard: the last number */
    uint64_t from[NODES];               /* how many were heard */
};

struct cluster {
    struct net net;
    struct talk talks[NODES];
    uint16_t ports[NODES];
    uint64_t incarnation;
};

static uint16_t port_wanted;
static uint64_t incarnation_wanted;

static void at_its_port(struct dn_transport_options *options)
{
    static char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", port_wanted);
    options->bind_address = address;
    options->self.incarnation = incarnation_wanted;
}

static void hear(struct net_node *node, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                 size_t length)
{
    struct talk *talk = node->data;
    uint64_t number;
    assert_int_equal(length, sizeof number);
    memcpy(&number, bytes, sizeof number);
    size_t who = (size_t)from->raft_id - 1;
    assert_true(number > talk->heard[who]); /* never twice, never out of order, also across restarts */
    talk->heard[who] = number;
    talk->from[who]++;
}

static void start_node(struct cluster *cluster, unsigned at, const char *current, const char *previous)
{
    port_wanted = cluster->ports[at];
    incarnation_wanted = ++cluster->incarnation;
    struct net_node *node =
        net_node(&cluster->net, at, net_keys(&cluster->net, current, previous), at_its_port);
    node->on_message = hear;
    node->data = &cluster->talks[at];
    cluster->ports[at] = dn_transport_port(node->transport);
}

static void dial_others(struct cluster *cluster, unsigned at)
{
    for (unsigned i = 0; i < NODES; i++) {
        if (i != at) {
            net_dial_port(&cluster->net.nodes[at], i + 1, cluster->ports[i]);
        }
    }
}

/* Everybody says one thing to everybody to whom there is a way. */
static void talk_once(struct cluster *cluster)
{
    for (unsigned i = 0; i < NODES * NODES; i++) {
        struct net_node *from = &cluster->net.nodes[i / NODES], *to = &cluster->net.nodes[i % NODES];
        struct talk *talk = &cluster->talks[i / NODES];
        uint64_t number = talk->sent[i % NODES] + 1;
        if (from != to && from->transport != NULL &&
            dn_transport_send(from->transport, i % NODES + 1, DN_TRANSPORT_NORMAL,
                              &(struct dn_transport_part){&number, sizeof number}, 1)) {
            talk->sent[i % NODES] = number;
        }
    }
    uv_run(&cluster->net.loop, UV_RUN_ONCE);
}

static bool talk_and(struct cluster *cluster, bool condition)
{
    talk_once(cluster);
    return condition;
}

static bool all_up(const struct cluster *cluster)
{
    for (unsigned i = 0; i < NODES * NODES; i++) {
        if (i / NODES != i % NODES &&
            (cluster->net.nodes[i / NODES].transport == NULL ||
             !dn_transport_peer_up(cluster->net.nodes[i / NODES].transport, i % NODES + 1))) {
            return false;
        }
    }
    return true;
}

/* Each pair has heard `more` messages since `before`. */
static bool all_heard(const struct cluster *cluster, const struct talk before[NODES], uint64_t more)
{
    for (unsigned i = 0; i < NODES * NODES; i++) {
        if (i / NODES != i % NODES &&
            cluster->talks[i / NODES].from[i % NODES] < before[i / NODES].from[i % NODES] + more) {
            return false;
        }
    }
    return true;
}

static void talk_for_a_while(struct cluster *cluster)
{
    struct talk before[NODES];
    NET_UNTIL(&cluster->net, talk_and(cluster, all_up(cluster)));
    memcpy(before, cluster->talks, sizeof before);
    NET_UNTIL(&cluster->net, talk_and(cluster, all_heard(cluster, before, 10)));
}

static void cluster_start(struct cluster *cluster, const char *current, const char *previous)
{
    memset(cluster, 0, sizeof *cluster);
    net_start(&cluster->net);
    for (unsigned i = 0; i < NODES; i++) {
        start_node(cluster, i, current, previous);
    }
    for (unsigned i = 0; i < NODES; i++) {
        dial_others(cluster, i);
    }
    talk_for_a_while(cluster);
}

/* One node starts again with other keys, while the others go on talking. */
static void restart(struct cluster *cluster, unsigned at, const char *current, const char *previous)
{
    struct net_node *node = &cluster->net.nodes[at];
    unsigned downs[NODES];
    for (unsigned i = 0; i < NODES; i++) {
        downs[i] = cluster->net.nodes[i].downs;
    }
    assert_int_equal(net_refused_all(node), 0);
    net_stop(node);
    for (unsigned i = 0; i < 5; i++) {
        talk_once(cluster);
    }
    start_node(cluster, at, current, previous);
    dial_others(cluster, at);
    talk_for_a_while(cluster);
    for (unsigned i = 0; i < NODES; i++) {
        if (i != at) { /* the connection with that node ended, once; the one with the other did not */
            assert_int_equal(cluster->net.nodes[i].downs, downs[i] + 1);
            assert_int_equal(cluster->net.nodes[i].how, DN_TRANSPORT_DOWN_CLOSED);
            assert_int_equal(net_refused_all(&cluster->net.nodes[i]), 0);
        }
    }
}

static void test_rotation_while_talking(void **state)
{
    static const char *const steps[][2] = {{NET_KEY_A, NET_KEY_B}, {NET_KEY_B, NET_KEY_A}, {NET_KEY_B, NULL}};
    static struct cluster cluster;
    (void)state;
    cluster_start(&cluster, NET_KEY_A, NULL);
    for (size_t step = 0; step < sizeof steps / sizeof *steps; step++) {
        for (unsigned i = 0; i < NODES; i++) {
            restart(&cluster, i, steps[step][0], steps[step][1]);
        }
    }
    for (unsigned i = 0; i < NODES; i++) {
        assert_int_equal(net_refused_all(&cluster.net.nodes[i]), 0);
    }
    net_end(&cluster.net);
}

/* A node that was given the new key alone is out until the others take that key too. */
static void test_a_step_left_out(void **state)
{
    static struct cluster cluster;
    (void)state;
    cluster_start(&cluster, NET_KEY_A, NULL);
    struct net_node *nodes = cluster.net.nodes;
    net_stop(&nodes[0]);
    start_node(&cluster, 0, NET_KEY_B, NULL);
    dial_others(&cluster, 0);
    NET_UNTIL(&cluster.net,
              talk_and(&cluster, net_refused(&nodes[0], "key") >= 2 && net_refused(&nodes[1], "key") >= 2 &&
                                     net_refused(&nodes[2], "key") >= 2));
    assert_int_equal(nodes[0].ups, 0);
    assert_true(net_is_up(&nodes[1], &nodes[2]) && net_is_up(&nodes[2], &nodes[1]));
    for (unsigned i = 1; i < NODES; i++) {
        net_stop(&nodes[i]);
        start_node(&cluster, i, NET_KEY_A, NET_KEY_B);
        dial_others(&cluster, i);
    }
    /* It takes B alone, they dial with A: one way only. */
    NET_UNTIL(&cluster.net,
              talk_and(&cluster, net_is_up(&nodes[0], &nodes[1]) && net_is_up(&nodes[0], &nodes[2])));
    NET_UNTIL(&cluster.net, talk_and(&cluster, net_refused(&nodes[0], "key") >= 4));
    assert_false(net_is_up(&nodes[1], &nodes[0]));
    for (unsigned i = 1; i < NODES; i++) {
        net_stop(&nodes[i]);
        start_node(&cluster, i, NET_KEY_B, NET_KEY_A);
        dial_others(&cluster, i);
    }
    talk_for_a_while(&cluster);
    net_end(&cluster.net);
}

/* ---- what a scraper sees ------------------------------------------------------------------------------ */

/* Every reason is there from the start, at 0; those in README.md are all that there are. */
static void test_reasons_are_shown(void **state)
{
    static const char *const reasons[] = {"key",     "version",    "malformed", "tampered", "replay",
                                          "cluster", "wrong_peer", "unknown",   "timeout",  "crowded"};
    struct net net;
    struct dn_buffer text;
    char line[80];
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL);
    struct net_node *b = net_node(&net, 1, net_keys(&net, NET_KEY_B, NULL), NULL);
    dn_buffer_init(&text, 1 << 20);
    assert_int_equal(sizeof reasons / sizeof *reasons, REFUSED_COUNT - REFUSED_NONE - 1);
    dn_metrics_render(a->metrics, &text);
    dn_buffer_u8(&text, 0);
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        snprintf(line, sizeof line, "\ndunlin_peer_refused_total{reason=\"%s\"} 0\n", reasons[i]);
        if (strstr((const char *)text.bytes, line) == NULL) {
            fail_msg("not shown:%s", line);
        }
    }
    net_dial(b, a);
    NET_UNTIL(&net, net_refused(a, "key") >= 1);
    dn_buffer_clear(&text);
    dn_metrics_render(a->metrics, &text);
    dn_buffer_u8(&text, 0);
    snprintf(line, sizeof line, "\ndunlin_peer_refused_total{reason=\"key\"} %llu\n",
             (unsigned long long)net_refused(a, "key"));
    assert_non_null(strstr((const char *)text.bytes, line));
    assert_non_null(strstr((const char *)text.bytes, "\ndunlin_peer_refused_total{reason=\"cluster\"} 0\n"));
    dn_buffer_free(&text);
    net_end(&net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotation_while_talking),
        cmocka_unit_test(test_a_step_left_out),
        cmocka_unit_test(test_reasons_are_shown),
    };
    return cmocka_run_group_tests_name("transport.rotation", tests, NULL, NULL);
}
