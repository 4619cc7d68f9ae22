#include "recommend/rerank.h"

#include "base/error.h"
#include "recommend/caps.h"
#include "recommend/source.h"

#include <math.h>
#include <string.h>

#define SCORE_MAX 1e30f /* larger ones are cut, so that differences of two are finite */
#define LIKENESS_OF_CATEGORY 0.5f

/* ---- checking ----------------------------------------------------------------------------------------- */

static bool same_id(const char *a, size_t a_length, const char *b, size_t b_length)
{
    return a_length == b_length && memcmp(a, b, a_length) == 0;
}

static enum dn_code check_boost(const struct dn_boost *boost, size_t number, struct dn_error *err)
{
    if (!(boost->times > 0 && boost->times <= DN_BOOST_TIMES_MAX))
        return dn_fail(err, DN_INVALID, "boosts[%zu].times: %g; above 0, at most %g", number,
                       (double)boost->times, (double)DN_BOOST_TIMES_MAX);
    if (!(fabsf(boost->plus) <= DN_BOOST_PLUS_MAX))
        return dn_fail(err, DN_INVALID, "boosts[%zu].plus: %g; from %g to %g", number, (double)boost->plus,
                       (double)-DN_BOOST_PLUS_MAX, (double)DN_BOOST_PLUS_MAX);
    return DN_OK;
}

static enum dn_code check_pin(const struct dn_rules *rules, size_t number, size_t k, struct dn_error *err)
{
    const struct dn_pin *pin = &rules->pins[number];

    if (pin->place < 1 || pin->place > k)
        return dn_fail(err, DN_INVALID, "pins[%zu].place: %u; from 1 to k, which is %zu", number, pin->place,
                       k);
    for (size_t i = 0; i < number; i++) {
        const struct dn_pin *other = &rules->pins[i];

        if (other->place == pin->place)
            return dn_fail(err, DN_INVALID, "pins[%zu].place: %u, which pins[%zu] has already", number,
                           pin->place, i);
        if (same_id(other->id, other->id_length, pin->id, pin->id_length))
            return dn_fail(err, DN_INVALID, "pins[%zu].item_id: pins[%zu] pins the same item", number, i);
    }
    return DN_OK;
}

enum dn_code dn_rules_check(const struct dn_rules *rules, size_t k, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    if (!(rules->diversity >= 0 && rules->diversity <= 1))
        return dn_fail(err, DN_INVALID, "diversity: %g; from 0 to 1", (double)rules->diversity);
    if (rules->boost_count > DN_BOOSTS_MAX)
        return dn_fail(err, DN_INVALID, "boosts: %zu of them; at most %d", rules->boost_count, DN_BOOSTS_MAX);
    if (rules->pin_count > DN_PINS_MAX)
        return dn_fail(err, DN_INVALID, "pins: %zu of them; at most %d", rules->pin_count, DN_PINS_MAX);
    for (size_t i = 0; i < rules->boost_count && code == DN_OK; i++)
        code = check_boost(&rules->boosts[i], i, err);
    for (size_t i = 0; i < rules->pin_count && code == DN_OK; i++)
        code = check_pin(rules, i, k, err);
    return code;
}

/* ---- what a run keeps --------------------------------------------------------------------------------- */

struct key { /* what decides but for ties, close together */
    float score;
    uint32_t at; /* in items */
    bool fills;
};

struct run {
    const struct dn_rules *rules;
    struct dn_rerank_item *items;
    size_t count, k;
    struct key *heap; /* what is not in the order yet, the best on top */
    size_t heap_count;
    uint32_t *order; /* places in items, best first: as far as somebody looked */
    size_t ordered;
    bool *taken; /* by place in items */

    struct dn_caps caps;
    struct dn_category **categories; /* by place in items: of those that were looked at */

    size_t pool;      /* how many places of the order diversity looks at; 0: there is none */
    float *likeness;  /* by place in order: to what was taken */
    float *relevance; /* by place in order: 0..1 */

    struct dn_rerank_item pins[DN_PINS_MAX];
    uint32_t pin_places[DN_PINS_MAX]; /* ascending */
    size_t pin_count;
};

static const struct dn_rules NO_RULES;

/* ---- boosts and order --------------------------------------------------------------------------------- */

static float boosted(const struct dn_rules *rules, const struct dn_rerank_item *item)
{
    float score = item->score;

    for (size_t i = 0; i < rules->boost_count; i++) {
        const struct dn_boost *boost = &rules->boosts[i];

        if (dn_filter_match(boost->filter, &item->item))
            score = (score < 0 ? score / boost->times : score * boost->times) + boost->plus;
    }
    return isnan(score) ? -SCORE_MAX : fmaxf(-SCORE_MAX, fminf(score, SCORE_MAX));
}

static bool comes_first(const struct run *run, const struct key *a, const struct key *b)
{
    if (a->fills != b->fills)
        return b->fills;
    if (a->score != b->score)
        return a->score > b->score;
    const struct dn_item *x = &run->items[a->at].item, *y = &run->items[b->at].item;
    size_t shorter = x->id_length < y->id_length ? x->id_length : y->id_length;
    int order = memcmp(x->id, y->id, shorter);

    return order != 0 ? order < 0 : x->id_length < y->id_length;
}

static void sift_down(const struct run *run, size_t at)
{
    struct key held = run->heap[at];

    for (size_t child; (child = 2 * at + 1) < run->heap_count; at = child) {
        if (child + 1 < run->heap_count && comes_first(run, &run->heap[child + 1], &run->heap[child]))
            child++;
        if (comes_first(run, &held, &run->heap[child]))
            break;
        run->heap[at] = run->heap[child];
    }
    run->heap[at] = held;
}

static void begin_order(struct run *run)
{
    for (size_t i = 0; i < run->count; i++) {
        struct dn_rerank_item *item = &run->items[i];

        item->score = boosted(run->rules, item);
        item->pinned = false;
        run->heap[i] = (struct key){.score = item->score, .at = (uint32_t)i, .fills = item->fills};
    }
    run->heap_count = run->count;
    for (size_t i = run->count / 2; i-- > 0;)
        sift_down(run, i);
}

/* A heap, and not a sort: most requests look at a few of many. */
static void order_up_to(struct run *run, size_t count)
{
    while (run->ordered < count) {
        DN_ASSERT(run->heap_count > 0);
        run->order[run->ordered++] = run->heap[0].at;
        run->heap[0] = run->heap[--run->heap_count];
        if (run->heap_count > 0)
            sift_down(run, 0);
    }
}

/* ---- categories --------------------------------------------------------------------------------------- */

static enum dn_code begin_categories(struct run *run, struct dn_arena *arena, struct dn_error *err)
{
    enum dn_code code =
        dn_caps_begin(&run->caps, run->rules->category_cap, run->count + run->rules->pin_count, arena, err);

    if (code != DN_OK || !run->caps.table)
        return code;
    run->categories = dn_arena_zalloc(arena, run->count * sizeof(*run->categories));
    return run->categories ? DN_OK : dn_arena_full(err);
}

/* Of a candidate; NULL: it has none, or there is no cap. */
static struct dn_category *category_at(const struct run *run, uint32_t at)
{
    if (!run->caps.table || run->items[at].item.category_length == 0)
        return NULL;
    if (!run->categories[at])
        run->categories[at] = dn_caps_of(&run->caps, &run->items[at].item);
    return run->categories[at];
}

static bool allowed(const struct run *run, uint32_t at)
{
    if (run->taken[at])
        return false;
    const struct dn_category *category = category_at(run, at);
    return !category || category->used < run->caps.most;
}

/* ---- diversity ---------------------------------------------------------------------------------------- */

static float alike(const struct dn_item *a, const struct dn_item *b)
{
    if (a->vector && b->vector && a->dim == b->dim)
        return fmaxf(0, fminf(dn_dot(a->vector, b->vector, a->dim), 1));
    return dn_same_category(a, b) ? LIKENESS_OF_CATEGORY : 0;
}

/* The places from `first` to `end`, whose scores are of one scale, as `base` to base + share. */
static void scale(const struct run *run, size_t first, size_t end, float base, float share)
{
    if (first == end)
        return;
    float low = run->items[run->order[end - 1]].score;
    float span = run->items[run->order[first]].score - low;

    for (size_t i = first; i < end; i++) {
        float above = run->items[run->order[i]].score - low;

        run->relevance[i] = base + share * (span > 0 ? above / span : 1);
    }
}

static enum dn_code begin_diversity(struct run *run, struct dn_arena *arena, struct dn_error *err)
{
    size_t places = run->k < DN_DIVERSE_PLACES_MAX ? run->k : DN_DIVERSE_PLACES_MAX;
    size_t most = DN_DIVERSE_CANDIDATES_A_PLACE * places, ranked = 0;

    if (run->rules->diversity <= 0 || run->count == 0)
        return DN_OK;
    run->pool = run->count < most ? run->count : most;
    run->likeness = dn_arena_zalloc(arena, run->pool * sizeof(*run->likeness));
    run->relevance = dn_arena_alloc(arena, run->pool * sizeof(*run->relevance));
    if (!run->likeness || !run->relevance)
        return dn_arena_full(err);
    order_up_to(run, run->pool);
    while (ranked < run->pool && !run->items[run->order[ranked]].fills)
        ranked++;
    bool mixed = ranked > 0 && ranked < run->pool;
    scale(run, 0, ranked, mixed ? 0.5f : 0, mixed ? 0.5f : 1);
    scale(run, ranked, run->pool, 0, mixed ? 0.5f : 1);
    return DN_OK;
}

/* What marginal relevance weighs: the score against the likeness to what was taken. */
static float worth(const struct run *run, size_t place)
{
    return (1 - run->rules->diversity) * run->relevance[place] - run->rules->diversity * run->likeness[place];
}

/* ---- choosing ----------------------------------------------------------------------------------------- */

/* The answer has the item now. */
static void account(struct run *run, const struct dn_item *item)
{
    for (size_t i = 0; i < run->pool; i++)
        if (!run->taken[run->order[i]])
            run->likeness[i] = fmaxf(run->likeness[i], alike(item, &run->items[run->order[i]].item));
}

static void take(struct run *run, uint32_t at, bool diverse)
{
    struct dn_category *category = category_at(run, at);

    run->taken[at] = true;
    if (category)
        category->used++;
    if (diverse)
        account(run, &run->items[at].item);
}

static bool is_excluded(const struct dn_rerank *rerank, const struct dn_pin *pin)
{
    for (size_t i = 0; i < rerank->exclude_count; i++)
        if (same_id(rerank->exclude[i].value, rerank->exclude[i].value_length, pin->id, pin->id_length))
            return true;
    return false;
}

/* Keeps pins in the order of their places. */
static void add_pin(struct run *run, const struct dn_rerank_item *item, uint32_t place)
{
    size_t at = run->pin_count++;

    for (; at > 0 && run->pin_places[at - 1] > place; at--) {
        run->pins[at] = run->pins[at - 1];
        run->pin_places[at] = run->pin_places[at - 1];
    }
    run->pins[at] = *item;
    run->pin_places[at] = place;
}

static void find_pins(struct run *run, const struct dn_rerank *rerank)
{
    for (size_t i = 0; i < run->rules->pin_count; i++) {
        const struct dn_pin *pin = &run->rules->pins[i];
        struct dn_rerank_item found = {.from = DN_RERANK_NONE, .pinned = true};

        if (dn_catalog_get(rerank->catalog, pin->id, pin->id_length, &found.item) != DN_OK ||
            !dn_filter_match(rerank->filter, &found.item) || is_excluded(rerank, pin))
            continue;
        for (size_t j = 0; j < run->count; j++) {
            const struct dn_item *item = &run->items[j].item;

            if (item->id_hash == found.item.id_hash &&
                same_id(item->id, item->id_length, pin->id, pin->id_length)) {
                run->taken[j] = true;
                found.from = run->items[j].from;
                found.score = run->items[j].score;
                break;
            }
        }
        add_pin(run, &found, pin->place);
    }
    for (size_t i = 0; i < run->pin_count; i++) { /* once all of them are taken, and where they stay */
        const struct dn_item *item = &run->pins[i].item;
        struct dn_category *category = dn_caps_of(&run->caps, item);

        if (category)
            category->used++;
        account(run, item);
    }
}

/* The best by marginal relevance; DN_RERANK_NONE: nothing in the pool is allowed. */
static uint32_t most_diverse(const struct run *run)
{
    uint32_t best = DN_RERANK_NONE;
    float best_worth = 0;

    for (size_t i = 0; i < run->pool; i++) {
        if (!allowed(run, run->order[i]))
            continue;
        float here = worth(run, i);
        if (best == DN_RERANK_NONE || here > best_worth) {
            best = run->order[i];
            best_worth = here;
        }
    }
    return best;
}

/* The next one for a place that no pin has; DN_RERANK_NONE: there is none. *walked: how much of the order is
 * done with; what a cap forbids stays forbidden. */
static uint32_t choose(struct run *run, bool diverse, size_t *walked)
{
    uint32_t at = diverse ? most_diverse(run) : DN_RERANK_NONE;

    while (at == DN_RERANK_NONE && *walked < run->count) {
        order_up_to(run, *walked + 1);
        if (allowed(run, run->order[*walked]))
            at = run->order[*walked];
        else
            (*walked)++;
    }
    return at;
}

static size_t fill(struct run *run, struct dn_rerank_item *out)
{
    size_t walked = 0, pin = 0, filled = 0;

    while (filled < run->k) {
        bool diverse = filled < DN_DIVERSE_PLACES_MAX && run->pool > 0;
        bool pins_turn = pin < run->pin_count && run->pin_places[pin] <= filled + 1;
        uint32_t at = pins_turn ? DN_RERANK_NONE : choose(run, diverse, &walked);

        if (at != DN_RERANK_NONE) {
            take(run, at, diverse);
            out[filled++] = run->items[at];
        } else if (pin < run->pin_count) {
            out[filled++] = run->pins[pin++]; /* also when nothing is left for the places before it */
        } else {
            break;
        }
    }
    return filled;
}

enum dn_code dn_rerank(const struct dn_rerank *rerank, struct dn_rerank_item *items, size_t count,
                       struct dn_arena *arena, struct dn_rerank_item **ret_items, size_t *ret_count,
                       struct dn_error *err)
{
    struct run run = {
        .rules = rerank->rules ? rerank->rules : &NO_RULES, .items = items, .count = count, .k = rerank->k};
    size_t most = count + run.rules->pin_count;
    enum dn_code code;

    if (run.k > most)
        run.k = most;
    run.heap = dn_arena_alloc(arena, count * sizeof(*run.heap));
    run.order = dn_arena_alloc(arena, count * sizeof(*run.order));
    run.taken = dn_arena_zalloc(arena, count * sizeof(*run.taken));
    struct dn_rerank_item *out = dn_arena_alloc(arena, run.k * sizeof(*out));
    if (!run.heap || !run.order || !run.taken || !out)
        return dn_arena_full(err);
    begin_order(&run);
    code = begin_categories(&run, arena, err);
    if (code == DN_OK)
        code = begin_diversity(&run, arena, err);
    if (code != DN_OK)
        return code;
    find_pins(&run, rerank);
    *ret_count = fill(&run, out);
    *ret_items = out;
    return DN_OK;
}
