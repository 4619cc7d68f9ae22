/* CONVERGED, its second half: of the last reads, those of one user or item say the same at every node. Nobody
 * writes any more by then (the runner waits until what was open has happened or cannot), so that no open
 * operation excuses a difference. */
#include "chaos/check_private.h"

#include <inttypes.h>
#include <string.h>

/* The place of the item itself among what is near: the other items are other keys' matter. */
static bool finds_itself(const struct chaos_op *ok)
{
    for (size_t i = 0; i < ok->near_count; i++) {
        if (ok->near[i] == ok->key) {
            return true;
        }
    }
    return false;
}

static bool same_list(const struct chaos_op *a, const struct chaos_op *b)
{
    if (a->events_count != b->events_count) {
        return false;
    }
    for (size_t i = 0; i < a->events_count; i++) {
        if (a->events[i].id != b->events[i].id || a->events[i].time_ms != b->events[i].time_ms) {
            return false;
        }
    }
    return true;
}

/* What differs, for people; NULL: nothing. */
static const char *difference(const struct chaos_op *a, const struct chaos_op *b)
{
    if (a->f == CHAOS_SIMILAR) {
        return finds_itself(a) != finds_itself(b) ? "finds it among its neighbours" : NULL;
    }
    if (a->found != b->found) {
        return "has it";
    }
    if (a->found && a->version != b->version) {
        return "gives its version";
    }
    if (a->f == CHAOS_GET) {
        return a->found && a->value != b->value ? "gives its value" : NULL;
    }
    return same_list(a, b) ? NULL : "gives its events";
}

void chaos_check_final(struct chaos_check *check)
{
    struct chaos_table first = {0}; /* f, key: the first answer */
    for (size_t i = check->final_from; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        size_t begun = op->type == CHAOS_OK ? chaos_history_pair(check->history, i) : SIZE_MAX;
        if ((op->f != CHAOS_READ && op->f != CHAOS_GET && op->f != CHAOS_SIMILAR) || begun == SIZE_MAX ||
            begun < check->final_from ||
            chaos_history_at(check->history, begun)->level != CHAOS_LINEARIZABLE) {
            continue;
        }
        uint32_t at = chaos_table_put(&first, op->f, op->key, (uint32_t)i);
        if (at == i) {
            continue;
        }
        const struct chaos_op *other = chaos_history_at(check->history, at);
        const char *differs = difference(other, op);
        chaos_judged(check, CHAOS_RULE_CONVERGED, other->node != op->node);
        if (differs != NULL) {
            chaos_violated(check, CHAOS_RULE_CONVERGED, at, (uint32_t)i, CHAOS_NEVER,
                           "%s of %s %" PRIu64 ": node %" PRIu32 " %s otherwise than node %" PRIu32
                           ", and nobody writes any more",
                           chaos_f_name(op->f), op->f == CHAOS_READ ? "user" : "item", op->key, op->node,
                           differs, other->node);
        }
    }
    chaos_table_free(&first);
}
