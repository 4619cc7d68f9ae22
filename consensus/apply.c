/* Apply: committed entries wait here and are applied a few milliseconds at a time.
 *
 * libraft hands over everything that was newly committed in one go; after a restart that is the whole log. It
 * only gets queued (a copy: libraft may drop its own once a snapshot is taken), and apply_slice() works the
 * queue off within the loop turn's budget. Order for one entry: records, entry_done, group time and hash,
 * applied index (release), then completions.
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
    g->queue_count++;
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
    g->queue_count--;
    return entry;
}

void apply_drop(struct group *g)
{
    while (g->queue_first != NULL) {
        free(dequeue(g));
    }
}

void apply_publish(struct group *g, uint64_t index)
{
    uint64_t before = atomic_load_explicit(&g->applied, memory_order_relaxed);
    DN_ASSERT(index > before || dn_mutant(DN_MUTANT_APPLY_LATE));
    age_record_hash(g, index > before ? before : index - 1, index, g->fsm.hash(g->fsm.state));
    atomic_store_explicit(&g->applied, index, memory_order_release);
    g->c->moved = true;
}

/* Records of an entry that this node proposed: their results are kept until the entry is done. */
static void apply_own(struct group *g, const struct entry_view *view, struct dn_apply *at,
                      struct batch *batch, size_t *ends)
{
    size_t offset = 0;
    dn_buffer_clear(&g->results);
    for (uint32_t i = 0; i < view->head.count; i++) {
        struct entry_record record = entry_next(view, &offset);
        dn_buffer_clear(&g->result);
        at->ordinal = i;
        g->fsm.apply(g->fsm.state, at, record.bytes, record.length, &g->result);
        if (batch->items[i] != NULL && !g->result.failed) {
            dn_buffer_append(&g->results, g->result.bytes, g->result.length);
        }
        ends[i] = g->results.length;
    }
}

static void apply_foreign(struct group *g, const struct entry_view *view, struct dn_apply *at)
{
    size_t offset = 0;
    for (uint32_t i = 0; i < view->head.count; i++) {
        struct entry_record record = entry_next(view, &offset);
        dn_buffer_clear(&g->result);
        at->ordinal = i;
        g->fsm.apply(g->fsm.state, at, record.bytes, record.length, &g->result);
    }
}

static void apply_entry(struct group *g, const struct queued_entry *entry)
{
    struct entry_view view;
    struct dn_error err;
    enum dn_code code = entry_decode((const uint8_t *)entry->bytes, entry->length, &view, &err);
    if (code != DN_OK) {
        g->fenced = true;
        consensus_fatal(g->c, "group %u: entry %llu cannot be applied: %s", g->id,
                        (unsigned long long)entry->index, err.message);
        return;
    }
    struct batch *batch = view.head.nonce == g->c->nonce ? propose_batch_of(g, view.head.sequence) : NULL;
    size_t *ends = NULL;
    if (batch != NULL && view.head.count > 0) {
        ends = malloc(view.head.count * sizeof *ends);
        DN_ASSERT(batch->count == view.head.count);
    }
    if (view.head.time_ms > g->time_ms) {
        g->time_ms = view.head.time_ms;
    }
    struct dn_apply at = {.index = entry->index, .ordinal = 0, .time_ms = g->time_ms};
    if (ends != NULL) {
        apply_own(g, &view, &at, batch, ends);
    } else {
        apply_foreign(g, &view, &at);
    }
    at.ordinal = 0;
    g->fsm.entry_done(g->fsm.state, &at);
    apply_publish(g, entry->index);
    if (view.head.has_tick) {
        age_applied(g, &view);
    }
    if (g->m_entries != NULL) {
        dn_counter_add(g->m_entries, 1);
    }
    if (batch != NULL) {
        propose_applied(g, batch, entry->index, ends);
    }
    free(ends);
}

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

bool apply_slice(struct group *g, uint64_t until_us)
{
    uint64_t before = atomic_load_explicit(&g->applied, memory_order_relaxed);
    while (g->queue_first != NULL && !g->fenced) {
        if (mutant_waits(g)) {
            return false;
        }
        struct queued_entry *entry = dequeue(g);
        apply_entry(g, entry);
        free(entry);
        if (dn_monotonic_us() >= until_us) {
            break;
        }
    }
    apply_catch_up(g);
    if (atomic_load_explicit(&g->applied, memory_order_relaxed) != before) {
        age_moved(g);
        propose_moved(g);
        wait_moved(g);
    }
    return g->queue_first != NULL && !g->fenced;
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
