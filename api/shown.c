#include "api/shown.h"

#include "base/error.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REGISTER_BITS 12u
#define REGISTERS (1u << REGISTER_BITS)
#define VARIANTS (DN_VARIANTS_MAX + 1) /* the last: none */
#define SOURCES (DN_SOURCE_COUNT + 1u) /* the last: any other, such as a pin */
#define FORGET_TRIES 1000000u

struct list {
    int64_t since_ms; /* of the wall clock */
    uint32_t hit;     /* bits of the items that were clicked */
    uint8_t count, variant;
    uint8_t sources[DN_SHOWN_ITEMS_MAX];
    uint32_t items[DN_SHOWN_ITEMS_MAX];
};

struct slot {
    atomic_flag busy;
    uint8_t newest; /* which of the lists; the others follow, newest first */
    uint64_t user;  /* the half of the hash that does not choose the slot */
    struct list lists[DN_SHOWN_LISTS];
};
_Static_assert(DN_SHOWN_ITEMS_MAX <= 32, "a bit for each item");
_Static_assert(sizeof(struct slot) <= 256, "the documents say so");

struct sketch { /* a HyperLogLog */
    _Atomic uint8_t registers[REGISTERS];
};

struct dn_shown {
    struct slot *slots;
    /* Of each slot's user, 0: it is nobody's. Whoever has no list is told by this byte, with few exceptions,
     * and a million slots' bytes are in the cache where their slots are not. */
    _Atomic uint8_t *tags;
    size_t mask;
    struct sketch sketches[2]; /* of this window and of the one before */
    atomic_uint now;           /* which is this one's */
    int64_t window_ms;         /* when it began; 0: not yet */
    atomic_bool stale;         /* users may have been erased without a word: all is to be forgotten */
    struct dn_counter *lists[VARIANTS], *items[SOURCES];
    struct dn_counter *categories[VARIANTS], *categorised[VARIANTS];
    struct dn_counter *clicks[VARIANTS], *hits[VARIANTS][SOURCES];
};

/* ---- the metrics --------------------------------------------------------------------------------------- */

static const char *source_label(unsigned source)
{
    return source < DN_SOURCE_COUNT ? dn_recommend_source_name(source) : "other";
}

static void make_of_variant(struct dn_shown *shown, size_t at, const char *variant,
                            struct dn_metrics *metrics)
{
    char labels[DN_VARIANT_NAME_MAX + 64];
    snprintf(labels, sizeof labels, "variant=\"%s\"", variant);
    shown->lists[at] = dn_metrics_counter(metrics, "dunlin_shown_lists_total", labels,
                                          "Recommend answers that were noted to look for clicks on them.");
    shown->clicks[at] = dn_metrics_counter(
        metrics, "dunlin_shown_clicks_total", labels,
        "Clicks by users to whom this node had shown something in the 30 minutes before the click, whatever "
        "the clicks came by.");
    shown->categories[at] = dn_metrics_counter(metrics, "dunlin_shown_categories_total", labels,
                                               "Distinct categories in each list, summed over lists.");
    shown->categorised[at] = dn_metrics_counter(metrics, "dunlin_shown_categorised_items_total", labels,
                                                "Items with a category in each list, summed over lists.");
    for (unsigned source = 0; source < SOURCES; source++) {
        snprintf(labels, sizeof labels, "variant=\"%s\",source=\"%s\"", variant, source_label(source));
        shown->hits[at][source] =
            dn_metrics_counter(metrics, "dunlin_shown_hits_total", labels,
                               "Those clicks that were on an item of the list, by what had offered it.");
    }
}

static void make_metrics(struct dn_shown *shown, const struct dn_experiment *experiment,
                         struct dn_metrics *metrics)
{
    for (size_t i = 0; i < experiment->count; i++)
        make_of_variant(shown, i, experiment->variants[i].name, metrics);
    make_of_variant(shown, DN_VARIANTS_MAX, "", metrics);
    for (unsigned source = 0; source < SOURCES; source++) {
        char labels[64];
        snprintf(labels, sizeof labels, "source=\"%s\"", source_label(source));
        shown->items[source] = dn_metrics_counter(metrics, "dunlin_shown_items_total", labels,
                                                  "Items in those lists, by what offered them.");
    }
}

/* ---- life ---------------------------------------------------------------------------------------------- */

struct dn_shown *dn_shown_create(size_t users, const struct dn_experiment *experiment,
                                 struct dn_metrics *metrics)
{
    size_t slots = 1;
    DN_ASSERT(users <= DN_SHOWN_USERS_MAX);
    while (slots < users)
        slots *= 2;
    struct dn_shown *shown = calloc(1, sizeof *shown);
    if (!shown)
        return NULL;
    shown->slots = calloc(slots, sizeof *shown->slots); /* zeroes are clear flags and nobody's slots */
    shown->tags = calloc(slots, sizeof *shown->tags);
    if (!shown->slots || !shown->tags) {
        dn_shown_destroy(shown);
        return NULL;
    }
    shown->mask = slots - 1;
    make_metrics(shown, experiment, metrics);
    return shown;
}

void dn_shown_destroy(struct dn_shown *shown)
{
    if (!shown)
        return;
    free(shown->slots);
    free(shown->tags);
    free(shown);
}

/* ---- distinct items ------------------------------------------------------------------------------------ */

static void sketch_add(struct sketch *sketch, uint64_t hash)
{
    _Atomic uint8_t *at = &sketch->registers[hash >> (64 - REGISTER_BITS)];
    uint64_t rest = hash << REGISTER_BITS | 1ull << (REGISTER_BITS - 1); /* a one at the end: it is bounded */
    uint8_t rank = (uint8_t)(__builtin_clzll(rest) + 1);
    uint8_t held = atomic_load_explicit(at, memory_order_relaxed);
    while (held < rank && !atomic_compare_exchange_weak_explicit(at, &held, rank, memory_order_relaxed,
                                                                 memory_order_relaxed))
        ;
}

/* Of both together. */
static double sketch_count(struct sketch *a, struct sketch *b)
{
    const double m = REGISTERS;
    double sum = 0, empty = 0;
    for (size_t i = 0; i < REGISTERS; i++) {
        uint8_t x = atomic_load_explicit(&a->registers[i], memory_order_relaxed);
        uint8_t y = atomic_load_explicit(&b->registers[i], memory_order_relaxed);
        uint8_t most = x > y ? x : y;
        sum += ldexp(1, -most);
        empty += most == 0;
    }
    double estimate = 0.7213 / (1 + 1.079 / m) * m * m / sum;
    return estimate <= 2.5 * m && empty > 0 ? m * log(m / empty) : estimate; /* few: linear counting */
}

static void forget_all(struct dn_shown *shown);

double dn_shown_distinct(struct dn_shown *shown, int64_t now_ms)
{
    if (atomic_exchange(&shown->stale, false))
        forget_all(shown);
    unsigned now = atomic_load(&shown->now);
    if (shown->window_ms == 0 || now_ms < shown->window_ms)
        shown->window_ms = now_ms;
    if (now_ms - shown->window_ms >= DN_SHOWN_COVERAGE_MS) {
        struct sketch *next = &shown->sketches[!now];
        for (size_t i = 0; i < REGISTERS; i++)
            atomic_store_explicit(&next->registers[i], 0, memory_order_relaxed);
        atomic_store(&shown->now, !now);
        shown->window_ms = now_ms;
    }
    return sketch_count(&shown->sketches[0], &shown->sketches[1]);
}

/* ---- lists and clicks ---------------------------------------------------------------------------------- */

static uint32_t short_hash(uint64_t hash)
{
    return (uint32_t)(hash >> 32);
}

/* Names are static texts, the same ones nearly always. */
static uint8_t source_of(const char *name)
{
    for (unsigned source = 0; source < DN_SOURCE_COUNT; source++)
        if (dn_recommend_source_name(source) == name)
            return (uint8_t)source;
    uint8_t source = 0;
    while (source < DN_SOURCE_COUNT && strcmp(dn_recommend_source_name(source), name) != 0)
        source++;
    return source;
}

static _Atomic uint8_t *tag_at(struct dn_shown *shown, struct dn_hash128 user)
{
    return &shown->tags[user.low & shown->mask];
}

static uint8_t tag_of(struct dn_hash128 user)
{
    uint8_t tag = (uint8_t)(user.high >> 56);
    return tag ? tag : 1;
}

static struct slot *slot_of(struct dn_shown *shown, struct dn_hash128 user)
{
    struct slot *slot = &shown->slots[user.low & shown->mask];
    return atomic_flag_test_and_set_explicit(&slot->busy, memory_order_acquire) ? NULL : slot;
}

static void let_go(struct slot *slot)
{
    atomic_flag_clear_explicit(&slot->busy, memory_order_release);
}

/* The oldest one's place. Another user's lists go. */
static struct list *next_list(struct slot *slot, uint64_t user)
{
    if (slot->user != user)
        memset(slot->lists, 0, sizeof slot->lists);
    slot->user = user;
    slot->newest = (uint8_t)((slot->newest + 1u) % DN_SHOWN_LISTS);
    return &slot->lists[slot->newest];
}

static void count_categories(struct dn_shown *shown, size_t variant, const struct dn_recommended *items,
                             size_t count)
{
    uint64_t met[DN_SHOWN_ITEMS_MAX];
    size_t distinct = 0, categorised = 0;
    for (size_t i = 0; i < count; i++) {
        const struct dn_item *item = &items[i].item;
        size_t at = 0;
        if (item->category_length == 0)
            continue;
        uint64_t hash = dn_hash64(item->category, item->category_length, 0);
        categorised++;
        while (at < distinct && met[at] != hash)
            at++;
        if (at == distinct)
            met[distinct++] = hash;
    }
    dn_counter_add(shown->categories[variant], distinct);
    dn_counter_add(shown->categorised[variant], categorised);
}

void dn_shown_put(struct dn_shown *shown, const struct dn_hash128 *user, size_t variant,
                  const struct dn_recommended *items, size_t count, int64_t now_ms)
{
    struct sketch *sketch = &shown->sketches[atomic_load_explicit(&shown->now, memory_order_relaxed)];
    size_t of = variant == DN_VARIANT_NONE ? DN_VARIANTS_MAX : variant;
    uint8_t sources[DN_SHOWN_ITEMS_MAX], of_source[SOURCES] = {0};
    if (count > DN_SHOWN_ITEMS_MAX)
        count = DN_SHOWN_ITEMS_MAX;
    for (size_t i = 0; i < count; i++) {
        sources[i] =
            i > 0 && items[i].source == items[i - 1].source ? sources[i - 1] : source_of(items[i].source);
        sketch_add(sketch, items[i].item.id_hash);
        of_source[sources[i]]++;
    }
    for (size_t i = 0; i < SOURCES; i++)
        if (of_source[i] > 0)
            dn_counter_add(shown->items[i], of_source[i]);
    count_categories(shown, of, items, count);
    dn_counter_add(shown->lists[of], 1);
    struct slot *slot = user ? slot_of(shown, *user) : NULL;
    if (!slot)
        return;
    struct list *list = next_list(slot, user->high);
    list->variant = (uint8_t)of;
    list->since_ms = now_ms;
    list->count = (uint8_t)count;
    list->hit = 0;
    memcpy(list->sources, sources, count);
    for (size_t i = 0; i < count; i++)
        list->items[i] = short_hash(items[i].item.id_hash);
    atomic_store_explicit(tag_at(shown, *user), tag_of(*user), memory_order_release);
    let_go(slot);
}

/* The list that was the last one then; NULL: there was none, or it was too long ago. */
static struct list *list_at(struct slot *slot, int64_t time_ms)
{
    for (unsigned i = 0; i < DN_SHOWN_LISTS; i++) {
        struct list *list = &slot->lists[(slot->newest + DN_SHOWN_LISTS - i) % DN_SHOWN_LISTS];
        if (list->since_ms <= time_ms)
            return list->count > 0 && time_ms - list->since_ms < DN_SHOWN_WINDOW_MS ? list : NULL;
    }
    return NULL;
}

/* Its place in the list; the list's length: it is not there. */
static size_t place_of(const struct list *list, uint32_t item)
{
    size_t place = 0;
    while (place < list->count && list->items[place] != item)
        place++;
    return place;
}

static void click(struct dn_shown *shown, struct list *list, uint64_t item_hash)
{
    size_t place = place_of(list, short_hash(item_hash));
    bool on_list = place < list->count, first = on_list && (list->hit >> place & 1u) == 0;
    if (first || !on_list) /* what follows a hit on the same item says nothing new */
        dn_counter_add(shown->clicks[list->variant], 1);
    if (first) {
        list->hit |= 1u << place;
        dn_counter_add(shown->hits[list->variant][list->sources[place]], 1);
    }
}

void dn_shown_applied(void *data, const struct dn_applied *event)
{
    struct dn_shown *shown = data;
    if (event->type == DN_EVENT_DISLIKE || event->type == DN_EVENT_REMOVE ||
        atomic_load_explicit(tag_at(shown, event->user), memory_order_relaxed) != tag_of(event->user))
        return;
    struct slot *slot = slot_of(shown, event->user);
    if (!slot)
        return;
    struct list *list = slot->user == event->user.high ? list_at(slot, event->time_ms) : NULL;
    if (list)
        click(shown, list, event->item_hash);
    let_go(slot);
}

static void forget(struct dn_shown *shown, struct slot *slot, struct dn_hash128 user)
{
    if (slot->user == user.high) {
        memset(slot->lists, 0, sizeof slot->lists);
        slot->user = 0;
        atomic_store_explicit(tag_at(shown, user), 0, memory_order_relaxed);
    }
    let_go(slot);
}

void dn_shown_forget(struct dn_shown *shown, struct dn_hash128 user)
{
    struct slot *slot = slot_of(shown, user);
    /* Others hold it for less than a microsecond; who never gets it leaves it to DN_SHOWN_WINDOW_MS. */
    for (unsigned tries = 0; !slot && tries < FORGET_TRIES; tries++)
        slot = slot_of(shown, user);
    if (slot)
        forget(shown, slot, user);
}

void dn_shown_replaced(void *data)
{
    struct dn_shown *shown = data;
    atomic_store(&shown->stale, true);
}

static void forget_all(struct dn_shown *shown)
{
    for (size_t i = 0; i <= shown->mask; i++) {
        struct slot *slot = &shown->slots[i];
        unsigned tries = 0;
        while (atomic_flag_test_and_set_explicit(&slot->busy, memory_order_acquire) && tries < FORGET_TRIES)
            tries++;
        if (tries == FORGET_TRIES)
            continue;
        memset(slot->lists, 0, sizeof slot->lists);
        slot->user = 0;
        atomic_store_explicit(&shown->tags[i], 0, memory_order_relaxed);
        let_go(slot);
    }
}

void dn_shown_erased(void *data, struct dn_hash128 user)
{
    struct slot *slot = slot_of(data, user);
    if (slot)
        forget(data, slot, user);
}
