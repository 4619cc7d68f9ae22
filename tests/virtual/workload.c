#include "tests/virtual/workload.h"

#include "base/clock.h"
#include "chaos/check.h"
#include "session/record.h"
#include "tests/virtual/internal.h"

#include <inttypes.h>

#define CLIENTS 5
#define USERS 6
#define EVENTS_MAX 2048
#define EVENTS_A_PUBLISH 3
#define OPS_MAX 128
#define BATCH_MAX 6
#define BATCHES_IN_FLIGHT 3
#define STREAM_MAX 120
#define STREAM_STEP_NS (15 * SIM_MS)
#define CONSUMER_STEP_NS (4 * SIM_MS)
#define RECORD_ROOM 65536
#define EVENT_AGE_MAX_MS 20000

struct workload_counts workload_counts;

struct event {
    uint32_t user;
    int64_t time_ms;
    int64_t offset; /* of the stream; -1: published */
    bool acknowledged, in_flight;
    char item[16];
};

struct client {
    int32_t process;
    unsigned number, node;
    bool busy;
    uint64_t known[EVENTS_MAX / 64]; /* what its token covers */
    uint64_t token[GROUPS_MAX];      /* index of each group */
};

struct consumer { /* on each node, of each group */
    bool led;
    uint64_t era; /* of leading: answers to older ones are nothing to it */
    int64_t next;
    unsigned in_flight;
};

enum op_kind { OP_PUBLISH, OP_READ, OP_STREAM, OP_SETTINGS };

struct op {
    bool used;
    enum op_kind kind;
    unsigned node;
    uint32_t group;
    struct client *client;
    uint32_t user;
    uint32_t events[EVENTS_A_PUBLISH];
    size_t event_count;
    enum chaos_level level;
    uint64_t era;
    struct dn_buffer record;
    struct dn_proposal proposal;
    struct dn_wait wait;
};

struct seen { /* one read */
    bool found, age_known;
    uint64_t age_us, version, applied;
    struct chaos_event events[CHAOS_LIST_MAX];
    size_t count;
};

static struct event events[EVENTS_MAX];
static uint32_t event_count;
static struct client clients[CLIENTS];
static struct consumer consumers[NODES_MAX][GROUPS_MAX];
static struct op ops[OPS_MAX];
static struct chaos_history *history;
static bool calm, settings_done[GROUPS_MAX];
static int64_t stream_end[GROUPS_MAX];
static uint32_t stream_count;
static uint64_t led_most[NODES_MAX][GROUPS_MAX]; /* the newest term it led: that was durable */
static struct committed {
    uint64_t life, index;
} committed[NODES_MAX][GROUPS_MAX];

static const char *const sources[GROUPS_MAX] = {"clicks-0", "clicks-1", "clicks-2"};

/* ---- the history -------------------------------------------------------------------------------------- */

static void record(struct chaos_op *op)
{
    op->index = chaos_history_count(history);
    op->time_ns = (int64_t)sim_now();
    chaos_history_append_as_is(history, op);
    sim_note(op->type * 16 + op->f, op->key + op->events_count);
}

struct chaos_history *workload_history(void)
{
    return history;
}

void workload_fault(const char *name, const char *what, enum chaos_type type)
{
    struct chaos_op op = {
        .type = type, .f = CHAOS_FAULT, .process = CHAOS_NEMESIS, .name = name, .what = what};
    record(&op);
}

static uint32_t group_of(uint32_t user)
{
    char text[16];
    int length = snprintf(text, sizeof text, "u-%" PRIu32, user);
    return 1 + dn_murmur2(text, (size_t)length) % (cluster.group_count - 1);
}

static struct dn_hash128 key_of(uint32_t user)
{
    return (struct dn_hash128){.high = user * 0x9e3779b97f4a7c15u, .low = user};
}

static struct chaos_op base_op(const struct op *op)
{
    return (struct chaos_op){.f = op->kind == OP_PUBLISH ? CHAOS_PUBLISH : CHAOS_READ,
                             .process = op->client->process,
                             .node = op->node + 1,
                             .key = op->user + 1, /* CHAOS_NO_USER is nobody */
                             .level = op->level};
}

static void record_end(struct op *op, struct chaos_op *line, enum chaos_type type, const char *error)
{
    line->type = type;
    line->error = error;
    record(line);
    op->client->busy = false;
    if (type == CHAOS_INFO) {
        op->client->process += CLIENTS;
    }
}

/* ---- operations --------------------------------------------------------------------------------------- */

static struct op *new_op(enum op_kind kind, unsigned node, uint32_t group)
{
    for (size_t i = 0; i < OPS_MAX; i++) {
        if (!ops[i].used) {
            ops[i] = (struct op){.used = true, .kind = kind, .node = node, .group = group};
            dn_buffer_init(&ops[i].record, RECORD_ROOM);
            return &ops[i];
        }
    }
    sim_broken(__FILE__, __LINE__, "ops", "too many operations in flight");
}

static void end_op(struct op *op)
{
    for (size_t i = 0; i < op->event_count; i++) {
        events[op->events[i]].in_flight = false;
    }
    if (op->kind == OP_SETTINGS) {
        op->client->busy = false;
    }
    dn_buffer_free(&op->record);
    op->used = false;
}

static void learn(struct client *client, uint32_t event)
{
    client->known[event / 64] |= UINT64_C(1) << (event % 64);
}

static bool knows(const struct client *client, uint32_t event)
{
    return (client->known[event / 64] >> (event % 64) & 1) != 0;
}

/* ---- answers ------------------------------------------------------------------------------------------ */

static void publish_answered(struct op *op, enum dn_code code, uint64_t index, const struct dn_result *result,
                             const char *error)
{
    struct chaos_op line = base_op(op);
    struct chaos_event told[EVENTS_A_PUBLISH];
    if (code != DN_OK) {
        bool refused = code == DN_EXHAUSTED || code == DN_NO_SPACE;
        workload_counts.unknown += !refused;
        workload_counts.refused += refused;
        record_end(op, &line, refused ? CHAOS_FAIL : CHAOS_INFO, error);
        return;
    }
    SIM_CHECK(result->status == DN_RESULT_OK && result->count == op->event_count, "answer of a publish");
    for (size_t i = 0; i < op->event_count; i++) {
        struct event *event = &events[op->events[i]];
        uint8_t outcome = result->outcomes[i];
        SIM_CHECK(outcome == DN_OUTCOME_ACCEPTED || outcome == DN_OUTCOME_DUPLICATE, "event %u: outcome %u",
                  op->events[i] + 1, outcome);
        told[i] = (struct chaos_event){
            .id = op->events[i] + 1, .time_ms = event->time_ms, .outcome = outcome, .offset = -1};
        event->acknowledged = true;
        learn(op->client, op->events[i]);
        workload_counts.duplicates += outcome == DN_OUTCOME_DUPLICATE;
        workload_counts.acknowledged++;
    }
    if (op->client->token[op->group] < index) {
        op->client->token[op->group] = index;
    }
    line.events = told;
    line.events_count = op->event_count;
    record_end(op, &line, CHAOS_OK, NULL);
}

static void stream_answered(const struct op *op, enum dn_code code, const struct dn_result *result)
{
    struct consumer *consumer = &consumers[op->node][op->group];
    if (consumer->era != op->era) {
        return;
    }
    consumer->in_flight--;
    if (code != DN_OK) {
        consumer->led = false; /* it begins anew, from the state */
    } else if (result->status == DN_RESULT_GAP) {
        workload_counts.gaps++;
        consumer->next = result->next_offset;
    } else {
        SIM_CHECK(result->status == DN_RESULT_OK, "status %d of a batch", (int)result->status);
    }
}

static void proposal_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index,
                          const uint8_t *bytes, size_t length, const struct dn_error *err)
{
    struct process *inside = sim_outside_begin();
    struct op *op = proposal->data;
    struct dn_result result = {.status = DN_RESULT_OK};
    struct dn_error why;
    if (code == DN_OK && op->kind != OP_SETTINGS) {
        SIM_CHECK(dn_result_parse(bytes, length, op->record.bytes[0], &result, &why) == DN_OK, "%s",
                  why.message);
    }
    if (op->kind == OP_PUBLISH) {
        publish_answered(op, code, index, &result, code == DN_OK ? NULL : err->message);
    } else if (op->kind == OP_STREAM) {
        stream_answered(op, code, &result);
    } else {
        settings_done[op->group] |= code == DN_OK;
    }
    end_op(op);
    sim_outside_end(inside);
}

/* In the node's process. */
static void look(struct op *op, struct seen *ret)
{
    const struct node *node = &cluster.nodes[op->node];
    const struct replica *replica = &node->replicas[op->group];
    struct dn_session_view view = {0};
    memset(ret, 0, offsetof(struct seen, events));
    ret->age_known =
        dn_consensus_age_us(node->consensus, op->group, &ret->age_us); /* before the data is read */
    ret->applied = dn_consensus_applied(node->consensus, op->group);
    dn_arena_reset(node->arena);
    dn_epoch_enter(replica->reader);
    enum dn_code code = dn_shard_read(replica->shard, key_of(op->user), node->arena, &view);
    SIM_CHECK(code == DN_OK || code == DN_NOT_FOUND, "read: %d", (int)code);
    ret->found = code == DN_OK;
    ret->version = view.version;
    ret->count = ret->found ? view.event_count : 0;
    SIM_CHECK(ret->count <= CHAOS_LIST_MAX, "a session of %zu events", ret->count);
    for (size_t i = 0; i < ret->count; i++) {
        char item[16] = "";
        memcpy(item, view.events[i].item, view.events[i].item_length);
        ret->events[i] = (struct chaos_event){.id = strtoull(item + 2, NULL, 10),
                                              .time_ms = view.events[i].time_ms,
                                              .outcome = -1,
                                              .offset = -1};
    }
    dn_epoch_leave(replica->reader);
}

static void read_answered(struct op *op, const struct seen *seen)
{
    static struct chaos_event told[CHAOS_LIST_MAX];
    struct chaos_op line = base_op(op);
    memcpy(told, seen->events, seen->count * sizeof *told);
    for (size_t i = 0; i < seen->count; i++) {
        SIM_CHECK(told[i].id >= 1 && told[i].id <= event_count, "event %" PRIu64 " is nobody's", told[i].id);
        learn(op->client, (uint32_t)told[i].id - 1);
    }
    if (op->client->token[op->group] < seen->applied) {
        op->client->token[op->group] = seen->applied;
    }
    line.found = seen->found;
    line.age_known = seen->age_known;
    line.age_us = seen->age_us;
    line.shard = op->group;
    line.applied = seen->applied;
    line.version = seen->version;
    line.events = told;
    line.events_count = seen->count;
    workload_counts.reads++;
    workload_counts.ages_known += seen->age_known;
    record_end(op, &line, CHAOS_OK, NULL);
}

static void wait_done(struct dn_wait *wait, enum dn_code code, uint64_t applied, const struct dn_error *err)
{
    static struct seen seen;
    struct op *op = wait->data;
    (void)applied;
    if (code == DN_OK) {
        look(op, &seen);
    }
    struct process *inside = sim_outside_begin();
    if (code == DN_OK) {
        read_answered(op, &seen);
    } else {
        struct chaos_op line = base_op(op);
        SIM_CHECK(code != DN_RANGE, "node %u, group %u: index %" PRIu64 " of a token is unknown: %s",
                  op->node, op->group, wait->index, err->message);
        workload_counts.reads_failed++;
        record_end(op, &line, CHAOS_FAIL, err->message);
    }
    end_op(op);
    sim_outside_end(inside);
}

void workload_node_ended(unsigned node)
{
    for (size_t i = 0; i < OPS_MAX; i++) {
        struct op *op = &ops[i];
        if (!op->used || op->node != node) {
            continue;
        }
        if (op->kind == OP_PUBLISH || op->kind == OP_READ) {
            struct chaos_op line = base_op(op);
            workload_counts.unknown += op->kind == OP_PUBLISH;
            record_end(op, &line, op->kind == OP_READ ? CHAOS_FAIL : CHAOS_INFO, "the node is gone");
        }
        end_op(op);
    }
    memset(consumers[node], 0, sizeof consumers[node]);
}

/* ---- asking ------------------------------------------------------------------------------------------- */

/* In the node's process: a call that is not taken is answered at once. */
static void propose(struct op *op, uint64_t patience_ns)
{
    struct dn_error err = {.code = DN_EXHAUSTED, .message = "not taken"};
    sim_enter(op->node);
    op->proposal = (struct dn_proposal){.group = op->group,
                                        .record = op->record.bytes,
                                        .length = op->record.length,
                                        .deadline_us = dn_monotonic_us() + patience_ns / 1000,
                                        .done = proposal_done,
                                        .data = op};
    bool taken = dn_consensus_propose(cluster.nodes[op->node].consensus, &op->proposal);
    sim_leave();
    if (!taken) {
        proposal_done(&op->proposal, DN_EXHAUSTED, 0, NULL, 0, &err);
    }
}

static struct dn_event_in event_in(uint32_t number)
{
    const struct event *event = &events[number];
    return (struct dn_event_in){.user = key_of(event->user),
                                .event_id = event->offset < 0 ? number + 1 : 0,
                                .time_ms = event->time_ms,
                                .weight = DN_WEIGHT_ONE,
                                .type = DN_EVENT_CLICK,
                                .offset = event->offset < 0 ? 0 : event->offset,
                                .item = event->item,
                                .item_length = (uint16_t)strlen(event->item)};
}

static uint32_t new_event(uint32_t user, int64_t offset)
{
    struct event *event = &events[event_count];
    *event = (struct event){.user = user, .offset = offset};
    event->time_ms = SIM_WALL_MS + (int64_t)(sim_now() / SIM_MS) - (int64_t)sim_random(EVENT_AGE_MAX_MS);
    snprintf(event->item, sizeof event->item, "i-%" PRIu32, event_count + 1);
    return event_count++;
}

/* Events that were not answered, or (seldom) some that were; in the end all that are left, in turn, or the
 * time to recover would be the time to find them. */
static size_t old_events(uint32_t user, uint32_t out[EVENTS_A_PUBLISH])
{
    size_t count = 0;
    bool answered = sim_chance(8);
    uint32_t many = calm ? event_count : 24;
    for (uint32_t tries = 0; event_count > 0 && tries < many && count < EVENTS_A_PUBLISH; tries++) {
        uint32_t number = calm ? tries : (uint32_t)sim_random(event_count);
        const struct event *event = &events[number];
        bool twice = false;
        for (size_t i = 0; i < count; i++) {
            twice |= out[i] == number;
        }
        if (!twice && event->user == user && event->offset < 0 && !event->in_flight &&
            event->acknowledged == (answered && !calm)) {
            out[count++] = number;
        }
    }
    return count;
}

static void publish(struct client *client, uint32_t user, bool old)
{
    uint32_t chosen[EVENTS_A_PUBLISH];
    struct chaos_event told[EVENTS_A_PUBLISH];
    struct dn_event_in in[EVENTS_A_PUBLISH];
    size_t count = old ? old_events(user, chosen) : 0;
    if (!old && event_count + EVENTS_A_PUBLISH <= EVENTS_MAX) {
        for (count = 0; count < 1 + sim_random(EVENTS_A_PUBLISH); count++) {
            chosen[count] = new_event(user, -1);
        }
    }
    if (count == 0) {
        return;
    }
    struct op *op = new_op(OP_PUBLISH, client->node, group_of(user));
    op->client = client;
    op->user = user;
    op->event_count = count;
    for (size_t i = 0; i < count; i++) {
        op->events[i] = chosen[i];
        events[chosen[i]].in_flight = true;
        in[i] = event_in(chosen[i]);
        told[i] = (struct chaos_event){
            .id = chosen[i] + 1, .time_ms = events[chosen[i]].time_ms, .outcome = -1, .offset = -1};
    }
    dn_record_events(&op->record, in, count);
    struct chaos_op line = base_op(op);
    line.type = CHAOS_INVOKE;
    line.events = told;
    line.events_count = count;
    record(&line);
    client->busy = true;
    workload_counts.published += count;
    propose(op, sim_between(50 * SIM_MS, 1500 * SIM_MS));
}

static void read_user(struct client *client, uint32_t user, enum chaos_level level)
{
    static struct seen seen;
    static uint64_t token[CHAOS_LIST_MAX];
    struct op *op = new_op(OP_READ, client->node, group_of(user));
    op->client = client;
    op->user = user;
    op->level = level;
    struct chaos_op line = base_op(op);
    line.type = CHAOS_INVOKE;
    for (uint32_t i = 0; level != CHAOS_LOCAL && i < event_count && line.token_count < CHAOS_LIST_MAX; i++) {
        if (events[i].user == user && knows(client, i)) {
            token[line.token_count++] = i + 1;
        }
    }
    line.token = token;
    if (level == CHAOS_LINEARIZABLE) {
        line.token_count = 0;
    }
    record(&line);
    client->busy = true;
    sim_enter(op->node);
    struct dn_consensus *consensus = cluster.nodes[op->node].consensus;
    if (level == CHAOS_LOCAL) {
        look(op, &seen);
    } else {
        op->wait = (struct dn_wait){.group = op->group,
                                    .kind = level == CHAOS_SESSION ? DN_WAIT_APPLIED : DN_WAIT_BARRIER,
                                    .index = level == CHAOS_SESSION ? client->token[op->group] : 0,
                                    .deadline_us =
                                        dn_monotonic_us() + sim_between(50 * SIM_MS, 1500 * SIM_MS) / 1000,
                                    .done = wait_done,
                                    .data = op};
    }
    bool taken = level == CHAOS_LOCAL || dn_consensus_wait(consensus, &op->wait);
    sim_leave();
    if (level == CHAOS_LOCAL) {
        read_answered(op, &seen);
        end_op(op);
    } else if (!taken) {
        struct dn_error err = {.code = DN_EXHAUSTED, .message = "not taken"};
        wait_done(&op->wait, DN_EXHAUSTED, 0, &err);
    }
}

static void set_up(uint32_t group, struct client *client)
{
    struct dn_shard_settings settings;
    struct op *op = new_op(OP_SETTINGS, client->node, group);
    op->client = client;
    client->busy = true;
    dn_shard_settings_default(&settings);
    settings.events_per_user = 1000;
    settings.ids_per_user = 1000;
    dn_record_settings(&op->record, &settings);
    propose(op, 300 * SIM_MS);
}

/* ---- clients ------------------------------------------------------------------------------------------ */

static bool usable(unsigned node)
{
    return cluster.nodes[node].ready && !cluster.nodes[node].stopping;
}

static void client_acts(struct client *client)
{
    if (!usable(client->node) || sim_chance(30)) {
        client->node = (unsigned)sim_random(cluster.node_count);
    }
    if (client->busy || !usable(client->node)) {
        return;
    }
    for (uint32_t group = 1; group < cluster.group_count; group++) {
        if (!settings_done[group]) {
            set_up(group, client);
            return;
        }
    }
    uint32_t user = (uint32_t)sim_random(USERS);
    uint64_t what = sim_random(100);
    if (what < 40 && !calm) {
        publish(client, user, false);
    } else if (what < 60) {
        publish(client, user, true);
    } else {
        read_user(client, user, (enum chaos_level)sim_random(3));
    }
}

static void client_step(void *arg, uint64_t tag)
{
    client_acts(arg);
    sim_at(sim_now() + sim_between(2 * SIM_MS, 30 * SIM_MS), client_step, arg, tag);
}

/* ---- the stream --------------------------------------------------------------------------------------- */

static void stream_step(void *arg, uint64_t tag)
{
    if (!calm && stream_count < STREAM_MAX && event_count < EVENTS_MAX) {
        uint32_t user = (uint32_t)sim_random(USERS), group = group_of(user);
        stream_end[group] += (int64_t)sim_random(3); /* compaction leaves holes */
        uint32_t number = new_event(user, stream_end[group]++);
        struct chaos_event told = {.id = number + 1,
                                   .time_ms = events[number].time_ms,
                                   .outcome = -1,
                                   .offset = (int32_t)events[number].offset};
        struct chaos_op line = {.type = CHAOS_INFO,
                                .f = CHAOS_INGEST,
                                .process = CHAOS_NEMESIS,
                                .key = user + 1,
                                .name = sources[group],
                                .events = &told,
                                .events_count = 1};
        record(&line);
        line.type = CHAOS_OK; /* it has it at once */
        record(&line);
        stream_count++;
    }
    sim_at(sim_now() + sim_random(2 * STREAM_STEP_NS), stream_step, arg, tag);
}

static int64_t next_offset(unsigned node, uint32_t group)
{
    const struct replica *replica = &cluster.nodes[node].replicas[group];
    int64_t next = DN_OFFSET_UNSET;
    sim_enter(node);
    dn_epoch_enter(replica->reader);
    dn_shard_next_offset(replica->shard, sources[group], group, &next);
    dn_epoch_leave(replica->reader);
    sim_leave();
    return next;
}

static void send_batch(unsigned node, uint32_t group, struct consumer *consumer)
{
    struct dn_event_in batch[BATCH_MAX];
    size_t count = 0, most = 1 + sim_random(BATCH_MAX);
    int64_t next = stream_end[group];
    for (uint32_t i = 0; i < event_count; i++) { /* the stream's events have rising offsets */
        if (events[i].offset < consumer->next || events[i].offset < 0 || group_of(events[i].user) != group) {
            continue;
        }
        if (count > 0 && count == most) {
            next = batch[count - 1].offset + 1;
            break;
        }
        batch[count++] = event_in(i);
    }
    int64_t from = consumer->next;
    consumer->next = next;
    if (!calm && sim_chance(40)) {
        return; /* sometimes one is lost on its way */
    }
    struct op *op = new_op(OP_STREAM, node, group);
    op->era = consumer->era;
    dn_record_stream(&op->record, sources[group], group, from, next, batch, count, NULL, 0);
    consumer->in_flight++;
    workload_counts.batches++;
    propose(op, 500 * SIM_MS);
}

static void consumer_acts(unsigned node, uint32_t group)
{
    struct consumer *consumer = &consumers[node][group];
    if (!usable(node) || !cluster.nodes[node].leads[group] || !settings_done[group]) {
        consumer->led = false;
        return;
    }
    if (!consumer->led) {
        consumer->led = true;
        consumer->era++;
        consumer->in_flight = 0;
        consumer->next = next_offset(node, group);
    }
    if (consumer->in_flight == 0 && consumer->next >= stream_end[group]) {
        consumer->next = next_offset(node, group); /* the last batch may be the one that was lost */
    }
    if (consumer->in_flight < BATCHES_IN_FLIGHT && consumer->next < stream_end[group]) {
        send_batch(node, group, consumer);
    }
}

static void consumer_step(void *arg, uint64_t tag)
{
    for (unsigned node = 0; node < cluster.node_count; node++) {
        for (uint32_t group = 1; group < cluster.group_count; group++) {
            consumer_acts(node, group);
        }
    }
    sim_at(sim_now() + sim_random(2 * CONSUMER_STEP_NS), consumer_step, arg, tag);
}

/* ---- looking ------------------------------------------------------------------------------------------ */

/* What a process has seen committed stays so while it lives. */
static void commit_goes_on(unsigned node, uint32_t group, uint64_t commit)
{
    struct committed *c = &committed[node][group];
    if (c->life == processes[node].life) {
        SIM_CHECK(commit >= c->index, "node %u, group %u: commit index %llu after %llu", node, group,
                  (unsigned long long)commit, (unsigned long long)c->index);
    }
    *c = (struct committed){processes[node].life, commit};
}

void workload_status(void)
{
    for (unsigned node = 0; node < cluster.node_count; node++) {
        struct chaos_group groups[GROUPS_MAX];
        struct chaos_op line = {
            .type = CHAOS_INVOKE, .f = CHAOS_STATUS, .process = CLIENTS * 1000000, .node = node + 1};
        for (uint32_t g = 0; g < cluster.group_count; g++) {
            struct dn_group_status status;
            if (!cluster_status(node, g, &status)) {
                break;
            }
            if (status.is_leader) { /* elected by others, who were asked once its term was durable */
                SIM_CHECK(status.term >= led_most[node][g], "node %u, group %u: leads term %llu after %llu",
                          node, g, (unsigned long long)status.term, (unsigned long long)led_most[node][g]);
                led_most[node][g] = status.term;
            }
            /* A term that a node has heard of may be lost with its power, one that it led not. */
            SIM_CHECK(status.term >= led_most[node][g] || status.term == 0,
                      "node %u, group %u: has term %llu and led %llu", node, g,
                      (unsigned long long)status.term, (unsigned long long)led_most[node][g]);
            commit_goes_on(node, g, status.commit_index);
            groups[g] = (struct chaos_group){.group = g,
                                             .is_leader = status.is_leader,
                                             .leader = status.is_leader ? node + 1 : 0,
                                             .term = status.is_leader ? status.term : led_most[node][g],
                                             .commit = status.commit_index,
                                             .applied = status.applied_index,
                                             .hash_index = status.hash_index,
                                             .hash = status.state_hash};
            line.groups_count = g + 1;
        }
        size_t told = line.groups_count;
        if (told < cluster.group_count) {
            continue;
        }
        line.groups_count = 0;
        record(&line);
        line.type = CHAOS_OK;
        line.groups = groups;
        line.groups_count = told;
        record(&line);
    }
}

bool workload_done(void)
{
    for (uint32_t i = 0; i < event_count; i++) {
        if (events[i].offset < 0 && !events[i].acknowledged) {
            return false;
        }
    }
    for (uint32_t g = 1; g < cluster.group_count; g++) {
        for (unsigned node = 0; node < cluster.node_count; node++) {
            if (!settings_done[g] || !usable(node) ||
                (stream_end[g] > 0 && next_offset(node, g) != stream_end[g])) {
                return false;
            }
        }
    }
    for (size_t i = 0; i < OPS_MAX; i++) {
        if (ops[i].used) {
            return false;
        }
    }
    return true;
}

static void final_read(unsigned node, uint32_t user)
{
    static struct seen seen;
    static bool there[EVENTS_MAX];
    struct client *client = &clients[0];
    client->node = node;
    read_user(client, user, CHAOS_LOCAL);
    struct op op = {.node = node, .group = group_of(user), .user = user};
    sim_enter(node);
    look(&op, &seen);
    sim_leave();
    memset(there, 0, sizeof there);
    for (size_t i = 0; i < seen.count; i++) {
        SIM_CHECK(!there[seen.events[i].id - 1], "node %u: event %" PRIu64 " counts twice", node,
                  seen.events[i].id);
        there[seen.events[i].id - 1] = true;
    }
    for (uint32_t i = 0; i < event_count; i++) {
        SIM_CHECK(events[i].user != user || there[i], "node %u: event %u of user %u is lost", node, i + 1,
                  user);
    }
}

void workload_final_reads(void)
{
    workload_fault("final", "begin", CHAOS_INVOKE);
    workload_fault("final", "begin", CHAOS_INFO);
    for (unsigned node = 0; node < cluster.node_count; node++) {
        for (uint32_t user = 0; user < USERS; user++) {
            final_read(node, user);
        }
    }
}

/* ---- a life ------------------------------------------------------------------------------------------- */

void workload_open(void)
{
    history = chaos_history_create();
    event_count = 0;
    stream_count = 0;
    calm = false;
    memset(clients, 0, sizeof clients);
    memset(consumers, 0, sizeof consumers);
    memset(ops, 0, sizeof ops);
    memset(settings_done, 0, sizeof settings_done);
    memset(stream_end, 0, sizeof stream_end);
    memset(led_most, 0, sizeof led_most);
    memset(committed, 0, sizeof committed);
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i].number = i;
        clients[i].process = (int32_t)i;
        clients[i].node = i % cluster.node_count;
    }
}

void workload_begin(void)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        sim_at(sim_now() + sim_random(20 * SIM_MS), client_step, &clients[i], 0);
    }
    sim_at(sim_now(), stream_step, NULL, 0);
    sim_at(sim_now(), consumer_step, NULL, 0);
}

void workload_calm(void)
{
    calm = true;
}

void workload_close(void)
{
    for (size_t i = 0; i < OPS_MAX; i++) {
        if (ops[i].used) {
            dn_buffer_free(&ops[i].record);
        }
    }
    chaos_history_destroy(history);
    history = NULL;
}
