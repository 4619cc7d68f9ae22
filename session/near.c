/* Near: rows and visitors, kept by each event. near.h says what they are for.
 *
 * Invariants:
 *  1. A user is among an item's visitors at most once, and only while their block has an event of the item.
 *  2. A cell's key is in its row at most once; weights are as of row->epoch. Whoever writes a row brings it
 * to the group's epoch first.
 *  3. A row or a ring that an open capture may reach (its generation is not newer) is copied before it is
 * written.
 *
 * A full row takes a new item in as Misra and Gries do ("Finding repeated elements", 1982), looking at some
 * cells at a time: the least of them loses what the new one would bring, and gives its place when nothing is
 * left. What comes often gets in, what came once does not push out what came often. */
#include "session/near.h"

#include "base/error.h"
#include "session/near_private.h"

#include <string.h>

#define FIRST_CELLS 4u
#define FIRST_VISITORS 1u /* 1, 5, 13, 29, 61: with the head, whole steps of the slab */
#define MORE_VISITORS 3u
#define PREFETCH_LINES 4u
#define LOOKED_AT 16u /* cells of a full row, for the least */

static void store16(uint16_t *to, uint32_t value)
{
    __atomic_store_n(to, (uint16_t)value, __ATOMIC_RELAXED);
}

static void store32(uint32_t *to, uint32_t value)
{
    __atomic_store_n(to, value, __ATOMIC_RELAXED);
}

static void store64(uint64_t *to, uint64_t value)
{
    __atomic_store_n(to, value, __ATOMIC_RELAXED);
}

/* ---- rows
 * ------------------------------------------------------------------------------------------------- */

struct dn_row *dn_row_create(struct dn_core *core, uint32_t capacity)
{
    capacity = (capacity + DN_ROW_STEP - 1) / DN_ROW_STEP * DN_ROW_STEP;
    struct dn_row *row = dn_slab_zalloc(core->slab, dn_row_bytes(capacity));

    row->generation = core->generation;
    row->capacity = (uint16_t)capacity;
    row->epoch = core->meta.near_epoch;
    return row;
}

/* A larger row is by half larger: small ones are many, and what they do not use counts. */
static uint32_t larger(uint32_t capacity, uint32_t most)
{
    uint32_t more = capacity / 2 / DN_ROW_STEP * DN_ROW_STEP;

    capacity += more > DN_ROW_STEP ? more : DN_ROW_STEP;
    return capacity < most ? capacity : most;
}

static uint64_t cells_sum(uint64_t item_hash, const struct dn_row *row)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < row->count; i++) {
        struct dn_cell cell = dn_cell_get(row, i);
        sum += dn_cell_hash(item_hash, &cell);
    }
    return sum;
}

/* A copy with the group's halvings in its weights, and what is left nothing of them left out. */
static struct dn_row *row_copy(struct dn_core *core, const struct dn_row *from, uint32_t capacity)
{
    struct dn_row *row = dn_row_create(core, capacity);
    uint32_t halvings = core->meta.near_epoch - from->epoch;
    uint32_t shift = halvings < 31 ? halvings : 31;

    row->hand = from->hand;
    row->after_sum = halvings < 63 ? from->after_sum >> halvings : 0;
    row->near_sum = halvings < 63 ? from->near_sum >> halvings : 0;
    for (uint32_t i = 0; i < from->count; i++) {
        struct dn_cell cell = dn_cell_get(from, i);
        cell.after >>= shift;
        cell.near >>= shift;
        if (halvings == 0 || cell.after != 0 || cell.near != 0)
            dn_cell_put(row, row->count++, &cell);
    }
    return row;
}

static bool is_captured(const struct dn_core *core, uint32_t generation)
{
    return core->capture != NULL && generation <= core->capture->generation;
}

static void retire(struct dn_core *core, void *object, uint32_t generation, size_t size)
{
    if (is_captured(core, generation))
        dn_core_retire_captured(core, object, size);
    else
        dn_core_retire(core, object, size);
}

void dn_row_put(struct dn_core *core, struct dn_item_slot *slot, struct dn_row *row)
{
    struct dn_row *old = atomic_load_explicit(&slot->row, memory_order_relaxed);

    atomic_store_explicit(&slot->row, row, memory_order_release);
    if (row != NULL) {
        core->near.rows++;
        core->near.cells += row->count;
        core->near.bytes += dn_slab_room(dn_row_bytes(row->capacity));
    }
    if (old != NULL) {
        core->near.rows--;
        core->near.cells -= old->count;
        core->near.bytes -= dn_slab_room(dn_row_bytes(old->capacity));
        retire(core, old, old->generation, dn_row_bytes(old->capacity));
    }
}

/* The row ready to be written, with room for a cell unless it is as large as it may be. Its head's hash is
 * out of the sum. */
static struct dn_row *row_writable(struct dn_core *core, struct dn_item_slot *slot, uint64_t item_hash)
{
    struct dn_row *row = atomic_load_explicit(&slot->row, memory_order_relaxed);
    uint32_t most = core->meta.settings.near_cells;

    if (row == NULL) {
        row = dn_row_create(core, FIRST_CELLS < most ? FIRST_CELLS : most);
    } else {
        core->sum -= dn_row_hash(item_hash, row);
        bool grows = row->count == row->capacity && row->count < most;
        bool stale = row->epoch != core->meta.near_epoch;
        if (!grows && !stale && !is_captured(core, row->generation))
            return row;
        uint32_t capacity = grows ? larger(row->capacity, most) : row->capacity;
        if (stale)
            core->sum -= cells_sum(item_hash, row);
        row = row_copy(core, row, capacity);
        if (stale)
            core->sum += cells_sum(item_hash, row);
    }
    dn_row_put(core, slot, row);
    return row;
}

static void cell_set(struct dn_core *core, uint64_t item_hash, struct dn_row *row, uint32_t at,
                     const struct dn_cell *cell)
{
    dn_cell_put(row, at, cell);
    core->sum += dn_cell_hash(item_hash, cell);
}

static uint32_t weight_of(const struct dn_row *row, uint32_t at)
{
    struct dn_cell cell = dn_cell_get(row, at);

    return cell.after / (DN_NEAR_AFTER_ONE / DN_NEAR_ONE) + cell.near;
}

/* A place in a full row, or UINT32_MAX: the least of those looked at lost some weight, and stays. */
static uint32_t place_in_full(struct dn_core *core, uint64_t item_hash, struct dn_row *row)
{
    uint32_t looked = row->count < LOOKED_AT ? row->count : LOOKED_AT;
    uint32_t least = row->hand % row->count, least_weight = weight_of(row, least);

    for (uint32_t i = 1; i < looked; i++) {
        uint32_t at = (row->hand + i) % row->count, weight = weight_of(row, at);
        if (weight < least_weight) {
            least = at;
            least_weight = weight;
        }
    }
    row->hand = (uint16_t)((row->hand + looked) % row->count);
    struct dn_cell cell = dn_cell_get(row, least);
    core->sum -= dn_cell_hash(item_hash, &cell);
    if (cell.near <= DN_NEAR_ONE && cell.after <= DN_NEAR_AFTER_ONE)
        return least;
    cell.near -= cell.near < DN_NEAR_ONE ? cell.near : DN_NEAR_ONE;
    cell.after -= cell.after < DN_NEAR_AFTER_ONE ? cell.after : DN_NEAR_AFTER_ONE;
    cell_set(core, item_hash, row, least, &cell);
    return UINT32_MAX;
}

/* Where the key is in the row, or its count. Sixteen are compared at a time: that is most of what an event in
 * full rows costs. Room behind the last key is the row's own (DN_ROW_STEP), whatever it holds. */
static uint32_t place_of(const struct dn_row *row, uint32_t key)
{
    typedef uint32_t four __attribute__((vector_size(16), aligned(4), may_alias));
    typedef uint64_t two __attribute__((vector_size(16), may_alias));
    const four *words = (const four *)(const void *)row->words;
    const four keys = {key, key, key, key};
    uint32_t at = 0, count = row->count;

    for (; at + 16 <= count; at += 16, words += 4) {
        two any = (two)(words[0] == keys) | (two)(words[1] == keys) | (two)(words[2] == keys) |
                  (two)(words[3] == keys);
        if ((any[0] | any[1]) != 0)
            break;
    }
    while (at < count && row->words[at] != key)
        at++;
    return at;
}

/* `other` was clicked near the item: after it, where `after` is above 0. */
static void row_add(struct dn_core *core, uint32_t item, uint32_t other, uint32_t after, uint32_t near)
{
    struct dn_item_slot *slot = dn_item_writable(core, item);
    uint64_t item_hash = dn_item_hash(core, item);
    struct dn_cell cell = {dn_row_key(dn_item_hash(core, other)), after, near, other};
    struct dn_row *row = row_writable(core, slot, item_hash);

    store64(&row->after_sum, row->after_sum + after);
    store64(&row->near_sum, row->near_sum + near);
    uint32_t at = place_of(row, cell.key);
    if (at < row->count) {
        struct dn_cell had = dn_cell_get(row, at);
        core->sum -= dn_cell_hash(item_hash, &had);
        cell.after = had.after + after < DN_CELL_AFTER_MAX ? had.after + after : DN_CELL_AFTER_MAX;
        cell.near = had.near + near < DN_CELL_NEAR_MAX ? had.near + near : DN_CELL_NEAR_MAX;
        cell_set(core, item_hash, row, at, &cell);
    } else {
        bool full = row->count >= core->meta.settings.near_cells;
        uint32_t place = full ? place_in_full(core, item_hash, row) : row->count;
        if (place != UINT32_MAX) {
            cell_set(core, item_hash, row, place, &cell);
            if (place == row->count) {
                __atomic_store_n(&row->count, (uint16_t)(place + 1), __ATOMIC_RELEASE);
                core->near.cells++;
            }
        }
    }
    core->sum += dn_row_hash(item_hash, row);
}

/* ---- visitors
 * --------------------------------------------------------------------------------------------- */

struct dn_visitors *dn_visitors_create(struct dn_core *core, uint32_t capacity)
{
    struct dn_visitors *visitors = dn_slab_zalloc(core->slab, dn_visitors_bytes(capacity));

    visitors->generation = core->generation;
    visitors->capacity = (uint16_t)capacity;
    memset(visitors->users, 0xff, capacity * sizeof visitors->users[0]); /* DN_ID_NONE */
    return visitors;
}

void dn_visitors_put(struct dn_core *core, struct dn_item_slot *slot, struct dn_visitors *visitors)
{
    struct dn_visitors *old = atomic_load_explicit(&slot->visitors, memory_order_relaxed);

    atomic_store_explicit(&slot->visitors, visitors, memory_order_release);
    if (visitors != NULL) {
        core->near.visitors += visitors->count;
        core->near.bytes += dn_slab_room(dn_visitors_bytes(visitors->capacity));
    }
    if (old != NULL) {
        core->near.visitors -= old->count;
        core->near.bytes -= dn_slab_room(dn_visitors_bytes(old->capacity));
        retire(core, old, old->generation, dn_visitors_bytes(old->capacity));
    }
}

/* The ring ready to be written; for one more: with room for it unless it is as large as it may be. */
static struct dn_visitors *visitors_writable(struct dn_core *core, struct dn_item_slot *slot, bool one_more)
{
    struct dn_visitors *old = atomic_load_explicit(&slot->visitors, memory_order_relaxed);
    uint32_t most = core->meta.settings.near_visitors;
    uint32_t capacity = old == NULL ? 0 : old->capacity;
    bool grows = old == NULL || (one_more && old->count == capacity && old->count < most);

    if (!grows && !is_captured(core, old->generation))
        return old;
    if (grows)
        capacity = capacity == 0 ? FIRST_VISITORS : 2 * capacity + MORE_VISITORS;
    if (grows && capacity > most)
        capacity = most;
    DN_ASSERT(capacity > 0); /* as near_visitors is */
    struct dn_visitors *visitors = dn_visitors_create(core, capacity);
    for (uint32_t n = old == NULL ? 0 : old->count; n-- > 0;)
        visitors->users[visitors->count++] = old->users[dn_visitors_place(old, n)];
    visitors->head = (uint16_t)(visitors->count % capacity);
    dn_visitors_put(core, slot, visitors);
    return visitors;
}

/* Where the user is in the ring; places in use and free ones (DN_ID_NONE) alike are looked at. */
static uint32_t find(const struct dn_visitors *visitors, uint32_t user)
{
    for (uint32_t place = 0; place < visitors->capacity; place++)
        if (visitors->users[place] == user)
            return place;
    return DN_ID_NONE;
}

/* The place goes to the one next newer, and so on: the newest is free then. */
static void take_out(struct dn_core *core, struct dn_visitors *visitors, uint32_t place)
{
    uint32_t last = dn_visitors_place(visitors, 0);

    while (place != last) {
        uint32_t next = (place + 1u) % visitors->capacity;
        store32(&visitors->users[place], visitors->users[next]);
        place = next;
    }
    store32(&visitors->users[last], DN_ID_NONE);
    store16(&visitors->head, last);
    store16(&visitors->count, visitors->count - 1);
    core->near.visitors--;
}

static void drop_oldest(struct dn_core *core, uint64_t item_hash, struct dn_visitors *visitors)
{
    uint32_t place = dn_visitors_place(visitors, visitors->count - 1);

    core->sum -= dn_visitor_hash(item_hash, dn_user_block(core, visitors->users[place])->user);
    store32(&visitors->users[place], DN_ID_NONE);
    store16(&visitors->count, visitors->count - 1);
    core->near.visitors--;
}

static void visit(struct dn_core *core, uint32_t item, uint32_t user, struct dn_hash128 name, bool had)
{
    struct dn_item_slot *slot = dn_item_writable(core, item);
    uint64_t item_hash = dn_item_hash(core, item);
    struct dn_visitors *visitors = visitors_writable(core, slot, true);
    uint32_t place = had ? find(visitors, user) : DN_ID_NONE;

    if (place != DN_ID_NONE) {
        take_out(core, visitors, place);
    } else {
        core->sum += dn_visitor_hash(item_hash, name);
        while (visitors->count >=
               core->meta.settings.near_visitors) /* more than one: the setting was larger */
            drop_oldest(core, item_hash, visitors);
    }
    store32(&visitors->users[visitors->head], user);
    store16(&visitors->head, (visitors->head + 1u) % visitors->capacity);
    store16(&visitors->count, visitors->count + 1);
    core->near.visitors++;
}

void dn_near_leave(struct dn_core *core, uint32_t item, uint32_t user, struct dn_hash128 name)
{
    struct dn_visitors *visitors =
        atomic_load_explicit(&dn_item_slot(core, item)->visitors, memory_order_relaxed);

    if (visitors == NULL || find(visitors, user) == DN_ID_NONE)
        return;
    visitors = visitors_writable(core, dn_item_writable(core, item), false);
    take_out(core, visitors, find(visitors, user));
    core->sum -= dn_visitor_hash(dn_item_hash(core, item), name);
}

/* ---- an event
 * --------------------------------------------------------------------------------------------- */

static void pair(struct dn_core *core, const struct dn_event *first, const struct dn_event *second,
                 size_t distance)
{
    uint32_t after = DN_NEAR_AFTER_ONE / (uint32_t)distance;

    if (first->item == second->item) {
        row_add(core, first->item, second->item, after, 0);
        return;
    }
    row_add(core, first->item, second->item, after, DN_NEAR_ONE);
    row_add(core, second->item, first->item, 0, DN_NEAR_ONE);
}

/* Those of the session before and behind the new one. It is in the middle where it came out of order: the
 * distances of pairs around it stay as they were counted. */
static void pairs(struct dn_core *core, const struct dn_block *block, size_t at)
{
    const struct dn_event *events = block->events;
    int64_t gap_ms = core->meta.settings.gap_ms;

    for (size_t i = at;
         i-- > 0 && at - i <= DN_NEAR_WINDOW && events[i + 1].time_ms - events[i].time_ms <= gap_ms;)
        if (dn_near_counts(&events[i]))
            pair(core, &events[i], &events[at], at - i);
    for (size_t i = at + 1; i < block->event_count && i - at <= DN_NEAR_WINDOW &&
                            events[i].time_ms - events[i - 1].time_ms <= gap_ms;
         i++)
        if (dn_near_counts(&events[i]))
            pair(core, &events[at], &events[i], i - at);
}

/* What the pairs of this event will need is asked for early, all of it: their misses overlap. */
void dn_near_prefetch_slots(const struct dn_core *core, const struct dn_block *block)
{
    size_t first = block->event_count > DN_NEAR_WINDOW ? block->event_count - DN_NEAR_WINDOW : 0;

    for (size_t i = first; i < block->event_count; i++) {
        const struct dn_item_slot *slot = dn_item_slot(core, block->events[i].item);
        __builtin_prefetch(slot);
        __builtin_prefetch(&slot->trend); /* a slot is in two lines */
    }
}

void dn_near_prefetch_rows(const struct dn_core *core, const struct dn_block *block)
{
    size_t first = block->event_count > DN_NEAR_WINDOW ? block->event_count - DN_NEAR_WINDOW : 0;

    for (size_t i = first; i < block->event_count; i++) {
        const char *row = (const char *)atomic_load_explicit(&dn_item_slot(core, block->events[i].item)->row,
                                                             memory_order_relaxed);
        for (size_t line = 0; row != NULL && line < PREFETCH_LINES; line++)
            __builtin_prefetch(row + line * 64);
    }
}

void dn_near_add(struct dn_core *core, uint32_t user, const struct dn_block *block, size_t at, bool had)
{
    const struct dn_event *event = &block->events[at];

    if (core->meta.settings.near_cells == 0 || !dn_near_counts(event))
        return;
    struct dn_item_slot *slot = dn_item_writable(core, event->item);
    uint32_t clicks = atomic_load_explicit(&slot->clicks, memory_order_relaxed);
    core->sum -= dn_item_slot_hash(slot);
    clicks += clicks != UINT32_MAX;
    atomic_store_explicit(&slot->clicks, clicks, memory_order_relaxed);
    core->sum += dn_item_slot_hash(slot);
    dn_top_rise(core, DN_TOP_CLICKS, event->item, clicks);
    visit(core, event->item, user, block->user, had);
    pairs(core, block, at);
}

void dn_near_drop(struct dn_core *core, uint32_t item)
{
    struct dn_item_slot *slot = dn_item_writable(core, item);
    struct dn_row *row = atomic_load_explicit(&slot->row, memory_order_relaxed);
    struct dn_visitors *visitors = atomic_load_explicit(&slot->visitors, memory_order_relaxed);
    uint64_t item_hash = dn_item_hash(core, item);

    if (row != NULL)
        core->sum -= dn_row_hash(item_hash, row) + cells_sum(item_hash, row);
    DN_ASSERT(visitors == NULL || visitors->count == 0);
    dn_row_put(core, slot, NULL);
    dn_visitors_put(core, slot, NULL);
}

void dn_near_show(struct dn_core *core)
{
    atomic_store_explicit(&core->near_epoch, core->meta.near_epoch, memory_order_relaxed);
    atomic_store_explicit(&core->near_on, core->meta.settings.near_cells != 0, memory_order_relaxed);
}

static void halve(struct dn_core *core)
{
    struct dn_meta *meta = &core->meta;
    int64_t halvings = (meta->time_ms - meta->near_landmark_ms) / meta->settings.near_half_life_ms;

    if (halvings > 0) {
        meta->near_landmark_ms += halvings * meta->settings.near_half_life_ms;
        meta->near_epoch += (uint32_t)halvings;
        dn_near_show(core);
    }
}

void dn_near_advance(struct dn_core *core)
{
    if (core->meta.settings.near_cells != 0)
        halve(core);
}

void dn_near_settings(struct dn_core *core, const struct dn_shard_settings *settings)
{
    struct dn_meta *meta = &core->meta;
    bool halves_anew = settings->near_half_life_ms != meta->settings.near_half_life_ms;

    if (halves_anew && meta->has_near)
        halve(core); /* what was due by the old one, off or on */
    meta->settings.near_cells = settings->near_cells;
    meta->settings.near_visitors = settings->near_visitors;
    meta->settings.near_half_life_ms = settings->near_half_life_ms;
    if (halves_anew)
        meta->near_landmark_ms = meta->time_ms; /* nothing is due by the new one yet */
    meta->has_near = true;
    dn_near_advance(core);
    dn_near_show(core);
}

uint64_t dn_near_hash(const struct dn_core *core, const struct dn_item_slot *slot)
{
    uint64_t item_hash = atomic_load_explicit(&slot->hash, memory_order_relaxed), sum = 0;
    const struct dn_row *row = atomic_load_explicit(&slot->row, memory_order_relaxed);
    const struct dn_visitors *visitors = atomic_load_explicit(&slot->visitors, memory_order_relaxed);

    if (row != NULL)
        sum += dn_row_hash(item_hash, row) + cells_sum(item_hash, row);
    for (uint32_t n = 0; visitors != NULL && n < visitors->count; n++)
        sum += dn_visitor_hash(item_hash,
                               dn_user_block(core, visitors->users[dn_visitors_place(visitors, n)])->user);
    return sum;
}
