/* The rules of sessions, user by user.
 *
 * What is sound to say: an event is committed, if at all, between `possible` and `known`, and once. An
 * erasure is committed between its :invoke and its end (never, if nobody knows), and takes all earlier events
 * of its user for good: none of them is taken again. So an event may be missing though it must be there, if
 * an erasure may have come after it that the read may have seen, and if no event that surely came before it
 * is still there. */
#include "chaos/check_sessions.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NEVER CHAOS_NEVER

struct judge {
    struct chaos_check *check;
    struct facts *facts;
    struct fact_user *user;
    uint32_t stamp;          /* of the list that is looked at; grows */
    struct chaos_table last; /* process, user: its last read of this user */
    uint32_t *by_version;    /* scratch: reads of the user that found something */
    size_t by_version_capacity, by_version_count;
    uint64_t judged[CHAOS_RULE_COUNT];
};

/* One read while it is judged. */
struct look {
    const struct fact_read *read;
    const struct chaos_op *invoke, *ok;
    uint32_t first_known; /* of its events; NEVER: it is empty */
    uint32_t forgiven;    /* what is committed before this at the earliest may be erased again */
};

static struct fact_event *listed(const struct judge *j, const struct fact_read *read, size_t i)
{
    return &j->facts->events[j->facts->lists[read->list + i]];
}

static unsigned long long ull(uint64_t value)
{
    return value;
}

/* ---- what stands in one list ---------------------------------------------------------------------- */

static void judge_written(struct judge *j, const struct look *look, const struct fact_event *event, size_t i)
{
    const struct fact_read *read = look->read;
    unsigned long long id = ull(event->id), user = ull(j->user->key);
    if (event->possible < read->ok) {
        if (!event->times_differ && event->time_ms != look->ok->events[i].time_ms) {
            chaos_violated(j->check, CHAOS_RULE_INVENTED, event->asked, read->ok, NEVER,
                           "event %llu of user %llu was published with time %" PRId64
                           " and read with %" PRId64,
                           id, user, event->time_ms, look->ok->events[i].time_ms);
        }
    } else if (event->asked == NEVER) {
        chaos_violated(j->check, CHAOS_RULE_INVENTED, read->ok, NEVER, NEVER,
                       "event %llu was read in user %llu's session; nobody published it for this user", id,
                       user);
    } else if (event->asked > read->ok) {
        chaos_violated(j->check, CHAOS_RULE_INVENTED, read->ok, event->asked, NEVER,
                       "event %llu of user %llu was read before it was published", id, user);
    } else {
        chaos_violated(j->check, CHAOS_RULE_INVENTED, event->asked, event->refused, read->ok,
                       "event %llu of user %llu was read, and it was surely refused", id, user);
    }
}

/* By time, and of equal times as they arrived. */
static void judge_order(struct judge *j, const struct look *look)
{
    const struct fact_read *read = look->read;
    const struct fact_event *youngest = NULL; /* of those of one time: it surely arrived after this */
    for (size_t i = 0; i < read->list_count; i++) {
        const struct fact_event *event = listed(j, read, i);
        int64_t time_ms = look->ok->events[i].time_ms;
        int64_t before_ms = i > 0 ? look->ok->events[i - 1].time_ms : time_ms;
        if (before_ms > time_ms) {
            chaos_violated(j->check, CHAOS_RULE_ORDER, read->ok, NEVER, NEVER,
                           "user %llu: event %llu of time %" PRId64 " stands after one of time %" PRId64,
                           ull(j->user->key), ull(event->id), time_ms, before_ms);
        }
        if (before_ms != time_ms) {
            youngest = NULL;
        }
        if (youngest != NULL && event->known < youngest->possible) {
            chaos_violated(j->check, CHAOS_RULE_ORDER, event->known, youngest->possible, read->ok,
                           "user %llu: events %llu and %llu are of one time; the second arrived first",
                           ull(j->user->key), ull(youngest->id), ull(event->id));
        }
        if (event->possible != NEVER && (youngest == NULL || event->possible > youngest->possible)) {
            youngest = event;
        }
    }
    j->judged[CHAOS_RULE_ORDER] += read->list_count > 1;
}

/* Stamps the list; leaves in *look what follows from it. */
static void judge_list(struct judge *j, struct look *look)
{
    const struct fact_read *read = look->read;
    j->stamp++;
    look->first_known = NEVER;
    for (size_t i = 0; i < read->list_count; i++) {
        struct fact_event *event = listed(j, read, i);
        if (event->stamp == j->stamp) {
            chaos_violated(j->check, CHAOS_RULE_TWICE, read->ok, NEVER, NEVER,
                           "user %llu's session has event %llu twice", ull(j->user->key), ull(event->id));
            continue;
        }
        event->stamp = j->stamp;
        event->position = (uint32_t)i;
        judge_written(j, look, event, i);
        if (event->possible != NEVER) {
            look->first_known = chaos_min(look->first_known, event->known);
        }
    }
    look->forgiven = chaos_min(chaos_erased_until(j->facts, j->user, read->ok), look->first_known);
    j->judged[CHAOS_RULE_TWICE] += read->list_count > 0;
    j->judged[CHAOS_RULE_INVENTED] += read->list_count > 0;
    judge_order(j, look);
}

static bool is_here(const struct judge *j, const struct fact_event *event)
{
    return event->stamp == j->stamp;
}

/* ---- what must, and must not, be in it ------------------------------------------------------------- */

/* Of the events by `possible`, the first that is not below `at`. */
static size_t first_from(const struct judge *j, uint32_t at)
{
    const uint32_t *own = j->facts->by_user + j->user->events;
    size_t from = 0, to = j->user->events_count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (j->facts->events[own[middle]].possible < at) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

/* An acknowledged event that is missing where it must be, and in every read that began later. */
static void judge_lost(struct judge *j, const struct look *look, struct fact_event *event)
{
    if (!event->lost && event->acked < look->read->invoke && event->seen <= look->read->invoke) {
        event->lost = true;
        chaos_violated(j->check, CHAOS_RULE_LOST, event->acked, look->read->ok, NEVER,
                       "event %llu of user %llu was acknowledged and is in no read any more", ull(event->id),
                       ull(j->user->key));
    }
}

static void judge_missing(struct judge *j, const struct look *look, const struct chaos_bound *bounds,
                          size_t count, struct fact_event *event)
{
    for (size_t i = 0; i < count; i++) {
        if (event->known >= bounds[i].before) {
            continue;
        }
        chaos_violated(j->check, bounds[i].rule, event->known, look->read->invoke, look->read->ok,
                       "event %llu of user %llu is missing; it was %s before%s", ull(event->id),
                       ull(j->user->key), event->known == event->acked ? "acknowledged" : "read",
                       bounds[i].rule == CHAOS_RULE_AGE ? ", by more than the age that the answer claims"
                                                        : "");
    }
    judge_lost(j, look, event);
}

static void judge_required(struct judge *j, const struct look *look, const struct chaos_bound *bounds,
                           size_t count)
{
    uint32_t latest = 0;
    bool required[CHAOS_RULE_COUNT] = {false};
    for (size_t i = 0; i < count; i++) {
        latest = chaos_max(latest, bounds[i].before);
    }
    for (size_t k = first_from(j, look->forgiven); k < j->user->events_count; k++) {
        struct fact_event *event = &j->facts->events[j->facts->by_user[j->user->events + k]];
        if (event->possible >= latest) {
            break;
        }
        if (event->known >= latest) {
            continue;
        }
        for (size_t i = 0; i < count; i++) {
            required[bounds[i].rule] |= event->known < bounds[i].before;
        }
        required[CHAOS_RULE_LOST] |= event->acked < look->read->invoke;
        if (!is_here(j, event)) {
            judge_missing(j, look, bounds, count, event);
        }
    }
    for (size_t rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        j->judged[rule] += required[rule];
    }
}

/* Erased events do not come back. */
static void judge_erased(struct judge *j, const struct look *look, const struct chaos_bound *bounds,
                         size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t since = chaos_erased_since(j->facts, j->user, bounds[i].before);
        for (size_t k = 0; since > 0 && k < look->read->list_count; k++) {
            const struct fact_event *event = listed(j, look->read, k);
            if (event->known < since) {
                chaos_violated(j->check, bounds[i].rule, event->known, since, look->read->ok,
                               "event %llu of user %llu is there, and it was erased before", ull(event->id),
                               ull(j->user->key));
            }
        }
        j->judged[bounds[i].rule] += since > 0;
    }
}

static void judge_token(struct judge *j, const struct look *look)
{
    bool judged = false;
    if (look->invoke->level == CHAOS_LOCAL) {
        return;
    }
    for (size_t i = 0; i < look->invoke->token_count; i++) {
        uint32_t number = chaos_table_find(&j->facts->event_table, look->read->user, look->invoke->token[i]);
        struct fact_event *event = number == NEVER ? NULL : &j->facts->events[number];
        if (event == NULL || event->possible > look->read->invoke) {
            continue; /* nobody wrote that: the token cannot cover it */
        }
        event->token_stamp = j->stamp;
        if (event->possible < look->forgiven) {
            continue;
        }
        judged = true;
        if (!is_here(j, event)) {
            chaos_violated(j->check, CHAOS_RULE_TOKEN, event->known == NEVER ? event->possible : event->known,
                           look->read->invoke, look->read->ok,
                           "event %llu of user %llu is covered by the read's token and missing",
                           ull(event->id), ull(j->user->key));
            judge_lost(j, look, event);
        }
    }
    j->judged[CHAOS_RULE_TOKEN] += judged;
}

/* ---- one client ----------------------------------------------------------------------------------- */

/* Whether the token covers all of the read's events, and there is one. */
static bool token_covers(const struct judge *j, const struct fact_read *read)
{
    for (size_t i = 0; i < read->list_count; i++) {
        if (listed(j, read, i)->token_stamp != j->stamp) {
            return false;
        }
    }
    return read->list_count > 0;
}

static void judge_monotonic(struct judge *j, const struct look *look)
{
    uint64_t process = (uint64_t)look->invoke->process;
    uint32_t number = (uint32_t)(look->read - j->facts->reads);
    uint32_t last = chaos_table_put(&j->last, process, look->read->user, number);
    const struct fact_read *before = &j->facts->reads[last], *read = look->read;
    if (last == number) {
        return;
    }
    chaos_table_set(&j->last, process, look->read->user, number);
    if (look->invoke->level == CHAOS_LOCAL || !token_covers(j, before)) {
        return;
    }
    j->judged[CHAOS_RULE_MONOTONIC]++;
    if (read->found && read->version < before->version) {
        chaos_violated(j->check, CHAOS_RULE_MONOTONIC, before->ok, read->invoke, read->ok,
                       "process %" PRId32
                       " read version %llu of user %llu's session and then, with its token, %llu",
                       look->invoke->process, ull(before->version), ull(j->user->key), ull(read->version));
        return;
    }
    for (size_t i = 0; i < before->list_count; i++) {
        const struct fact_event *event = listed(j, before, i);
        if (!is_here(j, event) && event->possible >= look->forgiven && event->possible != NEVER) {
            chaos_violated(j->check, CHAOS_RULE_MONOTONIC, before->ok, read->invoke, read->ok,
                           "process %" PRId32
                           " read event %llu of user %llu and then, with its token, not any more",
                           look->invoke->process, ull(event->id), ull(j->user->key));
            return;
        }
    }
}

/* ---- streams -------------------------------------------------------------------------------------- */

/* An erasure also drops what comes later with a time that is not past it. It came before all events that are
 * there, and they are past it: it can have dropped only what is older than all of them. */
static int64_t dropped_before_ms(const struct judge *j, const struct look *look)
{
    int64_t oldest_ms = INT64_MAX;
    for (size_t i = 0; i < look->read->list_count; i++) {
        int64_t time_ms = look->ok->events[i].time_ms;
        oldest_ms = time_ms < oldest_ms ? time_ms : oldest_ms;
    }
    return chaos_erased_until(j->facts, j->user, look->read->ok) > 0 ? oldest_ms : INT64_MIN;
}

static void judge_gap(struct judge *j, const struct look *look, const struct fact_stream *stream)
{
    const struct fact_event *last = &j->facts->events[stream->last];
    int64_t dropped_ms = dropped_before_ms(j, look);
    for (size_t i = 0; i < stream->list_count; i++) {
        const struct fact_event *event = &j->facts->events[j->facts->streamed[stream->list + i]];
        if (event->offset >= last->offset) {
            return;
        }
        if (event->sure && !is_here(j, event) && event->possible >= look->forgiven &&
            event->time_ms >= dropped_ms) {
            chaos_violated(j->check, CHAOS_RULE_OFFSET, event->asked, last->asked, look->read->ok,
                           "user %llu: event %llu of offset %" PRId32
                           " is there and event %llu of offset %" PRId32 " is not",
                           ull(j->user->key), ull(last->id), last->offset, ull(event->id), event->offset);
            return;
        }
    }
}

/* What a source has before an event that is there is there too. */
static void judge_offsets(struct judge *j, const struct look *look)
{
    bool judged = false;
    for (size_t i = 0; i < look->read->list_count; i++) {
        const struct fact_event *event = listed(j, look->read, i);
        if (event->stream == NEVER) {
            continue;
        }
        struct fact_stream *stream = &j->facts->streams[event->stream];
        if (stream->stamp != j->stamp) {
            stream->stamp = j->stamp;
            stream->last = NEVER;
            stream->sure_seen = 0;
        }
        stream->sure_seen += event->sure;
        if (stream->last == NEVER || j->facts->events[stream->last].offset < event->offset) {
            stream->last = (uint32_t)(event - j->facts->events);
        }
    }
    for (size_t i = 0; i < look->read->list_count; i++) {
        const struct fact_event *event = listed(j, look->read, i);
        struct fact_stream *stream = event->stream == NEVER ? NULL : &j->facts->streams[event->stream];
        if (stream == NULL || stream->last != (uint32_t)(event - j->facts->events)) {
            continue;
        }
        judged |= event->sure_rank > 0;
        if (stream->sure_seen - event->sure < event->sure_rank) {
            judge_gap(j, look, stream);
        }
    }
    j->judged[CHAOS_RULE_OFFSET] += judged;
}

/* In the end all that the user's streams have is there. */
static void judge_streamed(struct judge *j, const struct look *look)
{
    bool judged = false;
    if (look->read->invoke < j->check->final_from) {
        return;
    }
    int64_t dropped_ms = dropped_before_ms(j, look);
    for (size_t k = first_from(j, look->forgiven); k < j->user->events_count; k++) {
        const struct fact_event *event = &j->facts->events[j->facts->by_user[j->user->events + k]];
        if (event->written > look->read->invoke || event->time_ms < dropped_ms) {
            continue;
        }
        judged = true;
        if (!is_here(j, event)) {
            chaos_violated(j->check, CHAOS_RULE_STREAM, event->written, look->read->invoke, look->read->ok,
                           "user %llu: event %llu of offset %" PRId32 " is in the stream and in the end not"
                           " in the session",
                           ull(j->user->key), ull(event->id), event->offset);
        }
    }
    j->judged[CHAOS_RULE_STREAM] += judged;
}

/* ---- reads of one user among each other ------------------------------------------------------------ */

static const struct fact_read *compared; /* what the comparison looks at; qsort has no argument for it */

static int by_version(const void *a, const void *b)
{
    const struct fact_read *left = &compared[*(const uint32_t *)a], *right = &compared[*(const uint32_t *)b];
    if (left->version != right->version) {
        return left->version < right->version ? -1 : 1;
    }
    if (left->list_count != right->list_count) {
        return left->list_count < right->list_count ? -1 : 1;
    }
    return left->ok < right->ok ? -1 : left->ok > right->ok;
}

static void sort_versions(struct judge *j)
{
    j->by_version_count = 0;
    for (size_t i = 0; i < j->user->reads_count; i++) {
        if (j->facts->reads[j->user->reads + i].found) {
            j->by_version = chaos_room(j->by_version, j->by_version_count, &j->by_version_capacity,
                                       sizeof *j->by_version);
            j->by_version[j->by_version_count++] = (uint32_t)(j->user->reads + i);
        }
    }
    compared = j->facts->reads;
    if (j->by_version_count > 0) {
        qsort(j->by_version, j->by_version_count, sizeof *j->by_version, by_version);
    }
}

/* Several events of one entry have one version, and a read may see the first of them only: it then says that
 * it has not yet applied this index. */
static bool is_in_the_middle(const struct fact_read *fewer, const struct fact_read *more)
{
    return fewer->list_count < more->list_count && fewer->applied > 0 && fewer->applied < fewer->version;
}

/* `older` is the read of the version before (or of the same) that of `newer`, whose list is stamped. */
static void judge_two(struct judge *j, const struct fact_read *older, const struct fact_read *newer)
{
    size_t kept = 0;
    uint32_t position = 0;
    unsigned long long user = ull(j->user->key), v1 = ull(older->version), v2 = ull(newer->version);
    for (size_t i = 0; i < older->list_count; i++) {
        const struct fact_event *event = listed(j, older, i);
        if (!is_here(j, event)) {
            continue;
        }
        if (kept > 0 && event->position < position) {
            chaos_violated(j->check, CHAOS_RULE_ORDER, older->ok, newer->ok, NEVER,
                           "user %llu: event %llu stands in another order in two reads", user,
                           ull(event->id));
        }
        position = event->position;
        kept++;
    }
    j->judged[CHAOS_RULE_SLICES]++;
    if (v1 == v2) {
        if (kept != older->list_count || (kept != newer->list_count && !is_in_the_middle(older, newer))) {
            chaos_violated(j->check, CHAOS_RULE_SLICES, older->ok, newer->ok, NEVER,
                           "user %llu: two reads of version %llu differ: %zu and %zu events, %zu in both",
                           user, v1, older->list_count, newer->list_count, kept);
        }
    } else if (kept == older->list_count) {
        if (newer->list_count == older->list_count) {
            chaos_violated(j->check, CHAOS_RULE_SLICES, older->ok, newer->ok, NEVER,
                           "user %llu: versions %llu and %llu hold the same %zu events", user, v1, v2, kept);
        }
    } else if (kept > 0 || chaos_erased_until(j->facts, j->user, newer->ok) <= older->latest) {
        chaos_violated(j->check, CHAOS_RULE_SLICES, older->ok, newer->ok, NEVER,
                       "user %llu: version %llu holds %zu of the %zu events of version %llu", user, v2, kept,
                       older->list_count, v1);
    }
}

/* The read of the largest version up to `applied`, or NULL. */
static const struct fact_read *newest_applied(const struct judge *j, uint64_t applied)
{
    size_t from = 0, to = j->by_version_count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (j->facts->reads[j->by_version[middle]].version <= applied) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from == 0 ? NULL : &j->facts->reads[j->by_version[from - 1]];
}

/* A node that says it has applied an index has what this index changed. */
static void judge_applied(struct judge *j, const struct fact_read *read)
{
    const struct fact_read *other = read->applied > 0 ? newest_applied(j, read->applied) : NULL;
    if (other == NULL || other == read) {
        return;
    }
    j->judged[CHAOS_RULE_SLICES]++;
    if (read->found ? read->version < other->version
                    : chaos_erased_until(j->facts, j->user, read->ok) <= other->latest) {
        chaos_violated(
            j->check, CHAOS_RULE_SLICES, other->ok, read->ok, NEVER,
            "user %llu: a read at applied index %llu gives version %llu; another one saw version %llu",
            ull(j->user->key), ull(read->applied), ull(read->found ? read->version : 0), ull(other->version));
    }
}

static void judge_slices(struct judge *j)
{
    sort_versions(j);
    for (size_t i = 1; i < j->by_version_count; i++) {
        const struct fact_read *older = &j->facts->reads[j->by_version[i - 1]];
        const struct fact_read *newer = &j->facts->reads[j->by_version[i]];
        j->stamp++;
        for (size_t k = 0; k < newer->list_count; k++) {
            struct fact_event *event = listed(j, newer, k);
            event->stamp = j->stamp;
            event->position = (uint32_t)k;
        }
        judge_two(j, older, newer);
    }
    for (size_t i = 0; i < j->user->reads_count; i++) {
        judge_applied(j, &j->facts->reads[j->user->reads + i]);
    }
}

/* ---- all ------------------------------------------------------------------------------------------ */

static void judge_read(struct judge *j, const struct fact_read *read)
{
    struct chaos_bound bounds[CHAOS_BOUNDS];
    struct look look = {
        .read = read,
        .invoke = chaos_history_at(j->check->history, read->invoke),
        .ok = chaos_history_at(j->check->history, read->ok),
    };
    size_t count = chaos_bounds(j->check, look.invoke, look.ok, bounds);
    judge_list(j, &look);
    judge_required(j, &look, bounds, count);
    judge_erased(j, &look, bounds, count);
    judge_token(j, &look);
    judge_monotonic(j, &look);
    judge_offsets(j, &look);
    judge_streamed(j, &look);
}

void chaos_check_sessions(struct chaos_check *check)
{
    struct facts facts;
    struct judge j = {.check = check, .facts = &facts};
    chaos_facts_gather(&facts, check);
    for (size_t i = 0; i < facts.users_count; i++) {
        j.user = &facts.users[i];
        for (size_t k = 0; k < j.user->reads_count; k++) {
            judge_read(&j, &facts.reads[j.user->reads + k]);
        }
        judge_slices(&j);
    }
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        chaos_judged(check, (enum chaos_rule)rule, j.judged[rule]);
    }
    chaos_table_free(&j.last);
    free(j.by_version);
    chaos_facts_free(&facts);
}
