/* The dn_fsm of consensus, put before the state machines of index and session, which may not know it. */
#include "node/node.h"

#include "base/clock.h"
#include "session/record.h"

static void catalog_apply(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                          struct dn_buffer *result)
{
    dn_catalog_apply(state, at->index, at->ordinal, at->time_ms, record, length, result);
}

static void catalog_entry_done(void *state, const struct dn_apply *at)
{
    dn_catalog_entry_done(state, at->index, at->time_ms);
}

_Static_assert(DN_CATALOG_LEVEL_MODEL == DN_LEVEL_MODEL, "one number for one thing");

struct dn_fsm dn_fsm_catalog(struct dn_catalog *catalog)
{
    return (struct dn_fsm){
        .state = catalog,
        .apply = catalog_apply,
        .level = dn_catalog_record_level,
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

/* ---- shards ---------------------------------------------------------------------------------------------
 */

/* How long the events of a batch took from their own time until they are visible here. Two of them stand for
 * all. What was committed before this process began, or refused, says nothing about that. */
static void observe(const struct dn_shard_seat *seat, int64_t entry_ms, const uint8_t *record, size_t length)
{
    int64_t times[2];

    if (entry_ms < seat->since_ms || !dn_record_stream_times(record, length, &times[0], &times[1]))
        return;
    int64_t now_ms = dn_wall_ms();
    for (size_t i = 0; i < 2; i++)
        dn_histogram_observe_ns(seat->freshness,
                                now_ms > times[i] ? (uint64_t)(now_ms - times[i]) * 1000000u : 0);
}

/* The answer to the record begins at `answer`. */
static void applied(const struct dn_shard_seat *seat, const struct dn_apply *at, const uint8_t *record,
                    size_t length, const struct dn_buffer *result, size_t answer)
{
    if (result->length > answer && result->bytes[answer] == DN_RESULT_OK)
        observe(seat, at->time_ms, record, length);
}

static void shard_apply(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                        struct dn_buffer *result)
{
    const struct dn_shard_seat *seat = state;
    size_t answer = result->length;

    dn_shard_apply(seat->shard, at->index, at->ordinal, at->time_ms, record, length, result);
    applied(seat, at, record, length, result, answer);
}

static bool shard_apply_part(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                             struct dn_buffer *result)
{
    const struct dn_shard_seat *seat = state;
    bool done = dn_shard_apply_part(seat->shard, at->index, at->ordinal, at->time_ms, record, length, result);

    if (done)
        applied(seat, at, record, length, result, 0);
    return done;
}

_Static_assert(DN_RECORD_LEVEL_NEAR == DN_LEVEL_NEAR, "one number for one thing");

static void shard_entry_done(void *state, const struct dn_apply *at)
{
    const struct dn_shard_seat *seat = state;

    dn_shard_entry_done(seat->shard, at->index, at->time_ms);
}

static uint64_t shard_hash(void *state)
{
    const struct dn_shard_seat *seat = state;

    return dn_shard_hash(seat->shard);
}

static void *shard_snapshot_begin(void *state)
{
    const struct dn_shard_seat *seat = state;

    return dn_shard_snapshot_begin(seat->shard);
}

static enum dn_code shard_snapshot_write(void *state, void *capture, struct dn_sink *out,
                                         struct dn_error *err)
{
    const struct dn_shard_seat *seat = state;

    return dn_shard_snapshot_write(seat->shard, capture, out, err);
}

static void shard_snapshot_end(void *state, void *capture)
{
    const struct dn_shard_seat *seat = state;

    dn_shard_snapshot_end(seat->shard, capture);
}

static enum dn_code shard_restore_build(void *state, struct dn_source *in, void **ret_built,
                                        struct dn_error *err)
{
    const struct dn_shard_seat *seat = state;

    return dn_shard_restore_build(seat->shard, in, ret_built, err);
}

static void shard_restore_install(void *state, void *built)
{
    const struct dn_shard_seat *seat = state;

    dn_shard_restore_install(seat->shard, built);
}

static void shard_restore_discard(void *state, void *built)
{
    const struct dn_shard_seat *seat = state;

    dn_shard_restore_discard(seat->shard, built);
}

struct dn_fsm dn_fsm_shard(struct dn_shard_seat *seat)
{
    return (struct dn_fsm){
        .state = seat,
        .apply = shard_apply,
        .apply_part = shard_apply_part,
        .level = dn_record_level,
        .entry_done = shard_entry_done,
        .hash = shard_hash,
        .snapshot_begin = shard_snapshot_begin,
        .snapshot_write = shard_snapshot_write,
        .snapshot_end = shard_snapshot_end,
        .restore_build = shard_restore_build,
        .restore_install = shard_restore_install,
        .restore_discard = shard_restore_discard,
    };
}
