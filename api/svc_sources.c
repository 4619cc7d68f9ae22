/* Sources.List and Sources.Set: how far the streams are read, and an operator's word on where to go on.
 *
 * Facts of two kinds are put together: what the shards hold (the same on every node), and what this node
 * knows of the partitions that it reads, because it leads their shards. */
#include "api/service.h"

#include "session/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SET_RESULT_BYTES 16

_Static_assert(DN_GROUPS_MAX <= DN_OPS_PER_CALL_MAX, "Set takes an op for each shard");

static char *text(const char *constant)
{
    return (char *)(uintptr_t)(constant ? constant : ""); /* protobuf-c does not write to it */
}

/* ---- what there is ---------------------------------------------------------------------------------------
 */

struct listing {
    Dunlin__V1__SourcePartition *partitions; /* of shards first, then of rows */
    size_t count, capacity;
    Dunlin__V1__SourceTrouble *troubles;
    size_t trouble_count, trouble_capacity;
};

static int compare(const void *a, const void *b)
{
    const Dunlin__V1__SourcePartition *x = a, *y = b;
    int rv = strcmp(x->stream, y->stream);
    if (rv != 0)
        return rv;
    if (x->partition != y->partition)
        return x->partition < y->partition ? -1 : 1;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    return (int)x->read_here - (int)y->read_here; /* what the shard holds comes before the row */
}

static bool take_view(struct dn_call *call, struct listing *listing, uint32_t group,
                      const struct dn_source_view *view)
{
    Dunlin__V1__SourcePartition *to = &listing->partitions[listing->count];
    dunlin__v1__source_partition__init(to);
    to->stream = dn_arena_strndup(call->arena, view->name, strlen(view->name));
    to->partition = view->partition;
    to->shard = group;
    to->known = view->next_offset != DN_OFFSET_UNSET;
    to->next_offset = view->next_offset;
    to->has_watermark = view->watermark_ms != INT64_MIN;
    to->watermark_ms = to->has_watermark ? view->watermark_ms : 0;
    to->has_newest = view->newest_ms != INT64_MIN;
    to->newest_ms = to->has_newest ? view->newest_ms : 0;
    to->events = view->events;
    to->finished = view->finished;
    to->begin_offset = to->end_offset = to->lag_records = to->lag_ms = -1;
    listing->count++;
    return to->stream != NULL;
}

/* In an epoch, in which the number of sources does not shrink. */
static bool take_shards(struct dn_call *call, struct listing *listing)
{
    const struct dn_app *app = dn_call_app(call);
    for (uint32_t group = 1; group <= app->options.shard_count; group++) {
        const struct dn_shard *shard = app->options.shards[group - 1];
        size_t room = dn_shard_sources(shard, NULL, 0);
        if (room > listing->capacity - listing->count)
            room = listing->capacity - listing->count;
        struct dn_source_view *views = room > 0 ? dn_arena_alloc(call->arena, room * sizeof *views) : NULL;
        if (room > 0 && !views)
            return false;
        size_t count = dn_shard_sources(shard, views, room);
        for (size_t i = 0; i < count && i < room; i++)
            if (views[i].partition != DN_PARTITION_CONTENTS && !take_view(call, listing, group, &views[i]))
                return false;
    }
    return true;
}

static bool take_row(struct dn_call *call, struct listing *listing, const struct dn_api_source_row *row)
{
    char *source = dn_arena_strndup(call->arena, row->source, strlen(row->source));
    char *error = dn_arena_strndup(call->arena, row->error, strlen(row->error));
    if (!source || !error)
        return false;
    if (row->group == 0) {
        Dunlin__V1__SourceTrouble *trouble = &listing->troubles[listing->trouble_count++];
        dunlin__v1__source_trouble__init(trouble);
        trouble->source = source;
        trouble->error = error;
        trouble->age_ms = row->lag_ms > 0 ? (uint64_t)row->lag_ms : 0;
        return true;
    }
    Dunlin__V1__SourcePartition *to = &listing->partitions[listing->count++];
    dunlin__v1__source_partition__init(to);
    to->stream = dn_arena_strndup(call->arena, row->stream, strlen(row->stream));
    to->partition = row->partition;
    to->shard = row->group;
    to->next_offset = DN_OFFSET_UNSET;
    to->read_here = true;
    to->source = source;
    to->state = (Dunlin__V1__PartitionState)row->state;
    to->keyed = row->keyed;
    to->begin_offset = row->begin_offset;
    to->end_offset = row->end_offset;
    to->lag_records = row->lag_records;
    to->lag_ms = row->lag_ms;
    to->stalled = row->stalled;
    to->error = error;
    return to->stream != NULL;
}

/* The row's facts into the entry of the shard's: they were made apart. */
static void join(Dunlin__V1__SourcePartition *held, const Dunlin__V1__SourcePartition *row)
{
    held->read_here = true;
    held->source = row->source;
    held->state = row->state;
    held->keyed = row->keyed;
    held->begin_offset = row->begin_offset;
    held->end_offset = row->end_offset;
    held->lag_records = row->lag_records;
    held->lag_ms = row->lag_ms;
    held->stalled = row->stalled;
    held->error = row->error;
}

static void sort_and_join(struct listing *listing)
{
    size_t kept = 0;
    if (listing->count == 0)
        return;
    qsort(listing->partitions, listing->count, sizeof *listing->partitions, compare);
    for (size_t i = 1; i < listing->count; i++) {
        Dunlin__V1__SourcePartition *last = &listing->partitions[kept], *next = &listing->partitions[i];
        if (next->read_here && !last->read_here && strcmp(last->stream, next->stream) == 0 &&
            last->partition == next->partition && last->shard == next->shard)
            join(last, next);
        else
            listing->partitions[++kept] = *next;
    }
    listing->count = kept + 1;
}

/* False: out of memory. */
static bool list(struct dn_call *call, struct listing *listing)
{
    const struct dn_app *app = dn_call_app(call);
    struct dn_api_source_row *rows = NULL;
    size_t row_count = 0, held = 0;
    if (app->options.source_rows)
        row_count = app->options.source_rows(app->options.source_data, NULL, 0);
    if (row_count > DN_SOURCE_ROWS_MAX)
        row_count = DN_SOURCE_ROWS_MAX;
    if (row_count > 0) {
        rows = dn_arena_alloc(call->arena, row_count * sizeof *rows);
        if (!rows)
            return false;
        size_t now = app->options.source_rows(app->options.source_data, rows, row_count);
        row_count = now < row_count ? now : row_count; /* they may have grown fewer */
    }
    dn_epoch_enter(call->thread->reader);
    for (uint32_t group = 1; group <= app->options.shard_count; group++)
        held += dn_shard_sources(app->options.shards[group - 1], NULL, 0);
    *listing = (struct listing){.capacity = held + row_count, .trouble_capacity = row_count};
    listing->partitions = dn_arena_alloc(call->arena, listing->capacity * sizeof *listing->partitions);
    listing->troubles = dn_arena_alloc(call->arena, listing->trouble_capacity * sizeof *listing->troubles);
    listing->capacity = held; /* of what the shards hold: more may have come meanwhile */
    bool fits = listing->partitions && listing->troubles && take_shards(call, listing);
    dn_epoch_leave(call->thread->reader);
    for (size_t i = 0; i < row_count && fits; i++)
        fits = take_row(call, listing, &rows[i]);
    if (fits)
        sort_and_join(listing);
    return fits;
}

/* ---- List ------------------------------------------------------------------------------------------------
 */

static bool shards_give(struct dn_call *call, Dunlin__V1__ListSourcesResponse *response)
{
    const struct dn_app *app = dn_call_app(call);
    uint32_t count = app->options.shard_count;
    Dunlin__V1__SourceShard *shards = dn_arena_alloc(call->arena, count * sizeof *shards);
    response->shards = dn_arena_alloc(call->arena, count * sizeof *response->shards);
    if (!shards || !response->shards)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        char reason[DN_STALL_REASON_MAX + 1] = "";
        struct dn_group_status status;
        dn_consensus_status(app->options.consensus, i + 1, &status);
        dunlin__v1__source_shard__init(&shards[i]);
        shards[i].shard = i + 1;
        shards[i].leader_id = status.leader_id;
        shards[i].leader = text(dn_member_name(app, status.leader_id));
        dn_epoch_enter(call->thread->reader);
        int64_t since_ms = dn_shard_stalled(app->options.shards[i], reason);
        dn_epoch_leave(call->thread->reader);
        shards[i].stalled = since_ms != 0;
        shards[i].stalled_ms = dn_stalled_for_ms(since_ms);
        shards[i].reason = dn_arena_strndup(call->arena, reason, since_ms != 0 ? strlen(reason) : 0);
        if (!shards[i].reason)
            return false;
        response->shards[i] = &shards[i];
    }
    response->n_shards = count;
    return true;
}

void dn_svc_source_list(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    if (!dn_call_unpack(call, &dunlin__v1__list_sources_request__descriptor, message, length))
        return;
    struct listing listing;
    Dunlin__V1__ListSourcesResponse response = DUNLIN__V1__LIST_SOURCES_RESPONSE__INIT;
    if (!list(call, &listing) || !shards_give(call, &response)) {
        dn_fail_memory(call);
        return;
    }
    response.partitions = dn_arena_alloc(call->arena, listing.count * sizeof *response.partitions);
    response.troubles = dn_arena_alloc(call->arena, listing.trouble_count * sizeof *response.troubles);
    if (!response.partitions || !response.troubles) {
        dn_fail_memory(call);
        return;
    }
    response.n_partitions = listing.count;
    for (size_t i = 0; i < listing.count; i++)
        response.partitions[i] = &listing.partitions[i];
    response.n_troubles = listing.trouble_count;
    for (size_t i = 0; i < listing.trouble_count; i++)
        response.troubles[i] = &listing.troubles[i];
    response.node = text(app->options.node_name);
    response.node_id = app->options.node_id;
    dn_call_reply(call, &response.base);
}

/* ---- Set -------------------------------------------------------------------------------------------------
 */

struct set {
    uint32_t groups[DN_GROUPS_MAX];
    int64_t held[DN_GROUPS_MAX]; /* what the shard holds */
    size_t count;
    int64_t next_offset;
    bool finished;
};

static bool add_group(struct set *set, uint32_t group, int64_t held)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->groups[i] == group)
            return false;
    set->held[set->count] = held;
    set->groups[set->count++] = group;
    return true;
}

/* The mark that every shard reads all of a stream may go with the rest of it. */
static bool finished_check(struct dn_call *call, const Dunlin__V1__SetSourceRequest *request)
{
    const struct dn_api_options *options = &dn_call_app(call)->options;
    if (request->next_offset != 0 || request->forget_watermark || request->forward_only) {
        dn_call_fail(call, DN_INVALID,
                     "finished: goes without next_offset, forget_watermark and forward_only");
        return false;
    }
    if (options->source_has && options->source_has(options->source_data, request->stream)) {
        dn_call_fail(
            call, DN_PRECONDITION,
            "stream: '%s' is read by this cluster: it is one of this node's sources, and there; take it "
            "out of the configuration of all nodes first, or delete the file",
            request->stream);
        return false;
    }
    return true;
}

static bool set_check(struct dn_call *call, const Dunlin__V1__SetSourceRequest *request)
{
    size_t length = strlen(request->stream);
    if (request->n_shards > dn_call_app(call)->options.shard_count) {
        dn_call_fail(call, DN_INVALID, "shards: %zu of them; there are %u", request->n_shards,
                     dn_call_app(call)->options.shard_count);
        return false;
    }
    if (length == 0 || length > DN_SOURCE_MAX) {
        dn_call_fail(call, DN_INVALID,
                     "stream: %zu bytes; its name as Sources.List gives it, from 1 to %d bytes", length,
                     DN_SOURCE_MAX);
        return false;
    }
    if (request->next_offset < DN_OFFSET_UNSET) {
        dn_call_fail(call, DN_INVALID, "next_offset: %" PRId64 "; from 0, or -1 to begin at the beginning",
                     request->next_offset);
        return false;
    }
    if (request->finished)
        return finished_check(call, request);
    if (request->partition == UINT32_MAX) {
        dn_call_fail(call, DN_INVALID,
                     "partition: %u is the mark that every shard reads all of '%s', and cannot be set: what "
                     "producers write to a new topic can be read as keyed",
                     request->partition, request->stream);
        return false;
    }
    if (request->stream[0] == '@' && request->next_offset != DN_OFFSET_UNSET) {
        dn_call_fail(call, DN_INVALID,
                     "next_offset: %" PRId64
                     "; '%s' is the word of a node on streams that only it reads, which "
                     "can be forgotten (-1), until that node gives it again",
                     request->next_offset, request->stream);
        return false;
    }
    if (request->forward_only && (request->forget_watermark || request->next_offset < 0)) {
        dn_call_fail(call, DN_INVALID,
                     "forward_only: goes with a next_offset from 0, and without forget_watermark");
        return false;
    }
    return true;
}

static int64_t held_by(const struct set *set, uint32_t group)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->groups[i] == group)
            return set->held[i];
    return DN_OFFSET_UNSET;
}

/* The shards that know the partition: a word on any other would only make an entry that stays for ever. */
static bool set_groups(struct dn_call *call, const Dunlin__V1__SetSourceRequest *request, struct set *ret)
{
    struct listing listing;
    if (!list(call, &listing)) {
        dn_fail_memory(call);
        return false;
    }
    struct set known = {.count = 0};
    for (size_t i = 0; i < listing.count; i++)
        if (strcmp(listing.partitions[i].stream, request->stream) == 0 &&
            listing.partitions[i].partition == request->partition)
            add_group(&known, listing.partitions[i].shard, listing.partitions[i].next_offset);
    if (known.count == 0) {
        dn_call_fail(
            call, DN_NOT_FOUND,
            "stream: no shard knows partition %u of '%s', and this node does not read it: Sources.List "
            "shows those there are; ask the leader of the shard",
            request->partition, request->stream);
        return false;
    }
    for (size_t i = 0; i < request->n_shards; i++) {
        if (add_group(&known, request->shards[i], 0)) {
            dn_call_fail(call, DN_NOT_FOUND, "shards[%zu]: shard %u knows no partition %u of '%s'", i,
                         request->shards[i], request->partition, request->stream);
            return false;
        }
        if (!add_group(ret, request->shards[i], held_by(&known, request->shards[i]))) {
            dn_call_fail(call, DN_INVALID, "shards[%zu]: %u stands there twice", i, request->shards[i]);
            return false;
        }
    }
    if (request->n_shards == 0)
        *ret = known;
    ret->next_offset = request->next_offset;
    ret->finished = request->finished;
    return true;
}

static bool move_fill(struct dn_call *call, const struct dn_op *op, const struct set *set,
                      int64_t next_offset, Dunlin__V1__SourceMove *move)
{
    struct dn_result result;
    char beyond[120];
    move->new_offset = next_offset;
    move->old_offset = DN_OFFSET_UNSET;
    if (op->code != DN_OK) {
        move->message = (char *)(uintptr_t)op->message;
        return true;
    }
    if (dn_result_parse(op->result, op->result_length, DN_RECORD_SOURCE, &result, NULL) != DN_OK) {
        move->message = text("the shard's answer is not understood: look at Sources.List");
        return true;
    }
    move->done = result.status == DN_RESULT_OK;
    if (move->done) {
        move->old_offset = result.next_offset;
    } else if (result.status == DN_RESULT_GAP) {
        int length = snprintf(beyond, sizeof beyond, "it is at offset %" PRId64 " by now, and %s",
                              result.next_offset, set->finished ? "is read still" : "stays there");
        move->old_offset = result.next_offset;
        move->message = dn_arena_strndup(call->arena, beyond, (size_t)length);
    } else {
        move->message = text(result.status == DN_RESULT_FULL ? "the shard knows as many streams as it may"
                                                             : "the shard refuses it: is every node as new?");
    }
    return move->message != NULL;
}

static void set_resume(struct dn_call *call)
{
    const struct set *set = call->state_of_method;
    struct dn_token token = {.count = 0};
    const struct dn_op *failed = NULL;
    size_t count = 0, answered = 0;
    Dunlin__V1__SourceMove moves[DN_GROUPS_MAX], *pointers[DN_GROUPS_MAX];
    for (const struct dn_op *op = call->ops; op; op = op->next, count++) {
        DN_ASSERT(count < set->count);
        dunlin__v1__source_move__init(&moves[count]);
        moves[count].shard = set->groups[count];
        if (!move_fill(call, op, set, set->finished ? set->held[count] : set->next_offset, &moves[count])) {
            dn_fail_memory(call);
            return;
        }
        pointers[count] = &moves[count];
        if (op->code == DN_OK) {
            answered++;
            dn_token_raise(&token, set->groups[count], op->index);
        } else {
            failed = failed ? failed : op;
        }
    }
    if (answered == 0) {
        DN_ASSERT(failed != NULL);
        dn_call_fail(call, failed->code, "%s (it may or may not have happened: look at Sources.List)",
                     failed->message);
        return;
    }
    Dunlin__V1__SetSourceResponse response = DUNLIN__V1__SET_SOURCE_RESPONSE__INIT;
    response.n_moves = count;
    response.moves = pointers;
    if (dn_token_give(call, &token, &response.token))
        dn_call_reply(call, &response.base);
}

struct record {
    uint8_t *bytes; /* in the arena */
    size_t length;
};

/* held: what the shard held when it was looked at; only there is a partition finished. False: no memory. */
static bool set_record(struct dn_call *call, const Dunlin__V1__SetSourceRequest *request, int64_t held,
                       struct record *ret)
{
    struct dn_buffer *scratch = &call->thread->scratch;
    dn_buffer_clear(scratch);
    if (request->finished)
        dn_record_source_finished(scratch, request->stream, request->partition, held);
    else if (request->forward_only)
        dn_record_source_forward(scratch, request->stream, request->partition, request->next_offset);
    else
        dn_record_source(scratch, request->stream, request->partition, request->next_offset,
                         request->forget_watermark);
    ret->length = scratch->length;
    ret->bytes = scratch->failed ? NULL : dn_arena_memdup(call->arena, scratch->bytes, scratch->length);
    return ret->bytes != NULL;
}

void dn_svc_source_set(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    Dunlin__V1__SetSourceRequest *request =
        dn_call_unpack(call, &dunlin__v1__set_source_request__descriptor, message, length);
    if (!request || !set_check(call, request))
        return;
    struct set *set = dn_arena_zalloc(call->arena, sizeof *set);
    if (!set) {
        dn_fail_memory(call);
        return;
    }
    if (!set_groups(call, request, set))
        return;
    struct record records[DN_GROUPS_MAX] = {{0}};
    for (size_t i = 0; i < set->count; i++)
        if (!set_record(call, request, set->held[i], &records[i])) {
            dn_fail_memory(call);
            return;
        }
    call->state_of_method = set;
    for (size_t i = 0; i < set->count; i++) {
        if (dn_call_op(call, SET_RESULT_BYTES))
            continue;
        for (struct dn_op *op = call->ops; op; op = op->next)
            dn_op_abandon(op, DN_EXHAUSTED, "not handed out");
        return;
    }
    size_t at = 0;
    for (struct dn_op *op = call->ops; op; op = op->next, at++)
        dn_op_propose(op, app->options.consensus, set->groups[at], records[at].bytes, records[at].length);
    dn_call_park(call, set_resume);
}
