#include "base/buffer.h"
#include "tests/unit/base/cmocka_all.h"
#include "tests/unit/base/random.h"

#include <math.h>
#include <string.h>

static void values_are_little_endian(void **state)
{
    static const uint8_t expected[] = {
        0xab,                                           /* u8 */
        0x34, 0x12,                                     /* u16 */
        0xef, 0xbe, 0xad, 0xde,                         /* u32 */
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* u64 */
        0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* i64 -2 */
        0x00, 0x00, 0xc0, 0x3f,                         /* f32 1.5 */
        0x03, 0x00, 0x00, 0x00, 'a',  'b',  'c',        /* blob */
        0,    0,    0,    0,    0,    0,                /* pad to 40 */
    };
    struct dn_buffer buffer;
    struct dn_reader reader;
    size_t length;

    (void)state;
    dn_buffer_init(&buffer, 1000);
    dn_buffer_u8(&buffer, 0xab);
    dn_buffer_u16(&buffer, 0x1234);
    dn_buffer_u32(&buffer, 0xdeadbeef);
    dn_buffer_u64(&buffer, 0x1122334455667788);
    dn_buffer_i64(&buffer, -2);
    dn_buffer_f32(&buffer, 1.5f);
    dn_buffer_blob(&buffer, "abc", 3);
    dn_buffer_pad(&buffer, 8);
    dn_buffer_pad(&buffer, 8);
    assert_false(buffer.failed);
    assert_int_equal(buffer.length, sizeof(expected));
    assert_memory_equal(buffer.bytes, expected, sizeof(expected));

    dn_reader_init(&reader, buffer.bytes, buffer.length);
    assert_int_equal(dn_reader_u8(&reader), 0xab);
    assert_int_equal(dn_reader_u16(&reader), 0x1234);
    assert_int_equal(dn_reader_u32(&reader), 0xdeadbeef);
    assert_int_equal(dn_reader_u64(&reader), 0x1122334455667788);
    assert_int_equal(dn_reader_i64(&reader), -2);
    assert_true(dn_reader_f32(&reader) == 1.5f);
    assert_memory_equal(dn_reader_blob(&reader, 3, &length), "abc", 3);
    assert_int_equal(length, 3);
    assert_int_equal(dn_reader_left(&reader), 6);
    assert_false(reader.failed);
    dn_buffer_free(&buffer);
    assert_null(buffer.bytes);
    assert_int_equal(buffer.max, 1000);
}

static void odd_floats_survive(void **state)
{
    const float values[] = {0.0f, -0.0f, INFINITY, -INFINITY, 1e-45f, 3.4e38f};
    struct dn_buffer buffer;
    struct dn_reader reader;

    (void)state;
    dn_buffer_init(&buffer, 100);
    for (size_t i = 0; i < 6; i++) {
        dn_buffer_f32(&buffer, values[i]);
    }
    dn_buffer_f32(&buffer, NAN);
    dn_reader_init(&reader, buffer.bytes, buffer.length);
    for (size_t i = 0; i < 6; i++) {
        float got = dn_reader_f32(&reader);

        assert_memory_equal(&got, &values[i], sizeof(got));
    }
    assert_true(isnan(dn_reader_f32(&reader)));
    dn_buffer_free(&buffer);
}

static void the_maximum_holds_and_failure_sticks(void **state)
{
    struct dn_buffer buffer;

    (void)state;
    for (size_t max = 0; max < 200; max++) {
        dn_buffer_init(&buffer, max);
        for (size_t i = 0; i < max; i++) {
            dn_buffer_u8(&buffer, (uint8_t)i);
        }
        assert_false(buffer.failed);
        assert_int_equal(buffer.length, max);
        dn_buffer_append(&buffer, NULL, 0);
        assert_false(buffer.failed);
        dn_buffer_u16(&buffer, 1);
        assert_true(buffer.failed);
        assert_int_equal(buffer.length, max);
        assert_true(buffer.capacity <= max);
        assert_null(dn_buffer_reserve(&buffer, 0));
        for (size_t i = 0; i < max; i++) {
            assert_int_equal(buffer.bytes[i], (uint8_t)i);
        }
        dn_buffer_clear(&buffer);
        if (max > 0) {
            dn_buffer_u8(&buffer, 9);
            assert_false(buffer.failed);
            assert_int_equal(buffer.bytes[0], 9);
        }
        dn_buffer_free(&buffer);
    }
}

static void after_a_failure_nothing_more_is_written(void **state)
{
    struct dn_buffer buffer;

    (void)state;
    dn_buffer_init(&buffer, 10);
    dn_buffer_u64(&buffer, 1);
    dn_buffer_u32(&buffer, 2); /* does not fit */
    dn_buffer_u8(&buffer, 3);  /* would fit */
    dn_buffer_pad(&buffer, 2);
    dn_buffer_append(&buffer, "x", 1);
    assert_true(buffer.failed);
    assert_int_equal(buffer.length, 8);
    dn_buffer_free(&buffer);
}

static void a_blob_is_written_whole_or_not_at_all(void **state)
{
    struct dn_buffer buffer;

    (void)state;
    dn_buffer_init(&buffer, 10);
    dn_buffer_blob(&buffer, "1234567", 7);
    assert_true(buffer.failed);
    assert_int_equal(buffer.length, 0);
    dn_buffer_clear(&buffer);
    dn_buffer_blob(&buffer, "123456", 6);
    assert_false(buffer.failed);
    assert_int_equal(buffer.length, 10);
    dn_buffer_clear(&buffer);
    buffer.max = SIZE_MAX;
    dn_buffer_blob(&buffer, "", (size_t)UINT32_MAX + 7); /* the length field has 32 bits */
    assert_true(buffer.failed);
    dn_buffer_clear(&buffer);
    dn_buffer_blob(&buffer, NULL, 0);
    assert_false(buffer.failed);
    assert_int_equal(buffer.length, 4);
    dn_buffer_free(&buffer);
}

static void sums_of_sizes_do_not_wrap(void **state)
{
    struct dn_buffer buffer;

    (void)state;
    dn_buffer_init(&buffer, SIZE_MAX);
    dn_buffer_u8(&buffer, 1);
    assert_null(dn_buffer_reserve(&buffer, SIZE_MAX));
    assert_true(buffer.failed);
    dn_buffer_clear(&buffer);
    dn_buffer_u64(&buffer, 1);
    assert_false(buffer.failed);
    dn_buffer_free(&buffer);
}

static void reserve_moves_nothing(void **state)
{
    struct dn_buffer buffer;
    uint8_t *place;

    (void)state;
    dn_buffer_init(&buffer, 4096);
    assert_non_null(dn_buffer_reserve(&buffer, 0));
    place = dn_buffer_reserve(&buffer, 4000);
    assert_non_null(place);
    assert_int_equal(buffer.length, 0);
    memset(place, 7, 4000);
    buffer.length = 4000;
    assert_ptr_equal(dn_buffer_reserve(&buffer, 0), buffer.bytes + 4000);
    dn_buffer_free(&buffer);
}

static void a_reader_fails_at_every_cut(void **state)
{
    struct dn_buffer buffer;

    (void)state;
    dn_buffer_init(&buffer, 100);
    dn_buffer_u8(&buffer, 0xff);
    dn_buffer_u16(&buffer, 0xffff);
    dn_buffer_u32(&buffer, 0xffffffff);
    dn_buffer_u64(&buffer, UINT64_MAX);
    dn_buffer_blob(&buffer, "abcde", 5);
    for (size_t cut = 0; cut <= buffer.length; cut++) {
        uint8_t *exact = malloc(cut > 0 ? cut : 1); /* exact, so that asan sees a read past the end */
        struct dn_reader reader;
        size_t length = 99;
        const uint8_t *blob;

        memcpy(exact, buffer.bytes, cut);
        dn_reader_init(&reader, cut > 0 ? exact : NULL, cut);
        assert_int_equal(dn_reader_u8(&reader), cut >= 1 ? 0xff : 0);
        assert_int_equal(dn_reader_u16(&reader), cut >= 3 ? 0xffff : 0);
        assert_int_equal(dn_reader_u32(&reader), cut >= 7 ? 0xffffffff : 0);
        assert_true(dn_reader_u64(&reader) == (cut >= 15 ? UINT64_MAX : 0));
        blob = dn_reader_blob(&reader, 100, &length);
        if (cut == buffer.length) {
            assert_false(reader.failed);
            assert_memory_equal(blob, "abcde", 5);
        } else {
            assert_true(reader.failed);
            assert_null(blob);
            assert_int_equal(length, 0);
            assert_int_equal(dn_reader_left(&reader), 0);
            assert_int_equal(dn_reader_u8(&reader), 0); /* sticks, though a byte may be left */
        }
        free(exact);
    }
    dn_buffer_free(&buffer);
}

static void a_blob_longer_than_asked_for_fails(void **state)
{
    struct dn_buffer buffer;
    struct dn_reader reader;
    size_t length;

    (void)state;
    dn_buffer_init(&buffer, 100);
    dn_buffer_blob(&buffer, "abcde", 5);
    dn_reader_init(&reader, buffer.bytes, buffer.length);
    assert_null(dn_reader_blob(&reader, 4, &length));
    assert_true(reader.failed);
    dn_reader_init(&reader, buffer.bytes, buffer.length);
    assert_non_null(dn_reader_blob(&reader, 5, &length));
    dn_reader_init(&reader, "\0\0\0\0", 4);
    assert_non_null(dn_reader_blob(&reader, 0, &length));
    assert_false(reader.failed);
    dn_reader_init(&reader, NULL, 0);
    assert_non_null(dn_reader_bytes(&reader, 0));
    assert_false(reader.failed);
    dn_buffer_free(&buffer);
}

/* Random bytes, read by random calls: nothing may be read outside, and offsets stay inside. */
static void random_reads_of_random_bytes_stay_inside(void **state)
{
    struct test_random random = test_random_start("buffer");

    (void)state;
    for (int round = 0; round < 20000; round++) {
        size_t size = test_random_below(&random, 40);
        uint8_t *bytes = malloc(size > 0 ? size : 1);
        struct dn_reader reader;

        for (size_t i = 0; i < size; i++) {
            bytes[i] = (uint8_t)(test_random_next(&random) & (i % 4 == 0 ? 0x1f : 0x01));
        }
        dn_reader_init(&reader, bytes, size);
        for (int step = 0; step < 10; step++) {
            size_t length = 0, sum = 0;
            const uint8_t *place = NULL;

            switch (test_random_below(&random, 5)) {
            case 0:
                place = dn_reader_blob(&reader, test_random_below(&random, 64), &length);
                break;
            case 1:
                length = test_random_below(&random, 12);
                place = dn_reader_bytes(&reader, length);
                break;
            case 2:
                dn_reader_u64(&reader);
                break;
            case 3:
                dn_reader_u16(&reader);
                break;
            default:
                place = dn_reader_bytes(&reader, SIZE_MAX - test_random_below(&random, 3));
                assert_null(place);
                break;
            }
            for (size_t i = 0; place != NULL && i < length; i++) {
                sum += place[i];
            }
            assert_true(sum <= 40 * 255);
            assert_true(reader.offset <= size);
        }
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_little_endian),
        cmocka_unit_test(odd_floats_survive),
        cmocka_unit_test(the_maximum_holds_and_failure_sticks),
        cmocka_unit_test(after_a_failure_nothing_more_is_written),
        cmocka_unit_test(a_blob_is_written_whole_or_not_at_all),
        cmocka_unit_test(sums_of_sizes_do_not_wrap),
        cmocka_unit_test(reserve_moves_nothing),
        cmocka_unit_test(a_reader_fails_at_every_cut),
        cmocka_unit_test(a_blob_longer_than_asked_for_fails),
        cmocka_unit_test(random_reads_of_random_bytes_stay_inside),
    };
    return cmocka_run_group_tests_name("base.buffer", tests, NULL, NULL);
}
