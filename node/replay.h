/* Private to node: state rebuilt offline, for `dunlin replay`.
 *
 * A *replayed state* is shards of our own, applied to by this thread and read by nobody else. It is filled
 * from a node's log (replay_log.c) or from the history of sources (replay_source.c), and written in canonical
 * form (replay_dump.c): the same text for the same sessions, whatever way led to them. docs/replay.md tells
 * users what is equal to what. */
#ifndef DN_NODE_REPLAY_H
#define DN_NODE_REPLAY_H

#include "base/arena.h"
#include "base/epoch.h"
#include "base/error.h"
#include "base/hash.h"
#include "consensus/history.h"
#include "node/config.h"
#include "node/node.h"
#include "session/session.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- the state (replay_state.c) ------------------------------------------------------------------------
 */

struct dn_replay_state {
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_arena *arena; /* of one read */
    struct dn_shard_seat seats[DN_SHARDS_MAX];
    uint32_t shard_count; /* seats[0..]: groups 1.. */
};

/* Empty shards. DN_NO_MEMORY. Whatever it answers, close it. */
enum dn_code dn_replay_state_open(struct dn_replay_state *state, uint32_t shard_count, struct dn_error *err);
void dn_replay_state_close(struct dn_replay_state *state);
/* The user's session; valid until the next read or apply. As dn_shard_read. */
enum dn_code dn_replay_read(struct dn_replay_state *state, uint32_t group, struct dn_hash128 user,
                            struct dn_session_view *ret);

/* ---- canonical form (replay_dump.c) --------------------------------------------------------------------
 */

#define DN_USER_TEXT 33 /* a user's keyed hash as 32 hex digits, and the NUL */
void dn_replay_user_text(struct dn_hash128 user, char ret_text[DN_USER_TEXT]);

/* Users' ids by their hashes, for whoever wants to see them (replay_ids.c). */
struct dn_replay_ids;
struct dn_replay_ids *dn_replay_ids_create(void);      /* NULL: out of memory */
void dn_replay_ids_destroy(struct dn_replay_ids *ids); /* NULL allowed */
/* False: out of memory. One that is known stays. */
bool dn_replay_ids_add(struct dn_replay_ids *ids, struct dn_hash128 user, const char *id, size_t length);
/* NULL: unknown. Valid until it is destroyed. */
const char *dn_replay_ids_find(const struct dn_replay_ids *ids, struct dn_hash128 user);

struct dn_replay_dump_options {
    int64_t idle_ms; /* users whose last event is this much older than the newest one of all are left out */
    const struct dn_replay_ids *ids; /* users are told by id where it is there; NULL: by their hashes */
};
/* One JSON line for each user with a session, sorted by the user's hash: the current session's start, last
 * event, number of events, counts by type, and events by time, item, type and weight. DN_NO_MEMORY, DN_IO. */
enum dn_code dn_replay_dump(struct dn_replay_state *state, const struct dn_replay_dump_options *options,
                            FILE *out, uint64_t *ret_users, struct dn_error *err);

#endif
