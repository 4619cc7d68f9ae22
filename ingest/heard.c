/* Streams that only one node reads, and the shards that others lead.
 *
 * A node with streams of its own gives its word, in one shard, that it lives (DN_READER_HEARD, reader.h), all
 * the time; and to each shard, when they begin to stand still there and when they run again
 * (DN_READER_STANDS). The leader of a shard goes by the second, and measures by its own clock how long the
 * first has not moved. So there is one who says that a shard's streams stand still, its leader; a reader that
 * is stuck, dead or cut off is noticed; and one whose files bring nothing new is none of these.
 *
 * A node that is no member any more is not waited for: to remove it is the way to end the alarm for good. One
 * that reads no streams of its own any more takes its words back. */
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

static bool word_of(const struct dn_ingest *ingest, uint32_t group, uint64_t node_id, uint32_t partition,
                    int64_t *ret)
{
    const struct dn_ingest_target *target = &ingest->options.target;
    char name[DN_READER_NAME_MAX];

    dn_reader_name(node_id, name);
    return target->next_offset(target->data, group, name, partition, ret);
}

/* True, and since when: its streams stand still there, as it said. */
static bool says_stands(const struct dn_ingest *ingest, uint32_t group, uint64_t node_id,
                        int64_t *ret_since_ms)
{
    int64_t word;

    if (!word_of(ingest, group, node_id, DN_READER_STANDS, &word) || word % 2 == 0)
        return false;
    *ret_since_ms = word / 2;
    return true;
}

/* The leader before this one, or this node before it was started anew, knew it as silent: it is, until its
 * word moves. */
static bool was_silent(const struct dn_ingest *ingest, uint64_t node_id)
{
    char said[DN_STALL_REASON_MAX + 1];
    int64_t ignored;

    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        if (ingest->options.target.stalled(ingest->options.target.data, group, said) != 0 &&
            ingest_reason_reader(said) == node_id && !says_stands(ingest, group, node_id, &ignored))
            return true;
    return false;
}

static const struct ingest_reader *find_reader(const struct ingest_reader *readers, size_t count,
                                               uint64_t node_id)
{
    for (size_t i = 0; i < count; i++)
        if (readers[i].node_id == node_id)
            return &readers[i];
    return NULL;
}

static void listen_to(struct dn_ingest *ingest, const uint64_t *members, size_t count, uint64_t pause_us)
{
    struct ingest_reader before[DN_MEMBERS_MAX];
    size_t before_count = ingest->reader_count;

    memcpy(before, ingest->readers, sizeof before);
    ingest->reader_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct ingest_reader reader = {.node_id = members[i], .moved_us = ingest->now_us};
        const struct ingest_reader *known = find_reader(before, before_count, members[i]);

        if (members[i] == ingest->options.node_id ||
            !word_of(ingest, DN_READER_GROUP, members[i], DN_READER_HEARD, &reader.heard_ms))
            continue;
        if (known != NULL && known->heard_ms == reader.heard_ms)
            reader.moved_us = known->moved_us == 0 ? 0 : known->moved_us + pause_us;
        else if (known == NULL && was_silent(ingest, members[i]))
            reader.moved_us = 0;
        ingest->readers[ingest->reader_count++] = reader;
    }
}

static uint64_t patience_us(const struct dn_ingest *ingest)
{
    return (ingest->options.stall_ms + INGEST_HEARD_MS) * 1000;
}

/* While this node is behind in the shard that has the signs of life, that none comes says nothing of readers.
 */
static bool hears(const struct dn_ingest *ingest)
{
    const struct dn_ingest_target *target = &ingest->options.target;
    uint64_t age_us;

    return target->age_us == NULL ||
           (target->age_us(target->data, DN_READER_GROUP, &age_us) && age_us < patience_us(ingest) / 4);
}

void ingest_listen(struct dn_ingest *ingest)
{
    const struct dn_ingest_target *target = &ingest->options.target;
    uint64_t members[DN_MEMBERS_MAX], pause_us = ingest->now_us - ingest->heard_us;

    ingest->heard_us = ingest->now_us;
    size_t count = target->members != NULL ? target->members(target->data, members) : 0;
    if (count > 0)
        listen_to(ingest, members, count, pause_us > PAUSE_US || !hears(ingest) ? pause_us : 0);
}

uint64_t ingest_standing(const struct dn_ingest *ingest, uint32_t group, int64_t *ret_since_ms,
                         const char **ret_why)
{
    uint64_t found = 0;

    for (size_t i = 0; i < ingest->reader_count; i++) {
        const struct ingest_reader *reader = &ingest->readers[i];
        const char *why = "the streams that only it reads stand still: `dunlin source list` there says why";
        int64_t since_ms;

        if (reader->moved_us + patience_us(ingest) < ingest->now_us) {
            since_ms = reader->heard_ms;
            why = "nothing is heard of it, which alone reads its streams: it is down, or cut off";
        } else if (!says_stands(ingest, group, reader->node_id, &since_ms)) {
            continue;
        }
        if (found != 0 && since_ms >= *ret_since_ms)
            continue;
        found = reader->node_id;
        *ret_since_ms = since_ms;
        *ret_why = why;
    }
    return found;
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

/* Moves the word on: a lower one would change nothing. */
static void say_number(struct dn_ingest *ingest, uint32_t group, uint32_t partition, bool known,
                       int64_t number)
{
    char name[DN_READER_NAME_MAX];

    dn_reader_name(ingest->options.node_id, name);
    dn_record_stream(&ingest->groups[group].word.record, name, partition, known ? 0 : DN_OFFSET_UNSET, number,
                     NULL, 0, NULL, 0);
    propose_word(ingest, group);
}

/* What an earlier life said stands until something is known to have got on in this one, in every shard. */
static bool may_speak_well(struct dn_ingest *ingest)
{
    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        if (!ingest->groups[group].word.well)
            return false;
    return true;
}

static void look_whether_well(const struct ingest_watch *watch, uint32_t number)
{
    struct ingest_word *word = &watch->ingest->groups[number].word;

    if (word->first_ms == 0)
        word->first_ms = watch->own_ms[number];
    if (!watch->own_trouble && word->first_ms != watch->own_ms[number])
        word->well = true;
}

/* False: there is nothing to say. */
static bool say_stands(const struct ingest_watch *watch, uint32_t number)
{
    struct dn_ingest *ingest = watch->ingest;
    int64_t told = 0, since_ms = watch->own_since_ms[number];
    bool known = word_of(ingest, number, ingest->options.node_id, DN_READER_STANDS, &told);
    bool stands = since_ms != 0;

    if (stands == (told % 2 != 0) || (!stands && !ingest->groups[number].word.well))
        return false;
    int64_t word = 2 * (stands ? since_ms : watch->now_ms) + stands;
    if (word <= told) /* the wall clock was set back */
        word = told + 1;
    say_number(ingest, number, DN_READER_STANDS, known, word);
    return true;
}

static void say_heard(const struct ingest_watch *watch, uint32_t number)
{
    struct dn_ingest *ingest = watch->ingest;
    struct ingest_word *word = &ingest->groups[number].word;
    int64_t told_ms = 0;

    if (ingest->now_us - word->heard_us < say_every_us(ingest))
        return;
    bool known = word_of(ingest, number, ingest->options.node_id, DN_READER_HEARD, &told_ms);
    if (known && !may_speak_well(ingest))
        return;
    word->heard_us = ingest->now_us;
    say_number(ingest, number, DN_READER_HEARD, known, watch->now_ms > told_ms ? watch->now_ms : told_ms + 1);
}

/* It was configured to read some, once: nobody shall wait for it. */
static void take_back(struct dn_ingest *ingest, uint32_t number, uint32_t partition)
{
    struct ingest_word *word = &ingest->groups[number].word;
    char name[DN_READER_NAME_MAX];
    int64_t ignored;

    if (atomic_load(&word->out) || !word_of(ingest, number, ingest->options.node_id, partition, &ignored))
        return;
    dn_buffer_clear(&word->record);
    dn_reader_name(ingest->options.node_id, name);
    dn_record_source(&word->record, name, partition, DN_OFFSET_UNSET, false);
    propose_word(ingest, number);
}

void ingest_say(const struct ingest_watch *watch, uint32_t number)
{
    struct dn_ingest *ingest = watch->ingest;
    struct ingest_word *word = &ingest->groups[number].word;

    if (ingest->options.target.members == NULL || ingest->now_us - ingest->started_us < FIRST_WORD_US)
        return;
    look_whether_well(watch, number);
    if (atomic_load(&word->out) || ingest->now_us - word->said_us < INGEST_WATCH_US)
        return;
    if (word->record.max == 0)
        dn_buffer_init(&word->record, WORD_BYTES_MAX);
    dn_buffer_clear(&word->record);
    if (!ingest->has_own) {
        take_back(ingest, number, DN_READER_HEARD);
        take_back(ingest, number, DN_READER_STANDS);
    } else if (!say_stands(watch, number) && number == DN_READER_GROUP) {
        say_heard(watch, number);
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
    ingest_reason_of(ingest->options.node_id, watch->own_reason[number], reason);
    if (since_ms != 0 && strncmp(said, reason, prefix) == 0 && strcmp(said, reason) != 0)
        ingest_propose_stall(ingest, number, since_ms, reason);
}

void ingest_heard_free(struct dn_ingest *ingest)
{
    for (uint32_t group = 0; group < DN_GROUPS_MAX; group++)
        dn_buffer_free(&ingest->groups[group].word.record);
}
