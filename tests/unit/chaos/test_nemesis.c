/* The schedule: the same seed and names give the same faults; every name is drawn; combinations fit. */
#include "chaos/check.h"
#include "chaos/nemesis_internal.h"
#include "tests/unit/base/cmocka_all.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 5000

static struct nemesis_plan plan_of(uint64_t seed, const char *names)
{
    const struct chaos_schedule schedule = {.seed = seed, .names = names, .duration_ms = 60000};
    struct nemesis_plan plan;
    struct dn_error err = {0};

    assert_int_equal(nemesis_plan_begin(&schedule, &plan, &err), DN_OK);
    return plan;
}

static bool same(const struct nemesis_step *a, const struct nemesis_step *b)
{
    bool equal = a->count == b->count && a->quiet_ms == b->quiet_ms && a->fault_ms == b->fault_ms;

    for (unsigned i = 0; equal && i < a->count; i++)
        equal = a->faults[i] == b->faults[i] && a->random[i] == b->random[i];
    return equal;
}

static void a_seed_repeats(void **state)
{
    struct nemesis_plan one = plan_of(4711, "all"), two, other = plan_of(4712, "all");
    unsigned different = 0;

    (void)state;
    poll(NULL, 0, 3); /* the time is no part of it */
    two = plan_of(4711, "all");
    for (int i = 0; i < STEPS; i++) {
        struct nemesis_step a, b, c;
        nemesis_plan_next(&one, &a);
        nemesis_plan_next(&two, &b);
        nemesis_plan_next(&other, &c);
        assert_true(same(&a, &b));
        different += !same(&a, &c);
    }
    assert_true(different > STEPS * 9 / 10);
}

/* What a fault draws for itself comes from its own number, and nothing else. */
static void a_fault_repeats(void **state)
{
    struct fault a = {.random = 99}, b = {.random = 99}, c = {.random = 100};
    unsigned different = 0;

    (void)state;
    for (int i = 0; i < 1000; i++) {
        unsigned drawn = fault_draw(&a, 1000);
        assert_true(drawn < 1000);
        assert_int_equal(drawn, fault_draw(&b, 1000));
        different += drawn != fault_draw(&c, 1000);
    }
    assert_true(different > 900);
}

static void every_name_is_drawn(void **state)
{
    struct nemesis_plan plan = plan_of(1, "all,stream");
    unsigned count, drawn[CHAOS_NEMESES_MAX] = {0};
    const struct chaos_nemesis_info *list = chaos_nemesis_list(&count);
    struct nemesis_step step;

    (void)state;
    assert_int_equal(plan.count, count);
    for (int i = 0; i < STEPS; i++) {
        nemesis_plan_next(&plan, &step);
        assert_true(step.count == 1 || step.count == 2);
        for (unsigned j = 0; j < step.count; j++)
            for (unsigned k = 0; k < count; k++)
                drawn[k] += strcmp(step.faults[j]->info.name, list[k].name) == 0;
        if (step.count == 2)
            drawn[count - 1]++; /* "combination" is the last, and never one of the two */
    }
    for (unsigned k = 0; k < count; k++)
        if (drawn[k] == 0)
            fail_msg("'%s' was never drawn", list[k].name);
}

static void combinations_are_of_two_kinds(void **state)
{
    struct nemesis_plan plan = plan_of(3, "kill-leader,pause-one,partition-one,clock-jump,combination");
    struct nemesis_step step;
    unsigned seen = 0;

    (void)state;
    for (int i = 0; i < STEPS; i++) {
        nemesis_plan_next(&plan, &step);
        if (step.count < 2)
            continue;
        seen++;
        assert_true(step.faults[0]->class != step.faults[1]->class);
        assert_true(step.faults[0]->class != NEMESIS_COMBINED && step.faults[1]->class != NEMESIS_COMBINED);
    }
    assert_true(seen > STEPS / 10);
    plan = plan_of(4, "all"); /* who changes members begins first and ends last */
    seen = 0;
    for (int i = 0; i < STEPS; i++) {
        nemesis_plan_next(&plan, &step);
        seen += step.count == 2 && step.faults[0]->class == NEMESIS_MEMBERS;
        assert_true(step.count < 2 || step.faults[1]->class != NEMESIS_MEMBERS);
    }
    assert_true(seen > 10);
    plan = plan_of(3, "combination"); /* nothing to combine */
    nemesis_plan_next(&plan, &step);
    assert_int_equal(step.count, 0);
}

/* Two lost disks of three are lost data. */
static void one_disk_is_lost_at_a_time(void **state)
{
    static const char *const LOSE[] = {"wipe-and-replace", "shrink", "journal-flip"};

    (void)state;
    for (size_t i = 0; i < sizeof LOSE / sizeof *LOSE; i++)
        assert_int_equal(plan_of(1, LOSE[i]).names[0]->class, NEMESIS_MEMBERS);
}

static void times_are_within(void **state)
{
    const struct chaos_schedule schedule = {
        .seed = 5, .names = "kill-all", .fault_ms = {10, 20}, .quiet_ms = {3, 3}};
    struct nemesis_plan plan;
    struct nemesis_step step;
    bool least = false, most = false;

    (void)state;
    assert_int_equal(nemesis_plan_begin(&schedule, &plan, NULL), DN_OK);
    for (int i = 0; i < STEPS; i++) {
        nemesis_plan_next(&plan, &step);
        assert_true(step.fault_ms >= 10 && step.fault_ms <= 20 && step.quiet_ms == 3);
        least |= step.fault_ms == 10;
        most |= step.fault_ms == 20;
    }
    assert_true(least && most);
}

/* "all" is what it was before there was a broker, so that old seeds give what they gave. */
static void groups_of_names(void **state)
{
    unsigned count, stream = 0;
    size_t length = 0;
    struct nemesis_plan plan = plan_of(1, "all");

    (void)state;
    (void)chaos_nemesis_list(&count);
    for (unsigned i = 0; i < plan.count; i++)
        assert_true(plan.names[i]->class != NEMESIS_STREAM);
    for (unsigned i = 0; i < count; i++) {
        bool of_stream = nemesis_at(i)->class == NEMESIS_STREAM;
        stream += of_stream;
        assert_int_equal(chaos_nemesis_is_named("all", i), !of_stream);
        assert_int_equal(chaos_nemesis_is_named("stream", i), of_stream);
        assert_true(chaos_nemesis_is_named("stream,all", i));
        assert_false(chaos_nemesis_is_named("none", i));
        assert_int_equal(chaos_nemesis_is_named("kill,broker-kill", i),
                         strcmp(nemesis_at(i)->info.name, "broker-kill") == 0);
    }
    assert_true(stream >= 4 && plan.count + stream == count);
    plan = plan_of(1, "kill-all,stream");
    assert_int_equal(plan.count, stream + 1);
    assert_null(chaos_nemesis_unknown("stream,kill-all,all", &length));
    assert_string_equal(chaos_nemesis_unknown("all,streams", &length), "streams");
    assert_int_equal(length, strlen("streams"));
    assert_non_null(chaos_nemesis_unknown("all,", &length));
    assert_int_equal(length, 0);
    assert_non_null(chaos_nemesis_unknown("all,none", &length));
}

static void what_is_wrong_is_refused(void **state)
{
    struct nemesis_plan plan;
    struct dn_error err = {0};
    struct chaos_schedule schedule = {.names = "kill-all,kill-nobody"};

    (void)state;
    assert_int_equal(nemesis_plan_begin(&schedule, &plan, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "'kill-nobody'"));
    schedule = (struct chaos_schedule){.names = "kill-all", .fault_ms = {2, 1}};
    assert_int_equal(nemesis_plan_begin(&schedule, &plan, &err), DN_INVALID);
    schedule = (struct chaos_schedule){.names = "none"};
    assert_int_equal(nemesis_plan_begin(&schedule, &plan, &err), DN_OK);
    assert_int_equal(plan.count, 0);
}

static char *printed(uint64_t seed)
{
    const struct chaos_schedule schedule = {.seed = seed, .names = "all", .duration_ms = 120000};
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    assert_non_null(out);
    assert_int_equal(chaos_schedule_print(&schedule, out, NULL), DN_OK);
    fclose(out);
    return text;
}

static void the_printed_schedule_is_the_one(void **state)
{
    char *one = printed(12), *two = printed(12), *other = printed(13);
    struct nemesis_plan plan = plan_of(12, "all");
    struct nemesis_step step;
    const char *line = one;
    int64_t at_ms = 0;

    (void)state;
    assert_string_equal(one, two);
    assert_string_not_equal(one, other);
    while (at_ms < 120000) {
        char first[160];
        nemesis_plan_next(&plan, &step);
        at_ms += step.quiet_ms;
        snprintf(first, sizeof first, "%9.3f s  %s", (double)at_ms / 1000, step.faults[0]->info.name);
        assert_memory_equal(line, first, strlen(first));
        line = strchr(line, '\n') + 1;
        at_ms += step.fault_ms;
    }
    assert_int_equal(*line, 0);
    free(one);
    free(two);
    free(other);
}

/* Nodes that run and answer nobody: nobody leads. No other node is taken for the leader. */
static void without_a_leader_none_is_hit(void **state)
{
    struct chaos_cluster *c = calloc(1, sizeof *c);

    (void)state;
    assert_non_null(c);
    assert_int_equal(pthread_mutex_init(&c->lock, NULL), 0);
    c->count = c->o.nodes = 3;
    c->o.shards = 2;
    for (unsigned i = 1; i <= c->count; i++) {
        c->nodes[i].pid = 1; /* not 0: it runs; nothing is done to it here */
        snprintf(c->nodes[i].api, sizeof c->nodes[i].api, "127.0.0.1:1");
    }
    struct fault f = {.c = c, .random = 7};
    int64_t begun_ms = nemesis_now_ms();
    assert_int_equal(fault_by_leader(&f, true), 0);
    assert_true(nemesis_now_ms() - begun_ms >= 1000); /* it has looked for a while */
    assert_int_not_equal(fault_any(&f), 0);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* What a log says of leaders is in the history as statuses, and two of one term are found. */
static void logs_tell_leaders(void **state)
{
    static char text[] = "12:00 info consensus: group 1: leader of term 4\n"
                         "12:01 info consensus: group 1: no longer leader of term 4\n"
                         "12:01 info node: group 1: now leader in term 4\n"
                         "12:02 info consensus: group 12: leader of term 7\n";
    struct chaos_history *history = chaos_history_create();
    struct chaos_judgement judgements[CHAOS_RULE_COUNT];

    (void)state;
    for (uint32_t node = 1; node <= 2; node++) {
        FILE *log = fmemopen(text, sizeof text - 1, "r");
        assert_non_null(log);
        cluster_log_leaders(log, node, history);
        fclose(log);
        chaos_check(history, NULL, judgements);
        assert_int_equal(judgements[CHAOS_RULE_LEADER].violations, node == 1 ? 0 : 2);
    }
    assert_int_equal(chaos_history_count(history), 8);
    const struct chaos_op *op = chaos_history_at(history, 3);
    assert_int_equal(op->f, CHAOS_STATUS);
    assert_int_equal(op->node, 1);
    assert_int_equal(op->groups[0].group, 12);
    assert_int_equal(op->groups[0].term, 7);
    assert_true(op->groups[0].is_leader);
    chaos_history_destroy(history);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_repeats),
        cmocka_unit_test(a_fault_repeats),
        cmocka_unit_test(every_name_is_drawn),
        cmocka_unit_test(combinations_are_of_two_kinds),
        cmocka_unit_test(one_disk_is_lost_at_a_time),
        cmocka_unit_test(times_are_within),
        cmocka_unit_test(groups_of_names),
        cmocka_unit_test(what_is_wrong_is_refused),
        cmocka_unit_test(the_printed_schedule_is_the_one),
        cmocka_unit_test(without_a_leader_none_is_hit),
        cmocka_unit_test(logs_tell_leaders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
