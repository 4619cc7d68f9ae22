/* Schema: bytes of a message into an event, as the configuration says.
 *
 * JSON objects and protobuf (dunlin.v1.Event). Unknown fields are ignored, missing optional ones defaulted. A
 * message may say which version of the schema it follows (field "schema_version", 1 when missing); a newer
 * one than this program knows is refused. Pure but for its own memory: one thread at a time for each schema.
 */
#ifndef DN_INGEST_SCHEMA_H
#define DN_INGEST_SCHEMA_H

#include "base/error.h"
#include "ingest/source.h"
#include "session/record.h"

struct dn_schema;

/* DN_INVALID: a path is malformed, or a type unknown. The config is copied. */
enum dn_code dn_schema_create(const struct dn_source_config *config, struct dn_schema **ret,
                              struct dn_error *err);
void dn_schema_destroy(struct dn_schema *schema); /* NULL allowed */

struct dn_decoded {
    const char *user; /* 1..DN_ID_MAX bytes of UTF-8, not NUL-terminated; valid until the next decode */
    uint16_t user_length;
    const char *item;
    uint16_t item_length;
    uint8_t type; /* enum dn_event_type */
    int64_t time_ms;
    uint16_t weight; /* DN_WEIGHT_ONE = 1.0 */
};

enum dn_decode_result {
    DN_DECODED,
    DN_DECODE_SKIPPED, /* no event by the configuration: a tombstone, or a type that is mapped to none */
    DN_DECODE_DEAD,    /* ret_reason and err tell why */
};

/* message->end is not allowed. err: for people, names the field. */
enum dn_decode_result dn_schema_decode(struct dn_schema *schema, const struct dn_message *message,
                                       struct dn_decoded *ret, enum dn_dead_reason *ret_reason,
                                       struct dn_error *err);

#endif
