/* Memory: what a process allocates lies in its own region, so that a crash drops all of it at once, and at
 * the same addresses in every run of a seed. Small pieces come from lists by size, refilled from the region's
 * low part; large ones from its high part, whose pages the kernel clears.
 *
 * What malloc returns is filled with a pattern, so that nothing depends on what lay there before. */
#include "tests/virtual/internal.h"

#include <sys/mman.h>

#define REGION_BASE UINT64_C(0x200000000000)
#define REGION_BYTES (UINT64_C(4) << 30) /* of address space, for one machine */
#define SMALL_ROOM (UINT64_C(1) << 30)
#define CLASSES 48
#define SMALL_MAX ((size_t)64 << 10)
#define LARGE_STEP ((size_t)64 << 10)
#define PATTERN 0xa7
#define STACK_GUARD ((size_t)4096)
#define HEAD 16 /* before each piece: its size */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void __real_free(void *memory);
int __real_posix_memalign(void **ret, size_t alignment, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *text);
void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t length);

struct head {
    uint64_t size;  /* of the piece as it is reserved */
    uint64_t asked; /* by the caller */
};
_Static_assert(sizeof(struct head) == HEAD, "pieces stay aligned to 16");

struct piece {
    struct piece *next;
};

static struct region {
    uint8_t *base;
    uint64_t small_at, large_at, large_most;
    struct piece *small[CLASSES];
    struct piece *large[256]; /* by LARGE_STEPs */
} regions[SIM_MACHINES_MAX];

void memory_open(void)
{
    for (unsigned i = 0; i < machine_count; i++) {
        if (regions[i].base != NULL) {
            continue;
        }
        void *want = (void *)(uintptr_t)(REGION_BASE + i * REGION_BYTES);
        regions[i].base =
            __real_mmap(want, REGION_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        SIM_CHECK(regions[i].base == want, "address space for machine %u", i);
        memory_reset(i);
    }
}

void memory_reset(unsigned machine)
{
    struct region *r = &regions[machine];
    if (r->large_most > SMALL_ROOM) {
        madvise(r->base + SMALL_ROOM, r->large_most - SMALL_ROOM, MADV_DONTNEED);
    }
    memset(r->small, 0, sizeof r->small);
    memset(r->large, 0, sizeof r->large);
    r->small_at = 0;
    r->large_at = r->large_most = SMALL_ROOM;
}

static struct region *region_of(const void *memory)
{
    uint64_t at = (uint64_t)(uintptr_t)memory;
    if (at < REGION_BASE || at >= REGION_BASE + SIM_MACHINES_MAX * REGION_BYTES) {
        return NULL;
    }
    return &regions[(at - REGION_BASE) / REGION_BYTES];
}

/* Classes: 16 bytes apart up to 256, then four to each power of two. */
static unsigned class_of(size_t size, size_t *ret_size)
{
    if (size <= 256) {
        unsigned class = size == 0 ? 0 : (unsigned)((size - 1) / 16);
        *ret_size = (class + 1) * 16;
        return class;
    }
    unsigned class = 16;
    for (size_t power = 256; power < SMALL_MAX; power *= 2) {
        for (size_t quarter = 1; quarter <= 4; quarter++, class ++) {
            if (size <= power + power / 4 * quarter) {
                *ret_size = power + power / 4 * quarter;
                return class;
            }
        }
    }
    sim_broken(__FILE__, __LINE__, "size", "%zu bytes are not small", size);
}

static void *small_take(struct region *r, size_t size)
{
    size_t reserved;
    unsigned class = class_of(size, &reserved);
    struct piece *piece = r->small[class];
    if (piece != NULL) {
        r->small[class] = piece->next;
    } else {
        piece = (struct piece *)(void *)(r->base + r->small_at + HEAD);
        r->small_at += HEAD + reserved;
        SIM_CHECK(r->small_at <= SMALL_ROOM, "a process needs more memory than it has");
    }
    *((struct head *)(void *)piece - 1) = (struct head){reserved, size};
    return piece;
}

/* Aligned to LARGE_STEP but for the head, which has a page of its own before it. *ret_fresh: it is zero. */
static void *large_take(struct region *r, size_t size, bool *ret_fresh)
{
    size_t steps = (size + LARGE_STEP - 1) / LARGE_STEP;
    struct piece *piece = steps < 256 ? r->large[steps] : NULL;
    *ret_fresh = piece == NULL;
    if (piece != NULL) {
        r->large[steps] = piece->next;
    } else {
        piece = (struct piece *)(void *)(r->base + r->large_at + LARGE_STEP);
        r->large_at += (steps + 1) * LARGE_STEP;
        r->large_most = r->large_at;
        SIM_CHECK(r->large_at <= REGION_BYTES, "a process needs more memory than it has");
    }
    *((struct head *)(void *)piece - 1) = (struct head){steps * LARGE_STEP, size};
    return piece;
}

static void *take(size_t size, bool zero)
{
    struct region *r = &regions[current->machine];
    bool fresh = false;
    if (size > SMALL_MAX) {
        void *memory = large_take(r, size, &fresh);
        return zero && !fresh ? memset(memory, 0, size) : memory;
    }
    return memset(small_take(r, size), zero ? 0 : PATTERN, size);
}

static void give(struct region *r, void *memory)
{
    struct head *head = (struct head *)memory - 1;
    struct piece *piece = memory;
    struct piece **list = NULL;
    size_t reserved = head->size;
    if (reserved > SMALL_MAX) {
        list = reserved / LARGE_STEP < 256 ? &r->large[reserved / LARGE_STEP] : NULL;
    } else {
        list = &r->small[class_of(reserved, &reserved)];
        memset(memory, PATTERN, head->asked);
    }
    if (list != NULL) {
        piece->next = *list;
        *list = piece;
    }
}

/* ---- what the linker puts in place of the C library's ------------------------------------------------- */

void *__wrap_malloc(size_t size)
{
    return current == NULL ? __real_malloc(size) : take(size, false);
}

void *__wrap_calloc(size_t count, size_t size)
{
    if (current == NULL) {
        return __real_calloc(count, size);
    }
    SIM_CHECK(size == 0 || count <= REGION_BYTES / size, "calloc");
    return take(count * size, true);
}

void __wrap_free(void *memory)
{
    struct region *r = region_of(memory);
    if (r == NULL) {
        __real_free(memory);
    } else {
        give(r, memory);
    }
}

void *__wrap_realloc(void *memory, size_t size)
{
    struct region *r = region_of(memory);
    if (r == NULL && (memory != NULL || current == NULL)) {
        return __real_realloc(memory, size);
    }
    if (memory == NULL) {
        return take(size, false);
    }
    struct head *head = (struct head *)memory - 1;
    if (size <= head->size && size > 0) {
        head->asked = size;
        return memory;
    }
    void *grown = take(size, false);
    memcpy(grown, memory, head->asked < size ? head->asked : size);
    give(r, memory);
    return grown;
}

/* Every large piece is aligned to LARGE_STEP, which is enough for all who ask. */
static void *take_aligned(size_t alignment, size_t size)
{
    bool fresh;
    SIM_CHECK(alignment <= LARGE_STEP, "alignment %zu", alignment);
    if (alignment <= 16) {
        return take(size, false);
    }
    return large_take(&regions[current->machine], size, &fresh);
}

int __wrap_posix_memalign(void **ret, size_t alignment, size_t size)
{
    if (current == NULL) {
        return __real_posix_memalign(ret, alignment, size);
    }
    *ret = take_aligned(alignment, size);
    return 0;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return current == NULL ? __real_aligned_alloc(alignment, size) : take_aligned(alignment, size);
}

char *__wrap_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    return current == NULL ? __real_strdup(text) : memcpy(take(size, false), text, size);
}

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (current == NULL) {
        return __real_mmap(address, length, protection, flags, fd, offset);
    }
    SIM_CHECK((flags & MAP_ANONYMOUS) != 0, "a process maps a file");
    return take(length > SMALL_MAX ? length : SMALL_MAX + 1, true);
}

int __wrap_munmap(void *address, size_t length)
{
    if (region_of(address) == NULL) {
        return __real_munmap(address, length);
    }
    give(region_of(address), address);
    return 0;
}

/* libsodium's guarded memory makes system calls at every handshake, and would outlive its process. */
void *__wrap_sodium_malloc(size_t size)
{
    return __wrap_malloc(size);
}

void __wrap_sodium_free(void *memory)
{
    __wrap_free(memory);
}

int __wrap_sodium_mprotect_noaccess(void *memory)
{
    return memory == NULL ? -1 : 0;
}

int __wrap_sodium_mprotect_readonly(void *memory)
{
    return memory == NULL ? -1 : 0;
}

/* A stack for a fiber, with a page before it that nobody may touch. */
void *memory_stack(size_t size)
{
    uint8_t *stack = __real_mmap(NULL, size + STACK_GUARD, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SIM_CHECK(stack != MAP_FAILED && mprotect(stack, STACK_GUARD, PROT_NONE) == 0, "no memory for a stack");
    return stack + STACK_GUARD;
}

/* ---- the test's own ----------------------------------------------------------------------------------- */

void *memory_real(size_t size)
{
    void *memory = __real_calloc(1, size);
    SIM_CHECK(memory != NULL, "out of memory");
    return memory;
}

void *memory_real_grow(void *memory, size_t size)
{
    memory = __real_realloc(memory, size);
    SIM_CHECK(memory != NULL, "out of memory");
    return memory;
}

void memory_real_free(void *memory)
{
    __real_free(memory);
}
