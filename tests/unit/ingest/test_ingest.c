/* Exactly once, whatever happens: two nodes' ingest threads read the same streams into the same shards (real
 * ones) while leaderships move, answers are lost, proposals are dropped or applied late, and reading starts
 * anywhere. In the end each event is in the state once, each message that gave none is a dead letter once,
 * and the offsets are the streams' ends.
 *
 *   unit_ingest_ingest [SEED]     repeats one seed */
#include "tests/unit/ingest/ingest_rig.h"

#define NODES 2
#define SHARDS 4
#define PARTITIONS_MAX 12
#define MESSAGES_MAX 4000 /* of a partition */
#define USERS 400
#define TEXT_MAX 120
#define SETTLE_MS 60000

static const uint8_t KEY[DN_HASH_KEY_BYTES] = {1, 2, 3};

/* ---- what is in the stream
 * ------------------------------------------------------------------------------------ */

struct told { /* one message */
    int64_t offset;
    int user; /* -1: gives no event */
    char text[TEXT_MAX];
};

struct told_partition {
    struct told *messages;
    size_t count;
    int64_t end; /* with what follows the last message */
};

struct world {
    struct rng rng;
    pthread_mutex_t lock; /* of everything but the streams, which do not change while threads run */
    struct told_partition partitions[PARTITIONS_MAX];
    uint32_t partition_count;
    _Atomic uint32_t shown; /* partitions that the driver tells of */
    uint32_t grew[3];       /* partitions the stream had while it was written; the last is partition_count */
    bool keyed;
    bool misrouted_for_a_while; /* it grew so that it is not keyed any more: what was judged before may be
                                   told */
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_shard *shards[SHARDS];
    uint64_t index[SHARDS];
    int leader[SHARDS]; /* node; -1: nobody */
    bool calm;          /* nothing goes wrong any more */
    struct proposals pending;
    pthread_t consensus;
    atomic_bool stop;
    struct dn_metrics *metrics;
    unsigned lost, late, refused; /* what went wrong */
};

static struct world *world;

static int user_for(struct rng *rng, bool keyed, uint32_t partition, uint32_t count, bool stray)
{
    for (;;) {
        char name[16];
        int user = (int)rng_below(rng, USERS);
        snprintf(name, sizeof name, "user-%d", user);
        /* A stray one is another shard's, not only another partition's. */
        uint32_t hash = dn_murmur2(name, strlen(name));
        if (!keyed || (stray ? hash % SHARDS != partition % SHARDS : hash % count == partition))
            return user;
    }
}

static void tell(struct world *w, uint32_t p, size_t count)
{
    struct told_partition *partition = &w->partitions[p];
    int64_t offset = (int64_t)rng_below(&w->rng, 50), now_ms = dn_wall_ms();

    partition->messages = calloc(count, sizeof *partition->messages);
    for (size_t i = 0; i < count; i++) {
        struct told *told = &partition->messages[i];
        told->offset = offset;
        offset += 1 + (rng_chance(&w->rng, 10) ? (int64_t)rng_below(&w->rng, 20) : 0);
        bool stray = w->keyed && !w->misrouted_for_a_while && rng_chance(&w->rng, 1);
        uint32_t hashed = w->grew[3 * i / count];
        if (p >= hashed)
            hashed = p < w->grew[1] ? w->grew[1] : w->partition_count;
        told->user = user_for(&w->rng, w->keyed, p, hashed, stray);
        if (rng_chance(&w->rng, 2))
            snprintf(told->text, TEXT_MAX, "{\"no\":\"event\"");
        else
            snprintf(told->text, TEXT_MAX,
                     "{\"user_id\":\"user-%d\",\"item_id\":\"i-%u-%lld\",\"time_ms\":%lld}", told->user, p,
                     (long long)told->offset, (long long)now_ms - 5000 + (long long)i / 10);
        if (told->text[2] == 'n' || stray)
            told->user = -1;
    }
    partition->count = count;
    partition->end = offset + (int64_t)rng_below(&w->rng, 3);
}

/* ---- the driver
 * ----------------------------------------------------------------------------------------------- */

struct fake {
    struct rng rng;
    struct {
        bool started, end_told;
        size_t at;
    } partitions[PARTITIONS_MAX];
};

static enum dn_code fake_open(const struct dn_source_config *config, const struct dn_source_host *host,
                              void **ret_self, struct dn_error *err)
{
    struct fake *fake = calloc(1, sizeof *fake);

    (void)config;
    (void)err;
    fake->rng.state = host->node_id;
    *ret_self = fake;
    return DN_OK;
}

static void fake_close(void *self)
{
    free(self);
}

static uint32_t fake_partitions(void)
{
    return atomic_load(&world->shown);
}

static enum dn_code fake_start(void *self, size_t stream, uint32_t p, int64_t offset, struct dn_error *err)
{
    struct fake *fake = self;
    const struct told_partition *partition = &world->partitions[p];

    (void)stream;
    if (rng_chance(&fake->rng, 3))
        return dn_fail(err, DN_UNAVAILABLE, "not now");
    size_t at = 0;
    while (at < partition->count && partition->messages[at].offset < offset)
        at++;
    fake->partitions[p].at = at;
    fake->partitions[p].started = true;
    fake->partitions[p].end_told = false;
    return DN_OK;
}

static void fake_stop(void *self, size_t stream, uint32_t p)
{
    (void)stream;
    ((struct fake *)self)->partitions[p].started = false;
}

static size_t fake_read(void *self, size_t stream, uint32_t p, struct dn_message *ret, size_t max)
{
    struct fake *fake = self;
    const struct told_partition *partition = &world->partitions[p];
    size_t count = 0, wanted = 1 + rng_below(&fake->rng, max < 40 ? max : 40);

    (void)stream;
    assert_true(fake->partitions[p].started);
    for (; count < wanted && fake->partitions[p].at < partition->count; count++) {
        const struct told *told = &partition->messages[fake->partitions[p].at++];
        ret[count] = (struct dn_message){.offset = told->offset,
                                         .next_offset = told->offset + 1,
                                         .time_ms = dn_wall_ms(),
                                         .bytes = (const uint8_t *)told->text,
                                         .length = strlen(told->text)};
    }
    if (count < wanted && !fake->partitions[p].end_told) {
        ret[count++] = (struct dn_message){.end = true, .next_offset = partition->end};
        fake->partitions[p].end_told = true;
    }
    return count;
}

static void fake_status(void *self, size_t stream, uint32_t p, struct dn_partition_status *ret)
{
    struct fake *fake = self;

    (void)stream;
    memset(ret, 0, sizeof *ret);
    ret->state = fake->partitions[p].end_told ? DN_PARTITION_AT_END : DN_PARTITION_READING;
    ret->end_offset = world->partitions[p].end;
    ret->heard_ms = dn_wall_ms();
}

static int64_t fake_contents(void *self, size_t stream)
{
    (void)self;
    (void)stream;
    return 7; /* remembered by each shard, under the same faults */
}

/* ---- consensus
 * ------------------------------------------------------------------------------------------------ */

/* Under the lock. */
static void apply(uint32_t group, const uint8_t *record, size_t length, struct dn_buffer *result)
{
    uint64_t index = ++world->index[group - 1];
    int64_t now_ms = dn_wall_ms();

    dn_buffer_clear(result);
    dn_shard_apply(world->shards[group - 1], index, 0, now_ms, record, length, result);
    dn_shard_entry_done(world->shards[group - 1], index, now_ms);
}

static void one_pending(struct dn_buffer *result)
{
    struct dn_error err = {.code = DN_DEADLINE, .message = "lost"};

    pthread_mutex_lock(&world->lock);
    struct pending one;
    if (!proposals_take(&world->pending, &one)) {
        pthread_mutex_unlock(&world->lock);
        poll(NULL, 0, 1);
        return;
    }
    unsigned fate = world->calm ? 100 : (unsigned)rng_below(&world->rng, 100);
    if (one.proposal != NULL && fate < 2 && world->pending.count < PROPOSALS_MAX) { /* the answer is lost */
        world->pending.list[world->pending.count++] =
            (struct pending){.record = one.record, .length = one.length, .group = one.group};
        world->late++;
        one.record = NULL;
    } else if (one.proposal != NULL && fate < 4) { /* and it is never applied */
        world->lost++;
    } else {
        apply(one.group, one.record, one.length, result);
        err.code = DN_OK;
    }
    pthread_mutex_unlock(&world->lock);
    free(one.record);
    if (one.proposal != NULL)
        one.proposal->done(one.proposal, err.code, 1, result->bytes, err.code == DN_OK ? result->length : 0,
                           &err);
}

static bool is_pending(void)
{
    pthread_mutex_lock(&world->lock);
    bool pending = world->pending.count > 0;
    pthread_mutex_unlock(&world->lock);
    return pending;
}

static void *consensus_run(void *data)
{
    struct dn_buffer result;

    (void)data;
    dn_buffer_init(&result, 4u << 20);
    while (!atomic_load(&world->stop) || is_pending())
        one_pending(&result);
    dn_buffer_free(&result);
    return NULL;
}

static bool target_propose(void *data, struct dn_proposal *proposal)
{
    bool taken = false;

    (void)data;
    pthread_mutex_lock(&world->lock);
    if (world->pending.count + 8 < PROPOSALS_MAX && (world->calm || !rng_chance(&world->rng, 2))) {
        taken = proposals_put(&world->pending, proposal);
    } else {
        world->refused++;
    }
    pthread_mutex_unlock(&world->lock);
    return taken;
}

/* data: the node's number, as a place in this array. */
static char nodes[NODES];

static bool target_leads(void *data, uint32_t group)
{
    pthread_mutex_lock(&world->lock);
    /* Two may think so for a while: whoever was it last does not know yet. */
    bool leads = world->leader[group - 1] == (int)((char *)data - nodes) ||
                 (!world->calm && rng_chance(&world->rng, 5));
    pthread_mutex_unlock(&world->lock);
    return leads;
}

static bool target_next_offset(void *data, uint32_t group, const char *stream, uint32_t partition,
                               int64_t *ret_next_offset)
{
    (void)data;
    pthread_mutex_lock(&world->lock);
    bool known = dn_shard_next_offset(world->shards[group - 1], stream, partition, ret_next_offset);
    pthread_mutex_unlock(&world->lock);
    return known;
}

static int64_t target_stalled(void *data, uint32_t group, char ret_reason[DN_STALL_REASON_MAX + 1])
{
    (void)data;
    pthread_mutex_lock(&world->lock);
    int64_t since_ms = dn_shard_stalled(world->shards[group - 1], ret_reason);
    pthread_mutex_unlock(&world->lock);
    return since_ms;
}

/* ---- the run
 * -------------------------------------------------------------------------------------------------- */

static void make_world(uint64_t seed, bool keyed, const uint32_t grew[3], size_t messages)
{
    struct dn_shard_settings settings;
    struct dn_buffer record, result;

    world = calloc(1, sizeof *world);
    world->rng.state = seed;
    world->keyed = keyed;
    world->partition_count = grew[2];
    memcpy(world->grew, grew, sizeof world->grew);
    for (int i = 0; i < 3; i++)
        world->misrouted_for_a_while |= keyed && grew[i] % SHARDS != 0;
    pthread_mutex_init(&world->lock, NULL);
    world->metrics = dn_metrics_create();
    world->epoch = dn_epoch_create();
    world->reader = dn_epoch_register(world->epoch);
    for (uint32_t p = 0; p < grew[2]; p++)
        tell(world, p, messages / 2 + rng_below(&world->rng, messages / 2));
    atomic_store(&world->shown, grew[0]);
    dn_shard_settings_default(&settings);
    settings.lateness_ms = 86400000;
    settings.events_per_user = 1000;
    settings.gap_ms = 86400000;
    dn_buffer_init(&record, 4096);
    dn_buffer_init(&result, 4096);
    dn_record_settings(&record, &settings);
    for (uint32_t i = 0; i < SHARDS; i++) {
        world->shards[i] = dn_shard_create(world->epoch);
        world->leader[i] = (int)rng_below(&world->rng, NODES);
        apply(i + 1, record.bytes, record.length, &result);
    }
    dn_buffer_free(&record);
    dn_buffer_free(&result);
    assert_int_equal(pthread_create(&world->consensus, NULL, consensus_run, NULL), 0);
}

static void free_world(void)
{
    atomic_store(&world->stop, true);
    pthread_join(world->consensus, NULL);
    for (uint32_t i = 0; i < SHARDS; i++)
        dn_shard_destroy(world->shards[i]);
    dn_epoch_unregister(world->reader);
    dn_epoch_destroy(world->epoch);
    for (uint32_t p = 0; p < world->partition_count; p++)
        free(world->partitions[p].messages);
    dn_metrics_destroy(world->metrics);
    free(world);
}

static void configure(struct dn_source_config *config, bool keyed)
{
    *config = configuration();
    config->keyed = keyed;
    config->batch_events = 37;
    config->inflight_batches = 3;
}

/* Every partition's offset, in the shards that read it, is the stream's end. */
static bool is_done(void)
{
    bool done = true, all = !world->keyed || world->partition_count % SHARDS != 0;
    int64_t next;

    pthread_mutex_lock(&world->lock);
    for (uint32_t group = 1; group <= SHARDS; group++) /* one that reads all binds all others */
        all |= dn_shard_next_offset(world->shards[group - 1], STREAM, UINT32_MAX, &next);
    for (uint32_t p = 0; p < world->partition_count; p++)
        for (uint32_t group = 1; group <= SHARDS; group++) {
            next = -1;
            dn_shard_next_offset(world->shards[group - 1], STREAM, p, &next);
            if (all || group == 1 + p % SHARDS)
                done &= next == world->partitions[p].end;
        }
    pthread_mutex_unlock(&world->lock);
    return done;
}

static void shake(struct dn_ingest *const ingests[NODES])
{
    pthread_mutex_lock(&world->lock);
    uint32_t shard = (uint32_t)rng_below(&world->rng, SHARDS);
    world->leader[shard] = (int)rng_below(&world->rng, NODES + 1) - 1;
    pthread_mutex_unlock(&world->lock);
    for (int i = 0; i < NODES; i++)
        dn_ingest_wake(ingests[i]);
}

static void calm_down(struct dn_ingest *const ingests[NODES])
{
    pthread_mutex_lock(&world->lock);
    world->calm = true;
    for (uint32_t i = 0; i < SHARDS; i++)
        world->leader[i] = (int)(i % NODES);
    pthread_mutex_unlock(&world->lock);
    for (int i = 0; i < NODES; i++)
        dn_ingest_wake(ingests[i]);
}

static void check_user(int user, struct dn_arena *arena)
{
    char name[16];
    size_t wanted = 0, found = 0;
    struct dn_session_view view = {0};

    snprintf(name, sizeof name, "user-%d", user);
    uint32_t group = dn_shard_of_user(name, strlen(name), SHARDS);
    dn_arena_reset(arena);
    dn_epoch_enter(world->reader);
    enum dn_code code =
        dn_shard_read(world->shards[group - 1], dn_keyed_hash128(KEY, name, strlen(name)), arena, &view);
    for (uint32_t p = 0; p < world->partition_count; p++)
        for (size_t i = 0; i < world->partitions[p].count; i++) {
            const struct told *told = &world->partitions[p].messages[i];
            char item[64];
            if (told->user != user)
                continue;
            wanted++;
            int length = snprintf(item, sizeof item, "i-%u-%lld", p, (long long)told->offset);
            for (size_t k = 0; code == DN_OK && k < view.event_count; k++)
                found += view.events[k].item_length == (size_t)length &&
                         memcmp(view.events[k].item, item, (size_t)length) == 0;
        }
    dn_epoch_leave(world->reader);
    CHECK(wanted < 1000, "the test keeps no more events of a user");
    CHECK(found == wanted && view.event_count == wanted,
          "user %d: %zu events were told, %zu found, %zu are there", user, wanted, found, view.event_count);
}

static void check_world(void)
{
    uint64_t wanted_dead = 0, dead = 0, reasons = 0;
    struct dn_arena *arena = dn_arena_create(65536, 16u << 20);

    for (int user = 0; user < USERS; user++)
        check_user(user, arena);
    dn_arena_destroy(arena);
    for (uint32_t p = 0; p < world->partition_count; p++)
        for (size_t i = 0; i < world->partitions[p].count; i++)
            wanted_dead += world->partitions[p].messages[i].user < 0;
    for (uint32_t i = 0; i < SHARDS; i++) {
        uint64_t written, next;
        struct dn_shard_stats stats;
        dn_shard_dead_range(world->shards[i], &written, &next);
        dn_shard_stats(world->shards[i], &stats);
        dead += next;
        for (size_t k = 0; k < sizeof stats.dead / sizeof *stats.dead; k++)
            reasons += stats.dead[k];
    }
    CHECK(dn_counter_value(dn_metrics_counter(world->metrics, "dunlin_source_invalid_total",
                                              "source=\"clicks\"", "")) == 0,
          "the state machine found batches invalid");
    CHECK((dead == wanted_dead || (world->misrouted_for_a_while && dead > wanted_dead)) && reasons == dead,
          "%llu dead letters, not %llu", (unsigned long long)dead, (unsigned long long)wanted_dead);
}

static void one_run(uint64_t seed, bool keyed, const uint32_t grew[3], size_t messages)
{
    struct dn_ingest *ingests[NODES];
    struct dn_source_config config;
    uint64_t end_us = dn_monotonic_us() + SETTLE_MS * 1000ull;

    make_world(seed, keyed, grew, messages);
    configure(&config, keyed);
    for (unsigned i = 0; i < NODES; i++)
        ingests[i] = start_ingest(&config, SHARDS, i + 1, 2000, &nodes[i], KEY, world->metrics);
    for (int i = 0; i < 150 && !is_done(); i++) {
        shake(ingests);
        if (i == 20 || i == 40)
            atomic_store(&world->shown, grew[i / 20]);
        poll(NULL, 0, 3);
    }
    atomic_store(&world->shown, grew[2]);
    calm_down(ingests);
    while (!is_done()) {
        CHECK(dn_monotonic_us() < end_us, "seed %llu: not at the streams' ends", (unsigned long long)seed);
        poll(NULL, 0, 5);
    }
    for (int i = 0; i < NODES; i++)
        dn_ingest_stop(ingests[i], 10000);
    while (is_pending())
        poll(NULL, 0, 1);
    for (int i = 0; i < NODES; i++)
        dn_ingest_destroy(ingests[i]);
    check_world();
    printf("seed %llu: %u answers lost, %u proposals dropped, %u refused\n", (unsigned long long)seed,
           world->late, world->lost, world->refused);
    free_world();
}

static uint64_t first_seed = 1;

static void test_keyed(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + 4; seed++)
        one_run(seed, true, (uint32_t[]){8, 8, 8}, 3000);
}

static void test_not_keyed(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + 4; seed++)
        one_run(seed, false, (uint32_t[]){5, 5, 5}, 3000);
}

/* Keyed before and after. */
static void test_grows(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + 3; seed++)
        one_run(seed, true, (uint32_t[]){4, 8, 12}, 2000);
}

/* Keyed before, and no more. */
static void test_grows_out_of_its_keys(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + 3; seed++)
        one_run(seed, true, (uint32_t[]){8, 9, 10}, 2000);
}

/* Not keyed before, and keyed after: what the shards have begun they end. */
static void test_grows_into_its_keys(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + 3; seed++)
        one_run(seed, true, (uint32_t[]){6, 8, 8}, 2000);
}

static void test_grows_out_and_in(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + 3; seed++)
        one_run(seed, true, (uint32_t[]){4, 5, 8}, 2000);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keyed),
                                       cmocka_unit_test(test_not_keyed),
                                       cmocka_unit_test(test_grows),
                                       cmocka_unit_test(test_grows_out_of_its_keys),
                                       cmocka_unit_test(test_grows_into_its_keys),
                                       cmocka_unit_test(test_grows_out_and_in)};

    if (argc > 1)
        first_seed = strtoull(argv[1], NULL, 10);
    dn_log_set_level(getenv("DN_TEST_LOG") != NULL ? DN_LOG_DEBUG : DN_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
