/* Checkers: each judges a whole history by one rule, in time linear in the history (sorting aside). Pure; one
 * thread a history.
 *
 * What the checkers take from a history beside the operations of clients:
 *   - FAULT "final": reads that begin after it are the last ones, of nodes that have all there is
 * (converged).
 *   - FAULT "begin" and "end": recovery counts from the last end, and gives more time for as long as the
 * machine itself stalled (CHAOS_SLOW_MACHINE). Between them, and while members change, the node that the
 * fault names (any, if it names none) may restart: its commit index may go back then; not in the network's
 * faults and pauses (by the beginning of the name, check_cluster.c). Its term may go back only in what wipes
 * a disk.
 *   - STATUS of process CHAOS_NEMESIS: what a node's log says of leaders, written when all is over.
 *   - INGEST: one user's events in one partition (:name), :info before it has them, :ok when it does, :fail
 * when it never will; of CHAOS_NO_USER: messages that are no events. Nothing in a stream is late or too much
 * for the server. An event of a user counts once for ever, also across an erasure: it is never taken again.
 */
#ifndef DN_CHAOS_CHECK_H
#define DN_CHAOS_CHECK_H

#include "chaos/history.h"

#define CHAOS_RULES(X)                                                                                       \
    X(LOST, "lost", "no acknowledged event or item is missing")                                              \
    X(TWICE, "twice", "no event is in a session twice")                                                      \
    X(INVENTED, "invented", "no event or item that nobody wrote, none surely refused, none of another user") \
    X(ORDER, "order", "each user's events stand in one order, by time, everywhere")                          \
    X(SLICES, "slices",                                                                                      \
      "reads are slices of one history: of two reads of a user one holds the other, and versions agree")     \
    X(REAL_TIME, "real-time", "a LINEARIZABLE read holds what was acknowledged or read before it began")     \
    X(TOKEN, "token", "a read with a token holds what the token covers")                                     \
    X(MONOTONIC, "monotonic", "a client that passes its token on never goes back")                           \
    X(AGE, "age", "a LOCAL answer holds all that was acknowledged before it began, less the age it claims")  \
    X(OFFSET, "offset",                                                                                      \
      "a stream's offset and its events move together, never back, and in the end to the stream's end")      \
    X(STREAM, "stream",                                                                                      \
      "in the end each event of a stream is in its session, and each other message is one dead letter")      \
    X(ANSWERS, "answers", "an answer that says OK holds what it must, in a form that it can have")           \
    X(HASH, "hash", "equal state hashes at equal index, on all nodes")                                       \
    X(LEADER, "leader", "one leader a term and group; terms and commit indexes of a node never go back")     \
    X(RECOVERY, "recovery",                                                                                  \
      "after the last fault ends, writes are acknowledged on all shards within the bound")                   \
    X(CONVERGED, "converged", "in the end all nodes answer the same")

enum chaos_rule {
#define X(symbol, name, text) CHAOS_RULE_##symbol,
    CHAOS_RULES(X)
#undef X
        CHAOS_RULE_COUNT,
};

enum chaos_verdict {
    CHAOS_VALID,
    CHAOS_VIOLATED,
    CHAOS_UNTESTED, /* nothing in the history could have shown a violation: said aloud, never counted as valid
                     */
};

#define CHAOS_EXAMPLES_MAX 8

struct chaos_judgement {
    enum chaos_verdict verdict;
    uint64_t judged; /* how many observations the rule was applied to */
    uint64_t violations;
    struct {
        size_t index[3]; /* operations that contradict each other; SIZE_MAX: unused */
        char text[256];  /* for people: what was seen, what had to be */
    } examples[CHAOS_EXAMPLES_MAX];
    size_t examples_count;
};

struct chaos_check_options {
    int64_t recovery_bound_ns; /* 0: the default, 10 s */
};

/* Fills one judgement a rule. Returns how many rules are violated. */
int chaos_check(const struct chaos_history *history, const struct chaos_check_options *options,
                struct chaos_judgement judgements[CHAOS_RULE_COUNT]);

const char *chaos_rule_name(enum chaos_rule rule);
const char *chaos_rule_text(enum chaos_rule rule);

#endif
