/* Private to recommend: sums by a shard's item id, in the arena; open addressing, filled at most to a half.
 */
#ifndef DN_RECOMMEND_TALLY_H
#define DN_RECOMMEND_TALLY_H

#include "recommend/gather.h"

struct dn_tally_entry {
    uint32_t id;
    float score[DN_NEAR_SOURCES];
    float after_last, near_last;
    uint32_t neighbour; /* the last that added to it, + 1 */
};

struct dn_tally {
    struct dn_tally_entry *list;
    uint32_t count, max;
    uint32_t *table; /* place in list + 1; 0: empty */
    uint32_t mask;
};

/* Room for `max` ids. False: the arena is full. */
bool dn_tally_init(struct dn_tally *tally, struct dn_arena *arena, size_t max);

/* The id's entry, made where there is none. No more than `max` ids may come. */
static inline struct dn_tally_entry *dn_tally_at(struct dn_tally *tally, uint32_t id)
{
    uint32_t at = (id * 0x9e3779b1u) >> 7 & tally->mask;

    for (; tally->table[at] != 0; at = (at + 1) & tally->mask)
        if (tally->list[tally->table[at] - 1].id == id)
            return &tally->list[tally->table[at] - 1];
    DN_ASSERT(tally->count < tally->max);
    struct dn_tally_entry *entry = &tally->list[tally->count++];
    tally->table[at] = tally->count;
    *entry = (struct dn_tally_entry){.id = id};
    return entry;
}

/* The n-th largest of `count` values, from 0 on; they are moved. */
float dn_nth_largest(float *values, size_t count, size_t n);
/* Of the entries with a score from `source`, the least score of the best `n`; 0 where there are not more than
 * n. `scratch` has room for all entries. */
float dn_tally_threshold(const struct dn_tally *tally, unsigned source, size_t n, float *scratch);

#endif
