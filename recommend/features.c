/* Features of candidates, and the scores a model gives them. Arrays go by feature, so that loops over
 * candidates vectorise. */
#include "recommend/caps.h"
#include "recommend/gather.h"

#include <math.h>
#include <string.h>

#define RANKED_MAX 32u    /* ranks beyond it are all the same: 1 / rank hardly moves there */
#define RANK_BEYOND 48.0f /* a usual rank of these */
#define SHARE_SCALE 1000.0f
#define SHARE_ONE 7.0f /* log of a share of 1 is about this; so features stay within 0 to 1 or so */
#define CLICKS_ONE 10.0f
#define RECENT_ONE 7.0f
#define TRENDING_ONE 7.0f
#define SOURCES_ONE 4.0f
#define VECTORS_AHEAD 4u  /* candidates from asking for a vector to reading it */
#define FLOATS_A_LINE 16u /* of the cache */
#define CATEGORY_ITEMS 5u /* newest items whose categories count */

static const size_t FIRST_FEATURE[DN_SCORED] = {
    [DN_SOURCE_VSTAN] = DN_FEATURE_VSTAN,   [DN_SOURCE_VMIS] = DN_FEATURE_VMIS,
    [DN_SOURCE_RULES] = DN_FEATURE_RULES,   [DN_SOURCE_COVIS] = DN_FEATURE_COVIS,
    [DN_SOURCE_VECTOR] = DN_FEATURE_VECTOR,
};

struct reading {
    const struct dn_pipeline *pipeline;
    const struct dn_gathered *gathered;
    struct dn_features *out;
    const float *scores[DN_SCORED]; /* the candidates', one array a source: they are gone through often */
    bool full;                      /* the arena */
};

/* The array of a feature, made when it is first needed. A full arena gives NULL for ever. */
static float *array(struct reading *reading, size_t feature)
{
    if (reading->out->of[feature] == NULL && !reading->full) {
        reading->out->of[feature] =
            dn_arena_zalloc(reading->pipeline->arena, reading->gathered->count * sizeof(float));
        reading->full = reading->out->of[feature] == NULL;
    }
    return reading->out->of[feature];
}

/* ---- sources ----------------------------------------------------------------------------------------- */

struct ranked {
    float score;
    uint32_t at;
};

/* The best RANKED_MAX by score, best first; equal ones in the order of the list. */
static size_t rank(const float *scores, size_t candidates, struct ranked ret[RANKED_MAX])
{
    size_t count = 0;

    for (uint32_t i = 0; i < candidates; i++) {
        float score = scores[i];
        if (score <= 0 || (count == RANKED_MAX && score <= ret[count - 1].score))
            continue;
        size_t at = count < RANKED_MAX ? count++ : count - 1;
        for (; at > 0 && ret[at - 1].score < score; at--)
            ret[at] = ret[at - 1];
        ret[at] = (struct ranked){.score = score, .at = i};
    }
    return count;
}

static bool read_scores(struct reading *reading)
{
    const struct dn_gathered *gathered = reading->gathered;
    float *all = dn_arena_alloc(reading->pipeline->arena, DN_SCORED * gathered->count * sizeof *all);

    if (all == NULL)
        return false;
    for (size_t i = 0; i < gathered->count; i++)
        for (size_t source = 0; source < DN_SCORED; source++)
            all[source * gathered->count + i] = gathered->list[i].score[source];
    for (size_t source = 0; source < DN_SCORED; source++)
        reading->scores[source] = all + source * gathered->count;
    return true;
}

static void read_source(struct reading *reading, unsigned source)
{
    size_t count = reading->gathered->count, first = FIRST_FEATURE[source];
    const float *from = reading->scores[source];
    struct ranked best[RANKED_MAX];
    size_t ranked = rank(from, count, best);
    float sum = 0;

    if (ranked == 0)
        return;
    float *scores = array(reading, first), *ranks = array(reading, first + 1),
          *shares = array(reading, first + 2);
    float *named = array(reading, first + 3), *sources = array(reading, DN_FEATURE_SOURCES);
    if (reading->full)
        return;
    for (size_t i = 0; i < count; i++)
        sum += from[i];
    for (size_t i = 0; i < count; i++) {
        float score = from[i];
        if (score <= 0)
            continue;
        scores[i] = score / best[0].score;
        ranks[i] = 1 / RANK_BEYOND;
        shares[i] = logf(1 + score / sum * SHARE_SCALE) / SHARE_ONE;
        named[i] = 1;
        sources[i] += 1 / SOURCES_ONE;
    }
    for (size_t r = 0; r < ranked; r++)
        ranks[best[r].at] = 1 / (float)(r + 1);
}

/* ---- the item's own and the session's ---------------------------------------------------------------- */

static void read_counts(struct reading *reading)
{
    const struct dn_gathered *gathered = reading->gathered;
    float *after = array(reading, DN_FEATURE_AFTER_LAST), *clicks = array(reading, DN_FEATURE_CLICKS);
    float *recent = array(reading, DN_FEATURE_RECENT_CLICKS), *trending = array(reading, DN_FEATURE_TRENDING);

    for (size_t i = 0; i < gathered->count && !reading->full; i++) {
        const struct dn_candidate *candidate = &gathered->list[i];
        if (candidate->after_last > 0)
            after[i] = logf(1 + SHARE_SCALE * candidate->after_last) / SHARE_ONE;
        clicks[i] = logf(1 + candidate->clicks) / CLICKS_ONE;
        recent[i] = logf(1 + candidate->recent) / RECENT_ONE;
        trending[i] = logf(1 + candidate->trending) / TRENDING_ONE;
    }
}

static void read_seen(struct reading *reading)
{
    const struct dn_gathered *gathered = reading->gathered;

    for (size_t i = 0; i < gathered->count && !reading->full; i++) {
        uint32_t position = gathered->list[i].position;
        if (position == DN_POSITION_NONE)
            continue;
        float *seen = array(reading, DN_FEATURE_SEEN), *near = array(reading, DN_FEATURE_SEEN_NEAR);
        float *before = array(reading, DN_FEATURE_SEEN_BEFORE),
              *repeats = array(reading, DN_FEATURE_SEEN_REPEATS);
        float *last = array(reading, DN_FEATURE_SEEN_LAST);
        if (reading->full)
            return;
        seen[i] = 1;
        near[i] = 1 / (float)(position + 1);
        before[i] = position == 1;
        last[i] = position == 0;
        repeats[i] = gathered->repeats;
    }
}

static void prefetch_vector(const struct dn_item *item, uint32_t dim)
{
    for (uint32_t i = 0; item->vector != NULL && i < dim; i += FLOATS_A_LINE)
        __builtin_prefetch(item->vector + i);
}

static void read_likeness(struct reading *reading)
{
    const struct dn_pipeline *pipeline = reading->pipeline;
    const struct dn_gathered *gathered = reading->gathered;
    const float *last = gathered->recent_count > 0 && gathered->recent[0].known &&
                                gathered->recent[0].item.dim == pipeline->dim
                            ? gathered->recent[0].item.vector
                            : NULL;

    if (pipeline->toward == NULL)
        return;
    float *likeness = array(reading, DN_FEATURE_LIKENESS), *none = array(reading, DN_FEATURE_NO_VECTOR);
    float *likeness_last = last != NULL ? array(reading, DN_FEATURE_LIKENESS_LAST) : NULL;
    for (size_t i = 0; i < gathered->count && !reading->full; i++) {
        const struct dn_item *item = &gathered->list[i].item;
        if (i + VECTORS_AHEAD < gathered->count)
            prefetch_vector(&gathered->list[i + VECTORS_AHEAD].item, pipeline->dim);
        if (item->vector == NULL || item->dim != pipeline->dim) {
            none[i] = 1;
            continue;
        }
        likeness[i] = dn_dot(pipeline->toward, item->vector, pipeline->dim);
        if (last != NULL)
            likeness_last[i] = dn_dot(last, item->vector, pipeline->dim);
    }
}

/* Its likeness is all that is known of it: nothing else says how it stands to what others clicked. */
static bool is_vector_only(const struct dn_candidate *candidate)
{
    bool only = candidate->score[DN_SOURCE_VECTOR] > 0 && candidate->position == DN_POSITION_NONE;

    for (size_t source = 0; source < DN_NEAR_SOURCES; source++)
        only = only && !(candidate->score[source] > 0);
    return only;
}

static void read_vector_only(struct reading *reading)
{
    const struct dn_gathered *gathered = reading->gathered;

    for (size_t i = 0; i < gathered->count && !reading->full; i++) {
        float *only = is_vector_only(&gathered->list[i]) ? array(reading, DN_FEATURE_VECTOR_ONLY) : NULL;
        if (only != NULL)
            only[i] = 1;
    }
}

static bool is_priced(const struct dn_item *item)
{
    return item->price > 0 && isfinite(item->price);
}

static void read_attributes(struct reading *reading)
{
    const struct dn_gathered *gathered = reading->gathered;
    const struct dn_item *items[CATEGORY_ITEMS];
    size_t count = 0, categories = 0, prices = 0;
    double price = 0; /* mean of logs */

    for (size_t i = 0; i < gathered->recent_count && count < CATEGORY_ITEMS; i++)
        if (gathered->recent[i].known)
            items[count++] = &gathered->recent[i].item;
    for (size_t i = 0; i < count; i++) {
        categories += items[i]->category_length > 0;
        if (is_priced(items[i])) {
            price += log(items[i]->price);
            prices++;
        }
    }
    float *category = categories > 0 ? array(reading, DN_FEATURE_CATEGORY) : NULL;
    float *likeness = prices > 0 ? array(reading, DN_FEATURE_PRICE) : NULL;
    for (size_t i = 0; i < gathered->count && !reading->full; i++) {
        const struct dn_item *item = &gathered->list[i].item;
        for (size_t j = 0; j < count && categories > 0; j++)
            category[i] += dn_same_category(item, items[j]) ? 1 / (float)count : 0;
        if (prices > 0 && is_priced(item))
            likeness[i] = 1 / (1 + fabsf((float)(log(item->price) - price / (double)prices)));
    }
}

enum dn_code dn_features_read(const struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                              struct dn_features *ret, struct dn_error *err)
{
    struct reading reading = {.pipeline = pipeline, .gathered = gathered, .out = ret};

    *ret = (struct dn_features){0};
    if (gathered->count == 0)
        return DN_OK;
    if (!read_scores(&reading))
        return dn_arena_full(err);
    for (unsigned source = 0; source < DN_SCORED; source++)
        read_source(&reading, source);
    read_counts(&reading);
    read_seen(&reading);
    read_likeness(&reading);
    read_vector_only(&reading);
    read_attributes(&reading);
    return reading.full ? dn_arena_full(err) : DN_OK;
}

/* ---- the model --------------------------------------------------------------------------------------- */

void dn_model_weights(const struct dn_model *model, size_t length, float ret[DN_FEATURE_COUNT])
{
    const float *own = model->weights[dn_model_vector(length)];

    for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
        ret[f] = model->weights[0][f] + own[f];
}

void dn_model_scores(const float weights[DN_FEATURE_COUNT], const struct dn_features *features, size_t count,
                     float *ret_scores)
{
    memset(ret_scores, 0, count * sizeof *ret_scores);
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++) {
        const float *values = features->of[f];
        if (values == NULL || weights[f] == 0)
            continue;
        for (size_t i = 0; i < count; i++)
            ret_scores[i] += weights[f] * values[i];
    }
}
