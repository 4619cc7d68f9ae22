/* Nemeses of the journal's files, on a node that is down.
 *
 * What was flushed was promised, so nothing of it may be taken away for good. A torn write is what may lie
 * behind it: the node must cut that and go on. A bit that turned inside is damage: the node must refuse to
 * start, naming the file, and does not get in again before the bit is back, or its disk was replaced. Where
 * records are is told by `dunlin journal dump`, which reads as recovery does. */
#include "chaos/nemesis_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DUMP_MAX (64u << 20)
#define RECORD_HEAD_BYTES 40
#define TORN_MAX 4096
#define RECORDS_MIN 24  /* fewer are no journal to damage in its middle */
#define REFUSE_MS 60000 /* a node that meets damage leaves within this */
#define LSN_AT 24       /* in a record's head (journal/format.h) */
#define DURABLE_LSN_AT 32

struct record_place {
    char file[40];
    int64_t offset, lsn, bytes; /* bytes: of its payload */
};

struct visit {
    struct fault *f;
    enum dn_code code;
    struct dn_error *err;
};

/* The record'th from the end of the dump (0: the last); false: there is none. */
static bool find_record(const char *dump, unsigned from_end, struct record_place *ret)
{
    unsigned seen = 0;

    for (const char *end = dump + strlen(dump); end > dump;) {
        const char *begin = end - 1;
        while (begin > dump && begin[-1] != '\n')
            begin--;
        const char *size = memrchr(begin, '(', (size_t)(end - begin));
        struct record_place place;
        if (size != NULL &&
            sscanf(begin, "%39s %" SCNd64 " lsn %" SCNd64, place.file, &place.offset, &place.lsn) == 3 &&
            sscanf(size, "(%" SCNd64 " bytes)", &place.bytes) == 1 && seen++ == from_end) {
            *ret = place;
            return true;
        }
        end = begin;
    }
    return false;
}

static unsigned count_records(const char *dump)
{
    unsigned count = 0;

    for (const char *at = dump; (at = strstr(at, ".seg ")) != NULL; at++)
        count++;
    return count;
}

/* The dump's text, to be freed; NULL: *err. */
static char *dump_of(const struct visit *v, const char *folder)
{
    const char *const arguments[] = {v->f->c->dunlin, "journal", "dump", folder, NULL};
    char *dump = malloc(DUMP_MAX);
    int status;

    if (dump == NULL) {
        dn_fail(v->err, DN_NO_MEMORY, "the dump of a journal");
        return NULL;
    }
    if (cluster_command(arguments, dump, DUMP_MAX, &status, v->err) == DN_OK) {
        bool cut = strlen(dump) + 1 >= DUMP_MAX; /* its last record is not the journal's last one then */
        if (status == 0 && !cut)
            return dump;
        if (cut)
            dn_fail(v->err, DN_PRECONDITION, "the journal of node %u is too long to look for its end",
                    v->f->node);
        else
            dn_fail(v->err, DN_INTERNAL, "'dunlin journal dump' of node %u: code %d: %.200s", v->f->node,
                    status, dump);
    }
    free(dump);
    return NULL;
}

static enum dn_code patch(const char *folder, const char *file, int64_t offset, const uint8_t *bytes,
                          size_t length, uint8_t *ret_before, struct dn_error *err)
{
    char path[2 * CLUSTER_PATH_MAX];
    enum dn_code code = DN_OK;

    snprintf(path, sizeof path, "%s/journal/%s", folder, file);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || (ret_before != NULL && pread(fd, ret_before, length, offset) != (ssize_t)length) ||
        (bytes != NULL && (pwrite(fd, bytes, length, offset) != (ssize_t)length || fsync(fd) != 0)))
        code = dn_fail(err, DN_IO, "damage '%s' at %" PRId64 ": %s", path, offset, strerror(errno));
    if (fd >= 0)
        close(fd);
    return code;
}

static int64_t size_of(const char *folder, const char *file)
{
    char path[2 * CLUSTER_PATH_MAX];
    struct stat about;

    snprintf(path, sizeof path, "%s/journal/%s", folder, file);
    return stat(path, &about) == 0 ? (int64_t)about.st_size : 0;
}

/* ---- a torn end
 * --------------------------------------------------------------------------------------------- */

static void put_u64(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* Behind the last record: noise, or the head of a record like the last that was not written to its end. */
static void tear(const char *folder, void *data)
{
    struct visit *v = data;
    struct record_place last;
    uint8_t bytes[TORN_MAX];
    size_t length = 8 + fault_draw(v->f, TORN_MAX - 8);
    bool noise = fault_draw(v->f, 2) == 0;
    char *dump = dump_of(v, folder);

    if (dump == NULL)
        return;
    if (!find_record(dump, 0, &last)) {
        v->code = dn_fail(v->err, DN_PRECONDITION, "node %u's journal has no record yet", v->f->node);
        free(dump);
        return;
    }
    free(dump);
    int64_t size = RECORD_HEAD_BYTES + (last.bytes + 7) / 8 * 8;
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)fault_draw(v->f, 256);
    /* Segments are made at their full length: a torn write never makes one longer. */
    if (size_of(folder, last.file) < last.offset + size + RECORD_HEAD_BYTES) {
        v->code = dn_fail(v->err, DN_PRECONDITION, "node %u's journal ends with its segment", v->f->node);
        return;
    }
    int64_t room = size_of(folder, last.file) - last.offset - size;
    length = (int64_t)length > room ? (size_t)room : length;
    v->code = DN_OK;
    if (!noise) {
        v->code = patch(folder, last.file, last.offset, NULL, RECORD_HEAD_BYTES, bytes, v->err);
        put_u64(bytes + LSN_AT, (uint64_t)(last.lsn + size));
        put_u64(bytes + DURABLE_LSN_AT, (uint64_t)(last.lsn + size));
        length = length < RECORD_HEAD_BYTES ? RECORD_HEAD_BYTES : length;
    }
    if (v->code == DN_OK)
        v->code = patch(folder, last.file, last.offset + size, bytes, length, NULL, v->err);
    fault_say(v->f, "node %u killed; %zu bytes of %s behind its journal's end, in %s at %" PRId64, v->f->node,
              length, noise ? "noise" : "a torn record", last.file, last.offset + size);
}

static enum dn_code kill_and_visit(struct fault *f, cluster_disk_visitor visitor, struct dn_error *err)
{
    struct visit v = {.f = f, .code = DN_INTERNAL, .err = err};

    f->node = fault_any(f);
    if (f->node == 0)
        return dn_fail(err, DN_PRECONDITION, "no node runs");
    cluster_node_kill(f->c, f->node);
    enum dn_code code = cluster_disk_visit(f->c, f->node, visitor, &v, err);
    return code != DN_OK ? code : v.code;
}

static enum dn_code tear_end(struct fault *f, struct dn_error *err)
{
    return kill_and_visit(f, tear, err);
}

static enum dn_code start_again(struct fault *f, struct dn_error *err)
{
    fault_say(f, "started node %u", f->node);
    return f->node == 0 ? DN_OK : cluster_node_start(f->c, f->node, err);
}

/* ---- a bit turned in the middle
 * ------------------------------------------------------------------------------- */

static void flip(const char *folder, void *data)
{
    struct visit *v = data;
    struct fault *f = v->f;
    struct record_place place;
    uint8_t turned;
    char *dump = dump_of(v, folder);
    unsigned count = dump == NULL ? 0 : count_records(dump);

    if (dump == NULL)
        return;
    /* Not among the last ones, which may be those of one write: that cannot be told from a torn one. */
    unsigned from_end = count < RECORDS_MIN ? 0 : count / 2 + fault_draw(f, count / 2 - 1);
    bool found = count >= RECORDS_MIN && find_record(dump, from_end, &place);
    free(dump);
    if (!found) {
        v->code = dn_fail(v->err, DN_PRECONDITION, "node %u's journal has too few records yet", f->node);
        return;
    }
    f->offset = place.offset + fault_draw(f, (unsigned)(RECORD_HEAD_BYTES + place.bytes));
    v->code = patch(folder, place.file, f->offset, NULL, 1, &f->byte, v->err);
    if (v->code != DN_OK)
        return;
    turned = f->byte ^ (uint8_t)(1u << fault_draw(f, 8));
    v->code = patch(folder, place.file, f->offset, &turned, 1, NULL, v->err);
    if (v->code == DN_OK)
        snprintf(f->file, sizeof f->file, "%s", place.file);
    fault_say(f, "node %u killed; a bit turned in %s at %" PRId64, f->node, place.file, f->offset);
}

/* It must leave by itself, with a code that is none of a crash, and say which file. */
static void must_refuse(struct fault *f)
{
    struct cluster_node *n = &f->c->nodes[f->node];
    char text[400];

    if (!cluster_node_wait_end(f->c, f->node, REFUSE_MS))
        snprintf(text, sizeof text, "node %u started on a damaged journal (%.60s at %" PRId64 ")", f->node,
                 f->file, f->offset);
    else if (!WIFEXITED(n->status) || WEXITSTATUS(n->status) == 0)
        snprintf(text, sizeof text, "node %u met a damaged journal and ended with status %#x", f->node,
                 (unsigned)n->status);
    else if (!cluster_log_has(f->c, f->node, f->file))
        snprintf(text, sizeof text, "node %u refused a damaged journal and did not say that it is %.60s",
                 f->node, f->file);
    else
        return;
    cluster_crash(f->c, f->node, text);
}

static enum dn_code flip_bit(struct fault *f, struct dn_error *err)
{
    enum dn_code code = kill_and_visit(f, flip, err);

    if (code != DN_OK)
        return code;
    cluster_logs_judge(f->c);
    code = cluster_node_start_refused(f->c, f->node, err);
    if (code == DN_OK) {
        must_refuse(f);
        cluster_node_forgive(f->c, f->node); /* it said "fatal", as it should */
    }
    return code;
}

static void restore(const char *folder, void *data)
{
    struct visit *v = data;

    v->code = patch(folder, v->f->file, v->f->offset, &v->f->byte, 1, NULL, v->err);
}

static enum dn_code repair(struct fault *f, struct dn_error *err)
{
    struct visit v = {.f = f, .code = DN_OK, .err = err};
    bool keep = fault_draw(f, 2) == 0;
    enum dn_code code;

    if (f->node == 0 || f->file[0] == 0) /* nothing was turned */
        return start_again(f, err);
    cluster_node_kill(f->c, f->node);
    if (!keep) {
        code = nemesis_wipe(f->c, f->node, err);
        if (code == DN_OK)
            code = nemesis_replace(f->c, f->node, err);
        fault_say(f, "node %u's disk was replaced", f->node);
        return code;
    }
    code = cluster_disk_visit(f->c, f->node, restore, &v, err);
    code = code == DN_OK ? v.code : code;
    if (code == DN_OK)
        code = cluster_node_start(f->c, f->node, err);
    fault_say(f, "the bit is back; started node %u", f->node);
    return code;
}

/* journal-flip may end with a disk replaced, and that must never meet another node's lost disk: so it is one
 * of those that change members. */
const struct nemesis NEMESES_JOURNAL[] = {
    {{"journal-torn", "the end of a killed node's journal looks like a torn write"},
     NEMESIS_DISK,
     NULL,
     tear_end,
     NULL,
     start_again},
    {{"journal-flip", "a bit turns inside a killed node's journal: it must refuse to start"},
     NEMESIS_MEMBERS,
     NULL,
     flip_bit,
     NULL,
     repair},
};
const unsigned NEMESES_JOURNAL_COUNT = sizeof NEMESES_JOURNAL / sizeof *NEMESES_JOURNAL;
