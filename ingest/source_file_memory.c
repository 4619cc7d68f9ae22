#include "ingest/source_file_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADING "dunlin follow 1\n"
#define LINE_BYTES_MAX 160
#define TEXT_BYTES_MAX ((DN_FILE_ROWS_MAX + DN_SOURCE_LIST_MAX + 1) * LINE_BYTES_MAX)

enum dn_code dn_file_memory_create(struct dn_file_memory *ret, struct dn_error *err)
{
    memset(ret, 0, sizeof(*ret));
    ret->rows = calloc(DN_FILE_ROWS_MAX, sizeof(ret->rows[0]));
    return ret->rows != NULL ? DN_OK : dn_fail(err, DN_NO_MEMORY, "no memory to follow files");
}

void dn_file_memory_destroy(struct dn_file_memory *memory)
{
    free(memory->rows);
    free(memory->saved);
    memset(memory, 0, sizeof(*memory));
}

uint64_t dn_file_path_key(const char *path)
{
    return dn_hash64(path, strlen(path), 0);
}

bool dn_file_memory_knows(const struct dn_file_memory *memory, uint64_t path_key)
{
    for (size_t i = 0; i < memory->known_count; i++) {
        if (memory->known[i] == path_key) {
            return true;
        }
    }
    return false;
}

void dn_file_memory_know(struct dn_file_memory *memory, uint64_t path_key)
{
    if (!dn_file_memory_knows(memory, path_key) && memory->known_count < DN_SOURCE_LIST_MAX) {
        memory->known[memory->known_count++] = path_key;
    }
}

struct dn_file_row *dn_file_memory_add(struct dn_file_memory *memory, const struct dn_file_row *row)
{
    for (size_t i = 0; i < memory->count; i++) {
        struct dn_file_row *other = &memory->rows[i];

        if (other->path_key == row->path_key && other->identity.inode == row->identity.inode &&
            dn_hash128_equal(other->identity.first, row->identity.first)) {
            return other;
        }
    }
    if (memory->count == DN_FILE_ROWS_MAX) {
        return NULL;
    }
    memory->rows[memory->count] = *row;
    return &memory->rows[memory->count++];
}

/* ---- the file ---- */

static void file_name(const char *folder, const char *source, const char *end, char ret[PATH_MAX])
{
    snprintf(ret, PATH_MAX, "%s/follow-%s%s", folder, source, end);
}

/* The whole file, NUL-terminated; *ret NULL: there is none. */
static enum dn_code read_text(const char *name, char **ret, struct dn_error *err)
{
    FILE *file = fopen(name, "re");
    char *text;
    size_t length;
    bool bad;

    *ret = NULL;
    if (file == NULL) {
        return errno == ENOENT ? DN_OK : dn_fail(err, DN_IO, "open '%s': %s", name, strerror(errno));
    }
    text = malloc(TEXT_BYTES_MAX + 1);
    if (text == NULL) {
        fclose(file);
        return dn_fail(err, DN_NO_MEMORY, "no memory to read '%s'", name);
    }
    length = fread(text, 1, TEXT_BYTES_MAX, file);
    bad = ferror(file) != 0;
    fclose(file);
    if (bad) {
        free(text);
        return dn_fail(err, DN_IO, "read '%s': %s", name, strerror(errno));
    }
    text[length] = '\0';
    *ret = text;
    return DN_OK;
}

static bool take_line(struct dn_file_memory *memory, const char *line)
{
    struct dn_file_row row = {0};
    char word[8] = "";
    uint64_t key = 0;
    int used = 0;

    /* NOLINTNEXTLINE(bugprone-unchecked-string-to-number-conversion,cert-err34-c): our own file, whole lines
     */
    if (sscanf(line, "path %16" SCNx64 "%n", &key, &used) == 1 && line[used] == '\0') {
        dn_file_memory_know(memory, key);
        return true;
    }
    /* NOLINTNEXTLINE(bugprone-unchecked-string-to-number-conversion,cert-err34-c): as above */
    if (sscanf(line, "file %16" SCNx64 " %20" SCNu64 " %16" SCNx64 " %16" SCNx64 " %7s %20" SCNd64 "%n",
               &row.path_key, &row.identity.inode, &row.identity.first.high, &row.identity.first.low, word,
               &row.finished_at, &used) != 6 ||
        line[used] != '\0' || row.finished_at < -1) {
        return false;
    }
    row.over = strcmp(word, "over") == 0;
    row.done = row.over || strcmp(word, "done") == 0;
    return (row.done || strcmp(word, "read") == 0) && dn_file_memory_add(memory, &row) != NULL;
}

static bool take_text(struct dn_file_memory *memory, char *text)
{
    char *end;

    if (strncmp(text, HEADING, strlen(HEADING)) != 0) {
        return false;
    }
    for (char *line = text + strlen(HEADING); *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        if (end == NULL) {
            return false;
        }
        *end = '\0';
        if (!take_line(memory, line)) {
            return false;
        }
    }
    return true;
}

enum dn_code dn_file_memory_load(struct dn_file_memory *memory, const char *folder, const char *source,
                                 struct dn_error *err)
{
    char name[PATH_MAX];
    enum dn_code code = DN_OK;
    char *text = NULL;

    if (folder == NULL) {
        return DN_OK;
    }
    file_name(folder, source, "", name);
    code = read_text(name, &text, err);
    if (code == DN_OK && text != NULL && !take_text(memory, text)) {
        code =
            dn_fail(err, DN_CORRUPT,
                    "'%s' is damaged: delete it; what was rotated away while this node was down is then not "
                    "read: give such files to a source of their own, without follow",
                    name);
    }
    free(text);
    return code;
}

static char *write_text(const struct dn_file_memory *memory)
{
    size_t room = (memory->count + memory->known_count + 1) * LINE_BYTES_MAX;
    char *text = malloc(room);
    size_t used;

    if (text == NULL) {
        return NULL;
    }
    used = (size_t)snprintf(text, room, "%s", HEADING);
    for (size_t i = 0; i < memory->known_count; i++) {
        used += (size_t)snprintf(text + used, room - used, "path %016" PRIx64 "\n", memory->known[i]);
    }
    for (size_t i = 0; i < memory->count; i++) {
        const struct dn_file_row *row = &memory->rows[i];

        used += (size_t)snprintf(
            text + used, room - used,
            "file %016" PRIx64 " %" PRIu64 " %016" PRIx64 " %016" PRIx64 " %s %" PRId64 "\n", row->path_key,
            row->identity.inode, row->identity.first.high, row->identity.first.low,
            row->over   ? "over"
            : row->done ? "done"
                        : "read",
            row->finished_at);
    }
    return text;
}

static enum dn_code write_file(const char *name, const char *text, struct dn_error *err)
{
    size_t length = strlen(text), done = 0;
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0) {
        return dn_fail(err, DN_IO, "open '%s': %s", name, strerror(errno));
    }
    while (done < length) {
        ssize_t wrote = write(fd, text + done, length - done);

        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote <= 0) {
            break;
        }
        done += (size_t)wrote;
    }
    if (done < length || fsync(fd) != 0) {
        dn_fail(err, DN_IO, "write '%s': %s", name, strerror(errno));
        close(fd);
        return DN_IO;
    }
    close(fd);
    return DN_OK;
}

static void sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

enum dn_code dn_file_memory_save(struct dn_file_memory *memory, const char *folder, const char *source,
                                 struct dn_error *err)
{
    char name[PATH_MAX], fresh[PATH_MAX];
    enum dn_code code;
    char *text;

    if (folder == NULL) {
        return DN_OK;
    }
    text = write_text(memory);
    if (text == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory to remember followed files");
    }
    if (memory->saved != NULL && strcmp(memory->saved, text) == 0) {
        free(text);
        return DN_OK;
    }
    file_name(folder, source, "", name);
    file_name(folder, source, ".new", fresh);
    code = write_file(fresh, text, err);
    if (code == DN_OK && rename(fresh, name) != 0) {
        code = dn_fail(err, DN_IO, "rename '%s': %s", fresh, strerror(errno));
    }
    if (code != DN_OK) {
        free(text);
        return code;
    }
    sync_folder(folder);
    free(memory->saved);
    memory->saved = text;
    return DN_OK;
}
