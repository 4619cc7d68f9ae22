/* Weights that a thread keeps decoded are those in force, whatever became of the catalogue's: the answer is
 * that of a request that decodes them itself. */
#include "near_world.h"

static void order(struct world *w, enum dn_model_op op, const struct dn_model *model)
{
    struct dn_buffer bytes, record, result;
    struct dn_model_result answer;
    struct dn_catalog_model now;

    (void)dn_catalog_model(w->catalog, &now);
    dn_buffer_init(&bytes, 1 << 16);
    dn_buffer_init(&record, 1 << 16);
    dn_buffer_init(&result, 1 << 16);
    if (model != NULL)
        dn_model_encode(model, &bytes);
    dn_catalog_record_model(&record, &(struct dn_model_change){.op = op,
                                                               .generation = now.generation,
                                                               .version = now.version,
                                                               .node_id = 1,
                                                               .steps = now.steps + 1,
                                                               .bytes = bytes.bytes,
                                                               .length = bytes.length});
    w->index++;
    dn_catalog_apply(w->catalog, w->index, 0, w->time_ms, record.bytes, record.length, &result);
    dn_catalog_entry_done(w->catalog, w->index, w->time_ms);
    assert_int_equal(dn_catalog_model_result_parse(result.bytes, result.length, &answer, &w->err), DN_OK);
    assert_int_equal(answer.outcome, DN_MODEL_OK);
    dn_buffer_free(&bytes);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
}

static void let_learn(struct world *w)
{
    struct dn_buffer record, result;

    dn_buffer_init(&record, 1 << 16);
    dn_buffer_init(&result, 1 << 16);
    dn_catalog_record_fact(&record, DN_MODEL_FACT, "1");
    w->index++;
    dn_catalog_apply(w->catalog, w->index, 0, w->time_ms, record.bytes, record.length, &result);
    dn_catalog_entry_done(w->catalog, w->index, w->time_ms);
    dn_buffer_free(&record);
    dn_buffer_free(&result);
}

/* Asked with what is kept, and without: the same. Returns the first item. */
static char both(struct world *w, struct dn_model_kept *kept)
{
    char first[ITEMS];
    float scores[ITEMS];

    w->view.kept = NULL;
    ask(w, "a", (struct dn_recommend_query){.k = 5});
    size_t count = w->count;
    for (size_t i = 0; i < count; i++) {
        first[i] = at(w, i);
        scores[i] = w->items[i].score;
    }
    w->view.kept = kept;
    ask(w, "a", (struct dn_recommend_query){.k = 5});
    assert_int_equal(w->count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(at(w, i), first[i]);
        assert_true(w->items[i].score == scores[i]);
    }
    return first[0];
}

/* Only how often an item was clicked counts: for it, or against. */
static void clicks_count(struct world *w, enum dn_model_op op, float weight)
{
    struct dn_model model = {0};

    model.weights[0][DN_FEATURE_CLICKS] = weight;
    order(w, op, &model);
}

static void test_kept(void **state)
{
    struct world *w = world_create();
    struct dn_model_kept *kept = calloc(1, sizeof *kept);

    (void)state;
    walk(w, 0, 5, "ab");
    walk(w, 5, 3, "ac");
    walk(w, 20, 9, "c");
    assert_int_equal(both(w, kept), 'b'); /* the default */
    let_learn(w);
    for (int i = 0; i < 4; i++) {
        enum dn_model_op op = i < 2 ? DN_MODEL_LEARNED : DN_MODEL_FIXED;
        clicks_count(w, op, 50);
        assert_int_equal(both(w, kept), 'c'); /* what is clicked most */
        clicks_count(w, op, -50);
        assert_int_equal(both(w, kept), 'b');
    }
    clicks_count(w, DN_MODEL_FIXED, 50);
    order(w, DN_MODEL_FREEZE, NULL);
    assert_int_equal(both(w, kept), 'c');
    order(w, DN_MODEL_RESET, NULL);
    assert_int_equal(both(w, kept), 'b');
    free(kept);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kept)};

    near_world_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
