/* The challenger: network.h. All in single precision, so that what is saved is what is at hand. */
#include "recommend/network.h"

#include <math.h>
#include <string.h>

#define UNITS DN_NETWORK_UNITS
#define LANES 4u
#define PARTS (UNITS / LANES)
#define BINS 512u
#define BINS_OF_ONE 32.0f    /* log odds */
#define LEAD_ONE 8.0f        /* log odds behind the best that count as far behind */
#define CORRECTION_MAX 20.0f /* log odds; so no exp overflows */
#define PROBABILITY_MIN 1e-30
#define MEAN_STEPS 2000u /* the means are over about so many clicks */
#define STEPS_MIN 2000u  /* before that it does not lead */
#define MARGIN 0.005f    /* by so much it must be better to begin to lead: not another one at every click */
#define RATE 0.1f
#define SQUARE_START 1.0f /* so that the first steps are short: it begins as the model */
#define GRADIENT_MAX 10.0f
#define START_WEIGHT 0.3f

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), may_alias));
typedef int32_t masks __attribute__((vector_size(LANES * sizeof(float)), may_alias));
_Static_assert(PARTS == 4, "sums of units are four vectors by name: only so they stay in registers");

/* ---- the best ---------------------------------------------------------------------------------------- */

static float highest(const float *scores, size_t count)
{
    float most[LANES] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) /* four chains: each waits for its own last comparison only */
        for (size_t l = 0; l < LANES; l++)
            most[l] = scores[i + l] > most[l] ? scores[i + l] : most[l];
    for (; i < count; i++)
        most[0] = scores[i] > most[0] ? scores[i] : most[0];
    return fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));
}

/* By bins of how far behind the best they are, as many whole bins as there is room for: no sorting, and no
 * branch that depends on a score. The last bin is for what is far behind, and for what is no number. */
size_t dn_network_best(const float *scores, size_t count, uint32_t ret[DN_NETWORK_BEST])
{
    uint32_t bins[BINS] = {0};
    float most = highest(scores, count);
    size_t found = 0, whole = 0, room = DN_NETWORK_BEST;

    for (size_t i = 0; i < count; i++) {
        float place = (most - scores[i]) * BINS_OF_ONE;
        bins[place < (float)(BINS - 1) ? (size_t)(int32_t)place : BINS - 1]++;
    }
    for (; whole < BINS && bins[whole] <= room; whole++)
        room -= bins[whole];
    for (size_t i = 0; i < count && found < DN_NETWORK_BEST; i++) {
        ret[found] = (uint32_t)i;
        found += whole == BINS || (most - scores[i]) * BINS_OF_ONE < (float)whole;
    }
    return found;
}

/* ---- inputs ------------------------------------------------------------------------------------------ */

/* Features that are all 0 wherever the one that `marks` is: most candidates come from one or
 * two sources only. */
struct group {
    const float *marks; /* NULL: hardly ever 0 */
    size_t from, to;    /* in values and rows */
};
#define GROUPS_MAX (DN_SCORED + 2u)
struct inputs {
    const struct dn_network *network;
    const float *values[DN_FEATURE_COUNT]; /* of all candidates */
    const float *weights[DN_FEATURE_COUNT];
    size_t rows[DN_FEATURE_COUNT];
    struct group groups[GROUPS_MAX];
    size_t count, group_count;
    const uint32_t *best;
    size_t best_count;
    float lead[DN_NETWORK_BEST];
};

static void add_input(struct inputs *inputs, const struct dn_features *features, size_t feature)
{
    size_t row = DN_NETWORK_FEATURES + feature;

    if (features->of[feature] == NULL)
        return;
    inputs->values[inputs->count] = features->of[feature];
    inputs->weights[inputs->count] = inputs->network->weights[row];
    inputs->rows[inputs->count++] = row;
}

static void add_group(struct inputs *inputs, const struct dn_features *features, size_t first, size_t last,
                      size_t marks)
{
    size_t from = inputs->count;

    for (size_t f = first; f <= last && features->of[marks] != NULL; f++)
        add_input(inputs, features, f);
    if (inputs->count > from)
        inputs->groups[inputs->group_count++] =
            (struct group){.marks = features->of[marks], .from = from, .to = inputs->count};
}

static void read_inputs(const struct dn_network *network, const struct dn_features *features,
                        const float *scores, const uint32_t *best, size_t best_count, struct inputs *ret)
{
    float most = -INFINITY;

    ret->network = network;
    ret->count = ret->group_count = 0;
    ret->best = best;
    ret->best_count = best_count;
    for (size_t first = 0; first < DN_FEATURE_AFTER_LAST; first += DN_FEATURE_OF_SOURCE)
        add_group(ret, features, first, first + DN_FEATURE_OF_SOURCE - 1, first + DN_FEATURE_OF_SOURCE - 1);
    add_group(ret, features, DN_FEATURE_SEEN, DN_FEATURE_SEEN_LAST, DN_FEATURE_SEEN);
    size_t from = ret->count;
    for (size_t f = DN_FEATURE_AFTER_LAST; f < DN_FEATURE_COUNT; f++)
        if (f < DN_FEATURE_SEEN || f > DN_FEATURE_SEEN_LAST)
            add_input(ret, features, f);
    ret->groups[ret->group_count++] = (struct group){.marks = NULL, .from = from, .to = ret->count};
    for (size_t i = 0; i < best_count; i++)
        most = scores[best[i]] > most ? scores[best[i]] : most;
    for (size_t i = 0; i < best_count; i++) {
        float behind = (most - scores[best[i]]) / LEAD_ONE;
        ret->lead[i] = behind < 1 ? 1 - behind : 0;
    }
}

/* Which of the best the group says something of. */
static size_t members(const struct inputs *inputs, const struct group *group, uint32_t ret[DN_NETWORK_BEST])
{
    size_t count = 0;

    for (uint32_t i = 0; i < inputs->best_count; i++) {
        ret[count] = i; /* without a branch: it would be a coin's */
        count += group->marks == NULL ? 1 : group->marks[inputs->best[i]] > 0;
    }
    return count;
}

/* ---- forward ----------------------------------------------------------------------------------------- */

struct layer {
    _Alignas(16) float of[DN_NETWORK_BEST][UNITS];
};

static inline lanes part(const float *units, size_t p)
{
    return *(const lanes *)(const void *)(units + p * LANES);
}

static inline void set_part(float *units, size_t p, lanes value)
{
    *(lanes *)(void *)(units + p * LANES) = value;
}

static void add_features(const struct inputs *inputs, const struct group *group, struct layer *units)
{
    uint32_t list[DN_NETWORK_BEST];
    size_t count = members(inputs, group, list);

    for (size_t m = 0; m < count; m++) {
        float *to = units->of[list[m]];
        size_t at = inputs->best[list[m]];
        lanes a = part(to, 0), b = part(to, 1), c = part(to, 2), d = part(to, 3);
        for (size_t f = group->from; f < group->to; f++) {
            const float *weights = inputs->weights[f];
            float value = inputs->values[f][at];
            a += value * part(weights, 0);
            b += value * part(weights, 1);
            c += value * part(weights, 2);
            d += value * part(weights, 3);
        }
        set_part(to, 0, a);
        set_part(to, 1, b);
        set_part(to, 2, c);
        set_part(to, 3, d);
    }
}

/* The hidden units of the best, rectified, and their corrections. */
static void forward(const struct dn_network *network, const struct inputs *inputs, size_t length,
                    struct layer *units, float ret_corrections[DN_NETWORK_BEST])
{
    const float *thresholds = network->weights[DN_NETWORK_LENGTHS + dn_model_vector(length) - 1];
    const float *lead = network->weights[DN_NETWORK_LEAD], *outer = network->weights[DN_NETWORK_OUT];

    for (size_t i = 0; i < inputs->best_count; i++) {
#pragma GCC unroll 4
        for (size_t p = 0; p < PARTS; p++)
            set_part(units->of[i], p, part(thresholds, p) + inputs->lead[i] * part(lead, p));
    }
    for (size_t g = 0; g < inputs->group_count; g++)
        add_features(inputs, &inputs->groups[g], units);
    for (size_t i = 0; i < inputs->best_count; i++) {
        lanes sums = {0};
#pragma GCC unroll 4
        for (size_t p = 0; p < PARTS; p++) {
            lanes unit = part(units->of[i], p);
            unit = (lanes)((masks)unit & (unit > 0));
            set_part(units->of[i], p, unit);
            sums += unit * part(outer, p);
        }
        float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        ret_corrections[i] = sum > CORRECTION_MAX    ? CORRECTION_MAX
                             : sum < -CORRECTION_MAX ? -CORRECTION_MAX
                                                     : sum;
    }
}

void dn_network_scores(const struct dn_network *network, size_t length, const struct dn_features *features,
                       size_t count, float *scores)
{
    uint32_t best[DN_NETWORK_BEST];
    float corrections[DN_NETWORK_BEST];
    struct inputs inputs;
    struct layer units;
    size_t found = dn_network_best(scores, count, best);

    read_inputs(network, features, scores, best, found, &inputs);
    forward(network, &inputs, length, &units, corrections);
    for (size_t i = 0; i < found; i++)
        scores[best[i]] += corrections[i];
}

/* ---- backward ---------------------------------------------------------------------------------------- */

/* What comes back to each hidden unit of the i-th, in place of its output, and the outer weights' gradient.
 */
static void backward_outer(const struct dn_network *network, float slope, float *units, float *gradient)
{
    const float *outer = network->weights[DN_NETWORK_OUT];

    for (size_t p = 0; p < PARTS; p++) {
        lanes unit = part(units, p), back = slope * part(outer, p);
        set_part(gradient, p, part(gradient, p) + slope * unit);
        set_part(units, p, (lanes)((masks)back & (unit > 0)));
    }
}

static void backward_features(const struct inputs *inputs, const struct group *group,
                              const struct layer *back, float gradient[DN_NETWORK_ROWS][UNITS])
{
    uint32_t list[DN_NETWORK_BEST];
    size_t count = members(inputs, group, list);

    for (size_t f = group->from; f < group->to; f++) {
        float *to = gradient[inputs->rows[f]];
        lanes a = {0}, b = {0}, c = {0}, d = {0};
        for (size_t m = 0; m < count; m++) {
            const float *units = back->of[list[m]];
            float value = inputs->values[f][inputs->best[list[m]]];
            a += value * part(units, 0);
            b += value * part(units, 1);
            c += value * part(units, 2);
            d += value * part(units, 3);
        }
        set_part(to, 0, a);
        set_part(to, 1, b);
        set_part(to, 2, c);
        set_part(to, 3, d);
    }
}

/* slopes: of the loss by each correction. */
static void backward(const struct dn_network *network, const struct inputs *inputs, size_t length,
                     const float *slopes, struct layer *units, float gradient[DN_NETWORK_ROWS][UNITS])
{
    float *thresholds = gradient[DN_NETWORK_LENGTHS + dn_model_vector(length) - 1];
    float *lead = gradient[DN_NETWORK_LEAD];

    memset(gradient, 0, sizeof(float) * DN_NETWORK_ROWS * UNITS);
    for (size_t i = 0; i < inputs->best_count; i++) {
        backward_outer(network, slopes[i], units->of[i], gradient[DN_NETWORK_OUT]);
#pragma GCC unroll 4
        for (size_t p = 0; p < PARTS; p++) {
            lanes back = part(units->of[i], p);
            set_part(thresholds, p, part(thresholds, p) + back);
            set_part(lead, p, part(lead, p) + inputs->lead[i] * back);
        }
    }
    for (size_t g = 0; g < inputs->group_count; g++)
        backward_features(inputs, &inputs->groups[g], units, gradient);
}

float dn_network_loss(const struct dn_network *network, const struct dn_network_click *click,
                      float gradient[DN_NETWORK_ROWS][UNITS])
{
    const float *before = click->probabilities;
    float corrections[DN_NETWORK_BEST], after[DN_NETWORK_BEST];
    double sum = 0, others = 1, label = (double)before[click->label];
    struct inputs inputs;
    struct layer units;

    read_inputs(network, click->features, click->scores, click->best, click->best_count, &inputs);
    forward(network, &inputs, click->length, &units, corrections);
    for (size_t i = 0; i < inputs.best_count; i++) {
        size_t at = click->best[i];
        after[i] = before[at] * expf(corrections[i]);
        sum += (double)after[i];
        others -= (double)before[at];
        label = at == click->label ? (double)after[i] : label;
    }
    sum += others > 0 ? others : 0; /* they stay as they are */
    for (size_t i = 0; i < inputs.best_count; i++)
        corrections[i] = (float)((double)after[i] / sum) - (click->best[i] == click->label ? 1.0f : 0.0f);
    if (gradient != NULL)
        backward(network, &inputs, click->length, corrections, &units, gradient);
    double probability = label / sum;
    return (float)-log(probability > PROBABILITY_MIN ? probability : PROBABILITY_MIN);
}

/* ---- learning ---------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) /* splitmix64: Steele, Lea, Flood, 2014 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void dn_challenger_reset(struct dn_challenger *challenger)
{
    struct dn_network *network = &challenger->network;
    uint64_t random = 1;

    memset(challenger, 0, sizeof *challenger);
    for (size_t row = DN_NETWORK_LEAD; row < DN_NETWORK_ROWS; row++)
        for (size_t u = 0; u < UNITS; u++)
            network->weights[row][u] =
                START_WEIGHT * ((float)(next_random(&random) >> 40) / (float)(1u << 23) - 1);
    for (size_t row = 0; row < DN_NETWORK_ROWS; row++)
        for (size_t u = 0; u < UNITS; u++)
            challenger->squares[row][u] = SQUARE_START;
}

/* No number counts as the worst. */
static float bounded_loss(float loss)
{
    return loss < 0 ? 0 : fminf(loss, DN_NETWORK_LOSS_MAX);
}

static void judge(struct dn_network *network, float loss, float model_loss)
{
    float share = 1 / (float)(network->steps < MEAN_STEPS ? network->steps + 1 : MEAN_STEPS);

    network->loss += share * (bounded_loss(loss) - network->loss);
    network->model_loss += share * (bounded_loss(model_loss) - network->model_loss);
    if (network->steps < UINT32_MAX)
        network->steps++;
    network->leads = network->leads
                         ? network->loss < network->model_loss
                         : network->steps >= STEPS_MIN && network->loss < network->model_loss - MARGIN;
}

float dn_challenger_step(struct dn_challenger *challenger, const struct dn_network_click *click)
{
    struct dn_network *network = &challenger->network;
    _Alignas(16) float gradient[DN_NETWORK_ROWS][UNITS];
    float loss = dn_network_loss(network, click, gradient);

    judge(network, loss, click->loss);
    for (size_t row = 0; row < DN_NETWORK_ROWS; row++)
        for (size_t u = 0; u < UNITS; u++) {
            float slope = gradient[row][u], *square = &challenger->squares[row][u];
            float *weight = &network->weights[row][u];
            if (!(fabsf(slope) > 0)) /* no number neither */
                continue;
            slope = fmaxf(fminf(slope, GRADIENT_MAX), -GRADIENT_MAX);
            *square = fminf(*square + slope * slope, DN_NETWORK_SQUARE_MAX);
            *weight -= RATE * slope / sqrtf(*square);
            *weight = fmaxf(fminf(*weight, DN_NETWORK_WEIGHT_MAX), -DN_NETWORK_WEIGHT_MAX);
        }
    return loss;
}
