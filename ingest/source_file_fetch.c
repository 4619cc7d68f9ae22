/* A few files stay open between calls, each where the last message was taken: rising offsets go on from
 * there, compressed files too. */
#include "ingest/source_file_fetch.h"

#include "base/clock.h"
#include "ingest/reader.h"
#include "ingest/source_file_reader.h"
#include "ingest/source_file_stdin.h"
#include "ingest/source_file_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPEN_FILES 4
#define TROUBLE_MS 600000

struct fetched_file {
    char stream[DN_SOURCE_MAX + 1];
    struct dn_file_reader *reader; /* NULL: unused */
    uint64_t used;                 /* by which call, the last time */
};

struct fetcher {
    const struct dn_source_config *config;
    const struct dn_source_host *host;
    struct dn_file_table *table;
    struct fetched_file files[OPEN_FILES];
    uint64_t calls;
};

enum dn_code dn_file_fetcher_open(const struct dn_source_config *config, const struct dn_source_host *host,
                                  void **ret_fetcher, struct dn_error *err)
{
    struct fetcher *fetcher = calloc(1, sizeof(*fetcher));
    enum dn_code code;

    if (fetcher == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "source '%s': no memory", config->name);
    }
    fetcher->config = config;
    fetcher->host = host;
    code = dn_file_table_create(config, host, false, &fetcher->table, err);
    if (code != DN_OK) {
        free(fetcher);
        return code;
    }
    *ret_fetcher = fetcher;
    return DN_OK;
}

void dn_file_fetcher_close(void *data)
{
    struct fetcher *fetcher = data;

    for (size_t i = 0; i < OPEN_FILES; i++) {
        dn_file_reader_destroy(fetcher->files[i].reader);
    }
    dn_file_table_destroy(fetcher->table);
    free(fetcher);
}

/* The table has no row for standard input of a fetcher: its name says where its copy is. */
static size_t find_stream(struct fetcher *fetcher, const char *stream)
{
    size_t index = dn_file_table_find(fetcher->table, stream);
    char path[DN_FILE_PATH_MAX];

    if (index == SIZE_MAX && dn_file_stdin_path_of(fetcher->config, fetcher->host, stream, path) &&
        dn_file_table_add_path(fetcher->table, stream, path)) {
        index = dn_file_table_find(fetcher->table, stream);
    }
    return index;
}

/* A folder that is not mounted, a log that is being rotated: it may come back. But not for ever: letters wait
 * for it. */
static enum dn_code not_there(struct fetcher *fetcher, struct dn_error *err, const char *format,
                              const char *stream)
{
    char trouble[DN_SOURCE_TEXT_MAX];
    int64_t since_ms = dn_file_table_trouble(fetcher->table, trouble);

    if (since_ms != 0 && dn_wall_ms() - since_ms < TROUBLE_MS) {
        return dn_fail(err, DN_UNAVAILABLE, "%s", trouble);
    }
    return dn_fail(err, DN_NOT_FOUND, format, stream);
}

static enum dn_code open_file(struct fetcher *fetcher, const char *stream, struct fetched_file *file,
                              struct dn_error *err)
{
    struct dn_file_identity identity;
    struct dn_file_where where;
    size_t index;
    int fd;

    dn_file_table_scan(fetcher->table); /* it may be new, or have been rotated */
    index = find_stream(fetcher, stream);
    if (index == SIZE_MAX && dn_source_is_local(fetcher->config) &&
        dn_stream_node(stream) != fetcher->host->node_id) {
        /* Each node reads its own: the message need not be gone, so this must not be DN_NOT_FOUND. */
        return dn_fail(err, DN_UNIMPLEMENTED,
                       "stream '%s' is another node's: the message stands there at this offset, or is gone",
                       stream);
    }
    if (index == SIZE_MAX) {
        return not_there(fetcher, err, "no file is there for stream '%s'", stream);
    }
    dn_file_table_where(fetcher->table, index, &where);
    fd = where.path[0] != '\0' ? open(where.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    if (fd < 0 && where.path[0] != '\0' && errno != ENOENT) {
        return dn_fail(err, DN_UNAVAILABLE, "open '%.200s': %s", where.path, strerror(errno));
    }
    if (fd >= 0 && where.identified &&
        (!dn_file_identify(fd, fetcher->config->format, &identity) ||
         !dn_hash128_equal(identity.first, where.identity.first))) {
        close(fd);
        fd = -1;
    }
    if (fd < 0) {
        return not_there(fetcher, err, "the file of stream '%s' is gone", stream);
    }
    dn_file_reader_destroy(file->reader);
    file->reader = dn_file_reader_create(fd, fetcher->config->format, fetcher->config->message_bytes);
    if (file->reader == NULL) {
        return dn_fail(err, DN_UNAVAILABLE, "no memory to read '%.200s'", where.path);
    }
    memcpy(file->stream, stream, strlen(stream) + 1);
    return DN_OK;
}

/* The one that is open, or the one that was not used for longest. */
static struct fetched_file *pick(struct fetcher *fetcher, const char *stream)
{
    struct fetched_file *oldest = &fetcher->files[0];

    for (size_t i = 0; i < OPEN_FILES; i++) {
        struct fetched_file *file = &fetcher->files[i];

        if (file->reader != NULL && strcmp(file->stream, stream) == 0) {
            return file;
        }
        if (file->reader == NULL || (oldest->reader != NULL && file->used < oldest->used)) {
            oldest = file;
        }
    }
    dn_file_reader_destroy(oldest->reader);
    oldest->reader = NULL;
    return oldest;
}

static enum dn_code read_one(struct dn_file_reader *reader, int64_t offset, uint64_t until_us,
                             struct dn_message *ret, struct dn_error *err)
{
    enum dn_file_outcome outcome;
    size_t count = 0;

    dn_file_reader_seek(reader, offset);
    while ((outcome = dn_file_reader_read(reader, true, ret, 1, &count, err)) == DN_FILE_BUSY) {
        if (dn_monotonic_us() >= until_us) {
            return dn_fail(err, DN_DEADLINE, "byte %lld was not reached yet", (long long)offset);
        }
    }
    if (outcome == DN_FILE_SOME && ret->offset == offset) {
        return DN_OK;
    }
    return dn_fail(err, DN_NOT_FOUND, "no message begins at byte %lld any more", (long long)offset);
}

enum dn_code dn_file_fetch(void *data, const char *stream, uint32_t partition, int64_t offset,
                           unsigned timeout_ms, struct dn_message *ret, struct dn_error *err)
{
    uint64_t until_us = dn_monotonic_us() + (uint64_t)timeout_ms * 1000;
    struct fetcher *fetcher = data;
    struct fetched_file *file;
    bool open_before;
    enum dn_code code = DN_OK;

    if (partition != 0 || offset < 0 || strlen(stream) > DN_SOURCE_MAX) {
        return dn_fail(err, DN_NOT_FOUND, "files have no partition %u, offset %lld", partition,
                       (long long)offset);
    }
    file = pick(fetcher, stream);
    file->used = ++fetcher->calls;
    open_before = file->reader != NULL;
    if (!open_before) {
        code = open_file(fetcher, stream, file, err);
    }
    if (code == DN_OK) {
        code = read_one(file->reader, offset, until_us, ret, err);
    }
    if (code == DN_NOT_FOUND && open_before) { /* perhaps in the file that is there now */
        code = open_file(fetcher, stream, file, err);
        if (code == DN_OK) {
            code = read_one(file->reader, offset, until_us, ret, err);
        }
    }
    return code;
}
