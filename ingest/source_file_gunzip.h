/* A gzip file, decompressed forward in steps. Private to ingest; one thread at a time. */
#ifndef DN_INGEST_SOURCE_FILE_GUNZIP_H
#define DN_INGEST_SOURCE_FILE_GUNZIP_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct dn_gunzip;

/* Whether these first bytes of a file are gzip's. Fewer than 3 bytes are not. */
bool dn_gunzip_magic(const uint8_t *bytes, size_t length);

/* `fd` stays the caller's and is read by pread. NULL: no memory. */
struct dn_gunzip *dn_gunzip_create(int fd);
void dn_gunzip_destroy(struct dn_gunzip *gunzip); /* NULL allowed */
void dn_gunzip_rewind(struct dn_gunzip *gunzip);

/* The next bytes, 1..room; 0: the end of what there is, after a whole member. DN_CORRUPT: damaged, or cut off
 * in a member; DN_IO. After an error only rewind. Several members one after the other are one file, and
 * zeros after one are padding, as gzip has it. */
enum dn_code dn_gunzip_read(struct dn_gunzip *gunzip, uint8_t *bytes, size_t room, size_t *ret_length,
                            struct dn_error *err);
/* Compressed bytes taken so far: a file that is shorter was changed. */
int64_t dn_gunzip_taken(const struct dn_gunzip *gunzip);

#endif
