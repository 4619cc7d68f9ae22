/* dunlin replay log: every group of a stopped node, from its snapshot and its log, and what hash it has. */
#include "node/cli_replay.h"

#include "client/progress.h"
#include "index/index.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ALL_GROUPS UINT32_MAX
#define ITEMS_MAX 2000000 /* default of index.items_max */
#define TO_LAST 0
#define TO_SURE UINT64_MAX

struct arguments {
    struct dn_cli *cli;
    const char *data_dir, *config, *dump; /* dump NULL: none */
    uint32_t group;
    uint64_t to_index;
    bool from_start;
    uint32_t items_max;
};

/* ---- arguments
 * ----------------------------------------------------------------------------------------------- */

enum { KEY_DATA_DIR = 5600, KEY_GROUP, KEY_TO_INDEX, KEY_FROM_START, KEY_DUMP, KEY_CONFIG };

static const struct argp_option options[] = {
    {"data-dir", KEY_DATA_DIR, "DIR", 0, "a stopped node's data directory, or a copy of it; only read", 20},
    {"group", KEY_GROUP, "G", 0, "only this group: 0 is the catalogue, 1.. the shards", 20},
    {"to-index", KEY_TO_INDEX, "N", 0,
     "up to this entry of the log (with --group), or `sure`: no further than is known to be committed. "
     "Default: as far as the log goes",
     20},
    {"from-start", KEY_FROM_START, NULL, 0, "without the snapshot, from entry 1, where the log still has it",
     20},
    {"dump", KEY_DUMP, "FILE", OPTION_ARG_OPTIONAL,
     "write the sessions in canonical form, one JSON line for each user; without FILE to standard output, "
     "and the summary to standard error",
     20},
    {"config", KEY_CONFIG, "FILE", 0,
     "dunlind's configuration; only where index.items_max is not the default: the catalogue depends on it",
     20},
    {0},
};

static void check_arguments(const struct arguments *arguments, struct argp_state *state)
{
    if (arguments->data_dir == NULL)
        argp_error(state, "--data-dir DIR is missing");
    if (arguments->to_index != TO_SURE && arguments->to_index != TO_LAST && arguments->group == ALL_GROUPS)
        argp_error(state, "--to-index N goes with --group G: each group has indexes of its own");
    if (arguments->dump != NULL && arguments->group == 0)
        argp_error(state, "--dump is of sessions; group 0 is the catalogue");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case KEY_DATA_DIR:
        arguments->data_dir = text;
        return 0;
    case KEY_GROUP:
        arguments->group = (uint32_t)dn_cli_number(state, "--group", text, 0, DN_GROUPS_MAX - 1);
        return 0;
    case KEY_TO_INDEX:
        arguments->to_index = strcmp(text, "sure") == 0
                                  ? TO_SURE
                                  : (uint64_t)dn_cli_number(state, "--to-index", text, 1, INT64_MAX);
        return 0;
    case KEY_FROM_START:
        arguments->from_start = true;
        return 0;
    case KEY_CONFIG:
        arguments->config = text;
        return 0;
    case KEY_DUMP:
        arguments->dump = text != NULL ? text : "-";
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

/* ---- replaying
 * ----------------------------------------------------------------------------------------------- */

struct replayed {
    struct dn_history_group had;
    struct dn_history_result result;
    struct dn_shard_stats stats; /* of a shard */
};

struct job {
    const struct arguments *arguments;
    struct dn_history *history;
    struct dn_replay_state state;
    struct dn_epoch *catalog_epoch;
    struct dn_catalog *catalog;
    struct replayed groups[DN_GROUPS_MAX];
    uint32_t group_count; /* known ones are below */
    struct dn_progress progress;
    uint64_t done, total; /* entries */
    FILE *report;
};

static bool is_wanted(const struct job *job, uint32_t group)
{
    return job->groups[group].had.known &&
           (job->arguments->group == ALL_GROUPS || job->arguments->group == group);
}

static uint64_t target(const struct job *job, uint32_t group)
{
    const struct dn_history_group *had = &job->groups[group].had;
    uint64_t last = had->last_index > had->snapshot_index ? had->last_index : had->snapshot_index;

    return job->arguments->to_index == TO_SURE   ? had->sure_index
           : job->arguments->to_index == TO_LAST ? last
                                                 : job->arguments->to_index;
}

static enum dn_code look(struct job *job, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    for (uint32_t group = 0; code == DN_OK && group < DN_GROUPS_MAX; group++) {
        struct dn_history_group *had = &job->groups[group].had;
        code = dn_history_look(job->history, group, had, err);
        if (code != DN_OK || !had->known)
            continue;
        job->group_count = group + 1;
        uint64_t from = job->arguments->from_start ? 0 : had->snapshot_index;
        if (is_wanted(job, group) && target(job, group) > from)
            job->total += target(job, group) - from;
    }
    if (code == DN_OK && job->group_count == 0)
        return dn_fail(err, DN_NOT_FOUND, "the journal in '%s' holds nothing", job->arguments->data_dir);
    if (code == DN_OK && job->arguments->group != ALL_GROUPS && !is_wanted(job, job->arguments->group))
        return dn_fail(err, DN_NOT_FOUND, "'%s' has groups 0 to %u, and no group %u",
                       job->arguments->data_dir, job->group_count - 1, job->arguments->group);
    return code;
}

static void progressed(void *data, uint64_t index)
{
    struct job *job = data;

    (void)index;
    dn_progress_update(&job->progress, ++job->done);
}

static enum dn_code replay_group(struct job *job, uint32_t group, struct dn_error *err)
{
    struct replayed *replayed = &job->groups[group];
    struct dn_history_options how = {.group = group,
                                     .from_start = job->arguments->from_start,
                                     .to_index = target(job, group),
                                     .progress = progressed,
                                     .data = job};
    struct dn_fsm fsm =
        group == 0 ? dn_fsm_catalog(job->catalog) : dn_fsm_shard(&job->state.seats[group - 1]);
    enum dn_code code = dn_history_replay(job->history, &how, &fsm, &replayed->result, err);

    if (code == DN_OK && group > 0)
        dn_shard_stats(job->state.seats[group - 1].shard, &replayed->stats);
    return code;
}

static enum dn_code replay_all(struct job *job, struct dn_error *err)
{
    enum dn_code code = dn_replay_state_open(&job->state, job->group_count - 1, err);

    if (code == DN_OK && is_wanted(job, 0)) {
        job->catalog_epoch = dn_epoch_create();
        job->catalog = job->catalog_epoch != NULL
                           ? dn_catalog_create(job->catalog_epoch, job->arguments->items_max)
                           : NULL;
        if (job->catalog == NULL)
            code = dn_fail(err, DN_NO_MEMORY, "the catalogue");
    }
    dn_progress_begin(&job->progress, "entries", job->total);
    for (uint32_t group = 0; code == DN_OK && group < job->group_count; group++)
        if (is_wanted(job, group))
            code = replay_group(job, group, err);
    dn_progress_end(&job->progress);
    return code;
}

/* ---- telling
 * ------------------------------------------------------------------------------------------------- */

static json_t *group_json(const struct replayed *replayed, uint32_t group)
{
    const struct dn_history_result *result = &replayed->result;
    char hash[20];

    snprintf(hash, sizeof(hash), "%016" PRIx64, result->hash);
    json_t *object =
        json_pack("{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "group", (json_int_t)group,
                  "index", (json_int_t)result->index, "state_hash", hash, "from_index",
                  (json_int_t)result->from_index, "sure_index", (json_int_t)replayed->had.sure_index,
                  "last_index", (json_int_t)replayed->had.last_index, "time_ms", (json_int_t)result->time_ms,
                  "entries", (json_int_t)result->entries, "records", (json_int_t)result->records,
                  "hashes_equal", (json_int_t)result->checked, "hashes_differing",
                  (json_int_t)result->differing, "differs_at", (json_int_t)result->differs_at);
    if (group > 0) {
        json_object_set_new(object, "users", json_integer((json_int_t)replayed->stats.users));
        json_object_set_new(object, "events_applied",
                            json_integer((json_int_t)replayed->stats.events_applied));
        json_object_set_new(object, "late", json_integer((json_int_t)replayed->stats.late));
    }
    return object;
}

static void tell_json(const struct job *job, uint64_t dumped)
{
    json_t *groups = json_array();

    for (uint32_t group = 0; group < job->group_count; group++)
        if (is_wanted(job, group))
            json_array_append_new(groups, group_json(&job->groups[group], group));
    json_t *object = json_pack("{s:o}", "groups", groups);
    if (job->arguments->dump != NULL)
        json_object_set_new(object, "users_dumped", json_integer((json_int_t)dumped));
    json_dumpf(object, job->report, JSON_INDENT(2));
    putc('\n', job->report);
    json_decref(object);
}

static void tell_text(const struct job *job, uint64_t dumped)
{
    fprintf(job->report, "%5s %10s %-16s %10s %10s %10s %8s %12s\n", "group", "index", "state hash", "from",
            "sure", "last", "checked", "events");
    for (uint32_t group = 0; group < job->group_count; group++) {
        const struct replayed *replayed = &job->groups[group];
        if (!is_wanted(job, group))
            continue;
        fprintf(job->report,
                "%5u %10" PRIu64 " %016" PRIx64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %8" PRIu64, group,
                replayed->result.index, replayed->result.hash, replayed->result.from_index,
                replayed->had.sure_index, replayed->had.last_index, replayed->result.checked);
        if (group > 0)
            fprintf(job->report, " %12" PRIu64, replayed->stats.events_applied);
        putc('\n', job->report);
        if (replayed->result.index < replayed->had.last_index)
            fprintf(job->report, "      entries %" PRIu64 " to %" PRIu64 " of the log were not applied\n",
                    replayed->result.index + 1, replayed->had.last_index);
        if (replayed->result.index > replayed->had.sure_index)
            fprintf(job->report,
                    "      entries %" PRIu64 " to %" PRIu64
                    " were applied, but are not known to be committed\n",
                    replayed->had.sure_index + 1, replayed->result.index);
    }
    if (job->arguments->dump != NULL)
        fprintf(job->report, "%" PRIu64 " users in the dump\n", dumped);
}

/* Whether every hash that a node had reported is ours. */
static bool all_equal(const struct job *job)
{
    bool equal = true;

    for (uint32_t group = 0; group < job->group_count; group++) {
        const struct dn_history_result *result = &job->groups[group].result;
        if (result->differing == 0)
            continue;
        equal = false;
        fprintf(stderr,
                "dunlin: replay: group %u: %" PRIu64 " of %" PRIu64
                " reported hashes differ, first at index %" PRIu64 ", of the node with raft id %016" PRIx64
                ": that node's state, this log or this program is damaged or another version's\n",
                group, result->differing, result->differing + result->checked, result->differs_at,
                result->differing_node);
    }
    return equal;
}

static int dump(struct job *job, uint64_t *ret_users)
{
    struct dn_shard_settings settings;
    struct dn_error err = {0};
    FILE *out = dn_cli_replay_create(job->arguments->dump);

    if (out == NULL)
        return DN_CLI_FAILED;
    uint32_t any = job->arguments->group == ALL_GROUPS ? 1 : job->arguments->group;
    dn_shard_settings_default(&settings);
    if (any <= job->state.shard_count)
        dn_shard_settings(job->state.seats[any - 1].shard, &settings);
    struct dn_replay_dump_options how = {.idle_ms = settings.idle_ms};
    enum dn_code code = dn_replay_dump(&job->state, &how, out, ret_users, &err);
    bool whole = dn_cli_replay_close(out, job->arguments->dump);
    if (code != DN_OK)
        return dn_cli_replay_complain(code, &err);
    return whole ? DN_CLI_OK : DN_CLI_FAILED;
}

static int run(struct job *job)
{
    struct dn_error err = {0};
    uint64_t dumped = 0;
    enum dn_code code = dn_history_open(job->arguments->data_dir, &job->history, &err);

    if (code == DN_OK)
        code = look(job, &err);
    if (code == DN_OK)
        code = replay_all(job, &err);
    if (code != DN_OK)
        return dn_cli_replay_complain(code, &err);
    int exit_code = DN_CLI_OK;
    job->report = stdout;
    if (job->arguments->dump != NULL) {
        if (strcmp(job->arguments->dump, "-") == 0)
            job->report = stderr;
        exit_code = dump(job, &dumped);
    }
    if (exit_code != DN_CLI_OK)
        return exit_code;
    (job->arguments->cli->json ? tell_json : tell_text)(job, dumped);
    return all_equal(job) ? DN_CLI_OK : DN_CLI_FAILED;
}

/* DN_CLI_OK: arguments->items_max is the cluster's. */
static int read_config(struct arguments *arguments)
{
    struct dn_error err = {0};
    struct dn_config *config = calloc(1, sizeof(*config));
    enum dn_code code = config != NULL ? dn_config_load(arguments->config, config, &err)
                                       : dn_fail(&err, DN_NO_MEMORY, "the configuration");

    if (code == DN_OK)
        arguments->items_max = (uint32_t)config->index.items_max;
    else
        fprintf(stderr, "dunlin: replay: %s\n", dn_cli_clean(err.message));
    free(config);
    return code == DN_OK ? DN_CLI_OK : DN_CLI_USAGE;
}

int dn_cli_replay_log(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .children = children,
        .doc =
            "Rebuilds what a stopped node holds, from its newest snapshot and its log, and prints index and "
            "hash of each group's state. At the same index every node of the cluster has this hash "
            "(`dunlin status`). Hashes that nodes reported in the log are compared on the way.\v"
            "The log may end with entries that were proposed and never committed: `sure` is the last one "
            "known to be committed, `last` the last one there is."};
    struct arguments arguments = {.cli = cli, .group = ALL_GROUPS, .items_max = ITEMS_MAX};
    struct job *job;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    if (arguments.config != NULL && read_config(&arguments) != DN_CLI_OK)
        return DN_CLI_USAGE;
    job = calloc(1, sizeof(*job));
    if (job == NULL)
        return DN_CLI_FAILED;
    job->arguments = &arguments;
    int exit_code = run(job);
    dn_replay_state_close(&job->state);
    if (job->catalog != NULL)
        dn_catalog_destroy(job->catalog);
    if (job->catalog_epoch != NULL)
        dn_epoch_destroy(job->catalog_epoch);
    dn_history_close(job->history);
    free(job);
    return exit_code;
}
