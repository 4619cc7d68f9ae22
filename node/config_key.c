/* The key under which user and event ids are hashed: read from its file, or derived on loopback; and files
 * that hold a secret in general. */
#include "node/config.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEX_LENGTH = 2 * DN_HASH_KEY_BYTES, FILE_LENGTH_MAX = 128 };

enum dn_code dn_config_read_secret_file(const char *what, const char *path, char *ret_text, size_t size,
                                        size_t *ret_length, struct dn_error *err)
{
    struct stat info;
    enum dn_code code = DN_OK;

    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return dn_fail(err, DN_IO, "%s: %s: cannot open: %s", what, path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        code = dn_fail(err, DN_INVALID, "%s: %s: is not a regular file", what, path);
        goto close_file;
    }
    if (info.st_mode & 077) {
        code = dn_fail(err, DN_DENIED, "%s: %s: others may read it (mode %04o): chmod 600 it", what, path,
                       info.st_mode & 07777);
        goto close_file;
    }
    ssize_t length = read(fd, ret_text, size);
    if (length < 0) {
        code = dn_fail(err, DN_IO, "%s: %s: cannot read: %s", what, path, strerror(errno));
        goto close_file;
    }
    while (length > 0 && strchr(" \t\r\n", ret_text[length - 1]))
        length--;
    if ((size_t)length >= size) {
        code = dn_fail(err, DN_INVALID, "%s: %s: must hold at most %zu bytes", what, path, size - 1);
        goto close_file;
    }
    ret_text[length] = 0;
    *ret_length = (size_t)length;
close_file:
    close(fd);
    return code;
}

static enum dn_code read_key_file(const char *path, uint8_t ret_key[DN_HASH_KEY_BYTES], struct dn_error *err)
{
    static const char WHAT[] = "secrets.hash_key_file";
    char text[FILE_LENGTH_MAX + 1];
    size_t length = 0, key_length = 0;
    const char *end = NULL;

    enum dn_code code = dn_config_read_secret_file(WHAT, path, text, sizeof(text), &length, err);
    if (code == DN_OK &&
        (length != HEX_LENGTH ||
         sodium_hex2bin(ret_key, DN_HASH_KEY_BYTES, text, HEX_LENGTH, NULL, &key_length, &end) != 0 ||
         key_length != DN_HASH_KEY_BYTES || end != text + HEX_LENGTH))
        code =
            dn_fail(err, DN_INVALID,
                    "%s: %s: must hold 32 hex characters (make one with: openssl rand -hex 16)", WHAT, path);
    sodium_memzero(text, sizeof(text));
    return code;
}

enum dn_code dn_config_hash_key(const struct dn_config *config, uint8_t ret_key[DN_HASH_KEY_BYTES],
                                bool *ret_derived, struct dn_error *err)
{
    char text[DN_CONFIG_NAME_MAX + 32];
    bool is_private = dn_address_is_loopback(config->api.address) &&
                      (!config->node.address[0] || dn_address_is_loopback(config->node.address));

    if (config->secrets.hash_key_file[0]) {
        *ret_derived = false;
        return read_key_file(config->secrets.hash_key_file, ret_key, err);
    }
    for (size_t i = 0; i < config->cluster.member_count; i++)
        is_private = is_private && dn_address_is_loopback(config->cluster.members[i].address);
    if (!is_private)
        return dn_fail(
            err, DN_INVALID,
            "secrets.hash_key_file must be given when an address is beyond loopback: user ids are hashed "
            "with the key in it (make one with: openssl rand -hex 16; the same on every node)");
    snprintf(text, sizeof(text), "dunlin hash key for %s", config->cluster.id);
    DN_ASSERT(crypto_generichash(ret_key, DN_HASH_KEY_BYTES, (const uint8_t *)text, strlen(text), NULL, 0) ==
              0);
    *ret_derived = true;
    return DN_OK;
}

void dn_key_fingerprint(const uint8_t key[DN_HASH_KEY_BYTES], char ret_text[DN_FINGERPRINT_MAX])
{
    static const char PURPOSE[] = "dunlin hash key fingerprint";
    uint8_t digest[(DN_FINGERPRINT_MAX - 1) / 2];

    /* Keyed BLAKE2b: the key cannot be found back from it, and it differs from every use of the key itself.
     */
    DN_ASSERT(crypto_generichash(digest, sizeof(digest), (const uint8_t *)PURPOSE, sizeof(PURPOSE) - 1, key,
                                 DN_HASH_KEY_BYTES) == 0);
    sodium_bin2hex(ret_text, DN_FINGERPRINT_MAX, digest, sizeof(digest));
}
