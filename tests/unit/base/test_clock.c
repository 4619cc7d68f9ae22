#include "base/clock.h"
#include "tests/unit/base/cmocka_all.h"

#include <time.h>

static void clocks_do_not_go_back_and_agree_on_units(void **state)
{
    uint64_t before_ns = dn_monotonic_ns(), before_us = dn_boottime_us();
    uint64_t us = dn_monotonic_us();
    uint64_t after_ns = dn_monotonic_ns();

    (void)state;
    assert_true(before_ns > 0 && before_us > 0);
    assert_in_range(us, before_ns / 1000, after_ns / 1000);
    for (int i = 0; i < 1000; i++) {
        uint64_t now_ns = dn_monotonic_ns(), now_us = dn_boottime_us();

        assert_true(now_ns >= after_ns && now_us >= before_us);
        after_ns = now_ns;
        before_us = now_us;
    }
    assert_true(dn_boottime_us() >= dn_monotonic_us() / 2); /* boot time includes sleep */
}

static void a_sleep_is_seen_by_both(void **state)
{
    const struct timespec pause = {.tv_nsec = 3000000};
    uint64_t start_us = dn_monotonic_us(), start_boot_us = dn_boottime_us();

    (void)state;
    while (nanosleep(&pause, NULL) != 0) {
    }
    assert_true(dn_monotonic_us() - start_us >= 3000);
    assert_true(dn_boottime_us() - start_boot_us >= 3000);
}

static void wall_time_is_that_of_the_system(void **state)
{
    int64_t before_s = time(NULL), ms = dn_wall_ms(), after_s = time(NULL);

    (void)state;
    assert_in_range(ms / 1000, before_s - 1, after_s + 1); /* time() may lag by a tick */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks_do_not_go_back_and_agree_on_units),
        cmocka_unit_test(a_sleep_is_seen_by_both),
        cmocka_unit_test(wall_time_is_that_of_the_system),
    };
    return cmocka_run_group_tests_name("base.clock", tests, NULL, NULL);
}
