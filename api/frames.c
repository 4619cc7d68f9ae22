/* The follower of frames.h. */
#include "api/frames.h"

#include <stdbool.h>
#include <string.h>

#define TYPE_HEADERS 0x1
#define TYPE_RST_STREAM 0x3
#define RST_STREAM_BYTES 4

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* True when the frame of frames->head is to be dropped. */
static bool judge(struct dn_frames *frames)
{
    const uint8_t *head = frames->head;
    uint32_t length = (uint32_t)head[0] << 16 | (uint32_t)head[1] << 8 | head[2];
    uint32_t stream =
        ((uint32_t)head[5] << 24 | (uint32_t)head[6] << 16 | (uint32_t)head[7] << 8 | head[8]) & 0x7fffffffu;
    bool never_opened = stream % 2 == 1 && stream > frames->last_stream;
    frames->payload_left = length;
    if (head[3] == TYPE_HEADERS && never_opened)
        frames->last_stream = stream;
    return head[3] == TYPE_RST_STREAM && length == RST_STREAM_BYTES && never_opened;
}

size_t dn_frames_next(struct dn_frames *frames, const uint8_t *bytes, size_t length,
                      enum dn_frames_step *ret_step)
{
    size_t run;
    *ret_step = DN_FRAMES_PASS;
    if (frames->preface_seen < DN_FRAMES_PREFACE) {
        run = smaller(length, DN_FRAMES_PREFACE - frames->preface_seen);
        frames->preface_seen += (unsigned)run;
        return run;
    }
    if (frames->payload_left > 0) {
        run = smaller(length, frames->payload_left);
        frames->payload_left -= (uint32_t)run;
        *ret_step = frames->skipping ? DN_FRAMES_SKIP : DN_FRAMES_PASS;
        return run;
    }
    run = smaller(length, DN_FRAME_HEAD - frames->head_seen);
    bool held = frames->head_seen > 0;
    memcpy(frames->head + frames->head_seen, bytes, run);
    frames->head_seen += (unsigned)run;
    if (frames->head_seen < DN_FRAME_HEAD) {
        *ret_step = DN_FRAMES_HOLD;
        return run;
    }
    frames->head_seen = 0;
    frames->skipping = judge(frames);
    if (frames->skipping)
        *ret_step = DN_FRAMES_DROP;
    else if (held)
        *ret_step = DN_FRAMES_HEAD;
    return run;
}
