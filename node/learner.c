/* Learning inside a cluster: learner.h.
 *
 *   resting --(leads group 0, not frozen, the fact is set, nothing is out)--> learning: begins from the
 *             weights in the state
 *   learning --(interval over, something learned)--> a proposal is out; learning goes on meanwhile
 *   learning --(the state's weights are not those it began from and no answer is awaited)--> begins anew
 *   learning --(leads no longer, frozen, stopped)--> resting; what was not proposed is gone
 *
 * Invariants:
 *  1. At most one proposal is out; its memory stays untouched until `done` ran.
 *  2. `base` is the generation and version the weights at hand were learned from: the state takes them only
 *     if they are still in force (index.h), so nothing here needs to know who else proposes.
 *  3. A proposal without an answer (a deadline, a lost leader) changes nothing here: either it counted, then
 *     the state's version has moved and the learner begins anew from its own weights, or it is sent again.
 */
#include "node/learner.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "node/learner_sample.h"
#include "recommend/learn.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    BUSY_TURN_MS = 10,
    IDLE_TURN_MS = 200,
    STEPS_PER_TURN_MAX = 100, /* then leadership, freeze and stopping are looked at again */
    PROPOSAL_US = 5000000,
    FACT_EVERY_US = 2000000,
    RECORD_BYTES_MAX = 32768,
    ARENA_BLOCK_BYTES = 1 << 20,
    ARENA_BYTES_MAX = 64 << 20,
    RECENT = 1024,      /* sessions whose last step is remembered: a power of two */
    HIT_PLACES = 20,    /* the label among so many is a hit */
    DECAY_STEPS = 1000, /* the shown means are over about so many steps */
    NICENESS = 10,
};
_Static_assert(DN_LEARNER_BYTES_MAX <= DN_MODEL_BLOB_MAX, "a learner must fit into the state");

struct ear { /* what a shard's listener gets */
    struct dn_learning *learning;
    uint32_t shard;
};

struct recent { /* the newest step of a session: two samples of it before it moved teach one thing */
    struct dn_hash128 user;
    uint64_t version;
    int64_t last_ms;
    size_t events;
};

enum { OUT_OK, OUT_MOVED, OUT_FROZEN, OUT_OFF, OUT_UNKNOWN, OUT_COUNT };

struct meters {
    struct dn_counter *steps, *misses, *useless, *errors, *proposals[OUT_COUNT];
    struct dn_gauge *active, *loss, *network_loss, *hits, *reciprocal_rank;
    struct dn_histogram *seconds;
};

struct base {
    uint64_t generation, version, steps;
};

struct dn_learning {
    struct dn_learning_options options;
    struct dn_recommend_world world;
    struct dn_sampler sampler;
    struct ear ears[DN_GROUPS_MAX];
    struct meters meters;

    /* The thread's. */
    struct dn_learner *learner;
    struct dn_arena *arena;
    bool active, error_said, bytes_said;
    struct base base;
    uint64_t unsaved; /* steps since the last proposal */
    uint64_t proposed_us, fact_us;
    uint64_t shown; /* steps in the shown means, up to DECAY_STEPS */
    double loss, network_loss, hits, reciprocal_rank;
    struct recent recent[RECENT];

    /* One proposal. The consensus thread writes the answer, and `answered` last. */
    struct dn_proposal proposal;
    struct dn_buffer record, blob;
    bool out;             /* thread's: not settled yet */
    bool out_fact;        /* it sets the fact */
    uint64_t out_steps;   /* of the generation, all told, if it counts */
    uint64_t out_unsaved; /* of those, that it saves */
    atomic_bool answered;
    enum dn_code answer_code;
    bool answer_read;
    struct dn_model_result answer;

    atomic_bool leads, stopping;
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool woken; /* under lock */
};

/* ---- hearing (consensus thread) -------------------------------------------------------------------------
 */

static void hear(void *data, struct dn_hash128 user, enum dn_event_type type)
{
    const struct ear *ear = data;

    if (ear->learning->options.settings.type_weight[type] > 0) /* others are no labels */
        dn_sample_offer(&ear->learning->sampler, user, ear->shard);
}

static void on_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index, const uint8_t *result,
                    size_t length, const struct dn_error *err)
{
    struct dn_learning *learning = proposal->data;

    (void)index;
    if (code != DN_OK)
        dn_debug("learn", "the model was not taken: %s", err ? err->message : dn_code_text(code));
    learning->answer_code = code;
    learning->answer_read =
        code == DN_OK && dn_catalog_model_result_parse(result, length, &learning->answer, NULL) == DN_OK;
    atomic_store_explicit(&learning->answered, true, memory_order_release);
}

/* ---- proposing ------------------------------------------------------------------------------------------
 */

static void propose(struct dn_learning *learning, uint64_t now_us)
{
    learning->proposal = (struct dn_proposal){
        .group = 0,
        .record = learning->record.bytes,
        .length = learning->record.length,
        .deadline_us = dn_monotonic_us() + PROPOSAL_US,
        .done = on_done,
        .data = learning,
    };
    learning->proposed_us = now_us;
    atomic_store(&learning->answered, false);
    learning->out =
        !learning->record.failed && learning->options.propose(learning->options.data, &learning->proposal);
}

static void propose_weights(struct dn_learning *learning, uint64_t now_us)
{
    struct dn_model_change change = {
        .op = DN_MODEL_LEARNED,
        .generation = learning->base.generation,
        .version = learning->base.version,
        .node_id = learning->options.node_id,
        .steps = learning->base.steps + learning->unsaved,
    };

    dn_buffer_clear(&learning->blob);
    dn_learner_save(learning->learner, &learning->blob);
    change.bytes = learning->blob.bytes;
    change.length = learning->blob.length;
    dn_buffer_clear(&learning->record);
    dn_catalog_record_model(&learning->record, &change);
    learning->out_fact = false;
    learning->out_steps = change.steps;
    learning->out_unsaved = learning->unsaved;
    propose(learning, now_us);
}

static void propose_fact(struct dn_learning *learning, uint64_t now_us)
{
    learning->fact_us = now_us;
    dn_buffer_clear(&learning->record);
    dn_catalog_record_fact(&learning->record, DN_MODEL_FACT, "1");
    learning->out_fact = true;
    propose(learning, now_us);
}

/* Takes the answer to the proposal that is out, if it is there. */
static void settle(struct dn_learning *learning)
{
    if (!learning->out || !atomic_load_explicit(&learning->answered, memory_order_acquire))
        return;
    learning->out = false;
    if (learning->out_fact)
        return;
    unsigned outcome = OUT_UNKNOWN;
    if (learning->answer_read) {
        static const unsigned outcomes[] = {[DN_MODEL_OK] = OUT_OK,
                                            [DN_MODEL_OFF] = OUT_OFF,
                                            [DN_MODEL_FROZEN] = OUT_FROZEN,
                                            [DN_MODEL_MOVED] = OUT_MOVED};
        outcome = outcomes[learning->answer.outcome];
    }
    dn_counter_add(learning->meters.proposals[outcome], 1);
    if (outcome == OUT_OK) {
        learning->base = (struct base){.generation = learning->answer.generation,
                                       .version = learning->answer.version,
                                       .steps = learning->out_steps};
        learning->unsaved -=
            learning->out_unsaved < learning->unsaved ? learning->out_unsaved : learning->unsaved;
    }
}

/* ---- what the state says --------------------------------------------------------------------------------
 */

/* The weights in the state, or the default: in an epoch. */
static void begin(struct dn_learning *learning, const struct dn_catalog_model *model, uint64_t now_us)
{
    struct dn_model standard;
    struct dn_error err = {0};

    dn_model_default(&standard);
    if (model->bytes == NULL) {
        dn_learner_reset(learning->learner, &standard);
    } else if (dn_learner_load(learning->learner, model->bytes, model->length, &err) != DN_OK) {
        /* Of a later build, or damaged: the weights that are served are the ones to go on from, not the
         * default. */
        struct dn_model served;
        struct dn_error ignored;
        bool known = dn_model_decode(model->bytes, model->length, &served, &ignored) == DN_OK;
        dn_learner_reset(learning->learner, known ? &served : &standard);
        if (!learning->bytes_said)
            dn_warn("learn", "the model of version %llu is not understood, learning begins anew: %s",
                    (unsigned long long)model->version, err.message);
        learning->bytes_said = true;
    }
    learning->base =
        (struct base){.generation = model->generation, .version = model->version, .steps = model->steps};
    learning->unsaved = 0;
    if (!learning->active) {
        learning->proposed_us = now_us;
        dn_sample_open(&learning->sampler, now_us);
        dn_gauge_set(learning->meters.active, 1);
        dn_info("learn", "learning from clicks here, from version %llu of the model (generation %llu)",
                (unsigned long long)model->version, (unsigned long long)model->generation);
    }
    learning->active = true;
}

static void rest(struct dn_learning *learning)
{
    if (!learning->active)
        return;
    learning->active = false;
    dn_sample_close(&learning->sampler);
    dn_gauge_set(learning->meters.active, 0);
    dn_info("learn", "no longer learning here");
}

/* ---- steps ----------------------------------------------------------------------------------------------
 */

static void show(struct dn_learning *learning, const struct dn_learned *learned)
{
    double rank = learned->used ? learned->rank : 0;
    double share = 1 / (double)(learning->shown < DECAY_STEPS ? ++learning->shown : DECAY_STEPS);

    learning->hits += share * ((rank >= 1 && rank <= HIT_PLACES ? 1 : 0) - learning->hits);
    learning->reciprocal_rank += share * ((rank >= 1 ? 1 / rank : 0) - learning->reciprocal_rank);
    dn_gauge_set(learning->meters.hits, learning->hits);
    dn_gauge_set(learning->meters.reciprocal_rank, learning->reciprocal_rank);
    if (!learned->used) {
        dn_counter_add(learning->meters.misses, 1);
        return;
    }
    learning->loss += share * ((double)learned->loss - learning->loss);
    learning->network_loss += share * ((double)learned->network_loss - learning->network_loss);
    dn_gauge_set(learning->meters.loss, learning->loss);
    dn_gauge_set(learning->meters.network_loss, learning->network_loss);
    dn_counter_add(learning->meters.steps, 1);
    learning->unsaved++;
}

/* True: a step was taken from this very session. */
static bool repeated(struct dn_learning *learning, struct dn_hash128 user,
                     const struct dn_session_view *session)
{
    struct recent *place = &learning->recent[user.low % RECENT];
    struct recent now = {.user = user,
                         .version = session->version,
                         .last_ms = session->last_ms,
                         .events = session->event_count};
    bool same = place->user.high == now.user.high && place->user.low == now.user.low &&
                place->version == now.version && place->last_ms == now.last_ms && place->events == now.events;

    *place = now;
    return same;
}

/* In an epoch. */
static void step(struct dn_learning *learning, const struct dn_sample *sample)
{
    struct dn_session_view session;
    struct dn_learned learned = {0};
    struct dn_error err = {0};
    uint64_t start_us = dn_monotonic_us();
    enum dn_code code =
        dn_shard_read(learning->options.shards[sample->shard], sample->user, learning->arena, &session);

    if (code == DN_NOT_FOUND) { /* erased, or evicted, meanwhile */
        dn_counter_add(learning->meters.useless, 1);
        return;
    }
    if (code == DN_OK && repeated(learning, sample->user, &session)) {
        dn_counter_add(learning->meters.useless, 1);
        return;
    }
    if (code == DN_OK)
        code = dn_learner_step(learning->learner, &learning->world, &learning->options.settings, sample->user,
                               &session, learning->arena, &learned, &err);
    if (code != DN_OK) {
        dn_counter_add(learning->meters.errors, 1);
        if (!learning->error_said)
            dn_warn("learn",
                    "a click was not learned from (said once; dunlin_learning_errors_total counts): "
                    "%s",
                    err.message[0] ? err.message : dn_code_text(code));
        learning->error_said = true;
        return;
    }
    dn_histogram_observe_ns(learning->meters.seconds, (dn_monotonic_us() - start_us) * 1000);
    if (learned.candidates == 0)
        dn_counter_add(learning->meters.useless, 1);
    else
        show(learning, &learned);
}

static void steps(struct dn_learning *learning, struct dn_epoch_reader *reader)
{
    struct dn_sample sample;

    for (unsigned i = 0; i < STEPS_PER_TURN_MAX && dn_sample_take(&learning->sampler, &sample); i++) {
        dn_arena_reset(learning->arena);
        dn_epoch_enter(reader);
        step(learning, &sample);
        dn_epoch_leave(reader);
    }
}

/* ---- turning --------------------------------------------------------------------------------------------
 */

/* Whether this node learns now; begins (anew) where it has to. In an epoch. */
static bool ready(struct dn_learning *learning, uint64_t now_us)
{
    struct dn_catalog_model model;
    char value[DN_GROUPS_MAX];
    bool leads = atomic_load(&learning->leads) && !atomic_load(&learning->stopping);

    if (!leads)
        return false;
    if (dn_catalog_fact(learning->options.catalog, DN_MODEL_FACT, value, sizeof(value)) == DN_NOT_FOUND) {
        if (!learning->out && now_us - learning->fact_us >= FACT_EVERY_US &&
            learning->options.may(learning->options.data))
            propose_fact(learning, now_us);
        return false;
    }
    (void)dn_catalog_model(learning->options.catalog, &model);
    if (!learning->options.enabled || model.frozen)
        return false;
    /* What is out was learned by weights that are not at hand any more: its answer must not become the base
     * of others. It comes within its deadline. */
    if (!learning->active && learning->out)
        return false;
    bool moved = model.version != learning->base.version || model.generation != learning->base.generation;
    if (!learning->active || (moved && !learning->out))
        begin(learning, &model, now_us);
    return true;
}

bool dn_learning_turn(struct dn_learning *learning, struct dn_epoch_reader *reader, uint64_t now_us)
{
    settle(learning);
    dn_epoch_enter(reader);
    bool learns = ready(learning, now_us);
    dn_epoch_leave(reader);
    if (!learns) {
        rest(learning);
        return false;
    }
    dn_sample_allow(&learning->sampler, now_us);
    steps(learning, reader);
    if (!learning->out && learning->unsaved > 0 &&
        now_us - learning->proposed_us >= (uint64_t)learning->options.interval_ms * 1000)
        propose_weights(learning, now_us);
    return true;
}

static void pause_ms(struct dn_learning *learning, unsigned ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&learning->lock);
    while (!learning->woken && pthread_cond_timedwait(&learning->wake, &learning->lock, &until) == 0)
        ;
    learning->woken = false;
    pthread_mutex_unlock(&learning->lock);
}

static void wake(struct dn_learning *learning)
{
    pthread_mutex_lock(&learning->lock);
    learning->woken = true;
    pthread_cond_signal(&learning->wake);
    pthread_mutex_unlock(&learning->lock);
}

static void *run(void *data)
{
    struct dn_learning *learning = data;
    struct dn_epoch_reader *reader = dn_epoch_register(learning->options.epoch);

    pthread_setname_np(pthread_self(), "learn");
    if (setpriority(PRIO_PROCESS, (id_t)gettid(), NICENESS) != 0)
        dn_warn("learn", "its niceness stays as it is: %s", strerror(errno));
    if (reader == NULL) {
        dn_err("learn", "all %d reader places are taken: nothing is learned here", DN_EPOCH_READERS_MAX);
        return NULL;
    }
    while (!atomic_load(&learning->stopping)) {
        bool learns = dn_learning_turn(learning, reader, dn_monotonic_us());
        pause_ms(learning, learns ? BUSY_TURN_MS : IDLE_TURN_MS);
    }
    rest(learning);
    dn_epoch_unregister(reader);
    return NULL;
}

/* ---- life -----------------------------------------------------------------------------------------------
 */

static void make_meters(struct dn_learning *learning, struct dn_metrics *metrics)
{
    static const char *const outcomes[OUT_COUNT] = {"ok", "moved", "frozen", "off", "unknown"};
    struct meters *m = &learning->meters;

    m->steps =
        dn_metrics_counter(metrics, "dunlin_learning_steps_total", "", "Clicks this node learned from");
    m->misses = dn_metrics_counter(metrics, "dunlin_learning_misses_total", "",
                                   "Clicks on what was no candidate: nothing to learn from");
    m->useless = dn_metrics_counter(metrics, "dunlin_learning_useless_total", "",
                                    "Sampled clicks that nothing could have been recommended before, or that "
                                    "were learned from already");
    m->errors =
        dn_metrics_counter(metrics, "dunlin_learning_errors_total", "", "Sampled clicks whose step failed");
    learning->sampler.skipped =
        dn_metrics_counter(metrics, "dunlin_learning_skipped_total", "", "Clicks above the sample's rate");
    learning->sampler.dropped = dn_metrics_counter(metrics, "dunlin_learning_dropped_total", "",
                                                   "Clicks dropped because the learner was behind");
    for (size_t i = 0; i < OUT_COUNT; i++) {
        char labels[32];
        snprintf(labels, sizeof(labels), "outcome=\"%s\"", outcomes[i]);
        m->proposals[i] = dn_metrics_counter(metrics, "dunlin_learning_proposals_total", labels,
                                             "Weights proposed to the cluster, by what became of them");
    }
    m->active = dn_metrics_gauge(metrics, "dunlin_learning_active", "", "1 on the node that learns now");
    m->loss = dn_metrics_gauge(metrics, "dunlin_learning_loss", "",
                               "Mean -log probability of the click before it was learned from, of about the "
                               "last 1,000 here");
    m->network_loss = dn_metrics_gauge(metrics, "dunlin_learning_network_loss", "",
                                       "The same of the network that challenges the weights");
    m->hits = dn_metrics_gauge(metrics, "dunlin_learning_hit_share", "",
                               "Share of clicks, of about the last 1,000 here, that were among the first 20");
    m->reciprocal_rank = dn_metrics_gauge(metrics, "dunlin_learning_reciprocal_rank", "",
                                          "Mean of 1 / rank of the click, of about the last 1,000 here");
    m->seconds = dn_metrics_histogram(metrics, "dunlin_learning_step_seconds", "", "Time of a step");
}

struct dn_learning *dn_learning_create(const struct dn_learning_options *options)
{
    struct dn_learning *learning = calloc(1, sizeof(*learning));
    struct dn_model standard;
    pthread_condattr_t monotonic;

    if (!learning)
        return NULL;
    dn_model_default(&standard);
    learning->options = *options;
    learning->learner = dn_learner_create(&standard);
    learning->arena = dn_arena_create(ARENA_BLOCK_BYTES, ARENA_BYTES_MAX);
    if (!learning->learner || !learning->arena) {
        dn_learner_destroy(learning->learner);
        dn_arena_destroy(learning->arena);
        free(learning);
        return NULL;
    }
    dn_learner_challenge(learning->learner, !options->alone);
    learning->world = (struct dn_recommend_world){
        .catalog = options->catalog,
        .shards = (const struct dn_shard *const *)options->shards,
        .shard_count = options->shard_count,
    };
    dn_buffer_init(&learning->record, RECORD_BYTES_MAX);
    dn_buffer_init(&learning->blob, DN_LEARNER_BYTES_MAX);
    pthread_mutex_init(&learning->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&learning->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    learning->sampler.rate = options->samples_per_s;
    make_meters(learning, options->metrics);
    for (uint32_t i = 0; i < options->shard_count; i++) {
        learning->ears[i] = (struct ear){.learning = learning, .shard = i};
        dn_shard_listen(options->shards[i], hear, &learning->ears[i]);
    }
    return learning;
}

enum dn_code dn_learning_start(struct dn_learning *learning, struct dn_retrieval *retrieval,
                               struct dn_error *err)
{
    learning->world.retrieval = retrieval;
    int rv = pthread_create(&learning->thread, NULL, run, learning);
    if (rv != 0)
        return dn_fail(err, DN_EXHAUSTED, "the learner's thread: %s", strerror(rv));
    learning->running = true;
    return DN_OK;
}

void dn_learning_lead(struct dn_learning *learning, bool leads)
{
    atomic_store(&learning->leads, leads);
    wake(learning);
}

void dn_learning_stop(struct dn_learning *learning)
{
    if (!learning || !learning->running)
        return;
    atomic_store(&learning->stopping, true);
    wake(learning);
    pthread_join(learning->thread, NULL);
    learning->running = false;
}

void dn_learning_destroy(struct dn_learning *learning)
{
    if (!learning)
        return;
    dn_learner_destroy(learning->learner);
    dn_arena_destroy(learning->arena);
    dn_buffer_free(&learning->record);
    dn_buffer_free(&learning->blob);
    pthread_cond_destroy(&learning->wake);
    pthread_mutex_destroy(&learning->lock);
    free(learning);
}
