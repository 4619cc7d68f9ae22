/* A progress line on standard error, for programs that work long. Silent when standard error is no terminal.
 * One thread. */
#ifndef DN_CLIENT_PROGRESS_H
#define DN_CLIENT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct dn_progress {
    const char *label;
    uint64_t total; /* 0: unknown */
    uint64_t start_us, drawn_us;
    bool on;
};

void dn_progress_begin(struct dn_progress *progress, const char *label, uint64_t total);
/* Cheap: draws at most ten times a second. */
void dn_progress_update(struct dn_progress *progress, uint64_t done);
/* Clears the line. */
void dn_progress_end(struct dn_progress *progress);

#endif
