/* Means, intervals, coverage and windows of places, against numbers worked out by hand; and the chart. */
#include "eval_files.h"

#include <math.h>

#define NEAR(a, b) assert_true(fabs((a) - (b)) < 1e-6)

static struct dn_eval_options two_ks(void)
{
    return (struct dn_eval_options){.ks = {1, 4}, .k_count = 2, .recall = true};
}

/* Sessions 0, 0, 0, 1, 1: places 1, 2, none, 4, 1 of the blend; 1, 1, none, none, none of popularity. */
static uint32_t clusters[] = {0, 0, 0, 1, 1};
static uint16_t blend[] = {1, 2, 0, 4, 1}, popular[] = {1, 1, 0, 0, 0};
static uint8_t found[] = {1, 1, 0, 1, 1}, few_found[] = {1, 1, 1, 0, 0};
static uint16_t shown[] = {1, 0, 3, 4, 2}, few_shown[] = {1, 0, 0, 0, 0};

static struct dn_eval_places small(void)
{
    return (struct dn_eval_places){.count = 5,
                                   .clusters = clusters,
                                   .of = {blend, popular},
                                   .found = {found, few_found},
                                   .shown = {shown, few_shown},
                                   .cpu_s = {10e-6, 5e-6},
                                   .slot_max = 5,
                                   .cluster_count = 3};
}

static void means_are_those_by_hand(void **state)
{
    struct dn_eval_options options = two_ks();
    struct dn_eval_places places = small();
    struct dn_eval_result result = {0};

    (void)state;
    assert_true(dn_eval_measure(&places, &options, 10, &result));
    assert_int_equal(result.predictions, 5);
    assert_int_equal(result.sessions, 2); /* nothing was asked of the third */
    assert_int_equal(result.method_count, 2);
    const struct dn_eval_method *of = &result.methods[0];
    assert_string_equal(of->name, "blend");
    NEAR(of->cpu_us, 2);
    NEAR(of->at[0].hr.mean, 2.0 / 5);
    NEAR(of->at[1].hr.mean, 4.0 / 5);
    NEAR(of->at[0].mrr.mean, 2.0 / 5);
    NEAR(of->at[1].mrr.mean, (1 + 0.5 + 0.25 + 1) / 5);
    NEAR(of->at[1].ndcg.mean, (1 + 1 / log2(3) + 1 / log2(5) + 1) / 5);
    NEAR(of->at[0].coverage, 0.1);
    NEAR(of->at[1].coverage, 0.4);
    NEAR(of->recall.mean, 0.8);
    /* Session 0 has 2 of 3, session 1 has 2 of 2; the mean is 0.8: off by -0.4 and 0.4. */
    NEAR(of->at[1].hr.half, 1.959964 * sqrt(2.0 / 1 * (0.16 + 0.16) / 25));
}

static void methods_are_compared_with_the_blend(void **state)
{
    struct dn_eval_options options = two_ks();
    struct dn_eval_places places = small();
    struct dn_eval_result result = {0};

    (void)state;
    assert_true(dn_eval_measure(&places, &options, 10, &result));
    const struct dn_eval_method *of = &result.methods[1];
    assert_string_equal(of->name, "popular");
    NEAR(of->at[1].hr.mean, 0.4);
    NEAR(of->at[1].hr_less.mean, -0.4);
    NEAR(of->at[1].mrr_less.mean, (0.5 - 0.25 - 1) / 5);
    /* By session: 0 of 3 and -2 of 2, off by 1.2 and -1.2. */
    NEAR(of->at[1].hr_less.half, 1.959964 * sqrt(2.0 * (1.44 + 1.44) / 25));
}

static void one_session_has_no_interval(void **state)
{
    struct dn_eval_options options = two_ks();
    struct dn_eval_places places = small();
    struct dn_eval_result result = {0};

    (void)state;
    places.count = 3;
    assert_true(dn_eval_measure(&places, &options, 10, &result));
    NEAR(result.methods[0].at[1].hr.mean, 2.0 / 3);
    assert_true(isnan(result.methods[0].at[1].hr.half));
}

/* ---- windows and the chart --------------------------------------------------------------------------- */

enum { MANY = 100 };

static struct dn_eval_result long_run(void)
{
    static uint32_t many_clusters[MANY];
    static uint16_t good[MANY], bad[MANY];
    static uint8_t nothing[MANY];
    struct dn_eval_places places = {.count = MANY,
                                    .clusters = many_clusters,
                                    .of = {bad, good},
                                    .found = {nothing, nothing},
                                    .shown = {shown, shown},
                                    .slot_max = 5,
                                    .cluster_count = MANY};
    struct dn_eval_options options = {.live = true, .ks = {5, 20, 50}, .k_count = 3};
    struct dn_eval_result result = {0};

    for (unsigned i = 0; i < MANY; i++) {
        many_clusters[i] = i;
        good[i] = i < 25 ? 2 : 1;
        bad[i] = i < 75 ? 0 : 30; /* beyond the window's k */
    }
    assert_true(dn_eval_measure(&places, &options, 5, &result));
    return result;
}

static void live_runs_have_windows(void **state)
{
    struct dn_eval_result result = long_run();

    (void)state;
    assert_int_equal(result.window_count, 4);
    assert_int_equal(result.window_k, 20);
    NEAR(result.methods[1].window_hr[0], 1);
    NEAR(result.methods[1].window_mrr[0], 0.5);
    NEAR(result.methods[1].window_mrr[1], 1);
    NEAR(result.methods[0].window_hr[3], 0);
    NEAR(result.methods[0].at[2].hr.mean, 0.25);
}

static unsigned count_of(const char *text, const char *part)
{
    unsigned count = 0;

    for (; (text = strstr(text, part)) != NULL; text++)
        count++;
    return count;
}

static void the_chart_has_a_line_for_each(void **state)
{
    struct dn_eval_result result = long_run();
    char *text = NULL;
    size_t length;
    FILE *file = open_memstream(&text, &length);

    (void)state;
    assert_non_null(file);
    assert_true(dn_eval_plot(&result, "a <log> & \"more\"\n", file));
    fclose(file);
    assert_int_equal(strncmp(text, "<svg ", 5), 0);
    assert_non_null(strstr(text, "</svg>\n"));
    assert_int_equal(count_of(text, "<polyline "), 4); /* two methods, two panels */
    assert_non_null(strstr(text, ">HR@20<"));
    assert_non_null(strstr(text, ">blend<"));
    assert_non_null(strstr(text, "a &#60;log&#62; &#38; &#34;more&#34;?<"));
    assert_null(strstr(text, "nan"));
    free(text);
    result.window_count = 0;
    file = open_memstream(&text, &length);
    assert_false(dn_eval_plot(&result, "", file));
    fclose(file);
    assert_int_equal(length, 0);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(means_are_those_by_hand),
        cmocka_unit_test(methods_are_compared_with_the_blend),
        cmocka_unit_test(one_session_has_no_interval),
        cmocka_unit_test(live_runs_have_windows),
        cmocka_unit_test(the_chart_has_a_line_for_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
