/* Readers of the tables (near.h) against the writer: rows that grow, are full, fade and are copied under open
 * captures, items that are evicted and whose ids others get, users who are erased. Meant for the thread and
 * address sanitizers; what a reader sees is checked too. */
#include "harness.h"

#include "session/near.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#define READERS 2
#define USERS 60
#define ITEMS 80
#define RECORDS 1200
#define PER_RECORD 20
#define GAP_MS 5000
#define CELLS 14
#define AROUND 5u
#define SEEN_ENOUGH 3000u

struct shared {
    struct rig *rig;
    atomic_bool stop;
    atomic_uint_fast64_t cells, sessions;
    atomic_int failures, started;
};

#define READER_CHECK(condition)                                                                              \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                  \
            atomic_fetch_add(&shared->failures, 1);                                                          \
        }                                                                                                    \
    } while (0)

static size_t item_name(char name[16], uint64_t item)
{
    return (size_t)snprintf(name, 16, "item-%u", (unsigned)item);
}

static void check_item(struct shared *shared, uint32_t id)
{
    struct dn_near_item item;

    dn_near_prefetch_item(shared->rig->shard, id, false);
    dn_near_prefetch_item(shared->rig->shard, id, true);
    if (!dn_near_item(shared->rig->shard, id, &item))
        return; /* evicted by now */
    READER_CHECK(item.length > 5 && item.length < 16 && memcmp(item.name, "item-", 5) == 0);
    READER_CHECK(item.hash == dn_hash64(item.name, item.length, 0));
    READER_CHECK(isfinite(item.recent) && item.recent >= 0);
}

static void check_row(struct shared *shared, uint32_t id)
{
    struct dn_near_cell cells[DN_NEAR_CELLS_MAX];
    struct dn_near_row row;

    dn_near_row(shared->rig->shard, id, cells, DN_NEAR_CELLS_MAX, &row);
    READER_CHECK(row.count <= 16 && isfinite(row.after_sum) && isfinite(row.near_sum));
    for (size_t i = 0; i < row.count; i++) {
        READER_CHECK(cells[i].after >= 0 && cells[i].near >= 0 && isfinite(cells[i].after));
        READER_CHECK(cells[i].near < RECORDS * PER_RECORD * 10.0f);
        check_item(shared, cells[i].id);
    }
    atomic_fetch_add(&shared->cells, row.count);
}

static void check_visitors(struct shared *shared, uint32_t id)
{
    struct dn_near_visit visits[DN_NEAR_VISITS_MAX];
    struct dn_near_session session;
    uint32_t users[DN_NEAR_VISITORS_MAX];
    size_t count = dn_near_visitors(shared->rig->shard, id, users, DN_NEAR_VISITORS_MAX);

    READER_CHECK(count <= 29);
    for (size_t n = 0; n < count; n++) {
        dn_near_prefetch_user(shared->rig->shard, users[n], false);
        dn_near_prefetch_user(shared->rig->shard, users[n], true);
        if (!dn_near_session(shared->rig->shard, users[n], id, AROUND, visits, &session))
            continue; /* gone by now */
        READER_CHECK(session.count >= 1 && session.count <= 2 * AROUND + 1 &&
                     session.count <= session.length);
        READER_CHECK(session.matched < session.count && visits[session.matched].id == id);
        for (size_t i = 1; i < session.count; i++)
            READER_CHECK(visits[i].time_ms >= visits[i - 1].time_ms &&
                         visits[i].time_ms - visits[i - 1].time_ms <= GAP_MS);
        READER_CHECK(session.last_ms >= visits[session.count - 1].time_ms);
        atomic_fetch_add(&shared->sessions, 1);
    }
}

static void *reader_thread(void *argument)
{
    struct shared *shared = argument;
    struct dn_epoch_reader *reader = dn_epoch_register(shared->rig->epoch);
    struct rng rng = {100 + (uint64_t)atomic_fetch_add(&shared->started, 1)};

    while (!atomic_load(&shared->stop)) {
        char name[16];
        size_t length = item_name(name, rng_below(&rng, ITEMS));
        dn_epoch_enter(reader);
        uint32_t id = dn_near_find(shared->rig->shard, dn_hash64(name, length, 0), name, (uint16_t)length);
        if (id != DN_NEAR_NONE) {
            check_item(shared, id);
            check_row(shared, id);
            check_visitors(shared, id);
        }
        check_item(shared, (uint32_t)rng_next(&rng)); /* any number is safe */
        check_row(shared, (uint32_t)rng_below(&rng, 2 * ITEMS));
        (void)dn_near_user(shared->rig->shard, user_of(rng_below(&rng, USERS)));
        dn_epoch_leave(reader);
    }
    dn_epoch_unregister(reader);
    return NULL;
}

struct snapshot_work {
    struct rig *rig;
    void *capture, *built;
    struct dn_buffer bytes;
    uint64_t hash; /* of the state that was captured */
    atomic_bool done;
};

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

/* Now and then the tables are off for some records. */
static void switch_tables(struct rig *rig, struct rng *rng)
{
    struct dn_shard_settings settings;

    dn_shard_settings(rig->shard, &settings);
    if (!rng_chance(rng, settings.near_cells == 0 ? 20 : 1))
        return;
    settings.near_cells = settings.near_cells == 0 ? CELLS : 0;
    rig_settings(rig, &settings);
}

static void write_record(struct rig *rig, struct rng *rng)
{
    struct dn_event_in events[PER_RECORD];
    char names[PER_RECORD][16];

    rig->now_ms += rng_chance(rng, 1) ? 3600000 : (int64_t)rng_below(rng, 400); /* an hour: weights fade */
    if (rng_chance(rng, 4)) {
        rig_erase(rig, rng_below(rng, USERS), rig->now_ms - 1, rng_next(rng));
        return;
    }
    for (size_t i = 0; i < PER_RECORD; i++) {
        uint64_t low = rng_below(rng, ITEMS); /* the least of two: some are popular */
        uint64_t other = rng_below(rng, ITEMS);
        item_name(names[i], low < other ? low : other);
        events[i] = event_of(rng_below(rng, USERS), 1 + rng_next(rng), rig->now_ms, names[i]);
    }
    rig_events(rig, events, PER_RECORD);
}

static void finish_snapshot(struct rig *rig, struct snapshot_work *work, pthread_t pool, bool install)
{
    pthread_join(pool, NULL);
    dn_shard_snapshot_end(rig->shard, work->capture);
    assert_non_null(work->built);
    if (install) { /* readers go on in the core that is replaced */
        dn_shard_restore_install(rig->shard, work->built);
        assert_true(dn_shard_hash(rig->shard) == work->hash);
        assert_true(dn_shard_hash_recompute(rig->shard) == work->hash);
    } else {
        dn_shard_restore_discard(rig->shard, work->built);
    }
    dn_buffer_free(&work->bytes);
}

static void test_readers(void **state)
{
    struct rig rig;
    struct rng rng = {11};
    struct dn_shard_settings settings;
    struct shared shared = {.rig = &rig};
    struct snapshot_work work = {.rig = &rig};
    pthread_t threads[READERS], pool;
    unsigned snapshots = 0;
    bool open = false;

    (void)state;
    rig_open(&rig);
    dn_shard_settings_default(&settings);
    settings.gap_ms = GAP_MS;
    settings.events_per_user = 12;
    settings.idle_ms = 600000;
    settings.items_max = ITEMS * 3 / 4;
    settings.near_cells = CELLS;
    settings.near_visitors = 20;
    settings.near_half_life_ms = 3600000;
    rig_settings(&rig, &settings);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader_thread, &shared), 0);
    /* Goes on until the readers have seen something, however slow this machine is. */
    for (int i = 0; i < RECORDS || snapshots < 4 || atomic_load(&shared.cells) < SEEN_ENOUGH ||
                    atomic_load(&shared.sessions) < SEEN_ENOUGH;
         i++) {
        switch_tables(&rig, &rng);
        write_record(&rig, &rng);
        if (!open && i % 60 == 30) {
            dn_buffer_init(&work.bytes, 64u << 20);
            atomic_store(&work.done, false);
            work.hash = dn_shard_hash(rig.shard);
            work.capture = dn_shard_snapshot_begin(rig.shard);
            assert_int_equal(pthread_create(&pool, NULL, snapshot_thread, &work), 0);
            open = true;
        } else if (open && atomic_load(&work.done)) {
            finish_snapshot(&rig, &work, pool, snapshots++ % 2 == 0);
            open = false;
        }
    }
    if (open)
        finish_snapshot(&rig, &work, pool, false);
    atomic_store(&shared.stop, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&shared.failures), 0);
    assert_true(dn_shard_hash(rig.shard) == dn_shard_hash_recompute(rig.shard));
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_readers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
