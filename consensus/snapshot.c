/* Snapshot: taking our own, and letting in a leader's, both off the consensus thread.
 *
 * Own snapshot, happy path: enough log bytes were applied (snapshot_turn lowers libraft's threshold) ->
 * libraft calls snapshot_fsm, which captures the state -> libraft calls snapshot_put_shim -> a pool thread
 * writes header and state into one buffer (SNAP_WRITING) -> raft_uv stores it (SNAP_STORING) -> libraft is
 * told. Failures: the state machine cannot write (memory): tried again SNAPSHOT_TRIES_MAX times, then fatal,
 * because the log would grow for ever and libraft accepts no failure; the disk is full: raft_uv tries again
 * by itself; any other disk error: fatal. One own snapshot at a time in the whole node, to leave pool threads
 * to the log.
 *
 * Incoming, happy path: recv_shim offers an InstallSnapshot (snapshot_hold) -> HOLD_BUILDING, a pool thread
 * checks the bytes and builds the new state -> HOLD_READY -> libraft gets the message, stores it, and calls
 * snapshot_fsm_restore, which swaps a pointer. It is held back while an own snapshot is on its way, since
 * libraft crashes on both at once. Meanwhile AppendEntries of that leader reach libraft with nothing in them:
 * the leader sees us alive, our election timer is fed, and nothing is claimed to be stored.
 *
 * Layout: magic "DNSNAP1\0", u16 version, u16 level, u32 group, i64 group time, u64 index, u64 state length,
 * u32 crc32c of everything but itself, u32 zero, state, zeros up to a multiple of 8. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define COMPONENT "consensus"
#define SNAP_HEADER_BYTES 48
#define SNAP_CRC_OFFSET 40

static const char magic[8] = "DNSNAP1";

/* ---- layout ----------------------------------------------------------------------------------------- */

struct snap_view {
    int64_t time_ms;
    uint64_t index;
    const uint8_t *state;
    size_t length;
};

static void encode_header(struct dn_buffer *out, const struct group *g)
{
    dn_buffer_append(out, magic, sizeof magic);
    dn_buffer_u16(out, 1);
    dn_buffer_u16(out, 1);
    dn_buffer_u32(out, g->id);
    dn_buffer_i64(out, g->snap.time_ms);
    dn_buffer_u64(out, g->snap.index);
    dn_buffer_u64(out, 0);
    dn_buffer_u64(out, 0);
}

static uint32_t checksum(const uint8_t *bytes, size_t state_length)
{
    uint32_t crc = dn_crc32c(0, bytes, SNAP_CRC_OFFSET);
    return dn_crc32c(crc, bytes + SNAP_HEADER_BYTES, state_length);
}

static void seal(struct dn_buffer *out)
{
    uint64_t length = out->length - SNAP_HEADER_BYTES;
    for (unsigned i = 0; i < 8; i++) {
        out->bytes[32 + i] = (uint8_t)(length >> (8 * i));
    }
    uint32_t crc = checksum(out->bytes, length);
    for (unsigned i = 0; i < 4; i++) {
        out->bytes[SNAP_CRC_OFFSET + i] = (uint8_t)(crc >> (8 * i));
    }
    dn_buffer_pad(out, 8);
}

static enum dn_code decode(const struct group *g, const void *bytes, size_t length, struct snap_view *ret,
                           struct dn_error *err)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    const uint8_t *got = dn_reader_bytes(&reader, sizeof magic);
    if (got == NULL || memcmp(got, magic, sizeof magic) != 0) {
        return dn_fail(err, DN_CORRUPT, "snapshot of %zu bytes does not begin as one", length);
    }
    uint16_t version = dn_reader_u16(&reader);
    uint16_t level = dn_reader_u16(&reader);
    uint32_t group = dn_reader_u32(&reader);
    ret->time_ms = dn_reader_i64(&reader);
    ret->index = dn_reader_u64(&reader);
    ret->length = dn_reader_u64(&reader);
    uint32_t crc = dn_reader_u32(&reader);
    dn_reader_u32(&reader);
    if (version != 1 || level != 1) {
        return dn_fail(err, DN_UNIMPLEMENTED, "snapshot of version %u, level %u: upgrade this program",
                       version, level);
    }
    if (reader.failed || group != g->id || ret->length > dn_reader_left(&reader)) {
        return dn_fail(err, DN_CORRUPT, "snapshot of group %u with %llu bytes of state in %zu bytes", group,
                       (unsigned long long)ret->length, length);
    }
    ret->state = (const uint8_t *)bytes + SNAP_HEADER_BYTES;
    if (checksum(bytes, ret->length) != crc) {
        return dn_fail(err, DN_CORRUPT, "snapshot at index %llu has a wrong checksum",
                       (unsigned long long)ret->index);
    }
    return DN_OK;
}

/* ---- our own ---------------------------------------------------------------------------------------- */

int snapshot_fsm(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    struct group *g = container_of(fsm, struct group, raft_fsm);
    struct dn_consensus *c = g->c;
    uint64_t average, trailing;
    if (g->queue_first != NULL || c->snapshot_jobs > 0 || g->hold.state != HOLD_NONE || g->fenced ||
        g->snap.state != SNAP_NONE || c->phase != PHASE_RUN) {
        return RAFT_BUSY; /* asked again at the next event */
    }
    *bufs = raft_malloc(sizeof **bufs);
    if (*bufs == NULL) {
        return RAFT_NOMEM;
    }
    (*bufs)[0].len = 8; /* a placeholder: the bytes are made in snapshot_put_shim */
    (*bufs)[0].base = raft_calloc(1, 8);
    if ((*bufs)[0].base == NULL) {
        raft_free(*bufs);
        return RAFT_NOMEM;
    }
    *n_bufs = 1;
    g->snap.capture = g->fsm.snapshot_begin(g->fsm.state);
    g->snap.index = raft_last_applied(&g->raft);
    g->snap.time_ms = g->time_ms;
    g->snap.bytes_at = g->log_bytes;
    g->snap.tries = 0;
    g->snap.state = SNAP_CAPTURED;
    c->snapshot_jobs++;
    average = g->log_entries == 0 ? 64 : g->log_bytes / g->log_entries + 1;
    trailing = c->o.snapshot_log_bytes / 2 / average;
    trailing = trailing < TRAILING_MIN ? TRAILING_MIN : trailing > TRAILING_MAX ? TRAILING_MAX : trailing;
    raft_set_snapshot_trailing(&g->raft, (unsigned)trailing);
    raft_set_snapshot_threshold(&g->raft, UINT_MAX);
    return 0;
}

static void snap_over(struct group *g)
{
    if (g->snap.state <= SNAP_RETRY && g->snap.state != SNAP_NONE) {
        g->fsm.snapshot_end(g->fsm.state, g->snap.capture);
    }
    dn_buffer_free(&g->snap.buffer);
    g->snap.state = SNAP_NONE;
    g->c->snapshot_jobs--;
}

static void put_done(struct raft_io_snapshot_put *req, int status)
{
    struct group *g = container_of(req, struct group, snap.put);
    raft_io_snapshot_put_cb cb = g->snap.orig_cb;
    struct raft_io_snapshot_put *orig = g->snap.orig;
    if (status != 0 && !g->closing) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u: store the snapshot in '%s': %s: %s", g->id, g->c->data_dir,
                        raft_strerror(status), g->io.errmsg);
        return; /* libraft's request is given back when it closes */
    }
    if (status == 0) {
        dn_info(COMPONENT, "group %u: snapshot at index %llu, %zu bytes", g->id,
                (unsigned long long)g->snap.index, g->snap.buffer.length);
        g->log_bytes -= g->snap.bytes_at;
        g->log_entries = 0;
        if (g->m_snapshots != NULL) {
            dn_counter_add(g->m_snapshots, 1);
        }
    }
    snap_over(g);
    cb(orig, g->closing ? RAFT_CANCELED : status);
    consensus_kick(g->c);
}

static void store(struct group *g)
{
    int rv;
    g->fsm.snapshot_end(g->fsm.state, g->snap.capture);
    g->snap.state = SNAP_STORING;
    g->snap.raft_buffer = (struct raft_buffer){g->snap.buffer.bytes, g->snap.buffer.length};
    g->snap.raft_snapshot.bufs = &g->snap.raft_buffer;
    g->snap.raft_snapshot.n_bufs = 1;
    rv = g->real.snapshot_put(&g->io, g->snap.trailing, &g->snap.put, &g->snap.raft_snapshot, put_done);
    if (rv != 0) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u: store the snapshot: %s", g->id, raft_strerror(rv));
    }
}

static void write_work(uv_work_t *work)
{
    struct group *g = container_of(work, struct group, snap.work);
    struct snap *s = &g->snap;
    dn_buffer_init(&s->buffer, SNAPSHOT_BYTES_MAX);
    encode_header(&s->buffer, g);
    s->code = g->fsm.snapshot_write(g->fsm.state, s->capture, &s->buffer, &s->error);
    if (s->code == DN_OK && s->buffer.failed) {
        s->code =
            dn_fail(&s->error, DN_NO_MEMORY, "no memory for a snapshot of over %zu bytes", s->buffer.length);
    }
    if (s->code == DN_OK) {
        seal(&s->buffer);
        if (s->buffer.failed) {
            s->code = dn_fail(&s->error, DN_NO_MEMORY, "no memory for the end of a snapshot");
        }
    }
}

static void write_done(uv_work_t *work, int status)
{
    struct group *g = container_of(work, struct group, snap.work);
    struct snap *s = &g->snap;
    DN_ASSERT(status == 0);
    if (s->code == DN_OK) {
        store(g);
    } else {
        dn_err(COMPONENT, "group %u: write a snapshot at index %llu (try %u of %d): %s", g->id,
               (unsigned long long)s->index, s->tries, SNAPSHOT_TRIES_MAX, s->error.message);
        dn_buffer_free(&s->buffer);
        s->state = SNAP_RETRY;
        s->retry_at_us = dn_monotonic_us() + SNAPSHOT_RETRY_MS * 1000;
        if (s->tries >= SNAPSHOT_TRIES_MAX) {
            g->fenced = true;
            consensus_fatal(g->c, "group %u: no snapshot can be written: %s", g->id, s->error.message);
        }
    }
    consensus_kick(g->c);
}

static void write_start(struct group *g)
{
    int rv;
    g->snap.state = SNAP_WRITING;
    g->snap.tries++;
    rv = uv_queue_work(&g->c->loop, &g->snap.work, write_work, write_done);
    DN_ASSERT(rv == 0); /* fails only without a callback */
}

/* Installing (trailing 0) goes straight to raft_uv, under a wrapper of its own. */
struct install_put {
    struct raft_io_snapshot_put req;
    struct group *group;
    struct raft_io_snapshot_put *orig;
    raft_io_snapshot_put_cb orig_cb;
};

static void install_done(struct raft_io_snapshot_put *req, int status)
{
    struct install_put *put = container_of(req, struct install_put, req);
    struct group *g = put->group;
    if (status != 0 && !g->closing) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u: store the leader's snapshot in '%s': %s: %s", g->id, g->c->data_dir,
                        raft_strerror(status), g->io.errmsg);
    } else {
        put->orig_cb(put->orig, g->closing ? RAFT_CANCELED : status);
    }
    free(put);
    consensus_kick(g->c);
}

static int install_put(struct group *g, struct raft_io_snapshot_put *req,
                       const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct install_put *put = malloc(sizeof *put);
    int rv = RAFT_NOMEM;
    if (put != NULL) {
        *put = (struct install_put){.group = g, .orig = req, .orig_cb = cb};
        rv = g->real.snapshot_put(&g->io, 0, &put->req, snapshot, install_done);
    }
    if (rv != 0) {
        free(put);
        g->fenced = true;
        consensus_fatal(g->c, "group %u: store the leader's snapshot: %s", g->id, raft_strerror(rv));
    }
    return 0;
}

int snapshot_put_shim(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                      const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct group *g = container_of(io, struct group, io);
    if (trailing == 0) {
        return install_put(g, req, snapshot, cb);
    }
    DN_ASSERT(g->snap.state == SNAP_CAPTURED && snapshot->index == g->snap.index);
    g->snap.orig = req;
    g->snap.orig_cb = cb;
    g->snap.trailing = trailing;
    g->snap.raft_snapshot = *snapshot;
    write_start(g);
    return 0;
}

bool snapshot_busy(const struct group *g)
{
    return g->snap.state == SNAP_WRITING || g->hold.state == HOLD_BUILDING;
}

/* ---- a leader's ------------------------------------------------------------------------------------- */

void snapshot_message_free(struct raft_message *message)
{
    if (message->type == RAFT_APPEND_ENTRIES && message->append_entries.n_entries > 0) {
        raft_free(message->append_entries.entries[0].batch);
        raft_free(message->append_entries.entries);
    } else if (message->type == RAFT_INSTALL_SNAPSHOT) {
        raft_configuration_close(&message->install_snapshot.conf);
        raft_free(message->install_snapshot.data.base);
    }
}

static void hold_over(struct group *g)
{
    free(g->hold.address);
    memset(&g->hold, 0, sizeof g->hold);
}

static void build_work(uv_work_t *work)
{
    struct group *g = container_of(work, struct group, hold.work);
    struct hold *h = &g->hold;
    const struct raft_buffer *data = &h->message.install_snapshot.data;
    struct snap_view view;
    h->code = decode(g, data->base, data->len, &view, &h->error);
    if (h->code == DN_OK && view.index != h->message.install_snapshot.last_index) {
        h->code = dn_fail(&h->error, DN_CORRUPT, "snapshot says index %llu, the leader %llu",
                          (unsigned long long)view.index,
                          (unsigned long long)h->message.install_snapshot.last_index);
    }
    if (h->code == DN_OK) {
        h->code = g->fsm.restore_build(g->fsm.state, view.state, view.length, &h->built, &h->error);
        h->time_ms = view.time_ms;
        h->index = view.index;
        h->base = data->base;
    }
}

static void build_done(uv_work_t *work, int status)
{
    struct group *g = container_of(work, struct group, hold.work);
    DN_ASSERT(status == 0);
    if (g->hold.code != DN_OK) {
        dn_err(COMPONENT, "group %u: snapshot from node %llu refused: %s", g->id,
               (unsigned long long)g->hold.message.server_id, g->hold.error.message);
        snapshot_message_free(&g->hold.message);
        hold_over(g);
    } else {
        g->hold.state = HOLD_READY;
    }
    consensus_kick(g->c);
}

static void hold_start(struct group *g, struct raft_message *message)
{
    struct hold *h = &g->hold;
    char *address = strdup(message->server_address); /* it dies with the connection */
    int rv;
    if (h->state != HOLD_NONE || address == NULL ||
        message->install_snapshot.term < raft_current_term(&g->raft)) {
        snapshot_message_free(message); /* the leader sends it again */
        free(address);
        return;
    }
    dn_info(COMPONENT, "group %u: snapshot at index %llu (%zu bytes) arrived from node %llu", g->id,
            (unsigned long long)message->install_snapshot.last_index, message->install_snapshot.data.len,
            (unsigned long long)message->server_id);
    h->message = *message;
    h->address = address;
    h->message.server_address = address;
    h->state = HOLD_BUILDING;
    rv = uv_queue_work(&g->c->loop, &h->work, build_work, build_done);
    DN_ASSERT(rv == 0);
}

/* An AppendEntries that claims and teaches nothing: see the head of this file. */
static void hollow(struct raft_message *message)
{
    struct raft_append_entries *args = &message->append_entries;
    snapshot_message_free(message);
    args->entries = NULL;
    args->n_entries = 0;
    args->prev_log_index = 0;
    args->prev_log_term = 0;
    args->leader_commit = 0;
}

bool snapshot_hold(struct group *g, struct raft_message *message)
{
    if (message->type == RAFT_INSTALL_SNAPSHOT) {
        hold_start(g, message);
        return true;
    }
    if (g->hold.state != HOLD_NONE && message->type == RAFT_APPEND_ENTRIES) {
        hollow(message);
    }
    return false;
}

static void deliver(struct group *g)
{
    struct hold *h = &g->hold;
    g->raft_recv(&g->io, &h->message);
    if (!g->raft.snapshot.installing && h->built != NULL) { /* not wanted: something newer is here */
        g->fsm.restore_discard(g->fsm.state, h->built);
        hold_over(g);
        return;
    }
    /* libraft stores it now and calls snapshot_fsm_restore when that is done. */
    free(h->address);
    h->address = NULL;
}

void snapshot_turn(struct group *g, uint64_t now_us)
{
    if (g->fenced || g->closing) {
        return;
    }
    if (g->snap.state == SNAP_RETRY && now_us >= g->snap.retry_at_us) {
        write_start(g);
    }
    if (g->hold.state == HOLD_READY && g->hold.address != NULL && g->snap.state == SNAP_NONE) {
        deliver(g);
    }
    if (g->snap.state == SNAP_NONE && g->log_bytes >= g->c->o.snapshot_log_bytes) {
        raft_set_snapshot_threshold(&g->raft, 1); /* libraft looks at it at its next event */
    }
}

static enum dn_code restore_now(struct group *g, const struct raft_buffer *buf, struct snap_view *view,
                                void **ret_built)
{
    enum dn_code code = decode(g, buf->base, buf->len, view, &g->start_error);
    if (code == DN_OK) {
        code = g->fsm.restore_build(g->fsm.state, view->state, view->length, ret_built, &g->start_error);
    }
    if (code != DN_OK) {
        g->start_error.code = code;
    }
    return code;
}

/* While loading: a state that cannot be restored must be known before libraft is given the log. */
enum dn_code snapshot_prebuild(struct group *g, const struct raft_buffer *buf, struct dn_error *err)
{
    struct snap_view view;
    enum dn_code code = restore_now(g, buf, &view, &g->hold.built);
    if (code != DN_OK) {
        *err = g->start_error;
        return code;
    }
    g->hold.base = buf->base;
    g->hold.index = view.index;
    g->hold.time_ms = view.time_ms;
    return DN_OK;
}

int snapshot_fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct group *g = container_of(fsm, struct group, raft_fsm);
    struct snap_view view;
    void *built = NULL;
    if (g->hold.built != NULL && g->hold.base == buf->base) {
        built = g->hold.built;
        view.index = g->hold.index;
        view.time_ms = g->hold.time_ms;
        hold_over(g);
    } else if (restore_now(g, buf, &view, &built) != DN_OK) {
        return g->start_error.code == DN_NO_MEMORY ? RAFT_NOMEM : RAFT_CORRUPT;
    }
    g->fsm.restore_install(g->fsm.state, built);
    apply_reset(g, view.index, view.time_ms);
    raft_free(buf->base); /* libraft gives it away when this succeeds */
    propose_restored(g);
    propose_moved(g);
    wait_moved(g);
    if (g->started) {
        dn_info(COMPONENT, "group %u: state restored at index %llu", g->id, (unsigned long long)view.index);
    }
    return 0;
}

void snapshot_cancel(struct group *g)
{
    if (g->snap.state == SNAP_CAPTURED || g->snap.state == SNAP_RETRY) {
        raft_io_snapshot_put_cb cb = g->snap.orig_cb;
        struct raft_io_snapshot_put *orig = g->snap.orig;
        snap_over(g);
        cb(orig, RAFT_CANCELED);
    }
    if (g->hold.built != NULL) {
        g->fsm.restore_discard(g->fsm.state, g->hold.built);
        g->hold.built = NULL;
    }
    if (g->hold.state != HOLD_NONE && g->hold.address != NULL) {
        snapshot_message_free(&g->hold.message);
    }
    hold_over(g);
}
