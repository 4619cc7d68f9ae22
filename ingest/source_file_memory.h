/* What a source remembers of followed files between two runs: which files it has met, never how far they were
 * read. Needed because a rotated file may have another inode (compressed, copied), and so that old files
 * which lay there before the first run are never taken for new ones. Private to ingest; one thread at a time.
 */
#ifndef DN_INGEST_SOURCE_FILE_MEMORY_H
#define DN_INGEST_SOURCE_FILE_MEMORY_H

#include "base/error.h"
#include "ingest/source.h"
#include "ingest/source_file_names.h"
#include "ingest/source_file_table_private.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_FILE_ROWS_MAX 4096
/* Of files that are over and gone so many are remembered, so that a copy of one that comes back (a backup, a
 * folder that was not mounted) is not taken for a new file. */
#define DN_FILE_ROWS_OVER 1024

struct dn_file_row {
    uint64_t path_key;                /* of the path that is followed */
    struct dn_file_identity identity; /* gzip is not kept */
    bool done;                        /* nothing in it need be read any more, or ever */
    int64_t finished_at;              /* its end, once it was reached after a rotation; -1 */
    bool over;                        /* done, gone, and no stream of ingest's any more */

    struct dn_file_entry *entry; /* of this run; NULL: it is no stream */
    size_t index;                /* of the entry */
    bool gone;                   /* it was found nowhere for long enough */
    struct dn_file_absence absence;
    struct dn_file_home home; /* in this run */
    size_t candidate;         /* while scanning */
};

struct dn_file_memory {
    uint64_t known[DN_SOURCE_LIST_MAX]; /* paths whose folder was looked through once */
    size_t known_count;
    struct dn_file_row *rows; /* DN_FILE_ROWS_MAX */
    size_t count;
    char *saved; /* the text that is in the file; NULL: none */
};

enum dn_code dn_file_memory_create(struct dn_file_memory *ret, struct dn_error *err);
void dn_file_memory_destroy(struct dn_file_memory *memory);
/* Adds what `folder` has for that source to what is here. A folder of NULL, or without the file: nothing.
 * DN_CORRUPT, DN_IO. */
enum dn_code dn_file_memory_load(struct dn_file_memory *memory, const char *folder, const char *source,
                                 struct dn_error *err);
/* Writes where it changed, all or nothing. */
enum dn_code dn_file_memory_save(struct dn_file_memory *memory, const char *folder, const char *source,
                                 struct dn_error *err);

uint64_t dn_file_path_key(const char *path);
bool dn_file_memory_knows(const struct dn_file_memory *memory, uint64_t path_key);
void dn_file_memory_know(struct dn_file_memory *memory, uint64_t path_key);
/* NULL: full. A row that is there already is returned as it is. */
struct dn_file_row *dn_file_memory_add(struct dn_file_memory *memory, const struct dn_file_row *row);

#endif
