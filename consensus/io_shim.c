/* I/O shim: stands between libraft and raft_io.c, because libraft asserts that disk operations succeed.
 *
 * raft_io.c fills the group's struct raft_io; io_shim_install() keeps its methods in g->real and puts these
 * in their place. Rules: an operation that fails is never reported. A disk that fails is the journal's to
 * outlast: while it does, the groups are silent (nothing is sent, received or ticked), and go on where they
 * stood afterwards. What cannot be outlasted (memory) fences the group for good and consensus_fatal() says
 * why: the process leaves, a restart is safe. What libraft still waits for is given back as cancelled once it
 * is closing. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mutant.h"

#include <stdlib.h>
#include <string.h>

static struct group *group_of(struct raft_io *io)
{
    return container_of(io, struct group, io);
}

static int fence(struct group *g, const char *what, int rv)
{
    if (!g->fenced && !g->closing) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u ('%s'): %s: %s: %s", g->id, g->c->data_dir, what, raft_strerror(rv),
                        g->io.errmsg);
    }
    return 0;
}

static int set_term_shim(struct raft_io *io, raft_term term)
{
    struct group *g = group_of(io);
    int rv = g->fenced ? 0 : g->real.set_term(io, term);
    return rv == 0 ? 0 : fence(g, "store the term", rv);
}

static int set_vote_shim(struct raft_io *io, raft_id id)
{
    struct group *g = group_of(io);
    int rv = g->fenced ? 0 : g->real.set_vote(io, id);
    return rv == 0 ? 0 : fence(g, "store the vote", rv);
}

static int truncate_shim(struct raft_io *io, raft_index index)
{
    struct group *g = group_of(io);
    int rv = g->fenced ? 0 : g->real.truncate(io, index);
    return rv == 0 ? 0 : fence(g, "truncate the log", rv);
}

/* ---- appends ---------------------------------------------------------------------------------------- */

struct append {
    struct raft_io_append req; /* raft_io.c's */
    struct group *group;
    struct raft_io_append *orig;
    raft_io_append_cb orig_cb;
    raft_index last; /* of its entries */
};

/* What libraft 0.22.1 keeps of a follower, as far as the mutant touches it. */
struct raft_progress {
    unsigned short state[4];
    raft_index next, match;
    raft_time last[2];
    raft_index snapshot;
    raft_time snapshot_sent;
};

/* DN_MUTANT_ACK_BEFORE_COMMIT: for this one moment all the others seem to hold the entries too. */
static void mutant_ack(struct group *g, const struct append *a)
{
    raft_index kept[DN_MEMBERS_MAX] = {0};
    struct raft_progress *all = g->raft.leader_state.progress;
    unsigned n = g->raft.configuration.n;
    for (unsigned i = 0; i < n && i < DN_MEMBERS_MAX; i++) {
        kept[i] = all[i].match;
        all[i].match = a->last > kept[i] ? a->last : kept[i];
    }
    a->orig_cb(a->orig, 0);
    if (raft_state(&g->raft) == RAFT_LEADER && g->raft.leader_state.progress == all) {
        for (unsigned i = 0; i < n && i < DN_MEMBERS_MAX; i++) {
            all[i].match = g->raft.configuration.servers[i].id == g->c->raft_id ? all[i].match : kept[i];
        }
    }
}

static void append_done(struct raft_io_append *req, int status)
{
    struct append *a = container_of(req, struct append, req);
    struct group *g = a->group;
    if (status != 0 && !(g->closing && status == RAFT_CANCELED)) {
        fence(g, "write the log", status);
        if (!g->closing) {
            free(a); /* libraft's request stays open: the process is leaving */
            return;
        }
        status = RAFT_CANCELED;
    }
    if (dn_mutant(DN_MUTANT_ACK_BEFORE_COMMIT) && status == 0 && raft_state(&g->raft) == RAFT_LEADER) {
        mutant_ack(g, a);
    } else {
        a->orig_cb(a->orig, status);
    }
    free(a);
    consensus_kick(g->c);
}

static int append_shim(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[],
                       unsigned n, raft_io_append_cb cb)
{
    struct group *g = group_of(io);
    struct append *a = g->fenced ? NULL : malloc(sizeof *a);
    int rv;
    if (a == NULL) {
        return g->fenced ? 0 : fence(g, "write the log", RAFT_NOMEM);
    }
    a->group = g;
    a->orig = req;
    a->orig_cb = cb;
    a->last = raft_last_index(&g->raft);
    rv = g->real.append(io, &a->req, entries, n, append_done);
    if (rv != 0) {
        free(a);
        return fence(g, "write the log", rv);
    }
    return 0;
}

/* ---- messages --------------------------------------------------------------------------------------- */

static bool silent(const struct group *g)
{
    return g->fenced || g->closing || g->c->disk_fault || g->c->phase >= PHASE_CLOSE;
}

/* Only to a follower that is known to hold the entry durably: libraft there ignores a commit beyond that, and
 * would hear of it again with the next heartbeat. */
static void note_commit_sent(struct group *g, const struct raft_message *message)
{
    int member = member_find(g->c, message->server_id);
    raft_index match;
    if (member >= 0 && message->append_entries.leader_commit > g->commit_sent[member] &&
        raft_match_index(&g->raft, message->server_id, &match) == 0 &&
        match >= message->append_entries.leader_commit) {
        g->commit_sent[member] = message->append_entries.leader_commit;
    }
}

/* libraft waits for an answer to the snapshot it sent, and takes no refusal but of that very index. Its
 * heartbeats however name the newest snapshot it has, so once it took another one it would turn a deaf ear to
 * a follower that never got the first, or lost it in a restart, for the whole install timeout: twenty seconds
 * in which nothing is committed if a third node is down. A follower that is at work on a snapshot refuses
 * nothing (snapshot.c, hollow), so a refusal of such a heartbeat is one of the snapshot, and is made to say
 * so. */
static void snapshot_note_sent(struct group *g, const struct raft_message *message)
{
    int member = member_find(g->c, message->server_id);
    if (member >= 0) { /* the manifest comes from memory, so this is still the index libraft means to send */
        g->snapshot_sent[member] = (struct snapshot_sent){message->server_id, message->install_snapshot.term,
                                                          g->raft.trail.snapshot.index};
    }
}

static void snapshot_refused(struct group *g, struct raft_message *message)
{
    struct raft_append_entries_result *result = &message->append_entries_result;
    int member = member_find(g->c, message->server_id);
    struct snapshot_sent *sent = member < 0 ? NULL : &g->snapshot_sent[member];
    raft_index match;
    if (sent == NULL || sent->index == 0 || result->rejected < sent->index ||
        result->rejected > g->raft.trail.snapshot.index || result->term != sent->term) {
        return;
    }
    if (sent->raft_id == message->server_id && sent->term == raft_current_term(&g->raft) &&
        raft_match_index(&g->raft, message->server_id, &match) == 0 && match < sent->index) {
        result->rejected = sent->index;
        result->last_log_index =
            result->last_log_index < sent->index ? result->last_log_index : sent->index - 1;
    }
    sent->index = 0; /* once: if libraft has given up waiting by itself, the next refusal is one of entries */
}

/* A failed send is a lost message to libraft: it is told at once, and never by a return value, after which it
 * would free what it no longer owns. */
static int send_shim(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                     raft_io_send_cb cb)
{
    struct group *g = group_of(io);
    struct raft_message corrected;
    int rv = RAFT_CANCELED;
    if (!silent(g)) {
        if (message->type == RAFT_APPEND_ENTRIES) {
            note_commit_sent(g, message);
            int member = member_find(g->c, message->server_id);
            if (member >= 0) {
                g->sent_in_tick[member] = true;
            }
        }
        /* When a newer snapshot was taken while the wanted one was being read, libraft corrects the message's
         * last_index and forgets its last_term: the follower would install a term that never was. */
        if (message->type == RAFT_INSTALL_SNAPSHOT) {
            snapshot_note_sent(g, message);
        }
        if (message->type == RAFT_INSTALL_SNAPSHOT &&
            g->loaded_index == message->install_snapshot.last_index) {
            corrected = *message;
            corrected.install_snapshot.last_term = g->loaded_term;
            message = &corrected; /* encoded before send returns */
        }
        rv = g->real.send(io, req, message, cb);
    }
    if (rv != 0) {
        cb(req, rv == RAFT_CANCELED ? RAFT_CANCELED : RAFT_NOCONNECTION);
    }
    return 0;
}

static void tick_shim(struct raft_io *io)
{
    struct group *g = group_of(io);
    if (!silent(g)) {
        memset(g->sent_in_tick, 0, sizeof g->sent_in_tick);
        g->raft_tick(io);
        group_keep_contact(g);
        consensus_kick(g->c);
    }
}

/* A learner that was promoted may not know it yet, and the others may need its vote to have a leader who
 * could tell it: so it votes as a voter would. That is safe: a candidate counts only voters of its own
 * configuration, and the vote is durable before it leaves. libraft would refuse, and never forgets a
 * standby's leader. */
static bool vote_of_a_standby(struct group *g, struct raft_message *message)
{
    struct raft *r = &g->raft;
    struct raft_server *own = (struct raft_server *)group_server(g, g->c->raft_id);
    if (own == NULL || own->role != RAFT_STANDBY || raft_state(r) != RAFT_FOLLOWER) {
        return false;
    }
    if (dn_monotonic_us() - g->heard_us > (uint64_t)g->c->o.election_timeout_ms * 1000) {
        raft_free(r->follower_state.current_leader.address);
        r->follower_state.current_leader.address = NULL;
        r->follower_state.current_leader.id = 0;
    }
    own->role = RAFT_VOTER;
    g->raft_recv(&g->io, message);
    own = (struct raft_server *)group_server(g, g->c->raft_id);
    if (own != NULL) {
        own->role = RAFT_STANDBY;
    }
    return true;
}

/* libraft knows one uncommitted change of members. When the next one comes in the message that also says that
 * the one before is committed, it forgets that, and would roll back too far: so it hears of the commit first.
 * False: it cannot take the change yet; the leader sends it again. */
static bool change_fits(struct group *g, const struct raft_message *message)
{
    const struct raft_append_entries *append = &message->append_entries;
    struct raft *r = &g->raft;
    if (snapshot_holding(g) || append->n_entries == 0 || append->entries[0].type != RAFT_CHANGE ||
        r->configuration_uncommitted_index == 0 ||
        append->prev_log_index < r->configuration_uncommitted_index ||
        append->leader_commit < r->configuration_uncommitted_index || r->snapshot.installing) {
        return true;
    }
    struct raft_message hollow = *message;
    hollow.append_entries.entries = NULL;
    hollow.append_entries.n_entries = 0;
    g->raft_recv(&g->io, &hollow);
    return r->configuration_uncommitted_index == 0;
}

/* libraft takes the lower of the leader's commit and the message's last entry for its own commit, also where
 * that is lower than what it has: a leader that begins again at an old entry (after a heartbeat without an
 * answer) would make it go back, and a snapshot taken then would name an index before the state that is in
 * it. */
static void never_back(struct group *g, struct raft_message *message)
{
    struct raft_append_entries *append = &message->append_entries;
    raft_index commit = raft_commit_index(&g->raft);
    if (append->leader_commit > commit && append->prev_log_index + append->n_entries < commit) {
        append->leader_commit = commit;
    }
}

/* A follower that enters a new term by a vote keeps the leader of the term before in libraft, and would say
 * that it follows it in this one: two leaders of a term, for whoever listens to two nodes. */
static void recv_and_tell(struct group *g, struct raft_message *message)
{
    bool of_leader = message->type == RAFT_APPEND_ENTRIES || message->type == RAFT_INSTALL_SNAPSHOT;
    raft_term before = raft_current_term(&g->raft);
    g->raft_recv(&g->io, message); /* takes what the message holds */
    if (!of_leader && raft_current_term(&g->raft) > before && raft_state(&g->raft) == RAFT_FOLLOWER) {
        group_forget_leader(g);
    }
}

static void recv_shim(struct raft_io *io, struct raft_message *message)
{
    struct group *g = group_of(io);
    if (silent(g)) {
        snapshot_message_free(message);
        return;
    }
    if (message->type == RAFT_APPEND_ENTRIES || message->type == RAFT_INSTALL_SNAPSHOT) {
        g->heard_us = dn_monotonic_us();
    }
    if (message->type == RAFT_APPEND_ENTRIES) {
        never_back(g, message);
    }
    if (message->type == RAFT_APPEND_ENTRIES_RESULT) {
        snapshot_refused(g, message);
    }
    if (message->type == RAFT_REQUEST_VOTE && vote_of_a_standby(g, message)) {
        /* done */
    } else if (message->type == RAFT_APPEND_ENTRIES && !change_fits(g, message)) {
        snapshot_message_free(message);
    } else if (!snapshot_hold(g, message)) {
        recv_and_tell(g, message);
    }
    consensus_kick(g->c);
}

static int start_shim(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct group *g = group_of(io);
    g->raft_tick = tick;
    g->raft_recv = recv;
    return g->real.start(io, msecs, tick_shim, recv_shim);
}

/* ---- reading a snapshot to send it ------------------------------------------------------------------ */

struct get {
    struct raft_io_snapshot_get req;
    struct group *group;
    struct raft_io_snapshot_get *orig;
    raft_io_snapshot_get_cb orig_cb;
};

static void get_done(struct raft_io_snapshot_get *req, struct raft_snapshot *snapshot, int status)
{
    struct get *get = container_of(req, struct get, req);
    struct group *g = get->group;
    if (status != 0) { /* libraft would free memory it never set */
        fence(g, "read the snapshot", status);
    } else {
        g->loaded_index = snapshot->index; /* the callback frees the snapshot, and sends at once */
        g->loaded_term = snapshot->term;
        get->orig_cb(get->orig, snapshot, 0);
    }
    free(get);
}

static int snapshot_get_shim(struct raft_io *io, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb)
{
    struct group *g = group_of(io);
    struct get *get = malloc(sizeof *get);
    int rv;
    if (get == NULL) {
        return fence(g, "read the snapshot", RAFT_NOMEM);
    }
    get->group = g;
    get->orig = req;
    get->orig_cb = cb;
    rv = g->real.snapshot_get(io, &get->req, get_done);
    if (rv != 0) {
        free(get);
        return fence(g, "read the snapshot", rv);
    }
    return 0;
}

static void close_shim(struct raft_io *io, raft_io_close_cb cb)
{
    struct group *g = group_of(io);
    snapshot_cancel(g); /* libraft is in its closing state here, and not yet torn down */
    g->real.close(io, cb);
}

void io_shim_install(struct group *g)
{
    g->real = g->io;
    g->io.set_term = set_term_shim;
    g->io.set_vote = set_vote_shim;
    g->io.truncate = truncate_shim;
    g->io.append = append_shim;
    g->io.send = send_shim;
    g->io.start = start_shim;
    g->io.snapshot_put = snapshot_put_shim;
    g->io.snapshot_get = snapshot_get_shim;
    g->io.close = close_shim;
}
