/* Metrics: counters, gauges and latency histograms in a registry, rendered in the Prometheus text format
 * (https://prometheus.io/docs/instrumenting/exposition_formats/). Updates are relaxed atomics, any thread.
 * Created at start-up and never removed; the registry owns them. */
#ifndef DN_BASE_METRICS_H
#define DN_BASE_METRICS_H

#include "base/buffer.h"

#include <stdint.h>

struct dn_metrics;   /* the registry */
struct dn_counter;   /* monotonically increasing integer */
struct dn_gauge;     /* signed integer or a callback's double */
struct dn_histogram; /* log-linear buckets, 1 us to 100 s, at most 3 % relative error */

struct dn_metrics *dn_metrics_create(void);
void dn_metrics_destroy(struct dn_metrics *metrics);

/* name: "dunlin_requests_total"; labels: "method=\"Recommend\",code=\"OK\"" or "" ; help is given once a
 * name. The same name and labels give the same object again. Aborts when memory is out (start-up only). */
struct dn_counter *dn_metrics_counter(struct dn_metrics *metrics, const char *name, const char *labels,
                                      const char *help);
struct dn_gauge *dn_metrics_gauge(struct dn_metrics *metrics, const char *name, const char *labels,
                                  const char *help);
/* Values in seconds on the page; observed in nanoseconds. */
struct dn_histogram *dn_metrics_histogram(struct dn_metrics *metrics, const char *name, const char *labels,
                                          const char *help);

void dn_counter_add(struct dn_counter *counter, uint64_t n);
uint64_t dn_counter_value(const struct dn_counter *counter);
void dn_gauge_set(struct dn_gauge *gauge, double value);
double dn_gauge_value(const struct dn_gauge *gauge);
void dn_histogram_observe_ns(struct dn_histogram *histogram, uint64_t ns);

/* A histogram outside any registry, for tools: owned by the caller. */
struct dn_histogram *dn_histogram_create(void);
void dn_histogram_destroy(struct dn_histogram *histogram);
uint64_t dn_histogram_count(const struct dn_histogram *histogram);
/* The value (ns) at quantile q in [0,1]; 0 when empty. */
uint64_t dn_histogram_quantile_ns(const struct dn_histogram *histogram, double q);
uint64_t dn_histogram_max_ns(const struct dn_histogram *histogram);

/* Appends the whole page to out. Any thread. */
void dn_metrics_render(struct dn_metrics *metrics, struct dn_buffer *out);

#endif
