/* The network: TCP connections between machines. Bytes of one direction arrive in order, each packet after
 * the delay of its link; a cut link holds them (TCP would repeat them) until it is whole again or the sender
 * gives up: what is not acknowledged for USER_TIMEOUT ends the connection, as TCP_USER_TIMEOUT does, and an
 * idle connection over a cut link is found dead by its keepalive. One-way cuts hold the acknowledgements of
 * the other way. A packet for an end that is gone is answered by a reset, unless the machine is off. */
#include "tests/virtual/internal.h"

#define USER_TIMEOUT_NS (500 * SIM_MS) /* what the transport asks the kernel for */
#define KEEPALIVE_NS (1500 * SIM_MS)   /* 1 s idle, then the user timeout */
#define REPEAT_MAX_NS (300 * SIM_MS)   /* until TCP tries again over a link that is whole again */
#define SMALL_WRITE 1024               /* an empty socket takes so much as a whole */
#define WINDOW_MIN 4096
#define WINDOW_MAX ((size_t)1 << 20)

enum kind { SYN, SYNACK, REFUSED, DATA, FIN, RST };

struct packet {
    struct packet *next;
    enum kind kind;
    uint64_t sent, due;
    size_t length;
    uint8_t bytes[];
};

struct link {
    bool cut;
    uint64_t cuts; /* how often it changed: a keepalive counts only over one and the same cut */
    uint64_t min_ns, max_ns;
    unsigned corrupt_one_in;
};
static struct link links[SIM_MACHINES_MAX][SIM_MACHINES_MAX];
static struct socket *sockets;

static void deliver(void *arg, uint64_t tag);

static struct link *way(const struct socket *from)
{
    return &links[from->machine][from->to];
}

static struct link *way_back(const struct socket *from)
{
    return &links[from->to][from->machine];
}

/* ---- sending ------------------------------------------------------------------------------------------ */

static void send_packet(struct socket *from, enum kind kind, const uint8_t *bytes, size_t length)
{
    struct packet *packet = memory_real(sizeof *packet + length);
    struct link *link = way(from);
    packet->kind = kind;
    packet->sent = sim_now();
    packet->due = sim_now() + sim_between(link->min_ns, link->max_ns);
    packet->due = packet->due <= from->last_due ? from->last_due + 1 : packet->due;
    packet->length = length;
    if (length > 0) {
        memcpy(packet->bytes, bytes, length);
    }
    from->last_due = packet->due;
    if (from->last != NULL) {
        from->last->next = packet;
    } else {
        from->first = packet;
    }
    from->last = packet;
    from->queued += length;
    sim_at(packet->due, deliver, from, 0);
}

static void drop_first(struct socket *from)
{
    struct packet *packet = from->first;
    from->first = packet->next;
    if (from->first == NULL) {
        from->last = NULL;
    }
    from->queued -= packet->length;
    memory_real_free(packet);
}

static void drop_queue(struct socket *from)
{
    while (from->first != NULL) {
        drop_first(from);
    }
    from->unacked_since = 0;
    from->ack_lost = false;
}

/* Of what travels only a part arrives, not even whole packets. */
static void drop_half(struct socket *from)
{
    size_t keep = from->queued == 0 ? 0 : sim_random(from->queued);
    struct packet *packet = from->first, *last = NULL;
    if (from->queued == 0) {
        return;
    }
    sim_counts.half_delivered++;
    for (; packet != NULL && packet->length <= keep; packet = packet->next) {
        keep -= packet->length;
        last = packet;
    }
    if (packet != NULL && keep > 0) {
        from->queued -= packet->length - keep;
        packet->length = keep;
        last = packet;
        packet = packet->next;
    }
    while (packet != NULL) {
        struct packet *next = packet->next;
        from->queued -= packet->length;
        memory_real_free(packet);
        packet = next;
    }
    from->last = last;
    if (last != NULL) {
        last->next = NULL;
    } else {
        from->first = NULL;
    }
}

/* ---- ends --------------------------------------------------------------------------------------------- */

static void fail_end(struct socket *s, int error)
{
    if (!s->held || s->state == SOCKET_FAILED || s->state == SOCKET_LISTENING) {
        return;
    }
    bool connecting = s->state == SOCKET_CONNECTING;
    sim_counts.timeouts += error == UV_ETIMEDOUT;
    sim_counts.resets += error == UV_ECONNRESET;
    sim_counts.refused += error == UV_ECONNREFUSED;
    s->state = SOCKET_FAILED;
    s->error = error;
    drop_queue(s);
    if (s->handle != NULL) {
        if (connecting) {
            tcp_connected(s->handle, error);
        } else {
            tcp_readable(s->handle);
            tcp_writable(s->handle);
        }
    }
}

static void timeout_check(void *arg, uint64_t tag)
{
    struct socket *s = arg;
    (void)tag;
    if (!s->held || s->state != SOCKET_OPEN || s->unacked_since == 0) {
        return;
    }
    if (sim_now() >= s->unacked_since + USER_TIMEOUT_NS) {
        fail_end(s, UV_ETIMEDOUT);
    } else {
        sim_at(s->unacked_since + USER_TIMEOUT_NS, timeout_check, s, 0);
    }
}

/* Was the connection dead all the time since the check was begun? */
static void keepalive_check(void *arg, uint64_t tag)
{
    struct socket *s = arg;
    if (!s->held || s->state != SOCKET_OPEN) {
        return;
    }
    bool cut = way(s)->cut || way_back(s)->cut;
    if (cut && tag == way(s)->cuts + way_back(s)->cuts) {
        fail_end(s, UV_ETIMEDOUT);
    } else if (!cut && !s->other->held) {
        fail_end(s, processes[s->to].powered ? UV_ECONNRESET : UV_ETIMEDOUT);
    }
}

static void begin_keepalive(struct socket *s)
{
    if (s->held && s->state == SOCKET_OPEN) {
        sim_at(sim_now() + KEEPALIVE_NS + sim_random(500 * SIM_MS), keepalive_check, s,
               way(s)->cuts + way_back(s)->cuts);
    }
}

static void acked(struct socket *from)
{
    from->unacked_since = 0;
    for (struct packet *p = from->first; p != NULL && from->unacked_since == 0; p = p->next) {
        from->unacked_since = p->kind == DATA ? p->sent : 0;
    }
}

/* ---- arriving ----------------------------------------------------------------------------------------- */

static void arrive_syn(struct socket *from)
{
    struct socket *listener = NULL, *end = from->other;
    for (struct socket *s = sockets; s != NULL && listener == NULL; s = s->next) {
        listener = s->held && s->state == SOCKET_LISTENING && s->machine == from->to ? s : NULL;
    }
    if (listener == NULL) {
        send_packet(end, REFUSED, NULL, 0);
        return;
    }
    end->held = true;
    end->state = SOCKET_OPEN;
    struct socket **at = &listener->accept_first;
    while (*at != NULL) {
        at = &(*at)->accept_next;
    }
    *at = end;
    send_packet(end, SYNACK, NULL, 0);
    tcp_readable(listener->handle);
}

static void arrive_data(struct socket *from, struct packet *packet)
{
    struct socket *to = from->other;
    if (!to->held || to->state != SOCKET_OPEN || to->fin) {
        send_packet(to, RST, NULL, 0);
        return;
    }
    if (sim_chance(way(from)->corrupt_one_in)) {
        packet->bytes[sim_random(packet->length)] ^= (uint8_t)(1 + sim_random(255));
        sim_counts.corrupted++;
    }
    if (to->length + packet->length > to->room) {
        to->room = (to->length + packet->length) * 2;
        to->bytes = memory_real_grow(to->bytes, to->room);
    }
    memcpy(to->bytes + to->length, packet->bytes, packet->length);
    to->length += packet->length;
    if (to->handle != NULL) {
        tcp_readable(to->handle);
    }
}

static void arrive(struct socket *from, struct packet *packet)
{
    struct socket *to = from->other;
    sim_note(from->machine * 8 + from->to, packet->length * 8 + packet->kind);
    switch (packet->kind) {
    case SYN:
        arrive_syn(from);
        break;
    case SYNACK:
        if (to->held && to->state == SOCKET_CONNECTING) {
            to->state = SOCKET_OPEN;
            sim_counts.connections++;
            tcp_connected(to->handle, 0);
        } else if (!to->held) {
            send_packet(to, RST, NULL, 0);
        }
        break;
    case REFUSED:
        fail_end(to, UV_ECONNREFUSED);
        break;
    case DATA:
        arrive_data(from, packet);
        break;
    case FIN:
        if (to->held && to->state == SOCKET_OPEN) {
            to->fin = true;
            if (to->handle != NULL) {
                tcp_readable(to->handle);
            }
        }
        break;
    case RST:
        fail_end(to, UV_ECONNRESET);
        break;
    }
}

static void deliver(void *arg, uint64_t tag)
{
    struct socket *from = arg;
    (void)tag;
    while (from->first != NULL && from->first->due <= sim_now() && !way(from)->cut) {
        struct packet *packet = from->first;
        from->first = packet->next;
        from->last = from->first == NULL ? NULL : from->last;
        from->queued -= packet->length;
        if (processes[from->to].powered) {
            bool data = packet->kind == DATA;
            arrive(from, packet);
            if (data && way_back(from)->cut) {
                from->ack_lost = true;
            } else if (data) {
                acked(from);
            }
            if (from->held && from->handle != NULL && data) {
                tcp_writable(from->handle);
            }
        }
        memory_real_free(packet);
    }
}

/* ---- for sim_tcp.c ------------------------------------------------------------------------------------ */

static struct socket *new_socket(unsigned machine, unsigned to)
{
    struct socket *s = memory_real(sizeof *s);
    s->machine = machine;
    s->to = to;
    s->window = sim_between(WINDOW_MIN, sim_chance(4) ? 4 * WINDOW_MIN : WINDOW_MAX);
    s->next = sockets;
    sockets = s;
    return s;
}

struct socket *net_socket(struct process *p, uv_tcp_t *handle)
{
    struct socket *s = new_socket(p->machine, p->machine);
    s->held = true;
    s->handle = handle;
    return s;
}

void net_listen(struct socket *s)
{
    s->state = SOCKET_LISTENING;
}

void net_connect(struct socket *s, unsigned to)
{
    s->to = to;
    s->state = SOCKET_CONNECTING;
    s->other = new_socket(to, s->machine);
    s->other->other = s;
    send_packet(s, SYN, NULL, 0);
}

ssize_t net_send(struct socket *s, const uint8_t *bytes, size_t length)
{
    if (s->state == SOCKET_FAILED) {
        return s->error == UV_ECONNRESET ? UV_EPIPE : s->error;
    }
    if (s->state != SOCKET_OPEN) {
        return UV_EAGAIN;
    }
    size_t room = s->window > s->queued ? s->window - s->queued : 0;
    size_t taken = length < room ? length : room;
    if (taken > SMALL_WRITE && sim_chance(200)) {
        taken = sim_between(1, taken - 1);
    }
    sim_counts.short_writes += taken < length;
    if (taken == 0) {
        return UV_EAGAIN;
    }
    if (s->unacked_since == 0) {
        s->unacked_since = sim_now();
        sim_at(sim_now() + USER_TIMEOUT_NS, timeout_check, s, 0);
    }
    send_packet(s, DATA, bytes, taken);
    return (ssize_t)taken;
}

bool net_readable(const struct socket *s)
{
    return s->at < s->length || s->fin || s->state == SOCKET_FAILED;
}

ssize_t net_receive(struct socket *s, uint8_t *bytes, size_t length)
{
    size_t part = s->length - s->at < length ? s->length - s->at : length;
    if (part == 0) {
        return s->state == SOCKET_FAILED ? s->error : s->fin ? UV_EOF : 0;
    }
    if (part > 1 && sim_chance(16)) {
        part = sim_between(1, part - 1);
        sim_counts.short_reads++;
    }
    memcpy(bytes, s->bytes + s->at, part);
    s->at += part;
    if (s->at == s->length) {
        s->at = s->length = 0;
    }
    return (ssize_t)part;
}

struct socket *net_accept(struct socket *listener)
{
    struct socket *end = listener->accept_first;
    if (end != NULL) {
        listener->accept_first = end->accept_next;
        end->accept_next = NULL;
    }
    return end;
}

/* What was sent before arrives, then the end of the stream; a reset when bytes were left unread. */
void net_shut(struct socket *s)
{
    bool unread = s->at < s->length;
    for (struct socket *waiting; (waiting = net_accept(s)) != NULL;) {
        net_shut(waiting);
    }
    s->held = false;
    s->handle = NULL;
    memory_real_free(s->bytes);
    s->bytes = NULL;
    s->at = s->length = s->room = 0;
    if (s->state == SOCKET_OPEN) {
        send_packet(s, unread ? RST : FIN, NULL, 0);
    } else if (s->state == SOCKET_CONNECTING) {
        drop_queue(s);
    }
}

/* ---- machines and faults ------------------------------------------------------------------------------ */

void net_process_ended(unsigned machine, bool power)
{
    for (struct socket *s = sockets; s != NULL; s = s->next) {
        if (s->machine != machine || !s->held) {
            continue;
        }
        if (!power) {
            if (sim_chance(3)) {
                drop_half(s);
            }
            net_shut(s);
            continue;
        }
        s->held = false;
        s->handle = NULL;
        s->accept_first = NULL;
        if (s->other != NULL) {
            drop_half(s);
            begin_keepalive(s->other);
        }
    }
}

/* It knows nothing of connections of its life before: their next packet is answered by a reset. */
void net_machine_started(unsigned machine)
{
    for (struct socket *s = sockets; s != NULL; s = s->next) {
        if (s->to == machine && s->held && s->state == SOCKET_OPEN && !s->other->held) {
            sim_at(sim_now() + sim_random(REPEAT_MAX_NS), keepalive_check, s, 0);
        }
    }
}

void sim_net_latency(unsigned from, unsigned to, uint64_t min_ns, uint64_t max_ns)
{
    links[from][to].min_ns = min_ns;
    links[from][to].max_ns = max_ns;
}

void sim_net_corrupt(unsigned from, unsigned to, unsigned one_in)
{
    links[from][to].corrupt_one_in = one_in;
}

bool sim_net_is_cut(unsigned from, unsigned to)
{
    return links[from][to].cut;
}

static void heal_way(struct socket *s)
{
    uint64_t due = sim_now() + sim_random(REPEAT_MAX_NS);
    for (struct packet *p = s->first; p != NULL; p = p->next, due++) {
        p->due = p->due < due ? due : p->due;
        s->last_due = p->due;
        sim_at(p->due, deliver, s, 0);
    }
}

void sim_net_cut(unsigned from, unsigned to, bool cut)
{
    if (links[from][to].cut == cut) {
        return;
    }
    links[from][to].cut = cut;
    links[from][to].cuts++;
    sim_counts.cuts += cut;
    sim_trace("network: %u to %u is %s", from, to, cut ? "cut" : "whole");
    for (struct socket *s = sockets; s != NULL; s = s->next) {
        bool there = s->machine == from && s->to == to, back = s->machine == to && s->to == from;
        if (cut && (there || back)) {
            begin_keepalive(s);
        } else if (there) {
            heal_way(s);
        } else if (back && s->ack_lost) {
            s->ack_lost = false;
            acked(s);
        }
    }
}

static void reset_one(struct socket *s)
{
    drop_half(s);
    for (struct packet *p = s->first; p != NULL; p = p->next) {
        if (p->kind == DATA && s->other->held && s->other->state == SOCKET_OPEN) {
            arrive_data(s, p);
        }
    }
    drop_queue(s);
}

void sim_net_reset(unsigned a, unsigned b)
{
    sim_trace("network: connections between %u and %u are reset", a, b);
    for (struct socket *s = sockets; s != NULL; s = s->next) {
        if (s->machine == a && s->to == b && s->state == SOCKET_OPEN && s->other != NULL) {
            reset_one(s);
            reset_one(s->other);
            fail_end(s, UV_ECONNRESET);
            fail_end(s->other, UV_ECONNRESET);
        }
    }
}

void net_open(void)
{
    for (unsigned i = 0; i < SIM_MACHINES_MAX; i++) {
        for (unsigned j = 0; j < SIM_MACHINES_MAX; j++) {
            links[i][j] = (struct link){.min_ns = 50 * SIM_US, .max_ns = 400 * SIM_US};
        }
    }
}

void net_close(void)
{
    while (sockets != NULL) {
        struct socket *s = sockets;
        sockets = s->next;
        drop_queue(s);
        memory_real_free(s->bytes);
        memory_real_free(s);
    }
}
