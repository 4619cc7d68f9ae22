/* Transport: its life, the doors of transport.h, the flush at the end of each loop turn, counts and log
 * lines.
 *
 * A turn: callbacks queue messages; the prepare handle runs last before the loop waits and flushes every
 * peer. A peer with more than one batch goes on when its write completes or, when the socket took the whole
 * batch, in the next turn, for which the idle handle keeps the loop from waiting. */
#include "transport/internal.h"

#include "base/log.h"
#include "base/text.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static const size_t queue_defaults[DN_TRANSPORT_QUEUES] = {4 * MIB, 32 * MIB, 8 * MIB};

/* ---- small things that the other files use ----------------------------------------------------------- */

uint64_t transport_now_ms(const struct dn_transport *t)
{
    return uv_now(t->o.loop);
}

void transport_count(struct dn_counter *counter, uint64_t n)
{
    if (counter != NULL) {
        dn_counter_add(counter, n);
    }
}

void transport_gauges(struct dn_transport *t)
{
    if (t->m_up != NULL) {
        dn_gauge_set(t->m_up, (double)t->up);
        dn_gauge_set(t->m_accepted, (double)t->proved);
    }
}

void transport_remote(const struct sockaddr *address, char ret_text[REMOTE_MAX])
{
    char ip[INET6_ADDRSTRLEN] = "?";
    uv_ip_name(address, ip, sizeof ip);
    if (address->sa_family == AF_INET6) {
        snprintf(ret_text, REMOTE_MAX, "[%s]:%u", ip,
                 ntohs(((const struct sockaddr_in6 *)address)->sin6_port));
    } else {
        snprintf(ret_text, REMOTE_MAX, "%s:%u", ip, ntohs(((const struct sockaddr_in *)address)->sin_port));
    }
}

bool transport_numeric(const char *host, uint16_t port, struct sockaddr_storage *ret)
{
    memset(ret, 0, sizeof *ret);
    return uv_ip4_addr(host, port, (struct sockaddr_in *)ret) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)ret) == 0;
}

void transport_tune(const struct dn_transport *t, uv_tcp_t *tcp)
{
    uv_os_fd_t fd;
    unsigned timeout_ms = t->o.user_timeout_ms;
    int unsent = UNSENT_MAX;
    uv_tcp_nodelay(tcp, 1);
    uv_tcp_keepalive(tcp, 1, KEEPALIVE_S);
    if (uv_fileno((uv_handle_t *)tcp, &fd) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    }
}

/* Counts always; logs each kind at most once in LOG_PAUSE_MS. who: a name that was proved, or NULL. */
void transport_refused(struct dn_transport *t, enum refusal why, const char *remote, const char *who)
{
    uint64_t now_ms = transport_now_ms(t);
    char before[48] = "";
    transport_count(t->m_refused[why], 1);
    if (t->log_ms[why] != 0 && now_ms - t->log_ms[why] < LOG_PAUSE_MS) {
        t->unlogged[why]++;
        return;
    }
    if (t->unlogged[why] > 0) {
        snprintf(before, sizeof before, " (%u more like it before)", t->unlogged[why]);
    }
    t->log_ms[why] = now_ms;
    t->unlogged[why] = 0;
    dn_warn(COMPONENT, "connection with %s%s%s%s refused: %s%s", remote, who == NULL ? "" : " ('",
            who == NULL ? "" : who, who == NULL ? "" : "')", refusal_text(why), before);
}

struct peer *transport_peer(const struct dn_transport *t, uint64_t raft_id)
{
    for (struct peer *peer = t->peers; raft_id != 0 && peer != NULL; peer = peer->next) {
        if (peer->raft_id == raft_id && peer->state != PEER_OVER && peer->state != PEER_DRAINING) {
            return peer;
        }
    }
    return NULL;
}

void transport_handle_closed(struct dn_transport *t)
{
    DN_ASSERT(t->handles > 0);
    if (--t->handles > 0 || !t->closing) {
        return;
    }
    t->closed = true;
    if (t->orphan) {
        free(t);
    } else if (t->closed_cb != NULL) {
        t->closed_cb(t->closed_data);
    }
}

static void handle_closed(uv_handle_t *handle)
{
    transport_handle_closed(handle->data);
}

/* ---- the turn ----------------------------------------------------------------------------------------- */

static void idle_cb(uv_idle_t *idle)
{
    (void)idle; /* that it is active is its job */
}

static void flush_all(struct dn_transport *t)
{
    bool more = false;
    t->dirty = false;
    for (struct peer *peer = t->peers; peer != NULL; peer = peer->next) {
        peer_flush(peer);
    }
    for (struct peer *peer = t->peers; peer != NULL; peer = peer->next) {
        more |= peer->conn != NULL && (peer->state == PEER_UP || peer->state == PEER_DRAINING) &&
                !peer->conn->writing && !peer->conn->broken && !frame_sender_empty(&peer->sender);
    }
    t->dirty |= more;
    if (more) {
        uv_idle_start(&t->idle, idle_cb);
    } else {
        uv_idle_stop(&t->idle);
    }
}

static void prepare_cb(uv_prepare_t *prepare)
{
    struct dn_transport *t = prepare->data;
    if (t->dirty) {
        flush_all(t);
    }
}

static void connection_cb(uv_stream_t *listener, int status)
{
    if (status == 0) {
        inbound_accept(listener->data);
    }
}

/* ---- start -------------------------------------------------------------------------------------------- */

static void create_metrics(struct dn_transport *t)
{
    struct dn_metrics *metrics = t->o.metrics;
    if (metrics == NULL) {
        return;
    }
    for (int i = REFUSED_NONE + 1; i < REFUSED_COUNT; i++) {
        char labels[64];
        snprintf(labels, sizeof labels, "reason=\"%s\"", refusal_label((enum refusal)i));
        t->m_refused[i] =
            dn_metrics_counter(metrics, "dunlin_peer_refused_total", labels,
                               "Connections between nodes that were refused or dropped, by reason.");
    }
    t->m_sent = dn_metrics_counter(metrics, "dunlin_peer_sent_bytes_total", "",
                                   "Encrypted bytes of messages sent to other nodes.");
    t->m_received = dn_metrics_counter(metrics, "dunlin_peer_received_bytes_total", "",
                                       "Encrypted bytes of messages received from other nodes.");
    t->m_full = dn_metrics_counter(metrics, "dunlin_peer_queue_full_total", "",
                                   "Messages to other nodes that found their queue full.");
    t->m_up = dn_metrics_gauge(metrics, "dunlin_peer_connections", "direction=\"out\"",
                               "Proved connections between nodes.");
    t->m_accepted = dn_metrics_gauge(metrics, "dunlin_peer_connections", "direction=\"in\"",
                                     "Proved connections between nodes.");
}

static void forget_metrics(struct dn_transport *t)
{
    memset(t->m_refused, 0, sizeof t->m_refused);
    t->m_sent = t->m_received = t->m_full = NULL;
    t->m_up = t->m_accepted = NULL;
}

/* A listening socket, made before any handle is in the loop, so that a failure leaves nothing behind. */
static enum dn_code listen_on(const char *address, int *ret_fd, uint16_t *ret_port, struct dn_error *err)
{
    struct sockaddr_storage bound;
    socklen_t length = sizeof bound;
    char host[HOST_MAX], service[8];
    uint16_t port;
    int one = 1, fd, rv;
    if (!dn_parse_address(address, host, &port)) {
        return dn_fail(err, DN_INVALID, "peer port: '%s' is no host:port", address);
    }
    if (!transport_numeric(host, port, &bound)) { /* at start-up a name may be waited for */
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
        snprintf(service, sizeof service, "%u", port);
        rv = getaddrinfo(host, service, &hints, &list);
        if (rv != 0) {
            return dn_fail(err, DN_IO, "peer port: resolve '%s': %s", host, gai_strerror(rv));
        }
        memcpy(&bound, list->ai_addr, list->ai_addrlen);
        freeaddrinfo(list);
    }
    fd = socket(bound.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return dn_fail(err, DN_IO, "peer port: socket for %s: %s", address, uv_strerror(-errno));
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, (const struct sockaddr *)&bound,
             bound.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)) != 0 ||
        listen(fd, LISTEN_BACKLOG) != 0 || getsockname(fd, (struct sockaddr *)&bound, &length) != 0) {
        rv = errno;
        close(fd);
        return dn_fail(err, DN_IO, "peer port: listen on %s: %s", address, uv_strerror(-rv));
    }
    *ret_fd = fd;
    *ret_port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)&bound)->sin_port);
    return DN_OK;
}

static enum dn_code check_options(const struct dn_transport_options *o, struct dn_error *err)
{
    if (o->keys == NULL || o->loop == NULL || o->on_message == NULL || o->bind_address == NULL ||
        o->self.raft_id == 0) {
        return dn_fail(err, DN_INVALID, "peer port: keys, loop, address, raft id and on_message are needed");
    }
    if (o->cluster_id == NULL || strlen(o->cluster_id) > DN_TRANSPORT_NAME_MAX) {
        return dn_fail(err, DN_INVALID, "peer port: a cluster id has at most %d bytes",
                       DN_TRANSPORT_NAME_MAX);
    }
    return DN_OK;
}

/* libuv writes to sockets without MSG_NOSIGNAL; a peer that went away must not end this process. An owner's
 * own handler stays. */
static void ignore_sigpipe(void)
{
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO) &&
        action.sa_handler == SIG_DFL) {
        action.sa_handler = SIG_IGN;
        sigaction(SIGPIPE, &action, NULL);
    }
}

static void init_handle(struct dn_transport *t, uv_handle_t *handle)
{
    handle->data = t;
    t->handles++;
}

enum dn_code dn_transport_start(const struct dn_transport_options *options, struct dn_transport **ret,
                                struct dn_error *err)
{
    struct dn_transport *t;
    int fd = -1, rv;
    enum dn_code code = check_options(options, err);
    if (code != DN_OK) {
        return code;
    }
    if (sodium_init() < 0) {
        return dn_fail(err, DN_INTERNAL, "peer port: libsodium does not start");
    }
    t = calloc(1, sizeof *t);
    if (t == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "peer port: out of memory");
    }
    t->o = *options;
    t->o.bind_address = NULL; /* not ours to keep */
    snprintf(t->cluster_id, sizeof t->cluster_id, "%s", options->cluster_id);
    t->o.cluster_id = t->cluster_id;
    t->o.handshake_timeout_ms =
        options->handshake_timeout_ms != 0 ? options->handshake_timeout_ms : HANDSHAKE_TIMEOUT_MS;
    t->o.user_timeout_ms = options->user_timeout_ms != 0 ? options->user_timeout_ms : USER_TIMEOUT_MS;
    t->o.connect_timeout_ms =
        options->connect_timeout_ms != 0 ? options->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    for (int i = 0; i < DN_TRANSPORT_QUEUES; i++) {
        t->o.queue_bytes[i] = options->queue_bytes[i] != 0 ? options->queue_bytes[i] : queue_defaults[i];
    }
    t->party = (struct handshake_party){.cluster_id = t->cluster_id,
                                        .self = options->self,
                                        .keys = options->keys,
                                        .seen = &t->seen,
                                        .admit = inbound_admit};
    code = listen_on(options->bind_address, &fd, &t->port, err);
    if (code != DN_OK) {
        free(t);
        return code;
    }
    ignore_sigpipe();
    create_metrics(t);
    uv_tcp_init(t->o.loop, &t->listener);
    init_handle(t, (uv_handle_t *)&t->listener);
    uv_prepare_init(t->o.loop, &t->prepare);
    init_handle(t, (uv_handle_t *)&t->prepare);
    uv_idle_init(t->o.loop, &t->idle);
    init_handle(t, (uv_handle_t *)&t->idle);
    uv_timer_init(t->o.loop, &t->timer);
    init_handle(t, (uv_handle_t *)&t->timer);
    rv = uv_tcp_open(&t->listener, fd);
    if (rv == 0) {
        rv = uv_listen((uv_stream_t *)&t->listener, LISTEN_BACKLOG, connection_cb);
    } else {
        close(fd);
    }
    if (rv != 0) {
        dn_transport_destroy(t); /* in a later turn of the loop */
        return dn_fail(err, DN_IO, "peer port: listen on %s: %s", options->bind_address, uv_strerror(rv));
    }
    uv_prepare_start(&t->prepare, prepare_cb);
    *ret = t;
    return DN_OK;
}

uint16_t dn_transport_port(const struct dn_transport *t)
{
    return t->port;
}

/* ---- end ---------------------------------------------------------------------------------------------- */

void dn_transport_close(struct dn_transport *t, void (*closed)(void *data), void *data)
{
    if (t->closing) {
        return;
    }
    t->closing = true;
    t->closed_cb = closed;
    t->closed_data = data;
    t->handles++; /* held until the end of this function */
    uv_close((uv_handle_t *)&t->listener, handle_closed);
    uv_close((uv_handle_t *)&t->timer, handle_closed);
    inbound_close_all(t);
    for (struct peer *peer = t->peers; peer != NULL; peer = peer->next) {
        peer_finish(peer);
    }
    /* Peers that drain are flushed by their own callbacks from here on. */
    uv_close((uv_handle_t *)&t->prepare, handle_closed);
    uv_close((uv_handle_t *)&t->idle, handle_closed);
    t->handles--;
}

void dn_transport_destroy(struct dn_transport *t)
{
    if (t == NULL) {
        return;
    }
    if (t->closed) {
        free(t);
        return;
    }
    /* Handles are open: it goes when the loop has closed them. Its owner hears nothing more. */
    t->orphan = true;
    t->o.on_up = NULL;
    t->o.on_down = NULL;
    t->o.on_gap = NULL;
    t->o.on_room = NULL;
    t->o.on_unknown = NULL;
    t->o.on_mistaken = NULL;
    t->closed_cb = NULL;
    forget_metrics(t); /* they and the keys may be gone before the handles are */
    dn_transport_close(t, NULL, NULL);
}

/* ---- peers and messages ------------------------------------------------------------------------------ */

enum dn_code dn_transport_peer_add(struct dn_transport *t, uint64_t raft_id, const char *address,
                                   struct dn_error *err)
{
    char host[HOST_MAX];
    uint16_t port;
    if (!dn_parse_address(address, host, &port) || port == 0) {
        return dn_fail(err, DN_INVALID, "peer address '%s' is no host:port", address);
    }
    if (raft_id == t->o.self.raft_id) {
        return dn_fail(err, DN_INVALID, "peer at %s has this node's own raft id", address);
    }
    if (t->closing) {
        return dn_fail(err, DN_UNAVAILABLE, "peer port: closing");
    }
    struct peer *peer = transport_peer(t, raft_id);
    for (struct peer *p = t->peers; peer == NULL && p != NULL; p = p->next) {
        bool same = strcmp(p->host, host) == 0 && p->port == port && p->state < PEER_OVER &&
                    p->state != PEER_DRAINING;
        if (same && (raft_id == 0 || p->raft_id == 0)) {
            peer = p;
        }
    }
    if (peer == NULL) {
        return peer_new(t, raft_id, host, port, err);
    }
    if (raft_id != 0) {
        peer->raft_id = raft_id;
    }
    peer_move(peer, host, port);
    return DN_OK;
}

void dn_transport_peer_remove(struct dn_transport *t, uint64_t raft_id)
{
    struct peer *peer = transport_peer(t, raft_id);
    if (peer != NULL) {
        peer_finish(peer);
    }
    inbound_drop(t, raft_id);
}

void dn_transport_reset(struct dn_transport *t, uint64_t raft_id)
{
    struct peer *peer = transport_peer(t, raft_id);
    if (peer != NULL && peer->state == PEER_UP) {
        peer_reset(peer);
    }
}

bool dn_transport_peer_up(const struct dn_transport *t, uint64_t raft_id)
{
    const struct peer *peer = transport_peer(t, raft_id);
    return peer != NULL && peer->state == PEER_UP && !peer->conn->broken;
}

uint8_t dn_transport_peer_level(const struct dn_transport *t, uint64_t raft_id)
{
    return dn_transport_peer_up(t, raft_id) ? transport_peer(t, raft_id)->conn->handshake.peer.level : 0;
}

bool dn_transport_send(struct dn_transport *t, uint64_t raft_id, enum dn_transport_queue queue,
                       const struct dn_transport_part *parts, size_t part_count)
{
    struct peer *peer = transport_peer(t, raft_id);
    size_t length = 0;
    DN_ASSERT(queue < DN_TRANSPORT_QUEUES);
    for (size_t i = 0; i < part_count; i++) {
        if (parts[i].length > DN_TRANSPORT_MESSAGE_MAX - length) {
            return false;
        }
        length += parts[i].length;
    }
    if (peer == NULL || peer->state != PEER_UP || peer->conn->broken) {
        return false;
    }
    /* The longest message may be longer than the queue: it is taken when nothing waits before it. */
    size_t waiting = peer->sender.queues[queue].bytes + peer->sender.queues[queue].count * FRAME_MESSAGE_COST;
    if (waiting > 0 && length + FRAME_MESSAGE_COST + waiting > t->o.queue_bytes[queue]) {
        peer->refused[queue] = true;
        transport_count(t->m_full, 1);
        return false;
    }
    if (!frame_sender_put(&peer->sender, queue, parts, part_count, length)) {
        peer->refused[queue] = true;
        t->dirty = true; /* the flush says that it may be tried again, though nothing may be queued */
        return false;
    }
    t->dirty = true;
    return true;
}

size_t dn_transport_queued(const struct dn_transport *t, uint64_t raft_id, enum dn_transport_queue queue)
{
    const struct peer *peer = transport_peer(t, raft_id);
    return peer == NULL ? 0 : peer->sender.queues[queue].bytes;
}
