/* What the shards' tables say of a session: gather.h.
 *
 * The happy path: the session's newest items are looked up in each shard; their newest visitors are
 * neighbours, the best of whom are read and add what they clicked around the same item; rows of the newest
 * items add what followed them and what came near. Each shard's best are looked up in the catalogue, and
 * added up over the shards. */
#include "recommend/gather.h"
#include "recommend/tally.h"

#include <math.h>
#include <string.h>

#define NEIGHBOURS_READ 200u /* of all shards: the most alike, before their sessions are read */
#define NEIGHBOURS_USED 100u /* of these, by each of the two weights */
#define NEIGHBOUR_ITEMS 9u   /* newest items of the session that neighbours are looked for with */
#define AROUND 20u           /* visits of a neighbour on each side of the one that is shared */
#define RULES_ITEMS 3u
#define RULES_DECAY 0.4f /* from one item to the one before it */
#define RULES_PRIOR 3.0f /* events that say nothing, beside what is known of a row */
#define COVIS_ITEMS 5u
#define VSTAN_POSITION 1.5f        /* the weight of an item falls to 1/e in so many positions */
#define VSTAN_AGE_MS 1728000000.0f /* and that of a neighbour in so long: 20 days */
#define VSTAN_DISTANCE 2.0f        /* and that of what it clicked so many visits from the shared one */
#define VMIS_DECAY 0.1f
#define SHARDS_MAX DN_GATHER_SHARDS_MAX

static const size_t KEPT[DN_FROM_COUNT] = {
    [DN_FROM_VSTAN] = 200, [DN_FROM_VMIS] = 150, [DN_FROM_RULES] = 120, [DN_FROM_COVIS] = 100};

struct neighbour {
    uint64_t key; /* shard << 32 | user, plus one; 0: empty */
    float vmis, vstan;
    uint32_t item;    /* the newest shared one, in the shard */
    uint32_t newest;  /* its position in the session */
    uint32_t arrival; /* in which order it was met */
};

struct neighbours {
    struct neighbour *table;
    uint32_t mask, count;
};

struct gather {
    const struct dn_pipeline *pipeline;
    struct dn_gathered *out;
    struct dn_tally tallies[SHARDS_MAX];
    uint32_t ids[SHARDS_MAX][DN_RECENT_MAX]; /* DN_NEAR_NONE: the shard does not know it */
    uint32_t self[SHARDS_MAX];
    float near_distance[AROUND + 1]; /* exp(-d / VSTAN_DISTANCE) */
};

/* ---- the session
 * ------------------------------------------------------------------------------------------ */

/* Of the current session, newest first. */
static void read_recent(const struct dn_session_view *session, struct dn_gathered *out)
{
    uint32_t position = 0;

    for (size_t i = session->event_count; i-- > 0 && session->events[i].current; position++) {
        const struct dn_event_view *event = &session->events[i];
        bool known = false;
        out->length++;
        for (size_t j = 0; j < out->recent_count && !known; j++)
            known = out->recent[j].hash == event->item_hash && out->recent[j].length == event->item_length;
        if (known || out->recent_count == DN_RECENT_MAX || event->type == DN_EVENT_DISLIKE ||
            event->type == DN_EVENT_REMOVE)
            continue;
        out->recent[out->recent_count++] = (struct dn_recent){.name = event->item,
                                                              .length = event->item_length,
                                                              .hash = event->item_hash,
                                                              .position = position};
    }
}

static void find_recent(struct gather *gather)
{
    const struct dn_recommend_world *world = gather->pipeline->world;

    for (size_t s = 0; s < world->shard_count; s++)
        for (size_t i = 0; i < gather->out->recent_count; i++) {
            const struct dn_recent *recent = &gather->out->recent[i];
            gather->ids[s][i] = dn_near_find(world->shards[s], recent->hash, recent->name, recent->length);
        }
}

/* ---- neighbours
 * ------------------------------------------------------------------------------------------- */

static struct neighbour *neighbour_at(struct neighbours *neighbours, uint64_t key)
{
    uint32_t at = (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) & neighbours->mask;

    while (neighbours->table[at].key != 0 && neighbours->table[at].key != key + 1)
        at = (at + 1) & neighbours->mask;
    return &neighbours->table[at];
}

/* Every visitor of a recent item; whoever shares several is more alike. */
static bool meet(struct gather *gather, struct neighbours *neighbours)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    const struct dn_gathered *out = gather->out;
    size_t items = out->recent_count < NEIGHBOUR_ITEMS ? out->recent_count : NEIGHBOUR_ITEMS;
    uint32_t users[DN_NEAR_VISITORS_MAX], size = 64, span;
    /* As many positions back as VMIS looks: weights are shares of that. */
    span = (uint32_t)(out->length < NEIGHBOUR_ITEMS ? out->length : NEIGHBOUR_ITEMS);

    while (size < 2 * items * world->shard_count * DN_NEAR_VISITORS_MAX && size < 65536)
        size *= 2;
    neighbours->table = dn_arena_zalloc(gather->pipeline->arena, size * sizeof *neighbours->table);
    neighbours->mask = size - 1;
    if (neighbours->table == NULL)
        return false;
    for (size_t i = 0; i < items && out->recent[i].position < span; i++) {
        uint32_t position = out->recent[i].position;
        float vmis = (float)(span - position) / (float)span;
        float vstan = expf(-(float)position / VSTAN_POSITION);
        for (size_t s = 0; s < world->shard_count; s++) {
            size_t count =
                gather->ids[s][i] == DN_NEAR_NONE
                    ? 0
                    : dn_near_visitors(world->shards[s], gather->ids[s][i], users, DN_NEAR_VISITORS_MAX);
            for (size_t n = 0; n < count; n++) {
                if (users[n] == gather->self[s] || 2 * (neighbours->count + 1) > neighbours->mask)
                    continue;
                struct neighbour *neighbour = neighbour_at(neighbours, (uint64_t)s << 32 | users[n]);
                if (neighbour->key == 0)
                    *neighbour = (struct neighbour){.key = ((uint64_t)s << 32 | users[n]) + 1,
                                                    .item = gather->ids[s][i],
                                                    .newest = position,
                                                    .arrival = neighbours->count++};
                neighbour->vmis += vmis;
                neighbour->vstan += vstan;
            }
        }
    }
    return true;
}

/* By likeness, then the newest met first. */
static bool is_nearer(const struct neighbour *a, const struct neighbour *b)
{
    return a->vmis != b->vmis ? a->vmis > b->vmis : a->arrival < b->arrival;
}

static void sift(struct neighbour **heap, size_t count, size_t at)
{
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        struct neighbour *moved = heap[at];
        if (child + 1 < count && is_nearer(heap[child], heap[child + 1]))
            child++;
        if (!is_nearer(moved, heap[child]))
            return;
        heap[at] = heap[child];
        heap[child] = moved;
    }
}

/* The NEIGHBOURS_READ nearest, in no order: a heap with the least near of them on top. */
static size_t nearest(const struct neighbours *neighbours, struct neighbour *ret[NEIGHBOURS_READ])
{
    size_t count = 0;

    for (uint32_t at = 0; at <= neighbours->mask; at++) {
        struct neighbour *neighbour = &neighbours->table[at];
        if (neighbour->key == 0)
            continue;
        if (count < NEIGHBOURS_READ) {
            ret[count++] = neighbour;
            if (count == NEIGHBOURS_READ)
                for (size_t i = count / 2; i-- > 0;)
                    sift(ret, count, i);
        } else if (is_nearer(neighbour, ret[0])) {
            ret[0] = neighbour;
            sift(ret, count, 0);
        }
    }
    return count;
}

struct read_neighbour {
    uint32_t shard, count, matched;
    float vmis, vstan; /* weights; 0: not among the best by that */
    struct dn_near_visit visits[2 * AROUND + 1];
};

/* The weight of the `keep`-th best, 0 where there are fewer. */
static float cut_off(const struct read_neighbour *read, size_t count, size_t keep, bool vstan, float *scratch)
{
    if (count <= keep)
        return 0;
    for (size_t i = 0; i < count; i++)
        scratch[i] = vstan ? read[i].vstan : read[i].vmis;
    return dn_nth_largest(scratch, count, keep - 1);
}

static bool was_before(const struct dn_near_visit *visits, uint32_t at)
{
    for (uint32_t i = 0; i < at; i++)
        if (visits[i].id == visits[at].id)
            return true;
    return false;
}

static bool add_visits(struct gather *gather, const struct read_neighbour *read)
{
    struct dn_tally *tally = &gather->tallies[read->shard];

    for (uint32_t i = 0; i < read->count; i++) {
        uint32_t distance = i > read->matched ? i - read->matched : read->matched - i;
        if (was_before(read->visits, i) || read->visits[i].type == DN_EVENT_DISLIKE ||
            read->visits[i].type == DN_EVENT_REMOVE)
            continue;
        struct dn_tally_entry *entry = dn_tally_at(tally, read->visits[i].id);
        if (entry == NULL)
            return false;
        entry->score[DN_FROM_VMIS] += read->vmis;
        entry->score[DN_FROM_VSTAN] += read->vstan * gather->near_distance[distance];
    }
    return true;
}

static size_t read_sessions(struct gather *gather, struct neighbour **chosen, size_t count,
                            struct read_neighbour *ret)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    int64_t now_ms = gather->pipeline->query->session->last_ms;
    struct dn_near_visit visits[DN_NEAR_VISITS_MAX];
    struct dn_near_session session;
    size_t got = 0;

    for (size_t i = 0; i < count; i++) {
        const struct neighbour *neighbour = chosen[i];
        uint32_t shard = (uint32_t)((neighbour->key - 1) >> 32), user = (uint32_t)(neighbour->key - 1);
        if (!dn_near_session(world->shards[shard], user, neighbour->item, AROUND, visits, &session))
            continue;
        float age = now_ms > session.last_ms ? (float)(now_ms - session.last_ms) / VSTAN_AGE_MS : 0;
        float fades = 1 - VMIS_DECAY * (float)(neighbour->newest + 1);
        struct read_neighbour *to = &ret[got++];
        to->shard = shard;
        to->count = (uint32_t)session.count;
        to->matched = session.matched;
        to->vmis = fades > 0 ? neighbour->vmis * fades : 0;
        to->vstan = neighbour->vstan / sqrtf((float)session.length) * expf(-age);
        memcpy(to->visits, visits, session.count * sizeof *visits);
    }
    return got;
}

static enum dn_code from_neighbours(struct gather *gather, struct dn_error *err)
{
    struct neighbours neighbours = {0};
    struct neighbour *chosen[NEIGHBOURS_READ];
    float scratch[NEIGHBOURS_READ];

    if (!meet(gather, &neighbours))
        return dn_arena_full(err);
    size_t count = nearest(&neighbours, chosen);
    struct read_neighbour *read = dn_arena_alloc(gather->pipeline->arena, (count + 1) * sizeof *read);
    if (read == NULL)
        return dn_arena_full(err);
    count = read_sessions(gather, chosen, count, read);
    float least_vmis = cut_off(read, count, NEIGHBOURS_USED, false, scratch);
    float least_vstan = cut_off(read, count, NEIGHBOURS_USED, true, scratch);
    for (size_t i = 0; i < count; i++) {
        read[i].vmis = read[i].vmis >= least_vmis ? read[i].vmis : 0;
        read[i].vstan = read[i].vstan >= least_vstan ? read[i].vstan : 0;
        if ((read[i].vmis > 0 || read[i].vstan > 0) && !add_visits(gather, &read[i]))
            return dn_arena_full(err);
    }
    return DN_OK;
}

/* ---- rows
 * ------------------------------------------------------------------------------------------------- */

struct rows { /* of one recent item, in all shards */
    float after_sum, near_sum;
    struct {
        struct dn_near_cell *cells;
        size_t count;
    } shards[SHARDS_MAX];
};

static bool read_rows(struct gather *gather, size_t i, struct dn_near_cell *scratch, struct rows *ret)
{
    const struct dn_recommend_world *world = gather->pipeline->world;

    ret->after_sum = ret->near_sum = 0;
    for (size_t s = 0; s < world->shard_count; s++) {
        struct dn_near_row row = {0};
        if (gather->ids[s][i] != DN_NEAR_NONE)
            dn_near_row(world->shards[s], gather->ids[s][i], scratch, DN_NEAR_CELLS_MAX, &row);
        ret->after_sum += row.after_sum;
        ret->near_sum += row.near_sum;
        ret->shards[s].count = row.count;
        ret->shards[s].cells =
            row.count == 0 ? NULL
                           : dn_arena_memdup(gather->pipeline->arena, scratch, row.count * sizeof *scratch);
        if (row.count > 0 && ret->shards[s].cells == NULL)
            return false;
    }
    return true;
}

static enum dn_code from_rows(struct gather *gather, struct dn_error *err)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    struct dn_near_cell scratch[DN_NEAR_CELLS_MAX];
    struct rows rows;
    float weight = 1;

    for (size_t i = 0; i < gather->out->recent_count && i < COVIS_ITEMS; i++, weight *= RULES_DECAY) {
        if (!read_rows(gather, i, scratch, &rows))
            return dn_arena_full(err);
        float rule = i < RULES_ITEMS ? weight / (rows.after_sum + RULES_PRIOR) : 0;
        float cosine = 1 / sqrtf(rows.near_sum + 1);
        for (size_t s = 0; s < world->shard_count; s++)
            for (size_t n = 0; n < rows.shards[s].count; n++) {
                const struct dn_near_cell *cell = &rows.shards[s].cells[n];
                struct dn_tally_entry *entry = dn_tally_at(&gather->tallies[s], cell->id);
                if (entry == NULL)
                    return dn_arena_full(err);
                entry->score[DN_FROM_RULES] += rule * cell->after;
                entry->score[DN_FROM_COVIS] += cosine * cell->near;
                if (i == 0)
                    entry->after_last += cell->after / (rows.after_sum + RULES_PRIOR);
            }
    }
    return DN_OK;
}

/* ---- into the catalogue
 * ----------------------------------------------------------------------------------- */

struct merged {
    struct dn_slot_map places;
    size_t max;
};

/* The item's candidate, made where there is none; NULL: it is not wanted, or not in the catalogue. */
static struct dn_candidate *candidate_of(struct gather *gather, struct merged *merged,
                                         const struct dn_near_item *named)
{
    const struct dn_pipeline *pipeline = gather->pipeline;
    struct dn_gathered *out = gather->out;
    struct dn_item item;

    if (dn_catalog_get_hashed(pipeline->world->catalog, named->hash, named->name, named->length, &item) !=
        DN_OK)
        return NULL;
    uint32_t place = dn_slot_map_get(&merged->places, item.slot);
    if (place != DN_SLOT_NONE)
        return &out->list[place];
    if (out->count == merged->max || !dn_pipeline_wants(pipeline, &item))
        return NULL;
    dn_slot_map_put(&merged->places, item.slot, (uint32_t)out->count);
    struct dn_candidate *candidate = &out->list[out->count++];
    *candidate = (struct dn_candidate){.item = item};
    return candidate;
}

static void add_entry(struct gather *gather, struct merged *merged, size_t shard,
                      const struct dn_tally_entry *entry)
{
    struct dn_near_item named;

    if (!dn_near_item(gather->pipeline->world->shards[shard], entry->id - 1, &named))
        return;
    struct dn_candidate *candidate = candidate_of(gather, merged, &named);
    if (candidate == NULL)
        return;
    for (size_t source = 0; source < DN_FROM_COUNT; source++)
        candidate->score[source] += entry->score[source];
    candidate->after_last += entry->after_last;
    candidate->clicks += (float)named.clicks;
    candidate->trend += named.recent;
}

/* What the session itself had may come again. */
static void add_recent(struct gather *gather, struct merged *merged)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    struct dn_near_item named;

    for (size_t i = 0; i < gather->out->recent_count; i++)
        for (size_t s = 0; s < world->shard_count; s++)
            if (gather->ids[s][i] != DN_NEAR_NONE &&
                dn_near_item(world->shards[s], gather->ids[s][i], &named))
                (void)candidate_of(gather, merged, &named);
}

/* Of each shard somewhat more than its share: the best of all may lie in a few. */
static size_t share_of(size_t source, size_t shards)
{
    return shards == 1 ? KEPT[source] : KEPT[source] * 3 / (2 * shards) + 8;
}

static enum dn_code merge(struct gather *gather, struct dn_error *err)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    struct dn_arena *arena = gather->pipeline->arena;
    struct merged merged = {.max = DN_RECENT_MAX};

    for (size_t source = 0; source < DN_FROM_COUNT; source++)
        merged.max += share_of(source, world->shard_count) * world->shard_count;
    gather->out->list = dn_arena_alloc(arena, merged.max * sizeof *gather->out->list);
    if (gather->out->list == NULL)
        return dn_arena_full(err);
    enum dn_code code = dn_slot_map_init(&merged.places, arena, merged.max, err);
    if (code != DN_OK)
        return code;
    add_recent(gather, &merged);
    for (size_t s = 0; s < world->shard_count; s++) {
        const struct dn_tally *tally = &gather->tallies[s];
        float least[DN_FROM_COUNT];
        float *scratch = dn_arena_alloc(arena, (tally->count + 1) * sizeof *scratch);
        if (scratch == NULL)
            return dn_arena_full(err);
        for (unsigned source = 0; source < DN_FROM_COUNT; source++)
            least[source] = dn_tally_threshold(tally, source, share_of(source, world->shard_count), scratch);
        for (uint32_t at = 0; at <= tally->mask; at++) {
            const struct dn_tally_entry *entry = &tally->entries[at];
            bool good = false;
            for (size_t source = 0; source < DN_FROM_COUNT && entry->id != 0; source++)
                good = good || (entry->score[source] > 0 && entry->score[source] >= least[source]);
            if (good)
                add_entry(gather, &merged, s, entry);
        }
    }
    return DN_OK;
}

/* What is clicked rarely says more where it is shared; what is near everything is near nothing. */
static void weigh(struct gather *gather)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    float users = 1;

    for (size_t s = 0; s < world->shard_count; s++) {
        struct dn_shard_stats stats;
        dn_shard_stats(world->shards[s], &stats);
        users += (float)stats.users;
    }
    for (size_t i = 0; i < gather->out->count; i++) {
        struct dn_candidate *candidate = &gather->out->list[i];
        float rare = logf(users / (candidate->clicks + 1));
        rare = rare > 0.1f ? rare : 0.1f;
        candidate->score[DN_FROM_VMIS] *= rare;
        candidate->score[DN_FROM_VSTAN] *= 1 + 0.2f * rare;
        candidate->score[DN_FROM_COVIS] /= sqrtf(candidate->clicks + 1);
    }
}

enum dn_code dn_gather(const struct dn_pipeline *pipeline, struct dn_gathered *ret, struct dn_error *err)
{
    const struct dn_recommend_world *world = pipeline->world;
    struct gather *gather = dn_arena_zalloc(pipeline->arena, sizeof *gather);

    *ret = (struct dn_gathered){0};
    if (gather == NULL)
        return dn_arena_full(err);
    DN_ASSERT(world->shard_count <= SHARDS_MAX);
    gather->pipeline = pipeline;
    gather->out = ret;
    if (pipeline->query == NULL || pipeline->query->session == NULL)
        return DN_OK;
    read_recent(pipeline->query->session, ret);
    if (ret->recent_count == 0)
        return DN_OK;
    find_recent(gather);
    for (unsigned d = 0; d <= AROUND; d++)
        gather->near_distance[d] = expf(-(float)d / VSTAN_DISTANCE);
    for (size_t s = 0; s < world->shard_count; s++) {
        gather->self[s] = dn_near_user(world->shards[s], pipeline->query->user);
        size_t most = NEIGHBOURS_USED * 2 * (2 * AROUND + 1) / world->shard_count + 1024;
        if (!dn_tally_init(&gather->tallies[s], pipeline->arena, most))
            return dn_arena_full(err);
    }
    enum dn_code code = from_neighbours(gather, err);
    if (code == DN_OK)
        code = from_rows(gather, err);
    if (code == DN_OK)
        code = merge(gather, err);
    if (code == DN_OK)
        weigh(gather);
    return code;
}
