/* A slow, plain model of a shard: what test_model.c holds the state machine against. */
#ifndef DN_TEST_SESSION_MODEL_H
#define DN_TEST_SESSION_MODEL_H

#include "harness.h"

#define USERS 14
#define ITEMS 24
#define SOURCES 2
#define PARTITIONS 2
#define LIST_MAX 64
#define IDS_MAX 64
#define LETTERS 65536  /* a ring: more than may wait */
#define FORGET_STEP 64 /* of the shard: more than USERS, so the model need not count */

struct m_event {
    int64_t time;
    uint64_t id;
    int item;
    uint16_t weight;
    uint8_t type;
};

struct m_user {
    bool known;
    uint64_t version, touch;
    int64_t arrival, start, floor;
    uint32_t session_events;
    uint16_t counts[DN_EVENT_TYPE_MAX + 1];
    int count;
    struct m_event list[LIST_MAX + 1];
    int extra_count;
    struct m_event extra[IDS_MAX];
};

struct m_erase {
    int user;
    int64_t until;
    uint64_t request;
    bool existed;
};

struct m_source {
    bool listed;
    int64_t next, floor, newest;
    uint64_t events, finished;
};

struct m_letter {
    int source, partition;
    int64_t offset, time;
    uint8_t reason;
};

struct m_message { /* of a stream's batch, in order of offset */
    int64_t offset;
    uint8_t mark; /* gave no event: why; 0: an event */
    int user;
    struct m_event event;
};

struct model {
    struct dn_shard_settings settings;
    int64_t now, forget_floor;
    uint64_t touch, unref_clock;
    struct m_user users[USERS];
    struct {
        bool known;
        uint64_t unref;
    } items[ITEMS];
    struct m_source sources[SOURCES][PARTITIONS];
    int sources_max;
    struct m_letter letters[LETTERS];
    uint64_t written, next_letter, dead[DN_DEAD_REASON_MAX + 1];
    int64_t stalled;
    char stall_reason[DN_STALL_REASON_MAX + 1];
    struct m_erase erases[4096];
    int erase_count;
    uint64_t applied, duplicates, late, refused, evicted, expired;
};

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int m_user_count(const struct model *m)
{
    int n = 0;
    for (int u = 0; u < USERS; u++) {
        n += m->users[u].known;
    }
    return n;
}

static int m_item_count(const struct model *m)
{
    int n = 0;
    for (int i = 0; i < ITEMS; i++) {
        n += m->items[i].known;
    }
    return n;
}

static int m_item_refs(const struct model *m, int item)
{
    int n = 0;
    for (int u = 0; u < USERS; u++) {
        for (int i = 0; m->users[u].known && i < m->users[u].count; i++) {
            n += m->users[u].list[i].item == item;
        }
    }
    return n;
}

static int m_item_oldest_unused(const struct model *m)
{
    int best = -1;
    for (int i = 0; i < ITEMS; i++) {
        if (m->items[i].known && m->items[i].unref > 0 &&
            (best < 0 || m->items[i].unref < m->items[best].unref)) {
            best = i;
        }
    }
    return best;
}

static void m_item_dropped(struct model *m, int item)
{
    if (m_item_refs(m, item) == 0) {
        m->items[item].unref = ++m->unref_clock;
    }
}

static void m_user_remove(struct model *m, int u)
{
    struct m_user gone = m->users[u];
    m->users[u].known = false;
    /* One by one: the order in which items lose their last event is the order of the list. */
    for (int i = 0; i < gone.count; i++) {
        bool later = false;
        for (int j = i + 1; j < gone.count; j++) {
            later |= gone.list[j].item == gone.list[i].item;
        }
        if (!later) {
            m_item_dropped(m, gone.list[i].item);
        }
    }
}

static bool m_forget(struct model *m, int64_t idle_before)
{
    uint64_t after = 0, last = m->touch; /* those passed over are not looked at again */
    for (;;) {
        int oldest = -1;
        for (int u = 0; u < USERS; u++) {
            if (m->users[u].known && m->users[u].touch > after && m->users[u].touch <= last &&
                (oldest < 0 || m->users[u].touch < m->users[oldest].touch)) {
                oldest = u;
            }
        }
        if (oldest < 0 || m->users[oldest].arrival >= idle_before) {
            return false;
        }
        const struct m_user *user = &m->users[oldest];
        int64_t newest = -1;
        for (int i = 0; i < user->count; i++) {
            newest = user->list[i].id != 0 ? greater(newest, user->list[i].time) : newest;
        }
        for (int i = 0; i < user->extra_count; i++) {
            newest = greater(newest, user->extra[i].time);
        }
        int64_t empty = m->now - m->settings.lateness_ms;
        if (newest < empty && (user->floor <= empty || user->floor <= m->forget_floor)) {
            m->forget_floor = greater(m->forget_floor, greater(newest + 1, user->floor));
            m_user_remove(m, oldest);
            return true;
        }
        after = user->touch;
        if (user->arrival < empty) {
            m->users[oldest].touch = ++m->touch;
        }
    }
}

static int64_t m_erased_until(const struct model *m, int u)
{
    int64_t until = -1;
    for (int i = 0; i < m->erase_count; i++) {
        until = m->erases[i].user == u ? greater(until, m->erases[i].until) : until;
    }
    return until;
}

static void m_session(struct m_user *user, const struct m_user *old, const struct m_event *event, int64_t gap)
{
    /* Whose events are in the session: grow an interval from scratch. */
    int64_t last = old->known ? old->list[old->count - 1].time : 0;
    if (!old->known || event->time > last + gap) {
        user->start = event->time;
        user->session_events = 1;
        memset(user->counts, 0, sizeof user->counts);
        user->counts[event->type] = 1;
        return;
    }
    if (event->time < old->start - gap) {
        return;
    }
    user->counts[event->type]++;
    user->session_events++;
    if (event->time >= old->start) {
        return;
    }
    user->start = event->time;
    bool counted[LIST_MAX] = {false};
    for (bool grew = true; grew;) {
        grew = false;
        for (int i = 0; i < old->count; i++) {
            if (!counted[i] && old->list[i].time < old->start && old->list[i].time >= user->start - gap) {
                counted[i] = grew = true;
                user->start = lesser(user->start, old->list[i].time);
                user->counts[old->list[i].type]++;
                user->session_events++;
            }
        }
    }
}

static enum dn_outcome m_event(struct model *m, int u, const struct m_event *event, bool api, uint64_t index)
{
    struct m_user *user = &m->users[u];
    const struct dn_shard_settings *s = &m->settings;
    int64_t until = m_erased_until(m, u);
    int64_t floor = user->known ? user->floor : greater(m->forget_floor, until + 1);
    int64_t next_floor = api ? greater(floor, lesser(event->time, m->now) - s->lateness_ms) : floor;
    uint32_t window = 0;
    if (api && user->known) {
        for (int i = 0; i < user->count + user->extra_count; i++) {
            const struct m_event *e = i < user->count ? &user->list[i] : &user->extra[i - user->count];
            if (e->id != 0 && e->time >= floor) {
                if (e->id == event->id) {
                    return DN_OUTCOME_DUPLICATE;
                }
                window += e->time >= next_floor;
            }
        }
    }
    if (event->time <= until) {
        return DN_OUTCOME_ERASED;
    }
    if (event->time > m->now + s->ahead_ms) {
        return DN_OUTCOME_AHEAD;
    }
    if (api && event->time < floor) {
        return DN_OUTCOME_LATE;
    }
    if (api && window >= s->ids_per_user) {
        return DN_OUTCOME_WINDOW_FULL;
    }
    int item = event->item;
    if (!m->items[item].known && (uint32_t)m_item_count(m) >= s->items_max && m_item_oldest_unused(m) < 0) {
        return DN_OUTCOME_NO_ROOM;
    }
    if (!user->known && (uint32_t)m_user_count(m) >= s->users_max) {
        if (!m_forget(m, INT64_MAX)) {
            return DN_OUTCOME_NO_ROOM;
        }
        m->evicted++;
        if ((uint32_t)m_user_count(m) >= s->users_max) {
            return DN_OUTCOME_NO_ROOM;
        }
    }
    if (!m->items[item].known) {
        if ((uint32_t)m_item_count(m) >= s->items_max) {
            m->items[m_item_oldest_unused(m)].known = false;
        }
        m->items[item].known = true;
    }
    m->items[item].unref = 0;

    struct m_user old = *user;
    if (!user->known) {
        memset(user, 0, sizeof *user);
    }
    m_session(user, &old, event, s->gap_ms);
    user->known = true;
    user->version = index;
    user->touch = ++m->touch;
    user->arrival = m->now;
    user->floor = next_floor;
    int kept = 0;
    for (int i = 0; i < user->extra_count; i++) {
        if (user->extra[i].time >= next_floor) {
            user->extra[kept++] = user->extra[i];
        }
    }
    user->extra_count = kept;
    user->list[user->count++] = *event;
    for (int i = user->count - 1; i > 0 && user->list[i - 1].time > user->list[i].time; i--) {
        struct m_event swap = user->list[i];
        user->list[i] = user->list[i - 1];
        user->list[i - 1] = swap;
    }
    while ((uint32_t)user->count > s->events_per_user) {
        struct m_event dropped = user->list[0];
        memmove(user->list, user->list + 1, (size_t)--user->count * sizeof dropped);
        if (dropped.id != 0 && dropped.time >= next_floor) {
            user->extra[user->extra_count++] = dropped;
        }
        m_item_dropped(m, dropped.item);
    }
    m->applied++;
    return DN_OUTCOME_ACCEPTED;
}

static void m_erase(struct model *m, int u, int64_t until, uint64_t request, bool *ret_existed)
{
    for (int i = 0; i < m->erase_count; i++) {
        if (m->erases[i].user == u && m->erases[i].request == request) {
            *ret_existed = m->erases[i].existed;
            return;
        }
    }
    struct m_user *user = &m->users[u];
    int64_t reach = greater(until, m_erased_until(m, u));
    bool existed = user->known;
    if (existed) {
        reach = greater(reach, greater(user->floor - 1, user->list[user->count - 1].time));
        m_user_remove(m, u);
    }
    m->erases[m->erase_count++] = (struct m_erase){u, reach, request, existed};
    *ret_existed = existed;
    int mine = 0, oldest = -1;
    for (int i = m->erase_count - 1; i >= 0; i--) {
        if (m->erases[i].user == u) {
            mine++;
            oldest = i;
        }
    }
    if (mine > 8) { /* DN_TOMBSTONES_PER_USER */
        memmove(&m->erases[oldest], &m->erases[oldest + 1],
                (size_t)(--m->erase_count - oldest) * sizeof m->erases[0]);
    }
}

/* ---- streams ----------------------------------------------------------------------------------------- */

static void m_streams_begin(struct model *m)
{
    for (int i = 0; i < SOURCES * PARTITIONS; i++) {
        m->sources[i / PARTITIONS][i % PARTITIONS] =
            (struct m_source){.next = DN_OFFSET_UNSET, .newest = INT64_MIN};
    }
}

static void m_bury(struct model *m, int s, int p, int64_t offset, uint8_t reason)
{
    m->letters[m->next_letter++ % LETTERS] = (struct m_letter){s, p, offset, m->now, reason};
    m->dead[reason]++;
}

static enum dn_outcome m_stream_event(struct model *m, struct m_source *source,
                                      const struct m_message *message, bool old, uint64_t index)
{
    const struct m_event *event = &message->event;
    if (event->type < 1 || event->type > DN_EVENT_TYPE_MAX) {
        return DN_OUTCOME_INVALID;
    }
    if (event->time < source->floor) {
        return DN_OUTCOME_LATE;
    }
    enum dn_outcome outcome = m_event(m, message->user, event, false, index);
    if (outcome == DN_OUTCOME_ACCEPTED) {
        source->floor = greater(source->floor, lesser(event->time, m->now) - m->settings.lateness_ms);
        source->newest = old ? source->newest : greater(source->newest, event->time);
        source->events += !old;
    }
    return outcome;
}

static bool m_source_named(const struct model *m, int s, int p)
{
    for (uint64_t n = m->written; n < m->next_letter; n++) {
        if (m->letters[n % LETTERS].source == s && m->letters[n % LETTERS].partition == p) {
            return true;
        }
    }
    return false;
}

/* Room for one more source, if need be by forgetting the one finished first that no letter names. */
static bool m_source_room(struct model *m, const struct m_source *wanted)
{
    int known = 0;
    struct m_source *first = NULL;
    for (int i = 0; i < SOURCES * PARTITIONS; i++) {
        known += m->sources[i / PARTITIONS][i % PARTITIONS].listed;
    }
    if (wanted->listed || known < m->sources_max) {
        return true;
    }
    for (int i = 0; i < SOURCES * PARTITIONS; i++) {
        struct m_source *source = &m->sources[i / PARTITIONS][i % PARTITIONS];
        if (source->finished != 0 && (first == NULL || source->finished < first->finished) &&
            !m_source_named(m, i / PARTITIONS, i % PARTITIONS)) {
            first = source;
        }
    }
    if (first != NULL) {
        *first = (struct m_source){.next = DN_OFFSET_UNSET, .newest = INT64_MIN};
    }
    return first != NULL;
}

/* What next was; *ret_gap: nothing was done, it ends elsewhere. */
static int64_t m_source_finish(struct model *m, int s, int p, int64_t next, bool *ret_gap)
{
    struct m_source *source = &m->sources[s][p];
    uint64_t last = 0;
    *ret_gap = source->listed && source->next != next;
    for (int i = 0; i < SOURCES * PARTITIONS; i++) {
        uint64_t finished = m->sources[i / PARTITIONS][i % PARTITIONS].finished;
        last = finished > last ? finished : last;
    }
    if (source->listed && !*ret_gap && source->finished == 0) {
        source->finished = last + 1;
    }
    return source->next;
}

/* A batch; old: as a record of version 1. The events' outcomes go to ret, in order. */
static enum dn_result_status m_batch(struct model *m, int s, int p, int64_t begins_at, int64_t next,
                                     const struct m_message *messages, size_t count, bool old, uint64_t index,
                                     enum dn_outcome *ret)
{
    static const uint8_t reasons[DN_OUTCOME_INVALID + 1] = {
        [DN_OUTCOME_LATE] = DN_DEAD_LATE,
        [DN_OUTCOME_AHEAD] = DN_DEAD_AHEAD,
        [DN_OUTCOME_NO_ROOM] = DN_DEAD_NO_ROOM,
        [DN_OUTCOME_INVALID] = DN_DEAD_INVALID,
    };
    struct m_source *source = &m->sources[s][p];
    bool first = source->next == DN_OFFSET_UNSET;
    if (first ? begins_at != DN_OFFSET_UNSET : begins_at == DN_OFFSET_UNSET || begins_at > source->next) {
        return DN_RESULT_GAP;
    }
    if (!old && m->next_letter - m->written + count > DN_DEAD_MAX) {
        return DN_RESULT_FULL;
    }
    if (!m_source_room(m, source)) {
        return DN_RESULT_FULL;
    }
    source->listed = true;
    source->finished = 0;
    for (size_t i = 0; i < count; i++) {
        const struct m_message *message = &messages[i];
        bool counted = message->offset < source->next;
        uint8_t reason = message->mark;
        if (message->mark == 0) {
            *ret = counted ? DN_OUTCOME_DUPLICATE : m_stream_event(m, source, message, old, index);
            reason = old ? 0 : reasons[*ret];
            ret++;
        }
        if (reason != 0 && !counted) {
            m_bury(m, s, p, message->offset, reason);
        }
    }
    source->next = greater(source->next, next);
    return DN_RESULT_OK;
}

/* What next was; *ret_full: there is no room for it. */
static int64_t m_source_set(struct model *m, int s, int p, int64_t next, bool forget_watermark,
                            bool *ret_full)
{
    struct m_source *source = &m->sources[s][p];
    int64_t before = source->next;
    *ret_full = next != DN_OFFSET_UNSET && !m_source_room(m, source);
    if (*ret_full) {
        return before;
    }
    source->listed |= next != DN_OFFSET_UNSET;
    source->finished = 0;
    source->next = next;
    if (forget_watermark) {
        source->floor = 0;
        source->newest = INT64_MIN;
    }
    return before;
}

static bool m_written(struct model *m, uint64_t before)
{
    if (before > m->next_letter) {
        return false;
    }
    m->written = before > m->written ? before : m->written;
    return true;
}

/* ---- after an entry ----------------------------------------------------------------------------------- */

static void m_entry_done(struct model *m)
{
    while (m_forget(m, m->now - m->settings.idle_ms)) {
        m->expired++;
    }
    while ((uint32_t)m_user_count(m) > m->settings.users_max && m_forget(m, INT64_MAX)) {
        m->evicted++;
    }
    while ((uint32_t)m_item_count(m) > m->settings.items_max && m_item_oldest_unused(m) >= 0) {
        m->items[m_item_oldest_unused(m)].known = false;
    }
    int64_t keep = greater(m->settings.idle_ms, m->settings.lateness_ms);
    for (int n = 0; n < FORGET_STEP; n++) {
        int i = 0;
        while (i < m->erase_count && i < FORGET_STEP && m->erases[i].until >= m->now - keep) {
            i++;
        }
        if (i == m->erase_count || i == FORGET_STEP) {
            break;
        }
        m->forget_floor = greater(m->forget_floor, m->erases[i].until + 1);
        memmove(&m->erases[i], &m->erases[i + 1], (size_t)(--m->erase_count - i) * sizeof m->erases[0]);
    }
}

#endif
