/* Shown: what this node recommended to whom last, so that a click that follows can be counted as a hit; and
 * how varied it was. Private to the room.
 *
 * Invariants:
 *  1. Memory is fixed at the start: a slot a user, found by hash; a newer user takes an older one's slot.
 *  2. Nothing here waits: a slot that another thread is at is passed over, and the answer is the same
 * without.
 *  3. Nothing is replicated or written to disk. A user is a keyed hash, an item 32 bits of one.
 *  4. No clock is read. The caller says when a list was shown, an event when it happened.
 *
 * Clicks are heard of where they are applied (dn_shard_watch), so whatever they came by: this node's Publish,
 * another's, a stream. Each is applied once.
 *
 * A click belongs to the last list that this node had shown to the user when it *happened*, by the event's
 * own time, if that is less than DN_SHOWN_WINDOW_MS before. Nothing depends on when it is applied: what is
 * read from a topic once more, or from the journal at a start, is older than what is shown now and counts for
 * nothing, and a click that comes late finds its list as long as it is kept. The list before the last is
 * kept for that: the click that leads to a page comes by a stream after that page has asked for its list.
 * Each item of a list counts once: view, cart and purchase of one item are one hit.
 *
 * Any thread. */
#ifndef DN_API_SHOWN_H
#define DN_API_SHOWN_H

#include "base/hash.h"
#include "base/metrics.h"
#include "recommend/recommend.h"
#include "recommend/variant.h"
#include "session/session.h"

#define DN_SHOWN_WINDOW_MS (30ll * 60 * 1000)
#define DN_SHOWN_ITEMS_MAX 20u                  /* of a list: the first ones */
#define DN_SHOWN_LISTS 2u                       /* of a user: the last ones */
#define DN_SHOWN_USERS_MAX (1u << 24)           /* slots */
#define DN_SHOWN_COVERAGE_MS (10ll * 60 * 1000) /* distinct items are those of 10 to 20 minutes */

struct dn_shown;

/* users: slots, rounded up to a power of two. NULL: out of memory. The metrics outlive it. */
struct dn_shown *dn_shown_create(size_t users, const struct dn_experiment *experiment,
                                 struct dn_metrics *metrics);
void dn_shown_destroy(struct dn_shown *shown); /* NULL is allowed */

/* A list was shown. `user` may be NULL: somebody unknown; then it counts for variety only. variant: as of
 * dn_check_variant. now_ms never goes back far: it is the node's wall clock. */
void dn_shown_put(struct dn_shown *shown, const struct dn_hash128 *user, size_t variant,
                  const struct dn_recommended *items, size_t count, int64_t now_ms);
/* What was shown to the user is forgotten. It may try for some milliseconds: not for the consensus thread. */
void dn_shown_forget(struct dn_shown *shown, struct dn_hash128 user);

/* For struct dn_shard_watch; data is the struct dn_shown. An event that shows interest (neither DISLIKE nor
 * REMOVE) is a click. A byte a slot tells most events that their users have no list here. */
void dn_shown_applied(void *data, const struct dn_applied *event);
/* As dn_shown_forget, but tried once. */
void dn_shown_erased(void *data, struct dn_hash128 user);
/* Users may have been erased without a word: the next dn_shown_distinct forgets all lists. */
void dn_shown_replaced(void *data);

/* About how many distinct items were shown of late (HyperLogLog: Flajolet, Fusy, Gandouet, Meunier, 2007; a
 * standard error of 1.6 %). Also turns the window on: call it every minute or so, from one thread. */
double dn_shown_distinct(struct dn_shown *shown, int64_t now_ms);

#endif
