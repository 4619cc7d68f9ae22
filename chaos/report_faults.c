/* What each fault did, and the figures of each kind of fault. */
#include "chaos/report.h"

#include "chaos/check_private.h"

#include <stdlib.h>
#include <string.h>

struct acks { /* of one group, as they came */
    int64_t *times_ns;
    size_t count, capacity;
};

struct numbers {
    int64_t *list;
    size_t count, capacity;
};

static void number_add(struct numbers *numbers, int64_t number)
{
    numbers->list = chaos_room(numbers->list, numbers->count, &numbers->capacity, sizeof *numbers->list);
    numbers->list[numbers->count++] = number;
}

static int number_order(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

/* The smallest number that at least `per_mille` of 1000 of them do not pass; 0: there are none. Sorts. */
static int64_t quantile(struct numbers *numbers, unsigned per_mille)
{
    if (numbers->count == 0) {
        return 0;
    }
    qsort(numbers->list, numbers->count, sizeof *numbers->list, number_order);
    size_t rank = (numbers->count * per_mille + 999) / 1000;
    return numbers->list[rank > 0 ? rank - 1 : 0];
}

static bool begins(const char *text, const char *with)
{
    return text != NULL && strncmp(text, with, strlen(with)) == 0;
}

/* ---- which faults there were ------------------------------------------------------------------------- */

struct fault_list {
    struct chaos_fault *list;
    size_t count, capacity;
};

static void fault_begins(struct fault_list *faults, const struct chaos_history *history,
                         const struct chaos_op *op)
{
    size_t last = chaos_history_count(history) - 1;
    faults->list = chaos_room(faults->list, faults->count, &faults->capacity, sizeof *faults->list);
    faults->list[faults->count++] = (struct chaos_fault){.name = op->name,
                                                         .what = op->error,
                                                         .node = op->node,
                                                         .index = (size_t)op->index,
                                                         .begin_ns = op->time_ns,
                                                         .end_ns = chaos_history_at(history, last)->time_ns,
                                                         .open = true,
                                                         .begun = true};
}

/* The last fault of this name that is on; NULL: none. */
static struct chaos_fault *fault_open(struct fault_list *faults, const char *name)
{
    for (size_t i = faults->count; i-- > 0;) {
        if (faults->list[i].open && strcmp(faults->list[i].name, name) == 0) {
            return &faults->list[i];
        }
    }
    return NULL;
}

static struct fault_list find_faults(const struct chaos_history *history)
{
    struct fault_list faults = {0};
    for (size_t i = 0; i < chaos_history_count(history); i++) {
        const struct chaos_op *op = chaos_history_at(history, i);
        if (op->f != CHAOS_FAULT || op->name == NULL || strcmp(op->name, "final") == 0) {
            continue;
        }
        if (op->type == CHAOS_INVOKE && begins(op->what, "begin")) {
            fault_begins(&faults, history, op);
            continue;
        }
        struct chaos_fault *fault = fault_open(&faults, op->name);
        if (fault == NULL) {
            continue;
        }
        fault->node = op->node != 0 ? op->node : fault->node;
        if (begins(op->what, "begin")) {
            fault->what = op->error;
            fault->begun = !begins(op->error, CHAOS_NOT_BEGUN);
        } else if (op->type != CHAOS_INVOKE && begins(op->what, "end")) {
            fault->end_ns = op->time_ns;
            fault->open = false;
        }
    }
    return faults;
}

/* ---- what happened meanwhile -------------------------------------------------------------------------- */

static void gather_acks(const struct chaos_history *history, uint32_t shards,
                        struct acks acks[CHAOS_GROUPS_MAX])
{
    memset(acks, 0, CHAOS_GROUPS_MAX * sizeof *acks);
    for (size_t i = 0; i < chaos_history_count(history); i++) {
        const struct chaos_op *op = chaos_history_at(history, i);
        uint32_t group = op->type == CHAOS_OK ? chaos_group_of(op, shards) : CHAOS_NEVER;
        if (group != CHAOS_NEVER && chaos_acknowledged(op)) {
            struct acks *own = &acks[group];
            own->times_ns = chaos_room(own->times_ns, own->count, &own->capacity, sizeof *own->times_ns);
            own->times_ns[own->count++] = op->time_ns;
        }
    }
}

/* The longest time without an acknowledgement that reaches into [begin_ns, until_ns]. */
static int64_t longest_gap(const struct acks *acks, int64_t begin_ns, int64_t until_ns)
{
    size_t from = 0, to = acks->count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (acks->times_ns[middle] < begin_ns) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    int64_t last_ns = from > 0 ? acks->times_ns[from - 1] : begin_ns, longest_ns = 0;
    for (; from < acks->count && acks->times_ns[from] <= until_ns; from++) {
        int64_t gap_ns = acks->times_ns[from] - last_ns;
        longest_ns = gap_ns > longest_ns ? gap_ns : longest_ns;
        last_ns = acks->times_ns[from];
    }
    return until_ns - last_ns > longest_ns ? until_ns - last_ns : longest_ns;
}

/* How long the effects of fault number `at` are looked for. */
static int64_t until_of(const struct fault_list *faults, size_t at, int64_t over_ns)
{
    const struct chaos_fault *fault = &faults->list[at];
    int64_t until_ns = fault->end_ns + CHAOS_AFTERMATH_NS;
    for (size_t i = at + 1; i < faults->count; i++) {
        if (faults->list[i].begin_ns > fault->end_ns) {
            until_ns = faults->list[i].begin_ns < until_ns ? faults->list[i].begin_ns : until_ns;
            break;
        }
    }
    return over_ns < until_ns ? over_ns : until_ns;
}

static bool is_read(const struct chaos_op *op)
{
    return op->f == CHAOS_READ || op->f == CHAOS_GET || op->f == CHAOS_SIMILAR;
}

struct meanwhile {
    struct numbers writes, reads;
    bool asked[CHAOS_GROUPS_MAX];
};

static void count_op(const struct chaos_history *history, const struct chaos_op *op, uint32_t shards,
                     struct chaos_fault *fault, struct meanwhile *m)
{
    uint32_t group = chaos_group_of(op, shards);
    bool write = group != CHAOS_NEVER;
    if (op->type == CHAOS_INVOKE) {
        if (write) {
            m->asked[group] = true;
        }
        return;
    }
    if (!write && !is_read(op)) {
        return;
    }
    int64_t asked_ns = chaos_history_at(history, chaos_history_pair(history, op->index))->time_ns;
    bool failed = write ? !chaos_acknowledged(op) : op->type != CHAOS_OK;
    *(write ? &fault->writes : &fault->reads) += 1;
    *(write ? &fault->writes_failed : &fault->reads_failed) += failed;
    if (!failed) {
        number_add(write ? &m->writes : &m->reads, op->time_ns - asked_ns);
    }
}

static void fill(const struct chaos_history *history, uint32_t shards,
                 const struct acks acks[CHAOS_GROUPS_MAX], int64_t until_ns, struct chaos_fault *fault)
{
    struct meanwhile m = {0};
    for (size_t i = fault->index; i < chaos_history_count(history); i++) {
        const struct chaos_op *op = chaos_history_at(history, i);
        if (op->time_ns > until_ns) {
            break;
        }
        count_op(history, op, shards, fault, &m);
    }
    fault->gap_ns = -1;
    for (uint32_t group = 0; group < CHAOS_GROUPS_MAX; group++) {
        fault->gaps_ns[group] = m.asked[group] ? longest_gap(&acks[group], fault->begin_ns, until_ns) : -1;
        fault->groups += m.asked[group];
        if (fault->gaps_ns[group] > fault->gap_ns) {
            fault->gap_ns = fault->gaps_ns[group];
            fault->worst_group = group;
        }
    }
    fault->write_p50_ns = quantile(&m.writes, 500);
    fault->write_p99_ns = quantile(&m.writes, 990);
    fault->read_p50_ns = quantile(&m.reads, 500);
    fault->read_p99_ns = quantile(&m.reads, 990);
    free(m.writes.list);
    free(m.reads.list);
}

struct chaos_fault *chaos_faults(const struct chaos_history *history, size_t *ret_count)
{
    uint32_t shards = chaos_shards(history);
    struct acks acks[CHAOS_GROUPS_MAX];
    struct fault_list faults = find_faults(history);
    *ret_count = faults.count;
    if (faults.count == 0) {
        return NULL;
    }
    int64_t over_ns = chaos_history_at(history, chaos_history_count(history) - 1)->time_ns;
    gather_acks(history, shards, acks);
    for (size_t i = 0; i < faults.count; i++) {
        fill(history, shards, acks, until_of(&faults, i, over_ns), &faults.list[i]);
    }
    for (size_t i = 0; i < CHAOS_GROUPS_MAX; i++) {
        free(acks[i].times_ns);
    }
    return faults.list;
}

size_t chaos_faults_not_begun(const struct chaos_fault *faults, size_t count)
{
    size_t not_begun = 0;
    for (size_t i = 0; i < count; i++) {
        not_begun += !faults[i].begun;
    }
    return not_begun;
}

/* ---- kinds of faults -------------------------------------------------------------------------------- */

struct kind {
    struct chaos_figures figures;
    struct numbers gaps;
};

struct chaos_figures_sum {
    struct kind kinds[CHAOS_FIGURES_MAX];
    size_t count;
};

struct chaos_figures_sum *chaos_figures_create(void)
{
    return chaos_alloc(1, sizeof(struct chaos_figures_sum));
}

void chaos_figures_destroy(struct chaos_figures_sum *sum)
{
    for (size_t i = 0; sum != NULL && i < sum->count; i++) {
        free(sum->kinds[i].gaps.list);
    }
    free(sum);
}

/* The kind of that name, made when it is new; NULL: there are CHAOS_FIGURES_MAX others. */
static struct kind *kind_of(struct chaos_figures_sum *sum, const char *name)
{
    size_t at = 0;
    while (at < sum->count && strncmp(sum->kinds[at].figures.name, name, CHAOS_NAME_MAX - 1) != 0) {
        at++;
    }
    if (at == CHAOS_FIGURES_MAX) {
        return NULL;
    }
    if (at == sum->count) {
        (void)snprintf(sum->kinds[at].figures.name, CHAOS_NAME_MAX, "%s", name);
        sum->count++;
    }
    return &sum->kinds[at];
}

void chaos_figures_add(struct chaos_figures_sum *sum, const struct chaos_fault *faults, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct kind *kind = kind_of(sum, faults[i].name);
        if (kind == NULL) {
            continue;
        }
        if (!faults[i].begun) {
            kind->figures.not_begun++;
            continue;
        }
        kind->figures.faults++;
        kind->figures.writes += faults[i].writes;
        kind->figures.writes_failed += faults[i].writes_failed;
        kind->figures.reads += faults[i].reads;
        kind->figures.reads_failed += faults[i].reads_failed;
        for (size_t group = 0; group < CHAOS_GROUPS_MAX; group++) {
            if (faults[i].gaps_ns[group] >= 0) {
                number_add(&kind->gaps, faults[i].gaps_ns[group]);
            }
        }
    }
}

static int figures_order(const void *a, const void *b)
{
    return strcmp(((const struct chaos_figures *)a)->name, ((const struct chaos_figures *)b)->name);
}

size_t chaos_figures_get(const struct chaos_figures_sum *sum, struct chaos_figures ret[CHAOS_FIGURES_MAX])
{
    for (size_t i = 0; i < sum->count; i++) {
        struct numbers gaps = sum->kinds[i].gaps; /* the list is sorted in place: its order says nothing */
        ret[i] = sum->kinds[i].figures;
        ret[i].gaps = gaps.count;
        ret[i].gap_p50_ns = quantile(&gaps, 500);
        ret[i].gap_p99_ns = quantile(&gaps, 990);
        ret[i].gap_max_ns = quantile(&gaps, 1000);
    }
    qsort(ret, sum->count, sizeof *ret, figures_order);
    return sum->count;
}
