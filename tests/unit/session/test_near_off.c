/* The tables of near.h switched on and off: what a shard that has them says of itself does not depend on when
 * it was restored, nobody sees them while they are off, they fade meanwhile, and hashes and snapshots are
 * those of the builds that wrote version 4 first. */
#include "harness.h"

#include "session/near.h"

#define HOUR_MS ((int64_t)3600000)
#define DAY_MS (24 * HOUR_MS)
#define START_MS (20000 * DAY_MS)
#define SNAPSHOT_MAX (16u << 20)
#define VERSION_AT 4 /* of a snapshot, behind the magic */

static void settings_of(struct dn_shard_settings *settings, uint32_t cells, int64_t half_life_ms)
{
    dn_shard_settings_default(settings);
    settings->near_cells = cells;
    settings->near_half_life_ms = half_life_ms;
}

static void switch_to(struct rig *rig, uint32_t cells, int64_t half_life_ms)
{
    struct dn_shard_settings settings;

    settings_of(&settings, cells, half_life_ms);
    rig_settings(rig, &settings);
    assert_int_equal(rig->answer.status, DN_RESULT_OK);
}

static void open_at(struct rig *rig, int64_t now_ms)
{
    rig_open(rig);
    rig->now_ms = now_ms;
}

/* A new user clicks both: each is once near the other. */
static void click_pair(struct rig *rig)
{
    uint64_t user = 1000 + rig->index;

    assert_int_equal(rig_click(rig, user, 1, rig->now_ms, "aa"), DN_OUTCOME_ACCEPTED);
    assert_int_equal(rig_click(rig, user, 2, rig->now_ms, "bb"), DN_OUTCOME_ACCEPTED);
}

static uint32_t id_of(const struct rig *rig, const char *name)
{
    size_t length = strlen(name);

    return dn_near_find(rig->shard, dn_hash64(name, length, 0), name, (uint16_t)length);
}

struct seen { /* of the item "aa" */
    struct dn_near_row row;
    struct dn_near_cell cell; /* the first one */
    size_t visitors;
    uint32_t clicks;
    float recent;
};

static struct seen look(struct rig *rig)
{
    struct dn_near_cell cells[DN_NEAR_CELLS_MAX];
    uint32_t users[DN_NEAR_VISITORS_MAX];
    struct dn_near_item item = {0};
    struct seen seen = {0};

    dn_epoch_enter(rig->reader);
    uint32_t id = id_of(rig, "aa");
    dn_near_row(rig->shard, id, cells, DN_NEAR_CELLS_MAX, &seen.row);
    seen.visitors = dn_near_visitors(rig->shard, id, users, DN_NEAR_VISITORS_MAX);
    if (dn_near_item(rig->shard, id, &item)) {
        seen.recent = item.recent;
        seen.clicks = item.clicks;
    }
    dn_epoch_leave(rig->reader);
    if (seen.row.count > 0)
        seen.cell = cells[0];
    return seen;
}

static void assert_nothing(const struct seen *seen)
{
    assert_int_equal(seen->row.count, 0);
    assert_true(seen->row.after_sum == 0 && seen->row.near_sum == 0 && seen->recent == 0);
    assert_int_equal(seen->visitors, 0);
    assert_int_equal(seen->clicks, 0);
}

/* `to` becomes what `from` is, by a snapshot; returns its version. */
static unsigned copy_to(struct rig *from, struct rig *to)
{
    struct dn_buffer bytes;

    dn_buffer_init(&bytes, SNAPSHOT_MAX);
    rig_snapshot(from, &bytes);
    unsigned version = bytes.bytes[VERSION_AT];
    rig_restore(to, &bytes);
    to->index = from->index;
    to->now_ms = from->now_ms;
    dn_buffer_free(&bytes);
    assert_true(dn_shard_hash(to->shard) == dn_shard_hash(from->shard));
    assert_true(dn_shard_hash_recompute(to->shard) == dn_shard_hash(from->shard));
    return version;
}

/* Off within the first half-life: rows stay, or there never was one; both are more than older builds know. */
static void test_off_and_restored(void **state)
{
    (void)state;
    for (int clicks = 0; clicks <= 20; clicks += 20)
        for (int64_t again_ms = 30 * DAY_MS; again_ms <= 60 * DAY_MS; again_ms += 30 * DAY_MS) {
            struct rig live, restored;
            open_at(&live, START_MS);
            rig_open(&restored);
            switch_to(&live, 120, 30 * DAY_MS);
            for (int i = 0; i < clicks; i++)
                click_pair(&live);
            rig_tick(&live, DAY_MS);
            switch_to(&live, 0, 30 * DAY_MS);
            assert_int_equal(copy_to(&live, &restored), 4);
            rig_tick(&live, 40 * DAY_MS);
            rig_tick(&restored, 40 * DAY_MS);
            switch_to(&live, 120, again_ms);
            switch_to(&restored, 120, again_ms);
            assert_true(dn_shard_hash(live.shard) == dn_shard_hash(restored.shard));
            assert_true(look(&live).cell.near == (float)clicks / 2); /* by the half-life that was in force */
            assert_true(look(&restored).cell.near == (float)clicks / 2);
            assert_int_equal(look(&restored).visitors, look(&live).visitors);
            rig_close(&live);
            rig_close(&restored);
        }
}

/* Settings without those of the tables change nothing here: older builds read the snapshot. */
static void test_older_snapshots(void **state)
{
    struct rig rig, restored;
    struct dn_shard_settings settings;

    (void)state;
    open_at(&rig, START_MS);
    rig_open(&restored);
    settings_of(&settings, 120, DAY_MS);
    dn_buffer_clear(&rig.record);
    dn_record_settings_without_near(&rig.record, &settings);
    rig_apply(&rig);
    click_pair(&rig);
    assert_int_equal(copy_to(&rig, &restored), 2);
    switch_to(&rig, 0, DAY_MS); /* they are known from here on */
    assert_int_equal(copy_to(&rig, &restored), 4);
    dn_shard_settings(restored.shard, &settings);
    assert_int_equal(settings.near_half_life_ms, DAY_MS);
    rig_close(&rig);
    rig_close(&restored);
}

static void test_nobody_sees_them_off(void **state)
{
    struct rig rig, restored;
    struct seen seen;

    (void)state;
    open_at(&rig, START_MS);
    rig_open(&restored);
    switch_to(&rig, 120, HOUR_MS);
    for (int i = 0; i < 8; i++)
        click_pair(&rig);
    seen = look(&rig);
    assert_true(seen.cell.near == 8 && seen.row.near_sum == 8 && seen.recent == 8 && seen.visitors == 8);
    switch_to(&rig, 0, HOUR_MS);
    seen = look(&rig);
    assert_nothing(&seen);
    copy_to(&rig, &restored);
    seen = look(&restored);
    assert_nothing(&seen);
    switch_to(&rig, 120, HOUR_MS);
    assert_true(look(&rig).cell.near == 8 && look(&rig).visitors == 8 && look(&rig).clicks == 8);
    copy_to(&rig, &restored);
    assert_true(look(&restored).cell.near == 8 && look(&restored).visitors == 8);
    rig_close(&rig);
    rig_close(&restored);
}

/* Time goes on while they are off, whatever half-life they come back with. */
static void test_they_fade_off(void **state)
{
    (void)state;
    for (int64_t again_ms = HOUR_MS; again_ms <= 2 * HOUR_MS; again_ms += HOUR_MS) {
        struct rig rig;
        open_at(&rig, START_MS);
        switch_to(&rig, 120, HOUR_MS);
        for (int i = 0; i < 8; i++)
            click_pair(&rig);
        switch_to(&rig, 0, HOUR_MS);
        rig_tick(&rig, 3 * HOUR_MS);
        switch_to(&rig, 120, again_ms);
        assert_true(look(&rig).cell.near == 1);
        switch_to(&rig, 0, again_ms);
        rig_tick(&rig, 20 * DAY_MS);
        switch_to(&rig, 120, 5 * HOUR_MS);
        assert_true(look(&rig).recent < 1e-9f);
        rig_close(&rig);
    }
}

/* ---- any order of it all
 * -------------------------------------------------------------------------------------------------- */

struct model { /* of how often "bb" is near "aa" */
    bool on;
    int64_t now_ms, landmark_ms, half_life_ms;
    uint64_t weight; /* 16ths, as of `halvings` */
    unsigned halvings, due;
};

static void model_settings(struct model *model, bool on, int64_t half_life_ms)
{
    int64_t due = (model->now_ms - model->landmark_ms) / model->half_life_ms;

    model->due += (unsigned)due;
    model->landmark_ms += due * model->half_life_ms;
    if (half_life_ms != model->half_life_ms)
        model->landmark_ms = model->now_ms;
    model->half_life_ms = half_life_ms;
    model->on = on;
}

static unsigned model_pending(const struct model *model)
{
    unsigned due = model->due + (unsigned)((model->now_ms - model->landmark_ms) / model->half_life_ms);

    return due - model->halvings < 31 ? due - model->halvings : 31;
}

static void model_click(struct model *model)
{
    if (!model->on)
        return;
    unsigned pending = model_pending(model);
    model->weight = (model->weight >> pending) + DN_NEAR_ONE;
    model->halvings += pending;
}

static float model_near(const struct model *model)
{
    return model->on ? (float)model->weight / DN_NEAR_ONE / (float)(1u << model_pending(model)) : 0;
}

enum { ON_OFF, ANOTHER_HALF_LIFE, WAIT, CLICK, RESTART, WORDS };

static void random_word(struct rng *rng, struct rig *live, struct rig *other, struct model *model)
{
    static const int64_t half_lives[] = {30 * DAY_MS, 365 * DAY_MS, 3650 * DAY_MS};
    int64_t half_life_ms = model->half_life_ms;

    switch (rng_below(rng, WORDS)) {
    case ANOTHER_HALF_LIFE:
        half_life_ms = half_lives[rng_below(rng, 3)]; /* fallthrough */
    case ON_OFF:
        model_settings(model, rng_chance(rng, 50), half_life_ms);
        switch_to(live, model->on ? 16 : 0, half_life_ms);
        switch_to(other, model->on ? 16 : 0, half_life_ms);
        break;
    case WAIT: {
        int64_t ms = (int64_t)rng_below(rng, (uint64_t)(rng_chance(rng, 30) ? 50 * DAY_MS : DAY_MS));
        rig_tick(live, ms);
        rig_tick(other, ms);
        model->now_ms += ms;
        break;
    }
    case CLICK:
        click_pair(live);
        click_pair(other);
        model_click(model);
        break;
    case RESTART:
        copy_to(rng_chance(rng, 50) ? live : other, other);
        break;
    }
}

static void test_any_order(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct rng rng = {seed};
        struct rig live, other;
        struct model model = {.now_ms = START_MS, .landmark_ms = START_MS, .half_life_ms = 100 * DAY_MS};
        open_at(&live, START_MS);
        open_at(&other, START_MS);
        switch_to(&live, 0, model.half_life_ms); /* the default's landmark is 0 */
        switch_to(&other, 0, model.half_life_ms);
        for (int step = 0; step < 80; step++) {
            random_word(&rng, &live, &other, &model);
            CHECK(dn_shard_hash(live.shard) == dn_shard_hash(other.shard), "seed %d step %d", (int)seed,
                  step);
            CHECK(look(&live).cell.near == model_near(&model), "seed %d step %d: %f, not %f", (int)seed, step,
                  look(&live).cell.near, model_near(&model));
            CHECK(look(&other).cell.near == model_near(&model), "seed %d step %d", (int)seed, step);
        }
        rig_close(&live);
        rig_close(&other);
    }
}

/* ---- what the first build with version 4 made of it
 * -------------------------------------------------------------------------------------------------- */

static const struct {
    int64_t days;           /* that pass first; */
    int64_t half_life_days; /* above 0: then settings come, */
    uint32_t cells, visitors;
    int pairs; /* and then clicks */
    uint64_t hash;
} fixed_log[] = {
    {0, 365, 120, 64, 0, 0x6ea55441ba237c4c}, {0, 0, 0, 0, 2, 0x91a2eef602470e52},
    {400, 0, 0, 0, 0, 0xc05d4695d517e168},    {0, 0, 0, 0, 1, 0x290e391f1cdb4541},
    {0, 100, 120, 1, 0, 0x96e249b1a1998ed3},  {150, 0, 0, 0, 1, 0x1bc6dd935f22d42d},
    {0, 100, 0, 1, 0, 0x8012819fe2cd6de5},    {0, 0, 0, 0, 1, 0xfde38297907d2516},
    {250, 0, 0, 0, 0, 0xfb0b08c70d157cf4},    {0, 100, 20, 2, 0, 0xa1e98fe709bd8a70},
    {0, 0, 0, 0, 1, 0x667a4b27aab5f117},
};
#define FIXED_SNAPSHOT_STEP 6
/* Where the first settings have a half-life of 30 days, nothing is due yet. */
#define FIXED_HASH_OF_30_DAYS 0xa8607be52e5a42bb
static const char fixed_snapshot[] =
    "444e53480400010100000000283d659d01000000283d659d0100000140c3609a01000008000000000000000400000000"
    "000000000000000000000000283d659d0100002328000008000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000030000000000000040771b0000000000e09304000000000000"
    "5c26050000000000c87e9a0000000032000000c8000000404b4c0080841e000097490100000000000000000100000000"
    "f0fb02020000000030bf639c010000380000000202000000000000000000000100000000232800000000000000000000"
    "010200616101000000000000010000000023280000000000000000000001020062620300000000060000000000000000"
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000070000000004000000000501000000ef0628b391b715d5f3030000000000000c00000000"
    "00000000283d659d010000080000000000000000283d659d010000209438659d01000002000000000002000000000000"
    "000000000000000200000000283d659d01000001000000000000000000000000010200283d659d010000020000000000"
    "000001000000000102080200000000000000040000003800000000000000000100000000000020000000000000000100"
    "abb9c0130001000020000000010000000000010000000400000038000000000000000000000000000000200000000000"
    "00000100608a6adb0000000020000000010000000000e56dcde29f811280";

static void fixed_step(struct rig *rig, size_t step)
{
    struct dn_shard_settings settings;

    if (fixed_log[step].days > 0)
        rig_tick(rig, fixed_log[step].days * DAY_MS);
    if (fixed_log[step].half_life_days > 0) {
        settings_of(&settings, fixed_log[step].cells, fixed_log[step].half_life_days * DAY_MS);
        settings.near_visitors = fixed_log[step].visitors;
        rig_settings(rig, &settings);
    }
    for (int i = 0; i < fixed_log[step].pairs; i++)
        click_pair(rig);
    CHECK(dn_shard_hash(rig->shard) == fixed_log[step].hash, "step %zu: %016llx", step,
          (unsigned long long)dn_shard_hash(rig->shard));
}

/* Hashes and bytes that two builds compare do not change, where the older one's were right. */
static void test_hashes_are_fixed(void **state)
{
    struct rig rig, restored;
    struct dn_buffer bytes, written;
    unsigned byte;

    (void)state;
    open_at(&rig, START_MS);
    rig_open(&restored);
    dn_buffer_init(&bytes, SNAPSHOT_MAX);
    dn_buffer_init(&written, SNAPSHOT_MAX);
    for (const char *at = fixed_snapshot; sscanf(at, "%2x", &byte) == 1; at += 2)
        dn_buffer_u8(&bytes, (uint8_t)byte);
    rig_restore(&restored, &bytes);
    for (size_t step = 0; step < sizeof fixed_log / sizeof *fixed_log; step++) {
        fixed_step(&rig, step);
        if (step > FIXED_SNAPSHOT_STEP)
            fixed_step(&restored, step);
        if (step != FIXED_SNAPSHOT_STEP)
            continue;
        rig_snapshot(&rig, &written);
        assert_int_equal(written.length, bytes.length);
        assert_memory_equal(written.bytes, bytes.bytes, bytes.length);
        assert_true(dn_shard_hash(restored.shard) == fixed_log[step].hash);
        restored.index = rig.index;
        restored.now_ms = rig.now_ms;
    }
    dn_buffer_free(&bytes);
    dn_buffer_free(&written);
    rig_close(&rig);
    rig_close(&restored);
    open_at(&rig, START_MS);
    switch_to(&rig, 120, 30 * DAY_MS);
    assert_true(dn_shard_hash(rig.shard) == FIXED_HASH_OF_30_DAYS);
    rig_close(&rig);
}

/* ---- bytes that no shard writes
 * -------------------------------------------------------------------------------------------------- */

#define NEAR_TAG 8u
#define ROW_AT (5 + 4 + 4)                /* in section NEAR: its head, then of the first item: id, clicks */
#define CELLS_AT (ROW_AT + 4 + 4 + 8 + 8) /* u16 how many, then those */
#define CELL_BYTES 12u
#define ITEMS 3u

/* Where section NEAR begins, in a snapshot of ITEMS items. */
static size_t near_section(const struct dn_buffer *bytes)
{
    const uint8_t head[5] = {NEAR_TAG, ITEMS};

    for (size_t at = bytes->length - sizeof head; at > 0; at--)
        if (memcmp(bytes->bytes + at, head, sizeof head) == 0)
            return at;
    fail_msg("no section NEAR");
    return 0;
}

static void expect_bad_tables(struct rig *rig, const struct dn_buffer *bytes)
{
    struct dn_error err = {0};
    void *built = NULL;

    assert_int_equal(
        whole_build(dn_shard_restore_build, rig->shard, bytes->bytes, bytes->length, &built, &err),
        DN_CORRUPT);
    assert_non_null(strstr(err.message, "bad tables"));
}

/* Whoever copies such a row loses cells that another node keeps. */
static void test_forged_rows(void **state)
{
    struct rig rig;
    struct dn_buffer bytes;

    (void)state;
    open_at(&rig, START_MS);
    switch_to(&rig, 120, DAY_MS);
    rig_click(&rig, 1, 1, rig.now_ms, "aa");
    rig_click(&rig, 1, 2, rig.now_ms, "bb");
    rig_click(&rig, 1, 3, rig.now_ms, "cc");
    dn_buffer_init(&bytes, SNAPSHOT_MAX);
    rig_snapshot(&rig, &bytes);
    size_t cells = near_section(&bytes) + CELLS_AT;
    assert_int_equal(bytes.bytes[cells], 2); /* of "aa": "bb" and "cc" */
    uint8_t *first = bytes.bytes + cells + 2, *second = first + CELL_BYTES, kept[CELL_BYTES];

    memcpy(kept, first, CELL_BYTES);
    memset(first + 4, 0, 8); /* after and near */
    expect_bad_tables(&rig, &bytes);
    memcpy(first, kept, CELL_BYTES);
    memcpy(kept, second, CELL_BYTES);
    memcpy(second, first, 4); /* the key */
    expect_bad_tables(&rig, &bytes);
    memcpy(second, kept, CELL_BYTES);
    rig_restore(&rig, &bytes); /* they are all as they were */
    dn_buffer_free(&bytes);
    rig_close(&rig);
}

/* Settings have version 1, 2 or 4: builds before 4 refuse 3. */
static void test_settings_version(void **state)
{
    struct rig rig;
    struct dn_shard_settings settings;

    (void)state;
    for (uint8_t version = 0; version <= 6; version++) {
        bool known = version == 1 || version == 2 || version == 4;
        rig_open(&rig);
        settings_of(&settings, 16, DAY_MS);
        if (version == 4)
            dn_record_settings(&rig.record, &settings);
        else
            dn_record_settings_without_near(&rig.record, &settings);
        rig.record.bytes[1] = version;
        rig_apply(&rig);
        CHECK(rig.answer.status == (known ? DN_RESULT_OK : DN_RESULT_INVALID), "version %u", version);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_off_and_restored),
        cmocka_unit_test(test_older_snapshots),
        cmocka_unit_test(test_nobody_sees_them_off),
        cmocka_unit_test(test_they_fade_off),
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_hashes_are_fixed),
        cmocka_unit_test(test_forged_rows),
        cmocka_unit_test(test_settings_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
