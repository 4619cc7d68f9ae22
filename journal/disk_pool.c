/* The disk by the libuv thread pool: for machines where io_uring is blocked (many containers). */
#include "journal/disk_internal.h"

#include <stdlib.h>

static int write_run(struct disk_job *job)
{
    return disk_write_now(job->file->fd, job->offset, job->buffer, job->bytes, job->folder->direct);
}

static void pool_write(struct dn_disk_file *file, uint64_t offset, const void *buffer, size_t length,
                       struct dn_disk_op *op)
{
    struct disk_job *job = disk_job(op, file->folder);
    job->file = file;
    job->offset = offset;
    job->buffer = buffer;
    job->bytes = length;
    disk_job_start(job, write_run);
}

static void pool_submit(struct dn_disk *disk)
{
    (void)disk;
}

static void pool_destroy(struct dn_disk *disk)
{
    struct folder *folder = (struct folder *)disk;
    folder_close(folder);
    free(folder);
}

enum dn_code disk_pool_open(const char *dir, uv_loop_t *loop, struct dn_disk **ret, struct dn_error *err)
{
    static const struct dn_disk_ops ops = {.list = disk_list,
                                           .open = disk_open,
                                           .read = disk_read,
                                           .close = disk_close,
                                           .settle = disk_settle,
                                           .create = disk_create,
                                           .write = pool_write,
                                           .rename = disk_rename,
                                           .remove = disk_remove,
                                           .submit = pool_submit,
                                           .destroy = pool_destroy};
    struct folder *folder = calloc(1, sizeof *folder);
    if (!folder)
        return dn_fail(err, DN_NO_MEMORY, "open '%s'", dir);
    folder->fd = -1;
    folder->disk.ops = &ops;
    folder->disk.kind = "thread pool";
    enum dn_code code = folder_open(folder, dir, loop, err);
    if (code != DN_OK) {
        pool_destroy(&folder->disk);
        return code;
    }
    *ret = &folder->disk;
    return DN_OK;
}
