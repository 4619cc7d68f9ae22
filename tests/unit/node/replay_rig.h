/* For the tests of `dunlin replay source`: a driver whose messages the test sends, in pieces of random size,
 * and what to replay them with. */
#ifndef DN_TEST_NODE_REPLAY_RIG_H
#define DN_TEST_NODE_REPLAY_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/replay_source.h"
#include "tests/unit/base/random.h"

#include <stdlib.h>
#include <string.h>

enum {
    SHARDS = 3,
    PARTITIONS = 4,
    MESSAGES_MAX = 12000, /* of a partition */
    USERS = 40,
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

static inline enum dn_code fake_open(const struct dn_source_config *config, const struct dn_source_host *host,
                                     void **ret_self, struct dn_error *err)
{
    (void)config;
    (void)host;
    (void)err;
    *ret_self = partitions;
    return DN_OK;
}

static inline void fake_close(void *self)
{
    (void)self;
    for (uint32_t p = 0; p < partition_count; p++)
        assert_false(partitions[p].started || partitions[p].held);
}

static inline size_t fake_streams(void *self, struct dn_stream_info *ret, size_t max)
{
    (void)self;
    assert_true(max > 0);
    ret[0] = (struct dn_stream_info){.stream = "s/topic", .partition_count = partition_count};
    return 1;
}

static inline int64_t fake_trouble(void *self, char ret_text[DN_SOURCE_TEXT_MAX])
{
    (void)self;
    snprintf(ret_text, DN_SOURCE_TEXT_MAX, "%s", trouble_text);
    return trouble_text[0] != '\0';
}

static inline enum dn_code fake_start(void *self, size_t stream, uint32_t partition, int64_t offset,
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

static inline void fake_stop(void *self, size_t stream, uint32_t partition)
{
    (void)self;
    (void)stream;
    assert_false(partitions[partition].held);
    partitions[partition].started = false;
}

static inline size_t fake_read(void *self, size_t stream, uint32_t number, struct dn_message *ret, size_t max)
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

static inline void fake_release(void *self, size_t stream, uint32_t partition)
{
    (void)self;
    (void)stream;
    assert_true(partitions[partition].held);
    partitions[partition].held = false;
}

static inline void fake_status(void *self, size_t stream, uint32_t partition, struct dn_partition_status *ret)
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

static inline const struct dn_source_driver *the_fake(enum dn_source_kind kind)
{
    (void)kind;
    return &fake;
}

/* ---- what is sent ------------------------------------------------------------------------------------- */

static const char *const TYPES[] = {"", "view", "click", "cart", "buy", "like", "dislike", "play", "remove"};

static inline struct sent *send_one(uint32_t partition)
{
    struct partition *to = &partitions[partition];

    assert_true(to->count < MESSAGES_MAX);
    struct sent *sent = &to->sent[to->count++];
    *sent = (struct sent){.message_ms = -1};
    return sent;
}

static inline void send_event(uint32_t partition, unsigned user, uint8_t type, int64_t time_ms,
                              int64_t message_ms)
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

static inline void send_random(int64_t step_ms)
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

static inline void begin(uint32_t count)
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

static inline int open_partitions(void **state)
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

static inline int close_partitions(void **state)
{
    (void)state;
    for (uint32_t p = 0; p < PARTITIONS; p++)
        free(partitions[p].sent);
    return 0;
}

/* ---- replaying ---------------------------------------------------------------------------------------- */

static inline void replay(struct dn_replay_state *state, struct dn_replay_source_result *ret)
{
    struct dn_error err = {0};

    assert_int_equal(dn_replay_state_open(state, SHARDS, &err), DN_OK);
    if (dn_replay_source(&options, state, ret, &err) != DN_OK)
        fail_msg("%s", err.message);
}

static inline void same(const char *a, const char *b)
{
    size_t at = 0;

    while (a[at] != '\0' && a[at] == b[at])
        at++;
    if (a[at] != b[at])
        fail_msg("differ at %zu: %.120s\nand %.120s", at, a + (at > 60 ? at - 60 : 0),
                 b + (at > 60 ? at - 60 : 0));
}

static inline struct dn_hash128 hash_of(const char *user)
{
    return dn_keyed_hash128(options.hash_key, user, strlen(user));
}

#endif
