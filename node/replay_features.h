/* Private to node: what was known of a user's session just before each event, as rows for training.
 *
 * A row has nothing of the future in it: neither events that come after it in the stream, nor such that came
 * before it with a later time of their own. docs/replay.md has the columns. One thread. */
#ifndef DN_NODE_REPLAY_FEATURES_H
#define DN_NODE_REPLAY_FEATURES_H

#include "node/replay_source.h"

#define DN_FEATURES_LAST_MAX 1000

struct dn_features;

struct dn_features_options {
    FILE *out;      /* belongs to the caller */
    bool csv;       /* else JSON lines */
    bool show_ids;  /* users by id, not by hash */
    unsigned types; /* bit by enum dn_event_type: rows at these; 0: at all */
    uint32_t last;  /* items of the session that a row has, at most */
    int64_t gap_ms; /* as in the shards' settings */
};
/* NULL: out of memory. */
struct dn_features *dn_features_create(const struct dn_features_options *options);
void dn_features_destroy(struct dn_features *features); /* NULL allowed */
/* Sets `before` and `after`; its data is then the features. */
void dn_features_watch(struct dn_features *features, struct dn_replay_watch *ret);
uint64_t dn_features_rows(const struct dn_features *features);
/* Why `before` or `after` stopped. */
bool dn_features_no_memory(const struct dn_features *features);

/* ---- the calculation alone, for tests ---- */

struct dn_session_before {
    bool known;       /* something of the user is, before that time */
    int64_t last_ms;  /* of it */
    uint32_t events;  /* of the session that an event at that time would join; 0: none */
    int64_t start_ms; /* of that session, with events > 0 */
    uint32_t counts[DN_EVENT_TYPE_MAX + 1]; /* its events by type */
    size_t first, end; /* view->events[first..end) are those of it that are still listed */
};
/* The session as it was at time_ms: what is in the view and not after that time. Exact while the user's
 * events of the last lateness are still listed (events_per_user). */
void dn_session_before(const struct dn_session_view *view, int64_t time_ms, int64_t gap_ms,
                       struct dn_session_before *ret);

#endif
