/* Near, as readers see it: near.h. */
#include "session/near_private.h"

#include <math.h>
#include <string.h>

#define PREFETCH_LINES 5u /* of a user's block: 9 events */

static uint32_t load16(const uint16_t *from)
{
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}

static uint32_t load32(const uint32_t *from)
{
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}

static uint64_t load64(const uint64_t *from)
{
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}

static uint64_t hash_of(const struct dn_core *core, uint32_t id)
{
    const struct dn_item_slot *slot = dn_near_slot(core, id);

    return slot != NULL ? atomic_load_explicit(&slot->hash, memory_order_relaxed) : 0;
}

/* Where the tables are off, what is in them is as old as that. */
static bool is_on(const struct dn_core *core)
{
    return atomic_load_explicit(&core->near_on, memory_order_relaxed);
}

/* Of the halvings that nobody has written into the row yet. */
static float decay(const struct dn_core *core, const struct dn_row *row)
{
    uint32_t halvings = atomic_load_explicit(&core->near_epoch, memory_order_relaxed) - row->epoch;

    return ldexpf(1, -(int)(halvings < 64 ? halvings : 64));
}

uint32_t dn_near_user(const struct dn_shard *shard, struct dn_hash128 user)
{
    return dn_user_find(dn_shard_core(shard), user);
}

uint32_t dn_near_find(const struct dn_shard *shard, uint64_t hash, const char *name, uint16_t length)
{
    return dn_item_find(dn_shard_core(shard), hash, name, length);
}

bool dn_near_item(const struct dn_shard *shard, uint32_t id, struct dn_near_item *ret)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_item_slot *slot = dn_near_slot(core, id);

    /* Not evicted, or not before we entered the epoch: then its string is there until we leave. */
    if (slot == NULL || atomic_load_explicit(&slot->hash, memory_order_acquire) == 0)
        return false;
    const struct dn_item *item = atomic_load_explicit(&slot->item, memory_order_acquire);
    if (item == NULL)
        return false;
    bool on = is_on(core);
    const struct dn_row *row = on ? atomic_load_explicit(&slot->row, memory_order_acquire) : NULL;
    *ret = (struct dn_near_item){
        .id = id,
        .name = item->bytes,
        .length = item->length,
        .hash = item->hash,
        .clicks = on ? atomic_load_explicit(&slot->clicks, memory_order_relaxed) : 0,
        .recent = row != NULL ? decay(core, row) * (float)load64(&row->near_sum) / DN_NEAR_ONE : 0,
        .trending = dn_trend_now(core, slot),
    };
    return true;
}

void dn_near_row(const struct dn_shard *shard, uint32_t id, struct dn_near_cell *ret_cells, size_t max,
                 struct dn_near_row *ret)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_item_slot *slot = dn_near_slot(core, id);
    const struct dn_row *row = slot != NULL ? atomic_load_explicit(&slot->row, memory_order_acquire) : NULL;

    *ret = (struct dn_near_row){0};
    if (row == NULL || !is_on(core))
        return;
    float now = decay(core, row);
    ret->after_sum = now * (float)load64(&row->after_sum) / DN_NEAR_AFTER_ONE;
    ret->near_sum = now * (float)load64(&row->near_sum) / DN_NEAR_ONE;
    uint32_t count = __atomic_load_n(&row->count, __ATOMIC_ACQUIRE);
    /* While no item was ever evicted, the slots of all of them need not be touched to know that ids hold. */
    bool evicted = atomic_load_explicit(&core->items_evicted, memory_order_acquire);
    for (uint32_t i = 0; evicted && i < count; i++)
        __builtin_prefetch(dn_near_slot(core, dn_cell_get(row, i).item));
    for (uint32_t i = 0; i < count && ret->count < max; i++) {
        struct dn_cell cell = dn_cell_get(row, i);
        if (cell.item == DN_CELL_ITEM_NONE || (evicted && hash_of(core, cell.item) >> 32 != cell.key))
            continue;
        ret_cells[ret->count++] = (struct dn_near_cell){
            .id = cell.item,
            .after = now * (float)cell.after / DN_NEAR_AFTER_ONE,
            .near = now * (float)cell.near / DN_NEAR_ONE,
        };
    }
}

size_t dn_near_visitors(const struct dn_shard *shard, uint32_t id, uint32_t *ret_users, size_t max)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_item_slot *slot = dn_near_slot(core, id);
    const struct dn_visitors *visitors =
        slot != NULL ? atomic_load_explicit(&slot->visitors, memory_order_acquire) : NULL;
    size_t found = 0;

    if (visitors == NULL || !is_on(core))
        return 0;
    uint32_t head = load16(&visitors->head), count = load16(&visitors->count);
    for (uint32_t n = 0; n < count && n < visitors->capacity && found < max; n++) {
        uint32_t user =
            load32(&visitors->users[(head + 2u * visitors->capacity - 1 - n) % visitors->capacity]);
        if (user != DN_ID_NONE)
            ret_users[found++] = user;
    }
    return found;
}

void dn_near_prefetch_item(const struct dn_shard *shard, uint32_t id, bool behind)
{
    const struct dn_item_slot *slot = dn_near_slot(dn_shard_core(shard), id);

    if (slot == NULL)
        return;
    if (!behind) {
        __builtin_prefetch(slot);
        __builtin_prefetch(&slot->trend); /* a slot is in two lines */
        return;
    }
    __builtin_prefetch(atomic_load_explicit(&slot->item, memory_order_relaxed));
    __builtin_prefetch(atomic_load_explicit(&slot->row, memory_order_relaxed));
}

void dn_near_prefetch_named(const struct dn_shard *shard, uint64_t hash, enum dn_near_stage stage)
{
    const struct dn_idtable *items = &dn_shard_core(shard)->items;

    if (stage == DN_NEAR_PLACE)
        dn_idtable_prefetch(items, hash);
    else
        dn_near_prefetch_item(shard, dn_idtable_guess(items, hash), stage == DN_NEAR_BEHIND);
}

void dn_near_prefetch_user(const struct dn_shard *shard, uint32_t user, bool behind)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_user_chunk *chunk =
        user < DN_ID_LIMIT
            ? atomic_load_explicit(&core->user_chunks[user / DN_USER_CHUNK], memory_order_acquire)
            : NULL;

    if (chunk == NULL)
        return;
    if (!behind) {
        __builtin_prefetch(&chunk->slots[user % DN_USER_CHUNK]);
        return;
    }
    const char *block =
        (const char *)atomic_load_explicit(&chunk->slots[user % DN_USER_CHUNK], memory_order_relaxed);
    for (size_t line = 0; block != NULL && line < PREFETCH_LINES; line++)
        __builtin_prefetch(block + line * 64);
}

bool dn_near_session(const struct dn_shard *shard, uint32_t user, uint32_t id, size_t around,
                     struct dn_near_visit ret_visits[DN_NEAR_VISITS_MAX], struct dn_near_session *ret)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_user_chunk *chunk =
        user < DN_ID_LIMIT
            ? atomic_load_explicit(&core->user_chunks[user / DN_USER_CHUNK], memory_order_acquire)
            : NULL;
    const struct dn_block *block =
        chunk != NULL ? atomic_load_explicit(&chunk->slots[user % DN_USER_CHUNK], memory_order_acquire)
                      : NULL;

    if (block == NULL)
        return false;
    const struct dn_event *events = block->events;
    size_t at = block->event_count;
    while (at > 0 && !(events[at - 1].item == id && dn_near_counts(&events[at - 1])))
        at--;
    if (at-- == 0)
        return false;
    int64_t gap_ms = dn_shard_gap_ms(shard);
    size_t first = at, last = at, from, to;
    while (first > 0 && events[first].time_ms - events[first - 1].time_ms <= gap_ms)
        first--;
    while (last + 1u < block->event_count && events[last + 1].time_ms - events[last].time_ms <= gap_ms)
        last++;
    if (around > DN_NEAR_VISITS_MAX / 2 - 1)
        around = DN_NEAR_VISITS_MAX / 2 - 1;
    from = at - first > around ? at - around : first;
    to = last - at > around ? at + around : last;
    *ret = (struct dn_near_session){
        .user = block->user,
        .last_ms = events[last].time_ms,
        .length = (uint32_t)(last - first + 1),
        .matched = (uint32_t)(at - from),
        .count = to - from + 1,
    };
    for (size_t i = from; i <= to; i++)
        ret_visits[i - from] = (struct dn_near_visit){
            .time_ms = events[i].time_ms, .id = events[i].item, .type = events[i].type};
    return true;
}
