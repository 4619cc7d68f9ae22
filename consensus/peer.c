/* Peer: the link between nodes for what is not Raft's own: forwarded proposals, barriers, clock stamps.
 *
 * Each node keeps one outgoing link to every other node: requests go out on it and their answers come back on
 * it; the answers to requests of others go back on the links those others made. States of an outgoing link:
 * DOWN -dial-> DIALING -link_dialed-> UP -conn_close (error, end of file, bad frame)-> DOWN, with a pause
 * that doubles from LINK_BACKOFF_MIN_MS to LINK_BACKOFF_MAX_MS while dialing fails.
 *
 * Frames are gathered in conn->out during a loop turn and written once at its end. At most LINK_WRITE_MAX
 * bytes wait on a link: what finds no room stays where it was. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define COMPONENT "peer"
#define READ_CHUNK_BYTES 65536

struct conn *peer_conn(struct dn_consensus *c, uint64_t node_id)
{
    int member = member_find(c, node_id);
    return member >= 0 && c->members[member].state == LINK_UP ? c->members[member].conn : NULL;
}

struct conn *peer_conn_by_id(struct dn_consensus *c, uint64_t id)
{
    for (struct conn *conn = c->conns; conn != NULL; conn = conn->next) {
        if (conn->id == id && !conn->closing) {
            return conn;
        }
    }
    return NULL;
}

/* ---- closing ---------------------------------------------------------------------------------------- */

static void conn_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;
    struct dn_consensus *c = conn->c;
    if (conn->prev == NULL) {
        c->conns = conn->next;
    } else {
        conn->prev->next = conn->next;
    }
    if (conn->next != NULL) {
        conn->next->prev = conn->prev;
    }
    dn_buffer_free(&conn->in);
    dn_buffer_free(&conn->out);
    raft_free(conn->tcp);
    free(conn);
}

static void link_down(struct dn_consensus *c, struct member *m)
{
    m->state = LINK_DOWN;
    m->conn = NULL;
    m->dial_at_us = dn_monotonic_us() + (uint64_t)m->backoff_ms * 1000;
    if (c->phase < PHASE_CLOSE) {
        transport_peer_gone(c, (unsigned)(m - c->members));
    }
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        if (c->groups[i].leader_id == m->node_id) {
            propose_unforward(&c->groups[i]);
            wait_unfence(&c->groups[i]);
        }
    }
}

static void conn_close(struct conn *conn)
{
    struct dn_consensus *c = conn->c;
    int member;
    if (conn->closing) {
        return;
    }
    conn->closing = true;
    uv_close((uv_handle_t *)conn->tcp, conn_closed);
    member = member_find(c, conn->node_id);
    if (conn->outgoing && member >= 0 && c->members[member].conn == conn) {
        link_down(c, &c->members[member]);
    }
}

void peer_close_all(struct dn_consensus *c)
{
    for (struct conn *conn = c->conns; conn != NULL; conn = conn->next) {
        conn_close(conn);
    }
}

/* ---- requests of other nodes ------------------------------------------------------------------------ */

/* An answer that finds no room must not just be lost: the other side would wait for it. It asks again when
 * the link ends. */
static void answer(struct conn *conn, const struct wire_frame *frame)
{
    if (conn != NULL && !peer_send(conn, frame)) {
        conn_close(conn);
    }
}

struct remote_proposal {
    struct dn_proposal proposal;
    struct dn_consensus *c;
    uint64_t conn_id, request;
    uint8_t record[];
};

static void remote_proposed(struct dn_proposal *p, enum dn_code code, uint64_t index, const uint8_t *result,
                            size_t length, const struct dn_error *err)
{
    struct remote_proposal *r = container_of(p, struct remote_proposal, proposal);
    struct conn *conn = peer_conn_by_id(r->c, r->conn_id);
    struct wire_frame frame = {.type = WIRE_PROPOSE_ANSWER,
                               .request = r->request,
                               .code = code,
                               .index = index,
                               .bytes = result,
                               .length = length};
    if (err != NULL) {
        frame.message = err->message;
        frame.message_length = strlen(err->message);
    }
    answer(conn, &frame);
    free(r);
}

static void on_propose(struct conn *conn, const struct wire_frame *frame)
{
    struct dn_consensus *c = conn->c;
    struct remote_proposal *r = calloc(1, sizeof *r + frame->length);
    if (r == NULL) {
        conn_close(conn); /* the other side tries again */
        return;
    }
    memcpy(r->record, frame->bytes, frame->length);
    r->c = c;
    r->conn_id = conn->id;
    r->request = frame->request;
    r->proposal.group = frame->group;
    r->proposal.record = r->record;
    r->proposal.length = frame->length;
    r->proposal.deadline_us = dn_monotonic_us() + (uint64_t)frame->left_ms * 1000;
    r->proposal.done = remote_proposed;
    propose_accept(c, &r->proposal, true);
}

struct remote_wait {
    struct dn_wait wait;
    struct dn_consensus *c;
    uint64_t conn_id, request;
};

static void remote_fenced(struct dn_wait *w, enum dn_code code, uint64_t applied, const struct dn_error *err)
{
    struct remote_wait *r = container_of(w, struct remote_wait, wait);
    struct conn *conn = peer_conn_by_id(r->c, r->conn_id);
    struct wire_frame frame = {.type = WIRE_BARRIER_ANSWER,
                               .request = r->request,
                               .group = w->group,
                               .code = code,
                               .index = w->index};
    (void)applied;
    (void)err;
    answer(conn, &frame);
    free(r);
}

static void on_barrier(struct conn *conn, const struct wire_frame *frame)
{
    struct remote_wait *r = calloc(1, sizeof *r);
    if (r == NULL) {
        conn_close(conn);
        return;
    }
    r->c = conn->c;
    r->conn_id = conn->id;
    r->request = frame->request;
    r->wait.group = frame->group;
    r->wait.kind = DN_WAIT_BARRIER;
    r->wait.deadline_us = dn_monotonic_us() + (uint64_t)conn->c->o.election_timeout_ms * 4000;
    r->wait.done = remote_fenced;
    wait_accept(conn->c, &r->wait, true);
}

/* ---- reading ---------------------------------------------------------------------------------------- */

static void on_frame(struct conn *conn, const struct wire_frame *frame)
{
    struct dn_consensus *c = conn->c;
    bool request = frame->type == WIRE_PROPOSE || frame->type == WIRE_BARRIER || frame->type == WIRE_STAMPS ||
                   frame->type == WIRE_CHUNK_ASK;
    if (request == conn->outgoing || frame->group >= c->o.group_count) {
        transport_stranger(c, "node %llu sent a frame of type %u the wrong way",
                           (unsigned long long)conn->node_id, frame->type);
        conn_close(conn);
        return;
    }
    switch (frame->type) {
    case WIRE_PROPOSE:
        on_propose(conn, frame);
        break;
    case WIRE_PROPOSE_ANSWER:
        propose_answer(c, frame);
        break;
    case WIRE_BARRIER:
        on_barrier(conn, frame);
        break;
    case WIRE_BARRIER_ANSWER:
        wait_answer(c, frame);
        break;
    case WIRE_STAMPS:
        age_stamps_in(c, conn->node_id, frame);
        break;
    case WIRE_CHUNK_ASK:
        serve_ask(conn, frame);
        break;
    case WIRE_CHUNK:
    case WIRE_CHUNK_GONE:
        fetch_answer(c, conn->node_id, frame);
        break;
    }
}

static void parse(struct conn *conn)
{
    size_t at = 0;
    while (!conn->closing) {
        struct wire_frame frame;
        struct dn_error err;
        size_t used;
        if (wire_frame_decode(conn->in.bytes + at, conn->in.length - at, &frame, &used, &err) != DN_OK) {
            transport_stranger(conn->c, "node %llu: %s", (unsigned long long)conn->node_id, err.message);
            conn_close(conn);
            return;
        }
        if (used == 0) {
            break;
        }
        on_frame(conn, &frame);
        at += used;
    }
    if (at > 0 && !conn->closing) {
        memmove(conn->in.bytes, conn->in.bytes + at, conn->in.length - at);
        conn->in.length -= at;
    }
}

static void read_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct conn *conn = handle->data;
    uint8_t *room = dn_buffer_reserve(&conn->in, READ_CHUNK_BYTES);
    (void)suggested;
    *buf = uv_buf_init((char *)room, room == NULL ? 0 : READ_CHUNK_BYTES); /* 0: the read fails */
}

static void read_cb(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct conn *conn = stream->data;
    (void)buf;
    if (conn->closing || nread == 0) {
        return;
    }
    if (nread < 0) {
        struct dn_consensus *c = conn->c;
        bool died = conn->outgoing && (nread == UV_EOF || nread == UV_ECONNRESET);
        for (uint32_t i = 0; died && i < c->o.group_count; i++) {
            group_leader_gone(&c->groups[i], conn->node_id);
        }
        conn_close(conn);
        return;
    }
    conn->in.length += (size_t)nread;
    parse(conn);
}

/* ---- writing ---------------------------------------------------------------------------------------- */

bool peer_send(struct conn *conn, const struct wire_frame *frame)
{
    size_t start = conn->out.length;
    if (conn->closing || conn->out.length + conn->tcp->write_queue_size > LINK_WRITE_MAX) {
        return false;
    }
    wire_frame_encode(frame, &conn->out);
    if (conn->out.failed) {
        conn->out.length = start;
        conn->out.failed = false;
        return false;
    }
    consensus_kick(conn->c);
    return true;
}

struct write {
    uv_write_t req;
    uint8_t *bytes;
};

static void write_done(uv_write_t *req, int status)
{
    struct write *w = container_of(req, struct write, req);
    struct conn *conn = req->handle->data;
    if (status != 0) {
        conn_close(conn);
    }
    free(w->bytes);
    free(w);
}

static void conn_flush(struct conn *conn)
{
    struct write *w;
    if (conn->closing || conn->out.length == 0) {
        return;
    }
    w = malloc(sizeof *w);
    if (w == NULL) {
        conn_close(conn);
        return;
    }
    uv_buf_t buf = uv_buf_init((char *)conn->out.bytes, (unsigned)conn->out.length);
    w->bytes = conn->out.bytes; /* the buffer's memory goes with the write */
    dn_buffer_init(&conn->out, conn->out.max);
    if (uv_write(&w->req, (uv_stream_t *)conn->tcp, &buf, 1, write_done) != 0) {
        free(w->bytes);
        free(w);
        conn_close(conn);
    }
}

void peer_flush(struct dn_consensus *c)
{
    for (struct conn *conn = c->conns; conn != NULL; conn = conn->next) {
        conn_flush(conn);
    }
}

/* ---- making links ----------------------------------------------------------------------------------- */

static struct conn *conn_open(struct dn_consensus *c, uint64_t node_id, uv_tcp_t *tcp, bool outgoing)
{
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL) {
        return NULL;
    }
    conn->c = c;
    conn->id = ++c->next_conn;
    conn->node_id = node_id;
    conn->outgoing = outgoing;
    conn->tcp = tcp;
    tcp->data = conn;
    dn_buffer_init(&conn->in, WIRE_FRAME_MAX + 2 * READ_CHUNK_BYTES);
    dn_buffer_init(&conn->out, LINK_WRITE_MAX + WIRE_FRAME_MAX);
    conn->next = c->conns;
    if (conn->next != NULL) {
        conn->next->prev = conn;
    }
    c->conns = conn;
    if (uv_read_start((uv_stream_t *)tcp, read_alloc, read_cb) != 0) {
        conn_close(conn);
        return NULL;
    }
    return conn;
}

static void free_tcp(uv_handle_t *handle)
{
    raft_free(handle);
}

/* A node uses one link at a time, but what a broken network left of older ones looks open here: when there
 * are many, the oldest makes room. The list begins with the newest. */
static void forget_oldest_link(struct dn_consensus *c, uint64_t node_id)
{
    struct conn *oldest = NULL;
    unsigned count = 0;
    for (struct conn *conn = c->conns; conn != NULL; conn = conn->next) {
        if (!conn->outgoing && !conn->closing && conn->node_id == node_id) {
            oldest = conn;
            count++;
        }
    }
    if (count >= LINKS_FROM_NODE_MAX) {
        conn_close(oldest);
    }
}

void peer_accept(struct dn_consensus *c, uint64_t node_id, uv_tcp_t *tcp)
{
    forget_oldest_link(c, node_id);
    tcp->data = NULL;
    if (conn_open(c, node_id, tcp, false) == NULL && tcp->data == NULL) {
        uv_close((uv_handle_t *)tcp, free_tcp);
    }
}

struct link_dial {
    struct dn_consensus *c;
    struct member *member;
};

static void link_dialed(void *data, uv_tcp_t *tcp, int status)
{
    struct link_dial dial = *(struct link_dial *)data;
    struct member *m = dial.member;
    free(data);
    if (status != 0) {
        m->state = LINK_DOWN;
        m->dial_at_us = dn_monotonic_us() + (uint64_t)m->backoff_ms * 1000;
        m->backoff_ms = m->backoff_ms * 2 > LINK_BACKOFF_MAX_MS ? LINK_BACKOFF_MAX_MS : m->backoff_ms * 2;
        return;
    }
    tcp->data = NULL;
    if (dial.c->phase > PHASE_TRANSFER || (m->conn = conn_open(dial.c, m->node_id, tcp, true)) == NULL) {
        m->state = LINK_DOWN;
        m->dial_at_us = dn_monotonic_us() + (uint64_t)m->backoff_ms * 1000;
        if (tcp->data == NULL) {
            uv_close((uv_handle_t *)tcp, free_tcp);
        }
        return;
    }
    m->state = LINK_UP;
    m->backoff_ms = LINK_BACKOFF_MIN_MS;
    dn_debug(COMPONENT, "link to node %llu (%s) is up", (unsigned long long)m->node_id, m->address);
    consensus_kick(dial.c);
}

void peer_housekeep(struct dn_consensus *c, uint64_t now_us)
{
    for (unsigned i = 0; i < c->member_count; i++) {
        struct member *m = &c->members[i];
        struct link_dial *data;
        if (i == c->self || m->state != LINK_DOWN || now_us < m->dial_at_us) {
            continue;
        }
        data = malloc(sizeof *data);
        if (data == NULL) {
            continue;
        }
        *data = (struct link_dial){c, m};
        m->state = LINK_DIALING;
        if (dial_start(c, m, WIRE_LINK, 0, link_dialed, data) == NULL) {
            m->state = LINK_DOWN;
            free(data);
        }
    }
}
