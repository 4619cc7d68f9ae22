/* bench_session [users [events_per_user [items]]]: one shard on one core, printed as one JSON object.
 *
 * Fills the shard with sessions (API events, a thousand a record, users interleaved at random), then applies
 * events to random users, the same from a stream in records of the largest size, takes a snapshot while
 * events go on, restores it, and reads. */
#include "base/clock.h"
#include "session/record.h"
#include "session/session.h"
#include "tests/whole_stream.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH 1000u
#define STREAM_RECORDS 100u

struct bench {
    struct dn_epoch *epoch;
    struct dn_shard *shard;
    struct dn_buffer record, result;
    uint64_t random, users, items, index, next_id;
    int64_t next_offset;
    int64_t now_ms;
    char (*names)[32];
    uint64_t worst_ns; /* the longest record, over the current phase */
};

static uint64_t next_random(struct bench *bench)
{
    uint64_t z = (bench->random += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t cpu_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static struct dn_hash128 user_of(uint64_t n)
{
    return (struct dn_hash128){.high = n * 0x9e3779b97f4a7c15u, .low = (n + 1) * 0xd6e8feb86659fd93u};
}

static double rss_bytes(void)
{
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu %lu", &size, &resident) != 2) {
        resident = 0;
    }
    if (file != NULL) {
        fclose(file);
    }
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static struct dn_event_in event_random(struct bench *bench, uint64_t user)
{
    /* Squaring bends the uniform number towards a few popular items. */
    double u = (double)(next_random(bench) >> 11) / 9007199254740992.0;
    uint64_t item = (uint64_t)(u * u * (double)bench->items);
    const char *name = bench->names[item];
    return (struct dn_event_in){
        .user = user_of(user),
        .event_id = ++bench->next_id,
        .time_ms = bench->now_ms - (int64_t)(next_random(bench) % 1000),
        .weight = DN_WEIGHT_ONE,
        .type = (uint8_t)(1 + next_random(bench) % 4),
        .item = name,
        .item_length = (uint16_t)strlen(name),
    };
}

/* The CPU time of applying bench->record. */
static uint64_t apply(struct bench *bench)
{
    dn_buffer_clear(&bench->result);
    uint64_t start_ns = cpu_ns();
    dn_shard_apply(bench->shard, bench->index, 0, bench->now_ms, bench->record.bytes, bench->record.length,
                   &bench->result);
    dn_shard_entry_done(bench->shard, bench->index++, bench->now_ms);
    uint64_t took_ns = cpu_ns() - start_ns;
    bench->worst_ns = took_ns > bench->worst_ns ? took_ns : bench->worst_ns;
    return took_ns;
}

/* One record of events of these users, at most BATCH; returns the CPU time of applying it. */
static uint64_t batch(struct bench *bench, const uint64_t *users, size_t count)
{
    static struct dn_event_in events[BATCH];
    bench->now_ms += 2;
    for (size_t i = 0; i < count; i++) {
        events[i] = event_random(bench, users[i]);
    }
    dn_buffer_clear(&bench->record);
    dn_record_events(&bench->record, events, count);
    return apply(bench);
}

/* Records of a stream, each of the most events, of random users; every dead_every-th message gives none (0:
 * each gives one), and the letters are written at once. Nanoseconds a message. */
static double stream(struct bench *bench, size_t dead_every)
{
    static struct dn_event_in events[DN_EVENTS_PER_RECORD_MAX];
    static struct dn_dead_in dead[DN_EVENTS_PER_RECORD_MAX];
    uint64_t took_ns = 0, written = 0, letters = 0;
    for (size_t record = 0; record < STREAM_RECORDS; record++) {
        size_t count = 0, marks = 0;
        int64_t begins_at = bench->next_offset;
        bench->next_offset = begins_at < 0 ? 0 : begins_at;
        bench->now_ms += 20;
        for (size_t i = 0; i < DN_EVENTS_PER_RECORD_MAX; i++, bench->next_offset++) {
            if (dead_every > 0 && i % dead_every == 0) {
                dead[marks++] = (struct dn_dead_in){bench->next_offset, DN_DEAD_UNDECODABLE};
            } else {
                events[count] = event_random(bench, next_random(bench) % bench->users);
                events[count++].offset = bench->next_offset;
            }
        }
        dn_buffer_clear(&bench->record);
        dn_record_stream(&bench->record, "clicks", 0, begins_at, bench->next_offset, events, count, dead,
                         marks);
        took_ns += apply(bench);
        if (bench->record.failed || bench->result.bytes[0] != DN_RESULT_OK) {
            abort();
        }
        dn_shard_dead_range(bench->shard, &written, &letters);
        if (letters > written) {
            dn_buffer_clear(&bench->record);
            dn_record_dead_written(&bench->record, letters);
            took_ns += apply(bench);
        }
    }
    return (double)took_ns / ((double)STREAM_RECORDS * DN_EVENTS_PER_RECORD_MAX);
}

static double fill(struct bench *bench, uint64_t per_user)
{
    uint64_t users[BATCH], took_ns = 0, count = 0;
    for (uint64_t round = 0; round < per_user; round++) {
        for (uint64_t at = 0; at < bench->users; at += BATCH) {
            size_t n = 0;
            for (; n < BATCH && at + n < bench->users; n++) {
                /* A permutation of the users: an odd multiplier modulo a power of two would need one. */
                users[n] = (at + n) * 7919 % bench->users;
            }
            took_ns += batch(bench, users, n);
            count += n;
        }
    }
    return (double)took_ns / (double)count;
}

static double steady(struct bench *bench, uint64_t events)
{
    uint64_t users[BATCH], took_ns = 0;
    for (uint64_t at = 0; at < events; at += BATCH) {
        for (size_t i = 0; i < BATCH; i++) {
            users[i] = next_random(bench) % bench->users;
        }
        took_ns += batch(bench, users, BATCH);
    }
    return (double)took_ns / (double)((events + BATCH - 1) / BATCH * BATCH);
}

struct writing {
    struct bench *bench;
    void *capture;
    struct dn_buffer bytes;
    uint64_t took_ns;
    atomic_bool done;
};

static void *write_thread(void *argument)
{
    struct writing *writing = argument;
    uint64_t start_ns = dn_monotonic_ns();
    if (whole_write(dn_shard_snapshot_write, writing->bench->shard, writing->capture, &writing->bytes,
                    NULL) != DN_OK) {
        abort();
    }
    writing->took_ns = dn_monotonic_ns() - start_ns;
    atomic_store(&writing->done, true);
    return NULL;
}

static double read_all(struct bench *bench, uint64_t reads)
{
    struct dn_epoch_reader *reader = dn_epoch_register(bench->epoch);
    struct dn_arena *arena = dn_arena_create(65536, 1u << 20);
    uint64_t start_ns = cpu_ns(), events = 0;
    for (uint64_t i = 0; i < reads; i++) {
        struct dn_session_view view;
        dn_epoch_enter(reader);
        if (dn_shard_read(bench->shard, user_of(next_random(bench) % bench->users), arena, &view) == DN_OK) {
            events += view.event_count;
        }
        dn_epoch_leave(reader);
        dn_arena_reset(arena);
    }
    double per_read_ns = (double)(cpu_ns() - start_ns) / (double)reads;
    dn_epoch_unregister(reader);
    dn_arena_destroy(arena);
    return events > 0 ? per_read_ns : 0;
}

static uint64_t number(int argc, char **argv, int at, uint64_t otherwise)
{
    return argc > at ? strtoull(argv[at], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    struct bench bench = {.random = 1, .index = 1, .now_ms = 1600000000000, .next_offset = DN_OFFSET_UNSET};
    bench.users = number(argc, argv, 1, 1000000);
    uint64_t per_user = number(argc, argv, 2, 5);
    bench.items = number(argc, argv, 3, 100000);
    bench.names = calloc(bench.items, sizeof *bench.names);
    for (uint64_t i = 0; i < bench.items; i++) {
        snprintf(bench.names[i], sizeof bench.names[i], "item-%" PRIu64, i);
    }
    bench.epoch = dn_epoch_create();
    bench.shard = dn_shard_create(bench.epoch);
    dn_buffer_init(&bench.record, 16u << 20);
    dn_buffer_init(&bench.result, 1u << 20);

    struct dn_shard_stats stats;
    double rss_before = rss_bytes();
    double fill_ns = fill(&bench, per_user);
    double rss_per_user = (rss_bytes() - rss_before) / (double)bench.users;
    double fill_worst_ms = (double)bench.worst_ns / 1e6;
    dn_shard_stats(bench.shard, &stats);
    double bytes_per_user = (double)stats.memory_bytes / (double)stats.users;
    printf("{\"users\": %" PRIu64 ", \"events_per_user\": %" PRIu64 ", \"items\": %" PRIu64
           ", \"fill_ns_per_event\": %.0f, \"fill_worst_record_ms\": %.2f, \"bytes_per_session\": %.1f, "
           "\"rss_per_session\": %.1f",
           stats.users, per_user, stats.items, fill_ns, fill_worst_ms, bytes_per_user, rss_per_user);
    fflush(stdout);

    bench.worst_ns = 0;
    double steady_ns = steady(&bench, 1000000);
    dn_shard_stats(bench.shard,
                   &stats); /* what a restore is to be compared with: there are more events now */
    double steady_bytes = (double)stats.memory_bytes / (double)stats.users;
    printf(", \"steady_ns_per_event\": %.0f, \"steady_worst_record_ms\": %.2f, \"steady_bytes_per_session\": "
           "%.1f"
           ", \"read_ns\": %.0f",
           steady_ns, (double)bench.worst_ns / 1e6, steady_bytes, read_all(&bench, 500000));
    fflush(stdout);

    bench.worst_ns = 0;
    double stream_ns = stream(&bench, 0);
    printf(", \"stream_ns_per_event\": %.0f, \"stream_events_per_s\": %.0f, \"stream_worst_record_ms\": %.2f"
           ", \"stream_tenth_dead_ns_per_message\": %.0f, \"stream_all_dead_ns_per_message\": %.0f",
           stream_ns, 1e9 / stream_ns, (double)bench.worst_ns / 1e6, stream(&bench, 10), stream(&bench, 1));
    fflush(stdout);

    struct writing writing = {.bench = &bench};
    dn_buffer_init(&writing.bytes, (size_t)8 << 30);
    uint64_t start_ns = dn_monotonic_ns();
    writing.capture = dn_shard_snapshot_begin(bench.shard);
    double begin_ms = (double)(dn_monotonic_ns() - start_ns) / 1e6;
    pthread_t thread;
    pthread_create(&thread, NULL, write_thread, &writing);
    bench.worst_ns = 0;
    uint64_t during = 0;
    double during_ns = 0;
    while (!atomic_load(&writing.done)) {
        during_ns += steady(&bench, BATCH);
        during++;
    }
    pthread_join(thread, NULL);
    start_ns = dn_monotonic_ns();
    dn_shard_snapshot_end(bench.shard, writing.capture);
    double end_ms = (double)(dn_monotonic_ns() - start_ns) / 1e6;
    printf(", \"snapshot_begin_ms\": %.3f, \"snapshot_write_ms\": %.0f, \"snapshot_end_ms\": %.3f"
           ", \"snapshot_mb\": %.1f, \"during_snapshot_ns_per_event\": %.0f"
           ", \"during_snapshot_worst_record_ms\": %.2f",
           begin_ms, (double)writing.took_ns / 1e6, end_ms, (double)writing.bytes.length / 1e6,
           during > 0 ? during_ns / (double)during : 0, (double)bench.worst_ns / 1e6);
    fflush(stdout);

    void *built = NULL;
    struct dn_error err;
    start_ns = dn_monotonic_ns();
    if (whole_build(dn_shard_restore_build, bench.shard, writing.bytes.bytes, writing.bytes.length, &built,
                    &err) != DN_OK) {
        fprintf(stderr, "bench_session: %s\n", err.message);
        return 1;
    }
    double build_ms = (double)(dn_monotonic_ns() - start_ns) / 1e6;
    start_ns = dn_monotonic_ns();
    dn_shard_restore_install(bench.shard, built);
    double install_ms = (double)(dn_monotonic_ns() - start_ns) / 1e6;
    dn_shard_stats(bench.shard, &stats);
    printf(
        ", \"restore_build_ms\": %.0f, \"restore_install_ms\": %.3f, \"restored_bytes_per_session\": %.1f}\n",
        build_ms, install_ms, (double)stats.memory_bytes / (double)stats.users);

    dn_buffer_free(&writing.bytes);
    dn_shard_destroy(bench.shard);
    dn_epoch_destroy(bench.epoch);
    dn_buffer_free(&bench.record);
    dn_buffer_free(&bench.result);
    free(bench.names);
    return 0;
}
