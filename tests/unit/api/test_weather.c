/* The services in bad weather: clients that give up, requests bent at random, a stop under load. */
#include "services.h"

/* Writes given up at once: consensus still holds their records and completes them. */
static void test_cancelled_writes(void **state)
{
    (void)state;
    static const uint8_t body[] = "\0\0\0\0\x0c\x0a\x0a\x0a\x03"
                                  "hal\x12\x03hat";
    struct h2_answer answers[100];
    for (int round = 0; round < 5; round++) {
        memset(answers, 0, sizeof answers);
        for (size_t i = 0; i < 100; i++) {
            answers[i].out = body;
            answers[i].out_length = sizeof body - 1;
            h2_start(&h2, "POST", "/dunlin.v1.Events/Publish", h2_grpc, NULL, &answers[i]);
        }
        nghttp2_session_send(h2.session);
        for (size_t i = 0; i < 100; i++)
            nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, answers[i].stream_id, NGHTTP2_CANCEL);
        h2_turn(&h2, 10);
        Dunlin__V1__Event event;
        event_set(&event, "hal", "hat", "");
        Dunlin__V1__PublishResponse *published = publish(&event, 1);
        assert_non_null(published);
        FREE(published);
        for (size_t i = 0; i < 100; i++)
            h2_free(&answers[i]);
    }
}

static uint64_t seed = 11, random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

struct material {
    const char *path;
    uint8_t bytes[512];
    size_t length;
};

static void material_add(struct material *material, const char *path, const void *message)
{
    assert_true(protobuf_c_message_get_packed_size(message) <= sizeof material->bytes);
    material->path = path;
    material->length = protobuf_c_message_pack(message, material->bytes);
}

#define MATERIALS 10

static void material_make(struct material *all)
{
    static float vector[3] = {1, 2, 3};
    char *names[] = {text("red hat"), text("red shoe")};
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    Dunlin__V1__FilterTerm term = DUNLIN__V1__FILTER_TERM__INIT, *terms[] = {&term};
    Dunlin__V1__Filter filter = DUNLIN__V1__FILTER__INIT;
    read.max_staleness_ms = 100000;
    term.name = text("price");
    term.has_min = true;
    term.min = 1;
    filter.n_terms = 1;
    filter.terms = terms;

    Dunlin__V1__Event events[2], *pointers[] = {&events[0], &events[1]};
    Dunlin__V1__PublishRequest publish_request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    event_set(&events[0], "ida", "red hat", "i1");
    event_set(&events[1], "jan", "red shoe", "j1");
    events[0].time_ms = dn_wall_ms() - 5000;
    events[1].weight = 3;
    publish_request.n_events = 2;
    publish_request.events = pointers;
    material_add(&all[0], "/dunlin.v1.Events/Publish", &publish_request);

    Dunlin__V1__RecommendRequest recommend_request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    recommend_request.user_id = text("ann");
    recommend_request.k = 5;
    recommend_request.read = &read;
    recommend_request.filter = &filter;
    recommend_request.n_exclude = 1;
    recommend_request.exclude = names;
    material_add(&all[1], "/dunlin.v1.Recommendations/Recommend", &recommend_request);
    recommend_request.user_id = text("");
    recommend_request.n_items = 2;
    recommend_request.items = names;
    material_add(&all[2], "/dunlin.v1.Recommendations/Recommend", &recommend_request);

    Dunlin__V1__SimilarRequest similar = DUNLIN__V1__SIMILAR_REQUEST__INIT;
    similar.n_vector = 3;
    similar.vector = vector;
    similar.k = 4;
    similar.filter = &filter;
    material_add(&all[3], "/dunlin.v1.Recommendations/Similar", &similar);

    Dunlin__V1__TrendingRequest trending = DUNLIN__V1__TRENDING_REQUEST__INIT;
    trending.k = 4;
    trending.read = &read;
    trending.filter = &filter;
    material_add(&all[4], "/dunlin.v1.Recommendations/Trending", &trending);

    Dunlin__V1__GetSessionRequest session = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    session.user_id = text("ann");
    session.read = &read;
    material_add(&all[5], "/dunlin.v1.Sessions/Get", &session);

    Dunlin__V1__Item item = DUNLIN__V1__ITEM__INIT, *items[] = {&item};
    Dunlin__V1__Attribute attribute = DUNLIN__V1__ATTRIBUTE__INIT, *attributes[] = {&attribute};
    Dunlin__V1__UpsertItemsRequest upsert = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    attribute.key = text("k");
    attribute.value = text("v");
    item.id = text("bent");
    item.n_vector = 3;
    item.vector = vector;
    item.has_price = true;
    item.price = 3;
    item.n_attributes = 1;
    item.attributes = attributes;
    upsert.n_items = 1;
    upsert.items = items;
    material_add(&all[6], "/dunlin.v1.Catalog/Upsert", &upsert);

    Dunlin__V1__DeleteItemsRequest delete = DUNLIN__V1__DELETE_ITEMS_REQUEST__INIT;
    delete.n_ids = 2;
    delete.ids = names;
    material_add(&all[7], "/dunlin.v1.Catalog/Delete", &delete);

    Dunlin__V1__DeleteSessionRequest forget = DUNLIN__V1__DELETE_SESSION_REQUEST__INIT;
    forget.user_id = text("ida");
    material_add(&all[8], "/dunlin.v1.Sessions/Delete", &forget);

    Dunlin__V1__GroupIndex at = DUNLIN__V1__GROUP_INDEX__INIT, *ats[] = {&at};
    Dunlin__V1__StatusRequest status = DUNLIN__V1__STATUS_REQUEST__INIT;
    at.group = 1;
    at.index = 3;
    status.n_hash_at = 1;
    status.hash_at = ats;
    material_add(&all[9], "/dunlin.v1.Cluster/Status", &status);
}

#define BENT_REQUESTS 3000

/* Requests bent at random: each is answered, and never with INTERNAL or UNKNOWN, which would be a mistake of
 * ours. */
static void test_bent_requests(void **state)
{
    (void)state;
    static struct material all[MATERIALS];
    size_t good = 0;
    catalogue();
    material_make(all);
    for (int round = 0; round < BENT_REQUESTS; round++) {
        const struct material *from = &all[next_random() % MATERIALS];
        struct h2_answer answer;
        uint8_t bytes[sizeof from->bytes];
        size_t length = from->length;
        memcpy(bytes, from->bytes, length);
        for (uint32_t changes = next_random() % 4; changes > 0; changes--) {
            if (next_random() % 2)
                bytes[next_random() % length] = (uint8_t)next_random();
            else
                bytes[next_random() % length] ^= (uint8_t)(1u << next_random() % 8);
        }
        if (next_random() % 8 == 0)
            length = next_random() % length;
        if (!h2_call(&h2, from->path, NULL, bytes, length, &answer))
            fail_msg("seed %llu round %d %s: no answer", (unsigned long long)seed, round, from->path);
        if (answer.grpc_status < 0 || answer.grpc_status == 13 || answer.grpc_status == 2)
            fail_msg("seed %llu round %d %s: status %d %s", (unsigned long long)seed, round, from->path,
                     answer.grpc_status, answer.message);
        good += answer.grpc_status == 0;
        h2_free(&answer);
    }
    assert_in_range(good, BENT_REQUESTS / 20, BENT_REQUESTS);
}

/* Completions may still be on their way when everything stops: nothing waits for ever, nothing is used after
 * it is freed. */
static void test_stop_under_load(void **state)
{
    (void)state;
    struct cluster other;
    struct h2 busy;
    struct h2_answer answers[200];
    static const uint8_t body[] = "\0\0\0\0\x0c\x0a\x0a\x0a\x03"
                                  "zoe\x12\x03hat";
    cluster_start(&other, (struct dn_api_limits){0});
    assert_true(h2_open(&busy, dn_api_port(other.api)));
    memset(answers, 0, sizeof answers);
    for (size_t i = 0; i < 200; i++) {
        answers[i].out = body;
        answers[i].out_length = sizeof body - 1;
        h2_start(&busy, "POST", "/dunlin.v1.Events/Publish", h2_grpc, NULL, &answers[i]);
    }
    assert_true(h2_until(&busy, &answers[20].closed, H2_WAIT_MS));
    assert_int_equal(answers[20].grpc_status, 0);
    cluster_stop(&other);
    h2_shut(&busy);
    for (size_t i = 0; i < 200; i++)
        h2_free(&answers[i]);
}

int main(void)
{
    const char *given = getenv("DUNLIN_TEST_SEED");
    seed = given ? strtoull(given, NULL, 10) : seed;
    random_state = seed;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cancelled_writes),
        cmocka_unit_test(test_bent_requests),
        cmocka_unit_test(test_stop_under_load),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
