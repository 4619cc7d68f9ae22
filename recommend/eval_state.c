/* The state an evaluation is made on: shards, catalogue and retrieval as a node has them, with records
 * applied one event an entry.
 *
 * A session of the log is a user of its own, so that where it ends is the log's word. An item comes into the
 * catalogue just before its first event. The group's time is the event's. */
#include "recommend/eval_private.h"

#include "session/record.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_BYTES_MAX ((size_t)1 << 20)
#define ARENA_BLOCK_BYTES ((size_t)256 << 10)
#define ARENA_BYTES_MAX ((size_t)64 << 20)
#define STREAM_NAME "eval"
#define CATALOG_SPARE 2000000u /* items that have a vector but no event */
#define INDEX_WAIT_MS 600000
#define INDEX_POLL_MS 10
#define DEFAULT_FACTORY "Flat"

/* ---- the catalogue ----------------------------------------------------------------------------------- */

static enum dn_code upsert(struct dn_eval_state *state, const struct dn_item *item, struct dn_error *err)
{
    const uint8_t *outcomes;
    uint32_t count;
    struct dn_item stored;

    dn_buffer_clear(&state->record);
    dn_buffer_clear(&state->answer);
    dn_catalog_record_upsert(&state->record, item, 1);
    if (state->record.failed)
        return dn_fail(err, DN_NO_MEMORY, "item '%.*s'", item->id_length, item->id);
    dn_catalog_apply(state->catalog, ++state->index, 0, 1, state->record.bytes, state->record.length,
                     &state->answer);
    dn_catalog_entry_done(state->catalog, state->index, 1);
    enum dn_code code =
        dn_catalog_result_parse(state->answer.bytes, state->answer.length, &count, &outcomes, err);
    if (code != DN_OK || count != 1 || outcomes[0] != DN_ITEM_OK)
        return dn_fail(err, DN_INVALID, "the catalogue does not take item '%.*s'%s", item->id_length,
                       item->id,
                       code == DN_OK && count == 1 && outcomes[0] == DN_ITEM_WRONG_DIM
                           ? ": its vector has another dimension than the first one"
                           : "");
    uint32_t known =
        dn_eval_item_find(state->set, dn_hash64(item->id, item->id_length, 0), item->id, item->id_length);
    code = dn_catalog_get(state->catalog, item->id, item->id_length, &stored);
    DN_ASSERT(code == DN_OK);
    if (known != DN_EVAL_NO_ITEM)
        state->slots[known] = stored.slot;
    return DN_OK;
}

static enum dn_code add_item(struct dn_eval_state *state, uint32_t item, struct dn_error *err)
{
    const struct dn_eval_item *known = &state->set->items[item];

    if (state->slots[item] != UINT32_MAX)
        return DN_OK;
    return upsert(state,
                  &(struct dn_item){.id = known->name,
                                    .id_length = known->length,
                                    .category = "",
                                    .price = (double)known->price,
                                    .available = true},
                  err);
}

/* An item of the file of vectors. */
static enum dn_code add_vector(void *data, const struct dn_item *item, struct dn_error *err)
{
    struct dn_eval_state *state = data;
    uint32_t known =
        dn_eval_item_find(state->set, dn_hash64(item->id, item->id_length, 0), item->id, item->id_length);
    struct dn_item copy = *item;

    if (isnan(copy.price) && known != DN_EVAL_NO_ITEM)
        copy.price = (double)state->set->items[known].price;
    return upsert(state, &copy, err);
}

static enum dn_code fill_catalog(struct dn_eval_state *state, struct dn_error *err)
{
    const struct dn_eval_options *options = state->options;
    enum dn_code code = DN_OK;

    if (options->items != NULL)
        code = dn_items_read(options->items, options->ids, add_vector, state, err);
    for (uint32_t i = 0; code == DN_OK && options->cold && i < state->set->item_count; i++)
        code = add_item(state, i, err);
    return code;
}

/* An index is built beside: what is asked before it is there, or of items it has not, is searched exactly,
 * and would be told as the index's. */
static enum dn_code wait_for_index(const struct dn_eval_state *state, struct dn_error *err)
{
    struct dn_retrieval_status status;

    if (dn_catalog_dim(state->catalog) == 0)
        return DN_OK;
    for (int waited_ms = 0; waited_ms < INDEX_WAIT_MS; waited_ms += INDEX_POLL_MS) {
        dn_retrieval_status(state->retrieval, &status);
        if (status.error[0] != '\0')
            return dn_fail(err, DN_UNAVAILABLE, "the index '%s' is not built: %s",
                           state->options->factory != NULL ? state->options->factory : DEFAULT_FACTORY,
                           status.error);
        if (!status.building && status.builds > 0 && status.pending == 0)
            return DN_OK;
        nanosleep(&(struct timespec){.tv_nsec = INDEX_POLL_MS * 1000000L}, NULL);
    }
    return dn_fail(err, DN_UNAVAILABLE, "the index is not built after %d s: %" PRIu64 " items are not in it",
                   INDEX_WAIT_MS / 1000, status.pending);
}

/* ---- popularity -------------------------------------------------------------------------------------- */

static bool is_more_popular(const struct dn_eval_state *state, uint32_t a, uint32_t b)
{
    const struct dn_eval_item *x = &state->set->items[a], *y = &state->set->items[b];
    size_t shorter = x->length < y->length ? x->length : y->length;

    if (state->clicks[a] != state->clicks[b])
        return state->clicks[a] > state->clicks[b];
    int order = memcmp(x->name, y->name, shorter);
    return order != 0 ? order < 0 : x->length < y->length;
}

/* Counts only rise: whoever comes into the list was counted just now. */
static void count_click(struct dn_eval_state *state, uint32_t item)
{
    size_t at = 0;

    state->clicks[item]++;
    while (at < state->top_count && state->top[at] != item)
        at++;
    if (at == state->top_count && state->top_count < state->top_max)
        state->top[state->top_count++] = item;
    else if (at == state->top_count && is_more_popular(state, item, state->top[at - 1]))
        state->top[--at] = item;
    else if (at == state->top_count)
        return;
    for (; at > 0 && is_more_popular(state, item, state->top[at - 1]); at--) {
        state->top[at] = state->top[at - 1];
        state->top[at - 1] = item;
    }
}

/* ---- events ------------------------------------------------------------------------------------------ */

static uint32_t shard_of(const struct dn_eval_state *state, const struct dn_eval_session *session)
{
    return session->murmur % state->shard_count;
}

static enum dn_code apply(struct dn_eval_state *state, uint32_t shard, int64_t time_ms, struct dn_result *ret,
                          struct dn_error *err)
{
    if (state->record.failed)
        return dn_fail(err, DN_NO_MEMORY, "a record");
    dn_buffer_clear(&state->answer);
    dn_shard_apply(state->shards[shard], ++state->index, 0, time_ms, state->record.bytes,
                   state->record.length, &state->answer);
    dn_shard_entry_done(state->shards[shard], state->index, time_ms);
    return dn_result_parse(state->answer.bytes, state->answer.length, state->record.bytes[0], ret, err);
}

/* Dead letters are for somebody else: here they only must not fill their queue. */
static enum dn_code drop_letters(struct dn_eval_state *state, uint32_t shard, int64_t time_ms,
                                 struct dn_error *err)
{
    uint64_t written, next;
    struct dn_result ignored;

    dn_shard_dead_range(state->shards[shard], &written, &next);
    if (next - written < DN_DEAD_MAX / 2)
        return DN_OK;
    dn_buffer_clear(&state->record);
    dn_record_dead_written(&state->record, next);
    return apply(state, shard, time_ms, &ignored, err);
}

static enum dn_code apply_event(struct dn_eval_state *state, const struct dn_eval_session *session,
                                const struct dn_eval_event *event, struct dn_error *err)
{
    const struct dn_eval_item *item = &state->set->items[event->item];
    uint32_t shard = shard_of(state, session);
    int64_t *offset = &state->offsets[shard];
    struct dn_result result;
    struct dn_event_in in = {.user = session->user,
                             .time_ms = event->time_ms,
                             .weight = DN_WEIGHT_ONE,
                             .type = event->type,
                             .offset = *offset == DN_OFFSET_UNSET ? 0 : *offset,
                             .item = item->name,
                             .item_length = item->length};

    dn_buffer_clear(&state->record);
    dn_record_stream(&state->record, STREAM_NAME, shard, *offset, in.offset + 1, &in, 1, NULL, 0);
    enum dn_code code = apply(state, shard, event->time_ms, &result, err);
    if (code != DN_OK)
        return code;
    if (result.status != DN_RESULT_OK || result.count != 1)
        return dn_fail(err, DN_INTERNAL, "the shard refused an event (status %d)", (int)result.status);
    *offset = in.offset + 1;
    state->events++;
    if (result.outcomes[0] != DN_OUTCOME_ACCEPTED)
        state->refused++;
    return drop_letters(state, shard, event->time_ms, err);
}

enum dn_code dn_eval_session_read(struct dn_eval_state *state, size_t session, struct dn_arena *arena,
                                  struct dn_session_view *ret, struct dn_error *err)
{
    const struct dn_eval_session *known = &state->set->sessions[session];
    enum dn_code code = dn_shard_read(state->shards[shard_of(state, known)], known->user, arena, ret);

    if (code == DN_NOT_FOUND) { /* forgotten, or refused: as somebody new */
        *ret = (struct dn_session_view){0};
        return DN_OK;
    }
    return code == DN_OK ? DN_OK : dn_fail(err, code, "a session does not fit a request's memory");
}

static enum dn_code learn(struct dn_eval_state *state, size_t session, struct dn_error *err)
{
    struct dn_session_view view;
    struct dn_learned learned;

    dn_arena_reset(state->arena);
    dn_epoch_enter(state->reader);
    enum dn_code code = dn_eval_session_read(state, session, state->arena, &view, err);
    if (code == DN_OK)
        code = dn_learner_step(state->learner, &state->world, &state->options->recommend,
                               state->set->sessions[session].user, &view, state->arena, &learned, err);
    dn_epoch_leave(state->reader);
    if (code != DN_OK)
        return code;
    dn_learner_model(state->learner, &state->model);
    state->steps++;
    state->used += learned.used;
    if (learned.used && state->steps > state->loss_from) {
        state->loss_sum += (double)learned.loss;
        state->network_loss_sum += (double)learned.network_loss;
        state->loss_count++;
    }
    return DN_OK;
}

enum dn_code dn_eval_take(struct dn_eval_state *state, const struct dn_eval_step *step, bool teaches,
                          struct dn_error *err)
{
    const struct dn_eval_session *session = &state->set->sessions[step->session];
    const struct dn_eval_event *event = &state->set->events[session->first + step->position];
    enum dn_code code = add_item(state, event->item, err);
    double before_s = dn_eval_cpu_s();

    if (code == DN_OK)
        code = apply_event(state, session, event, err);
    double applied_s = dn_eval_cpu_s();
    count_click(state, event->item);
    if (code == DN_OK && teaches && state->learner != NULL && step->position > 0)
        code = learn(state, step->session, err);
    state->apply_s += applied_s - before_s;
    state->learn_s += dn_eval_cpu_s() - applied_s;
    return code;
}

bool dn_eval_prefix(const struct dn_eval_state *state, const struct dn_eval_case *prefix,
                    struct dn_arena *arena, struct dn_session_view *ret)
{
    uint32_t most = state->options->settings.events_per_user;
    uint32_t count = prefix->length < most ? prefix->length : most;
    const struct dn_eval_event *from = &state->set->events[prefix->first + prefix->length - count];
    struct dn_event_view *events = dn_arena_alloc(arena, count * sizeof *events);

    *ret = (struct dn_session_view){.start_ms = state->set->events[prefix->first].time_ms,
                                    .last_ms = from[count - 1].time_ms,
                                    .session_events = prefix->length,
                                    .event_count = count,
                                    .events = events};
    if (events == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct dn_eval_item *item = &state->set->items[from[i].item];
        events[i] = (struct dn_event_view){.item = item->name,
                                           .item_length = item->length,
                                           .item_hash = item->hash,
                                           .type = from[i].type,
                                           .time_ms = from[i].time_ms,
                                           .weight = 1,
                                           .current = true};
        uint16_t *of_type = &ret->counts[from[i].type];
        *of_type = *of_type == UINT16_MAX ? UINT16_MAX : (uint16_t)(*of_type + 1);
    }
    return true;
}

/* ---- life -------------------------------------------------------------------------------------------- */

static enum dn_code open_shards(struct dn_eval_state *state, struct dn_error *err)
{
    enum dn_code code = dn_shard_settings_check(&state->options->settings, err);
    struct dn_result result;

    for (uint32_t i = 0; i < state->options->shards && code == DN_OK; i++) {
        state->offsets[i] = DN_OFFSET_UNSET;
        state->shards[i] = dn_shard_create(state->epoch);
        if (state->shards[i] == NULL)
            return dn_fail(err, DN_NO_MEMORY, "shard %u", i + 1);
        state->shard_count++;
        dn_buffer_clear(&state->record);
        dn_record_settings(&state->record, &state->options->settings);
        code = apply(state, i, 1, &result, err);
        if (code == DN_OK && result.status != DN_RESULT_OK)
            code = dn_fail(err, DN_INTERNAL, "the shard refused its settings");
    }
    return code;
}

static bool get_memory(struct dn_eval_state *state)
{
    const struct dn_eval_set *set = state->set;

    state->slots = malloc((set->item_count + 1) * sizeof *state->slots);
    state->clicks = calloc(set->item_count + 1, sizeof *state->clicks);
    state->top_max = state->options->ks[state->options->k_count - 1] + 1;
    state->top = calloc(state->top_max, sizeof *state->top);
    state->epoch = dn_epoch_create();
    state->reader = state->epoch != NULL ? dn_epoch_register(state->epoch) : NULL;
    state->arena = dn_arena_create(ARENA_BLOCK_BYTES, ARENA_BYTES_MAX);
    dn_buffer_init(&state->record, RECORD_BYTES_MAX);
    dn_buffer_init(&state->answer, RECORD_BYTES_MAX);
    if (state->slots == NULL || state->clicks == NULL || state->top == NULL || state->reader == NULL ||
        state->arena == NULL)
        return false;
    memset(state->slots, 0xff, set->item_count * sizeof *state->slots);
    state->catalog = dn_catalog_create(state->epoch, (uint32_t)set->item_count + CATALOG_SPARE);
    dn_model_default(&state->model);
    state->learner = state->options->learn > 0 ? dn_learner_create(&state->model) : NULL;
    if (state->learner != NULL)
        dn_learner_challenge(state->learner, !state->options->no_network);
    return state->catalog != NULL && (state->options->learn == 0 || state->learner != NULL);
}

enum dn_code dn_eval_state_open(struct dn_eval_state *state, const struct dn_eval_set *set,
                                const struct dn_eval_options *options, struct dn_error *err)
{
    struct dn_retrieval_options how = {.factory =
                                           options->factory != NULL ? options->factory : DEFAULT_FACTORY};

    *state = (struct dn_eval_state){.set = set, .options = options};
    if (!get_memory(state))
        return dn_fail(err, DN_NO_MEMORY, "out of memory for the state");
    enum dn_code code = open_shards(state, err);
    if (code == DN_OK)
        code = fill_catalog(state, err);
    if (code == DN_OK) /* of a full catalogue: one build has all of it */
        code = dn_retrieval_create(state->catalog, state->epoch, &how, &state->retrieval, err);
    if (code == DN_OK)
        code = wait_for_index(state, err);
    if (code != DN_OK)
        return code;
    state->slot_max = dn_catalog_slot_bound(state->catalog) + set->item_count;
    state->world = (struct dn_recommend_world){.catalog = state->catalog,
                                               .retrieval = state->retrieval,
                                               .shards = (const struct dn_shard *const *)state->shards,
                                               .shard_count = state->shard_count,
                                               .model = &state->model};
    return DN_OK;
}

void dn_eval_state_close(struct dn_eval_state *state)
{
    if (state->retrieval != NULL)
        dn_retrieval_destroy(state->retrieval);
    dn_learner_destroy(state->learner);
    for (uint32_t i = 0; i < state->shard_count; i++)
        dn_shard_destroy(state->shards[i]);
    if (state->catalog != NULL)
        dn_catalog_destroy(state->catalog);
    if (state->reader != NULL)
        dn_epoch_unregister(state->reader);
    if (state->epoch != NULL)
        dn_epoch_destroy(state->epoch);
    dn_arena_destroy(state->arena);
    dn_buffer_free(&state->record);
    dn_buffer_free(&state->answer);
    free(state->slots);
    free(state->clicks);
    free(state->top);
}
