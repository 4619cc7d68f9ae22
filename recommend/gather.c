/* What the shards' tables say of a session: gather.h.
 *
 * The happy path: the session's newest items are looked up in each shard; the best of their newest visitors
 * are read and add what they clicked around the same item (neighbours.c); rows of the newest items add what
 * followed them and what came near. Each shard's best are looked up in the catalogue, and added up over the
 * shards. Then come what the session itself had, and what is nearest by vectors. */
#include "recommend/gather.h"
#include "recommend/counters.h"
#include "recommend/neighbours.h"
#include "recommend/own.h"
#include "recommend/tally.h"

#include <math.h>
#include <string.h>

#define RULES_ITEMS 3u
#define RULES_DECAY 0.4f /* from one item to the one before it */
#define RULES_PRIOR 3.0f /* events that say nothing, beside what is known of a row */
#define AHEAD 4u         /* steps between asking for memory and reading it */
/* What a neighbour clicked falls to 1/e in so many visits from the shared one. */
#define VSTAN_DISTANCE 2.0f
/* Neighbours' scores are often equal: of those as good as the last of a source's share, so many shares more.
 */
#define TIES 4u
/* Where filters and exclusions leave less than so many times k, what was not good enough is looked at too ...
 */
#define WANTED 2u
#define REST_MAX 4096u /* ... but not more of it, of all shards: of each the same share */

static const size_t KEPT[DN_NEAR_SOURCES] = {
    [DN_SOURCE_VSTAN] = 100, [DN_SOURCE_VMIS] = 60, [DN_SOURCE_RULES] = 60, [DN_SOURCE_COVIS] = 50};

struct gather {
    const struct dn_pipeline *pipeline;
    const struct dn_label *label;
    struct dn_gathered *out;
    struct dn_known known;
    struct dn_neighbours neighbours;
    struct dn_own own;
    struct dn_own_row *rows[DN_OWN_ROWS];    /* one a shard */
    struct dn_tally *tallies;                /* one a shard */
    float near_distance[DN_NEAR_VISITS_MAX]; /* exp(-d / VSTAN_DISTANCE) */
};

static bool is_on(const struct gather *gather, unsigned source)
{
    const struct dn_pipeline *pipeline = gather->pipeline;

    return ((pipeline->query->sources_off | pipeline->settings->sources_off) & 1u << source) == 0;
}

/* ---- the session ------------------------------------------------------------------------------------- */

static struct dn_recent *recent_of(struct dn_gathered *out, const struct dn_event_view *event)
{
    for (size_t i = 0; i < out->recent_count; i++)
        if (out->recent[i].hash == event->item_hash && out->recent[i].length == event->item_length)
            return &out->recent[i];
    return NULL;
}

/* Of the current session, newest first. */
static void read_recent(const struct dn_session_view *session, struct dn_gathered *out)
{
    uint32_t position = 0, repeats = 0;

    for (size_t i = session->event_count; i-- > 0 && session->events[i].current; position++) {
        const struct dn_event_view *event = &session->events[i];
        out->length++;
        if (recent_of(out, event) != NULL)
            repeats++;
        else if (out->recent_count < DN_RECENT_MAX && dn_own_counts_event(event))
            out->recent[out->recent_count++] = (struct dn_recent){.name = event->item,
                                                                  .length = event->item_length,
                                                                  .hash = event->item_hash,
                                                                  .position = position};
    }
    out->repeats = out->length > 1 ? (float)repeats / (float)(out->length - 1) : 0;
}

static void find_known(struct gather *gather)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    struct dn_gathered *out = gather->out;

    memset(&gather->known, 0xff, sizeof gather->known); /* DN_NEAR_NONE */
    for (size_t i = 0; i < out->recent_count; i++) {
        struct dn_recent *recent = &out->recent[i];
        recent->known = dn_catalog_get_hashed(world->catalog, recent->hash, recent->name, recent->length,
                                              &recent->item) == DN_OK;
        for (size_t s = 0; s < world->shard_count; s++)
            gather->known.items[s][i] =
                dn_near_find(world->shards[s], recent->hash, recent->name, recent->length);
    }
    struct dn_hash128 user = gather->pipeline->query->user;
    for (size_t s = 0; s < world->shard_count; s++)
        gather->known.self[s] =
            user.low == 0 && user.high == 0 ? DN_NEAR_NONE : dn_near_user(world->shards[s], user);
    const struct dn_label *label = gather->label;
    for (size_t s = 0; s < world->shard_count && label != NULL; s++)
        gather->known.label[s] = dn_near_find(world->shards[s], label->hash, label->name, label->length);
}

/* ---- rows and neighbours into tallies ---------------------------------------------------------------- */

static size_t row_count(const struct gather *gather)
{
    if (!is_on(gather, DN_SOURCE_RULES) && !is_on(gather, DN_SOURCE_COVIS))
        return 0;
    return gather->out->recent_count < DN_OWN_ROWS ? gather->out->recent_count : DN_OWN_ROWS;
}

static bool read_rows(struct gather *gather)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    struct dn_near_cell scratch[DN_NEAR_CELLS_MAX];

    for (size_t i = 0; i < row_count(gather); i++) {
        gather->rows[i] =
            dn_arena_zalloc(gather->pipeline->arena, world->shard_count * sizeof *gather->rows[i]);
        if (gather->rows[i] == NULL)
            return false;
        for (size_t s = 0; s < world->shard_count; s++) {
            struct dn_own_row *row = &gather->rows[i][s];
            if (gather->known.items[s][i] == DN_NEAR_NONE)
                continue;
            dn_near_row(world->shards[s], gather->known.items[s][i], scratch, DN_NEAR_CELLS_MAX, &row->sums);
            row->cells = dn_arena_memdup(gather->pipeline->arena, scratch, row->sums.count * sizeof *scratch);
            if (row->cells == NULL)
                return false;
            if (gather->known.self[s] != DN_NEAR_NONE)
                dn_own_forget(&gather->own, &gather->known, s, i, row);
        }
    }
    return true;
}

static bool make_tallies(struct gather *gather)
{
    size_t max[DN_GATHER_SHARDS_MAX] = {0};

    gather->tallies = dn_arena_alloc(gather->pipeline->arena,
                                     gather->pipeline->world->shard_count * sizeof *gather->tallies);
    if (gather->tallies == NULL)
        return false;
    for (size_t n = 0; n < gather->neighbours.count; n++)
        max[gather->neighbours.list[n].shard] += gather->neighbours.list[n].count;
    for (size_t s = 0; s < gather->pipeline->world->shard_count; s++) {
        for (size_t i = 0; i < row_count(gather); i++)
            max[s] += gather->rows[i][s].sums.count;
        if (!dn_tally_init(&gather->tallies[s], gather->pipeline->arena, max[s]))
            return false;
    }
    return true;
}

/* Each item once, however often that neighbour clicked it. */
static void add_neighbour(struct gather *gather, size_t number)
{
    const struct dn_neighbour *from = &gather->neighbours.list[number];
    struct dn_tally *tally = &gather->tallies[from->shard];

    if (!(from->vmis > 0) && !(from->vstan > 0))
        return;
    for (uint32_t i = 0; i < from->count; i++) {
        const struct dn_near_visit *visit = &from->visits[i];
        uint32_t distance = i > from->matched ? i - from->matched : from->matched - i;
        struct dn_tally_entry *entry = dn_tally_at(tally, visit->id);
        if (entry->neighbour == number + 1)
            continue;
        entry->neighbour = (uint32_t)number + 1;
        if (visit->type == DN_EVENT_DISLIKE || visit->type == DN_EVENT_REMOVE)
            continue;
        entry->score[DN_SOURCE_VMIS] += from->vmis;
        entry->score[DN_SOURCE_VSTAN] += from->vstan * gather->near_distance[distance];
    }
}

static void add_rows(struct gather *gather)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    float weight = 1;
    bool first = true; /* no newer item had a row */

    for (size_t i = 0; i < row_count(gather); i++, weight *= RULES_DECAY) {
        const struct dn_own_row *rows = gather->rows[i];
        float after_sum = 0, near_sum = 0;
        size_t cells = 0;
        for (size_t s = 0; s < world->shard_count; s++) {
            after_sum += rows[s].sums.after_sum;
            near_sum += rows[s].sums.near_sum;
            cells += rows[s].sums.count - rows[s].own_cells;
        }
        float rule = i < RULES_ITEMS ? weight / (after_sum + RULES_PRIOR) : 0;
        float last = first ? 1 / (after_sum + RULES_PRIOR) : 0;
        float cosine = 1 / sqrtf(near_sum + 1);
        for (size_t s = 0; s < world->shard_count; s++)
            for (size_t n = 0; n < rows[s].sums.count; n++) {
                const struct dn_near_cell *cell = &rows[s].cells[n];
                struct dn_tally_entry *entry = dn_tally_at(&gather->tallies[s], cell->id);
                entry->score[DN_SOURCE_RULES] += rule * cell->after;
                entry->score[DN_SOURCE_COVIS] += cosine * cell->near;
                entry->after_last += last * cell->after;
                entry->near_last += first ? cell->near : 0;
            }
        if (first && cells > 0) {
            gather->out->last = i;
            first = false;
        }
    }
}

/* ---- into the catalogue ------------------------------------------------------------------------------ */

/* Room for `max` candidates; those there are move. */
static bool make_room(struct dn_gathered *gathered, size_t max)
{
    struct dn_candidate *list = dn_arena_alloc(gathered->arena, max * sizeof *list);
    struct dn_error ignored;

    if (list == NULL || dn_slot_map_init(&gathered->places, gathered->arena, max, &ignored) != DN_OK)
        return false;
    for (size_t i = 0; i < gathered->count; i++) {
        list[i] = gathered->list[i];
        dn_slot_map_put(&gathered->places, list[i].item.slot, (uint32_t)i);
    }
    gathered->list = list;
    gathered->max = max;
    return true;
}

struct dn_candidate *dn_gathered_at(struct dn_gathered *gathered, const struct dn_item *item)
{
    uint32_t place = dn_slot_map_get(&gathered->places, item->slot);

    if (place != DN_SLOT_NONE)
        return &gathered->list[place];
    if (gathered->count == gathered->max && !make_room(gathered, 2 * gathered->max))
        return NULL;
    dn_slot_map_put(&gathered->places, item->slot, (uint32_t)gathered->count);
    struct dn_candidate *candidate = &gathered->list[gathered->count++];
    *candidate = (struct dn_candidate){.item = *item, .position = DN_POSITION_NONE};
    return candidate;
}

/* False: the arena is full. */
static bool add_entry(struct gather *gather, size_t shard, const struct dn_tally_entry *entry,
                      const struct dn_near_item *named)
{
    const struct dn_pipeline *pipeline = gather->pipeline;
    struct dn_own_counts own = {0};
    struct dn_item item;

    if (dn_catalog_get_hashed(pipeline->world->catalog, named->hash, named->name, named->length, &item) !=
            DN_OK ||
        !dn_pipeline_wants(pipeline, &item))
        return true;
    struct dn_candidate *candidate = dn_gathered_at(gather->out, &item);
    if (candidate == NULL)
        return false;
    for (unsigned source = 0; source < DN_NEAR_SOURCES; source++)
        candidate->score[source] += is_on(gather, source) ? entry->score[source] : 0;
    candidate->after_last += is_on(gather, DN_SOURCE_RULES) ? entry->after_last : 0;
    candidate->near_last += is_on(gather, DN_SOURCE_COVIS) ? entry->near_last : 0;
    if (gather->known.self[shard] != DN_NEAR_NONE)
        own = dn_own_counts_of(&gather->own, &gather->known, shard, entry->id);
    candidate->clicks += dn_own_less((float)named->clicks, own.clicks);
    candidate->recent += dn_own_less(named->recent, own.near);
    candidate->trending += own.clicks > 0
                               ? dn_counters_of_others(gather->pipeline, gather->label, shard, named)
                               : (float)named->trending;
    return true;
}

/* What the session itself had may come again. */
static bool add_recent(struct gather *gather)
{
    struct dn_gathered *out = gather->out;

    for (size_t i = 0; i < out->recent_count && is_on(gather, DN_SOURCE_SESSION); i++) {
        if (!out->recent[i].known || !dn_pipeline_wants(gather->pipeline, &out->recent[i].item))
            continue;
        struct dn_candidate *candidate = dn_gathered_at(out, &out->recent[i].item);
        if (candidate == NULL)
            return false;
        candidate->position = out->recent[i].position;
    }
    return true;
}

/* Of each shard somewhat more than its share: the best of all may lie in a few. */
static size_t share_of(size_t source, size_t shards)
{
    return shards <= 1 ? KEPT[source] : KEPT[source] * 3 / (2 * shards) + 8;
}

/* Entries of a shard. */
struct choice {
    const struct dn_tally_entry **list, **rest;
    size_t good, rest_count;
};

typedef float four __attribute__((vector_size(4 * sizeof(float))));
typedef int32_t four_masks __attribute__((vector_size(4 * sizeof(int32_t))));
_Static_assert(DN_NEAR_SOURCES == 4, "scores of an entry are compared at once");

/* Whether a score is above 0 and reaches the least of its source. */
static bool reaches(const struct dn_tally_entry *entry, const float least[DN_NEAR_SOURCES])
{
    four scores, bound;
    int64_t halves[2];

    memcpy(&scores, entry->score, sizeof scores);
    memcpy(&bound, least, sizeof bound);
    four_masks reached = (scores >= bound) & (scores > 0);
    memcpy(halves, &reached, sizeof halves);
    return (halves[0] | halves[1]) != 0;
}

static bool choose(struct gather *gather, size_t shard, struct choice *ret)
{
    const struct dn_tally *tally = &gather->tallies[shard];
    struct dn_arena *arena = gather->pipeline->arena;
    size_t shards = gather->pipeline->world->shard_count, rest = tally->count;
    float *scratch = dn_arena_alloc(arena, tally->count * sizeof *scratch);
    float least[DN_NEAR_SOURCES], none[DN_NEAR_SOURCES];
    size_t ties[DN_NEAR_SOURCES];

    *ret = (struct choice){.list = dn_arena_alloc(arena, tally->count * sizeof *ret->list)};
    if (scratch == NULL || ret->list == NULL)
        return false;
    for (unsigned source = 0; source < DN_NEAR_SOURCES; source++) {
        least[source] = is_on(gather, source)
                            ? dn_tally_threshold(tally, source, share_of(source, shards), scratch)
                            : INFINITY;
        none[source] = is_on(gather, source) ? 0 : INFINITY;
        ties[source] = TIES * share_of(source, shards);
    }
    for (uint32_t i = 0; i < tally->count; i++) {
        const struct dn_tally_entry *entry = &tally->list[i];
        if (!reaches(entry, least)) {
            /* What only the session itself added is nothing. */
            ret->list[rest - 1] = entry;
            rest -= reaches(entry, none);
            continue;
        }
        bool good = false;
        for (size_t source = 0; source < DN_NEAR_SOURCES && !good; source++) {
            float score = entry->score[source];
            good = score > 0 && (score > least[source] || (score == least[source] && ties[source] > 0));
            ties[source] -= good && score == least[source];
        }
        if (good)
            ret->list[ret->good++] = entry;
        else
            ret->list[--rest] = entry;
    }
    ret->rest = ret->list + rest;
    ret->rest_count = tally->count - rest;
    return true;
}

/* Each look-up misses the cache four times; so that they overlap, each step asks for what a later one reads.
 */
static bool add_entries(struct gather *gather, size_t shard, const struct dn_tally_entry *const *entries,
                        size_t count)
{
    const struct dn_shard *from = gather->pipeline->world->shards[shard];
    const struct dn_catalog *catalog = gather->pipeline->world->catalog;
    struct dn_near_item *named = dn_arena_alloc(gather->pipeline->arena, count * sizeof *named);

    if (named == NULL)
        return false;
    for (size_t i = 0; i < count + 4 * AHEAD; i++) {
        size_t behind = i - AHEAD, name = i - 2 * AHEAD, found = i - 3 * AHEAD, added = i - 4 * AHEAD;
        if (i < count)
            dn_near_prefetch_item(from, entries[i]->id, false);
        if (i >= AHEAD && behind < count)
            dn_near_prefetch_item(from, entries[behind]->id, true);
        if (i >= 2 * AHEAD && name < count) {
            if (!dn_near_item(from, entries[name]->id, &named[name]))
                named[name].name = NULL;
            else
                dn_catalog_prefetch(catalog, named[name].hash, false);
        }
        if (i >= 3 * AHEAD && found < count && named[found].name != NULL)
            dn_catalog_prefetch(catalog, named[found].hash, true);
        if (i >= 4 * AHEAD && named[added].name != NULL &&
            !add_entry(gather, shard, entries[added], &named[added]))
            return false;
    }
    return true;
}

/* The good entries of all shards; where they leave too few candidates, the rest as well. */
static bool merge(struct gather *gather, const struct choice *choices)
{
    const struct dn_pipeline *pipeline = gather->pipeline;
    size_t shards = pipeline->world->shard_count, room = DN_RECENT_MAX;

    for (size_t s = 0; s < shards; s++)
        room += choices[s].good;
    if (!make_room(gather->out, room) || !add_recent(gather))
        return false;
    for (size_t s = 0; s < shards; s++)
        if (!add_entries(gather, s, choices[s].list, choices[s].good))
            return false;
    /* All or none: what came of some shards alone would not compare with what came of all. */
    bool few = gather->out->count < WANTED * pipeline->k;
    for (size_t s = 0; s < shards && few; s++) {
        size_t rest = choices[s].rest_count < REST_MAX / shards ? choices[s].rest_count : REST_MAX / shards;
        if (!add_entries(gather, s, choices[s].rest, rest))
            return false;
    }
    return true;
}

/* What is clicked rarely says more where it is shared; what is near everything is near nothing. */
static void weigh(struct gather *gather)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    float users = 1;

    for (size_t s = 0; s < world->shard_count; s++) {
        struct dn_shard_stats stats;
        dn_shard_stats(world->shards[s], &stats);
        users += (float)stats.users - (gather->known.self[s] != DN_NEAR_NONE ? 1 : 0);
    }
    for (size_t i = 0; i < gather->out->count; i++) {
        struct dn_candidate *candidate = &gather->out->list[i];
        float rare = logf(users / (candidate->clicks + 1));
        rare = rare > 0.1f ? rare : 0.1f;
        candidate->score[DN_SOURCE_VMIS] *= rare;
        candidate->score[DN_SOURCE_VSTAN] *= 1 + 0.2f * rare;
        candidate->score[DN_SOURCE_COVIS] /= sqrtf(candidate->recent + 1);
    }
}

static bool add_near(struct gather *gather)
{
    size_t shards = gather->pipeline->world->shard_count;
    struct choice choices[DN_GATHER_SHARDS_MAX];

    bool neighbours = is_on(gather, DN_SOURCE_VSTAN) || is_on(gather, DN_SOURCE_VMIS);
    if (neighbours && !dn_neighbours_read(gather->pipeline, gather->out, &gather->known, &gather->neighbours))
        return false;
    uint32_t longest = 0;
    for (size_t n = 0; n < gather->neighbours.count; n++)
        longest = gather->neighbours.list[n].count > longest ? gather->neighbours.list[n].count : longest;
    for (unsigned d = 0; d < longest; d++)
        gather->near_distance[d] = expf(-(float)d / VSTAN_DISTANCE);
    if (!read_rows(gather) || !make_tallies(gather))
        return false;
    for (size_t n = 0; n < gather->neighbours.count; n++)
        add_neighbour(gather, n);
    add_rows(gather);
    for (size_t s = 0; s < shards; s++)
        if (!choose(gather, s, &choices[s]))
            return false;
    if (!merge(gather, choices))
        return false;
    weigh(gather);
    return true;
}

static enum dn_code add_vectors(struct gather *gather, struct dn_error *err)
{
    struct dn_gathered *out = gather->out;
    struct dn_offers offers = {0};

    if (!is_on(gather, DN_SOURCE_VECTOR))
        return DN_OK;
    enum dn_code code = dn_source_session_vector(gather->pipeline, &offers, err);
    if (code != DN_OK || offers.count == 0)
        return code;
    if (out->max < out->count + offers.count && !make_room(out, out->count + offers.count))
        return dn_arena_full(err);
    for (size_t i = 0; i < offers.count; i++) {
        struct dn_candidate *candidate = dn_gathered_at(out, &offers.list[i].item);
        if (candidate == NULL)
            return dn_arena_full(err);
        candidate->score[DN_SOURCE_VECTOR] = 1 + offers.list[i].score; /* a cosine: 0 to 2 */
    }
    return DN_OK;
}

enum dn_code dn_gather(const struct dn_pipeline *pipeline, const struct dn_label *label,
                       struct dn_gathered *ret, struct dn_error *err)
{
    *ret = (struct dn_gathered){.arena = pipeline->arena};
    if (pipeline->query == NULL || pipeline->query->session == NULL)
        return DN_OK;
    DN_ASSERT(pipeline->world->shard_count <= DN_GATHER_SHARDS_MAX);
    struct gather *gather = dn_arena_zalloc(pipeline->arena, sizeof *gather);
    if (gather == NULL)
        return dn_arena_full(err);
    gather->pipeline = pipeline;
    gather->label = label;
    gather->out = ret;
    read_recent(pipeline->query->session, ret);
    find_known(gather);
    dn_own_read(pipeline, ret, label, &gather->own);
    if (ret->recent_count > 0 && !add_near(gather))
        return dn_arena_full(err);
    return add_vectors(gather, err);
}
