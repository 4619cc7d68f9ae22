/* Arena of linked blocks.
 *
 * Invariants:
 *   1. held_bytes is the sum of the capacities of all blocks, in use or idle, and never passes max_bytes.
 *   2. Allocation goes on only in the first block of `in_use`: of those ever first, the one with most room.
 *   3. An idle block holds nothing of anybody's: it may be reused or given back at any time.
 *   4. Every address handed out is a multiple of ALIGNMENT.
 */
#include "base/arena.h"

#include "base/error.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Under the address sanitizer, memory not handed out is poisoned, so that use after reset is caught. */
#if defined(__SANITIZE_ADDRESS__)
#define DN_ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DN_ARENA_ASAN 1
#endif
#endif
#ifdef DN_ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(address, size) ASAN_POISON_MEMORY_REGION(address, size)
#define UNPOISON(address, size) ASAN_UNPOISON_MEMORY_REGION(address, size)
#else
#define POISON(address, size) ((void)(address), (void)(size))
#define UNPOISON(address, size) ((void)(address), (void)(size))
#endif

#define ALIGNMENT ((size_t)16)

struct block {
    struct block *next;
    size_t capacity;
    size_t used;
    alignas(16) unsigned char bytes[];
};

struct dn_arena {
    struct block *in_use;
    struct block *idle;
    size_t block_bytes;
    size_t max_bytes;
    size_t held_bytes;
    size_t used_bytes;
};

static size_t round_up(size_t size)
{
    return (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
}

static void block_free(struct dn_arena *arena, struct block *block)
{
    arena->held_bytes -= block->capacity;
    UNPOISON(block->bytes, block->capacity);
    free(block);
}

static void free_list(struct dn_arena *arena, struct block **list)
{
    while (*list != NULL) {
        struct block *block = *list;

        *list = block->next;
        block_free(arena, block);
    }
}

struct dn_arena *dn_arena_create(size_t block_bytes, size_t max_bytes)
{
    struct dn_arena *arena = calloc(1, sizeof(*arena));

    if (arena == NULL) {
        return NULL;
    }
    DN_ASSERT(block_bytes > 0 && block_bytes <= SIZE_MAX / 2 && max_bytes <= SIZE_MAX / 2);
    arena->block_bytes = round_up(block_bytes);
    arena->max_bytes = max_bytes & ~(ALIGNMENT - 1);
    return arena;
}

void dn_arena_destroy(struct dn_arena *arena)
{
    if (arena == NULL) {
        return;
    }
    free_list(arena, &arena->in_use);
    free_list(arena, &arena->idle);
    DN_ASSERT(arena->held_bytes == 0);
    free(arena);
}

static struct block *take_idle(struct dn_arena *arena, size_t size)
{
    for (struct block **link = &arena->idle; *link != NULL; link = &(*link)->next) {
        struct block *block = *link;

        if (block->capacity >= size) {
            *link = block->next;
            return block;
        }
    }
    return NULL;
}

static struct block *block_create(struct dn_arena *arena, size_t size)
{
    struct block *block;
    size_t capacity, left;

    if (size > arena->max_bytes - arena->held_bytes) {
        free_list(arena, &arena->idle); /* none of them was big enough: their share of the cap is wanted */
    }
    left = arena->max_bytes - arena->held_bytes;
    if (size > left) {
        return NULL;
    }
    capacity = size > arena->block_bytes ? size : arena->block_bytes;
    if (capacity > left) {
        capacity = left;
    }
    block = malloc(sizeof(*block) + capacity);
    if (block == NULL) {
        return NULL;
    }
    block->capacity = capacity;
    block->used = 0;
    arena->held_bytes += capacity;
    POISON(block->bytes, capacity);
    return block;
}

/* Puts a block that is about to give `size` bytes first, unless the first one has more room left than it
 * will: one big allocation must not waste the rest of a fresh block. */
static void link_in_use(struct dn_arena *arena, struct block *block, size_t size)
{
    struct block *first = arena->in_use;

    if (first != NULL && first->capacity - first->used > block->capacity - size) {
        block->next = first->next;
        first->next = block;
    } else {
        block->next = first;
        arena->in_use = block;
    }
}

static struct block *block_with_room(struct dn_arena *arena, size_t size)
{
    struct block *block = arena->in_use;

    if (block != NULL && block->capacity - block->used >= size) {
        return block;
    }
    block = take_idle(arena, size);
    if (block == NULL) {
        block = block_create(arena, size);
    }
    if (block == NULL) {
        return NULL;
    }
    link_in_use(arena, block, size);
    return block;
}

void *dn_arena_alloc(struct dn_arena *arena, size_t size)
{
    struct block *block;
    size_t rounded;
    void *address;

    if (size > arena->max_bytes) {
        return NULL; /* also keeps round_up from overflowing */
    }
    rounded = round_up(size > 0 ? size : 1);
    block = block_with_room(arena, rounded);
    if (block == NULL) {
        return NULL;
    }
    address = block->bytes + block->used;
    block->used += rounded;
    arena->used_bytes += rounded;
    UNPOISON(address, size);
    return address;
}

void *dn_arena_zalloc(struct dn_arena *arena, size_t size)
{
    void *address = dn_arena_alloc(arena, size);

    if (address != NULL && size > 0) {
        memset(address, 0, size);
    }
    return address;
}

void *dn_arena_memdup(struct dn_arena *arena, const void *bytes, size_t size)
{
    void *copy = dn_arena_alloc(arena, size);

    if (copy != NULL && size > 0) {
        memcpy(copy, bytes, size);
    }
    return copy;
}

char *dn_arena_strndup(struct dn_arena *arena, const char *text, size_t length)
{
    char *copy;

    if (length >= arena->max_bytes) {
        return NULL;
    }
    copy = dn_arena_alloc(arena, length + 1);
    if (copy == NULL) {
        return NULL;
    }
    if (length > 0) {
        memcpy(copy, text, length);
    }
    copy[length] = '\0';
    return copy;
}

void dn_arena_reset(struct dn_arena *arena)
{
    while (arena->in_use != NULL) {
        struct block *block = arena->in_use;

        arena->in_use = block->next;
        if (block->capacity > arena->block_bytes) {
            block_free(arena, block);
            continue;
        }
        block->used = 0;
        POISON(block->bytes, block->capacity);
        block->next = arena->idle;
        arena->idle = block;
    }
    arena->used_bytes = 0;
}

size_t dn_arena_used(const struct dn_arena *arena)
{
    return arena->used_bytes;
}
