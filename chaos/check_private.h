/* What the checkers share. An operation is named by its index; "before" is "of smaller index", which is what
 * real time says: an :invoke is written before the request is sent, and an :ok after the answer came. */
#ifndef DN_CHAOS_CHECK_PRIVATE_H
#define DN_CHAOS_CHECK_PRIVATE_H

#include "chaos/check.h"

#define CHAOS_NEVER UINT32_MAX /* an index that no operation has, after all others */

struct chaos_check {
    const struct chaos_history *history;
    size_t count;
    struct chaos_check_options options;
    struct chaos_judgement *judgements; /* CHAOS_RULE_COUNT */
    uint32_t final_from;                /* the FAULT "final"; CHAOS_NEVER: none */
};

/* Counts one violation and keeps the first ones as examples. Unused operations are CHAOS_NEVER. */
void chaos_violated(struct chaos_check *check, enum chaos_rule rule, uint32_t a, uint32_t b, uint32_t c,
                    const char *format, ...) __attribute__((format(printf, 6, 7)));
/* One observation the rule was applied to, and that could have shown a violation. */
void chaos_judged(struct chaos_check *check, enum chaos_rule rule, uint64_t count);

/* The index from which operations are no longer surely before this time: all below it are. */
uint32_t chaos_index_at(const struct chaos_check *check, int64_t time_ns);

/* What a read must be as new as, rule by rule: as if it were read at `before`. */
struct chaos_bound {
    enum chaos_rule rule;
    uint32_t before;
};
#define CHAOS_BOUNDS 3
/* Of the read that `ok` ends: REAL_TIME when it is linearizable, CONVERGED when it is one of the last, AGE
 * when it tells one. Returns how many. */
size_t chaos_bounds(const struct chaos_check *check, const struct chaos_op *invoke, const struct chaos_op *ok,
                    struct chaos_bound ret[CHAOS_BOUNDS]);

void chaos_check_sessions(struct chaos_check *check);
void chaos_check_streams(struct chaos_check *check);
void chaos_check_items(struct chaos_check *check);
void chaos_check_cluster(struct chaos_check *check);
void chaos_check_answers(struct chaos_check *check);
void chaos_check_final(struct chaos_check *check);

#define CHAOS_STREAM_NAME_MAX 256 /* bytes of a stream's name that are looked at */
/* A partition is known by its name, "STREAM/PARTITION". */
uint64_t chaos_source_hash(const char *name);
uint64_t chaos_partition_hash(const char *stream, uint64_t partition);

/* The number of session shards: the largest group a status names; 0: none does. */
uint32_t chaos_shards(const struct chaos_history *history);
/* The group that a write goes to: 0 for the catalogue, the user's shard; CHAOS_NEVER: it is no write, or the
 * shards are not known. */
uint32_t chaos_group_of(const struct chaos_op *op, uint32_t shards);
/* An :ok of a write that says that it went through the log: of a publish, one event at least. */
bool chaos_acknowledged(const struct chaos_op *op);

/* ---- tables and lists ------------------------------------------------------------------------------ */

struct chaos_slot {
    uint64_t a, b;
    uint32_t value; /* CHAOS_NEVER: a free place */
};
/* A pair of numbers to a number below CHAOS_NEVER. All zero is an empty one. */
struct chaos_table {
    struct chaos_slot *slots;
    size_t count, capacity;
};
uint32_t chaos_table_find(const struct chaos_table *table, uint64_t a,
                          uint64_t b); /* CHAOS_NEVER: not there */
/* The value of a, b; `value` becomes it where there is none. */
uint32_t chaos_table_put(struct chaos_table *table, uint64_t a, uint64_t b, uint32_t value);
void chaos_table_set(struct chaos_table *table, uint64_t a, uint64_t b, uint32_t value); /* replaces it */
void chaos_table_free(struct chaos_table *table);

/* Ends the program when memory is out: half a judgement would be taken for a whole one. */
void *chaos_alloc(size_t count, size_t size); /* zeroed; count may be 0 */
/* The list with room for one more: itself or another place. */
void *chaos_room(void *list, size_t count, size_t *capacity, size_t size);

static inline uint32_t chaos_min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t chaos_max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

#endif
