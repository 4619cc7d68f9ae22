#include "consensus/wire.h"

#include "base/hash.h"

#include <string.h>

static void put(uint8_t *out, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
}

void wire_frame_encode(const struct wire_frame *frame, struct dn_buffer *out)
{
    size_t start = out->length;
    dn_buffer_u32(out, 0);
    dn_buffer_u8(out, (uint8_t)frame->type);
    dn_buffer_u32(out, 0);
    switch (frame->type) {
    case WIRE_PROPOSE:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->group);
        dn_buffer_u32(out, frame->left_ms);
        dn_buffer_blob(out, frame->bytes, frame->length);
        break;
    case WIRE_PROPOSE_ANSWER:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->code);
        dn_buffer_u64(out, frame->index);
        dn_buffer_blob(out, frame->message, frame->message_length);
        dn_buffer_blob(out, frame->bytes, frame->length);
        break;
    case WIRE_BARRIER:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->group);
        break;
    case WIRE_BARRIER_ANSWER:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->group);
        dn_buffer_u32(out, frame->code);
        dn_buffer_u64(out, frame->index);
        break;
    case WIRE_LOST:
        break;
    case WIRE_ROUND:
        dn_buffer_u64(out, frame->round);
        dn_buffer_u64(out, frame->nonce);
        dn_buffer_u64(out, frame->stamp_us);
        dn_buffer_u32(out, frame->lead_count);
        for (uint32_t i = 0; i < frame->lead_count; i++) {
            dn_buffer_u32(out, frame->leads[i].group);
            dn_buffer_u64(out, frame->leads[i].term);
            dn_buffer_u64(out, frame->leads[i].index);
        }
        break;
    case WIRE_STAMPS:
        dn_buffer_u64(out, frame->round);
        dn_buffer_u64(out, frame->nonce);
        dn_buffer_u64(out, frame->stamp_us);
        dn_buffer_u32(out, frame->stamp_count);
        for (uint32_t i = 0; i < frame->stamp_count; i++) {
            dn_buffer_u32(out, frame->stamps[i].group);
            dn_buffer_u64(out, frame->stamps[i].hash_index);
            dn_buffer_u64(out, frame->stamps[i].hash);
        }
        break;
    case WIRE_CHUNK_ASK:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->group);
        dn_buffer_u64(out, frame->index);
        dn_buffer_u64(out, frame->term);
        dn_buffer_u64(out, frame->id);
        dn_buffer_u32(out, frame->chunk);
        break;
    case WIRE_CHUNK:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->group);
        dn_buffer_u32(out, frame->chunk);
        dn_buffer_u32(out, frame->offset);
        dn_buffer_blob(out, frame->bytes, frame->length);
        break;
    case WIRE_CHUNK_GONE:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->group);
        dn_buffer_u32(out, frame->chunk);
        dn_buffer_u32(out, frame->code);
        dn_buffer_blob(out, frame->message, frame->message_length);
        break;
    case WIRE_MEMBER:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->left_ms);
        dn_buffer_u8(out, frame->op);
        dn_buffer_u8(out, frame->flags);
        dn_buffer_u64(out, frame->node_id);
        break;
    case WIRE_MEMBER_ANSWER:
        dn_buffer_u64(out, frame->request);
        dn_buffer_u32(out, frame->code);
        dn_buffer_blob(out, frame->message, frame->message_length);
        break;
    }
    if (out->failed) {
        return;
    }
    uint8_t *head = out->bytes + start;
    size_t payload = out->length - start - WIRE_FRAME_HEADER_BYTES;
    put(head, payload, 4);
    uint32_t crc = dn_crc32c(0, head + 4, 1);
    put(head + 5, dn_crc32c(crc, head + WIRE_FRAME_HEADER_BYTES, payload), 4);
}

static enum dn_code read_code(struct dn_reader *reader)
{
    uint32_t code = dn_reader_u32(reader);
    if (code >= DN_CODE_COUNT) {
        reader->failed = true;
        return DN_INTERNAL;
    }
    return (enum dn_code)code;
}

static void read_payload(struct dn_reader *reader, struct wire_frame *frame)
{
    switch (frame->type) {
    case WIRE_PROPOSE:
        frame->request = dn_reader_u64(reader);
        frame->group = dn_reader_u32(reader);
        frame->left_ms = dn_reader_u32(reader);
        frame->bytes = dn_reader_blob(reader, DN_RECORD_MAX, &frame->length);
        if (!reader->failed && frame->length == 0) {
            reader->failed = true;
        }
        break;
    case WIRE_PROPOSE_ANSWER:
        frame->request = dn_reader_u64(reader);
        frame->code = read_code(reader);
        frame->index = dn_reader_u64(reader);
        frame->message = (const char *)dn_reader_blob(reader, WIRE_MESSAGE_MAX, &frame->message_length);
        frame->bytes = dn_reader_blob(reader, DN_RESULT_MAX, &frame->length);
        break;
    case WIRE_BARRIER:
        frame->request = dn_reader_u64(reader);
        frame->group = dn_reader_u32(reader);
        break;
    case WIRE_BARRIER_ANSWER:
        frame->request = dn_reader_u64(reader);
        frame->group = dn_reader_u32(reader);
        frame->code = read_code(reader);
        frame->index = dn_reader_u64(reader);
        break;
    case WIRE_LOST:
        break;
    case WIRE_ROUND:
        frame->round = dn_reader_u64(reader);
        frame->nonce = dn_reader_u64(reader);
        frame->stamp_us = dn_reader_u64(reader);
        frame->lead_count = dn_reader_u32(reader);
        if (frame->lead_count > DN_GROUPS_MAX) {
            reader->failed = true;
            return;
        }
        for (uint32_t i = 0; i < frame->lead_count; i++) {
            frame->leads[i].group = dn_reader_u32(reader);
            frame->leads[i].term = dn_reader_u64(reader);
            frame->leads[i].index = dn_reader_u64(reader);
        }
        break;
    case WIRE_STAMPS:
        frame->round = dn_reader_u64(reader);
        frame->nonce = dn_reader_u64(reader);
        frame->stamp_us = dn_reader_u64(reader);
        frame->stamp_count = dn_reader_u32(reader);
        if (frame->stamp_count > DN_GROUPS_MAX) {
            reader->failed = true;
            return;
        }
        for (uint32_t i = 0; i < frame->stamp_count; i++) {
            frame->stamps[i].group = dn_reader_u32(reader);
            frame->stamps[i].hash_index = dn_reader_u64(reader);
            frame->stamps[i].hash = dn_reader_u64(reader);
        }
        break;
    case WIRE_CHUNK_ASK:
        frame->request = dn_reader_u64(reader);
        frame->group = dn_reader_u32(reader);
        frame->index = dn_reader_u64(reader);
        frame->term = dn_reader_u64(reader);
        frame->id = dn_reader_u64(reader);
        frame->chunk = dn_reader_u32(reader);
        break;
    case WIRE_CHUNK:
        frame->request = dn_reader_u64(reader);
        frame->group = dn_reader_u32(reader);
        frame->chunk = dn_reader_u32(reader);
        frame->offset = dn_reader_u32(reader);
        frame->bytes = dn_reader_blob(reader, WIRE_PIECE_MAX, &frame->length);
        if (!reader->failed && frame->length == 0) {
            reader->failed = true;
        }
        break;
    case WIRE_CHUNK_GONE:
        frame->request = dn_reader_u64(reader);
        frame->group = dn_reader_u32(reader);
        frame->chunk = dn_reader_u32(reader);
        frame->code = read_code(reader);
        frame->message = (const char *)dn_reader_blob(reader, WIRE_MESSAGE_MAX, &frame->message_length);
        if (!reader->failed && frame->code == DN_OK) {
            reader->failed = true;
        }
        break;
    case WIRE_MEMBER:
        frame->request = dn_reader_u64(reader);
        frame->left_ms = dn_reader_u32(reader);
        frame->op = dn_reader_u8(reader);
        frame->flags = dn_reader_u8(reader);
        frame->node_id = dn_reader_u64(reader);
        if (frame->op > DN_MEMBER_REPLACE || frame->flags > WIRE_MEMBER_FLAGS || frame->node_id == 0) {
            reader->failed = true;
        }
        break;
    case WIRE_MEMBER_ANSWER:
        frame->request = dn_reader_u64(reader);
        frame->code = read_code(reader);
        frame->message = (const char *)dn_reader_blob(reader, WIRE_MESSAGE_MAX, &frame->message_length);
        break;
    }
}

enum dn_code wire_frame_decode(const uint8_t *bytes, size_t length, struct wire_frame *ret, size_t *ret_used,
                               struct dn_error *err)
{
    struct dn_reader reader;
    *ret_used = 0;
    if (length < 4) {
        return DN_OK;
    }
    dn_reader_init(&reader, bytes, length);
    uint32_t payload = dn_reader_u32(&reader);
    if (payload > WIRE_FRAME_MAX) {
        return dn_fail(err, DN_CORRUPT, "frame of %u bytes; at most %u are allowed", payload, WIRE_FRAME_MAX);
    }
    if (length < WIRE_FRAME_HEADER_BYTES + (size_t)payload) {
        return DN_OK;
    }
    uint8_t type = dn_reader_u8(&reader);
    uint32_t crc = dn_reader_u32(&reader);
    if (crc != dn_crc32c(dn_crc32c(0, &type, 1), bytes + WIRE_FRAME_HEADER_BYTES, payload)) {
        return dn_fail(err, DN_CORRUPT, "frame of type %u has a wrong checksum", type);
    }
    if (type < WIRE_PROPOSE || type > WIRE_LOST) {
        return dn_fail(err, DN_CORRUPT, "unknown frame type %u", type);
    }
    memset(ret, 0, sizeof *ret);
    ret->type = (enum wire_type)type;
    dn_reader_init(&reader, bytes + WIRE_FRAME_HEADER_BYTES, payload);
    read_payload(&reader, ret);
    if (reader.failed || dn_reader_left(&reader) != 0) {
        return dn_fail(err, DN_CORRUPT, "frame of type %u is malformed", type);
    }
    *ret_used = WIRE_FRAME_HEADER_BYTES + (size_t)payload;
    return DN_OK;
}
