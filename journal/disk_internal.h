/* Internal: what the two real disks share: names in a folder, opening, reading, and the slow operations,
 * which run on the libuv thread pool in both. */
#ifndef DN_JOURNAL_DISK_INTERNAL_H
#define DN_JOURNAL_DISK_INTERNAL_H

#include "journal/disk.h"

#include <stdbool.h>
#include <uv.h>

struct folder {
    struct dn_disk disk; /* first: a struct dn_disk * is a struct folder * */
    uv_loop_t *loop;
    char *path;
    int fd;      /* of the folder */
    bool direct; /* its file system takes O_DIRECT */
};

struct dn_disk_file {
    struct folder *folder;
    int fd;
};

enum dn_code folder_open(struct folder *folder, const char *path, uv_loop_t *loop, struct dn_error *err);
void folder_close(struct folder *folder);

enum dn_code disk_list(struct dn_disk *disk, void (*each)(void *data, const char *name, uint64_t bytes),
                       void *data, struct dn_error *err);
enum dn_code disk_open(struct dn_disk *disk, const char *name, struct dn_disk_file **ret,
                       struct dn_error *err);
enum dn_code disk_read(struct dn_disk_file *file, uint64_t offset, void *buffer, size_t length,
                       size_t *ret_length, struct dn_error *err);
void disk_close(struct dn_disk_file *file);
enum dn_code disk_settle(struct dn_disk *disk, const char *name, uint64_t offset, size_t length,
                         struct dn_error *err);
void disk_create(struct dn_disk *disk, const char *name, uint64_t bytes, struct dn_disk_file **ret_file,
                 struct dn_disk_op *op);
void disk_rename(struct dn_disk *disk, const char *from, const char *to, struct dn_disk_op *op);
void disk_remove(struct dn_disk *disk, const char *name, struct dn_disk_op *op);

/* Writes all of it and makes it durable; 0 or -errno. Blocks. */
int disk_write_now(int fd, uint64_t offset, const uint8_t *buffer, size_t length, bool direct);

/* An operation on a pool thread. */
struct disk_job {
    uv_work_t work;
    int (*run)(struct disk_job *job);
    struct dn_disk_op *op;
    struct folder *folder;
    int result;
    /* What to do; each kind uses some of these. */
    struct dn_disk_file *file, **ret_file;
    const uint8_t *buffer;
    uint64_t offset, bytes;
    char from[DN_DISK_NAME_MAX], to[DN_DISK_NAME_MAX];
};
_Static_assert(sizeof(struct disk_job) <= sizeof((struct dn_disk_op *)0)->opaque, "a job fits");

struct disk_job *disk_job(struct dn_disk_op *op, struct folder *folder); /* a blank one, inside op */
/* Runs run(job) on a pool thread, then op->done(op, its result) on the loop. */
void disk_job_start(struct disk_job *job, int (*run)(struct disk_job *job));

enum dn_code disk_pool_open(const char *dir, uv_loop_t *loop, struct dn_disk **ret, struct dn_error *err);
enum dn_code disk_uring_open(const char *dir, uv_loop_t *loop, struct dn_disk **ret, struct dn_error *err);

#endif
