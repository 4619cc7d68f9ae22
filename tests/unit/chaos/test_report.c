/* The report: figures of faults that are known, files that are there, a page that does not grow with the
 * history, and the exit codes of dunlin-chaos check. */
#include "chaos/cmd_check.h"
#include "chaos/report.h"
#include "tests/unit/base/cmocka_all.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define PAGE_MAX_BYTES (6u << 20)

struct script {
    struct chaos_history *history;
    uint64_t next;
};

static void add(struct script *script, int64_t time_ns, struct chaos_op op)
{
    op.index = script->next++;
    op.time_ns = time_ns;
    chaos_history_append_as_is(script->history, &op);
}

static void write_at(struct script *script, int64_t asked_ns, int64_t ended_ns, enum chaos_type end)
{
    struct chaos_op op = {
        .f = CHAOS_UPSERT, .process = (int32_t)script->next, .key = 1, .value = script->next};
    add(script, asked_ns, op);
    op.type = end;
    add(script, ended_ns, op);
}

static void fault_at(struct script *script, int64_t time_ns, const char *name, const char *what,
                     const char *said)
{
    struct chaos_op op = {
        .f = CHAOS_FAULT, .process = CHAOS_NEMESIS, .name = name, .what = what, .error = NULL, .node = 2};
    add(script, time_ns, op);
    op.type = CHAOS_INFO;
    op.error = said;
    add(script, time_ns, op);
}

/* Writes of 1 ms each 10 ms; none from 1,000 ms to 1,400 ms, in which one fails. */
static struct chaos_history *known(void)
{
    struct script script = {.history = chaos_history_create()};
    for (int64_t ms = 0; ms < 1000; ms += 10) {
        write_at(&script, ms * MS, (ms + 1) * MS, CHAOS_OK);
    }
    fault_at(&script, 1000 * MS, "kill-leader", "begin", "killed <node> 2 & waited");
    write_at(&script, 1100 * MS, 1200 * MS, CHAOS_FAIL);
    fault_at(&script, 1300 * MS, "kill-leader", "end", NULL);
    for (int64_t ms = 1400; ms < 9000; ms += 10) {
        write_at(&script, ms * MS, (ms + 1) * MS, CHAOS_OK);
    }
    fault_at(&script, 9000 * MS, "kill-leader", "begin", CHAOS_NOT_BEGUN "nobody leads");
    fault_at(&script, 9000 * MS, "kill-leader", "end", NULL);
    fault_at(&script, 9000 * MS, "pause-one", "begin", NULL);
    return script.history;
}

static void faults(void **state)
{
    struct chaos_history *history = known();
    size_t count = 0;
    struct chaos_fault *list = chaos_faults(history, &count);
    struct chaos_figures figures[CHAOS_FIGURES_MAX];
    struct chaos_figures_sum *sum = chaos_figures_create();
    (void)state;
    assert_int_equal(count, 3);
    assert_int_equal(chaos_faults_not_begun(list, count), 1);
    assert_true(list[0].begun);
    assert_false(list[1].begun);
    assert_true(list[2].begun);
    assert_string_equal(list[0].name, "kill-leader");
    assert_string_equal(list[0].what, "killed <node> 2 & waited");
    assert_int_equal(list[0].node, 2);
    assert_false(list[0].open);
    assert_int_equal(list[0].begin_ns, 1000 * MS);
    assert_int_equal(list[0].end_ns, 1300 * MS);
    assert_int_equal(list[0].groups, 1);
    assert_int_equal(list[0].gap_ns, (1401 - 991) * MS);
    assert_int_equal(list[0].gaps_ns[0], list[0].gap_ns);
    assert_int_equal(list[0].gaps_ns[1], -1);
    assert_int_equal(list[0].writes_failed, 1);
    assert_int_equal(list[0].writes, 1 + 490); /* acknowledged at 1,401 to 6,291 ms */
    assert_int_equal(list[0].write_p50_ns, MS);
    assert_int_equal(list[0].reads, 0);
    assert_true(list[2].open);
    assert_int_equal(list[2].gap_ns, -1); /* nobody asked */
    chaos_figures_add(sum, list, count);
    chaos_figures_add(sum, list, 1);
    assert_int_equal(chaos_figures_get(sum, figures), 2);
    assert_string_equal(figures[0].name, "kill-leader");
    assert_int_equal(figures[0].faults, 2);
    assert_int_equal(figures[0].not_begun, 1);
    assert_int_equal(figures[1].not_begun, 0);
    assert_int_equal(figures[0].gaps, 2);
    assert_int_equal(figures[0].gap_p50_ns, 410 * MS);
    assert_int_equal(figures[0].gap_max_ns, 410 * MS);
    assert_int_equal(figures[0].writes_failed, 2);
    assert_string_equal(figures[1].name, "pause-one");
    assert_int_equal(figures[1].gaps, 0);
    chaos_figures_destroy(sum);
    free(list);
    chaos_history_destroy(history);
}

/* What was not begun cannot be recovered from. */
static void recovery_needs_a_fault(void **state)
{
    struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    (void)state;
    for (int begun = 0; begun < 2; begun++) {
        struct script script = {.history = chaos_history_create()};
        fault_at(&script, 1000 * MS, "kill-leader", "begin",
                 begun ? "killed" : CHAOS_NOT_BEGUN "nobody leads");
        fault_at(&script, 1000 * MS, "kill-leader", "end", NULL);
        write_at(&script, 1100 * MS, 1200 * MS, CHAOS_OK);
        chaos_check(script.history, NULL, judgements);
        assert_int_equal(judgements[CHAOS_RULE_RECOVERY].verdict, begun ? CHAOS_VALID : CHAOS_UNTESTED);
        chaos_history_destroy(script.history);
    }
}

/* ---- files ---------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/dunlin-report.XXXXXX";

static const char *path_of(const char *name)
{
    static char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/report/%s", folder, name);
    return path;
}

static char *content(const char *name)
{
    struct stat info;
    assert_int_equal(stat(path_of(name), &info), 0);
    char *text = calloc((size_t)info.st_size + 1, 1);
    FILE *file = fopen(path_of(name), "r");
    assert_non_null(file);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)info.st_size, file), info.st_size);
    fclose(file);
    return text;
}

static void assert_has(const char *name, const char *what)
{
    char *text = content(name);
    if (strstr(text, what) == NULL) {
        fail_msg("%s has no '%s'", name, what);
    }
    free(text);
}

static void remove_report(void)
{
    static const char *const names[] = {"history.edn", "verdict.txt", "verdict.json", "timeline.html"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(unlink(path_of(names[i])), 0);
    }
    assert_int_equal(rmdir(path_of("")), 0);
}

static int check(const char *path, const char *option, const char *value)
{
    char program[] = "check", first[PATH_MAX], second[PATH_MAX], third[PATH_MAX];
    (void)snprintf(first, sizeof first, "%s", path);
    (void)snprintf(second, sizeof second, "%s", option != NULL ? option : "");
    (void)snprintf(third, sizeof third, "%s", value != NULL ? value : "");
    char *argv[] = {program, first, option != NULL ? second : NULL, value != NULL ? third : NULL, NULL};
    return chaos_cmd_check(2 + (option != NULL) + (value != NULL), argv);
}

static void report(void **state)
{
    static struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    static const char *const skipped[] = {"packet-loss: no <netem> here"}, *const logs[] = {"n1/log"};
    const struct chaos_report_info info = {.seed = 4711,
                                           .command = "dunlin-chaos run --seed 4711 && \"x\"",
                                           .logs = logs,
                                           .logs_count = 1,
                                           .skipped = skipped,
                                           .skipped_count = 1};
    struct chaos_history *history = known();
    struct dn_error err;
    char copy[PATH_MAX];
    (void)state;
    chaos_check(history, NULL, judgements);
    assert_int_equal(chaos_report_write(path_of(""), history, judgements, &info, &err), DN_OK);
    assert_has("verdict.txt", "repeat with: dunlin-chaos run --seed 4711");
    assert_has("verdict.txt", "packet-loss: no <netem> here");
    assert_has("verdict.txt", "kill-leader               1         1        410      410      410");
    assert_has("verdict.txt", "not begun: 1\n    9.000 s: kill-leader: not begun: nobody leads\n");
    assert_has("verdict.json", "\"faults_begun\": 2, \"faults_not_begun\": 1");
    assert_has("verdict.json", "\"begun\": false");
    assert_has("verdict.json", "\"seed\": 4711");
    assert_has("verdict.json", "&& \\\"x\\\"");
    assert_has("verdict.json", "{\"rule\": \"lost\", \"verdict\": \"untested\"");
    assert_has("timeline.html", "killed &#60;node&#62; 2 &#38; waited (1.00 s to 1.30 s)");
    assert_has("timeline.html", "catalogue");
    (void)snprintf(copy, sizeof copy, "%s", path_of("history.edn"));
    assert_int_equal(check(copy, NULL, NULL), 0);
    assert_int_equal(check(copy, "--json", NULL), 0);
    remove_report();
    assert_int_equal(chaos_report_write("/dev/null/x", history, judgements, &info, &err), DN_IO);
    chaos_history_destroy(history);
}

static void exit_codes(void **state)
{
    (void)state;
    assert_int_equal(check(DUNLIN_SOURCE_DIR "/tests/unit/chaos/histories/lost-event-bad.edn", NULL, NULL),
                     1);
    assert_int_equal(
        check(DUNLIN_SOURCE_DIR "/tests/unit/chaos/histories/lost-event-bad.edn", "--report", path_of("")),
        1);
    assert_has("verdict.txt", "VIOLATED: ");
    assert_has("verdict.json", "{\"valid\": false");
    assert_has("timeline.html", "<tr class=violated><td>lost");
    remove_report();
    assert_int_equal(check(DUNLIN_SOURCE_DIR "/tests/unit/chaos/histories/recovery-late-bad.edn", NULL, NULL),
                     1);
    assert_int_equal(check(DUNLIN_SOURCE_DIR "/tests/unit/chaos/histories/recovery-late-bad.edn",
                           "--recovery-bound", "11"),
                     0);
    assert_int_equal(check("/nowhere", NULL, NULL), 2);
    assert_int_equal(check(DUNLIN_SOURCE_DIR "/README.md", NULL, NULL), 2);
}

/* Half a million lines over an hour: buckets get wider, the page does not get longer without bound. */
static void long_history(void **state)
{
    static struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    struct script script = {.history = chaos_history_create()};
    struct stat info;
    struct dn_error err;
    (void)state;
    for (int64_t i = 0; i < 250000; i++) {
        struct chaos_op op = {
            .f = CHAOS_UPSERT, .process = (int32_t)(i % 100), .key = 1, .value = (uint64_t)i};
        add(&script, i * 14 * MS, op);
        op.type = i % 7 == 0 ? CHAOS_FAIL : CHAOS_OK;
        add(&script, i * 14 * MS + 5 * MS, op);
    }
    for (int64_t i = 0; i < 1000; i++) {
        fault_at(&script, (3500000 + i * 20) * MS, "pause-one", i % 2 == 0 ? "begin" : "end", "a fault");
    }
    chaos_check(script.history, NULL, judgements);
    assert_int_equal(chaos_report_write(path_of(""), script.history, judgements, NULL, &err), DN_OK);
    assert_int_equal(stat(path_of("timeline.html"), &info), 0);
    assert_true(info.st_size < PAGE_MAX_BYTES);
    remove_report();
    chaos_history_destroy(script.history);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults),     cmocka_unit_test(recovery_needs_a_fault), cmocka_unit_test(report),
        cmocka_unit_test(exit_codes), cmocka_unit_test(long_history),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
