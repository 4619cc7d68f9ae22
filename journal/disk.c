/* What the two real disks share, and the choice between them.
 *
 * Operations that may block for long (creating, renaming, removing) run on the libuv thread pool. A struct
 * job carries each; when there is no memory for one, the operation is done at once, on the loop: slow, but
 * never lost. */
#include "journal/disk_internal.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define COMPONENT "journal"
#define ZEROS_BYTES (256u << 10)

/* ---- the folder --------------------------------------------------------------------------------------- */

/* Is O_DIRECT taken? tmpfs, some overlays and network file systems refuse it, at open or at the first write.
 */
static bool probe_direct(int folder_fd)
{
    static const char name[] = "probe.tmp";
    void *block = NULL;
    bool works = false;
    int fd = openat(folder_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_DIRECT, 0600);
    if (fd >= 0 && posix_memalign(&block, DN_DISK_ALIGN, DN_DISK_ALIGN) == 0) {
        memset(block, 0, DN_DISK_ALIGN);
        works = pwrite(fd, block, DN_DISK_ALIGN, 0) == DN_DISK_ALIGN;
    }
    free(block);
    if (fd >= 0)
        close(fd);
    unlinkat(folder_fd, name, 0);
    return works;
}

enum dn_code folder_open(struct folder *folder, const char *path, uv_loop_t *loop, struct dn_error *err)
{
    folder->loop = loop;
    folder->path = strdup(path);
    folder->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!folder->path)
        return dn_fail(err, DN_NO_MEMORY, "open '%s'", path);
    if (folder->fd < 0)
        return dn_fail(err, DN_IO, "open '%s': %s", path, strerror(errno));
    if (loop) /* without one it is only read */
        folder->direct = probe_direct(folder->fd);
    return DN_OK;
}

void folder_close(struct folder *folder)
{
    if (folder->fd >= 0)
        close(folder->fd);
    free(folder->path);
}

enum dn_code disk_list(struct dn_disk *disk, void (*each)(void *data, const char *name, uint64_t bytes),
                       void *data, struct dn_error *err)
{
    struct folder *folder = (struct folder *)disk;
    struct dirent *entry;
    DIR *dir = opendir(folder->path);
    if (!dir)
        return dn_fail(err, DN_IO, "list '%s': %s", folder->path, strerror(errno));
    while ((errno = 0, entry = readdir(dir))) {
        struct stat about;
        if (fstatat(folder->fd, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(about.st_mode))
            each(data, entry->d_name, (uint64_t)about.st_size);
    }
    int reason = errno;
    closedir(dir);
    return reason == 0 ? DN_OK : dn_fail(err, DN_IO, "list '%s': %s", folder->path, strerror(reason));
}

enum dn_code disk_open(struct dn_disk *disk, const char *name, struct dn_disk_file **ret,
                       struct dn_error *err)
{
    struct folder *folder = (struct folder *)disk;
    struct dn_disk_file *file = calloc(1, sizeof *file);
    if (!file)
        return dn_fail(err, DN_NO_MEMORY, "open '%s/%s'", folder->path, name);
    file->folder = folder;
    file->fd = openat(folder->fd, name, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0) {
        free(file);
        return dn_fail(err, DN_IO, "open '%s/%s': %s", folder->path, name, strerror(errno));
    }
    *ret = file;
    return DN_OK;
}

enum dn_code disk_read(struct dn_disk_file *file, uint64_t offset, void *buffer, size_t length,
                       size_t *ret_length, struct dn_error *err)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = pread(file->fd, (uint8_t *)buffer + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return dn_fail(err, DN_IO, "read the journal in '%s' at offset %llu: %s", file->folder->path,
                           (unsigned long long)(offset + done), strerror(errno));
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *ret_length = done;
    return DN_OK;
}

void disk_close(struct dn_disk_file *file)
{
    close(file->fd);
    free(file);
}

/* ---- jobs on the pool --------------------------------------------------------------------------------- */

struct job {
    uv_work_t work;
    int (*run)(void *data);
    void *data;
    void (*release)(void *data);
    struct dn_disk_op *op;
    int result;
};

static void job_run(uv_work_t *work)
{
    struct job *job = work->data;
    job->result = job->run(job->data);
}

static void job_done(uv_work_t *work, int status)
{
    struct job *job = work->data;
    struct dn_disk_op *op = job->op;
    int result = status != 0 ? -EINTR : job->result;
    job->release(job->data);
    free(job);
    op->done(op, result);
}

void disk_pool(struct folder *folder, int (*run)(void *data), void *data, void (*release)(void *data),
               struct dn_disk_op *op)
{
    struct job *job = calloc(1, sizeof *job);
    DN_ASSERT(folder->loop);
    if (job) {
        *job = (struct job){.run = run, .data = data, .release = release, .op = op};
        job->work.data = job;
        if (uv_queue_work(folder->loop, &job->work, job_run, job_done) == 0)
            return;
        free(job);
    }
    int result = run(data);
    release(data);
    op->done(op, result);
}

/* ---- creating, renaming, removing ---------------------------------------------------------------------- */

struct naming {
    struct folder *folder;
    char from[DN_DISK_NAME_MAX], to[DN_DISK_NAME_MAX];
    uint64_t bytes;
    struct dn_disk_file **ret_file;
};

/* Without memory for the job's data the operation fails by itself: the journal tries again. */
static void fail_later(struct dn_disk_op *op)
{
    op->done(op, -ENOMEM);
}

static struct naming *naming_new(struct dn_disk *disk, const char *from, const char *to)
{
    struct naming *naming = calloc(1, sizeof *naming);
    if (naming) {
        naming->folder = (struct folder *)disk;
        memcpy(naming->from, from, strlen(from) + 1);
        memcpy(naming->to, to, strlen(to) + 1);
    }
    return naming;
}

static int sync_folder(const struct folder *folder)
{
    return fsync(folder->fd) == 0 ? 0 : -errno;
}

/* fallocate first, so that a full disk says so before it is filled; then zeros, so that later writes find
 * blocks that are in use and change nothing but their bytes. */
static int fill_zeros(int fd, uint64_t bytes)
{
    static const uint8_t zeros[ZEROS_BYTES];
    int rv = posix_fallocate(fd, 0, (off_t)bytes);
    if (rv != 0)
        return -rv;
    for (uint64_t at = 0; at < bytes;) {
        size_t length = bytes - at < sizeof zeros ? (size_t)(bytes - at) : sizeof zeros;
        ssize_t n = pwrite(fd, zeros, length, (off_t)at);
        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? (uint64_t)n : 0;
    }
    return fsync(fd) == 0 ? 0 : -errno;
}

static int create_run(void *data)
{
    struct naming *naming = data;
    struct folder *folder = naming->folder;
    struct dn_disk_file *file = calloc(1, sizeof *file);
    if (!file)
        return -ENOMEM;
    file->folder = folder;
    file->fd = openat(folder->fd, naming->to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int result = file->fd < 0 ? -errno : fill_zeros(file->fd, naming->bytes);
    if (result == 0)
        result = sync_folder(folder);
    if (result == 0 && folder->direct) {
        int flags = fcntl(file->fd, F_GETFL);
        if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_DIRECT) != 0)
            result = -errno;
    }
    if (result == 0) {
        *naming->ret_file = file;
        return 0;
    }
    if (file->fd >= 0) {
        close(file->fd);
        unlinkat(folder->fd, naming->to, 0);
    }
    free(file);
    return result;
}

void disk_create(struct dn_disk *disk, const char *name, uint64_t bytes, struct dn_disk_file **ret_file,
                 struct dn_disk_op *op)
{
    struct naming *naming = naming_new(disk, "", name);
    if (!naming) {
        fail_later(op);
        return;
    }
    naming->bytes = bytes;
    naming->ret_file = ret_file;
    disk_pool(naming->folder, create_run, naming, free, op);
}

static int rename_run(void *data)
{
    struct naming *naming = data;
    int fd = naming->folder->fd;
    return renameat(fd, naming->from, fd, naming->to) == 0 ? sync_folder(naming->folder) : -errno;
}

void disk_rename(struct dn_disk *disk, const char *from, const char *to, struct dn_disk_op *op)
{
    struct naming *naming = naming_new(disk, from, to);
    if (naming)
        disk_pool(naming->folder, rename_run, naming, free, op);
    else
        fail_later(op);
}

static int remove_run(void *data)
{
    struct naming *naming = data;
    if (unlinkat(naming->folder->fd, naming->from, 0) != 0 && errno != ENOENT)
        return -errno;
    return sync_folder(naming->folder);
}

void disk_remove(struct dn_disk *disk, const char *name, struct dn_disk_op *op)
{
    struct naming *naming = naming_new(disk, name, "");
    if (naming)
        disk_pool(naming->folder, remove_run, naming, free, op);
    else
        fail_later(op);
}

int disk_write_now(int fd, uint64_t offset, const uint8_t *buffer, size_t length, bool direct)
{
    size_t done = 0;
    while (done < length) {
        struct iovec part = {(void *)(uintptr_t)(buffer + done), length - done};
        ssize_t n = pwritev2(fd, &part, 1, (off_t)(offset + done), direct ? RWF_DSYNC : 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? -EIO : -errno;
        done += (size_t)n;
    }
    return direct || fdatasync(fd) == 0 ? 0 : -errno;
}

/* ---- the choice --------------------------------------------------------------------------------------- */

enum dn_code dn_disk_open(const char *dir, uv_loop_t *loop, const char *prefer, struct dn_disk **ret,
                          struct dn_error *err)
{
    if (!loop || (prefer && strcmp(prefer, "pool") == 0))
        return disk_pool_open(dir, loop, ret, err);
    enum dn_code code = disk_uring_open(dir, loop, ret, err);
    if (code == DN_UNIMPLEMENTED && !prefer) {
        dn_info(COMPONENT, "%s: the journal is written by the thread pool", err->message);
        code = disk_pool_open(dir, loop, ret, err);
    }
    return code;
}
