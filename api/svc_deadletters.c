/* DeadLetters.List: what waits in the shards' queues, and how much there ever was. Replicated facts: the same
 * on every node, as far as it has applied them. */
#include "api/service.h"

#include "session/record.h"

#include <string.h>

#define LETTERS_DEFAULT 100

_Static_assert(DN_DEAD_REASON_MAX < 8, "struct dn_shard_stats counts 7 reasons");

static char *text(const char *constant)
{
    return (char *)(uintptr_t)constant; /* protobuf-c does not write to it */
}

struct listing {
    Dunlin__V1__ListDeadLettersResponse response;
    uint32_t max;
};

static bool letters_give(struct dn_call *call, struct listing *listing, uint32_t group,
                         struct dn_dead_letter *scratch, uint64_t from)
{
    size_t count =
        dn_shard_dead_letters(dn_call_app(call)->options.shards[group - 1], from, scratch, listing->max);
    Dunlin__V1__DeadLetter *letters = dn_arena_alloc(call->arena, count * sizeof *letters);
    if (!letters)
        return false;
    for (size_t i = 0; i < count; i++) {
        dunlin__v1__dead_letter__init(&letters[i]);
        letters[i].shard = group;
        letters[i].number = scratch[i].number;
        letters[i].reason = text(dn_dead_reason_text(scratch[i].reason));
        letters[i].stream = dn_arena_strndup(call->arena, scratch[i].source, strlen(scratch[i].source));
        letters[i].partition = scratch[i].partition;
        letters[i].offset = scratch[i].offset;
        letters[i].judged_ms = scratch[i].time_ms;
        if (!letters[i].stream)
            return false;
        listing->response.letters[listing->response.n_letters++] = &letters[i];
    }
    return true;
}

static bool counts_give(struct dn_call *call, const struct dn_shard *shard, Dunlin__V1__DeadLetterShard *to)
{
    struct dn_shard_stats stats;
    Dunlin__V1__DeadLetterCount *counts = dn_arena_alloc(call->arena, DN_DEAD_REASON_MAX * sizeof *counts);
    to->counts = dn_arena_alloc(call->arena, DN_DEAD_REASON_MAX * sizeof *to->counts);
    if (!counts || !to->counts)
        return false;
    dn_shard_stats(shard, &stats);
    for (unsigned reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        Dunlin__V1__DeadLetterCount *count = &counts[reason - 1];
        if (stats.dead[reason] == 0)
            continue;
        dunlin__v1__dead_letter_count__init(count);
        count->reason = text(dn_dead_reason_text((uint8_t)reason));
        count->count = stats.dead[reason];
        to->counts[to->n_counts++] = count;
    }
    return true;
}

static bool shard_give(struct dn_call *call, struct listing *listing, uint32_t group,
                       struct dn_dead_letter *scratch)
{
    const struct dn_shard *shard = dn_call_app(call)->options.shards[group - 1];
    Dunlin__V1__DeadLetterShard *to = dn_arena_alloc(call->arena, sizeof *to);
    uint64_t written, next;
    if (!to)
        return false;
    dunlin__v1__dead_letter_shard__init(to);
    dn_shard_dead_range(shard, &written, &next);
    to->shard = group;
    to->waiting = next - written;
    to->written = written;
    listing->response.shards[listing->response.n_shards++] = to;
    return counts_give(call, shard, to) && letters_give(call, listing, group, scratch, written);
}

void dn_svc_dead_letter_list(struct dn_call *call, const uint8_t *message, size_t length)
{
    uint32_t shard_count = dn_call_app(call)->options.shard_count;
    Dunlin__V1__ListDeadLettersRequest *request =
        dn_call_unpack(call, &dunlin__v1__list_dead_letters_request__descriptor, message, length);
    if (!request)
        return;
    if (request->shard > shard_count) {
        dn_call_fail(call, DN_INVALID, "shard: %u; from 1 to %u, or 0 for all", request->shard, shard_count);
        return;
    }
    if (request->max > DN_DEAD_LETTERS_PER_CALL_MAX) {
        dn_call_fail(call, DN_INVALID, "max: %u; at most %d letters of each shard", request->max,
                     DN_DEAD_LETTERS_PER_CALL_MAX);
        return;
    }
    struct listing listing = {.response = DUNLIN__V1__LIST_DEAD_LETTERS_RESPONSE__INIT,
                              .max = request->max ? request->max : LETTERS_DEFAULT};
    uint32_t first = request->shard ? request->shard : 1,
             last = request->shard ? request->shard : shard_count;
    size_t shards = last - first + 1;
    struct dn_dead_letter *scratch = dn_arena_alloc(call->arena, listing.max * sizeof *scratch);
    listing.response.letters =
        dn_arena_alloc(call->arena, shards * listing.max * sizeof *listing.response.letters);
    listing.response.shards = dn_arena_alloc(call->arena, shards * sizeof *listing.response.shards);
    bool fits = scratch && listing.response.letters && listing.response.shards;
    dn_epoch_enter(call->thread->reader);
    for (uint32_t group = first; group <= last && fits; group++)
        fits = shard_give(call, &listing, group, scratch);
    dn_epoch_leave(call->thread->reader);
    if (fits)
        dn_call_reply(call, &listing.response.base);
    else
        dn_fail_memory(call);
}
