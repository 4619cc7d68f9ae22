/* The catalogue's snapshots: a point in time, written by a pool thread while apply goes on, and back.
 *
 * Happy path: snapshot_begin (writer) closes the current capture generation in O(1) -> snapshot_write (pool)
 * walks the directory chunk by chunk, emits the blocks of that generation or older and marks them, then emits
 * the preserved blocks it did not meet in the directory -> snapshot_end (writer) lets the preserved go.
 * A block of the capture is met in the directory, or was preserved before the walker came by, or both: the
 * mark tells. If what was emitted is not what was counted at the beginning, the snapshot is refused, not
 * written.
 *
 * Format, little-endian: magic, format, version, dim, item count, fact count, facts (blob key, blob value),
 * the model (format 2 only, which is written where there is one: catalog_model.c), items (u64 version,
 * encoded item), a hash of state hash and version. No slot: a restored node numbers its own. */
#include "base/hash.h"
#include "index/catalog_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SNAPSHOT_MAGIC 0x43544e44u /* "DNTC" */
#define SNAPSHOT_FORMAT 1u
#define SNAPSHOT_FORMAT_MODEL 2u
#define SPILL_BYTES 65536u /* so much is gathered before it goes to the sink */
#define ITEM_BYTES_MAX (8 + DN_ITEM_META_MAX + DN_VECTOR_DIM_MAX * sizeof(float))
_Static_assert(ITEM_BYTES_MAX <= DN_STREAM_BUFFER_BYTES, "an item must lie together in a stream's buffer");

void *dn_catalog_snapshot_begin(void *catalog_)
{
    struct dn_catalog *catalog = catalog_;
    struct dn_state *state = atomic_load_explicit(&catalog->state, memory_order_relaxed);
    DN_ASSERT(!state->capture_open);
    struct dn_capture *capture = dn_must_alloc(sizeof *capture);
    *capture = (struct dn_capture){
        .state = state,
        .made = state->made,
        .version = atomic_load(&state->version),
        .item_count = atomic_load(&state->item_count),
        .hash = atomic_load(&state->hash),
        .dim = atomic_load(&state->dim),
        .slot_bound = atomic_load(&state->slot_bound),
        .fact_count = atomic_load(&state->fact_count),
        .model = dn_state_model_copy(atomic_load(&state->model)),
    };
    state->made++;
    state->capture_open = true;
    return capture;
}

static void emit(struct dn_buffer *out, struct dn_block *block, const struct dn_capture *capture,
                 uint64_t *emitted)
{
    if (block->made > capture->made || block->emitted == capture->made) {
        return;
    }
    block->emitted = capture->made;
    (*emitted)++;
    dn_buffer_u64(out, block->version);
    dn_buffer_append(out, block->meta, block->meta_length);
    dn_buffer_append(out, block->vector, (size_t)block->dim * sizeof(float));
}

/* Covers the version too, which the state hash leaves out. */
static uint64_t trailer(uint64_t hash, uint64_t version)
{
    uint64_t both[2] = {hash, version};
    return dn_hash64(both, sizeof both, SNAPSHOT_MAGIC);
}

static void write_head(struct dn_buffer *out, const struct dn_capture *capture)
{
    const struct dn_state *state = capture->state;
    dn_buffer_u32(out, SNAPSHOT_MAGIC);
    dn_buffer_u32(out, capture->model != NULL ? SNAPSHOT_FORMAT_MODEL : SNAPSHOT_FORMAT);
    dn_buffer_u64(out, capture->version);
    dn_buffer_u32(out, capture->dim);
    dn_buffer_u64(out, capture->item_count);
    dn_buffer_u32(out, capture->fact_count);
    for (uint32_t i = 0; i < capture->fact_count; i++) {
        /* Facts are never changed nor dropped. */
        const struct dn_fact *fact = atomic_load_explicit(&state->facts[i], memory_order_acquire);
        dn_buffer_blob(out, fact->key, fact->key_length);
        dn_buffer_blob(out, fact->value, fact->value_length);
    }
    if (capture->model != NULL) {
        dn_state_model_write(out, capture->model);
    }
}

enum dn_code dn_catalog_snapshot_write(void *catalog_, void *capture_, struct dn_sink *out,
                                       struct dn_error *err)
{
    struct dn_catalog *catalog = catalog_;
    const struct dn_capture *capture = capture_;
    struct dn_state *state = capture->state;
    struct dn_epoch_reader *reader = dn_epoch_register(catalog->epoch);
    if (reader == NULL) {
        return dn_fail(err, DN_EXHAUSTED, "catalogue snapshot: all %d reader places are taken",
                       DN_EPOCH_READERS_MAX);
    }
    struct dn_buffer scratch;
    dn_buffer_init(&scratch, SPILL_BYTES + DN_STREAM_BUFFER_BYTES);
    write_head(&scratch, capture);
    uint64_t emitted = 0;
    for (uint32_t slot = 0; slot < capture->slot_bound && out->code == DN_OK;) {
        /* The disk behind the sink is waited for outside the epoch only. */
        (void)dn_sink_spill(out, &scratch);
        dn_epoch_enter(reader);
        for (uint32_t end = slot + DN_DIRECTORY_CHUNK;
             slot < end && slot < capture->slot_bound && scratch.length < SPILL_BYTES; slot++) {
            struct dn_block *block = dn_state_block(state, slot);
            if (block != NULL) {
                emit(&scratch, block, capture, &emitted);
            }
        }
        dn_epoch_leave(reader);
    }
    /* Kept by the open capture: no epoch needed. */
    struct dn_block *block = atomic_load_explicit(&state->preserved, memory_order_acquire);
    for (; block != NULL && out->code == DN_OK; block = block->next) {
        emit(&scratch, block, capture, &emitted);
        if (scratch.length >= SPILL_BYTES) {
            (void)dn_sink_spill(out, &scratch);
        }
    }
    dn_buffer_u64(&scratch, trailer(capture->hash, capture->version));
    enum dn_code code = dn_sink_spill(out, &scratch);
    dn_buffer_free(&scratch);
    dn_epoch_unregister(reader);
    if (code != DN_OK) {
        return dn_fail(err, code, "catalogue snapshot of %" PRIu64 " items: after %" PRIu64 " bytes: %s",
                       capture->item_count, out->total, out->error.message);
    }
    if (emitted != capture->item_count) {
        return dn_fail(err, DN_INTERNAL, "catalogue snapshot met %" PRIu64 " items, not %" PRIu64, emitted,
                       capture->item_count);
    }
    return DN_OK;
}

void dn_catalog_snapshot_end(void *catalog, void *capture_)
{
    (void)catalog;
    struct dn_capture *capture = capture_;
    struct dn_state *state = capture->state;
    state->capture_open = false;
    struct dn_block *preserved = atomic_load_explicit(&state->preserved, memory_order_relaxed);
    if (preserved != NULL) {
        state->preserved_oldest->next = state->waiting;
        state->waiting = preserved;
        atomic_store_explicit(&state->preserved, NULL, memory_order_relaxed);
        state->preserved_oldest = NULL;
    }
    free(capture->model);
    free(capture);
}

/* ---- restore
 * ------------------------------------------------------------------------------------------------- */

/* The stream's own trouble (cut short, its file cannot be read), or what is wrong with the bytes. */
static enum dn_code malformed(const struct dn_source *in, struct dn_error *err, const char *what,
                              uint64_t which)
{
    if (in->code != DN_OK) {
        return dn_fail(err, in->code, "%s %" PRIu64 ": %s", what, which, in->error.message);
    }
    return dn_fail(err, DN_CORRUPT, "%s %" PRIu64 " is malformed before byte %" PRIu64, what, which,
                   in->total);
}

static enum dn_code restore_facts(struct dn_state *state, struct dn_source *in, struct dn_error *err)
{
    uint32_t count = dn_source_u32(in);
    if (in->code != DN_OK || count > DN_FACTS_MAX) {
        return malformed(in, err, "number of facts", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        size_t key_length = 0, value_length = 0;
        char key[DN_FACT_KEY_MAX]; /* what the stream points at is gone with its next value */
        const uint8_t *bytes = dn_source_blob(in, sizeof key, &key_length);
        if (bytes != NULL) {
            memcpy(key, bytes, key_length);
        }
        const char *value = (const char *)dn_source_blob(in, DN_FACT_VALUE_MAX, &value_length);
        if (in->code != DN_OK || key_length == 0) {
            return malformed(in, err, "fact", i);
        }
        (void)dn_state_fact(state, key, key_length, value, value_length);
    }
    if (atomic_load(&state->fact_count) != count) {
        return dn_fail(err, DN_CORRUPT, "a fact is given twice");
    }
    return DN_OK;
}

static enum dn_code restore_items(struct dn_state *state, struct dn_source *in, uint64_t count,
                                  uint64_t version, struct dn_error *err)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = in->total;
        const uint8_t *window = NULL;
        size_t length = 0;
        struct dn_reader reader;
        struct dn_item_bytes bytes;
        struct dn_block *block = NULL;
        (void)dn_source_window(in, ITEM_BYTES_MAX, &window, &length);
        dn_reader_init(&reader, window, length);
        uint64_t item_version = dn_reader_u64(&reader);
        if (!reader.failed && item_version <= version && dn_item_scan(&reader, &bytes)) {
            block = dn_block_make(&bytes, item_version);
        }
        if (block == NULL) {
            return malformed(in, err, "item", i);
        }
        (void)dn_source_skip(in, reader.offset);
        enum dn_item_outcome outcome = dn_state_upsert(state, block);
        if (outcome != DN_ITEM_OK || atomic_load(&state->item_count) != i + 1) {
            return dn_fail(err, DN_CORRUPT,
                           "item %" PRIu64 " at byte %" PRIu64 " does not fit (outcome %d, or given twice)",
                           i, at, (int)outcome);
        }
    }
    return DN_OK;
}

static enum dn_code restore_into(struct dn_state *state, struct dn_source *in, struct dn_error *err)
{
    uint32_t magic = dn_source_u32(in);
    uint32_t format = dn_source_u32(in);
    uint64_t version = dn_source_u64(in);
    uint32_t dim = dn_source_u32(in);
    uint64_t count = dn_source_u64(in);
    if (in->code != DN_OK) {
        return dn_fail(err, in->code, "%s", in->error.message);
    }
    if (magic != SNAPSHOT_MAGIC) {
        return dn_fail(err, DN_CORRUPT, "these bytes are not a catalogue snapshot");
    }
    if (format != SNAPSHOT_FORMAT && format != SNAPSHOT_FORMAT_MODEL) {
        return dn_fail(err, DN_CORRUPT, "snapshot format %u; this program reads %u and %u", format,
                       SNAPSHOT_FORMAT, SNAPSHOT_FORMAT_MODEL);
    }
    if (dim > DN_VECTOR_DIM_MAX) {
        return dn_fail(err, DN_CORRUPT, "vectors of %u numbers; the most is %d", dim, DN_VECTOR_DIM_MAX);
    }
    /* The dimension outlives the items that set it. */
    atomic_store(&state->dim, dim);
    atomic_store(&state->hash, dn_dim_hash(dim));
    atomic_store(&state->version, version);
    enum dn_code code = restore_facts(state, in, err);
    if (code == DN_OK && format == SNAPSHOT_FORMAT_MODEL) {
        code = dn_state_model_restore(state, in, err);
    }
    if (code == DN_OK) {
        code = restore_items(state, in, count, version, err);
    }
    if (code != DN_OK) {
        return code;
    }
    uint64_t end = dn_source_u64(in);
    if (dn_source_end(in) != DN_OK) {
        return dn_fail(err, in->code, "%s", in->error.message);
    }
    if (end != trailer(atomic_load(&state->hash), version)) {
        return dn_fail(err, DN_CORRUPT, "the state hash does not match what was read");
    }
    return DN_OK;
}

enum dn_code dn_catalog_restore_build(void *catalog_, struct dn_source *in, void **ret_built,
                                      struct dn_error *err)
{
    struct dn_catalog *catalog = catalog_;
    struct dn_state *state = dn_state_create(catalog->epoch, catalog->items_max, false);
    if (state == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "catalogue snapshot: out of memory");
    }
    enum dn_code code = restore_into(state, in, err);
    if (code != DN_OK) {
        dn_state_destroy(state);
        return dn_wrap(err, code, "catalogue snapshot");
    }
    *ret_built = state;
    return DN_OK;
}

/* No reader holds the state any more: the catalogue frees it piece by piece (or at once if it is gone). */
static void state_let_go(void *context, void *object)
{
    (void)context;
    struct dn_state *state = object;
    if (state->home == NULL) {
        dn_state_destroy(state);
        return;
    }
    struct dn_state **at = &state->home->retiring;
    while (*at != state) {
        at = &(*at)->next_dying;
    }
    *at = state->next_dying;
    for (at = &state->home->dying; *at != NULL; at = &(*at)->next_dying) {
    }
    state->next_dying = NULL;
    *at = state;
}

void dn_catalog_restore_install(void *catalog_, void *built)
{
    struct dn_catalog *catalog = catalog_;
    struct dn_state *fresh = built;
    struct dn_state *old = atomic_load_explicit(&catalog->state, memory_order_relaxed);
    fresh->home = catalog;
    fresh->generation = ++catalog->generations;
    fresh->live = true;
    atomic_store_explicit(&catalog->state, fresh, memory_order_release);
    old->next_dying = catalog->retiring;
    catalog->retiring = old;
    dn_epoch_retire(catalog->epoch, old, state_let_go, NULL);
}

void dn_catalog_restore_discard(void *catalog, void *built)
{
    (void)catalog;
    dn_state_destroy(built);
}
