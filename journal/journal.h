/* One append-only journal for all Raft groups of a node.
 *
 * Everything a group must not forget (entries, term and vote, truncations, snapshot markers) is appended to
 * one sequence of records in preallocated segment files. What all groups appended since the last write goes
 * out together and becomes durable with one flush (group commit); one write is under way at a time. Nothing
 * here waits for the disk, except opening.
 *
 * A position counts the bytes appended in this life of the process; it tells what is durable of what was
 * appended. On disk, a log sequence number (LSN) counts the bytes of the whole sequence, over segments and
 * restarts (format.h).
 *
 * Faults: an operation that fails (EIO, ENOSPC) is never reported as done. The journal goes into the state
 * "fault", says so once (on_fault), and tries again every second: what was not known to be durable is written
 * anew into a new segment, whose header says where the old one ends, so a page that the kernel dropped after
 * a failed flush is never trusted. Memory meanwhile is bounded by what the groups append: callers stop
 * proposing while dn_journal_fault() says so.
 *
 * Thread: everything belongs to the loop's thread; dn_journal_open runs before the loop does, or on it. */
#ifndef DN_JOURNAL_JOURNAL_H
#define DN_JOURNAL_JOURNAL_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/metrics.h"
#include "journal/disk.h"

#include <stdbool.h>

#define DN_JOURNAL_GROUPS_MAX 80
#define DN_JOURNAL_ENTRY_MAX (8u << 20)    /* bytes of one entry */
#define DN_JOURNAL_MARKER_MAX (256u << 10) /* bytes of a snapshot marker's data (a manifest) */

struct dn_journal;

struct dn_journal_entry {
    uint64_t term;
    uint8_t type; /* the group's own; kept */
    const void *bytes;
    size_t length;
};

/* Called when everything appended before dn_journal_when_durable is on stable storage, on the loop's thread,
 * in the order of asking; never from inside the call. The struct belongs to the caller, untouched and alive
 * until then. */
struct dn_journal_wait {
    void (*done)(struct dn_journal_wait *wait);
    void *data;
    uint64_t opaque[3];
};

struct dn_journal_options {
    struct dn_disk *disk; /* belongs to the caller; outlives the journal */
    const char *name;     /* of the folder, for messages */
    struct uv_loop_s
        *loop; /* for retries and for starting a write after the turn that appended; NULL only for
                  dn_journal_open with read_only, and in tests that call dn_journal_turn themselves */
    uint64_t segment_bytes; /* 0: 16 MiB; a multiple of DN_DISK_ALIGN, at least 64 KiB. An entry larger than a
                               segment gets a segment of its own size */
    bool read_only;         /* verify and dump: nothing is written, cut or removed */
    struct dn_metrics *metrics;                                           /* may be NULL */
    void (*on_fault)(void *data, bool fault, const struct dn_error *why); /* may be NULL */
    void *data;
};

/* Opens and recovers. A torn tail (a write that was never acknowledged) is cut and logged. A damaged record
 * with good ones after it that were written once it was durable is corruption: DN_CORRUPT, naming file and
 * offset. */
enum dn_code dn_journal_open(const struct dn_journal_options *options, struct dn_journal **ret,
                             struct dn_error *err);

/* Waits for nothing: call dn_journal_close, run the loop until `closed` was called, then dn_journal_destroy.
 * Waits that have not come true by then are dropped, their `done` never runs. What was appended is written
 * first unless there is a fault. */
void dn_journal_close(struct dn_journal *journal, void (*closed)(void *data), void *data);
void dn_journal_destroy(struct dn_journal *journal);

/* ---- what recovery found ---------------------------------------------------------------------------- */

struct dn_journal_group {
    bool known; /* false: the journal has never heard of this group; all else is 0 */
    uint64_t term, voted_for;
    uint64_t snapshot_index, snapshot_term; /* of the last marker; 0: none */
    const uint8_t *marker;                  /* its data, until dn_journal_forget or the group's next marker */
    size_t marker_length;
    uint64_t first_index; /* of the entries kept; last = first_index + entry_count - 1 */
    size_t entry_count;
};
void dn_journal_recovered(const struct dn_journal *journal, uint32_t group, struct dn_journal_group *ret);

/* Reads the recovered entries in order, `each` for one: its bytes are valid during the call. Stops and
 * returns what `each` returned when that is not DN_OK. Only before anything is appended to that group. */
enum dn_code dn_journal_read(struct dn_journal *journal, uint32_t group,
                             enum dn_code (*each)(void *data, uint64_t index,
                                                  const struct dn_journal_entry *entry, struct dn_error *err),
                             void *data, struct dn_error *err);
/* Frees what only recovery needed (markers). After all groups were read. */
void dn_journal_forget(struct dn_journal *journal);

/* ---- appending: copies at once, returns at once; false: out of memory, and nothing was appended ------- */

bool dn_journal_set_term(struct dn_journal *journal, uint32_t group, uint64_t term, uint64_t voted_for);
/* Entries first_index.. ; first_index is the last one's + 1, or 1, or a snapshot's + 1. */
bool dn_journal_append(struct dn_journal *journal, uint32_t group, uint64_t first_index,
                       const struct dn_journal_entry *entries, size_t count);
/* Drops entries from `index` on. */
bool dn_journal_truncate(struct dn_journal *journal, uint32_t group, uint64_t index);
/* The group's snapshot now reaches `index` (its files are durable already). Entries before `keep_from` are
 * needed no more (keep_from <= index + 1). When the entries do not reach `index`, all of them are dropped and
 * the next append starts at index + 1 (a snapshot from a leader; truncate at index + 1 first where the log is
 * another's). */
bool dn_journal_snapshot(struct dn_journal *journal, uint32_t group, uint64_t index, uint64_t term,
                         uint64_t keep_from, const void *marker, size_t marker_length);
/* Forgets a group altogether. */
bool dn_journal_remove_group(struct dn_journal *journal, uint32_t group);

void dn_journal_when_durable(struct dn_journal *journal, struct dn_journal_wait *wait);
/* Position of the end of what was appended, and of what is durable. */
uint64_t dn_journal_appended(const struct dn_journal *journal);
uint64_t dn_journal_durable(const struct dn_journal *journal);
/* Starts writing what is pending, unless a write is under way (then it follows when that ends). The journal
 * calls this itself from a uv_prepare handle, before the loop sleeps. */
void dn_journal_turn(struct dn_journal *journal);

/* ---- space -------------------------------------------------------------------------------------------- */

/* Bytes of journal from the group's oldest needed record to the end: a group that holds back too much is to
 * be snapshotted. */
uint64_t dn_journal_held(const struct dn_journal *journal, uint32_t group);
uint64_t dn_journal_disk_bytes(const struct dn_journal *journal); /* all segments, spares too */
/* What a segment needs that could not be made when it was last tried; 0: none is lacking. */
uint64_t dn_journal_lacks_bytes(const struct dn_journal *journal);
/* NULL, or why nothing is written at the moment. */
const struct dn_error *dn_journal_fault(const struct dn_journal *journal);

/* ---- a stopped node's journal ------------------------------------------------------------------------- */

struct dn_journal_record {
    const char *segment; /* file name */
    uint64_t offset, lsn;
    const char
        *kind; /* "entries", "term", "truncate", "snapshot", "remove", "state" (all of a group, restated) */
    uint32_t group;
    uint64_t index, count; /* entries: first and how many; others: index, 0 */
    uint64_t term, voted_for;
    size_t length;
};
/* Walks all records in order, those that later ones undo too. Same errors as dn_journal_open. each may be
 * NULL. */
enum dn_code dn_journal_walk(struct dn_disk *disk, const char *name,
                             void (*each)(void *data, const struct dn_journal_record *record), void *data,
                             struct dn_error *err);

#endif
