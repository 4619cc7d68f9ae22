/* Written courses: faults at one chosen point, which lives meet too seldom. */
#ifndef DN_TESTS_VIRTUAL_SCENARIO_H
#define DN_TESTS_VIRTUAL_SCENARIO_H

#include <stdbool.h>
#include <stdint.h>

/* Runs it under `count` seeds. False: there is none of that name. Ends the program when something is wrong.
 */
bool scenario_run(const char *name, uint64_t seed, uint64_t count);

#endif
