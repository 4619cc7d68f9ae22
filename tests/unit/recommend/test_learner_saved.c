/* What a learner saves: another goes on from it; bytes of other builds and damaged ones. */
#include "recommend/learn.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
