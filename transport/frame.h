/* Frames: messages cut into encrypted fragments and put together again. Pure: no sockets, no clock. Private
 * to the room.
 *
 * Frame: u32 length of what follows, u32 its complement (a length altered on the way must not make the
 * receiver wait for bytes that never were: the link would look whole and be dead), then that many bytes of
 * secretstream ciphertext. Inside: u8 flags (queue in the low two bits, FIRST, LAST); with FIRST a u32 with
 * the whole message's length; then 0 to DN_TRANSPORT_FRAGMENT_MAX bytes of it. Fragments of one queue are in
 * order, those of different queues interleave. The last frame of a connection is empty and carries the final
 * tag. All little-endian. */
#ifndef DN_TRANSPORT_FRAME_H
#define DN_TRANSPORT_FRAME_H

#include "transport/transport.h"

#include <sodium.h>

#define FRAME_PREFIX_BYTES 8
#define FRAME_FLAGS_BYTES 1
#define FRAME_TOTAL_BYTES 4
#define FRAME_PLAIN_MAX (FRAME_FLAGS_BYTES + FRAME_TOTAL_BYTES + DN_TRANSPORT_FRAGMENT_MAX)
#define FRAME_CIPHER_MAX (FRAME_PLAIN_MAX + crypto_secretstream_xchacha20poly1305_ABYTES)
#define FRAME_MAX (FRAME_PREFIX_BYTES + FRAME_CIPHER_MAX)
#define FRAME_FINAL_BYTES (FRAME_PREFIX_BYTES + crypto_secretstream_xchacha20poly1305_ABYTES)

enum { FRAME_QUEUE_MASK = 3, FRAME_FIRST = 4, FRAME_LAST = 8 };

/* What stands before `cipher` bytes of ciphertext. */
void frame_prefix(uint8_t out[FRAME_PREFIX_BYTES], size_t cipher);

typedef crypto_secretstream_xchacha20poly1305_state frame_stream;

/* ---- out ---------------------------------------------------------------------------------------------- */

struct frame_message {
    struct frame_message *next;
    size_t length, sent;
    uint8_t bytes[];
};

/* What a waiting message takes beside its bytes: many empty ones must fill a queue too. */
#define FRAME_MESSAGE_COST sizeof(struct frame_message)

struct frame_queue {
    struct frame_message *first, *last;
    size_t bytes; /* of messages that are not wholly encrypted yet */
    size_t count;
};

struct frame_sender {
    struct frame_queue queues[DN_TRANSPORT_QUEUES];
    uint8_t plain[FRAME_PLAIN_MAX];
};

void frame_sender_init(struct frame_sender *sender);
void frame_sender_clear(struct frame_sender *sender); /* drops every message */
/* Copies the message into a queue. False: out of memory. */
bool frame_sender_put(struct frame_sender *sender, enum dn_transport_queue queue,
                      const struct dn_transport_part *parts, size_t part_count, size_t length);
bool frame_sender_empty(const struct frame_sender *sender);
/* Encrypts fragments, urgent queues first, while another one of any size fits; returns the bytes put into
 * out. */
size_t frame_sender_fill(struct frame_sender *sender, frame_stream *stream, uint8_t *out, size_t room);
/* The last frame; room for FRAME_FINAL_BYTES. */
void frame_final(frame_stream *stream, uint8_t out[FRAME_FINAL_BYTES]);

/* ---- in ----------------------------------------------------------------------------------------------- */

enum frame_result {
    FRAME_MORE,     /* the rest of the frame is not here yet */
    FRAME_TAKEN,    /* a fragment; its message is not whole yet */
    FRAME_MESSAGE,  /* ret_message is whole and valid until the next call */
    FRAME_FINAL,    /* the other side has closed */
    FRAME_TAMPERED, /* fails authentication */
    FRAME_MALFORMED,
    FRAME_NO_MEMORY,
};

struct frame_assembly {
    uint8_t *bytes; /* NULL: no message has begun */
    size_t total, got;
};

struct frame_receiver {
    struct frame_assembly queues[DN_TRANSPORT_QUEUES];
    uint8_t *whole; /* the message given out last, if it was allocated */
    uint8_t *plain; /* FRAME_PLAIN_MAX */
};

struct frame_view {
    const uint8_t *bytes;
    size_t length;
};

bool frame_receiver_init(struct frame_receiver *receiver); /* false: out of memory */
void frame_receiver_free(struct frame_receiver *receiver); /* also of a zeroed one */
/* Takes at most one frame off the front; ret_used bytes of it. After FRAME_FINAL and the errors: no more
 * calls. */
enum frame_result frame_receive(struct frame_receiver *receiver, frame_stream *stream, const uint8_t *bytes,
                                size_t length, size_t *ret_used, struct frame_view *ret_message);

#endif
