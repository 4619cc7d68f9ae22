/* Audit: are the acknowledged events of a user in the session a node shows, each exactly once? Pure. */
#ifndef DN_REPLAY_AUDIT_H
#define DN_REPLAY_AUDIT_H

#include <stddef.h>
#include <stdint.h>

struct dn_audit_event {
    int64_t time_ms;
    uint64_t item; /* a hash */
    int type;      /* dunlin.v1.EventType, never 0 */
};

struct dn_audit_result {
    uint64_t acked;    /* acknowledged events looked for */
    uint64_t present;  /* found */
    uint64_t beyond;   /* older than what a full list still holds: cannot be told */
    uint64_t missing;  /* acknowledged, and not there: lost */
    uint64_t repeated; /* there more often than acknowledged: counted twice */
    uint64_t others;   /* there, never acknowledged: another client's, or of a call without an answer */
};

/* Compares as multisets of (item, time, type). A node keeps the newest `limit` events of a user: with a full
 * list, acknowledged events not newer than its oldest may have left it. Sorts both arrays. Adds to *result.
 */
void dn_audit_user(struct dn_audit_event *acked, size_t acked_count, struct dn_audit_event *shown,
                   size_t shown_count, size_t limit, struct dn_audit_result *result);

#endif
