/* Private to node: learning inside a cluster. Every node has one of these; it works on the node that leads
 * group 0.
 *
 * The shards tell it of clicks (dn_shard_listen); it takes a sample of them, reads the session of each from
 * this node's own state, takes a step (recommend/learn.h), and every few seconds proposes what it learned to
 * group 0 (index.h: the model). So weights come into the state as records only: nodes agree on them, and who
 * leads next goes on from them.
 *
 * Threads: hearing is the consensus thread's; all else is done by one thread of its own, or by a test that
 * turns it. */
#ifndef DN_NODE_LEARNER_H
#define DN_NODE_LEARNER_H

#include "base/epoch.h"
#include "base/metrics.h"
#include "consensus/consensus.h"
#include "index/index.h"
#include "recommend/recommend.h"
#include "session/session.h"

#define DN_LEARN_SAMPLES_PER_S_MAX 1000

struct dn_learning_options { /* what it points to outlives the learner */
    struct dn_epoch *epoch;
    const struct dn_catalog *catalog;
    struct dn_shard *const *shards;
    uint32_t shard_count;
    struct dn_recommend_settings settings;
    struct dn_metrics *metrics;
    uint64_t node_id;
    bool enabled; /* false: it learns nothing, and only sees to it that others may set weights */
    bool alone;   /* the weights learn without their challenger, the network (recommend/learn.h) */
    unsigned samples_per_s, interval_ms;
    /* Hands a proposal for group 0 to consensus; false: not taken (dn_consensus_propose). */
    bool (*propose)(void *data, struct dn_proposal *proposal);
    /* Do all members know what a model is? Until then nothing is proposed. */
    bool (*may)(void *data);
    void *data;
};

struct dn_learning;

/* Makes the shards tell it of clicks: before anything is applied. NULL: out of memory. */
struct dn_learning *dn_learning_create(const struct dn_learning_options *options);
/* Starts its thread; `retrieval` may be NULL. DN_EXHAUSTED. */
enum dn_code dn_learning_start(struct dn_learning *learning, struct dn_retrieval *retrieval,
                               struct dn_error *err);
/* This node leads group 0 now, or does no longer. Any thread. */
void dn_learning_lead(struct dn_learning *learning, bool leads);
/* Ends the thread, within a step. NULL allowed. */
void dn_learning_stop(struct dn_learning *learning);
/* After stop, and after consensus has answered all its proposals. NULL allowed. */
void dn_learning_destroy(struct dn_learning *learning);

/* One turn of the thread; true: it learns, and wants the next one soon. For the thread, and for tests that
 * have none. `reader` is the calling thread's. */
bool dn_learning_turn(struct dn_learning *learning, struct dn_epoch_reader *reader, uint64_t now_us);

#endif
