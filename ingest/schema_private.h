/* Schema, inside: what its files share. schema.c judges fields; schema_json.c and schema_wire.c find them in
 * bytes; schema_value.c reads numbers and times. */
#ifndef DN_INGEST_SCHEMA_PRIVATE_H
#define DN_INGEST_SCHEMA_PRIVATE_H

#include "base/error.h"
#include "base/text.h"
#include "ingest/schema.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_SCHEMA_VERSION 1 /* the newest that is known */

enum dn_schema_field {
    DN_FIELD_USER,
    DN_FIELD_ITEM,
    DN_FIELD_TYPE,
    DN_FIELD_TIME,
    DN_FIELD_WEIGHT,
    DN_FIELD_VERSION,
    DN_FIELD_COUNT
};

/* Why a message is dead: where dn_schema_decode's caller wants to read it. */
struct dn_schema_verdict {
    enum dn_dead_reason reason;
    struct dn_error *err; /* may be NULL */
};
#define DN_SCHEMA_DEAD(verdict, why, ...)                                                                    \
    ((verdict)->reason = (why), (void)dn_fail((verdict)->err, DN_INVALID, __VA_ARGS__), DN_DECODE_DEAD)

enum dn_schema_kind {
    DN_VALUE_NONE, /* missing, or null */
    DN_VALUE_TEXT,
    DN_VALUE_NUMBER, /* as written, by JSON's grammar */
    DN_VALUE_OTHER,  /* `what` says what is there instead */
};

struct dn_schema_value {
    enum dn_schema_kind kind;
    const char *text; /* of length bytes; but never more than DN_ID_MAX + 1 of them are there for sure */
    size_t length;
    const char *what;
};

/* ---- schema_json.c: the values of fields in a JSON object ---- */

struct dn_schema_json;

/* paths[field]: where it stands, NULL: nowhere. DN_INVALID: which path is malformed, and why. */
enum dn_code dn_schema_json_create(size_t message_bytes, const char *const paths[DN_FIELD_COUNT],
                                   struct dn_schema_json **ret, struct dn_error *err);
void dn_schema_json_destroy(struct dn_schema_json *json); /* NULL allowed */
/* DN_DECODED: every byte was read and values[] are set, valid until the next call (or as long as `bytes`). */
enum dn_decode_result dn_schema_json_read(struct dn_schema_json *json, const uint8_t *bytes, size_t length,
                                          struct dn_schema_value values[DN_FIELD_COUNT],
                                          struct dn_schema_verdict *verdict);

/* ---- schema_wire.c: a dunlin.v1.Event ---- */

struct dn_schema_event {
    const char *user, *item; /* in the message; NULL: missing */
    size_t user_length, item_length;
    int32_t type;
    int64_t time_ms;
    float weight;
};
enum dn_decode_result dn_schema_wire_read(const uint8_t *bytes, size_t length, struct dn_schema_event *ret,
                                          struct dn_schema_verdict *verdict);

/* ---- schema_value.c; pure. NULL: good; else what is wrong with it, for people. ---- */

/* A number, in one of the numeric units, or ISO 8601 text, as the unit says. Rounded down; 0 <= ret <
 * DN_TIME_MAX_MS. */
const char *dn_schema_time(const char *text, size_t length, enum dn_time_unit unit, int64_t *ret_ms);
const char *dn_schema_weight(double weight, uint16_t *ret_weight);
const char *dn_schema_weight_text(const char *text, size_t length, uint16_t *ret_weight);

#endif
