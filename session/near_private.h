/* What near.c, near_read.c and near_snapshot.c share. */
#ifndef DN_SESSION_NEAR_PRIVATE_H
#define DN_SESSION_NEAR_PRIVATE_H

#include "session/core.h"

#define DN_CELL_LOW_BITS (32 - DN_CELL_NEAR_BITS)   /* of the item's id, beside near */
#define DN_CELL_HIGH_BITS (32 - DN_CELL_AFTER_BITS) /* and beside after */
_Static_assert(1u << (DN_CELL_LOW_BITS + DN_CELL_HIGH_BITS) == DN_ITEM_IDS, "an id fits");
_Static_assert(DN_NEAR_CELLS_MAX % DN_ROW_STEP == 0, "the largest row is whole steps");

/* Is it a click: in rows, and a visit? */
static inline bool dn_near_counts(const struct dn_event *event)
{
    return event->type != DN_EVENT_DISLIKE && event->type != DN_EVENT_REMOVE;
}

static inline uint32_t dn_row_key(uint64_t item_hash)
{
    return (uint32_t)(item_hash >> 32);
}

/* Any thread: the three words are of one moment or of two. */
static inline struct dn_cell dn_cell_get(const struct dn_row *row, uint32_t at)
{
    const uint32_t *words = row->words + at;
    uint32_t near = __atomic_load_n(words + row->capacity, __ATOMIC_RELAXED);
    uint32_t after = __atomic_load_n(words + 2 * row->capacity, __ATOMIC_RELAXED);

    return (struct dn_cell){
        .key = __atomic_load_n(words, __ATOMIC_RELAXED),
        .near = near >> DN_CELL_LOW_BITS,
        .after = after >> DN_CELL_HIGH_BITS,
        .item = (after & ((1u << DN_CELL_HIGH_BITS) - 1)) << DN_CELL_LOW_BITS |
                (near & ((1u << DN_CELL_LOW_BITS) - 1)),
    };
}

static inline void dn_cell_put(struct dn_row *row, uint32_t at, const struct dn_cell *cell)
{
    uint32_t *words = row->words + at;
    uint32_t low = cell->item & ((1u << DN_CELL_LOW_BITS) - 1);

    __atomic_store_n(words, cell->key, __ATOMIC_RELAXED);
    __atomic_store_n(words + row->capacity, cell->near << DN_CELL_LOW_BITS | low, __ATOMIC_RELAXED);
    __atomic_store_n(words + 2 * row->capacity,
                     cell->after << DN_CELL_HIGH_BITS | cell->item >> DN_CELL_LOW_BITS, __ATOMIC_RELAXED);
}

/* The slot of an id that may be of another core than this one; NULL: there is none. */
static inline const struct dn_item_slot *dn_near_slot(const struct dn_core *core, uint32_t id)
{
    const struct dn_item_chunk *chunk =
        id < DN_ITEM_IDS ? atomic_load_explicit(&core->item_chunks[id / DN_ITEM_CHUNK], memory_order_acquire)
                         : NULL;

    return chunk != NULL ? &chunk->slots[id % DN_ITEM_CHUNK] : NULL;
}

/* The place of the n-th newest; n < count. */
static inline uint32_t dn_visitors_place(const struct dn_visitors *visitors, uint32_t n)
{
    return (visitors->head + 2u * visitors->capacity - 1 - n) % visitors->capacity;
}

static inline size_t dn_row_bytes(uint32_t capacity)
{
    return sizeof(struct dn_row) + capacity * 3 * sizeof(uint32_t);
}

static inline size_t dn_visitors_bytes(uint32_t capacity)
{
    return sizeof(struct dn_visitors) + capacity * sizeof(uint32_t);
}

/* The slot's row (ring) is this one now; either may be NULL. Keeps the counts; the old one is retired. */
void dn_row_put(struct dn_core *core, struct dn_item_slot *slot, struct dn_row *row);
void dn_visitors_put(struct dn_core *core, struct dn_item_slot *slot, struct dn_visitors *visitors);

/* Empty, as of the group's epoch, with room for so many or a few more. */
struct dn_row *dn_row_create(struct dn_core *core, uint32_t capacity);
struct dn_visitors *dn_visitors_create(struct dn_core *core, uint32_t capacity);

/* Does section NEAR have something to say of the item? */
bool dn_near_has_tables(const struct dn_item_slot *slot);
/* Section NEAR. */
void dn_near_write(const struct dn_capture *capture, struct dn_sink *sink, struct dn_buffer *out);
/* Behind its head; items and users are restored. names[id in the bytes]: the id here plus one. False: it
 * breaks a rule, or the bytes end; the core is thrown away then. */
bool dn_near_read(struct dn_core *core, struct dn_source *in, const uint32_t *names, uint32_t count);

#endif
