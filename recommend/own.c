/* What the session itself added to the tables: as session/near.c counts it. */
#include "recommend/own.h"

#include <math.h>
#include <string.h>

#define LEFT_MIN 1e-3f /* less than that is left of nothing, by rounding */

/* What an event is, beside a number below DN_RECENT_MAX: one of the newest items. */
#define IS_LABEL DN_RECENT_MAX
#define IS_OTHER (DN_RECENT_MAX + 1)   /* an item that is not among the newest */
#define IS_NOTHING (DN_RECENT_MAX + 2) /* an event that the tables do not count */

float dn_own_less(float value, float by)
{
    return value - by > LEFT_MIN ? value - by : 0;
}

/* An older event and one after it. */
static void count_pair(struct dn_own *own, uint8_t older, uint8_t newer, float after)
{
    if (older < DN_OWN_ROWS) {
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
    if (older < DN_OWN_ROWS && newer < DN_RECENT_MAX)
        own->near[older][newer]++;
    else if (older < DN_OWN_ROWS && newer == IS_LABEL)
        own->label_near[older]++;
    if (newer < DN_OWN_ROWS && older < DN_RECENT_MAX)
        own->near[newer][older]++;
    else if (newer < DN_OWN_ROWS && older == IS_LABEL)
        own->label_near[newer]++;
}

/* In whole parts, as the tables have it. */
static float after_at(size_t distance)
{
    uint32_t parts = DN_NEAR_AFTER_ONE / (uint32_t)distance;

    return (float)parts / DN_NEAR_AFTER_ONE;
}

static uint8_t what_is(const struct dn_gathered *gathered, const struct dn_label *label, uint64_t hash,
                       uint16_t length)
{
    for (size_t i = 0; i < gathered->recent_count; i++)
        if (gathered->recent[i].hash == hash && gathered->recent[i].length == length)
            return (uint8_t)i;
    return label != NULL && label->hash == hash && label->length == length ? IS_LABEL : IS_OTHER;
}

void dn_own_read(const struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                 const struct dn_label *label, struct dn_own *ret)
{
    const struct dn_session_view *session = pipeline->query->session;
    uint8_t what[DN_OWN_EVENTS + 1]; /* newest first */
    size_t count = 0;

    *ret = (struct dn_own){0};
    if (label != NULL)
        what[count++] = what_is(gathered, label, label->hash, label->length);
    /* An anchor is no click: the tables do not have it. */
    size_t made =
        session->event_count - (pipeline->query->anchor != NULL && session->event_count > 0 ? 1 : 0);
    for (size_t i = made; i-- > 0 && session->events[i].current && count < DN_OWN_EVENTS;) {
        const struct dn_event_view *event = &session->events[i];
        what[count++] = dn_own_counts_event(event)
                            ? what_is(gathered, label, event->item_hash, event->item_length)
                            : IS_NOTHING;
    }
    for (size_t i = 0; i < count; i++) {
        if (what[i] < DN_RECENT_MAX)
            ret->clicks[what[i]]++;
        ret->label_clicks += what[i] == IS_LABEL;
        for (size_t d = 1; d <= DN_NEAR_WINDOW && i + d < count; d++)
            if (what[i] != IS_NOTHING && what[i + d] != IS_NOTHING)
                count_pair(ret, what[i + d], what[i], after_at(d));
    }
}

/* Which of the newest items, or IS_LABEL, or IS_OTHER, an id in that shard is. */
static uint8_t which_is(const struct dn_known *known, size_t shard, uint32_t id)
{
    if (id == DN_NEAR_NONE)
        return IS_OTHER;
    for (size_t i = 0; i < DN_RECENT_MAX; i++)
        if (known->items[shard][i] == id)
            return (uint8_t)i;
    return known->label[shard] == id ? IS_LABEL : IS_OTHER;
}

void dn_own_forget(const struct dn_own *own, const struct dn_known *known, size_t shard, size_t i,
                   struct dn_own_row *row)
{
    row->sums.after_sum = dn_own_less(row->sums.after_sum, own->after_sum[i]);
    row->sums.near_sum = dn_own_less(row->sums.near_sum, own->near_sum[i]);
    for (size_t n = 0; n < row->sums.count; n++) {
        struct dn_near_cell *cell = &row->cells[n];
        uint8_t which = which_is(known, shard, cell->id);
        if (which == IS_OTHER)
            continue;
        float after = which == IS_LABEL ? own->label_after[i] : own->after[i][which];
        float near = which == IS_LABEL ? own->label_near[i] : own->near[i][which];
        if (after == 0 && near == 0)
            continue;
        cell->after = dn_own_less(cell->after, after);
        cell->near = dn_own_less(cell->near, near);
        row->own_cells += cell->after == 0 && cell->near == 0;
    }
}

struct dn_own_counts dn_own_counts_of(const struct dn_own *own, const struct dn_known *known, size_t shard,
                                      uint32_t id)
{
    uint8_t which = which_is(known, shard, id);

    if (which == IS_OTHER)
        return (struct dn_own_counts){0};
    if (which == IS_LABEL)
        return (struct dn_own_counts){.clicks = own->label_clicks, .near = own->label_near_sum};
    return (struct dn_own_counts){.clicks = own->clicks[which], .near = own->near_sum[which]};
}
