/* The challenger: its gradient, who leads when, what is saved of it, and what is refused. */
#include "recommend/learn.h"
#include "recommend/network.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT_MAX 400
#define BYTES_MAX DN_NETWORK_BYTES_MAX

static uint64_t random_state = 88172645463325252u;
static float uniform(void) /* 0 to 1 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (float)(random_state >> 40) / (float)(1u << 24);
}

/* A request: candidates with features and scores. */
struct request {
    float values[DN_FEATURE_COUNT][COUNT_MAX], scores[COUNT_MAX], probabilities[COUNT_MAX];
    struct dn_features features;
    uint32_t best[DN_NETWORK_BEST];
    struct dn_network_click click;
    size_t count;
};

static void judge_by_scores(struct request *request, size_t label)
{
    float most = -INFINITY;
    double sum = 0;

    for (size_t i = 0; i < request->count; i++)
        most = fmaxf(most, request->scores[i]);
    for (size_t i = 0; i < request->count; i++)
        sum += exp((double)(request->scores[i] - most));
    for (size_t i = 0; i < request->count; i++)
        request->probabilities[i] = (float)(exp((double)(request->scores[i] - most)) / sum);
    request->click = (struct dn_network_click){
        .length = 2,
        .features = &request->features,
        .scores = request->scores,
        .probabilities = request->probabilities,
        .label = label,
        .loss = -logf(request->probabilities[label]),
        .best = request->best,
        .best_count = dn_network_best(request->scores, request->count, request->best),
    };
}

static bool marked(size_t feature, size_t i) /* features of a source, and of the session, are 0 together */
{
    size_t group = feature < DN_FEATURE_AFTER_LAST                                 ? feature / 4
                   : feature >= DN_FEATURE_SEEN && feature <= DN_FEATURE_SEEN_LAST ? 5
                                                                                   : 6;
    return group == 6 || (i * 7 + group * 3) % 5 < 2;
}

static void fill(struct request *request, size_t count, size_t label)
{
    request->count = count;
    request->features = (struct dn_features){0};
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++) {
        if (f / 4 == 3 || f == DN_FEATURE_TRENDING) /* nobody says anything */
            continue;
        for (size_t i = 0; i < count; i++)
            request->values[f][i] = marked(f, i) ? 0.1f + uniform() : 0;
        request->features.of[f] = request->values[f];
    }
    for (size_t i = 0; i < count; i++)
        request->scores[i] = 5 * uniform();
    judge_by_scores(request, label);
}

static void set_random(struct dn_network *network)
{
    for (size_t row = 0; row < DN_NETWORK_ROWS; row++)
        for (size_t u = 0; u < DN_NETWORK_UNITS; u++)
            network->weights[row][u] = uniform() - 0.5f;
}

/* ---- the best ---------------------------------------------------------------------------------------- */

static void the_best_are_the_best(void **state)
{
    static float scores[1000];
    uint32_t best[DN_NETWORK_BEST];

    (void)state;
    for (int round = 0; round < 400; round++) {
        size_t count = 1 + (size_t)(999 * uniform()), found;
        float levels = round % 2 ? 1e6f : 40, range = round % 3 ? 10 : 1000;
        for (size_t i = 0; i < count; i++)
            scores[i] = floorf(levels * uniform()) / levels * range;
        found = dn_network_best(scores, count, best);
        assert_true(found <= DN_NETWORK_BEST);
        float least = INFINITY, most_left = -INFINITY, most = -INFINITY;
        for (size_t i = 0, b = 0; i < count; i++) {
            most = fmaxf(most, scores[i]);
            if (b < found && best[b] == i) {
                least = fminf(least, scores[i]);
                b++;
            } else {
                most_left = fmaxf(most_left, scores[i]);
            }
        }
        assert_true(least > most_left); /* nothing equal is on both sides */
        size_t next = 0;                /* the next ones, which are near each other, would be too many */
        for (size_t i = 0; i < count; i++)
            next += scores[i] <= most_left && scores[i] >= most_left - 1.0f / 32;
        assert_true(count == found || most_left < most - 15.9f || found + next > DN_NETWORK_BEST);
        assert_true(count > DN_NETWORK_BEST || found == count);
    }
    for (size_t i = 0; i < 300; i++) /* all the same: nobody is better */
        scores[i] = 1;
    assert_int_equal(dn_network_best(scores, 300, best), 0);
    assert_int_equal(dn_network_best(scores, DN_NETWORK_BEST, best), DN_NETWORK_BEST);
    scores[7] = NAN;
    scores[9] = -INFINITY;
    assert_int_equal(dn_network_best(scores, DN_NETWORK_BEST, best), DN_NETWORK_BEST);
    assert_int_equal(dn_network_best(scores, 0, best), 0);
}

/* ---- the gradient ------------------------------------------------------------------------------------ */

static void the_gradient_is_that_of_the_loss(void **state)
{
    static struct request request;
    static struct dn_network network;
    static _Alignas(16) float gradient[DN_NETWORK_ROWS][DN_NETWORK_UNITS];
    size_t checked = 0;

    (void)state;
    for (int round = 0; round < 6; round++) {
        fill(&request, round < 3 ? 20 : COUNT_MAX, 0);
        request.click.label = round == 5 ? COUNT_MAX : request.best[3];
        for (size_t i = 0, b = 0; round == 5 && i < COUNT_MAX; i++) /* one that the network does not see */
            if (b < request.click.best_count && request.best[b] == i)
                b++;
            else
                request.click.label = i;
        request.click.length = (size_t)round;
        set_random(&network);
        dn_network_loss(&network, &request.click, gradient);
        for (size_t row = 0; row < DN_NETWORK_ROWS; row++)
            for (size_t u = 0; u < DN_NETWORK_UNITS; u += 5) {
                float *weight = &network.weights[row][u], was = *weight;
                const float by = 2e-3f;
                *weight = was + by;
                float more = dn_network_loss(&network, &request.click, NULL);
                *weight = was - by;
                float less = dn_network_loss(&network, &request.click, NULL);
                *weight = was;
                float slope = (more - less) / (2 * by);
                if (fabsf(slope - gradient[row][u]) > 4e-3f + 0.03f * fabsf(slope))
                    fail_msg("round %d, row %zu, unit %zu: %g, by differences %g", round, row, u,
                             (double)gradient[row][u], (double)slope);
                checked += fabsf(slope) > 0.02f;
            }
    }
    assert_true(checked > 200); /* not all of them 0 */
}

static void it_begins_as_the_model(void **state)
{
    static struct request request;
    static struct dn_challenger challenger;
    static float scores[COUNT_MAX];

    (void)state;
    dn_challenger_reset(&challenger);
    fill(&request, COUNT_MAX, 7);
    memcpy(scores, request.scores, sizeof scores);
    dn_network_scores(&challenger.network, 3, &request.features, COUNT_MAX, scores);
    assert_memory_equal(scores, request.scores, sizeof scores);
    assert_true(fabsf(dn_network_loss(&challenger.network, &request.click, NULL) - request.click.loss) <
                1e-4f);
    /* Afterwards it moves the best, and these only. */
    dn_challenger_step(&challenger, &request.click);
    dn_network_scores(&challenger.network, 2, &request.features, COUNT_MAX, scores);
    size_t moved = 0;
    for (size_t i = 0, b = 0; i < COUNT_MAX; i++) {
        bool seen = b < request.click.best_count && request.best[b] == i;
        b += seen;
        moved += scores[i] != request.scores[i];
        assert_true(seen || scores[i] == request.scores[i]);
    }
    assert_true(moved > DN_NETWORK_BEST / 2);
}

/* ---- who leads --------------------------------------------------------------------------------------- */

/* Four candidates: the clicked one is of the category or of the price, and not of both. No weights can say
 * so. */
static void fill_either(struct request *request)
{
    size_t label = uniform() < 0.5f ? 1 : 2;

    request->count = 4;
    request->features = (struct dn_features){.of[DN_FEATURE_CATEGORY] = request->values[DN_FEATURE_CATEGORY],
                                             .of[DN_FEATURE_PRICE] = request->values[DN_FEATURE_PRICE]};
    for (size_t i = 0; i < 4; i++) {
        request->values[DN_FEATURE_CATEGORY][i] = i & 1 && (label == 1 || i != 1) ? 1 : 0;
        request->values[DN_FEATURE_PRICE][i] = i & 2 && (label == 2 || i != 2) ? 1 : 0;
        request->scores[i] = 0;
    }
    judge_by_scores(request, label);
}

static void it_leads_while_it_is_better(void **state)
{
    static struct request request;
    static struct dn_challenger challenger;
    struct dn_network *network = &challenger.network;
    uint32_t took = 0, gave = 0;

    (void)state;
    dn_challenger_reset(&challenger);
    for (uint32_t step = 1; step <= 3000; step++) {
        fill_either(&request);
        dn_challenger_step(&challenger, &request.click);
        assert_int_equal(network->steps, step);
        took = took == 0 && network->leads ? step : took;
        assert_true(network->leads == (took != 0));
    }
    assert_int_equal(took, 2000); /* it was the better one long before */
    assert_true(fabsf(network->model_loss - logf(4)) < 1e-3f);
    if (!(network->loss < network->model_loss / 2))
        fail_msg("its loss is %g", (double)network->loss);
    /* The model begins to know better: then it is the model's again. */
    for (uint32_t step = 1; step <= 8000 && gave == 0; step++) {
        float before = network->model_loss - network->loss;
        fill_either(&request);
        request.click.label = (size_t)(4 * uniform());
        request.click.loss = 0;
        dn_challenger_step(&challenger, &request.click);
        assert_true(network->model_loss - network->loss < before || before <= 0);
        assert_true(network->leads == (network->loss < network->model_loss));
        gave = network->leads ? 0 : step;
    }
    assert_true(gave > 100);
    /* A hair's breadth is not enough to take over, and enough to keep. */
    network->model_loss = 1;
    network->loss = 0.999f;
    request.click.loss = 1;
    challenger.network.steps = UINT32_MAX;
    dn_challenger_step(&challenger, &request.click);
    assert_false(network->leads);
    assert_int_equal(network->steps, UINT32_MAX); /* and counting does not begin anew */
    network->leads = true;
    network->loss = 0.99f;
    dn_challenger_step(&challenger, &request.click);
    assert_true(network->leads);
}

static void a_worse_one_never_leads(void **state)
{
    static struct request request;
    static struct dn_challenger challenger;

    (void)state;
    dn_challenger_reset(&challenger);
    for (int step = 0; step < 4000; step++) { /* features are noise, and the model knows */
        fill(&request, 30, 0);
        size_t label = 0;
        for (size_t i = 0; i < request.count; i++)
            label = request.scores[i] > request.scores[label] ? i : label;
        request.scores[label] += 8;
        judge_by_scores(&request, label);
        dn_challenger_step(&challenger, &request.click);
        assert_false(challenger.network.leads && challenger.network.loss >= challenger.network.model_loss);
    }
    assert_false(challenger.network.leads);
}

static void what_is_no_number_teaches_nothing(void **state)
{
    static struct request request;
    static struct dn_challenger challenger;

    (void)state;
    dn_challenger_reset(&challenger);
    for (int step = 0; step < 50; step++) {
        static const float odd[] = {NAN, INFINITY, -INFINITY, 1e30f};
        fill(&request, 30, 3);
        for (size_t i = 0; i < 10; i++)
            request.values[DN_FEATURE_PRICE][i] = odd[(size_t)step % 4];
        dn_challenger_step(&challenger, &request.click);
    }
    for (size_t row = 0; row < DN_NETWORK_ROWS; row++)
        for (size_t u = 0; u < DN_NETWORK_UNITS; u++) {
            assert_true(fabsf(challenger.network.weights[row][u]) <= DN_NETWORK_WEIGHT_MAX);
            assert_true(challenger.squares[row][u] > 0 &&
                        challenger.squares[row][u] <= DN_NETWORK_SQUARE_MAX);
        }
    assert_true(challenger.network.loss >= 0 && challenger.network.loss <= DN_NETWORK_LOSS_MAX);
    /* A certain click's loss may round to less than 0: no mean does. */
    dn_challenger_reset(&challenger);
    fill(&request, 30, 3);
    request.click.loss = -1e-6f;
    dn_challenger_step(&challenger, &request.click);
    assert_true(challenger.network.model_loss == 0);
}

/* ---- bytes ------------------------------------------------------------------------------------------- */

static void teach(struct dn_challenger *challenger, uint64_t seed, int steps)
{
    static struct request request;
    uint64_t kept = random_state;

    random_state = seed;
    for (int i = 0; i < steps; i++) {
        fill(&request, 200, (size_t)(200 * uniform()));
        dn_challenger_step(challenger, &request.click);
    }
    random_state = kept;
}

static void encode(const struct dn_challenger *challenger, struct dn_buffer *out)
{
    dn_buffer_init(out, BYTES_MAX);
    dn_challenger_encode(challenger, out);
    assert_false(out->failed);
}

static enum dn_code decode(const uint8_t *bytes, size_t length, struct dn_challenger *ret,
                           struct dn_error *err)
{
    struct dn_reader in;

    dn_reader_init(&in, bytes, length);
    return dn_challenger_decode(&in, ret, err);
}

static void another_goes_on(void **state)
{
    static struct dn_challenger one, other;
    struct dn_buffer bytes, again;
    struct dn_error err;

    (void)state;
    dn_challenger_reset(&one);
    teach(&one, 5, 300);
    one.network.leads = true;
    encode(&one, &bytes);
    memset(&other, 0x55, sizeof other);
    assert_int_equal(decode(bytes.bytes, bytes.length, &other, &err), DN_OK);
    assert_true(other.network.leads && other.network.steps == 300);
    teach(&one, 6, 300);
    teach(&other, 6, 300);
    dn_buffer_free(&bytes);
    encode(&one, &bytes);
    encode(&other, &again);
    assert_int_equal(bytes.length, again.length);
    assert_memory_equal(bytes.bytes, again.bytes, bytes.length); /* to the last bit */
    dn_buffer_free(&bytes);
    dn_buffer_free(&again);
}

enum { HEAD = 24, STEPS_AT = 8, LEADS_AT = 12, LOSS_AT = 16 };

static void damage_is_refused(void **state)
{
    static struct dn_challenger one, before, after;
    static const float bad[] = {NAN, INFINITY, -INFINITY, DN_NETWORK_WEIGHT_MAX * 1.01f};
    static const float bad_squares[] = {NAN, INFINITY, -1, 0};
    struct dn_buffer bytes;
    struct dn_error err;

    (void)state;
    dn_challenger_reset(&one);
    teach(&one, 5, 10);
    encode(&one, &bytes);
    dn_challenger_reset(&before);
    after = before;
    for (size_t length = 0; length < bytes.length; length++) {
        uint8_t *exact = malloc(length + 1);
        memcpy(exact, bytes.bytes, length);
        assert_int_equal(decode(exact, length, &after, &err), DN_CORRUPT);
        free(exact);
    }
    for (size_t i = 0; i < 4; i++) {
        size_t rows = DN_NETWORK_ROWS * DN_NETWORK_UNITS * sizeof(float);
        size_t places[] = {LOSS_AT, LOSS_AT + 4, HEAD, HEAD + rows - 4, HEAD + rows, bytes.length - 4};
        for (size_t p = 0; p < 6; p++) {
            uint8_t kept[4];
            memcpy(kept, bytes.bytes + places[p], 4);
            float value = p < 2 ? i == 3 ? -1 : bad[i] : p < 4 ? bad[i] : bad_squares[i];
            memcpy(bytes.bytes + places[p], &value, 4);
            assert_int_equal(decode(bytes.bytes, bytes.length, &after, &err), DN_CORRUPT);
            memcpy(bytes.bytes + places[p], kept, 4);
        }
    }
    bytes.bytes[LEADS_AT] = 2;
    assert_int_equal(decode(bytes.bytes, bytes.length, &after, &err), DN_CORRUPT);
    bytes.bytes[LEADS_AT] = 0;
    bytes.bytes[0] ^= 1;
    assert_int_equal(decode(bytes.bytes, bytes.length, &after, &err), DN_CORRUPT);
    bytes.bytes[0] ^= 1;
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(decode(bytes.bytes, bytes.length, &after, &err), DN_OK);
    dn_buffer_free(&bytes);
}

static void other_builds(void **state)
{
    static struct dn_challenger one, read, fresh;
    struct dn_buffer bytes, fewer;
    struct dn_error err;
    size_t row_bytes = DN_NETWORK_UNITS * sizeof(float), rows = DN_NETWORK_ROWS - 2;

    (void)state;
    dn_challenger_reset(&one);
    dn_challenger_reset(&fresh);
    teach(&one, 5, 10);
    encode(&one, &bytes);
    /* Two features fewer: they say nothing. */
    dn_buffer_init(&fewer, BYTES_MAX);
    dn_buffer_append(&fewer, bytes.bytes, HEAD + rows * row_bytes);
    dn_buffer_append(&fewer, bytes.bytes + HEAD + DN_NETWORK_ROWS * row_bytes, rows * row_bytes);
    fewer.bytes[6] = DN_FEATURE_COUNT - 2;
    assert_int_equal(decode(fewer.bytes, fewer.length, &read, &err), DN_OK);
    assert_int_equal(read.network.steps, 10);
    assert_memory_equal(read.network.weights, one.network.weights, rows * row_bytes);
    assert_memory_equal(read.squares, one.squares, rows * row_bytes);
    for (size_t u = 0; u < DN_NETWORK_UNITS; u++)
        assert_true(read.network.weights[rows][u] == 0 && read.squares[rows][u] == fresh.squares[rows][u]);
    dn_buffer_free(&fewer);
    /* More features, or another number of units: it begins anew. */
    bytes.bytes[6] = DN_FEATURE_COUNT + 1;
    assert_int_equal(decode(bytes.bytes, bytes.length, &read, &err), DN_OK);
    assert_memory_equal(&read, &fresh, sizeof fresh);
    bytes.bytes[6] = DN_FEATURE_COUNT;
    bytes.bytes[4] = DN_NETWORK_UNITS * 2;
    memset(&read, 0, sizeof read);
    assert_int_equal(decode(bytes.bytes, bytes.length, &read, &err), DN_OK);
    assert_memory_equal(&read, &fresh, sizeof fresh);
    dn_buffer_free(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_are_the_best),
        cmocka_unit_test(the_gradient_is_that_of_the_loss),
        cmocka_unit_test(it_begins_as_the_model),
        cmocka_unit_test(it_leads_while_it_is_better),
        cmocka_unit_test(a_worse_one_never_leads),
        cmocka_unit_test(what_is_no_number_teaches_nothing),
        cmocka_unit_test(another_goes_on),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(other_builds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
