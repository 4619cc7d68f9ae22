/* Model: the weights that make one order of what the sources say. A candidate's score is the dot product of
 * its features and the weights: some that all requests share, and some for sessions of the request's length.
 * As probabilities (softmax over one request's candidates) this is a conditional logit (McFadden,
 * "Conditional logit analysis of qualitative choice behavior", 1973).
 *
 * Pure data: any thread. */
#ifndef DN_RECOMMEND_MODEL_H
#define DN_RECOMMEND_MODEL_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Part of the format of weights: numbers never change, new ones come at the end. */
enum dn_feature {
    /* Of each source: score / best score, 1 / rank, log share of all it offers, 1 when it offers the item. */
    DN_FEATURE_VSTAN = 0,
    DN_FEATURE_VMIS = 4,
    DN_FEATURE_RULES = 8,
    DN_FEATURE_COVIS = 12,
    DN_FEATURE_VECTOR = 16, /* nearest to a direction or to one of the newest items */
    DN_FEATURE_OF_SOURCE = 4,
    DN_FEATURE_AFTER_LAST = 20, /* log share of what followed the newest item */
    DN_FEATURE_CLICKS,          /* log events ever */
    DN_FEATURE_RECENT_CLICKS,   /* log of decayed events near others */
    DN_FEATURE_TRENDING,        /* log of decayed events (hours) */
    DN_FEATURE_SEEN,            /* is in the session */
    DN_FEATURE_SEEN_NEAR,       /* 1 / distance to its newest event */
    DN_FEATURE_SEEN_BEFORE,     /* is the event before the newest */
    DN_FEATURE_SEEN_REPEATS,    /* is in the session: the share of events there that were repeats */
    DN_FEATURE_SEEN_LAST,       /* is the newest event */
    DN_FEATURE_SOURCES,         /* sources that offer it, / 4 */
    DN_FEATURE_LIKENESS,        /* cosine to the session's direction */
    DN_FEATURE_LIKENESS_LAST,   /* cosine to the newest item */
    DN_FEATURE_CATEGORY,        /* share of the session's newest items of its category */
    DN_FEATURE_PRICE,           /* 1 where its price is the session's usual one, less with the log ratio */
    DN_FEATURE_VECTOR_ONLY,     /* no other source offers it: an item that nobody clicked, for one */
    DN_FEATURE_NO_VECTOR,       /* has none, where the session has a direction: its likeness is not known */
    DN_FEATURE_COUNT,
};
#define DN_FEATURES_MAX 64u

#define DN_MODEL_LENGTHS 4u                     /* sessions of 1, 2, 3, and of more events */
#define DN_MODEL_VECTORS (1 + DN_MODEL_LENGTHS) /* [0]: shared */
#define DN_WEIGHT_MAX 1000.0f

/* The challenger (network.h): what it adds to a candidate's score, and who of the two serves. */
#define DN_NETWORK_UNITS 16u
#define DN_NETWORK_BEST 128u /* best candidates by the model's scores: the network sees no others */
#define DN_NETWORK_WEIGHT_MAX 64.0f
#define DN_NETWORK_SQUARE_MAX 1e30f
#define DN_NETWORK_LOSS_MAX 80.0f /* of one click, in the means */
/* Rows of weights, one for each unit: new features come at the end. */
enum { DN_NETWORK_OUT, DN_NETWORK_LENGTHS, DN_NETWORK_LEAD = DN_NETWORK_LENGTHS + DN_MODEL_LENGTHS };
#define DN_NETWORK_FEATURES (DN_NETWORK_LEAD + 1u)
#define DN_NETWORK_ROWS (DN_NETWORK_FEATURES + DN_FEATURE_COUNT)
struct dn_network {
    uint32_t steps;   /* clicks it was taught by, up to UINT32_MAX; 0: there is none */
    bool leads;       /* it serves */
    float loss;       /* decayed mean, before each click was learned from */
    float model_loss; /* the model's of the same clicks */
    _Alignas(16) float weights[DN_NETWORK_ROWS][DN_NETWORK_UNITS];
};

struct dn_model {
    float weights[DN_MODEL_VECTORS][DN_FEATURE_COUNT];
    struct dn_network network;
};

/* A catalogue's weights as they were decoded last: of one thread, so that not each of its requests decodes
 * them. All zero: nothing yet. */
struct dn_model_kept {
    bool known, learned;
    uint64_t version, generation; /* of what it was decoded from */
    struct dn_model model;
};

/* What is served before anything was learned: neighbours first, then rules. */
void dn_model_default(struct dn_model *ret);
/* A feature's name, "vstan_rank"; NULL: no such number. */
const char *dn_feature_name(size_t feature);
/* Vector 1..DN_MODEL_LENGTHS for a session of so many events. */
static inline size_t dn_model_vector(size_t length)
{
    return length == 0 ? 1 : length < DN_MODEL_LENGTHS ? length : DN_MODEL_LENGTHS;
}

/* As it is replicated: fixed point, so that all nodes have the same bits. Weights beyond DN_WEIGHT_MAX, or
 * that are no number, are cut to it. Without the network, which only a learner's bytes have. */
#define DN_MODEL_BYTES_MAX (16u + 4u * DN_MODEL_VECTORS * DN_FEATURES_MAX)
void dn_model_encode(const struct dn_model *model, struct dn_buffer *out);
/* DN_CORRUPT with what is wrong. Bytes of another build may have fewer features (those left out are 0) or
 * more (they are left out). What stands behind the weights (learn.h) fails nothing: a network there that is
 * damaged, or of another size, is none. */
enum dn_code dn_model_decode(const uint8_t *bytes, size_t length, struct dn_model *ret, struct dn_error *err);
/* The same without the network; says how many bytes the weights take. */
enum dn_code dn_model_decode_head(const uint8_t *bytes, size_t length, struct dn_model *ret, size_t *ret_used,
                                  struct dn_error *err);

#endif
