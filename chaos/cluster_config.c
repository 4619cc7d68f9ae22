/* Where the nodes are, and what their configuration files say. */
#include "chaos/cluster_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEER_PORT 7071
#define API_PORT 7070
#define ADMIN_PORT 7072
#define BROKER_PORT 9092
#define HASH_KEY_BYTES 16
#define OUTPUT_MAX 600

/* Small, so that disks fill up, segments change and snapshots are sent within seconds. */
#define RAFT_YAML                                                                                            \
    "raft:\n  segment_bytes: 2MiB\n  min_free_bytes: 32MiB\n  snapshot_log_bytes: 128KiB\n  balance_ms: "    \
    "2000\n"

void cluster_addresses_spaces(struct chaos_cluster *c, const char *prefix)
{
    for (unsigned i = 1; i <= c->count; i++) {
        struct cluster_node *n = &c->nodes[i];
        snprintf(n->peer, sizeof n->peer, "%s.%u:%d", prefix, i, PEER_PORT);
        snprintf(n->bind, sizeof n->bind, "%s.%u:%d", prefix, i, PEER_PORT);
        snprintf(n->api, sizeof n->api, "%s.%u:%d", prefix, i, API_PORT);
        snprintf(n->admin, sizeof n->admin, "%s.%u:%d", prefix, i, ADMIN_PORT);
    }
    snprintf(c->topic.brokers, sizeof c->topic.brokers, "%s.%d:%d", prefix, NET_BROKER_NUMBER, BROKER_PORT);
}

#define PORTS_OF_NODE 3

/* Free ports of the node's own loopback address: outgoing connections leave from 127.0.0.1 and never take
 * them while the node is down. All are held at once, so that they differ. */
static enum dn_code free_ports(const char *host, uint16_t ports[PORTS_OF_NODE], struct dn_error *err)
{
    int fds[PORTS_OF_NODE], made = 0;
    enum dn_code code = DN_OK;

    for (; code == DN_OK && made < PORTS_OF_NODE; made++) {
        struct sockaddr_in at = {.sin_family = AF_INET};
        socklen_t size = sizeof at;
        inet_pton(AF_INET, host, &at.sin_addr);
        fds[made] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fds[made] < 0 || bind(fds[made], (struct sockaddr *)&at, size) != 0 ||
            getsockname(fds[made], (struct sockaddr *)&at, &size) != 0)
            code = dn_fail(err, DN_UNAVAILABLE, "a free port of %s: %s", host, strerror(errno));
        ports[made] = ntohs(at.sin_port);
    }
    while (made-- > 0)
        if (fds[made] >= 0)
            close(fds[made]);
    return code;
}

enum dn_code cluster_addresses_loopback(struct chaos_cluster *c, struct dn_error *err)
{
    uint8_t place[2];
    enum dn_code code = DN_OK;

    if (getrandom(place, sizeof place, 0) != sizeof place)
        return dn_fail(err, DN_INTERNAL, "getrandom: %s", strerror(errno));
    for (unsigned i = 1; code == DN_OK && i <= c->count; i++) {
        struct cluster_node *n = &c->nodes[i];
        uint16_t ports[PORTS_OF_NODE];
        char host[32];
        snprintf(host, sizeof host, "127.%u.%u.%u", 1 + place[0] % 250u, place[1], i);
        code = free_ports(host, ports, err);
        if (code == DN_OK) { /* the proxy takes n->peer */
            snprintf(n->bind, sizeof n->bind, "%s:%u", host, ports[0]);
            snprintf(n->api, sizeof n->api, "%s:%u", host, ports[1]);
            snprintf(n->admin, sizeof n->admin, "%s:%u", host, ports[2]);
        }
    }
    if (code == DN_OK) {
        uint16_t ports[PORTS_OF_NODE];
        char host[32];
        snprintf(host, sizeof host, "127.%u.%u.%u", 1 + place[0] % 250u, place[1], NET_BROKER_NUMBER);
        code = free_ports(host, ports, err);
        if (code == DN_OK)
            snprintf(c->topic.brokers, sizeof c->topic.brokers, "%s:%u", host, ports[0]);
    }
    return code;
}

/* ---- the broker -------------------------------------------------------------------------------------------
 */

enum dn_code cluster_broker_make(struct chaos_cluster *c, struct dn_error *err)
{
    struct cluster_node *n = &c->nodes[CLUSTER_BROKER];
    char output[OUTPUT_MAX];
    int status = 0;

    n->image_fd = n->device_fd = n->pidfd = -1;
    if (c->o.broker_script == NULL)
        return DN_OK;
    const char *const setup[] = {c->o.broker_script, "setup", NULL};
    enum dn_code code = cluster_command(setup, output, sizeof output, &status, err);
    if (code != DN_OK)
        return dn_wrap(err, code, "a Kafka broker: name scripts/kafka.sh with --kafka");
    if (status != 0)
        return dn_fail(err, DN_UNAVAILABLE, "no Kafka broker: '%s setup' ended with code %d: %.300s",
                       setup[0], status, output);
    if (strlen(setup[0]) >= sizeof c->broker_script)
        return dn_fail(err, DN_INVALID, "the path '%.100s...' is too long", setup[0]);
    snprintf(c->broker_script, sizeof c->broker_script, "%s", setup[0]);
    snprintf(n->name, sizeof n->name, "broker");
    snprintf(n->data, sizeof n->data, "%s/broker", c->folder);
    snprintf(n->log, sizeof n->log, "%s/broker.log", c->folder);
    c->topic.name = CHAOS_TOPIC;
    c->topic.step = c->o.partitions_step;
    c->topic.most = c->o.partitions_max;
    atomic_init(&c->topic.partitions, c->o.partitions);
    return DN_OK;
}

/* ---- keys -----------------------------------------------------------------------------------------------
 */

static enum dn_code write_key(const char *path, const char *text, struct dn_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t length = strlen(text);
    bool written = fd >= 0 && write(fd, text, length) == (ssize_t)length;

    if (fd >= 0)
        close(fd);
    return written ? DN_OK : dn_fail(err, DN_IO, "write '%s': %s", path, strerror(errno));
}

static enum dn_code run_key_create(struct chaos_cluster *c, struct dn_error *err)
{
    const char *const arguments[] = {c->dunlin, "key", "create", c->key, NULL};
    char output[256];
    int status;
    enum dn_code code = cluster_command(arguments, output, sizeof output, &status, err);

    if (code == DN_OK && status != 0)
        code = dn_fail(err, DN_INTERNAL, "'%s key create %s' ended with code %d: %s", c->dunlin, c->key,
                       status, output);
    return code;
}

enum dn_code cluster_keys(struct chaos_cluster *c, struct dn_error *err)
{
    uint8_t bytes[HASH_KEY_BYTES];
    char text[2 * HASH_KEY_BYTES + 2] = {0};

    snprintf(c->key, sizeof c->key, "%s/peers.key", c->folder);
    snprintf(c->hash_key, sizeof c->hash_key, "%s/hash.key", c->folder);
    if (access(c->key, F_OK) == 0)
        return dn_fail(err, DN_EXISTS, "'%s' holds the data of an earlier cluster: name another folder",
                       c->folder);
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
        return dn_fail(err, DN_INTERNAL, "getrandom: %s", strerror(errno));
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    text[sizeof text - 2] = '\n';
    enum dn_code code = write_key(c->hash_key, text, err);
    return code == DN_OK ? run_key_create(c, err) : code;
}

/* ---- files ----------------------------------------------------------------------------------------------
 */

/* The text, with the broker's address where its mark stands. */
static void write_yaml(const struct chaos_cluster *c, FILE *out)
{
    const char *text = c->o.yaml, *mark;

    while ((mark = strstr(text, CLUSTER_BROKERS)) != NULL) {
        fprintf(out, "%.*s%s", (int)(mark - text), text, c->topic.brokers);
        text = mark + strlen(CLUSTER_BROKERS);
    }
    fputs(text, out);
}

enum dn_code cluster_config_write(struct chaos_cluster *c, const struct cluster_node *node,
                                  struct dn_error *err)
{
    FILE *out = fopen(node->config, "we");

    if (out == NULL)
        return dn_fail(err, DN_IO, "write '%s': %s", node->config, strerror(errno));
    fprintf(out, "node:\n  id: %u\n  name: %s\n  data_dir: \"%s\"\n", node->number, node->name, node->data);
    if (node->joins)
        fprintf(out, "  address: \"%s\"\n", node->peer);
    fprintf(out, "cluster:\n  id: chaos\n  shards: %u\n  members:\n", c->o.shards);
    for (unsigned i = 1; i <= c->o.nodes; i++)
        fprintf(out, "    - {id: %u, name: %s, address: \"%s\"}\n", i, c->nodes[i].name, c->nodes[i].peer);
    fprintf(out, "peers:\n  bind: \"%s\"\n  key_file: \"%s\"\n", node->bind, c->key);
    fprintf(out, "api:\n  address: \"%s\"\n  allow_plaintext: true\n", node->api);
    fprintf(out, "admin:\n  address: \"%s\"\nsecrets:\n  hash_key_file: \"%s\"\n", node->admin, c->hash_key);
    fputs(RAFT_YAML, out);
    if (c->o.yaml != NULL)
        write_yaml(c, out);
    bool bad = ferror(out) != 0;
    if (fclose(out) != 0 || bad)
        return dn_fail(err, DN_IO, "write '%s': %s", node->config, strerror(errno));
    return DN_OK;
}
