/* Streams that only one node reads, and the shards that others lead.
 *
 * Of its own streams a node gives each shard its word: "what they held at this time is in the state"
 * (DN_READER_HEARD, reader.h). It does so all the time, also when they bring nothing; while one of them
 * stands still it does not, and when it is dead it cannot. The leader of a shard measures by its own clock
 * how long the word of each member has not moved, and says that the streams stand still when it is too long.
 * So there is one who says so, the leader, and one rule for a reader that is stuck, dead or cut off; and a
 * reader whose files bring nothing new is none of these.
 *
 * A node that is no member any more is not waited for: to remove it is the way to end the alarm for good. One
 * that reads no streams of its own any more takes its word back. */
#include "ingest/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define FIRST_WORD_US 1000000u /* after the start: by then its files were looked for */
#define PAUSE_US 1000000u      /* who was not awake for so long has heard nobody */
#define WORD_BYTES_MAX 256u

/* ---- listening
 * ------------------------------------------------------------------------------------------------ */

size_t ingest_reader_prefix(uint64_t node_id, char *ret, size_t size)
{
    int length = snprintf(ret, size, "node %llu: ", (unsigned long long)node_id);

    return length > 0 && (size_t)length < size ? (size_t)length : 0;
}

uint64_t ingest_reason_reader(const char *reason)
{
    char prefix[DN_STALL_REASON_MAX + 1];
    unsigned long long node_id = 0;

    if (sscanf(reason, "node %llu", &node_id) != 1)
        return 0;
    size_t length = ingest_reader_prefix(node_id, prefix, sizeof prefix);
    return strncmp(reason, prefix, length) == 0 ? node_id : 0;
}

static bool word_of(const struct dn_ingest *ingest, uint32_t group, uint64_t node_id, int64_t *ret_ms)
{
    const struct dn_ingest_target *target = &ingest->options.target;
    char name[DN_READER_NAME_MAX];

    dn_reader_name(node_id, name);
    return target->next_offset(target->data, group, name, DN_READER_HEARD, ret_ms);
}

/* The leader before this one, or this node before it was started anew, knew it as silent: it is, until its
 * word moves. */
static bool was_silent(const struct dn_ingest *ingest, uint32_t group, uint64_t node_id)
{
    char said[DN_STALL_REASON_MAX + 1];

    return ingest->options.target.stalled(ingest->options.target.data, group, said) != 0 &&
           ingest_reason_reader(said) == node_id;
}

static const struct ingest_reader *find_reader(const struct ingest_reader *readers, size_t count,
                                               uint64_t node_id)
{
    for (size_t i = 0; i < count; i++)
        if (readers[i].node_id == node_id)
            return &readers[i];
    return NULL;
}

static void listen_to(struct dn_ingest *ingest, uint32_t number, const uint64_t *members, size_t count,
                      uint64_t pause_us)
{
    struct ingest_group *group = &ingest->groups[number];
    struct ingest_reader before[DN_MEMBERS_MAX];
    size_t before_count = group->reader_count;

    memcpy(before, group->readers, sizeof before);
    group->reader_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct ingest_reader reader = {.node_id = members[i], .moved_us = ingest->now_us};
        const struct ingest_reader *known = find_reader(before, before_count, members[i]);

        if (members[i] == ingest->options.node_id || !word_of(ingest, number, members[i], &reader.heard_ms))
            continue;
        if (known != NULL && known->heard_ms == reader.heard_ms)
            reader.moved_us = known->moved_us == 0 ? 0 : known->moved_us + pause_us;
        else if (known == NULL && was_silent(ingest, number, members[i]))
            reader.moved_us = 0;
        group->readers[group->reader_count++] = reader;
    }
}

void ingest_listen(struct dn_ingest *ingest)
{
    const struct dn_ingest_target *target = &ingest->options.target;
    uint64_t members[DN_MEMBERS_MAX], pause_us = ingest->now_us - ingest->heard_us;

    ingest->heard_us = ingest->now_us;
    size_t count = target->members != NULL ? target->members(target->data, members) : 0;
    if (count == 0)
        return;
    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        listen_to(ingest, group, members, count, pause_us > PAUSE_US ? pause_us : 0);
}

static uint64_t patience_us(const struct dn_ingest *ingest)
{
    return (ingest->options.stall_ms + INGEST_HEARD_MS) * 1000;
}

const struct ingest_reader *ingest_silent(const struct dn_ingest *ingest, uint32_t number)
{
    const struct ingest_group *group = &ingest->groups[number];
    const struct ingest_reader *silent = NULL;

    for (size_t i = 0; i < group->reader_count; i++) {
        const struct ingest_reader *reader = &group->readers[i];
        if (reader->moved_us + patience_us(ingest) < ingest->now_us &&
            (silent == NULL || reader->heard_ms < silent->heard_ms))
            silent = reader;
    }
    return silent;
}

/* ---- speaking
 * ------------------------------------------------------------------------------------------------- */

/* Consensus thread. What is lost is said again. */
static void on_word_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index,
                         const uint8_t *result, size_t length, const struct dn_error *err)
{
    struct ingest_word *word = proposal->data;

    (void)code;
    (void)index;
    (void)result;
    (void)length;
    (void)err;
    atomic_store(&word->out, false);
}

static void propose_word(struct dn_ingest *ingest, uint32_t number)
{
    struct ingest_word *word = &ingest->groups[number].word;

    word->said_us = ingest->now_us;
    if (word->record.failed)
        return;
    word->proposal = (struct dn_proposal){
        .group = number,
        .record = word->record.bytes,
        .length = word->record.length,
        .deadline_us = dn_monotonic_us() + INGEST_PROPOSAL_US,
        .done = on_word_done,
        .data = word,
    };
    atomic_store(&word->out, true);
    if (!ingest->options.target.propose(ingest->options.target.data, &word->proposal))
        atomic_store(&word->out, false);
}

static uint64_t say_every_us(const struct dn_ingest *ingest)
{
    uint64_t us = patience_us(ingest) / 2;

    return us < INGEST_WATCH_US ? INGEST_WATCH_US : us < INGEST_SAY_MAX_US ? us : INGEST_SAY_MAX_US;
}

/* fresh_ms moves backwards when the wall clock does; the word cannot, but that it moves is what counts. */
static void say_fresh(struct dn_ingest *ingest, uint32_t number, const char *name, bool known,
                      int64_t told_ms, int64_t fresh_ms)
{
    struct ingest_word *word = &ingest->groups[number].word;

    /* What an earlier life said stands until something is known to have got on in this one. */
    if (known && word->fresh_ms == 0)
        word->fresh_ms = fresh_ms;
    if (known && word->fresh_ms == fresh_ms)
        return;
    word->fresh_ms = fresh_ms;
    dn_record_stream(&word->record, name, DN_READER_HEARD, known ? 0 : DN_OFFSET_UNSET,
                     known && told_ms >= fresh_ms ? told_ms + 1 : fresh_ms, NULL, 0, NULL, 0);
    propose_word(ingest, number);
}

void ingest_say(const struct ingest_watch *watch, uint32_t number)
{
    struct dn_ingest *ingest = watch->ingest;
    struct ingest_word *word = &ingest->groups[number].word;
    char name[DN_READER_NAME_MAX];
    int64_t told_ms = DN_OFFSET_UNSET;

    if (ingest->options.target.members == NULL || atomic_load(&word->out) ||
        ingest->now_us - ingest->started_us < FIRST_WORD_US ||
        ingest->now_us - word->said_us < say_every_us(ingest))
        return;
    bool known = word_of(ingest, number, ingest->options.node_id, &told_ms);
    dn_reader_name(ingest->options.node_id, name);
    if (word->record.max == 0)
        dn_buffer_init(&word->record, WORD_BYTES_MAX);
    dn_buffer_clear(&word->record);
    if (ingest->has_own) {
        say_fresh(ingest, number, name, known, told_ms, watch->own_ms[number]);
    } else if (known) { /* it was configured to, once: nobody shall wait for it */
        dn_record_source(&word->record, name, DN_READER_HEARD, DN_OFFSET_UNSET, false);
        propose_word(ingest, number);
    }
}

static void say_in_log(const struct ingest_watch *watch, uint32_t number)
{
    struct dn_ingest *ingest = watch->ingest;
    bool any = false;

    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        any = any || watch->own_since_ms[group] != 0;
    if (any == ingest->own_stands || (any && watch->own_since_ms[number] == 0))
        return;
    ingest->own_stands = any;
    if (any)
        dn_warn("ingest", "streams that only this node reads stand still: %s", watch->own_reason[number]);
    else
        dn_info("ingest", "the streams that only this node reads run again");
}

void ingest_explain(const struct ingest_watch *watch, uint32_t number)
{
    struct dn_ingest *ingest = watch->ingest;
    char said[DN_STALL_REASON_MAX + 1], reason[DN_STALL_REASON_MAX + 1];

    say_in_log(watch, number);
    if (watch->own_since_ms[number] == 0 ||
        ingest->now_us - ingest->groups[number].stall_us < INGEST_REASON_US)
        return;
    int64_t since_ms = ingest->options.target.stalled(ingest->options.target.data, number, said);
    size_t prefix = ingest_reader_prefix(ingest->options.node_id, reason, sizeof reason);
    snprintf(reason + prefix, sizeof reason - prefix, "%s", watch->own_reason[number]);
    if (since_ms != 0 && strncmp(said, reason, prefix) == 0 && strcmp(said, reason) != 0)
        ingest_propose_stall(ingest, number, since_ms, reason);
}

void ingest_heard_free(struct dn_ingest *ingest)
{
    for (uint32_t group = 0; group < DN_GROUPS_MAX; group++)
        dn_buffer_free(&ingest->groups[group].word.record);
}
