/* Clicks to sessions, and their split in time.
 *
 * Sessions that end before the cut are learned from, those that begin at it or behind it are asked for, and
 * those in between are left out: what they end with would be known before it is asked. So are sessions of one
 * item, which have nothing to predict. */
#include "recommend/eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)1 << 20)

/* ---- items ------------------------------------------------------------------------------------------- */

uint32_t dn_eval_item_find(const struct dn_eval_set *set, uint64_t hash, const char *name, size_t length)
{
    for (size_t at = hash & set->item_mask; set->item_mask != 0 && set->item_table[at] != 0;
         at = (at + 1) & set->item_mask) {
        const struct dn_eval_item *item = &set->items[set->item_table[at] - 1];
        if (item->hash == hash && item->length == length && memcmp(item->name, name, length) == 0)
            return set->item_table[at] - 1;
    }
    return DN_EVAL_NO_ITEM;
}

static bool items_rehash(struct dn_eval_set *set)
{
    size_t size = set->item_mask == 0 ? 4096 : 2 * (set->item_mask + 1);
    uint32_t *table = calloc(size, sizeof *table);
    struct dn_eval_item *items = reallocarray(set->items, size / 2, sizeof *items);

    if (items != NULL)
        set->items = items;
    if (table == NULL || items == NULL) {
        free(table);
        return false;
    }
    free(set->item_table);
    set->item_table = table;
    set->item_mask = size - 1;
    for (size_t i = 0; i < set->item_count; i++) {
        size_t at = set->items[i].hash & set->item_mask;
        while (table[at] != 0)
            at = (at + 1) & set->item_mask;
        table[at] = (uint32_t)i + 1;
    }
    return true;
}

/* A copy that stays where it is; NULL: out of memory. */
static const char *keep(struct dn_eval_set *set, const char *name, size_t length)
{
    if (set->chunk_count == 0 || set->chunk_used + length > CHUNK_BYTES) {
        char **chunks = reallocarray(set->chunks, set->chunk_count + 1, sizeof *chunks);
        char *chunk = malloc(CHUNK_BYTES);
        if (chunks != NULL)
            set->chunks = chunks;
        if (chunks == NULL || chunk == NULL) {
            free(chunk);
            return NULL;
        }
        set->chunks[set->chunk_count++] = chunk;
        set->chunk_used = 0;
    }
    char *kept = set->chunks[set->chunk_count - 1] + set->chunk_used;
    memcpy(kept, name, length);
    set->chunk_used += length;
    return kept;
}

uint32_t dn_eval_item_add(struct dn_eval_set *set, const char *name, size_t length, struct dn_error *err)
{
    uint64_t hash = dn_hash64(name, length, 0);
    uint32_t item = dn_eval_item_find(set, hash, name, length);

    if (item != DN_EVAL_NO_ITEM)
        return item;
    if (set->item_count == DN_EVAL_ITEMS_MAX) {
        dn_fail(err, DN_EXHAUSTED, "more than %u different items", DN_EVAL_ITEMS_MAX);
        return DN_EVAL_NO_ITEM;
    }
    bool room = 2 * (set->item_count + 1) <= set->item_mask || items_rehash(set);
    const char *kept = room ? keep(set, name, length) : NULL;
    if (kept == NULL) {
        dn_fail(err, DN_NO_MEMORY, "out of memory after %zu items", set->item_count);
        return DN_EVAL_NO_ITEM;
    }
    size_t at = hash & set->item_mask;
    while (set->item_table[at] != 0)
        at = (at + 1) & set->item_mask;
    set->items[set->item_count] =
        (struct dn_eval_item){.name = kept, .hash = hash, .length = (uint16_t)length, .price = NAN};
    set->item_table[at] = (uint32_t)++set->item_count;
    return (uint32_t)set->item_count - 1;
}

/* ---- sessions ---------------------------------------------------------------------------------------- */

struct builder {
    struct dn_eval_set *set;
    const struct dn_eval_input *input;
    bool repeats;
    size_t capacity;
};

static int by_time(const void *a, const void *b)
{
    const struct dn_eval_raw *x = a, *y = b;

    if (x->time_ms != y->time_ms)
        return x->time_ms < y->time_ms ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* The clicks of each session together, in order of time. NULL: out of memory. */
static struct dn_eval_raw *grouped(const struct dn_eval_raws *raws, size_t **ret_ends)
{
    struct dn_eval_raw *sorted = calloc(raws->count + 1, sizeof *sorted);
    size_t *ends = calloc(raws->group_count + 1, sizeof *ends);

    if (sorted == NULL || ends == NULL) {
        free(sorted);
        free(ends);
        return NULL;
    }
    for (size_t i = 0; i < raws->count; i++)
        ends[raws->list[i].group + 1]++;
    for (size_t g = 0; g < raws->group_count; g++)
        ends[g + 1] += ends[g];
    for (size_t i = 0; i < raws->count; i++) /* moves each group's start to its end */
        sorted[ends[raws->list[i].group]++] = raws->list[i];
    for (size_t g = 0; g < raws->group_count; g++) {
        size_t from = g == 0 ? 0 : ends[g - 1];
        qsort(sorted + from, ends[g] - from, sizeof *sorted, by_time);
    }
    *ret_ends = ends;
    return sorted;
}

/* One session of the clicks from `raw` on; `part`: which one of its name. */
static bool add_session(struct builder *builder, const struct dn_eval_raw *raw, size_t count,
                        const struct dn_eval_group *group, size_t part)
{
    struct dn_eval_set *set = builder->set;
    void *sessions = set->sessions;

    if (!dn_eval_grow(&sessions, set->session_count, &builder->capacity, sizeof *set->sessions))
        return false;
    set->sessions = sessions;
    struct dn_eval_session *session = &set->sessions[set->session_count++];
    *session = (struct dn_eval_session){.user = {group->user.high, group->user.low + part},
                                        .first = set->event_count,
                                        .murmur = group->murmur,
                                        .start_ms = raw[0].time_ms,
                                        .end_ms = raw[count - 1].time_ms};
    for (size_t i = 0; i < count; i++) {
        if (!builder->repeats && session->count > 0 && set->events[set->event_count - 1].item == raw[i].item)
            continue;
        set->events[set->event_count++] =
            (struct dn_eval_event){.time_ms = raw[i].time_ms, .item = raw[i].item, .type = raw[i].type};
        session->count++;
    }
    return true;
}

static bool add_group(struct builder *builder, const struct dn_eval_raw *raw, size_t count,
                      const struct dn_eval_group *group)
{
    int64_t gap_ms = builder->input->gap_ms;
    size_t from = 0, part = 0;

    for (size_t i = 1; i <= count; i++)
        if (i == count || (gap_ms > 0 && raw[i].time_ms - raw[i - 1].time_ms > gap_ms)) {
            if (!add_session(builder, raw + from, i - from, group, part++))
                return false;
            from = i;
        }
    return true;
}

static int by_end(const void *a, const void *b)
{
    const struct dn_eval_session *x = a, *y = b;

    if (x->end_ms != y->end_ms)
        return x->end_ms < y->end_ms ? -1 : 1;
    if (x->start_ms != y->start_ms)
        return x->start_ms < y->start_ms ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

static int by_start(const void *a, const void *b)
{
    const struct dn_eval_session *x = a, *y = b;

    if (x->start_ms != y->start_ms)
        return x->start_ms < y->start_ms ? -1 : 1;
    if (x->end_ms != y->end_ms)
        return x->end_ms < y->end_ms ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* ---- the split --------------------------------------------------------------------------------------- */

static double cut_of(const struct dn_eval_set *set, double split)
{
    int64_t first = INT64_MAX, last = INT64_MIN;
    double share = round((1 - split) * 1e9) / 1e9; /* 1 - 0.9 is a little less than 0.1 */

    for (size_t i = 0; i < set->session_count; i++) {
        first = set->sessions[i].start_ms < first ? set->sessions[i].start_ms : first;
        last = set->sessions[i].end_ms > last ? set->sessions[i].end_ms : last;
    }
    return (double)last - share * (double)(last - first);
}

/* Training sessions to the front, test sessions behind them, the rest is forgotten. */
static bool split(struct dn_eval_set *set, double cut)
{
    struct dn_eval_session *test = calloc(set->session_count + 1, sizeof *test);
    size_t trains = 0, tests = 0;

    if (test == NULL)
        return false;
    for (size_t i = 0; i < set->session_count; i++) {
        const struct dn_eval_session session = set->sessions[i];
        bool before = (double)session.end_ms < cut, behind = (double)session.start_ms >= cut;
        set->facts.across += !before && !behind;
        set->facts.single += session.count < 2;
        if (session.count < 2)
            continue;
        if (before)
            set->sessions[trains++] = session;
        else if (behind)
            test[tests++] = session;
    }
    qsort(set->sessions, trains, sizeof *test, by_end);
    qsort(test, tests, sizeof *test, by_start);
    memcpy(set->sessions + trains, test, tests * sizeof *test);
    free(test);
    set->train_count = trains;
    set->session_count = trains + tests;
    return true;
}

static bool make_cases(struct dn_eval_set *set)
{
    size_t capacity = 0;

    for (size_t s = set->train_count; s < set->session_count; s++)
        for (uint32_t length = 1; length < set->sessions[s].count; length++) {
            void *cases = set->cases;
            if (!dn_eval_grow(&cases, set->case_count, &capacity, sizeof *set->cases))
                return false;
            set->cases = cases;
            set->cases[set->case_count++] =
                (struct dn_eval_case){.first = set->sessions[s].first,
                                      .length = length,
                                      .cluster = (uint32_t)(s - set->train_count)};
        }
    set->cluster_count = set->session_count - set->train_count;
    set->facts.cases = set->case_count;
    set->facts.test_sessions = set->cluster_count;
    return true;
}

enum dn_code dn_eval_set_build(struct dn_eval_set *set, const struct dn_eval_input *input,
                               struct dn_eval_raws *raws, struct dn_error *err)
{
    bool sequences = strcmp(set->facts.format, "sequences") == 0;
    struct builder builder = {.set = set, .input = input};
    size_t *ends = NULL;
    struct dn_eval_raw *sorted = grouped(raws, &ends);
    bool whole;

    builder.repeats = input->repeats == DN_EVAL_AUTO ? sequences : input->repeats == DN_EVAL_YES;
    set->drop_last = input->last_item == DN_EVAL_AUTO ? !sequences : input->last_item == DN_EVAL_NO;
    set->events = calloc(raws->count + 1, sizeof *set->events);
    whole = sorted != NULL && set->events != NULL;
    for (size_t g = 0; whole && g < raws->group_count; g++) {
        size_t from = g == 0 ? 0 : ends[g - 1];
        if (ends[g] > from)
            whole = add_group(&builder, sorted + from, ends[g] - from, &raws->groups[g]);
    }
    free(sorted);
    free(ends);
    double cut = !whole || set->facts.pairs ? INFINITY : cut_of(set, input->split);
    whole = whole && split(set, cut);
    if (whole && !set->facts.pairs) {
        set->facts.cut_ms = (int64_t)cut;
        whole = make_cases(set);
    }
    set->facts.train_sessions = set->train_count;
    for (size_t i = 0; i < set->train_count; i++)
        set->facts.train_events += set->sessions[i].count;
    return whole ? DN_OK : dn_fail(err, DN_NO_MEMORY, "out of memory after %zu events", raws->count);
}

/* ---- steps ------------------------------------------------------------------------------------------- */

static int by_step(const void *a, const void *b)
{
    const struct dn_eval_step *x = a, *y = b;

    if (x->time_ms != y->time_ms)
        return x->time_ms < y->time_ms ? -1 : 1;
    if (x->session != y->session)
        return x->session < y->session ? -1 : 1;
    return x->position < y->position ? -1 : x->position > y->position;
}

struct dn_eval_step *dn_eval_steps(const struct dn_eval_set *set, size_t from, size_t to, size_t *ret_count)
{
    size_t count = 0;

    for (size_t s = from; s < to; s++)
        count += set->sessions[s].count;
    struct dn_eval_step *steps = calloc(count + 1, sizeof *steps);
    if (steps == NULL)
        return NULL;
    count = 0;
    for (size_t s = from; s < to; s++)
        for (uint32_t i = 0; i < set->sessions[s].count; i++)
            steps[count++] = (struct dn_eval_step){.time_ms = set->events[set->sessions[s].first + i].time_ms,
                                                   .session = (uint32_t)s,
                                                   .position = i};
    qsort(steps, count, sizeof *steps, by_step);
    *ret_count = count;
    return steps;
}

/* ---- life -------------------------------------------------------------------------------------------- */

void dn_eval_set_facts(const struct dn_eval_set *set, struct dn_eval_facts *ret)
{
    *ret = set->facts;
}

void dn_eval_set_free(struct dn_eval_set *set)
{
    if (set == NULL)
        return;
    for (size_t i = 0; i < set->chunk_count; i++)
        free(set->chunks[i]);
    free((void *)set->chunks);
    free(set->events);
    free(set->sessions);
    free(set->cases);
    free(set->items);
    free(set->item_table);
    free(set);
}
