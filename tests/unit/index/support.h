/* Shared by the index room's tests: a seeded generator, items by number, records applied to a catalogue. */
#ifndef DN_TESTS_INDEX_SUPPORT_H
#define DN_TESTS_INDEX_SUPPORT_H

#include "base/arena.h"
#include "base/buffer.h"
#include "base/epoch.h"
#include "base/text.h"
#include "index/index.h"
#include "tests/whole_stream.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016. */
struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng)
{
    rng->state ^= rng->state >> 12;
    rng->state ^= rng->state << 25;
    rng->state ^= rng->state >> 27;
    return rng->state * 2685821657736338717u;
}

static inline uint32_t rng_below(struct rng *rng, uint32_t bound)
{
    return (uint32_t)((rng_next(rng) >> 32) * bound >> 32);
}

static inline float rng_unit(struct rng *rng)
{
    return (float)rng_below(rng, 2000001) / 1000000.0f - 1.0f;
}

/* Vectors in clusters, as real ones are; deterministic in (id, variant). */
static inline void make_vector(uint32_t id, uint32_t variant, uint32_t dim, float *ret)
{
    struct rng centre = {.state = 77 + id % 40};
    struct rng own = {.state = 1 + ((uint64_t)id << 20) + variant};
    for (int i = 0; i < 4; i++) {
        (void)rng_next(&centre);
        (void)rng_next(&own);
    }
    for (uint32_t i = 0; i < dim; i++) {
        ret[i] = rng_unit(&centre) + 0.7f * rng_unit(&own);
    }
}

struct world {
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_catalog *catalog;
    struct dn_arena *arena;
    struct dn_buffer record, result;
    uint64_t index;
};

static inline void world_open(struct world *w, uint32_t items_max)
{
    *w = (struct world){.epoch = dn_epoch_create()};
    assert_non_null(w->epoch);
    w->reader = dn_epoch_register(w->epoch);
    w->catalog = dn_catalog_create(w->epoch, items_max);
    w->arena = dn_arena_create(1 << 20, 256u << 20);
    assert_non_null(w->reader);
    assert_non_null(w->catalog);
    assert_non_null(w->arena);
    dn_buffer_init(&w->record, 64u << 20);
    dn_buffer_init(&w->result, 1u << 20);
}

static inline void world_close(struct world *w)
{
    dn_epoch_unregister(w->reader);
    dn_catalog_destroy(w->catalog);
    dn_epoch_destroy(w->epoch);
    dn_arena_destroy(w->arena);
    dn_buffer_free(&w->record);
    dn_buffer_free(&w->result);
}

/* Applies what is in w->record as the next entry; the outcomes stay in w->result. */
static inline void world_apply(struct world *w)
{
    assert_false(w->record.failed);
    w->index++;
    dn_buffer_clear(&w->result);
    dn_catalog_apply(w->catalog, w->index, 0, 0, w->record.bytes, w->record.length, &w->result);
    dn_catalog_entry_done(w->catalog, w->index, 0);
    (void)dn_epoch_reclaim(w->epoch, 100000);
}

static inline enum dn_item_outcome world_outcome(const struct world *w, uint32_t at)
{
    uint32_t count;
    const uint8_t *outcomes;
    struct dn_error err;
    assert_int_equal(dn_catalog_result_parse(w->result.bytes, w->result.length, &count, &outcomes, &err),
                     DN_OK);
    assert_true(at < count);
    return (enum dn_item_outcome)outcomes[at];
}

static inline enum dn_item_outcome world_upsert(struct world *w, const struct dn_item *item)
{
    dn_buffer_clear(&w->record);
    dn_catalog_record_upsert(&w->record, item, 1);
    world_apply(w);
    return world_outcome(w, 0);
}

static inline enum dn_item_outcome world_delete(struct world *w, const char *id)
{
    uint16_t length = (uint16_t)strlen(id);
    dn_buffer_clear(&w->record);
    dn_catalog_record_delete(&w->record, &id, &length, 1);
    world_apply(w);
    return world_outcome(w, 0);
}

static inline struct dn_item plain_item(const char *id, const float *vector, uint32_t dim)
{
    return (struct dn_item){
        .id = id,
        .id_length = (uint16_t)strlen(id),
        .vector = vector,
        .dim = vector != NULL ? dim : 0,
        .category = "",
        .price = NAN,
        .available = true,
    };
}

static inline struct dn_attribute attribute(const char *key, const char *value)
{
    return (struct dn_attribute){
        .key = key,
        .value = value,
        .key_length = (uint16_t)strlen(key),
        .value_length = (uint16_t)strlen(value),
    };
}

static inline void restore_into(struct world *w, const struct dn_buffer *bytes)
{
    void *built;
    struct dn_error err = {0};
    if (whole_build(dn_catalog_restore_build, w->catalog, bytes->bytes, bytes->length, &built, &err) !=
        DN_OK) {
        fail_msg("restore: %s", err.message);
    }
    dn_catalog_restore_install(w->catalog, built);
}

static inline void expect_fact(struct world *w, const char *key, const char *value, const char *in_force)
{
    dn_buffer_clear(&w->record);
    dn_catalog_record_fact(&w->record, key, value);
    world_apply(w);
    struct dn_reader reader;
    dn_reader_init(&reader, w->result.bytes, w->result.length);
    assert_int_equal(dn_reader_u8(&reader), 0);
    size_t length;
    const uint8_t *got = dn_reader_blob(&reader, 1000, &length);
    assert_int_equal(length, strlen(in_force));
    assert_memory_equal(got, in_force, length);
    char text[300];
    assert_int_equal(dn_catalog_fact(w->catalog, key, text, sizeof text), DN_OK);
    assert_string_equal(text, in_force);
}

#endif
