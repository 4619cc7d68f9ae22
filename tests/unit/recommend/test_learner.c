/* Learning from clicks through real shards and a real catalogue: the learner finds what predicts, a network
 * that leads serves, and the model as bytes. */
#include "near_world.h"

/* ---- learning ---------------------------------------------------------------------------------------- */

/* The last item before always comes again, and rules are noise: what no default weights know. */
static void the_learner_finds_what_predicts(void **state)
{
    struct world *w = world_create();
    struct dn_model model;
    struct dn_event_view events[8];
    double first = 0, last = 0;
    int steps = 0;

    (void)state;
    dn_model_default(&model);
    struct dn_learner *learner = dn_learner_create(&model);
    assert_non_null(learner);
    for (int user = 100; user < 600; user++) {
        int x = (int)below(ITEMS), y = (x + 1 + (int)below(ITEMS - 1)) % ITEMS;
        int items[3] = {x, y, x};
        struct dn_session_view session = session_of(events, items, 3, START_MS + 1000 * (int64_t)user);
        struct dn_learned learned;
        for (int i = 0; i < 3; i++)
            click(w, user, items[i], events[i].time_ms);
        dn_arena_reset(w->arena);
        assert_int_equal(dn_learner_step(learner, &w->view, &w->settings, user_hash(user), &session, w->arena,
                                         &learned, &w->err),
                         DN_OK);
        assert_true(learned.used);
        first += user < 150 ? (double)learned.loss : 0;
        last += user >= 550 ? (double)learned.loss : 0;
        steps++;
    }
    assert_int_equal(steps, 500);
    if (!(last < first / 2))
        fail_msg("the loss of 50 steps was %g first, and %g last", first, last);
    dn_learner_model(learner, &model);
    assert_true(model.weights[0][DN_FEATURE_SEEN_BEFORE] > 0.5f);
    w->view.model = &model;
    ask(w, "ab", (struct dn_recommend_query){.k = 3, .include_seen = true});
    assert_int_equal(at(w, 0), 'a');
    /* And not without what was learned. */
    dn_model_default(&model);
    dn_learner_reset(learner, &model);
    struct dn_model again;
    dn_learner_model(learner, &again);
    assert_memory_equal(&again, &model, sizeof model);
    dn_learner_destroy(learner);
    world_destroy(w);
}

/* Corrections move an answer while the network leads, and not before; a learner brings it that far. */
static void a_network_that_leads_serves(void **state)
{
    struct world *w = world_create();
    struct dn_event_view events[4];
    struct dn_learned learned = {0};
    struct dn_model model;
    int items[3] = {0, 1, 2};
    float before = 0;

    (void)state;
    for (int user = 1; user < 10; user++)
        walk(w, user, 6, user % 3 ? "abc" : "abd");
    dn_model_default(&model);
    w->view.model = &model;
    ask(w, "ab", (struct dn_recommend_query){.k = 4, .include_seen = true});
    char first = w->items[0].item.id[0], second = w->items[1].item.id[0];
    /* One unit, open where the item is not the best one: lifted. */
    model.network.steps = 1;
    model.network.weights[DN_NETWORK_LENGTHS + 1][0] = 1;
    model.network.weights[DN_NETWORK_LEAD][0] = -1;
    model.network.weights[DN_NETWORK_OUT][0] = 19;
    ask(w, "ab", (struct dn_recommend_query){.k = 4, .include_seen = true});
    assert_int_equal(at(w, 0), first);
    model.network.leads = true;
    ask(w, "ab", (struct dn_recommend_query){.k = 4, .include_seen = true});
    assert_int_not_equal(at(w, 0), first);
    assert_true(second != first);
    dn_model_default(&model);
    struct dn_learner *learner = dn_learner_create(&model);
    struct dn_session_view session = session_of(events, items, 3, START_MS + 100000);
    for (int step = 0; step < 30; step++) {
        dn_arena_reset(w->arena);
        assert_int_equal(dn_learner_step(learner, &w->view, &w->settings, user_hash(77), &session, w->arena,
                                         &learned, &w->err),
                         DN_OK);
        assert_true(learned.used && learned.network_loss > 0);
        before = step == 0 ? learned.network_loss : before;
        assert_true(step > 0 || fabsf(learned.network_loss - learned.loss) < 1e-3f);
    }
    assert_true(learned.network_loss < before);
    dn_learner_model(learner, &model);
    assert_int_equal(model.network.steps, 30);
    assert_false(model.network.leads);
    dn_learner_destroy(learner);
    world_destroy(w);
}

static void what_is_no_label(void **state)
{
    struct world *w = world_create();
    struct dn_event_view events[4];
    int items[2] = {0, 1};
    struct dn_learned learned;
    struct dn_model model;

    (void)state;
    dn_model_default(&model);
    struct dn_learner *learner = dn_learner_create(&model);
    walk(w, 1, 6, "ab");
    struct dn_session_view session = session_of(events, items, 2, START_MS);
    session.event_count = 1;
    assert_int_equal(
        dn_learner_step(learner, &w->view, &w->settings, user_hash(1), &session, w->arena, &learned, &w->err),
        DN_OK);
    assert_false(learned.used);
    session.event_count = 2;
    events[1].type = DN_EVENT_DISLIKE;
    assert_int_equal(
        dn_learner_step(learner, &w->view, &w->settings, user_hash(1), &session, w->arena, &learned, &w->err),
        DN_OK);
    assert_false(learned.used);
    events[1].type = DN_EVENT_VIEW;
    events[0].current = false;
    assert_int_equal(
        dn_learner_step(learner, &w->view, &w->settings, user_hash(1), &session, w->arena, &learned, &w->err),
        DN_OK);
    assert_false(learned.used);
    events[0].current = true;
    assert_int_equal(
        dn_learner_step(learner, &w->view, &w->settings, user_hash(1), &session, w->arena, &learned, &w->err),
        DN_OK);
    assert_true(learned.used && learned.rank == 1 && learned.loss > 0);
    dn_learner_destroy(learner);
    world_destroy(w);
}

/* ---- the model's bytes ------------------------------------------------------------------------------- */

static void the_model_as_bytes(void **state)
{
    struct dn_model model = {0}, back;
    struct dn_buffer out;
    struct dn_error err;

    (void)state;
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
            model.weights[v][f] = (float)(int)below(2000) / 64 - 15;
    model.weights[1][2] = NAN;
    model.weights[1][3] = 1e9f;
    model.weights[1][4] = -INFINITY;
    dn_buffer_init(&out, DN_MODEL_BYTES_MAX);
    dn_model_encode(&model, &out);
    assert_false(out.failed);
    assert_int_equal(dn_model_decode(out.bytes, out.length, &back, &err), DN_OK);
    model.weights[1][2] = 0;
    model.weights[1][3] = DN_WEIGHT_MAX;
    model.weights[1][4] = -DN_WEIGHT_MAX;
    assert_memory_equal(&model, &back, sizeof model);
    for (size_t length = 0; length < out.length; length++)
        assert_int_equal(dn_model_decode(out.bytes, length, &back, &err), DN_CORRUPT);
    out.bytes[0] ^= 1;
    assert_int_equal(dn_model_decode(out.bytes, out.length, &back, &err), DN_CORRUPT);
    dn_buffer_free(&out);
    for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
        for (size_t g = 0; g < f; g++)
            assert_string_not_equal(dn_feature_name(f), dn_feature_name(g));
    assert_null(dn_feature_name(DN_FEATURE_COUNT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_learner_finds_what_predicts),
        cmocka_unit_test(a_network_that_leads_serves),
        cmocka_unit_test(what_is_no_label),
        cmocka_unit_test(the_model_as_bytes),
    };

    near_world_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
