/* The pipeline: session -> candidates from a list of sources -> filters -> blend -> top k with reasons.
 *
 * Invariants:
 *  1. Only the request's arena is used; a full arena answers DN_EXHAUSTED and leaves nothing behind.
 *  2. Every item in an answer passed the filter and was not excluded as it is when it is returned: an item
 *     that changed between search and answer is checked again.
 *  3. An item is in the answer at most once.
 *  4. The answer is a function of session, catalogue, trends, settings and query alone; ties go by id. */
#include "base/text.h"
#include "recommend/caps.h"
#include "recommend/gather.h"
#include "recommend/network.h"
#include "recommend/rerank.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Of what fills places: the lowest score within a source, before its weight. See source.h. */
static const float FLOOR = 0.5f;
static const float FILL_WEIGHT[DN_SOURCE_COUNT] = {[DN_SOURCE_TRENDING] = 0.1f, [DN_SOURCE_CATALOG] = 0.001f};
/* What trends, but not enough to have been considered at first, comes behind what does. */
static const float FILL_LATER = 0.4f;

static const char *const NAMES[DN_SOURCE_COUNT] = {
    [DN_SOURCE_VSTAN] = "vstan",           [DN_SOURCE_VMIS] = "vmis",
    [DN_SOURCE_RULES] = "rules",           [DN_SOURCE_COVIS] = "covis",
    [DN_SOURCE_VECTOR] = "session_vector", [DN_SOURCE_SESSION] = "session",
    [DN_SOURCE_TRENDING] = "trending",     [DN_SOURCE_CATALOG] = "catalog",
};

enum { RULES_CHOICE = 4 };

static const struct dn_filter AVAILABLE = {.only_available = true};

void dn_recommend_settings_default(struct dn_recommend_settings *settings)
{
    *settings = (struct dn_recommend_settings){
        .type_weight =
            {
                [DN_EVENT_VIEW] = 1.0f,
                [DN_EVENT_CLICK] = 1.0f,
                [DN_EVENT_CART] = 2.0f,
                [DN_EVENT_BUY] = 2.0f,
                [DN_EVENT_LIKE] = 2.0f,
                [DN_EVENT_DISLIKE] = -1.5f,
                [DN_EVENT_PLAY] = 1.5f,
                [DN_EVENT_REMOVE] = -0.5f,
            },
        .recency_decay = 0.8f,
        .time_half_life_ms = 3600 * 1000,
        .session_events_used = 20,
    };
}

enum dn_code dn_arena_full(struct dn_error *err)
{
    return dn_fail(err, DN_EXHAUSTED,
                   "the request needs more memory than one request may have: ask for a smaller k or exclude "
                   "fewer items");
}

bool dn_pipeline_wants(const struct dn_pipeline *pipeline, const struct dn_item *item)
{
    return dn_slot_map_get(&pipeline->excluded, item->slot) == DN_SLOT_NONE &&
           dn_filter_match(pipeline->filter, item);
}

/* ---- what must not be returned ---------------------------------------------------------------------- */

static void exclude(struct dn_pipeline *pipeline, uint32_t slot)
{
    if (dn_slot_map_get(&pipeline->excluded, slot) != DN_SLOT_NONE)
        return;
    dn_slot_map_put(&pipeline->excluded, slot, 0);
    pipeline->excluded_slots[pipeline->excluded_count++] = slot;
}

static enum dn_code read_excluded(struct dn_pipeline *pipeline, struct dn_error *err)
{
    const struct dn_recommend_query *query = pipeline->query;
    const struct dn_catalog *catalog = pipeline->world->catalog;
    size_t seen = query->session && !query->include_seen ? query->session->event_count : 0;
    size_t max = seen + query->exclude_count;
    struct dn_item item;

    if (max == 0)
        return DN_OK;
    pipeline->excluded_slots = dn_arena_alloc(pipeline->arena, max * sizeof(*pipeline->excluded_slots));
    if (!pipeline->excluded_slots)
        return dn_arena_full(err);
    enum dn_code code = dn_slot_map_init(&pipeline->excluded, pipeline->arena, max, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < seen; i++) {
        const struct dn_event_view *event = &query->session->events[i];

        if (dn_catalog_get_hashed(catalog, event->item_hash, event->item, event->item_length, &item) == DN_OK)
            exclude(pipeline, item.slot);
    }
    for (size_t i = 0; i < query->exclude_count; i++)
        if (dn_catalog_get(catalog, query->exclude[i].value, query->exclude[i].value_length, &item) == DN_OK)
            exclude(pipeline, item.slot);
    return DN_OK;
}

/* ---- picks: what the model orders, and what fills ---------------------------------------------------- */

/* Makes room for `more` picks; earlier ones are copied. The map of places is made anew. */
static enum dn_code grow(struct dn_pipeline *pipeline, size_t more, struct dn_error *err)
{
    size_t max = pipeline->pick_count + more;
    struct dn_pick *picks = dn_arena_alloc(pipeline->arena, max * sizeof(*picks));

    if (!picks)
        return dn_arena_full(err);
    enum dn_code code = dn_slot_map_init(&pipeline->picked, pipeline->arena, max, err);
    if (code != DN_OK)
        return code;
    if (pipeline->pick_count > 0)
        memcpy(picks, pipeline->picks, pipeline->pick_count * sizeof(*picks));
    for (size_t i = 0; i < pipeline->pick_count; i++)
        dn_slot_map_put(&pipeline->picked, picks[i].item->slot, (uint32_t)i);
    pipeline->picks = picks;
    pipeline->pick_max = max;
    return DN_OK;
}

/* What is there already stays as it is. */
static void add_pick(struct dn_pipeline *pipeline, uint8_t source, const struct dn_item *item, float score,
                     bool fills)
{
    if (dn_slot_map_get(&pipeline->picked, item->slot) != DN_SLOT_NONE)
        return;
    DN_ASSERT(pipeline->pick_count < pipeline->pick_max);
    dn_slot_map_put(&pipeline->picked, item->slot, (uint32_t)pipeline->pick_count);
    pipeline->picks[pipeline->pick_count++] =
        (struct dn_pick){.item = item, .score = score, .fills = fills, .source = source};
}

/* Brings the offers' scores to [FLOOR, 1], times the weight. */
static enum dn_code fill(struct dn_pipeline *pipeline, uint8_t source, float weight,
                         const struct dn_offers *offers, struct dn_error *err)
{
    float low = INFINITY, high = -INFINITY;

    if (offers->count == 0)
        return DN_OK;
    enum dn_code code = grow(pipeline, offers->count, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < offers->count; i++) {
        low = fminf(low, offers->list[i].score);
        high = fmaxf(high, offers->list[i].score);
    }
    for (size_t i = 0; i < offers->count; i++) {
        float share = high > low ? (offers->list[i].score - low) / (high - low) : 1.0f;

        add_pick(pipeline, source, &offers->list[i].item, weight * (FLOOR + (1 - FLOOR) * share), true);
    }
    return DN_OK;
}

/* Only as far as there are empty places. */
static enum dn_code fill_up(struct dn_pipeline *pipeline, struct dn_error *err)
{
    uint32_t off = pipeline->query->sources_off | pipeline->settings->sources_off;
    struct dn_offers offers = {0};
    enum dn_code code = DN_OK;

    if (pipeline->pick_count < pipeline->k && !(off & 1u << DN_SOURCE_TRENDING))
        code = dn_source_trending(pipeline, DN_WINDOW_TREND, &offers, err);
    if (code == DN_OK)
        code = fill(pipeline, DN_SOURCE_TRENDING, FILL_WEIGHT[DN_SOURCE_TRENDING], &offers, err);
    offers = (struct dn_offers){0};
    if (code == DN_OK && pipeline->pick_count < pipeline->k && !(off & 1u << DN_SOURCE_CATALOG))
        code = dn_source_catalog(pipeline, &offers, err);
    return code == DN_OK ? fill(pipeline, DN_SOURCE_CATALOG, FILL_WEIGHT[DN_SOURCE_CATALOG], &offers, err)
                         : code;
}

/* Lowers what points to disliked items, for a session that has nothing liked to lead it: picks from `first`
 * on. */
static void push_away(struct dn_pipeline *pipeline, size_t first)
{
    for (size_t i = first; pipeline->away && i < pipeline->pick_count; i++) {
        struct dn_pick *pick = &pipeline->picks[i];

        if (!pick->item->vector || pick->item->dim != pipeline->dim)
            continue;
        float likeness = dn_dot(pipeline->away, pick->item->vector, pipeline->dim);
        if (likeness > 0)
            pick->score -= fabsf(pick->score) * fminf(likeness, 1.0f);
    }
}

/* What speaks for a candidate most: the source whose features weigh most in its score. */
static uint8_t speaker(const struct dn_pipeline *pipeline, const struct dn_pick *pick)
{
    const struct dn_candidate *list = pipeline->gathered->list;
    uint32_t place = dn_slot_map_get(&pipeline->gathered->places, pick->item->slot);
    unsigned best = DN_SOURCE_SESSION;
    float most = -INFINITY;

    for (unsigned source = 0; source < DN_SCORED; source++) {
        float sum = 0;
        if (!(list[place].score[source] > 0))
            continue;
        for (size_t f = (size_t)source * DN_FEATURE_OF_SOURCE;
             f < ((size_t)source + 1) * DN_FEATURE_OF_SOURCE; f++)
            sum += pipeline->weights[f] * pipeline->features->of[f][place];
        if (sum > most) {
            most = sum;
            best = source;
        }
    }
    return (uint8_t)best;
}

/* What the request brings, or what was learned, or the default. Weights that cannot be read are those of a
 * later build: better the default than no answer. */
static const struct dn_model *read_model(const struct dn_pipeline *pipeline)
{
    const struct dn_recommend_world *world = pipeline->world;
    struct dn_model_kept *kept = world->kept;
    struct dn_catalog_model from;
    struct dn_error err;

    if (world->model)
        return world->model;
    bool learned = dn_catalog_model(world->catalog, &from);
    if (!kept && !(kept = dn_arena_zalloc(pipeline->arena, sizeof(*kept))))
        return NULL;
    if (kept->known && kept->learned == learned && kept->version == from.version &&
        kept->generation == from.generation)
        return &kept->model;
    if (!learned || dn_model_decode(from.bytes, from.length, &kept->model, &err) != DN_OK)
        dn_model_default(&kept->model);
    kept->known = true;
    kept->learned = learned;
    kept->version = from.version;
    kept->generation = from.generation;
    return &kept->model;
}

/* Rules and co-visitation by themselves are those of the newest item that has any. */
static float only_score(const struct dn_candidate *candidate, unsigned source)
{
    if (source == DN_SOURCE_RULES)
        return candidate->after_last;
    if (source == DN_SOURCE_COVIS)
        return candidate->near_last;
    return source < DN_SCORED ? candidate->score[source]
           : source == DN_SOURCE_SESSION && candidate->position != DN_POSITION_NONE
               ? 1 / (float)(candidate->position + 1)
               : 0;
}

static enum dn_code pick_only(struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                              unsigned source, struct dn_error *err)
{
    enum dn_code code = grow(pipeline, gathered->count, err);

    for (size_t i = 0; i < gathered->count && code == DN_OK; i++) {
        float score = only_score(&gathered->list[i], source);
        if (score > 0)
            add_pick(pipeline, (uint8_t)source, &gathered->list[i].item, score, false);
    }
    return code;
}

static enum dn_code pick_by_model(struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                                  struct dn_error *err)
{
    float *weights = dn_arena_alloc(pipeline->arena, DN_FEATURE_COUNT * sizeof(*weights));
    struct dn_features *features = dn_arena_alloc(pipeline->arena, sizeof(*features));
    float *scores = dn_arena_alloc(pipeline->arena, gathered->count * sizeof(*scores));
    if (!weights || !features || !scores)
        return dn_arena_full(err);
    enum dn_code code = dn_features_read(pipeline, gathered, features, err);
    if (code == DN_OK)
        code = grow(pipeline, gathered->count, err);
    if (code != DN_OK)
        return code;
    const struct dn_model *model = read_model(pipeline);
    if (!model)
        return dn_arena_full(err);
    dn_model_weights(model, gathered->length, weights);
    dn_model_scores(weights, features, gathered->count, scores);
    if (model->network.leads)
        dn_network_scores(&model->network, gathered->length, features, gathered->count, scores);
    for (size_t i = 0; i < gathered->count; i++)
        add_pick(pipeline, DN_SOURCE_COUNT, &gathered->list[i].item, scores[i], false);
    pipeline->features = features;
    pipeline->weights = weights;
    return DN_OK;
}

static enum dn_code pick(struct dn_pipeline *pipeline, struct dn_error *err)
{
    struct dn_gathered *gathered = dn_arena_alloc(pipeline->arena, sizeof(*gathered));
    uint32_t only = pipeline->query->only;

    if (!gathered)
        return dn_arena_full(err);
    pipeline->gathered = gathered;
    enum dn_code code = dn_gather(pipeline, NULL, gathered, err);
    if (code != DN_OK || gathered->count == 0)
        return code;
    return only > 0 ? pick_only(pipeline, gathered, only - 1, err) : pick_by_model(pipeline, gathered, err);
}

/* ---- the best k ------------------------------------------------------------------------------------- */

static int compare_ids(const struct dn_item *a, const struct dn_item *b)
{
    size_t shorter = a->id_length < b->id_length ? a->id_length : b->id_length;
    int order = memcmp(a->id, b->id, shorter);

    return order != 0 ? order : (a->id_length > b->id_length) - (a->id_length < b->id_length);
}

static bool is_better(const struct dn_pick *a, const struct dn_pick *b)
{
    if (a->fills != b->fills)
        return b->fills;
    if (a->score != b->score)
        return a->score > b->score;
    return compare_ids(a->item, b->item) < 0;
}

static void sift_down(const struct dn_pick **heap, size_t count, size_t at)
{
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        const struct dn_pick *pick = heap[at];

        if (child + 1 < count && is_better(heap[child], heap[child + 1]))
            child++;
        if (!is_better(pick, heap[child]))
            return;
        heap[at] = heap[child];
        heap[child] = pick;
    }
}

/* The best k, best first: a heap with the worst of them on top, then sorted in place. */
static size_t best_first(const struct dn_pipeline *pipeline, const struct dn_pick **order)
{
    size_t count = pipeline->pick_count < pipeline->k ? pipeline->pick_count : pipeline->k;

    for (size_t i = 0; i < count; i++)
        order[i] = &pipeline->picks[i];
    for (size_t i = count / 2; i-- > 0;)
        sift_down(order, count, i);
    for (size_t i = count; i < pipeline->pick_count; i++)
        if (is_better(&pipeline->picks[i], order[0])) {
            order[0] = &pipeline->picks[i];
            sift_down(order, count, 0);
        }
    for (size_t end = count; end-- > 1;) {
        const struct dn_pick *worst = order[0];

        order[0] = order[end];
        order[end] = worst;
        sift_down(order, end, 0);
    }
    return count;
}

static const char *with_name(const struct dn_pipeline *pipeline, const char *text,
                             const struct dn_recent *recent)
{
    char line[DN_ID_MAX + 64];

    int length = snprintf(line, sizeof line, "%s '%.*s'", text, recent->length, recent->name);
    return dn_arena_strndup(pipeline->arena, line,
                            length < 0                     ? 0
                            : (size_t)length < sizeof line ? (size_t)length
                                                           : sizeof line - 1);
}

static const char *reason_of(struct dn_pipeline *pipeline, const struct dn_pick *pick, uint8_t source)
{
    const struct dn_gathered *gathered = pipeline->gathered;

    switch (source) {
    case DN_SOURCE_VSTAN:
    case DN_SOURCE_VMIS:
        return "in sessions like yours";
    case DN_SOURCE_RULES:
        if (!pipeline->after_reason)
            pipeline->after_reason = with_name(pipeline, "often after", &gathered->recent[gathered->last]);
        return pipeline->after_reason;
    case DN_SOURCE_COVIS:
        if (!pipeline->near_reason)
            pipeline->near_reason =
                with_name(pipeline, "often together with", &gathered->recent[gathered->last]);
        return pipeline->near_reason;
    case DN_SOURCE_SESSION:
        return "from your session";
    case DN_SOURCE_TRENDING:
        return "trending now";
    case DN_SOURCE_CATALOG:
        return "in the catalogue";
    default:
        return dn_taste_explain(pipeline, pick->item);
    }
}

/* What the model ordered is shown as its odds against the best, up to 1; what fills behind it, as less than
 * 0. */
static float shown_score(float score, bool fills, float best)
{
    if (!fills)
        return expf(score - best);
    if (best == -INFINITY)
        return score;
    return score > 0 ? -1 / (1 + score) : score - 1; /* a boost may have made it large */
}

/* Before the order is made: what rounding makes equal goes by id, as all that is equal does. */
static void show_scores(struct dn_pipeline *pipeline)
{
    float best = -INFINITY;

    if (pipeline->query && pipeline->query->only > 0)
        return; /* no log odds, but the source's own scale */
    for (size_t i = 0; i < pipeline->pick_count; i++)
        if (!pipeline->picks[i].fills)
            best = fmaxf(best, pipeline->picks[i].score);
    for (size_t i = 0; i < pipeline->pick_count; i++)
        pipeline->picks[i].score = shown_score(pipeline->picks[i].score, pipeline->picks[i].fills, best);
}

static bool show(struct dn_pipeline *pipeline, const struct dn_pick *pick, float score,
                 struct dn_recommended *ret)
{
    uint8_t source = pick->source < DN_SOURCE_COUNT ? pick->source : speaker(pipeline, pick);
    const char *reason = reason_of(pipeline, pick, source);

    *ret = (struct dn_recommended){
        .item = *pick->item, .score = score, .source = NAMES[source], .reason = reason};
    return reason != NULL;
}

static enum dn_code answer(struct dn_pipeline *pipeline, struct dn_recommended **ret_items, size_t *ret_count,
                           struct dn_error *err)
{
    const struct dn_pick **order =
        dn_arena_alloc(pipeline->arena, (pipeline->k + 1) * sizeof(struct dn_pick *));

    if (!order)
        return dn_arena_full(err);
    show_scores(pipeline);
    size_t count = best_first(pipeline, order);
    struct dn_recommended *items = dn_arena_alloc(pipeline->arena, count * sizeof(*items));
    if (!items)
        return dn_arena_full(err);
    for (size_t i = 0; i < count; i++)
        if (!show(pipeline, order[i], order[i]->score, &items[i]))
            return dn_arena_full(err);
    *ret_items = items;
    *ret_count = count;
    return DN_OK;
}

static enum dn_code rerank_picks(struct dn_pipeline *pipeline, struct dn_rerank_item **ret_picked,
                                 size_t *ret_count, struct dn_error *err)
{
    const struct dn_recommend_query *query = pipeline->query;
    struct dn_rerank rerank = {.rules = query->rules,
                               .k = query->k,
                               .catalog = pipeline->world->catalog,
                               .filter = pipeline->filter,
                               .exclude = query->exclude,
                               .exclude_count = query->exclude_count};

    struct dn_rerank_item *all = dn_arena_alloc(pipeline->arena, (pipeline->pick_count + 1) * sizeof(*all));
    if (!all)
        return dn_arena_full(err);
    for (size_t i = 0; i < pipeline->pick_count; i++) {
        const struct dn_pick *pick = &pipeline->picks[i];

        all[i] = (struct dn_rerank_item){
            .item = *pick->item, .score = pick->score, .fills = pick->fills, .from = (uint32_t)i};
    }
    return dn_rerank(&rerank, all, pipeline->pick_count, pipeline->arena, ret_picked, ret_count, err);
}

/* Where caps leave places empty, though not all that passes was considered: others of categories that are not
 * full. */
static enum dn_code rerank_beyond(struct dn_pipeline *pipeline, struct dn_rerank_item **picked, size_t *count,
                                  struct dn_error *err)
{
    static const uint8_t sources[] = {DN_SOURCE_TRENDING, DN_SOURCE_CATALOG};
    uint32_t off = pipeline->query->sources_off | pipeline->settings->sources_off;
    bool all = pipeline->pick_count < pipeline->k;
    enum dn_code code = DN_OK;

    for (size_t i = 0; i < 2 && code == DN_OK && !all && *count < pipeline->query->k; i++) {
        size_t before = pipeline->pick_count;
        struct dn_offers offers = {0};

        if (pipeline->query->rules->category_cap == 0 || (off & 1u << sources[i]))
            continue;
        code = dn_source_beyond(pipeline, sources[i], *picked, *count, &offers, err);
        if (code == DN_OK)
            code = fill(pipeline, sources[i], FILL_WEIGHT[sources[i]] * FILL_LATER, &offers, err);
        if (code != DN_OK || pipeline->pick_count == before)
            continue;
        push_away(pipeline, before);
        code = rerank_picks(pipeline, picked, count, err);
    }
    return code;
}

static enum dn_code answer_by_rules(struct dn_pipeline *pipeline, struct dn_recommended **ret_items,
                                    size_t *ret_count, struct dn_error *err)
{
    struct dn_rerank_item *picked = NULL;
    float best = -INFINITY;
    size_t count = 0;
    enum dn_code code = rerank_picks(pipeline, &picked, &count, err);

    if (code == DN_OK)
        code = rerank_beyond(pipeline, &picked, &count, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < count; i++) /* as boosts left them */
        if (picked[i].from != DN_RERANK_NONE && !picked[i].fills)
            best = fmaxf(best, picked[i].score);
    struct dn_recommended *items = dn_arena_alloc(pipeline->arena, count * sizeof(*items));
    if (!items)
        return dn_arena_full(err);
    for (size_t i = 0; i < count; i++) {
        const struct dn_pick *pick =
            picked[i].from == DN_RERANK_NONE ? NULL : &pipeline->picks[picked[i].from];

        if (pick && !show(pipeline, pick, shown_score(picked[i].score, picked[i].fills, best), &items[i]))
            return dn_arena_full(err);
        if (picked[i].pinned)
            items[i] = (struct dn_recommended){.item = picked[i].item,
                                               .score = pick ? items[i].score : 0,
                                               .source = "pinned",
                                               .reason = "pinned"};
    }
    *ret_items = items;
    *ret_count = count;
    return DN_OK;
}

const char *dn_recommend_source_name(unsigned source)
{
    return source < DN_SOURCE_COUNT ? NAMES[source] : NULL;
}

/* Slots are compared and looked up all through a request: they must all be of one state of the catalogue. */
static struct dn_recommend_world pinned(const struct dn_recommend_world *world)
{
    struct dn_recommend_world copy = *world;

    copy.catalog = dn_catalog_pin(world->catalog);
    return copy;
}

/* ---- entry points ----------------------------------------------------------------------------------- */

static enum dn_code check(const struct dn_recommend_world *world, size_t k, const struct dn_filter *filter,
                          struct dn_error *err)
{
    if (k < 1 || k > DN_K_MAX)
        return dn_fail(err, DN_INVALID, "k is %zu: it must be 1 to %d", k, DN_K_MAX);
    return filter ? dn_filter_check(world->catalog, filter, err) : DN_OK;
}

enum dn_code dn_pipeline_begin(struct dn_pipeline *pipeline, struct dn_recommend_world *held,
                               const struct dn_recommend_world *world,
                               const struct dn_recommend_settings *settings,
                               const struct dn_recommend_query *query, struct dn_arena *arena,
                               struct dn_error *err)
{
    *held = pinned(world);
    *pipeline = (struct dn_pipeline){
        .world = held,
        .settings = settings,
        .query = query,
        .filter = query->filter ? query->filter : &AVAILABLE,
        .k = query->k,
        .arena = arena,
    };
    /* Rules choose among more. */
    if (query->rules && dn_rules_any(query->rules))
        pipeline->k = query->k < DN_K_MAX / RULES_CHOICE ? query->k * RULES_CHOICE : DN_K_MAX;
    enum dn_code code = check(held, query->k, query->filter, err);

    if (code != DN_OK)
        return code;
    if (query->exclude_count > DN_EXCLUDE_MAX)
        return dn_fail(err, DN_INVALID, "exclude has %zu ids: at most %d are allowed", query->exclude_count,
                       DN_EXCLUDE_MAX);
    code = read_excluded(pipeline, err);
    return code == DN_OK ? dn_taste_read(pipeline, err) : code;
}

enum dn_code dn_recommend(const struct dn_recommend_world *world,
                          const struct dn_recommend_settings *settings,
                          const struct dn_recommend_query *query, struct dn_arena *arena,
                          struct dn_recommended **ret_items, size_t *ret_count, struct dn_error *err)
{
    struct dn_pipeline *pipeline = dn_arena_alloc(arena, sizeof(*pipeline));
    struct dn_recommend_world held;

    if (!pipeline)
        return dn_arena_full(err);
    enum dn_code code = dn_pipeline_begin(pipeline, &held, world, settings, query, arena, err);
    if (code == DN_OK)
        code = pick(pipeline, err);
    if (code == DN_OK && query->ret_named)
        *query->ret_named = dn_slot_map_get(&pipeline->picked, query->watched) != DN_SLOT_NONE;
    if (code == DN_OK)
        code = fill_up(pipeline, err);
    if (code != DN_OK)
        return code;
    push_away(pipeline, 0);
    return pipeline->query->rules && dn_rules_any(pipeline->query->rules)
               ? answer_by_rules(pipeline, ret_items, ret_count, err)
               : answer(pipeline, ret_items, ret_count, err);
}

enum dn_code dn_similar(const struct dn_recommend_world *world, const float *vector, uint32_t dim,
                        uint32_t self_slot, size_t k, const struct dn_filter *filter, struct dn_arena *arena,
                        struct dn_recommended **ret_items, size_t *ret_count, struct dn_error *err)
{
    struct dn_recommend_world held = pinned(world);
    size_t self_count = self_slot != UINT32_MAX ? 1 : 0;
    size_t found = 0, count = 0;
    enum dn_code code = check(&held, k, filter, err);

    if (code != DN_OK)
        return code;
    struct dn_hit *hits = dn_arena_alloc(arena, k * sizeof(*hits));
    struct dn_recommended *items = dn_arena_alloc(arena, k * sizeof(*items));
    if (!hits || !items)
        return dn_arena_full(err);
    if (!filter)
        filter = &AVAILABLE;
    code = dn_retrieval_search(held.retrieval, held.catalog, vector, dim, k, filter, &self_slot, self_count,
                               arena, hits, &found, err);
    if (code == DN_NO_MEMORY || code == DN_EXHAUSTED)
        return dn_arena_full(err);
    if (code != DN_OK)
        return dn_wrap(err, code, "search by vector");
    for (size_t i = 0; i < found; i++) {
        struct dn_recommended *item = &items[count];

        if (dn_catalog_get_slot(held.catalog, hits[i].slot, &item->item) != DN_OK ||
            !dn_filter_match(filter, &item->item))
            continue;
        item->score = hits[i].score;
        item->source = "similar";
        item->reason = self_count ? "similar to this item" : "similar to this vector";
        count++;
    }
    *ret_items = items;
    *ret_count = count;
    return DN_OK;
}

enum dn_code dn_trending(const struct dn_recommend_world *world, enum dn_window window, size_t k,
                         const struct dn_filter *filter, struct dn_arena *arena,
                         struct dn_recommended **ret_items, size_t *ret_count, struct dn_error *err)
{
    static const char *const REASONS[DN_WINDOW_COUNT] = {
        [DN_WINDOW_TREND] = "trending now",    [DN_WINDOW_HOUR] = "popular this hour",
        [DN_WINDOW_DAY] = "popular today",     [DN_WINDOW_WEEK] = "popular this week",
        [DN_WINDOW_EVER] = "most events ever",
    };
    struct dn_recommend_world held = pinned(world);
    struct dn_pipeline pipeline = {
        .world = &held,
        .filter = filter ? filter : &AVAILABLE,
        .k = k,
        .arena = arena,
    };
    struct dn_offers offers = {0};
    enum dn_code code = check(&held, k, filter, err);

    if (code == DN_OK)
        code = dn_source_trending(&pipeline, window, &offers, err);
    if (code == DN_OK)
        code = grow(&pipeline, offers.count, err);
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < offers.count; i++) /* the score here is the plain count, in events */
        add_pick(&pipeline, DN_SOURCE_TRENDING, &offers.list[i].item, offers.list[i].score, true);
    code = answer(&pipeline, ret_items, ret_count, err);
    for (size_t i = 0; code == DN_OK && i < *ret_count; i++)
        (*ret_items)[i].reason = REASONS[window];
    return code;
}
