/* Neighbours: every newest visitor of a newest item is met; the most alike are read. */
#include "recommend/neighbours.h"
#include "recommend/tally.h"

#include <math.h>
#include <string.h>

#define READ_MAX 200u              /* of all shards: the most alike, before their sessions are read */
#define USED_MAX 100u              /* of these, by each of the two weights */
#define ITEMS_MAX 9u               /* newest items of the session that neighbours are looked for with */
#define VSTAN_POSITION 1.5f        /* the weight of an item falls to 1/e in so many positions */
#define VSTAN_AGE_MS 1728000000.0f /* and that of a neighbour in so long: 20 days */
#define VMIS_DECAY 0.1f
#define AHEAD 4u /* steps between asking for memory and reading it */

struct met {
    uint32_t shard, user;
    float vmis, vstan;
    uint32_t item;   /* the newest shared one, in the shard */
    uint32_t newest; /* its position in the session */
};

struct meeting {
    struct met *list; /* in the order they were met */
    uint32_t count;
    uint32_t *table; /* place in list + 1; 0: empty */
    uint32_t mask;
};

struct visitors { /* of one newest item in one shard */
    uint32_t *users;
    size_t count;
};

static struct met *met_at(struct meeting *meeting, uint32_t shard, uint32_t user)
{
    uint64_t key = (uint64_t)shard << 32 | user;
    uint32_t at = (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) & meeting->mask;

    for (; meeting->table[at] != 0; at = (at + 1) & meeting->mask) {
        struct met *met = &meeting->list[meeting->table[at] - 1];
        if (met->user == user && met->shard == shard)
            return met;
    }
    struct met *met = &meeting->list[meeting->count++];
    meeting->table[at] = meeting->count;
    *met = (struct met){.shard = shard, .user = user, .item = DN_NEAR_NONE};
    return met;
}

static void meet(struct meeting *meeting, const struct visitors *visitors, uint32_t shard, uint32_t self,
                 uint32_t item, uint32_t position, uint32_t span)
{
    float vmis = (float)(span - position) / (float)span;
    float vstan = expf(-(float)position / VSTAN_POSITION);

    for (size_t n = 0; n < visitors->count; n++) {
        if (visitors->users[n] == self)
            continue;
        struct met *met = met_at(meeting, shard, visitors->users[n]);
        if (met->item == DN_NEAR_NONE) {
            met->item = item;
            met->newest = position;
        }
        met->vmis += vmis;
        met->vstan += vstan;
    }
}

/* Every visitor of a newest item; whoever shares several is more alike. */
static bool meet_all(const struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                     const struct dn_known *known, struct meeting *meeting)
{
    const struct dn_recommend_world *world = pipeline->world;
    /* As many positions back as VMIS looks: weights are shares of that. */
    uint32_t span = (uint32_t)(gathered->length < ITEMS_MAX ? gathered->length : ITEMS_MAX);
    size_t items = 0, total = 0, size = 16;

    while (items < gathered->recent_count && gathered->recent[items].position < span)
        items++;
    struct visitors *all = dn_arena_alloc(pipeline->arena, (items * world->shard_count + 1) * sizeof *all);
    if (all == NULL)
        return false;
    for (size_t i = 0; i < items; i++)
        for (size_t s = 0; s < world->shard_count; s++) {
            struct visitors *visitors = &all[i * world->shard_count + s];
            uint32_t users[DN_NEAR_VISITORS_MAX];
            *visitors = (struct visitors){0};
            if (known->items[s][i] == DN_NEAR_NONE)
                continue;
            visitors->count =
                dn_near_visitors(world->shards[s], known->items[s][i], users, DN_NEAR_VISITORS_MAX);
            visitors->users = dn_arena_memdup(pipeline->arena, users, visitors->count * sizeof *users);
            if (visitors->users == NULL)
                return false;
            total += visitors->count;
        }
    while (size < 2 * total)
        size *= 2;
    meeting->list = dn_arena_alloc(pipeline->arena, (total + 1) * sizeof *meeting->list);
    meeting->table = dn_arena_zalloc(pipeline->arena, size * sizeof *meeting->table);
    meeting->mask = (uint32_t)(size - 1);
    if (meeting->list == NULL || meeting->table == NULL)
        return false;
    for (size_t i = 0; i < items; i++)
        for (size_t s = 0; s < world->shard_count; s++)
            meet(meeting, &all[i * world->shard_count + s], (uint32_t)s, known->self[s], known->items[s][i],
                 gathered->recent[i].position, span);
    return true;
}

/* By likeness, then the newest met first. */
static bool is_nearer(const struct met *a, const struct met *b)
{
    return a->vmis != b->vmis ? a->vmis > b->vmis : a < b;
}

static void sift(const struct met **heap, size_t count, size_t at)
{
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        const struct met *moved = heap[at];
        if (child + 1 < count && is_nearer(heap[child], heap[child + 1]))
            child++;
        if (!is_nearer(moved, heap[child]))
            return;
        heap[at] = heap[child];
        heap[child] = moved;
    }
}

/* The READ_MAX nearest, in no order: a heap with the least near of them on top. */
static size_t nearest(const struct meeting *meeting, const struct met *ret[READ_MAX])
{
    size_t count = 0;

    for (uint32_t i = 0; i < meeting->count; i++) {
        const struct met *met = &meeting->list[i];
        if (count < READ_MAX) {
            ret[count++] = met;
            if (count == READ_MAX)
                for (size_t at = count / 2; at-- > 0;)
                    sift(ret, count, at);
        } else if (is_nearer(met, ret[0])) {
            ret[0] = met;
            sift(ret, count, 0);
        }
    }
    return count;
}

/* Whether the session could be read; *ret_full: the arena is full. */
static bool read_one(const struct dn_pipeline *pipeline, const struct met *met, struct dn_neighbour *ret,
                     bool *ret_full)
{
    int64_t now_ms = pipeline->query->session->last_ms;
    struct dn_near_visit visits[DN_NEAR_VISITS_MAX];
    struct dn_near_session session;

    size_t around = pipeline->query->only == 1 + DN_SOURCE_VMIS ? DN_NEAR_VISITS_MAX : DN_NEIGHBOUR_AROUND;
    if (!dn_near_session(pipeline->world->shards[met->shard], met->user, met->item, around, visits, &session))
        return false;
    float age = now_ms > session.last_ms ? (float)(now_ms - session.last_ms) / VSTAN_AGE_MS : 0;
    float fades = 1 - VMIS_DECAY * (float)(met->newest + 1);
    ret->shard = met->shard;
    ret->count = (uint32_t)session.count;
    ret->matched = session.matched;
    ret->vmis = fades > 0 ? met->vmis * fades : 0;
    ret->vstan = met->vstan / sqrtf((float)session.length) * expf(-age);
    ret->visits = dn_arena_memdup(pipeline->arena, visits, session.count * sizeof *visits);
    *ret_full = *ret_full || ret->visits == NULL;
    return ret->visits != NULL;
}

/* What is less near than the USED_MAX-th by a weight has none. Those just as near count all: between them
 * there is nothing to choose, and to take some made VMIS worse by .02. */
static void cut_off(struct dn_neighbours *neighbours, bool vstan)
{
    float scratch[READ_MAX];

    if (neighbours->count <= USED_MAX)
        return;
    for (size_t i = 0; i < neighbours->count; i++)
        scratch[i] = vstan ? neighbours->list[i].vstan : neighbours->list[i].vmis;
    float least = dn_nth_largest(scratch, neighbours->count, USED_MAX - 1);
    for (size_t i = 0; i < neighbours->count; i++) {
        float *weight = vstan ? &neighbours->list[i].vstan : &neighbours->list[i].vmis;
        if (*weight < least)
            *weight = 0;
    }
}

bool dn_neighbours_read(const struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                        const struct dn_known *known, struct dn_neighbours *ret)
{
    struct meeting meeting = {0};
    const struct met *chosen[READ_MAX];
    bool full = false;

    *ret = (struct dn_neighbours){0};
    if (!meet_all(pipeline, gathered, known, &meeting))
        return false;
    size_t count = nearest(&meeting, chosen);
    ret->list = dn_arena_alloc(pipeline->arena, (count + 1) * sizeof *ret->list);
    if (ret->list == NULL)
        return false;
    for (size_t i = 0; i < count + 2 * AHEAD; i++) { /* each session read is a miss or three: they overlap */
        if (i < count)
            dn_near_prefetch_user(pipeline->world->shards[chosen[i]->shard], chosen[i]->user, false);
        if (i >= AHEAD && i - AHEAD < count)
            dn_near_prefetch_user(pipeline->world->shards[chosen[i - AHEAD]->shard], chosen[i - AHEAD]->user,
                                  true);
        if (i >= 2 * AHEAD)
            ret->count += read_one(pipeline, chosen[i - 2 * AHEAD], &ret->list[ret->count], &full);
    }
    cut_off(ret, false);
    cut_off(ret, true);
    return !full;
}
