/* Commits: three nodes in one process on loopback, real disks, writers that each keep one record under way.
 *
 *   bench_commit [--dir DIR] [--writers N] [--groups N] [--bytes N] [--seconds S] [--restart 1] [--single 1]
 *
 * Writers are spread over the groups and propose at the group's leader. Prints one line of JSON: commits a
 * second, latency from proposal to applied, writes and flushes of the disk that holds DIR (from
 * /proc/diskstats: of the whole machine, so run it alone), processor time, and peak memory of the process: in
 * all, and when it had done 10,000 and 100,000 commits (0: it had not).
 * `scripts/bench.sh --commit` runs it beside the build of an older commit.
 *
 * With --single every record is an entry of its own.
 * With --restart no snapshot is taken; then all nodes stop and start again on the same log, and a second line
 * says how many entries that was, how long until every node had applied all of it, and how often a group
 * changed its leader meanwhile (0 beyond the first: nobody was deposed for being busy). */
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "consensus/consensus.h"

#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NODES 3
#define WRITERS_MAX 1024
#define GROUPS_MAX 16

struct writer {
    struct dn_proposal proposal;
    struct dn_consensus *node;
    uint64_t started_us;
    uint8_t *record;
};

static struct dn_histogram *latency;
static atomic_bool stopping;
static _Atomic uint64_t commits, failures, under_way, leaders;
static size_t record_bytes = 256;
static unsigned entry_max_bytes; /* 0: the default */

static void die(const char *what, const struct dn_error *err)
{
    fprintf(stderr, "bench_commit: %s: %s\n", what, err ? err->message : strerror(errno));
    exit(1);
}

/* ---- a state machine that counts ---------------------------------------------------------------------- */

static void fsm_apply(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                      struct dn_buffer *result)
{
    (void)at, (void)record, (void)result;
    *(uint64_t *)state += length;
}

static void fsm_entry_done(void *state, const struct dn_apply *at)
{
    (void)state, (void)at;
}

static uint64_t fsm_hash(void *state)
{
    return *(uint64_t *)state;
}

static void *fsm_snapshot_begin(void *state)
{
    return state;
}

#if __has_include("base/stream.h")
#include "base/stream.h"
static enum dn_code fsm_snapshot_write(void *state, void *capture, struct dn_sink *out, struct dn_error *err)
{
    (void)state, (void)err;
    return dn_sink_write(out, capture, 8);
}

static enum dn_code fsm_restore_build(void *state, struct dn_source *in, void **ret_built,
                                      struct dn_error *err)
{
    (void)state, (void)err;
    *ret_built = calloc(1, 8);
    return dn_source_read(in, *ret_built, 8);
}
#else
static enum dn_code fsm_snapshot_write(void *state, void *capture, struct dn_buffer *out,
                                       struct dn_error *err)
{
    (void)state, (void)err;
    dn_buffer_append(out, capture, 8);
    return DN_OK;
}

static enum dn_code fsm_restore_build(void *state, const uint8_t *bytes, size_t length, void **ret_built,
                                      struct dn_error *err)
{
    (void)state, (void)err;
    *ret_built = calloc(1, 8);
    memcpy(*ret_built, bytes, length < 8 ? length : 8);
    return DN_OK;
}
#endif

static void fsm_snapshot_end(void *state, void *capture)
{
    (void)state, (void)capture;
}

static void fsm_restore_install(void *state, void *built)
{
    memcpy(state, built, 8);
    free(built);
}

static void fsm_restore_discard(void *state, void *built)
{
    (void)state;
    free(built);
}

/* ---- writers ------------------------------------------------------------------------------------------ */

static void propose(struct writer *writer)
{
    writer->started_us = dn_monotonic_us();
    writer->proposal.deadline_us = writer->started_us + 5000000;
    atomic_fetch_add(&under_way, 1);
    if (!dn_consensus_propose(writer->node, &writer->proposal)) {
        atomic_fetch_sub(&under_way, 1);
        atomic_fetch_add(&failures, 1);
    }
}

static void proposed(struct dn_proposal *proposal, enum dn_code code, uint64_t index, const uint8_t *result,
                     size_t length, const struct dn_error *err)
{
    struct writer *writer = proposal->data;
    (void)index, (void)result, (void)length, (void)err;
    if (code == DN_OK) {
        dn_histogram_observe_ns(latency, (dn_monotonic_us() - writer->started_us) * 1000);
        atomic_fetch_add(&commits, 1);
    } else {
        atomic_fetch_add(&failures, 1);
    }
    atomic_fetch_sub(&under_way, 1);
    if (!atomic_load(&stopping))
        propose(writer);
}

/* ---- the cluster -------------------------------------------------------------------------------------- */

static uint16_t free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        die("find a free port", NULL);
    close(fd);
    return ntohs(address.sin_port);
}

static int remove_one(const char *path, const struct stat *about, int flag, struct FTW *ftw)
{
    (void)about, (void)flag, (void)ftw;
    return remove(path);
}

struct disk_counts {
    uint64_t writes, flushes;
};

/* Writes and flushes completed by the device of `dir` (or its whole disk), since boot. */
static struct disk_counts disk_counts(const char *dir)
{
    struct disk_counts counts = {0};
    struct stat about;
    char line[512], name[64];
    FILE *file = fopen("/proc/diskstats", "re");
    if (!file || stat(dir, &about) != 0) {
        if (file)
            fclose(file);
        return counts;
    }
    while (fgets(line, sizeof line, file)) {
        unsigned device_major, device_minor;
        unsigned long long f[17] = {0};
        int n = sscanf(
            line,
            "%u %u %63s %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu",
            &device_major, &device_minor, name, &f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6], &f[7], &f[8],
            &f[9], &f[10], &f[11], &f[12], &f[13], &f[14], &f[15], &f[16]);
        if (n >= 8 && device_major == major(about.st_dev) && device_minor == minor(about.st_dev))
            counts = (struct disk_counts){f[4], f[15]};
    }
    fclose(file);
    return counts;
}

static double processor_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static struct dn_consensus *leader_of(struct dn_consensus **nodes, uint32_t group)
{
    for (unsigned tries = 0; tries < 10000; tries++) {
        for (unsigned i = 0; i < NODES; i++) {
            struct dn_group_status status;
            dn_consensus_status(nodes[i], group, &status);
            if (status.is_leader)
                return nodes[i];
        }
        usleep(2000);
    }
    fprintf(stderr, "bench_commit: no leader in 20 s\n");
    exit(1);
}

static void on_leader(void *data, uint32_t group, bool leader, uint64_t term)
{
    (void)data, (void)group, (void)term;
    if (leader)
        atomic_fetch_add(&leaders, 1);
}

static uint64_t states[NODES][GROUPS_MAX];
static struct dn_fsm fsms[NODES][GROUPS_MAX];
static struct dn_member members[NODES];

static void start_nodes(struct dn_consensus **nodes, const char *dir, unsigned groups, bool keep_log)
{
    struct dn_error err = {0};
    for (unsigned i = 0; i < NODES; i++) {
        char data_dir[330];
        snprintf(data_dir, sizeof data_dir, "%s/%u", dir, i);
        if (mkdir(data_dir, 0700) != 0 && errno != EEXIST)
            die("make a folder", NULL);
        for (unsigned g = 0; g < groups; g++)
            fsms[i][g] = (struct dn_fsm){.state = &states[i][g],
                                         .apply = fsm_apply,
                                         .entry_done = fsm_entry_done,
                                         .hash = fsm_hash,
                                         .snapshot_begin = fsm_snapshot_begin,
                                         .snapshot_write = fsm_snapshot_write,
                                         .snapshot_end = fsm_snapshot_end,
                                         .restore_build = fsm_restore_build,
                                         .restore_install = fsm_restore_install,
                                         .restore_discard = fsm_restore_discard};
        struct dn_consensus_options options = {.data_dir = data_dir,
                                               .entry_max_bytes = entry_max_bytes,
                                               .cluster_id = "bench",
                                               .node_id = i + 1,
                                               .members = members,
                                               .member_count = NODES,
                                               .group_count = groups,
                                               .fsms = fsms[i],
                                               .on_leader = on_leader};
        if (keep_log) {
            options.snapshot_log_bytes = UINT64_C(1) << 60;
#if __has_include("journal/journal.h")
            options.journal_held_bytes = UINT64_C(1) << 60;
#endif
        }
        if (dn_consensus_start(&options, &nodes[i], &err) != DN_OK)
            die("start a node", &err);
    }
}

static void stop_nodes(struct dn_consensus **nodes)
{
    for (unsigned i = 0; i < NODES; i++) {
        dn_consensus_stop(nodes[i], 0);
        dn_consensus_destroy(nodes[i]);
    }
}

/* All at once, as after a power cut of the rack. */
static void restart(struct dn_consensus **nodes, const char *dir, unsigned groups)
{
    uint64_t last[GROUPS_MAX] = {0}, entries = 0;
    struct dn_group_status status;
    for (unsigned g = 0; g < groups; g++) {
        for (unsigned i = 0; i < NODES; i++) {
            dn_consensus_status(nodes[i], g, &status);
            last[g] = status.commit_index > last[g] ? status.commit_index : last[g];
        }
        entries += last[g];
    }
    stop_nodes(nodes);
    memset(states, 0, sizeof states);
    atomic_store(&leaders, 0);
    uint64_t start = dn_monotonic_us();
    start_nodes(nodes, dir, groups, true);
    double loaded = (double)(dn_monotonic_us() - start) / 1e6;
    for (unsigned g = 0; g < groups; g++)
        for (unsigned i = 0; i < NODES; i++)
            while (dn_consensus_applied(nodes[i], g) < last[g])
                usleep(1000);
    double applied = (double)(dn_monotonic_us() - start) / 1e6;
    while (atomic_load(&leaders) < groups)
        usleep(1000);
    sleep(2); /* a leader that is deposed for having been busy is so soon */
    printf("{\"entries\": %llu, \"loaded_s\": %.2f, \"applied_s\": %.2f, \"leaders\": %llu, \"groups\": %u, "
           "\"peak_mib\": %.1f}\n",
           (unsigned long long)entries, loaded, applied, (unsigned long long)atomic_load(&leaders), groups,
           peak_mib());
}

static unsigned number(const char *text, unsigned max)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end || value == 0 || value > max) {
        fprintf(stderr, "bench_commit: '%s' must be a number from 1 to %u\n", text, max);
        exit(2);
    }
    return (unsigned)value;
}

int main(int argc, char **argv)
{
    const char *parent = "/var/tmp";
    unsigned writers = 8, groups = 4, seconds = 5, again = 0;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--dir") == 0)
            parent = value;
        else if (strcmp(argv[i], "--writers") == 0)
            writers = number(value, WRITERS_MAX);
        else if (strcmp(argv[i], "--groups") == 0)
            groups = number(value, GROUPS_MAX);
        else if (strcmp(argv[i], "--bytes") == 0)
            record_bytes = number(value, 1 << 20);
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = number(value, 3600);
        else if (strcmp(argv[i], "--restart") == 0)
            again = number(value, 1);
        else if (strcmp(argv[i], "--single") == 0)
            entry_max_bytes = number(value, 1);
        else {
            fprintf(stderr,
                    "usage: bench_commit [--dir DIR] [--writers N] [--groups N] [--bytes N] [--seconds S] "
                    "[--restart 1] [--single 1]\n");
            return strcmp(argv[i], "--help") == 0 ? 0 : 2;
        }
    }
    struct dn_consensus *nodes[NODES] = {0};
    char dir[300], addresses[NODES][32];
    dn_log_set_level(DN_LOG_WARN);
    snprintf(dir, sizeof dir, "%.200s/dunlin-bench.XXXXXX", parent);
    if (!mkdtemp(dir))
        die("make a folder", NULL);
    for (unsigned i = 0; i < NODES; i++) {
        snprintf(addresses[i], sizeof addresses[i], "127.0.0.1:%u", free_port());
        members[i] = (struct dn_member){i + 1, addresses[i]};
    }
    start_nodes(nodes, dir, groups, again == 1);
    latency = dn_histogram_create();
    static struct writer all[WRITERS_MAX];
    for (unsigned w = 0; w < writers; w++) {
        all[w].record = calloc(1, record_bytes);
        memset(all[w].record, (int)w, record_bytes);
        all[w].node = leader_of(nodes, w % groups);
        all[w].proposal = (struct dn_proposal){.group = w % groups,
                                               .record = all[w].record,
                                               .length = record_bytes,
                                               .done = proposed,
                                               .data = &all[w]};
    }
    struct disk_counts before = disk_counts(dir);
    double cpu = processor_s();
    uint64_t start = dn_monotonic_us();
    for (unsigned w = 0; w < writers; w++)
        propose(&all[w]);
    /* The log is kept in memory until a snapshot: memory says something only for the same number of commits.
     */
    double at_10k = 0, at_100k = 0;
    while (dn_monotonic_us() - start < seconds * 1000000ull) {
        usleep(5000);
        at_10k = at_10k == 0 && atomic_load(&commits) >= 10000 ? peak_mib() : at_10k;
        at_100k = at_100k == 0 && atomic_load(&commits) >= 100000 ? peak_mib() : at_100k;
    }
    atomic_store(&stopping, true);
    double took = (double)(dn_monotonic_us() - start) / 1e6;
    uint64_t done = atomic_load(&commits);
    struct disk_counts after = disk_counts(dir);
    cpu = processor_s() - cpu;
    while (atomic_load(&under_way) > 0)
        usleep(1000);
    printf("{\"writers\": %u, \"groups\": %u, \"bytes\": %zu, \"commits_per_s\": %.0f, \"p50_ms\": %.3f, "
           "\"p99_ms\": %.3f, \"max_ms\": %.3f, \"failures\": %llu, \"disk_writes_per_s\": %.0f, "
           "\"disk_flushes_per_s\": %.0f, \"cpu_us_per_commit\": %.1f, \"mib_at_10k\": %.1f, "
           "\"mib_at_100k\": %.1f, \"peak_mib\": %.1f}\n",
           writers, groups, record_bytes, (double)done / took,
           (double)dn_histogram_quantile_ns(latency, .5) / 1e6,
           (double)dn_histogram_quantile_ns(latency, .99) / 1e6, (double)dn_histogram_max_ns(latency) / 1e6,
           (unsigned long long)atomic_load(&failures), (double)(after.writes - before.writes) / took,
           (double)(after.flushes - before.flushes) / took, done == 0 ? 0 : cpu * 1e6 / (double)done, at_10k,
           at_100k, peak_mib());
    if (again == 1)
        restart(nodes, dir, groups);
    stop_nodes(nodes);
    for (unsigned w = 0; w < writers; w++)
        free(all[w].record);
    dn_histogram_destroy(latency);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}
