/* A lane alone: when its batches go out, and that what it and they hold after a flood is given back once
 * nothing came for a while. The clock is the test's. */
#include "ingest/internal.h"
#include "tests/unit/session/harness.h"

#define EVENTS 4000u
#define BEGIN_US 1000000u

static struct bench {
    struct dn_ingest *ingest;
    struct ingest_stream stream;
    struct ingest_feed feed;
    struct dn_source_config config;
    struct ingest_lane *lane;
    int64_t state;            /* next offset */
    bool slow;                /* what is proposed is not answered */
    struct dn_proposal *held; /* while it is slow */
} bench;

static bool target_propose(void *data, struct dn_proposal *proposal)
{
    struct dn_buffer result;

    (void)data;
    if (bench.slow) {
        assert_null(bench.held);
        bench.held = proposal;
        return true;
    }
    dn_buffer_init(&result, 64);
    dn_buffer_u8(&result, DN_RESULT_OK);
    dn_buffer_i64(&result, ((struct ingest_batch *)proposal->data)->next_offset);
    dn_buffer_u32(&result, 0);
    proposal->done(proposal, DN_OK, 1, result.bytes, result.length, NULL);
    dn_buffer_free(&result);
    return true;
}

static bool target_next_offset(void *data, uint32_t group, const char *stream, uint32_t partition,
                               int64_t *ret_next_offset)
{
    *ret_next_offset = *(int64_t *)data;
    (void)group;
    (void)stream;
    (void)partition;
    return true;
}

static int64_t target_stalled(void *data, uint32_t group, char ret_reason[DN_STALL_REASON_MAX + 1])
{
    (void)data;
    (void)group;
    ret_reason[0] = 0;
    return 0;
}

static void make_bench(void)
{
    static const struct dn_source_driver NONE = {.kind = "none"};
    struct dn_ingest *ingest = calloc(1, sizeof *ingest);
    struct ingest_source *source = &ingest->sources[0];

    memset(&bench, 0, sizeof bench);
    bench.ingest = ingest;
    ingest->options.shard_count = 1;
    ingest->options.target = (struct dn_ingest_target){.data = &bench.state,
                                                       .propose = target_propose,
                                                       .next_offset = target_next_offset,
                                                       .stalled = target_stalled};
    ingest->groups[1].out_max = 4;
    ingest->done = dn_queue_create(16);
    ingest->metrics = dn_metrics_create();
    ingest->now_us = BEGIN_US;
    bench.config.batch_events = EVENTS;
    bench.config.batch_bytes = 1u << 20;
    source->ingest = ingest;
    source->config = &bench.config;
    source->driver = &NONE;
    source->proposals = dn_metrics_counter(ingest->metrics, "a", "", "a");
    source->refusals = dn_metrics_counter(ingest->metrics, "b", "", "b");
    source->invalid = dn_metrics_counter(ingest->metrics, "c", "", "c");
    source->commit_delay = dn_metrics_histogram(ingest->metrics, "d", "", "d");
    bench.stream.source = source;
    bench.feed.stream = &bench.stream;
    bench.feed.message_ms = -1;
    bench.lane = lane_create(&bench.feed, 1);
    assert_non_null(bench.lane);
}

static void free_bench(void)
{
    lane_free(bench.lane);
    lane_trim_batches(bench.ingest, 0);
    assert_null(bench.ingest->free_batches);
    dn_queue_destroy(bench.ingest->done);
    dn_metrics_destroy(bench.ingest->metrics);
    free(bench.ingest);
}

static void turn(void)
{
    struct ingest_batch *batch;

    assert_true(lane_turn(bench.lane));
    while ((batch = dn_queue_pop(bench.ingest->done)) != NULL) {
        bench.state = batch->next_offset;
        lane_batch_done(batch);
    }
    assert_int_equal(bench.lane->state, LANE_RUNNING);
}

static void gather(uint32_t events)
{
    struct dn_decoded event = {.item = "an item", .item_length = 7, .time_ms = 1, .type = DN_EVENT_VIEW};

    for (uint32_t i = 0; i < events; i++) {
        int64_t offset = bench.feed.position++;
        if (i % 2 == 0)
            assert_true(lane_add_event(bench.lane, offset, (struct dn_hash128){1, 2}, &event));
        else
            assert_true(lane_add_dead(bench.lane, offset, DN_DEAD_LIMIT));
    }
}

static size_t batches(void)
{
    size_t count = 0;

    for (const struct ingest_batch *batch = bench.ingest->free_batches; batch != NULL; batch = batch->next)
        count++;
    return count;
}

static void test_given_back_when_idle(void **state)
{
    (void)state;
    make_bench();
    turn(); /* synchronised */
    gather(EVENTS);
    turn();
    assert_int_equal(bench.lane->committed, EVENTS);
    assert_true(bench.lane->event_capacity >= EVENTS / 2 && bench.lane->dead_capacity >= EVENTS / 2);
    assert_int_equal(batches(), 1);
    /* Not at once, */
    bench.ingest->now_us += INGEST_KEEP_US - 1;
    turn();
    lane_trim_batches(bench.ingest, INGEST_KEEP_US);
    assert_true(bench.lane->event_capacity > 0 && bench.lane->items.capacity > 0);
    assert_int_equal(batches(), 1);
    /* but then all of it. */
    bench.ingest->now_us += 1;
    turn();
    lane_trim_batches(bench.ingest, INGEST_KEEP_US);
    assert_int_equal(bench.lane->event_capacity + bench.lane->dead_capacity, 0);
    assert_int_equal(bench.lane->items.capacity, 0);
    assert_null(bench.lane->events);
    assert_int_equal(batches(), 0);
    /* And it goes on. */
    gather(10);
    bench.ingest->now_us += 1;
    turn();
    assert_int_equal(bench.lane->committed, EVENTS + 10);
    free_bench();
}

/* What is gathered stays, however long it waits; and of the batches those in use do. */
static void test_kept_while_in_use(void **state)
{
    (void)state;
    make_bench();
    turn();
    gather(EVENTS);
    turn();
    bench.ingest->groups[1].out_max = 0; /* nothing can be sent */
    gather(100);
    bench.ingest->now_us += 2 * INGEST_KEEP_US;
    turn();
    assert_int_equal(bench.lane->event_count + bench.lane->dead_count, 100);
    bench.ingest->groups[1].out_max = 4;
    turn();
    assert_int_equal(bench.lane->committed, EVENTS + 100);
    lane_trim_batches(bench.ingest, INGEST_KEEP_US); /* it came back just now */
    assert_int_equal(batches(), 1);
    free_bench();
}

static uint32_t gathered(void)
{
    return bench.lane->event_count + bench.lane->dead_count;
}

static void answer_held(void)
{
    struct dn_proposal *proposal = bench.held;

    bench.slow = false;
    bench.held = NULL;
    assert_true(target_propose(NULL, proposal));
}

/* At once where nothing is on its way and the driver has no more; else when it is old enough. */
static void test_when_it_goes(void **state)
{
    (void)state;
    make_bench();
    bench.config.batch_ms = 50;
    turn();
    gather(2); /* the driver has more: this is no end of a clump */
    turn();
    assert_int_equal(gathered(), 2);
    bench.ingest->now_us += 50000 - 1;
    turn();
    assert_int_equal(gathered(), 2);
    bench.ingest->now_us += 1;
    turn();
    assert_int_equal(gathered(), 0);

    bench.feed.dry = true;
    bench.slow = true;
    gather(2);
    turn();
    assert_int_equal(gathered(), 0);
    assert_non_null(bench.held);
    gather(2); /* one is on its way */
    turn();
    assert_int_equal(gathered(), 2);
    answer_held();
    turn(); /* it is back: at this turn's end */
    turn();
    assert_int_equal(gathered(), 0);
    assert_int_equal(bench.lane->committed, 6);

    bench.slow = true;
    gather(2);
    turn();
    bench.slow = false; /* the next is answered, and is before its time */
    gather(2);
    bench.ingest->now_us += 50000;
    turn();
    assert_int_equal(gathered(), 0);
    answer_held();
    turn();
    free_bench();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_when_it_goes),
                                       cmocka_unit_test(test_given_back_when_idle),
                                       cmocka_unit_test(test_kept_while_in_use)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
