/* Cluster: what its files share, and what the nemeses do with it. Private to the faults.
 *
 * Invariants
 * 1. Nodes are started and reaped by one thread, the keeper, which lives as long as the cluster: a child is
 *    told to die with the thread that made it (PR_SET_PDEATHSIG), so that nothing outlives this program.
 * 2. `lock` covers every node's pid, pidfd and flags. A pid is given back to the kernel (waited for) with the
 *    lock held, so a signal never hits a stranger.
 * 3. The broker of a stream is place CLUSTER_BROKER among the nodes: it is started, paused, killed and reaped
 * as they are, and is in no namespace. Loops over nodes begin at 1.
 * 4. A process that ends while `expected` is false has crashed, and is remembered for good.
 *
 *   DOWN -cluster_node_start-> RUNNING -pause-> PAUSED -continue-> RUNNING -kill, stop, crash-> DOWN */
#ifndef DN_CHAOS_CLUSTER_INTERNAL_H
#define DN_CHAOS_CLUSTER_INTERNAL_H

#include "chaos/cluster.h"
#include "chaos/net.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define CLUSTER_CRASHES_MAX 64
#define CLUSTER_BROKER 0
#define CLUSTER_FAKETIME "/usr/lib/" CLUSTER_ARCH "-linux-gnu/faketime/libfaketimeMT.so.1" /* Debian's */
#if defined(__aarch64__)
#define CLUSTER_ARCH "aarch64"
#else
#define CLUSTER_ARCH "x86_64"
#endif
#define CLUSTER_PATH_MAX (PATH_MAX / 4)
#define CLUSTER_READY_MS                                                                                     \
    120000 /* a node that is not ready after so long hangs; how soon it must be, the rules judge */
#define CLUSTER_STOP_MS 60000 /* so is one that has not left so long after SIGTERM (its drain_ms is 5 s) */

struct proxy;

struct cluster_node {
    unsigned number;
    char name[16];
    char peer[64], bind[64], api[64], admin[64]; /* bind: where it really listens for peers */
    char config[CLUSTER_PATH_MAX], data[CLUSTER_PATH_MAX], log[CLUSTER_PATH_MAX];
    char image[CLUSTER_PATH_MAX], clock[CLUSTER_PATH_MAX]; /* its disk; the file libfaketime reads */
    char device[32];                                       /* "/dev/loop3"; "": a plain folder */
    int image_fd, device_fd;
    bool faked_clock; /* its next start is under libfaketime */
    bool joins;       /* no first member: its configuration says where it is */

    pid_t pid; /* 0: down */
    int pidfd;
    bool paused, expected;
    int status; /* of waitpid, of its last life */
    unsigned lives;
    off_t log_judged; /* up to here the log's lines were looked at */
};

struct cluster_request {
    struct cluster_node *node; /* NULL: none */
    bool refuses;              /* its end is expected */
    enum dn_code code;
    struct dn_error *err;
    bool done;
};

struct chaos_cluster {
    struct chaos_cluster_options o;
    char folder[CLUSTER_PATH_MAX - 64], dunlind[CLUSTER_PATH_MAX], dunlin[CLUSTER_PATH_MAX];
    char key[CLUSTER_PATH_MAX], hash_key[CLUSTER_PATH_MAX];
    char *environment;
    unsigned count;                                 /* nodes + spares */
    struct cluster_node nodes[CHAOS_NODES_MAX + 1]; /* nodes[CLUSTER_BROKER]: when there is one */
    struct chaos_topic topic;
    char broker_script[CLUSTER_PATH_MAX];
    enum chaos_net net;
    struct net_switch *sw;
    struct proxy *proxy;
    char why_no_spaces[DN_ERROR_MESSAGE_MAX];
    char why_no_disks[DN_ERROR_MESSAGE_MAX]; /* "": every node has a disk of its own */
    uint64_t begun_us;

    pthread_t keeper;
    bool keeper_runs;
    int wake;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a request was done, a process has ended */
    bool stop;
    struct cluster_request request;
    pthread_mutex_t log_lock; /* of the nodes' log_judged; taken before `lock` */
    struct chaos_crash crashes[CLUSTER_CRASHES_MAX];
    unsigned crash_count;
};

/* ---- cluster_config.c: addresses, keys, files -----------------------------------------------------------
 */

/* Loopback ports for the proxied network. */
enum dn_code cluster_addresses_loopback(struct chaos_cluster *c, struct dn_error *err);
void cluster_addresses_spaces(struct chaos_cluster *c, const char *prefix);
/* The broker's process, in nodes[CLUSTER_BROKER]: folders, and that it can be had. */
enum dn_code cluster_broker_make(struct chaos_cluster *c, struct dn_error *err);
/* Runs a program (arguments[0], NULL at the end) to its end. What it prints, on either output, is kept as far
 * as it fits. *ret_status: its exit code, or 128 + signal. An error: it could not be run at all. */
enum dn_code cluster_command(const char *const *arguments, char *ret_output, size_t size, int *ret_status,
                             struct dn_error *err);
enum dn_code cluster_keys(struct chaos_cluster *c, struct dn_error *err);
enum dn_code cluster_config_write(struct chaos_cluster *c, const struct cluster_node *node,
                                  struct dn_error *err);

/* ---- cluster_process.c ----------------------------------------------------------------------------------
 */

enum dn_code cluster_keeper_start(struct chaos_cluster *c, struct dn_error *err);
void cluster_keeper_stop(struct chaos_cluster *c); /* kills what runs */

enum dn_code cluster_node_start(struct chaos_cluster *c, unsigned node, struct dn_error *err);
/* The same, and its end is no crash: it must refuse what it finds. */
enum dn_code cluster_node_start_refused(struct chaos_cluster *c, unsigned node, struct dn_error *err);
/* SIGKILL, and waits for its end. Nothing when it is down. */
void cluster_node_kill(struct chaos_cluster *c, unsigned node);
/* SIGTERM, and waits; a node that does not leave in time, or not with code 0, counts as crashed. */
void cluster_node_stop(struct chaos_cluster *c, unsigned node);
void cluster_node_signal(struct chaos_cluster *c, unsigned node, int number);
void cluster_node_pause(struct chaos_cluster *c, unsigned node, bool paused);
/* Its end, whenever it comes, is no crash (until the next start). */
void cluster_node_expect_end(struct chaos_cluster *c, unsigned node);
bool cluster_node_wait_end(struct chaos_cluster *c, unsigned node, unsigned timeout_ms);
bool cluster_node_is_paused(struct chaos_cluster *c, unsigned node);
/* What its log says up to now is not judged. */
void cluster_node_forgive(struct chaos_cluster *c, unsigned node);
/* Remembers something that must not happen. */
void cluster_crash(struct chaos_cluster *c, unsigned node, const char *text);

/* ---- cluster_ask.c --------------------------------------------------------------------------------------
 */

/* GET /readyz. False: *why (if not NULL) says why not. */
bool cluster_node_ready(const struct chaos_cluster *c, unsigned node, char *why, size_t size);
/* The broker takes connections. True as well where there is none, or it does not run. */
bool cluster_broker_ready(const struct chaos_cluster *c);
/* Waits until all nodes that run say that they are ready. DN_DEADLINE names the one that does not. */
enum dn_code cluster_wait_ready(struct chaos_cluster *c, unsigned timeout_ms, struct dn_error *err);
/* The node that leads the group, as those that run say; 0: none says so. */
unsigned cluster_leader(struct chaos_cluster *c, unsigned group);
/* There is a broker, and it runs and is not paused. */
bool cluster_has_broker(const struct chaos_cluster *c);

/* What was not judged of its log yet holds the text. */
bool cluster_log_has(struct chaos_cluster *c, unsigned node, const char *text);
/* What chaos_cluster_leaders does, with the log of one node. */
void cluster_log_leaders(FILE *log, uint32_t node, struct chaos_history *history);
/* Looks at what the logs got since the last time. */
void cluster_logs_judge(struct chaos_cluster *c);

/* ---- cluster_disk.c: a file system of its own for each node
 * ------------------------------------------------ */

enum dn_code cluster_disk_create(struct chaos_cluster *c, struct cluster_node *node, struct dn_error *err);
void cluster_disk_destroy(struct cluster_node *node);
/* In the child between fork and exec: system calls only. False: errno says why. */
bool cluster_disk_mount(const struct cluster_node *node);
/* The path by which this program reaches a file in the data directory of a node that runs (or whose data is
 * in a plain folder); of one that is down: cluster_disk_visit. */
void cluster_node_path(struct chaos_cluster *c, unsigned node, const char *name, char *ret_path, size_t size);
/* Calls the visitor with a path of the node's data directory, mounted for the time of the call if it must be;
 * perhaps on another thread. */
typedef void (*cluster_disk_visitor)(const char *folder, void *data);
enum dn_code cluster_disk_visit(struct chaos_cluster *c, unsigned node, cluster_disk_visitor visitor,
                                void *data, struct dn_error *err);
/* Waits until nothing has the disk mounted any more: the node's process has just ended. */
enum dn_code cluster_disk_settle(struct chaos_cluster *c, unsigned node, struct dn_error *err);

/* ---- the network, of either kind
 * --------------------------------------------------------------------------- */

void cluster_link_set(struct chaos_cluster *c, unsigned from, unsigned to, const struct net_link *link);
void cluster_links_clear(struct chaos_cluster *c);
/* Since the cluster was made. */
void cluster_net_counts(struct chaos_cluster *c, struct net_counts *ret);

#endif
