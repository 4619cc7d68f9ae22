/* The disk by io_uring: a write is one request (O_DIRECT with RWF_DSYNC), its end is told by an eventfd that
 * the loop polls.
 *
 * Happy path: uring_write queues a request -> uring_submit gives all queued ones to the kernel with one
 * system call -> on_event takes completions. A write that was cut short goes on with the rest. Where O_DIRECT
 * is not to be had, the write is buffered and RWF_DSYNC makes it durable all the same.
 *
 * Failures: io_uring is blocked (seccomp, sysctl) or lacks what is needed: found at open by a real write, and
 * the caller takes the thread pool. */
#include "journal/disk_internal.h"

#include "base/mutant.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RING_ENTRIES 64
#define PROBE_TIMEOUT_S 5

struct uring {
    struct folder folder; /* first */
    struct io_uring ring;
    bool ring_open;
    int event_fd;
    uv_poll_t *poll; /* freed by its close callback: it may outlive the disk */
    unsigned queued;
};

/* A write under way; lies in the caller's op->opaque. */
struct request {
    struct dn_disk_file *file;
    uint64_t offset;
    const uint8_t *buffer;
    size_t left;
};
_Static_assert(sizeof(struct request) <= sizeof((struct dn_disk_op *)0)->opaque, "a request fits");

static struct request *request_of(struct dn_disk_op *op)
{
    return (struct request *)(void *)op->opaque;
}

/* False: the ring is full. */
static bool queue(struct uring *uring, struct dn_disk_op *op)
{
    struct request *request = request_of(op);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (!sqe)
        return false;
    io_uring_prep_write(sqe, request->file->fd, request->buffer, (unsigned)request->left, request->offset);
    sqe->rw_flags = dn_mutant(DN_MUTANT_SKIP_FLUSH) ? 0 : RWF_DSYNC;
    io_uring_sqe_set_data(sqe, op);
    uring->queued++;
    return true;
}

static void uring_submit(struct dn_disk *disk)
{
    struct uring *uring = (struct uring *)disk;
    while (uring->queued > 0) {
        int n = io_uring_submit(&uring->ring);
        if (n <= 0) { /* busy, or the kernel has no memory: again in the next turn of the loop */
            uint64_t one = 1;
            ssize_t woken = write(uring->event_fd, &one, sizeof one);
            (void)woken;
            break;
        }
        uring->queued -= (unsigned)n > uring->queued ? uring->queued : (unsigned)n;
    }
}

static void uring_write(struct dn_disk_file *file, uint64_t offset, const void *buffer, size_t length,
                        struct dn_disk_op *op)
{
    struct uring *uring = (struct uring *)file->folder;
    *request_of(op) = (struct request){file, offset, buffer, length};
    if (!queue(uring, op)) {
        uring_submit(&uring->folder.disk);
        DN_ASSERT(queue(uring, op)); /* far fewer writes are under way than the ring holds */
    }
}

static void take(struct uring *uring, struct dn_disk_op *op, int result)
{
    struct request *request = request_of(op);
    if (result == -EINTR || result == -EAGAIN) {
        result = 0;
    } else if (result == 0) {
        result = -EIO; /* nothing was taken, and nothing was wrong: it would not end */
    }
    if (result >= 0) {
        request->offset += (uint64_t)result;
        request->buffer += result;
        request->left -= (size_t)result;
        if (request->left > 0) {
            if (queue(uring, op))
                return;
            result = -EAGAIN; /* not all of it was written */
        }
    }
    op->done(op, result < 0 ? result : 0);
}

static void on_event(uv_poll_t *poll, int status, int events)
{
    struct uring *uring = poll->data;
    struct io_uring_cqe *cqe;
    uint64_t count;
    (void)status, (void)events;
    ssize_t n = read(uring->event_fd, &count, sizeof count);
    (void)n; /* it is non-blocking, and only wakes */
    while (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
        struct dn_disk_op *op = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&uring->ring, cqe);
        take(uring, op, result);
    }
    uring_submit(&uring->folder.disk);
}

/* One durable write through the ring, waited for: is io_uring there, and able? */
static int probe(struct uring *uring)
{
    static const char name[] = "probe.tmp";
    struct __kernel_timespec limit = {.tv_sec = PROBE_TIMEOUT_S};
    struct io_uring_cqe *cqe = NULL;
    void *block = NULL;
    int result = -ENOMEM;
    int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | (uring->folder.direct ? O_DIRECT : 0);
    int fd = openat(uring->folder.fd, name, flags, 0600);
    if (fd < 0)
        return -errno;
    if (posix_memalign(&block, DN_DISK_ALIGN, DN_DISK_ALIGN) == 0) {
        memset(block, 0, DN_DISK_ALIGN);
        struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
        io_uring_prep_write(sqe, fd, block, DN_DISK_ALIGN, 0);
        sqe->rw_flags = dn_mutant(DN_MUTANT_SKIP_FLUSH) ? 0 : RWF_DSYNC;
        result = io_uring_submit(&uring->ring);
        if (result > 0)
            result = io_uring_wait_cqe_timeout(&uring->ring, &cqe, &limit);
        if (result == 0 && cqe) {
            result = cqe->res == (int)DN_DISK_ALIGN ? 0 : cqe->res < 0 ? cqe->res : -EIO;
            io_uring_cqe_seen(&uring->ring, cqe);
        }
    }
    free(block);
    close(fd);
    unlinkat(uring->folder.fd, name, 0);
    return result;
}

static void poll_closed(uv_handle_t *handle)
{
    free(handle);
}

static void uring_destroy(struct dn_disk *disk)
{
    struct uring *uring = (struct uring *)disk;
    if (uring->poll)
        uv_close((uv_handle_t *)uring->poll, poll_closed);
    if (uring->ring_open)
        io_uring_queue_exit(&uring->ring);
    if (uring->event_fd >= 0)
        close(uring->event_fd);
    folder_close(&uring->folder);
    free(uring);
}

static enum dn_code unusable(const char *what, int error, struct dn_error *err)
{
    return dn_fail(err, DN_UNIMPLEMENTED, "io_uring cannot be used here (%s: %s)", what, strerror(-error));
}

static enum dn_code ring_open(struct uring *uring, struct dn_error *err)
{
    int rv = io_uring_queue_init(RING_ENTRIES, &uring->ring, 0);
    if (rv < 0)
        return unusable("io_uring_setup", rv, err);
    uring->ring_open = true;
    rv = probe(uring);
    if (rv < 0)
        return unusable("a durable write", rv, err);
    uring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (uring->event_fd < 0)
        return dn_fail(err, DN_IO, "eventfd: %s", strerror(errno));
    rv = io_uring_register_eventfd(&uring->ring, uring->event_fd);
    if (rv < 0)
        return unusable("io_uring_register", rv, err);
    uring->poll = calloc(1, sizeof *uring->poll);
    if (!uring->poll)
        return dn_fail(err, DN_NO_MEMORY, "open '%s'", uring->folder.path);
    rv = uv_poll_init(uring->folder.loop, uring->poll, uring->event_fd);
    if (rv != 0) {
        free(uring->poll);
        uring->poll = NULL;
        return dn_fail(err, DN_IO, "poll: %s", uv_strerror(rv));
    }
    uring->poll->data = uring;
    uv_poll_start(uring->poll, UV_READABLE, on_event);
    return DN_OK;
}

enum dn_code disk_uring_open(const char *dir, uv_loop_t *loop, struct dn_disk **ret, struct dn_error *err)
{
    static const struct dn_disk_ops ops = {.list = disk_list,
                                           .open = disk_open,
                                           .read = disk_read,
                                           .close = disk_close,
                                           .settle = disk_settle,
                                           .create = disk_create,
                                           .write = uring_write,
                                           .rename = disk_rename,
                                           .remove = disk_remove,
                                           .submit = uring_submit,
                                           .destroy = uring_destroy};
    struct uring *uring = calloc(1, sizeof *uring);
    if (!uring)
        return dn_fail(err, DN_NO_MEMORY, "open '%s'", dir);
    uring->folder.fd = uring->event_fd = -1;
    uring->folder.disk.ops = &ops;
    uring->folder.disk.kind = "io_uring";
    enum dn_code code = folder_open(&uring->folder, dir, loop, err);
    if (code == DN_OK)
        code = ring_open(uring, err);
    if (code != DN_OK) {
        uring_destroy(&uring->folder.disk);
        return code;
    }
    *ret = &uring->folder.disk;
    return DN_OK;
}
