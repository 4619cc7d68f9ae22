/* Index: the item catalogue (group 0's replicated state) and vector retrieval over it with FAISS.
 *
 * The catalogue is a state machine like a session shard: one writer (consensus thread), many readers inside
 * an epoch; an item is an immutable block replaced as a whole. Retrieval follows it: the built FAISS index
 * covers the catalogue as of some version; later changes are searched exactly beside it, and deleted or
 * replaced vectors are never returned, until a background build swaps a new index in. */
#ifndef DN_INDEX_INDEX_H
#define DN_INDEX_INDEX_H

#include "base/arena.h"
#include "base/buffer.h"
#include "base/epoch.h"
#include "base/error.h"
#include "base/stream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_VECTOR_DIM_MAX 2048
#define DN_ATTRIBUTES_MAX 32        /* free key-values of an item */
#define DN_ATTRIBUTE_KEY_MAX 64     /* bytes */
#define DN_ATTRIBUTE_VALUE_MAX 1024 /* bytes */
#define DN_ITEMS_PER_RECORD_MAX 1000

struct dn_attribute {
    const char *key;
    const char *value;
    uint16_t key_length, value_length;
};

/* An item as it comes in and as it is read: strings are not NUL-terminated. */
struct dn_item {
    const char *id;
    uint16_t id_length;
    uint64_t id_hash;    /* dn_hash64(id, length, 0); filled by readers */
    const float *vector; /* dim numbers, NULL when the item has none; unit length when read */
    uint32_t dim;
    const char *category; /* "" when none */
    uint16_t category_length;
    double price;                          /* NaN when none */
    bool available;                        /* default true */
    const struct dn_attribute *attributes; /* sorted by key when read */
    size_t attribute_count;
    uint32_t slot;    /* filled by readers: stable while the item lives */
    uint64_t version; /* filled by readers: applied index of the last change */
};

/* DN_INVALID with a message that says what to change: id, finite non-zero vector, lengths, duplicates. */
enum dn_code dn_item_check(const struct dn_item *item, struct dn_error *err);

/* ---- records and the state machine ------------------------------------------------------------------ */

enum dn_catalog_record {
    DN_CATALOG_UPSERT = 1,
    DN_CATALOG_DELETE = 2,
    DN_CATALOG_FACT = 3,
    DN_CATALOG_MODEL = 4,
};

enum dn_item_outcome {
    DN_ITEM_OK = 0,
    DN_ITEM_WRONG_DIM = 1, /* the catalogue's dimension is fixed by its first vector */
    DN_ITEM_NO_ROOM = 2,
    DN_ITEM_NOT_FOUND = 3,
    DN_ITEM_INVALID = 4,
};

/* Vectors are scaled to unit length here, by the proposer, so that apply does no arithmetic on them. */
void dn_catalog_record_upsert(struct dn_buffer *out, const struct dn_item *items, size_t count);
void dn_catalog_record_delete(struct dn_buffer *out, const char *const *ids, const uint16_t *id_lengths,
                              size_t count);
/* A fact of the cluster (key "shards", "key_fingerprint", ...), set once: later values for a key that is set
 * are ignored, and the answer carries the value in force. */
void dn_catalog_record_fact(struct dn_buffer *out, const char *key, const char *value);

/* The model: weights of the blend (recommend/model.h), opaque here. A learner reads them, learns, and sends
 * them back with the version it began from: what it sends counts only while nobody else changed them
 * meanwhile, so neither a leader that was deposed nor a record that comes late can undo a reset. All of these
 * are refused (DN_MODEL_OFF) until the fact DN_MODEL_FACT is set. A build that knows no model stops at an
 * entry with one of them, refused or not (dn_catalog_record_level): propose them only while the fact is set,
 * and the fact only while all members have DN_CATALOG_LEVEL_MODEL. The learner (node/learner.c) sets it then,
 * and the API (api/svc_model.c) proposes nothing before. */
#define DN_MODEL_FACT "model"    /* any value */
#define DN_MODEL_BLOB_MAX 16384u /* bytes */

enum dn_model_op {
    DN_MODEL_LEARNED = 1,  /* new weights of the same generation */
    DN_MODEL_RESET = 2,    /* back to the default: a new generation, also while frozen */
    DN_MODEL_FREEZE = 3,   /* DN_MODEL_LEARNED is refused from now on */
    DN_MODEL_UNFREEZE = 4, /* and no longer */
    DN_MODEL_FIXED = 5,    /* an operator's weights: a new generation, frozen */
};
enum dn_model_outcome {
    DN_MODEL_OK = 0,
    DN_MODEL_OFF = 1,
    DN_MODEL_FROZEN = 2,
    DN_MODEL_MOVED = 3, /* generation or version are not those it was learned from */
};
struct dn_model_change {
    enum dn_model_op op;
    uint64_t generation, version; /* LEARNED: those it was learned from */
    uint64_t node_id;             /* LEARNED: who learned */
    uint64_t steps;               /* LEARNED: clicks of this generation it was learned from, all told */
    const uint8_t *bytes;         /* LEARNED, FIXED: 1..DN_MODEL_BLOB_MAX of them */
    size_t length;
};
void dn_catalog_record_model(struct dn_buffer *out, const struct dn_model_change *change);
/* The feature level (consensus.h) of a build that reads the record: 1, or what came later. */
#define DN_CATALOG_LEVEL_MODEL 2
uint8_t dn_catalog_record_level(const uint8_t *record, size_t length);

/* Answer of MODEL: u8 status 0, u8 outcome, then what is in force: u64 generation, u64 version. */
struct dn_model_result {
    enum dn_model_outcome outcome;
    uint64_t generation, version;
};
enum dn_code dn_catalog_model_result_parse(const uint8_t *bytes, size_t length, struct dn_model_result *ret,
                                           struct dn_error *err);

/* Answer of UPSERT and DELETE: u8 status 0, u32 count, count outcome bytes. Of FACT: u8 status, blob value in
 * force. A record that is not understood: u8 status 2. */
enum dn_code dn_catalog_result_parse(const uint8_t *bytes, size_t length, uint32_t *ret_count,
                                     const uint8_t **ret_outcomes, struct dn_error *err);

struct dn_catalog;
struct dn_catalog *dn_catalog_create(struct dn_epoch *epoch, uint32_t items_max);
void dn_catalog_destroy(struct dn_catalog *catalog);

void dn_catalog_apply(void *catalog, uint64_t index, uint32_t ordinal, int64_t time_ms, const uint8_t *record,
                      size_t length, struct dn_buffer *result);
void dn_catalog_entry_done(void *catalog, uint64_t index, int64_t time_ms);
uint64_t dn_catalog_hash(void *catalog);
uint64_t dn_catalog_hash_recompute(void *catalog);
void *dn_catalog_snapshot_begin(void *catalog);
enum dn_code dn_catalog_snapshot_write(void *catalog, void *capture, struct dn_sink *out,
                                       struct dn_error *err);
void dn_catalog_snapshot_end(void *catalog, void *capture);
enum dn_code dn_catalog_restore_build(void *catalog, struct dn_source *in, void **ret_built,
                                      struct dn_error *err);
void dn_catalog_restore_install(void *catalog, void *built);
void dn_catalog_restore_discard(void *catalog, void *built);

/* ---- reading items (registered threads, inside an epoch) --------------------------------------------- */

/* The catalogue as a reader of several things wants it: it stays with the state it has now, also when a
 * restore installs another, which gives items other slots. Slots of one pin mean nothing to another. Valid
 * until dn_epoch_leave; for the reading functions only. A pinned catalogue gives itself. */
const struct dn_catalog *dn_catalog_pin(const struct dn_catalog *catalog);

/* The item is valid until dn_epoch_leave. DN_OK or DN_NOT_FOUND. */
enum dn_code dn_catalog_get(const struct dn_catalog *catalog, const char *id, size_t id_length,
                            struct dn_item *ret);
/* By hash of the id, checked against the id itself. */
enum dn_code dn_catalog_get_hashed(const struct dn_catalog *catalog, uint64_t id_hash, const char *id,
                                   size_t id_length, struct dn_item *ret);
/* Whoever looks many ids up asks for those it will want soon: for the place in the table some steps ahead,
 * for the item behind it (the place is here by then) some steps later. */
void dn_catalog_prefetch(const struct dn_catalog *catalog, uint64_t id_hash, bool behind);
/* The same, for whoever walks over slots: for the item at the slot, if there is one. */
void dn_catalog_prefetch_slot(const struct dn_catalog *catalog, uint32_t slot);
enum dn_code dn_catalog_get_slot(const struct dn_catalog *catalog, uint32_t slot, struct dn_item *ret);
/* Slots are 0..bound-1; some may be empty. */
uint32_t dn_catalog_slot_bound(const struct dn_catalog *catalog);
uint64_t dn_catalog_item_count(const struct dn_catalog *catalog);
uint32_t dn_catalog_dim(const struct dn_catalog *catalog);     /* 0 until the first vector */
uint64_t dn_catalog_version(const struct dn_catalog *catalog); /* applied index of the last change */
uint64_t dn_catalog_memory(const struct dn_catalog *catalog);
/* Copies the value of a fact; DN_NOT_FOUND when it is not set. */
enum dn_code dn_catalog_fact(const struct dn_catalog *catalog, const char *key, char *ret_value, size_t size);

struct dn_catalog_model {
    const uint8_t *bytes; /* valid until dn_epoch_leave; NULL: there are no weights, the default counts */
    size_t length;
    uint64_t version;    /* applied index of the last change of weights; 0: never */
    uint64_t generation; /* how often they were reset or fixed */
    uint64_t steps;      /* clicks of this generation they were learned from */
    uint64_t node_id;    /* who learned them; 0: nobody */
    int64_t time_ms;     /* the group's time of their change */
    bool frozen;
};
/* True: there are weights. `ret` is filled either way. Wait-free. */
bool dn_catalog_model(const struct dn_catalog *catalog, struct dn_catalog_model *ret);

/* ---- filters ------------------------------------------------------------------------------------------ */

enum dn_filter_op { DN_FILTER_EQ, DN_FILTER_IN, DN_FILTER_RANGE, DN_FILTER_PREFIX };

#define DN_FILTER_TERMS_MAX 64
#define DN_FILTER_VALUES_MAX 1000 /* of one term */
#define DN_FILTER_STEPS_MAX 256
#define DN_FILTER_DEPTH_MAX 32    /* and, or, not inside each other */
#define DN_FILTER_TEXT_MAX 65536u /* bytes */
#define DN_FILTER_BRACKETS_MAX 8  /* brackets and nots inside each other, in a text */

/* "category", "price" and "available" are built in; any other name is a free attribute, compared as text (EQ,
 * IN, PREFIX) or as a number (RANGE). An item without the attribute does not match. */
struct dn_filter_term {
    enum dn_filter_op op;
    const char *name;
    uint16_t name_length;
    const struct dn_attribute *values; /* EQ, IN, PREFIX (any of them): the value field of each */
    size_t value_count;
    bool sorted;         /* by dn_filter_sort: many values cost no more than a few */
    size_t prefix_count; /* PREFIX, sorted: so many of the values come first and say all that the rest says */
    const double *numbers; /* the values as numbers, ascending; NULL: not looked up so */
    double min, max;       /* RANGE, inclusive; -inf / +inf when open */
};

/* How terms are joined, in postfix notation: a step takes the newest results and leaves one. */
enum dn_filter_join { DN_FILTER_TERM, DN_FILTER_AND, DN_FILTER_OR, DN_FILTER_NOT };
struct dn_filter_step {
    enum dn_filter_join join;
    uint32_t count; /* TERM: the term's place; AND, OR: results it joins, 1 or more; NOT: means nothing */
};
/* A filter as it is written down. */
struct dn_filter_tree {
    const struct dn_filter_term *terms;
    size_t term_count;
    const struct dn_filter_step *steps; /* none: all terms must hold */
    size_t step_count;
};

/* After a term: the place of the next one to look at, always a later one, or the answer. */
struct dn_filter_jump {
    uint8_t on_true, on_false;
};
#define DN_FILTER_YES 254u
#define DN_FILTER_NO 255u

/* A filter as it is matched. */
struct dn_filter {
    const struct dn_filter_term *terms;
    size_t term_count;
    bool only_available; /* drop items that are not available: the default in recommendations */
    const struct dn_filter_jump *jumps; /* one a term, by dn_filter_plan; NULL: all terms must hold */
};

/* Reads a filter's text:
 *
 *   category = shoes and (price < 50 or brand in (a, "b c")) and not title prefix Re
 *
 * Conditions: NAME = VALUE, = A|B, = 1..5 (a range; an end may be left out), != (as not =), <, <=, >, >=, in
 * (A, B), prefix VALUE, prefix A|B, prefix (A, B); "not in", "not prefix". `not` binds closer than `and`,
 * `and` closer than `or`. Names and values with anything but letters, digits and ._+-:/ and the like stand in
 * "..." or
 * '...', with \ before a quote or a \ inside. Words of the language mean themselves when quoted. DN_INVALID
 * says what is wrong and where; *ret_at (may be NULL) is then the byte it is about. What it returns is in the
 * arena and sorted. */
enum dn_code dn_filter_parse(const char *text, size_t length, struct dn_arena *arena,
                             struct dn_filter_tree *ret, size_t *ret_at, struct dn_error *err);
/* All of the trees must hold (those without terms say nothing). One without steps comes of trees that have
 * none. DN_INVALID: too many terms. */
enum dn_code dn_filter_join(const struct dn_filter_tree *trees, size_t count, struct dn_arena *arena,
                            struct dn_filter_tree *ret, struct dn_error *err);
/* The tree as terms and jumps; only_available is left alone. DN_INVALID: steps that are no filter, with the
 * step's place. */
enum dn_code dn_filter_plan(const struct dn_filter_tree *tree, struct dn_arena *arena, struct dn_filter *ret,
                            struct dn_error *err);
/* DN_INVALID when a term is malformed or names an attribute that no item of the catalogue has. */
enum dn_code dn_filter_check(const struct dn_catalog *catalog, const struct dn_filter *filter,
                             struct dn_error *err);
/* Puts a term's values (`values` is what term->values points to) in order, so that matching an item looks a
 * few of them up and not all: a search may match every item of the catalogue. False: the arena is full. */
bool dn_filter_sort(struct dn_filter_term *term, struct dn_attribute *values, struct dn_arena *arena);
bool dn_filter_match(const struct dn_filter *filter, const struct dn_item *item);

/* ---- retrieval ---------------------------------------------------------------------------------------- */

struct dn_retrieval_options {
    const char *factory;      /* FAISS index_factory string; "auto": Flat below 8,000 items, IVF above */
    const char *cache_dir;    /* where the built index is kept; NULL: not kept */
    uint32_t rebuild_changes; /* rebuild after this many changes since the build; 0: max(1000, 5 %) */
    double depth;             /* share of lists probed (IVF) or efSearch (HNSW); 0: automatic */
};
/* DN_INVALID when FAISS does not understand the factory string (tried at once on a tiny index). */
struct dn_retrieval;
enum dn_code dn_retrieval_create(const struct dn_catalog *catalog, struct dn_epoch *epoch,
                                 const struct dn_retrieval_options *options, struct dn_retrieval **ret,
                                 struct dn_error *err);
/* Stops its background thread. */
void dn_retrieval_destroy(struct dn_retrieval *retrieval);

struct dn_hit {
    uint32_t slot;
    float score; /* inner product of unit vectors: cosine */
};
/* Up to k nearest items to `query` (dim floats; need not be unit length) that pass the filter (NULL: all) and
 * whose slot is not among the excluded; best first, ties by slot. Includes every change the catalogue had
 * applied when it was called. `catalog` is the pin that the slots belong to (NULL: nothing is looked up by
 * slot afterwards). `scratch` gives the memory. Any registered thread, inside an epoch. */
enum dn_code dn_retrieval_search(struct dn_retrieval *retrieval, const struct dn_catalog *catalog,
                                 const float *query, uint32_t dim, size_t k, const struct dn_filter *filter,
                                 const uint32_t *excluded, size_t excluded_count, struct dn_arena *scratch,
                                 struct dn_hit *ret_hits, size_t *ret_count, struct dn_error *err);

struct dn_retrieval_status {
    uint64_t built_version; /* catalogue version the FAISS index covers; 0: none built yet */
    uint64_t built_items;
    uint64_t pending; /* changes searched exactly beside it */
    bool building;
    bool loaded_from_cache;
    uint64_t builds;
    uint64_t memory_bytes;
    char factory[64]; /* in use */
    char error[128];  /* of the last build; "" */
};
void dn_retrieval_status(const struct dn_retrieval *retrieval, struct dn_retrieval_status *ret);

/* ---- files: catalogue loading, used by the client program and by tests --------------------------------- */

/* Reads items one by one from a file and gives them to `each` (which copies what it keeps; a code other than
 * DN_OK stops the reading and is returned). Errors name file, line or row, and what is wrong.
 *   .jsonl {"id":"a","vector":[...],"category":"x","price":1.5,"available":true,"attributes":{"k":"v"}} .npy
 * float32 matrix, C or Fortran order; ids in ids_path, one a line .vec            fastText text vectors:
 * first line "count dim"; its </s> is no item */
typedef enum dn_code (*dn_item_callback)(void *data, const struct dn_item *item, struct dn_error *err);
enum dn_code dn_items_read(const char *path, const char *ids_path, dn_item_callback each, void *data,
                           struct dn_error *err);

#endif
