/* Messages between nodes: all sizes, all queues, both ways; who overtakes whom; what is refused when there is
 * no room; how connections come, go and are told apart. */
#include "tests/unit/transport/net.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* ---- contents ----------------------------------------------------------------------------------------- */

/* A test message: u64 sequence, u8 queue, filler that follows from both. */
#define HEAD_BYTES 9

static void compose(uint8_t *bytes, size_t length, uint64_t sequence, uint8_t queue)
{
    memcpy(bytes, &sequence, 8);
    bytes[8] = queue;
    for (size_t i = HEAD_BYTES; i < length; i++) {
        bytes[i] = (uint8_t)(i * 31 + (i >> 9) + sequence * 7 + queue);
    }
}

/* Sequences rise by one in each queue from each sender, and the filler is right. */
struct order {
    uint64_t next[NET_MAX + 1][DN_TRANSPORT_QUEUES];
    unsigned arrivals;
    uint8_t queues[4096]; /* of arrivals, in order */
};

static void check_order(struct net_node *node, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                        size_t length)
{
    struct order *order = node->data;
    uint64_t sequence;
    assert_true(length >= HEAD_BYTES && from->raft_id <= NET_MAX);
    memcpy(&sequence, bytes, 8);
    uint8_t queue = bytes[8];
    assert_true(queue < DN_TRANSPORT_QUEUES);
    assert_int_equal(sequence, order->next[from->raft_id][queue]);
    order->next[from->raft_id][queue]++;
    for (size_t i = HEAD_BYTES; i < length; i++) {
        if (bytes[i] != (uint8_t)(i * 31 + (i >> 9) + sequence * 7 + queue)) {
            fail_msg("byte %zu of %zu is wrong", i, length);
        }
    }
    if (order->arrivals < sizeof order->queues) {
        order->queues[order->arrivals++] = queue;
    }
}

static size_t some_length(struct test_random *random)
{
    static const size_t edges[] = {HEAD_BYTES,
                                   DN_TRANSPORT_FRAGMENT_MAX - 1,
                                   DN_TRANSPORT_FRAGMENT_MAX,
                                   DN_TRANSPORT_FRAGMENT_MAX + 1,
                                   2 * DN_TRANSPORT_FRAGMENT_MAX,
                                   2 * DN_TRANSPORT_FRAGMENT_MAX + 1,
                                   1 << 20};
    switch (test_random_below(random, 8)) {
    case 0:
        return edges[test_random_below(random, sizeof edges / sizeof *edges)];
    case 1:
        return HEAD_BYTES + test_random_below(random, 300000);
    default:
        return HEAD_BYTES + test_random_below(random, 2000);
    }
}

static void test_three_nodes(void **state)
{
    enum { EACH = 300 };
    static struct order orders[3];
    static uint8_t bytes[1 << 20];
    struct net net;
    struct test_random random = test_random_start("three nodes");
    uint64_t next[3][3][DN_TRANSPORT_QUEUES] = {0};
    (void)state;
    net_start(&net);
    memset(orders, 0, sizeof orders);
    for (unsigned i = 0; i < 3; i++) {
        net_node(&net, i, NULL, NULL);
        net.nodes[i].on_message = check_order;
        net.nodes[i].data = &orders[i];
    }
    for (unsigned i = 0; i < 9; i++) {
        if (i / 3 != i % 3) {
            net_dial(&net.nodes[i / 3], &net.nodes[i % 3]);
        }
    }
    NET_UNTIL(&net, net.nodes[0].ups == 2 && net.nodes[1].ups == 2 && net.nodes[2].ups == 2);
    for (unsigned round = 0; round < EACH; round++) {
        for (unsigned i = 0; i < 9; i++) {
            unsigned from = i / 3, to = i % 3;
            unsigned queue = (unsigned)test_random_below(&random, DN_TRANSPORT_QUEUES);
            size_t length = some_length(&random), cut = test_random_below(&random, length + 1);
            if (from == to) {
                continue;
            }
            compose(bytes, length, next[from][to][queue], (uint8_t)queue);
            struct dn_transport_part parts[3] = {{bytes, cut}, {NULL, 0}, {bytes + cut, length - cut}};
            while (!dn_transport_send(net.nodes[from].transport, to + 1, queue, parts, 3)) {
                assert_true(net_is_up(&net.nodes[from], &net.nodes[to]));
                uv_run(&net.loop, UV_RUN_ONCE);
            }
            next[from][to][queue]++;
        }
        if (test_random_below(&random, 4) == 0) {
            uv_run(&net.loop, UV_RUN_NOWAIT);
        }
    }
    for (unsigned i = 0; i < 3; i++) {
        NET_UNTIL(&net, net.nodes[i].messages == 2 * EACH);
        assert_int_equal(net.nodes[i].gaps, 0);
        assert_true(net_metric(&net.nodes[i], "dunlin_peer_sent_bytes_total", "") > 0);
    }
    for (unsigned i = 0; i < 9; i++) {
        assert_memory_equal(orders[i % 3].next[i / 3 + 1], next[i / 3][i % 3], sizeof next[0][0]);
    }
    net_end(&net);
}

static void connect_both(struct net *net, struct net_node *a, struct net_node *b)
{
    net_dial(a, b);
    net_dial(b, a);
    NET_UNTIL(net, net_is_up(a, b) && net_is_up(b, a));
}

static void test_sizes(void **state)
{
    static uint8_t bytes[DN_TRANSPORT_MESSAGE_MAX + 1];
    struct net net;
    struct order order = {0};
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    assert_false(net_send(a, b, DN_TRANSPORT_URGENT, bytes, 1));
    connect_both(&net, a, b);
    assert_false(net_send(a, b, DN_TRANSPORT_BULK, bytes, DN_TRANSPORT_MESSAGE_MAX + 1));
    assert_true(net_send(a, b, DN_TRANSPORT_BULK, bytes, 0));
    assert_true(dn_transport_send(a->transport, b->raft_id, DN_TRANSPORT_NORMAL, NULL, 0));
    NET_UNTIL(&net, b->messages == 2);
    assert_int_equal(b->bytes, 0);
    b->on_message = check_order;
    b->data = &order;
    for (unsigned queue = 0; queue < DN_TRANSPORT_QUEUES; queue++) {
        compose(bytes, DN_TRANSPORT_MESSAGE_MAX, 0, (uint8_t)queue);
        assert_true(
            net_send(a, b, queue, bytes, DN_TRANSPORT_MESSAGE_MAX)); /* also when it exceeds the queue */
        assert_int_equal(dn_transport_queued(a->transport, b->raft_id, queue), DN_TRANSPORT_MESSAGE_MAX);
    }
    NET_UNTIL(&net, b->messages == 5);
    assert_int_equal(dn_transport_queued(a->transport, b->raft_id, DN_TRANSPORT_BULK), 0);
    net_end(&net);
}

/* A bulk message is on its way when urgent ones are queued: they arrive first. */
static void test_urgent_overtakes(void **state)
{
    static uint8_t bytes[8 << 20];
    struct net net;
    struct order order = {0};
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    b->on_message = check_order;
    b->data = &order;
    connect_both(&net, a, b);
    compose(bytes, sizeof bytes, 0, DN_TRANSPORT_BULK);
    assert_true(net_send(a, b, DN_TRANSPORT_BULK, bytes, sizeof bytes));
    uv_run(&net.loop, UV_RUN_NOWAIT); /* its first batch has left */
    assert_true(dn_transport_queued(a->transport, b->raft_id, DN_TRANSPORT_BULK) > 0);
    for (unsigned i = 0; i < 100; i++) {
        unsigned queue = i % 2 == 0 ? DN_TRANSPORT_NORMAL : DN_TRANSPORT_URGENT;
        compose(bytes, 100, i / 2, (uint8_t)queue);
        assert_true(net_send(a, b, queue, bytes, 100));
    }
    NET_UNTIL(&net, b->messages == 101);
    for (unsigned i = 0; i < 101; i++) {
        assert_int_equal(order.queues[i], i < 50    ? DN_TRANSPORT_URGENT
                                          : i < 100 ? DN_TRANSPORT_NORMAL
                                                    : DN_TRANSPORT_BULK);
    }
    net_end(&net);
}

static void small_queues(struct dn_transport_options *options)
{
    options->queue_bytes[DN_TRANSPORT_NORMAL] = 10000;
}

static void test_queue_full(void **state)
{
    static uint8_t bytes[1000];
    struct net net;
    unsigned taken = 0, empty = 0;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, small_queues), *b = net_node(&net, 1, NULL, NULL);
    connect_both(&net, a, b);
    while (net_send(a, b, DN_TRANSPORT_NORMAL, bytes, sizeof bytes)) {
        taken++;
    }
    assert_in_range(taken, 8, 10);
    assert_int_equal(dn_transport_queued(a->transport, b->raft_id, DN_TRANSPORT_NORMAL),
                     taken * sizeof bytes);
    assert_int_equal(net_metric(a, "dunlin_peer_queue_full_total", ""), 1);
    assert_true(net_send(a, b, DN_TRANSPORT_URGENT, bytes, sizeof bytes)); /* queues are apart */
    assert_int_equal(a->rooms, 0);
    NET_UNTIL(&net, a->rooms == 1 && b->messages == taken + 1);
    while (net_send(a, b, DN_TRANSPORT_NORMAL, NULL, 0)) {
        empty++; /* nothing is unbounded, not even empty messages */
        assert_true(empty < 10000);
    }
    NET_UNTIL(&net, b->messages == taken + 1 + empty);
    net_end(&net);
}

/* ---- how connections end ------------------------------------------------------------------------------ */

static void test_clean_close(void **state)
{
    static uint8_t bytes[3 << 20];
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    connect_both(&net, a, b);
    assert_true(net_send(b, a, DN_TRANSPORT_NORMAL, "last words", 10));
    assert_true(net_send(b, a, DN_TRANSPORT_NORMAL, bytes, sizeof bytes)); /* more than one batch */
    net_stop(b);
    NET_UNTIL(&net, a->downs == 1 && a->gaps == 1);
    assert_int_equal(a->how, DN_TRANSPORT_DOWN_CLOSED);
    assert_int_equal(a->messages, 2);
    assert_int_equal(net_refused_all(a), 0);
    assert_false(dn_transport_peer_up(a->transport, 2));
    net_end(&net);
}

/* A node in a process of its own, that can be killed; it dials us, and takes what comes. */
static pid_t spawn(uint16_t our_port, uint16_t *ret_port)
{
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct net other;
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* should the test fail */
        close(pipes[0]);
        net_start(&other);
        struct net_node *b = net_node(&other, 1, NULL, NULL);
        uint16_t port = dn_transport_port(b->transport);
        b->welcome = true;
        rmdir(other.folder);
        if (our_port != 0) {
            net_dial_port(b, 1, our_port);
        }
        if (write(pipes[1], &port, sizeof port) != sizeof port) {
            _exit(1);
        }
        uv_run(&other.loop, UV_RUN_DEFAULT);
        _exit(0);
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], ret_port, sizeof *ret_port), sizeof *ret_port);
    close(pipes[0]);
    return pid;
}

static void kill_and_reap(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void test_killed(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        struct net net;
        uint16_t port = 0;
        net_start(&net);
        struct net_node *a = net_node(&net, 0, NULL, NULL);
        bool dialled = round % 2 == 1; /* without its own connection to us there is no gap */
        pid_t pid = spawn(dialled ? dn_transport_port(a->transport) : 0, &port);
        net_dial_port(a, 2, port);
        NET_UNTIL(&net, a->ups == 1);
        if (dialled) {
            NET_UNTIL(&net, net_accepted(a) == 1);
        }
        if (round >= 2) {
            net_run_ms(&net, 150); /* the connection has lasted; before: it has not */
        }
        kill_and_reap(pid);
        NET_UNTIL(&net, a->downs == 1 && a->gaps == dialled);
        assert_int_equal(a->how, DN_TRANSPORT_DOWN_RESET_GONE);
        net_end(&net);
    }
}

static void test_reset_and_gap(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    connect_both(&net, a, b);
    for (unsigned i = 1; i <= 5; i++) {
        unsigned before = b->messages;
        assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "lost", 4));
        dn_transport_reset(a->transport, 2);
        assert_false(net_is_up(a, b));
        assert_int_equal(a->downs, i - 1); /* told from the loop, not from within */
        assert_false(net_send(a, b, DN_TRANSPORT_NORMAL, "refused", 7));
        assert_int_equal(dn_transport_queued(a->transport, 2, DN_TRANSPORT_NORMAL), 0);
        dn_transport_reset(a->transport, 2); /* nothing to reset */
        NET_UNTIL(&net, a->ups == i + 1 && b->gaps == i);
        assert_int_equal(a->downs, i);
        assert_int_equal(a->how, DN_TRANSPORT_DOWN_LOST);
        assert_int_equal(b->messages, before);
        assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "taken", 5));
        NET_UNTIL(&net, b->messages == before + 1);
    }
    assert_int_equal(b->downs, 0); /* the other direction does not suffer */
    assert_int_equal(a->gaps, 0);
    assert_int_equal(net_refused_all(b), 0);
    net_end(&net);
}

static void test_remove_and_return(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    connect_both(&net, a, b);
    assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "still sent", 10));
    dn_transport_peer_remove(a->transport, 2);
    assert_false(net_is_up(a, b));
    assert_int_equal(a->downs, 0);
    NET_UNTIL(&net, a->downs == 1 && a->gaps == 1 && b->downs >= 1 && b->gaps == 1);
    assert_int_equal(b->messages, 1);
    assert_int_equal(b->how, DN_TRANSPORT_DOWN_CLOSED);
    NET_UNTIL(&net, net_refused(a, "unknown") > 0 && a->unknowns > 0); /* b dials on */
    assert_false(net_is_up(b, a));
    net_dial(a, b);
    NET_UNTIL(&net, net_is_up(a, b) && net_is_up(b, a));
    net_end(&net);
}

/* Addresses without a raft id: found out, found to be ourselves, found to be a peer that we know. */
static void test_unknown_ids(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    b->welcome = true;
    net_dial_port(a, 0, dn_transport_port(a->transport));
    net_dial_port(a, 0, dn_transport_port(b->transport));
    net_dial_port(a, 0, dn_transport_port(b->transport)); /* twice is once */
    NET_UNTIL(&net, a->ups == 1 && b->unknowns == 1);
    assert_int_equal(a->up_id.raft_id, 2);
    assert_int_equal(a->up_id.level, 11);
    assert_int_equal(dn_transport_peer_level(a->transport, 2), 11);
    assert_int_equal(dn_transport_peer_level(a->transport, 3), 0); /* nobody */
    assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "guest", 5));
    NET_UNTIL(&net, b->messages == 1);
    char address[32];
    snprintf(address, sizeof address, "localhost:%u", dn_transport_port(b->transport));
    assert_int_equal(dn_transport_peer_add(a->transport, 0, address, NULL),
                     DN_OK); /* the same node, once more */
    net_run_ms(&net, 300);
    assert_int_equal(a->ups - a->downs, 1);
    assert_true(net_is_up(a, b));
    assert_int_equal(net_refused_all(a), 0);
    net_end(&net);
}

/* Peers that move: another node with the same raft id under another address. */
static void test_moved(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    connect_both(&net, a, b);
    uint16_t old_port = dn_transport_port(b->transport);
    net_stop(b);
    NET_UNTIL(&net, a->downs == 1);
    b = net_node(&net, 1, NULL, NULL);
    assert_int_not_equal(dn_transport_port(b->transport), old_port);
    net_dial(b, a);
    net_dial(a, b);
    NET_UNTIL(&net, net_is_up(a, b) && net_is_up(b, a));
    net_dial_port(a, 2, old_port); /* moved to where nobody is */
    assert_int_equal(a->downs, 1);
    NET_UNTIL(&net, a->downs == 2);
    net_dial(a, b);
    NET_UNTIL(&net, net_is_up(a, b));
    net_end(&net);
}

static void remove_sender(struct net_node *node, const struct dn_transport_peer_id *from,
                          const uint8_t *bytes, size_t length)
{
    (void)bytes;
    (void)length;
    dn_transport_peer_remove(node->transport, from->raft_id);
}

static void close_us(struct net_node *node, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                     size_t length)
{
    (void)from;
    (void)bytes;
    (void)length;
    dn_transport_close(node->transport, net_closed, node);
}

/* The owner may remove the peer, or close everything, while it is handed a message. */
static void test_calls_from_callbacks(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    connect_both(&net, a, b);
    b->on_message = remove_sender;
    for (unsigned i = 0; i < 10; i++) {
        assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "x", 1));
    }
    NET_UNTIL(&net, b->gaps == 1 && b->downs == 1 && a->downs == 1);
    assert_int_equal(b->messages, 1);
    b->on_message = close_us;
    net_dial(b, a);
    NET_UNTIL(&net, net_is_up(a, b));
    assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "x", 1));
    assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "x", 1));
    NET_UNTIL(&net, b->closed);
    assert_int_equal(b->messages, 2);
    dn_transport_destroy(b->transport);
    b->transport = NULL;
    dn_transport_keys_free(b->keys);
    dn_metrics_destroy(b->metrics);
    net_end(&net);
}

/* A transport that is destroyed without being closed goes with the next turns of the loop. */
static void test_destroy_at_once(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    connect_both(&net, a, b);
    dn_transport_destroy(a->transport);
    a->transport = NULL;
    dn_transport_keys_free(a->keys);
    NET_UNTIL(&net, b->downs == 1 && b->gaps == 1);
    dn_metrics_destroy(a->metrics);
    net_end(&net);
    dn_transport_destroy(NULL);
}

/* What an owner does whose start fails half-way: a peer is refused, and everything is given back at once, at
 * any point of the other connections' lives. The loop, turned later, finds nothing of it. */
static void test_destroy_after_failure(void **state)
{
    static uint8_t bytes[1 << 20];
    (void)state;
    for (unsigned turns = 0; turns < 40; turns++) {
        struct net net;
        struct dn_error err;
        net_start(&net);
        struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
        net_dial(a, b);
        net_dial(b, a);
        assert_int_equal(dn_transport_peer_add(a->transport, 7, "localhost:1", &err), DN_OK);
        if (turns > 30) { /* with connections, and messages that are not sent yet */
            NET_UNTIL(&net, net_is_up(a, b) && net_is_up(b, a));
            assert_true(net_send(a, b, DN_TRANSPORT_BULK, bytes, sizeof bytes));
            assert_true(net_send(b, a, DN_TRANSPORT_BULK, bytes, sizeof bytes));
        }
        for (unsigned i = 0; i < turns % 30; i++) {
            uv_run(&net.loop, UV_RUN_NOWAIT);
        }
        assert_int_equal(dn_transport_peer_add(a->transport, 8, "nowhere", &err), DN_INVALID);
        unsigned told = a->ups + a->downs + a->gaps + a->rooms + a->messages;
        if (turns % 3 == 1) { /* closing already, and nobody waits for its end */
            dn_transport_close(a->transport, net_closed, a);
        }
        dn_transport_destroy(a->transport);
        dn_transport_keys_free(a->keys);
        dn_metrics_destroy(a->metrics);
        a->transport = NULL;
        net_stop(b);
        assert_int_equal(a->ups + a->downs + a->gaps + a->rooms + a->messages, told);
        assert_false(a->closed);
        net_end(&net); /* the loop has nothing left */
    }
}

static void test_start_errors(void **state)
{
    struct net net;
    struct dn_error err;
    struct dn_transport *transport = NULL;
    char address[32], expected[80];
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL);
    snprintf(address, sizeof address, "127.0.0.1:%u", dn_transport_port(a->transport));
    struct dn_transport_options options = {.loop = &net.loop,
                                           .cluster_id = "test",
                                           .self = {.raft_id = 9, .name = "nine", .incarnation = 1},
                                           .bind_address = address,
                                           .keys = a->keys,
                                           .on_message = net_message};
    assert_int_equal(dn_transport_start(&options, &transport, &err), DN_IO);
    snprintf(expected, sizeof expected, "peer port: listen on %s: address already in use", address);
    assert_string_equal(err.message, expected);
    options.bind_address = "nonsense";
    assert_int_equal(dn_transport_start(&options, &transport, &err), DN_INVALID);
    options.bind_address = "127.0.0.1:0";
    options.keys = NULL;
    assert_int_equal(dn_transport_start(&options, &transport, &err), DN_INVALID);
    assert_null(transport);
    assert_int_equal(dn_transport_peer_add(a->transport, 1, "127.0.0.1:1", &err), DN_INVALID);
    assert_int_equal(dn_transport_peer_add(a->transport, 5, "127.0.0.1", &err), DN_INVALID);
    for (unsigned i = 0; i < DN_TRANSPORT_PEERS_MAX; i++) {
        snprintf(address, sizeof address, "127.0.0.1:%u", i + 1);
        assert_int_equal(dn_transport_peer_add(a->transport, 100 + i, address, &err), DN_OK);
    }
    assert_int_equal(dn_transport_peer_add(a->transport, 5, "127.0.0.1:99", &err), DN_EXHAUSTED);
    dn_transport_peer_remove(a->transport, 100);
    assert_int_equal(dn_transport_peer_add(a->transport, 5, "127.0.0.1:99", &err), DN_OK);
    net_end(&net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed), /* first: it forks */
        cmocka_unit_test(test_three_nodes),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_urgent_overtakes),
        cmocka_unit_test(test_queue_full),
        cmocka_unit_test(test_clean_close),
        cmocka_unit_test(test_reset_and_gap),
        cmocka_unit_test(test_remove_and_return),
        cmocka_unit_test(test_unknown_ids),
        cmocka_unit_test(test_moved),
        cmocka_unit_test(test_calls_from_callbacks),
        cmocka_unit_test(test_destroy_at_once),
        cmocka_unit_test(test_destroy_after_failure),
        cmocka_unit_test(test_start_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
