#include "base/clock.h"
#include "base/text.h"
#include "client/internal.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Waits for a connect in progress; 0 or an errno value. */
static int wait_connected(int fd, uint64_t deadline_us)
{
    struct pollfd watched = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof error;

    for (;;) {
        uint64_t now_us = dn_monotonic_us();
        int count;

        if (now_us >= deadline_us)
            return ETIMEDOUT;
        count = poll(&watched, 1, (int)((deadline_us - now_us) / 1000 + 1));
        if (count > 0)
            break;
        if (count < 0 && errno != EINTR)
            return errno;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        return errno;
    return error;
}

static int dial_one(const struct addrinfo *info, uint64_t deadline_us, int *ret_fd)
{
    const int on = 1;
    int error;
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, info->ai_protocol);

    if (fd < 0)
        return errno;
    /* Small requests must not wait for the acknowledgement of the one before. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
        error = errno;
        goto fail;
    }
    if (connect(fd, info->ai_addr, info->ai_addrlen) != 0) {
        error = errno;
        if (error == EINPROGRESS)
            error = wait_connected(fd, deadline_us);
        if (error != 0)
            goto fail;
    }
    *ret_fd = fd;
    return 0;

fail:
    close(fd);
    return error;
}

enum dn_code dn_client_dial(const char *address, unsigned timeout_ms, int *ret_fd, struct dn_error *err)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    uint64_t deadline_us = dn_monotonic_us() + (uint64_t)timeout_ms * 1000;
    struct addrinfo *found = NULL;
    char host[256], service[8];
    uint16_t port;
    int error = EADDRNOTAVAIL;

    if (!dn_parse_address(address, host, &port) || port == 0)
        return dn_fail(err, DN_INVALID, "address '%s' is not HOST:PORT with a port of 1 to 65535", address);
    snprintf(service, sizeof service, "%u", (unsigned)port);
    error = getaddrinfo(host, service, &hints, &found);
    if (error != 0)
        return dn_fail(err, DN_UNAVAILABLE, "cannot resolve host '%s': %s", host,
                       error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    error = EADDRNOTAVAIL;
    for (const struct addrinfo *info = found; info != NULL; info = info->ai_next) {
        error = dial_one(info, deadline_us, ret_fd);
        if (error == 0)
            break;
    }
    freeaddrinfo(found);
    if (error != 0)
        return dn_fail(err, DN_UNAVAILABLE, "cannot connect to %s: %s", address, strerror(error));
    return DN_OK;
}
