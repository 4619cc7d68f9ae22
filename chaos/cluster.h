/* The cluster under test: real dunlind processes, each with its own address, data directory and log, and the
 * network between them, which can be hurt. Two kinds of network: one network namespace a node, joined by a
 * switch inside this program (needs root and TUN devices); or loopback, where every link between two nodes
 * goes through a proxy inside this program. As root each node also gets a disk of its own: a file with a file
 * system, mounted for that node alone. Nothing is left behind when this program ends, however it ends: nodes,
 * namespaces, mounts and loop devices go with it.
 *
 * One thread (the nemesis') calls the functions that change something; the others may be called from any
 * thread. */
#ifndef DN_CHAOS_CLUSTER_H
#define DN_CHAOS_CLUSTER_H

#include "base/error.h"
#include "chaos/history.h"
#include "chaos/topic.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum chaos_net { CHAOS_NET_AUTO, CHAOS_NET_NAMESPACES, CHAOS_NET_PROXY };

struct chaos_cluster_options {
    unsigned nodes;  /* first members, 3 or 5 */
    unsigned spares; /* further nodes that can join later (numbers nodes + 1 ..) */
    unsigned shards;
    const char *folder; /* made when missing; of no earlier cluster. Configurations, data, node-1.log, ... */
    const char *programs; /* folder of dunlind and dunlin */
    enum chaos_net net;
    const char *environment; /* "NAME=value" for every node, e.g. DUNLIN_MUTANT=...; NULL: none */
    /* scripts/kafka.sh: the cluster has a broker, and a topic on it (topic.h); NULL: none. The broker is
     * behind an address of its own, in this program's network namespace. */
    const char *broker_script;
    unsigned partitions, partitions_step, partitions_max; /* of that topic: first, more at a time, at most */
    const char *yaml; /* CLUSTER_BROKERS in it becomes the broker's address. Appended to every configuration,
                         e.g. "session: {...}\n"; not node, cluster, peers, api, admin, raft or secrets, which
                         are the cluster's own; NULL: nothing */
    bool plain_disks; /* data in plain folders, also as root: faster, and no nemesis of the disk works */
};

#define CLUSTER_BROKERS "@BROKERS@"

struct chaos_cluster;

enum dn_code chaos_cluster_create(const struct chaos_cluster_options *options, struct chaos_cluster **ret,
                                  struct dn_error *err);
void chaos_cluster_destroy(
    struct chaos_cluster *cluster); /* kills what runs; leaves the folder; NULL allowed */
/* Starts the broker, waits until it serves, and makes the topic. DN_UNAVAILABLE: this machine cannot have
 * one; the message says why. */
enum dn_code chaos_cluster_start_broker(struct chaos_cluster *cluster, unsigned timeout_ms,
                                        struct dn_error *err);
/* The broker's topic; NULL: there is no broker. */
struct chaos_topic *chaos_cluster_topic(struct chaos_cluster *cluster);
/* Starts the first members and waits until each says that it is ready. */
enum dn_code chaos_cluster_start(struct chaos_cluster *cluster, unsigned timeout_ms, struct dn_error *err);
/* SIGTERM to all that run, and waits: at the end of a run, so that sanitizers report what leaked. A node that
 * does not leave with code 0 in time is a crash. */
void chaos_cluster_stop(struct chaos_cluster *cluster);

unsigned chaos_cluster_count(const struct chaos_cluster *cluster); /* nodes + spares */
const char *chaos_cluster_api(const struct chaos_cluster *cluster,
                              unsigned node); /* "host:port"; node from 1 */
bool chaos_cluster_is_running(const struct chaos_cluster *cluster,
                              unsigned node); /* started, and not known to have ended */
enum chaos_net chaos_cluster_net(const struct chaos_cluster *cluster); /* which kind it became */
/* Which network and which disks, and why not better ones: a line for people. Lives as long as the cluster. */
void chaos_cluster_describe(const struct chaos_cluster *cluster, char *ret_text, size_t size);

/* What must not happen: a node that ended by itself, or did not leave when asked; lines of its log that tell
 * of a failed assertion, a sanitizer's finding or a fatal error. */
struct chaos_crash {
    unsigned node;   /* 0: the broker */
    int64_t time_ms; /* since the cluster was created; when it was found, for a line of a log */
    char text[400];  /* for people */
};
/* Reads what the logs got since the last call. Fills up to max and returns how many there are in all (no more
 * than 64 are kept). */
unsigned chaos_cluster_crashes(struct chaos_cluster *cluster, struct chaos_crash *ret, unsigned max);

/* Writes into the history what the nodes' logs say of who led: a STATUS of process CHAOS_NEMESIS for each
 * "group G: leader of term T". When the nodes have ended, before the history is judged. */
void chaos_cluster_leaders(const struct chaos_cluster *cluster, struct chaos_history *history);

#endif
