/* Transport: the peer port and the connections to other nodes' peer ports.
 *
 * Incoming, happy path: accept -> read exactly the preamble -> hand the stream to the group's raft_uv or to
 * peer.c. Failure modes: too many unproved connections, no preamble in time, a preamble that is not for us:
 * the connection is closed, counted, and logged at most once a second.
 *
 * Outgoing (struct dial), happy path: resolve the name (only if it is one) -> connect -> write the preamble
 * -> hand over the stream. Failure modes: any step fails or CONNECT_TIMEOUT_MS passes: the handles are
 * closed, then the callback gets a status. A dial whose owner is gone (dial->cb NULL) cleans up after itself.
 */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define COMPONENT "peer"

void transport_stranger(struct dn_consensus *c, const char *format, ...)
{
    char reason[DN_ERROR_MESSAGE_MAX];
    uint64_t now = dn_monotonic_us();
    va_list args;
    if (c->m_strangers != NULL) {
        dn_counter_add(c->m_strangers, 1);
    }
    if (now < c->stranger_log_us) {
        return;
    }
    c->stranger_log_us = now + LOG_PAUSE_US;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    dn_warn(COMPONENT, "connection refused: %s", reason);
}

static void tune(uv_tcp_t *tcp)
{
    uv_os_fd_t fd;
    unsigned timeout_ms = USER_TIMEOUT_MS;
    uv_tcp_nodelay(tcp, 1);
    if (uv_fileno((uv_handle_t *)tcp, &fd) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    }
}

static bool numeric(const char *host, uint16_t port, struct sockaddr_storage *ret)
{
    return uv_ip4_addr(host, port, (struct sockaddr_in *)ret) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)ret) == 0;
}

/* ---- incoming --------------------------------------------------------------------------------------- */

struct incoming {
    struct dn_consensus *c;
    struct incoming *next, *prev;
    uv_tcp_t *tcp; /* raft_malloc: raft_uv frees it */
    uint64_t until_us;
    bool closing;
    size_t got;
    uint8_t bytes[WIRE_PREAMBLE_BYTES];
};

static void incoming_unlink(struct incoming *in)
{
    struct dn_consensus *c = in->c;
    if (in->prev == NULL) {
        c->incoming = in->next;
    } else {
        in->prev->next = in->next;
    }
    if (in->next != NULL) {
        in->next->prev = in->prev;
    }
    c->unproved--;
    free(in);
}

static void tcp_closed(uv_handle_t *handle)
{
    raft_free(handle);
}

static void incoming_closed(uv_handle_t *handle)
{
    incoming_unlink(handle->data);
    raft_free(handle);
}

static void incoming_close(struct incoming *in)
{
    if (!in->closing) {
        in->closing = true;
        uv_close((uv_handle_t *)in->tcp, incoming_closed);
    }
}

/* Who is it, and is it for us? The stream changes hands here, or is closed. */
static void incoming_judge(struct incoming *in)
{
    struct dn_consensus *c = in->c;
    struct wire_preamble preamble;
    struct dn_error err;
    int member;
    if (wire_preamble_decode(in->bytes, &preamble, &err) != DN_OK) {
        transport_stranger(c, "%s", err.message);
        incoming_close(in);
        return;
    }
    member = member_find(c, preamble.from);
    if (strcmp(preamble.cluster, c->cluster_id) != 0 || member < 0 || (unsigned)member == c->self ||
        preamble.to != c->o.node_id || (preamble.kind == WIRE_RAFT && preamble.group >= c->o.group_count)) {
        transport_stranger(c, "from node %llu to node %llu of cluster '%s'; this is node %llu of '%s'",
                           (unsigned long long)preamble.from, (unsigned long long)preamble.to,
                           preamble.cluster, (unsigned long long)c->o.node_id, c->cluster_id);
        incoming_close(in);
        return;
    }
    if (c->phase > PHASE_TRANSFER) {
        incoming_close(in);
        return;
    }
    uv_tcp_t *tcp = in->tcp;
    if (preamble.kind == WIRE_LINK) {
        incoming_unlink(in);
        peer_accept(c, preamble.from, tcp);
        return;
    }
    struct group *g = &c->groups[preamble.group];
    if (g->accept == NULL || g->closing || g->fenced) {
        incoming_close(in);
        return;
    }
    incoming_unlink(in);
    g->accept(&g->transport, preamble.from, c->members[member].address, (struct uv_stream_s *)tcp);
}

static void preamble_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct incoming *in = handle->data;
    (void)suggested;
    *buf = uv_buf_init((char *)in->bytes + in->got, (unsigned)(sizeof in->bytes - in->got));
}

static void preamble_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct incoming *in = stream->data;
    (void)buf;
    if (nread < 0) {
        incoming_close(in);
        return;
    }
    in->got += (size_t)nread;
    if (in->got == sizeof in->bytes) {
        uv_read_stop(stream);
        incoming_judge(in);
    }
}

static void connection_cb(uv_stream_t *listener, int status)
{
    struct dn_consensus *c = container_of(listener, struct dn_consensus, listener);
    struct incoming *in = status == 0 ? calloc(1, sizeof *in) : NULL;
    uv_tcp_t *tcp = in == NULL ? NULL : raft_malloc(sizeof *tcp);
    if (tcp == NULL) {
        free(in);
        return;
    }
    uv_tcp_init(&c->loop, tcp);
    bool crowded = c->unproved >= UNPROVED_MAX;
    if (uv_accept(listener, (uv_stream_t *)tcp) != 0 || crowded || c->phase > PHASE_TRANSFER) {
        if (crowded) {
            transport_stranger(c, "%zu connections have not said who they are yet", c->unproved);
        }
        uv_close((uv_handle_t *)tcp, tcp_closed);
        free(in);
        return;
    }
    tune(tcp);
    in->c = c;
    in->tcp = tcp;
    in->until_us = dn_monotonic_us() + PREAMBLE_TIMEOUT_US;
    in->next = c->incoming;
    if (in->next != NULL) {
        in->next->prev = in;
    }
    c->incoming = in;
    c->unproved++;
    tcp->data = in;
    if (uv_read_start((uv_stream_t *)tcp, preamble_alloc, preamble_read) != 0) {
        incoming_close(in);
    }
}

enum dn_code transport_listen(struct dn_consensus *c, struct dn_error *err)
{
    const char *address = c->bind_address != NULL ? c->bind_address : c->members[c->self].address;
    struct sockaddr_storage bind;
    char host[256], service[8];
    uint16_t port;
    int rv;
    if (!dn_parse_address(address, host, &port)) {
        return dn_fail(err, DN_INVALID, "peer port: '%s' is no host:port", address);
    }
    memset(&bind, 0, sizeof bind);
    if (!numeric(host, port, &bind)) { /* at start-up a name may be waited for */
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
        snprintf(service, sizeof service, "%u", port);
        rv = getaddrinfo(host, service, &hints, &list);
        if (rv != 0) {
            return dn_fail(err, DN_IO, "peer port: resolve '%s': %s", host, gai_strerror(rv));
        }
        memcpy(&bind, list->ai_addr, list->ai_addrlen);
        freeaddrinfo(list);
    }
    uv_tcp_init(&c->loop, &c->listener);
    c->listening = true;
    rv = uv_tcp_bind(&c->listener, (const struct sockaddr *)&bind, 0);
    if (rv == 0) {
        rv = uv_listen((uv_stream_t *)&c->listener, 128, connection_cb);
    }
    if (rv != 0) {
        return dn_fail(err, DN_IO, "peer port: listen on %s: %s", address, uv_strerror(rv));
    }
    return DN_OK;
}

void transport_housekeep(struct dn_consensus *c, uint64_t now_us)
{
    for (struct incoming *in = c->incoming, *next; in != NULL; in = next) {
        next = in->next;
        if (now_us > in->until_us && !in->closing) {
            transport_stranger(c, "it did not say who it is within %d s", PREAMBLE_TIMEOUT_US / 1000000);
            incoming_close(in);
        }
    }
}

void transport_close(struct dn_consensus *c)
{
    for (struct incoming *in = c->incoming; in != NULL; in = in->next) {
        incoming_close(in);
    }
    if (c->listening) {
        c->listening = false;
        uv_close((uv_handle_t *)&c->listener, NULL);
    }
}

/* ---- outgoing --------------------------------------------------------------------------------------- */

struct dial {
    struct dn_consensus *c;
    struct member *member;
    struct group *group; /* NULL: a peer link */
    dial_cb cb;          /* NULL: nobody waits any more */
    void *data;
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    uv_write_t write;
    uv_timer_t timer;
    uv_tcp_t *tcp; /* raft_malloc */
    bool resolving, failed, tcp_open, timer_open;
    int status;
    uint8_t preamble[WIRE_PREAMBLE_BYTES];
};

static void transport_maybe_closed(struct group *g);

/* Ends a dial whose handles are closed. */
static void dial_maybe_over(struct dial *d)
{
    struct group *g = d->group;
    if (d->tcp_open || d->timer_open) {
        return;
    }
    if (d->cb != NULL) {
        dial_cb cb = d->cb;
        d->cb = NULL;
        if (g != NULL) {
            g->dials--;
        }
        cb(d->data, d->status == 0 ? d->tcp : NULL, d->status);
        if (g != NULL) {
            transport_maybe_closed(g);
        }
    } else if (d->status == 0 && d->tcp != NULL) {
        DN_ASSERT(false); /* only failed dials lose their owner */
    }
    if (!d->resolving) {
        free(d);
    }
}

static void dial_timer_closed(uv_handle_t *handle)
{
    struct dial *d = handle->data;
    d->timer_open = false;
    dial_maybe_over(d);
}

static void dial_tcp_closed(uv_handle_t *handle)
{
    struct dial *d = handle->data;
    raft_free(handle);
    d->tcp = NULL;
    d->tcp_open = false;
    dial_maybe_over(d);
}

static void dial_fail(struct dial *d, int status)
{
    if (d->failed) {
        return;
    }
    d->failed = true;
    d->status = status == 0 ? UV_ECANCELED : status;
    if (d->c->m_peer_errors != NULL && status != UV_ECANCELED) {
        dn_counter_add(d->c->m_peer_errors, 1);
    }
    if (d->resolving) {
        uv_cancel((uv_req_t *)&d->resolve);
    }
    if (d->tcp != NULL) {
        uv_close((uv_handle_t *)d->tcp, dial_tcp_closed);
    }
    uv_close((uv_handle_t *)&d->timer, dial_timer_closed);
}

static void dial_written(uv_write_t *write, int status)
{
    struct dial *d = write->data;
    if (d->failed) {
        return;
    }
    if (status != 0) {
        dial_fail(d, status);
        return;
    }
    d->tcp_open = false; /* it is the callback's from here on */
    d->failed = true;    /* nothing may fail it any more */
    d->status = 0;
    uv_close((uv_handle_t *)&d->timer, dial_timer_closed);
}

static void dial_connected(uv_connect_t *connect, int status)
{
    struct dial *d = connect->data;
    uv_buf_t buf = uv_buf_init((char *)d->preamble, sizeof d->preamble);
    if (d->failed) {
        return;
    }
    d->write.data = d;
    if (status == 0) {
        tune(d->tcp);
        status = uv_write(&d->write, (uv_stream_t *)d->tcp, &buf, 1, dial_written);
    }
    if (status != 0) {
        dial_fail(d, status);
    }
}

static void dial_connect(struct dial *d, const struct sockaddr *address)
{
    int rv;
    d->tcp = raft_malloc(sizeof *d->tcp);
    if (d->tcp == NULL) {
        dial_fail(d, UV_ENOMEM);
        return;
    }
    uv_tcp_init(&d->c->loop, d->tcp);
    d->tcp->data = d;
    d->tcp_open = true;
    d->connect.data = d;
    rv = uv_tcp_connect(&d->connect, d->tcp, address, dial_connected);
    if (rv != 0) {
        dial_fail(d, rv);
    }
}

static void dial_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct dial *d = req->data;
    unsigned count = 0;
    d->resolving = false;
    if (d->failed) {
        uv_freeaddrinfo(list);
        dial_maybe_over(d);
        return;
    }
    for (struct addrinfo *a = list; a != NULL; a = a->ai_next) {
        count++;
    }
    if (status != 0 || count == 0) {
        uv_freeaddrinfo(list);
        dial_fail(d, status == 0 ? UV_EAI_NONAME : status);
        return;
    }
    struct addrinfo *chosen = list;
    for (unsigned skip = d->member->attempt++ % count; skip > 0; skip--) {
        chosen = chosen->ai_next;
    }
    dial_connect(d, chosen->ai_addr);
    uv_freeaddrinfo(list);
}

static void dial_timeout(uv_timer_t *timer)
{
    dial_fail(timer->data, UV_ETIMEDOUT);
}

struct dial *dial_start(struct dn_consensus *c, struct member *member, enum wire_kind kind, uint32_t group,
                        dial_cb cb, void *data)
{
    struct wire_preamble preamble = {
        .kind = kind, .group = group, .from = c->o.node_id, .to = member->node_id};
    struct dial *d = calloc(1, sizeof *d);
    struct sockaddr_storage address;
    if (d == NULL) {
        return NULL;
    }
    snprintf(preamble.cluster, sizeof preamble.cluster, "%s", c->cluster_id);
    wire_preamble_encode(&preamble, d->preamble);
    d->c = c;
    d->member = member;
    d->group = kind == WIRE_RAFT ? &c->groups[group] : NULL;
    d->cb = cb;
    d->data = data;
    if (d->group != NULL) {
        d->group->dials++;
    }
    uv_timer_init(&c->loop, &d->timer);
    d->timer.data = d;
    d->timer_open = true;
    uv_timer_start(&d->timer, dial_timeout, CONNECT_TIMEOUT_MS, 0);
    memset(&address, 0, sizeof address);
    if (numeric(member->host, member->port, &address)) {
        dial_connect(d, (const struct sockaddr *)&address);
    } else {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
        char service[8];
        snprintf(service, sizeof service, "%u", member->port);
        d->resolve.data = d;
        int rv = uv_getaddrinfo(&c->loop, &d->resolve, dial_resolved, member->host, service, &hints);
        if (rv != 0) {
            dial_fail(d, rv);
        } else {
            d->resolving = true;
        }
    }
    return d;
}

/* ---- raft_uv_transport ------------------------------------------------------------------------------ */

/* raft_uv never reads its outgoing streams, so it learns that a peer went away by losing the first message it
 * writes afterwards: a vote request, most often, which costs an election timeout. Our own link to that peer
 * tells at once. Then the stale sockets are shut down and a message of no meaning is sent on each: its write
 * fails, and raft_uv connects again before anything that matters is sent. */
static void poke_sent(struct raft_io_send *req, int status)
{
    (void)status;
    free(req);
}

static void poke(struct group *g, struct member *m)
{
    struct raft_io_send *req = calloc(1, sizeof *req);
    struct raft_message message;
    if (req == NULL) {
        return;
    }
    memset(&message, 0, sizeof message);
    message.type = RAFT_APPEND_ENTRIES_RESULT; /* of term 0: ignored if it did arrive */
    message.server_id = m->node_id;
    message.server_address = m->address;
    g->io.send(&g->io, req, &message, poke_sent);
}

struct search {
    const uv_stream_t *stream;
    uint16_t port;
    bool found;
};

/* raft_uv may have closed the stream long ago: it must be among the loop's open handles, and lead there. */
static void search_walk(uv_handle_t *handle, void *arg)
{
    struct search *search = arg;
    struct sockaddr_storage peer;
    int length = sizeof peer;
    if ((const void *)handle != (const void *)search->stream || handle->type != UV_TCP ||
        uv_is_closing(handle) ||
        uv_tcp_getpeername((const uv_tcp_t *)handle, (struct sockaddr *)&peer, &length) != 0) {
        return;
    }
    search->found =
        ntohs(peer.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&peer)->sin6_port
                                         : ((struct sockaddr_in *)&peer)->sin_port) == search->port;
}

void transport_peer_gone(struct dn_consensus *c, unsigned member)
{
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        struct group *g = &c->groups[i];
        struct search search = {g->streams[member], c->members[member].port, false};
        uv_os_fd_t fd;
        g->streams[member] = NULL;
        if (search.stream == NULL || !g->started || g->closing) {
            continue;
        }
        uv_walk(&c->loop, search_walk, &search);
        if (search.found && uv_fileno((const uv_handle_t *)search.stream, &fd) == 0) {
            shutdown(fd, SHUT_RDWR);
            poke(g, &c->members[member]);
        }
    }
}

/* raft_uv's request, and the dial that serves it. */
struct raft_dial {
    struct group *group;
    struct raft_uv_connect *req;
    raft_uv_connect_cb cb;
    struct dial *dial;
    unsigned member;
    struct raft_dial *next;
};

static void raft_dialed(void *data, uv_tcp_t *tcp, int status)
{
    struct raft_dial *r = data;
    struct raft_uv_connect *req = r->req;
    raft_uv_connect_cb cb = r->cb;
    struct group *g = r->group;
    unsigned member = r->member;
    bool closing = g->closing;
    for (struct raft_dial **at = &r->group->raft_dials; *at != NULL; at = &(*at)->next) {
        if (*at == r) {
            *at = r->next;
            break;
        }
    }
    free(r);
    cb(req, (struct uv_stream_s *)tcp, status == 0 ? 0 : closing ? RAFT_CANCELED : RAFT_NOCONNECTION);
    if (status == 0 && !uv_is_closing((uv_handle_t *)tcp)) {
        g->streams[member] = (uv_stream_t *)tcp;
    }
}

static int t_init(struct raft_uv_transport *t, raft_id id, const char *address)
{
    (void)t;
    (void)id;
    (void)address;
    return 0;
}

static int t_listen(struct raft_uv_transport *t, raft_uv_accept_cb cb)
{
    struct group *g = container_of(t, struct group, transport);
    g->accept = cb;
    return 0;
}

static int t_connect(struct raft_uv_transport *t, struct raft_uv_connect *req, raft_id id,
                     const char *address, raft_uv_connect_cb cb)
{
    struct group *g = container_of(t, struct group, transport);
    int member = member_find(g->c, id);
    struct raft_dial *r = member < 0 ? NULL : calloc(1, sizeof *r);
    (void)address; /* ours are those of the configuration in force */
    if (r == NULL) {
        return RAFT_NOCONNECTION;
    }
    r->group = g;
    r->member = (unsigned)member;
    r->req = req;
    r->cb = cb;
    r->next = g->raft_dials;
    g->raft_dials = r;
    r->dial = dial_start(g->c, &g->c->members[member], WIRE_RAFT, g->id, raft_dialed, r);
    if (r->dial == NULL) {
        g->raft_dials = r->next;
        free(r);
        return RAFT_NOMEM;
    }
    return 0;
}

static void transport_maybe_closed(struct group *g)
{
    raft_uv_transport_close_cb cb = g->transport_close_cb;
    if (cb != NULL && g->dials == 0) {
        g->transport_close_cb = NULL;
        cb(&g->transport);
    }
}

static void t_close(struct raft_uv_transport *t, raft_uv_transport_close_cb cb)
{
    struct group *g = container_of(t, struct group, transport);
    g->accept = NULL;
    g->transport_close_cb = cb;
    for (struct raft_dial *r = g->raft_dials; r != NULL; r = r->next) {
        dial_fail(r->dial, UV_ECANCELED);
    }
    transport_maybe_closed(g);
}

void transport_init(struct group *g)
{
    memset(&g->transport, 0, sizeof g->transport);
    g->transport.version = 1;
    g->transport.impl = g;
    g->transport.init = t_init;
    g->transport.listen = t_listen;
    g->transport.connect = t_connect;
    g->transport.close = t_close;
}
