/* Logs as the evaluator reads them: what becomes of sessions and the split, and that nothing in a file is
 * believed. */
#include "eval_files.h"

#include <math.h>

static struct dn_eval_facts facts_of(const struct eval_files *files)
{
    struct dn_eval_facts facts;

    dn_eval_set_facts(files->set, &facts);
    return facts;
}

/* The items of a session, one character each. */
static const char *items_of(const struct eval_files *files, size_t session)
{
    static char text[64];
    const struct dn_eval_session *at = &files->set->sessions[session];

    assert_true(session < files->set->session_count && at->count < sizeof text);
    for (uint32_t i = 0; i < at->count; i++)
        text[i] = files->set->items[files->set->events[at->first + i].item].name[0];
    text[at->count] = '\0';
    return text;
}

static const char TIMED[] = EVAL_HEADER
    /* one: begins and ends before the cut, out of order in the file, an item twice in a row */
    "10\t\tone\tb\tclick\t\n"
    "5\t\tone\ta\tclick\t2.5\n"
    "11\t\tone\tb\tclick\t\n"
    "12\t\tone\tc\tclick\t\n"
    /* goes by the user; a cancelled line is nothing */
    "6\tu\t\tx\tbuy\t\n"
    "7\tu\t\tz\tcancel\t\n"
    "8\tu\t\ty\todd\t\n"
    /* one item only, across the cut, and behind it */
    "20\t\ttwo\ta\tclick\t\n"
    "49\t\tover\ta\tclick\t\n"
    "61\t\tover\tb\tclick\t\n"
    "60\t\tlate\tc\tclick\t\n"
    "70\t\tlate\ta\tclick\t\n"
    "105\t\tlate\tb\tclick\t\n";

static void timed_logs_are_split_in_time(void **state)
{
    struct eval_files *files = *state;

    eval_read_well(files, TIMED); /* 5 to 105: the cut is at 55 */
    struct dn_eval_facts facts = facts_of(files);
    assert_string_equal(facts.format, "timed");
    assert_int_equal(facts.cut_ms, 55000);
    assert_int_equal(facts.lines, 13);
    assert_int_equal(facts.left_out, 1);
    assert_int_equal(facts.other_types, 1);
    assert_int_equal(facts.single, 1);
    assert_int_equal(facts.across, 1);
    assert_int_equal(facts.train_sessions, 2);
    assert_int_equal(facts.train_events, 5);
    assert_int_equal(facts.test_sessions, 1);
    assert_int_equal(facts.cases, 2);
    assert_string_equal(items_of(files, 0), "xy"); /* ends first */
    assert_string_equal(items_of(files, 1), "abc");
    assert_string_equal(items_of(files, 2), "cab");
    assert_true(files->set->drop_last);
    assert_int_equal(files->set->cases[1].length, 2);
    assert_int_equal(files->set->events[files->set->sessions[0].first].type, DN_EVENT_BUY);
    uint32_t a = dn_eval_item_find(files->set, dn_hash64("a", 1, 0), "a", 1);
    assert_true(files->set->items[a].price > 2.4f && files->set->items[a].price < 2.6f);
    assert_int_equal(dn_eval_item_find(files->set, dn_hash64("z", 1, 0), "z", 1), DN_EVAL_NO_ITEM);
}

static void choices_change_it(void **state)
{
    struct eval_files *files = *state;

    files->input.repeats = DN_EVAL_YES;
    files->input.last_item = DN_EVAL_YES;
    files->input.drop_types = "odd,buy";
    files->input.item_pattern = "^[a-c]$";
    eval_read_well(files, TIMED); /* u's are all left out */
    assert_int_equal(facts_of(files).left_out, 3);
    assert_int_equal(facts_of(files).train_sessions, 1);
    assert_string_equal(items_of(files, 0), "abbc");
    assert_false(files->set->drop_last);
    files->input.gap_ms = 9999; /* 10 to 12 and 5 belong together; of late only single items are left */
    files->input.split = 0.2;
    assert_int_equal(eval_read(files, TIMED), DN_INVALID);
    files->input.gap_ms = 10000;
    eval_read_well(files, TIMED);
    assert_string_equal(items_of(files, 1), "ca");
}

static void packed_files_and_json_lines_are_the_same(void **state)
{
    struct eval_files *files = *state;
    static const char JSON[] =
        "{\"time_ms\":1000,\"session\":\"s\",\"user\":\"u\",\"item\":\"a\"}\n\n"
        "{\"time_ms\":2000,\"session\":\"s\",\"item\":\"b\",\"type\":\"view\",\"price\":3}\n"
        "{\"time_ms\":8000,\"user\":\"u\",\"item\":\"c\",\"session\":null}\n"
        "{\"time_ms\":9000,\"user\":\"u\",\"item\":\"a\"}\n";

    eval_read_well(files, JSON);
    assert_string_equal(facts_of(files).format, "JSON lines");
    assert_string_equal(items_of(files, 0), "ab");
    assert_string_equal(items_of(files, 1), "ca");
    dn_eval_set_free(files->set);
    files->input.events = eval_file(files, TIMED, sizeof TIMED - 1, true);
    assert_int_equal(dn_eval_read(&files->input, &files->set, &files->err), DN_OK);
    assert_int_equal(facts_of(files).cases, 2);
}

static void sequences_take_pairs(void **state)
{
    struct eval_files *files = *state;
    static const char PAIRS[] = "a b\tc\na\tb\n\nc a\ta\nc\ta\nb\tq\n";

    files->input.test = eval_file(files, PAIRS, sizeof PAIRS - 1, false);
    eval_read_well(files, "a b c\nb b\nz\n");
    struct dn_eval_facts facts = facts_of(files);
    assert_true(facts.pairs);
    assert_int_equal(facts.train_sessions, 2); /* z alone is none */
    assert_string_equal(items_of(files, 1), "bb");
    assert_int_equal(facts.cases, 5);
    assert_int_equal(facts.test_sessions, 3);
    static const uint32_t clusters[] = {0, 0, 1, 1, 2};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(files->set->cases[i].cluster, clusters[i]);
    const struct dn_eval_case *third = &files->set->cases[2];
    assert_int_equal(third->length, 2);
    assert_int_equal(files->set->items[files->set->events[third->first].item].name[0], 'c');
    assert_int_equal(files->set->items[files->set->events[third->first + 2].item].name[0], 'a');
    assert_false(files->set->drop_last);
    assert_true(files->set->events[third->first].time_ms >
                files->set->sessions[facts.train_sessions - 1].end_ms);
}

static void sequences_are_split_by_order(void **state)
{
    struct eval_files *files = *state;

    eval_read_well(files, "a b\nb c\nc d\nd e\n");
    assert_int_equal(facts_of(files).train_sessions, 2);
    assert_string_equal(items_of(files, 0), "ab");
    assert_string_equal(items_of(files, 2), "cd");
}

/* ---- refusals ---------------------------------------------------------------------------------------- */

static void refused(struct eval_files *files, const char *text, const char *why)
{
    files->count = files->count < EVAL_FILES_MAX ? files->count : EVAL_FILES_MAX - 1;
    enum dn_code code = eval_read(files, text);

    assert_int_equal(code, DN_INVALID);
    assert_null(files->set);
    if (strstr(files->err.message, why) == NULL)
        fail_msg("'%s' is not in '%s'", why, files->err.message);
    unlink(files->paths[files->count - 1]);
    files->count--;
}

static void bad_lines_are_refused_by_number(void **state)
{
    struct eval_files *files = *state;
    static char line[DN_EVAL_LINE_MAX + 100];

    refused(files, EVAL_HEADER "1\t\ts\ta\t\t\n2\t\ts\ta\t\n", "line 3: expected six fields");
    refused(files, EVAL_HEADER "1\t\ts\ta\t\t\t\n", "line 2: expected six fields");
    refused(files, EVAL_HEADER "now\t\ts\ta\t\t\n", "line 2: ts is not");
    refused(files, EVAL_HEADER "nan\t\ts\ta\t\t\n", "line 2: ts is not");
    refused(files, EVAL_HEADER "1e99\t\ts\ta\t\t\n", "line 2: ts is not");
    refused(files, EVAL_HEADER "-1\t\ts\ta\t\t\n", "line 2: ts is not");
    refused(files, EVAL_HEADER "1\t\t\ta\t\t\n", "line 2: neither session nor user");
    refused(files, EVAL_HEADER "1\t\ts\t\xff\t\t\n", "line 2: the item is not");
    refused(files, "{\"time_ms\":1,\"session\":\"s\",\"item\":\"a\"}\n{\n", "line 2: ");
    refused(files, "{\"time_ms\":1,\"session\":7,\"item\":\"a\"}\n", "line 1: session, user");
    refused(files, "{\"time_ms\":1.5,\"session\":\"s\",\"item\":\"a\"}\n", "line 1: time_ms");
    refused(files, "{\"time_ms\":1,\"session\":\"s\"}\n", "line 1: the item is not");
    refused(files, "a b\nc\td\n", "line 2: a tab");
    refused(files, "a \xc0\xaf\n", "line 1: an item is not");
    refused(files, "", "no event in it");
    refused(files, EVAL_HEADER, "no event in it");
    refused(files, "a b\n", "there must be some of both");
    memset(line, 'a', sizeof line - 1);
    refused(files, line, "line 1: longer than 65,535 bytes");
    line[300] = '\0';
    refused(files, line, "line 1: an item is not");
}

static void bad_pairs_are_refused(void **state)
{
    struct eval_files *files = *state;
    static const char *const PAIRS[] = {"a b\n", "a\t\n", "\ta\n", "a\tb c\n", "a\tb\tc\n"};

    for (size_t i = 0; i < sizeof PAIRS / sizeof PAIRS[0]; i++) {
        files->count = 0;
        files->input.test = eval_file(files, PAIRS[i], strlen(PAIRS[i]), false);
        refused(files, "a b\nb c\n", "line 1: expected items separated by spaces, a tab, and one item");
    }
    refused(files, TIMED, "takes no file of tests");
}

static void bad_options_are_refused(void **state)
{
    struct eval_files *files = *state;
    const struct dn_eval_input good = files->input;

    files->input.split = 1;
    refused(files, TIMED, "split is 1");
    files->input.split = NAN;
    refused(files, TIMED, "split is");
    files->input = good;
    files->input.item_pattern = "[a";
    refused(files, TIMED, "item pattern '[a': ");
    files->input = good;
    files->input.pace_ms = 0;
    refused(files, TIMED, "pace_ms");
    files->input = good;
    files->input.events = "/nowhere/at/all";
    assert_int_equal(dn_eval_read(&files->input, &files->set, &files->err), DN_IO);
    assert_non_null(strstr(files->err.message, "/nowhere/at/all"));
}

static void a_cut_gzip_file_is_no_end(void **state)
{
    struct eval_files *files = *state;
    static char text[200000];
    size_t length = (size_t)snprintf(text, sizeof text, EVAL_HEADER);

    for (unsigned i = 0; length < sizeof text - 100; i++) /* something that does not pack to nothing */
        length += (size_t)snprintf(text + length, sizeof text - length, "%u\t\ts%u\ti%u\tclick\t\n", i,
                                   i * 2654435761u, i * 40503u);
    files->input.events = eval_file(files, text, length, true);
    assert_int_equal(truncate(files->input.events, 20000), 0);
    assert_int_equal(dn_eval_read(&files->input, &files->set, &files->err), DN_IO);
    assert_non_null(strstr(files->err.message, "after line"));
}

/* Good files with some bytes changed: read or refused, and a set that was read holds together. */
static void garbage_is_read_or_refused(void **state)
{
    struct eval_files *files = *state;
    static const char JSON[] = "{\"time_ms\":1000,\"session\":\"s\",\"item\":\"a\"}\n"
                               "{\"time_ms\":2000,\"session\":\"s\",\"item\":\"b\"}\n"
                               "{\"time_ms\":8000,\"user\":\"u\",\"item\":\"c\"}\n"
                               "{\"time_ms\":9000,\"user\":\"u\",\"item\":\"a\"}\n";
    static const char *const SEEDS[] = {TIMED, "a b c\nb c\nc d e\na c\n", JSON};
    uint64_t random = 1;
    unsigned read = 0, refusals = 0;
    char text[1024];

    for (unsigned turn = 0; turn < 1500; turn++) {
        size_t length = strlen(SEEDS[turn % 3]);
        memcpy(text, SEEDS[turn % 3], length);
        for (unsigned changes = turn % 5; changes > 0; changes--) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            text[(random >> 33) % length] = "\t\n \"{\0\xff"
                                            "19a\x80-e"[(random >> 20) % 13];
        }
        files->count = 0;
        files->input.events = eval_file(files, text, length, false);
        files->err.message[0] = '\0';
        if (dn_eval_read(&files->input, &files->set, &files->err) != DN_OK) {
            assert_true(files->err.message[0] != '\0');
            refusals++;
            continue;
        }
        for (size_t i = 0; i < files->set->case_count; i++) {
            const struct dn_eval_case *at = &files->set->cases[i];
            assert_true(at->length > 0 && at->first + at->length < files->set->event_count);
            assert_true(at->cluster < files->set->cluster_count);
            assert_true(files->set->events[at->first + at->length].item < files->set->item_count);
        }
        dn_eval_set_free(files->set);
        files->set = NULL;
        read++;
    }
    assert_true(read > 300 && refusals > 300);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, eval_files_open, eval_files_close)
    const struct CMUnitTest tests[] = {
        T(timed_logs_are_split_in_time),
        T(choices_change_it),
        T(packed_files_and_json_lines_are_the_same),
        T(sequences_take_pairs),
        T(sequences_are_split_by_order),
        T(bad_lines_are_refused_by_number),
        T(bad_pairs_are_refused),
        T(bad_options_are_refused),
        T(a_cut_gzip_file_is_no_end),
        T(garbage_is_read_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
