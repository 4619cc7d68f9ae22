/* The catalogue as a state machine: records in, outcomes out; and what readers ask of it.
 *
 * apply: scan the whole record first (a record that is not understood changes nothing) -> each item by itself
 * (item.c checks it, state.c puts it in place) -> outcomes. No clock, no floats, no settings but items_max.
 */
#include "base/hash.h"
#include "base/log.h"
#include "index/catalog_internal.h"

#include <stdlib.h>
#include <string.h>

#define STATUS_OK 0u
#define STATUS_INVALID 2u

struct dn_catalog *dn_catalog_create(struct dn_epoch *epoch, uint32_t items_max)
{
    struct dn_catalog *catalog = calloc(1, sizeof *catalog);
    if (catalog == NULL) {
        return NULL;
    }
    struct dn_state *state = dn_state_create(epoch, items_max, true);
    if (state == NULL) {
        free(catalog);
        return NULL;
    }
    catalog->epoch = epoch;
    catalog->items_max = items_max;
    state->home = catalog;
    state->generation = ++catalog->generations;
    atomic_store(&catalog->state, state);
    return catalog;
}

void dn_catalog_destroy(struct dn_catalog *catalog)
{
    if (catalog == NULL) {
        return;
    }
    (void)dn_epoch_reclaim(catalog->epoch, SIZE_MAX);
    for (struct dn_state *s = catalog->retiring; s != NULL; s = s->next_dying) {
        s->home = NULL; /* the epoch frees it */
    }
    while (catalog->dying != NULL) {
        struct dn_state *next = catalog->dying->next_dying;
        dn_state_destroy(catalog->dying);
        catalog->dying = next;
    }
    dn_state_destroy(atomic_load(&catalog->state));
    free(catalog);
}

/* ---- apply
 * --------------------------------------------------------------------------------------------------- */

static struct dn_state *writer_state(void *catalog)
{
    return atomic_load_explicit(&((struct dn_catalog *)catalog)->state, memory_order_relaxed);
}

static void changed(struct dn_state *state, uint64_t index)
{
    atomic_store_explicit(&state->version, index, memory_order_release);
}

static bool reader_at_end(const struct dn_reader *reader)
{
    return !reader->failed && dn_reader_left(reader) == 0;
}

static bool upsert_understood(struct dn_reader reader, uint32_t count)
{
    struct dn_item_bytes bytes;
    for (uint32_t i = 0; i < count; i++) {
        if (!dn_item_scan(&reader, &bytes)) {
            return false;
        }
    }
    return reader_at_end(&reader);
}

static bool delete_understood(struct dn_reader reader, uint32_t count)
{
    for (uint32_t i = 0; i < count && !reader.failed; i++) {
        size_t length;
        (void)dn_reader_blob(&reader, DN_ID_MAX, &length);
    }
    return reader_at_end(&reader);
}

static void apply_items(struct dn_state *state, uint64_t index, uint8_t kind, struct dn_reader *reader,
                        struct dn_buffer *result)
{
    uint32_t count = dn_reader_u32(reader);
    bool understood =
        !reader->failed && count <= DN_ITEMS_PER_RECORD_MAX &&
        (kind == DN_CATALOG_UPSERT ? upsert_understood(*reader, count) : delete_understood(*reader, count));
    if (!understood) {
        dn_buffer_u8(result, STATUS_INVALID);
        return;
    }
    dn_buffer_u8(result, STATUS_OK);
    dn_buffer_u32(result, count);
    for (uint32_t i = 0; i < count; i++) {
        enum dn_item_outcome outcome;
        if (kind == DN_CATALOG_UPSERT) {
            struct dn_item_bytes bytes;
            bool scanned = dn_item_scan(reader, &bytes);
            DN_ASSERT(scanned);
            struct dn_block *block = dn_block_make(&bytes, index);
            outcome = block == NULL ? DN_ITEM_INVALID : dn_state_upsert(state, block);
        } else {
            size_t length;
            const uint8_t *id = dn_reader_blob(reader, DN_ID_MAX, &length);
            outcome =
                length == 0 ? DN_ITEM_INVALID : dn_state_delete(state, (const char *)id, (uint16_t)length);
        }
        if (outcome == DN_ITEM_OK) {
            changed(state, index);
        }
        dn_buffer_u8(result, (uint8_t)outcome);
    }
}

static void apply_fact(struct dn_state *state, uint64_t index, struct dn_reader *reader,
                       struct dn_buffer *result)
{
    size_t key_length, value_length;
    const uint8_t *key = dn_reader_blob(reader, DN_FACT_KEY_MAX, &key_length);
    const uint8_t *value = dn_reader_blob(reader, DN_FACT_VALUE_MAX, &value_length);
    if (!reader_at_end(reader) || key_length == 0 || !dn_utf8_valid(key, key_length)) {
        dn_buffer_u8(result, STATUS_INVALID);
        return;
    }
    uint32_t before = atomic_load_explicit(&state->fact_count, memory_order_relaxed);
    const struct dn_fact *fact =
        dn_state_fact(state, (const char *)key, key_length, (const char *)value, value_length);
    if (fact == NULL) {
        dn_buffer_u8(result, STATUS_INVALID);
        return;
    }
    if (atomic_load_explicit(&state->fact_count, memory_order_relaxed) != before) {
        changed(state, index);
    }
    dn_buffer_u8(result, STATUS_OK);
    dn_buffer_blob(result, fact->value, fact->value_length);
}

void dn_catalog_apply(void *catalog, uint64_t index, uint32_t ordinal, int64_t time_ms, const uint8_t *record,
                      size_t length, struct dn_buffer *result)
{
    (void)ordinal;
    struct dn_state *state = writer_state(catalog);
    struct dn_reader reader;
    dn_reader_init(&reader, record, length);
    uint8_t kind = dn_reader_u8(&reader);
    uint8_t version = dn_reader_u8(&reader);
    bool known = !reader.failed && version == DN_RECORD_VERSION;
    if (known && (kind == DN_CATALOG_UPSERT || kind == DN_CATALOG_DELETE)) {
        apply_items(state, index, kind, &reader, result);
    } else if (known && kind == DN_CATALOG_FACT) {
        apply_fact(state, index, &reader, result);
    } else if (!known || kind != DN_CATALOG_MODEL ||
               !dn_state_model_apply(state, index, time_ms, &reader, result)) {
        dn_buffer_u8(result, STATUS_INVALID);
    }
}

void dn_catalog_entry_done(void *catalog_, uint64_t index, int64_t time_ms)
{
    (void)index;
    (void)time_ms;
    struct dn_catalog *catalog = catalog_;
    dn_state_retire_waiting(writer_state(catalog), DN_DISPOSE_PER_ENTRY);
    struct dn_state *dying = catalog->dying;
    if (dying != NULL && !dying->capture_open) {
        struct dn_state *next = dying->next_dying;
        if (dn_state_dispose(dying, DN_DISPOSE_PER_ENTRY)) {
            catalog->dying = next;
        }
    }
}

enum dn_code dn_catalog_result_parse(const uint8_t *bytes, size_t length, uint32_t *ret_count,
                                     const uint8_t **ret_outcomes, struct dn_error *err)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    uint8_t status = dn_reader_u8(&reader);
    if (!reader.failed && status == STATUS_INVALID) {
        return dn_fail(err, DN_INVALID,
                       "the catalogue did not understand the record: format or limits differ");
    }
    uint32_t count = dn_reader_u32(&reader);
    if (reader.failed || status != STATUS_OK || count > DN_ITEMS_PER_RECORD_MAX) {
        return dn_fail(err, DN_CORRUPT, "catalogue answer of %zu bytes is malformed", length);
    }
    const uint8_t *outcomes = dn_reader_bytes(&reader, count);
    if (!reader_at_end(&reader)) {
        return dn_fail(err, DN_CORRUPT, "catalogue answer of %zu bytes does not hold %u outcomes", length,
                       count);
    }
    *ret_count = count;
    *ret_outcomes = outcomes;
    return DN_OK;
}

/* ---- hash
 * ------------------------------------------------------------------------------------------------------ */

uint64_t dn_catalog_hash(void *catalog)
{
    return atomic_load_explicit(&writer_state(catalog)->hash, memory_order_relaxed);
}

uint64_t dn_catalog_hash_recompute(void *catalog)
{
    const struct dn_state *state = writer_state(catalog);
    uint64_t hash = dn_dim_hash(atomic_load(&state->dim)) + dn_state_model_hash(atomic_load(&state->model));
    for (uint32_t i = 0; i < atomic_load(&state->fact_count); i++) {
        hash += dn_fact_hash(atomic_load(&state->facts[i]));
    }
    uint32_t bound = atomic_load(&state->slot_bound);
    for (uint32_t slot = 0; slot < bound; slot++) {
        const struct dn_block *block = dn_state_block(state, slot);
        if (block == NULL) {
            continue;
        }
        /* From the bytes, not from the hash that the block keeps. */
        struct dn_item_bytes bytes = {.meta = block->meta,
                                      .meta_length = block->meta_length,
                                      .vector = (const uint8_t *)block->vector,
                                      .dim = block->dim};
        struct dn_block *again = dn_block_make(&bytes, block->version);
        DN_ASSERT(again != NULL);
        hash += again->content_hash;
        free(again);
    }
    return hash;
}

/* ---- reading
 * ------------------------------------------------------------------------------------------------------ */

const struct dn_catalog *dn_catalog_pin(const struct dn_catalog *catalog)
{
    return &dn_catalog_state(catalog)->pinned;
}

enum dn_code dn_catalog_get_hashed(const struct dn_catalog *catalog, uint64_t id_hash, const char *id,
                                   size_t id_length, struct dn_item *ret)
{
    if (id_length == 0 || id_length > DN_ID_MAX) {
        return DN_NOT_FOUND;
    }
    const struct dn_block *block = dn_state_find(dn_catalog_state(catalog), id_hash, id, id_length);
    if (block == NULL) {
        return DN_NOT_FOUND;
    }
    dn_block_view(block, ret);
    return DN_OK;
}

void dn_catalog_prefetch(const struct dn_catalog *catalog, uint64_t id_hash, bool behind)
{
    dn_state_prefetch(dn_catalog_state(catalog), id_hash, behind);
}

enum dn_code dn_catalog_get(const struct dn_catalog *catalog, const char *id, size_t id_length,
                            struct dn_item *ret)
{
    return dn_catalog_get_hashed(catalog, dn_hash64(id, id_length, 0), id, id_length, ret);
}

void dn_catalog_prefetch_slot(const struct dn_catalog *catalog, uint32_t slot)
{
    const char *block = (const char *)dn_state_block(dn_catalog_state(catalog), slot);
    if (block != NULL) {
        __builtin_prefetch(block);
        __builtin_prefetch(block + 64);
    }
}

enum dn_code dn_catalog_get_slot(const struct dn_catalog *catalog, uint32_t slot, struct dn_item *ret)
{
    const struct dn_block *block = dn_state_block(dn_catalog_state(catalog), slot);
    if (block == NULL) {
        return DN_NOT_FOUND;
    }
    dn_block_view(block, ret);
    return DN_OK;
}

uint32_t dn_catalog_slot_bound(const struct dn_catalog *catalog)
{
    return atomic_load_explicit(&dn_catalog_state(catalog)->slot_bound, memory_order_acquire);
}

uint64_t dn_catalog_item_count(const struct dn_catalog *catalog)
{
    return atomic_load_explicit(&dn_catalog_state(catalog)->item_count, memory_order_acquire);
}

uint32_t dn_catalog_dim(const struct dn_catalog *catalog)
{
    return atomic_load_explicit(&dn_catalog_state(catalog)->dim, memory_order_acquire);
}

uint64_t dn_catalog_version(const struct dn_catalog *catalog)
{
    return atomic_load_explicit(&dn_catalog_state(catalog)->version, memory_order_acquire);
}

uint64_t dn_catalog_memory(const struct dn_catalog *catalog)
{
    return atomic_load_explicit(&dn_catalog_state(catalog)->memory_bytes, memory_order_relaxed);
}

enum dn_code dn_catalog_fact(const struct dn_catalog *catalog, const char *key, char *ret_value, size_t size)
{
    const struct dn_state *state = dn_catalog_state(catalog);
    size_t key_length = strlen(key);
    uint32_t count = atomic_load_explicit(&state->fact_count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        const struct dn_fact *fact = atomic_load_explicit(&state->facts[i], memory_order_acquire);
        if (fact->key_length != key_length || memcmp(fact->key, key, key_length) != 0) {
            continue;
        }
        if (fact->value_length >= size) {
            return DN_RANGE;
        }
        memcpy(ret_value, fact->value, fact->value_length);
        ret_value[fact->value_length] = '\0';
        return DN_OK;
    }
    return DN_NOT_FOUND;
}
