/* Standard input as a file: a thread copies what comes into a file of the node's data folder, from which it
 * is read like any other. So an offset can be read again while it is not replicated, and a dead letter be
 * fetched. Private to ingest.
 *
 * Each run of the node is a stream of its own: the same bytes never come a second time, so what was read and
 * not replicated when the node stops is lost. Give a file instead where that matters.
 *
 * Bounded: AHEAD bytes that were not read yet, and KEPT bytes that were; older ones are given back to the
 * file system (where it can make holes: ext4, xfs, btrfs, tmpfs). */
#ifndef DN_INGEST_SOURCE_FILE_STDIN_H
#define DN_INGEST_SOURCE_FILE_STDIN_H

#include "base/error.h"
#include "ingest/source.h"
#include "ingest/source_file_names.h"

#include <stdbool.h>
#include <stdint.h>

#define DN_FILE_STDIN_AHEAD (64ll << 20)
#define DN_FILE_STDIN_KEPT (256ll << 20)

struct dn_file_stdin;

/* Starts the thread. DN_IO: the data folder cannot be written. */
enum dn_code dn_file_stdin_start(const struct dn_source_config *config, const struct dn_source_host *host,
                                 struct dn_file_stdin **ret, struct dn_error *err);
void dn_file_stdin_stop(struct dn_file_stdin *in); /* deletes the file; NULL allowed */

const char *dn_file_stdin_stream(const struct dn_file_stdin *in); /* its name */
const char *dn_file_stdin_path(const struct dn_file_stdin *in);
bool dn_file_stdin_ended(const struct dn_file_stdin *in);
/* Bytes before this cannot be read again. */
int64_t dn_file_stdin_begin(const struct dn_file_stdin *in);
/* Reading has come so far. */
void dn_file_stdin_read_to(struct dn_file_stdin *in, int64_t offset);
/* Why nothing is read any more; empty: nothing. Any thread. */
void dn_file_stdin_error(struct dn_file_stdin *in, char ret_text[DN_SOURCE_TEXT_MAX]);

/* The file of such a stream, for fetchers; false: no name of one. */
bool dn_file_stdin_path_of(const struct dn_source_config *config, const struct dn_source_host *host,
                           const char *stream, char ret[DN_FILE_PATH_MAX]);

#endif
