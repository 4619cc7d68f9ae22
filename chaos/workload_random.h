/* Random numbers for what clients do: each client has its own stream, made from the run's seed, so that what
 * it asks for depends on the seed alone (what it is told does not). SplitMix64: https://prng.di.unimi.it/ */
#ifndef DN_CHAOS_WORKLOAD_RANDOM_H
#define DN_CHAOS_WORKLOAD_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct workload_random {
    uint64_t state;
};

static inline uint64_t workload_random_next(struct workload_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* 0 to below - 1; below: at least 1, and small enough that the bias does not matter. */
static inline uint64_t workload_random_below(struct workload_random *random, uint64_t below)
{
    return workload_random_next(random) % below;
}

/* True `in` times of `of`. */
static inline bool workload_random_one(struct workload_random *random, uint64_t in, uint64_t of)
{
    return workload_random_below(random, of) < in;
}

/* The stream number `stream` of a seed. */
static inline struct workload_random workload_random_make(uint64_t seed, uint64_t stream)
{
    struct workload_random random = {seed ^ (stream * 0xd1342543de82ef95u)};
    (void)workload_random_next(&random);
    return random;
}

#endif
