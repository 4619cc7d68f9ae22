/* A small gRPC server on nghttp2 for the client's tests: it does what the path of a call says. One thread,
 * one connection at a time. Written apart from api/ on purpose: the two must agree on the protocol, not on
 * code. */
#ifndef DN_TEST_TINY_SERVER_H
#define DN_TEST_TINY_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TINY_HELD_MAX 64

struct tiny_stream {
    int32_t id;
    char path[64];
    char timeout[16];
    uint8_t *in, *out;
    size_t in_length, out_length, out_offset;
    const char *status; /* trailer grpc-status */
    bool answered;
};

struct tiny_server {
    int listener;
    uint16_t port;
    char address[32];
    pthread_t thread;
    atomic_bool stop;
    atomic_int resets; /* RST_STREAM frames that came */
    atomic_int held_timeout_ms;
    /* of the connection */
    nghttp2_session *session;
    bool close_now;
    struct tiny_stream *held[TINY_HELD_MAX];
    unsigned held_count;
    uint32_t max_streams;
    /* When set, decides on calls whose path starts with "/dunlin". */
    void (*custom)(struct tiny_server *server, struct tiny_stream *stream, const uint8_t *message,
                   size_t length);
    void *custom_data;
    _Atomic(const char *) pushback; /* when set, a header of every answer that is trailers only */
};

static nghttp2_nv tiny_nv(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                        .value = (uint8_t *)(uintptr_t)value,
                        .namelen = strlen(name),
                        .valuelen = strlen(value),
                        .flags = NGHTTP2_NV_FLAG_NONE};
}

static ssize_t tiny_read(nghttp2_session *session, int32_t id, uint8_t *out, size_t size, uint32_t *flags,
                         nghttp2_data_source *source, void *data)
{
    struct tiny_stream *stream = source->ptr;
    size_t count = stream->out_length - stream->out_offset;

    (void)data;
    if (count > size)
        count = size;
    if (count > 0)
        memcpy(out, stream->out + stream->out_offset, count);
    stream->out_offset += count;
    if (stream->out_offset == stream->out_length) {
        nghttp2_nv trailer = tiny_nv("grpc-status", stream->status);

        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        nghttp2_submit_trailer(session, id, &trailer, 1);
    }
    return (ssize_t)count;
}

/* Answers with `length` raw bytes of body (prefix included), then trailers. */
static void tiny_answer(struct tiny_server *server, struct tiny_stream *stream, const char *status)
{
    nghttp2_nv headers[] = {tiny_nv(":status", "200"), tiny_nv("content-type", "application/grpc+proto")};
    nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = tiny_read};

    stream->answered = true;
    stream->status = status;
    nghttp2_submit_response(server->session, stream->id, headers, 2, &provider);
}

static void tiny_body(struct tiny_stream *stream, const uint8_t *message, size_t length, size_t claimed)
{
    stream->out = malloc(length + 5);
    stream->out[0] = 0;
    for (int i = 0; i < 4; i++)
        stream->out[1 + i] = (uint8_t)(claimed >> (24 - 8 * i));
    if (length > 0 && message != NULL)
        memcpy(stream->out + 5, message, length);
    else if (length > 0)
        memset(stream->out + 5, 'x', length);
    stream->out_length = length + 5;
}

static void tiny_trailers_only(struct tiny_server *server, struct tiny_stream *stream, const char *http,
                               const char *type, const char *status, const char *message)
{
    nghttp2_nv headers[5] = {tiny_nv(":status", http), tiny_nv("content-type", type)};
    size_t count = 2;

    if (status != NULL)
        headers[count++] = tiny_nv("grpc-status", status);
    if (message != NULL)
        headers[count++] = tiny_nv("grpc-message", message);
    const char *pushback = atomic_load(&server->pushback);

    if (pushback != NULL)
        headers[count++] = tiny_nv("grpc-retry-pushback-ms", pushback);
    stream->answered = true;
    nghttp2_submit_response(server->session, stream->id, headers, count, NULL);
}

static void tiny_release_held(struct tiny_server *server)
{
    while (server->held_count > 0)
        tiny_answer(server, server->held[--server->held_count], "0");
}

/* The whole request is here. */
static void tiny_handle(struct tiny_server *server, struct tiny_stream *stream)
{
    const char *path = stream->path;
    const uint8_t *message = stream->in_length >= 5 ? stream->in + 5 : NULL;
    size_t length = stream->in_length >= 5 ? stream->in_length - 5 : 0;

    if (server->custom != NULL && strncmp(path, "/dunlin", 7) == 0) {
        server->custom(server, stream, message, length);
    } else if (strcmp(path, "/t/Echo") == 0) {
        tiny_body(stream, message, length, length);
        tiny_answer(server, stream, "0");
    } else if (strcmp(path, "/t/Hold") == 0) { /* answered in reverse order, by Release */
        tiny_body(stream, message, length, length);
        server->held[server->held_count++] = stream;
    } else if (strcmp(path, "/t/Release") == 0) {
        tiny_release_held(server);
        tiny_body(stream, NULL, 0, 0);
        tiny_answer(server, stream, "0");
    } else if (strcmp(path, "/t/Status") == 0) {
        tiny_trailers_only(server, stream, "200", "application/grpc", "3",
                           "k must be 1%25 of %C3%A9t%E9%zz%1b");
    } else if (strcmp(path, "/t/LateStatus") == 0) { /* a message, then an error: the error counts */
        tiny_body(stream, message, length, length);
        tiny_answer(server, stream, "14");
    } else if (strcmp(path, "/t/Html") == 0) {
        tiny_trailers_only(server, stream, "404", "text/html", NULL, NULL);
    } else if (strcmp(path, "/t/NoStatus") == 0) {
        tiny_trailers_only(server, stream, "200", "application/grpc", NULL, NULL);
    } else if (strcmp(path, "/t/BadStatus") == 0) {
        tiny_trailers_only(server, stream, "200", "application/grpc", "99", NULL);
    } else if (strcmp(path, "/t/EmptyOk") == 0) {
        tiny_trailers_only(server, stream, "200", "application/grpc", "0", NULL);
    } else if (strcmp(path, "/t/Cut") == 0) {
        tiny_body(stream, NULL, 10, 100);
        tiny_answer(server, stream, "0");
    } else if (strcmp(path, "/t/Two") == 0) {
        tiny_body(stream, NULL, 20, 10);
        tiny_answer(server, stream, "0");
    } else if (strcmp(path, "/t/Compressed") == 0) {
        tiny_body(stream, NULL, 10, 10);
        stream->out[0] = 1;
        tiny_answer(server, stream, "0");
    } else if (strcmp(path, "/t/Huge") == 0) { /* claims 4 GiB - 1 */
        tiny_body(stream, NULL, 10, 0xffffffffu);
        tiny_answer(server, stream, "0");
    } else if (strcmp(path, "/t/Big") == 0) { /* 5 MiB: more than the stream window */
        tiny_body(stream, NULL, 5 << 20, 5 << 20);
        tiny_answer(server, stream, "0");
    } else if (strcmp(path, "/t/Never") == 0) {
        atomic_store(&server->held_timeout_ms, atoi(stream->timeout));
    } else if (strcmp(path, "/t/Refuse") == 0) {
        nghttp2_submit_rst_stream(server->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_REFUSED_STREAM);
    } else if (strcmp(path, "/t/Close") == 0) {
        server->close_now = true;
    } else if (strcmp(path, "/t/Goaway") == 0) { /* this call is the last one that is served */
        nghttp2_submit_goaway(server->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR, NULL, 0);
        tiny_body(stream, message, length, length);
        tiny_answer(server, stream, "0");
    } else {
        tiny_trailers_only(server, stream, "200", "application/grpc", "12", "no such method");
    }
}

static int tiny_on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct tiny_stream *stream = calloc(1, sizeof *stream);

    (void)data;
    stream->id = frame->hd.stream_id;
    return nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
}

static int tiny_on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                          size_t nl, const uint8_t *value, size_t vl, uint8_t flags, void *data)
{
    struct tiny_stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)flags;
    (void)data;
    if (stream != NULL && nl == 5 && memcmp(name, ":path", 5) == 0)
        snprintf(stream->path, sizeof stream->path, "%.*s", (int)vl, (const char *)value);
    if (stream != NULL && nl == 12 && memcmp(name, "grpc-timeout", 12) == 0)
        snprintf(stream->timeout, sizeof stream->timeout, "%.*s", (int)vl, (const char *)value);
    return 0;
}

static int tiny_on_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                         size_t length, void *data)
{
    struct tiny_stream *stream = nghttp2_session_get_stream_user_data(session, id);

    (void)flags;
    if (stream == NULL)
        return 0;
    stream->in = realloc(stream->in, stream->in_length + length);
    memcpy(stream->in + stream->in_length, bytes, length);
    stream->in_length += length;
    if (strcmp(stream->path, "/t/Early") == 0 && !stream->answered) /* before the request is complete */
        tiny_trailers_only(data, stream, "200", "application/grpc", "8", "too long");
    return 0;
}

static int tiny_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct tiny_server *server = data;
    struct tiny_stream *stream;

    if (frame->hd.type == NGHTTP2_RST_STREAM)
        atomic_fetch_add(&server->resets, 1);
    if ((frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) ||
        !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream != NULL && !stream->answered)
        tiny_handle(server, stream);
    return 0;
}

static int tiny_on_close(nghttp2_session *session, int32_t id, uint32_t error, void *data)
{
    struct tiny_stream *stream = nghttp2_session_get_stream_user_data(session, id);
    struct tiny_server *server = data;

    (void)error;
    for (unsigned i = 0; i < server->held_count; i++)
        if (server->held[i] == stream)
            server->held[i--] = server->held[--server->held_count];
    if (stream != NULL) {
        free(stream->in);
        free(stream->out);
        free(stream);
    }
    return 0;
}

static void tiny_session(struct tiny_server *server)
{
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, server->max_streams}};
    nghttp2_session_callbacks *callbacks;

    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, tiny_on_begin);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, tiny_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, tiny_on_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, tiny_on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, tiny_on_close);
    nghttp2_session_server_new(&server->session, callbacks, server);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(server->session, NGHTTP2_FLAG_NONE, settings, 1);
}

/* nghttp2 frees streams, not what they point to. */
static void tiny_session_end(struct tiny_server *server)
{
    for (int32_t id = 1; id < 20000; id += 2)
        if (nghttp2_session_find_stream(server->session, id) != NULL)
            tiny_on_close(server->session, id, 0, server);
    nghttp2_session_del(server->session);
    server->session = NULL;
    server->held_count = 0;
}

/* Appends what the session wants to send to *bytes when it is not NULL, else sends it. */
static bool tiny_send_all(struct tiny_server *server, int fd)
{
    const uint8_t *bytes;
    ssize_t length;

    while ((length = nghttp2_session_mem_send(server->session, &bytes)) > 0) {
        for (ssize_t sent = 0, count; sent < length; sent += count) {
            count = send(fd, bytes + sent, (size_t)(length - sent), MSG_NOSIGNAL);
            if (count <= 0)
                return false;
        }
    }
    return length == 0;
}

static void tiny_connection(struct tiny_server *server, int fd)
{
    uint8_t chunk[65536];
    const int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    server->close_now = false;
    tiny_session(server);
    while (!atomic_load(&server->stop) && !server->close_now && tiny_send_all(server, fd)) {
        struct pollfd watched = {.fd = fd, .events = POLLIN};
        ssize_t count;

        if (!nghttp2_session_want_read(server->session) && !nghttp2_session_want_write(server->session))
            break;
        if (poll(&watched, 1, 20) <= 0)
            continue;
        count = recv(fd, chunk, sizeof chunk, 0);
        if (count <= 0 || nghttp2_session_mem_recv(server->session, chunk, (size_t)count) < 0)
            break;
    }
    tiny_session_end(server);
    close(fd);
}

static void *tiny_run(void *data)
{
    struct tiny_server *server = data;

    while (!atomic_load(&server->stop)) {
        struct pollfd watched = {.fd = server->listener, .events = POLLIN};

        if (poll(&watched, 1, 20) > 0) {
            int fd = accept(server->listener, NULL, NULL);
            if (fd >= 0)
                tiny_connection(server, fd);
        }
    }
    return NULL;
}

static void tiny_listen(struct tiny_server *server)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;

    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server->listener < 0 || bind(server->listener, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(server->listener, 16) != 0 ||
        getsockname(server->listener, (struct sockaddr *)&at, &size) != 0) {
        perror("tiny server");
        abort();
    }
    server->port = ntohs(at.sin_port);
    snprintf(server->address, sizeof server->address, "127.0.0.1:%u", (unsigned)server->port);
    if (server->max_streams == 0)
        server->max_streams = 100;
}

__attribute__((unused)) static void tiny_start(struct tiny_server *server)
{
    tiny_listen(server);
    pthread_create(&server->thread, NULL, tiny_run, server);
}

__attribute__((unused)) static void tiny_stop(struct tiny_server *server)
{
    atomic_store(&server->stop, true);
    pthread_join(server->thread, NULL);
    close(server->listener);
}

#endif
