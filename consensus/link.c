/* Link: what travels between nodes over the transport: Raft's messages, and frames (wire.h) for what is not
 * Raft's own: forwarded proposals, barriers, clock stamps, snapshot chunks.
 *
 * A node sends on the connection it dialled, and receives on the one the other dialled. An answer goes back
 * to the process that asked, told by its incarnation: a restarted one numbers its requests anew. Three things
 * may swallow an answer: the connection it travels on ends (the asker's transport calls on_gap), there is no
 * room for it (the answerer ends that connection itself: the same), or the asker had closed that connection,
 * or the next is not there yet (the answerer says so with the next one, WIRE_LOST). In all of them the asker
 * takes what it forwarded back and asks again.
 *
 * A leader's connection that ends with its process starts the election at once (group_leader_gone). */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "consensus/rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPONENT "peer"
#define BULK_QUEUE_BYTES (SNAP_CHUNK_MAX + (4u << 20)) /* the largest chunk, and its pieces' heads */

bool link_up(const struct dn_consensus *c, uint64_t raft_id)
{
    return c->transport != NULL && dn_transport_peer_up(c->transport, raft_id);
}

uint8_t link_level(const struct dn_consensus *c, uint64_t raft_id)
{
    return link_up(c, raft_id) ? dn_transport_peer_level(c->transport, raft_id) : 0;
}

bool link_send(struct dn_consensus *c, uint64_t raft_id, const struct wire_frame *frame)
{
    struct dn_buffer *out = &c->message;
    enum dn_transport_queue queue = DN_TRANSPORT_NORMAL;
    if (!link_up(c, raft_id)) {
        return false;
    }
    dn_buffer_clear(out);
    dn_buffer_u8(out, MESSAGE_FRAME);
    wire_frame_encode(frame, out);
    if (out->failed) {
        return false;
    }
    if (frame->type == WIRE_CHUNK) {
        queue = DN_TRANSPORT_BULK;
    } else if (frame->type == WIRE_CHUNK_ASK || frame->type == WIRE_STAMPS || frame->type == WIRE_ROUND ||
               frame->type == WIRE_BARRIER || frame->type == WIRE_BARRIER_ANSWER) {
        queue = DN_TRANSPORT_URGENT;
    }
    struct dn_transport_part part = {out->bytes, out->length};
    return dn_transport_send(c->transport, raft_id, queue, &part, 1);
}

bool link_is(const struct dn_consensus *c, const struct asker *asker)
{
    int member = member_find(c, asker->raft_id);
    return member >= 0 && c->members[member].incarnation == asker->incarnation && link_up(c, asker->raft_id);
}

size_t link_bulk_queued(const struct dn_consensus *c, uint64_t raft_id)
{
    return dn_transport_queued(c->transport, raft_id, DN_TRANSPORT_BULK);
}

void link_unanswered(struct dn_consensus *c, const struct asker *asker)
{
    dn_transport_reset(c->transport, asker->raft_id); /* if there is a connection; else see tell_lost */
}

void link_answer(struct dn_consensus *c, const struct asker *asker, const struct wire_frame *frame)
{
    int member = member_find(c, asker->raft_id);
    if (member < 0 || c->members[member].incarnation != asker->incarnation) {
        return; /* nobody waits for it any more */
    }
    if (!link_up(c, asker->raft_id) || !link_send(c, asker->raft_id, frame)) {
        link_unanswered(c, asker);
    }
}

/* ---- requests of other nodes ------------------------------------------------------------------------ */

struct remote_proposal {
    struct dn_proposal proposal;
    struct dn_consensus *c;
    struct asker asker;
    uint64_t request;
    uint8_t record[];
};

static void remote_proposed(struct dn_proposal *p, enum dn_code code, uint64_t index, const uint8_t *result,
                            size_t length, const struct dn_error *err)
{
    struct remote_proposal *r = container_of(p, struct remote_proposal, proposal);
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
    link_answer(r->c, &r->asker, &frame);
    free(r);
}

static void on_propose(struct dn_consensus *c, const struct asker *asker, const struct wire_frame *frame)
{
    struct remote_proposal *r = calloc(1, sizeof *r + frame->length);
    if (r == NULL) {
        link_unanswered(c, asker);
        return;
    }
    memcpy(r->record, frame->bytes, frame->length);
    r->c = c;
    r->asker = *asker;
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
    struct asker asker;
    uint64_t request;
};

static void remote_fenced(struct dn_wait *w, enum dn_code code, uint64_t applied, const struct dn_error *err)
{
    struct remote_wait *r = container_of(w, struct remote_wait, wait);
    struct wire_frame frame = {.type = WIRE_BARRIER_ANSWER,
                               .request = r->request,
                               .group = w->group,
                               .code = code,
                               .index = w->index};
    (void)applied;
    (void)err;
    link_answer(r->c, &r->asker, &frame);
    free(r);
}

static void on_barrier(struct dn_consensus *c, const struct asker *asker, const struct wire_frame *frame)
{
    struct remote_wait *r = calloc(1, sizeof *r);
    if (r == NULL) {
        link_unanswered(c, asker);
        return;
    }
    r->c = c;
    r->asker = *asker;
    r->request = frame->request;
    r->wait.group = frame->group;
    r->wait.kind = DN_WAIT_BARRIER;
    r->wait.deadline_us = dn_monotonic_us() + (uint64_t)c->o.election_timeout_ms * 4000;
    r->wait.done = remote_fenced;
    wait_accept(c, &r->wait, true);
}

/* ---- what arrives ------------------------------------------------------------------------------------ */

void link_malformed(struct dn_consensus *c, unsigned member, const struct dn_error *err)
{
    uint64_t now = dn_monotonic_us();
    if (c->m_malformed != NULL) {
        dn_counter_add(c->m_malformed, 1);
    }
    if (now >= c->malformed_log_us) {
        c->malformed_log_us = now + LOG_PAUSE_US;
        dn_warn(COMPONENT, "node %llu (%s) sent what this version does not understand: %s",
                (unsigned long long)c->members[member].node_id, c->members[member].address, err->message);
    }
}

static void ask_again(struct dn_consensus *c, uint64_t raft_id)
{
    int member = member_find(c, raft_id);
    if (member >= 0) {
        c->members[member].link++;
    }
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        if (c->groups[i].leader_id == raft_id) {
            propose_unforward(&c->groups[i]);
            wait_unfence(&c->groups[i]);
        }
    }
    members_lost(c, raft_id);
    consensus_kick(c);
}

static void on_frame(struct dn_consensus *c, unsigned member, const uint8_t *bytes, size_t length)
{
    struct wire_frame frame;
    struct dn_error err;
    size_t used = 0;
    struct asker asker = {c->members[member].raft_id, c->members[member].incarnation};
    enum dn_code code = wire_frame_decode(bytes, length, &frame, &used, &err);
    if (code == DN_OK && (used != length || frame.group >= c->o.group_count)) {
        code =
            dn_fail(&err, DN_CORRUPT, "a frame for group %u, cut short or with more behind it", frame.group);
    }
    if (code != DN_OK) {
        link_malformed(c, member, &err);
        return;
    }
    switch (frame.type) {
    case WIRE_PROPOSE:
        on_propose(c, &asker, &frame);
        break;
    case WIRE_PROPOSE_ANSWER:
        propose_answer(c, &frame);
        break;
    case WIRE_BARRIER:
        on_barrier(c, &asker, &frame);
        break;
    case WIRE_BARRIER_ANSWER:
        wait_answer(c, &frame);
        break;
    case WIRE_LOST:
        ask_again(c, asker.raft_id);
        break;
    case WIRE_STAMPS:
        age_stamps_in(c, asker.raft_id, &frame);
        break;
    case WIRE_ROUND:
        age_round_in(c, asker.raft_id, &frame);
        break;
    case WIRE_CHUNK_ASK:
        serve_ask(c, &asker, &frame);
        break;
    case WIRE_CHUNK:
    case WIRE_CHUNK_GONE:
        fetch_answer(c, asker.raft_id, &frame);
        break;
    case WIRE_MEMBER:
        members_request(c, &asker, &frame);
        break;
    case WIRE_MEMBER_ANSWER:
        members_answer(c, &frame);
        break;
    }
}

static void on_message(void *data, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                       size_t length)
{
    struct dn_consensus *c = data;
    if (c->phase > PHASE_TRANSFER || length == 0) {
        return;
    }
    consensus_kick(c);
    if (bytes[0] == MESSAGE_GREET) {
        forming_greeted(c, from, bytes + 1, length - 1);
        return;
    }
    int member = member_find(c, from->raft_id);
    if (member < 0 || c->forming != FORMED) {
        return;
    }
    c->members[member].incarnation = from->incarnation;
    if (bytes[0] == MESSAGE_RAFT) {
        raft_io_receive(c, (unsigned)member, bytes + 1, length - 1);
    } else if (bytes[0] == MESSAGE_FRAME) {
        on_frame(c, (unsigned)member, bytes + 1, length - 1);
    } else {
        struct dn_error err;
        dn_fail(&err, DN_CORRUPT, "a message of kind %u", bytes[0]);
        link_malformed(c, (unsigned)member, &err);
    }
}

/* ---- connections come and go ------------------------------------------------------------------------- */

/* Answers that we sent before may have gone into a connection that the other side had closed by then, and
 * told its asker of, before that asked: neither we nor its on_gap can know. So each new connection begins
 * with the word that what was asked before should be asked again. */
static void tell_lost(struct dn_consensus *c, const struct member *member)
{
    struct wire_frame frame = {.type = WIRE_LOST};
    if (!link_send(c, member->raft_id, &frame)) {
        dn_transport_reset(c->transport, member->raft_id);
    }
}

static void on_up(void *data, const struct dn_transport_peer_id *peer)
{
    struct dn_consensus *c = data;
    forming_peer(c, peer); /* found at an initial address, perhaps */
    int member = member_find(c, peer->raft_id);
    if (member >= 0) {
        c->members[member].link++;
        c->members[member].incarnation = peer->incarnation;
        c->members[member].greeted = false; /* it may be another life of it */
        forming_greet(c, (unsigned)member);
        tell_lost(c, &c->members[member]);
    }
    dn_debug(COMPONENT, "connected to %s (raft id %016llx)", peer->name, (unsigned long long)peer->raft_id);
    consensus_kick(c);
}

static void on_down(void *data, uint64_t raft_id, enum dn_transport_down how)
{
    struct dn_consensus *c = data;
    if (c->phase > PHASE_TRANSFER) {
        return;
    }
    for (uint32_t i = 0; how != DN_TRANSPORT_DOWN_LOST && i < c->o.group_count; i++) {
        group_leader_gone(&c->groups[i], raft_id);
    }
    ask_again(c, raft_id);
}

/* A node of our cluster that we do not know: it may be on its way to become a member, it may have been one,
 * or it is one, perhaps our leader, of which we have not heard. All of them have proved the key. */
static bool on_unknown(void *data, const struct dn_transport_peer_id *peer)
{
    struct dn_consensus *c = data;
    return c->phase <= PHASE_TRANSFER && forming_peer(c, peer);
}

static void on_mistaken(void *data, const struct dn_transport_peer_id *peer)
{
    forming_mistaken(data, peer);
}

static void on_gap(void *data, uint64_t raft_id)
{
    struct dn_consensus *c = data;
    if (c->phase <= PHASE_TRANSFER) {
        ask_again(c, raft_id);
    }
}

/* ---- life --------------------------------------------------------------------------------------------- */

enum dn_code link_open(struct dn_consensus *c, struct dn_error *err)
{
    struct dn_transport_options options = {
        .loop = &c->loop,
        .cluster_id = c->cluster_id,
        .self = {.raft_id = c->raft_id, .incarnation = c->nonce, .level = c->o.level},
        .bind_address = c->bind_address != NULL ? c->bind_address : c->members[0].address,
        .queue_bytes = {0, 0, BULK_QUEUE_BYTES},
        .user_timeout_ms = USER_TIMEOUT_MS,
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
        .metrics = c->o.metrics,
        .on_message = on_message,
        .on_up = on_up,
        .on_down = on_down,
        .on_gap = on_gap,
        .on_unknown = on_unknown,
        .on_mistaken = on_mistaken,
        .data = c,
    };
    snprintf(options.self.name, sizeof options.self.name, "node-%llu", (unsigned long long)c->o.node_id);
    dn_buffer_init(&c->message, DN_TRANSPORT_MESSAGE_MAX);
    enum dn_code code = dn_transport_keys_load(c->o.key_file, c->o.previous_key_file, &c->keys, err);
    if (code == DN_OK) {
        options.keys = c->keys;
        code = dn_transport_start(&options, &c->transport, err);
    }
    return code;
}

void link_free(struct dn_consensus *c)
{
    dn_transport_destroy(c->transport);
    c->transport = NULL;
    dn_transport_keys_free(c->keys);
    c->keys = NULL;
    dn_buffer_free(&c->message);
}
