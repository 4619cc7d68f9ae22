/* Records as bytes: the side of apply. Private to the room. Nothing here trusts its input. */
#ifndef DN_SESSION_WIRE_H
#define DN_SESSION_WIRE_H

#include "session/record.h"

#define DN_RECORD_VERSION 1u

struct dn_record_head {
    uint8_t kind;
    const char *source; /* stream records, in place */
    uint16_t source_length;
    uint32_t partition;
    int64_t begins_at, next_offset;
    uint32_t count; /* of events */
};

/* Kind, version, and what stands before the events. False: not understood. */
bool dn_decode_head(struct dn_reader *reader, struct dn_record_head *ret);
/* The next event, its item in place; false if the bytes end. Values are not judged. */
bool dn_decode_event(struct dn_reader *reader, uint8_t kind, struct dn_event_in *ret);
#define DN_SETTINGS_BYTES 56u /* as encoded */
void dn_encode_settings(struct dn_buffer *out, const struct dn_shard_settings *settings);
/* False if the bytes end. Values are not judged. */
bool dn_decode_settings(struct dn_reader *reader, struct dn_shard_settings *ret);

#endif
