#include "base/text.h"

#include <arpa/inet.h>
#include <string.h>

/* Bytes in the well-formed sequence that starts at `at`, 0 if there is none (RFC 3629, section 4). */
static size_t utf8_sequence(const uint8_t *at, size_t left)
{
    uint8_t lead = at[0];
    uint8_t low = 0x80, high = 0xBF; /* allowed range of the second byte */
    size_t size;

    if (lead < 0x80) {
        return 1;
    }
    if (lead >= 0xC2 && lead <= 0xDF) {
        size = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        size = 3;
        low = lead == 0xE0 ? 0xA0 : low;   /* shorter forms exist below */
        high = lead == 0xED ? 0x9F : high; /* surrogates above */
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        size = 4;
        low = lead == 0xF0 ? 0x90 : low;
        high = lead == 0xF4 ? 0x8F : high; /* U+10FFFF */
    } else {
        return 0;
    }
    if (left < size || at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < size; i++) {
        if ((at[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return size;
}

bool dn_utf8_valid(const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    size_t offset = 0;

    while (offset < length) {
        size_t size;

        if (length - offset >= 8) { /* eight ASCII bytes at a time: nearly all that comes */
            uint64_t word;

            memcpy(&word, at + offset, sizeof(word));
            if ((word & 0x8080808080808080u) == 0) {
                offset += sizeof(word);
                continue;
            }
        }
        size = utf8_sequence(at + offset, length - offset);
        if (size == 0) {
            return false;
        }
        offset += size;
    }
    return true;
}

bool dn_id_valid(const void *bytes, size_t length)
{
    return length >= 1 && length <= DN_ID_MAX && memchr(bytes, 0, length) == NULL &&
           dn_utf8_valid(bytes, length);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits from the front of text; false when there are none or the number passes 64 bits. */
static bool parse_digits(const char *text, uint64_t *ret_value, const char **ret_end)
{
    uint64_t value = 0;

    if (!is_digit(*text)) {
        return false;
    }
    for (; is_digit(*text); text++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value)) {
            return false;
        }
    }
    *ret_value = value;
    *ret_end = text;
    return true;
}

bool dn_parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret_value)
{
    bool negative = *text == '-';
    uint64_t magnitude;
    const char *end;
    int64_t value;

    if (!parse_digits(text + (negative ? 1 : 0), &magnitude, &end) || *end != '\0') {
        return false;
    }
    if (magnitude > (uint64_t)INT64_MAX + (negative ? 1 : 0)) {
        return false;
    }
    value = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    if (value < min || value > max) {
        return false;
    }
    *ret_value = value;
    return true;
}

static bool is_host_character(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '-' ||
           c == '_';
}

static bool host_name_valid(const char *host)
{
    for (const char *at = host; *at != '\0'; at++) {
        if (!is_host_character(*at)) {
            return false;
        }
    }
    return *host != '\0';
}

/* An IPv6 address, perhaps with a zone ("fe80::1%eth0"). */
static bool host_v6_valid(const char *host)
{
    char address[INET6_ADDRSTRLEN];
    struct in6_addr parsed;
    const char *zone = strchr(host, '%');
    size_t length = zone != NULL ? (size_t)(zone - host) : strlen(host);

    if (length >= sizeof(address) || (zone != NULL && !host_name_valid(zone + 1))) {
        return false;
    }
    memcpy(address, host, length);
    address[length] = '\0';
    return inet_pton(AF_INET6, address, &parsed) == 1;
}

bool dn_parse_address(const char *text, char ret_host[256], uint16_t *ret_port)
{
    char host[256];
    const char *start = text, *end;
    bool bracketed = *text == '[';
    size_t length;
    int64_t port;

    if (bracketed) {
        start = text + 1;
        end = strchr(start, ']');
        if (end == NULL || end[1] != ':') {
            return false;
        }
    } else {
        end = strchr(start, ':');
        if (end == NULL) {
            return false;
        }
    }
    length = (size_t)(end - start);
    if (length >= sizeof(host)) {
        return false;
    }
    memcpy(host, start, length);
    host[length] = '\0';
    if (bracketed ? !host_v6_valid(host) : !host_name_valid(host)) {
        return false;
    }
    if (!dn_parse_i64(end + (bracketed ? 2 : 1), 0, UINT16_MAX, &port)) {
        return false;
    }
    memcpy(ret_host, host, length + 1);
    *ret_port = (uint16_t)port;
    return true;
}

bool dn_parse_bytes(const char *text, uint64_t *ret_bytes)
{
    static const struct {
        const char *name;
        unsigned shift;
    } units[] = {{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
    const char *unit;
    uint64_t number;

    if (!parse_digits(text, &number, &unit)) {
        return false;
    }
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(unit, units[i].name) == 0) {
            if (number > UINT64_MAX >> units[i].shift) {
                return false;
            }
            *ret_bytes = number << units[i].shift;
            return true;
        }
    }
    return false;
}
