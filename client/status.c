#include "client/client.h"
#include "client/internal.h"

#include <nghttp2/nghttp2.h>

#define PUSHBACK_DIGITS_MAX 6 /* a quarter of an hour: who says more means never */

enum {
    STATUS_OK = 0,
    STATUS_CANCELLED = 1,
    STATUS_UNKNOWN = 2,
    STATUS_INVALID = 3,
    STATUS_DEADLINE = 4,
    STATUS_NOT_FOUND = 5,
    STATUS_EXISTS = 6,
    STATUS_DENIED = 7,
    STATUS_EXHAUSTED = 8,
    STATUS_PRECONDITION = 9,
    STATUS_ABORTED = 10,
    STATUS_RANGE = 11,
    STATUS_UNIMPLEMENTED = 12,
    STATUS_INTERNAL = 13,
    STATUS_UNAVAILABLE = 14,
    STATUS_DATA_LOSS = 15,
    STATUS_UNAUTHENTICATED = 16,
};

enum dn_code dn_client_code(int grpc_status)
{
    switch (grpc_status) {
    case STATUS_OK:
        return DN_OK;
    case STATUS_CANCELLED:
        return DN_CANCELLED;
    case STATUS_INVALID:
        return DN_INVALID;
    case STATUS_DEADLINE:
        return DN_DEADLINE;
    case STATUS_NOT_FOUND:
        return DN_NOT_FOUND;
    case STATUS_EXISTS:
        return DN_EXISTS;
    case STATUS_DENIED:
    case STATUS_UNAUTHENTICATED:
        return DN_DENIED;
    case STATUS_EXHAUSTED:
        return DN_EXHAUSTED;
    case STATUS_PRECONDITION:
        return DN_PRECONDITION;
    case STATUS_ABORTED:
        return DN_ABORTED;
    case STATUS_RANGE:
        return DN_RANGE;
    case STATUS_UNIMPLEMENTED:
        return DN_UNIMPLEMENTED;
    case STATUS_UNAVAILABLE:
    case -1:
        return DN_UNAVAILABLE;
    case STATUS_DATA_LOSS:
        return DN_CORRUPT;
    default:
        return DN_INTERNAL;
    }
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

size_t dn_client_percent_decode(const uint8_t *text, size_t length, char *ret_text, size_t size)
{
    size_t used = 0;

    DN_ASSERT(size > 0);
    for (size_t i = 0; i < length && used + 1 < size; i++) {
        uint8_t c = text[i];

        if (c == '%' && length - i > 2 && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
            c = (uint8_t)(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
            i += 2;
        }
        /* The text ends up on terminals: no escape sequences from a server. */
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            c = '?';
        ret_text[used++] = (char)c;
    }
    ret_text[used] = '\0';
    return used;
}

int dn_client_parse_status(const uint8_t *text, size_t length)
{
    int value = 0;

    if (length < 1 || length > 2)
        return STATUS_UNKNOWN;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return STATUS_UNKNOWN;
        value = value * 10 + (text[i] - '0');
    }
    return value <= STATUS_UNAUTHENTICATED ? value : STATUS_UNKNOWN;
}

int dn_client_parse_pushback(const uint8_t *text, size_t length)
{
    int value = 0;

    if (length < 1 || length > PUSHBACK_DIGITS_MAX)
        return -1;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        value = value * 10 + (text[i] - '0');
    }
    return value;
}

int dn_client_status_of_http(int http_status)
{
    switch (http_status) {
    case 400:
        return STATUS_INTERNAL;
    case 401:
        return STATUS_UNAUTHENTICATED;
    case 403:
        return STATUS_DENIED;
    case 404:
        return STATUS_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return STATUS_UNAVAILABLE;
    default:
        return STATUS_UNKNOWN;
    }
}

int dn_client_status_of_reset(uint32_t http2_error)
{
    switch (http2_error) {
    case NGHTTP2_REFUSED_STREAM:
        return STATUS_UNAVAILABLE;
    case NGHTTP2_CANCEL:
        return STATUS_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return STATUS_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY:
        return STATUS_DENIED;
    default:
        return STATUS_INTERNAL;
    }
}
