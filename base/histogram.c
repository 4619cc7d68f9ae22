/* Latency histogram: log-linear buckets. Each power of two of nanoseconds is cut into SUB_BUCKETS equal
 * parts; below SUB_BUCKETS ns a bucket is one nanosecond. A quantile answers with the middle of its bucket,
 * which is off by at most 1 in 2 * SUB_BUCKETS (1.6 %).
 *
 * Invariant: the counters only grow, so a reader that walks them while others write sees each observation
 * at most once; the number of observations is the sum of the buckets and kept nowhere else. */
#include "base/histogram_private.h"

#include "base/error.h"

#include <math.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SUB_BITS 5
#define SUB_BUCKETS (1u << SUB_BITS)
#define VALUE_BITS 37 /* 137 s: longer ones are counted in the last bucket */
#define VALUE_MAX (((uint64_t)1 << VALUE_BITS) - 1)
#define BUCKETS ((VALUE_BITS - SUB_BITS + 1) * SUB_BUCKETS)
#define CACHE_LINE 64

struct dn_histogram {
    alignas(CACHE_LINE) _Atomic uint64_t sum_ns;
    _Atomic uint64_t max_ns;
    _Atomic uint64_t buckets[BUCKETS];
};

static size_t bucket_of(uint64_t ns)
{
    unsigned shift;

    if (ns > VALUE_MAX) {
        ns = VALUE_MAX;
    }
    if (ns < SUB_BUCKETS) {
        return (size_t)ns;
    }
    shift = 63u - (unsigned)__builtin_clzll(ns) - SUB_BITS;
    return (size_t)(shift * SUB_BUCKETS + (ns >> shift)); /* ns >> shift is in [SUB_BUCKETS, 2 SUB_BUCKETS) */
}

static unsigned bucket_shift(size_t bucket)
{
    return bucket < SUB_BUCKETS ? 0 : (unsigned)(bucket / SUB_BUCKETS - 1);
}

static uint64_t bucket_low_ns(size_t bucket)
{
    return (uint64_t)(bucket - bucket_shift(bucket) * SUB_BUCKETS) << bucket_shift(bucket);
}

/* The largest value that falls into it. */
static uint64_t bucket_high_ns(size_t bucket)
{
    return bucket_low_ns(bucket) + ((uint64_t)1 << bucket_shift(bucket)) - 1;
}

static uint64_t bucket_load(const struct dn_histogram *histogram, size_t bucket)
{
    return atomic_load_explicit(&histogram->buckets[bucket], memory_order_relaxed);
}

struct dn_histogram *dn_histogram_create(void)
{
    struct dn_histogram *histogram = aligned_alloc(CACHE_LINE, sizeof(*histogram));

    if (histogram == NULL) {
        return NULL;
    }
    memset(histogram, 0, sizeof(*histogram));
    return histogram;
}

void dn_histogram_destroy(struct dn_histogram *histogram)
{
    free(histogram);
}

void dn_histogram_observe_ns(struct dn_histogram *histogram, uint64_t ns)
{
    uint64_t max = atomic_load_explicit(&histogram->max_ns, memory_order_relaxed);

    atomic_fetch_add_explicit(&histogram->buckets[bucket_of(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_ns, ns, memory_order_relaxed);
    while (ns > max && !atomic_compare_exchange_weak_explicit(&histogram->max_ns, &max, ns,
                                                              memory_order_relaxed, memory_order_relaxed)) {
    }
}

uint64_t dn_histogram_count(const struct dn_histogram *histogram)
{
    uint64_t total = 0;

    for (size_t i = 0; i < BUCKETS; i++) {
        total += bucket_load(histogram, i);
    }
    return total;
}

uint64_t dn_histogram_max_ns(const struct dn_histogram *histogram)
{
    return atomic_load_explicit(&histogram->max_ns, memory_order_relaxed);
}

uint64_t dn_histogram_quantile_ns(const struct dn_histogram *histogram, double q)
{
    uint64_t total = dn_histogram_count(histogram);
    uint64_t max = dn_histogram_max_ns(histogram);
    uint64_t rank, seen = 0;

    if (total == 0) {
        return 0;
    }
    if (!(q > 0)) { /* NaN too */
        q = 0;
    }
    if (q >= 1) {
        return max;
    }
    rank = (uint64_t)ceil(q * (double)total); /* nearest rank, counted from 1 */
    if (rank < 1) {
        rank = 1;
    }
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += bucket_load(histogram, i);
        if (seen >= rank) {
            uint64_t middle = bucket_low_ns(i) + (bucket_high_ns(i) - bucket_low_ns(i)) / 2;

            return i == BUCKETS - 1 || middle > max ? max : middle;
        }
    }
    return max;
}

void dn_histogram_cumulate(const struct dn_histogram *histogram, const uint64_t *bounds_ns,
                           size_t bound_count, uint64_t *ret_cumulative, uint64_t *ret_total,
                           uint64_t *ret_sum_ns)
{
    uint64_t total = 0;
    size_t bound = 0;

    *ret_sum_ns = atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed);
    for (size_t i = 0; i < BUCKETS; i++) {
        while (bound < bound_count && bucket_high_ns(i) > bounds_ns[bound]) {
            ret_cumulative[bound++] = total;
        }
        total += bucket_load(histogram, i);
    }
    while (bound < bound_count) {
        ret_cumulative[bound++] = total;
    }
    *ret_total = total;
}
