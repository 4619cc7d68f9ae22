#include "base/arena.h"
#include "tests/unit/base/cmocka_all.h"
#include "tests/unit/base/random.h"

#include <stdbool.h>
#include <string.h>

static void memory_is_aligned_separate_and_counted(void **state)
{
    struct dn_arena *arena = dn_arena_create(256, 1 << 20);
    unsigned char *places[200];
    struct test_random random = test_random_start("arena");
    size_t sizes[200], used = 0;

    (void)state;
    assert_int_equal(dn_arena_used(arena), 0);
    for (size_t i = 0; i < 200; i++) {
        sizes[i] = test_random_below(&random, 700);
        places[i] = dn_arena_alloc(arena, sizes[i]);
        assert_non_null(places[i]);
        assert_int_equal((uintptr_t)places[i] % 16, 0);
        memset(places[i], (int)i, sizes[i]);
        used += sizes[i];
    }
    for (size_t i = 0; i < 200; i++) {
        for (size_t j = 0; j < sizes[i]; j++) {
            assert_int_equal(places[i][j], i);
        }
    }
    assert_true(dn_arena_used(arena) >= used && dn_arena_used(arena) <= used + 200 * 16);
    dn_arena_reset(arena);
    assert_int_equal(dn_arena_used(arena), 0);
    dn_arena_destroy(arena);
    dn_arena_destroy(NULL);
}

static void the_cap_holds_and_a_reset_gives_all_back(void **state)
{
    struct dn_arena *arena = dn_arena_create(1024, 10 * 1024);

    (void)state;
    for (int round = 0; round < 5; round++) {
        size_t got = 0;

        while (dn_arena_alloc(arena, 128) != NULL) {
            got += 128;
            assert_true(got <= 10 * 1024);
        }
        assert_int_equal(got, 10 * 1024);
        assert_null(dn_arena_alloc(arena, 1));
        assert_null(dn_arena_alloc(arena, 0));
        dn_arena_reset(arena);
        /* The whole cap as one piece: the idle small blocks must make room. */
        assert_non_null(dn_arena_alloc(arena, 10 * 1024));
        assert_null(dn_arena_alloc(arena, 16));
        dn_arena_reset(arena);
    }
    dn_arena_destroy(arena);
}

static void absurd_sizes_are_refused(void **state)
{
    struct dn_arena *arena = dn_arena_create(64, 1000);

    (void)state;
    assert_null(dn_arena_alloc(arena, 1001));
    assert_null(dn_arena_alloc(arena, SIZE_MAX));
    assert_null(dn_arena_alloc(arena, SIZE_MAX - 7));
    assert_null(dn_arena_zalloc(arena, SIZE_MAX));
    assert_null(dn_arena_memdup(arena, "x", SIZE_MAX));
    assert_null(dn_arena_strndup(arena, "x", SIZE_MAX));
    assert_null(dn_arena_strndup(arena, "x", 1000));
    assert_int_equal(dn_arena_used(arena), 0);
    assert_non_null(dn_arena_alloc(arena, 900));
    dn_arena_destroy(arena);
}

static void a_warm_arena_gives_the_same_memory_again(void **state)
{
    struct dn_arena *arena = dn_arena_create(4096, 1 << 20);
    void *first[8];

    (void)state;
    for (int i = 0; i < 8; i++) {
        first[i] = dn_arena_alloc(arena, 4096);
    }
    for (int round = 0; round < 3; round++) {
        dn_arena_reset(arena);
        for (int i = 0; i < 8; i++) {
            void *again = dn_arena_alloc(arena, 4096);
            bool known = false;

            for (int j = 0; j < 8; j++) {
                known = known || again == first[j];
            }
            assert_true(known);
        }
    }
    dn_arena_destroy(arena);
}

static void a_big_allocation_does_not_waste_the_open_block(void **state)
{
    struct dn_arena *arena = dn_arena_create(4096, 4096 + 8192);
    char *small = dn_arena_alloc(arena, 16);

    (void)state;
    assert_non_null(dn_arena_alloc(arena, 8192));
    assert_ptr_equal(dn_arena_alloc(arena, 16), small + 16);
    for (int i = 0; i < 254; i++) {
        assert_non_null(dn_arena_alloc(arena, 16));
    }
    assert_null(dn_arena_alloc(arena, 16));
    dn_arena_destroy(arena);
}

static void copies_are_copies(void **state)
{
    struct dn_arena *arena = dn_arena_create(64, 4096);
    char source[] = "snipe";
    char *text, *bytes;
    unsigned char *zeros;

    (void)state;
    memset(dn_arena_alloc(arena, 64), 0xee, 64);
    dn_arena_reset(arena);
    zeros = dn_arena_zalloc(arena, 64);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(zeros[i], 0);
    }
    text = dn_arena_strndup(arena, source, 3);
    bytes = dn_arena_memdup(arena, source, 5);
    source[0] = 'X';
    assert_string_equal(text, "sni");
    assert_memory_equal(bytes, "snipe", 5);
    assert_string_equal(dn_arena_strndup(arena, NULL, 0), "");
    assert_non_null(dn_arena_memdup(arena, NULL, 0));
    assert_ptr_not_equal(dn_arena_alloc(arena, 0), dn_arena_alloc(arena, 0));
    dn_arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_aligned_separate_and_counted),
        cmocka_unit_test(the_cap_holds_and_a_reset_gives_all_back),
        cmocka_unit_test(absurd_sizes_are_refused),
        cmocka_unit_test(a_warm_arena_gives_the_same_memory_again),
        cmocka_unit_test(a_big_allocation_does_not_waste_the_open_block),
        cmocka_unit_test(copies_are_copies),
    };
    return cmocka_run_group_tests_name("base.arena", tests, NULL, NULL);
}
