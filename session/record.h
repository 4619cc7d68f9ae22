/* Records: what a session shard's log is made of, and the answers apply gives. Encoding only, no state: rooms
 * that propose (api, ingest) include this. Little-endian; every record starts with u8 kind, u8 version. */
#ifndef DN_SESSION_RECORD_H
#define DN_SESSION_RECORD_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/hash.h"
#include "session/session.h"

#include <stddef.h>
#include <stdint.h>

#define DN_EVENTS_PER_RECORD_MAX 10000
#define DN_WEIGHT_ONE 256                 /* fixed point: weight 1.0 */
#define DN_DEAD_MAX 32768                 /* dead letters of a shard that wait to be written */
#define DN_TIME_MAX_MS ((int64_t)1 << 48) /* event and group times are below: sums never overflow */

enum dn_record_kind {
    DN_RECORD_EVENTS = 1, /* API events: de-duplicated by event id */
    DN_RECORD_STREAM = 2, /* stream events: de-duplicated by offset */
    DN_RECORD_ERASE = 3,  /* forget a user */
    DN_RECORD_SETTINGS = 4,
    DN_RECORD_DEAD_WRITTEN = 5, /* dead letters below a number are written elsewhere */
    DN_RECORD_SOURCE = 6,       /* a partition's next offset is set or forgotten, or the partition is over */
    DN_RECORD_STALL = 7,        /* the shard's streams stand still, or run again */
};

struct dn_event_in {
    struct dn_hash128 user;
    uint64_t event_id; /* keyed hash of the client's event id; 0 in a stream record */
    int64_t time_ms;
    uint16_t weight;  /* DN_WEIGHT_ONE = 1.0 */
    uint8_t type;     /* enum dn_event_type */
    int64_t offset;   /* stream records: the event's own offset */
    const char *item; /* 1..DN_ID_MAX bytes */
    uint16_t item_length;
};

/* Why a message became a dead letter. Numbers are part of the log format. */
enum dn_dead_reason {
    DN_DEAD_UNDECODABLE = 1, /* not the format that was configured, or a required field is missing */
    DN_DEAD_LIMIT = 2,       /* too large, or an id too long */
    DN_DEAD_MISROUTED = 3,   /* in a keyed topic, but in a partition of another shard's users */
    DN_DEAD_LATE = 4,        /* from here on: the outcome of an event that was decoded */
    DN_DEAD_AHEAD = 5,
    DN_DEAD_NO_ROOM = 6,
    DN_DEAD_INVALID = 7,
    DN_DEAD_REASON_MAX = 7,
};

/* "late", "undecodable", ..., "unknown": in files, answers and metrics. Never NULL. */
const char *dn_dead_reason_text(uint8_t reason);
/* The reason that has this text; 0: none. */
uint8_t dn_dead_reason_parse(const char *text);

struct dn_dead_in { /* a message that gave no event */
    int64_t offset;
    uint8_t reason; /* enum dn_dead_reason, DN_DEAD_UNDECODABLE..DN_DEAD_MISROUTED */
};

/* Appends a whole record to out. out->failed tells of memory, the maximum, more than DN_EVENTS_PER_RECORD_MAX
 * events or as many dead ones, an item longer than DN_ID_MAX, or a name or reason that is too long.
 *
 * The watermark of API events is each user's own: one client with a bad clock makes nobody else late. */
void dn_record_events(struct dn_buffer *out, const struct dn_event_in *events, size_t count);
/* begins_at: next_offset of the batch before, or DN_OFFSET_UNSET for the first batch of a partition that
 * dn_shard_next_offset() does not know; next_offset: after this batch. Offsets of events rise and lie between
 * the two; so do those of `dead`, which has none of the events' offsets. A late event, one that is ahead, and
 * one there is no room for become dead letters too; an erased user's does not. Where the queue of dead
 * letters has no room for all of the batch, it is refused whole (DN_RESULT_FULL): try later. A batch that
 * does not continue the state is refused whole (DN_RESULT_GAP): the first one of a partition too must say
 * that it is the first, or its loss would go unseen when the second arrives. source: at most DN_SOURCE_MAX
 * bytes. */
#define DN_OFFSET_UNSET ((int64_t)-1)
void dn_record_stream(struct dn_buffer *out, const char *source, uint32_t partition, int64_t begins_at,
                      int64_t next_offset, const struct dn_event_in *events, size_t count,
                      const struct dn_dead_in *dead, size_t dead_count);
/* Event times of a stream record's first and last event. False: no stream record, or one without events. */
bool dn_record_stream_times(const uint8_t *record, size_t length, int64_t *ret_first_ms,
                            int64_t *ret_last_ms);
/* Dead letters with numbers below `before` are written (durably, elsewhere) and leave the queue. A number
 * beyond the newest is refused (DN_RESULT_INVALID); a lower one than was said before changes nothing. */
void dn_record_dead_written(struct dn_buffer *out, uint64_t before);
/* An operator's word: reading goes on at next_offset, higher or lower than it was. DN_OFFSET_UNSET: the
 * partition is forgotten, and its next batch is its first. forget_watermark: nothing is late until new events
 * have moved it. The answer's next_offset is what it was before. */
void dn_record_source(struct dn_buffer *out, const char *source, uint32_t partition, int64_t next_offset,
                      bool forget_watermark);
/* The record's last byte; 0: none of them. */
enum { DN_SOURCE_FORGET_WATERMARK = 1, DN_SOURCE_FORWARD = 2, DN_SOURCE_FINISHED = 3 };
/* The same, but never back: where the partition is beyond next_offset already (it is read while the operator
 * decides) nothing is changed, and the answer is DN_RESULT_GAP with the offset that it has. */
void dn_record_source_forward(struct dn_buffer *out, const char *source, uint32_t partition,
                              int64_t next_offset);
/* The partition is finished: it ends at next_offset, and nothing more is expected of it (a file that was read
 * to its end and deleted). Where the state is at another offset, nothing is changed, and the answer is
 * DN_RESULT_GAP with the one that it has. The state goes on knowing it, and what comes again of it does not
 * count twice, until its place is needed for another: then, of those finished, the one that was so first is
 * forgotten. The next batch of it that is taken, even an empty one, or an operator's word, puts it in use
 * again. */
void dn_record_source_finished(struct dn_buffer *out, const char *source, uint32_t partition,
                               int64_t next_offset);
/* since_ms: wall time since when the shard's streams bring nothing new although they should; 0: they run
 * again. reason: for people, at most DN_STALL_REASON_MAX bytes. */
void dn_record_stall(struct dn_buffer *out, int64_t since_ms, const char *reason);
/* All events of the user are gone, and those at or before until_ms stay gone (until_ms: at most ahead_ms past
 * the group's time); request_id makes a repeat harmless. */
void dn_record_erase(struct dn_buffer *out, struct dn_hash128 user, int64_t until_ms, uint64_t request_id);
/* The first one makes the shard one that older builds cannot restore: its snapshots say what the tables'
 * settings are. */
void dn_record_settings(struct dn_buffer *out, const struct dn_shard_settings *settings);
/* The same without those of the tables (near.h), which stay as they are: builds that do not know them read
 * it. */
void dn_record_settings_without_near(struct dn_buffer *out, const struct dn_shard_settings *settings);
/* The feature level (consensus.h) of a build that reads the record: 1, or what came later. */
#define DN_RECORD_LEVEL_NEAR 2
uint8_t dn_record_level(const uint8_t *record, size_t length);

/* What became of each event. Numbers are part of the protocol. */
enum dn_outcome {
    DN_OUTCOME_ACCEPTED = 0,
    DN_OUTCOME_DUPLICATE = 1,   /* this event id (or offset) was counted before */
    DN_OUTCOME_LATE = 2,        /* older than the watermark allows: not applied */
    DN_OUTCOME_WINDOW_FULL = 3, /* too many event ids of this user within the allowed lateness: try later */
    DN_OUTCOME_NO_ROOM = 4,     /* users_max or items_max reached and nothing may be evicted */
    DN_OUTCOME_ERASED = 5,      /* the user was erased after this event's time */
    DN_OUTCOME_AHEAD = 6,       /* too far ahead of the group's time */
    DN_OUTCOME_INVALID = 7,     /* not understood */
};

enum dn_result_status {
    DN_RESULT_OK = 0,
    DN_RESULT_GAP = 1, /* stream: does not continue the state; refused whole; seek to next_offset, which is
                        DN_OFFSET_UNSET for a partition never seen. source: it would go back, or ends
                        elsewhere */
    DN_RESULT_INVALID = 2, /* the record is not understood or not allowed; refused whole */
    DN_RESULT_FULL = 3,    /* no room for the tombstone, the new source or dead letters; try later */
};

/* Answer of apply: u8 status, then for EVENTS and STREAM: i64 next_offset (0 for EVENTS), u32 count, count
 * outcome bytes. For ERASE: u8 existed. For SOURCE: i64 next_offset as it was. A record that is not
 * understood is answered by the status alone. */
struct dn_result {
    enum dn_result_status status;
    int64_t next_offset;
    uint32_t count;
    const uint8_t *outcomes; /* in place */
    bool existed;
};
enum dn_code dn_result_parse(const uint8_t *bytes, size_t length, uint8_t kind, struct dn_result *ret,
                             struct dn_error *err);

#endif
