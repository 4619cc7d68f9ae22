/* The letters of one group that are on their way, and the proposals that take them out of the queue. */
#include "ingest/deadletter_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <string.h>

_Static_assert(DN_DEAD_MAX % 64 == 0, "whole words");

static bool get(const uint64_t *bits, uint64_t number)
{
    uint64_t bit = number % DN_DEAD_MAX;
    return (bits[bit / 64] >> bit % 64 & 1) != 0;
}

static void put(uint64_t *bits, uint64_t number, bool value)
{
    uint64_t bit = number % DN_DEAD_MAX, mask = (uint64_t)1 << bit % 64;
    bits[bit / 64] = value ? bits[bit / 64] | mask : bits[bit / 64] & ~mask;
}

/* The queue may have moved on since: another leader wrote the letter too. */
static bool known(const struct group *group, uint64_t number)
{
    return number >= group->base && number - group->base < DN_DEAD_MAX;
}

bool dead_group_is_taken(const struct group *group, uint64_t number)
{
    return get(group->taken, number);
}

bool dead_group_is_written(const struct group *group, uint64_t number)
{
    return get(group->written, number);
}

void dead_group_take(struct group *group, uint64_t number)
{
    DN_ASSERT(known(group, number) && !get(group->taken, number));
    put(group->taken, number, true);
}

void dead_group_untake(struct group *group, uint64_t number)
{
    if (!known(group, number))
        return;
    put(group->taken, number, false);
    if (number < group->looked)
        group->looked = number;
}

void dead_group_written(struct group *group, uint64_t number)
{
    if (known(group, number))
        put(group->written, number, true);
}

static uint64_t first_unset(const struct group *group, const uint64_t *bits, uint64_t from)
{
    uint64_t end = group->base + DN_DEAD_MAX;
    for (; from < end; from++) {
        if (from % 64 == 0 && end - from >= 64 && bits[from % DN_DEAD_MAX / 64] == UINT64_MAX)
            from += 63;
        else if (!get(bits, from))
            return from;
    }
    return end;
}

uint64_t dead_group_next_free(const struct group *group, uint64_t from)
{
    return first_unset(group, group->taken, from);
}

void dead_group_advance(struct group *group, uint64_t oldest)
{
    if (oldest < group->base) {
        /* Numbers never go back in one cluster's life; if they do, what was remembered is worth nothing. */
        dn_err("deadletter", "shard %" PRIu32 ": the queue goes back from letter %" PRIu64 " to %" PRIu64,
               group->number, group->base, oldest);
    }
    if (oldest < group->base)
        group->accepted = group->looked = group->settled = group->own = 0;
    if (oldest < group->base || oldest - group->base >= DN_DEAD_MAX) {
        memset(group->taken, 0, sizeof group->taken);
        memset(group->written, 0, sizeof group->written);
    } else {
        for (uint64_t number = group->base; number < oldest; number++) {
            put(group->taken, number, false);
            put(group->written, number, false);
        }
    }
    group->base = oldest;
}

struct group *dead_group_of(struct dn_deadletters *d, uint32_t number)
{
    DN_ASSERT(number >= 1 && number <= d->options.shard_count);
    return &d->groups[number - 1];
}

/* ---- proposals --------------------------------------------------------------------------------------- */

/* On consensus' thread. */
static void on_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index, const uint8_t *result,
                    size_t result_length, const struct dn_error *err)
{
    struct group *group = proposal->data;
    struct dn_deadletters *d = group->owner;
    struct dn_result answer;
    struct dn_error fault = {.message = ""};

    (void)index;
    if (code != DN_OK)
        fault = *err;
    else
        code =
            dn_result_parse(result, result_length,
                            group->proposed_own ? DN_RECORD_STREAM : DN_RECORD_DEAD_WRITTEN, &answer, &fault);
    if (code == DN_OK && answer.status == DN_RESULT_FULL)
        code = dn_fail(&fault, DN_EXHAUSTED, "the shard knows 4,096 partitions of streams");
    else if (code == DN_OK && answer.status != DN_RESULT_OK)
        code = dn_fail(&fault, DN_INTERNAL, "the shard refused it (status %d)", (int)answer.status);
    pthread_mutex_lock(&d->mutex);
    DN_ASSERT(group->proposed && !group->answered);
    group->answered = true;
    group->answer = code;
    snprintf(group->answer_text, sizeof group->answer_text, "%s", fault.message);
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->mutex);
}

static void group_failed(struct group *group, const char *text)
{
    char who[64];
    snprintf(who, sizeof who, "shard %" PRIu32, group->number);
    if (group->propose_failures != NULL)
        dn_counter_add(group->propose_failures, 1);
    dead_patience_failed(&group->patience, who, text);
}

/* True: an answer came. *ret_free: nothing is under way. */
static bool take_answer(struct dn_deadletters *d, struct group *group, bool *ret_free)
{
    char text[DN_SOURCE_TEXT_MAX * 2], who[64];

    pthread_mutex_lock(&d->mutex);
    bool answered = group->proposed && group->answered;
    enum dn_code code = group->answer;
    if (answered) {
        snprintf(text, sizeof text, "propose that dead letters are written: %s: %s", dn_code_text(code),
                 group->answer_text);
        group->proposed = group->answered = false;
    }
    *ret_free = !group->proposed;
    pthread_mutex_unlock(&d->mutex);
    if (!answered)
        return false;
    snprintf(who, sizeof who, "shard %" PRIu32, group->number);
    if (code == DN_OK) {
        if (!group->proposed_own)
            group->accepted = group->proposed_before;
        dead_patience_good(&group->patience, who);
    } else {
        group_failed(group, text);
    }
    return true;
}

static void set_proposed(struct dn_deadletters *d, struct group *group, bool proposed)
{
    pthread_mutex_lock(&d->mutex);
    group->proposed = proposed;
    group->answered = false;
    pthread_mutex_unlock(&d->mutex);
}

/* False: it could not even be begun. */
static bool propose(struct dn_deadletters *d, struct group *group, uint64_t before, bool own)
{
    dn_buffer_clear(&group->record);
    if (own)
        dead_own_record(d, group, before);
    else
        dn_record_dead_written(&group->record, before);
    if (group->record.failed) {
        group_failed(group, "out of memory");
        return false;
    }
    group->proposal = (struct dn_proposal){
        .group = group->number,
        .record = group->record.bytes,
        .length = group->record.length,
        .deadline_us = dn_monotonic_us() + PROPOSAL_US,
        .done = on_done,
        .data = group,
    };
    group->proposed_before = before;
    group->proposed_own = own;
    if (!dead_ask(d))
        return false;
    set_proposed(d, group, true); /* before: `done` may run at once */
    bool taken = d->options.target.propose(d->options.target.data, &group->proposal);
    if (!taken)
        set_proposed(d, group, false);
    dead_asked(d);
    if (!taken)
        group_failed(group, "too many proposals wait on this node");
    return taken;
}

bool dead_group_propose(struct dn_deadletters *d, struct group *group, bool *ret_under_way)
{
    bool nothing_under_way;
    bool answered = take_answer(d, group, &nothing_under_way);

    bool may = nothing_under_way && dead_patience_ready(&group->patience, dn_monotonic_us());
    uint64_t before = first_unset(group, group->written, group->base);
    if (may && group->led && before > group->base && before > group->accepted)
        nothing_under_way = !propose(d, group, before, false);
    else if (may && !group->led && dead_own_written(d, group, &before))
        nothing_under_way = !propose(d, group, before, true);
    *ret_under_way = !nothing_under_way;
    return answered;
}
