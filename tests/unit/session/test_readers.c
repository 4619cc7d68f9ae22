/* Reader threads against the writer: no locks, and never half a change. Meant for the thread sanitizer, and
 * able to fail without it: every event of a user is made so that a view can be checked by itself. */
#include "harness.h"
#include "session/near.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#define READERS 3
#define USERS 300
#define RECORDS 1500
#define PER_RECORD 20
#define BATCH_OFFSETS 40 /* an entry's: events first, then marks */

struct shared {
    struct rig *rig;
    atomic_bool stop;
    atomic_uint_fast64_t views, trends, letters;
    atomic_int failures, started;
};

#define READER_CHECK(condition)                                                                              \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                  \
            atomic_fetch_add(&shared->failures, 1);                                                          \
        }                                                                                                    \
    } while (0)

/* The item of an event names its user, its time and its weight. */
static void item_name(char *name, size_t size, uint64_t user, int64_t time_ms, unsigned weight)
{
    snprintf(name, size, "u%llu-t%lld-w%u", (unsigned long long)user, (long long)time_ms, weight);
}

static void check_view(struct shared *shared, uint64_t user, const struct dn_session_view *view)
{
    unsigned current = 0, counts = 0;
    READER_CHECK(view->event_count >= 1 && view->event_count <= 10);
    for (size_t i = 0; i < view->event_count; i++) {
        const struct dn_event_view *event = &view->events[i];
        char name[64];
        item_name(name, sizeof name, user, event->time_ms, (unsigned)(event->weight * DN_WEIGHT_ONE));
        READER_CHECK(event->item_length == strlen(name) && memcmp(event->item, name, strlen(name)) == 0);
        READER_CHECK(event->item_hash == dn_hash64(name, strlen(name), 0));
        READER_CHECK(i == 0 || view->events[i - 1].time_ms <= event->time_ms);
        READER_CHECK(event->current == (event->time_ms >= view->start_ms));
        current += event->current;
    }
    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++) {
        counts += view->counts[type];
    }
    READER_CHECK(view->last_ms == view->events[view->event_count - 1].time_ms);
    READER_CHECK(counts == view->session_events);
    READER_CHECK(current <= view->session_events);
    READER_CHECK(current == view->session_events || current == view->event_count);
}

/* One event at most is counted there: its weight, decayed. */
static void check_counter(struct shared *shared, const struct dn_trend_view *trend)
{
    const struct dn_shard *shard = shared->rig->shard;
    struct dn_near_item named;
    uint32_t id = dn_near_find(shard, trend->item_hash, trend->item, trend->item_length);
    if (id == DN_NEAR_NONE || !dn_near_item(shard, id, &named) || named.hash != trend->item_hash) {
        return; /* evicted meanwhile */
    }
    unsigned weight = 0;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)named.length, named.name);
    READER_CHECK(sscanf(strrchr(name, 'w'), "w%u", &weight) == 1);
    READER_CHECK(named.trending <= 1.001 * weight / DN_WEIGHT_ONE);
}

static void check_trends(struct shared *shared)
{
    struct dn_trend_view trends[DN_TREND_MAX];
    size_t count = dn_shard_trending(shared->rig->shard, trends, DN_TREND_MAX);
    for (size_t i = 0; i < count; i++) {
        READER_CHECK(i == 0 || trends[i - 1].score >= trends[i].score);
        READER_CHECK(trends[i].item_hash == dn_hash64(trends[i].item, trends[i].item_length, 0));
        check_counter(shared, &trends[i]);
    }
    atomic_fetch_add(&shared->trends, count);
}

/* A letter names itself: its reason and its source follow from its offset. */
static void check_letters(struct shared *shared, struct rng *rng)
{
    static _Thread_local struct dn_dead_letter letters[2000];
    const struct dn_shard *shard = shared->rig->shard;
    struct dn_source_view views[4];
    char reason[DN_STALL_REASON_MAX + 1];
    uint64_t written = 0, next = 0;
    dn_shard_dead_range(shard, &written, &next);
    READER_CHECK(written <= next);
    uint64_t from = written + rng_below(rng, next - written + 1) / 2;
    size_t count = dn_shard_dead_letters(shard, from, letters, 2000);
    for (size_t i = 0; i < count; i++) {
        const struct dn_dead_letter *letter = &letters[i];
        READER_CHECK(letter->number >= from && (i == 0 || letter->number > letters[i - 1].number));
        READER_CHECK(letter->reason == DN_DEAD_LIMIT || letter->reason == DN_DEAD_LATE);
        READER_CHECK((letter->reason == DN_DEAD_LIMIT) == (letter->offset % BATCH_OFFSETS >= PER_RECORD));
        READER_CHECK(strcmp(letter->source, "clicks") == 0 && letter->partition == 1);
        READER_CHECK(letter->time_ms > 0);
    }
    atomic_fetch_add(&shared->letters, count);
    size_t sources = dn_shard_sources(shard, views, 4);
    READER_CHECK(sources <= 2);
    for (size_t i = 0; i < sources; i++) {
        READER_CHECK(strcmp(views[i].name, i == 0 ? "clicks" : "views") == 0);
        READER_CHECK(views[i].watermark_ms == INT64_MIN || views[i].watermark_ms > 0);
    }
    int64_t since_ms = dn_shard_stalled(shard, reason), said = 0;
    READER_CHECK(since_ms == 0 ? reason[0] == '\0' : sscanf(reason, "since %" SCNd64, &said) == 1);
    READER_CHECK(since_ms == said);
}

static void *reader_thread(void *argument)
{
    struct shared *shared = argument;
    struct dn_epoch_reader *reader = dn_epoch_register(shared->rig->epoch);
    struct dn_arena *arena = dn_arena_create(65536, 1u << 20);
    static _Thread_local uint64_t versions[USERS];
    struct rng rng = {100 + (uint64_t)atomic_fetch_add(&shared->started, 1)};
    while (!atomic_load(&shared->stop)) {
        uint64_t user = rng_below(&rng, USERS);
        struct dn_session_view view;
        dn_arena_reset(arena);
        dn_epoch_enter(reader);
        if (dn_shard_read(shared->rig->shard, user_of(user), arena, &view) == DN_OK) {
            check_view(shared, user, &view);
            READER_CHECK(view.version >= versions[user]);
            versions[user] = view.version;
            atomic_fetch_add(&shared->views, 1);
        }
        if (rng_chance(&rng, 2)) {
            check_trends(shared);
            check_letters(shared, &rng);
            int64_t next = 0;
            READER_CHECK(!dn_shard_next_offset(shared->rig->shard, "clicks", 1, &next) || next > 0);
        }
        dn_epoch_leave(reader);
        if (rng_chance(&rng, 5)) {
            struct dn_shard_stats stats;
            struct dn_shard_settings settings;
            dn_shard_stats(shared->rig->shard, &stats);
            dn_shard_settings(shared->rig->shard, &settings);
            READER_CHECK(stats.users <= USERS && settings.gap_ms > 0);
        }
    }
    dn_arena_destroy(arena);
    dn_epoch_unregister(reader);
    return NULL;
}

struct snapshot_work {
    struct rig *rig;
    void *capture;
    struct dn_buffer bytes;
    void *built;
    atomic_bool done;
};

/* The pool thread's part: write the capture, build a state from the bytes. */
static void *snapshot_thread(void *argument)
{
    struct snapshot_work *work = argument;
    struct dn_error err;
    if (whole_write(dn_shard_snapshot_write, work->rig->shard, work->capture, &work->bytes, &err) != DN_OK ||
        whole_build(dn_shard_restore_build, work->rig->shard, work->bytes.bytes, work->bytes.length,
                    &work->built, &err) != DN_OK) {
        fprintf(stderr, "%s\n", err.message);
        work->built = NULL;
    }
    atomic_store(&work->done, true);
    return NULL;
}

static void write_record(struct rig *rig, struct rng *rng)
{
    struct dn_event_in events[PER_RECORD];
    static char names[PER_RECORD][64];
    for (size_t i = 0; i < PER_RECORD; i++) {
        uint64_t user = rng_below(rng, USERS);
        unsigned weight = 1 + (unsigned)rng_below(rng, 1000);
        int64_t time_ms = rig->now_ms - (int64_t)rng_below(rng, 3000);
        item_name(names[i], sizeof names[i], user, time_ms, weight);
        events[i] = event_of(user, 1 + rng_next(rng), time_ms, names[i]);
        events[i].weight = (uint16_t)weight;
        events[i].type = (uint8_t)(1 + rng_below(rng, DN_EVENT_TYPE_MAX));
        events[i].offset = (int64_t)(rig->index * BATCH_OFFSETS + i);
    }
    static struct dn_dead_in marks[BATCH_OFFSETS - PER_RECORD];
    for (size_t i = 0; i < BATCH_OFFSETS - PER_RECORD; i++) {
        marks[i] = (struct dn_dead_in){(int64_t)(rig->index * BATCH_OFFSETS + PER_RECORD + i), DN_DEAD_LIMIT};
    }
    rig->now_ms += (int64_t)rng_below(rng, 300);
    dn_buffer_clear(&rig->record);
    dn_buffer_clear(&rig->result);
    uint64_t what = rng_below(rng, 100);
    if (what < 60) {
        dn_record_events(&rig->record, events, PER_RECORD);
    } else if (what < 85) {
        int64_t begins_at = DN_OFFSET_UNSET;
        dn_shard_next_offset(rig->shard, "clicks", 1, &begins_at);
        dn_record_stream(&rig->record, "clicks", 1, begins_at, (int64_t)((rig->index + 1) * BATCH_OFFSETS),
                         events, PER_RECORD, marks, BATCH_OFFSETS - PER_RECORD);
    } else if (what < 92) {
        uint64_t written = 0, next = 0;
        dn_shard_dead_range(rig->shard, &written, &next);
        dn_record_dead_written(&rig->record, next - (next - written > 100 ? 100 : 0));
    } else if (what < 94) {
        char reason[64];
        int64_t since_ms = (int64_t)rng_below(rng, 1000000) * (int64_t)rng_below(rng, 3);
        snprintf(reason, sizeof reason, "since %lld", (long long)since_ms);
        dn_record_stall(&rig->record, since_ms, reason);
    } else if (what < 96) {
        int64_t next = 0; /* not the first: readers know which that is */
        if (dn_shard_next_offset(rig->shard, "clicks", 1, &next)) {
            dn_record_source(&rig->record, "views", 2, (int64_t)rng_below(rng, 3) - 1, true);
        } else {
            dn_record_stall(&rig->record, 0, "");
        }
    } else {
        dn_record_erase(&rig->record, user_of(rng_below(rng, USERS)), rig->now_ms, rng_next(rng));
    }
    dn_shard_apply(rig->shard, rig->index, 0, rig->now_ms, rig->record.bytes, rig->record.length,
                   &rig->result);
    dn_shard_entry_done(rig->shard, rig->index++, rig->now_ms);
}

static void test_readers(void **state)
{
    (void)state;
    struct rig rig;
    struct rng rng = {7};
    struct dn_shard_settings settings;
    rig_open(&rig);
    dn_shard_settings_default(&settings);
    settings.gap_ms = 2000;
    settings.lateness_ms = 2000;
    settings.idle_ms = 20000;
    settings.events_per_user = 10;
    settings.users_max = USERS * 2 / 3;
    settings.items_max = 1500; /* items are evicted all the time */
    rig_settings(&rig, &settings);

    struct shared shared = {.rig = &rig};
    pthread_t threads[READERS], pool;
    for (int i = 0; i < READERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, reader_thread, &shared), 0);
    }
    struct snapshot_work work = {.rig = &rig};
    bool open = false;
    unsigned snapshots = 0;
    /* Goes on until the readers have seen something, however slow this machine is. */
    for (int i = 0; i < RECORDS || atomic_load(&shared.views) < 1000 || atomic_load(&shared.letters) < 1000 ||
                    snapshots < 3;
         i++) {
        write_record(&rig, &rng);
        if (!open && i % 100 == 50) {
            dn_buffer_init(&work.bytes, 64u << 20);
            atomic_store(&work.done, false);
            work.capture = dn_shard_snapshot_begin(rig.shard);
            assert_int_equal(pthread_create(&pool, NULL, snapshot_thread, &work), 0);
            open = true;
        } else if (open && atomic_load(&work.done)) {
            pthread_join(pool, NULL);
            dn_shard_snapshot_end(rig.shard, work.capture);
            assert_non_null(work.built);
            dn_shard_restore_discard(rig.shard, work.built);
            dn_buffer_free(&work.bytes);
            open = false;
            snapshots++;
        }
        if (i % 400 == 399 && !open) { /* readers meanwhile read the core that is replaced */
            struct dn_buffer bytes;
            dn_buffer_init(&bytes, 64u << 20);
            rig_snapshot(&rig, &bytes);
            rig_restore(&rig, &bytes);
            dn_buffer_free(&bytes);
        }
    }
    if (open) {
        pthread_join(pool, NULL);
        dn_shard_snapshot_end(rig.shard, work.capture);
        dn_shard_restore_discard(rig.shard, work.built);
        dn_buffer_free(&work.bytes);
    }
    atomic_store(&shared.stop, true);
    for (int i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
    }
    printf("%llu views, %llu letters, %u snapshots\n", (unsigned long long)atomic_load(&shared.views),
           (unsigned long long)atomic_load(&shared.letters), snapshots);
    assert_int_equal(atomic_load(&shared.failures), 0);
    assert_true(dn_shard_hash(rig.shard) == dn_shard_hash_recompute(rig.shard));
    rig_close(&rig);
}

/* A restore while a capture of the replaced core is still open and being written. */
static void test_restore_under_capture(void **state)
{
    (void)state;
    struct rig rig;
    struct rng rng = {9};
    rig_open(&rig);
    for (int i = 0; i < 50; i++) {
        write_record(&rig, &rng);
    }
    struct dn_buffer first, second;
    dn_buffer_init(&first, 64u << 20);
    dn_buffer_init(&second, 64u << 20);
    rig_snapshot(&rig, &first);
    uint64_t hash = dn_shard_hash(rig.shard);
    void *capture = dn_shard_snapshot_begin(rig.shard);
    for (int i = 0; i < 50; i++) {
        write_record(&rig, &rng);
    }
    rig_restore(&rig, &first);
    assert_true(dn_shard_hash(rig.shard) == hash);
    for (int i = 0; i < 50; i++) {
        write_record(&rig, &rng);
    }
    assert_int_equal(whole_write(dn_shard_snapshot_write, rig.shard, capture, &second, NULL), DN_OK);
    dn_shard_snapshot_end(rig.shard, capture);
    rig_restore(&rig, &second);
    assert_true(dn_shard_hash(rig.shard) == hash);
    dn_buffer_free(&first);
    dn_buffer_free(&second);
    rig_close(&rig);
}

/* ---- a counter while the landmark moves ---------------------------------------------------------------- */

#define HALF_LIFE_MS 60000
#define TREND_RECORDS 30000
/* At one event each GAP_MS or more, a counter is below 1 / (1 - 2^(-1/6)). */
#define GAP_MS (HALF_LIFE_MS / 6)
#define TREND_BOUND 9.3
#define HOUR_BOUND 525 /* the same, for 3600 s in place of 60 */

struct trend_work {
    struct rig *rig;
    atomic_bool stop;
    atomic_uint_fast64_t reads, failures;
};

static void *trend_thread(void *argument)
{
    struct trend_work *work = argument;
    struct dn_epoch_reader *reader = dn_epoch_register(work->rig->epoch);
    while (!atomic_load(&work->stop)) {
        struct dn_near_item named;
        dn_epoch_enter(reader);
        uint32_t id = dn_near_find(work->rig->shard, dn_hash64("hot", 3, 0), "hot", 3);
        for (int i = 0; i < 100 && id != DN_NEAR_NONE; i++) {
            if (!dn_near_item(work->rig->shard, id, &named) || named.trending > TREND_BOUND ||
                dn_near_popular(work->rig->shard, id, named.hash, DN_POPULAR_HOUR) > HOUR_BOUND) {
                atomic_fetch_add(&work->failures, 1);
            }
            atomic_fetch_add_explicit(&work->reads, 1, memory_order_relaxed);
        }
        dn_epoch_leave(reader);
    }
    dn_epoch_unregister(reader);
    return NULL;
}

/* Half of a change of epoch would be 256 times too much. */
static void test_trend_readers(void **state)
{
    (void)state;
    struct rig rig;
    struct rng rng = {13};
    struct dn_shard_settings settings;
    rig_open(&rig);
    dn_shard_settings_default(&settings);
    settings.trend_half_life_ms = HALF_LIFE_MS;
    rig_settings(&rig, &settings);
    struct trend_work work = {.rig = &rig};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, trend_thread, &work), 0);
    for (uint64_t i = 0; i < TREND_RECORDS || atomic_load(&work.reads) < 1000; i++) {
        rig_tick(&rig, GAP_MS + (int64_t)rng_below(&rng, HALF_LIFE_MS));
        assert_int_equal(rig_click(&rig, i % 100, 1 + i, rig.now_ms, "hot"), DN_OUTCOME_ACCEPTED);
    }
    atomic_store(&work.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&work.failures), 0);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readers),
        cmocka_unit_test(test_restore_under_capture),
        cmocka_unit_test(test_trend_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
