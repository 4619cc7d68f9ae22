/* What a run of the evaluator promises besides its numbers: whose sources are off, of which request the
 * candidates are, that the index is there, and that files cost nobody a run. */
#include "eval_files.h"

#include <math.h>

#define NEAR(a, b) assert_true(fabs((a) - (b)) < 1e-6)
#define SOURCE(name) (DN_EVAL_SOURCES + DN_SOURCE_##name)

struct run {
    struct eval_files *files;
    struct dn_eval_options options;
    struct dn_eval_result *result;
    unsigned reports; /* of work that was begun */
};

/* a is followed by b once, by c twice. */
static const char CLICKS[] = EVAL_HEADER "1\t\ts1\ta\t\t\n2\t\ts1\tb\t\t\n3\t\ts2\ta\t\t\n4\t\ts2\tc\t\t\n"
                                         "5\t\ts3\ta\t\t\n6\t\ts3\tc\t\t\n90\t\tt1\ta\t\t\n91\t\tt1\tb\t\t\n"
                                         "92\t\tt2\ta\t\t\n93\t\tt2\tb\t\t\n";

static void reported(void *data, const char *what, uint64_t done, uint64_t total)
{
    struct run *run = data;

    (void)what;
    (void)done;
    (void)total;
    run->reports++;
}

static void prepare(struct run *run, struct eval_files *files, uint32_t methods)
{
    *run = (struct run){.files = files};
    dn_eval_options_default(&run->options);
    run->options.methods = methods;
    run->options.ks[0] = 1;
    run->options.ks[1] = 3;
    run->options.k_count = 2;
    run->options.recall = true;
    run->options.progress = reported;
    run->options.progress_data = run;
}

static enum dn_code try(struct run *run)
{
    free(run->result);
    run->result = NULL;
    run->reports = 0;
    return dn_eval_run(run->files->set, &run->options, &run->result, &run->files->err);
}

static void go(struct run *run)
{
    if (try(run) != DN_OK)
        fail_msg("%s", run->files->err.message);
}

static void what_the_blend_does_without_is_on_by_itself(void **state)
{
    struct run run;

    prepare(&run, *state, 1u << DN_EVAL_BLEND | 1u << SOURCE(RULES));
    eval_read_well(run.files, CLICKS);
    run.options.learn = 0;
    go(&run);
    NEAR(run.result->methods[0].recall.mean, 1);
    run.options.recommend.sources_off = (1u << DN_SOURCE_COUNT) - 1;
    go(&run);
    assert_string_equal(run.result->methods[0].name, "blend");
    NEAR(run.result->methods[0].recall.mean, 0);
    assert_string_equal(run.result->methods[1].name, "rules");
    NEAR(run.result->methods[1].recall.mean, 1);
    NEAR(run.result->methods[1].at[1].mrr.mean, 0.5); /* c, then b */
    free(run.result);
}

/* Vectors of v0, v1, ...: each a step further round. */
static const char *vectors(struct eval_files *files, unsigned count)
{
    static char path[160], text[65536];
    size_t length = (size_t)snprintf(text, sizeof text, "%u 2\n", count);

    for (unsigned i = 0; i < count; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "v%u %.6f %.6f\n", i, cos(0.001 * i),
                                   sin(0.001 * i));
    assert_true(length < sizeof text - 64);
    snprintf(path, sizeof path, "%s.vec", files->folder);
    assert_int_equal(rename(eval_file(files, text, length, false), path), 0);
    return path;
}

/* The vector source offers 33 for k = 3: a larger k than the one that is served would find v90. */
static void candidates_are_of_the_request_that_is_measured(void **state)
{
    struct run run;
    static const char text[] = EVAL_HEADER "1\t\ts1\tv50\t\t\n2\t\ts1\tv51\t\t\n90\t\tt1\tv0\t\t\n"
                                           "91\t\tt1\tv10\t\t\n92\t\tt2\tv0\t\t\n93\t\tt2\tv90\t\t\n";

    prepare(&run, *state, 1u << SOURCE(VECTOR));
    eval_read_well(run.files, text);
    run.options.items = vectors(run.files, 100);
    go(&run);
    NEAR(run.result->methods[0].at[1].hr.mean, 0);
    NEAR(run.result->methods[0].recall.mean, 0.5); /* v10 */
    run.options.live = true;
    go(&run);
    NEAR(run.result->methods[0].recall.mean, 0.5);
    run.options.live = false;
    run.options.ks[1] = 60;
    go(&run);
    NEAR(run.result->methods[0].recall.mean, 1);
    unlink(run.options.items);
    free(run.result);
}

static void nothing_is_measured_without_the_index(void **state)
{
    struct run run;
    struct dn_eval_state *own = calloc(1, sizeof *own);
    struct dn_retrieval_status status;

    prepare(&run, *state, 1u << SOURCE(VECTOR));
    eval_read_well(run.files, CLICKS);
    run.options.items = vectors(run.files, 1500);
    run.options.factory = "IVF4096,Flat"; /* more lists than vectors */
    assert_int_equal(try(&run), DN_UNAVAILABLE);
    assert_non_null(strstr(run.files->err.message, "the index 'IVF4096,Flat' is not built"));
    assert_int_equal(run.reports, 0);
    run.options.factory = "IVF4,Flat";
    assert_int_equal(dn_eval_state_open(own, run.files->set, &run.options, &run.files->err), DN_OK);
    dn_retrieval_status(own->retrieval, &status);
    assert_string_equal(status.factory, "IVF4,Flat");
    assert_int_equal(status.built_items, 1500);
    assert_int_equal(status.pending, 0);
    dn_eval_state_close(own);
    free(own);
    unlink(run.options.items);
}

static void refused_at_once(struct run *run, enum dn_code wanted, const char *why)
{
    assert_int_equal(try(run), wanted);
    if (strstr(run->files->err.message, why) == NULL)
        fail_msg("no '%s' in: %s", why, run->files->err.message);
    assert_int_equal(run->reports, 0);
}

/* Another run's file is looked at, and the own one opened, before anything is learned; batch and live. */
static void files_are_looked_at_before_the_work(void **state)
{
    struct run run;
    char path[160], text[256] = "";

    prepare(&run, *state, 1u << DN_EVAL_BLEND);
    eval_read_well(run.files, CLICKS);
    snprintf(path, sizeof path, "%s/none/places", run.files->folder);
    const char *saved = eval_file(run.files, "", 0, false);
    for (int live = 0; live <= 1; live++) {
        run.options.live = live != 0;
        run.options.save = path;
        refused_at_once(&run, DN_IO, "create");
        run.options.save = NULL;
        run.options.against = path;
        refused_at_once(&run, DN_IO, "open");
        run.options.against = NULL;
        run.options.save = saved;
        go(&run);
        assert_true(run.reports > 0);
        assert_int_equal(run.result->unsaved.code, DN_OK);
        run.options.against = saved; /* read, then written */
        go(&run);
        NEAR(run.result->methods[0].mrr_gain.mean, 0);
        run.options.seed = 8; /* the same: all are asked */
        go(&run);
        run.options.settings.idle_ms = 1; /* a run that fails leaves what was there */
        run.options.against = NULL;
        assert_int_equal(try(&run), DN_INVALID);
        dn_shard_settings_default(&run.options.settings);
        run.options.save = NULL;
        run.options.against = saved;
        go(&run);
        run.options.ks[1] = 4;
        refused_at_once(&run, DN_INVALID, "of other predictions");
        run.options.ks[1] = 3;
        FILE *file = fopen(saved, "r+e"); /* another hash */
        assert_non_null(file);
        assert_true(fread(text, 1, sizeof text - 1, file) > 0);
        const char *digit = strchr(strchr(text, '\n') + 1, '\n') - 1;
        fseek(file, (long)(digit - text), SEEK_SET);
        fputc(*digit == '0' ? '1' : '0', file);
        fclose(file);
        refused_at_once(&run, DN_INVALID, "of other predictions");
        run.options.against = NULL;
    }
    free(run.result);
}

static void results_are_there_where_places_cannot_be_written(void **state)
{
    struct run run;

    if (access("/dev/full", W_OK) != 0)
        skip();
    prepare(&run, *state, 1u << DN_EVAL_BLEND);
    eval_read_well(run.files, CLICKS);
    run.options.save = "/dev/full";
    go(&run);
    assert_int_equal(run.result->predictions, 2);
    assert_int_equal(run.result->unsaved.code, DN_IO);
    assert_non_null(strstr(run.result->unsaved.message, "write '/dev/full': No space"));
    free(run.result);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, eval_files_open, eval_files_close)
    const struct CMUnitTest tests[] = {
        T(what_the_blend_does_without_is_on_by_itself),
        T(candidates_are_of_the_request_that_is_measured),
        T(nothing_is_measured_without_the_index),
        T(files_are_looked_at_before_the_work),
        T(results_are_there_where_places_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
