/* The happy path of our own: snapstore_write opens writing.tmp -> the state machine writes to the sink, whose
 * buffer is one chunk -> each full chunk is hashed and written (chunk_drain) -> the manifest is made -> the
 * file is flushed and gets its name. Reading goes the other way, through source_fill. */
#include "consensus/snapshot_files.h"

#include <sodium.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OWN_FILE "writing.tmp"

/* ---- files ------------------------------------------------------------------------------------------ */

void snapfile_path(const struct snapstore *store, const struct snap_name *name, const char *ending,
                   char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s/%020" PRIu64 "-%" PRIu64 "-%016" PRIx64 "%s", store->dir, name->index,
                     name->term, name->id, ending);
    DN_ASSERT(n > 0 && n < PATH_MAX); /* dir leaves room for it */
}

void snapstore_path(const struct snapstore *store, const struct snap_name *name, char out[PATH_MAX])
{
    snapfile_path(store, name, SNAP_WHOLE, out);
}

enum dn_code snapfile_failed(struct dn_error *err, const char *what, const char *path, int reason)
{
    enum dn_code code = reason == ENOSPC || reason == EDQUOT ? DN_NO_SPACE : DN_IO;
    return dn_fail(err, code, "%s '%s': %s", what, path, strerror(reason));
}

enum dn_code snapfile_write(int fd, const char *path, uint64_t offset, const uint8_t *bytes, size_t length,
                            struct dn_error *err)
{
    while (length > 0) {
        ssize_t n = pwrite(fd, bytes, length, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return snapfile_failed(err, "write", path, n == 0 ? EIO : errno);
        }
        bytes += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return DN_OK;
}

enum dn_code snapfile_read(int fd, const char *path, uint64_t offset, uint8_t *bytes, size_t length,
                           struct dn_error *err)
{
    while (length > 0) {
        ssize_t n = pread(fd, bytes, length, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return dn_fail(err, DN_IO, "read '%s' at byte %" PRIu64 ": %s", path, offset, strerror(errno));
        }
        if (n == 0) {
            return dn_fail(err, DN_CORRUPT, "'%s' ends at byte %" PRIu64 ": it was cut short", path, offset);
        }
        bytes += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return DN_OK;
}

void snapfile_push(int fd, uint64_t offset, uint64_t length)
{
    if (offset > 0) {
        (void)sync_file_range(fd, 0, (off_t)offset,
                              SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                  SYNC_FILE_RANGE_WAIT_AFTER);
    }
    (void)sync_file_range(fd, (off_t)offset, (off_t)length,
                          SYNC_FILE_RANGE_WRITE); /* a hint: fsync follows */
}

static enum dn_code sync_dir(const char *dir, struct dn_error *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return snapfile_failed(err, "open", dir, errno);
    }
    int reason = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return reason == 0 ? DN_OK : snapfile_failed(err, "sync", dir, reason);
}

enum dn_code snapfile_publish(const struct snapstore *store, int fd, const char *from, const char *to,
                              struct dn_error *err)
{
    int reason = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    if (reason != 0) {
        return snapfile_failed(err, "sync", from, reason);
    }
    if (rename(from, to) != 0) {
        return snapfile_failed(err, "rename", from, errno);
    }
    return sync_dir(store->dir, err);
}

/* ---- the folder ------------------------------------------------------------------------------------- */

static enum dn_code make_dir(const char *parent, const char *dir, struct dn_error *err)
{
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        return snapfile_failed(err, "create", dir, errno);
    }
    return sync_dir(parent, err); /* one that is there may be of a process that was killed before this */
}

enum dn_code snapstore_open(struct snapstore *store, const char *data_dir, uint32_t group,
                            struct dn_error *err)
{
    char parent[sizeof store->dir];
    if (snprintf(parent, sizeof parent, "%s/snapshots", data_dir) >= (int)sizeof parent ||
        snprintf(store->dir, sizeof store->dir, "%s/snapshots/%" PRIu32, data_dir, group) >=
            (int)sizeof store->dir) {
        return dn_fail(err, DN_INVALID, "data directory path is too long");
    }
    if (sodium_init() < 0) {
        return dn_fail(err, DN_INTERNAL, "libsodium does not start");
    }
    store->group = group;
    enum dn_code code = make_dir(data_dir, parent, err);
    return code == DN_OK ? make_dir(parent, store->dir, err) : code;
}

/* True for INDEX-TERM-ID and the ending, and nothing else. */
static bool parse_name(const char *file, const char *ending, struct snap_name *ret)
{
    struct snap_name name = {0};
    int used = 0;
    if (file[0] < '0' || file[0] > '9' ||
        sscanf(file, "%20" SCNu64 "-%20" SCNu64 "-%16" SCNx64 "%n", &name.index, &name.term, &name.id,
               &used) != 3 ||
        strcmp(file + used, ending) != 0) {
        return false;
    }
    *ret = name;
    return true;
}

static bool newer(const struct snap_name *a, const struct snap_name *b)
{
    if (a->index != b->index) {
        return a->index > b->index;
    }
    return a->term != b->term ? a->term > b->term : a->id > b->id;
}

enum dn_code snapstore_list(const struct snapstore *store, struct snap_name *names, size_t max,
                            size_t *ret_count, struct dn_error *err)
{
    DIR *dir = opendir(store->dir);
    struct dirent *entry;
    struct snap_name name;
    size_t count = 0;
    if (dir == NULL) {
        return snapfile_failed(err, "open", store->dir, errno);
    }
    while ((entry = readdir(dir)) != NULL) {
        if (!parse_name(entry->d_name, SNAP_WHOLE, &name)) {
            continue;
        }
        size_t at = count < max ? count : max;
        while (at > 0 && newer(&name, &names[at - 1])) {
            if (at < max) {
                names[at] = names[at - 1];
            }
            at--;
        }
        if (at < max) {
            names[at] = name;
        }
        count++;
    }
    closedir(dir);
    *ret_count = count;
    return DN_OK;
}

static bool kept(const struct snap_name *name, const struct snap_name *keep, size_t keep_count)
{
    for (size_t i = 0; i < keep_count; i++) {
        if (snap_name_equal(name, &keep[i])) {
            return true;
        }
    }
    return false;
}

/* Removes the file unless the rules keep it; keeps track of the newest one above. */
static void prune_one(const struct snapstore *store, const char *file, const struct snap_name *newest,
                      const struct snap_name *keep, size_t keep_count)
{
    struct snap_name name;
    char path[PATH_MAX];
    bool ours = parse_name(file, SNAP_WHOLE, &name) || parse_name(file, SNAP_PART, &name);
    if (file[0] == '.' || (ours && (kept(&name, keep, keep_count) || snap_name_equal(&name, newest)))) {
        return;
    }
    if (ours || strcmp(file, OWN_FILE) == 0) {
        if (snprintf(path, sizeof path, "%s/%s", store->dir, file) < (int)sizeof path) {
            unlink(path);
        }
    }
}

enum dn_code snapstore_prune(const struct snapstore *store, const struct snap_name *keep, size_t keep_count,
                             uint64_t above, struct dn_error *err)
{
    DIR *dir = opendir(store->dir);
    struct dirent *entry;
    struct snap_name newest = {0}, name;
    if (dir == NULL) {
        return snapfile_failed(err, "open", store->dir, errno);
    }
    while ((entry = readdir(dir)) != NULL) {
        if ((parse_name(entry->d_name, SNAP_WHOLE, &name) || parse_name(entry->d_name, SNAP_PART, &name)) &&
            name.index > above && newer(&name, &newest)) {
            newest = name;
        }
    }
    rewinddir(dir);
    while ((entry = readdir(dir)) != NULL) {
        prune_one(store, entry->d_name, &newest, keep, keep_count);
    }
    closedir(dir);
    return DN_OK;
}

/* ---- writing ---------------------------------------------------------------------------------------- */

struct writer {
    struct dn_sink sink; /* first: the sink is the writer */
    int fd;
    const char *path;
    const atomic_bool *stop;
    struct manifest *manifest;
    uint32_t hashes_max;
};

static bool stopped(const atomic_bool *stop)
{
    return stop != NULL && atomic_load_explicit(stop, memory_order_relaxed);
}

/* A place for one more hash, and a buffer for the chunk after this one, which may be of a larger tier. */
static enum dn_code grow(struct writer *w, struct dn_error *err)
{
    struct manifest *m = w->manifest;
    if (m->chunk_count == w->hashes_max) {
        uint32_t max = w->hashes_max == 0 ? 64 : w->hashes_max * 2;
        uint8_t *hashes = realloc(m->hashes, (size_t)max * SNAP_HASH_BYTES);
        if (hashes == NULL) {
            return dn_fail(err, DN_NO_MEMORY, "no memory for a snapshot's manifest");
        }
        m->hashes = hashes;
        w->hashes_max = max;
    }
    size_t next = (size_t)(chunk_offset(m->chunk_count + 2) - chunk_offset(m->chunk_count + 1));
    if (next > w->sink.capacity) {
        uint8_t *buffer = malloc(next);
        if (buffer == NULL) {
            return dn_fail(err, DN_NO_MEMORY, "no memory for a chunk of %zu bytes", next);
        }
        memcpy(buffer, w->sink.buffer, w->sink.capacity);
        free(w->sink.buffer);
        w->sink.buffer = buffer;
        w->sink.capacity = next;
    }
    return DN_OK;
}

static enum dn_code chunk_drain(struct dn_sink *sink, const uint8_t *bytes, size_t length,
                                struct dn_error *err)
{
    struct writer *w = (struct writer *)sink;
    struct manifest *m = w->manifest;
    if (stopped(w->stop)) {
        return dn_fail(err, DN_CANCELLED, "the node is shutting down");
    }
    if (m->chunk_count >= SNAP_CHUNKS_MAX) {
        return dn_fail(err, DN_EXHAUSTED, "a state of more than %" PRIu64 " bytes",
                       chunk_offset(SNAP_CHUNKS_MAX));
    }
    uint64_t offset = chunk_offset(m->chunk_count);
    enum dn_code code = snapfile_write(w->fd, w->path, offset, bytes, length, err);
    if (code != DN_OK) {
        return code;
    }
    /* Hashed before grow() may put another buffer in its place. */
    uint8_t digest[SNAP_HASH_BYTES];
    crypto_generichash(digest, sizeof digest, bytes, length, NULL, 0);
    code = grow(w, err);
    if (code != DN_OK) {
        return code;
    }
    memcpy(m->hashes + (size_t)m->chunk_count * SNAP_HASH_BYTES, digest, sizeof digest);
    m->chunk_count++;
    m->total_bytes += length;
    snapfile_push(w->fd, offset, length);
    return DN_OK;
}

static enum dn_code write_state(struct writer *w, const struct dn_fsm *fsm, void *capture,
                                struct dn_error *err)
{
    enum dn_code code = fsm->snapshot_write(fsm->state, capture, &w->sink, err);
    if (code == DN_OK && dn_sink_flush(&w->sink) != DN_OK) {
        code = dn_fail(err, w->sink.code, "%s", w->sink.error.message);
    }
    return code;
}

/* Sets the manifest's id and gives the file its name. Closes fd. */
static enum dn_code name_it(const struct snapstore *store, struct writer *w, struct dn_error *err)
{
    char path[PATH_MAX];
    struct dn_buffer encoded;
    dn_buffer_init(&encoded, SNAP_MANIFEST_MAX);
    manifest_encode(w->manifest, &encoded);
    bool good = !encoded.failed;
    dn_buffer_free(&encoded);
    if (!good) {
        close(w->fd);
        return dn_fail(err, DN_NO_MEMORY, "no memory for a snapshot's manifest");
    }
    snapfile_path(store, &w->manifest->name, SNAP_WHOLE, path);
    return snapfile_publish(store, w->fd, w->path, path, err);
}

enum dn_code snapstore_write(const struct snapstore *store, const struct snapstore_point *point,
                             const struct dn_fsm *fsm, void *capture, const atomic_bool *stop,
                             struct manifest **ret, struct dn_error *err)
{
    char path[PATH_MAX];
    struct writer w = {.path = path, .stop = stop};
    enum dn_code code;
    (void)snprintf(path, sizeof path, "%s/" OWN_FILE, store->dir);
    w.manifest = calloc(1, sizeof *w.manifest);
    w.sink = (struct dn_sink){
        .drain = chunk_drain, .buffer = malloc(SNAP_CHUNK_BYTES), .capacity = SNAP_CHUNK_BYTES};
    if (w.manifest == NULL || w.sink.buffer == NULL) {
        code = dn_fail(err, DN_NO_MEMORY, "no memory to write a snapshot");
        goto err_memory;
    }
    *w.manifest = (struct manifest){.refs = 1,
                                    .group = store->group,
                                    .name = {point->index, point->term, 0},
                                    .time_ms = point->time_ms,
                                    .state_hash = point->state_hash};
    w.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (w.fd < 0) {
        code = snapfile_failed(err, "create", path, errno);
        goto err_memory;
    }
    code = write_state(&w, fsm, capture, err);
    if (code != DN_OK) {
        close(w.fd);
        goto err_file;
    }
    code = name_it(store, &w, err);
    if (code != DN_OK) {
        goto err_file;
    }
    free(w.sink.buffer);
    *ret = w.manifest;
    return DN_OK;

err_file:
    unlink(path);
err_memory:
    free(w.sink.buffer);
    manifest_unref(w.manifest);
    return code;
}

/* ---- reading ---------------------------------------------------------------------------------------- */

struct reader {
    struct dn_source source; /* first: the source is the reader */
    int fd;
    char path[PATH_MAX];
    const struct manifest *manifest;
    const atomic_bool *stop;
    uint32_t next; /* chunk */
    uint8_t *chunk;
    size_t have, at; /* of the chunk that is given out */
    size_t capacity;
    uint8_t room[DN_STREAM_BUFFER_BYTES];
};

static enum dn_code open_whole(const struct snapstore *store, const struct manifest *manifest,
                               char path[PATH_MAX], int *ret_fd, struct dn_error *err)
{
    struct stat st;
    snapfile_path(store, &manifest->name, SNAP_WHOLE, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int reason = errno;
        return reason == ENOENT ? dn_fail(err, DN_NOT_FOUND, "'%s' is missing", path)
                                : snapfile_failed(err, "open", path, reason);
    }
    if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != manifest->total_bytes) {
        uint64_t found = (uint64_t)st.st_size;
        close(fd);
        return dn_fail(err, DN_CORRUPT, "'%s' has %" PRIu64 " bytes where %" PRIu64 " were written", path,
                       found, manifest->total_bytes);
    }
    *ret_fd = fd;
    return DN_OK;
}

static enum dn_code read_chunk(int fd, const char *path, const struct manifest *m, uint32_t chunk,
                               uint8_t *bytes, struct dn_error *err)
{
    uint32_t length = chunk_bytes(m, chunk);
    uint64_t offset = chunk_offset(chunk);
    enum dn_code code = snapfile_read(fd, path, offset, bytes, length, err);
    if (code == DN_OK && !chunk_matches(m, chunk, bytes, length)) {
        code = dn_fail(err, DN_CORRUPT,
                       "'%s': chunk %" PRIu32 " (%" PRIu32 " bytes at %" PRIu64 ") has a wrong checksum",
                       path, chunk, length, offset);
    }
    return code;
}

enum dn_code snapstore_read(const struct snapstore *store, const struct manifest *manifest, uint32_t chunk,
                            uint8_t *buffer, struct dn_error *err)
{
    char path[PATH_MAX];
    int fd = -1;
    enum dn_code code = open_whole(store, manifest, path, &fd, err);
    if (code == DN_OK) {
        code = read_chunk(fd, path, manifest, chunk, buffer, err);
        close(fd);
    }
    return code;
}

static enum dn_code next_chunk(struct reader *r, struct dn_error *err)
{
    uint32_t length = chunk_bytes(r->manifest, r->next);
    if (length > r->capacity) {
        uint8_t *chunk = malloc(length);
        if (chunk == NULL) {
            return dn_fail(err, DN_NO_MEMORY, "no memory for a chunk of %" PRIu32 " bytes", length);
        }
        free(r->chunk);
        r->chunk = chunk;
        r->capacity = length;
    }
    r->have = 0;
    r->at = 0;
    enum dn_code code = read_chunk(r->fd, r->path, r->manifest, r->next, r->chunk, err);
    if (code == DN_OK) {
        r->have = length;
        r->next++;
    }
    return code;
}

static enum dn_code source_fill(struct dn_source *source, uint8_t *bytes, size_t length, size_t *ret_length,
                                struct dn_error *err)
{
    struct reader *r = (struct reader *)source;
    if (r->at == r->have && r->next < r->manifest->chunk_count) {
        enum dn_code code =
            stopped(r->stop) ? dn_fail(err, DN_CANCELLED, "the node is shutting down") : next_chunk(r, err);
        if (code != DN_OK) {
            return code;
        }
    }
    size_t part = r->have - r->at < length ? r->have - r->at : length;
    if (part > 0) {
        memcpy(bytes, r->chunk + r->at, part);
    }
    r->at += part;
    *ret_length = part;
    return DN_OK;
}

enum dn_code snapstore_source_open(const struct snapstore *store, const struct manifest *manifest,
                                   const atomic_bool *stop, struct dn_source **ret, struct dn_error *err)
{
    struct reader *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory to read a snapshot");
    }
    enum dn_code code = open_whole(store, manifest, r->path, &r->fd, err);
    if (code != DN_OK) {
        free(r);
        return code;
    }
    r->manifest = manifest;
    r->stop = stop;
    r->source = (struct dn_source){.fill = source_fill, .buffer = r->room, .capacity = sizeof r->room};
    *ret = &r->source;
    return DN_OK;
}

void snapstore_source_close(struct dn_source *source)
{
    struct reader *r = (struct reader *)source;
    if (r != NULL) {
        close(r->fd);
        free(r->chunk);
        free(r);
    }
}

enum dn_code snapstore_build(const struct snapstore *store, const struct manifest *manifest,
                             const struct dn_fsm *fsm, const atomic_bool *stop, void **ret_built,
                             struct dn_error *err)
{
    struct dn_source *source = NULL;
    enum dn_code code = snapstore_source_open(store, manifest, stop, &source, err);
    if (code != DN_OK) {
        return code;
    }
    code = fsm->restore_build(fsm->state, source, ret_built, err);
    snapstore_source_close(source);
    if (code != DN_OK) {
        char path[PATH_MAX];
        snapfile_path(store, &manifest->name, SNAP_WHOLE, path);
        code = dn_wrap(err, code, "state in '%s'", path);
    }
    return code;
}
