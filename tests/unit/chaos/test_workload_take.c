/* What clients take from answers that say OK: what cannot be such an answer is marked, and proves nothing. */
#include "chaos/workload_take.h"

#include "dunlin/v1/dunlin.pb-c.h"
#include "tests/unit/base/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

static uint8_t token[4] = {1, 2, 3, 4};
static const ProtobufCBinaryData some_token = {sizeof token, token}, no_token;

static struct workload_answer packed(const ProtobufCMessage *message)
{
    struct workload_answer answer = {.length = protobuf_c_message_get_packed_size(message)};
    answer.bytes = malloc(answer.length + 1);
    assert_non_null(answer.bytes);
    protobuf_c_message_pack(message, answer.bytes);
    return answer;
}

/* Whether what was made of it is as said; frees it. */
static void expect(struct workload_answer *answer, enum chaos_type type, enum chaos_type wanted,
                   bool malformed)
{
    assert_int_equal(type, wanted);
    assert_int_equal(answer->malformed, malformed);
    assert_int_equal(answer->message[0] != 0, malformed);
    workload_answer_free(answer);
}

static void publish(Dunlin__V1__EventOutcome *outcomes, size_t count, uint32_t accepted,
                    ProtobufCBinaryData with, enum chaos_type wanted)
{
    struct chaos_event events[2] = {{.id = 1}, {.id = 2}};
    Dunlin__V1__PublishResponse response = DUNLIN__V1__PUBLISH_RESPONSE__INIT;
    response.n_outcomes = count;
    response.outcomes = outcomes;
    response.accepted = accepted;
    response.token = with;
    struct workload_answer answer = packed(&response.base);
    enum chaos_type type = workload_take_outcomes(&answer, events, 2, NULL);
    expect(&answer, type, wanted, wanted != CHAOS_OK);
}

static void publishes(void **state)
{
    (void)state;
    Dunlin__V1__EventOutcome fine[] = {DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED,
                                       DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_DUPLICATE};
    Dunlin__V1__EventOutcome late[] = {DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_LATE,
                                       DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_LATE};
    Dunlin__V1__EventOutcome none[] = {DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_LATE,
                                       (Dunlin__V1__EventOutcome)77};
    publish(fine, 2, 1, some_token, CHAOS_OK);
    publish(late, 2, 0, no_token, CHAOS_OK);
    publish(fine, 1, 1, some_token, CHAOS_INFO);
    publish(fine, 2, 2, some_token, CHAOS_INFO);
    publish(fine, 2, 1, no_token, CHAOS_INFO);
    publish(none, 2, 0, some_token, CHAOS_INFO);
}

static void session(bool found, uint32_t shard, Dunlin__V1__EventType kind, ProtobufCBinaryData with,
                    enum chaos_type wanted)
{
    Dunlin__V1__GetSessionResponse response = DUNLIN__V1__GET_SESSION_RESPONSE__INIT;
    Dunlin__V1__Freshness freshness = DUNLIN__V1__FRESHNESS__INIT;
    Dunlin__V1__SessionEvent event = DUNLIN__V1__SESSION_EVENT__INIT, *events = &event;
    char item[] = "i-5";
    struct chaos_op op = {.f = CHAOS_READ};
    uint32_t told = 0;
    event.item_id = item;
    event.type = kind;
    freshness.shard = shard;
    response.found = found;
    response.n_events = 1;
    response.events = &events;
    response.token = with;
    response.freshness = shard == UINT32_MAX ? NULL : &freshness;
    struct workload_answer answer = packed(&response.base);
    enum chaos_type type = workload_take_session(&answer, &op, NULL, NULL, &told);
    expect(&answer, type, wanted, wanted != CHAOS_OK);
    assert_int_equal(op.events_count, wanted == CHAOS_OK);
    free(op.events);
}

static void sessions(void **state)
{
    const Dunlin__V1__EventType click = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK;
    (void)state;
    session(true, 1, click, some_token, CHAOS_OK);
    session(false, 1, click, some_token, CHAOS_FAIL);
    session(true, 0, click, some_token, CHAOS_FAIL);
    session(true, UINT32_MAX, click, some_token, CHAOS_FAIL);
    session(true, 1, (Dunlin__V1__EventType)(click + 1), some_token, CHAOS_FAIL);
    session(true, 1, click, no_token, CHAOS_FAIL);
    uint8_t bytes[] = {0xff, 0xff, 0xff};
    struct chaos_op op = {.f = CHAOS_READ};
    uint32_t shard;
    struct workload_answer answer = {.bytes = bytes, .length = sizeof bytes};
    assert_int_equal(workload_take_session(&answer, &op, NULL, NULL, &shard), CHAOS_FAIL);
    assert_true(answer.malformed);
}

static void writes(void **state)
{
    (void)state;
    for (uint32_t count = 0; count <= 2; count++) {
        Dunlin__V1__UpsertItemsResponse upserted = DUNLIN__V1__UPSERT_ITEMS_RESPONSE__INIT;
        Dunlin__V1__DeleteItemsResponse deleted = DUNLIN__V1__DELETE_ITEMS_RESPONSE__INIT;
        upserted.upserted = deleted.deleted = count;
        upserted.token = deleted.token = some_token;
        struct workload_answer answer = packed(&upserted.base);
        enum chaos_type type = workload_take_upserted(&answer, 1, NULL);
        expect(&answer, type, count == 1 ? CHAOS_OK : CHAOS_INFO, count != 1);
        answer = packed(&deleted.base);
        type = workload_take_deleted(&answer);
        expect(&answer, type, count <= 1 ? CHAOS_OK : CHAOS_INFO, count > 1);
    }
    Dunlin__V1__DeleteSessionResponse erased = DUNLIN__V1__DELETE_SESSION_RESPONSE__INIT;
    struct workload_answer answer = packed(&erased.base);
    enum chaos_type type = workload_take_erased(&answer);
    expect(&answer, type, CHAOS_INFO, true);
    erased.token = some_token;
    answer = packed(&erased.base);
    type = workload_take_erased(&answer);
    expect(&answer, type, CHAOS_OK, false);
}

static void items(void **state)
{
    Dunlin__V1__Freshness freshness = DUNLIN__V1__FRESHNESS__INIT;
    Dunlin__V1__RecommendedItem one = DUNLIN__V1__RECOMMENDED_ITEM__INIT, two = one, *both[] = {&one, &two};
    char c5[] = "c-5", c6[] = "c-6";
    uint64_t near[WORKLOAD_NEAR];
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        Dunlin__V1__ItemsResponse response = DUNLIN__V1__ITEMS_RESPONSE__INIT;
        struct chaos_op op = {.f = CHAOS_SIMILAR, .key = 5};
        one.id = c5;
        two.id = twice ? c5 : c6;
        response.n_items = 2;
        response.items = both;
        response.freshness = &freshness;
        struct workload_answer answer = packed(&response.base);
        enum chaos_type type = workload_take_near(&answer, &op, near);
        expect(&answer, type, twice ? CHAOS_FAIL : CHAOS_OK, twice);
    }
    for (uint64_t version = 0; version < 2; version++) {
        Dunlin__V1__GetItemResponse response = DUNLIN__V1__GET_ITEM_RESPONSE__INIT;
        Dunlin__V1__Item item = DUNLIN__V1__ITEM__INIT;
        struct chaos_op op = {.f = CHAOS_GET, .key = 5};
        item.id = c5;
        response.item = &item;
        response.version = version;
        response.freshness = &freshness;
        struct workload_answer answer = packed(&response.base);
        enum chaos_type type = workload_take_item(&answer, &op);
        expect(&answer, type, version ? CHAOS_OK : CHAOS_FAIL, version == 0);
    }
}

static void offsets(uint32_t shard, bool known, int64_t next, enum chaos_type wanted, size_t rows_wanted)
{
    static struct chaos_row rows[CHAOS_LIST_MAX];
    char ours[] = "chaos/clicks", other[] = "chaos2/clicks";
    size_t count = 77;
    Dunlin__V1__ListSourcesResponse response = DUNLIN__V1__LIST_SOURCES_RESPONSE__INIT;
    Dunlin__V1__SourcePartition one = DUNLIN__V1__SOURCE_PARTITION__INIT, two = one, *both[] = {&one, &two};
    one.stream = ours;
    one.partition = 3;
    one.shard = shard;
    one.known = known;
    one.next_offset = next;
    one.events = 5;
    two.stream = other; /* another source's is left out */
    two.shard = 1;
    two.known = true;
    response.n_partitions = 2;
    response.partitions = both;
    struct workload_answer answer = packed(&response.base);
    enum chaos_type type = workload_take_offsets(&answer, "chaos", rows, &count);
    expect(&answer, type, wanted, wanted != CHAOS_OK);
    if (wanted == CHAOS_OK) {
        assert_int_equal(count, rows_wanted);
    }
    if (wanted == CHAOS_OK && count == 1) {
        assert_int_equal(rows[0].of[CHAOS_ROW_PARTITION], 3);
        assert_int_equal(rows[0].of[CHAOS_ROW_SHARD], shard);
        assert_int_equal(rows[0].of[CHAOS_ROW_NEXT_OFFSET], next);
        assert_int_equal(rows[0].of[CHAOS_ROW_EVENTS], 5);
    }
}

static void streams(void **state)
{
    (void)state;
    offsets(2, true, 40, CHAOS_OK, 1);
    offsets(2, false, -1, CHAOS_OK, 0);
    offsets(2, true, -1, CHAOS_FAIL, 0);
    offsets(0, true, 40, CHAOS_FAIL, 0);
    offsets(CHAOS_GROUPS_MAX, true, 40, CHAOS_FAIL, 0);
}

static void dead_letters(void **state)
{
    static struct chaos_row rows[CHAOS_LIST_MAX];
    char undecodable[] = "undecodable", late[] = "late", limit[] = "limit";
    size_t count = 0;
    Dunlin__V1__ListDeadLettersResponse response = DUNLIN__V1__LIST_DEAD_LETTERS_RESPONSE__INIT;
    Dunlin__V1__DeadLetterShard shard = DUNLIN__V1__DEAD_LETTER_SHARD__INIT, *shards[] = {&shard};
    Dunlin__V1__DeadLetterCount one = DUNLIN__V1__DEAD_LETTER_COUNT__INIT, two = one, three = one,
                                *counts[] = {&one, &two, &three};
    (void)state;
    one.reason = undecodable;
    one.count = 7;
    two.reason = late;
    two.count = 2;
    three.reason = limit;
    three.count = 3;
    shard.shard = 4;
    shard.waiting = 6;
    shard.n_counts = 3;
    shard.counts = counts;
    response.n_shards = 1;
    response.shards = shards;
    struct workload_answer answer = packed(&response.base);
    enum chaos_type type = workload_take_dead_letters(&answer, rows, &count);
    expect(&answer, type, CHAOS_OK, false);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].of[CHAOS_ROW_DEAD_SHARD], 4);
    assert_int_equal(rows[0].of[CHAOS_ROW_UNDECODABLE], 7);
    assert_int_equal(rows[0].of[CHAOS_ROW_REFUSED], 5);
    assert_int_equal(rows[0].of[CHAOS_ROW_WAITING], 6);
    uint8_t nonsense[] = {0xff, 0xff, 0xff};
    answer = (struct workload_answer){.length = sizeof nonsense, .bytes = malloc(sizeof nonsense)};
    assert_non_null(answer.bytes);
    memcpy(answer.bytes, nonsense, sizeof nonsense);
    type = workload_take_dead_letters(&answer, rows, &count);
    expect(&answer, type, CHAOS_FAIL, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(publishes), cmocka_unit_test(sessions), cmocka_unit_test(writes),
        cmocka_unit_test(items),     cmocka_unit_test(streams),  cmocka_unit_test(dead_letters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
