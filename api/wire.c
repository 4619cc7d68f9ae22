#include "api/wire.h"

#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FIELDS_MAX 32   /* in one message of ours: elements are counted, for the error's sake */
#define TAG_BYTES_MAX 5 /* protobuf-c refuses one that is spelled out with more */

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct cursor {
    const uint8_t *at, *end;
};

static bool varint(struct cursor *cursor, uint64_t *ret)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70 && cursor->at < cursor->end; shift += 7) {
        uint8_t byte = *cursor->at++;
        if (shift == 63 && byte > 1)
            return false;
        value |= (uint64_t)(byte & 0x7f) << (shift < 64 ? shift : 63);
        if (!(byte & 0x80)) {
            *ret = value;
            return true;
        }
    }
    return false;
}

static bool is_packable(ProtobufCType type)
{
    return type != PROTOBUF_C_TYPE_STRING && type != PROTOBUF_C_TYPE_BYTES && type != PROTOBUF_C_TYPE_MESSAGE;
}

static enum wire_type natural(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_FIXED32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_FIXED64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_BYTES;
    default:
        return WIRE_VARINT;
    }
}

/* The inside of a packed repeated field. */
static bool packed_valid(ProtobufCType type, const uint8_t *bytes, size_t length)
{
    switch (natural(type)) {
    case WIRE_FIXED32:
        return length % 4 == 0;
    case WIRE_FIXED64:
        return length % 8 == 0;
    default:
        break;
    }
    struct cursor cursor = {bytes, bytes + length};
    uint64_t value;
    while (cursor.at < cursor.end)
        if (!varint(&cursor, &value))
            return false;
    return true;
}

/* DN_CORRUPT marks errors about the whole message: no field's name is put before them. */
static enum dn_code not_a_message(const ProtobufCMessageDescriptor *type, struct dn_error *err)
{
    return dn_fail(err, DN_CORRUPT, "the message is not a valid %s", type->name);
}

static enum dn_code name_field(const ProtobufCFieldDescriptor *field, uint32_t number, bool inside,
                               enum dn_code code, struct dn_error *err)
{
    if (code == DN_CORRUPT || !err)
        return code;
    char inner[DN_ERROR_MESSAGE_MAX], place[24] = "";
    snprintf(inner, sizeof inner, "%s", err->message);
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        snprintf(place, sizeof place, "[%" PRIu32 "]", number);
    return dn_fail(err, code, "%s%s%s%s", field->name, place, inside ? "." : ": ", inner);
}

static enum dn_code check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t length,
                          unsigned depth, struct dn_error *err);

/* A length-delimited value of a known field. */
static enum dn_code check_bytes(const ProtobufCFieldDescriptor *field, const uint8_t *bytes, size_t length,
                                unsigned depth, struct dn_error *err)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        if (length > 0 && memchr(bytes, 0, length))
            return dn_fail(err, DN_INVALID, "has a NUL byte");
        if (!dn_utf8_valid(bytes, length))
            return dn_fail(err, DN_INVALID, "is not valid UTF-8");
        return DN_OK;
    case PROTOBUF_C_TYPE_BYTES:
        return DN_OK;
    case PROTOBUF_C_TYPE_MESSAGE:
        return check(field->descriptor, bytes, length, depth + 1, err);
    default:
        if (field->label != PROTOBUF_C_LABEL_REPEATED || !packed_valid(field->type, bytes, length))
            return dn_fail(err, DN_INVALID, "is not encoded as its type");
        return DN_OK;
    }
}

static enum dn_code check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t length,
                          unsigned depth, struct dn_error *err)
{
    if (depth >= DN_WIRE_DEPTH_MAX)
        return dn_fail(err, DN_CORRUPT, "messages are nested more than %d deep", DN_WIRE_DEPTH_MAX);
    uint32_t counts[FIELDS_MAX] = {0};
    struct cursor cursor = {bytes, bytes + length};
    while (cursor.at < cursor.end) {
        uint64_t tag, value;
        const uint8_t *start = cursor.at;
        if (!varint(&cursor, &tag) || cursor.at - start > TAG_BYTES_MAX || tag >> 3 == 0 ||
            tag >> 3 > 0x1fffffff)
            return not_a_message(type, err);
        const uint8_t *payload = cursor.at;
        size_t size;
        switch (tag & 7) {
        case WIRE_VARINT:
            if (!varint(&cursor, &value))
                return not_a_message(type, err);
            break;
        case WIRE_FIXED64:
        case WIRE_FIXED32:
            size = (tag & 7) == WIRE_FIXED64 ? 8 : 4;
            if ((size_t)(cursor.end - cursor.at) < size)
                return not_a_message(type, err);
            cursor.at += size;
            break;
        case WIRE_BYTES:
            if (!varint(&cursor, &value) || value > (uint64_t)(cursor.end - cursor.at))
                return not_a_message(type, err);
            payload = cursor.at;
            cursor.at += value;
            break;
        default:
            return not_a_message(type, err);
        }
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
        if (!field)
            continue; /* of a newer version of the protocol */
        enum dn_code code = DN_OK;
        if ((tag & 7) == WIRE_BYTES)
            code = check_bytes(field, payload, (size_t)(cursor.at - payload), depth, err);
        else if ((tag & 7) != natural(field->type) || !is_packable(field->type))
            code = dn_fail(err, DN_INVALID, "is not encoded as its type");
        size_t number = (size_t)(field - type->fields);
        DN_ASSERT(number < FIELDS_MAX);
        if (code != DN_OK)
            return name_field(field, counts[number],
                              field->type == PROTOBUF_C_TYPE_MESSAGE && (tag & 7) == WIRE_BYTES, code, err);
        counts[number]++;
    }
    return DN_OK;
}

enum dn_code dn_wire_check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t length,
                           struct dn_error *err)
{
    enum dn_code code = check(type, bytes, length, 0, err);
    if (code != DN_OK && err)
        err->code = DN_INVALID;
    return code == DN_OK ? DN_OK : DN_INVALID;
}
