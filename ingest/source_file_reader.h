/* Reading messages out of one open file: lines, or protobuf messages each behind its length (a varint); plain
 * or gzip, which the first bytes tell. Offsets are those of the uncompressed bytes. Private to ingest.
 *
 * Invariants:
 *  1. A message is given once it is whole: a line with its newline. Only when the caller says that the file
 *     is `final` is a last line without one a message too.
 *  2. Bytes that were read before the end and are no longer there, or others, are noticed before anything
 *     after them is given (dn_file_reader_read: CHANGED), as far as the last TAIL bytes tell.
 *  3. Memory: one buffer, half a megabyte or one message of message_bytes; none while it waits at the end.
 *
 * One thread at a time. No call takes longer than a few milliseconds on a local disk. */
#ifndef DN_INGEST_SOURCE_FILE_READER_H
#define DN_INGEST_SOURCE_FILE_READER_H

#include "base/error.h"
#include "ingest/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dn_file_outcome {
    DN_FILE_SOME,    /* messages */
    DN_FILE_BUSY,    /* none yet, but work is left: read again soon */
    DN_FILE_END,     /* none now: the end, or a message that is not whole yet */
    DN_FILE_CHANGED, /* the file is shorter than what was read, or holds other bytes: err tells */
    DN_FILE_BROKEN,  /* cannot go on: err tells */
};

struct dn_file_reader;

/* Takes `fd` over, also on failure. NULL: no memory. */
struct dn_file_reader *dn_file_reader_create(int fd, enum dn_source_format format, uint64_t message_bytes);
void dn_file_reader_destroy(struct dn_file_reader *reader); /* NULL allowed */

/* The next message is the one at `offset` (>= 0). Whether one begins there is found when it is read. */
void dn_file_reader_seek(struct dn_file_reader *reader, int64_t offset);

/* Up to max (> 0) messages; they point into the reader's buffer until the next call. Empty lines are passed
 * over. err is set with CHANGED and BROKEN, which come again with every call until a seek. */
enum dn_file_outcome dn_file_reader_read(struct dn_file_reader *reader, bool final, struct dn_message *ret,
                                         size_t max, size_t *ret_count, struct dn_error *err);

/* Everything before it was given. */
int64_t dn_file_reader_position(const struct dn_file_reader *reader);
/* The end of the uncompressed bytes: plain files now; gzip once it was reached, before that -1. */
int64_t dn_file_reader_end(const struct dn_file_reader *reader);
/* Whether a last line without newline was given: nothing may come after it. */
bool dn_file_reader_unterminated(const struct dn_file_reader *reader);
/* At the END: whether what is left there may be a whole last line: nothing, or an object that is closed.
 * Always where messages are no lines. */
bool dn_file_reader_rest_is_whole(const struct dn_file_reader *reader);
int dn_file_reader_fd(const struct dn_file_reader *reader); /* the reader's */

#endif
