/* Places to means. Predictions of one session are not independent of each other, so intervals are those of a
 * ratio of sums over sessions (clustered by session, normal): with y_s the sum of a session's values and n_s
 * how many there are, mean m = sum y_s / sum n_s, variance = S / (S - 1) * sum (y_s - m n_s)^2 / N^2. */
#include "recommend/eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NORMAL_95 1.959964
#define WINDOW_K 20
#define WINDOW_PREDICTIONS_MIN 25 /* in a window: fewer say nothing */

struct measure {
    const struct dn_eval_places *places;
    double *sums, *counts; /* by session */
};

enum value { HR, MRR, NDCG };

static double value_at(uint16_t place, size_t k, enum value value)
{
    if (place == 0 || place > k)
        return 0;
    return value == HR ? 1 : value == MRR ? 1 / (double)place : 1 / log2((double)place + 1);
}

/* Of sums and counts. */
static struct dn_eval_value interval(const struct measure *measure)
{
    size_t sessions = 0, clusters = measure->places->cluster_count;
    double sum = 0, count = 0, squares = 0;

    for (size_t c = 0; c < clusters; c++) {
        sum += measure->sums[c];
        count += measure->counts[c];
        sessions += measure->counts[c] > 0;
    }
    if (count <= 0)
        return (struct dn_eval_value){.half = NAN};
    double mean = sum / count;
    for (size_t c = 0; c < clusters; c++) {
        double off = measure->sums[c] - mean * measure->counts[c];
        squares += off * off;
    }
    if (sessions < 2)
        return (struct dn_eval_value){.mean = mean, .half = NAN};
    double variance = (double)sessions / (double)(sessions - 1) * squares / (count * count);
    return (struct dn_eval_value){.mean = mean, .half = NORMAL_95 * sqrt(variance)};
}

static void add(struct measure *measure, size_t at, double value)
{
    measure->sums[measure->places->clusters[at]] += value;
    measure->counts[measure->places->clusters[at]] += 1;
}

static void clear(struct measure *measure)
{
    memset(measure->sums, 0, measure->places->cluster_count * sizeof *measure->sums);
    memset(measure->counts, 0, measure->places->cluster_count * sizeof *measure->counts);
}

/* `less`: places whose value is taken away; NULL: none. */
static struct dn_eval_value mean_of(struct measure *measure, const uint16_t *of, const uint16_t *less,
                                    size_t k, enum value value)
{
    clear(measure);
    for (size_t i = 0; i < measure->places->count; i++)
        add(measure, i, value_at(of[i], k, value) - (less != NULL ? value_at(less[i], k, value) : 0));
    return interval(measure);
}

static struct dn_eval_value recall_of(struct measure *measure, const uint8_t *found)
{
    clear(measure);
    for (size_t i = 0; i < measure->places->count; i++)
        add(measure, i, found[i]);
    return interval(measure);
}

static double coverage_of(const struct dn_eval_places *places, unsigned method, size_t k, size_t catalog)
{
    size_t shown = 0;

    for (size_t slot = 0; slot < places->slot_max; slot++)
        shown += places->shown[method][slot] != 0 && places->shown[method][slot] <= k;
    return catalog > 0 ? (double)shown / (double)catalog : 0;
}

/* Parts of the run of nearly the same number of predictions. */
static void windows(const struct dn_eval_places *places, const uint16_t *of, struct dn_eval_result *result,
                    struct dn_eval_method *ret)
{
    for (size_t w = 0; w < result->window_count; w++) {
        size_t from = w * places->count / result->window_count;
        size_t to = (w + 1) * places->count / result->window_count;
        double hr = 0, mrr = 0;
        for (size_t i = from; i < to; i++) {
            hr += value_at(of[i], result->window_k, HR);
            mrr += value_at(of[i], result->window_k, MRR);
        }
        ret->window_hr[w] = hr / (double)(to - from);
        ret->window_mrr[w] = mrr / (double)(to - from);
    }
}

static void measure_method(struct measure *measure, const struct dn_eval_options *options, unsigned method,
                           size_t catalog, struct dn_eval_result *result)
{
    const struct dn_eval_places *places = measure->places;
    const uint16_t *of = places->of[method], *blend = places->of[DN_EVAL_BLEND];
    struct dn_eval_method *ret = &result->methods[result->method_count++];

    ret->name = dn_eval_method_name(method);
    ret->cpu_us = places->count > 0 ? places->cpu_s[method] * 1e6 / (double)places->count : 0;
    if (options->recall)
        ret->recall = recall_of(measure, places->found[method]);
    for (size_t i = 0; i < options->k_count; i++) {
        struct dn_eval_at *at = &ret->at[i];
        at->k = options->ks[i];
        at->hr = mean_of(measure, of, NULL, at->k, HR);
        at->mrr = mean_of(measure, of, NULL, at->k, MRR);
        at->ndcg = mean_of(measure, of, NULL, at->k, NDCG);
        at->coverage = coverage_of(places, method, at->k, catalog);
        if (blend != NULL && method != DN_EVAL_BLEND) {
            at->hr_less = mean_of(measure, of, blend, at->k, HR);
            at->mrr_less = mean_of(measure, of, blend, at->k, MRR);
        }
    }
    windows(places, of, result, ret);
}

static void choose_windows(const struct dn_eval_places *places, const struct dn_eval_options *options,
                           struct dn_eval_result *ret)
{
    ret->window_k = options->ks[0];
    for (size_t i = 0; i < options->k_count; i++)
        if (options->ks[i] <= WINDOW_K)
            ret->window_k = options->ks[i];
    ret->window_count = options->live ? places->count / WINDOW_PREDICTIONS_MIN : 0;
    if (ret->window_count > DN_EVAL_WINDOWS)
        ret->window_count = DN_EVAL_WINDOWS;
}

bool dn_eval_measure(const struct dn_eval_places *places, const struct dn_eval_options *options,
                     size_t catalog, struct dn_eval_result *ret)
{
    struct measure measure = {
        .places = places,
        .sums = calloc(places->cluster_count + 1, sizeof *measure.sums),
        .counts = calloc(places->cluster_count + 1, sizeof *measure.counts),
    };
    bool whole = measure.sums != NULL && measure.counts != NULL;

    if (whole) {
        ret->live = options->live;
        ret->predictions = places->count;
        ret->catalog = catalog;
        ret->k_count = options->k_count;
        choose_windows(places, options, ret);
        for (size_t i = 0; i < places->count; i++)
            measure.counts[places->clusters[i]] = 1;
        for (size_t c = 0; c < places->cluster_count; c++)
            ret->sessions += measure.counts[c] > 0;
        for (unsigned method = 0; method < DN_EVAL_METHODS; method++)
            if (places->of[method] != NULL)
                measure_method(&measure, options, method, catalog, ret);
    }
    free(measure.sums);
    free(measure.counts);
    return whole;
}
