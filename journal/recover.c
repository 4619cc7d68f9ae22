/* Recovery: reads the segments in order, checks every record, and finds where the valid sequence ends.
 *
 * A segment is valid up to where the next one begins (its base LSN): what lies behind was never acknowledged,
 * or was written anew in the next one after a fault. In the last segment the sequence ends at the first
 * record that is not sound. Whether that is a torn write or damage is told by what follows: a sound record
 * behind it whose batch began later (its durable LSN is beyond the bad one) was written when the bad one had
 * been acknowledged. That is damage, and the node must not start with less than it had. Without such a record
 * it is the torn end of the last write, which nobody was promised: it is cut.
 *
 * A header block that is not sound: if the segment's first record is, the header follows from it; if not,
 * nothing in the file was ever acknowledged (a write that opens a segment holds its header and first
 * records), provided that no record of a later write is there, and that the next segment begins where the one
 * before ends. A header tells the file's length, so that a cut end is not taken for a torn one. What cannot
 * be told: that the newest segment's whole file is missing.
 *
 * A process that was killed in a write may have left it sound, but not durable. Recovery believes it, so it
 * makes the last write durable before anybody builds on it. */
#include "journal/internal.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPONENT "journal"
#define WINDOW_BYTES (4u << 20) /* read at once; grows to the largest record */
#define SCAN_BYTES (64u << 10)
#define SEQUENCE_MAX (UINT64_MAX / 2) /* a node does not live that long */

struct reader {
    struct dn_journal *journal;
    struct segment *segment;
    uint8_t *bytes;
    size_t room, length; /* bytes[0..length) are those at offset `at` */
    uint64_t at;
};

struct listed {
    uint64_t *sequences, *sizes;
    size_t count, room;
    bool failed;
};

/* A segment that holds some of the sequence. */
struct chain {
    size_t number; /* in journal->segments */
    bool header;
    uint64_t made_bytes; /* the file's length as the header tells it; 0: not told */
    uint64_t sure_lsn;   /* all before it was durable when its last record was written */
};

/* ---- reading ------------------------------------------------------------------------------------------ */

/* Makes `length` bytes at `offset` lie together. *ret is NULL when the file ends before. */
static enum dn_code window(struct reader *reader, uint64_t offset, size_t length, const uint8_t **ret,
                           struct dn_error *err)
{
    *ret = NULL;
    if (offset + length > reader->segment->bytes)
        return DN_OK;
    if (offset < reader->at || offset + length > reader->at + reader->length) {
        size_t want = length > WINDOW_BYTES ? length : WINDOW_BYTES;
        if (want > reader->room) {
            uint8_t *bytes = realloc(reader->bytes, want);
            if (!bytes)
                return dn_fail(err, DN_NO_MEMORY, "read the journal");
            reader->bytes = bytes;
            reader->room = want;
        }
        reader->at = offset;
        reader->length = 0;
        enum dn_code code = reader->journal->disk->ops->read(reader->segment->file, offset, reader->bytes,
                                                             want, &reader->length, err);
        if (code != DN_OK)
            return code;
        if (reader->length < length)
            return DN_OK;
    }
    *ret = reader->bytes + (offset - reader->at);
    return DN_OK;
}

/* The record at `offset`, if it is a sound one of this segment; *ret_bytes is NULL otherwise. base_lsn
 * UINT64_MAX: not known yet. */
static enum dn_code read_record(struct reader *reader, uint64_t offset, uint64_t base_lsn, struct record *ret,
                                const uint8_t **ret_bytes, struct dn_error *err)
{
    const uint8_t *bytes;
    enum dn_code code = window(reader, offset, RECORD_BYTES, &bytes, err);
    *ret_bytes = NULL;
    if (code != DN_OK || !bytes)
        return code;
    if (!record_head(bytes, ret) || ret->sequence != (uint32_t)reader->segment->sequence ||
        (base_lsn != UINT64_MAX && ret->lsn != base_lsn + (offset - DN_DISK_ALIGN)))
        return DN_OK;
    code = window(reader, offset, record_size(ret->length), &bytes, err);
    if (code == DN_OK && bytes && record_sound(bytes, ret))
        *ret_bytes = bytes;
    return code;
}

/* ---- the list of segments ----------------------------------------------------------------------------- */

static void list_one(void *data, const char *name, uint64_t bytes)
{
    struct listed *listed = data;
    uint64_t sequence;
    char spelled[DN_DISK_NAME_MAX];
    if (sscanf(name, "%16" SCNx64, &sequence) != 1)
        return;
    segment_name(sequence, spelled);
    if (strcmp(name, spelled) != 0) /* somebody else's file */
        return;
    if (listed->count == listed->room) {
        size_t room = listed->room == 0 ? 64 : listed->room * 2;
        uint64_t *sequences = realloc(listed->sequences, room * sizeof *sequences);
        if (sequences)
            listed->sequences = sequences;
        uint64_t *sizes = realloc(listed->sizes, room * sizeof *sizes);
        if (sizes)
            listed->sizes = sizes;
        if (!sequences || !sizes || room > SEGMENTS_MAX) {
            listed->failed = true;
            return;
        }
        listed->room = room;
    }
    size_t i = listed->count++;
    for (; i > 0 && listed->sequences[i - 1] > sequence;
         i--) { /* sorted; folders mostly give them in order */
        listed->sequences[i] = listed->sequences[i - 1];
        listed->sizes[i] = listed->sizes[i - 1];
    }
    listed->sequences[i] = sequence;
    listed->sizes[i] = bytes;
}

static enum dn_code open_segments(struct dn_journal *journal, struct dn_error *err)
{
    struct listed listed = {0};
    enum dn_code code = journal->disk->ops->list(journal->disk, list_one, &listed, err);
    if (code == DN_OK && listed.failed)
        code = dn_fail(err, DN_NO_MEMORY, "list the segments of '%s'", journal->name);
    if (code == DN_OK && listed.count > 0) {
        journal->segments = calloc(listed.count, sizeof *journal->segments);
        journal->segment_room = listed.count;
        if (!journal->segments)
            code = dn_fail(err, DN_NO_MEMORY, "list the segments of '%s'", journal->name);
    }
    if (code == DN_OK && listed.count > 0 && listed.sequences[listed.count - 1] > SEQUENCE_MAX) {
        char name[DN_DISK_NAME_MAX];
        segment_name(listed.sequences[listed.count - 1], name);
        code =
            dn_fail(err, DN_CORRUPT, "'%s/%s' is no file of this journal: it leaves no numbers for new ones",
                    journal->name, name);
    }
    for (size_t i = 0; code == DN_OK && i < listed.count; i++) {
        char name[DN_DISK_NAME_MAX];
        struct segment *segment = calloc(1, sizeof *segment);
        if (!segment) {
            code = dn_fail(err, DN_NO_MEMORY, "open the segments of '%s'", journal->name);
            break;
        }
        segment->sequence = listed.sequences[i];
        segment->bytes = listed.sizes[i];
        segment_name(segment->sequence, name);
        journal->segments[journal->segment_count++] = segment;
        code = journal->disk->ops->open(journal->disk, name, &segment->file, err);
    }
    free(listed.sequences);
    free(listed.sizes);
    return code;
}

/* ---- one segment -------------------------------------------------------------------------------------- */

static enum dn_code damaged(const struct dn_journal *journal, const struct segment *segment, uint64_t offset,
                            const char *why, struct dn_error *err)
{
    char name[DN_DISK_NAME_MAX];
    segment_name(segment->sequence, name);
    return dn_fail(
        err, DN_CORRUPT,
        "the journal is damaged: '%s/%s' at offset %llu: %s. The node does not start with less than it had: "
        "restore its data directory, or replace it by a new member",
        journal->name, name, (unsigned long long)offset, why);
}

/* Looks from `offset` on for a sound record that was written after what lies there had been acknowledged.
 * base_lsn UINT64_MAX: each record says it. */
static enum dn_code look_behind(struct reader *reader, uint64_t offset, uint64_t base_lsn, uint64_t *ret_good,
                                struct dn_error *err)
{
    uint64_t at = offset, end = reader->segment->bytes;
    *ret_good = 0;
    while (at + RECORD_BYTES <= end) {
        struct record record;
        const uint8_t *bytes;
        size_t length = end - at < SCAN_BYTES ? (size_t)(end - at) : SCAN_BYTES, i = 0;
        enum dn_code code = window(reader, at, length, &bytes, err);
        if (code != DN_OK || !bytes)
            return code;
        while (i + RECORD_BYTES <= length && !record_magic(bytes + i))
            i += 8;
        at += i;
        if (i + RECORD_BYTES > length)
            continue;
        code = read_record(reader, at, base_lsn, &record, &bytes, err);
        if (code != DN_OK)
            return code;
        if (bytes && record.durable_lsn > record.lsn - (at - offset)) {
            *ret_good = at;
            return DN_OK;
        }
        at += 8;
    }
    return DN_OK;
}

/* Is any of the sequence in this segment, and from where on? Its header says so, or its first record. When
 * neither is sound, nothing in it was ever acknowledged, unless a later record tells otherwise. */
static enum dn_code begins(struct reader *reader, struct chain *ret, bool *ret_used, struct dn_error *err)
{
    const struct dn_journal *journal = reader->journal;
    struct segment *segment = reader->segment;
    const uint8_t *bytes;
    struct header header;
    struct record record;
    uint64_t good;
    char why[160];
    *ret_used = ret->header = false;
    ret->made_bytes = 0;
    enum dn_code code = window(reader, 0, HEADER_BYTES, &bytes, err);
    if (code != DN_OK)
        return code;
    if (bytes && header_decode(bytes, &header) && header.sequence >= segment->sequence) {
        if (header.sequence > segment->sequence) { /* an older one is that of the file's use before */
            snprintf(why, sizeof why, "it holds segment %016llx, under a wrong name",
                     (unsigned long long)header.sequence);
            return damaged(journal, segment, 0, why, err);
        }
        *ret_used = ret->header = true;
        ret->made_bytes = header_length(bytes);
        segment->base_lsn = header.base_lsn;
        return DN_OK;
    }
    code = read_record(reader, DN_DISK_ALIGN, UINT64_MAX, &record, &bytes, err);
    if (code == DN_OK && bytes) {
        *ret_used = true;
        segment->base_lsn = record.lsn;
        return DN_OK;
    }
    if (code == DN_OK)
        code = look_behind(reader, DN_DISK_ALIGN, UINT64_MAX, &good, err);
    if (code == DN_OK && good > 0) {
        snprintf(
            why, sizeof why,
            "neither the header nor the first record is sound, but one that was written later, at offset "
            "%llu, is",
            (unsigned long long)good);
        return damaged(journal, segment, 0, why, err);
    }
    return code;
}

/* Reads records from the segment's beginning until `until_lsn`, or the first that is not sound. */
static enum dn_code read_segment(struct reader *reader, struct chain *link, uint64_t until_lsn, walk_cb each,
                                 void *data, struct dn_error *err)
{
    uint32_t number = (uint32_t)link->number;
    struct dn_journal *journal = reader->journal;
    struct segment *segment = reader->segment;
    uint64_t offset = DN_DISK_ALIGN;
    char name[DN_DISK_NAME_MAX];
    enum dn_code code = DN_OK;
    segment_name(segment->sequence, name);
    while (segment->base_lsn + (offset - DN_DISK_ALIGN) < until_lsn) {
        struct record record;
        const uint8_t *bytes;
        code = read_record(reader, offset, segment->base_lsn, &record, &bytes, err);
        if (code != DN_OK || !bytes)
            break;
        if (each) {
            static const char *const kinds[] = {"?",        "entries", "term", "truncate",
                                                "snapshot", "remove",  "state"};
            const uint8_t *payload = bytes + RECORD_BYTES;
            struct dn_journal_record shown = {.segment = name,
                                              .offset = offset,
                                              .lsn = record.lsn,
                                              .kind = kinds[record.kind],
                                              .group = record.group,
                                              .length = record.length};
            if (record.kind == KIND_ENTRIES && record.length >= ENTRIES_BYTES) {
                shown.index = get_u64(payload);
                shown.count = get_u32(payload + 8);
                shown.term = record.length >= ENTRIES_BYTES + 8 ? get_u64(payload + ENTRIES_BYTES) : 0;
            } else if (record.kind == KIND_TRUNCATE && record.length >= 8) {
                shown.index = get_u64(payload);
            } else if (record.length >= 16) {
                bool snapshot = record.kind == KIND_SNAPSHOT;
                shown.index = snapshot ? get_u64(payload) : 0;
                shown.term = snapshot ? get_u64(payload + 8) : get_u64(payload);
                shown.voted_for = snapshot ? 0 : get_u64(payload + 8);
            }
            each(data, &shown);
        }
        code = state_apply(journal, &record, bytes + RECORD_BYTES, number, offset + RECORD_BYTES, err);
        if (code == DN_CORRUPT) {
            struct dn_error why = *err;
            return damaged(journal, segment, offset, why.message, err);
        }
        if (code != DN_OK)
            return code;
        state_note(segment, &record, bytes + RECORD_BYTES);
        link->sure_lsn = record.durable_lsn;
        offset += record_size(record.length);
    }
    segment->end = offset;
    return code;
}

/* ---- all of them -------------------------------------------------------------------------------------- */

static enum dn_code end_of_chain(struct reader *reader, const struct chain *link, bool cut_logged,
                                 struct dn_error *err)
{
    struct segment *segment = reader->segment;
    struct dn_journal *journal = reader->journal;
    uint64_t good;
    if (segment->bytes < link->made_bytes) {
        char why[96];
        snprintf(why, sizeof why, "the file ends here, but was %llu bytes long",
                 (unsigned long long)link->made_bytes);
        return damaged(journal, segment, segment->bytes, why, err);
    }
    enum dn_code code = look_behind(reader, segment->end, segment->base_lsn, &good, err);
    if (code != DN_OK)
        return code;
    if (good > 0) {
        char why[128];
        snprintf(why, sizeof why, "a record is not sound, but one that was written later, at offset %llu, is",
                 (unsigned long long)good);
        return damaged(journal, segment, segment->end, why, err);
    }
    const uint8_t *bytes;
    code = window(reader, segment->end, 8, &bytes, err);
    if (code == DN_OK && bytes && get_u64(bytes) != 0 && cut_logged) {
        struct record record;
        bool older = window(reader, segment->end, RECORD_BYTES, &bytes, err) == DN_OK && bytes &&
                     record_head(bytes, &record) && record.sequence != (uint32_t)segment->sequence;
        char name[DN_DISK_NAME_MAX];
        segment_name(segment->sequence, name);
        if (!older)
            dn_warn(COMPONENT,
                    "'%s/%s': the last write was torn, cut at offset %llu: nothing of it was acknowledged",
                    journal->name, name, (unsigned long long)segment->end);
    }
    return code;
}

/* The write that ended the sequence. */
static enum dn_code settle_end(const struct reader *reader, const struct chain *link, struct dn_error *err)
{
    const struct dn_journal *journal = reader->journal;
    const struct segment *segment = reader->segment;
    char name[DN_DISK_NAME_MAX];
    uint64_t from = link->sure_lsn <= segment->base_lsn /* it opened the segment: with its header */
                        ? 0
                        : DN_DISK_ALIGN + (link->sure_lsn - segment->base_lsn);
    segment_name(segment->sequence, name);
    DN_ASSERT(from <= segment->end);
    return journal->disk->ops->settle(journal->disk, name, from, (size_t)(segment->end - from), err);
}

enum dn_code recover_walk(struct dn_journal *journal, walk_cb each, void *data, struct dn_error *err)
{
    struct reader reader = {.journal = journal};
    enum dn_code code = open_segments(journal, err);
    struct chain *chain = code == DN_OK ? calloc(journal->segment_count + 1, sizeof *chain) : NULL;
    size_t links = 0;
    if (code == DN_OK && !chain)
        code = dn_fail(err, DN_NO_MEMORY, "recover '%s'", journal->name);
    for (size_t i = 0; code == DN_OK && i < journal->segment_count; i++) {
        bool used;
        reader.segment = journal->segments[i];
        reader.length = 0;
        code = begins(&reader, &chain[links], &used, err);
        if (code == DN_OK && used)
            chain[links++].number = i;
    }
    for (size_t k = 0; code == DN_OK && k < links; k++) {
        struct segment *segment = journal->segments[chain[k].number];
        struct segment *after = k + 1 < links ? journal->segments[chain[k + 1].number] : NULL;
        DN_ASSERT(segment);
        reader.segment = segment;
        reader.length = 0;
        code = read_segment(&reader, &chain[k], after ? after->base_lsn : UINT64_MAX, each, data, err);
        if (code != DN_OK)
            break;
        journal->durable_lsn = segment->base_lsn + (segment->end - DN_DISK_ALIGN);
        if (after && journal->durable_lsn != after->base_lsn)
            code = damaged(journal, segment, segment->end,
                           "a record is not sound, but the next segment goes on behind it", err);
        else if (!after)
            code = end_of_chain(&reader, &chain[k], each == NULL, err);
        if (code == DN_OK && !after && journal->found && !journal->o.read_only)
            code = settle_end(&reader, &chain[k], err);
        if (code == DN_OK && !chain[k].header)
            dn_warn(COMPONENT, "'%s': the header of segment %016llx is not sound; its records are",
                    journal->name, (unsigned long long)segment->sequence);
    }
    free(chain);
    free(reader.bytes);
    return code;
}

static enum dn_code entries_complete(const struct dn_journal *journal, struct dn_error *err)
{
    for (unsigned i = 0; i < DN_JOURNAL_GROUPS_MAX; i++) {
        const struct group_state *state = &journal->groups[i];
        const struct found *found = &journal->found[i];
        uint64_t want = state->known ? state->next - state->first : 0;
        if (want != found->count || (want > 0 && found->from != state->first))
            return dn_fail(
                err, DN_CORRUPT,
                "the journal in '%s' is damaged: group %u should have entries %llu to %llu, but %zu were "
                "found (from %llu). Is a segment file missing?",
                journal->name, i, (unsigned long long)state->first, (unsigned long long)state->next - 1,
                found->count, (unsigned long long)found->from);
    }
    return DN_OK;
}

enum dn_code recover(struct dn_journal *journal, struct dn_error *err)
{
    journal->found = calloc(DN_JOURNAL_GROUPS_MAX, sizeof *journal->found);
    if (!journal->found)
        return dn_fail(err, DN_NO_MEMORY, "recover '%s'", journal->name);
    enum dn_code code = recover_walk(journal, NULL, NULL, err);
    return code == DN_OK ? entries_complete(journal, err) : code;
}

/* ---- what was found ----------------------------------------------------------------------------------- */

void dn_journal_recovered(const struct dn_journal *journal, uint32_t group, struct dn_journal_group *ret)
{
    memset(ret, 0, sizeof *ret);
    if (group >= DN_JOURNAL_GROUPS_MAX || !journal->groups[group].known)
        return;
    const struct group_state *state = &journal->groups[group];
    *ret = (struct dn_journal_group){.known = true,
                                     .term = state->term,
                                     .voted_for = state->voted_for,
                                     .snapshot_index = state->snapshot_index,
                                     .snapshot_term = state->snapshot_term,
                                     .marker = state->marker,
                                     .marker_length = state->marker_length,
                                     .first_index = state->first,
                                     .entry_count = (size_t)(state->next - state->first)};
}

enum dn_code dn_journal_read(struct dn_journal *journal, uint32_t group,
                             enum dn_code (*each)(void *data, uint64_t index,
                                                  const struct dn_journal_entry *entry, struct dn_error *err),
                             void *data, struct dn_error *err)
{
    struct reader reader = {.journal = journal};
    enum dn_code code = DN_OK;
    DN_ASSERT(journal->found && group < DN_JOURNAL_GROUPS_MAX);
    const struct found *found = &journal->found[group];
    for (size_t i = 0; code == DN_OK && i < found->count; i++) {
        const struct location *location = &found->locations[i];
        const uint8_t *bytes;
        if (reader.segment != journal->segments[location->segment]) {
            reader.segment = journal->segments[location->segment];
            reader.length = 0;
        }
        code = window(&reader, location->offset, location->length, &bytes, err);
        if (code == DN_OK && !bytes)
            code = damaged(journal, reader.segment, location->offset, "the file became shorter", err);
        if (code == DN_OK) {
            struct dn_journal_entry entry = {location->term, location->type, bytes, location->length};
            code = each(data, found->from + i, &entry, err);
        }
    }
    free(reader.bytes);
    return code;
}

void dn_journal_forget(struct dn_journal *journal)
{
    for (unsigned i = 0; journal->found && i < DN_JOURNAL_GROUPS_MAX; i++)
        free(journal->found[i].locations);
    free(journal->found);
    journal->found = NULL;
}

enum dn_code dn_journal_walk(struct dn_disk *disk, const char *name,
                             void (*each)(void *data, const struct dn_journal_record *record), void *data,
                             struct dn_error *err)
{
    struct dn_journal *journal = calloc(1, sizeof *journal);
    if (!journal)
        return dn_fail(err, DN_NO_MEMORY, "read '%s'", name);
    journal->disk = disk;
    journal->name = (char *)name;
    enum dn_code code = recover_walk(journal, each, data, err);
    for (size_t i = 0; i < journal->segment_count; i++)
        segment_free(journal, journal->segments[i]);
    free(journal->segments);
    state_free(journal);
    free(journal);
    return code;
}
