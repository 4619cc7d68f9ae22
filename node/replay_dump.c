/* Sessions as text that depends on the sessions alone: not on indexes, arrival, shards or batches. */
#include "node/replay.h"

#include "client/names.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define USERS_STEP 1024

struct dumped_user {
    struct dn_hash128 hash;
    uint32_t group;
};

struct users {
    struct dumped_user *all;
    size_t count, capacity;
};

void dn_replay_user_text(struct dn_hash128 user, char ret_text[DN_USER_TEXT])
{
    snprintf(ret_text, DN_USER_TEXT, "%016" PRIx64 "%016" PRIx64, user.high, user.low);
}

static bool gather(struct users *users, const struct dn_shard *shard, uint32_t group)
{
    struct dn_hash128 hashes[USERS_STEP];
    uint32_t cursor = 0;

    for (size_t count; (count = dn_shard_users(shard, &cursor, hashes, USERS_STEP)) > 0;) {
        if (users->count + count > users->capacity) {
            size_t capacity = 2 * users->capacity + USERS_STEP;
            struct dumped_user *all = realloc(users->all, capacity * sizeof(*all));
            if (all == NULL)
                return false;
            users->all = all;
            users->capacity = capacity;
        }
        for (size_t i = 0; i < count; i++)
            users->all[users->count++] = (struct dumped_user){.hash = hashes[i], .group = group};
    }
    return true;
}

static int compare_users(const void *a, const void *b)
{
    const struct dumped_user *x = a, *y = b;

    if (x->hash.high != y->hash.high)
        return x->hash.high < y->hash.high ? -1 : 1;
    return x->hash.low < y->hash.low ? -1 : x->hash.low > y->hash.low;
}

static int compare_events(const void *a, const void *b)
{
    const struct dn_event_view *x = a, *y = b;
    size_t shorter = x->item_length < y->item_length ? x->item_length : y->item_length;
    int items = memcmp(x->item, y->item, shorter);

    if (x->time_ms != y->time_ms)
        return x->time_ms < y->time_ms ? -1 : 1;
    if (items != 0)
        return items;
    if (x->item_length != y->item_length)
        return x->item_length < y->item_length ? -1 : 1;
    if (x->type != y->type)
        return x->type < y->type ? -1 : 1;
    return x->weight < y->weight ? -1 : x->weight > y->weight;
}

static json_t *events_json(const struct dn_session_view *session)
{
    json_t *events = json_array();
    size_t first = 0;

    while (first < session->event_count && !session->events[first].current)
        first++;
    /* A copy in the arena of this read: nobody else looks at it. */
    struct dn_event_view *sorted = (struct dn_event_view *)(uintptr_t)(session->events + first);
    size_t count = session->event_count - first;
    qsort(sorted, count, sizeof(*sorted), compare_events);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(events,
                              json_pack("{s:I, s:s, s:s%, s:f}", "time_ms", (json_int_t)sorted[i].time_ms,
                                        "type", dn_event_type_name(sorted[i].type), "item", sorted[i].item,
                                        (size_t)sorted[i].item_length, "weight", (double)sorted[i].weight));
    return events;
}

static bool write_user(const struct dn_replay_dump_options *options, const struct dumped_user *user,
                       const struct dn_session_view *session, FILE *out)
{
    const char *id = options->ids != NULL ? dn_replay_ids_find(options->ids, user->hash) : NULL;
    json_t *counts = json_object();
    char hash[DN_USER_TEXT];

    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++)
        if (session->counts[type] > 0)
            json_object_set_new(counts, dn_event_type_name(type), json_integer(session->counts[type]));
    dn_replay_user_text(user->hash, hash);
    json_t *line = json_pack(
        "{s:s, s:I, s:I, s:I, s:o, s:o}", id != NULL ? "user_id" : "user", id != NULL ? id : hash, "start_ms",
        (json_int_t)session->start_ms, "last_ms", (json_int_t)session->last_ms, "session_events",
        (json_int_t)session->session_events, "counts", counts, "events", events_json(session));
    bool whole = line != NULL && json_dumpf(line, out, JSON_COMPACT) == 0 && putc('\n', out) != EOF;
    json_decref(line);
    return whole;
}

enum dn_code dn_replay_dump(struct dn_replay_state *state, const struct dn_replay_dump_options *options,
                            FILE *out, uint64_t *ret_users, struct dn_error *err)
{
    struct users users = {0};
    struct dn_shard_stats stats;
    struct dn_session_view session;
    int64_t newest_ms = 0;
    enum dn_code code = DN_OK;

    *ret_users = 0;
    for (uint32_t group = 1; code == DN_OK && group <= state->shard_count; group++) {
        dn_shard_stats(state->seats[group - 1].shard, &stats);
        newest_ms = stats.max_event_ms > newest_ms ? stats.max_event_ms : newest_ms;
        if (!gather(&users, state->seats[group - 1].shard, group))
            code = dn_fail(err, DN_NO_MEMORY, "a list of %zu users", users.count);
    }
    if (users.count > 0)
        qsort(users.all, users.count, sizeof(*users.all), compare_users);
    for (size_t i = 0; code == DN_OK && i < users.count; i++) {
        code = dn_replay_read(state, users.all[i].group, users.all[i].hash, &session);
        DN_ASSERT(code != DN_NOT_FOUND);
        if (code != DN_OK) {
            dn_fail(err, code, "a session of %zu events", session.event_count);
        } else if (session.last_ms >= newest_ms - options->idle_ms) {
            if (!write_user(options, &users.all[i], &session, out))
                code = dn_fail(err, DN_IO, "write the dump: the disk may be full");
            (*ret_users)++;
        }
    }
    free(users.all);
    return code;
}
