/* Experiments: who gets which variant, and which lists of variants are refused. */
#include "recommend/variant.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { USERS = 20000 };

static size_t of(const struct dn_experiment *experiment, int user)
{
    char id[16];
    int length = snprintf(id, sizeof(id), "user-%d", user);

    return dn_variant_of(experiment, id, (size_t)length);
}

static void test_shares(void **state)
{
    struct dn_experiment three = {
        .name = "order",
        .variants = {{.name = "a", .share = 0.5}, {.name = "b", .share = 0.3}, {.name = "c", .share = 0.1}},
        .count = 3};
    struct dn_experiment other = three;
    size_t counts[4] = {0}, both = 0;

    (void)state;
    memcpy(other.name, "other", 6);
    for (int i = 0; i < USERS; i++) {
        size_t variant = of(&three, i);

        assert_int_equal(of(&three, i), variant);
        counts[variant == DN_VARIANT_NONE ? 3 : variant]++;
        both += variant == 0 && of(&other, i) == 0;
    }
    assert_in_range(counts[0], USERS * 0.48, USERS * 0.52);
    assert_in_range(counts[1], USERS * 0.28, USERS * 0.32);
    assert_in_range(counts[2], USERS * 0.085, USERS * 0.115);
    assert_in_range(counts[3], USERS * 0.085, USERS * 0.115);
    assert_in_range(both, USERS * 0.23, USERS * 0.27); /* another experiment deals anew: independent */
}

/* Fixed for ever: users must not move between variants by an update of the program. */
static void test_stable(void **state)
{
    struct dn_experiment two = {
        .name = "x", .variants = {{.name = "a", .share = 0.5}, {.name = "b", .share = 0.5}}, .count = 2};
    char got[33] = "";

    (void)state;
    for (int i = 0; i < 32; i++)
        got[i] = of(&two, i) == 0 ? 'a' : 'b';
    assert_string_equal(got, "baabaaaaaabbbabaabbaaabbaaababab");
}

static void test_everybody(void **state)
{
    struct dn_experiment ten = {.name = "x", .count = 8};

    (void)state;
    for (size_t i = 0; i < 8; i++) {
        snprintf(ten.variants[i].name, sizeof(ten.variants[i].name), "v%zu", i);
        ten.variants[i].share = 0.1;
    }
    ten.variants[7].share = 0.3; /* 1 on paper */
    for (int i = 0; i < USERS; i++)
        assert_true(of(&ten, i) < 8);
    ten.count = 0;
    assert_int_equal(of(&ten, 1), DN_VARIANT_NONE);
    ten.count = 1;
    ten.variants[0].share = 0;
    assert_int_equal(of(&ten, 1), DN_VARIANT_NONE);
    ten.count = 8;
    assert_int_equal(dn_variant_find(&ten, "v3"), 3);
    assert_int_equal(dn_variant_find(&ten, "v8"), DN_VARIANT_NONE);
    assert_int_equal(dn_variant_find(&ten, ""), DN_VARIANT_NONE);
}

static void refused(struct dn_experiment experiment, size_t variant, const char *message)
{
    struct dn_error err = {0};
    size_t about = 99;

    if (dn_experiment_check(&experiment, &about, &err) != DN_INVALID || about != variant ||
        !strstr(err.message, message))
        fail_msg("wanted '%s', got %zu '%s'", message, about, err.message);
}

static void test_refused(void **state)
{
    const struct dn_experiment good = {
        .name = "x",
        .variants = {{.name = "a.b_c-1", .share = 0.4}, {.name = "b", .share = 0.6}},
        .count = 2};
    struct dn_experiment bad = good;
    struct dn_error err;
    size_t about;

    (void)state;
    assert_int_equal(dn_experiment_check(&good, &about, &err), DN_OK);
    assert_int_equal(dn_experiment_check(&(struct dn_experiment){0}, &about, &err), DN_OK);
    bad.name[0] = '\0';
    refused(bad, DN_VARIANT_NONE, "name: ''");
    bad = good;
    memcpy(bad.variants[1].name, "-", 2);
    refused(bad, 1, "name: '-'");
    memcpy(bad.variants[1].name, "a\"b", 4);
    refused(bad, 1, "letters, digits");
    memcpy(bad.variants[1].name, "a.b_c-1", 8);
    refused(bad, 1, "is another variant's too");
    bad = good;
    bad.variants[1].share = 0.61;
    refused(bad, 1, "shares up to here are 1.01");
    bad.variants[1].share = NAN;
    refused(bad, 1, "share: nan");
    bad = good;
    bad.variants[0].diversity = 1.5f;
    refused(bad, 0, "diversity: 1.5");
    bad = good;
    bad.variants[0].sources_off = (1u << DN_SOURCE_COUNT) - 1;
    refused(bad, 0, "every source is off");
    bad = good;
    bad.count = DN_VARIANTS_MAX + 1;
    refused(bad, DN_VARIANT_NONE, "9 variants; at most 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shares), cmocka_unit_test(test_stable),
                                       cmocka_unit_test(test_everybody), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
