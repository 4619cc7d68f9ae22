/* The streams of a file source: which files there are, and where each is now. Private to ingest.
 *
 * A table has its own lock; every function may be called on any thread, but for scan (one thread at a time).
 * An index is a stream's until that is forgotten; then it may be another's. */
#ifndef DN_INGEST_SOURCE_FILE_TABLE_H
#define DN_INGEST_SOURCE_FILE_TABLE_H

#include "base/error.h"
#include "ingest/source.h"
#include "ingest/source_file_names.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A rotated file that was quiet for so long is read to its end; one that is not found for so long is lost,
 * and after more than DN_FILE_GONE_SCANS scans it is gone. Tests make it shorter, before they open a source.
 */
extern unsigned dn_file_quiet_ms;

#define DN_FILE_GONE_SCANS 10 /* a rename may hide a file from one scan */

struct dn_file_table;

enum dn_code dn_file_table_check(const struct dn_source_config *config, struct dn_error *err);
/* Checks the configuration (DN_INVALID). keeps: this table remembers followed files in host->data_dir; one
 * table of a source does, others (of fetchers) only look there. */
enum dn_code dn_file_table_create(const struct dn_source_config *config, const struct dn_source_host *host,
                                  bool keeps, struct dn_file_table **ret, struct dn_error *err);
void dn_file_table_destroy(struct dn_file_table *table); /* NULL allowed */

/* Looks at the file system: all of it. True when there is something new to read, or to say. */
bool dn_file_table_scan(struct dn_file_table *table);
enum dn_file_glance { DN_FILE_SAME, DN_FILE_GREW, DN_FILE_OTHER /* time to scan */ };
/* Looks at the followed files' sizes only, which is cheap. Thread of scan. */
enum dn_file_glance dn_file_table_glance(struct dn_file_table *table);

/* Adds a stream by hand (standard input's, local). False: no memory, or full. */
bool dn_file_table_add_path(struct dn_file_table *table, const char *stream, const char *path);

/* An empty name: nobody's. `gone`: as the file system is; what is open is not known here. */
size_t dn_file_table_streams(struct dn_file_table *table, struct dn_stream_info *ret, size_t max);
/* Is that index a stream's? */
bool dn_file_table_has(struct dn_file_table *table, size_t stream);
void dn_file_table_name(struct dn_file_table *table, size_t stream, char ret[DN_SOURCE_MAX + 1]);
/* A stream that is gone, and that nobody asks for any more. The next scan makes room. */
void dn_file_table_forget(struct dn_file_table *table, size_t stream);
/* SIZE_MAX: there is no such stream. */
size_t dn_file_table_find(struct dn_file_table *table, const char *stream);
/* text NULL: none any more. */
void dn_file_table_set_trouble(struct dn_file_table *table, size_t list_index, const char *text);
int64_t dn_file_table_trouble(struct dn_file_table *table, char ret_text[DN_SOURCE_TEXT_MAX]);

struct dn_file_where {
    char path[DN_FILE_PATH_MAX]; /* empty: not found now */
    bool whole;                  /* not followed: a last line without newline is one, once it rests */
    bool identified;             /* followed: it must be this one */
    struct dn_file_identity identity;
    bool gzip;           /* followed: compressed since */
    bool rotated;        /* followed: no longer the file that grows */
    uint64_t rotated_us; /* since when (monotonic) */
    int64_t finished_at; /* followed: it was read to its end, which is this; -1 */
    bool settled;   /* followed: that was in an earlier run; whatever is asked for, it is not read again */
    uint64_t scans; /* how often the table was scanned: a later answer is newer */
};
void dn_file_table_where(struct dn_file_table *table, size_t stream, struct dn_file_where *ret);

/* A rotated file was read to its end. */
void dn_file_table_finished(struct dn_file_table *table, size_t stream, int64_t end);
/* Everything before next_offset is replicated: a file that is finished there need not be looked at again. */
void dn_file_table_replicated(struct dn_file_table *table, size_t stream, int64_t next_offset);

#endif
