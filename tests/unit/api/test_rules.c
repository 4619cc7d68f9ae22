/* The rules of a request on real services: filters as trees, anchors, what was bought, variants, refusals,
 * what is kept of an answer. */
#include "services.h"

#include "session/record.h"

static Dunlin__V1__RecommendResponse *recommend(Dunlin__V1__RecommendRequest *request)
{
    return CALL("Recommendations", "Recommend", RecommendResponse, recommend_response, request);
}

/* ids: those of the answer to a request for all that passes the filter, in the order of the catalogue. */
static void passes(Dunlin__V1__Filter *filter, const char *ids)
{
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    char got[400] = "";
    request.user_id = text("a stranger");
    request.k = 10;
    request.filter = filter;
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    if (!response)
        fail_msg("recommend: %d %s", last_status, last_message);
    static const char *const all[] = {"red shoe",  "blue shoe", "red hat",
                                      "green hat", "no vector", "sold out"};
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < response->n_items; j++)
            if (strcmp(response->items[j]->id, all[i]) == 0)
                snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", got[0] ? "," : "", all[i]);
    FREE(response);
    assert_string_equal(got, ids);
}

static void test_filter_trees(void **state)
{
    (void)state;
    static const char path[] = "/dunlin.v1.Recommendations/Recommend";
    catalogue();
    Dunlin__V1__Filter filter = DUNLIN__V1__FILTER__INIT;
    filter.where = text("category = shoes or price > 40");
    passes(&filter, "red shoe,blue shoe,no vector");
    filter.where = text("not (brand = dune or category prefix h)");
    passes(&filter, "blue shoe");
    filter.where = text("category prefix (sh, x) and price != 20");
    passes(&filter, "red shoe");
    filter.where = text("available = false");
    passes(&filter, "");
    filter.include_unavailable = true;
    passes(&filter, "sold out");

    /* The terms alone, joined by steps, and with a text. */
    char *prefixes[] = {text("ha")};
    Dunlin__V1__FilterTerm begins = DUNLIN__V1__FILTER_TERM__INIT, cheap = DUNLIN__V1__FILTER_TERM__INIT;
    Dunlin__V1__FilterTerm *terms[] = {&begins, &cheap};
    Dunlin__V1__FilterStep steps[4], *pointers[4];
    begins.name = text("category");
    begins.n_prefixes = 1;
    begins.prefixes = prefixes;
    cheap.name = text("price");
    cheap.has_max = true;
    cheap.max = 30;
    filter = (Dunlin__V1__Filter)DUNLIN__V1__FILTER__INIT;
    filter.n_terms = 2;
    filter.terms = terms;
    passes(&filter, "red hat");
    for (size_t i = 0; i < 4; i++) {
        dunlin__v1__filter_step__init(&steps[i]);
        pointers[i] = &steps[i];
    }
    steps[1].count = 1;
    steps[2].join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_OR;
    steps[2].count = 2;
    steps[3].join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_NOT;
    filter.n_steps = 3;
    filter.steps = pointers;
    passes(&filter, "red shoe,blue shoe,red hat,green hat,no vector");
    filter.where = text("price >= 20");
    passes(&filter, "blue shoe,red hat,green hat,no vector");
    filter.n_steps = 4;
    passes(&filter, "");

    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.user_id = text("fay");
    request.k = 1;
    request.filter = &filter;
    filter.where = text("price >= dear");
    refused(path, &request, 3, "filter.where: at character 10: expected a number, not dear");
    filter.where = text("colour = red");
    refused(path, &request, 3, "filter: no item of the catalogue has an attribute 'colour'");
    filter.where = text("");
    steps[2].count = 3;
    refused(path, &request, 3, "filter: step 2 joins 3 results; there are 2");
    filter.n_terms = 0;
    refused(path, &request, 3, "filter: step 0: there is no term 0");
    filter.n_terms = 2;
    begins.name = text("price");
    filter.n_steps = 0;
    refused(path, &request, 3, "filter on 'price': it has no beginning");
    begins.has_max = true;
    refused(path, &request, 3, "filter.terms[0]: set either");
}

static void ids_of(Dunlin__V1__RecommendRequest *request, char *ret, size_t size)
{
    Dunlin__V1__RecommendResponse *response = recommend(request);
    ret[0] = '\0';
    if (!response)
        fail_msg("recommend: %d %s", last_status, last_message);
    for (size_t i = 0; i < response->n_items; i++)
        snprintf(ret + strlen(ret), size - strlen(ret), "%s%s", i ? "," : "", response->items[i]->id);
    FREE(response);
}

static void test_anchor(void **state)
{
    (void)state;
    char got[400];
    catalogue();
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.user_id = text("a stranger");
    request.k = 1;
    request.anchor = text("green hat");
    ids_of(&request, got, sizeof got);
    assert_string_equal(got, "red hat"); /* its nearest neighbour, not the anchor */
    Dunlin__V1__RecommendResponse *first = recommend(&request);
    assert_string_equal(first->items[0]->reason, "similar to 'green hat'"); /* which nobody viewed */
    FREE(first);
    request.include_seen = true;
    request.k = 10;
    ids_of(&request, got, sizeof got);
    assert_null(strstr(got, "green hat")); /* the anchor itself: never */
    request.k = 1;
    request.user_id = text("");
    char *items[] = {text("red shoe")};
    request.n_items = 1;
    request.items = items;
    request.include_seen = false;
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    assert_int_equal(response->session_events, 1); /* the anchor is no event of the session */
    for (size_t i = 0; i < response->n_items; i++)
        assert_null(strstr(response->items[i]->reason, "'green hat', which you"));
    FREE(response);
    request.anchor = text("nowhere");
    refused("/dunlin.v1.Recommendations/Recommend", &request, 5, "anchor: no item 'nowhere'");
    request.anchor = text("\xff");
    if (call("/dunlin.v1.Recommendations/Recommend", &request, &dunlin__v1__recommend_response__descriptor))
        fail_msg("an anchor that is no UTF-8 was taken");
}

static void test_purchased(void **state)
{
    (void)state;
    char got[400];
    Dunlin__V1__Event events[2];
    catalogue();
    event_set(&events[0], "buyer", "red shoe", "p1");
    event_set(&events[1], "buyer", "red hat", "p2");
    events[1].type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY;
    Dunlin__V1__PublishResponse *published = publish(events, 2);
    assert_non_null(published);
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    read.token = published->token;
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.user_id = text("buyer");
    request.k = 10;
    request.read = &read;
    request.include_seen = true;
    ids_of(&request, got, sizeof got);
    assert_non_null(strstr(got, "red hat"));
    request.exclude_purchased = true;
    ids_of(&request, got, sizeof got);
    assert_null(strstr(got, "red hat"));
    assert_non_null(strstr(got, "red shoe")); /* clicked only */
    FREE(published);
}

/* What the metrics page says. */
static size_t metric(const char *line)
{
    struct dn_buffer page;
    dn_buffer_init(&page, 1u << 20);
    dn_metrics_render(cluster.metrics, &page);
    dn_buffer_u8(&page, 0);
    const char *at = strstr((const char *)page.bytes, line);
    if (!at)
        fail_msg("not on the page: %s", line);
    size_t count = strtoul(at + strlen(line), NULL, 10);
    dn_buffer_free(&page);
    return count;
}

static size_t variant_count(const char *variant)
{
    char line[200];
    snprintf(line, sizeof line, "dunlin_recommend_variant_total{experiment=\"test\",variant=\"%s\"} ",
             variant);
    return metric(line);
}

static void test_variants(void **state)
{
    (void)state;
    size_t before = variant_count("diverse");
    catalogue();
    size_t counts[2] = {0};
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.k = 1;
    char user[16];
    for (int i = 0; i < 40; i++) {
        char again[DN_VARIANT_NAME_MAX + 1];
        snprintf(user, sizeof user, "user-%d", i);
        request.user_id = user;
        Dunlin__V1__RecommendResponse *response = recommend(&request);
        assert_non_null(response);
        snprintf(again, sizeof again, "%s", response->variant);
        counts[strcmp(again, "plain") == 0 ? 0 : 1]++;
        FREE(response);
        response = recommend(&request);
        assert_string_equal(response->variant, again);
        FREE(response);
    }
    assert_in_range(counts[0], 10, 30);
    request.variant = text("diverse");
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    assert_string_equal(response->variant, "diverse");
    FREE(response);
    request.variant = text("-");
    response = recommend(&request);
    assert_string_equal(response->variant, "");
    FREE(response);
    request.variant = text("");
    request.user_id = text("");
    char *items[] = {text("red shoe")};
    request.n_items = 1;
    request.items = items;
    response = recommend(&request);
    assert_string_equal(response->variant, ""); /* nobody known */
    FREE(response);
    request.variant = text("no such");
    refused("/dunlin.v1.Recommendations/Recommend", &request, 3,
            "variant: this node's configuration has none");

    assert_int_equal(variant_count("diverse") - before, 2 * counts[1] + 1);
}

/* Over all variants: the user is of one of them. */
static size_t shown_clicks(void)
{
    return metric("dunlin_shown_clicks_total{variant=\"\"} ") +
           metric("dunlin_shown_clicks_total{variant=\"plain\"} ") +
           metric("dunlin_shown_clicks_total{variant=\"diverse\"} ");
}

static size_t shown_hits(const char *source)
{
    static const char *const variants[] = {"", "plain", "diverse"};
    size_t sum = 0;
    for (size_t i = 0; i < 3; i++) {
        char line[200];
        snprintf(line, sizeof line, "dunlin_shown_hits_total{variant=\"%s\",source=\"%s\"} ", variants[i],
                 source);
        sum += metric(line);
    }
    return sum;
}

static void click(const char *user, const char *item, const char *id)
{
    Dunlin__V1__Event event;
    event_set(&event, user, item, id);
    Dunlin__V1__PublishResponse *published = publish(&event, 1);
    assert_non_null(published);
    assert_int_equal(published->accepted, 1);
    FREE(published);
}

static void test_shown_hits(void **state)
{
    (void)state;
    catalogue();
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.user_id = text("looker");
    request.k = 2;
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    assert_non_null(response);
    assert_int_equal(response->n_items, 2);
    size_t clicks = shown_clicks(), hits = shown_hits(response->items[1]->source);
    click("looker", response->items[1]->id, "s1");
    click("looker", "no item at all", "s2");
    assert_int_equal(shown_clicks(), clicks + 2);
    assert_int_equal(shown_hits(response->items[1]->source), hits + 1);
    /* Deleted: forgotten here, too. */
    Dunlin__V1__DeleteSessionRequest delete = DUNLIN__V1__DELETE_SESSION_REQUEST__INIT;
    delete.user_id = text("looker");
    Dunlin__V1__DeleteSessionResponse *deleted =
        CALL("Sessions", "Delete", DeleteSessionResponse, delete_session_response, &delete);
    assert_non_null(deleted);
    FREE(deleted);
    usleep(2000); /* events of the deletion's very millisecond are erased */
    click("looker", response->items[0]->id, "s5");
    assert_int_equal(shown_clicks(), clicks + 2);
    FREE(response);
    request.user_id = text("other looker");
    request.do_not_record = true;
    response = recommend(&request);
    assert_non_null(response);
    click("other looker", response->items[0]->id, "s3");
    assert_int_equal(shown_clicks(), clicks + 2); /* nothing was kept to compare with */
    FREE(response);
    request.do_not_record = false;
    response = recommend(&request);
    click("other looker", response->items[0]->id, "s4");
    assert_int_equal(shown_clicks(), clicks + 3);
    FREE(response);
}

static void on_streamed(struct dn_proposal *proposal, enum dn_code code, uint64_t index,
                        const uint8_t *result, size_t length, const struct dn_error *err)
{
    (void)index, (void)err;
    bool good = code == DN_OK && length > 0 && result[0] == DN_RESULT_OK;
    atomic_store((atomic_int *)proposal->data, good ? 1 : -1);
}

/* As the stream's reader at another node would have it: a batch of one, at that offset. */
static void streamed(const char *user, const char *item, int64_t offset, int64_t time_ms)
{
    static atomic_int done;
    uint32_t group = dn_api_shard_of(user, strlen(user), CLUSTER_SHARDS);
    struct dn_event_in event = {
        .user = dn_keyed_hash128(cluster_key, user, strlen(user)),
        .time_ms = time_ms,
        .offset = offset,
        .weight = DN_WEIGHT_ONE,
        .type = DN_EVENT_CLICK,
        .item = item,
        .item_length = (uint16_t)strlen(item),
    };
    struct dn_buffer record;
    dn_buffer_init(&record, 65536);
    dn_record_stream(&record, "shown", 0, offset == 0 ? DN_OFFSET_UNSET : offset, offset + 1, &event, 1, NULL,
                     0);
    struct dn_proposal proposal = {.group = group,
                                   .record = record.bytes,
                                   .length = record.length,
                                   .deadline_us = dn_monotonic_us() + CLUSTER_WAIT_MS * 1000ull,
                                   .done = on_streamed,
                                   .data = &done};
    atomic_store(&done, 0);
    assert_true(dn_consensus_propose(cluster.consensus, &proposal));
    while (atomic_load(&done) == 0)
        usleep(1000);
    assert_int_equal(atomic_load(&done), 1);
    dn_buffer_free(&record);
}

/* Whatever a click comes by, and once. */
static void test_streamed_hits(void **state)
{
    (void)state;
    catalogue();
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.user_id = text("streamed looker");
    request.k = 3;
    int64_t before_ms = dn_wall_ms() - 1;
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    assert_non_null(response);
    assert_int_equal(response->n_items, 3);
    const char *source = response->items[1]->source, *id = response->items[1]->id;
    size_t clicks = shown_clicks(), hits = shown_hits(source);
    int64_t now_ms = dn_wall_ms();
    streamed("streamed looker", id, 0, before_ms); /* a topic that is read once more */
    assert_int_equal(shown_clicks(), clicks);
    streamed("streamed looker", id, 1, now_ms);
    assert_int_equal(shown_clicks(), clicks + 1);
    assert_int_equal(shown_hits(source), hits + 1);
    streamed("streamed looker", "no item at all", 2, now_ms);
    streamed("streamed looker", "no item at all", 2, now_ms); /* its batch is sent again */
    assert_int_equal(shown_clicks(), clicks + 2);
    click("streamed looker", id, "t1"); /* the same hit, by Publish */
    assert_int_equal(shown_clicks(), clicks + 2);
    Dunlin__V1__Event event;
    event_set(&event, "streamed looker", "no item at all", "t2");
    for (int round = 0; round < 2; round++) {
        Dunlin__V1__PublishResponse *published = publish(&event, 1);
        assert_non_null(published);
        assert_int_equal(published->accepted, round == 0);
        FREE(published);
        assert_int_equal(shown_clicks(), clicks + 3);
    }
    FREE(response);
}

/* Through the whole pipeline: the details are unit.recommend.rerank's. */
static void test_rules_applied(void **state)
{
    (void)state;
    char got[400];
    catalogue();
    char *items[] = {text("green hat")};
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.variant = text("-");
    request.items = items;
    request.n_items = 1;
    request.k = 3;
    ids_of(&request, got, sizeof got);
    assert_string_equal(got, "red hat,blue shoe,red shoe"); /* by the vector; "no vector" is a hat, too */
    Dunlin__V1__Pin pin = DUNLIN__V1__PIN__INIT, sold = DUNLIN__V1__PIN__INIT, *pins[] = {&pin, &sold};
    pin.item_id = text("no vector");
    pin.place = 1;
    sold.item_id = text("sold out");
    sold.place = 2;
    request.n_pins = 2;
    request.pins = pins;
    request.k = 2;
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    assert_non_null(response);
    assert_int_equal(response->n_items, 2);
    assert_string_equal(response->items[0]->id, "no vector");
    assert_string_equal(response->items[0]->source, "pinned");
    assert_string_equal(response->items[0]->reason, "pinned");
    assert_string_equal(response->items[1]->id, "red hat");
    FREE(response);
    request.category_cap = 1; /* the pin is the one hat */
    ids_of(&request, got, sizeof got);
    assert_string_equal(got, "no vector,blue shoe");
    request.n_pins = 0;
    request.k = 5;
    ids_of(&request, got, sizeof got);
    assert_string_equal(got, "red hat,blue shoe");
    request.category_cap = 0;
    Dunlin__V1__Filter dune = DUNLIN__V1__FILTER__INIT;
    Dunlin__V1__Boost boost = DUNLIN__V1__BOOST__INIT, *boosts[] = {&boost};
    dune.where = text("brand = dune");
    boost.filter = &dune;
    boost.plus = 100;
    request.n_boosts = 1;
    request.boosts = boosts;
    request.k = 2;
    ids_of(&request, got, sizeof got);
    assert_string_equal(got, "red shoe,red hat");
}

static uint64_t stored(void)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < CLUSTER_SHARDS; i++) {
        struct dn_shard_stats stats;
        dn_shard_stats(cluster.shards[i], &stats);
        sum += stats.users + stats.items + stats.events_applied + stats.refused;
    }
    return sum;
}

/* Consent not given: the client keeps the session and sends it along; nothing of it stays. */
static void test_nothing_stored(void **state)
{
    (void)state;
    catalogue();
    char *items[] = {text("red shoe"), text("an item nobody knows")};
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    uint64_t before = stored();
    size_t lists = metric("dunlin_shown_lists_total{variant=\"\"} ");
    request.k = 3;
    request.n_items = 2;
    request.items = items;
    request.do_not_record = true;
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    assert_non_null(response);
    assert_int_equal(response->session_events, 2);
    assert_int_equal(response->session_version, 0);
    FREE(response);
    assert_int_equal(stored(), before);
    assert_int_equal(metric("dunlin_shown_lists_total{variant=\"\"} "), lists);
    request.do_not_record = false;
    response = recommend(&request);
    assert_non_null(response);
    FREE(response);
    assert_int_equal(stored(), before);
    assert_int_equal(metric("dunlin_shown_lists_total{variant=\"\"} "), lists + 1); /* counted, for nobody */
}

static void test_rules_refused(void **state)
{
    (void)state;
    static const char path[] = "/dunlin.v1.Recommendations/Recommend";
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    Dunlin__V1__Boost boost = DUNLIN__V1__BOOST__INIT, *boosts[9];
    Dunlin__V1__Pin pin = DUNLIN__V1__PIN__INIT, *pins[21];
    Dunlin__V1__Filter filter = DUNLIN__V1__FILTER__INIT;
    catalogue();
    for (size_t i = 0; i < 21; i++)
        pins[i] = &pin;
    for (size_t i = 0; i < 9; i++)
        boosts[i] = &boost;
    request.user_id = text("fay");
    request.k = 3;
    request.diversity = 1.1f;
    refused(path, &request, 3, "diversity: 1.1; from 0 to 1");
    request.diversity = 0;
    request.boosts = boosts;
    request.pins = pins;
    request.n_boosts = 9;
    refused(path, &request, 3, "9 boosts and 0 pins; at most 8 and 20");
    request.n_boosts = 1;
    refused(path, &request, 3, "boosts[0].filter: must be given");
    boost.filter = &filter;
    filter.where = text("price <");
    refused(path, &request, 3, "boosts[0].filter.where: at character 8: expected a number");
    filter.where = text("price < 50");
    boost.times = -2;
    refused(path, &request, 3, "boosts[0].times: -2");
    request.n_boosts = 0;
    request.n_pins = 21;
    refused(path, &request, 3, "0 boosts and 21 pins");
    request.n_pins = 1;
    refused(path, &request, 3, "pins[0].item_id: empty");
    pin.item_id = text("red hat");
    refused(path, &request, 3, "pins[0].place: 0; from 1 to k, which is 3");
    pin.place = 3;
    request.n_pins = 2;
    refused(path, &request, 3, "pins[1].place: 3, which pins[0] has already");
}

static int setup_experiment(void **state)
{
    cluster_experiment = (struct dn_experiment){
        .name = "test",
        .variants = {{.name = "plain", .share = 0.5},
                     {.name = "diverse", .share = 0.5, .diversity = 0.4f, .fixed_weights = true}},
        .count = 2};
    return setup(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter_trees),   cmocka_unit_test(test_anchor),
        cmocka_unit_test(test_purchased),      cmocka_unit_test(test_variants),
        cmocka_unit_test(test_rules_refused),  cmocka_unit_test(test_rules_applied),
        cmocka_unit_test(test_shown_hits),     cmocka_unit_test(test_streamed_hits),
        cmocka_unit_test(test_nothing_stored),
    };
    return cmocka_run_group_tests(tests, setup_experiment, teardown);
}
