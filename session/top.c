/* The tops: of some score, the items that have most of it. A heap that the writer keeps, and a sorted list
 * that readers see.
 *
 * Invariants:
 *  1. entries[0] is the least in the order (score, item hash, string).
 *  2. slot->top_at[which] is place + 1 for exactly the items in the top.
 *  3. While no item is removed, scores that only rise (and all fall alike) leave out no item that is better
 * than entries[0]. A removed one's place goes to whoever rises next. */
#include "session/core.h"

#include <string.h>

/* How long a list may lag behind the heap: most of the time what people want of it is its upper end. */
static const int64_t PUBLISH_MS[DN_TOPS] = {[DN_TOP_TREND] = DN_TREND_PUBLISH_MS, [DN_TOP_CLICKS] = 1000};

static bool less(const struct dn_core *core, const struct dn_top_entry *a, const struct dn_top_entry *b)
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

static void put(struct dn_core *core, enum dn_top_kind which, uint32_t at, struct dn_top_entry entry)
{
    core->tops[which].entries[at] = entry;
    dn_item_writable(core, entry.item)->top_at[which] = (uint16_t)(at + 1);
}

static void sift_up(struct dn_core *core, enum dn_top_kind which, uint32_t at)
{
    const struct dn_top *top = &core->tops[which];
    struct dn_top_entry entry = top->entries[at];
    while (at > 0 && less(core, &entry, &top->entries[(at - 1) / 2])) {
        put(core, which, at, top->entries[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put(core, which, at, entry);
}

static void sift_down(struct dn_core *core, enum dn_top_kind which, uint32_t at)
{
    const struct dn_top *top = &core->tops[which];
    struct dn_top_entry entry = top->entries[at];
    for (uint32_t child = 2 * at + 1; child < top->count; child = 2 * at + 1) {
        if (child + 1 < top->count && less(core, &top->entries[child + 1], &top->entries[child])) {
            child++;
        }
        if (!less(core, &top->entries[child], &entry)) {
            break;
        }
        put(core, which, at, top->entries[child]);
        at = child;
    }
    put(core, which, at, entry);
}

/* Clears top_at of the item at `at` without touching the order; the caller fills the place. */
static void membership_end(struct dn_core *core, enum dn_top_kind which, uint32_t at)
{
    struct dn_item_slot *slot = dn_item_writable(core, core->tops[which].entries[at].item);
    core->sum -= dn_item_slot_hash(slot);
    slot->top_at[which] = 0;
    core->sum += dn_item_slot_hash(slot);
}

void dn_top_rise(struct dn_core *core, enum dn_top_kind which, uint32_t item, uint64_t score)
{
    struct dn_top *top = &core->tops[which];
    struct dn_top_entry entry = {.score = score, .item_hash = dn_item_hash(core, item), .item = item};
    uint16_t place = dn_item_slot(core, item)->top_at[which];
    if (place != 0) {
        top->entries[place - 1u].score = score;
        sift_down(core, which, place - 1u);
    } else if (top->count < DN_TREND_MAX) {
        top->entries[top->count] = entry;
        sift_up(core, which, top->count++);
    } else if (less(core, &top->entries[0], &entry)) {
        membership_end(core, which, 0);
        top->entries[0] = entry;
        sift_down(core, which, 0);
    } else {
        return;
    }
    top->changed = true;
}

void dn_top_remove(struct dn_core *core, enum dn_top_kind which, uint32_t item)
{
    struct dn_top *top = &core->tops[which];
    uint16_t place = dn_item_slot(core, item)->top_at[which];
    if (place == 0) {
        return;
    }
    uint32_t at = place - 1u;
    membership_end(core, which, at);
    top->changed = true;
    if (at == --top->count) {
        return;
    }
    top->entries[at] = top->entries[top->count];
    sift_down(core, which, at);
    sift_up(core, which, at);
}

/* Falling may make scores equal, and equal ones are ordered by hash: build the heap anew. */
void dn_top_fall(struct dn_core *core, enum dn_top_kind which, unsigned bits)
{
    struct dn_top *top = &core->tops[which];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < top->count; i++) {
        struct dn_top_entry entry = top->entries[i];
        entry.score = bits < 64 ? entry.score >> bits : 0;
        if (entry.score == 0) {
            membership_end(core, which, i);
        } else {
            put(core, which, kept++, entry);
        }
    }
    top->count = kept;
    for (uint32_t i = kept / 2; i-- > 0;) {
        sift_down(core, which, i);
    }
    top->changed = true;
}

void dn_top_publish(struct dn_core *core, enum dn_top_kind which, bool now)
{
    const struct dn_meta *meta = &core->meta;
    struct dn_top *top = &core->tops[which];
    struct dn_top_list *old = atomic_load_explicit(&top->list, memory_order_relaxed);
    if (!now && (!top->changed || meta->time_ms - top->published_ms < PUBLISH_MS[which])) {
        return;
    }
    struct dn_top_entry sorted[DN_TREND_MAX]; /* best first; a heap's end is nearest to that */
    uint32_t count = 0;
    size_t text_bytes = 0;
    for (uint32_t i = top->count; i-- > 0; count++) {
        struct dn_top_entry entry = top->entries[i];
        text_bytes += dn_item_get(core, entry.item)->length;
        uint32_t at = count;
        for (; at > 0 && less(core, &sorted[at - 1], &entry); at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = entry;
    }
    size_t size_bytes = sizeof(struct dn_top_list) + text_bytes;
    struct dn_top_list *list = dn_slab_alloc(core->slab, size_bytes);
    list->size_bytes = size_bytes;
    list->landmark_ms = meta->trend_landmark_ms;
    list->half_life_ms = meta->settings.trend_half_life_ms;
    list->trend_epoch = meta->trend_epoch;
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
    atomic_store_explicit(&top->list, list, memory_order_release);
    if (old != NULL) {
        dn_core_retire(core, old, old->size_bytes);
    }
    top->changed = false;
    top->published_ms = meta->time_ms;
}
