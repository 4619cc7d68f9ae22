/* The learner against a state machine that the test turns by hand: what it proposes, when, and what it does
 * when that is refused, lost, frozen or reset. */
#include "node/learner.h"
#include "node/learner_sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "recommend/learn.h"
#include "session/near.h"
#include "session/record.h"

enum { SHARDS = 2, ITEMS = 12, INTERVAL_MS = 1000, RATE = 1000, TURN_US = 20000, NODE = 7 };
#define START_MS ((int64_t)1700000000 * 1000)

struct rig {
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_catalog *catalog;
    struct dn_shard *shards[SHARDS];
    struct dn_retrieval *retrieval;
    struct dn_metrics *metrics;
    struct dn_learning *learning;
    struct dn_learning_options options;
    struct dn_buffer record, result;
    uint64_t index, now_us, clicks;
    int64_t time_ms;
    bool may, full;
    uint8_t type;            /* of the clicks */
    struct dn_proposal *out; /* proposed and not yet answered */
    unsigned proposals;
    struct dn_arena *arena;
};

static bool take_proposal(void *data, struct dn_proposal *proposal)
{
    struct rig *rig = data;

    assert_null(rig->out);
    assert_int_equal(proposal->group, 0);
    if (rig->full)
        return false;
    rig->out = proposal;
    rig->proposals++;
    return true;
}

static bool may(void *data)
{
    return ((struct rig *)data)->may;
}

/* As an entry of group 0; the answer stays in rig->result. */
static void apply(struct rig *rig, const uint8_t *record, size_t length)
{
    rig->index++;
    dn_buffer_clear(&rig->result);
    dn_catalog_apply(rig->catalog, rig->index, 0, rig->time_ms, record, length, &rig->result);
    dn_catalog_entry_done(rig->catalog, rig->index, rig->time_ms);
}

static void change(struct rig *rig, const struct dn_model_change *change)
{
    struct dn_model_result result;

    dn_buffer_clear(&rig->record);
    dn_catalog_record_model(&rig->record, change);
    assert_false(rig->record.failed);
    apply(rig, rig->record.bytes, rig->record.length);
    assert_int_equal(dn_catalog_model_result_parse(rig->result.bytes, rig->result.length, &result, NULL),
                     DN_OK);
    assert_int_equal(result.outcome, DN_MODEL_OK);
}

static void order(struct rig *rig, enum dn_model_op op)
{
    change(rig, &(struct dn_model_change){.op = op});
}

static struct dn_catalog_model model_of(struct rig *rig)
{
    struct dn_catalog_model model;

    dn_epoch_enter(rig->reader);
    (void)dn_catalog_model(rig->catalog, &model);
    dn_epoch_leave(rig->reader);
    return model;
}

/* Applies what is out, and answers it or says that nobody knows. */
static void answer(struct rig *rig, bool applied, bool known)
{
    struct dn_proposal *out = rig->out;

    assert_non_null(out);
    if (applied)
        apply(rig, out->record, out->length);
    rig->out = NULL;
    if (known)
        out->done(out, DN_OK, rig->index, rig->result.bytes, rig->result.length, NULL);
    else
        out->done(out, DN_DEADLINE, 0, NULL, 0, NULL);
}

static void put_items(struct rig *rig)
{
    struct dn_item items[ITEMS];
    char names[ITEMS][8];

    for (int i = 0; i < ITEMS; i++) {
        snprintf(names[i], sizeof(names[i]), "i%d", i);
        items[i] = (struct dn_item){.id = names[i],
                                    .id_length = (uint16_t)strlen(names[i]),
                                    .category = "",
                                    .price = 1,
                                    .available = true};
    }
    dn_buffer_clear(&rig->record);
    dn_catalog_record_upsert(&rig->record, items, ITEMS);
    apply(rig, rig->record.bytes, rig->record.length);
}

static void set_near(struct rig *rig, struct dn_shard *shard)
{
    struct dn_shard_settings settings;

    dn_shard_settings_default(&settings);
    dn_buffer_clear(&rig->record);
    dn_record_settings(&rig->record, &settings);
    dn_shard_apply(shard, 1, 0, rig->time_ms, rig->record.bytes, rig->record.length, &rig->result);
    dn_shard_entry_done(shard, 1, rig->time_ms);
}

static void rig_open(struct rig *rig)
{
    struct dn_retrieval_options retrieval = {.factory = "Flat"};

    memset(rig, 0, sizeof(*rig));
    rig->time_ms = START_MS;
    rig->now_us = 1000000000;
    rig->may = true;
    rig->type = DN_EVENT_CLICK;
    rig->epoch = dn_epoch_create();
    rig->reader = dn_epoch_register(rig->epoch);
    rig->catalog = dn_catalog_create(rig->epoch, 100);
    rig->metrics = dn_metrics_create();
    rig->arena = dn_arena_create(65536, 1 << 20);
    dn_buffer_init(&rig->record, 1 << 20);
    dn_buffer_init(&rig->result, 1 << 20);
    for (int i = 0; i < SHARDS; i++) {
        rig->shards[i] = dn_shard_create(rig->epoch);
        set_near(rig, rig->shards[i]);
    }
    put_items(rig);
    assert_int_equal(dn_retrieval_create(rig->catalog, rig->epoch, &retrieval, &rig->retrieval, NULL), DN_OK);
    rig->options = (struct dn_learning_options){
        .epoch = rig->epoch,
        .catalog = rig->catalog,
        .shards = rig->shards,
        .shard_count = SHARDS,
        .metrics = rig->metrics,
        .node_id = NODE,
        .enabled = true,
        .samples_per_s = RATE,
        .interval_ms = INTERVAL_MS,
        .propose = take_proposal,
        .may = may,
        .data = rig,
    };
    dn_recommend_settings_default(&rig->options.settings);
    rig->learning = dn_learning_create(&rig->options);
    assert_non_null(rig->learning);
}

static void rig_close(struct rig *rig)
{
    dn_learning_stop(rig->learning);
    dn_learning_destroy(rig->learning);
    dn_retrieval_destroy(rig->retrieval);
    for (int i = 0; i < SHARDS; i++)
        dn_shard_destroy(rig->shards[i]);
    dn_catalog_destroy(rig->catalog);
    dn_epoch_unregister(rig->reader);
    dn_epoch_destroy(rig->epoch);
    dn_metrics_destroy(rig->metrics);
    dn_arena_destroy(rig->arena);
    dn_buffer_free(&rig->record);
    dn_buffer_free(&rig->result);
}

/* One click of each of a few users, who all walk round the items in the same order. */
static void click(struct rig *rig)
{
    for (uint64_t user = 0; user < 4; user++) {
        char item[8];
        struct dn_event_in event = {.user = {.high = user + 1, .low = user + 100},
                                    .event_id = ++rig->clicks,
                                    .time_ms = rig->time_ms,
                                    .weight = DN_WEIGHT_ONE,
                                    .type = rig->type,
                                    .item = item};
        event.item_length =
            (uint16_t)snprintf(item, sizeof(item), "i%d", (int)((rig->clicks / 4 + user * 3) % ITEMS));
        dn_buffer_clear(&rig->record);
        dn_record_events(&rig->record, &event, 1);
        rig->index++;
        dn_shard_apply(rig->shards[user % SHARDS], rig->index, 0, rig->time_ms, rig->record.bytes,
                       rig->record.length, &rig->result);
        dn_shard_entry_done(rig->shards[user % SHARDS], rig->index, rig->time_ms);
    }
    dn_buffer_clear(&rig->result);
    rig->time_ms += 1000;
}

static bool turn(struct rig *rig)
{
    rig->now_us += TURN_US;
    return dn_learning_turn(rig->learning, rig->reader, rig->now_us);
}

/* Clicks and turns until something is proposed, or for three intervals. True: it is out. */
static bool until_proposed(struct rig *rig)
{
    for (int i = 0; i < 3 * INTERVAL_MS * 1000 / TURN_US && !rig->out; i++) {
        if (i % 5 == 0)
            click(rig);
        (void)turn(rig);
    }
    return rig->out != NULL;
}

static void lead(struct rig *rig)
{
    dn_learning_lead(rig->learning, true);
    assert_false(turn(rig));
    assert_non_null(rig->out); /* the fact */
    answer(rig, true, true);
    assert_true(turn(rig));
}

static uint64_t counter(struct rig *rig, const char *name, const char *labels)
{
    return dn_counter_value(dn_metrics_counter(rig->metrics, name, labels, ""));
}

static void expect_gone_on(struct rig *rig, uint64_t generation)
{
    struct dn_catalog_model before = model_of(rig), after;
    assert_true(until_proposed(rig));
    answer(rig, true, true);
    after = model_of(rig);
    assert_int_equal(after.generation, generation);
    assert_true(after.version > before.version);
    assert_true(after.steps > before.steps);
    assert_int_equal(after.node_id, NODE);
}

/* ---- tests ----------------------------------------------------------------------------------------------
 */

static void test_only_the_leader_learns_and_only_when_all_may(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    assert_false(until_proposed(&rig));
    rig.may = false; /* an older build in the cluster */
    dn_learning_lead(rig.learning, true);
    assert_false(until_proposed(&rig));
    rig.may = true;
    for (int i = 0; i < 2000000 / TURN_US && !rig.out; i++)
        (void)turn(&rig);
    assert_non_null(rig.out);
    assert_int_equal(rig.out->record[0], DN_CATALOG_FACT);
    answer(&rig, true, true);
    assert_int_equal(counter(&rig, "dunlin_learning_steps_total", ""), 0);
    expect_gone_on(&rig, 0);
    assert_true(counter(&rig, "dunlin_learning_steps_total", "") > 0);
    dn_learning_lead(rig.learning, false);
    assert_false(turn(&rig));
    unsigned proposals = rig.proposals;
    assert_false(until_proposed(&rig));
    assert_int_equal(rig.proposals, proposals);
    rig_close(&rig);
}

static void test_weights_come_into_the_state_and_go_on(void **state)
{
    struct rig rig;
    struct dn_model standard, learned;
    struct dn_error err = {0};
    (void)state;
    rig_open(&rig);
    lead(&rig);
    uint64_t last_us = 0;
    for (int i = 0; i < 4; i++) {
        assert_true(until_proposed(&rig));
        assert_true(rig.now_us - last_us >= INTERVAL_MS * 1000);
        last_us = rig.now_us;
        answer(&rig, true, true);
    }
    struct dn_catalog_model model = model_of(&rig);
    assert_int_equal(counter(&rig, "dunlin_learning_proposals_total", "outcome=\"ok\""), 3);
    (void)turn(&rig); /* takes the fourth answer */
    assert_int_equal(counter(&rig, "dunlin_learning_proposals_total", "outcome=\"ok\""), 4);
    assert_int_equal(model.steps, counter(&rig, "dunlin_learning_steps_total", ""));
    assert_int_equal(dn_model_decode(model.bytes, model.length, &learned, &err), DN_OK);
    dn_model_default(&standard);
    assert_memory_not_equal(&learned, &standard, sizeof(learned));
    assert_int_equal(learned.network.steps, model.steps);
    /* Another node that leads now begins with the same. */
    dn_learning_destroy(rig.learning);
    rig.options.node_id = NODE + 1;
    rig.learning = dn_learning_create(&rig.options);
    dn_learning_lead(rig.learning, true);
    assert_true(turn(&rig));
    assert_true(until_proposed(&rig));
    answer(&rig, true, true);
    struct dn_catalog_model next = model_of(&rig);
    assert_int_equal(next.node_id, NODE + 1);
    assert_true(next.steps > model.steps);
    assert_int_equal(dn_model_decode(next.bytes, next.length, &learned, &err), DN_OK);
    assert_int_equal(learned.network.steps, next.steps); /* the challenger too */
    assert_true(learned.network.loss > 0 && learned.network.model_loss > 0);
    /* One that is to do without drops it. */
    dn_learning_destroy(rig.learning);
    rig.options.alone = true;
    rig.learning = dn_learning_create(&rig.options);
    dn_learning_lead(rig.learning, true);
    assert_true(turn(&rig));
    assert_true(until_proposed(&rig));
    answer(&rig, true, true);
    next = model_of(&rig);
    assert_int_equal(dn_model_decode(next.bytes, next.length, &learned, &err), DN_OK);
    assert_int_equal(learned.network.steps, 0);
    rig_close(&rig);
}

/* What a deposed leader has learned comes late: neither another's weights nor a reset are undone. */
static void test_what_moved_meanwhile_stands(void **state)
{
    struct rig rig;
    struct dn_buffer others;
    (void)state;
    rig_open(&rig);
    lead(&rig);
    expect_gone_on(&rig, 0);
    struct dn_catalog_model model = model_of(&rig);
    struct dn_model standard;
    dn_model_default(&standard);
    standard.weights[0][0] = 42;
    dn_buffer_init(&others, 4096);
    dn_model_encode(&standard, &others);
    assert_true(until_proposed(&rig));
    change(&rig, &(struct dn_model_change){.op = DN_MODEL_LEARNED,
                                           .generation = model.generation,
                                           .version = model.version,
                                           .node_id = 9,
                                           .steps = 100000,
                                           .bytes = others.bytes,
                                           .length = others.length});
    answer(&rig, true, true);
    assert_int_equal(model_of(&rig).node_id, 9);
    (void)turn(&rig);
    assert_int_equal(counter(&rig, "dunlin_learning_proposals_total", "outcome=\"moved\""), 1);
    expect_gone_on(&rig, 0); /* from the other's weights */
    assert_true(model_of(&rig).steps > 100000);
    model = model_of(&rig);
    assert_int_equal(dn_model_decode(model.bytes, model.length, &standard, NULL), DN_OK);
    assert_true(standard.weights[0][0] > 35);
    assert_true(until_proposed(&rig));
    order(&rig, DN_MODEL_RESET);
    answer(&rig, true, true);
    assert_null(model_of(&rig).bytes);
    assert_int_equal(model_of(&rig).generation, 1);
    expect_gone_on(&rig, 1);
    assert_true(model_of(&rig).steps < 10000);
    dn_buffer_free(&others);
    rig_close(&rig);
}

static void test_a_reset_while_nothing_is_out(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    lead(&rig);
    expect_gone_on(&rig, 0);
    uint64_t steps = model_of(&rig).steps;
    for (int i = 0; i < 20; i++) { /* learned, and not proposed yet */
        click(&rig);
        (void)turn(&rig);
    }
    assert_null(rig.out);
    order(&rig, DN_MODEL_RESET);
    (void)turn(&rig);
    uint64_t before = counter(&rig, "dunlin_learning_steps_total", "");
    expect_gone_on(&rig, 1);
    assert_int_equal(model_of(&rig).steps, counter(&rig, "dunlin_learning_steps_total", "") - before);
    assert_true(steps > 0);
    rig_close(&rig);
}

static void test_freeze(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    lead(&rig);
    expect_gone_on(&rig, 0);
    assert_true(until_proposed(&rig));
    struct dn_catalog_model model = model_of(&rig);
    order(&rig, DN_MODEL_FREEZE);
    answer(&rig, true, true);
    assert_int_equal(model_of(&rig).version, model.version);
    assert_false(turn(&rig));
    assert_int_equal(counter(&rig, "dunlin_learning_proposals_total", "outcome=\"frozen\""), 1);
    uint64_t steps = counter(&rig, "dunlin_learning_steps_total", "");
    assert_false(until_proposed(&rig));
    assert_int_equal(counter(&rig, "dunlin_learning_steps_total", ""), steps);
    order(&rig, DN_MODEL_UNFREEZE);
    expect_gone_on(&rig, 0);
    rig_close(&rig);
}

static void test_nobody_knows_whether_it_counted(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    lead(&rig);
    assert_true(until_proposed(&rig));
    answer(&rig, false, false); /* it did not: nothing is lost */
    assert_true(until_proposed(&rig));
    answer(&rig, true, true);
    (void)turn(&rig);
    assert_int_equal(model_of(&rig).steps, counter(&rig, "dunlin_learning_steps_total", ""));
    assert_true(until_proposed(&rig));
    answer(&rig, true, false); /* it did: it goes on from the state */
    struct dn_catalog_model model = model_of(&rig);
    expect_gone_on(&rig, 0);
    assert_true(model_of(&rig).steps > model.steps);
    assert_int_equal(counter(&rig, "dunlin_learning_proposals_total", "outcome=\"unknown\""), 2);
    rig.full = true; /* consensus takes nothing */
    assert_false(until_proposed(&rig));
    rig.full = false;
    expect_gone_on(&rig, 0);
    rig_close(&rig);
}

/* Leadership is lost and won while a proposal is out: what counts is waited for, and learned on from. */
static void test_leads_again_while_one_is_out(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    lead(&rig);
    expect_gone_on(&rig, 0);
    assert_true(until_proposed(&rig));
    dn_learning_lead(rig.learning, false);
    assert_false(turn(&rig));
    dn_learning_lead(rig.learning, true);
    assert_false(turn(&rig));
    answer(&rig, true, true);
    struct dn_catalog_model model = model_of(&rig);
    uint64_t steps = counter(&rig, "dunlin_learning_steps_total", "");
    assert_true(turn(&rig));
    expect_gone_on(&rig, 0);
    assert_int_equal(model_of(&rig).steps - model.steps,
                     counter(&rig, "dunlin_learning_steps_total", "") - steps);
    rig_close(&rig);
}

static void test_weights_of_another_build(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    lead(&rig);
    change(&rig, &(struct dn_model_change){.op = DN_MODEL_LEARNED,
                                           .steps = 5,
                                           .bytes = (const uint8_t *)"from the future",
                                           .length = 15});
    expect_gone_on(&rig, 0); /* from the default, and what is not understood is replaced */
    assert_true(model_of(&rig).steps > 5);
    rig_close(&rig);
}

static void test_off(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    dn_learning_destroy(rig.learning);
    rig.options.enabled = false;
    rig.learning = dn_learning_create(&rig.options);
    dn_learning_lead(rig.learning, true);
    assert_false(turn(&rig));
    answer(&rig, true, true); /* the fact alone */
    assert_false(until_proposed(&rig));
    rig_close(&rig);
}

/* Dislikes are no labels, and take no place in the sample. */
static void test_only_what_is_wanted_is_a_label(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    rig.type = DN_EVENT_DISLIKE;
    lead(&rig);
    for (int i = 0; i < 20; i++) {
        click(&rig);
        (void)turn(&rig);
    }
    assert_int_equal(counter(&rig, "dunlin_learning_useless_total", ""), 0);
    assert_int_equal(counter(&rig, "dunlin_learning_skipped_total", ""), 0);
    rig_close(&rig);
}

static void test_a_session_teaches_once(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig);
    lead(&rig);
    click(&rig);
    (void)turn(&rig);
    click(&rig);
    click(&rig); /* two clicks of each: their sessions are the same when both samples are read */
    (void)turn(&rig);
    assert_int_equal(counter(&rig, "dunlin_learning_useless_total", ""), 4);
    rig_close(&rig);
}

/* ---- the sample -----------------------------------------------------------------------------------------
 */

static void sampler_open(struct rig *rig, struct dn_sampler *sampler, unsigned rate)
{
    memset(rig, 0, sizeof(*rig));
    rig->metrics = dn_metrics_create();
    memset(sampler, 0, sizeof(*sampler));
    sampler->rate = rate;
    sampler->skipped = dn_metrics_counter(rig->metrics, "skipped", "", "");
    sampler->dropped = dn_metrics_counter(rig->metrics, "dropped", "", "");
}

static void test_the_rate_holds(void **state)
{
    static const unsigned rates[] = {1, 3, 10, 999, 1000};
    (void)state;
    for (size_t r = 0; r < sizeof(rates) / sizeof(rates[0]); r++) {
        static struct dn_sampler sampler;
        struct rig rig;
        struct dn_sample sample;
        uint64_t now_us = 5000000, taken = 0, offered = 0;
        sampler_open(&rig, &sampler, rates[r]);
        dn_sample_offer(&sampler, (struct dn_hash128){0}, 0);
        assert_false(dn_sample_take(&sampler, &sample)); /* closed */
        dn_sample_open(&sampler, now_us);
        static uint64_t taken_ms[20000]; /* when each was taken */
        for (uint64_t ms = 0; ms < 10000;
             ms += 7) { /* ten seconds of far more than that, some of it in bursts */
            int offers = ms / 1000 % 2 == 0 ? 20 : ms % 500 < 7 ? 2000 : 0;
            dn_sample_allow(&sampler, now_us + ms * 1000);
            for (int i = 0; i < offers; i++)
                dn_sample_offer(&sampler, (struct dn_hash128){.low = offered++}, 1);
            while (dn_sample_take(&sampler, &sample))
                taken_ms[taken++] = ms;
        }
        assert_int_equal(dn_counter_value(sampler.skipped), offered - taken);
        for (uint64_t first = 0, last = 0; last < taken; last++) { /* in any second */
            while (taken_ms[last] - taken_ms[first] >= 1000)
                first++;
            assert_true(last - first + 1 <= rates[r] + (rates[r] < 4));
        }
        assert_in_range(taken, 10 * rates[r] * 50 / 100 - 1, 10 * rates[r] * 80 / 100 + 1);
        /* After a pause, no more than a quarter of a second's at once. */
        dn_sample_allow(&sampler, now_us + 3600ull * 1000000);
        for (int i = 0; i < 5000; i++)
            dn_sample_offer(&sampler, (struct dn_hash128){0}, 1);
        for (taken = 0; dn_sample_take(&sampler, &sample);)
            taken++;
        assert_int_equal(taken, rates[r] / 4 > 0 ? rates[r] / 4 : 1);
        dn_metrics_destroy(rig.metrics);
    }
}

static void test_a_learner_that_is_behind(void **state)
{
    static struct dn_sampler sampler;
    struct rig rig;
    struct dn_sample sample;
    uint64_t put = 0;
    (void)state;
    sampler_open(&rig, &sampler, 1000);
    dn_sample_open(&sampler, 0);
    for (uint64_t at = 1; at <= 100; at++) {
        dn_sample_allow(&sampler, at * 100000);
        for (int i = 0; i < 70; i++)
            dn_sample_offer(&sampler, (struct dn_hash128){.low = put++}, 0);
    }
    assert_true(dn_counter_value(sampler.dropped) > 0);
    for (uint64_t i = 0; i < DN_SAMPLES_MAX; i++) { /* the oldest, in order */
        assert_true(dn_sample_take(&sampler, &sample));
        assert_int_equal(sample.user.low, i);
    }
    assert_false(dn_sample_take(&sampler, &sample));
    dn_sample_allow(&sampler, 20000000);
    dn_sample_offer(&sampler, (struct dn_hash128){.low = 77}, 0);
    dn_sample_close(&sampler);
    assert_false(dn_sample_take(&sampler, &sample));
    dn_metrics_destroy(rig.metrics);
}

/* ---- the thread -----------------------------------------------------------------------------------------
 */

static void test_the_thread_learns_and_ends(void **state)
{
    struct rig rig;
    struct dn_error err = {0};
    (void)state;
    rig_open(&rig);
    lead(&rig); /* the fact is set by the test's own turns */
    assert_int_equal(dn_learning_start(rig.learning, rig.retrieval, &err), DN_OK);
    rig.full = true; /* its proposals are not taken: the state is the test's */
    for (int i = 0; i < 3000 && counter(&rig, "dunlin_learning_steps_total", "") < 20; i++) {
        click(&rig);
        usleep(10000);
    }
    assert_true(counter(&rig, "dunlin_learning_steps_total", "") >= 20);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_the_leader_learns_and_only_when_all_may),
        cmocka_unit_test(test_weights_come_into_the_state_and_go_on),
        cmocka_unit_test(test_what_moved_meanwhile_stands),
        cmocka_unit_test(test_a_reset_while_nothing_is_out),
        cmocka_unit_test(test_freeze),
        cmocka_unit_test(test_nobody_knows_whether_it_counted),
        cmocka_unit_test(test_leads_again_while_one_is_out),
        cmocka_unit_test(test_weights_of_another_build),
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_a_session_teaches_once),
        cmocka_unit_test(test_only_what_is_wanted_is_a_label),
        cmocka_unit_test(test_the_rate_holds),
        cmocka_unit_test(test_a_learner_that_is_behind),
        cmocka_unit_test(test_the_thread_learns_and_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
