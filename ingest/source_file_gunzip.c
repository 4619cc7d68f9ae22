#include "ingest/source_file_gunzip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define INPUT_BYTES (64u << 10)
#define GZIP_WINDOW_BITS (15 + 16) /* the largest window; 16: a gzip header and no other */

struct dn_gunzip {
    int fd;
    z_stream zlib;
    int64_t read_at;       /* of the compressed file */
    bool between;          /* at the beginning, or after a whole member */
    struct dn_error fault; /* stays until rewind */
    uint8_t input[INPUT_BYTES];
};

bool dn_gunzip_magic(const uint8_t *bytes, size_t length)
{
    return length >= 3 && bytes[0] == 0x1f && bytes[1] == 0x8b && bytes[2] == Z_DEFLATED;
}

struct dn_gunzip *dn_gunzip_create(int fd)
{
    struct dn_gunzip *gunzip = calloc(1, sizeof(*gunzip));

    if (gunzip == NULL) {
        return NULL;
    }
    if (inflateInit2(&gunzip->zlib, GZIP_WINDOW_BITS) != Z_OK) {
        free(gunzip);
        return NULL;
    }
    gunzip->fd = fd;
    gunzip->between = true;
    return gunzip;
}

void dn_gunzip_destroy(struct dn_gunzip *gunzip)
{
    if (gunzip != NULL) {
        inflateEnd(&gunzip->zlib);
        free(gunzip);
    }
}

void dn_gunzip_rewind(struct dn_gunzip *gunzip)
{
    inflateReset(&gunzip->zlib);
    gunzip->zlib.avail_in = 0;
    gunzip->read_at = 0;
    gunzip->between = true;
    gunzip->fault.code = DN_OK;
}

/* Puts compressed bytes in front of zlib; leaves none there at the end of the file. */
static enum dn_code feed(struct dn_gunzip *gunzip, struct dn_error *err)
{
    ssize_t got;

    if (gunzip->zlib.avail_in > 0) {
        return DN_OK;
    }
    do {
        got = pread(gunzip->fd, gunzip->input, INPUT_BYTES, gunzip->read_at);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return dn_fail(err, DN_IO, "read at byte %lld: %s", (long long)gunzip->read_at, strerror(errno));
    }
    gunzip->read_at += got;
    gunzip->zlib.next_in = gunzip->input;
    gunzip->zlib.avail_in = (unsigned)got;
    return DN_OK;
}

/* Between members: over zeros, to the next one. */
static enum dn_code begin_member(struct dn_gunzip *gunzip, struct dn_error *err)
{
    enum dn_code code;

    while ((code = feed(gunzip, err)) == DN_OK && gunzip->zlib.avail_in > 0) {
        if (*gunzip->zlib.next_in != 0) {
            inflateReset(&gunzip->zlib);
            gunzip->between = false;
            return DN_OK;
        }
        gunzip->zlib.next_in++;
        gunzip->zlib.avail_in--;
    }
    return code;
}

static enum dn_code inflate_some(struct dn_gunzip *gunzip, struct dn_error *err)
{
    int result;

    if (gunzip->zlib.avail_in == 0) {
        return dn_fail(err, DN_CORRUPT,
                       "the gzip data end in the middle, at byte %lld: the file is cut off, or still being "
                       "written: give it whole",
                       (long long)gunzip->read_at);
    }
    result = inflate(&gunzip->zlib, Z_NO_FLUSH);
    if (result == Z_STREAM_END) {
        gunzip->between = true;
        return DN_OK;
    }
    if (result == Z_MEM_ERROR) {
        return dn_fail(err, DN_NO_MEMORY, "no memory to decompress");
    }
    if (result != Z_OK && result != Z_BUF_ERROR) {
        return dn_fail(err, DN_CORRUPT, "damaged gzip data before byte %lld: %s", (long long)gunzip->read_at,
                       gunzip->zlib.msg != NULL ? gunzip->zlib.msg : "not gzip");
    }
    return DN_OK;
}

/* Until `out` is full, or nothing is left. */
static enum dn_code inflate_all(struct dn_gunzip *gunzip, struct dn_error *err)
{
    enum dn_code code;

    while (gunzip->zlib.avail_out > 0) {
        if (gunzip->between && ((code = begin_member(gunzip, err)) != DN_OK || gunzip->between)) {
            return code;
        }
        if ((code = feed(gunzip, err)) != DN_OK || (code = inflate_some(gunzip, err)) != DN_OK) {
            return code;
        }
    }
    return DN_OK;
}

enum dn_code dn_gunzip_read(struct dn_gunzip *gunzip, uint8_t *bytes, size_t room, size_t *ret_length,
                            struct dn_error *err)
{
    gunzip->zlib.next_out = bytes;
    gunzip->zlib.avail_out = room > UINT32_MAX ? UINT32_MAX : (unsigned)room;
    if (gunzip->fault.code == DN_OK) {
        inflate_all(gunzip, &gunzip->fault);
    }
    if (gunzip->fault.code != DN_OK && gunzip->zlib.next_out == bytes) { /* what came before it is good */
        return dn_fail(err, gunzip->fault.code, "%s", gunzip->fault.message);
    }
    *ret_length = (size_t)(gunzip->zlib.next_out - bytes);
    return DN_OK;
}

int64_t dn_gunzip_taken(const struct dn_gunzip *gunzip)
{
    return gunzip->read_at;
}
