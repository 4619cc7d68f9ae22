/* dunlin-chaos run.
 *
 *   folder, cluster --start--> clients begin --schedule--> all healed --writes come back--> clients end
 *     --wait until the nodes agree--> final reads --stop--> judge --> report
 *
 * A signal (Ctrl-C) ends the schedule: the run goes on from "all healed". A second one ends the program. What
 * this machine cannot do ends it with CHAOS_EXIT_UNABLE; from the first operation on there is always a
 * report. */
#include "chaos/check.h"
#include "chaos/nemesis.h"
#include "chaos/pool.h"
#include "chaos/report.h"
#include "chaos/run.h"
#include "chaos/run_machine.h"
#include "chaos/run_progress.h"
#include "chaos/workload_stream.h"

#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define START_TIMEOUT_MS 60000
#define CONVERGE_TIMEOUT_MS 60000
#define STREAM_TIMEOUT_MS 60000
#define WRITES_BACK_NS 12000000000 /* past the bound of the rule "recovery", so that it can tell */
#define STALL_MAX_NS 120000000000  /* how long the machine's own disk is waited for */
#define TURN_NS 50000000
#define OPEN_WRITES_MS 1000 /* beyond the deadline of what clients gave up on */
#define FINDINGS_MAX 64
#define LINE_MAX_BYTES 600
#define BROKER_TIMEOUT_MS 90000
#define TOPIC_GROWS 4        /* a keyed topic's partitions: from one a shard to so many */
#define UNKEYED_PARTITIONS 3 /* not a multiple of anything */
#define UNKEYED_STEP 2
#define UNKEYED_PARTITIONS_MAX 9

struct run {
    struct chaos_run_options options;
    char folder[CHAOS_RUN_TEXT], nodes_folder[CHAOS_RUN_TEXT + 8], programs[CHAOS_RUN_TEXT];
    char command[2 * CHAOS_RUN_TEXT], environment[128];
    char stream_path[CHAOS_RUN_TEXT + 16], yaml[2 * CHAOS_RUN_TEXT];
    struct workload_stream_options stream;
    char broker_script[CHAOS_RUN_TEXT];
    struct chaos_cluster *cluster;
    struct chaos_history *history;
    struct chaos_pool *pool;
    struct run_progress progress;
    struct run_machine machine;
    struct chaos_schedule schedule;
    atomic_bool schedule_over;
    enum dn_code schedule_code;
    struct dn_error schedule_err;
    unsigned long unread; /* final reads without an answer */
    bool converged;
    /* for the report */
    char description[CHAOS_RUN_TEXT + 512];
    char skipped[CHAOS_NEMESES_MAX][LINE_MAX_BYTES], findings[FINDINGS_MAX][LINE_MAX_BYTES];
    size_t skipped_count, findings_count;
};

/* Set by signals, read by the nemesis. */
static atomic_bool interrupted;

static void on_signal(int number)
{
    (void)number;
    if (atomic_exchange(&interrupted, true))
        _exit(CHAOS_EXIT_UNABLE);
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void turn(struct run *run, const char *phase)
{
    struct timespec time = {.tv_nsec = TURN_NS};
    run_progress_tick(&run->progress, phase);
    run_machine_look(&run->machine, run->history);
    nanosleep(&time, NULL);
}

static int unable(const struct dn_error *err)
{
    fprintf(stderr, "dunlin-chaos run: %s\n", err->message);
    return CHAOS_EXIT_UNABLE;
}

__attribute__((format(printf, 2, 3))) static void found(struct run *run, const char *format, ...)
{
    va_list args;
    if (run->findings_count == FINDINGS_MAX)
        return;
    va_start(args, format);
    vsnprintf(run->findings[run->findings_count++], LINE_MAX_BYTES, format, args);
    va_end(args);
}

/* ---- before ----------------------------------------------------------------------------------------- */

/* The folder that this program is in. */
static enum dn_code own_folder(char *ret_folder, size_t size, struct dn_error *err)
{
    ssize_t length = readlink("/proc/self/exe", ret_folder, size - 1);
    if (length <= 0)
        return dn_fail(err, DN_IO, "where dunlind is: /proc/self/exe: %s; name it with --programs",
                       strerror(errno));
    ret_folder[length] = '\0';
    *strrchr(ret_folder, '/') = '\0';
    return DN_OK;
}

static enum dn_code make_folders(struct run *run, struct dn_error *err)
{
    const struct chaos_run_options *options = &run->options;
    const char *parent = getenv("TMPDIR");
    if (options->out) {
        snprintf(run->folder, sizeof run->folder, "%s", options->out);
        if (mkdir(run->folder, 0755) != 0 && errno != EEXIST)
            return dn_fail(err, DN_IO, "make the folder '%s': %s", run->folder, strerror(errno));
    } else {
        snprintf(run->folder, sizeof run->folder, "%s/dunlin-chaos-%" PRIu64 "-XXXXXX",
                 parent ? parent : "/tmp", options->seed);
        if (!mkdtemp(run->folder))
            return dn_fail(err, DN_IO, "make a folder as '%s': %s", run->folder, strerror(errno));
    }
    char *whole = realpath(run->folder, NULL);
    if (!whole || strlen(whole) >= sizeof run->folder) {
        free(whole);
        return dn_fail(err, DN_IO, "the folder '%s': its path is too long or cannot be read", run->folder);
    }
    snprintf(run->folder, sizeof run->folder, "%s", whole);
    free(whole);
    snprintf(run->nodes_folder, sizeof run->nodes_folder, "%s/nodes", run->folder);
    return DN_OK;
}

static bool has_broker(const struct run *run)
{
    return run->options.workload->stream && run->options.stream != WORKLOAD_FILE;
}

/* A stream's file is beside the nodes' folders, where all of them see it. */
static enum dn_code make_stream(struct run *run, struct dn_error *err)
{
    size_t used = (size_t)snprintf(run->yaml, sizeof run->yaml, "%s", WORKLOAD_SESSION_YAML);
    if (!run->options.workload->stream)
        return DN_OK;
    run->stream = (struct workload_stream_options){
        .kind = run->options.stream, .path = run->stream_path, .shards = run->options.shards};
    snprintf(run->stream_path, sizeof run->stream_path, "%s/stream.jsonl", run->folder);
    if (!workload_stream_yaml(run->stream.kind, run->stream_path, run->yaml + used, sizeof run->yaml - used))
        return dn_fail(err, DN_INVALID, "the folder '%s': its path is too long", run->folder);
    return has_broker(run) ? DN_OK : workload_stream_create(run->stream_path, err);
}

static enum dn_code find_broker(struct run *run, struct dn_error *err)
{
    const char *path = run->options.kafka ? run->options.kafka : "scripts/kafka.sh";
    char *whole = realpath(path, NULL);
    bool fits = whole && strlen(whole) < sizeof run->broker_script;
    if (fits)
        snprintf(run->broker_script, sizeof run->broker_script, "%s", whole);
    free(whole);
    return fits ? DN_OK
                : dn_fail(err, DN_NOT_FOUND,
                          "a Kafka broker: no '%s': begin in the source tree, or name scripts/kafka.sh with "
                          "--kafka",
                          path);
}

/* A keyed topic has a multiple of the shards, always. */
static void want_broker(const struct run *run, struct chaos_cluster_options *cluster)
{
    unsigned shards = run->options.shards;
    bool keyed = run->options.stream == WORKLOAD_KAFKA;
    cluster->broker_script = run->broker_script;
    cluster->partitions = keyed ? shards : UNKEYED_PARTITIONS;
    cluster->partitions_step = keyed ? shards : UNKEYED_STEP;
    cluster->partitions_max = keyed && TOPIC_GROWS * shards < CHAOS_PARTITIONS_MAX ? TOPIC_GROWS * shards
                              : keyed ? CHAOS_PARTITIONS_MAX / shards * shards
                                      : UNKEYED_PARTITIONS_MAX;
}

static enum dn_code start_cluster(struct run *run, struct dn_error *err)
{
    const struct chaos_run_options *options = &run->options;
    struct chaos_cluster_options cluster = {
        .nodes = options->nodes,
        .spares = options->spares,
        .shards = options->shards,
        .folder = run->nodes_folder,
        .programs = options->programs ? options->programs : run->programs,
        .net = options->net,
        .yaml = run->yaml,
        .plain_disks = options->plain_disks,
    };
    if (options->mutant) {
        snprintf(run->environment, sizeof run->environment, "DUNLIN_MUTANT=%s", options->mutant);
        cluster.environment = run->environment;
    }
    enum dn_code code = own_folder(run->programs, sizeof run->programs, err);
    if (code == DN_OK)
        code = make_folders(run, err);
    if (code == DN_OK)
        code = make_stream(run, err);
    if (code == DN_OK && has_broker(run)) {
        want_broker(run, &cluster);
        code = find_broker(run, err);
    }
    if (code == DN_OK)
        code = chaos_cluster_create(&cluster, &run->cluster, err);
    if (code == DN_OK && has_broker(run)) {
        run->stream.topic = chaos_cluster_topic(run->cluster);
        code = chaos_cluster_start_broker(run->cluster, BROKER_TIMEOUT_MS, err);
    }
    return code == DN_OK ? chaos_cluster_start(run->cluster, START_TIMEOUT_MS, err) : code;
}

/* Tells what the machine cannot do, of what was asked for. */
static void probe(struct run *run)
{
    const char *why[CHAOS_NEMESES_MAX] = {NULL};
    unsigned count = 0;
    const struct chaos_nemesis_info *list = chaos_nemesis_list(&count);
    chaos_nemesis_probe(run->cluster, why);
    for (unsigned i = 0; i < count && i < CHAOS_NEMESES_MAX; i++) {
        if (!why[i] || !chaos_nemesis_is_named(run->options.nemeses, i))
            continue;
        /* The first line of the reason: it may be what a program printed. */
        snprintf(run->skipped[run->skipped_count], LINE_MAX_BYTES, "%s: %.*s", list[i].name,
                 (int)strcspn(why[i], "\n"), why[i]);
        run_progress_say(&run->progress, "skipped: %s", run->skipped[run->skipped_count++]);
    }
}

/* ---- the run ---------------------------------------------------------------------------------------- */

static void *schedule_run(void *data)
{
    struct run *run = data;
    run->schedule_code =
        chaos_nemesis_run(run->cluster, run->history, &run->schedule, &interrupted, &run->schedule_err);
    atomic_store(&run->schedule_over, true);
    return NULL;
}

static void mark(struct run *run, enum chaos_type type, const char *name, const char *what)
{
    struct chaos_op op = {
        .type = type, .f = CHAOS_FAULT, .process = CHAOS_NEMESIS, .name = name, .what = what};
    chaos_history_append(run->history, &op);
}

static enum dn_code run_schedule(struct run *run, struct dn_error *err)
{
    pthread_t thread;
    int64_t seconds = run->options.seconds;
    run->schedule = (struct chaos_schedule){
        .seed = run->options.seed,
        .names = run->options.nemeses,
        .duration_ms = seconds * 1000,
        .fault_ms = {run->options.fault_ms[0], run->options.fault_ms[1]},
        .quiet_ms = {run->options.quiet_ms[0], run->options.quiet_ms[1]},
    };
    int rv = pthread_create(&thread, NULL, schedule_run, run);
    if (rv != 0)
        return dn_fail(err, DN_IO, "a thread for the faults: %s", strerror(rv));
    while (!atomic_load(&run->schedule_over))
        turn(run, "faults");
    pthread_join(thread, NULL);
    /* A cluster that does not come back after a fault is what we look for: the run goes on to its verdict. */
    if (run->schedule_code != DN_OK) {
        found(run, "the faults ended early: %s", run->schedule_err.message);
        run_progress_say(&run->progress, "%s", run->findings[run->findings_count - 1]);
    }
    return DN_OK;
}

/* Clients go on past the aftermath of the last fault, and until every group takes writes again: only then can
 * the report and the rule "recovery" tell. */
static bool healed_long_enough(const struct run *run, int64_t healed_ns, uint64_t stalled_before_ms)
{
    int64_t passed_ns = chaos_history_now_ns(run->history) - healed_ns;
    int64_t stalled_ns = (int64_t)(run->machine.total_ms - stalled_before_ms) * INT64_C(1000000);
    if (run->machine.stalled && passed_ns < STALL_MAX_NS)
        return false;
    return passed_ns > WRITES_BACK_NS + stalled_ns ||
           (passed_ns > CHAOS_AFTERMATH_NS &&
            chaos_pool_writes_since(run->pool, run->options.shards, healed_ns));
}

static enum dn_code run_clients(struct run *run, struct dn_error *err)
{
    enum dn_code code = run_machine_begin(&run->machine, run->folder, err);
    if (code == DN_OK)
        code = chaos_pool_start(run->pool, err);
    if (code == DN_OK)
        code = run_schedule(run, err);
    int64_t healed_ns = chaos_history_now_ns(run->history);
    uint64_t stalled_ms = run->machine.total_ms;
    while (code == DN_OK && !healed_long_enough(run, healed_ns, stalled_ms))
        turn(run, "healed");
    chaos_pool_stop(run->pool);
    run_machine_end(&run->machine, run->history);
    if (run->machine.stalls > 0)
        run_progress_say(&run->progress,
                         "the machine's own disk stood still %" PRIu64 " times, for up to %" PRIu64 " ms",
                         run->machine.stalls, run->machine.longest_ms);
    return code;
}

static enum dn_code run_final(struct run *run, struct dn_error *err)
{
    run_progress_say(&run->progress, "waiting until all nodes agree");
    /* What clients gave up on may still happen, until its deadline has passed at the nodes too. */
    int64_t until_ns =
        chaos_history_now_ns(run->history) + (run->options.deadline_ms + OPEN_WRITES_MS) * INT64_C(1000000);
    while (chaos_history_now_ns(run->history) < until_ns)
        turn(run, "healed");
    char text[LINE_MAX_BYTES] = "";
    struct dn_error why = {.code = DN_OK};
    if (chaos_pool_finish_stream(run->pool, text, sizeof text, &why) != DN_OK)
        found(run, "the stream: %s", why.message);
    if (text[0] != '\0') {
        size_t used = strlen(run->description);
        snprintf(run->description + used, sizeof run->description - used, "; %s", text);
        run_progress_say(&run->progress, "%s", text);
    }
    if (!chaos_pool_wait_stream(run->pool, STREAM_TIMEOUT_MS, text, sizeof text)) {
        found(run, "the stream was not read to its end within %d s: %s", STREAM_TIMEOUT_MS / 1000, text);
        run_progress_say(&run->progress, "%s", run->findings[run->findings_count - 1]);
    }
    run->converged = chaos_pool_wait_converged(run->pool, CONVERGE_TIMEOUT_MS);
    if (!run->converged)
        run_progress_say(&run->progress, "the nodes did not come to the same state within %d s",
                         CONVERGE_TIMEOUT_MS / 1000);
    mark(run, CHAOS_INVOKE, "final", "begin");
    mark(run, CHAOS_INFO, "final", "begin");
    return chaos_pool_final_reads(run->pool, &run->unread, err);
}

/* ---- after ------------------------------------------------------------------------------------------ */

static void crash_found(struct run *run, const struct chaos_crash *crash)
{
    char name[24] = "broker";
    if (crash->node != 0)
        snprintf(name, sizeof name, "node %u", crash->node);
    found(run, "%s, %.3f s: %s", name, (double)crash->time_ms / 1000, crash->text);
}

static void gather_findings(struct run *run)
{
    static struct chaos_crash crashes[FINDINGS_MAX];
    unsigned count = chaos_cluster_crashes(run->cluster, crashes, FINDINGS_MAX);
    for (unsigned i = 0; i < count && i < FINDINGS_MAX; i++)
        crash_found(run, &crashes[i]);
    if (!run->converged)
        found(run, "the nodes' status did not become the same within %d s", CONVERGE_TIMEOUT_MS / 1000);
    if (run->unread > 0)
        found(run, "%lu of the final reads got no answer", run->unread);
}

/* A run in which nothing could have gone wrong must not pass for one in which nothing did. */
static void must_be_judged(struct run *run, const struct chaos_judgement judgements[CHAOS_RULE_COUNT])
{
    static const enum chaos_rule always[] = {CHAOS_RULE_LOST, CHAOS_RULE_INVENTED, CHAOS_RULE_HASH,
                                             CHAOS_RULE_LEADER, CHAOS_RULE_CONVERGED};
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        if (judgements[always[i]].verdict == CHAOS_UNTESTED)
            found(run, "the rule '%s' could not be judged: nothing in this run could have broken it",
                  chaos_rule_name(always[i]));
    static const enum chaos_rule streams[] = {CHAOS_RULE_OFFSET, CHAOS_RULE_STREAM};
    for (size_t i = 0; run->options.workload->stream && i < sizeof streams / sizeof streams[0]; i++)
        if (judgements[streams[i]].verdict == CHAOS_UNTESTED)
            found(run, "the rule '%s' could not be judged: nothing was read from the stream",
                  chaos_rule_name(streams[i]));
    if (strcmp(run->options.nemeses, "none") != 0 &&
        judgements[CHAOS_RULE_RECOVERY].verdict == CHAOS_UNTESTED)
        found(run,
              "the rule 'recovery' could not be judged: no fault ended, or no write was asked for after it");
}

static int judge(struct run *run)
{
    static struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    static char logs[CHAOS_NODES_MAX][CHAOS_RUN_TEXT + 64];
    const char *log_list[CHAOS_NODES_MAX], *skipped[CHAOS_NEMESES_MAX], *findings[FINDINGS_MAX];
    struct chaos_check_options check = {0};
    struct dn_error err = {.code = DN_OK};
    int violated = chaos_check(run->history, &check, judgements);
    must_be_judged(run, judgements);
    struct chaos_report_info info = {
        .seed = run->options.seed,
        .command = run->command,
        .schedule = run->description,
        .logs = log_list,
        .logs_count = chaos_cluster_count(run->cluster),
        .skipped = skipped,
        .skipped_count = run->skipped_count,
        .findings = findings,
        .findings_count = run->findings_count,
    };
    for (size_t i = 0; i < info.logs_count; i++) {
        snprintf(logs[i], sizeof logs[i], "%s/node-%zu.log", run->nodes_folder, i + 1);
        log_list[i] = logs[i];
    }
    for (size_t i = 0; i < run->skipped_count; i++)
        skipped[i] = run->skipped[i];
    for (size_t i = 0; i < run->findings_count; i++)
        findings[i] = run->findings[i];
    if (run->options.json)
        chaos_verdict_json(stdout, run->history, judgements, &info);
    else
        chaos_verdict_text(stdout, run->history, judgements, &info);
    if (chaos_report_write(run->folder, run->history, judgements, &info, &err) != DN_OK)
        return unable(&err);
    return violated > 0 || run->findings_count > 0 ? CHAOS_EXIT_VIOLATED : CHAOS_EXIT_VALID;
}

static int finish(struct run *run)
{
    bool violated;
    run_progress_say(&run->progress, "stopping the nodes, judging %zu lines of history",
                     chaos_history_count(run->history));
    chaos_cluster_stop(run->cluster);
    gather_findings(run);
    chaos_cluster_leaders(run->cluster, run->history);
    int exit_code = judge(run);
    violated = exit_code == CHAOS_EXIT_VIOLATED;
    chaos_cluster_destroy(run->cluster);
    run->cluster = NULL;
    if (!violated && !run->options.keep)
        chaos_run_remove_data(run->nodes_folder);
    fprintf(stderr, "report: %s\n", run->folder);
    if (violated)
        fprintf(stderr, "VIOLATED. The same again: %s\n", run->command);
    return exit_code;
}

static int run_all(struct run *run)
{
    struct dn_error err = {.code = DN_OK};
    char network[256];
    if (start_cluster(run, &err) != DN_OK)
        return unable(&err);
    run_progress_begin(&run->progress, run->cluster);
    chaos_cluster_describe(run->cluster, network, sizeof network);
    snprintf(run->description, sizeof run->description, "%u nodes, %u shards, %u s of %s; %s",
             run->options.nodes, run->options.shards, run->options.seconds, run->options.nemeses, network);
    run_progress_say(&run->progress, "%s\n%s\nreport: %s", run->command, network, run->folder);
    probe(run);
    struct chaos_pool_options pool = {
        .cluster = run->cluster,
        .history = run->history,
        .workload = run->options.workload,
        .first_nodes = run->options.nodes,
        .clients = run->options.clients,
        .rate = run->options.rate,
        .deadline_ms = run->options.deadline_ms,
        .seed = run->options.seed,
        .shards = run->options.shards,
        .stream = run->options.workload->stream ? &run->stream : NULL,
    };
    enum dn_code code = chaos_pool_create(&pool, &run->pool, &err);
    if (code != DN_OK)
        return unable(&err);
    run->progress.counts = chaos_pool_counts(run->pool);
    code = run_clients(run, &err);
    if (code == DN_OK)
        code = run_final(run, &err);
    chaos_pool_destroy(run->pool);
    run->pool = NULL;
    if (code != DN_OK) /* what was seen so far is judged all the same */
        found(run, "the run did not come to its end: %s", err.message);
    int exit_code = finish(run);
    return code == DN_OK ? exit_code : CHAOS_EXIT_UNABLE;
}

int chaos_cmd_run(int argc, char **argv)
{
    static struct run run;
    chaos_run_options_parse(argc, argv, &run.options);
    catch_signals();
    chaos_run_options_print(&run.options, run.command, sizeof run.command);
    run.history = chaos_history_create();
    int exit_code = run_all(&run);
    chaos_pool_destroy(run.pool);
    chaos_cluster_destroy(run.cluster);
    chaos_history_destroy(run.history);
    return exit_code;
}
