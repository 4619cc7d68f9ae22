/* The accepting side: accept -> handshake in a fixed slot -> frames -> messages.
 *
 * Failure modes: no slot (the oldest unproved one is dropped), no proof in time, a refused handshake, a frame
 * that fails authentication, the other side ends with or without its final tag. A slot is free again when its
 * handle is closed. */
#include "transport/internal.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define EXPIRE_STEPS 4 /* looks at the slots within a handshake timeout */

static void tell_gap(struct inbound *in)
{
    struct dn_transport *t = in->t;
    if (in->gap_owed) {
        in->gap_owed = false;
        if (t->o.on_gap != NULL) {
            t->o.on_gap(t->o.data, in->handshake.peer.raft_id);
        }
    }
}

static void slot_closed(uv_handle_t *handle)
{
    struct inbound *in = handle->data;
    struct dn_transport *t = in->t;
    tell_gap(in);
    handshake_wipe(&in->handshake);
    frame_receiver_free(&in->receiver);
    free(in->in);
    in->in = NULL;
    in->state = INBOUND_FREE;
    if (t->accept_waits && !t->closing) {
        t->accept_waits = false;
        inbound_accept(t);
    }
    transport_handle_closed(t);
}

static void slot_close(struct inbound *in)
{
    struct dn_transport *t = in->t;
    if (in->state == INBOUND_UNPROVED) {
        t->unproved--;
        if (t->unproved == 0) {
            uv_timer_stop(&t->timer);
        }
    } else if (in->state == INBOUND_PROVED) {
        t->proved--;
        transport_gauges(t);
    } else {
        return;
    }
    in->state = INBOUND_CLOSING;
    uv_close((uv_handle_t *)&in->tcp, slot_closed);
}

static void refuse(struct inbound *in, enum refusal why)
{
    bool proved = in->state == INBOUND_PROVED || in->handshake.peer.raft_id != 0;
    transport_refused(in->t, why, in->remote, proved ? in->handshake.peer.name : NULL);
    slot_close(in);
}

/* We close: the other side is told so. */
static void say_goodbye(struct inbound *in)
{
    uint8_t final[FRAME_FINAL_BYTES];
    uv_buf_t buf = uv_buf_init((char *) final, sizeof final);
    frame_final(&in->handshake.send, final);
    uv_try_write((uv_stream_t *)&in->tcp, &buf, 1); /* or the other side takes it for cut */
    slot_close(in);
}

/* ---- proved ------------------------------------------------------------------------------------------- */

static void cut(struct inbound *in)
{
    struct peer *peer = transport_peer(in->t, in->handshake.peer.raft_id);
    slot_close(in);
    if (peer != NULL) {
        peer_probe(peer);
    }
    tell_gap(in);
}

/* What a frame means for the connection. False: it ended. */
static bool on_frame(struct inbound *in, enum frame_result result, const struct frame_view *message)
{
    struct dn_transport *t = in->t;
    switch (result) {
    case FRAME_TAKEN:
        return true;
    case FRAME_MESSAGE:
        t->o.on_message(t->o.data, &in->handshake.peer, message->bytes, message->length);
        return in->state == INBOUND_PROVED;
    case FRAME_FINAL:
        slot_close(in);
        break;
    case FRAME_NO_MEMORY:
        dn_warn(COMPONENT, "%s ('%s'): no memory for its message", in->remote, in->handshake.peer.name);
        slot_close(in);
        break;
    default:
        refuse(in, result == FRAME_TAMPERED ? REFUSED_TAMPERED : REFUSED_MALFORMED);
        break;
    }
    tell_gap(in);
    return false;
}

static void on_frames(struct inbound *in)
{
    size_t at = 0, used;
    struct frame_view message;
    for (;;) {
        enum frame_result result = frame_receive(&in->receiver, &in->handshake.receive, in->in + at,
                                                 in->in_length - at, &used, &message);
        if (result == FRAME_MORE) {
            break;
        }
        if (!on_frame(in, result, &message)) {
            return;
        }
        at += used;
    }
    if (at > 0) {
        memmove(in->in, in->in + at, in->in_length - at);
        in->in_length -= at;
    }
}

enum refusal inbound_admit(void *data, const struct dn_transport_peer_id *peer)
{
    struct inbound *in = data;
    struct dn_transport *t = in->t;
    if (peer->raft_id == t->o.self.raft_id) {
        return REFUSED_WRONG_PEER;
    }
    if (transport_peer(t, peer->raft_id) == NULL &&
        (t->o.on_unknown == NULL || !t->o.on_unknown(t->o.data, peer) || t->closing)) {
        return REFUSED_UNKNOWN;
    }
    return t->proved < PROVED_MAX ? REFUSED_NONE : REFUSED_CROWDED;
}

/* The handshake is done. A peer has one connection to us: the newest. */
static void prove(struct inbound *in)
{
    struct dn_transport *t = in->t;
    struct inbound *older = NULL;
    in->in = malloc(RECEIVE_MAX);
    if (in->in == NULL || !frame_receiver_init(&in->receiver)) {
        dn_warn(COMPONENT, "%s ('%s'): no memory for its connection", in->remote, in->handshake.peer.name);
        in->gap_owed = true; /* the other side has our verdict: it may be sending already */
        slot_close(in);
        return;
    }
    for (size_t i = 0; i < SLOTS; i++) {
        if (t->slots[i].state == INBOUND_PROVED &&
            t->slots[i].handshake.peer.raft_id == in->handshake.peer.raft_id) {
            older = &t->slots[i];
        }
    }
    in->in_length = 0;
    in->state = INBOUND_PROVED;
    in->gap_owed = true;
    t->unproved--;
    t->proved++;
    if (t->unproved == 0) {
        uv_timer_stop(&t->timer);
    }
    transport_gauges(t);
    if (older != NULL) {
        slot_close(older);
        tell_gap(older);
    }
}

/* ---- unproved ----------------------------------------------------------------------------------------- */

static bool ourselves(const struct inbound *in)
{
    const struct dn_transport_peer_id *self = &in->t->o.self, *peer = &in->handshake.peer;
    return peer->raft_id == self->raft_id && peer->incarnation == self->incarnation;
}

static void on_handshake(struct inbound *in, size_t length)
{
    struct dn_transport *t = in->t;
    struct handshake *h = &in->handshake;
    uint8_t out[HANDSHAKE_STEP_MAX];
    size_t used, out_length;
    used = handshake_input(h, t->scratch, length, out, &out_length);
    if (in->state != INBOUND_UNPROVED) {
        return; /* on_unknown closed us */
    }
    if (out_length > 0) {
        uv_buf_t buf = uv_buf_init((char *)out, (unsigned)out_length);
        if (uv_try_write((uv_stream_t *)&in->tcp, &buf, 1) != (int)out_length) {
            slot_close(in);
            return;
        }
    }
    if (h->state == HANDSHAKE_REFUSED) {
        if (ourselves(in)) {
            slot_close(in); /* the dialling half of us draws the conclusion */
        } else {
            struct dn_transport_peer_id peer = h->peer;
            bool mistaken =
                h->refusal == REFUSED_WRONG_PEER && peer.raft_id != 0 && peer.raft_id != t->o.self.raft_id;
            refuse(in, h->refusal);
            if (mistaken && t->o.on_mistaken != NULL) {
                t->o.on_mistaken(t->o.data, &peer);
            }
        }
    } else if (used < length) {
        refuse(in, REFUSED_MALFORMED); /* nothing may follow before our answer */
    } else if (h->state == HANDSHAKE_DONE) {
        prove(in);
    }
}

static void alloc_cb(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct inbound *in = handle->data;
    (void)suggested;
    if (in->state == INBOUND_PROVED) {
        *buf = uv_buf_init((char *)in->in + in->in_length, (unsigned)(RECEIVE_MAX - in->in_length));
    } else {
        *buf = uv_buf_init((char *)in->t->scratch, sizeof in->t->scratch);
    }
}

static void read_cb(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct inbound *in = stream->data;
    (void)buf;
    if (in->state == INBOUND_CLOSING || nread == 0) {
        return;
    }
    if (in->state == INBOUND_UNPROVED) {
        if (nread < 0) {
            slot_close(in); /* a probe, or one that thought better of it */
        } else {
            on_handshake(in, (size_t)nread);
        }
    } else if (nread == UV_EOF || nread == UV_ECONNRESET) {
        cut(in);
    } else if (nread < 0) {
        slot_close(in);
        tell_gap(in);
    } else {
        transport_count(in->t->m_received, (uint64_t)nread);
        in->in_length += (size_t)nread;
        on_frames(in);
    }
}

/* ---- slots -------------------------------------------------------------------------------------------- */

static struct inbound *oldest_unproved(struct dn_transport *t)
{
    struct inbound *oldest = NULL;
    for (size_t i = 0; i < SLOTS; i++) {
        struct inbound *in = &t->slots[i];
        if (in->state == INBOUND_UNPROVED && (oldest == NULL || in->order < oldest->order)) {
            oldest = in;
        }
    }
    return oldest;
}

static struct inbound *free_slot(struct dn_transport *t)
{
    for (size_t i = 0; i < SLOTS; i++) {
        if (t->slots[i].state == INBOUND_FREE) {
            return &t->slots[i];
        }
    }
    return NULL;
}

static void expire_cb(uv_timer_t *timer)
{
    struct dn_transport *t = timer->data;
    uint64_t now_ms = transport_now_ms(t);
    for (size_t i = 0; i < SLOTS; i++) {
        struct inbound *in = &t->slots[i];
        if (in->state == INBOUND_UNPROVED && now_ms - in->since_ms >= t->o.handshake_timeout_ms) {
            refuse(in, REFUSED_TIMEOUT);
        }
    }
}

/* libuv keeps the connection, and takes no further one, until uv_accept: without a slot it waits in the
 * kernel. */
void inbound_accept(struct dn_transport *t)
{
    struct sockaddr_storage address = {0};
    int length = sizeof address;
    if (t->closing) {
        return;
    }
    if (t->unproved >= DN_TRANSPORT_UNPROVED_MAX) {
        refuse(oldest_unproved(t), REFUSED_CROWDED);
    }
    struct inbound *in = free_slot(t);
    if (in == NULL) {
        t->accept_waits = true; /* slots are closing */
        return;
    }
    in->t = t;
    uv_tcp_init(t->o.loop, &in->tcp);
    in->tcp.data = in;
    t->handles++;
    t->unproved++;
    in->state = INBOUND_UNPROVED;
    in->since_ms = transport_now_ms(t);
    in->order = t->next_order++;
    in->gap_owed = false;
    handshake_accept(&in->handshake, &t->party, in);
    if (uv_accept((uv_stream_t *)&t->listener, (uv_stream_t *)&in->tcp) != 0) {
        slot_close(in);
        return;
    }
    transport_tune(t, &in->tcp);
    uv_tcp_getpeername(&in->tcp, (struct sockaddr *)&address, &length);
    transport_remote((const struct sockaddr *)&address, in->remote);
    if (!uv_is_active((uv_handle_t *)&t->timer)) {
        unsigned step_ms = t->o.handshake_timeout_ms / EXPIRE_STEPS + 1;
        uv_timer_start(&t->timer, expire_cb, step_ms, step_ms);
    }
    if (uv_read_start((uv_stream_t *)&in->tcp, alloc_cb, read_cb) != 0) {
        slot_close(in);
    }
}

void inbound_drop(struct dn_transport *t, uint64_t raft_id)
{
    for (size_t i = 0; i < SLOTS; i++) {
        struct inbound *in = &t->slots[i];
        if (in->state == INBOUND_PROVED && in->handshake.peer.raft_id == raft_id) {
            say_goodbye(in);
        }
    }
}

void inbound_close_all(struct dn_transport *t)
{
    for (size_t i = 0; i < SLOTS; i++) {
        struct inbound *in = &t->slots[i];
        if (in->state == INBOUND_PROVED) {
            say_goodbye(in);
        } else {
            slot_close(in);
        }
    }
}
