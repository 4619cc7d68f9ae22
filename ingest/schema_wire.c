/* dunlin.v1.Event from the wire, in place.
 *
 * By hand, not by protobuf-c: that one keeps text as C strings ("a\0b" would silently become "a"), does not
 * check UTF-8, and allocates; a check of the bytes before it would be as long as this.
 * tests/fuzz/fuzz_schema.c holds the two against each other. As everywhere in protobuf, of a field that comes
 * twice the last counts, and unknown fields are passed over. */
#include "ingest/schema_private.h"

#include <inttypes.h>
#include <string.h>

#define TAG_BYTES_MAX 5

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum event_field { /* numbers of dunlin.proto */
                   EVENT_USER_ID = 1,
                   EVENT_ITEM_ID = 2,
                   EVENT_TYPE = 3,
                   EVENT_TIME_MS = 4,
                   EVENT_EVENT_ID = 5,
                   EVENT_WEIGHT = 6,
};

struct cursor {
    const uint8_t *at, *end;
};

/* One field as it stands on the wire. */
struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;         /* of numbers; of bytes: how many */
    const uint8_t *payload; /* of bytes */
};

static bool take_varint(struct cursor *cursor, uint64_t *ret)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && cursor->at < cursor->end; shift += 7) {
        uint8_t byte = *cursor->at++;
        if (shift == 63 && byte > 1) {
            return false;
        }
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret = value;
            return true;
        }
    }
    return false;
}

/* `size` bytes, little-endian. */
static bool take_fixed(struct cursor *cursor, size_t size, uint64_t *ret)
{
    if ((size_t)(cursor->end - cursor->at) < size) {
        return false;
    }
    *ret = 0;
    for (size_t i = 0; i < size; i++) {
        *ret |= (uint64_t)cursor->at[i] << (8 * i);
    }
    cursor->at += size;
    return true;
}

static bool take_field(struct cursor *cursor, struct wire_field *ret)
{
    const uint8_t *start = cursor->at;
    uint64_t tag;
    if (!take_varint(cursor, &tag) || cursor->at - start > TAG_BYTES_MAX || tag > UINT32_MAX ||
        tag >> 3 == 0) {
        return false;
    }
    *ret = (struct wire_field){.number = (uint32_t)(tag >> 3), .type = (enum wire_type)(tag & 7)};
    switch (ret->type) {
    case WIRE_VARINT:
        return take_varint(cursor, &ret->value);
    case WIRE_FIXED64:
        return take_fixed(cursor, 8, &ret->value);
    case WIRE_FIXED32:
        return take_fixed(cursor, 4, &ret->value);
    case WIRE_BYTES:
        if (!take_varint(cursor, &ret->value) || ret->value > (uint64_t)(cursor->end - cursor->at)) {
            return false;
        }
        ret->payload = cursor->at;
        cursor->at += ret->value;
        return true;
    default: /* groups are of before proto3 */
        return false;
    }
}

static void keep(const struct wire_field *field, struct dn_schema_event *ret)
{
    uint32_t bits = (uint32_t)field->value;
    switch ((enum event_field)field->number) {
    case EVENT_USER_ID:
        ret->user = (const char *)field->payload;
        ret->user_length = (size_t)field->value;
        break;
    case EVENT_ITEM_ID:
        ret->item = (const char *)field->payload;
        ret->item_length = (size_t)field->value;
        break;
    case EVENT_TYPE:
        ret->type = (int32_t)bits;
        break;
    case EVENT_TIME_MS:
        ret->time_ms = (int64_t)field->value;
        break;
    case EVENT_EVENT_ID: /* an event of a stream is known by its offset */
        break;
    case EVENT_WEIGHT:
        memcpy(&ret->weight, &bits, sizeof ret->weight);
        break;
    }
}

enum dn_decode_result dn_schema_wire_read(const uint8_t *bytes, size_t length, struct dn_schema_event *ret,
                                          struct dn_schema_verdict *verdict)
{
    static const struct {
        const char *name;
        enum wire_type type;
    } known[] = {
        [EVENT_USER_ID] = {"user_id", WIRE_BYTES},   [EVENT_ITEM_ID] = {"item_id", WIRE_BYTES},
        [EVENT_TYPE] = {"type", WIRE_VARINT},        [EVENT_TIME_MS] = {"time_ms", WIRE_VARINT},
        [EVENT_EVENT_ID] = {"event_id", WIRE_BYTES}, [EVENT_WEIGHT] = {"weight", WIRE_FIXED32},
    };
    struct cursor cursor = {bytes, bytes + length};
    struct wire_field field;
    memset(ret, 0, sizeof *ret);
    while (cursor.at < cursor.end) {
        const uint8_t *start = cursor.at;
        if (!take_field(&cursor, &field)) {
            return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE,
                                  "not a dunlin.v1.Event: wrong at byte %zu of %zu", (size_t)(start - bytes),
                                  length);
        }
        if (field.number >= sizeof known / sizeof *known) {
            continue;
        }
        if (field.type != known[field.number].type) {
            return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE,
                                  "%s: not encoded as in dunlin.v1.Event: is it another message?",
                                  known[field.number].name);
        }
        keep(&field, ret);
    }
    return DN_DECODED;
}
