/* A man in the middle on the loop of the tests: forwards connections, records what the diallers say, flips
 * bits. And a stranger: a bare socket. */
#ifndef DN_TESTS_UNIT_TRANSPORT_PROXY_H
#define DN_TESTS_UNIT_TRANSPORT_PROXY_H

#include "tests/unit/transport/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define PROXY_RECORD_MAX (1 << 20)

enum proxy_way { PROXY_FORTH, PROXY_BACK, PROXY_NOWAY }; /* dialler to acceptor, and back */

struct proxy {
    uv_loop_t *loop;
    uv_tcp_t listener;
    uint16_t port, target;
    unsigned pairs; /* open ones */
    enum proxy_way flip_way;
    size_t flip_at; /* byte of the connection's direction */
    uint8_t flip_bits;
    unsigned flips;
    bool dying; /* connections are taken and reset, `last_gasps` of them; then nobody listens */
    unsigned last_gasps;
    bool dead;
    uint8_t record[PROXY_RECORD_MAX]; /* of the latest connection, PROXY_FORTH */
    size_t record_length;
    uint8_t scratch[65536];
};

struct proxy_pair {
    struct proxy *proxy;
    uv_tcp_t ends[2]; /* the dialler's, the acceptor's */
    uv_connect_t connect;
    unsigned open;
    bool closing;
    size_t passed[2];
};

struct proxy_write {
    uv_write_t request;
    char bytes[];
};

static inline void proxy_pair_closed(uv_handle_t *handle)
{
    struct proxy_pair *pair = handle->data;
    if (--pair->open == 0) {
        pair->proxy->pairs--;
        free(pair);
    }
}

static inline void proxy_pair_close(struct proxy_pair *pair)
{
    if (!pair->closing) {
        pair->closing = true;
        uv_close((uv_handle_t *)&pair->ends[0], proxy_pair_closed);
        uv_close((uv_handle_t *)&pair->ends[1], proxy_pair_closed);
    }
}

static inline void proxy_written(uv_write_t *request, int status)
{
    (void)status;
    free(request);
}

static inline void proxy_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct proxy_pair *pair = handle->data;
    (void)suggested;
    *buf = uv_buf_init((char *)pair->proxy->scratch, sizeof pair->proxy->scratch);
}

static inline void proxy_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct proxy_pair *pair = stream->data;
    struct proxy *proxy = pair->proxy;
    enum proxy_way way = stream == (uv_stream_t *)&pair->ends[0] ? PROXY_FORTH : PROXY_BACK;
    uint8_t *bytes = (uint8_t *)buf->base;
    if (nread < 0) {
        proxy_pair_close(pair); /* what was read before is written, as far as the sockets take it */
        return;
    }
    size_t length = (size_t)nread, before = pair->passed[way];
    if (way == proxy->flip_way && proxy->flip_at >= before && proxy->flip_at < before + length) {
        bytes[proxy->flip_at - before] ^= proxy->flip_bits;
        proxy->flips++;
    }
    if (way == PROXY_FORTH && before + length <= sizeof proxy->record) {
        memcpy(proxy->record + before, bytes, length);
        proxy->record_length = before + length;
    }
    pair->passed[way] += length;
    uv_buf_t out = uv_buf_init((char *)bytes, (unsigned)length);
    int rv = uv_try_write((uv_stream_t *)&pair->ends[way == PROXY_FORTH], &out, 1);
    size_t done = rv > 0 ? (size_t)rv : 0;
    if (done < length) {
        struct proxy_write *write = malloc(sizeof *write + length - done);
        assert_non_null(write);
        memcpy(write->bytes, bytes + done, length - done);
        out = uv_buf_init(write->bytes, (unsigned)(length - done));
        if (uv_write(&write->request, (uv_stream_t *)&pair->ends[way == PROXY_FORTH], &out, 1,
                     proxy_written) != 0) {
            free(write);
            proxy_pair_close(pair);
        }
    }
}

static inline void proxy_connected(uv_connect_t *connect, int status)
{
    struct proxy_pair *pair = connect->data;
    if (pair->closing) {
        return;
    }
    if (status != 0) {
        proxy_pair_close(pair);
        return;
    }
    uv_read_start((uv_stream_t *)&pair->ends[0], proxy_alloc, proxy_read);
    uv_read_start((uv_stream_t *)&pair->ends[1], proxy_alloc, proxy_read);
}

static inline void proxy_gasped(uv_handle_t *handle)
{
    free(handle);
}

static inline void proxy_died(uv_handle_t *handle)
{
    ((struct proxy *)handle->data)->dead = true;
}

/* As a process does whose connections are gone already and whose listening socket is not. */
static inline void proxy_gasp(struct proxy *proxy)
{
    uv_tcp_t *end = calloc(1, sizeof *end);
    assert_non_null(end);
    uv_tcp_init(proxy->loop, end);
    assert_int_equal(uv_accept((uv_stream_t *)&proxy->listener, (uv_stream_t *)end), 0);
    assert_int_equal(uv_tcp_close_reset(end, proxy_gasped), 0);
    if (--proxy->last_gasps == 0) {
        uv_close((uv_handle_t *)&proxy->listener, proxy_died);
    }
}

static inline void proxy_accept(uv_stream_t *listener, int status)
{
    struct proxy *proxy = listener->data;
    if (proxy->dying) {
        proxy_gasp(proxy);
        return;
    }
    struct proxy_pair *pair = calloc(1, sizeof *pair);
    struct sockaddr_in address;
    assert_int_equal(status, 0);
    assert_non_null(pair);
    pair->proxy = proxy;
    pair->open = 2;
    pair->connect.data = pair;
    proxy->pairs++;
    for (int i = 0; i < 2; i++) {
        uv_tcp_init(proxy->loop, &pair->ends[i]);
        pair->ends[i].data = pair;
    }
    assert_int_equal(uv_accept(listener, (uv_stream_t *)&pair->ends[0]), 0);
    uv_ip4_addr("127.0.0.1", proxy->target, &address);
    if (uv_tcp_connect(&pair->connect, &pair->ends[1], (const struct sockaddr *)&address, proxy_connected) !=
        0) {
        proxy_pair_close(pair);
    }
}

static inline struct proxy *proxy_start(struct net *net, uint16_t target)
{
    struct proxy *proxy = calloc(1, sizeof *proxy);
    struct sockaddr_in address;
    int length = sizeof address;
    assert_non_null(proxy);
    proxy->loop = &net->loop;
    proxy->target = target;
    proxy->flip_way = PROXY_NOWAY;
    uv_tcp_init(&net->loop, &proxy->listener);
    proxy->listener.data = proxy;
    uv_ip4_addr("127.0.0.1", 0, &address);
    assert_int_equal(uv_tcp_bind(&proxy->listener, (const struct sockaddr *)&address, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&proxy->listener, 16, proxy_accept), 0);
    uv_tcp_getsockname(&proxy->listener, (struct sockaddr *)&address, &length);
    proxy->port = ntohs(address.sin_port);
    return proxy;
}

static inline void proxy_listener_closed(uv_handle_t *handle)
{
    free(handle->data);
}

/* When no transport uses it any more. */
static inline void proxy_stop(struct net *net, struct proxy *proxy)
{
    NET_UNTIL(net, proxy->pairs == 0);
    if (proxy->dead) {
        free(proxy);
        return;
    }
    uv_close((uv_handle_t *)&proxy->listener, proxy_listener_closed);
}

/* ---- strangers ---------------------------------------------------------------------------------------- */

static inline int stranger(uint16_t port)
{
    struct sockaddr_in address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    uv_ip4_addr("127.0.0.1", port, &address);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static inline void stranger_says(int fd, const void *bytes, size_t length)
{
    assert_int_equal(send(fd, bytes, length, MSG_NOSIGNAL), length);
}

/* Has the node closed the connection? What it said before is thrown away. */
static inline bool stranger_dropped(int fd)
{
    uint8_t bytes[512];
    ssize_t rv = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    return rv == 0 || (rv < 0 && errno != EAGAIN && errno != EINTR);
}

#endif
