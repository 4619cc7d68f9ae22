/* The state machine against a slow, plain model of it, over seeded random histories with tiny limits.
 *
 * After every record: the outcomes, every user's full view and the counters are the model's; the incremental
 * hash is the recomputed one; a second shard, restored from snapshots that are taken at random moments and
 * written while the first goes on, has the same hash. And whatever the model says, no event that was once
 * accepted is ever accepted again.
 *
 * DUNLIN_MODEL_SEED and DUNLIN_MODEL_RUNS choose other histories. */
#include "harness.h"

#define USERS 14
#define ITEMS 24
#define SOURCES 2
#define PARTITIONS 2
#define STEPS 400
#define LIST_MAX 64
#define IDS_MAX 64
#define FORGET_STEP 64 /* of the shard: more than USERS, so the model need not count */

/* ---- the model ------------------------------------------------------------------------------------- */

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

struct model {
    struct dn_shard_settings settings;
    int64_t now, forget_floor;
    uint64_t touch, unref_clock;
    struct m_user users[USERS];
    struct {
        bool known;
        uint64_t unref;
    } items[ITEMS];
    struct {
        bool known;
        int64_t next, floor;
    } sources[SOURCES][PARTITIONS];
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

/* ---- the run --------------------------------------------------------------------------------------- */

struct accepted {
    int user;
    uint64_t id;
    int64_t time;
};

struct run {
    uint64_t seed;
    int step;
    struct rng rng;
    struct model model;
    struct rig a, b;
    void *capture;                 /* open on a */
    struct dn_buffer since[STEPS]; /* records applied to a since the capture: u8 tick?, i64 now, bytes */
    int since_count;
    bool b_follows;
    struct accepted *accepted;
    size_t accepted_count, accepted_capacity;
    struct dn_event_in sent[64];
    int sent_user[64], sent_item[64], sent_count;
    int64_t next_offset[SOURCES][PARTITIONS];
};

static const char *const item_names[ITEMS] = {
    "a",   "bb",  "ccc", "d-4", "e/5", "f 6", "g7",  "h8",
    "i9",  "j10", "k11", "l12", "m13", "n14", "o15", "p16",
    "q17", "r18", "s19", "t20", "u21", "v22", "w23", "an item with a long name 24",
};
static const char *const source_names[SOURCES] = {"clicks", "views"};

static void settings_random(struct rng *rng, struct dn_shard_settings *s)
{
    dn_shard_settings_default(s);
    s->gap_ms = 1 + (int64_t)rng_below(rng, 2000);
    s->lateness_ms = (int64_t)rng_below(rng, 1500);
    s->ahead_ms = (int64_t)rng_below(rng, 1500);
    s->idle_ms = 1000 + (int64_t)rng_below(rng, 20000);
    s->events_per_user = 2 + (uint32_t)rng_below(rng, 8);
    s->ids_per_user = 1 + (uint32_t)rng_below(rng, 12);
    s->users_max = 2 + (uint32_t)rng_below(rng, USERS);
    s->items_max = 3 + (uint32_t)rng_below(rng, ITEMS);
    s->trend_half_life_ms = 60000 + (int64_t)rng_below(rng, 1000000);
}

#define EXPECT(condition, ...)                                                                               \
    do {                                                                                                     \
        bool holds = (condition);                                                                            \
        if (!holds) {                                                                                        \
            fprintf(stderr, "DUNLIN_MODEL_SEED=%llu step %d: ", (unsigned long long)run->seed, run->step);   \
        }                                                                                                    \
        CHECK(holds, __VA_ARGS__);                                                                           \
    } while (0)

static void compare_user(struct run *run, struct rig *rig, int u)
{
    const struct m_user *want = &run->model.users[u];
    struct dn_session_view view;
    enum dn_code code = rig_read(rig, (uint64_t)u, &view);
    EXPECT(code == (want->known ? DN_OK : DN_NOT_FOUND), "user %d: code %d", u, code);
    if (!want->known) {
        return;
    }
    EXPECT(view.version == want->version, "user %d", u);
    EXPECT(view.start_ms == want->start, "user %d", u);
    EXPECT(view.session_events == want->session_events, "user %d: %u, not %u", u, view.session_events,
           want->session_events);
    EXPECT(view.event_count == (size_t)want->count, "user %d", u);
    EXPECT(view.last_ms == want->list[want->count - 1].time, "user %d", u);
    EXPECT(memcmp(view.counts, want->counts, sizeof view.counts) == 0, "user %d", u);
    for (int i = 0; i < want->count; i++) {
        const struct dn_event_view *got = &view.events[i];
        const struct m_event *event = &want->list[i];
        const char *name = item_names[event->item];
        EXPECT(got->time_ms == event->time && got->type == event->type, "user %d event %d", u, i);
        EXPECT(got->item_length == strlen(name) && memcmp(got->item, name, got->item_length) == 0,
               "user %d event %d: %.*s, not %s", u, i, got->item_length, got->item, name);
        EXPECT(got->item_hash == dn_hash64(name, strlen(name), 0), "user %d event %d", u, i);
        EXPECT(got->current == (event->time >= want->start), "user %d event %d", u, i);
        EXPECT(got->weight == (float)event->weight / 256.0f, "user %d event %d", u, i);
    }
}

static void compare(struct run *run, struct rig *rig)
{
    const struct model *m = &run->model;
    for (int u = 0; u < USERS; u++) {
        compare_user(run, rig, u);
    }
    struct dn_shard_stats stats;
    dn_shard_stats(rig->shard, &stats);
    EXPECT(stats.users == (uint64_t)m_user_count(m), "%d users", (int)stats.users);
    EXPECT(stats.items == (uint64_t)m_item_count(m), "%d items, not %d", (int)stats.items, m_item_count(m));
    EXPECT(stats.events_applied == m->applied, "applied");
    EXPECT(stats.duplicates == m->duplicates, "duplicates");
    EXPECT(stats.late == m->late, "late");
    EXPECT(stats.refused == m->refused, "refused");
    EXPECT(stats.evicted == m->evicted, "evicted");
    EXPECT(stats.expired == m->expired, "expired");
    for (int s = 0; s < SOURCES; s++) {
        for (int p = 0; p < PARTITIONS; p++) {
            int64_t next = -1;
            dn_epoch_enter(rig->reader);
            bool known = dn_shard_next_offset(rig->shard, source_names[s], (uint32_t)p, &next);
            dn_epoch_leave(rig->reader);
            EXPECT(known == m->sources[s][p].known, "source %d/%d", s, p);
            EXPECT(!known || next == m->sources[s][p].next, "source %d/%d: %lld", s, p, (long long)next);
        }
    }
}

/* Over all histories: a path that no history takes is not tested. */
static uint64_t outcomes_seen[DN_OUTCOME_INVALID + 1], snapshots_seen, evicted_seen, expired_seen, gaps_seen;

static void count_outcome(struct model *m, enum dn_outcome outcome)
{
    outcomes_seen[outcome]++;
    m->duplicates += outcome == DN_OUTCOME_DUPLICATE;
    m->late += outcome == DN_OUTCOME_LATE;
    m->refused += outcome > DN_OUTCOME_LATE;
}

static void note_accepted(struct run *run, int user, uint64_t id, int64_t time)
{
    for (size_t i = 0; i < run->accepted_count; i++) {
        const struct accepted *a = &run->accepted[i];
        EXPECT(a->user != user || a->id != id || a->time != time, "event %llx of user %d counted twice",
               (unsigned long long)id, user);
    }
    if (run->accepted_count == run->accepted_capacity) {
        run->accepted_capacity = run->accepted_capacity * 2 + 256;
        run->accepted = realloc(run->accepted, run->accepted_capacity * sizeof *run->accepted);
    }
    run->accepted[run->accepted_count++] = (struct accepted){user, id, time};
}

/* Applies a's record to b as well (or a tick, where there is none), and keeps it for a later restore. */
static void follow(struct run *run, bool tick)
{
    struct rig *a = &run->a, *b = &run->b;
    if (run->capture != NULL && run->since_count < STEPS) {
        struct dn_buffer *kept = &run->since[run->since_count++];
        dn_buffer_init(kept, 1u << 20);
        dn_buffer_u8(kept, tick);
        dn_buffer_i64(kept, a->now_ms);
        if (!tick) {
            dn_buffer_append(kept, a->record.bytes, a->record.length);
        }
    }
    if (run->b_follows) {
        b->now_ms = a->now_ms;
        if (tick) {
            rig_tick(b, 0);
        } else {
            dn_buffer_clear(&b->record);
            dn_buffer_append(&b->record, a->record.bytes, a->record.length);
            rig_apply(b);
            EXPECT(b->result.length == a->result.length &&
                       memcmp(b->result.bytes, a->result.bytes, a->result.length) == 0,
                   "the restored shard answers otherwise");
        }
        EXPECT(dn_shard_hash(b->shard) == dn_shard_hash(a->shard), "the restored shard differs");
    }
}

static void snapshot_open(struct run *run)
{
    run->capture = dn_shard_snapshot_begin(run->a.shard);
    run->since_count = 0;
}

static void snapshot_close(struct run *run)
{
    struct rig *a = &run->a, *b = &run->b;
    struct dn_buffer bytes;
    struct dn_error err = {0};
    dn_buffer_init(&bytes, 16u << 20);
    EXPECT(whole_write(dn_shard_snapshot_write, a->shard, run->capture, &bytes, &err) == DN_OK, "%s",
           err.message);
    dn_shard_snapshot_end(a->shard, run->capture);
    run->capture = NULL;
    rig_restore(b, &bytes);
    dn_buffer_free(&bytes);
    b->index = a->index - (uint64_t)run->since_count;
    for (int i = 0; i < run->since_count; i++) {
        struct dn_reader reader;
        dn_reader_init(&reader, run->since[i].bytes, run->since[i].length);
        bool tick = dn_reader_u8(&reader) != 0;
        b->now_ms = dn_reader_i64(&reader);
        if (tick) {
            rig_tick(b, 0);
        } else {
            dn_buffer_clear(&b->record);
            dn_buffer_append(&b->record, reader.bytes + reader.offset, dn_reader_left(&reader));
            rig_apply(b);
        }
        dn_buffer_free(&run->since[i]);
    }
    EXPECT(dn_shard_hash(b->shard) == dn_shard_hash(a->shard), "snapshot and log give another state");
    run->b_follows = true;
    snapshots_seen++;
    compare(run, b);
}

static int64_t event_time(struct run *run)
{
    struct rng *rng = &run->rng;
    int64_t now = run->a.now_ms;
    switch (rng_below(rng, 6)) {
    case 0:
        return now - (int64_t)rng_below(rng, 6000);
    case 1:
        return now + (int64_t)rng_below(rng, 2000);
    case 2:
        return (now - (int64_t)rng_below(rng, 3000)) / 500 * 500; /* equal times */
    default:
        return now - (int64_t)rng_below(rng, 800);
    }
}

static void event_random(struct run *run, struct dn_event_in *in, int *ret_user, int *ret_item)
{
    struct rng *rng = &run->rng;
    if (run->sent_count > 0 && rng_chance(rng, 25)) { /* a retry of something recent */
        int which = (int)rng_below(rng, (uint64_t)run->sent_count);
        *in = run->sent[which];
        *ret_user = run->sent_user[which];
        *ret_item = run->sent_item[which];
        return;
    }
    int user = (int)rng_below(rng, USERS), item = (int)rng_below(rng, ITEMS);
    *in = event_of((uint64_t)user, 1 + rng_below(rng, 1u << 30), event_time(run), item_names[item]);
    in->type = (uint8_t)(1 + rng_below(rng, DN_EVENT_TYPE_MAX));
    in->weight = (uint16_t)rng_below(rng, 1024);
    *ret_user = user;
    *ret_item = item;
    int place = run->sent_count < 64 ? run->sent_count++ : (int)rng_below(rng, 64);
    run->sent[place] = *in;
    run->sent_user[place] = user;
    run->sent_item[place] = item;
}

static struct m_event model_event(const struct dn_event_in *in, int item, bool api)
{
    return (struct m_event){in->time_ms, api ? in->event_id : 0, item, in->weight, in->type};
}

static void step_api(struct run *run)
{
    struct dn_event_in in[6];
    int user[6], item[6];
    size_t count = 1 + rng_below(&run->rng, 6);
    for (size_t i = 0; i < count; i++) {
        event_random(run, &in[i], &user[i], &item[i]);
    }
    uint64_t index = run->a.index;
    rig_events(&run->a, in, count);
    for (size_t i = 0; i < count; i++) {
        struct m_event event = model_event(&in[i], item[i], true);
        enum dn_outcome want = m_event(&run->model, user[i], &event, true, index);
        EXPECT(run->a.answer.outcomes[i] == want, "event %zu of user %d: outcome %d, not %d", i, user[i],
               run->a.answer.outcomes[i], want);
        count_outcome(&run->model, want);
        if (run->a.answer.outcomes[i] == DN_OUTCOME_ACCEPTED) {
            note_accepted(run, user[i], in[i].event_id, in[i].time_ms);
        }
    }
}

static void step_stream(struct run *run)
{
    struct rng *rng = &run->rng;
    struct model *m = &run->model;
    int s = (int)rng_below(rng, SOURCES), p = (int)rng_below(rng, PARTITIONS);
    struct dn_event_in in[6];
    int user[6], item[6];
    size_t count = rng_below(rng, 6);
    int64_t begins_at = run->next_offset[s][p];
    if (m->sources[s][p].known && rng_chance(rng, 15)) { /* the consumer goes back */
        begins_at = greater(DN_OFFSET_UNSET, begins_at - (int64_t)rng_below(rng, 10));
    }
    int64_t offset = greater(begins_at, 0);
    for (size_t i = 0; i < count; i++) {
        event_random(run, &in[i], &user[i], &item[i]);
        offset += (int64_t)rng_below(rng, 3); /* compaction leaves gaps */
        in[i].offset = offset++;
    }
    int64_t next = offset + (int64_t)rng_below(rng, 3);
    if (rng_chance(rng, 10)) { /* a batch lost on its way */
        run->next_offset[s][p] = next;
        return;
    }
    uint64_t index = run->a.index;
    dn_buffer_clear(&run->a.record);
    dn_record_stream(&run->a.record, source_names[s], (uint32_t)p, begins_at, next, in, count, NULL, 0);
    rig_apply(&run->a);
    bool known = m->sources[s][p].known;
    int64_t known_next = known ? m->sources[s][p].next : DN_OFFSET_UNSET;
    if (known ? begins_at < 0 || begins_at > known_next : begins_at >= 0) {
        gaps_seen++;
        EXPECT(run->a.answer.status == DN_RESULT_GAP, "a gap not seen");
        EXPECT(run->a.answer.next_offset == known_next, "seek to %lld", (long long)known_next);
        run->next_offset[s][p] = run->a.answer.next_offset;
        return;
    }
    EXPECT(run->a.answer.status == DN_RESULT_OK && run->a.answer.count == count, "refused");
    m->sources[s][p].known = true;
    for (size_t i = 0; i < count; i++) {
        struct m_event event = model_event(&in[i], item[i], false);
        enum dn_outcome want = DN_OUTCOME_DUPLICATE;
        if (in[i].offset >= known_next) {
            want = event.time < m->sources[s][p].floor ? DN_OUTCOME_LATE
                                                       : m_event(m, user[i], &event, false, index);
        }
        if (want == DN_OUTCOME_ACCEPTED) {
            m->sources[s][p].floor =
                greater(m->sources[s][p].floor, lesser(event.time, m->now) - m->settings.lateness_ms);
        }
        EXPECT(run->a.answer.outcomes[i] == want, "stream event %zu: outcome %d, not %d", i,
               run->a.answer.outcomes[i], want);
        count_outcome(m, want);
    }
    m->sources[s][p].next = greater(known_next, next);
    EXPECT(run->a.answer.next_offset == m->sources[s][p].next, "next offset");
    run->next_offset[s][p] = m->sources[s][p].next;
}

static void step_erase(struct run *run)
{
    int user = (int)rng_below(&run->rng, USERS);
    int64_t until = run->a.now_ms - 500 + (int64_t)rng_below(&run->rng, 600);
    until = lesser(until, run->a.now_ms + run->model.settings.ahead_ms);
    uint64_t request = rng_below(&run->rng, 12);
    bool existed = false;
    rig_erase(&run->a, (uint64_t)user, until, request);
    m_erase(&run->model, user, until, request, &existed);
    EXPECT(run->a.answer.status == DN_RESULT_OK && run->a.answer.existed == existed, "erase of user %d",
           user);
}

static void one_step(struct run *run)
{
    struct rng *rng = &run->rng;
    if (rng_chance(rng, 60)) {
        run->a.now_ms += (int64_t)rng_below(rng, rng_chance(rng, 5) ? 30000 : 300);
    }
    run->model.now = run->a.now_ms;
    uint64_t what = rng_below(rng, 100);
    bool tick = what >= 95;
    dn_buffer_clear(&run->a.record);
    if (what < 55) {
        step_api(run);
    } else if (what < 85) {
        step_stream(run);
        tick = run->a.record.length == 0;
    } else if (what < 92) {
        step_erase(run);
    } else if (what < 95) {
        struct dn_shard_settings settings;
        settings_random(rng, &settings);
        rig_settings(&run->a, &settings);
        EXPECT(run->a.answer.status == DN_RESULT_OK, "settings refused");
        run->model.settings = settings;
    }
    if (tick) {
        rig_tick(&run->a, 0);
    }
    m_entry_done(&run->model);
    follow(run, tick);
    compare(run, &run->a);
    if (run->capture == NULL && rng_chance(rng, 6)) {
        snapshot_open(run);
    } else if (run->capture != NULL && rng_chance(rng, 15)) {
        snapshot_close(run);
    }
}

static void history(uint64_t seed)
{
    struct run *run = calloc(1, sizeof *run);
    run->seed = seed;
    run->rng.state = seed;
    rig_open(&run->a);
    rig_open(&run->b);
    for (int i = 0; i < SOURCES * PARTITIONS; i++) {
        run->next_offset[i / PARTITIONS][i % PARTITIONS] = DN_OFFSET_UNSET;
    }
    settings_random(&run->rng, &run->model.settings);
    rig_settings(&run->a, &run->model.settings);
    run->model.now = run->a.now_ms;
    m_entry_done(&run->model);
    for (run->step = 0; run->step < STEPS; run->step++) {
        one_step(run);
    }
    if (run->capture != NULL) {
        snapshot_close(run);
    }
    evicted_seen += run->model.evicted;
    expired_seen += run->model.expired;
    rig_close(&run->a);
    rig_close(&run->b);
    free(run->accepted);
    free(run);
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void test_histories(void **state)
{
    (void)state;
    uint64_t seed = from_env("DUNLIN_MODEL_SEED", 1), runs = from_env("DUNLIN_MODEL_RUNS", 120);
    for (uint64_t i = 0; i < runs; i++) {
        history(seed + i);
    }
    printf("outcomes");
    for (int i = 0; i <= DN_OUTCOME_INVALID; i++) {
        printf(" %llu", (unsigned long long)outcomes_seen[i]);
        CHECK(runs < 100 || i == DN_OUTCOME_INVALID || outcomes_seen[i] > 100, "outcome %d hardly happened",
              i);
    }
    printf("; snapshots %llu, evicted %llu, expired %llu, gaps %llu\n", (unsigned long long)snapshots_seen,
           (unsigned long long)evicted_seen, (unsigned long long)expired_seen, (unsigned long long)gaps_seen);
    CHECK(runs < 100 || (snapshots_seen > 100 && evicted_seen > 100 && expired_seen > 100 && gaps_seen > 100),
          "hardly happened");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_histories)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
