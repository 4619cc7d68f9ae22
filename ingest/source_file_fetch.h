/* Single messages out of files, for dead letters: the driver's fetcher (ingest/source.h). Private to ingest.
 */
#ifndef DN_INGEST_SOURCE_FILE_FETCH_H
#define DN_INGEST_SOURCE_FILE_FETCH_H

#include "ingest/source.h"

enum dn_code dn_file_fetcher_open(const struct dn_source_config *config, const struct dn_source_host *host,
                                  void **ret_fetcher, struct dn_error *err);
void dn_file_fetcher_close(void *fetcher);
enum dn_code dn_file_fetch(void *fetcher, const char *stream, uint32_t partition, int64_t offset,
                           unsigned timeout_ms, struct dn_message *ret, struct dn_error *err);

#endif
