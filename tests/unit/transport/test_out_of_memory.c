/* What the transport does when memory runs out: its sources are included here with an allocator that fails
 * when told. A connection may end for it, and is told as ended; it comes again, no message is ever altered,
 * and what is lost is told by on_down and on_gap. */
#include "tests/unit/transport/net.h"

#include "tests/unit/journal/no_memory.h"

#include "base/text.h"
#include "transport/internal.h"
#include "transport/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>

static void *limited_sodium_malloc(size_t size)
{
    return allocation_fails() ? NULL : sodium_malloc(size);
}

/* It may split a mapping, for which the kernel wants memory. */
static int limited_sodium_mprotect_readonly(void *memory)
{
    return allocation_fails() ? -1 : sodium_mprotect_readonly(memory);
}

#define malloc limited_malloc
#define calloc limited_calloc
#define sodium_malloc limited_sodium_malloc
#define sodium_mprotect_readonly limited_sodium_mprotect_readonly
/* NOLINTBEGIN(bugprone-suspicious-include) */
#include "transport/frame.c"
#include "transport/keys.c"
#include "transport/transport.c"
#define put_u32 handshake_put_u32
#define get_u32 handshake_get_u32
#define refuse handshake_refuse
#undef SECRETSTREAM
#include "transport/handshake.c"
#undef put_u32
#undef get_u32
#undef refuse
#define on_handshake in_on_handshake
#define alloc_cb in_alloc_cb
#define read_cb in_read_cb
#include "transport/peer_in.c"
#undef on_handshake
#undef alloc_cb
#undef read_cb
#include "transport/peer_out.c"
/* NOLINTEND(bugprone-suspicious-include) */
#undef malloc
#undef calloc
#undef sodium_malloc
#undef sodium_mprotect_readonly

#define HEAD_BYTES 9
#define LONG_BYTES 300000
#define ALLOCATIONS_MAX 500

/* ---- starting: refused, with a reason, and nothing is left ------------------------------------------------
 */

static void ignore_message(void *data, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                           size_t length)
{
    (void)data, (void)from, (void)bytes, (void)length;
}

static void test_start(void **state)
{
    struct net net;
    char path[64];
    unsigned refused = 0;
    (void)state;
    net_start(&net);
    net_key_path(&net, "key", path);
    net_write_key(path, NET_KEY_A, 0600);
    for (long n = 1;; n++) {
        struct dn_transport_keys *keys = NULL;
        struct dn_transport *transport = NULL;
        struct dn_error err = {0};
        no_memory(n, 1);
        enum dn_code code = dn_transport_keys_load(path, path, &keys, &err);
        if (code == DN_OK) {
            struct dn_transport_options options = {.loop = &net.loop,
                                                   .cluster_id = "test",
                                                   .self = {.raft_id = 1, .incarnation = 1},
                                                   .bind_address = "localhost:0",
                                                   .keys = keys,
                                                   .on_message = ignore_message};
            code = dn_transport_start(&options, &transport, &err);
        }
        for (unsigned i = 0; code == DN_OK && i < 4; i++) {
            char address[32];
            snprintf(address, sizeof address, "127.0.0.1:%u", 1 + i);
            code = dn_transport_peer_add(transport, 2 + i, address, &err);
        }
        bool reached = atomic_load(&memory_failures) > 0;
        enough_memory();
        assert_int_equal(code, reached ? DN_NO_MEMORY : DN_OK);
        assert_true(!reached || strstr(err.message, "memory") != NULL);
        refused += reached;
        dn_transport_destroy(transport); /* as it is: never closed */
        dn_transport_keys_free(keys);
        uv_run(&net.loop, UV_RUN_NOWAIT);
        if (!reached)
            break;
    }
    assert_int_equal(refused, 2 + 1 + 4);
    unlink(path);
    net_end(&net);
}

/* ---- connections and messages -------------------------------------------------------------------------- */

/* A message: u64 number, u8 queue, filler that follows from both. Numbers rise in each queue. */
struct traffic {
    uint64_t sent[DN_TRANSPORT_QUEUES], last[DN_TRANSPORT_QUEUES], received;
    bool final;
};

static uint8_t filler(uint64_t number, uint8_t queue, size_t i)
{
    return (uint8_t)(i * 31 + (i >> 9) + number * 7 + queue);
}

static void check_message(struct net_node *node, const struct dn_transport_peer_id *from,
                          const uint8_t *bytes, size_t length)
{
    struct traffic *traffic = node->data;
    uint64_t number;
    assert_true(length >= HEAD_BYTES && bytes[8] < DN_TRANSPORT_QUEUES && from->raft_id != node->raft_id);
    memcpy(&number, bytes, 8);
    uint8_t queue = bytes[8];
    assert_true(number > traffic->last[queue]); /* never twice, never out of order */
    traffic->last[queue] = number;
    traffic->received++;
    for (size_t i = HEAD_BYTES; i < length; i++) {
        assert_int_equal(bytes[i], filler(number, queue, i));
    }
}

/* traffic: of the receiving node. */
static bool send_one(struct net_node *from, struct net_node *to, uint8_t queue, size_t length)
{
    static uint8_t bytes[LONG_BYTES + HEAD_BYTES];
    struct traffic *traffic = to->data;
    uint64_t number = traffic->sent[queue] + 1;
    memcpy(bytes, &number, 8);
    bytes[8] = queue;
    for (size_t i = HEAD_BYTES; i < length; i++) {
        bytes[i] = filler(number, queue, i);
    }
    if (!net_send(from, to, (enum dn_transport_queue)queue, bytes, length)) {
        return false;
    }
    traffic->sent[queue] = number;
    return true;
}

static uint64_t sent_in_all(const struct traffic *traffic)
{
    return traffic->sent[0] + traffic->sent[1] + traffic->sent[2];
}

static void dial_by_name(struct net_node *from, struct net_node *to)
{
    char address[40];
    snprintf(address, sizeof address, "localhost:%u", dn_transport_port(to->transport));
    while (dn_transport_peer_add(from->transport, to->raft_id, address, NULL) != DN_OK) {
    }
}

static void bind_by_name(struct dn_transport_options *options)
{
    options->bind_address = "localhost:0";
}

/* Two nodes find each other and talk; the n-th allocation fails, and some after it. True when it was reached.
 */
static bool conversation(long nth, long count)
{
    struct net net;
    struct traffic to_a = {0}, to_b = {0};
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, bind_by_name), *b = net_node(&net, 1, NULL, bind_by_name);
    a->on_message = b->on_message = check_message;
    a->data = &to_a;
    b->data = &to_b;
    no_memory(nth, count);
    dial_by_name(a, b);
    dial_by_name(b, a);
    for (unsigned round = 0; round < 12; round++) {
        uint8_t queue = (uint8_t)(round % DN_TRANSPORT_QUEUES);
        size_t length = round % 4 == 1 ? LONG_BYTES : HEAD_BYTES + 100 * round;
        NET_UNTIL(&net, net_is_up(a, b) && net_is_up(b, a));
        NET_UNTIL(&net, send_one(a, b, queue, length));
        NET_UNTIL(&net, send_one(b, a, queue, length));
        if (round % 2 == 0) {
            uv_run(&net.loop, UV_RUN_NOWAIT);
        }
        if (round == 5) {
            dn_transport_reset(a->transport, b->raft_id);
        }
    }
    bool reached = atomic_load(&memory_failures) > 0;
    enough_memory();
    NET_UNTIL(&net, net_is_up(a, b) && net_is_up(b, a) && net_accepted(a) == 1 && net_accepted(b) == 1);
    NET_UNTIL(&net, send_one(a, b, DN_TRANSPORT_BULK, LONG_BYTES));
    NET_UNTIL(&net, send_one(b, a, DN_TRANSPORT_BULK, LONG_BYTES));
    NET_UNTIL(&net, to_b.last[DN_TRANSPORT_BULK] == to_b.sent[DN_TRANSPORT_BULK] &&
                        to_a.last[DN_TRANSPORT_BULK] == to_a.sent[DN_TRANSPORT_BULK]);
    /* What was lost, both sides know of: the sender by on_down, the receiver by on_gap. */
    assert_true(sent_in_all(&to_b) == to_b.received || (a->downs > 0 && b->gaps > 0));
    assert_true(sent_in_all(&to_a) == to_a.received || (b->downs > 0 && a->gaps > 0));
    assert_true(b->gaps + 1 >= a->ups && a->gaps + 1 >= b->ups); /* each connection that was up and ended */
    net_end(&net);
    return reached;
}

static void test_each_allocation(void **state)
{
    static const long counts[] = {1, 4}, steps[] = {1, 3};
    (void)state;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        long n = 1;
        while (conversation(n, counts[i])) {
            assert_true((n += steps[i]) < ALLOCATIONS_MAX);
        }
        print_message("# %ld allocations, %ld fail at each\n", n - 1, counts[i]);
        assert_true(n > 20);
    }
}

/* A message that found no memory: the sender hears when it may try again, though its queue was empty. */
static void test_room_after_no_memory(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    net_dial(a, b);
    b->welcome = true;
    NET_UNTIL(&net, net_is_up(a, b));
    no_memory(1, 1);
    assert_false(net_send(a, b, DN_TRANSPORT_NORMAL, "x", 1));
    enough_memory();
    assert_int_equal(a->rooms, 0); /* never from within the call */
    NET_UNTIL(&net, a->rooms == 1);
    assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "x", 1));
    NET_UNTIL(&net, b->messages == 1);
    assert_int_equal(a->rooms, 1);
    net_end(&net);
}

/* Three nodes, every third allocation fails for a while. */
static void test_often(void **state)
{
    struct net net;
    struct traffic traffic[3] = {0};
    struct test_random random = test_random_start("out of memory");
    unsigned failures = 0;
    (void)state;
    net_start(&net);
    for (unsigned i = 0; i < 3; i++) {
        net_node(&net, i, NULL, bind_by_name);
    }
    /* Each node hears one other: its numbers rise. */
    for (unsigned i = 0; i < 3; i++) {
        net.nodes[i].on_message = check_message;
        net.nodes[i].data = &traffic[i];
        for (unsigned j = 0; j < 3; j++) {
            if (i != j) {
                dial_by_name(&net.nodes[i], &net.nodes[j]);
            }
        }
    }
    for (unsigned round = 0; round < 300; round++) {
        unsigned from = (unsigned)test_random_below(&random, 3), to = (from + 1) % 3;
        uint8_t queue = (uint8_t)test_random_below(&random, DN_TRANSPORT_QUEUES);
        size_t length =
            HEAD_BYTES + test_random_below(&random, test_random_below(&random, 8) == 0 ? LONG_BYTES : 3000);
        no_memory(1 + (long)test_random_below(&random, 3), 1 + (long)test_random_below(&random, 2));
        send_one(&net.nodes[from], &net.nodes[to], queue, length);
        if (test_random_below(&random, 10) == 0) {
            dn_transport_reset(net.nodes[from].transport, to + 1);
        }
        if (round % 15 == 0) {
            net_run_ms(&net, 20);
        } else {
            uv_run(&net.loop, UV_RUN_NOWAIT);
        }
        failures += (unsigned)atomic_load(&memory_failures);
    }
    enough_memory();
    print_message("# %u failures\n", failures);
    assert_true(failures > 5);
    for (unsigned i = 0; i < 3; i++) {
        struct net_node *from = &net.nodes[i], *to = &net.nodes[(i + 1) % 3];
        NET_UNTIL(&net, net_is_up(from, to) && send_one(from, to, DN_TRANSPORT_BULK, LONG_BYTES));
    }
    for (unsigned i = 0; i < 3; i++) {
        NET_UNTIL(&net, traffic[i].last[DN_TRANSPORT_BULK] == traffic[i].sent[DN_TRANSPORT_BULK]);
    }
    net_end(&net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_each_allocation),
        cmocka_unit_test(test_room_after_no_memory),
        cmocka_unit_test(test_often),
    };
    return cmocka_run_group_tests_name("transport.out_of_memory", tests, NULL, NULL);
}
