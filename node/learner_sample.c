#include "node/learner_sample.h"

enum { SECOND_US = 1000000, BURSTS_PER_S = 10 };

bool dn_sample_take(struct dn_sampler *sampler, struct dn_sample *ret)
{
    uint64_t taken = atomic_load_explicit(&sampler->taken, memory_order_relaxed);

    if (taken == atomic_load_explicit(&sampler->put, memory_order_acquire))
        return false;
    *ret = sampler->ring[taken % DN_SAMPLES_MAX];
    atomic_store_explicit(&sampler->taken, taken + 1, memory_order_release);
    return true;
}

void dn_sample_open(struct dn_sampler *sampler, uint64_t now_us)
{
    atomic_store(&sampler->allowance, 0);
    sampler->allowed_us = now_us;
    sampler->owed_us = 0;
    atomic_store(&sampler->open, true);
}

void dn_sample_allow(struct dn_sampler *sampler, uint64_t now_us)
{
    uint64_t passed_us = now_us > sampler->allowed_us ? now_us - sampler->allowed_us : 0;
    int64_t most = sampler->rate / BURSTS_PER_S > 0 ? sampler->rate / BURSTS_PER_S : 1;
    int64_t left = atomic_load_explicit(&sampler->allowance, memory_order_relaxed);

    passed_us = passed_us < SECOND_US ? passed_us : SECOND_US;
    sampler->allowed_us = now_us;
    sampler->owed_us += passed_us * sampler->rate;
    int64_t more = (int64_t)(sampler->owed_us / SECOND_US);
    sampler->owed_us %= SECOND_US;
    more = left + more > most ? most - left : more;
    if (more > 0)
        atomic_fetch_add_explicit(&sampler->allowance, more, memory_order_relaxed);
}

void dn_sample_close(struct dn_sampler *sampler)
{
    struct dn_sample ignored;

    atomic_store(&sampler->open, false);
    /* One that the consensus thread is putting in just now may stay: it is a click like any other. */
    while (dn_sample_take(sampler, &ignored))
        ;
}
