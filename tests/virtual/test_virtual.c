/* Runs lives of clusters in virtual time: test_virtual [--lives N] [--seed S] [--trace] [--twice] [--scenario
 * NAME]. Life i has seed S + i. A life that fails prints its seed and the command that repeats it, step by
 * step. DUNLIN_VIRTUAL_LIVES and DUNLIN_VIRTUAL_SEED are the defaults. --twice: each life a second time,
 * whose trace must be the same. */
#include "tests/virtual/cluster.h"
#include "tests/virtual/life.h"
#include "tests/virtual/scenario.h"
#include "tests/virtual/sim.h"
#include "tests/virtual/workload.h"

#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LIVES_DEFAULT 300
#define SEED_DEFAULT 1
#define PROGRESS_LIVES 1000

static char repeat[128]; /* what to say when a life ends the program */

static void on_crash(int signal_number)
{
    ssize_t written = write(STDERR_FILENO, repeat, strlen(repeat));
    (void)written;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static uint64_t number_of(const char *text, const char *what)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (*text == 0 || *end != 0) {
        fprintf(stderr, "%s: '%s' is no number\n", what, text);
        exit(2);
    }
    return value;
}

static uint64_t default_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL ? otherwise : number_of(text, name);
}

static void line(const char *text, uint64_t count)
{
    printf("  %12" PRIu64 "  %s\n", count, text);
}

static void print_counts(void)
{
#define X(name, text) line(text, sim_counts.name);
    SIM_COUNTS(X)
#undef X
    printf("the nemesis did\n");
#define X(name, text) line(text, life_faults[LIFE_##name]);
    LIFE_FAULTS(X)
#undef X
    printf("the clusters did\n");
    line("elections won", cluster_counts.elections);
    line("records applied", cluster_counts.applied);
    line("loop turns that ended in the middle of an entry", cluster_counts.slices_cut);
    line("snapshots begun", cluster_counts.snapshots_taken);
    line("snapshots of a leader installed", cluster_counts.snapshots_installed);
    line("processes that gave up, on a failing disk", cluster_counts.given_up);
    line("starts refused, on a failing disk", cluster_counts.refused_start);
    line("stops in good order", cluster_counts.graceful_stops);
    printf("the clients saw\n");
    line("events published", workload_counts.published);
    line("events acknowledged", workload_counts.acknowledged);
    line("of these duplicates", workload_counts.duplicates);
    line("publishes of unknown outcome", workload_counts.unknown);
    line("publishes refused", workload_counts.refused);
    line("reads", workload_counts.reads);
    line("reads that told their age", workload_counts.ages_known);
    line("reads that failed", workload_counts.reads_failed);
    line("stream batches", workload_counts.batches);
    line("batches refused after a gap", workload_counts.gaps);
    printf("the checkers judged\n");
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        line(chaos_rule_name((enum chaos_rule)rule), life_judged[rule]);
    }
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    uint64_t lives = default_of("DUNLIN_VIRTUAL_LIVES", LIVES_DEFAULT);
    uint64_t seed = default_of("DUNLIN_VIRTUAL_SEED", SEED_DEFAULT);
    bool twice = false;
    const char *scenario = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--lives") == 0 && i + 1 < argc) {
            lives = number_of(argv[++i], "--lives");
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = number_of(argv[++i], "--seed");
        } else if (strcmp(argv[i], "--trace") == 0) {
            sim_tracing = true;
        } else if (strcmp(argv[i], "--scenario") == 0 && i + 1 < argc) {
            scenario = argv[++i];
        } else if (strcmp(argv[i], "--twice") == 0) {
            twice = true;
        } else {
            fprintf(stderr, "usage: %s [--lives N] [--seed S] [--trace] [--twice] [--scenario NAME]\n",
                    argv[0]);
            return 2;
        }
    }
    mallopt(M_MMAP_THRESHOLD, 64 << 20); /* what a life gives back, the next one takes */
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    signal(SIGABRT, on_crash);
    signal(SIGSEGV, on_crash);
    if (scenario != NULL) {
        snprintf(repeat, sizeof repeat, "FAILED: to repeat: test_virtual --scenario %s --trace\n", scenario);
        return scenario_run(scenario, seed, lives) ? 0 : 2;
    }
    double from = seconds();
    for (uint64_t i = 0; i < lives; i++) {
        snprintf(repeat, sizeof repeat,
                 "FAILED: to repeat: test_virtual --lives 1 --seed %" PRIu64 " --trace\n", seed + i);
        uint64_t hash = life_run(seed + i);
        if ((i + 1) % PROGRESS_LIVES == 0) {
            printf("%" PRIu64 " lives\n", i + 1);
            fflush(stdout);
        }
        if (twice && life_run(seed + i) != hash) {
            fprintf(stderr, "life %" PRIu64 " took another course the second time\n", seed + i);
            return 1;
        }
    }
    double took = seconds() - from;
    printf("%" PRIu64 " lives of seeds %" PRIu64 "..%" PRIu64
           " in %.1f s: %.0f a minute; recovery %.0f ms on average, "
           "%" PRIu64 " at most\n",
           lives, seed, seed + lives - 1, took, (double)lives * 60 / took,
           (double)life_recovery_ms_sum / (double)sim_counts.lives, life_recovery_ms_max);
    print_counts();
    return 0;
}
