#include "chaos/pool.h"

#include "base/clock.h"
#include "chaos/workload_stream.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WATCH_EVERY_MS 300        /* one round over all nodes */
#define WATCH_DEADLINE_MS 250     /* a node that hangs holds the others up for no longer */
#define BEHIND_MAX_NS 1000000000u /* what a client does not catch up with after a stall */
#define SLEEP_STEP_NS 50000000u   /* how soon a sleeping thread sees that it is to end */
#define NANOS 1000000000u
#define STREAM_SHARE 10      /* of the clients' operations: so many for one step of the stream's producer */
#define STREAM_UNLIMITED 100 /* its steps a second where clients ask as fast as they can */
#define STREAM_LOOK_NS 100000000u
#define STREAM_ATTEMPTS 20 /* of a node's last offsets */

struct member { /* one thread */
    struct chaos_pool *pool;
    pthread_t thread;
    bool started;
    struct workload_client client;
    struct workload_own own;
};

struct chaos_pool {
    struct chaos_pool_options options;
    struct workload_nodes nodes;
    struct workload_shared shared;
    struct workload_counts counts;
    struct member *clients;
    struct member watch;
    struct member producer; /* of the stream; once it has ended, who asks for offsets */
    struct workload_stream stream;
    enum dn_code stream_code;
    struct dn_error stream_err;
    atomic_bool stop_clients, stop_watch;
    atomic_bool converged; /* in the watch's last whole round */
    atomic_ulong final_next, final_missing;
};

/* ---- time ------------------------------------------------------------------------------------------- */

static void sleep_until(uint64_t until_ns, const atomic_bool *stop)
{
    for (uint64_t now = dn_monotonic_ns(); now < until_ns && !atomic_load(stop); now = dn_monotonic_ns()) {
        uint64_t left = until_ns - now < SLEEP_STEP_NS ? until_ns - now : SLEEP_STEP_NS;
        struct timespec time = {.tv_sec = 0, .tv_nsec = (long)left};
        nanosleep(&time, NULL);
    }
}

/* ---- clients ---------------------------------------------------------------------------------------- */

static unsigned node_pick(const struct chaos_pool *pool, struct workload_random *random)
{
    unsigned node = 1 + (unsigned)workload_random_below(random, pool->nodes.count);
    if (node > pool->options.first_nodes && !chaos_cluster_is_running(pool->options.cluster, node))
        node = 1 + (unsigned)workload_random_below(random, pool->options.first_nodes);
    return node;
}

static void *client_run(void *data)
{
    struct member *member = data;
    struct chaos_pool *pool = member->pool;
    struct workload_random *random = &member->client.random;
    uint64_t every_ns =
        pool->options.rate > 0 ? (uint64_t)pool->options.clients * NANOS / pool->options.rate : 0;
    uint64_t next_ns = dn_monotonic_ns();
    while (!atomic_load(&pool->stop_clients)) {
        if (every_ns > 0) {
            uint64_t now = dn_monotonic_ns();
            next_ns += workload_random_below(random, 2 * every_ns);
            if (next_ns + BEHIND_MAX_NS < now)
                next_ns = now;
            sleep_until(next_ns, &pool->stop_clients);
        }
        chaos_workload_step(&pool->shared, &member->own, &member->client, node_pick(pool, random));
    }
    return NULL;
}

/* ---- the watch -------------------------------------------------------------------------------------- */

struct round { /* of one look at all nodes */
    uint64_t hash_at[CHAOS_GROUPS_MAX];
    size_t groups_count;
    struct chaos_group groups[CHAOS_GROUPS_MAX]; /* of the node asked first */
    bool same;
};

static bool settled_as(const struct round *round, const struct chaos_group *groups, size_t count)
{
    if (count != round->groups_count)
        return false;
    for (size_t i = 0; i < count; i++)
        if (groups[i].leader == 0 || groups[i].applied != groups[i].commit ||
            groups[i].applied != round->groups[i].applied || groups[i].term != round->groups[i].term)
            return false;
    return true;
}

/* The node asked first tells its newest hashes; the others are asked for theirs at the same indexes. */
static void watch_node(struct chaos_pool *pool, unsigned node, struct round *round)
{
    struct chaos_group groups[CHAOS_GROUPS_MAX];
    size_t count = 0;
    bool first_member = node <= pool->options.first_nodes;
    if (!first_member && !chaos_cluster_is_running(pool->options.cluster, node))
        return;
    if (workload_status(&pool->watch.client, node, round->hash_at, groups, &count) != CHAOS_OK) {
        round->same = round->same && !first_member;
        return;
    }
    if (round->groups_count == 0) {
        round->groups_count = count;
        memcpy(round->groups, groups, count * sizeof groups[0]);
        for (size_t i = 0; i < count; i++)
            if (groups[i].group < CHAOS_GROUPS_MAX)
                round->hash_at[groups[i].group] = groups[i].hash_index;
    }
    if (first_member)
        round->same = round->same && settled_as(round, groups, count);
    if (pool->options.stream) {
        struct chaos_row rows[CHAOS_LIST_MAX];
        (void)workload_offsets(&pool->watch.client, node, WORKLOAD_STREAM, rows, &count);
        (void)workload_dead_letters(&pool->watch.client, node, rows, &count);
    }
}

static void *watch_run(void *data)
{
    struct chaos_pool *pool = ((struct member *)data)->pool;
    for (unsigned first = 0; !atomic_load(&pool->stop_watch); first++) {
        uint64_t began_ns = dn_monotonic_ns();
        struct round round = {.same = true};
        for (unsigned i = 0; i < pool->nodes.count && !atomic_load(&pool->stop_watch); i++)
            watch_node(pool, 1 + (first + i) % pool->nodes.count, &round);
        atomic_store(&pool->converged, round.same && round.groups_count > 0);
        sleep_until(began_ns + WATCH_EVERY_MS * 1000000ull, &pool->stop_watch);
    }
    return NULL;
}

/* ---- the stream ------------------------------------------------------------------------------------- */

static void *producer_run(void *data)
{
    struct chaos_pool *pool = ((struct member *)data)->pool;
    unsigned rate = pool->options.rate > 0 ? pool->options.rate / STREAM_SHARE : STREAM_UNLIMITED;
    uint64_t every_ns = NANOS / (rate > 0 ? rate : 1), next_ns = dn_monotonic_ns();
    while (!atomic_load(&pool->stop_clients) && pool->stream_code == DN_OK) {
        pool->stream_code = workload_stream_step(&pool->stream, &pool->stream_err);
        next_ns += every_ns;
        if (next_ns + BEHIND_MAX_NS < dn_monotonic_ns())
            next_ns = dn_monotonic_ns();
        sleep_until(next_ns, &pool->stop_clients);
    }
    return NULL;
}

enum dn_code chaos_pool_finish_stream(struct chaos_pool *pool, char *ret_text, size_t size,
                                      struct dn_error *err)
{
    if (!pool->options.stream)
        return DN_OK;
    enum dn_code code = workload_stream_finish(&pool->stream, err);
    workload_stream_describe(&pool->stream, ret_text, size);
    if (pool->stream_code != DN_OK)
        return dn_fail(err, pool->stream_code, "%s", pool->stream_err.message);
    return code;
}

/* Whether the node's shards have all of the stream, and wait for no dead letter. */
static bool has_stream(struct chaos_pool *pool, unsigned node, char *ret_text, size_t size)
{
    struct chaos_row rows[CHAOS_LIST_MAX];
    struct workload_client *client = &pool->producer.client;
    size_t count = 0;
    int used = snprintf(ret_text, size, "node %u: ", node);
    if (workload_offsets(client, node, WORKLOAD_STREAM, rows, &count) != CHAOS_OK) {
        snprintf(ret_text, size, "node %u does not tell its offsets", node);
        return false;
    }
    if (!workload_stream_is_read(&pool->stream, rows, count, ret_text + used, size - (size_t)used))
        return false;
    if (workload_dead_letters(client, node, rows, &count) != CHAOS_OK) {
        snprintf(ret_text, size, "node %u does not tell its dead letters", node);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (rows[i].of[CHAOS_ROW_WAITING] > 0) {
            snprintf(ret_text, size, "%" PRIu64 " dead letters of shard %" PRIu64 " are not written",
                     rows[i].of[CHAOS_ROW_WAITING], rows[i].of[CHAOS_ROW_DEAD_SHARD]);
            return false;
        }
    }
    return true;
}

bool chaos_pool_wait_stream(struct chaos_pool *pool, unsigned timeout_ms, char *ret_text, size_t size)
{
    static const atomic_bool never;
    uint64_t until_ns = dn_monotonic_ns() + timeout_ms * 1000000ull;
    unsigned node = 1;
    if (!pool->options.stream)
        return true;
    while (node <= pool->options.first_nodes && dn_monotonic_ns() < until_ns) {
        if (has_stream(pool, node, ret_text, size))
            node++;
        else
            sleep_until(dn_monotonic_ns() + STREAM_LOOK_NS, &never);
    }
    return node > pool->options.first_nodes;
}

/* False: a node did not answer. */
static bool stream_final(struct chaos_pool *pool, unsigned node)
{
    struct chaos_row rows[CHAOS_LIST_MAX];
    struct workload_client *client = &pool->producer.client;
    bool offsets = false, dead = false;
    size_t count;
    for (unsigned i = 0; i < STREAM_ATTEMPTS && !(offsets && dead); i++) {
        offsets = offsets || workload_offsets(client, node, WORKLOAD_STREAM, rows, &count) == CHAOS_OK;
        dead = dead || workload_dead_letters(client, node, rows, &count) == CHAOS_OK;
    }
    return offsets && dead;
}

/* ---- life ------------------------------------------------------------------------------------------- */

static void member_init(struct chaos_pool *pool, struct member *member, unsigned number)
{
    member->pool = pool;
    member->own.favourite = number;
    member->client = (struct workload_client){
        .history = pool->options.history,
        .counts = &pool->counts,
        .links = {.nodes = &pool->nodes},
        .random = workload_random_make(pool->options.seed, number + 1),
        .process = (int32_t)number,
        .processes = (int32_t)pool->options.clients + 2, /* and the watch, and the producer */
        .deadline_ms = pool->options.deadline_ms,
    };
}

enum dn_code chaos_pool_create(const struct chaos_pool_options *options, struct chaos_pool **ret,
                               struct dn_error *err)
{
    struct chaos_pool *pool = calloc(1, sizeof *pool);
    struct member *clients = calloc(options->clients, sizeof *clients);
    if (!pool || !clients) {
        free(pool);
        free(clients);
        return dn_fail(err, DN_NO_MEMORY, "clients: out of memory");
    }
    pool->options = *options;
    pool->clients = clients;
    pool->nodes.count = chaos_cluster_count(options->cluster);
    DN_ASSERT(pool->nodes.count <= CHAOS_NODES_MAX);
    for (unsigned node = 1; node <= pool->nodes.count; node++)
        pool->nodes.api[node] = chaos_cluster_api(options->cluster, node);
    pool->shared = (struct workload_shared){.workload = options->workload, .users = workload_users_create()};
    chaos_workload_begin(&pool->shared);
    for (unsigned i = 0; i < options->clients; i++)
        member_init(pool, &clients[i], i);
    member_init(pool, &pool->watch, options->clients);
    pool->watch.client.deadline_ms = WATCH_DEADLINE_MS;
    member_init(pool, &pool->producer, options->clients + 1);
    pool->stream.fd = -1;
    enum dn_code code = options->stream
                            ? workload_stream_open(&pool->stream, options->stream, options->history,
                                                   pool->shared.users, options->seed, err)
                            : DN_OK;
    if (code != DN_OK) {
        chaos_pool_destroy(pool);
        return code;
    }
    *ret = pool;
    return DN_OK;
}

static enum dn_code member_start(struct member *member, void *(*run)(void *), struct dn_error *err)
{
    int rv = pthread_create(&member->thread, NULL, run, member);
    if (rv != 0)
        return dn_fail(err, DN_IO, "a thread for a client: %s; try fewer --clients", strerror(rv));
    member->started = true;
    return DN_OK;
}

static void member_join(struct member *member)
{
    if (member->started)
        pthread_join(member->thread, NULL);
    member->started = false;
}

static enum dn_code clients_start(struct chaos_pool *pool, void *(*run)(void *), struct dn_error *err)
{
    enum dn_code code = DN_OK;
    atomic_store(&pool->stop_clients, false);
    for (unsigned i = 0; i < pool->options.clients && code == DN_OK; i++)
        code = member_start(&pool->clients[i], run, err);
    return code;
}

enum dn_code chaos_pool_start(struct chaos_pool *pool, struct dn_error *err)
{
    enum dn_code code = member_start(&pool->watch, watch_run, err);
    if (code == DN_OK)
        code = clients_start(pool, client_run, err);
    return code == DN_OK && pool->options.stream ? member_start(&pool->producer, producer_run, err) : code;
}

static void clients_join(struct chaos_pool *pool)
{
    for (unsigned i = 0; i < pool->options.clients; i++)
        member_join(&pool->clients[i]);
}

void chaos_pool_stop(struct chaos_pool *pool)
{
    atomic_store(&pool->stop_clients, true);
    clients_join(pool);
    member_join(&pool->producer);
}

void chaos_pool_destroy(struct chaos_pool *pool)
{
    if (!pool)
        return;
    chaos_pool_stop(pool);
    atomic_store(&pool->stop_watch, true);
    member_join(&pool->watch);
    for (unsigned i = 0; i < pool->options.clients; i++) {
        workload_links_close(&pool->clients[i].client.links);
        chaos_workload_own_free(&pool->clients[i].own);
    }
    workload_links_close(&pool->watch.client.links);
    workload_links_close(&pool->producer.client.links);
    workload_stream_close(&pool->stream);
    workload_users_destroy(pool->shared.users);
    free(pool->clients);
    free(pool);
}

/* ---- the end of a run ------------------------------------------------------------------------------- */

bool chaos_pool_wait_converged(struct chaos_pool *pool, unsigned timeout_ms)
{
    static const atomic_bool never;
    uint64_t until_ns = dn_monotonic_ns() + timeout_ms * 1000000ull;
    atomic_store(&pool->converged, false);
    while (!atomic_load(&pool->converged) && dn_monotonic_ns() < until_ns)
        sleep_until(dn_monotonic_ns() + SLEEP_STEP_NS, &never);
    return atomic_load(&pool->converged);
}

/* Task number n is a user or an item at a node. False: there are no more. */
static bool final_task(struct chaos_pool *pool, struct workload_client *client, unsigned long n)
{
    unsigned nodes = pool->options.first_nodes;
    unsigned node = 1 + (unsigned)(n % nodes);
    uint64_t users = pool->options.workload->sessions > 0 ? workload_users_count(pool->shared.users) : 0;
    uint64_t items = pool->options.workload->sessions < 100 ? atomic_load(&pool->shared.last_item) : 0;
    uint64_t key = 1 + n / nodes;
    bool answered;
    if (key <= users)
        answered = chaos_workload_final_user(client, node, key);
    else if (key <= users + items)
        answered = chaos_workload_final_item(client, node, key - users);
    else
        return false;
    if (!answered)
        atomic_fetch_add(&pool->final_missing, 1);
    return true;
}

static void *final_run(void *data)
{
    struct member *member = data;
    struct chaos_pool *pool = member->pool;
    while (final_task(pool, &member->client, atomic_fetch_add(&pool->final_next, 1)))
        continue;
    return NULL;
}

enum dn_code chaos_pool_final_reads(struct chaos_pool *pool, unsigned long *ret_missing, struct dn_error *err)
{
    atomic_store(&pool->final_next, 0);
    atomic_store(&pool->final_missing, 0);
    enum dn_code code = clients_start(pool, final_run, err);
    clients_join(pool);
    for (unsigned node = 1; pool->options.stream && node <= pool->options.first_nodes; node++)
        if (!stream_final(pool, node))
            atomic_fetch_add(&pool->final_missing, 1);
    *ret_missing = atomic_load(&pool->final_missing);
    return code;
}

const struct workload_counts *chaos_pool_counts(const struct chaos_pool *pool)
{
    return &pool->counts;
}

bool chaos_pool_writes_since(const struct chaos_pool *pool, unsigned shards, int64_t since_ns)
{
    unsigned share = pool->options.workload->sessions;
    unsigned first = share < 100 ? 0 : 1; /* group 0 is the catalogue */
    unsigned last = share > 0 ? shards : 0;
    for (unsigned group = first; group <= last && group < CHAOS_GROUPS_MAX; group++)
        if (atomic_load(&pool->counts.acknowledged_ns[group]) <= since_ns)
            return false;
    return true;
}
