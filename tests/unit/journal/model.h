/* What the groups of a journal should hold: random operations as a Raft follower makes them, every state they
 * lead through, and which of these states a journal was found in. */
#ifndef DN_TESTS_UNIT_JOURNAL_MODEL_H
#define DN_TESTS_UNIT_JOURNAL_MODEL_H

#include "tests/unit/base/cmocka_all.h"

#include "tests/unit/base/random.h"

#include "journal/journal.h"

#include <stdlib.h>
#include <string.h>

#define MODEL_GROUPS 3
#define MODEL_LOG_MAX 512
#define MODEL_STATES_MAX 2048
#define MODEL_SEGMENT (64u << 10)

struct model_group {
    bool known;
    uint64_t term, vote, snapshot_index, snapshot_term, first, next;
    uint32_t marker; /* its seed; the length follows from it */
    uint32_t seeds[MODEL_LOG_MAX];
};

struct model_state {
    struct model_group groups[MODEL_GROUPS];
};

struct model {
    struct model_state *states[MODEL_STATES_MAX];
    size_t count;
    uint32_t salt;
    size_t entry_max; /* usual entries are shorter; 0: 900 */
    bool no_long;     /* never an entry longer than a segment */
    bool hold_first;  /* no snapshot of group 0: it needs every segment */
};

struct model_promise {
    struct dn_journal_wait wait;
    size_t state;
    size_t *promised; /* the newest state that is durable */
};

static inline struct model_state *model_now(const struct model *model)
{
    return model->states[model->count - 1];
}

static inline void model_push(struct model *model, const struct model_state *state)
{
    assert_true(model->count < MODEL_STATES_MAX);
    struct model_state *copy = malloc(sizeof *copy);
    assert_non_null(copy);
    *copy = *state;
    model->states[model->count++] = copy;
}

static inline struct model *model_new(void)
{
    static const struct model_state nothing;
    struct model *model = calloc(1, sizeof *model);
    assert_non_null(model);
    model_push(model, &nothing);
    return model;
}

static inline void model_free(struct model *model)
{
    for (size_t i = 0; i < model->count; i++)
        free(model->states[i]);
    free(model);
}

/* ---- contents, from a seed ---------------------------------------------------------------------------- */

static inline size_t model_length(const struct model *model, uint32_t seed)
{
    size_t max = model->entry_max == 0 ? 900 : model->entry_max;
    if (!model->no_long && seed % 97 == 0)
        return MODEL_SEGMENT + seed % 5000;
    return (seed * UINT32_C(2654435761) >> 8) % max;
}

static inline size_t model_marker_length(uint32_t seed)
{
    return seed % 7 == 0 ? 0 : seed % 5 == 0 ? 3000 + seed % 9000 : seed % 100;
}

static inline void model_fill(uint8_t *bytes, size_t length, uint32_t seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(seed >> (8 * (i % 4))) ^ (uint8_t)(i / 4 * 7);
}

/* ---- operations: each is tried until it is taken; without a journal only the model moves -------------- */

static inline uint64_t model_appended(const struct dn_journal *journal)
{
    return journal == NULL ? 0 : dn_journal_appended(journal);
}

/* False means that there was no memory: nothing may have been appended then. */
#define MODEL_TRY(model, journal, call)                                                                      \
    do {                                                                                                     \
        for (unsigned tries_ = 0; !((journal) == NULL || (call)); tries_++) {                                \
            assert_int_equal(model_appended(journal), before_);                                              \
            assert_true(tries_ < 100);                                                                       \
        }                                                                                                    \
        before_ = model_appended(journal);                                                                   \
    } while (0)

static inline void model_entries(struct model *model, struct dn_journal *journal, uint32_t group,
                                 struct test_random *random)
{
    struct model_state state = *model_now(model), part;
    struct model_group *m = &state.groups[group];
    struct dn_journal_entry entries[8];
    size_t count = 1 + test_random_below(random, 8);
    uint64_t before_ = model_appended(journal), first = m->known ? m->next : 1;
    if (first + count >= MODEL_LOG_MAX)
        return;
    part = state;
    if (!m->known)
        m->first = m->next = 1;
    m->known = true;
    for (size_t i = 0; i < count; i++) {
        uint32_t seed = ++model->salt;
        size_t length = model_length(model, seed);
        uint8_t *bytes = malloc(length + 1);
        assert_non_null(bytes);
        model_fill(bytes, length, seed);
        m->seeds[m->next++] = seed;
        entries[i] = (struct dn_journal_entry){m->term + seed % 3, (uint8_t)(seed % 5), bytes, length};
        part = state;
        model_push(model, &part); /* one call may be split: any number of its entries, from the first */
    }
    MODEL_TRY(model, journal, dn_journal_append(journal, group, first, entries, count));
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)entries[i].bytes);
}

static inline void model_snapshot(struct model *model, struct dn_journal *journal, uint32_t group,
                                  struct test_random *random)
{
    struct model_state state = *model_now(model);
    struct model_group *m = &state.groups[group];
    uint64_t before_ = model_appended(journal);
    bool install = test_random_below(random, 4) == 0;
    uint64_t trailing = install ? 0 : test_random_below(random, 30);
    uint64_t index = install ? m->next + test_random_below(random, 9) : m->next - 1;
    if (!m->known || (!install && m->next == m->first) || index <= m->snapshot_index ||
        index + 20 >= MODEL_LOG_MAX)
        return;
    uint64_t keep_from = index >= trailing ? index - trailing + 1 : 1;
    uint8_t marker[16384];
    m->marker = ++model->salt;
    m->snapshot_index = index;
    m->snapshot_term = m->term;
    if (m->next <= index)
        m->first = m->next = index + 1;
    else if (m->first < keep_from)
        m->first = keep_from;
    size_t length = model_marker_length(m->marker);
    model_fill(marker, length, m->marker);
    MODEL_TRY(model, journal,
              dn_journal_snapshot(journal, group, index, m->snapshot_term, keep_from, marker, length));
    model_push(model, &state);
}

static inline void model_step(struct model *model, struct dn_journal *journal, struct test_random *random)
{
    uint32_t group = (uint32_t)test_random_below(random, MODEL_GROUPS);
    struct model_state state = *model_now(model);
    struct model_group *m = &state.groups[group];
    uint64_t before_ = model_appended(journal);
    switch (test_random_below(random, 12)) {
    case 0:
    case 1:
        if (!m->known)
            m->first = m->next = 1;
        m->known = true;
        m->term += test_random_below(random, 3);
        m->vote = test_random_below(random, 4);
        MODEL_TRY(model, journal, dn_journal_set_term(journal, group, m->term, m->vote));
        break;
    case 2:
        if (!m->known || m->next == m->first)
            return;
        m->next -= test_random_below(random, m->next - m->first) % 6 + 1;
        if (m->next <= m->snapshot_index) /* what a snapshot holds is committed */
            return;
        MODEL_TRY(model, journal, dn_journal_truncate(journal, group, m->next));
        break;
    case 3:
    case 4:
        if (model->hold_first && group == 0)
            return;
        model_snapshot(model, journal, group, random);
        return;
    case 5:
        if (!m->known || group != MODEL_GROUPS - 1 || test_random_below(random, 4) != 0)
            return;
        memset(m, 0, sizeof *m);
        MODEL_TRY(model, journal, dn_journal_remove_group(journal, group));
        break;
    default:
        model_entries(model, journal, group, random);
        return;
    }
    model_push(model, &state);
}

/* ---- what is found ------------------------------------------------------------------------------------ */

struct model_looking {
    const struct model *model;
    const struct model_group *m;
    uint64_t next;
};

static inline enum dn_code model_entry(void *data, uint64_t index, const struct dn_journal_entry *entry,
                                       struct dn_error *err)
{
    struct model_looking *looking = data;
    if (index != looking->next++ || index >= looking->m->next)
        return dn_fail(err, DN_CORRUPT, "index");
    uint32_t seed = looking->m->seeds[index];
    const uint8_t *bytes = entry->bytes;
    if (entry->type != seed % 5 || entry->length != model_length(looking->model, seed))
        return dn_fail(err, DN_CORRUPT, "entry");
    for (size_t i = 0; i < entry->length; i++)
        if (bytes[i] != (uint8_t)((uint8_t)(seed >> (8 * (i % 4))) ^ (uint8_t)(i / 4 * 7)))
            return dn_fail(err, DN_CORRUPT, "bytes");
    return DN_OK;
}

static inline bool model_same(const struct model *model, const struct model_state *state,
                              struct dn_journal *journal)
{
    for (uint32_t g = 0; g < MODEL_GROUPS; g++) {
        const struct model_group *m = &state->groups[g];
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
        if (m->snapshot_index > 0) {
            uint8_t marker[16384];
            size_t length = model_marker_length(m->marker);
            model_fill(marker, length, m->marker);
            if (found.marker_length != length || memcmp(found.marker, marker, length) != 0)
                return false;
        }
        struct model_looking looking = {model, m, m->first};
        struct dn_error err;
        if (dn_journal_read(journal, g, model_entry, &looking, &err) != DN_OK || looking.next != m->next)
            return false;
    }
    return true;
}

/* The newest state that the journal may be in; -1: it is in none that ever was. */
static inline long model_found(const struct model *model, struct dn_journal *journal)
{
    for (size_t i = model->count; i-- > 0;)
        if (model_same(model, model->states[i], journal))
            return (long)i;
    return -1;
}

/* From now on only state `at`: what was lost was never promised. */
static inline void model_cut(struct model *model, size_t at)
{
    while (model->count > at + 1)
        free(model->states[--model->count]);
}

static inline void model_promised(struct dn_journal_wait *wait)
{
    struct model_promise *promise = wait->data;
    assert_true(promise->state >= *promise->promised); /* in the order of asking */
    *promise->promised = promise->state;
}

static inline void model_ask(const struct model *model, struct dn_journal *journal,
                             struct model_promise *promise, size_t *promised)
{
    *promise = (struct model_promise){{model_promised, promise, {0}}, model->count - 1, promised};
    dn_journal_when_durable(journal, &promise->wait);
}

#endif
