/* raft_io: libraft's disk and network, over the node's one journal and its one connection to each peer.
 *
 * Happy path of an append: the entries are copied into the journal's pending batch -> the journal writes what
 * all groups left there, once -> append_durable -> libraft's callback. Of a message: encoded once -> handed
 * to the transport, which copies it; libraft's callback runs before send returns (it only frees).
 *
 * Term and vote: libraft stores them by calls that return at once, and sends messages that promise them right
 * after. So whatever a group sends while its newest term or vote is not durable waits in g->held, in order,
 * until it is.
 *
 * Failures: none is ever reported to libraft, which would assert. While the disk fails, the journal keeps
 * what was appended and tries again; the groups are silent meanwhile (io_shim.c) and go on where they stood.
 * Memory that is not to be had: appends answer RAFT_NOMEM, which io_shim.c makes fatal; a message is dropped,
 * as networks do.
 *
 * A snapshot here is a manifest: its files are durable before it comes (snapshot.c). */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mutant.h"
#include "consensus/rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPONENT "consensus"
#define APPEND_SEND_MAX (4u << 20)    /* bytes of entries in one message */
#define APPEND_BACKLOG_MAX (1u << 20) /* bytes queued for a peer, beyond which no entries are added */
#define PARTS_STACK 64
#define HELD_MAX 4096 /* messages of one group that wait for a term or vote */

static struct group *group_of(struct raft_io *io)
{
    return container_of(io, struct group, io);
}

/* ---- marker: what the journal keeps of a snapshot ------------------------------------------------------ */

static enum dn_code marker_encode(const struct raft_snapshot *snapshot, struct dn_buffer *out,
                                  struct dn_error *err)
{
    dn_buffer_u16(out, MARKER_VERSION);
    dn_buffer_u64(out, snapshot->configuration_index);
    rpc_configuration_encode(&snapshot->configuration, out);
    size_t length = 0;
    for (unsigned i = 0; i < snapshot->n_bufs; i++) {
        length += snapshot->bufs[i].len;
    }
    dn_buffer_u32(out, (uint32_t)length);
    for (unsigned i = 0; i < snapshot->n_bufs; i++) {
        dn_buffer_append(out, snapshot->bufs[i].base, snapshot->bufs[i].len);
    }
    return out->failed ? dn_fail(err, DN_NO_MEMORY, "a snapshot's marker of %zu bytes", length) : DN_OK;
}

/* A raft_snapshot in libraft's memory. */
static enum dn_code marker_decode(const uint8_t *bytes, size_t length, uint64_t index, uint64_t term,
                                  struct raft_snapshot **ret, struct dn_error *err)
{
    struct raft_configuration configuration;
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    uint16_t version = dn_reader_u16(&reader);
    uint64_t configuration_index = dn_reader_u64(&reader);
    if (reader.failed || version != MARKER_VERSION) {
        return dn_fail(err, DN_CORRUPT, "the marker of snapshot %llu has version %u",
                       (unsigned long long)index, version);
    }
    enum dn_code code = rpc_configuration_decode(&reader, &configuration, err);
    if (code != DN_OK) {
        return code;
    }
    size_t data_length = 0;
    const uint8_t *data = dn_reader_blob(&reader, RPC_DATA_MAX, &data_length);
    if (reader.failed || dn_reader_left(&reader) > 0 || data_length == 0) {
        raft_configuration_close(&configuration);
        return dn_fail(err, DN_CORRUPT, "the marker of snapshot %llu is malformed",
                       (unsigned long long)index);
    }
    struct raft_snapshot *snapshot = raft_calloc(1, sizeof *snapshot);
    struct raft_buffer *buf = raft_calloc(1, sizeof *buf);
    void *copy = raft_malloc(data_length);
    if (snapshot == NULL || buf == NULL || copy == NULL) {
        raft_free(snapshot);
        raft_free(buf);
        raft_free(copy);
        raft_configuration_close(&configuration);
        return dn_fail(err, DN_NO_MEMORY, "load a snapshot's manifest");
    }
    memcpy(copy, data, data_length);
    *buf = (struct raft_buffer){copy, data_length};
    *snapshot = (struct raft_snapshot){index, term, configuration, configuration_index, buf, 1};
    *ret = snapshot;
    return DN_OK;
}

static void raft_snapshot_free(struct raft_snapshot *snapshot)
{
    if (snapshot != NULL) {
        raft_configuration_close(&snapshot->configuration);
        raft_free(snapshot->bufs[0].base);
        raft_free(snapshot->bufs);
        raft_free(snapshot);
    }
}

static bool keep_marker(struct group *g, uint64_t index, uint64_t term, const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length);
    if (copy == NULL) {
        return false;
    }
    memcpy(copy, bytes, length);
    free(g->marker);
    g->marker = copy;
    g->marker_length = length;
    g->marker_index = index;
    g->marker_term = term;
    return true;
}

/* ---- loading ------------------------------------------------------------------------------------------ */

struct loading {
    struct raft_entry *entries;
    size_t count, max;
};

static enum dn_code load_entry(void *data, uint64_t index, const struct dn_journal_entry *entry,
                               struct dn_error *err)
{
    struct loading *loading = data;
    struct raft_entry *to = &loading->entries[loading->count];
    void *copy = raft_malloc(entry->length);
    DN_ASSERT(loading->count < loading->max);
    if (copy == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "load entry %llu", (unsigned long long)index);
    }
    memcpy(copy, entry->bytes, entry->length);
    /* No batch: every entry is freed by itself. With one, libraft would search its whole log for each. */
    *to = (struct raft_entry){entry->term, entry->type, {copy, entry->length}, NULL};
    loading->count++;
    return DN_OK;
}

/* Is this node the only voter of what was loaded? libraft makes it leader in the term it already had; but in
 * that term its last life may have sent a learner what its own disk never got, and other entries would take
 * the same places. So each life of a sole voter begins a term of its own. */
static bool sole_voter(const struct group *g, const struct loading *loading,
                       const struct raft_snapshot *snapshot)
{
    struct raft_configuration decoded;
    const struct raft_configuration *in = snapshot == NULL ? NULL : &snapshot->configuration;
    unsigned voters = 0;
    bool self = false, found = false;
    raft_configuration_init(&decoded);
    for (size_t i = loading->count; i-- > 0 && !found;) {
        found = loading->entries[i].type == RAFT_CHANGE &&
                raft_configuration_decode(&loading->entries[i].buf, &decoded) == 0;
    }
    in = found ? &decoded : in;
    for (unsigned i = 0; in != NULL && i < in->n; i++) {
        voters += in->servers[i].role == RAFT_VOTER;
        self |= in->servers[i].role == RAFT_VOTER && in->servers[i].id == g->c->raft_id;
    }
    raft_configuration_close(&decoded);
    return voters == 1 && self;
}

static int load_failed(struct group *g, enum dn_code code, const struct dn_error *err)
{
    g->start_error = *err;
    snprintf(g->io.errmsg, sizeof g->io.errmsg, "the log cannot be loaded");
    return code == DN_NO_MEMORY ? RAFT_NOMEM : RAFT_CORRUPT;
}

static int io_load(struct raft_io *io, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                   raft_index *start_index, struct raft_entry *entries[], size_t *n_entries)
{
    struct group *g = group_of(io);
    struct dn_journal_group have;
    struct loading loading = {0};
    struct raft_snapshot *loaded = NULL;
    struct dn_error err = {0};
    enum dn_code code = DN_OK;
    dn_journal_recovered(g->c->journal, g->id, &have);
    if (!have.known) {
        code = dn_fail(
            &err, DN_CORRUPT,
            "the journal in '%s' holds nothing of this group, though this node had been set up: its log is "
            "lost. Restore the whole data directory, or take the node out of the cluster and join it anew "
            "with an empty one",
            g->c->journal_dir);
        return load_failed(g, code, &err);
    }
    if (have.snapshot_index > 0) {
        code = marker_decode(have.marker, have.marker_length, have.snapshot_index, have.snapshot_term,
                             &loaded, &err);
        if (code == DN_OK &&
            !keep_marker(g, have.snapshot_index, have.snapshot_term, have.marker, have.marker_length)) {
            code = dn_fail(&err, DN_NO_MEMORY, "load a snapshot's manifest");
        }
        if (code == DN_OK) { /* here, not in fsm->restore: libraft asserts when that fails with a log */
            code = snapshot_load(g, &loaded->bufs[0], &err);
        }
    }
    if (code == DN_OK && have.entry_count > 0) {
        loading.max = have.entry_count;
        loading.entries = raft_calloc(loading.max, sizeof *loading.entries);
        if (loading.entries == NULL) {
            code = dn_fail(&err, DN_NO_MEMORY, "load %zu entries", have.entry_count);
        } else if (g->first_entry.length > 0) {
            struct dn_journal_entry entry = {1, RAFT_CHANGE, g->first_entry.bytes, g->first_entry.length};
            code = load_entry(&loading, 1, &entry, &err);
            dn_buffer_free(&g->first_entry);
        } else {
            code = dn_journal_read(g->c->journal, g->id, load_entry, &loading, &err);
        }
    }
    if (code != DN_OK) {
        goto fail;
    }
    if (sole_voter(g, &loading, loaded)) {
        if (!dn_journal_set_term(g->c->journal, g->id, have.term + 1, 0)) {
            code = dn_fail(&err, DN_NO_MEMORY, "begin a term");
            goto fail;
        }
        have.term++;
        have.voted_for = 0;
        g->promise_lsn = dn_journal_appended(g->c->journal);
    }
    *term = have.term;
    *voted_for = dn_mutant(DN_MUTANT_DROP_VOTE) ? 0 : have.voted_for;
    *snapshot = loaded;
    *start_index = have.entry_count > 0 ? have.first_index : have.snapshot_index + 1;
    *entries = loading.entries;
    *n_entries = loading.count;
    g->io_term = have.term;
    g->io_last = *start_index + loading.count - 1;
    return 0;

fail:
    for (size_t i = 0; i < loading.count; i++) {
        raft_free(loading.entries[i].buf.base);
    }
    raft_free(loading.entries);
    raft_snapshot_free(loaded);
    return load_failed(g, code, &err);
}

/* ---- storing ------------------------------------------------------------------------------------------ */

static int io_set_term(struct raft_io *io, raft_term term)
{
    struct group *g = group_of(io);
    if (!dn_journal_set_term(g->c->journal, g->id, term, 0)) {
        return RAFT_NOMEM;
    }
    g->io_term = term;
    g->promise_lsn = dn_journal_appended(g->c->journal);
    return 0;
}

static int io_set_vote(struct raft_io *io, raft_id id)
{
    struct group *g = group_of(io);
    if (!dn_journal_set_term(g->c->journal, g->id, g->io_term, id)) {
        return RAFT_NOMEM;
    }
    g->promise_lsn = dn_journal_appended(g->c->journal);
    return 0;
}

static int io_bootstrap(struct raft_io *io, const struct raft_configuration *configuration)
{
    struct group *g = group_of(io);
    struct dn_buffer *bytes = &g->first_entry;
    rpc_configuration_entry(configuration, bytes);
    if (bytes->failed) {
        return RAFT_NOMEM;
    }
    struct dn_journal_entry entry = {1, RAFT_CHANGE, bytes->bytes, bytes->length};
    bool done = dn_journal_set_term(g->c->journal, g->id, 1, 0) &&
                dn_journal_append(g->c->journal, g->id, 1, &entry, 1);
    return done ? 0 : RAFT_NOMEM;
}

static int io_recover(struct raft_io *io, const struct raft_configuration *configuration)
{
    (void)io, (void)configuration;
    return RAFT_INVALID;
}

struct raft_io_pending {
    struct dn_journal_wait wait;
    struct group *group;
    struct raft_io_pending *next, *prev;
    struct raft_io_append *req; /* NULL: given back as cancelled */
    raft_io_append_cb cb;
};

static void pending_free(struct raft_io_pending *p)
{
    struct group *g = p->group;
    if (p->prev == NULL) {
        g->io_pending = p->next;
    } else {
        p->prev->next = p->next;
    }
    if (p->next != NULL) {
        p->next->prev = p->prev;
    }
    free(p);
}

static void append_durable(struct dn_journal_wait *wait)
{
    struct raft_io_pending *p = wait->data;
    struct group *g = p->group;
    struct raft_io_append *req = p->req;
    raft_io_append_cb cb = p->cb;
    pending_free(p);
    if (req != NULL) {
        cb(req, 0);
        consensus_kick(g->c);
    }
}

static int io_append(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[],
                     unsigned n, raft_io_append_cb cb)
{
    struct group *g = group_of(io);
    struct dn_journal_entry few[PARTS_STACK], *list = few;
    struct raft_io_pending *p = calloc(1, sizeof *p);
    if (p != NULL && n > PARTS_STACK) {
        list = calloc(n, sizeof *list);
    }
    if (p == NULL || list == NULL) {
        free(p);
        return RAFT_NOMEM;
    }
    for (unsigned i = 0; i < n; i++) {
        list[i] = (struct dn_journal_entry){entries[i].term, (uint8_t)entries[i].type, entries[i].buf.base,
                                            entries[i].buf.len};
    }
    bool done = dn_journal_append(g->c->journal, g->id, g->io_last + 1, list, n);
    if (list != few) {
        free(list);
    }
    if (!done) {
        free(p);
        return RAFT_NOMEM;
    }
    g->io_last += n;
    p->group = g;
    p->req = req;
    p->cb = cb;
    p->next = g->io_pending;
    if (p->next != NULL) {
        p->next->prev = p;
    }
    g->io_pending = p;
    p->wait.done = append_durable;
    p->wait.data = p;
    dn_journal_when_durable(g->c->journal, &p->wait);
    return 0;
}

/* libraft calls this before every append. */
static int io_truncate(struct raft_io *io, raft_index index)
{
    struct group *g = group_of(io);
    if (index <= g->io_last) {
        if (!dn_journal_truncate(g->c->journal, g->id, index)) {
            return RAFT_NOMEM;
        }
        g->io_last = index - 1;
    }
    return 0;
}

/* ---- snapshots ---------------------------------------------------------------------------------------- */

static void put_durable(struct dn_journal_wait *wait)
{
    struct group *g = wait->data;
    struct raft_io_snapshot_put *req = g->put_req;
    g->put_waiting = false;
    g->put_req = NULL;
    if (req != NULL) {
        req->cb(req, 0);
        consensus_kick(g->c);
    }
}

/* trailing 0: a leader's snapshot takes the place of the whole log. */
static int io_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                           const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct group *g = group_of(io);
    struct dn_journal *journal = g->c->journal;
    struct dn_buffer marker;
    struct dn_error err;
    uint64_t keep_from = snapshot->index + 1;
    if (g->put_waiting) {
        return RAFT_BUSY;
    }
    dn_buffer_init(&marker, DN_JOURNAL_MARKER_MAX);
    if (marker_encode(snapshot, &marker, &err) != DN_OK ||
        !keep_marker(g, snapshot->index, snapshot->term, marker.bytes, marker.length)) {
        dn_buffer_free(&marker);
        return RAFT_NOMEM;
    }
    bool done = true;
    if (trailing > 0) {
        keep_from = snapshot->index > trailing ? snapshot->index - trailing + 1 : 1;
    } else if (g->io_last > snapshot->index) {
        done = dn_journal_truncate(journal, g->id, snapshot->index + 1);
    }
    done = done && dn_journal_snapshot(journal, g->id, snapshot->index, snapshot->term, keep_from,
                                       marker.bytes, marker.length);
    dn_buffer_free(&marker);
    if (!done) {
        return RAFT_NOMEM;
    }
    if (trailing == 0) {
        g->io_last = snapshot->index;
    }
    req->cb = cb;
    g->put_req = req;
    g->put_waiting = true;
    g->put_wait.done = put_durable;
    g->put_wait.data = g;
    dn_journal_when_durable(journal, &g->put_wait);
    return 0;
}

/* From memory, so at once: libraft's callback only sends. */
static int io_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb)
{
    struct group *g = group_of(io);
    struct raft_snapshot *snapshot;
    struct dn_error err;
    if (g->marker == NULL || marker_decode(g->marker, g->marker_length, g->marker_index, g->marker_term,
                                           &snapshot, &err) != DN_OK) {
        return RAFT_NOMEM;
    }
    cb(req, snapshot, 0);
    return 0;
}

/* ---- messages ----------------------------------------------------------------------------------------- */

struct raft_io_held {
    struct raft_io_held *next;
    uint64_t raft_id;
    enum dn_transport_queue queue;
    size_t length;
    uint8_t bytes[];
};

static void held_send(struct group *g)
{
    struct raft_io_held *held;
    while ((held = g->held_first) != NULL && g->promise_lsn <= dn_journal_durable(g->c->journal)) {
        struct dn_transport_part part = {held->bytes, held->length};
        g->held_first = held->next;
        g->held_count--;
        dn_transport_send(g->c->transport, held->raft_id, held->queue, &part, 1); /* or it is lost */
        free(held);
    }
    if (g->held_first == NULL) {
        g->held_last = NULL;
    }
}

static void held_durable(struct dn_journal_wait *wait);

static void held_wait(struct group *g)
{
    if (!g->held_waiting && g->held_first != NULL) {
        g->held_waiting = true;
        g->held_wait.done = held_durable;
        g->held_wait.data = g;
        dn_journal_when_durable(g->c->journal, &g->held_wait);
    }
}

static void held_durable(struct dn_journal_wait *wait)
{
    struct group *g = wait->data;
    g->held_waiting = false;
    held_send(g);
    held_wait(g); /* a newer promise was made meanwhile */
}

static void held_drop(struct group *g)
{
    for (struct raft_io_held *held = g->held_first, *next; held != NULL; held = next) {
        next = held->next;
        free(held);
    }
    g->held_first = g->held_last = NULL;
    g->held_count = 0;
}

static bool hold(struct group *g, uint64_t raft_id, enum dn_transport_queue queue,
                 const struct dn_transport_part *parts, size_t count)
{
    size_t length = 0;
    struct raft_io_held *held;
    for (size_t i = 0; i < count; i++) {
        length += parts[i].length;
    }
    held = g->held_count < HELD_MAX ? malloc(sizeof *held + length) : NULL;
    if (held == NULL) {
        return false;
    }
    *held = (struct raft_io_held){.raft_id = raft_id, .queue = queue, .length = length};
    length = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(held->bytes + length, parts[i].bytes, parts[i].length);
        length += parts[i].length;
    }
    if (g->held_last == NULL) {
        g->held_first = held;
    } else {
        g->held_last->next = held;
    }
    g->held_last = held;
    g->held_count++;
    held_wait(g);
    return true;
}

/* AppendEntries stay in order among themselves, empty ones too: one that overtakes entries is refused for its
 * gap. All else is urgent. */
static enum dn_transport_queue queue_of(const struct raft_message *message)
{
    return message->type == RAFT_APPEND_ENTRIES || message->type == RAFT_INSTALL_SNAPSHOT
               ? DN_TRANSPORT_NORMAL
               : DN_TRANSPORT_URGENT;
}

static int io_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                   raft_io_send_cb cb)
{
    struct group *g = group_of(io);
    struct dn_transport_part few[PARTS_STACK + 1], *parts = few;
    struct dn_buffer *head = &g->c->message;
    unsigned entries = 0;
    size_t count = 1;
    bool sent = false;
    if (message->type == RAFT_APPEND_ENTRIES) {
        /* libraft repeats what was not answered with every heartbeat. Behind a long queue that would only
         * make it longer, and the followers would hear of the leader too late: then the message goes without
         * its entries. */
        bool behind = dn_transport_queued(g->c->transport, message->server_id, DN_TRANSPORT_NORMAL) >
                      APPEND_BACKLOG_MAX;
        entries = behind ? 0 : rpc_entries_fit(&message->append_entries, APPEND_SEND_MAX);
    }
    if (entries > PARTS_STACK) {
        parts = calloc((size_t)entries + 1, sizeof *parts);
    }
    dn_buffer_clear(head);
    rpc_encode(message, g->id, entries, head);
    if (parts == NULL || head->failed) {
        goto out;
    }
    parts[0] = (struct dn_transport_part){head->bytes, head->length};
    for (unsigned i = 0; i < entries; i++) {
        parts[count++] = (struct dn_transport_part){message->append_entries.entries[i].buf.base,
                                                    message->append_entries.entries[i].buf.len};
    }
    if (message->type == RAFT_INSTALL_SNAPSHOT) {
        parts[count++] = (struct dn_transport_part){message->install_snapshot.data.base,
                                                    message->install_snapshot.data.len};
    }
    if (g->held_first != NULL || g->promise_lsn > dn_journal_durable(g->c->journal)) {
        sent = hold(g, message->server_id, queue_of(message), parts, count);
    } else {
        sent = dn_transport_send(g->c->transport, message->server_id, queue_of(message), parts, count);
    }
out:
    if (parts != few) {
        free(parts);
    }
    cb(req, sent ? 0 : RAFT_NOCONNECTION);
    return 0;
}

void raft_io_receive(struct dn_consensus *c, unsigned member, const uint8_t *bytes, size_t length)
{
    struct raft_message message;
    struct dn_error err;
    uint32_t group;
    enum dn_code code = rpc_decode(bytes, length, &message, &group, &err);
    if (code != DN_OK) {
        link_malformed(c, member, &err);
        return;
    }
    struct group *g = group < c->o.group_count ? &c->groups[group] : NULL;
    if (g == NULL || !g->started || g->closing) {
        rpc_free(&message);
        return;
    }
    message.server_id = c->members[member].raft_id;
    message.server_address = c->members[member].address;
    g->recv(&g->io, &message);
}

/* Not in libraft's headers, but every raft_io must call it once a loop turn: the callbacks of what
 * raft_apply, raft_barrier and their like asked for are queued until then. */
void LegacyFireCompletedRequests(struct raft *r);

void raft_io_turn(struct group *g)
{
    LegacyFireCompletedRequests(&g->raft);
}

/* ---- life --------------------------------------------------------------------------------------------- */

static int io_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)io, (void)id, (void)address;
    return 0;
}

static void tick(uv_timer_t *timer)
{
    struct group *g = container_of(timer, struct group, ticker);
    g->tick(&g->io);
}

static int io_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick_cb, raft_io_recv_cb recv_cb)
{
    struct group *g = group_of(io);
    g->tick = tick_cb;
    g->recv = recv_cb;
    return uv_timer_start(&g->ticker, tick, msecs, msecs) == 0 ? 0 : RAFT_IOERR;
}

static raft_time io_time(struct raft_io *io)
{
    return uv_now(&group_of(io)->c->loop);
}

static int io_random(struct raft_io *io, int min, int max)
{
    struct group *g = group_of(io);
    g->random = g->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return min + (int)((g->random >> 33) % (uint64_t)(max - min));
}

static void ticker_closed(uv_handle_t *handle)
{
    struct group *g = container_of((uv_timer_t *)(void *)handle, struct group, ticker);
    if (g->close_cb != NULL) {
        g->close_cb(&g->io);
    }
}

/* libraft is given back what it waits for; the journal still holds the waits, so their structs stay. */
static void io_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct group *g = group_of(io);
    for (struct raft_io_pending *p = g->io_pending; p != NULL; p = p->next) {
        struct raft_io_append *req = p->req;
        p->req = NULL;
        if (req != NULL) {
            p->cb(req, RAFT_CANCELED);
        }
    }
    if (g->put_req != NULL) {
        struct raft_io_snapshot_put *req = g->put_req;
        g->put_req = NULL;
        req->cb(req, RAFT_CANCELED);
    }
    g->close_cb = cb;
    uv_close((uv_handle_t *)&g->ticker, ticker_closed);
}

void raft_io_free(struct group *g)
{
    for (struct raft_io_pending *p = g->io_pending, *next; p != NULL; p = next) {
        next = p->next;
        free(p);
    }
    g->io_pending = NULL;
    held_drop(g);
    dn_buffer_free(&g->first_entry);
    free(g->marker);
    g->marker = NULL;
}

void raft_io_fault(struct group *g, bool fault)
{
    if (fault) {
        held_drop(g); /* the others have long given up on them */
    }
}

void raft_io_install(struct group *g)
{
    g->io = (struct raft_io){.version = 2,
                             .init = io_init,
                             .close = io_close,
                             .load = io_load,
                             .start = io_start,
                             .bootstrap = io_bootstrap,
                             .recover = io_recover,
                             .set_term = io_set_term,
                             .set_vote = io_set_vote,
                             .send = io_send,
                             .append = io_append,
                             .truncate = io_truncate,
                             .snapshot_put = io_snapshot_put,
                             .snapshot_get = io_snapshot_get,
                             .time = io_time,
                             .random = io_random};
    dn_buffer_init(&g->first_entry, RPC_DATA_MAX);
    g->random = g->c->nonce ^ g->id * UINT64_C(0x9e3779b97f4a7c15);
    uv_timer_init(&g->c->loop, &g->ticker);
}
