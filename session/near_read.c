/* Near, as readers see it: near.h. */
#include "session/near_private.h"

#include <math.h>
#include <string.h>

static uint32_t load32(const uint32_t *from)
{
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}

static uint64_t load64(const uint64_t *from)
{
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}

static const struct dn_item_slot *slot_of(const struct dn_core *core, uint32_t id)
{
    const struct dn_item_chunk *chunk =
        id < DN_ITEM_IDS ? atomic_load_explicit(&core->item_chunks[id / DN_ITEM_CHUNK], memory_order_acquire)
                         : NULL;

    return chunk != NULL ? &chunk->slots[id % DN_ITEM_CHUNK] : NULL;
}

static const struct dn_item *item_of(const struct dn_core *core, uint32_t id)
{
    const struct dn_item_slot *slot = slot_of(core, id);

    return slot != NULL ? atomic_load_explicit(&slot->item, memory_order_acquire) : NULL;
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
    const struct dn_item_slot *slot = slot_of(core, id);
    const struct dn_item *item =
        slot != NULL ? atomic_load_explicit(&slot->item, memory_order_acquire) : NULL;

    if (item == NULL)
        return false;
    const struct dn_row *row = atomic_load_explicit(&slot->row, memory_order_acquire);
    *ret = (struct dn_near_item){
        .id = id,
        .name = item->bytes,
        .length = item->length,
        .hash = item->hash,
        .clicks = atomic_load_explicit(&slot->clicks, memory_order_relaxed),
        .recent = row != NULL ? decay(core, row) * (float)load64(&row->near_sum) / DN_NEAR_ONE : 0,
    };
    return true;
}

void dn_near_row(const struct dn_shard *shard, uint32_t id, struct dn_near_cell *ret_cells, size_t max,
                 struct dn_near_row *ret)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_item_slot *slot = slot_of(core, id);
    const struct dn_row *row = slot != NULL ? atomic_load_explicit(&slot->row, memory_order_acquire) : NULL;

    *ret = (struct dn_near_row){0};
    if (row == NULL)
        return;
    float now = decay(core, row);
    ret->after_sum = now * (float)load64(&row->after_sum) / DN_NEAR_AFTER_ONE;
    ret->near_sum = now * (float)load64(&row->near_sum) / DN_NEAR_ONE;
    uint32_t count = __atomic_load_n(&row->count, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < count && ret->count < max; i++) {
        uint64_t key = load64(&row->keys[i]);
        uint32_t other = load32(&dn_row_items(row)[i]);
        const struct dn_item *item = item_of(core, other);
        if (item == NULL || dn_row_key(item->hash) != dn_row_key(key))
            continue;
        ret_cells[ret->count++] = (struct dn_near_cell){
            .id = other,
            .after = now * (float)(key & DN_ROW_AFTER_MAX) / DN_NEAR_AFTER_ONE,
            .near = now * (float)load32(&dn_row_near(row)[i]) / DN_NEAR_ONE,
        };
    }
}

size_t dn_near_visitors(const struct dn_shard *shard, uint32_t id, uint32_t *ret_users, size_t max)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_item_slot *slot = slot_of(core, id);
    const struct dn_visitors *visitors =
        slot != NULL ? atomic_load_explicit(&slot->visitors, memory_order_acquire) : NULL;
    size_t found = 0;

    if (visitors == NULL)
        return 0;
    uint32_t head = load32(&visitors->head), count = load32(&visitors->count);
    for (uint32_t n = 0; n < count && n < visitors->capacity && found < max; n++) {
        uint32_t user =
            load32(&visitors->users[(head + 2 * visitors->capacity - 1 - n) % visitors->capacity]);
        if (user != DN_ID_NONE)
            ret_users[found++] = user;
    }
    return found;
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
    while (at > 0 && events[at - 1].item != id)
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
