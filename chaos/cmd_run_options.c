/* Options of dunlin-chaos run. */
#include "chaos/run.h"

#include "base/clock.h"
#include "base/text.h"
#include "chaos/nemesis.h"
#include "chaos/pool.h"

#include <argp.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SECONDS_MAX (7 * 24 * 3600)
#define DEFAULT_SECONDS 60
#define DEFAULT_CLIENTS 16
#define DEFAULT_RATE 300
#define DEFAULT_DEADLINE_MS 1000
#define DEFAULT_SHARDS 4
#define FAULT_MS_MAX 600000

static const char *const streams[] = {
    [WORKLOAD_FILE] = "file", [WORKLOAD_KAFKA] = "kafka", [WORKLOAD_KAFKA_UNKEYED] = "kafka-unkeyed"};

enum {
    KEY_NODES = 256,
    KEY_MINUTES,
    KEY_SECONDS,
    KEY_SEED,
    KEY_NEMESIS,
    KEY_WORKLOAD,
    KEY_CLIENTS,
    KEY_RATE,
    KEY_DEADLINE,
    KEY_SHARDS,
    KEY_SPARES,
    KEY_FAULT,
    KEY_QUIET,
    KEY_NET,
    KEY_PROGRAMS,
    KEY_OUT,
    KEY_MUTANT,
    KEY_STREAM,
    KEY_KAFKA,
    KEY_PLAIN_DISKS,
    KEY_KEEP,
    KEY_JSON,
};

static const struct argp_option option_list[] = {
    {"minutes", KEY_MINUTES, "N", 0, "How long faults are let loose", 0},
    {"seconds", KEY_SECONDS, "N", 0, "The same in seconds (default 60)", 0},
    {"seed", KEY_SEED, "N", 0, "Makes the schedule and what clients ask for (default: by the clock)", 0},
    {"nemesis", KEY_NEMESIS, "NAMES", 0,
     "Faults, comma separated; all, stream (those of a broker), none; see `dunlin-chaos list` (default: the "
     "workload's, and those of the broker)",
     0},
    {"workload", KEY_WORKLOAD, "NAME", 0, "mixed (default), sessions, catalogue, membership, ingest", 0},
    {"stream", KEY_STREAM, "KIND", 0,
     "What nodes read as a stream: file (default), kafka (a real broker; messages keyed by user), "
     "kafka-unkeyed",
     0},
    {"kafka", KEY_KAFKA, "PATH", 0, "scripts/kafka.sh, which has the broker (default: of this folder)", 0},
    {"nodes", KEY_NODES, "N", 0, "First members: 3 (default) or 5", 0},
    {"spares", KEY_SPARES, "N", 0, "Nodes that can join later (default 1)", 0},
    {"shards", KEY_SHARDS, "N", 0, "Session shards (default 4)", 0},
    {"clients", KEY_CLIENTS, "N", 0, "Clients that ask at the same time (default 16)", 0},
    {"rate", KEY_RATE, "N", 0, "Operations a second of all clients; 0: as many as they can (default 300)", 0},
    {"deadline", KEY_DEADLINE, "MS", 0, "How long a client waits for an answer (default 1000)", 0},
    {"fault", KEY_FAULT, "MS-MS", 0, "How long a fault lasts, as 2000-6000", 0},
    {"quiet", KEY_QUIET, "MS-MS", 0, "How long none lasts in between", 0},
    {"net", KEY_NET, "KIND", 0,
     "namespaces (a network namespace a node; root), proxy (loopback), auto (default)", 0},
    {"plain-disks", KEY_PLAIN_DISKS, NULL, 0, "Data in plain folders, also as root: no faults of disks", 0},
    {"programs", KEY_PROGRAMS, "DIR", 0, "Where dunlind and dunlin are (default: beside this program)", 0},
    {"out", KEY_OUT, "DIR", 0, "The report's folder (default: a new one under TMPDIR)", 0},
    {"mutant", KEY_MUTANT, "NAME", 0,
     "Nodes run with this deliberate fault (builds with DUNLIN_MUTANTS only)", 0},
    {"keep", KEY_KEEP, NULL, 0, "Keep the nodes' data also when nothing is violated", 0},
    {"json", KEY_JSON, NULL, 0, "The verdict as JSON on standard output", 0},
    {0},
};

static int64_t number(struct argp_state *state, const char *name, const char *text, int64_t min, int64_t max)
{
    int64_t value = 0;
    if (!dn_parse_i64(text, min, max, &value))
        argp_error(state, "--%s must be a whole number from %" PRId64 " to %" PRId64 ", not '%s'", name, min,
                   max, text);
    return value;
}

/* "2000-6000" */
static void span(struct argp_state *state, const char *name, const char *text, int64_t ret_ms[2])
{
    char low[24];
    const char *dash = strchr(text, '-');
    size_t length = dash ? (size_t)(dash - text) : 0;
    if (!dash || length >= sizeof low)
        argp_error(state, "--%s must be two numbers of milliseconds, as 2000-6000, not '%s'", name, text);
    else {
        memcpy(low, text, length);
        low[length] = '\0';
        ret_ms[0] = number(state, name, low, 1, FAULT_MS_MAX);
        ret_ms[1] = number(state, name, dash + 1, ret_ms[0], FAULT_MS_MAX);
    }
}

static enum chaos_net net_parse(struct argp_state *state, const char *text)
{
    if (strcmp(text, "namespaces") == 0)
        return CHAOS_NET_NAMESPACES;
    if (strcmp(text, "proxy") == 0)
        return CHAOS_NET_PROXY;
    if (strcmp(text, "auto") != 0)
        argp_error(state, "--net must be namespaces, proxy or auto, not '%s'", text);
    return CHAOS_NET_AUTO;
}

static const struct chaos_workload *workload_parse(struct argp_state *state, const char *text)
{
    const struct chaos_workload *workload = chaos_workload_find(text);
    if (!workload)
        argp_error(state, "--workload: there is no '%s'; see `dunlin-chaos list`", text);
    return workload;
}

static enum workload_stream_kind stream_parse(struct argp_state *state, const char *text)
{
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        if (strcmp(text, streams[i]) == 0)
            return (enum workload_stream_kind)i;
    argp_error(state, "--stream must be file, kafka or kafka-unkeyed, not '%s'", text);
    return WORKLOAD_FILE;
}

static void nemeses_check(struct argp_state *state, const char *names)
{
    size_t length;
    const char *unknown = chaos_nemesis_unknown(names, &length);
    if (unknown)
        argp_error(state, "--nemesis: there is no '%.*s'; see `dunlin-chaos list`", (int)length, unknown);
}

static bool parse_number(int key, const char *text, struct argp_state *state,
                         struct chaos_run_options *options)
{
    switch (key) {
    case KEY_MINUTES:
        options->seconds = 60 * (unsigned)number(state, "minutes", text, 1, SECONDS_MAX / 60);
        return true;
    case KEY_SECONDS:
        options->seconds = (unsigned)number(state, "seconds", text, 1, SECONDS_MAX);
        return true;
    case KEY_SEED:
        options->seed = (uint64_t)number(state, "seed", text, 0, INT64_MAX);
        return true;
    case KEY_NODES:
        options->nodes = (unsigned)number(state, "nodes", text, 3, 5);
        return true;
    case KEY_SPARES:
        options->spares = (unsigned)number(state, "spares", text, 0, 2);
        return true;
    case KEY_SHARDS:
        options->shards = (unsigned)number(state, "shards", text, 1, CHAOS_GROUPS_MAX - 1);
        return true;
    case KEY_CLIENTS:
        options->clients = (unsigned)number(state, "clients", text, 1, CHAOS_CLIENTS_MAX);
        return true;
    case KEY_RATE:
        options->rate = (unsigned)number(state, "rate", text, 0, 1000000);
        return true;
    case KEY_DEADLINE:
        options->deadline_ms = (unsigned)number(state, "deadline", text, 10, 60000);
        return true;
    default:
        return false;
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct chaos_run_options *options = state->input;
    if (parse_number(key, text, state, options))
        return 0;
    switch (key) {
    case KEY_NEMESIS:
        nemeses_check(state, text);
        options->nemeses = text;
        return 0;
    case KEY_STREAM:
        options->stream = stream_parse(state, text);
        return 0;
    case KEY_KAFKA:
        options->kafka = text;
        return 0;
    case KEY_WORKLOAD:
        options->workload = workload_parse(state, text);
        return 0;
    case KEY_FAULT:
        span(state, "fault", text, options->fault_ms);
        return 0;
    case KEY_QUIET:
        span(state, "quiet", text, options->quiet_ms);
        return 0;
    case KEY_NET:
        options->net = net_parse(state, text);
        return 0;
    case KEY_PROGRAMS:
        options->programs = text;
        return 0;
    case KEY_OUT:
        options->out = text;
        return 0;
    case KEY_MUTANT:
        options->mutant = text;
        return 0;
    case KEY_PLAIN_DISKS:
        options->plain_disks = true;
        return 0;
    case KEY_KEEP:
        options->keep = true;
        return 0;
    case KEY_JSON:
        options->json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        return 0;
    case ARGP_KEY_END:
        if (options->nodes == 4)
            argp_error(state, "--nodes must be 3 or 5, not 4");
        if (options->stream != WORKLOAD_FILE && !options->workload->stream)
            argp_error(state, "--stream: the workload '%s' has none", options->workload->name);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

void chaos_run_options_parse(int argc, char **argv, struct chaos_run_options *ret)
{
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .doc =
            "Starts a cluster, lets clients and faults loose on it, and judges what the clients were told."
            "\v"
            "Exit codes: 0 no rule is violated, 1 one is (or a node crashed), 2 wrong usage, 3 this machine "
            "could not do it (the message says what).",
    };
    *ret = (struct chaos_run_options){
        .nodes = 3,
        .spares = 1,
        .shards = DEFAULT_SHARDS,
        .seconds = DEFAULT_SECONDS,
        .clients = DEFAULT_CLIENTS,
        .rate = DEFAULT_RATE,
        .deadline_ms = DEFAULT_DEADLINE_MS,
        .seed = (uint64_t)(dn_wall_ms() % 1000000000),
        .workload = chaos_workload_find("mixed"),
    };
    argp_err_exit_status = CHAOS_EXIT_USAGE;
    argp_parse(&argp, argc, argv, 0, NULL, ret);
    if (!ret->nemeses)
        ret->nemeses = ret->stream != WORKLOAD_FILE && strcmp(ret->workload->nemeses, "all") == 0
                           ? "all,stream"
                           : ret->workload->nemeses;
}

/* Appends; what does not fit is cut. */
__attribute__((format(printf, 3, 4))) static void add(char *text, size_t size, const char *format, ...)
{
    size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, size - used, format, args);
    va_end(args);
}

void chaos_run_options_print(const struct chaos_run_options *options, char *ret_text, size_t size)
{
    static const char *const nets[] = {
        [CHAOS_NET_AUTO] = "auto", [CHAOS_NET_NAMESPACES] = "namespaces", [CHAOS_NET_PROXY] = "proxy"};
    ret_text[0] = '\0';
    add(ret_text, size, "dunlin-chaos run --seed %" PRIu64 " --seconds %u --nodes %u --spares %u --shards %u",
        options->seed, options->seconds, options->nodes, options->spares, options->shards);
    add(ret_text, size, " --workload %s --nemesis %s --clients %u --rate %u --deadline %u",
        options->workload->name, options->nemeses, options->clients, options->rate, options->deadline_ms);
    if (options->fault_ms[1] > 0)
        add(ret_text, size, " --fault %" PRId64 "-%" PRId64, options->fault_ms[0], options->fault_ms[1]);
    if (options->quiet_ms[1] > 0)
        add(ret_text, size, " --quiet %" PRId64 "-%" PRId64, options->quiet_ms[0], options->quiet_ms[1]);
    if (options->net != CHAOS_NET_AUTO)
        add(ret_text, size, " --net %s", nets[options->net]);
    if (options->stream != WORKLOAD_FILE)
        add(ret_text, size, " --stream %s", streams[options->stream]);
    if (options->kafka)
        add(ret_text, size, " --kafka %s", options->kafka);
    if (options->plain_disks)
        add(ret_text, size, " --plain-disks");
    if (options->programs)
        add(ret_text, size, " --programs %s", options->programs);
    if (options->mutant)
        add(ret_text, size, " --mutant %s", options->mutant);
}
