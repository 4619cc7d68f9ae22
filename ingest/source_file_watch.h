/* A thread that scans a table from time to time, and wakes the ingest thread when something is new. Private
 * to ingest. */
#ifndef DN_INGEST_SOURCE_FILE_WATCH_H
#define DN_INGEST_SOURCE_FILE_WATCH_H

#include "ingest/source_file_table.h"

/* How often it looks at the sizes of followed files; at everything, 20 times more seldom. Tests make it
 * shorter, before they open a source. */
extern unsigned dn_file_glance_ms;

struct dn_file_watch;

/* Both outlive it. */
enum dn_code dn_file_watch_start(struct dn_file_table *table, const struct dn_source_host *host,
                                 struct dn_file_watch **ret, struct dn_error *err);
void dn_file_watch_stop(struct dn_file_watch *watch); /* NULL allowed */
/* Scan soon. Any thread. */
void dn_file_watch_now(struct dn_file_watch *watch);

#endif
