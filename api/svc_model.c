/* Model: Get and Change. The weights in group 0's state, by name; a change is a record of group 0. */
#include "api/service.h"

#include <math.h>
#include <string.h>

#define RESULT_BYTES 32

static const char *const vector_names[DN_MODEL_VECTORS] = {"shared", "1 event", "2 events", "3 events",
                                                           "4 events and more"};
_Static_assert(DN_MODEL_LENGTHS == 4, "every vector has a name");

static char *text(const char *constant)
{
    return (char *)(uintptr_t)constant; /* protobuf-c does not write to it */
}

/* ---- Get ------------------------------------------------------------------------------------------------
 */

/* The weights in force. In an epoch. */
static bool weights_read(struct dn_call *call, const struct dn_catalog_model *from, struct dn_model *ret)
{
    struct dn_error err = {.code = DN_OK};

    dn_model_default(ret);
    if (from->bytes == NULL || dn_model_decode(from->bytes, from->length, ret, &err) == DN_OK)
        return true;
    dn_call_fail(call, DN_CORRUPT, "the weights of version %llu are not understood here: %s",
                 (unsigned long long)from->version, err.message);
    return false;
}

/* False: out of memory. */
static bool vectors_give(struct dn_call *call, struct dn_model *model, Dunlin__V1__GetModelResponse *response)
{
    Dunlin__V1__ModelVector *vectors = dn_arena_alloc(call->arena, DN_MODEL_VECTORS * sizeof *vectors);
    response->features = dn_arena_alloc(call->arena, DN_FEATURE_COUNT * sizeof *response->features);
    response->vectors = dn_arena_alloc(call->arena, DN_MODEL_VECTORS * sizeof *response->vectors);
    if (!vectors || !response->features || !response->vectors)
        return false;
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
        response->features[f] = text(dn_feature_name(f));
    response->n_features = DN_FEATURE_COUNT;
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++) {
        dunlin__v1__model_vector__init(&vectors[v]);
        vectors[v].name = text(vector_names[v]);
        vectors[v].weights = model->weights[v];
        vectors[v].n_weights = DN_FEATURE_COUNT;
        response->vectors[v] = &vectors[v];
    }
    response->n_vectors = DN_MODEL_VECTORS;
    return true;
}

static void network_give(const struct dn_network *network, Dunlin__V1__ModelNetwork *ret,
                         Dunlin__V1__GetModelResponse *response)
{
    if (network->steps == 0)
        return;
    dunlin__v1__model_network__init(ret);
    ret->leads = network->leads;
    ret->units = DN_NETWORK_UNITS;
    ret->steps = network->steps;
    ret->loss = network->loss;
    ret->weights_loss = network->model_loss;
    response->network = ret;
}

static void get_next(struct dn_call *call, const struct dn_read *read, void *state)
{
    (void)state;
    struct dn_catalog_model from;
    struct dn_model model;
    Dunlin__V1__Freshness freshness;
    Dunlin__V1__ModelNetwork network;
    Dunlin__V1__GetModelResponse response = DUNLIN__V1__GET_MODEL_RESPONSE__INIT;
    response.learned = dn_catalog_model(dn_call_app(call)->options.catalog, &from);
    if (!weights_read(call, &from, &model))
        return;
    dn_read_freshness(call, read, &freshness);
    response.freshness = &freshness;
    response.version = from.version;
    response.generation = from.generation;
    response.frozen = from.frozen;
    response.steps = from.steps;
    response.node_id = from.node_id;
    response.node = text(dn_member_name(dn_call_app(call), from.node_id));
    response.changed_ms = from.time_ms;
    network_give(&model.network, &network, &response);
    if (vectors_give(call, &model, &response))
        dn_call_reply(call, &response.base);
    else
        dn_fail_memory(call);
}

void dn_svc_model_get(struct dn_call *call, const uint8_t *message, size_t length)
{
    Dunlin__V1__GetModelRequest *request =
        dn_call_unpack(call, &dunlin__v1__get_model_request__descriptor, message, length);
    uint32_t group = 0;
    if (request)
        dn_read_begin(call, request->read, &group, 1, get_next, request);
}

/* ---- Change ---------------------------------------------------------------------------------------------
 */

static bool vector_check(struct dn_call *call, const Dunlin__V1__ChangeModelRequest *request, size_t v)
{
    const Dunlin__V1__ModelVector *vector = request->vectors[v];
    if (strcmp(vector->name, vector_names[v]) != 0) {
        dn_call_fail(call, DN_INVALID, "vectors[%zu].name: not '%s'; vectors come in the order of Get", v,
                     vector_names[v]);
        return false;
    }
    if (vector->n_weights != request->n_features) {
        dn_call_fail(call, DN_INVALID, "vectors[%zu].weights: %zu of them; one for each of the %zu features",
                     v, vector->n_weights, request->n_features);
        return false;
    }
    for (size_t f = 0; f < request->n_features; f++) {
        if (!(fabsf(vector->weights[f]) <= DN_WEIGHT_MAX)) { /* no number neither */
            dn_call_fail(call, DN_INVALID, "vectors[%zu].weights[%zu]: from %d to %d", v, f,
                         -(int)DN_WEIGHT_MAX, (int)DN_WEIGHT_MAX);
            return false;
        }
    }
    return true;
}

/* The number of the feature; DN_FEATURE_COUNT: there is none of that name. */
static size_t feature_find(const char *name)
{
    size_t f = 0;
    while (f < DN_FEATURE_COUNT && strcmp(dn_feature_name(f), name) != 0)
        f++;
    return f;
}

static bool weights_check(struct dn_call *call, const Dunlin__V1__ChangeModelRequest *request,
                          struct dn_model *ret)
{
    bool given[DN_FEATURE_COUNT] = {false};
    memset(ret, 0, sizeof *ret);
    if (request->n_vectors != DN_MODEL_VECTORS || request->n_features == 0) {
        dn_call_fail(call, DN_INVALID, "vectors: %zu of %zu features; SET needs %u, as Get gives them",
                     request->n_vectors, request->n_features, DN_MODEL_VECTORS);
        return false;
    }
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        if (!vector_check(call, request, v))
            return false;
    for (size_t i = 0; i < request->n_features; i++) {
        size_t f = feature_find(request->features[i]);
        if (f == DN_FEATURE_COUNT || given[f]) {
            dn_call_fail(call, DN_INVALID, "features[%zu]: '%.64s' is %s", i, request->features[i],
                         f == DN_FEATURE_COUNT ? "no feature of this server" : "given twice");
            return false;
        }
        given[f] = true;
        for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
            ret->weights[v][f] = request->vectors[v]->weights[i];
    }
    return true;
}

bool dn_check_model_change(struct dn_call *call, const Dunlin__V1__ChangeModelRequest *request,
                           struct dn_model_change *ret, struct dn_model *ret_weights)
{
    *ret = (struct dn_model_change){.op = DN_MODEL_RESET};
    switch ((int)request->op) {
    case DUNLIN__V1__MODEL_OP__MODEL_OP_RESET:
        break;
    case DUNLIN__V1__MODEL_OP__MODEL_OP_FREEZE:
        ret->op = DN_MODEL_FREEZE;
        break;
    case DUNLIN__V1__MODEL_OP__MODEL_OP_UNFREEZE:
        ret->op = DN_MODEL_UNFREEZE;
        break;
    case DUNLIN__V1__MODEL_OP__MODEL_OP_SET:
        ret->op = DN_MODEL_FIXED;
        return weights_check(call, request, ret_weights);
    default:
        dn_call_fail(call, DN_INVALID, "op: %d; one of RESET (1), FREEZE (2), UNFREEZE (3), SET (4)",
                     (int)request->op);
        return false;
    }
    if (request->n_features + request->n_vectors > 0) {
        dn_call_fail(call, DN_INVALID, "%s: goes with SET only",
                     request->n_features > 0 ? "features" : "vectors");
        return false;
    }
    return true;
}

static void change_resume(struct dn_call *call)
{
    const struct dn_op *op = call->ops;
    struct dn_model_result result;
    struct dn_error err = {.code = DN_OK};
    if (op->code != DN_OK) {
        dn_call_fail(call, op->code, "%s (the change may or may not be made: send it again)", op->message);
        return;
    }
    if (dn_catalog_model_result_parse(op->result, op->result_length, &result, &err) != DN_OK) {
        dn_call_fail(call, DN_INTERNAL, "the model's change: %s", err.message);
        return;
    }
    if (result.outcome != DN_MODEL_OK) {
        dn_call_fail(call, DN_PRECONDITION, "the cluster has no model yet: try again in a few seconds");
        return;
    }
    Dunlin__V1__ChangeModelResponse response = DUNLIN__V1__CHANGE_MODEL_RESPONSE__INIT;
    struct dn_token token = {.count = 0};
    response.generation = result.generation;
    response.version = result.version;
    dn_token_raise(&token, 0, op->index);
    if (dn_token_give(call, &token, &response.token))
        dn_call_reply(call, &response.base);
}

/* An older build in the cluster would stop at the record: it is not sent before the cluster has said that it
 * may be. */
static bool model_known(struct dn_call *call)
{
    char value[8];
    dn_epoch_enter(call->thread->reader);
    enum dn_code code =
        dn_catalog_fact(dn_call_app(call)->options.catalog, DN_MODEL_FACT, value, sizeof value);
    dn_epoch_leave(call->thread->reader);
    if (code != DN_NOT_FOUND)
        return true;
    dn_call_fail(call, DN_PRECONDITION,
                 "the cluster has no model yet: it gets one once all members are connected and of a build "
                 "that knows it (`dunlin member list`)");
    return false;
}

void dn_svc_model_change(struct dn_call *call, const uint8_t *message, size_t length)
{
    Dunlin__V1__ChangeModelRequest *request =
        dn_call_unpack(call, &dunlin__v1__change_model_request__descriptor, message, length);
    struct dn_model_change change;
    struct dn_model weights;
    if (!request || !dn_check_model_change(call, request, &change, &weights) || !model_known(call))
        return;
    struct dn_buffer *scratch = &call->thread->scratch;
    uint8_t *blob = NULL;
    dn_buffer_clear(scratch);
    if (change.op == DN_MODEL_FIXED) {
        dn_model_encode(&weights, scratch);
        change.length = scratch->length;
        change.bytes = blob = dn_arena_memdup(call->arena, scratch->bytes, scratch->length);
        dn_buffer_clear(scratch);
    }
    if (change.op != DN_MODEL_FIXED || blob)
        dn_catalog_record_model(scratch, &change);
    uint8_t *record = dn_arena_memdup(call->arena, scratch->bytes, scratch->length);
    if (scratch->failed || !record || scratch->length == 0) {
        dn_fail_memory(call);
        return;
    }
    struct dn_op *op = dn_call_op(call, RESULT_BYTES);
    if (!op)
        return;
    dn_op_propose(op, dn_call_app(call)->options.consensus, 0, record, scratch->length);
    dn_call_park(call, change_resume);
}
