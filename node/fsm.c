/* The dn_fsm of consensus, put before the state machines of index and session, which may not know it. */
#include "node/node.h"

static void catalog_apply(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                          struct dn_buffer *result)
{
    dn_catalog_apply(state, at->index, at->ordinal, at->time_ms, record, length, result);
}

static void catalog_entry_done(void *state, const struct dn_apply *at)
{
    dn_catalog_entry_done(state, at->index, at->time_ms);
}

struct dn_fsm dn_fsm_catalog(struct dn_catalog *catalog)
{
    return (struct dn_fsm){
        .state = catalog,
        .apply = catalog_apply,
        .entry_done = catalog_entry_done,
        .hash = dn_catalog_hash,
        .snapshot_begin = dn_catalog_snapshot_begin,
        .snapshot_write = dn_catalog_snapshot_write,
        .snapshot_end = dn_catalog_snapshot_end,
        .restore_build = dn_catalog_restore_build,
        .restore_install = dn_catalog_restore_install,
        .restore_discard = dn_catalog_restore_discard,
    };
}

static void shard_apply(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                        struct dn_buffer *result)
{
    dn_shard_apply(state, at->index, at->ordinal, at->time_ms, record, length, result);
}

static void shard_entry_done(void *state, const struct dn_apply *at)
{
    dn_shard_entry_done(state, at->index, at->time_ms);
}

struct dn_fsm dn_fsm_shard(struct dn_shard *shard)
{
    return (struct dn_fsm){
        .state = shard,
        .apply = shard_apply,
        .entry_done = shard_entry_done,
        .hash = dn_shard_hash,
        .snapshot_begin = dn_shard_snapshot_begin,
        .snapshot_write = dn_shard_snapshot_write,
        .snapshot_end = dn_shard_snapshot_end,
        .restore_build = dn_shard_restore_build,
        .restore_install = dn_shard_restore_install,
        .restore_discard = dn_shard_restore_discard,
    };
}
