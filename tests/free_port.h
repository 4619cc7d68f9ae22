/* A loopback port that nobody has, for a listener that is started later, perhaps more than once. Below those
 * that the system gives to outgoing connections (from 32768 on): between the look and the start, one of these
 * would take it, and then a test fails once in many runs. */
#ifndef DN_TESTS_FREE_PORT_H
#define DN_TESTS_FREE_PORT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

/* 0: none was found. One thread at a time. */
static inline uint16_t test_free_port(void)
{
    enum { FIRST = 10000, COUNT = 20000, STRIDE = 37 };
    static unsigned next;

    if (next == 0)
        next = (unsigned)getpid() * STRIDE; /* tests that run side by side begin at other places */
    for (unsigned tries = 0; tries < COUNT; tries++) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)(FIRST + next++ % COUNT)),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int taken = fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0;
        if (fd >= 0)
            close(fd);
        if (!taken)
            return ntohs(address.sin_port);
    }
    return 0;
}

#endif
