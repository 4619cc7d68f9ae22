/* Life of a cluster. */
#include "chaos/cluster_internal.h"

#include "base/clock.h"
#include "chaos/proxy.h"
#include "chaos/topic.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define BROKER_LOOK_MS 100

/* ---- network and disks
 * -------------------------------------------------------------------------------------- */

static enum dn_code make_spaces(struct chaos_cluster *c, struct dn_error *err)
{
    uint8_t place[2];
    char prefix[32];

    if (getrandom(place, sizeof place, 0) != sizeof place)
        return dn_fail(err, DN_INTERNAL, "getrandom: %s", strerror(errno));
    snprintf(prefix, sizeof prefix, "10.%u.%u", 64 + place[0] % 186u, 1 + place[1] % 250u);
    enum dn_code code = net_switch_create(c->count, prefix, &c->sw, err);
    if (code == DN_OK) {
        c->net = CHAOS_NET_NAMESPACES;
        cluster_addresses_spaces(c, prefix);
    }
    return code;
}

static enum dn_code make_proxy(struct chaos_cluster *c, struct dn_error *err)
{
    enum dn_code code = cluster_addresses_loopback(c, err);

    c->net = CHAOS_NET_PROXY;
    if (code == DN_OK)
        code = proxy_create(c->count, &c->proxy, err);
    for (unsigned i = 1; code == DN_OK && i <= c->count; i++)
        code = proxy_listen(c->proxy, i, c->nodes[i].bind, c->nodes[i].peer, sizeof c->nodes[i].peer, err);
    return code;
}

static enum dn_code make_net(struct chaos_cluster *c, struct dn_error *err)
{
    struct dn_error why = {0};
    enum dn_code code = DN_UNAVAILABLE;

    if (c->o.net != CHAOS_NET_PROXY)
        code = make_spaces(c, &why);
    if (code == DN_OK)
        return DN_OK;
    if (c->o.net == CHAOS_NET_NAMESPACES)
        return dn_fail(err, code, "network namespaces: %s; run as root, or use the proxied network",
                       why.message);
    snprintf(c->why_no_spaces, sizeof c->why_no_spaces, "%s",
             c->o.net == CHAOS_NET_PROXY ? "the proxied network was asked for" : why.message);
    return make_proxy(c, err);
}

static void make_disks(struct chaos_cluster *c)
{
    struct dn_error err = {0};
    enum dn_code code = DN_OK;

    if (c->o.plain_disks || geteuid() != 0) {
        snprintf(c->why_no_disks, sizeof c->why_no_disks, "%s",
                 c->o.plain_disks ? "plain folders were asked for" : "disks of their own need root");
        return;
    }
    for (unsigned i = 1; code == DN_OK && i <= c->count; i++)
        code = cluster_disk_create(c, &c->nodes[i], &err);
    if (code == DN_OK)
        return;
    for (unsigned i = 1; i <= c->count; i++)
        cluster_disk_destroy(&c->nodes[i]);
    snprintf(c->why_no_disks, sizeof c->why_no_disks, "%s", err.message);
}

void cluster_link_set(struct chaos_cluster *c, unsigned from, unsigned to, const struct net_link *link)
{
    if (c->sw != NULL)
        net_switch_set(c->sw, from, to, link);
    else
        proxy_set(c->proxy, from, to, link);
}

void cluster_net_counts(struct chaos_cluster *c, struct net_counts *ret)
{
    if (c->sw != NULL)
        net_switch_counts(c->sw, ret);
    else
        proxy_counts(c->proxy, ret);
}

void cluster_links_clear(struct chaos_cluster *c)
{
    const struct net_link none = {0};

    for (unsigned i = 1; i <= c->count; i++)
        for (unsigned j = 1; j <= c->count; j++)
            if (i != j)
                cluster_link_set(c, i, j, &none);
    for (unsigned i = 1; c->sw != NULL && i <= c->count; i++) {
        cluster_link_set(c, i, NET_BROKER, &none);
        cluster_link_set(c, NET_BROKER, i, &none);
    }
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------ */

static enum dn_code set_paths(struct chaos_cluster *c, struct dn_error *err)
{
    char folder[PATH_MAX], programs[PATH_MAX];

    if (mkdir(c->o.folder, 0700) != 0 && errno != EEXIST)
        return dn_fail(err, DN_IO, "make the folder '%s': %s", c->o.folder, strerror(errno));
    if (realpath(c->o.folder, folder) == NULL || realpath(c->o.programs, programs) == NULL)
        return dn_fail(err, DN_NOT_FOUND, "folder '%s' or '%s': %s", c->o.folder, c->o.programs,
                       strerror(errno));
    if (strlen(folder) + 32 > sizeof c->folder || strlen(programs) + 32 > sizeof c->dunlind)
        return dn_fail(err, DN_INVALID, "the path '%s' or '%s' is too long", folder, programs);
    snprintf(c->folder, sizeof c->folder, "%s", folder);
    snprintf(c->dunlind, sizeof c->dunlind, "%s/dunlind", programs);
    snprintf(c->dunlin, sizeof c->dunlin, "%s/dunlin", programs);
    if (access(c->dunlind, X_OK) != 0 || access(c->dunlin, X_OK) != 0)
        return dn_fail(err, DN_NOT_FOUND, "no dunlind and dunlin in '%s': build them, or name their folder",
                       programs);
    return DN_OK;
}

static void name_nodes(struct chaos_cluster *c)
{
    for (unsigned i = 1; i <= c->count; i++) {
        struct cluster_node *n = &c->nodes[i];
        n->number = i;
        n->joins = i > c->o.nodes;
        n->image_fd = n->device_fd = n->pidfd = -1;
        snprintf(n->name, sizeof n->name, "n%u", i);
        snprintf(n->config, sizeof n->config, "%s/node-%u.yaml", c->folder, i);
        snprintf(n->data, sizeof n->data, "%s/node-%u", c->folder, i);
        snprintf(n->log, sizeof n->log, "%s/node-%u.log", c->folder, i);
        snprintf(n->clock, sizeof n->clock, "%s/node-%u.clock", c->folder, i);
    }
}

static enum dn_code make(struct chaos_cluster *c, struct dn_error *err)
{
    enum dn_code code = set_paths(c, err);

    if (code != DN_OK)
        return code;
    name_nodes(c);
    code = make_net(c, err);
    if (code == DN_OK)
        code = cluster_broker_make(c, err);
    if (code != DN_OK)
        return code;
    make_disks(c);
    code = cluster_keys(c, err);
    for (unsigned i = 1; code == DN_OK && i <= c->count; i++)
        code = cluster_config_write(c, &c->nodes[i], err);
    return code == DN_OK ? cluster_keeper_start(c, err) : code;
}

enum dn_code chaos_cluster_create(const struct chaos_cluster_options *options, struct chaos_cluster **ret,
                                  struct dn_error *err)
{
    struct chaos_cluster *c = calloc(1, sizeof *c);

    if (c == NULL)
        return dn_fail(err, DN_NO_MEMORY, "the cluster under test");
    c->o = *options;
    c->count = options->nodes + options->spares;
    c->begun_us = dn_monotonic_us();
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->log_lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    if (options->environment != NULL)
        c->environment = strdup(options->environment);
    enum dn_code code =
        options->nodes < 1 || c->count > CHAOS_NODES_MAX
            ? dn_fail(err, DN_INVALID, "%u nodes and %u spares: 1 to %d together can be tested",
                      options->nodes, options->spares, CHAOS_NODES_MAX)
            : make(c, err);
    if (code != DN_OK) {
        chaos_cluster_destroy(c);
        return code;
    }
    *ret = c;
    return DN_OK;
}

void chaos_cluster_destroy(struct chaos_cluster *c)
{
    if (c == NULL)
        return;
    cluster_keeper_stop(c);
    net_switch_destroy(c->sw);
    proxy_destroy(c->proxy);
    for (unsigned i = 1; i <= c->count && i <= CHAOS_NODES_MAX; i++)
        if (c->nodes[i].number != 0)
            cluster_disk_destroy(&c->nodes[i]);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->log_lock);
    pthread_mutex_destroy(&c->lock);
    free(c->environment);
    free(c);
}

enum dn_code chaos_cluster_start(struct chaos_cluster *c, unsigned timeout_ms, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    for (unsigned i = 1; code == DN_OK && i <= c->o.nodes; i++)
        code = cluster_node_start(c, i, err);
    if (code == DN_OK)
        code = cluster_wait_ready(c, timeout_ms, err);
    for (unsigned i = 1; code == DN_OK && i <= c->o.nodes; i++)
        if (!chaos_cluster_is_running(c, i))
            code = dn_fail(err, DN_INTERNAL, "node %u ended while it started: see '%s'", i, c->nodes[i].log);
    return code;
}

enum dn_code chaos_cluster_start_broker(struct chaos_cluster *c, unsigned timeout_ms, struct dn_error *err)
{
    uint64_t end_us = dn_monotonic_us() + (uint64_t)timeout_ms * 1000;
    enum dn_code code = cluster_node_start(c, CLUSTER_BROKER, err);

    while (code == DN_OK && !cluster_broker_ready(c) && dn_monotonic_us() < end_us)
        poll(NULL, 0, BROKER_LOOK_MS);
    if (code == DN_OK && (!cluster_broker_ready(c) || !cluster_has_broker(c)))
        code = dn_fail(err, DN_UNAVAILABLE, "the broker does not serve within %u s: see '%s'",
                       timeout_ms / 1000, c->nodes[CLUSTER_BROKER].log);
    return code == DN_OK ? chaos_topic_create(&c->topic, timeout_ms, err) : code;
}

struct chaos_topic *chaos_cluster_topic(struct chaos_cluster *c)
{
    return c->o.broker_script == NULL ? NULL : &c->topic;
}

void chaos_cluster_stop(struct chaos_cluster *c)
{
    for (unsigned i = 1; i <= c->count; i++)
        cluster_node_stop(c, i);
}

/* ---- what others want to know
 * ---------------------------------------------------------------------------------- */

unsigned chaos_cluster_count(const struct chaos_cluster *c)
{
    return c->count;
}

const char *chaos_cluster_api(const struct chaos_cluster *c, unsigned node)
{
    DN_ASSERT(node >= 1 && node <= c->count);
    return c->nodes[node].api;
}

bool chaos_cluster_is_running(const struct chaos_cluster *cluster, unsigned node)
{
    struct chaos_cluster *c = (struct chaos_cluster *)cluster; /* only its lock changes */

    DN_ASSERT(node >= 1 && node <= c->count);
    pthread_mutex_lock(&c->lock);
    bool running = c->nodes[node].pid != 0;
    pthread_mutex_unlock(&c->lock);
    return running;
}

enum chaos_net chaos_cluster_net(const struct chaos_cluster *c)
{
    return c->net;
}

void chaos_cluster_describe(const struct chaos_cluster *c, char *ret_text, size_t size)
{
    bool spaces = c->net == CHAOS_NET_NAMESPACES, disks = c->why_no_disks[0] == 0;

    snprintf(ret_text, size, "network: %s%s%s%s; data: %s%s%s%s", spaces ? "namespaces" : "proxy on loopback",
             spaces ? "" : " (", spaces ? "" : c->why_no_spaces, spaces ? "" : ")",
             disks ? "a disk of its own for each node" : "plain folders", disks ? "" : " (", c->why_no_disks,
             disks ? "" : ")");
}

unsigned chaos_cluster_crashes(struct chaos_cluster *c, struct chaos_crash *ret, unsigned max)
{
    cluster_logs_judge(c);
    pthread_mutex_lock(&c->lock);
    unsigned count = c->crash_count;
    memcpy(ret, c->crashes, (count < max ? count : max) * sizeof *ret);
    pthread_mutex_unlock(&c->lock);
    return count;
}
