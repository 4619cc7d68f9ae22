/* Durable appending, rotation, and what a crash or a full disk may leave behind.
 *
 * Happy path: open, lock, look at the last byte, write, fdatasync, and for a new file fsync of the folder.
 * - A crash in the middle of a write leaves a line without its end: the next append ends it first, so that
 *   only that line is no JSON.
 * - A write or flush that fails is taken back by truncation, where that works; where not, the same holds.
 *   After a failed fdatasync the kernel may believe pages clean that never reached the disk: the lines are
 *   written again, never only flushed again.
 * - The names are moved from the oldest on, each by one rename: a crash in between leaves a hole, which the
 *   next rotation fills. */
#include "ingest/deadletter_writer.h"

#include "base/log.h"
#include "ingest/deadletter.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FOLDER_MODE 0700
#define FILE_MODE 0600
#define OPEN_TRIES 4 /* somebody else may rotate in between */
#define NUMBERED_MAX (PATH_MAX + 16)

struct dn_dead_writer {
    char path[PATH_MAX];
    size_t folder_length; /* of the path before its last '/'; at least 1 */
    uint64_t max_bytes;
    bool name_durable; /* the folder was flushed since the file was made */
    uint64_t dropped;
};

static enum dn_code fail_io(struct dn_error *err, int reason, const char *what, const char *path)
{
    bool full = reason == ENOSPC || reason == EDQUOT;
    return dn_fail(err, full ? DN_NO_SPACE : DN_IO, "%s '%s': %s%s", what, path, strerror(reason),
                   full ? "; make room" : "");
}

/* ---- folders ---------------------------------------------------------------------------------------- */

static enum dn_code flush_folder(const char *path, struct dn_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_io(err, errno, "open the folder", path);
    int reason = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return reason == 0 ? DN_OK : fail_io(err, reason, "flush the folder", path);
}

/* Makes `path` with what is missing above it, and each name durable in the folder above. */
static enum dn_code make_folder(const char *path, struct dn_error *err)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    struct stat info;

    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, FOLDER_MODE) != 0) {
            int reason = errno;
            if (reason == EEXIST && stat(part, &info) == 0 && S_ISDIR(info.st_mode))
                continue;
            return fail_io(err, reason, "make the folder", part);
        }
        char *slash = strrchr(part, '/');
        if (slash == NULL)
            strcpy(part, ".");
        else
            slash[slash == part ? 1 : 0] = '\0';
        enum dn_code code = flush_folder(part, err);
        if (code != DN_OK)
            return code;
    }
    return DN_OK;
}

static void folder_of(const struct dn_dead_writer *writer, char ret[PATH_MAX])
{
    memcpy(ret, writer->path, writer->folder_length);
    ret[writer->folder_length] = '\0';
}

enum dn_code dn_dead_writer_open(const char *path, uint64_t max_bytes, struct dn_dead_writer **ret,
                                 struct dn_error *err)
{
    char folder[PATH_MAX] = ".", resolved[PATH_MAX];
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;

    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strlen(path) >= PATH_MAX - 16)
        return dn_fail(err, DN_INVALID, "'%s' cannot be a file", path);
    if (slash != NULL) {
        size_t length = slash == path ? 1 : (size_t)(slash - path);
        memcpy(folder, path, length);
        folder[length] = '\0';
    }
    enum dn_code code = make_folder(folder, err);
    if (code != DN_OK)
        return code;
    if (realpath(folder, resolved) == NULL)
        return fail_io(err, errno, "find the folder", folder);
    struct dn_dead_writer *writer = calloc(1, sizeof *writer);
    if (writer == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    bool root = strcmp(resolved, "/") == 0;
    int length = snprintf(writer->path, sizeof writer->path, "%s/%s", root ? "" : resolved, name);
    if (length < 0 || (size_t)length >= sizeof writer->path) {
        free(writer);
        return dn_fail(err, DN_INVALID, "'%s': the path is too long", path);
    }
    writer->folder_length = strlen(resolved);
    writer->max_bytes = max_bytes;
    *ret = writer;
    return DN_OK;
}

void dn_dead_writer_close(struct dn_dead_writer *writer)
{
    free(writer);
}

const char *dn_dead_writer_path(const struct dn_dead_writer *writer)
{
    return writer->path;
}

uint64_t dn_dead_writer_dropped(const struct dn_dead_writer *writer)
{
    return writer->dropped;
}

/* ---- opening ---------------------------------------------------------------------------------------- */

/* Opens the file, or makes it. -1: errno. */
static int open_or_make(struct dn_dead_writer *writer)
{
    /* O_RDWR: the last byte is read; and a pipe of that name would not make us wait. */
    int fd = open(writer->path, O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);
    if (fd >= 0)
        writer->name_durable = false;
    else if (errno == EEXIST)
        fd = open(writer->path, O_RDWR | O_APPEND | O_CLOEXEC);
    return fd;
}

/* The lock is on the file that has the name now, and on no file that was renamed meanwhile. */
static enum dn_code lock(struct dn_dead_writer *writer, int fd, bool *ret_current, struct stat *ret_info,
                         struct dn_error *err)
{
    struct stat named;

    *ret_current = false;
    if (fstat(fd, ret_info) != 0)
        return fail_io(err, errno, "look at", writer->path);
    if (!S_ISREG(ret_info->st_mode))
        return dn_fail(err, DN_INVALID, "'%s' is no regular file", writer->path);
    /* A file system without locks: then nobody else may write there, which is the rule anyway. */
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return dn_fail(err, DN_UNAVAILABLE, "'%s' is locked by another process", writer->path);
    if (fstat(fd, ret_info) != 0)
        return fail_io(err, errno, "look at", writer->path);
    *ret_current = stat(writer->path, &named) == 0 && named.st_dev == ret_info->st_dev &&
                   named.st_ino == ret_info->st_ino;
    return DN_OK;
}

static enum dn_code open_locked(struct dn_dead_writer *writer, int *ret_fd, uint64_t *ret_size,
                                struct dn_error *err)
{
    char folder[PATH_MAX];

    for (int i = 0; i < OPEN_TRIES; i++) {
        struct stat info;
        bool current;
        int fd = open_or_make(writer);
        if (fd < 0 && errno == ENOENT) {
            folder_of(writer, folder);
            enum dn_code made = make_folder(folder, err);
            if (made != DN_OK)
                return made;
            continue;
        }
        if (fd < 0)
            return fail_io(err, errno, "open", writer->path);
        enum dn_code code = lock(writer, fd, &current, &info, err);
        if (code == DN_OK && current) {
            *ret_fd = fd;
            *ret_size = (uint64_t)info.st_size;
            return DN_OK;
        }
        close(fd);
        if (code != DN_OK)
            return code;
    }
    return dn_fail(err, DN_UNAVAILABLE, "'%s' is being moved by another process", writer->path);
}

/* ---- rotation --------------------------------------------------------------------------------------- */

static void numbered(const struct dn_dead_writer *writer, int number, char ret[NUMBERED_MAX])
{
    if (number == 0)
        snprintf(ret, NUMBERED_MAX, "%s", writer->path);
    else
        snprintf(ret, NUMBERED_MAX, "%s.%d", writer->path, number);
}

/* The caller holds the lock of the file. */
static enum dn_code rotate(struct dn_dead_writer *writer, struct dn_error *err)
{
    char from[NUMBERED_MAX], to[NUMBERED_MAX], folder[PATH_MAX];
    int free_number = 1;

    for (; free_number <= DN_DEAD_FILES_KEPT; free_number++) {
        numbered(writer, free_number, to);
        if (access(to, F_OK) != 0 && errno == ENOENT)
            break;
    }
    bool drop = free_number > DN_DEAD_FILES_KEPT;
    for (int i = drop ? DN_DEAD_FILES_KEPT : free_number; i >= 1; i--) {
        numbered(writer, i - 1, from);
        numbered(writer, i, to);
        if (rename(from, to) != 0)
            return fail_io(err, errno, "rename", from);
        if (drop && i == DN_DEAD_FILES_KEPT) {
            writer->dropped++;
            dn_warn("deadletter", "'%s' was dropped for a newer one: %d are kept; move them away in time", to,
                    DN_DEAD_FILES_KEPT);
        }
    }
    writer->name_durable = false;
    folder_of(writer, folder);
    return flush_folder(folder, err);
}

/* Open, locked, and with room for `length` more bytes. */
static enum dn_code open_with_room(struct dn_dead_writer *writer, size_t length, int *ret_fd,
                                   uint64_t *ret_size, struct dn_error *err)
{
    enum dn_code code = open_locked(writer, ret_fd, ret_size, err);
    if (code != DN_OK || *ret_size == 0 || *ret_size + length <= writer->max_bytes)
        return code;
    code = rotate(writer, err);
    close(*ret_fd);
    return code == DN_OK ? open_locked(writer, ret_fd, ret_size, err) : code;
}

/* ---- appending -------------------------------------------------------------------------------------- */

/* 0, or the errno. */
static int write_whole(int fd, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t count = write(fd, bytes, length);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 ? errno : EIO;
        bytes += count;
        length -= (size_t)count;
    }
    return 0;
}

/* The journal may be on the same disk, and needs its last bytes more. */
static enum dn_code leave_room(const struct dn_dead_writer *writer, int fd, size_t length,
                               struct dn_error *err)
{
    struct statvfs room;
    if (fstatvfs(fd, &room) != 0 ||
        (uint64_t)room.f_bavail * room.f_frsize >= DN_DEAD_FREE_MIN + (uint64_t)length)
        return DN_OK;
    return dn_fail(err, DN_NO_SPACE, "'%s': less than %llu MiB are free on its disk; make room", writer->path,
                   (unsigned long long)DN_DEAD_FREE_MIN >> 20);
}

static int end_torn_line(int fd, uint64_t size)
{
    char last;
    if (size == 0)
        return 0;
    if (pread(fd, &last, 1, (off_t)size - 1) != 1)
        return errno == 0 ? EIO : errno;
    return last == '\n' ? 0 : write_whole(fd, (const uint8_t *)"\n", 1);
}

enum dn_code dn_dead_writer_append(struct dn_dead_writer *writer, const void *lines, size_t length,
                                   struct dn_error *err)
{
    char folder[PATH_MAX];
    uint64_t size = 0;
    int fd = -1;

    enum dn_code code = open_with_room(writer, length, &fd, &size, err);
    if (code != DN_OK)
        return code;
    code = leave_room(writer, fd, length, err);
    if (code != DN_OK) {
        close(fd);
        return code;
    }
    const char *what = "write to";
    int reason = end_torn_line(fd, size);
    if (reason == 0)
        reason = write_whole(fd, lines, length);
    if (reason == 0 && fdatasync(fd) != 0) {
        what = "flush";
        reason = errno;
    }
    if (reason != 0) {
        code = fail_io(err, reason, what, writer->path);
        if (ftruncate(fd, (off_t)size) != 0)
            dn_warn("deadletter", "'%s' may have torn or repeated lines behind byte %llu: %s", writer->path,
                    (unsigned long long)size, strerror(errno));
    } else if (!writer->name_durable) {
        folder_of(writer, folder);
        code = flush_folder(folder, err);
        writer->name_durable = code == DN_OK;
    }
    close(fd);
    return code;
}
