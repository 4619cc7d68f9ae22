/* Every nemesis once, on a real cluster of three and a spare, on each kind of network, while clients write:
 * each fault begins and ends as the history says, afterwards all nodes are ready and every shard takes
 * writes, and nothing crashed. What this machine cannot have is printed;
 * DUNLIN_REQUIRE=namespaces,disks,faketime,kafka makes that a failure.
 *
 *   test_nemeses namespaces|proxy [SEED] [NAMES]      programs from $DUNLIN_BIN */
#include "base/clock.h"
#include "chaos/cluster_internal.h"
#include "chaos/nemesis.h"
#include "client/client.h"
#include "dunlin/v1/dunlin.pb-c.h"

#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SKIPPED 77 /* ctest's SKIP_RETURN_CODE */
#define NODES 3
#define SHARDS 2
#define KAFKA_SCRIPT DUNLIN_SOURCE_DIR "/scripts/kafka.sh"
#define SOURCE_YAML                                                                                          \
    "sources:\n  - {name: chaos, kind: kafka, brokers: \"" CLUSTER_BROKERS "\", topics: [" CHAOS_TOPIC       \
    "], keyed: true}\n"
#define FAULT_MS 1200
#define START_MS 60000
#define CALL_MS 1000
#define WRITE_WITHIN_MS 20000 /* after everything was healed */
#define WRITE_EVERY_MS 3
#define USERS 16 /* enough for every shard to have some */

static struct chaos_cluster *cluster;
static struct chaos_history *history;
static atomic_bool stop_writing;
static atomic_uint_fast64_t acknowledged;
static atomic_bool never;

_Noreturn static void failed(const char *what, const char *why)
{
    printf("FAILED: %s: %s\n", what, why);
    chaos_cluster_destroy(cluster);
    exit(1);
}

/* ---- writes
 * ------------------------------------------------------------------------------------------------- */

static bool publish(struct dn_client *client, unsigned user, uint64_t number, struct dn_error *err)
{
    static const char PATH[] = "/dunlin.v1.Events/Publish";
    char user_id[32], event_id[48], item_id[] = "item";
    Dunlin__V1__Event event = DUNLIN__V1__EVENT__INIT, *events[] = {&event};
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    uint8_t message[256], *bytes;
    size_t length;

    snprintf(user_id, sizeof user_id, "u-%u", user);
    snprintf(event_id, sizeof event_id, "e-%llu", (unsigned long long)number);
    event.user_id = user_id;
    event.event_id = event_id;
    event.item_id = item_id;
    request.events = events;
    request.n_events = 1;
    size_t size = dunlin__v1__publish_request__pack(&request, message);
    if (dn_client_call(client, PATH, message, size, CALL_MS, &bytes, &length, err) != DN_OK)
        return false;
    Dunlin__V1__PublishResponse *answer = dunlin__v1__publish_response__unpack(NULL, length, bytes);
    bool taken = answer != NULL && answer->n_outcomes == 1 &&
                 answer->outcomes[0] != DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN;
    if (answer != NULL)
        dunlin__v1__publish_response__free_unpacked(answer, NULL);
    free(bytes);
    return taken;
}

static void *write_on(void *data)
{
    const unsigned node = *(const unsigned *)data;
    struct dn_client *client = NULL;
    struct dn_error err;

    for (uint64_t i = 0; !atomic_load(&stop_writing); i++) {
        if (client == NULL &&
            dn_client_connect(chaos_cluster_api(cluster, node), CALL_MS, &client, &err) != DN_OK)
            client = NULL;
        if (client != NULL && publish(client, (unsigned)(i % USERS), i * NODES + node, &err)) {
            atomic_fetch_add(&acknowledged, 1);
        } else {
            dn_client_close(client);
            client = NULL;
        }
        poll(NULL, 0, WRITE_EVERY_MS);
    }
    dn_client_close(client);
    return NULL;
}

static void all_shards_take_writes(const char *after)
{
    static uint64_t number = 1000000000;
    uint64_t end_us = dn_monotonic_us() + WRITE_WITHIN_MS * 1000ull;
    struct dn_error err = {.message = "no answer"};

    for (unsigned user = 0; user < USERS;) {
        struct dn_client *client;
        if (dn_client_connect(chaos_cluster_api(cluster, 1 + user % NODES), CALL_MS, &client, &err) ==
            DN_OK) {
            user += publish(client, user, number++, &err);
            dn_client_close(client);
        }
        if (dn_monotonic_us() > end_us)
            failed(after, err.message);
    }
}

/* ---- one nemesis
 * ---------------------------------------------------------------------------------------------- */

/* The history got, since `from`, exactly one begin and one end of it, and it was really begun. */
static void check_history(const char *name, size_t from)
{
    static const struct {
        enum chaos_type type;
        const char *what;
    } WANTED[] = {{CHAOS_INVOKE, "begin"}, {CHAOS_INFO, "begin"}, {CHAOS_INVOKE, "end"}, {CHAOS_INFO, "end"}};

    if (chaos_history_count(history) != from + 4)
        failed(name, "the history has not just its begin and its end");
    for (size_t i = 0; i < 4; i++) {
        const struct chaos_op *op = chaos_history_at(history, from + i);
        if (op->f != CHAOS_FAULT || op->process != CHAOS_NEMESIS || op->type != WANTED[i].type ||
            strcmp(op->what, WANTED[i].what) != 0 || strcmp(op->name, name) != 0)
            failed(name, "the history says something else");
        if (op->type == CHAOS_INFO)
            printf("%9.3f s  %s %s: %s\n", (double)op->time_ns / 1e9, name, op->what,
                   op->error == NULL ? "" : op->error);
        if (op->error != NULL && strncmp(op->error, "not begun", 9) == 0)
            failed(name, op->error);
    }
}

static void check_crashes(const char *after)
{
    struct chaos_crash crashes[8];

    if (chaos_cluster_crashes(cluster, crashes, 8) > 0)
        failed(after, crashes[0].text);
}

/* ---- did it do anything?
 * ------------------------------------------------------------------------------------ */

/* What can be seen of a fault from outside. */
struct seen {
    struct net_counts net;
    unsigned lives, broker_lives, partitions;
    long log_bytes[NODES + 1];
};

static long length_of(const char *path)
{
    FILE *in = fopen(path, "re");
    long length = in != NULL && fseek(in, 0, SEEK_END) == 0 ? ftell(in) : 0;

    if (in != NULL)
        fclose(in);
    return length;
}

static void look(struct seen *ret)
{
    memset(ret, 0, sizeof *ret);
    cluster_net_counts(cluster, &ret->net);
    for (unsigned i = 1; i <= NODES; i++) {
        ret->lives += cluster->nodes[i].lives;
        ret->log_bytes[i] = length_of(cluster->nodes[i].log);
    }
    ret->broker_lives = cluster->nodes[CLUSTER_BROKER].lives;
    ret->partitions = atomic_load(&cluster->topic.partitions);
}

/* A node's log got a line with this text since then. */
static bool said_since(const struct seen *before, const char *text)
{
    char line[4096];
    bool found = false;

    for (unsigned i = 1; i <= NODES; i++) {
        FILE *in = fopen(cluster->nodes[i].log, "re");
        if (in == NULL || fseek(in, before->log_bytes[i], SEEK_SET) != 0)
            failed("read a log", cluster->nodes[i].log);
        while (fgets(line, sizeof line, in) != NULL)
            found |= strstr(line, text) != NULL;
        fclose(in);
    }
    return found;
}

static void check_effect(const char *name, const struct seen *before)
{
    static const struct {
        const char *name, *says; /* in a node's log */
    } TEXTS[] = {{"full-disk", "proposals are refused"},
                 {"read-only-disk", "Read-only file system"},
                 {"failing-disk", "Input/output error"},
                 {"journal-torn", "the last write was torn"},
                 {"journal-flip", ".seg"},
                 {"wipe-and-replace", "raft id"}};
    static const struct {
        const char *name;
        size_t counter;
    } COUNTERS[] = {{"partition-one", offsetof(struct net_counts, cut)},
                    {"isolate-leader", offsetof(struct net_counts, cut)},
                    {"partition-halves", offsetof(struct net_counts, cut)},
                    {"partition-one-way", offsetof(struct net_counts, cut)},
                    {"partition-ring", offsetof(struct net_counts, cut)},
                    {"flapping-link", offsetof(struct net_counts, cut)},
                    {"packet-loss", offsetof(struct net_counts, lost)},
                    {"corrupt-wire", offsetof(struct net_counts, corrupted)},
                    {"duplicate", offsetof(struct net_counts, duplicated)},
                    {"reorder", offsetof(struct net_counts, reordered)},
                    {"break-connections", offsetof(struct net_counts, lost)},
                    {"broker-cut", offsetof(struct net_counts, cut)}};
    static const char *const RESTARTS[] = {
        "kill-leader",  "kill-follower", "kill-all",         "restart", "rolling-restart",
        "journal-torn", "journal-flip",  "wipe-and-replace", "shrink",  "read-only-disk"};
    struct seen after;

    look(&after);
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
        if (strcmp(TEXTS[i].name, name) == 0 && !said_since(before, TEXTS[i].says))
            failed(name, "no node's log tells of it");
    for (size_t i = 0; i < sizeof RESTARTS / sizeof *RESTARTS; i++)
        if (strcmp(RESTARTS[i], name) == 0 && after.lives == before->lives)
            failed(name, "no node began a new life");
    for (size_t i = 0; i < sizeof COUNTERS / sizeof *COUNTERS; i++) {
        uint64_t was, is;
        memcpy(&was, (const char *)&before->net + COUNTERS[i].counter, sizeof was);
        memcpy(&is, (const char *)&after.net + COUNTERS[i].counter, sizeof is);
        if (strcmp(COUNTERS[i].name, name) == 0 && was == is)
            failed(name, "not one packet was touched");
    }
    bool restarts = strcmp(name, "broker-kill") == 0 || strcmp(name, "broker-restart") == 0;
    if (restarts != (after.broker_lives != before->broker_lives))
        failed(name, "the broker began a new life, or did not");
    if ((strcmp(name, "topic-grow") == 0) != (after.partitions != before->partitions))
        failed(name, "the topic grew, or did not");
}

static void run_one(const char *name, uint64_t seed)
{
    /* One fault: the next would begin when the time is over. */
    const struct chaos_schedule schedule = {.seed = seed,
                                            .names = name,
                                            .duration_ms = 2 * FAULT_MS,
                                            .fault_ms = {FAULT_MS, FAULT_MS},
                                            .quiet_ms = {FAULT_MS, FAULT_MS}};
    size_t from = chaos_history_count(history);
    struct dn_error err = {0};
    struct seen before;

    look(&before);
    if (chaos_nemesis_run(cluster, history, &schedule, &never, &err) != DN_OK)
        failed(name, err.message);
    check_history(name, from);
    check_effect(name, &before);
    all_shards_take_writes(name);
    check_crashes(name);
}

/* ---- all of them
 * ------------------------------------------------------------------------------------------------ */

static bool is_required(const char *feature)
{
    const char *list = getenv("DUNLIN_REQUIRE");
    size_t length = strlen(feature);

    for (; list != NULL && *list != 0;
         list += list[strcspn(list, ",")] == 0 ? strcspn(list, ",") : strcspn(list, ",") + 1)
        if (strncmp(list, feature, length) == 0 && (list[length] == ',' || list[length] == 0))
            return true;
    return false;
}

static const char *feature_of(const char *name)
{
    if (strstr(name, "disk") != NULL)
        return "disks";
    return strncmp(name, "clock", 5) == 0 ? "faketime" : "";
}

static unsigned run_all(const char *only, uint64_t seed)
{
    const char *why[CHAOS_NEMESES_MAX];
    unsigned count, run = 0;
    const struct chaos_nemesis_info *list = chaos_nemesis_list(&count);

    chaos_nemesis_probe(cluster, why);
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(list[i].name, "combination") == 0 || (only != NULL && strstr(only, list[i].name) == NULL))
            continue;
        if (why[i] == NULL) {
            run_one(list[i].name, seed);
            run++;
            continue;
        }
        printf("SKIPPED (%s): %s\n", list[i].name, why[i]);
        if (is_required(feature_of(list[i].name)))
            failed(list[i].name, "it is required (DUNLIN_REQUIRE)");
    }
    return run;
}

static bool has_kafka(void)
{
    static const char *const setup[] = {KAFKA_SCRIPT, "setup", NULL};
    char output[500];
    int status;
    struct dn_error err = {0};

    if (cluster_command(setup, output, sizeof output, &status, &err) != DN_OK)
        failed(KAFKA_SCRIPT, err.message);
    if (status != 0 && (status != SKIPPED || is_required("kafka")))
        failed(KAFKA_SCRIPT, output);
    if (status != 0)
        printf("SKIPPED (kafka): %s", output);
    return status == 0;
}

static void start(bool spaces, const char *folder)
{
    const char *bin = getenv("DUNLIN_BIN");
    bool kafka = has_kafka();
    const struct chaos_cluster_options options = {.nodes = NODES,
                                                  .broker_script = kafka ? KAFKA_SCRIPT : NULL,
                                                  .partitions = SHARDS,
                                                  .partitions_step = SHARDS,
                                                  .partitions_max = 4 * SHARDS,
                                                  .yaml = kafka ? SOURCE_YAML : NULL,
                                                  .spares = 1,
                                                  .shards = SHARDS,
                                                  .folder = folder,
                                                  .programs = bin == NULL ? "build/bin" : bin,
                                                  .net = spaces ? CHAOS_NET_NAMESPACES : CHAOS_NET_PROXY};
    struct dn_error err = {0};
    char about[1200];
    enum dn_code code = chaos_cluster_create(&options, &cluster, &err);

    if (code == DN_UNAVAILABLE && spaces && !is_required("namespaces")) {
        printf("SKIPPED (namespaces): %s\n", err.message);
        exit(SKIPPED);
    }
    if (code != DN_OK)
        failed("create the cluster", err.message);
    chaos_cluster_describe(cluster, about, sizeof about);
    puts(about);
    if (kafka && chaos_cluster_start_broker(cluster, START_MS, &err) != DN_OK)
        failed("start the broker", err.message);
    if (chaos_cluster_start(cluster, START_MS, &err) != DN_OK)
        failed("start the cluster", err.message);
}

int main(int argc, char **argv)
{
    char folder[] = "/tmp/dunlin-nemeses.XXXXXX", command[64];
    unsigned numbers[NODES] = {1, 2, 3};
    pthread_t writers[NODES];
    bool spaces = argc > 1 && strcmp(argv[1], "namespaces") == 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : dn_monotonic_ns() % 100000;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2 || (!spaces && strcmp(argv[1], "proxy") != 0) || mkdtemp(folder) == NULL) {
        fprintf(stderr, "usage: test_nemeses namespaces|proxy [SEED] [NAMES]\n");
        return 2;
    }
    printf("seed %llu; repeat with: test_nemeses %s %llu\n", (unsigned long long)seed, argv[1],
           (unsigned long long)seed);
    start(spaces, folder);
    history = chaos_history_create();
    for (int i = 0; i < NODES; i++)
        if (pthread_create(&writers[i], NULL, write_on, &numbers[i]) != 0)
            failed("start", "no thread");
    unsigned run = run_all(argc > 3 ? argv[3] : NULL, seed);
    atomic_store(&stop_writing, true);
    for (int i = 0; i < NODES; i++)
        pthread_join(writers[i], NULL);
    chaos_cluster_stop(cluster);
    check_crashes("the end");
    printf("%u nemeses, %llu writes acknowledged on the way\n", run, (unsigned long long)acknowledged);
    chaos_history_destroy(history);
    chaos_cluster_destroy(cluster);
    snprintf(command, sizeof command, "rm -rf %s", folder); /* a failed run's stays, to be looked at */
    return system(command) == 0 ? 0 : 1;
}
