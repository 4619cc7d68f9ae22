/* Private to recommend: the shards' counters of single items (near.h), summed over shards. */
#ifndef DN_RECOMMEND_COUNTERS_H
#define DN_RECOMMEND_COUNTERS_H

#include "recommend/gather.h"

/* The item's `trending` in that shard, where the asking user lives, without what the session's own events
 * (and the label) added: struct dn_own in gather.c does the same for the tables. */
float dn_counters_of_others(const struct dn_pipeline *pipeline, const struct dn_label *label, size_t shard,
                            const struct dn_near_item *named);

/* Scores of the offers become their counter by this window, summed over shards; those without any leave the
 * list, the others keep their order. */
void dn_counters_read(const struct dn_pipeline *pipeline, enum dn_window window, struct dn_offers *offers);

#endif
