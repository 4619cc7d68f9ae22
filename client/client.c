/* One HTTP/2 connection with many unary gRPC calls on it.
 *
 * Invariants:
 *  1. A call is on exactly one list: `running` (its callback is owed, its stream's user data points to it) or
 *     `finished` (its callback is owed, no stream points to it). `pending` counts both.
 *  2. nghttp2 callbacks never run a user's callback: they move calls to `finished`, and deliver() runs the
 *     callbacks when no nghttp2 function is on the stack. So a callback may send.
 *  3. A call leaves `running` only through finish(), which takes the pointer out of the stream first: nothing
 *     that arrives later for that stream can touch the call.
 *  4. Once `broken` is set the socket is not used any more and `running` is empty.
 *
 * States: open -> draining (GOAWAY came: no new calls; running ones up to the last stream id go on)
 *         open, draining -> broken (break_connection(): error, end of stream, or drained to the last call).
 */
#include "client/client.h"

#include "base/buffer.h"
#include "base/clock.h"
#include "client/internal.h"

#include <errno.h>
#include <limits.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define PREFIX_BYTES 5u                       /* gRPC: compressed flag, 32-bit length */
#define READ_CHUNK_BYTES (64u << 10)          /* one recv() */
#define READS_PER_POLL_MAX 32                 /* then callbacks get their turn */
#define OUT_TARGET_BYTES (64u << 10)          /* frames are gathered up to this before a send() */
#define OUT_MAX_BYTES (OUT_TARGET_BYTES * 2u) /* a frame is at most 16 KiB + 9 */
#define STREAM_WINDOW_BYTES (4 << 20)
#define CONNECTION_WINDOW_BYTES (16 << 20)
#define ADDRESS_MAX 300

enum { STATUS_CANCELLED = 1, STATUS_DEADLINE = 4, STATUS_EXHAUSTED = 8, STATUS_INTERNAL = 13 };
enum { STATUS_UNAVAILABLE = 14, STATUS_NONE = -1 };

struct call {
    struct call *previous, *next;
    int32_t stream_id;
    uint64_t deadline_us; /* UINT64_MAX: none */
    dn_client_callback callback;
    void *data;
    uint8_t *request; /* prefix and message */
    size_t request_length, request_offset;
    struct dn_buffer response; /* prefix and message, as far as they came */
    int http_status;
    bool grpc_content; /* content-type is application/grpc... */
    int status;        /* from grpc-status, or the outcome; STATUS_NONE: none yet */
    int pushback_ms;   /* -1: none came */
    char *message;     /* malloc'ed or NULL */
};

struct call_list {
    struct call *head, *tail;
};

struct dn_client {
    int fd;
    nghttp2_session *session;
    struct dn_buffer out; /* serialised frames; out_sent of them are sent */
    size_t out_sent;
    struct call_list running, finished;
    size_t pending;
    uint64_t next_deadline_us; /* no running call ends before it */
    int pushback_ms;           /* of the last dn_client_call */
    bool draining, broken, in_callback;
    struct dn_error why; /* when draining or broken */
    char address[ADDRESS_MAX];
};

/* ---- lists and the end of a call --------------------------------------------------------------------- */

static void list_add(struct call_list *list, struct call *call)
{
    call->previous = list->tail;
    call->next = NULL;
    if (list->tail != NULL)
        list->tail->next = call;
    else
        list->head = call;
    list->tail = call;
}

static void list_remove(struct call_list *list, struct call *call)
{
    if (call == list->head)
        list->head = call->next;
    else
        call->previous->next = call->next;
    if (call->next != NULL)
        call->next->previous = call->previous;
    else
        list->tail = call->previous;
}

static void call_free(struct call *call)
{
    dn_buffer_free(&call->response);
    free(call->request);
    free(call->message);
    free(call);
}

/* running -> finished, with the status and message the call already holds. */
static void finish(struct dn_client *client, struct call *call)
{
    /* Fails when the stream is gone already: then nothing points to the call either. */
    (void)nghttp2_session_set_stream_user_data(client->session, call->stream_id, NULL);
    list_remove(&client->running, call);
    list_add(&client->finished, call);
}

/* running -> finished with a status made here instead of one from the server. */
__attribute__((format(printf, 4, 5))) static void finish_with(struct dn_client *client, struct call *call,
                                                              int status, const char *format, ...)
{
    char text[DN_ERROR_MESSAGE_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    free(call->message);
    call->message = strdup(text); /* NULL: reads as "" */
    call->status = status;
    dn_buffer_clear(&call->response);
    finish(client, call);
}

/* As finish_with, and tells the server to stop working on it. */
static void abandon(struct dn_client *client, struct call *call, int status, const char *why)
{
    (void)nghttp2_submit_rst_stream(client->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
    finish_with(client, call, status, "%s", why);
}

static enum dn_code break_connection(struct dn_client *client, const char *why)
{
    if (!client->broken) {
        client->broken = true;
        dn_fail(&client->why, DN_UNAVAILABLE, "connection to %s: %s", client->address, why);
    }
    while (client->running.head != NULL)
        finish_with(client, client->running.head, STATUS_NONE, "%s", client->why.message);
    return DN_UNAVAILABLE;
}

/* Runs the callbacks that are due, those of calls that callbacks send included. */
static void deliver(struct dn_client *client)
{
    struct call *call;

    while ((call = client->finished.head) != NULL) {
        struct dn_reply reply = {.grpc_status = call->status,
                                 .message = call->message != NULL ? call->message : "",
                                 .bytes = (const uint8_t *)"",
                                 .pushback_ms = call->status > 0 ? call->pushback_ms : -1};

        if (call->status == 0) {
            reply.bytes = call->response.bytes + PREFIX_BYTES;
            reply.length = call->response.length - PREFIX_BYTES;
        }
        list_remove(&client->finished, call);
        client->pending--;
        client->in_callback = true;
        call->callback(call->data, &reply);
        client->in_callback = false;
        call_free(call);
    }
}

/* ---- nghttp2 callbacks: what the server sends ---------------------------------------------------------- */

static struct call *call_of(nghttp2_session *session, int32_t stream_id)
{
    return stream_id == 0 ? NULL : nghttp2_session_get_stream_user_data(session, stream_id);
}

static bool name_is(const uint8_t *name, size_t length, const char *expected)
{
    return length == strlen(expected) && memcmp(name, expected, length) == 0;
}

static int parse_http_status(const uint8_t *value, size_t length)
{
    int status = 0;

    for (size_t i = 0; i < length && i < 3; i++)
        status = status * 10 + (value[i] >= '0' && value[i] <= '9' ? value[i] - '0' : 0);
    return status;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags, void *data)
{
    static const char content_type[] = "application/grpc";
    struct call *call = call_of(session, frame->hd.stream_id);

    (void)flags;
    (void)data;
    if (call == NULL)
        return 0;
    if (name_is(name, name_length, ":status")) {
        call->http_status = parse_http_status(value, value_length);
    } else if (name_is(name, name_length, "content-type")) {
        call->grpc_content = value_length >= sizeof content_type - 1 &&
                             memcmp(value, content_type, sizeof content_type - 1) == 0;
    } else if (name_is(name, name_length, "grpc-status")) {
        call->status = dn_client_parse_status(value, value_length);
    } else if (name_is(name, name_length, "grpc-retry-pushback-ms")) {
        call->pushback_ms = dn_client_parse_pushback(value, value_length);
    } else if (name_is(name, name_length, "grpc-message")) {
        size_t size =
            (value_length < DN_CLIENT_STATUS_MESSAGE_MAX ? value_length : DN_CLIENT_STATUS_MESSAGE_MAX) + 1;
        char *text = malloc(size);

        if (text != NULL) {
            dn_client_percent_decode(value, value_length, text, size);
            free(call->message);
            call->message = text;
        }
    }
    return 0;
}

static uint32_t message_length(const uint8_t *prefix)
{
    return (uint32_t)prefix[1] << 24 | (uint32_t)prefix[2] << 16 | (uint32_t)prefix[3] << 8 | prefix[4];
}

/* What is wrong with the response bytes so far, or NULL. */
static const char *response_fault(const struct call *call, int *ret_status)
{
    const struct dn_buffer *response = &call->response;

    *ret_status = STATUS_INTERNAL;
    if (response->failed) {
        *ret_status = STATUS_EXHAUSTED;
        return "the answer does not fit in memory or is longer than 64 MiB";
    }
    if (response->length < PREFIX_BYTES)
        return NULL;
    if (response->bytes[0] != 0)
        return "the server sent a compressed message, which was not asked for";
    if (message_length(response->bytes) > DN_CLIENT_MESSAGE_MAX) {
        *ret_status = STATUS_EXHAUSTED;
        return "the answer is longer than 64 MiB";
    }
    if (response->length - PREFIX_BYTES > message_length(response->bytes))
        return "the server sent more than one message";
    return NULL;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *bytes,
                         size_t length, void *data)
{
    struct dn_client *client = data;
    struct call *call = call_of(session, stream_id);
    const char *fault;
    int status;

    (void)flags;
    if (call == NULL || call->http_status != 200 || !call->grpc_content)
        return 0; /* an error page, or a call given up: the bytes do not matter */
    dn_buffer_append(&call->response, bytes, length);
    fault = response_fault(call, &status);
    if (fault != NULL)
        abandon(client, call, status, fault);
    return 0;
}

/* The stream is over: decides what the call ends with. */
static void conclude(struct dn_client *client, struct call *call, uint32_t http2_error)
{
    if (call->http_status != 0 && call->http_status != 200) {
        finish_with(client, call, dn_client_status_of_http(call->http_status),
                    "the server answered HTTP status %d: is this dunlin's API port?", call->http_status);
    } else if (call->status == STATUS_NONE && http2_error != NGHTTP2_NO_ERROR) {
        finish_with(client, call, dn_client_status_of_reset(http2_error), "the server reset the call (%s)",
                    nghttp2_http2_strerror(http2_error));
    } else if (call->status == STATUS_NONE) {
        finish_with(client, call, STATUS_INTERNAL, "the server ended the call without a grpc-status");
    } else if (call->status != 0) {
        dn_buffer_clear(&call->response);
        finish(client, call);
    } else if (call->response.length < PREFIX_BYTES ||
               call->response.length - PREFIX_BYTES != message_length(call->response.bytes)) {
        finish_with(client, call, STATUS_INTERNAL, "the server said OK but its message is cut short");
    } else {
        finish(client, call);
    }
}

/* GOAWAY: streams beyond the last one were not looked at; the others go on. */
static void begin_drain(struct dn_client *client, const nghttp2_goaway *goaway)
{
    client->draining = true;
    dn_fail(&client->why, DN_UNAVAILABLE, "connection to %s: the server is closing it (%s)", client->address,
            nghttp2_http2_strerror(goaway->error_code));
    for (struct call *call = client->running.head, *next; call != NULL; call = next) {
        next = call->next;
        if (call->stream_id > goaway->last_stream_id)
            finish_with(client, call, STATUS_UNAVAILABLE, "%s", client->why.message);
    }
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct dn_client *client = data;
    struct call *call;

    if (frame->hd.type == NGHTTP2_GOAWAY) {
        begin_drain(client, &frame->goaway);
        return 0;
    }
    if ((frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) ||
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
        return 0;
    call = call_of(session, frame->hd.stream_id);
    if (call == NULL)
        return 0;
    /* An answer may come before the whole request is sent: the rest is not wanted then. */
    if (call->request_offset < call->request_length)
        (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_CANCEL);
    conclude(client, call, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error, void *data)
{
    struct call *call = call_of(session, stream_id);

    if (call != NULL)
        conclude(data, call, error);
    return 0;
}

static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *data)
{
    struct dn_client *client = data;
    struct call *call = NULL;

    if (frame->hd.type == NGHTTP2_HEADERS)
        call = call_of(session, frame->hd.stream_id);
    if (call != NULL)
        finish_with(client, call, STATUS_UNAVAILABLE, "connection to %s: the call was not sent (%s)",
                    client->address, nghttp2_strerror(error));
    return 0;
}

/* ---- sending ---------------------------------------------------------------------------------------------
 */

/* The stream names the call, not `source`: a call given up is not there any more. */
static ssize_t read_request(nghttp2_session *session, int32_t stream_id, uint8_t *out, size_t size,
                            uint32_t *flags, nghttp2_data_source *source, void *data)
{
    struct call *call = call_of(session, stream_id);
    size_t count;

    (void)source;
    (void)data;
    if (call == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    count = call->request_length - call->request_offset;
    if (count > size)
        count = size;
    memcpy(out, call->request + call->request_offset, count);
    call->request_offset += count;
    if (call->request_offset == call->request_length) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        free(call->request);
        call->request = NULL;
    }
    return (ssize_t)count;
}

/* Moves frames from nghttp2 into `out`. False: the session is broken. */
static bool gather(struct dn_client *client)
{
    while (client->out.length - client->out_sent < OUT_TARGET_BYTES) {
        const uint8_t *bytes;
        ssize_t count = nghttp2_session_mem_send(client->session, &bytes);

        if (count < 0) {
            break_connection(client, nghttp2_strerror((int)count));
            return false;
        }
        if (count == 0)
            return true;
        dn_buffer_append(&client->out, bytes, (size_t)count);
        if (client->out.failed) {
            break_connection(client, "out of memory");
            return false;
        }
    }
    return true;
}

/* Sends until all is sent or the socket is full. */
static void flush(struct dn_client *client)
{
    while (!client->broken && gather(client) && client->out_sent < client->out.length) {
        ssize_t count = send(client->fd, client->out.bytes + client->out_sent,
                             client->out.length - client->out_sent, MSG_NOSIGNAL);

        if (count < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                break_connection(client, strerror(errno));
            return;
        }
        client->out_sent += (size_t)count;
        if (client->out_sent == client->out.length) {
            dn_buffer_clear(&client->out);
            client->out_sent = 0;
        } else {
            memmove(client->out.bytes, client->out.bytes + client->out_sent,
                    client->out.length - client->out_sent);
            client->out.length -= client->out_sent;
            client->out_sent = 0;
        }
    }
}

/* ---- receiving -------------------------------------------------------------------------------------------
 */

static void receive(struct dn_client *client)
{
    uint8_t chunk[READ_CHUNK_BYTES];

    for (int reads = 0; reads < READS_PER_POLL_MAX && !client->broken; reads++) {
        ssize_t count = recv(client->fd, chunk, sizeof chunk, 0);
        ssize_t used;

        if (count < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                break_connection(client, strerror(errno));
            return;
        }
        if (count == 0) {
            break_connection(client, "closed by the server");
            return;
        }
        used = nghttp2_session_mem_recv(client->session, chunk, (size_t)count);
        if (used < 0) {
            break_connection(client, used == NGHTTP2_ERR_NOMEM
                                         ? "out of memory"
                                         : "the server does not speak HTTP/2 as it should");
            return;
        }
        if ((size_t)count < sizeof chunk)
            return;
    }
}

/* Ends the calls whose deadline passed. */
static void expire(struct dn_client *client)
{
    uint64_t now_us = dn_monotonic_us();

    if (now_us < client->next_deadline_us)
        return;
    client->next_deadline_us = UINT64_MAX;
    for (struct call *call = client->running.head, *next; call != NULL; call = next) {
        next = call->next;
        if (call->deadline_us <= now_us)
            abandon(client, call, STATUS_DEADLINE, "no answer before the deadline");
        else if (call->deadline_us < client->next_deadline_us)
            client->next_deadline_us = call->deadline_us;
    }
}

/* Milliseconds to wait: timeout_ms, or less if a call's deadline comes first. Negative: no limit. */
static int wait_ms(const struct dn_client *client, int timeout_ms)
{
    uint64_t now_us = dn_monotonic_us(), left_ms;

    if (client->running.head == NULL || client->next_deadline_us == UINT64_MAX)
        return timeout_ms;
    if (client->next_deadline_us <= now_us)
        return 0;
    left_ms = (client->next_deadline_us - now_us) / 1000 + 1;
    if (timeout_ms >= 0 && left_ms >= (uint64_t)timeout_ms)
        return timeout_ms;
    return left_ms > INT_MAX ? INT_MAX : (int)left_ms;
}

/* ---- public
 * ------------------------------------------------------------------------------------------------ */

static enum dn_code create_session(struct dn_client *client, struct dn_error *err)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES},
    };
    nghttp2_session_callbacks *callbacks;
    int error;

    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_sent);
    error = nghttp2_session_client_new(&client->session, callbacks, client);
    nghttp2_session_callbacks_del(callbacks);
    if (error == 0)
        error = nghttp2_submit_settings(client->session, NGHTTP2_FLAG_NONE, settings,
                                        sizeof settings / sizeof settings[0]);
    if (error == 0)
        error = nghttp2_session_set_local_window_size(client->session, NGHTTP2_FLAG_NONE, 0,
                                                      CONNECTION_WINDOW_BYTES);
    return error == 0 ? DN_OK : dn_fail(err, DN_INTERNAL, "HTTP/2 session: %s", nghttp2_strerror(error));
}

enum dn_code dn_client_connect(const char *address, unsigned timeout_ms, struct dn_client **ret,
                               struct dn_error *err)
{
    struct dn_client *client = calloc(1, sizeof *client);
    enum dn_code code;

    if (client == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    client->fd = -1;
    client->next_deadline_us = UINT64_MAX;
    dn_buffer_init(&client->out, OUT_MAX_BYTES);
    snprintf(client->address, sizeof client->address, "%s", address);
    code = dn_client_dial(address, timeout_ms, &client->fd, err);
    if (code == DN_OK)
        code = create_session(client, err);
    if (code != DN_OK) {
        dn_client_close(client);
        return code;
    }
    *ret = client;
    return DN_OK;
}

void dn_client_close(struct dn_client *client)
{
    if (client == NULL)
        return;
    DN_ASSERT(!client->in_callback);
    /* Before the callbacks, so that what they try to send is refused. */
    client->broken = true;
    dn_fail(&client->why, DN_CANCELLED, "connection to %s: closed by this program", client->address);
    while (client->running.head != NULL)
        finish_with(client, client->running.head, STATUS_CANCELLED, "%s", client->why.message);
    deliver(client);
    DN_ASSERT(client->pending == 0);
    nghttp2_session_del(client->session);
    if (client->fd >= 0)
        close(client->fd);
    dn_buffer_free(&client->out);
    free(client);
}

static nghttp2_nv header(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                        .value = (uint8_t *)(uintptr_t)value,
                        .namelen = strlen(name),
                        .valuelen = strlen(value),
                        .flags = NGHTTP2_NV_FLAG_NONE};
}

static int32_t submit(struct dn_client *client, const char *path, unsigned deadline_ms, struct call *call)
{
    const nghttp2_data_provider provider = {.read_callback = read_request};
    nghttp2_nv headers[8];
    char timeout[16];
    size_t count = 0;

    headers[count++] = header(":method", "POST");
    headers[count++] = header(":scheme", "http");
    headers[count++] = header(":path", path);
    headers[count++] = header(":authority", client->address);
    headers[count++] = header("content-type", "application/grpc");
    headers[count++] = header("te", "trailers");
    headers[count++] = header("user-agent", "dunlin/" DUNLIN_VERSION);
    if (deadline_ms != 0) {
        /* grpc-timeout has at most 8 digits. */
        if (deadline_ms <= 99999999)
            snprintf(timeout, sizeof timeout, "%um", deadline_ms);
        else
            snprintf(timeout, sizeof timeout, "%uS", deadline_ms / 1000);
        headers[count++] = header("grpc-timeout", timeout);
    }
    return nghttp2_submit_request(client->session, NULL, headers, count, &provider, call);
}

static struct call *call_create(const uint8_t *message, size_t length)
{
    struct call *call = calloc(1, sizeof *call);

    if (call == NULL)
        return NULL;
    call->request_length = PREFIX_BYTES + length;
    call->request = malloc(call->request_length);
    if (call->request == NULL) {
        free(call);
        return NULL;
    }
    call->request[0] = 0;
    for (unsigned i = 0; i < 4; i++)
        call->request[1 + i] = (uint8_t)(length >> (24 - 8 * i));
    if (length > 0)
        memcpy(call->request + PREFIX_BYTES, message, length);
    dn_buffer_init(&call->response, PREFIX_BYTES + DN_CLIENT_MESSAGE_MAX);
    call->status = STATUS_NONE;
    call->pushback_ms = -1;
    return call;
}

enum dn_code dn_client_send(struct dn_client *client, const char *path, const uint8_t *message, size_t length,
                            unsigned deadline_ms, dn_client_callback callback, void *data,
                            struct dn_error *err)
{
    struct call *call;
    int32_t stream_id;

    if (client->broken || client->draining)
        return dn_fail(err, DN_UNAVAILABLE, "%s", client->why.message);
    if (length > DN_CLIENT_MESSAGE_MAX)
        return dn_fail(err, DN_EXHAUSTED, "the request has %zu bytes; at most 64 MiB can be sent", length);
    if (client->pending >= DN_CLIENT_PENDING_MAX)
        return dn_fail(err, DN_EXHAUSTED, "%d calls are in flight already", DN_CLIENT_PENDING_MAX);
    call = call_create(message, length);
    if (call == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    call->callback = callback;
    call->data = data;
    stream_id = submit(client, path, deadline_ms, call);
    if (stream_id < 0) {
        call_free(call);
        return dn_fail(err, DN_UNAVAILABLE, "connection to %s: %s", client->address,
                       nghttp2_strerror(stream_id));
    }
    call->stream_id = stream_id;
    call->deadline_us = deadline_ms == 0 ? UINT64_MAX : dn_monotonic_us() + (uint64_t)deadline_ms * 1000;
    if (call->deadline_us < client->next_deadline_us)
        client->next_deadline_us = call->deadline_us;
    list_add(&client->running, call);
    client->pending++;
    return DN_OK;
}

enum dn_code dn_client_poll(struct dn_client *client, int timeout_ms, struct dn_error *err)
{
    DN_ASSERT(!client->in_callback);
    flush(client);
    if (!client->broken && client->finished.head == NULL) {
        struct pollfd watched = {.fd = client->fd, .events = dn_client_events(client)};
        int count = poll(&watched, 1, wait_ms(client, timeout_ms));

        if (count < 0 && errno != EINTR)
            break_connection(client, strerror(errno));
        if (count > 0)
            receive(client);
        expire(client);
        /* Window updates, acknowledgements and resets leave before the callbacks take their time. */
        flush(client);
    }
    if (!client->broken && client->draining && client->running.head == NULL)
        break_connection(client, "closed after the server's GOAWAY");
    /* After a protocol error nghttp2 says GOAWAY itself and then wants nothing more. */
    if (!client->broken && !nghttp2_session_want_read(client->session) &&
        !nghttp2_session_want_write(client->session))
        break_connection(client, "closed after a protocol error");
    deliver(client);
    flush(client);
    if (client->broken) {
        deliver(client); /* what callbacks sent before the last flush broke */
        return dn_fail(err, DN_UNAVAILABLE, "%s", client->why.message);
    }
    return DN_OK;
}

size_t dn_client_pending(const struct dn_client *client)
{
    return client->pending;
}

int dn_client_fd(const struct dn_client *client)
{
    return client->fd;
}

short dn_client_events(const struct dn_client *client)
{
    bool writes = client->out_sent < client->out.length;

    return (short)(writes ? POLLIN | POLLOUT : POLLIN);
}

struct answer {
    bool done;
    enum dn_code code;
    char *message;
    uint8_t *bytes;
    size_t length;
    int pushback_ms;
    bool no_memory;
};

static void take_answer(void *data, const struct dn_reply *reply)
{
    struct answer *answer = data;

    answer->done = true;
    answer->code = dn_client_code(reply->grpc_status);
    answer->pushback_ms = reply->pushback_ms;
    if (answer->code != DN_OK) {
        answer->message = strdup(reply->message);
        return;
    }
    answer->bytes = malloc(reply->length + 1); /* never NULL for an empty message */
    answer->no_memory = answer->bytes == NULL;
    if (answer->bytes != NULL)
        memcpy(answer->bytes, reply->bytes, reply->length);
    answer->length = reply->length;
}

enum dn_code dn_client_call(struct dn_client *client, const char *path, const uint8_t *message, size_t length,
                            unsigned deadline_ms, uint8_t **ret_bytes, size_t *ret_length,
                            struct dn_error *err)
{
    struct answer answer = {.pushback_ms = -1};
    enum dn_code code = dn_client_send(client, path, message, length, deadline_ms, take_answer, &answer, err);

    client->pushback_ms = -1;
    if (code != DN_OK)
        return code;
    /* Ends: an answer, the deadline, or the connection's end completes the call. */
    while (!answer.done)
        (void)dn_client_poll(client, -1, NULL);
    client->pushback_ms = answer.pushback_ms;
    if (answer.no_memory)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    if (answer.code != DN_OK) {
        code = dn_fail(err, answer.code, "%s", answer.message != NULL ? answer.message : "");
        free(answer.message);
        return code;
    }
    *ret_bytes = answer.bytes;
    *ret_length = answer.length;
    return DN_OK;
}

int dn_client_pushback_ms(const struct dn_client *client)
{
    return client->pushback_ms;
}
