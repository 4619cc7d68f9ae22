/* A dead letter as a line of JSON, and back. */
#include "ingest/deadletter.h"
#include "ingest/deadletter_file.h"

#include "base/text.h"
#include "session/record.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define BASE64 sodium_base64_VARIANT_ORIGINAL
#define NUMBER_TEXT_MAX 256 /* the part of a line that is made of numbers and fixed texts */

/* ---- writing ---------------------------------------------------------------------------------------- */

static void put_text(struct dn_buffer *out, const char *text)
{
    dn_buffer_append(out, text, strlen(text));
}

/* A JSON string: what JSON demands is escaped, the rest stays. Of a text that is not UTF-8 only ASCII does.
 */
static void put_string(struct dn_buffer *out, const char *text)
{
    bool utf8 = dn_utf8_valid(text, strlen(text));
    dn_buffer_u8(out, '"');
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        char escaped[8];
        if (c == '"' || c == '\\')
            dn_buffer_u8(out, '\\');
        if (c >= 0x20) {
            dn_buffer_u8(out, utf8 || c < 0x80 ? c : '?');
            continue;
        }
        snprintf(escaped, sizeof escaped, "\\u%04x", c);
        put_text(out, escaped);
    }
    dn_buffer_u8(out, '"');
}

static void put_base64(struct dn_buffer *out, const uint8_t *bytes, size_t length)
{
    if (bytes == NULL) {
        put_text(out, "null");
        return;
    }
    dn_buffer_u8(out, '"');
    size_t room = sodium_base64_encoded_len(length, BASE64); /* with the NUL, which is overwritten next */
    uint8_t *to = dn_buffer_reserve(out, room);
    if (to == NULL)
        return;
    sodium_bin2base64((char *)to, room, bytes, length, BASE64);
    out->length += room - 1;
    dn_buffer_u8(out, '"');
}

void dn_dead_line_write(struct dn_buffer *out, const struct dn_dead_line *line)
{
    char text[NUMBER_TEXT_MAX];

    snprintf(text, sizeof text,
             "{\"shard\":%" PRIu32 ",\"number\":%" PRIu64 ",\"reason\":\"%s\",\"source\":", line->shard,
             line->number, dn_dead_reason_text(line->reason));
    put_text(out, text);
    put_string(out, line->source);
    put_text(out, ",\"stream\":");
    put_string(out, line->stream);
    snprintf(text, sizeof text, ",\"partition\":%" PRIu32 ",\"offset\":%" PRId64 ",\"judged_ms\":%" PRId64,
             line->partition, line->offset, line->judged_ms);
    put_text(out, text);
    if (line->time_ms >= 0)
        snprintf(text, sizeof text, ",\"time_ms\":%" PRId64 ",\"key\":", line->time_ms);
    else
        snprintf(text, sizeof text, ",\"time_ms\":null,\"key\":");
    put_text(out, text);
    put_base64(out, line->key, line->key_length);
    put_text(out, ",\"bytes\":");
    put_base64(out, line->bytes, line->length);
    put_text(out, line->gone ? ",\"gone\":true" : ",\"gone\":false");
    if (line->note[0] != '\0') {
        put_text(out, ",\"note\":");
        put_string(out, line->note);
    }
    put_text(out, "}\n");
}

/* ---- reading ---------------------------------------------------------------------------------------- */

struct parse {
    const json_t *object;
    const char *fault; /* the field that is not right; NULL: none so far */
};

/* A required integer in [min, max]. */
static int64_t take_integer(struct parse *p, const char *name, int64_t min, int64_t max)
{
    const json_t *value = json_object_get(p->object, name);
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max) {
        p->fault = p->fault == NULL ? name : p->fault;
        return min;
    }
    return json_integer_value(value);
}

/* A string that fits into ret with its NUL. */
static void take_string(struct parse *p, const char *name, bool required, char *ret, size_t size)
{
    const json_t *value = json_object_get(p->object, name);
    ret[0] = '\0';
    if (!required && (value == NULL || json_is_null(value)))
        return;
    if (!json_is_string(value) || json_string_length(value) >= size) {
        p->fault = p->fault == NULL ? name : p->fault;
        return;
    }
    memcpy(ret, json_string_value(value), json_string_length(value) + 1);
}

/* Where a decoded field lies in the buffer, whose memory may still move. */
struct span {
    bool there;
    size_t at, length;
};

static enum dn_code take_base64(struct parse *p, const char *name, struct dn_buffer *buffer, struct span *ret)
{
    const json_t *value = json_object_get(p->object, name);
    *ret = (struct span){.at = buffer->length};
    if (json_is_null(value))
        return DN_OK;
    if (!json_is_string(value)) {
        p->fault = p->fault == NULL ? name : p->fault;
        return DN_OK;
    }
    size_t room = json_string_length(value) / 4 * 3 + 3; /* + 3: not 0, and not NULL for an empty message */
    uint8_t *to = dn_buffer_reserve(buffer, room);
    if (to == NULL)
        return DN_NO_MEMORY;
    if (sodium_base642bin(to, room, json_string_value(value), json_string_length(value), NULL, &ret->length,
                          NULL, BASE64) != 0) {
        p->fault = p->fault == NULL ? name : p->fault;
        return DN_OK;
    }
    ret->there = true;
    buffer->length += ret->length;
    return DN_OK;
}

static enum dn_code take_letter(struct parse *p, struct dn_buffer *buffer, struct dn_dead_line *ret)
{
    char reason[32];
    struct span key, bytes;

    ret->shard = (uint32_t)take_integer(p, "shard", 1, UINT32_MAX);
    ret->number = (uint64_t)take_integer(p, "number", 0, INT64_MAX);
    take_string(p, "reason", true, reason, sizeof reason);
    ret->reason = dn_dead_reason_parse(reason);
    take_string(p, "source", true, ret->source, sizeof ret->source);
    take_string(p, "stream", true, ret->stream, sizeof ret->stream);
    ret->partition = (uint32_t)take_integer(p, "partition", 0, UINT32_MAX);
    ret->offset = take_integer(p, "offset", 0, INT64_MAX);
    ret->judged_ms = take_integer(p, "judged_ms", INT64_MIN, INT64_MAX);
    ret->time_ms = -1;
    if (!json_is_null(json_object_get(p->object, "time_ms")))
        ret->time_ms = take_integer(p, "time_ms", 0, INT64_MAX);
    ret->gone = json_is_true(json_object_get(p->object, "gone"));
    take_string(p, "note", false, ret->note, sizeof ret->note);
    if (take_base64(p, "key", buffer, &key) != DN_OK || take_base64(p, "bytes", buffer, &bytes) != DN_OK)
        return DN_NO_MEMORY;
    /* An empty text has a place too: one byte that nobody reads. */
    if (dn_buffer_reserve(buffer, 1) == NULL)
        return DN_NO_MEMORY;
    ret->key = key.there ? buffer->bytes + key.at : NULL;
    ret->key_length = key.length;
    ret->bytes = bytes.there ? buffer->bytes + bytes.at : NULL;
    ret->length = bytes.length;
    return DN_OK;
}

enum dn_code dn_dead_line_parse(const char *text, size_t length, struct dn_buffer *buffer,
                                struct dn_dead_line *ret, struct dn_error *err)
{
    struct dn_dead_line line = {0};
    struct parse p = {0};
    json_error_t error;
    enum dn_code code = DN_OK;

    dn_buffer_clear(buffer);
    json_t *object = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (object == NULL)
        return dn_fail(err, DN_INVALID, "not a JSON object (%s at byte %d)", error.text, error.position);
    p.object = object;
    if (!json_is_object(object)) {
        code = dn_fail(err, DN_INVALID, "not a JSON object");
    } else if (take_letter(&p, buffer, &line) != DN_OK) {
        code = buffer->max < length
                   ? dn_fail(err, DN_INVALID, "its bytes are more than the %zu allowed", buffer->max)
                   : dn_fail(err, DN_NO_MEMORY, "out of memory");
    } else if (p.fault != NULL) {
        code = dn_fail(err, DN_INVALID, "no dead letter: the field '%s' is missing or not right", p.fault);
    }
    json_decref(object);
    if (code == DN_OK)
        *ret = line;
    return code;
}
