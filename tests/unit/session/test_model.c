/* The state machine against a slow, plain model of it, over seeded random histories with tiny limits.
 *
 * After every record: the outcomes, every user's full view and the counters are the model's; the incremental
 * hash is the recomputed one; a second shard, restored from snapshots that are taken at random moments and
 * written while the first goes on, has the same hash. And whatever the model says, no event that was once
 * accepted is ever accepted again.
 *
 * DUNLIN_MODEL_SEED and DUNLIN_MODEL_RUNS choose other histories. */
#include "model.h"
#include "session/core.h"

#define STEPS 400
#define BATCH_MAX 8
#define FULL_EVERY 10 /* histories; these begin with a queue of dead letters that is nearly full */

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
    struct dn_event_in events[BATCH_MAX]; /* of the batch that is made */
    struct dn_dead_in marks[BATCH_MAX];
    size_t batch_events, batch_marks;
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

static void compare_source(struct run *run, struct rig *rig, int s, int p)
{
    const struct m_source *want = &run->model.sources[s][p];
    struct dn_source_view views[SOURCES * PARTITIONS], *got = NULL;
    int64_t next = -7;
    dn_epoch_enter(rig->reader);
    bool known = dn_shard_next_offset(rig->shard, source_names[s], (uint32_t)p, &next);
    size_t count = dn_shard_sources(rig->shard, views, SOURCES * PARTITIONS);
    dn_epoch_leave(rig->reader);
    EXPECT(known == (want->next != DN_OFFSET_UNSET), "source %d/%d", s, p);
    EXPECT(!known || next == want->next, "source %d/%d: %lld", s, p, (long long)next);
    for (size_t i = 0; i < count; i++) {
        if (views[i].partition == (uint32_t)p && strcmp(views[i].name, source_names[s]) == 0) {
            EXPECT(got == NULL, "source %d/%d twice", s, p);
            got = &views[i];
        }
    }
    EXPECT((got != NULL) == want->listed, "source %d/%d", s, p);
    EXPECT(got == NULL || (got->next_offset == want->next && got->newest_ms == want->newest &&
                           got->finished == (want->finished != 0) && got->events == want->events &&
                           got->watermark_ms == (want->floor > 0 ? want->floor : INT64_MIN)),
           "source %d/%d", s, p);
}

static void compare_sources(struct run *run, struct rig *rig)
{
    for (int i = 0; i < SOURCES * PARTITIONS; i++) {
        compare_source(run, rig, i / PARTITIONS, i % PARTITIONS);
    }
}

/* Those that wait, from number `from` on; no more than `max` at a time, and not all when they are many. */
static void compare_letters(struct run *run, struct rig *rig, uint64_t from, size_t max)
{
    static struct dn_dead_letter got[DN_DEAD_MAX];
    const struct model *m = &run->model;
    uint64_t written = 0, next = 0, most = from < m->written ? m->written : from;
    max = max < DN_DEAD_MAX ? max : DN_DEAD_MAX;
    dn_epoch_enter(rig->reader);
    dn_shard_dead_range(rig->shard, &written, &next);
    size_t count = dn_shard_dead_letters(rig->shard, from, got, max);
    dn_epoch_leave(rig->reader);
    EXPECT(written == m->written && next == m->next_letter, "%llu to %llu wait, not %llu to %llu",
           (unsigned long long)written, (unsigned long long)next, (unsigned long long)m->written,
           (unsigned long long)m->next_letter);
    EXPECT(count == (next - most < max ? next - most : max), "%zu letters", count);
    for (size_t i = 0; i < count; i++) {
        const struct m_letter *want = &m->letters[(most + i) % LETTERS];
        EXPECT(got[i].number == most + i && got[i].offset == want->offset && got[i].reason == want->reason &&
                   got[i].time_ms == want->time && got[i].partition == (uint32_t)want->partition &&
                   strcmp(got[i].source, source_names[want->source]) == 0,
               "letter %llu", (unsigned long long)(most + i));
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
    EXPECT(memcmp(stats.dead, m->dead, sizeof m->dead) == 0, "dead letters by reason");
    compare_sources(run, rig);
    compare_letters(run, rig, m->written, m->next_letter - m->written > 20 ? 20 : SIZE_MAX);
    char reason[DN_STALL_REASON_MAX + 1];
    dn_epoch_enter(rig->reader);
    int64_t since = dn_shard_stalled(rig->shard, reason);
    dn_epoch_leave(rig->reader);
    EXPECT(since == m->stalled && strcmp(reason, m->stall_reason) == 0, "stalled since %lld: %s",
           (long long)since, reason);
}

/* Over all histories: a path that no history takes is not tested. */
static uint64_t outcomes_seen[DN_OUTCOME_INVALID + 1], snapshots_seen, evicted_seen, expired_seen, gaps_seen,
    full_seen, sets_seen, written_seen, finished_seen, crowded_seen, forgotten_seen,
    dead_seen[DN_DEAD_REASON_MAX + 1];

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
    compare_letters(run, b, 0, SIZE_MAX);
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

/* Messages of a batch, from its start on; returns where reading goes on. */
static int64_t messages_random(struct run *run, int64_t begins_at, struct m_message *messages, size_t count,
                               bool marks)
{
    struct rng *rng = &run->rng;
    int64_t offset = greater(begins_at, 0);
    run->batch_events = run->batch_marks = 0;
    for (size_t i = 0; i < count; i++) {
        offset += (int64_t)rng_below(rng, 3); /* compaction leaves gaps */
        messages[i] = (struct m_message){.offset = offset};
        if (marks && rng_chance(rng, 25)) {
            messages[i].mark = (uint8_t)(DN_DEAD_UNDECODABLE + rng_below(rng, 3));
            run->marks[run->batch_marks++] = (struct dn_dead_in){offset, messages[i].mark};
        } else {
            struct dn_event_in *in = &run->events[run->batch_events++];
            int item = 0;
            event_random(run, in, &messages[i].user, &item);
            in->offset = offset;
            in->type = rng_chance(rng, 2) ? 0 : in->type; /* not valid */
            messages[i].event = model_event(in, item, false);
        }
        offset++;
    }
    return offset + (int64_t)rng_below(rng, 3);
}

static int listed_count(const struct model *m)
{
    int count = 0;
    for (int i = 0; i < SOURCES * PARTITIONS; i++) {
        count += m->sources[i / PARTITIONS][i % PARTITIONS].listed;
    }
    return count;
}

/* After a step that may have made a source known: was there a place for it, and whose? */
static void note_crowd(struct run *run, int known, bool listed, int s, int p, bool full)
{
    bool more = !listed && run->model.sources[s][p].listed;
    crowded_seen += full;
    forgotten_seen += more && listed_count(&run->model) == known;
    for (int i = 0; i < SOURCES * PARTITIONS; i++) { /* who reads it finds out, sooner or later */
        struct m_source *source = &run->model.sources[i / PARTITIONS][i % PARTITIONS];
        if (!source->listed && rng_chance(&run->rng, 90)) {
            run->next_offset[i / PARTITIONS][i % PARTITIONS] = DN_OFFSET_UNSET;
        }
    }
}

static void step_stream(struct run *run)
{
    struct rng *rng = &run->rng;
    struct model *m = &run->model;
    int s = (int)rng_below(rng, SOURCES), p = (int)rng_below(rng, PARTITIONS);
    struct m_message messages[BATCH_MAX];
    size_t count = rng_below(rng, BATCH_MAX + 1);
    int64_t begins_at = run->next_offset[s][p];
    if (begins_at >= 0 && rng_chance(rng, 15)) { /* the consumer goes back */
        begins_at = greater(DN_OFFSET_UNSET, begins_at - (int64_t)rng_below(rng, 10));
    }
    bool old = rng_chance(rng, 10);
    int64_t next = messages_random(run, begins_at, messages, count, !old);
    if (rng_chance(rng, 10)) { /* a batch lost on its way */
        run->next_offset[s][p] = next;
        return;
    }
    enum dn_outcome want[BATCH_MAX] = {0};
    int known = listed_count(m);
    bool listed = m->sources[s][p].listed;
    bool queue = m->next_letter - m->written + count <= DN_DEAD_MAX;
    enum dn_result_status status =
        m_batch(m, s, p, begins_at, next, messages, count, old, run->a.index, want);
    dn_buffer_clear(&run->a.record);
    dn_record_stream(&run->a.record, source_names[s], (uint32_t)p, begins_at, next, run->events,
                     run->batch_events, run->marks, run->batch_marks);
    if (old) { /* the same, but for the marks */
        run->a.record.bytes[1] = 1;
        run->a.record.length -= 4;
    }
    rig_apply(&run->a);
    gaps_seen += status == DN_RESULT_GAP;
    full_seen += status == DN_RESULT_FULL && !queue;
    note_crowd(run, known, listed, s, p, status == DN_RESULT_FULL && queue);
    EXPECT(run->a.answer.status == status, "status %d, not %d", run->a.answer.status, status);
    EXPECT(run->a.answer.next_offset == m->sources[s][p].next, "next offset %lld",
           (long long)run->a.answer.next_offset);
    EXPECT(run->a.answer.count == (status == DN_RESULT_OK ? run->batch_events : 0), "count");
    for (size_t i = 0; i < run->a.answer.count; i++) {
        EXPECT(run->a.answer.outcomes[i] == want[i], "stream event %zu: outcome %d, not %d", i,
               run->a.answer.outcomes[i], want[i]);
        count_outcome(m, want[i]);
    }
    run->next_offset[s][p] = m->sources[s][p].next;
}

static void step_finished(struct run *run, int s, int p)
{
    struct rng *rng = &run->rng;
    int64_t next = run->model.sources[s][p].next;
    bool gap = false;
    next = rng_chance(rng, 15) ? greater(DN_OFFSET_UNSET, next - 1) : next;
    dn_buffer_clear(&run->a.record);
    dn_record_source_finished(&run->a.record, source_names[s], (uint32_t)p, next);
    rig_apply(&run->a);
    int64_t was = m_source_finish(&run->model, s, p, next, &gap);
    EXPECT(run->a.answer.status == (gap ? DN_RESULT_GAP : DN_RESULT_OK), "status %d", run->a.answer.status);
    EXPECT(run->a.answer.next_offset == was, "it was %lld", (long long)run->a.answer.next_offset);
    finished_seen += !gap;
}

static void step_source(struct run *run)
{
    struct rng *rng = &run->rng;
    int s = (int)rng_below(rng, SOURCES), p = (int)rng_below(rng, PARTITIONS);
    if (rng_chance(rng, 70)) {
        for (int i = 0; i < 4 && !run->model.sources[s][p].listed; i++) {
            s = (int)rng_below(rng, SOURCES), p = (int)rng_below(rng, PARTITIONS);
        }
        step_finished(run, s, p);
        return;
    }
    int64_t next = run->model.sources[s][p].next;
    next = rng_chance(rng, 40) ? DN_OFFSET_UNSET : greater(0, next - 20 + (int64_t)rng_below(rng, 40));
    bool forget_watermark = rng_chance(rng, 50);
    dn_buffer_clear(&run->a.record);
    dn_record_source(&run->a.record, source_names[s], (uint32_t)p, next, forget_watermark);
    rig_apply(&run->a);
    bool full = false;
    int known = listed_count(&run->model), listed = run->model.sources[s][p].listed;
    int64_t was = m_source_set(&run->model, s, p, next, forget_watermark, &full);
    EXPECT(run->a.answer.status == (full ? DN_RESULT_FULL : DN_RESULT_OK), "status %d", run->a.answer.status);
    EXPECT(run->a.answer.next_offset == was, "it was %lld", (long long)run->a.answer.next_offset);
    note_crowd(run, known, listed, s, p, full);
    if (!full && rng_chance(rng, 80)) { /* else the consumer finds out by itself */
        run->next_offset[s][p] = next;
    }
    sets_seen++;
}

static void step_written(struct run *run)
{
    struct rng *rng = &run->rng;
    struct model *m = &run->model;
    uint64_t waiting = m->next_letter - m->written;
    unsigned few = run->seed % FULL_EVERY == 0 ? 98 : 70; /* percent */
    uint64_t most = rng_chance(rng, few) && waiting > 5 ? 5 : waiting;
    uint64_t before = m->written + rng_below(rng, most + 2);
    before -= rng_below(rng, before < 3 ? before + 1 : 3);
    dn_buffer_clear(&run->a.record);
    dn_record_dead_written(&run->a.record, before);
    rig_apply(&run->a);
    bool allowed = m_written(m, before);
    EXPECT(run->a.answer.status == (allowed ? DN_RESULT_OK : DN_RESULT_INVALID), "written %llu of %llu",
           (unsigned long long)before, (unsigned long long)m->next_letter);
    written_seen += allowed;
}

static void step_stall(struct run *run)
{
    struct rng *rng = &run->rng;
    struct model *m = &run->model;
    m->stalled = rng_chance(rng, 40) ? 0 : (int64_t)rng_below(rng, 1u << 30);
    snprintf(m->stall_reason, sizeof m->stall_reason, "%.*s", (int)rng_below(rng, 100),
             "broker 3 is not there");
    dn_buffer_clear(&run->a.record);
    dn_record_stall(&run->a.record, m->stalled, m->stall_reason);
    rig_apply(&run->a);
    EXPECT(run->a.answer.status == DN_RESULT_OK, "refused");
    m->stall_reason[0] = m->stalled == 0 ? '\0' : m->stall_reason[0];
}

/* Letters until nearly no more fit. */
static void fill_queue(struct run *run)
{
    static struct dn_dead_in marks[DN_EVENTS_PER_RECORD_MAX];
    struct model *m = &run->model;
    int64_t begins_at = DN_OFFSET_UNSET, next = 0;
    while (next < DN_DEAD_MAX - 30) {
        size_t count = 0;
        for (; count < DN_EVENTS_PER_RECORD_MAX && next < DN_DEAD_MAX - 30; count++) {
            m_bury(m, 0, 0, next, DN_DEAD_LIMIT);
            marks[count] = (struct dn_dead_in){next++, DN_DEAD_LIMIT};
        }
        dn_buffer_clear(&run->a.record);
        dn_record_stream(&run->a.record, source_names[0], 0, begins_at, next, NULL, 0, marks, count);
        rig_apply(&run->a);
        begins_at = next;
    }
    m->sources[0][0].listed = true;
    m->sources[0][0].next = run->next_offset[0][0] = next;
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
    if (what < 46) {
        step_api(run);
    } else if (what < 72) {
        step_stream(run);
        tick = run->a.record.length == 0;
    } else if (what < 78) {
        step_erase(run);
    } else if (what < 85) {
        step_source(run);
    } else if (what < 90) {
        step_written(run);
    } else if (what < 92) {
        step_stall(run);
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
    run->model.sources_max = 2 + (int)rng_below(&run->rng, SOURCES * PARTITIONS - 2);
    dn_sources_max = (uint32_t)run->model.sources_max;
    settings_random(&run->rng, &run->model.settings);
    rig_settings(&run->a, &run->model.settings);
    run->model.now = run->a.now_ms;
    m_entry_done(&run->model);
    m_streams_begin(&run->model);
    if (seed % FULL_EVERY == 0) {
        fill_queue(run);
    }
    for (run->step = 0; run->step < STEPS; run->step++) {
        one_step(run);
    }
    if (run->capture != NULL) {
        snapshot_close(run);
    }
    evicted_seen += run->model.evicted;
    expired_seen += run->model.expired;
    for (int reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        dead_seen[reason] += run->model.dead[reason];
    }
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
        CHECK(runs < 100 || outcomes_seen[i] > 100, "outcome %d hardly happened", i);
    }
    printf("; dead");
    for (int i = 1; i <= DN_DEAD_REASON_MAX; i++) {
        printf(" %llu", (unsigned long long)dead_seen[i]);
        CHECK(runs < 100 || dead_seen[i] > 100, "reason %d hardly happened", i);
    }
    printf("; full %llu, set %llu, written %llu", (unsigned long long)full_seen,
           (unsigned long long)sets_seen, (unsigned long long)written_seen);
    CHECK(runs < 100 || (full_seen > 100 && sets_seen > 100 && written_seen > 100), "hardly happened");
    printf("; finished %llu, crowded %llu, forgotten %llu", (unsigned long long)finished_seen,
           (unsigned long long)crowded_seen, (unsigned long long)forgotten_seen);
    CHECK(runs < 100 || (finished_seen > 100 && crowded_seen > 100 && forgotten_seen > 100),
          "hardly happened");
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
