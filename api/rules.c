/* The rules of a Recommend request: boosts, pins, caps, diversity, and the variant of an experiment. */
#include "api/service.h"

#include <stdio.h>

#define FIELD_NAME_MAX 64
#define NO_VARIANT "-" /* the request's word for: none, whatever the user's is */

static bool boosts_read(struct dn_call *call, const Dunlin__V1__RecommendRequest *request,
                        struct dn_rules *rules)
{
    struct dn_boost *boosts = dn_arena_alloc(call->arena, request->n_boosts * sizeof *boosts);
    struct dn_filter *filters = dn_arena_alloc(call->arena, request->n_boosts * sizeof *filters);
    if (!boosts || !filters) {
        dn_fail_memory(call);
        return false;
    }
    for (size_t i = 0; i < request->n_boosts; i++) {
        const Dunlin__V1__Boost *from = request->boosts[i];
        char field[FIELD_NAME_MAX];
        snprintf(field, sizeof field, "boosts[%zu].filter", i);
        if (!from->filter) {
            dn_call_fail(call, DN_INVALID, "%s: must be given: it says which items are meant", field);
            return false;
        }
        if (!dn_check_filter(call, field, from->filter, &filters[i]))
            return false;
        filters[i].only_available = false; /* what is not available is no candidate where that matters */
        boosts[i] = (struct dn_boost){
            .filter = &filters[i], .times = from->times == 0 ? 1 : from->times, .plus = from->plus};
    }
    rules->boosts = boosts;
    rules->boost_count = request->n_boosts;
    return true;
}

static bool pins_read(struct dn_call *call, const Dunlin__V1__RecommendRequest *request,
                      struct dn_rules *rules)
{
    struct dn_pin *pins = dn_arena_alloc(call->arena, request->n_pins * sizeof *pins);
    if (!pins) {
        dn_fail_memory(call);
        return false;
    }
    for (size_t i = 0; i < request->n_pins; i++) {
        char field[FIELD_NAME_MAX];
        snprintf(field, sizeof field, "pins[%zu].item_id", i);
        if (!dn_check_id(call, field, request->pins[i]->item_id))
            return false;
        pins[i] = (struct dn_pin){.id = request->pins[i]->item_id,
                                  .id_length = (uint16_t)strlen(request->pins[i]->item_id),
                                  .place = request->pins[i]->place};
    }
    rules->pins = pins;
    rules->pin_count = request->n_pins;
    return true;
}

bool dn_check_rules(struct dn_call *call, const Dunlin__V1__RecommendRequest *request, struct dn_rules *ret)
{
    struct dn_error err = {.code = DN_OK};
    *ret = (struct dn_rules){.diversity = request->diversity, .category_cap = request->category_cap};
    if (request->n_boosts > DN_BOOSTS_MAX || request->n_pins > DN_PINS_MAX) {
        dn_call_fail(call, DN_INVALID, "%zu boosts and %zu pins; at most %d and %d", request->n_boosts,
                     request->n_pins, DN_BOOSTS_MAX, DN_PINS_MAX);
        return false;
    }
    if (!boosts_read(call, request, ret) || !pins_read(call, request, ret))
        return false;
    enum dn_code code = dn_rules_check(ret, request->k, &err);
    if (code == DN_OK)
        return true;
    err.code = code;
    dn_call_fail_error(call, &err);
    return false;
}

bool dn_check_variant(struct dn_call *call, const Dunlin__V1__RecommendRequest *request, size_t *ret)
{
    const struct dn_experiment *experiment = &dn_call_app(call)->options.experiment;
    const char *user = request->user_id, *forced = request->variant;
    *ret = DN_VARIANT_NONE;
    if (forced[0] == '\0') { /* nobody known has no variant: they would have another one each time */
        *ret = user[0] ? dn_variant_of(experiment, user, strlen(user)) : DN_VARIANT_NONE;
        return true;
    }
    if (strcmp(forced, NO_VARIANT) == 0)
        return true;
    *ret = dn_variant_find(experiment, forced);
    if (*ret != DN_VARIANT_NONE)
        return true;
    dn_call_fail(call, DN_INVALID, "variant: this node's configuration has none of that name (\"%s\": none)",
                 NO_VARIANT);
    return false;
}

void dn_variant_apply(const struct dn_app *app, size_t variant, struct dn_rules *rules,
                      struct dn_recommend_query *query, struct dn_recommend_world *world)
{
    if (variant == DN_VARIANT_NONE)
        return;
    const struct dn_variant *of = &app->options.experiment.variants[variant];
    if (rules->diversity == 0)
        rules->diversity = of->diversity;
    if (rules->category_cap == 0)
        rules->category_cap = of->category_cap;
    query->sources_off |= of->sources_off;
    if (of->fixed_weights)
        world->model = &app->fixed_model;
}
