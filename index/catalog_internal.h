/* Inside the catalogue: the layout that the writer, the readers, the snapshot walker and retrieval share.
 *
 * Invariants:
 *  1. A block (one item) never changes once it is published, but for `emitted` (the snapshot walker's own)
 * and the link of the list it waits on after it was unpublished. Replacing an item publishes a new block.
 *  2. A block is reachable by id (table) and by slot (directory), or by neither, save for the instant of a
 *     change; it is freed only through the epoch, and its slot is given out again only then.
 *  3. The directory's chunks never move; a table is replaced as a whole when it grows.
 *  4. hash == sum of the items' content hashes + the facts' + the dimension's + the model's: no order, no
 *     slot in it.
 *  5. The recent log gets an item's slot before the directory gets a block with another vector. Who checks a
 *     row against the directory first and reads the log's head afterwards misses no change.
 *  6. While a capture is open, an unpublished block with made <= captured is on the preserved list, put there
 *     before the directory let go of it.
 *
 * Threads: all `state_*` writers run on the consensus thread, or on the thread that builds a state not yet
 * installed (live == false). Readers are registered with the epoch. */
#ifndef DN_INDEX_CATALOG_INTERNAL_H
#define DN_INDEX_CATALOG_INTERNAL_H

#include "base/text.h"
#include "index/index.h"

#include <pthread.h>
#include <stdatomic.h>

#define DN_SLOT_NONE UINT32_MAX
#define DN_DIRECTORY_CHUNK 4096u /* slots in a chunk of the directory */
#define DN_SEGMENTS 256u   /* tables of the id index: growing one stops the writer for 1/256 of a rehash */
#define DN_SEGMENT_MIN 8u  /* entries of the smallest table */
#define DN_LOG_CHUNK 4096u /* entries in a chunk of the recent log */
#define DN_LOG_CHUNKS 256u /* chunks kept: further back, readers scan everything */
#define DN_FACTS_MAX 64u
#define DN_FACT_KEY_MAX 64u
#define DN_FACT_VALUE_MAX 256u
#define DN_CATEGORY_MAX 256u        /* bytes */
#define DN_ATTRIBUTE_KEYS_MAX 1024u /* distinct attribute keys in use in a catalogue */
#define DN_DISPOSE_PER_ENTRY 4096u  /* blocks or slots given back by one entry_done: bounded work */
#define DN_ITEM_META_MAX                                                                                     \
    49152u /* bytes of an encoded item without its vector: more than the limits add to                       \
            */

#define DN_RECORD_VERSION 1u
#define DN_ITEM_AVAILABLE 1u
#define DN_ITEM_HAS_PRICE 2u
#define DN_ITEM_FLAGS (DN_ITEM_AVAILABLE | DN_ITEM_HAS_PRICE)

struct dn_block {
    uint64_t id_hash;
    uint64_t vector_hash; /* 0: no vector */
    uint64_t content_hash;
    uint64_t version;
    uint64_t made;    /* capture generation at its making */
    uint64_t log_seq; /* its place in the recent log */
    double price;
    const float *vector;
    const char *id;
    const char *category;
    struct dn_block *next; /* preserved or waiting list, after it was unpublished */
    uint64_t emitted;      /* snapshot walker only */
    uint32_t slot;
    uint32_t dim; /* 0: no vector */
    uint32_t size_bytes;
    uint32_t meta_length;
    const uint8_t *meta; /* the encoded item without its vector */
    uint16_t id_length, category_length, attribute_count;
    bool available;
    bool replaced; /* unpublished by a successor, which has its slot (writer only) */
    struct dn_attribute attributes[];
};

struct dn_chunk {
    _Atomic(struct dn_block *) slots[DN_DIRECTORY_CHUNK];
};

struct dn_table {
    uint32_t mask;
    uint32_t used; /* live and dead entries (writer only) */
    uint32_t live; /* (writer only) */
    _Atomic(struct dn_block *) entries[];
};

struct dn_log_chunk {
    uint64_t base; /* sequence number of slots[0] */
    uint32_t slots[DN_LOG_CHUNK];
};

struct dn_fact {
    uint16_t key_length, value_length;
    char key[DN_FACT_KEY_MAX];
    char value[DN_FACT_VALUE_MAX];
};

/* The model's weights and what is said of them; replaced as a whole. */
struct dn_model_block {
    uint64_t version, generation, steps, node_id;
    int64_t time_ms;
    bool frozen;
    uint32_t length; /* 0: the default counts */
    uint8_t bytes[];
};

struct dn_key {
    uint64_t count; /* items that have it (writer only) */
    uint16_t length;
    char bytes[DN_ATTRIBUTE_KEY_MAX];
};

/* The attribute keys in use, sorted; replaced as a whole when one comes or goes. */
struct dn_keys {
    size_t count;
    struct dn_key *keys[];
};

/* Free slots. Outlives its state while retired blocks that will return their slot are waiting. */
struct dn_slot_pool {
    uint32_t *free_slots;
    size_t count, capacity;
    size_t pending; /* retired blocks that still point here */
    bool orphan;    /* the state is gone: the last block frees the pool */
};

struct dn_catalog {
    struct dn_epoch *epoch;
    uint32_t items_max;
    _Atomic(struct dn_state *) state;
    uint64_t generations;      /* states installed so far */
    struct dn_state *retiring; /* replaced states that readers may still hold */
    struct dn_state *dying;    /* states no reader holds, freed piece by piece */
};

struct dn_state {
    struct dn_epoch *epoch;
    bool live; /* false while it is built for a restore: nothing needs to be retired */
    uint32_t items_max;
    uint64_t generation; /* distinct for every state a catalogue ever had */

    size_t chunks_max;
    _Atomic(struct dn_chunk *) *chunks;
    _Atomic uint32_t slot_bound;
    struct dn_slot_pool *pool;
    _Atomic(struct dn_table *) segments[DN_SEGMENTS];

    _Atomic(struct dn_log_chunk *) log[DN_LOG_CHUNKS];
    _Atomic uint64_t log_head; /* sequence number the next entry gets; the first is 1 */
    _Atomic uint64_t changes;  /* of any kind: tells the builder whether the catalogue is idle */

    _Atomic(struct dn_fact *) facts[DN_FACTS_MAX];
    _Atomic uint32_t fact_count;
    _Atomic(struct dn_keys *) keys;
    _Atomic(struct dn_model_block *) model; /* NULL: nobody ever set one */

    _Atomic uint64_t item_count, vector_count, unavailable_count, memory_bytes;
    _Atomic uint32_t dim;
    _Atomic uint64_t version;
    _Atomic uint64_t hash;

    uint64_t made; /* generation that new blocks carry; moves at each capture */
    bool capture_open;
    _Atomic(struct dn_block *) preserved; /* stack, newest first */
    struct dn_block *preserved_oldest;
    struct dn_block *waiting; /* preserved blocks of closed captures, retired piece by piece */

    struct dn_catalog pinned; /* what dn_catalog_pin gives: a catalogue that stays at this state */
    struct dn_catalog *home;  /* NULL: the catalogue was destroyed before the readers let go of this state */
    struct dn_state *next_dying;
    uint32_t dispose_slot;
};

struct dn_capture {
    struct dn_state *state;
    uint64_t made; /* blocks with made <= this belong to it */
    uint64_t version, item_count, hash;
    uint32_t dim, slot_bound, fact_count;
    struct dn_model_block *model; /* a copy; NULL: none */
};

/* ---- item.c: one item's bytes ------------------------------------------------------------------------- */

/* Appends `item` in its canonical form (attributes sorted, vector to unit length). False: it breaks a limit.
 */
bool dn_item_encode(struct dn_buffer *out, const struct dn_item *item);
/* An encoded item in place. `vector` may be unaligned: bytes. */
struct dn_item_bytes {
    const uint8_t *meta;
    uint32_t meta_length;
    const uint8_t *vector;
    uint32_t dim;
    const char *id;
    uint16_t id_length;
};
/* Structure only: lengths within the limits and the bytes. False: not understood. */
bool dn_item_scan(struct dn_reader *reader, struct dn_item_bytes *ret);
/* A block from scanned bytes; content checked without arithmetic on floats. NULL: the content is not valid.
 */
struct dn_block *dn_block_make(const struct dn_item_bytes *bytes, uint64_t version);
void dn_block_view(const struct dn_block *block, struct dn_item *ret);

/* ---- state.c: the structures; the caller is the state's writer ----------------------------------------- */

/* Memory for replicated state: a node that lacks it must stop, since the others apply what it cannot. */
void *dn_must_alloc(size_t size_bytes);
struct dn_state *dn_state_create(struct dn_epoch *epoch, uint32_t items_max, bool live);
void dn_state_destroy(struct dn_state *state); /* at once: no reader is left */
/* Frees up to `budget` slots' blocks; true when all is freed, the state itself too. */
bool dn_state_dispose(struct dn_state *state, uint32_t budget);
enum dn_item_outcome dn_state_upsert(struct dn_state *state, struct dn_block *block); /* takes the block */
enum dn_item_outcome dn_state_delete(struct dn_state *state, const char *id, uint16_t id_length);
/* Sets the fact unless its key is set; the fact in force, NULL: no room. */
const struct dn_fact *dn_state_fact(struct dn_state *state, const char *key, size_t key_length,
                                    const char *value, size_t value_length);
uint64_t dn_fact_hash(const struct dn_fact *fact);
uint64_t dn_dim_hash(uint32_t dim);
void dn_state_retire_plain(struct dn_state *state, void *object); /* to be freed once no reader holds it */
/* Adds to the state's hash and to its memory, modulo 2^64. */
void dn_state_hash_add(struct dn_state *state, uint64_t delta);
void dn_state_account(struct dn_state *state, size_t more, size_t less);
void dn_state_retire_waiting(struct dn_state *state, uint32_t budget);

/* ---- catalog_model.c: the weights of the blend --------------------------------------------------------- */

/* The reader is behind the record's head. False: not understood, and nothing was done. */
bool dn_state_model_apply(struct dn_state *state, uint64_t index, int64_t time_ms, struct dn_reader *reader,
                          struct dn_buffer *result);
uint64_t dn_state_model_hash(const struct dn_model_block *model);               /* NULL: 0 */
struct dn_model_block *dn_state_model_copy(const struct dn_model_block *model); /* NULL: NULL */
void dn_state_model_write(struct dn_buffer *out, const struct dn_model_block *model);
/* Into a state that has none. DN_CORRUPT, or the stream's trouble. */
enum dn_code dn_state_model_restore(struct dn_state *state, struct dn_source *in, struct dn_error *err);

/* ---- readers --------------------------------------------------------------------------------------------
 */

static inline const struct dn_state *dn_catalog_state(const struct dn_catalog *catalog)
{
    return atomic_load_explicit(&catalog->state, memory_order_acquire);
}

static inline struct dn_block *dn_state_block(const struct dn_state *state, uint32_t slot)
{
    size_t at = slot / DN_DIRECTORY_CHUNK;
    if (at >= state->chunks_max) {
        return NULL;
    }
    struct dn_chunk *chunk = atomic_load_explicit(&state->chunks[at], memory_order_acquire);
    if (chunk == NULL) {
        return NULL;
    }
    return atomic_load_explicit(&chunk->slots[slot % DN_DIRECTORY_CHUNK], memory_order_acquire);
}

/* Asks for what dn_state_find will look at: the place in the table, or (behind) the block there. */
void dn_state_prefetch(const struct dn_state *state, uint64_t id_hash, bool behind);
struct dn_block *dn_state_find(const struct dn_state *state, uint64_t id_hash, const char *id,
                               size_t id_length);
/* By both hashes, where the id itself is not at hand. */
struct dn_block *dn_state_find_hashes(const struct dn_state *state, uint64_t id_hash, uint64_t vector_hash);

#endif
