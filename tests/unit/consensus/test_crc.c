/* The checksum that replaces libraft's own: equal for every length, start and place, and really linked in. */
#include "consensus/crc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

unsigned byteCrc32(const void *bytes, size_t length, unsigned crc); /* as libraft's files call it */

#define BYTES 4096u

static void test_equals_librafts(void **state)
{
    static uint8_t bytes[BYTES];
    (void)state;
    srand(7);
    for (unsigned i = 0; i < BYTES; i++) {
        bytes[i] = (uint8_t)rand();
    }
    for (unsigned n = 0; n < 20000; n++) {
        unsigned from = (unsigned)rand() % 64, crc = (unsigned)rand();
        size_t length = n < 300 ? n : (size_t)rand() % (BYTES - 64);
        assert_int_equal(__wrap_byteCrc32(bytes + from, length, crc),
                         __real_byteCrc32(bytes + from, length, crc));
    }
}

static void test_is_linked(void **state)
{
    (void)state;
    assert_true(byteCrc32 == __wrap_byteCrc32);
    assert_true(byteCrc32 != __real_byteCrc32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_librafts),
        cmocka_unit_test(test_is_linked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
