/* Metrics registry.
 *
 * Invariants:
 *   1. Families and series are only added, under the lock, and freed with the registry: a pointer given out
 *      stays valid, and updates through it need no lock.
 *   2. A name belongs to one family and one kind; name and labels together to one series.
 */
#include "base/metrics.h"

#include "base/error.h"
#include "base/histogram_private.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64
#define NS_PER_S 1e9

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };
static const char *const kind_names[] = {"counter", "gauge", "histogram"};

/* Bucket bounds on the page: enough to see the targets (1, 5, 10, 300 ms, 1.2 s) without a page of megabytes.
 * The fine buckets stay inside; bounds are met to within one of them (3 %). */
static const uint64_t page_bounds_ns[] = {
    50000,     100000,    200000,    300000,     500000,     1000000,     2000000,  5000000,
    10000000,  15000000,  20000000,  30000000,   40000000,   50000000,    70000000, 100000000,
    200000000, 300000000, 500000000, 1200000000, 3000000000, 10000000000,
};
#define PAGE_BOUNDS (sizeof(page_bounds_ns) / sizeof(page_bounds_ns[0]))

struct dn_counter {
    alignas(CACHE_LINE) _Atomic uint64_t value;
};

struct dn_gauge {
    alignas(CACHE_LINE) _Atomic uint64_t bits; /* of a double */
};

struct series {
    struct series *next;
    char *labels;
    union {
        struct dn_counter *counter;
        struct dn_gauge *gauge;
        struct dn_histogram *histogram;
    } as;
};

struct family {
    struct family *next;
    enum kind kind;
    char *name;
    char *help;
    struct series *first;
    struct series **last_link;
};

struct dn_metrics {
    pthread_mutex_t lock;
    struct family *first;
    struct family **last_link;
};

/* Registration happens at start-up only: without memory there is nothing to go on with. */
static void *must(void *memory)
{
    DN_ASSERT(memory != NULL && "out of memory at start-up");
    return memory;
}

static bool name_valid(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:";
    size_t length = strlen(name);

    return length > 0 && strchr(letters, name[0]) != NULL &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:0123456789") == length;
}

struct dn_metrics *dn_metrics_create(void)
{
    struct dn_metrics *metrics = calloc(1, sizeof(*metrics));

    if (metrics == NULL) {
        return NULL;
    }
    pthread_mutex_init(&metrics->lock, NULL);
    metrics->last_link = &metrics->first;
    return metrics;
}

static void series_free(struct series *series, enum kind kind)
{
    switch (kind) {
    case KIND_COUNTER:
        free(series->as.counter);
        break;
    case KIND_GAUGE:
        free(series->as.gauge);
        break;
    case KIND_HISTOGRAM:
        dn_histogram_destroy(series->as.histogram);
        break;
    }
    free(series->labels);
    free(series);
}

void dn_metrics_destroy(struct dn_metrics *metrics)
{
    if (metrics == NULL) {
        return;
    }
    while (metrics->first != NULL) {
        struct family *family = metrics->first;

        metrics->first = family->next;
        while (family->first != NULL) {
            struct series *series = family->first;

            family->first = series->next;
            series_free(series, family->kind);
        }
        free(family->name);
        free(family->help);
        free(family);
    }
    pthread_mutex_destroy(&metrics->lock);
    free(metrics);
}

static struct family *family_find_or_add(struct dn_metrics *metrics, enum kind kind, const char *name,
                                         const char *help)
{
    struct family *family;

    for (family = metrics->first; family != NULL; family = family->next) {
        if (strcmp(family->name, name) == 0) {
            DN_ASSERT(family->kind == kind);
            return family;
        }
    }
    DN_ASSERT(name_valid(name));
    family = must(calloc(1, sizeof(*family)));
    family->kind = kind;
    family->name = must(strdup(name));
    family->help = must(strdup(help));
    family->last_link = &family->first;
    *metrics->last_link = family;
    metrics->last_link = &family->next;
    return family;
}

static struct series *series_create(enum kind kind, const char *labels)
{
    struct series *series = must(calloc(1, sizeof(*series)));

    series->labels = must(strdup(labels));
    switch (kind) {
    case KIND_COUNTER:
        series->as.counter = must(aligned_alloc(CACHE_LINE, sizeof(struct dn_counter)));
        atomic_init(&series->as.counter->value, 0);
        break;
    case KIND_GAUGE:
        series->as.gauge = must(aligned_alloc(CACHE_LINE, sizeof(struct dn_gauge)));
        atomic_init(&series->as.gauge->bits, 0);
        break;
    case KIND_HISTOGRAM:
        series->as.histogram = must(dn_histogram_create());
        break;
    }
    return series;
}

static struct series *series_find_or_add(struct dn_metrics *metrics, enum kind kind, const char *name,
                                         const char *labels, const char *help)
{
    struct family *family;
    struct series *series;

    pthread_mutex_lock(&metrics->lock);
    family = family_find_or_add(metrics, kind, name, help);
    for (series = family->first; series != NULL; series = series->next) {
        if (strcmp(series->labels, labels) == 0) {
            break;
        }
    }
    if (series == NULL) {
        series = series_create(kind, labels);
        *family->last_link = series;
        family->last_link = &series->next;
    }
    pthread_mutex_unlock(&metrics->lock);
    return series;
}

struct dn_counter *dn_metrics_counter(struct dn_metrics *metrics, const char *name, const char *labels,
                                      const char *help)
{
    return series_find_or_add(metrics, KIND_COUNTER, name, labels, help)->as.counter;
}

struct dn_gauge *dn_metrics_gauge(struct dn_metrics *metrics, const char *name, const char *labels,
                                  const char *help)
{
    return series_find_or_add(metrics, KIND_GAUGE, name, labels, help)->as.gauge;
}

struct dn_histogram *dn_metrics_histogram(struct dn_metrics *metrics, const char *name, const char *labels,
                                          const char *help)
{
    return series_find_or_add(metrics, KIND_HISTOGRAM, name, labels, help)->as.histogram;
}

void dn_counter_add(struct dn_counter *counter, uint64_t n)
{
    atomic_fetch_add_explicit(&counter->value, n, memory_order_relaxed);
}

uint64_t dn_counter_value(const struct dn_counter *counter)
{
    return atomic_load_explicit(&counter->value, memory_order_relaxed);
}

void dn_gauge_set(struct dn_gauge *gauge, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    atomic_store_explicit(&gauge->bits, bits, memory_order_relaxed);
}

double dn_gauge_value(const struct dn_gauge *gauge)
{
    uint64_t bits = atomic_load_explicit(&gauge->bits, memory_order_relaxed);
    double value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* ---- the page ---- */

#define NUMBER_TEXT_MAX 40

static void append_text(struct dn_buffer *out, const char *text)
{
    dn_buffer_append(out, text, strlen(text));
}

/* Help texts: a backslash and a line feed are escaped, nothing else. */
static void append_help(struct dn_buffer *out, const char *help)
{
    for (; *help != '\0'; help++) {
        if (*help == '\\') {
            append_text(out, "\\\\");
        } else if (*help == '\n') {
            append_text(out, "\\n");
        } else {
            dn_buffer_u8(out, (uint8_t)*help);
        }
    }
}

static void append_double(struct dn_buffer *out, double value)
{
    char text[NUMBER_TEXT_MAX];

    if (isnan(value)) {
        append_text(out, "NaN");
    } else if (isinf(value)) {
        append_text(out, value > 0 ? "+Inf" : "-Inf");
    } else {
        /* 17 digits bring a double back exactly, but 0.1 reads better as 0.1: take 15 where they suffice. */
        snprintf(text, sizeof(text), "%.15g", value);
        if (strtod(text, NULL) != value) {
            snprintf(text, sizeof(text), "%.17g", value);
        }
        append_text(out, text);
    }
}

static void append_u64(struct dn_buffer *out, uint64_t value)
{
    char text[NUMBER_TEXT_MAX];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    append_text(out, text);
}

/* name suffix {labels,extra} and a space: the start of a sample line. */
static void append_sample_start(struct dn_buffer *out, const char *name, const char *suffix,
                                const char *labels, const char *extra)
{
    append_text(out, name);
    append_text(out, suffix);
    if (labels[0] != '\0' || extra[0] != '\0') {
        append_text(out, "{");
        append_text(out, labels);
        append_text(out, labels[0] != '\0' && extra[0] != '\0' ? "," : "");
        append_text(out, extra);
        append_text(out, "}");
    }
    append_text(out, " ");
}

static void append_bucket(struct dn_buffer *out, const char *name, const char *labels, const char *bound,
                          uint64_t count)
{
    char extra[NUMBER_TEXT_MAX + 8];

    snprintf(extra, sizeof(extra), "le=\"%s\"", bound);
    append_sample_start(out, name, "_bucket", labels, extra);
    append_u64(out, count);
    append_text(out, "\n");
}

static void append_histogram(struct dn_buffer *out, const char *name, const char *labels,
                             const struct dn_histogram *histogram)
{
    uint64_t cumulative[PAGE_BOUNDS];
    uint64_t total, sum_ns;
    char bound[NUMBER_TEXT_MAX];

    dn_histogram_cumulate(histogram, page_bounds_ns, PAGE_BOUNDS, cumulative, &total, &sum_ns);
    for (size_t i = 0; i < PAGE_BOUNDS; i++) {
        snprintf(bound, sizeof(bound), "%.9g", (double)page_bounds_ns[i] / NS_PER_S);
        append_bucket(out, name, labels, bound, cumulative[i]);
    }
    append_bucket(out, name, labels, "+Inf", total);
    append_sample_start(out, name, "_sum", labels, "");
    append_double(out, (double)sum_ns / NS_PER_S);
    append_text(out, "\n");
    append_sample_start(out, name, "_count", labels, "");
    append_u64(out, total);
    append_text(out, "\n");
}

static void append_series(struct dn_buffer *out, const struct family *family, const struct series *series)
{
    switch (family->kind) {
    case KIND_COUNTER:
        append_sample_start(out, family->name, "", series->labels, "");
        append_u64(out, dn_counter_value(series->as.counter));
        append_text(out, "\n");
        break;
    case KIND_GAUGE:
        append_sample_start(out, family->name, "", series->labels, "");
        append_double(out, dn_gauge_value(series->as.gauge));
        append_text(out, "\n");
        break;
    case KIND_HISTOGRAM:
        append_histogram(out, family->name, series->labels, series->as.histogram);
        break;
    }
}

void dn_metrics_render(struct dn_metrics *metrics, struct dn_buffer *out)
{
    pthread_mutex_lock(&metrics->lock);
    for (const struct family *family = metrics->first; family != NULL; family = family->next) {
        append_text(out, "# HELP ");
        append_text(out, family->name);
        append_text(out, " ");
        append_help(out, family->help);
        append_text(out, "\n# TYPE ");
        append_text(out, family->name);
        append_text(out, " ");
        append_text(out, kind_names[family->kind]);
        append_text(out, "\n");
        for (const struct series *series = family->first; series != NULL; series = series->next) {
            append_series(out, family, series);
        }
    }
    pthread_mutex_unlock(&metrics->lock);
}
