/* The model's weights: defaults, names, and the form in which they are replicated.
 *
 *   u32 magic, u16 vectors, u16 features, then vectors x features i32 in 1/65536; little endian */
#include "recommend/model.h"
#include "recommend/network.h"

#include <math.h>
#include <string.h>

#define MAGIC 0x4c4d4e44u /* "DNML" */
#define ONE 65536.0f

static const char *const NAMES[DN_FEATURE_COUNT] = {
    "vstan_score",  "vstan_rank",    "vstan_share", "vstan",        "vmis_score",    "vmis_rank",
    "vmis_share",   "vmis",          "rules_score", "rules_rank",   "rules_share",   "rules",
    "covis_score",  "covis_rank",    "covis_share", "covis",        "vector_score",  "vector_rank",
    "vector_share", "vector",        "after_last",  "clicks",       "recent_clicks", "trending",
    "seen",         "seen_near",     "seen_before", "seen_repeats", "seen_last",     "sources",
    "likeness",     "likeness_last", "category",    "price",        "vector_only",   "no_vector",
};

const char *dn_feature_name(size_t feature)
{
    return feature < DN_FEATURE_COUNT ? NAMES[feature] : NULL;
}

/* What the first of a few thousand steps would find on any data: scores of neighbours and rules, each a
 * share. */
void dn_model_default(struct dn_model *ret)
{
    *ret = (struct dn_model){0};
    float *shared = ret->weights[0];
    for (size_t source = 0; source < DN_FEATURE_AFTER_LAST; source += DN_FEATURE_OF_SOURCE) {
        shared[source] = 1.0f;
        shared[source + 2] = 1.0f;
    }
    shared[DN_FEATURE_AFTER_LAST] = 1.0f;
    shared[DN_FEATURE_LIKENESS] = 0.5f;
    shared[DN_FEATURE_TRENDING] = 0.1f;
}

static float bounded(float weight)
{
    if (isnan(weight))
        return 0;
    return weight > DN_WEIGHT_MAX ? DN_WEIGHT_MAX : weight < -DN_WEIGHT_MAX ? -DN_WEIGHT_MAX : weight;
}

void dn_model_encode(const struct dn_model *model, struct dn_buffer *out)
{
    dn_buffer_u32(out, MAGIC);
    dn_buffer_u16(out, DN_MODEL_VECTORS);
    dn_buffer_u16(out, DN_FEATURE_COUNT);
    for (size_t v = 0; v < DN_MODEL_VECTORS; v++)
        for (size_t f = 0; f < DN_FEATURE_COUNT; f++)
            dn_buffer_u32(out, (uint32_t)(int32_t)lrintf(bounded(model->weights[v][f]) * ONE));
}

enum dn_code dn_model_decode(const uint8_t *bytes, size_t length, struct dn_model *ret, struct dn_error *err)
{
    size_t used = 0;
    enum dn_code code = dn_model_decode_head(bytes, length, ret, &used, err);

    if (code == DN_OK)
        (void)dn_network_find(bytes + used, length - used, &ret->network);
    return code;
}

enum dn_code dn_model_decode_head(const uint8_t *bytes, size_t length, struct dn_model *ret, size_t *ret_used,
                                  struct dn_error *err)
{
    struct dn_reader in;

    *ret = (struct dn_model){0};
    dn_reader_init(&in, bytes, length);
    uint32_t magic = dn_reader_u32(&in);
    size_t vectors = dn_reader_u16(&in), features = dn_reader_u16(&in);
    if (in.failed || magic != MAGIC)
        return dn_fail(err, DN_CORRUPT, "these bytes are no model's weights");
    if (vectors != DN_MODEL_VECTORS || features < 1 || features > DN_FEATURES_MAX)
        return dn_fail(err, DN_CORRUPT, "weights of %zu vectors and %zu features: %u, and 1 to %u, are known",
                       vectors, features, DN_MODEL_VECTORS, DN_FEATURES_MAX);
    if (dn_reader_left(&in) < 4 * vectors * features)
        return dn_fail(err, DN_CORRUPT, "%zu bytes of weights: %zu are needed", dn_reader_left(&in),
                       4 * vectors * features);
    for (size_t v = 0; v < vectors; v++)
        for (size_t f = 0; f < features; f++) {
            float weight = (float)(int32_t)dn_reader_u32(&in) / ONE;
            if (f < DN_FEATURE_COUNT)
                ret->weights[v][f] = bounded(weight);
        }
    *ret_used = in.offset;
    return DN_OK;
}
