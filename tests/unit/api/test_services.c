/* The services of dunlin.v1 on a real one-member cluster, through h2.h: what a client sees. */
#include "cluster.h"

#include "api/token.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "h2.h"

#include <pthread.h>
#include <unistd.h>

#include <math.h>

static struct cluster cluster;
static struct h2 h2;

static int setup(void **state)
{
    (void)state;
    cluster_start(&cluster, (struct dn_api_limits){.message_bytes = 4 << 20});
    return h2_open(&h2, dn_api_port(cluster.api)) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    if (h2.session)
        h2_shut(&h2);
    cluster_stop(&cluster);
    return 0;
}

/* ---- calls --------------------------------------------------------------------------------------------- */

/* Packs, calls, and gives the unpacked answer; NULL when the status is not 0 (then it is in last_). */
static int last_status;
static char last_message[2048];

static void *call(const char *path, const void *request, const ProtobufCMessageDescriptor *answer_type)
{
    const ProtobufCMessage *message = request;
    size_t length = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(length + 1);
    struct h2_answer answer;
    protobuf_c_message_pack(message, bytes);
    if (!h2_call(&h2, path, NULL, bytes, length, &answer))
        fail_msg("%s: no answer", path);
    free(bytes);
    last_status = answer.grpc_status;
    snprintf(last_message, sizeof last_message, "%s", answer.message);
    void *result = NULL;
    if (answer.grpc_status == 0) {
        assert_true(answer.length >= 5);
        result = protobuf_c_message_unpack(answer_type, NULL, answer.length - 5, answer.body + 5);
        assert_non_null(result);
    }
    h2_free(&answer);
    return result;
}

#define CALL(service, method, Answer, answer, request)                                                       \
    ((Dunlin__V1__##Answer *)call("/dunlin.v1." service "/" method, (request),                               \
                                  &dunlin__v1__##answer##__descriptor))
#define FREE(message) protobuf_c_message_free_unpacked((ProtobufCMessage *)(message), NULL)

static void refused(const char *path, const void *request, int status, const char *text)
{
    if (call(path, request, &dunlin__v1__ping_response__descriptor))
        fail_msg("%s was not refused: wanted '%s'", path, text);
    if (last_status != status || !strstr(last_message, text))
        fail_msg("%s: status %d '%s'; wanted %d '%s'", path, last_status, last_message, status, text);
}

static char *text(const char *constant)
{
    return (char *)(uintptr_t)constant;
}

static void event_set(Dunlin__V1__Event *event, const char *user, const char *item, const char *id)
{
    dunlin__v1__event__init(event);
    event->user_id = text(user);
    event->item_id = text(item);
    event->event_id = text(id);
    event->type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK;
}

static Dunlin__V1__PublishResponse *publish(Dunlin__V1__Event *events, size_t count)
{
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    Dunlin__V1__Event *pointers[64];
    for (size_t i = 0; i < count; i++)
        pointers[i] = &events[i];
    request.n_events = count;
    request.events = pointers;
    return CALL("Events", "Publish", PublishResponse, publish_response, &request);
}

static Dunlin__V1__GetSessionResponse *session_get(const char *user, Dunlin__V1__ReadOptions *read)
{
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    request.user_id = text(user);
    request.read = read;
    return CALL("Sessions", "Get", GetSessionResponse, get_session_response, &request);
}

static void catalogue(void)
{
    static const char *const ids[] = {"red shoe",  "blue shoe", "red hat",
                                      "green hat", "no vector", "sold out"};
    static float vectors[6][3] = {{1, 0, 0}, {0.9f, 0.3f, 0}, {0, 1, 0.1f}, {0, 0.9f, 0.4f},
                                  {0},       {1, 0.05f, 0}};
    Dunlin__V1__UpsertItemsRequest request = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    Dunlin__V1__Item items[6], *pointers[6];
    Dunlin__V1__Attribute brand = DUNLIN__V1__ATTRIBUTE__INIT, *brands[] = {&brand};
    brand.key = text("brand");
    brand.value = text("dune");
    for (size_t i = 0; i < 6; i++) {
        dunlin__v1__item__init(&items[i]);
        items[i].id = text(ids[i]);
        items[i].n_vector = i == 4 ? 0 : 3;
        items[i].vector = vectors[i];
        items[i].category = text(i < 2 ? "shoes" : "hats");
        items[i].has_price = true;
        items[i].price = 10.0 * (double)(i + 1);
        items[i].unavailable = i == 5;
        items[i].n_attributes = i == 0;
        items[i].attributes = brands;
        pointers[i] = &items[i];
    }
    request.n_items = 6;
    request.items = pointers;
    Dunlin__V1__UpsertItemsResponse *response =
        CALL("Catalog", "Upsert", UpsertItemsResponse, upsert_items_response, &request);
    if (!response)
        fail_msg("upsert: %d %s", last_status, last_message);
    assert_int_equal(response->upserted, 6);
    assert_true(response->token.len > 0);
    FREE(response);
}

/* ---- events and sessions
 * ----------------------------------------------------------------------------------- */

static void test_publish_and_read(void **state)
{
    (void)state;
    Dunlin__V1__Event events[5];
    int64_t now_ms = dn_wall_ms();
    event_set(&events[0], "ann", "red shoe", "e1");
    event_set(&events[1], "bob", "red hat", "e1"); /* another user's id of the same name */
    event_set(&events[2], "ann", "blue shoe", "e2");
    event_set(&events[3], "ann", "red shoe", "e1"); /* a repeat */
    event_set(&events[4], "cleo", "red hat", "");
    events[0].time_ms = now_ms - 2000;
    events[2].time_ms = now_ms - 1000;
    events[2].type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY;
    events[2].weight = 2.5f;
    events[3].time_ms = now_ms - 2000;
    Dunlin__V1__PublishResponse *published = publish(events, 5);
    if (!published)
        fail_msg("publish: %d %s", last_status, last_message);
    assert_int_equal(published->n_outcomes, 5);
    static const int expected[] = {0, 0, 0, 1, 0};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(published->outcomes[i], expected[i]);
    assert_int_equal(published->accepted, 4);
    assert_string_equal(published->message, "");

    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    read.token = published->token;
    Dunlin__V1__GetSessionResponse *session = session_get("ann", &read);
    assert_non_null(session);
    assert_true(session->found);
    assert_int_equal(session->n_events, 2);
    assert_string_equal(session->events[0]->item_id, "red shoe");
    assert_int_equal(session->events[0]->time_ms, now_ms - 2000);
    assert_int_equal(session->events[0]->type, 2);
    assert_string_equal(session->events[1]->item_id, "blue shoe");
    assert_int_equal(session->events[1]->type, 4);
    assert_true(session->events[1]->weight == 2.5f);
    assert_true(session->events[1]->current);
    assert_int_equal(session->session_events, 2);
    assert_int_equal(session->n_counts, 2);
    assert_true(session->version > 0);
    assert_string_equal(session->freshness->node, "solo");
    assert_int_equal(session->freshness->shard, dn_api_shard_of("ann", 3, CLUSTER_SHARDS));
    assert_true(session->freshness->applied_index >= session->version);
    assert_true(session->freshness->age_known);
    /* the answer's own token is good for the next read */
    read.token = session->token;
    Dunlin__V1__GetSessionResponse *again = session_get("ann", &read);
    assert_non_null(again);
    FREE(again);
    FREE(session);
    FREE(published);
    session = session_get("nobody", NULL);
    assert_non_null(session);
    assert_false(session->found);
    assert_int_equal(session->n_events, 0);
    FREE(session);
    read.token = (ProtobufCBinaryData){0, NULL};
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE;
    session = session_get("cleo", &read);
    assert_non_null(session);
    assert_true(session->found);
    FREE(session);
}

static void test_delete(void **state)
{
    (void)state;
    Dunlin__V1__Event event;
    event_set(&event, "dora", "red hat", "d1");
    FREE(publish(&event, 1));
    Dunlin__V1__DeleteSessionRequest request = DUNLIN__V1__DELETE_SESSION_REQUEST__INIT;
    request.user_id = text("dora");
    for (int round = 0; round < 2; round++) {
        Dunlin__V1__DeleteSessionResponse *deleted =
            CALL("Sessions", "Delete", DeleteSessionResponse, delete_session_response, &request);
        if (!deleted)
            fail_msg("delete: %d %s", last_status, last_message);
        assert_int_equal(deleted->existed, round == 0);
        Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
        read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
        read.token = deleted->token;
        Dunlin__V1__GetSessionResponse *session = session_get("dora", &read);
        assert_non_null(session);
        assert_false(session->found);
        FREE(session);
        FREE(deleted);
    }
    request.user_id = text("");
    refused("/dunlin.v1.Sessions/Delete", &request, 3, "user_id: empty");
}

static void publish_refused(void (*spoil)(Dunlin__V1__Event *event), const char *wanted)
{
    Dunlin__V1__Event events[5], *pointers[5];
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    for (size_t i = 0; i < 5; i++) {
        event_set(&events[i], "eve", "red hat", "");
        pointers[i] = &events[i];
    }
    spoil(&events[3]);
    request.n_events = 5;
    request.events = pointers;
    refused("/dunlin.v1.Events/Publish", &request, 3, wanted);
}

static char long_id[300];

static void spoil_user(Dunlin__V1__Event *event)
{
    event->user_id = text("");
}
static void spoil_user_long(Dunlin__V1__Event *event)
{
    event->user_id = long_id;
}
static void spoil_user_utf8(Dunlin__V1__Event *event)
{
    event->user_id = text("\xc3");
}
static void spoil_item(Dunlin__V1__Event *event)
{
    event->item_id = text("");
}
static void spoil_event_id(Dunlin__V1__Event *event)
{
    event->event_id = long_id;
}
static void spoil_type(Dunlin__V1__Event *event)
{
    event->type = (Dunlin__V1__EventType)9;
}
static void spoil_weight_nan(Dunlin__V1__Event *event)
{
    event->weight = NAN;
}
static void spoil_weight(Dunlin__V1__Event *event)
{
    event->weight = 255.5f;
}
static void spoil_weight_negative(Dunlin__V1__Event *event)
{
    event->weight = -1;
}
static void spoil_time(Dunlin__V1__Event *event)
{
    event->time_ms = -1;
}
static void spoil_time_ahead(Dunlin__V1__Event *event)
{
    event->time_ms = dn_wall_ms() + 25ll * 3600 * 1000;
}

static void test_publish_refused(void **state)
{
    (void)state;
    memset(long_id, 'x', 257);
    publish_refused(spoil_user, "events[3].user_id: empty");
    publish_refused(spoil_user_long, "events[3].user_id: 257 bytes; at most 256");
    publish_refused(spoil_user_utf8, "events[3].user_id: is not valid UTF-8");
    publish_refused(spoil_item, "events[3].item_id: empty");
    publish_refused(spoil_event_id, "events[3].event_id: 257 bytes");
    publish_refused(spoil_type, "events[3].type: 9");
    publish_refused(spoil_weight_nan, "events[3].weight: ");
    publish_refused(spoil_weight, "events[3].weight: 255.5");
    publish_refused(spoil_weight_negative, "events[3].weight: -1");
    publish_refused(spoil_time, "events[3].time_ms: -1");
    publish_refused(spoil_time_ahead, "events[3].time_ms: ");
    /* nothing of those calls was applied */
    Dunlin__V1__GetSessionResponse *session = session_get("eve", NULL);
    assert_false(session->found);
    FREE(session);
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    refused("/dunlin.v1.Events/Publish", &request, 3, "events: 0 of them");
    static Dunlin__V1__Event event;
    static Dunlin__V1__Event *pointers[10001];
    event_set(&event, "eve", "x", "");
    for (size_t i = 0; i < 10001; i++)
        pointers[i] = &event;
    request.events = pointers;
    request.n_events = 10001;
    refused("/dunlin.v1.Events/Publish", &request, 3, "from 1 to 10000");
}

/* As many events as a call may hold, over both shards: one outcome each, in order. */
static void test_publish_many(void **state)
{
    (void)state;
    static Dunlin__V1__Event events[10000];
    static Dunlin__V1__Event *pointers[10000];
    static char users[10000][16], ids[10000][16];
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    for (size_t i = 0; i < 10000; i++) {
        snprintf(users[i], sizeof users[i], "many-%zu", i % 2500);
        snprintf(ids[i], sizeof ids[i], "id-%zu", i % 5000); /* the second half repeats the first */
        event_set(&events[i], users[i], "thing", ids[i]);
        pointers[i] = &events[i];
    }
    request.n_events = 10000;
    request.events = pointers;
    Dunlin__V1__PublishResponse *published =
        CALL("Events", "Publish", PublishResponse, publish_response, &request);
    if (!published)
        fail_msg("publish: %d %s", last_status, last_message);
    assert_int_equal(published->n_outcomes, 10000);
    for (size_t i = 0; i < 10000; i++)
        assert_int_equal(published->outcomes[i], i >= 5000);
    assert_int_equal(published->accepted, 5000);
    struct dn_token token;
    uint8_t key[DN_HASH_KEY_BYTES];
    dn_token_key(cluster_key, key);
    assert_int_equal(
        dn_token_decode(published->token.data, published->token.len, key, CLUSTER_SHARDS + 1, &token, NULL),
        DN_OK);
    assert_int_equal(token.count, 2);
    FREE(published);
}

/* ---- read levels
 * ------------------------------------------------------------------------------------------- */

static void test_read_levels(void **state)
{
    (void)state;
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    uint8_t key[DN_HASH_KEY_BYTES], bytes[DN_TOKEN_BYTES_MAX];
    dn_token_key(cluster_key, key);
    request.user_id = text("ann");
    request.read = &read;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    refused("/dunlin.v1.Sessions/Get", &request, 3, "read.token: missing");
    read.token = (ProtobufCBinaryData){.len = 12, .data = (uint8_t *)text("made-up stuff")};
    refused("/dunlin.v1.Sessions/Get", &request, 3, "read: token: damaged");
    read.level = (Dunlin__V1__ReadLevel)7;
    read.token.len = 0;
    refused("/dunlin.v1.Sessions/Get", &request, 3, "read.level: 7");
    /* an index that nobody committed */
    struct dn_token token = {.count = 0};
    uint32_t shard = dn_api_shard_of("ann", 3, CLUSTER_SHARDS);
    dn_token_raise(&token, shard, dn_consensus_applied(cluster.consensus, shard) + 1000000);
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    read.token = (ProtobufCBinaryData){.len = dn_token_encode(&token, key, bytes), .data = bytes};
    refused("/dunlin.v1.Sessions/Get", &request, 11, "as new as asked for");
    /* the other shard's index does not matter to this user */
    token.entries[0].group = shard == 1 ? 2 : 1;
    read.token.len = dn_token_encode(&token, key, bytes);
    Dunlin__V1__GetSessionResponse *session = session_get("ann", &read);
    assert_non_null(session);
    FREE(session);
    /* staleness: the cluster ticks every 200 ms, so a minute is never reached; it is for LOCAL only */
    read.max_staleness_ms = 60000;
    refused("/dunlin.v1.Sessions/Get", &request, 3, "max_staleness_ms");
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_LOCAL;
    session = session_get("ann", &read);
    assert_non_null(session);
    FREE(session);
}

/* ---- recommendations
 * ----------------------------------------------------------------------------------------- */

static Dunlin__V1__RecommendResponse *recommend(Dunlin__V1__RecommendRequest *request)
{
    return CALL("Recommendations", "Recommend", RecommendResponse, recommend_response, request);
}

static void test_recommend(void **state)
{
    (void)state;
    catalogue();
    Dunlin__V1__Event event;
    event_set(&event, "fay", "red shoe", "f1");
    Dunlin__V1__PublishResponse *published = publish(&event, 1);
    assert_non_null(published);
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    read.token = published->token;
    request.user_id = text("fay");
    request.k = 3;
    request.read = &read;
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    if (!response)
        fail_msg("recommend: %d %s", last_status, last_message);
    assert_int_equal(response->n_items, 3);
    assert_string_equal(response->items[0]->id, "blue shoe"); /* nearest that is not seen and not sold out */
    assert_true(strlen(response->items[0]->reason) > 0 && strlen(response->items[0]->source) > 0);
    assert_int_equal(response->session_events, 1);
    assert_true(response->session_version > 0);
    assert_true(response->token.len > 0);
    assert_int_equal(response->freshness->shard, dn_api_shard_of("fay", 3, CLUSTER_SHARDS));
    FREE(response);
    FREE(published);
    /* anonymous, filtered, excluding */
    char *items[] = {text("red hat")}, *exclude[] = {text("green hat")}, *values[] = {text("hats")};
    Dunlin__V1__FilterTerm term = DUNLIN__V1__FILTER_TERM__INIT, *terms[] = {&term};
    Dunlin__V1__Filter filter = DUNLIN__V1__FILTER__INIT;
    request = (Dunlin__V1__RecommendRequest)DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.k = 10;
    request.n_items = 1;
    request.items = items;
    term.name = text("category");
    term.n_values = 1;
    term.values = values;
    filter.n_terms = 1;
    filter.terms = terms;
    request.filter = &filter;
    response = recommend(&request);
    assert_non_null(response);
    assert_string_equal(response->items[0]->id, "green hat");
    FREE(response);
    request.n_exclude = 1;
    request.exclude = exclude;
    response = recommend(&request);
    assert_non_null(response);
    for (size_t i = 0; i < response->n_items; i++)
        assert_string_not_equal(response->items[i]->id, "green hat");
    FREE(response);
    /* somebody unknown still gets something */
    request = (Dunlin__V1__RecommendRequest)DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.user_id = text("a stranger");
    request.k = 5;
    response = recommend(&request);
    assert_non_null(response);
    assert_int_equal(response->n_items, 5);
    assert_int_equal(response->session_version, 0);
    FREE(response);
}

static void test_recommend_refused(void **state)
{
    (void)state;
    static const char path[] = "/dunlin.v1.Recommendations/Recommend";
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    char *items[] = {text("red hat"), text("")};
    request.user_id = text("fay");
    refused(path, &request, 3, "k: 0; from 1 to 1000");
    request.k = 1001;
    refused(path, &request, 3, "k: 1001");
    request.k = 1;
    request.items = items;
    request.n_items = 1;
    refused(path, &request, 3, "anonymous");
    request.user_id = text("");
    request.n_items = 2;
    refused(path, &request, 3, "items[1]: empty");
    request.n_items = 0;
    refused(path, &request, 3, "user_id: empty");
    request.user_id = text("fay");
    Dunlin__V1__FilterTerm term = DUNLIN__V1__FILTER_TERM__INIT, *terms[] = {&term};
    Dunlin__V1__Filter filter = DUNLIN__V1__FILTER__INIT;
    filter.n_terms = 1;
    filter.terms = terms;
    request.filter = &filter;
    refused(path, &request, 3, "filter.terms[0].name");
    term.name = text("price");
    refused(path, &request, 3, "filter.terms[0]: set either");
    term.n_values = 1;
    term.values = items;
    term.has_min = true;
    refused(path, &request, 3, "filter.terms[0]: set either");
    term.n_values = 0;
    term.min = NAN;
    refused(path, &request, 3, "min and max");
    term.min = 5;
    term.has_max = true;
    term.max = 4;
    refused(path, &request, 3, "min and max");
    term.name = text("no such attribute");
    term.max = 6;
    refused(path, &request, 3, "filter");
}

static void test_similar_and_trending(void **state)
{
    (void)state;
    static const char path[] = "/dunlin.v1.Recommendations/Similar";
    static float vectors[][4] = {{1, 0.1f, 0, 0}, {NAN, 0, 0}, {INFINITY, 0, 0}, {0, 0, 0}};
    Dunlin__V1__SimilarRequest request = DUNLIN__V1__SIMILAR_REQUEST__INIT;
    catalogue();
    request.k = 2;
    request.item_id = text("red shoe");
    Dunlin__V1__ItemsResponse *response =
        CALL("Recommendations", "Similar", ItemsResponse, items_response, &request);
    if (!response)
        fail_msg("similar: %d %s", last_status, last_message);
    assert_string_equal(response->items[0]->id, "blue shoe");
    FREE(response);
    request.item_id = text("");
    request.vector = vectors[0];
    request.n_vector = 3;
    response = CALL("Recommendations", "Similar", ItemsResponse, items_response, &request);
    assert_non_null(response);
    assert_string_equal(response->items[0]->id, "red shoe");
    FREE(response);
    request.n_vector = 4;
    refused(path, &request, 3, "vector: 4 numbers; the catalogue's vectors have 3");
    request.n_vector = 3;
    request.vector = vectors[1];
    refused(path, &request, 3, "vector[0]: not a finite number");
    request.vector = vectors[2];
    refused(path, &request, 3, "vector[0]: not a finite number");
    request.vector = vectors[3];
    refused(path, &request, 3, "vector: all zero");
    request.item_id = text("red shoe");
    refused(path, &request, 3, "exactly one");
    request.n_vector = 0;
    request.item_id = text("nothing");
    refused(path, &request, 5, "item_id: no such item");
    request.item_id = text("no vector");
    refused(path, &request, 9, "item_id: the item has no vector");
    request.item_id = text("");
    refused(path, &request, 3, "exactly one");

    Dunlin__V1__Event event;
    event_set(&event, "gil", "red hat", "g1");
    for (int i = 0; i < 3; i++) {
        char id[8];
        snprintf(id, sizeof id, "g%d", i);
        event.event_id = id;
        FREE(publish(&event, 1));
    }
    Dunlin__V1__TrendingRequest trending = DUNLIN__V1__TRENDING_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE;
    trending.k = 3;
    trending.read = &read;
    /* the shard renews its list of what trends a few times a second */
    uint64_t end = dn_monotonic_us() + CLUSTER_WAIT_MS * 1000ull;
    size_t found = 0;
    while (found == 0 && dn_monotonic_us() < end) {
        response = CALL("Recommendations", "Trending", ItemsResponse, items_response, &trending);
        if (!response)
            fail_msg("trending: %d %s", last_status, last_message);
        found = response->n_items;
        FREE(response);
        usleep(20000);
    }
    assert_true(found > 0);
    trending.k = 0;
    refused("/dunlin.v1.Recommendations/Trending", &trending, 3, "k: 0");
}

/* ---- the catalogue
 * --------------------------------------------------------------------------------------------- */

static void test_catalog(void **state)
{
    (void)state;
    catalogue();
    Dunlin__V1__GetItemRequest get = DUNLIN__V1__GET_ITEM_REQUEST__INIT;
    get.id = text("red shoe");
    get.include_vector = true;
    Dunlin__V1__GetItemResponse *got = CALL("Catalog", "Get", GetItemResponse, get_item_response, &get);
    assert_non_null(got);
    assert_string_equal(got->item->id, "red shoe");
    assert_string_equal(got->item->category, "shoes");
    assert_true(got->item->has_price && got->item->price > 9.99 && got->item->price < 10.01);
    assert_int_equal(got->item->n_vector, 3);
    assert_int_equal(got->item->n_attributes, 1);
    assert_string_equal(got->item->attributes[0]->value, "dune");
    assert_true(got->version > 0);
    FREE(got);
    get.id = text("sold out");
    get.include_vector = false;
    got = CALL("Catalog", "Get", GetItemResponse, get_item_response, &get);
    assert_true(got->item->unavailable);
    assert_int_equal(got->item->n_vector, 0);
    FREE(got);
    char *ids[] = {text("sold out"), text("never was")};
    Dunlin__V1__DeleteItemsRequest delete = DUNLIN__V1__DELETE_ITEMS_REQUEST__INIT;
    delete.n_ids = 2;
    delete.ids = ids;
    Dunlin__V1__DeleteItemsResponse *deleted =
        CALL("Catalog", "Delete", DeleteItemsResponse, delete_items_response, &delete);
    if (!deleted)
        fail_msg("delete: %d %s", last_status, last_message);
    assert_int_equal(deleted->deleted, 1);
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    read.token = deleted->token;
    get.read = &read;
    refused("/dunlin.v1.Catalog/Get", &get, 5, "no such item");
    FREE(deleted);
    delete.n_ids = 0;
    refused("/dunlin.v1.Catalog/Delete", &delete, 3, "ids: 0 of them");
}

static void test_catalog_refused(void **state)
{
    (void)state;
    static const char path[] = "/dunlin.v1.Catalog/Upsert";
    static float vector[4] = {1, 2, 3, 4};
    Dunlin__V1__Item good = DUNLIN__V1__ITEM__INIT, bad = good, *items[] = {&good, &bad};
    Dunlin__V1__UpsertItemsRequest request = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    catalogue();
    refused(path, &request, 3, "items: 0 of them");
    good.id = text("fine");
    request.n_items = 2;
    request.items = items;
    refused(path, &request, 3, "items[1].id: 0 bytes");
    bad.id = text("bad");
    bad.vector = vector;
    bad.n_vector = 4;
    refused(path, &request, 3, "items[1].vector: 4 numbers; the catalogue's vectors have 3");
    bad.n_vector = 3;
    vector[1] = NAN;
    refused(path, &request, 3, "items[1]");
    vector[0] = vector[1] = vector[2] = 0;
    refused(path, &request, 3, "items[1]");
    bad.n_vector = 0;
    bad.has_price = true;
    bad.price = INFINITY;
    refused(path, &request, 3, "items[1].price");
    Dunlin__V1__GetItemRequest get = DUNLIN__V1__GET_ITEM_REQUEST__INIT;
    get.id = text("fine"); /* refused whole */
    refused("/dunlin.v1.Catalog/Get", &get, 5, "no such item");
}

/* ---- cluster and health
 * ------------------------------------------------------------------------------------------ */

static void test_status(void **state)
{
    (void)state;
    catalogue();
    Dunlin__V1__StatusRequest request = DUNLIN__V1__STATUS_REQUEST__INIT;
    Dunlin__V1__StatusResponse *status = CALL("Cluster", "Status", StatusResponse, status_response, &request);
    assert_non_null(status);
    assert_string_equal(status->node, "solo");
    assert_string_equal(status->cluster_id, "test");
    assert_string_equal(status->version, "9.8.7");
    assert_int_equal(status->shards, CLUSTER_SHARDS);
    assert_int_equal(status->n_groups, CLUSTER_SHARDS + 1);
    assert_int_equal(status->n_members, 1);
    assert_true(status->catalog_items >= 5);
    assert_int_equal(status->vector_dim, 3);
    assert_true(status->ready);
    for (size_t i = 0; i < status->n_groups; i++) {
        assert_int_equal(status->groups[i]->group, i);
        assert_true(status->groups[i]->is_leader);
        assert_string_equal(status->groups[i]->leader, "solo");
        assert_true(status->groups[i]->applied_index > 0);
    }
    Dunlin__V1__GroupIndex at = DUNLIN__V1__GROUP_INDEX__INIT, *ats[] = {&at};
    at.group = 1;
    at.index = status->groups[1]->hash_index;
    request.n_hash_at = 1;
    request.hash_at = ats;
    FREE(status);
    status = CALL("Cluster", "Status", StatusResponse, status_response, &request);
    assert_int_equal(status->n_hashes, 1);
    assert_true(status->hashes[0]->known);
    FREE(status);
    at.group = CLUSTER_SHARDS + 1;
    refused("/dunlin.v1.Cluster/Status", &request, 3, "hash_at[0].group: 3");
    atomic_store(&cluster.ready, false);
    at.group = 0;
    status = CALL("Cluster", "Status", StatusResponse, status_response, &request);
    assert_false(status->ready);
    assert_string_equal(status->not_ready_reason, "the test says so");
    FREE(status);
    atomic_store(&cluster.ready, true);
}

static int health(const char *service)
{
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    request.service = text(service);
    Grpc__Health__V1__HealthCheckResponse *response =
        call("/grpc.health.v1.Health/Check", &request, &grpc__health__v1__health_check_response__descriptor);
    if (!response)
        return -last_status;
    int status = (int)response->status;
    FREE(response);
    return status;
}

static void test_health(void **state)
{
    (void)state;
    assert_int_equal(health(""), 1);
    assert_int_equal(health("dunlin.v1.Events"), 1);
    assert_int_equal(health("dunlin.v1.Nothing"), -5);
    atomic_store(&cluster.ready, false);
    assert_int_equal(health("dunlin.v1.Catalog"), 2);
    atomic_store(&cluster.ready, true);
}

static bool watch_says(struct h2_answer *answer, size_t number, uint8_t status)
{
    static const uint8_t head[] = {0, 0, 0, 0, 2, 8};
    uint64_t end = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    while (answer->length < 7 * (number + 1) && !h2.gone && dn_monotonic_us() < end)
        h2_turn(&h2, 10);
    return answer->length == 7 * (number + 1) && memcmp(answer->body + 7 * number, head, 6) == 0 &&
           answer->body[7 * number + 6] == status;
}

static void *drain_main(void *data)
{
    (void)data;
    dn_api_drain(cluster.api, H2_WAIT_MS);
    return NULL;
}

/* Last of all: the API drains. */
static void test_watch_and_drain(void **state)
{
    (void)state;
    struct h2_answer answer = {.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5};
    struct h2_answer unknown = {.out = (const uint8_t *)"\0\0\0\0\3\x0a\1x", .out_length = 8};
    pthread_t thread;
    h2_start(&h2, "POST", "/grpc.health.v1.Health/Watch", h2_grpc, NULL, &answer);
    h2_start(&h2, "POST", "/grpc.health.v1.Health/Watch", h2_grpc, NULL, &unknown);
    assert_true(watch_says(&answer, 0, 1));
    assert_true(watch_says(&unknown, 0, 3));
    atomic_store(&cluster.ready, false);
    assert_true(watch_says(&answer, 1, 2));
    atomic_store(&cluster.ready, true);
    assert_true(watch_says(&answer, 2, 1));
    assert_int_equal(pthread_create(&thread, NULL, drain_main, NULL), 0);
    assert_true(watch_says(&answer, 3, 2));
    assert_true(h2_until(&h2, &answer.closed, H2_WAIT_MS));
    assert_true(h2_until(&h2, &unknown.closed, H2_WAIT_MS));
    assert_int_equal(answer.grpc_status, 14);
    pthread_join(thread, NULL);
    h2_free(&answer);
    h2_free(&unknown);
}

/* ---- bad weather
 * -------------------------------------------------------------------------------------------------- */

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
    assert_int_equal(health(""), 1);
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
        cmocka_unit_test(test_publish_and_read),
        cmocka_unit_test(test_delete),
        cmocka_unit_test(test_publish_refused),
        cmocka_unit_test(test_publish_many),
        cmocka_unit_test(test_read_levels),
        cmocka_unit_test(test_recommend),
        cmocka_unit_test(test_recommend_refused),
        cmocka_unit_test(test_similar_and_trending),
        cmocka_unit_test(test_catalog),
        cmocka_unit_test(test_catalog_refused),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_cancelled_writes),
        cmocka_unit_test(test_bent_requests),
        cmocka_unit_test(test_stop_under_load),
        cmocka_unit_test(test_watch_and_drain),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
