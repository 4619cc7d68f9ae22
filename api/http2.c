/* HTTP/2 connections: bytes between a uv socket and an nghttp2 session.
 *
 * Happy path: dn_http2_accept, read_done (nghttp2 parses; calls run inside its callbacks and queue answers),
 * dn_thread_flush (once for all that a loop callback made: nghttp2's output is gathered and written by one
 * uv_try_write a connection).
 *
 * Failures: broken frames (nghttp2 queues a GOAWAY with the reason; it is sent and the connection closed);
 * the socket takes less than all (the rest is written by uv_write, and nghttp2 is not asked for more until
 * then); the peer goes away (its calls are cancelled). */
#include "api/server.h"
#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define STREAM_WINDOW_BYTES (256 << 10)
#define CONNECTION_WINDOW_BYTES (4 << 20)
#define PIECE_MAX                                                                                            \
    (20u << 10) /* most that nghttp2_session_mem_send gives at once: a frame, or a block of headers */

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void dn_conn_close(struct dn_conn *conn)
{
    struct dn_thread *thread = conn->thread;
    if (conn->closing)
        return;
    conn->closing = true;
    while (conn->calls)
        dn_call_closed(conn->calls);
    nghttp2_session_del(conn->session);
    conn->session = NULL;
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        thread->conns = conn->next;
    if (conn->next)
        conn->next->previous = conn->previous;
    thread->conn_count--;
    atomic_store_explicit(&thread->open_conns, thread->conn_count, memory_order_relaxed);
    /* A dirty connection stays in that list until the flush at the end of this callback, before uv frees it.
     */
    uv_close((uv_handle_t *)&conn->tcp, on_closed);
}

/* ---- output ------------------------------------------------------------------------------------------- */

void dn_conn_dirty(struct dn_conn *conn)
{
    if (conn->dirty || conn->closing)
        return;
    conn->dirty = true;
    conn->dirty_next = conn->thread->dirty;
    conn->thread->dirty = conn;
}

static void write_done(uv_write_t *request, int status)
{
    struct dn_conn *conn = request->data;
    struct dn_thread *thread = conn->thread;
    free(conn->pending);
    conn->pending = NULL;
    if (conn->closing)
        return;
    if (status != 0) {
        dn_conn_close(conn);
        return;
    }
    conn->write_us = dn_monotonic_us();
    dn_conn_dirty(conn);
    dn_thread_flush(thread);
}

/* True when all was taken. */
static bool conn_write(struct dn_conn *conn, uint8_t *bytes, size_t length)
{
    uv_buf_t buffer = uv_buf_init((char *)bytes, (unsigned)length);
    int written = uv_try_write((uv_stream_t *)&conn->tcp, &buffer, 1);
    if (written == (int)length)
        return true;
    if (written == UV_EAGAIN)
        written = 0;
    if (written < 0) {
        dn_conn_close(conn);
        return false;
    }
    size_t left = length - (size_t)written;
    conn->pending = malloc(left);
    if (!conn->pending) {
        dn_conn_close(conn);
        return false;
    }
    memcpy(conn->pending, bytes + written, left);
    conn->pending_length = left;
    conn->write_us = dn_monotonic_us();
    conn->write_request.data = conn;
    buffer = uv_buf_init((char *)conn->pending, (unsigned)left);
    if (uv_write(&conn->write_request, (uv_stream_t *)&conn->tcp, &buffer, 1, write_done) != 0) {
        free(conn->pending);
        conn->pending = NULL;
        dn_conn_close(conn);
    }
    return false;
}

static void conn_flush(struct dn_conn *conn)
{
    uint8_t *out = conn->thread->out_buffer;
    bool more = true;
    while (more && !conn->closing && !conn->pending) {
        size_t length = 0;
        while (length + PIECE_MAX <= DN_OUT_BUFFER_BYTES) {
            const uint8_t *piece;
            ssize_t size = nghttp2_session_mem_send(conn->session, &piece);
            if (size < 0) {
                dn_conn_close(conn);
                return;
            }
            if (size == 0) {
                more = false;
                break;
            }
            DN_ASSERT((size_t)size <= PIECE_MAX);
            memcpy(out + length, piece, (size_t)size);
            length += (size_t)size;
        }
        if (length > 0 && !conn_write(conn, out, length))
            return;
    }
    if (conn->closing || conn->pending)
        return;
    if (conn->aborting ||
        (!nghttp2_session_want_read(conn->session) && !nghttp2_session_want_write(conn->session)))
        dn_conn_close(conn);
}

void dn_thread_flush(struct dn_thread *thread)
{
    while (thread->dirty) {
        struct dn_conn *conn = thread->dirty;
        thread->dirty = conn->dirty_next;
        conn->dirty = false;
        if (!conn->closing)
            conn_flush(conn);
    }
}

/* ---- input -------------------------------------------------------------------------------------------- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct dn_conn *conn = user_data;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct dn_call *call = dn_call_new(conn, frame->hd.stream_id);
    if (!call) {
        dn_counter_add(conn->thread->server->counters.limit_streams, 1);
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
        return 0;
    }
    return nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *user_data)
{
    (void)flags, (void)user_data;
    struct dn_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (call)
        dn_call_header(call, name, name_length, value, value_length);
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct dn_conn *conn = user_data;
    if (frame->hd.type == NGHTTP2_SETTINGS) {
        conn->greeted = true;
        return 0;
    }
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    struct dn_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!call)
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && !call->headers_done)
        dn_call_headers_end(call);
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
        dn_call_request_end(call);
    return 0;
}

static int on_data_chunk_recv(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                              const uint8_t *bytes, size_t length, void *user_data)
{
    (void)flags, (void)user_data;
    struct dn_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
    if (call)
        dn_call_data(call, bytes, length);
    return 0;
}

/* An answer that came before the request's end: the client need not send the rest (RFC 9113, section 8.1). */
static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    (void)user_data;
    if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    struct dn_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (call && !call->request_ended)
        return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data)
{
    (void)error_code, (void)user_data;
    struct dn_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
    if (call) {
        nghttp2_session_set_stream_user_data(session, stream_id, NULL);
        dn_call_closed(call);
    }
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user_data)
{
    (void)session, (void)frame, (void)error;
    struct dn_conn *conn = user_data;
    dn_counter_add(conn->thread->server->counters.protocol_errors, 1);
    return 0;
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)suggested;
    struct dn_conn *conn = handle->data;
    *buffer = uv_buf_init((char *)conn->thread->read_buffer, DN_READ_BUFFER_BYTES);
}

/* nghttp2_session_mem_recv, without the resets of streams that were never opened.
 *
 * A gRPC client (grpc-core) that gives a call up between choosing its stream's number and sending the HEADERS
 * sends the RST_STREAM alone. RFC 9113, section 6.4, lets a server end the connection for that, and nghttp2
 * does: all other calls of the client would fail with it. So frames are followed here, and such a reset is
 * left out.
 *
 * A frame's header that is cut by the end of a read is kept until the rest is here, so that nghttp2 has not
 * yet seen its first bytes when it is judged. */
static ssize_t feed(struct dn_conn *conn, const uint8_t *bytes, size_t length)
{
    struct dn_frames *frames = &conn->frames;
    size_t from = 0, at = 0;
    while (at < length) {
        enum dn_frames_step step;
        size_t run = dn_frames_next(frames, bytes + at, length - at, &step);
        at += run;
        if (step == DN_FRAMES_PASS)
            continue;
        /* All before this run goes to nghttp2; then what the run is. */
        size_t before = at - run - from;
        if (before > 0 && nghttp2_session_mem_recv(conn->session, bytes + from, before) != (ssize_t)before)
            return NGHTTP2_ERR_PROTO;
        from = at;
        if (step == DN_FRAMES_DROP)
            dn_counter_add(conn->thread->server->counters.idle_resets, 1);
        else if (step == DN_FRAMES_HEAD &&
                 nghttp2_session_mem_recv(conn->session, frames->head, DN_FRAME_HEAD) != DN_FRAME_HEAD)
            return NGHTTP2_ERR_PROTO;
    }
    if (at > from)
        return nghttp2_session_mem_recv(conn->session, bytes + from, at - from) == (ssize_t)(at - from)
                   ? (ssize_t)length
                   : NGHTTP2_ERR_PROTO;
    return (ssize_t)length;
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer)
{
    struct dn_conn *conn = stream->data;
    struct dn_thread *thread = conn->thread;
    if (conn->closing || length == 0)
        return;
    if (length < 0) {
        dn_conn_close(conn);
        return;
    }
    ssize_t taken = feed(conn, (const uint8_t *)buffer->base, (size_t)length);
    if (taken != length) {
        /* A flood or a bad preface; where nghttp2 could say why, the GOAWAY is in its queue. */
        dn_counter_add(thread->server->counters.protocol_errors, 1);
        conn->aborting = true;
        uv_read_stop(stream);
        if (taken < 0)
            nghttp2_session_terminate_session(conn->session, NGHTTP2_PROTOCOL_ERROR);
    }
    dn_conn_dirty(conn);
    dn_thread_flush(thread);
}

void dn_http2_accept(struct dn_thread *thread)
{
    struct dn_server *server = thread->server;
    struct dn_conn *conn = calloc(1, sizeof *conn);
    thread->accept_owed = !conn || uv_tcp_init(&thread->loop, &conn->tcp) != 0;
    if (thread->accept_owed) {
        free(conn);
        return; /* out of memory: the sweep tries again */
    }
    conn->tcp.data = conn;
    conn->thread = thread;
    bool refused = uv_accept((uv_stream_t *)&thread->listener, (uv_stream_t *)&conn->tcp) != 0;
    if (!refused && thread->conn_count >= server->limits.connections) {
        dn_counter_add(server->counters.refused_connections, 1);
        refused = true;
    }
    if (!refused && atomic_load_explicit(&server->draining, memory_order_relaxed))
        refused = true;
    if (!refused && nghttp2_session_server_new2(&conn->session, server->callbacks, conn, server->option) != 0)
        refused = true;
    if (refused) {
        conn->closing = true;
        uv_close((uv_handle_t *)&conn->tcp, on_closed);
        return;
    }
    conn->active_us = dn_monotonic_us();
    conn->next = thread->conns;
    if (conn->next)
        conn->next->previous = conn;
    thread->conns = conn;
    thread->conn_count++;
    atomic_store_explicit(&thread->open_conns, thread->conn_count, memory_order_relaxed);
    dn_counter_add(server->counters.accepted, 1);
    uv_tcp_nodelay(&conn->tcp, 1);
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, server->limits.streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, DN_HEADER_LIST_MAX},
    };
    if (nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, settings,
                                sizeof settings / sizeof settings[0]) != 0 ||
        nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW_BYTES) !=
            0 ||
        uv_read_start((uv_stream_t *)&conn->tcp, on_allocate, on_read) != 0) {
        dn_conn_close(conn);
        return;
    }
    dn_conn_dirty(conn);
}

/* ---- life -----------------------------------------------------------------------------------------------
 */

void dn_conn_notice(struct dn_conn *conn)
{
    conn->goaway_noticed = true;
    nghttp2_submit_shutdown_notice(conn->session);
    dn_conn_dirty(conn);
}

void dn_conn_goaway(struct dn_conn *conn)
{
    conn->goaway_sent = true;
    nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(conn->session), NGHTTP2_NO_ERROR, NULL, 0);
    dn_conn_dirty(conn);
}

void dn_conn_sweep(struct dn_thread *thread, uint64_t now_us)
{
    struct dn_server *server = thread->server;
    uint64_t idle_us = server->limits.idle_timeout_ms * 1000ull;
    for (struct dn_conn *conn = thread->conns, *next; conn; conn = next) {
        next = conn->next;
        uint64_t quiet_us = now_us > conn->active_us ? now_us - conn->active_us : 0;
        if (conn->pending && now_us > conn->write_us + DN_WRITE_STALL_US) {
            dn_counter_add(server->counters.idle_closed, 1);
            dn_conn_close(conn);
        } else if (!conn->greeted && quiet_us > (idle_us < DN_HANDSHAKE_US ? idle_us : DN_HANDSHAKE_US)) {
            dn_counter_add(server->counters.idle_closed, 1);
            dn_conn_close(conn);
        } else if (!conn->calls && quiet_us > idle_us && !conn->goaway_sent) {
            dn_counter_add(server->counters.idle_closed, 1);
            dn_conn_goaway(conn);
        } else if (!conn->calls && conn->goaway_sent && quiet_us > idle_us + DN_HANDSHAKE_US) {
            dn_conn_close(conn);
        }
    }
}

enum dn_code dn_http2_init(struct dn_server *server, struct dn_error *err)
{
    if (nghttp2_session_callbacks_new(&server->callbacks) != 0 || nghttp2_option_new(&server->option) != 0)
        return dn_fail(err, DN_NO_MEMORY, "HTTP/2 callbacks");
    nghttp2_session_callbacks *callbacks = server->callbacks;
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk_recv);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_option_set_no_closed_streams(server->option, 1);
    /* nghttp2's own limit against floods of resets (CVE-2023-44487) is 33 a second after the first 1,000: a
     * proxy, or clients with short deadlines while a shard has no leader, give up more than that honestly,
     * and lose all other calls of the connection with it. What a flood makes us hold is bounded without it
     * (pending_bytes), but a call that was given up keeps its place among pending_calls until consensus gives
     * it back: so one connection cannot, by default, fill them all at once. */
    uint64_t rate = server->limits.resets_per_s;
    nghttp2_option_set_stream_reset_rate_limit(server->option, rate * DN_RESETS_BURST_S, rate);
    return DN_OK;
}
