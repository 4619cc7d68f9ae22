/* Several transports on one loop, and what the tests ask of them. */
#ifndef DN_TESTS_UNIT_TRANSPORT_NET_H
#define DN_TESTS_UNIT_TRANSPORT_NET_H

#include "tests/unit/base/cmocka_all.h"

#include "tests/unit/base/random.h"

#include "base/clock.h"
#include "base/log.h"
#include "transport/transport.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#define NET_MAX 4
#define NET_ID_MAX 16
#define NET_PATIENCE_MS 60000 /* a loaded machine, under a sanitizer */
#define NET_KEY_A "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
#define NET_KEY_B "f102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fff"

struct net_node {
    struct net *net;
    struct dn_transport *transport;
    struct dn_transport_keys *keys;
    struct dn_metrics *metrics;
    uint64_t raft_id;
    unsigned ups, downs, gaps, rooms, unknowns, messages;
    enum dn_transport_down how; /* of the last on_down */
    struct dn_transport_peer_id up_id;
    bool welcome, closed, is_up[NET_ID_MAX];
    size_t bytes;
    void (*on_message)(struct net_node *node, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                       size_t length);
    void *data;
};

struct net {
    uv_loop_t loop;
    uv_timer_t tick; /* lets a waiting loop look at its condition */
    struct net_node nodes[NET_MAX];
    char folder[32];
};

static inline void net_message(void *data, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                               size_t length)
{
    struct net_node *node = data;
    node->messages++;
    node->bytes += length;
    if (node->on_message != NULL) {
        node->on_message(node, from, bytes, length);
    }
}

static inline void net_up(void *data, const struct dn_transport_peer_id *peer)
{
    struct net_node *node = data;
    node->ups++;
    node->up_id = *peer;
    assert_true(peer->raft_id < NET_ID_MAX && !node->is_up[peer->raft_id]);
    node->is_up[peer->raft_id] = true;
}

static inline void net_down(void *data, uint64_t raft_id, enum dn_transport_down how)
{
    struct net_node *node = data;
    assert_true(raft_id < NET_ID_MAX && node->is_up[raft_id]); /* once for each on_up */
    node->is_up[raft_id] = false;
    node->downs++;
    node->how = how;
}

static inline void net_gap(void *data, uint64_t raft_id)
{
    struct net_node *node = data;
    (void)raft_id;
    node->gaps++;
}

static inline void net_room(void *data, uint64_t raft_id)
{
    struct net_node *node = data;
    (void)raft_id;
    node->rooms++;
}

static inline bool net_unknown(void *data, const struct dn_transport_peer_id *peer)
{
    struct net_node *node = data;
    (void)peer;
    node->unknowns++;
    return node->welcome;
}

static inline void net_ticked(uv_timer_t *timer)
{
    (void)timer;
}

static inline void net_start(struct net *net)
{
    memset(net, 0, sizeof *net);
    dn_log_set_level(getenv("DUNLIN_TEST_LOG") != NULL ? DN_LOG_DEBUG : DN_LOG_ERROR);
    assert_int_equal(uv_loop_init(&net->loop), 0);
    uv_timer_init(&net->loop, &net->tick);
    uv_timer_start(&net->tick, net_ticked, 5, 5);
    snprintf(net->folder, sizeof net->folder, "/tmp/dn_transport_XXXXXX");
    assert_non_null(mkdtemp(net->folder));
}

static inline void net_key_path(struct net *net, const char *name, char ret_path[64])
{
    snprintf(ret_path, 64, "%s/%s", net->folder, name);
}

static inline void net_write_key(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(chmod(path, mode), 0);
}

/* Keys from their spelled-out secrets; previous may be NULL. */
static inline struct dn_transport_keys *net_keys(struct net *net, const char *current, const char *previous)
{
    struct dn_transport_keys *keys = NULL;
    char a[64], b[64];
    net_key_path(net, "a", a);
    net_key_path(net, "b", b);
    net_write_key(a, current, 0600);
    if (previous != NULL) {
        net_write_key(b, previous, 0600);
    }
    assert_int_equal(dn_transport_keys_load(a, previous == NULL ? NULL : b, &keys, NULL), DN_OK);
    unlink(a);
    unlink(b);
    return keys;
}

/* Starts node `at` (raft id at + 1). Takes the keys; NULL: NET_KEY_A. `change` may alter the options, or be
 * NULL. */
static inline struct net_node *net_node(struct net *net, unsigned at, struct dn_transport_keys *keys,
                                        void (*change)(struct dn_transport_options *options))
{
    struct net_node *node = &net->nodes[at];
    struct dn_error err;
    struct dn_metrics *metrics = dn_metrics_create();
    memset(node, 0, sizeof *node);
    node->net = net;
    node->metrics = metrics;
    node->raft_id = at + 1;
    node->keys = keys != NULL ? keys : net_keys(net, NET_KEY_A, NULL);
    struct dn_transport_options options = {
        .loop = &net->loop,
        .cluster_id = "test",
        .self = {.raft_id = node->raft_id, .incarnation = 100 + at, .level = (uint8_t)(10 + at)},
        .bind_address = "127.0.0.1:0",
        .keys = node->keys,
        .handshake_timeout_ms = 10000,
        .user_timeout_ms = 20000,
        .connect_timeout_ms = 10000,
        .metrics = metrics,
        .on_message = net_message,
        .on_up = net_up,
        .on_down = net_down,
        .on_gap = net_gap,
        .on_room = net_room,
        .on_unknown = net_unknown,
        .data = node,
    };
    snprintf(options.self.name, sizeof options.self.name, "node-%u", at);
    if (change != NULL) {
        change(&options);
    }
    if (dn_transport_start(&options, &node->transport, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
    return node;
}

static inline void net_dial_port(struct net_node *from, uint64_t raft_id, uint16_t port)
{
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    assert_int_equal(dn_transport_peer_add(from->transport, raft_id, address, NULL), DN_OK);
}

static inline void net_dial(struct net_node *from, struct net_node *to)
{
    net_dial_port(from, to->raft_id, dn_transport_port(to->transport));
}

static inline uint64_t net_metric(struct net_node *node, const char *name, const char *labels)
{
    return dn_counter_value(dn_metrics_counter(node->metrics, name, labels, ""));
}

static inline uint64_t net_refused(struct net_node *node, const char *reason)
{
    char labels[64];
    snprintf(labels, sizeof labels, "reason=\"%s\"", reason);
    return net_metric(node, "dunlin_peer_refused_total", labels);
}

static inline uint64_t net_refused_all(struct net_node *node)
{
    static const char *const reasons[] = {"key",     "cluster",   "replay",     "tampered", "timeout",
                                          "unknown", "malformed", "wrong_peer", "version",  "crowded"};
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        sum += net_refused(node, reasons[i]);
    }
    return sum;
}

/* Proved connections that others dialled. */
static inline unsigned net_accepted(struct net_node *node)
{
    return (unsigned)dn_gauge_value(
        dn_metrics_gauge(node->metrics, "dunlin_peer_connections", "direction=\"in\"", ""));
}

static inline bool net_send(struct net_node *from, struct net_node *to, enum dn_transport_queue queue,
                            const void *bytes, size_t length)
{
    struct dn_transport_part part = {bytes, length};
    return dn_transport_send(from->transport, to->raft_id, queue, &part, 1);
}

static inline bool net_is_up(struct net_node *from, struct net_node *to)
{
    return dn_transport_peer_up(from->transport, to->raft_id);
}

/* Turns the loop until the condition holds; fails the test when it does not for a long time. */
#define NET_UNTIL(net, condition)                                                                            \
    do {                                                                                                     \
        uint64_t net_end_ = dn_monotonic_us() + NET_PATIENCE_MS * 1000ull;                                   \
        while (!(condition)) {                                                                               \
            if (dn_monotonic_us() > net_end_) {                                                              \
                fail_msg("waited in vain for: %s", #condition);                                              \
            }                                                                                                \
            uv_run(&(net)->loop, UV_RUN_ONCE);                                                               \
        }                                                                                                    \
    } while (0)

static inline void net_run_ms(struct net *net, unsigned ms)
{
    uint64_t end = dn_monotonic_us() + ms * 1000ull;
    while (dn_monotonic_us() < end) {
        uv_run(&net->loop, UV_RUN_ONCE);
    }
}

static inline void net_closed(void *data)
{
    struct net_node *node = data;
    assert_false(node->closed);
    node->closed = true;
}

static inline void net_stop(struct net_node *node)
{
    if (node->transport == NULL) {
        return;
    }
    dn_transport_close(node->transport, net_closed, node);
    NET_UNTIL(node->net, node->closed);
    assert_int_equal(node->ups, node->downs);
    dn_transport_destroy(node->transport);
    dn_transport_keys_free(node->keys);
    dn_metrics_destroy(node->metrics);
    node->transport = NULL;
}

static inline void net_end(struct net *net)
{
    for (unsigned i = 0; i < NET_MAX; i++) {
        net_stop(&net->nodes[i]);
    }
    uv_close((uv_handle_t *)&net->tick, NULL);
    uv_run(&net->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&net->loop), 0);
    rmdir(net->folder);
}

#endif
