/* Client: a small blocking gRPC client (HTTP/2 over cleartext TCP, nghttp2) for dunlin's own programs: the
 * command-line client, the replayer, the chaos harness, tests. One connection; not shared between threads.
 *
 * Calls are unary. Several may be in flight: dn_client_send() queues, dn_client_poll() moves bytes and runs
 * completions. dn_client_call() is send and wait. */
#ifndef DN_CLIENT_CLIENT_H
#define DN_CLIENT_CLIENT_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct dn_client;

/* Connects to "host:port" within timeout_ms. */
enum dn_code dn_client_connect(const char *address, unsigned timeout_ms, struct dn_client **ret,
                               struct dn_error *err);
void dn_client_close(struct dn_client *client); /* pending calls complete with DN_CANCELLED; NULL allowed */

struct dn_reply {
    int grpc_status;      /* 0..16; -1: the connection failed before a status came */
    const char *message;  /* grpc-message, decoded; "" when none */
    const uint8_t *bytes; /* the response message; valid during the callback */
    size_t length;
};
typedef void (*dn_client_callback)(void *data, const struct dn_reply *reply);

/* path: "/dunlin.v1.Events/Publish". The message bytes are copied. The deadline also goes to the server. The
 * callback runs inside dn_client_poll (or close), once. */
enum dn_code dn_client_send(struct dn_client *client, const char *path, const uint8_t *message, size_t length,
                            unsigned deadline_ms, dn_client_callback callback, void *data,
                            struct dn_error *err);
/* Waits up to timeout_ms for input and handles what is there. DN_UNAVAILABLE: the connection is gone (all
 * pending calls have completed). */
enum dn_code dn_client_poll(struct dn_client *client, int timeout_ms, struct dn_error *err);
size_t dn_client_pending(const struct dn_client *client);

/* One call and its answer. *ret_bytes is malloc'ed, the caller frees it. A gRPC status other than OK comes
 * back as the matching dn_code with the server's message. */
enum dn_code dn_client_call(struct dn_client *client, const char *path, const uint8_t *message, size_t length,
                            unsigned deadline_ms, uint8_t **ret_bytes, size_t *ret_length,
                            struct dn_error *err);

#endif
