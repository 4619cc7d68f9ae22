/* What an answer proves: a write that may have happened is never :fail, whatever the server or the network
 * say. */
#include "chaos/workload_class.h"
#include "chaos/workload_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void test_only_sure_refusals_of_writes_fail(void **state)
{
    (void)state;
    assert_int_equal(workload_write_type(0, ""), CHAOS_OK);
    for (int status = -1; status <= 16; status++)
        if (status != 0 && status != 3)
            assert_int_equal(workload_write_type(status, ""), CHAOS_INFO);
    assert_int_equal(workload_write_type(3, "events[0].user_id: empty"), CHAOS_FAIL);
    assert_int_equal(workload_write_type(WORKLOAD_NOT_SENT, "connection refused"), CHAOS_FAIL);
}

static void test_exhausted_is_told_apart_by_the_message(void **state)
{
    (void)state;
    static const char *const sure[] = {
        "shard 3: the disk of this node is nearly full (min_free_bytes): free space or try another node "
        "(publish "
        "again with the same event ids)",
        "the disk of this node is nearly full (min_free_bytes): free space or try another node (the session "
        "may or "
        "may not be deleted: delete it again)",
        "shard 12: too many proposals wait for this group: slow down and try again",
        "shard 1: the node's queue of writes and waits is full: try again later",
        "812 calls wait on this node already: send fewer at once, or try again later",
        "shard 3: leader (node 2): the disk of this node is nearly full (min_free_bytes)",
        "leader (node 12): too many proposals wait for this group: slow down and try again",
    };
    static const char *const unsure[] = {
        "shard 3: leader (node 2): something new",
        "leader (node x): too many proposals wait for this group: slow down and try again",
        "leader (node 2) too many proposals wait for this group",
        "waiting: the disk of this node is nearly full",
        "shard : the disk of this node is nearly full",
        "calls wait on this node already",
        "items[0]: the catalogue is full; 0 of 1 items were stored",
        "something new",
        "",
    };
    for (size_t i = 0; i < sizeof sure / sizeof sure[0]; i++)
        assert_int_equal(workload_write_type(8, sure[i]), CHAOS_FAIL);
    for (size_t i = 0; i < sizeof unsure / sizeof unsure[0]; i++)
        assert_int_equal(workload_write_type(8, unsure[i]), CHAOS_INFO);
    assert_int_equal(workload_write_type(14, sure[0]), CHAOS_INFO);
}

static void test_reads_change_nothing(void **state)
{
    (void)state;
    assert_int_equal(workload_read_type(0), CHAOS_OK);
    for (int status = WORKLOAD_NOT_SENT; status <= 16; status++)
        if (status != 0)
            assert_int_equal(workload_read_type(status), CHAOS_FAIL);
}

/* ---- over a socket ---------------------------------------------------------------------------------- */

struct fixture {
    int listener;
    char address[64];
    struct workload_nodes nodes;
    struct workload_counts counts;
    struct workload_client client;
};

static void set_up(struct fixture *fixture)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    memset(fixture, 0, sizeof *fixture);
    fixture->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fixture->listener >= 0);
    assert_int_equal(bind(fixture->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fixture->listener, 4), 0);
    assert_int_equal(getsockname(fixture->listener, (struct sockaddr *)&address, &length), 0);
    snprintf(fixture->address, sizeof fixture->address, "127.0.0.1:%u", ntohs(address.sin_port));
    fixture->nodes.count = 1;
    fixture->nodes.api[1] = fixture->address;
    fixture->client = (struct workload_client){
        .history = chaos_history_create(),
        .counts = &fixture->counts,
        .links = {.nodes = &fixture->nodes},
        .random = workload_random_make(7, 1),
        .process = 5,
        .processes = 17,
        .deadline_ms = 200,
    };
}

static void tear_down(struct fixture *fixture)
{
    workload_links_close(&fixture->client.links);
    chaos_history_destroy(fixture->client.history);
    if (fixture->listener >= 0)
        close(fixture->listener);
}

static enum chaos_type publish(struct fixture *fixture)
{
    struct chaos_event event = {.id = 41, .time_ms = 1000};
    return workload_publish(&fixture->client, 1, 12, &event, 1, 0, NULL);
}

/* Line 0 and 1 are an operation of process 5 that ended so; line 2 is of the process that comes next. */
static void expect_end(struct fixture *fixture, enum chaos_type type, int32_t next_process)
{
    const struct chaos_history *history = fixture->client.history;
    uint32_t shard;
    (void)workload_read(&fixture->client, 1, 12, CHAOS_LOCAL, false, NULL, &shard);
    assert_int_equal(chaos_history_count(history), 4);
    assert_int_equal(chaos_history_at(history, 0)->type, CHAOS_INVOKE);
    assert_int_equal(chaos_history_at(history, 0)->process, 5);
    assert_int_equal(chaos_history_at(history, 1)->type, type);
    assert_int_equal(chaos_history_at(history, 1)->process, 5);
    assert_int_equal(chaos_history_at(history, 1)->key, 12);
    assert_int_equal(chaos_history_at(history, 1)->events[0].id, 41);
    assert_int_equal(chaos_history_at(history, 1)->events[0].outcome, -1);
    assert_int_equal(chaos_history_at(history, 2)->process, next_process);
    assert_int_equal(chaos_history_at(history, 3)->type, CHAOS_FAIL);
}

static void test_nobody_listens(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture);
    close(fixture.listener);
    fixture.listener = -1;
    assert_int_equal(publish(&fixture), CHAOS_FAIL);
    expect_end(&fixture, CHAOS_FAIL, 5);
    tear_down(&fixture);
}

/* The kernel takes the connection and the request, as for a stopped process: it may be read any time later.
 */
static void test_nobody_answers(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture);
    assert_int_equal(publish(&fixture), CHAOS_INFO);
    expect_end(&fixture, CHAOS_INFO, 5 + 17);
    tear_down(&fixture);
}

static void *take_and_close(void *data)
{
    struct fixture *fixture = data;
    char bytes[512];
    int fd = accept(fixture->listener, NULL, NULL);
    assert_true(fd >= 0);
    (void)recv(fd, bytes, sizeof bytes, 0);
    close(fd);
    return NULL;
}

static void test_connection_breaks_after_the_request(void **state)
{
    (void)state;
    struct fixture fixture;
    pthread_t thread;
    set_up(&fixture);
    fixture.client.deadline_ms = 5000;
    assert_int_equal(pthread_create(&thread, NULL, take_and_close, &fixture), 0);
    assert_int_equal(publish(&fixture), CHAOS_INFO);
    pthread_join(thread, NULL);
    fixture.client.deadline_ms = 200;
    expect_end(&fixture, CHAOS_INFO, 5 + 17);
    tear_down(&fixture);
}

static void test_numbers_in_names(void **state)
{
    (void)state;
    uint64_t number = 0;
    assert_true(workload_number("i-1041", "i-", &number));
    assert_int_equal(number, 1041);
    assert_true(workload_number("17", "", &number));
    assert_int_equal(number, 17);
    assert_false(workload_number("i-", "i-", &number));
    assert_false(workload_number("i-12x", "i-", &number));
    assert_false(workload_number("i--12", "i-", &number));
    assert_false(workload_number("i- 12", "i-", &number));
    assert_false(workload_number("c-12", "i-", &number));
    assert_false(workload_number("", "i-", &number));
}

/* Similar with k 1 must find the item itself and no other: vectors of two items are never close. */
static void test_vectors_are_far_apart(void **state)
{
    (void)state;
    enum { ITEMS = 100 };
    static float vectors[ITEMS][WORKLOAD_DIM];
    for (uint64_t item = 0; item < ITEMS; item++)
        workload_vector(item + 1, vectors[item]);
    for (int a = 0; a < ITEMS; a++)
        for (int b = 0; b <= a; b++) {
            double product = 0;
            for (int i = 0; i < WORKLOAD_DIM; i++)
                product += (double)vectors[a][i] * (double)vectors[b][i];
            if (a == b)
                assert_true(product > 0.999 && product < 1.001);
            else
                assert_true(product < 0.95);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_sure_refusals_of_writes_fail),
        cmocka_unit_test(test_exhausted_is_told_apart_by_the_message),
        cmocka_unit_test(test_reads_change_nothing),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_nobody_answers),
        cmocka_unit_test(test_connection_breaks_after_the_request),
        cmocka_unit_test(test_numbers_in_names),
        cmocka_unit_test(test_vectors_are_far_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
