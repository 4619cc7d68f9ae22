/* Requests to the API: the first byte picks the message. The wire check comes first; what it lets through
 * protobuf-c unpacks, and then the checks of fields run, on a call whose client is gone (so that no answer is
 * sent). Items that pass them are understood by the catalogue's state machine. */
#include "api/service.h"
#include "api/wire.h"
#include "base/error.h"
#include "grpc/health/v1/health.pb-c.h"
#include "index/index.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

const unsigned dn_fuzz_runs = 800000;

static const ProtobufCMessageDescriptor *const types[] = {
    &dunlin__v1__publish_request__descriptor,        &dunlin__v1__upsert_items_request__descriptor,
    &dunlin__v1__recommend_request__descriptor,      &dunlin__v1__similar_request__descriptor,
    &dunlin__v1__trending_request__descriptor,       &dunlin__v1__get_session_request__descriptor,
    &dunlin__v1__delete_session_request__descriptor, &dunlin__v1__delete_items_request__descriptor,
    &dunlin__v1__get_item_request__descriptor,       &dunlin__v1__status_request__descriptor,
    &dunlin__v1__ping_request__descriptor,           &grpc__health__v1__health_check_request__descriptor,
    &dunlin__v1__change_member_request__descriptor,  &dunlin__v1__change_model_request__descriptor,
};
#define TYPES (sizeof types / sizeof *types)
#define TYPE_MODEL 13

/* A node without sockets: made once, and no input changes it. */
static struct world {
    struct dn_epoch *epoch;
    struct dn_catalog *catalog;
    struct dn_app app;
    struct dn_server server;
    struct dn_thread thread;
    struct dn_call call;
    struct dn_buffer record, answer;
} world;

static void apply(struct dn_catalog *catalog, const struct dn_item *item)
{
    uint32_t count = 0;
    const uint8_t *outcomes = NULL;
    struct dn_error err;
    dn_buffer_clear(&world.record);
    dn_buffer_clear(&world.answer);
    dn_catalog_record_upsert(&world.record, item, 1);
    DN_ASSERT(!world.record.failed);
    dn_catalog_apply(catalog, 1, 0, 0, world.record.bytes, world.record.length, &world.answer);
    dn_catalog_entry_done(catalog, 1, 0);
    DN_ASSERT(dn_catalog_result_parse(world.answer.bytes, world.answer.length, &count, &outcomes, &err) ==
              DN_OK);
    DN_ASSERT(count == 1 && outcomes[0] != DN_ITEM_INVALID);
}

static void open_world(void)
{
    static const float vector[4] = {1, 0, 0, 0};
    static const struct dn_attribute colour = {"colour", "red", 6, 3};
    struct dn_item item = {.id = "a",
                           .id_length = 1,
                           .vector = vector,
                           .dim = 4,
                           .category = "",
                           .price = (double)NAN,
                           .available = true,
                           .attributes = &colour,
                           .attribute_count = 1};
    world.epoch = dn_epoch_create();
    world.catalog = dn_catalog_create(world.epoch, 4);
    world.call.arena = dn_arena_create(64u << 10, 16u << 20);
    DN_ASSERT(world.epoch != NULL && world.catalog != NULL && world.call.arena != NULL);
    dn_buffer_init(&world.record, 1u << 20);
    dn_buffer_init(&world.answer, 1u << 16);
    apply(world.catalog, &item);
    world.app.options.catalog = world.catalog;
    world.server.options.app = &world.app;
    world.thread.server = &world.server;
    world.call.thread = &world.thread;
}

static void check_item(const Dunlin__V1__Item *message)
{
    struct dn_item item;
    if (!dn_check_item(&world.call, 0, message, &item)) {
        return;
    }
    struct dn_catalog *empty = dn_catalog_create(world.epoch, 4);
    DN_ASSERT(empty != NULL);
    apply(empty, &item);
    dn_catalog_destroy(empty);
    (void)dn_epoch_reclaim(world.epoch, 1000);
}

static void check_filter(const Dunlin__V1__Filter *message)
{
    struct dn_filter filter;
    struct dn_item item;
    if (dn_check_filter(&world.call, "filter", message, &filter)) {
        DN_ASSERT(dn_catalog_get(world.catalog, "a", 1, &item) == DN_OK);
        (void)dn_filter_match(&filter, &item);
    }
}

/* Weights that are taken are those that come back. */
static void check_model(const Dunlin__V1__ChangeModelRequest *message)
{
    struct dn_model_change change;
    struct dn_model weights, again;
    struct dn_error err;
    if (!dn_check_model_change(&world.call, message, &change, &weights) || change.op != DN_MODEL_FIXED) {
        return;
    }
    dn_buffer_clear(&world.record);
    dn_model_encode(&weights, &world.record);
    DN_ASSERT(!world.record.failed && world.record.length <= DN_MODEL_BLOB_MAX);
    DN_ASSERT(dn_model_decode(world.record.bytes, world.record.length, &again, &err) == DN_OK);
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++) {
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++) {
            DN_ASSERT(fabsf(again.weights[v][f] - weights.weights[v][f]) < 1e-3f);
        }
    }
}

static void check_rules(const Dunlin__V1__RecommendRequest *request)
{
    struct dn_rules rules;
    size_t variant;
    if (dn_check_rules(&world.call, request, &rules)) {
        DN_ASSERT(rules.diversity >= 0 && rules.diversity <= 1);
        for (size_t i = 0; i < rules.pin_count; i++) {
            DN_ASSERT(rules.pins[i].place >= 1 && rules.pins[i].place <= request->k);
        }
    }
    (void)dn_check_variant(&world.call, request, &variant);
}

static void check_fields(size_t type, const void *message)
{
    if (type == 0) {
        const Dunlin__V1__PublishRequest *request = message;
        for (size_t i = 0; i < request->n_events; i++) {
            (void)dn_check_id(&world.call, "user_id", request->events[i]->user_id);
            (void)dn_user_hash(&world.app, request->events[i]->user_id);
        }
    } else if (type == 1) {
        const Dunlin__V1__UpsertItemsRequest *request = message;
        for (size_t i = 0; i < request->n_items && i < 8; i++) {
            check_item(request->items[i]);
        }
    } else if (type == 2) {
        const Dunlin__V1__RecommendRequest *request = message;
        (void)dn_check_k(&world.call, request->k);
        check_filter(request->filter);
        check_rules(request);
    } else if (type == 3) {
        const Dunlin__V1__SimilarRequest *request = message;
        (void)dn_check_vector(&world.call, request->vector, request->n_vector);
        check_filter(request->filter);
    } else if (type == 4) {
        check_filter(((const Dunlin__V1__TrendingRequest *)message)->filter);
    } else if (type == TYPE_MODEL) {
        check_model(message);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct dn_error err;
    if (world.catalog == NULL) {
        open_world();
    }
    if (length == 0) {
        return 0;
    }
    size_t type = bytes[0] % TYPES;
    world.call.memory_out = false;
    bool fine = dn_wire_check(types[type], bytes + 1, length - 1, &err) == DN_OK;
    void *message = dn_call_unpack(&world.call, types[type], bytes + 1, length - 1);
    DN_ASSERT(message == NULL || fine);
    DN_ASSERT(message != NULL || !fine || world.call.memory_out);
    if (message != NULL) {
        check_fields(type, message);
    }
    dn_arena_reset(world.call.arena);
    return 0;
}

/* ---- seeds -----------------------------------------------------------------------------------------------
 */

static char *text(const char *constant)
{
    return (char *)(uintptr_t)constant; /* protobuf-c's messages have no const strings */
}

static size_t pack(uint8_t type, const void *message, uint8_t *out, size_t max)
{
    DN_ASSERT(1 + protobuf_c_message_get_packed_size(message) <= max);
    out[0] = type;
    return 1 + protobuf_c_message_pack(message, out + 1);
}

static size_t seed_publish(uint8_t *out, size_t max)
{
    Dunlin__V1__Event events[3], *pointers[3];
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    for (size_t i = 0; i < 3; i++) {
        dunlin__v1__event__init(&events[i]);
        events[i].user_id = text("someone");
        events[i].item_id = text("item");
        events[i].event_id = text(i == 0 ? "" : "id");
        events[i].type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY;
        events[i].time_ms = 1700000000000;
        events[i].weight = 2.5f;
        pointers[i] = &events[i];
    }
    request.n_events = 3;
    request.events = pointers;
    return pack(0, &request, out, max);
}

static size_t seed_upsert(uint8_t *out, size_t max)
{
    static float vector[4] = {1, 2, 3, .5f};
    Dunlin__V1__Attribute attribute = DUNLIN__V1__ATTRIBUTE__INIT, *attributes[] = {&attribute};
    Dunlin__V1__Item item = DUNLIN__V1__ITEM__INIT, *items[] = {&item, &item};
    Dunlin__V1__UpsertItemsRequest request = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    attribute.key = text("colour");
    attribute.value = text("gr\xc3\xbcn");
    item.id = text("a");
    item.category = text("shoes");
    item.n_vector = 4;
    item.vector = vector;
    item.has_price = 1;
    item.price = 9.5;
    item.n_attributes = 1;
    item.attributes = attributes;
    request.n_items = 2;
    request.items = items;
    return pack(1, &request, out, max);
}

static size_t seed_read(uint8_t type, uint8_t *out, size_t max)
{
    static float vector[4] = {1, 2, 3, .5f};
    static char *values[] = {(char *)(uintptr_t) "red", (char *)(uintptr_t) "blue"};
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    Dunlin__V1__FilterTerm in = DUNLIN__V1__FILTER_TERM__INIT, range = DUNLIN__V1__FILTER_TERM__INIT;
    Dunlin__V1__FilterTerm *terms[] = {&in, &range};
    Dunlin__V1__Filter filter = DUNLIN__V1__FILTER__INIT;
    Dunlin__V1__RecommendRequest recommend = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    Dunlin__V1__SimilarRequest similar = DUNLIN__V1__SIMILAR_REQUEST__INIT;
    Dunlin__V1__TrendingRequest trending = DUNLIN__V1__TRENDING_REQUEST__INIT;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    read.token.data = (uint8_t *)text("token");
    read.token.len = 5;
    in.name = text("colour");
    in.n_values = 2;
    in.values = values;
    range.name = text("price");
    range.has_min = 1;
    range.min = 1.5;
    filter.n_terms = 2;
    filter.terms = terms;
    if (type == 3) { /* with all there is */
        static Dunlin__V1__FilterStep steps[3];
        static Dunlin__V1__FilterStep *pointers[3] = {&steps[0], &steps[1], &steps[2]};
        for (size_t i = 0; i < 3; i++) {
            dunlin__v1__filter_step__init(&steps[i]);
        }
        steps[1].count = 1;
        steps[2].join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_OR;
        steps[2].count = 2;
        filter.n_steps = 3;
        filter.steps = pointers;
        filter.where = text("not (colour prefix (r, \"b\") or price < 5) and category != x");
    }
    static Dunlin__V1__Boost boost;
    static Dunlin__V1__Boost *boosts[] = {&boost};
    static Dunlin__V1__Pin pin;
    static Dunlin__V1__Pin *pins[] = {&pin};
    dunlin__v1__boost__init(&boost);
    dunlin__v1__pin__init(&pin);
    boost.filter = &filter;
    boost.times = 2;
    pin.item_id = text("a");
    pin.place = 3;
    recommend.n_boosts = recommend.n_pins = 1;
    recommend.boosts = boosts;
    recommend.pins = pins;
    recommend.diversity = .25f;
    recommend.variant = text("-");
    recommend.user_id = text("someone");
    recommend.k = similar.k = trending.k = 20;
    recommend.read = similar.read = trending.read = &read;
    recommend.filter = similar.filter = trending.filter = &filter;
    similar.n_vector = 4;
    similar.vector = vector;
    return type == 2   ? pack(2, &recommend, out, max)
           : type == 3 ? pack(3, &similar, out, max)
                       : pack(4, &trending, out, max);
}

static size_t seed_model(uint8_t *out, size_t max)
{
    static const char *const names[DN_MODEL_VECTORS] = {"shared", "1 event", "2 events", "3 events",
                                                        "4 events and more"};
    static float weights[2] = {1.5f, -2};
    char *features[2] = {text("rules_rank"), text("seen")};
    Dunlin__V1__ModelVector vectors[DN_MODEL_VECTORS], *pointers[DN_MODEL_VECTORS];
    Dunlin__V1__ChangeModelRequest request = DUNLIN__V1__CHANGE_MODEL_REQUEST__INIT;
    request.op = DUNLIN__V1__MODEL_OP__MODEL_OP_SET;
    request.features = features;
    request.n_features = 2;
    request.vectors = pointers;
    request.n_vectors = DN_MODEL_VECTORS;
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++) {
        dunlin__v1__model_vector__init(&vectors[v]);
        vectors[v].name = text(names[v]);
        vectors[v].weights = weights;
        vectors[v].n_weights = 2;
        pointers[v] = &vectors[v];
    }
    return pack(TYPE_MODEL, &request, out, max);
}

static size_t seed_small(uint8_t type, uint8_t *out, size_t max)
{
    /* Field 1 as text: what all of these begin with, but for Status. */
    static const uint8_t field[] = {0x0a, 4, 'n', 'a', 'm', 'e'};
    DN_ASSERT(max > sizeof field);
    out[0] = type;
    memcpy(out + 1, field, sizeof field);
    return 1 + sizeof field;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    /* Found by this target: a tag spelled out with six bytes, which protobuf-c refuses. */
    static const uint8_t long_tag[] = {8, 0xc5, 0xf4, 0xeb, 0xde, 0x8a, 0, 0, 0, 0x3c, 0x3c};
    if (n == TYPES) {
        memcpy(out, long_tag, sizeof long_tag);
        return sizeof long_tag;
    }
    if (n > TYPES) {
        return 0;
    }
    if (n == TYPE_MODEL) {
        return seed_model(out, max);
    }
    if (n == 0) {
        return seed_publish(out, max);
    }
    if (n == 1) {
        return seed_upsert(out, max);
    }
    return n <= 4 ? seed_read((uint8_t)n, out, max) : seed_small((uint8_t)n, out, max);
}
