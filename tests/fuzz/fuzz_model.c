/* Bytes of a model and of what its learner goes on from: what is read is within bounds, its scores are
 * numbers, and a learner that took the bytes writes them as it would read them. */
#include "base/error.h"
#include "recommend/learn.h"
#include "recommend/network.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

#define COUNT 200u

const unsigned dn_fuzz_runs = 20000;

static void check_model(const struct dn_model *model)
{
    const struct dn_network *network = &model->network;

    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
            DN_ASSERT(fabsf(model->weights[v][f]) <= DN_WEIGHT_MAX);
    for (size_t row = 0; row < DN_NETWORK_ROWS; row++)
        for (size_t u = 0; u < DN_NETWORK_UNITS; u++)
            DN_ASSERT(fabsf(network->weights[row][u]) <= DN_NETWORK_WEIGHT_MAX);
    DN_ASSERT(network->loss >= 0 && network->loss <= DN_NETWORK_LOSS_MAX);
    DN_ASSERT(network->model_loss >= 0 && network->model_loss <= DN_NETWORK_LOSS_MAX);
    DN_ASSERT(network->steps > 0 || !network->leads);
}

/* Every candidate gets a score that is a number. */
static void check_scores(const struct dn_model *model)
{
    static float values[COUNT];
    float weights[DN_FEATURE_COUNT], scores[COUNT];
    struct dn_features features;

    for (size_t i = 0; i < COUNT; i++)
        values[i] = (float)i / COUNT;
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
        features.of[f] = values;
    dn_model_weights(model, 2, weights);
    dn_model_scores(weights, &features, COUNT, scores);
    dn_network_scores(&model->network, 2, &features, COUNT, scores);
    for (size_t i = 0; i < COUNT; i++)
        DN_ASSERT(isfinite(scores[i]));
}

/* What was loaded is saved, and loaded again, to the same bytes. */
static void check_saved(struct dn_learner *learner)
{
    struct dn_buffer saved, again;
    struct dn_error err;

    dn_buffer_init(&saved, DN_LEARNER_BYTES_MAX);
    dn_buffer_init(&again, DN_LEARNER_BYTES_MAX);
    dn_learner_save(learner, &saved);
    DN_ASSERT(!saved.failed);
    DN_ASSERT(dn_learner_load(learner, saved.bytes, saved.length, &err) == DN_OK);
    dn_learner_save(learner, &again);
    DN_ASSERT(saved.length == again.length && memcmp(saved.bytes, again.bytes, saved.length) == 0);
    dn_buffer_free(&saved);
    dn_buffer_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct dn_model model, standard;
    struct dn_error err;

    dn_model_default(&standard);
    struct dn_learner *learner = dn_learner_create(&standard);
    DN_ASSERT(learner != NULL);
    bool known = dn_model_decode(bytes, length, &model, &err) == DN_OK;
    if (known) {
        check_model(&model);
        check_scores(&model);
    }
    if (dn_learner_load(learner, bytes, length, &err) == DN_OK) {
        DN_ASSERT(known);
        check_saved(learner);
    }
    dn_learner_destroy(learner);
    return 0;
}

/* A learner's bytes, the challenger's weights far from 0. */
static void seed_network(struct dn_buffer *out, bool leads)
{
    static struct dn_challenger challenger;

    dn_challenger_reset(&challenger);
    challenger.network.steps = 5000;
    challenger.network.leads = leads;
    challenger.network.loss = 1.5f;
    challenger.network.model_loss = 1.75f;
    for (size_t u = 0; u < DN_NETWORK_UNITS; u++)
        challenger.network.weights[DN_NETWORK_OUT][u] = 0.25f * (float)u;
    dn_challenger_encode(&challenger, out);
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    struct dn_model model;
    struct dn_buffer bytes;

    if (n > 3)
        return 0;
    dn_model_default(&model);
    dn_buffer_init(&bytes, max);
    struct dn_learner *learner = dn_learner_create(&model);
    DN_ASSERT(learner != NULL);
    if (n == 0)
        dn_model_encode(&model, &bytes);
    else
        dn_learner_save(learner, &bytes);
    if (n >= 2)
        seed_network(&bytes, n == 3);
    dn_learner_destroy(learner);
    DN_ASSERT(!bytes.failed);
    size_t length = bytes.length;
    memcpy(out, bytes.bytes, length);
    dn_buffer_free(&bytes);
    return length;
}
