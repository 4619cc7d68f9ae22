/* bench_recommend [--world NAME] [--items N] [--sessions N] [--shards N] [--requests N]: what a
 * recommendation costs beside so much state, as one JSON object.
 *
 * Clicks of a made-up world (clicks.h) are applied to shards, a hundred a record, all items being in the
 * catalogue; the blend learns a little, so that no weight is 0; then people of the newest clicks are
 * recommended to, each with their own session, one after the other on this thread: session, candidates of all
 * sources but vectors, blend, best 20. No network, no protobuf. CPU time of the thread, so that other work on
 * the machine counts only by the caches it takes. */
#include "base/clock.h"
#include "recommend/learn.h"
#include "recommend/recommend.h"
#include "session/record.h"
#include "tests/bench/clicks.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RECORD_EVENTS 100u
#define RECORD_ITEMS 500u
#define SHARDS_MAX 16u
#define REQUESTS_MAX 1000000u
#define LEARN_STEPS 2000u
#define K 20
#define USERS_MAX 16000000 /* of a shard */
#define ARENA_BLOCK_BYTES ((size_t)256 << 10)
#define ARENA_BYTES_MAX ((size_t)64 << 20)
#define PROGRESS_EVERY 1000000u

struct lane { /* a shard and the record that is being filled for it */
    struct dn_shard *shard;
    uint64_t index;
    struct dn_event_in events[RECORD_EVENTS];
    char names[RECORD_EVENTS][CLICKS_ID_BYTES];
    size_t count;
};

struct bench {
    struct clicks_options world;
    uint64_t shards, requests;
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_catalog *catalog;
    struct dn_retrieval *retrieval;
    struct dn_arena *arena;
    struct dn_buffer record, result;
    struct lane lanes[SHARDS_MAX];
    const struct dn_shard *hosted[SHARDS_MAX];
    struct dn_recommend_world pipeline;
    struct dn_recommend_settings settings;
    struct dn_model model;
    uint64_t events, apply_ns;
    uint64_t *askers; /* a ring of the users of the newest clicks */
    size_t asker_count, asker_next;
    int64_t now_ms;
};

static void die(const char *what)
{
    fprintf(stderr, "bench_recommend: %s\n", what);
    exit(1);
}

static void *must(void *memory)
{
    if (memory == NULL)
        die("out of memory");
    return memory;
}

static void check(enum dn_code code, const struct dn_error *err)
{
    if (code != DN_OK)
        die(err->message);
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

static struct lane *lane_of(struct bench *bench, uint64_t user)
{
    return &bench->lanes[(user_of(user).low >> 40) % bench->shards];
}

/* ---- the state --------------------------------------------------------------------------------------- */

static void apply(struct bench *bench, struct lane *lane)
{
    if (bench->record.failed)
        die("out of memory for a record");
    dn_buffer_clear(&bench->result);
    uint64_t start_ns = cpu_ns();
    dn_shard_apply(lane->shard, lane->index, 0, bench->now_ms, bench->record.bytes, bench->record.length,
                   &bench->result);
    dn_shard_entry_done(lane->shard, lane->index++, bench->now_ms);
    bench->apply_ns += cpu_ns() - start_ns;
    if (bench->result.bytes[0] != DN_RESULT_OK)
        die("a record was refused");
}

static void flush(struct bench *bench, struct lane *lane)
{
    if (lane->count == 0)
        return;
    dn_buffer_clear(&bench->record);
    dn_record_events(&bench->record, lane->events, lane->count);
    apply(bench, lane);
    lane->count = 0;
}

static void take(struct bench *bench, const struct clicks_click *click)
{
    struct lane *lane = lane_of(bench, click->user);
    char *name = lane->names[lane->count];

    bench->now_ms = click->time_ms;
    lane->events[lane->count++] = (struct dn_event_in){
        .user = user_of(click->user),
        .event_id = ++bench->events,
        .time_ms = click->time_ms,
        .weight = DN_WEIGHT_ONE,
        .type = DN_EVENT_CLICK,
        .item = name,
        .item_length = (uint16_t)clicks_item_name(click->item, name),
    };
    bench->askers[bench->asker_next] = click->user;
    bench->asker_next = (bench->asker_next + 1) % bench->requests;
    bench->asker_count += bench->asker_count < bench->requests;
    if (lane->count == RECORD_EVENTS)
        flush(bench, lane);
    if (bench->events % PROGRESS_EVERY == 0)
        fprintf(stderr, "\r  %" PRIu64 " million events, %.0f ns each", bench->events / 1000000,
                (double)bench->apply_ns / (double)bench->events);
}

static void fill(struct bench *bench)
{
    struct clicks *clicks = must(clicks_open(&bench->world));
    struct clicks_click click;

    while (clicks_next(clicks, &click))
        take(bench, &click);
    clicks_close(clicks);
    for (size_t s = 0; s < bench->shards; s++)
        flush(bench, &bench->lanes[s]);
    fprintf(stderr, "\n");
}

static void fill_catalog(struct bench *bench)
{
    static struct dn_item items[RECORD_ITEMS];
    static char names[RECORD_ITEMS][CLICKS_ID_BYTES];
    uint64_t index = 0;

    for (uint32_t from = 0; from < bench->world.items; from += RECORD_ITEMS) {
        size_t count = 0;
        while (count < RECORD_ITEMS && from + count < bench->world.items) {
            size_t length = clicks_item_name(from + (uint32_t)count, names[count]);
            items[count] = (struct dn_item){.id = names[count],
                                            .id_length = (uint16_t)length,
                                            .category = "",
                                            .price = NAN,
                                            .available = true};
            count++;
        }
        dn_buffer_clear(&bench->record);
        dn_buffer_clear(&bench->result);
        dn_catalog_record_upsert(&bench->record, items, count);
        if (bench->record.failed)
            die("out of memory for a record of items");
        dn_catalog_apply(bench->catalog, ++index, 0, 1, bench->record.bytes, bench->record.length,
                         &bench->result);
        dn_catalog_entry_done(bench->catalog, index, 1);
    }
    if (dn_catalog_item_count(bench->catalog) != bench->world.items)
        die("the catalogue does not have all items");
}

static void open_state(struct bench *bench)
{
    struct dn_shard_settings settings;
    struct dn_error err = {.code = DN_OK};

    bench->epoch = must(dn_epoch_create());
    bench->reader = must(dn_epoch_register(bench->epoch));
    bench->arena = must(dn_arena_create(ARENA_BLOCK_BYTES, ARENA_BYTES_MAX));
    bench->catalog = must(dn_catalog_create(bench->epoch, bench->world.items + 1));
    bench->askers = must(calloc(bench->requests, sizeof *bench->askers));
    check(dn_retrieval_create(bench->catalog, bench->epoch, &(struct dn_retrieval_options){.factory = "Flat"},
                              &bench->retrieval, &err),
          &err);
    dn_shard_settings_default(&settings);
    settings.users_max = USERS_MAX;
    bench->now_ms = CLICKS_START_MS;
    for (size_t s = 0; s < bench->shards; s++) {
        bench->lanes[s].shard = must(dn_shard_create(bench->epoch));
        bench->lanes[s].index = 1;
        bench->hosted[s] = bench->lanes[s].shard;
        dn_buffer_clear(&bench->record);
        dn_record_settings(&bench->record, &settings);
        apply(bench, &bench->lanes[s]);
    }
    bench->apply_ns = 0;
    dn_recommend_settings_default(&bench->settings);
    dn_model_default(&bench->model);
    bench->pipeline = (struct dn_recommend_world){.catalog = bench->catalog,
                                                  .retrieval = bench->retrieval,
                                                  .shards = bench->hosted,
                                                  .shard_count = bench->shards,
                                                  .model = &bench->model};
}

static void close_state(struct bench *bench)
{
    dn_retrieval_destroy(bench->retrieval);
    for (size_t s = 0; s < bench->shards; s++)
        dn_shard_destroy(bench->lanes[s].shard);
    dn_catalog_destroy(bench->catalog);
    dn_epoch_unregister(bench->reader);
    dn_epoch_destroy(bench->epoch);
    dn_arena_destroy(bench->arena);
    dn_buffer_free(&bench->record);
    dn_buffer_free(&bench->result);
    free(bench->askers);
}

/* ---- requests ---------------------------------------------------------------------------------------- */

static void learn(struct bench *bench)
{
    struct dn_learner *learner = must(dn_learner_create(&bench->model));
    struct dn_error err = {.code = DN_OK};
    struct dn_session_view session;
    struct dn_learned learned;

    for (size_t i = 0; i < LEARN_STEPS && i < bench->asker_count; i++) {
        uint64_t user = bench->askers[i];
        dn_arena_reset(bench->arena);
        dn_epoch_enter(bench->reader);
        check(dn_shard_read(lane_of(bench, user)->shard, user_of(user), bench->arena, &session), &err);
        check(dn_learner_step(learner, &bench->pipeline, &bench->settings, user_of(user), &session,
                              bench->arena, &learned, &err),
              &err);
        dn_epoch_leave(bench->reader);
        dn_learner_model(learner, &bench->model);
    }
    dn_learner_destroy(learner);
}

/* Nanoseconds of CPU of one whole request. */
static uint64_t ask(struct bench *bench, uint64_t user, size_t *ret_events)
{
    struct dn_error err = {.code = DN_OK};
    struct dn_session_view session;
    struct dn_recommended *items;
    size_t count;

    uint64_t start_ns = cpu_ns();
    dn_arena_reset(bench->arena);
    dn_epoch_enter(bench->reader);
    check(dn_shard_read(lane_of(bench, user)->shard, user_of(user), bench->arena, &session), &err);
    struct dn_recommend_query query = {
        .session = &session, .user = user_of(user), .k = K, .include_seen = true};
    check(dn_recommend(&bench->pipeline, &bench->settings, &query, bench->arena, &items, &count, &err), &err);
    dn_epoch_leave(bench->reader);
    uint64_t took_ns = cpu_ns() - start_ns;
    if (count != K)
        die("an answer is not full");
    *ret_events += session.event_count;
    return took_ns;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void ask_all(struct bench *bench)
{
    static const size_t SHARES[] = {500, 900, 990, 999}; /* of a thousand */
    static const char *const SHARE_NAMES[] = {"p50", "p90", "p99", "p999"};
    size_t count = bench->asker_count, events = 0;
    uint64_t *took_ns = must(calloc(count, sizeof *took_ns));
    double sum_us = 0;

    learn(bench);
    for (size_t i = 0; i < count; i++) {
        took_ns[i] = ask(bench, bench->askers[i], &events);
        sum_us += (double)took_ns[i] / 1e3;
    }
    qsort(took_ns, count, sizeof *took_ns, by_value);
    printf(", \"requests\": %zu, \"session_events\": %.1f, \"request_us\": {\"mean\": %.1f", count,
           (double)events / (double)count, sum_us / (double)count);
    for (size_t i = 0; i < sizeof SHARES / sizeof SHARES[0]; i++) {
        size_t at = count * SHARES[i] / 1000;
        printf(", \"%s\": %.1f", SHARE_NAMES[i], (double)took_ns[at] / 1e3);
    }
    printf("}");
    free(took_ns);
}

/* ---- all of it --------------------------------------------------------------------------------------- */

static void tell_state(const struct bench *bench)
{
    struct dn_shard_stats sum = {0};

    for (size_t s = 0; s < bench->shards; s++) {
        struct dn_shard_stats one;
        dn_shard_stats(bench->hosted[s], &one);
        sum.users += one.users;
        sum.memory_bytes += one.memory_bytes;
        sum.near_bytes += one.near_bytes;
        sum.near_pairs += one.near_pairs;
    }
    printf("{\"world\": \"%s\", \"items\": %u, \"sessions\": %" PRIu64 ", \"users\": %" PRIu64
           ", \"events\": %" PRIu64 ", \"shards\": %" PRIu64 ", \"apply_ns\": %.0f",
           clicks_world_name(bench->world.world), bench->world.items, bench->world.sessions, sum.users,
           bench->events, bench->shards, (double)bench->apply_ns / (double)bench->events);
    printf(", \"memory_bytes\": %" PRIu64 ", \"near_bytes\": %" PRIu64 ", \"near_pairs\": %" PRIu64
           ", \"near_bytes_an_event\": %.2f",
           sum.memory_bytes, sum.near_bytes, sum.near_pairs, (double)sum.near_bytes / (double)bench->events);
}

static uint64_t number(const char *text, uint64_t max)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);

    if (*text < '0' || *text > '9' || *end != '\0' || value < 1 || value > max)
        die("an option's number is out of its range");
    return value;
}

static enum clicks_world world_of(const char *name)
{
    unsigned world = 0;

    while (clicks_world_name(world) != NULL && strcmp(clicks_world_name(world), name) != 0)
        world++;
    if (clicks_world_name(world) == NULL)
        die("no such world");
    return (enum clicks_world)world;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.shards = 4, .requests = 20000};

    clicks_options_default(CLICKS_MARKET, &bench.world);
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--world") == 0)
            clicks_options_default(world_of(argv[i + 1]), &bench.world);
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--world") == 0)
            continue;
        if (strcmp(argv[i], "--items") == 0)
            bench.world.items = (uint32_t)number(value, CLICKS_ITEMS_MAX);
        else if (strcmp(argv[i], "--sessions") == 0)
            bench.world.sessions = number(value, CLICKS_SESSIONS_MAX);
        else if (strcmp(argv[i], "--shards") == 0)
            bench.shards = number(value, SHARDS_MAX);
        else if (strcmp(argv[i], "--requests") == 0)
            bench.requests = number(value, REQUESTS_MAX);
        else
            die("unknown option; see the head of tests/bench/bench_recommend.c");
    }
    bench.world.bound_from = 1;
    dn_buffer_init(&bench.record, 4u << 20);
    dn_buffer_init(&bench.result, 1u << 20);
    open_state(&bench);
    fill_catalog(&bench);
    fill(&bench);
    tell_state(&bench);
    ask_all(&bench);
    printf("}\n");
    close_state(&bench);
    return 0;
}
