/* Snapshots of a session shard. Where only the state hash at the end does not fit, it is put right and the
 * restored shard goes on living: it may be nonsense, but nothing crashes. */
#include "base/error.h"
#include "session/record.h"
#include "tests/fuzz/fuzz.h"
#include "tests/whole_stream.h"

#include <stdio.h>
#include <string.h>

#define NOW_MS 1700000000000
#define DAY_MS 86400000ll
#define HASH_BYTES 8u

const unsigned dn_fuzz_runs = 4000;

struct world {
    struct dn_epoch *epoch;
    struct dn_shard *shard;
    struct dn_buffer record, answer;
    uint64_t index;
};

static void world_open(struct world *world)
{
    *world = (struct world){.epoch = dn_epoch_create()};
    world->shard = world->epoch != NULL ? dn_shard_create(world->epoch) : NULL;
    DN_ASSERT(world->shard != NULL);
    dn_buffer_init(&world->record, 1u << 20);
    dn_buffer_init(&world->answer, 1u << 20);
}

static void world_close(struct world *world)
{
    dn_shard_destroy(world->shard);
    dn_epoch_destroy(world->epoch);
    dn_buffer_free(&world->record);
    dn_buffer_free(&world->answer);
}

static void world_apply(struct world *world, int64_t now_ms)
{
    DN_ASSERT(!world->record.failed);
    dn_buffer_clear(&world->answer);
    world->index++;
    dn_shard_apply(world->shard, world->index, 0, now_ms, world->record.bytes, world->record.length,
                   &world->answer);
    dn_shard_entry_done(world->shard, world->index, now_ms);
    dn_buffer_clear(&world->record);
}

static void click(struct world *world, unsigned round)
{
    struct dn_event_in events[3];
    static const char *const items[] = {"a", "bb", "ccc", "dddd", "e5"};
    for (unsigned i = 0; i < 3; i++) {
        const char *item = items[(round + i) % 5];
        events[i] = (struct dn_event_in){
            .user = {.high = (round * 2 + i) % 9, .low = 3},
            .event_id = round * 3 + i + 1,
            .time_ms = NOW_MS + (int64_t)round * 1000 - (int64_t)i,
            .weight = DN_WEIGHT_ONE,
            .type = (uint8_t)(1 + (round + i) % DN_EVENT_TYPE_MAX),
            .offset = (int64_t)(round * 3 + i),
            .item = item,
            .item_length = (uint16_t)strlen(item),
        };
    }
    if (round % 3 == 2) {
        const struct dn_dead_in dead = {(int64_t)round * 3 - 1, DN_DEAD_UNDECODABLE};
        dn_record_stream(&world->record, "s", 1, round < 3 ? DN_OFFSET_UNSET : (int64_t)round * 3 - 6,
                         (int64_t)round * 3 + 3, events, 3, &dead, 1);
    } else {
        dn_record_events(&world->record, events, 3);
    }
    world_apply(world, NOW_MS + (int64_t)round * 1000);
    if (round % 5 == 4) {
        dn_record_erase(&world->record, events[0].user, NOW_MS, round);
        world_apply(world, NOW_MS + (int64_t)round * 1000);
        dn_record_stall(&world->record, NOW_MS, "the broker is down");
        world_apply(world, NOW_MS + (int64_t)round * 1000);
        dn_record_source(&world->record, "t", round, (int64_t)round, round % 2 == 0);
        world_apply(world, NOW_MS + (int64_t)round * 1000);
        dn_record_dead_written(&world->record, round / 5);
        world_apply(world, NOW_MS + (int64_t)round * 1000);
    }
}

static void live_on(struct world *world)
{
    struct dn_shard_settings settings;
    DN_ASSERT(dn_shard_hash(world->shard) == dn_shard_hash_recompute(world->shard));
    for (unsigned round = 0; round < 4; round++) {
        click(world, round);
    }
    dn_shard_settings(world->shard, &settings);
    settings.trend_half_life_ms = 365 * DAY_MS;
    dn_record_settings(&world->record, &settings);
    world_apply(world, NOW_MS + 5000);
    dn_shard_entry_done(world->shard, ++world->index, NOW_MS + 40 * DAY_MS);
    click(world, 4);
    DN_ASSERT(dn_shard_hash(world->shard) == dn_shard_hash_recompute(world->shard));
}

static bool restore(struct world *world, const uint8_t *bytes, size_t length, struct dn_error *err)
{
    void *built = NULL;
    if (whole_build(dn_shard_restore_build, world->shard, bytes, length, &built, err) != DN_OK) {
        DN_ASSERT(built == NULL);
        return false;
    }
    dn_shard_restore_install(world->shard, built);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct world world;
    struct dn_error err = {0};
    unsigned long long hash;
    world_open(&world);
    bool built = restore(&world, bytes, length, &err);
    const char *at = built ? NULL : strstr(err.message, "state hash ");
    if (at != NULL && length >= HASH_BYTES && sscanf(at, "state hash %llx", &hash) == 1) {
        struct dn_buffer forged;
        dn_buffer_init(&forged, length);
        dn_buffer_append(&forged, bytes, length - HASH_BYTES);
        dn_buffer_u64(&forged, hash);
        DN_ASSERT(!forged.failed);
        built = restore(&world, forged.bytes, forged.length, &err);
        DN_ASSERT(built);
        dn_buffer_free(&forged);
    }
    if (built) {
        live_on(&world);
    }
    world_close(&world);
    return 0;
}

/* Small tables: the rows of these few items are full at once. cells 0: off. */
static void tables(struct world *world, uint32_t cells, int64_t now_ms)
{
    struct dn_shard_settings settings;
    dn_shard_settings_default(&settings);
    settings.near_cells = cells;
    settings.near_visitors = 2;
    settings.near_half_life_ms = DAY_MS / 24;
    dn_record_settings(&world->record, &settings);
    world_apply(world, now_ms);
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static const unsigned rounds[] = {0, 1,  6, 25,
                                      2, 12, 9}; /* from the 5th on with tables, the last: off again */
    struct world world;
    struct dn_buffer bytes;
    struct dn_error err = {0};
    if (n >= sizeof rounds / sizeof *rounds) {
        return 0;
    }
    world_open(&world);
    if (n >= 4) {
        tables(&world, 3, NOW_MS - (n == 6 ? 0 : DAY_MS)); /* halved, or not yet */
    }
    for (unsigned round = 0; round < rounds[n]; round++) {
        click(&world, round);
    }
    if (n == 6) {
        tables(&world, 0, NOW_MS + (int64_t)rounds[n] * 1000);
    }
    dn_buffer_init(&bytes, max);
    void *capture = dn_shard_snapshot_begin(world.shard);
    DN_ASSERT(whole_write(dn_shard_snapshot_write, world.shard, capture, &bytes, &err) == DN_OK);
    dn_shard_snapshot_end(world.shard, capture);
    size_t length = bytes.length;
    memcpy(out, bytes.bytes, length);
    dn_buffer_free(&bytes);
    world_close(&world);
    return length;
}
