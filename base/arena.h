/* Arena: memory for one request, freed all at once. Not shared between threads.
 *
 * Blocks are kept across dn_arena_reset(), so a warm arena makes no system call and no malloc. The total is
 * capped: past the cap dn_arena_alloc() returns NULL and the request is refused, never the process killed. */
#ifndef DN_BASE_ARENA_H
#define DN_BASE_ARENA_H

#include <stddef.h>

struct dn_arena;

/* An arena that grows in blocks of block_bytes up to max_bytes in all. NULL when memory is out. */
struct dn_arena *dn_arena_create(size_t block_bytes, size_t max_bytes);
void dn_arena_destroy(struct dn_arena *arena); /* NULL is allowed */

/* size bytes aligned to 16, uninitialised; NULL past the cap. A size of 0 gives a valid pointer. */
void *dn_arena_alloc(struct dn_arena *arena, size_t size);
void *dn_arena_zalloc(struct dn_arena *arena, size_t size);
void *dn_arena_memdup(struct dn_arena *arena, const void *bytes, size_t size);
/* A copy with a NUL put behind it. */
char *dn_arena_strndup(struct dn_arena *arena, const char *text, size_t length);

/* Frees all that was allocated; keeps blocks for reuse (big one-off blocks are given back). */
void dn_arena_reset(struct dn_arena *arena);

/* Bytes handed out since the last reset. */
size_t dn_arena_used(const struct dn_arena *arena);

#endif
