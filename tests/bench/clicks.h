/* Clicks: logs of worlds that are made up, one click after the other, for measuring what nothing was tuned
 * on. Every world is a written-down model (clicks_worlds.c), so that the best answer to each click is known,
 * and with it how far from possible a recommender is.
 *
 * The same options give the same clicks. Memory is that of the items, of the sessions under way, and of
 * music's listeners; it does not grow with the clicks. One thread. Also a program: `clicks --help`. */
#ifndef CLICKS_H
#define CLICKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLICKS_ITEMS_MAX 4000000u
#define CLICKS_SESSIONS_MAX 100000000u
#define CLICKS_DAYS_MAX 365u
#define CLICKS_ID_BYTES 16 /* of an item's name, with its end */
#define CLICKS_START_MS INT64_C(1700006400000)
#define CLICKS_K 20 /* places of the bound */

enum clicks_world { CLICKS_NEWS, CLICKS_MUSIC, CLICKS_MARKET, CLICKS_NOISE, CLICKS_WORLDS };
/* "news"; NULL: no such world. */
const char *clicks_world_name(unsigned world);

struct clicks_options {
    enum clicks_world world;
    uint32_t items;
    uint64_t sessions; /* about: they come at random */
    uint32_t days;
    uint64_t seed;
    double bound_from; /* share of the days after which sessions count for the bound; 1: none do */
};
/* Of a size that `dunlin eval` takes a minute for. */
void clicks_options_default(enum clicks_world world, struct clicks_options *ret);

struct clicks_click {
    int64_t time_ms; /* never before the one before it */
    uint64_t user, session;
    uint32_t item;
    float price; /* NaN: none */
};

/* What one would reach who knew the model, its state and what it hides: the items by their chance to be next,
 * the best 20 of them. Sums are cut off below each part's best 100 items, so that it is a little low. */
struct clicks_bound {
    uint64_t predictions;
    double hr, mrr; /* at CLICKS_K */
};

struct clicks;
/* NULL: an option is out of its range, or no memory. */
struct clicks *clicks_open(const struct clicks_options *options);
/* False: there are no more. */
bool clicks_next(struct clicks *clicks, struct clicks_click *ret);
void clicks_bound(const struct clicks *clicks, struct clicks_bound *ret);
void clicks_close(struct clicks *clicks); /* NULL allowed */

/* An item's name. It tells nothing of the item, as ties are broken by name. Returns its length. */
size_t clicks_item_name(uint32_t item, char ret[CLICKS_ID_BYTES]);

#endif
