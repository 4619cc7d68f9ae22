/* The rules of the cluster: state hashes, leaders, terms and commit indexes as nodes tell them, and how soon
 * writes are acknowledged again after the last fault. */
#include "chaos/check_private.h"

#include "base/hash.h"
#include "dunlin/v1/dunlin.pb-c.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NEVER CHAOS_NEVER
#define RECOVERY_BOUND_NS 10000000000

static unsigned long long ull(uint64_t value)
{
    return value;
}

static bool begins(const char *text, const char *with)
{
    return text != NULL && strncmp(text, with, strlen(with)) == 0;
}

/* ---- hashes --------------------------------------------------------------------------------------- */

struct hash_seen {
    uint64_t hash;
    uint32_t node, at;
};

struct hashes {
    struct chaos_table table; /* group, index */
    struct hash_seen *list;
    size_t count, capacity;
};

static void judge_hash(struct chaos_check *check, struct hashes *hashes, const struct chaos_op *ok,
                       const struct chaos_group *group)
{
    if (group->hash_index == 0) {
        return;
    }
    uint32_t number =
        chaos_table_put(&hashes->table, group->group, group->hash_index, (uint32_t)hashes->count);
    if (number == hashes->count) {
        hashes->list = chaos_room(hashes->list, number, &hashes->capacity, sizeof *hashes->list);
        hashes->list[hashes->count++] =
            (struct hash_seen){.hash = group->hash, .node = ok->node, .at = (uint32_t)ok->index};
        return;
    }
    const struct hash_seen *seen = &hashes->list[number];
    chaos_judged(check, CHAOS_RULE_HASH, seen->node != ok->node);
    if (seen->hash != group->hash) {
        chaos_violated(check, CHAOS_RULE_HASH, seen->at, (uint32_t)ok->index, NEVER,
                       "group %" PRIu32 ", index %llu: node %" PRIu32
                       " has state hash %016llx and node %" PRIu32 " %016llx",
                       group->group, ull(group->hash_index), seen->node, ull(seen->hash), ok->node,
                       ull(group->hash));
    }
}

/* ---- leaders -------------------------------------------------------------------------------------- */

struct leader_seen {
    uint32_t node, at;
};

struct leaders {
    struct chaos_table table; /* group, term */
    struct leader_seen *list;
    size_t count, capacity;
};

/* Only what a node says of itself: whom a follower takes for the leader may be the one of the term before,
 * until it hears of the next. */
static void judge_leader(struct chaos_check *check, struct leaders *leaders, const struct chaos_op *ok,
                         const struct chaos_group *group)
{
    if (!group->is_leader) {
        return;
    }
    uint32_t number = chaos_table_put(&leaders->table, group->group, group->term, (uint32_t)leaders->count);
    if (number == leaders->count) {
        leaders->list = chaos_room(leaders->list, number, &leaders->capacity, sizeof *leaders->list);
        leaders->list[leaders->count++] = (struct leader_seen){.node = ok->node, .at = (uint32_t)ok->index};
        return;
    }
    const struct leader_seen *seen = &leaders->list[number];
    chaos_judged(check, CHAOS_RULE_LEADER, 1);
    if (seen->node != ok->node) {
        chaos_violated(check, CHAOS_RULE_LEADER, seen->at, (uint32_t)ok->index, NEVER,
                       "group %" PRIu32 ", term %llu: node %" PRIu32 " leads, and so does node %" PRIu32,
                       group->group, ull(group->term), seen->node, ok->node);
    }
}

/* ---- times in which a node may restart, or begin anew ------------------------------------------------ */

/* A restarted node has its term and not its commit index, a wiped one has neither. A fault that may do this
 * counts from where its beginning is asked for to where its end is done. */
enum disturbance { RESTARTS, WIPES, DISTURBANCES };

struct mark {
    uint32_t at;
    int open; /* disturbances that are on from here; while they are made: what changes here */
};

struct marks {
    struct mark *list;
    size_t count, capacity;
};

/* Of each node; [0] is unused. */
struct disturbed {
    struct marks nodes[CHAOS_NODES_MAX + 1];
};

static bool is_one_of(const char *name, const char *const names[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (begins(name, names[i])) {
            return true;
        }
    }
    return false;
}

/* By the beginning of a fault's name; one that is not known may do everything but wipe. */
static bool never_restarts(const char *name)
{
    static const char *const names[] = {
        "partition", "isolate",      "flapping",  "slow",    "narrow",
        "packet",    "corrupt-wire", "duplicate", "reorder", "break-connections",
        "reset",     "pause",        "broker",    "topic",   "final"};
    return is_one_of(name, names, sizeof names / sizeof *names);
}

static bool may_wipe(const char *name)
{
    static const char *const names[] = {"wipe", "journal", "grow", "shrink"};
    return is_one_of(name, names, sizeof names / sizeof *names);
}

/* Whether the operation is of a fault that may do that to a node. */
static bool disturbs(const struct chaos_op *op, enum disturbance kind)
{
    if (op->f == CHAOS_FAULT) {
        return kind == WIPES ? may_wipe(op->name) : !never_restarts(op->name);
    }
    return op->f == CHAOS_MEMBER;
}

/* node 0, and one past the last: all of them. */
static void mark_add(struct disturbed *disturbed, uint32_t node, uint32_t at, int step)
{
    bool all = node == 0 || node > CHAOS_NODES_MAX;
    for (uint32_t i = all ? 1 : node; i <= (all ? CHAOS_NODES_MAX : node); i++) {
        struct marks *marks = &disturbed->nodes[i];
        marks->list = chaos_room(marks->list, marks->count, &marks->capacity, sizeof *marks->list);
        marks->list[marks->count++] = (struct mark){.at = at, .open = step};
    }
}

/* +1 where it begins, -1 where it is over. A change of members begins and ends with its operation. */
static int mark_step(const struct chaos_check *check, const struct chaos_op *op)
{
    bool invoke = op->type == CHAOS_INVOKE;
    if (op->f == CHAOS_MEMBER) {
        return invoke && chaos_history_pair(check->history, op->index) != SIZE_MAX ? 1 : invoke ? 0 : -1;
    }
    return invoke && begins(op->what, "begin") ? 1 : !invoke && begins(op->what, "end") ? -1 : 0;
}

static int mark_order(const void *a, const void *b)
{
    const struct mark *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static void marks_sum(struct disturbed *disturbed)
{
    for (uint32_t node = 1; node <= CHAOS_NODES_MAX; node++) {
        struct marks *marks = &disturbed->nodes[node];
        if (marks->count > 0) {
            qsort(marks->list, marks->count, sizeof *marks->list, mark_order);
        }
        for (size_t i = 1; i < marks->count; i++) {
            marks->list[i].open += marks->list[i - 1].open;
        }
    }
}

/* A fault or a change of members while it lasts. */
struct span {
    const char *name; /* NULL: it is over */
    uint32_t begin, node;
};

struct spans {
    struct span *list;
    size_t count, capacity;
};

/* The node that the end of an operation names: whom a fault hits is known when it has begun. */
static uint32_t node_of(const struct chaos_check *check, const struct chaos_op *op)
{
    size_t pair = op->node == 0 ? chaos_history_pair(check->history, op->index) : SIZE_MAX;
    return pair == SIZE_MAX ? op->node : chaos_history_at(check->history, pair)->node;
}

static void span_begins(const struct chaos_check *check, struct spans *spans, const struct chaos_op *op)
{
    spans->list = chaos_room(spans->list, spans->count, &spans->capacity, sizeof *spans->list);
    spans->list[spans->count++] = (struct span){
        .name = op->name != NULL ? op->name : "", .begin = (uint32_t)op->index, .node = node_of(check, op)};
}

static void span_mark(struct disturbed disturbed[DISTURBANCES], const struct chaos_op *op, uint32_t node,
                      uint32_t at, int step)
{
    for (unsigned kind = 0; kind < DISTURBANCES; kind++) {
        if (disturbs(op, (enum disturbance)kind)) {
            mark_add(&disturbed[kind], node, at, step);
        }
    }
}

/* The last of this name that is on. One whose beginning and end name different nodes counts for all. */
static void span_ends(const struct chaos_check *check, struct spans *spans, const struct chaos_op *op,
                      struct disturbed disturbed[DISTURBANCES])
{
    for (size_t i = spans->count; i-- > 0;) {
        struct span *span = &spans->list[i];
        if (span->name != NULL && strcmp(span->name, op->name != NULL ? op->name : "") == 0) {
            uint32_t node = span->node == node_of(check, op) ? span->node : 0;
            span_mark(disturbed, op, node, span->begin, 1);
            span_mark(disturbed, op, node, (uint32_t)op->index, -1);
            span->name = NULL;
            return;
        }
    }
}

/* A change of members counts for all nodes: the one that leaves or joins is not the one that is asked. */
static void disturbed_make(const struct chaos_check *check, struct disturbed ret[DISTURBANCES])
{
    struct spans spans = {0};
    memset(ret, 0, DISTURBANCES * sizeof *ret);
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        if (op->f != CHAOS_FAULT && op->f != CHAOS_MEMBER) {
            continue;
        }
        int step = mark_step(check, op);
        if (op->f == CHAOS_MEMBER && step != 0) {
            span_mark(ret, op, 0, (uint32_t)i, step);
        } else if (step > 0) {
            span_begins(check, &spans, op);
        } else if (step < 0) {
            span_ends(check, &spans, op, ret);
        }
    }
    for (size_t i = 0; i < spans.count; i++) { /* no end: it lasts on */
        if (spans.list[i].name != NULL) {
            span_mark(ret, chaos_history_at(check->history, spans.list[i].begin), spans.list[i].node,
                      spans.list[i].begin, 1);
        }
    }
    free(spans.list);
    for (unsigned kind = 0; kind < DISTURBANCES; kind++) {
        marks_sum(&ret[kind]);
    }
}

/* The number of the quiet stretch that holds all of it; NEVER: none does. */
static uint32_t stretch_of(const struct marks *marks, uint32_t invoke, uint32_t ok)
{
    size_t from = 0, to = marks->count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (marks->list[middle].at < invoke) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    if ((from > 0 && marks->list[from - 1].open > 0) || (from < marks->count && marks->list[from].at < ok)) {
        return NEVER;
    }
    return (uint32_t)from;
}

/* ---- terms and commit indexes ----------------------------------------------------------------------- */

struct told {
    uint32_t node, group, stretch, invoke, ok;
    uint64_t number;     /* the term, or the commit index */
    uint64_t number_max; /* of this and those of the same node, group and stretch that ended before it */
    uint32_t max_at;
};

static int told_order(const void *a, const void *b)
{
    const struct told *x = a, *y = b;
    if (x->node != y->node) {
        return x->node < y->node ? -1 : 1;
    }
    if (x->group != y->group) {
        return x->group < y->group ? -1 : 1;
    }
    if (x->stretch != y->stretch) {
        return x->stretch < y->stretch ? -1 : 1;
    }
    return x->ok < y->ok ? -1 : x->ok > y->ok;
}

static bool same_run(const struct told *a, const struct told *b)
{
    return a->node == b->node && a->group == b->group && a->stretch == b->stretch;
}

static void judge_told(struct chaos_check *check, enum chaos_rule rule, struct told *list, size_t count,
                       const char *what)
{
    size_t first = 0;
    if (count > 0) {
        qsort(list, count, sizeof *list, told_order);
    }
    for (size_t i = 0; i < count; i++) {
        struct told *told = &list[i];
        first = i > 0 && same_run(told, &list[i - 1]) ? first : i;
        told->number_max = told->number;
        told->max_at = told->ok;
        if (i > first && list[i - 1].number_max >= told->number) {
            told->number_max = list[i - 1].number_max;
            told->max_at = list[i - 1].max_at;
        }
        size_t from = first, to = i;
        while (from < to) {
            size_t middle = from + (to - from) / 2;
            if (list[middle].ok < told->invoke) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        if (from == first) {
            continue;
        }
        const struct told *before = &list[from - 1];
        chaos_judged(check, rule, 1);
        if (before->number_max > told->number) {
            chaos_violated(check, rule, before->max_at, told->ok, NEVER,
                           "node %" PRIu32 ", %s %" PRIu32 ": %s %llu after %llu", told->node,
                           rule == CHAOS_RULE_LEADER ? "group" : "shard",
                           rule == CHAOS_RULE_LEADER ? told->group : told->group % CHAOS_GROUPS_MAX, what,
                           ull(told->number), ull(before->number_max));
        }
    }
}

/* ---- statuses ------------------------------------------------------------------------------------- */

struct tellings {
    struct told *list;
    size_t count, capacity;
};

static void tell(struct tellings *tellings, const struct disturbed *disturbed, const struct chaos_op *ok,
                 uint32_t invoke, uint32_t group, uint64_t number)
{
    static const struct marks none;
    const struct marks *marks = ok->node <= CHAOS_NODES_MAX ? &disturbed->nodes[ok->node] : &none;
    uint32_t stretch = stretch_of(marks, invoke, (uint32_t)ok->index);
    if (stretch == NEVER) {
        return;
    }
    tellings->list = chaos_room(tellings->list, tellings->count, &tellings->capacity, sizeof *tellings->list);
    tellings->list[tellings->count++] = (struct told){.node = ok->node,
                                                      .group = group,
                                                      .stretch = stretch,
                                                      .invoke = invoke,
                                                      .ok = (uint32_t)ok->index,
                                                      .number = number};
}

/* The offsets of one answer: a partition in a shard counts as a group of its own. */
static void tell_offsets(struct tellings *offsets, struct chaos_table *names,
                         const struct disturbed *disturbed, const struct chaos_op *ok, uint32_t invoke)
{
    for (size_t k = 0; k < ok->rows_count; k++) {
        const uint64_t *row = ok->rows[k].of;
        uint64_t name = chaos_partition_hash(ok->name, row[CHAOS_ROW_PARTITION]);
        uint32_t number = chaos_table_put(names, name, 0, (uint32_t)names->count);
        tell(offsets, disturbed, ok, invoke,
             number * CHAOS_GROUPS_MAX + (uint32_t)(row[CHAOS_ROW_SHARD] % CHAOS_GROUPS_MAX),
             row[CHAOS_ROW_NEXT_OFFSET]);
    }
}

static void judge_statuses(struct chaos_check *check)
{
    struct hashes hashes = {0};
    struct leaders leaders = {0};
    struct disturbed disturbed[DISTURBANCES];
    struct tellings terms = {0}, commits = {0}, offsets = {0};
    struct chaos_table names = {0};
    disturbed_make(check, disturbed);
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *ok = chaos_history_at(check->history, i);
        if (ok->type != CHAOS_OK || ok->node == 0 ||
            (ok->f != CHAOS_STATUS && (ok->f != CHAOS_OFFSETS || ok->process == CHAOS_NEMESIS))) {
            continue;
        }
        uint32_t invoke = (uint32_t)chaos_history_pair(check->history, i);
        if (ok->f == CHAOS_OFFSETS) {
            tell_offsets(&offsets, &names, &disturbed[RESTARTS], ok, invoke);
            continue;
        }
        for (size_t k = 0; k < ok->groups_count; k++) {
            const struct chaos_group *group = &ok->groups[k];
            if (group->term == 0) {
                continue; /* the node has not loaded it yet */
            }
            judge_hash(check, &hashes, ok, group);
            judge_leader(check, &leaders, ok, group);
            if (ok->process == CHAOS_NEMESIS) {
                continue; /* from a log: it stands here later than it was */
            }
            tell(&terms, &disturbed[WIPES], ok, invoke, group->group, group->term);
            tell(&commits, &disturbed[RESTARTS], ok, invoke, group->group, group->commit);
        }
    }
    judge_told(check, CHAOS_RULE_LEADER, terms.list, terms.count, "term");
    judge_told(check, CHAOS_RULE_LEADER, commits.list, commits.count, "commit index");
    judge_told(check, CHAOS_RULE_OFFSET, offsets.list, offsets.count, "next offset");
    free(offsets.list);
    chaos_table_free(&names);
    chaos_table_free(&hashes.table);
    chaos_table_free(&leaders.table);
    free(hashes.list);
    free(leaders.list);
    free(terms.list);
    free(commits.list);
    for (unsigned kind = 0; kind < DISTURBANCES; kind++) {
        for (uint32_t node = 1; node <= CHAOS_NODES_MAX; node++) {
            free(disturbed[kind].nodes[node].list);
        }
    }
}

/* ---- recovery ------------------------------------------------------------------------------------- */

uint32_t chaos_shards(const struct chaos_history *history)
{
    uint32_t shards = 0;
    for (size_t i = 0; i < chaos_history_count(history); i++) {
        const struct chaos_op *op = chaos_history_at(history, i);
        for (size_t k = 0; k < op->groups_count; k++) {
            shards = chaos_max(shards, op->groups[k].group);
        }
    }
    return shards < CHAOS_GROUPS_MAX ? shards : CHAOS_GROUPS_MAX - 1;
}

uint32_t chaos_group_of(const struct chaos_op *op, uint32_t shards)
{
    char user[32];
    if (op->f == CHAOS_UPSERT || op->f == CHAOS_DELETE) {
        return 0;
    }
    if ((op->f != CHAOS_PUBLISH && op->f != CHAOS_ERASE) || shards == 0) {
        return NEVER;
    }
    int length = snprintf(user, sizeof user, "u-%" PRIu64, op->key);
    return 1 + dn_murmur2(user, (size_t)length) % shards;
}

bool chaos_acknowledged(const struct chaos_op *op)
{
    if (op->type != CHAOS_OK || op->f != CHAOS_PUBLISH) {
        return op->type == CHAOS_OK;
    }
    for (size_t i = 0; i < op->events_count; i++) {
        if (op->events[i].outcome >= 0 &&
            op->events[i].outcome != DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN) {
            return true;
        }
    }
    return false;
}

static bool is_stall(const struct chaos_op *op)
{
    return op->f == CHAOS_FAULT && op->name != NULL && strcmp(op->name, CHAOS_SLOW_MACHINE) == 0;
}

/* Where the last fault has ended; NEVER: none was made, or one lasts on. Stalls of the machine are not
 * counted: they give time (stalled_ns). A fault that was not begun counts where others were: it may have got
 * half way. */
static uint32_t last_end(const struct chaos_check *check)
{
    uint32_t end = NEVER;
    int open = 0;
    bool any = false;
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        if (op->f != CHAOS_FAULT || begins(op->name, "final") || is_stall(op)) {
            continue;
        }
        any |= op->type == CHAOS_INFO && begins(op->what, "begin") && !begins(op->error, CHAOS_NOT_BEGUN);
        int step = mark_step(check, op);
        open += step;
        end = step == 0 ? end : open == 0 ? (uint32_t)i : NEVER;
    }
    return any ? end : NEVER;
}

/* Until when writes may be refused after `from_ns`: as long as the bound, and for as long as the machine
 * stalled meanwhile. */
static int64_t recovered_by(const struct chaos_check *check, int64_t from_ns, int64_t bound_ns)
{
    int64_t until_ns = from_ns + bound_ns, begun_ns = -1;
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        if (!is_stall(op)) {
            continue;
        }
        int step = mark_step(check, op);
        if (step > 0) { /* it is seen when it lasts for some time already */
            begun_ns = op->time_ns - CHAOS_STALL_NS > from_ns ? op->time_ns - CHAOS_STALL_NS : from_ns;
        } else if (step < 0 && begun_ns >= 0) {
            until_ns += begun_ns < until_ns && op->time_ns > begun_ns ? op->time_ns - begun_ns : 0;
            begun_ns = -1;
        }
    }
    return until_ns;
}

static void judge_recovery(struct chaos_check *check)
{
    uint32_t shards = chaos_shards(check->history), end = last_end(check);
    uint32_t asked[CHAOS_GROUPS_MAX], acked[CHAOS_GROUPS_MAX];
    int64_t bound_ns =
        check->options.recovery_bound_ns > 0 ? check->options.recovery_bound_ns : RECOVERY_BOUND_NS;
    if (end == NEVER) {
        return;
    }
    for (size_t i = 0; i < CHAOS_GROUPS_MAX; i++) {
        asked[i] = acked[i] = NEVER;
    }
    int64_t from_ns = chaos_history_at(check->history, end)->time_ns, over_ns = 0;
    int64_t until_ns = recovered_by(check, from_ns, bound_ns);
    for (size_t i = end; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        uint32_t group = chaos_group_of(op, shards);
        over_ns = op->time_ns;
        if (group == NEVER || op->time_ns > until_ns) {
            continue;
        }
        if (op->type == CHAOS_INVOKE) {
            asked[group] = chaos_min(asked[group], (uint32_t)i);
        } else if (chaos_acknowledged(op)) {
            acked[group] = chaos_min(acked[group], (uint32_t)i);
        }
    }
    for (uint32_t group = 0; group <= shards; group++) {
        if (acked[group] != NEVER) {
            chaos_judged(check, CHAOS_RULE_RECOVERY, 1);
        } else if (asked[group] != NEVER && over_ns >= until_ns) {
            chaos_judged(check, CHAOS_RULE_RECOVERY, 1);
            chaos_violated(check, CHAOS_RULE_RECOVERY, end, asked[group], NEVER,
                           "group %" PRIu32 ": no write was acknowledged within %" PRId64
                           " ms of the end of the last fault (%" PRId64 " of them the machine's own stalls)",
                           group, (until_ns - from_ns) / 1000000, (until_ns - from_ns - bound_ns) / 1000000);
        }
    }
}

void chaos_check_cluster(struct chaos_check *check)
{
    judge_statuses(check);
    judge_recovery(check);
}
