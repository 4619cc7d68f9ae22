#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct code_row {
    const char *text;
    int grpc;
};

static const struct code_row code_rows[] = {
#define X(code, text, grpc) [code] = {text, grpc},
    DN_CODES(X)
#undef X
};
_Static_assert(sizeof(code_rows) / sizeof(code_rows[0]) == DN_CODE_COUNT, "every code has a row");
_Static_assert(DN_OK == 0, "callers test `if (code)`");

static const char cut_mark[] = "...";

static bool code_known(enum dn_code code)
{
    return (unsigned)code < DN_CODE_COUNT;
}

const char *dn_code_text(enum dn_code code)
{
    return code_known(code) ? code_rows[code].text : "unknown code";
}

int dn_code_grpc(enum dn_code code)
{
    return code_known(code) ? code_rows[code].grpc : 2; /* 2 is UNKNOWN */
}

/* The number of bytes of text that fit into `room`, cut back so that no UTF-8 character is split: messages
 * go out as gRPC strings, which must be valid. */
static size_t cut_length(const char *text, size_t room)
{
    size_t length = room;

    while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) {
        length--;
    }
    return length;
}

/* Ends the message with "..." when what was meant to be there did not fit. */
static void mark_cut(char message[DN_ERROR_MESSAGE_MAX], size_t wanted)
{
    size_t length;

    if (wanted < DN_ERROR_MESSAGE_MAX) {
        return;
    }
    length = cut_length(message, DN_ERROR_MESSAGE_MAX - sizeof(cut_mark));
    memcpy(message + length, cut_mark, sizeof(cut_mark));
}

/* Formats into a buffer of its own first: arguments may point into err->message. */
static size_t format_message(char message[DN_ERROR_MESSAGE_MAX], const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
static size_t format_message(char message[DN_ERROR_MESSAGE_MAX], const char *format, va_list args)
{
    int wanted = vsnprintf(message, DN_ERROR_MESSAGE_MAX, format, args);

    if (wanted < 0) {
        wanted = snprintf(message, DN_ERROR_MESSAGE_MAX, "(message could not be formatted)");
    }
    mark_cut(message, (size_t)wanted);
    return strlen(message);
}

enum dn_code(dn_fail)(struct dn_error *err, enum dn_code code, const char *format, ...)
{
    char message[DN_ERROR_MESSAGE_MAX];
    size_t length;
    va_list args;

    if (err == NULL) {
        return code;
    }
    va_start(args, format);
    length = format_message(message, format, args);
    va_end(args);
    err->code = code;
    memcpy(err->message, message, length + 1);
    return code;
}

enum dn_code(dn_wrap)(struct dn_error *err, enum dn_code code, const char *format, ...)
{
    char prefix[DN_ERROR_MESSAGE_MAX];
    char message[DN_ERROR_MESSAGE_MAX];
    const char *inner;
    size_t length;
    va_list args;

    if (err == NULL) {
        return code;
    }
    if (err->code == DN_OK) { /* the callee had no message to give */
        err->code = code;
        inner = dn_code_text(code);
    } else {
        inner = err->message;
    }
    va_start(args, format);
    format_message(prefix, format, args);
    va_end(args);

    /* Done by hand: snprintf's own truncation is a warning here. */
    length = strlen(prefix);
    memcpy(message, prefix, length);
    for (const char *part = ": "; *part != '\0' && length < DN_ERROR_MESSAGE_MAX - 1; part++) {
        message[length++] = *part;
    }
    {
        size_t room = DN_ERROR_MESSAGE_MAX - 1 - length;
        size_t take = strnlen(inner, room);

        memcpy(message + length, inner, take);
        message[length + take] = '\0';
        mark_cut(message, length + strlen(inner));
    }
    memcpy(err->message, message, strlen(message) + 1);
    return err->code;
}

_Noreturn void dn_assert_failed(const char *expression, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
    fflush(stderr);
    abort();
}
