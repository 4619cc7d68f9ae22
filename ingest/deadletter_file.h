/* Reading files of dead letters: JSON lines as deadletter.h writes them. For tools; one thread at a time for
 * each reader, no other state. A file that is being written, was rotated, or has lines that a crash tore in
 * two may be read. */
#ifndef DN_INGEST_DEADLETTER_FILE_H
#define DN_INGEST_DEADLETTER_FILE_H

#include "base/buffer.h"
#include "base/error.h"
#include "ingest/source.h"
#include "session/session.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_DEAD_LINE_MAX ((size_t)192 << 20) /* bytes in a line; a message of up to 144 MB */
#define DN_DEAD_NOTE_MAX 256                 /* with the NUL */

struct dn_dead_file;

/* One letter. (shard, number) names it: the same letter may stand in a file, or in several, more than once.
 */
struct dn_dead_line {
    uint32_t shard;
    uint64_t number;
    uint8_t reason;                      /* enum dn_dead_reason; 0: a text this program does not know */
    char source[DN_SOURCE_NAME_MAX + 1]; /* name in the configuration */
    char stream[DN_SOURCE_MAX + 1];      /* "source/topic" */
    uint32_t partition;
    int64_t offset;
    int64_t judged_ms;           /* the group's time when it was judged */
    int64_t time_ms;             /* of the message itself; -1: it has none, or it is not known */
    bool gone;                   /* the source had the message no more */
    char note[DN_DEAD_NOTE_MAX]; /* why there are no bytes, for people; mostly empty */
    const uint8_t *key;          /* NULL: none */
    size_t key_length;
    const uint8_t *bytes; /* the message as it was; NULL: it had none, or they are not known */
    size_t length;
};

/* path: a file, or "-" for standard input. DN_NOT_FOUND, DN_IO. */
enum dn_code dn_dead_file_open(const char *path, struct dn_dead_file **ret, struct dn_error *err);
void dn_dead_file_close(struct dn_dead_file *file); /* NULL allowed */

/* The next letter. `buffer` is the caller's: it is cleared, and key and bytes lie in it until it is used
 * again; its maximum bounds what is accepted (DN_DEAD_LINE_MAX fits everything).
 *
 * DN_NOT_FOUND: the end (of what there is now: a later call finds lines that were added). DN_INVALID: the
 * line is no letter (torn by a crash, cut, or not ours); err says which line and why; the next call goes on
 * after it. DN_IO, DN_NO_MEMORY: cannot go on. */
enum dn_code dn_dead_file_next(struct dn_dead_file *file, struct dn_buffer *buffer, struct dn_dead_line *ret,
                               struct dn_error *err);
/* The number of the line that was read last, from 1. */
uint64_t dn_dead_file_line(const struct dn_dead_file *file);

/* One line, without its end, as dn_dead_file_next does it; for letters that come from a topic. */
enum dn_code dn_dead_line_parse(const char *text, size_t length, struct dn_buffer *buffer,
                                struct dn_dead_line *ret, struct dn_error *err);
/* Appends the letter as a line with its end. out->failed tells of memory and the maximum. */
void dn_dead_line_write(struct dn_buffer *out, const struct dn_dead_line *line);

#endif
