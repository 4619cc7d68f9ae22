/* Lines out of a file, with a bound on their length. */
#include "ingest/deadletter_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_BYTES ((size_t)64 << 10)

struct dn_dead_file {
    int fd;
    char *name;
    uint64_t line;            /* number of the line that was given last */
    struct dn_buffer waiting; /* read and not yet given: [at, waiting.length) */
    size_t at;
    size_t searched; /* no line end in [at, searched) */
    bool skipping;   /* in a line that is too long: up to its end, nothing is kept */
};

enum dn_code dn_dead_file_open(const char *path, struct dn_dead_file **ret, struct dn_error *err)
{
    bool standard_input = strcmp(path, "-") == 0;
    struct stat info;

    struct dn_dead_file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    dn_buffer_init(&file->waiting, DN_DEAD_LINE_MAX + READ_BYTES);
    file->name = strdup(standard_input ? "standard input" : path);
    file->fd = standard_input ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd >= 0 && fstat(file->fd, &info) == 0 && S_ISDIR(info.st_mode)) {
        close(file->fd);
        file->fd = -1;
        errno = EISDIR;
    }
    if (file->name == NULL || file->fd < 0) {
        enum dn_code code = file->name == NULL ? DN_NO_MEMORY : errno == ENOENT ? DN_NOT_FOUND : DN_IO;
        dn_fail(err, code, "open '%s': %s", path, strerror(errno));
        dn_dead_file_close(file);
        return code;
    }
    *ret = file;
    return DN_OK;
}

void dn_dead_file_close(struct dn_dead_file *file)
{
    if (file == NULL)
        return;
    if (file->fd >= 0)
        close(file->fd);
    dn_buffer_free(&file->waiting);
    free(file->name);
    free(file);
}

uint64_t dn_dead_file_line(const struct dn_dead_file *file)
{
    return file->line;
}

/* Reads some more behind what waits; *ret_end: there is no more now. */
static enum dn_code read_more(struct dn_dead_file *file, bool *ret_end, struct dn_error *err)
{
    if (file->at > 0) {
        memmove(file->waiting.bytes, file->waiting.bytes + file->at, file->waiting.length - file->at);
        file->waiting.length -= file->at;
        file->searched -= file->at;
        file->at = 0;
    }
    uint8_t *to = dn_buffer_reserve(&file->waiting, READ_BYTES);
    if (to == NULL)
        return dn_fail(err, DN_NO_MEMORY, "'%s': out of memory after line %llu", file->name,
                       (unsigned long long)file->line);
    ssize_t count;
    do {
        count = read(file->fd, to, READ_BYTES);
    } while (count < 0 && errno == EINTR);
    if (count < 0)
        return dn_fail(err, DN_IO, "read '%s' after line %llu: %s", file->name,
                       (unsigned long long)file->line, strerror(errno));
    file->waiting.length += (size_t)count;
    *ret_end = count == 0;
    return DN_OK;
}

/* Finds the end of the next line; reads as far as it must. *ret_length is without the line end. An unfinished
 * last line is one too, if it is a letter: *ret_finished says whether its end was there. */
static enum dn_code next_line(struct dn_dead_file *file, size_t *ret_length, bool *ret_finished,
                              struct dn_error *err)
{
    for (;;) {
        const uint8_t *from = file->waiting.bytes + file->searched;
        size_t left = file->waiting.length - file->searched;
        const uint8_t *end = left == 0 ? NULL : memchr(from, '\n', left);
        if (end != NULL) {
            *ret_length = (size_t)(end - file->waiting.bytes) - file->at;
            *ret_finished = true;
            return DN_OK;
        }
        file->searched = file->waiting.length;
        if (file->skipping || file->searched - file->at > DN_DEAD_LINE_MAX) {
            file->skipping = true;
            file->at = file->searched;
        }
        bool at_end = false;
        enum dn_code code = read_more(file, &at_end, err);
        if (code != DN_OK)
            return code;
        if (at_end) {
            *ret_length = file->waiting.length - file->at;
            *ret_finished = false;
            return *ret_length == 0 && !file->skipping ? DN_NOT_FOUND : DN_OK;
        }
    }
}

enum dn_code dn_dead_file_next(struct dn_dead_file *file, struct dn_buffer *buffer, struct dn_dead_line *ret,
                               struct dn_error *err)
{
    size_t length;
    bool finished, too_long;
    enum dn_code code;

    do {
        code = next_line(file, &length, &finished, err);
        if (code != DN_OK)
            return code;
        file->line++;
        too_long = file->skipping;
        code = DN_OK;
        if (length > 0 && !too_long)
            code = dn_dead_line_parse((const char *)file->waiting.bytes + file->at, length, buffer, ret, err);
        file->at += length + (finished ? 1 : 0);
        file->searched = file->at;
        file->skipping = false;
    } while (length == 0 && !too_long); /* empty lines are passed over */
    if (too_long)
        code = dn_fail(err, DN_INVALID, "longer than %zu bytes", DN_DEAD_LINE_MAX);
    if (code != DN_OK && !finished)
        dn_wrap(err, code, "unfinished, the last one (being written, or torn by a crash)");
    if (code != DN_OK)
        dn_wrap(err, code, "'%s': line %llu", file->name, (unsigned long long)file->line);
    return code;
}
