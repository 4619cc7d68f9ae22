/* Private to recommend: what a session itself added to the tables. It is taken out of what they say of it:
 * the same request gets the same answer whether its clicks are counted already or not, and nobody is
 * recommended what only they themselves did. So for the label of a step of learning, which the request did
 * not know.
 *
 * As far as it is known: of the newest DN_OWN_EVENTS events those of the newest DN_RECENT_MAX distinct items,
 * each as it weighed when it was new (what halved since is less than that, and never less than nothing). What
 * a longer session did before stays in the tables' word, and so in the answer. */
#ifndef DN_RECOMMEND_OWN_H
#define DN_RECOMMEND_OWN_H

#include "recommend/neighbours.h"

#define DN_OWN_ROWS 5u /* newest items whose rows are read */
#define DN_OWN_EVENTS 64u

struct dn_own {
    float after[DN_OWN_ROWS][DN_RECENT_MAX],
        near[DN_OWN_ROWS][DN_RECENT_MAX]; /* cells: row of a newest item, cell of another */
    float label_after[DN_OWN_ROWS], label_near[DN_OWN_ROWS];
    float after_sum[DN_OWN_ROWS], near_sum[DN_RECENT_MAX]; /* of rows */
    float label_near_sum;
    float clicks[DN_RECENT_MAX], label_clicks;
};

/* label: NULL: none. */
void dn_own_read(const struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                 const struct dn_label *label, struct dn_own *ret);

/* The row of one newest item in one shard. */
struct dn_own_row {
    struct dn_near_cell *cells;
    struct dn_near_row sums;
    size_t own_cells; /* of which nothing is left without the session itself */
};
/* Takes it out of the row of the newest item i, in the shard where the user lives. */
void dn_own_forget(const struct dn_own *own, const struct dn_known *known, size_t shard, size_t i,
                   struct dn_own_row *row);

/* What an item in that shard has of the session's own: events, and pairs near others. */
struct dn_own_counts {
    float clicks, near;
};
struct dn_own_counts dn_own_counts_of(const struct dn_own *own, const struct dn_known *known, size_t shard,
                                      uint32_t id);

/* value - by; nothing where rounding alone is left. */
float dn_own_less(float value, float by);

/* Whether the tables count such an event. */
static inline bool dn_own_counts_event(const struct dn_event_view *event)
{
    return event->type != DN_EVENT_DISLIKE && event->type != DN_EVENT_REMOVE;
}

#endif
