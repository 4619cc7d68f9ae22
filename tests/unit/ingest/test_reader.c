/* Streams that only one node reads: whoever leads the shard says that they stand still when their reader is
 * stuck or dead, and no longer when it gets on again, or is no member any more; and not of a reader whose
 * stream brings nothing new. Three nodes' ingest threads, two real shards, records applied at once. */
#include "base/clock.h"
#include "base/log.h"
#include "ingest/ingest.h"
#include "ingest/reader.h"
#include "tests/unit/session/harness.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#define NODES 3
#define SHARDS 2
#define STALL_MS 300
#define SAID_MS 20000  /* nothing that is waited for takes as long */
#define QUIET_MS 3000u /* longer than a reader may be silent, which is STALL_MS and 1.5 s */

static struct world {
    pthread_mutex_t lock;
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_shard *shards[SHARDS + 1];
    uint64_t index[SHARDS + 1];
    unsigned leader;          /* node 1..; of both */
    bool refuses[SHARDS + 1]; /* batches of node 1 */
    _Atomic int64_t lines;    /* in each node's stream */
    bool cut[NODES + 1], removed[NODES + 1];
    bool behind;     /* every node's state is old */
    unsigned stalls; /* records that said that they stand still, or run */
    unsigned ends;   /* those that said that they run */
    unsigned words[NODES + 1];
    atomic_bool broken[NODES + 1]; /* the node's stream cannot be read */
    _Atomic int64_t trouble_ms[NODES + 1];
    struct dn_source_config config[NODES + 1];
    struct dn_ingest *ingest[NODES + 1];
    char numbers[NODES + 1];
} world;

/* ---- a stream of each node, which brings nothing ------------------------------------------------------ */

struct fake {
    uint64_t node_id;
    bool end_told;
    int64_t at;
};

static enum dn_code fake_open(const struct dn_source_config *config, const struct dn_source_host *host,
                              void **ret_self, struct dn_error *err)
{
    struct fake *fake = calloc(1, sizeof *fake);

    (void)config;
    (void)err;
    fake->node_id = host->node_id;
    *ret_self = fake;
    return DN_OK;
}

static void fake_close(void *self)
{
    free(self);
}

static size_t fake_streams(void *self, struct dn_stream_info *ret, size_t max)
{
    const struct fake *fake = self;

    (void)max;
    *ret = (struct dn_stream_info){.partition_count = 1, .local = true};
    snprintf(ret->stream, sizeof ret->stream, "logs/app.log@%llx.0123", (unsigned long long)fake->node_id);
    return 1;
}

static int64_t fake_trouble(void *self, char ret_text[DN_SOURCE_TEXT_MAX])
{
    int64_t since_ms = atomic_load(&world.trouble_ms[((struct fake *)self)->node_id]);

    snprintf(ret_text, DN_SOURCE_TEXT_MAX, "%s", since_ms != 0 ? "no such file" : "");
    return since_ms;
}

static enum dn_code fake_start(void *self, size_t stream, uint32_t p, int64_t offset, struct dn_error *err)
{
    (void)stream;
    (void)p;
    (void)err;
    ((struct fake *)self)->end_told = false;
    ((struct fake *)self)->at = offset > 0 ? offset : 0;
    return DN_OK;
}

static void fake_stop(void *self, size_t stream, uint32_t p)
{
    (void)self;
    (void)stream;
    (void)p;
}

static size_t fake_read(void *self, size_t stream, uint32_t p, struct dn_message *ret, size_t max)
{
    struct fake *fake = self;

    (void)stream;
    (void)p;
    (void)max;
    if (atomic_load(&world.broken[fake->node_id]))
        return 0;
    if (fake->at < atomic_load(&world.lines)) {
        static const char LINE[] = "{\"user_id\":\"u\",\"item_id\":\"i\",\"time_ms\":1}";
        *ret = (struct dn_message){.offset = fake->at,
                                   .next_offset = fake->at + 1,
                                   .time_ms = -1,
                                   .bytes = (const uint8_t *)LINE,
                                   .length = sizeof LINE - 1};
        fake->at++;
        fake->end_told = false;
        return 1;
    }
    if (fake->end_told)
        return 0;
    *ret = (struct dn_message){.end = true, .next_offset = fake->at};
    fake->end_told = true;
    return 1;
}

static void fake_status(void *self, size_t stream, uint32_t p, struct dn_partition_status *ret)
{
    const struct fake *fake = self;

    (void)stream;
    (void)p;
    *ret = (struct dn_partition_status){.end_offset = atomic_load(&world.lines), .begin_offset = 0};
    if (atomic_load(&world.broken[fake->node_id])) {
        ret->state = DN_PARTITION_FAILED;
        snprintf(ret->error, sizeof ret->error, "its disk is broken");
        return;
    }
    ret->state = fake->end_told ? DN_PARTITION_AT_END : DN_PARTITION_READING;
    ret->heard_ms = dn_wall_ms();
}

static const struct dn_source_driver FAKE = {.kind = "fake",
                                             .open = fake_open,
                                             .close = fake_close,
                                             .streams = fake_streams,
                                             .trouble = fake_trouble,
                                             .start = fake_start,
                                             .stop = fake_stop,
                                             .read = fake_read,
                                             .release = fake_stop,
                                             .status = fake_status};

static const struct dn_source_driver *fake_driver(enum dn_source_kind kind)
{
    (void)kind;
    return &FAKE;
}

/* ---- consensus ---------------------------------------------------------------------------------------- */

static unsigned node_of(const void *data)
{
    return (unsigned)((const char *)data - world.numbers);
}

static bool target_propose(void *data, struct dn_proposal *proposal)
{
    struct dn_error err = {.code = DN_UNAVAILABLE, .message = "cut off"};
    enum dn_code code = DN_OK;
    struct dn_buffer result;

    dn_buffer_init(&result, 4096);
    pthread_mutex_lock(&world.lock);
    world.stalls += proposal->record[0] == DN_RECORD_STALL;
    static const uint8_t NEVER[8];
    world.ends += proposal->record[0] == DN_RECORD_STALL && memcmp(proposal->record + 2, NEVER, 8) == 0;
    world.words[node_of(data)] += proposal->record[0] != DN_RECORD_STALL;
    bool event = proposal->record[0] == DN_RECORD_STREAM && proposal->record[2] != 2; /* no name "@N" */
    if (world.cut[node_of(data)] || (event && node_of(data) == 1 && world.refuses[proposal->group])) {
        code = DN_UNAVAILABLE;
    } else {
        int64_t now_ms = dn_wall_ms();
        struct dn_shard *shard = world.shards[proposal->group];
        uint64_t index = ++world.index[proposal->group];
        dn_shard_apply(shard, index, 0, now_ms, proposal->record, proposal->length, &result);
        dn_shard_entry_done(shard, index, now_ms);
    }
    pthread_mutex_unlock(&world.lock);
    proposal->done(proposal, code, 1, result.bytes, result.length, &err);
    dn_buffer_free(&result);
    return true;
}

static bool target_leads(void *data, uint32_t group)
{
    (void)group;
    pthread_mutex_lock(&world.lock);
    bool leads = world.leader == node_of(data);
    pthread_mutex_unlock(&world.lock);
    return leads;
}

static bool target_next_offset(void *data, uint32_t group, const char *stream, uint32_t partition,
                               int64_t *ret_next_offset)
{
    (void)data;
    pthread_mutex_lock(&world.lock);
    bool known = dn_shard_next_offset(world.shards[group], stream, partition, ret_next_offset);
    pthread_mutex_unlock(&world.lock);
    return known;
}

static int64_t target_stalled(void *data, uint32_t group, char ret_reason[DN_STALL_REASON_MAX + 1])
{
    (void)data;
    pthread_mutex_lock(&world.lock);
    int64_t since_ms = dn_shard_stalled(world.shards[group], ret_reason);
    pthread_mutex_unlock(&world.lock);
    return since_ms;
}

static size_t target_members(void *data, uint64_t ret_node_ids[DN_MEMBERS_MAX])
{
    size_t count = 0;

    (void)data;
    pthread_mutex_lock(&world.lock);
    for (unsigned node = 1; node <= NODES; node++)
        if (!world.removed[node])
            ret_node_ids[count++] = node;
    pthread_mutex_unlock(&world.lock);
    return count;
}

static bool target_age(void *data, uint32_t group, uint64_t *ret_age_us)
{
    (void)data;
    (void)group;
    pthread_mutex_lock(&world.lock);
    *ret_age_us = world.behind ? 3600u * 1000000u : 0;
    pthread_mutex_unlock(&world.lock);
    return true;
}

/* ---- the run ------------------------------------------------------------------------------------------ */

static void start_node(unsigned node, bool own)
{
    struct dn_source_config *config = &world.config[node];
    struct dn_error err = {0};

    *config = (struct dn_source_config){.kind = DN_SOURCE_FILE,
                                        .format = DN_FORMAT_JSON,
                                        .message_bytes = 65536,
                                        .batch_events = 10,
                                        .batch_bytes = 65536,
                                        .batch_ms = 2,
                                        .inflight_batches = 2,
                                        .list = {"app.log"},
                                        .list_count = 1,
                                        .follow = own};
    snprintf(config->name, sizeof config->name, "logs");
    struct dn_ingest_options options = {
        .sources = config,
        .source_count = 1,
        .shard_count = SHARDS,
        .node_id = node,
        .data_dir = ".",
        .stall_ms = STALL_MS,
        .driver = fake_driver,
        .target = {.data = &world.numbers[node],
                   .propose = target_propose,
                   .leads = target_leads,
                   .next_offset = target_next_offset,
                   .stalled = target_stalled,
                   .members = target_members,
                   .age_us = target_age},
    };
    CHECK(dn_ingest_start(&options, &world.ingest[node], &err) == DN_OK, "%s", err.message);
}

static void stop_node(unsigned node)
{
    if (world.ingest[node] == NULL)
        return;
    dn_ingest_stop(world.ingest[node], 1000);
    dn_ingest_destroy(world.ingest[node]);
    world.ingest[node] = NULL;
}

static void set(bool *flag, bool value)
{
    pthread_mutex_lock(&world.lock);
    *flag = value;
    pthread_mutex_unlock(&world.lock);
}

static void lead(unsigned node)
{
    pthread_mutex_lock(&world.lock);
    world.leader = node;
    pthread_mutex_unlock(&world.lock);
}

static unsigned stalls(void)
{
    pthread_mutex_lock(&world.lock);
    unsigned count = world.stalls;
    pthread_mutex_unlock(&world.lock);
    return count;
}

static void await_in(uint32_t group, bool stalled, const char *text)
{
    char reason[DN_STALL_REASON_MAX + 1] = "";
    uint64_t end_us = dn_monotonic_us() + SAID_MS * 1000ull;

    for (;;) {
        bool is = target_stalled(NULL, group, reason) != 0;
        if (is == stalled && (!is || strstr(reason, text) != NULL))
            return;
        CHECK(dn_monotonic_us() < end_us, "never: %s '%s'; it is %s '%s'", stalled ? "stalled" : "running",
              text, is ? "stalled" : "running", is ? reason : "");
        poll(NULL, 0, 10);
    }
}

static void await(bool stalled, const char *text)
{
    for (uint32_t group = 1; group <= SHARDS; group++)
        await_in(group, stalled, text);
}

/* It stays as it is, with no further word on it. */
static void await_nothing(bool stalled)
{
    char reason[DN_STALL_REASON_MAX + 1];
    unsigned before = stalls();

    for (unsigned ms = 0; ms < QUIET_MS; ms += 50) {
        poll(NULL, 0, 50);
        for (uint32_t group = 1; group <= SHARDS; group++)
            CHECK((target_stalled(NULL, group, reason) != 0) == stalled, "it changed: %s", reason);
    }
    CHECK(stalls() == before, "%u words too many", stalls() - before);
}

static int set_up(void **state)
{
    (void)state;
    memset(&world, 0, sizeof world);
    pthread_mutex_init(&world.lock, NULL);
    world.epoch = dn_epoch_create();
    world.reader = dn_epoch_register(world.epoch);
    for (uint32_t group = 1; group <= SHARDS; group++)
        world.shards[group] = dn_shard_create(world.epoch);
    world.leader = 1;
    for (unsigned node = 1; node <= NODES; node++)
        start_node(node, true);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (unsigned node = 1; node <= NODES; node++)
        stop_node(node);
    for (uint32_t group = 1; group <= SHARDS; group++)
        dn_shard_destroy(world.shards[group]);
    dn_epoch_unregister(world.reader);
    dn_epoch_destroy(world.epoch);
    return 0;
}

static void idle_is_not_stalled(void **state)
{
    (void)state;
    await_nothing(false);
    for (unsigned node = 1; node <= NODES; node++)
        assert_true(world.words[node] > 1);
}

static void a_dead_reader(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    stop_node(2);
    await(true, "node 2: ");
    lead(3); /* which takes it over without a moment in which it would not hold */
    await_nothing(true);
    start_node(2, true);
    await(false, "");
    await_nothing(false);
}

/* To one who does not hear, silence says nothing. */
static void the_leader_is_behind(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    set(&world.behind, true);
    stop_node(2);
    await_nothing(false);
    set(&world.behind, false);
    await(true, "node 2: ");
}

/* A leader that was started anew, too. */
static void the_leader_is_started_anew(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    stop_node(2);
    await(true, "node 2: ");
    stop_node(1);
    start_node(1, true);
    await_nothing(true);
}

static void the_leader_was_the_reader(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    stop_node(1);
    lead(3);
    await(true, "node 1: ");
}

static void cut_off(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    set(&world.cut[2], true);
    await(true, "node 2: ");
    set(&world.cut[2], false);
    await(false, "");
}

/* Its leader says it, and the node itself why. */
static void a_stuck_reader(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    atomic_store(&world.broken[3], true);
    await(true, "node 3: ");
    await(true, "node 3: logs/app.log@3.0123 partition 0: its disk is broken");
    await_nothing(true); /* two do not talk it to and fro */
    atomic_store(&world.broken[3], false);
    await(false, "");
}

/* What a node could not read from its start on is not told as well for a moment. */
static void stuck_from_the_start(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    stop_node(3);
    await(true, "node 3: ");
    atomic_store(&world.broken[3], true);
    start_node(3, true);
    await(true, "its disk is broken");
    await_nothing(true);
}

/* The same of a file that is not there: that takes a while to be a stall, but is none that is over. */
static void missing_from_the_start(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    stop_node(3);
    await(true, "node 3: ");
    unsigned before = world.ends;
    atomic_store(&world.trouble_ms[3], dn_wall_ms());
    start_node(3, true);
    await(true, "node 3: logs: no such file");
    assert_int_equal(world.ends, before); /* it was not over for a moment */
    atomic_store(&world.trouble_ms[3], 0);
    await(false, "");
}

/* A shard that takes nothing of it: in the others its streams run. */
static void only_in_one_shard(void **state)
{
    char reason[DN_STALL_REASON_MAX + 1];

    (void)state;
    poll(NULL, 0, 2000);
    set(&world.refuses[2], true);
    atomic_store(&world.lines, 5);
    lead(2);
    await_in(2, true, "node 1: logs/app.log@1.0123 partition 0: ");
    assert_true(target_stalled(NULL, 1, reason) == 0);
    set(&world.refuses[2], false);
    await(false, "");
    await_nothing(false);
}

static void removed_is_the_way_out(void **state)
{
    (void)state;
    poll(NULL, 0, 2000);
    stop_node(2);
    await(true, "node 2: ");
    set(&world.removed[2], true);
    await(false, "");
    await_nothing(false);
}

/* Restarted without streams of its own: it takes its word back. */
static void no_longer_configured(void **state)
{
    int64_t ignored;

    (void)state;
    poll(NULL, 0, 2000);
    stop_node(2);
    await(true, "node 2: ");
    start_node(2, false);
    await(false, "");
    assert_false(target_next_offset(NULL, 1, "@2", DN_READER_HEARD, &ignored));
    assert_true(target_next_offset(NULL, 1, "@3", DN_READER_HEARD, &ignored));
    assert_false(target_next_offset(NULL, 2, "@3", DN_READER_HEARD, &ignored)); /* once is enough */
}

static void names(void **state)
{
    char name[DN_READER_NAME_MAX];

    (void)state;
    dn_reader_name(UINT64_C(1000000000000000000), name);
    assert_string_equal(name, "@de0b6b3a7640000");
    assert_int_equal(dn_stream_node("logs/app.log@de0b6b3a7640000.01"), UINT64_C(1000000000000000000));
    assert_int_equal(dn_stream_node("logs/a@b@2a.01"), 42);
    assert_int_equal(dn_stream_node("logs/-@1.ff"), 1);
    static const char *const NOBODYS[] = {
        "logs/web",    "logs/#0123",    "logs/app@0123",  "@3",         "logs/app@.01",
        "logs/app@3.", "logs/app@3.0x", "logs/app@3.1.2", "a@3.01/web", "logs/app@11111111111111111.0"};
    for (size_t i = 0; i < sizeof NOBODYS / sizeof NOBODYS[0]; i++)
        CHECK(dn_stream_node(NOBODYS[i]) == 0, "%s", NOBODYS[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test_setup_teardown(idle_is_not_stalled, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_dead_reader, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_leader_is_behind, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_leader_is_started_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_leader_was_the_reader, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cut_off, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stuck_reader, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stuck_from_the_start, set_up, tear_down),
        cmocka_unit_test_setup_teardown(missing_from_the_start, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_in_one_shard, set_up, tear_down),
        cmocka_unit_test_setup_teardown(removed_is_the_way_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_longer_configured, set_up, tear_down),
    };

    dn_log_set_level(getenv("DN_TEST_LOG") != NULL ? DN_LOG_DEBUG : DN_LOG_ERROR);
    return cmocka_run_group_tests_name("ingest.reader", tests, NULL, NULL);
}
