/* Trending: what an item's events weigh now, each halved every half-life.
 *
 * Forward decay (Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay", 2009): an event at time t adds
 * weight * 2^((t - L) / half-life) and nothing is ever taken down; the score now is the counter over
 * 2^((now - L) / half-life). When now is SHIFT half-lives past the landmark L, L moves on by that much and
 * the trend epoch by one; a counter is shifted when it is touched next, so no step visits all items.
 *
 * Invariants:
 *  1. landmark <= group time < landmark + SHIFT * half-life (once the group's time was set).
 *  2. heap[0] is the least in the order (score, item hash, string); scores in it are as of the current epoch.
 *  3. slot->heap_at is place + 1 for exactly the items in the heap. Who is in it is part of the state. */
#include "base/error.h"
#include "session/core.h"

#include <string.h>

#define SHIFT DN_TREND_SHIFT
#define FRACTIONS 64

/* 2^(i / 64) in 16-bit fixed point, rounded down. */
static const uint32_t exp2_table[FRACTIONS] = {
    65536,  66249,  66971,  67700,  68437,  69182,  69936,  70697,  71467,  72245,  73032,  73827,  74631,
    75444,  76265,  77096,  77935,  78784,  79642,  80509,  81386,  82272,  83168,  84074,  84989,  85915,
    86850,  87796,  88752,  89718,  90695,  91683,  92681,  93691,  94711,  95742,  96785,  97839,  98904,
    99981,  101070, 102170, 103283, 104408, 105545, 106694, 107856, 109030, 110217, 111418, 112631, 113857,
    115097, 116351, 117618, 118898, 120193, 121502, 122825, 124162, 125514, 126881, 128263, 129660,
};

static uint64_t shifted(uint64_t score, uint64_t epochs)
{
    return epochs >= 64 / SHIFT ? 0 : score >> (epochs * SHIFT);
}

static uint64_t contribution(const struct dn_meta *meta, int64_t time_ms, uint16_t weight)
{
    int64_t half_life_ms = meta->settings.trend_half_life_ms;
    int64_t at_ms = (time_ms < meta->time_ms ? time_ms : meta->time_ms) - meta->trend_landmark_ms;
    int64_t whole = at_ms >= 0 ? at_ms / half_life_ms : -((-at_ms + half_life_ms - 1) / half_life_ms);
    int64_t rest_ms = at_ms - whole * half_life_ms;
    uint64_t value = (uint64_t)weight * exp2_table[rest_ms * FRACTIONS / half_life_ms];
    if (whole >= 0) {
        return value << (whole < SHIFT ? whole : SHIFT);
    }
    return whole <= -64 ? 0 : value >> -whole;
}

/* ---- the heap -------------------------------------------------------------------------------------- */

static bool less(const struct dn_core *core, const struct dn_trend_entry *a, const struct dn_trend_entry *b)
{
    if (a->score != b->score) {
        return a->score < b->score;
    }
    if (a->item_hash != b->item_hash) {
        return a->item_hash < b->item_hash;
    }
    const struct dn_item *x = dn_item_get(core, a->item), *y = dn_item_get(core, b->item);
    if (x->length != y->length) {
        return x->length < y->length;
    }
    return memcmp(x->bytes, y->bytes, x->length) < 0;
}

static void put(struct dn_core *core, uint32_t at, struct dn_trend_entry entry)
{
    core->heap[at] = entry;
    dn_item_writable(core, entry.item)->heap_at = (uint16_t)(at + 1);
}

static void sift_up(struct dn_core *core, uint32_t at)
{
    struct dn_trend_entry entry = core->heap[at];
    while (at > 0 && less(core, &entry, &core->heap[(at - 1) / 2])) {
        put(core, at, core->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put(core, at, entry);
}

static void sift_down(struct dn_core *core, uint32_t at)
{
    struct dn_trend_entry entry = core->heap[at];
    for (uint32_t child = 2 * at + 1; child < core->heap_count; child = 2 * at + 1) {
        if (child + 1 < core->heap_count && less(core, &core->heap[child + 1], &core->heap[child])) {
            child++;
        }
        if (!less(core, &core->heap[child], &entry)) {
            break;
        }
        put(core, at, core->heap[child]);
        at = child;
    }
    put(core, at, entry);
}

static void push(struct dn_core *core, struct dn_trend_entry entry)
{
    core->heap[core->heap_count] = entry;
    sift_up(core, core->heap_count++);
}

/* Clears heap_at of the item at `at` without touching the order; the caller fills the place. */
static void membership_end(struct dn_core *core, uint32_t at)
{
    struct dn_item_slot *slot = dn_item_writable(core, core->heap[at].item);
    core->sum -= dn_item_slot_hash(slot);
    slot->heap_at = 0;
    core->sum += dn_item_slot_hash(slot);
}

void dn_trend_add(struct dn_core *core, uint32_t item, int64_t time_ms, uint16_t weight)
{
    struct dn_item_slot *slot = dn_item_writable(core, item);
    uint64_t add = contribution(&core->meta, time_ms, weight);
    if (add == 0) {
        return;
    }
    core->sum -= dn_item_slot_hash(slot);
    uint64_t score = shifted(slot->trend, core->meta.trend_epoch - slot->trend_epoch);
    score = score > UINT64_MAX - add ? UINT64_MAX : score + add;
    slot->trend = score;
    slot->trend_epoch = core->meta.trend_epoch;
    struct dn_trend_entry entry = {.score = score, .item_hash = dn_item_hash(core, item), .item = item};
    if (slot->heap_at != 0) {
        uint32_t at = slot->heap_at - 1u;
        core->heap[at].score = score;
        sift_down(core, at);
        core->trend_changed = true;
    } else if (core->heap_count < DN_TREND_MAX) {
        push(core, entry);
        core->trend_changed = true;
    } else if (less(core, &core->heap[0], &entry)) {
        membership_end(core, 0);
        core->heap[0] = entry;
        sift_down(core, 0);
        core->trend_changed = true;
    }
    core->sum += dn_item_slot_hash(slot);
}

void dn_trend_remove(struct dn_core *core, uint32_t item)
{
    const struct dn_item_slot *slot = dn_item_slot(core, item);
    if (slot->heap_at == 0) {
        return;
    }
    uint32_t at = slot->heap_at - 1u;
    membership_end(core, at);
    core->trend_changed = true;
    if (at == --core->heap_count) {
        return;
    }
    core->heap[at] = core->heap[core->heap_count];
    sift_down(core, at);
    sift_up(core, at);
}

bool dn_trend_restore(struct dn_core *core, uint32_t item)
{
    if (core->heap_count == DN_TREND_MAX) {
        return false;
    }
    const struct dn_item_slot *slot = dn_item_slot(core, item);
    core->sum -= dn_item_slot_hash(slot);
    push(core,
         (struct dn_trend_entry){.score = shifted(slot->trend, core->meta.trend_epoch - slot->trend_epoch),
                                 .item_hash = dn_item_hash(core, item),
                                 .item = item});
    core->sum += dn_item_slot_hash(slot);
    return true;
}

/* Shifting may make scores equal, and equal ones are ordered by hash: build the heap anew. */
static void heap_shift(struct dn_core *core, uint64_t epochs)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < core->heap_count; i++) {
        struct dn_trend_entry entry = core->heap[i];
        entry.score = shifted(entry.score, epochs);
        if (entry.score == 0) {
            membership_end(core, i);
        } else {
            put(core, kept++, entry);
        }
    }
    core->heap_count = kept;
    for (uint32_t i = kept / 2; i-- > 0;) {
        sift_down(core, i);
    }
    core->trend_changed = true;
}

void dn_trend_advance(struct dn_core *core)
{
    struct dn_meta *meta = &core->meta;
    int64_t span_ms = meta->settings.trend_half_life_ms * SHIFT;
    int64_t epochs = (meta->time_ms - meta->trend_landmark_ms) / span_ms;
    if (epochs > 0) {
        meta->trend_landmark_ms += epochs * span_ms;
        meta->trend_epoch += (uint32_t)epochs;
        heap_shift(core, (uint64_t)epochs);
    }
}

/* Moves the landmark so that an event now weighs what it weighed before: counters stay as they are. */
void dn_trend_half_life(struct dn_core *core, int64_t half_life_ms)
{
    struct dn_meta *meta = &core->meta;
    int64_t old_ms = meta->settings.trend_half_life_ms;
    int64_t past_ms = meta->time_ms - meta->trend_landmark_ms; /* below SHIFT * old_ms */
    int64_t whole = past_ms / old_ms, rest_ms = past_ms % old_ms;
    /* rest / old in 20-bit fixed point keeps the product within 64 bits for every legal half-life. */
    int64_t fraction = (rest_ms << 20) / old_ms;
    meta->trend_landmark_ms = meta->time_ms - whole * half_life_ms - ((half_life_ms * fraction) >> 20);
    meta->settings.trend_half_life_ms = half_life_ms;
    core->trend_changed = true;
}

/* The heap's entries: the second half of a heap sort, the least to the end first. */
static void sort_best_first(const struct dn_core *core, struct dn_trend_entry ret[DN_TREND_MAX])
{
    memcpy(ret, core->heap, core->heap_count * sizeof *ret);
    for (uint32_t left = core->heap_count; left > 1;) {
        struct dn_trend_entry entry = ret[--left];
        ret[left] = ret[0];
        uint32_t at = 0;
        for (uint32_t child = 1; child < left; child = 2 * at + 1) {
            if (child + 1 < left && less(core, &ret[child + 1], &ret[child])) {
                child++;
            }
            if (!less(core, &ret[child], &entry)) {
                break;
            }
            ret[at] = ret[child];
            at = child;
        }
        ret[at] = entry;
    }
}

/* ---- what readers see ------------------------------------------------------------------------------ */

void dn_trend_publish(struct dn_core *core, bool now)
{
    const struct dn_meta *meta = &core->meta;
    struct dn_trend_list *old = atomic_load_explicit(&core->trend, memory_order_relaxed);
    if (!now && (!core->trend_changed || meta->time_ms - core->trend_published_ms < DN_TREND_PUBLISH_MS)) {
        return;
    }
    struct dn_trend_entry sorted[DN_TREND_MAX];
    uint32_t count = core->heap_count;
    size_t text_bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        text_bytes += dn_item_get(core, core->heap[i].item)->length;
    }
    sort_best_first(core, sorted);
    size_t size_bytes = sizeof(struct dn_trend_list) + text_bytes;
    struct dn_trend_list *list = dn_slab_alloc(core->slab, size_bytes);
    list->size_bytes = size_bytes;
    list->landmark_ms = meta->trend_landmark_ms;
    list->half_life_ms = meta->settings.trend_half_life_ms;
    list->count = count;
    uint32_t offset = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct dn_item *item = dn_item_get(core, sorted[i].item);
        list->entries[i].score = sorted[i].score;
        list->entries[i].item_hash = item->hash;
        list->entries[i].offset = offset;
        list->entries[i].length = item->length;
        memcpy(list->text + offset, item->bytes, item->length);
        offset += item->length;
    }
    atomic_store_explicit(&core->trend, list, memory_order_release);
    if (old != NULL) {
        dn_core_retire(core, old, old->size_bytes);
    }
    core->trend_changed = false;
    core->trend_published_ms = meta->time_ms;
}
