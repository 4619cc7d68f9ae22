/* The API as a whole: the table of methods, what they share, and the freshness gauges. */
#include "api/service.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_FRESHNESS_ALARM_MS 2000
#define GAUGES_EVERY_SWEEPS 10

struct dn_api {
    struct dn_app app;
    struct dn_server *server;
};

static const struct dn_method methods[] = {
    {"/dunlin.v1.Recommendations/Recommend", "Recommendations.Recommend", dn_svc_recommend, NULL},
    {"/dunlin.v1.Recommendations/Similar", "Recommendations.Similar", dn_svc_similar, NULL},
    {"/dunlin.v1.Recommendations/Trending", "Recommendations.Trending", dn_svc_trending, NULL},
    {"/dunlin.v1.Events/Publish", "Events.Publish", dn_svc_publish, NULL},
    {"/dunlin.v1.Sessions/Get", "Sessions.Get", dn_svc_session_get, NULL},
    {"/dunlin.v1.Sessions/Delete", "Sessions.Delete", dn_svc_session_delete, NULL},
    {"/dunlin.v1.Catalog/Upsert", "Catalog.Upsert", dn_svc_catalog_upsert, NULL},
    {"/dunlin.v1.Catalog/Delete", "Catalog.Delete", dn_svc_catalog_delete, NULL},
    {"/dunlin.v1.Catalog/Get", "Catalog.Get", dn_svc_catalog_get, NULL},
    {"/dunlin.v1.Cluster/Status", "Cluster.Status", dn_svc_status, NULL},
    {"/dunlin.v1.Cluster/Ping", "Cluster.Ping", dn_svc_ping, NULL},
    {"/dunlin.v1.Cluster/ListMembers", "Cluster.ListMembers", dn_svc_list_members, NULL},
    {"/dunlin.v1.Cluster/ChangeMember", "Cluster.ChangeMember", dn_svc_change_member, NULL},
    {"/dunlin.v1.Sources/List", "Sources.List", dn_svc_source_list, NULL},
    {"/dunlin.v1.Sources/Set", "Sources.Set", dn_svc_source_set, NULL},
    {"/dunlin.v1.DeadLetters/List", "DeadLetters.List", dn_svc_dead_letter_list, NULL},
    {"/dunlin.v1.Model/Get", "Model.Get", dn_svc_model_get, NULL},
    {"/dunlin.v1.Model/Change", "Model.Change", dn_svc_model_change, NULL},
    {"/grpc.health.v1.Health/Check", "Health.Check", dn_svc_health_check, NULL},
    {"/grpc.health.v1.Health/Watch", "Health.Watch", dn_svc_health_watch, dn_svc_health_pull},
};

/* A node that waits to be let into a cluster says so, and takes no data. */
static bool admit(struct dn_call *call)
{
    static const char *const always[] = {"/dunlin.v1.Cluster/", "/grpc.health.v1.Health/"};
    const struct dn_app *app = dn_call_app(call);
    char reason[DN_API_REASON_MAX] = "";
    if (!app->options.open || atomic_load_explicit(app->options.open, memory_order_acquire))
        return true;
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        if (strncmp(call->method->path, always[i], strlen(always[i])) == 0)
            return true;
    if (app->options.ready)
        (void)app->options.ready(app->options.ready_data, reason, sizeof reason);
    dn_call_fail(call, DN_UNAVAILABLE, "the node takes no requests yet: %s",
                 reason[0] ? reason : "it is starting");
    return false;
}

uint32_t dn_api_shard_of(const char *user, size_t length, uint32_t shard_count)
{
    return dn_shard_of_user(user, length, shard_count);
}

static void shown_update(const struct dn_app *app)
{
    if (!app->shown)
        return;
    double distinct = dn_shown_distinct(app->shown, dn_wall_ms());
    double items = (double)dn_catalog_item_count(app->options.catalog);
    dn_gauge_set(app->distinct, distinct);
    dn_gauge_set(app->coverage, items > 0 ? fmin(distinct / items, 1) : 0);
}

/* Age of each group's state here; -1 while it is not known. */
static void ages_update(struct dn_thread *thread)
{
    const struct dn_app *app = thread->server->options.app;
    if (thread->number != 0 || ++thread->sweeps % GAUGES_EVERY_SWEEPS != 0)
        return;
    for (uint32_t group = 0; group <= app->options.shard_count; group++) {
        uint64_t age_us;
        bool known = dn_consensus_age_us(app->options.consensus, group, &age_us);
        dn_gauge_set(app->age[group], known ? (double)age_us / 1e6 : -1.0);
    }
    shown_update(app);
}

static enum dn_code shown_open(struct dn_app *app, struct dn_error *err)
{
    const struct dn_api_options *options = &app->options;
    if (!options->shown_users || !options->metrics)
        return DN_OK;
    app->shown = dn_shown_create(options->shown_users, &options->experiment, options->metrics);
    if (!app->shown)
        return dn_fail(err, DN_NO_MEMORY, "the table of what was shown to %u users", options->shown_users);
    app->watch = (struct dn_shard_watch){.applied = dn_shown_applied,
                                         .erased = dn_shown_erased,
                                         .replaced = dn_shown_replaced,
                                         .data = app->shown};
    app->distinct =
        dn_metrics_gauge(options->metrics, "dunlin_shown_distinct_items", "",
                         "About how many distinct items were recommended in the last 10 to 20 minutes.");
    app->coverage =
        dn_metrics_gauge(options->metrics, "dunlin_shown_coverage", "", "That as a share of the catalogue.");
    return DN_OK;
}

static void shown_listen(const struct dn_app *app, const struct dn_shard_watch *watch)
{
    for (uint32_t i = 0; app->shown && i < app->options.shard_count; i++)
        dn_shard_watch(app->options.shards[i], watch);
}

static void variants_count(struct dn_app *app)
{
    const struct dn_experiment *experiment = &app->options.experiment;
    for (size_t i = 0; app->options.metrics && experiment->count > 0 && i <= experiment->count; i++) {
        char labels[2 * DN_VARIANT_NAME_MAX + 64];
        snprintf(labels, sizeof labels, "experiment=\"%s\",variant=\"%s\"", experiment->name,
                 i < experiment->count ? experiment->variants[i].name : "");
        app->variants[i < experiment->count ? i : DN_VARIANTS_MAX] =
            dn_metrics_counter(app->options.metrics, "dunlin_recommend_variant_total", labels,
                               "Recommend answers by variant of the experiment; empty: outside of it.");
    }
}

static enum dn_code options_check(const struct dn_api_options *options, struct dn_error *err)
{
    if (options->shard_count < 1 || options->shard_count >= DN_GROUPS_MAX)
        return dn_fail(err, DN_INVALID, "%u session shards; from 1 to %d", options->shard_count,
                       DN_GROUPS_MAX - 1);
    DN_ASSERT(options->address && options->consensus && options->epoch && options->shards &&
              options->catalog);
    return DN_OK;
}

static void api_free(struct dn_api *api)
{
    dn_shown_destroy(api->app.shown);
    free(api->app.kept);
    free(api);
}

enum dn_code dn_api_start(const struct dn_api_options *options, struct dn_api **ret, struct dn_error *err)
{
    enum dn_code code = options_check(options, err);
    if (code != DN_OK)
        return code;
    struct dn_api *api = calloc(1, sizeof *api);
    if (!api)
        return dn_fail(err, DN_NO_MEMORY, "the API");
    struct dn_app *app = &api->app;
    app->options = *options;
    if (!app->options.freshness_alarm_ms)
        app->options.freshness_alarm_ms = DEFAULT_FRESHNESS_ALARM_MS;
    app->started_us = dn_monotonic_us();
    app->world = (struct dn_recommend_world){
        .catalog = options->catalog,
        .retrieval = options->retrieval,
        .shards = (const struct dn_shard *const *)options->shards,
        .shard_count = options->shard_count,
    };
    dn_model_default(&app->fixed_model);
    app->kept = calloc(options->threads ? options->threads : 1, sizeof *app->kept);
    if (!app->kept) {
        free(api);
        return dn_fail(err, DN_NO_MEMORY, "the API");
    }
    variants_count(app);
    code = shown_open(app, err);
    if (code != DN_OK) {
        api_free(api);
        return code;
    }
    dn_token_key(options->hash_key, app->token_key);
    for (uint32_t group = 0; options->metrics && group <= options->shard_count; group++) {
        char label[32];
        snprintf(label, sizeof label, "group=\"%u\"", group);
        app->age[group] =
            dn_metrics_gauge(options->metrics, "dunlin_state_age_seconds", label,
                             "Everything committed longer ago than this is visible here; -1: unknown.");
    }
    struct dn_server_options server_options = {
        .address = options->address,
        .threads = options->threads,
        .limits = options->limits,
        .methods = methods,
        .method_count = sizeof methods / sizeof methods[0],
        .epoch = options->epoch,
        .metrics = options->metrics,
        .app = app,
        .on_sweep = options->metrics ? ages_update : NULL,
        .admit = admit,
    };
    code = dn_server_start(&server_options, &api->server, err);
    if (code != DN_OK) {
        api_free(api);
        return code;
    }
    shown_listen(app, &app->watch); /* last: it cannot be taken back while events are applied */
    *ret = api;
    return DN_OK;
}

uint16_t dn_api_port(const struct dn_api *api)
{
    return api->server->port;
}

void dn_api_drain(struct dn_api *api, unsigned drain_ms)
{
    dn_server_drain(api->server, drain_ms);
}

void dn_api_stop(struct dn_api *api)
{
    shown_listen(&api->app, NULL);
    dn_server_stop(api->server);
}

void dn_api_destroy(struct dn_api *api)
{
    if (!api)
        return;
    dn_server_destroy(api->server);
    api_free(api);
}

bool dn_api_alive(const struct dn_api *api, uint64_t max_age_us)
{
    return dn_server_alive(api->server, max_age_us);
}
