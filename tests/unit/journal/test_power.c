/* Power cuts at every point: random histories of several groups on a simulated disk, the power cut between
 * and during operations, recovery, and on with the history; each time what was promised must be there, and
 * nothing else.
 *
 *   DUNLIN_SIM_RUNS=N DUNLIN_SIM_SEED=S   histories: N x 2 (default 600 in all), and the first one's seed */
#include "base/log.h"
#include "journal/journal.h"
#include "sim_disk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define GROUPS 3
#define LOG_MAX 1024
#define STEPS 60
#define LIVES 5
#define SEGMENT_BYTES (64u << 10)

/* What one group should hold. */
struct model {
    bool known;
    uint64_t term, vote, snapshot_index, snapshot_term, first, next;
    uint32_t marker;
    uint64_t terms[LOG_MAX], seeds[LOG_MAX];
    uint32_t lengths[LOG_MAX];
};

struct world {
    struct model groups[GROUPS];
};

/* Every state the journal went through in this life: what is found after a cut must be one of them, and not
 * older than the newest that was promised. */
struct promise;
struct history {
    struct world *states;
    size_t count, room, promised;
    struct promise *promises; /* all of this life: those that never came true are freed with the rest */
};

struct promise {
    struct dn_journal_wait wait;
    struct history *history;
    size_t state;
    struct promise *next;
};

static uint64_t seed_now;

static void promised(struct dn_journal_wait *wait)
{
    struct promise *promise = wait->data;
    assert_true(promise->state >= promise->history->promised); /* in the order of asking */
    promise->history->promised = promise->state;
}

static uint64_t rng(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void fill(uint8_t *bytes, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(seed >> (8 * (i % 8))) ^ (uint8_t)(i / 8);
}

static void remember(struct history *history, const struct world *world)
{
    if (history->count == history->room) {
        history->room = history->room == 0 ? 64 : 2 * history->room;
        history->states = realloc(history->states, history->room * sizeof *world);
    }
    history->states[history->count++] = *world;
}

/* ---- what a Raft follower does ------------------------------------------------------------------------ */

static void append(struct dn_journal *journal, struct history *history, struct world *world, uint32_t group,
                   uint64_t *random)
{
    struct model *m = &world->groups[group];
    struct dn_journal_entry entries[8];
    uint64_t first = m->known ? m->next : 1;
    size_t count = 1 + rng(random) % 8;
    if (first + count >= LOG_MAX)
        return;
    if (!m->known)
        m->first = m->next = 1;
    m->known = true;
    for (size_t i = 0; i < count; i++) {
        /* mostly small; now and then one larger than a segment */
        size_t length = rng(random) % 60 == 0 ? SEGMENT_BYTES + rng(random) % 5000 : rng(random) % 900;
        uint64_t at = m->next++;
        m->terms[at] = m->term + 1;
        m->seeds[at] = rng(random);
        m->lengths[at] = (uint32_t)length;
        uint8_t *bytes = malloc(length + 1);
        fill(bytes, length, m->seeds[at]);
        entries[i] = (struct dn_journal_entry){m->terms[at], (uint8_t)(at % 5), bytes, length};
    }
    /* The journal may split one call: any number of the entries, from the first, may be found. */
    struct world partial = *world;
    for (size_t i = 0; i < count; i++) {
        partial.groups[group].next = first + i + 1;
        remember(history, &partial);
    }
    assert_true(dn_journal_append(journal, group, first, entries, count));
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)entries[i].bytes);
}

static void snapshot(struct dn_journal *journal, struct history *history, struct world *world, uint32_t group,
                     uint64_t *random)
{
    struct model *m = &world->groups[group];
    bool install = rng(random) % 4 == 0;
    uint64_t index = install ? m->next + rng(random) % 20 : m->next - 1;
    if (!m->known || (!install && m->next == m->first) || index <= m->snapshot_index || index + 20 >= LOG_MAX)
        return;
    if (install && rng(random) % 2 && m->next - 1 > m->first) { /* later entries of ours are dropped first */
        index = m->next - 2;
        if (index <= m->snapshot_index || index < m->first)
            return;
        assert_true(dn_journal_truncate(journal, group, index + 1));
        m->next = index + 1;
        remember(history, world);
    }
    uint64_t trailing = install ? 0 : rng(random) % 30;
    uint64_t keep_from = index >= trailing ? index - trailing + 1 : 1;
    m->snapshot_index = index;
    m->snapshot_term = m->term;
    m->marker = (uint32_t)rng(random);
    if (m->next <= index)
        m->first = m->next = index + 1;
    else if (m->first < keep_from)
        m->first = keep_from;
    assert_true(dn_journal_snapshot(journal, group, index, m->snapshot_term, keep_from, &m->marker, 4));
    remember(history, world);
}

static void step(struct dn_journal *journal, struct history *history, struct world *world, uint64_t *random)
{
    uint32_t group = (uint32_t)(rng(random) % GROUPS);
    struct model *m = &world->groups[group];
    switch (rng(random) % 12) {
    case 0:
    case 1:
        if (!m->known)
            m->first = m->next = 1;
        m->known = true;
        m->term += rng(random) % 3;
        m->vote = rng(random) % 4;
        assert_true(dn_journal_set_term(journal, group, m->term, m->vote));
        remember(history, world);
        break;
    case 2:
        if (m->known && m->next > m->first) {
            m->next -= rng(random) % (m->next - m->first) % 6 + 1;
            assert_true(dn_journal_truncate(journal, group, m->next));
            remember(history, world);
        }
        break;
    case 3:
    case 4:
        snapshot(journal, history, world, group, random);
        break;
    case 5:
        if (rng(random) % 10 == 0 && m->known) {
            memset(m, 0, sizeof *m);
            assert_true(dn_journal_remove_group(journal, group));
            remember(history, world);
        }
        break;
    default:
        append(journal, history, world, group, random);
    }
    if (rng(random) % 3 == 0) {
        struct promise *promise = calloc(1, sizeof *promise);
        *promise = (struct promise){{promised, promise, {0}}, history, history->count - 1, NULL};
        promise->next = history->promises;
        history->promises = promise;
        dn_journal_when_durable(journal, &promise->wait);
    }
}

/* ---- what recovery finds ------------------------------------------------------------------------------ */

struct checking {
    const struct model *model;
    uint64_t next;
};

static enum dn_code check_entry(void *data, uint64_t index, const struct dn_journal_entry *entry,
                                struct dn_error *err)
{
    struct checking *checking = data;
    const struct model *m = checking->model;
    if (index != checking->next++ || entry->term != m->terms[index] || entry->length != m->lengths[index] ||
        entry->type != index % 5)
        return dn_fail(err, DN_CORRUPT, "entry %llu", (unsigned long long)index);
    for (size_t i = 0; i < entry->length; i++) {
        uint8_t want = (uint8_t)(m->seeds[index] >> (8 * (i % 8))) ^ (uint8_t)(i / 8);
        if (((const uint8_t *)entry->bytes)[i] != want)
            return dn_fail(err, DN_CORRUPT, "bytes of entry %llu", (unsigned long long)index);
    }
    return DN_OK;
}

static bool same(struct dn_journal *journal, const struct world *world)
{
    for (uint32_t g = 0; g < GROUPS; g++) {
        const struct model *m = &world->groups[g];
        struct dn_journal_group found;
        dn_journal_recovered(journal, g, &found);
        if (found.known != m->known)
            return false;
        if (!m->known)
            continue;
        if (found.term != m->term || found.voted_for != m->vote ||
            found.snapshot_index != m->snapshot_index || found.snapshot_term != m->snapshot_term ||
            found.first_index != m->first || found.entry_count != m->next - m->first)
            return false;
        if (m->snapshot_index > 0 && (found.marker_length != 4 || memcmp(found.marker, &m->marker, 4) != 0))
            return false;
        struct checking checking = {m, m->first};
        struct dn_error err;
        if (dn_journal_read(journal, g, check_entry, &checking, &err) != DN_OK)
            return false;
    }
    return true;
}

static struct dn_journal *open_journal(struct sim_disk *sim)
{
    struct dn_journal_options options = {.disk = &sim->disk, .name = "sim", .segment_bytes = SEGMENT_BYTES};
    struct dn_journal *journal;
    struct dn_error err = {0};
    if (dn_journal_open(&options, &journal, &err) != DN_OK) {
        print_message("seed %llu: %s\n", (unsigned long long)seed_now, err.message);
        fail();
    }
    return journal;
}

/* The newest state in the history that was found; fails when it is none, or older than what was promised. */
static void judge(struct dn_journal *journal, const struct history *history, struct world *ret_world)
{
    for (size_t i = history->count; i-- > history->promised;)
        if (same(journal, &history->states[i])) {
            *ret_world = history->states[i];
            return;
        }
    for (size_t i = 0; i < history->promised; i++)
        if (same(journal, &history->states[i]))
            fail_msg("seed %llu: state %zu was found, but %zu was promised", (unsigned long long)seed_now, i,
                     history->promised);
    fail_msg("seed %llu: what was found was never there (promised %zu of %zu)", (unsigned long long)seed_now,
             history->promised, history->count);
}

static void closed(void *data)
{
    *(bool *)data = true;
}

static unsigned cuts, cut_under_way, torn_open, clean;

/* One life: some steps, operations ended in any order, then a power cut (or a clean stop). */
static struct sim_disk *live(struct sim_disk *sim, struct world *world, uint64_t *random)
{
    struct dn_journal *journal = open_journal(sim);
    struct history history = {0};
    assert_true(same(journal, world));
    dn_journal_forget(journal);
    remember(&history, world);
    unsigned steps = (unsigned)(rng(random) % STEPS);
    for (unsigned i = 0; i < steps; i++) {
        step(journal, &history, world, random);
        if (rng(random) % 2)
            dn_journal_turn(journal);
        while (sim->op_count > 0 && rng(random) % 3 != 0)
            sim_end(sim, (unsigned)(rng(random) % sim->op_count));
        assert_true(dn_journal_fault(journal) == NULL);
    }
    bool stop = rng(random) % 8 == 0, is_closed = false;
    if (stop) {
        clean++;
        dn_journal_close(journal, closed, &is_closed);
        while (!is_closed) {
            assert_true(sim->op_count > 0);
            sim_end(sim, 0);
        }
        history.promised = history.count - 1; /* a clean stop writes everything */
    }
    cuts++;
    cut_under_way += sim->op_count > 0;
    struct sim_disk *after = sim_power_cut(sim, rng(random));
    torn_open += history.promised + 1 < history.count;
    /* The old process is gone; its memory is given back here. */
    for (unsigned i = 0; i < sim->op_count; i++)
        if (sim->ops[i].kind == SIM_CREATE)
            sim->ops[i].ret_file = NULL;
    dn_journal_destroy(journal);
    sim->disk.ops->destroy(&sim->disk);
    struct dn_journal *found = open_journal(after);
    judge(found, &history, world);
    dn_journal_destroy(found);
    after->op_count = 0; /* what that look into it had begun */
    for (struct promise *promise = history.promises, *next; promise; promise = next) {
        next = promise->next;
        free(promise);
    }
    free(history.states);
    return after;
}

static void power_cuts(void **state)
{
    (void)state;
    dn_log_set_level(DN_LOG_ERROR);
    const char *runs_text = getenv("DUNLIN_SIM_RUNS"), *seed_text = getenv("DUNLIN_SIM_SEED");
    unsigned long runs = runs_text ? strtoul(runs_text, NULL, 10) * 2 : 600;
    uint64_t seed = seed_text ? strtoull(seed_text, NULL, 10) : 1;
    for (unsigned long run = 0; run < runs; run++) {
        uint64_t random = seed_now = seed + run;
        struct sim_disk *sim = sim_new(rng(&random));
        struct world *world = calloc(1, sizeof *world);
        for (unsigned life = 0; life < LIVES; life++)
            sim = live(sim, world, &random);
        sim->disk.ops->destroy(&sim->disk);
        free(world);
    }
    print_message(
        "# %u power cuts (%u with operations under way, %u with unpromised states, %u after a clean stop)\n",
        cuts, cut_under_way, torn_open, clean);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(power_cuts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
