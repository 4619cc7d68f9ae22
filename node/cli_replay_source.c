/* dunlin replay source: sessions, and features for training, from the history that sources still have. */
#include "node/cli_replay.h"

#include "base/clock.h"
#include "base/log.h"
#include "client/names.h"
#include "client/progress.h"
#include "ingest/deadletter.h"
#include "node/replay_features.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PATIENCE_MS = 60000, LAST_DEFAULT = 10 };

struct arguments {
    struct dn_cli *cli;
    const char *config, *dump, *features; /* NULL: none */
    const char *names[DN_SOURCES_CONFIGURED_MAX];
    size_t name_count;
    int64_t until_ms; /* -1: now */
    uint32_t shards;  /* 0: the configuration's */
    uint32_t last;
    unsigned types;
    bool show_ids;
};

/* ---- arguments
 * ----------------------------------------------------------------------------------------------- */

enum {
    KEY_CONFIG = 5700,
    KEY_SOURCE,
    KEY_UNTIL,
    KEY_SHARDS,
    KEY_DUMP,
    KEY_SHOW_IDS,
    KEY_FEATURES,
    KEY_AT,
    KEY_LAST
};

static const struct argp_option options[] = {
    {"config", KEY_CONFIG, "FILE", 0,
     "dunlind's configuration: sources, session settings, shards, the key that users are hashed with", 20},
    {"source", KEY_SOURCE, "NAME", 0, "only this source; may be given often. Default: all of them", 20},
    {"until", KEY_UNTIL, "TIME", 0,
     "events after it are not applied: milliseconds since 1970, or 2026-01-31T12:00:00Z. Default: now", 20},
    {"shards", KEY_SHARDS, "N", 0, "default: as the cluster has. What is late may depend on it", 20},
    {"dump", KEY_DUMP, "FILE", OPTION_ARG_OPTIONAL,
     "write the sessions in canonical form, one JSON line for each user; without FILE, and where there is no "
     "--features, to standard output, and the summary to standard error",
     20},
    {"show-ids", KEY_SHOW_IDS, NULL, 0, "users by id, not by the hash that dunlin knows them by", 20},
    {"features", KEY_FEATURES, "OUT.jsonl|OUT.csv|-", 0,
     "write what was known of the user's session just before each event (-: JSON lines to standard output, "
     "and the summary to standard error)",
     21},
    {"at", KEY_AT, "TYPES", 0, "features: at events of these types only, such as click,buy", 21},
    {"last", KEY_LAST, "K", 0, "features: the session's last K items (default 10)", 21},
    {0},
};

static unsigned parse_types(struct argp_state *state, const char *text)
{
    char *copy = strdup(text), *rest = NULL;
    unsigned types = 0;

    for (char *word = copy != NULL ? strtok_r(copy, ",", &rest) : NULL; word != NULL;
         word = strtok_r(NULL, ",", &rest)) {
        int type;
        if (!dn_event_type_parse(word, &type))
            argp_error(state, "--at '%s': there are view, click, cart, buy, like, dislike, play and remove",
                       word);
        else
            types |= 1u << type;
    }
    free(copy);
    if (types == 0)
        argp_error(state, "--at needs at least one type");
    return types;
}

static int64_t parse_time(struct argp_state *state, const char *text)
{
    struct tm parts = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);

    if (end != NULL && strcmp(end, "Z") == 0)
        return (int64_t)timegm(&parts) * 1000;
    return dn_cli_number(state, "--until (a time such as 2026-01-31T12:00:00Z)", text, 0, DN_TIME_MAX_MS - 1);
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), of_end = strlen(end);

    return length >= of_end && strcmp(text + length - of_end, end) == 0;
}

static void check_arguments(struct arguments *arguments, struct argp_state *state)
{
    if (arguments->config == NULL)
        argp_error(state, "--config FILE is missing");
    if (arguments->features == NULL && (arguments->types != 0 || arguments->last != 0))
        argp_error(state, "--at and --last go with --features");
    if (arguments->features != NULL && !ends_with(arguments->features, ".csv") &&
        !ends_with(arguments->features, ".jsonl") && strcmp(arguments->features, "-") != 0)
        argp_error(state, "--features: the file's name must end in .jsonl or .csv");
    if (arguments->last == 0)
        arguments->last = LAST_DEFAULT;
    if (arguments->features == NULL && arguments->dump == NULL)
        arguments->dump = "-";
    if (arguments->features != NULL && arguments->dump != NULL && strcmp(arguments->features, "-") == 0 &&
        strcmp(arguments->dump, "-") == 0)
        argp_error(state, "--features and --dump cannot both go to standard output");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case KEY_CONFIG:
        arguments->config = text;
        return 0;
    case KEY_SOURCE:
        if (arguments->name_count == DN_SOURCES_CONFIGURED_MAX)
            argp_error(state, "--source: at most %d", DN_SOURCES_CONFIGURED_MAX);
        else
            arguments->names[arguments->name_count++] = text;
        return 0;
    case KEY_UNTIL:
        arguments->until_ms = parse_time(state, text);
        return 0;
    case KEY_SHARDS:
        arguments->shards = (uint32_t)dn_cli_number(state, "--shards", text, 1, DN_SHARDS_MAX);
        return 0;
    case KEY_DUMP:
        arguments->dump = text != NULL ? text : "-";
        return 0;
    case KEY_SHOW_IDS:
        arguments->show_ids = true;
        return 0;
    case KEY_FEATURES:
        arguments->features = text;
        return 0;
    case KEY_AT:
        arguments->types = parse_types(state, text);
        return 0;
    case KEY_LAST:
        arguments->last = (uint32_t)dn_cli_number(state, "--last", text, 1, DN_FEATURES_LAST_MAX);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        return 0;
    case ARGP_KEY_END:
        check_arguments(arguments, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- telling
 * ------------------------------------------------------------------------------------------------- */

struct job {
    const struct arguments *arguments;
    struct dn_config config;
    struct dn_source_config sources[DN_SOURCES_CONFIGURED_MAX]; /* those that are wanted */
    struct dn_replay_state state;
    struct dn_replay_source_options how;
    struct dn_replay_source_result result;
    struct dn_replay_watch watch;
    struct dn_replay_ids *ids;
    struct dn_features *features;
    struct dn_progress progress;
    uint64_t started_us, users, rows;
};

static void progressed(void *data, const struct dn_merge_counts *now)
{
    struct job *job = data;

    dn_progress_update(&job->progress, now->messages);
}

static uint64_t dead_count(const struct dn_merge_counts *read)
{
    uint64_t dead = 0;

    for (size_t reason = 1; reason <= DN_DEAD_REASON_MAX; reason++)
        dead += read->dead[reason];
    return dead;
}

static void tell_json(const struct job *job, double seconds, FILE *report)
{
    const struct dn_replay_source_result *result = &job->result;
    json_t *dead = json_object();

    for (unsigned reason = 1; reason <= DN_DEAD_REASON_MAX; reason++)
        if (result->read.dead[reason] > 0)
            json_object_set_new(dead, dn_dead_reason_text((uint8_t)reason),
                                json_integer((json_int_t)result->read.dead[reason]));
    json_t *object = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:I, s:f}", "partitions",
        (json_int_t)result->feeds, "messages", (json_int_t)result->read.messages, "bytes",
        (json_int_t)result->read.bytes, "accepted", (json_int_t)result->accepted, "late",
        (json_int_t)result->late, "ahead", (json_int_t)result->ahead, "refused", (json_int_t)result->refused,
        "misrouted", (json_int_t)result->misrouted, "after_until", (json_int_t)result->beyond, "skipped",
        (json_int_t)result->read.skipped, "dead", dead, "first_ms", (json_int_t)result->first_ms, "last_ms",
        (json_int_t)result->last_ms, "seconds", seconds);
    if (job->arguments->dump != NULL)
        json_object_set_new(object, "users_dumped", json_integer((json_int_t)job->users));
    if (job->arguments->features != NULL)
        json_object_set_new(object, "feature_rows", json_integer((json_int_t)job->rows));
    json_dumpf(object, report, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putc('\n', report);
    json_decref(object);
}

static void tell_text(const struct job *job, double seconds, FILE *report)
{
    const struct dn_replay_source_result *result = &job->result;

    fprintf(report,
            "%" PRIu64 " messages of %" PRIu64 " partitions in %.1f s: %" PRIu64 " events accepted, %" PRIu64
            " late, %" PRIu64 " ahead, %" PRIu64 " refused, %" PRIu64 " misrouted, %" PRIu64
            " after the end, %" PRIu64 " no events, %" PRIu64 " dead letters of decoding\n",
            result->read.messages, result->feeds, seconds, result->accepted, result->late, result->ahead,
            result->refused, result->misrouted, result->beyond, result->read.skipped,
            dead_count(&result->read));
    if (job->arguments->dump != NULL)
        fprintf(report, "%" PRIu64 " users in the dump\n", job->users);
    if (job->arguments->features != NULL)
        fprintf(report, "%" PRIu64 " rows of features\n", job->rows);
}

/* ---- running
 * ------------------------------------------------------------------------------------------------- */

static int complain_usage(const struct dn_error *err)
{
    fprintf(stderr, "dunlin: replay: %s\n", dn_cli_clean(err->message));
    return DN_CLI_USAGE;
}

static int choose_sources(struct job *job)
{
    const struct arguments *arguments = job->arguments;
    size_t count = 0;

    for (size_t n = 0; n < arguments->name_count; n++) {
        size_t i = 0;
        while (i < job->config.source_count && strcmp(job->config.sources[i].name, arguments->names[n]) != 0)
            i++;
        if (i == job->config.source_count) {
            fprintf(stderr, "dunlin: replay: %s has no source '%s'\n", arguments->config,
                    dn_cli_clean(arguments->names[n]));
            return DN_CLI_USAGE;
        }
    }
    for (size_t i = 0; i < job->config.source_count; i++) {
        bool wanted = arguments->name_count == 0;
        for (size_t n = 0; n < arguments->name_count; n++)
            wanted = wanted || strcmp(job->config.sources[i].name, arguments->names[n]) == 0;
        if (wanted)
            job->sources[count++] = job->config.sources[i];
    }
    if (count == 0) {
        fprintf(stderr, "dunlin: replay: %s has no sources\n", arguments->config);
        return DN_CLI_USAGE;
    }
    job->how.merge.sources = job->sources;
    job->how.merge.source_count = count;
    return DN_CLI_OK;
}

static int configure(struct job *job)
{
    struct dn_error err = {0};
    bool derived;

    if (dn_config_load(job->arguments->config, &job->config, &err) != DN_OK ||
        dn_config_read_secrets(&job->config, &err) != DN_OK ||
        dn_config_hash_key(&job->config, job->how.hash_key, &derived, &err) != DN_OK)
        return complain_usage(&err);
    dn_config_shard_settings(&job->config, &job->how.settings);
    job->how.merge.patience_ms = PATIENCE_MS;
    job->how.until_ms = job->arguments->until_ms >= 0 ? job->arguments->until_ms : dn_wall_ms();
    job->how.progress = progressed;
    job->how.progress_data = job;
    job->how.watch = &job->watch;
    return choose_sources(job);
}

static bool keep_id(void *data, const struct dn_replay_event *event)
{
    return dn_replay_ids_add(data, event->user, event->in->user, event->in->user_length);
}

static int dump(struct job *job)
{
    struct dn_replay_dump_options how = {.idle_ms = job->how.settings.idle_ms, .ids = job->ids};
    struct dn_error err = {0};
    FILE *out = dn_cli_replay_create(job->arguments->dump);

    if (out == NULL)
        return DN_CLI_FAILED;
    enum dn_code code = dn_replay_dump(&job->state, &how, out, &job->users, &err);
    bool whole = dn_cli_replay_close(out, job->arguments->dump);
    if (code != DN_OK)
        return dn_cli_replay_complain(code, &err);
    return whole ? DN_CLI_OK : DN_CLI_FAILED;
}

static int replay(struct job *job)
{
    struct dn_error err = {0};
    uint32_t shards =
        job->arguments->shards != 0 ? job->arguments->shards : (uint32_t)job->config.cluster.shards;
    enum dn_code code = dn_replay_state_open(&job->state, shards, &err);

    if (code == DN_OK) {
        dn_progress_begin(&job->progress, "messages", 0);
        code = dn_replay_source(&job->how, &job->state, &job->result, &err);
        dn_progress_end(&job->progress);
    }
    if (code == DN_CANCELLED) /* `features` stopped it */
        code = dn_features_no_memory(job->features)
                   ? dn_fail(&err, DN_NO_MEMORY, "a row of features")
                   : dn_fail(&err, DN_IO, "write '%s': the disk may be full", job->arguments->features);
    return code == DN_OK ? DN_CLI_OK : dn_cli_replay_complain(code, &err);
}

static int replay_with_features(struct job *job)
{
    const struct arguments *arguments = job->arguments;
    FILE *out = dn_cli_replay_create(arguments->features);
    struct dn_features_options how = {.out = out,
                                      .csv = ends_with(arguments->features, ".csv"),
                                      .show_ids = arguments->show_ids,
                                      .types = arguments->types,
                                      .last = arguments->last,
                                      .gap_ms = job->how.settings.gap_ms};
    int exit_code = DN_CLI_FAILED;

    if (out == NULL)
        return DN_CLI_FAILED;
    job->features = dn_features_create(&how);
    if (job->features == NULL) {
        fputs("dunlin: replay: out of memory\n", stderr);
    } else {
        dn_features_watch(job->features, &job->watch);
        exit_code = replay(job);
        job->rows = dn_features_rows(job->features);
    }
    bool whole = dn_cli_replay_close(out, arguments->features);
    return exit_code == DN_CLI_OK && !whole ? DN_CLI_FAILED : exit_code;
}

static int run(struct job *job)
{
    const struct arguments *arguments = job->arguments;
    int exit_code = configure(job);

    if (exit_code != DN_CLI_OK)
        return exit_code;
    if (arguments->show_ids && arguments->dump != NULL) {
        job->ids = dn_replay_ids_create();
        if (job->ids == NULL)
            return DN_CLI_FAILED;
        job->watch.user = keep_id;
        job->watch.user_data = job->ids;
    }
    exit_code = arguments->features != NULL ? replay_with_features(job) : replay(job);
    if (exit_code == DN_CLI_OK && arguments->dump != NULL)
        exit_code = dump(job);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    bool taken = (arguments->dump != NULL && strcmp(arguments->dump, "-") == 0) ||
                 (arguments->features != NULL && strcmp(arguments->features, "-") == 0);
    double seconds = (double)(dn_monotonic_us() - job->started_us) / 1e6;
    (arguments->cli->json ? tell_json : tell_text)(job, seconds, taken ? stderr : stdout);
    return DN_CLI_OK;
}

int dn_cli_replay_source(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .children = children,
        .doc =
            "Reads what sources still have, from the beginning to where it ends now, and makes the sessions "
            "that a cluster made of it: by the same drivers, schema and state machine, with time standing "
            "where it stood when each event was written. No cluster is asked, and no offset is moved.\v"
            "docs/replay.md tells what is equal to a live cluster's state, and what the features are."};
    struct arguments arguments = {.cli = cli, .until_ms = -1};
    struct job *job = calloc(1, sizeof(*job));

    if (job == NULL)
        return DN_CLI_FAILED;
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    dn_log_set_level(DN_LOG_WARN); /* drivers tell what they do; here only what is wrong is of interest */
    job->arguments = &arguments;
    job->started_us = dn_monotonic_us();
    int exit_code = run(job);
    dn_replay_state_close(&job->state);
    dn_features_destroy(job->features);
    dn_replay_ids_destroy(job->ids);
    free(job);
    return exit_code;
}
