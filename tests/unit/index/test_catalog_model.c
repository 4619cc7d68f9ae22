/* The model in the catalogue: who may change it, against a plain model of it; its snapshots; damaged bytes.
 */
#include "support.h"

#define BLOB_MOST 300u

struct plain { /* what must be in force */
    uint64_t version, generation, steps, node_id;
    int64_t time_ms;
    bool on, frozen;
    size_t length;
    uint8_t bytes[BLOB_MOST];
};

static struct dn_model_result apply_at(struct world *w, int64_t time_ms)
{
    struct dn_model_result result;
    struct dn_error err = {0};
    assert_false(w->record.failed);
    w->index++;
    dn_buffer_clear(&w->result);
    dn_catalog_apply(w->catalog, w->index, 0, time_ms, w->record.bytes, w->record.length, &w->result);
    dn_catalog_entry_done(w->catalog, w->index, time_ms);
    (void)dn_epoch_reclaim(w->epoch, 100000);
    if (dn_catalog_model_result_parse(w->result.bytes, w->result.length, &result, &err) != DN_OK) {
        fail_msg("answer: %s", err.message);
    }
    return result;
}

static struct dn_model_result change(struct world *w, const struct dn_model_change *change)
{
    dn_buffer_clear(&w->record);
    dn_catalog_record_model(&w->record, change);
    return apply_at(w, 1000);
}

static enum dn_model_outcome order(struct world *w, enum dn_model_op op)
{
    return change(w, &(struct dn_model_change){.op = op}).outcome;
}

static struct dn_model_change learned(struct world *w, const char *bytes)
{
    struct dn_catalog_model now;
    dn_epoch_enter(w->reader);
    (void)dn_catalog_model(w->catalog, &now);
    dn_epoch_leave(w->reader);
    return (struct dn_model_change){
        .op = DN_MODEL_LEARNED,
        .generation = now.generation,
        .version = now.version,
        .node_id = 3,
        .steps = now.steps + 10,
        .bytes = (const uint8_t *)bytes,
        .length = strlen(bytes),
    };
}

static void expect_bytes(struct world *w, const char *bytes)
{
    struct dn_catalog_model now;
    dn_epoch_enter(w->reader);
    assert_int_equal(dn_catalog_model(w->catalog, &now), bytes != NULL);
    assert_int_equal(now.length, bytes != NULL ? strlen(bytes) : 0);
    assert_true((now.bytes == NULL) == (bytes == NULL));
    if (bytes != NULL) {
        assert_memory_equal(now.bytes, bytes, now.length);
    }
    dn_epoch_leave(w->reader);
    assert_int_equal(dn_catalog_hash(w->catalog), dn_catalog_hash_recompute(w->catalog));
}

static void snapshot(struct world *w, struct dn_buffer *ret)
{
    struct dn_error err = {0};
    dn_buffer_init(ret, 1u << 20);
    void *capture = dn_catalog_snapshot_begin(w->catalog);
    assert_int_equal(whole_write(dn_catalog_snapshot_write, w->catalog, capture, ret, &err), DN_OK);
    dn_catalog_snapshot_end(w->catalog, capture);
}

static uint32_t format_of(const struct dn_buffer *bytes)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes->bytes, bytes->length);
    (void)dn_reader_u32(&reader);
    return dn_reader_u32(&reader);
}

/* ---- rules ----------------------------------------------------------------------------------------------
 */

/* A build that knows no model refuses its records: until the fact is set, so do we, to the same state. */
static void test_off_until_the_fact(void **unused)
{
    (void)unused;
    struct world w;
    struct dn_buffer bytes;
    world_open(&w, 10);
    uint64_t hash = dn_catalog_hash(w.catalog);
    struct dn_model_change first = learned(&w, "one");
    assert_int_equal(change(&w, &first).outcome, DN_MODEL_OFF);
    for (int op = DN_MODEL_RESET; op <= DN_MODEL_UNFREEZE; op++) {
        assert_int_equal(order(&w, (enum dn_model_op)op), DN_MODEL_OFF);
    }
    first.op = DN_MODEL_FIXED;
    assert_int_equal(change(&w, &first).outcome, DN_MODEL_OFF);
    expect_bytes(&w, NULL);
    assert_int_equal(dn_catalog_hash(w.catalog), hash);
    expect_fact(&w, DN_MODEL_FACT, "1", "1");
    snapshot(&w, &bytes);
    assert_int_equal(format_of(&bytes), 1);
    dn_buffer_free(&bytes);
    first.op = DN_MODEL_LEARNED;
    assert_int_equal(change(&w, &first).outcome, DN_MODEL_OK);
    expect_bytes(&w, "one");
    snapshot(&w, &bytes);
    assert_int_equal(format_of(&bytes), 2);
    dn_buffer_free(&bytes);
    world_close(&w);
}

static void test_one_line_of_descent(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 10);
    expect_fact(&w, DN_MODEL_FACT, "1", "1");
    struct dn_model_change old_leader = learned(&w, "deposed");
    struct dn_model_change new_leader = learned(&w, "new leader");
    struct dn_model_result result = change(&w, &new_leader);
    assert_int_equal(result.outcome, DN_MODEL_OK);
    assert_int_equal(result.version, w.index);
    assert_int_equal(result.generation, 0);
    /* Learned from the same as what is in force now: it would undo it. */
    assert_int_equal(change(&w, &old_leader).outcome, DN_MODEL_MOVED);
    expect_bytes(&w, "new leader");
    /* The same record twice, as a proposer that heard nothing sends it. */
    assert_int_equal(change(&w, &new_leader).outcome, DN_MODEL_MOVED);
    struct dn_model_change late = learned(&w, "late");
    assert_int_equal(order(&w, DN_MODEL_RESET), DN_MODEL_OK);
    result = change(&w, &late);
    assert_int_equal(result.outcome, DN_MODEL_MOVED);
    assert_int_equal(result.generation, 1);
    expect_bytes(&w, NULL);
    /* The right generation with the wrong version is no better, nor the other way round. */
    struct dn_model_change mixed = learned(&w, "mixed");
    mixed.version = late.version;
    assert_int_equal(change(&w, &mixed).outcome, DN_MODEL_MOVED);
    mixed = learned(&w, "mixed");
    mixed.generation = 0;
    assert_int_equal(change(&w, &mixed).outcome, DN_MODEL_MOVED);
    mixed = learned(&w, "mixed");
    assert_int_equal(change(&w, &mixed).outcome, DN_MODEL_OK);
    expect_bytes(&w, "mixed");
    world_close(&w);
}

static void test_freeze(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 10);
    expect_fact(&w, DN_MODEL_FACT, "1", "1");
    uint64_t bare = dn_catalog_hash(w.catalog), memory = dn_catalog_memory(w.catalog);
    assert_int_equal(order(&w, DN_MODEL_FREEZE), DN_MODEL_OK);
    assert_int_not_equal(dn_catalog_hash(w.catalog), bare);
    struct dn_model_change next = learned(&w, "weights");
    assert_int_equal(change(&w, &next).outcome, DN_MODEL_FROZEN);
    assert_int_equal(order(&w, DN_MODEL_UNFREEZE), DN_MODEL_OK);
    /* As if nothing had been: an older build could read it again. */
    assert_int_equal(dn_catalog_hash(w.catalog), bare);
    assert_int_equal(dn_catalog_memory(w.catalog), memory);
    assert_int_equal(change(&w, &next).outcome, DN_MODEL_OK);
    assert_int_equal(order(&w, DN_MODEL_FREEZE), DN_MODEL_OK);
    next = learned(&w, "more");
    assert_int_equal(change(&w, &next).outcome, DN_MODEL_FROZEN);
    expect_bytes(&w, "weights");
    /* A reset works, and stays frozen. */
    assert_int_equal(order(&w, DN_MODEL_RESET), DN_MODEL_OK);
    expect_bytes(&w, NULL);
    next = learned(&w, "more");
    assert_int_equal(change(&w, &next).outcome, DN_MODEL_FROZEN);
    /* Weights of an operator: a generation of their own, frozen. */
    next.op = DN_MODEL_FIXED;
    struct dn_model_result result = change(&w, &next);
    assert_int_equal(result.outcome, DN_MODEL_OK);
    assert_int_equal(result.generation, 2);
    expect_bytes(&w, "more");
    struct dn_catalog_model now;
    (void)dn_catalog_model(w.catalog, &now);
    assert_true(now.frozen);
    assert_int_equal(now.steps, 0);
    assert_int_equal(now.node_id, 0);
    assert_int_equal(now.time_ms, 1000);
    world_close(&w);
}

static void expect_not_understood(struct world *w)
{
    struct dn_model_result result;
    struct dn_error err = {0};
    uint64_t hash = dn_catalog_hash(w->catalog);
    w->index++;
    dn_buffer_clear(&w->result);
    dn_catalog_apply(w->catalog, w->index, 0, 0, w->record.bytes, w->record.length, &w->result);
    assert_int_equal(w->result.length, 1);
    assert_int_equal(dn_catalog_model_result_parse(w->result.bytes, w->result.length, &result, &err),
                     DN_INVALID);
    assert_int_equal(dn_catalog_hash(w->catalog), hash);
}

static void test_not_understood(void **unused)
{
    (void)unused;
    static const uint8_t big[DN_MODEL_BLOB_MAX + 1];
    struct world w;
    world_open(&w, 10);
    expect_fact(&w, DN_MODEL_FACT, "1", "1");
    struct dn_model_change largest = {.op = DN_MODEL_LEARNED, .bytes = big, .length = DN_MODEL_BLOB_MAX};
    assert_int_equal(change(&w, &largest).outcome, DN_MODEL_OK);
    largest.length++;
    dn_buffer_clear(&w.record);
    dn_catalog_record_model(&w.record, &largest);
    assert_true(w.record.failed);
    largest.length = 0;
    dn_buffer_clear(&w.record);
    dn_catalog_record_model(&w.record, &largest);
    assert_true(w.record.failed);
    static const uint8_t ops[] = {0, DN_MODEL_LEARNED, DN_MODEL_FIXED, DN_MODEL_FIXED + 1, 255};
    for (size_t i = 0; i < sizeof ops; i++) { /* without what they need */
        dn_buffer_clear(&w.record);
        dn_buffer_u8(&w.record, DN_CATALOG_MODEL);
        dn_buffer_u8(&w.record, 1);
        dn_buffer_u8(&w.record, ops[i]);
        expect_not_understood(&w);
    }
    dn_buffer_clear(&w.record);
    dn_catalog_record_model(&w.record, &(struct dn_model_change){.op = DN_MODEL_RESET});
    dn_buffer_u8(&w.record, 0); /* more than it has */
    expect_not_understood(&w);
    struct dn_model_result result;
    struct dn_error err;
    static const uint8_t answers[2][19] = {{0, 9}, {0}}; /* an outcome nobody has; too long by one */
    assert_int_equal(dn_catalog_model_result_parse(answers[0], 18, &result, &err), DN_CORRUPT);
    assert_int_equal(dn_catalog_model_result_parse(answers[1], 19, &result, &err), DN_CORRUPT);
    assert_int_equal(dn_catalog_model_result_parse(answers[1], 17, &result, &err), DN_CORRUPT);
    assert_int_equal(dn_catalog_model_result_parse(answers[1], 18, &result, &err), DN_OK);
    world_close(&w);
}

/* ---- against a plain model ------------------------------------------------------------------------------
 */

static enum dn_model_outcome plain_change(struct plain *m, uint64_t index, int64_t time_ms,
                                          const struct dn_model_change *c)
{
    if (!m->on) {
        return DN_MODEL_OFF;
    }
    switch (c->op) {
    case DN_MODEL_FREEZE:
    case DN_MODEL_UNFREEZE:
        m->frozen = c->op == DN_MODEL_FREEZE;
        return DN_MODEL_OK;
    case DN_MODEL_LEARNED:
        if (c->version != m->version || c->generation != m->generation) {
            return DN_MODEL_MOVED;
        }
        if (m->frozen) {
            return DN_MODEL_FROZEN;
        }
        m->steps = c->steps;
        m->node_id = c->node_id;
        break;
    default:
        m->generation++;
        m->steps = m->node_id = 0;
        m->frozen = m->frozen || c->op == DN_MODEL_FIXED;
    }
    m->version = index;
    m->time_ms = time_ms;
    m->length = c->length;
    if (c->length > 0) {
        memcpy(m->bytes, c->bytes, c->length);
    }
    return DN_MODEL_OK;
}

static void check_plain(struct world *w, const struct plain *m)
{
    struct dn_catalog_model now;
    dn_epoch_enter(w->reader);
    assert_int_equal(dn_catalog_model(dn_catalog_pin(w->catalog), &now), m->length > 0);
    assert_int_equal(now.version, m->version);
    assert_int_equal(now.generation, m->generation);
    assert_int_equal(now.steps, m->steps);
    assert_int_equal(now.node_id, m->node_id);
    assert_int_equal(now.time_ms, m->time_ms);
    assert_int_equal(now.frozen, m->frozen);
    assert_int_equal(now.length, m->length);
    if (m->length > 0) {
        assert_memory_equal(now.bytes, m->bytes, m->length);
    }
    dn_epoch_leave(w->reader);
    assert_int_equal(dn_catalog_hash(w->catalog), dn_catalog_hash_recompute(w->catalog));
}

/* A random record; the same one goes to both worlds. */
static void step(struct world *w, struct plain *m, struct world *other, struct rng *rng)
{
    uint8_t bytes[BLOB_MOST];
    struct dn_model_change c = {.op = (enum dn_model_op)(1 + rng_below(rng, 5))};
    if (rng_below(rng, 2) == 0) {
        c.op = DN_MODEL_LEARNED;
    }
    if (!m->on && rng_below(rng, 10) == 0) {
        expect_fact(w, DN_MODEL_FACT, "1", "1");
        expect_fact(other, DN_MODEL_FACT, "1", "1");
        m->on = true;
    }
    if (c.op == DN_MODEL_LEARNED || c.op == DN_MODEL_FIXED) {
        c.length = 1 + rng_below(rng, BLOB_MOST);
        c.bytes = bytes;
        c.generation = m->generation - (rng_below(rng, 6) == 0);
        c.version = m->version + (rng_below(rng, 6) == 0);
        c.steps = m->steps + rng_below(rng, 5000);
        c.node_id = 1 + rng_below(rng, 3);
        for (size_t i = 0; i < c.length; i++) {
            bytes[i] = (uint8_t)rng_next(rng);
        }
    }
    int64_t time_ms = m->time_ms + rng_below(rng, 10000);
    dn_buffer_clear(&w->record);
    dn_catalog_record_model(&w->record, &c);
    dn_buffer_clear(&other->record);
    dn_catalog_record_model(&other->record, &c);
    struct dn_model_result here = apply_at(w, time_ms), there = apply_at(other, time_ms);
    assert_int_equal(here.outcome, plain_change(m, w->index, time_ms, &c));
    assert_int_equal(here.generation, m->generation);
    assert_int_equal(here.version, m->version);
    assert_int_equal(there.outcome, here.outcome);
    assert_int_equal(dn_catalog_hash(w->catalog), dn_catalog_hash(other->catalog));
}

static void test_against_plain(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        struct rng rng = {.state = seed * 6151};
        struct world w, other;
        struct plain m = {0}, then;
        world_open(&w, 10);
        world_open(&other, 10);
        for (int round = 0; round < 30; round++) {
            for (int i = 0; i < 12; i++) {
                step(&w, &m, &other, &rng);
                check_plain(&w, &m);
            }
            /* A capture, changes after it, its bytes into the other node: the past. */
            then = m;
            uint64_t hash = dn_catalog_hash(w.catalog);
            struct dn_buffer bytes;
            struct dn_error err = {0};
            dn_buffer_init(&bytes, 1u << 20);
            void *capture = dn_catalog_snapshot_begin(w.catalog);
            for (int i = 0; i < 3; i++) {
                step(&w, &m, &other, &rng);
            }
            assert_int_equal(whole_write(dn_catalog_snapshot_write, w.catalog, capture, &bytes, &err), DN_OK);
            dn_catalog_snapshot_end(w.catalog, capture);
            restore_into(&other, &bytes);
            check_plain(&other, &then);
            assert_int_equal(dn_catalog_hash(other.catalog), hash);
            dn_buffer_free(&bytes);
            snapshot(&w, &bytes);
            restore_into(&other, &bytes);
            other.index = w.index;
            dn_buffer_free(&bytes);
        }
        world_close(&w);
        world_close(&other);
    }
}

/* ---- snapshots ------------------------------------------------------------------------------------------
 */

static void test_damaged_snapshots(void **unused)
{
    (void)unused;
    struct rng rng = {.state = 4711};
    struct world w;
    struct dn_buffer bytes;
    world_open(&w, 10);
    expect_fact(&w, DN_MODEL_FACT, "1", "1");
    struct dn_model_change c = learned(&w, "a few bytes of weights");
    assert_int_equal(change(&w, &c).outcome, DN_MODEL_OK);
    snapshot(&w, &bytes);
    for (size_t i = 0; i < 4 * bytes.length; i++) {
        bool cut = i >= 3 * bytes.length;
        size_t at = i % bytes.length, length = cut ? at : bytes.length;
        uint8_t *copy = malloc(length + 1);
        struct dn_error err = {0};
        void *built = NULL;
        memcpy(copy, bytes.bytes, length);
        if (!cut) {
            copy[at] ^= (uint8_t)(1 + rng_below(&rng, 255));
        }
        assert_int_not_equal(whole_build(dn_catalog_restore_build, w.catalog, copy, length, &built, &err),
                             DN_OK);
        assert_non_null(strstr(err.message, "catalogue snapshot"));
        free(copy);
    }
    dn_buffer_free(&bytes);
    expect_bytes(&w, "a few bytes of weights");
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_off_until_the_fact),
        cmocka_unit_test(test_one_line_of_descent),
        cmocka_unit_test(test_freeze),
        cmocka_unit_test(test_not_understood),
        cmocka_unit_test(test_against_plain),
        cmocka_unit_test(test_damaged_snapshots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
