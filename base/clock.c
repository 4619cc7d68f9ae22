#include "base/clock.h"

#include "base/error.h"

#include <time.h>

static uint64_t read_ns(clockid_t clock)
{
    struct timespec now;

    DN_ASSERT(clock_gettime(clock, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t dn_monotonic_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

uint64_t dn_monotonic_us(void)
{
    return read_ns(CLOCK_MONOTONIC) / 1000;
}

uint64_t dn_boottime_us(void)
{
    return read_ns(CLOCK_BOOTTIME) / 1000;
}

int64_t dn_wall_ms(void)
{
    struct timespec now;

    DN_ASSERT(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
