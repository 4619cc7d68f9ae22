/* Features have nothing of the future in them: each row is what the rows before it give. */
#include "replay_rig.h"

#include "node/replay_features.h"

#include <jansson.h>

/* ---- features ----------------------------------------------------------------------------------------- */

/* All rows, as text that is malloc'ed. */
static char *features(bool csv, unsigned types, uint32_t last)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;
    struct dn_replay_watch watch = {0};
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    struct dn_features_options how = {.out = out,
                                      .csv = csv,
                                      .show_ids = true,
                                      .types = types,
                                      .last = last,
                                      .gap_ms = options.settings.gap_ms};
    struct dn_features *made = dn_features_create(&how);

    assert_true(out != NULL && made != NULL);
    dn_features_watch(made, &watch);
    options.watch = &watch;
    replay(&state, &result);
    options.watch = NULL;
    if (types == 0)
        assert_int_equal(dn_features_rows(made), result.accepted);
    dn_features_destroy(made);
    dn_replay_state_close(&state);
    fclose(out);
    return text;
}

static json_t *rows_of(const char *text)
{
    json_t *rows = json_array();

    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        json_t *row = json_loadb(line, (size_t)(strchr(line, '\n') - line), 0, NULL);
        assert_non_null(row);
        json_array_append_new(rows, row);
    }
    return rows;
}

static json_int_t number(const json_t *row, const char *name)
{
    return json_integer_value(json_object_get(row, name));
}

static int by_time(const void *a, const void *b)
{
    const json_t *x = *(const json_t *const *)a, *y = *(const json_t *const *)b;
    json_int_t p = number(x, "time_ms"), q = number(y, "time_ms");

    return p != q ? (p < q ? -1 : 1) : number(x, "row") < number(y, "row") ? -1 : 1;
}

/* The features of row `at`, from those before it alone. */
static void check_row(const json_t *rows, size_t at, uint32_t last)
{
    const json_t *row = json_array_get(rows, at);
    static const json_t *before[PARTITIONS * MESSAGES_MAX];
    size_t count = 0, first;

    for (size_t i = 0; i < at; i++) {
        const json_t *other = json_array_get(rows, i);
        if (json_equal(json_object_get(other, "user_id"), json_object_get(row, "user_id")) &&
            number(other, "time_ms") <= number(row, "time_ms"))
            before[count++] = other;
    }
    qsort(before, count, sizeof(before[0]), by_time);
    int64_t next_ms = number(row, "time_ms");
    for (first = count; first > 0 && next_ms - number(before[first - 1], "time_ms") <= 30 * MINUTE_MS;
         first--)
        next_ms = number(before[first - 1], "time_ms");
    assert_int_equal(number(row, "session_events"), count - first);
    if (count > first)
        assert_int_equal(number(row, "session_start_ms"), number(before[first], "time_ms"));
    else
        assert_true(json_is_null(json_object_get(row, "session_start_ms")));
    json_t *since = json_object_get(row, "seconds_since_last");
    if (count > 0)
        assert_int_equal((int64_t)(json_real_value(since) * 1000 + 0.5),
                         number(row, "time_ms") - number(before[count - 1], "time_ms"));
    else
        assert_true(json_is_null(since));
    for (int type = 1; type <= 8; type++) {
        json_int_t of_type = 0;
        for (size_t i = first; i < count; i++)
            of_type += strcmp(json_string_value(json_object_get(before[i], "type")), TYPES[type]) == 0;
        assert_int_equal(number(json_object_get(row, "counts"), TYPES[type]), of_type);
    }
    const json_t *items = json_object_get(row, "last_items");
    size_t listed = count - first < last ? count - first : last;
    assert_int_equal(json_array_size(items), listed);
    for (size_t i = 0; i < listed; i++)
        assert_string_equal(json_string_value(json_array_get(items, i)),
                            json_string_value(json_object_get(before[count - listed + i], "item")));
}

static void features_are_of_the_prefix_alone(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < 3; round++) {
        begin(1 + round);
        send_random(round == 0 ? 10000 : 2 * MINUTE_MS);
        char *text = features(false, 0, 5), *again = features(false, 0, 5);
        same(text, again); /* whatever pieces the driver gives */
        json_t *rows = rows_of(text);
        assert_true(json_array_size(rows) > 1000);
        for (size_t i = 0; i < json_array_size(rows); i++)
            json_object_set_new(json_array_get(rows, i), "row", json_integer((json_int_t)i));
        for (size_t i = 0; i < json_array_size(rows); i++)
            check_row(rows, i, 5);
        json_decref(rows);
        free(text);
        free(again);
    }
}

/* Nobody is forgotten on the way, however long they are silent. */
static void silence_is_a_feature(void **unused)
{
    (void)unused;
    unsigned other = 2; /* of the same shard, whose time goes on with them */
    char id[16] = "u2";
    while (dn_shard_of_user(id, strlen(id), SHARDS) != dn_shard_of_user("u1", 2, SHARDS))
        snprintf(id, sizeof(id), "u%u", ++other);
    begin(1);
    for (unsigned day = 0; day <= 100; day++)
        send_event(0, day % 100 == 0 ? 1 : other, 1, BEGIN_MS + day * DAY_MS, -1);
    char *text = features(false, 0, 1);
    json_t *rows = rows_of(text);
    assert_int_equal(json_array_size(rows), 101);
    const json_t *since = json_object_get(json_array_get(rows, 100), "seconds_since_last");
    assert_true(json_is_real(since) && json_real_value(since) == 100.0 * 86400);
    json_decref(rows);
    free(text);
}

/* Whatever partition they are in, and whoever is read faster. */
static void rows_are_in_the_order_of_time(void **unused)
{
    (void)unused;
    begin(PARTITIONS);
    for (unsigned i = 0; i < 2000; i++)
        send_event((uint32_t)test_random_below(&rng, PARTITIONS), 1 + i % 7, 1, BEGIN_MS + i, -1);
    char *text = features(false, 0, 1);
    json_t *rows = rows_of(text);
    assert_int_equal(json_array_size(rows), 2000);
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(number(json_array_get(rows, i), "time_ms"), BEGIN_MS + i);
    json_decref(rows);
    free(text);
}

static void rows_at_some_types_are_those_of_all(void **unused)
{
    (void)unused;
    begin(2);
    send_random(10000);
    char *all = features(false, 0, 3), *some = features(false, 1u << DN_EVENT_BUY | 1u << DN_EVENT_LIKE, 3);
    json_t *rows = rows_of(all), *chosen = rows_of(some);
    size_t at = 0;

    for (size_t i = 0; i < json_array_size(rows); i++) {
        const char *type = json_string_value(json_object_get(json_array_get(rows, i), "type"));
        if (strcmp(type, "buy") == 0 || strcmp(type, "like") == 0)
            assert_true(json_equal(json_array_get(rows, i), json_array_get(chosen, at++)));
    }
    assert_true(at > 0);
    assert_int_equal(json_array_size(chosen), at);
    json_decref(rows);
    json_decref(chosen);
    free(all);
    free(some);
}

static void csv_says_the_same(void **unused)
{
    (void)unused;
    begin(1);
    send_event(0, 1, DN_EVENT_VIEW, BEGIN_MS, -1);
    send_event(0, 1, DN_EVENT_BUY, BEGIN_MS + 1500, -1);
    memcpy(
        partitions[0].sent[0].text,
        "{\"user_id\":\"u1\",\"item_id\":\"a,\\\"b\",\"type\":\"view\","
        "\"time_ms\":1700000000000}",
        sizeof("{\"user_id\":\"u1\",\"item_id\":\"a,\\\"b\",\"type\":\"view\",\"time_ms\":1700000000000}"));
    memcpy(partitions[0].sent[1].text,
           "{\"user_id\":\"u1\",\"item_id\":\"c\",\"type\":\"buy\","
           "\"time_ms\":1700000001500,\"weight\":0.5}",
           sizeof("{\"user_id\":\"u1\",\"item_id\":\"c\",\"type\":\"buy\",\"time_ms\":1700000001500,"
                  "\"weight\":0.5}"));
    char *text = features(true, 0, 10);
    assert_string_equal(
        text, "stream,partition,offset,user_id,item,type,time_ms,weight,session_start_ms,session_events,"
              "count_view,count_click,count_cart,count_buy,count_like,count_dislike,count_play,count_remove,"
              "seconds_since_last,last_items\n"
              "s/topic,0,0,u1,\"a,\"\"b\",view,1700000000000,1.0,,0,0,0,0,0,0,0,0,0,,[]\n"
              "s/topic,0,10,u1,c,buy,1700000001500,0.5,1700000000000,1,1,0,0,0,0,0,0,0,1.5,"
              "\"[\"\"a,\\\"\"b\"\"]\"\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_of_the_prefix_alone),
        cmocka_unit_test(silence_is_a_feature),
        cmocka_unit_test(rows_are_in_the_order_of_time),
        cmocka_unit_test(rows_at_some_types_are_those_of_all),
        cmocka_unit_test(csv_says_the_same),
    };
    return cmocka_run_group_tests(tests, open_partitions, close_partitions);
}
