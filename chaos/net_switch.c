/* The switch between the nodes' namespaces: takes IP packets from each node's TUN device, does to them what
 * the link's settings say, and hands them to the device of the node they are for.
 *
 * Happy path, on the switch's thread: poll -> take() reads a packet -> its destination's last number names
 * the place -> judge() by the link from there to here: dropped, changed, doubled, or given a time to leave ->
 * sent at once, or kept in `later`, a heap by time, until poll's timeout. When the heap is full, packets are
 * dropped as any switch would; they are counted. */
#include "chaos/net.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PACKET_MAX 65536
#define LATER_MAX 65536   /* packets that wait */
#define TAKE_MAX 64       /* packets of one device in a turn */
#define RUNNER_NUMBER 254 /* last number of the runner's address */
#define PROTOCOL_TCP 6

struct later {
    uint64_t due_ns, order; /* order: equal times leave as they came */
    size_t length;
    unsigned to;
    uint8_t *bytes;
};

struct net_switch {
    unsigned places;
    int tun[NET_PLACES], space[NET_PLACES]; /* space[0]: -1 */
    int wake;
    pthread_t thread;
    bool running;

    pthread_mutex_t lock; /* of what follows */
    bool stop;
    struct net_link links[NET_PLACES][NET_PLACES];
    struct net_counts counts;

    /* The thread's own. */
    struct later *later;
    size_t later_count;
    uint64_t order, random;
    uint64_t last_due_ns[NET_PLACES][NET_PLACES]; /* a link keeps its order, and its rate */
    uint8_t packet[PACKET_MAX];
};

/* ---- packets ------------------------------------------------------------------------------------------- */

static uint32_t get_u16(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 8 | bytes[1];
}

bool net_packet_corrupt(uint8_t *packet, size_t length, uint32_t bit)
{
    if (length < 40 || packet[0] >> 4 != 4 || packet[9] != PROTOCOL_TCP)
        return false;
    size_t ip = (size_t)(packet[0] & 15) * 4;
    if (ip + 20 > length)
        return false;
    uint8_t *tcp = packet + ip;
    size_t head = (size_t)(tcp[12] >> 4) * 4;
    if (head < 20 || ip + head >= length)
        return false;
    size_t at = head + bit / 8 % (length - ip - head);
    size_t word = at & ~(size_t)1;
    bool half = ip + word + 1 >= length; /* the last byte of an odd length: its other half counts as zero */
    uint32_t before = half ? (uint32_t)tcp[word] << 8 : get_u16(tcp + word);
    tcp[at] ^= (uint8_t)(1u << bit % 8);
    uint32_t after = half ? (uint32_t)tcp[word] << 8 : get_u16(tcp + word);
    /* RFC 1624, equation 3. */
    uint32_t sum = (~get_u16(tcp + 16) & 0xffff) + (~before & 0xffff) + after;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
    tcp[16] = (uint8_t)(sum >> 8);
    tcp[17] = (uint8_t)sum;
    return true;
}

#define SOURCE_AT 15      /* the last number of an IPv4 packet's source, */
#define DESTINATION_AT 19 /* and of its destination */

/* The place that the address at this byte of an IPv4 packet is of; -1: none of ours. */
static int place_of(const struct net_switch *sw, const uint8_t *packet, size_t length, size_t at)
{
    if (length < 20 || packet[0] >> 4 != 4)
        return -1;
    unsigned number = packet[at];
    if (number == RUNNER_NUMBER)
        return 0;
    if (number == NET_BROKER_NUMBER)
        return NET_BROKER;
    return number >= 1 && number < sw->places ? (int)number : -1;
}

/* ---- the heap of those that wait ------------------------------------------------------------------------
 */

static bool sooner(const struct later *a, const struct later *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void swap(struct later *a, struct later *b)
{
    struct later t = *a;
    *a = *b;
    *b = t;
}

static bool push(struct net_switch *sw, unsigned to, const uint8_t *bytes, size_t length, uint64_t due_ns)
{
    uint8_t *copy = sw->later_count < LATER_MAX ? malloc(length) : NULL;
    if (copy == NULL)
        return false;
    memcpy(copy, bytes, length);
    size_t i = sw->later_count++;
    sw->later[i] = (struct later){due_ns, sw->order++, length, to, copy};
    for (; i > 0 && sooner(&sw->later[i], &sw->later[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&sw->later[i], &sw->later[(i - 1) / 2]);
    return true;
}

/* Takes the first out. */
static void pop(struct net_switch *sw)
{
    sw->later[0] = sw->later[--sw->later_count];
    sw->later[sw->later_count] = (struct later){0};
    for (size_t i = 0;;) {
        size_t least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < sw->later_count; child++)
            if (sooner(&sw->later[child], &sw->later[least]))
                least = child;
        if (least == i)
            return;
        swap(&sw->later[i], &sw->later[least]);
        i = least;
    }
}

/* ---- switching ----------------------------------------------------------------------------------------- */

static uint64_t draw(struct net_switch *sw) /* xorshift64 */
{
    sw->random ^= sw->random << 13;
    sw->random ^= sw->random >> 7;
    sw->random ^= sw->random << 17;
    return sw->random >> 8;
}

static bool chance(struct net_switch *sw, unsigned per_mille)
{
    return per_mille > 0 && draw(sw) % 1000 < per_mille;
}

static void deliver(struct net_switch *sw, unsigned to, const uint8_t *bytes, size_t length)
{
    /* A device whose queue is full, or whose namespace is on its way out, loses the packet. */
    int tun = sw->tun[to == NET_BROKER ? 0 : to];
    bool sent = write(tun, bytes, length) == (ssize_t)length;
    sw->counts.sent += sent;
    sw->counts.overflowed += !sent;
}

/* When this packet leaves; 0: at once. */
static uint64_t due(struct net_switch *sw, unsigned from, unsigned to, const struct net_link *link,
                    size_t length)
{
    uint64_t *last = &sw->last_due_ns[from][to], now = dn_monotonic_ns(), at = now;

    if (link->delay_ms == 0 && link->jitter_ms == 0 && link->rate_kib == 0)
        return *last > now ? *last : 0; /* behind those that still wait */
    at += (uint64_t)link->delay_ms * 1000000;
    if (link->jitter_ms > 0)
        at += draw(sw) % ((uint64_t)link->jitter_ms * 1000000);
    if (link->rate_kib > 0) {
        uint64_t begin = *last > now ? *last : now;
        uint64_t end = begin + length * 1000000000 / ((uint64_t)link->rate_kib * 1024);
        at = end > at ? end : at;
    }
    *last = at > *last ? at : *last;
    return *last;
}

static void forward(struct net_switch *sw, unsigned from, unsigned to, const struct net_link *link,
                    size_t length)
{
    uint64_t at = 0;

    if (chance(sw, link->reorder_pm))
        sw->counts.reordered++;
    else
        at = due(sw, from, to, link, length);
    if (at == 0)
        deliver(sw, to, sw->packet, length);
    else if (!push(sw, to, sw->packet, length, at))
        sw->counts.overflowed++;
}

/* With the lock held: nothing here waits. */
static void judge(struct net_switch *sw, unsigned from, size_t length)
{
    int to = place_of(sw, sw->packet, length, DESTINATION_AT);
    const struct net_link *link;

    if (from == 0 && place_of(sw, sw->packet, length, SOURCE_AT) == NET_BROKER)
        from = NET_BROKER;
    if (to < 0 || (unsigned)to == from)
        return;
    link = &sw->links[from][to];
    if (link->cut) {
        sw->counts.cut++;
        return;
    }
    if (chance(sw, link->loss_pm)) {
        sw->counts.lost++;
        return;
    }
    bool twice = chance(sw, link->duplicate_pm);
    if (chance(sw, link->corrupt_pm) && net_packet_corrupt(sw->packet, length, (uint32_t)draw(sw)))
        sw->counts.corrupted++;
    forward(sw, from, (unsigned)to, link, length);
    if (twice) {
        sw->counts.duplicated++;
        forward(sw, from, (unsigned)to, link, length);
    }
}

static void take(struct net_switch *sw, unsigned from)
{
    for (int i = 0; i < TAKE_MAX; i++) {
        ssize_t length = read(sw->tun[from], sw->packet, sizeof sw->packet);
        if (length <= 0)
            return;
        judge(sw, from, (size_t)length);
    }
}

static void send_due(struct net_switch *sw)
{
    while (sw->later_count > 0 && sw->later[0].due_ns <= dn_monotonic_ns()) {
        struct later first = sw->later[0];
        pop(sw);
        deliver(sw, first.to, first.bytes, first.length);
        free(first.bytes);
    }
}

static const struct timespec *until_next(const struct net_switch *sw, struct timespec *room)
{
    uint64_t now = dn_monotonic_ns(), at = sw->later_count > 0 ? sw->later[0].due_ns : 0;

    if (sw->later_count == 0)
        return NULL;
    uint64_t ns = at > now ? at - now : 0;
    *room = (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    return room;
}

static void *run(void *data)
{
    struct net_switch *sw = data;
    struct pollfd fds[NET_PLACES + 1];
    struct timespec room;

    for (unsigned i = 0; i < sw->places; i++)
        fds[i] = (struct pollfd){.fd = sw->tun[i], .events = POLLIN};
    fds[sw->places] = (struct pollfd){.fd = sw->wake, .events = POLLIN};
    for (;;) {
        (void)ppoll(fds, sw->places + 1, until_next(sw, &room), NULL);
        pthread_mutex_lock(&sw->lock);
        bool stop = sw->stop;
        send_due(sw);
        for (unsigned i = 0; !stop && i < sw->places; i++)
            if (fds[i].revents & POLLIN)
                take(sw, i);
        pthread_mutex_unlock(&sw->lock);
        if (stop)
            return NULL;
    }
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static enum dn_code make_places(struct net_switch *sw, const char *prefix, struct dn_error *err)
{
    char name[16], address[32];
    enum dn_code code;

    snprintf(name, sizeof name, "dnc%d", (int)getpid());
    snprintf(address, sizeof address, "%s.%d", prefix, RUNNER_NUMBER);
    code = net_tun_create(name, address, &sw->tun[0], err);
    snprintf(address, sizeof address, "%s.%d", prefix, NET_BROKER_NUMBER);
    if (code == DN_OK)
        code = net_address_add(name, address, err);
    for (unsigned i = 1; code == DN_OK && i < sw->places; i++) {
        snprintf(address, sizeof address, "%s.%u", prefix, i);
        code = net_space_create(address, &sw->space[i], &sw->tun[i], err);
    }
    return code;
}

enum dn_code net_switch_create(unsigned nodes, const char *prefix, struct net_switch **ret,
                               struct dn_error *err)
{
    struct net_switch *sw = calloc(1, sizeof *sw);
    enum dn_code code;

    if (sw == NULL)
        return dn_fail(err, DN_NO_MEMORY, "the switch between the nodes");
    DN_ASSERT(nodes <= CHAOS_NODES_MAX);
    sw->places = nodes + 1;
    sw->random = dn_monotonic_ns() | 1;
    pthread_mutex_init(&sw->lock, NULL);
    for (unsigned i = 0; i < NET_PLACES; i++)
        sw->tun[i] = sw->space[i] = -1;
    sw->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sw->later = calloc(LATER_MAX, sizeof *sw->later);
    if (sw->wake < 0 || sw->later == NULL)
        code = dn_fail(err, DN_NO_MEMORY, "the switch between the nodes");
    else
        code = make_places(sw, prefix, err);
    if (code == DN_OK && pthread_create(&sw->thread, NULL, run, sw) != 0)
        code = dn_fail(err, DN_UNAVAILABLE, "no thread for the switch between the nodes");
    if (code != DN_OK) {
        net_switch_destroy(sw);
        return code;
    }
    sw->running = true;
    *ret = sw;
    return DN_OK;
}

void net_switch_destroy(struct net_switch *sw)
{
    if (sw == NULL)
        return;
    if (sw->running) {
        pthread_mutex_lock(&sw->lock);
        sw->stop = true;
        pthread_mutex_unlock(&sw->lock);
        (void)eventfd_write(sw->wake, 1);
        pthread_join(sw->thread, NULL);
    }
    for (unsigned i = 0; i < NET_PLACES; i++) {
        if (sw->tun[i] >= 0)
            close(sw->tun[i]);
        if (sw->space[i] >= 0)
            close(sw->space[i]);
    }
    if (sw->wake >= 0)
        close(sw->wake);
    while (sw->later_count > 0)
        free(sw->later[--sw->later_count].bytes);
    free(sw->later);
    pthread_mutex_destroy(&sw->lock);
    free(sw);
}

int net_switch_space(const struct net_switch *sw, unsigned node)
{
    DN_ASSERT(node >= 1 && node < sw->places);
    return sw->space[node];
}

void net_switch_set(struct net_switch *sw, unsigned from, unsigned to, const struct net_link *link)
{
    DN_ASSERT(from < sw->places || from == NET_BROKER);
    DN_ASSERT(to < sw->places || to == NET_BROKER);
    pthread_mutex_lock(&sw->lock);
    sw->links[from][to] = *link;
    pthread_mutex_unlock(&sw->lock);
}

void net_switch_counts(struct net_switch *sw, struct net_counts *ret)
{
    pthread_mutex_lock(&sw->lock);
    *ret = sw->counts;
    pthread_mutex_unlock(&sw->lock);
}
