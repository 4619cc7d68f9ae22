/* Stalls of the machine's own disk stand in the history as faults. */
#include "base/clock.h"
#include "chaos/run_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void expect(const struct chaos_history *history, size_t index, enum chaos_type type, const char *what)
{
    const struct chaos_op *op = chaos_history_at(history, index);
    assert_int_equal(op->f, CHAOS_FAULT);
    assert_int_equal(op->process, CHAOS_NEMESIS);
    assert_int_equal(op->type, type);
    assert_string_equal(op->name, "slow-machine");
    assert_string_equal(op->what, what);
}

static void test_a_long_flush_is_a_fault(void **state)
{
    (void)state;
    struct run_machine machine = {0};
    struct chaos_history *history = chaos_history_create();
    run_machine_look(&machine, history);
    atomic_store(&machine.began_ns, dn_monotonic_ns());
    run_machine_look(&machine, history);
    assert_int_equal(chaos_history_count(history), 0);
    atomic_store(&machine.began_ns, dn_monotonic_ns() - 2000000000u);
    run_machine_look(&machine, history);
    run_machine_look(&machine, history);
    assert_int_equal(chaos_history_count(history), 2);
    expect(history, 0, CHAOS_INVOKE, "begin");
    expect(history, 1, CHAOS_INFO, "begin");
    atomic_store(&machine.began_ns, dn_monotonic_ns()); /* the next flush */
    run_machine_look(&machine, history);
    run_machine_look(&machine, history);
    assert_int_equal(chaos_history_count(history), 4);
    expect(history, 2, CHAOS_INVOKE, "end");
    expect(history, 3, CHAOS_INFO, "end");
    assert_int_equal(machine.stalls, 1);
    assert_true(machine.longest_ms >= 2000);
    chaos_history_destroy(history);
}

static void test_it_flushes_and_leaves_nothing(void **state)
{
    (void)state;
    char folder[] = "/tmp/dunlin_machine.XXXXXX";
    struct run_machine machine = {0};
    struct chaos_history *history = chaos_history_create();
    struct dn_error err;
    uint64_t written = 0;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(run_machine_begin(&machine, folder, &err), DN_OK);
    assert_int_equal(access(machine.path, F_OK), 0);
    while (pread(machine.fd, &written, sizeof written, 0) != (ssize_t)sizeof written || written == 0)
        usleep(1000);
    run_machine_end(&machine, history);
    assert_int_not_equal(access(machine.path, F_OK), 0);
    assert_int_equal(rmdir(folder), 0);
    run_machine_end(&machine, history); /* harmless */
    assert_int_equal(run_machine_begin(&machine, "/nowhere/at/all", &err), DN_IO);
    chaos_history_destroy(history);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_long_flush_is_a_fault),
        cmocka_unit_test(test_it_flushes_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
