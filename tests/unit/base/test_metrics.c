#include "base/metrics.h"
#include "tests/unit/base/cmocka_all.h"
#include "tests/unit/base/random.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

/* ---- histogram ---- */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

#define SAMPLES 20000

static void assert_quantiles_close(uint64_t *samples, size_t count, const char *shape)
{
    static const double quantiles[] = {0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    struct dn_histogram *histogram = dn_histogram_create();

    for (size_t i = 0; i < count; i++) {
        dn_histogram_observe_ns(histogram, samples[i]);
    }
    qsort(samples, count, sizeof(*samples), compare_u64);
    assert_int_equal(dn_histogram_count(histogram), count);
    assert_true(dn_histogram_max_ns(histogram) == samples[count - 1]);
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        double rank = ceil(quantiles[i] * (double)count);
        double exact = (double)samples[rank < 1 ? 0 : (size_t)rank - 1];
        double got = (double)dn_histogram_quantile_ns(histogram, quantiles[i]);

        if (fabs(got - exact) > 0.03 * exact) {
            fail_msg("%s: quantile %g is %.0f, not %.0f", shape, quantiles[i], got, exact);
        }
    }
    dn_histogram_destroy(histogram);
}

static void quantiles_are_within_three_percent(void **state)
{
    static uint64_t samples[SAMPLES];
    struct test_random random = test_random_start("histogram");

    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) { /* even in the logarithm from 1 us to 100 s */
        double u = (double)test_random_below(&random, 1000000) / 1e6;

        samples[i] = (uint64_t)(1e3 * pow(1e8, u));
    }
    assert_quantiles_close(samples, SAMPLES, "logarithmic");
    for (size_t i = 0; i < SAMPLES; i++) {
        samples[i] = 200000 + test_random_below(&random, 100000);
    }
    assert_quantiles_close(samples, SAMPLES, "narrow");
    for (size_t i = 0; i < SAMPLES; i++) {
        samples[i] = i % 1000 == 0 ? 5000000000 : 90000;
    }
    assert_quantiles_close(samples, SAMPLES, "two values");
    for (size_t i = 0; i < 100; i++) {
        samples[i] = (i + 1) * 1000000;
    }
    assert_quantiles_close(samples, 100, "a hundred");
    for (uint64_t value = 1; value < 100000000000u; value += 1 + value / 50) {
        assert_quantiles_close((uint64_t[]){value, value - 1}, 2, "pairs");
    }
    samples[0] = 123456789;
    assert_quantiles_close(samples, 1, "one");
}

static void the_histograms_edges(void **state)
{
    struct dn_histogram *histogram = dn_histogram_create();

    (void)state;
    assert_int_equal(dn_histogram_quantile_ns(histogram, 0.5), 0);
    assert_int_equal(dn_histogram_count(histogram), 0);
    dn_histogram_observe_ns(histogram, 0);
    assert_int_equal(dn_histogram_quantile_ns(histogram, 0.5), 0);
    dn_histogram_observe_ns(histogram, UINT64_MAX);
    assert_true(dn_histogram_max_ns(histogram) == UINT64_MAX);
    assert_true(dn_histogram_quantile_ns(histogram, 1) == UINT64_MAX);
    assert_true(dn_histogram_quantile_ns(histogram, 7) == UINT64_MAX);
    assert_true(dn_histogram_quantile_ns(histogram, 0.9) == UINT64_MAX);
    assert_int_equal(dn_histogram_quantile_ns(histogram, -1), 0);
    assert_int_equal(dn_histogram_quantile_ns(histogram, NAN), 0);
    assert_int_equal(dn_histogram_count(histogram), 2);
    dn_histogram_destroy(histogram);
    dn_histogram_destroy(NULL);
}

/* ---- registry ---- */

static char *render(struct dn_metrics *metrics)
{
    struct dn_buffer page;
    char *text;

    dn_buffer_init(&page, 1 << 20);
    dn_metrics_render(metrics, &page);
    dn_buffer_u8(&page, 0);
    assert_false(page.failed);
    text = strdup((char *)page.bytes);
    dn_buffer_free(&page);
    return text;
}

static void the_same_name_and_labels_are_the_same_object(void **state)
{
    struct dn_metrics *metrics = dn_metrics_create();
    struct dn_counter *ok = dn_metrics_counter(metrics, "dunlin_x_total", "code=\"OK\"", "X.");

    (void)state;
    assert_ptr_equal(ok, dn_metrics_counter(metrics, "dunlin_x_total", "code=\"OK\"", "X."));
    assert_ptr_not_equal(ok, dn_metrics_counter(metrics, "dunlin_x_total", "code=\"NO\"", "X."));
    assert_ptr_not_equal(ok, dn_metrics_counter(metrics, "dunlin_y_total", "code=\"OK\"", "Y."));
    dn_counter_add(ok, 2);
    dn_counter_add(ok, 3);
    assert_int_equal(dn_counter_value(ok), 5);
    dn_metrics_destroy(metrics);
    dn_metrics_destroy(NULL);
}

static void a_page_reads_as_expected(void **state)
{
    struct dn_metrics *metrics = dn_metrics_create();
    struct dn_gauge *gauge = dn_metrics_gauge(metrics, "dunlin_g", "", "A \\ gauge\nof two lines.");
    char *page;

    (void)state;
    dn_counter_add(dn_metrics_counter(metrics, "dunlin_c_total", "a=\"1\"", "Count."), UINT64_MAX);
    dn_gauge_set(dn_metrics_gauge(metrics, "dunlin_g", "b=\"2\"", ""), -0.25);
    dn_counter_add(dn_metrics_counter(metrics, "dunlin_c_total", "", "Count."), 7);
    dn_gauge_set(gauge, 0.1);
    assert_true(dn_gauge_value(gauge) == 0.1);
    page = render(metrics);
    assert_string_equal(page, "# HELP dunlin_g A \\\\ gauge\\nof two lines.\n"
                              "# TYPE dunlin_g gauge\n"
                              "dunlin_g 0.1\n"
                              "dunlin_g{b=\"2\"} -0.25\n"
                              "# HELP dunlin_c_total Count.\n"
                              "# TYPE dunlin_c_total counter\n"
                              "dunlin_c_total{a=\"1\"} 18446744073709551615\n"
                              "dunlin_c_total 7\n");
    free(page);
    dn_gauge_set(gauge, NAN);
    page = render(metrics);
    assert_non_null(strstr(page, "dunlin_g NaN\n"));
    free(page);
    dn_gauge_set(gauge, INFINITY);
    page = render(metrics);
    assert_non_null(strstr(page, "dunlin_g +Inf\n"));
    free(page);
    dn_gauge_set(gauge, -INFINITY);
    page = render(metrics);
    assert_non_null(strstr(page, "dunlin_g -Inf\n"));
    free(page);
    dn_gauge_set(gauge, 1.0 / 3.0); /* comes back to the last bit */
    page = render(metrics);
    assert_true(strtod(strstr(page, "\ndunlin_g ") + 10, NULL) == 1.0 / 3.0);
    free(page);
    dn_metrics_destroy(metrics);
}

/* The value of the line that starts with `start`. */
static double sample(const char *page, const char *start)
{
    const char *line = strstr(page, start);

    if (line == NULL) {
        fail_msg("no line '%s' in:\n%s", start, page);
    }
    return strtod(line + strlen(start), NULL);
}

static void a_histogram_is_rendered_cumulatively(void **state)
{
    struct dn_metrics *metrics = dn_metrics_create();
    struct dn_histogram *plain = dn_metrics_histogram(metrics, "dunlin_h_seconds", "", "H.");
    struct dn_histogram *labelled = dn_metrics_histogram(metrics, "dunlin_h_seconds", "m=\"R\"", "H.");
    const char *line;
    int buckets = 0;
    double last_bound = 0, last_count = 0;
    char *page;

    (void)state;
    dn_histogram_observe_ns(plain, 10000);       /* 10 us */
    dn_histogram_observe_ns(plain, 400000);      /* 0.4 ms */
    dn_histogram_observe_ns(plain, 4000000);     /* 4 ms */
    dn_histogram_observe_ns(plain, 20000000000); /* 20 s */
    dn_histogram_observe_ns(labelled, 1500000);  /* 1.5 ms */
    page = render(metrics);
    assert_true(sample(page, "dunlin_h_seconds_bucket{le=\"5e-05\"} ") == 1);
    assert_true(sample(page, "dunlin_h_seconds_bucket{le=\"0.0003\"} ") == 1);
    assert_true(sample(page, "dunlin_h_seconds_bucket{le=\"0.0005\"} ") == 2);
    assert_true(sample(page, "dunlin_h_seconds_bucket{le=\"0.002\"} ") == 2);
    assert_true(sample(page, "dunlin_h_seconds_bucket{le=\"0.005\"} ") == 3);
    assert_true(sample(page, "dunlin_h_seconds_bucket{le=\"10\"} ") == 3);
    assert_true(sample(page, "dunlin_h_seconds_bucket{le=\"+Inf\"} ") == 4);
    assert_true(sample(page, "dunlin_h_seconds_count ") == 4);
    assert_true(fabs(sample(page, "dunlin_h_seconds_sum ") - 20.00441) < 1e-9);
    assert_true(sample(page, "dunlin_h_seconds_bucket{m=\"R\",le=\"0.001\"} ") == 0);
    assert_true(sample(page, "dunlin_h_seconds_bucket{m=\"R\",le=\"0.002\"} ") == 1);
    assert_true(sample(page, "dunlin_h_seconds_bucket{m=\"R\",le=\"+Inf\"} ") == 1);
    assert_true(sample(page, "dunlin_h_seconds_count{m=\"R\"} ") == 1);
    assert_true(sample(page, "dunlin_h_seconds_sum{m=\"R\"} ") == 0.0015);
    for (line = strstr(page, "dunlin_h_seconds_bucket{le="); line != NULL;
         line = strstr(line + 1, "dunlin_h_seconds_bucket{le="), buckets++) {
        char *end;
        double bound = strtod(line + strlen("dunlin_h_seconds_bucket{le=\""), &end);
        double count = strtod(end + 3, NULL);

        assert_true(bound > last_bound && count >= last_count);
        last_bound = bound;
        last_count = count;
    }
    assert_true(isinf(last_bound));
    assert_in_range(buckets, 8, 25);
    free(page);
    dn_metrics_destroy(metrics);
}

/* An own small reader of the format: HELP and TYPE once a name and before its samples, samples of a name
 * together, each line `name[{label="value",...}] number`. */
static void assert_page_is_well_formed(const char *page)
{
    char *copy = strdup(page), *rest = copy, *line;
    char seen[64][64], current[64] = "", type[64] = "";
    size_t seen_count = 0;

    assert_true(page[0] == '\0' || page[strlen(page) - 1] == '\n');
    while ((line = strsep(&rest, "\n")) != NULL) {
        char name[64], kind[64];
        size_t length;
        char *end;

        if (rest == NULL) {
            assert_string_equal(line, "");
            break;
        }
        if (sscanf(line, "# HELP %63s", name) == 1) {
            for (size_t i = 0; i < seen_count; i++) {
                assert_string_not_equal(seen[i], name);
            }
            strcpy(seen[seen_count++], name);
            strcpy(current, name);
            type[0] = '\0';
            continue;
        }
        if (sscanf(line, "# TYPE %63s %63s", name, kind) == 2) {
            assert_string_equal(name, current);
            assert_string_equal(type, "");
            strcpy(type, kind);
            continue;
        }
        length = strcspn(line, "{ ");
        assert_int_equal(strncmp(line, current, strlen(current)), 0);
        assert_string_not_equal(type, "");
        if (strcmp(type, "histogram") != 0) {
            assert_int_equal(length, strlen(current));
        }
        line += length;
        if (*line == '{') {
            do {
                line++;
                length = strspn(line, "abcdefghijklmnopqrstuvwxyz_");
                assert_true(length > 0 && line[length] == '=' && line[length + 1] == '"');
                line = strchr(line + length + 2, '"');
                assert_non_null(line);
                line++;
            } while (*line == ',');
            assert_int_equal(*line, '}');
            line++;
        }
        assert_int_equal(*line, ' ');
        strtod(line + 1, &end);
        assert_true(end > line + 1 && *end == '\0');
    }
    free(copy);
}

#define UPDATERS 3
#define UPDATES_EACH 20000

static struct {
    struct dn_metrics *metrics;
    struct dn_counter *counter;
    struct dn_histogram *histogram;
} shared;

static void *update(void *argument)
{
    char labels[32];

    snprintf(labels, sizeof(labels), "thread=\"%d\"", (int)(intptr_t)argument);
    for (int i = 0; i < UPDATES_EACH; i++) {
        dn_counter_add(shared.counter, 1);
        dn_histogram_observe_ns(shared.histogram, (uint64_t)i * 1000);
        if (i % 1000 == 0) { /* registering while others render */
            dn_gauge_set(dn_metrics_gauge(shared.metrics, "dunlin_per_thread", labels, "G."), i);
        }
    }
    return NULL;
}

static void updates_from_many_threads_all_count(void **state)
{
    pthread_t threads[UPDATERS];
    uint64_t last = 0;
    char *page;

    (void)state;
    shared.metrics = dn_metrics_create();
    shared.counter = dn_metrics_counter(shared.metrics, "dunlin_n_total", "", "N.");
    shared.histogram = dn_metrics_histogram(shared.metrics, "dunlin_n_seconds", "", "N.");
    for (int i = 0; i < UPDATERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, update, (void *)(intptr_t)i), 0);
    }
    for (int i = 0; i < 20; i++) { /* pages drawn meanwhile are whole, and counts do not go back */
        uint64_t count = dn_histogram_count(shared.histogram);

        page = render(shared.metrics);
        assert_page_is_well_formed(page);
        assert_true(sample(page, "dunlin_n_seconds_bucket{le=\"+Inf\"} ") ==
                    sample(page, "dunlin_n_seconds_count "));
        assert_true(count >= last);
        last = count;
        free(page);
    }
    for (int i = 0; i < UPDATERS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(dn_counter_value(shared.counter), UPDATERS * UPDATES_EACH);
    assert_int_equal(dn_histogram_count(shared.histogram), UPDATERS * UPDATES_EACH);
    assert_int_equal(dn_histogram_max_ns(shared.histogram), (UPDATES_EACH - 1) * 1000);
    page = render(shared.metrics);
    assert_page_is_well_formed(page);
    assert_non_null(strstr(page, "dunlin_per_thread{thread=\"2\"} 19000\n"));
    free(page);
    dn_metrics_destroy(shared.metrics);
}

static void a_page_that_does_not_fit_says_so(void **state)
{
    struct dn_metrics *metrics = dn_metrics_create();
    struct dn_buffer page;

    (void)state;
    dn_metrics_histogram(metrics, "dunlin_h_seconds", "", "H.");
    dn_buffer_init(&page, 100);
    dn_metrics_render(metrics, &page);
    assert_true(page.failed);
    dn_buffer_free(&page);
    dn_metrics_destroy(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_are_within_three_percent),
        cmocka_unit_test(the_histograms_edges),
        cmocka_unit_test(the_same_name_and_labels_are_the_same_object),
        cmocka_unit_test(a_page_reads_as_expected),
        cmocka_unit_test(a_histogram_is_rendered_cumulatively),
        cmocka_unit_test(updates_from_many_threads_all_count),
        cmocka_unit_test(a_page_that_does_not_fit_says_so),
    };
    return cmocka_run_group_tests_name("base.metrics", tests, NULL, NULL);
}
