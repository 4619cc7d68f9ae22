/* Letters of streams that only one node can read: that node, their *reader*, writes them, and says below
 * which number its letters are written (DN_READER_LETTERS); the leader, who alone takes letters out of the
 * queue, counts them as written then. So each writes at its own pace, and no letter waits for the one before
 * it.
 *
 * The reader need not come back: the leader leaves a stream's letters to it for so long, from when it first
 * saw the oldest of them, and then writes all that wait without their bytes. A later letter of the stream is
 * the proof that the reader lives, and has a time of its own. */
#include "ingest/deadletter_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A machine is started anew in this time. Nothing but these letters waits for it, while there is room. */
unsigned dn_dead_reader_wait_ms = 600000, dn_dead_reader_wait_full_ms = 30000;

static const char NOT_WRITTEN[] = "the node that reads this stream has not written it: the message stands "
                                  "there at this offset, or is gone";
static const char NO_MEMBER[] = "the node that read this stream is no member of the cluster any more";

void dead_readers_look(struct dn_deadletters *d)
{
    const struct dn_ingest_target *target = &d->options.target;

    d->member_count = 0;
    if (target->members == NULL || !dead_ask(d))
        return;
    d->member_count = target->members(target->data, d->members);
    dead_asked(d);
}

bool dead_is_own(const struct dn_deadletters *d, const char *stream)
{
    return dn_stream_node(stream) == d->options.node_id;
}

/* Not known: nobody is written off. */
static bool is_member(const struct dn_deadletters *d, uint64_t node_id)
{
    for (size_t i = 0; i < d->member_count; i++)
        if (d->members[i] == node_id)
            return true;
    return d->member_count == 0;
}

/* What the shard holds of the node's word; false: nothing. */
static bool find_word(const struct dn_deadletters *d, const struct group *group, uint64_t node_id,
                      int64_t *ret_before)
{
    const struct dn_ingest_target *target = &d->options.target;
    char name[DN_READER_NAME_MAX];

    dn_reader_name(node_id, name);
    return target->next_offset(target->data, group->number, name, DN_READER_LETTERS, ret_before);
}

/* Letters of the node's streams with lower numbers are written. Asked of each letter, answered once a look.
 */
static uint64_t written_by(const struct dn_deadletters *d, struct group *group, uint64_t node_id)
{
    int64_t before = 0;

    if (group->word.look != group->looks || group->word.node_id != node_id) {
        bool known = find_word(d, group, node_id, &before);
        group->word.look = group->looks;
        group->word.node_id = node_id;
        group->word.before = known ? (uint64_t)before : 0;
    }
    return group->word.before;
}

/* ---- the leader -------------------------------------------------------------------------------------- */

static struct absent *absent_of(struct group *group, const struct dn_dead_letter *letter, uint64_t now_us)
{
    for (size_t i = 0; i < group->absent_count; i++)
        if (strcmp(group->absent[i].stream, letter->source) == 0)
            return &group->absent[i];
    if (group->absent_count == ABSENT_MAX) /* the other streams' letters go first */
        return NULL;
    struct absent *absent = &group->absent[group->absent_count++];
    *absent = (struct absent){.oldest = letter->number, .since_us = now_us, .seen = group->looks};
    snprintf(absent->stream, sizeof absent->stream, "%s", letter->source);
    return absent;
}

static bool half_full(const struct dn_deadletters *d, const struct group *group)
{
    const struct dn_ingest_target *target = &d->options.target;
    struct dn_dead_letter ignored;

    return target->dead_letters(target->data, group->number, group->base + DN_DEAD_MAX / 2, &ignored, 1) > 0;
}

/* The leader has waited for long enough. Letters come in the order of their numbers. */
static bool is_over(struct dn_deadletters *d, struct group *group, const struct dn_dead_letter *letter)
{
    uint64_t now_us = dn_monotonic_us();
    struct absent *absent = absent_of(group, letter, now_us);

    if (absent == NULL)
        return false;
    if (absent->seen != group->looks && absent->oldest != letter->number) { /* the one before was written */
        absent->oldest = letter->number;
        absent->since_us = now_us;
    }
    absent->seen = group->looks;
    if (letter->number >= absent->newest)
        absent->newest = letter->number + 1;
    if (letter->number < absent->given_up)
        return true;
    if (absent->oldest != letter->number ||
        now_us - absent->since_us <
            (half_full(d, group) ? dn_dead_reader_wait_full_ms : dn_dead_reader_wait_ms) * UINT64_C(1000))
        return false;
    dn_warn("deadletter",
            "shard %" PRIu32 ": letters of '%s' waited too long for node %" PRIu64 ", which alone has their "
            "bytes: they are written without them",
            group->number, letter->source, dn_stream_node(letter->source));
    absent->given_up = absent->newest;
    return true;
}

void dead_readers_looked(struct group *group)
{
    for (size_t i = group->absent_count; i-- > 0;)
        if (group->absent[i].seen != group->looks)
            group->absent[i] = group->absent[--group->absent_count];
}

bool dead_reader_has(struct dn_deadletters *d, struct group *group, const struct dn_dead_letter *letter,
                     const char **ret_note)
{
    uint64_t node_id = dn_stream_node(letter->source);

    *ret_note = NULL;
    if (node_id == 0 || d->options.target.members == NULL)
        return false;
    if (letter->number < written_by(d, group, node_id)) {
        dead_group_take(group, letter->number);
        dead_group_written(group, letter->number);
        return true;
    }
    if (node_id == d->options.node_id)
        return false;
    if (!is_member(d, node_id))
        *ret_note = NO_MEMBER;
    else if (is_over(d, group, letter))
        *ret_note = NOT_WRITTEN;
    return *ret_note == NULL;
}

/* ---- the reader -------------------------------------------------------------------------------------- */

bool dead_own_written(struct dn_deadletters *d, struct group *group, uint64_t *ret_before)
{
    if (!d->has_own || d->options.target.members == NULL)
        return false;
    if (group->settled < group->base)
        group->settled = group->base;
    for (; group->settled < group->looked; group->settled++) {
        if (!dead_group_is_taken(group, group->settled))
            continue; /* another's */
        if (!dead_group_is_written(group, group->settled))
            break;
        group->own = group->settled + 1;
    }
    *ret_before = group->own;
    if (group->own <= group->base)
        return false;
    /* Asked anew each time: what was known at the last look may be told already. */
    int64_t told = 0;
    return !find_word(d, group, d->options.node_id, &told) || group->own > (uint64_t)told;
}

void dead_own_record(struct dn_deadletters *d, struct group *group, uint64_t before)
{
    char name[DN_READER_NAME_MAX];
    int64_t ignored;
    bool known = find_word(d, group, d->options.node_id, &ignored);

    dn_reader_name(d->options.node_id, name);
    dn_record_stream(&group->record, name, DN_READER_LETTERS, known ? 0 : DN_OFFSET_UNSET, (int64_t)before,
                     NULL, 0, NULL, 0);
}
