/* What a file is called in the replicated state, and what tells one file from another. Private to ingest.
 *
 * A file that is not followed is its path: "source/PATH" as configured, where that fits and is plain text,
 * else "source/#" and a hash of it. A followed file is what it is, not where: its node, its inode and its
 * first message, "source/NAME@NODE." and a hash of them; NAME is for people, and cut to fit; NODE (hex) is
 * whose it is (dn_stream_node). Standard input is another stream in each run. No two of these forms are
 * alike: # and @ are not plain text here. Any thread; pure but for dn_file_identify. */
#ifndef DN_INGEST_SOURCE_FILE_NAMES_H
#define DN_INGEST_SOURCE_FILE_NAMES_H

#include "base/hash.h"
#include "ingest/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_FILE_PATH_MAX                                                                                     \
    (DN_SOURCE_TEXT_MAX + 256 + 1) /* a folder, a slash, and a name in it; with the NUL */

struct dn_file_identity {
    uint64_t inode;
    struct dn_hash128 first; /* of the first message */
    bool gzip;
};

/* How much of a file's first message makes its identity: the rest of a longer one is not looked at. */
#define DN_FILE_FIRST_MAX (64u << 10)

void dn_file_name_of_path(const char *source, const char *path, char ret[DN_SOURCE_MAX + 1]);
void dn_file_name_of_identity(const char *source, const char *path, uint64_t node_id,
                              const struct dn_file_identity *identity, char ret[DN_SOURCE_MAX + 1]);
void dn_file_name_of_run(const char *source, uint64_t node_id, const struct dn_hash128 *run,
                         char ret[DN_SOURCE_MAX + 1]);

/* Reads the beginning of an open file, compressed or not. False: it has no whole message yet (or cannot be
 * read). Blocks for a few milliseconds at most on a local disk. */
bool dn_file_identify(int fd, enum dn_source_format format, struct dn_file_identity *ret);
/* As much of the (uncompressed) beginning as fits: its length; 0 also where it cannot be read. */
size_t dn_file_beginning(int fd, uint8_t *bytes, size_t room);

#endif
