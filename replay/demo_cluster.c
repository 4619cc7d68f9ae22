/* The demo's three node processes. See demo.h. */
#include "replay/demo.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 200
#define STATUS_TIMEOUT_MS 300
#define STOP_TIMEOUT_US 5000000u

/* A free loopback port: bound, read and closed. Another program may take it in between; the node then says
 * so. */
static uint16_t free_port(int *ret_fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *ret_fd = fd;
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) != 0) {
        return 0;
    }
    return ntohs(address.sin_port);
}

static enum dn_code write_config(const struct demo_cluster *cluster, unsigned i, const uint16_t ports[],
                                 struct dn_error *err)
{
    const struct demo_node *node = &cluster->nodes[i];
    FILE *file = fopen(node->config, "w");
    if (file == NULL) {
        return dn_fail(err, DN_IO, "write '%s': %s", node->config, strerror(errno));
    }
    fprintf(file, "node:\n  id: %u\n  name: node-%u\n  data_dir: %s/node-%u\n", i + 1, i + 1, cluster->folder,
            i + 1);
    fprintf(file, "cluster:\n  id: dunlin-demo\n  shards: 4\n  members:\n");
    for (unsigned j = 0; j < DEMO_NODES; j++) {
        fprintf(file, "    - {id: %u, name: node-%u, address: \"127.0.0.1:%u\"}\n", j + 1, j + 1,
                ports[3 * j]);
    }
    fprintf(file, "api:\n  address: \"%s\"\n  threads: 1\n", node->api);
    fprintf(file, "admin:\n  address: \"127.0.0.1:%u\"\n", ports[3 * i + 2]);
    if (fclose(file) != 0) {
        return dn_fail(err, DN_IO, "write '%s': %s", node->config, strerror(errno));
    }
    return DN_OK;
}

enum dn_code demo_node_spawn(struct demo_cluster *cluster, unsigned i, struct dn_error *err)
{
    struct demo_node *node = &cluster->nodes[i];
    pid_t pid = fork();
    if (pid < 0) {
        return dn_fail(err, DN_IO, "fork: %s", strerror(errno));
    }
    if (pid == 0) {
        int fd = open(node->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        int null = open("/dev/null", O_RDONLY);
        if (fd >= 0 && null >= 0) {
            dup2(null, STDIN_FILENO);
            dup2(fd, STDOUT_FILENO);
            dup2(fd, STDERR_FILENO);
        }
        setpgid(0, 0); /* Ctrl-C reaches the demo, which then stops its nodes in order */
        execl(cluster->dunlind, cluster->dunlind, "--config", node->config, (char *)NULL);
        _exit(127);
    }
    node->pid = pid;
    node->killed_us = 0;
    node->status_known = false;
    return DN_OK;
}

enum dn_code demo_cluster_start(struct demo_cluster *cluster, const char *dunlind, const char *folder,
                                struct dn_error *err)
{
    uint16_t ports[3 * DEMO_NODES];
    int fds[3 * DEMO_NODES];
    enum dn_code code = DN_OK;

    memset(cluster, 0, sizeof *cluster);
    cluster->dunlind = dunlind;
    cluster->folder = folder;
    for (unsigned i = 0; i < 3 * DEMO_NODES; i++) { /* all held at once, so that they differ */
        ports[i] = free_port(&fds[i]);
        if (ports[i] == 0) {
            code = dn_fail(err, DN_IO, "no free port on 127.0.0.1: %s", strerror(errno));
        }
    }
    for (unsigned i = 0; i < 3 * DEMO_NODES; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    for (unsigned i = 0; i < DEMO_NODES && code == DN_OK; i++) {
        struct demo_node *node = &cluster->nodes[i];
        snprintf(node->api, sizeof node->api, "127.0.0.1:%u", ports[3 * i + 1]);
        snprintf(node->config, sizeof node->config, "%s/node-%u.yaml", folder, i + 1);
        snprintf(node->log, sizeof node->log, "%s/node-%u.log", folder, i + 1);
        code = write_config(cluster, i, ports, err);
    }
    for (unsigned i = 0; i < DEMO_NODES && code == DN_OK; i++) {
        code = demo_node_spawn(cluster, i, err);
    }
    return code;
}

static void forget_client(struct demo_node *node)
{
    dn_client_close(node->client);
    node->client = NULL;
    node->status_known = false;
    node->leads = 0;
}

void demo_node_kill(struct demo_cluster *cluster, unsigned i)
{
    struct demo_node *node = &cluster->nodes[i];
    if (node->pid > 0) {
        kill(node->pid, SIGKILL);
        waitpid(node->pid, NULL, 0);
        node->pid = 0;
        node->killed_us = dn_monotonic_us();
    }
    forget_client(node);
}

bool demo_node_reap(struct demo_cluster *cluster, unsigned i)
{
    struct demo_node *node = &cluster->nodes[i];
    if (node->pid > 0 && waitpid(node->pid, NULL, WNOHANG) == node->pid) {
        node->pid = 0;
        node->killed_us = dn_monotonic_us();
        forget_client(node);
        return true;
    }
    return false;
}

static void take_status(struct demo_cluster *cluster, struct demo_node *node,
                        const Dunlin__V1__StatusResponse *status)
{
    node->leads = 0;
    node->applied = 0;
    node->users = 0;
    node->age_us = 0;
    node->age_known = status->n_groups > 0;
    node->status_us = dn_monotonic_us();
    cluster->groups = 0;
    for (size_t g = 0; g < status->n_groups && g < DEMO_GROUPS_MAX; g++) {
        const Dunlin__V1__GroupStatus *group = status->groups[g];
        cluster->groups++;
        node->leads += group->is_leader ? 1 : 0;
        if (group->group != 0) {
            node->applied += group->applied_index;
            node->users += group->users;
        }
        node->age_known = node->age_known && group->age_known;
        if (group->age_us > node->age_us) {
            node->age_us = group->age_us;
        }
        if (group->group < DEMO_GROUPS_MAX) {
            cluster->leaders[group->group] = group->leader_id;
        }
    }
    node->status_known = status->ready;
}

void demo_node_refresh(struct demo_cluster *cluster, unsigned i)
{
    struct demo_node *node = &cluster->nodes[i];
    uint8_t *bytes = NULL;
    size_t length = 0;
    if (node->pid <= 0) {
        return;
    }
    if (node->client == NULL &&
        dn_client_connect(node->api, CONNECT_TIMEOUT_MS, &node->client, NULL) != DN_OK) {
        node->client = NULL;
        return;
    }
    if (dn_client_call(node->client, "/dunlin.v1.Cluster/Status", (const uint8_t *)"", 0, STATUS_TIMEOUT_MS,
                       &bytes, &length, NULL) != DN_OK) {
        forget_client(node);
        return;
    }
    Dunlin__V1__StatusResponse *status = dunlin__v1__status_response__unpack(NULL, length, bytes);
    if (status != NULL) {
        take_status(cluster, node, status);
        dunlin__v1__status_response__free_unpacked(status, NULL);
    }
    free(bytes);
}

int demo_cluster_leader(const struct demo_cluster *cluster)
{
    int best = -1;
    for (int i = 0; i < DEMO_NODES; i++) {
        if (cluster->nodes[i].pid > 0 && cluster->nodes[i].leads > 0 &&
            (best < 0 || cluster->nodes[i].leads > cluster->nodes[best].leads)) {
            best = i;
        }
    }
    return best;
}

bool demo_cluster_ready(struct demo_cluster *cluster)
{
    uint32_t led = 0;
    for (unsigned i = 0; i < DEMO_NODES; i++) {
        demo_node_refresh(cluster, i);
        if (!cluster->nodes[i].status_known) {
            return false;
        }
        led += cluster->nodes[i].leads;
    }
    return cluster->groups > 0 && led == cluster->groups;
}

unsigned demo_cluster_stop(struct demo_cluster *cluster)
{
    unsigned clean = 0;
    uint64_t until_us = dn_monotonic_us() + STOP_TIMEOUT_US;
    for (unsigned i = 0; i < DEMO_NODES; i++) {
        dn_client_close(cluster->nodes[i].client);
        cluster->nodes[i].client = NULL;
        if (cluster->nodes[i].pid > 0) {
            kill(cluster->nodes[i].pid, SIGTERM);
        }
    }
    for (unsigned i = 0; i < DEMO_NODES; i++) {
        struct demo_node *node = &cluster->nodes[i];
        int status = 0;
        while (node->pid > 0) {
            if (waitpid(node->pid, &status, WNOHANG) == node->pid) {
                node->pid = 0;
                clean += WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 1 : 0;
            } else if (dn_monotonic_us() > until_us) {
                kill(node->pid, SIGKILL);
                waitpid(node->pid, &status, 0);
                node->pid = 0;
            } else {
                usleep(10000);
            }
        }
    }
    return clean;
}
