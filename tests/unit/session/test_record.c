/* Bytes from outside: records, results and snapshots, whole, cut short and damaged at random. */
#include "harness.h"

/* On streams, but for their batches. */
static void put_word(struct rig *rig, struct rng *rng)
{
    uint64_t written = 0, next = 0;
    switch (rng_below(rng, 3)) {
    case 0:
        dn_epoch_enter(rig->reader);
        dn_shard_dead_range(rig->shard, &written, &next);
        dn_epoch_leave(rig->reader);
        dn_record_dead_written(&rig->record, written + rng_below(rng, next - written + 1));
        break;
    case 1:
        dn_record_source(&rig->record, "views", (uint32_t)rng_below(rng, 3), (int64_t)rng_below(rng, 3) - 1,
                         rng_chance(rng, 50));
        break;
    default:
        dn_record_stall(&rig->record, (int64_t)rng_below(rng, 1000), "the broker is down");
        break;
    }
}

static void fill(struct rig *rig, struct rng *rng, int records)
{
    char names[8][24];
    for (int r = 0; r < records; r++) {
        struct dn_event_in events[8];
        size_t count = 1 + rng_below(rng, 8);
        for (size_t i = 0; i < count; i++) {
            snprintf(names[i], sizeof names[i], "item-%llu", (unsigned long long)rng_below(rng, 40));
            events[i] = event_of(rng_below(rng, 20), 1 + rng_next(rng),
                                 rig->now_ms - (int64_t)rng_below(rng, 9000), names[i]);
            events[i].type = (uint8_t)(1 + rng_below(rng, DN_EVENT_TYPE_MAX));
            events[i].offset = (int64_t)(rig->index * 10 + i);
        }
        rig->now_ms += (int64_t)rng_below(rng, 1000);
        dn_buffer_clear(&rig->record);
        uint64_t what = rng_below(rng, 12);
        if (what < 5) {
            dn_record_events(&rig->record, events, count);
        } else if (what < 9) {
            int64_t begins_at = DN_OFFSET_UNSET;
            dn_shard_next_offset(rig->shard, "clicks", 0, &begins_at);
            const struct dn_dead_in dead[] = {{(int64_t)(rig->index * 10 + 8), DN_DEAD_UNDECODABLE},
                                              {(int64_t)(rig->index * 10 + 9), DN_DEAD_LIMIT}};
            dn_record_stream(&rig->record, "clicks", 0, begins_at, (int64_t)(rig->index * 10 + 10), events,
                             count, dead, rng_below(rng, 3));
        } else if (what < 10) {
            dn_record_erase(&rig->record, events[0].user, rig->now_ms, rng_next(rng));
        } else {
            put_word(rig, rng);
        }
        rig_apply(rig);
    }
}

static void small_settings(struct rig *rig)
{
    struct dn_shard_settings settings;
    dn_shard_settings_default(&settings);
    settings.events_per_user = 4;
    settings.ids_per_user = 30;
    settings.items_max = 30;
    rig_settings(rig, &settings);
}

/* Flips, replaces, cuts or stretches a few places. */
static void damage(struct dn_buffer *bytes, struct rng *rng)
{
    for (uint64_t n = 1 + rng_below(rng, 3); n > 0 && bytes->length > 0; n--) {
        size_t at = rng_below(rng, bytes->length);
        switch (rng_below(rng, 4)) {
        case 0:
            bytes->bytes[at] ^= (uint8_t)(1u << rng_below(rng, 8));
            break;
        case 1:
            bytes->bytes[at] = (uint8_t)rng_next(rng);
            break;
        case 2:
            bytes->length = at;
            break;
        default:
            if (bytes->length - at >= 4) {
                memset(bytes->bytes + at, rng_chance(rng, 50) ? 0xff : 0, 4);
            }
            break;
        }
    }
}

/* An exact copy on the heap, so that a sanitizer sees every step beyond its end. */
static uint8_t *exact(const struct dn_buffer *bytes)
{
    uint8_t *copy = malloc(bytes->length + (bytes->length == 0));
    if (bytes->length > 0) {
        memcpy(copy, bytes->bytes, bytes->length);
    }
    return copy;
}

static void test_records_damaged(void **state)
{
    (void)state;
    struct rig rig;
    struct rng rng = {11};
    rig_open(&rig);
    small_settings(&rig);
    fill(&rig, &rng, 50);
    for (int i = 0; i < 20000; i++) {
        struct dn_event_in events[4];
        char name[300];
        memset(name, 'n', sizeof name);
        for (size_t k = 0; k < 4; k++) {
            events[k] = event_of(rng_below(&rng, 20), 1 + rng_next(&rng), rig.now_ms, "item");
            events[k].item = name;
            events[k].item_length = (uint16_t)(1 + rng_below(&rng, 20));
            events[k].offset = (int64_t)(rig.index * 10 + k);
        }
        dn_buffer_clear(&rig.record);
        switch (rng_below(&rng, 5)) {
        case 0:
            dn_record_events(&rig.record, events, rng_below(&rng, 5));
            break;
        case 1: {
            const struct dn_dead_in dead[] = {{(int64_t)(rig.index * 10 + 5), DN_DEAD_LIMIT},
                                              {(int64_t)(rig.index * 10 + 6), DN_DEAD_MISROUTED}};
            uint32_t partition = (uint32_t)rng_below(&rng, 3);
            int64_t begins_at = DN_OFFSET_UNSET;
            dn_shard_next_offset(rig.shard, "clicks", partition, &begins_at);
            dn_record_stream(&rig.record, "clicks", partition, begins_at, (int64_t)(rig.index * 10 + 10),
                             events, rng_below(&rng, 5), dead, rng_below(&rng, 3));
            break;
        }
        case 4:
            put_word(&rig, &rng);
            break;
        case 2:
            dn_record_erase(&rig.record, events[0].user, rig.now_ms, rng_next(&rng));
            break;
        default: {
            struct dn_shard_settings settings;
            dn_shard_settings(rig.shard, &settings);
            dn_record_settings(&rig.record, &settings);
            break;
        }
        }
        uint8_t kind = rig.record.bytes[0];
        if (rng_chance(&rng, 90)) {
            damage(&rig.record, &rng);
        }
        uint8_t *bytes = exact(&rig.record);
        uint64_t before = dn_shard_hash(rig.shard);
        dn_buffer_clear(&rig.result);
        dn_shard_apply(rig.shard, rig.index++, 0, rig.now_ms, bytes, rig.record.length, &rig.result);
        assert_true(rig.result.length >= 1);
        if (rig.result.bytes[0] != DN_RESULT_OK) { /* refused whole means: nothing happened */
            assert_true(dn_shard_hash(rig.shard) == before);
        }
        dn_shard_entry_done(rig.shard, rig.index, rig.now_ms);
        if (rig.record.length > 0 && bytes[0] == kind) {
            struct dn_error err;
            CHECK(dn_result_parse(rig.result.bytes, rig.result.length, kind, &rig.answer, &err) == DN_OK,
                  "%s", err.message);
        }
        free(bytes);
        if (i % 100 == 0) {
            assert_true(dn_shard_hash(rig.shard) == dn_shard_hash_recompute(rig.shard));
        }
    }
    rig_close(&rig);
}

static void test_records_cut_short(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig);
    struct dn_event_in events[3] = {event_of(1, 1, rig.now_ms, "a"), event_of(2, 2, rig.now_ms, "bc"),
                                    event_of(3, 3, rig.now_ms, "d")};
    struct dn_buffer record;
    dn_buffer_init(&record, 4096);
    dn_record_events(&record, events, 3);
    for (size_t length = 0; length < record.length; length++) {
        dn_buffer_clear(&rig.result);
        dn_shard_apply(rig.shard, 1, 0, rig.now_ms, record.bytes, length, &rig.result);
        assert_int_equal(rig.result.length, 1);
        assert_int_equal(rig.result.bytes[0], DN_RESULT_INVALID);
    }
    dn_buffer_u8(&record, 0); /* and one byte too many */
    dn_buffer_clear(&rig.result);
    dn_shard_apply(rig.shard, 1, 0, rig.now_ms, record.bytes, record.length, &rig.result);
    assert_int_equal(rig.result.bytes[0], DN_RESULT_INVALID);
    assert_int_equal(rig_click(&rig, 1, 1, rig.now_ms, "a"), DN_OUTCOME_ACCEPTED); /* nothing was applied */
    dn_buffer_free(&record);
    rig_close(&rig);
}

static void test_records_too_large_are_not_made(void **state)
{
    (void)state;
    struct dn_buffer out;
    struct dn_event_in event = event_of(1, 1, 1, "a");
    static struct dn_event_in many[DN_EVENTS_PER_RECORD_MAX + 1];
    dn_buffer_init(&out, 4u << 20);
    event.item_length = DN_ID_MAX + 1;
    dn_record_events(&out, &event, 1);
    assert_true(out.failed);
    dn_buffer_clear(&out);
    for (size_t i = 0; i <= DN_EVENTS_PER_RECORD_MAX; i++) {
        many[i] = event_of(1, 1, 1, "a");
    }
    dn_record_events(&out, many, DN_EVENTS_PER_RECORD_MAX + 1);
    assert_true(out.failed);
    dn_buffer_clear(&out);
    dn_record_events(&out, many, DN_EVENTS_PER_RECORD_MAX);
    assert_false(out.failed);
    dn_buffer_clear(&out);
    char source[DN_SOURCE_MAX + 2];
    memset(source, 's', sizeof source);
    source[DN_SOURCE_MAX + 1] = '\0';
    dn_record_stream(&out, source, 0, 0, 1, many, 0, NULL, 0);
    assert_true(out.failed);
    dn_buffer_clear(&out);
    dn_record_source(&out, source, 0, 0, false);
    assert_true(out.failed);
    dn_buffer_clear(&out);
    static struct dn_dead_in dead[DN_EVENTS_PER_RECORD_MAX + 1];
    dn_record_stream(&out, "s", 0, 0, 1, many, 0, dead, DN_EVENTS_PER_RECORD_MAX);
    assert_false(out.failed);
    dn_buffer_clear(&out);
    dn_record_stream(&out, "s", 0, 0, 1, many, 0, dead, DN_EVENTS_PER_RECORD_MAX + 1);
    assert_true(out.failed);
    dn_buffer_free(&out);
}

static void test_results_damaged(void **state)
{
    (void)state;
    struct rng rng = {13};
    for (int i = 0; i < 50000; i++) {
        uint8_t bytes[40];
        size_t length = rng_below(&rng, sizeof bytes + 1);
        for (size_t k = 0; k < length; k++) {
            bytes[k] = rng_chance(&rng, 70) ? (uint8_t)rng_below(&rng, 4) : (uint8_t)rng_next(&rng);
        }
        uint8_t *copy = malloc(length + 1);
        memcpy(copy, bytes, length);
        struct dn_result result;
        struct dn_error err;
        enum dn_code code = dn_result_parse(copy, length, (uint8_t)rng_below(&rng, 8), &result, &err);
        assert_true(code == DN_OK || code == DN_CORRUPT);
        if (code == DN_OK) {
            assert_true(result.count <= length);
        }
        free(copy);
    }
}

/* ---- snapshots ------------------------------------------------------------------------------------- */

static void test_snapshot_round_trip(void **state)
{
    (void)state;
    struct rig rig;
    struct rng rng = {17};
    struct dn_buffer first, second;
    rig_open(&rig);
    small_settings(&rig);
    dn_buffer_init(&first, 16u << 20);
    dn_buffer_init(&second, 16u << 20);
    rig_snapshot(&rig, &first); /* an empty one too */
    rig_restore(&rig, &first);
    fill(&rig, &rng, 300);
    dn_buffer_clear(&first);
    uint64_t hash = dn_shard_hash(rig.shard);
    rig_snapshot(&rig, &first);
    rig_restore(&rig, &first);
    assert_true(dn_shard_hash(rig.shard) == hash);
    assert_true(dn_shard_hash_recompute(rig.shard) == hash);
    rig_snapshot(&rig, &second);
    assert_int_equal(first.length, second.length);
    dn_buffer_free(&first);
    dn_buffer_free(&second);
    rig_close(&rig);
}

static void expect_corrupt(struct rig *rig, const uint8_t *bytes, size_t length)
{
    struct dn_error err = {0};
    void *built = NULL;
    enum dn_code code = whole_build(dn_shard_restore_build, rig->shard, bytes, length, &built, &err);
    CHECK(code == DN_CORRUPT, "code %d", code);
    assert_non_null(strstr(err.message, "snapshot of a shard"));
    assert_null(built);
}

static void test_snapshot_damaged(void **state)
{
    (void)state;
    struct rig rig;
    struct rng rng = {19};
    struct dn_buffer whole, bytes;
    rig_open(&rig);
    small_settings(&rig);
    fill(&rig, &rng, 200);
    dn_buffer_init(&whole, 16u << 20);
    dn_buffer_init(&bytes, 16u << 20);
    rig_snapshot(&rig, &whole);
    uint64_t hash = dn_shard_hash(rig.shard);
    for (size_t length = 0; length < whole.length; length += 1 + rng_below(&rng, 40)) {
        bytes.length = 0;
        dn_buffer_append(&bytes, whole.bytes, length);
        uint8_t *copy = exact(&bytes);
        expect_corrupt(&rig, copy, length);
        free(copy);
    }
    for (int i = 0; i < 4000; i++) {
        dn_buffer_clear(&bytes);
        dn_buffer_append(&bytes, whole.bytes, whole.length);
        damage(&bytes, &rng);
        if (bytes.length == whole.length && memcmp(bytes.bytes, whole.bytes, whole.length) == 0) {
            continue;
        }
        uint8_t *copy = exact(&bytes);
        expect_corrupt(&rig, copy, bytes.length);
        free(copy);
    }
    assert_true(dn_shard_hash(rig.shard) == hash); /* the live state was not touched */
    dn_buffer_free(&whole);
    dn_buffer_free(&bytes);
    rig_close(&rig);
}

#define LANDMARK_AT 59
#define ITEMS_SECTION_AT 183 /* behind the magic, the version and the meta section */

/* Damaged, and the state hash behind it put right: a shard that comes of it may be nonsense, but it never
 * crashes, however its history goes on. */
static void test_snapshot_forged(void **state)
{
    (void)state;
    struct rig source, rig;
    struct rng rng = {29};
    struct dn_buffer whole, bytes;
    unsigned built_count = 0;
    rig_open(&source);
    small_settings(&source);
    fill(&source, &rng, 60);
    dn_buffer_init(&whole, 16u << 20);
    dn_buffer_init(&bytes, 16u << 20);
    rig_snapshot(&source, &whole);
    for (int i = 0; i < 3000; i++) {
        struct dn_error err = {0};
        void *built = NULL;
        unsigned long long hash;
        dn_buffer_clear(&bytes);
        dn_buffer_append(&bytes, whole.bytes, whole.length);
        for (uint64_t n = 1 + rng_below(&rng, 3); n > 0; n--) {
            uint64_t within =
                rng_chance(&rng, 40) ? ITEMS_SECTION_AT : bytes.length; /* often the meta part */
            bytes.bytes[rng_below(&rng, within)] = (uint8_t)rng_next(&rng);
        }
        if (whole_build(dn_shard_restore_build, source.shard, bytes.bytes, bytes.length, &built, &err) ==
            DN_OK) {
            dn_shard_restore_discard(source.shard, built);
            continue;
        }
        const char *message = strstr(err.message, "state hash ");
        if (message == NULL || sscanf(message, "state hash %llx", &hash) != 1) {
            continue;
        }
        bytes.length -= 8;
        dn_buffer_u64(&bytes, hash);
        rig_open(&rig);
        rig.now_ms = source.now_ms;
        rig_restore(&rig, &bytes);
        built_count++;
        struct dn_shard_settings settings;
        dn_shard_settings(rig.shard, &settings);
        settings.trend_half_life_ms = 365 * (int64_t)86400000;
        rig_settings(&rig, &settings);
        fill(&rig, &rng, 10);
        rig_tick(&rig, 40 * (int64_t)86400000);
        fill(&rig, &rng, 10);
        rig_close(&rig);
    }
    assert_in_range(built_count, 100, 3000);
    dn_buffer_free(&whole);
    dn_buffer_free(&bytes);
    rig_close(&source);
}

/* A trend landmark that no history gives would overflow at the next change of the half-life. */
static void test_snapshot_of_a_far_landmark(void **state)
{
    (void)state;
    struct rig rig;
    struct dn_buffer bytes, forged;
    struct dn_error err = {0};
    void *built = NULL;
    rig_open(&rig);
    rig_click(&rig, 1, 1, rig.now_ms, "a");
    dn_buffer_init(&bytes, 1u << 20);
    dn_buffer_init(&forged, 1u << 20);
    rig_snapshot(&rig, &bytes);
    dn_buffer_append(&forged, bytes.bytes, LANDMARK_AT);
    dn_buffer_i64(&forged, rig.now_ms - 8 * 6 * (int64_t)3600000);
    dn_buffer_append(&forged, bytes.bytes + LANDMARK_AT + 8, bytes.length - LANDMARK_AT - 8);
    assert_int_equal(
        whole_build(dn_shard_restore_build, rig.shard, forged.bytes, forged.length, &built, &err),
        DN_CORRUPT);
    assert_non_null(strstr(err.message, "bad time"));
    dn_buffer_free(&bytes);
    dn_buffer_free(&forged);
    rig_close(&rig);
}

static void test_snapshot_of_a_high_item_id_takes_little_memory(void **state)
{
    (void)state;
    struct rig rig;
    struct dn_buffer bytes;
    struct dn_shard_stats before, after;
    rig_open(&rig);
    rig_click(&rig, 1, 1, rig.now_ms, "a");
    rig_erase(&rig, 1, rig.now_ms, 1); /* the item stays, and no event names it */
    dn_shard_stats(rig.shard, &before);
    dn_buffer_init(&bytes, 1u << 20);
    rig_snapshot(&rig, &bytes);
    assert_int_equal(bytes.bytes[ITEMS_SECTION_AT], 2);
    const uint8_t highest[4] = {0xff, 0xff, 0x7f, 0};
    memcpy(bytes.bytes + ITEMS_SECTION_AT + 5, highest, sizeof highest);
    rig_restore(&rig, &bytes);
    dn_shard_stats(rig.shard, &after);
    assert_int_equal(after.items, 1);
    assert_in_range(after.memory_bytes, 1, before.memory_bytes + (1 << 20));
    rig_click(&rig, 2, 1, rig.now_ms, "a");
    dn_buffer_free(&bytes);
    rig_close(&rig);
}

static void test_snapshot_out_of_room(void **state)
{
    (void)state;
    struct rig rig;
    struct rng rng = {23};
    struct dn_error err;
    struct dn_buffer small;
    rig_open(&rig);
    fill(&rig, &rng, 100);
    dn_buffer_init(&small, 500);
    void *capture = dn_shard_snapshot_begin(rig.shard);
    assert_int_equal(whole_write(dn_shard_snapshot_write, rig.shard, capture, &small, &err), DN_NO_MEMORY);
    dn_shard_snapshot_end(rig.shard, capture);
    dn_buffer_free(&small);
    fill(&rig, &rng, 10);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_damaged),
        cmocka_unit_test(test_records_cut_short),
        cmocka_unit_test(test_records_too_large_are_not_made),
        cmocka_unit_test(test_results_damaged),
        cmocka_unit_test(test_snapshot_round_trip),
        cmocka_unit_test(test_snapshot_damaged),
        cmocka_unit_test(test_snapshot_forged),
        cmocka_unit_test(test_snapshot_of_a_far_landmark),
        cmocka_unit_test(test_snapshot_of_a_high_item_id_takes_little_memory),
        cmocka_unit_test(test_snapshot_out_of_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
