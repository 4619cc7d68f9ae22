/* The driver of files. A stream is a file, with one partition; the table (source_file_table.h) says which
 * there are and where, a reader (source_file_reader.h) reads one.
 *
 * A partition's states: IDLE -start-> CONNECTING -open_part-> READING <-> AT_END. Whatever does not fit ends
 * in GAP (the bytes asked for are not there) or FAILED, out of which only start leads. A followed file that
 * changed under its reader goes back to CONNECTING once (`moved`): the table is asked where its bytes are
 * now. */
#include "base/clock.h"
#include "base/log.h"
#include "ingest/source_file_fetch.h"
#include "ingest/source_file_reader.h"
#include "ingest/source_file_stdin.h"
#include "ingest/source_file_table.h"
#include "ingest/source_file_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RETRY_US 50000         /* between attempts to open */
#define PARKED_US 200000       /* between looks at a file that was read to its end */
#define UNFINISHED_QUIETS 120u /* times dn_file_quiet_ms: so long the rest of a line is waited for */
#define OPEN_FILES_MAX 64      /* of those not followed, where the host does not say how many */
#define BYGONES_MAX 1024
#define WHAT_TO_DO "; decide with 'dunlin source skip' or 'dunlin source reset'"
#define MEND_OR_LEAVE                                                                                        \
    "; put the whole file there: it is tried again. Or give up its rest: 'dunlin source skip' (of gzip: "    \
    "take the file away)"

struct part {
    enum dn_partition_state state;
    bool waits;                    /* CONNECTING: as in dn_partition_status */
    struct dn_file_reader *reader; /* NULL: not open */
    int64_t offset;                /* where the reader begins, or shall begin */
    bool whole;                    /* what stands at the end is whole, */
    bool quiet;                    /* because nothing was added to it for long */
    bool rests;                    /* not followed: it is whole once nothing was added for long */
    bool finished;                 /* at the end for good: nothing need be open */
    bool end_told;                 /* the `end` was given, and nothing after it */

    /* A file that is not followed is closed at its end, and known again by its beginning. */
    bool parked;
    struct stat status;   /* before the last read */
    size_t prefix_length; /* bytes; 0: not known */
    struct dn_hash128 prefix;

    uint64_t retry_us, parked_us, grown_us;
    uint64_t scans;   /* the table must have been scanned more often than that */
    uint64_t lost_us; /* since when it is not found; 0: it is */
    bool moved;       /* it changed under the reader, and is looked for */
    bool unread;      /* and there were bytes left to read */
    int64_t seen_end;
    int64_t heard_ms;
    char error[DN_SOURCE_TEXT_MAX];
};

/* A file that is not followed and was forgotten: one that comes back under its name must begin like it. */
struct bygone {
    uint64_t name; /* hash of the stream's */
    size_t prefix_length;
    struct dn_hash128 prefix;
};

struct source {
    const struct dn_source_config *config;
    const struct dn_source_host *host;
    struct dn_file_table *table;
    struct dn_file_watch *watch;
    struct dn_file_stdin *in;                     /* NULL: it is not standard input */
    struct part *parts[DN_SOURCE_PARTITIONS_MAX]; /* by stream; NULL: never started */
    size_t open_count;
    struct bygone bygones[BYGONES_MAX]; /* a ring */
    size_t bygone_count;                /* ever */
};

static uint64_t quiet_us(void)
{
    return (uint64_t)dn_file_quiet_ms * 1000;
}

/* ---- states ---- */

static void set_state(struct part *part, enum dn_partition_state state, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void set_state(struct part *part, enum dn_partition_state state, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(part->error, sizeof(part->error), format, args);
    va_end(args);
    part->state = state;
    part->waits = false;
}

static void set_well(struct part *part, enum dn_partition_state state)
{
    part->state = state;
    part->error[0] = '\0';
    part->heard_ms = dn_wall_ms();
}

static void close_part(struct source *source, struct part *part)
{
    if (part->reader != NULL) {
        dn_file_reader_destroy(part->reader);
        part->reader = NULL;
        source->open_count--;
    }
}

/* ---- opening ---- */

/* A followed file that is nowhere. */
static void not_found(struct source *source, size_t stream, struct part *part,
                      const struct dn_file_where *where)
{
    uint64_t now_us = dn_monotonic_us();

    if (part->lost_us == 0) {
        part->lost_us = now_us;
        part->scans = where->scans + 1; /* one that has begun after this */
        dn_file_watch_now(source->watch);
    }
    set_state(part, DN_PARTITION_CONNECTING, "looking for the file that held this, after a rotation");
    if (now_us - part->lost_us < quiet_us() || where->scans <= part->scans) {
        return;
    }
    if (part->moved && !part->unread) {
        dn_warn(
            "ingest",
            "source '%s': a followed file was truncated after byte %lld, and no copy of it is there: lines "
            "written in "
            "the moment before it, if any, are lost",
            source->config->name, (long long)part->offset);
        dn_file_table_finished(source->table, stream, part->offset);
        part->finished = true;
        set_well(part, DN_PARTITION_AT_END);
        return;
    }
    set_state(
        part, DN_PARTITION_GAP,
        "the file is gone before it was read to its end (from byte %lld on), and no rotated or compressed "
        "copy begins with the same line" WHAT_TO_DO,
        (long long)part->offset);
}

/* Of standard input only so much is kept. */
static bool check_kept(struct source *source, struct part *part)
{
    int64_t begin = source->in != NULL ? dn_file_stdin_begin(source->in) : 0;

    if (part->offset >= begin) {
        return true;
    }
    set_state(
        part, DN_PARTITION_GAP,
        "of standard input only what comes from byte %lld on is kept, and byte %lld was asked for" WHAT_TO_DO,
        (long long)begin, (long long)part->offset);
    return false;
}

/* Takes fd over. */
static bool begin_reading(struct source *source, struct part *part, const struct dn_file_where *where, int fd)
{
    part->reader = dn_file_reader_create(fd, source->config->format, source->config->message_bytes);
    if (part->reader == NULL) {
        set_state(part, DN_PARTITION_CONNECTING, "%.400s: no memory", where->path);
        return false;
    }
    source->open_count++;
    dn_file_reader_seek(part->reader, part->offset);
    part->rests = where->whole && source->in == NULL;
    part->whole = where->gzip || (part->rests && source->host->still);
    part->lost_us = 0;
    part->grown_us = dn_monotonic_us();
    return true;
}

/* The hash of the first part->prefix_length bytes (0: of as many as there are, up to DN_FILE_FIRST_MAX).
 * False: there are fewer, or no memory. */
static bool hash_prefix(int fd, size_t *length, struct dn_hash128 *ret)
{
    static const uint8_t key[DN_HASH_KEY_BYTES] = {0};
    uint8_t *bytes = malloc(DN_FILE_FIRST_MAX);
    bool good = bytes != NULL;

    if (good) {
        size_t wanted = *length, got = dn_file_beginning(fd, bytes, wanted > 0 ? wanted : DN_FILE_FIRST_MAX);

        good = wanted == 0 || got == wanted;
        *length = got;
        *ret = dn_keyed_hash128(key, bytes, got);
    }
    free(bytes);
    return good;
}

/* A file that was read before and is opened again must begin as it did: it may have been copied anew, with
 * more in it, but must not be another one. */
static bool begins_as_before(struct part *part, const struct dn_file_where *where, int fd)
{
    size_t length = part->prefix_length;
    struct dn_hash128 prefix;

    if (length == 0 || (hash_prefix(fd, &length, &prefix) && dn_hash128_equal(prefix, part->prefix))) {
        return true;
    }
    set_state(
        part, DN_PARTITION_GAP,
        "%.160s: other bytes stand in it than were read: it was truncated or replaced by another file; give "
        "each file a name of its own, or set follow" WHAT_TO_DO,
        where->path);
    return false;
}

static bool right_file(struct source *source, const struct dn_file_where *where, int fd)
{
    struct dn_file_identity identity;

    return !where->identified || (dn_file_identify(fd, source->config->format, &identity) &&
                                  dn_hash128_equal(identity.first, where->identity.first));
}

static size_t open_files_max(const struct source *source)
{
    return source->host->open_files_max > 0 ? source->host->open_files_max : OPEN_FILES_MAX;
}

static bool open_part(struct source *source, size_t stream, struct part *part)
{
    uint64_t now_us = dn_monotonic_us();
    struct dn_file_where where;
    struct stat status;
    int fd;

    if (now_us < part->retry_us) {
        return false;
    }
    part->retry_us = now_us + RETRY_US;
    dn_file_table_where(source->table, stream, &where);
    if (where.settled || (where.finished_at >= 0 && part->offset >= where.finished_at &&
                          (where.path[0] == '\0' || where.gzip))) {
        part->finished = true;
        return false;
    }
    if (where.path[0] == '\0') {
        not_found(source, stream, part, &where);
        return false;
    }
    if (!where.identified && source->open_count >= open_files_max(source)) {
        set_state(part, DN_PARTITION_CONNECTING, "waits until others of this source's files are read");
        part->waits = true;
        return false;
    }
    if ((part->moved && where.scans <= part->scans) || !check_kept(source, part)) {
        return false;
    }
    fd = open(where.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        /* Most who delete a file know that it was read. One that is listed is missed as a whole. */
        bool gone = errno == ENOENT;
        set_state(part, DN_PARTITION_CONNECTING, "%.400s: %s", where.path,
                  fd < 0 ? strerror(errno) : "no regular file");
        part->waits = fd < 0 && gone;
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    if (!right_file(source, &where, fd)) {
        close(fd);
        not_found(source, stream, part, &where);
        return false;
    }
    if (!begins_as_before(part, &where, fd)) {
        close(fd);
        return false;
    }
    return begin_reading(source, part, &where, fd);
}

/* ---- reading ---- */

static size_t tell_end(struct part *part, struct dn_message *ret)
{
    if (part->end_told) {
        return 0;
    }
    part->end_told = true;
    memset(ret, 0, sizeof(*ret));
    ret->end = true;
    ret->offset = ret->next_offset =
        part->reader != NULL ? dn_file_reader_position(part->reader) : part->offset;
    ret->time_ms = -1;
    return 1;
}

/* A followed file that was rotated away ends when it was quiet for a while. */
static void check_finished(struct source *source, size_t stream, struct part *part,
                           const struct dn_file_where *where)
{
    uint64_t now_us = dn_monotonic_us();
    uint64_t since_us = where->rotated_us > part->grown_us ? where->rotated_us : part->grown_us;
    struct stat status;

    if (!where->rotated || (now_us - since_us < quiet_us() && !dn_file_reader_unterminated(part->reader))) {
        return;
    }
    if (!part->whole) {
        part->whole = part->quiet =
            true; /* the next read gives a last line without newline, if there is one */
        return;
    }
    part->offset = dn_file_reader_position(part->reader);
    dn_file_table_finished(source->table, stream, part->offset);
    if (fstat(dn_file_reader_fd(part->reader), &status) == 0 && status.st_nlink == 0) {
        part->finished = true;
        close_part(source, part);
    }
}

/* At the end of a file that is not followed: it need not be open. */
static void park(struct source *source, struct part *part)
{
    int fd = dn_file_reader_fd(part->reader);

    if (part->prefix_length < DN_FILE_FIRST_MAX) {
        part->prefix_length = 0;
        if (!hash_prefix(fd, &part->prefix_length, &part->prefix)) {
            part->prefix_length = 0;
        }
    }
    part->offset = dn_file_reader_position(part->reader);
    part->parked = true;
    part->parked_us = dn_monotonic_us();
    close_part(source, part);
}

/* True: it changed, and shall be opened again. */
static bool unpark(struct source *source, size_t stream, struct part *part)
{
    const struct stat *before = &part->status;
    uint64_t now_us = dn_monotonic_us();
    struct dn_file_where where;
    struct stat status;

    if (now_us - part->parked_us < PARKED_US) {
        return false;
    }
    part->parked_us = now_us;
    dn_file_table_where(source->table, stream, &where);
    if (stat(where.path, &status) != 0) {
        if (errno == ENOENT) { /* the table has said so, if it was configured by name */
            set_well(part, DN_PARTITION_AT_END);
        }
        return false;
    }
    set_well(part, DN_PARTITION_AT_END);
    part->parked = status.st_ino == before->st_ino && status.st_dev == before->st_dev &&
                   status.st_size == before->st_size && status.st_mtim.tv_sec == before->st_mtim.tv_sec &&
                   status.st_mtim.tv_nsec == before->st_mtim.tv_nsec;
    return !part->parked;
}

/* Others may see a write(2) while it is under way, a page of it, and a file while it is copied: what stands
 * at the end of a file that is not followed may be the beginning of a line. It is a line once nothing was
 * added for a while; for long, where it can be seen that it is not all of one. */
static void note_rest(struct part *part)
{
    int64_t end = dn_file_reader_end(part->reader);
    uint64_t now_us = dn_monotonic_us(), rested_us;

    if (end > part->seen_end) {
        part->seen_end = end;
        part->grown_us = now_us;
    }
    rested_us = now_us - part->grown_us;
    if (part->rests && !part->whole && rested_us >= quiet_us() &&
        (rested_us >= UNFINISHED_QUIETS * quiet_us() || dn_file_reader_rest_is_whole(part->reader))) {
        part->whole = part->quiet = true;
    }
}

/* A person may know better than to wait for so long. */
static void tell_rest(struct part *part)
{
    int64_t at = dn_file_reader_position(part->reader);

    if (part->rests && !part->whole && at < part->seen_end && !dn_file_reader_rest_is_whole(part->reader)) {
        snprintf(part->error, sizeof(part->error),
                 "the last line, from byte %lld on, is unfinished: the rest of it is waited for, for %llu s",
                 (long long)at, (unsigned long long)(UNFINISHED_QUIETS * quiet_us() / 1000000));
    }
}

static size_t met_end(struct source *source, size_t stream, struct part *part, struct dn_message *ret)
{
    struct dn_file_where where;
    size_t count;

    set_well(part, DN_PARTITION_AT_END);
    tell_rest(part);
    part->moved = false;
    count = tell_end(part, ret);
    dn_file_table_where(source->table, stream, &where);
    if (where.identified) {
        check_finished(source, stream, part, &where);
    } else if (source->in == NULL &&
               (part->whole || dn_file_reader_position(part->reader) >= part->seen_end)) {
        park(source, part);
    }
    return count;
}

/* The file is not what it was. */
static void changed(struct source *source, size_t stream, struct part *part, const struct dn_error *err)
{
    struct dn_file_where where;

    dn_file_table_where(source->table, stream, &where);
    if (!where.identified || part->moved) {
        set_state(part, DN_PARTITION_GAP, "%.160s: %.250s" WHAT_TO_DO, where.path, err->message);
        close_part(source, part);
        return;
    }
    part->moved = true;
    part->offset = dn_file_reader_position(part->reader);
    part->unread = part->offset < part->seen_end;
    part->scans = where.scans + 1;
    part->lost_us = 0;
    close_part(source, part);
    set_state(part, DN_PARTITION_CONNECTING, "%.160s: %.250s: looking for a copy", where.path, err->message);
    dn_file_watch_now(source->watch);
}

static struct part *started(struct source *source, size_t stream, uint32_t partition)
{
    struct part *part = stream < DN_SOURCE_PARTITIONS_MAX && partition == 0 ? source->parts[stream] : NULL;

    return part != NULL && part->state != DN_PARTITION_IDLE ? part : NULL;
}

static void note_messages(struct part *part)
{
    set_well(part, DN_PARTITION_READING);
    part->end_told = part->moved = false;
    part->grown_us = dn_monotonic_us();
    if (part->quiet && !dn_file_reader_unterminated(part->reader)) {
        part->whole = part->quiet = false; /* its writer is still there */
    }
}

static void fail_part(struct source *source, size_t stream, struct part *part, const struct dn_error *err)
{
    struct dn_file_where where;

    dn_file_table_where(source->table, stream, &where);
    /* What is in the file does not get better by itself; a disk or memory may. */
    set_state(part, DN_PARTITION_FAILED, "%.140s: %.230s%s", where.path, err->message,
              err->code == DN_CORRUPT        ? MEND_OR_LEAVE
              : err->code == DN_PRECONDITION ? WHAT_TO_DO
                                             : "");
    close_part(source, part);
}

static size_t file_read(void *self, size_t stream, uint32_t partition, struct dn_message *ret, size_t max)
{
    struct source *source = self;
    struct part *part = started(source, stream, partition);
    struct dn_error err = {0};
    size_t count = 0;

    if (part == NULL || max == 0 || part->state == DN_PARTITION_GAP || part->state == DN_PARTITION_FAILED) {
        return 0;
    }
    if (part->parked && !unpark(source, stream, part)) {
        return tell_end(part, ret);
    }
    if (part->reader == NULL && (part->finished || !open_part(source, stream, part))) {
        if (part->finished) {
            set_well(part, DN_PARTITION_AT_END);
        }
        return part->finished ? tell_end(part, ret) : 0;
    }
    if (source->in != NULL) {
        part->whole = dn_file_stdin_ended(source->in); /* before the end is looked for */
        dn_file_stdin_read_to(source->in, dn_file_reader_position(part->reader));
    }
    if (fstat(dn_file_reader_fd(part->reader), &part->status) != 0) {
        memset(&part->status, 0, sizeof(part->status)); /* like no other: it will be looked at again */
    }
    note_rest(part);
    switch (dn_file_reader_read(part->reader, part->whole, ret, max, &count, &err)) {
    case DN_FILE_SOME:
        note_messages(part);
        break;
    case DN_FILE_BUSY:
        set_well(part, DN_PARTITION_READING);
        source->host->wake(source->host->data);
        break;
    case DN_FILE_END:
        return met_end(source, stream, part, ret);
    case DN_FILE_CHANGED:
        changed(source, stream, part, &err);
        break;
    case DN_FILE_BROKEN:
        fail_part(source, stream, part, &err);
        break;
    }
    return count;
}

static void file_release(void *self, size_t stream, uint32_t partition)
{
    (void)self; /* the next read takes the buffer again */
    (void)stream;
    (void)partition;
}

/* ---- forgetting ---- */

static uint64_t name_of(struct source *source, size_t stream)
{
    char name[DN_SOURCE_MAX + 1] = "";

    dn_file_table_name(source->table, stream, name);
    return dn_hash64(name, strlen(name), 0);
}

static void keep_bygone(struct source *source, size_t stream, const struct part *part)
{
    if (part->prefix_length > 0) {
        source->bygones[source->bygone_count++ % BYGONES_MAX] = (struct bygone){
            .name = name_of(source, stream),
            .prefix_length = part->prefix_length,
            .prefix = part->prefix,
        };
    }
}

/* The newest first: it may have gone more than once. */
static void take_bygone(struct source *source, size_t stream, struct part *part)
{
    size_t have = source->bygone_count < BYGONES_MAX ? source->bygone_count : BYGONES_MAX;
    uint64_t name = have > 0 && part->offset > 0 ? name_of(source, stream) : 0;

    for (size_t i = 1; name != 0 && i <= have; i++) {
        const struct bygone *bygone = &source->bygones[(source->bygone_count - i) % BYGONES_MAX];

        if (bygone->name == name) {
            part->prefix_length = bygone->prefix_length;
            part->prefix = bygone->prefix;
            return;
        }
    }
}

static void file_forget(void *self, size_t stream)
{
    struct source *source = self;
    struct part *part = source->parts[stream];

    if (part != NULL) {
        keep_bygone(source, stream, part);
        close_part(source, part);
        free(part);
        source->parts[stream] = NULL;
    }
    dn_file_table_forget(source->table, stream);
}

/* ---- the rest of the driver ---- */

static enum dn_code file_start(void *self, size_t stream, uint32_t partition, int64_t offset,
                               struct dn_error *err)
{
    struct source *source = self;
    struct part *part, before;

    if (!dn_file_table_has(source->table, stream) || partition != 0 ||
        (offset < 0 && offset != DN_STREAM_OFFSET_UNSET)) {
        return dn_fail(err, DN_INVALID, "source '%s': no stream %zu with partition %u and offset %lld",
                       source->config->name, stream, partition, (long long)offset);
    }
    if (source->parts[stream] == NULL && (source->parts[stream] = calloc(1, sizeof(*part))) == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "source '%s': no memory to read a file", source->config->name);
    }
    part = source->parts[stream];
    close_part(source, part);
    before = *part;
    memset(part, 0, sizeof(*part));
    part->state = DN_PARTITION_CONNECTING;
    part->offset = offset == DN_STREAM_OFFSET_UNSET ? 0 : offset;
    take_bygone(source, stream, part);
    /* It must still begin as it did, where this is a place in what was read; elsewhere it is a person's word.
     */
    if (part->offset > 0 && part->offset <= before.offset) {
        part->prefix_length = before.prefix_length;
        part->prefix = before.prefix;
    }
    dn_file_table_replicated(source->table, stream, part->offset);
    return DN_OK;
}

static void file_stop(void *self, size_t stream, uint32_t partition)
{
    struct source *source = self;
    struct part *part = started(source, stream, partition);

    if (part != NULL) {
        close_part(source, part);
        part->state = DN_PARTITION_IDLE;
        part->error[0] = '\0';
    }
}

static int64_t file_contents(void *self, size_t stream)
{
    struct source *source = self;
    struct dn_file_identity identity;
    struct dn_file_where where;
    int64_t contents = -1;
    int fd;

    if (source->config->follow || source->in != NULL) {
        return 0; /* their names tell */
    }
    dn_file_table_where(source->table, stream, &where);
    fd = open(where.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return -1;
    }
    if (dn_file_identify(fd, source->config->format, &identity)) {
        contents = (int64_t)(identity.first.low >> 1 | 1);
    }
    close(fd);
    return contents;
}

static void file_status(void *self, size_t stream, uint32_t partition, struct dn_partition_status *ret)
{
    struct source *source = self;
    struct part *part = started(source, stream, partition);

    memset(ret, 0, sizeof(*ret));
    ret->end_offset = -1;
    if (part == NULL) {
        ret->state = DN_PARTITION_IDLE;
        return;
    }
    if (source->in != NULL) {
        ret->begin_offset = dn_file_stdin_begin(source->in);
    }
    ret->state = part->state;
    ret->waits = part->waits && part->state == DN_PARTITION_CONNECTING;
    ret->heard_ms = part->heard_ms;
    if (part->reader != NULL) {
        ret->end_offset = dn_file_reader_end(part->reader);
    } else if (part->finished || part->parked) {
        ret->end_offset = part->offset;
    }
    memcpy(ret->error, part->error, sizeof(ret->error));
}

static size_t file_streams(void *self, struct dn_stream_info *ret, size_t max)
{
    struct source *source = self;
    size_t count = dn_file_table_streams(source->table, ret, max);

    for (size_t i = 0; i < count && i < max; i++) { /* a file that is open may grow still */
        ret[i].gone = ret[i].gone && (source->parts[i] == NULL || source->parts[i]->reader == NULL);
    }
    return count;
}

static int64_t file_trouble(void *self, char ret_text[DN_SOURCE_TEXT_MAX])
{
    struct source *source = self;
    char text[DN_SOURCE_TEXT_MAX] = "";

    if (source->in != NULL) {
        dn_file_stdin_error(source->in, text);
        dn_file_table_set_trouble(source->table, 0, text[0] != '\0' ? text : NULL);
    }
    return dn_file_table_trouble(source->table, ret_text);
}

static void file_mirror(void *self, size_t stream, uint32_t partition, int64_t next_offset)
{
    if (partition == 0) {
        dn_file_table_replicated(((struct source *)self)->table, stream, next_offset);
    }
}

static void file_close(void *self)
{
    struct source *source = self;

    dn_file_watch_stop(source->watch);
    dn_file_stdin_stop(source->in);
    for (size_t i = 0; i < DN_SOURCE_PARTITIONS_MAX; i++) {
        if (source->parts[i] != NULL) {
            close_part(source, source->parts[i]);
            free(source->parts[i]);
        }
    }
    dn_file_table_destroy(source->table);
    free(source);
}

static enum dn_code open_stdin(struct source *source, struct dn_error *err)
{
    enum dn_code code = dn_file_stdin_start(source->config, source->host, &source->in, err);

    if (code != DN_OK) {
        return dn_wrap(err, code, "source '%s'", source->config->name);
    }
    if (!dn_file_table_add_path(source->table, dn_file_stdin_stream(source->in),
                                dn_file_stdin_path(source->in))) {
        return dn_fail(err, DN_NO_MEMORY, "source '%s': no memory", source->config->name);
    }
    return DN_OK;
}

static enum dn_code file_open(const struct dn_source_config *config, const struct dn_source_host *host,
                              void **ret_self, struct dn_error *err)
{
    struct source *source = calloc(1, sizeof(*source));
    enum dn_code code;

    if (source == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "source '%s': no memory", config->name);
    }
    source->config = config;
    source->host = host;
    code = dn_file_table_create(config, host, true, &source->table, err);
    if (code == DN_OK && strcmp(config->list[0], "-") == 0) {
        code = open_stdin(source, err);
    } else if (code == DN_OK) {
        dn_file_table_scan(source->table);
        code = dn_file_watch_start(source->table, host, &source->watch, err);
    }
    if (code != DN_OK) {
        file_close(source);
        return code;
    }
    *ret_self = source;
    return DN_OK;
}

const struct dn_source_driver dn_source_file = {
    .kind = "file",
    .check = dn_file_table_check,
    .open = file_open,
    .close = file_close,
    .streams = file_streams,
    .forget = file_forget,
    .trouble = file_trouble,
    .start = file_start,
    .stop = file_stop,
    .read = file_read,
    .release = file_release,
    .contents = file_contents,
    .status = file_status,
    .mirror = file_mirror,
    .fetcher_open = dn_file_fetcher_open,
    .fetcher_close = dn_file_fetcher_close,
    .fetch = dn_file_fetch,
};
