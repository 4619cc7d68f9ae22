/* Hit rate and loss check against cases worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "replay/audit.h"
#include "replay/score.h"

static void answer(struct dn_score *score, const char *key, const char *a, const char *b, const char *c)
{
    const char *ids[] = {a, b, c};

    assert_true(dn_score_answer(score, key, ids, 3));
}

static void expect(const struct dn_score *score, uint64_t test_hits, uint64_t test_predictions, double ranks,
                   uint64_t all_hits, uint64_t all_predictions)
{
    struct dn_score_result test, all;

    dn_score_result(score, &test, &all);
    assert_int_equal(test.hits, test_hits);
    assert_int_equal(test.predictions, test_predictions);
    assert_true(fabs(test.reciprocal_ranks - ranks) < 1e-9);
    assert_int_equal(all.hits, all_hits);
    assert_int_equal(all.predictions, all_predictions);
}

static void test_hit_rate(void **state)
{
    struct dn_score *score = dn_score_create(2, 100);

    (void)state;
    /* A session that starts before the test part counts in `all` only. */
    assert_true(dn_score_event(score, "old", "a", 50, 0));
    answer(score, "old", "b", "c", "d");
    assert_true(dn_score_event(score, "old", "b", 150, 0));
    expect(score, 0, 0, 0, 1, 1);
    /* The item just clicked is dropped from the answer, then k of the rest count: "y" is second, "z" is out.
     */
    assert_true(dn_score_event(score, "s", "x", 200, 0));
    answer(score, "s", "x", "w", "y");
    assert_true(dn_score_event(score, "s", "y", 201, 0));
    expect(score, 1, 1, 0.5, 2, 2);
    answer(score, "s", "p", "q", "z");
    assert_true(dn_score_event(score, "s", "z", 202, 0));
    expect(score, 1, 2, 0.5, 2, 3);
    /* A repeat is no prediction; the newest answer counts. An event with no answer before it neither. */
    answer(score, "s", "p", "q", "r");
    assert_true(dn_score_event(score, "s", "z", 203, 0));
    expect(score, 1, 2, 0.5, 2, 3);
    answer(score, "s", "u", "q", "r");
    assert_true(dn_score_event(score, "s", "u", 204, 0));
    expect(score, 2, 3, 1.5, 3, 4);
    assert_true(dn_score_event(score, "s", "v", 205, 0));
    expect(score, 2, 3, 1.5, 3, 4);
    /* A pause longer than the gap: the answer was for another session. */
    assert_true(dn_score_event(score, "gap", "a", 300, 10));
    answer(score, "gap", "b", "c", "d");
    assert_true(dn_score_event(score, "gap", "b", 311, 10));
    expect(score, 2, 3, 1.5, 3, 4);
    dn_score_destroy(score);
}

static void test_many_sessions(void **state)
{
    struct dn_score *score = dn_score_create(1, 0);
    struct dn_score_result test, all;
    char key[32];

    (void)state;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 10000; i++) {
            snprintf(key, sizeof key, "session-%d", i);
            assert_true(dn_score_event(score, key, round == 0 ? "a" : i % 2 == 0 ? "b" : "c", 1, 0));
            if (round == 0)
                assert_true(dn_score_answer(score, key, (const char *const[]){"b"}, 1));
        }
    }
    dn_score_result(score, &test, &all);
    assert_int_equal(test.predictions, 10000);
    assert_int_equal(test.hits, 5000);
    dn_score_destroy(score);
}

#define EVENT(t, i)                                                                                          \
    {                                                                                                        \
        .time_ms = (t), .item = (i), .type = 1                                                               \
    }
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void test_audit(void **state)
{
    struct dn_audit_event acked[] = {EVENT(3, 1), EVENT(1, 1), EVENT(2, 2), EVENT(2, 2)};
    struct dn_audit_event same[] = {EVENT(2, 2), EVENT(1, 1), EVENT(2, 2), EVENT(3, 1)};
    struct dn_audit_event lost[] = {EVENT(2, 2), EVENT(1, 1), EVENT(3, 1)};
    struct dn_audit_event twice[] = {EVENT(2, 2), EVENT(1, 1), EVENT(2, 2), EVENT(3, 1), EVENT(3, 1)};
    struct dn_audit_event other[] = {EVENT(2, 2), EVENT(1, 1), EVENT(2, 2), EVENT(3, 1), EVENT(3, 9)};
    struct dn_audit_event newest[] = {EVENT(2, 2), EVENT(3, 1)};
    struct dn_audit_event gone[] = {EVENT(1, 1), EVENT(2, 2)};
    struct dn_audit_event type[] = {
        EVENT(2, 2), EVENT(1, 1), EVENT(2, 2), {.time_ms = 3, .item = 1, .type = 2}};
    struct dn_audit_result result;

    (void)state;
#define AUDIT(shown, limit)                                                                                  \
    (result = (struct dn_audit_result){0},                                                                   \
     dn_audit_user(acked, COUNT(acked), shown, COUNT(shown), limit, &result))
    AUDIT(same, 50);
    assert_true(result.acked == 4 && result.present == 4 &&
                result.missing + result.repeated + result.others == 0);
    AUDIT(lost, 50);
    assert_true(result.missing == 1 && result.present == 3 && result.repeated == 0);
    AUDIT(twice, 50);
    assert_true(result.repeated == 1 && result.missing == 0);
    AUDIT(other, 50);
    assert_true(result.others == 1 && result.repeated == 0 && result.missing == 0);
    AUDIT(type, 50);
    assert_true(result.others == 1 && result.missing == 1);
    /* A list of two that is full: the older ones may have left it, those newer than its oldest may not. */
    AUDIT(newest, 2);
    assert_true(result.present == 2 && result.beyond == 2 && result.missing == 0);
    AUDIT(newest, 3);
    assert_true(result.missing == 2 && result.beyond == 0);
    AUDIT(gone, 2);
    assert_true(result.missing == 2 && result.present == 2);
    result = (struct dn_audit_result){0};
    dn_audit_user(acked, COUNT(acked), NULL, 0, 50, &result);
    assert_true(result.missing == 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hit_rate), cmocka_unit_test(test_many_sessions),
                                       cmocka_unit_test(test_audit)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
