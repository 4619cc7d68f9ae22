/* The catalogue: what it refuses, what it answers, attribute keys, filters and facts. */
#include "support.h"

#include <pthread.h>
#include <stdatomic.h>

#define DIM 6u

/* ---- rules
 * ---------------------------------------------------------------------------------------------------------
 */

static void expect_refused(struct dn_item item, const char *part)
{
    struct dn_error err = {0};
    assert_int_equal(dn_item_check(&item, &err), DN_INVALID);
    if (strstr(err.message, part) == NULL) {
        fail_msg("'%s' does not say '%s'", err.message, part);
    }
}

static void test_item_check(void **unused)
{
    (void)unused;
    static char long_text[2000];
    memset(long_text, 'a', sizeof long_text - 1);
    float good[3] = {1, 2, 3};
    struct dn_item item = plain_item("a", good, 3);
    assert_int_equal(dn_item_check(&item, NULL), DN_OK);
    item.id_length = 0;
    expect_refused(item, "id must be");
    item = plain_item(long_text, good, 3);
    item.id_length = 257;
    expect_refused(item, "id must be");
    item.id_length = 256;
    assert_int_equal(dn_item_check(&item, NULL), DN_OK);
    expect_refused(plain_item("\xff\xfe", good, 3), "UTF-8");
    expect_refused(plain_item("a", (float[]){1, NAN}, 2), "NaN");
    expect_refused(plain_item("a", (float[]){1, INFINITY}, 2), "infinite");
    expect_refused(plain_item("a", (float[]){0, -0.0f}, 2), "zeros");
    item = plain_item("a", good, DN_VECTOR_DIM_MAX + 1);
    expect_refused(item, "1 to 2048");
    item = plain_item("a", good, 3);
    item.price = INFINITY;
    expect_refused(item, "price");
    item.price = 1;
    item.category = long_text;
    item.category_length = 257;
    expect_refused(item, "category");
    item.category_length = 0;
    struct dn_attribute twice[2] = {attribute("k", "1"), attribute("k", "2")};
    item.attributes = twice;
    item.attribute_count = 2;
    expect_refused(item, "twice");
    twice[1] = attribute("price", "2");
    expect_refused(item, "built in");
    twice[1] = attribute("", "2");
    expect_refused(item, "key must be");
    twice[1] = attribute("v", long_text);
    expect_refused(item, "1024");
    twice[1] = attribute("v", "\xc0\x80");
    expect_refused(item, "UTF-8");
    struct dn_attribute many[DN_ATTRIBUTES_MAX + 1];
    char names[DN_ATTRIBUTES_MAX + 1][8];
    for (int i = 0; i <= DN_ATTRIBUTES_MAX; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i);
        many[i] = attribute(names[i], "");
    }
    item.attributes = many;
    item.attribute_count = DN_ATTRIBUTES_MAX + 1;
    expect_refused(item, "the most is 32");
    item.attribute_count = DN_ATTRIBUTES_MAX;
    assert_int_equal(dn_item_check(&item, NULL), DN_OK);
}

static void test_outcomes(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    float three[3] = {1, 2, 3}, two[2] = {1, 1};
    struct dn_item item = plain_item("none", NULL, 0);
    assert_int_equal(world_upsert(&w, &item), DN_ITEM_OK);
    assert_int_equal(dn_catalog_dim(w.catalog), 0);
    item = plain_item("a", three, 3);
    assert_int_equal(world_upsert(&w, &item), DN_ITEM_OK);
    item = plain_item("b", two, 2);
    assert_int_equal(world_upsert(&w, &item), DN_ITEM_WRONG_DIM);
    assert_int_equal(world_delete(&w, "a"), DN_ITEM_OK);
    /* The dimension outlives the items that set it. */
    assert_int_equal(world_upsert(&w, &item), DN_ITEM_WRONG_DIM);
    assert_int_equal(dn_catalog_dim(w.catalog), 3);
    uint64_t version = dn_catalog_version(w.catalog);
    assert_int_equal(world_delete(&w, "never"), DN_ITEM_NOT_FOUND);
    assert_int_equal(dn_catalog_version(w.catalog), version);
    for (int i = 0; i < 2; i++) {
        char id[8];
        snprintf(id, sizeof id, "n%d", i);
        item = plain_item(id, three, 3);
        assert_int_equal(world_upsert(&w, &item), DN_ITEM_OK);
    }
    item = plain_item("one-more", three, 3);
    assert_int_equal(world_upsert(&w, &item), DN_ITEM_NO_ROOM);
    item = plain_item("n1", three, 3);
    assert_int_equal(world_upsert(&w, &item), DN_ITEM_OK); /* a replacement needs no room */
    assert_int_equal(dn_catalog_item_count(w.catalog), 3);
    assert_int_equal(dn_catalog_hash(w.catalog), dn_catalog_hash_recompute(w.catalog));
    world_close(&w);
}

/* A proposer that skipped the checks: apply refuses by itself, and only the items that are wrong. */
static void test_unchecked_items(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 100);
    float good[2] = {1, 1}, bad[2] = {1, NAN}, zero[2] = {0, 0};
    struct dn_attribute twice[2] = {attribute("k", "1"), attribute("k", "2")};
    struct dn_attribute built_in = attribute("available", "x");
    struct dn_item items[6] = {
        plain_item("good", good, 2),  plain_item("nan", bad, 2),       plain_item("zero", zero, 2),
        plain_item("twice", good, 2), plain_item("built-in", good, 2), plain_item("\xff", good, 2),
    };
    items[3].attributes = twice;
    items[3].attribute_count = 2;
    items[4].attributes = &built_in;
    items[4].attribute_count = 1;
    dn_catalog_record_upsert(&w.record, items, 6);
    world_apply(&w);
    assert_int_equal(world_outcome(&w, 0), DN_ITEM_OK);
    for (uint32_t i = 1; i < 6; i++) {
        assert_int_equal(world_outcome(&w, i), DN_ITEM_INVALID);
    }
    assert_int_equal(dn_catalog_item_count(w.catalog), 1);
    world_close(&w);
}

static bool attribute_known(struct world *w, const char *name)
{
    struct dn_attribute value = attribute("", "x");
    struct dn_filter_term term = {.op = DN_FILTER_EQ,
                                  .name = name,
                                  .name_length = (uint16_t)strlen(name),
                                  .values = &value,
                                  .value_count = 1};
    struct dn_filter filter = {.terms = &term, .term_count = 1};
    dn_epoch_enter(w->reader);
    enum dn_code code = dn_filter_check(w->catalog, &filter, NULL);
    dn_epoch_leave(w->reader);
    return code == DN_OK;
}

/* Keys come with their first item and go with their last, and there is a most of them. */
static void test_attribute_keys(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 2000);
    struct dn_attribute colour = attribute("colour", "red"), size = attribute("size", "9");
    struct dn_item a = plain_item("a", NULL, 0), b = plain_item("b", NULL, 0);
    a.attributes = &colour;
    b.attributes = &colour;
    a.attribute_count = b.attribute_count = 1;
    assert_int_equal(world_upsert(&w, &a), DN_ITEM_OK);
    assert_int_equal(world_upsert(&w, &b), DN_ITEM_OK);
    assert_true(attribute_known(&w, "colour"));
    assert_false(attribute_known(&w, "colou"));
    assert_int_equal(world_delete(&w, "a"), DN_ITEM_OK);
    assert_true(attribute_known(&w, "colour"));
    b.attributes = &size;
    assert_int_equal(world_upsert(&w, &b), DN_ITEM_OK);
    assert_false(attribute_known(&w, "colour"));
    assert_true(attribute_known(&w, "size"));
    for (int i = 0; i < 1023; i++) {
        char id[16], key[16];
        snprintf(id, sizeof id, "k%d", i);
        snprintf(key, sizeof key, "key-%d", i);
        colour = attribute(key, "");
        a = plain_item(id, NULL, 0);
        a.attributes = &colour;
        a.attribute_count = 1;
        assert_int_equal(world_upsert(&w, &a), DN_ITEM_OK);
    }
    colour = attribute("one-more", "");
    a = plain_item("z", NULL, 0);
    a.attributes = &colour;
    a.attribute_count = 1;
    assert_int_equal(world_upsert(&w, &a), DN_ITEM_NO_ROOM);
    assert_int_equal(world_delete(&w, "k500"), DN_ITEM_OK);
    assert_int_equal(world_upsert(&w, &a), DN_ITEM_OK);
    assert_true(attribute_known(&w, "one-more"));
    world_close(&w);
}

/* ---- filters: the terms one by one
 * -------------------------------------------------------------------------- */

struct filter_case {
    enum dn_filter_op op;
    const char *name;
    const char *values[2];
    size_t value_count;
    double min, max;
    const char *refused; /* part of the message; NULL: allowed */
    bool matches;
};

/* The values in order are found like the values as they came, for an item with and without a price. */
static void sorted_filters_match_alike(const struct dn_item *bare)
{
    enum { VALUES = 200 };
    static const char *const names[] = {"category", "price", "available", "kind"};
    struct dn_arena *arena = dn_arena_create(4096, 1 << 20);
    struct dn_attribute values[VALUES], copy[VALUES], kind = {.key = "kind", .key_length = 4};
    char texts[VALUES][8], text[8];
    assert_non_null(arena);
    for (int i = 0; i < VALUES; i++) {
        int length = snprintf(texts[i], sizeof texts[i], "%d", (i * 7919) % 1000);
        values[i] = (struct dn_attribute){.key = "", .value = texts[i], .value_length = (uint16_t)length};
    }
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        struct dn_filter_term plain = {.op = DN_FILTER_IN,
                                       .name = names[n],
                                       .name_length = (uint16_t)strlen(names[n]),
                                       .values = values,
                                       .value_count = VALUES};
        struct dn_filter_term sorted = plain;
        memcpy(copy, values, sizeof copy);
        sorted.values = copy;
        assert_true(dn_filter_sort(&sorted, copy, arena));
        for (int i = -1; i < 1100; i++) {
            struct dn_item item = *bare;
            item.price = i < 0 ? (double)NAN : i;
            kind.value = item.category = text;
            kind.value_length = item.category_length = (uint16_t)snprintf(text, sizeof text, "%d", i);
            item.attributes = &kind;
            item.attribute_count = 1;
            assert_int_equal(dn_filter_match(&(struct dn_filter){.terms = &plain, .term_count = 1}, &item),
                             dn_filter_match(&(struct dn_filter){.terms = &sorted, .term_count = 1}, &item));
        }
    }
    dn_arena_destroy(arena);
}

static void test_filter_terms(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 10);
    struct dn_attribute attributes[2] = {attribute("size", "42.5"), attribute("colour", "red")};
    struct dn_item item = plain_item("a", NULL, 0);
    item.category = "shoes";
    item.category_length = 5;
    item.price = 20;
    item.attributes = attributes;
    item.attribute_count = 2;
    assert_int_equal(world_upsert(&w, &item), DN_ITEM_OK);
    const struct filter_case cases[] = {
        {DN_FILTER_EQ, "category", {"shoes"}, 1, 0, 0, NULL, true},
        {DN_FILTER_EQ, "category", {"shoe"}, 1, 0, 0, NULL, false},
        {DN_FILTER_IN, "category", {"hats", "shoes"}, 2, 0, 0, NULL, true},
        {DN_FILTER_IN, "category", {"hats", "ties"}, 2, 0, 0, NULL, false},
        {DN_FILTER_RANGE, "category", {0}, 0, 0, 1, "no order", false},
        {DN_FILTER_RANGE, "price", {0}, 0, 20, 20, NULL, true},
        {DN_FILTER_RANGE, "price", {0}, 0, 20.01, INFINITY, NULL, false},
        {DN_FILTER_RANGE, "price", {0}, 0, -INFINITY, INFINITY, NULL, true},
        {DN_FILTER_RANGE, "price", {0}, 0, 2, 1, "min <= max", false},
        {DN_FILTER_RANGE, "price", {0}, 0, NAN, 1, "NaN", false},
        {DN_FILTER_EQ, "price", {"20.0"}, 1, 0, 0, NULL, true},
        {DN_FILTER_EQ, "price", {"cheap"}, 1, 0, 0, "not a number", false},
        {DN_FILTER_EQ, "available", {"true"}, 1, 0, 0, NULL, true},
        {DN_FILTER_EQ, "available", {"false"}, 1, 0, 0, NULL, false},
        {DN_FILTER_EQ, "available", {"yes"}, 1, 0, 0, "'true' or 'false'", false},
        {DN_FILTER_EQ, "colour", {"red"}, 1, 0, 0, NULL, true},
        {DN_FILTER_EQ, "colour", {""}, 1, 0, 0, NULL, false},
        {DN_FILTER_RANGE, "colour", {0}, 0, 0, 9, NULL, false},
        {DN_FILTER_RANGE, "size", {0}, 0, 42, 43, NULL, true},
        {DN_FILTER_RANGE, "size", {0}, 0, 43, 44, NULL, false},
        {DN_FILTER_EQ, "size", {"42.50"}, 1, 0, 0, NULL, false}, /* compared as text */
        {DN_FILTER_EQ, "weight", {"1"}, 1, 0, 0, "no item of the catalogue has", false},
        {DN_FILTER_EQ, "", {"1"}, 1, 0, 0, "1 to 64", false},
        {DN_FILTER_EQ, "colour", {"a", "b"}, 2, 0, 0, "one value", false},
        {DN_FILTER_IN, "colour", {0}, 0, 0, 0, "1 to 1000", false},
        {(enum dn_filter_op)7, "colour", {"a"}, 1, 0, 0, "unknown operator", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct filter_case *c = &cases[i];
        struct dn_attribute values[2];
        for (size_t v = 0; v < c->value_count; v++) {
            values[v] = attribute("", c->values[v]);
        }
        struct dn_filter_term term = {.op = c->op,
                                      .name = c->name,
                                      .name_length = (uint16_t)strlen(c->name),
                                      .values = values,
                                      .value_count = c->value_count,
                                      .min = c->min,
                                      .max = c->max};
        struct dn_filter filter = {.terms = &term, .term_count = 1};
        struct dn_error err = {0};
        dn_epoch_enter(w.reader);
        enum dn_code code = dn_filter_check(w.catalog, &filter, &err);
        struct dn_item got;
        assert_int_equal(dn_catalog_get(w.catalog, "a", 1, &got), DN_OK);
        bool matches = code == DN_OK && dn_filter_match(&filter, &got);
        dn_epoch_leave(w.reader);
        if ((c->refused == NULL) != (code == DN_OK) || matches != c->matches ||
            (c->refused != NULL && strstr(err.message, c->refused) == NULL)) {
            fail_msg("case %zu: code %d '%s', matches %d", i, (int)code, err.message, matches);
        }
    }
    struct dn_item bare = plain_item("bare", NULL, 0);
    struct dn_filter_term price = {
        .op = DN_FILTER_RANGE, .name = "price", .name_length = 5, .min = -INFINITY, .max = INFINITY};
    assert_false(dn_filter_match(&(struct dn_filter){.terms = &price, .term_count = 1}, &bare));
    sorted_filters_match_alike(&bare);
    bare.available = false;
    assert_false(dn_filter_match(&(struct dn_filter){.only_available = true}, &bare));
    assert_true(dn_filter_match(NULL, &bare));
    world_close(&w);
}

static void test_facts(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 10);
    char text[8];
    assert_int_equal(dn_catalog_fact(w.catalog, "shards", text, sizeof text), DN_NOT_FOUND);
    expect_fact(&w, "shards", "4", "4");
    uint64_t hash = dn_catalog_hash(w.catalog);
    expect_fact(&w, "shards", "5", "4");
    assert_int_equal(dn_catalog_hash(w.catalog), hash);
    expect_fact(&w, "key_fingerprint", "abcdefgh", "abcdefgh");
    assert_int_not_equal(dn_catalog_hash(w.catalog), hash);
    assert_int_equal(dn_catalog_fact(w.catalog, "key_fingerprint", text, sizeof text), DN_RANGE);
    assert_int_equal(dn_catalog_hash(w.catalog), dn_catalog_hash_recompute(w.catalog));
    void *capture = dn_catalog_snapshot_begin(w.catalog);
    struct dn_buffer bytes;
    dn_buffer_init(&bytes, 1u << 20);
    assert_int_equal(whole_write(dn_catalog_snapshot_write, w.catalog, capture, &bytes, NULL), DN_OK);
    dn_catalog_snapshot_end(w.catalog, capture);
    hash = dn_catalog_hash(w.catalog);
    restore_into(&w, &bytes);
    assert_int_equal(dn_catalog_hash(w.catalog), hash);
    expect_fact(&w, "shards", "6", "4");
    for (int i = 2; i < 64; i++) {
        char key[16];
        snprintf(key, sizeof key, "fact-%d", i);
        expect_fact(&w, key, "x", "x");
    }
    dn_buffer_clear(&w.record);
    dn_catalog_record_fact(&w.record, "one too many", "x");
    world_apply(&w);
    assert_int_equal(w.result.bytes[0], 2);
    dn_buffer_free(&bytes);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_item_check),      cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_unchecked_items), cmocka_unit_test(test_attribute_keys),
        cmocka_unit_test(test_filter_terms),    cmocka_unit_test(test_facts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
