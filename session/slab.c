/* Slab allocator.
 *
 * Invariants:
 *  1. A region is REGION_BYTES, aligned to SLAB_BYTES, and cut into slabs; a slab starts with its header, so
 * an object's slab is its address rounded down.
 *  2. A slab is in exactly one place: the free list (no class), its class's partial list (has room), or none
 *     (full).
 *  3. Objects above SMALL_MAX are allocations of their own, linked in `large`.
 */
#include "session/slab.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

#define SLAB_BYTES ((size_t)64 << 10)
#define REGION_SLABS 32
#define REGION_BYTES (REGION_SLABS * SLAB_BYTES)
#define MAPPED_MIN ((size_t)1 << 20)
#define FINE_STEP 16u
#define FINE_MAX 1024u
#define COARSE_STEP 128u
#define SMALL_MAX 4096u
#define FINE_CLASSES (FINE_MAX / FINE_STEP)
#define CLASS_COUNT (FINE_CLASSES + (SMALL_MAX - FINE_MAX) / COARSE_STEP)

struct object {
    struct object *next;
};

struct page { /* the header of a slab */
    struct page *next, *previous;
    struct object *free;
    uint32_t size;   /* of its objects */
    uint32_t used;   /* objects handed out */
    uint32_t carved; /* objects that were ever handed out: those behind are untouched */
    uint32_t capacity;
    uint64_t reserved[3];
};
_Static_assert(sizeof(struct page) % 16 == 0, "objects are aligned to 16");

struct region {
    struct region *next;
    void *bytes;
};

struct large {
    struct large *next, *previous;
    size_t size;
    uint64_t reserved;
};
_Static_assert(sizeof(struct large) % 16 == 0, "large objects are aligned to 16");

struct dn_slab {
    struct page *partial[CLASS_COUNT];
    struct page *free;
    struct region *regions;
    struct large *large;
    uint64_t bytes;
};

static void *must(void *memory)
{
    bool have_memory = memory != NULL;
    DN_ASSERT(have_memory);
    return memory;
}

static size_t class_of(size_t size)
{
    if (size <= FINE_MAX) {
        return (size + FINE_STEP - 1) / FINE_STEP - 1;
    }
    return FINE_CLASSES + (size - FINE_MAX + COARSE_STEP - 1) / COARSE_STEP - 1;
}

static uint32_t class_size(size_t class)
{
    if (class < FINE_CLASSES) {
        return (uint32_t)(class + 1) * FINE_STEP;
    }
    return FINE_MAX + (uint32_t)(class + 1 - FINE_CLASSES) * COARSE_STEP;
}

struct dn_slab *dn_slab_create(void)
{
    struct dn_slab *slab = must(calloc(1, sizeof *slab));
    slab->bytes = sizeof *slab;
    return slab;
}

static void grow(struct dn_slab *slab)
{
    struct region *region = must(malloc(sizeof *region));
    region->bytes = must(aligned_alloc(SLAB_BYTES, REGION_BYTES));
    region->next = slab->regions;
    slab->regions = region;
    slab->bytes += REGION_BYTES + sizeof *region;
    for (size_t i = REGION_SLABS; i-- > 0;) {
        struct page *page = (struct page *)(void *)((char *)region->bytes + i * SLAB_BYTES);
        page->next = slab->free;
        slab->free = page;
    }
}

static void partial_push(struct dn_slab *slab, size_t class, struct page *page)
{
    page->previous = NULL;
    page->next = slab->partial[class];
    if (page->next != NULL) {
        page->next->previous = page;
    }
    slab->partial[class] = page;
}

static void partial_remove(struct dn_slab *slab, size_t class, struct page *page)
{
    if (page->previous != NULL) {
        page->previous->next = page->next;
    } else {
        slab->partial[class] = page->next;
    }
    if (page->next != NULL) {
        page->next->previous = page->previous;
    }
}

/* From MAPPED_MIN bytes on straight from the system: malloc may find an old piece for them, clear it and copy
 * it, and give it back, all at once and for milliseconds; fresh pages come one by one as they are touched. */
static struct large *large_memory(size_t bytes, bool zero)
{
    if (bytes < MAPPED_MIN) {
        return must(zero ? calloc(1, bytes) : malloc(bytes));
    }
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return must(mapped != MAP_FAILED ? mapped : NULL);
}

static void *large_alloc(struct dn_slab *slab, size_t size, bool zero)
{
    struct large *large = large_memory(sizeof *large + size, zero);
    large->size = size;
    large->previous = NULL;
    large->next = slab->large;
    if (large->next != NULL) {
        large->next->previous = large;
    }
    slab->large = large;
    slab->bytes += sizeof *large + size;
    return large + 1;
}

static void large_free(struct dn_slab *slab, struct large *large)
{
    if (large == slab->large) {
        slab->large = large->next;
    } else {
        large->previous->next = large->next;
    }
    if (large->next != NULL) {
        large->next->previous = large->previous;
    }
    size_t bytes = sizeof *large + large->size;
    slab->bytes -= bytes;
    if (bytes < MAPPED_MIN) {
        free(large);
    } else {
        (void)munmap(large, bytes);
    }
}

void *dn_slab_alloc(struct dn_slab *slab, size_t size)
{
    DN_ASSERT(size > 0);
    if (size > SMALL_MAX) {
        return large_alloc(slab, size, false);
    }
    size_t class = class_of(size);
    struct page *page = slab->partial[class];
    if (page == NULL) {
        if (slab->free == NULL) {
            grow(slab);
        }
        page = slab->free;
        slab->free = page->next;
        page->free = NULL;
        page->size = class_size(class);
        page->used = 0;
        page->carved = 0;
        page->capacity = (uint32_t)((SLAB_BYTES - sizeof *page) / page->size);
        partial_push(slab, class, page);
    }
    struct object *object = page->free;
    if (object != NULL) {
        ASAN_UNPOISON_MEMORY_REGION(object, page->size);
        page->free = object->next;
    } else {
        object = (struct object *)(void *)((char *)(page + 1) + (size_t)page->carved * page->size);
        page->carved++;
    }
    page->used++;
    if (page->used == page->capacity) {
        partial_remove(slab, class, page);
    }
    return object;
}

void *dn_slab_zalloc(struct dn_slab *slab, size_t size)
{
    if (size > SMALL_MAX) {
        return large_alloc(slab, size, true);
    }
    return memset(dn_slab_alloc(slab, size), 0, size);
}

void dn_slab_free(struct dn_slab *slab, void *object, size_t size)
{
    if (size > SMALL_MAX) {
        struct large *large = (struct large *)object - 1;
        DN_ASSERT(large->size == size);
        large_free(slab, large);
        return;
    }
    size_t class = class_of(size);
    struct page *page = (struct page *)((uintptr_t)object & ~(uintptr_t)(SLAB_BYTES - 1));
    DN_ASSERT(page->size == class_size(class) && page->used > 0);
    struct object *freed = object;
    freed->next = page->free;
    page->free = freed;
    ASAN_POISON_MEMORY_REGION(object, page->size);
    if (page->used == page->capacity) {
        partial_push(slab, class, page);
    }
    page->used--;
    /* The last slab of a class stays: a class that hovers around empty would take and give it all the time.
     */
    if (page->used == 0 && (page->next != NULL || page->previous != NULL)) {
        partial_remove(slab, class, page);
        ASAN_UNPOISON_MEMORY_REGION(page, SLAB_BYTES);
        page->next = slab->free;
        slab->free = page;
    }
}

size_t dn_slab_room(size_t size)
{
    return size > SMALL_MAX ? sizeof(struct large) + size : class_size(class_of(size));
}

uint64_t dn_slab_bytes(const struct dn_slab *slab)
{
    return slab->bytes;
}

bool dn_slab_destroy_step(struct dn_slab *slab, size_t max_bytes)
{
    size_t freed_bytes = 0;
    while (slab->large != NULL && freed_bytes < max_bytes) {
        freed_bytes += slab->large->size;
        large_free(slab, slab->large);
    }
    while (slab->regions != NULL && freed_bytes < max_bytes) {
        struct region *region = slab->regions;
        slab->regions = region->next;
        ASAN_UNPOISON_MEMORY_REGION(region->bytes, REGION_BYTES);
        free(region->bytes);
        free(region);
        freed_bytes += REGION_BYTES;
    }
    if (slab->large != NULL || slab->regions != NULL) {
        return false;
    }
    free(slab);
    return true;
}
