/* Records as bytes: the side of apply. Private to the room. Nothing here trusts its input. */
#ifndef DN_SESSION_WIRE_H
#define DN_SESSION_WIRE_H

#include "session/record.h"

/* 2: stream records with dead marks, and the kinds from 5 on; 3: a source that is finished, nothing else has
 * it; 4: settings with those of the tables (near.h). What is the same in an older version is written as that:
 * builds which know no more read it, and reach the same state. */
#define DN_RECORD_VERSION_NEAR 4u
#define DN_RECORD_VERSION_STREAMS 2u
#define DN_RECORD_VERSION_FINISHED 3u
#define DN_RECORD_VERSION_MIN 1u

struct dn_record_head {
    uint8_t kind, version;
    const char *source; /* stream and source records, in place */
    uint16_t source_length;
    uint32_t partition;
    int64_t begins_at, next_offset;
    uint32_t count; /* of events */
};

/* Kind, version, and what stands before the events (of a source record: all but its flag). False: not
 * understood. */
bool dn_decode_head(struct dn_reader *reader, struct dn_record_head *ret);
/* The next event, its item in place; false if the bytes end. Values are not judged. */
bool dn_decode_event(struct dn_reader *reader, uint8_t kind, struct dn_event_in *ret);
/* Behind a stream record's events: u32 how many, then so many of these. */
#define DN_DEAD_MARK_BYTES 9u
/* False if the bytes end. Values are not judged. */
bool dn_decode_dead(struct dn_reader *reader, struct dn_dead_in *ret);
#define DN_SETTINGS_BYTES 56u      /* as encoded, */
#define DN_SETTINGS_NEAR_BYTES 16u /* and those of the tables behind it */
void dn_encode_settings(struct dn_buffer *out, const struct dn_shard_settings *settings, bool near);
/* False if the bytes end. Values are not judged. Without `near` those in ret stay. */
bool dn_decode_settings(struct dn_reader *reader, bool near, struct dn_shard_settings *ret);

#endif
