/* System calls of the server's rooms, put here by the linker (--wrap): on simulated paths and descriptors
 * they go to the simulated disk, in a process the clocks and random numbers are the simulator's; the rest is
 * the system's. */
#include "tests/virtual/internal.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

static struct descriptor {
    bool used;
    struct inode *inode;
    uint64_t at;
    bool direct;    /* O_DIRECT: not by the page cache */
    char path[256]; /* of a directory: names are looked up below it */
} descriptors[SIM_MACHINES_MAX][FD_ROOM];

/* ---- descriptors and paths ---------------------------------------------------------------------------- */

static struct descriptor *descriptor(int fd)
{
    if (fd < FD_FIRST) {
        return NULL;
    }
    unsigned n = (unsigned)(fd - FD_FIRST);
    SIM_CHECK(n < SIM_MACHINES_MAX * FD_ROOM, "descriptor %d", fd);
    return &descriptors[n / FD_ROOM][n % FD_ROOM];
}

static unsigned machine_of(const struct descriptor *d)
{
    return (unsigned)((d - &descriptors[0][0]) / FD_ROOM);
}

void calls_forget(unsigned machine)
{
    memset(descriptors[machine], 0, sizeof descriptors[machine]);
}

static int result(int rv)
{
    if (rv < 0) {
        errno = -rv;
        return -1;
    }
    return rv;
}

/* The path inside its machine's disk; NULL: not a simulated one. */
static const char *inside(const char *path)
{
    size_t length = strlen(SIM_PREFIX);
    if (current == NULL || strncmp(path, SIM_PREFIX, length) != 0) {
        return NULL;
    }
    return strchr(path + length, '/') == NULL ? "" : strchr(path + length, '/');
}

static int take_descriptor(unsigned machine, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        if (!descriptors[machine][i].used) {
            descriptors[machine][i] = (struct descriptor){.used = true};
            return (int)(FD_FIRST + machine * FD_ROOM + i);
        }
    }
    return -EMFILE;
}

static int open_inside(const char *path, int flags)
{
    struct inode *inode = NULL;
    unsigned machine = current->machine;
    int rv = vdisk_lookup(machine, path, &inode);
    if ((flags & O_DIRECT) != 0 && !current->direct) {
        return result(-EINVAL); /* its file system has none */
    }
    if (rv == -ENOENT && (flags & O_CREAT) != 0) {
        rv = vdisk_create(machine, path, false, &inode);
    } else if (rv == 0 && (flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) {
        rv = -EEXIST;
    }
    if (rv == 0 && (flags & O_TRUNC) != 0) {
        rv = vdisk_resize(machine, inode, 0, false);
    }
    int fd = rv == 0 ? take_descriptor(machine, 0, FD_SOCKETS) : rv;
    if (fd >= 0) {
        descriptor(fd)->inode = inode;
        descriptor(fd)->direct = (flags & O_DIRECT) != 0;
        snprintf(descriptor(fd)->path, sizeof descriptor(fd)->path, "%s", path);
    }
    return result(fd);
}

static void below(int fd, const char *name, char out[512])
{
    snprintf(out, 512, "%s/%s", descriptor(fd)->path, name);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    if (inside(path) != NULL) {
        return open_inside(inside(path), flags);
    }
    va_list args;
    va_start(args, flags);
    int mode = va_arg(args, int);
    va_end(args);
    return __real_open(path, flags, mode);
}

int __real_openat(int folder, const char *path, int flags, ...);
int __wrap_openat(int folder, const char *path, int flags, ...)
{
    char whole[512];
    if (descriptor(folder) != NULL) {
        below(folder, path, whole);
        return open_inside(whole, flags);
    }
    va_list args;
    va_start(args, flags);
    int mode = va_arg(args, int);
    va_end(args);
    return __real_openat(folder, path, flags, mode);
}

int __real_close(int fd);
int __wrap_close(int fd)
{
    if (descriptor(fd) == NULL) {
        return __real_close(fd);
    }
    SIM_CHECK(descriptor(fd)->used, "descriptor %d is closed twice", fd);
    descriptor(fd)->used = false;
    return 0;
}

/* ---- bytes -------------------------------------------------------------------------------------------- */

static ssize_t count_or_error(ssize_t n)
{
    if (n < 0) {
        errno = (int)-n;
        return -1;
    }
    return n;
}

ssize_t __real_read(int fd, void *bytes, size_t length);
ssize_t __wrap_read(int fd, void *bytes, size_t length)
{
    struct descriptor *d = descriptor(fd);
    if (d == NULL) {
        return __real_read(fd, bytes, length);
    }
    ssize_t n = vdisk_read_at(machine_of(d), d->inode, d->at, bytes, length);
    d->at += n > 0 ? (uint64_t)n : 0;
    return count_or_error(n);
}

ssize_t __real_write(int fd, const void *bytes, size_t length);
ssize_t __wrap_write(int fd, const void *bytes, size_t length)
{
    struct descriptor *d = descriptor(fd);
    if (d == NULL) {
        return __real_write(fd, bytes, length);
    }
    ssize_t n = vdisk_write_at(machine_of(d), d->inode, d->at, bytes, length);
    d->at += n > 0 ? (uint64_t)n : 0;
    return count_or_error(n);
}

ssize_t __real_pread(int fd, void *bytes, size_t length, off_t at);
ssize_t __wrap_pread(int fd, void *bytes, size_t length, off_t at)
{
    struct descriptor *d = descriptor(fd);
    return d == NULL ? __real_pread(fd, bytes, length, at)
                     : count_or_error(vdisk_read_at(machine_of(d), d->inode, (uint64_t)at, bytes, length));
}

ssize_t __real_pwrite(int fd, const void *bytes, size_t length, off_t at);
ssize_t __wrap_pwrite(int fd, const void *bytes, size_t length, off_t at)
{
    struct descriptor *d = descriptor(fd);
    return d == NULL ? __real_pwrite(fd, bytes, length, at)
                     : count_or_error(vdisk_write_at(machine_of(d), d->inode, (uint64_t)at, bytes, length));
}

ssize_t __real_pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags);
ssize_t __wrap_pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags)
{
    struct descriptor *d = descriptor(fd);
    if (d == NULL) {
        return __real_pwritev2(fd, parts, count, at, flags);
    }
    SIM_CHECK(count == 1, "%d parts", count);
    ssize_t n = vdisk_write_at(machine_of(d), d->inode, (uint64_t)at, parts[0].iov_base, parts[0].iov_len);
    if (n > 0 && (flags & RWF_DSYNC) != 0) {
        int rv = vdisk_flush(machine_of(d), d->inode, d->direct);
        n = rv < 0 ? rv : n;
    }
    return count_or_error(n);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd)
{
    struct descriptor *d = descriptor(fd);
    return d == NULL ? __real_fsync(fd) : result(vdisk_flush(machine_of(d), d->inode, d->direct));
}

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    struct descriptor *d = descriptor(fd);
    return d == NULL ? __real_fdatasync(fd) : result(vdisk_flush(machine_of(d), d->inode, d->direct));
}

int __real_sync_file_range(int fd, off_t at, off_t length, unsigned flags);
int __wrap_sync_file_range(int fd, off_t at, off_t length, unsigned flags)
{
    return descriptor(fd) == NULL ? __real_sync_file_range(fd, at, length, flags) : 0; /* a hint */
}

int __real_posix_fallocate(int fd, off_t at, off_t length);
int __wrap_posix_fallocate(int fd, off_t at, off_t length)
{
    struct descriptor *d = descriptor(fd);
    return d == NULL ? __real_posix_fallocate(fd, at, length)
                     : -vdisk_resize(machine_of(d), d->inode, (uint64_t)(at + length), true);
}

int __real_fallocate(int fd, int mode, off_t at, off_t length);
int __wrap_fallocate(int fd, int mode, off_t at, off_t length)
{
    struct descriptor *d = descriptor(fd);
    return d == NULL ? __real_fallocate(fd, mode, at, length)
                     : result(vdisk_resize(machine_of(d), d->inode, (uint64_t)(at + length), true));
}

int __real_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size)
{
    struct descriptor *d = descriptor(fd);
    return d == NULL ? __real_ftruncate(fd, size)
                     : result(vdisk_resize(machine_of(d), d->inode, (uint64_t)size, false));
}

/* ---- names -------------------------------------------------------------------------------------------- */

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
    return inside(from) == NULL ? __real_rename(from, to)
                                : result(vdisk_rename(current->machine, inside(from), inside(to)));
}

int __real_renameat(int folder, const char *from, int folder_to, const char *to);
int __wrap_renameat(int folder, const char *from, int folder_to, const char *to)
{
    char whole[512], whole_to[512];
    if (descriptor(folder) == NULL) {
        return __real_renameat(folder, from, folder_to, to);
    }
    below(folder, from, whole);
    below(folder_to, to, whole_to);
    return result(vdisk_rename(current->machine, whole, whole_to));
}

int __real_unlink(const char *path);
int __wrap_unlink(const char *path)
{
    return inside(path) == NULL ? __real_unlink(path) : result(vdisk_unlink(current->machine, inside(path)));
}

int __real_unlinkat(int folder, const char *path, int flags);
int __wrap_unlinkat(int folder, const char *path, int flags)
{
    char whole[512];
    if (descriptor(folder) == NULL) {
        return __real_unlinkat(folder, path, flags);
    }
    below(folder, path, whole);
    return result(vdisk_unlink(current->machine, whole));
}

int __real_mkdir(const char *path, mode_t mode);
int __wrap_mkdir(const char *path, mode_t mode)
{
    struct inode *inode;
    if (inside(path) == NULL) {
        return __real_mkdir(path, mode);
    }
    if (vdisk_lookup(current->machine, inside(path), &inode) == 0) {
        return result(-EEXIST);
    }
    return result(vdisk_create(current->machine, inside(path), true, &inode));
}

#define NAME_BYTES 96

struct listing { /* what opendir gives out for a simulated directory: the names of that moment */
    uint64_t magic;
    size_t at, count;
    struct dirent entry;
    char (*names)[NAME_BYTES];
};
#define LISTING_MAGIC UINT64_C(0x64697274756f6c73)

DIR *__real_opendir(const char *path);
DIR *__wrap_opendir(const char *path)
{
    struct inode *inode;
    if (inside(path) == NULL) {
        return __real_opendir(path);
    }
    int rv = vdisk_lookup(current->machine, inside(path), &inode);
    if (rv == 0 && !inode->directory) {
        rv = -ENOTDIR;
    }
    if (rv != 0) {
        errno = -rv;
        return NULL;
    }
    struct listing *listing = calloc(1, sizeof *listing);
    listing->magic = LISTING_MAGIC;
    while (vdisk_name_at(inode, listing->count) != NULL) {
        listing->count++;
    }
    listing->names = calloc(listing->count + 1, sizeof *listing->names);
    for (size_t i = 0; i < listing->count; i++) {
        snprintf(listing->names[i], NAME_BYTES, "%s", vdisk_name_at(inode, i));
    }
    return (DIR *)(void *)listing;
}

struct dirent *__real_readdir(DIR *dir);
struct dirent *__wrap_readdir(DIR *dir)
{
    struct listing *listing = (struct listing *)(void *)dir;
    if (current == NULL || listing->magic != LISTING_MAGIC) {
        return __real_readdir(dir);
    }
    if (listing->at == listing->count) {
        return NULL;
    }
    snprintf(listing->entry.d_name, sizeof listing->entry.d_name, "%s", listing->names[listing->at++]);
    return &listing->entry;
}

void __real_rewinddir(DIR *dir);
void __wrap_rewinddir(DIR *dir)
{
    struct listing *listing = (struct listing *)(void *)dir;
    if (current == NULL || listing->magic != LISTING_MAGIC) {
        __real_rewinddir(dir);
    } else {
        listing->at = 0;
    }
}

int __real_closedir(DIR *dir);
int __wrap_closedir(DIR *dir)
{
    struct listing *listing = (struct listing *)(void *)dir;
    if (current == NULL || listing->magic != LISTING_MAGIC) {
        return __real_closedir(dir);
    }
    free(listing->names);
    free(listing);
    return 0;
}

static void about_inode(const struct inode *inode, struct stat *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->st_mode = inode->directory ? S_IFDIR | 0700 : S_IFREG | 0600;
    ret->st_size = (off_t)inode->size;
}

int __real_fstat(int fd, struct stat *ret);
int __wrap_fstat(int fd, struct stat *ret)
{
    if (descriptor(fd) == NULL) {
        return __real_fstat(fd, ret);
    }
    about_inode(descriptor(fd)->inode, ret);
    return 0;
}

int __real_fstatat(int folder, const char *path, struct stat *ret, int flags);
int __wrap_fstatat(int folder, const char *path, struct stat *ret, int flags)
{
    char whole[512];
    struct inode *inode;
    if (descriptor(folder) == NULL) {
        return __real_fstatat(folder, path, ret, flags);
    }
    below(folder, path, whole);
    int rv = vdisk_lookup(current->machine, whole, &inode);
    if (rv == 0) {
        about_inode(inode, ret);
    }
    return result(rv);
}

int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation)
{
    return descriptor(fd) == NULL ? __real_flock(fd, operation) : 0; /* one process a machine */
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    long argument = va_arg(args, long);
    va_end(args);
    if (descriptor(fd) == NULL) {
        return __real_fcntl(fd, command, argument);
    }
    descriptor(fd)->direct |= command == F_SETFL && (argument & O_DIRECT) != 0;
    return 0;
}

/* ---- the listening socket: made before libuv gets it --------------------------------------------------- */

int __real_socket(int domain, int type, int protocol);
int __wrap_socket(int domain, int type, int protocol)
{
    return current == NULL ? __real_socket(domain, type, protocol)
                           : result(take_descriptor(current->machine, FD_SOCKETS, FD_ROOM - 1));
}

int __real_setsockopt(int fd, int level, int option, const void *value, socklen_t length);
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
    return fd < FD_FIRST ? __real_setsockopt(fd, level, option, value, length) : 0;
}

int __real_bind(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t length)
{
    return fd < FD_FIRST ? __real_bind(fd, address, length) : 0;
}

int __real_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog)
{
    return fd < FD_FIRST ? __real_listen(fd, backlog) : 0;
}

int __real_getsockname(int fd, struct sockaddr *address, socklen_t *length);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
    if (fd < FD_FIRST) {
        return __real_getsockname(fd, address, length);
    }
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(SIM_PORT)};
    in.sin_addr.s_addr = htonl(0x0a000001u + machine_of(descriptor(fd)));
    memcpy(address, &in, sizeof in);
    *length = sizeof in;
    return 0;
}

/* ---- clocks, randomness, signals, logs ---------------------------------------------------------------- */

int __real_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    if (current == NULL) {
        return __real_clock_gettime(clock, ret);
    }
    uint64_t ns = sim_now() - current->boot_ns;
    if (clock == CLOCK_REALTIME) {
        ns = (uint64_t)sim_wall_ms(current->machine) * SIM_MS + sim_now() % SIM_MS;
    }
    ret->tv_sec = (time_t)(ns / SIM_S);
    ret->tv_nsec = (long)(ns % SIM_S);
    return 0;
}

static void random_bytes(void *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        ((uint8_t *)bytes)[i] = (uint8_t)sim_random(256);
    }
}

ssize_t __real_getrandom(void *bytes, size_t length, unsigned flags);
ssize_t __wrap_getrandom(void *bytes, size_t length, unsigned flags)
{
    if (current == NULL) {
        return __real_getrandom(bytes, length, flags);
    }
    random_bytes(bytes, length);
    return (ssize_t)length;
}

static const char *random_name(void)
{
    return "simulator";
}

static uint32_t random_word(void)
{
    return (uint32_t)sim_random((uint64_t)1 << 32);
}

/* libsodium's own random numbers too, once for the program. */
void calls_open(void)
{
    static randombytes_implementation implementation = {
        .implementation_name = random_name, .random = random_word, .buf = random_bytes};
    static bool done;
    if (!done) {
        randombytes_set_implementation(&implementation);
        SIM_CHECK(sodium_init() >= 0, "libsodium");
        done = true;
    }
}

int __real_pthread_sigmask(int how, const sigset_t *set, sigset_t *old);
int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    return current == NULL ? __real_pthread_sigmask(how, set, old) : 0; /* its threads are ours */
}

void __wrap_dn_log(enum dn_log_level level, const char *component, const char *format, ...)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    char line[900];
    va_list args;
    if (!sim_tracing) {
        sim_note(level, strlen(format));
        return;
    }
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "%10.6f machine %d: %-5s %s: %s\n", (double)sim_now() / 1e9,
            current == NULL ? -1 : (int)current->machine, levels[level], component, line);
    sim_note(level, strlen(format));
}
