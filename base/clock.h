/* Clocks. Replicated code never includes this header: inside apply, time is what the entry says. Any thread.
 */
#ifndef DN_BASE_CLOCK_H
#define DN_BASE_CLOCK_H

#include <stdint.h>

/* CLOCK_MONOTONIC, in nanoseconds / microseconds: for latencies and deadlines. */
uint64_t dn_monotonic_ns(void);
uint64_t dn_monotonic_us(void);

/* CLOCK_BOOTTIME, in microseconds: counts while the machine sleeps; for the age of reads. */
uint64_t dn_boottime_us(void);

/* CLOCK_REALTIME, in milliseconds since 1970. */
int64_t dn_wall_ms(void);

#endif
