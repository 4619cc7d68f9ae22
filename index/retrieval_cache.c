/* The built index on disk: written beside its name, synced, renamed; read only after its checksum matched.
 *
 * File: a header of fixed size, ids and vectors by their hashes, FAISS's own bytes.
 *   u32 magic, u32 format, u32 crc32c of the header (with this field 0), u32 crc32c of the body,
 *   u64 catalogue version, u64 body bytes, u32 dim, u32 rows, u64 depth, u64 depth wide, 64 bytes factory
 * string. body: rows * u64 id hash, rows * u64 vector hash, index. It is a cache: whatever is wrong with it,
 * the index is built anew. It is this machine's own (byte order).
 */
#include "base/buffer.h"
#include "base/hash.h"
#include "index/retrieval_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CACHE_MAGIC 0x49584e44u /* "DNXI" */
#define CACHE_FORMAT 1u
#define CACHE_HEADER_BYTES (16u + 16u + 8u + 16u + DN_FACTORY_MAX)
#define CACHE_FACTORY_AT 56u
#define CACHE_CRC_AT 8u

struct sink {
    FILE *file;
    uint32_t crc;
    uint64_t bytes;
};

static bool sink_write(void *data, const void *bytes, size_t length)
{
    struct sink *sink = data;
    if (length == 0) {
        return true; /* an empty list of an IVF: no pointer either */
    }
    sink->crc = dn_crc32c(sink->crc, bytes, length);
    sink->bytes += length;
    return fwrite(bytes, 1, length, sink->file) == length;
}

static void put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}

static void put64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void make_header(uint8_t header[CACHE_HEADER_BYTES], const struct dn_built *built,
                        const struct sink *body)
{
    memset(header, 0, CACHE_HEADER_BYTES);
    put32(header, CACHE_MAGIC);
    put32(header + 4, CACHE_FORMAT);
    put32(header + 12, body->crc);
    put64(header + 16, built->version);
    put64(header + 24, body->bytes);
    put32(header + 32, built->dim);
    put32(header + 36, built->rows);
    put64(header + 40, built->depth);
    put64(header + 48, built->depth_wide);
    memcpy(header + CACHE_FACTORY_AT, built->factory, DN_FACTORY_MAX);
    put32(header + CACHE_CRC_AT, dn_crc32c(0, header, CACHE_HEADER_BYTES));
}

static enum dn_code write_all(FILE *file, const struct dn_built *built, struct dn_error *err)
{
    uint8_t header[CACHE_HEADER_BYTES] = {0};
    struct sink body = {.file = file};
    char error[256] = "";
    bool fine = fwrite(header, 1, sizeof header, file) == sizeof header &&
                sink_write(&body, built->id_hash, built->rows * sizeof built->id_hash[0]) &&
                sink_write(&body, built->vector_hash, built->rows * sizeof built->vector_hash[0]) &&
                dn_faiss_write(built->index, sink_write, &body, error, sizeof error);
    make_header(header, built, &body);
    fine = fine && fseek(file, 0, SEEK_SET) == 0 && fwrite(header, 1, sizeof header, file) == sizeof header &&
           fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (!fine) {
        return dn_fail(err, DN_IO, "%s", error[0] != '\0' ? error : strerror(errno));
    }
    return DN_OK;
}

static void sync_folder_of(const char *path)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || (size_t)(slash - path) >= sizeof folder) {
        return;
    }
    memcpy(folder, path, (size_t)(slash - path));
    folder[slash - path] = '\0';
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

enum dn_code dn_cache_write(const char *path, const struct dn_built *built, struct dn_error *err)
{
    char beside[4096];
    if ((size_t)snprintf(beside, sizeof beside, "%s.tmp", path) >= sizeof beside) {
        return dn_fail(err, DN_INVALID, "index cache '%s': the path is too long", path);
    }
    FILE *file = fopen(beside, "we");
    if (file == NULL) {
        return dn_fail(err, DN_IO, "index cache '%s': %s", beside, strerror(errno));
    }
    enum dn_code code = write_all(file, built, err);
    if (fclose(file) != 0 && code == DN_OK) {
        code = dn_fail(err, DN_IO, "%s", strerror(errno));
    }
    if (code == DN_OK && rename(beside, path) != 0) {
        code = dn_fail(err, DN_IO, "%s", strerror(errno));
    }
    if (code != DN_OK) {
        (void)unlink(beside);
        return dn_wrap(err, code, "index cache '%s'", path);
    }
    sync_folder_of(path);
    return DN_OK;
}

/* ---- reading
 * ------------------------------------------------------------------------------------------------- */

static enum dn_code check_header(const uint8_t *bytes, size_t length, struct dn_error *err)
{
    if (length < CACHE_HEADER_BYTES) {
        return dn_fail(err, DN_CORRUPT, "%zu bytes are shorter than a header", length);
    }
    uint8_t header[CACHE_HEADER_BYTES];
    memcpy(header, bytes, sizeof header);
    put32(header + CACHE_CRC_AT, 0);
    if (get32(bytes) != CACHE_MAGIC || get32(bytes + 4) != CACHE_FORMAT) {
        return dn_fail(err, DN_CORRUPT, "not an index cache of format %u", CACHE_FORMAT);
    }
    if (get32(bytes + CACHE_CRC_AT) != dn_crc32c(0, header, sizeof header)) {
        return dn_fail(err, DN_CORRUPT, "the header's checksum does not match");
    }
    uint64_t rows = get32(bytes + 36);
    uint32_t dim = get32(bytes + 32);
    if (get64(bytes + 24) != length - CACHE_HEADER_BYTES || rows == 0 || rows > DN_ROWS_MAX || dim == 0 ||
        dim > DN_VECTOR_DIM_MAX || rows * 16 > length - CACHE_HEADER_BYTES ||
        memchr(bytes + CACHE_FACTORY_AT, '\0', DN_FACTORY_MAX) == NULL) {
        return dn_fail(err, DN_CORRUPT, "the header does not fit a file of %zu bytes", length);
    }
    if (get32(bytes + 12) != dn_crc32c(0, bytes + CACHE_HEADER_BYTES, length - CACHE_HEADER_BYTES)) {
        return dn_fail(err, DN_CORRUPT, "the checksum does not match");
    }
    return DN_OK;
}

static enum dn_code built_from_bytes(const uint8_t *bytes, size_t length, struct dn_built **ret,
                                     struct dn_error *err)
{
    enum dn_code code = check_header(bytes, length, err);
    if (code != DN_OK) {
        return code;
    }
    struct dn_built *built = calloc(1, sizeof *built);
    if (built == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    }
    built->references = 1;
    built->version = get64(bytes + 16);
    built->dim = get32(bytes + 32);
    built->rows = get32(bytes + 36);
    built->depth = (size_t)get64(bytes + 40);
    built->from_cache = true;
    built->depth_wide = (size_t)get64(bytes + 48);
    memcpy(built->factory, bytes + CACHE_FACTORY_AT, DN_FACTORY_MAX);
    size_t hashes = built->rows * sizeof(uint64_t);
    const uint8_t *body = bytes + CACHE_HEADER_BYTES;
    char error[256] = "";
    built->id_hash = malloc(hashes);
    built->vector_hash = malloc(hashes);
    if (built->id_hash == NULL || built->vector_hash == NULL) {
        code = dn_fail(err, DN_NO_MEMORY, "out of memory");
        goto fail;
    }
    memcpy(built->id_hash, body, hashes);
    memcpy(built->vector_hash, body + hashes, hashes);
    built->file_bytes = length - CACHE_HEADER_BYTES - 2 * hashes;
    if (!dn_faiss_read(body + 2 * hashes, built->file_bytes, &built->index, error, sizeof error)) {
        code = dn_fail(err, DN_CORRUPT, "FAISS cannot read it: %s", error);
        goto fail;
    }
    if (faiss_Index_d(built->index) != (int)built->dim || faiss_Index_ntotal(built->index) != built->rows ||
        faiss_Index_metric_type(built->index) != METRIC_INNER_PRODUCT) {
        code = dn_fail(err, DN_CORRUPT, "the index inside is another than the header says");
        goto fail;
    }
    built->kind = dn_faiss_kind(built->index);
    built->lists = dn_faiss_lists(built->index);
    built->scan = dn_scan_make(built->index);
    *ret = built;
    return DN_OK;
fail:
    dn_built_release(built);
    return code;
}

enum dn_code dn_cache_read(const char *path, struct dn_built **ret, struct dn_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return dn_fail(err, errno == ENOENT ? DN_NOT_FOUND : DN_IO, "index cache '%s': %s", path,
                       strerror(errno));
    }
    struct stat about;
    enum dn_code code;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode) || about.st_size <= 0) {
        code = dn_fail(err, DN_CORRUPT, "it is empty or no file");
    } else {
        size_t length = (size_t)about.st_size;
        /* Private: a copy that nobody else's writes reach is not promised, but the file is replaced by
         * rename, never written in place. */
        uint8_t *bytes = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) {
            code = dn_fail(err, DN_IO, "%s", strerror(errno));
        } else {
            code = built_from_bytes(bytes, length, ret, err);
            munmap(bytes, length);
        }
    }
    close(fd);
    return code == DN_OK ? DN_OK : dn_wrap(err, code, "index cache '%s'", path);
}
