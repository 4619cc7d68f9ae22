/* A record in parts: how much is done in one call, and that it is all the same to the state what comes in
 * between: other shards, readers, the end of a capture. Counts of events, no clock. */
#include "harness.h"

#define RECORD_EVENTS 5000
#define ITEMS 18000
#define USERS 2500
#define ROUNDS 12
#define RESULT_HEAD 13 /* status, next_offset, count */

static struct dn_event_in in[DN_EVENTS_PER_RECORD_MAX];
static char names[DN_EVENTS_PER_RECORD_MAX][16];

/* Times rise but for some that are late, ahead, or no time; offsets leave gaps for marks. */
static void events_random(struct rng *rng, const struct rig *rig, size_t count, int64_t *offset)
{
    for (size_t i = 0; i < count; i++) {
        unsigned item = (unsigned)rng_below(rng, 1 + rng_below(rng, ITEMS));
        int64_t time_ms = rig->now_ms - 60000 + (int64_t)(i * 60000 / count);
        if (rng_chance(rng, 3)) {
            time_ms += (int64_t)rng_below(rng, 5) * 86400000 - 2 * 86400000;
        }
        snprintf(names[i], sizeof names[i], "item-%u", item);
        in[i] = event_of(rng_below(rng, USERS), 1 + rng_below(rng, 20000), time_ms, names[i]);
        in[i].offset = *offset;
        *offset += 1 + (int64_t)rng_below(rng, 2);
    }
}

static void record_random(struct rng *rng, struct rig *rig, size_t count, int64_t *offset)
{
    static struct dn_dead_in dead[DN_EVENTS_PER_RECORD_MAX];
    size_t dead_count = 0;

    events_random(rng, rig, count, offset);
    dn_buffer_clear(&rig->record);
    if (rng_chance(rng, 40)) {
        dn_record_events(&rig->record, in, count);
        return;
    }
    for (size_t i = 1; i < count && dead_count < 100; i++) {
        if (in[i].offset > in[i - 1].offset + 1) {
            dead[dead_count++] =
                (struct dn_dead_in){.offset = in[i].offset - 1, .reason = DN_DEAD_UNDECODABLE};
        }
    }
    int64_t next = DN_OFFSET_UNSET;
    dn_epoch_enter(rig->reader);
    bool known = dn_shard_next_offset(rig->shard, "s", 0, &next);
    dn_epoch_leave(rig->reader);
    dn_record_stream(&rig->record, "s", 0, known ? next : DN_OFFSET_UNSET, *offset, in, count, dead,
                     dead_count);
}

/* With tables of what is near an item: they are most of what an event costs. */
static void open_with_tables(struct rig *rig)
{
    struct dn_shard_settings settings;
    rig_open(rig);
    dn_shard_settings_default(&settings);
    assert_true(settings.near_cells > 0);
    rig_settings(rig, &settings);
}

static bool part(struct rig *rig)
{
    return dn_shard_apply_part(rig->shard, rig->index, 0, rig->now_ms, rig->record.bytes, rig->record.length,
                               &rig->result);
}

/* Of a batch as a source makes it by default no call applies more than DN_APPLY_STEP events: consensus looks
 * at the clock after each. */
static void little_at_a_time(void **state)
{
    struct rig rig;
    struct rng rng = {1};
    int64_t offset = 0;
    (void)state;
    for (int capture = 0; capture < 2; capture++) {
        open_with_tables(&rig);
        for (unsigned round = 0; round < 3; round++) {
            size_t before = 0, calls = 0;
            void *captured = NULL;
            events_random(&rng, &rig, RECORD_EVENTS, &offset);
            dn_buffer_clear(&rig.record);
            dn_buffer_clear(&rig.result);
            dn_record_events(&rig.record, in, RECORD_EVENTS);
            if (capture > 0 && round == 2) { /* all that is written now is copied first */
                captured = dn_shard_snapshot_begin(rig.shard);
            }
            bool done = false;
            while (!done) {
                done = part(&rig);
                size_t answered = rig.result.length < RESULT_HEAD ? 0 : rig.result.length - RESULT_HEAD;
                CHECK(answered - before <= DN_APPLY_STEP, "%zu events in one call", answered - before);
                before = answered;
                calls++;
            }
            assert_int_equal(before, RECORD_EVENTS);
            assert_true(calls >= RECORD_EVENTS / DN_APPLY_STEP);
            dn_shard_entry_done(rig.shard, rig.index++, rig.now_ms);
            if (captured != NULL) {
                dn_shard_snapshot_end(rig.shard, captured);
            }
        }
        rig_close(&rig);
    }
}

/* The offset moves with the batch's last event, and the hash is right at any time. */
static void between_two_parts(void **state)
{
    struct rig rig;
    struct rng rng = {2};
    int64_t offset = 0, next = 0;
    (void)state;
    open_with_tables(&rig);
    events_random(&rng, &rig, 200, &offset);
    dn_buffer_clear(&rig.result);
    dn_buffer_clear(&rig.record);
    dn_record_stream(&rig.record, "s", 7, DN_OFFSET_UNSET, offset, in, 200, NULL, 0);
    while (!part(&rig)) {
        assert_true(dn_shard_hash(rig.shard) == dn_shard_hash_recompute(rig.shard));
        dn_epoch_enter(rig.reader);
        assert_false(dn_shard_next_offset(rig.shard, "s", 7, &next));
        dn_epoch_leave(rig.reader);
    }
    dn_shard_entry_done(rig.shard, rig.index++, rig.now_ms);
    dn_epoch_enter(rig.reader);
    assert_true(dn_shard_next_offset(rig.shard, "s", 7, &next));
    dn_epoch_leave(rig.reader);
    assert_int_equal(next, offset);
    rig_close(&rig);
}

/* Two shards are given their records in turns, a part of the one and a part of the other, while captures of
 * both come to their end and readers hold what is replaced; two more get the same records in one go. */
static void all_the_same(void **state)
{
    static struct rig whole[2], parts[2];
    int64_t offsets[2] = {0, 0};
    struct rng rng = {3};
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        open_with_tables(&whole[i]);
        open_with_tables(&parts[i]);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        bool done[2] = {false, false}, any_left = true;
        void *captured[2];
        struct dn_buffer bytes;
        struct dn_session_view view;
        for (unsigned i = 0; i < 2; i++) {
            record_random(&rng, &whole[i], 1 + rng_below(&rng, 400), &offsets[i]);
            dn_buffer_clear(&parts[i].record);
            dn_buffer_append(&parts[i].record, whole[i].record.bytes, whole[i].record.length);
            rig_apply(&whole[i]);
            whole[i].now_ms += 5000;
            captured[i] = dn_shard_snapshot_begin(parts[i].shard);
            dn_buffer_clear(&parts[i].result);
        }
        while (any_left) {
            unsigned i = (unsigned)rng_below(&rng, 2);
            done[i] = done[i] || part(&parts[i]);
            if (captured[i] != NULL && rng_chance(&rng, 20)) {
                dn_shard_snapshot_end(parts[i].shard, captured[i]);
                captured[i] = NULL;
            }
            if (rng_chance(&rng, 50)) {
                rig_read(&parts[i], rng_below(&rng, USERS), &view);
            }
            any_left = !done[0] || !done[1];
        }
        for (unsigned i = 0; i < 2; i++) {
            struct rig *rig = &parts[i];
            if (captured[i] != NULL) {
                dn_shard_snapshot_end(rig->shard, captured[i]);
            }
            dn_shard_entry_done(rig->shard, rig->index++, rig->now_ms);
            rig->now_ms += 5000;
            assert_int_equal(rig->result.length, whole[i].result.length);
            assert_memory_equal(rig->result.bytes, whole[i].result.bytes, rig->result.length);
            assert_true(dn_shard_hash(rig->shard) == dn_shard_hash(whole[i].shard));
            assert_true(dn_shard_hash(rig->shard) == dn_shard_hash_recompute(rig->shard));
            dn_buffer_init(&bytes, 64u << 20);
            rig_snapshot(rig, &bytes);
            rig_restore(rig, &bytes);
            assert_true(dn_shard_hash(rig->shard) == dn_shard_hash(whole[i].shard));
            dn_buffer_free(&bytes);
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        rig_close(&whole[i]);
        rig_close(&parts[i]);
    }
}

/* A leader's snapshot comes while a record is half applied: the record is forgotten, and what comes next is
 * applied from its beginning. */
static void a_restore_puts_an_end_to_it(void **state)
{
    struct rig rig;
    struct rng rng = {4};
    struct dn_buffer bytes;
    int64_t offset = 0;
    (void)state;
    open_with_tables(&rig);
    rig_click(&rig, 1, 1, rig.now_ms, "a");
    dn_buffer_init(&bytes, 64u << 20);
    rig_snapshot(&rig, &bytes);
    uint64_t hash = dn_shard_hash(rig.shard);
    events_random(&rng, &rig, 300, &offset);
    dn_buffer_clear(&rig.record);
    dn_record_events(&rig.record, in, 300);
    dn_buffer_clear(&rig.result);
    assert_false(part(&rig));
    rig_restore(&rig, &bytes);
    assert_true(dn_shard_hash(rig.shard) == hash);
    rig_apply(&rig);
    assert_int_equal(rig.answer.count, 300);
    dn_buffer_free(&bytes);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(little_at_a_time),
        cmocka_unit_test(between_two_parts),
        cmocka_unit_test(all_the_same),
        cmocka_unit_test(a_restore_puts_an_end_to_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
