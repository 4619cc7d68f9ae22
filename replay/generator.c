/* Invariants:
 *  1. The heap holds the active sessions, the one whose next event comes first on top.
 *  2. An event leaves only when its time is before the next session's start: so events leave in order of
 * time.
 *  3. Every random number comes from a stream that is named by (seed, what, which): a session's events do not
 *     depend on how sessions interleave. */
#include "replay/generator.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Clicks: round(exp(ln 3 + 0.942 z)): p50 3, p90 10, p99 27, mean 4.7, 23 % of one click. */
#define CLICKS_LOG_MEAN 1.0986
#define CLICKS_LOG_SIGMA 0.942
#define CLICKS_MEAN 4.706
/* Duration of the others, correlated with the clicks, fitted so that p50 is 248 s and p99 3,359 s after the
 * pauses are capped (a longer pause would end the session: the gap is 30 min). */
#define DURATION_LOG_MEAN 5.2846
#define DURATION_LOG_SIGMA 1.1985
#define DURATION_CORRELATION 0.5
#define PAUSE_MAX_S 1700.0
#define SESSION_GAP_S 1800u
#define USER_TRIES_MAX 32

#define ITEMS_PER_CLUSTER 100u /* about */
#define CLUSTERS_MAX 5000u
#define CLUSTERS_PER_CATEGORY 4u
#define TASTES 3u
#define RECENT_ITEMS 8u
#define NOISE 0.75 /* length of the noise beside the unit centre: cosine to it about 0.8 */

#define SHARE_TASTE 0.8   /* sessions in a cluster that the user likes */
#define SHARE_STAY 0.85   /* fresh items from the session's cluster */
#define SHARE_REPEAT 0.15 /* views that come back to a recent item */
#define SHARE_CART 0.08
#define SHARE_BUY 0.35 /* of the events after something was put in the cart */
#define SHARE_CLICK 0.35
#define SHARE_UNAVAILABLE 0.01

enum stream { STREAM_ARRIVALS = 1, STREAM_SESSION, STREAM_TASTE, STREAM_CENTRE, STREAM_ITEM };

struct session {
    int64_t time_ms; /* of the next event */
    uint64_t number;
    uint64_t random;
    double left_s; /* from the next event to the last */
    uint32_t user, cluster;
    uint32_t click, clicks;
    uint32_t recent[RECENT_ITEMS];
    uint32_t cart_item; /* valid when in_cart */
    bool in_cart;
};

struct dn_generator {
    struct dn_generator_options options;
    uint32_t clusters;
    uint64_t item_factor; /* item number = rank * item_factor mod items: numbers do not tell popularity */
    uint64_t started;     /* sessions */
    uint64_t arrivals;    /* random state */
    double next_start_s;
    uint32_t *busy_until_s; /* by user, after the start: end of the last session plus the gap */
    uint64_t overlaps;
    struct session *heap;
    size_t active, capacity;
};

/* ---- random numbers ---------------------------------------------------------------------------------------
 */

/* SplitMix64 (Steele, Lea, Flood, 2014). */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t stream_begin(uint64_t seed, enum stream stream, uint64_t which)
{
    uint64_t state = seed ^ (uint64_t)stream << 56;

    state = random_next(&state) ^ which;
    return random_next(&state);
}

/* In (0, 1]: its logarithm is finite. */
static double random_unit(uint64_t *state)
{
    return ((double)(random_next(state) >> 11) + 1.0) * 0x1p-53;
}

static double random_normal(uint64_t *state)
{
    double radius = sqrt(-2.0 * log(random_unit(state)));

    return radius * cos(6.283185307179586 * random_unit(state));
}

/* 0..n-1, P(r) close to 1/(r+1): the integer part of a log-uniform number. */
static uint32_t random_zipf(uint64_t *state, uint32_t n)
{
    double x = exp((1.0 - random_unit(state)) * log((double)n + 1.0)) - 1.0;

    return x >= (double)n ? n - 1 : (uint32_t)x;
}

/* ---- items
 * -------------------------------------------------------------------------------------------------- */

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* A factor near the golden section of n and prime to it: rank -> rank * factor mod n is one to one. */
static uint64_t scramble_factor(uint32_t n)
{
    uint64_t factor = (uint64_t)((double)n * 0.6180339887) | 1u;

    while (greatest_common_divisor(factor, n) != 1)
        factor++;
    return factor;
}

/* Item at position `rank` (by popularity) of a cluster: clusters take turns, so their sizes differ by at most
 * one. */
static uint32_t item_of(const struct dn_generator *generator, uint32_t cluster, uint32_t rank)
{
    uint64_t place = (uint64_t)rank * generator->clusters + cluster;

    return (uint32_t)(place * generator->item_factor % generator->options.items);
}

static uint32_t cluster_size(const struct dn_generator *generator, uint32_t cluster)
{
    return (generator->options.items - cluster - 1) / generator->clusters + 1;
}

static uint32_t random_cluster(const struct dn_generator *generator, uint64_t *random)
{
    return random_zipf(random, generator->clusters);
}

static uint32_t random_item(const struct dn_generator *generator, uint32_t cluster, uint64_t *random)
{
    return item_of(generator, cluster, random_zipf(random, cluster_size(generator, cluster)));
}

/* Inverse of item_of's scrambling; the factor's inverse is found once per call, in about 30 steps. */
static uint32_t place_of(const struct dn_generator *generator, uint32_t item)
{
    int64_t n = (int64_t)generator->options.items;
    int64_t old_r = (int64_t)generator->item_factor % n, r = n, old_s = 1, s = 0;

    while (r != 0) { /* extended Euclid */
        int64_t quotient = old_r / r, next = old_r - quotient * r;
        old_r = r;
        r = next;
        next = old_s - quotient * s;
        old_s = s;
        s = next;
    }
    old_s = ((old_s % n) + n) % n;
    return (uint32_t)((uint64_t)item * (uint64_t)old_s % (uint64_t)n);
}

void dn_generator_item(const struct dn_generator *generator, uint32_t item, struct dn_generated_item *ret,
                       float *ret_vector)
{
    uint64_t seed = generator->options.seed;
    uint32_t dim = generator->options.dim;
    uint32_t cluster = place_of(generator, item) % generator->clusters;
    uint64_t centre = stream_begin(seed, STREAM_CENTRE, cluster);
    uint64_t own = stream_begin(seed, STREAM_ITEM, item);
    double length = 0, squares = 0;

    for (uint32_t i = 0; i < dim; i++) {
        ret_vector[i] = (float)random_normal(&centre);
        length += (double)ret_vector[i] * (double)ret_vector[i];
    }
    length = length > 0 ? sqrt(length) : 1;
    for (uint32_t i = 0; i < dim; i++) {
        double value = (double)ret_vector[i] / length + NOISE * random_normal(&own) / sqrt((double)dim);

        ret_vector[i] = (float)value;
        squares += value * value;
    }
    squares = squares > 0 ? sqrt(squares) : 1;
    for (uint32_t i = 0; i < dim; i++)
        ret_vector[i] = (float)((double)ret_vector[i] / squares);
    ret->cluster = cluster;
    ret->category = cluster / CLUSTERS_PER_CATEGORY;
    /* A price level for the category, and the item's own around it; in cents. */
    centre = stream_begin(seed, STREAM_CENTRE, (uint64_t)ret->category | UINT64_C(1) << 40);
    ret->price =
        round(100 * exp(3.0 + 0.8 * random_normal(&centre) + 0.4 * random_normal(&own))) / 100 + 0.01;
    ret->available = random_unit(&own) > SHARE_UNAVAILABLE;
}

/* ---- the heap of active sessions
 * ------------------------------------------------------------------------------ */

static bool before(const struct session *a, const struct session *b)
{
    return a->time_ms != b->time_ms ? a->time_ms < b->time_ms : a->number < b->number;
}

static void sift_down(struct dn_generator *generator)
{
    struct session *heap = generator->heap, moved = heap[0];
    size_t at = 0, child;

    while ((child = 2 * at + 1) < generator->active) {
        if (child + 1 < generator->active && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static enum dn_code heap_push(struct dn_generator *generator, const struct session *session,
                              struct dn_error *err)
{
    size_t at = generator->active;

    if (at == generator->capacity) {
        size_t capacity = generator->capacity == 0 ? 1024 : generator->capacity * 2;
        struct session *heap;

        if (at >= DN_GENERATOR_ACTIVE_MAX)
            return dn_fail(err, DN_EXHAUSTED, "more than %u sessions overlap in time: lower the rate",
                           DN_GENERATOR_ACTIVE_MAX);
        heap = realloc(generator->heap, capacity * sizeof *heap);
        if (heap == NULL)
            return dn_fail(err, DN_NO_MEMORY, "out of memory");
        generator->heap = heap;
        generator->capacity = capacity;
    }
    generator->active++;
    while (at > 0 && before(session, &generator->heap[(at - 1) / 2])) {
        generator->heap[at] = generator->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    generator->heap[at] = *session;
    return DN_OK;
}

/* ---- sessions
 * --------------------------------------------------------------------------------------------------- */

static uint32_t pick_user(struct dn_generator *generator, uint64_t *random, uint32_t start_s)
{
    uint32_t user = 0;

    for (int i = 0; i < USER_TRIES_MAX; i++) {
        user = (uint32_t)(random_next(random) % generator->options.users);
        if (generator->busy_until_s[user] <= start_s)
            return user;
    }
    generator->overlaps++;
    return user;
}

static uint32_t taste(const struct dn_generator *generator, uint32_t user, uint64_t which)
{
    uint64_t random = stream_begin(generator->options.seed, STREAM_TASTE, (uint64_t)user * TASTES + which);

    return random_cluster(generator, &random);
}

static double pick_duration_s(uint64_t *random, double clicks_z, uint32_t clicks)
{
    double z = DURATION_CORRELATION * clicks_z +
               sqrt(1 - DURATION_CORRELATION * DURATION_CORRELATION) * random_normal(random);

    return clicks < 2 ? 0 : exp(DURATION_LOG_MEAN + DURATION_LOG_SIGMA * z);
}

/* Starts the session that is due at next_start_s, and sets when the next one is. */
static enum dn_code start_session(struct dn_generator *generator, struct dn_error *err)
{
    const struct dn_generator_options *options = &generator->options;
    struct session session = {.number = generator->started};
    double z, clicks, end_s;

    session.random = stream_begin(options->seed, STREAM_SESSION, session.number);
    z = random_normal(&session.random);
    clicks = round(exp(CLICKS_LOG_MEAN + CLICKS_LOG_SIGMA * z));
    session.clicks = clicks < 1                                 ? 1
                     : clicks > DN_GENERATOR_SESSION_CLICKS_MAX ? DN_GENERATOR_SESSION_CLICKS_MAX
                                                                : (uint32_t)clicks;
    session.left_s = pick_duration_s(&session.random, z, session.clicks);
    session.time_ms = options->start_ms + (int64_t)(generator->next_start_s * 1000);
    session.user = pick_user(generator, &session.random, (uint32_t)generator->next_start_s);
    end_s = generator->next_start_s + session.left_s + SESSION_GAP_S + 1;
    generator->busy_until_s[session.user] = end_s > (double)UINT32_MAX ? UINT32_MAX : (uint32_t)end_s;
    session.cluster = random_unit(&session.random) <= SHARE_TASTE
                          ? taste(generator, session.user, random_next(&session.random) % TASTES)
                          : random_cluster(generator, &session.random);
    generator->started++;
    generator->next_start_s +=
        -log(random_unit(&generator->arrivals)) * CLICKS_MEAN / options->rate_events_per_s;
    return heap_push(generator, &session, err);
}

/* Decides what the session's next event is. */
static void fill_event(const struct dn_generator *generator, struct session *session,
                       struct dn_generated_event *ret)
{
    uint64_t *random = &session->random;
    double draw = random_unit(random);
    uint32_t known = session->click < RECENT_ITEMS ? session->click : RECENT_ITEMS;

    ret->user = session->user;
    ret->time_ms = session->time_ms;
    ret->session = session->number;
    ret->click = session->click;
    if (session->in_cart && draw <= SHARE_BUY) {
        ret->item = session->cart_item;
        ret->type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY;
        session->in_cart = false;
    } else if (known > 0 && !session->in_cart && draw <= SHARE_CART) {
        ret->item = session->recent[(session->click - 1) % RECENT_ITEMS];
        ret->type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CART;
        session->cart_item = ret->item;
        session->in_cart = true;
    } else {
        ret->type = random_unit(random) <= SHARE_CLICK ? DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK
                                                       : DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_VIEW;
        if (known > 0 && random_unit(random) <= SHARE_REPEAT)
            ret->item = session->recent[random_next(random) % known];
        else if (random_unit(random) <= SHARE_STAY)
            ret->item = random_item(generator, session->cluster, random);
        else
            ret->item = random_item(generator, random_cluster(generator, random), random);
    }
    session->recent[session->click % RECENT_ITEMS] = ret->item;
}

/* Moves the session's clock to its next event: the first of the remaining points, spread evenly at random. */
static void advance_clock(struct session *session)
{
    uint32_t between = session->clicks - session->click - 1; /* events between the next one and the last */
    double pause_s = session->left_s;

    if (between > 0)
        pause_s *= 1 - pow(random_unit(&session->random), 1.0 / between);
    session->left_s -= pause_s;
    session->time_ms += (int64_t)(1000 * (pause_s < PAUSE_MAX_S ? pause_s : PAUSE_MAX_S));
}

enum dn_code dn_generator_next(struct dn_generator *generator, struct dn_generated_event *ret,
                               struct dn_error *err)
{
    struct session *top;

    while (
        generator->started < generator->options.sessions &&
        (generator->active == 0 || generator->options.start_ms + (int64_t)(generator->next_start_s * 1000) <=
                                       generator->heap[0].time_ms)) {
        enum dn_code code = start_session(generator, err);
        if (code != DN_OK)
            return code;
    }
    if (generator->active == 0)
        return DN_NOT_FOUND;
    top = &generator->heap[0];
    fill_event(generator, top, ret);
    if (++top->click < top->clicks)
        advance_clock(top);
    else
        *top = generator->heap[--generator->active];
    if (generator->active > 0)
        sift_down(generator);
    return DN_OK;
}

uint64_t dn_generator_overlaps(const struct dn_generator *generator)
{
    return generator->overlaps;
}

enum dn_code dn_generator_create(const struct dn_generator_options *options, struct dn_generator **ret,
                                 struct dn_error *err)
{
    struct dn_generator *generator;

    if (options->users == 0 || options->users > DN_GENERATOR_USERS_MAX || options->items == 0 ||
        options->items > DN_GENERATOR_ITEMS_MAX || options->dim == 0 || options->dim > 2048 ||
        !(options->rate_events_per_s >= 0.001 && options->rate_events_per_s <= 1e7) || options->start_ms < 0)
        return dn_fail(err, DN_INVALID,
                       "users and items must be 1 to 1,000,000,000, dim 1 to 2048, rate 0.001 to 10,000,000, "
                       "start not negative");
    generator = calloc(1, sizeof *generator);
    if (generator == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    generator->options = *options;
    generator->clusters = options->items / ITEMS_PER_CLUSTER;
    if (generator->clusters < 1)
        generator->clusters = 1;
    if (generator->clusters > CLUSTERS_MAX)
        generator->clusters = CLUSTERS_MAX;
    generator->item_factor = scramble_factor(options->items);
    generator->arrivals = stream_begin(options->seed, STREAM_ARRIVALS, 0);
    generator->busy_until_s = calloc(options->users, sizeof *generator->busy_until_s);
    if (generator->busy_until_s == NULL) {
        free(generator);
        return dn_fail(err, DN_NO_MEMORY, "out of memory for %u users", options->users);
    }
    *ret = generator;
    return DN_OK;
}

void dn_generator_destroy(struct dn_generator *generator)
{
    if (generator == NULL)
        return;
    free(generator->busy_until_s);
    free(generator->heap);
    free(generator);
}
