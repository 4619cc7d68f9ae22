/* Calls: gRPC's framing over one HTTP/2 stream
 * (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
 *
 * Happy path: dn_call_new, dn_call_header..., dn_call_headers_end (method and metadata checked), dn_call_data
 * (5-byte prefix, message into the arena), dn_call_request_end (the method runs), dn_call_reply (headers,
 * data and trailers handed to nghttp2), dn_call_closed.
 *
 * Failures are answered as trailers-only. When the request has not ended by then, the connection resets the
 * stream with NO_ERROR behind the answer (RFC 9113, section 8.1), so that a client need not send the rest. */
#include "api/server.h"
#include "api/wire.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_DIGITS_MAX 8
#define TIMEOUT_MAX_US (1000000ull * 3600 * 24 * 365)
#define STREAM_MESSAGE_MIN 64
/* Time for a full queue to move on, and little beside a call's deadline. */
#define PUSHBACK_MIN_MS 100u
#define PUSHBACK_MAX_MS 199u
#define PUSHBACK_TEXT_MAX 24

#define NV(name_, value_)                                                                                    \
    {                                                                                                        \
        (uint8_t *)(uintptr_t)(name_), (uint8_t *)(uintptr_t)(value_), sizeof(name_) - 1,                    \
            sizeof(value_) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                 \
    }

static const char *const status_texts[DN_GRPC_CODES] = {"0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                                        "9", "10", "11", "12", "13", "14", "15", "16"};

/* ---- life ------------------------------------------------------------------------------------------- */

static void call_charge(struct dn_call *call)
{
    size_t used = dn_arena_used(call->arena);
    call->thread->pending_bytes += used - call->charged; /* wraps correctly when it shrank */
    call->charged = used;
}

struct dn_call *dn_call_new(struct dn_conn *conn, int32_t stream_id)
{
    struct dn_thread *thread = conn->thread;
    const struct dn_api_limits *limits = &thread->server->limits;
    struct dn_call *call = thread->pool;
    struct dn_arena *arena;
    if (thread->call_count >= 2 * (size_t)limits->pending_calls) {
        dn_counter_add(thread->server->counters.limit_pending_calls, 1);
        return NULL;
    }
    if (call) {
        thread->pool = call->conn_next;
        thread->pool_count--;
        arena = call->arena;
    } else {
        call = malloc(sizeof *call);
        arena = dn_arena_create(DN_CALL_ARENA_BLOCK_BYTES, limits->arena_bytes);
        if (!call || !arena) {
            free(call);
            dn_arena_destroy(arena);
            return NULL;
        }
    }
    memset(call, 0, sizeof *call);
    call->arena = arena;
    call->thread = thread;
    call->conn = conn;
    call->stream_id = stream_id;
    call->start_ns = dn_monotonic_ns();
    call->state = DN_CALL_RECEIVING;
    call->conn_next = conn->calls;
    if (conn->calls)
        conn->calls->conn_previous = call;
    conn->calls = call;
    thread->call_count++;
    atomic_fetch_add_explicit(&thread->open_calls, 1, memory_order_relaxed);
    dn_wheel_add(call, call->start_ns / 1000 + limits->default_deadline_ms * 1000ull);
    return call;
}

void dn_call_free(struct dn_call *call)
{
    struct dn_thread *thread = call->thread;
    DN_ASSERT(!call->conn && call->holds == 0 && !call->wheel_link && !call->list_link && !call->parked);
    thread->pending_bytes -= call->charged;
    thread->call_count--;
    if (thread->pool_count >= DN_CALL_POOL_MAX) {
        dn_arena_destroy(call->arena);
        free(call);
        return;
    }
    dn_arena_reset(call->arena);
    call->conn_next = thread->pool;
    thread->pool = call;
    thread->pool_count++;
}

void dn_call_closed(struct dn_call *call)
{
    struct dn_thread *thread = call->thread;
    struct dn_conn *conn = call->conn;
    if (call->conn_previous)
        call->conn_previous->conn_next = call->conn_next;
    else
        conn->calls = call->conn_next;
    if (call->conn_next)
        call->conn_next->conn_previous = call->conn_previous;
    call->conn_next = call->conn_previous = NULL;
    call->conn = NULL;
    call->resume = NULL;
    dn_wheel_remove(call);
    if (call->list_link) {
        *call->list_link = call->list_next;
        if (call->list_next)
            call->list_next->list_link = call->list_link;
        call->list_link = NULL;
        thread->watcher_count--;
    }
    if (call->state != DN_CALL_RESPONDING || (call->streaming && !call->stream_ended)) {
        dn_counter_add(thread->server->counters.cancelled, 1);
        if (call->metrics)
            dn_counter_add(call->metrics->codes[1], 1);
    }
    size_t before = atomic_fetch_sub_explicit(&thread->open_calls, 1, memory_order_relaxed);
    if (before == 1 && atomic_load_explicit(&thread->server->draining, memory_order_relaxed)) {
        pthread_mutex_lock(&thread->server->lock);
        pthread_cond_broadcast(&thread->server->drained);
        pthread_mutex_unlock(&thread->server->lock);
    }
    if (call->holds == 0)
        dn_call_free(call);
}

/* ---- the request ------------------------------------------------------------------------------------- */

/* grpc-timeout: 1 to 8 digits and a unit. False: malformed. */
static bool timeout_parse(const uint8_t *text, size_t length, uint64_t *ret_us)
{
    if (length < 2 || length > TIMEOUT_DIGITS_MAX + 1)
        return false;
    uint64_t value = 0;
    for (size_t i = 0; i + 1 < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    uint64_t us;
    switch (text[length - 1]) {
    case 'H':
        us = value * 3600000000ull;
        break;
    case 'M':
        us = value * 60000000ull;
        break;
    case 'S':
        us = value * 1000000ull;
        break;
    case 'm':
        us = value * 1000ull;
        break;
    case 'u':
        us = value;
        break;
    case 'n':
        us = (value + 999) / 1000;
        break;
    default:
        return false;
    }
    *ret_us = us < TIMEOUT_MAX_US ? us : TIMEOUT_MAX_US;
    return true;
}

static bool is(const uint8_t *bytes, size_t length, const char *text)
{
    return length == strlen(text) && memcmp(bytes, text, length) == 0;
}

/* The message of UNIMPLEMENTED says what was asked for, as far as it is plain and short. */
#define UNKNOWN_PATH_MAX 128

static void take_path(struct dn_call *call, const uint8_t *path, size_t length)
{
    call->method = dn_methods_find(call->thread->server, path, length);
    if (call->method == NULL) {
        call->unknown_path = dn_arena_strndup(call->arena, (const char *)path,
                                              length < UNKNOWN_PATH_MAX ? length : UNKNOWN_PATH_MAX);
    }
}

void dn_call_header(struct dn_call *call, const uint8_t *name, size_t name_length, const uint8_t *value,
                    size_t value_length)
{
    if (call->headers_done)
        return; /* trailers of a request mean nothing to us */
    uint64_t bytes = (uint64_t)call->header_bytes + name_length + value_length + 32; /* RFC 9113, 6.5.2 */
    call->header_bytes = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
    switch (name_length) {
    case 5:
        if (memcmp(name, ":path", 5) == 0)
            take_path(call, value, value_length);
        break;
    case 7:
        if (memcmp(name, ":method", 7) == 0)
            call->not_post = !is(value, value_length, "POST");
        break;
    case 12:
        if (memcmp(name, "content-type", 12) == 0)
            call->type_ok = value_length >= 16 && memcmp(value, "application/grpc", 16) == 0 &&
                            (value_length == 16 || value[16] == '+' || value[16] == ';');
        else if (memcmp(name, "grpc-timeout", 12) == 0) {
            call->timeout_given = true;
            call->timeout_bad = !timeout_parse(value, value_length, &call->timeout_us);
        }
        break;
    case 13:
        if (memcmp(name, "grpc-encoding", 13) == 0)
            call->encoding_bad = !is(value, value_length, "identity");
        break;
    default:
        break;
    }
}

static void http_error(struct dn_call *call, const char *status);
static void fail_encoding(struct dn_call *call);

void dn_call_headers_end(struct dn_call *call)
{
    struct dn_server *server = call->thread->server;
    call->headers_done = true;
    size_t number =
        call->method ? (size_t)(call->method - server->options.methods) : server->options.method_count;
    call->metrics = &server->method_metrics[number];
    if (call->header_bytes > DN_HEADER_LIST_MAX) {
        dn_counter_add(server->counters.limit_headers, 1);
        dn_call_fail(call, DN_EXHAUSTED, "the request's headers take %u bytes; at most %u are read",
                     call->header_bytes, DN_HEADER_LIST_MAX);
        return;
    }
    if (call->not_post) {
        http_error(call, "405");
        return;
    }
    if (!call->type_ok) {
        http_error(call, "415");
        return;
    }
    if (!call->method) {
        dn_call_fail(call, DN_UNIMPLEMENTED, "this server has no method '%s'",
                     call->unknown_path ? call->unknown_path : "");
        return;
    }
    if (call->encoding_bad) {
        fail_encoding(call);
        return;
    }
    uint64_t start_us = call->start_ns / 1000, given_us = server->limits.default_deadline_ms * 1000ull;
    if (call->timeout_given) {
        if (call->timeout_bad) {
            dn_call_fail(call, DN_INVALID, "grpc-timeout is not 1 to 8 digits and one of H, M, S, m, u, n");
            return;
        }
        if (call->timeout_us == 0) {
            dn_call_fail(call, DN_DEADLINE, "the deadline had passed when the call arrived");
            return;
        }
        given_us = call->timeout_us;
        uint64_t max_us = server->limits.max_deadline_ms * 1000ull;
        if (given_us > max_us && !call->method->pull)
            given_us = max_us;
        dn_wheel_remove(call);
        dn_wheel_add(call, start_us + given_us);
    }
}

static void message_begin(struct dn_call *call)
{
    struct dn_thread *thread = call->thread;
    struct dn_server *server = thread->server;
    uint32_t length = (uint32_t)call->prefix[1] << 24 | (uint32_t)call->prefix[2] << 16 |
                      (uint32_t)call->prefix[3] << 8 | (uint32_t)call->prefix[4];
    if (call->prefix[0] > 1) {
        dn_call_fail(call, DN_INTERNAL, "the message's first byte is %u; it must be 0 (not compressed)",
                     call->prefix[0]);
        return;
    }
    if (call->prefix[0] == 1) {
        dn_call_fail(call, DN_INTERNAL,
                     "the message is flagged as compressed and grpc-encoding names no compression");
        return;
    }
    if (length > server->limits.message_bytes) {
        dn_counter_add(server->counters.limit_message, 1);
        dn_call_fail(call, DN_EXHAUSTED, "the message has %u bytes; at most %u are taken: send less at once",
                     length, server->limits.message_bytes);
        return;
    }
    if (thread->pending_bytes + length > server->limits.pending_bytes) {
        dn_counter_add(server->counters.limit_pending_bytes, 1);
        call->busy = true;
        dn_call_fail(call, DN_EXHAUSTED,
                     "this node holds as many bytes of unfinished calls as it may: try again later");
        return;
    }
    call->body = dn_arena_alloc(call->arena, length);
    if (!call->body) {
        dn_call_fail(call, DN_EXHAUSTED, "the message does not fit the memory of one call");
        return;
    }
    call->body_expected = length;
    call_charge(call);
}

void dn_call_data(struct dn_call *call, const uint8_t *bytes, size_t length)
{
    if (call->state != DN_CALL_RECEIVING)
        return;
    while (length > 0) {
        if (call->prefix_length < DN_GRPC_PREFIX_BYTES) {
            size_t part = DN_GRPC_PREFIX_BYTES - (size_t)call->prefix_length;
            if (part > length)
                part = length;
            memcpy(call->prefix + call->prefix_length, bytes, part);
            call->prefix_length = (uint8_t)(call->prefix_length + part);
            bytes += part;
            length -= part;
            if (call->prefix_length < DN_GRPC_PREFIX_BYTES)
                return;
            message_begin(call);
            if (call->state != DN_CALL_RECEIVING)
                return;
            continue;
        }
        size_t part = call->body_expected - call->body_length;
        if (part == 0) {
            dn_call_fail(call, DN_UNIMPLEMENTED, "the method takes one message; the call sent more");
            return;
        }
        if (part > length)
            part = length;
        memcpy(call->body + call->body_length, bytes, part);
        call->body_length += (uint32_t)part;
        bytes += part;
        length -= part;
    }
}

void dn_call_request_end(struct dn_call *call)
{
    call->request_ended = true;
    if (call->state != DN_CALL_RECEIVING)
        return;
    if (call->prefix_length == 0) {
        dn_call_fail(call, DN_UNIMPLEMENTED, "the method takes one message; the call sent none");
        return;
    }
    if (call->prefix_length < DN_GRPC_PREFIX_BYTES || call->body_length < call->body_expected) {
        dn_call_fail(call, DN_INTERNAL, "the request ended in the middle of its message");
        return;
    }
    call->state = DN_CALL_RUNNING;
    call->holds = 1;
    if (dn_monotonic_us() >= call->deadline_us)
        dn_call_fail(call, DN_DEADLINE, "the deadline passed while the request came in");
    else if (!call->thread->server->options.admit || call->thread->server->options.admit(call))
        call->method->handle(call, call->body, call->body_length);
    call_charge(call);
    dn_call_drop_hold(call);
}

/* ---- the answer -------------------------------------------------------------------------------------- */

/* The call is answered from here on: no more deadline for the work, but one for taking the answer. */
static void answered(struct dn_call *call, int grpc_status)
{
    call->state = DN_CALL_RESPONDING;
    call->grpc_status = grpc_status;
    uint64_t now_ns = dn_monotonic_ns();
    call->conn->active_us = now_ns / 1000;
    if (call->metrics) {
        dn_counter_add(call->metrics->codes[grpc_status], 1);
        dn_histogram_observe_ns(call->metrics->seconds, now_ns - call->start_ns);
    }
}

static int submit_trailers(nghttp2_session *session, struct dn_call *call)
{
    const char *status = status_texts[call->grpc_status];
    nghttp2_nv trailers[2] = {NV("grpc-status", "0"), NV("grpc-message", "")};
    trailers[0].value = (uint8_t *)(uintptr_t)status;
    trailers[0].valuelen = strlen(status);
    if (!call->grpc_message)
        return nghttp2_submit_trailer(session, call->stream_id, trailers, 1);
    trailers[1].value = (uint8_t *)(uintptr_t)call->grpc_message;
    trailers[1].valuelen = strlen(call->grpc_message);
    trailers[1].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME;
    return nghttp2_submit_trailer(session, call->stream_id, trailers, 2);
}

static ssize_t answer_read(nghttp2_session *session, int32_t stream_id, uint8_t *buffer, size_t length,
                           uint32_t *flags, nghttp2_data_source *source, void *user_data)
{
    (void)stream_id, (void)user_data;
    struct dn_call *call = source->ptr;
    if (call->streaming && call->out_offset == call->out_length && !call->stream_ended)
        call->method->pull(call); /* may put a message, end the stream, or neither */
    size_t left = call->out_length - call->out_offset;
    size_t part = left < length ? left : length;
    if (part > 0)
        memcpy(buffer, call->out + call->out_offset, part);
    call->out_offset += part;
    if (part < left)
        return (ssize_t)part;
    if (call->streaming && !call->stream_ended)
        return part > 0 ? (ssize_t)part : NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    if (submit_trailers(session, call) != 0)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    return (ssize_t)part;
}

static const nghttp2_nv answer_headers[] = {NV(":status", "200"), NV("content-type", "application/grpc")};

static void submit(struct dn_call *call, const nghttp2_nv *headers, size_t count, bool with_data)
{
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = answer_read};
    int failed = nghttp2_submit_response(call->conn->session, call->stream_id, headers, count,
                                         with_data ? &provider : NULL);
    if (failed) /* out of memory: the client at least learns that nothing will come */
        nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id,
                                  NGHTTP2_INTERNAL_ERROR);
    dn_conn_dirty(call->conn);
}

static void prefix_write(uint8_t *out, size_t length)
{
    out[0] = 0;
    out[1] = (uint8_t)(length >> 24);
    out[2] = (uint8_t)(length >> 16);
    out[3] = (uint8_t)(length >> 8);
    out[4] = (uint8_t)length;
}

static void answer_send(struct dn_call *call, uint8_t *out, size_t length)
{
    prefix_write(out, length);
    call->out = out;
    call->out_length = length + DN_GRPC_PREFIX_BYTES;
    call_charge(call);
    answered(call, 0);
    submit(call, answer_headers, 2, true);
}

void dn_call_reply(struct dn_call *call, const ProtobufCMessage *message)
{
    if (!dn_call_open(call))
        return;
    size_t length = protobuf_c_message_get_packed_size(message);
    uint8_t *out = dn_arena_alloc(call->arena, length + DN_GRPC_PREFIX_BYTES);
    if (!out || length > UINT32_MAX) {
        dn_call_fail(call, DN_EXHAUSTED, "the answer needs more memory than one call may take: ask for less");
        return;
    }
    protobuf_c_message_pack(message, out + DN_GRPC_PREFIX_BYTES);
    answer_send(call, out, length);
}

void dn_call_reply_bytes(struct dn_call *call, const uint8_t *bytes, size_t length)
{
    if (!dn_call_open(call))
        return;
    uint8_t *out = dn_arena_alloc(call->arena, length + DN_GRPC_PREFIX_BYTES);
    if (!out) {
        dn_call_fail(call, DN_EXHAUSTED, "the answer needs more memory than one call may take: ask for less");
        return;
    }
    if (length > 0)
        memcpy(out + DN_GRPC_PREFIX_BYTES, bytes, length);
    answer_send(call, out, length);
}

/* Percent-encoding of grpc-message: space to ~ as they are, but for %. Truncated to what fits. */
static void message_encode(const char *text, char *out, size_t size)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t at = 0;
    for (const unsigned char *byte = (const unsigned char *)text; *byte && at + 4 <= size; byte++) {
        if (*byte >= 0x20 && *byte <= 0x7e && *byte != '%') {
            out[at++] = (char)*byte;
        } else {
            out[at++] = '%';
            out[at++] = hex[*byte >> 4];
            out[at++] = hex[*byte & 15];
        }
    }
    out[at] = '\0';
}

/* When to come back (gRPC's retry design, gRFC A6): stock clients wait exactly so long, so those that were
 * refused together are spread. */
static nghttp2_nv pushback_header(struct dn_call *call, char text[PUSHBACK_TEXT_MAX])
{
    nghttp2_nv header = NV("grpc-retry-pushback-ms", "");
    int length =
        snprintf(text, PUSHBACK_TEXT_MAX, "%" PRIu64,
                 PUSHBACK_MIN_MS + dn_thread_random(call->thread) % (PUSHBACK_MAX_MS - PUSHBACK_MIN_MS + 1));
    header.value = (uint8_t *)text;
    header.valuelen = (size_t)length;
    header.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME; /* the value is copied */
    return header;
}

static void fail_with(struct dn_call *call, int grpc_status, const char *message, bool name_encodings)
{
    if (!dn_call_open(call))
        return;
    char encoded[3 * DN_ERROR_MESSAGE_MAX + 1];
    message_encode(message, encoded, sizeof encoded);
    const char *status = status_texts[grpc_status];
    nghttp2_nv headers[6] = {answer_headers[0], answer_headers[1], NV("grpc-status", "0"),
                             NV("grpc-message", "")};
    size_t count = 4;
    char pushback[PUSHBACK_TEXT_MAX];
    headers[2].value = (uint8_t *)(uintptr_t)status;
    headers[2].valuelen = strlen(status);
    headers[3].value = (uint8_t *)encoded;
    headers[3].valuelen = strlen(encoded);
    headers[3].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME; /* the message is copied */
    if (name_encodings)
        headers[count++] = (nghttp2_nv)NV("grpc-accept-encoding", "identity");
    if (call->busy && grpc_status == dn_code_grpc(DN_EXHAUSTED))
        headers[count++] = pushback_header(call, pushback);
    answered(call, grpc_status);
    submit(call, headers, count, false);
}

void dn_call_fail_grpc(struct dn_call *call, int grpc_status, const char *message)
{
    DN_ASSERT(grpc_status > 0 && grpc_status < DN_GRPC_CODES);
    fail_with(call, grpc_status, message, false);
}

void dn_call_fail(struct dn_call *call, enum dn_code code, const char *format, ...)
{
    char message[DN_ERROR_MESSAGE_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    DN_ASSERT(code != DN_OK);
    fail_with(call, dn_code_grpc(code), message, false);
}

void dn_call_fail_error(struct dn_call *call, const struct dn_error *err)
{
    enum dn_code code = err->code == DN_OK ? DN_INTERNAL : err->code;
    fail_with(call, dn_code_grpc(code), err->message, false);
}

static void fail_encoding(struct dn_call *call)
{
    fail_with(call, 12, "messages must not be compressed: this server takes grpc-encoding identity only",
              true);
}

/* Not gRPC: an HTTP status and nothing else. Clients of gRPC call it UNKNOWN (2). */
static void http_error(struct dn_call *call, const char *status)
{
    nghttp2_nv headers[1] = {NV(":status", "000")};
    headers[0].value = (uint8_t *)(uintptr_t)status;
    answered(call, 2);
    submit(call, headers, 1, false);
}

void dn_call_expired(struct dn_call *call, uint64_t now_us)
{
    if (!call->conn)
        return;
    if (call->state != DN_CALL_RESPONDING) {
        bool receiving = call->state == DN_CALL_RECEIVING;
        dn_call_fail(call, DN_DEADLINE, "%s",
                     receiving ? "the deadline passed while the request came in"
                               : "the deadline passed while the call waited");
    } else if (call->streaming && !call->stream_ended) {
        dn_call_stream_end(call, DN_DEADLINE, "the deadline passed");
    }
    if (!call->grace) {
        call->grace = true;
        if (!call->wheel_link)
            dn_wheel_add(call, now_us + DN_SEND_GRACE_US);
        return;
    }
    /* The answer was given long ago and the client does not take it. */
    nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
    dn_conn_dirty(call->conn);
}

/* ---- streams ------------------------------------------------------------------------------------------ */

void dn_call_stream_begin(struct dn_call *call)
{
    DN_ASSERT(call->method->pull);
    if (!dn_call_open(call))
        return;
    call->streaming = true;
    call->state = DN_CALL_RESPONDING;
    if (!call->timeout_given)
        dn_wheel_remove(call); /* a watch lasts until one side ends it */
    submit(call, answer_headers, 2, true);
}

bool dn_call_stream_put(struct dn_call *call, const uint8_t *bytes, size_t length)
{
    DN_ASSERT(call->streaming && call->out_offset == call->out_length);
    size_t needed = length + DN_GRPC_PREFIX_BYTES;
    if (call->stream_capacity < needed) {
        size_t capacity = needed < STREAM_MESSAGE_MIN ? STREAM_MESSAGE_MIN : needed;
        uint8_t *buffer = dn_arena_alloc(call->arena, capacity);
        if (!buffer)
            return false;
        call->stream_buffer = buffer;
        call->stream_capacity = capacity;
        call_charge(call);
    }
    prefix_write(call->stream_buffer, length);
    if (length > 0)
        memcpy(call->stream_buffer + DN_GRPC_PREFIX_BYTES, bytes, length);
    call->out = call->stream_buffer;
    call->out_length = needed;
    call->out_offset = 0;
    return true;
}

void dn_call_stream_wake(struct dn_call *call)
{
    if (!call->conn)
        return;
    nghttp2_session_resume_data(call->conn->session, call->stream_id);
    dn_conn_dirty(call->conn);
}

void dn_call_stream_end(struct dn_call *call, enum dn_code code, const char *message)
{
    if (!call->conn || call->stream_ended)
        return;
    call->stream_ended = true;
    answered(call, dn_code_grpc(code));
    if (message && *message) {
        size_t size = 3 * strlen(message) + 5;
        char *encoded = dn_arena_alloc(call->arena, size);
        if (encoded)
            message_encode(message, encoded, size);
        call->grpc_message = encoded;
    }
    if (!call->wheel_link)
        dn_wheel_add(call, dn_monotonic_us() + DN_SEND_GRACE_US);
    dn_call_stream_wake(call);
}

/* ---- unpacking ------------------------------------------------------------------------------------------
 */

static void *arena_allocate(void *data, size_t size)
{
    struct dn_call *call = data;
    void *memory = dn_arena_alloc(call->arena, size);
    if (!memory)
        call->memory_out = true;
    return memory;
}

static void arena_free(void *data, void *memory)
{
    (void)data, (void)memory; /* the arena goes as a whole */
}

void *dn_call_unpack(struct dn_call *call, const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                     size_t length)
{
    struct dn_error err;
    if (dn_wire_check(type, bytes, length, &err) != DN_OK) {
        dn_call_fail_error(call, &err);
        return NULL;
    }
    ProtobufCAllocator allocator = {.alloc = arena_allocate, .free = arena_free, .allocator_data = call};
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, length, bytes);
    if (!message) {
        if (call->memory_out)
            dn_call_fail(call, DN_EXHAUSTED,
                         "the message takes more memory than one call may: send less at once");
        else
            dn_call_fail(call, DN_INVALID, "the message is not a valid %s", type->name);
    }
    return message;
}
