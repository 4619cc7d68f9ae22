/* The services against a played consensus: shards that fail one by one, waits that end late, full queues,
 * ages. */
#include "played.h"

#include "session/record.h"

static void complete(struct dn_proposal *proposal, enum dn_code code, uint64_t index, const void *result,
                     size_t length)
{
    struct dn_error err = {.code = code, .message = "as played"};
    proposal->done(proposal, code, index, result, length, code == DN_OK ? NULL : &err);
}

static struct dn_proposal *proposal_of(uint32_t group)
{
    for (size_t i = 0; i < played.proposal_count; i++)
        if (played.proposals[i]->group == group)
            return played.proposals[i];
    fail_msg("nothing was proposed to group %u", group);
    return NULL;
}

/* Four events: user of group 1, of group 2, of group 2, of group 1. */
static void publish_begin(void)
{
    static Dunlin__V1__Event events[4];
    Dunlin__V1__Event *pointers[4];
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    for (size_t i = 0; i < 4; i++) {
        dunlin__v1__event__init(&events[i]);
        events[i].user_id = users[i == 1 || i == 2];
        events[i].item_id = (char *)(uintptr_t) "item";
        pointers[i] = &events[i];
    }
    request.n_events = 4;
    request.events = pointers;
    begin("/dunlin.v1.Events/Publish", &request);
}

/* status 0, next_offset 0, count 2, outcomes */
static const uint8_t accepted_late[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2};
static const uint8_t full_accepted[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0};

static Dunlin__V1__PublishResponse *publish_end(void)
{
    return (Dunlin__V1__PublishResponse *)end(&dunlin__v1__publish_response__descriptor);
}

static void assert_outcomes(const Dunlin__V1__PublishResponse *response, int a, int b, int c, int d)
{
    const int wanted[] = {a, b, c, d};
    assert_non_null(response);
    assert_int_equal(response->n_outcomes, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(response->outcomes[i], wanted[i]);
}

static struct dn_token token_of(const ProtobufCBinaryData *bytes)
{
    struct dn_token token;
    uint8_t key[DN_HASH_KEY_BYTES];
    dn_token_key(hash_key, key);
    assert_int_equal(dn_token_decode(bytes->data, bytes->len, key, SHARDS + 1, &token, NULL), DN_OK);
    return token;
}

/* ---- writes
 * -------------------------------------------------------------------------------------------------------- */

static void test_all_answer(void **state)
{
    (void)state;
    publish_begin();
    await(&played.proposal_count, 2);
    assert_true(proposal_of(1)->deadline_us > dn_monotonic_us());
    complete(proposal_of(2), DN_OK, 70, full_accepted, sizeof full_accepted);
    complete(proposal_of(1), DN_OK, 50, accepted_late, sizeof accepted_late);
    Dunlin__V1__PublishResponse *response = publish_end();
    assert_outcomes(response, 0, 3, 0, 2);
    assert_int_equal(response->accepted, 2);
    assert_string_equal(response->message, "");
    struct dn_token token = token_of(&response->token);
    assert_int_equal(token.count, 2);
    assert_int_equal(dn_token_index(&token, 1), 50);
    assert_int_equal(dn_token_index(&token, 2), 70);
    dunlin__v1__publish_response__free_unpacked(response, NULL);
}

static void test_one_shard_fails(void **state)
{
    (void)state;
    publish_begin();
    await(&played.proposal_count, 2);
    complete(proposal_of(1), DN_DEADLINE, 0, NULL, 0);
    complete(proposal_of(2), DN_OK, 70, full_accepted, sizeof full_accepted);
    Dunlin__V1__PublishResponse *response = publish_end();
    assert_outcomes(response, 8, 3, 0, 8);
    assert_int_equal(response->accepted, 1);
    assert_string_equal(response->message, "shard 1: as played");
    struct dn_token token = token_of(&response->token);
    assert_int_equal(token.count, 1);
    assert_int_equal(dn_token_index(&token, 2), 70);
    dunlin__v1__publish_response__free_unpacked(response, NULL);
}

static void test_every_shard_fails(void **state)
{
    (void)state;
    static const struct {
        enum dn_code code;
        int status;
    } cases[] = {
        {DN_UNAVAILABLE, 14}, {DN_NOT_LEADER, 14}, {DN_DEADLINE, 4}, {DN_EXHAUSTED, 8}, {DN_NO_SPACE, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        reset(NULL);
        publish_begin();
        await(&played.proposal_count, 2);
        complete(proposal_of(2), cases[i].code, 0, NULL, 0);
        complete(proposal_of(1), cases[i].code, 0, NULL, 0);
        ends_refused(cases[i].status, "shard 1: as played (publish again with the same event ids)");
        assert_true(cases[i].code == DN_EXHAUSTED ? h2_pushed_back(&answer) : answer.pushback_ms == -1);
    }
}

/* RESOURCE_EXHAUSTED says that nothing was done: not where one part of it may be. */
static void test_a_doubt_outweighs_a_refusal(void **state)
{
    (void)state;
    for (uint32_t doubtful = 1; doubtful <= 2; doubtful++) {
        reset(NULL);
        publish_begin();
        await(&played.proposal_count, 2);
        complete(proposal_of(doubtful), DN_UNAVAILABLE, 0, NULL, 0);
        complete(proposal_of(3 - doubtful), DN_EXHAUSTED, 0, NULL, 0);
        ends_refused(14, doubtful == 1 ? "shard 1: as played" : "shard 2: as played");
        assert_int_equal(answer.pushback_ms, -1);
    }
}

static void test_queue_full(void **state)
{
    (void)state;
    atomic_store(&full_groups, 1u << 1);
    publish_begin();
    await(&played.proposal_count, 1);
    complete(proposal_of(2), DN_OK, 70, full_accepted, sizeof full_accepted);
    Dunlin__V1__PublishResponse *response = publish_end();
    assert_outcomes(response, 8, 3, 0, 8);
    assert_int_equal(answer.pushback_ms, -1); /* a part was done */
    assert_non_null(strstr(response->message, "queue"));
    dunlin__v1__publish_response__free_unpacked(response, NULL);
    atomic_store(&full_groups, 7);
    publish_begin();
    ends_refused(8, "queue");
    assert_true(h2_pushed_back(&answer));
}

/* An answer that is not understood counts for nothing: cut, of another length, a refusal of the whole. */
static void test_strange_results(void **state)
{
    (void)state;
    static const uint8_t three[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0};
    static const uint8_t refusal[] = {2};
    publish_begin();
    await(&played.proposal_count, 2);
    complete(proposal_of(1), DN_OK, 50, three, sizeof three);
    complete(proposal_of(2), DN_OK, 70, refusal, sizeof refusal);
    Dunlin__V1__PublishResponse *response = publish_end();
    assert_outcomes(response, 7, 7, 7, 7);
    dunlin__v1__publish_response__free_unpacked(response, NULL);
}

/* Both shards hold partition 7 of "s". */
static void set_source_begin(void)
{
    static bool known;
    for (size_t i = 0; i < SHARDS && !known; i++) {
        struct dn_buffer record, result;
        dn_buffer_init(&record, 4096);
        dn_buffer_init(&result, 4096);
        dn_record_stream(&record, "s", 7, DN_OFFSET_UNSET, 4, NULL, 0, NULL, 0);
        dn_shard_apply(shards[i], 1, 0, 1700000000000, record.bytes, record.length, &result);
        dn_shard_entry_done(shards[i], 1, 1700000000000);
        dn_buffer_free(&record);
        dn_buffer_free(&result);
    }
    known = true;
    Dunlin__V1__SetSourceRequest request = DUNLIN__V1__SET_SOURCE_REQUEST__INIT;
    request.stream = (char *)(uintptr_t) "s";
    request.partition = 7;
    request.next_offset = 99;
    begin("/dunlin.v1.Sources/Set", &request);
}

static void test_a_source_is_set_where_it_can_be(void **state)
{
    (void)state;
    static const uint8_t was_four[] = {0, 4, 0, 0, 0, 0, 0, 0, 0}, refusal[] = {2}, full[] = {3};
    set_source_begin();
    await(&played.proposal_count, 2);
    assert_true(proposal_of(2)->deadline_us > dn_monotonic_us());
    complete(proposal_of(2), DN_OK, 70, was_four, sizeof was_four);
    complete(proposal_of(1), DN_DEADLINE, 0, NULL, 0);
    Dunlin__V1__SetSourceResponse *response = end(&dunlin__v1__set_source_response__descriptor);
    assert_non_null(response);
    assert_int_equal(response->n_moves, 2);
    assert_false(response->moves[0]->done);
    assert_int_equal(response->moves[0]->shard, 1);
    assert_string_equal(response->moves[0]->message, "as played");
    assert_true(response->moves[1]->done);
    assert_int_equal(response->moves[1]->old_offset, 4);
    assert_int_equal(response->moves[1]->new_offset, 99);
    struct dn_token token = token_of(&response->token);
    assert_int_equal(token.count, 1);
    assert_int_equal(dn_token_index(&token, 2), 70);
    dunlin__v1__set_source_response__free_unpacked(response, NULL);

    reset(NULL); /* shards that refuse, and one whose queue is full */
    set_source_begin();
    await(&played.proposal_count, 2);
    complete(proposal_of(1), DN_OK, 60, refusal, sizeof refusal);
    complete(proposal_of(2), DN_OK, 70, full, sizeof full);
    response = end(&dunlin__v1__set_source_response__descriptor);
    assert_non_null(response);
    assert_false(response->moves[0]->done || response->moves[1]->done);
    assert_non_null(strstr(response->moves[0]->message, "refuses it"));
    assert_non_null(strstr(response->moves[1]->message, "as many streams as it may"));
    dunlin__v1__set_source_response__free_unpacked(response, NULL);

    reset(NULL);
    atomic_store(&full_groups, 2);
    set_source_begin();
    await(&played.proposal_count, 1);
    complete(proposal_of(2), DN_UNAVAILABLE, 0, NULL, 0);
    ends_refused(8, "look at Sources.List");
}

static void upsert_ends(const void *result, size_t length, int status, const char *text)
{
    static float vector[] = {1, 2};
    Dunlin__V1__Item items[2], *pointers[] = {&items[0], &items[1]};
    Dunlin__V1__UpsertItemsRequest request = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    for (size_t i = 0; i < 2; i++) {
        dunlin__v1__item__init(&items[i]);
        items[i].id = (char *)(uintptr_t)(i ? "b" : "a");
        items[i].vector = vector;
        items[i].n_vector = 2;
    }
    request.n_items = 2;
    request.items = pointers;
    reset(NULL);
    begin("/dunlin.v1.Catalog/Upsert", &request);
    await(&played.proposal_count, 1);
    complete(proposal_of(0), DN_OK, 5, result, length);
    ends_refused(status, text);
}

static void test_upsert_outcomes(void **state)
{
    (void)state;
    upsert_ends("\0\2\0\0\0\0\1", 7, 9,
                "items[1].vector: the catalogue's vectors have another dimension; 1 of 2");
    upsert_ends("\0\2\0\0\0\2\0", 7, 8, "items[0]: the catalogue is full; 1 of 2");
    upsert_ends("\0\2\0\0\0\4\4", 7, 3, "items[0]: refused");
    upsert_ends("\2", 1, 13, "did not understand");
    upsert_ends("\0\2\0\0\0\0", 6, 13, "did not understand");
}

/* ---- reads
 * ------------------------------------------------------------------------------------------------------------
 */

static uint8_t token_bytes[DN_TOKEN_BYTES_MAX];

static void get_begin(Dunlin__V1__ReadLevel level, uint64_t token_index, uint64_t max_staleness_ms)
{
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    struct dn_token token = {.count = 0};
    uint8_t key[DN_HASH_KEY_BYTES];
    dn_token_key(hash_key, key);
    dn_token_raise(&token, 1, token_index);
    dn_token_raise(&token, 2, 1000000); /* another shard's: must not matter */
    read.level = level;
    read.max_staleness_ms = max_staleness_ms;
    if (token_index > 0)
        read.token =
            (ProtobufCBinaryData){.len = dn_token_encode(&token, key, token_bytes), .data = token_bytes};
    request.user_id = users[0];
    request.read = &read;
    begin("/dunlin.v1.Sessions/Get", &request);
}

static Dunlin__V1__GetSessionResponse *get_end(void)
{
    return (Dunlin__V1__GetSessionResponse *)end(&dunlin__v1__get_session_response__descriptor);
}

static void wait_complete(enum dn_code code)
{
    struct dn_error err = {.code = code, .message = "as played"};
    played.waits[0]->done(played.waits[0], code, 12, code == DN_OK ? NULL : &err);
}

static void test_session_read_waits(void **state)
{
    (void)state;
    get_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION, 10, 0); /* applied: no wait */
    Dunlin__V1__GetSessionResponse *response = get_end();
    assert_non_null(response);
    assert_int_equal(played.wait_count, 0);
    dunlin__v1__get_session_response__free_unpacked(response, NULL);

    get_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION, 12, 0);
    await(&played.wait_count, 1);
    assert_int_equal(played.waits[0]->group, 1);
    assert_int_equal(played.waits[0]->kind, DN_WAIT_APPLIED);
    assert_int_equal(played.waits[0]->index, 12);
    h2_turn(&h2, 20);
    assert_false(answer.closed);
    atomic_store(&applied[1], 12);
    wait_complete(DN_OK);
    response = get_end();
    assert_non_null(response);
    assert_int_equal(response->freshness->applied_index, 12);
    struct dn_token token = token_of(&response->token);
    assert_int_equal(dn_token_index(&token, 1), 12);
    assert_int_equal(dn_token_index(&token, 2), 1000000); /* what the client had seen is not forgotten */
    dunlin__v1__get_session_response__free_unpacked(response, NULL);

    static const struct {
        enum dn_code code;
        int status;
    } cases[] = {{DN_RANGE, 11}, {DN_DEADLINE, 4}, {DN_UNAVAILABLE, 14}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        reset(NULL);
        get_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION, 12, 0);
        await(&played.wait_count, 1);
        wait_complete(cases[i].code);
        ends_refused(cases[i].status, "as new as asked for: as played");
    }
    atomic_store(&full_groups, 2);
    get_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION, 12, 0);
    ends_refused(8, "queue");
}

static void test_linearizable_read(void **state)
{
    (void)state;
    get_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE, 0, 0);
    await(&played.wait_count, 1);
    assert_int_equal(played.waits[0]->group, 1);
    assert_int_equal(played.waits[0]->kind, DN_WAIT_BARRIER);
    wait_complete(DN_OK);
    Dunlin__V1__GetSessionResponse *response = get_end();
    assert_non_null(response);
    dunlin__v1__get_session_response__free_unpacked(response, NULL);
}

static void test_ages(void **state)
{
    (void)state;
    static const struct {
        uint64_t age_us, max_ms;
        bool refused, stale;
    } cases[] = {
        {100000, 0, false, false},        {100000, 100, false, false}, {100001, 100, true, false},
        {400000, 0, false, false},        {500001, 0, false, true},    {UINT64_MAX, 0, false, true},
        {UINT64_MAX, 60000, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        atomic_store(&age_us[1], cases[i].age_us);
        get_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_LOCAL, 0, cases[i].max_ms);
        if (cases[i].refused) {
            ends_refused(14, "shard 1");
            continue;
        }
        Dunlin__V1__GetSessionResponse *response = get_end();
        assert_non_null(response);
        assert_int_equal(response->freshness->stale, cases[i].stale);
        assert_int_equal(response->freshness->age_known, cases[i].age_us != UINT64_MAX);
        assert_string_equal(response->freshness->node, "played");
        dunlin__v1__get_session_response__free_unpacked(response, NULL);
    }
}

/* ---- reads of two groups
 * ------------------------------------------------------------------------------------------------------------
 */

static void recommend_begin(Dunlin__V1__ReadLevel level)
{
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    read.level = level;
    request.user_id = users[0];
    request.k = 3;
    request.read = &read;
    begin("/dunlin.v1.Recommendations/Recommend", &request);
}

static Dunlin__V1__RecommendResponse *recommend_end(void)
{
    Dunlin__V1__RecommendResponse *response =
        (Dunlin__V1__RecommendResponse *)end(&dunlin__v1__recommend_response__descriptor);
    assert_non_null(response);
    return response;
}

/* As of now means the catalogue too: an item deleted before the call must not come back. */
static void test_linearizable_recommend_waits_for_the_catalogue(void **state)
{
    (void)state;
    recommend_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE);
    await(&played.wait_count, 2);
    assert_int_equal(played.waits[0]->group, 1);
    assert_int_equal(played.waits[1]->group, 0);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(played.waits[i]->kind, DN_WAIT_BARRIER);
    struct dn_wait *catalogue = played.waits[1];
    wait_complete(DN_OK);
    h2_turn(&h2, 20);
    assert_false(answer.closed);
    catalogue->done(catalogue, DN_OK, 12, NULL);
    dunlin__v1__recommend_response__free_unpacked(recommend_end(), NULL);
}

/* The answer is as old as the oldest of what it was made from. */
static void test_an_old_catalogue_shows(void **state)
{
    (void)state;
    atomic_store(&age_us[0], 700000);
    recommend_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_LOCAL);
    Dunlin__V1__RecommendResponse *response = recommend_end();
    assert_true(response->freshness->stale);
    assert_true(response->freshness->age_us >= 700000);
    assert_int_equal(response->freshness->shard, 1);
    dunlin__v1__recommend_response__free_unpacked(response, NULL);
}

/* What a call holds grows when it is resumed: thousands of parked reads keep the limit as new calls do. */
static void test_parked_reads_keep_the_limit(void **state)
{
    (void)state;
    enum { EVENTS = 3000 };
    static char long_id[250];
    Dunlin__V1__Event *events = calloc(EVENTS, sizeof *events);
    Dunlin__V1__Event **pointers = calloc(EVENTS, sizeof(Dunlin__V1__Event *));
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    struct h2_answer big = {0};
    assert_true(events && pointers);
    memset(long_id, 'x', sizeof long_id - 1);
    for (size_t i = 0; i < EVENTS; i++) {
        dunlin__v1__event__init(&events[i]);
        events[i].user_id = users[0];
        events[i].item_id = long_id;
        pointers[i] = &events[i];
    }
    request.n_events = EVENTS;
    request.events = pointers;
    recommend_begin(DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE);
    await(&played.wait_count, 2);
    size_t length = protobuf_c_message_get_packed_size(&request.base);
    assert_true(length < PENDING_BYTES);
    uint8_t *bytes = malloc(length + 5);
    assert_non_null(bytes);
    for (int i = 0; i < 5; i++)
        bytes[i] = (uint8_t)(i > 0 ? length >> (8 * (4 - i)) : 0);
    protobuf_c_message_pack(&request.base, bytes + 5);
    big.out = bytes;
    big.out_length = length + 5;
    h2_start(&h2, "POST", "/dunlin.v1.Events/Publish", h2_grpc, NULL, &big);
    /* Body, events and records: more than the limit together. So many events go as two records, each applied
     * in one go. */
    await(&played.proposal_count, 2);
    assert_int_equal(played.proposals[1]->group, 1);
    struct dn_wait *second = played.waits[1];
    wait_complete(DN_OK);
    second->done(second, DN_OK, 12, NULL);
    ends_refused(8, "as many bytes");
    assert_true(h2_pushed_back(&answer));
    complete(played.proposals[0], DN_UNAVAILABLE, 0, NULL, 0);
    complete(played.proposals[1], DN_UNAVAILABLE, 0, NULL, 0);
    assert_true(h2_until(&h2, &big.closed, H2_WAIT_MS));
    assert_int_equal(big.grpc_status, 14);
    h2_free(&big);
    free(bytes);
    free(pointers);
    free(events);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_all_answer, reset),
        cmocka_unit_test_setup(test_one_shard_fails, reset),
        cmocka_unit_test_setup(test_every_shard_fails, reset),
        cmocka_unit_test_setup(test_a_doubt_outweighs_a_refusal, reset),
        cmocka_unit_test_setup(test_queue_full, reset),
        cmocka_unit_test_setup(test_strange_results, reset),
        cmocka_unit_test_setup(test_a_source_is_set_where_it_can_be, reset),
        cmocka_unit_test_setup(test_upsert_outcomes, reset),
        cmocka_unit_test_setup(test_session_read_waits, reset),
        cmocka_unit_test_setup(test_linearizable_read, reset),
        cmocka_unit_test_setup(test_ages, reset),
        cmocka_unit_test_setup(test_linearizable_recommend_waits_for_the_catalogue, reset),
        cmocka_unit_test_setup(test_an_old_catalogue_shows, reset),
        cmocka_unit_test_setup(test_parked_reads_keep_the_limit, reset),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    h2_free(&answer);
    return failed;
}
