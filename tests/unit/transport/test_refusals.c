/* Who is not let in: other keys, other clusters, other nodes, strangers of all kinds; and that those who
 * belong here are let in meanwhile, and while keys are rotated. */
#include "tests/unit/transport/proxy.h"

#include "transport/handshake.h"

/* ---- keys --------------------------------------------------------------------------------------------- */

static void test_key_files(void **state)
{
    static const struct {
        const char *text;
        mode_t mode;
        enum dn_code code;
    } rows[] = {
        {NET_KEY_A "\n", 0600, DN_OK},
        {NET_KEY_A, 0400, DN_OK},
        {"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n", 0600, DN_OK}, /* the same in base64 */
        {"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA", 0600, DN_INVALID},
        {NET_KEY_A, 0640, DN_DENIED},
        {NET_KEY_A, 0604, DN_DENIED},
        {NET_KEY_A, 0601, DN_DENIED},
        {"", 0600, DN_INVALID},
        {"\n", 0600, DN_INVALID},
        {NET_KEY_A "00", 0600, DN_INVALID},
        {NET_KEY_A NET_KEY_A NET_KEY_A, 0600, DN_INVALID},
        {"0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fxx", 0600, DN_INVALID},
        {"0000000000000000000000000000000000000000000000000000000000000000", 0600, DN_INVALID},
    };
    struct net net;
    struct dn_transport_keys *keys = NULL;
    struct dn_error err;
    struct stat info;
    char path[64];
    (void)state;
    net_start(&net);
    net_key_path(&net, "key", path);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        net_write_key(path, rows[i].text, rows[i].mode);
        enum dn_code code = dn_transport_keys_load(path, NULL, &keys, &err);
        if (code != rows[i].code) {
            fail_msg("row %zu: %s, not %s", i, dn_code_text(code), dn_code_text(rows[i].code));
        }
        if (code == DN_OK) {
            assert_false(dn_transport_keys_open(keys));
            dn_transport_keys_free(keys);
        } else {
            assert_null(strstr(err.message, "0102")); /* never a key in a message */
            assert_non_null(strstr(err.message, path));
        }
        assert_int_equal(chmod(path, 0600), 0);
        unlink(path);
    }
    assert_int_equal(dn_transport_keys_load(path, NULL, &keys, &err), DN_NOT_FOUND);
    assert_int_equal(dn_transport_keys_load(net.folder, NULL, &keys, &err), DN_INVALID);
    assert_int_equal(dn_transport_keys_load(NULL, path, &keys, &err), DN_INVALID);
    assert_int_equal(dn_transport_key_create(path, &err), DN_OK);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(dn_transport_key_create(path, &err), DN_EXISTS);
    assert_int_equal(dn_transport_keys_load(path, path, &keys, &err), DN_OK);
    dn_transport_keys_free(keys);
    assert_int_equal(dn_transport_keys_load(NULL, NULL, &keys, &err), DN_OK);
    assert_true(dn_transport_keys_open(keys));
    dn_transport_keys_free(keys);
    dn_transport_keys_free(NULL);
    unlink(path);
    net_end(&net);
}

/* ---- handshakes between nodes ------------------------------------------------------------------------- */

static struct dn_transport_keys *open_key(void)
{
    struct dn_transport_keys *keys;
    assert_int_equal(dn_transport_keys_load(NULL, NULL, &keys, NULL), DN_OK);
    return keys;
}

static void test_wrong_key(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        struct net net;
        net_start(&net);
        struct net_node *a = net_node(&net, 0, NULL, NULL);
        struct net_node *b =
            net_node(&net, 1, round == 0 ? net_keys(&net, NET_KEY_B, NULL) : open_key(), NULL);
        net_dial(a, b);
        net_dial(b, a);
        NET_UNTIL(&net, net_refused(a, "key") >= 2 && net_refused(b, "key") >= 2);
        assert_int_equal(a->ups + b->ups, 0);
        assert_int_equal(net_refused_all(b), net_refused(b, "key"));
        net_end(&net);
    }
}

static void test_open_key(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, open_key(), NULL), *b = net_node(&net, 1, open_key(), NULL);
    b->welcome = true;
    net_dial(a, b);
    NET_UNTIL(&net, a->ups == 1);
    net_end(&net);
}

/* From key A to key B, node by node: everybody takes both before anybody dials with B. */
static void test_rotation(void **state)
{
    static const char *const steps[][2] = {
        {NET_KEY_A, NULL}, {NET_KEY_A, NET_KEY_B}, {NET_KEY_B, NET_KEY_A}, {NET_KEY_B, NULL}};
    (void)state;
    for (unsigned step = 0; step + 1 < sizeof steps / sizeof *steps; step++) {
        struct net net;
        net_start(&net);
        struct net_node *a = net_node(&net, 0, net_keys(&net, steps[step][0], steps[step][1]), NULL);
        struct net_node *b = net_node(&net, 1, net_keys(&net, steps[step + 1][0], steps[step + 1][1]), NULL);
        net_dial(a, b);
        net_dial(b, a);
        NET_UNTIL(&net, a->ups == 1 && b->ups == 1);
        assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "old", 3));
        assert_true(net_send(b, a, DN_TRANSPORT_NORMAL, "new", 3));
        NET_UNTIL(&net, a->messages == 1 && b->messages == 1);
        assert_int_equal(net_refused(a, "key") + net_refused(b, "key"), 0);
        net_end(&net);
    }
}

static void other_cluster(struct dn_transport_options *options)
{
    options->cluster_id = "tesu";
}

static void test_other_cluster(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, other_cluster);
    b->welcome = true;
    net_dial(a, b);
    NET_UNTIL(&net, net_refused(a, "cluster") >= 1 && net_refused(b, "cluster") >= 1);
    assert_int_equal(a->ups, 0);
    assert_int_equal(b->unknowns, 0); /* not even asked */
    net_end(&net);
}

static void test_wrong_raft_id(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    b->welcome = true;
    net_dial_port(a, 7, dn_transport_port(b->transport));
    NET_UNTIL(&net, net_refused(a, "wrong_peer") >= 1 && net_refused(b, "wrong_peer") >= 1);
    assert_int_equal(a->ups, 0);
    dn_transport_peer_remove(a->transport, 7);
    net_dial(a, b);
    NET_UNTIL(&net, a->ups == 1);
    net_end(&net);
}

static void as_node_0(struct dn_transport_options *options)
{
    options->self.raft_id = 1;
}

/* Two nodes claim one raft id: the third hears one of them at a time, and learns of each change. */
static void test_twins(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    struct net_node *twin = net_node(&net, 2, NULL, as_node_0);
    b->welcome = true;
    net_dial(a, b);
    NET_UNTIL(&net, a->ups == 1);
    assert_int_equal(b->gaps, 0);
    net_dial(twin, b);
    NET_UNTIL(&net, twin->ups >= 1 && b->gaps >= 1 && a->downs >= 1);
    assert_int_equal(net_accepted(b), 1);
    NET_UNTIL(&net, a->ups >= 2);
    net_end(&net);
}

/* ---- strangers ---------------------------------------------------------------------------------------- */

static void short_handshake(struct dn_transport_options *options)
{
    options->handshake_timeout_ms = 300;
}

static void drop(struct net *net, int fd)
{
    NET_UNTIL(net, stranger_dropped(fd));
    close(fd);
}

static void test_garbage(void **state)
{
    struct net net;
    uint8_t bytes[4096];
    struct test_random random = test_random_start("garbage");
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL);
    uint16_t port = dn_transport_port(a->transport);
    int fd = stranger(port);
    stranger_says(fd, "GET / HTTP/1.1\r\n\r\n", 18);
    drop(&net, fd);
    assert_int_equal(net_refused(a, "malformed"), 1);
    for (unsigned i = 0; i < 200; i++) {
        size_t length = 4 + test_random_below(&random, sizeof bytes - 4);
        for (size_t k = 0; k < length; k++) {
            bytes[k] = (uint8_t)test_random_next(&random);
        }
        fd = stranger(port);
        stranger_says(fd, bytes, length);
        drop(&net, fd);
    }
    assert_int_equal(net_refused(a, "malformed"), 201);
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, "DNPR\x01\x01", 6); /* the version before */
    fd = stranger(port);
    stranger_says(fd, bytes, HANDSHAKE_HELLO_BYTES);
    drop(&net, fd);
    assert_int_equal(net_refused(a, "version"), 1);
    bytes[4] = HANDSHAKE_VERSION;
    for (unsigned id = 0; id < 256; id++) { /* every key id, no key */
        bytes[6] = (uint8_t)id;
        fd = stranger(port);
        stranger_says(fd, bytes, HANDSHAKE_HELLO_BYTES);
        drop(&net, fd);
    }
    assert_int_equal(net_refused(a, "key"), 255);
    assert_int_equal(net_refused(a, "tampered"), 1);
    assert_int_equal(a->messages, 0);
    net_end(&net);
}

static void test_silence(void **state)
{
    struct net net;
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, short_handshake);
    int silent = stranger(dn_transport_port(a->transport)),
        partial = stranger(dn_transport_port(a->transport));
    stranger_says(partial, "DNPR\x02\x01", 6);
    drop(&net, silent);
    drop(&net, partial);
    assert_int_equal(net_refused(a, "timeout"), 2);
    int gone = stranger(dn_transport_port(a->transport)); /* hangs up by itself: nothing to count */
    net_run_ms(&net, 20);
    close(gone);
    net_run_ms(&net, 20);
    assert_int_equal(net_refused_all(a), 2);
    /* The other way round: one that we dial and that says nothing. */
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int mute = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uv_ip4_addr("127.0.0.1", 0, &address);
    assert_int_equal(bind(mute, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(mute, 4), 0);
    assert_int_equal(getsockname(mute, (struct sockaddr *)&address, &length), 0);
    net_dial_port(a, 5, ntohs(address.sin_port));
    NET_UNTIL(&net, net_refused(a, "timeout") >= 3);
    close(mute);
    net_end(&net);
}

/* Strangers take all the slots there are, again and again: the oldest go, and a node gets in among them. */
static void test_many(void **state)
{
    enum { MANY = 200 }; /* fewer than slots and backlog: nobody blocks in connect */
    struct net net;
    int fds[MANY];
    (void)state;
    net_start(&net);
    struct net_node *a = net_node(&net, 0, NULL, NULL), *b = net_node(&net, 1, NULL, NULL);
    for (unsigned i = 0; i < MANY; i++) {
        fds[i] = stranger(dn_transport_port(b->transport));
        if (i % 7 == 0) {
            uv_run(&net.loop, UV_RUN_NOWAIT);
        }
    }
    NET_UNTIL(&net, net_refused(b, "crowded") == MANY - DN_TRANSPORT_UNPROVED_MAX);
    for (unsigned i = 0; i < MANY - DN_TRANSPORT_UNPROVED_MAX; i++) {
        NET_UNTIL(&net, stranger_dropped(fds[i]));
    }
    assert_false(stranger_dropped(fds[MANY - 1]));
    b->welcome = true;
    net_dial(a, b);
    NET_UNTIL(&net, a->ups == 1);
    assert_true(net_send(a, b, DN_TRANSPORT_NORMAL, "through", 7));
    NET_UNTIL(&net, b->messages == 1);
    assert_int_equal(net_refused_all(b), MANY - DN_TRANSPORT_UNPROVED_MAX + 1);
    for (unsigned i = 0; i < MANY; i++) {
        close(fds[i]);
    }
    net_end(&net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_files),     cmocka_unit_test(test_wrong_key),
        cmocka_unit_test(test_open_key),      cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_other_cluster), cmocka_unit_test(test_wrong_raft_id),
        cmocka_unit_test(test_twins),         cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_silence),       cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
