/* What the EDN reader needs of history.c beside the public header: the same checks as the appends, but with
 * an answer instead of an abort. */
#ifndef DN_CHAOS_HISTORY_PRIVATE_H
#define DN_CHAOS_HISTORY_PRIVATE_H

#include "chaos/history.h"

#define CHAOS_TEXT_MAX 2000 /* bytes of an error, a name or what */

/* Appends *op as it is, or says why it cannot follow what is there: DN_INVALID, DN_EXHAUSTED. Does not lock.
 */
enum dn_code chaos_history_admit(struct chaos_history *history, const struct chaos_op *op,
                                 struct dn_error *err);

#endif
