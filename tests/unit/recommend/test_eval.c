/* Whole runs of the evaluator on small logs: places worked out by hand, and what must not matter. */
#include "eval_files.h"

#include <math.h>

#define NEAR(a, b) assert_true(fabs((a) - (b)) < 1e-6)
#define SOURCE(name) (DN_EVAL_SOURCES + DN_SOURCE_##name)

struct run {
    struct eval_files *files;
    struct dn_eval_options options;
    struct dn_eval_result *result;
};

static struct run prepare(struct eval_files *files, uint32_t methods)
{
    struct run run = {.files = files};

    dn_eval_options_default(&run.options);
    run.options.methods = methods;
    run.options.ks[0] = 1;
    run.options.ks[1] = 3;
    run.options.k_count = 2;
    return run;
}

static void go(struct run *run)
{
    free(run->result);
    run->result = NULL;
    if (dn_eval_run(run->files->set, &run->options, &run->result, &run->files->err) != DN_OK)
        fail_msg("%s", run->files->err.message);
    assert_int_equal(run->result->refused, 0);
}

static const struct dn_eval_method *method(const struct run *run, unsigned number)
{
    for (size_t i = 0; i < run->result->method_count; i++)
        if (strcmp(run->result->methods[i].name, dn_eval_method_name(number)) == 0)
            return &run->result->methods[i];
    fail_msg("no method %u", number);
    return NULL;
}

/* p is clicked four times before the cut, q three times, r twice. */
static const char POPULAR[] = EVAL_HEADER "1\t\ts1\tp\t\t\n2\t\ts1\tq\t\t\n3\t\ts1\tp\t\t\n"
                                          "4\t\ts2\tp\t\t\n5\t\ts2\tq\t\t\n6\t\ts2\tr\t\t\n"
                                          "7\t\ts3\tr\t\t\n8\t\ts3\tq\t\t\n9\t\ts3\tp\t\t\n"
                                          "90\t\tt\tr\t\t\n91\t\tt\tq\t\t\n92\t\tt\tp\t\t\n93\t\tt\tnew\t\t\n"
                                          "94\t\tt\tr\t\t\n";

static void popularity_is_counted_before_the_cut(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_POPULAR);

    eval_read_well(run.files, POPULAR);
    go(&run);
    /* Without the item just clicked: r -> p q: 2nd; q -> p: 1st; p -> new: never; new -> p q r: 3rd. */
    assert_int_equal(run.result->predictions, 4);
    NEAR(method(&run, DN_EVAL_POPULAR)->at[0].hr.mean, 0.25);
    NEAR(method(&run, DN_EVAL_POPULAR)->at[1].hr.mean, 0.75);
    NEAR(method(&run, DN_EVAL_POPULAR)->at[1].mrr.mean, (0.5 + 1 + 1.0 / 3) / 4);
    NEAR(method(&run, DN_EVAL_POPULAR)->at[1].coverage, 3.0 / 4); /* p, q and r of four */
    run.options.hide_seen = true;
    go(&run); /* r -> p q: 2nd; q: p: 1st; nothing is left of what comes then */
    NEAR(method(&run, DN_EVAL_POPULAR)->at[1].mrr.mean, (0.5 + 1) / 4);
    free(run.result);
}

static void popularity_goes_on_live(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_POPULAR);
    static const char text[] = EVAL_HEADER "1\t\ts1\ta\t\t\n2\t\ts1\tb\t\t\n"
                                           "90\t\tt\tx\t\t\n91\t\tu\tx\t\t\n92\t\tv\ta\t\t\n93\t\tv\tx\t\t\n"
                                           "94\t\tt\tb\t\t\n95\t\tu\tb\t\t\n";

    eval_read_well(run.files, text);
    run.options.live = true;
    go(&run);
    /* v: after a, x has 2 clicks and b 1: 1st. t: after x, a (2) is before b (1): 2nd. u: a and b have 2: by
     * name, 2nd. */
    assert_int_equal(run.result->predictions, 3);
    NEAR(method(&run, DN_EVAL_POPULAR)->at[0].hr.mean, 1.0 / 3);
    NEAR(method(&run, DN_EVAL_POPULAR)->at[1].mrr.mean, (1 + 0.5 + 0.5) / 3);
    run.options.live = false;
    go(&run); /* x was never seen: all three a b, or b alone behind a */
    NEAR(method(&run, DN_EVAL_POPULAR)->at[1].mrr.mean, (0 + 0.5 + 0.5) / 3);
    free(run.result);
}

/* a is followed by b once, by c twice. */
static const char RULES[] = EVAL_HEADER "1\t\ts1\ta\t\t\n2\t\ts1\tb\t\t\n3\t\ts2\ta\t\t\n4\t\ts2\tc\t\t\n"
                                        "5\t\ts3\ta\t\t\n6\t\ts3\tc\t\t\n90\t\tt1\ta\t\t\n91\t\tt1\tb\t\t\n"
                                        "92\t\tt2\ta\t\t\n93\t\tt2\tb\t\t\n94\t\tt3\ta\t\t\n95\t\tt3\tb\t\t\n"
                                        "96\t\tt4\ta\t\t\n97\t\tt4\tb\t\t\n";

static void sources_are_asked_alone(void **state)
{
    struct run run = prepare(*state, 1u << SOURCE(RULES) | 1u << SOURCE(COVIS) | 1u << SOURCE(VMIS));

    eval_read_well(run.files, RULES);
    run.options.recall = true;
    go(&run);
    assert_int_equal(run.result->predictions, 4);
    for (size_t m = 0; m < run.result->method_count; m++) {
        NEAR(run.result->methods[m].at[1].hr.mean, 1);
        NEAR(run.result->methods[m].recall.mean, 1);
    }
    /* c, then b; but b is the rarer one by more than c is the commoner: ln(4 / 2) against 2 ln(4 / 3). */
    NEAR(method(&run, SOURCE(COVIS))->at[1].mrr.mean, 0.5);
    NEAR(method(&run, SOURCE(VMIS))->at[1].mrr.mean, 1);
    NEAR(method(&run, SOURCE(RULES))->at[1].mrr.mean, 0.5);
    free(run.result);
}

static void what_only_fills_places_is_no_candidate(void **state)
{
    struct run run = prepare(*state, 1u << SOURCE(RULES));

    eval_read_well(run.files, POPULAR);
    run.options.recall = true;
    run.options.ks[1] = 10;
    go(&run); /* nothing leads to `new`, which the catalogue has */
    NEAR(method(&run, SOURCE(RULES))->recall.mean, 0.75);
    NEAR(method(&run, SOURCE(RULES))->at[1].hr.mean, 1);
    free(run.result);
}

/* What the pipeline is given. */
static void prefixes_and_items_are_as_the_state_would_have_them(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_BLEND);
    struct dn_eval_state *own = calloc(1, sizeof *own);
    static const char text[] = EVAL_HEADER "1\t\ts\ta\tbuy\t2.5\n2\t\ts\tb\tview\t\n3\t\ts\ta\tbuy\t9\n"
                                           "90\t\tt\ta\tbuy\t\n91\t\tt\tb\tcart\t\n92\t\tt\tc\tview\t\n"
                                           "93\t\tt\ta\tview\t\n";
    struct dn_session_view view;
    struct dn_item item;

    eval_read_well(run.files, text);
    run.options.settings.events_per_user = 2;
    assert_int_equal(dn_eval_state_open(own, run.files->set, &run.options, &run.files->err), DN_OK);
    assert_true(dn_eval_prefix(own, &run.files->set->cases[2], own->arena, &view));
    assert_int_equal(view.event_count, 2);
    assert_int_equal(view.session_events, 3);
    assert_int_equal(view.events[0].item[0], 'b');
    assert_int_equal(view.events[0].type, DN_EVENT_CART);
    assert_int_equal(view.events[1].item[0], 'c');
    assert_int_equal(view.start_ms, 90000);
    assert_int_equal(view.last_ms, 92000);
    assert_int_equal(view.counts[DN_EVENT_VIEW], 1);
    dn_epoch_enter(own->reader);
    assert_int_equal(dn_catalog_get(own->catalog, "a", 1, &item), DN_OK);
    NEAR(item.price, 2.5);
    assert_int_equal(dn_catalog_get(own->catalog, "b", 1, &item), DN_OK);
    assert_true(isnan(item.price));
    dn_epoch_leave(own->reader);
    dn_eval_state_close(own);
    /* Or nothing is known of an item before its first click. */
    run.options.cold = false;
    assert_int_equal(dn_eval_state_open(own, run.files->set, &run.options, &run.files->err), DN_OK);
    assert_int_equal(dn_catalog_item_count(own->catalog), 0);
    struct dn_eval_step first = {.session = 0, .position = 0};
    assert_int_equal(dn_eval_take(own, &first, true, &run.files->err), DN_OK);
    assert_int_equal(dn_catalog_item_count(own->catalog), 1);
    dn_eval_state_close(own);
    free(own);
}

static void a_click_counts_only_after_it_was_asked_for(void **state)
{
    struct run run = prepare(*state, 1u << SOURCE(RULES));

    eval_read_well(run.files, RULES);
    run.options.live = true;
    go(&run);
    /* b is behind c twice (1 and 2 clicks against 2: by name it is first at 2), then first. */
    NEAR(method(&run, SOURCE(RULES))->at[0].hr.mean, 0.75);
    NEAR(method(&run, SOURCE(RULES))->at[1].mrr.mean, (0.5 + 1 + 1 + 1) / 4);
    free(run.result);
}

static void learning_steps_are_those_of_the_newest_sessions(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_BLEND);

    eval_read_well(run.files, POPULAR);
    go(&run); /* three sessions of three */
    assert_int_equal(run.result->events, 9);
    assert_int_equal(run.result->steps, 6);
    run.options.learn = 1;
    go(&run);
    assert_int_equal(run.result->steps, 2);
    run.options.live = true;
    go(&run);
    assert_int_equal(run.result->events, 14);
    assert_int_equal(run.result->steps, 6);
    run.options.learn = 0;
    go(&run);
    assert_int_equal(run.result->steps, 0);
    free(run.result);
}

/* ---- what must not matter ---------------------------------------------------------------------------- */

enum { SESSIONS = 300, ITEMS = 40 };

/* Sessions walk up a ring of items, in steps of 1 to 3. */
static void read_rings(struct eval_files *files)
{
    static char text[SESSIONS * 8 * 40];
    size_t length = (size_t)snprintf(text, sizeof text, EVAL_HEADER);
    uint32_t random = 12345;

    for (unsigned s = 0; s < SESSIONS; s++) {
        unsigned item = s * 7 % ITEMS;
        for (unsigned i = 0; i < 2 + s % 6; i++) {
            length += (size_t)snprintf(text + length, sizeof text - length, "%u\t\ts%u\ti%u\tview\t\n",
                                       1000 + s * 20 + i * 7, s, item);
            random = random * 1664525u + 1013904223u;
            item = (item + 1 + random / 65536 % 3) % ITEMS;
        }
    }
    eval_read_well(files, text);
}

/* Popularity of a larger log against plain counts: more items than places, more predictions than a thread
 * takes at a time. */
static void places_of_popular_items_by_plain_counts(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_POPULAR);
    unsigned clicks[ITEMS] = {0};
    double hits = 0;

    read_rings(run.files);
    const struct dn_eval_set *set = run.files->set;
    assert_int_equal(set->item_count, ITEMS);
    assert_true(set->case_count > 100);
    for (size_t s = 0; s < set->train_count; s++)
        for (uint32_t i = 0; i < set->sessions[s].count; i++)
            clicks[set->events[set->sessions[s].first + i].item]++;
    for (size_t c = 0; c < set->case_count; c++) {
        const struct dn_eval_event *events = &set->events[set->cases[c].first];
        uint32_t last = events[set->cases[c].length - 1].item, target = events[set->cases[c].length].item;
        unsigned before = 0;
        for (uint32_t i = 0; i < ITEMS; i++) {
            const struct dn_eval_item *a = &set->items[i], *b = &set->items[target];
            size_t shorter = a->length < b->length ? a->length : b->length;
            int order = memcmp(a->name, b->name, shorter);
            bool first = order != 0 ? order < 0 : a->length < b->length;
            before += i != last && (clicks[i] > clicks[target] || (clicks[i] == clicks[target] && first));
        }
        hits += before < 3;
    }
    assert_true(hits > 3);
    go(&run);
    NEAR(method(&run, DN_EVAL_POPULAR)->at[1].hr.mean, hits / (double)set->case_count);
    run.options.ks[1] = ITEMS;
    go(&run);
    NEAR(method(&run, DN_EVAL_POPULAR)->at[1].hr.mean, 1);
    free(run.result);
}

static void same(const struct dn_eval_result *a, const struct dn_eval_result *b, double within)
{
    assert_int_equal(a->predictions, b->predictions);
    assert_int_equal(a->method_count, b->method_count);
    for (size_t m = 0; m < a->method_count; m++)
        for (size_t i = 0; i < a->k_count; i++) {
            assert_true(fabs(a->methods[m].at[i].hr.mean - b->methods[m].at[i].hr.mean) <= within);
            assert_true(fabs(a->methods[m].at[i].mrr.mean - b->methods[m].at[i].mrr.mean) <= within);
            assert_true(fabs(a->methods[m].at[i].coverage - b->methods[m].at[i].coverage) <= within);
        }
}

static void threads_change_nothing(void **state)
{
    struct run run = prepare(*state, (1u << DN_EVAL_METHODS) - 1);
    struct dn_eval_result *one;

    read_rings(run.files);
    go(&run);
    one = run.result;
    run.result = NULL;
    assert_true(one->methods[0].at[1].hr.mean > 0.8); /* there are three places to go to */
    assert_int_equal(one->method_count, DN_EVAL_METHODS);
    run.options.threads = 4;
    go(&run);
    same(one, run.result, 0);
    free(one);
    free(run.result);
}

/* Sums over shards come in another order, and the neighbours of each are chosen by itself. */
static void shards_change_little(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_BLEND | 1u << DN_EVAL_POPULAR | 1u << SOURCE(RULES));
    struct dn_eval_result *one;

    run.options.shards = 1;
    read_rings(run.files);
    go(&run);
    one = run.result;
    run.result = NULL;
    run.options.shards = 3;
    go(&run);
    same(one, run.result, 0.03);
    free(one);
    free(run.result);
}

static void samples_go_by_the_seed(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_POPULAR);
    struct dn_eval_result *first;

    read_rings(run.files);
    run.options.max = 40;
    go(&run);
    first = run.result;
    run.result = NULL;
    assert_int_equal(first->predictions, 40);
    go(&run);
    same(first, run.result, 0);
    run.options.seed = 8;
    go(&run);
    assert_int_equal(run.result->predictions, 40);
    assert_true(run.result->sessions != first->sessions ||
                fabs(run.result->methods[0].at[1].mrr.mean - first->methods[0].at[1].mrr.mean) > 1e-9);
    free(first);
    run.options.live = true;
    go(&run); /* the first sessions */
    assert_true(run.result->predictions >= 20 && run.result->predictions <= 60);
    assert_true(run.result->window_count >= 1);
    free(run.result);
}

/* A run that is compared with one of other weights: the difference of the means, and a narrower interval. */
static void runs_are_compared_by_prediction(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_BLEND);

    read_rings(run.files);
    char path[160];
    snprintf(path, sizeof path, "%s.places", run.files->folder);
    run.options.save = path;
    go(&run);
    struct dn_eval_result *before = run.result;
    run.result = NULL;
    run.options.save = NULL;
    run.options.against = path;
    go(&run);
    NEAR(run.result->methods[0].hr_gain.mean, 0);
    NEAR(run.result->methods[0].mrr_gain.half, 0);
    run.options.recommend.sources_off = 1u << DN_SOURCE_RULES;
    run.options.learn = 0;
    go(&run);
    const struct dn_eval_at *was = &before->methods[0].at[1], *is = &run.result->methods[0].at[1];
    assert_true(fabs(is->mrr.mean - was->mrr.mean) > 1e-3);
    NEAR(run.result->methods[0].mrr_gain.mean, is->mrr.mean - was->mrr.mean);
    NEAR(run.result->methods[0].hr_gain.mean, is->hr.mean - was->hr.mean);
    assert_true(run.result->methods[0].mrr_gain.half > 0);
    assert_true(run.result->methods[0].mrr_gain.half < was->mrr.half + is->mrr.half);
    free(before);
    free(run.result);
    unlink(path);
}

static void files_of_places_are_not_believed(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_BLEND);
    static const struct {
        const char *text, *why;
    } bad[] = {{"", "no file of places"},
               {"dunlin-eval-places 2\n1 3 0\n1\n", "no file of places"},
               {"dunlin-eval-places 1\n1 3 0\n1\n", "of other predictions"}};

    eval_read_well(run.files, RULES);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        run.options.against = eval_file(run.files, bad[i].text, strlen(bad[i].text), false);
        assert_int_equal(dn_eval_run(run.files->set, &run.options, &run.result, &run.files->err), DN_INVALID);
        assert_non_null(strstr(run.files->err.message, bad[i].why));
    }
    const char *path = eval_file(run.files, "", 0, false);
    run.options.against = NULL;
    run.options.save = path;
    go(&run);
    run.options.save = NULL;
    run.options.against = path;
    assert_int_equal(truncate(path, 45), 0); /* within the second place's line */
    struct dn_eval_result *none = NULL;
    assert_int_equal(dn_eval_run(run.files->set, &run.options, &none, &run.files->err), DN_INVALID);
    assert_non_null(strstr(run.files->err.message, "no place from 0 to 3"));
    free(run.result);
}

static void vectors_are_a_source(void **state)
{
    struct run run = prepare(*state, 1u << SOURCE(VECTOR));
    static const char vectors[] = "3 2\na 1 0\nb 0 1\nc 0.9 0.1\n", other[] = "2 2\na 1 0\nb 1\n";

    eval_read_well(run.files, RULES);
    char with_end[160];
    snprintf(with_end, sizeof with_end, "%s.vec", run.files->folder);
    rename(eval_file(run.files, vectors, sizeof vectors - 1, false), with_end);
    run.options.items = with_end;
    go(&run); /* c is nearest to a, then b */
    NEAR(method(&run, SOURCE(VECTOR))->at[1].mrr.mean, 0.5);
    rename(eval_file(run.files, other, sizeof other - 1, false), with_end);
    assert_int_equal(dn_eval_run(run.files->set, &run.options, &run.result, &run.files->err), DN_INVALID);
    assert_non_null(strstr(run.files->err.message, "line 3"));
    unlink(with_end);
    free(run.result);
}

static void refusal(struct run *run, const char *why)
{
    assert_int_equal(dn_eval_run(run->files->set, &run->options, &run->result, &run->files->err), DN_INVALID);
    assert_non_null(strstr(run->files->err.message, why));
}

static void impossible_options_are_refused(void **state)
{
    struct run run = prepare(*state, 1u << DN_EVAL_BLEND);
    static const char pairs[] = "a\tb\n";

    eval_read_well(run.files, RULES);
    const struct dn_eval_options good = run.options;
    run.options.ks[1] = 1;
    refusal(&run, "k must rise");
    run.options = good;
    run.options.ks[1] = 1001;
    refusal(&run, "k must rise");
    run.options = good;
    run.options.k_count = 0;
    refusal(&run, "values of k");
    run.options = good;
    run.options.threads = 33;
    refusal(&run, "threads");
    run.options = good;
    run.options.shards = 0;
    refusal(&run, "shards");
    run.options = good;
    run.options.methods = 0;
    refusal(&run, "nothing to compare");
    run.options = good;
    run.options.settings.idle_ms = 1;
    refusal(&run, "idle_ms");
    run.options = good;
    run.options.live = true;
    run.files->input.test = eval_file(run.files, pairs, sizeof pairs - 1, false);
    eval_read_well(run.files, "a b\nb c\n");
    refusal(&run, "no order in time");
    assert_null(run.result);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, eval_files_open, eval_files_close)
    const struct CMUnitTest tests[] = {
        T(popularity_is_counted_before_the_cut),
        T(popularity_goes_on_live),
        T(sources_are_asked_alone),
        T(what_only_fills_places_is_no_candidate),
        T(prefixes_and_items_are_as_the_state_would_have_them),
        T(a_click_counts_only_after_it_was_asked_for),
        T(learning_steps_are_those_of_the_newest_sessions),
        T(places_of_popular_items_by_plain_counts),
        T(threads_change_nothing),
        T(shards_change_little),
        T(samples_go_by_the_seed),
        T(runs_are_compared_by_prediction),
        T(files_of_places_are_not_believed),
        T(vectors_are_a_source),
        T(impossible_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
