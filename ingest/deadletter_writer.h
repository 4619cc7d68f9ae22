/* A file that dead letters are appended to, durably. Private to ingest. One thread.
 *
 * The file is opened, locked (flock), appended to, flushed and closed for each batch: nothing about it is
 * remembered that somebody else could change. So two nodes of one machine may write the same file, and an
 * operator may move it away at any time. */
#ifndef DN_INGEST_DEADLETTER_WRITER_H
#define DN_INGEST_DEADLETTER_WRITER_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_DEAD_FREE_MIN (UINT64_C(128) << 20) /* bytes that are left free on the disk */

struct dn_dead_writer;

/* Makes the folder (0700) where it is missing. A file that would grow beyond max_bytes is renamed to PATH.1
 * first. DN_IO, DN_INVALID: the path, and why. */
enum dn_code dn_dead_writer_open(const char *path, uint64_t max_bytes, struct dn_dead_writer **ret,
                                 struct dn_error *err);
void dn_dead_writer_close(struct dn_dead_writer *writer); /* NULL allowed */
/* The path with the links of its folder resolved: equal for equal files. */
const char *dn_dead_writer_path(const struct dn_dead_writer *writer);

/* Appends whole lines. DN_OK: they are durable, and so is the file's name. Else none may be relied on, and
 * the caller appends them again: DN_NO_SPACE, DN_IO, DN_UNAVAILABLE (another process is writing just now). */
enum dn_code dn_dead_writer_append(struct dn_dead_writer *writer, const void *lines, size_t length,
                                   struct dn_error *err);
/* Files that were removed because DN_DEAD_FILES_KEPT older ones were there. */
uint64_t dn_dead_writer_dropped(const struct dn_dead_writer *writer);

#endif
