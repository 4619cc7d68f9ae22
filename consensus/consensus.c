/* Consensus: the life of the node's part, its thread, and the doors other threads come in by.
 *
 * Happy path of a loop turn (turn(), after libuv has polled): take calls from the queues; look at each
 * group's role; submit proposals and barriers; apply committed entries for a few milliseconds; tell readers
 * and followers. Work that is left keeps the loop from blocking.
 *
 * Phases: RUN -(stop)-> TRANSFER -(nothing led, or time is up)-> DRAIN -(all calls completed)-> CLOSE
 * -(every group closed)-> HANDLES -(libuv lets go of the last handle)-> the thread ends. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMPONENT "consensus"

void consensus_fatal(struct dn_consensus *c, const char *format, ...)
{
    char reason[DN_ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    dn_err(COMPONENT, "fatal: %s", reason);
    if (c->fatal_called) {
        return;
    }
    c->fatal_called = true;
    if (c->o.on_fatal == NULL) {
        abort();
    }
    c->o.on_fatal(c->o.callback_data, reason);
}

static void idle_cb(uv_idle_t *idle)
{
    (void)idle; /* its being active is what keeps the loop from blocking */
}

void consensus_kick(struct dn_consensus *c)
{
    if (c->timers_open && !uv_is_closing((uv_handle_t *)&c->idle)) {
        uv_idle_start(&c->idle, idle_cb);
    }
}

/* ---- the loop --------------------------------------------------------------------------------------- */

static bool take_calls(struct dn_consensus *c)
{
    unsigned taken = 0;
    void *item;
    while (taken < TURN_TAKE_MAX && (item = dn_queue_pop(c->proposals)) != NULL) {
        propose_accept(c, item, false);
        taken++;
    }
    while (taken < 2 * TURN_TAKE_MAX && (item = dn_queue_pop(c->waits)) != NULL) {
        wait_accept(c, item, false);
        taken++;
    }
    return dn_queue_length(c->proposals) + dn_queue_length(c->waits) > 0;
}

static void close_handles(struct dn_consensus *c)
{
    dn_journal_destroy(c->journal);
    c->journal = NULL;
    if (c->disk != NULL) {
        c->disk->ops->destroy(c->disk); /* it has a handle on the loop */
        c->disk = NULL;
    }
    uv_close((uv_handle_t *)&c->async, NULL);
    uv_close((uv_handle_t *)&c->check, NULL);
    uv_close((uv_handle_t *)&c->idle, NULL);
    uv_close((uv_handle_t *)&c->timer, NULL);
    c->phase = PHASE_HANDLES;
}

static bool transfer_groups(struct dn_consensus *c)
{
    bool leading = false;
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        struct group *g = &c->groups[i];
        if (g->started && !g->fenced && raft_state(&g->raft) == RAFT_LEADER) {
            leading |= group_others(g) > 0;
            group_hand_over(g, 0);
        }
    }
    return leading;
}

static void drain(struct dn_consensus *c)
{
    void *item;
    /* `closed` was set before stop was asked for: only callers already inside may still push. */
    while (atomic_load(&c->callers) > 0) {
        uv_sleep(0);
    }
    while ((item = dn_queue_pop(c->proposals)) != NULL) {
        propose_accept(c, item, false);
    }
    while ((item = dn_queue_pop(c->waits)) != NULL) {
        wait_accept(c, item, false);
    }
    members_drain(c, DN_UNAVAILABLE, "this node is shutting down");
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        propose_fail_all(&c->groups[i], DN_UNAVAILABLE, "this node is shutting down");
        wait_fail_all(&c->groups[i], DN_UNAVAILABLE, "this node is shutting down");
    }
}

static void transport_closed(void *data)
{
    struct dn_consensus *c = data;
    c->transport_closed = true;
    consensus_kick(c);
}

static void journal_closed(void *data)
{
    struct dn_consensus *c = data;
    c->journal_closed = true;
    consensus_kick(c);
}

/* A group closes only when its snapshot job is over. Until then it must neither look like a leader nor take
 * calls that nobody would complete: it falls silent (io_shim.c looks at the phase), and the closed
 * connections tell the others at once. */
static void leave(struct dn_consensus *c)
{
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        snapshot_stop(&c->groups[i]);
    }
    if (c->transport != NULL) {
        c->transport_closing = true;
        dn_transport_close(c->transport, transport_closed, c);
    }
}

static void run_phase(struct dn_consensus *c, uint64_t now)
{
    bool all;
    switch (c->phase) {
    case PHASE_RUN:
        if (!atomic_load(&c->stop_asked)) {
            return;
        }
        c->phase = PHASE_TRANSFER;
        c->phase_until_us = now + (uint64_t)atomic_load(&c->stop_transfer_ms) * 1000;
        /* fall through */
    case PHASE_TRANSFER:
        if (now < c->phase_until_us && !c->fatal_called && transfer_groups(c)) {
            return;
        }
        c->phase = PHASE_DRAIN;
        /* fall through */
    case PHASE_DRAIN:
        drain(c);
        c->phase = PHASE_CLOSE;
        leave(c);
        /* fall through */
    case PHASE_CLOSE:
        all = !c->statfs_busy;
        for (uint32_t i = 0; i < c->o.group_count; i++) {
            struct group *g = &c->groups[i];
            if (g->opened && !g->closing && group_may_close(g)) {
                group_close(g);
            }
            all &= !g->opened || g->closed;
        }
        all &= !c->transport_closing || c->transport_closed;
        if (all && c->journal != NULL && !c->journal_closing) {
            c->journal_closing = true;
            dn_journal_close(c->journal, journal_closed, c);
        }
        if (all && (c->journal == NULL || c->journal_closed)) {
            close_handles(c);
        }
        return;
    case PHASE_HANDLES:
        return;
    }
}

static void turn(struct dn_consensus *c)
{
    uint64_t now = dn_monotonic_us();
    bool left = false;
    atomic_store_explicit(&c->loop_turn_us, now, memory_order_relaxed);
    if (c->phase <= PHASE_TRANSFER) {
        left = take_calls(c);
        forming_turn(c, now);
        members_turn(c, now);
    }
    for (uint32_t i = 0; i < c->o.group_count && c->phase <= PHASE_TRANSFER; i++) {
        struct group *g = &c->groups[i];
        if (g->started) {
            raft_io_turn(g);
            group_roles(g);
            group_hand_over_turn(g);
            propose_turn(g);
            wait_turn(g);
            snapshot_turn(g, now);
        }
    }
    serve_turn(c);
    if (c->phase <= PHASE_TRANSFER) {
        left |= apply_turn(c);
        for (uint32_t i = 0; i < c->o.group_count; i++) {
            struct group *g = &c->groups[i];
            if (g->started) {
                propose_turn(g); /* applying made room */
                wait_turn(g);
                group_commit_notices(g);
                status_publish(g);
            }
        }
    }
    if (c->moved && c->o.on_applied != NULL) {
        c->o.on_applied(c->o.callback_data);
    }
    c->moved = false;
    run_phase(c, now);
    if (c->phase == PHASE_HANDLES) {
        return;
    }
    if (left) {
        consensus_kick(c);
    } else {
        uv_idle_stop(&c->idle);
    }
}

static void check_cb(uv_check_t *check)
{
    turn(container_of(check, struct dn_consensus, check));
}

static void async_cb(uv_async_t *async)
{
    (void)async; /* it woke the loop; the turn follows */
}

static void statfs_cb(uv_fs_t *req)
{
    struct dn_consensus *c = container_of(req, struct dn_consensus, statfs);
    c->statfs_busy = false;
    if (req->result == 0 && req->ptr != NULL) {
        const uv_statfs_t *fs = req->ptr;
        uint64_t available = fs->f_bavail * fs->f_bsize;
        /* A segment that could not be made took all there was and gave it back: what is free is not enough.
         */
        uint64_t least = c->o.min_free_bytes + (c->journal == NULL ? 0 : dn_journal_lacks_bytes(c->journal));
        bool low = available < least;
        if (low != atomic_load(&c->no_space)) {
            dn_log(low ? DN_LOG_ERROR : DN_LOG_INFO, COMPONENT,
                   "'%s' has %llu bytes free (needed: %llu): proposals are %s", c->data_dir,
                   (unsigned long long)available, (unsigned long long)least, low ? "refused" : "taken again");
        }
        atomic_store(&c->no_space, low);
        c->ticks_stopped = available < c->o.min_free_bytes / 2;
        if (c->m_free != NULL) {
            dn_gauge_set(c->m_free, (double)available);
        }
    }
    uv_fs_req_cleanup(req);
    consensus_kick(c);
}

static void timer_cb(uv_timer_t *timer)
{
    struct dn_consensus *c = container_of(timer, struct dn_consensus, timer);
    uint64_t now = dn_monotonic_us();
    if (c->phase <= PHASE_TRANSFER) {
        for (uint32_t i = 0; i < c->o.group_count; i++) {
            propose_expire(&c->groups[i], now);
            wait_expire(&c->groups[i], now);
        }
        members_housekeep(c, now);
        if (now >= c->round_at_us) {
            c->round_at_us = now + (uint64_t)c->o.tick_ms * 500;
            age_send_round(c);
        }
        if (now >= c->statfs_at_us && !c->statfs_busy) {
            c->statfs_at_us = now + 1000000;
            c->statfs_busy = uv_fs_statfs(&c->loop, &c->statfs, c->data_dir, statfs_cb) == 0;
        }
        if (c->m_queue != NULL) {
            dn_gauge_set(c->m_queue, (double)(dn_queue_length(c->proposals) + dn_queue_length(c->waits)));
        }
    }
    consensus_kick(c);
}

static void thread_main(void *arg)
{
    struct dn_consensus *c = arg;
    sigset_t all;
    sigfillset(&all); /* writes to closed sockets must not kill; the process's signals are main's */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    uv_run(&c->loop, UV_RUN_DEFAULT);
}

/* ---- starting --------------------------------------------------------------------------------------- */

static unsigned or_default(unsigned value, unsigned fallback)
{
    return value == 0 ? fallback : value;
}

static void set_defaults(struct dn_consensus_options *o)
{
    o->level = o->level != 0 ? o->level : DN_LEVEL;
    o->election_timeout_ms = or_default(o->election_timeout_ms, 300);
    o->heartbeat_ms = or_default(o->heartbeat_ms, 50);
    o->tick_ms = or_default(o->tick_ms, 200);
    o->balance_ms = or_default(o->balance_ms, 5000);
    o->entry_max_bytes = or_default(o->entry_max_bytes, 256u << 10);
    o->inflight_max = or_default(o->inflight_max, 8);
    o->segment_bytes = o->segment_bytes == 0 ? 16u << 20 : o->segment_bytes;
    o->snapshot_log_bytes = o->snapshot_log_bytes == 0 ? 64u << 20 : o->snapshot_log_bytes;
    o->journal_held_bytes = o->journal_held_bytes == 0 ? 256u << 20 : o->journal_held_bytes;
    o->install_timeout_ms = o->install_timeout_ms == 0 ? 20000 : o->install_timeout_ms;
    o->snapshot_rate_bytes = o->snapshot_rate_bytes == 0 ? 256u << 20 : o->snapshot_rate_bytes;
    o->min_free_bytes = o->min_free_bytes == 0 ? 64u << 20 : o->min_free_bytes;
}

static enum dn_code check_options(const struct dn_consensus_options *o, struct dn_error *err)
{
    size_t length = o->cluster_id == NULL ? 0 : strlen(o->cluster_id);
    if (o->data_dir == NULL || o->fsms == NULL || o->members == NULL) {
        return dn_fail(err, DN_INVALID, "data_dir, members and fsms are needed");
    }
    if (length == 0 || length > WIRE_CLUSTER_MAX) {
        return dn_fail(err, DN_INVALID, "cluster_id must have 1 to %d characters", WIRE_CLUSTER_MAX);
    }
    for (size_t i = 0; i < length; i++) {
        if (o->cluster_id[i] <= ' ' || o->cluster_id[i] > '~') {
            return dn_fail(err, DN_INVALID, "cluster_id may hold printable ASCII characters only, no spaces");
        }
    }
    if (o->group_count == 0 || o->group_count > DN_GROUPS_MAX) {
        return dn_fail(err, DN_INVALID, "group_count must be 1 to %d", DN_GROUPS_MAX);
    }
    if (o->member_count == 0 || o->member_count > DN_NODES_MAX) {
        return dn_fail(err, DN_INVALID, "a cluster has 1 to %d members, not %zu", DN_NODES_MAX,
                       o->member_count);
    }
    if (o->heartbeat_ms * 2 > o->election_timeout_ms) {
        return dn_fail(err, DN_INVALID, "election_timeout_ms (%u) must be at least twice heartbeat_ms (%u)",
                       o->election_timeout_ms, o->heartbeat_ms);
    }
    if (o->segment_bytes % 4096 != 0) {
        return dn_fail(err, DN_INVALID, "segment_bytes must be a multiple of 4096");
    }
    return DN_OK;
}

/* The initial members, as configured, and this node's own slot. */
static enum dn_code take_members(struct dn_consensus *c, struct dn_error *err)
{
    const struct dn_consensus_options *o = &c->o;
    const char *own = o->address;
    for (size_t i = 0; i < o->member_count; i++) {
        struct listed *m = &c->initial.of[i];
        char host[DN_ADDRESS_MAX];
        uint16_t port;
        if (o->members[i].node_id == 0 || member_list_named(&c->initial, o->members[i].node_id) != NULL) {
            return dn_fail(err, DN_INVALID, "member %zu: node ids must be unique and above 0", i);
        }
        if (o->members[i].address == NULL || strlen(o->members[i].address) >= sizeof m->address ||
            !dn_parse_address(o->members[i].address, host, &port)) {
            return dn_fail(err, DN_INVALID, "member %zu: '%s' is no host:port", i,
                           o->members[i].address == NULL ? "" : o->members[i].address);
        }
        snprintf(m->address, sizeof m->address, "%s", o->members[i].address);
        m->node_id = o->members[i].node_id;
        m->role = DN_ROLE_VOTER;
        c->initial.count++;
        if (m->node_id == o->node_id) {
            own = own == NULL ? o->members[i].address : own;
            c->expected = true;
        }
    }
    if (o->node_id == 0) {
        return dn_fail(err, DN_INVALID, "node ids are above 0");
    }
    if (own == NULL) {
        return dn_fail(err, DN_INVALID,
                       "node_id %llu is not among the members, and no address was given for it",
                       (unsigned long long)o->node_id);
    }
    char host[DN_ADDRESS_MAX];
    uint16_t port;
    if (strlen(own) >= DN_ADDRESS_MAX || !dn_parse_address(own, host, &port)) {
        return dn_fail(err, DN_INVALID, "this node's address '%s' is no host:port", own);
    }
    snprintf(c->members[0].address, sizeof c->members[0].address, "%s", own);
    c->members[0].node_id = o->node_id;
    return DN_OK;
}

static void make_metrics(struct dn_consensus *c)
{
    struct dn_metrics *m = c->o.metrics;
    if (m == NULL) {
        return;
    }
    c->m_slice = dn_metrics_histogram(m, "dunlin_apply_slice_seconds", "", "Applying in one loop turn");
    c->m_malformed = dn_metrics_counter(m, "dunlin_peer_malformed_total", "",
                                        "Messages of peers that this version does not understand");
    c->m_fault = dn_metrics_gauge(m, "dunlin_journal_fault", "", "1 while the journal cannot be written");
    c->m_chunks_in = dn_metrics_counter(m, "dunlin_snapshot_chunks_fetched_total", "",
                                        "Snapshot chunks fetched and written");
    c->m_chunks_out = dn_metrics_counter(m, "dunlin_snapshot_chunks_sent_total", "", "Snapshot chunks sent");
    c->m_chunks_bad = dn_metrics_counter(m, "dunlin_snapshot_chunks_refused_total", "",
                                         "Snapshot chunks that were damaged or could not be had");
    c->m_queue = dn_metrics_gauge(m, "dunlin_consensus_queue", "", "Calls waiting for the consensus thread");
    c->m_free = dn_metrics_gauge(m, "dunlin_data_dir_free_bytes", "", "Free bytes where the log lives");
}

static enum dn_code open_loop(struct dn_consensus *c, struct dn_error *err)
{
    int rv = uv_loop_init(&c->loop);
    if (rv != 0) {
        return dn_fail(err, DN_INTERNAL, "event loop: %s", uv_strerror(rv));
    }
    c->loop_open = true;
    c->loop.data = c;
    uv_async_init(&c->loop, &c->async, async_cb);
    uv_check_init(&c->loop, &c->check);
    uv_idle_init(&c->loop, &c->idle);
    uv_timer_init(&c->loop, &c->timer);
    c->timers_open = true;
    return DN_OK;
}

/* From here on the loop, when it runs, does its turns. */
static void loop_begin(struct dn_consensus *c)
{
    atomic_store(&c->loop_turn_us, dn_monotonic_us());
    uv_check_start(&c->check, check_cb);
    uv_timer_start(&c->timer, timer_cb, HOUSEKEEP_MS, HOUSEKEEP_MS);
}

static void on_fault(void *data, bool fault, const struct dn_error *why)
{
    struct dn_consensus *c = data;
    c->disk_fault = fault;
    if (fault) {
        dn_err(COMPONENT, "the journal cannot be written, this node takes no part until it can: %s",
               why->message);
    } else {
        dn_info(COMPONENT, "the journal in '%s' is written again", c->journal_dir);
    }
    if (c->m_fault != NULL) {
        dn_gauge_set(c->m_fault, fault);
    }
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        raft_io_fault(&c->groups[i], fault);
    }
    consensus_kick(c);
}

static enum dn_code open_journal(struct dn_consensus *c, struct dn_error *err)
{
    struct dn_journal_options options = {.name = c->journal_dir,
                                         .loop = &c->loop,
                                         .segment_bytes = c->o.segment_bytes,
                                         .metrics = c->o.metrics,
                                         .on_fault = on_fault,
                                         .data = c};
    enum dn_code code = dn_disk_open(c->journal_dir, &c->loop, c->o.journal_disk, &c->disk, err);
    if (code != DN_OK) {
        return code;
    }
    options.disk = c->disk;
    return dn_journal_open(&options, &c->journal, err);
}

static enum dn_code start_groups(struct dn_consensus *c, struct dn_error *err)
{
    enum dn_code code = DN_OK;
    for (uint32_t i = 0; code == DN_OK && i < c->o.group_count; i++) {
        code = group_open(&c->groups[i], false, err);
    }
    for (uint32_t i = 0; code == DN_OK && i < c->o.group_count; i++) {
        code = group_start(&c->groups[i], err);
    }
    if (code == DN_OK) {
        dn_journal_forget(c->journal);
        c->forming = FORMED;
    }
    return code;
}

static enum dn_code open_groups(struct dn_consensus *c, struct dn_error *err)
{
    bool ready = false;
    c->identity = (struct identity){.cluster_id = c->cluster_id,
                                    .node_id = c->o.node_id,
                                    .address = c->members[0].address,
                                    .group_count = c->o.group_count};
    enum dn_code code = identity_open(c->data_dir, &c->identity, &ready, err);
    if (code == DN_OK && ready && c->o.bootstrap_alone) {
        code =
            dn_fail(err, DN_PRECONDITION,
                    "this node cannot form a cluster of its own: '%s' is part of one already", c->data_dir);
    }
    c->raft_id = c->members[0].raft_id = c->identity.raft_id;
    if (code == DN_OK) { /* after the identity: a node with another's identity is told so, not that its port
                            is taken */
        code = link_open(c, err);
    }
    if (code == DN_OK) {
        code = open_journal(c, err);
    }
    if (code == DN_OK) {
        code = ready ? start_groups(c, err) : forming_begin(c, err);
    }
    if (code == DN_OK) {
        members_turn(c, dn_monotonic_us());
        members_housekeep(c, dn_monotonic_us());
    }
    return code;
}

enum dn_code dn_consensus_start(const struct dn_consensus_options *options, struct dn_consensus **ret,
                                struct dn_error *err)
{
    struct dn_consensus_options o = *options;
    struct dn_consensus *c;
    enum dn_code code;
    set_defaults(&o);
    code = check_options(&o, err);
    if (code != DN_OK) {
        return code;
    }
    c = calloc(1, sizeof *c);
    if (c == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "start consensus");
    }
    c->o = o;
    c->lock_fd = -1;
    c->data_dir = strdup(o.data_dir);
    c->cluster_id = strdup(o.cluster_id);
    c->bind_address = o.bind_address == NULL ? NULL : strdup(o.bind_address);
    c->key_file = o.key_file == NULL ? NULL : strdup(o.key_file);
    c->previous_key_file = o.previous_key_file == NULL ? NULL : strdup(o.previous_key_file);
    c->groups = calloc(o.group_count, sizeof *c->groups);
    c->proposals = dn_queue_create(API_QUEUE_MAX);
    c->waits = dn_queue_create(API_QUEUE_MAX);
    c->change_queue = dn_queue_create(CHANGE_QUEUE_MAX);
    uv_mutex_init(&c->view_lock);
    if (c->data_dir == NULL || c->cluster_id == NULL || c->groups == NULL || c->proposals == NULL ||
        c->waits == NULL || c->change_queue == NULL ||
        getrandom(&c->nonce, sizeof c->nonce, 0) != sizeof c->nonce) {
        code = dn_fail(err, DN_NO_MEMORY, "start consensus");
        goto fail;
    }
    /* No life numbers its requests as one before: an answer to that one may still arrive. */
    c->next_request = c->nonce;
    code = take_members(c, err);
    if (code != DN_OK) {
        goto fail;
    }
    make_metrics(c);
    for (uint32_t i = 0; i < o.group_count; i++) {
        c->groups[i].c = c;
        c->groups[i].id = i;
        c->groups[i].fsm = o.fsms[i];
    }
    c->o.data_dir = c->data_dir;
    c->o.cluster_id = c->cluster_id;
    c->o.members = NULL; /* the caller's; copied */
    c->o.fsms = NULL;
    c->o.bind_address = c->bind_address;
    c->o.key_file = c->key_file;
    c->o.previous_key_file = c->previous_key_file;
    c->o.journal_disk = o.journal_disk == NULL                ? NULL
                        : strcmp(o.journal_disk, "pool") == 0 ? "pool"
                                                              : "io_uring";
    if (snprintf(c->journal_dir, sizeof c->journal_dir, "%s/journal", c->data_dir) >=
        (int)sizeof c->journal_dir) {
        code = dn_fail(err, DN_INVALID, "data directory path is too long");
        goto fail;
    }
    code = identity_lock(c->data_dir, &c->lock_fd, err);
    if (code == DN_OK) {
        code = open_loop(c, err);
    }
    if (code == DN_OK) {
        code = open_groups(c, err);
    }
    if (code != DN_OK) {
        goto fail;
    }
    loop_begin(c);
    if (uv_thread_create(&c->thread, thread_main, c) != 0) {
        code = dn_fail(err, DN_NO_MEMORY, "start the consensus thread");
        goto fail;
    }
    c->thread_running = true;
    *ret = c;
    return DN_OK;

fail:
    if (c->loop_open) { /* what was opened closes on this thread */
        atomic_store(&c->closed, true);
        atomic_store(&c->stop_asked, true);
        loop_begin(c);
        uv_async_send(&c->async);
        uv_run(&c->loop, UV_RUN_DEFAULT);
    }
    dn_consensus_destroy(c);
    return code;
}

void dn_consensus_stop(struct dn_consensus *c, unsigned transfer_ms)
{
    if (!c->thread_running) {
        return;
    }
    atomic_store(&c->closed, true);
    atomic_store(&c->stop_transfer_ms, transfer_ms);
    atomic_store(&c->stop_asked, true);
    uv_async_send(&c->async);
    uv_thread_join(&c->thread);
    c->thread_running = false;
}

void dn_consensus_destroy(struct dn_consensus *c)
{
    if (c == NULL) {
        return;
    }
    DN_ASSERT(!c->thread_running);
    link_free(c);
    serve_forget(c);
    for (uint32_t i = 0; c->groups != NULL && i < c->o.group_count; i++) {
        group_free(&c->groups[i]);
    }
    if (c->loop_open) {
        int rv = uv_loop_close(&c->loop);
        DN_ASSERT(rv == 0);
    }
    if (c->lock_fd >= 0) {
        close(c->lock_fd);
    }
    dn_queue_destroy(c->proposals);
    dn_queue_destroy(c->waits);
    dn_queue_destroy(c->change_queue);
    uv_mutex_destroy(&c->view_lock);
    free(c->groups);
    free(c->bind_address);
    free(c->key_file);
    free(c->previous_key_file);
    free(c->cluster_id);
    free(c->data_dir);
    free(c);
}

/* ---- doors for other threads ------------------------------------------------------------------------ */

static bool push(struct dn_consensus *c, struct dn_queue *queue, void *item)
{
    bool pushed = false;
    atomic_fetch_add(&c->callers, 1);
    if (!atomic_load(&c->closed)) {
        pushed = dn_queue_push(queue, item);
        if (pushed) {
            uv_async_send(&c->async);
        }
    }
    atomic_fetch_sub(&c->callers, 1);
    return pushed;
}

bool dn_consensus_propose(struct dn_consensus *c, struct dn_proposal *proposal)
{
    DN_ASSERT(proposal->group < c->o.group_count && proposal->done != NULL);
    return push(c, c->proposals, proposal);
}

bool dn_consensus_wait(struct dn_consensus *c, struct dn_wait *wait)
{
    DN_ASSERT(wait->group < c->o.group_count && wait->done != NULL);
    return push(c, c->waits, wait);
}

bool dn_consensus_member_change(struct dn_consensus *c, struct dn_member_change *change)
{
    DN_ASSERT(change->done != NULL && change->node_id != 0);
    return push(c, c->change_queue, change);
}

uint64_t dn_consensus_loop_age_us(const struct dn_consensus *c)
{
    uint64_t turned = atomic_load_explicit(&c->loop_turn_us, memory_order_relaxed);
    uint64_t now = dn_monotonic_us();
    return now > turned ? now - turned : 0;
}
