/* A store that is right by construction, with clients, faults, lost answers, repeats, lagging replicas that
 * tell their age, and tokens: what it writes is a history that no checker may object to. And defects, each
 * one thing that it then does wrong, which the checkers must find.
 *
 * A group is a log; what a node shows is the log up to where it has applied it. A write takes effect at one
 * time between its :invoke and its end, or, when nobody knows, any time later. */
#ifndef DN_TESTS_UNIT_CHAOS_SIMULATED_STORE_H
#define DN_TESTS_UNIT_CHAOS_SIMULATED_STORE_H

#include "base/hash.h"
#include "chaos/check.h"
#include "tests/unit/base/random.h"

#include <string.h>

#define SIM_NODES 3u
#define SIM_SHARDS 2u
#define SIM_GROUPS (SIM_SHARDS + 1)
#define SIM_CLIENTS 6u
#define SIM_USERS 5u
#define SIM_ITEMS 3u
#define SIM_ENTRIES 1500u /* of one group */
#define SIM_PENDING 200u
#define SIM_BATCH 3u
#define SIM_LIST 600u
#define SIM_RETRIES 32u
#define SIM_STEPS 1500
#define SIM_TAIL_STEPS 1600 /* after the last fault */
#define SIM_STEP_NS 300000
#define SIM_MS INT64_C(1000000)
#define SIM_RECOVERY_NS (200 * SIM_MS)     /* of 240 that the tail lasts */
#define SIM_TIME_MS INT64_C(1700000000000) /* wall clock when it begins */

/* X(symbol, the rule that must find it) */
#define SIM_DEFECTS(X)                                                                                       \
    X(NONE, LOST)                                                                                            \
    X(LOSE_EVENT, LOST)                                                                                      \
    X(LOSE_UPSERT, LOST)                                                                                     \
    X(COUNT_TWICE, TWICE)                                                                                    \
    X(INVENT_EVENT, INVENTED)                                                                                \
    X(INVENT_ITEM, INVENTED)                                                                                 \
    X(COUNT_REFUSED, INVENTED)                                                                               \
    X(SWAP, ORDER)                                                                                           \
    X(ARRIVAL, ORDER)                                                                                        \
    X(FORK, SLICES)                                                                                          \
    X(FORK_ITEM, SLICES)                                                                                     \
    X(STALE_READ, REAL_TIME)                                                                                 \
    X(STALE_GET, REAL_TIME)                                                                                  \
    X(FORGET_ERASE, REAL_TIME)                                                                               \
    X(FORGET_DELETE, REAL_TIME)                                                                              \
    X(NO_WAIT, TOKEN)                                                                                        \
    X(NO_WAIT_GET, TOKEN)                                                                                    \
    X(GO_BACK, MONOTONIC)                                                                                    \
    X(YOUNG, AGE)                                                                                            \
    X(YOUNG_GET, AGE)                                                                                        \
    X(GAP, OFFSET)                                                                                           \
    X(OFFSET_BACK, OFFSET)                                                                                   \
    X(STOP_SHORT, OFFSET)                                                                                    \
    X(LOSE_TAIL, STREAM)                                                                                     \
    X(DEAD_TWICE, STREAM)                                                                                    \
    X(OTHER_HASH, HASH)                                                                                      \
    X(TWO_LEADERS, LEADER)                                                                                   \
    X(TERM_BACK, LEADER)                                                                                     \
    X(NEVER_BACK, RECOVERY)                                                                                  \
    X(BEHIND, CONVERGED)

enum sim_defect {
#define X(symbol, rule) SIM_##symbol,
    SIM_DEFECTS(X)
#undef X
        SIM_DEFECT_COUNT,
};

struct sim_entry {
    enum chaos_f f;
    uint64_t key, value;
    struct chaos_event events[SIM_BATCH];
    size_t count;
    uint64_t next_offset, dead; /* of the stream, from this entry on; messages it counts as dead */
    int64_t committed_ns;
};

struct sim_pending {
    bool used, effected;
    int client; /* -1: nobody waits any more */
    struct chaos_op op;
    struct chaos_event events[SIM_LIST];
    uint64_t token[SIM_LIST], near[SIM_ITEMS];
    uint64_t token_index, answer_index;
    uint32_t node, group;
};

struct sim_token {
    uint64_t key, index, covers[SIM_LIST];
    size_t count;
};

struct sim_retry {
    uint64_t user;
    struct chaos_event events[SIM_BATCH];
    size_t count;
};

struct sim {
    struct test_random random;
    enum sim_defect defect;
    struct chaos_history *history;
    int64_t now_ns;
    struct sim_entry log[SIM_GROUPS][SIM_ENTRIES];
    size_t length[SIM_GROUPS];
    size_t applied[SIM_NODES + 1][SIM_GROUPS];
    int64_t base_ns[SIM_NODES + 1][SIM_GROUPS]; /* all that was committed before is applied */
    uint64_t term[SIM_GROUPS], leader[SIM_GROUPS];
    size_t forked[SIM_GROUPS]; /* the first entry that node SIM_NODES leaves out; SIZE_MAX: none */
    struct sim_pending pending[SIM_PENDING];
    int32_t process[SIM_CLIENTS];
    bool busy[SIM_CLIENTS];
    struct sim_token tokens[SIM_CLIENTS], item_tokens[SIM_CLIENTS];
    struct sim_retry retries[SIM_RETRIES];
    size_t retries_count;
    uint64_t last_event, last_value, seen_by_go_back[SIM_CLIENTS];
    int64_t last_time_ms;
    int32_t stream_end;
    uint64_t last_dud;
    const char *fault;
    uint32_t fault_node;
    bool healed; /* the last fault has ended */
    bool settled;
};

static inline bool sim_one_of(struct sim *sim, size_t bound)
{
    return test_random_below(&sim->random, bound) == 0;
}

static inline uint32_t sim_group_of(const struct chaos_op *op)
{
    char user[32];
    if (op->f == CHAOS_UPSERT || op->f == CHAOS_DELETE || op->f == CHAOS_GET || op->f == CHAOS_SIMILAR) {
        return 0;
    }
    int length = snprintf(user, sizeof user, "u-%llu", (unsigned long long)op->key);
    return 1 + dn_murmur2(user, (size_t)length) % SIM_SHARDS;
}

static inline void sim_append(struct sim *sim, struct chaos_op op)
{
    op.index = chaos_history_count(sim->history);
    op.time_ns = sim->now_ns += (int64_t)test_random_below(&sim->random, 1000);
    chaos_history_append_as_is(sim->history, &op);
}

/* ---- state: a log up to an index -------------------------------------------------------------------------
 */

static inline bool sim_leaves_out(const struct sim *sim, uint32_t node, uint32_t group, size_t entry)
{
    bool again = group == 0 && entry > sim->forked[group] && entry % 3 == 0; /* one is soon written over */
    return node == SIM_NODES && (sim->forked[group] == entry || again);
}

static inline void sim_insert(struct chaos_event *list, size_t *count, const struct chaos_event *event,
                              bool in_front)
{
    size_t at = *count;
    while (at > 0 &&
           (list[at - 1].time_ms > event->time_ms || (in_front && list[at - 1].time_ms == event->time_ms))) {
        at--;
    }
    memmove(list + at + 1, list + at, (*count - at) * sizeof *list);
    list[at] = (struct chaos_event){.id = event->id, .time_ms = event->time_ms, .outcome = -1, .offset = -1};
    ++*count;
}

/* The session as the node shows it at that index. Returns the version, 0: none. */
static inline uint64_t sim_session(const struct sim *sim, uint32_t node, uint64_t user, size_t index,
                                   struct chaos_event *list, size_t *ret_count)
{
    const struct chaos_op op = {.f = CHAOS_READ, .key = user};
    uint32_t group = sim_group_of(&op);
    uint64_t version = 0;
    *ret_count = 0;
    for (size_t i = 0; i < index; i++) {
        const struct sim_entry *entry = &sim->log[group][i];
        if (entry->key != user || sim_leaves_out(sim, node, group, i)) {
            continue;
        }
        if (entry->f == CHAOS_ERASE) {
            *ret_count = 0;
            version = 0;
            continue;
        }
        for (size_t k = 0; k < entry->count; k++) {
            sim_insert(list, ret_count, &entry->events[k], sim->defect == SIM_ARRIVAL);
            version = i + 1;
        }
    }
    return version;
}

/* The same for an item: false, when it is not there. */
static inline bool sim_item(const struct sim *sim, uint32_t node, uint64_t item, size_t index,
                            uint64_t *ret_value, uint64_t *ret_version)
{
    bool found = false;
    for (size_t i = 0; i < index; i++) {
        const struct sim_entry *entry = &sim->log[0][i];
        if (entry->key != item || sim_leaves_out(sim, node, 0, i)) {
            continue;
        }
        found = entry->f == CHAOS_UPSERT;
        *ret_value = entry->value;
        *ret_version = i + 1;
    }
    return found;
}

/* What becomes of one event that arrives now. */
static inline int sim_outcome(const struct sim *sim, uint32_t group, uint64_t user,
                              const struct chaos_event *event)
{
    bool counted = false;
    int64_t erased_ms = -1, newest_ms = -1;
    for (size_t i = 0; i < sim->length[group]; i++) {
        const struct sim_entry *entry = &sim->log[group][i];
        if (entry->key != user) {
            continue;
        }
        if (entry->f == CHAOS_ERASE) {
            int64_t until_ms = SIM_TIME_MS + entry->committed_ns / SIM_MS;
            erased_ms = until_ms > newest_ms ? until_ms : newest_ms;
            counted = false;
        }
        for (size_t k = 0; k < entry->count; k++) {
            counted |= entry->events[k].id == event->id;
            newest_ms = entry->events[k].time_ms > newest_ms ? entry->events[k].time_ms : newest_ms;
        }
    }
    if (counted) {
        return 1; /* DUPLICATE */
    }
    return event->time_ms <= erased_ms              ? 5 /* ERASED */
           : event->time_ms < SIM_TIME_MS - 1000000 ? 2 /* LATE */
                                                    : 0;
}

/* ---- writes take effect -----------------------------------------------------------------------------------
 */

static inline struct sim_entry *sim_commit(struct sim *sim, uint32_t group, enum chaos_f f, uint64_t key)
{
    DN_ASSERT(sim->length[group] < SIM_ENTRIES);
    struct sim_entry *entry = &sim->log[group][sim->length[group]++];
    *entry = (struct sim_entry){.f = f, .key = key, .committed_ns = sim->now_ns};
    if ((sim->defect == SIM_FORK && group > 0 && f == CHAOS_PUBLISH) ||
        (sim->defect == SIM_FORK_ITEM && group == 0)) {
        if (sim->forked[group] == SIZE_MAX && sim->length[group] > 20) {
            sim->forked[group] = sim->length[group] - 1;
        }
    }
    return entry;
}

static inline void sim_effect_publish(struct sim *sim, struct sim_pending *p)
{
    struct sim_entry *entry = sim_commit(sim, p->group, CHAOS_PUBLISH, p->op.key);
    for (size_t i = 0; i < p->op.events_count; i++) {
        int outcome = sim_outcome(sim, p->group, p->op.key, &p->events[i]);
        bool counts = outcome == 0;
        if (sim->defect == SIM_LOSE_EVENT && counts && sim_one_of(sim, 15)) {
            counts = false;
        } else if ((sim->defect == SIM_COUNT_TWICE && outcome == 1) ||
                   (sim->defect == SIM_COUNT_REFUSED && outcome == 2)) {
            counts = true;
        }
        if (counts) {
            entry->events[entry->count++] = p->events[i];
        }
        p->events[i].outcome = outcome;
    }
    p->answer_index = sim->length[p->group];
}

static inline void sim_effect_write(struct sim *sim, struct sim_pending *p)
{
    if (p->op.f == CHAOS_PUBLISH) {
        sim_effect_publish(sim, p);
        return;
    }
    bool forgets = (sim->defect == SIM_LOSE_UPSERT && p->op.f == CHAOS_UPSERT && sim->healed) ||
                   (sim->defect == SIM_FORGET_ERASE && p->op.f == CHAOS_ERASE) ||
                   (sim->defect == SIM_FORGET_DELETE && p->op.f == CHAOS_DELETE);
    if (!forgets) {
        sim_commit(sim, p->group, p->op.f, p->op.key)->value = p->op.value;
    }
    p->answer_index = sim->length[p->group];
}

/* ---- reads take effect ------------------------------------------------------------------------------------
 */

static inline void sim_apply_to(struct sim *sim, uint32_t node, uint32_t group, size_t index)
{
    if (sim->applied[node][group] < index) {
        sim->applied[node][group] = index;
    }
    size_t applied = sim->applied[node][group];
    sim->base_ns[node][group] =
        applied == sim->length[group] ? sim->now_ns : sim->log[group][applied].committed_ns;
}

/* The index at which the read is answered. */
static inline size_t sim_read_index(struct sim *sim, const struct sim_pending *p)
{
    bool get = p->op.f != CHAOS_READ;
    size_t now = sim->applied[p->node][p->group];
    if (p->op.level == CHAOS_LINEARIZABLE) {
        bool stale = sim->defect == (get ? SIM_STALE_GET : SIM_STALE_READ) && sim_one_of(sim, 2);
        return stale ? now : sim->length[p->group];
    }
    if (p->op.level == CHAOS_SESSION && now < p->token_index) {
        bool waits = sim->defect != (get ? SIM_NO_WAIT_GET : SIM_NO_WAIT) && sim->defect != SIM_GO_BACK;
        if (!waits) {
            return now;
        }
        sim_apply_to(sim, p->node, p->group, (size_t)p->token_index);
        return sim->applied[p->node][p->group];
    }
    return now;
}

static inline void sim_spoil_list(struct sim *sim, struct sim_pending *p)
{
    if (sim->defect == SIM_INVENT_EVENT && sim_one_of(sim, 10) && p->op.events_count > 0) {
        p->events[p->op.events_count - 1].id += 100000;
    }
    if (sim->defect == SIM_SWAP && sim_one_of(sim, 4) && p->op.events_count > 1) {
        struct chaos_event first = p->events[0];
        p->events[0] = p->events[1];
        p->events[1] = first;
    }
}

/* The items that are there, the one that was asked for first. */
static inline void sim_near(const struct sim *sim, struct sim_pending *p, size_t index)
{
    uint64_t value, version;
    p->op.near = p->near;
    for (uint64_t i = 0; i < SIM_ITEMS; i++) {
        uint64_t item = 1 + (p->op.key - 1 + i) % SIM_ITEMS;
        if (sim_item(sim, p->node, item, index, &value, &version)) {
            p->near[p->op.near_count++] = item;
        }
    }
    p->op.found = p->op.near_count > 0;
}

static inline void sim_effect_read(struct sim *sim, struct sim_pending *p)
{
    size_t index = sim_read_index(sim, p);
    struct chaos_op *op = &p->op;
    bool young = sim->defect == (op->f == CHAOS_READ ? SIM_YOUNG : SIM_YOUNG_GET);
    op->applied = index;
    op->shard = p->group;
    op->age_known = op->level == CHAOS_LOCAL && !sim_one_of(sim, 10);
    op->age_us = young ? 1 : (uint64_t)(sim->now_ns - sim->base_ns[p->node][p->group]) / 1000 + 1;
    op->events = p->events;
    if (op->f == CHAOS_READ) {
        op->version = sim_session(sim, p->node, op->key, index, p->events, &op->events_count);
        op->found = op->events_count > 0;
        sim_spoil_list(sim, p);
    } else if (op->f == CHAOS_SIMILAR) {
        sim_near(sim, p, index);
    } else {
        op->found = sim_item(sim, p->node, op->key, index, &op->value, &op->version);
        if (!op->found) { /* the server's NOT_FOUND tells nothing more */
            op->version = op->applied = 0;
            op->age_known = false;
        } else if (sim->defect == SIM_INVENT_ITEM && sim_one_of(sim, 10)) {
            op->value += 100000;
        }
    }
    p->answer_index = op->found ? op->version : index;
}

/* ---- tokens -----------------------------------------------------------------------------------------------
 */

static inline void sim_token_covers(struct sim_token *token, uint64_t number)
{
    for (size_t i = 0; i < token->count; i++) {
        if (token->covers[i] == number) {
            return;
        }
    }
    DN_ASSERT(token->count < SIM_LIST);
    token->covers[token->count++] = number;
}

static inline void sim_token_from(struct sim *sim, const struct sim_pending *p)
{
    const struct chaos_op *op = &p->op;
    struct sim_token *token = op->f == CHAOS_UPSERT ? &sim->item_tokens[p->client] : &sim->tokens[p->client];
    struct sim_token next = {.key = op->key, .index = p->answer_index};
    if (op->f == CHAOS_UPSERT) {
        sim_token_covers(&next, op->value);
    } else if (op->f == CHAOS_PUBLISH) {
        for (size_t i = 0; i < op->events_count; i++) {
            if (p->events[i].outcome == 0 || p->events[i].outcome == 1) {
                sim_token_covers(&next, p->events[i].id);
            }
        }
    } else if (op->f == CHAOS_READ) {
        next.index = p->token_index > next.index ? p->token_index : next.index;
        for (size_t i = 0; i < op->events_count; i++) {
            sim_token_covers(&next, p->events[i].id);
        }
        for (size_t i = 0; i < op->token_count; i++) {
            sim_token_covers(&next, p->token[i]);
        }
    } else {
        return;
    }
    *token = next;
}

#endif
