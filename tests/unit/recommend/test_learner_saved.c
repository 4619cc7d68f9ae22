/* What a learner saves: another goes on from it; bytes of other builds and damaged ones. */
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

static struct dn_model model_of(float shift)
{
    struct dn_model model;
    dn_model_default(&model);
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
        model.weights[1][f] = shift * (float)(f + 1);
    return model;
}

/* A challenger that has learned something and leads. */
static void put_network(struct dn_buffer *saved)
{
    static struct dn_challenger challenger;

    dn_challenger_reset(&challenger);
    for (size_t u = 0; u < DN_NETWORK_UNITS; u++)
        challenger.network.weights[DN_NETWORK_OUT][u] = 0.5f * (float)(u + 1);
    challenger.network.steps = 4000;
    challenger.network.leads = true;
    challenger.network.loss = 1.25f;
    challenger.network.model_loss = 1.5f;
    dn_challenger_encode(&challenger, saved);
    assert_false(saved->failed);
}

static void save(const struct dn_learner *learner, struct dn_buffer *out)
{
    dn_buffer_init(out, DN_LEARNER_BYTES_MAX);
    dn_learner_save(learner, out);
    assert_false(out->failed);
}

static void expect_same_bytes(const struct dn_learner *learner, const struct dn_buffer *want)
{
    struct dn_buffer again;
    save(learner, &again);
    assert_int_equal(again.length, want->length);
    assert_memory_equal(again.bytes, want->bytes, want->length);
    dn_buffer_free(&again);
}

/* Saved bytes with squares that are not 0, as after some steps: the third f32 of the tail and on. */
static void put_squares(struct dn_buffer *saved)
{
    struct dn_buffer squares;
    size_t bytes = sizeof(float) * DN_MODEL_VECTORS * DN_FEATURE_COUNT;
    dn_buffer_init(&squares, bytes);
    for (size_t i = 0; i < DN_MODEL_VECTORS * DN_FEATURE_COUNT; i++)
        dn_buffer_f32(&squares, 0.5f * (float)i);
    memcpy(saved->bytes + saved->length - bytes, squares.bytes, bytes);
    dn_buffer_free(&squares);
}

static void test_goes_on(void **unused)
{
    (void)unused;
    struct dn_model start = model_of(0.25f), standard, read;
    struct dn_learner *one = dn_learner_create(&start);
    struct dn_buffer saved;
    struct dn_error err = {0};
    save(one, &saved);
    put_squares(&saved);
    dn_model_default(&standard);
    struct dn_learner *other = dn_learner_create(&standard);
    assert_int_equal(dn_learner_load(other, saved.bytes, saved.length, &err), DN_OK);
    expect_same_bytes(other, &saved);
    /* Who wants the model alone reads the front. */
    assert_int_equal(dn_model_decode(saved.bytes, saved.length, &read, &err), DN_OK);
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
            assert_true(fabsf(read.weights[v][f] - start.weights[v][f]) < 1e-4f);
    /* And the model alone begins anew: no squares are left from before. */
    size_t used = 0;
    assert_int_equal(dn_model_decode_head(saved.bytes, saved.length, &read, &used, &err), DN_OK);
    assert_true(used < saved.length);
    assert_int_equal(dn_learner_load(other, saved.bytes, used, &err), DN_OK);
    struct dn_buffer fresh;
    save(one, &fresh);
    expect_same_bytes(other, &fresh);
    dn_buffer_free(&fresh);
    dn_buffer_free(&saved);
    dn_learner_destroy(one);
    dn_learner_destroy(other);
}

static void test_damaged(void **unused)
{
    (void)unused;
    struct dn_model start = model_of(-3), standard;
    struct dn_learner *one = dn_learner_create(&start);
    struct dn_buffer saved, before;
    struct dn_error err = {0};
    save(one, &saved);
    put_squares(&saved);
    size_t used = 0;
    assert_int_equal(dn_model_decode_head(saved.bytes, saved.length, &start, &used, &err), DN_OK);
    dn_model_default(&standard);
    struct dn_learner *other = dn_learner_create(&standard);
    save(other, &before);
    for (size_t length = 0; length < saved.length; length++) { /* cut anywhere but behind the model */
        uint8_t *exact = malloc(length + 1);
        memcpy(exact, saved.bytes, length);
        if (length != used)
            assert_int_equal(dn_learner_load(other, exact, length, &err), DN_CORRUPT);
        free(exact);
    }
    static const float bad[] = {-1, INFINITY, NAN, 2e30f};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memcpy(saved.bytes + saved.length - sizeof(float), &bad[i], sizeof(float));
        assert_int_equal(dn_learner_load(other, saved.bytes, saved.length, &err), DN_CORRUPT);
        assert_non_null(strstr(err.message, "square"));
    }
    saved.bytes[used] ^= 1;
    assert_int_equal(dn_learner_load(other, saved.bytes, saved.length, &err), DN_CORRUPT);
    expect_same_bytes(other, &before); /* none of that was taken, not even in part */
    dn_buffer_free(&saved);
    dn_buffer_free(&before);
    dn_learner_destroy(one);
    dn_learner_destroy(other);
}

/* Behind the squares: what an older build does not write, and does not look at. */
static void test_network(void **unused)
{
    (void)unused;
    struct dn_model start = model_of(0.5f), read, taken;
    struct dn_learner *one = dn_learner_create(&start), *other = dn_learner_create(&start);
    struct dn_buffer saved;
    struct dn_error err = {0};
    save(one, &saved); /* nothing was learned yet: as an older build's */
    size_t old = saved.length;
    put_squares(&saved);
    put_network(&saved);
    assert_int_equal(dn_model_decode(saved.bytes, saved.length, &read, &err), DN_OK);
    assert_true(read.network.leads && read.network.steps == 4000);
    assert_true(read.network.loss == 1.25f && read.network.model_loss == 1.5f);
    assert_true(read.network.weights[DN_NETWORK_OUT][3] == 2);
    assert_int_equal(dn_learner_load(other, saved.bytes, saved.length, &err), DN_OK);
    expect_same_bytes(other, &saved);
    dn_learner_model(other, &taken);
    assert_memory_equal(&taken.network, &read.network, sizeof read.network);
    /* An older build's bytes: no network, nor what this learner had of one. */
    assert_int_equal(dn_model_decode(saved.bytes, old, &read, &err), DN_OK);
    assert_false(read.network.leads || read.network.steps > 0);
    assert_int_equal(dn_learner_load(other, saved.bytes, old, &err), DN_OK);
    dn_learner_model(other, &taken);
    assert_false(taken.network.leads || taken.network.steps > 0);
    /* Damage takes the network from those who serve, and the model stays; a learner refuses it all. */
    for (size_t length = old + 1; length < saved.length; length += 7) {
        assert_int_equal(dn_learner_load(other, saved.bytes, length, &err), DN_CORRUPT);
        assert_int_equal(dn_model_decode(saved.bytes, length, &read, &err), DN_OK);
        assert_memory_equal(read.weights, taken.weights, sizeof read.weights);
        assert_true(read.network.leads == (length >= old + 24 + sizeof read.network.weights));
    }
    float bad = NAN;
    memcpy(saved.bytes + old + 24, &bad, sizeof bad);
    assert_int_equal(dn_learner_load(other, saved.bytes, saved.length, &err), DN_CORRUPT);
    assert_int_equal(dn_model_decode(saved.bytes, saved.length, &read, &err), DN_OK);
    assert_false(read.network.leads || read.network.steps > 0);
    dn_buffer_free(&saved);
    dn_learner_destroy(one);
    dn_learner_destroy(other);
}

/* A learner without a challenger drops what another left. */
static void test_alone(void **unused)
{
    (void)unused;
    struct dn_model start = model_of(0.5f), taken;
    struct dn_learner *one = dn_learner_create(&start);
    struct dn_buffer saved;
    struct dn_error err = {0};
    save(one, &saved);
    put_network(&saved);
    dn_learner_challenge(one, false);
    assert_int_equal(dn_learner_load(one, saved.bytes, saved.length, &err), DN_OK);
    dn_learner_model(one, &taken);
    assert_int_equal(taken.network.steps, 0);
    dn_learner_challenge(one, true);
    assert_int_equal(dn_learner_load(one, saved.bytes, saved.length, &err), DN_OK);
    dn_learner_model(one, &taken);
    assert_int_equal(taken.network.steps, 4000);
    dn_learner_reset(one, &start); /* and a reset drops it */
    dn_learner_model(one, &taken);
    assert_int_equal(taken.network.steps, 0);
    dn_buffer_free(&saved);
    dn_learner_destroy(one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_network),
        cmocka_unit_test(test_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
