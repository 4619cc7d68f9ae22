/* The catalogue: the first byte says whether a history of records follows (0: for each u16 length, bytes) or
 * a snapshot (else). After each record the running hash is the one reckoned from the whole state. */
#include "base/error.h"
#include "index/index.h"
#include "tests/fuzz/fuzz.h"
#include "tests/whole_stream.h"

#include <math.h>
#include <string.h>

#define RECORDS_MAX 40u
#define ITEMS_MAX 8u

const unsigned dn_fuzz_runs = 60000;

struct world {
    struct dn_epoch *epoch;
    struct dn_catalog *catalog;
    struct dn_buffer record, answer;
    uint64_t index;
};

static void world_open(struct world *world)
{
    *world = (struct world){.epoch = dn_epoch_create()};
    world->catalog = world->epoch != NULL ? dn_catalog_create(world->epoch, ITEMS_MAX) : NULL;
    DN_ASSERT(world->catalog != NULL);
    dn_buffer_init(&world->record, 1u << 20);
    dn_buffer_init(&world->answer, 1u << 20);
}

static void world_close(struct world *world)
{
    dn_catalog_destroy(world->catalog);
    dn_epoch_destroy(world->epoch);
    dn_buffer_free(&world->record);
    dn_buffer_free(&world->answer);
}

static void world_apply(struct world *world, const uint8_t *record, size_t length)
{
    uint32_t count;
    const uint8_t *outcomes;
    struct dn_error err;
    world->index++;
    dn_buffer_clear(&world->answer);
    dn_catalog_apply(world->catalog, world->index, 0, 0, record, length, &world->answer);
    DN_ASSERT(!world->answer.failed && world->answer.length >= 1);
    (void)dn_catalog_result_parse(world->answer.bytes, world->answer.length, &count, &outcomes, &err);
    dn_catalog_entry_done(world->catalog, world->index, 0);
    (void)dn_epoch_reclaim(world->epoch, 1000);
    DN_ASSERT(dn_catalog_hash(world->catalog) == dn_catalog_hash_recompute(world->catalog));
    DN_ASSERT(dn_catalog_item_count(world->catalog) <= ITEMS_MAX);
}

static void history(struct world *world, const uint8_t *bytes, size_t length)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    for (unsigned i = 0; i < RECORDS_MAX; i++) {
        size_t record_length = dn_reader_u16(&reader);
        if (reader.failed) {
            return;
        }
        size_t left = dn_reader_left(&reader);
        record_length = record_length < left ? record_length : left;
        world_apply(world, dn_reader_bytes(&reader, record_length), record_length);
    }
}

static void put_items(struct dn_buffer *record, unsigned round)
{
    static const float vectors[3][4] = {{1, 0, 0, 0}, {.5f, .5f, 0, .1f}, {0, 0, -1, 2}};
    static const char *const ids[] = {"a", "bb", "ccc", "dddd", "e5", "f6", "g7", "h8", "i9"};
    static const struct dn_attribute attributes[2] = {{"colour", "red", 6, 3}, {"brand", "x", 5, 1}};
    struct dn_item items[3];
    for (unsigned i = 0; i < 3; i++) {
        const char *id = ids[(round + 2 * i) % 9];
        items[i] = (struct dn_item){
            .id = id,
            .id_length = (uint16_t)strlen(id),
            .vector = (round + i) % 4 == 3 ? NULL : vectors[i],
            .dim = (round + i) % 4 == 3 ? 0 : 4,
            .category = round % 2 == 0 ? "shoes" : "",
            .category_length = round % 2 == 0 ? 5 : 0,
            .price = i == 1 ? (double)NAN : 9.5 + round,
            .available = i != 2,
            .attributes = attributes,
            .attribute_count = round % 3,
        };
    }
    dn_catalog_record_upsert(record, items, 3);
}

/* The first weights, and what may be done to them. */
static void put_model(struct dn_buffer *record, unsigned round)
{
    static const enum dn_model_op ops[] = {DN_MODEL_FREEZE, DN_MODEL_RESET, DN_MODEL_UNFREEZE,
                                           DN_MODEL_FIXED};
    static const uint8_t weights[] = {1, 2, 3, 4, 5, 6, 7};
    struct dn_model_change change = {
        .op = DN_MODEL_LEARNED, .node_id = 2, .steps = 1000, .bytes = weights, .length = sizeof weights};
    if (round % 6 == 5) {
        change.op = ops[round / 6 % 4];
    }
    dn_catalog_record_model(record, &change);
}

static void put_round(struct dn_buffer *record, unsigned round)
{
    static const char *const ids[2] = {"bb", "never"};
    static const uint16_t lengths[2] = {2, 5};
    dn_buffer_clear(record);
    if (round % 6 == 1) {
        dn_catalog_record_delete(record, ids, lengths, 2);
    } else if (round % 6 == 2) {
        dn_catalog_record_fact(record, DN_MODEL_FACT, "1");
    } else if (round % 6 == 3 || round % 6 == 5) {
        put_model(record, round);
    } else if (round % 6 == 4) {
        dn_catalog_record_fact(record, "shards", "4");
    } else {
        put_items(record, round);
    }
    DN_ASSERT(!record->failed);
}

static void snapshot(struct world *world, const uint8_t *bytes, size_t length)
{
    struct dn_error err = {0};
    void *built = NULL;
    if (whole_build(dn_catalog_restore_build, world->catalog, bytes, length, &built, &err) != DN_OK) {
        return;
    }
    dn_catalog_restore_install(world->catalog, built);
    for (unsigned round = 0; round < 7; round++) {
        put_round(&world->record, round);
        world->index++;
        dn_buffer_clear(&world->answer);
        dn_catalog_apply(world->catalog, world->index, 0, 0, world->record.bytes, world->record.length,
                         &world->answer);
        dn_catalog_entry_done(world->catalog, world->index, 0);
    }
    DN_ASSERT(dn_catalog_hash(world->catalog) == dn_catalog_hash_recompute(world->catalog));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct world world;
    if (length == 0) {
        return 0;
    }
    world_open(&world);
    if (bytes[0] == 0) {
        history(&world, bytes + 1, length - 1);
    } else {
        snapshot(&world, bytes + 1, length - 1);
    }
    world_close(&world);
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    struct world world;
    struct dn_buffer bytes;
    struct dn_error err = {0};
    if (n > 11) {
        return 0;
    }
    world_open(&world);
    dn_buffer_init(&bytes, max);
    dn_buffer_u8(&bytes, (uint8_t)(n % 2));
    for (unsigned round = 0; round < 1 + 2 * (n / 2); round++) {
        put_round(&world.record, round);
        if (n % 2 == 0) {
            dn_buffer_u16(&bytes, (uint16_t)world.record.length);
            dn_buffer_append(&bytes, world.record.bytes, world.record.length);
        } else {
            world_apply(&world, world.record.bytes, world.record.length);
        }
    }
    if (n % 2 == 1) {
        struct dn_buffer state;
        dn_buffer_init(&state, max - 1);
        void *capture = dn_catalog_snapshot_begin(world.catalog);
        DN_ASSERT(whole_write(dn_catalog_snapshot_write, world.catalog, capture, &state, &err) == DN_OK);
        dn_catalog_snapshot_end(world.catalog, capture);
        dn_buffer_append(&bytes, state.bytes, state.length);
        dn_buffer_free(&state);
    }
    DN_ASSERT(!bytes.failed);
    size_t length = bytes.length;
    memcpy(out, bytes.bytes, length);
    dn_buffer_free(&bytes);
    world_close(&world);
    return length;
}
