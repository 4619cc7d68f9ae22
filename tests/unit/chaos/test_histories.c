/* Hand-made histories (histories/NAME-bad.edn and NAME-good.edn, nearly the same): their first line says
 * which rules they violate, no more and no fewer; or which rules find them valid, none being violated. Every
 * rule has at least one of each. */
#include "chaos/check.h"
#include "tests/unit/base/cmocka_all.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES 256

static int rule_of(const char *name)
{
    for (int rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        if (strcmp(chaos_rule_name((enum chaos_rule)rule), name) == 0) {
            return rule;
        }
    }
    fail_msg("no rule is called '%s'", name);
    return -1;
}

/* "; violates: a b" or "; valid: a b". Returns the rules as bits. */
static unsigned expected(const char *path, bool *ret_bad)
{
    char line[LINE_MAX_BYTES] = "", *save = NULL;
    unsigned rules = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    fclose(file);
    *ret_bad = strncmp(line, "; violates: ", 12) == 0;
    assert_true(*ret_bad || strncmp(line, "; valid: ", 9) == 0);
    for (char *name = strtok_r(line + (*ret_bad ? 12 : 9), " \n", &save); name != NULL;
         name = strtok_r(NULL, " \n", &save)) {
        rules |= 1u << rule_of(name);
    }
    assert_true(rules != 0);
    return rules;
}

static void judge_file(const char *path, struct chaos_judgement judgements[CHAOS_RULE_COUNT])
{
    struct chaos_history *history = NULL;
    struct dn_error err;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    if (chaos_history_read(file, path, &history, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
    fclose(file);
    int violated = chaos_check(history, NULL, judgements), counted = 0;
    for (int rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        const struct chaos_judgement *judgement = &judgements[rule];
        counted += judgement->verdict == CHAOS_VIOLATED;
        assert_int_equal(judgement->verdict == CHAOS_VIOLATED, judgement->examples_count > 0);
        for (size_t i = 0; i < judgement->examples_count; i++) {
            assert_true(judgement->examples[i].index[0] < chaos_history_count(history));
            assert_true(judgement->examples[i].text[0] != '\0');
        }
    }
    assert_int_equal(violated, counted);
    chaos_history_destroy(history);
}

static void file_as_said(const char *path, unsigned seen[2])
{
    struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    bool bad;
    unsigned rules = expected(path, &bad), violated = 0, valid = 0;
    judge_file(path, judgements);
    for (int rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        violated |= (judgements[rule].verdict == CHAOS_VIOLATED ? 1u : 0) << rule;
        valid |= (judgements[rule].verdict == CHAOS_VALID ? 1u : 0) << rule;
        if (judgements[rule].examples_count > 0) {
            print_message("%s: %s: %s\n", strrchr(path, '/') + 1, chaos_rule_name((enum chaos_rule)rule),
                          judgements[rule].examples[0].text);
        }
    }
    if (bad ? violated != rules : violated != 0 || (valid & rules) != rules) {
        fail_msg("%s: expected %#x %s; violated %#x, valid %#x", path, rules, bad ? "violated" : "valid",
                 violated, valid);
    }
    seen[bad] |= rules;
}

static void all_files(void **state)
{
    const unsigned every = (1u << CHAOS_RULE_COUNT) - 1;
    unsigned seen[2] = {0, 0};
    glob_t files;
    (void)state;
    assert_int_equal(glob(DUNLIN_SOURCE_DIR "/tests/unit/chaos/histories/*.edn", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        file_as_said(files.gl_pathv[i], seen);
        /* Each broken one has a good twin, and the other way round. */
        assert_true(i % 2 == 1 || strncmp(files.gl_pathv[i], files.gl_pathv[i + 1],
                                          strlen(files.gl_pathv[i]) - strlen("bad.edn")) == 0);
    }
    assert_int_equal(seen[true], every);
    assert_int_equal(seen[false], every);
    globfree(&files);
}

/* Nothing could have broken a rule: it is not called valid. */
static void empty(void **state)
{
    struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    struct chaos_history *history = chaos_history_create();
    (void)state;
    assert_int_equal(chaos_check(history, NULL, judgements), 0);
    for (int rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        assert_int_equal(judgements[rule].verdict, CHAOS_UNTESTED);
    }
    chaos_history_destroy(history);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_files),
        cmocka_unit_test(empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
