/* The table of methods: found by hash of the path, with a row of metrics for each method. */
#include "api/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METHODS_MAX 256

static const char *const code_names[DN_GRPC_CODES] = {
    "OK",        "CANCELLED",       "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",    "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED",
};

static void method_metrics_create(struct dn_server *server, struct dn_method_metrics *metrics,
                                  const char *name)
{
    char labels[160];
    for (int code = 0; code < DN_GRPC_CODES; code++) {
        snprintf(labels, sizeof labels, "method=\"%s\",code=\"%s\"", name, code_names[code]);
        metrics->codes[code] = dn_metrics_counter(server->metrics, "dunlin_requests_total", labels,
                                                  "Calls answered, by method and gRPC code.");
    }
    snprintf(labels, sizeof labels, "method=\"%s\"", name);
    metrics->seconds = dn_metrics_histogram(server->metrics, "dunlin_request_seconds", labels,
                                            "Time from a call's headers to its answer.");
}

enum dn_code dn_methods_init(struct dn_server *server, struct dn_error *err)
{
    size_t count = server->options.method_count;
    DN_ASSERT(count <= METHODS_MAX);
    size_t size = 16;
    while (size < 4 * count)
        size *= 2;
    server->method_mask = size - 1;
    server->method_table = calloc(size, sizeof *server->method_table);
    server->method_metrics = calloc(count + 1, sizeof *server->method_metrics);
    if (!server->method_table || !server->method_metrics)
        return dn_fail(err, DN_NO_MEMORY, "the table of methods");
    for (size_t i = 0; i < count; i++) {
        const struct dn_method *method = &server->options.methods[i];
        size_t at = dn_hash64(method->path, strlen(method->path), 0) & server->method_mask;
        while (server->method_table[at])
            at = (at + 1) & server->method_mask;
        server->method_table[at] = (uint16_t)(i + 1);
        method_metrics_create(server, &server->method_metrics[i], method->name);
    }
    method_metrics_create(server, &server->method_metrics[count], "unknown");
    return DN_OK;
}

const struct dn_method *dn_methods_find(const struct dn_server *server, const uint8_t *path, size_t length)
{
    size_t at = dn_hash64(path, length, 0) & server->method_mask;
    for (; server->method_table[at]; at = (at + 1) & server->method_mask) {
        const struct dn_method *method = &server->options.methods[server->method_table[at] - 1];
        if (strlen(method->path) == length && memcmp(method->path, path, length) == 0)
            return method;
    }
    return NULL;
}
