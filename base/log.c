#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static _Atomic int lowest_level = DN_LOG_INFO;

static const char *const level_names[] = {"debug", "info", "warn", "error"};
_Static_assert(sizeof(level_names) / sizeof(level_names[0]) == DN_LOG_ERROR + 1, "every level has a name");

void dn_log_set_level(enum dn_log_level level)
{
    atomic_store_explicit(&lowest_level, (int)level, memory_order_relaxed);
}

bool dn_log_level_parse(const char *text, enum dn_log_level *ret_level)
{
    for (int i = DN_LOG_DEBUG; i <= DN_LOG_ERROR; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *ret_level = (enum dn_log_level)i;
            return true;
        }
    }
    return false;
}

/* "2031-04-05T06:07:08.901Z warn  consensus: " */
static size_t write_prefix(char *line, size_t size, enum dn_log_level level, const char *component)
{
    struct timespec now;
    struct tm utc;
    int length;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    length = snprintf(line, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %-5s %s: ", utc.tm_year + 1900,
                      utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                      (int)(now.tv_nsec / 1000000), level_names[level], component);
    if (length < 0) {
        return 0;
    }
    return (size_t)length < size ? (size_t)length : size - 1;
}

/* A message may quote input from outside: it must not forge a second line or move a terminal's cursor. */
static void mask_controls(char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            text[i] = '?';
        }
    }
}

void dn_log(enum dn_log_level level, const char *component, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    int saved_errno = errno;
    size_t length, room;
    ssize_t written;
    va_list args;
    int wanted;

    if ((int)level < atomic_load_explicit(&lowest_level, memory_order_relaxed)) {
        return;
    }
    length = write_prefix(line, sizeof(line) / 2, level, component);
    room = sizeof(line) - length - 1; /* one byte for the newline */
    va_start(args, format);
    wanted = vsnprintf(line + length, room, format, args);
    va_end(args);
    if (wanted < 0) {
        wanted = 0;
    }
    if ((size_t)wanted >= room) {
        memcpy(line + length + room - 4, "...", 3);
        wanted = (int)room - 1;
    }
    length += (size_t)wanted;
    mask_controls(line, length);
    line[length++] = '\n';

    do {
        written = write(STDERR_FILENO, line, length);
    } while (written < 0 && errno == EINTR);
    errno = saved_errno;
}
