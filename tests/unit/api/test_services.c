/* The services of dunlin.v1 on a real one-member cluster, through h2.h: what a client sees. */
#include "services.h"

#include "api/server.h"

#include "grpc/health/v1/health.pb-c.h"

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
    refused(path, &request, 5, "item_id: no item");
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
    trending.window = DUNLIN__V1__POPULARITY_WINDOW__POPULARITY_WINDOW_EVER;
    response = CALL("Recommendations", "Trending", ItemsResponse, items_response, &trending);
    assert_non_null(response);
    assert_int_equal(response->n_items, 0); /* these shards keep no tables, and count nothing for ever */
    FREE(response);
    trending.window = (Dunlin__V1__PopularityWindow)5;
    refused("/dunlin.v1.Recommendations/Trending", &trending, 3, "window: 5");
    trending.window = (Dunlin__V1__PopularityWindow)-1;
    refused("/dunlin.v1.Recommendations/Trending", &trending, 3, "window: -1");
    trending.window = DUNLIN__V1__POPULARITY_WINDOW__POPULARITY_WINDOW_TREND;
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
    refused("/dunlin.v1.Catalog/Get", &get, 5, "no item");
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
    refused("/dunlin.v1.Catalog/Get", &get, 5, "no item");
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

/* What consensus answers is its own matter (test_members.c plays it): here, that the calls get there. */
static void test_members(void **state)
{
    (void)state;
    Dunlin__V1__ListMembersRequest request = DUNLIN__V1__LIST_MEMBERS_REQUEST__INIT;
    Dunlin__V1__ListMembersResponse *list =
        CALL("Cluster", "ListMembers", ListMembersResponse, list_members_response, &request);
    if (!list)
        fail_msg("list: %d %s", last_status, last_message);
    assert_true(list->formed);
    assert_int_equal(list->groups, CLUSTER_SHARDS + 1);
    assert_int_equal(list->node_id, 1);
    for (size_t i = 0; i < list->n_members; i++) {
        assert_int_equal(list->members[i]->node_id, 1);
        assert_string_equal(list->members[i]->name, "solo");
        assert_true(list->members[i]->self);
    }
    FREE(list);
    Dunlin__V1__ChangeMemberRequest change = DUNLIN__V1__CHANGE_MEMBER_REQUEST__INIT;
    refused("/dunlin.v1.Cluster/ChangeMember", &change, 3, "op: 0");
    change.op = DUNLIN__V1__MEMBER_OP__MEMBER_OP_PROMOTE;
    refused("/dunlin.v1.Cluster/ChangeMember", &change, 3, "node_id: 0");
    change.node_id = 99; /* nobody */
    assert_null(CALL("Cluster", "ChangeMember", ChangeMemberResponse, change_member_response, &change));
    assert_true(last_status > 0 && last_message[0] != '\0');
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

/* ---- watches
 * ------------------------------------------------------------------------------------------------------------
 */

/* Watches without a deadline must not use up the places of all other calls. */
static void test_watches_are_limited(void **state)
{
    (void)state;
    enum { CONNECTIONS = 12, EACH = 210, THREADS = 2 };
    static struct h2 connections[CONNECTIONS];
    static struct h2_answer watches[CONNECTIONS][EACH];
    size_t refused_count = 0;
    for (size_t c = 0; c < CONNECTIONS; c++) {
        assert_true(h2_open(&connections[c], dn_api_port(cluster.api)));
        for (size_t i = 0; i < EACH; i++) {
            watches[c][i].out = (const uint8_t *)"\0\0\0\0\0";
            watches[c][i].out_length = 5;
            h2_start(&connections[c], "POST", "/grpc.health.v1.Health/Watch", h2_grpc, NULL, &watches[c][i]);
        }
        for (int turn = 0; turn < 400 && watches[c][EACH - 1].length == 0 && !watches[c][EACH - 1].closed;
             turn++)
            h2_turn(&connections[c], 20);
    }
    for (size_t c = 0; c < CONNECTIONS; c++)
        for (size_t i = 0; i < EACH; i++)
            refused_count += watches[c][i].closed && watches[c][i].grpc_status == 8;
    assert_true(refused_count >= CONNECTIONS * EACH - THREADS * DN_WATCHERS_MAX);
    assert_true(refused_count <= CONNECTIONS * EACH - DN_WATCHERS_MAX);
    for (size_t c = 0; c < CONNECTIONS; c++) {
        h2_shut(&connections[c]);
        for (size_t i = 0; i < EACH; i++)
            h2_free(&watches[c][i]);
    }
    struct h2_answer again = {.out = (const uint8_t *)"\0\0\0\0\0", .out_length = 5};
    usleep(50000);
    assert_true(h2_open(&connections[0], dn_api_port(cluster.api)));
    h2_start(&connections[0], "POST", "/grpc.health.v1.Health/Watch", h2_grpc, NULL, &again);
    h2_turn(&connections[0], 200);
    assert_false(again.closed);
    h2_shut(&connections[0]);
    h2_free(&again);
}

int main(void)
{
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
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_watches_are_limited),
        cmocka_unit_test(test_watch_and_drain),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
