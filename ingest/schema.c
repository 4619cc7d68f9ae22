/* What a field means: ids, types, times, weights, and what is missing. Which bytes they are is found by
 * schema_json.c and schema_wire.c. */
#include "ingest/schema.h"

#include "ingest/schema_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TYPE_NAME_MAX 63
#define TYPE_NAMES_MAX (DN_SOURCE_TYPES_MAX + DN_EVENT_TYPE_MAX)
#define SHOWN_MAX 40 /* bytes of a message in an error's text */

static const char *const event_type_names[DN_EVENT_TYPE_MAX + 1] = {
    [DN_EVENT_VIEW] = "view", [DN_EVENT_CLICK] = "click",   [DN_EVENT_CART] = "cart",
    [DN_EVENT_BUY] = "buy",   [DN_EVENT_LIKE] = "like",     [DN_EVENT_DISLIKE] = "dislike",
    [DN_EVENT_PLAY] = "play", [DN_EVENT_REMOVE] = "remove",
};
static const char enum_prefix[] = "event_type_"; /* as JSON made from protobuf has it */

struct type_name {
    char name[TYPE_NAME_MAX + 1]; /* lower case */
    size_t length;
    uint8_t type; /* 0: no event */
};

struct dn_schema {
    enum dn_source_format format;
    size_t message_bytes;
    enum dn_time_unit time_unit;
    bool user_is_key, time_is_message, type_is_constant;
    uint8_t constant_type;
    struct type_name types[TYPE_NAMES_MAX]; /* the configured ones come first: they may hide others */
    size_t type_count;
    uint8_t by_number[DN_EVENT_TYPE_MAX + 1];       /* [0]: a message that says no type */
    char names[DN_FIELD_COUNT][DN_SOURCE_TEXT_MAX]; /* of fields, for errors */
    struct dn_schema_json *json;                    /* NULL for protobuf */
};

/* ---- types ------------------------------------------------------------------------------------------ */

/* false: longer than any name. */
static bool lower_case(const char *text, size_t length, char ret[TYPE_NAME_MAX + 1])
{
    if (length > TYPE_NAME_MAX) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        ret[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a' : text[i]);
    }
    ret[length] = '\0';
    return true;
}

static const struct type_name *type_named(const struct dn_schema *schema, const char *name, size_t length)
{
    for (size_t i = 0; i < schema->type_count; i++) {
        const struct type_name *type = &schema->types[i];
        if (type->length == length && memcmp(type->name, name, length) == 0) {
            return type;
        }
    }
    return NULL;
}

/* By a configured name, a name of ours, or a number of ours. */
static bool type_find(const struct dn_schema *schema, const char *text, size_t length, uint8_t *ret)
{
    char name[TYPE_NAME_MAX + 1];
    if (!lower_case(text, length, name)) {
        return false;
    }
    const struct type_name *type = type_named(schema, name, length);
    size_t prefix = sizeof enum_prefix - 1;
    if (type == NULL && length > prefix && memcmp(name, enum_prefix, prefix) == 0) {
        type = type_named(schema, name + prefix, length - prefix);
    }
    if (type != NULL) {
        *ret = type->type;
        return true;
    }
    if (length == 1 && name[0] >= '0' && name[0] <= '0' + DN_EVENT_TYPE_MAX) {
        *ret = schema->by_number[name[0] - '0'];
        return true;
    }
    return false;
}

static bool type_of_number(const struct dn_schema *schema, int32_t number, uint8_t *ret)
{
    char text[16];
    if (number >= 0 && number <= DN_EVENT_TYPE_MAX) {
        *ret = schema->by_number[number];
        return true;
    }
    int length = snprintf(text, sizeof text, "%" PRId32, number);
    return type_find(schema, text, (size_t)length, ret);
}

static void type_add(struct dn_schema *schema, const char *lower_name, size_t length, uint8_t type)
{
    struct type_name *to = &schema->types[schema->type_count++];
    memcpy(to->name, lower_name, length + 1);
    to->length = length;
    to->type = type;
}

static enum dn_code types_configure(struct dn_schema *schema, const struct dn_source_fields *fields,
                                    struct dn_error *err)
{
    char name[TYPE_NAME_MAX + 1];
    if (fields->type_count > DN_SOURCE_TYPES_MAX) {
        return dn_fail(err, DN_INVALID, "types: %zu of them; at most %d", fields->type_count,
                       DN_SOURCE_TYPES_MAX);
    }
    for (size_t i = 0; i < fields->type_count; i++) {
        size_t length = strlen(fields->types[i].name);
        if (length == 0 || !lower_case(fields->types[i].name, length, name)) {
            return dn_fail(err, DN_INVALID, "types: a name of %zu bytes; from 1 to %d", length,
                           TYPE_NAME_MAX);
        }
        if (fields->types[i].type > DN_EVENT_TYPE_MAX) {
            return dn_fail(err, DN_INVALID, "types: '%s' is %u, which is not an event type", name,
                           fields->types[i].type);
        }
        if (type_named(schema, name, length) != NULL) {
            return dn_fail(err, DN_INVALID, "types: '%s' is there twice (case does not matter)", name);
        }
        type_add(schema, name, length, fields->types[i].type);
    }
    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++) {
        size_t length = strlen(event_type_names[type]);
        const struct type_name *digit = type_named(schema, (char[2]){(char)('0' + type), '\0'}, 1);
        const struct type_name *word = type_named(schema, event_type_names[type], length);
        schema->by_number[type] = digit != NULL ? digit->type : word != NULL ? word->type : (uint8_t)type;
        if (word == NULL) {
            type_add(schema, event_type_names[type], length, (uint8_t)type);
        }
    }
    const struct type_name *zero = type_named(schema, "0", 1);
    schema->by_number[0] = zero != NULL ? zero->type : schema->by_number[DN_EVENT_VIEW];
    return DN_OK;
}

static enum dn_code constant_configure(struct dn_schema *schema, const char *constant, struct dn_error *err)
{
    schema->type_is_constant = constant[0] != '\0';
    if (!schema->type_is_constant) {
        return DN_OK;
    }
    if (!type_find(schema, constant, strlen(constant), &schema->constant_type)) {
        return dn_fail(
            err, DN_INVALID,
            "fields.constant_type: '%s' is not an event type: view, click, cart, buy, like, dislike, "
            "play, remove, or a name in types",
            constant);
    }
    if (schema->constant_type == 0) {
        return dn_fail(
            err, DN_INVALID,
            "fields.constant_type: '%s' is mapped to no type, so that every message would be passed over",
            constant);
    }
    return DN_OK;
}

/* ---- configuration ---------------------------------------------------------------------------------- */

static const char *const default_paths[DN_FIELD_COUNT] = {"user_id", "item_id", "type",
                                                          "time_ms", "weight",  "schema_version"};

static enum dn_code paths_configure(struct dn_schema *schema, const struct dn_source_fields *fields,
                                    const char *paths[DN_FIELD_COUNT], struct dn_error *err)
{
    const char *const given[DN_FIELD_COUNT] = {fields->user, fields->item,   fields->type,
                                               fields->time, fields->weight, ""};
    static const char *const keys[DN_FIELD_COUNT] = {"user", "item", "type", "time", "weight", ""};
    schema->user_is_key = strcmp(fields->user, "@key") == 0;
    schema->time_is_message = strcmp(fields->time, "@time") == 0;
    for (int field = 0; field < DN_FIELD_COUNT; field++) {
        paths[field] = given[field][0] != '\0' ? given[field] : default_paths[field];
        bool outside = (field == DN_FIELD_USER && schema->user_is_key) ||
                       (field == DN_FIELD_TIME && schema->time_is_message);
        if (!outside && (strcmp(paths[field], "@key") == 0 || strcmp(paths[field], "@time") == 0)) {
            return dn_fail(
                err, DN_INVALID,
                "fields.%s: '%s': the key may give the user, the message's time the time, and no more "
                "(a field that is called so: \\%s)",
                keys[field], paths[field], paths[field]);
        }
        if (!outside && schema->format == DN_FORMAT_PROTOBUF &&
            strcmp(paths[field], default_paths[field]) != 0) {
            return dn_fail(err, DN_INVALID,
                           "fields.%s: '%s': in protobuf it is dunlin.v1.Event's %s; leave it out",
                           keys[field], paths[field], default_paths[field]);
        }
        snprintf(schema->names[field], sizeof schema->names[field], "%s",
                 outside ? given[field] : paths[field]);
        if (outside || (field == DN_FIELD_TYPE && schema->type_is_constant)) {
            paths[field] = NULL;
        }
    }
    return DN_OK;
}

static enum dn_code configure(struct dn_schema *schema, const struct dn_source_config *config,
                              struct dn_error *err)
{
    const char *paths[DN_FIELD_COUNT];
    if (config->format != DN_FORMAT_JSON && config->format != DN_FORMAT_PROTOBUF) {
        return dn_fail(err, DN_INVALID, "format: %d is not known", (int)config->format);
    }
    if (config->message_bytes > DN_SCHEMA_MESSAGE_BYTES_MAX) {
        return dn_fail(err, DN_INVALID, "message_bytes: %" PRIu64 "; at most %zu", config->message_bytes,
                       DN_SCHEMA_MESSAGE_BYTES_MAX);
    }
    if (config->fields.time_unit < DN_TIME_MS || config->fields.time_unit > DN_TIME_ISO8601) {
        return dn_fail(err, DN_INVALID, "fields.time_unit: %d is not known", (int)config->fields.time_unit);
    }
    schema->format = config->format;
    schema->message_bytes =
        config->message_bytes != 0 ? (size_t)config->message_bytes : DN_SCHEMA_MESSAGE_BYTES;
    schema->time_unit = config->fields.time_unit;
    enum dn_code code = types_configure(schema, &config->fields, err);
    if (code == DN_OK) {
        code = constant_configure(schema, config->fields.constant_type, err);
    }
    if (code == DN_OK) {
        code = paths_configure(schema, &config->fields, paths, err);
    }
    if (code != DN_OK) {
        return code;
    }
    if (schema->format == DN_FORMAT_JSON) {
        return dn_schema_json_create(schema->message_bytes, paths, &schema->json, err);
    }
    if (schema->time_unit != DN_TIME_MS && !schema->time_is_message) {
        return dn_fail(err, DN_INVALID, "fields.time_unit: in protobuf it is always ms; leave it out");
    }
    return DN_OK;
}

enum dn_code dn_schema_create(const struct dn_source_config *config, struct dn_schema **ret,
                              struct dn_error *err)
{
    struct dn_schema *schema = calloc(1, sizeof *schema);
    if (schema == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory for a schema");
    }
    enum dn_code code = configure(schema, config, err);
    if (code != DN_OK) {
        free(schema);
        return dn_wrap(err, code, "source '%s'", config->name);
    }
    *ret = schema;
    return DN_OK;
}

void dn_schema_destroy(struct dn_schema *schema)
{
    if (schema != NULL) {
        dn_schema_json_destroy(schema->json);
        free(schema);
    }
}

/* ---- fields ----------------------------------------------------------------------------------------- */

/* A piece of the message that may stand in a log. */
static const char *shown(const char *text, size_t length, char ret[SHOWN_MAX + 1])
{
    size_t count = length < SHOWN_MAX ? length : SHOWN_MAX;
    for (size_t i = 0; i < count; i++) {
        ret[i] = (char)(text[i] >= ' ' && text[i] <= '~' ? text[i] : '?');
    }
    ret[count] = '\0';
    return ret;
}

static enum dn_decode_result check_id(const char *name, const char *id, size_t length, const char **ret_id,
                                      uint16_t *ret_length, struct dn_schema_verdict *verdict)
{
    if (length == 0) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: is empty", name);
    }
    if (length > DN_ID_MAX) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_LIMIT, "%s: %zu bytes; an id has at most %d", name, length,
                              DN_ID_MAX);
    }
    if (!dn_id_valid(id, length)) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: is not UTF-8, or has a NUL character", name);
    }
    *ret_id = id;
    *ret_length = (uint16_t)length;
    return DN_DECODED;
}

static bool is_whole_number(const struct dn_schema_value *value)
{
    for (size_t i = 0; i < value->length && i <= DN_ID_MAX; i++) {
        char c = value->text[i];
        if ((c < '0' || c > '9') && !(c == '-' && i == 0)) {
            return false;
        }
    }
    return true;
}

static enum dn_decode_result take_id(const char *name, const struct dn_schema_value *value,
                                     const char **ret_id, uint16_t *ret_length,
                                     struct dn_schema_verdict *verdict)
{
    switch (value->kind) {
    case DN_VALUE_NONE:
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: is missing", name);
    case DN_VALUE_OTHER:
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: is %s; text or a whole number is needed",
                              name, value->what);
    case DN_VALUE_NUMBER:
        if (!is_whole_number(value)) {
            return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: is a number that is not whole", name);
        }
        if (value->length == 2 && memcmp(value->text, "-0", 2) == 0) {
            return check_id(name, "0", 1, ret_id, ret_length, verdict);
        }
        break;
    case DN_VALUE_TEXT:
        break;
    }
    return check_id(name, value->text, value->length, ret_id, ret_length, verdict);
}

static enum dn_decode_result take_key(const struct dn_message *message, struct dn_decoded *ret,
                                      struct dn_schema_verdict *verdict)
{
    if (message->key == NULL) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "@key: the message has no key to name its user");
    }
    return check_id("@key", (const char *)message->key, message->key_length, &ret->user, &ret->user_length,
                    verdict);
}

static enum dn_decode_result take_type(const struct dn_schema *schema, const struct dn_schema_value *value,
                                       uint8_t *ret, struct dn_schema_verdict *verdict)
{
    char buffer[SHOWN_MAX + 1];
    if (schema->type_is_constant) {
        *ret = schema->constant_type;
        return DN_DECODED;
    }
    if (value->kind == DN_VALUE_OTHER) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: is %s; text or a number is needed",
                              schema->names[DN_FIELD_TYPE], value->what);
    }
    if (value->kind == DN_VALUE_NONE) {
        *ret = schema->by_number[0];
    } else if (!type_find(schema, value->text, value->length, ret)) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE,
                              "%s: '%s' is not an event type (types maps other names)",
                              schema->names[DN_FIELD_TYPE], shown(value->text, value->length, buffer));
    }
    return *ret == 0 ? DN_DECODE_SKIPPED : DN_DECODED;
}

static enum dn_decode_result take_message_time(const struct dn_message *message, const char *name,
                                               int64_t *ret, struct dn_schema_verdict *verdict)
{
    if (message->time_ms < 0) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE,
                              "%s: there is none, and the message has no time itself", name);
    }
    if (message->time_ms == 0 || message->time_ms >= DN_TIME_MAX_MS) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE,
                              "%s: the message's own time, %" PRId64 " ms, is out of range", name,
                              message->time_ms);
    }
    *ret = message->time_ms;
    return DN_DECODED;
}

static enum dn_decode_result take_time(const struct dn_schema *schema, const struct dn_message *message,
                                       const struct dn_schema_value *value, int64_t *ret,
                                       struct dn_schema_verdict *verdict)
{
    const char *name = schema->names[DN_FIELD_TIME];
    char buffer[SHOWN_MAX + 1];
    if (schema->time_is_message || value->kind == DN_VALUE_NONE) {
        return take_message_time(message, name, ret, verdict);
    }
    if (value->kind == DN_VALUE_OTHER) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: is %s, which is no time", name, value->what);
    }
    const char *why = schema->time_unit == DN_TIME_ISO8601 && value->kind == DN_VALUE_NUMBER
                          ? "is a number; the time unit iso8601 needs text"
                          : dn_schema_time(value->text, value->length, schema->time_unit, ret);
    if (why != NULL) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: '%s' %s", name,
                              shown(value->text, value->length, buffer), why);
    }
    return *ret == 0 ? take_message_time(message, name, ret, verdict) : DN_DECODED;
}

static enum dn_decode_result take_weight(const struct dn_schema *schema, const struct dn_schema_value *value,
                                         uint16_t *ret, struct dn_schema_verdict *verdict)
{
    const char *name = schema->names[DN_FIELD_WEIGHT];
    char buffer[SHOWN_MAX + 1];
    if (value->kind == DN_VALUE_NONE) {
        *ret = DN_WEIGHT_ONE;
        return DN_DECODED;
    }
    if (value->kind == DN_VALUE_OTHER) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: is %s, which is no number", name,
                              value->what);
    }
    const char *why = dn_schema_weight_text(value->text, value->length, ret);
    if (why != NULL) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s: '%s' %s", name,
                              shown(value->text, value->length, buffer), why);
    }
    return DN_DECODED;
}

/* A number there is ours; text or the like is some other program's field of that name. */
static enum dn_decode_result check_version(const struct dn_schema_value *value,
                                           struct dn_schema_verdict *verdict)
{
    char buffer[SHOWN_MAX + 1];
    if (value->kind != DN_VALUE_NUMBER || (value->length == 1 && value->text[0] == '0' + DN_SCHEMA_VERSION)) {
        return DN_DECODED;
    }
    return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "schema_version: %s; this program knows %d only",
                          shown(value->text, value->length, buffer), DN_SCHEMA_VERSION);
}

/* ---- messages --------------------------------------------------------------------------------------- */

static enum dn_decode_result decode_json(struct dn_schema *schema, const struct dn_message *message,
                                         struct dn_decoded *ret, struct dn_schema_verdict *verdict)
{
    struct dn_schema_value values[DN_FIELD_COUNT];
    enum dn_decode_result result =
        dn_schema_json_read(schema->json, message->bytes, message->length, values, verdict);
    if (result == DN_DECODED) {
        result = check_version(&values[DN_FIELD_VERSION], verdict);
    }
    if (result == DN_DECODED) { /* first: what is passed over needs no other field */
        result = take_type(schema, &values[DN_FIELD_TYPE], &ret->type, verdict);
    }
    if (result == DN_DECODED) {
        result = schema->user_is_key ? take_key(message, ret, verdict)
                                     : take_id(schema->names[DN_FIELD_USER], &values[DN_FIELD_USER],
                                               &ret->user, &ret->user_length, verdict);
    }
    if (result == DN_DECODED) {
        result = take_id(schema->names[DN_FIELD_ITEM], &values[DN_FIELD_ITEM], &ret->item, &ret->item_length,
                         verdict);
    }
    if (result == DN_DECODED) {
        result = take_time(schema, message, &values[DN_FIELD_TIME], &ret->time_ms, verdict);
    }
    if (result == DN_DECODED) {
        result = take_weight(schema, &values[DN_FIELD_WEIGHT], &ret->weight, verdict);
    }
    return result;
}

static enum dn_decode_result event_type(const struct dn_schema *schema, int32_t number, uint8_t *ret,
                                        struct dn_schema_verdict *verdict)
{
    if (schema->type_is_constant) {
        *ret = schema->constant_type;
    } else if (!type_of_number(schema, number, ret)) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "type: %" PRId32 " is not an event type", number);
    }
    return *ret == 0 ? DN_DECODE_SKIPPED : DN_DECODED;
}

static enum dn_decode_result event_time(const struct dn_schema *schema, const struct dn_message *message,
                                        int64_t time_ms, int64_t *ret, struct dn_schema_verdict *verdict)
{
    if (schema->time_is_message || time_ms == 0) {
        return take_message_time(message, schema->names[DN_FIELD_TIME], ret, verdict);
    }
    if (time_ms < 0 || time_ms >= DN_TIME_MAX_MS) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "time_ms: %" PRId64 " is out of range", time_ms);
    }
    *ret = time_ms;
    return DN_DECODED;
}

static enum dn_decode_result decode_protobuf(struct dn_schema *schema, const struct dn_message *message,
                                             struct dn_decoded *ret, struct dn_schema_verdict *verdict)
{
    struct dn_schema_event event;
    enum dn_decode_result result = dn_schema_wire_read(message->bytes, message->length, &event, verdict);
    if (result == DN_DECODED) {
        result = event_type(schema, event.type, &ret->type, verdict);
    }
    if (result == DN_DECODED) {
        result = schema->user_is_key ? take_key(message, ret, verdict)
                                     : check_id("user_id", event.user, event.user_length, &ret->user,
                                                &ret->user_length, verdict);
    }
    if (result == DN_DECODED) {
        result = check_id("item_id", event.item, event.item_length, &ret->item, &ret->item_length, verdict);
    }
    if (result == DN_DECODED) {
        result = event_time(schema, message, event.time_ms, &ret->time_ms, verdict);
    }
    if (result == DN_DECODED) {
        const char *why = dn_schema_weight((double)event.weight, &ret->weight);
        result = why == NULL ? DN_DECODED
                             : DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "weight: %g %s",
                                              (double)event.weight, why);
    }
    return result;
}

static enum dn_decode_result decode(struct dn_schema *schema, const struct dn_message *message,
                                    struct dn_decoded *ret, struct dn_schema_verdict *verdict)
{
    if (message->too_large || message->length > schema->message_bytes) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_LIMIT, "%zu bytes; message_bytes allows %zu", message->length,
                              schema->message_bytes);
    }
    if (message->bytes == NULL) {
        return DN_DECODE_SKIPPED;
    }
    return schema->format == DN_FORMAT_JSON ? decode_json(schema, message, ret, verdict)
                                            : decode_protobuf(schema, message, ret, verdict);
}

enum dn_decode_result dn_schema_decode(struct dn_schema *schema, const struct dn_message *message,
                                       struct dn_decoded *ret, enum dn_dead_reason *ret_reason,
                                       struct dn_error *err)
{
    struct dn_schema_verdict verdict = {.err = err};
    struct dn_decoded decoded;
    DN_ASSERT(!message->end);
    enum dn_decode_result result = decode(schema, message, &decoded, &verdict);
    if (result == DN_DECODED) {
        *ret = decoded;
    } else if (result == DN_DECODE_DEAD) {
        *ret_reason = verdict.reason;
    }
    return result;
}
