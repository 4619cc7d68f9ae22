/* Sessions from the history of sources are those of shards that were fed the same events live, with other
 * batches and in another order of partitions; and features have nothing of the future in them. The sources
 * are a driver of this test, which gives messages in pieces of random size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/replay_features.h"
#include "tests/unit/base/random.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SHARDS = 3,
    PARTITIONS = 4,
    MESSAGES_MAX = 12000, /* of a partition */
    USERS = 40,
    BATCH_MAX = 50,
    TEXT_MAX = 200
};
#define BEGIN_MS INT64_C(1700000000000)
#define MINUTE_MS INT64_C(60000)
#define DAY_MS INT64_C(86400000)

static struct test_random rng;

/* ---- the driver --------------------------------------------------------------------------------------- */

struct sent { /* a message, and the event in it */
    char text[TEXT_MAX];
    int64_t message_ms; /* -1: it has no time */
    bool is_event;
    char user[16], item[24];
    uint8_t type;
    int64_t time_ms;
};

struct partition {
    struct sent *sent;
    size_t count;
    size_t at; /* of the reader */
    bool held, started;
    enum dn_partition_state state; /* IDLE: as it is */
};

static struct partition partitions[PARTITIONS];
static uint32_t partition_count;
static const char *trouble_text = "";

static enum dn_code fake_open(const struct dn_source_config *config, const struct dn_source_host *host,
                              void **ret_self, struct dn_error *err)
{
    (void)config;
    (void)host;
    (void)err;
    *ret_self = partitions;
    return DN_OK;
}

static void fake_close(void *self)
{
    (void)self;
    for (uint32_t p = 0; p < partition_count; p++)
        assert_false(partitions[p].started || partitions[p].held);
}

static size_t fake_streams(void *self, struct dn_stream_info *ret, size_t max)
{
    (void)self;
    assert_true(max > 0);
    ret[0] = (struct dn_stream_info){.stream = "s/topic", .partition_count = partition_count};
    return 1;
}

static int64_t fake_trouble(void *self, char ret_text[DN_SOURCE_TEXT_MAX])
{
    (void)self;
    snprintf(ret_text, DN_SOURCE_TEXT_MAX, "%s", trouble_text);
    return trouble_text[0] != '\0';
}

static enum dn_code fake_start(void *self, size_t stream, uint32_t partition, int64_t offset,
                               struct dn_error *err)
{
    (void)self;
    (void)err;
    assert_int_equal(stream, 0);
    assert_int_equal(offset, DN_STREAM_OFFSET_UNSET);
    partitions[partition].started = true;
    partitions[partition].at = 0;
    return DN_OK;
}

static void fake_stop(void *self, size_t stream, uint32_t partition)
{
    (void)self;
    (void)stream;
    assert_false(partitions[partition].held);
    partitions[partition].started = false;
}

static size_t fake_read(void *self, size_t stream, uint32_t number, struct dn_message *ret, size_t max)
{
    struct partition *partition = &partitions[number];
    size_t count = test_random_below(&rng, max < 40 ? max : 40);

    (void)self;
    (void)stream;
    assert_true(partition->started && !partition->held);
    if (partition->state != DN_PARTITION_IDLE)
        return 0;
    for (size_t i = 0; i < count; i++) {
        int64_t offset = 10 * (int64_t)partition->at;
        if (partition->at == partition->count) {
            ret[i] = (struct dn_message){.offset = offset, .next_offset = offset, .time_ms = -1, .end = true};
            partition->held = true;
            return i + 1;
        }
        const struct sent *sent = &partition->sent[partition->at++];
        ret[i] = (struct dn_message){.offset = offset,
                                     .next_offset = offset + 10,
                                     .time_ms = sent->message_ms,
                                     .bytes = (const uint8_t *)sent->text,
                                     .length = strlen(sent->text)};
    }
    partition->held = count > 0;
    return count;
}

static void fake_release(void *self, size_t stream, uint32_t partition)
{
    (void)self;
    (void)stream;
    assert_true(partitions[partition].held);
    partitions[partition].held = false;
}

static void fake_status(void *self, size_t stream, uint32_t partition, struct dn_partition_status *ret)
{
    (void)self;
    (void)stream;
    *ret = (struct dn_partition_status){.state = partitions[partition].state};
    if (ret->state == DN_PARTITION_IDLE)
        ret->state = DN_PARTITION_READING;
    else
        snprintf(ret->error, sizeof(ret->error), "as the test wants it");
}

static const struct dn_source_driver fake = {.kind = "fake",
                                             .open = fake_open,
                                             .close = fake_close,
                                             .streams = fake_streams,
                                             .trouble = fake_trouble,
                                             .start = fake_start,
                                             .stop = fake_stop,
                                             .read = fake_read,
                                             .release = fake_release,
                                             .status = fake_status};

static const struct dn_source_driver *the_fake(enum dn_source_kind kind)
{
    (void)kind;
    return &fake;
}

/* ---- what is sent ------------------------------------------------------------------------------------- */

static const char *const TYPES[] = {"", "view", "click", "cart", "buy", "like", "dislike", "play", "remove"};

static struct sent *send_one(uint32_t partition)
{
    struct partition *to = &partitions[partition];

    assert_true(to->count < MESSAGES_MAX);
    struct sent *sent = &to->sent[to->count++];
    *sent = (struct sent){.message_ms = -1};
    return sent;
}

static void send_event(uint32_t partition, unsigned user, uint8_t type, int64_t time_ms, int64_t message_ms)
{
    struct sent *sent = send_one(partition);

    sent->message_ms = message_ms;
    sent->is_event = true;
    sent->type = type;
    sent->time_ms = time_ms;
    snprintf(sent->user, sizeof(sent->user), "u%u", user);
    snprintf(sent->item, sizeof(sent->item), "i%zu,\"%u", test_random_below(&rng, 30), partition);
    char quoted[24];
    snprintf(quoted, sizeof(quoted), "%.*s\\\"%u", (int)(strchr(sent->item, '"') - sent->item), sent->item,
             partition);
    snprintf(sent->text, sizeof(sent->text),
             "{\"user_id\":\"%s\",\"item_id\":\"%s\",\"type\":\"%s\",\"time_ms\":%lld}", sent->user, quoted,
             TYPES[type], (long long)time_ms);
}

static void send_random(int64_t step_ms)
{
    int64_t now_ms[PARTITIONS];

    for (uint32_t p = 0; p < partition_count; p++)
        now_ms[p] = BEGIN_MS;
    for (size_t i = 0; i < 1500 * (size_t)partition_count; i++) {
        uint32_t p = (uint32_t)test_random_below(&rng, partition_count);
        now_ms[p] += (int64_t)test_random_below(&rng, (size_t)step_ms);
        if (test_random_below(&rng, 50) == 0) {
            snprintf(send_one(p)->text, TEXT_MAX, "no event");
            continue;
        }
        /* Mostly in order; some a little late, some at the same time, some far too late. */
        int64_t back_ms = 0;
        size_t chance = test_random_below(&rng, 10);
        if (chance < 3)
            back_ms = (int64_t)test_random_below(&rng, (size_t)(6 * MINUTE_MS));
        else if (chance == 3)
            back_ms = 60 * MINUTE_MS;
        send_event(p, (unsigned)test_random_below(&rng, USERS), (uint8_t)(1 + test_random_below(&rng, 8)),
                   (now_ms[p] - back_ms) / 1000 * 1000, -1);
    }
}

static struct dn_source_config config;
static struct dn_replay_source_options options;

static void begin(uint32_t count)
{
    partition_count = count;
    trouble_text = "";
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        partitions[p].count = partitions[p].at = 0;
        partitions[p].state = DN_PARTITION_IDLE;
    }
    config = (struct dn_source_config){
        .name = "s", .kind = DN_SOURCE_FILE, .format = DN_FORMAT_JSON, .message_bytes = 1 << 20};
    options = (struct dn_replay_source_options){
        .merge = {.sources = &config, .source_count = 1, .patience_ms = 20000, .driver = the_fake},
        .until_ms = INT64_MAX};
    dn_shard_settings_default(&options.settings);
    options.settings.events_per_user = 1000;
    memcpy(options.hash_key, "0123456789abcdef", DN_HASH_KEY_BYTES);
}

static int open_partitions(void **state)
{
    (void)state;
    rng = test_random_start("replay_source");
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        partitions[p].sent = calloc(MESSAGES_MAX, sizeof(struct sent));
        if (partitions[p].sent == NULL)
            return -1;
    }
    return 0;
}

static int close_partitions(void **state)
{
    (void)state;
    for (uint32_t p = 0; p < PARTITIONS; p++)
        free(partitions[p].sent);
    return 0;
}

/* ---- replaying, and living ---------------------------------------------------------------------------- */

static void replay(struct dn_replay_state *state, struct dn_replay_source_result *ret)
{
    struct dn_error err = {0};

    assert_int_equal(dn_replay_state_open(state, SHARDS, &err), DN_OK);
    if (dn_replay_source(&options, state, ret, &err) != DN_OK)
        fail_msg("%s", err.message);
}

/* The canonical form, malloc'ed. */
static char *dump(struct dn_replay_state *state)
{
    struct dn_replay_dump_options how = {.idle_ms = options.settings.idle_ms};
    struct dn_error err = {0};
    char *text = NULL;
    size_t length = 0;
    uint64_t users;
    FILE *out = open_memstream(&text, &length);

    assert_non_null(out);
    assert_int_equal(dn_replay_dump(state, &how, out, &users, &err), DN_OK);
    fclose(out);
    return text;
}

static void same(const char *a, const char *b)
{
    size_t at = 0;

    while (a[at] != '\0' && a[at] == b[at])
        at++;
    if (a[at] != b[at])
        fail_msg("differ at %zu: %.120s\nand %.120s", at, a + (at > 60 ? at - 60 : 0),
                 b + (at > 60 ? at - 60 : 0));
}

struct live { /* shards as a cluster has them */
    struct dn_replay_state state;
    int64_t next_offset[PARTITIONS][SHARDS];
    int64_t judged_ms[PARTITIONS][SHARDS]; /* a plain model of the watermark */
    size_t at[PARTITIONS];
    int64_t now_ms;
    uint64_t index, accepted, late, beyond;
};

static struct dn_hash128 hash_of(const char *user)
{
    return dn_keyed_hash128(options.hash_key, user, strlen(user));
}

/* A batch of at most `most` messages of the partition, for each shard what is its own. */
static void live_batch(struct live *live, uint32_t p, size_t most, bool all)
{
    static struct dn_event_in events[SHARDS][BATCH_MAX];
    size_t counts[SHARDS] = {0}, from = live->at[p];
    struct dn_buffer record, answer;

    for (size_t i = 0; i < most && live->at[p] < partitions[p].count; i++, live->at[p]++) {
        const struct sent *sent = &partitions[p].sent[live->at[p]];
        if (!sent->is_event)
            continue;
        uint32_t shard = dn_shard_of_user(sent->user, strlen(sent->user), SHARDS) - 1;
        int64_t *judged_ms = &live->judged_ms[p][shard];
        if (sent->time_ms < *judged_ms) {
            live->late += all || sent->time_ms <= options.until_ms;
            if (!all)
                continue;
        } else if (sent->time_ms - options.settings.lateness_ms > *judged_ms) {
            *judged_ms = sent->time_ms - options.settings.lateness_ms;
        }
        if (sent->time_ms > options.until_ms) {
            live->beyond++;
            continue;
        }
        live->now_ms = sent->time_ms > live->now_ms ? sent->time_ms : live->now_ms;
        events[shard][counts[shard]++] = (struct dn_event_in){.user = hash_of(sent->user),
                                                              .time_ms = sent->time_ms,
                                                              .weight = DN_WEIGHT_ONE,
                                                              .type = sent->type,
                                                              .offset = 10 * (int64_t)live->at[p],
                                                              .item = sent->item,
                                                              .item_length = (uint16_t)strlen(sent->item)};
    }
    live->now_ms += (int64_t)test_random_below(&rng, 5000); /* it was written, and read a moment later */
    for (uint32_t shard = 0; shard < SHARDS && live->at[p] > from; shard++) {
        struct dn_result result;
        int64_t next_offset = 10 * (int64_t)live->at[p];
        dn_buffer_init(&record, 1 << 20);
        dn_buffer_init(&answer, 1 << 20);
        dn_record_stream(&record, "s/topic", p, live->next_offset[p][shard], next_offset, events[shard],
                         counts[shard], NULL, 0);
        dn_shard_apply(live->state.seats[shard].shard, ++live->index, 0, live->now_ms, record.bytes,
                       record.length, &answer);
        dn_shard_entry_done(live->state.seats[shard].shard, live->index, live->now_ms);
        assert_int_equal(dn_result_parse(answer.bytes, answer.length, DN_RECORD_STREAM, &result, NULL),
                         DN_OK);
        assert_int_equal(result.status, DN_RESULT_OK);
        for (uint32_t i = 0; i < result.count; i++)
            live->accepted += result.outcomes[i] == DN_OUTCOME_ACCEPTED;
        live->next_offset[p][shard] = next_offset;
        dn_buffer_free(&record);
        dn_buffer_free(&answer);
    }
}

static void live_settings(struct live *live)
{
    struct dn_buffer record, answer;

    dn_buffer_init(&record, 1 << 10);
    dn_buffer_init(&answer, 1 << 10);
    dn_record_settings(&record, &options.settings);
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        dn_shard_apply(live->state.seats[shard].shard, ++live->index, 0, BEGIN_MS, record.bytes,
                       record.length, &answer);
        dn_shard_entry_done(live->state.seats[shard].shard, live->index, BEGIN_MS);
    }
    dn_buffer_free(&record);
    dn_buffer_free(&answer);
}

/* Everything, partitions in turn at random. all: late events too, for the state machine to judge. */
static void live_run(struct live *live, bool all)
{
    struct dn_error err = {0};
    size_t left = 0;

    *live = (struct live){.now_ms = BEGIN_MS};
    assert_int_equal(dn_replay_state_open(&live->state, SHARDS, &err), DN_OK);
    for (uint32_t p = 0; p < partition_count; p++) {
        left += partitions[p].count;
        for (uint32_t shard = 0; shard < SHARDS; shard++) {
            live->next_offset[p][shard] = DN_OFFSET_UNSET;
            live->judged_ms[p][shard] = INT64_MIN;
        }
    }
    live_settings(live);
    while (left > 0) {
        uint32_t p = (uint32_t)test_random_below(&rng, partition_count);
        size_t from = live->at[p];
        live_batch(live, p, 1 + test_random_below(&rng, BATCH_MAX), all);
        left -= live->at[p] - from;
    }
}

/* ---- sessions ----------------------------------------------------------------------------------------- */

static void sessions_are_those_of_a_live_shard(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < 4; round++) {
        struct dn_replay_state state;
        struct dn_replay_source_result result;
        struct live live;

        begin(1 + round);
        options.batch_events = round == 1 ? 1 : round == 2 ? 7 : 0;
        /* Pauses within sessions, and between them. */
        send_random(round % 2 == 0 ? 10000 : 3 * MINUTE_MS);
        live_run(&live, true);
        replay(&state, &result);
        assert_int_equal(result.accepted, live.accepted);
        assert_int_equal(result.late, live.late);
        assert_true(result.late > 0 && result.accepted > 1000 && result.read.dead[DN_DEAD_UNDECODABLE] > 0);
        assert_int_equal(result.feeds, partition_count);
        char *replayed = dump(&state), *lived = dump(&live.state);
        assert_true(strlen(replayed) > 1000);
        same(replayed, lived);
        free(replayed);
        free(lived);
        dn_replay_state_close(&state);
        dn_replay_state_close(&live.state);
    }
}

static void an_end_in_the_middle_is_as_if_it_had_ended_there(void **unused)
{
    unsigned spared = 0;

    (void)unused;
    for (unsigned round = 0; round < 4; round++) {
        struct dn_replay_state state;
        struct dn_replay_source_result result;
        struct live live;

        begin(1 + round);
        send_random(10000);
        options.until_ms = BEGIN_MS + (int64_t)test_random_below(&rng, (size_t)(120 * MINUTE_MS));
        live_run(&live, false);
        replay(&state, &result);
        assert_int_equal(result.accepted, live.accepted);
        assert_true(result.beyond > 0 && result.last_ms <= options.until_ms);
        assert_true(result.beyond <= live.beyond && result.late <= live.late);
        spared += result.beyond < live.beyond;
        char *replayed = dump(&state), *lived = dump(&live.state);
        same(replayed, lived);
        free(replayed);
        free(lived);
        dn_replay_state_close(&state);
        dn_replay_state_close(&live.state);
    }
    assert_true(spared > 0); /* what cannot count any more is not read */
}

static void the_form_is_canonical(void **unused)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;
    char wanted[600], user[DN_USER_TEXT];

    (void)unused;
    begin(1);
    send_event(0, 1, DN_EVENT_VIEW, BEGIN_MS, -1); /* of a session before */
    for (unsigned i = 0; i < 4; i++)
        send_event(0, 1, DN_EVENT_VIEW, BEGIN_MS + DAY_MS + (i == 0 ? 9000 : 8000), -1);
    static const char *const events[] = {
        "\"item_id\":\"a\",\"type\":\"view\"", "\"item_id\":\"c\",\"type\":\"view\"",
        "\"item_id\":\"bb\",\"type\":\"buy\",\"weight\":2", "\"item_id\":\"b\",\"type\":\"buy\""};
    for (unsigned i = 0; i < 4; i++)
        snprintf(partitions[0].sent[1 + i].text, TEXT_MAX, "{\"user_id\":\"u1\",\"time_ms\":%lld,%s}",
                 (long long)(BEGIN_MS + DAY_MS + (i == 0 ? 9000 : 8000)), events[i]);
    replay(&state, &result);
    char *text = dump(&state);
    dn_replay_user_text(hash_of("u1"), user);
    snprintf(wanted, sizeof(wanted),
             "{\"user\":\"%s\",\"start_ms\":1700086408000,\"last_ms\":1700086409000,\"session_events\":4,"
             "\"counts\":{\"view\":2,\"buy\":2},\"events\":["
             "{\"time_ms\":1700086408000,\"type\":\"buy\",\"item\":\"b\",\"weight\":1.0},"
             "{\"time_ms\":1700086408000,\"type\":\"buy\",\"item\":\"bb\",\"weight\":2.0},"
             "{\"time_ms\":1700086408000,\"type\":\"view\",\"item\":\"c\",\"weight\":1.0},"
             "{\"time_ms\":1700086409000,\"type\":\"view\",\"item\":\"a\",\"weight\":1.0}]}\n",
             user);
    assert_string_equal(text, wanted);
    free(text);
    dn_replay_state_close(&state);
}

/* More dead letters than the queue of a shard holds, which nobody empties here. */
static void any_number_may_be_late(void **unused)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;

    (void)unused;
    begin(PARTITIONS);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < MESSAGES_MAX; i++)
            send_event(p, 1, 1, i == 0 ? BEGIN_MS : BEGIN_MS - 60 * MINUTE_MS, -1);
    assert_true(PARTITIONS * (MESSAGES_MAX - 1) > DN_DEAD_MAX);
    replay(&state, &result);
    assert_int_equal(result.accepted, PARTITIONS);
    assert_int_equal(result.late, PARTITIONS * (MESSAGES_MAX - 1));
    dn_replay_state_close(&state);
}

/* A user who was silent for idle_s is in no dump; the cluster has forgotten them, or soon will. */
static void who_was_silent_for_long_is_left_out(void **unused)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;

    (void)unused;
    begin(1);
    options.settings.idle_ms = 2 * DAY_MS;
    send_event(0, 1, 1, BEGIN_MS, -1);
    send_event(0, 2, 1, BEGIN_MS + DAY_MS, -1);
    send_event(0, 3, 1, BEGIN_MS + 2 * DAY_MS + 1, -1);
    replay(&state, &result);
    assert_int_equal(result.accepted, 3);
    char *text = dump(&state);
    char one[DN_USER_TEXT], two[DN_USER_TEXT];
    dn_replay_user_text(hash_of("u1"), one);
    dn_replay_user_text(hash_of("u2"), two);
    assert_null(strstr(text, one));
    assert_non_null(strstr(text, two));
    free(text);
    dn_replay_state_close(&state);
}

/* ---- time --------------------------------------------------------------------------------------------- */

static void count_only(struct dn_replay_source_result *ret)
{
    struct dn_replay_state state;

    replay(&state, ret);
    dn_replay_state_close(&state);
}

static void one_bad_clock_makes_nothing_late(void **unused)
{
    struct dn_replay_source_result result;

    (void)unused;
    begin(1);
    send_event(0, 1, 1, BEGIN_MS + 400 * DAY_MS, -1); /* the very first */
    for (int64_t i = 0; i < 20; i++) {
        send_event(0, 1, 1, BEGIN_MS + i * 1000, -1);
        if (i == 10)
            send_event(0, 2, 1, BEGIN_MS + 300 * DAY_MS, -1);
    }
    count_only(&result);
    assert_int_equal(result.accepted, 20);
    assert_int_equal(result.late, 0);
    assert_int_equal(result.ahead, 2);
    /* A pause of days is none. */
    begin(1);
    for (int64_t i = 0; i < 20; i++)
        send_event(0, 1, 1, BEGIN_MS + i * 3 * DAY_MS, -1);
    count_only(&result);
    assert_int_equal(result.accepted, 20);
    assert_int_equal(result.ahead, 0);
}

/* Where messages have a time of their own, that is the clock: of what is ahead, and of how far the watermark
 * goes. */
static void the_messages_time_is_the_clock(void **unused)
{
    struct dn_replay_source_result result;

    (void)unused;
    begin(1);
    send_event(0, 1, 1, BEGIN_MS, BEGIN_MS);
    send_event(0, 1, 1, BEGIN_MS + 3 * DAY_MS, BEGIN_MS + 1000); /* ahead: refused */
    send_event(0, 1, 1, BEGIN_MS + DAY_MS / 2, BEGIN_MS + 2000); /* accepted, but nothing is late for it */
    send_event(0, 1, 1, BEGIN_MS + 3000, BEGIN_MS + 3000);
    send_event(0, 1, 1, BEGIN_MS - 5 * MINUTE_MS + 2999, BEGIN_MS + 4000); /* late, by one ms */
    send_event(0, 1, 1, BEGIN_MS - 5 * MINUTE_MS + 3000, BEGIN_MS + 4000);
    for (options.batch_events = 1; options.batch_events < 8; options.batch_events++) {
        count_only(&result);
        assert_int_equal(result.accepted, 4);
        assert_int_equal(result.ahead, 1);
        assert_int_equal(result.late, 1);
    }
}

static void users_of_other_partitions_are_misrouted(void **unused)
{
    struct dn_replay_source_result result;
    uint64_t wanted = 0;

    (void)unused;
    begin(SHARDS);
    config.kind = DN_SOURCE_KAFKA;
    config.keyed = true;
    for (unsigned user = 0; user < 60; user++) {
        char text[16];
        snprintf(text, sizeof(text), "u%u", user);
        uint32_t shard = dn_shard_of_user(text, strlen(text), SHARDS);
        send_event(user % SHARDS, user, 1, BEGIN_MS + user, BEGIN_MS + user);
        wanted += shard == 1 + user % SHARDS;
    }
    count_only(&result);
    assert_int_equal(result.accepted, wanted);
    assert_int_equal(result.misrouted, 60 - wanted);
    /* A number of partitions that is no multiple of the shards is read as not keyed. */
    partition_count = SHARDS + 1;
    count_only(&result);
    assert_int_equal(result.accepted, 60);
}

static void what_cannot_be_read_is_told(void **unused)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;
    struct dn_error err = {0};

    (void)unused;
    begin(2);
    send_event(0, 1, 1, BEGIN_MS, -1);
    partitions[1].state = DN_PARTITION_GAP;
    assert_int_equal(dn_replay_state_open(&state, SHARDS, &err), DN_OK);
    assert_int_equal(dn_replay_source(&options, &state, &result, &err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "s/topic partition 1: as the test wants it"));
    dn_replay_state_close(&state);

    partitions[1].state = DN_PARTITION_CONNECTING;
    options.merge.patience_ms = 50;
    assert_int_equal(dn_replay_state_open(&state, SHARDS, &err), DN_OK);
    assert_int_equal(dn_replay_source(&options, &state, &result, &err), DN_DEADLINE);
    dn_replay_state_close(&state);

    trouble_text = "no such thing";
    assert_int_equal(dn_replay_state_open(&state, SHARDS, &err), DN_OK);
    assert_int_equal(dn_replay_source(&options, &state, &result, &err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "no such thing"));
    dn_replay_state_close(&state);
}

/* ---- features ----------------------------------------------------------------------------------------- */

/* All rows, as text that is malloc'ed. */
static char *features(bool csv, unsigned types, uint32_t last)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;
    struct dn_replay_watch watch = {0};
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    struct dn_features_options how = {.out = out,
                                      .csv = csv,
                                      .show_ids = true,
                                      .types = types,
                                      .last = last,
                                      .gap_ms = options.settings.gap_ms};
    struct dn_features *made = dn_features_create(&how);

    assert_true(out != NULL && made != NULL);
    dn_features_watch(made, &watch);
    options.watch = &watch;
    replay(&state, &result);
    options.watch = NULL;
    if (types == 0)
        assert_int_equal(dn_features_rows(made), result.accepted);
    dn_features_destroy(made);
    dn_replay_state_close(&state);
    fclose(out);
    return text;
}

static json_t *rows_of(const char *text)
{
    json_t *rows = json_array();

    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        json_t *row = json_loadb(line, (size_t)(strchr(line, '\n') - line), 0, NULL);
        assert_non_null(row);
        json_array_append_new(rows, row);
    }
    return rows;
}

static json_int_t number(const json_t *row, const char *name)
{
    return json_integer_value(json_object_get(row, name));
}

static int by_time(const void *a, const void *b)
{
    const json_t *x = *(const json_t *const *)a, *y = *(const json_t *const *)b;
    json_int_t p = number(x, "time_ms"), q = number(y, "time_ms");

    return p != q ? (p < q ? -1 : 1) : number(x, "row") < number(y, "row") ? -1 : 1;
}

/* The features of row `at`, from those before it alone. */
static void check_row(const json_t *rows, size_t at, uint32_t last)
{
    const json_t *row = json_array_get(rows, at);
    static const json_t *before[PARTITIONS * MESSAGES_MAX];
    size_t count = 0, first;

    for (size_t i = 0; i < at; i++) {
        const json_t *other = json_array_get(rows, i);
        if (json_equal(json_object_get(other, "user_id"), json_object_get(row, "user_id")) &&
            number(other, "time_ms") <= number(row, "time_ms"))
            before[count++] = other;
    }
    qsort(before, count, sizeof(before[0]), by_time);
    int64_t next_ms = number(row, "time_ms");
    for (first = count; first > 0 && next_ms - number(before[first - 1], "time_ms") <= 30 * MINUTE_MS;
         first--)
        next_ms = number(before[first - 1], "time_ms");
    assert_int_equal(number(row, "session_events"), count - first);
    if (count > first)
        assert_int_equal(number(row, "session_start_ms"), number(before[first], "time_ms"));
    else
        assert_true(json_is_null(json_object_get(row, "session_start_ms")));
    json_t *since = json_object_get(row, "seconds_since_last");
    if (count > 0)
        assert_int_equal((int64_t)(json_real_value(since) * 1000 + 0.5),
                         number(row, "time_ms") - number(before[count - 1], "time_ms"));
    else
        assert_true(json_is_null(since));
    for (int type = 1; type <= 8; type++) {
        json_int_t of_type = 0;
        for (size_t i = first; i < count; i++)
            of_type += strcmp(json_string_value(json_object_get(before[i], "type")), TYPES[type]) == 0;
        assert_int_equal(number(json_object_get(row, "counts"), TYPES[type]), of_type);
    }
    const json_t *items = json_object_get(row, "last_items");
    size_t listed = count - first < last ? count - first : last;
    assert_int_equal(json_array_size(items), listed);
    for (size_t i = 0; i < listed; i++)
        assert_string_equal(json_string_value(json_array_get(items, i)),
                            json_string_value(json_object_get(before[count - listed + i], "item")));
}

static void features_are_of_the_prefix_alone(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < 3; round++) {
        begin(1 + round);
        send_random(round == 0 ? 10000 : 2 * MINUTE_MS);
        char *text = features(false, 0, 5), *again = features(false, 0, 5);
        same(text, again); /* whatever pieces the driver gives */
        json_t *rows = rows_of(text);
        assert_true(json_array_size(rows) > 1000);
        for (size_t i = 0; i < json_array_size(rows); i++)
            json_object_set_new(json_array_get(rows, i), "row", json_integer((json_int_t)i));
        for (size_t i = 0; i < json_array_size(rows); i++)
            check_row(rows, i, 5);
        json_decref(rows);
        free(text);
        free(again);
    }
}

/* Nobody is forgotten on the way, however long they are silent. */
static void silence_is_a_feature(void **unused)
{
    (void)unused;
    unsigned other = 2; /* of the same shard, whose time goes on with them */
    char id[16] = "u2";
    while (dn_shard_of_user(id, strlen(id), SHARDS) != dn_shard_of_user("u1", 2, SHARDS))
        snprintf(id, sizeof(id), "u%u", ++other);
    begin(1);
    for (unsigned day = 0; day <= 100; day++)
        send_event(0, day % 100 == 0 ? 1 : other, 1, BEGIN_MS + day * DAY_MS, -1);
    char *text = features(false, 0, 1);
    json_t *rows = rows_of(text);
    assert_int_equal(json_array_size(rows), 101);
    const json_t *since = json_object_get(json_array_get(rows, 100), "seconds_since_last");
    assert_true(json_is_real(since) && json_real_value(since) == 100.0 * 86400);
    json_decref(rows);
    free(text);
}

/* Whatever partition they are in, and whoever is read faster. */
static void rows_are_in_the_order_of_time(void **unused)
{
    (void)unused;
    begin(PARTITIONS);
    for (unsigned i = 0; i < 2000; i++)
        send_event((uint32_t)test_random_below(&rng, PARTITIONS), 1 + i % 7, 1, BEGIN_MS + i, -1);
    char *text = features(false, 0, 1);
    json_t *rows = rows_of(text);
    assert_int_equal(json_array_size(rows), 2000);
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(number(json_array_get(rows, i), "time_ms"), BEGIN_MS + i);
    json_decref(rows);
    free(text);
}

static void rows_at_some_types_are_those_of_all(void **unused)
{
    (void)unused;
    begin(2);
    send_random(10000);
    char *all = features(false, 0, 3), *some = features(false, 1u << DN_EVENT_BUY | 1u << DN_EVENT_LIKE, 3);
    json_t *rows = rows_of(all), *chosen = rows_of(some);
    size_t at = 0;

    for (size_t i = 0; i < json_array_size(rows); i++) {
        const char *type = json_string_value(json_object_get(json_array_get(rows, i), "type"));
        if (strcmp(type, "buy") == 0 || strcmp(type, "like") == 0)
            assert_true(json_equal(json_array_get(rows, i), json_array_get(chosen, at++)));
    }
    assert_true(at > 0);
    assert_int_equal(json_array_size(chosen), at);
    json_decref(rows);
    json_decref(chosen);
    free(all);
    free(some);
}

static void csv_says_the_same(void **unused)
{
    (void)unused;
    begin(1);
    send_event(0, 1, DN_EVENT_VIEW, BEGIN_MS, -1);
    send_event(0, 1, DN_EVENT_BUY, BEGIN_MS + 1500, -1);
    memcpy(
        partitions[0].sent[0].text,
        "{\"user_id\":\"u1\",\"item_id\":\"a,\\\"b\",\"type\":\"view\","
        "\"time_ms\":1700000000000}",
        sizeof("{\"user_id\":\"u1\",\"item_id\":\"a,\\\"b\",\"type\":\"view\",\"time_ms\":1700000000000}"));
    memcpy(partitions[0].sent[1].text,
           "{\"user_id\":\"u1\",\"item_id\":\"c\",\"type\":\"buy\","
           "\"time_ms\":1700000001500,\"weight\":0.5}",
           sizeof("{\"user_id\":\"u1\",\"item_id\":\"c\",\"type\":\"buy\",\"time_ms\":1700000001500,"
                  "\"weight\":0.5}"));
    char *text = features(true, 0, 10);
    assert_string_equal(
        text, "stream,partition,offset,user_id,item,type,time_ms,weight,session_start_ms,session_events,"
              "count_view,count_click,count_cart,count_buy,count_like,count_dislike,count_play,count_remove,"
              "seconds_since_last,last_items\n"
              "s/topic,0,0,u1,\"a,\"\"b\",view,1700000000000,1.0,,0,0,0,0,0,0,0,0,0,,[]\n"
              "s/topic,0,10,u1,c,buy,1700000001500,0.5,1700000000000,1,1,0,0,0,0,0,0,0,1.5,"
              "\"[\"\"a,\\\"\"b\"\"]\"\n");
    free(text);
}

static void ids_are_found_again(void **unused)
{
    struct dn_replay_ids *ids = dn_replay_ids_create();
    char id[16];

    (void)unused;
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < 5000; i++) {
            int length = snprintf(id, sizeof(id), "u%u", i);
            assert_true(dn_replay_ids_add(ids, hash_of(id), id, (size_t)length));
        }
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(id, sizeof(id), "u%u", i);
        assert_string_equal(dn_replay_ids_find(ids, hash_of(id)), id);
    }
    assert_null(dn_replay_ids_find(ids, hash_of("nobody")));
    dn_replay_ids_destroy(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_are_those_of_a_live_shard),
        cmocka_unit_test(an_end_in_the_middle_is_as_if_it_had_ended_there),
        cmocka_unit_test(the_form_is_canonical),
        cmocka_unit_test(any_number_may_be_late),
        cmocka_unit_test(who_was_silent_for_long_is_left_out),
        cmocka_unit_test(one_bad_clock_makes_nothing_late),
        cmocka_unit_test(the_messages_time_is_the_clock),
        cmocka_unit_test(users_of_other_partitions_are_misrouted),
        cmocka_unit_test(what_cannot_be_read_is_told),
        cmocka_unit_test(features_are_of_the_prefix_alone),
        cmocka_unit_test(silence_is_a_feature),
        cmocka_unit_test(rows_are_in_the_order_of_time),
        cmocka_unit_test(rows_at_some_types_are_those_of_all),
        cmocka_unit_test(csv_says_the_same),
        cmocka_unit_test(ids_are_found_again),
    };
    return cmocka_run_group_tests(tests, open_partitions, close_partitions);
}
