/* Snapshot files: what snapshot_store.c and snapshot_fetch_file.c share. Private to the two. */
#ifndef DN_CONSENSUS_SNAPSHOT_FILES_H
#define DN_CONSENSUS_SNAPSHOT_FILES_H

#include "consensus/snapshot_store.h"

#define SNAP_WHOLE ".state"
#define SNAP_PART ".fetch"

void snapfile_path(const struct snapstore *store, const struct snap_name *name, const char *ending,
                   char out[PATH_MAX]);
/* DN_NO_SPACE for a full disk or quota, DN_IO otherwise; *err: "what 'path': why". */
enum dn_code snapfile_failed(struct dn_error *err, const char *what, const char *path, int reason);
enum dn_code snapfile_write(int fd, const char *path, uint64_t offset, const uint8_t *bytes, size_t length,
                            struct dn_error *err);
/* Exactly `length` bytes; DN_CORRUPT where the file ends before. */
enum dn_code snapfile_read(int fd, const char *path, uint64_t offset, uint8_t *bytes, size_t length,
                           struct dn_error *err);
/* Lets the kernel write what was written, and waits for what was written before that: no more than two chunks
 * are ever waiting for the disk, and a flush of the log does not find itself behind a gigabyte. */
void snapfile_push(int fd, uint64_t offset, uint64_t length);
/* Flushes the file, renames it, flushes the folder. Closes fd in any case. */
enum dn_code snapfile_publish(const struct snapstore *store, int fd, const char *from, const char *to,
                              struct dn_error *err);

#endif
