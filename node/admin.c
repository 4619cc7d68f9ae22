/* The admin port: /metrics, /livez, /readyz over HTTP/1.1 by libmicrohttpd, on a thread of its own.
 *
 * One internal thread serves every connection, so the one epoch reader belongs to it. Only GET and HEAD; no
 * request body is read; connections and idle time are limited. */
#include "node/node.h"

#include "base/log.h"
#include "base/text.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES_MAX = 16 << 20, CONNECTION_BYTES = 32 << 10, REASON_MAX = DN_API_REASON_MAX };

struct dn_admin {
    struct dn_node *node;
    struct MHD_Daemon *daemon;
    struct dn_epoch_reader *reader;
    uint16_t port;
};

static const char INDEX[] = "dunlind\n"
                            "  /metrics  Prometheus text\n"
                            "  /livez    200 while the loops turn\n"
                            "  /readyz   200 when the node should get traffic; the reason otherwise\n";

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
                              const void *bytes, size_t length)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(length, (void *)(uintptr_t)bytes, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result;

    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
    return answer(connection, status, "text/plain; charset=utf-8", text, strlen(text));
}

static enum MHD_Result answer_check(struct MHD_Connection *connection, bool good, const char *reason)
{
    char text[REASON_MAX + 2];

    snprintf(text, sizeof(text), "%s\n", good ? "ok" : reason);
    return answer_text(connection, good ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, text);
}

static enum MHD_Result answer_metrics(struct dn_admin *admin, struct MHD_Connection *connection)
{
    struct dn_buffer page;
    enum MHD_Result result;

    dn_gauges_update(admin->node, admin->reader);
    dn_buffer_init(&page, PAGE_BYTES_MAX);
    dn_metrics_render(admin->node->metrics, &page);
    dn_streams_render(admin->node, admin->reader, &page);
    if (page.failed)
        result = answer_text(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "the page is too large\n");
    else
        result = answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", page.bytes,
                        page.length);
    dn_buffer_free(&page);
    return result;
}

static enum MHD_Result on_request(void *data, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **request_data)
{
    static int started;
    struct dn_admin *admin = data;
    char reason[REASON_MAX];

    (void)version;
    (void)upload;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n");
    if (!*request_data) { /* the first call has the headers only; an answer now would close the connection */
        *request_data = &started;
        return MHD_YES;
    }
    *upload_size = 0;
    if (strcmp(url, "/metrics") == 0)
        return answer_metrics(admin, connection);
    if (strcmp(url, "/livez") == 0)
        return answer_check(connection, dn_node_alive(admin->node, reason, sizeof(reason)), reason);
    if (strcmp(url, "/readyz") == 0)
        return answer_check(connection, dn_node_ready(admin->node, reason, sizeof(reason)), reason);
    if (strcmp(url, "/") == 0)
        return answer_text(connection, MHD_HTTP_OK, INDEX);
    return answer_text(connection, MHD_HTTP_NOT_FOUND, "no such page: / lists them\n");
}

static enum dn_code resolve(const char *address, struct addrinfo **ret, struct dn_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    char host[256], service[8];
    uint16_t port = 0;

    if (!dn_parse_address(address, host, &port))
        return dn_fail(err, DN_INVALID, "admin.address '%s' is no host:port", address);
    snprintf(service, sizeof(service), "%u", port);
    int rv = getaddrinfo(host, service, &hints, ret);
    return rv == 0 ? DN_OK : dn_fail(err, DN_UNAVAILABLE, "admin.address %s: %s", address, gai_strerror(rv));
}

enum dn_code dn_admin_start(struct dn_node *node, struct dn_admin **ret, struct dn_error *err)
{
    const struct dn_config *config = node->config;
    struct addrinfo *found = NULL;
    struct dn_admin *admin = calloc(1, sizeof(*admin));
    enum dn_code code;

    if (!admin)
        return dn_fail(err, DN_NO_MEMORY, "start the admin port");
    admin->node = node;
    code = resolve(config->admin.address, &found, err);
    if (code != DN_OK)
        goto free_admin;
    admin->reader = dn_epoch_register(node->epoch);
    if (!admin->reader) {
        code = dn_fail(err, DN_EXHAUSTED, "start the admin port: too many reader threads");
        goto free_found;
    }
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_USE_ITC |
                     (found->ai_family == AF_INET6 ? (unsigned)MHD_USE_IPv6 : 0);
    errno = 0;
    admin->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, on_request, admin, MHD_OPTION_SOCK_ADDR, found->ai_addr,
                         MHD_OPTION_CONNECTION_LIMIT, (unsigned)config->admin.connections,
                         MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)config->admin.timeout_s,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_END);
    if (!admin->daemon) {
        code = dn_fail(err, DN_UNAVAILABLE, "admin.address %s: cannot listen: %s", config->admin.address,
                       errno ? strerror(errno) : "refused");
        goto unregister;
    }
    admin->port = MHD_get_daemon_info(admin->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
    freeaddrinfo(found);
    *ret = admin;
    return DN_OK;
unregister:
    dn_epoch_unregister(admin->reader);
free_found:
    freeaddrinfo(found);
free_admin:
    free(admin);
    return code;
}

void dn_admin_stop(struct dn_admin *admin)
{
    if (!admin)
        return;
    MHD_stop_daemon(admin->daemon);
    dn_epoch_unregister(admin->reader);
    free(admin);
}

uint16_t dn_admin_port(const struct dn_admin *admin)
{
    return admin->port;
}
