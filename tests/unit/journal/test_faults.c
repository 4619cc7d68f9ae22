/* Disks that fail and come back: whatever operation fails, however often, nothing is reported done that is
 * not, and when the disk works again everything is written and found. */
#include "base/log.h"
#include "journal/journal.h"
#include "sim_disk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SEGMENT_BYTES (64u << 10)
#define APPENDS 120
#define ENTRY_BYTES_MAX 3000
#define TURNS_MAX 100000

struct seen {
    unsigned faults, ends, durable;
    bool fault;
};

static void on_fault(void *data, bool fault, const struct dn_error *why)
{
    struct seen *seen = data;
    assert_true(fault != seen->fault); /* said once, not with every try */
    seen->fault = fault;
    if (fault) {
        assert_non_null(strstr(why->message, "sim"));
        seen->faults++;
    } else {
        seen->ends++;
    }
}

static void durable(struct dn_journal_wait *wait)
{
    struct seen *seen = wait->data;
    seen->durable++;
}

static enum dn_code count_entry(void *data, uint64_t index, const struct dn_journal_entry *entry,
                                struct dn_error *err)
{
    uint64_t *next = data;
    (void)err;
    assert_int_equal(index, (*next)++);
    assert_int_equal(entry->length, index * 37 % ENTRY_BYTES_MAX);
    for (size_t i = 0; i < entry->length; i++)
        assert_int_equal(((const uint8_t *)entry->bytes)[i], (uint8_t)index);
    return DN_OK;
}

static struct dn_journal *open_journal(struct sim_disk *sim, struct seen *seen)
{
    struct dn_journal_options options = {.disk = &sim->disk,
                                         .name = "sim",
                                         .segment_bytes = SEGMENT_BYTES,
                                         .on_fault = on_fault,
                                         .data = seen};
    struct dn_journal *journal;
    struct dn_error err = {0};
    if (dn_journal_open(&options, &journal, &err) != DN_OK)
        fail_msg("%s", err.message);
    return journal;
}

static void flag(void *data)
{
    *(bool *)data = true;
}

static void drop(struct dn_journal *journal, struct sim_disk *sim)
{
    bool closed = false;
    dn_journal_close(journal, flag, &closed);
    while (!closed) {
        assert_true(sim->op_count > 0);
        sim_end(sim, 0);
    }
    dn_journal_destroy(journal);
}

/* The n-th operation of a kind fails, and some after it; then all is well. */
static void run(enum sim_kind kind, unsigned nth, unsigned count, int error, unsigned *ret_faults)
{
    struct sim_disk *sim = sim_new(nth * 7919u + count * 31u + (unsigned)kind);
    struct seen seen = {0};
    static struct dn_journal_wait waits[APPENDS];
    uint8_t bytes[ENTRY_BYTES_MAX];
    sim->fail_from[kind] = nth;
    sim->fail_count[kind] = count;
    sim->fail_error = error;
    struct dn_journal *journal = open_journal(sim, &seen);
    dn_journal_forget(journal);
    for (unsigned i = 1; i <= APPENDS; i++) {
        struct dn_journal_entry entry = {1 + i / 40, 1, bytes, i * 37 % ENTRY_BYTES_MAX};
        memset(bytes, (int)i, sizeof bytes);
        assert_true(dn_journal_set_term(journal, 0, entry.term, i % 3));
        assert_true(dn_journal_append(journal, 0, i, &entry, 1));
        if (i % 10 == 0) /* the other group's segments are given up on the way */
            assert_true(dn_journal_snapshot(journal, 1, i, 1, i + 1, "m", 1));
        waits[i - 1] = (struct dn_journal_wait){.done = durable, .data = &seen};
        dn_journal_when_durable(journal, &waits[i - 1]);
        dn_journal_turn(journal);
        if (i % 3 == 0 && sim->op_count > 0)
            sim_end(sim, 0);
        if (seen.fault)
            assert_non_null(dn_journal_fault(journal));
    }
    unsigned turns = 0;
    while (seen.durable < APPENDS) {
        dn_journal_turn(journal);
        if (sim->op_count > 0)
            sim_end(sim, 0);
        assert_true(++turns < TURNS_MAX);
    }
    assert_false(seen.fault);
    assert_int_equal(seen.faults, seen.ends);
    *ret_faults += seen.faults;
    drop(journal, sim);
    journal = open_journal(sim, &seen);
    struct dn_journal_group group;
    struct dn_error err;
    uint64_t next = 1;
    dn_journal_recovered(journal, 0, &group);
    assert_int_equal(group.term, 1 + APPENDS / 40);
    assert_int_equal(group.voted_for, APPENDS % 3);
    assert_int_equal(group.entry_count, APPENDS);
    assert_int_equal(dn_journal_read(journal, 0, count_entry, &next, &err), DN_OK);
    dn_journal_recovered(journal, 1, &group);
    assert_int_equal(group.snapshot_index, APPENDS);
    drop(journal, sim);
    sim->disk.ops->destroy(&sim->disk);
}

static void every_operation_fails(void **state)
{
    unsigned faults = 0, runs = 0;
    (void)state;
    dn_log_set_level(DN_LOG_ERROR);
    for (unsigned kind = 0; kind < SIM_KINDS; kind++)
        for (unsigned nth = 1; nth <= 30; nth++)
            for (unsigned count = 1; count <= 9; count += 4) {
                run((enum sim_kind)kind, nth, count, kind == SIM_CREATE ? ENOSPC : EIO, &faults);
                runs++;
            }
    print_message("# %u runs, %u faults outlasted\n", runs, faults);
    assert_true(faults > 60);
}

/* A stop while the disk fails: what was promised is there, the rest may be lost, and the journal closes. */
static void stops_while_the_disk_fails(void **state)
{
    struct sim_disk *sim = sim_new(1);
    struct seen seen = {0};
    struct dn_journal *journal = open_journal(sim, &seen);
    struct dn_journal_wait promised = {.done = durable, .data = &seen}, never = promised;
    (void)state;
    dn_journal_forget(journal);
    assert_true(dn_journal_set_term(journal, 0, 5, 1));
    dn_journal_when_durable(journal, &promised);
    while (seen.durable == 0) {
        dn_journal_turn(journal);
        sim_end(sim, 0);
    }
    sim->fail_from[SIM_WRITE] = sim->done[SIM_WRITE] + 1;
    sim->fail_count[SIM_WRITE] = 1000000;
    sim->fail_error = EIO;
    assert_true(dn_journal_set_term(journal, 0, 6, 2));
    dn_journal_when_durable(journal, &never);
    while (!seen.fault) {
        dn_journal_turn(journal);
        assert_true(sim->op_count > 0);
        sim_end(sim, 0);
    }
    drop(journal, sim);
    assert_int_equal(seen.durable, 1);
    sim->fail_count[SIM_WRITE] = 0;
    struct seen later = {0};
    journal = open_journal(sim, &later);
    struct dn_journal_group group;
    dn_journal_recovered(journal, 0, &group);
    assert_true(group.known && (group.term == 5 || group.term == 6));
    drop(journal, sim);
    sim->disk.ops->destroy(&sim->disk);
}

/* No segment can be made any more: no fault while the one in use has room; one as soon as something waits;
 * and it ends when there is room again. */
static void a_full_disk_is_told_when_something_waits(void **state)
{
    struct sim_disk *sim = sim_new(1);
    struct seen seen = {0};
    struct dn_journal *journal = open_journal(sim, &seen);
    uint8_t bytes[ENTRY_BYTES_MAX] = {0};
    (void)state;
    dn_journal_forget(journal);
    sim->fail_from[SIM_CREATE] = 2;
    sim->fail_count[SIM_CREATE] = 1000000;
    sim->fail_error = ENOSPC;
    for (uint64_t i = 1; !seen.fault; i++) {
        struct dn_journal_entry entry = {1, 1, bytes, sizeof bytes};
        assert_true(i < SEGMENT_BYTES / sizeof bytes + 2); /* it was full, and nobody said so */
        assert_true(dn_journal_append(journal, 0, i, &entry, 1));
        dn_journal_turn(journal);
        for (unsigned k = 0; k < 4 && sim->op_count > 0; k++)
            sim_end(sim, 0);
        assert_int_equal(seen.fault, dn_journal_durable(journal) < dn_journal_appended(journal));
    }
    assert_int_equal(dn_journal_fault(journal)->code, DN_NO_SPACE);
    sim->fail_count[SIM_CREATE] = 0;
    while (dn_journal_durable(journal) < dn_journal_appended(journal)) {
        dn_journal_turn(journal);
        assert_true(sim->op_count > 0);
        sim_end(sim, 0);
    }
    assert_false(seen.fault);
    drop(journal, sim);
    sim->disk.ops->destroy(&sim->disk);
}

/* What a killed process wrote last may be seen and not durable: the next one makes sure of it, from the last
 * place that was known to be durable to the end, before it builds on it. */
static void what_is_believed_is_made_durable(void **state)
{
    static const char bytes[800];
    struct sim_disk *sim = sim_new(5);
    struct seen seen = {0};
    uint64_t from = 0, end = 0;
    struct dn_journal *journal = open_journal(sim, &seen);
    (void)state;
    assert_int_equal(sim->settled_end, 0); /* an empty folder */
    dn_journal_forget(journal);
    for (unsigned i = 1; i <= 8; i++) {
        struct dn_journal_entry entry = {1, 1, bytes, sizeof bytes};
        assert_true(dn_journal_append(journal, 0, i, &entry, 1));
        while (dn_journal_durable(journal) < dn_journal_appended(journal)) {
            dn_journal_turn(journal);
            assert_true(sim->op_count > 0);
            if (sim->ops[0].kind == SIM_WRITE) {
                from = sim->ops[0].offset;
                end = from + sim->ops[0].length;
            }
            sim_end(sim, 0);
        }
    }
    drop(journal, sim);
    journal = open_journal(sim, &seen);
    assert_in_range(sim->settled_from, from, end - sizeof bytes);
    assert_in_range(sim->settled_end, sim->settled_from + sizeof bytes, end);
    drop(journal, sim);
    sim->disk.ops->destroy(&sim->disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_operation_fails),
                                       cmocka_unit_test(stops_while_the_disk_fails),
                                       cmocka_unit_test(a_full_disk_is_told_when_something_waits),
                                       cmocka_unit_test(what_is_believed_is_made_durable)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
