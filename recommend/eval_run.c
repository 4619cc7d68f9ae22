/* A run: learn from the older sessions, then ask. Places go into arrays, one number for each prediction and
 * method, so that what threads do in which order changes nothing. */
#include "recommend/eval_private.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 64 /* predictions that a thread takes at a time */
#define ARENA_BLOCK_BYTES ((size_t)256 << 10)
#define ARENA_BYTES_MAX ((size_t)64 << 20)
#define PROGRESS_EVERY 256

struct run {
    const struct dn_eval_set *set;
    const struct dn_eval_options *options;
    struct dn_eval_state state;
    struct dn_eval_places places;
    const struct dn_eval_case **cases; /* batch: those that are asked for */
    struct dn_eval_step *steps;        /* live: what is asked for and applied */
    size_t step_count;
    FILE *save; /* NULL: places are not saved */
    uint16_t *against;
    size_t k; /* the largest */
    atomic_size_t next;
    atomic_bool failed;
    pthread_mutex_t lock; /* of what follows */
    enum dn_code code;
    struct dn_error err;
};

struct asker { /* one thread's */
    struct run *run;
    struct dn_epoch_reader *reader;
    struct dn_arena *arena;
    uint16_t *shown[DN_EVAL_METHODS];
    double cpu_s[DN_EVAL_METHODS];
    bool reports;
};

const char *dn_eval_method_name(unsigned method)
{
    if (method == DN_EVAL_BLEND)
        return "blend";
    if (method == DN_EVAL_POPULAR)
        return "popular";
    return method < DN_EVAL_METHODS ? dn_recommend_source_name(method - DN_EVAL_SOURCES) : NULL;
}

static bool is_asked(const struct run *run, unsigned method)
{
    return (run->options->methods & 1u << method) != 0;
}

static void report(const struct run *run, const char *what, size_t done, size_t total)
{
    if (run->options->progress != NULL)
        run->options->progress(run->options->progress_data, what, done, total);
}

/* ---- one prediction ---------------------------------------------------------------------------------- */

struct question {
    size_t at; /* which prediction */
    const struct dn_session_view *session;
    struct dn_hash128 user;
    uint32_t last, target; /* items */
};

static bool is_item(const struct dn_eval_item *item, const struct dn_item *other)
{
    return item->hash == other->id_hash && item->length == other->id_length &&
           memcmp(item->name, other->id, item->length) == 0;
}

static void show(uint16_t *shown, uint32_t slot, size_t slot_max, size_t place)
{
    if (slot < slot_max && (shown[slot] == 0 || shown[slot] > place))
        shown[slot] = (uint16_t)place;
}

/* What was clicked most, without what is not to be recommended. */
static void ask_popular(struct asker *asker, const struct question *question)
{
    struct run *run = asker->run;
    const struct dn_eval_state *state = &run->state;
    double start_s = dn_eval_cpu_s();
    size_t place = 0;

    for (size_t i = 0; i < state->top_count && place < run->k; i++) {
        const struct dn_eval_item *item = &run->set->items[state->top[i]];
        bool hidden = run->set->drop_last && state->top[i] == question->last;
        for (size_t e = 0; run->options->hide_seen && !hidden && e < question->session->event_count; e++)
            hidden = question->session->events[e].item_hash == item->hash;
        if (hidden)
            continue;
        place++;
        show(asker->shown[DN_EVAL_POPULAR], state->slots[state->top[i]], run->places.slot_max, place);
        if (state->top[i] == question->target) {
            run->places.of[DN_EVAL_POPULAR][question->at] = (uint16_t)place;
            run->places.found[DN_EVAL_POPULAR][question->at] = 1;
        }
    }
    asker->cpu_s[DN_EVAL_POPULAR] += dn_eval_cpu_s() - start_s;
}

static enum dn_code ask(struct asker *asker, const struct question *question, unsigned method,
                        struct dn_error *err)
{
    struct run *run = asker->run;
    const struct dn_eval_item *last = &run->set->items[question->last];
    const struct dn_eval_item *target = &run->set->items[question->target];
    struct dn_recommend_settings settings = run->options->recommend;
    bool named = false;
    struct dn_attribute exclude = {.key = "", .value = last->name, .value_length = last->length};
    struct dn_recommend_query query = {.session = question->session,
                                       .user = question->user,
                                       .k = run->k,
                                       .include_seen = !run->options->hide_seen,
                                       .exclude = &exclude,
                                       .exclude_count = run->set->drop_last ? 1 : 0,
                                       .only = method == DN_EVAL_BLEND ? 0 : 1 + method - DN_EVAL_SOURCES,
                                       .ret_named = &named,
                                       .watched = run->state.slots[question->target]};
    struct dn_recommended *items;
    size_t count;

    if (method != DN_EVAL_BLEND) /* by itself it is on, whatever the blend does without */
        settings.sources_off = 0;
    double start_s = dn_eval_cpu_s();
    enum dn_code code = dn_recommend(&run->state.world, &settings, &query, asker->arena, &items, &count, err);

    asker->cpu_s[method] += dn_eval_cpu_s() - start_s;
    if (code != DN_OK)
        return code;
    for (size_t i = 0; i < count; i++) {
        show(asker->shown[method], items[i].item.slot, run->places.slot_max, i + 1);
        if (is_item(target, &items[i].item))
            run->places.of[method][question->at] = (uint16_t)(i + 1);
    }
    run->places.found[method][question->at] = named;
    return DN_OK;
}

/* Inside an epoch; the session is in the asker's arena. */
static enum dn_code ask_all(struct asker *asker, const struct question *question, struct dn_error *err)
{
    struct run *run = asker->run;
    enum dn_code code = DN_OK;

    for (unsigned method = 0; method < DN_EVAL_METHODS && code == DN_OK; method++) {
        if (!is_asked(run, method))
            continue;
        if (method == DN_EVAL_POPULAR)
            ask_popular(asker, question);
        else
            code = ask(asker, question, method, err);
    }
    return code;
}

/* ---- askers ------------------------------------------------------------------------------------------ */

static bool asker_open(struct asker *asker, struct run *run)
{
    bool whole;

    *asker = (struct asker){.run = run};
    asker->reader = dn_epoch_register(run->state.epoch);
    asker->arena = dn_arena_create(ARENA_BLOCK_BYTES, ARENA_BYTES_MAX);
    whole = asker->reader != NULL && asker->arena != NULL;
    for (unsigned method = 0; method < DN_EVAL_METHODS && whole; method++) {
        if (!is_asked(run, method))
            continue;
        asker->shown[method] = calloc(run->places.slot_max + 1, sizeof *asker->shown[method]);
        whole = asker->shown[method] != NULL;
    }
    return whole;
}

/* Adds up what it has. One asker at a time. */
static void asker_close(struct asker *asker)
{
    struct dn_eval_places *places = &asker->run->places;

    for (unsigned method = 0; method < DN_EVAL_METHODS; method++) {
        places->cpu_s[method] += asker->cpu_s[method];
        for (size_t slot = 0; asker->shown[method] != NULL && slot < places->slot_max; slot++)
            if (asker->shown[method][slot] != 0)
                show(places->shown[method], (uint32_t)slot, places->slot_max, asker->shown[method][slot]);
        free(asker->shown[method]);
    }
    dn_arena_destroy(asker->arena);
    if (asker->reader != NULL)
        dn_epoch_unregister(asker->reader);
}

/* ---- batch ------------------------------------------------------------------------------------------- */

static enum dn_code ask_case(struct asker *asker, size_t at, struct dn_error *err)
{
    struct run *run = asker->run;
    const struct dn_eval_case *known = run->cases[at];
    const struct dn_eval_event *events = &run->set->events[known->first];
    struct dn_session_view session;

    dn_arena_reset(asker->arena);
    if (!dn_eval_prefix(&run->state, known, asker->arena, &session))
        return dn_fail(err, DN_EXHAUSTED, "a session of %u events does not fit a request's memory",
                       known->length);
    dn_epoch_enter(asker->reader);
    enum dn_code code = ask_all(asker,
                                &(struct question){.at = at,
                                                   .session = &session,
                                                   .last = events[known->length - 1].item,
                                                   .target = events[known->length].item},
                                err);
    dn_epoch_leave(asker->reader);
    return code;
}

static void *ask_cases(void *data)
{
    struct asker *asker = data;
    struct run *run = asker->run;
    struct dn_error err = {.code = DN_OK};

    while (!atomic_load(&run->failed)) {
        size_t from = atomic_fetch_add(&run->next, CHUNK);
        if (from >= run->places.count)
            return NULL;
        if (asker->reports)
            report(run, "predict", from, run->places.count);
        for (size_t at = from; at < from + CHUNK && at < run->places.count; at++) {
            enum dn_code code = ask_case(asker, at, &err);
            if (code == DN_OK)
                continue;
            pthread_mutex_lock(&run->lock);
            if (run->code == DN_OK) {
                run->code = code;
                run->err = err;
            }
            pthread_mutex_unlock(&run->lock);
            atomic_store(&run->failed, true);
            return NULL;
        }
    }
    return NULL;
}

/* This thread is the first of them. */
static enum dn_code batch(struct run *run, struct dn_error *err)
{
    struct asker askers[DN_EVAL_THREADS_MAX];
    pthread_t threads[DN_EVAL_THREADS_MAX];
    unsigned open = 0, running = 1;
    bool whole = true;

    DN_ASSERT(run->options->threads >= 1 && run->options->threads <= DN_EVAL_THREADS_MAX);
    do
        whole = asker_open(&askers[open++], run);
    while (open < run->options->threads && whole);
    askers[0].reports = true;
    while (whole && running < open &&
           pthread_create(&threads[running], NULL, ask_cases, &askers[running]) == 0)
        running++;
    if (whole)
        ask_cases(&askers[0]);
    for (unsigned i = 1; i < running; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < open; i++)
        asker_close(&askers[i]);
    if (!whole)
        return dn_fail(err, DN_NO_MEMORY, "out of memory for %u threads", run->options->threads);
    if (run->code != DN_OK && err != NULL)
        *err = run->err;
    return run->code;
}

static uint64_t next_random(uint64_t *state) /* splitmix64: Steele, Lea, Flood, 2014 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* All cases, or options->max of them, each as likely as any other (Knuth's algorithm S). */
static bool choose_cases(struct run *run)
{
    const struct dn_eval_set *set = run->set;
    size_t wanted =
        run->options->max == 0 || run->options->max > set->case_count ? set->case_count : run->options->max;
    uint64_t random = run->options->seed;

    run->cases = calloc(wanted + 1, sizeof *run->cases);
    if (run->cases == NULL)
        return false;
    for (size_t i = 0; i < set->case_count && run->places.count < wanted; i++)
        if (next_random(&random) % (set->case_count - i) < wanted - run->places.count)
            run->cases[run->places.count++] = &set->cases[i];
    return true;
}

/* ---- live -------------------------------------------------------------------------------------------- */

/* As many of the first sessions as give about options->max predictions. */
static size_t live_sessions(const struct run *run)
{
    const struct dn_eval_set *set = run->set;
    size_t sessions = set->session_count - set->train_count, max = run->options->max;

    if (max == 0 || max >= set->case_count)
        return sessions;
    size_t some = (size_t)((double)sessions * (double)max / (double)set->case_count);
    return some > 0 ? some : 1;
}

static enum dn_code ask_step(struct asker *asker, const struct dn_eval_step *step, size_t at,
                             struct dn_error *err)
{
    struct run *run = asker->run;
    const struct dn_eval_session *known = &run->set->sessions[step->session];
    const struct dn_eval_event *events = &run->set->events[known->first + step->position - 1];
    struct dn_session_view session;

    dn_arena_reset(asker->arena);
    dn_epoch_enter(asker->reader);
    enum dn_code code = dn_eval_session_read(&run->state, step->session, asker->arena, &session, err);
    if (code == DN_OK)
        code = ask_all(asker,
                       &(struct question){.at = at,
                                          .session = &session,
                                          .user = known->user,
                                          .last = events[0].item,
                                          .target = events[1].item},
                       err);
    dn_epoch_leave(asker->reader);
    return code;
}

static enum dn_code live(struct run *run, struct dn_error *err)
{
    const struct dn_eval_step *steps = run->steps;
    size_t count = run->step_count;
    struct asker asker;
    size_t at = 0;
    enum dn_code code = asker_open(&asker, run)
                            ? DN_OK
                            : dn_fail(err, DN_NO_MEMORY, "out of memory for a thread of requests");

    for (size_t i = 0; i < count && code == DN_OK; i++) {
        if (steps[i].position > 0)
            code = ask_step(&asker, &steps[i], at++, err);
        if (code == DN_OK)
            code = dn_eval_take(&run->state, &steps[i], true, err);
        if (i % PROGRESS_EVERY == 0)
            report(run, "live", i, count);
    }
    asker_close(&asker);
    return code;
}

/* ---- the whole --------------------------------------------------------------------------------------- */

static enum dn_code train(struct run *run, struct dn_error *err)
{
    size_t count, from = 0;
    struct dn_eval_step *steps = dn_eval_steps(run->set, 0, run->set->train_count, &count);
    enum dn_code code = steps != NULL ? DN_OK : dn_fail(err, DN_NO_MEMORY, "out of memory for the sessions");

    if (run->options->learn < run->set->train_count)
        from = run->set->train_count - run->options->learn;
    for (size_t i = 0; i < count && code == DN_OK; i++) {
        code = dn_eval_take(&run->state, &steps[i], steps[i].session >= from, err);
        if (i % PROGRESS_EVERY == 0)
            report(run, "learn", i, count);
    }
    free(steps);
    return code;
}

/* How many steps of learning there will be, so that the loss is that of the last tenth. */
static size_t steps_expected(const struct run *run, size_t live_count)
{
    size_t count = live_count, train = run->set->train_count;
    size_t learn = run->options->learn < train ? run->options->learn : train;

    for (size_t s = train - learn; s < train; s++)
        count += run->set->sessions[s].count - 1;
    return count;
}

/* One after the other: which prediction is which. last[1] is what comes. */
static void plan_one(struct dn_eval_places *places, size_t at, const struct dn_eval_event *last,
                     size_t cluster)
{
    const uint32_t asked[] = {(uint32_t)cluster, last[0].item, last[1].item};

    places->clusters[at] = asked[0];
    places->hash = dn_hash64(asked, sizeof asked, places->hash);
}

static bool plan_cases(struct run *run)
{
    struct dn_eval_places *places = &run->places;

    if (!choose_cases(run))
        return false;
    places->clusters = calloc(places->count + 1, sizeof *places->clusters);
    for (size_t at = 0; places->clusters != NULL && at < places->count; at++) {
        const struct dn_eval_case *known = run->cases[at];
        DN_ASSERT(known != NULL);
        plan_one(places, at, &run->set->events[known->first + known->length - 1], known->cluster);
    }
    return places->clusters != NULL;
}

static bool plan_live(struct run *run)
{
    const struct dn_eval_set *set = run->set;
    struct dn_eval_places *places = &run->places;
    size_t from = set->train_count, at = 0;
    struct dn_eval_step *steps = dn_eval_steps(set, from, from + live_sessions(run), &run->step_count);

    run->steps = steps;
    for (size_t i = 0; steps != NULL && i < run->step_count; i++)
        places->count += steps[i].position > 0;
    places->clusters = calloc(places->count + 1, sizeof *places->clusters);
    if (steps == NULL || places->clusters == NULL)
        return false;
    for (size_t i = 0; i < run->step_count; i++)
        if (steps[i].position > 0)
            plan_one(places, at++,
                     &set->events[set->sessions[steps[i].session].first + steps[i].position - 1],
                     steps[i].session - from);
    return true;
}

static bool open_places(struct run *run)
{
    struct dn_eval_places *places = &run->places;
    bool whole = true;

    places->slot_max = run->state.slot_max;
    for (unsigned method = 0; method < DN_EVAL_METHODS && whole; method++) {
        if (!is_asked(run, method))
            continue;
        places->of[method] = calloc(places->count + 1, sizeof *places->of[method]);
        places->found[method] = calloc(places->count + 1, 1);
        places->shown[method] = calloc(places->slot_max + 1, sizeof *places->shown[method]);
        whole = places->of[method] != NULL && places->found[method] != NULL && places->shown[method] != NULL;
    }
    return whole;
}

static void close_run(struct run *run)
{
    for (unsigned method = 0; method < DN_EVAL_METHODS; method++) {
        free(run->places.of[method]);
        free(run->places.found[method]);
        free(run->places.shown[method]);
    }
    free(run->places.clusters);
    free((void *)run->cases);
    free(run->steps);
    free(run->against);
    if (run->save != NULL)
        fclose(run->save);
    dn_eval_state_close(&run->state);
    pthread_mutex_destroy(&run->lock);
    free(run);
}

/* What can be wrong with files is told before the work, which may take hours. The other run's is read whole
 * first: it may be the one that is then written. */
static enum dn_code open_files(struct run *run, struct dn_error *err)
{
    const struct dn_eval_options *options = run->options;
    enum dn_code code = DN_OK;

    if (options->against != NULL)
        code = dn_eval_places_read(&run->places, run->k, options->against, &run->against, err);
    run->places.against = run->against;
    if (code == DN_OK && options->save != NULL)
        code = dn_eval_places_create(options->save, &run->save, err);
    return code;
}

static enum dn_code ask_everything(struct run *run, struct dn_error *err)
{
    /* What will be asked: all of it is known before anything is learned. */
    bool whole = run->options->live ? plan_live(run) : plan_cases(run);
    enum dn_code code = whole ? open_files(run, err) : DN_OK;

    if (whole && code == DN_OK)
        code = dn_eval_state_open(&run->state, run->set, run->options, err);
    if (code != DN_OK)
        return code;
    if (!whole || !open_places(run))
        return dn_fail(err, DN_NO_MEMORY, "out of memory for %zu predictions", run->places.count);
    size_t expected = steps_expected(run, run->options->live ? run->places.count : 0);
    run->state.loss_from = expected - expected / 10;
    code = train(run, err);
    if (code == DN_OK)
        code = run->options->live ? live(run, err) : batch(run, err);
    return code;
}

static enum dn_code check(const struct dn_eval_set *set, const struct dn_eval_options *options,
                          struct dn_error *err)
{
    if (options->k_count < 1 || options->k_count > DN_EVAL_KS_MAX)
        return dn_fail(err, DN_INVALID, "%zu values of k: 1 to %d are allowed", options->k_count,
                       DN_EVAL_KS_MAX);
    for (size_t i = 0; i < options->k_count; i++)
        if (options->ks[i] < 1 || options->ks[i] > DN_EVAL_K_MAX ||
            (i > 0 && options->ks[i] <= options->ks[i - 1]))
            return dn_fail(err, DN_INVALID, "k must rise, and be 1 to %d", DN_EVAL_K_MAX);
    if (options->threads < 1 || options->threads > DN_EVAL_THREADS_MAX)
        return dn_fail(err, DN_INVALID, "threads must be 1 to %d", DN_EVAL_THREADS_MAX);
    if (options->shards < 1 || options->shards > DN_EVAL_SHARDS_MAX)
        return dn_fail(err, DN_INVALID, "shards must be 1 to %d", DN_EVAL_SHARDS_MAX);
    if ((options->methods & ((1u << DN_EVAL_METHODS) - 1)) == 0)
        return dn_fail(err, DN_INVALID, "there is nothing to compare");
    if (options->live && set->facts.pairs)
        return dn_fail(err, DN_INVALID,
                       "a file of prefixes has no order in time: a live run needs a log that is split");
    return DN_OK;
}

void dn_eval_options_default(struct dn_eval_options *options)
{
    *options = (struct dn_eval_options){
        .methods = (1u << DN_EVAL_METHODS) - 1,
        .ks = {1, 5, 10, 20},
        .k_count = 4,
        .seed = 7,
        .threads = 1,
        .shards = 4,
        .learn = 20000,
        .cold = true,
    };
    dn_shard_settings_default(&options->settings);
    options->settings.gap_ms = INT64_C(7) * 86400000; /* a session's end is the log's word */
    dn_recommend_settings_default(&options->recommend);
}

static void tell_state(const struct dn_eval_state *state, struct dn_eval_result *result)
{
    result->events = state->events;
    result->refused = state->refused;
    result->steps = state->steps;
    result->used = state->used;
    if (state->loss_count > 0) {
        result->loss = state->loss_sum / (double)state->loss_count;
        result->network_loss = state->network_loss_sum / (double)state->loss_count;
    }
    result->network_leads = state->model.network.leads;
    result->apply_us = state->events > 0 ? state->apply_s * 1e6 / (double)state->events : 0;
    result->learn_us = state->steps > 0 ? state->learn_s * 1e6 / (double)state->steps : 0;
    for (uint32_t i = 0; i < state->shard_count; i++) {
        struct dn_shard_stats stats;
        dn_shard_stats(state->shards[i], &stats);
        result->memory_bytes += stats.memory_bytes;
    }
}

/* Places to results. They are told even where the places cannot be written. */
static enum dn_code conclude(struct run *run, struct dn_eval_result *result, struct dn_error *err)
{
    unsigned first = 0;

    while (!is_asked(run, first))
        first++;
    if (!dn_eval_measure(&run->places, run->options, dn_catalog_item_count(run->state.catalog), result))
        return dn_fail(err, DN_NO_MEMORY, "out of memory for %zu sessions", run->places.cluster_count);
    if (run->save != NULL)
        dn_eval_places_write(&run->places, first, run->k, run->options->save, run->save, &result->unsaved);
    run->save = NULL;
    tell_state(&run->state, result);
    return DN_OK;
}

enum dn_code dn_eval_run(const struct dn_eval_set *set, const struct dn_eval_options *options,
                         struct dn_eval_result **ret, struct dn_error *err)
{
    enum dn_code code = check(set, options, err);
    struct run *run = calloc(1, sizeof *run);
    struct dn_eval_result *result = calloc(1, sizeof *result);

    if (code != DN_OK || run == NULL || result == NULL) {
        free(run);
        free(result);
        return code != DN_OK ? code : dn_fail(err, DN_NO_MEMORY, "out of memory");
    }
    run->set = set;
    run->places.cluster_count = set->cluster_count;
    run->options = options;
    run->k = options->ks[options->k_count - 1];
    pthread_mutex_init(&run->lock, NULL);
    code = ask_everything(run, err);
    if (code == DN_OK)
        code = conclude(run, result, err);
    close_run(run);
    if (code == DN_OK)
        *ret = result;
    else
        free(result);
    return code;
}
