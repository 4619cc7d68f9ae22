/* A snapshot that is being received: its file. The other half of snapshot_store.h. */
#include "consensus/snapshot_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Marks what is there already: whole chunks that match. `bytes` is as large as the largest chunk. */
static enum dn_code look(struct snapfetch *f, const char *path, uint64_t file_bytes, uint8_t *bytes,
                         const atomic_bool *stop, struct dn_error *err)
{
    const struct manifest *m = f->manifest;
    for (uint32_t i = 0; i < m->chunk_count; i++) {
        uint32_t length = chunk_bytes(m, i);
        if (stop != NULL && atomic_load_explicit(stop, memory_order_relaxed)) {
            return dn_fail(err, DN_CANCELLED, "the node is shutting down");
        }
        if (chunk_offset(i) + length > file_bytes) {
            break;
        }
        enum dn_code code = snapfile_read(f->fd, path, chunk_offset(i), bytes, length, err);
        if (code != DN_OK) {
            return code;
        }
        if (chunk_matches(m, i, bytes, length)) {
            snapfetch_mark(f, i);
        }
    }
    return DN_OK;
}

static enum dn_code look_into(struct snapfetch *f, const char *path, const atomic_bool *stop,
                              struct dn_error *err)
{
    const struct manifest *m = f->manifest;
    struct stat st;
    if (fstat(f->fd, &st) != 0) {
        return snapfile_failed(err, "look at", path, errno);
    }
    if (m->chunk_count == 0) {
        return DN_OK;
    }
    uint32_t largest = m->chunk_count > 1 ? chunk_bytes(m, m->chunk_count - 2) : 0;
    uint32_t last = chunk_bytes(m, m->chunk_count - 1);
    uint8_t *bytes = malloc(largest > last ? largest : last);
    if (bytes == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory for a chunk");
    }
    enum dn_code code = look(f, path, (uint64_t)st.st_size, bytes, stop, err);
    free(bytes);
    return code;
}

/* The whole file may be here from an attempt that was cut off late. A damaged one is fetched anew in its
 * place. */
static enum dn_code open_file(struct snapfetch *f, char path[PATH_MAX], struct dn_error *err)
{
    char whole[PATH_MAX];
    snapfile_path(&f->store, &f->manifest->name, SNAP_PART, path);
    snapfile_path(&f->store, &f->manifest->name, SNAP_WHOLE, whole);
    if (rename(whole, path) != 0 && errno != ENOENT) {
        return snapfile_failed(err, "rename", whole, errno);
    }
    f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return f->fd >= 0 ? DN_OK : snapfile_failed(err, "create", path, errno);
}

static enum dn_code reserve(struct snapfetch *f, const char *path, struct dn_error *err)
{
    if (ftruncate(f->fd, (off_t)f->manifest->total_bytes) != 0) {
        return snapfile_failed(err, "set the length of", path, errno);
    }
    int reason = f->manifest->total_bytes == 0                                  ? 0
                 : fallocate(f->fd, 0, 0, (off_t)f->manifest->total_bytes) == 0 ? 0
                                                                                : errno;
    if (reason == EOPNOTSUPP || reason == ENOSYS) {
        reason = 0; /* then the writes find out */
    }
    return reason == 0 ? DN_OK : snapfile_failed(err, "reserve space for", path, reason);
}

enum dn_code snapfetch_open(struct snapfetch *fetch, const struct snapstore *store,
                            const struct manifest *manifest, const atomic_bool *stop, struct dn_error *err)
{
    char path[PATH_MAX];
    *fetch =
        (struct snapfetch){.store = *store, .manifest = manifest, .fd = -1, .missing = manifest->chunk_count};
    fetch->have = calloc(1, manifest->chunk_count / 8 + 1);
    if (fetch->have == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory to receive a snapshot");
    }
    enum dn_code code = open_file(fetch, path, err);
    if (code == DN_OK) {
        code = look_into(fetch, path, stop, err);
    }
    if (code == DN_OK) {
        code = reserve(fetch, path, err);
    }
    if (code != DN_OK) {
        snapfetch_close(fetch);
    }
    return code;
}

enum dn_code snapfetch_put(struct snapfetch *fetch, uint32_t chunk, const uint8_t *bytes, size_t length,
                           struct dn_error *err)
{
    char path[PATH_MAX];
    if (!chunk_matches(fetch->manifest, chunk, bytes, length)) {
        return dn_fail(err, DN_CORRUPT, "chunk %" PRIu32 " (%zu bytes) has a wrong checksum", chunk, length);
    }
    snapfile_path(&fetch->store, &fetch->manifest->name, SNAP_PART, path);
    enum dn_code code = snapfile_write(fetch->fd, path, chunk_offset(chunk), bytes, length, err);
    if (code == DN_OK) {
        snapfile_push(fetch->fd, chunk_offset(chunk), length);
    }
    return code;
}

void snapfetch_mark(struct snapfetch *fetch, uint32_t chunk)
{
    if (!snapfetch_has(fetch, chunk)) {
        fetch->have[chunk / 8] |= (uint8_t)(1u << (chunk % 8));
        fetch->missing--;
    }
}

enum dn_code snapfetch_finish(struct snapfetch *fetch, struct dn_error *err)
{
    char from[PATH_MAX], to[PATH_MAX];
    DN_ASSERT(fetch->missing == 0 && fetch->fd >= 0);
    snapfile_path(&fetch->store, &fetch->manifest->name, SNAP_PART, from);
    snapfile_path(&fetch->store, &fetch->manifest->name, SNAP_WHOLE, to);
    enum dn_code code = snapfile_publish(&fetch->store, fetch->fd, from, to, err);
    fetch->fd = -1;
    fetch->whole = code == DN_OK;
    return code;
}

void snapfetch_close(struct snapfetch *fetch)
{
    if (fetch->fd >= 0) {
        close(fetch->fd);
    }
    fetch->fd = -1;
    free(fetch->have);
    fetch->have = NULL;
}
