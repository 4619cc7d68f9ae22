/* How metrics.c reads a histogram: private to base. The public part is in metrics.h. */
#ifndef DN_BASE_HISTOGRAM_PRIVATE_H
#define DN_BASE_HISTOGRAM_PRIVATE_H

#include "base/metrics.h"

/* For each bound (ns, ascending): how many observations lie in fine buckets that end at or below it; then
 * the count of all and the sum (ns) of all. The total is taken from the same pass, so it is never below a
 * bucket. */
void dn_histogram_cumulate(const struct dn_histogram *histogram, const uint64_t *bounds_ns,
                           size_t bound_count, uint64_t *ret_cumulative, uint64_t *ret_total,
                           uint64_t *ret_sum_ns);

#endif
