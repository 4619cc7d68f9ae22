/* The cluster under test: real dunlind processes, each with its own address, data directory and log, and the
 * network between them, which can be hurt. Two kinds of network: one network namespace a node, joined by a
 * bridge (needs root, ip, tc, nft or iptables); or loopback, where every link between two nodes goes through
 * a proxy inside this program. One thread (the nemesis') calls the functions that change something; the
 * others may be called from any thread. */
#ifndef DN_CHAOS_CLUSTER_H
#define DN_CHAOS_CLUSTER_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum chaos_net { CHAOS_NET_AUTO, CHAOS_NET_NAMESPACES, CHAOS_NET_PROXY };

struct chaos_cluster_options {
    unsigned nodes;  /* first members, 3 or 5 */
    unsigned spares; /* further nodes that can join later (numbers nodes + 1 ..) */
    unsigned shards;
    const char *folder;   /* everything is kept here: configurations, data, logs */
    const char *programs; /* folder of dunlind and dunlin */
    enum chaos_net net;
    const char *environment; /* "NAME=value" for every node, e.g. DUNLIN_MUTANT=...; NULL: none */
};

struct chaos_cluster;

enum dn_code chaos_cluster_create(const struct chaos_cluster_options *options, struct chaos_cluster **ret,
                                  struct dn_error *err);
void chaos_cluster_destroy(
    struct chaos_cluster *cluster); /* kills what runs; leaves the folder; NULL allowed */
/* Starts the first members and waits until each says that it is ready. */
enum dn_code chaos_cluster_start(struct chaos_cluster *cluster, unsigned timeout_ms, struct dn_error *err);

unsigned chaos_cluster_count(const struct chaos_cluster *cluster); /* nodes + spares */
const char *chaos_cluster_api(const struct chaos_cluster *cluster,
                              unsigned node); /* "host:port"; node from 1 */
bool chaos_cluster_is_running(const struct chaos_cluster *cluster,
                              unsigned node); /* started, and not known to have ended */

#endif
