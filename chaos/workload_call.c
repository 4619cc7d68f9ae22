#include "chaos/workload_call.h"

#include "chaos/workload_class.h"
#include "chaos/workload_take.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_OK 0
#define STATUS_DEADLINE 4
#define STATUS_UNAVAILABLE 14
#define REQUEST_STACK_BYTES 2048

static void take_answer(void *data, const struct dn_reply *reply)
{
    struct workload_answer *answer = data;
    snprintf(answer->message, sizeof answer->message, "%s", reply->message);
    if (reply->grpc_status == STATUS_OK) {
        answer->bytes = malloc(reply->length + 1);
        DN_ASSERT(answer->bytes != NULL); /* a test program: nothing to go on with */
        if (reply->length > 0)
            memcpy(answer->bytes, reply->bytes, reply->length);
        answer->length = reply->length;
    }
    answer->status = reply->grpc_status;
}

static void not_sent(struct workload_answer *answer, const struct dn_error *err)
{
    answer->status = WORKLOAD_NOT_SENT;
    snprintf(answer->message, sizeof answer->message, "%.*s", (int)sizeof answer->message - 1, err->message);
}

static void link_close(struct workload_links *links, unsigned node)
{
    dn_client_close(links->clients[node]);
    links->clients[node] = NULL;
}

/* Queues the request, on a new connection when there is none or the old one ended meanwhile. False: not sent.
 */
static bool send_request(struct workload_links *links, unsigned node, const char *path, const uint8_t *bytes,
                         size_t length, unsigned deadline_ms, struct workload_answer *answer)
{
    struct dn_error err = {.code = DN_OK};
    for (int attempt = 0; attempt < 2; attempt++) {
        if (!links->clients[node] &&
            dn_client_connect(links->nodes->api[node], deadline_ms, &links->clients[node], &err) != DN_OK)
            break;
        if (dn_client_send(links->clients[node], path, bytes, length, deadline_ms, take_answer, answer,
                           &err) == DN_OK)
            return true;
        link_close(links, node);
    }
    not_sent(answer, &err);
    return false;
}

void workload_call(struct workload_links *links, unsigned node, const char *path,
                   const ProtobufCMessage *request, unsigned deadline_ms, struct workload_answer *ret)
{
    uint8_t stack[REQUEST_STACK_BYTES], *bytes = stack;
    size_t length = protobuf_c_message_get_packed_size(request);
    *ret = (struct workload_answer){.status = WORKLOAD_NOT_SENT};
    if (length > sizeof stack) {
        bytes = malloc(length);
        DN_ASSERT(bytes != NULL);
    }
    protobuf_c_message_pack(request, bytes);
    if (send_request(links, node, path, bytes, length, deadline_ms, ret)) {
        ret->status = WORKLOAD_NOT_SENT;
        while (dn_client_pending(links->clients[node]) > 0)
            (void)dn_client_poll(links->clients[node], -1, NULL);
        /* A node that does not answer, or goes, is asked next time over a new connection: the old one may
         * hang in retransmissions long after the network is whole. */
        if (ret->status == -1 || ret->status == STATUS_DEADLINE || ret->status == STATUS_UNAVAILABLE)
            link_close(links, node);
    }
    if (bytes != stack)
        free(bytes);
}

void workload_malformed(struct workload_answer *answer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(answer->message, sizeof answer->message, format, args);
    va_end(args);
    answer->malformed = true;
}

void workload_answer_free(struct workload_answer *answer)
{
    free(answer->bytes);
    answer->bytes = NULL;
}

void workload_links_close(struct workload_links *links)
{
    for (unsigned node = 0; node <= CHAOS_NODES_MAX; node++)
        link_close(links, node);
}
