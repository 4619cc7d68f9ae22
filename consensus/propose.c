/* Propose: from a call to an entry in the log, here or at the leader.
 *
 * State machine of a proposal (transitions in the named functions):
 *
 *   accepted -propose_accept-> pending -pack-> in a batch (raft_apply) -propose_applied-> done DN_OK
 *                                 |  ^             | batch_failed: leadership lost
 *                                 |  +-------------+
 *                                 | forward                    answer OK
 *                                 +---------> forwarded ------------------> answered -propose_moved-> done
 *                                    ^             | answer NOT_LEADER, link lost, new leader
 *                                    +-------------+ (back to pending)
 *
 * From every state the deadline (propose_expire) or the end of the node (propose_fail_all) leads to done.
 * Whoever proposes makes records idempotent, so a retry after an unknown outcome is harmless. */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

/* ---- lists ------------------------------------------------------------------------------------------ */

void proposals_push(struct proposals *list, struct dn_proposal *p)
{
    struct proposal_link *link = plink(p);
    link->next = NULL;
    link->prev = list->last;
    if (list->last == NULL) {
        list->first = p;
    } else {
        plink(list->last)->next = p;
    }
    list->last = p;
    if (list->count++ == 0 || p->deadline_us < list->due_us) {
        list->due_us = p->deadline_us;
    }
    list->bytes += p->length;
}

void proposals_push_front(struct proposals *list, struct dn_proposal *p)
{
    struct proposal_link *link = plink(p);
    link->prev = NULL;
    link->next = list->first;
    if (list->first == NULL) {
        list->last = p;
    } else {
        plink(list->first)->prev = p;
    }
    list->first = p;
    if (list->count++ == 0 || p->deadline_us < list->due_us) {
        list->due_us = p->deadline_us;
    }
    list->bytes += p->length;
}

void proposals_remove(struct proposals *list, struct dn_proposal *p)
{
    struct proposal_link *link = plink(p);
    if (link->prev == NULL) {
        list->first = link->next;
    } else {
        plink(link->prev)->next = link->next;
    }
    if (link->next == NULL) {
        list->last = link->prev;
    } else {
        plink(link->next)->prev = link->prev;
    }
    link->next = link->prev = NULL;
    list->count--;
    list->bytes -= p->length;
}

/* ---- the end of a proposal -------------------------------------------------------------------------- */

void propose_finish(struct group *g, struct dn_proposal *p, enum dn_code code, uint64_t index,
                    const uint8_t *result, size_t length, const struct dn_error *err)
{
    uint8_t *own = plink(p)->result;
    if (code == DN_OK && g->m_commit != NULL && !plink(p)->remote) {
        dn_histogram_observe_ns(g->m_commit, dn_monotonic_ns() - plink(p)->start_ns);
    }
    p->done(p, code, index, result, length, err);
    free(own);
}

static void refuse(struct group *g, struct dn_proposal *p, enum dn_code code, const char *why)
{
    struct dn_error err;
    dn_fail(&err, code, "%s", why);
    if (g->m_refused != NULL) {
        dn_counter_add(g->m_refused, 1);
    }
    propose_finish(g, p, code, 0, NULL, 0, &err);
}

void propose_accept(struct dn_consensus *c, struct dn_proposal *p, bool remote)
{
    struct group *g = &c->groups[p->group];
    memset(p->opaque, 0, sizeof p->opaque);
    plink(p)->start_ns = dn_monotonic_ns();
    plink(p)->remote = remote;
    if (p->length == 0 || p->length > DN_RECORD_MAX) {
        refuse(g, p, DN_INVALID, "a record has 1 byte to 4 MiB");
    } else if (atomic_load_explicit(&c->no_space, memory_order_relaxed)) {
        refuse(g, p, DN_NO_SPACE,
               "the disk of this node is nearly full (min_free_bytes): free space or try another node");
    } else if (g->pending.count >= PENDING_MAX || g->pending.bytes + p->length > PENDING_BYTES_MAX) {
        refuse(g, p, DN_EXHAUSTED, "too many proposals wait for this group: slow down and try again");
    } else {
        proposals_push(&g->pending, p);
    }
}

/* ---- packing and raft_apply ------------------------------------------------------------------------- */

static void batch_link(struct group *g, struct batch *b)
{
    b->prev = g->batches_last;
    b->next = NULL;
    if (g->batches_last == NULL) {
        g->batches = b;
    } else {
        g->batches_last->next = b;
    }
    g->batches_last = b;
    g->inflight++;
}

static void batch_unlink(struct group *g, struct batch *b)
{
    if (b->prev == NULL) {
        g->batches = b->next;
    } else {
        b->prev->next = b->next;
    }
    if (b->next == NULL) {
        g->batches_last = b->prev;
    } else {
        b->next->prev = b->prev;
    }
    g->inflight--;
    free(b);
}

struct batch *propose_batch_of(struct group *g, uint64_t sequence)
{
    for (struct batch *b = g->batches; b != NULL; b = b->next) {
        if (b->sequence == sequence && !b->applied) {
            return b;
        }
    }
    return NULL;
}

/* It was in a log, or on its way into one, and may still come out of it. */
static void try_again(struct group *g, struct dn_proposal *p)
{
    plink(p)->unsure = true;
    proposals_push_front(&g->pending, p);
}

/* Not committed as far as is known: its proposals start again, in their order, before newer ones. */
static void batch_failed(struct group *g, struct batch *b)
{
    for (uint32_t i = b->count; i-- > 0;) {
        if (b->items[i] != NULL) {
            plink(b->items[i])->batch = NULL;
            try_again(g, b->items[i]);
        }
    }
    batch_unlink(g, b);
}

static void apply_cb(struct raft_apply *req, int status, void *result)
{
    struct batch *b = container_of(req, struct batch, req);
    struct group *g = b->group;
    (void)result;
    b->raft_done = true;
    if (b->applied) {
        batch_unlink(g, b);
    } else if (status != 0) {
        batch_failed(g, b);
    }
    consensus_kick(g->c);
}

/* A leader's snapshot took the place of what waited to be applied: batches that were committed and waited
 * there will not come by again. Their outcome is in the state, but nobody saw the results: asked for once
 * more. */
void propose_restored(struct group *g)
{
    for (struct batch *b = g->batches_last, *prev; b != NULL; b = prev) {
        prev = b->prev;
        if (b->raft_done && !b->applied) {
            batch_failed(g, b);
        }
    }
}

static uint32_t choose(struct group *g, size_t *ret_bytes)
{
    size_t bytes = 0;
    uint32_t count = 0;
    for (struct dn_proposal *p = g->pending.first; p != NULL; p = plink(p)->next) {
        if (count == ENTRY_RECORDS_MAX || (count > 0 && bytes + p->length + 4 > g->c->o.entry_max_bytes)) {
            break;
        }
        bytes += p->length;
        count++;
        if (bytes + (size_t)count * 4 >= g->c->o.entry_max_bytes) {
            break;
        }
    }
    *ret_bytes = bytes;
    return count;
}

static bool encode_batch(struct group *g, struct batch *b, size_t record_bytes, struct raft_buffer *ret)
{
    struct entry_mark marks[DN_MEMBERS_MAX];
    struct entry_head head = {.time_ms = dn_wall_ms(),
                              .nonce = g->c->nonce,
                              .sequence = b->sequence,
                              .count = b->count,
                              .has_tick = g->tick_now,
                              .marks = marks};
    struct entry_record *records = malloc((b->count + 1) * sizeof *records);
    if (g->tick_now) {
        head.mark_count = age_marks(g, marks);
    }
    ret->len = entry_size(&head, record_bytes);
    ret->base = raft_malloc(ret->len);
    if (records == NULL || ret->base == NULL) {
        free(records);
        raft_free(ret->base);
        return false;
    }
    for (uint32_t i = 0; i < b->count; i++) {
        records[i] = (struct entry_record){b->items[i]->record, b->items[i]->length};
        uint8_t level = g->fsm.level != NULL ? g->fsm.level(records[i].bytes, records[i].length) : 1;
        head.level = level > head.level ? level : head.level;
    }
    entry_encode(&head, records, ret->base);
    free(records);
    return true;
}

/* Packs what is due into one entry and gives it to libraft. False: nothing was submitted. */
static bool submit(struct group *g)
{
    size_t bytes;
    uint32_t count = choose(g, &bytes);
    struct batch *b = calloc(1, sizeof *b + count * sizeof b->items[0]);
    struct raft_buffer buffer;
    int rv;
    if (b == NULL) {
        return false;
    }
    b->group = g;
    b->sequence = ++g->c->sequence;
    b->count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct dn_proposal *p = g->pending.first;
        proposals_remove(&g->pending, p);
        plink(p)->batch = b;
        plink(p)->ordinal = i;
        b->items[i] = p;
    }
    batch_link(g, b);
    if (!encode_batch(g, b, bytes, &buffer)) {
        batch_failed(g, b);
        return false;
    }
    rv = raft_apply(&g->raft, &b->req, &buffer, 1, apply_cb);
    if (rv != 0) { /* refused before it was taken: io_shim.c lets nothing fail later */
        raft_free(buffer.base);
        batch_failed(g, b);
        return false;
    }
    g->quiet_ticks = count > 0 ? 0 : g->quiet_ticks + 1;
    if (g->tick_now) {
        g->tick_now = false;
        /* all groups tick at the same moments, so that an idle node writes its journal once for all of them
         */
        uint64_t period_us =
            (uint64_t)g->c->o.tick_ms * (g->quiet_ticks < QUIET_TICKS ? 1 : QUIET_FACTOR) * 1000;
        g->tick_at_us = (dn_monotonic_us() / period_us + 1) * period_us;
    }
    return true;
}

void propose_applied(struct group *g, struct batch *b, uint64_t index, const size_t *ends)
{
    size_t start = 0;
    b->applied = true;
    for (uint32_t i = 0; i < b->count; i++) {
        size_t end = ends == NULL ? start : ends[i];
        struct dn_proposal *p = b->items[i];
        if (p != NULL) {
            b->items[i] = NULL;
            plink(p)->batch = NULL;
            propose_finish(g, p, DN_OK, index, end > start ? g->results.bytes + start : NULL, end - start,
                           NULL);
        }
        start = end;
    }
    if (b->raft_done) {
        batch_unlink(g, b);
    }
}

/* ---- at a follower: the leader does it -------------------------------------------------------------- */

static void forward(struct group *g, uint64_t leader_id, uint64_t now)
{
    while (g->pending.first != NULL && g->forwarded.count < FORWARD_MAX &&
           g->forwarded.bytes < FORWARD_BYTES_MAX) {
        struct dn_proposal *p = g->pending.first;
        struct wire_frame frame = {
            .type = WIRE_PROPOSE, .group = g->id, .bytes = p->record, .length = p->length};
        uint64_t left_ms = p->deadline_us > now ? (p->deadline_us - now) / 1000 : 0;
        frame.left_ms = left_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)left_ms;
        frame.request = ++g->c->next_request;
        if (!link_send(g->c, leader_id, &frame)) {
            return;
        }
        proposals_remove(&g->pending, p);
        plink(p)->request = frame.request;
        proposals_push(&g->forwarded, p);
    }
}

/* Forwarded proposals are this node's own: those of others are answered that this node does not lead. */
static void return_remote(struct group *g)
{
    for (struct dn_proposal *p = g->pending.first, *next; p != NULL; p = next) {
        next = plink(p)->next;
        if (plink(p)->remote) {
            proposals_remove(&g->pending, p);
            refuse(g, p, DN_NOT_LEADER, "this node does not lead the group");
        }
    }
}

static bool holds_journal(struct group *g, uint64_t now_us)
{
    g->tick_looked_us = now_us;
    return dn_journal_held(g->c->journal, g->id) > g->c->o.journal_held_bytes / 2;
}

void propose_turn(struct group *g)
{
    uint64_t now = dn_monotonic_us();
    struct dn_consensus *c = g->c;
    if (group_can_submit(g)) {
        bool low = c->ticks_stopped;
        /* The first records after a quiet time carry a tick. And entries must come for what a quiet group
         * keeps of its log to become new, or it would hold back the journal. */
        if (g->quiet_ticks >= QUIET_TICKS &&
            (g->pending.first != NULL ||
             (now >= g->tick_looked_us + (uint64_t)c->o.tick_ms * 1000 && holds_journal(g, now)))) {
            g->tick_at_us = 0;
        }
        if (now >= g->tick_at_us && g->ready && !low) {
            g->tick_now = true;
        }
        while (g->inflight < c->o.inflight_max && (g->pending.first != NULL || g->tick_now)) {
            if (!submit(g)) {
                break;
            }
        }
        return;
    }
    if (g->leader || g->pending.first == NULL) {
        return; /* leadership is being handed over: wait */
    }
    return_remote(g);
    if (g->leader_id != 0 && now >= g->retry_at_us && link_up(c, g->leader_id)) {
        forward(g, g->leader_id, now);
    }
}

void propose_unforward(struct group *g)
{
    while (g->forwarded.last != NULL) {
        struct dn_proposal *p = g->forwarded.last;
        proposals_remove(&g->forwarded, p);
        try_again(g, p);
    }
}

static struct dn_proposal *find_request(struct dn_consensus *c, uint64_t request, struct group **ret_group)
{
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        for (struct dn_proposal *p = c->groups[i].forwarded.first; p != NULL; p = plink(p)->next) {
            if (plink(p)->request == request) {
                *ret_group = &c->groups[i];
                return p;
            }
        }
    }
    return NULL;
}

void propose_answer(struct dn_consensus *c, const struct wire_frame *frame)
{
    struct group *g = NULL;
    struct dn_proposal *p = find_request(c, frame->request, &g);
    struct dn_error err;
    if (p == NULL) {
        return; /* it ended before: deadline, or a change of leader */
    }
    proposals_remove(&g->forwarded, p);
    if (frame->code == DN_OK) {
        plink(p)->request = frame->index;
        plink(p)->result = malloc(frame->length + 1);
        if (plink(p)->result != NULL && frame->length > 0) {
            memcpy(plink(p)->result, frame->bytes, frame->length);
            plink(p)->result_length = (uint32_t)frame->length;
        }
        proposals_push(&g->answered, p);
        propose_moved(g);
        return;
    }
    if (frame->code == DN_NOT_LEADER || frame->code == DN_UNAVAILABLE) {
        g->retry_at_us = dn_monotonic_us() + RETRY_AFTER_US;
        try_again(g, p);
        return;
    }
    bool refused = frame->code == DN_EXHAUSTED || frame->code == DN_NO_SPACE;
    enum dn_code code = refused && plink(p)->unsure ? DN_UNAVAILABLE : (enum dn_code)frame->code;
    dn_fail(&err, code, "leader (node %llu): %.*s%s", (unsigned long long)g->leader_id,
            (int)frame->message_length, frame->message == NULL ? "" : frame->message,
            code == frame->code ? "" : "; an earlier try may have succeeded");
    propose_finish(g, p, code, frame->index, NULL, 0, &err);
}

void propose_moved(struct group *g)
{
    uint64_t applied = atomic_load_explicit(&g->applied, memory_order_relaxed);
    for (struct dn_proposal *p = g->answered.first, *next; p != NULL; p = next) {
        next = plink(p)->next;
        if (plink(p)->request <= applied) {
            proposals_remove(&g->answered, p);
            propose_finish(g, p, DN_OK, plink(p)->request, plink(p)->result, plink(p)->result_length, NULL);
        }
    }
}

/* ---- deadlines and the end -------------------------------------------------------------------------- */

static void expire_list(struct group *g, struct proposals *list, uint64_t now, const char *where)
{
    struct dn_error err;
    uint64_t due = UINT64_MAX;
    if (list->count == 0 || now < list->due_us) {
        return;
    }
    for (struct dn_proposal *p = list->first, *next; p != NULL; p = next) {
        next = plink(p)->next;
        if (p->deadline_us <= now) {
            proposals_remove(list, p);
            dn_fail(&err, DN_DEADLINE, "group %u: not committed by the deadline (%s)", g->id, where);
            propose_finish(g, p, DN_DEADLINE, 0, NULL, 0, &err);
        } else if (p->deadline_us < due) {
            due = p->deadline_us;
        }
    }
    list->due_us = due;
}

static void expire_batches(struct group *g, uint64_t now, bool all, enum dn_code code, const char *why)
{
    struct dn_error err;
    for (struct batch *b = g->batches; b != NULL; b = b->next) {
        for (uint32_t i = 0; i < b->count; i++) {
            struct dn_proposal *p = b->items[i];
            if (p != NULL && (all || p->deadline_us <= now)) {
                b->items[i] = NULL;
                plink(p)->batch = NULL;
                dn_fail(&err, code, "%s", why);
                propose_finish(g, p, code, 0, NULL, 0, &err);
            }
        }
    }
}

void propose_expire(struct group *g, uint64_t now)
{
    const char *lost = g->leader_id == 0 ? "no leader is known" : "waiting for its turn";
    expire_list(g, &g->pending, now, lost);
    expire_list(g, &g->forwarded, now, "the leader did not answer");
    expire_list(g, &g->answered, now, "committed, not yet applied here");
    expire_batches(g, now, false, DN_DEADLINE, "not committed by the deadline (no majority answered)");
    if (g->m_pending != NULL) {
        dn_gauge_set(g->m_pending, (double)(g->pending.count + g->forwarded.count));
    }
}

static void fail_list(struct group *g, struct proposals *list, enum dn_code code, const char *why)
{
    while (list->first != NULL) {
        struct dn_proposal *p = list->first;
        proposals_remove(list, p);
        refuse(g, p, code, why);
    }
}

void propose_fail_all(struct group *g, enum dn_code code, const char *why)
{
    fail_list(g, &g->pending, code, why);
    fail_list(g, &g->forwarded, code, why);
    fail_list(g, &g->answered, code, why);
    expire_batches(g, 0, true, code, why);
}
