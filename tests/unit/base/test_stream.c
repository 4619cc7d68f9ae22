#include "base/stream.h"
#include "tests/unit/base/cmocka_all.h"
#include "tests/unit/base/random.h"

#include <string.h>

#define PATTERN_BYTES 20000

static void pattern(uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        bytes[i] = (uint8_t)(i * 31 + (i >> 8));
    }
}

/* Whatever the pieces, the drain sees full buffers and one rest, and the bytes come out as they went in. */
struct drained {
    struct dn_sink sink;
    struct dn_buffer bytes;
    size_t expected; /* of each drain; 0: anything */
    size_t fail_at;  /* drains until it fails; SIZE_MAX: never */
    unsigned short_ones, calls;
};

static enum dn_code drained_drain(struct dn_sink *sink, const uint8_t *bytes, size_t length,
                                  struct dn_error *err)
{
    struct drained *d = (struct drained *)sink;
    d->calls++;
    if (d->fail_at-- == 0) {
        return dn_fail(err, DN_NO_SPACE, "disk full, says the test");
    }
    d->short_ones += length < d->expected;
    assert_true(length <= d->expected);
    dn_buffer_append(&d->bytes, bytes, length);
    return DN_OK;
}

static void drained_init(struct drained *d, uint8_t *room, size_t capacity)
{
    *d = (struct drained){.expected = capacity, .fail_at = SIZE_MAX};
    d->sink = (struct dn_sink){.drain = drained_drain, .buffer = room, .capacity = capacity};
    dn_buffer_init(&d->bytes, 1 << 20);
}

static void a_sink_drains_full_buffers(void **unused)
{
    static uint8_t bytes[PATTERN_BYTES], room[4096];
    struct test_random random = test_random_start("a_sink_drains_full_buffers");
    (void)unused;
    pattern(bytes, sizeof bytes);
    for (unsigned round = 0; round < 300; round++) {
        size_t capacity = 1 + test_random_below(&random, sizeof room);
        size_t length = test_random_below(&random, sizeof bytes + 1), at = 0;
        struct drained d;
        drained_init(&d, room, capacity);
        while (at < length) {
            size_t part = test_random_below(&random, 3 * capacity);
            part = part < length - at ? part : length - at;
            assert_int_equal(dn_sink_write(&d.sink, bytes + at, part), DN_OK);
            at += part;
        }
        assert_int_equal(d.sink.total, length);
        assert_int_equal(d.short_ones, 0);
        assert_int_equal(dn_sink_flush(&d.sink), DN_OK);
        assert_int_equal(dn_sink_flush(&d.sink), DN_OK); /* nothing is left */
        assert_int_equal(d.calls, (length + capacity - 1) / capacity);
        assert_int_equal(d.bytes.length, length);
        assert_true(length == 0 || memcmp(d.bytes.bytes, bytes, length) == 0);
        dn_buffer_free(&d.bytes);
    }
}

static void a_sink_keeps_its_first_failure(void **unused)
{
    uint8_t room[10], bytes[35] = {0};
    struct drained d;
    (void)unused;
    drained_init(&d, room, sizeof room);
    d.fail_at = 1;
    assert_int_equal(dn_sink_write(&d.sink, bytes, sizeof bytes), DN_NO_SPACE);
    assert_string_equal(d.sink.error.message, "disk full, says the test");
    assert_int_equal(d.calls, 2);
    assert_int_equal(dn_sink_write(&d.sink, bytes, sizeof bytes), DN_NO_SPACE);
    assert_int_equal(dn_sink_flush(&d.sink), DN_NO_SPACE);
    assert_int_equal(d.calls, 2);
    dn_buffer_free(&d.bytes);
}

static void a_scratch_is_spilled(void **unused)
{
    uint8_t room[16];
    struct dn_buffer out, scratch;
    struct dn_buffer_sink sink;
    (void)unused;
    dn_buffer_init(&out, 100);
    dn_buffer_init(&scratch, 20);
    dn_buffer_sink_init(&sink, &out, room, sizeof room);
    dn_buffer_append(&scratch, "0123456789abcdef-", 17);
    assert_int_equal(dn_sink_spill(&sink.sink, &scratch), DN_OK);
    assert_int_equal(scratch.length, 0);
    assert_int_equal(out.length, 16);
    dn_buffer_append(&scratch, "too much for the scratch", 24);
    assert_int_equal(dn_sink_spill(&sink.sink, &scratch), DN_NO_MEMORY);
    assert_int_equal(dn_sink_flush(&sink.sink), DN_NO_MEMORY);
    dn_buffer_free(&scratch);
    /* The end in memory has a maximum too. */
    dn_buffer_free(&out);
    dn_buffer_init(&out, 20);
    dn_buffer_sink_init(&sink, &out, room, sizeof room);
    assert_int_equal(dn_sink_write(&sink.sink, "0123456789abcdef0123456789abcdef", 32), DN_NO_MEMORY);
    dn_buffer_free(&out);
}

/* Gives bytes in pieces of random sizes. */
struct dripping {
    struct dn_source source;
    const uint8_t *bytes;
    size_t length, at;
    size_t fail_at;
    struct test_random *random;
};

static enum dn_code drip(struct dn_source *source, uint8_t *bytes, size_t length, size_t *ret_length,
                         struct dn_error *err)
{
    struct dripping *d = (struct dripping *)source;
    size_t left = d->length - d->at, part = 1 + test_random_below(d->random, 2 * length);
    part = part < length ? part : length;
    part = part < left ? part : left;
    if (d->at + part > d->fail_at) {
        return dn_fail(err, DN_IO, "chunk 7 cannot be read");
    }
    memcpy(bytes, d->bytes + d->at, part);
    d->at += part;
    *ret_length = part;
    return DN_OK;
}

static struct dripping dripping(struct test_random *random, uint8_t *room, size_t capacity,
                                const uint8_t *bytes, size_t length)
{
    struct dripping d = {.bytes = bytes, .length = length, .fail_at = SIZE_MAX, .random = random};
    d.source = (struct dn_source){.fill = drip, .buffer = room, .capacity = capacity};
    return d;
}

static void a_source_gives_what_was_written(void **unused)
{
    static uint8_t bytes[PATTERN_BYTES], room[512], got[2048];
    struct test_random random = test_random_start("a_source_gives_what_was_written");
    (void)unused;
    pattern(bytes, sizeof bytes);
    for (unsigned round = 0; round < 300; round++) {
        size_t length = test_random_below(&random, sizeof bytes + 1), at = 0;
        size_t capacity = 8 + test_random_below(&random, sizeof room - 8);
        struct dripping d = dripping(&random, room, capacity, bytes, length);
        while (at < length) {
            const uint8_t *in_place = NULL;
            size_t part = test_random_below(&random, sizeof got), have = 0;
            part = part < length - at ? part : length - at;
            size_t small = part < capacity ? part : capacity;
            switch (test_random_below(&random, 5)) {
            case 0:
                assert_int_equal(dn_source_read(&d.source, got, part), DN_OK);
                assert_memory_equal(got, bytes + at, part);
                at += part;
                break;
            case 1:
                assert_int_equal(dn_source_skip(&d.source, part), DN_OK);
                at += part;
                break;
            case 2:
                assert_int_equal(dn_source_peek(&d.source, small, &in_place), DN_OK);
                assert_memory_equal(in_place, bytes + at, small);
                break;
            case 3:
                assert_int_equal(dn_source_window(&d.source, capacity, &in_place, &have), DN_OK);
                assert_int_equal(have, length - at < capacity ? length - at : capacity);
                assert_memory_equal(in_place, bytes + at, have);
                break;
            default:
                in_place = dn_source_bytes(&d.source, small);
                assert_non_null(in_place);
                assert_memory_equal(in_place, bytes + at, small);
                at += small;
                break;
            }
            assert_int_equal(d.source.total, at);
        }
        assert_int_equal(dn_source_end(&d.source), DN_OK);
        assert_int_equal(dn_source_read(&d.source, got, 0), DN_OK);
        assert_int_equal(dn_source_read(&d.source, got, 1), DN_CORRUPT);
        assert_non_null(strstr(d.source.error.message, "ends at byte"));
    }
}

static void values_come_back(void **unused)
{
    uint8_t room[64];
    struct dn_buffer bytes;
    struct dn_bytes_source in;
    size_t length = 0;
    (void)unused;
    dn_buffer_init(&bytes, 1000);
    dn_buffer_u8(&bytes, 0xab);
    dn_buffer_u16(&bytes, 0x1234);
    dn_buffer_u32(&bytes, 0xdeadbeef);
    dn_buffer_u64(&bytes, UINT64_MAX - 1);
    dn_buffer_i64(&bytes, -2);
    dn_buffer_blob(&bytes, "", 0);
    dn_buffer_blob(&bytes, "abc", 3);
    dn_buffer_blob(&bytes, "abcd", 4);
    dn_bytes_source_init(&in, bytes.bytes, bytes.length, room, sizeof room);
    struct dn_source *source = &in.source;
    assert_int_equal(dn_source_u8(source), 0xab);
    assert_int_equal(dn_source_u16(source), 0x1234);
    assert_int_equal(dn_source_u32(source), 0xdeadbeef);
    assert_true(dn_source_u64(source) == UINT64_MAX - 1);
    assert_true(dn_source_i64(source) == -2);
    assert_non_null(dn_source_blob(source, 3, &length));
    assert_int_equal(length, 0);
    assert_memory_equal(dn_source_blob(source, 3, &length), "abc", 3);
    assert_int_equal(length, 3);
    assert_int_equal(source->code, DN_OK);
    assert_null(dn_source_blob(source, 3, &length)); /* longer than allowed */
    assert_int_equal(source->code, DN_CORRUPT);
    assert_int_equal(length, 3);
    assert_int_equal(dn_source_u8(source), 0); /* it stays failed though bytes are left */
    assert_null(dn_source_bytes(source, 1));
    dn_buffer_free(&bytes);
}

static void ends_and_failures_of_a_source(void **unused)
{
    uint8_t bytes[40], room[16];
    const uint8_t *at = NULL;
    struct test_random random = test_random_start("ends_and_failures_of_a_source");
    (void)unused;
    pattern(bytes, sizeof bytes);
    struct dripping d = dripping(&random, room, sizeof room, bytes, sizeof bytes);
    assert_int_equal(dn_source_skip(&d.source, 39), DN_OK);
    assert_int_equal(dn_source_end(&d.source), DN_CORRUPT); /* one byte is left */
    d = dripping(&random, room, sizeof room, bytes, sizeof bytes);
    assert_int_equal(dn_source_skip(&d.source, 35), DN_OK);
    assert_int_equal(dn_source_peek(&d.source, 6, &at), DN_CORRUPT);
    assert_null(at);
    d = dripping(&random, room, sizeof room, bytes, sizeof bytes);
    assert_int_equal(dn_source_skip(&d.source, UINT64_MAX), DN_CORRUPT);
    d = dripping(&random, room, sizeof room, bytes, sizeof bytes);
    d.fail_at = 20;
    assert_int_equal(dn_source_skip(&d.source, 40), DN_IO);
    assert_string_equal(d.source.error.message, "chunk 7 cannot be read");
    assert_int_equal(dn_source_u32(&d.source), 0);
    assert_int_equal(dn_source_end(&d.source), DN_IO);
    assert_int_equal(d.source.error.code, DN_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sink_drains_full_buffers), cmocka_unit_test(a_sink_keeps_its_first_failure),
        cmocka_unit_test(a_scratch_is_spilled),       cmocka_unit_test(a_source_gives_what_was_written),
        cmocka_unit_test(values_come_back),           cmocka_unit_test(ends_and_failures_of_a_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
