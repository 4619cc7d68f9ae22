/* The worlds. What comes next is a mixture in each of them, told in full beside it: shares are of the clicks
 * after a session's first, and of what may not come (the item just clicked; in news, any the session had) the
 * others take the share. No number here was fitted to a log, or chosen for what a recommender makes of it.
 *
 * Popularity is by Zipf's law (Adamic, Huberman, "Zipf's law and the Internet", Glottometrics 2002); lengths
 * of sessions and pauses are log-normal, as Serenade's are nearly. */
#include "tests/bench/clicks_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A number that is an item's own, one of 256, and another with another seed. */
static uint64_t own(const struct clicks *clicks, uint32_t item, uint32_t which)
{
    return mix((((uint64_t)item << 8) + which) ^ mix(clicks->options.seed));
}

static double share_of(uint64_t hash) /* [0, 1) */
{
    return (double)(hash >> 11) / 9007199254740992.0;
}

/* ---- noise: popularity and nothing else --------------------------------------------------------------
 *
 * Each click is drawn from all items by Zipf's law, exponent 1, whatever was before. Nothing can be better
 * than the most popular items; who believes chance neighbours is worse. */

static bool noise_open(struct clicks *clicks)
{
    uint32_t items = clicks->options.items;

    if (!zipf_open(&clicks->among, 1, items))
        return false;
    for (uint32_t i = 0; i < BEST && i < items; i++)
        best_add(&clicks->everywhere, i, zipf_share(&clicks->among, i, items));
    return true;
}

static uint32_t noise_draw(struct clicks *clicks, const struct session *session)
{
    (void)session;
    return zipf_draw(clicks, &clicks->among, clicks->options.items);
}

static void noise_weigh(struct clicks *clicks, const struct session *session)
{
    (void)session;
    chances_add(clicks, &clicks->everywhere, 1);
}

/* ---- market: what goes with what ---------------------------------------------------------------------
 *
 * Categories of some 60 items; categories and the items in them are popular by Zipf's law, exponent 0.8 (a
 * long tail). The next click, from the last one: .30 a substitute: one of 8 of the same category, each item
 * its own, the first the likeliest (1 / place) .20 what goes with it (phone -> case): one of 4, from the
 * category's three companions, in the same way .20 anything of the category, by popularity .15 back to an
 * item of the session, each as likely .15 anything, by popularity One session in seven is of somebody who was
 * there before: no more than a name, the model has no tastes. (Items that replace or complete each other:
 * McAuley, Pandey, Leskovec, KDD 2015.) */

#define CATEGORY_ITEMS 60u
#define SUBSTITUTES 8u
#define COMPANIONS 4u
#define COMPANION_CATEGORIES 3u
#define MARKET_SUBSTITUTE 0.30
#define MARKET_COMPANION 0.20
#define MARKET_CATEGORY 0.20
#define MARKET_BACK 0.15
#define MARKET_RETURNING 7u

static bool market_open(struct clicks *clicks)
{
    return groups_open(clicks, CATEGORY_ITEMS, 0.8, 0.8);
}

static void market_begin(struct clicks *clicks, struct session *session)
{
    if (session->number > 0 && next_random(clicks) % MARKET_RETURNING == 0)
        session->user = next_random(clicks) % session->number;
}

/* An item of a group that a hash chooses: popular ones more often, as people compare what many look at. */
static uint32_t chosen(const struct clicks *clicks, uint32_t group, uint64_t hash)
{
    double u = share_of(hash);

    return clicks->starts[group] + (uint32_t)(u * u * group_size(clicks, group));
}

static uint32_t substitute(const struct clicks *clicks, uint32_t item, uint32_t place)
{
    return chosen(clicks, group_of(clicks, item), own(clicks, item, place));
}

static uint32_t companion(const struct clicks *clicks, uint32_t item, uint32_t place)
{
    uint64_t hash = own(clicks, item, 16 + place);
    uint64_t category = own(clicks, group_of(clicks, item), 32 + (uint32_t)(hash % COMPANION_CATEGORIES));

    return chosen(clicks, (uint32_t)(category % clicks->group_count), mix(hash));
}

/* 1 / place, of so many. */
static double place_share(uint32_t place, uint32_t count)
{
    double sum = 0;

    for (uint32_t i = 1; i <= count; i++)
        sum += 1.0 / i;
    return 1 / ((place + 1) * sum);
}

static uint32_t place_draw(struct clicks *clicks, uint32_t count)
{
    double share = next_share(clicks);
    uint32_t place = 0;

    while (place + 1 < count && (share -= place_share(place, count)) >= 0)
        place++;
    return place;
}

static uint32_t group_draw(struct clicks *clicks, uint32_t group)
{
    return clicks->starts[group] + zipf_draw(clicks, &clicks->within, group_size(clicks, group));
}

static uint32_t anything(struct clicks *clicks)
{
    return group_draw(clicks, clicks->groups[zipf_draw(clicks, &clicks->among, clicks->group_count)]);
}

static uint32_t market_draw(struct clicks *clicks, const struct session *session)
{
    double share = next_share(clicks);

    if (session->count == 0)
        return anything(clicks);
    uint32_t item = last_item(session);
    if ((share -= MARKET_SUBSTITUTE) < 0)
        return substitute(clicks, item, place_draw(clicks, SUBSTITUTES));
    if ((share -= MARKET_COMPANION) < 0)
        return companion(clicks, item, place_draw(clicks, COMPANIONS));
    if ((share -= MARKET_CATEGORY) < 0)
        return group_draw(clicks, group_of(clicks, item));
    if ((share -= MARKET_BACK) < 0)
        return session->items[next_random(clicks) % session->count];
    return anything(clicks);
}

static void group_weigh(struct clicks *clicks, uint32_t group, double chance)
{
    uint32_t items = group_size(clicks, group);

    for (uint32_t i = 0; i < items && i < BEST; i++)
        chance_add(clicks, clicks->starts[group] + i, chance * zipf_share(&clicks->within, i, items));
}

static void market_weigh(struct clicks *clicks, const struct session *session)
{
    uint32_t item = last_item(session);

    for (uint32_t i = 0; i < SUBSTITUTES; i++)
        chance_add(clicks, substitute(clicks, item, i), MARKET_SUBSTITUTE * place_share(i, SUBSTITUTES));
    for (uint32_t i = 0; i < COMPANIONS; i++)
        chance_add(clicks, companion(clicks, item, i), MARKET_COMPANION * place_share(i, COMPANIONS));
    group_weigh(clicks, group_of(clicks, item), MARKET_CATEGORY);
    for (uint32_t i = 0; i < session->count; i++)
        chance_add(clicks, session->items[i], MARKET_BACK / session->count);
    chances_add(clicks, &clicks->everywhere,
                1 - MARKET_SUBSTITUTE - MARKET_COMPANION - MARKET_CATEGORY - MARKET_BACK);
}

/* ---- news: what lives for hours ----------------------------------------------------------------------
 *
 * Items come at an even rate from two days before the first click on. An item's attention is its own
 * (log-normal, sigma 1.3) times 1 - e^(-age / 15 min) times e^(-age / life), life log-normal (median 4 hours,
 * sigma 0.7), and nothing after two days: fast decay, as Wu and Huberman saw ("Novelty and collective
 * attention", PNAS 2007). It is taken anew every 10 minutes. Twenty sections, popular by Zipf's law, exponent
 * 0.7. The next click: .15 one of 3 that the last one points to: older ones of its section, each as likely
 *   .45 of the last one's section, by attention
 *   .40 of the front page: all, by attention
 * Nobody reads an item twice in a session. */

#define SECTIONS 20u
#define NEWS_BEFORE_DAYS 2
#define NEWS_SLOT_MS (10 * 60 * INT64_C(1000))
#define NEWS_RISE_MS (15 * 60 * 1000.0)
#define NEWS_LIFE_MS (4.0 * 3600000)
#define NEWS_LINKS 3u
#define NEWS_LINKED 0.15
#define NEWS_SECTION 0.45

static double hash_normal(uint64_t hash) /* a normal number that a hash chooses: sum of twelve */
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += share_of(mix(hash + (uint64_t)i));
    return sum;
}

static uint32_t section_of(const struct clicks *clicks, uint32_t item)
{
    return clicks->sections[item];
}

static int64_t news_every_ms(const struct clicks *clicks)
{
    int64_t span_ms = clicks->end_ms - clicks->start_ms + NEWS_BEFORE_DAYS * DAY_MS;

    return span_ms / clicks->options.items + 1;
}

static double attention(const struct clicks *clicks, uint32_t item, double age_ms)
{
    return clicks->appeal[item] * (1 - exp(-age_ms / NEWS_RISE_MS)) * exp(-age_ms / clicks->life_ms[item]);
}

/* What an item is and stays. */
static void news_item(struct clicks *clicks, uint32_t item)
{
    double wanted = share_of(own(clicks, item, 0));
    uint8_t section = 0;

    while (section + 1u < SECTIONS &&
           clicks->among.sums[section] <= wanted * clicks->among.sums[SECTIONS - 1])
        section++;
    clicks->sections[item] = section;
    clicks->appeal[item] = exp(1.3 * hash_normal(own(clicks, item, 1)));
    clicks->life_ms[item] = NEWS_LIFE_MS * exp(0.7 * hash_normal(own(clicks, item, 2)));
}

static bool news_open(struct clicks *clicks)
{
    uint32_t items = clicks->options.items;

    clicks->slot = -1;
    clicks->appeal = malloc(items * sizeof *clicks->appeal);
    clicks->life_ms = malloc(items * sizeof *clicks->life_ms);
    clicks->sections = malloc(items);
    clicks->active = malloc(items * sizeof *clicks->active);
    clicks->sums = malloc(((size_t)items + 1) * sizeof *clicks->sums);
    clicks->section_ends = calloc(SECTIONS + 1, sizeof *clicks->section_ends);
    clicks->section_best = calloc(SECTIONS, sizeof *clicks->section_best);
    if (clicks->appeal == NULL || clicks->life_ms == NULL || clicks->sections == NULL ||
        clicks->active == NULL || clicks->sums == NULL || clicks->section_ends == NULL ||
        clicks->section_best == NULL || !zipf_open(&clicks->among, 0.7, SECTIONS))
        return false;
    for (uint32_t i = 0; i < items; i++)
        news_item(clicks, i);
    return true;
}

/* The items of the last two days by section, and their attention now. */
static void news_slot(struct clicks *clicks, int64_t slot)
{
    int64_t every_ms = news_every_ms(clicks), now_ms = slot * NEWS_SLOT_MS + NEWS_BEFORE_DAYS * DAY_MS;
    int64_t newest = now_ms / every_ms, oldest = (now_ms - NEWS_BEFORE_DAYS * DAY_MS) / every_ms;
    uint32_t *ends = clicks->section_ends;

    if (newest >= clicks->options.items)
        newest = clicks->options.items - 1;
    memset(ends, 0, (SECTIONS + 1) * sizeof *ends);
    for (int64_t i = oldest; i <= newest; i++)
        ends[section_of(clicks, (uint32_t)i) + 1]++;
    for (uint32_t s = 0; s < SECTIONS; s++)
        ends[s + 1] += ends[s];
    clicks->active_count = ends[SECTIONS];
    for (int64_t i = oldest; i <= newest; i++) /* moves each start to its end */
        clicks->active[ends[section_of(clicks, (uint32_t)i)]++] = (uint32_t)i;
    clicks->sums[0] = 0;
    clicks->everywhere.count = 0;
    for (uint32_t i = 0, s = 0; s < SECTIONS; s++)
        for (clicks->section_best[s].count = 0; i < ends[s]; i++) {
            uint32_t item = clicks->active[i];
            double share = attention(clicks, item, (double)(now_ms - item * every_ms) + 1);
            clicks->sums[i + 1] = clicks->sums[i] + share;
            best_add(&clicks->section_best[s], item, share);
            best_add(&clicks->everywhere, item, share);
        }
    clicks->slot = slot;
}

static void news_move(struct clicks *clicks, struct session *session)
{
    int64_t slot = (clicks->now_ms - clicks->start_ms) / NEWS_SLOT_MS;

    (void)session;
    if (slot != clicks->slot)
        news_slot(clicks, slot);
}

/* By attention, of active[from..to). */
static uint32_t active_draw(struct clicks *clicks, uint32_t from, uint32_t to)
{
    double low = clicks->sums[from], wanted = low + next_share(clicks) * (clicks->sums[to] - low);

    while (from + 1 < to) { /* the last whose sum before it is at most that */
        uint32_t middle = from + (to - from) / 2;
        if (clicks->sums[middle] <= wanted)
            from = middle;
        else
            to = middle;
    }
    return clicks->active[from];
}

static void section_range(const struct clicks *clicks, uint32_t section, uint32_t *ret_from, uint32_t *ret_to)
{
    *ret_from = section == 0 ? 0 : clicks->section_ends[section - 1];
    *ret_to = clicks->section_ends[section];
}

/* The newest of its section at or below some number that a hash chooses, of the day before it. */
static uint32_t linked(const struct clicks *clicks, uint32_t item, uint32_t link)
{
    uint64_t day = (uint64_t)(DAY_MS / news_every_ms(clicks)) + 1;
    uint64_t back = 1 + own(clicks, item, 3 + link) % day;
    uint32_t at = back > item ? 0 : item - (uint32_t)back, section = section_of(clicks, item);

    while (at > 0 && section_of(clicks, at) != section)
        at--;
    return at;
}

static uint32_t news_draw(struct clicks *clicks, const struct session *session)
{
    double share = next_share(clicks);
    uint32_t from, to;

    if (session->count > 0 && (share -= NEWS_LINKED) < 0)
        return linked(clicks, last_item(session), (uint32_t)(next_random(clicks) % NEWS_LINKS));
    if (session->count > 0 && (share -= NEWS_SECTION) < 0) {
        section_range(clicks, section_of(clicks, last_item(session)), &from, &to);
        if (from < to)
            return active_draw(clicks, from, to);
    }
    return active_draw(clicks, 0, clicks->active_count);
}

static void news_weigh(struct clicks *clicks, const struct session *session)
{
    uint32_t item = last_item(session), section = section_of(clicks, item), from, to;
    double all = clicks->sums[clicks->active_count];

    section_range(clicks, section, &from, &to);
    for (uint32_t i = 0; i < NEWS_LINKS; i++)
        chance_add(clicks, linked(clicks, item, i), NEWS_LINKED / NEWS_LINKS);
    double of_section = clicks->sums[to] - clicks->sums[from];
    if (of_section > 0)
        chances_add(clicks, &clicks->section_best[section], NEWS_SECTION / of_section);
    chances_add(clicks, &clicks->everywhere, (1 - NEWS_LINKED - NEWS_SECTION) / all);
}

/* ---- music: people who come back ---------------------------------------------------------------------
 *
 * Some 20 sessions a listener, the keen ones more. A listener has four interests, each a cluster of some 60
 * tracks (shares .45, .27, .17, .11); an interest lasts four weeks, then it is another. Clusters, and the
 * tracks in them, are popular by Zipf's law, exponent 1. A session begins with one interest. The next track:
 *   with .06 another interest is taken up (each by its share); then, in the interest,
 *   .35 what comes next on the record, where the last track is of this cluster
 *   or else something new by popularity, with .6 n^-.21, n being how many of their newest 128 plays there
 * are; or else one of those plays again, of this cluster, each as likely. (Exploration and preferential
 * return: Song, Koren, Wang, Barabási, "Modelling the scaling properties of human mobility", Nature Physics
 * 2010, with their rho and gamma.) The bound knows the listener and the interest. */

#define CLUSTER_TRACKS 60u
#define INTERESTS 4u
#define INTEREST_MS (28 * DAY_MS)
#define LISTENER_SESSIONS 20u
#define PLAYS 128u
#define RECORD_STEP 7919u
#define MUSIC_SWITCH 0.06
#define MUSIC_RECORD 0.35
#define MUSIC_RHO 0.6
#define MUSIC_GAMMA 0.21

static const double interest_shares[INTERESTS] = {0.45, 0.27, 0.17, 0.11};

static bool music_open(struct clicks *clicks)
{
    clicks->listeners = clicks->options.sessions / LISTENER_SESSIONS + 1;
    clicks->plays = calloc(clicks->listeners * PLAYS, sizeof *clicks->plays);
    clicks->play_counts = calloc(clicks->listeners, 1);
    clicks->play_ends = calloc(clicks->listeners, 1);
    return clicks->plays != NULL && clicks->play_counts != NULL && clicks->play_ends != NULL &&
           groups_open(clicks, CLUSTER_TRACKS, 1, 1);
}

/* Its cluster now. Interests do not end together. */
static uint32_t interest(const struct clicks *clicks, uint64_t user, uint32_t number)
{
    uint64_t who = mix((user << 3) + number + (clicks->options.seed << 40));
    uint64_t span =
        ((uint64_t)(clicks->now_ms - clicks->start_ms) + who % (uint64_t)INTEREST_MS) / (uint64_t)INTEREST_MS;
    double share = share_of(mix(who + span)) * clicks->among.sums[clicks->group_count - 1];
    uint32_t from = 0, to = clicks->group_count - 1;

    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (clicks->among.sums[middle] > share)
            to = middle;
        else
            from = middle + 1;
    }
    return clicks->groups[from];
}

static uint32_t interest_draw(struct clicks *clicks, uint64_t user)
{
    double share = next_share(clicks);
    uint32_t number = 0;

    while (number + 1 < INTERESTS && (share -= interest_shares[number]) >= 0)
        number++;
    return interest(clicks, user, number);
}

static void music_begin(struct clicks *clicks, struct session *session)
{
    double share = next_share(clicks);

    session->user = (uint64_t)(share * share * (double)clicks->listeners);
    session->group = interest_draw(clicks, session->user);
}

/* Their plays of this cluster; returns how many. */
static uint32_t plays_of(const struct clicks *clicks, uint64_t user, uint32_t group, uint32_t ret[PLAYS])
{
    const uint32_t *plays = &clicks->plays[user * PLAYS];
    uint32_t count = 0;

    for (uint32_t i = 0; i < clicks->play_counts[user]; i++)
        if (plays[i] >= clicks->starts[group] && plays[i] < clicks->starts[group + 1])
            ret[count++] = plays[i];
    return count;
}

static double new_share(const struct clicks *clicks, uint64_t user, uint32_t again)
{
    return again == 0 ? 1 : MUSIC_RHO * pow(clicks->play_counts[user], -MUSIC_GAMMA);
}

/* The one after it on the record. A cluster is one record that goes round, in an order that has nothing to do
 * with how popular the tracks are. */
static uint32_t on_record(const struct clicks *clicks, uint32_t item, uint32_t group)
{
    uint32_t size = group_size(clicks, group), step = RECORD_STEP % size;

    return clicks->starts[group] + (item - clicks->starts[group] + (step > 0 ? step : 1)) % size;
}

static bool is_in(const struct clicks *clicks, const struct session *session, uint32_t group)
{
    return session->count > 0 && last_item(session) >= clicks->starts[group] &&
           last_item(session) < clicks->starts[group + 1];
}

static uint32_t music_draw(struct clicks *clicks, const struct session *session)
{
    uint32_t again[PLAYS], group = session->group;

    if (session->count > 0 && next_share(clicks) < MUSIC_SWITCH)
        group = interest_draw(clicks, session->user);
    if (is_in(clicks, session, group) && next_share(clicks) < MUSIC_RECORD)
        return on_record(clicks, last_item(session), group);
    uint32_t count = plays_of(clicks, session->user, group, again);
    if (next_share(clicks) < new_share(clicks, session->user, count))
        return group_draw(clicks, group);
    return again[next_random(clicks) % count];
}

static void interest_weigh(struct clicks *clicks, const struct session *session, uint32_t group,
                           double chance)
{
    uint32_t again[PLAYS], count = plays_of(clicks, session->user, group, again);
    double fresh = new_share(clicks, session->user, count);

    if (is_in(clicks, session, group)) {
        chance_add(clicks, on_record(clicks, last_item(session), group), chance * MUSIC_RECORD);
        chance *= 1 - MUSIC_RECORD;
    }
    group_weigh(clicks, group, chance * fresh);
    for (uint32_t i = 0; i < count; i++)
        chance_add(clicks, again[i], chance * (1 - fresh) / count);
}

static void music_weigh(struct clicks *clicks, const struct session *session)
{
    interest_weigh(clicks, session, session->group, 1 - MUSIC_SWITCH);
    for (uint32_t i = 0; i < INTERESTS; i++)
        interest_weigh(clicks, session, interest(clicks, session->user, i),
                       MUSIC_SWITCH * interest_shares[i]);
}

static void music_took(struct clicks *clicks, struct session *session)
{
    uint64_t user = session->user;
    uint32_t item = last_item(session);
    uint8_t *count = &clicks->play_counts[user], *end = &clicks->play_ends[user];

    clicks->plays[user * PLAYS + *end] = item;
    *end = (uint8_t)((*end + 1) % PLAYS);
    if (*count < PLAYS)
        (*count)++;
    session->group = group_of(clicks, item); /* what they turned to */
}

/* ---- the list ---------------------------------------------------------------------------------------- */

const struct world clicks_worlds[CLICKS_WORLDS] = {
    [CLICKS_NEWS] = {.name = "news",
                     .items = 20000,
                     .sessions = 60000,
                     .days = 14,
                     .length_median = 2.5,
                     .length_sigma = 0.7,
                     .pause_median_s = 60,
                     .pause_sigma = 0.8,
                     .once = true,
                     .open = news_open,
                     .move = news_move,
                     .draw = news_draw,
                     .weigh = news_weigh},
    [CLICKS_MUSIC] = {.name = "music",
                      .items = 30000,
                      .sessions = 12000,
                      .days = 56,
                      .length_median = 12,
                      .length_sigma = 0.8,
                      .pause_median_s = 200,
                      .pause_sigma = 0.4,
                      .open = music_open,
                      .begin = music_begin,
                      .draw = music_draw,
                      .weigh = music_weigh,
                      .took = music_took},
    [CLICKS_MARKET] = {.name = "market",
                       .items = 40000,
                       .sessions = 60000,
                       .days = 30,
                       .length_median = 3,
                       .length_sigma = 0.8,
                       .pause_median_s = 45,
                       .pause_sigma = 1,
                       .prices = true,
                       .open = market_open,
                       .begin = market_begin,
                       .draw = market_draw,
                       .weigh = market_weigh},
    [CLICKS_NOISE] = {.name = "noise",
                      .items = 20000,
                      .sessions = 50000,
                      .days = 30,
                      .length_median = 3,
                      .length_sigma = 0.9,
                      .pause_median_s = 60,
                      .pause_sigma = 1,
                      .open = noise_open,
                      .draw = noise_draw,
                      .weigh = noise_weigh},
};
