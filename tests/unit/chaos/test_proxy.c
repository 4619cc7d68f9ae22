/* The proxy with real sockets: this program is node 1, which dials, and the port behind node 2. */
#include "base/clock.h"
#include "base/text.h"
#include "chaos/proxy.h"
#include "tests/unit/base/cmocka_all.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOTHING_MS 60 /* so long nothing comes: too short a time can only miss a fault, never make one up */
#define COMES_MS 10000

static struct proxy *proxy;
static int listener, dialler, acceptor; /* acceptor: -1 before the connection came through */
static char address[64];

static int listen_somewhere(char *ret_address, size_t size)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(inet_pton(AF_INET, "127.0.0.1", &at.sin_addr), 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, length), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &length), 0);
    snprintf(ret_address, size, "127.0.0.1:%u", ntohs(at.sin_port));
    return fd;
}

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    char host[256];
    uint16_t port;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(dn_parse_address(address, host, &port));
    to.sin_port = htons(port);
    assert_int_equal(inet_pton(AF_INET, host, &to.sin_addr), 1);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static int accept_within(int timeout_ms)
{
    struct pollfd watched = {.fd = listener, .events = POLLIN};

    return poll(&watched, 1, timeout_ms) == 1 ? accept(listener, NULL, NULL) : -1;
}

static void link_set(unsigned from, unsigned to, struct net_link link)
{
    proxy_set(proxy, from, to, &link);
}

static int set_up(void **state)
{
    char target[64];

    (void)state;
    listener = listen_somewhere(target, sizeof target);
    assert_int_equal(proxy_create(2, &proxy, NULL), DN_OK);
    assert_int_equal(proxy_listen(proxy, 2, target, address, sizeof address, NULL), DN_OK);
    proxy_process(proxy, 1, getpid());
    dialler = acceptor = -1;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    proxy_destroy(proxy);
    close(listener);
    if (dialler >= 0)
        close(dialler);
    if (acceptor >= 0)
        close(acceptor);
    return 0;
}

static void connect_through(void)
{
    dialler = dial();
    acceptor = accept_within(COMES_MS);
    assert_true(acceptor >= 0);
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static bool silent(int fd)
{
    struct pollfd watched = {.fd = fd, .events = POLLIN};

    return poll(&watched, 1, NOTHING_MS) == 0;
}

static void hear(int fd, const char *text)
{
    char got[256];
    size_t length = 0;

    while (length < strlen(text)) {
        struct pollfd watched = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&watched, 1, COMES_MS), 1);
        ssize_t n = recv(fd, got + length, sizeof got - length, 0);
        assert_true(n > 0);
        length += (size_t)n;
    }
    assert_int_equal(length, strlen(text));
    assert_memory_equal(got, text, length);
}

/* 0: an orderly end; else errno. */
static int end_of(int fd)
{
    char byte;
    struct pollfd watched = {.fd = fd, .events = POLLIN};

    assert_int_equal(poll(&watched, 1, COMES_MS), 1);
    ssize_t n = recv(fd, &byte, 1, 0);
    assert_true(n <= 0);
    return n == 0 ? 0 : errno;
}

static void bytes_pass(void **state)
{
    (void)state;
    connect_through();
    say(dialler, "there");
    hear(acceptor, "there");
    say(acceptor, "and back");
    hear(dialler, "and back");
    say(dialler, "last");
    shutdown(dialler, SHUT_WR);
    hear(acceptor, "last");
    assert_int_equal(end_of(acceptor), 0);
    say(acceptor, "still open this way");
    hear(dialler, "still open this way");
}

static void a_lot_passes_whole(void **state)
{
    enum { BYTES = 8 << 20 };
    uint8_t *out = malloc(BYTES), *in = malloc(BYTES);
    size_t sent = 0, got = 0;

    (void)state;
    connect_through();
    for (size_t i = 0; i < BYTES; i++)
        out[i] = (uint8_t)(i * 2654435761u >> 13);
    while (got < BYTES) {
        struct pollfd fds[2] = {{.fd = dialler, .events = sent < BYTES ? POLLOUT : 0},
                                {.fd = acceptor, .events = POLLIN}};
        assert_true(poll(fds, 2, COMES_MS) > 0);
        ssize_t n = fds[0].revents & POLLOUT ? send(dialler, out + sent, BYTES - sent, MSG_DONTWAIT) : 0;
        sent += n > 0 ? (size_t)n : 0;
        n = fds[1].revents & POLLIN ? recv(acceptor, in + got, BYTES - got, MSG_DONTWAIT) : 0;
        got += n > 0 ? (size_t)n : 0;
    }
    assert_memory_equal(in, out, BYTES);
    free(in);
    free(out);
}

static void a_cut_holds_one_way(void **state)
{
    (void)state;
    connect_through();
    link_set(1, 2, (struct net_link){.cut = true});
    say(dialler, "held");
    assert_true(silent(acceptor));
    say(acceptor, "passes");
    hear(dialler, "passes");
    link_set(1, 2, (struct net_link){0});
    hear(acceptor, "held");
}

static void a_cut_holds_the_end_too(void **state)
{
    (void)state;
    connect_through();
    link_set(1, 2, (struct net_link){.cut = true});
    say(dialler, "last words");
    close(dialler);
    dialler = -1;
    assert_true(silent(acceptor));
    link_set(1, 2, (struct net_link){0});
    hear(acceptor, "last words");
    assert_int_equal(end_of(acceptor), 0);
}

static void a_cut_leads_nobody_through(void **state)
{
    (void)state;
    link_set(2, 1, (struct net_link){.cut = true}); /* either direction */
    dialler = dial();
    assert_int_equal(accept_within(NOTHING_MS), -1);
    link_set(2, 1, (struct net_link){0});
    acceptor = accept_within(COMES_MS);
    assert_true(acceptor >= 0);
    say(dialler, "hello");
    hear(acceptor, "hello");
}

static void a_reset_is_told(void **state)
{
    (void)state;
    connect_through();
    link_set(2, 1, (struct net_link){.cut = true, .reset = true});
    assert_int_equal(end_of(dialler), ECONNRESET);
    assert_int_equal(end_of(acceptor), ECONNRESET);
    close(dialler);
    dialler = dial(); /* the kernel takes it, the proxy does not */
    assert_int_equal(end_of(dialler), ECONNRESET);
    assert_int_equal(accept_within(NOTHING_MS), -1);
}

static void delay_and_rate(void **state)
{
    (void)state;
    connect_through();
    link_set(1, 2, (struct net_link){.delay_ms = 40});
    uint64_t begun = dn_monotonic_us();
    say(dialler, "late");
    hear(acceptor, "late");
    assert_true(dn_monotonic_us() - begun >= 40000);
    char much[201] = {0};
    memset(much, 'x', 200);
    link_set(1, 2, (struct net_link){.rate_kib = 2});
    begun = dn_monotonic_us();
    say(dialler, much);
    hear(acceptor, much);
    assert_true(dn_monotonic_us() - begun >= 200 * 1000000ull / 2048 - 1000);
}

static unsigned turned_bits(void)
{
    char got[8] = {0};
    unsigned turned = 0;

    say(dialler, "12345678");
    for (size_t length = 0; length < sizeof got;) {
        ssize_t n = recv(acceptor, got + length, sizeof got - length, 0);
        assert_true(n > 0);
        length += (size_t)n;
    }
    for (int i = 0; i < 8; i++)
        turned += (unsigned)__builtin_popcount((unsigned)(got[i] ^ "12345678"[i]) & 0xff);
    return turned;
}

static void one_bit_is_turned(void **state)
{
    struct net_counts counts;

    (void)state;
    connect_through();
    link_set(1, 2, (struct net_link){.corrupt_pm = 1000});
    for (unsigned i = 1; i <= 50; i++) {
        assert_int_equal(turned_bits(), 1);
        proxy_counts(proxy, &counts);
        assert_int_equal(counts.corrupted, i);
    }
    link_set(1, 2, (struct net_link){0});
    assert_int_equal(turned_bits(), 0);
}

static void half_a_message(void **state)
{
    char got[9] = {0};

    (void)state;
    connect_through();
    link_set(1, 2, (struct net_link){.break_pm = 1000});
    say(dialler, "12345678");
    /* Linux gives what came before a reset first, or the reset alone: never more than half. */
    ssize_t n = recv(acceptor, got, sizeof got - 1, 0);
    assert_true(n <= 4);
    assert_memory_equal(got, "1234", n > 0 ? (size_t)n : 0);
    assert_int_equal(end_of(dialler), ECONNRESET);
}

static void a_stranger_is_reset(void **state)
{
    (void)state;
    proxy_process(proxy, 1, 0);
    dialler = dial();
    assert_int_equal(end_of(dialler), ECONNRESET);
    assert_int_equal(accept_within(NOTHING_MS), -1);
}

static void nobody_behind_it(void **state)
{
    (void)state;
    close(listener);
    listener = -1;
    dialler = dial();
    assert_int_equal(end_of(dialler), ECONNRESET);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bytes_pass, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_lot_passes_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cut_holds_one_way, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cut_holds_the_end_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cut_leads_nobody_through, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_reset_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(delay_and_rate, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_bit_is_turned, set_up, tear_down),
        cmocka_unit_test_setup_teardown(half_a_message, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stranger_is_reset, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nobody_behind_it, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
