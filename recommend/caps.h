/* Private to recommend: how many items of each category an answer has, and what caps let in beside them. In
 * the arena; one thread. */
#ifndef DN_RECOMMEND_CAPS_H
#define DN_RECOMMEND_CAPS_H

#include "recommend/rerank.h"
#include "recommend/source.h"

struct dn_category {
    const struct dn_item *first; /* one of it; NULL: the place is free */
    uint32_t used;               /* how many the answer has */
};

struct dn_caps {
    struct dn_category *table; /* open addressing, at most half full; NULL: no cap */
    size_t mask;
    uint32_t most; /* of one category */
};

/* most 0: no cap. categories: how many dn_caps_of may make. DN_EXHAUSTED: the arena is full. */
enum dn_code dn_caps_begin(struct dn_caps *caps, uint32_t most, size_t categories, struct dn_arena *arena,
                           struct dn_error *err);
/* The item's category, made where there is none yet (then the item must outlive it); NULL: it is of none, or
 * there is no cap. */
struct dn_category *dn_caps_of(const struct dn_caps *caps, const struct dn_item *item);
/* May the answer have one more of its category? Makes none. */
bool dn_caps_allow(const struct dn_caps *caps, const struct dn_item *item);
bool dn_same_category(const struct dn_item *a, const struct dn_item *b);

/* Items for the places that caps left empty, from DN_SOURCE_TRENDING or DN_SOURCE_CATALOG: such as are
 * neither picked nor in the answer, and are let in beside it. Trending gives all there are, the catalogue, in
 * slot order, no more than the empty places can take: it is walked to its end where there are less. answer:
 * dn_rerank's. */
enum dn_code dn_source_beyond(const struct dn_pipeline *pipeline, uint8_t source,
                              const struct dn_rerank_item *answer, size_t count, struct dn_offers *ret,
                              struct dn_error *err);

#endif
