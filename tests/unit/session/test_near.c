/* The tables of what is clicked near an item: rows against counts from scratch, visitors against a plain
 * list, full rows, halving, what goes with an erased user, and all of it through snapshots. */
#include "harness.h"

#include "session/near.h"

#include <math.h>

#define USERS 8
#define ITEMS 10
#define STEPS 400
#define GAP_MS 1000

struct click {
    int user, item;
    int64_t time_ms;
    uint8_t type;
};

struct world {
    struct rig rig;
    struct click clicks[STEPS]; /* in log order */
    int count;
    int visitors[ITEMS][USERS], visitor_count[ITEMS]; /* oldest first */
    double after[ITEMS][ITEMS], near[ITEMS][ITEMS];
    uint64_t rows, pairs; /* counted while all were compared */
};

static const char *const NAMES[ITEMS] = {"a", "bb", "ccc", "d", "e", "f", "g", "h", "i", "an item"};

static uint32_t find(struct world *world, int item)
{
    const char *name = NAMES[item];
    size_t length = strlen(name);

    return dn_near_find(world->rig.shard, dn_hash64(name, length, 0), name, (uint16_t)length);
}

static bool counts(uint8_t type)
{
    return type != DN_EVENT_DISLIKE && type != DN_EVENT_REMOVE;
}

/* The user's list as it is after `upto` clicks: by time, then log order; returns where the last one is. */
static int list_of(const struct world *world, int upto, const struct click *ret[STEPS], int *ret_count)
{
    const struct click *last = &world->clicks[upto];
    int count = 0, at = 0;

    for (int i = 0; i <= upto; i++) {
        const struct click *click = &world->clicks[i];
        if (click->user != last->user)
            continue;
        int place = count++;
        for (; place > 0 && ret[place - 1]->time_ms > click->time_ms; place--)
            ret[place] = ret[place - 1];
        ret[place] = click;
    }
    while (ret[at] != last)
        at++;
    *ret_count = count;
    return at;
}

static void count_pair(struct world *world, const struct click *first, const struct click *second,
                       int distance)
{
    world->after[first->item][second->item] +=
        (double)(DN_NEAR_AFTER_ONE / (unsigned)distance) / DN_NEAR_AFTER_ONE;
    if (first->item != second->item) {
        world->near[first->item][second->item] += 1;
        world->near[second->item][first->item] += 1;
    }
}

static void leave(struct world *world, int item, int user)
{
    int kept = 0;

    for (int i = 0; i < world->visitor_count[item]; i++)
        if (world->visitors[item][i] != user)
            world->visitors[item][kept++] = world->visitors[item][i];
    world->visitor_count[item] = kept;
}

static void model_click(struct world *world, int most_visitors)
{
    const struct click *list[STEPS], *click = &world->clicks[world->count];
    int count, at = list_of(world, world->count, list, &count);

    world->count++;
    if (!counts(click->type))
        return;
    for (int i = at - 1;
         i >= 0 && at - i <= DN_NEAR_WINDOW && list[i + 1]->time_ms - list[i]->time_ms <= GAP_MS; i--)
        if (counts(list[i]->type))
            count_pair(world, list[i], click, at - i);
    for (int i = at + 1;
         i < count && i - at <= DN_NEAR_WINDOW && list[i]->time_ms - list[i - 1]->time_ms <= GAP_MS; i++)
        if (counts(list[i]->type))
            count_pair(world, click, list[i], i - at);
    leave(world, click->item, click->user);
    if (world->visitor_count[click->item] == most_visitors)
        leave(world, click->item, world->visitors[click->item][0]);
    world->visitors[click->item][world->visitor_count[click->item]++] = click->user;
}

static int number_of(const struct dn_near_item *item)
{
    for (int i = 0; i < ITEMS; i++)
        if (strlen(NAMES[i]) == item->length && memcmp(NAMES[i], item->name, item->length) == 0)
            return i;
    return -1;
}

static void compare_row(struct world *world, int item)
{
    struct dn_near_cell cells[DN_NEAR_CELLS_MAX];
    struct dn_near_row row;
    struct dn_near_item named;
    double after[ITEMS] = {0}, near[ITEMS] = {0}, after_sum = 0, near_sum = 0;

    dn_near_row(world->rig.shard, find(world, item), cells, DN_NEAR_CELLS_MAX, &row);
    for (size_t i = 0; i < row.count; i++) {
        assert_true(dn_near_item(world->rig.shard, cells[i].id, &named));
        int other = number_of(&named);
        assert_in_range(other, 0, ITEMS - 1);
        assert_true(after[other] == 0 && near[other] == 0); /* once */
        after[other] = cells[i].after;
        near[other] = cells[i].near;
    }
    for (int other = 0; other < ITEMS; other++) {
        CHECK(fabs(after[other] - world->after[item][other]) < 1e-6, "%d after %d: %f, not %f", other, item,
              after[other], world->after[item][other]);
        CHECK(near[other] == world->near[item][other], "%d near %d: %f, not %f", other, item, near[other],
              world->near[item][other]);
        after_sum += world->after[item][other];
        near_sum += world->near[item][other];
    }
    assert_true(fabs(row.after_sum - after_sum) < 1e-3 && fabs(row.near_sum - near_sum) < 1e-3);
    assert_true(dn_near_item(world->rig.shard, find(world, item), &named));
    assert_true(fabs(named.recent - near_sum) < 1e-3);
    world->rows += row.count > 0;
    world->pairs += row.count;
}

static void compare_visitors(struct world *world, int item, size_t most)
{
    struct dn_near_visit visits[DN_NEAR_VISITS_MAX];
    struct dn_near_session session;
    uint32_t users[USERS];
    size_t count = dn_near_visitors(world->rig.shard, find(world, item), users, USERS);

    assert_int_equal(count, world->visitor_count[item]);
    assert_true(count <= most);
    for (size_t n = 0; n < count; n++) {
        int user = world->visitors[item][world->visitor_count[item] - 1 - (int)n];
        assert_true(dn_near_session(world->rig.shard, users[n], find(world, item), 20, visits, &session));
        assert_true(dn_hash128_equal(session.user, user_of((uint64_t)user)));
        assert_int_equal(visits[session.matched].id, find(world, item));
        assert_true(counts(visits[session.matched].type));
        for (size_t i = 1; i < session.count; i++)
            assert_true(visits[i].time_ms >= visits[i - 1].time_ms &&
                        visits[i].time_ms - visits[i - 1].time_ms <= GAP_MS);
    }
}

static void compare(struct world *world, size_t most_visitors)
{
    struct dn_shard_stats stats;
    uint64_t visits = 0;

    world->rows = world->pairs = 0;
    dn_epoch_enter(world->rig.reader);
    for (int item = 0; item < ITEMS; item++) {
        if (find(world, item) == DN_NEAR_NONE)
            continue;
        compare_row(world, item);
        compare_visitors(world, item, most_visitors);
        visits += (uint64_t)world->visitor_count[item];
    }
    dn_epoch_leave(world->rig.reader);
    dn_shard_stats(world->rig.shard, &stats);
    assert_int_equal(stats.near_rows, world->rows);
    assert_int_equal(stats.near_pairs, world->pairs);
    assert_int_equal(stats.near_visits, visits);
    assert_true(stats.near_bytes >= 12 * stats.near_pairs + 4 * stats.near_visits &&
                stats.near_bytes < stats.memory_bytes);
}

static void world_open(struct world *world, uint32_t cells, uint32_t visitors)
{
    struct dn_shard_settings settings;

    memset(world, 0, sizeof *world);
    rig_open(&world->rig);
    dn_shard_settings_default(&settings);
    settings.gap_ms = GAP_MS;
    settings.events_per_user = STEPS;
    settings.ids_per_user = STEPS;
    settings.near_cells = cells;
    settings.near_visitors = visitors;
    rig_settings(&world->rig, &settings);
}

static void click(struct world *world, int user, int item, int64_t time_ms, uint8_t type)
{
    struct dn_event_in event = event_of((uint64_t)user, (uint64_t)world->rig.index, time_ms, NAMES[item]);

    event.type = type;
    rig_events(&world->rig, &event, 1);
    assert_int_equal(world->rig.answer.outcomes[0], DN_OUTCOME_ACCEPTED);
    world->clicks[world->count] = (struct click){user, item, time_ms, type};
}

static void through_snapshot(struct world *world)
{
    struct dn_buffer bytes;

    dn_buffer_init(&bytes, 16u << 20);
    rig_snapshot(&world->rig, &bytes);
    rig_restore(&world->rig, &bytes);
    dn_buffer_free(&bytes);
}

/* Sessions of random users, now and then out of order, some after a pause. */
static void test_random(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        static struct world world;
        struct rng rng = {seed};
        uint32_t visitors = 1 + (uint32_t)rng_below(&rng, USERS);

        world_open(&world, DN_NEAR_CELLS_MAX, visitors);
        for (int step = 0; step < 200; step++) {
            int64_t late_ms = rng_chance(&rng, 20) ? (int64_t)rng_below(&rng, 3000) : 0;
            uint8_t type = rng_chance(&rng, 10) ? DN_EVENT_DISLIKE : DN_EVENT_CLICK;
            world.rig.now_ms += 1 + (int64_t)rng_below(&rng, rng_chance(&rng, 10) ? 2 * GAP_MS : 100);
            click(&world, (int)rng_below(&rng, USERS), (int)rng_below(&rng, ITEMS),
                  world.rig.now_ms - late_ms, type);
            model_click(&world, (int)visitors);
            if (step % 10 == 0)
                compare(&world, visitors);
            if (rng_chance(&rng, 3))
                through_snapshot(&world);
        }
        compare(&world, visitors);
        rig_close(&world.rig);
    }
}

/* What comes often gets into a full row, and what came once goes. */
static void test_full_row(void **state)
{
    static struct world world;
    struct dn_near_cell cells[DN_NEAR_CELLS_MAX];
    struct dn_near_row row;

    (void)state;
    world_open(&world, 4, 8);
    for (int other = 1; other < 9; other++)
        for (int times = 0; times < (other == 8 ? 12 : 1); times++) {
            world.rig.now_ms += 10 * GAP_MS;
            click(&world, other, 0, world.rig.now_ms, DN_EVENT_CLICK);
            click(&world, other, other, world.rig.now_ms, DN_EVENT_CLICK);
        }
    dn_epoch_enter(world.rig.reader);
    dn_near_row(world.rig.shard, find(&world, 0), cells, DN_NEAR_CELLS_MAX, &row);
    assert_int_equal(row.count, 4);
    bool found = false;
    for (size_t i = 0; i < row.count; i++)
        if (cells[i].id == find(&world, 8)) {
            found = true;
            assert_true(cells[i].near >= 6);
        }
    assert_true(found);
    assert_true(row.near_sum > 18.5f && row.near_sum < 19.5f); /* of all that ever came */
    dn_epoch_leave(world.rig.reader);
    rig_close(&world.rig);
}

static float near_now(struct world *world, int item)
{
    struct dn_near_cell cells[DN_NEAR_CELLS_MAX];
    struct dn_near_row row;
    float sum = 0;

    dn_epoch_enter(world->rig.reader);
    dn_near_row(world->rig.shard, find(world, item), cells, DN_NEAR_CELLS_MAX, &row);
    for (size_t i = 0; i < row.count; i++)
        sum += cells[i].near;
    dn_epoch_leave(world->rig.reader);
    return sum;
}

/* Weights halve for readers when it is time, whether or not the row was touched; then what is left of nothing
 * goes. */
static void test_halving(void **state)
{
    static struct world world;
    const int64_t half_life_ms = 365 * (int64_t)86400000; /* the default */

    (void)state;
    world_open(&world, 16, 8);
    world.rig.now_ms = 100 * half_life_ms + 5;
    rig_tick(&world.rig, 0);
    for (int i = 0; i < 8; i++) {
        world.rig.now_ms += 2 * GAP_MS;
        click(&world, i % USERS, 0, world.rig.now_ms, DN_EVENT_CLICK);
        click(&world, i % USERS, 1, world.rig.now_ms, DN_EVENT_CLICK);
    }
    assert_true(near_now(&world, 0) == 8);
    rig_tick(&world.rig, half_life_ms);
    assert_true(near_now(&world, 0) == 4);
    world.rig.now_ms += GAP_MS;
    click(&world, 0, 0, world.rig.now_ms, DN_EVENT_CLICK); /* touches it */
    click(&world, 0, 2, world.rig.now_ms, DN_EVENT_CLICK);
    assert_true(near_now(&world, 0) == 5);
    through_snapshot(&world);
    assert_true(near_now(&world, 0) == 5);
    rig_tick(&world.rig, 40 * half_life_ms);
    click(&world, 1, 0, world.rig.now_ms, DN_EVENT_CLICK);
    click(&world, 1, 3, world.rig.now_ms, DN_EVENT_CLICK);
    assert_true(near_now(&world, 0) == 1);
    rig_close(&world.rig);
}

/* A neighbour is met where they clicked the item, not where they turned it down later; and not at all once
 * that click is out of their list. */
static void test_match(void **state)
{
    static struct world world;
    struct dn_near_visit visits[DN_NEAR_VISITS_MAX];
    struct dn_near_session session;
    struct dn_shard_settings settings;
    const uint8_t types[] = {DN_EVENT_CLICK, DN_EVENT_VIEW, DN_EVENT_DISLIKE, DN_EVENT_REMOVE};
    const int items[] = {0, 1, 0, 0};

    (void)state;
    world_open(&world, 16, 8);
    for (size_t i = 0; i < 4; i++)
        click(&world, 3, items[i], world.rig.now_ms + (int64_t)i * GAP_MS, types[i]);
    dn_epoch_enter(world.rig.reader);
    uint32_t user = dn_near_user(world.rig.shard, user_of(3));
    assert_true(dn_near_session(world.rig.shard, user, find(&world, 0), 20, visits, &session));
    assert_int_equal(session.count, 4);
    assert_int_equal(session.matched, 0);
    dn_epoch_leave(world.rig.reader);

    dn_shard_settings(world.rig.shard, &settings);
    settings.events_per_user = 3;
    rig_settings(&world.rig, &settings);
    click(&world, 3, 2, world.rig.now_ms + 4 * (int64_t)GAP_MS, DN_EVENT_CLICK);
    dn_epoch_enter(world.rig.reader);
    assert_false(dn_near_session(world.rig.shard, user, find(&world, 0), 20, visits, &session));
    assert_true(dn_near_session(world.rig.shard, user, find(&world, 2), 20, visits, &session));
    dn_epoch_leave(world.rig.reader);
    rig_close(&world.rig);
}

static void set_cells(struct world *world, uint32_t cells)
{
    struct dn_shard_settings settings;

    dn_shard_settings(world->rig.shard, &settings);
    settings.near_cells = cells;
    rig_settings(&world->rig, &settings);
}

/* What the readers give of item 0: cells, visitors, clicks. */
static void expect_tables(struct world *world, size_t cells_count, size_t visitors, uint32_t clicks)
{
    struct dn_near_cell cells[DN_NEAR_CELLS_MAX];
    struct dn_near_row row;
    struct dn_near_item item;
    uint32_t users[DN_NEAR_VISITORS_MAX];

    dn_epoch_enter(world->rig.reader);
    dn_near_row(world->rig.shard, find(world, 0), cells, DN_NEAR_CELLS_MAX, &row);
    assert_int_equal(row.count, cells_count);
    assert_true(cells_count > 0 ? row.near_sum > 0 : row.near_sum == 0 && row.after_sum == 0);
    assert_int_equal(dn_near_visitors(world->rig.shard, find(world, 0), users, DN_NEAR_VISITORS_MAX),
                     visitors);
    assert_true(dn_near_item(world->rig.shard, find(world, 0), &item)); /* known all the same */
    assert_int_equal(item.clicks, clicks);
    assert_true(cells_count > 0 ? item.recent > 0 : item.recent == 0);
    dn_epoch_leave(world->rig.reader);
}

/* Tables that are turned off say nothing, not what they said last; and go on where they were. */
static void test_turned_off(void **state)
{
    static struct world world;

    (void)state;
    world_open(&world, 16, 8);
    for (int user = 0; user < 3; user++) {
        click(&world, user, 0, world.rig.now_ms, DN_EVENT_CLICK);
        click(&world, user, 1, world.rig.now_ms, DN_EVENT_CLICK);
    }
    expect_tables(&world, 1, 3, 3);
    set_cells(&world, 0);
    expect_tables(&world, 0, 0, 0);
    click(&world, 4, 0, world.rig.now_ms, DN_EVENT_CLICK);
    expect_tables(&world, 0, 0, 0);
    through_snapshot(&world);
    expect_tables(&world, 0, 0, 0);
    rig_erase(&world.rig, 2, world.rig.now_ms, 5);
    set_cells(&world, 16);
    expect_tables(&world, 1, 2, 3);
    click(&world, 4, 0, world.rig.now_ms, DN_EVENT_CLICK); /* no visitor yet, though their list has it */
    expect_tables(&world, 2, 3, 4);
    rig_close(&world.rig);
}

static void test_erased(void **state)
{
    static struct world world;
    struct dn_near_visit visits[DN_NEAR_VISITS_MAX];
    struct dn_near_session session;
    uint32_t users[USERS];

    (void)state;
    world_open(&world, 16, 8);
    for (int user = 0; user < 3; user++)
        click(&world, user, 0, world.rig.now_ms, DN_EVENT_CLICK);
    dn_epoch_enter(world.rig.reader);
    assert_int_equal(dn_near_visitors(world.rig.shard, find(&world, 0), users, USERS), 3);
    dn_epoch_leave(world.rig.reader);
    rig_erase(&world.rig, 1, world.rig.now_ms, 77);
    dn_epoch_enter(world.rig.reader);
    uint32_t gone = users[1];
    assert_int_equal(dn_near_visitors(world.rig.shard, find(&world, 0), users, USERS), 2);
    assert_false(dn_near_session(world.rig.shard, gone, find(&world, 0), 20, visits, &session));
    for (int i = 0; i < 2; i++) {
        assert_true(dn_near_session(world.rig.shard, users[i], find(&world, 0), 20, visits, &session));
        assert_false(dn_hash128_equal(session.user, user_of(1)));
    }
    dn_epoch_leave(world.rig.reader);
    rig_close(&world.rig);
}

/* An id that was an evicted item's is another's now: a row that knew the old one does not name the new one.
 */
static void test_evicted(void **state)
{
    static struct world world;
    struct dn_shard_settings settings;
    struct dn_near_cell cells[DN_NEAR_CELLS_MAX];
    struct dn_near_item named;
    struct dn_near_row row;
    bool reused = false;

    (void)state;
    world_open(&world, 16, 8);
    dn_shard_settings(world.rig.shard, &settings);
    settings.items_max = 4;
    settings.events_per_user = 2;
    rig_settings(&world.rig, &settings);
    click(&world, 1, 0, world.rig.now_ms, DN_EVENT_CLICK);
    click(&world, 2, 0, world.rig.now_ms, DN_EVENT_CLICK);
    click(&world, 2, 1, world.rig.now_ms, DN_EVENT_CLICK);
    uint32_t gone = find(&world, 1);
    for (int i = 0; i < 2; i++) /* out of the list */
        click(&world, 2, 2, world.rig.now_ms, DN_EVENT_CLICK);
    for (unsigned i = 0; i < 200; i++) {
        char name[16];
        snprintf(name, sizeof name, "new-%u", i / 3);
        struct dn_event_in event = event_of(3, 1000 + i, world.rig.now_ms, name);
        rig_events(&world.rig, &event, 1);
        assert_int_equal(world.rig.answer.outcomes[0], DN_OUTCOME_ACCEPTED);
        dn_epoch_enter(world.rig.reader);
        reused |= dn_near_item(world.rig.shard, gone, &named) && named.name[0] == 'n';
        dn_near_row(world.rig.shard, find(&world, 0), cells, DN_NEAR_CELLS_MAX, &row);
        for (size_t n = 0; n < row.count; n++) {
            assert_true(dn_near_item(world.rig.shard, cells[n].id, &named));
            assert_in_range(number_of(&named), 1, 2);
        }
        dn_epoch_leave(world.rig.reader);
    }
    assert_true(reused);
    rig_close(&world.rig);
}

/* Another half-life counts from now on; fewer visitors are kept as soon as one comes. */
static void test_changed(void **state)
{
    static struct world world;
    struct dn_shard_settings settings;
    const int64_t hour_ms = 3600000;
    uint32_t users[USERS];

    (void)state;
    world_open(&world, 16, 8);
    world.rig.now_ms = 20000 * 24 * hour_ms + 5;
    rig_tick(&world.rig, 0);
    for (int i = 0; i < 8; i++) {
        world.rig.now_ms += 2 * GAP_MS;
        click(&world, i % USERS, 0, world.rig.now_ms, DN_EVENT_CLICK);
        click(&world, i % USERS, 1, world.rig.now_ms, DN_EVENT_CLICK);
    }
    dn_shard_settings(world.rig.shard, &settings);
    settings.near_half_life_ms = hour_ms;
    settings.near_visitors = 3;
    rig_settings(&world.rig, &settings);
    assert_true(near_now(&world, 0) == 8);
    rig_tick(&world.rig, hour_ms);
    assert_true(near_now(&world, 0) == 4);
    click(&world, 0, 0, world.rig.now_ms + GAP_MS, DN_EVENT_CLICK);
    dn_epoch_enter(world.rig.reader);
    size_t count = dn_near_visitors(world.rig.shard, find(&world, 0), users, USERS);
    dn_epoch_leave(world.rig.reader);
    assert_in_range(count, 1, USERS);
    rig_tick(&world.rig, 0);
    world.rig.now_ms += 3 * GAP_MS;
    struct dn_event_in event = event_of(99, 424242, world.rig.now_ms, NAMES[0]);
    rig_events(&world.rig, &event, 1);
    dn_epoch_enter(world.rig.reader);
    assert_int_equal(dn_near_visitors(world.rig.shard, find(&world, 0), users, USERS), 3);
    dn_epoch_leave(world.rig.reader);
    through_snapshot(&world);
    assert_true(near_now(&world, 0) == 4);
    rig_close(&world.rig);
}

/* Without the setting nothing is kept; what was clicked then has no part in what comes with it
 * (test_near_off.c has the rest). */
static void test_off(void **state)
{
    static struct world world;
    struct dn_shard_settings settings;
    uint32_t users[USERS];

    (void)state;
    world_open(&world, 0, 8);
    click(&world, 0, 0, world.rig.now_ms, DN_EVENT_CLICK);
    click(&world, 0, 1, world.rig.now_ms, DN_EVENT_CLICK);
    assert_true(near_now(&world, 0) == 0);
    dn_epoch_enter(world.rig.reader);
    assert_int_equal(dn_near_visitors(world.rig.shard, find(&world, 0), users, USERS), 0);
    dn_epoch_leave(world.rig.reader);
    through_snapshot(&world);
    dn_shard_settings(world.rig.shard, &settings);
    assert_int_equal(settings.near_visitors, 8);
    settings.near_cells = 16;
    rig_settings(&world.rig, &settings);
    assert_true(near_now(&world, 0) == 0);
    click(&world, 1, 0, world.rig.now_ms, DN_EVENT_CLICK);
    click(&world, 1, 1, world.rig.now_ms, DN_EVENT_CLICK);
    assert_true(near_now(&world, 0) == 1);
    dn_epoch_enter(world.rig.reader);
    assert_int_equal(dn_near_visitors(world.rig.shard, find(&world, 0), users, USERS), 1);
    dn_epoch_leave(world.rig.reader);
    through_snapshot(&world);
    rig_close(&world.rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),  cmocka_unit_test(test_full_row), cmocka_unit_test(test_halving),
        cmocka_unit_test(test_changed), cmocka_unit_test(test_erased),   cmocka_unit_test(test_evicted),
        cmocka_unit_test(test_off),     cmocka_unit_test(test_match),    cmocka_unit_test(test_turned_off),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
