/* clicks WORLD [OPTIONS] > FILE: a made-up click log, as `dunlin eval` and bench_near read it (clicks.h). */
#include "tests/bench/clicks.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT_BUFFER_BYTES (1u << 20)

static const char usage[] =
    "Usage: clicks WORLD [--items N] [--sessions N] [--days N] [--seed N] [--bound FILE]\n"
    "\n"
    "Writes a made-up click log to standard output: tabs, `ts user session item type price`, in order of "
    "time.\n"
    "\n"
    "  news     items live for hours; nobody reads one twice; 20 sections (20,000 items, 60,000 sessions, 14 "
    "days)\n"
    "  music    long sessions, repeats, several interests a listener, who comes back (30,000, 12,000, 56)\n"
    "  market   a long tail, categories, what goes with what; most users come once (40,000, 60,000, 30)\n"
    "  noise    popularity and nothing else (20,000, 50,000, 30)\n"
    "\n"
    "  --bound FILE  write what could be reached in the sessions of the last tenth, as JSON; - is standard "
    "error\n"
    "  --seed N      another number, other clicks (1)\n"
    "\n"
    "Each world's model is told in tests/bench/clicks_worlds.c.\n";

static int refuse(const char *what, const char *value)
{
    fprintf(stderr, "clicks: %s '%s'; clicks --help tells what is allowed\n", what, value);
    return 2;
}

/* 0: none, or out of range. */
static uint64_t number(const char *text, uint64_t max)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);

    return *text >= '0' && *text <= '9' && *end == '\0' && value <= max ? value : 0;
}

/* Returns 0, or the exit code. */
static int read_options(int argc, char **argv, struct clicks_options *options, const char **ret_bound)
{
    static const struct option known[] = {
        {"items", required_argument, NULL, 'i'}, {"sessions", required_argument, NULL, 's'},
        {"days", required_argument, NULL, 'd'},  {"seed", required_argument, NULL, 'r'},
        {"bound", required_argument, NULL, 'b'}, {0}};
    unsigned world = 0;

    while (clicks_world_name(world) != NULL && strcmp(clicks_world_name(world), argv[1]) != 0)
        world++;
    if (clicks_world_name(world) == NULL)
        return refuse("no world", argv[1]);
    clicks_options_default((enum clicks_world)world, options);
    optind = 2;
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        uint64_t value = option == '?' || option == 'b' ? 1 : number(optarg, CLICKS_SESSIONS_MAX);
        if (option == '?' || value == 0)
            return refuse("not understood:", option == '?' ? argv[optind - 1] : optarg);
        if (option == 'i')
            options->items = (uint32_t)value;
        else if (option == 's')
            options->sessions = value;
        else if (option == 'd')
            options->days = (uint32_t)value;
        else if (option == 'r')
            options->seed = value;
        else
            *ret_bound = optarg;
    }
    return optind < argc ? refuse("not understood:", argv[optind]) : 0;
}

static bool write_click(const struct clicks_click *click)
{
    char item[CLICKS_ID_BYTES], price[32] = "";

    clicks_item_name(click->item, item);
    if (!isnan(click->price))
        snprintf(price, sizeof price, "%.2f", (double)click->price);
    return printf("%lld.%03d\tu%llu\ts%llu\t%s\tclick\t%s\n", (long long)(click->time_ms / 1000),
                  (int)(click->time_ms % 1000), (unsigned long long)click->user,
                  (unsigned long long)click->session, item, price) > 0;
}

static bool write_bound(const struct clicks *clicks, const struct clicks_options *options, const char *path)
{
    struct clicks_bound bound;
    FILE *file = strcmp(path, "-") == 0 ? stderr : fopen(path, "we");

    if (file == NULL)
        return false;
    clicks_bound(clicks, &bound);
    fprintf(file,
            "{\"world\": \"%s\", \"seed\": %llu, \"predictions\": %llu, \"k\": %d, \"hr\": %.4f, \"mrr\": "
            "%.4f}\n",
            clicks_world_name(options->world), (unsigned long long)options->seed,
            (unsigned long long)bound.predictions, CLICKS_K, bound.hr, bound.mrr);
    return file == stderr || fclose(file) == 0;
}

int main(int argc, char **argv)
{
    static char buffer[OUT_BUFFER_BYTES];
    struct clicks_options options;
    struct clicks_click click;
    const char *bound = NULL;
    bool whole = true;

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    int code = read_options(argc, argv, &options, &bound);
    if (code != 0)
        return code;
    if (bound == NULL)
        options.bound_from = 1;
    struct clicks *clicks = clicks_open(&options);
    if (clicks == NULL) {
        fprintf(stderr, "clicks: out of memory, or not 100 to %u items, 1 to %u sessions, 1 to %u days\n",
                CLICKS_ITEMS_MAX, CLICKS_SESSIONS_MAX, CLICKS_DAYS_MAX);
        return 1;
    }
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    puts("ts\tuser\tsession\titem\ttype\tprice");
    while (whole && clicks_next(clicks, &click))
        whole = write_click(&click);
    whole = fflush(stdout) == 0 && whole;
    if (!whole)
        perror("clicks: standard output");
    else if (bound != NULL && !(whole = write_bound(clicks, &options, bound)))
        perror("clicks: the file of --bound");
    clicks_close(clicks);
    return whole ? 0 : 1;
}
