/* Histories to EDN and back, and what the reader refuses. */
#include "chaos/history.h"
#include "tests/unit/base/cmocka_all.h"
#include "tests/unit/base/random.h"

#include <stdlib.h>
#include <string.h>

#define ROUNDS 300
#define LIST_LENGTH 5

static struct chaos_history *read_text(const char *text, size_t length, struct dn_error *err)
{
    struct chaos_history *history = NULL;
    FILE *in = fmemopen((void *)(uintptr_t)text, length, "r");
    assert_non_null(in);
    enum dn_code code = chaos_history_read(in, "h", &history, err);
    assert_int_equal(code == DN_OK, history != NULL);
    fclose(in);
    return history;
}

static char *write_text(const struct chaos_history *history, size_t *ret_length)
{
    char *text = NULL;
    struct dn_error err;
    FILE *out = open_memstream(&text, ret_length);
    assert_non_null(out);
    assert_int_equal(chaos_history_write(history, out, &err), DN_OK);
    fclose(out);
    return text;
}

/* ---- random operations that say all they may ---------------------------------------------------------- */

struct scratch {
    struct chaos_event events[LIST_LENGTH];
    uint64_t token[LIST_LENGTH], near[LIST_LENGTH];
    struct chaos_group groups[LIST_LENGTH];
    struct chaos_row rows[LIST_LENGTH];
};

static uint64_t some_u64(struct test_random *random)
{
    static const uint64_t edges[] = {0, 1, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX};
    return test_random_below(random, 3) == 0 ? edges[test_random_below(random, 5)]
                                             : test_random_next(random) >> test_random_below(random, 64);
}

static size_t some_ids(struct test_random *random, uint64_t *list)
{
    size_t count = test_random_below(random, LIST_LENGTH + 1);
    for (size_t i = 0; i < count; i++) {
        list[i] = some_u64(random);
    }
    return count;
}

static void some_events(struct test_random *random, struct chaos_op *op, bool offsets)
{
    op->events_count = 1 + test_random_below(random, LIST_LENGTH);
    for (size_t i = 0; i < op->events_count; i++) {
        bool told = op->f == CHAOS_PUBLISH && op->type == CHAOS_OK;
        op->events[i] = (struct chaos_event){
            .id = some_u64(random),
            .time_ms = (int64_t)(some_u64(random) >> 1) * (test_random_below(random, 2) == 0 ? 1 : -1),
            .outcome = told ? (int32_t)test_random_below(random, 9) : -1,
            .offset = offsets ? (int32_t)test_random_below(random, INT32_MAX) : -1,
        };
    }
}

static void some_freshness(struct test_random *random, struct chaos_op *op)
{
    op->found = test_random_below(random, 2) == 0;
    op->age_known = test_random_below(random, 2) == 0;
    op->age_us = op->age_known ? some_u64(random) : 0;
    op->shard = (uint32_t)test_random_below(random, 9);
    op->applied = some_u64(random);
    op->version = some_u64(random);
}

static void some_groups(struct test_random *random, struct chaos_op *op)
{
    op->groups_count = test_random_below(random, LIST_LENGTH + 1);
    for (size_t i = 0; i < op->groups_count; i++) {
        op->groups[i] = (struct chaos_group){
            .group = (uint32_t)test_random_below(random, 64),
            .is_leader = test_random_below(random, 2) == 0,
            .leader = some_u64(random),
            .term = some_u64(random),
            .commit = some_u64(random),
            .applied = some_u64(random),
            .hash_index = some_u64(random),
            .hash = some_u64(random),
        };
    }
}

static void some_rows(struct test_random *random, struct chaos_op *op)
{
    op->rows_count = test_random_below(random, LIST_LENGTH + 1);
    for (size_t i = 0; i < op->rows_count; i++) {
        for (size_t k = 0; k < CHAOS_ROW_NUMBERS; k++) {
            op->rows[i].of[k] = some_u64(random);
        }
    }
}

static void fill(struct test_random *random, struct chaos_op *op, struct scratch *scratch)
{
    static const char *const texts[] = {"", "plain", "\"quoted\\\"", "line\nfeed\ttab\x01",
                                        "gr\xc3\xbcn {:a 1}"};
    const char *text = texts[test_random_below(random, 5)];
    op->events = scratch->events;
    op->token = scratch->token;
    op->near = scratch->near;
    op->groups = scratch->groups;
    op->rows = scratch->rows;
    op->node = (uint32_t)test_random_below(random, CHAOS_NODES_MAX + 1);
    op->error = test_random_below(random, 2) == 0 ? text : NULL;
    bool ok = op->type == CHAOS_OK;
    switch (op->f) {
    case CHAOS_PUBLISH:
        some_events(random, op, false);
        break;
    case CHAOS_INGEST:
        some_events(random, op, true);
        op->name = text;
        break;
    case CHAOS_READ:
    case CHAOS_GET:
    case CHAOS_SIMILAR:
        op->level = (enum chaos_level)test_random_below(random, 3);
        op->token_count = some_ids(random, op->token);
        if (ok) {
            some_freshness(random, op);
        }
        if (ok && op->f == CHAOS_READ) {
            some_events(random, op, false);
        } else if (ok && op->f == CHAOS_SIMILAR) {
            op->near_count = some_ids(random, op->near);
        } else if (ok && op->found) {
            op->value = some_u64(random);
        }
        break;
    case CHAOS_UPSERT:
        op->value = some_u64(random);
        break;
    case CHAOS_STATUS:
        if (ok) {
            some_groups(random, op);
        }
        break;
    case CHAOS_OFFSETS:
        op->name = text;
        if (ok) {
            some_rows(random, op);
        }
        break;
    case CHAOS_DEAD_LETTERS:
        if (ok) {
            some_rows(random, op);
        }
        break;
    case CHAOS_MEMBER:
    case CHAOS_FAULT:
        op->name = text;
        op->what = "begin";
        break;
    default:
        break;
    }
}

static void assert_op_equal(const struct chaos_op *a, const struct chaos_op *b)
{
    struct chaos_op left = *a, right = *b;
    assert_int_equal(a->events_count, b->events_count);
    assert_int_equal(a->token_count, b->token_count);
    assert_int_equal(a->near_count, b->near_count);
    assert_int_equal(a->groups_count, b->groups_count);
    assert_int_equal(a->rows_count, b->rows_count);
    for (size_t i = 0; i < a->rows_count; i++) {
        assert_memory_equal(&a->rows[i], &b->rows[i], sizeof a->rows[i]);
    }
    for (size_t i = 0; i < a->events_count; i++) {
        assert_memory_equal(&a->events[i], &b->events[i], sizeof a->events[i]);
    }
    for (size_t i = 0; i < a->token_count; i++) {
        assert_true(a->token[i] == b->token[i]);
    }
    for (size_t i = 0; i < a->near_count; i++) {
        assert_true(a->near[i] == b->near[i]);
    }
    for (size_t i = 0; i < a->groups_count; i++) {
        const struct chaos_group *g = &a->groups[i], *h = &b->groups[i];
        assert_true(g->group == h->group && g->is_leader == h->is_leader && g->leader == h->leader &&
                    g->term == h->term && g->commit == h->commit && g->applied == h->applied &&
                    g->hash_index == h->hash_index && g->hash == h->hash);
    }
    assert_int_equal(a->error == NULL, b->error == NULL);
    assert_int_equal(a->name == NULL, b->name == NULL);
    assert_int_equal(a->what == NULL, b->what == NULL);
    assert_string_equal(a->error != NULL ? a->error : "", b->error != NULL ? b->error : "");
    assert_string_equal(a->name != NULL ? a->name : "", b->name != NULL ? b->name : "");
    assert_string_equal(a->what != NULL ? a->what : "", b->what != NULL ? b->what : "");
    left.events = right.events = NULL;
    left.token = right.token = left.near = right.near = NULL;
    left.groups = right.groups = NULL;
    left.error = right.error = left.name = right.name = left.what = right.what = NULL;
    assert_true(left.index == right.index && left.time_ns == right.time_ns && left.type == right.type);
    assert_true(left.f == right.f && left.process == right.process && left.node == right.node);
    assert_true(left.key == right.key && left.level == right.level && left.found == right.found);
    assert_true(left.age_known == right.age_known && left.age_us == right.age_us &&
                left.shard == right.shard);
    assert_true(left.applied == right.applied && left.version == right.version && left.value == right.value);
}

static void round_trip(void **state)
{
    struct test_random random = test_random_start("round trip");
    struct chaos_history *history = chaos_history_create(), *twin;
    int64_t time_ns = 0;
    int32_t process = 0;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        static struct scratch scratch;
        enum chaos_f f = (enum chaos_f)test_random_below(&random, CHAOS_F_COUNT);
        bool nemesis = f == CHAOS_INGEST || f == CHAOS_FAULT;
        struct chaos_op invoke = {.f = f, .process = nemesis ? CHAOS_NEMESIS : process};
        invoke.key = f <= CHAOS_INGEST ? some_u64(&random) : 0;
        invoke.index = chaos_history_count(history);
        invoke.time_ns = time_ns += (int64_t)test_random_below(&random, 1000);
        fill(&random, &invoke, &scratch);
        chaos_history_append_as_is(history, &invoke);
        if (f == CHAOS_INGEST || test_random_below(&random, 8) == 0) {
            process++;
            continue;
        }
        struct chaos_op end = {.f = f, .process = invoke.process, .key = invoke.key};
        end.type = f == CHAOS_FAULT ? CHAOS_INFO : (enum chaos_type)(1 + test_random_below(&random, 3));
        end.index = chaos_history_count(history);
        end.time_ns = time_ns += (int64_t)test_random_below(&random, 1000);
        fill(&random, &end, &scratch);
        end.name = f == CHAOS_FAULT ? invoke.name : end.name;
        chaos_history_append_as_is(history, &end);
        assert_int_equal(chaos_history_pair(history, end.index), invoke.index);
        process += end.type == CHAOS_INFO;
    }
    size_t length = 0;
    char *text = write_text(history, &length);
    struct dn_error err;
    twin = read_text(text, length, &err);
    if (twin == NULL) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(chaos_history_count(twin), chaos_history_count(history));
    for (size_t i = 0; i < chaos_history_count(history); i++) {
        assert_op_equal(chaos_history_at(history, i), chaos_history_at(twin, i));
        assert_true(chaos_history_pair(history, i) == chaos_history_pair(twin, i));
    }
    free(text);
    chaos_history_destroy(history);
    chaos_history_destroy(twin);
}

static void form(void **state)
{
    static const char text[] =
        "{:index 0, :time 123456789, :type :invoke, :process 3, :f :publish, :node \"n1\", "
        ":value {:user 12, :events [[1041 1700000000123]]}}\n";
    struct dn_error err;
    struct chaos_history *history = read_text(text, sizeof text - 1, &err);
    (void)state;
    assert_non_null(history);
    size_t length = 0;
    char *again = write_text(history, &length);
    assert_string_equal(again, text); /* the example in history.h */
    free(again);
    chaos_history_destroy(history);
}

/* ---- refusals ------------------------------------------------------------------------------------- */

static void refused(void **state)
{
#define HEAD "{:index 0, :time 1, :type :invoke, :process 1, "
#define ERASE "{:index 0 :time 1 :type :invoke :process 1 :f :erase :value {:user 1}}\n"
    static const struct {
        const char *text, *reason;
    } cases[] = {
        {"x", "line 1: '{' expected"},
        {"\n\n; c\n{", "line 4: ':' expected"},
        {HEAD ":f :erase, :value {:user 1}", "line ends"},
        {HEAD ":f :erase, :value {:user 1}} x", "more after"},
        {HEAD ":f :erase, :value {:user 1}}{", "more after"},
        {HEAD ":f :erase}", ":value is missing"},
        {HEAD ":f :erase, :f :erase, :value {:user 1}}", ":f twice"},
        {HEAD ":f :erase, :value {:user 1, :user 1}}", ":user twice"},
        {HEAD ":f :erase, :value {:user 01}}", "whole number"},
        {HEAD ":f :erase, :value {:user 1.5}}", "whole number"},
        {HEAD ":f :erase, :value {:user 1N}}", "whole number"},
        {HEAD ":f :erase, :value {:user 9223372036854775808}}", "whole number"},
        {HEAD ":f :erase, :value {:user 99999999999999999999N}}", "above"},
        {HEAD ":f :erase, :value {:user -1}}", "whole number"},
        {HEAD ":f :erase, :value {:item 1}}", "has no :item"},
        {HEAD ":f :erase, :value {}}", "needs :user"},
        {HEAD ":f :dance, :value {:user 1}}", ":dance is not known"},
        {HEAD ":f :erase, :colour 1, :value {:user 1}}", ":colour is not known"},
        {HEAD ":f :erase, :value {:user 1, :events []}}", "has no :events"},
        {HEAD ":f :publish, :value {:user 1, :events [[1]]}}", "whole number"},
        {HEAD ":f :publish, :value {:user 1, :events [[1 2 :accepted]]}}", "is [id time]"},
        {HEAD ":f :publish, :value {:user 1, :events [[1 2 3]]}}", "is [id time]"},
        {HEAD ":f :publish, :value {:user 1, :events [[1 2 3 4]]}}", "']' expected"},
        {HEAD ":f :read, :value {:user 1, :level :best}}", ":best is not known"},
        {HEAD ":f :read, :value {:user 1, :level :local, :found true}}", "has no :found"},
        {HEAD ":f :erase, :node \"n8\", :value {:user 1}}", "node"},
        {HEAD ":f :erase, :node \"n0\", :value {:user 1}}", "node"},
        {HEAD ":f :erase, :node \"x\", :value {:user 1}}", "node"},
        {HEAD ":f :erase, :error \"a, :value {:user 1}}", "without an end"},
        {HEAD ":f :erase, :error \"\\q\", :value {:user 1}}", "only"},
        {HEAD ":f :erase, :error \"\\u0000\", :value {:user 1}}", "control characters"},
        {HEAD ":f :erase, :error \"\xff\", :value {:user 1}}", "UTF-8"},
        {"{:index 1, :time 1, :type :invoke, :process 1, :f :erase, :value {:user 1}}", "number 0"},
        {"{:index 0, :time -1, :type :invoke, :process 1, :f :erase, :value {:user 1}}", "before 0"},
        {"{:index 0, :time 1, :type :ok, :process 1, :f :erase, :value {:user 1}}", "without an :invoke"},
        {"{:index 0, :time 1, :type :ok, :process :nemesis, :f :fault, :value {:name \"x\" :what \"begin\"}}",
         "without an :invoke"},
        {ERASE "{:index 1 :time 0 :type :ok :process 1 :f :erase :value {:user 1}}",
         "line 2: time 0 is before"},
        {ERASE "{:index 1 :time 1 :type :invoke :process 1 :f :erase :value {:user 1}}", "still waits"},
        {ERASE "{:index 1 :time 1 :type :ok :process 1 :f :erase :value {:user 2}}", "another :f or key"},
        {ERASE "{:index 1 :time 1 :type :ok :process 1 :f :delete :value {:item 1}}", "another :f or key"},
        {ERASE "{:index 1 :time 1 :type :info :process 1 :f :erase :value {:user 1}}\n"
               "{:index 2 :time 1 :type :invoke :process 1 :f :erase :value {:user 1}}",
         "line 3: process 1 is used again"},
        {HEAD
         ":f :get, :value {:item 1, :level :local}}\n{:index 1 :time 1 :type :ok :process 1 :f :get :value "
         "{:item 1 :level :local :found true}}",
         "needs :value"},
        {HEAD
         ":f :get, :value {:item 1, :level :local}}\n{:index 1 :time 1 :type :ok :process 1 :f :get :value "
         "{:item 1 :level :local :found false :value 3}}",
         "has no :value"},
        {HEAD
         ":f :status, :value {}}\n{:index 1 :time 1 :type :ok :process 1 :f :status :value {:groups [{:group "
         "1}]}}",
         "without all"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dn_error err = {.code = DN_OK};
        struct chaos_history *history = read_text(cases[i].text, strlen(cases[i].text), &err);
        if (history != NULL) {
            fail_msg("taken: %s", cases[i].text);
        }
        assert_int_equal(err.code, DN_INVALID);
        if (strncmp(err.message, "h: line ", 8) != 0 || strstr(err.message, cases[i].reason) == NULL) {
            fail_msg("%s\nanswered: %s\nexpected: %s", cases[i].text, err.message, cases[i].reason);
        }
    }
}

static void too_long(void **state)
{
    enum { SIZE = 3 << 20 };
    char *text = malloc(SIZE);
    struct dn_error err;
    (void)state;
    assert_non_null(text);
    memset(text, ' ', SIZE);
    assert_null(read_text(text, SIZE, &err));
    assert_non_null(strstr(err.message, "line 1: longer than"));
    memcpy(text, HEAD ":f :read, :value {:user 1, :level :local, :token [", strlen(HEAD) + 50);
    size_t length = strlen(HEAD) + 50;
    for (size_t i = 0; i <= CHAOS_LIST_MAX; i++) {
        text[length++] = '7';
        text[length++] = ' ';
    }
    memcpy(text + length, "]}}\n", 4);
    assert_null(read_text(text, length + 4, &err));
    assert_non_null(strstr(err.message, "more than 1024"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(form),
        cmocka_unit_test(refused),
        cmocka_unit_test(too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
