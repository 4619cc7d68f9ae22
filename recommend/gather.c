/* What the shards' tables say of a session: gather.h.
 *
 * The happy path: the session's newest items are looked up in each shard; the best of their newest visitors
 * are read and add what they clicked around the same item (neighbours.c); rows of the newest items add what
 * followed them and what came near. Each shard's best are looked up in the catalogue, and added up over the
 * shards. Then come what the session itself had, and what is nearest by vectors. */
#include "recommend/gather.h"
#include "recommend/counters.h"
#include "recommend/neighbours.h"
#include "recommend/tally.h"

#include <math.h>
#include <string.h>

#define RULES_ITEMS 3u
#define RULES_DECAY 0.4f /* from one item to the one before it */
#define RULES_PRIOR 3.0f /* events that say nothing, beside what is known of a row */
#define AHEAD 4u         /* steps between asking for memory and reading it */
#define ROWS_MAX 5u      /* newest items whose rows are read */
#define VSTAN_DISTANCE                                                                                       \
    2.0f               /* what a neighbour clicked falls to 1/e in so many visits from the shared one        \
                        */
#define LEFT_MIN 1e-3f /* less than that is left of nothing, by rounding */
/* Room for so many times a source's share: neighbours' scores are often equal. */
#define TIES 4u
#define EVENTS_MAX 64u /* of the session, that are taken out of the tables again */

static const size_t KEPT[DN_NEAR_SOURCES] = {
    [DN_SOURCE_VSTAN] = 200, [DN_SOURCE_VMIS] = 150, [DN_SOURCE_RULES] = 120, [DN_SOURCE_COVIS] = 100};

/* The row of one newest item in one shard. */
struct row {
    struct dn_near_cell *cells;
    struct dn_near_row sums;
    size_t own_cells; /* of which nothing is left without the session itself */
};

/* Clicks of the session that the tables have, and of the label: the same request gets the same answer whether
 * they are counted already or not, and nobody is recommended what only they themselves did. */
struct own {
    float after[ROWS_MAX][DN_RECENT_MAX],
        near[ROWS_MAX][DN_RECENT_MAX]; /* cells: row of a newest item, cell of another */
    float label_after[ROWS_MAX], label_near[ROWS_MAX];
    float after_sum[ROWS_MAX], near_sum[DN_RECENT_MAX]; /* of rows */
    float label_near_sum;
    float clicks[DN_RECENT_MAX], label_clicks;
};

#define IS_LABEL DN_RECENT_MAX
#define IS_OTHER (DN_RECENT_MAX + 1)   /* an item that is not among the newest */
#define IS_NOTHING (DN_RECENT_MAX + 2) /* an event that the tables do not count */

struct gather {
    const struct dn_pipeline *pipeline;
    const struct dn_label *label;
    struct dn_gathered *out;
    struct dn_known known;
    struct dn_neighbours neighbours;
    struct row rows[ROWS_MAX][DN_GATHER_SHARDS_MAX];
    struct own own;
    size_t vectors_max;
    struct dn_tally tallies[DN_GATHER_SHARDS_MAX];
    float near_distance[DN_NEIGHBOUR_AROUND + 1]; /* exp(-d / VSTAN_DISTANCE) */
};

static bool is_on(const struct gather *gather, unsigned source)
{
    const struct dn_pipeline *pipeline = gather->pipeline;

    return ((pipeline->query->sources_off | pipeline->settings->sources_off) & 1u << source) == 0;
}

/* ---- the session ------------------------------------------------------------------------------------- */

static bool counts(const struct dn_event_view *event)
{
    return event->type != DN_EVENT_DISLIKE && event->type != DN_EVENT_REMOVE;
}

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
        else if (out->recent_count < DN_RECENT_MAX && counts(event))
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

/* ---- what the session itself added ------------------------------------------------------------------- */

/* An older event and one after it: as session/near.c counts them. */
static void own_pair(struct own *own, uint8_t older, uint8_t newer, float after)
{
    if (older < ROWS_MAX) {
        own->after_sum[older] += after;
        if (newer < DN_RECENT_MAX)
            own->after[older][newer] += after;
        else if (newer == IS_LABEL)
            own->label_after[older] += after;
    }
    if (older == newer && older != IS_OTHER)
        return;
    if (older < DN_RECENT_MAX)
        own->near_sum[older]++;
    if (newer < DN_RECENT_MAX)
        own->near_sum[newer]++;
    if (newer == IS_LABEL || older == IS_LABEL)
        own->label_near_sum++;
    if (older < ROWS_MAX && newer < DN_RECENT_MAX)
        own->near[older][newer]++;
    else if (older < ROWS_MAX && newer == IS_LABEL)
        own->label_near[older]++;
    if (newer < ROWS_MAX && older < DN_RECENT_MAX)
        own->near[newer][older]++;
    else if (newer < ROWS_MAX && older == IS_LABEL)
        own->label_near[newer]++;
}

/* In whole parts, as the tables have it. */
static float after_at(size_t distance)
{
    uint32_t parts = DN_NEAR_AFTER_ONE / (uint32_t)distance;

    return (float)parts / DN_NEAR_AFTER_ONE;
}

static void read_own(struct gather *gather, struct own *own)
{
    const struct dn_session_view *session = gather->pipeline->query->session;
    const struct dn_label *label = gather->label;
    uint8_t which[EVENTS_MAX + 1];
    size_t count = 0;

    *own = (struct own){0};
    if (label != NULL) {
        struct dn_event_view event = {
            .item = label->name, .item_length = label->length, .item_hash = label->hash};
        const struct dn_recent *recent = recent_of(gather->out, &event);
        which[count++] = recent != NULL ? (uint8_t)(recent - gather->out->recent) : IS_LABEL;
    }
    /* An anchor is no click: the tables do not have it. */
    size_t made =
        session->event_count - (gather->pipeline->query->anchor != NULL && session->event_count > 0 ? 1 : 0);
    for (size_t i = made; i-- > 0 && session->events[i].current && count < EVENTS_MAX;) {
        const struct dn_event_view *event = &session->events[i];
        const struct dn_recent *recent = recent_of(gather->out, event);
        bool is_labels =
            label != NULL && label->hash == event->item_hash && label->length == event->item_length;
        which[count++] = !counts(event)   ? IS_NOTHING
                         : recent != NULL ? (uint8_t)(recent - gather->out->recent)
                         : is_labels      ? IS_LABEL
                                          : IS_OTHER;
    }
    for (size_t i = 0; i < count; i++) {
        if (which[i] < DN_RECENT_MAX)
            own->clicks[which[i]]++;
        own->label_clicks += which[i] == IS_LABEL;
        for (size_t d = 1; d <= DN_NEAR_WINDOW && i + d < count; d++)
            if (which[i] != IS_NOTHING && which[i + d] != IS_NOTHING)
                own_pair(own, which[i + d], which[i], after_at(d));
    }
}

static bool is_label(const struct gather *gather, const struct dn_near_item *named)
{
    const struct dn_label *label = gather->label;

    return label != NULL && label->hash == named->hash && label->length == named->length &&
           memcmp(label->name, named->name, label->length) == 0;
}

static float less(float value, float by)
{
    return value - by > LEFT_MIN ? value - by : 0;
}

/* Takes it out of the row of the newest item i in the shard where the user lives. */
static void forget_own(struct gather *gather, size_t i, size_t shard)
{
    const struct own *own = &gather->own;
    struct row *row = &gather->rows[i][shard];
    const uint32_t *ids = gather->known.items[shard];

    row->sums.after_sum = less(row->sums.after_sum, own->after_sum[i]);
    row->sums.near_sum = less(row->sums.near_sum, own->near_sum[i]);
    for (size_t n = 0; n < row->sums.count; n++) {
        struct dn_near_cell *cell = &row->cells[n];
        float after = 0, near = 0;
        for (size_t j = 0; j < gather->out->recent_count; j++)
            if (ids[j] == cell->id) {
                after = own->after[i][j];
                near = own->near[i][j];
            }
        if (gather->label != NULL && cell->id == gather->known.label[shard]) {
            after += own->label_after[i];
            near += own->label_near[i];
        }
        if (after == 0 && near == 0)
            continue;
        cell->after = less(cell->after, after);
        cell->near = less(cell->near, near);
        row->own_cells += cell->after == 0 && cell->near == 0;
    }
}

/* ---- rows and neighbours into tallies ---------------------------------------------------------------- */

static size_t row_count(const struct gather *gather)
{
    if (!is_on(gather, DN_SOURCE_RULES) && !is_on(gather, DN_SOURCE_COVIS))
        return 0;
    return gather->out->recent_count < ROWS_MAX ? gather->out->recent_count : ROWS_MAX;
}

static bool read_rows(struct gather *gather)
{
    const struct dn_recommend_world *world = gather->pipeline->world;
    struct dn_near_cell scratch[DN_NEAR_CELLS_MAX];

    for (size_t i = 0; i < row_count(gather); i++)
        for (size_t s = 0; s < world->shard_count; s++) {
            struct row *row = &gather->rows[i][s];
            if (gather->known.items[s][i] == DN_NEAR_NONE)
                continue;
            dn_near_row(world->shards[s], gather->known.items[s][i], scratch, DN_NEAR_CELLS_MAX, &row->sums);
            row->cells =
                dn_arena_memdup(gather->pipeline->arena, scratch, row->sums.count * sizeof *scratch + 1);
            if (row->cells == NULL)
                return false;
            if (gather->known.self[s] != DN_NEAR_NONE)
                forget_own(gather, i, s);
        }
    return true;
}

static bool make_tallies(struct gather *gather)
{
    size_t max[DN_GATHER_SHARDS_MAX] = {0};

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

static bool was_before(const struct dn_near_visit *visits, uint32_t at)
{
    for (uint32_t i = 0; i < at; i++)
        if (visits[i].id == visits[at].id)
            return true;
    return false;
}

static void add_neighbour(struct gather *gather, const struct dn_neighbour *from)
{
    struct dn_tally *tally = &gather->tallies[from->shard];

    for (uint32_t i = 0; i < from->count && (from->vmis > 0 || from->vstan > 0); i++) {
        uint32_t distance = i > from->matched ? i - from->matched : from->matched - i;
        if (was_before(from->visits, i) || from->visits[i].type == DN_EVENT_DISLIKE ||
            from->visits[i].type == DN_EVENT_REMOVE)
            continue;
        struct dn_tally_entry *entry = dn_tally_at(tally, from->visits[i].id);
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
        struct row *rows = gather->rows[i];
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
        first = first && cells == 0;
    }
}

/* ---- into the catalogue ------------------------------------------------------------------------------ */

struct dn_candidate *dn_gathered_at(struct dn_gathered *gathered, const struct dn_item *item)
{
    uint32_t place = dn_slot_map_get(&gathered->places, item->slot);

    if (place != DN_SLOT_NONE)
        return &gathered->list[place];
    if (gathered->count == gathered->max)
        return NULL;
    dn_slot_map_put(&gathered->places, item->slot, (uint32_t)gathered->count);
    struct dn_candidate *candidate = &gathered->list[gathered->count++];
    *candidate =
        (struct dn_candidate){.item = *item, .position = DN_POSITION_NONE, .which = DN_POSITION_NONE};
    return candidate;
}

static void add_entry(struct gather *gather, size_t shard, const struct dn_tally_entry *entry,
                      const struct dn_near_item *named)
{
    const struct dn_pipeline *pipeline = gather->pipeline;
    struct dn_item item;

    if (dn_catalog_get_hashed(pipeline->world->catalog, named->hash, named->name, named->length, &item) !=
            DN_OK ||
        !dn_pipeline_wants(pipeline, &item))
        return;
    struct dn_candidate *candidate = dn_gathered_at(gather->out, &item);
    if (candidate == NULL)
        return;
    for (unsigned source = 0; source < DN_NEAR_SOURCES; source++)
        candidate->score[source] += is_on(gather, source) ? entry->score[source] : 0;
    candidate->after_last += entry->after_last;
    candidate->near_last += entry->near_last;
    float own_clicks = 0, own_near = 0;
    if (gather->known.self[shard] != DN_NEAR_NONE && candidate->which != DN_POSITION_NONE) {
        own_clicks = gather->own.clicks[candidate->which];
        own_near = gather->own.near_sum[candidate->which];
    } else if (gather->known.self[shard] != DN_NEAR_NONE && is_label(gather, named)) {
        own_clicks = gather->own.label_clicks;
        own_near = gather->own.label_near_sum;
    }
    candidate->clicks += less((float)named->clicks, own_clicks);
    candidate->recent += less(named->recent, own_near);
    candidate->trending += own_clicks > 0
                               ? dn_counters_of_others(gather->pipeline, gather->label, shard, named)
                               : (float)named->trending;
}

/* What the session itself had may come again. */
static void add_recent(struct gather *gather)
{
    struct dn_gathered *out = gather->out;

    for (size_t i = 0; i < out->recent_count && is_on(gather, DN_SOURCE_SESSION); i++) {
        if (!out->recent[i].known || !dn_pipeline_wants(gather->pipeline, &out->recent[i].item))
            continue;
        struct dn_candidate *candidate = dn_gathered_at(out, &out->recent[i].item);
        if (candidate == NULL)
            continue;
        candidate->position = out->recent[i].position;
        candidate->which = (uint32_t)i;
    }
}

/* Of each shard somewhat more than its share: the best of all may lie in a few. */
static size_t share_of(size_t source, size_t shards)
{
    return shards <= 1 ? KEPT[source] : KEPT[source] * 3 / (2 * shards) + 8;
}

/* Each look-up misses the cache four times; so that they overlap, each step asks for what a later one reads.
 */
static bool add_entries(struct gather *gather, size_t shard, const struct dn_tally_entry *const *entries,
                        size_t count)
{
    const struct dn_shard *from = gather->pipeline->world->shards[shard];
    const struct dn_catalog *catalog = gather->pipeline->world->catalog;
    struct dn_near_item *named = dn_arena_alloc(gather->pipeline->arena, (count + 1) * sizeof *named);

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
        if (i >= 4 * AHEAD && named[added].name != NULL)
            add_entry(gather, shard, entries[added], &named[added]);
    }
    return true;
}

static bool merge_shard(struct gather *gather, size_t shard, size_t shards)
{
    const struct dn_tally *tally = &gather->tallies[shard];
    struct dn_arena *arena = gather->pipeline->arena;
    float *scratch = dn_arena_alloc(arena, (tally->count + 1) * sizeof *scratch);
    const struct dn_tally_entry **entries = dn_arena_alloc(arena, (tally->count + 1) * sizeof(void *));
    float least[DN_NEAR_SOURCES];
    size_t count = 0;

    if (scratch == NULL || entries == NULL)
        return false;
    for (unsigned source = 0; source < DN_NEAR_SOURCES; source++)
        least[source] = is_on(gather, source)
                            ? dn_tally_threshold(tally, source, share_of(source, shards), scratch)
                            : INFINITY;
    for (uint32_t i = 0; i < tally->count; i++) {
        const struct dn_tally_entry *entry = &tally->list[i];
        bool good = false;
        for (size_t source = 0; source < DN_NEAR_SOURCES && !good; source++)
            good = entry->score[source] > 0 && entry->score[source] >= least[source];
        if (good)
            entries[count++] = entry;
    }
    return add_entries(gather, shard, entries, count);
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

static enum dn_code add_near(struct gather *gather, struct dn_error *err)
{
    const struct dn_recommend_world *world = gather->pipeline->world;

    for (unsigned d = 0; d <= DN_NEIGHBOUR_AROUND; d++)
        gather->near_distance[d] = expf(-(float)d / VSTAN_DISTANCE);
    bool neighbours = is_on(gather, DN_SOURCE_VSTAN) || is_on(gather, DN_SOURCE_VMIS);
    if (neighbours && !dn_neighbours_read(gather->pipeline, gather->out, &gather->known, &gather->neighbours))
        return dn_arena_full(err);
    if (!read_rows(gather) || !make_tallies(gather))
        return dn_arena_full(err);
    for (size_t n = 0; n < gather->neighbours.count; n++)
        add_neighbour(gather, &gather->neighbours.list[n]);
    add_rows(gather);
    for (size_t s = 0; s < world->shard_count; s++)
        if (!merge_shard(gather, s, world->shard_count))
            return dn_arena_full(err);
    weigh(gather);
    return DN_OK;
}

static enum dn_code add_vectors(struct gather *gather, struct dn_error *err)
{
    struct dn_offers offers = {0};

    if (!is_on(gather, DN_SOURCE_VECTOR))
        return DN_OK;
    gather->out->max += gather->vectors_max;
    enum dn_code code = dn_source_session_vector(gather->pipeline, &offers, err);
    for (size_t i = 0; i < offers.count && code == DN_OK; i++) {
        struct dn_candidate *candidate = dn_gathered_at(gather->out, &offers.list[i].item);
        if (candidate != NULL)
            candidate->score[DN_SOURCE_VECTOR] = 1 + offers.list[i].score; /* a cosine: 0 to 2 */
    }
    return code;
}

static enum dn_code make_room(struct gather *gather, struct dn_error *err)
{
    const struct dn_pipeline *pipeline = gather->pipeline;
    struct dn_gathered *out = gather->out;
    size_t shards = pipeline->world->shard_count;

    size_t vectors = dn_session_vector_max(pipeline);
    out->max = 0;
    for (size_t source = 0; source < DN_NEAR_SOURCES; source++)
        out->max += TIES * share_of(source, shards) * shards;
    out->max += DN_RECENT_MAX;
    /* What comes last has its room for itself. */
    out->list = dn_arena_alloc(pipeline->arena, (out->max + vectors) * sizeof *out->list);
    gather->vectors_max = vectors;
    return out->list == NULL ? dn_arena_full(err)
                             : dn_slot_map_init(&out->places, pipeline->arena, out->max + vectors, err);
}

enum dn_code dn_gather(const struct dn_pipeline *pipeline, const struct dn_label *label,
                       struct dn_gathered *ret, struct dn_error *err)
{
    *ret = (struct dn_gathered){0};
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
    enum dn_code code = make_room(gather, err);
    if (code != DN_OK)
        return code;
    find_known(gather);
    read_own(gather, &gather->own);
    add_recent(gather);
    if (ret->recent_count > 0)
        code = add_near(gather, err);
    return code == DN_OK ? add_vectors(gather, err) : code;
}
