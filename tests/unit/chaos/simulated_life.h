/* The life of a simulated store (simulated_store.h): clients that ask, faults, and the last reads. sim_run()
 * is what tests call. */
#ifndef DN_TESTS_UNIT_CHAOS_SIMULATED_LIFE_H
#define DN_TESTS_UNIT_CHAOS_SIMULATED_LIFE_H

#include "tests/unit/chaos/simulated_store.h"

/* ---- clients ----------------------------------------------------------------------------------------------
 */

static inline struct sim_pending *sim_place(struct sim *sim)
{
    size_t from = test_random_below(&sim->random, SIM_PENDING);
    for (size_t i = 0; i < SIM_PENDING; i++) {
        struct sim_pending *p = &sim->pending[(from + i) % SIM_PENDING];
        if (!p->used) {
            return p;
        }
    }
    return NULL;
}

static inline void sim_new_events(struct sim *sim, struct sim_pending *p)
{
    p->op.events_count = 1 + test_random_below(&sim->random, SIM_BATCH);
    for (size_t i = 0; i < p->op.events_count; i++) {
        int64_t time_ms = SIM_TIME_MS + sim->now_ns / SIM_MS - (int64_t)test_random_below(&sim->random, 5);
        if (sim_one_of(sim, 3)) {
            time_ms = sim->last_time_ms;
        } else if (sim_one_of(sim, 20)) {
            time_ms = SIM_TIME_MS - 2000000; /* late */
        } else {
            sim->last_time_ms = time_ms;
        }
        p->events[i] =
            (struct chaos_event){.id = ++sim->last_event, .time_ms = time_ms, .outcome = -1, .offset = -1};
    }
}

static inline void sim_plan_publish(struct sim *sim, struct sim_pending *p)
{
    p->op.f = CHAOS_PUBLISH;
    p->op.events = p->events;
    if (sim->retries_count > 0 && sim_one_of(sim, 2)) {
        size_t at = test_random_below(&sim->random, sim->retries_count);
        const struct sim_retry *retry = &sim->retries[at];
        p->op.key = retry->user;
        p->op.events_count = retry->count;
        memcpy(p->events, retry->events, retry->count * sizeof *p->events);
        sim->retries[at] = sim->retries[--sim->retries_count];
        return;
    }
    p->op.key = 1 + test_random_below(&sim->random, SIM_USERS);
    sim_new_events(sim, p);
}

static inline void sim_plan_read(struct sim *sim, struct sim_pending *p, enum chaos_f f)
{
    const struct sim_token *token = f == CHAOS_READ ? &sim->tokens[p->client] : &sim->item_tokens[p->client];
    p->op.f = f;
    p->op.key = 1 + test_random_below(&sim->random, f == CHAOS_READ ? SIM_USERS : SIM_ITEMS);
    p->op.level = (enum chaos_level)test_random_below(&sim->random, 3);
    if (p->op.level == CHAOS_SESSION && token->count == 0) {
        p->op.level = CHAOS_LOCAL;
    }
    if (p->op.level == CHAOS_SESSION) {
        p->op.key = token->key;
        p->token_index = token->index;
        memcpy(p->token, token->covers, token->count * sizeof *token->covers);
        p->op.token = p->token;
        p->op.token_count = token->count;
    }
}

static inline void sim_plan(struct sim *sim, struct sim_pending *p)
{
    size_t dice = test_random_below(&sim->random, 100);
    if (dice < 34) {
        sim_plan_publish(sim, p);
    } else if (dice < 60) {
        sim_plan_read(sim, p, CHAOS_READ);
    } else if (dice < 62) {
        p->op.f = CHAOS_ERASE;
        p->op.key = 1 + test_random_below(&sim->random, SIM_USERS);
    } else if (dice < 76) {
        p->op.f = CHAOS_UPSERT;
        p->op.key = 1 + test_random_below(&sim->random, SIM_ITEMS);
        p->op.value = ++sim->last_value;
    } else if (dice < 80) {
        p->op.f = CHAOS_DELETE;
        p->op.key = 1 + test_random_below(&sim->random, SIM_ITEMS);
    } else {
        sim_plan_read(sim, p, sim_one_of(sim, 4) ? CHAOS_SIMILAR : CHAOS_GET);
    }
}

static inline bool sim_is_read(const struct sim_pending *p)
{
    return p->op.f == CHAOS_READ || p->op.f == CHAOS_GET || p->op.f == CHAOS_SIMILAR;
}

static inline struct sim_pending *sim_begin(struct sim *sim, int client,
                                            void (*plan)(struct sim *, struct sim_pending *))
{
    struct sim_pending *p = sim_place(sim);
    if (p == NULL || sim->busy[client]) {
        return NULL;
    }
    memset(p, 0, sizeof *p);
    p->used = sim->busy[client] = true;
    p->client = client;
    p->op.process = sim->process[client];
    p->op.node = p->node = 1 + (uint32_t)test_random_below(&sim->random, SIM_NODES);
    plan(sim, p);
    p->group = sim_group_of(&p->op);
    sim_append(sim, p->op);
    return p;
}

static inline void sim_effect(struct sim *sim, struct sim_pending *p)
{
    if (sim_is_read(p)) {
        sim_effect_read(sim, p);
    } else {
        sim_effect_write(sim, p);
    }
    p->effected = true;
    p->used = p->client >= 0;
}

/* Nobody knows what became of it: the client goes on under another number. */
static inline void sim_lose_answer(struct sim *sim, struct sim_pending *p)
{
    struct chaos_op op = p->op;
    op.type = CHAOS_INFO;
    op.events_count = 0;
    sim_append(sim, op);
    if (op.f == CHAOS_PUBLISH && sim->retries_count < SIM_RETRIES) {
        struct sim_retry *retry = &sim->retries[sim->retries_count++];
        retry->user = op.key;
        retry->count = p->op.events_count;
        memcpy(retry->events, p->events, retry->count * sizeof *retry->events);
    }
    sim->process[p->client] += (int32_t)SIM_CLIENTS;
    sim->busy[p->client] = false;
    p->client = -1;
    p->used = !p->effected;
}

static inline void sim_end(struct sim *sim, struct sim_pending *p, enum chaos_type type)
{
    p->op.type = type;
    sim_append(sim, p->op);
    sim->busy[p->client] = false;
    if (type == CHAOS_OK) {
        sim_token_from(sim, p);
    }
    p->used = false;
}

static inline void sim_complete(struct sim *sim, struct sim_pending *p)
{
    bool never_back = sim->defect == SIM_NEVER_BACK && sim->healed && p->group == 1;
    if (sim_is_read(p)) {
        if (p->effected || sim_one_of(sim, 20)) {
            sim_end(sim, p, p->effected ? CHAOS_OK : CHAOS_FAIL);
        }
    } else if (p->effected) {
        if (never_back || sim_one_of(sim, 6)) {
            sim_lose_answer(sim, p);
        } else {
            sim_end(sim, p, CHAOS_OK);
        }
    } else if (sim_one_of(sim, 8)) {
        if (sim_one_of(sim, 2)) {
            sim_lose_answer(sim, p);
        } else {
            sim_end(sim, p, CHAOS_FAIL);
        }
    }
}

/* ---- the cluster ------------------------------------------------------------------------------------------
 */

static inline void sim_replicate(struct sim *sim)
{
    uint32_t node = 1 + (uint32_t)test_random_below(&sim->random, SIM_NODES);
    uint32_t group = (uint32_t)test_random_below(&sim->random, SIM_GROUPS);
    size_t behind = sim->length[group] - sim->applied[node][group];
    bool down = sim->fault != NULL && sim->fault_node == node;
    if (!down) {
        sim_apply_to(sim, node, group,
                     sim->applied[node][group] + test_random_below(&sim->random, behind + 1));
    }
}

static inline void sim_status(struct sim *sim)
{
    struct chaos_group groups[SIM_GROUPS];
    uint32_t node = 1 + (uint32_t)test_random_below(&sim->random, SIM_NODES);
    struct chaos_op op = {.f = CHAOS_STATUS, .node = node, .process = 1000000};
    if (sim->fault != NULL && sim->fault_node == node) {
        return;
    }
    sim_append(sim, op);
    for (uint32_t g = 0; g < SIM_GROUPS; g++) {
        uint64_t at = sim->applied[node][g];
        bool also = sim->defect == SIM_TWO_LEADERS && node == 2;
        groups[g] = (struct chaos_group){.group = g,
                                         .is_leader = sim->leader[g] == node || also,
                                         .leader = also ? node : sim->leader[g],
                                         .term = sim->term[g],
                                         .commit = at,
                                         .applied = at,
                                         .hash_index = at,
                                         .hash = (at + 1) * (g + 7) * 0x9e3779b97f4a7c15u};
        groups[g].hash ^= sim->defect == SIM_OTHER_HASH && node == 3 && at > 10;
        groups[g].term -= sim->defect == SIM_TERM_BACK && node == 1 && sim->term[g] > 1 && sim_one_of(sim, 2);
        groups[g].leader = groups[g].term == sim->term[g] ? groups[g].leader : 0;
        groups[g].is_leader &= groups[g].term == sim->term[g];
    }
    op.type = CHAOS_OK;
    op.groups = groups;
    op.groups_count = SIM_GROUPS;
    sim_append(sim, op);
}

static inline void sim_fault_op(struct sim *sim, const char *what)
{
    struct chaos_op op = {.f = CHAOS_FAULT, .process = CHAOS_NEMESIS, .name = sim->fault, .what = what};
    sim_append(sim, op);
    op.type = CHAOS_INFO;
    op.node = sim->fault_node;
    sim_append(sim, op);
}

/* A node falls silent, or is killed and has to apply its log again; its groups get other leaders. */
static inline void sim_fault(struct sim *sim)
{
    if (sim->fault != NULL) {
        bool killed = sim->fault[0] == 'k';
        for (uint32_t g = 0; g < SIM_GROUPS && killed; g++) {
            sim->applied[sim->fault_node][g] =
                test_random_below(&sim->random, sim->applied[sim->fault_node][g] + 1);
            sim_apply_to(sim, sim->fault_node, g, 0);
        }
        sim_fault_op(sim, "end");
        sim->fault = NULL;
        return;
    }
    sim->fault = sim_one_of(sim, 2) ? "kill-leader" : "pause-one";
    sim->fault_node = 1 + (uint32_t)test_random_below(&sim->random, SIM_NODES);
    sim_fault_op(sim, "begin");
    for (uint32_t g = 0; g < SIM_GROUPS; g++) {
        if (sim->leader[g] == sim->fault_node) {
            sim->term[g]++;
            sim->leader[g] = 1 + sim->fault_node % SIM_NODES;
        }
    }
}

/* The shards read one message: all go on behind it, the user's own takes the event, the first what is none.
 */
static inline void sim_read_stream(struct sim *sim, const struct chaos_op *op)
{
    bool skips =
        (sim->defect == SIM_GAP && sim_one_of(sim, 4)) || (sim->defect == SIM_LOSE_TAIL && sim->healed);
    for (uint32_t group = 1; group <= SIM_SHARDS; group++) {
        int outcome = op->key == CHAOS_NO_USER ? -1 : sim_outcome(sim, group, op->key, &op->events[0]);
        struct sim_entry *entry = sim_commit(sim, group, CHAOS_INGEST, op->key);
        entry->next_offset = (uint64_t)sim->stream_end;
        if (op->key == CHAOS_NO_USER) {
            entry->dead = group == 1 ? 1u + (sim->defect == SIM_DEAD_TWICE) : 0;
        } else if (!skips && group == sim_group_of(op) && outcome == 0) {
            entry->events[entry->count++] = op->events[0];
        }
    }
}

/* One message more in the stream. */
static inline void sim_ingest(struct sim *sim)
{
    bool dud = sim_one_of(sim, 5);
    struct chaos_event event = {.id = dud ? ++sim->last_dud : ++sim->last_event,
                                .time_ms = SIM_TIME_MS + sim->now_ns / SIM_MS,
                                .outcome = -1,
                                .offset = sim->stream_end++};
    struct chaos_op op = {.f = CHAOS_INGEST,
                          .type = CHAOS_INFO,
                          .process = CHAOS_NEMESIS,
                          .key = dud ? CHAOS_NO_USER : 1 + test_random_below(&sim->random, SIM_USERS),
                          .name = "clicks/0",
                          .events = &event,
                          .events_count = 1};
    sim_append(sim, op);
    sim_read_stream(sim, &op);
    op.type = CHAOS_OK;
    sim_append(sim, op);
}

/* What a node's shard says of the stream, as far as it has applied its log. */
static inline void sim_stream_rows(struct sim *sim, uint32_t node, uint32_t group, struct chaos_row *offsets,
                                   struct chaos_row *dead)
{
    uint64_t *of = offsets->of;
    *offsets = (struct chaos_row){.of = {[CHAOS_ROW_SHARD] = group}};
    *dead = (struct chaos_row){.of = {[CHAOS_ROW_DEAD_SHARD] = group}};
    for (size_t i = 0; i < sim->applied[node][group]; i++) {
        const struct sim_entry *entry = &sim->log[group][i];
        if (entry->f == CHAOS_INGEST) {
            of[CHAOS_ROW_NEXT_OFFSET] = entry->next_offset;
            of[CHAOS_ROW_EVENTS] += entry->count;
            dead->of[CHAOS_ROW_UNDECODABLE] += entry->dead;
        }
    }
    bool back = sim->defect == SIM_OFFSET_BACK && sim_one_of(sim, 3) && !sim->settled;
    bool less = back || (sim->defect == SIM_STOP_SHORT && sim->settled && group == 2);
    of[CHAOS_ROW_NEXT_OFFSET] -= less && of[CHAOS_ROW_NEXT_OFFSET] > 0;
}

static inline void sim_streams(struct sim *sim, uint32_t node)
{
    struct chaos_row offsets[SIM_SHARDS], dead[SIM_SHARDS];
    struct chaos_op op = {.f = CHAOS_OFFSETS, .node = node, .process = 1000002, .name = "clicks"};
    if (sim->fault != NULL && sim->fault_node == node) {
        return;
    }
    for (uint32_t group = 1; group <= SIM_SHARDS; group++) {
        sim_stream_rows(sim, node, group, &offsets[group - 1], &dead[group - 1]);
    }
    sim_append(sim, op);
    op.type = CHAOS_OK;
    op.rows = offsets;
    op.rows_count = SIM_SHARDS;
    sim_append(sim, op);
    op = (struct chaos_op){.f = CHAOS_DEAD_LETTERS, .node = node, .process = 1000002};
    sim_append(sim, op);
    op.type = CHAOS_OK;
    op.rows = dead;
    op.rows_count = SIM_SHARDS;
    sim_append(sim, op);
}

static inline void sim_stream_end(struct sim *sim)
{
    struct chaos_row row = {.of = {[CHAOS_ROW_NEXT_OFFSET] = (uint64_t)sim->stream_end}};
    struct chaos_op op = {.f = CHAOS_OFFSETS, .process = CHAOS_NEMESIS, .name = "clicks"};
    sim_append(sim, op);
    op.type = CHAOS_OK;
    op.rows = &row;
    op.rows_count = 1;
    sim_append(sim, op);
}

/* ---- runs -------------------------------------------------------------------------------------------------
 */

/* Something that is on its way; where nothing is, a free place. */
static inline struct sim_pending *sim_any(struct sim *sim)
{
    size_t from = test_random_below(&sim->random, SIM_PENDING), i = 0;
    while (i < SIM_PENDING && !sim->pending[(from + i) % SIM_PENDING].used) {
        i++;
    }
    return &sim->pending[(from + i) % SIM_PENDING];
}

static inline void sim_step(struct sim *sim, bool faults)
{
    size_t dice = test_random_below(&sim->random, 100);
    struct sim_pending *p = sim_any(sim);
    sim->now_ns += (int64_t)test_random_below(&sim->random, SIM_STEP_NS);
    if (dice < 30) {
        (void)sim_begin(sim, (int)test_random_below(&sim->random, SIM_CLIENTS), sim_plan);
    } else if (dice < 60) {
        if (p->used && !p->effected) {
            sim_effect(sim, p);
        }
    } else if (dice < 80) {
        if (p->used && p->client >= 0) {
            sim_complete(sim, p);
        }
    } else if (dice < 94) {
        sim_replicate(sim);
    } else if (dice < 96) {
        sim_status(sim);
        sim_streams(sim, 1 + (uint32_t)test_random_below(&sim->random, SIM_NODES));
    } else if (dice < 98) {
        sim_ingest(sim);
    } else if (faults && sim_one_of(sim, 2)) {
        sim_fault(sim);
    }
}

static inline void sim_settle(struct sim *sim)
{
    for (uint32_t node = 1; node <= SIM_NODES; node++) {
        for (uint32_t g = 0; g < SIM_GROUPS; g++) {
            bool behind = sim->defect == SIM_BEHIND && node == 2 && g > 0;
            sim_apply_to(sim, node, g, behind ? 0 : sim->length[g]);
        }
    }
    sim->settled = true;
}

/* Everybody's last questions. What was on its way has arrived by then or never will, as the runner sees to.
 */
static inline void sim_final(struct sim *sim)
{
    struct chaos_op op = {.f = CHAOS_FAULT, .process = CHAOS_NEMESIS, .name = "final", .what = "begin"};
    for (size_t i = 0; i < SIM_PENDING; i++) {
        struct sim_pending *late = &sim->pending[i];
        if (late->used && !late->effected && sim_one_of(sim, 2)) {
            sim_effect(sim, late);
        }
    }
    sim_settle(sim);
    sim_stream_end(sim);
    sim_append(sim, op);
    for (uint32_t node = 1; node <= SIM_NODES; node++) {
        sim_streams(sim, node);
    }
    for (uint64_t key = 1; key <= SIM_USERS + SIM_ITEMS; key++) {
        for (uint32_t node = 1; node <= SIM_NODES; node++) {
            struct sim_pending p = {.used = true, .node = node, .client = 0};
            p.op = (struct chaos_op){.f = key <= SIM_USERS ? CHAOS_READ : CHAOS_GET,
                                     .process = 1000001,
                                     .node = node,
                                     .key = key <= SIM_USERS ? key : key - SIM_USERS,
                                     .level = sim_one_of(sim, 2) ? CHAOS_LINEARIZABLE : CHAOS_LOCAL};
            p.group = sim_group_of(&p.op);
            sim_append(sim, p.op);
            sim_effect_read(sim, &p);
            p.op.type = CHAOS_OK;
            sim_append(sim, p.op);
        }
    }
}

/* The history of one life; the caller destroys it. */
static inline struct chaos_history *sim_run(struct sim *sim, uint64_t seed, enum sim_defect defect)
{
    memset(sim, 0, sizeof *sim);
    sim->random.state = seed;
    sim->defect = defect;
    sim->history = chaos_history_create();
    sim->last_time_ms = SIM_TIME_MS;
    for (uint32_t g = 0; g < SIM_GROUPS; g++) {
        sim->term[g] = sim->leader[g] = 1;
        sim->forked[g] = SIZE_MAX;
    }
    for (uint32_t i = 0; i < SIM_CLIENTS; i++) {
        sim->process[i] = (int32_t)i;
    }
    for (int i = 0; i < SIM_STEPS; i++) {
        sim_step(sim, true);
    }
    if (sim->fault == NULL) {
        sim_fault(sim);
    }
    sim_fault(sim);
    sim->healed = true;
    for (int i = 0; i < SIM_TAIL_STEPS; i++) {
        sim_step(sim, false);
    }
    sim_final(sim);
    return sim->history;
}

static inline enum chaos_rule sim_rule(enum sim_defect defect)
{
    static const enum chaos_rule rules[] = {
#define X(symbol, rule) CHAOS_RULE_##rule,
        SIM_DEFECTS(X)
#undef X
    };
    return rules[defect];
}

static inline const char *sim_defect_name(enum sim_defect defect)
{
    static const char *const names[] = {
#define X(symbol, rule) #symbol,
        SIM_DEFECTS(X)
#undef X
    };
    return names[defect];
}

#endif
