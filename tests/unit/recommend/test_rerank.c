/* Rules on scored candidates: against a slow evaluator, by their properties, and one by one. */
#include "base/arena.h"
#include "base/hash.h"
#include "recommend/rerank.h"
#include "recommend/source.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DIM = 4, ITEMS = 60, ROUNDS = 3000, ID_MAX = 8 };

struct made {
    char id[ID_MAX];
    float vector[DIM];
};

struct world {
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_catalog *catalog;
    struct dn_arena *arena;
    struct dn_item items[ITEMS]; /* as the catalogue shows them */
    uint64_t random;
};

static uint32_t below(struct world *w, uint32_t bound)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((w->random >> 33) % bound);
}

static void upsert(struct world *w, const struct dn_item *item, uint64_t index)
{
    struct dn_buffer record, result;
    uint32_t count = 0;
    const uint8_t *outcomes = NULL;

    dn_buffer_init(&record, 1 << 20);
    dn_buffer_init(&result, 1 << 20);
    dn_catalog_record_upsert(&record, item, 1);
    dn_catalog_apply(w->catalog, index, 0, 0, record.bytes, record.length, &result);
    dn_catalog_entry_done(w->catalog, index, 0);
    assert_int_equal(dn_catalog_result_parse(result.bytes, result.length, &count, &outcomes, NULL), DN_OK);
    assert_int_equal(outcomes[0], DN_ITEM_OK);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
}

/* Item n: category n % 5 ("" for 0), a vector unless n % 4 is 0, price n, not available when n % 10 is 9. */
static int set_up(void **state)
{
    static const char *const categories[] = {"", "hats", "shoes", "coats", "socks"};
    struct world *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    w->random = 7;
    w->epoch = dn_epoch_create();
    w->reader = dn_epoch_register(w->epoch);
    w->catalog = dn_catalog_create(w->epoch, 1000);
    w->arena = dn_arena_create(1 << 16, 64 << 20);
    for (uint32_t i = 0; i < ITEMS; i++) {
        char id[ID_MAX];
        float vector[DIM];
        const char *category = categories[i % 5];

        snprintf(id, sizeof(id), "i%02u", i);
        for (int d = 0; d < DIM; d++)
            vector[d] = (float)below(w, 2001) / 1000 - 1;
        upsert(w,
               &(struct dn_item){.id = id,
                                 .id_length = 3,
                                 .vector = i % 4 ? vector : NULL,
                                 .dim = i % 4 ? DIM : 0,
                                 .category = category,
                                 .category_length = (uint16_t)strlen(category),
                                 .price = i,
                                 .available = i % 10 != 9},
               i + 1);
    }
    dn_epoch_enter(w->reader);
    for (uint32_t i = 0; i < ITEMS; i++) {
        char id[ID_MAX];

        snprintf(id, sizeof(id), "i%02u", i);
        assert_int_equal(dn_catalog_get(w->catalog, id, 3, &w->items[i]), DN_OK);
    }
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;

    dn_epoch_leave(w->reader);
    dn_epoch_unregister(w->reader);
    dn_catalog_destroy(w->catalog);
    dn_epoch_destroy(w->epoch);
    dn_arena_destroy(w->arena);
    free(w);
    return 0;
}

/* ---- helpers ------------------------------------------------------------------------------------------ */

static const struct dn_filter AVAILABLE = {.only_available = true};

static uint32_t number(const struct dn_item *item)
{
    return (uint32_t)(item->id[1] - '0') * 10 + (uint32_t)(item->id[2] - '0');
}

static size_t run(struct world *w, const struct dn_rules *rules, size_t k, struct dn_rerank_item *items,
                  size_t count, struct dn_rerank_item **ret)
{
    struct dn_rerank rerank = {.rules = rules, .k = k, .catalog = w->catalog, .filter = &AVAILABLE};
    struct dn_error err = {0};
    size_t found = SIZE_MAX;

    if (rules && dn_rules_check(rules, k, &err) != DN_OK)
        fail_msg("rules: %s", err.message);
    if (dn_rerank(&rerank, items, count, w->arena, ret, &found, &err) != DN_OK)
        fail_msg("rerank: %s", err.message);
    return found;
}

/* Items by number with scores; the answer as text, "*" behind pins. */
static void expect(struct world *w, const struct dn_rules *rules, size_t k, const uint32_t *numbers,
                   const float *scores, size_t count, const char *wanted)
{
    struct dn_rerank_item items[ITEMS], *out;
    char got[ITEMS * 4] = "";

    for (size_t i = 0; i < count; i++)
        items[i] =
            (struct dn_rerank_item){.item = w->items[numbers[i]], .score = scores[i], .from = (uint32_t)i};
    size_t found = run(w, rules, k, items, count, &out);
    for (size_t i = 0; i < found; i++)
        snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%u%s", i ? " " : "", number(&out[i].item),
                 out[i].pinned ? "*" : "");
    assert_string_equal(got, wanted);
    dn_arena_reset(w->arena);
}

/* ---- a slow evaluator --------------------------------------------------------------------------------- */

struct slow {
    struct dn_rerank_item items[ITEMS]; /* best first */
    size_t count;
    bool gone[ITEMS];
    struct dn_item answer[2 * ITEMS];
    size_t answer_count;
};

static float alike(const struct dn_item *a, const struct dn_item *b)
{
    if (!a->vector || !b->vector)
        return a->category_length > 0 && a->category_length == b->category_length &&
                       memcmp(a->category, b->category, a->category_length) == 0
                   ? 0.5f
                   : 0;
    float sum = dn_dot(a->vector, b->vector, DIM); /* the same bits: ties are common here */
    return sum < 0 ? 0 : sum > 1 ? 1 : sum;
}

static bool same_category(const struct dn_item *a, const struct dn_item *b)
{
    return a->category_length == b->category_length &&
           memcmp(a->category, b->category, a->category_length) == 0;
}

static size_t of_category(const struct slow *s, const struct dn_item *item)
{
    size_t count = 0;

    for (size_t i = 0; i < s->answer_count; i++)
        count += same_category(&s->answer[i], item);
    return count;
}

static int slow_next(const struct slow *s, const struct dn_rules *rules, size_t pool)
{
    int best = -1;
    float best_worth = 0;
    float low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};

    for (size_t i = 0; i < pool; i++) {
        low[s->items[i].fills] = fminf(low[s->items[i].fills], s->items[i].score);
        high[s->items[i].fills] = fmaxf(high[s->items[i].fills], s->items[i].score);
    }

    for (size_t i = 0; i < s->count; i++) {
        float likeness = 0, relevance;

        if (s->gone[i] || (rules->category_cap && s->items[i].item.category_length &&
                           of_category(s, &s->items[i].item) >= rules->category_cap))
            continue;
        if (i >= pool || rules->diversity <= 0) {
            if (best < 0)
                best = (int)i;
            break;
        }
        for (size_t j = 0; j < s->answer_count; j++)
            likeness = fmaxf(likeness, alike(&s->answer[j], &s->items[i].item));
        bool fills = s->items[i].fills;
        float span = high[fills] - low[fills];
        relevance = span > 0 ? (s->items[i].score - low[fills]) / span : 1;
        if (low[0] <= high[0] && low[1] <= high[1]) /* both kinds */
            relevance = (fills ? 0 : 0.5f) + 0.5f * relevance;
        relevance = (1 - rules->diversity) * relevance - rules->diversity * likeness;
        if (best < 0 || relevance > best_worth) {
            best = (int)i;
            best_worth = relevance;
        }
    }
    return best;
}

static int compare(const void *a_, const void *b_)
{
    const struct dn_rerank_item *a = a_, *b = b_;

    if (a->fills != b->fills)
        return a->fills ? 1 : -1;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return memcmp(a->item.id, b->item.id, 3);
}

/* ---- properties --------------------------------------------------------------------------------------- */

struct random_rules {
    struct dn_rules rules;
    struct dn_boost boosts[2];
    struct dn_filter_term term;
    struct dn_filter filter;
    struct dn_pin pins[4];
    char ids[4][ID_MAX];
};

static void make_rules(struct world *w, size_t k, struct random_rules *r)
{
    *r = (struct random_rules){.rules = {.boosts = r->boosts, .pins = r->pins}};
    r->rules.diversity = below(w, 2) ? 0 : (float)below(w, 11) / 10;
    r->rules.category_cap = below(w, 2) ? 0 : 1 + below(w, 4);
    r->term = (struct dn_filter_term){.op = DN_FILTER_RANGE, .name = "price", .name_length = 5, .max = 30};
    r->filter = (struct dn_filter){.terms = &r->term, .term_count = 1};
    r->rules.boost_count = below(w, 3);
    for (size_t i = 0; i < r->rules.boost_count; i++)
        r->boosts[i] = (struct dn_boost){
            .filter = &r->filter, .times = 0.5f + (float)below(w, 4), .plus = (float)below(w, 5) - 2};
    for (uint32_t i = 0; i < 4 && below(w, 2); i++) { /* ids and places differ by construction */
        uint32_t place = 1 + i * 5 + below(w, 5);

        if (place > k)
            break;
        snprintf(r->ids[i], ID_MAX, "i%02u", i * 15 + below(w, 15));
        r->pins[r->rules.pin_count++] = (struct dn_pin){.id = r->ids[i], .id_length = 3, .place = place};
    }
}

static void check_answer(const struct random_rules *r, size_t k, const struct dn_rerank_item *out,
                         size_t found)
{
    const struct dn_rules *rules = &r->rules;

    assert_true(found <= k);
    for (size_t i = 0; i < found; i++) {
        size_t same = 0;

        for (size_t j = 0; j < found; j++) {
            assert_true(i == j || number(&out[i].item) != number(&out[j].item));
            same += same_category(&out[i].item, &out[j].item);
        }
        if (rules->category_cap && out[i].item.category_length && !out[i].pinned) {
            size_t pins_too_many = 0; /* pins alone may be above the cap, but then nothing else joins them */

            for (size_t j = 0; j < found; j++)
                pins_too_many += out[j].pinned && same_category(&out[i].item, &out[j].item);
            assert_true(same <= rules->category_cap && pins_too_many < rules->category_cap);
        }
        assert_true(out[i].from == number(&out[i].item) || (out[i].pinned && out[i].from == DN_RERANK_NONE));
    }
    for (size_t p = 0; p < rules->pin_count; p++) {
        uint32_t wanted = (uint32_t)strtoul(rules->pins[p].id + 1, NULL, 10);
        size_t at = SIZE_MAX;

        for (size_t i = 0; i < found; i++)
            if (out[i].pinned && number(&out[i].item) == wanted)
                at = i;
        if (wanted % 10 == 9)
            assert_int_equal(at, SIZE_MAX); /* not available */
        else if (found == k)
            assert_int_equal(at, rules->pins[p].place - 1);
        else
            assert_true(at < rules->pins[p].place);
    }
}

static void check_slow(const struct random_rules *r, size_t k, struct slow *s,
                       const struct dn_rerank_item *out, size_t found)
{
    size_t places = k < DN_DIVERSE_PLACES_MAX ? k : DN_DIVERSE_PLACES_MAX;
    size_t most = s->count + r->rules.pin_count;

    if (places > most)
        places = most;
    size_t pool = DN_DIVERSE_CANDIDATES_A_PLACE * places;
    if (pool > s->count)
        pool = s->count;
    for (size_t i = 0; i < found; i++) {
        for (size_t j = 0; out[i].pinned && j < s->count; j++)
            s->gone[j] = s->gone[j] || number(&s->items[j].item) == number(&out[i].item);
        if (out[i].pinned)
            s->answer[s->answer_count++] = out[i].item;
    }
    for (size_t i = 0; i < found; i++) {
        if (out[i].pinned)
            continue;
        int at = slow_next(s, &r->rules, pool);
        assert_true(at >= 0);
        if (number(&s->items[at].item) != number(&out[i].item))
            fail_msg("place %zu: %u, should be %u", i, number(&out[i].item), number(&s->items[at].item));
        s->gone[at] = true;
        s->answer[s->answer_count++] = s->items[at].item;
    }
    assert_true(found == k ||
                slow_next(s, &r->rules, pool) < 0); /* not one place was left empty for nothing */
}

static void test_properties(void **state)
{
    struct world *w = *state;
    size_t capped = 0, diverse = 0, pinned = 0, short_ones = 0;

    for (int round = 0; round < ROUNDS; round++) {
        struct dn_rerank_item items[ITEMS], shuffled[ITEMS], *out, *again;
        static struct slow slow;
        struct random_rules r;
        size_t k = 1 + below(w, 25), count = 0;

        make_rules(w, k, &r);
        for (uint32_t i = 0; i < ITEMS; i++)
            if (below(w, 3) == 0)
                items[count++] = (struct dn_rerank_item){.item = w->items[i],
                                                         .score = (float)below(w, 12) - 6,
                                                         .fills = below(w, 3) == 0,
                                                         .from = i};
        slow = (struct slow){.count = count};
        for (size_t i = 0; i < count; i++)
            shuffled[i] = items[count - 1 - i];
        size_t found = run(w, &r.rules, k, items, count, &out);
        assert_int_equal(run(w, &r.rules, k, shuffled, count, &again), found);
        for (size_t i = 0; i < found; i++) {
            assert_int_equal(number(&out[i].item), number(&again[i].item));
            assert_true(out[i].score == again[i].score && out[i].pinned == again[i].pinned);
            pinned += out[i].pinned;
        }
        check_answer(&r, k, out, found);
        memcpy(slow.items, items, count * sizeof(*items)); /* with their boosts */
        qsort(slow.items, count, sizeof(*items), compare);
        check_slow(&r, k, &slow, out, found);
        capped += r.rules.category_cap > 0;
        diverse += r.rules.diversity > 0;
        short_ones += found < k;
        dn_arena_reset(w->arena);
    }
    assert_true(capped > ROUNDS / 4 && diverse > ROUNDS / 4 && pinned > ROUNDS / 4);
    assert_in_range(short_ones, ROUNDS / 20, ROUNDS - ROUNDS / 20);
}

/* ---- one by one --------------------------------------------------------------------------------------- */

static void test_plain(void **state)
{
    struct world *w = *state;
    static const uint32_t numbers[] = {3, 12, 5, 1, 40};
    static const float scores[] = {1, 2, 2, -5, 2};
    static const struct dn_rules none = {0};

    expect(w, NULL, 3, numbers, scores, 5, "5 12 40");
    expect(w, &none, 3, numbers, scores, 5, "5 12 40");
    expect(w, NULL, 10, numbers, scores, 5, "5 12 40 3 1");
    expect(w, NULL, 10, numbers, scores, 0, "");
    static const float odd[] = {NAN, INFINITY, 2, -INFINITY, 3};
    expect(w, NULL, 10, numbers, odd, 5, "12 40 5 1 3");
    static const struct dn_rules dial = {.diversity = 0.001f};
    expect(w, &dial, 10, numbers, odd, 5, "12 40 5 1 3");
}

static void test_boosts(void **state)
{
    struct world *w = *state;
    static const uint32_t numbers[] = {10, 20, 30, 40};
    static const float scores[] = {-4, 3, 2, 1};
    struct dn_filter_term cheap = {.op = DN_FILTER_RANGE, .name = "price", .name_length = 5, .max = 10};
    struct dn_filter_term dear = {
        .op = DN_FILTER_RANGE, .name = "price", .name_length = 5, .min = 40, .max = (double)INFINITY};
    struct dn_filter low = {.terms = &cheap, .term_count = 1}, high = {.terms = &dear, .term_count = 1};
    struct dn_boost boosts[2] = {{.filter = &low, .times = 4, .plus = 0},
                                 {.filter = &high, .times = 1, .plus = 2.5f}};
    struct dn_rules rules = {.boosts = boosts, .boost_count = 1};

    expect(w, &rules, 4, numbers, scores, 4, "20 30 40 10"); /* -1 now: lifted, not lowered */
    rules.boost_count = 2;
    expect(w, &rules, 4, numbers, scores, 4, "40 20 30 10");
    boosts[0].plus = 10;
    expect(w, &rules, 4, numbers, scores, 4, "10 40 20 30");
}

static void test_caps(void **state)
{
    struct world *w = *state;
    /* hats: 1 6 11 16; none: 0 5; shoes: 2 */
    static const uint32_t numbers[] = {1, 6, 11, 16, 0, 5, 2};
    static const float scores[] = {9, 8, 7, 6, 5, 4, 3};
    struct dn_pin pins[] = {{"i21", 3, 2}, {"i26", 3, 4}, {"i31", 3, 5}};
    struct dn_rules rules = {.category_cap = 2};

    expect(w, &rules, 4, numbers, scores, 7, "1 6 0 5");
    expect(w, &rules, 7, numbers, scores, 7, "1 6 0 5 2"); /* rather short than a third hat */
    rules.category_cap = 1;
    expect(w, &rules, 3, numbers, scores, 7, "1 0 5");
    rules.pins = pins;
    rules.pin_count = 1;
    expect(w, &rules, 4, numbers, scores, 7, "0 21* 5 2"); /* the pin is the one hat */
    rules.pin_count = 3;
    expect(w, &rules, 5, numbers, scores, 7, "0 21* 5 26* 31*"); /* pins are above the cap */
}

/* More categories than a table of their hashes has places for without collisions. */
static void test_many_categories(void **state)
{
    enum { CATEGORIES = 300 };
    struct world *w = *state;
    static struct dn_rerank_item items[2 * CATEGORIES];
    static char names[CATEGORIES][ID_MAX], ids[2 * CATEGORIES][ID_MAX];
    struct dn_rules rules = {.category_cap = 1};
    struct dn_rerank_item *out;

    for (uint32_t i = 0; i < 2 * CATEGORIES; i++) {
        uint32_t category = i % CATEGORIES;

        snprintf(names[category], ID_MAX, "c%u", category);
        snprintf(ids[i], ID_MAX, "m%u", i);
        items[i] = (struct dn_rerank_item){.item = {.id = ids[i],
                                                    .id_length = (uint16_t)strlen(ids[i]),
                                                    .category = names[category],
                                                    .category_length = (uint16_t)strlen(names[category])},
                                           .score = -(float)i};
    }
    size_t found = run(w, &rules, 1000, items, 2 * CATEGORIES, &out);
    assert_int_equal(found, CATEGORIES);
    for (size_t i = 0; i < found; i++)
        assert_ptr_equal(out[i].item.id, ids[i]);
    dn_arena_reset(w->arena);
}

static void test_pins(void **state)
{
    struct world *w = *state;
    static const uint32_t numbers[] = {1, 2, 3, 4};
    static const float scores[] = {9, 8, 7, 6};
    struct dn_pin pins[] = {{"i04", 3, 1}, {"i50", 3, 3}, {"i59", 3, 2}, {"gone", 4, 4}};
    struct dn_rules rules = {.pins = pins, .pin_count = 4};

    expect(w, &rules, 5, numbers, scores, 4, "4* 1 50* 2 3"); /* 59 is sold out, "gone" unknown */
    pins[0].place = 5;
    expect(w, &rules, 9, numbers, scores, 2, "1 2 50* 4*"); /* no holes */
    expect(w, &rules, 5, numbers, scores, 0, "50* 4*");
    pins[0].place = 1;
    pins[1].place = 2;
    rules.pin_count = 2;
    expect(w, &rules, 2, numbers, scores, 4, "4* 50*");

    struct dn_attribute excluded = {.value = "i50", .value_length = 3};
    struct dn_rerank rerank = {.rules = &rules,
                               .k = 2,
                               .catalog = w->catalog,
                               .filter = &AVAILABLE,
                               .exclude = &excluded,
                               .exclude_count = 1};
    struct dn_rerank_item items[1] = {{.item = w->items[4], .score = 3, .from = 17}}, *out;
    size_t found;
    assert_int_equal(dn_rerank(&rerank, items, 1, w->arena, &out, &found, NULL), DN_OK);
    assert_int_equal(found, 1);
    assert_true(out[0].pinned && out[0].from == 17 && out[0].score == 3); /* still the caller's own */
}

static void test_diversity(void **state)
{
    struct world *w = *state;
    /* Without vectors: 0, 4, 8 .. Of category hats: 16, 36, 56; shoes: 32, 12; none: 20. */
    static const uint32_t numbers[] = {16, 36, 56, 32, 12, 20};
    static const float scores[] = {10, 9, 8, 7, 6, 0};
    struct dn_rules rules = {.diversity = 0};

    expect(w, &rules, 6, numbers, scores, 6, "16 36 56 32 12 20");
    rules.diversity = 0.5f;
    expect(w, &rules, 6, numbers, scores, 6, "16 32 36 56 12 20");
    rules.diversity = 1;
    expect(w, &rules, 6, numbers, scores, 6, "16 32 20 36 56 12");
}

static void refused(struct dn_rules rules, size_t k, const char *message)
{
    struct dn_error err = {0};

    if (dn_rules_check(&rules, k, &err) != DN_INVALID || !strstr(err.message, message))
        fail_msg("wanted '%s', got '%s'", message, err.message);
}

static void test_refused(void **state)
{
    struct dn_boost boost = {.times = 1, .plus = 0};
    struct dn_pin pins[] = {{"a", 1, 1}, {"b", 1, 2}};
    struct dn_error err;

    (void)state;
    assert_int_equal(
        dn_rules_check(&(struct dn_rules){.diversity = 1, .pins = pins, .pin_count = 2}, 2, &err), DN_OK);
    refused((struct dn_rules){.diversity = -0.1f}, 1, "diversity: -0.1; from 0 to 1");
    refused((struct dn_rules){.diversity = NAN}, 1, "diversity");
    refused((struct dn_rules){.boosts = &boost, .boost_count = 9}, 1, "boosts: 9 of them; at most 8");
    boost.times = 0;
    refused((struct dn_rules){.boosts = &boost, .boost_count = 1}, 1, "boosts[0].times: 0; above 0");
    boost.times = NAN;
    refused((struct dn_rules){.boosts = &boost, .boost_count = 1}, 1, "boosts[0].times");
    boost = (struct dn_boost){.times = 1, .plus = INFINITY};
    refused((struct dn_rules){.boosts = &boost, .boost_count = 1}, 1, "boosts[0].plus");
    refused((struct dn_rules){.pins = pins, .pin_count = 21}, 1, "pins: 21 of them");
    refused((struct dn_rules){.pins = pins, .pin_count = 2}, 1, "pins[1].place: 2; from 1 to k, which is 1");
    pins[1].place = 1;
    refused((struct dn_rules){.pins = pins, .pin_count = 2}, 2, "pins[1].place: 1, which pins[0] has");
    pins[1] = (struct dn_pin){"a", 1, 2};
    refused((struct dn_rules){.pins = pins, .pin_count = 2}, 2, "pins[1].item_id: pins[0] pins the same");
}

/* Whatever allocation meets the arena's end: an answer, no crash. */
static void test_small_arena(void **state)
{
    struct world *w = *state;
    struct dn_rules rules = {.diversity = 0.5f, .category_cap = 2};
    struct dn_rerank rerank = {.rules = &rules, .k = 20, .catalog = w->catalog, .filter = &AVAILABLE};
    bool worked = false;

    for (size_t bytes = 16; bytes < 32 << 10; bytes += 256) {
        struct dn_arena *arena = dn_arena_create(64, bytes);
        struct dn_rerank_item items[ITEMS], *out;
        struct dn_error err;
        size_t found;

        for (uint32_t i = 0; i < ITEMS; i++)
            items[i] = (struct dn_rerank_item){.item = w->items[i], .score = (float)i, .from = i};
        enum dn_code code = dn_rerank(&rerank, items, ITEMS, arena, &out, &found, &err);
        assert_true(code == DN_OK || (code == DN_EXHAUSTED && !worked));
        worked = code == DN_OK;
        dn_arena_destroy(arena);
    }
    assert_true(worked);
}

static void test_anchored(void **state)
{
    struct world *w = *state;
    struct dn_session_view session, alone;
    struct dn_event_view old = {.item = "x", .item_length = 1, .type = DN_EVENT_BUY, .time_ms = 5};
    struct dn_session_view before = {
        .version = 3, .start_ms = 4, .last_ms = 5, .session_events = 7, .event_count = 1, .events = &old};

    assert_int_equal(dn_session_anchored(&before, &w->items[7], 99, w->arena, &session, NULL), DN_OK);
    assert_int_equal(session.event_count, 2);
    assert_int_equal(session.session_events, 8);
    assert_int_equal(session.events[0].type, DN_EVENT_BUY);
    assert_memory_equal(session.events[1].item, "i07", 3);
    assert_int_equal(session.events[1].time_ms, 5);
    assert_true(session.events[1].item_hash == dn_hash64("i07", 3, 0) && session.events[1].current);
    assert_int_equal(session.version, 3);
    assert_int_equal(before.event_count, 1);
    assert_int_equal(dn_session_anchored(NULL, &w->items[7], 99, w->arena, &alone, NULL), DN_OK);
    assert_int_equal(alone.event_count, 1);
    assert_int_equal(alone.last_ms, 99);
    assert_int_equal(alone.events[0].time_ms, 99);
    struct dn_arena *small = dn_arena_create(16, 16);
    struct dn_error err;
    assert_int_equal(dn_session_anchored(NULL, &w->items[7], 99, small, &alone, &err), DN_EXHAUSTED);
    dn_arena_destroy(small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_properties), cmocka_unit_test(test_plain),
        cmocka_unit_test(test_boosts),     cmocka_unit_test(test_caps),
        cmocka_unit_test(test_pins),       cmocka_unit_test(test_diversity),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_small_arena),
        cmocka_unit_test(test_anchored),   cmocka_unit_test(test_many_categories),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
