/* A file in memory with a name of one's choice, for readers that open files by name. */
#ifndef DN_TESTS_FUZZ_MEMORY_FILE_H
#define DN_TESTS_FUZZ_MEMORY_FILE_H

#include "base/error.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct memory_file {
    int fd;
    char folder[32];
    char path[64]; /* a link to the file in memory */
};

static inline void memory_file_open(struct memory_file *file, const char *name, const uint8_t *bytes,
                                    size_t length)
{
    char target[64];
    file->fd = memfd_create("fuzz", MFD_CLOEXEC);
    DN_ASSERT(file->fd >= 0);
    for (size_t at = 0; at < length;) {
        ssize_t wrote = write(file->fd, bytes + at, length - at);
        DN_ASSERT(wrote > 0);
        at += (size_t)wrote;
    }
    snprintf(file->folder, sizeof file->folder, "/tmp/dunlin-fuzz.XXXXXX");
    DN_ASSERT(mkdtemp(file->folder) != NULL);
    snprintf(file->path, sizeof file->path, "%s/%s", file->folder, name);
    snprintf(target, sizeof target, "/proc/self/fd/%d", file->fd);
    DN_ASSERT(symlink(target, file->path) == 0);
}

static inline void memory_file_close(struct memory_file *file)
{
    unlink(file->path);
    rmdir(file->folder);
    close(file->fd);
}

#endif
