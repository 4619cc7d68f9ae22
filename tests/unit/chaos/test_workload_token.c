/* What clients hold of tokens, and how users come and go. */
#include "chaos/workload_token.h"
#include "chaos/workload_users.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect_covers(const struct workload_token *token, const char *bytes, size_t count, ...)
{
    va_list args;
    assert_int_equal(token->length, strlen(bytes));
    assert_memory_equal(token->bytes, bytes, token->length);
    assert_int_equal(token->covers_count, count);
    va_start(args, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(token->covers[i], va_arg(args, int));
    va_end(args);
}

static void wrote(struct workload_tokens *tokens, const char *bytes, uint64_t id)
{
    workload_tokens_wrote(tokens, (const uint8_t *)bytes, strlen(bytes), &id, 1);
}

static void test_a_write_covers_what_it_wrote(void **state)
{
    (void)state;
    struct workload_tokens tokens = {0};
    workload_tokens_of(&tokens, 1);
    wrote(&tokens, "A", 7);
    wrote(&tokens, "B", 9);
    expect_covers(&tokens.written, "B", 1, 9);
    assert_int_equal(tokens.read.length, 0);
    workload_tokens_free(&tokens);
}

static void test_a_read_covers_its_token_and_its_list(void **state)
{
    (void)state;
    struct workload_tokens tokens = {0};
    const uint64_t first[] = {5, 3}, second[] = {8, 3};
    workload_tokens_of(&tokens, 1);
    wrote(&tokens, "W", 4);
    workload_tokens_read(&tokens, &tokens.written, (const uint8_t *)"R1", 2, first, 2);
    expect_covers(&tokens.read, "R1", 3, 3, 4, 5);
    /* Its own token given, and a list that lacks some of it (a LOCAL read of an older node): all stays
     * covered. */
    workload_tokens_read(&tokens, &tokens.read, (const uint8_t *)"R22", 3, second, 2);
    expect_covers(&tokens.read, "R22", 4, 3, 4, 5, 8);
    workload_tokens_free(&tokens);
}

static void test_a_read_without_the_token_takes_its_place_only_when_it_saw_as_much(void **state)
{
    (void)state;
    struct workload_tokens tokens = {0};
    const uint64_t first[] = {3, 5}, less[] = {3, 9}, more[] = {9, 5, 3};
    workload_tokens_of(&tokens, 1);
    workload_tokens_read(&tokens, NULL, (const uint8_t *)"R1", 2, first, 2);
    workload_tokens_read(&tokens, NULL, (const uint8_t *)"R2", 2, less, 2);
    expect_covers(&tokens.read, "R1", 2, 3, 5);
    workload_tokens_read(&tokens, NULL, (const uint8_t *)"R3", 2, more, 3);
    expect_covers(&tokens.read, "R3", 3, 3, 5, 9);
    workload_tokens_free(&tokens);
}

static void test_another_key_has_none_of_it(void **state)
{
    (void)state;
    struct workload_tokens tokens = {0};
    struct workload_random random = workload_random_make(1, 1);
    workload_tokens_of(&tokens, 1);
    assert_null(workload_tokens_pick(&tokens, &random));
    wrote(&tokens, "A", 7);
    for (int i = 0; i < 20; i++)
        assert_ptr_equal(workload_tokens_pick(&tokens, &random), &tokens.written);
    workload_tokens_of(&tokens, 1);
    assert_int_equal(tokens.written.length, 1);
    workload_tokens_of(&tokens, 2);
    assert_null(workload_tokens_pick(&tokens, &random));
    workload_tokens_free(&tokens);
}

static void test_both_are_picked(void **state)
{
    (void)state;
    struct workload_tokens tokens = {0};
    struct workload_random random = workload_random_make(1, 1);
    const uint64_t list[] = {1};
    int picked_read = 0, picked_written = 0;
    workload_tokens_of(&tokens, 1);
    wrote(&tokens, "A", 7);
    workload_tokens_read(&tokens, NULL, (const uint8_t *)"R", 1, list, 1);
    for (int i = 0; i < 100; i++) {
        const struct workload_token *token = workload_tokens_pick(&tokens, &random);
        picked_read += token == &tokens.read;
        picked_written += token == &tokens.written;
    }
    assert_int_equal(picked_read + picked_written, 100);
    assert_in_range(picked_read, 20, 80);
    workload_tokens_free(&tokens);
}

static void test_too_much_is_not_kept(void **state)
{
    (void)state;
    struct workload_tokens tokens = {0};
    static uint64_t list[WORKLOAD_COVERS_MAX + 1];
    static uint8_t bytes[WORKLOAD_TOKEN_BYTES_MAX + 1];
    for (size_t i = 0; i <= WORKLOAD_COVERS_MAX; i++)
        list[i] = i;
    workload_tokens_of(&tokens, 1);
    workload_tokens_read(&tokens, NULL, bytes, 1, list, WORKLOAD_COVERS_MAX + 1);
    workload_tokens_read(&tokens, NULL, bytes, sizeof bytes, list, 1);
    workload_tokens_read(&tokens, NULL, bytes, 0, list, 1);
    assert_int_equal(tokens.read.length, 0);
    workload_tokens_read(&tokens, NULL, bytes, sizeof bytes - 1, list, WORKLOAD_COVERS_MAX);
    assert_int_equal(tokens.read.covers_count, WORKLOAD_COVERS_MAX);
    workload_tokens_free(&tokens);
}

/* ---- users ------------------------------------------------------------------------------------------ */

#define NOW_MS 1700000000000

static void test_users_retire_before_their_lists_are_full(void **state)
{
    (void)state;
    enum { PLANS = 20000, USERS = 4000 };
    static unsigned events_of[USERS];
    struct workload_users *users = workload_users_create();
    struct workload_random random = workload_random_make(3, 1);
    uint64_t last_event = 0, ties = 0;
    for (int i = 0; i < PLANS; i++) {
        struct workload_plan plan;
        workload_users_new_events(users, &random, (unsigned)i, NOW_MS + i, &plan);
        assert_in_range(plan.count, 1, WORKLOAD_BATCH_MAX);
        assert_in_range(plan.user, 1, USERS - 1);
        events_of[plan.user] += (unsigned)plan.count;
        for (size_t k = 0; k < plan.count; k++) {
            assert_int_equal(plan.events[k].id, ++last_event);
            assert_true(plan.events[k].time_ms <= NOW_MS + i && plan.events[k].time_ms > NOW_MS + i - 5000);
            ties += k > 0 && plan.events[k].time_ms == plan.events[k - 1].time_ms;
        }
    }
    assert_true(ties > 100);
    assert_in_range(workload_users_count(users), last_event / WORKLOAD_USER_EVENTS, USERS - 1);
    for (uint64_t user = 1; user <= workload_users_count(users); user++)
        assert_true(events_of[user] <= WORKLOAD_USER_EVENTS);
    workload_users_destroy(users);
}

static void test_an_unanswered_publish_is_sent_again_some_times(void **state)
{
    (void)state;
    struct workload_users *users = workload_users_create();
    struct workload_random random = workload_random_make(3, 1);
    struct workload_plan plan, again;
    unsigned attempts = 1;
    assert_false(workload_users_again(users, &again));
    workload_users_new_events(users, &random, 1, NOW_MS, &plan);
    for (workload_users_send_again(users, &plan); workload_users_again(users, &again);
         workload_users_send_again(users, &again)) {
        attempts++;
        assert_int_equal(again.user, plan.user);
        assert_int_equal(again.count, plan.count);
        assert_memory_equal(again.events, plan.events, sizeof plan.events);
    }
    assert_int_equal(attempts, WORKLOAD_ATTEMPTS_MAX);
    workload_users_destroy(users);
}

static void test_the_oldest_give_way(void **state)
{
    (void)state;
    struct workload_users *users = workload_users_create();
    struct workload_random random = workload_random_make(3, 1);
    struct workload_plan plan, again;
    uint64_t ids[WORKLOAD_AGAIN_MAX + 3];
    for (size_t i = 0; i < WORKLOAD_AGAIN_MAX + 3; i++) {
        workload_users_new_events(users, &random, (unsigned)i, NOW_MS, &plan);
        ids[i] = plan.events[0].id;
        workload_users_send_again(users, &plan);
    }
    for (size_t i = 3; i < WORKLOAD_AGAIN_MAX + 3; i++) {
        assert_true(workload_users_again(users, &again));
        assert_int_equal(again.events[0].id, ids[i]);
    }
    assert_false(workload_users_again(users, &again));
    workload_users_destroy(users);
}

static void test_an_erased_user_goes_on_for_a_few_events(void **state)
{
    (void)state;
    struct workload_users *users = workload_users_create();
    struct workload_random random = workload_random_make(3, 1);
    struct workload_plan plan;
    unsigned after = 0;
    workload_users_new_events(users, &random, 1, NOW_MS, &plan);
    uint64_t erased = plan.user;
    workload_users_erased(users, plan.slot, erased);
    for (int i = 0; i < 2000; i++) {
        workload_users_new_events(users, &random, (unsigned)i, NOW_MS, &plan);
        after += plan.user == erased ? (unsigned)plan.count : 0;
    }
    assert_in_range(after, 1, 10);
    workload_users_destroy(users);
}

static void test_the_seed_decides(void **state)
{
    (void)state;
    struct workload_random a = workload_random_make(3, 1), b = workload_random_make(3, 1),
                           other_stream = workload_random_make(3, 2), other_seed = workload_random_make(4, 1);
    uint64_t first = workload_random_next(&a);
    assert_int_equal(first, workload_random_next(&b));
    assert_int_not_equal(first, workload_random_next(&other_stream));
    assert_int_not_equal(first, workload_random_next(&other_seed));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_write_covers_what_it_wrote),
        cmocka_unit_test(test_a_read_covers_its_token_and_its_list),
        cmocka_unit_test(test_a_read_without_the_token_takes_its_place_only_when_it_saw_as_much),
        cmocka_unit_test(test_another_key_has_none_of_it),
        cmocka_unit_test(test_both_are_picked),
        cmocka_unit_test(test_too_much_is_not_kept),
        cmocka_unit_test(test_users_retire_before_their_lists_are_full),
        cmocka_unit_test(test_an_unanswered_publish_is_sent_again_some_times),
        cmocka_unit_test(test_the_oldest_give_way),
        cmocka_unit_test(test_an_erased_user_goes_on_for_a_few_events),
        cmocka_unit_test(test_the_seed_decides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
