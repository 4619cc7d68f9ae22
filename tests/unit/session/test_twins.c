/* A live shard and one restored from its snapshot are given the same further history: answers, hashes, views
 * and trends must stay equal for ever. Against test_model.c: more users than are looked at in one go, users
 * and items at tight limits, jumps of days (trend epochs), settings that change in the middle, times at the
 * extremes, clocks far ahead and behind, and no model, so that whatever the state holds may decide.
 *
 * DUNLIN_TWINS_SEED and DUNLIN_TWINS_RUNS choose other histories. */
#include "harness.h"

#include "session/near.h"

#define USERS 400
#define ITEMS 300
#define ROUNDS 6
#define STEPS 120
#define RECORD_MAX 40
#define HOUR ((int64_t)3600000)
#define DAY (24 * HOUR)

static uint64_t outcomes_seen[DN_OUTCOME_INVALID + 1], evicted_seen, expired_seen, erased_seen, letters_seen;
static uint64_t rows_seen,
    off_seen; /* snapshots: with rows; with rows, and the tables off before any halving */

static void settings_random(struct rng *rng, bool slow, struct dn_shard_settings *s)
{
    static const int64_t lateness[] = {0, 1, 60000, 5 * 60000, 7 * DAY};
    static const int64_t idle[] = {1000, HOUR, 30 * DAY};
    static const int64_t half_life[] = {60000, HOUR, 6 * HOUR, 365 * DAY};
    static const int64_t slow_half_life[] = {500 * DAY, 1000 * DAY, 3650 * DAY};
    dn_shard_settings_default(s);
    s->gap_ms = rng_chance(rng, 20) ? 1 : 30 * 60000;
    s->lateness_ms = lateness[rng_below(rng, rng_chance(rng, 10) ? 5 : 4)];
    s->ahead_ms = rng_chance(rng, 20) ? 0 : (int64_t)(1 + rng_below(rng, 7)) * DAY;
    s->idle_ms = idle[rng_below(rng, 3)];
    s->events_per_user = 2 + (uint32_t)rng_below(rng, 20);
    s->ids_per_user = 1 + (uint32_t)rng_below(rng, 60);
    s->users_max = 60 + (uint32_t)rng_below(rng, USERS);
    s->items_max = 100 + (uint32_t)rng_below(rng, ITEMS);
    s->trend_half_life_ms = half_life[rng_below(rng, 4)];
    s->near_cells = rng_chance(rng, 80) ? 1 + (uint32_t)rng_below(rng, 40) : 0;
    s->near_visitors = 1 + (uint32_t)rng_below(rng, 20);
    s->near_half_life_ms = slow ? slow_half_life[rng_below(rng, 3)] : (1 + (int64_t)rng_below(rng, 4)) * HOUR;
}

static int64_t time_random(struct rng *rng, int64_t now)
{
    static const int64_t extremes[] = {
        0, 1, -1, INT64_MIN, INT64_MAX, ((int64_t)1 << 48) - 1, (int64_t)1 << 48};
    switch (rng_below(rng, 20)) {
    case 0:
        return extremes[rng_below(rng, sizeof extremes / sizeof extremes[0])];
    case 1:
        return now + (int64_t)rng_below(rng, 8 * (uint64_t)DAY);
    case 2:
        return now - (int64_t)rng_below(rng, (uint64_t)DAY);
    case 3:
        return now / 100000 * 100000; /* equal times */
    default:
        return now - (int64_t)rng_below(rng, 2 * 60000) + 1000;
    }
}

static void events_random(struct rng *rng, int64_t now, struct dn_event_in *in, size_t count,
                          char names[][16])
{
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && rng_chance(rng, 10)) { /* a repeat inside the record */
            in[i] = in[rng_below(rng, i)];
            continue;
        }
        /* A few busy users, a few ids that many users share, popular items. */
        uint64_t user = rng_chance(rng, 30) ? rng_below(rng, 8) : rng_below(rng, USERS);
        snprintf(names[i], sizeof names[i], "i%u", (unsigned)rng_below(rng, 1 + rng_below(rng, ITEMS)));
        in[i] = event_of(user, 1 + rng_below(rng, rng_chance(rng, 50) ? 40 : UINT32_MAX),
                         time_random(rng, now), names[i]);
        in[i].type = (uint8_t)(1 + rng_below(rng, DN_EVENT_TYPE_MAX));
        in[i].weight = (uint16_t)rng_next(rng);
    }
}

/* A batch of a stream with marks between its events. */
static void stream_random(struct rng *rng, struct rig *a, int64_t *next_offset)
{
    struct dn_event_in in[RECORD_MAX];
    struct dn_dead_in dead[RECORD_MAX];
    char names[RECORD_MAX][16];
    size_t count = rng_below(rng, RECORD_MAX), marks = 0;
    uint32_t partition = (uint32_t)rng_below(rng, 3);
    int64_t begins_at = next_offset[partition], offset = begins_at < 0 ? 0 : begins_at;
    events_random(rng, a->now_ms, in, count, names);
    for (size_t i = 0; i < count; i++) {
        if (marks < RECORD_MAX && rng_chance(rng, 20)) {
            dead[marks++] = (struct dn_dead_in){offset++, (uint8_t)(1 + rng_below(rng, 3))};
        }
        in[i].event_id = 0;
        in[i].offset = offset++;
    }
    dn_record_stream(&a->record, "clicks", partition, begins_at, offset, in, count, dead, marks);
    next_offset[partition] = offset;
}

/* The rarer words on streams. */
static void word_random(struct rng *rng, struct rig *a, int64_t *next_offset)
{
    uint64_t written = 0, next = 0;
    uint32_t partition = (uint32_t)rng_below(rng, 3);
    switch (rng_below(rng, 3)) {
    case 0:
        next_offset[partition] = rng_chance(rng, 30) ? DN_OFFSET_UNSET : (int64_t)rng_below(rng, 4000);
        dn_record_source(&a->record, "clicks", partition, next_offset[partition], rng_chance(rng, 50));
        break;
    case 1:
        dn_record_stall(&a->record, (int64_t)rng_below(rng, 3) * 1000,
                        rng_chance(rng, 50) ? "why" : "because");
        break;
    default:
        dn_epoch_enter(a->reader);
        dn_shard_dead_range(a->shard, &written, &next);
        dn_epoch_leave(a->reader);
        dn_record_dead_written(&a->record, written + rng_below(rng, next - written + 2));
        break;
    }
}

static void record_random(struct rng *rng, struct rig *a, bool slow, int64_t *next_offset)
{
    struct dn_event_in in[RECORD_MAX];
    char names[RECORD_MAX][16];
    size_t count = 1 + rng_below(rng, RECORD_MAX);
    dn_buffer_clear(&a->record);
    switch (rng_below(rng, 11)) {
    case 0: {
        struct dn_shard_settings settings;
        settings_random(rng, slow, &settings);
        dn_record_settings(&a->record, &settings);
        break;
    }
    case 1:
    case 2: {
        uint64_t user = rng_chance(rng, 50) ? rng_below(rng, 8) : rng_below(rng, USERS);
        dn_record_erase(&a->record, user_of(user), time_random(rng, a->now_ms), 1 + rng_below(rng, 1000));
        break;
    }
    case 3:
    case 4:
        stream_random(rng, a, next_offset);
        break;
    case 5:
        word_random(rng, a, next_offset);
        break;
    default:
        events_random(rng, a->now_ms, in, count, names);
        dn_record_events(&a->record, in, count);
    }
}

static void same_views(struct rig *a, struct rig *b)
{
    for (uint64_t user = 0; user < USERS; user++) {
        struct dn_session_view x = {0}, y = {0};
        enum dn_code code = rig_read(a, user, &x);
        assert_int_equal(code, rig_read(b, user, &y));
        if (code != DN_OK) {
            continue;
        }
        assert_true(x.version == y.version && x.start_ms == y.start_ms && x.last_ms == y.last_ms);
        assert_true(x.session_events == y.session_events && x.event_count == y.event_count);
        assert_memory_equal(x.counts, y.counts, sizeof x.counts);
        for (size_t i = 0; i < x.event_count; i++) {
            const struct dn_event_view *e = &x.events[i], *f = &y.events[i];
            assert_true(e->time_ms == f->time_ms && e->type == f->type && e->current == f->current);
            assert_true(e->item_hash == f->item_hash && e->weight == f->weight);
        }
    }
}

static void same_trends(struct rig *a, struct rig *b)
{
    static struct dn_trend_view x[DN_TREND_MAX], y[DN_TREND_MAX];
    dn_epoch_enter(a->reader);
    dn_epoch_enter(b->reader);
    size_t count = dn_shard_trending(a->shard, x, DN_TREND_MAX);
    assert_int_equal(count, dn_shard_trending(b->shard, y, DN_TREND_MAX));
    for (size_t i = 0; i < count; i++) {
        assert_true(x[i].item_hash == y[i].item_hash && x[i].score == y[i].score);
    }
    dn_epoch_leave(a->reader);
    dn_epoch_leave(b->reader);
}

static void same_streams(struct rig *a, struct rig *b)
{
    static struct dn_dead_letter x[DN_DEAD_MAX], y[DN_DEAD_MAX];
    struct dn_source_view s[3], t[3];
    char why[2][DN_STALL_REASON_MAX + 1];
    struct dn_shard_stats stats[2];
    dn_epoch_enter(a->reader);
    dn_epoch_enter(b->reader);
    size_t count = dn_shard_dead_letters(a->shard, 0, x, DN_DEAD_MAX);
    assert_int_equal(dn_shard_dead_letters(b->shard, 0, y, DN_DEAD_MAX), count);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(x[i].source, y[i].source);
        assert_true(x[i].number == y[i].number && x[i].partition == y[i].partition);
        assert_true(x[i].offset == y[i].offset && x[i].reason == y[i].reason && x[i].time_ms == y[i].time_ms);
    }
    letters_seen += count;
    count = dn_shard_sources(a->shard, s, 3);
    assert_int_equal(dn_shard_sources(b->shard, t, 3), count);
    for (size_t i = 0; i < count; i++) {
        assert_true(s[i].partition == t[i].partition && s[i].next_offset == t[i].next_offset);
        assert_true(s[i].watermark_ms == t[i].watermark_ms && s[i].newest_ms == t[i].newest_ms);
        assert_int_equal(s[i].events, t[i].events);
    }
    assert_int_equal(dn_shard_stalled(a->shard, why[0]), dn_shard_stalled(b->shard, why[1]));
    assert_string_equal(why[0], why[1]);
    dn_epoch_leave(a->reader);
    dn_epoch_leave(b->reader);
    dn_shard_stats(a->shard, &stats[0]);
    dn_shard_stats(b->shard, &stats[1]);
    assert_memory_equal(stats[0].dead, stats[1].dead, sizeof stats[0].dead);
}

/* Which items cells name is a matter of the node: it may have forgotten one meanwhile. */
static void same_near(struct rig *a, struct rig *b)
{
    struct dn_near_cell cells[DN_NEAR_CELLS_MAX];
    struct dn_near_row rows[2];
    struct dn_near_item items[2];
    struct dn_near_visit visits[DN_NEAR_VISITS_MAX];
    struct dn_near_session sessions[2];
    struct rig *rigs[] = {a, b};
    uint32_t ids[2], users[2][DN_NEAR_VISITORS_MAX];
    size_t counts[2];
    dn_epoch_enter(a->reader);
    dn_epoch_enter(b->reader);
    for (unsigned i = 0; i < ITEMS; i++) {
        char name[16];
        int length = snprintf(name, sizeof name, "i%u", i);
        for (int n = 0; n < 2; n++) {
            ids[n] = dn_near_find(rigs[n]->shard, dn_hash64(name, (size_t)length, 0), name, (uint16_t)length);
            if (ids[n] == DN_NEAR_NONE) {
                continue;
            }
            assert_true(dn_near_item(rigs[n]->shard, ids[n], &items[n]));
            dn_near_row(rigs[n]->shard, ids[n], cells, DN_NEAR_CELLS_MAX, &rows[n]);
            counts[n] = dn_near_visitors(rigs[n]->shard, ids[n], users[n], DN_NEAR_VISITORS_MAX);
        }
        assert_int_equal(ids[0] == DN_NEAR_NONE, ids[1] == DN_NEAR_NONE);
        if (ids[0] == DN_NEAR_NONE) {
            continue;
        }
        assert_true(items[0].clicks == items[1].clicks && items[0].recent == items[1].recent);
        assert_true(rows[0].after_sum == rows[1].after_sum && rows[0].near_sum == rows[1].near_sum);
        assert_int_equal(counts[0], counts[1]);
        for (size_t at = 0; at < counts[0]; at++) {
            bool met = dn_near_session(a->shard, users[0][at], ids[0], 5, visits, &sessions[0]);
            assert_int_equal(dn_near_session(b->shard, users[1][at], ids[1], 5, visits, &sessions[1]), met);
            assert_true(!met || dn_hash128_equal(sessions[0].user, sessions[1].user));
        }
    }
    dn_epoch_leave(a->reader);
    dn_epoch_leave(b->reader);
}

/* What of the tables a snapshot of it will hold. halved: they were, ever. */
static void count_tables(const struct rig *rig, bool halved)
{
    struct dn_shard_stats stats;
    struct dn_shard_settings settings;
    dn_shard_stats(rig->shard, &stats);
    dn_shard_settings(rig->shard, &settings);
    rows_seen += stats.near_rows > 0;
    off_seen += stats.near_rows > 0 && settings.near_cells == 0 && !halved;
}

static void both(struct rig *a, struct rig *b, uint64_t seed, int step)
{
    rig_apply(a);
    b->now_ms = a->now_ms;
    b->index = a->index - 1;
    dn_buffer_clear(&b->record);
    dn_buffer_append(&b->record, a->record.bytes, a->record.length);
    rig_apply(b);
    CHECK(a->result.length == b->result.length &&
              memcmp(a->result.bytes, b->result.bytes, a->result.length) == 0,
          "seed %llu step %d: another answer", (unsigned long long)seed, step);
    CHECK(dn_shard_hash(a->shard) == dn_shard_hash(b->shard), "seed %llu step %d: another state",
          (unsigned long long)seed, step);
    if (a->record.bytes[0] == DN_RECORD_EVENTS || a->record.bytes[0] == DN_RECORD_STREAM) {
        for (uint32_t i = 0; i < a->answer.count; i++) {
            outcomes_seen[a->answer.outcomes[i]]++;
        }
    }
}

static void history(uint64_t seed)
{
    struct rng rng = {seed};
    bool slow = seed % 2 == 0; /* tables that are not halved while this lasts */
    struct rig a, b;
    struct dn_shard_stats stats;
    int64_t next_offset[3] = {DN_OFFSET_UNSET, DN_OFFSET_UNSET, DN_OFFSET_UNSET};
    rig_open(&a);
    rig_open(&b);
    a.now_ms = 400 * DAY;
    for (int round = 0; round < ROUNDS; round++) {
        for (int step = 0; step < STEPS; step++) {
            a.now_ms += (int64_t)rng_below(&rng, rng_chance(&rng, 3) ? 3 * (uint64_t)DAY : 20000);
            record_random(&rng, &a, slow, next_offset);
            if (round == 0) {
                rig_apply(&a);
            } else {
                both(&a, &b, seed, round * STEPS + step);
            }
        }
        if (round > 0) {
            rig_tick(&a, 1000);
            rig_tick(&b, 1000);
            assert_true(dn_shard_hash(a.shard) == dn_shard_hash(b.shard));
            same_views(&a, &b);
            same_trends(&a, &b);
            same_streams(&a, &b);
            same_near(&a, &b);
        }
        count_tables(&a, !slow);
        /* From the live one, or from the one that was restored before. */
        struct rig *from = round > 0 && rng_chance(&rng, 50) ? &b : &a;
        struct dn_buffer bytes;
        dn_buffer_init(&bytes, 64u << 20);
        rig_snapshot(from, &bytes);
        rig_restore(&b, &bytes);
        dn_buffer_free(&bytes);
        assert_true(dn_shard_hash(a.shard) == dn_shard_hash(b.shard));
    }
    dn_shard_stats(a.shard, &stats);
    evicted_seen += stats.evicted;
    expired_seen += stats.expired;
    erased_seen += stats.erased;
    rig_close(&a);
    rig_close(&b);
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void test_twins(void **state)
{
    (void)state;
    uint64_t seed = from_env("DUNLIN_TWINS_SEED", 1), runs = from_env("DUNLIN_TWINS_RUNS", 12);
    for (uint64_t i = 0; i < runs; i++) {
        history(seed + i);
    }
    printf("outcomes");
    for (int i = 0; i <= DN_OUTCOME_INVALID; i++) {
        printf(" %llu", (unsigned long long)outcomes_seen[i]);
        CHECK(runs < 12 || outcomes_seen[i] > 100, "outcome %d hardly happened", i);
    }
    printf("; evicted %llu, expired %llu, erased %llu\n", (unsigned long long)evicted_seen,
           (unsigned long long)expired_seen, (unsigned long long)erased_seen);
    CHECK(runs < 12 || (rows_seen > 30 && off_seen > 5), "snapshots with rows: %llu; off: %llu",
          (unsigned long long)rows_seen, (unsigned long long)off_seen);
    CHECK(runs < 12 || (evicted_seen > 100 && expired_seen > 100 && erased_seen > 100 && letters_seen > 1000),
          "hardly happened");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_twins)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
