/* State: what a sequence of records says of each group. The same rules when a write has ended and in
 * recovery. */
#include "journal/internal.h"

#include <stdlib.h>
#include <string.h>

#define LOCATIONS_FIRST 1024

static enum dn_code wrong(const struct record *record, const char *why, struct dn_error *err)
{
    return dn_fail(err, DN_CORRUPT, "a sound record of kind %u for group %u %s", (unsigned)record->kind,
                   record->group, why);
}

/* ---- where entries lie (recovery only) ---------------------------------------------------------------- */

static void found_drop_from(struct found *found, uint64_t index)
{
    if (index <= found->from)
        found->count = 0;
    else if (index - found->from < found->count)
        found->count = (size_t)(index - found->from);
}

static void found_drop_before(struct found *found, uint64_t index)
{
    if (index <= found->from)
        return;
    size_t drop = index - found->from < found->count ? (size_t)(index - found->from) : found->count;
    if (drop < found->count)
        memmove(found->locations, found->locations + drop, (found->count - drop) * sizeof *found->locations);
    found->count -= drop;
    found->from = index;
}

static bool found_add(struct found *found, uint64_t index, const struct location *location)
{
    if (found->count == 0)
        found->from = index;
    if (found->count == found->room) {
        size_t room = found->room == 0 ? LOCATIONS_FIRST : found->room * 2;
        struct location *locations = realloc(found->locations, room * sizeof *locations);
        if (!locations)
            return false;
        found->locations = locations;
        found->room = room;
    }
    found->locations[found->count++] = *location;
    return true;
}

static enum dn_code found_entries(struct found *found, const struct record *record, const uint8_t *payload,
                                  uint32_t segment, uint64_t payload_offset, struct dn_error *err)
{
    uint64_t index = get_u64(payload);
    struct entry_view entry;
    size_t at = 0;
    found_drop_from(found, index);
    while (entries_next(payload, record->length, &at, &entry)) {
        struct location location = {payload_offset + entry.offset, entry.term, segment, entry.length,
                                    entry.type};
        if (!found_add(found, index++, &location))
            return dn_fail(err, DN_NO_MEMORY, "the list of entries of group %u", record->group);
    }
    return DN_OK;
}

/* ---- the rules ---------------------------------------------------------------------------------------- */

static bool reserve_marker(struct group_state *state, size_t length)
{
    size_t room = length == 0 ? 1 : length;
    if (room <= state->marker_room)
        return true;
    uint8_t *marker = realloc(state->marker, room);
    if (!marker)
        return false;
    state->marker = marker;
    state->marker_room = room;
    return true;
}

bool state_reserve_marker(struct dn_journal *journal, uint32_t group, size_t length)
{
    return reserve_marker(&journal->groups[group], length);
}

static bool keep_marker(struct group_state *state, const uint8_t *bytes, size_t length)
{
    if (!reserve_marker(state, length))
        return false;
    memcpy(state->marker, bytes, length);
    state->marker_length = length;
    return true;
}

static bool entries_well_formed(const uint8_t *payload, size_t length)
{
    struct entry_view entry;
    size_t at = 0, count = 0;
    if (length < ENTRIES_BYTES)
        return false;
    while (entries_next(payload, length, &at, &entry))
        count++;
    return at == length && count == get_u32(payload + 8) && count > 0 && get_u64(payload) > 0;
}

static enum dn_code apply_snapshot(struct group_state *state, const struct record *record,
                                   const uint8_t *payload, struct dn_error *err)
{
    if (record->length < SNAPSHOT_BYTES || record->length - SNAPSHOT_BYTES > DN_JOURNAL_MARKER_MAX)
        return wrong(record, "has a wrong length", err);
    uint64_t index = get_u64(payload), keep_from = get_u64(payload + 16);
    if (index == 0 || index < state->snapshot_index || keep_from > index + 1)
        return wrong(record, "names an index out of order", err);
    if (!keep_marker(state, payload + SNAPSHOT_BYTES, record->length - SNAPSHOT_BYTES))
        return dn_fail(err, DN_NO_MEMORY, "a snapshot marker");
    state->snapshot_index = index;
    state->snapshot_term = get_u64(payload + 8);
    if (state->next <= index)
        state->first = state->next = index + 1;
    else if (state->first < keep_from)
        state->first = keep_from;
    return DN_OK;
}

static enum dn_code apply_state(struct group_state *state, const struct record *record,
                                const uint8_t *payload, struct dn_error *err)
{
    if (record->length < STATE_BYTES || record->length - STATE_BYTES > DN_JOURNAL_MARKER_MAX)
        return wrong(record, "has a wrong length", err);
    struct group_state read = {.known = true,
                               .term = get_u64(payload),
                               .voted_for = get_u64(payload + 8),
                               .snapshot_index = get_u64(payload + 16),
                               .snapshot_term = get_u64(payload + 24),
                               .first = get_u64(payload + 32),
                               .next = get_u64(payload + 40)};
    if (read.first == 0 || read.first > read.next)
        return wrong(record, "names impossible indexes", err);
    if (state->known && (state->term != read.term || state->voted_for != read.voted_for ||
                         state->snapshot_index != read.snapshot_index || state->first != read.first ||
                         state->next != read.next))
        return wrong(record, "contradicts the records before it", err);
    if (!keep_marker(state, payload + STATE_BYTES, record->length - STATE_BYTES))
        return dn_fail(err, DN_NO_MEMORY, "a snapshot marker");
    read.marker = state->marker;
    read.marker_length = state->marker_length;
    read.marker_room = state->marker_room;
    *state = read;
    return DN_OK;
}

static enum dn_code apply(struct group_state *state, const struct record *record, const uint8_t *payload,
                          struct dn_error *err)
{
    if (record->kind == KIND_STATE)
        return apply_state(state, record, payload, err);
    if (!state->known) {
        state->known = true;
        state->first = state->next = 1;
    }
    switch (record->kind) {
    case KIND_ENTRIES:
        if (!entries_well_formed(payload, record->length))
            return wrong(record, "holds no list of entries", err);
        if (state->first == state->next && get_u64(payload) > state->next)
            return wrong(record, "leaves a gap before its first entry", err);
        if (get_u64(payload) != state->next)
            return wrong(record, "does not follow the entries before it", err);
        state->next += get_u32(payload + 8);
        return DN_OK;
    case KIND_TERM:
        if (record->length != 16 || get_u64(payload) < state->term)
            return wrong(record, "has a wrong length or an older term", err);
        state->term = get_u64(payload);
        state->voted_for = get_u64(payload + 8);
        return DN_OK;
    case KIND_TRUNCATE:
        if (record->length != 8 || get_u64(payload) < state->first)
            return wrong(record, "cuts entries that are gone", err);
        if (get_u64(payload) < state->next)
            state->next = get_u64(payload);
        return DN_OK;
    case KIND_SNAPSHOT:
        return apply_snapshot(state, record, payload, err);
    case KIND_REMOVE:
        *state = (struct group_state){.marker = state->marker, .marker_room = state->marker_room};
        return DN_OK;
    case KIND_STATE:
        break;
    }
    return wrong(record, "is of no known kind", err);
}

enum dn_code state_apply(struct dn_journal *journal, const struct record *record, const uint8_t *payload,
                         uint32_t segment, uint64_t payload_offset, struct dn_error *err)
{
    if (record->group >= DN_JOURNAL_GROUPS_MAX)
        return wrong(record, "is for no group", err);
    struct group_state *state = &journal->groups[record->group];
    enum dn_code code = apply(state, record, payload, err);
    if (code != DN_OK || !journal->found)
        return code;
    struct found *found = &journal->found[record->group];
    if (record->kind == KIND_ENTRIES)
        code = found_entries(found, record, payload, segment, payload_offset, err);
    found_drop_from(found, state->known ? state->next : 0);
    found_drop_before(found, state->known ? state->first : 0);
    return code;
}

/* ---- restating ---------------------------------------------------------------------------------------- */

size_t state_encode(const struct group_state *state, uint8_t *payload)
{
    put_u64(payload, state->term);
    put_u64(payload + 8, state->voted_for);
    put_u64(payload + 16, state->snapshot_index);
    put_u64(payload + 24, state->snapshot_term);
    put_u64(payload + 32, state->first);
    put_u64(payload + 40, state->next);
    if (state->marker_length > 0)
        memcpy(payload + STATE_BYTES, state->marker, state->marker_length);
    return STATE_BYTES + state->marker_length;
}

size_t state_size(const struct dn_journal *journal)
{
    size_t size = 0;
    for (unsigned i = 0; i < DN_JOURNAL_GROUPS_MAX; i++)
        if (journal->groups[i].known)
            size += record_size(STATE_BYTES + journal->groups[i].marker_length);
    return size;
}

void state_note(struct segment *segment, const struct record *record, const uint8_t *payload)
{
    if (record->kind != KIND_ENTRIES)
        return;
    uint64_t last = get_u64(payload) + get_u32(payload + 8) - 1;
    if (last > segment->last_index[record->group])
        segment->last_index[record->group] = last;
}

void state_free(struct dn_journal *journal)
{
    for (unsigned i = 0; i < DN_JOURNAL_GROUPS_MAX; i++) {
        free(journal->groups[i].marker);
        journal->groups[i].marker = NULL;
        if (journal->found)
            free(journal->found[i].locations);
    }
    free(journal->found);
    journal->found = NULL;
}
