/* A client: one Jepsen process that asks one thing at a time, and writes down what it asked and was told. */
#ifndef DN_CHAOS_WORKLOAD_CLIENT_H
#define DN_CHAOS_WORKLOAD_CLIENT_H

#include "chaos/history.h"
#include "chaos/workload_call.h"
#include "chaos/workload_random.h"
#include "chaos/workload_token.h"

#include <stdatomic.h>

#define WORKLOAD_DIM 16        /* numbers of an item's vector */
#define WORKLOAD_NEAR 3        /* items asked for by Similar */
#define WORKLOAD_EVENTS_MAX 16 /* of one publish */

/* Counts for the progress line; any thread. */
struct workload_counts {
    atomic_ullong of[CHAOS_F_COUNT][CHAOS_INFO + 1]; /* by f and type; [CHAOS_INVOKE]: begun */
    /* When the last publish to each shard (an upsert: group 0) was acknowledged, as chaos_history_now_ns; 0:
     * none yet. A user's shard is known once the user was read. */
    atomic_llong acknowledged_ns[CHAOS_GROUPS_MAX];
};

/* One thread. */
struct workload_client {
    struct chaos_history *history;
    struct workload_counts *counts;
    struct workload_links links;
    struct workload_random random;
    int32_t process, processes; /* the next process is process + processes */
    unsigned deadline_ms;
};

/* The number behind a prefix as in "i-1041"; false for any other text. */
bool workload_number(const char *text, const char *prefix, uint64_t *ret_number);
/* The vector that only item number `item` has, of length 1. */
void workload_vector(uint64_t item, float ret_vector[WORKLOAD_DIM]);

/* Each writes its :invoke, asks `node`, and writes what came; returns how it ended (workload_class.h).
 *
 * publish: outcomes are set in events[]; shard: the user's, 0 when unknown (for counts only). tokens: what
 * the client keeps for this key; the answer's token is kept there; NULL: none are used. */
enum chaos_type workload_publish(struct workload_client *client, unsigned node, uint64_t user,
                                 struct chaos_event *events, size_t count, uint32_t shard,
                                 struct workload_tokens *tokens);
enum chaos_type workload_erase(struct workload_client *client, unsigned node, uint64_t user);
/* with_token: one of tokens is given, when there is one. Level SESSION needs one: without, it is LOCAL.
 * ret_shard: the user's shard, set when it is CHAOS_OK. */
enum chaos_type workload_read(struct workload_client *client, unsigned node, uint64_t user,
                              enum chaos_level level, bool with_token, struct workload_tokens *tokens,
                              uint32_t *ret_shard);

enum chaos_type workload_upsert(struct workload_client *client, unsigned node, uint64_t item, uint64_t value,
                                struct workload_tokens *tokens);
enum chaos_type workload_delete(struct workload_client *client, unsigned node, uint64_t item);
enum chaos_type workload_get(struct workload_client *client, unsigned node, uint64_t item,
                             enum chaos_level level, bool with_token, struct workload_tokens *tokens);
enum chaos_type workload_similar(struct workload_client *client, unsigned node, uint64_t item,
                                 enum chaos_level level, bool with_token, struct workload_tokens *tokens);

/* hash_at: by group, the index whose state hash is asked for (0: the newest); CHAOS_GROUPS_MAX of them. Fills
 * up to CHAOS_GROUPS_MAX groups when it is CHAOS_OK. */
enum chaos_type workload_status(struct workload_client *client, unsigned node,
                                const uint64_t hash_at[CHAOS_GROUPS_MAX], struct chaos_group *ret_groups,
                                size_t *ret_count);

/* Sources.List and DeadLetters.List: rows as in history.h, those of the stream called `stream` in the
 * configuration; CHAOS_LIST_MAX of them. */
enum chaos_type workload_offsets(struct workload_client *client, unsigned node, const char *stream,
                                 struct chaos_row *ret_rows, size_t *ret_count);
enum chaos_type workload_dead_letters(struct workload_client *client, unsigned node,
                                      struct chaos_row *ret_rows, size_t *ret_count);

/* For these and those of other files: :invoke, and what came of it. *op keeps what both have in common. */
void workload_begin(struct workload_client *client, struct chaos_op *op);
void workload_end(struct workload_client *client, struct chaos_op *op, enum chaos_type type,
                  const struct workload_answer *answer);
/* Counts a write of this group as acknowledged now. */
void workload_acknowledged(struct workload_client *client, uint32_t group);

#endif
