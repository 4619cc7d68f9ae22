/* The dialled side of a peer: resolve -> connect -> handshake -> send.
 *
 * Happy path: peer_dial -> resolved -> connect_to -> connected -> on_input (handshake) -> come_up; then
 * peer_flush writes. Each attempt that fails waits a pause that doubles, with jitter, and resolves anew. A
 * connection that was up and is cut (end of file or reset without the final tag) is dialled again at once, at
 * the address it led to: when that is refused, the process is gone (DN_TRANSPORT_DOWN_RESET_GONE).
 *
 * A connection's memory outlives its place in the peer: detach() takes it out, its close callback frees it.
 */
#include "transport/internal.h"

#include "base/log.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void wait_ms(struct peer *peer, unsigned ms);
static void peer_dial(struct peer *peer, bool at_last);

/* ---- what the owner hears ----------------------------------------------------------------------------- */

static void tell_down(struct peer *peer, enum dn_transport_down how)
{
    struct dn_transport *t = peer->t;
    peer->owed = OWED_NOTHING;
    if (peer->told_up) {
        peer->told_up = false;
        if (t->o.on_down != NULL) {
            t->o.on_down(t->o.data, peer->raft_id, how);
        }
    }
}

static void log_failure(struct peer *peer, const char *what)
{
    uint64_t now_ms = transport_now_ms(peer->t);
    if (peer->log_ms != 0 && now_ms - peer->log_ms < LOG_PAUSE_MS) {
        return;
    }
    peer->log_ms = now_ms;
    dn_info(COMPONENT, "no connection to %s:%u: %s", peer->host, peer->port, what);
}

/* ---- ends --------------------------------------------------------------------------------------------- */

static void conn_closed(uv_handle_t *handle)
{
    struct outbound *conn = handle->data;
    struct dn_transport *t = conn->t;
    handshake_wipe(&conn->handshake);
    free(conn->out);
    free(conn);
    transport_handle_closed(t);
}

static void detach(struct peer *peer)
{
    struct dn_transport *t = peer->t;
    if (peer->resolve != NULL) {
        uv_cancel((uv_req_t *)&peer->resolve->request);
        peer->resolve->peer = NULL;
        peer->resolve = NULL;
    }
    if (peer->conn != NULL) {
        peer->conn->peer = NULL;
        uv_close((uv_handle_t *)&peer->conn->tcp, conn_closed);
        peer->conn = NULL;
    }
    if (peer->state == PEER_UP || peer->state == PEER_DRAINING) {
        t->up--;
        transport_gauges(t);
    }
    frame_sender_clear(&peer->sender);
    memset(peer->refused, 0, sizeof peer->refused);
    peer->state = PEER_WAITING;
    uv_timer_stop(&peer->timer);
}

static void probe_closed(uv_handle_t *handle)
{
    struct probe *probe = handle->data;
    struct dn_transport *t = probe->t;
    free(probe);
    transport_handle_closed(t);
}

static void probe_end(struct peer *peer)
{
    if (peer->probe != NULL) {
        peer->probe->peer = NULL;
        uv_close((uv_handle_t *)&peer->probe->tcp, probe_closed);
        peer->probe = NULL;
    }
}

static void peer_closed(uv_handle_t *handle)
{
    struct peer *peer = handle->data, **at;
    struct dn_transport *t = peer->t;
    tell_down(peer, DN_TRANSPORT_DOWN_CLOSED);
    for (at = &t->peers; *at != peer; at = &(*at)->next) {
    }
    *at = peer->next;
    free(peer);
    transport_handle_closed(t);
}

static void peer_end(struct peer *peer)
{
    if (peer->state != PEER_OVER) {
        detach(peer);
        probe_end(peer);
        peer->state = PEER_OVER;
        peer->t->peer_count--;
        uv_close((uv_handle_t *)&peer->timer, peer_closed);
    }
}

static void back_off(struct peer *peer)
{
    unsigned half_ms = peer->backoff_ms / 2;
    wait_ms(peer, half_ms + randombytes_uniform(half_ms + 1));
    peer->backoff_ms = peer->backoff_ms * 2 < BACKOFF_MAX_MS ? peer->backoff_ms * 2 : BACKOFF_MAX_MS;
}

static void tell_gone(struct peer *peer)
{
    struct dn_transport *t = peer->t;
    peer->suspect = false;
    if (peer->told_up) {
        tell_down(peer, DN_TRANSPORT_DOWN_RESET_GONE);
    } else if (t->o.on_down != NULL) { /* it was told to be lost before */
        t->o.on_down(t->o.data, peer->raft_id, DN_TRANSPORT_DOWN_RESET_GONE);
    }
}

/* The attempt came to nothing: another one after a pause. A process that dies takes its connections and its
 * listening socket with it one after the other: an attempt in between is taken and then reset, and proves
 * nothing. It is made again soon, until it is refused. */
static void attempt_failed(struct peer *peer, const char *what, int status)
{
    bool reset = status == UV_ECONNRESET || status == UV_EOF || status == UV_EPIPE;
    log_failure(peer, what);
    detach(peer);
    if (reset && peer->suspect && peer->hasty < HASTY_MAX) {
        peer->hasty++;
        wait_ms(peer, HASTY_MS);
        return;
    }
    peer->hasty = HASTY_MAX;
    if (status == UV_ECONNREFUSED && peer->suspect) {
        tell_gone(peer);
    } else if (peer->owed == OWED_DIAL) {
        tell_down(peer, DN_TRANSPORT_DOWN_LOST);
    }
    if (peer->state == PEER_WAITING) { /* or the owner removed it */
        back_off(peer);
    }
}

/* The connection was up and is to be made anew, at once if it had lasted. The timer sees to it, so that
 * nothing is told from within a call of the owner. */
static void dial_anew(struct peer *peer)
{
    bool settled = transport_now_ms(peer->t) - peer->up_since_ms >= SETTLED_MS;
    detach(peer);
    peer->owed = OWED_DIAL;
    peer->suspect = true;
    peer->hasty = 0;
    if (settled) {
        peer->backoff_ms = BACKOFF_MIN_MS;
        wait_ms(peer, 0);
    } else {
        back_off(peer);
    }
}

static void went_down(struct peer *peer, int status, bool final)
{
    if (peer->state == PEER_DRAINING) {
        peer_end(peer);
    } else if (!final && (status == UV_EOF || status == UV_ECONNRESET || status == UV_EPIPE)) {
        dial_anew(peer);
    } else {
        peer->owed = OWED_LOST;
        detach(peer);
        wait_ms(peer, BACKOFF_MIN_MS);
        tell_down(peer, final ? DN_TRANSPORT_DOWN_CLOSED : DN_TRANSPORT_DOWN_LOST);
    }
}

void peer_reset(struct peer *peer)
{
    dial_anew(peer);
}

/* ---- the timer: the next attempt, or the end of this one ---------------------------------------------- */

static void timer_cb(uv_timer_t *timer)
{
    struct peer *peer = timer->data;
    switch (peer->state) {
    case PEER_WAITING:
        if (peer->owed == OWED_LOST) {
            tell_down(peer, DN_TRANSPORT_DOWN_LOST);
        }
        if (peer->state == PEER_WAITING) {
            peer_dial(peer, peer->owed == OWED_DIAL ||
                                (peer->suspect && peer->hasty > 0 && peer->hasty < HASTY_MAX));
        }
        break;
    case PEER_RESOLVING:
        attempt_failed(peer, "the name was not resolved in time", 0);
        break;
    case PEER_CONNECTING:
        attempt_failed(peer, "not connected in time", 0);
        break;
    case PEER_PROVING: {
        char remote[REMOTE_MAX];
        transport_remote((const struct sockaddr *)&peer->current, remote);
        transport_refused(peer->t, REFUSED_TIMEOUT, remote, NULL);
        attempt_failed(peer, "no handshake in time", 0);
        break;
    }
    case PEER_UP: /* a write failed and the reading side saw nothing */
        went_down(peer, UV_ETIMEDOUT, false);
        break;
    case PEER_DRAINING:
        peer_end(peer);
        break;
    default:
        break;
    }
}

static void wait_ms(struct peer *peer, unsigned ms)
{
    uv_timer_start(&peer->timer, timer_cb, ms, 0);
}

/* ---- up ----------------------------------------------------------------------------------------------- */

/* The proof came from an address whose raft id was not known: is it a node we know under another address? */
static bool take_raft_id(struct peer *peer, uint64_t raft_id)
{
    struct peer *known = transport_peer(peer->t, raft_id);
    if (peer->raft_id == raft_id) {
        return true;
    }
    if (peer->raft_id != 0) {
        attempt_failed(peer, "another node answered", 0);
        return false;
    }
    if (known != NULL) {
        char host[HOST_MAX];
        uint16_t port = peer->port;
        snprintf(host, sizeof host, "%s", peer->host);
        peer_end(peer);
        if (known->state != PEER_UP) {
            peer_move(known, host, port);
        }
        return false;
    }
    peer->raft_id = raft_id;
    return true;
}

static void come_up(struct peer *peer)
{
    struct dn_transport *t = peer->t;
    struct outbound *conn = peer->conn;
    struct dn_transport_peer_id id = conn->handshake.peer;
    if (!take_raft_id(peer, id.raft_id)) {
        return;
    }
    conn->out = malloc(BATCH_MAX);
    if (conn->out == NULL) {
        attempt_failed(peer, "out of memory", 0);
        return;
    }
    tell_down(peer, DN_TRANSPORT_DOWN_LOST); /* if it is still owed */
    if (peer->conn != conn) {
        return;
    }
    uv_timer_stop(&peer->timer);
    peer->state = PEER_UP;
    peer->suspect = false;
    peer->last = peer->current;
    peer->last_valid = true;
    peer->up_since_ms = transport_now_ms(t);
    peer->log_ms = 0;
    t->up++;
    transport_gauges(t);
    peer->told_up = true;
    if (t->o.on_up != NULL) {
        t->o.on_up(t->o.data, &id);
    }
}

/* ---- input -------------------------------------------------------------------------------------------- */

static void refused(struct peer *peer)
{
    struct dn_transport *t = peer->t;
    struct handshake *h = &peer->conn->handshake;
    char remote[REMOTE_MAX], what[128];
    if (h->peer.raft_id == t->o.self.raft_id && h->peer.incarnation == t->o.self.incarnation) {
        detach(peer);
        peer->state = PEER_SELF;
        tell_down(peer, DN_TRANSPORT_DOWN_LOST);
        return;
    }
    if (h->judged) {
        snprintf(what, sizeof what, "it refuses us: %s", refusal_text(h->refusal));
    } else {
        transport_remote((const struct sockaddr *)&peer->current, remote);
        transport_refused(t, h->refusal, remote, h->peer.raft_id != 0 ? h->peer.name : NULL);
        snprintf(what, sizeof what, "refused: %s", refusal_text(h->refusal));
    }
    attempt_failed(peer, what, 0);
}

static void on_handshake(struct peer *peer, size_t length)
{
    struct outbound *conn = peer->conn;
    uint8_t out[HANDSHAKE_STEP_MAX];
    size_t out_length, used = 0;
    while (conn->handshake.state < HANDSHAKE_DONE && used < length) {
        used += handshake_input(&conn->handshake, conn->in + used, length - used, out, &out_length);
        if (out_length > 0) {
            uv_buf_t buf = uv_buf_init((char *)out, (unsigned)out_length);
            int rv = uv_try_write((uv_stream_t *)&conn->tcp, &buf, 1);
            if (rv != (int)out_length) {
                attempt_failed(peer, "the handshake cannot be written", rv < 0 ? rv : 0);
                return;
            }
        }
    }
    if (conn->handshake.state == HANDSHAKE_REFUSED) {
        refused(peer);
    } else if (conn->handshake.state == HANDSHAKE_DONE) {
        memmove(conn->in, conn->in + used, length - used);
        conn->in_length = length - used;
        come_up(peer);
    }
}

/* All that an acceptor sends after the handshake is its final tag. */
static void on_final(struct peer *peer)
{
    struct outbound *conn = peer->conn;
    unsigned char tag;
    const size_t cipher = FRAME_FINAL_BYTES - FRAME_PREFIX_BYTES;
    uint8_t prefix[FRAME_PREFIX_BYTES];
    if (conn->in_length < FRAME_FINAL_BYTES) {
        return;
    }
    frame_prefix(prefix, cipher);
    bool final =
        memcmp(conn->in, prefix, sizeof prefix) == 0 &&
        crypto_secretstream_xchacha20poly1305_pull(&conn->handshake.receive, NULL, NULL, &tag,
                                                   conn->in + FRAME_PREFIX_BYTES, cipher, NULL, 0) == 0 &&
        tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL && conn->in_length == FRAME_FINAL_BYTES;
    if (!final) {
        char remote[REMOTE_MAX];
        transport_remote((const struct sockaddr *)&peer->current, remote);
        transport_refused(peer->t, REFUSED_TAMPERED, remote, conn->handshake.peer.name);
    }
    went_down(peer, 0, final);
}

static void alloc_cb(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct outbound *conn = handle->data;
    (void)suggested;
    *buf = uv_buf_init((char *)conn->in + conn->in_length, (unsigned)(sizeof conn->in - conn->in_length));
}

static void read_cb(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct outbound *conn = stream->data;
    struct peer *peer = conn->peer;
    (void)buf;
    if (peer == NULL || nread == 0) {
        return;
    }
    if (peer->state == PEER_PROVING) {
        if (nread < 0) {
            attempt_failed(peer,
                           nread == UV_EOF ? "it hung up during the handshake (another key?)"
                                           : uv_strerror((int)nread),
                           (int)nread);
            return;
        }
        on_handshake(peer, (size_t)nread);
        if (conn->peer == NULL || peer->state != PEER_UP) {
            return;
        }
    } else if (nread < 0) {
        went_down(peer, (int)nread, false);
        return;
    } else {
        conn->in_length += (size_t)nread;
    }
    on_final(peer);
}

/* ---- dialling ----------------------------------------------------------------------------------------- */

static void connected(uv_connect_t *connect, int status)
{
    struct outbound *conn = connect->data;
    struct peer *peer = conn->peer;
    struct dn_transport *t = conn->t;
    uint8_t hello[HANDSHAKE_STEP_MAX];
    size_t length;
    if (peer == NULL) {
        return;
    }
    if (status != 0) {
        attempt_failed(peer, uv_strerror(status), status);
        return;
    }
    if (peer->owed == OWED_DIAL) {
        tell_down(peer, DN_TRANSPORT_DOWN_LOST);
        if (conn->peer == NULL) {
            return;
        }
    }
    transport_tune(t, &conn->tcp);
    if (!handshake_dial(&conn->handshake, &t->party, peer->raft_id, hello, &length)) {
        attempt_failed(peer, "the key's memory cannot be opened", 0);
        return;
    }
    uv_buf_t buf = uv_buf_init((char *)hello, (unsigned)length);
    int rv = uv_try_write((uv_stream_t *)&conn->tcp, &buf, 1);
    if (rv != (int)length || uv_read_start((uv_stream_t *)&conn->tcp, alloc_cb, read_cb) != 0) {
        attempt_failed(peer, "the handshake cannot be written", rv < 0 ? rv : 0);
        return;
    }
    peer->state = PEER_PROVING;
    wait_ms(peer, t->o.handshake_timeout_ms);
}

static void connect_to(struct peer *peer, const struct sockaddr *address, size_t address_length)
{
    struct dn_transport *t = peer->t;
    struct outbound *conn = calloc(1, sizeof *conn);
    if (conn == NULL) {
        attempt_failed(peer, "out of memory", 0);
        return;
    }
    memset(&peer->current, 0, sizeof peer->current);
    memcpy(&peer->current, address, address_length);
    uv_tcp_init(t->o.loop, &conn->tcp);
    conn->tcp.data = conn;
    conn->connect.data = conn;
    conn->write.data = conn;
    conn->t = t;
    conn->peer = peer;
    t->handles++;
    peer->conn = conn;
    peer->state = PEER_CONNECTING;
    wait_ms(peer, t->o.connect_timeout_ms);
    int rv = uv_tcp_connect(&conn->connect, &conn->tcp, address, connected);
    if (rv != 0) {
        attempt_failed(peer, uv_strerror(rv), rv);
    }
}

static void resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct resolve *resolve = request->data;
    struct peer *peer = resolve->peer;
    struct dn_transport *t = resolve->t;
    unsigned count = 0;
    free(resolve);
    if (peer != NULL) {
        peer->resolve = NULL;
        for (struct addrinfo *a = list; a != NULL; a = a->ai_next) {
            count++;
        }
        if (status != 0 || count == 0) {
            attempt_failed(peer, uv_strerror(status == 0 ? UV_EAI_NONAME : status), 0);
        } else {
            struct addrinfo *chosen = list;
            for (unsigned skip = peer->attempt++ % count; skip > 0; skip--) {
                chosen = chosen->ai_next;
            }
            connect_to(peer, chosen->ai_addr, chosen->ai_addrlen);
        }
    }
    uv_freeaddrinfo(list);
    transport_handle_closed(t);
}

static void resolve_name(struct peer *peer)
{
    struct dn_transport *t = peer->t;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct resolve *resolve = calloc(1, sizeof *resolve);
    char service[8];
    if (resolve == NULL) {
        attempt_failed(peer, "out of memory", 0);
        return;
    }
    snprintf(service, sizeof service, "%u", peer->port);
    resolve->t = t;
    resolve->peer = peer;
    resolve->request.data = resolve;
    int rv = uv_getaddrinfo(t->o.loop, &resolve->request, resolved, peer->host, service, &hints);
    if (rv != 0) {
        free(resolve);
        attempt_failed(peer, uv_strerror(rv), 0);
        return;
    }
    t->handles++;
    peer->resolve = resolve;
    peer->state = PEER_RESOLVING;
    wait_ms(peer, t->o.connect_timeout_ms);
}

/* at_last: where the connection led that was just cut, without asking the name service. */
static void peer_dial(struct peer *peer, bool at_last)
{
    struct sockaddr_storage address;
    if (at_last && peer->last_valid) {
        address = peer->last;
        connect_to(peer, (const struct sockaddr *)&address, sizeof address);
    } else if (transport_numeric(peer->host, peer->port, &address)) {
        connect_to(peer, (const struct sockaddr *)&address, sizeof address);
    } else {
        resolve_name(peer);
    }
}

/* ---- probing ------------------------------------------------------------------------------------------ */

static void probed(uv_connect_t *connect, int status)
{
    struct probe *probe = connect->data;
    struct peer *peer = probe->peer;
    if (peer == NULL) {
        return;
    }
    probe_end(peer);
    if (status == UV_ECONNREFUSED && peer->state == PEER_UP) {
        detach(peer);
        wait_ms(peer, BACKOFF_MIN_MS);
        peer->owed = OWED_LOST;
        tell_down(peer, DN_TRANSPORT_DOWN_RESET_GONE);
    }
}

/* Our own connection stays as it is unless the probe is refused: a cut connection may be a mishap of the
 * network, or the other side's reset, and what travels the other way need not suffer for it. */
void peer_probe(struct peer *peer)
{
    struct dn_transport *t = peer->t;
    if (peer->state != PEER_UP || peer->probe != NULL) {
        return;
    }
    struct probe *probe = calloc(1, sizeof *probe);
    if (probe == NULL) {
        return;
    }
    probe->t = t;
    probe->peer = peer;
    uv_tcp_init(t->o.loop, &probe->tcp);
    probe->tcp.data = probe;
    probe->connect.data = probe;
    t->handles++;
    peer->probe = probe;
    if (uv_tcp_connect(&probe->connect, &probe->tcp, (const struct sockaddr *)&peer->last, probed) != 0) {
        probe_end(peer);
    }
}

/* ---- output ------------------------------------------------------------------------------------------- */

static void drained(struct peer *peer)
{
    uint8_t final[FRAME_FINAL_BYTES];
    uv_buf_t buf = uv_buf_init((char *) final, sizeof final);
    frame_final(&peer->conn->handshake.send, final);
    uv_try_write((uv_stream_t *)&peer->conn->tcp, &buf, 1); /* or the other side takes it for cut */
    peer_end(peer);
}

/* Reading tells how the connection ended; it should do so soon. */
static void write_failed(struct peer *peer)
{
    peer->conn->broken = true;
    if (peer->state == PEER_DRAINING) {
        peer_end(peer);
    } else {
        wait_ms(peer, peer->t->o.user_timeout_ms);
    }
}

static void written(uv_write_t *write, int status)
{
    struct outbound *conn = write->data;
    conn->writing = false;
    if (conn->peer == NULL) {
        return;
    }
    if (status != 0) {
        write_failed(conn->peer);
    } else {
        peer_flush(conn->peer);
    }
}

/* One batch. True: the socket took it whole. */
static bool write_batch(struct peer *peer)
{
    struct outbound *conn = peer->conn;
    size_t length = frame_sender_fill(&peer->sender, &conn->handshake.send, conn->out, BATCH_MAX);
    uv_buf_t buf = uv_buf_init((char *)conn->out, (unsigned)length);
    int rv = uv_try_write((uv_stream_t *)&conn->tcp, &buf, 1);
    transport_count(peer->t->m_sent, length);
    if (rv == UV_EAGAIN) {
        rv = 0;
    }
    if (rv < 0) {
        write_failed(peer);
        return false;
    }
    if ((size_t)rv == length) {
        return true;
    }
    buf = uv_buf_init((char *)conn->out + rv, (unsigned)(length - (size_t)rv));
    rv = uv_write(&conn->write, (uv_stream_t *)&conn->tcp, &buf, 1, written);
    if (rv != 0) {
        write_failed(peer);
        return false;
    }
    conn->writing = true;
    return false;
}

static void tell_room(struct peer *peer)
{
    struct dn_transport *t = peer->t;
    bool room = false;
    for (int i = 0; i < DN_TRANSPORT_QUEUES; i++) {
        const struct frame_queue *queue = &peer->sender.queues[i];
        if (peer->refused[i] && queue->bytes + queue->count * FRAME_MESSAGE_COST <= t->o.queue_bytes[i] / 2) {
            peer->refused[i] = false;
            room = true;
        }
    }
    if (room && t->o.on_room != NULL) {
        t->o.on_room(t->o.data, peer->raft_id);
    }
}

void peer_flush(struct peer *peer)
{
    if ((peer->state != PEER_UP && peer->state != PEER_DRAINING) || peer->conn->writing ||
        peer->conn->broken) {
        return;
    }
    if (peer->state == PEER_DRAINING) {
        while (!frame_sender_empty(&peer->sender)) {
            if (!write_batch(peer)) {
                return;
            }
        }
        drained(peer);
        return;
    }
    if (!frame_sender_empty(&peer->sender)) {
        bool whole = write_batch(peer);
        if (whole && !frame_sender_empty(&peer->sender)) {
            peer->t->dirty = true;
        }
    }
    tell_room(peer);
}

/* ---- doors -------------------------------------------------------------------------------------------- */

enum dn_code peer_new(struct dn_transport *t, uint64_t raft_id, const char *host, uint16_t port,
                      struct dn_error *err)
{
    if (t->peer_count >= DN_TRANSPORT_PEERS_MAX) {
        return dn_fail(err, DN_EXHAUSTED, "more than %d peers", DN_TRANSPORT_PEERS_MAX);
    }
    struct peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "peer %s:%u: out of memory", host, port);
    }
    peer->t = t;
    peer->raft_id = raft_id;
    snprintf(peer->host, sizeof peer->host, "%s", host);
    peer->port = port;
    peer->backoff_ms = BACKOFF_MIN_MS;
    frame_sender_init(&peer->sender);
    uv_timer_init(t->o.loop, &peer->timer);
    peer->timer.data = peer;
    t->handles++;
    t->peer_count++;
    peer->next = t->peers;
    t->peers = peer;
    wait_ms(peer, 0);
    return DN_OK;
}

void peer_move(struct peer *peer, const char *host, uint16_t port)
{
    if (strcmp(peer->host, host) == 0 && peer->port == port) {
        return;
    }
    snprintf(peer->host, sizeof peer->host, "%s", host);
    peer->port = port;
    peer->last_valid = false;
    peer->log_ms = 0;
    peer->backoff_ms = BACKOFF_MIN_MS;
    probe_end(peer);
    detach(peer);
    peer->owed = OWED_LOST;
    wait_ms(peer, 0);
}

void peer_finish(struct peer *peer)
{
    if (peer->state == PEER_OVER || peer->state == PEER_DRAINING) {
        return;
    }
    if (peer->state != PEER_UP) {
        peer_end(peer);
        return;
    }
    peer->state = PEER_DRAINING;
    wait_ms(peer, DRAIN_TIMEOUT_MS);
    peer_flush(peer);
}
