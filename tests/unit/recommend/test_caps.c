/* Caps of categories through the whole pipeline: what is looked at beyond what the sources offered. What they
 * do to what is there is unit.recommend.rerank's; random ones are unit.recommend.recommend's. */
#include "pipeline.h"

static void put_of(struct world *w, const char *id, const char *category, double price)
{
    put_item(w, &(struct dn_item){.id = id,
                                  .id_length = (uint16_t)strlen(id),
                                  .category = category,
                                  .category_length = (uint16_t)strlen(category),
                                  .price = price,
                                  .available = true});
}

/* 120 hats that are alike, five shoes and two coats that nobody looks at together with them; some of all
 * trend. */
static void put_shop(struct world *w)
{
    char id[16];

    for (int i = 0; i < 120; i++) {
        snprintf(id, sizeof(id), "hat%02d", i);
        put(w, id, i / 2.0, "hats", i);
    }
    for (int i = 0; i < 5; i++) {
        snprintf(id, sizeof(id), "shoe%d", i);
        put_of(w, id, "shoes", 10 * i);
    }
    put_of(w, "coat0", "coats", 1);
    put_of(w, "coat1", "coats", 100);
    trend(w, 0, "coat1", 2);
    trend(w, 1, "shoe3", 3);
    for (int i = 0; i < 100; i++) { /* what trends most is hats, too */
        snprintf(id, sizeof(id), "hat%02d", i);
        trend(w, i % SHARDS, id, 4);
    }
}

/* Hats crowd out all others from what is considered first. The places that a cap leaves empty are others' all
 * the same, as long as there are any. */
static void caps_look_further(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("hat00", DN_EVENT_VIEW, 0)};
    struct dn_rules rules = {.category_cap = 3};
    struct dn_recommend_query query = {.k = 12, .rules = &rules};

    put_shop(w);
    assert_int_equal(ask(w, events, 1, query), DN_OK);
    assert_int_equal(w->count, 8); /* nothing is left that the cap allows */
    assert_int_equal(of_category(w, "hats"), 3);
    assert_int_equal(of_category(w, "shoes"), 3);
    assert_int_equal(of_category(w, "coats"), 2);
    for (size_t i = 0; i < 3; i++)
        assert_memory_equal(w->items[i].item.id, "hat", 3);
    assert_string_equal(id_at(w, 3), "shoe3"); /* trends */
    assert_string_equal(w->items[3].source, "trending");
    assert_string_equal(id_at(w, 4), "coat1");
    assert_string_equal(id_at(w, 5), "coat0"); /* of the catalogue, by id */
    assert_string_equal(w->items[5].source, "catalog");
    assert_string_equal(id_at(w, 6), "shoe0");
    assert_string_equal(id_at(w, 7), "shoe1");
    for (size_t i = 1; i < w->count; i++)
        assert_true(w->items[i].score <= w->items[i - 1].score);

    /* No more than k; a filter holds for them, too; and what is excluded. */
    query.k = 7;
    assert_int_equal(ask(w, events, 1, query), DN_OK);
    assert_int_equal(w->count, 7);
    assert_false(has(w, "coat0")); /* the last one of the catalogue */
    struct dn_filter_term term = {
        .op = DN_FILTER_RANGE, .name = "price", .name_length = 5, .min = 5, .max = 1000};
    struct dn_filter filter = {.terms = &term, .term_count = 1};
    struct dn_attribute excluded[] = {{.value = "shoe2", .value_length = 5}};
    query.k = 12;
    query.filter = &filter;
    query.exclude = excluded;
    query.exclude_count = 1;
    assert_int_equal(ask(w, events, 1, query), DN_OK);
    assert_int_equal(w->count, 7); /* coat0 and shoe0 do not pass */
    assert_int_equal(of_category(w, "shoes"), 3);
    assert_false(has(w, "shoe0") || has(w, "shoe2") || has(w, "coat0"));
    query.filter = NULL;
    query.exclude_count = 0;

    /* A pin that nobody else offered counts, and is there once. */
    struct dn_pin pin = {.id = "shoe2", .id_length = 5, .place = 1};
    rules.pins = &pin;
    rules.pin_count = 1;
    assert_int_equal(ask(w, events, 1, query), DN_OK);
    assert_int_equal(w->count, 8);
    assert_string_equal(id_at(w, 0), "shoe2");
    assert_int_equal(of_category(w, "shoes"), 3);
    assert_false(has(w, "shoe1"));
    rules.pin_count = 0;

    /* Diversity goes by the same; a source that is off stays off. */
    rules.diversity = 0.5f;
    assert_int_equal(ask(w, events, 1, query), DN_OK);
    assert_int_equal(w->count, 8);
    query.sources_off = 1u << DN_SOURCE_CATALOG;
    assert_int_equal(ask(w, events, 1, query), DN_OK);
    assert_int_equal(w->count, 5);
    query.sources_off |= 1u << DN_SOURCE_TRENDING;
    assert_int_equal(ask(w, events, 1, query), DN_OK);
    assert_int_equal(w->count, 3);
}

static void a_full_arena_is_an_answer(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("hat00", DN_EVENT_VIEW, 0)};
    struct dn_session_view session = {.event_count = 1, .events = events};
    struct dn_rules rules = {.category_cap = 3};
    struct dn_recommend_query query = {.k = 12, .rules = &rules, .session = &session};
    int exhausted = 0, done = 0;

    put_shop(w);
    for (size_t cap = 4096; cap <= 4u << 20; cap += cap / 16) {
        struct dn_arena *arena = dn_arena_create(64, cap);
        enum dn_code code =
            dn_recommend(&w->view, &w->settings, &query, arena, &w->items, &w->count, &w->err);

        assert_true(code == DN_OK || code == DN_EXHAUSTED);
        exhausted += code == DN_EXHAUSTED;
        done += code == DN_OK;
        if (code == DN_OK)
            assert_int_equal(w->count, 8);
        dn_arena_destroy(arena);
    }
    assert_true(exhausted > 0 && done > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(caps_look_further, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_arena_is_an_answer, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
