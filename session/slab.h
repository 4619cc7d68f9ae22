/* Slab allocator for one shard core: blocks and item strings in size classes, big tables one by one.
 *
 * Used by the thread that writes the core (the consensus thread; a pool thread while a core is being
 * restored), never by readers. Memory of an emptied slab serves any class again. When the machine is out of
 * memory the process ends: a state machine that skipped a change would no longer be the same as its peers. */
#ifndef DN_SESSION_SLAB_H
#define DN_SESSION_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dn_slab;

struct dn_slab *dn_slab_create(void);

/* size bytes (at least 1), aligned to 16, uninitialised; never NULL. */
void *dn_slab_alloc(struct dn_slab *slab, size_t size);
/* As above, zero bytes. */
void *dn_slab_zalloc(struct dn_slab *slab, size_t size);
/* `size` is the size that was asked for. */
void dn_slab_free(struct dn_slab *slab, void *object, size_t size);

/* How many bytes an object of this size takes, rounding included. */
size_t dn_slab_room(size_t size);

/* Bytes taken from the system. */
uint64_t dn_slab_bytes(const struct dn_slab *slab);

/* Gives everything back, about max_bytes a call (SIZE_MAX: all); true when done and `slab` itself is gone. */
bool dn_slab_destroy_step(struct dn_slab *slab, size_t max_bytes);

#endif
