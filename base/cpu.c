/* A program that was built for AVX2 (CMake's DUNLIN_SIMD) on a machine without it: says so before it would
 * die of an illegal instruction. Runs before main, and is built for any machine itself. Linked into the
 * programs, since nobody calls it. */
#if defined(__x86_64__) && defined(__AVX2__)

#include <unistd.h>

__attribute__((constructor, target("arch=x86-64"))) static void cpu_check(void)
{
    static const char message[] = "this program was built for processors with AVX2, which this one has not: "
                                  "build it with cmake -DDUNLIN_SIMD=generic\n";

    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) {
        ssize_t written = write(STDERR_FILENO, message, sizeof message - 1);
        (void)written;
        _exit(1);
    }
}

#else
typedef int dn_nothing_to_check; /* an empty file is no C */
#endif
