/* Private to recommend: the last step of the pipeline. Scored candidates in, at most k of them out, in the
 * order that the rules of the request make: boosts, pins, caps of categories, diversity.
 *
 * In that order: boosts change scores; pins take their places, and count for caps and diversity; the other
 * places go to the best that is allowed, one after the other.
 *
 * - A cap is kept even when that leaves places empty: who asks for at most three hats does not want a fourth.
 *   Pins alone are above it. Items without a category are of none, and any number of them is fine. The caller
 *   then looks for others (caps.h).
 * - Boosts order what there is; they bring nothing in, and do not lift what fills above what does not.
 * - Diversity looks at the first DN_DIVERSE_PLACES_MAX places and, for each, at the best
 *   DN_DIVERSE_CANDIDATES_A_PLACE * places candidates; what is behind comes by score. Two items are as alike
 * as the cosine of their vectors; where one has none, half alike when they are of one category. */
#ifndef DN_RECOMMEND_RERANK_H
#define DN_RECOMMEND_RERANK_H

#include "recommend/recommend.h"

#define DN_DIVERSE_PLACES_MAX 100u
#define DN_DIVERSE_CANDIDATES_A_PLACE 4u
#define DN_RERANK_NONE UINT32_MAX

struct dn_rerank_item {
    struct dn_item item;
    float score;
    bool fills;    /* only fills places: comes after all that do not, whatever the scores */
    uint32_t from; /* the caller's own number; DN_RERANK_NONE in the answer: a pin that was no candidate */
    bool pinned;   /* in the answer */
};

struct dn_rerank {
    const struct dn_rules *rules; /* dn_rules_check'ed; NULL: by score alone */
    size_t k;                     /* 1..DN_K_MAX */
    /* For pins only: where they are looked up, what they must pass, and ids they must not have. */
    const struct dn_catalog *catalog;
    const struct dn_filter *filter;
    const struct dn_attribute *exclude; /* ids in the value fields */
    size_t exclude_count;
};

/* `items`: each at most once, as a reader of the catalogue filled them; their scores are overwritten by the
 * boosts. *ret_items is in the arena, the first place first. Ties go by id. DN_EXHAUSTED: the arena is full.
 */
enum dn_code dn_rerank(const struct dn_rerank *rerank, struct dn_rerank_item *items, size_t count,
                       struct dn_arena *arena, struct dn_rerank_item **ret_items, size_t *ret_count,
                       struct dn_error *err);

#endif
