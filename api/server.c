/* Threads of the server: start, listen, drain, stop. The invariants are in api/server.h. */
#include "api/server.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTEN_BACKLOG 1024
#define THREADS_MAX 32
#define DRAIN_NOTICE_MS 50 /* between the first GOAWAY and the one that names the last stream */
#define COMPLETIONS_PER_TURN 4096
#define COMPLETIONS_PER_FLUSH 64 /* their answers are sent, and their memory given back, before the next */
#define ACCEPT_WARN_US 1000000u

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value ? value : fallback;
}

static void limits_resolve(struct dn_api_limits *limits)
{
    limits->message_bytes = or_default(limits->message_bytes, 4u << 20);
    limits->connections = or_default(limits->connections, 1024);
    limits->streams = or_default(limits->streams, 256);
    limits->arena_bytes = or_default(limits->arena_bytes, 32u << 20);
    limits->default_deadline_ms = or_default(limits->default_deadline_ms, 5000);
    limits->max_deadline_ms = or_default(limits->max_deadline_ms, 60000);
    limits->pending_calls = or_default(limits->pending_calls, 10000);
    if (!limits->pending_bytes)
        limits->pending_bytes = 256ull << 20;
    limits->idle_timeout_ms = or_default(limits->idle_timeout_ms, 300000);
    limits->resets_per_s = or_default(limits->resets_per_s, 2000);
}

uint64_t dn_thread_random(struct dn_thread *thread)
{
    uint64_t value;
    if (thread->random_left < sizeof value) {
        randombytes_buf(thread->random, sizeof thread->random);
        thread->random_left = sizeof thread->random;
    }
    thread->random_left -= sizeof value;
    memcpy(&value, thread->random + thread->random_left, sizeof value);
    return value;
}

/* ---- the thread -----------------------------------------------------------------------------------------
 */

static void on_connection(uv_stream_t *listener, int status)
{
    struct dn_thread *thread = listener->data;
    if (status < 0) {
        /* Out of file descriptors, most likely, and each connection that is turned away comes by here. */
        uint64_t now_us = dn_monotonic_us();
        dn_counter_add(thread->server->counters.refused_connections, 1);
        if (now_us - thread->accept_warned_us >= ACCEPT_WARN_US) {
            dn_warn("api", "accept: %s", uv_strerror(status));
            thread->accept_warned_us = now_us;
        }
        return;
    }
    dn_http2_accept(thread);
    dn_thread_flush(thread);
}

static void drain_goaway(uv_timer_t *timer)
{
    struct dn_thread *thread = timer->data;
    for (struct dn_conn *conn = thread->conns; conn; conn = conn->next)
        if (!conn->goaway_sent)
            dn_conn_goaway(conn);
    dn_thread_flush(thread);
}

static void drain_begin(struct dn_thread *thread)
{
    thread->drain_seen = true;
    if (!uv_is_closing((uv_handle_t *)&thread->listener))
        uv_close((uv_handle_t *)&thread->listener, NULL);
    for (struct dn_conn *conn = thread->conns; conn; conn = conn->next)
        dn_conn_notice(conn);
    uv_timer_start(&thread->goaway, drain_goaway, DRAIN_NOTICE_MS, 0);
    for (struct dn_call *call = thread->watchers, *next; call; call = next) {
        next = call->list_next;
        dn_call_stream_wake(call); /* its pull sees the drain and ends the stream */
    }
}

static void thread_close(struct dn_thread *thread)
{
    if (thread->closed || thread->op_count > 0)
        return; /* invariant 2: ops are out; the async handle must live until they are back */
    thread->closed = true;
    uv_close((uv_handle_t *)&thread->async, NULL);
    uv_close((uv_handle_t *)&thread->tick, NULL);
    uv_close((uv_handle_t *)&thread->sweep, NULL);
    uv_close((uv_handle_t *)&thread->goaway, NULL);
}

static void stop_begin(struct dn_thread *thread)
{
    thread->stop_seen = true;
    if (!uv_is_closing((uv_handle_t *)&thread->listener))
        uv_close((uv_handle_t *)&thread->listener, NULL);
    while (thread->conns)
        dn_conn_close(thread->conns);
}

static void on_async(uv_async_t *async)
{
    struct dn_thread *thread = async->data;
    struct dn_op *op;
    size_t done = 0;
    while (done < COMPLETIONS_PER_TURN && (op = dn_queue_pop(thread->completions))) {
        dn_op_returned(op);
        if (++done % COMPLETIONS_PER_FLUSH == 0)
            dn_thread_flush(thread);
    }
    dn_thread_flush(thread); /* also before a stop closes the sockets: an acknowledgement may be among them */
    if (done == COMPLETIONS_PER_TURN)
        uv_async_send(async); /* sockets get their turn in between */
    struct dn_server *server = thread->server;
    if (atomic_load(&server->draining) && !thread->drain_seen && !thread->stop_seen)
        drain_begin(thread);
    if (atomic_load(&server->stopping) && !thread->stop_seen)
        stop_begin(thread);
    dn_thread_flush(thread);
    if (thread->stop_seen)
        thread_close(thread);
}

static void gauges_update(struct dn_server *server)
{
    size_t conns = 0, parked = 0;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < server->thread_count; i++) {
        conns += atomic_load_explicit(&server->threads[i].open_conns, memory_order_relaxed);
        parked += atomic_load_explicit(&server->threads[i].parked_shown, memory_order_relaxed);
        bytes += atomic_load_explicit(&server->threads[i].pending_shown, memory_order_relaxed);
    }
    dn_gauge_set(server->counters.connections, (double)conns);
    dn_gauge_set(server->counters.parked, (double)parked);
    dn_gauge_set(server->counters.pending_bytes, (double)bytes);
}

static void on_sweep(uv_timer_t *timer)
{
    struct dn_thread *thread = timer->data;
    struct dn_server *server = thread->server;
    uint64_t now_us = dn_monotonic_us();
    atomic_store_explicit(&thread->turned_us, now_us, memory_order_relaxed);
    atomic_store_explicit(&thread->parked_shown, thread->parked_count, memory_order_relaxed);
    atomic_store_explicit(&thread->pending_shown, thread->pending_bytes, memory_order_relaxed);
    dn_conn_sweep(thread, now_us);
    if (thread->accept_owed && !uv_is_closing((uv_handle_t *)&thread->listener))
        dn_http2_accept(thread);
    for (struct dn_call *call = thread->watchers, *next; call; call = next) {
        next = call->list_next;
        dn_call_stream_wake(call);
    }
    if (server->options.on_sweep)
        server->options.on_sweep(thread);
    if (thread->number == 0)
        gauges_update(server);
    dn_thread_flush(thread);
}

static void *thread_main(void *data)
{
    struct dn_thread *thread = data;
    char name[16];
    snprintf(name, sizeof name, "api-%u", thread->number);
    pthread_setname_np(pthread_self(), name);
    uv_run(&thread->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* ---- sockets ----------------------------------------------------------------------------------------------
 */

static enum dn_code socket_error(struct dn_error *err, const char *address, const char *what)
{
    int number = errno;
    if (number == EADDRINUSE)
        return dn_fail(err, DN_EXISTS, "listen on %s: the port is in use by another program", address);
    if (number == EACCES)
        return dn_fail(err, DN_DENIED, "listen on %s: not allowed for this user (a port below 1024?)",
                       address);
    return dn_fail(err, DN_IO, "listen on %s: %s: %s", address, what, strerror(number));
}

/* A bound socket. exclusive: without SO_REUSEPORT, so that it fails where anyone listens. */
static enum dn_code socket_bind(const char *text, const struct addrinfo *address, bool exclusive, int *ret_fd,
                                struct dn_error *err)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return socket_error(err, text, "socket");
    int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        (!exclusive && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0) ||
        bind(fd, address->ai_addr, address->ai_addrlen) != 0) {
        enum dn_code code = socket_error(err, text, "bind");
        close(fd);
        return code;
    }
    *ret_fd = fd;
    return DN_OK;
}

static void address_set_port(struct addrinfo *address, uint16_t port)
{
    if (address->ai_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)address->ai_addr)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)(void *)address->ai_addr)->sin_port = htons(port);
}

static uint16_t socket_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t length = sizeof address;
    memset(&address, 0, sizeof address);
    if (getsockname(fd, &address.any, &length) != 0)
        return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static enum dn_code thread_listen(struct dn_thread *thread, struct addrinfo *address, struct dn_error *err)
{
    struct dn_server *server = thread->server;
    const char *text = server->options.address;
    int fd = -1;
    enum dn_code code;
    if (thread->number == 0) {
        /* SO_REUSEPORT would share the port with another server silently: look first. */
        code = socket_bind(text, address, true, &fd, err);
        if (code != DN_OK)
            return code;
        close(fd);
    }
    code = socket_bind(text, address, false, &fd, err);
    if (code != DN_OK)
        return code;
    if (thread->number == 0) {
        server->port = socket_port(fd);
        address_set_port(address, server->port);
    }
    if (uv_tcp_open(&thread->listener, fd) != 0) {
        close(fd);
        return dn_fail(err, DN_IO, "listen on %s: the socket was not taken", text);
    }
    int failed = uv_listen((uv_stream_t *)&thread->listener, LISTEN_BACKLOG, on_connection);
    if (failed) {
        errno = -failed;
        return socket_error(err, text, "listen");
    }
    return DN_OK;
}

/* ---- start
 * ------------------------------------------------------------------------------------------------- */

static void metrics_create(struct dn_server *server)
{
    struct dn_metrics *metrics = server->metrics;
    struct dn_server_metrics *to = &server->counters;
    static const char limit_help[] = "Times a limit of the API refused something.";
    to->connections = dn_metrics_gauge(metrics, "dunlin_api_connections", "", "Open client connections.");
    to->parked = dn_metrics_gauge(metrics, "dunlin_api_parked_calls", "", "Calls that wait for consensus.");
    to->pending_bytes =
        dn_metrics_gauge(metrics, "dunlin_api_pending_bytes", "", "Memory held by unfinished calls.");
    to->accepted =
        dn_metrics_counter(metrics, "dunlin_api_accepted_total", "", "Client connections accepted.");
    to->protocol_errors = dn_metrics_counter(metrics, "dunlin_api_protocol_errors_total", "",
                                             "Broken HTTP/2 frames and floods.");
    to->idle_resets = dn_metrics_counter(metrics, "dunlin_api_idle_resets_total", "",
                                         "Resets of streams that were never opened, left out.");
    to->cancelled =
        dn_metrics_counter(metrics, "dunlin_api_cancelled_total", "", "Calls that clients gave up.");
    to->idle_closed =
        dn_metrics_counter(metrics, "dunlin_api_idle_closed_total", "", "Connections closed for idleness.");
    to->refused_connections =
        dn_metrics_counter(metrics, "dunlin_api_limit_total", "limit=\"connections\"", limit_help);
    to->limit_streams =
        dn_metrics_counter(metrics, "dunlin_api_limit_total", "limit=\"streams\"", limit_help);
    to->limit_pending_calls =
        dn_metrics_counter(metrics, "dunlin_api_limit_total", "limit=\"pending_calls\"", limit_help);
    to->limit_pending_bytes =
        dn_metrics_counter(metrics, "dunlin_api_limit_total", "limit=\"pending_bytes\"", limit_help);
    to->limit_message =
        dn_metrics_counter(metrics, "dunlin_api_limit_total", "limit=\"message_bytes\"", limit_help);
    to->limit_headers =
        dn_metrics_counter(metrics, "dunlin_api_limit_total", "limit=\"header_bytes\"", limit_help);
}

static enum dn_code thread_init(struct dn_thread *thread, struct addrinfo *address, struct dn_error *err)
{
    struct dn_server *server = thread->server;
    if (uv_loop_init(&thread->loop) != 0)
        return dn_fail(err, DN_IO, "an event loop could not be made: %s", strerror(errno));
    uv_tcp_init(&thread->loop, &thread->listener);
    uv_async_init(&thread->loop, &thread->async, on_async);
    uv_timer_init(&thread->loop, &thread->tick);
    uv_timer_init(&thread->loop, &thread->sweep);
    uv_timer_init(&thread->loop, &thread->goaway);
    thread->started = true;
    thread->listener.data = thread->async.data = thread;
    thread->tick.data = thread->sweep.data = thread->goaway.data = thread;
    thread->op_max = 2 * (size_t)server->limits.pending_calls + DN_OPS_PER_CALL_MAX;
    thread->completions = dn_queue_create(thread->op_max);
    thread->read_buffer = malloc(DN_READ_BUFFER_BYTES);
    thread->out_buffer = malloc(DN_OUT_BUFFER_BYTES);
    dn_buffer_init(&thread->scratch, DN_RECORD_MAX);
    thread->work = dn_arena_create(DN_WORK_ARENA_BLOCK_BYTES, server->limits.arena_bytes);
    if (!thread->completions || !thread->read_buffer || !thread->out_buffer || !thread->work)
        return dn_fail(err, DN_NO_MEMORY, "memory of an API thread");
    if (server->options.epoch) {
        thread->reader = dn_epoch_register(server->options.epoch);
        if (!thread->reader)
            return dn_fail(err, DN_EXHAUSTED, "more than %d threads read the state", DN_EPOCH_READERS_MAX);
    }
    atomic_store(&thread->turned_us, dn_monotonic_us());
    uv_timer_start(&thread->sweep, on_sweep, DN_SWEEP_MS, DN_SWEEP_MS);
    return thread_listen(thread, address, err);
}

static enum dn_code threads_start(struct dn_server *server, struct addrinfo *address, struct dn_error *err)
{
    for (unsigned i = 0; i < server->thread_count; i++) {
        struct dn_thread *thread = &server->threads[i];
        thread->server = server;
        thread->number = i;
        enum dn_code code = thread_init(thread, address, err);
        if (code != DN_OK)
            return code;
    }
    /* Signals are the main thread's; a broken pipe is an error code, not a signal. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    enum dn_code code = DN_OK;
    for (unsigned i = 0; i < server->thread_count && code == DN_OK; i++)
        if (pthread_create(&server->threads[i].id, NULL, thread_main, &server->threads[i]) != 0)
            code = dn_fail(err, DN_EXHAUSTED, "an API thread could not be started");
        else
            server->running_count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

enum dn_code dn_server_start(const struct dn_server_options *options, struct dn_server **ret,
                             struct dn_error *err)
{
    char host[256], service[8];
    uint16_t port;
    if (!dn_parse_address(options->address, host, &port))
        return dn_fail(err, DN_INVALID, "address '%s' is not host:port", options->address);
    unsigned threads = options->threads ? options->threads : 1;
    if (threads > THREADS_MAX)
        return dn_fail(err, DN_INVALID, "%u API threads; at most %d", threads, THREADS_MAX);
    struct dn_server *server = calloc(1, sizeof *server);
    if (!server)
        return dn_fail(err, DN_NO_MEMORY, "the API server");
    server->options = *options;
    server->limits = options->limits;
    limits_resolve(&server->limits);
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&server->drained, &attributes);
    pthread_condattr_destroy(&attributes);

    server->metrics = options->metrics;
    if (!server->metrics) {
        server->metrics = dn_metrics_create();
        server->metrics_owned = true;
    }
    struct addrinfo *addresses = NULL;
    enum dn_code code = DN_OK;
    if (sodium_init() < 0)
        code = dn_fail(err, DN_INTERNAL, "libsodium could not start");
    server->threads = calloc(threads, sizeof *server->threads);
    if (code == DN_OK && (!server->metrics || !server->threads))
        code = dn_fail(err, DN_NO_MEMORY, "the API server");
    if (code != DN_OK)
        goto err_server;
    server->thread_count = threads;
    metrics_create(server);
    code = dn_methods_init(server, err);
    if (code == DN_OK)
        code = dn_http2_init(server, err);
    if (code != DN_OK)
        goto err_server;

    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    snprintf(service, sizeof service, "%u", port);
    int failed = getaddrinfo(host, service, &hints, &addresses);
    if (failed) {
        code = dn_fail(err, DN_INVALID, "listen on %s: %s", options->address, gai_strerror(failed));
        goto err_server;
    }
    code = threads_start(server, addresses, err);
    freeaddrinfo(addresses);
    if (code != DN_OK)
        goto err_server;
    *ret = server;
    return DN_OK;

err_server:
    dn_server_stop(server);
    dn_server_destroy(server);
    return code;
}

/* ---- drain and stop
 * ------------------------------------------------------------------------------------------ */

static void threads_wake(struct dn_server *server)
{
    for (unsigned i = 0; i < server->thread_count; i++)
        if (server->threads[i].started)
            uv_async_send(&server->threads[i].async);
}

static size_t open_calls(const struct dn_server *server)
{
    size_t count = 0;
    for (unsigned i = 0; i < server->thread_count; i++)
        count += atomic_load_explicit(&server->threads[i].open_calls, memory_order_relaxed);
    return count;
}

void dn_server_drain(struct dn_server *server, unsigned drain_ms)
{
    atomic_store(&server->draining, true);
    threads_wake(server);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += drain_ms / 1000;
    until.tv_nsec += (long)(drain_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&server->lock);
    while (open_calls(server) > 0)
        if (pthread_cond_timedwait(&server->drained, &server->lock, &until) != 0)
            break;
    pthread_mutex_unlock(&server->lock);
}

void dn_server_stop(struct dn_server *server)
{
    if (atomic_exchange(&server->stopping, true))
        return;
    threads_wake(server);
    for (unsigned i = 0; i < server->thread_count; i++) {
        struct dn_thread *thread = &server->threads[i];
        if (!thread->started)
            continue;
        if (i < server->running_count)
            pthread_join(thread->id, NULL);
        else
            uv_run(&thread->loop, UV_RUN_DEFAULT); /* never ran: close its handles here */
        int busy = uv_loop_close(&thread->loop);
        DN_ASSERT(busy == 0);
        if (thread->reader)
            dn_epoch_unregister(thread->reader);
        thread->reader = NULL;
    }
}

void dn_server_destroy(struct dn_server *server)
{
    if (!server)
        return;
    DN_ASSERT(atomic_load(&server->stopping));
    for (unsigned i = 0; server->threads && i < server->thread_count; i++) {
        struct dn_thread *thread = &server->threads[i];
        while (thread->pool) {
            struct dn_call *call = thread->pool;
            thread->pool = call->conn_next;
            dn_arena_destroy(call->arena);
            free(call);
        }
        DN_ASSERT(thread->call_count == 0);
        if (thread->completions)
            dn_queue_destroy(thread->completions);
        dn_buffer_free(&thread->scratch);
        free(thread->read_buffer);
        free(thread->out_buffer);
        dn_arena_destroy(thread->work);
    }
    free(server->threads);
    nghttp2_session_callbacks_del(server->callbacks);
    nghttp2_option_del(server->option);
    free(server->method_table);
    free(server->method_metrics);
    if (server->metrics_owned)
        dn_metrics_destroy(server->metrics);
    pthread_cond_destroy(&server->drained);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

bool dn_server_alive(const struct dn_server *server, uint64_t max_age_us)
{
    uint64_t now_us = dn_monotonic_us();
    for (unsigned i = 0; i < server->thread_count; i++) {
        uint64_t turned_us = atomic_load_explicit(&server->threads[i].turned_us, memory_order_relaxed);
        if (now_us > turned_us && now_us - turned_us > max_age_us)
            return false;
    }
    return true;
}
