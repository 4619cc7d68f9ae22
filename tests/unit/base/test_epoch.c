#include "base/epoch.h"
#include "tests/unit/base/cmocka_all.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- one thread: what is freed when ---- */

struct freed_list {
    void *objects[5000];
    size_t count;
};

static void note_freed(void *context, void *object)
{
    struct freed_list *list = context;

    list->objects[list->count++] = object;
}

static struct freed_list freed;
static char things[5000];

static int reset_freed(void **state)
{
    (void)state;
    memset(&freed, 0, sizeof(freed));
    return 0;
}

static void without_readers_all_is_freed_in_order(void **state)
{
    struct dn_epoch *epoch = dn_epoch_create();

    (void)state;
    assert_int_equal(dn_epoch_reclaim(epoch, 100), 0);
    for (size_t i = 0; i < 10; i++) {
        dn_epoch_retire(epoch, &things[i], note_freed, &freed);
    }
    assert_int_equal(freed.count, 0);
    assert_int_equal(dn_epoch_reclaim(epoch, 0), 10);
    assert_int_equal(dn_epoch_reclaim(epoch, 3), 7);
    assert_int_equal(freed.count, 3);
    assert_int_equal(dn_epoch_reclaim(epoch, 100), 0);
    for (size_t i = 0; i < 10; i++) {
        assert_ptr_equal(freed.objects[i], &things[i]);
    }
    dn_epoch_destroy(epoch);
}

static void a_reader_inside_holds_what_it_may_have_seen(void **state)
{
    struct dn_epoch *epoch = dn_epoch_create();
    struct dn_epoch_reader *reader = dn_epoch_register(epoch);

    (void)state;
    dn_epoch_enter(reader);
    dn_epoch_retire(epoch, &things[0], note_freed, &freed);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(dn_epoch_reclaim(epoch, 100), 1);
    }
    dn_epoch_enter(reader); /* nested: leaving once is not leaving */
    dn_epoch_leave(reader);
    assert_int_equal(dn_epoch_reclaim(epoch, 100), 1);
    dn_epoch_leave(reader);
    assert_int_equal(freed.count, 0);
    assert_int_equal(dn_epoch_reclaim(epoch, 100), 0);
    assert_int_equal(freed.count, 1);
    dn_epoch_unregister(reader);
    dn_epoch_destroy(epoch);
}

static void a_reader_that_came_later_holds_nothing_older(void **state)
{
    struct dn_epoch *epoch = dn_epoch_create();
    struct dn_epoch_reader *early = dn_epoch_register(epoch), *late = dn_epoch_register(epoch);

    (void)state;
    dn_epoch_enter(early);
    dn_epoch_retire(epoch, &things[0], note_freed, &freed);
    assert_int_equal(dn_epoch_reclaim(epoch, 100), 1); /* moves one epoch on, no further */
    dn_epoch_enter(late);
    dn_epoch_retire(epoch, &things[1], note_freed, &freed);
    dn_epoch_leave(early);
    dn_epoch_reclaim(epoch, 100);
    assert_int_equal(freed.count, 1);
    assert_ptr_equal(freed.objects[0], &things[0]);
    assert_int_equal(dn_epoch_reclaim(epoch, 100), 1);
    dn_epoch_leave(late);
    assert_int_equal(dn_epoch_reclaim(epoch, 100), 0);
    dn_epoch_unregister(early);
    dn_epoch_unregister(late);
    dn_epoch_destroy(epoch);
}

static void registrations_are_limited_and_reused(void **state)
{
    struct dn_epoch *epoch = dn_epoch_create();
    struct dn_epoch_reader *readers[DN_EPOCH_READERS_MAX], *again;

    (void)state;
    for (int i = 0; i < DN_EPOCH_READERS_MAX; i++) {
        readers[i] = dn_epoch_register(epoch);
        assert_non_null(readers[i]);
        for (int j = 0; j < i; j++) {
            assert_ptr_not_equal(readers[i], readers[j]);
        }
    }
    assert_null(dn_epoch_register(epoch));
    dn_epoch_unregister(readers[17]);
    again = dn_epoch_register(epoch);
    assert_ptr_equal(again, readers[17]);
    dn_epoch_enter(again);
    dn_epoch_retire(epoch, &things[0], note_freed, &freed);
    assert_int_equal(dn_epoch_reclaim(epoch, 9), 1);
    dn_epoch_leave(again);
    assert_int_equal(dn_epoch_reclaim(epoch, 9), 0);
    for (int i = 0; i < DN_EPOCH_READERS_MAX; i++) {
        dn_epoch_unregister(readers[i]);
    }
    dn_epoch_destroy(epoch);
}

static void order_survives_growth_of_a_wrapped_ring(void **state)
{
    struct dn_epoch *epoch = dn_epoch_create();
    size_t retired = 0;

    (void)state;
    while (retired < 200) {
        dn_epoch_retire(epoch, &things[retired++], note_freed, &freed);
    }
    assert_int_equal(dn_epoch_reclaim(epoch, 150), 50); /* the head stands in the middle now */
    while (retired < 5000) {
        dn_epoch_retire(epoch, &things[retired++], note_freed, &freed);
    }
    assert_int_equal(dn_epoch_reclaim(epoch, SIZE_MAX), 0);
    assert_int_equal(freed.count, 5000);
    for (size_t i = 0; i < 5000; i++) {
        assert_ptr_equal(freed.objects[i], &things[i]);
    }
    dn_epoch_destroy(epoch);
}

static struct dn_epoch *nest_epoch;

static void retire_another(void *context, void *object)
{
    size_t index = (size_t)((char *)object - things);

    note_freed(context, object);
    if (index + 1 < 700) {
        dn_epoch_retire(nest_epoch, &things[index + 1], retire_another, context);
    }
}

static void freeing_may_retire_more(void **state)
{
    (void)state;
    nest_epoch = dn_epoch_create();
    dn_epoch_retire(nest_epoch, &things[0], retire_another, &freed);
    dn_epoch_reclaim(nest_epoch, 300);
    assert_int_equal(freed.count, 300);
    dn_epoch_destroy(nest_epoch); /* frees the chain to its end */
    assert_int_equal(freed.count, 700);
    dn_epoch_destroy(NULL);
}

/* ---- real readers against a writer ---- */

#define READERS 3
#define CELLS 8
#define ALIVE 0x600dc0deu
#define DEAD 0xdeadu
#define SWAPS 30000

struct node {
    uint32_t magic;
    uint32_t payload[6]; /* all equal while alive */
};

static struct {
    struct dn_epoch *epoch;
    struct node *_Atomic cells[CELLS];
    atomic_bool stop;
    atomic_uint bad;
    atomic_uint ready;
    atomic_ulong reads[READERS];
} race;

static struct node *node_create(uint32_t value)
{
    struct node *node = malloc(sizeof(*node));

    node->magic = ALIVE;
    for (int i = 0; i < 6; i++) {
        node->payload[i] = value;
    }
    return node;
}

static void node_free(void *context, void *object)
{
    struct node *node = object;

    node->magic =
        DEAD; /* plain writes: the thread sanitizer sees them race with a reader that is still inside */
    memset(node->payload, 0xdd, sizeof(node->payload));
    ++*(size_t *)context;
    free(node);
}

static void *read_cells(void *argument)
{
    struct dn_epoch_reader *reader = dn_epoch_register(race.epoch);
    size_t me = (size_t)(uintptr_t)argument;
    unsigned long rounds = 0;

    atomic_fetch_add(&race.ready, 1);
    while (!atomic_load_explicit(&race.stop, memory_order_relaxed)) {
        struct node *held[CELLS];

        if (++rounds % 97 == 0) { /* readers come and go */
            dn_epoch_unregister(reader);
            reader = dn_epoch_register(race.epoch);
        }
        dn_epoch_enter(reader);
        for (int i = 0; i < CELLS; i++) {
            held[i] = atomic_load_explicit(&race.cells[i], memory_order_acquire);
        }
        for (int i = 0; i < CELLS; i++) { /* used after all were loaded: held for a while */
            uint32_t first = held[i]->payload[0];

            for (int j = 1; j < 6; j++) {
                if (held[i]->magic != ALIVE || held[i]->payload[j] != first) {
                    atomic_fetch_add(&race.bad, 1);
                }
            }
        }
        dn_epoch_leave(reader);
        atomic_store_explicit(&race.reads[me], rounds, memory_order_relaxed);
    }
    dn_epoch_unregister(reader);
    return NULL;
}

static bool every_reader_read(unsigned long least)
{
    for (int i = 0; i < READERS; i++) {
        if (atomic_load(&race.reads[i]) < least) {
            return false;
        }
    }
    return true;
}

static void readers_never_see_freed_memory(void **state)
{
    pthread_t threads[READERS];
    size_t freed_count = 0, most_waiting = 0, swaps = 0;

    (void)state;
    race.epoch = dn_epoch_create();
    for (uint32_t i = 0; i < CELLS; i++) {
        atomic_init(&race.cells[i], node_create(i));
    }
    for (size_t i = 0; i < READERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, read_cells, (void *)(uintptr_t)i), 0);
    }
    /* Goes on until every reader has really taken part and something was freed beside them, however the
     * threads are scheduled: with fewer cores than readers, one of them may be held up inside for all of the
     * swaps. */
    for (; swaps < SWAPS || !every_reader_read(200) || freed_count == 0; swaps++) {
        struct node *old = atomic_exchange(&race.cells[swaps % CELLS], node_create((uint32_t)swaps));
        size_t waiting;

        dn_epoch_retire(race.epoch, old, node_free, &freed_count);
        waiting = dn_epoch_reclaim(race.epoch, 64);
        most_waiting = waiting > most_waiting ? waiting : most_waiting;
    }
    atomic_store(&race.stop, true);
    for (int i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&race.bad), 0);
    while (dn_epoch_reclaim(race.epoch, 64) > 0) {
    }
    assert_int_equal(freed_count, swaps);
    print_message("%zu swaps, at most %zu waiting\n", swaps, most_waiting);
    dn_epoch_destroy(race.epoch);
    for (int i = 0; i < CELLS; i++) {
        free(atomic_load(&race.cells[i]));
    }
}

/* The reader's reads must happen before the free by leave alone: the flag that tells the writer to go on is
 * relaxed, so the thread sanitizer reports a race if leave does not publish. */
static struct {
    struct dn_epoch *epoch;
    struct node *_Atomic cell;
    atomic_int step;
} handover;

static void *read_once(void *argument)
{
    struct dn_epoch_reader *reader = dn_epoch_register(handover.epoch);
    struct node *node;

    (void)argument;
    dn_epoch_enter(reader);
    node = atomic_load_explicit(&handover.cell, memory_order_acquire);
    if (node->magic != ALIVE) {
        atomic_fetch_add(&race.bad, 1);
    }
    dn_epoch_leave(reader);
    atomic_store_explicit(&handover.step, 1, memory_order_relaxed);
    while (atomic_load_explicit(&handover.step, memory_order_relaxed) != 2) {
        sched_yield();
    }
    dn_epoch_unregister(reader);
    return NULL;
}

static void leaving_orders_the_reads_before_the_free(void **state)
{
    size_t freed_count = 0;
    pthread_t thread;

    (void)state;
    atomic_store(&race.bad, 0);
    handover.epoch = dn_epoch_create();
    atomic_init(&handover.cell, node_create(1));
    assert_int_equal(pthread_create(&thread, NULL, read_once, NULL), 0);
    while (atomic_load_explicit(&handover.step, memory_order_relaxed) != 1) {
        sched_yield();
    }
    dn_epoch_retire(handover.epoch, atomic_exchange(&handover.cell, NULL), node_free, &freed_count);
    assert_int_equal(dn_epoch_reclaim(handover.epoch, 1), 0);
    assert_int_equal(freed_count, 1);
    atomic_store_explicit(&handover.step, 2, memory_order_relaxed);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&race.bad), 0);
    dn_epoch_destroy(handover.epoch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(without_readers_all_is_freed_in_order, reset_freed),
        cmocka_unit_test_setup(a_reader_inside_holds_what_it_may_have_seen, reset_freed),
        cmocka_unit_test_setup(a_reader_that_came_later_holds_nothing_older, reset_freed),
        cmocka_unit_test_setup(registrations_are_limited_and_reused, reset_freed),
        cmocka_unit_test_setup(order_survives_growth_of_a_wrapped_ring, reset_freed),
        cmocka_unit_test_setup(freeing_may_retire_more, reset_freed),
        cmocka_unit_test(readers_never_see_freed_memory),
        cmocka_unit_test(leaving_orders_the_reads_before_the_free),
    };
    return cmocka_run_group_tests_name("base.epoch", tests, NULL, NULL);
}
