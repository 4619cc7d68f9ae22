#include "ingest/source_file_names.h"

#include "ingest/source_file_gunzip.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEX_DIGITS 30 /* 120 bits: what a source's longest name leaves room for, with "/" and a mark */
_Static_assert(DN_SOURCE_NAME_MAX + 2 + HEX_DIGITS <= DN_SOURCE_MAX, "a hashed name always fits");

/* Fixed for ever: names are in replicated state. */
static const uint8_t name_key[DN_HASH_KEY_BYTES] = "dunlin file name";

static bool plain_text(const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        if (*at <= ' ' || *at > '~' || strchr("#@\"\\", *at) != NULL) {
            return false;
        }
    }
    return true;
}

/* node_id 0: all digits are the hash's. A node's id takes 16 of them at most, and a point. */
static void put_hex(uint64_t node_id, struct dn_hash128 hash, char ret[HEX_DIGITS + 1])
{
    char hex[64];
    int length = node_id == 0 ? 0 : snprintf(hex, sizeof(hex), "%llx.", (unsigned long long)node_id);

    snprintf(hex + length, sizeof(hex) - (size_t)length, "%016llx%016llx", (unsigned long long)hash.high,
             (unsigned long long)hash.low);
    memcpy(ret, hex, HEX_DIGITS);
    ret[HEX_DIGITS] = '\0';
}

static void hashed_name(const char *source, const char *shown, size_t shown_length, char mark,
                        uint64_t node_id, struct dn_hash128 hash, char ret[DN_SOURCE_MAX + 1])
{
    char hex[HEX_DIGITS + 1];
    size_t room = DN_SOURCE_MAX - strlen(source) - 2 - HEX_DIGITS;

    put_hex(node_id, hash, hex);
    snprintf(ret, DN_SOURCE_MAX + 1, "%s/%.*s%c%s", source, (int)(shown_length < room ? shown_length : room),
             shown, mark, hex);
}

void dn_file_name_of_path(const char *source, const char *path, char ret[DN_SOURCE_MAX + 1])
{
    size_t length = strlen(path);

    /* "-" is not this form's: it is standard input */
    if (plain_text(path) && strlen(source) + 1 + length <= DN_SOURCE_MAX && strcmp(path, "-") != 0) {
        size_t begin = strlen(source);

        memcpy(ret, source, begin);
        ret[begin] = '/';
        memcpy(ret + begin + 1, path, length + 1);
    } else {
        hashed_name(source, "", 0, '#', 0, dn_keyed_hash128(name_key, path, length), ret);
    }
}

void dn_file_name_of_identity(const char *source, const char *path, uint64_t node_id,
                              const struct dn_file_identity *identity, char ret[DN_SOURCE_MAX + 1])
{
    const uint64_t parts[] = {node_id, identity->inode, identity->first.high, identity->first.low};
    const char *slash = strrchr(path, '/');
    const char *shown = slash != NULL ? slash + 1 : path;

    hashed_name(source, shown, plain_text(shown) ? strlen(shown) : 0, '@', node_id,
                dn_keyed_hash128(name_key, parts, sizeof(parts)), ret);
}

void dn_file_name_of_run(const char *source, uint64_t node_id, const struct dn_hash128 *run,
                         char ret[DN_SOURCE_MAX + 1])
{
    hashed_name(source, "-", 1, '@', node_id, *run, ret);
}

/* ---- identity ---- */

static size_t beginning_plain(int fd, uint8_t *bytes, size_t room)
{
    size_t length = 0;

    while (length < room) {
        ssize_t got = pread(fd, bytes + length, room - length, (off_t)length);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        length += (size_t)got;
    }
    return length;
}

size_t dn_file_beginning(int fd, uint8_t *bytes, size_t room)
{
    size_t length = beginning_plain(fd, bytes, room), got = 0;
    struct dn_gunzip *gunzip;

    if (!dn_gunzip_magic(bytes, length)) {
        return length;
    }
    gunzip = dn_gunzip_create(fd);
    if (gunzip == NULL) {
        return 0;
    }
    length = 0;
    while (length < room && dn_gunzip_read(gunzip, bytes + length, room - length, &got, NULL) == DN_OK &&
           got > 0) {
        length += got;
    }
    dn_gunzip_destroy(gunzip);
    return length;
}

/* Where the first message ends, empty lines before it included; 0: not yet. */
static size_t first_line(const uint8_t *bytes, size_t length)
{
    const uint8_t *newline;
    size_t begin = 0;

    while (begin < length && (bytes[begin] == '\n' || bytes[begin] == '\r')) {
        begin++;
    }
    newline = begin < length ? memchr(bytes + begin, '\n', length - begin) : NULL;
    return newline != NULL ? (size_t)(newline - bytes) + 1 : 0;
}

static size_t first_framed(const uint8_t *bytes, size_t length)
{
    uint64_t size = 0;

    for (size_t i = 0; i < length && i < 9; i++) {
        size |= (uint64_t)(bytes[i] & 0x7f) << (7 * i);
        if ((bytes[i] & 0x80) == 0) {
            return size <= length - i - 1 ? i + 1 + (size_t)size : 0;
        }
    }
    return 0;
}

bool dn_file_identify(int fd, enum dn_source_format format, struct dn_file_identity *ret)
{
    uint8_t *bytes = malloc(DN_FILE_FIRST_MAX);
    uint8_t magic[3];
    struct stat status;
    size_t length, first;

    if (bytes == NULL || fstat(fd, &status) != 0) {
        free(bytes);
        return false;
    }
    length = dn_file_beginning(fd, bytes, DN_FILE_FIRST_MAX);
    first = format == DN_FORMAT_JSON ? first_line(bytes, length) : first_framed(bytes, length);
    if (first == 0 && length == DN_FILE_FIRST_MAX) {
        first = length;
    }
    if (first > 0) {
        ret->inode = (uint64_t)status.st_ino;
        ret->first = dn_keyed_hash128(name_key, bytes, first);
        ret->gzip = dn_gunzip_magic(magic, beginning_plain(fd, magic, sizeof(magic)));
    }
    free(bytes);
    return first > 0;
}
