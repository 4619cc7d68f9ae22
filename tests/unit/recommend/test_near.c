/* What the shards' tables say of a session, through real shards and a real catalogue: neighbours, rules and
 * co-visitation lead, what the session itself added is left out, a label as if it had never been clicked, and
 * the learner finds what predicts. */
#include "near_world.h"

/* ---- what is said ------------------------------------------------------------------------------------ */

static void neighbours_and_rules_lead(void **state)
{
    struct world *w = world_create();

    (void)state;
    walk(w, 1, 6, "abc");
    walk(w, 20, 3, "de");
    ask(w, "a", (struct dn_recommend_query){.k = 2});
    assert_int_equal(at(w, 0), 'b');
    assert_int_equal(at(w, 1), 'c');
    assert_true(w->items[0].score > w->items[1].score && w->items[0].score == 1);
    ask(w, "d", (struct dn_recommend_query){.k = 1});
    assert_int_equal(at(w, 0), 'e');
    /* Single sources, and what they say. */
    static const unsigned SOURCES[] = {DN_SOURCE_VSTAN, DN_SOURCE_VMIS, DN_SOURCE_RULES, DN_SOURCE_COVIS};
    for (size_t i = 0; i < 4; i++) {
        ask(w, "a", (struct dn_recommend_query){.k = 3, .only = 1 + SOURCES[i]});
        assert_string_equal(w->items[0].source, dn_recommend_source_name(SOURCES[i]));
        assert_true(at(w, 0) == 'b' || at(w, 0) == 'c');
    }
    ask(w, "a", (struct dn_recommend_query){.k = 1, .only = 1 + DN_SOURCE_RULES});
    assert_int_equal(at(w, 0), 'b');
    assert_string_equal(w->items[0].reason, "often after 'a'");
    ask(w, "b", (struct dn_recommend_query){.k = 5, .only = 1 + DN_SOURCE_RULES});
    assert_int_equal(at(w, 0), 'c'); /* a never follows b */
    assert_string_equal(w->items[1].source, "trending");
    ask(w, "b", (struct dn_recommend_query){.k = 5, .only = 1 + DN_SOURCE_COVIS});
    assert_true((at(w, 0) == 'c' && at(w, 1) == 'a') || (at(w, 0) == 'a' && at(w, 1) == 'c'));
    world_destroy(w);
}

static void sources_can_be_off(void **state)
{
    struct world *w = world_create();
    uint32_t near =
        1u << DN_SOURCE_VSTAN | 1u << DN_SOURCE_VMIS | 1u << DN_SOURCE_RULES | 1u << DN_SOURCE_COVIS;

    (void)state;
    walk(w, 1, 6, "abc");
    ask(w, "a", (struct dn_recommend_query){.k = 2, .sources_off = near});
    assert_string_equal(w->items[0].source, "trending");
    for (unsigned source = 0; source < 4; source++) {
        ask(w, "a", (struct dn_recommend_query){.k = 2, .sources_off = near & ~(1u << source)});
        assert_string_equal(w->items[0].source, dn_recommend_source_name(source));
    }
    ask(w, "a",
        (struct dn_recommend_query){
            .k = 2, .sources_off = near | 1u << DN_SOURCE_TRENDING | 1u << DN_SOURCE_CATALOG});
    assert_int_equal(w->count, 0);
    world_destroy(w);
}

static void filters_and_seen_hold(void **state)
{
    struct world *w = world_create();
    struct dn_attribute even = {.value = "even", .value_length = 4};
    struct dn_filter_term term = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &even, .value_count = 1};
    struct dn_filter filter = {.terms = &term, .term_count = 1, .only_available = true};

    (void)state;
    walk(w, 1, 6, "abcd");
    ask(w, "a", (struct dn_recommend_query){.k = 1, .filter = &filter});
    assert_int_equal(at(w, 0), 'c');
    ask(w, "ab", (struct dn_recommend_query){.k = 12});
    assert_int_equal(w->count, 10);
    for (size_t i = 0; i < w->count; i++)
        assert_true(at(w, i) != 'a' && at(w, i) != 'b');
    ask(w, "ab", (struct dn_recommend_query){.k = 12, .include_seen = true});
    assert_int_equal(w->count, 12);
    world_destroy(w);
}

/* What a filter keeps may be far from the best of all: it is found before trending fills the places. */
static void a_filter_reaches_what_is_rare(void **state)
{
    enum { AFTER_A = ALL_ITEMS - ITEMS };
    struct world *w = world_of(ALL_ITEMS);
    struct dn_attribute odd = {.value = "odd", .value_length = 3};
    struct dn_filter_term term = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &odd, .value_count = 1};
    struct dn_filter filter = {.terms = &term, .term_count = 1, .only_available = true};
    int user = SHARDS; /* all of one shard */

    (void)state;
    for (int i = 0, item = ITEMS; i < AFTER_A; i++, item++)
        for (int times = item % 2 == 0 ? 4 : item % 8 == 1; times-- > 0; user += SHARDS) {
            click(w, user, 0, START_MS);
            click(w, user, item, START_MS + 1000);
        }
    uint32_t neighbours = 1u << DN_SOURCE_VSTAN | 1u << DN_SOURCE_VMIS;
    ask(w, "a", (struct dn_recommend_query){.k = 15, .filter = &filter, .sources_off = neighbours});
    assert_int_equal(w->count, 15);
    for (size_t i = 0; i < w->count; i++) {
        assert_true(strcmp(w->items[i].source, "rules") == 0 || strcmp(w->items[i].source, "covis") == 0);
        assert_memory_equal(w->items[i].item.category, "odd", 3);
    }
    world_destroy(w);
}

/* Where one shard's rest would be enough, the others' are looked at all the same: theirs may be better. */
static void every_shard_has_a_rest(void **state)
{
    struct world *w = world_of(ALL_ITEMS);
    struct dn_attribute odd = {.value = "odd", .value_length = 3};
    struct dn_filter_term term = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &odd, .value_count = 1};
    struct dn_filter filter = {.terms = &term, .term_count = 1, .only_available = true};
    int users[SHARDS] = {SHARDS, 1, 2}, best = 0;

    (void)state;
    for (int item = ITEMS; item < ALL_ITEMS; item++)
        best = item % 8 == 1 ? item : best;
    for (int item = ITEMS; item < ALL_ITEMS; item++)
        for (int shard = 0; shard < SHARDS; shard++) {
            int times = item % 2 == 0 ? 4 : item % 8 != 1 ? 0 : item == best ? 3 * (shard == 2) : shard == 0;
            for (; times > 0; times--, users[shard] += SHARDS) {
                click(w, users[shard], 0, START_MS);
                click(w, users[shard], item, START_MS + 1000);
            }
        }
    uint32_t neighbours = 1u << DN_SOURCE_VSTAN | 1u << DN_SOURCE_VMIS;
    ask(w, "a", (struct dn_recommend_query){.k = 2, .filter = &filter, .sources_off = neighbours});
    assert_int_equal(w->count, 2);
    assert_int_equal(w->items[0].item.id_length, strlen(NAMES[best]));
    assert_memory_equal(w->items[0].item.id, NAMES[best], strlen(NAMES[best]));
    world_destroy(w);
}

/* Scores are those of the order: with the boosts. */
static void boosts_are_in_the_scores(void **state)
{
    struct world *w = world_create();
    struct dn_attribute even = {.value = "even", .value_length = 4};
    struct dn_filter_term term = {
        .op = DN_FILTER_EQ, .name = "category", .name_length = 8, .values = &even, .value_count = 1};
    struct dn_filter filter = {.terms = &term, .term_count = 1, .only_available = true};
    struct dn_boost boost = {.filter = &filter, .times = 1, .plus = 5};
    struct dn_rules rules = {.boosts = &boost, .boost_count = 1};

    (void)state;
    walk(w, 1, 6, "abcd");
    ask(w, "a", (struct dn_recommend_query){.k = 11, .rules = &rules});
    assert_int_equal(at(w, 0), 'c');
    assert_true(w->items[0].score == 1);
    assert_int_equal(w->count, 11);
    for (size_t i = 1; i < w->count; i++)
        assert_true(w->items[i].score <= w->items[i - 1].score);
    assert_true(w->items[10].score < 0); /* what fills, with its boost, stays behind */
    world_destroy(w);
}

/* Whose row it is says the reason: the newest item that has one. */
static void reasons_name_the_item_with_a_row(void **state)
{
    struct world *w = world_create();

    (void)state;
    walk(w, 1, 6, "abc");
    ask(w, "al", (struct dn_recommend_query){.k = 2, .only = 1 + DN_SOURCE_RULES});
    assert_int_equal(at(w, 0), 'b');
    assert_string_equal(w->items[0].reason, "often after 'a'");
    ask(w, "al", (struct dn_recommend_query){.k = 2, .only = 1 + DN_SOURCE_COVIS});
    assert_string_equal(w->items[0].reason, "often together with 'a'");
    world_destroy(w);
}

/* A dislike is no neighbourhood. */
static void dislikes_are_not_counted(void **state)
{
    struct world *w = world_create();

    (void)state;
    for (int user = 1; user < 6; user++) {
        click(w, user, 0, START_MS);
        click_type(w, user, 1, START_MS + 1000, DN_EVENT_DISLIKE);
        click(w, user, 2, START_MS + 2000);
    }
    ask(w, "a", (struct dn_recommend_query){.k = 12});
    for (size_t i = 0; i < w->count; i++)
        if (at(w, i) == 'b')
            assert_true(strcmp(w->items[i].source, "trending") == 0 ||
                        strcmp(w->items[i].source, "catalog") == 0);
    assert_int_equal(at(w, 0), 'c');
    world_destroy(w);
}

/* ---- what is left out -------------------------------------------------------------------------------- */

struct gathered {
    struct dn_candidate of[ITEMS];
    bool there[ITEMS];
};

static void gather(struct world *w, const struct dn_session_view *session, int user,
                   const struct dn_event_view *label, struct gathered *ret)
{
    struct dn_recommend_query query = {.session = session, .k = 5, .include_seen = true};
    struct dn_label clicked = {.name = label ? label->item : "",
                               .length = 1,
                               .hash = label ? label->item_hash : 0,
                               .time_ms = label ? label->time_ms : 0,
                               .weight = label ? label->weight : 0};
    struct dn_recommend_world held;
    struct dn_pipeline pipeline;
    struct dn_gathered gathered;

    if (user > 0)
        query.user = user_hash(user);
    memset(ret, 0, sizeof *ret);
    dn_arena_reset(w->arena);
    assert_int_equal(dn_pipeline_begin(&pipeline, &held, &w->view, &w->settings, &query, w->arena, &w->err),
                     DN_OK);
    assert_int_equal(dn_gather(&pipeline, label ? &clicked : NULL, &gathered, &w->err), DN_OK);
    for (size_t i = 0; i < gathered.count; i++) {
        int item = gathered.list[i].item.id[0] - 'a';
        assert_false(ret->there[item]);
        ret->there[item] = true;
        ret->of[item] = gathered.list[i];
    }
}

static void assert_near(float a, float b, const char *what, int item)
{
    if (fabsf(a - b) > SCORES_NEAR * (1 + fabsf(a)))
        fail_msg("%s of '%s': %g and %g", what, NAMES[item], (double)a, (double)b);
}

/* What is left of a pair that was taken out again, is a rounding; it may name an item that nothing else
 * names. */
static float sum_of(const struct gathered *gathered, int item)
{
    float sum = 0;

    for (unsigned source = 0; source < DN_NEAR_SOURCES && gathered->there[item]; source++)
        sum += gathered->of[item].score[source];
    return sum;
}

static void assert_same(const struct gathered *a, const struct gathered *b)
{
    for (int i = 0; i < ITEMS; i++) {
        if (a->there[i] != b->there[i]) {
            if (sum_of(a, i) + sum_of(b, i) > SCORES_NEAR)
                fail_msg("'%s' is named by one alone", NAMES[i]);
            continue;
        }
        if (!a->there[i])
            continue;
        for (unsigned source = 0; source < DN_NEAR_SOURCES; source++)
            assert_near(a->of[i].score[source], b->of[i].score[source], dn_recommend_source_name(source), i);
        assert_near(a->of[i].after_last, b->of[i].after_last, "after_last", i);
        assert_near(a->of[i].near_last, b->of[i].near_last, "near_last", i);
        assert_int_equal(a->of[i].position, b->of[i].position);
        if (sum_of(a, i) > 0 && sum_of(b, i) > 0) {
            assert_near(a->of[i].clicks, b->of[i].clicks, "clicks", i);
            assert_near(a->of[i].recent, b->of[i].recent, "recent", i);
            assert_near(a->of[i].trending, b->of[i].trending, "trending", i);
        }
    }
}

/* Nothing of a source that is off is left: no feature of its own either. */
static void what_is_off_says_nothing(void **state)
{
    struct world *w = world_create();
    struct dn_event_view events[2];
    struct gathered got;
    const int items[] = {0};

    (void)state;
    walk(w, 1, 6, "abc");
    struct dn_session_view session = session_of(events, items, 1, START_MS + 60000);
    gather(w, &session, 0, NULL, &got);
    assert_true(got.there[1] && got.of[1].after_last > 0 && got.of[1].near_last > 0);
    w->settings.sources_off = 1u << DN_SOURCE_RULES;
    gather(w, &session, 0, NULL, &got);
    assert_true(got.there[1] && got.of[1].after_last == 0 && got.of[1].near_last > 0);
    w->settings.sources_off = 1u << DN_SOURCE_COVIS;
    gather(w, &session, 0, NULL, &got);
    assert_true(got.there[1] && got.of[1].after_last > 0 && got.of[1].near_last == 0);
    world_destroy(w);
}

/* Others' random clicks into both worlds; the session of one user only into the second. What the second says
 * to that user must be what the first says to nobody; and with the session's last click as the label, what
 * the first says of the session before it. */
static void the_own_session_is_left_out(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        struct world *without = world_create(), *with = world_create();
        struct dn_event_view events[16];
        struct gathered a, b;
        int items[16];
        size_t count = 2 + below(12);

        for (int user = 1; user <= 20; user++)
            for (uint32_t n = 1 + below(6), i = 0; i < n; i++) {
                int item = (int)below(ITEMS);
                click(without, user, item, START_MS + 1000 * (int64_t)i);
                click(with, user, item, START_MS + 1000 * (int64_t)i);
            }
        for (size_t i = 0; i < count; i++)
            items[i] = (int)below(ITEMS - 4);
        struct dn_session_view session = session_of(events, items, count, START_MS + 30000);
        for (size_t i = 0; i < count; i++) {
            events[i].weight = (float)(1 + below(512)) / DN_WEIGHT_ONE;
            click_weight(with, 77, items[i], events[i].time_ms, DN_EVENT_VIEW, events[i].weight);
        }
        int64_t asked_ms = START_MS + 60000 + 3600 * 1000 * (int64_t)below(60); /* beyond a landmark or two */
        tick(with, asked_ms);
        tick(without, asked_ms);
        gather(without, &session, 0, NULL, &a);
        gather(with, &session, 77, NULL, &b);
        assert_same(&a, &b);
        struct dn_session_view before = session;
        before.event_count--;
        before.session_events--;
        before.last_ms -= 1000;
        gather(without, &before, 0, NULL, &a);
        gather(with, &before, 77, &events[count - 1], &b);
        assert_same(&a, &b);
        world_destroy(without);
        world_destroy(with);
    }
}

/* ---- what trends ------------------------------------------------------------------------------------- */

static double trending_of(struct world *w, const struct dn_session_view *session, int item)
{
    struct gathered gathered;

    gather(w, session, 0, NULL, &gathered);
    return gathered.there[item] ? (double)gathered.of[item].trending : -1;
}

/* Summed over shards, by event weight, halved every 6 hours; and a feature of its logarithm. */
static void what_trends_is_a_feature(void **state)
{
    struct world *w = world_create();
    struct dn_event_view events[4];
    int items[1] = {0};
    struct dn_features features;
    struct dn_recommend_world held;
    struct dn_pipeline pipeline;
    struct dn_gathered gathered;

    (void)state;
    walk(w, 1, 6, "abc");
    for (int user = 1; user <= 6; user++)
        click_weight(w, user, 1, START_MS + 5000, DN_EVENT_CART, 2);
    tick(w, START_MS + 10000);
    struct dn_session_view session = session_of(events, items, 1, START_MS + 10000);
    assert_true(fabs(trending_of(w, &session, 1) - 18) < 0.3);
    assert_true(fabs(trending_of(w, &session, 2) - 6) < 0.1);
    tick(w, START_MS + 6 * 3600 * 1000);
    assert_true(fabs(trending_of(w, &session, 1) - 9) < 0.15);

    struct dn_recommend_query query = {.session = &session, .k = 5, .include_seen = true};
    dn_arena_reset(w->arena);
    assert_int_equal(dn_pipeline_begin(&pipeline, &held, &w->view, &w->settings, &query, w->arena, &w->err),
                     DN_OK);
    assert_int_equal(dn_gather(&pipeline, NULL, &gathered, &w->err), DN_OK);
    assert_int_equal(dn_features_read(&pipeline, &gathered, &features, &w->err), DN_OK);
    assert_non_null(features.of[DN_FEATURE_TRENDING]);
    float b = 0, c = 0;
    for (size_t i = 0; i < gathered.count; i++) {
        b = gathered.list[i].item.id[0] == 'b' ? features.of[DN_FEATURE_TRENDING][i] : b;
        c = gathered.list[i].item.id[0] == 'c' ? features.of[DN_FEATURE_TRENDING][i] : c;
    }
    assert_true(b > c && c > 0.1f && b < 1);
    world_destroy(w);
}

static void assert_popular(struct world *w, enum dn_window window, const char *order)
{
    dn_arena_reset(w->arena);
    assert_int_equal(dn_trending(&w->view, window, ITEMS, NULL, w->arena, &w->items, &w->count, &w->err),
                     DN_OK);
    assert_int_equal(w->count, strlen(order));
    for (size_t i = 0; i < w->count; i++) {
        assert_int_equal(at(w, i), order[i]);
        assert_true(i == 0 || w->items[i - 1].score >= w->items[i].score);
    }
}

static void popularity_by_window(void **state)
{
    const int64_t HOUR_MS = 3600 * 1000, DAY_MS = 24 * HOUR_MS;
    struct world *w = world_create();

    (void)state;
    for (enum dn_window window = 0; window < DN_WINDOW_COUNT; window++)
        assert_popular(w, window, "");
    for (int user = 1; user <= 20; user++) /* three weeks ago */
        click(w, user, 0, START_MS);
    tick(w, START_MS + 19 * DAY_MS);
    for (int user = 20; user < 28; user++) /* two days ago */
        click(w, user, 1, w->time_ms);
    tick(w, w->time_ms + 2 * DAY_MS - 4 * HOUR_MS);
    for (int user = 30; user < 34; user++) /* four hours ago */
        click(w, user, 2, w->time_ms);
    tick(w, w->time_ms + 4 * HOUR_MS);
    click(w, 50, 3, w->time_ms);
    click_type(w, 60, 4, w->time_ms, DN_EVENT_DISLIKE);
    tick(w, w->time_ms + 2000);
    assert_popular(w, DN_WINDOW_HOUR, "dcb"); /* 504 halvings leave nothing of the first */
    assert_true(fabsf(w->items[1].score - 0.25f) < 0.01f);
    assert_string_equal(w->items[0].reason, "popular this hour");
    assert_popular(w, DN_WINDOW_TREND, "cdb");
    assert_string_equal(w->items[0].reason, "trending now");
    assert_popular(w, DN_WINDOW_DAY, "cbda");
    assert_true(fabsf(w->items[1].score - 2) < 0.02f);
    assert_popular(w, DN_WINDOW_WEEK, "bcad");
    assert_true(fabsf(w->items[2].score - 2.5f) < 0.02f);
    assert_popular(w, DN_WINDOW_EVER, "abcd");
    assert_true(w->items[0].score == 20 && w->items[2].score == 4 && w->items[3].score == 1);
    assert_string_equal(w->items[0].reason, "most events ever");
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_and_rules_lead), cmocka_unit_test(sources_can_be_off),
        cmocka_unit_test(filters_and_seen_hold),     cmocka_unit_test(a_filter_reaches_what_is_rare),
        cmocka_unit_test(every_shard_has_a_rest),    cmocka_unit_test(reasons_name_the_item_with_a_row),
        cmocka_unit_test(boosts_are_in_the_scores),  cmocka_unit_test(what_is_off_says_nothing),
        cmocka_unit_test(dislikes_are_not_counted),  cmocka_unit_test(the_own_session_is_left_out),
        cmocka_unit_test(what_trends_is_a_feature),  cmocka_unit_test(popularity_by_window),
    };

    near_world_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
