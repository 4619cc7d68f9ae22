/* Private to node: sessions from the history of sources, as a live cluster's leaders would have made them.
 *
 * Events come in the order of replay_merge.h, go to the shard of their user, and are applied as stream
 * records by the shards' own state machine. The shards' time stands at the clock of what was read so far, as
 * the wall time of leaders who read every message when it was written: so nothing is late because it is old,
 * only because its partition had brought something newer (for the same shard), as live. Nobody expires: who
 * would have is left out of the dump (replay_dump.h).
 *
 * Events after until_ms are not applied, but make late what comes behind them, as live. */
#ifndef DN_NODE_REPLAY_SOURCE_H
#define DN_NODE_REPLAY_SOURCE_H

#include "node/replay.h"
#include "node/replay_merge.h"

struct dn_replay_event { /* on its way to its shard */
    const struct dn_merge_event *in;
    struct dn_hash128 user;
    uint32_t group;
};

/* What of an event is wanted beside the state. `before` is called before it is applied, with everything
 * before it applied, `after` with what became of it. Where one is set, every event is a batch of its own. */
struct dn_replay_watch {
    bool (*before)(void *data, struct dn_replay_state *state, const struct dn_replay_event *event);
    bool (*after)(void *data, enum dn_outcome outcome); /* false, of either: stop, with DN_CANCELLED */
    void *data;
    bool (*user)(void *user_data, const struct dn_replay_event *event); /* every event's; batches stay */
    void *user_data;
};

struct dn_replay_source_options {
    struct dn_merge_options merge;       /* ahead_ms is set from the settings */
    struct dn_shard_settings settings;   /* the cluster's; idle_ms is not used */
    uint8_t hash_key[DN_HASH_KEY_BYTES]; /* of users */
    int64_t until_ms;
    uint32_t batch_events;                                           /* 1..DN_EVENTS_PER_RECORD_MAX; 0: 512 */
    const struct dn_replay_watch *watch;                             /* may be NULL */
    void (*progress)(void *data, const struct dn_merge_counts *now); /* may be NULL */
    void *progress_data;
};

struct dn_replay_source_result {
    struct dn_merge_counts read;
    uint64_t accepted, late, ahead, refused; /* ahead: runaways too; refused: no room, invalid */
    uint64_t misrouted, beyond;              /* beyond: after until_ms */
    uint64_t feeds;                          /* partitions */
    int64_t first_ms, last_ms;               /* of events accepted; -1: none */
};

/* Into an empty state with as many shards as the cluster has. Errors as dn_merge_open and dn_merge_next;
 * DN_INVALID: settings. */
enum dn_code dn_replay_source(const struct dn_replay_source_options *options, struct dn_replay_state *state,
                              struct dn_replay_source_result *ret, struct dn_error *err);

#endif
