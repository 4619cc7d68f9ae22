/* What the two real disks share, and the choice between them.
 *
 * Operations that may block for long (creating, renaming, removing) run on the libuv thread pool. A struct
 * job carries each; it lies in the caller's op->opaque, so no operation is lost for want of memory, and none
 * has to end from within the call that began it. */
#include "journal/disk_internal.h"

#include "base/log.h"
#include "base/mutant.h"

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

static int sync_folder(const struct folder *folder)
{
    return fsync(folder->fd) == 0 ? 0 : -errno;
}

/* The bytes are written once more, not only flushed: after a flush that failed, the kernel shows pages that
 * it holds for written though the disk has never seen them. */
enum dn_code disk_settle(struct dn_disk *disk, const char *name, uint64_t offset, size_t length,
                         struct dn_error *err)
{
    struct folder *folder = (struct folder *)disk;
    struct dn_disk_file file = {.folder = folder, .fd = openat(folder->fd, name, O_RDWR | O_CLOEXEC)};
    uint8_t *bytes = malloc(length > 0 ? length : 1);
    size_t found = 0;
    enum dn_code code = DN_OK;
    if (!bytes)
        code = dn_fail(err, DN_NO_MEMORY, "settle '%s/%s'", folder->path, name);
    else if (file.fd < 0)
        code = dn_fail(err, DN_IO, "open '%s/%s' for writing: %s", folder->path, name, strerror(errno));
    if (code == DN_OK)
        code = disk_read(&file, offset, bytes, length, &found, err);
    if (code == DN_OK) {
        int rv = disk_write_now(file.fd, offset, bytes, found, false);
        if (rv == 0)
            rv = sync_folder(folder);
        if (rv != 0)
            code = dn_fail(err, rv == -ENOSPC ? DN_NO_SPACE : DN_IO, "make '%s/%s' durable: %s", folder->path,
                           name, strerror(-rv));
    }
    if (file.fd >= 0)
        close(file.fd);
    free(bytes);
    return code;
}

/* ---- jobs on the pool --------------------------------------------------------------------------------- */

static void job_run(uv_work_t *work)
{
    struct disk_job *job = work->data;
    job->result = job->run(job);
}

static void job_done(uv_work_t *work, int status)
{
    struct disk_job *job = work->data;
    job->op->done(job->op, status != 0 ? -EINTR : job->result);
}

struct disk_job *disk_job(struct dn_disk_op *op, struct folder *folder)
{
    struct disk_job *job = (struct disk_job *)(void *)op->opaque;
    *job = (struct disk_job){.op = op, .folder = folder};
    job->work.data = job;
    return job;
}

void disk_job_start(struct disk_job *job, int (*run)(struct disk_job *job))
{
    DN_ASSERT(job->folder->loop);
    job->run = run;
    int rv = uv_queue_work(job->folder->loop, &job->work, job_run, job_done);
    DN_ASSERT(rv == 0); /* it fails without a function only */
}

/* ---- creating, renaming, removing ---------------------------------------------------------------------- */

static struct disk_job *naming(struct dn_disk *disk, const char *from, const char *to, struct dn_disk_op *op)
{
    struct disk_job *job = disk_job(op, (struct folder *)disk);
    DN_ASSERT(strlen(from) < DN_DISK_NAME_MAX && strlen(to) < DN_DISK_NAME_MAX);
    memcpy(job->from, from, strlen(from) + 1);
    memcpy(job->to, to, strlen(to) + 1);
    return job;
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

static int create_run(struct disk_job *job)
{
    struct folder *folder = job->folder;
    struct dn_disk_file *file = calloc(1, sizeof *file);
    if (!file)
        return -ENOMEM;
    file->folder = folder;
    file->fd = openat(folder->fd, job->to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int result = file->fd < 0 ? -errno : fill_zeros(file->fd, job->bytes);
    if (result == 0)
        result = sync_folder(folder);
    if (result == 0 && folder->direct) {
        int flags = fcntl(file->fd, F_GETFL);
        if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_DIRECT) != 0)
            result = -errno;
    }
    if (result == 0) {
        *job->ret_file = file;
        return 0;
    }
    if (file->fd >= 0) {
        close(file->fd);
        unlinkat(folder->fd, job->to, 0);
    }
    free(file);
    return result;
}

void disk_create(struct dn_disk *disk, const char *name, uint64_t bytes, struct dn_disk_file **ret_file,
                 struct dn_disk_op *op)
{
    struct disk_job *job = naming(disk, "", name, op);
    job->bytes = bytes;
    job->ret_file = ret_file;
    disk_job_start(job, create_run);
}

static int rename_run(struct disk_job *job)
{
    int fd = job->folder->fd;
    return renameat(fd, job->from, fd, job->to) == 0 ? sync_folder(job->folder) : -errno;
}

void disk_rename(struct dn_disk *disk, const char *from, const char *to, struct dn_disk_op *op)
{
    disk_job_start(naming(disk, from, to, op), rename_run);
}

static int remove_run(struct disk_job *job)
{
    if (unlinkat(job->folder->fd, job->from, 0) != 0 && errno != ENOENT)
        return -errno;
    return sync_folder(job->folder);
}

void disk_remove(struct dn_disk *disk, const char *name, struct dn_disk_op *op)
{
    disk_job_start(naming(disk, name, "", op), remove_run);
}

int disk_write_now(int fd, uint64_t offset, const uint8_t *buffer, size_t length, bool direct)
{
    bool skips = dn_mutant(DN_MUTANT_SKIP_FLUSH);
    size_t done = 0;
    while (done < length) {
        struct iovec part = {(void *)(uintptr_t)(buffer + done), length - done};
        ssize_t n = pwritev2(fd, &part, 1, (off_t)(offset + done), direct && !skips ? RWF_DSYNC : 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? -EIO : -errno;
        done += (size_t)n;
    }
    return direct || skips || fdatasync(fd) == 0 ? 0 : -errno;
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
