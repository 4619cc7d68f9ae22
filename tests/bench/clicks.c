/* What runs a world: sessions begin at random, by day more than by night; the one whose click is next is at
 * the top of a heap; its item is drawn, told, and counted for the bound. */
#include "tests/bench/clicks_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS_MAX 200      /* for an item that may come next; then the session ends */
#define DAY_SHARE 0.7      /* by how much the busiest hour is above the average */
#define PAUSE_MAX_S 1500.0 /* below the half hour after which shops begin another session */
#define GROUP_SIGMA 0.7    /* of the sizes of groups: log-normal */
#define GROUP_ITEMS_MIN 4u
#define POOL_MAX (1u << 24)
#define PI 3.14159265358979323846

/* ---- random numbers ---------------------------------------------------------------------------------- */

uint64_t mix(uint64_t x) /* splitmix64: Steele, Lea, Flood, 2014 */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t next_random(struct clicks *clicks)
{
    uint64_t random = mix(clicks->random);

    clicks->random += 0x9e3779b97f4a7c15u;
    return random;
}

double next_share(struct clicks *clicks)
{
    return (double)(next_random(clicks) >> 11) / 9007199254740992.0;
}

double next_normal(struct clicks *clicks)
{
    double u = 1 - next_share(clicks), v = next_share(clicks);

    return sqrt(-2 * log(u)) * cos(2 * PI * v);
}

bool zipf_open(struct zipf *zipf, double exponent, uint32_t max)
{
    double sum = 0;

    zipf->max = max;
    zipf->sums = malloc(max * sizeof *zipf->sums);
    for (uint32_t i = 0; zipf->sums != NULL && i < max; i++)
        zipf->sums[i] = sum += pow(i + 1, -exponent);
    return zipf->sums != NULL;
}

uint32_t zipf_draw(struct clicks *clicks, const struct zipf *zipf, uint32_t count)
{
    double wanted = next_share(clicks) * zipf->sums[count - 1];
    uint32_t from = 0, to = count - 1;

    while (from < to) { /* the first whose sum is above */
        uint32_t middle = from + (to - from) / 2;
        if (zipf->sums[middle] > wanted)
            to = middle;
        else
            from = middle + 1;
    }
    return from;
}

double zipf_share(const struct zipf *zipf, uint32_t rank, uint32_t count)
{
    return (zipf->sums[rank] - (rank > 0 ? zipf->sums[rank - 1] : 0)) / zipf->sums[count - 1];
}

/* ---- groups ------------------------------------------------------------------------------------------ */

uint32_t group_of(const struct clicks *clicks, uint32_t item)
{
    uint32_t from = 0, to = clicks->group_count - 1;

    while (from < to) { /* the last that begins at it or before it */
        uint32_t middle = to - (to - from) / 2;
        if (clicks->starts[middle] <= item)
            from = middle;
        else
            to = middle - 1;
    }
    return from;
}

/* Sizes: log-normal, scaled to the number of items. False: no memory. */
static bool groups_cut(struct clicks *clicks)
{
    uint32_t count = clicks->group_count, spare = clicks->options.items - count * GROUP_ITEMS_MIN;
    double *sums = malloc(count * sizeof *sums), sum = 0;

    clicks->starts = calloc(count + 1, sizeof *clicks->starts);
    if (sums == NULL || clicks->starts == NULL) {
        free(sums);
        return false;
    }
    for (uint32_t g = 0; g < count; g++)
        sums[g] = sum += exp(GROUP_SIGMA * next_normal(clicks));
    for (uint32_t g = 0; g < count; g++)
        clicks->starts[g + 1] = (g + 1) * GROUP_ITEMS_MIN + (uint32_t)((double)spare * sums[g] / sum);
    clicks->starts[count] = clicks->options.items;
    free(sums);
    return true;
}

bool groups_open(struct clicks *clicks, uint32_t size, double among, double within)
{
    uint32_t count = clicks->options.items / size, largest = 1;

    clicks->group_count = count = count > 0 ? count : 1;
    clicks->groups = malloc(count * sizeof *clicks->groups);
    clicks->ranks = malloc(count * sizeof *clicks->ranks);
    if (clicks->groups == NULL || clicks->ranks == NULL || !groups_cut(clicks) ||
        !zipf_open(&clicks->among, among, count))
        return false;
    for (uint32_t g = 0; g < count; g++) {
        clicks->groups[g] = g;
        largest = group_size(clicks, g) > largest ? group_size(clicks, g) : largest;
    }
    for (uint32_t g = count; g-- > 1;) {
        uint32_t with = (uint32_t)(next_random(clicks) % (g + 1)), swap = clicks->groups[g];
        clicks->groups[g] = clicks->groups[with];
        clicks->groups[with] = swap;
    }
    if (!zipf_open(&clicks->within, within, largest))
        return false;
    for (uint32_t rank = 0; rank < count; rank++) {
        uint32_t group = clicks->groups[rank], items = group_size(clicks, group);
        clicks->ranks[group] = rank;
        for (uint32_t i = 0; i < items && i < BEST; i++)
            best_add(&clicks->everywhere, clicks->starts[group] + i,
                     zipf_share(&clicks->among, rank, count) * zipf_share(&clicks->within, i, items));
    }
    return true;
}

/* ---- the bound --------------------------------------------------------------------------------------- */

void best_add(struct best *best, uint32_t item, double share)
{
    uint32_t at = best->count;

    if (at == BEST && share <= best->shares[at - 1])
        return;
    if (at < BEST)
        best->count++;
    else
        at--;
    for (; at > 0 && best->shares[at - 1] < share; at--) {
        best->items[at] = best->items[at - 1];
        best->shares[at] = best->shares[at - 1];
    }
    best->items[at] = item;
    best->shares[at] = share;
}

static struct candidate *candidate_of(struct clicks *clicks, uint32_t item)
{
    uint32_t at = (uint32_t)mix(item) % CANDIDATES;

    while (clicks->candidates[at].stamp == clicks->stamp && clicks->candidates[at].item != item)
        at = (at + 1) % CANDIDATES;
    return &clicks->candidates[at];
}

void chance_add(struct clicks *clicks, uint32_t item, double chance)
{
    struct candidate *candidate = candidate_of(clicks, item);

    if (candidate->stamp != clicks->stamp)
        *candidate = (struct candidate){.item = item, .stamp = clicks->stamp};
    candidate->chance += chance;
}

void chances_add(struct clicks *clicks, const struct best *best, double chance)
{
    for (uint32_t i = 0; i < best->count; i++)
        chance_add(clicks, best->items[i], chance * best->shares[i]);
}

static bool may_come(const struct clicks *clicks, const struct session *session, uint32_t item)
{
    if (session->count > 0 && last_item(session) == item)
        return false;
    for (uint32_t i = 0; clicks->world->once && i < session->count; i++)
        if (session->items[i] == item)
            return false;
    return true;
}

/* The place of the item that came, among all that may have come. */
static void bound_count(struct clicks *clicks, const struct session *session, uint32_t item)
{
    struct candidate came = *candidate_of(clicks, item);
    uint32_t place = 1;

    clicks->bound.predictions++;
    if (came.stamp != clicks->stamp)
        return;
    for (uint32_t i = 0; i < CANDIDATES && place <= CLICKS_K; i++) {
        const struct candidate *other = &clicks->candidates[i];
        if (other->stamp == clicks->stamp && other->item != item &&
            (other->chance > came.chance || (other->chance == came.chance && other->item < item)) &&
            may_come(clicks, session, other->item))
            place++;
    }
    if (place <= CLICKS_K) {
        clicks->bound.hr++;
        clicks->bound.mrr += 1.0 / place;
    }
}

void clicks_bound(const struct clicks *clicks, struct clicks_bound *ret)
{
    double count = clicks->bound.predictions > 0 ? (double)clicks->bound.predictions : 1;

    *ret = clicks->bound;
    ret->hr /= count;
    ret->mrr /= count;
}

/* ---- sessions under way ------------------------------------------------------------------------------ */

static bool is_sooner(const struct clicks *clicks, uint32_t a, uint32_t b)
{
    const struct session *x = &clicks->pool[a], *y = &clicks->pool[b];

    return x->next_ms != y->next_ms ? x->next_ms < y->next_ms : x->number < y->number;
}

static void heap_sink(struct clicks *clicks)
{
    uint32_t at = 0, down = clicks->heap[0];

    for (uint32_t child; (child = 2 * at + 1) < clicks->heap_size; at = child) {
        if (child + 1 < clicks->heap_size && is_sooner(clicks, clicks->heap[child + 1], clicks->heap[child]))
            child++;
        if (!is_sooner(clicks, clicks->heap[child], down))
            break;
        clicks->heap[at] = clicks->heap[child];
    }
    clicks->heap[at] = down;
}

static void heap_push(struct clicks *clicks, uint32_t session)
{
    uint32_t at = clicks->heap_size++;

    for (; at > 0 && is_sooner(clicks, session, clicks->heap[(at - 1) / 2]); at = (at - 1) / 2)
        clicks->heap[at] = clicks->heap[(at - 1) / 2];
    clicks->heap[at] = session;
}

static bool pool_grow(struct clicks *clicks)
{
    uint32_t old = clicks->pool_size, wanted = old == 0 ? 1024 : 2 * old;
    struct session *pool = wanted <= POOL_MAX ? realloc(clicks->pool, wanted * sizeof *pool) : NULL;

    if (pool == NULL)
        return false;
    clicks->pool = pool;
    uint32_t *heap = realloc(clicks->heap, wanted * sizeof *heap);
    clicks->heap = heap != NULL ? heap : clicks->heap;
    uint32_t *spare = realloc(clicks->free, wanted * sizeof *spare);
    clicks->free = spare != NULL ? spare : clicks->free;
    if (heap == NULL || spare == NULL)
        return false;
    clicks->pool_size = wanted;
    for (uint32_t i = wanted; i-- > old;)
        clicks->free[clicks->free_size++] = i;
    return true;
}

/* The busiest hour is twelve hours from the quietest. */
static int64_t next_start(struct clicks *clicks)
{
    double days = (double)(clicks->now_ms - clicks->start_ms) / (double)DAY_MS;
    double per_ms = (double)clicks->options.sessions / (double)(clicks->end_ms - clicks->start_ms);
    double busy = 1 + DAY_SHARE * sin(2 * PI * days);

    return clicks->next_start_ms + (int64_t)(-log(1 - next_share(clicks)) / (per_ms * busy));
}

static bool session_begin(struct clicks *clicks)
{
    const struct world *world = clicks->world;

    if (clicks->free_size == 0 && !pool_grow(clicks))
        return false;
    uint32_t at = clicks->free[--clicks->free_size];
    struct session *session = &clicks->pool[at];
    double length = exp(log(world->length_median) + world->length_sigma * next_normal(clicks)) + 0.5;

    session->next_ms = clicks->now_ms = clicks->next_start_ms;
    session->user = session->number = clicks->sessions++;
    session->left = length < 1 ? 1 : length > LENGTH_MAX ? LENGTH_MAX : (uint32_t)length;
    session->count = 0;
    session->group = GROUP_NONE;
    session->counts = session->next_ms >= clicks->bound_from_ms;
    if (world->begin != NULL)
        world->begin(clicks, session);
    heap_push(clicks, at);
    clicks->next_start_ms = next_start(clicks);
    return true;
}

/* False: nothing that may come was drawn. */
static bool click_draw(struct clicks *clicks, struct session *session)
{
    const struct world *world = clicks->world;
    bool counts = session->counts && session->count > 0;
    uint32_t item = 0;
    int draws = 0;

    if (world->move != NULL)
        world->move(clicks, session);
    if (counts) {
        clicks->stamp++;
        world->weigh(clicks, session);
    }
    do
        item = world->draw(clicks, session);
    while (!may_come(clicks, session, item) && ++draws < DRAWS_MAX);
    if (draws == DRAWS_MAX)
        return false;
    if (counts)
        bound_count(clicks, session, item);
    session->items[session->count++] = item;
    if (world->took != NULL)
        world->took(clicks, session);
    return true;
}

static float price_of(const struct clicks *clicks, uint32_t item)
{
    double u = (double)(mix(item + 1) >> 40) / 16777216.0,
           v = (double)(mix(group_of(clicks, item)) >> 40) / 16777216.0;

    return (float)(round(100 * exp(1 + 4 * v + u)) / 100); /* most of it is the category's */
}

bool clicks_next(struct clicks *clicks, struct clicks_click *ret)
{
    const struct world *world = clicks->world;

    for (;;) {
        bool starts = clicks->next_start_ms < clicks->end_ms;
        if (clicks->heap_size == 0 && !starts)
            return false;
        if (starts &&
            (clicks->heap_size == 0 || clicks->next_start_ms <= clicks->pool[clicks->heap[0]].next_ms)) {
            if (!session_begin(clicks))
                return false;
            continue;
        }
        uint32_t at = clicks->heap[0];
        struct session *session = &clicks->pool[at];
        clicks->now_ms = session->next_ms;
        bool drawn = clicks->now_ms < clicks->end_ms && click_draw(clicks, session);
        double pause_s = exp(log(world->pause_median_s) + world->pause_sigma * next_normal(clicks));
        session->next_ms += 1 + (int64_t)(1000 * (pause_s < PAUSE_MAX_S ? pause_s : PAUSE_MAX_S));
        if (!drawn || --session->left == 0) {
            clicks->heap[0] = clicks->heap[--clicks->heap_size];
            clicks->free[clicks->free_size++] = at;
        }
        if (drawn)
            *ret = (struct clicks_click){clicks->now_ms, session->user, session->number, last_item(session),
                                         world->prices ? price_of(clicks, last_item(session)) : NAN};
        if (clicks->heap_size > 0)
            heap_sink(clicks);
        if (drawn)
            return true;
    }
}

/* ---- life -------------------------------------------------------------------------------------------- */

const char *clicks_world_name(unsigned world)
{
    return world < CLICKS_WORLDS ? clicks_worlds[world].name : NULL;
}

void clicks_options_default(enum clicks_world world, struct clicks_options *ret)
{
    const struct world *of = &clicks_worlds[world];

    *ret = (struct clicks_options){.world = world,
                                   .items = of->items,
                                   .sessions = of->sessions,
                                   .days = of->days,
                                   .seed = 1,
                                   .bound_from = 0.9};
}

struct clicks *clicks_open(const struct clicks_options *options)
{
    if ((unsigned)options->world >= CLICKS_WORLDS || options->items < 100 ||
        options->items > CLICKS_ITEMS_MAX || options->sessions < 1 ||
        options->sessions > CLICKS_SESSIONS_MAX || options->days < 1 || options->days > CLICKS_DAYS_MAX ||
        !(options->bound_from >= 0 && options->bound_from <= 1))
        return NULL;
    struct clicks *clicks = calloc(1, sizeof *clicks);
    if (clicks == NULL)
        return NULL;
    clicks->options = *options;
    clicks->world = &clicks_worlds[options->world];
    clicks->random = mix(options->seed);
    clicks->start_ms = clicks->now_ms = clicks->next_start_ms = CLICKS_START_MS;
    clicks->end_ms = clicks->start_ms + options->days * DAY_MS;
    clicks->bound_from_ms =
        clicks->start_ms + (int64_t)(options->bound_from * (double)(clicks->end_ms - clicks->start_ms));
    if (!clicks->world->open(clicks)) {
        clicks_close(clicks);
        return NULL;
    }
    return clicks;
}

void clicks_close(struct clicks *clicks)
{
    if (clicks == NULL)
        return;
    free(clicks->pool);
    free(clicks->heap);
    free(clicks->free);
    free(clicks->starts);
    free(clicks->groups);
    free(clicks->ranks);
    free(clicks->among.sums);
    free(clicks->within.sums);
    free(clicks->appeal);
    free(clicks->life_ms);
    free(clicks->sections);
    free(clicks->active);
    free(clicks->sums);
    free(clicks->section_ends);
    free(clicks->section_best);
    free(clicks->plays);
    free(clicks->play_counts);
    free(clicks->play_ends);
    free(clicks);
}

size_t clicks_item_name(uint32_t item, char ret[CLICKS_ID_BYTES])
{
    uint32_t number = (item * UINT32_C(5761457)) & 0x3fffffu; /* odd, so each its own below 2^22 */

    return (size_t)snprintf(ret, CLICKS_ID_BYTES, "i%06x", number);
}
