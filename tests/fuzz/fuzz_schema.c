/* Messages of streams: bytes from whoever may write to a topic. The first byte picks the schema and what the
 * message has beside its bytes.
 *
 * What is decoded keeps the promises of schema.h, and is what jansson or protobuf-c finds in the same bytes;
 * what those take is not refused for its form, but for the reasons named below. No message changes what
 * becomes of the one after it. */
#include "base/error.h"
#include "base/text.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "ingest/schema.h"
#include "tests/fuzz/fuzz.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMAS 5u
#define HAS_KEY 0x08u
#define HAS_TIME 0x10u

enum which { PLAIN, MAPPED, OUTSIDE, PROTOBUF, SMALL };

const unsigned dn_fuzz_runs = 60000;

static struct dn_schema *schemas[SCHEMAS];

static const char good_json[] =
    "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":\"buy\",\"time_ms\":5,\"ctx\":{\"u\":"
    "\"u\",\"i\":\"i\",\"t\":\"1970-01-01T00:00:00.005Z\"},\"ev\":\"Purchase\"}";
static const char good_event[] = "\x0a\x01u\x12\x01i\x18\x04\x20\x05";

static void make_schemas(void)
{
    for (unsigned i = 0; i < SCHEMAS && schemas[SCHEMAS - 1] == NULL; i++) {
        struct dn_source_config config = {.message_bytes = i == SMALL ? 512 : DN_FUZZ_INPUT_MAX};
        struct dn_source_fields *fields = &config.fields;
        config.format = i == PROTOBUF ? DN_FORMAT_PROTOBUF : DN_FORMAT_JSON;
        if (i == MAPPED) {
            strcpy(fields->user, "ctx.u");
            strcpy(fields->item, "ctx.i");
            strcpy(fields->type, "ev");
            strcpy(fields->time, "ctx.t");
            fields->time_unit = DN_TIME_ISO8601;
            fields->type_count = 2;
            strcpy(fields->types[0].name, "purchase");
            fields->types[0].type = DN_EVENT_BUY;
            strcpy(fields->types[1].name, "view");
        }
        if (i == OUTSIDE) {
            strcpy(fields->user, "@key");
            strcpy(fields->time, "@time");
            strcpy(fields->constant_type, "buy");
        }
        DN_ASSERT(dn_schema_create(&config, &schemas[i], NULL) == DN_OK);
    }
}

static enum dn_decode_result decode(unsigned which, unsigned flags, const void *bytes, size_t length,
                                    struct dn_decoded *ret, struct dn_error *err)
{
    struct dn_message message = {.bytes = bytes, .length = length, .time_ms = flags & HAS_TIME ? 7 : -1};
    enum dn_dead_reason reason = 0;
    if (flags & HAS_KEY) {
        message.key = (const uint8_t *)"key";
        message.key_length = 3;
    }
    err->message[0] = '\0';
    enum dn_decode_result result = dn_schema_decode(schemas[which], &message, ret, &reason, err);
    DN_ASSERT((result == DN_DECODE_DEAD) == (reason != 0) && (reason != 0) == (err->message[0] != '\0'));
    DN_ASSERT(reason == 0 || reason == DN_DEAD_UNDECODABLE || reason == DN_DEAD_LIMIT);
    return result;
}

static void check_promises(const struct dn_decoded *event)
{
    DN_ASSERT(dn_id_valid(event->user, event->user_length) && dn_id_valid(event->item, event->item_length));
    DN_ASSERT(event->type >= 1 && event->type <= DN_EVENT_TYPE_MAX && event->weight >= 1);
    DN_ASSERT(event->time_ms > 0 && event->time_ms < DN_TIME_MAX_MS);
}

static void check_next(unsigned which)
{
    struct dn_decoded event;
    struct dn_error err;
    enum dn_decode_result result =
        which == PROTOBUF ? decode(which, HAS_KEY | HAS_TIME, good_event, sizeof good_event - 1, &event, &err)
                          : decode(which, HAS_KEY | HAS_TIME, good_json, sizeof good_json - 1, &event, &err);
    DN_ASSERT(result == DN_DECODED && event.type == DN_EVENT_BUY && event.weight == DN_WEIGHT_ONE);
    DN_ASSERT(event.time_ms == (which == OUTSIDE ? 7 : 5) && event.item_length == 1 && event.item[0] == 'i');
    DN_ASSERT(event.user_length == (which == OUTSIDE ? 3 : 1));
}

/* ---- JSON against jansson --------------------------------------------------------------------------- */

static bool same_id(const json_t *value, const char *id, size_t length)
{
    char text[32];
    if (json_is_string(value)) {
        return json_string_length(value) == length && memcmp(json_string_value(value), id, length) == 0;
    }
    snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    return json_is_integer(value) && strlen(text) == length && memcmp(text, id, length) == 0;
}

/* The weight as a double gives it; a rounding at exactly a half may differ by one. */
static bool same_weight(const json_t *value, uint16_t weight)
{
    double given = json_is_string(value) ? strtod(json_string_value(value), NULL) : json_number_value(value);
    double fixed = given > 0 ? given * DN_WEIGHT_ONE : DN_WEIGHT_ONE;
    return (fixed < 1.5 && weight == 1) || (fixed - 0.5001 < weight && weight < fixed + 0.5001);
}

static void check_json(unsigned which, const uint8_t *bytes, size_t length, enum dn_decode_result result,
                       const struct dn_decoded *event, const struct dn_error *err)
{
    json_error_t why;
    json_t *tree = json_loadb((const char *)bytes, length, JSON_ALLOW_NUL, &why);
    if (tree == NULL) {
        /* It wants UTF-8 everywhere, and numbers that fit, also where nobody looks; yajl takes two more
         * characters for white space. */
        enum json_error_code code = json_error_code(&why);
        DN_ASSERT(result == DN_DECODE_DEAD || code == json_error_invalid_utf8 ||
                  code == json_error_numeric_overflow || code == json_error_null_byte_in_key ||
                  strstr(why.text, "Unicode") != NULL || (length > 2 && bytes[0] == 0xEF) ||
                  memchr(bytes, '\v', length) != NULL || memchr(bytes, '\f', length) != NULL);
        return;
    }
    /* It passes over a NUL byte behind a number. */
    DN_ASSERT(strncmp(err->message, "not JSON", 8) != 0 || memchr(bytes, 0, length) != NULL);
    DN_ASSERT(result != DN_DECODED || json_is_object(tree));
    if (result == DN_DECODED && (which == PLAIN || which == SMALL)) {
        const json_t *weight = json_object_get(tree, "weight");
        DN_ASSERT(same_id(json_object_get(tree, "user_id"), event->user, event->user_length));
        DN_ASSERT(same_id(json_object_get(tree, "item_id"), event->item, event->item_length));
        DN_ASSERT(json_is_integer(json_object_get(tree, "time_ms")) == 0 ||
                  json_integer_value(json_object_get(tree, "time_ms")) == event->time_ms ||
                  (json_integer_value(json_object_get(tree, "time_ms")) == 0 && event->time_ms == 7));
        DN_ASSERT(weight == NULL || json_is_null(weight) || same_weight(weight, event->weight));
    }
    if (result == DN_DECODED && which == MAPPED) {
        const json_t *inner = json_object_get(tree, "ctx");
        DN_ASSERT(same_id(json_object_get(inner, "u"), event->user, event->user_length));
        DN_ASSERT(same_id(json_object_get(inner, "i"), event->item, event->item_length));
    }
    json_decref(tree);
}

/* ---- protobuf against protobuf-c -------------------------------------------------------------------- */

static void check_protobuf(const uint8_t *bytes, size_t length, enum dn_decode_result result,
                           const struct dn_decoded *event)
{
    Dunlin__V1__Event *other = dunlin__v1__event__unpack(NULL, length, bytes);
    DN_ASSERT(other != NULL || result != DN_DECODED);
    if (result == DN_DECODED) {
        DN_ASSERT(strlen(other->user_id) == event->user_length &&
                  strlen(other->item_id) == event->item_length);
        DN_ASSERT(memcmp(other->user_id, event->user, event->user_length) == 0);
        DN_ASSERT(memcmp(other->item_id, event->item, event->item_length) == 0);
        DN_ASSERT(event->type == (other->type == 0 ? DN_EVENT_VIEW : (int)other->type));
        DN_ASSERT(event->time_ms == (other->time_ms == 0 ? 7 : other->time_ms));
        DN_ASSERT(other->weight >= 0 && other->weight <= 255);
    }
    if (other != NULL) {
        dunlin__v1__event__free_unpacked(other, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct dn_decoded event = {0};
    struct dn_error err;
    if (length == 0) {
        return 0;
    }
    make_schemas();
    unsigned flags = bytes[0], which = (bytes[0] & 7) % SCHEMAS;
    enum dn_decode_result result = decode(which, flags, bytes + 1, length - 1, &event, &err);
    if (result == DN_DECODED) {
        check_promises(&event);
    }
    if (which == PROTOBUF) {
        check_protobuf(bytes + 1, length - 1, result, &event);
    } else {
        check_json(which, bytes + 1, length - 1, result, &event, &err);
    }
    check_next(which);
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static const struct {
        uint8_t flags;
        const char *text;
    } seeds[] = {
        {PLAIN, good_json},
        {PLAIN | HAS_TIME,
         "{\"user_id\":12,\"item_id\":-7,\"type\":3,\"weight\":2.5e-1,\"schema_version\":1}"},
        {PLAIN, "{\"user_id\":\"\\u00e4\\ud83d\\ude00\",\"item_id\":\"a\\\"\\\\b\",\"time_ms\":\"1.7e12\","
                "\"x\":[{}]}"},
        {PLAIN | HAS_TIME,
         "\xEF\xBB\xBF{\"user_id\":\"\xC3\xA4\",\"item_id\":\"\\ud800\",\"type\":\"EVENT_TYPE_CART\"}"},
        {PLAIN | HAS_TIME, "{\"user_id\":\"u\",\"user_id\":null,\"item_id\":true,\"weight\":-1,\"x\":1e999}"},
        {MAPPED, good_json},
        {MAPPED, "{\"ev\":\"VIEW\"}"},
        {MAPPED | HAS_TIME, "{\"ctx\":{\"u\":1,\"ctx\":{\"u\":2},\"i\":\"x\",\"t\":null},\"ev\":2}"},
        {MAPPED, "{\"ctx\":{\"u\":\"u\",\"i\":\"i\",\"t\":\"2024-02-29 23:59:60,123-0130\"}}"},
        {OUTSIDE | HAS_KEY | HAS_TIME, good_json},
        {OUTSIDE | HAS_TIME, "{\"item_id\":1}"},
        {SMALL | HAS_TIME, "{\"user_id\":\"u\\n\",\"item_id\":\"i\",\"type\":\"8\"}"},
        {PROTOBUF, good_event},
        {PROTOBUF | HAS_TIME | HAS_KEY, "\x0a\x02ue\x12\x01i\x2a\x03"
                                        "abc\x35"
                                        "aa\xc0?\x98\x06\x01"},
    };
    if (n >= sizeof seeds / sizeof *seeds) {
        return 0;
    }
    size_t length = strlen(seeds[n].text);
    DN_ASSERT(length < max);
    out[0] = seeds[n].flags;
    memcpy(out + 1, seeds[n].text, length);
    return 1 + length;
}
