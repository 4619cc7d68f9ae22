/* Private to recommend: the sessions most like the one that is asked about. gather.h says by what weights. */
#ifndef DN_RECOMMEND_NEIGHBOURS_H
#define DN_RECOMMEND_NEIGHBOURS_H

#include "recommend/gather.h"

/* Visits of a neighbour on each side of the one that is shared; VMIS by itself reads the whole session, as
 * far as dn_near_session gives it. */
#define DN_NEIGHBOUR_AROUND 20u

struct dn_neighbour {
    uint32_t shard, count, matched;     /* visits, and which of them is of the shared item */
    float vmis, vstan;                  /* weights; 0: not among the best by that */
    const struct dn_near_visit *visits; /* in the arena */
};

struct dn_neighbours { /* in the arena */
    struct dn_neighbour *list;
    size_t count;
};

/* Ids of the newest items in each shard, of the session's own user, and of the label. */
struct dn_known {
    uint32_t items[DN_GATHER_SHARDS_MAX][DN_RECENT_MAX]; /* DN_NEAR_NONE: the shard does not know it */
    uint32_t self[DN_GATHER_SHARDS_MAX], label[DN_GATHER_SHARDS_MAX];
};

/* False: the arena is full. */
bool dn_neighbours_read(const struct dn_pipeline *pipeline, const struct dn_gathered *gathered,
                        const struct dn_known *known, struct dn_neighbours *ret);

#endif
