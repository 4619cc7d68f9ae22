/* Network namespaces and TUN devices, by system calls alone: no program is started and nothing is left that
 * has a name in the file system, so that there is nothing to clean up after a run that was killed. */
#include "chaos/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MTU_BYTES 9000     /* fewer packets to move than with 1500 */
#define QUEUE_PACKETS 5000 /* what the kernel holds for the switch when that is late */
#define NETMASK "255.255.255.0"

static enum dn_code refused(struct dn_error *err, const char *what)
{
    return dn_fail(err, DN_UNAVAILABLE, "%s: %s", what, strerror(errno));
}

static int control(int fd, unsigned long request, const char *device, struct ifreq *r)
{
    snprintf(r->ifr_name, sizeof r->ifr_name, "%s", device);
    return ioctl(fd, request, r);
}

static int set_address(int fd, unsigned long request, const char *device, const char *address)
{
    struct ifreq r = {0};
    struct sockaddr_in in = {.sin_family = AF_INET};

    inet_pton(AF_INET, address, &in.sin_addr);
    memcpy(&r.ifr_addr, &in, sizeof in);
    return control(fd, request, device, &r);
}

static int bring_up(int fd, const char *device)
{
    struct ifreq r = {0};

    if (control(fd, SIOCGIFFLAGS, device, &r) != 0)
        return -1;
    r.ifr_flags |= IFF_UP;
    return control(fd, SIOCSIFFLAGS, device, &r);
}

static enum dn_code configure(const char *device, const char *address, struct dn_error *err)
{
    struct ifreq mtu = {.ifr_mtu = MTU_BYTES}, queue = {.ifr_qlen = QUEUE_PACKETS};
    enum dn_code code = DN_OK;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return refused(err, "a socket to configure devices with");
    if (control(fd, SIOCSIFMTU, device, &mtu) != 0 || control(fd, SIOCSIFTXQLEN, device, &queue) != 0 ||
        set_address(fd, SIOCSIFADDR, device, address) != 0 ||
        set_address(fd, SIOCSIFNETMASK, device, NETMASK) != 0 || bring_up(fd, device) != 0)
        code = refused(err, "configure a TUN device");
    close(fd);
    return code;
}

enum dn_code net_tun_create(const char *name, const char *address, int *ret_tun, struct dn_error *err)
{
    struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    enum dn_code code;

    if (fd < 0)
        return refused(err, "open /dev/net/tun");
    code = control(fd, TUNSETIFF, name, &r) == 0 ? configure(name, address, err)
                                                 : refused(err, "make a TUN device");
    if (code != DN_OK) {
        close(fd);
        return code;
    }
    *ret_tun = fd;
    return DN_OK;
}

enum dn_code net_address_add(const char *device, const char *address, struct dn_error *err)
{
    char label[IFNAMSIZ];
    enum dn_code code = DN_OK;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return refused(err, "a socket to configure devices with");
    snprintf(label, sizeof label, "%.12s:1", device); /* an address beside the first has a label of its own */
    if (set_address(fd, SIOCSIFADDR, label, address) != 0 ||
        set_address(fd, SIOCSIFNETMASK, label, NETMASK) != 0)
        code = refused(err, "give a TUN device one more address");
    close(fd);
    return code;
}

/* ---- a namespace ----------------------------------------------------------------------------------------
 */

struct making {
    const char *address;
    int space, tun;
    enum dn_code code;
    struct dn_error *err;
};

/* On a thread of its own, because unshare(2) moves the thread that calls it for good. */
static void *make_space(void *data)
{
    struct making *m = data;

    if (unshare(CLONE_NEWNET) != 0) {
        m->code = refused(m->err, "make a network namespace");
        return NULL;
    }
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        (void)bring_up(fd, "lo"); /* nothing here needs it */
        close(fd);
    }
    m->code = net_tun_create("eth0", m->address, &m->tun, m->err);
    if (m->code != DN_OK)
        return NULL;
    m->space = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (m->space < 0) {
        m->code = refused(m->err, "open /proc/thread-self/ns/net");
        close(m->tun);
    }
    return NULL;
}

enum dn_code net_space_create(const char *address, int *ret_space, int *ret_tun, struct dn_error *err)
{
    struct making m = {.address = address, .err = err};
    pthread_t thread;

    if (pthread_create(&thread, NULL, make_space, &m) != 0)
        return dn_fail(err, DN_UNAVAILABLE, "no thread to make a network namespace on");
    pthread_join(thread, NULL);
    if (m.code != DN_OK)
        return m.code;
    *ret_space = m.space;
    *ret_tun = m.tun;
    return DN_OK;
}
