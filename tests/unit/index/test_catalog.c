/* The catalogue against a plain model, its snapshots while writes go on, its decoders on damaged bytes. */
#include "support.h"

#include <pthread.h>
#include <stdatomic.h>

#define DIM 6u
#define IDS 300u
#define KEYS 5u

/* ---- the model
 * ------------------------------------------------------------------------------------------------ */

struct model_item {
    bool present;
    uint64_t version;
    uint32_t variant; /* of the vector; 0: none */
    uint32_t flavour; /* decides category, price, availability, attributes */
};

struct model {
    struct model_item items[IDS];
    uint64_t version;
    bool dim_set;
};

static const char *const key_names[KEYS] = {"brand", "colour", "season", "size", "tag"};

struct made {
    struct dn_item item;
    struct dn_attribute attributes[KEYS];
    float vector[DIM];
    char id[32], category[32], values[KEYS][32];
};

static void make_item(uint32_t id, const struct model_item *m, struct made *ret)
{
    memset(ret, 0, sizeof *ret);
    snprintf(ret->id, sizeof ret->id, "item-%u", id);
    snprintf(ret->category, sizeof ret->category, "cat-%u", m->flavour % 7);
    ret->item = plain_item(ret->id, NULL, 0);
    ret->item.category = ret->category;
    ret->item.category_length = (uint16_t)strlen(ret->category);
    ret->item.price = m->flavour % 3 == 0 ? NAN : (double)m->flavour / 10;
    ret->item.available = m->flavour % 4 != 0;
    ret->item.attributes = ret->attributes;
    for (uint32_t i = 0; i < KEYS; i++) {
        if ((m->flavour >> i & 1) != 0) {
            snprintf(ret->values[i], sizeof ret->values[i], "v%u", m->flavour + i);
            /* Given in falling order: the record sorts them. */
            memmove(ret->attributes + 1, ret->attributes,
                    ret->item.attribute_count * sizeof ret->attributes[0]);
            ret->attributes[0] = attribute(key_names[i], ret->values[i]);
            ret->item.attribute_count++;
        }
    }
    if (m->variant != 0) {
        make_vector(id, m->variant, DIM, ret->vector);
        ret->item.vector = ret->vector;
        ret->item.dim = DIM;
    }
}

static void check_item(const struct dn_item *got, uint32_t id, const struct model_item *m)
{
    struct made want;
    make_item(id, m, &want);
    assert_int_equal(got->id_length, want.item.id_length);
    assert_memory_equal(got->id, want.item.id, got->id_length);
    assert_int_equal(got->category_length, want.item.category_length);
    assert_memory_equal(got->category, want.item.category, got->category_length);
    assert_true(got->price == want.item.price || (isnan(got->price) && isnan(want.item.price)));
    assert_int_equal(got->available, want.item.available);
    assert_int_equal(got->version, m->version);
    assert_int_equal(got->attribute_count, want.item.attribute_count);
    for (size_t i = 0; i < got->attribute_count; i++) {
        const struct dn_attribute *a = &got->attributes[i];
        const struct dn_attribute *b = &want.attributes[got->attribute_count - 1 - i];
        assert_int_equal(a->key_length, b->key_length);
        assert_memory_equal(a->key, b->key, a->key_length);
        assert_int_equal(a->value_length, b->value_length);
        assert_memory_equal(a->value, b->value, a->value_length);
    }
    assert_int_equal(got->dim, want.item.dim);
    double norm = 0, along = 0, want_norm = 0;
    for (uint32_t i = 0; i < got->dim; i++) {
        norm += (double)got->vector[i] * (double)got->vector[i];
        along += (double)got->vector[i] * (double)want.vector[i];
        want_norm += (double)want.vector[i] * (double)want.vector[i];
    }
    if (got->dim != 0) {
        assert_true(fabs(norm - 1) < 1e-5);
        assert_true(fabs(along - sqrt(want_norm)) < 1e-4);
    }
}

static void check_against_model(struct world *w, const struct model *m)
{
    uint64_t present = 0;
    bool used[KEYS] = {false};
    dn_epoch_enter(w->reader);
    for (uint32_t id = 0; id < IDS; id++) {
        char name[32];
        snprintf(name, sizeof name, "item-%u", id);
        struct dn_item got, by_slot;
        enum dn_code code = dn_catalog_get(w->catalog, name, strlen(name), &got);
        assert_int_equal(code, m->items[id].present ? DN_OK : DN_NOT_FOUND);
        if (code != DN_OK) {
            continue;
        }
        present++;
        check_item(&got, id, &m->items[id]);
        for (uint32_t i = 0; i < KEYS; i++) {
            used[i] = used[i] || (m->items[id].flavour >> i & 1) != 0;
        }
        assert_int_equal(dn_catalog_get_slot(w->catalog, got.slot, &by_slot), DN_OK);
        assert_ptr_equal(by_slot.id, got.id);
        assert_int_equal(dn_catalog_get_hashed(w->catalog, got.id_hash, name, strlen(name), &by_slot), DN_OK);
        assert_int_equal(dn_catalog_get_hashed(w->catalog, got.id_hash + 1, name, strlen(name), &by_slot),
                         DN_NOT_FOUND);
    }
    uint64_t by_slot = 0;
    for (uint32_t slot = 0; slot < dn_catalog_slot_bound(w->catalog); slot++) {
        struct dn_item item;
        by_slot += dn_catalog_get_slot(w->catalog, slot, &item) == DN_OK;
    }
    for (uint32_t i = 0; i < KEYS; i++) {
        struct dn_attribute value = attribute("", "x");
        struct dn_filter_term term = {.op = DN_FILTER_EQ,
                                      .name = key_names[i],
                                      .name_length = (uint16_t)strlen(key_names[i]),
                                      .values = &value,
                                      .value_count = 1};
        struct dn_filter filter = {.terms = &term, .term_count = 1};
        assert_int_equal(dn_filter_check(w->catalog, &filter, NULL), used[i] ? DN_OK : DN_INVALID);
    }
    dn_epoch_leave(w->reader);
    assert_int_equal(by_slot, present);
    assert_int_equal(dn_catalog_item_count(w->catalog), present);
    assert_int_equal(dn_catalog_version(w->catalog), m->version);
    assert_int_equal(dn_catalog_dim(w->catalog), m->dim_set ? DIM : 0);
    assert_int_equal(dn_catalog_hash(w->catalog), dn_catalog_hash_recompute(w->catalog));
}

/* One random record of one to four changes, applied to both. */
static void step(struct world *w, struct model *m, struct rng *rng)
{
    uint32_t count = 1 + rng_below(rng, 4);
    uint32_t ids[4];
    dn_buffer_clear(&w->record);
    if (rng_below(rng, 3) > 0) {
        struct made made[4];
        struct dn_item items[4];
        for (uint32_t i = 0; i < count; i++) {
            ids[i] = rng_below(rng, IDS);
            struct model_item *item = &m->items[ids[i]];
            *item = (struct model_item){
                .present = true,
                .version = w->index + 1,
                .variant = rng_below(rng, 4),
                .flavour = rng_below(rng, 32),
            };
            m->dim_set = m->dim_set || item->variant != 0;
            make_item(ids[i], item, &made[i]);
            made[i].item.attributes = made[i].attributes;
            items[i] = made[i].item;
        }
        dn_catalog_record_upsert(&w->record, items, count);
        world_apply(w);
        m->version = w->index;
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(world_outcome(w, i), DN_ITEM_OK);
        }
        return;
    }
    char names[4][32];
    const char *pointers[4];
    uint16_t lengths[4];
    bool present[4];
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = rng_below(rng, IDS);
        lengths[i] = (uint16_t)snprintf(names[i], sizeof names[i], "item-%u", ids[i]);
        pointers[i] = names[i];
        present[i] = m->items[ids[i]].present;
        m->items[ids[i]].present = false;
        if (present[i]) {
            m->version = w->index + 1;
        }
    }
    dn_catalog_record_delete(&w->record, pointers, lengths, count);
    world_apply(w);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(world_outcome(w, i), present[i] ? DN_ITEM_OK : DN_ITEM_NOT_FOUND);
    }
}

static void test_model(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        struct rng rng = {.state = seed * 7919};
        struct world *w = calloc(1, sizeof *w), *other = calloc(1, sizeof *other);
        struct model *m = calloc(1, sizeof *m), *then = calloc(1, sizeof *then);
        world_open(w, 100000);
        world_open(other, 100000);
        for (int round = 0; round < 12; round++) {
            for (int i = 0; i < 60; i++) {
                step(w, m, &rng);
            }
            check_against_model(w, m);
            /* A capture, changes after it, then its bytes into another node: the past, not the present. */
            *then = *m;
            uint64_t hash = dn_catalog_hash(w->catalog), at = w->index;
            void *capture = dn_catalog_snapshot_begin(w->catalog);
            for (int i = 0; i < 40; i++) {
                step(w, m, &rng);
            }
            struct dn_buffer bytes;
            dn_buffer_init(&bytes, 64u << 20);
            struct dn_error err = {0};
            assert_int_equal(whole_write(dn_catalog_snapshot_write, w->catalog, capture, &bytes, &err),
                             DN_OK);
            for (int i = 0; i < 5; i++) {
                step(w, m, &rng);
            }
            dn_catalog_snapshot_end(w->catalog, capture);
            restore_into(other, &bytes);
            other->index = at;
            check_against_model(other, then);
            assert_int_equal(dn_catalog_hash(other->catalog), hash);
            /* And both go on alike though their slots differ. */
            struct rng fork = rng, fork_too = rng;
            struct model *here = malloc(sizeof *here);
            *here = *m;
            dn_buffer_clear(&bytes);
            capture = dn_catalog_snapshot_begin(w->catalog);
            assert_int_equal(whole_write(dn_catalog_snapshot_write, w->catalog, capture, &bytes, &err),
                             DN_OK);
            dn_catalog_snapshot_end(w->catalog, capture);
            restore_into(other, &bytes);
            other->index = w->index;
            for (int i = 0; i < 20; i++) {
                step(w, m, &fork);
                step(other, here, &fork_too);
                assert_int_equal(dn_catalog_hash(w->catalog), dn_catalog_hash(other->catalog));
            }
            free(here);
            dn_buffer_free(&bytes);
        }
        check_against_model(w, m);
        world_close(w);
        world_close(other);
        free(w);
        free(other);
        free(m);
        free(then);
    }
}

/* ---- threads
 * ------------------------------------------------------------------------------------------------------ */

struct pool_job {
    struct world *world;
    void *capture;
    struct dn_buffer bytes;
    enum dn_code code;
    atomic_bool done;
};

static void *pool_write(void *data)
{
    struct pool_job *job = data;
    struct dn_error err = {0};
    job->code = whole_write(dn_catalog_snapshot_write, job->world->catalog, job->capture, &job->bytes, &err);
    atomic_store(&job->done, true);
    return NULL;
}

struct reading {
    struct world *world;
    atomic_bool stop;
    atomic_ullong seen, torn;
};

/* Every item it meets is whole: its attributes belong to its own flavour, its vector has unit length. */
static void *read_on(void *data)
{
    struct reading *r = data;
    struct dn_epoch_reader *reader = dn_epoch_register(r->world->epoch);
    while (!atomic_load(&r->stop)) {
        dn_epoch_enter(reader);
        for (uint32_t id = 0; id < IDS; id++) {
            char name[32];
            snprintf(name, sizeof name, "item-%u", id);
            struct dn_item item;
            if (dn_catalog_get(r->world->catalog, name, strlen(name), &item) != DN_OK) {
                continue;
            }
            bool whole = item.id_length == strlen(name) && memcmp(item.id, name, item.id_length) == 0;
            double norm = 0;
            for (uint32_t i = 0; i < item.dim; i++) {
                norm += (double)item.vector[i] * (double)item.vector[i];
            }
            whole = whole && (item.dim == 0 || fabs(norm - 1) < 1e-5);
            for (size_t i = 1; i < item.attribute_count; i++) {
                whole = whole && item.attributes[i - 1].value_length > 0;
            }
            atomic_fetch_add(&r->seen, 1);
            atomic_fetch_add(&r->torn, !whole);
        }
        dn_epoch_leave(reader);
    }
    dn_epoch_unregister(reader);
    return NULL;
}

static void test_snapshot_while_written_and_read(void **unused)
{
    (void)unused;
    struct rng rng = {.state = 4242};
    struct world *w = calloc(1, sizeof *w), *other = calloc(1, sizeof *other);
    struct model *m = calloc(1, sizeof *m), *then = calloc(1, sizeof *then);
    world_open(w, 100000);
    world_open(other, 100000);
    struct reading reading = {.world = w};
    pthread_t readers[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&readers[i], NULL, read_on, &reading), 0);
    }
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 50; i++) {
            step(w, m, &rng);
        }
        *then = *m;
        uint64_t hash = dn_catalog_hash(w->catalog);
        struct pool_job job = {.world = w, .capture = dn_catalog_snapshot_begin(w->catalog)};
        dn_buffer_init(&job.bytes, 64u << 20);
        pthread_t pool;
        assert_int_equal(pthread_create(&pool, NULL, pool_write, &job), 0);
        for (int i = 0; i < 200 || !atomic_load(&job.done); i++) {
            step(w, m, &rng);
        }
        pthread_join(pool, NULL);
        assert_int_equal(job.code, DN_OK);
        dn_catalog_snapshot_end(w->catalog, job.capture);
        restore_into(other, &job.bytes);
        check_against_model(other, then);
        assert_int_equal(dn_catalog_hash(other->catalog), hash);
        if (round % 5 == 4) {
            /* Readers live through a restore of the node they read. */
            restore_into(w, &job.bytes);
            *m = *then;
        }
        dn_buffer_free(&job.bytes);
    }
    atomic_store(&reading.stop, true);
    for (int i = 0; i < 2; i++) {
        pthread_join(readers[i], NULL);
    }
    assert_true(atomic_load(&reading.seen) > 0);
    assert_int_equal(atomic_load(&reading.torn), 0);
    check_against_model(w, m);
    world_close(w);
    world_close(other);
    free(w);
    free(other);
    free(m);
    free(then);
}

/* ---- damaged bytes
 * --------------------------------------------------------------------------------------------------- */

static void mutate(struct rng *rng, uint8_t *bytes, size_t *length)
{
    uint32_t flips = 1 + rng_below(rng, 4);
    for (uint32_t i = 0; i < flips; i++) {
        bytes[rng_below(rng, (uint32_t)*length)] = (uint8_t)rng_next(rng);
    }
    if (rng_below(rng, 3) == 0) {
        *length = rng_below(rng, (uint32_t)*length) + 1;
    }
}

static void test_damaged_records(void **unused)
{
    (void)unused;
    struct rng rng = {.state = 99};
    struct world *w = calloc(1, sizeof *w);
    struct model *m = calloc(1, sizeof *m);
    world_open(w, 1000);
    unsigned refused = 0;
    for (int i = 0; i < 20000; i++) {
        step(w, m, &rng);
        if (i % 7 == 0) {
            dn_buffer_clear(&w->record);
            dn_catalog_record_fact(&w->record, "k", "v");
        }
        size_t length = w->record.length;
        uint8_t *copy = malloc(length); /* exact size: the address sanitizer sees a read past it */
        memcpy(copy, w->record.bytes, length);
        mutate(&rng, copy, &length);
        uint8_t *exact = malloc(length);
        memcpy(exact, copy, length);
        w->index++;
        dn_buffer_clear(&w->result);
        dn_catalog_apply(w->catalog, w->index, 0, 0, exact, length, &w->result);
        dn_catalog_entry_done(w->catalog, w->index, 0);
        assert_true(w->result.length > 0);
        refused += w->result.bytes[0] == 2;
        free(copy);
        free(exact);
        if (i % 500 == 499) {
            assert_int_equal(dn_catalog_hash(w->catalog), dn_catalog_hash_recompute(w->catalog));
        }
        /* The model follows what damage that was understood has done. */
        for (uint32_t id = 0; id < IDS; id++) {
            char name[32];
            snprintf(name, sizeof name, "item-%u", id);
            struct dn_item item;
            dn_epoch_enter(w->reader);
            m->items[id].present = dn_catalog_get(w->catalog, name, strlen(name), &item) == DN_OK;
            dn_epoch_leave(w->reader);
        }
        if (dn_catalog_item_count(w->catalog) > 900 || dn_catalog_dim(w->catalog) != DIM) {
            world_close(w);
            world_open(w, 1000);
            memset(m, 0, sizeof *m);
        }
    }
    assert_true(refused > 1000);
    world_close(w);
    free(w);
    free(m);
}

static void test_damaged_snapshots(void **unused)
{
    (void)unused;
    struct rng rng = {.state = 31337};
    struct world *w = calloc(1, sizeof *w);
    struct model *m = calloc(1, sizeof *m);
    world_open(w, 1000);
    for (int i = 0; i < 100; i++) {
        step(w, m, &rng);
    }
    expect_fact(w, "shards", "4", "4");
    void *capture = dn_catalog_snapshot_begin(w->catalog);
    struct dn_buffer bytes;
    dn_buffer_init(&bytes, 64u << 20);
    assert_int_equal(whole_write(dn_catalog_snapshot_write, w->catalog, capture, &bytes, NULL), DN_OK);
    dn_catalog_snapshot_end(w->catalog, capture);
    uint64_t hash = dn_catalog_hash(w->catalog);
    unsigned accepted = 0;
    for (int i = 0; i < 3000; i++) {
        size_t length = bytes.length;
        uint8_t *copy = malloc(length);
        memcpy(copy, bytes.bytes, length);
        mutate(&rng, copy, &length);
        uint8_t *exact = malloc(length);
        memcpy(exact, copy, length);
        void *built;
        struct dn_error err = {0};
        enum dn_code code = whole_build(dn_catalog_restore_build, w->catalog, exact, length, &built, &err);
        if (code == DN_OK) {
            accepted += length != bytes.length || memcmp(exact, bytes.bytes, length) != 0;
            dn_catalog_restore_discard(w->catalog, built);
        } else {
            assert_int_equal(code, DN_CORRUPT);
            assert_non_null(strstr(err.message, "catalogue snapshot"));
        }
        free(copy);
        free(exact);
    }
    assert_int_equal(accepted, 0);
    assert_int_equal(dn_catalog_hash(w->catalog), hash);
    dn_buffer_free(&bytes);
    world_close(w);
    free(w);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_snapshot_while_written_and_read),
        cmocka_unit_test(test_damaged_records),
        cmocka_unit_test(test_damaged_snapshots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
