/* dunlin source: how far the streams are read, and an operator's word on where reading goes on. */
#include "node/cli.h"

#include "base/text.h"
#include "ingest/reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PARTITIONS_MAX INT64_C(4294967294)
#define MARK INT64_C(4294967295) /* a partition: every shard reads all of the stream */
#define SHARD_MAX 64
#define PROBLEM_MAX 400
#define ANSWER_MAX 16

enum action { ACTION_NONE, ACTION_LIST, ACTION_SKIP, ACTION_RESET, ACTION_FORGET };

struct arguments {
    struct dn_cli *cli;
    enum action action;
    struct dn_cli_source_wish wish;
    bool to_given, partition_given, forget_watermark, yes;
};

/* ---- arguments
 * ----------------------------------------------------------------------------------------------- */

enum { KEY_TO = 5400, KEY_SHARD, KEY_FORGET, KEY_YES };

static const struct argp_option options[] = {
    {"to", KEY_TO, "OFFSET", 0, "skip: an offset, or end; reset: an offset, or beginning", 20},
    {"shard", KEY_SHARD, "SHARD", 0, "Only this shard's (default: every one that reads the partition)", 20},
    {"forget-watermark", KEY_FORGET, NULL, 0,
     "reset: nothing is late until new events have moved the watermark", 20},
    {"yes", KEY_YES, NULL, 0, "Do not ask", 20},
    {0},
};

static void take_argument(struct arguments *arguments, char *text, struct argp_state *state)
{
    if (arguments->action == ACTION_NONE) {
        if (strcmp(text, "list") == 0)
            arguments->action = ACTION_LIST;
        else if (strcmp(text, "skip") == 0)
            arguments->action = ACTION_SKIP;
        else if (strcmp(text, "reset") == 0)
            arguments->action = ACTION_RESET;
        else if (strcmp(text, "forget") == 0)
            arguments->action = ACTION_FORGET;
        else
            argp_error(state, "unknown action '%s': use list, skip, reset or forget", text);
    } else if (arguments->wish.stream == NULL) {
        arguments->wish.stream = text;
    } else if (!arguments->partition_given) {
        arguments->wish.partition = (uint32_t)dn_cli_number(
            state, "PARTITION", text, 0, arguments->action == ACTION_FORGET ? MARK : PARTITIONS_MAX);
        arguments->partition_given = true;
    } else {
        argp_error(state, "unexpected argument '%s'", text);
    }
}

static void take_to(struct arguments *arguments, const char *text, struct argp_state *state)
{
    struct dn_cli_source_wish *wish = &arguments->wish;

    arguments->to_given = true;
    if (strcmp(text, "end") == 0)
        wish->to = DN_CLI_TO_END;
    else if (strcmp(text, "beginning") == 0)
        wish->to = DN_CLI_TO_BEGINNING;
    else {
        wish->to = DN_CLI_TO_OFFSET;
        if (!dn_parse_i64(text, 0, INT64_MAX, &wish->offset))
            argp_error(state, "--to must be an offset, end or beginning, not '%s'", text);
    }
}

static void check_arguments(const struct arguments *arguments, struct argp_state *state)
{
    const struct dn_cli_source_wish *wish = &arguments->wish;

    if (arguments->action == ACTION_NONE)
        argp_error(state, "say list, or skip, reset or forget with a stream and a partition");
    if (arguments->action == ACTION_LIST) {
        if (wish->stream != NULL || arguments->to_given || arguments->forget_watermark || wish->shard != 0)
            argp_error(state, "list takes no more than --json");
        return;
    }
    if (!arguments->partition_given)
        argp_error(state, "give the STREAM and the PARTITION (`dunlin source list` shows them)");
    if (arguments->action == ACTION_FORGET) {
        if (arguments->to_given || arguments->forget_watermark)
            argp_error(state, "forget takes no --to and no --forget-watermark");
        return;
    }
    if (!arguments->to_given)
        argp_error(state, "where to? --to OFFSET|%s", wish->forward ? "end" : "beginning");
    if (wish->forward && (wish->to == DN_CLI_TO_BEGINNING || arguments->forget_watermark))
        argp_error(state, "skip goes forward: reset is for --to beginning and --forget-watermark");
    if (!wish->forward && wish->to == DN_CLI_TO_END)
        argp_error(state, "--to end leaves events out: that is skip");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case KEY_TO:
        take_to(arguments, text, state);
        return 0;
    case KEY_SHARD:
        arguments->wish.shard = (uint32_t)dn_cli_number(state, "--shard", text, 1, SHARD_MAX);
        return 0;
    case KEY_FORGET:
        arguments->forget_watermark = true;
        return 0;
    case KEY_YES:
        arguments->yes = true;
        return 0;
    case ARGP_KEY_ARG:
        take_argument(arguments, text, state);
        arguments->wish.forward = arguments->action == ACTION_SKIP;
        arguments->wish.forget = arguments->action == ACTION_FORGET;
        return 0;
    case ARGP_KEY_END:
        check_arguments(arguments, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- list
 * ---------------------------------------------------------------------------------------------------- */

static const char *state_name(const Dunlin__V1__SourcePartition *partition)
{
    static const char *const names[] = {"idle", "connecting", "reading", "at end", "OFFSET GONE", "FAILED"};
    unsigned state = (unsigned)partition->state;

    return state < sizeof names / sizeof names[0] ? names[state] : "?";
}

static json_t *number_or_null(bool known, int64_t value)
{
    return known ? json_integer((json_int_t)value) : json_null();
}

static json_t *partition_json(const Dunlin__V1__SourcePartition *from)
{
    json_t *object = json_pack("{s:s, s:I, s:I, s:b, s:I, s:b, s:b}", "stream", from->stream, "partition",
                               (json_int_t)from->partition, "shard", (json_int_t)from->shard, "known",
                               from->known != 0, "events", (json_int_t)from->events, "read_here",
                               from->read_here != 0, "finished", from->finished != 0);

    if (object == NULL)
        return json_null();
    json_object_set_new(object, "next_offset", number_or_null(from->next_offset >= 0, from->next_offset));
    json_object_set_new(object, "watermark_ms", number_or_null(from->has_watermark, from->watermark_ms));
    json_object_set_new(object, "newest_ms", number_or_null(from->has_newest, from->newest_ms));
    if (!from->read_here)
        return object;
    json_object_set_new(object, "source", json_string(from->source));
    json_object_set_new(object, "state", json_string(state_name(from)));
    json_object_set_new(object, "keyed", json_boolean(from->keyed));
    json_object_set_new(object, "begin_offset", number_or_null(from->begin_offset >= 0, from->begin_offset));
    json_object_set_new(object, "end_offset", number_or_null(from->end_offset >= 0, from->end_offset));
    json_object_set_new(object, "lag_records", number_or_null(from->lag_records >= 0, from->lag_records));
    json_object_set_new(object, "lag_ms", number_or_null(from->lag_ms >= 0, from->lag_ms));
    json_object_set_new(object, "stalled", json_boolean(from->stalled));
    json_object_set_new(object, "error", json_string(from->error));
    return object;
}

static void list_json(const Dunlin__V1__ListSourcesResponse *list)
{
    json_t *partitions = json_array(), *troubles = json_array(), *shards = json_array();

    for (size_t i = 0; i < list->n_partitions; i++)
        json_array_append_new(partitions, partition_json(list->partitions[i]));
    for (size_t i = 0; i < list->n_troubles; i++)
        json_array_append_new(troubles, json_pack("{s:s, s:s, s:I}", "source", list->troubles[i]->source,
                                                  "error", list->troubles[i]->error, "age_ms",
                                                  (json_int_t)list->troubles[i]->age_ms));
    for (size_t i = 0; i < list->n_shards; i++)
        json_array_append_new(
            shards, json_pack("{s:I, s:I, s:s, s:b, s:I, s:s}", "shard", (json_int_t)list->shards[i]->shard,
                              "leader_id", (json_int_t)list->shards[i]->leader_id, "leader",
                              list->shards[i]->leader, "stalled", list->shards[i]->stalled != 0, "stalled_ms",
                              (json_int_t)list->shards[i]->stalled_ms, "reason", list->shards[i]->reason));
    dn_cli_print_json(json_pack("{s:s, s:I, s:o, s:o, s:o}", "node", list->node, "node_id",
                                (json_int_t)list->node_id, "partitions", partitions, "troubles", troubles,
                                "shards", shards));
}

static const char *number_text(bool known, int64_t value, char *buffer, size_t size)
{
    if (known)
        snprintf(buffer, size, "%" PRId64, value);
    else
        snprintf(buffer, size, "-");
    return buffer;
}

static const char *clock_text(bool known, int64_t time_ms, char *buffer, size_t size)
{
    time_t seconds = (time_t)(time_ms / 1000);
    struct tm parts;

    if (!known || gmtime_r(&seconds, &parts) == NULL ||
        strftime(buffer, size, "%Y-%m-%d %H:%M:%S", &parts) == 0)
        snprintf(buffer, size, "-");
    return buffer;
}

/* Of streams that only one node reads (ingest/reader.h). How far its letters are written is for JSON. */
static void print_word(const Dunlin__V1__SourcePartition *from)
{
    char heard[32];

    if (from->partition == DN_READER_HEARD && from->known)
        printf("%-32s %5s %5u node %llu reads streams of its own; its last sign of life is of %s\n",
               dn_cli_clean(from->stream), "-", from->shard, strtoull(from->stream + 1, NULL, 16),
               clock_text(true, from->next_offset, heard, sizeof heard));
}

static void print_partition(const Dunlin__V1__SourcePartition *from)
{
    char next[24], end[24], lag[24], behind[32] = "-", watermark[32];
    bool here = from->read_here;

    if (from->stream[0] == '@') {
        print_word(from);
        return;
    }

    if (here && from->lag_ms >= 0)
        snprintf(behind, sizeof behind, "%.1f s", (double)from->lag_ms / 1000);
    printf("%-32s %5u %5u %12s %12s %10s %10s %12llu  %-19s  %s%s\n", dn_cli_clean(from->stream),
           from->partition, from->shard,
           number_text(from->next_offset >= 0, from->next_offset, next, sizeof next),
           number_text(here && from->end_offset >= 0, from->end_offset, end, sizeof end),
           number_text(here && from->lag_records >= 0, from->lag_records, lag, sizeof lag), behind,
           (unsigned long long)from->events,
           clock_text(from->has_watermark, from->watermark_ms, watermark, sizeof watermark),
           here ? state_name(from) : "(elsewhere)", from->stalled ? ", STANDS STILL" : "");
    if (here && from->error[0] != '\0')
        printf("%32s %s\n", "", dn_cli_clean(from->error));
}

static void print_notes(const Dunlin__V1__ListSourcesResponse *list)
{
    for (size_t i = 0; i < list->n_troubles; i++)
        printf("source %s: for %.1f s: %s\n", dn_cli_clean(list->troubles[i]->source),
               (double)list->troubles[i]->age_ms / 1000, dn_cli_clean(list->troubles[i]->error));
    for (size_t i = 0; i < list->n_shards; i++) {
        const Dunlin__V1__SourceShard *shard = list->shards[i];

        if (shard->stalled)
            printf("shard %u: its streams STAND STILL for %.1f s: %s\n", shard->shard,
                   (double)shard->stalled_ms / 1000, dn_cli_clean(shard->reason));
    }
    fputs(
        "(elsewhere): read by the shard's leader (one with @NODE in its name: by that node), which knows the "
        "lag:",
        stdout);
    for (size_t i = 0; i < list->n_shards; i++) {
        if (list->shards[i]->leader_id == 0)
            printf(" shard %u has none", list->shards[i]->shard);
        else
            printf(" shard %u node %llu", list->shards[i]->shard,
                   (unsigned long long)list->shards[i]->leader_id);
        putchar(i + 1 < list->n_shards ? ',' : '\n');
    }
}

static void list_text(const Dunlin__V1__ListSourcesResponse *list)
{
    size_t finished = 0;

    printf("as node %llu (%s) knows it\n", (unsigned long long)list->node_id, dn_cli_clean(list->node));
    if (list->n_partitions == 0 && list->n_troubles == 0) {
        puts("nothing is read from any stream (`sources` in the configuration of dunlind)");
        return;
    }
    printf("%-32s %5s %5s %12s %12s %10s %10s %12s  %-19s  %s\n", "stream", "part", "shard", "next", "end",
           "lag", "behind", "events", "watermark (UTC)", "state");
    for (size_t i = 0; i < list->n_partitions; i++)
        if (list->partitions[i]->finished && !list->partitions[i]->read_here)
            finished++;
        else
            print_partition(list->partitions[i]);
    if (finished > 0)
        printf("%zu more are finished, and remembered until their places are needed (--json shows them)\n",
               finished);
    print_notes(list);
}

int dn_cli_source_list(struct dn_cli *cli, Dunlin__V1__ListSourcesResponse **ret)
{
    static const Dunlin__V1__ListSourcesRequest request = DUNLIN__V1__LIST_SOURCES_REQUEST__INIT;
    ProtobufCMessage *answer;
    int exit_code = dn_cli_call(cli, "/dunlin.v1.Sources/List", &request.base,
                                &dunlin__v1__list_sources_response__descriptor, &answer);

    if (exit_code == DN_CLI_OK)
        *ret = (Dunlin__V1__ListSourcesResponse *)answer;
    return exit_code;
}

static int list_sources(struct dn_cli *cli)
{
    Dunlin__V1__ListSourcesResponse *list;
    int exit_code = dn_cli_source_list(cli, &list);

    if (exit_code != DN_CLI_OK)
        return exit_code;
    (cli->json ? list_json : list_text)(list);
    dunlin__v1__list_sources_response__free_unpacked(list, NULL);
    return DN_CLI_OK;
}

/* ---- skip, reset and forget
 * ------------------------------------------------------------------------------------------- */

static bool wanted(const Dunlin__V1__SourcePartition *partition, const struct dn_cli_source_wish *wish)
{
    return strcmp(partition->stream, wish->stream) == 0 && partition->partition == wish->partition &&
           (wish->shard == 0 || partition->shard == wish->shard);
}

/* The end of the partition as the asked node knows it; false when it does not. */
static bool find_end(const Dunlin__V1__ListSourcesResponse *list, const struct dn_cli_source_wish *wish,
                     int64_t *ret)
{
    for (size_t i = 0; i < list->n_partitions; i++)
        if (wanted(list->partitions[i], wish) && list->partitions[i]->read_here &&
            list->partitions[i]->end_offset >= 0) {
            *ret = list->partitions[i]->end_offset;
            return true;
        }
    return false;
}

bool dn_cli_source_plan(const Dunlin__V1__ListSourcesResponse *list, const struct dn_cli_source_wish *wish,
                        struct dn_cli_source_plan *ret, char *problem, size_t size)
{
    struct dn_cli_source_plan plan = {.next_offset = wish->to == DN_CLI_TO_BEGINNING ? -1 : wish->offset};

    if (wish->to == DN_CLI_TO_END && !find_end(list, wish, &plan.next_offset)) {
        snprintf(
            problem, size,
            "node %llu does not know where partition %u of %s ends: ask a node that reads it (`dunlin "
            "source list` shows the shards' leaders; one with @NODE in its name is read by that node), or "
            "give the offset",
            (unsigned long long)list->node_id, wish->partition, wish->stream);
        return false;
    }
    for (size_t i = 0; i < list->n_partitions; i++) {
        const Dunlin__V1__SourcePartition *partition = list->partitions[i];

        if (!wanted(partition, wish))
            continue;
        if (wish->forward && partition->next_offset > plan.next_offset) {
            snprintf(problem, size,
                     "shard %u is at offset %" PRId64 " already, which is beyond %" PRId64
                     ": skip goes forward only; reset goes back",
                     partition->shard, partition->next_offset, plan.next_offset);
            return false;
        }
        if (plan.count == DN_CLI_SHARDS_MAX)
            break;
        plan.shards[plan.count] = partition->shard;
        plan.old_offsets[plan.count++] = partition->next_offset;
    }
    if (plan.count == 0) {
        snprintf(problem, size, "%s has no partition %u%s that this node knows of: `dunlin source list`",
                 wish->stream, wish->partition, wish->shard != 0 ? " in that shard" : "");
        return false;
    }
    *ret = plan;
    return true;
}

static const char *offset_text(int64_t offset, char *buffer, size_t size)
{
    if (offset < 0)
        snprintf(buffer, size, "the beginning");
    else
        snprintf(buffer, size, "offset %" PRId64, offset);
    return buffer;
}

/* What a node says of itself is kept as offsets of a stream that holds nothing (ingest/reader.h). The server
 * takes nothing but a reset of it to the beginning. */
static void explain_word(const struct dn_cli_source_wish *wish, const struct dn_cli_source_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        fprintf(stderr, "%s number %u, shard %u: nothing instead of %" PRId64 "\n",
                dn_cli_clean(wish->stream), wish->partition, plan->shards[i], plan->old_offsets[i]);
    fputs("The node's word is forgotten until it gives it again. No event is read again.\n", stderr);
}

static void explain(const struct arguments *arguments, const struct dn_cli_source_plan *plan)
{
    const struct dn_cli_source_wish *wish = &arguments->wish;
    char from[48], to[48];
    bool ahead = false;

    if (wish->forget) {
        for (size_t i = 0; i < plan->count; i++)
            fprintf(stderr, "%s partition %u, shard %u: its place may be given to another stream\n",
                    dn_cli_clean(wish->stream), wish->partition, plan->shards[i]);
        fputs("What was not read of it is left out for good. If it comes back later it goes on where it was, "
              "or, "
              "once\nits place was needed, from its beginning.\n",
              stderr);
        return;
    }
    if (wish->stream[0] == '@' && wish->to == DN_CLI_TO_BEGINNING) {
        explain_word(wish, plan);
        return;
    }
    for (size_t i = 0; i < plan->count; i++) {
        ahead = ahead || plan->next_offset >= plan->old_offsets[i];
        fprintf(stderr, "%s partition %u, shard %u: reading goes on at %s instead of %s\n",
                dn_cli_clean(wish->stream), wish->partition, plan->shards[i],
                offset_text(plan->next_offset, to, sizeof to),
                offset_text(plan->old_offsets[i], from, sizeof from));
    }
    if (wish->forward)
        fputs("What lies between is left out for good: its events are not counted.\n", stderr);
    else
        fputs(
            "What was read from there on is read again. Events that were counted are counted once more, but "
            "for\nthose that are late by now.\n",
            stderr);
    if (!wish->forward && ahead && plan->next_offset >= 0)
        fputs("A batch that is on its way at this moment may still be counted from there on. Where the topic "
              "was "
              "made anew,\nreset it to the beginning: what is on its way is refused then.\n",
              stderr);
    if (arguments->forget_watermark)
        fputs("The watermark is forgotten: no event is late until new ones have moved it.\n", stderr);
}

static int confirm(const struct arguments *arguments)
{
    char answer[ANSWER_MAX] = "";

    if (arguments->yes)
        return DN_CLI_OK;
    if (!isatty(STDIN_FILENO)) {
        fputs("dunlin: source: nobody to ask: give --yes to go on; nothing was changed\n", stderr);
        return DN_CLI_USAGE;
    }
    fputs("Type yes to go on: ", stderr);
    if (fgets(answer, sizeof answer, stdin) != NULL && strcmp(answer, "yes\n") == 0)
        return DN_CLI_OK;
    fputs("nothing was changed\n", stderr);
    return DN_CLI_FAILED;
}

static int print_moves(const struct arguments *arguments, const Dunlin__V1__SetSourceResponse *response)
{
    json_t *moves = json_array();
    char from[48], to[48];
    bool all = true;

    for (size_t i = 0; i < response->n_moves; i++) {
        const Dunlin__V1__SourceMove *move = response->moves[i];

        all = all && move->done;
        json_array_append_new(moves, json_pack("{s:I, s:b, s:I, s:I, s:s}", "shard", (json_int_t)move->shard,
                                               "done", move->done != 0, "old_offset",
                                               (json_int_t)move->old_offset, "new_offset",
                                               (json_int_t)move->new_offset, "message", move->message));
        if (arguments->cli->json)
            continue;
        if (move->done && arguments->wish.forget)
            printf("shard %u: finished at %s\n", move->shard,
                   offset_text(move->old_offset, from, sizeof from));
        else if (move->done)
            printf("shard %u: goes on at %s; was %s\n", move->shard,
                   offset_text(move->new_offset, to, sizeof to),
                   offset_text(move->old_offset, from, sizeof from));
        else
            printf("shard %u: NOT CHANGED, or not known to be: %s\n", move->shard,
                   dn_cli_clean(move->message));
    }
    if (arguments->cli->json)
        dn_cli_print_json(json_pack("{s:O}", "moves", moves));
    json_decref(moves);
    if (!all)
        fputs("dunlin: source: not every shard was changed: the same command again is harmless\n", stderr);
    return all ? DN_CLI_OK : DN_CLI_FAILED;
}

static int set_source(struct arguments *arguments)
{
    Dunlin__V1__SetSourceRequest request = DUNLIN__V1__SET_SOURCE_REQUEST__INIT;
    Dunlin__V1__ListSourcesResponse *list;
    struct dn_cli_source_plan plan;
    char problem[PROBLEM_MAX];
    ProtobufCMessage *answer;
    int exit_code = dn_cli_source_list(arguments->cli, &list);

    if (exit_code != DN_CLI_OK)
        return exit_code;
    bool good = dn_cli_source_plan(list, &arguments->wish, &plan, problem, sizeof problem);
    dunlin__v1__list_sources_response__free_unpacked(list, NULL);
    if (!good) {
        fprintf(stderr, "dunlin: source: %s\n", dn_cli_clean(problem));
        return DN_CLI_FAILED;
    }
    explain(arguments, &plan);
    exit_code = confirm(arguments);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    request.stream = (char *)(uintptr_t)arguments->wish.stream; /* protobuf-c does not write to it */
    request.partition = arguments->wish.partition;
    request.n_shards = plan.count;
    request.shards = plan.shards;
    request.next_offset = arguments->wish.forget ? 0 : plan.next_offset;
    request.finished = arguments->wish.forget;
    request.forget_watermark = arguments->forget_watermark;
    request.forward_only = arguments->wish.forward; /* it may have moved on since it was listed */
    exit_code = dn_cli_call(arguments->cli, "/dunlin.v1.Sources/Set", &request.base,
                            &dunlin__v1__set_source_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    exit_code = print_moves(arguments, (const Dunlin__V1__SetSourceResponse *)answer);
    protobuf_c_message_free_unpacked(answer, NULL);
    return exit_code;
}

int dn_cli_source(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc =
            "list\nskip STREAM PARTITION --to OFFSET|end\nreset STREAM PARTITION --to OFFSET|beginning\n"
            "forget STREAM PARTITION",
        .children = children,
        .doc =
            "Shows how far streams are read, and says where reading goes on.\v"
            "list   offsets, lag and watermarks; lag only of what the asked node reads: as its shards' "
            "leader, and for all shards the files that it follows and its standard input\n"
            "skip   goes on further on: the way out when offsets are gone (retention), or one message "
            "blocks\n"
            "reset  goes back, or to where a topic that was made anew begins\n"
            "forget gives back the place of a partition that is no more: a topic or a source that was taken "
            "out of the configuration, a file that was deleted before it was read\n\n"
            "skip, reset and forget show what they would do and ask, unless --yes is given. Exit codes: 0 "
            "done, 1 "
            "refused, or not every shard was changed."};
    struct arguments arguments = {.cli = cli};

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    return arguments.action == ACTION_LIST ? list_sources(cli) : set_source(&arguments);
}
