/* Invariants
 * 1. A queue's `bytes` is the sum of the lengths of the messages in it; a message leaves it when its last
 * fragment is encrypted.
 * 2. A receiver holds at most one unfinished message a queue, whose announced length was checked before
 * memory was taken for it; fragments never go past that length, and LAST comes exactly at it.
 * 3. Nothing of a frame is looked at before it was authenticated, but for its length, which is checked:
 * against its complement, since whoever waits for the rest of a frame that was never sent takes a dead link
 * for a whole one. */
#include "transport/frame.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

#define SECRETSTREAM(name) crypto_secretstream_xchacha20poly1305_##name

/* The payload of a first fragment starts at a multiple of this in the receiver's plaintext buffer. */
#define ALIGNMENT 16
#define PLAIN_OFFSET (ALIGNMENT - FRAME_FLAGS_BYTES - FRAME_TOTAL_BYTES)

static void put_u32(uint8_t *at, size_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
    at[2] = (uint8_t)(value >> 16);
    at[3] = (uint8_t)(value >> 24);
}

static size_t get_u32(const uint8_t *at)
{
    return (size_t)at[0] | (size_t)at[1] << 8 | (size_t)at[2] << 16 | (size_t)at[3] << 24;
}

void frame_prefix(uint8_t out[FRAME_PREFIX_BYTES], size_t cipher)
{
    put_u32(out, cipher);
    put_u32(out + 4, ~cipher);
}

/* ---- out ---------------------------------------------------------------------------------------------- */

void frame_sender_init(struct frame_sender *sender)
{
    memset(sender->queues, 0, sizeof sender->queues);
}

static void drop_first(struct frame_queue *queue)
{
    struct frame_message *message = queue->first;
    queue->first = message->next;
    if (queue->first == NULL) {
        queue->last = NULL;
    }
    queue->bytes -= message->length;
    queue->count--;
    free(message);
}

void frame_sender_clear(struct frame_sender *sender)
{
    for (int i = 0; i < DN_TRANSPORT_QUEUES; i++) {
        while (sender->queues[i].first != NULL) {
            drop_first(&sender->queues[i]);
        }
    }
}

bool frame_sender_put(struct frame_sender *sender, enum dn_transport_queue which,
                      const struct dn_transport_part *parts, size_t part_count, size_t length)
{
    struct frame_queue *queue = &sender->queues[which];
    struct frame_message *message = malloc(sizeof *message + length);
    size_t at = 0;
    if (message == NULL) {
        return false;
    }
    message->next = NULL;
    message->length = length;
    message->sent = 0;
    for (size_t i = 0; i < part_count; i++) {
        if (parts[i].length > 0) {
            memcpy(message->bytes + at, parts[i].bytes, parts[i].length);
            at += parts[i].length;
        }
    }
    DN_ASSERT(at == length);
    if (queue->last != NULL) {
        queue->last->next = message;
    } else {
        queue->first = message;
    }
    queue->last = message;
    queue->bytes += length;
    queue->count++;
    return true;
}

bool frame_sender_empty(const struct frame_sender *sender)
{
    for (int i = 0; i < DN_TRANSPORT_QUEUES; i++) {
        if (sender->queues[i].first != NULL) {
            return false;
        }
    }
    return true;
}

/* Encrypts the next fragment of the queue's first message; returns its frame's length. */
static size_t fragment(struct frame_sender *sender, unsigned which, frame_stream *stream, uint8_t *out)
{
    struct frame_queue *queue = &sender->queues[which];
    struct frame_message *message = queue->first;
    size_t left = message->length - message->sent, head = FRAME_FLAGS_BYTES;
    size_t take = left < DN_TRANSPORT_FRAGMENT_MAX ? left : DN_TRANSPORT_FRAGMENT_MAX;
    unsigned flags = which;
    if (message->sent == 0) {
        flags |= FRAME_FIRST;
        put_u32(sender->plain + head, message->length);
        head += FRAME_TOTAL_BYTES;
    }
    if (take == left) {
        flags |= FRAME_LAST;
    }
    sender->plain[0] = (uint8_t)flags;
    memcpy(sender->plain + head, message->bytes + message->sent, take);
    size_t cipher = head + take + SECRETSTREAM(ABYTES);
    frame_prefix(out, cipher);
    SECRETSTREAM(push)
    (stream, out + FRAME_PREFIX_BYTES, NULL, sender->plain, head + take, NULL, 0, SECRETSTREAM(TAG_MESSAGE));
    message->sent += take;
    if (take == left) {
        drop_first(queue);
    }
    return FRAME_PREFIX_BYTES + cipher;
}

size_t frame_sender_fill(struct frame_sender *sender, frame_stream *stream, uint8_t *out, size_t room)
{
    size_t used = 0;
    for (unsigned which = 0; which < DN_TRANSPORT_QUEUES; which++) {
        while (sender->queues[which].first != NULL && room - used >= FRAME_MAX) {
            used += fragment(sender, which, stream, out + used);
        }
    }
    return used;
}

void frame_final(frame_stream *stream, uint8_t out[FRAME_FINAL_BYTES])
{
    frame_prefix(out, SECRETSTREAM(ABYTES));
    SECRETSTREAM(push)(stream, out + FRAME_PREFIX_BYTES, NULL, NULL, 0, NULL, 0, SECRETSTREAM(TAG_FINAL));
}

/* ---- in ----------------------------------------------------------------------------------------------- */

bool frame_receiver_init(struct frame_receiver *receiver)
{
    memset(receiver, 0, sizeof *receiver);
    receiver->plain = malloc(PLAIN_OFFSET + FRAME_PLAIN_MAX);
    return receiver->plain != NULL;
}

void frame_receiver_free(struct frame_receiver *receiver)
{
    for (int i = 0; i < DN_TRANSPORT_QUEUES; i++) {
        free(receiver->queues[i].bytes);
    }
    free(receiver->whole);
    free(receiver->plain);
    memset(receiver, 0, sizeof *receiver);
}

/* The plaintext of a frame: what does it add to its queue's message? */
static enum frame_result assemble(struct frame_receiver *receiver, const uint8_t *plain, size_t length,
                                  struct frame_view *ret_message)
{
    unsigned flags = length == 0 ? 0 : plain[0];
    size_t head = FRAME_FLAGS_BYTES + (flags & FRAME_FIRST ? FRAME_TOTAL_BYTES : 0);
    unsigned which = flags & FRAME_QUEUE_MASK;
    if (length < head || which >= DN_TRANSPORT_QUEUES ||
        (flags & ~(unsigned)(FRAME_QUEUE_MASK | FRAME_FIRST | FRAME_LAST)) != 0) {
        return FRAME_MALFORMED;
    }
    struct frame_assembly *assembly = &receiver->queues[which];
    const uint8_t *payload = plain + head;
    size_t payload_length = length - head;
    if (flags & FRAME_FIRST) {
        size_t total = get_u32(plain + FRAME_FLAGS_BYTES);
        if (assembly->bytes != NULL || total > DN_TRANSPORT_MESSAGE_MAX) {
            return FRAME_MALFORMED;
        }
        if (flags & FRAME_LAST) {
            *ret_message = (struct frame_view){payload, payload_length};
            return payload_length == total ? FRAME_MESSAGE : FRAME_MALFORMED;
        }
        if (payload_length >= total) {
            return FRAME_MALFORMED;
        }
        assembly->bytes = malloc(total);
        if (assembly->bytes == NULL) {
            return FRAME_NO_MEMORY;
        }
        assembly->total = total;
        assembly->got = 0;
    } else if (assembly->bytes == NULL) {
        return FRAME_MALFORMED;
    }
    size_t left = assembly->total - assembly->got;
    if (payload_length == 0 || payload_length > left ||
        (payload_length == left) != ((flags & FRAME_LAST) != 0)) {
        return FRAME_MALFORMED;
    }
    memcpy(assembly->bytes + assembly->got, payload, payload_length);
    assembly->got += payload_length;
    if (!(flags & FRAME_LAST)) {
        return FRAME_TAKEN;
    }
    receiver->whole = assembly->bytes;
    *ret_message = (struct frame_view){assembly->bytes, assembly->total};
    assembly->bytes = NULL;
    return FRAME_MESSAGE;
}

enum frame_result frame_receive(struct frame_receiver *receiver, frame_stream *stream, const uint8_t *bytes,
                                size_t length, size_t *ret_used, struct frame_view *ret_message)
{
    uint8_t *plain = receiver->plain + PLAIN_OFFSET;
    unsigned long long plain_length;
    unsigned char tag;
    size_t cipher;
    *ret_used = 0;
    free(receiver->whole);
    receiver->whole = NULL;
    if (length < FRAME_PREFIX_BYTES) {
        return FRAME_MORE;
    }
    cipher = get_u32(bytes);
    if ((uint32_t)cipher != (uint32_t)~get_u32(bytes + 4)) {
        return FRAME_TAMPERED;
    }
    if (cipher < SECRETSTREAM(ABYTES) || cipher > FRAME_CIPHER_MAX) {
        return FRAME_MALFORMED;
    }
    if (length - FRAME_PREFIX_BYTES < cipher) {
        return FRAME_MORE;
    }
    if (SECRETSTREAM(pull)(stream, plain, &plain_length, &tag, bytes + FRAME_PREFIX_BYTES, cipher, NULL, 0) !=
        0) {
        return FRAME_TAMPERED;
    }
    *ret_used = FRAME_PREFIX_BYTES + cipher;
    if (tag == SECRETSTREAM(TAG_FINAL)) {
        return plain_length == 0 ? FRAME_FINAL : FRAME_MALFORMED;
    }
    return tag == SECRETSTREAM(TAG_MESSAGE) ? assemble(receiver, plain, (size_t)plain_length, ret_message)
                                            : FRAME_MALFORMED;
}
