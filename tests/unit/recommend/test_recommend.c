/* The recommendation pipeline over a real catalogue, real retrieval and real shards. */
#include "pipeline.h"

#include "tests/whole_stream.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* ---- tests ------------------------------------------------------------------------------------------ */

static void nearest_items_come_first(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("i3", DN_EVENT_VIEW, 0)};

    put_ten(w);
    assert_int_equal(ask(w, events, 1, (struct dn_recommend_query){.k = 4}), DN_OK);
    assert_int_equal(w->count, 4);
    /* i2 and i4 are equally near, so are i1 and i5 (up to rounding): pairs, in order. */
    assert_true(strcmp(id_at(w, 0), "i2") == 0 || strcmp(id_at(w, 0), "i4") == 0);
    assert_true(strcmp(id_at(w, 1), "i2") == 0 || strcmp(id_at(w, 1), "i4") == 0);
    assert_true(strcmp(id_at(w, 2), "i1") == 0 || strcmp(id_at(w, 2), "i5") == 0);
    assert_string_equal(w->items[0].source, "session_vector");
    assert_string_equal(w->items[0].reason, "similar to 'i3', which you viewed");
    assert_true(w->items[0].score >= w->items[3].score);
}

static void the_last_click_weighs_most(void **state)
{
    struct world *w = *state;
    struct dn_event_view forward[] = {event("i0", DN_EVENT_VIEW, 1000), event("i9", DN_EVENT_VIEW, 0)};
    struct dn_event_view backward[] = {event("i9", DN_EVENT_VIEW, 1000), event("i0", DN_EVENT_VIEW, 0)};

    put_ten(w);
    w->settings.recency_decay = 0.2f;
    assert_int_equal(ask(w, forward, 2, (struct dn_recommend_query){.k = 1}), DN_OK);
    assert_string_equal(id_at(w, 0), "i8");
    assert_string_equal(w->items[0].reason, "similar to 'i9', which you viewed");
    assert_int_equal(ask(w, backward, 2, (struct dn_recommend_query){.k = 1}), DN_OK);
    assert_string_equal(id_at(w, 0), "i1");
    /* With no decay by place, an old event still counts less by its time. */
    w->settings.recency_decay = 1;
    forward[0].time_ms -= 4 * w->settings.time_half_life_ms;
    assert_int_equal(ask(w, forward, 2, (struct dn_recommend_query){.k = 1}), DN_OK);
    assert_string_equal(id_at(w, 0), "i8");
}

static void types_and_weights_count(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("i0", DN_EVENT_BUY, 0), event("i9", DN_EVENT_VIEW, 0)};

    put_ten(w);
    w->settings.recency_decay = 1;
    w->settings.type_weight[DN_EVENT_BUY] = 10;
    assert_int_equal(ask(w, events, 2, (struct dn_recommend_query){.k = 1}), DN_OK);
    assert_string_equal(id_at(w, 0), "i1");
    assert_string_equal(w->items[0].reason, "similar to 'i0', which you bought");
    events[1].weight = 200;
    assert_int_equal(ask(w, events, 2, (struct dn_recommend_query){.k = 1}), DN_OK);
    assert_string_equal(id_at(w, 0), "i8");
}

static void dislikes_push_away(void **state)
{
    struct world *w = *state;
    struct dn_event_view liked[] = {event("i5", DN_EVENT_LIKE, 0)};
    struct dn_event_view mixed[] = {event("i6", DN_EVENT_DISLIKE, 1), event("i5", DN_EVENT_LIKE, 0)};
    struct dn_event_view only[] = {event("i9", DN_EVENT_DISLIKE, 0)};

    put_ten(w);
    assert_int_equal(ask(w, liked, 1, (struct dn_recommend_query){.k = 9}), DN_OK);
    assert_int_equal(w->count, 9);
    w->settings.type_weight[DN_EVENT_DISLIKE] = -2.4f;
    assert_int_equal(ask(w, mixed, 2, (struct dn_recommend_query){.k = 1}), DN_OK);
    assert_string_equal(id_at(w, 0), "i0"); /* like minus dislike points well below 50 degrees */
    assert_string_equal(w->items[0].reason, "similar to 'i5', which you liked");
    assert_int_equal(ask(w, mixed, 2, (struct dn_recommend_query){.k = 9}), DN_OK);
    for (size_t i = 0; i < w->count; i++) /* also what is nearest to the disliked i6 is not there for it */
        assert_null(strstr(w->items[i].reason, "'i6'"));
    /* Nothing liked: trending leads, but what resembles the disliked item sinks below what does not. */
    trend(w, 0, "i8", 9);
    trend(w, 0, "i0", 8);
    trend(w, 1, "i1", 1);
    assert_int_equal(ask(w, only, 1, (struct dn_recommend_query){.k = 9}), DN_OK);
    assert_int_equal(w->count, 9);
    assert_string_equal(id_at(w, 0), "i0");
    assert_string_equal(w->items[0].source, "trending");
    assert_false(has(w, "i9"));
    /* Likes and dislikes of one item cancel: no direction, still an answer. */
    struct dn_event_view cancel[] = {event("i3", DN_EVENT_VIEW, 0), event("i3", DN_EVENT_DISLIKE, 0)};
    w->settings.type_weight[DN_EVENT_DISLIKE] = -1;
    w->settings.recency_decay = 1;
    assert_int_equal(ask(w, cancel, 2, (struct dn_recommend_query){.k = 3}), DN_OK);
    assert_string_equal(id_at(w, 0), "i8");
}

static void filters_hold_in_every_source(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("i0", DN_EVENT_VIEW, 0)};
    struct dn_attribute even = {.value = "even", .value_length = 4};
    struct dn_filter_term terms[] = {
        {.op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &even, .value_count = 1},
        {.op = DN_FILTER_RANGE, .name = "price", .name_length = 5, .min = 3, .max = INFINITY}};
    struct dn_filter filter = {.terms = terms, .term_count = 2, .only_available = true};
    struct dn_recommend_query query = {.k = 10, .filter = &filter};

    put_ten(w);
    put_bare(w, "gone", false);
    trend(w, 0, "i1", 5);
    trend(w, 1, "i4", 1);
    trend(w, 1, "gone", 9);
    assert_int_equal(ask(w, events, 1, query), DN_OK);
    assert_int_equal(w->count, 3); /* i4 i6 i8 */
    assert_true(has(w, "i4") && has(w, "i6") && has(w, "i8"));
    assert_int_equal(ask(w, NULL, 0, query), DN_OK);
    assert_int_equal(w->count, 3);
    assert_string_equal(id_at(w, 0), "i4");
    assert_int_equal(ask(w, NULL, 0, (struct dn_recommend_query){.k = 100}), DN_OK);
    assert_int_equal(w->count, 10);
    assert_false(has(w, "gone"));
    struct dn_filter all = {.only_available = false};
    assert_int_equal(ask(w, NULL, 0, (struct dn_recommend_query){.k = 100, .filter = &all}), DN_OK);
    assert_string_equal(id_at(w, 0), "gone");
    terms[0].name = "colour";
    terms[0].name_length = 6;
    assert_int_equal(ask(w, NULL, 0, query), DN_INVALID);
    assert_non_null(strstr(w->err.message, "colour"));
}

static void cold_user_gets_trending_then_catalogue(void **state)
{
    struct world *w = *state;

    put_ten(w);
    put_bare(w, "novector", true);
    trend(w, 0, "i7", 3);
    trend(w, 1, "i7", 3); /* the sum of the shards counts: 6 */
    trend(w, 1, "i2", 5);
    trend(w, 0, "not in the catalogue", 9);
    assert_int_equal(ask(w, NULL, 0, (struct dn_recommend_query){.k = 5}), DN_OK);
    assert_int_equal(w->count, 5);
    assert_string_equal(id_at(w, 0), "i7");
    assert_string_equal(w->items[0].reason, "trending now");
    assert_string_equal(id_at(w, 1), "i2");
    assert_string_equal(w->items[2].source, "catalog");
    assert_string_equal(id_at(w, 2), "i0");
    assert_int_equal(ask(w, NULL, 0, (struct dn_recommend_query){.k = 1000}), DN_OK);
    assert_int_equal(w->count, 11); /* all there is, also what has no vector */
    assert_true(has(w, "novector"));
}

static void empty_catalogue_gives_an_empty_answer(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("x", DN_EVENT_VIEW, 0)};

    trend(w, 0, "x", 3);
    assert_int_equal(ask(w, events, 1, (struct dn_recommend_query){.k = 5}), DN_OK);
    assert_int_equal(w->count, 0);
    assert_int_equal(ask(w, NULL, 0, (struct dn_recommend_query){.k = 5}), DN_OK);
    assert_int_equal(w->count, 0);
}

static void unknown_and_bare_items_in_the_session(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("i4", DN_EVENT_VIEW, 2), event("bare", DN_EVENT_VIEW, 1),
                                     event("unheard of", DN_EVENT_BUY, 0)};

    put_ten(w);
    put_bare(w, "bare", true);
    assert_int_equal(ask(w, events, 3, (struct dn_recommend_query){.k = 2}), DN_OK);
    assert_int_equal(w->count, 2);
    assert_true(has(w, "i3") && has(w, "i5"));
    assert_int_equal(ask(w, events, 3, (struct dn_recommend_query){.k = 100}), DN_OK);
    assert_int_equal(w->count, 9); /* ten and the bare one, without i4 and the bare one itself */
    assert_int_equal(ask(w, events + 1, 2, (struct dn_recommend_query){.k = 100}), DN_OK);
    assert_int_equal(w->count, 10);
}

static void seen_and_excluded(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("i4", DN_EVENT_VIEW, 1), event("i5", DN_EVENT_CART, 0)};
    struct dn_attribute ids[] = {{.value = "i5", .value_length = 2},
                                 {.value = "i6", .value_length = 2},
                                 {.value = "i6", .value_length = 2},
                                 {.value = "nowhere", .value_length = 7}};
    struct dn_recommend_query query = {.k = 10};

    put_ten(w);
    trend(w, 0, "i5", 4);
    assert_int_equal(ask(w, events, 2, query), DN_OK);
    assert_int_equal(w->count, 8);
    assert_false(has(w, "i4") || has(w, "i5"));
    query.include_seen = true;
    assert_int_equal(ask(w, events, 2, query), DN_OK);
    assert_int_equal(w->count, 10);
    assert_string_equal(id_at(w, 0), "i5");
    assert_string_equal(w->items[0].reason, "an item you put in the cart");
    query.exclude = ids;
    query.exclude_count = 4;
    assert_int_equal(ask(w, events, 2, query), DN_OK);
    assert_int_equal(w->count, 8);
    assert_false(has(w, "i5") || has(w, "i6"));
    /* Only the newest events count for the direction, but all are seen. */
    w->settings.session_events_used = 1;
    assert_int_equal(ask(w, events, 2, (struct dn_recommend_query){.k = 10}), DN_OK);
    assert_int_equal(w->count, 8);
    w->settings.session_events_used = 0;
    assert_int_equal(ask(w, events, 2, (struct dn_recommend_query){.k = 10}), DN_OK);
    assert_string_equal(w->items[0].source, "catalog");
}

static void limits_are_refused_with_a_reason(void **state)
{
    struct world *w = *state;

    put_ten(w);
    assert_int_equal(ask(w, NULL, 0, (struct dn_recommend_query){.k = 0}), DN_INVALID);
    assert_int_equal(ask(w, NULL, 0, (struct dn_recommend_query){.k = DN_K_MAX + 1}), DN_INVALID);
    assert_non_null(strstr(w->err.message, "1 to 1000"));
    assert_int_equal(
        ask(w, NULL, 0, (struct dn_recommend_query){.k = 1, .exclude_count = DN_EXCLUDE_MAX + 1}),
        DN_INVALID);
    assert_int_equal(dn_trending(&w->view, DN_WINDOW_TREND, 0, NULL, w->arena, &w->items, &w->count, &w->err),
                     DN_INVALID);
}

static void similar_and_trending(void **state)
{
    struct world *w = *state;
    struct dn_item self;

    put_ten(w);
    put_bare(w, "bare", true);
    assert_int_equal(dn_catalog_get(w->catalog, "i0", 2, &self), DN_OK);
    assert_int_equal(dn_similar(&w->view, self.vector, self.dim, self.slot, 3, NULL, w->arena, &w->items,
                                &w->count, &w->err),
                     DN_OK);
    assert_int_equal(w->count, 3);
    assert_string_equal(id_at(w, 0), "i1");
    assert_string_equal(id_at(w, 2), "i3");
    assert_true(fabsf(w->items[0].score - cosf(10 * 3.14159265f / 180)) < 1e-4f);
    assert_int_equal(dn_similar(&w->view, self.vector, self.dim, UINT32_MAX, 20, NULL, w->arena, &w->items,
                                &w->count, &w->err),
                     DN_OK);
    assert_int_equal(w->count, 10);
    assert_string_equal(id_at(w, 0), "i0");
    trend(w, 0, "i3", 2);
    trend(w, 1, "i3", 2);
    trend(w, 1, "bare", 3);
    assert_int_equal(dn_trending(&w->view, DN_WINDOW_TREND, 5, NULL, w->arena, &w->items, &w->count, &w->err),
                     DN_OK);
    assert_int_equal(w->count, 2);
    assert_string_equal(id_at(w, 0), "i3");
    assert_true(w->items[0].score > 3.5f && w->items[0].score < 4.5f);
    assert_string_equal(id_at(w, 1), "bare");
}

static struct dn_filter only_small(void)
{
    static struct dn_attribute small = {.value = "small", .value_length = 5};
    static struct dn_filter_term term = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &small, .value_count = 1};

    return (struct dn_filter){.terms = &term, .term_count = 1, .only_available = true};
}

/* Items that no shard has among its tops, since others are asked for more. */
static void a_small_category_has_its_own_trends(void **state)
{
    struct world *w = *state;
    struct dn_filter filter = only_small();
    char id[16];

    put_plain(w, "none", "small", true);
    for (int i = 0; i < DN_TREND_MAX + 10; i++) {
        snprintf(id, sizeof id, "big%d", i);
        put(w, id, 0.2 * i, "big", 1);
        trend(w, 0, id, 3);
        trend(w, 1, id, 3);
    }
    put_plain(w, "one", "small", true);
    put_plain(w, "three", "small", true);
    put_plain(w, "two", "small", true);
    trend(w, 0, "one", 1);
    trend(w, 0, "two", 2);
    trend(w, 0, "three", 1);
    trend(w, 1, "three", 2);
    assert_int_equal(
        dn_trending(&w->view, DN_WINDOW_TREND, 5, &filter, w->arena, &w->items, &w->count, &w->err), DN_OK);
    assert_int_equal(w->count, 3); /* what nobody asked for does not trend */
    assert_string_equal(id_at(w, 0), "three");
    assert_string_equal(id_at(w, 1), "two");
    assert_string_equal(id_at(w, 2), "one");
    assert_true(fabsf(w->items[0].score - 3) < 0.1f && fabsf(w->items[2].score - 1) < 0.05f);
    /* And fills the places of a cold user before the catalogue does. */
    assert_int_equal(ask(w, NULL, 0, (struct dn_recommend_query){.k = 4, .filter = &filter}), DN_OK);
    assert_int_equal(w->count, 4);
    assert_string_equal(id_at(w, 0), "three");
    assert_string_equal(w->items[2].source, "trending");
    assert_string_equal(id_at(w, 3), "none");
    assert_string_equal(w->items[3].source, "catalog");
}

/* The first look names what is picked already: that fills no place, so there must be another look. */
static void picks_do_not_count_as_filling(void **state)
{
    struct world *w = *state;
    struct dn_filter filter = only_small();
    struct dn_event_view events[] = {event("liked", DN_EVENT_VIEW, 0)};
    char id[16];

    put_plain(w, "first", "small", true);
    put(w, "liked", 0, "big", 1);
    for (int i = 0; i < 100; i++) {
        snprintf(id, sizeof id, "big%d", i);
        put(w, id, 90, "big", 1);
        trend(w, 0, id, 3);
    }
    put(w, "picked", 0, "small", 1);
    put_plain(w, "second", "small", true);
    trend(w, 0, "picked", 9);
    trend(w, 0, "second", 1);
    assert_int_equal(ask(w, events, 1, (struct dn_recommend_query){.k = 2, .filter = &filter}), DN_OK);
    assert_int_equal(w->count, 2);
    assert_string_equal(id_at(w, 0), "picked");
    assert_string_equal(w->items[0].source, "session_vector");
    assert_string_equal(id_at(w, 1), "second");
    assert_string_equal(w->items[1].source, "trending");
}

static void a_full_arena_is_an_answer(void **state)
{
    struct world *w = *state;
    struct dn_event_view events[] = {event("i4", DN_EVENT_VIEW, 0)};
    struct dn_session_view session = {.event_count = 1, .events = events};
    struct dn_recommend_query query = {.k = 1000, .session = &session};
    int exhausted = 0, done = 0;

    put_ten(w);
    trend(w, 0, "i2", 1);
    for (size_t cap = 64; cap <= 4u << 20; cap += cap / 2) {
        struct dn_arena *arena = dn_arena_create(64, cap);
        enum dn_code code =
            dn_recommend(&w->view, &w->settings, &query, arena, &w->items, &w->count, &w->err);

        assert_true(code == DN_OK || code == DN_EXHAUSTED);
        exhausted += code == DN_EXHAUSTED;
        done += code == DN_OK;
        if (code == DN_OK)
            assert_int_equal(w->count, 9);
        dn_arena_destroy(arena);
    }
    assert_true(exhausted > 0 && done > 0);
}

/* ---- random worlds: the promises of the header hold -------------------------------------------------- */

static uint64_t random_state;
static uint32_t random_below(uint32_t bound)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % bound;
}

enum { ITEMS = 400, ROUNDS = 300 };

static void put_random_items(struct world *w)
{
    static const char *const CATEGORIES[] = {"a", "b", "c"};
    char id[16];

    for (int i = 0; i < ITEMS; i++) {
        float vector[DIM];
        const char *category = CATEGORIES[random_below(3)];

        for (int d = 0; d < DIM; d++)
            vector[d] = (float)random_below(2001) / 1000 - 1 + 1e-3f;
        snprintf(id, sizeof(id), "%u", (unsigned)i);
        put_item(w, &(struct dn_item){.id = id,
                                      .id_length = (uint16_t)strlen(id),
                                      .vector = random_below(8) ? vector : NULL,
                                      .dim = DIM,
                                      .category = category,
                                      .category_length = 1,
                                      .price = random_below(4) ? (double)random_below(100) : (double)NAN,
                                      .available = random_below(5) != 0});
    }
    for (int i = 0; i < 100; i++) {
        snprintf(id, sizeof(id), "%u", random_below(ITEMS));
        trend(w, (int)random_below(SHARDS), id, 1 + (int)random_below(4));
    }
}

/* Full as far as the cap lets it be; allowed: by the items' numbers. */
static void ask_with_cap(struct world *w, const struct dn_event_view *events, size_t event_count,
                         struct dn_recommend_query query, const bool *allowed)
{
    struct dn_rules rules = {.category_cap = 1 + random_below(40)};
    size_t of[3] = {0}, most = 0;

    query.rules = &rules;
    assert_int_equal(ask(w, events, event_count, query), DN_OK);
    for (int i = 0; i < ITEMS; i++) {
        struct dn_item item;
        char id[16];

        snprintf(id, sizeof(id), "%d", i);
        assert_int_equal(dn_catalog_get(w->catalog, id, strlen(id), &item), DN_OK);
        of[item.category[0] - 'a'] += allowed[i];
        assert_true(allowed[i] || !has(w, id));
    }
    for (int i = 0; i < 3; i++) {
        static const char *const CATEGORIES[] = {"a", "b", "c"};
        most += of[i] < rules.category_cap ? of[i] : rules.category_cap;
        assert_true(of_category(w, CATEGORIES[i]) <= rules.category_cap);
    }
    assert_int_equal(w->count, query.k < most ? query.k : most);
}

static void random_queries_keep_the_promises(void **state)
{
    struct world *w = *state;
    const char *given = getenv("DUNLIN_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    static char names[60][16];
    struct dn_event_view events[60];

    random_state = seed;
    print_message("seed %llu (set DUNLIN_SEED to repeat)\n", (unsigned long long)seed);
    put_random_items(w);
    for (int round = 0; round < ROUNDS; round++) {
        size_t event_count = random_below(60);
        struct dn_attribute category = {.value = "a", .value_length = 1};
        struct dn_filter_term term = {
            .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &category, .value_count = 1};
        struct dn_filter filter = {
            .terms = &term, .term_count = random_below(2), .only_available = random_below(2)};
        struct dn_recommend_query query = {.k = 1 + random_below(random_below(2) ? 30 : 500),
                                           .filter = random_below(3) ? &filter : NULL,
                                           .include_seen = random_below(2)};
        struct dn_filter effective = query.filter ? filter : (struct dn_filter){.only_available = true};
        static bool allowed[ITEMS], returned[ITEMS];
        size_t allowed_count = 0;
        static char first[500][16];
        size_t first_count;

        for (size_t i = 0; i < event_count; i++) {
            snprintf(names[i], sizeof(names[i]), "%u", random_below(ITEMS + 20)); /* some unknown */
            events[i] = event(names[i], (uint8_t)(1 + random_below(DN_EVENT_TYPE_MAX)),
                              (int64_t)(60 - i) * (int64_t)random_below(100000));
        }
        for (int i = 0; i < ITEMS; i++) {
            struct dn_item item;
            char id[16];

            snprintf(id, sizeof(id), "%d", i);
            assert_int_equal(dn_catalog_get(w->catalog, id, strlen(id), &item), DN_OK);
            allowed[i] = dn_filter_match(&effective, &item);
            for (size_t e = 0; e < event_count && !query.include_seen; e++)
                if (strcmp(names[e], id) == 0)
                    allowed[i] = false;
            allowed_count += allowed[i];
            returned[i] = false;
        }
        ask_with_cap(w, events, event_count, query, allowed);
        if (ask(w, events, event_count, query) != DN_OK)
            fail_msg("round %d: %s", round, w->err.message);
        assert_int_equal(w->count, query.k < allowed_count ? query.k : allowed_count);
        for (size_t i = 0; i < w->count; i++) {
            int id = atoi(id_at(w, i));

            assert_true(allowed[id]);
            assert_false(returned[id]);
            returned[id] = true;
            assert_true(isfinite(w->items[i].score));
            assert_true(w->items[i].reason[0] != 0 && w->items[i].source[0] != 0);
            snprintf(first[i], sizeof(first[i]), "%s", id_at(w, i));
            if (i > 0 && w->items[i].score == w->items[i - 1].score)
                assert_true(strcmp(first[i - 1], first[i]) < 0);
            else if (i > 0)
                assert_true(w->items[i].score < w->items[i - 1].score);
        }
        /* Asked again: the same answer in the same order. */
        first_count = w->count;
        assert_int_equal(ask(w, events, event_count, query), DN_OK);
        assert_int_equal(w->count, first_count);
        for (size_t i = 0; i < w->count; i++)
            assert_string_equal(id_at(w, i), first[i]);
    }
}

/* ---- a restore in the middle of requests --------------------------------------------------------------- */

enum { RESTORE_ITEMS = 300, RESTORE_REQUESTS = 20000 };

struct restorer {
    struct world *w;
    struct dn_buffer layouts[2];
    atomic_bool stop;
    unsigned installed;
};

/* A snapshot whose items lie in ascending or descending order of their names, hence of their slots. */
static void layout_make(struct dn_buffer *out, bool descending)
{
    struct world other = {.epoch = dn_epoch_create()};
    struct dn_epoch_reader *reader = dn_epoch_register(other.epoch);
    other.catalog = dn_catalog_create(other.epoch, 100000);
    for (int i = 0; i < RESTORE_ITEMS; i++) {
        int number = descending ? RESTORE_ITEMS - 1 - i : i;
        char id[16];

        snprintf(id, sizeof(id), "%03d", number);
        put(&other, id, number * 0.25, "c", 1);
    }
    void *capture = dn_catalog_snapshot_begin(other.catalog);
    dn_buffer_init(out, 1 << 24);
    assert_int_equal(whole_write(dn_catalog_snapshot_write, other.catalog, capture, out, &other.err), DN_OK);
    dn_catalog_snapshot_end(other.catalog, capture);
    dn_catalog_destroy(other.catalog);
    dn_epoch_unregister(reader);
    dn_epoch_destroy(other.epoch);
}

/* The epoch's writer, as the consensus thread is. */
static void *restorer_main(void *data)
{
    struct restorer *r = data;

    while (!atomic_load(&r->stop)) {
        const struct dn_buffer *layout = &r->layouts[r->installed % 2];
        struct dn_error err;
        void *built = NULL;

        if (whole_build(dn_catalog_restore_build, r->w->catalog, layout->bytes, layout->length, &built,
                        &err) != DN_OK)
            abort();
        dn_catalog_restore_install(r->w->catalog, built);
        r->installed++;
        dn_catalog_entry_done(r->w->catalog, r->installed, START_MS);
        dn_epoch_reclaim(r->w->epoch, 1000);
    }
    return NULL;
}

/* Slots mean other items after a restore: a request that runs across one must not mix them up. */
static void a_restore_does_not_mix_items_up(void **state)
{
    struct world *w = *state;
    struct restorer r = {.w = w};
    struct dn_event_view event = {
        .item = "000", .item_length = 3, .item_hash = dn_hash64("000", 3, 0), .type = DN_EVENT_VIEW};
    struct dn_session_view session = {.event_count = 1, .events = &event};
    struct dn_recommend_query query = {.session = &session, .k = 3};
    pthread_t thread;

    event.weight = 1;
    event.time_ms = START_MS;
    layout_make(&r.layouts[0], false);
    layout_make(&r.layouts[1], true);
    dn_epoch_leave(w->reader);
    assert_int_equal(pthread_create(&thread, NULL, restorer_main, &r), 0);
    while (dn_catalog_item_count(w->catalog) == 0) {
        dn_epoch_enter(w->reader);
        dn_epoch_leave(w->reader);
    }
    for (int i = 0; i < RESTORE_REQUESTS; i++) {
        dn_arena_reset(w->arena);
        dn_epoch_enter(w->reader);
        enum dn_code code =
            dn_recommend(&w->view, &w->settings, &query, w->arena, &w->items, &w->count, &w->err);
        if (code != DN_OK || w->count != 3 || strcmp(id_at(w, 0), "001") != 0 ||
            strcmp(id_at(w, 1), "002") != 0 || strcmp(id_at(w, 2), "003") != 0)
            fail_msg("request %d, after %u restores: code %d, %zu items, first %s", i, r.installed, code,
                     w->count, w->count > 0 ? id_at(w, 0) : "-");
        dn_epoch_leave(w->reader);
    }
    atomic_store(&r.stop, true);
    pthread_join(thread, NULL);
    assert_true(r.installed > 10);
    dn_buffer_free(&r.layouts[0]);
    dn_buffer_free(&r.layouts[1]);
    dn_epoch_enter(w->reader);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nearest_items_come_first),
        TEST(the_last_click_weighs_most),
        TEST(types_and_weights_count),
        TEST(dislikes_push_away),
        TEST(filters_hold_in_every_source),
        TEST(cold_user_gets_trending_then_catalogue),
        TEST(empty_catalogue_gives_an_empty_answer),
        TEST(unknown_and_bare_items_in_the_session),
        TEST(seen_and_excluded),
        TEST(limits_are_refused_with_a_reason),
        TEST(similar_and_trending),
        TEST(a_small_category_has_its_own_trends),
        TEST(picks_do_not_count_as_filling),
        TEST(a_full_arena_is_an_answer),
        TEST(random_queries_keep_the_promises),
        TEST(a_restore_does_not_mix_items_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
