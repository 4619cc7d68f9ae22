/* Internal: what the files of the journal share.
 *
 * Invariants:
 *  1. One write is under way at a time. Its records are the first `inflight` bytes of `pending` and stay
 * there until it succeeded: a failed write is simply made again, elsewhere.
 *  2. groups[] is the state after all durable records, and nothing more: state_apply is called when a write
 * has ended, and in recovery, by the same rules. So the STATE records that open a segment are always right.
 *  3. The newest segment in use is `current`; nothing is ever written to any other. Recovery never appends to
 * what it found: it begins a new segment whose base LSN is where the valid records end, so what lies behind
 * is void.
 *  4. A segment is given up only when `current` is durable (its STATE records restate all) and no group needs
 * an entry in it; oldest first, so that the sequence has no hole.
 *  5. Nothing is reported durable before the write that holds it has ended well. */
#ifndef DN_JOURNAL_INTERNAL_H
#define DN_JOURNAL_INTERNAL_H

#include "base/buffer.h"
#include "base/metrics.h"
#include "journal/format.h"
#include "journal/journal.h"

#include <uv.h>

#define SEGMENT_BYTES_DEFAULT (16u << 20)
#define SEGMENT_BYTES_MIN (64u << 10)
#define BATCH_BYTES_MAX (4u << 20)   /* in one write, unless one record is larger */
#define RECORD_TARGET (256u << 10)   /* entries are packed into records of about this size */
#define KEEP_BUFFER_BYTES (8u << 20) /* larger buffers are given back when empty */
#define RETRY_MS 1000
#define SPARE_NAME "spare.tmp" /* no segment's name: what recovery finds there is void */
#define SEGMENTS_MAX 65536

/* What the journal knows of a group: entries first..next-1 are kept. */
struct group_state {
    bool known;
    uint64_t term, voted_for;
    uint64_t snapshot_index, snapshot_term;
    uint8_t *marker;
    size_t marker_length;
    size_t marker_room; /* of marker: enough for each one that is pending, so that taking it in needs no
                           memory */
    uint64_t first, next;
};

/* Where recovery found an entry. */
struct location {
    uint64_t offset; /* in the segment */
    uint64_t term;
    uint32_t segment; /* number in journal->segments at recovery; UINT32_MAX: not found */
    uint32_t length;
    uint8_t type;
};

struct segment {
    uint64_t sequence, base_lsn, bytes;
    uint64_t end;  /* offset behind the last durable record */
    bool writable; /* made in this life of the process */
    struct dn_disk_file *file;
    uint64_t last_index[DN_JOURNAL_GROUPS_MAX]; /* highest entry of each group in it */
};

struct found { /* by recovery, of one group */
    struct location *locations;
    uint64_t from; /* index of locations[0] */
    size_t count, room;
};

enum next_state { NEXT_NONE, NEXT_MAKING, NEXT_READY };

struct dn_journal {
    struct dn_journal_options o;
    struct dn_disk *disk;
    char *name;
    struct group_state groups[DN_JOURNAL_GROUPS_MAX];
    struct found *found; /* DN_JOURNAL_GROUPS_MAX; until dn_journal_forget */

    struct segment **segments; /* oldest first; the last one is `current` when `open` */
    size_t segment_count, segment_room;
    bool open;            /* the last segment is being written to */
    bool broken;          /* a write to it failed: the next write needs a new one */
    uint64_t durable_lsn; /* end of the last durable record */
    uint8_t *tail;        /* DN_DISK_ALIGN bytes: the partly filled last block of current */

    uint64_t spoiled; /* highest sequence whose opening write failed: never used again */
    enum next_state next_state;
    bool next_wanted;      /* what is pending waits for it */
    struct segment *blank; /* for the first one: opening says when there is no memory for it */
    struct segment *next;
    struct dn_disk_op next_op;
    char next_from[DN_DISK_NAME_MAX], next_name[DN_DISK_NAME_MAX];
    struct segment *recycled; /* a given-up segment whose file, now of that name, the next one takes */
    char recycled_name[DN_DISK_NAME_MAX];
    struct dn_disk_op remove_op;
    struct segment *removing; /* or being renamed to SPARE_NAME */
    bool keeping;

    struct dn_buffer pending; /* records, not sealed */
    size_t inflight;          /* bytes of pending in the write under way */
    uint8_t *out;             /* aligned copy that is written */
    size_t out_room;
    struct dn_disk_op write_op;
    bool writing, switching;        /* switching: the write opens `next` */
    bool trimmed;                   /* some group needs less than before */
    uint64_t write_from, write_end; /* offset of the write, and behind its last record */
    uint64_t write_started_us;

    uint64_t appended, durable; /* positions */
    struct dn_journal_wait *waits, **waits_last;

    bool fault;
    struct dn_error fault_error;
    bool space_warned;
    uint64_t make_after_us; /* no new segment is made ahead before */
    uint64_t retry_at_us;
    uv_prepare_t prepare;
    uv_timer_t retry;
    bool handles_open;
    unsigned handles_left;
    bool closing, closed;
    void (*closed_cb)(void *data);
    void *closed_data;

    struct dn_counter *m_writes, *m_bytes, *m_faults;
    struct dn_histogram *m_seconds;
    struct dn_gauge *m_segments;
};

/* state.c. DN_CORRUPT: the record does not fit what came before. journal->found, when there, learns where
 * entries lie (segment number, offset of the payload in it). */
enum dn_code state_apply(struct dn_journal *journal, const struct record *record, const uint8_t *payload,
                         uint32_t segment, uint64_t payload_offset, struct dn_error *err);
/* Bytes of the STATE records of all known groups, and they themselves (payloads, unsealed heads filled in).
 */
size_t state_size(const struct dn_journal *journal);
size_t state_encode(const struct group_state *state, uint8_t *payload); /* returns its length */
void state_note(struct segment *segment, const struct record *record, const uint8_t *payload);
/* Room for a marker that is about to be appended; false: out of memory. */
bool state_reserve_marker(struct dn_journal *journal, uint32_t group, size_t length);
void state_free(struct dn_journal *journal);

/* recover.c */
enum dn_code recover(struct dn_journal *journal, struct dn_error *err);
typedef void (*walk_cb)(void *data, const struct dn_journal_record *record);
enum dn_code recover_walk(struct dn_journal *journal, walk_cb each, void *data, struct dn_error *err);

/* space.c: segments are made ahead and given up */
void segment_name(uint64_t sequence, char out[DN_DISK_NAME_MAX]);
void segment_make_next(struct dn_journal *journal, uint64_t bytes_needed);
void segments_release(struct dn_journal *journal);
void segment_free(struct dn_journal *journal, struct segment *segment);

/* journal.c */
void journal_fault(struct dn_journal *journal, const char *what, const char *file, int error);
void journal_well(struct dn_journal *journal);
void journal_close_step(struct dn_journal *journal);

#endif
