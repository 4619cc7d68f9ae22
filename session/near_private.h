/* What near.c, near_read.c and near_snapshot.c share. */
#ifndef DN_SESSION_NEAR_PRIVATE_H
#define DN_SESSION_NEAR_PRIVATE_H

#include "session/core.h"

static inline uint64_t dn_row_key(uint64_t item_hash)
{
    return item_hash >> DN_ROW_KEY_SHIFT << DN_ROW_KEY_SHIFT;
}

static inline uint32_t *dn_row_near(const struct dn_row *row)
{
    return (uint32_t *)(void *)(uintptr_t)(row->keys + row->capacity);
}

static inline uint32_t *dn_row_items(const struct dn_row *row)
{
    return dn_row_near(row) + row->capacity;
}

/* The place of the n-th newest; n < count. */
static inline uint32_t dn_visitors_place(const struct dn_visitors *visitors, uint32_t n)
{
    return (visitors->head + 2 * visitors->capacity - 1 - n) % visitors->capacity;
}

static inline size_t dn_row_bytes(uint32_t capacity)
{
    return sizeof(struct dn_row) + capacity * (sizeof(uint64_t) + 2 * sizeof(uint32_t));
}

static inline size_t dn_visitors_bytes(uint32_t capacity)
{
    return sizeof(struct dn_visitors) + capacity * sizeof(uint32_t);
}

/* The slot's row (ring) is this one now; either may be NULL. Keeps the counts; the old one is retired. */
void dn_row_put(struct dn_core *core, struct dn_item_slot *slot, struct dn_row *row);
void dn_visitors_put(struct dn_core *core, struct dn_item_slot *slot, struct dn_visitors *visitors);

/* Empty, as of the group's epoch. */
struct dn_row *dn_row_create(struct dn_core *core, uint32_t capacity);
struct dn_visitors *dn_visitors_create(struct dn_core *core, uint32_t capacity);

/* Section NEAR. */
void dn_near_write(const struct dn_capture *capture, struct dn_sink *sink, struct dn_buffer *out);
/* Behind its head; items and users are restored. names[id in the bytes]: the id here plus one. False: it
 * breaks a rule, or the bytes end; the core is thrown away then. */
bool dn_near_read(struct dn_core *core, struct dn_source *in, const uint32_t *names, uint32_t count);

#endif
