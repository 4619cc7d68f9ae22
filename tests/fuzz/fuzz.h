/* What every fuzz target defines, once; adding one is adding fuzz_NAME.c (and a line in CMakeLists.txt that
 * says what it links).
 *
 * Three programs come from the same source: with libFuzzer's or afl++'s main (CMake option DUNLIN_FUZZ), and
 * in every other build with the small driver of driver.c, which is the test fuzz.NAME. A target must be
 * deterministic: what it does depends on its input alone. It ends by an assertion or a signal when something
 * is wrong. */
#ifndef DN_TESTS_FUZZ_FUZZ_H
#define DN_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#define DN_FUZZ_INPUT_MAX 65536u

/* Feeds one input; returns 0. The bytes are an exact copy on the heap. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* Writes seed number n, good input made by the encoders, and returns its length (at most max); 0: there are
 * only n. */
size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max);

/* Mutations that the driver runs unless DUNLIN_FUZZ_RUNS says otherwise: about a second's worth without
 * sanitizers. */
extern const unsigned dn_fuzz_runs;

#endif
