/* Catalog.Upsert, Delete and Get, and Recommendations.Similar, as operations of a history. */
#include "chaos/workload_class.h"
#include "chaos/workload_client.h"
#include "chaos/workload_take.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_UPSERT "/dunlin.v1.Catalog/Upsert"
#define PATH_DELETE "/dunlin.v1.Catalog/Delete"
#define PATH_GET "/dunlin.v1.Catalog/Get"
#define PATH_SIMILAR "/dunlin.v1.Recommendations/Similar"
#define NAME_MAX_BYTES 24 /* "c-18446744073709551615" */
#define STATUS_NOT_FOUND 5
#define VALUE_KEY "v"
#define UNREADABLE UINT64_MAX /* stands for a value or item that no client ever wrote */

static void item_name(uint64_t item, char ret_name[NAME_MAX_BYTES])
{
    snprintf(ret_name, NAME_MAX_BYTES, "c-%" PRIu64, item);
}

/* ---- writes ----------------------------------------------------------------------------------------- */

enum chaos_type workload_take_upserted(struct workload_answer *answer, uint64_t value,
                                       struct workload_tokens *tokens)
{
    Dunlin__V1__UpsertItemsResponse *response =
        dunlin__v1__upsert_items_response__unpack(NULL, answer->length, answer->bytes);
    if (!response || response->upserted != 1 || response->token.len == 0) {
        workload_malformed(answer, "to one upsert: it counts %u, or has no token",
                           response ? response->upserted : 0);
        dunlin__v1__upsert_items_response__free_unpacked(response, NULL);
        return CHAOS_INFO;
    }
    if (tokens)
        workload_tokens_wrote(tokens, response->token.data, response->token.len, &value, 1);
    dunlin__v1__upsert_items_response__free_unpacked(response, NULL);
    return CHAOS_OK;
}

enum chaos_type workload_upsert(struct workload_client *client, unsigned node, uint64_t item, uint64_t value,
                                struct workload_tokens *tokens)
{
    struct chaos_op op = {.f = CHAOS_UPSERT, .node = node, .key = item, .value = value};
    Dunlin__V1__UpsertItemsRequest request = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    Dunlin__V1__Item message = DUNLIN__V1__ITEM__INIT, *messages = &message;
    Dunlin__V1__Attribute attribute = DUNLIN__V1__ATTRIBUTE__INIT, *attributes = &attribute;
    char name[NAME_MAX_BYTES], text[NAME_MAX_BYTES];
    float vector[WORKLOAD_DIM];
    struct workload_answer answer;
    item_name(item, name);
    snprintf(text, sizeof text, "%" PRIu64, value);
    workload_vector(item, vector);
    attribute.key = (char *)(uintptr_t)VALUE_KEY;
    attribute.value = text;
    message.id = name;
    message.n_vector = WORKLOAD_DIM;
    message.vector = vector;
    message.n_attributes = 1;
    message.attributes = &attributes;
    request.n_items = 1;
    request.items = &messages;
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_UPSERT, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_write_type(answer.status, answer.message);
    if (type == CHAOS_OK)
        type = workload_take_upserted(&answer, value, tokens);
    if (type == CHAOS_OK)
        workload_acknowledged(client, 0);
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}

enum chaos_type workload_take_deleted(struct workload_answer *answer)
{
    Dunlin__V1__DeleteItemsResponse *response =
        dunlin__v1__delete_items_response__unpack(NULL, answer->length, answer->bytes);
    bool fine = response && response->deleted <= 1 && response->token.len > 0;
    if (!fine)
        workload_malformed(answer, "to one deletion: it counts %u, or has no token",
                           response ? response->deleted : 0);
    dunlin__v1__delete_items_response__free_unpacked(response, NULL);
    return fine ? CHAOS_OK : CHAOS_INFO;
}

enum chaos_type workload_delete(struct workload_client *client, unsigned node, uint64_t item)
{
    struct chaos_op op = {.f = CHAOS_DELETE, .node = node, .key = item};
    Dunlin__V1__DeleteItemsRequest request = DUNLIN__V1__DELETE_ITEMS_REQUEST__INIT;
    char name[NAME_MAX_BYTES], *names = name;
    struct workload_answer answer;
    item_name(item, name);
    request.n_ids = 1;
    request.ids = &names;
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_DELETE, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_write_type(answer.status, answer.message);
    if (type == CHAOS_OK)
        type = workload_take_deleted(&answer);
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}

/* ---- reads ------------------------------------------------------------------------------------------ */

/* Level and token of a read, in the question and in the history. */
static void options_fill(struct workload_client *client, struct chaos_op *op,
                         Dunlin__V1__ReadOptions *options, enum chaos_level level, bool with_token,
                         const struct workload_tokens *tokens)
{
    const struct workload_token *given =
        with_token && tokens ? workload_tokens_pick(tokens, &client->random) : NULL;
    op->level = level == CHAOS_SESSION && !given ? CHAOS_LOCAL : level;
    dunlin__v1__read_options__init(options);
    options->level = (Dunlin__V1__ReadLevel)op->level;
    if (given) {
        options->token = (ProtobufCBinaryData){given->length, given->bytes};
        op->token = given->covers;
        op->token_count = given->covers_count;
    }
}

static bool take_freshness(const Dunlin__V1__Freshness *freshness, struct chaos_op *op)
{
    if (!freshness)
        return false;
    op->age_known = freshness->age_known;
    op->age_us = freshness->age_us;
    op->shard = freshness->shard;
    op->applied = freshness->applied_index;
    return true;
}

static uint64_t value_of(const Dunlin__V1__Item *item)
{
    uint64_t value = UNREADABLE;
    for (size_t i = 0; i < item->n_attributes; i++)
        if (strcmp(item->attributes[i]->key, VALUE_KEY) == 0)
            (void)workload_number(item->attributes[i]->value, "", &value);
    return value;
}

enum chaos_type workload_take_item(struct workload_answer *answer, struct chaos_op *op)
{
    Dunlin__V1__GetItemResponse *response =
        dunlin__v1__get_item_response__unpack(NULL, answer->length, answer->bytes);
    enum chaos_type type = CHAOS_FAIL;
    if (response && response->item && response->version > 0 && take_freshness(response->freshness, op)) {
        uint64_t named = UNREADABLE;
        (void)workload_number(response->item->id, "c-", &named);
        op->found = true;
        op->version = response->version;
        op->value = named == op->key ? value_of(response->item) : UNREADABLE;
        type = CHAOS_OK;
    } else {
        workload_malformed(answer, "an item: it is none, or has no version or freshness");
    }
    dunlin__v1__get_item_response__free_unpacked(response, NULL);
    return type;
}

enum chaos_type workload_get(struct workload_client *client, unsigned node, uint64_t item,
                             enum chaos_level level, bool with_token, struct workload_tokens *tokens)
{
    struct chaos_op op = {.f = CHAOS_GET, .node = node, .key = item};
    Dunlin__V1__GetItemRequest request = DUNLIN__V1__GET_ITEM_REQUEST__INIT;
    Dunlin__V1__ReadOptions options;
    char name[NAME_MAX_BYTES];
    struct workload_answer answer;
    options_fill(client, &op, &options, level, with_token, tokens);
    item_name(item, name);
    request.id = name;
    request.read = &options;
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_GET, &request.base, client->deadline_ms, &answer);
    /* "No such item" is an observation: found is false. It tells no age. */
    enum chaos_type type = answer.status == STATUS_NOT_FOUND ? CHAOS_OK : workload_read_type(answer.status);
    if (answer.status == 0)
        type = workload_take_item(&answer, &op);
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}

static bool all_differ(const Dunlin__V1__ItemsResponse *response)
{
    for (size_t i = 0; i < response->n_items; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(response->items[i]->id, response->items[k]->id) == 0)
                return false;
    return true;
}

enum chaos_type workload_take_near(struct workload_answer *answer, struct chaos_op *op,
                                   uint64_t near[WORKLOAD_NEAR])
{
    Dunlin__V1__ItemsResponse *response =
        dunlin__v1__items_response__unpack(NULL, answer->length, answer->bytes);
    enum chaos_type type = CHAOS_FAIL;
    if (response && response->n_items <= WORKLOAD_NEAR && all_differ(response) &&
        take_freshness(response->freshness, op)) {
        for (size_t i = 0; i < response->n_items; i++) {
            near[i] = UNREADABLE;
            (void)workload_number(response->items[i]->id, "c-", &near[i]);
        }
        op->near = near;
        op->near_count = response->n_items;
        type = CHAOS_OK;
    } else {
        workload_malformed(answer, "items: it is no list of %d different ones at most with a freshness",
                           WORKLOAD_NEAR);
    }
    dunlin__v1__items_response__free_unpacked(response, NULL);
    return type;
}

enum chaos_type workload_similar(struct workload_client *client, unsigned node, uint64_t item,
                                 enum chaos_level level, bool with_token, struct workload_tokens *tokens)
{
    struct chaos_op op = {.f = CHAOS_SIMILAR, .node = node, .key = item};
    Dunlin__V1__SimilarRequest request = DUNLIN__V1__SIMILAR_REQUEST__INIT;
    Dunlin__V1__ReadOptions options;
    float vector[WORKLOAD_DIM];
    uint64_t near[WORKLOAD_NEAR];
    struct workload_answer answer;
    options_fill(client, &op, &options, level, with_token, tokens);
    workload_vector(item, vector);
    request.n_vector = WORKLOAD_DIM;
    request.vector = vector;
    request.k = WORKLOAD_NEAR;
    request.read = &options;
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_SIMILAR, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_read_type(answer.status);
    if (type == CHAOS_OK)
        type = workload_take_near(&answer, &op, near);
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}
