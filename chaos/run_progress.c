#include "chaos/run_progress.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRAW_EVERY_NS 250000000u   /* on a terminal */
#define LINE_EVERY_NS 10000000000u /* elsewhere */
#define CLEAR_LINE "\r\033[K"

void run_progress_begin(struct run_progress *progress, const struct chaos_cluster *cluster)
{
    const char *kind = getenv("TERM");
    *progress = (struct run_progress){.cluster = cluster, .began_ns = dn_monotonic_ns()};
    progress->terminal = isatty(STDERR_FILENO) && !(kind && strcmp(kind, "dumb") == 0);
}

static unsigned long long sum(const struct workload_counts *counts, enum chaos_type type)
{
    unsigned long long total = 0;
    for (int f = 0; f < CHAOS_F_COUNT; f++)
        if (f != CHAOS_STATUS)
            total += atomic_load_explicit(&counts->of[f][type], memory_order_relaxed);
    return total;
}

/* "1 2 - 4": who runs. */
static void running(const struct chaos_cluster *cluster, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (unsigned node = 1; node <= chaos_cluster_count(cluster) && used + 12 < size; node++)
        used +=
            (size_t)(chaos_cluster_is_running(cluster, node) ? snprintf(text + used, size - used, " %u", node)
                                                             : snprintf(text + used, size - used, " -"));
}

void run_progress_tick(struct run_progress *progress, const char *phase)
{
    uint64_t now = dn_monotonic_ns();
    char nodes[64];
    if (now - progress->drawn_ns < (progress->terminal ? DRAW_EVERY_NS : LINE_EVERY_NS))
        return;
    running(progress->cluster, nodes, sizeof nodes);
    unsigned long long operations = progress->counts ? sum(progress->counts, CHAOS_INVOKE) : 0;
    double seconds = (double)(now - progress->drawn_ns) / 1e9;
    fprintf(stderr, "%s%4.0f s  %-22s nodes%s   %llu operations (%.0f/s), %llu failed, %llu unknown%s",
            progress->terminal ? CLEAR_LINE : "", (double)(now - progress->began_ns) / 1e9, phase, nodes,
            operations,
            progress->drawn_ns ? (double)(operations - progress->drawn_operations) / seconds : 0.0,
            progress->counts ? sum(progress->counts, CHAOS_FAIL) : 0,
            progress->counts ? sum(progress->counts, CHAOS_INFO) : 0, progress->terminal ? "" : "\n");
    fflush(stderr);
    progress->drawn_ns = now;
    progress->drawn_operations = operations;
}

void run_progress_say(struct run_progress *progress, const char *format, ...)
{
    va_list args;
    if (progress->terminal)
        fputs(CLEAR_LINE, stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}
