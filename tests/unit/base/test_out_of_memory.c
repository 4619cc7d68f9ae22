/* What base does when memory runs out: the sources are included here with an allocator that fails when told.
 */
#include "tests/unit/base/cmocka_all.h"

#include <errno.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static long allocations_left = -1; /* below 0: no limit */

static bool allocation_fails(void)
{
    if (allocations_left < 0) {
        return false;
    }
    if (allocations_left == 0) {
        return true;
    }
    allocations_left--;
    return false;
}

static void *limited_malloc(size_t size)
{
    return allocation_fails() ? NULL : malloc(size);
}

static void *limited_calloc(size_t count, size_t size)
{
    return allocation_fails() ? NULL : calloc(count, size);
}

static void *limited_realloc(void *memory, size_t size)
{
    return allocation_fails() ? NULL : realloc(memory, size);
}

static void *limited_aligned_alloc(size_t alignment, size_t size)
{
    return allocation_fails() ? NULL : aligned_alloc(alignment, size);
}

#define malloc limited_malloc
#define calloc limited_calloc
#define realloc limited_realloc
#define aligned_alloc limited_aligned_alloc
/* NOLINTBEGIN(bugprone-suspicious-include) */
#include "base/arena.c"
#include "base/buffer.c"
#include "base/epoch.c"
#include "base/queue.c"
/* NOLINTEND(bugprone-suspicious-include) */
#undef malloc
#undef calloc
#undef realloc
#undef aligned_alloc

static void creation_returns_null_and_leaks_nothing(void **state)
{
    (void)state;
    for (long left = 0; left < 3; left++) {
        struct dn_queue *queue;
        struct dn_arena *arena;
        struct dn_epoch *epoch;

        allocations_left = left;
        queue = dn_queue_create(16);
        assert_int_equal(queue != NULL, left >= 2);
        dn_queue_destroy(queue);
        allocations_left = left;
        arena = dn_arena_create(64, 1024);
        assert_int_equal(arena != NULL, left >= 1);
        dn_arena_destroy(arena);
        allocations_left = left;
        epoch = dn_epoch_create();
        assert_int_equal(epoch != NULL, left >= 1);
        dn_epoch_destroy(epoch);
    }
    allocations_left = -1;
}

static void a_buffer_keeps_what_it_had(void **state)
{
    struct dn_buffer buffer;

    (void)state;
    dn_buffer_init(&buffer, 1 << 20);
    for (int i = 0; i < 64; i++) {
        dn_buffer_u8(&buffer, (uint8_t)i);
    }
    allocations_left = 0;
    for (int i = 0; i < 1000; i++) {
        dn_buffer_u8(&buffer, 0xff);
    }
    allocations_left = -1;
    assert_true(buffer.failed);
    assert_int_equal(buffer.length, 64);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(buffer.bytes[i], i);
    }
    dn_buffer_free(&buffer);
}

static void an_arena_refuses_and_goes_on(void **state)
{
    struct dn_arena *arena = dn_arena_create(64, 1 << 20);

    (void)state;
    assert_non_null(dn_arena_alloc(arena, 48));
    allocations_left = 0;
    assert_null(dn_arena_alloc(arena, 100));
    assert_null(dn_arena_strndup(arena, "0123456789012345678", 19));
    assert_non_null(dn_arena_alloc(arena, 16)); /* the open block still has room */
    allocations_left = -1;
    assert_non_null(dn_arena_alloc(arena, 100));
    dn_arena_destroy(arena);
}

struct held {
    struct dn_epoch *epoch;
    atomic_bool inside;
    atomic_bool leave;
    atomic_bool left;
};

static void *hold_a_section(void *argument)
{
    struct held *held = argument;
    struct dn_epoch_reader *reader = dn_epoch_register(held->epoch);

    dn_epoch_enter(reader);
    atomic_store(&held->inside, true);
    while (!atomic_load(&held->leave)) {
        sched_yield();
    }
    atomic_store(&held->left, true);
    dn_epoch_leave(reader);
    dn_epoch_unregister(reader);
    return NULL;
}

static void *let_go(void *argument)
{
    struct held *held = argument;

    for (int i = 0; i < 1000; i++) { /* gives a retire that did not wait every chance to be caught */
        sched_yield();
    }
    atomic_store(&held->leave, true);
    return NULL;
}

static bool freed_after_reader_left;

static void check_reader_left(void *context, void *object)
{
    (void)object;
    freed_after_reader_left = atomic_load(&((struct held *)context)->left);
}

static void retiring_without_memory_waits_for_the_readers(void **state)
{
    struct held held = {.epoch = dn_epoch_create()};
    pthread_t reader, releaser;

    (void)state;
    assert_int_equal(pthread_create(&reader, NULL, hold_a_section, &held), 0);
    while (!atomic_load(&held.inside)) {
        sched_yield();
    }
    assert_int_equal(pthread_create(&releaser, NULL, let_go, &held), 0);
    allocations_left = 0;
    dn_epoch_retire(held.epoch, &held, check_reader_left, &held);
    allocations_left = -1;
    assert_true(freed_after_reader_left);
    pthread_join(reader, NULL);
    pthread_join(releaser, NULL);
    assert_int_equal(dn_epoch_reclaim(held.epoch, 9), 0);
    dn_epoch_destroy(held.epoch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creation_returns_null_and_leaks_nothing),
        cmocka_unit_test(a_buffer_keeps_what_it_had),
        cmocka_unit_test(an_arena_refuses_and_goes_on),
        cmocka_unit_test(retiring_without_memory_waits_for_the_readers),
    };
    return cmocka_run_group_tests_name("base.out_of_memory", tests, NULL, NULL);
}
