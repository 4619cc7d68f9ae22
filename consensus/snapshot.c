/* Snapshot: taking our own, and letting in a leader's, both off the consensus thread. What Raft holds is a
 * manifest; the state lies in a file beside the log (snapshot_store.h).
 *
 * Own snapshot, happy path: enough log bytes were applied (snapshot_turn lowers libraft's threshold) ->
 * libraft calls snapshot_fsm, which captures the state -> libraft calls snapshot_put_shim -> a pool thread
 * streams the state to its file and makes it durable (SNAP_WRITING) -> the manifest is handed down
 * (SNAP_STORING) -> libraft is told. Failures: the disk is full: tried again until it is not; anything else
 * (memory, disk): tried again SNAPSHOT_TRIES_MAX times, then fatal, because the log would grow for ever and
 * libraft accepts no failure. One own snapshot at a time in the whole node, to leave pool threads to the log.
 *
 * Incoming, happy path: recv_shim offers an InstallSnapshot (snapshot_hold) -> its chunks are fetched from
 * the sender (HOLD_FETCHING, snapshot_fetch.c) -> a pool thread builds the new state from the file
 * (HOLD_BUILDING) -> HOLD_READY -> libraft gets the message, stores the manifest, and calls
 * snapshot_fsm_restore, which swaps a pointer. It is held back while an own snapshot is on its way, since
 * libraft crashes on both at once. Meanwhile AppendEntries of that leader reach libraft with nothing in them:
 * the leader sees us alive, our election timer is fed, and nothing is claimed to be stored.
 *
 * Failures: a leader of a newer term shows up: what is held is forgotten, and that leader finds out by itself
 * what we need. The fetch or the build fails: HOLD_PAUSED, then nothing is held, and the next heartbeat,
 * which names an entry we lack, is refused: that takes the leader out of its waiting (io_shim.c,
 * snapshot_refused). The same goes for a node that began anew while it was sent a snapshot, and for one that
 * it never reached.
 *
 * Files: the snapshot in force and the one before are kept, and what was asked for lately; a pool thread
 * removes the rest (prune), never while a file of the group is being made. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define COMPONENT "consensus"
#define INSTALL_PAUSE_US 1000000 /* after a snapshot that could not be had */

/* ---- which files are kept --------------------------------------------------------------------------- */

static void prune_want(struct group *g)
{
    g->prune.wanted = true;
    g->prune.at_us = 0;
}

static void in_force(struct group *g, struct manifest *manifest)
{
    manifest_unref(g->previous);
    g->previous = g->in_force;
    g->in_force = manifest_ref(manifest);
    prune_want(g);
    g->damaged = false;
}

static void prune_work(uv_work_t *work)
{
    struct group *g = container_of(work, struct group, prune.work);
    struct dn_error err;
    if (snapstore_prune(&g->store, g->prune.keep, g->prune.keep_count, g->prune.above, &err) != DN_OK) {
        dn_warn(COMPONENT, "group %u: tidy the snapshots: %s", g->id, err.message);
    }
}

static void prune_done(uv_work_t *work, int status)
{
    struct group *g = container_of(work, struct group, prune.work);
    DN_ASSERT(status == 0);
    g->prune.busy = false;
    g->pool_jobs--;
    consensus_kick(g->c);
}

static void keep(struct prune *p, const struct manifest *manifest)
{
    if (manifest != NULL) {
        p->keep[p->keep_count++] = manifest->name;
    }
}

static bool prune_due(const struct group *g, uint64_t now_us)
{
    return g->prune.wanted && now_us >= g->prune.at_us;
}

static void prune_start(struct group *g, uint64_t now_us)
{
    struct prune *p = &g->prune;
    p->wanted = false;
    p->at_us = 0;
    p->keep_count = 0;
    keep(p, g->in_force);
    keep(p, g->previous);
    for (unsigned i = 0; i < SNAP_PINS; i++) {
        struct pin *pin = &g->pins[i];
        if (pin->manifest != NULL && now_us >= pin->until_us) {
            manifest_unref(pin->manifest);
            pin->manifest = NULL;
        } else if (pin->manifest != NULL) {
            keep(p, pin->manifest);
            p->wanted = true; /* once more when it is over */
            p->at_us = p->at_us < pin->until_us ? pin->until_us : p->at_us;
        }
    }
    p->above = g->in_force == NULL ? 0 : g->in_force->name.index;
    p->busy = true;
    g->pool_jobs++;
    int rv = uv_queue_work(&g->c->loop, &p->work, prune_work, prune_done);
    DN_ASSERT(rv == 0); /* fails only without a callback */
}

/* ---- our own ---------------------------------------------------------------------------------------- */

/* The group's log is short, but it lies so far back in the journal that it keeps the others' from being given
 * up. */
static bool held_back(const struct group *g)
{
    return g->log_entries > 2 * TRAILING_HELD &&
           dn_journal_held(g->c->journal, g->id) > g->c->o.journal_held_bytes;
}

int snapshot_fsm(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    struct group *g = container_of(fsm, struct group, raft_fsm);
    struct dn_consensus *c = g->c;
    uint64_t average, trailing;
    if (g->queue_first != NULL || c->snapshot_jobs > 0 || g->hold.state != HOLD_NONE || g->fenced ||
        g->snap.state != SNAP_NONE || g->prune.busy || prune_due(g, dn_monotonic_us()) ||
        c->phase != PHASE_RUN ||
        (g->raft.configuration_uncommitted_index != 0 && /* it would carry the configuration before */
         g->raft.configuration_uncommitted_index <= raft_last_applied(&g->raft))) {
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
    g->snap.state_hash = g->fsm.hash(g->fsm.state);
    g->snap.bytes_at = g->log_bytes;
    g->snap.tries = 0;
    g->snap.state = SNAP_CAPTURED;
    c->snapshot_jobs++;
    average = g->log_entries == 0 ? 64 : g->log_bytes / g->log_entries + 1;
    trailing = c->o.snapshot_log_bytes / 2 / average;
    if (held_back(g)) {
        trailing = TRAILING_HELD;
    } else {
        trailing = trailing < TRAILING_MIN ? TRAILING_MIN : trailing > TRAILING_MAX ? TRAILING_MAX : trailing;
    }
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
    manifest_unref(g->snap.manifest);
    g->snap.manifest = NULL;
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
        dn_info(COMPONENT, "group %u: snapshot at index %llu, %llu bytes", g->id,
                (unsigned long long)g->snap.index, (unsigned long long)g->snap.manifest->total_bytes);
        in_force(g, g->snap.manifest);
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
    struct snapstore_point point = {s->index, s->raft_snapshot.term, s->time_ms, s->state_hash};
    s->code = snapstore_write(&g->store, &point, &g->fsm, s->capture, &g->stopping, &s->manifest, &s->error);
    if (s->code == DN_OK) {
        dn_buffer_init(&s->buffer, SNAP_MANIFEST_MAX);
        manifest_encode(s->manifest, &s->buffer);
        if (s->buffer.failed) {
            s->code = dn_fail(&s->error, DN_NO_MEMORY, "no memory for its manifest");
        }
    }
}

static void write_failed(struct group *g)
{
    struct snap *s = &g->snap;
    dn_buffer_free(&s->buffer);
    manifest_unref(s->manifest);
    s->manifest = NULL;
    s->state = SNAP_RETRY;
    s->retry_at_us = dn_monotonic_us() + SNAPSHOT_RETRY_MS * 1000;
    if (s->code == DN_CANCELLED) {
        return; /* snapshot_cancel gives it back */
    }
    dn_err(COMPONENT, "group %u: write a snapshot at index %llu (try %u): %s", g->id,
           (unsigned long long)s->index, s->tries, s->error.message);
    if (s->code == DN_NO_SPACE) {
        s->tries = 0;
    } else if (s->tries >= SNAPSHOT_TRIES_MAX) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u: no snapshot can be written: %s", g->id, s->error.message);
    }
}

static void write_done(uv_work_t *work, int status)
{
    struct group *g = container_of(work, struct group, snap.work);
    DN_ASSERT(status == 0);
    g->pool_jobs--;
    if (g->snap.code == DN_OK) {
        store(g);
    } else {
        write_failed(g);
    }
    consensus_kick(g->c);
}

static void write_start(struct group *g)
{
    int rv;
    g->snap.state = SNAP_WRITING;
    g->snap.tries++;
    g->pool_jobs++;
    rv = uv_queue_work(&g->c->loop, &g->snap.work, write_work, write_done);
    DN_ASSERT(rv == 0); /* fails only without a callback */
}

/* Installing (trailing 0) goes straight to raft_io.c, under a wrapper of its own. */
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
    return g->pool_jobs > 0;
}

void snapshot_stop(struct group *g)
{
    atomic_store(&g->stopping, true);
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

static void hold_start(struct group *g, struct raft_message *message, char *address);

/* Forgets what is held, but for what libraft or a pool thread has; takes on what waits. */
static void hold_over(struct group *g)
{
    struct hold *h = &g->hold;
    DN_ASSERT(h->state != HOLD_BUILDING);
    fetch_end(h->fetch);
    if (h->built != NULL) {
        g->fsm.restore_discard(g->fsm.state, h->built);
    }
    if (h->address != NULL) {
        snapshot_message_free(&h->message);
        free(h->address);
    }
    manifest_unref(h->manifest);
    memset(h, 0, sizeof *h);
    prune_want(g);
    if (g->next.address != NULL) {
        char *address = g->next.address;
        g->next.address = NULL;
        hold_start(g, &g->next.message, address);
    }
}

/* What is held cannot be had: again in a while. */
static void hold_failed(struct group *g, const struct dn_error *err)
{
    struct hold *h = &g->hold;
    dn_err(COMPONENT, "group %u: snapshot at index %llu from node %llu: %s", g->id,
           (unsigned long long)h->message.install_snapshot.last_index,
           (unsigned long long)h->message.server_id, err->message);
    fetch_end(h->fetch);
    h->fetch = NULL;
    h->state = HOLD_PAUSED;
    h->until_us = dn_monotonic_us() + INSTALL_PAUSE_US;
}

static void build_work(uv_work_t *work)
{
    struct group *g = container_of(work, struct group, hold.work);
    struct hold *h = &g->hold;
    h->code = snapstore_build(&g->store, h->manifest, &g->fsm, &g->stopping, &h->built, &h->error);
}

static void build_done(uv_work_t *work, int status)
{
    struct group *g = container_of(work, struct group, hold.work);
    DN_ASSERT(status == 0);
    g->pool_jobs--;
    g->c->build_jobs--;
    g->hold.state = HOLD_READY;
    if (g->hold.dropped) {
        hold_over(g);
    } else if (g->hold.code != DN_OK) {
        g->hold.built = NULL;
        hold_failed(g, &g->hold.error);
    }
    consensus_kick(g->c);
}

static void build_start(struct group *g)
{
    fetch_end(g->hold.fetch);
    g->hold.fetch = NULL;
    g->hold.state = HOLD_BUILDING;
    g->pool_jobs++;
    g->c->build_jobs++;
    int rv = uv_queue_work(&g->c->loop, &g->hold.work, build_work, build_done);
    DN_ASSERT(rv == 0); /* fails only without a callback */
}

/* Takes the message and the copy of its sender's address. */
static void hold_start(struct group *g, struct raft_message *message, char *address)
{
    struct hold *h = &g->hold;
    const struct raft_install_snapshot *args = &message->install_snapshot;
    struct dn_error err;
    h->message = *message;
    h->message.server_address = address;
    h->address = address;
    h->base = args->data.base;
    dn_info(COMPONENT, "group %u: node %llu sends a snapshot at index %llu", g->id,
            (unsigned long long)message->server_id, (unsigned long long)args->last_index);
    h->state = HOLD_WAITING;
    if (manifest_decode(g->id, args->data.base, args->data.len, &h->manifest, &err) != DN_OK) {
        hold_failed(g, &err);
    } else if (h->manifest->name.index != args->last_index || h->manifest->name.term != args->last_term) {
        dn_fail(&err, DN_CORRUPT, "its manifest says index %llu of term %llu",
                (unsigned long long)h->manifest->name.index, (unsigned long long)h->manifest->name.term);
        hold_failed(g, &err);
    }
}

static void next_drop(struct group *g)
{
    if (g->next.address != NULL) {
        snapshot_message_free(&g->next.message);
        free(g->next.address);
        g->next.address = NULL;
    }
}

/* What is held already goes on: the leader repeats itself, perhaps with a newer snapshot, as long as it has
 * no answer, and to begin anew each time would mean never to end. The last one that came is there if this one
 * fails. */
static void hold_offer(struct group *g, struct raft_message *message)
{
    char *address = strdup(message->server_address); /* it dies with the connection */
    if (address == NULL || message->install_snapshot.term < raft_current_term(&g->raft)) {
        snapshot_message_free(message); /* the leader sends it again */
        free(address);
    } else if (g->hold.state == HOLD_NONE) {
        hold_start(g, message, address);
    } else {
        next_drop(g);
        g->next.message = *message;
        g->next.address = address;
    }
}

/* A leader of a newer term: what the old one sent is of no use, unless the new one says so itself. */
static void hold_drop(struct group *g, raft_term term)
{
    if (g->next.address != NULL && g->next.message.install_snapshot.term < term) {
        next_drop(g);
    }
    if (g->hold.state == HOLD_BUILDING) {
        g->hold.dropped = true;
    } else if (g->hold.state != HOLD_NONE && g->hold.state != HOLD_INSTALLING) {
        dn_info(COMPONENT, "group %u: there is a new leader: its word is waited for", g->id);
        hold_over(g);
    }
}

/* libraft has answered the leader, or will. What that leader sent meanwhile need not be fetched: its log most
 * likely reaches back far enough by now. It waits for an answer to just that one, and finds it in the refusal
 * of its next heartbeat (io_shim.c). */
static void hold_answered(struct group *g)
{
    if (g->next.address != NULL &&
        g->next.message.install_snapshot.term == g->hold.message.install_snapshot.term) {
        next_drop(g);
    }
    hold_over(g);
}

static void hold_turn(struct group *g, uint64_t now_us)
{
    struct hold *h = &g->hold;
    struct dn_error err;
    if (h->state == HOLD_WAITING && !g->prune.busy && g->fetch_jobs == 0 && bulk_room(g->c)) {
        h->fetch = fetch_start(g, h->message.server_id, h->manifest);
        h->state = h->fetch == NULL ? HOLD_WAITING : HOLD_FETCHING;
    }
    if (h->state == HOLD_FETCHING) {
        enum fetch_state state = fetch_turn(h->fetch, now_us, &err);
        if (state == FETCH_FAILED) {
            hold_failed(g, &err);
        } else if (state == FETCH_WHOLE) {
            h->state = HOLD_FETCHED;
        }
    }
    if (h->state == HOLD_FETCHED && g->c->build_jobs < BUILD_JOBS_MAX && bulk_room(g->c)) {
        build_start(g);
    }
    if (h->state == HOLD_PAUSED && now_us >= h->until_us) {
        hold_over(g);
    }
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

/* libraft answers an InstallSnapshot when it is installed, and takes no heartbeat for it until then; a
 * leader's takes whoever it has not heard of for one heartbeat for unreachable, and from then on sends it the
 * InstallSnapshot again where a heartbeat is due. Neither hears of the other any more: the leader steps down
 * if it needs this one for a majority, and we would call elections. So each is answered at once, as a
 * heartbeat that teaches nothing. */
static void answer_alive(struct group *g, uint64_t raft_id, const char *address, raft_term term)
{
    struct raft_message alive = {
        .type = RAFT_APPEND_ENTRIES, .server_id = raft_id, .server_address = address};
    alive.append_entries.term = term;
    g->raft_recv(&g->io, &alive);
}

bool snapshot_holding(const struct group *g)
{
    return (g->hold.state != HOLD_NONE && !g->hold.dropped) || g->next.address != NULL;
}

/* Not in libraft's headers, but exported. 0: the entry is not in the log, nor the snapshot's last. */
raft_term TrailTermOf(const struct raft_trail *trail, raft_index index);

/* Sent twice, or needless by now: libraft says so without a look at the state (replicationInstallSnapshot).
 */
static bool is_here(const struct group *g, const struct raft_install_snapshot *args)
{
    return g->hold.state == HOLD_NONE && !g->raft.snapshot.installing &&
           (g->raft.trail.snapshot.index >= args->last_index ||
            TrailTermOf(&g->raft.trail, args->last_index) == args->last_term);
}

bool snapshot_hold(struct group *g, struct raft_message *message)
{
    raft_term term = g->hold.message.install_snapshot.term;
    if (message->type == RAFT_INSTALL_SNAPSHOT) {
        raft_term of = message->install_snapshot.term;
        uint64_t raft_id = message->server_id;
        const char *address = message->server_address; /* the caller's, and not freed with the message */
        if (is_here(g, &message->install_snapshot)) {
            return false;
        }
        if (of > term) {
            hold_drop(g, of);
        }
        hold_offer(g, message);
        answer_alive(g, raft_id, address, of);
        return true;
    }
    if (message->type != RAFT_APPEND_ENTRIES) {
        return false;
    }
    if (message->append_entries.term > term) {
        hold_drop(g, message->append_entries.term);
    }
    if (snapshot_holding(g)) {
        hollow(message);
    }
    return false;
}

static void deliver(struct group *g)
{
    struct hold *h = &g->hold;
    char *address = h->address;
    h->state = HOLD_INSTALLING;
    h->address = NULL; /* the message is libraft's now */
    g->raft_recv(&g->io, &h->message);
    free(address);
    if (!g->raft.snapshot.installing && h->built != NULL) { /* not wanted: something newer is here */
        hold_answered(g);
    }
    /* Otherwise libraft stores it now and calls snapshot_fsm_restore when that is done. */
}

void snapshot_turn(struct group *g, uint64_t now_us)
{
    if (g->fenced || g->closing) {
        return;
    }
    if (g->snap.state == SNAP_RETRY && now_us >= g->snap.retry_at_us) {
        write_start(g);
    }
    hold_turn(g, now_us);
    if (g->hold.state == HOLD_READY && g->snap.state == SNAP_NONE) {
        deliver(g);
    }
    if (prune_due(g, now_us) && !g->prune.busy && g->snap.state == SNAP_NONE && g->hold.state == HOLD_NONE &&
        g->fetch_jobs == 0 && g->c->phase == PHASE_RUN) {
        prune_start(g, now_us);
    }
    if (g->snap.state == SNAP_NONE &&
        (g->damaged || g->log_bytes >= g->c->o.snapshot_log_bytes || held_back(g))) {
        raft_set_snapshot_threshold(&g->raft, 1); /* libraft looks at it at its next event */
    }
}

/* At start: straight from the disk. */
static enum dn_code restore_now(struct group *g, const struct raft_buffer *buf,
                                struct manifest **ret_manifest, void **ret_built)
{
    struct dn_error *err = &g->start_error;
    enum dn_code code = manifest_decode(g->id, buf->base, buf->len, ret_manifest, err);
    if (code == DN_OK) {
        code = snapstore_build(&g->store, *ret_manifest, &g->fsm, NULL, ret_built, err);
    }
    err->code = code == DN_NOT_FOUND ? DN_CORRUPT : code;
    return code;
}

/* The state that was built is the one that was captured, or the state machine is at fault. */
static bool hash_is_right(struct group *g, const struct manifest *manifest)
{
    uint64_t hash = g->fsm.hash(g->fsm.state);
    if (hash == manifest->state_hash) {
        return true;
    }
    dn_fail(&g->start_error, DN_CORRUPT,
            "the state restored at index %llu has hash %016llx where %016llx was written",
            (unsigned long long)manifest->name.index, (unsigned long long)hash,
            (unsigned long long)manifest->state_hash);
    if (g->started) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u: %s", g->id, g->start_error.message);
    }
    return false;
}

/* While loading: a state that cannot be restored must be known before libraft is given the log, for it
 * asserts when restoring fails and there is one. */
enum dn_code snapshot_load(struct group *g, const struct raft_buffer *buf, struct dn_error *err)
{
    struct manifest *manifest = NULL;
    void *built = NULL;
    enum dn_code code = restore_now(g, buf, &manifest, &built);
    if (code == DN_OK) {
        g->fsm.restore_install(g->fsm.state, built);
        code = hash_is_right(g, manifest) ? DN_OK : DN_CORRUPT;
    }
    if (code == DN_OK) {
        in_force(g, manifest);
        g->loaded = buf->base;
    } else {
        *err = g->start_error;
    }
    manifest_unref(manifest);
    return code;
}

/* libraft has a snapshot: the one that snapshot_load restored, or one that was held until it was built. */
int snapshot_fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct group *g = container_of(fsm, struct group, raft_fsm);
    if (g->loaded != buf->base) {
        struct manifest *manifest = g->hold.manifest;
        void *built = g->hold.built;
        DN_ASSERT(built != NULL && g->hold.base == buf->base);
        g->hold.built = NULL;
        g->hold.manifest = NULL;
        hold_answered(g);
        g->fsm.restore_install(g->fsm.state, built);
        (void)hash_is_right(g, manifest); /* fatal if not */
        in_force(g, manifest);
        manifest_unref(manifest);
    }
    g->loaded = NULL;
    uint64_t index = g->in_force->name.index;
    apply_reset(g, index, g->in_force->time_ms);
    raft_free(buf->base); /* libraft gives it away when this succeeds */
    propose_restored(g);
    propose_moved(g);
    wait_moved(g);
    if (g->started) {
        dn_info(COMPONENT, "group %u: state restored at index %llu", g->id, (unsigned long long)index);
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
    next_drop(g);
    hold_over(g);
}

void snapshot_free(struct group *g)
{
    dn_buffer_free(&g->snap.buffer);
    manifest_unref(g->snap.manifest);
    manifest_unref(g->in_force);
    manifest_unref(g->previous);
    for (unsigned i = 0; i < SNAP_PINS; i++) {
        manifest_unref(g->pins[i].manifest);
    }
}
