/* The inside of a shard. Private to the room.
 *
 * A *core* is one whole state; a shard points to the live one, and a restore swaps it.
 *
 * Invariants:
 *  1. What readers may reach is immutable once published, or a single atomic: blocks, item strings, tables'
 *     places, slots of chunks. What is unlinked goes through dn_core_retire before its memory is used again.
 *  2. A user's id and an item's id never enter hashes, answers or decisions: two nodes may give different
 * ids.
 *  3. core->sum is the sum (mod 2^64) of the hashes of all users' headers, events and window ids, items,
 *     their rows, cells and visitors, sources, dead letters that wait, the stall and tombstones. Whoever
 *     changes one takes the old hash out and puts the new one in. Which place a source has is in no hash and
 *     no decision: which are finished, in which order, and which letters wait decides whose place is given
 *     away.
 *  4. While a capture is open, a chunk it holds is never written (dn_core_user_chunk and dn_core_item_chunk
 *     copy it first; one of dead letters only behind the last letter it had), nor a row or a ring of visitors
 *     that it can reach (near.c copies it first), and nothing that it can reach is freed
 *     (dn_core_retire_captured and its kin keep it until the capture ends).
 *  5. Of every API event that was counted, either the id is in its user's window, or no event with that time
 *     can be accepted from that user any more, for ever. What keeps it so:
 *       a. an id leaves a window only when its time is below block->floor_ms, which never falls, and an event
 *          below it is late;
 *       b. a user is forgotten (evicted, expired) only after meta.forget_floor_ms was raised above all of
 *          its times and to its floor; a user who is not known has that floor;
 *       c. an erased user has a tombstone that reaches up to the newest time and the floor of what was
 * erased; a block made under a tombstone starts with a floor above it, and a tombstone is dropped only after
 *          forget_floor_ms was raised above it.
 *  6. A record of version 1 is applied as the builds that wrote it did: a source's batch of that version
 * makes no dead letters, and does not move its newest time and its count. And what those builds had not
 * hashes to nothing. So their logs and their snapshots give one and the same state, which is the one they
 * had. */
#ifndef DN_SESSION_CORE_H
#define DN_SESSION_CORE_H

#include "session/idtable.h"
#include "session/near.h"
#include "session/record.h"
#include "session/session.h"
#include "session/slab.h"

#include <stdatomic.h>

#define DN_EVENTS_PER_USER_MAX 1000u
#define DN_IDS_PER_USER_MAX 10000u
#define DN_USERS_LIMIT (DN_ID_LIMIT - 1024u)
#define DN_ITEM_IDS (1u << 23)
#define DN_ITEMS_LIMIT (DN_ITEM_IDS / 2) /* evicted ids wait for readers before they serve again */
#define DN_SOURCES_MAX 4096u             /* (source, partition) pairs of a shard, those finished too */
#define DN_DEAD_CHUNK 128u
#define DN_DEAD_CHUNKS (DN_DEAD_MAX / DN_DEAD_CHUNK + 1) /* the queue may begin anywhere in its first */
#define DN_TIME_NONE ((int64_t)-1)
#define DN_TOMBSTONES_MAX 65536u
#define DN_TOMBSTONES_PER_USER 8u
#define DN_FORGET_STEP 64u  /* users or items looked at for eviction at a time */
#define DN_CLOSE_STEP 16u   /* batches that closed captures kept, retired after an entry */
#define DN_RECLAIM_STEP 64u /* retired batches freed after an entry */
#define DN_TREND_PUBLISH_MS 200
#define DN_TREND_SHIFT 8 /* half-lives that the landmark moves at a time */

/* Small chunks: a capture costs the writer one copy of each chunk it touches, and an entry may touch many. */
#define DN_USER_CHUNK 256u
#define DN_ITEM_CHUNK 64u
#define DN_USER_CHUNKS (((1u << DN_ID_BITS) + DN_USER_CHUNK - 1) / DN_USER_CHUNK)
#define DN_ITEM_CHUNKS (DN_ITEM_IDS / DN_ITEM_CHUNK)

struct dn_shard;

struct dn_event {
    int64_t time_ms;
    uint64_t id; /* 0: a stream event */
    uint32_t item;
    uint16_t weight;
    uint8_t type;
    uint8_t reserved;
};
_Static_assert(sizeof(struct dn_event) == 24, "24 bytes an event");

struct dn_window_id { /* of an event that left the list while its id may still come again */
    uint64_t id;
    int64_t time_ms;
};

struct dn_block { /* immutable */
    struct dn_hash128 user;
    uint64_t version;
    int64_t arrival_ms; /* group time of the last change */
    uint64_t touch;     /* place in the idle list: unique, rising along it, given by each change */
    int64_t start_ms;   /* of the current session: its events are those at or after it */
    int64_t floor_ms;   /* API events before it are late; never falls */
    uint32_t generation;
    uint32_t session_events;
    uint16_t counts[DN_EVENT_TYPE_MAX]; /* of type i + 1 */
    uint16_t event_count;               /* at least 1 */
    uint16_t id_count;
    uint32_t reserved;
    struct dn_event events[]; /* by time, then arrival; behind them id_count window ids */
};
_Static_assert(sizeof(struct dn_block) == 88, "88 bytes a user beside the events");

static inline size_t dn_block_bytes(size_t events, size_t ids)
{
    return sizeof(struct dn_block) + events * sizeof(struct dn_event) + ids * sizeof(struct dn_window_id);
}

static inline const struct dn_window_id *dn_block_ids(const struct dn_block *block)
{
    return (const struct dn_window_id *)(const void *)(block->events + block->event_count);
}

struct dn_user_chunk { /* copied before it is written while a capture holds it */
    uint32_t generation;
    struct dn_block *_Atomic slots[DN_USER_CHUNK];
};

struct dn_link { /* of the idle list, or (next) of the free ids */
    uint32_t previous, next;
};

struct dn_item { /* immutable */
    uint64_t hash;
    uint16_t length;
    char bytes[];
};

enum { DN_ITEM_FREE, DN_ITEM_LIVE, DN_ITEM_RETIRED };

/* A cell of a row, 12 bytes in three arrays. The key is the upper half of the item's hash: what the state
 * says does not depend on whether the item is still known, or under which id. Of two items of one key in one
 * row (one row in thousands has that) the row knows only one. */
#define DN_CELL_AFTER_BITS 21
#define DN_CELL_NEAR_BITS 20
#define DN_CELL_AFTER_MAX ((1u << DN_CELL_AFTER_BITS) - 1)
#define DN_CELL_NEAR_MAX ((1u << DN_CELL_NEAR_BITS) - 1)
#define DN_CELL_ITEM_NONE (DN_ITEM_IDS - 1) /* no id */

struct dn_cell {
    uint32_t key;
    uint32_t after, near;
    uint32_t item; /* of this node: to be compared with the key; or DN_CELL_ITEM_NONE */
};

/* Cells, count, hand and the sums are changed in place: what readers see of them is one atomic each. More
 * room, halvings and an open capture make a new row. */
struct dn_row {
    uint32_t generation;
    uint32_t epoch;    /* halvings of the group that are in its weights */
    uint16_t capacity; /* a multiple of DN_ROW_STEP */
    uint16_t hand;     /* where a full row looks next for the least */
    uint16_t count;    /* atomic */
    uint16_t reserved;
    uint64_t after_sum, near_sum; /* atomic */
    /* keys[capacity]; near << 12 | lower bits of the item [capacity]; after << 11 | upper bits [capacity]. */
    uint32_t words[];
};
_Static_assert(sizeof(struct dn_row) == 32, "32 bytes a row beside its cells");
#define DN_ROW_STEP 4u

struct dn_visitors { /* a ring, newest at head - 1 */
    uint32_t generation;
    uint16_t capacity;
    uint16_t count, head; /* atomic */
    uint16_t reserved;
    uint32_t users[]; /* atomic */
};

enum dn_top_kind {
    DN_TOP_TREND,  /* by decayed events, as of the trend epoch */
    DN_TOP_CLICKS, /* by events ever: derived, no part of the state */
    DN_TOPS,
};

struct dn_item_slot {
    struct dn_item *_Atomic item; /* readers */
    struct dn_row *_Atomic row;   /* readers; NULL: empty */
    struct dn_visitors *_Atomic visitors;
    _Atomic uint64_t hash;   /* readers; the item's, so that it need not be touched; 0: free or evicted */
    _Atomic uint32_t clicks; /* readers */
    _Atomic uint32_t trend_epoch;
    _Atomic uint64_t trend;  /* readers, by dn_trend_now; as of trend_epoch; the rest is the writer's */
    uint64_t unref;          /* when the last event that named it went away; 0: named now */
    uint32_t refs;           /* events in blocks that name it */
    uint32_t previous, next; /* unreferenced items in order of unref, or (next) free ids */
    /* Readers, by dn_near_popular: a float's bits, as of the epoch; derived, no part of the state. */
    _Atomic uint32_t popular[DN_POPULAR_SPANS];
    _Atomic uint16_t popular_epoch[DN_POPULAR_SPANS];
    uint16_t top_at[DN_TOPS]; /* place in the top + 1; 0: not in it */
    uint8_t state;
};

struct dn_item_chunk { /* copied before it is written while a capture holds it */
    uint32_t generation;
    struct dn_item_slot slots[DN_ITEM_CHUNK];
};

struct dn_source_progress {
    int64_t next_offset; /* DN_OFFSET_UNSET: forgotten, or its first batch is being applied */
    int64_t floor_ms;    /* events before it are late; 0: none */
    int64_t newest_ms;   /* largest event time applied; DN_TIME_NONE */
    uint64_t events;     /* applied */
    uint64_t finished;   /* 0: in use; else rising in the order in which they were finished */
};

struct dn_stream_source {
    uint64_t hash;     /* of name and partition */
    uint32_t position; /* in the list */
    uint32_t partition;
    uint16_t name_length;
    char name[DN_SOURCE_MAX];
    _Atomic int64_t next_offset, floor_ms, newest_ms; /* the progress */
    _Atomic uint64_t events, finished;
    uint32_t letters; /* that wait and name its place; the writer's */
};

/* Immutable but for what its sources hold. A place stays a source's; that of one that is finished and named
 * by no letter that waits may become another's, in a list of its own. */
struct dn_source_list {
    uint32_t count;
    struct dn_stream_source *sources[];
};

struct dn_dead { /* a dead letter: immutable once the queue's `next` is above its number */
    int64_t offset;
    int64_t time_ms; /* the group's, when it was judged */
    uint32_t source; /* position in the list of sources */
    uint8_t reason;
};

struct dn_dead_chunk {
    uint64_t first; /* number of letters[0] */
    struct dn_dead letters[DN_DEAD_CHUNK];
};

struct dn_dead_queue { /* numbers written..next - 1 wait */
    _Atomic uint64_t written, next;
    uint64_t counts[DN_DEAD_REASON_MAX + 1]; /* by reason, of all numbers ever given: their sum is `next` */
    /* Number n is in chunks[n / DN_DEAD_CHUNK % DN_DEAD_CHUNKS]; NULL: all of it is written, or nothing in it
     * yet. */
    struct dn_dead_chunk *_Atomic chunks[DN_DEAD_CHUNKS];
};

struct dn_stall { /* immutable */
    int64_t since_ms;
    uint16_t length;
    char reason[DN_STALL_REASON_MAX];
};

struct dn_tombstone { /* one erase request; those of a user are chained, newest (and furthest) first */
    struct dn_hash128 user;
    int64_t until_ms;
    uint64_t request_id;
    uint64_t order; /* of the request in the log */
    uint32_t older;
    uint32_t previous, next; /* all, in log order; next also chains free places */
    bool existed;
};

struct dn_tombstones {
    struct dn_idtable table; /* user -> its newest */
    struct dn_tombstone *slots;
    uint32_t capacity, count, free, head, tail;
};

struct dn_top_entry {
    uint64_t score;
    uint64_t item_hash;
    uint32_t item;
};

struct dn_top_list { /* what readers see: immutable, strings included */
    size_t size_bytes;
    int64_t landmark_ms, half_life_ms; /* of trending counters */
    uint32_t trend_epoch;
    uint32_t count;
    struct {
        uint64_t score, item_hash;
        uint32_t offset; /* of its string in `text` */
        uint16_t length;
    } entries[DN_TREND_MAX];
    char text[];
};

struct dn_top {
    struct dn_top_entry entries[DN_TREND_MAX]; /* a heap, the least first */
    uint32_t count;
    bool changed; /* since it was published */
    int64_t published_ms;
    struct dn_top_list *_Atomic list;
};

struct dn_popular {
    float one;              /* what an event now of weight 1 / DN_WEIGHT_ONE adds */
    uint16_t epoch;         /* modulo 2^16: for hours, that is 59 years */
    _Atomic uint64_t clock; /* as trend_clock, for readers */
};

struct dn_near_counts { /* of the tables; for people: not part of the state */
    uint64_t rows, cells, visitors;
    uint64_t bytes; /* rows and rings, with what the slab rounds up */
};

struct dn_meta { /* the plain part of the state: copied whole into a capture */
    int64_t time_ms;
    int64_t max_event_ms;
    int64_t forget_floor_ms; /* API events of users not known are late before it */
    uint64_t touch;          /* last block->touch given */
    uint64_t unref;          /* last item unref given */
    uint64_t erase_order;    /* last tombstone order given */
    int64_t trend_landmark_ms;
    uint32_t trend_epoch;
    int64_t near_landmark_ms; /* when rows were halved last */
    uint32_t near_epoch;      /* how often they were */
    /* A SETTINGS record of version 4 came, ever: there may be tables, and the settings are not the default's.
     * It decides what of this is in hashes and snapshots. Not near_cells: rows stay where that is 0 again. */
    bool has_near;
    uint64_t events_applied, duplicates, late, refused, erased, evicted, expired;
    struct dn_shard_settings settings;
};

struct dn_capture {
    struct dn_core *core;
    uint32_t generation; /* chunks and blocks up to this one are the capture's */
    struct dn_meta meta;
    uint64_t hash;
    uint32_t user_count, item_count, source_count, tombstone_count;
    uint32_t user_bound, item_bound;
    struct dn_user_chunk **users;
    struct dn_item_chunk **items;
    struct {
        const struct dn_stream_source *source; /* its name */
        struct dn_source_progress progress;
    } * sources;
    uint64_t dead_written, dead_next, dead_counts[DN_DEAD_REASON_MAX + 1];
    const struct dn_dead_chunk *dead[DN_DEAD_CHUNKS]; /* as in the queue; letters below dead_next */
    const struct dn_stall *stall;
    struct dn_tombstone *tombstones;
    struct dn_retire_batch *kept; /* writer: retired, but reachable from the capture */
    struct dn_capture *next_closed;
};

struct dn_retired {
    void *object; /* NULL: the item id in `size` */
    size_t size;
};

#define DN_RETIRE_BATCH 250u
struct dn_retire_batch {
    struct dn_core *core;
    struct dn_retire_batch *next; /* kept by the same capture */
    uint32_t count;
    struct dn_retired entries[DN_RETIRE_BATCH];
};

struct dn_parsed; /* apply.c */
struct dn_rest;   /* apply.c */

struct dn_core {
    struct dn_shard *shard;
    struct dn_slab *slab;
    uint32_t pins; /* being live, each batch in the epoch's hands, an open capture */
    bool live;     /* readers may hold what it publishes */
    uint32_t generation;
    struct dn_capture *capture; /* open, or NULL */
    struct dn_capture *closed;  /* what they kept is given back in steps */
    struct dn_retire_batch *batch;
    struct dn_core *next_dying;

    struct dn_meta meta;
    uint64_t sum;

    struct dn_user_chunk *_Atomic *user_chunks; /* DN_USER_CHUNKS of them */
    struct dn_link **user_links;
    struct dn_idtable users;
    uint32_t user_bound, user_free, idle_head, idle_tail; /* idle_head: the longest idle */

    _Atomic uint32_t near_epoch; /* meta's, for readers */
    _Atomic bool near_on;        /* near_cells is above 0; readers: they see no tables where it is not */
    struct dn_near_counts near;
    _Atomic bool items_evicted; /* ever: ids in cells may be others' now; readers */

    struct dn_item_chunk *_Atomic *item_chunks;
    struct dn_idtable items;
    uint32_t item_bound, item_free, unref_head, unref_tail;

    struct dn_source_list *_Atomic sources;
    struct dn_dead_queue dead;
    struct dn_stall *_Atomic stall; /* NULL: none */
    struct dn_tombstones tombstones;

    struct dn_top tops[DN_TOPS];
    /* For readers: the trend epoch << 32 | the bits of the float by which a counter of that epoch becomes
     * events as of the group's time. One number, so that nobody sees half of it. */
    _Atomic uint64_t trend_clock;
    struct dn_popular popular[DN_POPULAR_SPANS];

    struct dn_parsed *parsed; /* scratch of apply */
    size_t parsed_capacity;
    struct dn_rest *rest; /* of a record that was begun; NULL: none ever was */
};

/* ---- core.c: life, memory, hash ---- */
struct dn_core *dn_core_create(struct dn_shard *shard);
/* One that no reader ever saw. */
void dn_core_destroy(struct dn_core *core);
/* Gives up one pin; the last one frees the core, in steps where the shard lives on. */
void dn_core_unpin(struct dn_core *core);
/* Frees `object` once neither readers nor an open capture can reach it. */
void dn_core_retire(struct dn_core *core, void *object, size_t size);
/* As above, of what an open capture may reach. */
void dn_core_retire_captured(struct dn_core *core, void *object, size_t size);
/* A chunk that was copied because the open capture holds it. */
void dn_core_retire_chunk(struct dn_core *core, void *chunk, size_t size);
void dn_core_retire_block(struct dn_core *core, struct dn_block *block);
void dn_core_retire_item(struct dn_core *core, uint32_t id);
/* Hands what was retired to the epoch. */
void dn_core_flush(struct dn_core *core);
uint64_t dn_core_hash(const struct dn_core *core);
uint64_t dn_core_hash_recompute(const struct dn_core *core);
uint64_t dn_meta_hash(const struct dn_meta *meta);

/* ---- shard.c ---- */
struct dn_epoch *dn_shard_epoch(const struct dn_shard *shard);
void dn_shard_core_gone(struct dn_shard *shard, struct dn_core *core);
struct dn_core *dn_shard_core(const struct dn_shard *shard);
int64_t dn_shard_gap_ms(const struct dn_shard *shard); /* of the settings in force; any thread */
/* To the listener, if any. */
void dn_shard_tell(const struct dn_shard *shard, struct dn_hash128 user, uint8_t type);
/* To the watch, if any. */
void dn_shard_tell_applied(const struct dn_shard *shard, const struct dn_applied *event);
void dn_shard_tell_erased(const struct dn_shard *shard, struct dn_hash128 user);

/* ---- state_hash.c: fixed for ever, like dn_hash64 ---- */
uint64_t dn_block_hash(const struct dn_block *block);
/* rank: how many events stand before it in the block with the same time. A sum does not see order; with the
 * rank it sees the order of a user's events. */
uint64_t dn_event_hash(struct dn_hash128 user, const struct dn_event *event, uint64_t item_hash,
                       uint32_t rank);
/* The rank of the block's event `at`, from that of the one before it. */
static inline uint32_t dn_event_rank(const struct dn_block *block, size_t at, uint32_t rank_before)
{
    return at > 0 && block->events[at - 1].time_ms == block->events[at].time_ms ? rank_before + 1 : 0;
}
uint64_t dn_window_id_hash(struct dn_hash128 user, const struct dn_window_id *id);
uint64_t dn_item_slot_hash(const struct dn_item_slot *slot);
uint64_t dn_source_hash(const struct dn_stream_source *source);
uint64_t dn_dead_hash(uint64_t number, const struct dn_stream_source *source, const struct dn_dead *letter);
/* Of the numbers and counts; 0 where there never was a letter. */
uint64_t dn_dead_queue_hash(const struct dn_dead_queue *queue);
uint64_t dn_stall_hash(const struct dn_stall *stall); /* NULL: 0 */
uint64_t dn_tombstone_hash(const struct dn_tombstone *tombstone);
uint64_t dn_row_hash(uint64_t item_hash, const struct dn_row *row); /* beside its cells */
uint64_t dn_cell_hash(uint64_t item_hash, const struct dn_cell *cell);
uint64_t dn_visitor_hash(uint64_t item_hash, struct dn_hash128 user);

/* ---- users.c ---- */
static inline uint64_t dn_user_hash(struct dn_hash128 user)
{
    uint64_t h = (user.low ^ (user.high << 32 | user.high >> 32)) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static inline struct dn_block *dn_user_block(const struct dn_core *core, uint32_t id)
{
    const struct dn_user_chunk *chunk =
        atomic_load_explicit(&core->user_chunks[id / DN_USER_CHUNK], memory_order_acquire);
    return atomic_load_explicit(&chunk->slots[id % DN_USER_CHUNK], memory_order_acquire);
}

/* DN_ID_NONE if there is none. Readers too; a reader loads the block again and compares. */
uint32_t dn_user_find(const struct dn_core *core, struct dn_hash128 user);
/* A new id at the end of the idle list, pointing to block. */
uint32_t dn_user_add(struct dn_core *core, struct dn_block *block);
/* Replaces the block and moves the user to the end of the idle list; the old block is retired. */
void dn_user_replace(struct dn_core *core, uint32_t id, struct dn_block *block);
/* Takes the user out with all its hashes and item references; the block is retired. */
void dn_user_remove(struct dn_core *core, uint32_t id);
/* Removes the longest idle user whose window is empty by the group's time, looking at no more than
 * DN_FORGET_STEP; idle_before_ms: only one whose last change is before it. False if there is none.
 * Whoever arrived long ago and may still not be forgotten (their clock was ahead) goes to the end of the idle
 * list, or as many of them as are looked at would keep all others from being forgotten, for days. Nor is
 * anyone forgotten whose floor is not yet past: everybody who is not known would be late up to it. */
bool dn_user_forget(struct dn_core *core, int64_t idle_before_ms);
void dn_users_init(struct dn_core *core);
/* Restore: the idle list in order of touch. False if two are the same. */
bool dn_users_order(struct dn_core *core);

/* ---- items.c ---- */
static inline struct dn_item_slot *dn_item_slot(const struct dn_core *core, uint32_t id)
{
    struct dn_item_chunk *chunk =
        atomic_load_explicit(&core->item_chunks[id / DN_ITEM_CHUNK], memory_order_acquire);
    return &chunk->slots[id % DN_ITEM_CHUNK];
}

static inline const struct dn_item *dn_item_get(const struct dn_core *core, uint32_t id)
{
    return atomic_load_explicit(&dn_item_slot(core, id)->item, memory_order_acquire);
}

static inline uint64_t dn_item_hash(const struct dn_core *core, uint32_t id)
{
    return atomic_load_explicit(&dn_item_slot(core, id)->hash, memory_order_relaxed);
}

void dn_items_init(struct dn_core *core);
/* The slot, ready to be written: its chunk is no capture's. */
struct dn_item_slot *dn_item_writable(struct dn_core *core, uint32_t id);
uint32_t dn_item_find(const struct dn_core *core, uint64_t hash, const char *bytes, uint16_t length);
/* Would dn_item_add succeed? */
bool dn_item_room(const struct dn_core *core);
/* A new item with no references (the caller adds one); its hash is in the sum. */
uint32_t dn_item_add(struct dn_core *core, uint64_t hash, const char *bytes, uint16_t length);
/* As above with id, trend, unref and membership from a snapshot; false if the id is taken or the string
 * known.
 */
bool dn_item_restore(struct dn_core *core, uint32_t id, const char *bytes, uint16_t length, uint64_t trend,
                     uint32_t trend_epoch, uint64_t unref);
void dn_item_ref(struct dn_core *core, uint32_t id);
void dn_item_unref(struct dn_core *core, uint32_t id);
/* Evicts the item that was unreferenced first; false if none is. */
bool dn_item_evict(struct dn_core *core);
/* The id's memory: called when no reader and no capture holds it. */
void dn_item_release(struct dn_core *core, uint32_t id);

/* Restore: free ids and the list of unreferenced items in order of unref. False if it contradicts refs. */
bool dn_items_order(struct dn_core *core);

/* ---- core.c ---- */
struct dn_order {
    uint64_t at;
    uint32_t id;
};
/* By at; false if two are the same. */
bool dn_order_sort(struct dn_order *order, size_t count);

/* ---- trend.c ---- */
/* Moves the landmark up to the group's time; call when that moved. */
void dn_trend_advance(struct dn_core *core);
void dn_trend_add(struct dn_core *core, uint32_t item, int64_t time_ms, uint16_t weight);
/* Puts an item whose counter is set into the top (restore); false if that is full. */
bool dn_trend_restore(struct dn_core *core, uint32_t item);
/* The clock, and the lists of all tops where they changed and are due; now: in any case. */
void dn_trend_publish(struct dn_core *core, bool now);
void dn_trend_half_life(struct dn_core *core, int64_t half_life_ms);
/* The counter in events, decayed up to the group's time. Readers too. */
double dn_trend_now(const struct dn_core *core, const struct dn_item_slot *slot);

/* ---- popular.c ---- */
/* Moves the clocks up to the group's time; call when that moved. */
void dn_popular_advance(struct dn_core *core);
void dn_popular_add(struct dn_core *core, uint32_t item, int64_t time_ms, uint16_t weight);

/* ---- top.c ---- */
/* The item's score is this now, and not less than before. */
void dn_top_rise(struct dn_core *core, enum dn_top_kind which, uint32_t item, uint64_t score);
void dn_top_remove(struct dn_core *core, enum dn_top_kind which, uint32_t item); /* before it is evicted */
/* All scores are shifted to the right by so many bits. */
void dn_top_fall(struct dn_core *core, enum dn_top_kind which, unsigned bits);
void dn_top_publish(struct dn_core *core, enum dn_top_kind which, bool now);

/* ---- near.c ---- */
/* Counts the halvings that are due; call when the group's time moved. While there are no cells nobody sees or
 * writes a row: they are counted by the next settings. */
void dn_near_advance(struct dn_core *core);
/* The settings of the tables are these now. */
void dn_near_settings(struct dn_core *core, const struct dn_shard_settings *settings);
/* What readers see of meta, after a restore. */
void dn_near_show(struct dn_core *core);
/* Asks for what events that follow those of the block will change: slots, later the rows behind them. */
void dn_near_prefetch_slots(const struct dn_core *core, const struct dn_block *block);
void dn_near_prefetch_rows(const struct dn_core *core, const struct dn_block *block);
/* The user's event at `at` of their new block is new; had: the block before it had one of this item. */
void dn_near_add(struct dn_core *core, uint32_t user, const struct dn_block *block, size_t at, bool had);
/* The user's block has no event of the item any more. */
void dn_near_leave(struct dn_core *core, uint32_t item, uint32_t user, struct dn_hash128 name);
/* Before an item is evicted. */
void dn_near_drop(struct dn_core *core, uint32_t item);
/* Sum of the hashes of the item's tables. */
uint64_t dn_near_hash(const struct dn_core *core, const struct dn_item_slot *slot);

/* ---- sources.c ---- */
uint64_t dn_source_key(const char *name, size_t length, uint32_t partition);
struct dn_stream_source *dn_source_find(const struct dn_core *core, const char *name, size_t length,
                                        uint32_t partition);
/* DN_SOURCES_MAX; tests make it less. The same on all nodes. */
extern uint32_t dn_sources_max;
/* One that has not begun; its hash is in the sum. Where all places are taken it gets that of the one finished
 * first of those that no letter names. NULL when there is none. */
struct dn_stream_source *dn_source_add(struct dn_core *core, const char *name, size_t length,
                                       uint32_t partition);
struct dn_source_progress dn_source_progress(const struct dn_stream_source *source);
/* Sets it, and keeps the sum right. */
void dn_source_move(struct dn_core *core, struct dn_stream_source *source,
                    const struct dn_source_progress *progress);
/* Nothing more is expected of it; again: nothing. */
void dn_source_finish(struct dn_core *core, struct dn_stream_source *source);
/* since_ms 0: no stall. */
void dn_stall_set(struct dn_core *core, int64_t since_ms, const char *reason, size_t length);

/* ---- dead.c ---- */
/* Is there room for so many more? */
bool dn_dead_room(const struct dn_core *core, size_t count);
/* One more, with the next number, the group's time and its hash. There must be room. */
void dn_dead_push(struct dn_core *core, const struct dn_stream_source *source, int64_t offset,
                  uint8_t reason);
/* Numbers below `before` leave the queue. False: it was never given out. */
bool dn_dead_written(struct dn_core *core, uint64_t before);
/* The letter with this number, or NULL: written meanwhile. Readers too; number < queue->next. */
const struct dn_dead *dn_dead_get(const struct dn_dead_queue *queue, uint64_t number);
/* Restore: letters are numbered from `written` on, and counted already; then each of them, source known. */
void dn_dead_begin(struct dn_core *core, uint64_t written, const uint64_t counts[DN_DEAD_REASON_MAX + 1]);
void dn_dead_append(struct dn_core *core, const struct dn_dead *letter);

/* ---- tombstones.c ---- */
void dn_tombstones_init(struct dn_core *core);
/* The time up to which the user's events are erased, or -1. */
int64_t dn_tombstone_until(const struct dn_core *core, struct dn_hash128 user);
const struct dn_tombstone *dn_tombstone_find(const struct dn_core *core, struct dn_hash128 user,
                                             uint64_t request_id);
bool dn_tombstone_room(struct dn_core *core);
void dn_tombstone_add(struct dn_core *core,
                      const struct dn_tombstone *tombstone); /* order set by the caller */
/* Drops the oldest that ended before before_ms, looking at no more than DN_FORGET_STEP; false if none did. */
bool dn_tombstone_drop(struct dn_core *core, int64_t before_ms);

/* ---- events.c ---- */
struct dn_arrival {
    struct dn_event_in in;
    uint64_t item_hash;
    uint64_t index;
};
/* One valid event (its stream's own checks are done): session, window, items, trend. */
enum dn_outcome dn_event_apply(struct dn_core *core, const struct dn_arrival *arrival, bool from_api);
/* The user's erase. False: no room for the tombstone. */
bool dn_erase_apply(struct dn_core *core, struct dn_hash128 user, int64_t until_ms, uint64_t request_id,
                    bool *ret_existed);

/* ---- apply.c ---- */
/* False: there is more of the record; to be called again with the same arguments. */
bool dn_core_apply_part(struct dn_core *core, uint64_t index, int64_t time_ms, const uint8_t *record,
                        size_t length, struct dn_buffer *result);
bool dn_core_applying(const struct dn_core *core); /* a record was begun and is not done */
void dn_core_entry_done(struct dn_core *core, int64_t time_ms);

/* ---- snapshot.c, restore.c ---- */
#define DN_SNAPSHOT_MAGIC 0x48534e44u /* "DNSH" */
/* 1: without dead letters, stall, and the newest time and count of a source; 2: without finished sources; 3:
 * without the tables of what is near an item, their settings and halvings. The oldest that will do (2 or
 * above) is written: 4 once meta.has_near, else 3 where a source is finished. Builds that know no more read
 * it. */
#define DN_SNAPSHOT_VERSION 4u
#define DN_SNAPSHOT_VERSION_FINISHED 3u
#define DN_SNAPSHOT_VERSION_STREAMS 2u
enum {
    DN_SECTION_META = 1,
    DN_SECTION_ITEMS,
    DN_SECTION_SOURCES,
    DN_SECTION_TOMBSTONES,
    DN_SECTION_USERS,
    DN_SECTION_DEAD,
    DN_SECTION_STALL,
    DN_SECTION_NEAR,
};
enum dn_code dn_core_restore(struct dn_core *core, struct dn_source *in, struct dn_error *err);
/* Closes the capture; what it kept is retired by dn_capture_step. */
void dn_capture_close(struct dn_capture *capture);
/* Retires at most `max` batches of what closed captures kept. */
void dn_capture_step(struct dn_core *core, size_t max);
/* Forgets closed captures of a core whose memory goes as a whole. */
void dn_core_free_closed(struct dn_core *core);

#endif
