/* Private to recommend: sums by a shard's item id, in the arena; open addressing, filled at most to a half.
 */
#ifndef DN_RECOMMEND_TALLY_H
#define DN_RECOMMEND_TALLY_H

#include "recommend/gather.h"

struct dn_tally_entry {
    uint32_t id; /* plus one; 0: empty */
    float score[DN_FROM_COUNT];
    float after_last;
};

struct dn_tally {
    struct dn_tally_entry *entries;
    uint32_t mask, count;
};

/* Room for `max` ids. False: the arena is full. */
bool dn_tally_init(struct dn_tally *tally, struct dn_arena *arena, size_t max);

/* The id's entry, made where there is none; NULL: there is no room for another. */
static inline struct dn_tally_entry *dn_tally_at(struct dn_tally *tally, uint32_t id)
{
    uint32_t at = (id * 0x9e3779b1u) >> 7 & tally->mask;

    while (tally->entries[at].id != 0 && tally->entries[at].id != id + 1)
        at = (at + 1) & tally->mask;
    if (tally->entries[at].id == 0) {
        if (2 * (tally->count + 1) > tally->mask)
            return NULL;
        tally->entries[at].id = id + 1;
        tally->count++;
    }
    return &tally->entries[at];
}

/* The n-th largest of `count` values, from 0 on; they are moved. */
float dn_nth_largest(float *values, size_t count, size_t n);
/* Of the entries with a score from `source`, the least score of the best `n`; 0 where there are not more than
 * n. `scratch` has room for all entries. */
float dn_tally_threshold(const struct dn_tally *tally, unsigned source, size_t n, float *scratch);

#endif
