/* Seeded numbers for tests. The seed is fixed, or taken from DUNLIN_SEED; each test prints it when it starts,
 * so a failure can be run again. */
#ifndef DN_TESTS_UNIT_BASE_RANDOM_H
#define DN_TESTS_UNIT_BASE_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct test_random {
    uint64_t state;
};

static inline struct test_random test_random_start(const char *what)
{
    const char *text = getenv("DUNLIN_SEED");
    struct test_random random = {.state = text != NULL ? strtoull(text, NULL, 10) : 20240607};

    printf("%s: DUNLIN_SEED=%llu\n", what, (unsigned long long)random.state);
    return random;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t test_random_next(struct test_random *random)
{
    uint64_t z = (random->state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline size_t test_random_below(struct test_random *random, size_t bound)
{
    return (size_t)(test_random_next(random) % bound);
}

#endif
