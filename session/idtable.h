/* Id table: 64-bit hash -> 24-bit ids, open addressing. One writer; find may run on any thread in an epoch.
 *
 * The table stores only (tag, id): whoever looks up compares the key of the object behind the id. A reader
 * may therefore meet an id that was taken back or given to another key meanwhile; the comparison fails and it
 * goes on.
 *
 * Invariants:
 *  1. Every live id is in the current part, or in the part before it while that one is being moved over.
 *  2. A part is at most three quarters full (deleted places counted), so each probe ends.
 *  3. Growing never stops the writer: a new part is published empty, each insert moves a few places (as many
 * as it takes to be done before the new part is full, so a part is at least half as large as the one before
 * it), and the old part is retired when all are moved. Readers look in the new part, then in the old one,
 * whose entries stay in place until then (a removed id leaves both). */
#ifndef DN_SESSION_IDTABLE_H
#define DN_SESSION_IDTABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_ID_NONE UINT32_MAX
#define DN_ID_BITS 24
#define DN_ID_LIMIT ((1u << DN_ID_BITS) - 2) /* ids are below this */

struct dn_core;

struct dn_idpart {
    uint32_t mask;
    uint32_t used;   /* writer: live and deleted places */
    uint32_t cursor; /* writer: places before this one were moved to the next part */
    uint32_t step;   /* writer: places of `old` that each insert moves */
    struct dn_idpart *_Atomic old;
    _Atomic uint32_t places[];
};

struct dn_idtable {
    struct dn_idpart *_Atomic part;
    uint32_t live; /* writer */
    struct dn_core *core;
    /* The hash that `id` was inserted with; false if the id is not live. */
    bool (*hash_of)(const struct dn_core *core, uint32_t id, uint64_t *ret_hash);
    /* Asks for what hash_of will read of `id`, later the object behind it. NULL: nothing to ask for. */
    void (*prefetch)(const struct dn_core *core, uint32_t id, bool object);
};

#define DN_IDPLACE_EMPTY 0u
#define DN_IDPLACE_DELETED 1u

static inline uint32_t dn_idplace(uint64_t hash, uint32_t id)
{
    return (uint32_t)(hash >> 56) << DN_ID_BITS | (id + 2);
}

/* The id for which same(core, id, key) holds among those inserted with `hash`, or DN_ID_NONE. */
static inline uint32_t dn_idtable_find(const struct dn_idtable *table, uint64_t hash,
                                       bool (*same)(const struct dn_core *core, uint32_t id, const void *key),
                                       const void *key)
{
    const struct dn_idpart *part = atomic_load_explicit(&table->part, memory_order_acquire);
    uint32_t tag = (uint32_t)(hash >> 56);
    while (part != NULL) {
        /* Loaded first: when it is NULL, all was moved before we look in this part. */
        const struct dn_idpart *old = atomic_load_explicit(&part->old, memory_order_acquire);
        for (uint32_t at = (uint32_t)hash & part->mask;; at = (at + 1) & part->mask) {
            uint32_t place = atomic_load_explicit(&part->places[at], memory_order_relaxed);
            if (place == DN_IDPLACE_EMPTY) {
                break;
            }
            uint32_t id = (place & ((1u << DN_ID_BITS) - 1)) - 2;
            if (place >> DN_ID_BITS == tag && place != DN_IDPLACE_DELETED && same(table->core, id, key)) {
                return id;
            }
        }
        part = old;
    }
    return DN_ID_NONE;
}

static inline void dn_idtable_prefetch(const struct dn_idtable *table, uint64_t hash)
{
    const struct dn_idpart *part = atomic_load_explicit(&table->part, memory_order_acquire);
    __builtin_prefetch(&part->places[(uint32_t)hash & part->mask]);
}

/* A guess at what find would give, without looking at the objects: for prefetching. Any thread, as find. */
static inline uint32_t dn_idtable_guess(const struct dn_idtable *table, uint64_t hash)
{
    const struct dn_idpart *part = atomic_load_explicit(&table->part, memory_order_acquire);
    uint32_t tag = (uint32_t)(hash >> 56);
    for (uint32_t at = (uint32_t)hash & part->mask;; at = (at + 1) & part->mask) {
        uint32_t place = atomic_load_explicit(&part->places[at], memory_order_relaxed);
        if (place == DN_IDPLACE_EMPTY) {
            return DN_ID_NONE;
        }
        if (place >> DN_ID_BITS == tag && place != DN_IDPLACE_DELETED) {
            return (place & ((1u << DN_ID_BITS) - 1)) - 2;
        }
    }
}

/* Writer only. An id is inserted once, and removed with the hash it was inserted with. */
void dn_idtable_init(struct dn_idtable *table, struct dn_core *core,
                     bool (*hash_of)(const struct dn_core *core, uint32_t id, uint64_t *ret_hash),
                     void (*prefetch)(const struct dn_core *core, uint32_t id, bool object));
void dn_idtable_insert(struct dn_idtable *table, uint64_t hash, uint32_t id);
void dn_idtable_remove(struct dn_idtable *table, uint64_t hash, uint32_t id);

#endif
