/* dunlin deadletter: what waits in the queue, what is in a file of dead letters, and trying those again.
 *
 * A letter is tried again as the source's configuration says now: a field that was mapped wrongly gives its
 * event this time. Events go through Events.Publish with ids made of what the letter is about, so a second
 * replay, or a letter that stands in the file twice, counts nothing twice. */
#include "node/cli.h"

#include "base/clock.h"
#include "base/hash.h"
#include "client/names.h"
#include "client/progress.h"
#include "ingest/deadletter.h"
#include "ingest/deadletter_file.h"
#include "ingest/schema.h"
#include "node/config.h"
#include "session/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_DEFAULT 100
#define MAX_MOST 1000
#define AHEAD_MAX_MS INT64_C(86400000) /* Publish refuses a whole call for one event further ahead */
#define WEIGHT_MAX 255.0f              /* the same */
#define NOTES_SHOWN 5 /* broken lines and letters that are no events: the first ones are explained */

struct arguments {
    struct dn_cli *cli;
    bool list, replay, dry_run;
    const char *file, *config, *source;
    uint32_t max;
    unsigned reasons; /* bit by enum dn_dead_reason; 0: all */
};

/* ---- arguments
 * ----------------------------------------------------------------------------------------------- */

enum { KEY_MAX = 5500, KEY_CONFIG, KEY_REASON, KEY_SOURCE, KEY_DRY_RUN };

static const struct argp_option options[] = {
    {"max", KEY_MAX, "N", 0, "list: letters of each shard that are shown (default 100, at most 1000)", 20},
    {"config", KEY_CONFIG, "FILE", 0, "replay: dunlind's configuration, which says how messages are decoded",
     20},
    {"reason", KEY_REASON, "REASON", 0,
     "replay: only these: undecodable, limit, misrouted, late, ahead, no_room, invalid; may be given often",
     20},
    {"source", KEY_SOURCE, "NAME", 0, "replay: only this source's", 20},
    {"dry-run", KEY_DRY_RUN, NULL, 0,
     "replay: publish nothing; print the events as JSON lines (`dunlin publish` takes them)", 20},
    {0},
};

static void take_argument(struct arguments *arguments, char *text, struct argp_state *state)
{
    if (!arguments->list && !arguments->replay) {
        arguments->list = strcmp(text, "list") == 0;
        arguments->replay = strcmp(text, "replay") == 0;
        if (!arguments->list && !arguments->replay)
            argp_error(state, "unknown action '%s': use list or replay", text);
    } else if (arguments->file == NULL) {
        arguments->file = text;
    } else {
        argp_error(state, "unexpected argument '%s'", text);
    }
}

static void check_arguments(const struct arguments *arguments, struct argp_state *state)
{
    bool of_replay = arguments->config != NULL || arguments->source != NULL || arguments->reasons != 0 ||
                     arguments->dry_run;

    if (!arguments->list && !arguments->replay)
        argp_error(state, "say list or replay");
    if (arguments->list && of_replay)
        argp_error(state, "--config, --reason, --source and --dry-run go with replay");
    if (arguments->max != 0 && (arguments->replay || arguments->file != NULL))
        argp_error(state, "--max goes with list of the queue");
    if (arguments->replay && (arguments->file == NULL || arguments->config == NULL))
        argp_error(state, "replay needs the FILE of letters (- is standard input) and --config FILE");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;
    uint8_t reason;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case KEY_MAX:
        arguments->max = (uint32_t)dn_cli_number(state, "--max", text, 1, MAX_MOST);
        return 0;
    case KEY_CONFIG:
        arguments->config = text;
        return 0;
    case KEY_SOURCE:
        arguments->source = text;
        return 0;
    case KEY_REASON:
        reason = dn_dead_reason_parse(text);
        if (reason == 0)
            argp_error(state,
                       "--reason '%s': there are undecodable, limit, misrouted, late, ahead, no_room "
                       "and invalid",
                       text);
        arguments->reasons |= 1u << reason;
        return 0;
    case KEY_DRY_RUN:
        arguments->dry_run = true;
        return 0;
    case ARGP_KEY_ARG:
        take_argument(arguments, text, state);
        return 0;
    case ARGP_KEY_END:
        check_arguments(arguments, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const char *clock_text(int64_t time_ms, char *buffer, size_t size)
{
    time_t seconds = (time_t)(time_ms / 1000);
    struct tm parts;

    if (gmtime_r(&seconds, &parts) == NULL || strftime(buffer, size, "%Y-%m-%d %H:%M:%S", &parts) == 0)
        snprintf(buffer, size, "%lld", (long long)time_ms);
    return buffer;
}

/* ---- the queue
 * ----------------------------------------------------------------------------------------------- */

static void queue_json(const Dunlin__V1__ListDeadLettersResponse *list)
{
    json_t *letters = json_array(), *shards = json_array();

    for (size_t i = 0; i < list->n_letters; i++) {
        const Dunlin__V1__DeadLetter *letter = list->letters[i];

        json_array_append_new(
            letters, json_pack("{s:I, s:I, s:s, s:s, s:I, s:I, s:I}", "shard", (json_int_t)letter->shard,
                               "number", (json_int_t)letter->number, "reason", letter->reason, "stream",
                               letter->stream, "partition", (json_int_t)letter->partition, "offset",
                               (json_int_t)letter->offset, "judged_ms", (json_int_t)letter->judged_ms));
    }
    for (size_t i = 0; i < list->n_shards; i++) {
        const Dunlin__V1__DeadLetterShard *shard = list->shards[i];
        json_t *counts = json_object();

        for (size_t c = 0; c < shard->n_counts; c++)
            json_object_set_new(counts, shard->counts[c]->reason,
                                json_integer((json_int_t)shard->counts[c]->count));
        json_array_append_new(shards, json_pack("{s:I, s:I, s:I, s:o}", "shard", (json_int_t)shard->shard,
                                                "waiting", (json_int_t)shard->waiting, "written",
                                                (json_int_t)shard->written, "ever", counts));
    }
    dn_cli_print_json(json_pack("{s:o, s:o}", "waiting", letters, "shards", shards));
}

static void queue_text(const Dunlin__V1__ListDeadLettersResponse *list)
{
    uint64_t waiting = 0;

    printf("%5s %10s %12s  %s\n", "shard", "waiting", "written", "ever, by reason");
    for (size_t i = 0; i < list->n_shards; i++) {
        const Dunlin__V1__DeadLetterShard *shard = list->shards[i];

        waiting += shard->waiting;
        printf("%5u %10llu %12llu ", shard->shard, (unsigned long long)shard->waiting,
               (unsigned long long)shard->written);
        for (size_t c = 0; c < shard->n_counts; c++)
            printf(" %s %llu", dn_cli_clean(shard->counts[c]->reason),
                   (unsigned long long)shard->counts[c]->count);
        puts(shard->n_counts == 0 ? " none" : "");
    }
    if (list->n_letters > 0)
        printf("\n%5s %10s  %-12s %-32s %5s %14s  %s\n", "shard", "number", "reason", "stream", "part",
               "offset", "judged (UTC)");
    for (size_t i = 0; i < list->n_letters; i++) {
        const Dunlin__V1__DeadLetter *letter = list->letters[i];
        char judged[32];

        printf("%5u %10llu  %-12s %-32s %5u %14" PRId64 "  %s\n", letter->shard,
               (unsigned long long)letter->number, dn_cli_clean(letter->reason), dn_cli_clean(letter->stream),
               letter->partition, letter->offset, clock_text(letter->judged_ms, judged, sizeof judged));
    }
    if (waiting > list->n_letters)
        printf("... and %llu more that wait (--max shows up to %d of each shard)\n",
               (unsigned long long)(waiting - list->n_letters), MAX_MOST);
}

static int list_queue(const struct arguments *arguments)
{
    Dunlin__V1__ListDeadLettersRequest request = DUNLIN__V1__LIST_DEAD_LETTERS_REQUEST__INIT;
    ProtobufCMessage *answer;

    request.max = arguments->max != 0 ? arguments->max : MAX_DEFAULT;
    int exit_code = dn_cli_call(arguments->cli, "/dunlin.v1.DeadLetters/List", &request.base,
                                &dunlin__v1__list_dead_letters_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    (arguments->cli->json ? queue_json : queue_text)((const Dunlin__V1__ListDeadLettersResponse *)answer);
    protobuf_c_message_free_unpacked(answer, NULL);
    return DN_CLI_OK;
}

/* ---- a file of letters
 * --------------------------------------------------------------------------------------- */

static int complain(const struct arguments *arguments, enum dn_code code, const struct dn_error *err)
{
    return dn_cli_complain(arguments->cli, "deadletter", code, err->message);
}

/* Calls `take` for each letter, until it says false; lines that are none are counted. DN_CLI_OK: to the end.
 */
static int each_letter(const struct arguments *arguments,
                       bool (*take)(void *data, const struct dn_dead_line *line), void *data,
                       uint64_t *ret_broken)
{
    struct dn_dead_file *file = NULL;
    struct dn_dead_line line;
    struct dn_buffer buffer;
    struct dn_error err = {0};
    enum dn_code code = dn_dead_file_open(arguments->file, &file, &err);

    *ret_broken = 0;
    if (code != DN_OK)
        return complain(arguments, code, &err);
    dn_buffer_init(&buffer, DN_DEAD_LINE_MAX);
    for (bool more = true; more && (code == DN_OK || code == DN_INVALID);) {
        code = dn_dead_file_next(file, &buffer, &line, &err);
        if (code == DN_OK)
            more = take(data, &line);
        else if (code == DN_INVALID && (*ret_broken)++ < NOTES_SHOWN)
            fprintf(stderr, "%s\n", dn_cli_clean(err.message));
    }
    dn_buffer_free(&buffer);
    dn_dead_file_close(file);
    return code == DN_OK || code == DN_NOT_FOUND ? DN_CLI_OK : complain(arguments, code, &err);
}

/* A file without a single letter, in which something else stands, is the wrong one. */
static int check_letters(const struct arguments *arguments, uint64_t letters, uint64_t broken)
{
    if (letters > 0 || broken == 0)
        return DN_CLI_OK;
    fprintf(stderr, "dunlin: deadletter: %s holds no dead letter at all: is it the right file?\n",
            strcmp(arguments->file, "-") == 0 ? "standard input" : dn_cli_clean(arguments->file));
    return DN_CLI_FAILED;
}

struct seen { /* a letter, as far as a summary goes */
    uint64_t number;
    int64_t judged_ms;
    uint32_t shard;
    uint8_t reason;
    bool bytes;
};

struct summary {
    struct seen *letters;
    size_t count, capacity;
    bool no_memory;
};

static bool take_seen(void *data, const struct dn_dead_line *line)
{
    struct summary *summary = data;

    if (summary->count == summary->capacity) {
        size_t capacity = summary->capacity > 0 ? 2 * summary->capacity : 1024;
        struct seen *letters = realloc(summary->letters, capacity * sizeof *letters);

        summary->no_memory = letters == NULL;
        if (letters == NULL)
            return false;
        summary->letters = letters;
        summary->capacity = capacity;
    }
    summary->letters[summary->count++] = (struct seen){.number = line->number,
                                                       .judged_ms = line->judged_ms,
                                                       .shard = line->shard,
                                                       .reason = line->reason,
                                                       .bytes = line->bytes != NULL};
    return true;
}

static int compare_seen(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;

    if (x->reason != y->reason)
        return x->reason < y->reason ? -1 : 1;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static void print_reason(const struct arguments *arguments, const struct seen *letters, size_t count,
                         json_t *reasons)
{
    size_t distinct = 0, bytes = 0;
    int64_t oldest = letters[0].judged_ms, newest = letters[0].judged_ms;
    char from[32], to[32];

    for (size_t i = 0; i < count; i++) {
        const struct seen *letter = &letters[i];

        oldest = letter->judged_ms < oldest ? letter->judged_ms : oldest;
        newest = letter->judged_ms > newest ? letter->judged_ms : newest;
        if (i > 0 && compare_seen(letter, letter - 1) == 0)
            continue;
        distinct++;
        bytes += letter->bytes;
    }
    const char *name = dn_dead_reason_text(letters[0].reason);
    if (arguments->cli->json)
        json_object_set_new(reasons, name,
                            json_pack("{s:I, s:I, s:I, s:I, s:I}", "letters", (json_int_t)distinct, "repeats",
                                      (json_int_t)(count - distinct), "without_bytes",
                                      (json_int_t)(distinct - bytes), "oldest_ms", (json_int_t)oldest,
                                      "newest_ms", (json_int_t)newest));
    else
        printf("%-12s %10zu %10zu %14zu  %-19s  %s\n", name, distinct, count - distinct, distinct - bytes,
               clock_text(oldest, from, sizeof from), clock_text(newest, to, sizeof to));
}

static int list_file(const struct arguments *arguments)
{
    struct summary summary = {0};
    uint64_t broken;
    json_t *reasons = json_object();
    int exit_code = each_letter(arguments, take_seen, &summary, &broken);

    if (exit_code == DN_CLI_OK && summary.no_memory) {
        fputs("dunlin: deadletter: out of memory\n", stderr);
        exit_code = DN_CLI_FAILED;
    }
    if (exit_code == DN_CLI_OK && !arguments->cli->json)
        printf("%-12s %10s %10s %14s  %-19s  %s\n", "reason", "letters", "repeats", "without bytes",
               "oldest (UTC)", "newest (UTC)");
    if (summary.count > 0)
        qsort(summary.letters, summary.count, sizeof *summary.letters, compare_seen);
    for (size_t first = 0, i = 1; exit_code == DN_CLI_OK && first < summary.count; i++)
        if (i == summary.count || summary.letters[i].reason != summary.letters[first].reason) {
            print_reason(arguments, &summary.letters[first], i - first, reasons);
            first = i;
        }
    if (exit_code == DN_CLI_OK && arguments->cli->json)
        dn_cli_print_json(json_pack("{s:O, s:I}", "reasons", reasons, "broken_lines", (json_int_t)broken));
    else if (exit_code == DN_CLI_OK && broken > 0)
        printf("%llu lines are no letters (cut off by a crash, or not ours)\n", (unsigned long long)broken);
    if (exit_code == DN_CLI_OK)
        exit_code = check_letters(arguments, summary.count, broken);
    json_decref(reasons);
    free(summary.letters);
    return exit_code;
}

/* ---- trying again
 * -------------------------------------------------------------------------------------------- */

struct replay {
    const struct arguments *arguments;
    const struct dn_config *config;
    struct dn_schema *schemas[DN_SOURCES_CONFIGURED_MAX];
    struct dn_cli_batch batch;
    struct dn_cli_totals totals;
    struct dn_progress progress;
    Dunlin__V1__ListSourcesResponse *streams; /* as a node knows them; NULL: not asked for */
    uint64_t read, chosen, without_bytes, undecodable, passed_over, misrouted, counted, events;
    int exit_code;
};

/* NULL: complained. */
static struct dn_schema *schema_of(struct replay *replay, const struct dn_dead_line *line)
{
    struct dn_error err = {0};

    for (size_t i = 0; i < replay->config->source_count; i++) {
        if (strcmp(replay->config->sources[i].name, line->source) != 0)
            continue;
        if (replay->schemas[i] == NULL &&
            dn_schema_create(&replay->config->sources[i], &replay->schemas[i], &err) != DN_OK) {
            fprintf(stderr, "dunlin: deadletter: %s: %s\n", replay->arguments->config,
                    dn_cli_clean(err.message));
            return NULL;
        }
        return replay->schemas[i];
    }
    fprintf(stderr,
            "dunlin: deadletter: the letters are of a source '%s', which %s does not have: give the "
            "configuration that read them, or --source NAME to leave others out\n",
            dn_cli_clean(line->source), replay->arguments->config);
    return NULL;
}

/* Tells the message from another one that had its offset: of a topic that was deleted and made anew. The
 * event itself is not asked, for another configuration may decode it otherwise. */
static uint64_t message_hash(const struct dn_dead_line *line)
{
    uint64_t hash = dn_hash64(&line->time_ms, sizeof line->time_ms, 0);

    if (line->key != NULL)
        hash = dn_hash64(line->key, line->key_length, hash + 1);
    return dn_hash64(line->bytes, line->length, hash);
}

static void event_fill(const struct dn_dead_line *line, const struct dn_decoded *decoded,
                       struct dn_feed_event *ret)
{
    memset(ret, 0, sizeof *ret);
    memcpy(ret->key, decoded->user, decoded->user_length);
    memcpy(ret->item, decoded->item, decoded->item_length);
    snprintf(ret->event_id, sizeof ret->event_id, "dead:%s:%u:%" PRId64 ":%016" PRIx64, line->stream,
             line->partition, line->offset, message_hash(line));
    ret->type = decoded->type;
    ret->time_ms = decoded->time_ms;
    ret->weight = (float)decoded->weight / DN_WEIGHT_ONE;
    if (ret->weight > WEIGHT_MAX)
        ret->weight = WEIGHT_MAX;
}

static void print_event(const struct dn_feed_event *event)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:I, s:s, s:f}", "user", event->key, "item", event->item,
                               "type", dn_event_type_name(event->type), "time_ms", (json_int_t)event->time_ms,
                               "event_id", event->event_id, "weight", (double)event->weight);

    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
}

static bool flush(struct replay *replay)
{
    if (replay->batch.count == 0)
        return true;
    replay->exit_code = dn_cli_batch_send(replay->arguments->cli, &replay->batch, &replay->totals);
    dn_progress_update(&replay->progress, replay->read);
    return replay->exit_code == DN_CLI_OK;
}

static bool add_event(struct replay *replay, const struct dn_dead_line *line,
                      const struct dn_decoded *decoded)
{
    struct dn_feed_event *event = &replay->batch.events[replay->batch.count];

    event_fill(line, decoded, event);
    replay->events++;
    if (replay->arguments->dry_run) {
        print_event(event);
        return true;
    }
    return ++replay->batch.count < DN_CLI_BATCH_MAX || flush(replay);
}

static bool is_chosen(const struct arguments *arguments, const struct dn_dead_line *line)
{
    if (arguments->source != NULL && strcmp(arguments->source, line->source) != 0)
        return false;
    if (arguments->reasons == 0)
        return line->reason != DN_DEAD_MISROUTED;
    return (arguments->reasons & 1u << line->reason) != 0;
}

static void note_no_event(struct replay *replay, const struct dn_dead_line *line, const char *why)
{
    if (replay->undecodable++ < NOTES_SHOWN)
        fprintf(stderr, "%s partition %u offset %" PRId64 ": still no event: %s\n",
                dn_cli_clean(line->stream), line->partition, line->offset, dn_cli_clean(why));
}

/* When a keyed topic grows to a number of partitions that is no multiple of the shards, every shard reads all
 * of them from then on, from the beginning: what was misrouted until that was noticed is counted then. */
static bool is_read_by_its_shard(const struct replay *replay, const struct dn_dead_line *line,
                                 const struct dn_decoded *decoded)
{
    uint32_t shards = (uint32_t)replay->config->cluster.shards;
    uint32_t shard = dn_shard_of_user(decoded->user, decoded->user_length, shards);

    for (size_t i = 0; i < replay->streams->n_partitions; i++) {
        const Dunlin__V1__SourcePartition *partition = replay->streams->partitions[i];

        if (partition->shard == shard && strcmp(partition->stream, line->stream) == 0 &&
            (partition->partition == line->partition || partition->partition == UINT32_MAX))
            return true;
    }
    return false;
}

static bool take_event(struct replay *replay, const struct dn_dead_line *line,
                       const struct dn_decoded *decoded)
{
    if (line->reason != DN_DEAD_MISROUTED)
        return add_event(replay, line, decoded);
    if (replay->streams == NULL) {
        replay->exit_code = dn_cli_source_list(replay->arguments->cli, &replay->streams);
        if (replay->exit_code != DN_CLI_OK)
            return false;
    }
    if (!is_read_by_its_shard(replay, line, decoded))
        return add_event(replay, line, decoded);
    replay->counted++;
    return true;
}

static bool take_letter(void *data, const struct dn_dead_line *line)
{
    struct replay *replay = data;
    struct dn_message message = {.offset = line->offset,
                                 .next_offset = line->offset + 1,
                                 .time_ms = line->time_ms,
                                 .key = line->key,
                                 .key_length = line->key_length,
                                 .bytes = line->bytes,
                                 .length = line->length};
    struct dn_decoded decoded;
    enum dn_dead_reason reason;
    struct dn_error err = {0};

    replay->read++;
    if (!is_chosen(replay->arguments, line)) {
        replay->misrouted += line->reason == DN_DEAD_MISROUTED;
        return true;
    }
    replay->chosen++;
    if (line->bytes == NULL) {
        replay->without_bytes++;
        return true;
    }
    struct dn_schema *schema = schema_of(replay, line);
    if (schema == NULL) {
        replay->exit_code = DN_CLI_USAGE;
        return false;
    }
    switch (dn_schema_decode(schema, &message, &decoded, &reason, &err)) {
    case DN_DECODED:
        if (decoded.time_ms <= dn_wall_ms() + AHEAD_MAX_MS)
            return take_event(replay, line, &decoded);
        note_no_event(replay, line, "its time is more than a day ahead");
        return true;
    case DN_DECODE_SKIPPED:
        replay->passed_over++;
        return true;
    case DN_DECODE_DEAD:
        note_no_event(replay, line, err.message);
        return true;
    }
    return true;
}

static void print_replayed(const struct replay *replay, uint64_t broken)
{
    const struct dn_cli *cli = replay->arguments->cli;
    FILE *out = replay->arguments->dry_run ? stderr : stdout; /* the events themselves go to stdout then */

    if (cli->json && !replay->arguments->dry_run) {
        json_t *object =
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "read", (json_int_t)replay->read, "chosen",
                      (json_int_t)replay->chosen, "without_bytes", (json_int_t)replay->without_bytes,
                      "undecodable", (json_int_t)replay->undecodable, "passed_over",
                      (json_int_t)replay->passed_over, "events", (json_int_t)replay->events,
                      "counted_by_shards", (json_int_t)replay->counted, "broken_lines", (json_int_t)broken);

        for (int i = 0; i < DN_CLI_OUTCOMES; i++)
            json_object_set_new(object, dn_event_outcome_name(i),
                                json_integer((json_int_t)replay->totals.outcomes[i]));
        dn_cli_print_json(object);
        return;
    }
    fprintf(out,
            "%llu letters read, %llu chosen: %llu events%s, %llu without bytes, %llu still no event, %llu no "
            "event by configuration; %llu lines are no letters\n",
            (unsigned long long)replay->read, (unsigned long long)replay->chosen,
            (unsigned long long)replay->events, replay->arguments->dry_run ? " (not published)" : "",
            (unsigned long long)replay->without_bytes, (unsigned long long)replay->undecodable,
            (unsigned long long)replay->passed_over, (unsigned long long)broken);
    for (int i = 0; i < DN_CLI_OUTCOMES; i++)
        if (replay->totals.outcomes[i] > 0)
            fprintf(out, "%s %llu\n", dn_event_outcome_name(i),
                    (unsigned long long)replay->totals.outcomes[i]);
    if (replay->arguments->reasons == 0 && replay->misrouted > 0)
        fprintf(
            stderr,
            "%llu misrouted letters are left out: --reason misrouted publishes those of them that no shard "
            "has counted since, or will\n",
            (unsigned long long)replay->misrouted);
    if (replay->counted > 0)
        fprintf(
            stderr,
            "%llu misrouted letters are left out: their users' shards read these partitions now, and count "
            "the events themselves\n",
            (unsigned long long)replay->counted);
}

static int replay_file(const struct arguments *arguments)
{
    static struct dn_config config; /* half a megabyte and more */
    static struct replay replay;
    struct dn_error err = {0};
    uint64_t broken = 0;

    if (dn_config_load(arguments->config, &config, &err) != DN_OK) {
        fprintf(stderr, "dunlin: deadletter: %s\n", dn_cli_clean(err.message));
        return DN_CLI_USAGE;
    }
    replay = (struct replay){.arguments = arguments, .config = &config};
    dn_progress_begin(&replay.progress, "letters", 0);
    int exit_code = each_letter(arguments, take_letter, &replay, &broken);
    if (exit_code == DN_CLI_OK && replay.exit_code == DN_CLI_OK)
        flush(&replay);
    dn_progress_end(&replay.progress);
    for (size_t i = 0; i < config.source_count; i++)
        dn_schema_destroy(replay.schemas[i]);
    free(replay.totals.token);
    if (replay.streams != NULL)
        dunlin__v1__list_sources_response__free_unpacked(replay.streams, NULL);
    if (replay.exit_code != DN_CLI_OK)
        exit_code = replay.exit_code;
    print_replayed(&replay, broken);
    if (exit_code == DN_CLI_OK && check_letters(arguments, replay.read, broken) != DN_CLI_OK)
        return DN_CLI_FAILED;
    if (exit_code != DN_CLI_OK)
        fputs("        it stopped there; the same command again counts nothing twice\n", stderr);
    else if (replay.without_bytes + replay.undecodable + dn_cli_totals_refused(&replay.totals) > 0)
        exit_code = DN_CLI_FAILED;
    return exit_code;
}

int dn_cli_deadletter(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "list [FILE]\nreplay FILE --config FILE",
        .children = children,
        .doc =
            "Messages of a stream that gave no event, or came too late.\v"
            "list         what waits to be written, and how many there ever were, by reason\n"
            "list FILE    what is in a file of dead letters, by reason\n"
            "replay FILE  decodes the letters as the configuration says now, and publishes their events\n\n"
            "A second replay counts nothing twice. Misrouted letters are left out unless --reason names "
            "them; of these, those that the users' shards have counted since, or will, are left out (a node "
            "is asked, for --dry-run too). An event that is too late for its user stays late. Exit "
            "codes: 0 done (replay: every chosen letter's event is counted), 1 not, or FILE has lines but "
            "no letter."};
    struct arguments arguments = {.cli = cli};

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    if (arguments.replay)
        return replay_file(&arguments);
    return arguments.file != NULL ? list_file(&arguments) : list_queue(&arguments);
}
