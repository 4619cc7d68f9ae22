/* The happy path: the buffer holds bytes [base, base + to) of the file; messages are cut out of
 * [from, to); when no whole one is left, the rest moves to the front and the file is read behind it.
 *
 * seek() sets reading one byte before the offset, so that this byte, a newline, proves that a line begins
 * there (`check`). It is looked at only when a byte follows it: an offset behind a last line without newline
 * is good as long as nothing comes after it.
 *
 * A line that is too long is counted and dropped (`skipping`). */
#include "ingest/source_file_reader.h"

#include "base/clock.h"
#include "ingest/source_file_gunzip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_BYTES (512u << 10)
#define FRAME_BYTES 16 /* beside the message itself: the length before it, or CR and newline after it */
#define TAIL_BYTES 64  /* looked at again before what follows them is believed */
#define SLICE_US 2000  /* a read that finds no message gives up for now after this */
#define GZIP_STEP_BYTES (128u << 10)
#define VARINT_BYTES_MAX 10
#define FRAMED_MAX (1ull << 30) /* a length above this is no length, but damage */

struct dn_file_reader {
    int fd;
    enum dn_source_format format;
    size_t message_bytes;
    enum { KIND_UNKNOWN, KIND_PLAIN, KIND_GZIP } kind; /* unknown: still empty */
    struct dn_gunzip *gunzip;

    uint8_t *buffer; /* NULL: none needed now */
    size_t capacity, from, to;
    int64_t base;    /* of buffer[0] in the file */
    size_t scanned;  /* bytes from `from` on without a newline */
    int64_t drop_to; /* gzip: bytes before it are passed over */
    int64_t asked;   /* by seek: the file must reach so far */
    bool check;      /* buffer[from] is the byte before the offset asked for */

    bool skipping; /* a message too long to keep */
    int64_t skip_offset;
    uint64_t skip_length; /* of it, so far */
    uint64_t skip_left;   /* framed: still to come */
    uint8_t skip_last;    /* its last byte so far */

    bool unterminated;        /* a last line without newline was given: nothing may follow it */
    uint8_t tail[TAIL_BYTES]; /* the last bytes before base + to, when the end was met */
    size_t tail_length;
    int64_t tail_end; /* where they end in the file */
    bool at_end;
};

struct dn_file_reader *dn_file_reader_create(int fd, enum dn_source_format format, uint64_t message_bytes)
{
    struct dn_file_reader *reader = calloc(1, sizeof(*reader));

    if (reader == NULL) {
        close(fd);
        return NULL;
    }
    reader->fd = fd;
    reader->format = format;
    reader->message_bytes = (size_t)message_bytes;
    return reader;
}

void dn_file_reader_destroy(struct dn_file_reader *reader)
{
    if (reader != NULL) {
        dn_gunzip_destroy(reader->gunzip);
        close(reader->fd);
        free(reader->buffer);
        free(reader);
    }
}

void dn_file_reader_seek(struct dn_file_reader *reader, int64_t offset)
{
    int64_t begin = offset > 0 ? offset - 1 : 0;

    reader->asked = offset;
    reader->check = offset > 0 && reader->format == DN_FORMAT_JSON;
    if (!reader->check) {
        begin = offset;
    }
    reader->scanned = 0;
    reader->skipping = false;
    reader->unterminated = false;
    reader->at_end = false;
    reader->tail_length = 0;
    reader->drop_to = begin;
    if (begin >= reader->base && begin <= reader->base + (int64_t)reader->to) {
        reader->from = (size_t)(begin - reader->base); /* it is here: rising offsets are quick */
        return;
    }
    if (reader->kind == KIND_GZIP && begin > reader->base) {
        reader->from = reader->to; /* goes on from here */
        return;
    }
    reader->from = reader->to = 0;
    reader->base = begin;
    if (reader->kind == KIND_GZIP) {
        dn_gunzip_rewind(reader->gunzip);
        reader->base = 0;
    }
}

int64_t dn_file_reader_position(const struct dn_file_reader *reader)
{
    int64_t at = reader->base + (int64_t)reader->from;

    if (reader->skipping) {
        return reader->skip_offset;
    }
    return at < reader->asked ? reader->asked : at;
}

int64_t dn_file_reader_end(const struct dn_file_reader *reader)
{
    struct stat status;

    if (reader->kind == KIND_GZIP) {
        return reader->at_end ? reader->base + (int64_t)reader->to : -1;
    }
    return fstat(reader->fd, &status) == 0 ? (int64_t)status.st_size : -1;
}

bool dn_file_reader_unterminated(const struct dn_file_reader *reader)
{
    return reader->unterminated;
}

/* Braces are counted outside of strings: more need not be known to tell what was cut off. */
static bool is_closed(const uint8_t *text, size_t length)
{
    bool string = false;
    size_t depth = 0;

    for (size_t i = 0; i < length; i++) {
        if (string && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            string = !string;
        } else if (!string && text[i] == '{') {
            depth++;
        } else if (!string && text[i] == '}' && depth > 0 && --depth == 0) {
            return true; /* whatever follows makes it no message, not an unfinished one */
        }
    }
    return false;
}

bool dn_file_reader_rest_is_whole(const struct dn_file_reader *reader)
{
    if (reader->format != DN_FORMAT_JSON || reader->check) {
        return true;
    }
    if (reader->from == reader->to) {
        return !reader->skipping;
    }
    return !reader->skipping && is_closed(reader->buffer + reader->from, reader->to - reader->from);
}

int dn_file_reader_fd(const struct dn_file_reader *reader)
{
    return reader->fd;
}

/* ---- bytes ---- */

static ssize_t read_at(int fd, void *bytes, size_t length, int64_t offset)
{
    ssize_t got;

    do {
        got = pread(fd, bytes, length, offset);
    } while (got < 0 && errno == EINTR);
    return got;
}

static enum dn_file_outcome broken_read(struct dn_error *err, int64_t offset)
{
    dn_fail(err, DN_IO, "read at byte %lld: %s", (long long)offset, strerror(errno));
    return DN_FILE_BROKEN;
}

/* Plain or gzip. Leaves it unknown while the file is empty. */
static enum dn_file_outcome detect(struct dn_file_reader *reader, struct dn_error *err)
{
    uint8_t magic[3];
    ssize_t got = read_at(reader->fd, magic, sizeof(magic), 0);

    if (got < 0) {
        return broken_read(err, 0);
    }
    if (got == 0) {
        return DN_FILE_END;
    }
    if (!dn_gunzip_magic(magic, (size_t)got)) {
        reader->kind = KIND_PLAIN;
        return DN_FILE_SOME;
    }
    reader->gunzip = dn_gunzip_create(reader->fd);
    if (reader->gunzip == NULL) {
        dn_fail(err, DN_NO_MEMORY, "no memory to decompress");
        return DN_FILE_BROKEN;
    }
    reader->kind = KIND_GZIP;
    reader->base = 0;
    return DN_FILE_SOME;
}

/* The last bytes read, before they are forgotten: check_tail looks whether they are still there. */
static void remember_tail(struct dn_file_reader *reader)
{
    size_t length = reader->to < TAIL_BYTES ? reader->to : TAIL_BYTES;

    if (length > 0) {
        memcpy(reader->tail, reader->buffer + reader->to - length, length);
        reader->tail_length = length;
        reader->tail_end = reader->base + (int64_t)reader->to;
    }
}

/* Moves what is left to the front, and grows the buffer where that fills it. */
static bool make_room(struct dn_file_reader *reader)
{
    size_t left = reader->to - reader->from;

    remember_tail(reader);
    if (reader->buffer != NULL && left > 0) {
        memmove(reader->buffer, reader->buffer + reader->from, left);
    }
    reader->base += (int64_t)reader->from;
    reader->from = 0;
    reader->to = left;
    if (reader->buffer == NULL || reader->to == reader->capacity) {
        size_t most = reader->message_bytes + FRAME_BYTES;
        size_t capacity = reader->buffer == NULL ? BUFFER_BYTES : reader->capacity * 2;
        uint8_t *buffer;

        most = most < BUFFER_BYTES ? BUFFER_BYTES : most;
        capacity = capacity < most ? capacity : most;
        DN_ASSERT(capacity > reader->to);
        buffer = realloc(reader->buffer, capacity);
        if (buffer == NULL) {
            return false;
        }
        reader->buffer = buffer;
        reader->capacity = capacity;
    }
    return true;
}

static void note_end(struct dn_file_reader *reader)
{
    reader->at_end = true;
    if (reader->from == reader->to) { /* a file that waits needs no buffer */
        remember_tail(reader);
        reader->base += (int64_t)reader->to;
        reader->from = reader->to = reader->capacity = 0;
        free(reader->buffer);
        reader->buffer = NULL;
    }
}

static enum dn_file_outcome changed(struct dn_error *err, int64_t size, int64_t read)
{
    dn_fail(err, DN_RANGE,
            "it ends at byte %lld, but has been read up to byte %lld: it was truncated or replaced",
            (long long)size, (long long)read);
    return DN_FILE_CHANGED;
}

/* No byte came. */
static enum dn_file_outcome met_end(struct dn_file_reader *reader, struct dn_error *err)
{
    int64_t reached = reader->base + (int64_t)reader->to;
    int64_t needed = reached > reader->asked ? reached : reader->asked;
    int64_t size = reached;
    struct stat status;

    if (fstat(reader->fd, &status) != 0) {
        return broken_read(err, reached);
    }
    if (reader->kind != KIND_GZIP) {
        size = (int64_t)status.st_size;
    } else if ((int64_t)status.st_size < dn_gunzip_taken(reader->gunzip)) {
        return changed(err, (int64_t)status.st_size, dn_gunzip_taken(reader->gunzip));
    }
    if (size < needed) {
        return changed(err, size, needed);
    }
    note_end(reader);
    return DN_FILE_END;
}

/* Bytes came behind those that were read: do those stand there still? */
static enum dn_file_outcome check_tail(struct dn_file_reader *reader, struct dn_error *err)
{
    uint8_t now[TAIL_BYTES];
    int64_t at = reader->tail_end - (int64_t)reader->tail_length;
    ssize_t got = read_at(reader->fd, now, reader->tail_length, at);

    if (got < 0) {
        return broken_read(err, at);
    }
    if ((size_t)got < reader->tail_length || memcmp(now, reader->tail, reader->tail_length) != 0) {
        dn_fail(err, DN_RANGE,
                "other bytes stand before byte %lld than were read there: it was truncated or replaced",
                (long long)reader->tail_end);
        return DN_FILE_CHANGED;
    }
    return DN_FILE_SOME;
}

static enum dn_file_outcome fill_plain(struct dn_file_reader *reader, size_t *ret_length,
                                       struct dn_error *err)
{
    int64_t at = reader->base + (int64_t)reader->to;
    ssize_t got = read_at(reader->fd, reader->buffer + reader->to, reader->capacity - reader->to, at);

    if (got < 0) {
        return broken_read(err, at);
    }
    if (got > 0 && check_tail(reader, err) != DN_FILE_SOME) {
        return DN_FILE_CHANGED;
    }
    *ret_length = (size_t)got;
    return DN_FILE_SOME;
}

static enum dn_file_outcome fill_gzip(struct dn_file_reader *reader, size_t *ret_length, struct dn_error *err)
{
    size_t room = reader->capacity - reader->to;

    if (dn_gunzip_read(reader->gunzip, reader->buffer + reader->to,
                       room < GZIP_STEP_BYTES ? room : GZIP_STEP_BYTES, ret_length, err) != DN_OK) {
        return DN_FILE_BROKEN;
    }
    return DN_FILE_SOME;
}

/* Passes over what a seek in gzip jumps. */
static void drop(struct dn_file_reader *reader)
{
    int64_t left = reader->drop_to - reader->base - (int64_t)reader->from;

    if (left > 0) {
        size_t have = reader->to - reader->from;

        reader->from += (uint64_t)left < have ? (size_t)left : have;
    }
}

/* SOME: more bytes are in the buffer. */
static enum dn_file_outcome fill(struct dn_file_reader *reader, struct dn_error *err)
{
    enum dn_file_outcome outcome = DN_FILE_SOME;
    size_t length = 0;

    if (reader->kind == KIND_UNKNOWN) {
        outcome = detect(reader, err);
    }
    if (outcome == DN_FILE_END) {
        return met_end(reader, err);
    }
    if (outcome == DN_FILE_SOME && !make_room(reader)) {
        dn_fail(err, DN_NO_MEMORY, "no memory for a buffer");
        return DN_FILE_BROKEN;
    }
    if (outcome == DN_FILE_SOME) {
        outcome =
            reader->kind == KIND_GZIP ? fill_gzip(reader, &length, err) : fill_plain(reader, &length, err);
    }
    if (outcome != DN_FILE_SOME) {
        return outcome;
    }
    if (length == 0) {
        return met_end(reader, err);
    }
    if (reader->unterminated) {
        dn_fail(
            err, DN_PRECONDITION,
            "it has grown after its last line, which had no newline, was taken as whole (before byte %lld): "
            "set follow for files that grow",
            (long long)dn_file_reader_position(reader));
        return DN_FILE_BROKEN;
    }
    reader->at_end = false;
    reader->to += length;
    drop(reader);
    return DN_FILE_SOME;
}

/* ---- messages ---- */

static void give(struct dn_message *ret, int64_t offset, int64_t next_offset, const uint8_t *bytes,
                 size_t length)
{
    memset(ret, 0, sizeof(*ret));
    ret->offset = offset;
    ret->next_offset = next_offset;
    ret->time_ms = -1;
    ret->bytes = bytes;
    ret->length = length;
    ret->too_large = bytes == NULL;
}

/* The line of `length` bytes at `from`, followed by `newline` (0 or 1) bytes of newline. Returns the new
 * count. */
static size_t give_line(struct dn_file_reader *reader, size_t length, size_t newline, struct dn_message *ret,
                        size_t count)
{
    const uint8_t *line = length > 0 ? reader->buffer + reader->from : (const uint8_t *)"";
    int64_t at = reader->base + (int64_t)reader->from;
    int64_t next = at + (int64_t)(length + newline);
    uint64_t whole = length + (reader->skipping ? reader->skip_length : 0);
    uint8_t last = length > 0 ? line[length - 1] : reader->skipping ? reader->skip_last : 0;

    if (last == '\r') {
        whole--;
    }
    reader->from += length + newline;
    reader->scanned = 0;
    if (whole == 0) {
        if (count > 0) {
            ret[count - 1].next_offset = next;
        }
        reader->skipping = false;
        return count;
    }
    if (reader->skipping || whole > reader->message_bytes) {
        give(&ret[count], reader->skipping ? reader->skip_offset : at, next, NULL, (size_t)whole);
    } else {
        give(&ret[count], at, next, line, (size_t)whole);
    }
    reader->skipping = false;
    return count + 1;
}

/* Drops what there is of a line that is already too long. */
static void skip_line(struct dn_file_reader *reader)
{
    size_t length = reader->to - reader->from;

    if (!reader->skipping && length <= reader->message_bytes + 1) { /* 1: may be the CR before the newline */
        return;
    }
    if (!reader->skipping) {
        reader->skipping = true;
        reader->skip_offset = reader->base + (int64_t)reader->from;
        reader->skip_length = 0;
    }
    reader->skip_length += length;
    reader->skip_last = reader->buffer[reader->to - 1];
    reader->from = reader->to;
    reader->scanned = 0;
}

static size_t take_lines(struct dn_file_reader *reader, struct dn_message *ret, size_t max)
{
    size_t count = 0;

    while (count < max && reader->from < reader->to) {
        const uint8_t *line = reader->buffer + reader->from;
        size_t have = reader->to - reader->from;
        const uint8_t *newline = memchr(line + reader->scanned, '\n', have - reader->scanned);

        if (newline == NULL) {
            reader->scanned = have;
            skip_line(reader);
            break;
        }
        count = give_line(reader, (size_t)(newline - line), 1, ret, count);
    }
    return count;
}

/* Bytes of the varint at the front; 0: not whole yet; VARINT_BYTES_MAX + 1: none. */
static size_t varint(const uint8_t *bytes, size_t length, uint64_t *ret_value)
{
    uint64_t value = 0;

    for (size_t i = 0; i < VARINT_BYTES_MAX; i++) {
        if (i == length) {
            return 0;
        }
        value |= (uint64_t)(bytes[i] & 0x7f) << (7 * i);
        if ((bytes[i] & 0x80) == 0) {
            *ret_value = value;
            return i + 1;
        }
    }
    return VARINT_BYTES_MAX + 1;
}

/* True: the long message's end was reached and it was given. */
static bool skip_framed(struct dn_file_reader *reader, struct dn_message *ret)
{
    size_t have = reader->to - reader->from;

    if (reader->skip_left > have) {
        reader->skip_left -= have;
        reader->from = reader->to;
        return false;
    }
    reader->from += (size_t)reader->skip_left;
    reader->skipping = false;
    give(ret, reader->skip_offset, reader->base + (int64_t)reader->from, NULL, (size_t)reader->skip_length);
    return true;
}

/* One message, or false: not whole yet, or *ret_outcome is BROKEN. */
static bool take_one_framed(struct dn_file_reader *reader, struct dn_message *ret,
                            enum dn_file_outcome *ret_outcome, struct dn_error *err)
{
    const uint8_t *frame = reader->buffer + reader->from;
    size_t have = reader->to - reader->from, header;
    int64_t at = reader->base + (int64_t)reader->from;
    uint64_t length = 0;

    if (reader->skipping) {
        return skip_framed(reader, ret);
    }
    header = varint(frame, have, &length);
    if (header > VARINT_BYTES_MAX || length > FRAMED_MAX) {
        dn_fail(err, DN_CORRUPT,
                "no length of a message at byte %lld: the file is not length-delimited protobuf, or damaged",
                (long long)at);
        *ret_outcome = DN_FILE_BROKEN;
        return false;
    }
    if (header > 0 && length > reader->message_bytes) {
        reader->skipping = true;
        reader->skip_offset = at;
        reader->skip_length = reader->skip_left = length;
        reader->from += header;
        return skip_framed(reader, ret);
    }
    if (header == 0 || have - header < length) {
        return false;
    }
    reader->from += header + (size_t)length;
    give(ret, at, reader->base + (int64_t)reader->from, frame + header, (size_t)length);
    return true;
}

/* The messages that are whole. */
static enum dn_file_outcome take(struct dn_file_reader *reader, struct dn_message *ret, size_t max,
                                 size_t *ret_count, struct dn_error *err)
{
    enum dn_file_outcome outcome = DN_FILE_SOME;

    if (reader->base + (int64_t)reader->from < reader->drop_to) {
        return outcome;
    }
    if (reader->check) {
        if (reader->to - reader->from < 2) {
            return outcome;
        }
        if (reader->buffer[reader->from] != '\n') {
            dn_fail(
                err, DN_PRECONDITION,
                "no line begins at byte %lld: the file was changed, or has grown after its last line, which "
                "had no newline, was taken as whole (set follow for files that grow)",
                (long long)reader->asked);
            return DN_FILE_BROKEN;
        }
        reader->check = false;
        reader->from++;
    }
    if (reader->format == DN_FORMAT_JSON) {
        *ret_count = take_lines(reader, ret, max);
        return outcome;
    }
    while (*ret_count < max && reader->from < reader->to &&
           take_one_framed(reader, &ret[*ret_count], &outcome, err)) {
        (*ret_count)++;
    }
    return *ret_count > 0 ? DN_FILE_SOME : outcome; /* a fault behind good messages is found again */
}

/* At the end of a file that is whole: what is left is the last line. */
static enum dn_file_outcome take_rest(struct dn_file_reader *reader, struct dn_message *ret,
                                      size_t *ret_count, struct dn_error *err)
{
    size_t left = reader->to - reader->from;

    if (reader->check || (left == 0 && !reader->skipping)) {
        return DN_FILE_END;
    }
    if (reader->format != DN_FORMAT_JSON) {
        dn_fail(err, DN_CORRUPT, "it ends in the middle of the message at byte %lld: the file is cut off",
                (long long)dn_file_reader_position(reader));
        return DN_FILE_BROKEN;
    }
    *ret_count = give_line(reader, left, 0, ret, 0);
    reader->unterminated = true;
    return *ret_count > 0 ? DN_FILE_SOME : DN_FILE_END;
}

enum dn_file_outcome dn_file_reader_read(struct dn_file_reader *reader, bool final, struct dn_message *ret,
                                         size_t max, size_t *ret_count, struct dn_error *err)
{
    uint64_t begun_us = dn_monotonic_us();
    enum dn_file_outcome outcome;

    *ret_count = 0;
    for (;;) {
        outcome = take(reader, ret, max, ret_count, err);
        if (outcome != DN_FILE_SOME || *ret_count > 0) {
            return outcome;
        }
        outcome = fill(reader, err);
        if (outcome == DN_FILE_END && final) {
            return take_rest(reader, ret, ret_count, err);
        }
        if (outcome != DN_FILE_SOME) {
            return outcome;
        }
        if (dn_monotonic_us() - begun_us > SLICE_US) {
            return DN_FILE_BUSY;
        }
    }
}
