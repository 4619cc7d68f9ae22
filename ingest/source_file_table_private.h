/* The insides of a table, for source_file_table.c (files and folders) and source_file_follow.c. */
#ifndef DN_INGEST_SOURCE_FILE_TABLE_PRIVATE_H
#define DN_INGEST_SOURCE_FILE_TABLE_PRIVATE_H

#include "ingest/source_file_table.h"

#include <pthread.h>
#include <sys/stat.h>

/* Where a file was last seen. A folder that is not the one it was (its file system is not mounted) says
 * nothing of what is in it. */
struct dn_file_home {
    bool known;
    dev_t device;
    ino_t inode;
};

struct dn_file_absence { /* zeroes: it is there */
    unsigned scans;      /* for so many in a row it was not */
    uint64_t since_us;   /* the first of them (monotonic) */
};
/* Not found by this scan. True: it is gone. */
bool dn_file_absent(struct dn_file_absence *absence);
/* False: there is no such folder. */
bool dn_file_home_of(const char *folder, struct dn_file_home *ret);
bool dn_file_home_same(const struct dn_file_home *a, const struct dn_file_home *b);

/* Written by the thread that scans, under the lock; finished_at, done and released by others too. */
struct dn_file_entry {
    char stream[DN_SOURCE_MAX + 1];
    uint64_t stream_hash;
    bool local;
    bool done;     /* read to its end, and replicated */
    bool gone;     /* as dn_stream_info */
    bool released; /* forgotten: the next scan frees it */
    bool seen;     /* a folder's file: by this scan */
    struct dn_file_home home;
    struct dn_file_absence absence;
    size_t list_index;
    struct dn_file_where where;
};

struct dn_file_follow; /* source_file_follow.c */

struct dn_file_table {
    const struct dn_source_config *config;
    const struct dn_source_host *host;
    bool keeps;
    struct dn_file_follow *follow; /* NULL: not followed */
    uint64_t signature;            /* of all sizes and times at the last scan */
    /* Of each folder in the list: where files were found in it, in this run. */
    struct dn_file_home found_in[DN_SOURCE_LIST_MAX];

    pthread_mutex_t lock;                                    /* of what follows */
    struct dn_file_entry *entries[DN_SOURCE_PARTITIONS_MAX]; /* NULL: nobody's */
    size_t count;                                            /* up to the last one that ever was */
    size_t used;
    bool full; /* there were more files than entries */
    uint64_t scans;
    struct {
        int64_t since_ms; /* 0: none */
        char text[DN_SOURCE_TEXT_MAX];
    } trouble[DN_SOURCE_LIST_MAX];
};

/* Adds one. NULL: the table is full, or no memory. Takes the lock. */
struct dn_file_entry *dn_file_table_add(struct dn_file_table *table, const struct dn_file_entry *entry);
bool dn_file_table_is_released(struct dn_file_table *table, size_t stream);
/* Frees the entry with that index. Takes the lock. */
void dn_file_table_drop(struct dn_file_table *table, size_t stream);
/* Why `path` cannot be read. */
void dn_file_table_explain(const char *path, int error, char ret_text[DN_SOURCE_TEXT_MAX]);
/* The same, as trouble. */
void dn_file_table_unreadable(struct dn_file_table *table, size_t list_index, const char *path, int error);
/* Mixes a file's size and times into a signature. */
uint64_t dn_file_table_mix(uint64_t signature, const char *path, const struct stat *status);

/* ---- a folder's names ---- */

struct dn_file_names {
    char (*names)[256];
    size_t count, capacity, max;
    bool more; /* there were more than max: those that come first in order are here */
};
/* The regular files in `folder` that `take` takes, in the order of their bytes; hidden ones never. Returns
 * errno. */
int dn_file_list(const char *folder, bool (*take)(const char *name, void *data), void *data, size_t max,
                 struct dn_file_names *ret);
void dn_file_names_free(struct dn_file_names *names);
/* folder/name; false: too long. */
bool dn_file_join(const char *folder, const char *name, char ret[DN_FILE_PATH_MAX]);

/* ---- followed files ---- */

enum dn_code dn_file_follow_create(struct dn_file_table *table, struct dn_error *err);
void dn_file_follow_destroy(struct dn_file_follow *follow); /* NULL allowed */
bool dn_file_follow_scan(struct dn_file_table *table);
enum dn_file_glance dn_file_follow_glance(struct dn_file_table *table);

#endif
