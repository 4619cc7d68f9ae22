/* Private to node: the sample of clicks between the consensus thread, which hears of them, and the learner.
 *
 *   consensus thread: dn_sample_offer -> [ring of DN_SAMPLES_MAX] -> learner: dn_sample_take
 *
 * In any second at most `rate` of them are taken (for a rate below 4, one more): a quarter of it may come at
 * once, as batches do, and three quarters trickle in. The clock is the learner's: it hands out allowances
 * (dn_sample_allow), so that applying an event reads no clock. Nobody ever waits. */
#ifndef DN_NODE_LEARNER_SAMPLE_H
#define DN_NODE_LEARNER_SAMPLE_H

#include "base/hash.h"
#include "base/metrics.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define DN_SAMPLES_MAX 1024u /* that wait: a power of two */

struct dn_sample {
    struct dn_hash128 user;
    uint32_t shard;
};

struct dn_sampler {
    struct dn_sample ring[DN_SAMPLES_MAX];
    _Atomic uint64_t put, taken; /* so many ever; put: consensus thread, taken: learner */
    _Atomic int64_t allowance;   /* that may still be taken now; see dn_sample_offer */
    atomic_bool open;
    struct dn_counter *skipped, *dropped;
    unsigned rate;       /* a second */
    uint64_t allowed_us; /* when an allowance was given last; learner */
    uint64_t owed;       /* part of a click, in 1 / CLICK; learner */
};

/* Consensus thread. dn_sample_open may set the allowance to 0 between the look at it and its being used: it
 * is -1 then, until the next is handed out. */
static inline void dn_sample_offer(struct dn_sampler *sampler, struct dn_hash128 user, uint32_t shard)
{
    if (!atomic_load_explicit(&sampler->open, memory_order_relaxed))
        return;
    if (atomic_load_explicit(&sampler->allowance, memory_order_relaxed) <= 0) {
        dn_counter_add(sampler->skipped, 1);
        return;
    }
    uint64_t put = atomic_load_explicit(&sampler->put, memory_order_relaxed);
    if (put - atomic_load_explicit(&sampler->taken, memory_order_acquire) >= DN_SAMPLES_MAX) {
        dn_counter_add(sampler->dropped, 1);
        return;
    }
    atomic_fetch_sub_explicit(&sampler->allowance, 1, memory_order_relaxed);
    sampler->ring[put % DN_SAMPLES_MAX] = (struct dn_sample){.user = user, .shard = shard};
    atomic_store_explicit(&sampler->put, put + 1, memory_order_release);
}

/* Learner's thread, all below. False: none waits. */
bool dn_sample_take(struct dn_sampler *sampler, struct dn_sample *ret);
/* Clicks count from now on. */
void dn_sample_open(struct dn_sampler *sampler, uint64_t now_us);
/* What the rate gives for the time since the last call. */
void dn_sample_allow(struct dn_sampler *sampler, uint64_t now_us);
/* None is taken any more, and those that wait are thrown away. */
void dn_sample_close(struct dn_sampler *sampler);

#endif
