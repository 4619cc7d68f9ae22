/* Key files and where their secrets are kept. */
#include "transport/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEX_DIGITS (2 * DN_TRANSPORT_KEY_BYTES)
#define BASE64_CHARACTERS 44
#define FILE_MAX 128 /* more than any spelling of a key with its newline */

static const char id_label[] = "dunlin peer key id";

const uint8_t *keys_open_for_use(const struct dn_transport_keys *keys)
{
    return sodium_mprotect_readonly(keys->secret) == 0 ? keys->secret : NULL;
}

void keys_close_after_use(const struct dn_transport_keys *keys)
{
    sodium_mprotect_noaccess(keys->secret);
}

static bool parse(const char *text, size_t length, uint8_t ret_key[DN_TRANSPORT_KEY_BYTES])
{
    size_t got = 0;
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) {
        length--;
    }
    if (length == HEX_DIGITS) {
        return sodium_hex2bin(ret_key, DN_TRANSPORT_KEY_BYTES, text, length, NULL, &got, NULL) == 0 &&
               got == DN_TRANSPORT_KEY_BYTES;
    }
    return length == BASE64_CHARACTERS &&
           sodium_base642bin(ret_key, DN_TRANSPORT_KEY_BYTES, text, length, NULL, &got, NULL,
                             sodium_base64_VARIANT_ORIGINAL) == 0 &&
           got == DN_TRANSPORT_KEY_BYTES;
}

static enum dn_code read_file(const char *path, uint8_t ret_key[DN_TRANSPORT_KEY_BYTES], struct dn_error *err)
{
    enum dn_code code = DN_OK;
    char text[FILE_MAX + 1];
    size_t length = 0;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return dn_fail(err, errno == ENOENT ? DN_NOT_FOUND : DN_IO, "peer key '%s': %s", path,
                       strerror(errno));
    }
    if (fstat(fd, &info) != 0) {
        code = dn_fail(err, DN_IO, "peer key '%s': %s", path, strerror(errno));
        goto opened;
    }
    if (!S_ISREG(info.st_mode)) {
        code = dn_fail(err, DN_INVALID, "peer key '%s': not a regular file", path);
        goto opened;
    }
    if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        code = dn_fail(err, DN_DENIED, "peer key '%s': mode %03o lets others in; it must be 600 or 400", path,
                       (unsigned)(info.st_mode & 0777));
        goto opened;
    }
    while (length < sizeof text) {
        ssize_t rv = read(fd, text + length, sizeof text - length);
        if (rv < 0 && errno == EINTR) {
            continue;
        }
        if (rv < 0) {
            code = dn_fail(err, DN_IO, "peer key '%s': %s", path, strerror(errno));
            goto opened;
        }
        if (rv == 0) {
            break;
        }
        length += (size_t)rv;
    }
    if (length > FILE_MAX || !parse(text, length, ret_key)) {
        code = dn_fail(err, DN_INVALID, "peer key '%s': not 64 hexadecimal digits or 44 base64 characters",
                       path);
    } else if (sodium_is_zero(ret_key, DN_TRANSPORT_KEY_BYTES)) {
        code = dn_fail(err, DN_INVALID, "peer key '%s': all zeros is no secret", path);
    }
opened:
    sodium_memzero(text, sizeof text);
    close(fd);
    return code;
}

static uint8_t id_of(const uint8_t secret[DN_TRANSPORT_KEY_BYTES])
{
    uint8_t hash[crypto_generichash_BYTES];
    crypto_generichash(hash, sizeof hash, (const uint8_t *)id_label, sizeof id_label - 1, secret,
                       DN_TRANSPORT_KEY_BYTES);
    return hash[0];
}

enum dn_code dn_transport_keys_load(const char *path_current, const char *path_previous,
                                    struct dn_transport_keys **ret, struct dn_error *err)
{
    const char *paths[KEYS_MAX] = {path_current, path_previous};
    enum dn_code code = DN_OK;
    if (path_current == NULL && path_previous != NULL) {
        return dn_fail(err, DN_INVALID, "peer key: a previous one without a current one");
    }
    if (sodium_init() < 0) {
        return dn_fail(err, DN_INTERNAL, "peer key: libsodium does not start");
    }
    struct dn_transport_keys *keys = calloc(1, sizeof *keys);
    if (keys == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "peer key: out of memory");
    }
    keys->secret = sodium_malloc(KEYS_MAX * DN_TRANSPORT_KEY_BYTES);
    if (keys->secret == NULL) {
        free(keys);
        return dn_fail(err, DN_NO_MEMORY, "peer key: out of guarded memory");
    }
    sodium_memzero(keys->secret, KEYS_MAX * DN_TRANSPORT_KEY_BYTES);
    keys->open = path_current == NULL;
    for (size_t i = 0; i < KEYS_MAX && (paths[i] != NULL || (i == 0 && keys->open)); i++) {
        uint8_t *secret = keys->secret + i * DN_TRANSPORT_KEY_BYTES;
        code = paths[i] == NULL ? DN_OK : read_file(paths[i], secret, err);
        if (code != DN_OK) {
            dn_transport_keys_free(keys);
            return code;
        }
        keys->id[i] = id_of(secret);
        keys->count++;
    }
    sodium_mprotect_noaccess(keys->secret);
    *ret = keys;
    return DN_OK;
}

bool dn_transport_keys_open(const struct dn_transport_keys *keys)
{
    return keys->open;
}

void dn_transport_keys_free(struct dn_transport_keys *keys)
{
    if (keys != NULL) {
        sodium_free(keys->secret); /* zeroes it first */
        free(keys);
    }
}

enum dn_code dn_transport_key_create(const char *path, struct dn_error *err)
{
    enum dn_code code = DN_OK;
    uint8_t key[DN_TRANSPORT_KEY_BYTES];
    char text[HEX_DIGITS + 1];
    size_t written = 0;
    if (sodium_init() < 0) {
        return dn_fail(err, DN_INTERNAL, "peer key: libsodium does not start");
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) {
        return dn_fail(err, errno == EEXIST ? DN_EXISTS : DN_IO, "peer key '%s': %s", path, strerror(errno));
    }
    randombytes_buf(key, sizeof key);
    sodium_bin2hex(text, sizeof text, key, sizeof key);
    text[HEX_DIGITS] = '\n'; /* in the place of the terminator */
    while (code == DN_OK && written < sizeof text) {
        ssize_t rv = write(fd, text + written, sizeof text - written);
        if (rv >= 0) {
            written += (size_t)rv;
        } else if (errno != EINTR) {
            code = dn_fail(err, errno == ENOSPC ? DN_NO_SPACE : DN_IO, "peer key '%s': %s", path,
                           strerror(errno));
        }
    }
    if (code == DN_OK && fsync(fd) != 0) {
        code = dn_fail(err, DN_IO, "peer key '%s': %s", path, strerror(errno));
    }
    sodium_memzero(key, sizeof key);
    sodium_memzero(text, sizeof text);
    close(fd);
    if (code != DN_OK) {
        unlink(path);
    }
    return code;
}
