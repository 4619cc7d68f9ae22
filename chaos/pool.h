/* The pool: many clients, a thread each, and one that watches the nodes' status. Clients are Jepsen
 * processes: one operation at a time each, and after one with an unknown end the client goes on as another
 * process. */
#ifndef DN_CHAOS_POOL_H
#define DN_CHAOS_POOL_H

#include "chaos/cluster.h"
#include "chaos/workload.h"
#include "chaos/workload_stream.h"

#define CHAOS_CLIENTS_MAX 256

struct chaos_pool_options {
    const struct chaos_cluster *cluster;
    struct chaos_history *history;
    const struct chaos_workload *workload;
    unsigned
        first_nodes; /* numbers 1 to this are asked whether they run or not; others only while they run */
    unsigned clients;
    unsigned rate; /* operations a second, of all clients together; 0: as fast as they can */
    unsigned deadline_ms;
    uint64_t seed;
    unsigned shards;
    const struct workload_stream_options *stream; /* that nodes read, made and empty; NULL: none */
};

struct chaos_pool;

enum dn_code chaos_pool_create(const struct chaos_pool_options *options, struct chaos_pool **ret,
                               struct dn_error *err);
void chaos_pool_destroy(struct chaos_pool *pool); /* stops first; NULL allowed */

/* Clients begin; the watch begins. */
enum dn_code chaos_pool_start(struct chaos_pool *pool, struct dn_error *err);
/* Clients end with the operation they are at; the watch goes on. */
void chaos_pool_stop(struct chaos_pool *pool);

/* After chaos_pool_stop, once: settles what the stream has, and tells the history where it ends. ret_text:
 * what it has, for people. An error: it ended early, or does not have what it confirmed. Nothing where there
 * is none. */
enum dn_code chaos_pool_finish_stream(struct chaos_pool *pool, char *ret_text, size_t size,
                                      struct dn_error *err);
/* After chaos_pool_finish_stream, once: waits until all shards of all
 * first nodes have read it to there and written its dead letters. False: not within timeout_ms; ret_text
 * tells what is missing. */
bool chaos_pool_wait_stream(struct chaos_pool *pool, unsigned timeout_ms, char *ret_text, size_t size);
/* After chaos_pool_stop. Waits until all first nodes have applied the same, and nothing is left to commit.
 * False: not within timeout_ms. */
bool chaos_pool_wait_converged(struct chaos_pool *pool, unsigned timeout_ms);
/* After chaos_pool_stop: each user and item that was worked on is read at each first node, and so are the
 * stream's offsets and dead letters. *ret_missing: how
 * many of these reads got no answer, though they were tried again. */
enum dn_code chaos_pool_final_reads(struct chaos_pool *pool, unsigned long *ret_missing,
                                    struct dn_error *err);

/* Any thread. */
const struct workload_counts *chaos_pool_counts(const struct chaos_pool *pool);
/* True when after since_ns (chaos_history_now_ns) a write was acknowledged by each group that the workload
 * writes to: the catalogue's, and those of shards 1 to shards. */
bool chaos_pool_writes_since(const struct chaos_pool *pool, unsigned shards, int64_t since_ns);

#endif
