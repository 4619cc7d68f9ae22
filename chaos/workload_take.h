/* What an answer with status OK says, taken into an operation. One that cannot be such an answer is marked as
 * malformed, with the reason as its message: a finding of the rule "answers". It proves nothing else:
 * CHAOS_FAIL of a read, CHAOS_INFO of a write. Any thread. */
#ifndef DN_CHAOS_WORKLOAD_TAKE_H
#define DN_CHAOS_WORKLOAD_TAKE_H

#include "chaos/history.h"
#include "chaos/workload_call.h"
#include "chaos/workload_client.h"

/* Marks it. */
void workload_malformed(struct workload_answer *answer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Publish: outcomes into events[], and the token. tokens: NULL allowed. CHAOS_INFO without a mark: some
 * outcomes are UNKNOWN. */
enum chaos_type workload_take_outcomes(struct workload_answer *answer, struct chaos_event *events,
                                       size_t count, struct workload_tokens *tokens);
/* Sessions.Get: op->events is malloc'ed when it is CHAOS_OK. given: the token of the question, or NULL. */
enum chaos_type workload_take_session(struct workload_answer *answer, struct chaos_op *op,
                                      const struct workload_token *given, struct workload_tokens *tokens,
                                      uint32_t *ret_shard);
enum chaos_type workload_take_erased(struct workload_answer *answer);
enum chaos_type workload_take_upserted(struct workload_answer *answer, uint64_t value,
                                       struct workload_tokens *tokens);
enum chaos_type workload_take_deleted(struct workload_answer *answer);
enum chaos_type workload_take_item(struct workload_answer *answer, struct chaos_op *op);
/* op->near becomes near[] when it is CHAOS_OK. */
enum chaos_type workload_take_near(struct workload_answer *answer, struct chaos_op *op,
                                   uint64_t near[WORKLOAD_NEAR]);
enum chaos_type workload_take_groups(struct workload_answer *answer, struct chaos_group *groups,
                                     size_t *ret_count);
/* ret_rows: CHAOS_LIST_MAX of them. */
enum chaos_type workload_take_offsets(struct workload_answer *answer, const char *stream,
                                      struct chaos_row *ret_rows, size_t *ret_count);
enum chaos_type workload_take_dead_letters(struct workload_answer *answer, struct chaos_row *ret_rows,
                                           size_t *ret_count);

#endif
