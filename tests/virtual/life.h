/* One life of a cluster: it forms, works under faults, is healed, must recover within a bound, and is judged.
 */
#ifndef DN_TESTS_VIRTUAL_LIFE_H
#define DN_TESTS_VIRTUAL_LIFE_H

#include "chaos/check.h"

#include <stdbool.h>
#include <stdint.h>

#define LIFE_FAULTS(X)                                                                                       \
    X(kill, "kills")                                                                                         \
    X(power, "power losses")                                                                                 \
    X(aimed, "crashes aimed at a disk operation")                                                            \
    X(all, "all nodes at once")                                                                              \
    X(pause, "pauses")                                                                                       \
    X(stop, "stops in good order")                                                                           \
    X(isolate, "one node cut off")                                                                           \
    X(pair, "two nodes cut from each other")                                                                 \
    X(one_way, "cuts one way")                                                                               \
    X(reset, "connections reset")                                                                            \
    X(slow, "slow links")                                                                                    \
    X(corrupt, "corrupting links")                                                                           \
    X(disk_errors, "failing disks")                                                                          \
    X(disk_full, "full disks")                                                                               \
    X(disk_slow, "slow disks")                                                                               \
    X(clock, "clock jumps")

enum life_fault {
#define X(name, text) LIFE_##name,
    LIFE_FAULTS(X)
#undef X
        LIFE_FAULT_COUNT,
};

extern uint64_t life_faults[LIFE_FAULT_COUNT];              /* how many of each, over all lives */
extern uint64_t life_judged[CHAOS_RULE_COUNT];              /* observations each rule was applied to */
extern uint64_t life_recovery_ms_sum, life_recovery_ms_max; /* from healing to all done and equal */

/* Runs it; returns the hash of its trace. Ends the program when something is wrong. */
uint64_t life_run(uint64_t seed);

#endif
