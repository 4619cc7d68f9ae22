#include "base/queue.h"
#include "tests/unit/base/cmocka_all.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

static void first_in_first_out_within_the_capacity(void **state)
{
    struct dn_queue *queue = dn_queue_create(5); /* becomes 8 */
    int items[8], extra;

    (void)state;
    assert_null(dn_queue_pop(queue));
    for (int round = 0; round < 20; round++) { /* many times round the array */
        for (int i = 0; i < 8; i++) {
            assert_int_equal(dn_queue_length(queue), i);
            assert_true(dn_queue_push(queue, &items[i]));
        }
        assert_false(dn_queue_push(queue, &extra));
        for (int i = 0; i < 3; i++) {
            assert_ptr_equal(dn_queue_pop(queue), &items[i]);
        }
        assert_true(dn_queue_push(queue, &extra));
        for (int i = 3; i < 8; i++) {
            assert_ptr_equal(dn_queue_pop(queue), &items[i]);
        }
        assert_ptr_equal(dn_queue_pop(queue), &extra);
        assert_null(dn_queue_pop(queue));
        assert_int_equal(dn_queue_length(queue), 0);
    }
    dn_queue_destroy(queue);
    dn_queue_destroy(NULL);
}

static void the_smallest_queues_work(void **state)
{
    int a, b, c;

    (void)state;
    for (size_t capacity = 0; capacity <= 2; capacity++) {
        struct dn_queue *queue = dn_queue_create(capacity);

        for (int round = 0; round < 5; round++) {
            assert_true(dn_queue_push(queue, &a));
            assert_true(dn_queue_push(queue, &b));
            assert_false(dn_queue_push(queue, &c));
            assert_ptr_equal(dn_queue_pop(queue), &a);
            assert_ptr_equal(dn_queue_pop(queue), &b);
            assert_null(dn_queue_pop(queue));
        }
        dn_queue_destroy(queue);
    }
    assert_null(dn_queue_create(SIZE_MAX));
    assert_null(dn_queue_create(SIZE_MAX / 2 + 2));
}

#define PRODUCERS 3
#define ITEMS_EACH 20000
#define QUEUE_CAPACITY 64 /* small: producers meet a full queue all the time */

struct message {
    int producer;
    int number;
    int body; /* written just before the push, plainly: the hand-over must order it */
};

static struct dn_queue *shared_queue;
static struct message messages[PRODUCERS][ITEMS_EACH];
static atomic_ulong refused;

static void *produce(void *argument)
{
    int producer = (int)(intptr_t)argument;

    for (int i = 0; i < ITEMS_EACH; i++) {
        struct message *message = &messages[producer][i];

        message->producer = producer;
        message->number = i;
        message->body = i * 31 + producer;
        while (!dn_queue_push(shared_queue, message)) {
            atomic_fetch_add(&refused, 1);
            sched_yield();
        }
    }
    return NULL;
}

static void nothing_is_lost_doubled_or_overtaken(void **state)
{
    pthread_t threads[PRODUCERS];
    int next[PRODUCERS] = {0};
    int wrong = 0;

    (void)state;
    shared_queue = dn_queue_create(QUEUE_CAPACITY);
    for (int i = 0; i < PRODUCERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, produce, (void *)(intptr_t)i), 0);
    }
    for (int got = 0; got < PRODUCERS * ITEMS_EACH;) {
        struct message *message = dn_queue_pop(shared_queue);

        if (message == NULL) {
            sched_yield();
            continue;
        }
        wrong += dn_queue_length(shared_queue) > QUEUE_CAPACITY;
        wrong += message->number != next[message->producer]++;
        wrong += message->body != message->number * 31 + message->producer;
        message->body = 0; /* the consumer owns it now */
        got++;
    }
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(next[i], ITEMS_EACH);
    }
    assert_int_equal(wrong, 0);
    assert_null(dn_queue_pop(shared_queue));
    print_message("refused while full: %lu\n", atomic_load(&refused));
    dn_queue_destroy(shared_queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_in_first_out_within_the_capacity),
        cmocka_unit_test(the_smallest_queues_work),
        cmocka_unit_test(nothing_is_lost_doubled_or_overtaken),
    };
    return cmocka_run_group_tests_name("base.queue", tests, NULL, NULL);
}
