/* The switch between namespaces, with sockets in two of them (as root; else that part is skipped by name);
 * and the packets it corrupts. */
#include "base/clock.h"
#include "chaos/net.h"
#include "tests/unit/base/cmocka_all.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOTHING_MS 60 /* so long nothing comes: too short a time can only miss a fault, never make one up */
#define COMES_MS 10000
#define PORT 5000

/* ---- packets ---------------------------------------------------------------------------------------------
 */

/* RFC 1071, over the pseudo header and the segment. 0: the packet's own checksum is right. */
static uint16_t tcp_sum(const uint8_t *packet, size_t length)
{
    size_t segment = length - 20;
    uint32_t sum = 6 + (uint32_t)segment;

    for (size_t i = 12; i < 20; i += 2)
        sum += (uint32_t)packet[i] << 8 | packet[i + 1];
    for (size_t i = 0; i < segment; i++)
        sum += (uint32_t)packet[20 + i] << (i % 2 == 0 ? 8 : 0);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static size_t make_packet(uint8_t *packet, size_t payload)
{
    size_t length = 40 + payload;

    memset(packet, 0, length);
    packet[0] = 0x45;
    packet[9] = 6;
    packet[15] = 1;
    packet[19] = 2;
    packet[20 + 12] = 5 << 4;
    for (size_t i = 0; i < payload; i++)
        packet[40 + i] = (uint8_t)(i * 37 + payload);
    uint16_t sum = tcp_sum(packet, length);
    packet[36] = (uint8_t)(sum >> 8);
    packet[37] = (uint8_t)sum;
    assert_int_equal(tcp_sum(packet, length), 0);
    return length;
}

static void a_turned_bit_passes_the_checksum(void **state)
{
    uint8_t before[200], after[200];

    (void)state;
    for (size_t payload = 1; payload <= 17; payload++)
        for (uint32_t bit = 0; bit < payload * 8; bit++) {
            size_t length = make_packet(before, payload);
            memcpy(after, before, length);
            assert_true(net_packet_corrupt(after, length, bit));
            assert_int_equal(tcp_sum(after, length), 0);
            unsigned turned = 0;
            for (size_t i = 40; i < length; i++)
                turned += (unsigned)__builtin_popcount((unsigned)before[i] ^ after[i]);
            assert_int_equal(turned, 1);
            assert_memory_equal(before, after, 36); /* addresses and all of the head but the checksum */
        }
}

static void what_has_no_payload_stays(void **state)
{
    uint8_t packet[200], before[200];
    size_t length = make_packet(packet, 0);

    (void)state;
    memcpy(before, packet, sizeof before);
    assert_false(net_packet_corrupt(packet, length, 3));
    assert_false(net_packet_corrupt(packet, 39, 3));
    length = make_packet(packet, 8);
    packet[9] = 17; /* UDP */
    assert_false(net_packet_corrupt(packet, length, 3));
    packet[9] = 6;
    packet[20 + 12] = 15 << 4; /* a head that is longer than what there is */
    assert_false(net_packet_corrupt(packet, length, 3));
    packet[20 + 12] = 4 << 4; /* shorter than a head can be */
    assert_false(net_packet_corrupt(packet, length, 3));
}

/* ---- the switch
 * -------------------------------------------------------------------------------------------- */

static struct net_switch *sw;
static int one, two, runner; /* UDP sockets of nodes 1 and 2, and of this program */

struct making {
    int space, fd;
};

static void *make_socket(void *data)
{
    struct making *m = data;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(PORT)};

    if (m->space >= 0)
        assert_int_equal(setns(m->space, CLONE_NEWNET), 0);
    m->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (m->space >= 0)
        assert_int_equal(bind(m->fd, (struct sockaddr *)&at, sizeof at), 0);
    return NULL;
}

static int socket_in(int space)
{
    struct making m = {.space = space};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, make_socket, &m), 0);
    pthread_join(thread, NULL);
    assert_true(m.fd >= 0);
    return m.fd;
}

static char prefix[16];

static int set_up(void **state)
{
    struct dn_error err = {0};

    (void)state;
    snprintf(prefix, sizeof prefix, "10.%d.%d", 30 + (int)getpid() / 250 % 30, 1 + (int)getpid() % 250);
    if (net_switch_create(2, prefix, &sw, &err) != DN_OK) {
        print_message("SKIPPED (namespaces): %s\n", err.message);
        sw = NULL;
        return 0;
    }
    one = socket_in(net_switch_space(sw, 1));
    two = socket_in(net_switch_space(sw, 2));
    runner = socket_in(-1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (sw != NULL) {
        close(one);
        close(two);
        close(runner);
    }
    net_switch_destroy(sw);
    sw = NULL;
    return 0;
}

static void send_to(int fd, int node, uint32_t number)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    char address[32];

    snprintf(address, sizeof address, "%s.%d", prefix, node);
    assert_int_equal(inet_pton(AF_INET, address, &to.sin_addr), 1);
    assert_int_equal(sendto(fd, &number, sizeof number, 0, (struct sockaddr *)&to, sizeof to), sizeof number);
}

/* The next number that comes; UINT32_MAX: none in time. */
static uint32_t next_of(int fd, int timeout_ms)
{
    uint32_t number;
    struct pollfd watched = {.fd = fd, .events = POLLIN};

    if (poll(&watched, 1, timeout_ms) != 1)
        return UINT32_MAX;
    assert_int_equal(recv(fd, &number, sizeof number, 0), sizeof number);
    return number;
}

static void packets_pass(void **state)
{
    (void)state;
    if (sw == NULL)
        skip();
    send_to(one, 2, 1);
    assert_int_equal(next_of(two, COMES_MS), 1);
    send_to(two, 1, 2);
    assert_int_equal(next_of(one, COMES_MS), 2);
    send_to(runner, 2, 3);
    assert_int_equal(next_of(two, COMES_MS), 3);
}

static void a_cut_is_one_way_and_spares_clients(void **state)
{
    (void)state;
    if (sw == NULL)
        skip();
    net_switch_set(sw, 1, 2, &(struct net_link){.cut = true});
    send_to(one, 2, 1);
    assert_int_equal(next_of(two, NOTHING_MS), UINT32_MAX);
    send_to(two, 1, 2);
    assert_int_equal(next_of(one, COMES_MS), 2);
    send_to(runner, 2, 3);
    assert_int_equal(next_of(two, COMES_MS), 3);
    net_switch_set(sw, 1, 2, &(struct net_link){0});
    send_to(one, 2, 4);
    assert_int_equal(next_of(two, COMES_MS), 4); /* and 1 never */
    struct net_counts counts;
    net_switch_counts(sw, &counts);
    assert_int_equal(counts.cut, 1);
}

/* Nodes that are cut off from each other reach it; one that is cut off from it reaches the others, and is
 * reached. */
static void a_broker_has_links_of_its_own(void **state)
{
    const struct net_link cut = {.cut = true}, whole = {0};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    char address[32];

    (void)state;
    if (sw == NULL)
        skip();
    snprintf(address, sizeof address, "%s.%d", prefix, NET_BROKER_NUMBER);
    assert_int_equal(inet_pton(AF_INET, address, &at.sin_addr), 1);
    int broker = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(broker, (struct sockaddr *)&at, sizeof at), 0);
    net_switch_set(sw, 1, 2, &cut);
    net_switch_set(sw, 2, 1, &cut);
    send_to(one, NET_BROKER_NUMBER, 1);
    assert_int_equal(next_of(broker, COMES_MS), 1);
    send_to(broker, 1, 2);
    assert_int_equal(next_of(one, COMES_MS), 2);
    net_switch_set(sw, 1, 2, &whole);
    net_switch_set(sw, 2, 1, &whole);
    net_switch_set(sw, 1, NET_BROKER, &cut);
    send_to(one, NET_BROKER_NUMBER, 3);
    assert_int_equal(next_of(broker, NOTHING_MS), UINT32_MAX);
    send_to(broker, 1, 4); /* one way alone */
    assert_int_equal(next_of(one, COMES_MS), 4);
    net_switch_set(sw, NET_BROKER, 1, &cut);
    send_to(broker, 1, 5);
    assert_int_equal(next_of(one, NOTHING_MS), UINT32_MAX);
    send_to(runner, 1, 6); /* a client is not the broker */
    assert_int_equal(next_of(one, COMES_MS), 6);
    send_to(one, 2, 7);
    assert_int_equal(next_of(two, COMES_MS), 7);
    send_to(two, NET_BROKER_NUMBER, 8);
    assert_int_equal(next_of(broker, COMES_MS), 8);
    close(broker);
}

static void loss_and_doubling(void **state)
{
    (void)state;
    if (sw == NULL)
        skip();
    net_switch_set(sw, 1, 2, &(struct net_link){.loss_pm = 1000});
    send_to(one, 2, 1);
    assert_int_equal(next_of(two, NOTHING_MS), UINT32_MAX);
    net_switch_set(sw, 1, 2, &(struct net_link){.duplicate_pm = 1000});
    send_to(one, 2, 2);
    assert_int_equal(next_of(two, COMES_MS), 2);
    assert_int_equal(next_of(two, COMES_MS), 2);
    net_switch_set(sw, 1, 2, &(struct net_link){.loss_pm = 500});
    for (uint32_t i = 0; i < 200; i++)
        send_to(one, 2, i);
    struct net_counts counts;
    do { /* until the switch has seen them all */
        poll(NULL, 0, 1);
        net_switch_counts(sw, &counts);
    } while (counts.sent + counts.lost < 1 + 2 + 200);
    net_switch_set(sw, 1, 2, &(struct net_link){0});
    send_to(one, 2, 1000);
    unsigned came = 0;
    while (next_of(two, COMES_MS) != 1000)
        came++;
    assert_in_range(came, 50, 150);
}

static void delay_keeps_the_order(void **state)
{
    (void)state;
    if (sw == NULL)
        skip();
    net_switch_set(sw, 1, 2, &(struct net_link){.delay_ms = 30, .jitter_ms = 20});
    uint64_t begun = dn_monotonic_us();
    for (uint32_t i = 0; i < 100; i++)
        send_to(one, 2, i);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(next_of(two, COMES_MS), i);
        assert_true(dn_monotonic_us() - begun >= 30000);
    }
    /* A link that is healed lets nothing overtake what still waits. */
    send_to(one, 2, 200);
    poll(NULL, 0, 10); /* the switch has it */
    net_switch_set(sw, 1, 2, &(struct net_link){0});
    send_to(one, 2, 201);
    assert_int_equal(next_of(two, COMES_MS), 200);
    assert_int_equal(next_of(two, COMES_MS), 201);
}

static void reordering(void **state)
{
    uint32_t last = 0;
    unsigned late = 0;

    (void)state;
    if (sw == NULL)
        skip();
    net_switch_set(sw, 1, 2, &(struct net_link){.delay_ms = 50, .reorder_pm = 300});
    for (uint32_t i = 0; i < 200; i++)
        send_to(one, 2, i);
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t number = next_of(two, COMES_MS);
        late += number < last;
        last = number > last ? number : last;
    }
    assert_true(late > 10);
}

static void a_narrow_link(void **state)
{
    (void)state;
    if (sw == NULL)
        skip();
    net_switch_set(sw, 1, 2, &(struct net_link){.rate_kib = 16});
    uint64_t begun = dn_monotonic_us();
    for (uint32_t i = 0; i < 64; i++)
        send_to(one, 2, i);
    for (uint32_t i = 0; i < 64; i++)
        assert_int_equal(next_of(two, COMES_MS), i);
    assert_true(dn_monotonic_us() - begun >=
                64 * 32 * 1000000ull / (16 * 1024) - 2000); /* 32 bytes a packet */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turned_bit_passes_the_checksum),
        cmocka_unit_test(what_has_no_payload_stays),
        cmocka_unit_test_setup_teardown(packets_pass, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cut_is_one_way_and_spares_clients, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_broker_has_links_of_its_own, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loss_and_doubling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(delay_keeps_the_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reordering, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_narrow_link, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
