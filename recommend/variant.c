#include "recommend/variant.h"

#include "base/hash.h"

#include <math.h>
#include <string.h>

#define SHARES_SLACK 1e-9 /* 0.1 + 0.2 + 0.7 is a little more than 1 */

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Names stand in metrics and in requests. */
static bool name_is_good(const char *name)
{
    if (!is_alnum(name[0]))
        return false;
    for (const char *c = name; *c; c++)
        if (!is_alnum(*c) && !strchr("._-", *c))
            return false;
    return true;
}

static enum dn_code check_name(const char *name, struct dn_error *err)
{
    if (name_is_good(name))
        return DN_OK;
    return dn_fail(err, DN_INVALID,
                   "name: '%s': letters, digits and . _ - behind a letter or a digit, at most %d bytes", name,
                   DN_VARIANT_NAME_MAX);
}

static enum dn_code check_variant(const struct dn_experiment *experiment, size_t at, double *sum,
                                  struct dn_error *err)
{
    const struct dn_variant *variant = &experiment->variants[at];
    enum dn_code code = check_name(variant->name, err);

    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < at; i++)
        if (strcmp(experiment->variants[i].name, variant->name) == 0)
            return dn_fail(err, DN_INVALID, "name: '%s' is another variant's too", variant->name);
    if (!(variant->share >= 0 && variant->share <= 1))
        return dn_fail(err, DN_INVALID, "share: %g; from 0 to 1", variant->share);
    *sum += variant->share;
    if (*sum > 1 + SHARES_SLACK)
        return dn_fail(err, DN_INVALID, "share: the shares up to here are %g together; at most 1", *sum);
    if (!(variant->diversity >= 0 && variant->diversity <= 1))
        return dn_fail(err, DN_INVALID, "diversity: %g; from 0 to 1", (double)variant->diversity);
    if (variant->sources_off >= (1u << DN_SOURCE_COUNT) - 1)
        return dn_fail(err, DN_INVALID, "sources_off: every source is off: nothing would be recommended");
    return DN_OK;
}

enum dn_code dn_experiment_check(const struct dn_experiment *experiment, size_t *ret_variant,
                                 struct dn_error *err)
{
    double sum = 0;

    *ret_variant = DN_VARIANT_NONE;
    if (experiment->count == 0)
        return DN_OK;
    if (experiment->count > DN_VARIANTS_MAX)
        return dn_fail(err, DN_INVALID, "%zu variants; at most %d", experiment->count, DN_VARIANTS_MAX);
    enum dn_code code = check_name(experiment->name, err);
    for (size_t i = 0; i < experiment->count && code == DN_OK; i++) {
        code = check_variant(experiment, i, &sum, err);
        if (code != DN_OK)
            *ret_variant = i;
    }
    return code;
}

size_t dn_variant_of(const struct dn_experiment *experiment, const char *user, size_t length)
{
    uint64_t salt = dn_hash64(experiment->name, strlen(experiment->name), 0);
    double point = ldexp((double)(dn_hash64(user, length, salt) >> 11), -53); /* [0, 1) */
    double end = 0;

    for (size_t i = 0; i < experiment->count; i++) {
        end += experiment->variants[i].share;
        if (point < end)
            return i;
    }
    /* Shares that are 1 on paper may add up to a little less. */
    return experiment->count > 0 && end > 1 - SHARES_SLACK ? experiment->count - 1 : DN_VARIANT_NONE;
}

size_t dn_variant_find(const struct dn_experiment *experiment, const char *name)
{
    for (size_t i = 0; i < experiment->count; i++)
        if (strcmp(experiment->variants[i].name, name) == 0)
            return i;
    return DN_VARIANT_NONE;
}
