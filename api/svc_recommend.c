/* Recommendations: Recommend, Similar, Trending. The work is the recommend room's; here are the request, the
 * session it starts from, and the answer. */
#include "api/service.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

/* Items of an answer: ids get the NUL that protobuf-c wants. False: answered. */
static bool items_give(struct dn_call *call, const struct dn_recommended *from, size_t count,
                       size_t *ret_count, Dunlin__V1__RecommendedItem ***ret_items)
{
    Dunlin__V1__RecommendedItem *items = dn_arena_alloc(call->arena, count * sizeof *items);
    Dunlin__V1__RecommendedItem **pointers = dn_arena_alloc(call->arena, count * sizeof *pointers);
    if (!items || !pointers)
        goto err_memory;
    for (size_t i = 0; i < count; i++) {
        dunlin__v1__recommended_item__init(&items[i]);
        items[i].id = dn_arena_strndup(call->arena, from[i].item.id, from[i].item.id_length);
        if (!items[i].id)
            goto err_memory;
        items[i].score = from[i].score;
        items[i].reason = (char *)(uintptr_t)from[i].reason;
        items[i].source = (char *)(uintptr_t)from[i].source;
        pointers[i] = &items[i];
    }
    *ret_count = count;
    *ret_items = pointers;
    return true;

err_memory:
    dn_fail_memory(call);
    return false;
}

static void fail_inside(struct dn_call *call, enum dn_code code, struct dn_error *err)
{
    if (err->code == DN_OK)
        dn_fail(err, code, "%s", dn_code_text(code));
    dn_call_fail_error(call, err);
}

/* ---- Recommend ---------------------------------------------------------------------------------------- */

/* The session of someone whose items came with the request: views, oldest first, now. */
static bool anonymous_session(struct dn_call *call, const Dunlin__V1__RecommendRequest *request,
                              struct dn_session_view *ret)
{
    size_t count = request->n_items;
    struct dn_event_view *events = dn_arena_zalloc(call->arena, count * sizeof *events);
    if (!events) {
        dn_fail_memory(call);
        return false;
    }
    int64_t now_ms = dn_wall_ms();
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(request->items[i]);
        events[i] = (struct dn_event_view){
            .item = request->items[i],
            .item_length = (uint16_t)length,
            .item_hash = dn_hash64(request->items[i], length, 0),
            .type = DN_EVENT_VIEW,
            .time_ms = now_ms,
            .weight = 1,
            .current = true,
        };
    }
    *ret = (struct dn_session_view){
        .start_ms = now_ms,
        .last_ms = now_ms,
        .session_events = (uint32_t)count,
        .event_count = count,
        .events = events,
    };
    ret->counts[DN_EVENT_VIEW] = (uint16_t)count;
    return true;
}

/* What a request for one user, or for somebody unknown, is made of on its way to the answer. */
struct recommending {
    const Dunlin__V1__RecommendRequest *request;
    struct dn_recommend_world world;
    struct dn_recommend_query query;
    struct dn_session_view session;
    struct dn_filter filter;
    struct dn_rules rules;
    struct dn_item anchor;
    size_t variant;
};

/* Ids never to return: those of the request, the anchor, and what was bought where that is asked for. */
static bool exclusions(struct dn_call *call, struct recommending *r)
{
    const Dunlin__V1__RecommendRequest *request = r->request;
    size_t seen = r->query.session && request->exclude_purchased ? r->query.session->event_count : 0;
    size_t count = 0, max = request->n_exclude + (r->query.anchor != NULL) + seen;
    struct dn_attribute *exclude = dn_arena_zalloc(call->arena, max * sizeof *exclude);
    if (!exclude) {
        dn_fail_memory(call);
        return false;
    }
    for (size_t i = 0; i < request->n_exclude; i++, count++) {
        exclude[count].value = request->exclude[i];
        exclude[count].value_length = (uint16_t)strlen(request->exclude[i]);
    }
    if (r->query.anchor) {
        exclude[count].value = r->anchor.id;
        exclude[count++].value_length = r->anchor.id_length;
    }
    for (size_t i = 0; i < seen; i++) {
        const struct dn_event_view *event = &r->query.session->events[i];
        if (event->type != DN_EVENT_BUY)
            continue;
        exclude[count].value = event->item;
        exclude[count++].value_length = event->item_length;
    }
    if (count > DN_EXCLUDE_MAX) {
        dn_call_fail(call, DN_INVALID,
                     "exclude: %zu ids together with the anchor and what was bought; at most %d", count,
                     DN_EXCLUDE_MAX);
        return false;
    }
    for (size_t i = 0; i < count; i++)
        exclude[i].key = "";
    r->query.exclude = exclude;
    r->query.exclude_count = count;
    return true;
}

/* The user's session, or that of the request's items; it may be that there is none. */
static bool session_read(struct dn_call *call, const struct dn_read *read, struct recommending *r,
                         struct dn_token *token)
{
    const struct dn_app *app = dn_call_app(call);
    if (!r->request->user_id[0]) {
        if (!anonymous_session(call, r->request, &r->session))
            return false;
        r->query.session = &r->session;
        return true;
    }
    r->query.user = dn_user_hash(app, r->request->user_id);
    enum dn_code code =
        dn_shard_read(app->options.shards[read->group - 1], r->query.user, call->arena, &r->session);
    if (code == DN_NO_MEMORY) {
        dn_fail_memory(call);
        return false;
    }
    if (code == DN_OK)
        r->query.session = &r->session;
    dn_token_raise(token, read->group, code == DN_OK ? r->session.version : read->applied);
    return true;
}

/* Puts the anchor into the session. */
static bool anchor_set(struct dn_call *call, struct recommending *r)
{
    const char *id = r->request->anchor;
    struct dn_error err = {.code = DN_OK};
    if (!id[0])
        return true;
    if (dn_catalog_get(r->world.catalog, id, strlen(id), &r->anchor) != DN_OK) {
        dn_call_fail(call, DN_NOT_FOUND, "anchor: no item '%s' in the catalogue", id);
        return false;
    }
    enum dn_code code =
        dn_session_anchored(r->query.session, &r->anchor, dn_wall_ms(), call->arena, &r->session, &err);
    if (code != DN_OK) {
        fail_inside(call, code, &err);
        return false;
    }
    r->query.session = &r->session;
    r->query.anchor = &r->anchor;
    return true;
}

static void recommend_answer(struct dn_call *call, const struct dn_read *read, const struct recommending *r,
                             const struct dn_session_view *session, const struct dn_recommended *items,
                             size_t count, const struct dn_token *token)
{
    const struct dn_app *app = dn_call_app(call);
    Dunlin__V1__RecommendResponse response = DUNLIN__V1__RECOMMEND_RESPONSE__INIT;
    Dunlin__V1__Freshness freshness;
    dn_read_freshness(call, read, &freshness);
    response.freshness = &freshness;
    if (session) {
        response.session_version = r->request->user_id[0] ? session->version : 0;
        response.session_events = session->session_events;
    }
    if (r->variant != DN_VARIANT_NONE)
        response.variant = (char *)(uintptr_t)app->options.experiment.variants[r->variant].name;
    if (app->variants[DN_VARIANTS_MAX])
        dn_counter_add(app->variants[r->variant == DN_VARIANT_NONE ? DN_VARIANTS_MAX : r->variant], 1);
    if (items_give(call, items, count, &response.n_items, &response.items) &&
        dn_token_give(call, token, &response.token))
        dn_call_reply(call, &response.base);
}

static void remember_shown(const struct dn_app *app, const struct recommending *r,
                           const struct dn_recommended *items, size_t count)
{
    bool known = r->request->user_id[0] != '\0';
    if (app->shown && !r->request->do_not_record)
        dn_shown_put(app->shown, known ? &r->query.user : NULL, r->variant, items, count, dn_wall_ms());
}

static void recommend_next(struct dn_call *call, const struct dn_read *read, void *state)
{
    const struct dn_app *app = dn_call_app(call);
    struct recommending *r = state;
    const Dunlin__V1__RecommendRequest *request = r->request;
    /* What this answer is about to see; the session's own last change is enough where there is one. The
     * catalogue moves on meanwhile: items that are shown add their own versions. */
    struct dn_token token = read->token;
    dn_token_raise(&token, 0, dn_catalog_version(app->options.catalog));
    r->world = app->world;
    r->world.kept = &app->kept[call->thread->number];
    r->world.catalog = dn_catalog_pin(app->options.catalog);
    r->query = (struct dn_recommend_query){
        .k = request->k, .filter = &r->filter, .include_seen = request->include_seen};
    if (!dn_check_filter(call, "filter", request->filter, &r->filter) ||
        !dn_check_rules(call, request, &r->rules) || !session_read(call, read, r, &token))
        return;
    const struct dn_session_view known = r->session;
    bool has_session = r->query.session != NULL;
    if (!anchor_set(call, r) || !exclusions(call, r))
        return;
    dn_variant_apply(app, r->variant, &r->rules, &r->query, &r->world);
    if (dn_rules_any(&r->rules))
        r->query.rules = &r->rules;
    struct dn_recommended *items = NULL;
    size_t count = 0;
    struct dn_error err = {.code = DN_OK};
    enum dn_code code =
        dn_recommend(&r->world, &app->options.recommend, &r->query, dn_call_work(call), &items, &count, &err);
    if (code != DN_OK) {
        fail_inside(call, code, &err);
        return;
    }
    for (size_t i = 0; i < count; i++)
        dn_token_raise(&token, 0, items[i].item.version);
    remember_shown(app, r, items, count);
    recommend_answer(call, read, r, has_session ? &known : NULL, items, count, &token);
}

static bool ids_fit(struct dn_call *call, const char *field, char **ids, size_t count, size_t max)
{
    if (count > max) {
        dn_call_fail(call, DN_INVALID, "%s: %zu of them; at most %zu", field, count, max);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        char name[48];
        snprintf(name, sizeof name, "%s[%zu]", field, i);
        if (!dn_check_id(call, name, ids[i]))
            return false;
    }
    return true;
}

void dn_svc_recommend(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    Dunlin__V1__RecommendRequest *request =
        dn_call_unpack(call, &dunlin__v1__recommend_request__descriptor, message, length);
    if (!request || !dn_check_k(call, request->k))
        return;
    bool user = request->user_id[0] != '\0';
    if (user && request->n_items > 0) {
        dn_call_fail(call, DN_INVALID, "items: only for an anonymous session; user_id is set too");
        return;
    }
    if ((user || request->n_items == 0) && !dn_check_id(call, "user_id", request->user_id))
        return;
    if (!ids_fit(call, "items", request->items, request->n_items, DN_ANONYMOUS_ITEMS_MAX) ||
        !ids_fit(call, "exclude", request->exclude, request->n_exclude, DN_EXCLUDE_MAX) ||
        (request->anchor[0] && !dn_check_id(call, "anchor", request->anchor)))
        return;
    struct recommending *recommending = dn_arena_zalloc(call->arena, sizeof *recommending);
    if (!recommending) {
        dn_fail_memory(call);
        return;
    }
    recommending->request = request;
    if (!dn_check_variant(call, request, &recommending->variant))
        return;
    /* An anonymous session has no shard: the catalogue's freshness is the answer's. */
    uint32_t shard =
        user ? dn_api_shard_of(request->user_id, strlen(request->user_id), app->options.shard_count) : 0;
    uint32_t groups[2] = {shard, 0};
    dn_read_begin(call, request->read, groups, user ? 2 : 1, recommend_next, recommending);
}

/* ---- Similar and Trending ------------------------------------------------------------------------------ */

static void items_answer(struct dn_call *call, const struct dn_read *read, const struct dn_recommended *items,
                         size_t count)
{
    Dunlin__V1__ItemsResponse response = DUNLIN__V1__ITEMS_RESPONSE__INIT;
    Dunlin__V1__Freshness freshness;
    dn_read_freshness(call, read, &freshness);
    response.freshness = &freshness;
    if (items_give(call, items, count, &response.n_items, &response.items))
        dn_call_reply(call, &response.base);
}

static void similar_next(struct dn_call *call, const struct dn_read *read, void *state)
{
    const struct dn_app *app = dn_call_app(call);
    const Dunlin__V1__SimilarRequest *request = state;
    struct dn_filter filter;
    /* self_slot and the search must be of one state of the catalogue. */
    struct dn_recommend_world world = app->world;
    world.catalog = dn_catalog_pin(app->options.catalog);
    const float *vector = request->vector;
    uint32_t dim = (uint32_t)request->n_vector, self_slot = UINT32_MAX;
    if (request->item_id[0]) {
        struct dn_item item;
        if (dn_catalog_get(world.catalog, request->item_id, strlen(request->item_id), &item) != DN_OK) {
            dn_call_fail(call, DN_NOT_FOUND, "item_id: no item '%s' in the catalogue", request->item_id);
            return;
        }
        if (!item.vector) {
            dn_call_fail(call, DN_PRECONDITION, "item_id: the item has no vector to compare by");
            return;
        }
        vector = item.vector;
        dim = item.dim;
        self_slot = item.slot;
    } else if (!dn_check_vector(call, request->vector, request->n_vector)) {
        return;
    }
    if (!dn_check_filter(call, "filter", request->filter, &filter))
        return;
    struct dn_recommended *items = NULL;
    size_t count = 0;
    struct dn_error err = {.code = DN_OK};
    enum dn_code code = dn_similar(&world, vector, dim, self_slot, request->k, &filter, dn_call_work(call),
                                   &items, &count, &err);
    if (code != DN_OK)
        fail_inside(call, code, &err);
    else
        items_answer(call, read, items, count);
}

void dn_svc_similar(struct dn_call *call, const uint8_t *message, size_t length)
{
    Dunlin__V1__SimilarRequest *request =
        dn_call_unpack(call, &dunlin__v1__similar_request__descriptor, message, length);
    if (!request || !dn_check_k(call, request->k))
        return;
    if ((request->item_id[0] != '\0') == (request->n_vector > 0)) {
        dn_call_fail(call, DN_INVALID, "set exactly one of item_id and vector");
        return;
    }
    if (request->item_id[0] && !dn_check_id(call, "item_id", request->item_id))
        return;
    uint32_t group = 0;
    dn_read_begin(call, request->read, &group, 1, similar_next, request);
}

static void trending_next(struct dn_call *call, const struct dn_read *read, void *state)
{
    const struct dn_app *app = dn_call_app(call);
    const Dunlin__V1__TrendingRequest *request = state;
    struct dn_filter filter;
    if (!dn_check_filter(call, "filter", request->filter, &filter))
        return;
    struct dn_recommended *items = NULL;
    size_t count = 0;
    struct dn_error err = {.code = DN_OK};
    enum dn_code code = dn_trending(&app->world, (enum dn_window)request->window, request->k, &filter,
                                    dn_call_work(call), &items, &count, &err);
    if (code != DN_OK)
        fail_inside(call, code, &err);
    else
        items_answer(call, read, items, count);
}

/* The shard whose state is oldest here comes first: freshness speaks of it. */
static void oldest_first(const struct dn_app *app, uint32_t *groups, size_t count)
{
    size_t oldest = 0;
    uint64_t oldest_us = 0;
    DN_ASSERT(count > 0);
    for (size_t i = 0; i < count; i++) {
        uint64_t age_us;
        if (!dn_consensus_age_us(app->options.consensus, groups[i], &age_us))
            age_us = UINT64_MAX;
        if (age_us > oldest_us) {
            oldest = i;
            oldest_us = age_us;
        }
    }
    uint32_t first = groups[0];
    groups[0] = groups[oldest];
    groups[oldest] = first;
}

void dn_svc_trending(struct dn_call *call, const uint8_t *message, size_t length)
{
    const struct dn_app *app = dn_call_app(call);
    Dunlin__V1__TrendingRequest *request =
        dn_call_unpack(call, &dunlin__v1__trending_request__descriptor, message, length);
    if (!request || !dn_check_k(call, request->k))
        return;
    if ((unsigned)request->window >= DN_WINDOW_COUNT) {
        dn_call_fail(call, DN_INVALID, "window: %d is none: it must be 0 to %d", (int)request->window,
                     DN_WINDOW_COUNT - 1);
        return;
    }
    uint32_t groups[DN_GROUPS_MAX];
    uint32_t shards = app->options.shard_count;
    for (uint32_t i = 0; i < shards; i++)
        groups[i] = i + 1;
    oldest_first(app, groups, shards);
    groups[shards] = 0;
    dn_read_begin(call, request->read, groups, shards + 1, trending_next, request);
}
