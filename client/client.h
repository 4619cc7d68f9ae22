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

#define DN_CLIENT_MESSAGE_MAX (64u << 20) /* bytes of one request or response message */
#define DN_CLIENT_PENDING_MAX 100000      /* calls in flight on one connection */

struct dn_client;

/* Connects to "host:port" within timeout_ms. */
enum dn_code dn_client_connect(const char *address, unsigned timeout_ms, struct dn_client **ret,
                               struct dn_error *err);
void dn_client_close(struct dn_client *client); /* pending calls complete with DN_CANCELLED; NULL allowed */

struct dn_reply {
    int grpc_status;      /* 0..16; -1: the connection failed before a status came: done or not is unknown */
    const char *message;  /* grpc-message, decoded; "" when none */
    const uint8_t *bytes; /* the response message; valid during the callback */
    size_t length;
    int pushback_ms; /* with an error: come back after so long (grpc-retry-pushback-ms); -1: the server did
                        not say */
};
typedef void (*dn_client_callback)(void *data, const struct dn_reply *reply);

/* path: "/dunlin.v1.Events/Publish". The message bytes are copied. The deadline (0: none) also goes to the
 * server; when it passes without an answer the call ends with status 4 and the server is told to stop. The
 * callback runs inside dn_client_poll, dn_client_call or dn_client_close, once; it may call dn_client_send
 * and dn_client_pending only. On failure (DN_UNAVAILABLE: the connection is gone or going, open another;
 * DN_EXHAUSTED: too many in flight, too long a message) the callback does not run. */
enum dn_code dn_client_send(struct dn_client *client, const char *path, const uint8_t *message, size_t length,
                            unsigned deadline_ms, dn_client_callback callback, void *data,
                            struct dn_error *err);
/* Waits up to timeout_ms for input and handles what is there. DN_UNAVAILABLE: the connection is gone (all
 * pending calls have completed). */
enum dn_code dn_client_poll(struct dn_client *client, int timeout_ms, struct dn_error *err);
size_t dn_client_pending(const struct dn_client *client);

/* For a program that waits on several connections with poll(2) itself: the socket, and the events to wait for
 * (POLLIN, POLLOUT); then dn_client_poll(client, 0). */
int dn_client_fd(const struct dn_client *client);
short dn_client_events(const struct dn_client *client);

/* The code that stands for a gRPC status number (-1: DN_UNAVAILABLE). Any thread. */
enum dn_code dn_client_code(int grpc_status);

/* One call and its answer. *ret_bytes is malloc'ed, the caller frees it. A gRPC status other than OK comes
 * back as the matching dn_code with the server's message. */
enum dn_code dn_client_call(struct dn_client *client, const char *path, const uint8_t *message, size_t length,
                            unsigned deadline_ms, uint8_t **ret_bytes, size_t *ret_length,
                            struct dn_error *err);
/* dn_reply.pushback_ms of the last dn_client_call; -1 when it went well. */
int dn_client_pushback_ms(const struct dn_client *client);

#endif
