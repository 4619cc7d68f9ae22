/* Counters of single items: counters.h. */
#include "recommend/counters.h"

#include "recommend/own.h"

#include <string.h>

#define AHEAD 4u /* steps between asking for memory and reading it */
#define STAGES 3u
#define LEFT_MIN 1e-3 /* events: less than that is left of nothing, by rounding */

static bool is_item(const struct dn_near_item *named, const char *name, uint16_t length, uint64_t hash)
{
    return named->hash == hash && named->length == length && memcmp(named->name, name, length) == 0;
}

float dn_counters_of_others(const struct dn_pipeline *pipeline, const struct dn_label *label, size_t shard,
                            const struct dn_near_item *named)
{
    const struct dn_session_view *session = pipeline->query->session;
    const struct dn_shard *from = pipeline->world->shards[shard];
    /* An anchor is no click: the counter does not have it. */
    size_t made =
        session->event_count - (pipeline->query->anchor != NULL && session->event_count > 0 ? 1 : 0);
    double left = named->trending;

    if (label != NULL && is_item(named, label->name, label->length, label->hash))
        left -= dn_near_trending(from, label->time_ms, label->weight);
    for (size_t i = made, looked = 0; i-- > 0 && session->events[i].current && looked < DN_OWN_EVENTS;
         looked++) {
        const struct dn_event_view *event = &session->events[i];
        if (dn_own_counts_event(event) && is_item(named, event->item, event->item_length, event->item_hash))
            left -= dn_near_trending(from, event->time_ms, event->weight);
    }
    return left > LEFT_MIN ? (float)left : 0;
}

/* ---- many items -------------------------------------------------------------------------------------- */

static float counter_of(const struct dn_shard *shard, const struct dn_near_item *named, enum dn_window window)
{
    switch (window) {
    case DN_WINDOW_HOUR:
        return dn_near_popular(shard, named->id, named->hash, DN_POPULAR_HOUR);
    case DN_WINDOW_DAY:
        return dn_near_popular(shard, named->id, named->hash, DN_POPULAR_DAY);
    case DN_WINDOW_WEEK:
        return dn_near_popular(shard, named->id, named->hash, DN_POPULAR_WEEK);
    case DN_WINDOW_EVER:
        return (float)named->clicks;
    default:
        return (float)named->trending;
    }
}

/* Each look-up misses the cache three times; so that they overlap, each step asks for what a later one reads.
 */
static void add_shard(const struct dn_shard *shard, enum dn_window window, struct dn_offers *offers)
{
    static const enum dn_near_stage STAGE[STAGES] = {DN_NEAR_PLACE, DN_NEAR_SLOT, DN_NEAR_BEHIND};

    for (size_t i = 0; i < offers->count + STAGES * AHEAD; i++) {
        for (size_t stage = 0; stage < STAGES; stage++)
            if (i >= stage * AHEAD && i - stage * AHEAD < offers->count)
                dn_near_prefetch_named(shard, offers->list[i - stage * AHEAD].item.id_hash, STAGE[stage]);
        if (i < STAGES * AHEAD)
            continue;
        struct dn_offer *offer = &offers->list[i - STAGES * AHEAD];
        const struct dn_item *item = &offer->item;
        struct dn_near_item named;
        uint32_t id = dn_near_find(shard, item->id_hash, item->id, item->id_length);
        if (id != DN_NEAR_NONE && dn_near_item(shard, id, &named) && named.hash == item->id_hash)
            offer->score += counter_of(shard, &named, window);
    }
}

void dn_counters_read(const struct dn_pipeline *pipeline, enum dn_window window, struct dn_offers *offers)
{
    size_t kept = 0;

    for (size_t i = 0; i < offers->count; i++)
        offers->list[i].score = 0;
    for (size_t s = 0; s < pipeline->world->shard_count; s++)
        add_shard(pipeline->world->shards[s], window, offers);
    for (size_t i = 0; i < offers->count; i++)
        if (offers->list[i].score > 0)
            offers->list[kept++] = offers->list[i];
    offers->count = kept;
}
