/* An allocator that fails when told, for sources that are included into a test. */
#ifndef DN_TESTS_UNIT_JOURNAL_NO_MEMORY_H
#define DN_TESTS_UNIT_JOURNAL_NO_MEMORY_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#undef strdup

static atomic_long fail_at;    /* the n-th allocation from now (from 1) fails; 0: none */
static atomic_long fail_count; /* and how many from it on */
static atomic_long memory_failures;

static inline bool allocation_fails(void) /* from pool threads too */
{
    if (atomic_load(&fail_at) == 0)
        return false;
    long nth = atomic_fetch_sub(&fail_at, 1);
    if (nth > 1)
        return false;
    if (nth < 1 || atomic_fetch_sub(&fail_count, 1) <= 0) {
        atomic_store(&fail_at, 0);
        return false;
    }
    atomic_store(&fail_at, 1); /* the next one too, while there are some left */
    atomic_fetch_add(&memory_failures, 1);
    return true;
}

static inline void *limited_malloc(size_t size)
{
    return allocation_fails() ? NULL : malloc(size);
}

static inline void *limited_calloc(size_t count, size_t size)
{
    return allocation_fails() ? NULL : calloc(count, size);
}

static inline void *limited_realloc(void *memory, size_t size)
{
    return allocation_fails() ? NULL : realloc(memory, size);
}

static inline int limited_posix_memalign(void **ret, size_t alignment, size_t size)
{
    return allocation_fails() ? ENOMEM : posix_memalign(ret, alignment, size);
}

static inline char *limited_strdup(const char *text)
{
    return allocation_fails() ? NULL : strdup(text);
}

static inline void no_memory(long nth, long count)
{
    atomic_store(&memory_failures, 0);
    atomic_store(&fail_count, count);
    atomic_store(&fail_at, nth);
}

static inline void enough_memory(void)
{
    atomic_store(&fail_at, 0);
}

#endif
