/* Epoch-based reclamation: many readers without locks, one writer (Fraser, "Practical lock-freedom", 2004).
 *
 * A reader thread registers once, then brackets each read with enter and leave; pointers it loaded (acquire)
 * from shared state stay valid until it leaves. The writer unlinks an object, then retires it; it is freed
 * (on the writer's thread, by dn_epoch_reclaim) once every reader that might hold it has left.
 *
 * Written on C11 atomics rather than taken from Concurrency Kit: the thread sanitizer then sees every
 * ordering (docs/decisions.md). */
#ifndef DN_BASE_EPOCH_H
#define DN_BASE_EPOCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dn_epoch;        /* a domain: one writer thread, up to DN_EPOCH_READERS_MAX readers */
struct dn_epoch_reader; /* one reader thread's registration */

#define DN_EPOCH_READERS_MAX 64

struct dn_epoch *dn_epoch_create(void);
/* Frees all that is retired. No reader may be registered any more. */
void dn_epoch_destroy(struct dn_epoch *epoch);

/* NULL when DN_EPOCH_READERS_MAX are registered. Any thread. */
struct dn_epoch_reader *dn_epoch_register(struct dn_epoch *epoch);
void dn_epoch_unregister(struct dn_epoch_reader *reader);

/* Enter and leave may nest. Only the registered thread calls them. Wait-free. */
void dn_epoch_enter(struct dn_epoch_reader *reader);
void dn_epoch_leave(struct dn_epoch_reader *reader);

/* Writer: call free_fn(context, object) when no reader can hold `object` any more. Never fails: where its
 * own bookkeeping cannot grow, it waits for the readers. */
void dn_epoch_retire(struct dn_epoch *epoch, void *object, void (*free_fn)(void *context, void *object),
                     void *context);

/* Writer: frees what can be freed, at most `max` objects; returns how many are still waiting. Cheap when
 * nothing is due. Call it once a loop turn. */
size_t dn_epoch_reclaim(struct dn_epoch *epoch, size_t max);

#endif
