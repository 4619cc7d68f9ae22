/* Log: one line an event on standard error: time (UTC, ms), level, component, message. Never secrets, never
 * user ids in clear. Any thread; a line is written with one write(2), so lines do not mix. */
#ifndef DN_BASE_LOG_H
#define DN_BASE_LOG_H

#include <stdbool.h>

enum dn_log_level { DN_LOG_DEBUG, DN_LOG_INFO, DN_LOG_WARN, DN_LOG_ERROR };

/* Lines below `level` are dropped. Default DN_LOG_INFO. Call before threads start. */
void dn_log_set_level(enum dn_log_level level);

/* Parses "debug", "info", "warn", "error"; false if it is none of them. */
bool dn_log_level_parse(const char *text, enum dn_log_level *ret_level);

void dn_log(enum dn_log_level level, const char *component, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define dn_debug(component, ...) dn_log(DN_LOG_DEBUG, component, __VA_ARGS__)
#define dn_info(component, ...) dn_log(DN_LOG_INFO, component, __VA_ARGS__)
#define dn_warn(component, ...) dn_log(DN_LOG_WARN, component, __VA_ARGS__)
#define dn_err(component, ...) dn_log(DN_LOG_ERROR, component, __VA_ARGS__)

#endif
