/* Private to recommend: the challenger. A small network over the same features corrects the scores of the
 * model (model.h): one hidden layer of rectified units, whose thresholds are those of the session's length.
 *
 *   score = model's score + out . max(0, threshold[length] + lead * weight[lead] + features * weights)
 *
 * lead: how near the model's score is to its best one, 1 to 0. Only the best by the model, at most
 * DN_NETWORK_BEST, are corrected, in requests as in learning: that bounds what a request pays. The outer
 * weights begin at 0, so that the network begins as the model. It learns from the same clicks by the same
 * loss, AdaGrad (learn.h), and serves only while its mean loss is the lower one (dn_network.leads). */
#ifndef DN_RECOMMEND_NETWORK_H
#define DN_RECOMMEND_NETWORK_H

#include "recommend/gather.h"
#include "recommend/model.h"

/* ---- what is served (any thread) --------------------------------------------------------------------- */

/* Places of the best scores, rising, at most DN_NETWORK_BEST: nearly equal ones are taken all or none, so
 * that the order of candidates decides nothing. Returns how many. */
size_t dn_network_best(const float *scores, size_t count, uint32_t ret[DN_NETWORK_BEST]);
/* Corrects the model's scores of a session of this length. */
void dn_network_scores(const struct dn_network *network, size_t length, const struct dn_features *features,
                       size_t count, float *scores);

/* ---- learning (the learner's thread) ----------------------------------------------------------------- */

struct dn_challenger {
    struct dn_network network;
    float squares[DN_NETWORK_ROWS][DN_NETWORK_UNITS]; /* of the gradients so far */
};
/* The same starting weights everywhere. */
void dn_challenger_reset(struct dn_challenger *challenger);

struct dn_network_click {
    size_t length; /* of the session */
    const struct dn_features *features;
    const float *scores;        /* the model's, of all candidates */
    const float *probabilities; /* the softmax of these */
    size_t label;
    float loss;           /* the model's */
    const uint32_t *best; /* dn_network_best of the scores */
    size_t best_count;
};
/* -log of the label's probability by the network. gradient: of that, aligned
 * to 16 bytes; NULL: not wanted. */
float dn_network_loss(const struct dn_network *network, const struct dn_network_click *click,
                      float gradient[DN_NETWORK_ROWS][DN_NETWORK_UNITS]);
/* Judges both on the click, decides who leads, then learns. Returns the network's loss. */
float dn_challenger_step(struct dn_challenger *challenger, const struct dn_network_click *click);

/* ---- as it is replicated (network_bytes.c) ----------------------------------------------------------- */

#define DN_SQUARES_MAGIC 0x51534e44u /* "DNSQ" */
void dn_challenger_encode(const struct dn_challenger *challenger, struct dn_buffer *out);
/* Bytes of a network of another size are one that there is not yet (steps 0). DN_CORRUPT: cut short, or
 * numbers that no learner writes; ret is then as it was. */
enum dn_code dn_challenger_decode(struct dn_reader *in, struct dn_challenger *ret, struct dn_error *err);
/* The network in what is behind the weights of a model, which begins with a learner's squares (learn.c).
 * False, and ret is none: there is none, or it is not to be understood. */
bool dn_network_find(const uint8_t *bytes, size_t length, struct dn_network *ret);

#endif
