/* A man in the middle: every byte of the handshake and of frames is altered once, whole sessions are
 * replayed, connections are cut. Nothing altered or invented arrives, it is counted, and the connection comes
 * back. */
#include "tests/unit/transport/proxy.h"

#include "transport/frame.h"
#include "transport/handshake.h"

#define FORTH_BYTES (HANDSHAKE_HELLO_BYTES + HANDSHAKE_CONFIRM_BYTES)
#define BACK_BYTES (HANDSHAKE_STEP_MAX + HANDSHAKE_VERDICT_BYTES)
#define TEXT "the only message there is, nothing else may ever arrive"

static void expect_text(struct net_node *node, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                        size_t length)
{
    (void)node;
    assert_int_equal(from->raft_id, 1);
    assert_int_equal(length, sizeof TEXT);
    assert_memory_equal(bytes, TEXT, sizeof TEXT);
}

static void forget(struct net *net, struct net_node *a, struct net_node *b, struct proxy *proxy)
{
    dn_transport_peer_remove(a->transport, 2);
    NET_UNTIL(net, proxy->pairs == 0 && a->ups == a->downs && (b == NULL || net_accepted(b) == 0));
}

static void test_handshake_bits(void **state)
{
    struct net net;
    struct test_random random = test_random_start("handshake bits");
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    struct proxy *proxy = proxy_start(&net, dn_transport_port(b->transport));
    b->welcome = true;
    for (unsigned i = 0; i < FORTH_BYTES + BACK_BYTES; i++) {
        uint64_t before = net_refused_all(a) + net_refused_all(b);
        unsigned flips = proxy->flips;
        proxy->flip_way = i < FORTH_BYTES ? PROXY_FORTH : PROXY_BACK;
        proxy->flip_at = i < FORTH_BYTES ? i : i - FORTH_BYTES;
        proxy->flip_bits = (uint8_t)(1u << test_random_below(&random, 8));
        net_dial_port(a, 2, proxy->port);
        NET_UNTIL(&net, net_refused_all(a) + net_refused_all(b) > before && proxy->flips > flips);
        if (a->ups != 0) {
            fail_msg("up in spite of bits %02x of byte %u", proxy->flip_bits, i);
        }
        forget(&net, a, b, proxy);
    }
    assert_true(net_refused(b, "tampered") > 0 && net_refused(a, "tampered") > 0);
    assert_int_equal(net_refused(b, "version"), 1);
    assert_int_equal(net_refused(b, "key"), 1);
    proxy->flip_way = PROXY_NOWAY;
    b->on_message = expect_text;
    net_dial_port(a, 2, proxy->port);
    NET_UNTIL(&net, net_is_up(a, b));
    assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, TEXT, sizeof TEXT));
    NET_UNTIL(&net, b->messages == 1);
    forget(&net, a, b, proxy);
    proxy_stop(&net, proxy);
    net_end(&net);
}

/* One bit of the first frame. */
static void test_frame_bits(void **state)
{
    struct net net;
    struct test_random random = test_random_start("frame bits");
    const size_t frame = FRAME_PREFIX_BYTES + FRAME_FLAGS_BYTES + FRAME_TOTAL_BYTES + sizeof TEXT +
                         crypto_secretstream_xchacha20poly1305_ABYTES;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    struct proxy *proxy = proxy_start(&net, dn_transport_port(b->transport));
    b->welcome = true;
    b->on_message = expect_text;
    for (unsigned i = 0; i < frame; i++) {
        uint64_t before = net_refused(b, "tampered") + net_refused(b, "malformed");
        unsigned gaps = b->gaps, messages = b->messages, downs = a->downs;
        proxy->flip_way = PROXY_FORTH;
        proxy->flip_at = FORTH_BYTES + i;
        proxy->flip_bits = (uint8_t)(1u << test_random_below(&random, 8));
        net_dial_port(a, 2, proxy->port);
        NET_UNTIL(&net, net_is_up(a, b));
        NET_UNTIL(&net, (net_send(a, b, DN_TRANSPORT_NORMAL, TEXT, sizeof TEXT), b->gaps > gaps));
        assert_int_equal(net_refused(b, "tampered") + net_refused(b, "malformed"), before + 1);
        assert_int_equal(b->messages, messages);
        proxy->flip_way = PROXY_NOWAY;
        NET_UNTIL(&net, a->downs > downs && net_is_up(a, b)); /* it comes back by itself */
        assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, TEXT, sizeof TEXT));
        NET_UNTIL(&net, b->messages == messages + 1);
        forget(&net, a, b, proxy);
    }
    proxy_stop(&net, proxy);
    net_end(&net);
}

/* The acceptor's only word after the handshake: a final tag. Altered, it is no clean close. */
static void test_goodbye_bits(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        struct net net;
        net_start(&net);
        struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
        struct proxy *proxy = proxy_start(&net, dn_transport_port(b->transport));
        b->welcome = true;
        proxy->flip_way = round == 2 ? PROXY_NOWAY : PROXY_BACK;
        proxy->flip_at = BACK_BYTES + (round == 0 ? 0 : 10);
        proxy->flip_bits = 1;
        net_dial_port(a, 2, proxy->port);
        NET_UNTIL(&net, net_is_up(a, b));
        net_stop(b);
        NET_UNTIL(&net, a->downs == 1);
        assert_int_equal(a->how, round == 2 ? DN_TRANSPORT_DOWN_CLOSED : DN_TRANSPORT_DOWN_LOST);
        assert_int_equal(net_refused(a, "tampered"), round == 2 ? 0 : 1);
        forget(&net, a, NULL, proxy);
        proxy_stop(&net, proxy);
        net_end(&net);
    }
}

/* A recorded session, said again to the same acceptor and to its next life. */
static void test_replay(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    struct proxy *proxy = proxy_start(&net, dn_transport_port(b->transport));
    b->welcome = true;
    b->on_message = expect_text;
    net_dial_port(a, 2, proxy->port);
    NET_UNTIL(&net, net_is_up(a, b));
    assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, TEXT, sizeof TEXT));
    NET_UNTIL(&net, b->messages == 1);
    size_t length = proxy->record_length;
    assert_true(length > FORTH_BYTES);
    for (unsigned i = 1; i <= 3; i++) {
        int fd = stranger(dn_transport_port(b->transport));
        stranger_says(fd, proxy->record, i == 1 ? length : HANDSHAKE_HELLO_BYTES);
        NET_UNTIL(&net, stranger_dropped(fd) && net_refused(b, "replay") == i);
        close(fd);
    }
    assert_true(net_is_up(a, b));
    assert_int_equal(b->gaps, 0); /* the real connection is not touched */
    forget(&net, a, b, proxy);
    net_stop(b);
    b = net_node(&net, 1, NULL, NULL);
    b->welcome = true;
    int fd = stranger(dn_transport_port(b->transport)); /* in steps, as an acceptor expects it */
    stranger_says(fd, proxy->record, HANDSHAKE_HELLO_BYTES);
    uint8_t answer[HANDSHAKE_STEP_MAX];
    NET_UNTIL(&net, recv(fd, answer, sizeof answer, MSG_DONTWAIT) == sizeof answer);
    stranger_says(fd, proxy->record + HANDSHAKE_HELLO_BYTES, length - HANDSHAKE_HELLO_BYTES);
    NET_UNTIL(&net, stranger_dropped(fd));
    close(fd);
    assert_int_equal(net_refused(b, "tampered"), 1);
    fd = stranger(dn_transport_port(b->transport)); /* the hello is known by now */
    stranger_says(fd, proxy->record, HANDSHAKE_HELLO_BYTES);
    NET_UNTIL(&net, stranger_dropped(fd) && net_refused(b, "replay") == 1);
    close(fd);
    assert_int_equal(b->messages, 0);
    assert_int_equal(b->unknowns, 0);
    proxy_stop(&net, proxy);
    net_end(&net);
}

static void test_cut(void **state)
{
    static uint8_t bytes[4 << 20];
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    struct proxy *proxy = proxy_start(&net, dn_transport_port(b->transport));
    b->welcome = true;
    net_dial_port(a, 2, proxy->port);
    NET_UNTIL(&net, net_is_up(a, b));
    assert_true(net_send(a, b, DN_TRANSPORT_BULK, bytes, sizeof bytes));
    proxy->flip_way = PROXY_FORTH; /* in the middle of a long message */
    proxy->flip_at = FORTH_BYTES + (2 << 20);
    proxy->flip_bits = 0x80;
    NET_UNTIL(&net, b->gaps == 1 && a->downs == 1);
    assert_int_equal(b->messages, 0); /* the half of it that came is gone */
    assert_int_equal(a->how, DN_TRANSPORT_DOWN_LOST);
    proxy->flip_way = PROXY_NOWAY;
    NET_UNTIL(&net, net_is_up(a, b));
    assert_true(net_send(a, b, DN_TRANSPORT_BULK, bytes, sizeof bytes));
    NET_UNTIL(&net, b->messages == 1);
    assert_int_equal(b->bytes, sizeof bytes);
    forget(&net, a, b, proxy);
    proxy_stop(&net, proxy);
    net_end(&net);
}

/* A process that is killed loses its connections before its listening socket: attempts in between are taken
 * and reset. They prove nothing; the one that is refused does. */
static void test_a_dying_process(void **state)
{
    (void)state;
    for (unsigned gasps = 1; gasps <= 4; gasps++) {
        struct net net;
        net_start(&net);
        struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
        struct proxy *proxy = proxy_start(&net, dn_transport_port(b->transport));
        b->welcome = true;
        net_dial_port(a, 2, proxy->port);
        NET_UNTIL(&net, net_is_up(a, b));
        net_run_ms(&net, 150); /* the connection has lasted */
        proxy->dying = true;
        proxy->last_gasps = gasps;
        proxy->flip_way = PROXY_FORTH; /* b hangs up */
        proxy->flip_at = FORTH_BYTES + 40;
        proxy->flip_bits = 1;
        uint8_t bytes[100] = {0};
        assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, bytes, sizeof bytes));
        NET_UNTIL(&net, a->downs > 0 && a->how == DN_TRANSPORT_DOWN_RESET_GONE);
        assert_true(proxy->dead);
        forget(&net, a, b, proxy);
        proxy_stop(&net, proxy);
        net_end(&net);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_dying_process), cmocka_unit_test(test_handshake_bits),
        cmocka_unit_test(test_frame_bits),      cmocka_unit_test(test_goodbye_bits),
        cmocka_unit_test(test_replay),          cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
