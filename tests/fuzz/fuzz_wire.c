/* Frames between nodes: consensus/wire.h. The first byte says what follows: 1 a stream of frames as
 * it is, else frames whose checksums are put right first, so that mutations get behind them. */
#include "base/error.h"
#include "base/hash.h"
#include "consensus/wire.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

const unsigned dn_fuzz_runs = 1000000;

#define FRAMES_MAX 64

static void put_le32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint32_t get_le32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void repair(uint8_t *bytes, size_t length)
{
    while (length >= WIRE_FRAME_HEADER_BYTES) {
        size_t left = length - WIRE_FRAME_HEADER_BYTES, payload = get_le32(bytes);
        if (payload > left) {
            payload = left;
            put_le32(bytes, (uint32_t)payload);
        }
        uint32_t crc = dn_crc32c(0, bytes + 4, 1);
        put_le32(bytes + 5, dn_crc32c(crc, bytes + WIRE_FRAME_HEADER_BYTES, payload));
        bytes += WIRE_FRAME_HEADER_BYTES + payload;
        length -= WIRE_FRAME_HEADER_BYTES + payload;
    }
}

static void frames(const uint8_t *bytes, size_t length)
{
    static struct wire_frame frame;
    struct dn_buffer again;
    dn_buffer_init(&again, WIRE_FRAME_MAX + WIRE_FRAME_HEADER_BYTES);
    for (int i = 0; i < FRAMES_MAX; i++) {
        struct dn_error err;
        size_t used = 0;
        if (wire_frame_decode(bytes, length, &frame, &used, &err) != DN_OK || used == 0) {
            break;
        }
        DN_ASSERT(used <= length);
        dn_buffer_clear(&again);
        wire_frame_encode(&frame, &again);
        DN_ASSERT(!again.failed && again.length == used && memcmp(again.bytes, bytes, used) == 0);
        bytes += used;
        length -= used;
    }
    dn_buffer_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length == 0) {
        return 0;
    }
    if (bytes[0] == 1) {
        frames(bytes + 1, length - 1);
    } else {
        uint8_t *copy = malloc(length);
        DN_ASSERT(copy != NULL);
        memcpy(copy, bytes + 1, length - 1);
        repair(copy, length - 1);
        frames(copy, length - 1);
        free(copy);
    }
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static struct wire_frame frame;
    struct dn_buffer bytes;
    if (++n > 2 * WIRE_ROUND) {
        return 0;
    }
    frame = (struct wire_frame){
        .type = (enum wire_type)(1 + (n - 1) / 2),
        .request = 9,
        .group = 3,
        .left_ms = 1000,
        .code = DN_NOT_LEADER,
        .index = 12345,
        .term = 6,
        .id = 99,
        .chunk = 2,
        .offset = 4096,
        .bytes = (const uint8_t *)"the bytes of a record",
        .length = 21,
        .message = "why",
        .message_length = 3,
        .round = 8,
        .op = DN_MEMBER_REMOVE,
        .flags = WIRE_MEMBER_AGAIN,
        .node_id = 4,
        .lead_count = 2,
        .nonce = 5,
        .stamp_us = 6,
        .stamp_count = 3,
    };
    dn_buffer_init(&bytes, max);
    dn_buffer_u8(&bytes, (uint8_t)(1 + n % 2));
    wire_frame_encode(&frame, &bytes);
    if (n % 2 == 1) { /* two in a row */
        wire_frame_encode(&frame, &bytes);
    }
    DN_ASSERT(!bytes.failed);
    size_t length = bytes.length;
    memcpy(out, bytes.bytes, length);
    dn_buffer_free(&bytes);
    return length;
}
