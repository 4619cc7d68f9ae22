/* Mutants: deliberate faults in the server, to show that the chaos harness and the virtual cluster catch
 * them. They exist only in a build of their own (cmake -DDUNLIN_MUTANTS=ON); in every other build dn_mutant()
 * is the constant false, and the environment is not looked at. At most one is on: the one that DUNLIN_MUTANT
 * names when the process starts. */
#ifndef DN_BASE_MUTANT_H
#define DN_BASE_MUTANT_H

#include <stdbool.h>

/* X(symbol, name, what it does) */
#define DN_MUTANTS(X)                                                                                        \
    X(ACK_BEFORE_COMMIT, "ack-before-commit", "a leader commits as soon as its own disk has an entry")       \
    X(SKIP_DEDUPLICATION, "skip-deduplication", "a repeated event id is counted again")                      \
    X(SKIP_TOKEN_WAIT, "skip-token-wait", "a read does not wait for the indexes of its token")               \
    X(SKIP_BARRIER, "skip-barrier", "a linearizable read asks nobody")                                       \
    X(FORGET_OFFSET, "forget-offset", "a snapshot forgets the next offset of a stream")                      \
    X(ACCEPT_GAP, "accept-gap", "a stream's batch is taken although the one before it is missing")           \
    X(APPLY_LATE, "apply-late", "an entry is called applied 300 ms before it is")                            \
    X(DROP_VOTE, "drop-vote", "a node that starts has forgotten whom it voted for")                          \
    X(UNDERSTATE_AGE, "understate-age", "a node takes its state for new")                                    \
    X(SKIP_FLUSH, "skip-flush", "the journal calls a write durable without a flush")

enum dn_mutant {
    DN_MUTANT_NONE,
#define X(symbol, name, text) DN_MUTANT_##symbol,
    DN_MUTANTS(X)
#undef X
};

#ifdef DUNLIN_MUTANTS
/* Any thread. A DUNLIN_MUTANT that names none of the above ends the process with a message and exit code 2.
 */
bool dn_mutant(enum dn_mutant mutant);
#else
static inline bool dn_mutant(enum dn_mutant mutant)
{
    (void)mutant;
    return false;
}
#endif

#endif
