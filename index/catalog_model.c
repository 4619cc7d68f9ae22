/* The model in the catalogue: weights of the blend as bytes that nobody here looks into, and who may change
 * them.
 *
 *   default --LEARNED--> weights --LEARNED--> newer weights ...   same generation
 *   anything --RESET--> default, --FIXED--> weights, frozen       the next generation
 *   FREEZE, UNFREEZE                                              only whether LEARNED counts
 *
 * Invariants:
 *  1. LEARNED counts only when it names the generation and the version in force, and nothing is frozen: the
 *     weights of a generation are one line of descent, each learned from the one before it.
 *  2. Nothing counts until the fact DN_MODEL_FACT is set. A build without this file stops at the records
 *     (dn_catalog_record_level): whoever proposes one sees to it that all members know them (index.h).
 *  3. A state without generation, version and freeze has no block: it is written as an older build writes it.
 */
#include "base/hash.h"
#include "index/catalog_internal.h"

#include <stdlib.h>
#include <string.h>

#define STATUS_OK 0u
#define STATUS_INVALID 2u
#define MODEL_SEED 0x6d6f64656cu

/* ---- blocks ---------------------------------------------------------------------------------------------
 */

static size_t block_bytes(const struct dn_model_block *model)
{
    return model == NULL ? 0 : sizeof *model + model->length;
}

/* A block with the head of `from` and other bytes. */
static struct dn_model_block *block_make(const struct dn_model_block *from, const uint8_t *bytes,
                                         size_t length)
{
    struct dn_model_block *made = dn_must_alloc(sizeof *made + length);
    *made = *from;
    made->length = (uint32_t)length;
    if (length > 0) {
        memcpy(made->bytes, bytes, length);
    }
    return made;
}

struct dn_model_block *dn_state_model_copy(const struct dn_model_block *model)
{
    return model == NULL ? NULL : block_make(model, model->bytes, model->length);
}

uint64_t dn_state_model_hash(const struct dn_model_block *model)
{
    if (model == NULL) {
        return 0;
    }
    uint64_t head[6] = {model->version, model->generation,        model->steps,
                        model->node_id, (uint64_t)model->time_ms, model->frozen};
    return dn_hash64(model->bytes, model->length, dn_hash64(head, sizeof head, MODEL_SEED));
}

static struct dn_model_block *current(const struct dn_state *state)
{
    return atomic_load_explicit(&state->model, memory_order_relaxed);
}

/* Takes the block. */
static void put(struct dn_state *state, struct dn_model_block *fresh)
{
    struct dn_model_block *old = current(state);
    if (fresh->version == 0 && fresh->generation == 0 && !fresh->frozen) {
        free(fresh); /* invariant 3 */
        fresh = NULL;
    }
    dn_state_hash_add(state, dn_state_model_hash(fresh) - dn_state_model_hash(old));
    dn_state_account(state, block_bytes(fresh), block_bytes(old));
    atomic_store_explicit(&state->model, fresh, memory_order_release);
    dn_state_retire_plain(state, old);
}

/* ---- records --------------------------------------------------------------------------------------------
 */

void dn_catalog_record_model(struct dn_buffer *out, const struct dn_model_change *change)
{
    bool weights = change->op == DN_MODEL_LEARNED || change->op == DN_MODEL_FIXED;
    dn_buffer_u8(out, DN_CATALOG_MODEL);
    dn_buffer_u8(out, DN_RECORD_VERSION);
    dn_buffer_u8(out, (uint8_t)change->op);
    if (!weights) {
        return;
    }
    if (change->length == 0 || change->length > DN_MODEL_BLOB_MAX) {
        out->failed = true;
        return;
    }
    dn_buffer_u64(out, change->generation);
    dn_buffer_u64(out, change->version);
    dn_buffer_u64(out, change->node_id);
    dn_buffer_u64(out, change->steps);
    dn_buffer_blob(out, change->bytes, change->length);
}

uint8_t dn_catalog_record_level(const uint8_t *record, size_t length)
{
    return length > 0 && record[0] == DN_CATALOG_MODEL ? DN_CATALOG_LEVEL_MODEL : 1;
}

static bool decode(struct dn_reader *reader, struct dn_model_change *ret)
{
    *ret = (struct dn_model_change){.op = (enum dn_model_op)dn_reader_u8(reader)};
    if (ret->op == DN_MODEL_LEARNED || ret->op == DN_MODEL_FIXED) {
        ret->generation = dn_reader_u64(reader);
        ret->version = dn_reader_u64(reader);
        ret->node_id = dn_reader_u64(reader);
        ret->steps = dn_reader_u64(reader);
        ret->bytes = dn_reader_blob(reader, DN_MODEL_BLOB_MAX, &ret->length);
        if (ret->length == 0) {
            return false;
        }
    } else if (ret->op != DN_MODEL_RESET && ret->op != DN_MODEL_FREEZE && ret->op != DN_MODEL_UNFREEZE) {
        return false;
    }
    return !reader->failed && dn_reader_left(reader) == 0;
}

/* ---- apply ----------------------------------------------------------------------------------------------
 */

static bool enabled(const struct dn_state *state)
{
    uint32_t count = atomic_load_explicit(&state->fact_count, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        const struct dn_fact *fact = atomic_load_explicit(&state->facts[i], memory_order_relaxed);
        if (fact->key_length == strlen(DN_MODEL_FACT) &&
            memcmp(fact->key, DN_MODEL_FACT, fact->key_length) == 0) {
            return true;
        }
    }
    return false;
}

static enum dn_model_outcome change_model(struct dn_state *state, uint64_t index, int64_t time_ms,
                                          const struct dn_model_change *change)
{
    static const struct dn_model_block none;
    const struct dn_model_block *old = current(state) != NULL ? current(state) : &none;
    struct dn_model_block head = *old;

    if (!enabled(state)) {
        return DN_MODEL_OFF;
    }
    if (change->op == DN_MODEL_FREEZE || change->op == DN_MODEL_UNFREEZE) {
        head.frozen = change->op == DN_MODEL_FREEZE;
        if (head.frozen != old->frozen) {
            put(state, block_make(&head, old->bytes, old->length));
        }
        return DN_MODEL_OK;
    }
    if (change->op == DN_MODEL_LEARNED) {
        if (change->generation != old->generation || change->version != old->version) {
            return DN_MODEL_MOVED;
        }
        if (old->frozen) {
            return DN_MODEL_FROZEN;
        }
    } else {
        head.generation++;
        head.frozen = old->frozen || change->op == DN_MODEL_FIXED;
    }
    head.version = index;
    head.time_ms = time_ms;
    head.steps = change->op == DN_MODEL_LEARNED ? change->steps : 0;
    head.node_id = change->op == DN_MODEL_LEARNED ? change->node_id : 0;
    put(state, block_make(&head, change->bytes, change->length));
    return DN_MODEL_OK;
}

bool dn_state_model_apply(struct dn_state *state, uint64_t index, int64_t time_ms, struct dn_reader *reader,
                          struct dn_buffer *result)
{
    struct dn_model_change change;
    if (!decode(reader, &change)) {
        return false;
    }
    enum dn_model_outcome outcome = change_model(state, index, time_ms, &change);
    const struct dn_model_block *now = current(state);
    dn_buffer_u8(result, STATUS_OK);
    dn_buffer_u8(result, (uint8_t)outcome);
    dn_buffer_u64(result, now != NULL ? now->generation : 0);
    dn_buffer_u64(result, now != NULL ? now->version : 0);
    return true;
}

enum dn_code dn_catalog_model_result_parse(const uint8_t *bytes, size_t length, struct dn_model_result *ret,
                                           struct dn_error *err)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    uint8_t status = dn_reader_u8(&reader);
    if (!reader.failed && status == STATUS_INVALID) {
        return dn_fail(err, DN_INVALID, "the catalogue did not understand the model's record");
    }
    uint8_t outcome = dn_reader_u8(&reader);
    uint64_t generation = dn_reader_u64(&reader), version = dn_reader_u64(&reader);
    if (reader.failed || dn_reader_left(&reader) != 0 || status != STATUS_OK || outcome > DN_MODEL_MOVED) {
        return dn_fail(err, DN_CORRUPT, "the model's answer of %zu bytes is malformed", length);
    }
    *ret = (struct dn_model_result){
        .outcome = (enum dn_model_outcome)outcome, .generation = generation, .version = version};
    return DN_OK;
}

/* ---- snapshots: u64 version, u64 generation, u64 steps, u64 node, i64 time, u8 frozen, blob --------------
 */

void dn_state_model_write(struct dn_buffer *out, const struct dn_model_block *model)
{
    dn_buffer_u64(out, model->version);
    dn_buffer_u64(out, model->generation);
    dn_buffer_u64(out, model->steps);
    dn_buffer_u64(out, model->node_id);
    dn_buffer_i64(out, model->time_ms);
    dn_buffer_u8(out, model->frozen);
    dn_buffer_blob(out, model->bytes, model->length);
}

enum dn_code dn_state_model_restore(struct dn_state *state, struct dn_source *in, struct dn_error *err)
{
    struct dn_model_block head = {0};
    size_t length = 0;
    head.version = dn_source_u64(in);
    head.generation = dn_source_u64(in);
    head.steps = dn_source_u64(in);
    head.node_id = dn_source_u64(in);
    head.time_ms = dn_source_i64(in);
    uint8_t frozen = dn_source_u8(in);
    const uint8_t *bytes = dn_source_blob(in, DN_MODEL_BLOB_MAX, &length);
    if (in->code != DN_OK) {
        return dn_fail(err, in->code, "the model: %s", in->error.message);
    }
    head.frozen = frozen == 1;
    if (frozen > 1 || (length > 0 && head.version == 0) ||
        (head.version == 0 && head.generation == 0 && !head.frozen)) {
        return dn_fail(err, DN_CORRUPT, "the model before byte %llu says what no model says",
                       (unsigned long long)in->total);
    }
    put(state, block_make(&head, bytes, length));
    return DN_OK;
}

/* ---- reading --------------------------------------------------------------------------------------------
 */

bool dn_catalog_model(const struct dn_catalog *catalog, struct dn_catalog_model *ret)
{
    const struct dn_model_block *model =
        atomic_load_explicit(&dn_catalog_state(catalog)->model, memory_order_acquire);
    *ret = (struct dn_catalog_model){0};
    if (model == NULL) {
        return false;
    }
    *ret = (struct dn_catalog_model){
        .bytes = model->length > 0 ? model->bytes : NULL,
        .length = model->length,
        .version = model->version,
        .generation = model->generation,
        .steps = model->steps,
        .node_id = model->node_id,
        .time_ms = model->time_ms,
        .frozen = model->frozen,
    };
    return model->length > 0;
}
