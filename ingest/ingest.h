/* Ingest: streams of events into the replicated state, each event exactly once.
 *
 * One thread reads every source, decodes, and proposes batches: the events of one (stream, partition) for one
 * shard, with the offset where the batch begins and where reading goes on after it, in one record. The state
 * machine keeps that offset beside the events, so a batch that is proposed twice, or by two nodes, or after
 * the one before it was lost, counts once or is refused; whoever reads goes back to what the state says.
 *
 * Who reads: the leader of a shard reads the partitions that may hold events of its users. In a topic keyed
 * by user whose partition count is a multiple of the shards, partition p holds those of shard 1 + p mod
 * shards, and of nobody else. Of any other stream every shard's leader reads everything and keeps its own
 * users' events. */
#ifndef DN_INGEST_INGEST_H
#define DN_INGEST_INGEST_H

#include "base/error.h"
#include "base/hash.h"
#include "base/metrics.h"
#include "consensus/consensus.h"
#include "ingest/source.h"
#include "session/session.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The replicated state, as ingest sees it: consensus and the shards, or a test's. Any thread. */
struct dn_ingest_target {
    void *data;
    bool (*propose)(void *data, struct dn_proposal *proposal); /* as dn_consensus_propose */
    bool (*leads)(void *data, uint32_t group);
    /* The rest: as applied on this node; group 1..shard_count. */
    bool (*next_offset)(void *data, uint32_t group, const char *stream, uint32_t partition,
                        int64_t *ret_next_offset);
    /* As dn_shard_source_finished; NULL: none is. */
    bool (*finished)(void *data, uint32_t group, const char *stream, uint32_t partition);
    int64_t (*stalled)(void *data, uint32_t group, char ret_reason[DN_STALL_REASON_MAX + 1]);
    size_t (*dead_letters)(void *data, uint32_t group, uint64_t from, struct dn_dead_letter *ret, size_t max);
    /* The cluster's members, this node among them; returns how many (0: not known now), at most
     * DN_MEMBERS_MAX. NULL: nothing is known of other nodes, as on one that is alone. */
    size_t (*members)(void *data, uint64_t ret_node_ids[DN_MEMBERS_MAX]);
    /* How old the group's state here is, in us; false: not known. NULL: it is new. */
    bool (*age_us)(void *data, uint32_t group, uint64_t *ret_age_us);
};

struct dn_ingest_options {
    const struct dn_source_config *sources; /* outlive it */
    size_t source_count;
    uint32_t shard_count;
    uint8_t hash_key[DN_HASH_KEY_BYTES];
    uint64_t node_id;
    const char *data_dir;
    uint64_t stall_ms; /* a stream that stands still for longer is said to (freshness_alarm_ms) */
    struct dn_ingest_target target;
    struct dn_metrics *metrics;                                         /* may be NULL */
    const struct dn_source_driver *(*driver)(enum dn_source_kind kind); /* NULL: the real ones */
};

struct dn_ingest;

/* DN_INVALID: a source's configuration, with its name. */
enum dn_code dn_ingest_start(const struct dn_ingest_options *options, struct dn_ingest **ret,
                             struct dn_error *err);
/* Reads no more, and waits for what is proposed, at most wait_ms; consensus still runs. */
void dn_ingest_stop(struct dn_ingest *ingest, unsigned wait_ms);
/* After consensus was stopped, which has completed every proposal. NULL allowed. */
void dn_ingest_destroy(struct dn_ingest *ingest);

/* Leadership or offsets changed: look now. Any thread. */
void dn_ingest_wake(struct dn_ingest *ingest);
/* Microseconds since its thread last turned. Any thread. */
uint64_t dn_ingest_loop_age_us(const struct dn_ingest *ingest);

/* One row for each (stream, partition, shard) that this node reads, and one (partition UINT32_MAX, group 0)
 * for each source that as a whole has trouble. */
struct dn_ingest_row {
    char source[DN_SOURCE_NAME_MAX + 1];
    char stream[DN_SOURCE_MAX + 1];
    uint32_t partition, group;
    enum dn_partition_state state;
    bool keyed;                       /* read as keyed */
    int64_t next_offset;              /* replicated, as far as this node knows; -1: nothing yet */
    int64_t begin_offset, end_offset; /* of what the stream holds; -1: unknown */
    int64_t lag_records;              /* end - next; bytes for files; -1: unknown */
    /* The state has everything that was in the stream this long ago; -1: unknown. Of a source as a whole: for
     * how long it has trouble. */
    int64_t lag_ms;
    bool stalled;
    char error[DN_SOURCE_TEXT_MAX];
};
/* Is that stream one of this node's sources', and there (or not known to be gone)? Whether or not this node
 * leads a shard that reads it. At most a second old. Any thread. */
bool dn_ingest_has(struct dn_ingest *ingest, const char *stream);
/* Returns how many there are; at most `max` are put into ret. At most a second old. Any thread. */
size_t dn_ingest_rows(struct dn_ingest *ingest, struct dn_ingest_row *ret, size_t max);

#endif
