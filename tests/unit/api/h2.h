/* A small blocking HTTP/2 client for the tests of this room: full control over headers, bodies and bad
 * behaviour, which dunlin's own client does not give. One connection, one thread. */
#ifndef DN_TEST_API_H2_H
#define DN_TEST_API_H2_H

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define H2_WAIT_MS 20000 /* generous: only a failing test waits so long */

struct h2_answer {
    int32_t stream_id;
    int http_status;
    int grpc_status; /* -1: none came */
    char message[2048];
    char accept_encoding[64];
    int pushback_ms; /* grpc-retry-pushback-ms; -1: none came */
    uint8_t *body;   /* everything after the headers, prefixes and all */
    size_t length;
    bool headers, closed;
    uint32_t close_code;
    /* the request's body */
    const uint8_t *out;
    size_t out_length, out_offset;
    bool out_open; /* the stream stays open behind the body */
};

struct h2 {
    int fd;
    nghttp2_session *session;
    bool gone, goaway;
    bool no_window; /* do not give the server flow-control credit */
    uint32_t max_streams;
};

/* Told to come back in a while; so long. */
static inline bool h2_pushed_back(const struct h2_answer *answer)
{
    return answer->pushback_ms >= 100 && answer->pushback_ms <= 199;
}

static inline ssize_t h2_send(nghttp2_session *session, const uint8_t *bytes, size_t length, int flags,
                              void *data)
{
    (void)session, (void)flags;
    struct h2 *h2 = data;
    ssize_t sent = send(h2->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0)
        return sent;
    return errno == EAGAIN || errno == EWOULDBLOCK ? NGHTTP2_ERR_WOULDBLOCK : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static inline int h2_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                            size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                            void *data)
{
    (void)flags, (void)data, (void)name_length;
    struct h2_answer *answer = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!answer)
        return 0;
    const char *key = (const char *)name, *text = (const char *)value;
    if (strcmp(key, ":status") == 0)
        answer->http_status = atoi(text);
    else if (strcmp(key, "grpc-status") == 0)
        answer->grpc_status = atoi(text);
    else if (strcmp(key, "grpc-message") == 0)
        snprintf(answer->message, sizeof answer->message, "%.*s", (int)value_length, text);
    else if (strcmp(key, "grpc-accept-encoding") == 0)
        snprintf(answer->accept_encoding, sizeof answer->accept_encoding, "%.*s", (int)value_length, text);
    else if (strcmp(key, "grpc-retry-pushback-ms") == 0)
        answer->pushback_ms = atoi(text);
    answer->headers = true;
    return 0;
}

static inline int h2_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *bytes,
                           size_t length, void *data)
{
    (void)flags;
    struct h2 *h2 = data;
    struct h2_answer *answer = nghttp2_session_get_stream_user_data(session, stream_id);
    if (answer) {
        answer->body = realloc(answer->body, answer->length + length + 1);
        memcpy(answer->body + answer->length, bytes, length);
        answer->length += length;
    }
    if (!h2->no_window)
        nghttp2_session_consume(session, stream_id, length);
    return 0;
}

static inline int h2_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct h2 *h2 = data;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        h2->goaway = true;
    if (frame->hd.type == NGHTTP2_SETTINGS)
        h2->max_streams =
            nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    return 0;
}

static inline int h2_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t code, void *data)
{
    (void)data;
    struct h2_answer *answer = nghttp2_session_get_stream_user_data(session, stream_id);
    if (answer) {
        answer->closed = true;
        answer->close_code = code;
    }
    return 0;
}

static inline ssize_t h2_body(nghttp2_session *session, int32_t stream_id, uint8_t *buffer, size_t length,
                              uint32_t *flags, nghttp2_data_source *source, void *data)
{
    (void)session, (void)stream_id, (void)data;
    struct h2_answer *answer = source->ptr;
    size_t left = answer->out_length - answer->out_offset, part = left < length ? left : length;
    if (left == 0 && answer->out_open)
        return NGHTTP2_ERR_DEFERRED;
    if (part > 0)
        memcpy(buffer, answer->out + answer->out_offset, part);
    answer->out_offset += part;
    if (part == left && !answer->out_open)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)part;
}

static inline int h2_socket(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

static inline bool h2_open(struct h2 *h2, uint16_t port)
{
    memset(h2, 0, sizeof *h2);
    h2->fd = h2_socket(port);
    if (h2->fd < 0)
        return false;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_session_callbacks_set_send_callback(callbacks, h2_send);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, h2_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, h2_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, h2_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, h2_stream_close);
    nghttp2_session_client_new2(&h2->session, callbacks, h2, option);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, NULL, 0);
    return true;
}

static inline void h2_shut(struct h2 *h2)
{
    nghttp2_session_del(h2->session);
    close(h2->fd);
    h2->session = NULL;
    h2->fd = -1;
}

/* Moves bytes for at most wait_ms, or until one read was done. */
static inline void h2_turn(struct h2 *h2, int wait_ms)
{
    uint8_t bytes[65536];
    if (h2->gone)
        return;
    if (nghttp2_session_send(h2->session) != 0) {
        h2->gone = true;
        return;
    }
    struct pollfd poll_fd = {.fd = h2->fd, .events = POLLIN};
    if (nghttp2_session_want_write(h2->session))
        poll_fd.events |= POLLOUT;
    if (poll(&poll_fd, 1, wait_ms) <= 0)
        return;
    ssize_t got = recv(h2->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN))
        h2->gone = true;
    else if (got > 0 && nghttp2_session_mem_recv(h2->session, bytes, (size_t)got) < 0)
        h2->gone = true;
    if (!h2->gone)
        nghttp2_session_send(h2->session);
}

/* True when *flag became true in time. */
static inline bool h2_until(struct h2 *h2, const bool *flag, unsigned wait_ms)
{
    uint64_t end = dn_monotonic_us() + wait_ms * 1000ull;
    while (!*flag && !h2->gone && dn_monotonic_us() < end)
        h2_turn(h2, 20);
    return *flag;
}

struct h2_header {
    const char *name, *value;
};

static const struct h2_header h2_grpc[] = {
    {"content-type", "application/grpc"}, {"te", "trailers"}, {NULL, NULL}};

/* Starts a request; the answer's out_ fields say what is sent. headers end with a NULL name. */
static inline void h2_start(struct h2 *h2, const char *method, const char *path,
                            const struct h2_header *headers, const struct h2_header *more,
                            struct h2_answer *answer)
{
    nghttp2_nv list[2048];
    size_t count = 0;
    const struct h2_header fixed[] = {
        {":method", method}, {":scheme", "http"}, {":path", path}, {":authority", "test"}, {NULL, NULL}};
    const struct h2_header *lists[] = {fixed, headers, more};
    for (size_t i = 0; i < 3; i++)
        for (const struct h2_header *header = lists[i]; header && header->name; header++)
            list[count++] =
                (nghttp2_nv){(uint8_t *)(uintptr_t)header->name, (uint8_t *)(uintptr_t)header->value,
                             strlen(header->name), strlen(header->value), NGHTTP2_NV_FLAG_NONE};
    nghttp2_data_provider provider = {.source.ptr = answer, .read_callback = h2_body};
    answer->grpc_status = -1;
    answer->pushback_ms = -1;
    answer->stream_id = nghttp2_submit_request(h2->session, NULL, list, count, &provider, answer);
}

/* A whole gRPC call with one message. False: no end of it in time. */
static inline bool h2_call(struct h2 *h2, const char *path, const struct h2_header *more, const void *message,
                           size_t length, struct h2_answer *answer)
{
    memset(answer, 0, sizeof *answer);
    uint8_t *framed = malloc(length + 5);
    framed[0] = 0;
    framed[1] = (uint8_t)(length >> 24);
    framed[2] = (uint8_t)(length >> 16);
    framed[3] = (uint8_t)(length >> 8);
    framed[4] = (uint8_t)length;
    if (length > 0)
        memcpy(framed + 5, message, length);
    answer->out = framed;
    answer->out_length = length + 5;
    h2_start(h2, "POST", path, h2_grpc, more, answer);
    bool done = h2_until(h2, &answer->closed, H2_WAIT_MS);
    free(framed);
    answer->out = NULL;
    return done;
}

static inline void h2_free(struct h2_answer *answer)
{
    free(answer->body);
    answer->body = NULL;
    answer->length = 0;
}

#endif
