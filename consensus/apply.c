/* Apply: committed entries wait here and are applied a few milliseconds at a time.
 *
 * libraft hands over everything that was newly committed in one go; after a restart that is the whole log. It
 * only gets queued (a copy: libraft may drop its own once a snapshot is taken), and apply_turn() works the
 * queues off within the loop turn's budget: group after group has a share of it, in steps of one record or,
 * where the state machine has parts, of one part of it, and a look at the clock after each. What is left
 * of an entry waits for the next share (struct applying).
 *
 * Order for one entry: records, entry_done, group time and hash, applied index (release), then completions.
 *
 * An entry that is not understood stops the node: skipping it would make its state differ from the others'.
 */
#include "consensus/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mutant.h"

#include <stdlib.h>
#include <string.h>

#define MUTANT_APPLY_LATE_US 300000u

int apply_enqueue(struct group *g, const struct raft_buffer *buf)
{
    struct queued_entry *entry = malloc(sizeof *entry + buf->len);
    if (entry == NULL) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u: out of memory while queueing an entry of %zu bytes", g->id,
                        buf->len);
        return RAFT_NOMEM;
    }
    entry->next = NULL;
    entry->index = raft_last_applied(&g->raft) + 1;
    entry->length = buf->len;
    entry->queued_us = dn_mutant(DN_MUTANT_APPLY_LATE) ? dn_monotonic_us() : 0;
    memcpy(entry->bytes, buf->base, buf->len);
    if (g->queue_last == NULL) {
        g->queue_first = entry;
    } else {
        g->queue_last->next = entry;
    }
    g->queue_last = entry;
    g->queued_index = entry->index;
    g->log_bytes += buf->len;
    g->log_entries++;
    return 0;
}

static struct queued_entry *dequeue(struct group *g)
{
    struct queued_entry *entry = g->queue_first;
    g->queue_first = entry->next;
    if (g->queue_first == NULL) {
        g->queue_last = NULL;
    }
    return entry;
}

void apply_drop(struct group *g)
{
    while (g->queue_first != NULL) {
        free(dequeue(g));
    }
    free(g->applying.ends);
    g->applying = (struct applying){0};
}

void apply_publish(struct group *g, uint64_t index)
{
    uint64_t before = atomic_load_explicit(&g->applied, memory_order_relaxed);
    DN_ASSERT(index > before || dn_mutant(DN_MUTANT_APPLY_LATE));
    age_record_hash(g, index > before ? before : index - 1, index, g->fsm.hash(g->fsm.state));
    atomic_store_explicit(&g->applied, index, memory_order_release);
    g->c->moved = true;
}

/* ---- one entry, a step at a time ---------------------------------------------------------------------- */

/* The batch of ours that the entry is; NULL: it is another's, or its proposals were given up. It is looked
 * for anew in each step: between two of them it may go. */
static struct batch *batch_of(struct group *g)
{
    const struct entry_head *head = &g->applying.view.head;
    return head->nonce == g->c->nonce ? propose_batch_of(g, head->sequence) : NULL;
}

static bool entry_begin(struct group *g)
{
    struct applying *a = &g->applying;
    const struct queued_entry *entry = g->queue_first;
    struct dn_error err;
    *a = (struct applying){0};
    enum dn_code code = entry_decode((const uint8_t *)entry->bytes, entry->length, &a->view, &err);
    if (code != DN_OK) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u: entry %llu cannot be applied: %s", g->id,
                        (unsigned long long)entry->index, err.message);
        return false;
    }
    const struct batch *batch = batch_of(g);
    if (batch != NULL && a->view.head.count > 0) {
        DN_ASSERT(batch->count == a->view.head.count);
        a->ends = malloc(a->view.head.count * sizeof *a->ends);
    }
    dn_buffer_clear(&g->results);
    if (a->view.head.time_ms > g->time_ms) {
        g->time_ms = a->view.head.time_ms;
    }
    a->at = (struct dn_apply){.index = entry->index, .ordinal = 0, .time_ms = g->time_ms};
    a->begun = true;
    return true;
}

/* The answer is kept where somebody waits for it. */
static void record_done(struct group *g)
{
    struct applying *a = &g->applying;
    const struct batch *batch = a->ends == NULL ? NULL : batch_of(g);
    if (batch != NULL && batch->items[a->at.ordinal] != NULL && !g->result.failed) {
        dn_buffer_append(&g->results, g->result.bytes, g->result.length);
    }
    if (a->ends != NULL) {
        a->ends[a->at.ordinal] = g->results.length;
    }
    a->record_begun = false;
    a->at.ordinal++;
}

static void record_step(struct group *g)
{
    struct applying *a = &g->applying;
    bool done = true;
    if (!a->record_begun) {
        a->record = entry_next(&a->view, &a->offset);
        a->record_begun = true;
        dn_buffer_clear(&g->result);
    }
    if (g->fsm.apply_part != NULL) {
        done = g->fsm.apply_part(g->fsm.state, &a->at, a->record.bytes, a->record.length, &g->result);
    } else {
        g->fsm.apply(g->fsm.state, &a->at, a->record.bytes, a->record.length, &g->result);
    }
    if (done) {
        record_done(g);
    }
}

static void entry_end(struct group *g)
{
    struct applying *a = &g->applying;
    a->at.ordinal = 0;
    g->fsm.entry_done(g->fsm.state, &a->at);
    apply_publish(g, a->at.index);
    if (a->view.head.has_tick) {
        age_applied(g, &a->view);
    }
    if (g->m_entries != NULL) {
        dn_counter_add(g->m_entries, 1);
    }
    struct batch *batch = batch_of(g);
    if (batch != NULL) {
        propose_applied(g, batch, a->at.index, a->ends);
    }
    free(a->ends);
    *a = (struct applying){0};
    free(dequeue(g));
}

/* One record, or a part of it; with the last one the entry's end. */
static void step(struct group *g)
{
    struct applying *a = &g->applying;
    if (!a->begun && !entry_begin(g)) {
        return;
    }
    if (a->at.ordinal < a->view.head.count) {
        record_step(g);
    }
    if (a->at.ordinal == a->view.head.count) {
        entry_end(g);
    }
}

/* ---- all groups --------------------------------------------------------------------------------------- */

void apply_catch_up(struct group *g)
{
    uint64_t last = raft_last_applied(&g->raft);
    if (g->queue_first == NULL && !g->fenced &&
        last > atomic_load_explicit(&g->applied, memory_order_relaxed)) {
        apply_publish(g, last); /* barriers and configuration changes: not our records */
    }
}

/* DN_MUTANT_APPLY_LATE: readers are told of the index now; the entry itself is applied later. */
static bool mutant_waits(struct group *g)
{
    if (!dn_mutant(DN_MUTANT_APPLY_LATE)) {
        return false;
    }
    if (g->queued_index > atomic_load_explicit(&g->applied, memory_order_relaxed)) {
        atomic_store_explicit(&g->applied, g->queued_index, memory_order_release);
        g->c->moved = true;
        wait_moved(g);
    }
    return dn_monotonic_us() < g->queue_first->queued_us + MUTANT_APPLY_LATE_US;
}

static bool has_work(struct group *g)
{
    return g->queue_first != NULL && !g->fenced && !mutant_waits(g);
}

/* Steps of one group until that time, which are none when it is over. *now_us: the last look at the clock. */
static bool apply_share(struct group *g, uint64_t *now_us, uint64_t until_us)
{
    uint64_t before = atomic_load_explicit(&g->applied, memory_order_relaxed);
    bool worked = false;
    while (*now_us < until_us && has_work(g)) {
        step(g);
        worked = true;
        *now_us = dn_monotonic_us();
    }
    apply_catch_up(g);
    if (atomic_load_explicit(&g->applied, memory_order_relaxed) != before) {
        age_moved(g);
        propose_moved(g);
        wait_moved(g);
        *now_us = dn_monotonic_us();
    }
    return worked;
}

/* Every group once, each for as long as its share or what is left of the turn lasts. */
static bool apply_round(struct dn_consensus *c, uint64_t *now_us, uint64_t until_us)
{
    uint32_t first = c->apply_from;
    bool worked = false;
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        uint32_t id = (first + i) % c->o.group_count;
        uint64_t share_us = *now_us + APPLY_SHARE_US;
        if (!c->groups[id].started) {
            continue;
        }
        if (apply_share(&c->groups[id], now_us, share_us < until_us ? share_us : until_us)) {
            worked = true;
            c->apply_from = (id + 1) % c->o.group_count;
        }
    }
    return worked;
}

bool apply_turn(struct dn_consensus *c)
{
    uint64_t start_us = dn_monotonic_us(), now_us = start_us, until_us = start_us + APPLY_SLICE_US;
    bool worked = false, left = false;
    DN_ASSERT(c->o.group_count > 0);
    while (apply_round(c, &now_us, until_us)) {
        worked = true;
    }
    for (uint32_t i = 0; i < c->o.group_count; i++) {
        left |= c->groups[i].started && has_work(&c->groups[i]);
    }
    if (worked && c->m_slice != NULL) {
        dn_histogram_observe_ns(c->m_slice, (now_us - start_us) * 1000);
    }
    return left;
}

void apply_reset(struct group *g, uint64_t index, int64_t time_ms)
{
    apply_drop(g);
    g->queued_index = index;
    g->time_ms = time_ms;
    g->log_bytes = 0;
    g->log_entries = 0;
    age_reset(g, index, g->fsm.hash(g->fsm.state));
    atomic_store_explicit(&g->applied, index, memory_order_release);
    g->c->moved = true;
}
