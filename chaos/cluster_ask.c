/* What the nodes say of themselves: readiness on the admin port, leaders by the API; and what their logs say
 * that they must not. */
#include "chaos/cluster_internal.h"

#include "base/clock.h"
#include "base/text.h"
#include "client/client.h"
#include "dunlin/v1/dunlin.pb-c.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ASK_MS 1000
#define LOOK_EVERY_MS 50
#define LINE_MAX_BYTES 4096

/* ---- readiness --------------------------------------------------------------------------------------------
 */

static int dial(const char *address)
{
    char host[256];
    uint16_t port;
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct timeval limit = {.tv_sec = ASK_MS / 1000};

    if (!dn_parse_address(address, host, &port) || inet_pton(AF_INET, host, &to.sin_addr) != 1)
        return -1;
    to.sin_port = htons(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* of connect(2) too */
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool say(char *why, size_t size, const char *text)
{
    if (why != NULL)
        snprintf(why, size, "%s", text);
    return false;
}

bool cluster_node_ready(const struct chaos_cluster *c, unsigned node, char *why, size_t size)
{
    static const char QUESTION[] = "GET /readyz HTTP/1.1\r\nHost: dunlin\r\nConnection: close\r\n\r\n";
    char answer[2048];
    size_t length = 0;
    int fd = dial(c->nodes[node].admin);

    if (fd < 0)
        return say(why, size, "its admin port does not answer");
    if (send(fd, QUESTION, sizeof QUESTION - 1, MSG_NOSIGNAL) == (ssize_t)sizeof QUESTION - 1)
        for (ssize_t n; length < sizeof answer - 1 &&
                        (n = recv(fd, answer + length, sizeof answer - 1 - length, 0)) > 0;)
            length += (size_t)n;
    close(fd);
    answer[length] = 0;
    if (strncmp(answer, "HTTP/1.1 200", 12) == 0)
        return true;
    const char *body = strstr(answer, "\r\n\r\n");
    return say(why, size, body == NULL ? "its admin port gives no answer" : body + 4);
}

bool cluster_has_broker(const struct chaos_cluster *c)
{
    struct chaos_cluster *own = (struct chaos_cluster *)c; /* only its lock changes */

    pthread_mutex_lock(&own->lock);
    bool there = c->nodes[CLUSTER_BROKER].pid != 0 && !c->nodes[CLUSTER_BROKER].paused;
    pthread_mutex_unlock(&own->lock);
    return there;
}

bool cluster_broker_ready(const struct chaos_cluster *c)
{
    int fd = cluster_has_broker(c) ? dial(c->topic.brokers) : -1;

    if (fd >= 0)
        close(fd);
    return fd >= 0 || !cluster_has_broker(c);
}

enum dn_code cluster_wait_ready(struct chaos_cluster *c, unsigned timeout_ms, struct dn_error *err)
{
    uint64_t end_us = dn_monotonic_us() + (uint64_t)timeout_ms * 1000;
    char why[300] = "";

    for (unsigned i = 1; i <= c->count; i++) {
        while (chaos_cluster_is_running(c, i) && !cluster_node_ready(c, i, why, sizeof why)) {
            if (dn_monotonic_us() > end_us)
                return dn_fail(err, DN_DEADLINE, "node %u is not ready within %u s: %s; see '%s'", i,
                               timeout_ms / 1000, why, c->nodes[i].log);
            poll(NULL, 0, LOOK_EVERY_MS);
        }
    }
    while (!cluster_broker_ready(c)) {
        if (dn_monotonic_us() > end_us)
            return dn_fail(err, DN_DEADLINE, "the broker takes no connection within %u s; see '%s'",
                           timeout_ms / 1000, c->nodes[CLUSTER_BROKER].log);
        poll(NULL, 0, LOOK_EVERY_MS);
    }
    return DN_OK;
}

/* ---- leaders ----------------------------------------------------------------------------------------------
 */

static bool leads(const struct chaos_cluster *c, unsigned node, unsigned group)
{
    struct dn_client *client;
    uint8_t *bytes;
    size_t length;
    struct dn_error err;
    bool found = false;

    if (dn_client_connect(c->nodes[node].api, ASK_MS, &client, &err) != DN_OK)
        return false;
    if (dn_client_call(client, "/dunlin.v1.Cluster/Status", NULL, 0, ASK_MS, &bytes, &length, &err) ==
        DN_OK) {
        Dunlin__V1__StatusResponse *status = dunlin__v1__status_response__unpack(NULL, length, bytes);
        for (size_t i = 0; status != NULL && i < status->n_groups; i++)
            found |= status->groups[i]->group == group && status->groups[i]->is_leader;
        if (status != NULL)
            dunlin__v1__status_response__free_unpacked(status, NULL);
        free(bytes);
    }
    dn_client_close(client);
    return found;
}

unsigned cluster_leader(struct chaos_cluster *c, unsigned group)
{
    for (unsigned i = 1; i <= c->count; i++)
        if (chaos_cluster_is_running(c, i) && !cluster_node_is_paused(c, i) && leads(c, i, group))
            return i;
    return 0;
}

/* ---- logs -------------------------------------------------------------------------------------------------
 */

static bool is_alarming(const char *line)
{
    static const char *const SIGNS[] = {"assertion failed", "Assertion `",     "Sanitizer",
                                        "runtime error:",   "fatal: ",         "DN_ASSERT",
                                        "double free",      "stack smashing",  "malloc():",
                                        "corrupted size",   "free(): invalid", "dunlin-chaos: "};
    for (size_t i = 0; i < sizeof SIGNS / sizeof *SIGNS; i++)
        if (strstr(line, SIGNS[i]) != NULL)
            return true;
    return false;
}

static void judge_log(struct chaos_cluster *c, struct cluster_node *node)
{
    char line[LINE_MAX_BYTES], text[400];
    FILE *in = fopen(node->log, "re");

    if (in == NULL)
        return;
    (void)fseeko(in, node->log_judged, SEEK_SET);
    while (fgets(line, sizeof line, in) != NULL) {
        size_t length = strlen(line);
        if (line[length - 1] != '\n' && length < sizeof line - 1)
            break; /* still being written */
        node->log_judged = ftello(in);
        line[strcspn(line, "\n")] = 0;
        if (is_alarming(line)) {
            snprintf(text, sizeof text, "node %u's log: %.300s", node->number, line);
            cluster_crash(c, node->number, text);
        }
    }
    fclose(in);
}

/* A node that leads says so in its log, also when nobody asks it while it does. */
static void take_leader(const char *line, uint32_t node, struct chaos_history *history)
{
    struct chaos_op op = {.type = CHAOS_INVOKE, .f = CHAOS_STATUS, .process = CHAOS_NEMESIS, .node = node};
    struct chaos_group group = {.is_leader = true, .leader = node};
    unsigned long long term;
    int used = 0;

    for (const char *at = line; (at = strstr(at, "group ")) != NULL; at++) {
        if (sscanf(at, "group %" SCNu32 ": leader of term %llu%n", &group.group, &term, &used) < 2)
            continue;
        group.term = term;
        chaos_history_append(history, &op);
        op.type = CHAOS_OK;
        op.groups = &group;
        op.groups_count = 1;
        chaos_history_append(history, &op);
        return;
    }
}

void cluster_log_leaders(FILE *log, uint32_t node, struct chaos_history *history)
{
    char line[LINE_MAX_BYTES];

    while (fgets(line, sizeof line, log) != NULL)
        take_leader(line, node, history);
}

void chaos_cluster_leaders(const struct chaos_cluster *c, struct chaos_history *history)
{
    for (unsigned i = 1; i <= c->count; i++) {
        FILE *in = fopen(c->nodes[i].log, "re");
        if (in == NULL)
            continue; /* a spare that never ran */
        cluster_log_leaders(in, i, history);
        fclose(in);
    }
}

void cluster_node_forgive(struct chaos_cluster *c, unsigned node)
{
    FILE *in = fopen(c->nodes[node].log, "re");

    if (in == NULL)
        return;
    pthread_mutex_lock(&c->log_lock);
    if (fseeko(in, 0, SEEK_END) == 0)
        c->nodes[node].log_judged = ftello(in);
    pthread_mutex_unlock(&c->log_lock);
    fclose(in);
}

bool cluster_log_has(struct chaos_cluster *c, unsigned node, const char *text)
{
    char line[LINE_MAX_BYTES];
    FILE *in = fopen(c->nodes[node].log, "re");
    bool found = false;

    if (in == NULL)
        return false;
    pthread_mutex_lock(&c->log_lock);
    (void)fseeko(in, c->nodes[node].log_judged, SEEK_SET);
    pthread_mutex_unlock(&c->log_lock);
    while (!found && fgets(line, sizeof line, in) != NULL)
        found = strstr(line, text) != NULL;
    fclose(in);
    return found;
}

void cluster_logs_judge(struct chaos_cluster *c)
{
    pthread_mutex_lock(&c->log_lock);
    for (unsigned i = 1; i <= c->count; i++)
        judge_log(c, &c->nodes[i]);
    pthread_mutex_unlock(&c->log_lock);
}
