/* Nemeses of the disk: full, read-only, failing, slow. Each node has a disk of its own (cluster_disk.c): real
 * errors of a real file system, which io_uring meets as any other writer does. */
#include "chaos/nemesis_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILLER "filler"
#define FSCK_MENDED 1 /* e2fsck's exit code: errors were there, and are no more */
#define FROZEN_MS_MIN 30
#define FROZEN_MS_MAX 400

static const char *needs_disks(struct chaos_cluster *c)
{
    return c->why_no_disks[0] == 0 ? NULL : c->why_no_disks;
}

static enum dn_code choose(struct fault *f, struct dn_error *err)
{
    f->node = fault_by_leader(f, fault_draw(f, 2) == 0);
    return f->node != 0 ? DN_OK : fault_no_one(err);
}

/* ---- full
 * --------------------------------------------------------------------------------------------------- */

/* Either so full that the node's watermark is passed, or with no block left. */
static enum dn_code fill(struct fault *f, struct dn_error *err)
{
    char path[2 * CLUSTER_PATH_MAX];
    struct statvfs about;
    enum dn_code code = choose(f, err);
    bool to_the_brim = fault_draw(f, 2) == 0;
    off_t leave = to_the_brim ? 0 : (off_t)(1 + fault_draw(f, 24)) << 20;

    if (code != DN_OK)
        return code;
    cluster_node_path(f->c, f->node, FILLER, path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || fstatvfs(fd, &about) != 0) {
        code = dn_fail(err, DN_IO, "fill node %u's disk: %s: %s", f->node, path, strerror(errno));
    } else {
        off_t room = (off_t)about.f_bavail * (off_t)about.f_frsize - leave;
        int rv = room > 0 ? posix_fallocate(fd, 0, room) : 0;
        if (rv != 0 && rv != ENOSPC)
            code = dn_fail(err, DN_IO, "fill node %u's disk: %s", f->node, strerror(rv));
        fault_say(f, "node %u's disk has %lld MiB left", f->node, (long long)leave >> 20);
    }
    if (fd >= 0)
        close(fd);
    return code;
}

/* Flushed: a file system that breaks before its next commit would give the filler back when it is checked. */
static void remove_filler(const char *folder, void *data)
{
    char path[2 * CLUSTER_PATH_MAX];

    (void)data;
    snprintf(path, sizeof path, "%s/%s", folder, FILLER);
    unlink(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

static enum dn_code empty(struct fault *f, struct dn_error *err)
{
    if (f->node == 0)
        return DN_OK;
    fault_say(f, "node %u's disk has room again", f->node);
    return cluster_disk_visit(f->c, f->node, remove_filler, NULL, err);
}

/* ---- read-only, failing
 * -------------------------------------------------------------------------------------- */

static bool is_sound(struct fault *f)
{
    char path[2 * CLUSTER_PATH_MAX];

    cluster_node_path(f->c, f->node, FILLER, path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    bool sound = write(fd, "x", 1) == 1 && fsync(fd) == 0;
    close(fd);
    return unlink(path) == 0 && sound;
}

/* The node's life ends (what it holds in memory may be all that is left), the file system is checked as an
 * administrator would, and the node comes back. */
static enum dn_code mend(struct fault *f, struct dn_error *err)
{
    char output[400], target[32];
    int status = 0;

    cluster_node_kill(f->c, f->node);
    snprintf(target, sizeof target, "%s", f->c->nodes[f->node].device);
    const char *const arguments[] = {"e2fsck", "-p", "-f", target, NULL};
    enum dn_code code = cluster_disk_settle(f->c, f->node, err);
    if (code == DN_OK)
        code = cluster_command(arguments, output, sizeof output, &status, err);
    if (code == DN_OK && status > FSCK_MENDED)
        code = dn_fail(err, DN_CORRUPT, "e2fsck of node %u's disk: code %d: %.300s", f->node, status, output);
    if (code == DN_OK) /* a full disk's fault may have ended while nothing could be removed */
        code = cluster_disk_visit(f->c, f->node, remove_filler, NULL, err);
    fault_say(f, "node %u killed, its disk checked (code %d), started", f->node, status);
    return code == DN_OK ? cluster_node_start(f->c, f->node, err) : code;
}

/* As ext4 does when it finds itself damaged: no write gets through until it was mounted anew. */
static enum dn_code make_read_only(struct fault *f, struct dn_error *err)
{
    char path[128];
    enum dn_code code = choose(f, err);

    if (code != DN_OK)
        return code;
    snprintf(path, sizeof path, "/sys/fs/ext4/%s/trigger_fs_error",
             f->c->nodes[f->node].device + strlen("/dev/"));
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "chaos\n", 6) != 6)
        code = dn_fail(err, DN_UNAVAILABLE, "'%s': %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    fault_say(f, "node %u's file system has become read-only", f->node);
    return code;
}

static enum dn_code remount(struct fault *f, struct dn_error *err)
{
    return f->node == 0 ? DN_OK : mend(f, err);
}

/* The file under the loop device may not be changed: each write of the disk, and each flush that has
 * something to write, is an I/O error. */
static enum dn_code set_failing(struct fault *f, bool failing, struct dn_error *err)
{
    int fd = f->c->nodes[f->node].image_fd, flags = 0;

    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0)
        return dn_fail(err, DN_UNAVAILABLE, "flags of '%s': %s", f->c->nodes[f->node].image, strerror(errno));
    flags = failing ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
    if (ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0)
        return dn_fail(err, DN_UNAVAILABLE, "flags of '%s': %s", f->c->nodes[f->node].image, strerror(errno));
    return DN_OK;
}

/* Starts a child that undoes the fault when this program goes, however it goes: its end of the pipe ends
 * then. 0 in the child, as fork(2). */
static pid_t fork_guard(struct fault *f, int *ret_gone, struct dn_error *err)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0) {
        dn_fail(err, DN_EXHAUSTED, "a pipe: %s", strerror(errno));
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[1]);
        signal(SIGINT, SIG_IGN);
        *ret_gone = ends[0];
        return 0;
    }
    close(ends[0]);
    if (pid < 0) {
        close(ends[1]);
        dn_fail(err, DN_EXHAUSTED, "fork: %s", strerror(errno));
        return -1;
    }
    f->pipe = ends[1];
    f->guard = pid;
    return pid;
}

static void end_guard(struct fault *f)
{
    if (f->pipe >= 0)
        close(f->pipe);
    if (f->guard > 0)
        while (waitpid(f->guard, NULL, 0) < 0 && errno == EINTR)
            ;
    f->pipe = -1;
    f->guard = 0;
}

static enum dn_code fail_writes(struct fault *f, struct dn_error *err)
{
    enum dn_code code = choose(f, err);

    if (code != DN_OK)
        return code;
    int gone = -1;
    pid_t pid = fork_guard(f, &gone, err);
    if (pid == 0) { /* an immutable file would be in everybody's way */
        (void)poll(&(struct pollfd){.fd = gone, .events = POLLIN}, 1, -1);
        (void)set_failing(f, false, NULL);
        _exit(0);
    }
    if (pid < 0)
        return DN_EXHAUSTED;
    fault_say(f, "each write to node %u's disk fails", f->node);
    return set_failing(f, true, err);
}

/* ext4 gives up when its own journal could not be written: then it must be mounted anew. Otherwise the node
 * has to get over it by itself. */
static enum dn_code heal_writes(struct fault *f, struct dn_error *err)
{
    if (f->node == 0)
        return DN_OK;
    end_guard(f);
    enum dn_code code = set_failing(f, false, err);
    if (code != DN_OK)
        return code;
    if (!chaos_cluster_is_running(f->c, f->node) || !is_sound(f))
        return mend(f, err);
    fault_say(f, "node %u's disk can be written again; the node stayed", f->node);
    return DN_OK;
}

/* ---- slow
 * ---------------------------------------------------------------------------------------------------- */

/* In the guard: what freezes thaws, too. */
_Noreturn static void freeze_and_thaw(int fd, int gone, int frozen_ms, int free_ms)
{
    struct pollfd parent = {.fd = gone, .events = POLLIN};

    for (;;) {
        (void)ioctl(fd, FIFREEZE, 0);
        int ended = poll(&parent, 1, frozen_ms);
        (void)ioctl(fd, FITHAW, 0);
        if (ended != 0 || poll(&parent, 1, free_ms) != 0)
            _exit(0);
    }
}

static enum dn_code slow_down(struct fault *f, struct dn_error *err)
{
    char path[2 * CLUSTER_PATH_MAX];
    enum dn_code code = choose(f, err);
    int frozen_ms = FROZEN_MS_MIN + (int)fault_draw(f, FROZEN_MS_MAX - FROZEN_MS_MIN);
    int free_ms = 1 + (int)fault_draw(f, 100);

    if (code != DN_OK)
        return code;
    cluster_node_path(f->c, f->node, "", path, sizeof path);
    int gone = -1, fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return dn_fail(err, DN_IO, "freeze node %u's disk: %s: %s", f->node, path, strerror(errno));
    if (ioctl(fd, FIFREEZE, 0) != 0) { /* once here, where it can be told: the guard does the rest */
        enum dn_code refused = dn_fail(err, DN_IO, "freeze node %u's disk: %s", f->node, strerror(errno));
        close(fd);
        return refused;
    }
    (void)ioctl(fd, FITHAW, 0);
    pid_t pid = fork_guard(f, &gone, err);
    if (pid == 0)
        freeze_and_thaw(fd, gone, frozen_ms, free_ms);
    close(fd);
    fault_say(f, "node %u's disk stands still for %d ms in every %d", f->node, frozen_ms,
              frozen_ms + free_ms);
    return pid > 0 ? DN_OK : DN_EXHAUSTED;
}

static enum dn_code speed_up(struct fault *f, struct dn_error *err)
{
    char path[2 * CLUSTER_PATH_MAX];

    (void)err;
    end_guard(f);
    cluster_node_path(f->c, f->node, "", path, sizeof path);
    int fd = f->node == 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)ioctl(fd, FITHAW,
                    0); /* in case that somebody has killed the guard; else there is nothing to thaw */
        close(fd);
    }
    fault_say(f, "node %u's disk is fast again", f->node);
    return DN_OK;
}

const struct nemesis NEMESES_DISK[] = {
    {{"full-disk", "a disk fills up"}, NEMESIS_DISK, needs_disks, fill, NULL, empty},
    {{"read-only-disk", "a file system becomes read-only, as after an error of its own"},
     NEMESIS_DISK,
     needs_disks,
     make_read_only,
     NULL,
     remount},
    {{"failing-disk", "each write and flush of a disk fails"},
     NEMESIS_DISK,
     needs_disks,
     fail_writes,
     NULL,
     heal_writes},
    {{"slow-disk", "a disk stands still most of the time"},
     NEMESIS_DISK,
     needs_disks,
     slow_down,
     NULL,
     speed_up},
};
const unsigned NEMESES_DISK_COUNT = sizeof NEMESES_DISK / sizeof *NEMESES_DISK;
