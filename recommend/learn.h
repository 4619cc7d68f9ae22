/* Learn: the next click is the label for what would have been recommended before it. Online gradient steps on
 * the log loss of the model (model.h), AdaGrad (Duchi, Hazan, Singer, 2011). A challenger, a small network
 * that corrects the model's scores, learns from the same clicks, and serves while its mean loss is the lower
 * one (network.h).
 *
 * One thread owns a learner; it is a registered thread inside an epoch when it steps. */
#ifndef DN_RECOMMEND_LEARN_H
#define DN_RECOMMEND_LEARN_H

#include "recommend/model.h"
#include "recommend/recommend.h"

struct dn_learner;

/* NULL: out of memory. */
struct dn_learner *dn_learner_create(const struct dn_model *start);
void dn_learner_destroy(struct dn_learner *learner);
/* Whether there is a challenger, which begins anew; there is one unless this says otherwise. */
void dn_learner_challenge(struct dn_learner *learner, bool challenge);

struct dn_learned {
    bool used;          /* the label was among the candidates; the rest is 0 where not */
    float loss;         /* -log of its probability by the model, before the step */
    float network_loss; /* by the challenger */
    uint32_t rank;      /* 1: the first, before the step */
    size_t candidates;  /* whether it was used or not */
};
/* `session` is as after the click: its newest event is the label, what is before it is what the request would
 * have seen; the tables are read without what that click itself added. A session whose newest event is its
 * first, or no positive one, is not used. */
enum dn_code dn_learner_step(struct dn_learner *learner, const struct dn_recommend_world *world,
                             const struct dn_recommend_settings *settings, struct dn_hash128 user,
                             const struct dn_session_view *session, struct dn_arena *arena,
                             struct dn_learned *ret, struct dn_error *err);
/* What is served: with the network once it has learned from something. */
void dn_learner_model(const struct dn_learner *learner, struct dn_model *ret);
/* Starts anew from `start`. */
void dn_learner_reset(struct dn_learner *learner, const struct dn_model *start);

/* The model as dn_model_encode writes it, and behind it what the next learner needs to go on as this one
 * would: without the size of the gradients so far its first steps would be far too long. */
#define DN_NETWORK_BYTES_MAX (32u + 8u * DN_NETWORK_UNITS * (DN_NETWORK_FEATURES + DN_FEATURES_MAX))
#define DN_LEARNER_BYTES_MAX (2 * DN_MODEL_BYTES_MAX + DN_NETWORK_BYTES_MAX)
void dn_learner_save(const struct dn_learner *learner, struct dn_buffer *out);
/* Goes on from saved bytes; those of a model alone begin anew from it, and so does a network that is not
 * there, or of another size than this build's. DN_CORRUPT: the learner is as it was. */
enum dn_code dn_learner_load(struct dn_learner *learner, const uint8_t *bytes, size_t length,
                             struct dn_error *err);

#endif
