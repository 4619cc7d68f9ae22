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
    int open; /* disturbances that are on from here */
};

struct marks {
    struct mark *list;
    size_t count, capacity;
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
        "partition", "isolate", "flapping",          "slow",  "narrow", "packet", "corrupt-wire",
        "duplicate", "reorder", "break-connections", "reset", "pause",  "final"};
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

static void mark_add(struct marks *marks, uint32_t at, int step)
{
    int open = marks->count > 0 ? marks->list[marks->count - 1].open : 0;
    marks->list = chaos_room(marks->list, marks->count, &marks->capacity, sizeof *marks->list);
    marks->list[marks->count++] = (struct mark){.at = at, .open = open + step};
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

/* Which node a fault hits is known when it has begun: it counts for all of them. */
static void marks_make(const struct chaos_check *check, struct marks marks[DISTURBANCES])
{
    memset(marks, 0, DISTURBANCES * sizeof *marks);
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        for (unsigned kind = 0; kind < DISTURBANCES && (op->f == CHAOS_FAULT || op->f == CHAOS_MEMBER);
             kind++) {
            int step = disturbs(op, (enum disturbance)kind) ? mark_step(check, op) : 0;
            if (step != 0) {
                mark_add(&marks[kind], (uint32_t)i, step);
            }
        }
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

static void judge_told(struct chaos_check *check, struct told *list, size_t count, const char *what)
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
        chaos_judged(check, CHAOS_RULE_LEADER, 1);
        if (before->number_max > told->number) {
            chaos_violated(check, CHAOS_RULE_LEADER, before->max_at, told->ok, NEVER,
                           "node %" PRIu32 ", group %" PRIu32 ": %s %llu after %llu", told->node, told->group,
                           what, ull(told->number), ull(before->number_max));
        }
    }
}

/* ---- statuses ------------------------------------------------------------------------------------- */

struct tellings {
    struct told *list;
    size_t count, capacity;
};

static void tell(struct tellings *tellings, const struct marks *marks, const struct chaos_op *ok,
                 uint32_t invoke, uint32_t group, uint64_t number)
{
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

static void judge_statuses(struct chaos_check *check)
{
    struct hashes hashes = {0};
    struct leaders leaders = {0};
    struct marks marks[DISTURBANCES];
    struct tellings terms = {0}, commits = {0};
    marks_make(check, marks);
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *ok = chaos_history_at(check->history, i);
        if (ok->f != CHAOS_STATUS || ok->type != CHAOS_OK || ok->node == 0) {
            continue;
        }
        uint32_t invoke = (uint32_t)chaos_history_pair(check->history, i);
        for (size_t k = 0; k < ok->groups_count; k++) {
            const struct chaos_group *group = &ok->groups[k];
            judge_hash(check, &hashes, ok, group);
            judge_leader(check, &leaders, ok, group);
            tell(&terms, &marks[WIPES], ok, invoke, group->group, group->term);
            tell(&commits, &marks[RESTARTS], ok, invoke, group->group, group->commit);
        }
    }
    judge_told(check, terms.list, terms.count, "term");
    judge_told(check, commits.list, commits.count, "commit index");
    chaos_table_free(&hashes.table);
    chaos_table_free(&leaders.table);
    free(hashes.list);
    free(leaders.list);
    free(terms.list);
    free(commits.list);
    for (unsigned kind = 0; kind < DISTURBANCES; kind++) {
        free(marks[kind].list);
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

/* Where the last fault has ended; NEVER: there was none, or one lasts on. */
static uint32_t last_end(const struct chaos_check *check)
{
    uint32_t end = NEVER;
    int open = 0;
    for (size_t i = 0; i < check->count; i++) {
        const struct chaos_op *op = chaos_history_at(check->history, i);
        if (op->f != CHAOS_FAULT || begins(op->name, "final")) {
            continue;
        }
        int step = mark_step(check, op);
        open += step;
        end = step == 0 ? end : open == 0 ? (uint32_t)i : NEVER;
    }
    return end;
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
    int64_t until_ns = chaos_history_at(check->history, end)->time_ns + bound_ns, over_ns = 0;
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
                           " ms of the end of the last fault",
                           group, bound_ns / 1000000);
        }
    }
}

void chaos_check_cluster(struct chaos_check *check)
{
    judge_statuses(check);
    judge_recovery(check);
}
