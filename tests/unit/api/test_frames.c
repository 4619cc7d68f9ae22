/* api/frames.h: what is passed on is what came without the resets of unopened streams, however the bytes are
 * cut. */
#include "api/frames.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TYPE_DATA = 0, TYPE_HEADERS = 1, TYPE_RST = 3 };

struct text {
    uint8_t bytes[4096];
    size_t length;
};

static void put(struct text *to, const void *bytes, size_t length)
{
    assert_true(to->length + length <= sizeof to->bytes);
    memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
}

static void put_frame(struct text *to, uint8_t type, uint32_t stream, uint32_t length)
{
    uint8_t head[DN_FRAME_HEAD] = {
        (uint8_t)(length >> 16), (uint8_t)(length >> 8),  (uint8_t)length,        type,           0,
        (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};
    put(to, head, sizeof head);
    for (uint32_t i = 0; i < length; i++)
        put(to, (uint8_t[]){(uint8_t)(type * 16 + i)}, 1);
}

/* Passes `in` through, cut at the given lengths (cycled; 0: whole). */
static unsigned follow(const struct text *in, const size_t *cuts, size_t cut_count, struct text *out)
{
    struct dn_frames frames = {0};
    unsigned dropped = 0;
    size_t at = 0;
    out->length = 0;
    for (size_t read = 0; at < in->length; read++) {
        size_t end = at + cuts[read % cut_count];
        if (cuts[read % cut_count] == 0 || end > in->length)
            end = in->length;
        while (at < end) {
            enum dn_frames_step step;
            size_t run = dn_frames_next(&frames, in->bytes + at, end - at, &step);
            assert_in_range(run, 1, end - at);
            if (step == DN_FRAMES_PASS)
                put(out, in->bytes + at, run);
            else if (step == DN_FRAMES_HEAD)
                put(out, frames.head, DN_FRAME_HEAD);
            else if (step == DN_FRAMES_DROP)
                dropped++;
            at += run;
        }
    }
    return dropped;
}

static void test_every_cut(void **state)
{
    (void)state;
    static struct text in, want, out;
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    in.length = want.length = 0;
    put(&in, preface, DN_FRAMES_PREFACE);
    put(&want, preface, DN_FRAMES_PREFACE);
    static const struct {
        uint8_t type;
        uint32_t stream, length;
        bool dropped;
    } frames[] = {
        {4, 0, 6, false},       /* SETTINGS */
        {TYPE_RST, 1, 4, true}, /* never opened */
        {TYPE_HEADERS, 3, 20, false},
        {TYPE_RST, 3, 4, false}, /* opened */
        {TYPE_RST, 1, 4, false}, /* passed over: closed, not idle */
        {TYPE_RST, 5, 4, true},
        {TYPE_RST, 7, 4, true},
        {TYPE_RST, 4, 4, false}, /* not the client's to open: nghttp2 judges */
        {TYPE_RST, 0, 4, false},
        {TYPE_RST, 9, 5, false}, /* a malformed one: nghttp2 judges */
        {TYPE_HEADERS, 9, 0, false},
        {TYPE_DATA, 9, 300, false},
        {TYPE_RST, 0x7fffffff, 4, true},
        {TYPE_DATA, 9, 0, false},
    };
    unsigned dropped = 0;
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++) {
        put_frame(&in, frames[i].type, frames[i].stream, frames[i].length);
        if (!frames[i].dropped)
            put_frame(&want, frames[i].type, frames[i].stream, frames[i].length);
        dropped += frames[i].dropped;
    }
    for (size_t cut = 0; cut <= in.length; cut++) { /* every read of `cut` bytes; 0: all at once */
        assert_int_equal(follow(&in, &cut, 1, &out), dropped);
        assert_int_equal(out.length, want.length);
        assert_memory_equal(out.bytes, want.bytes, want.length);
    }
    srand(7);
    for (unsigned round = 0; round < 2000; round++) {
        size_t cuts[16];
        for (size_t i = 0; i < 16; i++)
            cuts[i] = 1 + (size_t)rand() % 40;
        assert_int_equal(follow(&in, cuts, 16, &out), dropped);
        assert_int_equal(out.length, want.length);
        assert_memory_equal(out.bytes, want.bytes, want.length);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_cut)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
