/* Answers that say OK and cannot be understood: the client writes what is safe (a read is :fail, a write
 * :info) and why; that such an answer came at all is the violation. */
#include "chaos/check_private.h"

#include <inttypes.h>
#include <string.h>

static bool is_malformed(const struct chaos_op *op)
{
    return (op->type == CHAOS_FAIL || op->type == CHAOS_INFO) && op->error != NULL &&
           strncmp(op->error, CHAOS_MALFORMED, strlen(CHAOS_MALFORMED)) == 0;
}

void chaos_check_answers(struct chaos_check *check)
{
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        if (op->process == CHAOS_NEMESIS) {
            continue;
        }
        bool malformed = is_malformed(op);
        chaos_judged(check, CHAOS_RULE_ANSWERS, malformed || op->type == CHAOS_OK);
        if (malformed) {
            chaos_violated(check, CHAOS_RULE_ANSWERS, (uint32_t)i, CHAOS_NEVER, CHAOS_NEVER,
                           "%s at node %" PRIu32 ": %.160s", chaos_f_name(op->f), op->node, op->error);
        }
    }
}
