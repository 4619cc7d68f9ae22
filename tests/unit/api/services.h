/* Calls of dunlin.v1 on a one-member cluster, for tests of the services: set-up, packing, unpacking,
 * refusals. */
#ifndef DN_TEST_API_SERVICES_H
#define DN_TEST_API_SERVICES_H

#include "cluster.h"

#include "api/token.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "h2.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

static struct cluster cluster;
static struct h2 h2;

static inline int setup(void **state)
{
    (void)state;
    cluster_start(&cluster, (struct dn_api_limits){.message_bytes = 4 << 20});
    return h2_open(&h2, dn_api_port(cluster.api)) ? 0 : -1;
}

static inline int teardown(void **state)
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

static inline void *call(const char *path, const void *request, const ProtobufCMessageDescriptor *answer_type)
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

static inline void refused(const char *path, const void *request, int status, const char *text)
{
    if (call(path, request, &dunlin__v1__ping_response__descriptor))
        fail_msg("%s was not refused: wanted '%s'", path, text);
    if (last_status != status || !strstr(last_message, text))
        fail_msg("%s: status %d '%s'; wanted %d '%s'", path, last_status, last_message, status, text);
}

static inline char *text(const char *constant)
{
    return (char *)(uintptr_t)constant;
}

static inline void event_set(Dunlin__V1__Event *event, const char *user, const char *item, const char *id)
{
    dunlin__v1__event__init(event);
    event->user_id = text(user);
    event->item_id = text(item);
    event->event_id = text(id);
    event->type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK;
}

static inline Dunlin__V1__PublishResponse *publish(Dunlin__V1__Event *events, size_t count)
{
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    Dunlin__V1__Event *pointers[64];
    for (size_t i = 0; i < count; i++)
        pointers[i] = &events[i];
    request.n_events = count;
    request.events = pointers;
    return CALL("Events", "Publish", PublishResponse, publish_response, &request);
}

static inline Dunlin__V1__GetSessionResponse *session_get(const char *user, Dunlin__V1__ReadOptions *read)
{
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    request.user_id = text(user);
    request.read = read;
    return CALL("Sessions", "Get", GetSessionResponse, get_session_response, &request);
}

static inline void catalogue(void)
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

#endif
