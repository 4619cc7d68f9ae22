/* Schema: bytes of a message into an event, as the configuration says.
 *
 * JSON objects and protobuf (dunlin.v1.Event). Unknown fields are ignored, missing optional ones defaulted. A
 * message may say which version of the schema it follows (a number in the JSON field "schema_version", 1 when
 * missing; for protobuf the package's name does); a newer one than this program knows is refused. Pure but
 * for its own memory: one thread at a time for each schema. docs/events.md has the rules for users.
 *
 * Nothing is allocated for a message. JSON of 150 bytes takes about half a microsecond, protobuf a fifth of
 * that (tests/bench/bench_decode.c). */
#ifndef DN_INGEST_SCHEMA_H
#define DN_INGEST_SCHEMA_H

#include "base/error.h"
#include "ingest/source.h"
#include "session/record.h"

struct dn_schema;

#define DN_SCHEMA_MESSAGE_BYTES ((size_t)1 << 20)       /* largest message where the config says 0 */
#define DN_SCHEMA_MESSAGE_BYTES_MAX ((size_t)256 << 20) /* most that it may say */

/* DN_INVALID: a path is malformed, or a type unknown; names the field. DN_NO_MEMORY. The config is copied. */
enum dn_code dn_schema_create(const struct dn_source_config *config, struct dn_schema **ret,
                              struct dn_error *err);
void dn_schema_destroy(struct dn_schema *schema); /* NULL allowed */

struct dn_decoded {
    /* 1..DN_ID_MAX bytes of UTF-8 without NUL, not NUL-terminated; in the message or in the schema: valid
     * until the next decode, and as long as the message's bytes and key. */
    const char *user;
    uint16_t user_length;
    const char *item;
    uint16_t item_length;
    uint8_t type;    /* enum dn_event_type */
    int64_t time_ms; /* 0 < time_ms < DN_TIME_MAX_MS */
    uint16_t weight; /* DN_WEIGHT_ONE = 1.0; never 0 */
};

enum dn_decode_result {
    DN_DECODED,
    DN_DECODE_SKIPPED, /* no event by the configuration: a tombstone, or a type that is mapped to none */
    DN_DECODE_DEAD,    /* ret_reason and err tell why */
};

/* message->end is not allowed. err: for people, names the field; NULL saves the time to write it. *ret is set
 * by DN_DECODED only, *ret_reason and *err by DN_DECODE_DEAD only. */
enum dn_decode_result dn_schema_decode(struct dn_schema *schema, const struct dn_message *message,
                                       struct dn_decoded *ret, enum dn_dead_reason *ret_reason,
                                       struct dn_error *err);

#endif
