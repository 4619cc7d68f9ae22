/* The proxy's thread.
 *
 * Happy path: accept -> who dialled (proxy_who.c) -> connect to the node itself -> for each direction, a
 * pipe: take_in() reads, damages and stamps each piece with the time it may leave; put_out() writes what is
 * due.
 *
 * A link that is cut holds everything, the news of an end included, as a silent network does: its pieces
 * leave when it is healed. A new connection over a cut link is taken (the kernel does that) but led nowhere
 * until both directions are whole. When a side ends with an error, or a connection cannot be made, the other
 * side is reset. A pipe holds at most PIPE_MAX_BYTES; then it does not read. */
#include "chaos/proxy.h"

#include "base/clock.h"
#include "base/text.h"
#include "chaos/proxy_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE_BYTES 16384
#define PIPE_MAX_BYTES (1u << 20)
#define CONNECTIONS_MAX 512
#define BACKLOG 128
#define ACCEPTS_MAX 16 /* of one port in a turn */

struct piece {
    struct piece *next;
    uint64_t due_ns;
    size_t length, offset;
    uint8_t bytes[];
};

enum ending { GOES_ON, AT_END, BROKEN };

struct pipe {
    struct piece *first, *last;
    size_t bytes;
    uint64_t last_due_ns;
    enum ending ending; /* of its reading side; told to the other when nothing is queued before it */
    bool told, full;    /* full: the socket it writes to takes no more for now */
};

/* fd[0]: to the node that dialled; fd[1]: to the one it dialled. pipe[0] carries from fd[0] to fd[1]. */
struct connection {
    int fd[2];
    unsigned place[2];
    struct pipe pipe[2];
    bool dialling, connected;
    bool dead;
};

struct port {
    int fd;
    struct sockaddr_in listens, target;
};

struct proxy {
    unsigned nodes;
    int wake;
    pthread_t thread;
    bool running;

    pthread_mutex_t lock; /* of all that follows; the thread lets it go while it polls */
    bool stop;
    struct port ports[NET_PLACES];
    pid_t pids[NET_PLACES];
    struct net_link links[NET_PLACES][NET_PLACES];
    struct net_counts counts;
    struct connection *connections[CONNECTIONS_MAX];
    size_t count;
    uint64_t random;
};

static uint64_t draw(struct proxy *p) /* xorshift64 */
{
    p->random ^= p->random << 13;
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    return p->random >> 8;
}

static bool chance(struct proxy *p, unsigned per_mille)
{
    return per_mille > 0 && draw(p) % 1000 < per_mille;
}

static const struct net_link *link_of(const struct proxy *p, const struct connection *k, int way)
{
    return &p->links[k->place[way]][k->place[1 - way]];
}

/* ---- ends -----------------------------------------------------------------------------------------------
 */

static void reset(int fd)
{
    const struct linger now = {.l_onoff = 1};

    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static void bury(struct connection *k)
{
    for (int way = 0; way < 2; way++) {
        for (struct piece *piece = k->pipe[way].first, *next; piece != NULL; piece = next) {
            next = piece->next;
            free(piece);
        }
        reset(k->fd[way]);
    }
    free(k);
}

/* ---- bytes -----------------------------------------------------------------------------------------------
 */

static uint64_t due(struct proxy *p, struct pipe *pipe, const struct net_link *link, size_t length)
{
    uint64_t now = dn_monotonic_ns(), at = now + (uint64_t)link->delay_ms * 1000000;

    if (link->jitter_ms > 0)
        at += draw(p) % ((uint64_t)link->jitter_ms * 1000000);
    if (link->rate_kib > 0) {
        uint64_t begin = pipe->last_due_ns > now ? pipe->last_due_ns : now;
        uint64_t end = begin + (uint64_t)length * 1000000000 / ((uint64_t)link->rate_kib * 1024);
        at = end > at ? end : at;
    }
    pipe->last_due_ns = at > pipe->last_due_ns ? at : pipe->last_due_ns;
    return pipe->last_due_ns;
}

static void queue(struct pipe *pipe, struct piece *piece)
{
    piece->next = NULL;
    if (pipe->last != NULL)
        pipe->last->next = piece;
    else
        pipe->first = piece;
    pipe->last = piece;
    pipe->bytes += piece->length;
}

static void damage(struct proxy *p, struct pipe *pipe, const struct net_link *link, struct piece *piece)
{
    if (chance(p, link->corrupt_pm)) {
        uint64_t bit = draw(p) % (piece->length * 8);
        piece->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        p->counts.corrupted++;
    }
    if (chance(p, link->break_pm)) {
        piece->length /= 2;
        pipe->ending = BROKEN;
        p->counts.lost++;
    }
}

static void take_in(struct proxy *p, struct connection *k, int way)
{
    struct pipe *pipe = &k->pipe[way];
    const struct net_link *link = link_of(p, k, way);

    while (pipe->ending == GOES_ON && pipe->bytes < PIPE_MAX_BYTES) {
        struct piece *piece = malloc(sizeof *piece + PIECE_BYTES);
        if (piece == NULL)
            return; /* again next turn */
        ssize_t length = recv(k->fd[way], piece->bytes, PIECE_BYTES, MSG_DONTWAIT);
        if (length <= 0) {
            free(piece);
            if (length == 0)
                pipe->ending = AT_END;
            else if (errno != EAGAIN && errno != EINTR)
                pipe->ending = BROKEN;
            return;
        }
        piece->length = (size_t)length;
        piece->offset = 0;
        p->counts.cut += link->cut; /* held, that is */
        damage(p, pipe, link, piece);
        piece->due_ns = due(p, pipe, link, piece->length);
        queue(pipe, piece);
    }
}

/* Writes what is due; then tells the end, if there is one. */
static void put_out(struct proxy *p, struct connection *k, int way)
{
    struct pipe *pipe = &k->pipe[way];
    int to = k->fd[1 - way];

    pipe->full = false;
    if (link_of(p, k, way)->cut)
        return;
    while (k->connected && pipe->first != NULL && pipe->first->due_ns <= dn_monotonic_ns()) {
        struct piece *piece = pipe->first;
        size_t left = piece->length - piece->offset;
        ssize_t sent =
            left == 0 ? 0 : send(to, piece->bytes + piece->offset, left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            pipe->full = errno == EAGAIN || errno == EINTR;
            k->dead |= !pipe->full && !link_of(p, k, 1 - way)->cut;
            pipe->full |= !k->dead;
            return;
        }
        piece->offset += (size_t)sent;
        if (piece->offset < piece->length) {
            pipe->full = true;
            return;
        }
        pipe->first = piece->next;
        pipe->last = pipe->first == NULL ? NULL : pipe->last;
        pipe->bytes -= piece->length;
        p->counts.sent++;
        free(piece);
    }
    if (pipe->first != NULL || pipe->ending == GOES_ON || pipe->told)
        return;
    if (pipe->ending == BROKEN || !k->connected) {
        k->dead = true;
        return;
    }
    shutdown(to, SHUT_WR);
    pipe->told = true;
    k->dead |= k->pipe[1 - way].told;
}

/* ---- connections
 * ------------------------------------------------------------------------------------------- */

static void dial(struct proxy *p, struct connection *k)
{
    const struct port *port = &p->ports[k->place[1]];
    int on = 1;

    if (k->dialling || link_of(p, k, 0)->cut || link_of(p, k, 1)->cut)
        return;
    k->dialling = true;
    k->fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (k->fd[1] < 0 ||
        (connect(k->fd[1], (const struct sockaddr *)&port->target, sizeof port->target) != 0 &&
         errno != EINPROGRESS)) {
        k->dead = true;
        return;
    }
    setsockopt(k->fd[1], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* After poll said that the socket can be written to, or failed. */
static void dialled(struct connection *k)
{
    int why = 0;
    socklen_t size = sizeof why;

    if (k->connected)
        return;
    if (getsockopt(k->fd[1], SOL_SOCKET, SO_ERROR, &why, &size) != 0 || why != 0)
        k->dead = true;
    else
        k->connected = true;
}

static unsigned who_dialled(const struct proxy *p, unsigned node, const struct sockaddr_in *from)
{
    uint64_t inode = proxy_socket_inode(from, &p->ports[node].listens);

    for (unsigned i = 1; inode != 0 && i <= p->nodes; i++)
        if (i != node && p->pids[i] != 0 && proxy_process_has(p->pids[i], inode))
            return i;
    return 0;
}

static void take_connection(struct proxy *p, unsigned node, int fd, const struct sockaddr_in *from)
{
    unsigned dialler = who_dialled(p, node, from);
    struct connection *k = NULL;
    int on = 1;

    /* Nobody: it has ended already, or is no node of ours. */
    if (dialler != 0 && !p->links[dialler][node].reset && !p->links[node][dialler].reset &&
        p->count < CONNECTIONS_MAX)
        k = calloc(1, sizeof *k);
    if (k == NULL) {
        reset(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    k->fd[0] = fd;
    k->fd[1] = -1;
    k->place[0] = dialler;
    k->place[1] = node;
    p->connections[p->count++] = k;
}

static void take_connections(struct proxy *p, unsigned node)
{
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        int fd = accept4(p->ports[node].fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        take_connection(p, node, fd, &from);
    }
}

/* ---- the thread
 * -------------------------------------------------------------------------------------------- */

static void turn(struct proxy *p)
{
    size_t kept = 0;

    for (size_t i = 0; i < p->count; i++) {
        struct connection *k = p->connections[i];
        dial(p, k);
        for (int way = 0; way < 2; way++) {
            if (!k->dead && k->fd[way] >= 0 && (way == 0 || k->connected))
                take_in(p, k, way);
            if (!k->dead)
                put_out(p, k, way);
            k->dead |= link_of(p, k, way)->reset;
        }
        if (k->dead)
            bury(k);
        else
            p->connections[kept++] = k;
    }
    p->count = kept;
}

/* What the socket on this side is waited for. */
static short interest(const struct proxy *p, const struct connection *k, int side)
{
    const struct pipe *in = &k->pipe[side], *out = &k->pipe[1 - side];
    short events = 0;

    if (side == 1 && !k->connected)
        return k->dialling ? POLLOUT : 0;
    if (in->ending == GOES_ON && in->bytes < PIPE_MAX_BYTES)
        events |= POLLIN;
    if (out->full && !link_of(p, k, 1 - side)->cut)
        events |= POLLOUT;
    return events;
}

static uint64_t next_due(const struct proxy *p)
{
    uint64_t next = UINT64_MAX;

    for (size_t i = 0; i < p->count; i++)
        for (int way = 0; way < 2; way++) {
            const struct connection *k = p->connections[i];
            const struct pipe *pipe = &k->pipe[way];
            if (k->connected && pipe->first != NULL && !pipe->full && !link_of(p, k, way)->cut &&
                pipe->first->due_ns < next)
                next = pipe->first->due_ns;
        }
    return next;
}

static void wait_for_more(struct proxy *p, struct pollfd *fds)
{
    size_t count = 0, listed = p->count;
    uint64_t next = next_due(p), now = dn_monotonic_ns();
    struct timespec pause, *limit = NULL;
    eventfd_t woken;

    fds[count++] = (struct pollfd){.fd = p->wake, .events = POLLIN};
    for (unsigned i = 1; i <= p->nodes; i++)
        fds[count++] = (struct pollfd){.fd = p->ports[i].fd, .events = POLLIN};
    for (size_t i = 0; i < listed; i++)
        for (int side = 0; side < 2; side++) {
            short events = interest(p, p->connections[i], side);
            fds[count++] =
                (struct pollfd){.fd = events == 0 ? -1 : p->connections[i]->fd[side], .events = events};
        }
    if (next != UINT64_MAX) {
        uint64_t ns = next > now ? next - now : 0;
        pause = (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
        limit = &pause;
    }
    pthread_mutex_unlock(&p->lock);
    (void)ppoll(fds, count, limit, NULL);
    pthread_mutex_lock(&p->lock);
    (void)eventfd_read(p->wake, &woken);
    for (size_t i = 0; i < listed; i++) {
        struct connection *k = p->connections[i];
        const struct pollfd *dialling = &fds[1 + p->nodes + 2 * i + 1];
        if (!k->connected && dialling->fd >= 0 && dialling->revents != 0)
            dialled(k);
    }
    for (unsigned i = 1; i <= p->nodes; i++)
        if (fds[i].fd >= 0 && fds[i].revents & POLLIN)
            take_connections(p, i);
}

static void *run(void *data)
{
    struct proxy *p = data;
    static const size_t ROOM = 1 + NET_PLACES + 2 * CONNECTIONS_MAX;
    struct pollfd *fds = calloc(ROOM, sizeof *fds);

    DN_ASSERT(fds != NULL);
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        wait_for_more(p, fds);
        turn(p);
    }
    pthread_mutex_unlock(&p->lock);
    free(fds);
    return NULL;
}

/* ---- life
 * -------------------------------------------------------------------------------------------------- */

enum dn_code proxy_create(unsigned nodes, struct proxy **ret, struct dn_error *err)
{
    struct proxy *p = calloc(1, sizeof *p);

    if (p == NULL)
        return dn_fail(err, DN_NO_MEMORY, "the proxy between the nodes");
    DN_ASSERT(nodes < NET_PLACES);
    p->nodes = nodes;
    p->random = dn_monotonic_ns() | 1;
    pthread_mutex_init(&p->lock, NULL);
    for (unsigned i = 0; i < NET_PLACES; i++)
        p->ports[i].fd = -1;
    p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->wake < 0 || pthread_create(&p->thread, NULL, run, p) != 0) {
        proxy_destroy(p);
        return dn_fail(err, DN_EXHAUSTED, "no thread for the proxy between the nodes");
    }
    p->running = true;
    *ret = p;
    return DN_OK;
}

static void wake(struct proxy *p)
{
    (void)eventfd_write(p->wake, 1);
}

void proxy_destroy(struct proxy *p)
{
    if (p == NULL)
        return;
    if (p->running) {
        pthread_mutex_lock(&p->lock);
        p->stop = true;
        pthread_mutex_unlock(&p->lock);
        wake(p);
        pthread_join(p->thread, NULL);
    }
    while (p->count > 0)
        bury(p->connections[--p->count]);
    for (unsigned i = 0; i < NET_PLACES; i++)
        if (p->ports[i].fd >= 0)
            close(p->ports[i].fd);
    if (p->wake >= 0)
        close(p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

enum dn_code proxy_listen(struct proxy *p, unsigned node, const char *target, char *ret_address, size_t size,
                          struct dn_error *err)
{
    struct sockaddr_in at = {.sin_family = AF_INET}, to = at;
    socklen_t length = sizeof at;
    char host[256];
    uint16_t port;

    DN_ASSERT(node >= 1 && node <= p->nodes);
    if (!dn_parse_address(target, host, &port) || inet_pton(AF_INET, host, &to.sin_addr) != 1)
        return dn_fail(err, DN_INVALID, "'%s' is no IPv4 address and port", target);
    to.sin_port = htons(port);
    at.sin_addr = to.sin_addr;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &length) != 0) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        return dn_fail(err, DN_UNAVAILABLE, "a port of the proxy at %s: %s", host, strerror(why));
    }
    pthread_mutex_lock(&p->lock);
    p->ports[node] = (struct port){.fd = fd, .listens = at, .target = to};
    pthread_mutex_unlock(&p->lock);
    wake(p);
    snprintf(ret_address, size, "%s:%u", host, ntohs(at.sin_port));
    return DN_OK;
}

void proxy_process(struct proxy *p, unsigned node, pid_t pid)
{
    pthread_mutex_lock(&p->lock);
    p->pids[node] = pid;
    pthread_mutex_unlock(&p->lock);
}

void proxy_set(struct proxy *p, unsigned from, unsigned to, const struct net_link *link)
{
    DN_ASSERT(from < NET_PLACES && to < NET_PLACES);
    pthread_mutex_lock(&p->lock);
    p->links[from][to] = *link;
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

void proxy_counts(struct proxy *p, struct net_counts *ret)
{
    pthread_mutex_lock(&p->lock);
    *ret = p->counts;
    pthread_mutex_unlock(&p->lock);
}
