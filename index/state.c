/* The catalogue's structures: slots, id table, recent log, attribute keys, facts, hash. One writer.
 * Invariants: catalog_internal.h.
 *
 * Life of a block: made (item.c) -> published by dn_state_upsert -> unpublished by a replacement or a delete
 * -> [on the preserved list while an open capture needs it] -> retired -> freed, and its slot free again if
 * the item was deleted. */
#include "base/hash.h"
#include "base/log.h"
#include "index/catalog_internal.h"

#include <stdlib.h>
#include <string.h>

/* A dead table entry: probing goes on past it. */
static struct dn_block dead_entry;
#define DEAD (&dead_entry)

#define CACHE_LINE 64u
#define PREFETCH_LINES 3u /* a block's head, and its id where it has no attributes */

#define FACT_SEED 0x66616374u
#define DIM_SEED 0x64696du

void *dn_must_alloc(size_t size_bytes)
{
    void *memory = malloc(size_bytes);
    if (memory == NULL) {
        dn_err("index", "out of memory (%zu bytes): replicated state cannot go on without it", size_bytes);
        abort();
    }
    return memory;
}

static void *must_zalloc(size_t size_bytes)
{
    return memset(dn_must_alloc(size_bytes), 0, size_bytes);
}

static uint64_t load64(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

/* Single writer: no read-modify-write needed. */
static void add64(_Atomic uint64_t *value, uint64_t delta)
{
    atomic_store_explicit(value, load64(value) + delta, memory_order_release);
}

static void account(struct dn_state *state, size_t more, size_t less)
{
    add64(&state->memory_bytes, (uint64_t)more - (uint64_t)less);
}

static void free_plain(void *context, void *object)
{
    (void)context;
    free(object);
}

static void retire_plain(struct dn_state *state, void *object)
{
    if (object == NULL) {
        return;
    }
    if (state->live) {
        dn_epoch_retire(state->epoch, object, free_plain, NULL);
    } else {
        free(object);
    }
}

void dn_state_retire_plain(struct dn_state *state, void *object)
{
    retire_plain(state, object);
}

void dn_state_hash_add(struct dn_state *state, uint64_t delta)
{
    add64(&state->hash, delta);
}

void dn_state_account(struct dn_state *state, size_t more, size_t less)
{
    account(state, more, less);
}

/* ---- slots ------------------------------------------------------------------------------------------------
 */

static void pool_give(struct dn_slot_pool *pool, uint32_t slot)
{
    if (pool->count == pool->capacity) {
        size_t capacity = pool->capacity == 0 ? 256 : pool->capacity * 2;
        uint32_t *grown = realloc(pool->free_slots, capacity * sizeof *grown);
        if (grown == NULL) {
            return; /* the slot is lost, nothing else */
        }
        pool->free_slots = grown;
        pool->capacity = capacity;
    }
    pool->free_slots[pool->count++] = slot;
}

static void pool_free(struct dn_slot_pool *pool)
{
    free(pool->free_slots);
    free(pool);
}

/* A retired block whose slot stays with its item. */
static void free_block(void *context, void *object)
{
    (void)context;
    free(object);
}

/* A retired block whose item is gone: no reader can mistake the slot for it any more. */
static void free_block_and_slot(void *context, void *object)
{
    struct dn_slot_pool *pool = context;
    struct dn_block *block = object;
    pool->pending--;
    if (!pool->orphan) {
        pool_give(pool, block->slot);
    } else if (pool->pending == 0) {
        pool_free(pool);
    }
    free(block);
}

static uint32_t take_slot(struct dn_state *state)
{
    if (state->pool->count > 0) {
        return state->pool->free_slots[--state->pool->count];
    }
    uint32_t slot = atomic_load_explicit(&state->slot_bound, memory_order_relaxed);
    size_t at = slot / DN_DIRECTORY_CHUNK;
    while (at >= state->chunks_max) {
        /* Only when a reader has sat in one epoch through several times items_max deletes. */
        (void)dn_epoch_reclaim(state->epoch, SIZE_MAX);
        if (state->pool->count > 0) {
            return state->pool->free_slots[--state->pool->count];
        }
    }
    if (atomic_load_explicit(&state->chunks[at], memory_order_relaxed) == NULL) {
        struct dn_chunk *chunk = must_zalloc(sizeof *chunk);
        account(state, sizeof *chunk, 0);
        atomic_store_explicit(&state->chunks[at], chunk, memory_order_release);
    }
    atomic_store_explicit(&state->slot_bound, slot + 1, memory_order_release);
    return slot;
}

static void publish(struct dn_state *state, uint32_t slot, struct dn_block *block)
{
    struct dn_chunk *chunk =
        atomic_load_explicit(&state->chunks[slot / DN_DIRECTORY_CHUNK], memory_order_relaxed);
    atomic_store_explicit(&chunk->slots[slot % DN_DIRECTORY_CHUNK], block, memory_order_release);
}

/* ---- id table
 * ----------------------------------------------------------------------------------------------- */

static struct dn_table *table_make(uint32_t capacity)
{
    struct dn_table *table = must_zalloc(sizeof *table + capacity * sizeof table->entries[0]);
    table->mask = capacity - 1;
    return table;
}

static size_t table_bytes(const struct dn_table *table)
{
    return sizeof *table + ((size_t)table->mask + 1) * sizeof table->entries[0];
}

static size_t segment_of(uint64_t id_hash)
{
    return id_hash >> 56;
}

static bool same_id(const struct dn_block *block, uint64_t id_hash, const char *id, size_t id_length)
{
    return block->id_hash == id_hash && block->id_length == id_length &&
           memcmp(block->id, id, id_length) == 0;
}

static uint32_t table_seek(const struct dn_table *table, uint64_t id_hash, const char *id, size_t id_length)
{
    /* Ends: a table always has an empty entry. */
    for (uint32_t at = (uint32_t)id_hash & table->mask;; at = (at + 1) & table->mask) {
        struct dn_block *block = atomic_load_explicit(&table->entries[at], memory_order_acquire);
        if (block == NULL) {
            return UINT32_MAX;
        }
        if (block != DEAD && same_id(block, id_hash, id, id_length)) {
            return at;
        }
    }
}

struct dn_block *dn_state_find(const struct dn_state *state, uint64_t id_hash, const char *id,
                               size_t id_length)
{
    const struct dn_table *table =
        atomic_load_explicit(&state->segments[segment_of(id_hash)], memory_order_acquire);
    for (uint32_t at = (uint32_t)id_hash & table->mask;; at = (at + 1) & table->mask) {
        struct dn_block *block = atomic_load_explicit(&table->entries[at], memory_order_acquire);
        if (block == NULL) {
            return NULL;
        }
        if (block != DEAD && same_id(block, id_hash, id, id_length)) {
            return block;
        }
    }
}

void dn_state_prefetch(const struct dn_state *state, uint64_t id_hash, bool behind)
{
    const struct dn_table *table =
        atomic_load_explicit(&state->segments[segment_of(id_hash)], memory_order_acquire);
    uint32_t at = (uint32_t)id_hash & table->mask;

    if (!behind) {
        __builtin_prefetch((const void *)&table->entries[at]);
        return;
    }
    const char *block = (const char *)atomic_load_explicit(&table->entries[at], memory_order_relaxed);
    if (block != NULL && block != (const char *)DEAD) {
        for (size_t line = 0; line < PREFETCH_LINES; line++) {
            __builtin_prefetch(block + line * CACHE_LINE);
        }
    }
}

struct dn_block *dn_state_find_hashes(const struct dn_state *state, uint64_t id_hash, uint64_t vector_hash)
{
    const struct dn_table *table =
        atomic_load_explicit(&state->segments[segment_of(id_hash)], memory_order_acquire);
    for (uint32_t at = (uint32_t)id_hash & table->mask;; at = (at + 1) & table->mask) {
        struct dn_block *block = atomic_load_explicit(&table->entries[at], memory_order_acquire);
        if (block == NULL) {
            return NULL;
        }
        if (block != DEAD && block->id_hash == id_hash && block->vector_hash == vector_hash) {
            return block;
        }
    }
}

static void table_put(struct dn_table *table, struct dn_block *block)
{
    uint32_t at = (uint32_t)block->id_hash & table->mask;
    while (atomic_load_explicit(&table->entries[at], memory_order_relaxed) != NULL) {
        at = (at + 1) & table->mask;
    }
    table->used++;
    table->live++;
    atomic_store_explicit(&table->entries[at], block, memory_order_release);
}

/* Makes room for one more entry; drops the dead ones when it moves. */
static struct dn_table *table_ready(struct dn_state *state, size_t segment)
{
    struct dn_table *old = atomic_load_explicit(&state->segments[segment], memory_order_relaxed);
    uint32_t capacity = old->mask + 1;
    /* At most half full: each entry that is met before the right one is another block to be waited for. */
    if ((uint64_t)(old->used + 1) * 2 <= (uint64_t)capacity) {
        return old;
    }
    uint32_t wanted = DN_SEGMENT_MIN;
    while ((uint64_t)(old->live + 1) * 4 > wanted) {
        wanted *= 2;
    }
    struct dn_table *grown = table_make(wanted);
    for (uint32_t i = 0; i < capacity; i++) {
        struct dn_block *block = atomic_load_explicit(&old->entries[i], memory_order_relaxed);
        if (block != NULL && block != DEAD) {
            table_put(grown, block);
        }
    }
    account(state, table_bytes(grown), table_bytes(old));
    atomic_store_explicit(&state->segments[segment], grown, memory_order_release);
    retire_plain(state, old);
    return grown;
}

/* ---- recent log
 * ---------------------------------------------------------------------------------------------- */

static uint64_t log_append(struct dn_state *state, uint32_t slot)
{
    uint64_t seq = load64(&state->log_head);
    size_t at = (seq / DN_LOG_CHUNK) % DN_LOG_CHUNKS;
    struct dn_log_chunk *chunk = atomic_load_explicit(&state->log[at], memory_order_relaxed);
    if (chunk == NULL || chunk->base != seq - seq % DN_LOG_CHUNK) {
        struct dn_log_chunk *fresh = dn_must_alloc(sizeof *fresh);
        fresh->base = seq - seq % DN_LOG_CHUNK;
        account(state, sizeof *fresh, chunk != NULL ? sizeof *chunk : 0);
        atomic_store_explicit(&state->log[at], fresh, memory_order_release);
        retire_plain(state, chunk);
        chunk = fresh;
    }
    chunk->slots[seq % DN_LOG_CHUNK] = slot;
    atomic_store_explicit(&state->log_head, seq + 1, memory_order_release);
    return seq;
}

/* ---- attribute keys
 * -------------------------------------------------------------------------------------------- */

/* Where the key is, or would be. */
static size_t keys_seek(const struct dn_keys *keys, const char *key, size_t length, bool *ret_found)
{
    size_t low = 0, high = keys->count;
    *ret_found = false;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct dn_key *at = keys->keys[middle];
        size_t common = at->length < length ? at->length : length;
        int order = memcmp(at->bytes, key, common);
        if (order == 0) {
            order = (at->length > length) - (at->length < length);
        }
        if (order == 0) {
            *ret_found = true;
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static struct dn_keys *keys_alloc(size_t count)
{
    struct dn_keys *keys = dn_must_alloc(sizeof *keys + count * sizeof keys->keys[0]);
    keys->count = count;
    return keys;
}

static void keys_add(struct dn_state *state, const char *key, uint16_t length)
{
    struct dn_keys *old = atomic_load_explicit(&state->keys, memory_order_relaxed);
    bool found;
    size_t at = keys_seek(old, key, length, &found);
    if (found) {
        old->keys[at]->count++;
        return;
    }
    struct dn_key *fresh = must_zalloc(sizeof *fresh);
    fresh->count = 1;
    fresh->length = length;
    memcpy(fresh->bytes, key, length);
    struct dn_keys *grown = keys_alloc(old->count + 1);
    memcpy(grown->keys, old->keys, at * sizeof old->keys[0]);
    grown->keys[at] = fresh;
    memcpy(grown->keys + at + 1, old->keys + at, (old->count - at) * sizeof old->keys[0]);
    account(state, sizeof *fresh, 0);
    atomic_store_explicit(&state->keys, grown, memory_order_release);
    retire_plain(state, old);
}

static void keys_drop(struct dn_state *state, const char *key, uint16_t length)
{
    struct dn_keys *old = atomic_load_explicit(&state->keys, memory_order_relaxed);
    bool found;
    size_t at = keys_seek(old, key, length, &found);
    DN_ASSERT(found);
    struct dn_key *gone = old->keys[at];
    if (--gone->count > 0) {
        return;
    }
    struct dn_keys *less = keys_alloc(old->count - 1);
    memcpy(less->keys, old->keys, at * sizeof old->keys[0]);
    memcpy(less->keys + at, old->keys + at + 1, (old->count - at - 1) * sizeof old->keys[0]);
    account(state, 0, sizeof *gone);
    atomic_store_explicit(&state->keys, less, memory_order_release);
    retire_plain(state, gone);
    retire_plain(state, old);
}

/* Would the keys of `block` fit beside those in use? Counts conservatively and the same on every node. */
static bool keys_fit(const struct dn_state *state, const struct dn_block *block)
{
    const struct dn_keys *keys = atomic_load_explicit(&state->keys, memory_order_relaxed);
    size_t count = keys->count;
    for (uint16_t i = 0; i < block->attribute_count; i++) {
        bool found;
        (void)keys_seek(keys, block->attributes[i].key, block->attributes[i].key_length, &found);
        count += found ? 0 : 1;
    }
    return count <= DN_ATTRIBUTE_KEYS_MAX;
}

/* ---- items
 * ------------------------------------------------------------------------------------------------------- */

static void count_in(struct dn_state *state, const struct dn_block *block)
{
    add64(&state->item_count, 1);
    add64(&state->vector_count, block->dim > 0 ? 1 : 0);
    add64(&state->unavailable_count, block->available ? 0 : 1);
    add64(&state->hash, block->content_hash);
    account(state, block->size_bytes, 0);
    for (uint16_t i = 0; i < block->attribute_count; i++) {
        keys_add(state, block->attributes[i].key, block->attributes[i].key_length);
    }
}

static void count_out(struct dn_state *state, const struct dn_block *block)
{
    add64(&state->item_count, (uint64_t)-1);
    add64(&state->vector_count, block->dim > 0 ? (uint64_t)-1 : 0);
    add64(&state->unavailable_count, block->available ? 0 : (uint64_t)-1);
    add64(&state->hash, (uint64_t)0 - block->content_hash);
    account(state, 0, block->size_bytes);
    for (uint16_t i = 0; i < block->attribute_count; i++) {
        keys_drop(state, block->attributes[i].key, block->attributes[i].key_length);
    }
}

/* Readers may hold it. */
static void retire_block(struct dn_state *state, struct dn_block *block)
{
    if (!state->live) {
        if (!block->replaced) {
            pool_give(state->pool, block->slot);
        }
        free(block);
    } else if (block->replaced) {
        dn_epoch_retire(state->epoch, block, free_block, NULL);
    } else {
        state->pool->pending++;
        dn_epoch_retire(state->epoch, block, free_block_and_slot, state->pool);
    }
}

/* Before the directory lets go of the block (invariant 6). True: the open capture keeps it. */
static bool preserve(struct dn_state *state, struct dn_block *block)
{
    if (!state->capture_open || block->made >= state->made) {
        return false;
    }
    block->next = atomic_load_explicit(&state->preserved, memory_order_relaxed);
    if (block->next == NULL) {
        state->preserved_oldest = block;
    }
    atomic_store_explicit(&state->preserved, block, memory_order_release);
    return true;
}

enum dn_item_outcome dn_state_upsert(struct dn_state *state, struct dn_block *block)
{
    uint32_t dim = atomic_load_explicit(&state->dim, memory_order_relaxed);
    size_t segment = segment_of(block->id_hash);
    struct dn_table *table = atomic_load_explicit(&state->segments[segment], memory_order_relaxed);
    uint32_t at = table_seek(table, block->id_hash, block->id, block->id_length);
    enum dn_item_outcome outcome = DN_ITEM_OK;
    if (block->dim != 0 && dim != 0 && block->dim != dim) {
        outcome = DN_ITEM_WRONG_DIM;
    } else if ((at == UINT32_MAX && load64(&state->item_count) >= state->items_max) ||
               !keys_fit(state, block)) {
        outcome = DN_ITEM_NO_ROOM;
    }
    if (outcome != DN_ITEM_OK) {
        free(block);
        return outcome;
    }
    if (block->dim != 0 && dim == 0) {
        add64(&state->hash, dn_dim_hash(block->dim));
        atomic_store_explicit(&state->dim, block->dim, memory_order_release);
    }
    block->made = state->made;
    struct dn_block *old = NULL;
    if (at != UINT32_MAX) {
        old = atomic_load_explicit(&table->entries[at], memory_order_relaxed);
        block->slot = old->slot;
        block->log_seq = old->log_seq;
    } else {
        block->slot = take_slot(state);
        table = table_ready(state, segment);
    }
    if (block->dim != 0 && (old == NULL || old->vector_hash != block->vector_hash)) {
        block->log_seq = log_append(state, block->slot);
    }
    /* In before out: a key that both have keeps its count above zero. */
    count_in(state, block);
    if (old == NULL) {
        publish(state, block->slot, block);
        table_put(table, block);
    } else {
        count_out(state, old);
        old->replaced = true;
        bool kept = preserve(state, old);
        publish(state, block->slot, block);
        atomic_store_explicit(&table->entries[at], block, memory_order_release);
        if (!kept) {
            retire_block(state, old);
        }
    }
    add64(&state->changes, 1);
    return DN_ITEM_OK;
}

enum dn_item_outcome dn_state_delete(struct dn_state *state, const char *id, uint16_t id_length)
{
    uint64_t id_hash = dn_hash64(id, id_length, 0);
    struct dn_table *table =
        atomic_load_explicit(&state->segments[segment_of(id_hash)], memory_order_relaxed);
    uint32_t at = table_seek(table, id_hash, id, id_length);
    if (at == UINT32_MAX) {
        return DN_ITEM_NOT_FOUND;
    }
    struct dn_block *block = atomic_load_explicit(&table->entries[at], memory_order_relaxed);
    count_out(state, block);
    bool kept = preserve(state, block);
    atomic_store_explicit(&table->entries[at], DEAD, memory_order_release);
    table->live--;
    publish(state, block->slot, NULL);
    if (!kept) {
        retire_block(state, block);
    }
    add64(&state->changes, 1);
    return DN_ITEM_OK;
}

void dn_state_retire_waiting(struct dn_state *state, uint32_t budget)
{
    while (state->waiting != NULL && budget-- > 0) {
        struct dn_block *block = state->waiting;
        state->waiting = block->next;
        retire_block(state, block);
    }
}

/* ---- facts
 * ---------------------------------------------------------------------------------------------------------
 */

uint64_t dn_fact_hash(const struct dn_fact *fact)
{
    return dn_hash64(fact->value, fact->value_length, dn_hash64(fact->key, fact->key_length, FACT_SEED));
}

uint64_t dn_dim_hash(uint32_t dim)
{
    return dim == 0 ? 0 : dn_hash64(&dim, sizeof dim, DIM_SEED);
}

const struct dn_fact *dn_state_fact(struct dn_state *state, const char *key, size_t key_length,
                                    const char *value, size_t value_length)
{
    DN_ASSERT(key_length <= DN_FACT_KEY_MAX && value_length <= DN_FACT_VALUE_MAX);
    uint32_t count = atomic_load_explicit(&state->fact_count, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        const struct dn_fact *fact = atomic_load_explicit(&state->facts[i], memory_order_relaxed);
        if (fact->key_length == key_length && memcmp(fact->key, key, key_length) == 0) {
            return fact;
        }
    }
    if (count == DN_FACTS_MAX) {
        return NULL;
    }
    struct dn_fact *fact = must_zalloc(sizeof *fact);
    fact->key_length = (uint16_t)key_length;
    fact->value_length = (uint16_t)value_length;
    memcpy(fact->key, key, key_length);
    memcpy(fact->value, value, value_length);
    add64(&state->hash, dn_fact_hash(fact));
    account(state, sizeof *fact, 0);
    atomic_store_explicit(&state->facts[count], fact, memory_order_release);
    atomic_store_explicit(&state->fact_count, count + 1, memory_order_release);
    return fact;
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------
 */

struct dn_state *dn_state_create(struct dn_epoch *epoch, uint32_t items_max, bool live)
{
    struct dn_state *state = calloc(1, sizeof *state);
    if (state == NULL) {
        return NULL;
    }
    state->epoch = epoch;
    state->items_max = items_max;
    state->live = live;
    atomic_store(&state->pinned.state, state);
    state->made = 1;
    /* Slots of deleted items wait for readers before they serve again: leave room for that. */
    state->chunks_max = (size_t)items_max * 4 / DN_DIRECTORY_CHUNK + 16;
    state->chunks = calloc(state->chunks_max, sizeof *state->chunks);
    state->pool = calloc(1, sizeof *state->pool);
    if (state->chunks == NULL || state->pool == NULL) {
        free(state->chunks);
        free(state->pool);
        free(state);
        return NULL;
    }
    atomic_store(&state->log_head, 1);
    for (size_t i = 0; i < DN_SEGMENTS; i++) {
        struct dn_table *table = table_make(DN_SEGMENT_MIN);
        account(state, table_bytes(table), 0);
        atomic_store(&state->segments[i], table);
    }
    atomic_store(&state->keys, keys_alloc(0));
    account(state, sizeof *state, 0);
    return state;
}

static void free_list(struct dn_block *block)
{
    while (block != NULL) {
        struct dn_block *next = block->next;
        free(block);
        block = next;
    }
}

bool dn_state_dispose(struct dn_state *state, uint32_t budget)
{
    uint32_t bound = atomic_load_explicit(&state->slot_bound, memory_order_relaxed);
    for (; state->dispose_slot < bound && budget > 0; state->dispose_slot++, budget--) {
        free(dn_state_block(state, state->dispose_slot));
    }
    if (state->dispose_slot < bound) {
        return false;
    }
    for (size_t i = 0; i < state->chunks_max; i++) {
        free(atomic_load(&state->chunks[i]));
    }
    free(state->chunks);
    for (size_t i = 0; i < DN_SEGMENTS; i++) {
        free(atomic_load(&state->segments[i]));
    }
    for (size_t i = 0; i < DN_LOG_CHUNKS; i++) {
        free(atomic_load(&state->log[i]));
    }
    for (size_t i = 0; i < DN_FACTS_MAX; i++) {
        free(atomic_load(&state->facts[i]));
    }
    struct dn_keys *keys = atomic_load(&state->keys);
    for (size_t i = 0; i < keys->count; i++) {
        free(keys->keys[i]);
    }
    free(keys);
    free(atomic_load(&state->model));
    free_list(atomic_load(&state->preserved));
    free_list(state->waiting);
    if (state->pool->pending > 0) {
        state->pool->orphan = true;
    } else {
        pool_free(state->pool);
    }
    free(state);
    return true;
}

void dn_state_destroy(struct dn_state *state)
{
    if (state != NULL) {
        bool done = dn_state_dispose(state, UINT32_MAX);
        DN_ASSERT(done);
    }
}
