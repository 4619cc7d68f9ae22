/* The disk as the journal sees it: one table of functions, so that a test can own it, record what is written
 * and flushed, cut the power at any point, and inject faults.
 *
 * Three implementations: io_uring (disk_uring.c), the libuv thread pool (disk_pool.c; for machines where
 * io_uring is blocked), and the simulated one of the tests. All file names are relative to one folder.
 *
 * A write is one operation that ends when its bytes are on stable storage (O_DIRECT with RWF_DSYNC, or a
 * write and fdatasync where O_DIRECT is not to be had). Operations that are under way at the same time may
 * take effect in any order, whole, torn at sector grain, or not at all, when the power goes: who needs an
 * order waits for the first to end. */
#ifndef DN_JOURNAL_DISK_H
#define DN_JOURNAL_DISK_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define DN_DISK_ALIGN 4096u /* of every buffer, offset and length written */
#define DN_DISK_NAME_MAX 64

struct uv_loop_s;

/* One asynchronous operation. The struct, and the buffer written, belong to the caller and stay untouched and
 * alive until `done` ran, on the loop's thread, never from inside the call that started it. result: 0, or
 * -errno. */
struct dn_disk_op {
    void (*done)(struct dn_disk_op *op, int result);
    void *data;
    uint64_t opaque[48]; /* the disk's own: no operation needs memory to begin */
};

struct dn_disk_file;
struct dn_disk;

struct dn_disk_ops {
    /* Synchronous: at start only. `each` gets every regular file's name and size. */
    enum dn_code (*list)(struct dn_disk *disk, void (*each)(void *data, const char *name, uint64_t bytes),
                         void *data, struct dn_error *err);
    enum dn_code (*open)(struct dn_disk *disk, const char *name, struct dn_disk_file **ret,
                         struct dn_error *err);
    /* Reads exactly `length` bytes, fewer only at the end of the file (*ret_length). Any alignment. */
    enum dn_code (*read)(struct dn_disk_file *file, uint64_t offset, void *buffer, size_t length,
                         size_t *ret_length, struct dn_error *err);
    void (*close)(struct dn_disk_file *file); /* no operation of it may be under way */
    /* Synchronous too: puts on stable storage what read() shows of that range, and the folder's names. A
     * killed process may have left in the page cache what it never flushed; what recovery believes must
     * survive the next loss of power as well. Not needed of a disk that is only read. */
    enum dn_code (*settle)(struct dn_disk *disk, const char *name, uint64_t offset, size_t length,
                           struct dn_error *err);

    /* Asynchronous. create: a new file of `bytes` zeros, allocated so that later writes change no metadata,
     * its name durable; *ret_file is set before op->done(op, 0). A failure leaves no file. */
    void (*create)(struct dn_disk *disk, const char *name, uint64_t bytes, struct dn_disk_file **ret_file,
                   struct dn_disk_op *op);
    void (*write)(struct dn_disk_file *file, uint64_t offset, const void *buffer, size_t length,
                  struct dn_disk_op *op);
    void (*rename)(struct dn_disk *disk, const char *from, const char *to,
                   struct dn_disk_op *op); /* durable */
    void (*remove)(struct dn_disk *disk, const char *name, struct dn_disk_op *op);
    /* Starts what was queued since the last call: one system call for all. */
    void (*submit)(struct dn_disk *disk);
    void (*destroy)(struct dn_disk *disk); /* no operation may be under way */
};

struct dn_disk {
    const struct dn_disk_ops *ops;
    const char *kind; /* "io_uring", "thread pool", ...: for the log and for metrics */
};

/* Probes io_uring (a real write with RWF_DSYNC in that folder) and falls back to the thread pool with one log
 * line. `prefer`: NULL, "io_uring" (fail where it is blocked) or "pool". The folder must exist. */
enum dn_code dn_disk_open(const char *dir, struct uv_loop_s *loop, const char *prefer, struct dn_disk **ret,
                          struct dn_error *err);

#endif
