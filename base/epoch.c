/* Epoch-based reclamation.
 *
 * `global` counts epochs from 1; only the writer moves it. A reader inside a section shows an epoch in its
 * slot; outside it shows 0.
 *
 * Invariants:
 *   1. The writer moves global from g to g+1 only after it saw every slot show 0 or g.
 *   2. An object is stamped with global when it is retired, after it was unlinked; it is freed when
 *      global >= stamp + 2.
 *   3. The limbo ring is in stamp order.
 *
 * Why that is safe without a fence. A reader stores its slot (seq_cst), then loads global (seq_cst) and gets
 * G. In the single order of seq_cst operations that load comes before the writer's store of G+1, so the
 * slot's store does too, and the scan that would allow G+2 sees the slot and refuses: global <= G+1 while the
 * reader is inside. What is freed meanwhile is stamped G-1 or less, so it was unlinked before the store of G,
 * which the reader's load of G has synchronised with: the reader cannot load the old pointer. What the slot
 * shows may be older than G: that only holds the writer back more. The reader's last use happens before the
 * free by the release store of 0 in leave and the scan's load of it.
 */
#include "base/epoch.h"

#include "base/error.h"

#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64
#define GRACE_EPOCHS 2
#define LIMBO_FIRST 256
#define LIMBO_MAX ((size_t)1 << 23) /* then retire waits for the readers */

struct dn_epoch_reader {
    alignas(CACHE_LINE) _Atomic uint64_t shown; /* epoch, or 0 outside */
    atomic_bool taken;
    uint32_t depth; /* the reader's thread only */
    struct dn_epoch *epoch;
};

struct limbo_entry {
    void *object;
    void (*free_fn)(void *context, void *object);
    void *context;
    uint64_t stamp;
};

struct dn_epoch {
    alignas(CACHE_LINE) _Atomic uint64_t global;
    _Atomic size_t slots_used; /* slots at or above were never taken */

    /* The writer's thread only. A ring: capacity is 0 or a power of two. */
    alignas(CACHE_LINE) struct limbo_entry *limbo;
    size_t capacity;
    size_t head;
    size_t count;

    struct dn_epoch_reader slots[DN_EPOCH_READERS_MAX];
};

struct dn_epoch *dn_epoch_create(void)
{
    struct dn_epoch *epoch = aligned_alloc(CACHE_LINE, sizeof(*epoch));

    if (epoch == NULL) {
        return NULL;
    }
    memset(epoch, 0, sizeof(*epoch));
    atomic_init(&epoch->global, 1);
    atomic_init(&epoch->slots_used, 0);
    for (size_t i = 0; i < DN_EPOCH_READERS_MAX; i++) {
        atomic_init(&epoch->slots[i].shown, 0);
        atomic_init(&epoch->slots[i].taken, false);
        epoch->slots[i].epoch = epoch;
    }
    return epoch;
}

/* Takes the oldest out of the ring before it is freed, since free_fn may retire more. */
static void free_oldest(struct dn_epoch *epoch)
{
    struct limbo_entry entry = epoch->limbo[epoch->head];

    epoch->head = (epoch->head + 1) & (epoch->capacity - 1);
    epoch->count--;
    entry.free_fn(entry.context, entry.object);
}

void dn_epoch_destroy(struct dn_epoch *epoch)
{
    if (epoch == NULL) {
        return;
    }
    for (size_t i = 0; i < DN_EPOCH_READERS_MAX; i++) {
        DN_ASSERT(!atomic_load(&epoch->slots[i].taken));
    }
    while (epoch->count > 0) {
        free_oldest(epoch);
    }
    free(epoch->limbo);
    free(epoch);
}

struct dn_epoch_reader *dn_epoch_register(struct dn_epoch *epoch)
{
    for (size_t i = 0; i < DN_EPOCH_READERS_MAX; i++) {
        struct dn_epoch_reader *slot = &epoch->slots[i];
        bool free_slot = false;
        size_t used;

        if (!atomic_compare_exchange_strong(&slot->taken, &free_slot, true)) {
            continue;
        }
        used = atomic_load(&epoch->slots_used);
        while (used < i + 1 && !atomic_compare_exchange_weak(&epoch->slots_used, &used, i + 1)) {
        }
        slot->depth = 0;
        return slot;
    }
    return NULL;
}

void dn_epoch_unregister(struct dn_epoch_reader *reader)
{
    DN_ASSERT(reader->depth == 0);
    atomic_store(&reader->taken, false);
}

void dn_epoch_enter(struct dn_epoch_reader *reader)
{
    struct dn_epoch *epoch = reader->epoch;

    if (reader->depth++ > 0) {
        return;
    }
    atomic_store(&reader->shown, atomic_load_explicit(&epoch->global, memory_order_relaxed));
    (void)atomic_load(&epoch->global); /* orders the section's loads: see the top of this file */
}

void dn_epoch_leave(struct dn_epoch_reader *reader)
{
    DN_ASSERT(reader->depth > 0);
    if (--reader->depth == 0) {
        atomic_store_explicit(&reader->shown, 0, memory_order_release);
    }
}

static bool try_advance(struct dn_epoch *epoch)
{
    uint64_t now = atomic_load_explicit(&epoch->global, memory_order_relaxed);
    size_t used = atomic_load(&epoch->slots_used);

    for (size_t i = 0; i < used; i++) {
        uint64_t shown = atomic_load(&epoch->slots[i].shown);

        if (shown != 0 && shown != now) {
            return false;
        }
    }
    atomic_store(&epoch->global, now + 1);
    return true;
}

static bool oldest_is_due(const struct dn_epoch *epoch)
{
    return epoch->limbo[epoch->head].stamp + GRACE_EPOCHS <=
           atomic_load_explicit(&epoch->global, memory_order_relaxed);
}

size_t dn_epoch_reclaim(struct dn_epoch *epoch, size_t max)
{
    size_t freed = 0;

    while (epoch->count > 0 && freed < max) {
        if (oldest_is_due(epoch)) {
            free_oldest(epoch);
            freed++;
        } else if (!try_advance(epoch)) {
            break;
        }
    }
    return epoch->count;
}

static bool limbo_grow(struct dn_epoch *epoch)
{
    size_t capacity = epoch->capacity > 0 ? epoch->capacity * 2 : LIMBO_FIRST;
    struct limbo_entry *limbo;
    size_t first;

    if (capacity > LIMBO_MAX) {
        return false;
    }
    limbo = malloc(capacity * sizeof(*limbo));
    if (limbo == NULL) {
        return false;
    }
    first = epoch->capacity - epoch->head; /* the ring is full: [head, end), then [0, head) */
    if (epoch->count > 0) {
        memcpy(limbo, epoch->limbo + epoch->head, first * sizeof(*limbo));
        memcpy(limbo + first, epoch->limbo, epoch->head * sizeof(*limbo));
    }
    free(epoch->limbo);
    epoch->limbo = limbo;
    epoch->capacity = capacity;
    epoch->head = 0;
    return true;
}

/* Without memory for even one entry: waits until no reader that is inside now can be inside still. */
static void wait_for_readers(struct dn_epoch *epoch)
{
    uint64_t target = atomic_load_explicit(&epoch->global, memory_order_relaxed) + GRACE_EPOCHS;

    while (atomic_load_explicit(&epoch->global, memory_order_relaxed) < target) {
        if (!try_advance(epoch)) {
            sched_yield();
        }
    }
}

void dn_epoch_retire(struct dn_epoch *epoch, void *object, void (*free_fn)(void *context, void *object),
                     void *context)
{
    if (epoch->count == epoch->capacity && !limbo_grow(epoch)) {
        wait_for_readers(epoch);
        free_fn(context, object);
        return;
    }
    epoch->limbo[(epoch->head + epoch->count) & (epoch->capacity - 1)] = (struct limbo_entry){
        .object = object,
        .free_fn = free_fn,
        .context = context,
        .stamp = atomic_load_explicit(&epoch->global, memory_order_relaxed),
    };
    epoch->count++;
}
