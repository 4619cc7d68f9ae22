/* Private to clicks*.c: what a world is to the part that runs it. */
#ifndef CLICKS_PRIVATE_H
#define CLICKS_PRIVATE_H

#include "tests/bench/clicks.h"

#define LENGTH_MAX 200u
#define BEST 100u /* items of each part of a model that the bound looks at */
#define GROUP_NONE UINT32_MAX
#define HOUR_MS INT64_C(3600000)
#define DAY_MS INT64_C(86400000)

struct session { /* under way */
    int64_t next_ms;
    uint64_t user, number;
    uint32_t left, count;
    uint32_t group; /* the world's: what the session is about */
    bool counts;    /* for the bound */
    uint32_t items[LENGTH_MAX];
};

/* Ranks by Zipf's law, for any number of ranks up to a maximum: sums of 1 / rank^exponent. */
struct zipf {
    double *sums;
    uint32_t max;
};
bool zipf_open(struct zipf *zipf, double exponent, uint32_t max);
/* The share of a rank, from 0, among `count`. */
double zipf_share(const struct zipf *zipf, uint32_t rank, uint32_t count);

struct candidate {
    uint32_t item, stamp; /* stamp: of the question it belongs to */
    double chance;
};
#define CANDIDATES 8192u /* power of two; a question has some 1,500 at most */

/* Items by their share, best first: at most BEST. */
struct best {
    uint32_t count;
    uint32_t items[BEST];
    double shares[BEST];
};
void best_add(struct best *best, uint32_t item, double share);

struct world;
struct clicks {
    struct clicks_options options;
    const struct world *world;
    uint64_t random;
    int64_t now_ms, start_ms, end_ms, next_start_ms, bound_from_ms;
    uint64_t sessions; /* begun */
    /* Sessions under way: a pool, and a heap of places in it by next_ms. */
    struct session *pool;
    uint32_t *heap, *free;
    uint32_t pool_size, heap_size, free_size;
    /* The bound. */
    struct candidate candidates[CANDIDATES];
    uint32_t stamp;
    struct clicks_bound bound;
    /* Groups of items that lie together: group g has the items [starts[g], starts[g + 1]). */
    uint32_t group_count;
    uint32_t *starts;  /* group_count + 1 */
    uint32_t *groups;  /* of each rank of popularity, which group */
    uint32_t *ranks;   /* and the other way round */
    struct zipf among; /* groups */
    struct zipf within;
    struct best everywhere;
    /* news: what draws attention in this slot of time, by section. */
    int64_t slot;
    double *appeal, *life_ms; /* of each item */
    uint8_t *sections;
    uint32_t *active, active_count;
    double *sums; /* of the attention to active[0..i) */
    uint32_t *section_ends;
    struct best *section_best;
    /* music: each listener's newest plays. */
    uint64_t listeners;
    uint32_t *plays;
    uint8_t *play_counts, *play_ends;
};

struct world {
    const char *name;
    uint32_t items, days;
    uint64_t sessions; /* defaults */
    double length_median, length_sigma;
    double pause_median_s, pause_sigma;
    bool once; /* an item once in a session */
    bool prices;
    bool (*open)(struct clicks *clicks);
    void (*begin)(struct clicks *clicks, struct session *session);
    /* Before a click: what depends on the time, and on the session. NULL: nothing does. */
    void (*move)(struct clicks *clicks, struct session *session);
    /* The next item. It is asked again while that is the last one, or was in the session where once. */
    uint32_t (*draw)(struct clicks *clicks, const struct session *session);
    /* All that draw may say, with its chance: chance_add. */
    void (*weigh)(struct clicks *clicks, const struct session *session);
    void (*took)(struct clicks *clicks, struct session *session); /* the newest item; NULL: nothing to do */
};
extern const struct world clicks_worlds[CLICKS_WORLDS];

uint64_t mix(uint64_t x);
uint64_t next_random(struct clicks *clicks);
double next_share(struct clicks *clicks); /* [0, 1) */
double next_normal(struct clicks *clicks);
uint32_t zipf_draw(struct clicks *clicks, const struct zipf *zipf, uint32_t count);

void chance_add(struct clicks *clicks, uint32_t item, double chance);
void chances_add(struct clicks *clicks, const struct best *best, double chance);

/* Groups of so many items on average, the largest some times the smallest, and which of them are popular. */
bool groups_open(struct clicks *clicks, uint32_t size, double among, double within);
uint32_t group_of(const struct clicks *clicks, uint32_t item);
static inline uint32_t group_size(const struct clicks *clicks, uint32_t group)
{
    return clicks->starts[group + 1] - clicks->starts[group];
}
static inline uint32_t last_item(const struct session *session)
{
    return session->items[session->count - 1];
}

#endif
