/* Wire check: protobuf bytes against a message description, before they are unpacked.
 *
 * protobuf-c keeps strings as C strings, so "a\0b" would silently become "a"; it does not check UTF-8 and has
 * no limit on nesting. This walk refuses all three, and says where: "events[3].user_id: has a NUL byte". */
#ifndef DN_API_WIRE_H
#define DN_API_WIRE_H

#include "base/error.h"

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#define DN_WIRE_DEPTH_MAX 8

/* DN_OK or DN_INVALID. Any thread. */
enum dn_code dn_wire_check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t length,
                           struct dn_error *err);

#endif
