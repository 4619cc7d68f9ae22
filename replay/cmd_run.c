#include "base/text.h"
#include "replay/load.h"
#include "replay/replay.h"
#include "replay/score.h"

#include <stdlib.h>
#include <string.h>

#define K_MAX 999 /* one more may be asked for */
#define SESSION_GAP_MS (30 * 60 * 1000)

struct arguments {
    struct dn_load load;
    double recommend_share; /* of the events, spread evenly */
    double last_share;      /* of the time span, at its end; < 0: not used */
    uint32_t k;
    bool include_seen;
};

struct run {
    struct arguments arguments;
    struct dn_score *score;
    int64_t cut_ms; /* events from then on are asked about, when last_share is used */
    uint64_t total; /* events in the file; 0: not counted */
    double owed;    /* recommend_share: asks owed so far */
    bool no_memory;
};

enum { KEY_SHARE = 256, KEY_LAST, KEY_K, KEY_SEEN };

static const struct argp_option option_list[] = {
    {"recommend-share", KEY_SHARE, "SHARE", 0, "Ask after this share of the events, 0 to 1 (default 0.1)", 0},
    {"last-share", KEY_LAST, "SHARE", 0,
     "Ask after every event in this last share of the time span, and after no other (reads the file twice)",
     0},
    {"k", KEY_K, "N", 0, "Items to ask for (default 20)", 0},
    {"include-seen", KEY_SEEN, NULL, 0, "Let items of the session be recommended again, but the last", 0},
    {0},
};

static double parse_share(struct argp_state *state, const char *name, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= 0 && value <= 1))
        argp_error(state, "--%s must be a number from 0 to 1, not '%s'", name, text);
    return value;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;
    int64_t k = 20;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &arguments->load;
        break;
    case KEY_SHARE:
        arguments->recommend_share = parse_share(state, "recommend-share", text);
        break;
    case KEY_LAST:
        arguments->last_share = parse_share(state, "last-share", text);
        break;
    case KEY_K:
        if (!dn_parse_i64(text, 1, K_MAX, &k))
            argp_error(state, "--k must be a whole number from 1 to %d", K_MAX);
        arguments->k = (uint32_t)k;
        break;
    case KEY_SEEN:
        arguments->include_seen = true;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        break;
    case ARGP_KEY_END:
        if (arguments->last_share >= 0 && arguments->load.events != NULL &&
            strcmp(arguments->load.events, "-") == 0)
            argp_error(state, "--last-share reads the events twice: give a file, not standard input");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* Reads the file once to learn its time span. */
static enum dn_code find_cut(struct run *run, struct dn_error *err)
{
    const struct dn_load *load = &run->arguments.load;
    struct dn_feed *feed;
    struct dn_feed_event event;
    int64_t first_ms = INT64_MAX, last_ms = INT64_MIN;
    enum dn_code code = dn_feed_open(load->events, load->format, load->key, load->id_prefix, &feed, err);

    if (code != DN_OK)
        return code;
    while ((code = dn_feed_next(feed, &event, err)) == DN_OK) {
        first_ms = event.time_ms < first_ms ? event.time_ms : first_ms;
        last_ms = event.time_ms > last_ms ? event.time_ms : last_ms;
        run->total++;
    }
    dn_feed_close(feed);
    if (code != DN_NOT_FOUND)
        return code;
    if (run->total > 0)
        run->cut_ms = last_ms - (int64_t)(run->arguments.last_share * (double)(last_ms - first_ms));
    return DN_OK;
}

static bool wants_ask(void *data, const struct dn_feed_event *event)
{
    struct run *run = data;

    if (run->arguments.last_share >= 0)
        return event->original_ms >= run->cut_ms;
    run->owed += run->arguments.recommend_share;
    if (run->owed < 1)
        return false;
    run->owed -= 1;
    return true;
}

static void on_outcome(void *data, const struct dn_feed_event *event, int outcome)
{
    struct run *run = data;

    dn_load_note_outcome(&run->arguments.load, event, outcome);
    if (!dn_score_event(run->score, event->key, event->item, event->original_ms,
                        event->key_is_session ? 0 : SESSION_GAP_MS))
        run->no_memory = true;
}

static void on_answer(void *data, const struct dn_feed_event *event, const char *const *ids, size_t count)
{
    struct run *run = data;

    if (!dn_score_answer(run->score, event->key, ids, count))
        run->no_memory = true;
}

static double ratio(double part, uint64_t whole)
{
    return whole == 0 ? 0 : part / (double)whole;
}

static double ask_ms(const struct dn_sender *sender, double q)
{
    return (double)dn_histogram_quantile_ns(dn_sender_ask_latency(sender), q) / 1e6;
}

static void print_text(const struct run *run, const struct dn_sender *sender, double seconds,
                       const struct dn_score_result *test, const struct dn_score_result *all)
{
    struct dn_sender_stats stats;
    unsigned k = run->arguments.k;

    dn_sender_stats(sender, &stats);
    dn_load_print_publish(sender, seconds);
    printf("asked       %llu, answered %llu, failed %llu\n", (unsigned long long)stats.asked,
           (unsigned long long)stats.answered, (unsigned long long)stats.ask_failures);
    printf("answer ms   p50 %.3f  p99 %.3f  p999 %.3f\n", ask_ms(sender, 0.5), ask_ms(sender, 0.99),
           ask_ms(sender, 0.999));
    printf("HR@%-8u %.4f  MRR@%u %.4f  (%llu predictions", k, ratio((double)test->hits, test->predictions), k,
           ratio(test->reciprocal_ranks, test->predictions), (unsigned long long)test->predictions);
    if (run->arguments.last_share >= 0)
        printf(" in sessions that start in the last %.0f %% of the time; of all asked: HR %.4f of %llu",
               100 * run->arguments.last_share, ratio((double)all->hits, all->predictions),
               (unsigned long long)all->predictions);
    puts(")");
}

static void print_json(const struct run *run, const struct dn_sender *sender, double seconds,
                       const struct dn_score_result *test, const struct dn_score_result *all)
{
    struct dn_sender_stats stats;
    json_t *object = json_object();

    dn_sender_stats(sender, &stats);
    dn_load_json_publish(object, sender, seconds);
    json_object_set_new(object, "k", json_integer(run->arguments.k));
    json_object_set_new(object, "asked", json_integer((json_int_t)stats.asked));
    json_object_set_new(object, "answered", json_integer((json_int_t)stats.answered));
    json_object_set_new(object, "ask_failures", json_integer((json_int_t)stats.ask_failures));
    json_object_set_new(object, "answer_ms_p50", json_real(ask_ms(sender, 0.5)));
    json_object_set_new(object, "answer_ms_p99", json_real(ask_ms(sender, 0.99)));
    json_object_set_new(object, "answer_ms_p999", json_real(ask_ms(sender, 0.999)));
    json_object_set_new(object, "predictions", json_integer((json_int_t)test->predictions));
    json_object_set_new(object, "hits", json_integer((json_int_t)test->hits));
    json_object_set_new(object, "hit_rate", json_real(ratio((double)test->hits, test->predictions)));
    json_object_set_new(object, "mrr", json_real(ratio(test->reciprocal_ranks, test->predictions)));
    json_object_set_new(object, "predictions_all", json_integer((json_int_t)all->predictions));
    json_object_set_new(object, "hit_rate_all", json_real(ratio((double)all->hits, all->predictions)));
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
}

static enum dn_code execute(struct run *run, struct dn_sender *sender, struct dn_error *err)
{
    struct dn_score_result test, all;
    struct dn_sender_stats stats;
    double seconds = 0;
    enum dn_code code = dn_load_pump(&run->arguments.load, sender, wants_ask, run, run->total, &seconds, err);

    dn_score_result(run->score, &test, &all);
    if (run->arguments.load.json)
        print_json(run, sender, seconds, &test, &all);
    else
        print_text(run, sender, seconds, &test, &all);
    dn_sender_stats(sender, &stats);
    if (code == DN_OK && run->no_memory)
        code = dn_fail(err, DN_NO_MEMORY, "out of memory for the sessions: the hit rate is not complete");
    if (code == DN_OK && stats.ask_failures > 0)
        code = dn_fail(err, DN_INTERNAL, "%llu recommendations failed; the first: %s",
                       (unsigned long long)stats.ask_failures, stats.ask_error);
    return code;
}

int dn_replay_run(int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_load_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .children = children,
        .doc =
            "Publishes events and asks for recommendations after some of them, at another node, with the "
            "token of the event (SESSION level); measures latency and how often the next item was among the "
            "answers.\v"
            "With --rate, latency counts from when an event was due. Example: dunlin-replay run --events "
            "clicks.tsv.gz --last-share 0.1 --include-seen"};
    struct run run = {.arguments = {.recommend_share = 0.1, .last_share = -1, .k = 20}, .cut_ms = INT64_MIN};
    struct dn_load *load = &run.arguments.load;
    struct dn_sender *sender = NULL;
    struct dn_error err;
    enum dn_code code = DN_OK;

    dn_load_default(load);
    load->key = DN_FEED_KEY_SESSION;
    load->batch = 64;
    load->in_flight = 64;
    argp_parse(&argp, argc, argv, 0, NULL, &run.arguments);
    if (run.arguments.last_share >= 0)
        code = find_cut(&run, &err);
    if (code == DN_OK)
        code = dn_load_open_acked(load, &err);
    if (code == DN_OK) {
        struct dn_sender_options options = {.addresses = load->addresses,
                                            .address_count = load->address_count,
                                            .batch = load->batch,
                                            .lanes = load->in_flight,
                                            .deadline_ms = load->deadline_ms,
                                            .give_up_ms = load->give_up_ms,
                                            .k = run.arguments.k,
                                            .include_seen = run.arguments.include_seen,
                                            .on_outcome = on_outcome,
                                            .on_answer = on_answer,
                                            .data = &run};

        run.score = dn_score_create(run.arguments.k, run.cut_ms);
        code = run.score == NULL ? dn_fail(&err, DN_NO_MEMORY, "out of memory")
                                 : dn_sender_create(&options, &sender, &err);
    }
    if (code == DN_OK)
        code = execute(&run, sender, &err);
    code = dn_load_close_acked(load, code, &err);
    if (code != DN_OK)
        fprintf(stderr, "dunlin-replay: %s\n", err.message);
    dn_sender_destroy(sender);
    dn_score_destroy(run.score);
    free(load->addresses_text);
    return code == DN_OK ? DN_EXIT_OK : DN_EXIT_FAILURE;
}
