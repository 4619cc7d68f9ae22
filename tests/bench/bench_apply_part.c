/* bench_apply_part [--events N] [--cells N] [--batches N]: how long one call of dn_shard_apply_part takes,
 * after which consensus looks at the clock, and how long the whole record: batches of a stream (5,000 events,
 * what a source makes by default), users and items by Zipf's law, the tables of what is near an item full;
 * then one while a capture is open, which copies what it writes first. CPU of this thread, as one JSON
 * object. */
#include "session/record.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define USERS 25000
#define ITEMS 18000
#define CALLS_MAX (1u << 20)
#define BATCH_MS 100

struct bench {
    struct dn_epoch *epoch;
    struct dn_shard *shard;
    struct dn_buffer record, result;
    uint64_t random, index;
    int64_t now_ms, offset;
    size_t events;
    double *calls; /* us */
    size_t call_count;
};

struct took {
    double record_us, worst_us;
};

static double cpu_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static double uniform(struct bench *b)
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return (double)(b->random >> 11) * 0x1p-53;
}

static int compare(const void *a_, const void *b_)
{
    double a = *(const double *)a_, b = *(const double *)b_;
    return (a > b) - (a < b);
}

static void make_batch(struct bench *b)
{
    static struct dn_event_in in[DN_EVENTS_PER_RECORD_MAX];
    static char names[DN_EVENTS_PER_RECORD_MAX][16];
    int64_t begin = b->offset;
    for (size_t i = 0; i < b->events; i++) {
        int length = snprintf(names[i], sizeof names[i], "item-%u", (unsigned)pow(ITEMS, uniform(b)));
        uint64_t user = (uint64_t)(uniform(b) * USERS) + 1;
        in[i] = (struct dn_event_in){
            .user = {.high = user * 0x9e3779b97f4a7c15u, .low = user},
            .time_ms = b->now_ms - BATCH_MS + (int64_t)(i * BATCH_MS / b->events),
            .weight = DN_WEIGHT_ONE,
            .type = DN_EVENT_CLICK,
            .offset = b->offset++,
            .item = names[i],
            .item_length = (uint16_t)length,
        };
    }
    dn_buffer_clear(&b->record);
    dn_record_stream(&b->record, "bench", 0, begin == 0 ? DN_OFFSET_UNSET : begin, b->offset, in, b->events,
                     NULL, 0);
}

static struct took apply(struct bench *b)
{
    struct took took = {0};
    double start = cpu_us(), from = start;
    bool done = false;
    dn_buffer_clear(&b->result);
    while (!done) {
        done = dn_shard_apply_part(b->shard, b->index, 0, b->now_ms, b->record.bytes, b->record.length,
                                   &b->result);
        double now = cpu_us();
        took.worst_us = now - from > took.worst_us ? now - from : took.worst_us;
        if (b->calls != NULL && b->call_count < CALLS_MAX) {
            b->calls[b->call_count++] = now - from;
        }
        from = now;
    }
    took.record_us = from - start;
    dn_shard_entry_done(b->shard, b->index++, b->now_ms);
    b->now_ms += BATCH_MS;
    if (b->result.length == 0 || b->result.bytes[0] != DN_RESULT_OK) {
        fprintf(stderr, "bench_apply_part: the batch was refused\n");
        exit(1);
    }
    return took;
}

static void run(struct bench *b, size_t batches)
{
    double *records = calloc(batches, sizeof *records);
    b->calls = calloc(CALLS_MAX, sizeof *b->calls);
    if (records == NULL || b->calls == NULL) {
        fprintf(stderr, "bench_apply_part: no memory\n");
        exit(1);
    }
    for (size_t i = 0; i < 2 * batches; i++) { /* the first half fills the tables */
        make_batch(b);
        b->call_count = i < batches ? 0 : b->call_count;
        struct took took = apply(b);
        if (i >= batches) {
            records[i - batches] = took.record_us;
        }
    }
    size_t count = b->call_count;
    qsort(records, batches, sizeof *records, compare);
    qsort(b->calls, count, sizeof *b->calls, compare);
    printf("{\"events\": %zu, \"record_us\": {\"p50\": %.0f, \"max\": %.0f}, "
           "\"call_us\": {\"p50\": %.0f, \"p99\": %.0f, \"max\": %.0f}",
           b->events, records[batches / 2], records[batches - 1], b->calls[count / 2],
           b->calls[count * 99 / 100], b->calls[count - 1]);
    void *capture = dn_shard_snapshot_begin(b->shard);
    make_batch(b);
    struct took took = apply(b);
    dn_shard_snapshot_end(b->shard, capture);
    printf(", \"capture_open\": {\"record_us\": %.0f, \"worst_call_us\": %.0f}}\n", took.record_us,
           took.worst_us);
    free(records);
    free(b->calls);
}

int main(int argc, char **argv)
{
    struct bench b = {.random = 88172645463325252u, .index = 1, .now_ms = (int64_t)20000 * 86400000};
    struct dn_shard_settings settings;
    unsigned long events = 5000, batches = 150;
    dn_shard_settings_default(&settings);
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned long value = strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--events") == 0) {
            events = value;
        } else if (strcmp(argv[i], "--cells") == 0) {
            settings.near_cells = (uint32_t)value;
        } else if (strcmp(argv[i], "--batches") == 0) {
            batches = value;
        } else {
            events = 0;
        }
    }
    if (argc % 2 == 0 || events == 0 || events > DN_EVENTS_PER_RECORD_MAX || batches == 0) {
        fprintf(stderr, "usage: bench_apply_part [--events 1..%d] [--cells N] [--batches N]\n",
                DN_EVENTS_PER_RECORD_MAX);
        return 2;
    }
    b.events = events;
    b.epoch = dn_epoch_create();
    b.shard = b.epoch == NULL ? NULL : dn_shard_create(b.epoch);
    if (b.shard == NULL) {
        fprintf(stderr, "bench_apply_part: no memory\n");
        return 1;
    }
    dn_buffer_init(&b.record, (size_t)4 << 20);
    dn_buffer_init(&b.result, (size_t)1 << 20);
    dn_record_settings(&b.record, &settings);
    (void)apply(&b);
    run(&b, batches);
    dn_shard_destroy(b.shard);
    dn_epoch_destroy(b.epoch);
    dn_buffer_free(&b.record);
    dn_buffer_free(&b.result);
    return 0;
}
