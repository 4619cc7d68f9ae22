/* What the journal does when memory runs out: its sources are included here with an allocator that fails when
 * told. Each allocation of a history fails once, then several in a row: nothing is lost that was promised,
 * nothing is found that never was, and when memory is back everything goes on. */
#include "tests/unit/journal/model.h"
#include "tests/unit/journal/no_memory.h"
#include "tests/unit/journal/sim_disk.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/metrics.h"
#include "journal/internal.h"

#include <inttypes.h>

#define malloc limited_malloc
#define calloc limited_calloc
#define realloc limited_realloc
#define posix_memalign limited_posix_memalign
#define strdup limited_strdup
/* NOLINTBEGIN(bugprone-suspicious-include) */
#include "base/buffer.c"
#include "journal/format.c"
#include "journal/journal.c"
#include "journal/recover.c"
#include "journal/space.c"
#include "journal/state.c"
/* NOLINTEND(bugprone-suspicious-include) */
#undef malloc
#undef calloc
#undef realloc
#undef posix_memalign
#undef strdup

#define STEPS 50
#define ROUNDS_MAX 100000
#define ALLOCATIONS_MAX 5000

static void set_true(void *data)
{
    *(bool *)data = true;
}

struct faults {
    unsigned begun, ended;
    enum dn_code code;
};

static void on_fault(void *data, bool fault, const struct dn_error *why)
{
    struct faults *faults = data;
    assert_int_equal(faults->begun, faults->ended + !fault); /* said once */
    faults->begun += fault;
    faults->ended += !fault;
    faults->code = why->code;
}

/* ---- on the simulated disk: every operation of the API ---------------------------------------------------
 */

static enum dn_code sim_journal(struct sim_disk *sim, struct faults *faults, struct dn_journal **ret,
                                struct dn_error *err)
{
    struct dn_journal_options options = {.disk = &sim->disk,
                                         .name = "sim",
                                         .segment_bytes = MODEL_SEGMENT,
                                         .on_fault = faults == NULL ? NULL : on_fault,
                                         .data = faults};
    return dn_journal_open(&options, ret, err);
}

static void sim_close_journal(struct sim_disk *sim, struct dn_journal *journal)
{
    bool closed = false;
    dn_journal_close(journal, set_true, &closed);
    while (!closed) {
        assert_true(sim->op_count > 0);
        sim_end(sim, 0);
    }
    dn_journal_destroy(journal);
}

/* Opens; a failure must be a clear one and leave nothing behind. */
static struct dn_journal *open_at_last(struct sim_disk *sim, struct faults *faults)
{
    struct dn_journal *journal = NULL;
    struct dn_error err = {0};
    for (unsigned tries = 0;; tries++) {
        enum dn_code code = sim_journal(sim, faults, &journal, &err);
        if (code == DN_OK)
            return journal;
        if (code != DN_NO_MEMORY || strlen(err.message) == 0)
            fail_msg("%s: %s", dn_code_text(code), err.message);
        assert_null(journal);
        assert_true(tries < 100);
    }
}

/* One history, in two lives. True when the n-th allocation was reached. */
static bool history(uint64_t seed, long nth, long count, bool power_cut)
{
    struct test_random random = {.state = seed};
    struct sim_disk *sim = sim_new(5);
    struct model *model = model_new();
    struct faults faults = {0};
    static struct model_promise promises[STEPS];
    size_t promised = 0;
    no_memory(nth, count);
    for (unsigned life = 0; life < 2; life++) {
        struct dn_journal *journal = open_at_last(sim, &faults);
        dn_journal_forget(journal);
        for (unsigned i = 0; i < STEPS; i++) {
            model_step(model, journal, &random);
            model_ask(model, journal, &promises[i], &promised);
            dn_journal_turn(journal);
            for (unsigned k = 0; k < 2 && sim->op_count > 0; k++)
                sim_end(sim, 0);
            assert_true(dn_journal_durable(journal) <= dn_journal_appended(journal));
            if (power_cut && atomic_load(&memory_failures) > 0 && i % 2 == 0)
                break;
        }
        if (power_cut && atomic_load(&memory_failures) > 0) {
            struct sim_disk *after = sim_power_cut(sim, (uint64_t)nth);
            for (unsigned i = 0; i < sim->op_count; i++)
                if (sim->ops[i].kind == SIM_CREATE)
                    sim->ops[i].ret_file = NULL;
            dn_journal_destroy(journal);
            sim->disk.ops->destroy(&sim->disk);
            sim = after;
            break;
        }
        for (unsigned rounds = 0; dn_journal_durable(journal) < dn_journal_appended(journal); rounds++) {
            dn_journal_turn(journal);
            if (sim->op_count > 0)
                sim_end(sim, 0);
            assert_true(rounds < ROUNDS_MAX);
        }
        dn_journal_turn(journal);
        assert_int_equal(promised, model->count - 1);
        assert_null(dn_journal_fault(journal));
        assert_int_equal(faults.begun, faults.ended);
        assert_true(faults.begun == 0 || faults.code == DN_NO_MEMORY);
        sim_close_journal(sim, journal);
    }
    bool reached = atomic_load(&memory_failures) > 0;
    enough_memory();
    struct dn_journal *journal = open_at_last(sim, NULL);
    long found = model_found(model, journal);
    if (found < (long)promised)
        fail_msg("seed %u, allocation %ld: state %ld of %zu was found, %zu promised", (unsigned)seed, nth,
                 found, model->count, promised);
    sim_close_journal(sim, journal);
    sim->disk.ops->destroy(&sim->disk);
    model_free(model);
    return reached;
}

static void every_allocation_fails_once(void **state)
{
    static const long counts[] = {1, 3, 20};
    (void)state;
    for (size_t i = 0; i < 3 * sizeof counts / sizeof *counts; i++) {
        long n = 1;
        while (history(i / 3, n, counts[i % 3], false)) {
            assert_true(n < ALLOCATIONS_MAX);
            n++;
        }
        print_message("# %ld allocations, %ld fail at each\n", n - 1, counts[i % 3]);
        assert_true(n > 30);
    }
}

static void the_power_goes_while_memory_is_out(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 5; seed++)
        for (long n = 1; history(seed, n, n % 5 + 1, true); n++)
            assert_true(n < ALLOCATIONS_MAX);
}

static void closing_without_memory(void **state)
{
    (void)state;
    for (long n = 1;; n++) {
        struct test_random random = {.state = 3};
        struct sim_disk *sim = sim_new(5);
        struct model *model = model_new();
        struct dn_journal *journal = open_at_last(sim, NULL);
        dn_journal_forget(journal);
        for (unsigned i = 0; i < STEPS; i++)
            model_step(model, journal, &random);
        no_memory(n, 1000);
        sim_close_journal(sim, journal);
        bool reached = atomic_load(&memory_failures) > 0;
        enough_memory();
        journal = open_at_last(sim, NULL);
        long found = model_found(model, journal);
        assert_true(reached ? found >= 0 : found == (long)model->count - 1);
        sim_close_journal(sim, journal);
        sim->disk.ops->destroy(&sim->disk);
        model_free(model);
        if (!reached)
            break;
    }
}

/* Reading without memory: refused with a reason, and the next time all is there. */
static void recovery_and_walk_without_memory(void **state)
{
    struct test_random random = {.state = 9};
    struct sim_disk *sim = sim_new(5);
    struct model *model = model_new();
    struct dn_journal *journal = open_at_last(sim, NULL);
    struct dn_error err = {0};
    long opens = 0, walks = 0, reads = 0;
    (void)state;
    dn_journal_forget(journal);
    for (unsigned i = 0; i < 3 * STEPS; i++) {
        model_step(model, journal, &random);
        dn_journal_turn(journal);
        while (sim->op_count > 0)
            sim_end(sim, 0);
    }
    sim_close_journal(sim, journal);
    for (;; opens++) {
        journal = NULL;
        no_memory(opens + 1, 1);
        enum dn_code code = sim_journal(sim, NULL, &journal, &err);
        enough_memory();
        if (code == DN_OK)
            break;
        assert_int_equal(code, DN_NO_MEMORY);
        assert_null(journal);
    }
    assert_int_equal(atomic_load(&memory_failures), 0);
    assert_int_equal(model_found(model, journal), (long)model->count - 1);
    for (uint32_t g = 0; g < MODEL_GROUPS; g++) {
        struct dn_journal_group group;
        dn_journal_recovered(journal, g, &group);
        struct model_looking looking = {model, &model_now(model)->groups[g], group.first_index};
        no_memory(1, 1);
        enum dn_code code = dn_journal_read(journal, g, model_entry, &looking, &err);
        enough_memory();
        assert_true(code == (group.entry_count == 0 ? DN_OK : DN_NO_MEMORY));
        reads += code != DN_OK;
    }
    sim_close_journal(sim, journal);
    for (;; walks++) {
        no_memory(walks + 1, 1);
        enum dn_code code = dn_journal_walk(&sim->disk, "sim", NULL, NULL, &err);
        enough_memory();
        if (code == DN_OK)
            break;
        assert_int_equal(code, DN_NO_MEMORY);
    }
    print_message("# %ld failures at opening, %ld at reading, %ld at walking\n", opens, reads, walks);
    assert_true(opens > 5 && reads > 0 && walks > 3);
    sim->disk.ops->destroy(&sim->disk);
    model_free(model);
}

/* No memory for making a segment ahead is no fault while the current one has room; and a fault that began
 * with nothing to write ends without anything to write. */
static void a_quiet_journal_gets_over_it(void **state)
{
    struct sim_disk *sim = sim_new(5);
    struct faults faults = {0};
    (void)state;
    sim->fail_from[SIM_CREATE] = 1;
    sim->fail_count[SIM_CREATE] = 2;
    sim->fail_error = ENOMEM;
    struct dn_journal *journal = open_at_last(sim, &faults);
    dn_journal_forget(journal);
    for (unsigned rounds = 0; faults.ended == 0; rounds++) {
        assert_true(rounds < ROUNDS_MAX);
        dn_journal_turn(journal);
        if (sim->op_count > 0)
            sim_end(sim, 0);
    }
    assert_int_equal(faults.begun, 1);
    assert_null(dn_journal_fault(journal));
    assert_true(dn_journal_set_term(journal, 0, 1, 1));
    dn_journal_turn(journal);
    while (dn_journal_durable(journal) < dn_journal_appended(journal)) {
        assert_true(sim->op_count > 0);
        sim_end(sim, 0);
    }
    assert_int_equal(faults.begun, 1);
    sim_close_journal(sim, journal);
    sim->disk.ops->destroy(&sim->disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_fails_once),  cmocka_unit_test(the_power_goes_while_memory_is_out),
        cmocka_unit_test(closing_without_memory),       cmocka_unit_test(recovery_and_walk_without_memory),
        cmocka_unit_test(a_quiet_journal_gets_over_it),
    };
    dn_log_set_level((enum dn_log_level)(DN_LOG_ERROR + 1));
    return cmocka_run_group_tests_name("journal.out_of_memory", tests, NULL, NULL);
}
