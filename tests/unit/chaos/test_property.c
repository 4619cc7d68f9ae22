/* The checkers against a store that is right by construction (simulated_store.h): no seed may be found wrong;
 * and against the same with one defect: most seeds must be, by the rule that is meant for it. */
#include "tests/unit/base/cmocka_all.h"
#include "tests/unit/chaos/simulated_life.h"

#define RIGHT_LIVES 1000u /* or DUNLIN_LIVES */
#define WRONG_LIVES 12u

static struct sim sim;

static void judge(uint64_t seed, enum sim_defect defect, struct chaos_judgement judgements[CHAOS_RULE_COUNT])
{
    const struct chaos_check_options options = {.recovery_bound_ns = SIM_RECOVERY_NS};
    struct chaos_history *history = sim_run(&sim, seed, defect);
    chaos_check(history, &options, judgements);
    chaos_history_destroy(history);
}

static void right(void **state)
{
    struct test_random random = test_random_start("right lives");
    unsigned untested[CHAOS_RULE_COUNT] = {0};
    const char *wanted = getenv("DUNLIN_LIVES");
    unsigned lives = wanted != NULL ? (unsigned)strtoul(wanted, NULL, 10) : RIGHT_LIVES;
    (void)state;
    for (unsigned life = 0; life < lives; life++) {
        struct chaos_judgement judgements[CHAOS_RULE_COUNT];
        uint64_t seed = test_random_next(&random);
        judge(seed, SIM_NONE, judgements);
        for (int rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
            untested[rule] += judgements[rule].verdict == CHAOS_UNTESTED;
            if (judgements[rule].verdict == CHAOS_VIOLATED) {
                fail_msg("life %u (seed %llu): %s: %s", life, (unsigned long long)seed,
                         chaos_rule_name((enum chaos_rule)rule), judgements[rule].examples[0].text);
            }
        }
    }
    for (int rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        if (untested[rule] > lives / 10) {
            fail_msg("%s: untested in %u of %u lives", chaos_rule_name((enum chaos_rule)rule), untested[rule],
                     lives);
        }
    }
}

static void wrong(void **state)
{
    struct test_random random = test_random_start("wrong lives");
    unsigned missed = 0;
    (void)state;
    for (int defect = SIM_NONE + 1; defect < SIM_DEFECT_COUNT; defect++) {
        unsigned caught = 0;
        enum chaos_rule rule = sim_rule((enum sim_defect)defect);
        for (unsigned life = 0; life < WRONG_LIVES; life++) {
            struct chaos_judgement judgements[CHAOS_RULE_COUNT];
            judge(test_random_next(&random), (enum sim_defect)defect, judgements);
            caught += judgements[rule].verdict == CHAOS_VIOLATED;
        }
        print_message("%-14s found by %-10s in %2u of %u lives\n", sim_defect_name((enum sim_defect)defect),
                      chaos_rule_name(rule), caught, WRONG_LIVES);
        missed += caught < WRONG_LIVES / 2;
    }
    assert_int_equal(missed, 0); /* by fewer than half of the lives */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right),
        cmocka_unit_test(wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
