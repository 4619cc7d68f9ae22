/* Catalog: Upsert, Delete, Get. Writes are records of group 0. */
#include "api/service.h"

#include <stdio.h>
#include <string.h>

#define RESULT_HEAD_BYTES 16

/* Proposes what is in the thread's scratch buffer to group 0. */
static void propose(struct dn_call *call, size_t count, void (*resume)(struct dn_call *call))
{
    struct dn_buffer *scratch = &call->thread->scratch;
    if (scratch->failed) {
        dn_call_fail(call, DN_EXHAUSTED,
                     "the items take more than %u bytes as one record: send fewer in a call", DN_RECORD_MAX);
        return;
    }
    uint8_t *record = dn_arena_memdup(call->arena, scratch->bytes, scratch->length);
    if (!record) {
        dn_fail_memory(call);
        return;
    }
    struct dn_op *op = dn_call_op(call, RESULT_HEAD_BYTES + count);
    if (!op)
        return;
    dn_op_propose(op, dn_call_app(call)->options.consensus, 0, record, scratch->length);
    dn_call_park(call, resume);
}

/* The outcomes of the only op. NULL: answered. */
static const uint8_t *outcomes_of(struct dn_call *call, uint32_t *ret_count, ProtobufCBinaryData *ret_token)
{
    const struct dn_op *op = call->ops;
    const uint8_t *outcomes = NULL;
    struct dn_error err = {.code = DN_OK};
    if (op->code != DN_OK) {
        dn_call_fail(call, op->code, "%s (the change may or may not be made: send it again)", op->message);
        return NULL;
    }
    if (dn_catalog_result_parse(op->result, op->result_length, ret_count, &outcomes, &err) != DN_OK) {
        dn_call_fail(call, DN_INTERNAL, "the catalogue did not understand the change: %s", err.message);
        return NULL;
    }
    struct dn_token token = {.count = 0};
    dn_token_raise(&token, 0, op->index);
    return dn_token_give(call, &token, ret_token) ? outcomes : NULL;
}

static void upsert_resume(struct dn_call *call)
{
    Dunlin__V1__UpsertItemsResponse response = DUNLIN__V1__UPSERT_ITEMS_RESPONSE__INIT;
    uint32_t count = 0, refused = UINT32_MAX;
    const uint8_t *outcomes = outcomes_of(call, &count, &response.token);
    if (!outcomes)
        return;
    for (uint32_t i = 0; i < count; i++) {
        if (outcomes[i] == DN_ITEM_OK)
            response.upserted++;
        else if (refused == UINT32_MAX)
            refused = i;
    }
    if (refused == UINT32_MAX) {
        dn_call_reply(call, &response.base);
        return;
    }
    switch (outcomes[refused]) {
    case DN_ITEM_WRONG_DIM:
        dn_call_fail(
            call, DN_PRECONDITION,
            "items[%u].vector: the catalogue's vectors have another dimension; %u of %u items were stored",
            refused, response.upserted, count);
        return;
    case DN_ITEM_NO_ROOM:
        dn_call_fail(call, DN_EXHAUSTED, "items[%u]: the catalogue is full; %u of %u items were stored",
                     refused, response.upserted, count);
        return;
    default:
        dn_call_fail(call, DN_INVALID, "items[%u]: refused by the catalogue; %u of %u items were stored",
                     refused, response.upserted, count);
        return;
    }
}

static bool count_fits(struct dn_call *call, const char *field, size_t count)
{
    if (count >= 1 && count <= DN_ITEMS_PER_CALL_MAX)
        return true;
    dn_call_fail(call, DN_INVALID, "%s: %zu of them; from 1 to %d in a call", field, count,
                 DN_ITEMS_PER_CALL_MAX);
    return false;
}

void dn_svc_catalog_upsert(struct dn_call *call, const uint8_t *message, size_t length)
{
    Dunlin__V1__UpsertItemsRequest *request =
        dn_call_unpack(call, &dunlin__v1__upsert_items_request__descriptor, message, length);
    if (!request || !count_fits(call, "items", request->n_items))
        return;
    struct dn_item *items = dn_arena_alloc(call->arena, request->n_items * sizeof *items);
    if (!items) {
        dn_fail_memory(call);
        return;
    }
    uint32_t dim = 0;
    for (size_t i = 0; i < request->n_items; i++) {
        if (!dn_check_item(call, i, request->items[i], &items[i]))
            return;
        if (dim && items[i].dim && items[i].dim != dim) {
            dn_call_fail(call, DN_INVALID, "items[%zu].vector: %u numbers; an item before it has %u", i,
                         items[i].dim, dim);
            return;
        }
        dim = items[i].dim ? items[i].dim : dim;
    }
    dn_buffer_clear(&call->thread->scratch);
    dn_catalog_record_upsert(&call->thread->scratch, items, request->n_items);
    propose(call, request->n_items, upsert_resume);
}

static void delete_resume(struct dn_call *call)
{
    Dunlin__V1__DeleteItemsResponse response = DUNLIN__V1__DELETE_ITEMS_RESPONSE__INIT;
    uint32_t count = 0;
    const uint8_t *outcomes = outcomes_of(call, &count, &response.token);
    if (!outcomes)
        return;
    for (uint32_t i = 0; i < count; i++)
        response.deleted += outcomes[i] == DN_ITEM_OK;
    dn_call_reply(call, &response.base);
}

void dn_svc_catalog_delete(struct dn_call *call, const uint8_t *message, size_t length)
{
    Dunlin__V1__DeleteItemsRequest *request =
        dn_call_unpack(call, &dunlin__v1__delete_items_request__descriptor, message, length);
    if (!request || !count_fits(call, "ids", request->n_ids))
        return;
    uint16_t *lengths = dn_arena_alloc(call->arena, request->n_ids * sizeof *lengths);
    if (!lengths) {
        dn_fail_memory(call);
        return;
    }
    for (size_t i = 0; i < request->n_ids; i++) {
        char field[32];
        snprintf(field, sizeof field, "ids[%zu]", i);
        if (!dn_check_id(call, field, request->ids[i]))
            return;
        lengths[i] = (uint16_t)strlen(request->ids[i]);
    }
    dn_buffer_clear(&call->thread->scratch);
    dn_catalog_record_delete(&call->thread->scratch, (const char *const *)request->ids, lengths,
                             request->n_ids);
    propose(call, request->n_ids, delete_resume);
}

/* The item as a message, in the arena. NULL: out of memory. */
static Dunlin__V1__Item *item_give(struct dn_call *call, const struct dn_item *from, bool with_vector)
{
    Dunlin__V1__Item *item = dn_arena_alloc(call->arena, sizeof *item);
    size_t count = from->attribute_count;
    Dunlin__V1__Attribute *attributes = dn_arena_alloc(call->arena, count * sizeof *attributes);
    Dunlin__V1__Attribute **pointers = dn_arena_alloc(call->arena, count * sizeof *pointers);
    if (!item || !attributes || !pointers)
        return NULL;
    dunlin__v1__item__init(item);
    item->id = dn_arena_strndup(call->arena, from->id, from->id_length);
    item->category = dn_arena_strndup(call->arena, from->category, from->category_length);
    if (!item->id || !item->category)
        return NULL;
    item->has_price = from->price == from->price; /* not NaN */
    item->price = item->has_price ? from->price : 0;
    item->unavailable = !from->available;
    if (with_vector && from->vector) {
        item->n_vector = from->dim;
        item->vector = (float *)(uintptr_t)from->vector; /* packed before the epoch ends */
    }
    for (size_t i = 0; i < count; i++) {
        const struct dn_attribute *attribute = &from->attributes[i];
        dunlin__v1__attribute__init(&attributes[i]);
        attributes[i].key = dn_arena_strndup(call->arena, attribute->key, attribute->key_length);
        attributes[i].value = dn_arena_strndup(call->arena, attribute->value, attribute->value_length);
        if (!attributes[i].key || !attributes[i].value)
            return NULL;
        pointers[i] = &attributes[i];
    }
    item->n_attributes = count;
    item->attributes = pointers;
    return item;
}

static void get_next(struct dn_call *call, const struct dn_read *read, void *state)
{
    const struct dn_app *app = dn_call_app(call);
    const Dunlin__V1__GetItemRequest *request = state;
    struct dn_item item;
    if (dn_catalog_get(app->options.catalog, request->id, strlen(request->id), &item) != DN_OK) {
        dn_call_fail(call, DN_NOT_FOUND, "id: no item '%s' in the catalogue", request->id);
        return;
    }
    Dunlin__V1__GetItemResponse response = DUNLIN__V1__GET_ITEM_RESPONSE__INIT;
    Dunlin__V1__Freshness freshness;
    dn_read_freshness(call, read, &freshness);
    response.freshness = &freshness;
    response.version = item.version;
    response.item = item_give(call, &item, request->include_vector);
    if (response.item)
        dn_call_reply(call, &response.base);
    else
        dn_fail_memory(call);
}

void dn_svc_catalog_get(struct dn_call *call, const uint8_t *message, size_t length)
{
    Dunlin__V1__GetItemRequest *request =
        dn_call_unpack(call, &dunlin__v1__get_item_request__descriptor, message, length);
    if (!request || !dn_check_id(call, "id", request->id))
        return;
    uint32_t group = 0;
    dn_read_begin(call, request->read, &group, 1, get_next, request);
}
