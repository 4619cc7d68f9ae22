/* dunlin eval: how good recommendations are on a log of clicks, by the server's own state and pipeline. */
#include "node/cli_eval.h"
#include "node/cli.h"

#include "base/clock.h"
#include "base/log.h"
#include "client/progress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DAY_MS INT64_C(86400000)
#define PACE_MS 10000
#define SPLIT 0.9

struct arguments {
    struct dn_cli *cli;
    struct dn_eval_input input;
    struct dn_eval_options options;
    const char *plot;
    bool chosen; /* methods were */
    struct dn_progress progress;
    const char *doing;
};

/* ---- arguments --------------------------------------------------------------------------------------- */

enum {
    KEY_EVENTS = 5900,
    KEY_TEST,
    KEY_SPLIT,
    KEY_LIVE,
    KEY_SOURCES,
    KEY_ONLY,
    KEY_WITHOUT,
    KEY_K,
    KEY_MAX,
    KEY_SEED,
    KEY_THREADS,
    KEY_SHARDS,
    KEY_LEARN,
    KEY_RECALL,
    KEY_PLOT,
    KEY_SAVE,
    KEY_AGAINST,
    KEY_ITEM_PATTERN,
    KEY_DROP_TYPES,
    KEY_REPEATS,
    KEY_LAST_ITEM,
    KEY_GAP,
    KEY_PACE,
    KEY_HIDE_SEEN,
    KEY_CATALOG,
    KEY_VECTORS,
    KEY_IDS,
    KEY_INDEX,
    KEY_INTERESTS,
    KEY_IDLE,
    KEY_EVENTS_PER_USER,
    KEY_CELLS,
    KEY_VISITORS,
    KEY_HALF_LIFE,
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "The log:", 20},
    {"events", KEY_EVENTS, "FILE", 0,
     "clicks: lines `ts user session item type price` below that header (tabs, ts in seconds), JSON lines, "
     "or "
     "one session a line with spaces between its items; may be gzip",
     20},
    {"test", KEY_TEST, "FILE", 0, "lines `prefix TAB next item` that are asked for, with such sessions", 20},
    {"split", KEY_SPLIT, "SHARE", 0, "of the time span that is learned from; the rest is asked for (0.9)",
     20},
    {"item-pattern", KEY_ITEM_PATTERN, "REGEX", 0,
     "only items that match the extended regular expression, such as '^[0-9]{5}'", 20},
    {"drop-types", KEY_DROP_TYPES, "LIST", 0, "leave out events of these types (cancel)", 20},
    {"repeats", KEY_REPEATS, "keep|collapse", 0,
     "an item clicked twice in a row; default: kept where sessions have no times", 20},
    {"last-item", KEY_LAST_ITEM, "keep|drop", 0,
     "may the item just clicked be recommended; default: where sessions have no times", 20},
    {"gap", KEY_GAP, "MINUTES", 0, "a longer pause makes two sessions of one (0: never)", 20},
    {"pace", KEY_PACE, "MS", 0, "between two sessions that have no times (10000)", 20},
    {NULL, 0, NULL, 0, "What is asked:", 21},
    {"live", KEY_LIVE, NULL, 0,
     "each click is asked for, then applied, then learned from; default: the state stays as at the split",
     21},
    {"sources", KEY_SOURCES, "LIST", 0,
     "what the blend is compared with: popular, vstan, vmis, rules, covis, session_vector, session, "
     "trending, or none; "
     "default: "
     "the first five, and session_vector with --vectors",
     21},
    {"only", KEY_ONLY, "NAME", 0, "this one alone, which may be blend", 21},
    {"without", KEY_WITHOUT, "LIST", 0,
     "sources that the blend, and its learning, do without; by themselves they are asked all the same; "
     "network: "
     "no challenger of the learned model",
     21},
    {"k", KEY_K, "LIST", 0, "places that count (1,5,10,20); all are of one request for the largest", 21},
    {"max", KEY_MAX, "N", 0, "predictions: a sample; with --live those of the first sessions (all)", 21},
    {"seed", KEY_SEED, "N", 0, "of the sample (7)", 21},
    {"learn", KEY_LEARN, "SESSIONS|off", 0,
     "learn the blend from this many of the newest sessions before the split, and live from each click "
     "(20000)",
     21},
    {"recall", KEY_RECALL, NULL, 0, "also: did a source name the item, whatever place it came to", 21},
    {"hide-seen", KEY_HIDE_SEEN, NULL, 0, "recommend nothing the session had", 21},
    {NULL, 0, NULL, 0, "The state:", 22},
    {"vectors", KEY_VECTORS, "FILE", 0, "of items: .npy with --ids, .vec or .jsonl, as `dunlin catalog load`",
     22},
    {"ids", KEY_IDS, "FILE", 0, "ids of a .npy file's rows, one a line", 22},
    {"index", KEY_INDEX, "FACTORY", 0,
     "of vectors, as index.factory of dunlind (Flat); if it cannot be built, nothing is measured", 22},
    {"interests", KEY_INTERESTS, "N", 0,
     "newest items that vectors are asked for by themselves (0, as dunlind)", 22},
    {"catalog", KEY_CATALOG, "all|clicked", 0,
     "all: items of the log are in the catalogue from the start (default); clicked: from their first click "
     "on",
     22},
    {"shards", KEY_SHARDS, "N", 0, "(4, as dunlind)", 22},
    {"idle", KEY_IDLE, "DAYS", 0, "sessions are forgotten after it (30, as dunlind)", 22},
    {"events-per-user", KEY_EVENTS_PER_USER, "N", 0, "that a session keeps (50, as dunlind)", 22},
    {"near-cells", KEY_CELLS, "N", 0, "items that a row of rules and co-visitation has room for", 22},
    {"near-visitors", KEY_VISITORS, "N", 0, "newest sessions that are kept of an item", 22},
    {"near-half-life", KEY_HALF_LIFE, "DAYS", 0, "of rules and co-visitation", 22},
    {NULL, 0, NULL, 0, "How:", 23},
    {"save", KEY_SAVE, "FILE", 0, "write the places of the blend (or of --only) for another run's --against",
     23},
    {"against", KEY_AGAINST, "FILE", 0, "also: the difference to that run, prediction by prediction", 23},
    {"threads", KEY_THREADS, "N", 0, "that ask; with --live it is one (1)", 23},
    {"plot", KEY_PLOT, "FILE.svg", 0, "with --live: quality over time, as a chart", 23},
    {0},
};

/* Each name of a list with commas. The list is copied. */
static void each_name(struct argp_state *state, const char *option, const char *list,
                      void (*each)(struct argp_state *state, const char *option, const char *name))
{
    char *copy = strdup(list), *rest = NULL;

    if (copy == NULL || *list == '\0')
        argp_error(state, "%s: a list with commas is missing", option);
    for (char *name = copy != NULL ? strtok_r(copy, ",", &rest) : NULL; name != NULL;
         name = strtok_r(NULL, ",", &rest))
        each(state, option, name);
    free(copy);
}

static unsigned method_of(struct argp_state *state, const char *option, const char *name)
{
    for (unsigned method = 0; method < DN_EVAL_METHODS; method++)
        if (strcmp(dn_eval_method_name(method), name) == 0)
            return method;
    char names[256] = "";
    for (unsigned method = 0; method < DN_EVAL_METHODS; method++) {
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", method == 0 ? "" : ", ",
                 dn_eval_method_name(method));
    }
    argp_error(state, "%s: '%s' is none of %s", option, name, names);
    return 0;
}

static void add_method(struct argp_state *state, const char *option, const char *name)
{
    struct arguments *arguments = state->input;

    if (strcmp(name, "none") != 0)
        arguments->options.methods |= 1u << method_of(state, option, name);
}

static void add_without(struct argp_state *state, const char *option, const char *name)
{
    struct arguments *arguments = state->input;

    if (strcmp(name, "network") == 0) {
        arguments->options.no_network = true;
        return;
    }
    unsigned method = method_of(state, option, name);
    if (method < DN_EVAL_SOURCES)
        argp_error(state, "%s: '%s' is no source", option, name);
    else
        arguments->options.recommend.sources_off |= 1u << (method - DN_EVAL_SOURCES);
}

static void add_k(struct argp_state *state, const char *option, const char *text)
{
    struct arguments *arguments = state->input;
    int64_t k = dn_cli_number(state, option, text, 1, DN_EVAL_K_MAX);
    size_t count = arguments->options.k_count;

    if (count == DN_EVAL_KS_MAX)
        argp_error(state, "--k: at most %d values", DN_EVAL_KS_MAX);
    else if (count > 0 && (size_t)k <= arguments->options.ks[count - 1])
        argp_error(state, "--k: the values must rise");
    else
        arguments->options.ks[arguments->options.k_count++] = (size_t)k;
}

static enum dn_eval_choice choice(struct argp_state *state, const char *option, const char *text,
                                  const char *yes, const char *no)
{
    if (strcmp(text, yes) == 0)
        return DN_EVAL_YES;
    if (strcmp(text, no) != 0)
        argp_error(state, "%s must be %s or %s, not '%s'", option, yes, no, text);
    return DN_EVAL_NO;
}

static double share(struct argp_state *state, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value > 0 && value < 1))
        argp_error(state, "--split must be above 0 and below 1, not '%s'", text);
    return value;
}

static error_t parse_log(int key, char *text, struct argp_state *state)
{
    struct dn_eval_input *input = &((struct arguments *)state->input)->input;

    switch (key) {
    case KEY_EVENTS:
        input->events = text;
        return 0;
    case KEY_TEST:
        input->test = text;
        return 0;
    case KEY_SPLIT:
        input->split = share(state, text);
        return 0;
    case KEY_ITEM_PATTERN:
        input->item_pattern = text;
        return 0;
    case KEY_DROP_TYPES:
        input->drop_types = text;
        return 0;
    case KEY_REPEATS:
        input->repeats = choice(state, "--repeats", text, "keep", "collapse");
        return 0;
    case KEY_LAST_ITEM:
        input->last_item = choice(state, "--last-item", text, "keep", "drop");
        return 0;
    case KEY_GAP:
        input->gap_ms = 60000 * dn_cli_number(state, "--gap", text, 0, 525600);
        return 0;
    case KEY_PACE:
        input->pace_ms = dn_cli_number(state, "--pace", text, 1, DAY_MS);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_state(int key, char *text, struct argp_state *state)
{
    struct dn_eval_options *to = &((struct arguments *)state->input)->options;

    switch (key) {
    case KEY_VECTORS:
        to->items = text;
        return 0;
    case KEY_IDS:
        to->ids = text;
        return 0;
    case KEY_INDEX:
        to->factory = text;
        return 0;
    case KEY_INTERESTS:
        to->recommend.interests = (uint32_t)dn_cli_number(state, "--interests", text, 0, DN_INTERESTS_MAX);
        return 0;
    case KEY_CATALOG:
        to->cold = choice(state, "--catalog", text, "all", "clicked") == DN_EVAL_YES;
        return 0;
    case KEY_SHARDS:
        to->shards = (uint32_t)dn_cli_number(state, "--shards", text, 1, DN_EVAL_SHARDS_MAX);
        return 0;
    case KEY_IDLE:
        to->settings.idle_ms = DAY_MS * dn_cli_number(state, "--idle", text, 1, 3650);
        return 0;
    case KEY_EVENTS_PER_USER:
        to->settings.events_per_user = (uint32_t)dn_cli_number(state, "--events-per-user", text, 2, 1000);
        return 0;
    case KEY_CELLS:
        to->settings.near_cells = (uint32_t)dn_cli_number(state, "--near-cells", text, 0, 256);
        return 0;
    case KEY_VISITORS:
        to->settings.near_visitors = (uint32_t)dn_cli_number(state, "--near-visitors", text, 1, 256);
        return 0;
    case KEY_HALF_LIFE:
        to->settings.near_half_life_ms = DAY_MS * dn_cli_number(state, "--near-half-life", text, 1, 3650);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void check_arguments(struct arguments *arguments, struct argp_state *state)
{
    struct dn_eval_options *to = &arguments->options;

    if (arguments->input.events == NULL)
        argp_error(state, "--events FILE is missing");
    if (arguments->plot != NULL && !to->live)
        argp_error(state, "--plot goes with --live: a batch has no order in time");
    if (arguments->input.test != NULL && to->live)
        argp_error(state, "--live does not go with --test: its lines have no order in time");
    if (!arguments->chosen)
        to->methods = 1u << DN_EVAL_BLEND | 1u << DN_EVAL_POPULAR |
                      1u << (DN_EVAL_SOURCES + DN_SOURCE_VSTAN) | 1u << (DN_EVAL_SOURCES + DN_SOURCE_VMIS) |
                      1u << (DN_EVAL_SOURCES + DN_SOURCE_RULES) | 1u << (DN_EVAL_SOURCES + DN_SOURCE_COVIS) |
                      (to->items != NULL ? 1u << (DN_EVAL_SOURCES + DN_SOURCE_VECTOR) : 0);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;
    struct dn_eval_options *to = &arguments->options;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case KEY_LIVE:
        to->live = true;
        return 0;
    case KEY_SOURCES:
        arguments->chosen = true;
        to->methods = 1u << DN_EVAL_BLEND;
        each_name(state, "--sources", text, add_method);
        return 0;
    case KEY_ONLY:
        arguments->chosen = true;
        to->methods = 1u << method_of(state, "--only", text);
        return 0;
    case KEY_WITHOUT:
        each_name(state, "--without", text, add_without);
        return 0;
    case KEY_K:
        to->k_count = 0;
        each_name(state, "--k", text, add_k);
        return 0;
    case KEY_MAX:
        to->max = (size_t)dn_cli_number(state, "--max", text, 1, INT64_MAX);
        return 0;
    case KEY_SEED:
        to->seed = (uint64_t)dn_cli_number(state, "--seed", text, 0, INT64_MAX);
        return 0;
    case KEY_LEARN:
        to->learn = strcmp(text, "off") == 0
                        ? 0
                        : (size_t)dn_cli_number(state, "--learn (or off)", text, 0, INT64_MAX);
        return 0;
    case KEY_RECALL:
        to->recall = true;
        return 0;
    case KEY_HIDE_SEEN:
        to->hide_seen = true;
        return 0;
    case KEY_THREADS:
        to->threads = (unsigned)dn_cli_number(state, "--threads", text, 1, DN_EVAL_THREADS_MAX);
        return 0;
    case KEY_SAVE:
        to->save = text;
        return 0;
    case KEY_AGAINST:
        to->against = text;
        return 0;
    case KEY_PLOT:
        arguments->plot = text;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        return 0;
    case ARGP_KEY_END:
        check_arguments(arguments, state);
        return 0;
    default:
        return parse_log(key, text, state) == 0 ? 0 : parse_state(key, text, state);
    }
}

/* ---- the run ----------------------------------------------------------------------------------------- */

static void progressed(void *data, const char *what, uint64_t done, uint64_t total)
{
    struct arguments *arguments = data;

    if (arguments->doing != what) {
        dn_progress_end(&arguments->progress);
        dn_progress_begin(&arguments->progress, what, total);
        arguments->doing = what;
    }
    dn_progress_update(&arguments->progress, done);
}

static int plot(const struct arguments *arguments, const struct dn_eval_result *result)
{
    FILE *file = fopen(arguments->plot, "we");
    char title[256];
    const char *name = strrchr(arguments->input.events, '/');

    if (file == NULL) {
        fprintf(stderr, "dunlin: eval: create '%s': %s\n", arguments->plot, strerror(errno));
        return DN_CLI_FAILED;
    }
    snprintf(title, sizeof title, "dunlin eval, live: %s", name != NULL ? name + 1 : arguments->input.events);
    bool drawn = dn_eval_plot(result, title, file);
    int fault = errno;
    if (fclose(file) != 0 && drawn) {
        drawn = false;
        fault = errno;
    }
    if (!drawn)
        fprintf(stderr, "dunlin: eval: write '%s': %s\n", arguments->plot,
                fault != 0 ? strerror(fault) : "there are too few predictions for a chart");
    return drawn ? DN_CLI_OK : DN_CLI_FAILED;
}

static int complain(enum dn_code code, const struct dn_error *err)
{
    fprintf(stderr, "dunlin: eval: %s: %s\n", dn_code_text(code), dn_cli_clean(err->message));
    return DN_CLI_FAILED;
}

static int run(struct arguments *arguments)
{
    struct dn_error err = {.code = DN_OK};
    struct dn_eval_set *set = NULL;
    struct dn_eval_result *result = NULL;
    struct dn_eval_facts facts;
    uint64_t start_us = dn_monotonic_us();

    enum dn_code code = dn_eval_read(&arguments->input, &set, &err);
    if (code != DN_OK)
        return complain(code, &err);
    dn_eval_set_facts(set, &facts);
    uint64_t read_us = dn_monotonic_us();
    code = dn_eval_run(set, &arguments->options, &result, &err);
    dn_progress_end(&arguments->progress);
    dn_eval_set_free(set);
    if (code != DN_OK)
        return complain(code, &err);
    struct dn_cli_eval_report report = {.events = arguments->input.events,
                                        .recall = arguments->options.recall,
                                        .against = arguments->options.against,
                                        .threads = arguments->options.live ? 1 : arguments->options.threads,
                                        .read_s = (double)(read_us - start_us) / 1e6,
                                        .run_s = (double)(dn_monotonic_us() - read_us) / 1e6,
                                        .facts = &facts,
                                        .result = result};
    if (arguments->cli->json)
        dn_cli_eval_json(&report);
    else
        dn_cli_eval_table(&report);
    int exit_code = arguments->plot != NULL ? plot(arguments, result) : DN_CLI_OK;
    if (result->unsaved.code != DN_OK)
        exit_code = complain(result->unsaved.code, &result->unsaved);
    free(result);
    return exit_code;
}

int dn_cli_eval(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "--events FILE",
        .children = children,
        .doc = "Measures recommendations on a log of clicks: the older part is applied to a state of its "
               "own, by "
               "the state machine that the cluster runs; for each click of the newer part the server's "
               "pipeline is asked what comes next. Needs no cluster.\v"
               "Examples:\n"
               "  dunlin eval --events clicks.tsv.gz\n"
               "  dunlin eval --events clicks.tsv.gz --live --plot clicks.svg\n"
               "  dunlin eval --events train.txt.gz --test test.txt.gz --threads 2\n\n"
               "Exit codes: 0 done, 1 it failed or a result could not be written, 2 usage. docs/eval.md "
               "tells what is measured and how."};
    struct arguments arguments = {.cli = cli, .input = {.split = SPLIT, .pace_ms = PACE_MS}};

    dn_log_set_level(DN_LOG_WARN); /* an index tells when it is built */
    dn_eval_options_default(&arguments.options);
    arguments.options.progress = progressed;
    arguments.options.progress_data = &arguments;
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    return run(&arguments);
}
