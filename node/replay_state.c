#include "node/replay.h"

#include <string.h>

#define ARENA_BLOCK ((size_t)64 << 10)
#define ARENA_MAX ((size_t)16 << 20) /* far above the largest session */

enum dn_code dn_replay_state_open(struct dn_replay_state *state, uint32_t shard_count, struct dn_error *err)
{
    DN_ASSERT(shard_count <= DN_SHARDS_MAX);
    memset(state, 0, sizeof(*state));
    state->epoch = dn_epoch_create();
    state->arena = dn_arena_create(ARENA_BLOCK, ARENA_MAX);
    state->reader = state->epoch != NULL ? dn_epoch_register(state->epoch) : NULL;
    bool whole = state->reader != NULL && state->arena != NULL;
    for (uint32_t i = 0; whole && i < shard_count; i++) {
        /* since_ms: nothing is observed as fresh. */
        state->seats[i] =
            (struct dn_shard_seat){.shard = dn_shard_create(state->epoch), .since_ms = INT64_MAX};
        whole = state->seats[i].shard != NULL;
        state->shard_count += whole;
    }
    return whole ? DN_OK : dn_fail(err, DN_NO_MEMORY, "%u shards", shard_count);
}

void dn_replay_state_close(struct dn_replay_state *state)
{
    for (uint32_t i = 0; i < state->shard_count; i++)
        dn_shard_destroy(state->seats[i].shard);
    if (state->reader != NULL)
        dn_epoch_unregister(state->reader);
    if (state->epoch != NULL)
        dn_epoch_destroy(state->epoch);
    dn_arena_destroy(state->arena);
    memset(state, 0, sizeof(*state));
}

enum dn_code dn_replay_read(struct dn_replay_state *state, uint32_t group, struct dn_hash128 user,
                            struct dn_session_view *ret)
{
    DN_ASSERT(group >= 1 && group <= state->shard_count);
    dn_arena_reset(state->arena);
    /* Nothing is applied meanwhile, and only apply frees: the view outlives the epoch's section. */
    dn_epoch_enter(state->reader);
    enum dn_code code = dn_shard_read(state->seats[group - 1].shard, user, state->arena, ret);
    dn_epoch_leave(state->reader);
    return code;
}
