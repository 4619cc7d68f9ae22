/* Server core (private to the room): threads, connections, calls. It knows gRPC and nothing of dunlin's
 * services: it runs whatever table of methods it is given, so tests bring their own.
 *
 * Invariants
 *  1. A connection and its calls belong to one thread from accept to close. Only two things are touched by
 * other threads: an op that was handed out (until dn_op_done), and the completion queue.
 *  2. A call's memory (its arena, its ops, the records in it) lives until its stream is gone AND every op
 * came back. So a client may cancel at any time while consensus still holds the call's proposal.
 *  3. A call is answered exactly once; what comes after (late data, late completions) is dropped.
 *  4. Every op handed out has a place kept for it in the completion queue: posting it never fails.
 *  5. nghttp2 is never asked for output while a write is under way: a peer that does not read costs one
 * output buffer, and its open streams' answers (bounded by limits.streams and limits.pending_bytes).
 *  6. Every open call is on the deadline wheel, except a server-streaming one without a deadline.
 *
 * States of a call                                     (function)
 *   RECEIVING  headers and body come in                dn_call_new
 *   RUNNING    the method has the message              dn_call_request_end -> call_run
 *   RESPONDING the answer is in nghttp2's hands        dn_call_reply, dn_call_fail, dn_call_stream_begin
 *   and, beside these, conn == NULL: the stream is gone; freed once holds == 0 (call_release). */
#ifndef DN_API_SERVER_H
#define DN_API_SERVER_H

#include "api/api.h"
#include "api/frames.h"
#include "base/arena.h"
#include "base/epoch.h"
#include "base/queue.h"

#include <nghttp2/nghttp2.h>
#include <protobuf-c/protobuf-c.h>
#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#define DN_GRPC_PREFIX_BYTES 5
#define DN_GRPC_CODES 17
#define DN_HEADER_LIST_MAX (16u << 10)
#define DN_READ_BUFFER_BYTES (64u << 10)
#define DN_OUT_BUFFER_BYTES (128u << 10)
#define DN_WHEEL_SLOTS 256u
#define DN_WHEEL_TICK_US 8000u
#define DN_SWEEP_MS 100u
#define DN_SEND_GRACE_US 10000000u  /* an answer not taken this long after the deadline: stream reset */
#define DN_WRITE_STALL_US 30000000u /* a socket that took no byte for this long is closed */
#define DN_HANDSHAKE_US 10000000u   /* preface and SETTINGS must have come by then */
#define DN_OPS_PER_CALL_MAX (DN_GROUPS_MAX + 1)
#define DN_WATCHERS_MAX 1024 /* a thread: they last as long as their client likes */
#define DN_CALL_POOL_MAX 1024
#define DN_CALL_ARENA_BLOCK_BYTES (16u << 10)
#define DN_WORK_ARENA_BLOCK_BYTES (1u << 20) /* one a thread: a usual Recommend takes a third of it */
#define DN_OP_MESSAGE_MAX 256
#define DN_RESETS_BURST_S 4 /* a connection may give up this many seconds' worth of calls at once */

struct dn_call;
struct dn_conn;
struct dn_thread;
struct dn_server;

struct dn_method {
    const char *path; /* "/dunlin.v1.Cluster/Ping" */
    const char *name; /* in metrics: "Cluster.Ping" */
    /* Runs on the call's thread. Answers (dn_call_reply, dn_call_fail), parks (dn_call_park), or starts a
     * stream. The message lies in the call's arena. */
    void (*handle)(struct dn_call *call, const uint8_t *message, size_t length);
    /* Server-streaming methods only: called when all that was given is sent; gives more (dn_call_stream_put)
     * and returns true, or returns false: ask again after dn_call_stream_wake. */
    bool (*pull)(struct dn_call *call);
};

struct dn_method_metrics {
    struct dn_counter *codes[DN_GRPC_CODES];
    struct dn_histogram *seconds;
};

struct dn_server_metrics {
    struct dn_gauge *connections, *parked, *pending_bytes;
    struct dn_counter *accepted, *refused_connections, *protocol_errors, *idle_resets, *cancelled,
        *idle_closed;
    struct dn_counter *limit_streams, *limit_pending_calls, *limit_pending_bytes, *limit_message,
        *limit_headers;
};

/* One asynchronous piece of work of a call, in the call's arena. */
struct dn_op {
    union {
        struct dn_proposal proposal;
        struct dn_wait wait;
    };
    struct dn_call *call;
    struct dn_op *next;    /* of the call */
    const uint8_t *record; /* for a method that makes all its ops before it hands out the first */
    size_t record_length;
    /* The answer, written by whoever completes it, before dn_op_done. */
    enum dn_code code;
    uint64_t index;
    uint8_t *result; /* result_capacity bytes, in the arena */
    size_t result_capacity;
    size_t result_length; /* cut to the capacity */
    bool busy;            /* code is DN_EXHAUSTED because a queue is full: later there may be room */
    char message[DN_OP_MESSAGE_MAX];
};

enum dn_call_state { DN_CALL_RECEIVING, DN_CALL_RUNNING, DN_CALL_RESPONDING };

struct dn_call {
    struct dn_thread *thread;
    struct dn_conn *conn; /* NULL: the stream is gone */
    struct dn_call *conn_next, *conn_previous;
    struct dn_call *wheel_next, **wheel_link; /* wheel_link NULL: not on the wheel */
    struct dn_call *list_next, **list_link;   /* for the method's own list (watchers) */
    const struct dn_method *method;           /* NULL: unknown */
    const char *unknown_path;                 /* in the arena: what was asked for when method is NULL */
    struct dn_method_metrics *metrics;
    struct dn_arena *arena;
    int32_t stream_id;
    enum dn_call_state state;
    uint64_t start_ns;
    uint64_t deadline_us;
    size_t charged; /* bytes counted in thread->pending_bytes */

    /* the request */
    uint32_t header_bytes;
    uint64_t timeout_us;
    bool headers_done, timeout_given, timeout_bad, type_ok, encoding_bad, not_post;
    bool request_ended;
    bool memory_out; /* the arena refused: not the client's syntax */
    bool too_many_messages;
    uint8_t prefix[DN_GRPC_PREFIX_BYTES];
    uint8_t prefix_length;
    uint8_t *body;
    uint32_t body_length, body_expected;

    /* the answer */
    bool streaming, stream_ended;
    bool grace; /* the deadline passed; the answer is still being sent */
    bool busy;  /* if it ends as RESOURCE_EXHAUSTED, that is for now: the client is told when to come back */
    const uint8_t *out;
    size_t out_length, out_offset;
    uint8_t *stream_buffer; /* reused for each message of a stream */
    size_t stream_capacity;
    int grpc_status;
    const char *grpc_message; /* percent-encoded, in the arena; NULL: none */

    /* waiting */
    unsigned holds; /* ops out, and 1 while a method runs */
    void (*resume)(struct dn_call *call);
    bool parked;
    struct dn_op *ops;
    void *state_of_method;
};

struct dn_conn {
    uv_tcp_t tcp;
    struct dn_thread *thread;
    nghttp2_session *session;
    struct dn_frames frames;
    struct dn_conn *next, *previous;
    struct dn_conn *dirty_next;
    struct dn_call *calls;
    uv_write_t write_request;
    uint8_t *pending; /* what the socket did not take at once; NULL: no write under way */
    size_t pending_length;
    uint64_t active_us, write_us;
    bool dirty, closing, greeted, goaway_noticed, goaway_sent, aborting;
};

struct dn_thread {
    struct dn_server *server;
    unsigned number;
    pthread_t id;
    bool started;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_async_t async;
    uv_timer_t tick;   /* the deadline wheel; runs while calls are on it */
    uv_timer_t sweep;  /* connections, watchers, gauges */
    uv_timer_t goaway; /* second step of a drain */
    struct dn_queue *completions;
    struct dn_epoch_reader *reader;
    struct dn_conn *conns, *dirty;
    struct dn_call *pool;
    struct dn_call *watchers; /* list of the health service */
    size_t watcher_count;
    size_t pool_count, conn_count;
    size_t call_count; /* calls that exist, parked or not, answered or not */
    size_t parked_count;
    size_t op_count, op_max;
    uint64_t pending_bytes;
    struct dn_call *wheel[DN_WHEEL_SLOTS];
    uint64_t wheel_tick;
    size_t wheel_count;
    uint64_t accept_warned_us;
    bool accept_owed; /* a connection waits in libuv, which reports no other until it is taken */
    bool tick_running, drain_seen, stop_seen, closed;
    struct dn_buffer scratch; /* for building records: cleared by the user */
    struct dn_arena *work;    /* dn_call_work */
    uint8_t *read_buffer, *out_buffer;
    uint8_t random[1024];
    size_t random_left;
    unsigned sweeps;
    _Atomic uint64_t turned_us;
    _Atomic size_t open_calls; /* for dn_server_drain: streams not yet closed */
    _Atomic size_t open_conns;
    _Atomic size_t parked_shown;
    _Atomic uint64_t pending_shown;
};

struct dn_server_options {
    const char *address;
    unsigned threads;
    struct dn_api_limits limits; /* zeros: defaults */
    const struct dn_method *methods;
    size_t method_count;
    struct dn_epoch *epoch; /* may be NULL */
    struct dn_metrics *metrics;
    void *app;
    /* Every DN_SWEEP_MS on each thread; may be NULL. */
    void (*on_sweep)(struct dn_thread *thread);
    /* Before a method runs: false when it answered the call itself. NULL: every call is let in. */
    bool (*admit)(struct dn_call *call);
};

struct dn_server {
    struct dn_server_options options;
    struct dn_api_limits limits;
    struct dn_metrics *metrics;
    bool metrics_owned;
    struct dn_server_metrics counters;
    struct dn_method_metrics *method_metrics; /* method_count + 1; the last: unknown methods */
    uint16_t *method_table;                   /* open addressing: method number + 1 */
    size_t method_mask;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    uint16_t port;
    struct dn_thread *threads;
    unsigned thread_count, running_count;
    atomic_bool draining, stopping;
    pthread_mutex_t lock; /* only for waiting: drained */
    pthread_cond_t drained;
};

/* ---- server.c --------------------------------------------------------------------------------------- */

enum dn_code dn_server_start(const struct dn_server_options *options, struct dn_server **ret,
                             struct dn_error *err);
/* As dn_api_drain, dn_api_stop, dn_api_destroy, dn_api_alive. */
void dn_server_drain(struct dn_server *server, unsigned drain_ms);
void dn_server_stop(struct dn_server *server);
void dn_server_destroy(struct dn_server *server);
bool dn_server_alive(const struct dn_server *server, uint64_t max_age_us);
/* 64 random bits; a system call once in many. */
uint64_t dn_thread_random(struct dn_thread *thread);

/* ---- wheel.c: deadlines of a thread's calls ----------------------------------------------------------- */

void dn_wheel_add(struct dn_call *call, uint64_t deadline_us);
void dn_wheel_remove(struct dn_call *call);
void dn_wheel_tick(uv_timer_t *timer);

/* ---- http2.c: connections ----------------------------------------------------------------------------- */

enum dn_code dn_http2_init(struct dn_server *server, struct dn_error *err);
void dn_http2_accept(struct dn_thread *thread);
void dn_conn_dirty(struct dn_conn *conn); /* has output; written by the next dn_thread_flush */
void dn_thread_flush(struct dn_thread *thread);
void dn_conn_sweep(struct dn_thread *thread, uint64_t now_us);
void dn_conn_notice(struct dn_conn *conn); /* first GOAWAY of a drain */
void dn_conn_goaway(struct dn_conn *conn); /* second: the last stream that will be answered */
void dn_conn_close(struct dn_conn *conn);  /* not from an nghttp2 callback */

/* ---- methods.c ---------------------------------------------------------------------------------------- */

enum dn_code dn_methods_init(struct dn_server *server, struct dn_error *err);
const struct dn_method *dn_methods_find(const struct dn_server *server, const uint8_t *path, size_t length);

/* ---- call.c: what the connection tells a call -----------------------------------------------------------
 */

/* NULL: out of memory or too many calls (the stream is to be refused). */
struct dn_call *dn_call_new(struct dn_conn *conn, int32_t stream_id);
void dn_call_header(struct dn_call *call, const uint8_t *name, size_t name_length, const uint8_t *value,
                    size_t value_length);
void dn_call_headers_end(struct dn_call *call);
void dn_call_data(struct dn_call *call, const uint8_t *bytes, size_t length);
void dn_call_request_end(struct dn_call *call);
void dn_call_expired(struct dn_call *call, uint64_t now_us);
/* The stream is gone; the call is freed now, or when its last op comes back. */
void dn_call_closed(struct dn_call *call);
void dn_call_free(struct dn_call *call);

/* ---- op.c ------------------------------------------------------------------------------------------------
 */

/* Takes one op off the queue's end and goes on with its call. Loop thread. */
void dn_op_returned(struct dn_op *op);
void dn_call_drop_hold(struct dn_call *call);

/* ---- what methods use (call.c, op.c)
 * ----------------------------------------------------------------------- */

void dn_call_reply(struct dn_call *call, const ProtobufCMessage *message);
void dn_call_reply_bytes(struct dn_call *call, const uint8_t *bytes, size_t length);
void dn_call_fail(struct dn_call *call, enum dn_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void dn_call_fail_error(struct dn_call *call, const struct dn_error *err);
/* A gRPC status that no dn_code stands for. */
void dn_call_fail_grpc(struct dn_call *call, int grpc_status, const char *message);

/* Memory for what a method does in one go, empty: whatever was in it is gone, and so is this when the method
 * returns to the loop or calls this again. Warm from one call to the next, where a call's own arena is small
 * because there may be thousands. Bounded as a call's is. */
static inline struct dn_arena *dn_call_work(struct dn_call *call)
{
    dn_arena_reset(call->thread->work);
    return call->thread->work;
}

/* Checks the bytes (api/wire.h) and unpacks them into the arena. NULL: the call was answered. */
void *dn_call_unpack(struct dn_call *call, const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                     size_t length);

/* A new op of the call, or NULL: the call was answered (too much is waiting). Follow with exactly one of:
 * hand it out (someone calls dn_op_done once, on any thread), or dn_op_abandon. */
struct dn_op *dn_call_op(struct dn_call *call, size_t result_capacity);
void dn_op_done(struct dn_op *op);
/* The op could not be handed out: it counts as completed with this code (DN_EXHAUSTED: a queue is full now).
 * Loop thread. */
void dn_op_abandon(struct dn_op *op, enum dn_code code, const char *message);
/* resume runs when every op is back (at once when none is out) unless the call was answered or cancelled. */
void dn_call_park(struct dn_call *call, void (*resume)(struct dn_call *call));

/* Hands op to consensus. The deadline is a little before the call's, so that the answer arrives in time. */
void dn_op_propose(struct dn_op *op, struct dn_consensus *consensus, uint32_t group, const uint8_t *record,
                   size_t length);
void dn_op_wait(struct dn_op *op, struct dn_consensus *consensus, uint32_t group, enum dn_wait_kind kind,
                uint64_t index);
/* change: in the call's arena, with op, node_id, replica and force set. The message of a failure comes in
 * op->result, with its NUL, cut to result_capacity: it is longer than those of other ops. */
void dn_op_member_change(struct dn_op *op, struct dn_consensus *consensus, struct dn_member_change *change);

void dn_call_stream_begin(struct dn_call *call);
/* Inside pull: the bytes of one message (copied). False: out of memory. */
bool dn_call_stream_put(struct dn_call *call, const uint8_t *bytes, size_t length);
void dn_call_stream_wake(struct dn_call *call);
void dn_call_stream_end(struct dn_call *call, enum dn_code code, const char *message);

static inline bool dn_call_open(const struct dn_call *call)
{
    return call->conn && call->state != DN_CALL_RESPONDING;
}

#endif
