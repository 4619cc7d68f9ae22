/* Model.Get and Model.Change against a played consensus and a catalogue that the test writes itself. */
#include "played.h"
#include "recommend/learn.h"
#include "recommend/network.h"

#include <math.h>

#define OP(name) DUNLIN__V1__MODEL_OP__MODEL_OP_##name

static uint64_t index_now;
static struct dn_buffer record, result;

static void apply(const uint8_t *bytes, size_t length)
{
    dn_buffer_clear(&result);
    dn_catalog_apply(catalog, ++index_now, 0, 1700000000123, bytes, length, &result);
    dn_catalog_entry_done(catalog, index_now, 0);
}

static void apply_change(const struct dn_model_change *change)
{
    dn_buffer_clear(&record);
    dn_catalog_record_model(&record, change);
    assert_false(record.failed);
    apply(record.bytes, record.length);
    assert_int_equal(result.bytes[1], DN_MODEL_OK);
}

static Dunlin__V1__GetModelResponse *get(void)
{
    Dunlin__V1__GetModelRequest request = DUNLIN__V1__GET_MODEL_REQUEST__INIT;
    begin("/dunlin.v1.Model/Get", &request);
    return end(&dunlin__v1__get_model_response__descriptor);
}

struct set { /* a request for SET */
    Dunlin__V1__ChangeModelRequest request;
    Dunlin__V1__ModelVector vectors[DN_MODEL_VECTORS + 1], *pointers[DN_MODEL_VECTORS + 1];
    char *features[3];
    float weights[DN_MODEL_VECTORS + 1][3];
};

static void set_make(struct set *set)
{
    static const char *const vector_names[] = {"shared",   "1 event",           "2 events",
                                               "3 events", "4 events and more", "5 events"};
    static const char *const feature_names[] = {"rules_rank", "seen", "vmis"};
    dunlin__v1__change_model_request__init(&set->request);
    set->request.op = OP(SET);
    for (size_t v = 0; v <= DN_MODEL_VECTORS; v++) {
        dunlin__v1__model_vector__init(&set->vectors[v]);
        set->vectors[v].name = (char *)(uintptr_t)vector_names[v];
        set->vectors[v].weights = set->weights[v];
        set->vectors[v].n_weights = 2;
        set->pointers[v] = &set->vectors[v];
        for (size_t f = 0; f < 3; f++)
            set->weights[v][f] = (float)v + 0.25f * (float)f - 1;
    }
    for (size_t f = 0; f < 3; f++)
        set->features[f] = (char *)(uintptr_t)feature_names[f];
    set->request.vectors = set->pointers;
    set->request.n_vectors = DN_MODEL_VECTORS;
    set->request.features = set->features;
    set->request.n_features = 2;
}

static void change_begin(Dunlin__V1__ModelOp op)
{
    Dunlin__V1__ChangeModelRequest request = DUNLIN__V1__CHANGE_MODEL_REQUEST__INIT;
    request.op = op;
    begin("/dunlin.v1.Model/Change", &request);
}

/* The cluster takes what was proposed: as consensus would answer. */
static void commit(void)
{
    await(&played.proposal_count, 1);
    struct dn_proposal *proposal = played.proposals[0];
    assert_int_equal(proposal->group, 0);
    apply(proposal->record, proposal->length);
    proposal->done(proposal, DN_OK, index_now, result.bytes, result.length, NULL);
}

static void know_models(void)
{
    char value[8];
    if (dn_catalog_fact(catalog, DN_MODEL_FACT, value, sizeof value) == DN_OK)
        return;
    dn_buffer_clear(&record);
    dn_catalog_record_fact(&record, DN_MODEL_FACT, "1");
    apply(record.bytes, record.length);
}

static size_t feature(const char *name)
{
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
        if (strcmp(dn_feature_name(f), name) == 0)
            return f;
    fail();
    return 0;
}

/* ---- tests ----------------------------------------------------------------------------------------------
 */

/* First of all: the fact is never taken back. */
static void test_no_change_before_all_members_know(void **state)
{
    (void)state;
    struct set set;
    for (int op = OP(RESET); op <= (int)OP(UNFREEZE); op++) {
        change_begin((Dunlin__V1__ModelOp)op);
        ends_refused(9, "member list");
    }
    set_make(&set);
    begin("/dunlin.v1.Model/Change", &set.request);
    ends_refused(9, "member list");
    assert_int_equal(played.proposal_count, 0);
}

static void test_the_default_is_shown(void **state)
{
    (void)state;
    struct dn_model standard;
    dn_model_default(&standard);
    Dunlin__V1__GetModelResponse *model = get();
    assert_non_null(model);
    assert_false(model->learned || model->frozen);
    assert_int_equal(model->version + model->generation + model->steps + model->node_id, 0);
    assert_non_null(model->freshness);
    assert_int_equal(model->n_features, DN_FEATURE_COUNT);
    assert_int_equal(model->n_vectors, DN_MODEL_VECTORS);
    assert_string_equal(model->features[DN_FEATURE_VMIS + 1], "vmis_rank");
    assert_string_equal(model->vectors[0]->name, "shared");
    assert_string_equal(model->vectors[4]->name, "4 events and more");
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++) {
        assert_int_equal(model->vectors[v]->n_weights, DN_FEATURE_COUNT);
        assert_memory_equal(model->vectors[v]->weights, standard.weights[v], sizeof standard.weights[v]);
    }
    dunlin__v1__get_model_response__free_unpacked(model, NULL);
}

static void test_what_was_learned_is_shown(void **state)
{
    (void)state;
    struct dn_model weights = {0};
    struct dn_buffer bytes;
    know_models();
    weights.weights[3][5] = -7.5f;
    dn_buffer_init(&bytes, DN_MODEL_BYTES_MAX);
    dn_model_encode(&weights, &bytes);
    struct dn_model_change change = {
        .op = DN_MODEL_LEARNED, .node_id = 1, .steps = 4321, .bytes = bytes.bytes, .length = bytes.length};
    struct dn_catalog_model now;
    (void)dn_catalog_model(catalog, &now);
    change.generation = now.generation;
    change.version = now.version;
    apply_change(&change);
    uint64_t version = index_now;
    apply_change(&(struct dn_model_change){.op = DN_MODEL_FREEZE});
    Dunlin__V1__GetModelResponse *model = get();
    assert_non_null(model);
    assert_true(model->learned && model->frozen);
    assert_int_equal(model->version, version);
    assert_int_equal(model->steps, 4321);
    assert_int_equal(model->node_id, 1);
    assert_string_equal(model->node, "first");
    assert_int_equal(model->changed_ms, 1700000000123);
    assert_true(model->vectors[3]->weights[5] == -7.5f && model->vectors[3]->weights[4] == 0);
    assert_null(model->network);
    dunlin__v1__get_model_response__free_unpacked(model, NULL);
    /* Weights of a build that is newer than this one. */
    change.op = DN_MODEL_FIXED;
    change.bytes = (const uint8_t *)"another format";
    change.length = 14;
    apply_change(&change);
    assert_null(get());
    assert_int_equal(answer.grpc_status, 15);
    assert_non_null(strstr(answer.message, "not understood here"));
    dn_buffer_free(&bytes);
}

static void test_the_network_is_shown(void **state)
{
    (void)state;
    static struct dn_challenger challenger;
    struct dn_model start;
    struct dn_buffer bytes;
    struct dn_catalog_model now;
    know_models();
    dn_model_default(&start);
    struct dn_learner *learner = dn_learner_create(&start);
    dn_buffer_init(&bytes, DN_LEARNER_BYTES_MAX);
    dn_learner_save(learner, &bytes);
    dn_challenger_reset(&challenger);
    challenger.network.steps = 6543;
    challenger.network.leads = true;
    challenger.network.loss = 2.25f;
    challenger.network.model_loss = 2.5f;
    dn_challenger_encode(&challenger, &bytes);
    apply_change(&(struct dn_model_change){.op = DN_MODEL_UNFREEZE});
    apply_change(&(struct dn_model_change){.op = DN_MODEL_RESET});
    (void)dn_catalog_model(catalog, &now);
    apply_change(&(struct dn_model_change){.op = DN_MODEL_LEARNED,
                                           .generation = now.generation,
                                           .version = now.version,
                                           .node_id = 1,
                                           .bytes = bytes.bytes,
                                           .length = bytes.length});
    Dunlin__V1__GetModelResponse *model = get();
    assert_non_null(model);
    assert_non_null(model->network);
    assert_true(model->network->leads);
    assert_int_equal(model->network->units, DN_NETWORK_UNITS);
    assert_int_equal(model->network->steps, 6543);
    assert_true(model->network->loss == 2.25f && model->network->weights_loss == 2.5f);
    dunlin__v1__get_model_response__free_unpacked(model, NULL);
    /* Reset drops it. */
    apply_change(&(struct dn_model_change){.op = DN_MODEL_RESET});
    model = get();
    assert_non_null(model);
    assert_null(model->network);
    dunlin__v1__get_model_response__free_unpacked(model, NULL);
    dn_buffer_free(&bytes);
    dn_learner_destroy(learner);
}

static void test_changes(void **state)
{
    (void)state;
    static const struct {
        Dunlin__V1__ModelOp op;
        bool frozen;
        unsigned generations;
    } cases[] = {
        {OP(RESET), false, 1}, {OP(FREEZE), true, 0}, {OP(RESET), true, 1}, {OP(UNFREEZE), false, 0}};
    struct dn_catalog_model now;
    know_models();
    apply_change(&(struct dn_model_change){.op = DN_MODEL_UNFREEZE});
    (void)dn_catalog_model(catalog, &now);
    uint64_t generation = now.generation;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        reset(NULL);
        change_begin(cases[i].op);
        commit();
        Dunlin__V1__ChangeModelResponse *done = end(&dunlin__v1__change_model_response__descriptor);
        assert_non_null(done);
        (void)dn_catalog_model(catalog, &now);
        generation += cases[i].generations;
        assert_int_equal(now.generation, generation);
        assert_int_equal(now.frozen, cases[i].frozen);
        assert_int_equal(done->generation, generation);
        assert_int_equal(done->version, now.version);
        assert_true(done->token.len > 0);
        dunlin__v1__change_model_response__free_unpacked(done, NULL);
    }
}

static void test_weights_are_set(void **state)
{
    (void)state;
    struct set set;
    struct dn_catalog_model now;
    struct dn_model weights;
    struct dn_error err;
    know_models();
    set_make(&set);
    begin("/dunlin.v1.Model/Change", &set.request);
    commit();
    Dunlin__V1__ChangeModelResponse *done = end(&dunlin__v1__change_model_response__descriptor);
    assert_non_null(done);
    dunlin__v1__change_model_response__free_unpacked(done, NULL);
    assert_true(dn_catalog_model(catalog, &now));
    assert_true(now.frozen);
    assert_int_equal(dn_model_decode(now.bytes, now.length, &weights, &err), DN_OK);
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++) {
            float want = f == feature("rules_rank") ? set.weights[v][0]
                         : f == feature("seen")     ? set.weights[v][1]
                                                    : 0;
            assert_true(weights.weights[v][f] == want);
        }
}

static void expect_bad(const struct set *set, const char *part)
{
    begin("/dunlin.v1.Model/Change", &set->request);
    ends_refused(3, part);
    assert_int_equal(played.proposal_count, 0);
}

static void test_bad_requests(void **state)
{
    (void)state;
    struct set set;
    know_models();
    change_begin(OP(UNSPECIFIED));
    ends_refused(3, "op: 0");
    change_begin((Dunlin__V1__ModelOp)99);
    ends_refused(3, "op: 99");
    change_begin(OP(SET));
    ends_refused(3, "vectors: 0 of 0 features");
    set_make(&set);
    set.request.op = OP(RESET);
    expect_bad(&set, "features: goes with SET only");
    set.request.n_features = 0;
    expect_bad(&set, "vectors: goes with SET only");
    set_make(&set);
    set.request.n_vectors = DN_MODEL_VECTORS - 1;
    expect_bad(&set, "vectors: 4 of 2 features");
    set.request.n_vectors = DN_MODEL_VECTORS + 1;
    expect_bad(&set, "vectors: 6 of 2 features");
    set_make(&set);
    set.vectors[2].n_weights = 3;
    expect_bad(&set, "vectors[2].weights: 3 of them");
    set_make(&set);
    set.vectors[1].name = set.vectors[2].name;
    expect_bad(&set, "vectors[1].name: not '1 event'");
    set_make(&set);
    set.features[1] = set.features[0];
    expect_bad(&set, "features[1]: 'rules_rank' is given twice");
    set.features[1] = (char *)(uintptr_t) "rules_runk";
    expect_bad(&set, "features[1]: 'rules_runk' is no feature");
    static const float bad[] = {NAN, INFINITY, -1000.5f, 1001};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        set_make(&set);
        set.weights[4][1] = bad[i];
        expect_bad(&set, "vectors[4].weights[1]: from -1000 to 1000");
    }
}

static void test_trouble(void **state)
{
    (void)state;
    struct dn_error err = {.code = DN_DEADLINE, .message = "no leader"};
    know_models();
    change_begin(OP(FREEZE));
    await(&played.proposal_count, 1);
    played.proposals[0]->done(played.proposals[0], DN_DEADLINE, 0, NULL, 0, &err);
    ends_refused(4, "may or may not be made");
    reset(NULL);
    atomic_store(&full_groups, 1);
    change_begin(OP(FREEZE));
    ends_refused(8, "queue");
    reset(NULL);
    static const uint8_t off[18] = {0, DN_MODEL_OFF}, strange[2] = {0, 77};
    change_begin(OP(RESET));
    await(&played.proposal_count, 1);
    played.proposals[0]->done(played.proposals[0], DN_OK, 5, off, sizeof off, NULL);
    ends_refused(9, "no model yet");
    reset(NULL);
    change_begin(OP(RESET));
    await(&played.proposal_count, 1);
    played.proposals[0]->done(played.proposals[0], DN_OK, 5, strange, sizeof strange, NULL);
    ends_refused(13, "malformed");
}

static int open_all(void **state)
{
    dn_buffer_init(&record, 1u << 16);
    dn_buffer_init(&result, 1u << 16);
    return setup(state);
}

static int close_all(void **state)
{
    dn_buffer_free(&record);
    dn_buffer_free(&result);
    return teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_no_change_before_all_members_know, reset),
        cmocka_unit_test_setup(test_the_default_is_shown, reset),
        cmocka_unit_test_setup(test_what_was_learned_is_shown, reset),
        cmocka_unit_test_setup(test_the_network_is_shown, reset),
        cmocka_unit_test_setup(test_changes, reset),
        cmocka_unit_test_setup(test_weights_are_set, reset),
        cmocka_unit_test_setup(test_bad_requests, reset),
        cmocka_unit_test_setup(test_trouble, reset),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
