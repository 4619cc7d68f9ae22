/* Private to node: the history of sources as one sequence of events, in the order of time.
 *
 * A *feed* is one partition of one stream, read once by its driver from the beginning to where it ends now.
 * Events of a feed keep the order of their offsets; of all feeds' next events, the one whose clock is least
 * comes first (then source, stream, partition in the order they are known): as if leaders had read every
 * message at the moment it was written. An event's clock is its message's own time; where messages have none
 * (files), the event's time.
 *
 * A *runaway* is an event whose time no clock near it can have shown: further ahead of its message's time
 * than ahead_ms; or, where messages have no time, further ahead than that of all events before it in its feed
 * and of the one after it too. One of those would drag the time along, and everything behind it would be
 * late. They are counted and left out, as a live leader refuses them. One thread. */
#ifndef DN_NODE_REPLAY_MERGE_H
#define DN_NODE_REPLAY_MERGE_H

#include "base/error.h"
#include "base/text.h"
#include "ingest/source.h"
#include "session/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dn_merge;

struct dn_merge_options {
    const struct dn_source_config *sources; /* outlive it */
    size_t source_count;
    int64_t ahead_ms;
    unsigned patience_ms; /* a source that brings nothing for so long, and is not at its end, ends it all */
    const struct dn_source_driver *(*driver)(enum dn_source_kind kind); /* NULL: the real ones */
};

struct dn_merge_event { /* valid until the next call */
    size_t feed;        /* 0.. in the order they became known */
    const char *stream; /* its name in the replicated state */
    uint32_t partition, partition_count;
    const struct dn_source_config *source;
    int64_t offset, next_offset;
    int64_t clock_ms;
    int64_t time_ms;
    uint16_t weight;
    uint8_t type;
    uint16_t user_length, item_length;
    char user[DN_ID_MAX], item[DN_ID_MAX];
};

struct dn_merge_counts {
    uint64_t messages, bytes;
    uint64_t skipped;                      /* no events by the configuration */
    uint64_t dead[DN_DEAD_REASON_MAX + 1]; /* gave no event, by reason */
    uint64_t runaways;
};

/* Opens the sources and waits, at most patience_ms, until their streams are known. DN_INVALID: a source's
 * configuration; DN_UNAVAILABLE: no broker, no such file or topic. */
enum dn_code dn_merge_open(const struct dn_merge_options *options, struct dn_merge **ret,
                           struct dn_error *err);
void dn_merge_close(struct dn_merge *merge); /* NULL allowed */
size_t dn_merge_feeds(const struct dn_merge *merge);
/* DN_NOT_FOUND: there are no more. Anything else: a partition that cannot be read, with its name and why. */
enum dn_code dn_merge_next(struct dn_merge *merge, const struct dn_merge_event **ret, struct dn_error *err);
/* Nothing more of that feed. */
void dn_merge_drop(struct dn_merge *merge, size_t feed);
void dn_merge_counts(const struct dn_merge *merge, struct dn_merge_counts *ret);

#endif
