/* Space: the next segment is made ahead, so that a batch never waits for an allocation; segments that nobody
 * needs are given up, the oldest first, and the file of one of them becomes the next one. */
#include "journal/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPONENT "journal"

void segment_name(uint64_t sequence, char out[DN_DISK_NAME_MAX])
{
    snprintf(out, DN_DISK_NAME_MAX, "%016llx.seg", (unsigned long long)sequence);
}

void segment_free(struct dn_journal *journal, struct segment *segment)
{
    if (segment && segment->file)
        journal->disk->ops->close(segment->file);
    free(segment);
}

/* ---- making the next one ------------------------------------------------------------------------------ */

/* A fault only when something waits for the segment, or would have to. */
static void make_failed(struct dn_journal *journal, const char *name, int error)
{
    if (!journal->open || journal->broken || journal->fault || journal->next_wanted)
        journal_fault(journal, "make a new segment", name, error);
    else if (!journal->space_warned)
        dn_warn(COMPONENT, "'%s': a segment cannot be made ahead (%s): tried again when it is needed",
                journal->name, strerror(error));
    journal->space_warned = true;
    journal->make_after_us = dn_monotonic_us() + RETRY_MS * 1000;
}

static void next_made(struct dn_disk_op *op, int result)
{
    struct dn_journal *journal = op->data;
    struct segment *next = journal->next;
    if (result == 0) {
        journal->next_state = NEXT_READY;
        journal->space_warned = false;
        if (journal->pending.length == 0) /* nothing failed to be written: it was for want of a segment */
            journal_well(journal);
    } else {
        journal->next = NULL;
        journal->next_state = NEXT_NONE;
        segment_free(journal, next);
        make_failed(journal, journal->next_name, -result);
    }
    if (journal->closing)
        journal_close_step(journal);
    else if (result == 0)
        dn_journal_turn(journal);
}

static uint64_t newest_sequence(const struct dn_journal *journal)
{
    return journal->segment_count == 0 ? 0 : journal->segments[journal->segment_count - 1]->sequence;
}

void segment_make_next(struct dn_journal *journal, uint64_t bytes_needed)
{
    uint64_t bytes = journal->o.segment_bytes;
    if (journal->next_state != NEXT_NONE || journal->removing)
        return;
    if (bytes_needed > bytes)
        bytes = (bytes_needed + DN_DISK_ALIGN - 1) / DN_DISK_ALIGN * DN_DISK_ALIGN;
    struct segment *next = journal->blank ? journal->blank : calloc(1, sizeof *next);
    journal->blank = NULL;
    if (!next) {
        make_failed(journal, "memory", ENOMEM);
        return;
    }
    next->sequence = newest_sequence(journal) + 1;
    if (next->sequence <= journal->spoiled)
        next->sequence = journal->spoiled + 1;
    segment_name(next->sequence, journal->next_name);
    journal->next = next;
    journal->next_state = NEXT_MAKING;
    journal->next_op.done = next_made;
    journal->next_op.data = journal;
    if (journal->recycled && journal->recycled->bytes >= bytes) {
        struct segment *old = journal->recycled;
        memcpy(journal->next_from, journal->recycled_name, sizeof journal->next_from);
        next->bytes = old->bytes;
        next->file = old->file;
        old->file = NULL;
        segment_free(journal, old);
        journal->recycled = NULL;
        journal->disk->ops->rename(journal->disk, journal->next_from, journal->next_name, &journal->next_op);
    } else {
        next->bytes = bytes;
        journal->disk->ops->create(journal->disk, journal->next_name, bytes, &next->file, &journal->next_op);
    }
    journal->disk->ops->submit(journal->disk);
}

/* ---- giving up the oldest ----------------------------------------------------------------------------- */

static bool needed(const struct dn_journal *journal, const struct segment *segment)
{
    for (unsigned i = 0; i < DN_JOURNAL_GROUPS_MAX; i++) {
        const struct group_state *state = &journal->groups[i];
        if (state->known && state->first < state->next && segment->last_index[i] >= state->first)
            return true;
    }
    return false;
}

static void removed(struct dn_disk_op *op, int result)
{
    struct dn_journal *journal = op->data;
    char name[DN_DISK_NAME_MAX];
    segment_name(journal->removing->sequence, name);
    if (result == 0 && journal->keeping) {
        journal->recycled = journal->removing;
        memcpy(journal->recycled_name, SPARE_NAME, sizeof SPARE_NAME);
        journal->removing = NULL;
    } else if (result != 0)
        dn_warn(COMPONENT, "'%s/%s' is not needed any more, but cannot be removed: %s", journal->name, name,
                strerror(-result));
    segment_free(journal, journal->removing);
    journal->removing = NULL;
    if (journal->closing)
        journal_close_step(journal);
    else
        segments_release(journal);
}

void segments_release(struct dn_journal *journal)
{
    while (!journal->removing && journal->open && !journal->closing && journal->segment_count > 1 &&
           !needed(journal, journal->segments[0])) {
        struct segment *old = journal->segments[0];
        memmove(journal->segments, journal->segments + 1,
                --journal->segment_count * sizeof *journal->segments);
        char name[DN_DISK_NAME_MAX];
        segment_name(old->sequence, name);
        journal->keeping = old->writable && old->bytes == journal->o.segment_bytes && !journal->recycled;
        journal->removing = old;
        journal->remove_op.done = removed;
        journal->remove_op.data = journal;
        if (journal->keeping) {
            /* Under its own name it would look, after a crash, like the beginning of a sequence with a hole.
             */
            journal->disk->ops->rename(journal->disk, name, SPARE_NAME, &journal->remove_op);
        } else {
            if (old->file)
                journal->disk->ops->close(old->file);
            old->file = NULL;
            journal->disk->ops->remove(journal->disk, name, &journal->remove_op);
        }
        journal->disk->ops->submit(journal->disk);
    }
    if (journal->m_segments)
        dn_gauge_set(journal->m_segments, (double)journal->segment_count);
}

/* ---- questions ---------------------------------------------------------------------------------------- */

uint64_t dn_journal_held(const struct dn_journal *journal, uint32_t group)
{
    const struct group_state *state = &journal->groups[group];
    if (!state->known || state->first == state->next)
        return 0;
    for (size_t i = 0; i < journal->segment_count; i++) {
        const struct segment *segment = journal->segments[i];
        if (segment->last_index[group] >= state->first && segment->base_lsn <= journal->durable_lsn)
            return journal->durable_lsn - segment->base_lsn;
    }
    return 0;
}

uint64_t dn_journal_lacks_bytes(const struct dn_journal *journal)
{
    return journal->space_warned && journal->next_state != NEXT_READY ? journal->o.segment_bytes : 0;
}

uint64_t dn_journal_disk_bytes(const struct dn_journal *journal)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < journal->segment_count; i++)
        bytes += journal->segments[i]->bytes;
    bytes += journal->next ? journal->next->bytes : 0;
    bytes += journal->recycled ? journal->recycled->bytes : 0;
    return bytes;
}
