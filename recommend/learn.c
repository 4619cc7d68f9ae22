/* Learn: learn.h. The gradient of -log p(label) is the label's features less their mean under the model's
 * probabilities. */
#include "recommend/learn.h"
#include "recommend/gather.h"
#include "recommend/network.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RATE 0.1
#define USUAL_K 20          /* what requests ask for: sources offer candidates by it */
#define STEPS_LENGTH_MIN 2u /* events: one that was seen, one that is the label */

struct dn_learner {
    double weights[DN_MODEL_VECTORS][DN_FEATURE_COUNT];
    double squares[DN_MODEL_VECTORS][DN_FEATURE_COUNT]; /* of the gradients so far */
    struct dn_challenger challenger;
    bool alone; /* no challenger */
};

void dn_learner_reset(struct dn_learner *learner, const struct dn_model *start)
{
    memset(learner->squares, 0, sizeof learner->squares);
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
            learner->weights[v][f] = (double)start->weights[v][f];
    dn_challenger_reset(&learner->challenger);
}

struct dn_learner *dn_learner_create(const struct dn_model *start)
{
    struct dn_learner *learner = calloc(1, sizeof *learner);

    if (learner != NULL)
        dn_learner_reset(learner, start);
    return learner;
}

void dn_learner_challenge(struct dn_learner *learner, bool challenge)
{
    learner->alone = !challenge;
    dn_challenger_reset(&learner->challenger);
}

void dn_learner_destroy(struct dn_learner *learner)
{
    free(learner);
}

void dn_learner_model(const struct dn_learner *learner, struct dn_model *ret)
{
    memset(ret, 0, sizeof *ret);
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
            ret->weights[v][f] = (float)learner->weights[v][f];
    if (learner->challenger.network.steps > 0)
        ret->network = learner->challenger.network;
}

/* ---- saved: the model, then u32 magic, u16 vectors, u16 features, vectors x features f32 squares, then the
 * challenger (network_bytes.c), where it has begun ------------------------------------------------------- */

#define SQUARE_MAX 1e30f

void dn_learner_save(const struct dn_learner *learner, struct dn_buffer *out)
{
    struct dn_model model;

    dn_learner_model(learner, &model);
    dn_model_encode(&model, out);
    dn_buffer_u32(out, DN_SQUARES_MAGIC);
    dn_buffer_u16(out, DN_MODEL_VECTORS);
    dn_buffer_u16(out, DN_FEATURE_COUNT);
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
            dn_buffer_f32(out, (float)fmin(learner->squares[v][f], (double)SQUARE_MAX));
    if (learner->challenger.network.steps > 0)
        dn_challenger_encode(&learner->challenger, out);
}

/* What is behind the model's bytes; features of another build that are not here are left out. */
static enum dn_code load_squares(struct dn_reader *in, double squares[DN_MODEL_VECTORS][DN_FEATURE_COUNT],
                                 struct dn_error *err)
{
    uint32_t magic = dn_reader_u32(in);
    size_t vectors = dn_reader_u16(in), features = dn_reader_u16(in);

    if (in->failed || magic != DN_SQUARES_MAGIC || vectors != DN_MODEL_VECTORS || features < 1 ||
        features > DN_FEATURES_MAX || dn_reader_left(in) < 4 * vectors * features)
        return dn_fail(err, DN_CORRUPT, "what is behind the weights is no learner's");
    for (size_t v = 0; v < vectors; v++)
        for (size_t f = 0; f < features; f++) {
            float square = dn_reader_f32(in);
            if (!(square >= 0 && square <= SQUARE_MAX))
                return dn_fail(err, DN_CORRUPT, "a learner's square is below 0, too large or no number");
            if (f < DN_FEATURE_COUNT)
                squares[v][f] = (double)square;
        }
    return DN_OK;
}

enum dn_code dn_learner_load(struct dn_learner *learner, const uint8_t *bytes, size_t length,
                             struct dn_error *err)
{
    double squares[DN_MODEL_VECTORS][DN_FEATURE_COUNT] = {{0}};
    struct dn_challenger challenger;
    struct dn_model model;
    struct dn_reader in;
    size_t used = 0;
    enum dn_code code = dn_model_decode_head(bytes, length, &model, &used, err);

    dn_challenger_reset(&challenger);
    if (code == DN_OK && used < length) {
        dn_reader_init(&in, bytes + used, length - used);
        code = load_squares(&in, squares, err);
        if (code == DN_OK && dn_reader_left(&in) > 0) /* an older build wrote no more */
            code = dn_challenger_decode(&in, &challenger, err);
    }
    if (code != DN_OK)
        return code;
    dn_learner_reset(learner, &model);
    memcpy(learner->squares, squares, sizeof learner->squares);
    if (!learner->alone)
        learner->challenger = challenger;
    return DN_OK;
}

static void step(struct dn_learner *learner, size_t vector, size_t feature, double gradient)
{
    double *square = &learner->squares[vector][feature], *weight = &learner->weights[vector][feature];

    *square += gradient * gradient;
    if (*square > 0)
        *weight += RATE * gradient / sqrt(*square);
    if (*weight > (double)DN_WEIGHT_MAX || *weight < -(double)DN_WEIGHT_MAX)
        *weight = *weight > 0 ? (double)DN_WEIGHT_MAX : -(double)DN_WEIGHT_MAX;
}

/* Probabilities in place of scores; the label's is returned. */
static double softmax(float *scores, size_t count, size_t label)
{
    float most = scores[0];
    double sum = 0;

    for (size_t i = 1; i < count; i++)
        most = scores[i] > most ? scores[i] : most;
    for (size_t i = 0; i < count; i++) {
        scores[i] = expf(scores[i] - most);
        sum += (double)scores[i];
    }
    for (size_t i = 0; i < count; i++)
        scores[i] = (float)((double)scores[i] / sum);
    return (double)scores[label];
}

static enum dn_code learn(struct dn_learner *learner, const struct dn_pipeline *pipeline,
                          const struct dn_gathered *gathered, size_t label, struct dn_learned *ret,
                          struct dn_error *err)
{
    size_t vector = dn_model_vector(gathered->length), count = gathered->count;
    float *scores = dn_arena_alloc(pipeline->arena, count * sizeof *scores);
    float *probabilities = dn_arena_alloc(pipeline->arena, count * sizeof *probabilities);
    struct dn_features features;
    float weights[DN_FEATURE_COUNT];
    enum dn_code code = dn_features_read(pipeline, gathered, &features, err);

    if (code != DN_OK)
        return code;
    if (scores == NULL || probabilities == NULL)
        return dn_arena_full(err);
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
        weights[f] = (float)learner->weights[0][f] + (float)learner->weights[vector][f];
    dn_model_scores(weights, &features, count, scores);
    ret->rank = 1;
    for (size_t i = 0; i < count; i++)
        ret->rank += scores[i] > scores[label];
    struct dn_network_click click = {.length = gathered->length,
                                     .features = &features,
                                     .scores = scores,
                                     .probabilities = probabilities,
                                     .label = label};
    uint32_t best[DN_NETWORK_BEST];
    click.best_count = dn_network_best(scores, count, best);
    click.best = best;
    memcpy(probabilities, scores, count * sizeof *scores);
    double probability = softmax(probabilities, count, label);
    ret->loss = click.loss = (float)-log(probability > 1e-30 ? probability : 1e-30);
    ret->used = true;
    if (!learner->alone)
        ret->network_loss = dn_challenger_step(&learner->challenger, &click);
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++) {
        const float *values = features.of[f];
        if (values == NULL)
            continue;
        double gradient = (double)values[label];
        for (size_t i = 0; i < count; i++)
            gradient -= (double)probabilities[i] * (double)values[i];
        step(learner, 0, f, gradient);
        step(learner, vector, f, gradient);
    }
    return DN_OK;
}

static bool is_positive(const struct dn_recommend_settings *settings, uint8_t type)
{
    return type >= 1 && type <= DN_EVENT_TYPE_MAX && settings->type_weight[type] > 0;
}

enum dn_code dn_learner_step(struct dn_learner *learner, const struct dn_recommend_world *world,
                             const struct dn_recommend_settings *settings, struct dn_hash128 user,
                             const struct dn_session_view *session, struct dn_arena *arena,
                             struct dn_learned *ret, struct dn_error *err)
{
    *ret = (struct dn_learned){0};
    if (session->event_count < STEPS_LENGTH_MIN)
        return DN_OK;
    const struct dn_event_view *clicked = &session->events[session->event_count - 1];
    if (!clicked[0].current || !clicked[-1].current || !is_positive(settings, clicked->type))
        return DN_OK;
    struct dn_session_view before = *session;
    before.event_count--;
    before.session_events--;
    before.last_ms = clicked[-1].time_ms;
    struct dn_recommend_query query = {.session = &before, .user = user, .k = USUAL_K, .include_seen = true};
    struct dn_label label = {.name = clicked->item,
                             .length = clicked->item_length,
                             .hash = clicked->item_hash,
                             .time_ms = clicked->time_ms,
                             .weight = clicked->weight};
    struct dn_recommend_world held;
    struct dn_pipeline pipeline;
    struct dn_gathered gathered;
    struct dn_item item;
    enum dn_code code = dn_pipeline_begin(&pipeline, &held, world, settings, &query, arena, err);
    if (code == DN_OK)
        code = dn_gather(&pipeline, &label, &gathered, err);
    if (code != DN_OK)
        return code;
    ret->candidates = gathered.count;
    if (dn_catalog_get_hashed(held.catalog, label.hash, label.name, label.length, &item) != DN_OK)
        return DN_OK;
    uint32_t place = dn_slot_map_get(&gathered.places, item.slot);
    return place == DN_SLOT_NONE ? DN_OK : learn(learner, &pipeline, &gathered, place, ret, err);
}
