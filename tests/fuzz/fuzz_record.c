/* Records of a session shard (session/record.h) applied to one, and the parser of its answers. The input is a
 * history: for each record u8 steps of 64 s that pass before it, u16 length, bytes. After each one the
 * running hash is the one reckoned from the whole state, a record that is refused whole has changed nothing,
 * and of dead letters as many wait as the numbers say, each of them counted. */
#include "base/error.h"
#include "session/record.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define RECORDS_MAX 40u
#define STEP_MS 64000
#define START_MS 1700000000000

const unsigned dn_fuzz_runs = 6000;

static void parse_anything(const uint8_t *bytes, size_t length)
{
    for (unsigned kind = 0; kind <= DN_RECORD_STALL + 1; kind++) {
        struct dn_result result;
        struct dn_error err;
        if (dn_result_parse(bytes, length, (uint8_t)kind, &result, &err) == DN_OK) {
            DN_ASSERT(result.count <= length);
        }
    }
}

/* This thread is the writer: it need not be in the epoch. */
static void check_streams(const struct dn_shard *shard)
{
    static struct dn_dead_letter letters[DN_DEAD_MAX + 1];
    struct dn_source_view views[4];
    struct dn_shard_stats stats;
    char reason[DN_STALL_REASON_MAX + 1];
    uint64_t written = 0, next = 0, counted = 0;
    dn_shard_dead_range(shard, &written, &next);
    size_t count = dn_shard_dead_letters(shard, 0, letters, DN_DEAD_MAX + 1);
    DN_ASSERT(written <= next && count == next - written);
    dn_shard_stats(shard, &stats);
    for (size_t i = 0; i <= DN_DEAD_REASON_MAX; i++) {
        counted += stats.dead[i];
    }
    DN_ASSERT(counted == next);
    for (size_t i = 0; i < count; i++) {
        DN_ASSERT(letters[i].number == written + i && letters[i].offset >= 0 && letters[i].reason >= 1 &&
                  letters[i].reason <= DN_DEAD_REASON_MAX && letters[i].time_ms <= stats.time_ms);
    }
    (void)dn_shard_sources(shard, views, 4);
    DN_ASSERT(dn_shard_stalled(shard, reason) > 0 || reason[0] == '\0');
}

static void apply(struct dn_shard *shard, uint64_t index, int64_t now_ms, const uint8_t *record,
                  size_t length, struct dn_buffer *answer)
{
    dn_shard_entry_done(shard, index - 1, now_ms); /* time moves on, whatever becomes of the record */
    uint64_t before = dn_shard_hash(shard);
    dn_buffer_clear(answer);
    dn_shard_apply(shard, index, 0, now_ms, record, length, answer);
    DN_ASSERT(!answer->failed && answer->length >= 1);
    if (answer->bytes[0] != DN_RESULT_OK) {
        DN_ASSERT(dn_shard_hash(shard) == before);
    }
    if (length > 0) {
        struct dn_result result;
        struct dn_error err;
        DN_ASSERT(dn_result_parse(answer->bytes, answer->length, record[0], &result, &err) == DN_OK);
    }
    dn_shard_entry_done(shard, index, now_ms);
    DN_ASSERT(dn_shard_hash(shard) == dn_shard_hash_recompute(shard));
    check_streams(shard);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct dn_epoch *epoch = dn_epoch_create();
    struct dn_shard *shard = epoch != NULL ? dn_shard_create(epoch) : NULL;
    struct dn_buffer answer;
    struct dn_reader reader;
    int64_t now_ms = START_MS;
    DN_ASSERT(shard != NULL);
    dn_buffer_init(&answer, 1u << 20);
    dn_reader_init(&reader, bytes, length);
    parse_anything(bytes, length);
    for (uint64_t index = 2; index <= 2 * RECORDS_MAX; index += 2) {
        now_ms += (int64_t)dn_reader_u8(&reader) * STEP_MS;
        size_t record_length = dn_reader_u16(&reader);
        if (reader.failed) {
            break;
        }
        size_t left = dn_reader_left(&reader);
        record_length = record_length < left ? record_length : left;
        apply(shard, index, now_ms, dn_reader_bytes(&reader, record_length), record_length, &answer);
    }
    dn_buffer_free(&answer);
    dn_shard_destroy(shard);
    dn_epoch_destroy(epoch);
    return 0;
}

/* ---- seeds -----------------------------------------------------------------------------------------------
 */

static void put_record(struct dn_buffer *out, uint8_t steps, const struct dn_buffer *record)
{
    DN_ASSERT(!record->failed && record->length <= UINT16_MAX);
    dn_buffer_u8(out, steps);
    dn_buffer_u16(out, (uint16_t)record->length);
    dn_buffer_append(out, record->bytes, record->length);
}

static void put_small_settings(struct dn_buffer *out, struct dn_buffer *record)
{
    struct dn_shard_settings settings;
    dn_shard_settings_default(&settings);
    settings.events_per_user = 3;
    settings.ids_per_user = 8;
    settings.items_max = 6;
    settings.users_max = 5;
    dn_buffer_clear(record);
    dn_record_settings(record, &settings);
    put_record(out, 0, record);
}

static void put_events(struct dn_buffer *out, struct dn_buffer *record, unsigned round, bool stream)
{
    static const char *const items[] = {"a", "bb", "ccc", "dddd", "e5", "f6", "g7"};
    struct dn_event_in events[4];
    for (unsigned i = 0; i < 4; i++) {
        const char *item = items[(round * 3 + i) % 7];
        events[i] = (struct dn_event_in){
            .user = {.high = (round + i) % 6, .low = 7},
            .event_id = round * 4 + i + 1,
            .time_ms = START_MS + (int64_t)round * STEP_MS - (int64_t)i * 1000,
            .weight = DN_WEIGHT_ONE,
            .type = (uint8_t)(1 + (round + i) % DN_EVENT_TYPE_MAX),
            .offset = (int64_t)(round * 4 + i),
            .item = item,
            .item_length = (uint16_t)strlen(item),
        };
    }
    dn_buffer_clear(record);
    if (stream) {
        const int64_t first = (int64_t)round * 4;
        const struct dn_dead_in dead[] = {{first - 2, DN_DEAD_LIMIT}, {first - 1, DN_DEAD_MISROUTED}};
        dn_record_stream(record, "clicks", 0, round < 2 ? DN_OFFSET_UNSET : first - 4, first + 4, events, 4,
                         dead, round < 2 ? 0 : round % 3);
    } else {
        dn_record_events(record, events, 4);
    }
    put_record(out, round % 3 == 0 ? 1 : 0, record);
}

static void put_word(struct dn_buffer *out, struct dn_buffer *record, unsigned round)
{
    dn_buffer_clear(record);
    switch (round % 3) {
    case 0:
        dn_record_dead_written(record, round / 3);
        break;
    case 1:
        dn_record_stall(record, round % 2 == 0 ? START_MS : 0, "the broker is down");
        break;
    default:
        dn_record_source(record, round % 2 == 0 ? "views" : "clicks", 0,
                         round % 2 == 0 ? DN_OFFSET_UNSET : (int64_t)round * 4, round % 4 == 1);
        break;
    }
    put_record(out, 0, record);
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    struct dn_buffer history, record;
    if (n > 5) {
        return 0;
    }
    dn_buffer_init(&history, max);
    dn_buffer_init(&record, max);
    if (n % 2 == 0) {
        put_small_settings(&history, &record);
    }
    for (unsigned round = 0; round < 2 + 3 * n; round++) {
        put_events(&history, &record, round, n >= 2 && round % 2 == 1);
        if (n >= 3 && round % 4 == 3) {
            dn_buffer_clear(&record);
            dn_record_erase(&record, (struct dn_hash128){.high = round % 6, .low = 7},
                            START_MS + (int64_t)round * STEP_MS, round);
            put_record(&history, n == 5 ? 255 : 0, &record);
        }
        if (n >= 4) {
            put_word(&history, &record, round);
        }
    }
    DN_ASSERT(!history.failed);
    size_t length = history.length;
    memcpy(out, history.bytes, length);
    dn_buffer_free(&record);
    dn_buffer_free(&history);
    return length;
}
