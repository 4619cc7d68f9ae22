/* Small text helpers for checking input from outside. Pure; any thread. */
#ifndef DN_BASE_TEXT_H
#define DN_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_ID_MAX 256 /* bytes in a user, item or event id */

/* Well-formed UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. */
bool dn_utf8_valid(const void *bytes, size_t length);

/* An id: 1 to DN_ID_MAX bytes of well-formed UTF-8 without NUL. */
bool dn_id_valid(const void *bytes, size_t length);

/* Decimal integer, whole text, within [min, max]. */
bool dn_parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret_value);

/* "host:port", "[v6]:port"; host up to 255 bytes. */
bool dn_parse_address(const char *text, char ret_host[256], uint16_t *ret_port);

/* Fixed-notation byte size: "64MiB", "1GiB", "4096". */
bool dn_parse_bytes(const char *text, uint64_t *ret_bytes);

#endif
