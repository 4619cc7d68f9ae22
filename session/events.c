/* One event into its user's block, and the erase of a user.
 *
 * The happy path: find the block, judge the event (duplicate, erased, ahead, late, full), make room, build
 * the new block beside the old one, publish it, adjust the sums. Judging changes nothing; a refused event
 * leaves no trace but a counter, and the order of the idle list where no room was found for a new user. */
#include "base/error.h"
#include "base/mutant.h"
#include "session/core.h"

#include <string.h>

static int64_t max_ms(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min_ms(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How many ids of the block's window may still come again under the floor, and whether `id` is one of the
 * block's. */
static uint32_t window_scan(const struct dn_block *block, uint64_t id, int64_t floor_ms, bool *ret_found)
{
    uint32_t live = 0;
    *ret_found = false;
    for (size_t i = 0; i < block->event_count; i++) {
        const struct dn_event *event = &block->events[i];
        if (event->id != 0 && event->time_ms >= block->floor_ms) {
            *ret_found |= event->id == id;
            live += event->time_ms >= floor_ms;
        }
    }
    const struct dn_window_id *ids = dn_block_ids(block);
    for (size_t i = 0; i < block->id_count; i++) {
        *ret_found |= ids[i].id == id; /* ids below block->floor_ms were left out when it was built */
        live += ids[i].time_ms >= floor_ms;
    }
    return live;
}

/* ---- sessions -------------------------------------------------------------------------------------- */

static void count(struct dn_block *block, uint8_t type)
{
    uint16_t *of_type = &block->counts[type - 1];
    *of_type = *of_type == UINT16_MAX ? UINT16_MAX : (uint16_t)(*of_type + 1);
    block->session_events += block->session_events != UINT32_MAX;
}

/* Sets start, counts and session_events of `block` after `event` came to `old` (NULL: the first). */
static void session_update(struct dn_block *block, const struct dn_block *old, const struct dn_event *event,
                           int64_t gap_ms)
{
    if (old == NULL || event->time_ms > old->events[old->event_count - 1].time_ms + gap_ms) {
        block->start_ms = event->time_ms;
        block->session_events = 0;
        memset(block->counts, 0, sizeof block->counts);
        count(block, event->type);
        return;
    }
    block->start_ms = old->start_ms;
    block->session_events = old->session_events;
    memcpy(block->counts, old->counts, sizeof block->counts);
    if (event->time_ms < old->start_ms - gap_ms) {
        return; /* history */
    }
    count(block, event->type);
    if (event->time_ms >= old->start_ms) {
        return;
    }
    /* It begins the session earlier, and may join what came before to it. */
    block->start_ms = event->time_ms;
    for (size_t i = old->event_count; i-- > 0;) {
        const struct dn_event *before = &old->events[i];
        if (before->time_ms >= old->start_ms) {
            continue;
        }
        if (before->time_ms < block->start_ms - gap_ms) {
            break;
        }
        block->start_ms = min_ms(block->start_ms, before->time_ms);
        count(block, before->type);
    }
}

/* ---- the new block --------------------------------------------------------------------------------- */

struct plan { /* of old's events with the new one at `at`, the first `drop` are left out */
    size_t at, total, drop;
    size_t ids_kept; /* of old's window ids */
    size_t ids_added;
};

static const struct dn_event *nth(const struct dn_block *old, const struct dn_event *event,
                                  const struct plan *plan, size_t n)
{
    return n < plan->at ? &old->events[n] : n == plan->at ? event : &old->events[n - 1];
}

static struct plan plan_make(const struct dn_block *old, const struct dn_event *event, size_t events_max,
                             int64_t floor_ms)
{
    struct plan plan = {.total = 1};
    if (old == NULL) {
        return plan;
    }
    plan.at = old->event_count;
    while (plan.at > 0 && old->events[plan.at - 1].time_ms > event->time_ms) {
        plan.at--;
    }
    plan.total = (size_t)old->event_count + 1;
    plan.drop = plan.total > events_max ? plan.total - events_max : 0;
    for (size_t i = 0; i < old->id_count; i++) {
        plan.ids_kept += dn_block_ids(old)[i].time_ms >= floor_ms;
    }
    for (size_t i = 0; i < plan.drop; i++) {
        const struct dn_event *dropped = nth(old, event, &plan, i);
        plan.ids_added += dropped->id != 0 && dropped->time_ms >= floor_ms;
    }
    return plan;
}

static void copy_events(struct dn_block *block, const struct dn_block *old, const struct dn_event *event,
                        const struct plan *plan)
{
    struct dn_event *to = block->events;
    if (plan->at > plan->drop) {
        DN_ASSERT(old != NULL); /* nothing stands before the first event of a user */
        size_t before = plan->at - plan->drop;
        memcpy(to, old->events + plan->drop, before * sizeof *to);
        to += before;
    }
    if (plan->at >= plan->drop) {
        *to++ = *event;
    }
    size_t from = plan->at >= plan->drop ? plan->at : plan->drop - 1;
    size_t behind = plan->total - 1 - from;
    if (behind > 0) {
        DN_ASSERT(old != NULL);
        memcpy(to, old->events + from, behind * sizeof *to);
    }
}

static bool has_item(const struct dn_block *block, uint32_t item)
{
    for (size_t i = 0; i < block->event_count; i++) {
        if (block->events[i].item == item) {
            return true;
        }
    }
    return false;
}

/* Window ids of the new block, and the sums and references of what is left out. */
static void settle_dropped(struct dn_core *core, struct dn_block *block, const struct dn_block *old,
                           const struct dn_event *event, const struct plan *plan)
{
    struct dn_window_id *to = (struct dn_window_id *)(void *)(block->events + block->event_count);
    for (size_t i = 0; i < old->id_count; i++) {
        const struct dn_window_id *id = &dn_block_ids(old)[i];
        if (id->time_ms >= block->floor_ms) {
            *to++ = *id;
        } else {
            core->sum -= dn_window_id_hash(block->user, id);
        }
    }
    for (size_t i = 0; i < plan->drop; i++) {
        const struct dn_event *dropped = nth(old, event, plan, i);
        if (dropped->id != 0 && dropped->time_ms >= block->floor_ms) {
            *to = (struct dn_window_id){.id = dropped->id, .time_ms = dropped->time_ms};
            core->sum += dn_window_id_hash(block->user, to++);
        }
        dn_item_unref(core, dropped->item);
    }
}

/* Adds the new event to the sum and takes out what is dropped. Events of the dropped one's time that stay
 * move up in rank. */
static void sum_events(struct dn_core *core, struct dn_hash128 user, const struct dn_block *old,
                       const struct dn_event *event, uint64_t item_hash, const struct plan *plan)
{
    uint32_t rank = 0;
    while (rank < plan->at && old->events[plan->at - rank - 1].time_ms == event->time_ms) {
        rank++;
    }
    core->sum += dn_event_hash(user, event, item_hash, rank);
    int64_t before_ms = -1;
    rank = 0;
    for (size_t i = 0; plan->drop > 0 && i < plan->total; i++) {
        const struct dn_event *at = nth(old, event, plan, i);
        rank = at->time_ms == before_ms ? rank + 1 : 0;
        if (i >= plan->drop && rank == 0) {
            break;
        }
        uint64_t hash = dn_item_hash(core, at->item);
        core->sum -= dn_event_hash(user, at, hash, rank);
        if (i >= plan->drop) {
            core->sum += dn_event_hash(user, at, hash, (uint32_t)(i - plan->drop));
        }
        before_ms = at->time_ms;
    }
}

/* Items that the user's list has no more. */
static void leave_dropped(struct dn_core *core, uint32_t user, const struct dn_block *block,
                          const struct dn_block *old, const struct dn_event *event, const struct plan *plan)
{
    for (size_t i = 0; i < plan->drop; i++) {
        uint32_t item = nth(old, event, plan, i)->item;
        if (!has_item(block, item)) {
            dn_near_leave(core, item, user, block->user);
        }
    }
}

static struct dn_block *block_build(struct dn_core *core, const struct dn_block *old,
                                    const struct dn_arrival *arrival, const struct dn_event *event,
                                    int64_t floor_ms, struct plan *ret_plan)
{
    const struct dn_shard_settings *settings = &core->meta.settings;
    struct plan plan = plan_make(old, event, settings->events_per_user, floor_ms);
    *ret_plan = plan;
    size_t events = plan.total - plan.drop, ids = plan.ids_kept + plan.ids_added;
    struct dn_block *block = dn_slab_alloc(core->slab, dn_block_bytes(events, ids));
    block->user = arrival->in.user;
    block->version = arrival->index;
    block->arrival_ms = core->meta.time_ms;
    block->touch = ++core->meta.touch;
    block->floor_ms = floor_ms;
    block->generation = core->generation;
    block->event_count = (uint16_t)events;
    block->id_count = (uint16_t)ids;
    block->reserved = 0;
    session_update(block, old, event, settings->gap_ms);
    copy_events(block, old, event, &plan);
    sum_events(core, block->user, old, event, arrival->item_hash, &plan);
    if (old != NULL) {
        settle_dropped(core, block, old, event, &plan);
        core->sum -= dn_block_hash(old);
    }
    core->sum += dn_block_hash(block);
    return block;
}

/* ---- one event ------------------------------------------------------------------------------------- */

/* The floor of a user without a block: core.h, invariants 5b and 5c. */
static int64_t new_user_floor(const struct dn_core *core, int64_t erased_until_ms)
{
    return max_ms(core->meta.forget_floor_ms, erased_until_ms + 1);
}

/* A place for one more user: by eviction if need be. */
static bool user_room(struct dn_core *core)
{
    if (core->users.live < core->meta.settings.users_max) {
        return true;
    }
    if (!dn_user_forget(core, INT64_MAX)) {
        return false;
    }
    core->meta.evicted++;
    return core->users.live < core->meta.settings.users_max;
}

enum dn_outcome dn_event_apply(struct dn_core *core, const struct dn_arrival *arrival, bool from_api)
{
    const struct dn_event_in *in = &arrival->in;
    struct dn_meta *meta = &core->meta;
    const struct dn_shard_settings *settings = &meta->settings;
    uint32_t id = dn_user_find(core, in->user);
    const struct dn_block *old = id != DN_ID_NONE ? dn_user_block(core, id) : NULL;
    int64_t until_ms = dn_tombstone_until(core, in->user);
    int64_t floor_ms = old != NULL ? old->floor_ms : new_user_floor(core, until_ms);
    int64_t next_floor_ms = floor_ms;
    uint32_t window = 0;
    bool repeated = false;
    if (from_api) {
        next_floor_ms = max_ms(floor_ms, min_ms(in->time_ms, meta->time_ms) - settings->lateness_ms);
        if (old != NULL) {
            window = window_scan(old, in->event_id, next_floor_ms, &repeated);
        }
    }
    if (repeated && !dn_mutant(DN_MUTANT_SKIP_DEDUPLICATION)) {
        return DN_OUTCOME_DUPLICATE;
    }
    if (in->time_ms <= until_ms) {
        return DN_OUTCOME_ERASED;
    }
    if (in->time_ms > meta->time_ms + settings->ahead_ms) {
        return DN_OUTCOME_AHEAD;
    }
    if (from_api && in->time_ms < floor_ms) {
        return DN_OUTCOME_LATE;
    }
    if (from_api && window >= settings->ids_per_user) {
        return DN_OUTCOME_WINDOW_FULL;
    }
    uint32_t item = dn_item_find(core, arrival->item_hash, in->item, in->item_length);
    if (item == DN_ID_NONE && !dn_item_room(core)) {
        return DN_OUTCOME_NO_ROOM;
    }
    if (old == NULL) {
        if (!user_room(core)) {
            return DN_OUTCOME_NO_ROOM;
        }
        /* Making room may have raised the forget floor, even above this event: it is accepted all the same,
         * since nothing of this user was counted that it could repeat; its floor only has to hold from now.
         */
    }
    if (item == DN_ID_NONE) {
        item = dn_item_add(core, arrival->item_hash, in->item, in->item_length);
    }
    dn_item_ref(core, item);
    struct dn_event event = {
        .time_ms = in->time_ms,
        .id = from_api ? in->event_id : 0,
        .item = item,
        .weight = in->weight,
        .type = in->type,
    };
    struct plan plan;
    struct dn_block *block = block_build(core, old, arrival, &event, next_floor_ms, &plan);
    bool had = old != NULL && has_item(old, item);
    if (old != NULL) {
        leave_dropped(core, id, block, old, &event, &plan);
        dn_user_replace(core, id, block);
    } else {
        id = dn_user_add(core, block);
    }
    if (plan.at >= plan.drop) {
        dn_near_add(core, id, block, plan.at - plan.drop, had);
    }
    if (in->type != DN_EVENT_DISLIKE && in->type != DN_EVENT_REMOVE) {
        dn_trend_add(core, item, in->time_ms, in->weight);
        dn_popular_add(core, item, in->time_ms, in->weight);
    }
    meta->events_applied++;
    meta->max_event_ms = max_ms(meta->max_event_ms, in->time_ms);
    if (plan.at + 1 == plan.total && block->session_events > 1) {
        dn_shard_tell(core->shard, in->user, in->type);
    }
    const struct dn_applied applied = {.user = in->user,
                                       .item_hash = arrival->item_hash,
                                       .time_ms = in->time_ms,
                                       .type = (enum dn_event_type)in->type};
    dn_shard_tell_applied(core->shard, &applied);
    return DN_OUTCOME_ACCEPTED;
}

/* ---- erase ----------------------------------------------------------------------------------------- */

bool dn_erase_apply(struct dn_core *core, struct dn_hash128 user, int64_t until_ms, uint64_t request_id,
                    bool *ret_existed)
{
    const struct dn_tombstone *repeated = dn_tombstone_find(core, user, request_id);
    if (repeated != NULL) {
        *ret_existed = repeated->existed;
        return true;
    }
    if (!dn_tombstone_room(core)) {
        return false;
    }
    int64_t reach_ms = max_ms(until_ms, dn_tombstone_until(core, user));
    uint32_t id = dn_user_find(core, user);
    if (id != DN_ID_NONE) {
        const struct dn_block *block = dn_user_block(core, id);
        reach_ms = max_ms(reach_ms, block->floor_ms - 1);
        reach_ms = max_ms(reach_ms, block->events[block->event_count - 1].time_ms);
        dn_user_remove(core, id);
    }
    struct dn_tombstone tombstone = {
        .user = user,
        .until_ms = reach_ms,
        .request_id = request_id,
        .order = ++core->meta.erase_order,
        .existed = id != DN_ID_NONE,
    };
    dn_tombstone_add(core, &tombstone);
    core->meta.erased += tombstone.existed;
    *ret_existed = tombstone.existed;
    dn_shard_tell_erased(core->shard, user);
    return true;
}
