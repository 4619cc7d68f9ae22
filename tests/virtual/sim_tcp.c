/* libuv's TCP handles on the simulated network, and names. A handle's socket is in its reserved field. */
#include "tests/virtual/internal.h"

#include <arpa/inet.h>
#include <netdb.h>

#define READS_A_TURN 32 /* as in libuv */
#define RESOLVE_MAX_NS (5 * SIM_MS)
#define FREE_BYTES (UINT64_C(1) << 30)
#define BLOCK_BYTES 4096

static struct socket *socket_of(const uv_tcp_t *handle)
{
    return handle->u.reserved[0];
}

static struct process *process_of(const uv_tcp_t *handle)
{
    return loop_process(handle->loop);
}

int uv_tcp_init(uv_loop_t *uv, uv_tcp_t *handle)
{
    handle_add(uv, (uv_handle_t *)handle, UV_TCP);
    handle->u.reserved[0] = NULL;
    handle->connect_req = NULL;
    return 0;
}

int uv_tcp_nodelay(uv_tcp_t *handle, int enable)
{
    (void)handle, (void)enable;
    return 0;
}

int uv_tcp_keepalive(uv_tcp_t *handle, int enable, unsigned delay_s)
{
    (void)handle, (void)enable, (void)delay_s;
    return 0;
}

int uv_fileno(const uv_handle_t *handle, uv_os_fd_t *fd)
{
    (void)handle;
    *fd = FD_FIRST + FD_ROOM - 1; /* options are set on it, nothing else */
    return 0;
}

/* ---- connecting --------------------------------------------------------------------------------------- */

static void connect_due(void *arg)
{
    uv_tcp_t *handle = arg;
    uv_connect_t *request = handle->connect_req;
    handle->connect_req = NULL;
    loop_request(handle->loop, -1);
    request->cb(request, socket_of(handle)->connect_status);
}

void tcp_connected(uv_tcp_t *handle, int status)
{
    socket_of(handle)->connect_status = status;
    loop_post(process_of(handle), connect_due, handle);
}

int uv_tcp_connect(uv_connect_t *request, uv_tcp_t *handle, const struct sockaddr *address, uv_connect_cb cb)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
    uint32_t host = ntohl(in->sin_addr.s_addr) & 0xff;
    SIM_CHECK(address->sa_family == AF_INET && host >= 1 && host <= machine_count, "no such machine");
    request->cb = cb;
    request->handle = (uv_stream_t *)handle;
    handle->connect_req = request;
    loop_request(handle->loop, 1);
    handle->u.reserved[0] = net_socket(process_of(handle), handle);
    net_connect(socket_of(handle), host - 1);
    return 0;
}

/* ---- listening ---------------------------------------------------------------------------------------- */

int uv_tcp_open(uv_tcp_t *handle, uv_os_sock_t fd)
{
    (void)handle, (void)fd; /* which process it is says where it listens */
    return 0;
}

int uv_listen(uv_stream_t *stream, int backlog, uv_connection_cb cb)
{
    uv_tcp_t *handle = (uv_tcp_t *)stream;
    (void)backlog;
    handle->connection_cb = cb;
    handle->u.reserved[0] = net_socket(process_of(handle), handle);
    net_listen(socket_of(handle));
    handle_active((uv_handle_t *)handle, true);
    return 0;
}

static void listen_due(void *arg)
{
    uv_tcp_t *handle = arg;
    struct socket *s = socket_of(handle);
    s->read_posted = false;
    while (s->accepted == NULL && !uv_is_closing((uv_handle_t *)handle) &&
           (s->accepted = net_accept(s)) != NULL) {
        handle->connection_cb((uv_stream_t *)handle, 0);
    }
}

int uv_accept(uv_stream_t *server, uv_stream_t *client)
{
    struct socket *listener = socket_of((uv_tcp_t *)server), *s = listener->accepted;
    if (s == NULL) {
        return UV_EAGAIN;
    }
    listener->accepted = NULL;
    s->handle = (uv_tcp_t *)client;
    s->handle->u.reserved[0] = s;
    tcp_readable((uv_tcp_t *)server); /* there may be more */
    return 0;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static void read_due(void *arg)
{
    uv_tcp_t *handle = arg;
    struct socket *s = socket_of(handle);
    s->read_posted = false;
    for (int i = 0; i < READS_A_TURN && s->reading && net_readable(s); i++) {
        uv_buf_t buf = {NULL, 0};
        handle->alloc_cb((uv_handle_t *)handle, 65536, &buf);
        SIM_CHECK(buf.len > 0, "no room to read into");
        ssize_t n = net_receive(s, (uint8_t *)buf.base, buf.len);
        if (n < 0) {
            s->reading = false;
            handle_active((uv_handle_t *)handle, false);
        }
        handle->read_cb((uv_stream_t *)handle, n, &buf);
    }
    if (s->reading && net_readable(s)) {
        tcp_readable(handle);
    }
}

void tcp_readable(uv_tcp_t *handle)
{
    struct socket *s = socket_of(handle);
    bool listening = s->state == SOCKET_LISTENING;
    if (!s->read_posted && (listening || s->reading)) {
        s->read_posted = true;
        loop_post(process_of(handle), listening ? listen_due : read_due, handle);
    }
}

int uv_read_start(uv_stream_t *stream, uv_alloc_cb alloc_cb, uv_read_cb read_cb)
{
    uv_tcp_t *handle = (uv_tcp_t *)stream;
    handle->alloc_cb = alloc_cb;
    handle->read_cb = read_cb;
    socket_of(handle)->reading = true;
    handle_active((uv_handle_t *)handle, true);
    if (net_readable(socket_of(handle))) {
        tcp_readable(handle);
    }
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

int uv_try_write(uv_stream_t *stream, const uv_buf_t bufs[], unsigned count)
{
    uv_tcp_t *handle = (uv_tcp_t *)stream;
    struct socket *s = socket_of(handle);
    SIM_CHECK(count == 1 && s != NULL, "one buffer, on a connection");
    if (handle->connect_req != NULL || s->write != NULL) {
        return UV_EAGAIN;
    }
    return (int)net_send(s, (const uint8_t *)bufs[0].base, bufs[0].len);
}

static void write_due(void *arg)
{
    uv_tcp_t *handle = arg;
    struct socket *s = socket_of(handle);
    uv_write_t *request = s->write;
    s->write = NULL;
    s->write_posted = false;
    loop_request(handle->loop, -1);
    request->cb(request, s->write_status);
}

void tcp_writable(uv_tcp_t *handle)
{
    struct socket *s = socket_of(handle);
    if (s->write == NULL || s->write_posted) {
        return;
    }
    while (s->write_left > 0 && s->write_status == 0) {
        ssize_t n = net_send(s, s->write_bytes, s->write_left);
        if (n == UV_EAGAIN) {
            return; /* again when something arrived at the other end */
        }
        s->write_status = n < 0 ? (int)n : 0;
        s->write_bytes += n < 0 ? 0 : n;
        s->write_left -= n < 0 ? 0 : (size_t)n;
    }
    s->write_posted = true;
    loop_post(process_of(handle), write_due, handle);
}

int uv_write(uv_write_t *request, uv_stream_t *stream, const uv_buf_t bufs[], unsigned count, uv_write_cb cb)
{
    uv_tcp_t *handle = (uv_tcp_t *)stream;
    struct socket *s = socket_of(handle);
    SIM_CHECK(count == 1 && s != NULL && s->write == NULL, "one buffer, one write at a time");
    request->cb = cb;
    request->handle = stream;
    s->write = request;
    s->write_bytes = (const uint8_t *)bufs[0].base;
    s->write_left = bufs[0].len;
    s->write_status = 0;
    loop_request(handle->loop, 1);
    tcp_writable(handle);
    return 0;
}

/* ---- closing ------------------------------------------------------------------------------------------ */

void tcp_close(uv_handle_t *closing)
{
    uv_tcp_t *handle = (uv_tcp_t *)closing;
    struct socket *s = socket_of(handle);
    if (s != NULL) {
        if (s->accepted != NULL) {
            net_shut(s->accepted);
            s->accepted = NULL;
        }
        s->reading = false;
        net_shut(s);
    }
}

void tcp_finish(uv_handle_t *closing)
{
    uv_tcp_t *handle = (uv_tcp_t *)closing;
    struct socket *s = socket_of(handle);
    if (handle->connect_req != NULL) {
        uv_connect_t *request = handle->connect_req;
        handle->connect_req = NULL;
        loop_request(handle->loop, -1);
        request->cb(request, UV_ECANCELED);
    }
    if (s != NULL && s->write != NULL) {
        s->write_status = UV_ECANCELED;
        write_due(handle);
    }
}

/* ---- addresses, names, free space --------------------------------------------------------------------- */

int uv_ip4_addr(const char *host, int port, struct sockaddr_in *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->sin_family = AF_INET;
    ret->sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, host, &ret->sin_addr) == 1 ? 0 : UV_EINVAL;
}

int uv_ip6_addr(const char *host, int port, struct sockaddr_in6 *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->sin6_family = AF_INET6;
    ret->sin6_port = htons((uint16_t)port);
    return inet_pton(AF_INET6, host, &ret->sin6_addr) == 1 ? 0 : UV_EINVAL;
}

int uv_ip_name(const struct sockaddr *address, char *ret, size_t size)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
    return inet_ntop(AF_INET, &in->sin_addr, ret, (socklen_t)size) != NULL ? 0 : UV_EINVAL;
}

int uv_tcp_getpeername(const uv_tcp_t *handle, struct sockaddr *ret, int *length)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(40000)};
    in.sin_addr.s_addr = htonl(0x0a000001u + socket_of(handle)->to);
    memcpy(ret, &in, sizeof in);
    *length = sizeof in;
    return 0;
}

uv_buf_t uv_buf_init(char *base, unsigned length)
{
    return (uv_buf_t){base, length};
}

/* Names: "node-<machine>". */
static void resolve_run(void *arg)
{
    uv_getaddrinfo_t *request = arg;
    unsigned machine;
    fiber_sleep(sim_random(RESOLVE_MAX_NS));
    request->addrinfo = NULL;
    request->retcode = UV_EAI_NONAME;
    if (sscanf(request->hostname, "node-%u", &machine) == 1 && machine >= 1 && machine <= machine_count) {
        struct addrinfo *info = calloc(1, sizeof *info + sizeof(struct sockaddr_in));
        struct sockaddr_in *in = (struct sockaddr_in *)(void *)(info + 1);
        in->sin_family = AF_INET;
        in->sin_port = htons(SIM_PORT);
        in->sin_addr.s_addr = htonl(0x0a000000u + machine);
        info->ai_addr = (struct sockaddr *)(void *)in;
        info->ai_addrlen = sizeof *in;
        request->addrinfo = info;
        request->retcode = 0;
    }
}

static void resolve_done(void *arg)
{
    uv_getaddrinfo_t *request = arg;
    loop_request(request->loop, -1);
    free(request->hostname);
    request->cb(request, request->retcode, request->addrinfo);
}

int uv_getaddrinfo(uv_loop_t *uv, uv_getaddrinfo_t *request, uv_getaddrinfo_cb cb, const char *node,
                   const char *service, const struct addrinfo *hints)
{
    (void)service, (void)hints;
    request->loop = uv;
    request->cb = cb;
    request->hostname = strdup(node);
    loop_request(uv, 1);
    pool_add(loop_process(uv), resolve_run, resolve_done, request);
    return 0;
}

void uv_freeaddrinfo(struct addrinfo *info)
{
    free(info);
}

static void statfs_run(void *arg)
{
    uv_fs_t *request = arg;
    uv_statfs_t *about = calloc(1, sizeof *about);
    about->f_bsize = BLOCK_BYTES;
    about->f_bavail = vdisk_is_full(current->machine) ? 0 : FREE_BYTES / BLOCK_BYTES;
    request->ptr = about;
    request->result = 0;
}

static void statfs_done(void *arg)
{
    uv_fs_t *request = arg;
    loop_request(request->loop, -1);
    request->cb(request);
}

int uv_fs_statfs(uv_loop_t *uv, uv_fs_t *request, const char *path, uv_fs_cb cb)
{
    (void)path;
    request->loop = uv;
    request->cb = cb;
    loop_request(uv, 1);
    pool_add(loop_process(uv), statfs_run, statfs_done, request);
    return 0;
}

void uv_fs_req_cleanup(uv_fs_t *request)
{
    free(request->ptr);
    request->ptr = NULL;
}
