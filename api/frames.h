/* Follows the frames of an HTTP/2 connection from a client, and finds the resets of streams that were never
 * opened (http2.c says why they are left out).
 *
 * Invariant: the bytes passed on, in order, are those received without the dropped frames; at most
 * DN_FRAME_HEAD - 1 of them are held back, between two reads. */
#ifndef DN_API_FRAMES_H
#define DN_API_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#define DN_FRAME_HEAD 9 /* bytes (RFC 9113, section 4.1) */
#define DN_FRAMES_PREFACE 24

struct dn_frames {
    uint8_t head[DN_FRAME_HEAD];
    unsigned preface_seen, head_seen;
    uint32_t payload_left;
    int skipping;         /* payload_left belongs to a dropped frame */
    uint32_t last_stream; /* highest stream that the client opened */
};

enum dn_frames_step {
    DN_FRAMES_PASS, /* the run is passed on as it is */
    DN_FRAMES_HOLD, /* the run is the beginning of a frame's head: nothing yet */
    DN_FRAMES_HEAD, /* the run ends a head whose beginning was held: pass frames->head on */
    DN_FRAMES_DROP, /* the run begins a dropped frame */
    DN_FRAMES_SKIP, /* the run is the rest of one */
};

/* Judges the next bytes of the connection, length >= 1: returns how many of them (1..length) `ret_step` is
 * about. All zeros is the state of a new connection. */
size_t dn_frames_next(struct dn_frames *frames, const uint8_t *bytes, size_t length,
                      enum dn_frames_step *ret_step);

#endif
