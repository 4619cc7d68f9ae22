/* The follower of a client's HTTP/2 frames (api/frames.h): the first byte says in which pieces the rest
 * comes; what is passed on does not depend on that. */
#include "api/frames.h"
#include "base/error.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

const unsigned dn_fuzz_runs = 1000000;

/* Appends what is passed on to out (room for length + DN_FRAME_HEAD) and returns its length. */
static size_t follow(const uint8_t *bytes, size_t length, size_t piece, uint8_t *out)
{
    struct dn_frames frames = {0};
    size_t passed = 0;
    for (size_t at = 0; at < length;) {
        size_t left = length - at < piece ? length - at : piece;
        while (left > 0) {
            enum dn_frames_step step;
            size_t run = dn_frames_next(&frames, bytes + at, left, &step);
            DN_ASSERT(run >= 1 && run <= left);
            if (step == DN_FRAMES_PASS) {
                memcpy(out + passed, bytes + at, run);
                passed += run;
            } else if (step == DN_FRAMES_HEAD) {
                memcpy(out + passed, frames.head, DN_FRAME_HEAD);
                passed += DN_FRAME_HEAD;
            }
            DN_ASSERT(passed <= length);
            at += run;
            left -= run;
        }
    }
    return passed;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length < 2) {
        return 0;
    }
    uint8_t *whole = malloc(2 * length + 2 * DN_FRAME_HEAD);
    DN_ASSERT(whole != NULL);
    uint8_t *pieces = whole + length + DN_FRAME_HEAD;
    size_t piece = bytes[0] % 40u + 1;
    size_t count = follow(bytes + 1, length - 1, length, whole);
    size_t other = follow(bytes + 1, length - 1, piece, pieces);
    /* At the end the beginning of a head may be held back by the one and passed on by neither. */
    size_t least = count < other ? count : other;
    DN_ASSERT(memcmp(whole, pieces, least) == 0);
    DN_ASSERT((count > other ? count - other : other - count) < DN_FRAME_HEAD);
    free(whole);
    return 0;
}

static void put_frame(uint8_t *out, size_t *at, uint8_t type, uint8_t stream, uint8_t length)
{
    const uint8_t head[DN_FRAME_HEAD] = {0, 0, length, type, 4, 0, 0, 0, stream};
    memcpy(out + *at, head, sizeof head);
    memset(out + *at + sizeof head, 'p', length);
    *at += sizeof head + length;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    size_t at = 1 + DN_FRAMES_PREFACE;
    if (n > 3 || max < 1024) {
        return 0;
    }
    out[0] = (uint8_t)(7 * n);
    memcpy(out + 1, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", DN_FRAMES_PREFACE);
    put_frame(out, &at, 4, 0, 12); /* SETTINGS */
    for (unsigned i = 0; i < n; i++) {
        put_frame(out, &at, 1, (uint8_t)(4 * i + 1), 20);
        put_frame(out, &at, 3, (uint8_t)(4 * i + 3), 4); /* of a stream never opened */
        put_frame(out, &at, 0, (uint8_t)(4 * i + 1), 30);
        put_frame(out, &at, 3, (uint8_t)(4 * i + 1), 4);
    }
    return at;
}
