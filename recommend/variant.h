/* Variants: an experiment shares users out among named variants of the settings, by a hash of the user's id.
 *
 * Which variant a user gets is a function of the experiment's name, the list of shares and the id: the same
 * on every node with the same configuration, and for as long as it stays. Another name deals the users anew.
 * Pure functions; any thread. */
#ifndef DN_RECOMMEND_VARIANT_H
#define DN_RECOMMEND_VARIANT_H

#include "recommend/recommend.h"

#define DN_VARIANTS_MAX 8
#define DN_VARIANT_NAME_MAX 32 /* bytes */
#define DN_VARIANT_NONE SIZE_MAX

struct dn_variant {
    char name[DN_VARIANT_NAME_MAX + 1];
    double share; /* of the users, 0..1 */
    /* What it does unless the request asks for something of its own. */
    float diversity;
    uint32_t category_cap;
    uint32_t sources_off; /* as in struct dn_recommend_query; added to the request's own */
    bool fixed_weights;   /* the default model instead of the one that learns */
};
struct dn_experiment {
    char name[DN_VARIANT_NAME_MAX + 1];
    struct dn_variant variants[DN_VARIANTS_MAX];
    size_t count; /* 0: there is none */
};

/* DN_INVALID with what is wrong: names (letters, digits and ._- behind a letter or digit, each once), shares
 * that are none or more than 1 together, every source off. *ret_variant is the variant it is about, or
 * DN_VARIANT_NONE. */
enum dn_code dn_experiment_check(const struct dn_experiment *experiment, size_t *ret_variant,
                                 struct dn_error *err);
/* The variant of a user; DN_VARIANT_NONE: there is no experiment, or the shares leave them out. */
size_t dn_variant_of(const struct dn_experiment *experiment, const char *user, size_t length);
/* By name; DN_VARIANT_NONE: there is no such variant. */
size_t dn_variant_find(const struct dn_experiment *experiment, const char *name);

#endif
