#include "base/clock.h"
#include "base/text.h"
#include "client/names.h"
#include "client/progress.h"
#include "replay/generator.h"
#include "replay/replay.h"

#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT_BUFFER_BYTES (1u << 20)
#define PROGRESS_EVERY 4096
/* Past, and the same in every run: the output depends on the options alone. June 2025. */
#define START_MS_DEFAULT INT64_C(1750000000000)

struct arguments {
    struct dn_generator_options options;
    const char *events, *catalog;
    bool json;
};

enum {
    KEY_USERS = 256,
    KEY_ITEMS,
    KEY_SESSIONS,
    KEY_SEED,
    KEY_DIM,
    KEY_EVENTS,
    KEY_CATALOG,
    KEY_START,
    KEY_RATE,
    KEY_JSON
};

static const struct argp_option option_list[] = {
    {"users", KEY_USERS, "N", 0, "Users (default 10000)", 0},
    {"items", KEY_ITEMS, "N", 0, "Items in the catalogue (default 5000)", 0},
    {"sessions", KEY_SESSIONS, "N", 0, "Sessions; about 4.7 events each (default 20000)", 0},
    {"seed", KEY_SEED, "N", 0, "Same seed and options, same output (default 1)", 0},
    {"dim", KEY_DIM, "N", 0, "Numbers in an item's vector (default 64)", 0},
    {"events", KEY_EVENTS, "FILE", 0, "Write events here, JSON lines by time; - is standard output", 0},
    {"catalog", KEY_CATALOG, "FILE", 0, "Write the catalogue here, JSON lines", 0},
    {"start", KEY_START, "MS", 0, "Time of the first event, ms since 1970 (default in June 2025)", 0},
    {"rate", KEY_RATE, "EVENTS", 0, "Events a second, in event time (default 100)", 0},
    {"json", KEY_JSON, NULL, 0, "Print the summary as JSON", 0},
    {0},
};

static int64_t parse_number(struct argp_state *state, const char *name, const char *text, int64_t min,
                            int64_t max)
{
    int64_t value = 0;

    if (!dn_parse_i64(text, min, max, &value))
        argp_error(state, "--%s must be a whole number from %lld to %lld, not '%s'", name, (long long)min,
                   (long long)max, text);
    return value;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *arguments = state->input;
    struct dn_generator_options *options = &arguments->options;
    char *end;

    switch (key) {
    case KEY_USERS:
        options->users = (uint32_t)parse_number(state, "users", text, 1, DN_GENERATOR_USERS_MAX);
        break;
    case KEY_ITEMS:
        options->items = (uint32_t)parse_number(state, "items", text, 1, DN_GENERATOR_ITEMS_MAX);
        break;
    case KEY_SESSIONS:
        options->sessions = (uint64_t)parse_number(state, "sessions", text, 0, INT64_MAX);
        break;
    case KEY_SEED:
        options->seed = (uint64_t)parse_number(state, "seed", text, 0, INT64_MAX);
        break;
    case KEY_DIM:
        options->dim = (uint32_t)parse_number(state, "dim", text, 1, 2048);
        break;
    case KEY_START:
        options->start_ms = parse_number(state, "start", text, 0, INT64_C(32503680000000));
        break;
    case KEY_RATE:
        options->rate_events_per_s = strtod(text, &end);
        if (end == text || *end != '\0' ||
            !(options->rate_events_per_s >= 0.001 && options->rate_events_per_s <= 1e7))
            argp_error(state, "--rate must be a number from 0.001 to 10000000, not '%s'", text);
        break;
    case KEY_EVENTS:
        arguments->events = text;
        break;
    case KEY_CATALOG:
        arguments->catalog = text;
        break;
    case KEY_JSON:
        arguments->json = true;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        break;
    case ARGP_KEY_END:
        if (arguments->events == NULL && arguments->catalog == NULL)
            argp_error(state, "nothing to write: give --events FILE, --catalog FILE, or both");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static FILE *open_output(const char *path, struct dn_error *err)
{
    FILE *file = strcmp(path, "-") == 0 ? stdout : fopen(path, "we");

    if (file == NULL)
        dn_fail(err, DN_IO, "create '%s': %s", path, strerror(errno));
    else
        setvbuf(file, NULL, _IOFBF, OUTPUT_BUFFER_BYTES);
    return file;
}

/* Closes and tells of any write that failed. */
static enum dn_code close_output(FILE *file, const char *path, enum dn_code code, struct dn_error *err)
{
    bool failed = fflush(file) != 0 || ferror(file) != 0;

    if (file != stdout)
        failed = fclose(file) != 0 || failed;
    if (code == DN_OK && failed)
        return dn_fail(err, DN_IO, "write '%s': %s", path, strerror(errno));
    return code;
}

static enum dn_code write_catalog(const struct dn_generator *generator, const struct arguments *arguments,
                                  struct dn_error *err)
{
    const struct dn_generator_options *options = &arguments->options;
    FILE *file = open_output(arguments->catalog, err);
    float *vector;
    struct dn_progress progress;

    if (file == NULL)
        return DN_IO;
    vector = calloc(options->dim, sizeof *vector);
    if (vector == NULL)
        return close_output(file, arguments->catalog, dn_fail(err, DN_NO_MEMORY, "out of memory"), err);
    dn_progress_begin(&progress, "catalogue", options->items);
    for (uint32_t i = 0; i < options->items && !ferror(file); i++) {
        struct dn_generated_item item;

        dn_generator_item(generator, i, &item, vector);
        fprintf(file, "{\"id\":\"item-%u\",\"category\":\"category-%u\",\"price\":%.2f,\"available\":%s,", i,
                item.category, item.price, item.available ? "true" : "false");
        fprintf(file, "\"attributes\":{\"cluster\":\"%u\"},\"vector\":[", item.cluster);
        for (uint32_t d = 0; d < options->dim; d++)
            fprintf(file, d == 0 ? "%.6g" : ",%.6g", (double)vector[d]);
        fputs("]}\n", file);
        dn_progress_update(&progress, i);
    }
    dn_progress_end(&progress);
    free(vector);
    return close_output(file, arguments->catalog, DN_OK, err);
}

static enum dn_code write_events(struct dn_generator *generator, const struct arguments *arguments,
                                 uint64_t *ret_count, int64_t *ret_last_ms, struct dn_error *err)
{
    FILE *file = open_output(arguments->events, err);
    struct dn_generated_event event;
    struct dn_progress progress;
    enum dn_code code;

    if (file == NULL)
        return DN_IO;
    dn_progress_begin(&progress, "events (sessions started)", arguments->options.sessions);
    while ((code = dn_generator_next(generator, &event, err)) == DN_OK && !ferror(file)) {
        fprintf(file,
                "{\"user\":\"user-%u\",\"item\":\"item-%u\",\"type\":\"%s\",\"time_ms\":%lld,"
                "\"event_id\":\"%llx-%llx-%x\"}\n",
                event.user, event.item, dn_event_type_name(event.type), (long long)event.time_ms,
                (unsigned long long)arguments->options.seed, (unsigned long long)event.session, event.click);
        *ret_last_ms = event.time_ms;
        if (++*ret_count % PROGRESS_EVERY == 0)
            dn_progress_update(&progress, event.session);
    }
    dn_progress_end(&progress);
    return close_output(file, arguments->events, code == DN_NOT_FOUND ? DN_OK : code, err);
}

static void print_summary(const struct arguments *arguments, const struct dn_generator *generator,
                          uint64_t events, int64_t last_ms)
{
    /* Standard output may be the events. */
    FILE *out = arguments->events != NULL && strcmp(arguments->events, "-") == 0 ? stderr : stdout;
    const struct dn_generator_options *options = &arguments->options;

    if (arguments->json) {
        json_t *object =
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "events", (json_int_t)events, "sessions",
                      (json_int_t)options->sessions, "users", (json_int_t)options->users, "items",
                      (json_int_t)options->items, "seed", (json_int_t)options->seed, "start_ms",
                      (json_int_t)options->start_ms, "last_ms", (json_int_t)last_ms, "overlapping_sessions",
                      (json_int_t)dn_generator_overlaps(generator));
        json_dumpf(object, out, JSON_COMPACT);
        fputc('\n', out);
        json_decref(object);
        return;
    }
    if (arguments->events != NULL)
        fprintf(out, "%llu events of %llu sessions over %.1f hours\n", (unsigned long long)events,
                (unsigned long long)options->sessions,
                events == 0 ? 0.0 : (double)(last_ms - options->start_ms) / 3.6e6);
    if (arguments->catalog != NULL)
        fprintf(out, "%u items with vectors of %u numbers\n", options->items, options->dim);
    if (dn_generator_overlaps(generator) > 0)
        fprintf(out, "%llu sessions overlap another of the same user: give more --users or a lower --rate\n",
                (unsigned long long)dn_generator_overlaps(generator));
}

int dn_replay_generate(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .doc =
            "Writes a clickstream and a catalogue with vectors, made from a seed, shaped like production.\v"
            "Example: dunlin-replay generate --sessions 100000 --events events.jsonl --catalog items.jsonl"};
    struct arguments arguments = {.options = {.users = 10000,
                                              .items = 5000,
                                              .sessions = 20000,
                                              .seed = 1,
                                              .dim = 64,
                                              .start_ms = START_MS_DEFAULT,
                                              .rate_events_per_s = 100}};
    struct dn_generator *generator = NULL;
    struct dn_error err;
    uint64_t events = 0;
    int64_t last_ms = 0;
    enum dn_code code;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    code = dn_generator_create(&arguments.options, &generator, &err);
    if (code == DN_OK && arguments.catalog != NULL)
        code = write_catalog(generator, &arguments, &err);
    if (code == DN_OK && arguments.events != NULL)
        code = write_events(generator, &arguments, &events, &last_ms, &err);
    if (code == DN_OK)
        print_summary(&arguments, generator, events, last_ms);
    else
        fprintf(stderr, "dunlin-replay: %s\n", err.message);
    dn_generator_destroy(generator);
    return code == DN_OK ? DN_EXIT_OK : DN_EXIT_FAILURE;
}
