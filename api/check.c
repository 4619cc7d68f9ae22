/* Checks of requests that several methods share. The wire check (api/wire.h) came before: strings are UTF-8
 * without NUL, nesting is bounded. */
#include "api/service.h"

#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define FIELD_NAME_MAX 64

void dn_fail_memory(struct dn_call *call)
{
    dn_call_fail(call, DN_EXHAUSTED,
                 "the call needs more memory than one call may take: ask for less at once");
}

bool dn_check_id(struct dn_call *call, const char *field, const char *id)
{
    size_t length = strlen(id);
    if (dn_id_valid(id, length))
        return true;
    if (length == 0)
        dn_call_fail(call, DN_INVALID, "%s: empty", field);
    else if (length > DN_ID_MAX)
        dn_call_fail(call, DN_INVALID, "%s: %zu bytes; at most %d", field, length, DN_ID_MAX);
    else
        dn_call_fail(call, DN_INVALID, "%s: not valid UTF-8", field);
    return false;
}

bool dn_check_k(struct dn_call *call, uint32_t k)
{
    if (k >= 1 && k <= DN_K_MAX)
        return true;
    dn_call_fail(call, DN_INVALID, "k: %u; from 1 to %d", k, DN_K_MAX);
    return false;
}

bool dn_check_vector(struct dn_call *call, const float *vector, size_t dim)
{
    const struct dn_app *app = dn_call_app(call);
    uint32_t wanted = dn_catalog_dim(app->options.catalog);
    if (dim > DN_VECTOR_DIM_MAX) {
        dn_call_fail(call, DN_INVALID, "vector: %zu numbers; at most %d", dim, DN_VECTOR_DIM_MAX);
        return false;
    }
    double norm = 0;
    for (size_t i = 0; i < dim; i++) {
        if (!isfinite(vector[i])) {
            dn_call_fail(call, DN_INVALID, "vector[%zu]: not a finite number", i);
            return false;
        }
        norm += (double)vector[i] * (double)vector[i];
    }
    if (norm <= 0) {
        dn_call_fail(call, DN_INVALID, "vector: all zero; it has no direction");
        return false;
    }
    if (wanted == 0) {
        dn_call_fail(call, DN_PRECONDITION, "vector: no item of the catalogue has a vector yet");
        return false;
    }
    if (dim != wanted) {
        dn_call_fail(call, DN_INVALID, "vector: %zu numbers; the catalogue's vectors have %u", dim, wanted);
        return false;
    }
    return true;
}

/* ---- filters
 * ----------------------------------------------------------------------------------------------- */

static bool term_range(struct dn_call *call, const char *field, const Dunlin__V1__FilterTerm *from,
                       struct dn_filter_term *to)
{
    to->op = DN_FILTER_RANGE;
    to->min = from->has_min ? from->min : -(double)INFINITY;
    to->max = from->has_max ? from->max : (double)INFINITY;
    if (!isnan(to->min) && !isnan(to->max) && to->min <= to->max)
        return true;
    dn_call_fail(call, DN_INVALID, "%s: min and max must be numbers, and min not above max", field);
    return false;
}

static bool term_values(struct dn_call *call, const char *field, char **from, size_t count,
                        struct dn_filter_term *to)
{
    if (count > DN_FILTER_VALUES_MAX) {
        dn_call_fail(call, DN_INVALID, "%s: %zu of them; at most %d", field, count, DN_FILTER_VALUES_MAX);
        return false;
    }
    struct dn_attribute *values = dn_arena_zalloc(call->arena, count * sizeof *values);
    if (!values) {
        dn_fail_memory(call);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(from[i]);
        if (length > DN_ATTRIBUTE_VALUE_MAX) {
            dn_call_fail(call, DN_INVALID, "%s[%zu]: %zu bytes; at most %d", field, i, length,
                         DN_ATTRIBUTE_VALUE_MAX);
            return false;
        }
        values[i].key = "";
        values[i].value = from[i];
        values[i].value_length = (uint16_t)length;
    }
    to->values = values;
    to->value_count = count;
    if (!dn_filter_sort(to, values, call->arena)) {
        dn_fail_memory(call);
        return false;
    }
    return true;
}

/* `field`: of the filter. */
static bool filter_term(struct dn_call *call, const char *field, size_t number,
                        const Dunlin__V1__FilterTerm *from, struct dn_filter_term *to)
{
    size_t name_length = strlen(from->name);
    bool range = from->has_min || from->has_max;
    char name[FIELD_NAME_MAX];
    if (name_length == 0 || name_length > DN_ATTRIBUTE_KEY_MAX) {
        dn_call_fail(call, DN_INVALID, "%s.terms[%zu].name: %zu bytes; from 1 to %d", field, number,
                     name_length, DN_ATTRIBUTE_KEY_MAX);
        return false;
    }
    to->name = from->name;
    to->name_length = (uint16_t)name_length;
    if (range + (from->n_values > 0) + (from->n_prefixes > 0) != 1) {
        dn_call_fail(call, DN_INVALID,
                     "%s.terms[%zu]: set either values, prefixes or a range (has_min, has_max)", field,
                     number);
        return false;
    }
    snprintf(name, sizeof name, "%s.terms[%zu]%s", field, number,
             range                  ? ""
             : from->n_prefixes > 0 ? ".prefixes"
                                    : ".values");
    if (range)
        return term_range(call, name, from, to);
    if (from->n_prefixes > 0) {
        to->op = DN_FILTER_PREFIX;
        return term_values(call, name, from->prefixes, from->n_prefixes, to);
    }
    to->op = from->n_values == 1 ? DN_FILTER_EQ : DN_FILTER_IN;
    return term_values(call, name, from->values, from->n_values, to);
}

/* An error of the index room, with the field it is about. */
static bool filter_failed(struct dn_call *call, const char *field, enum dn_code code, struct dn_error *err)
{
    err->code = code;
    dn_wrap(err, code, "%s", field);
    dn_call_fail_error(call, err);
    return false;
}

static bool filter_terms(struct dn_call *call, const char *field, const Dunlin__V1__Filter *filter,
                         struct dn_filter_tree *ret)
{
    if (filter->n_terms > DN_FILTER_TERMS_MAX) {
        dn_call_fail(call, DN_INVALID, "%s.terms: %zu of them; at most %d", field, filter->n_terms,
                     DN_FILTER_TERMS_MAX);
        return false;
    }
    if (filter->n_steps > DN_FILTER_STEPS_MAX) {
        dn_call_fail(call, DN_INVALID, "%s.steps: %zu of them; at most %d", field, filter->n_steps,
                     DN_FILTER_STEPS_MAX);
        return false;
    }
    struct dn_filter_term *terms = dn_arena_zalloc(call->arena, filter->n_terms * sizeof *terms);
    struct dn_filter_step *steps = dn_arena_alloc(call->arena, filter->n_steps * sizeof *steps);
    if (!terms || !steps) {
        dn_fail_memory(call);
        return false;
    }
    for (size_t i = 0; i < filter->n_terms; i++)
        if (!filter_term(call, field, i, filter->terms[i], &terms[i]))
            return false;
    for (size_t i = 0; i < filter->n_steps; i++)
        steps[i] = (struct dn_filter_step){.join = (enum dn_filter_join)filter->steps[i]->join,
                                           .count = filter->steps[i]->count};
    *ret = (struct dn_filter_tree){terms, filter->n_terms, steps, filter->n_steps};
    return true;
}

bool dn_check_filter(struct dn_call *call, const char *field, const Dunlin__V1__Filter *filter,
                     struct dn_filter *ret)
{
    *ret = (struct dn_filter){.only_available = !filter || !filter->include_unavailable};
    if (!filter || (filter->n_terms == 0 && filter->n_steps == 0 && filter->where[0] == '\0'))
        return true;
    struct dn_filter_tree parts[2] = {{0}}, whole;
    struct dn_error err = {.code = DN_OK};
    enum dn_code code = DN_OK;
    char name[FIELD_NAME_MAX];
    if (!filter_terms(call, field, filter, &parts[0]))
        return false;
    if (filter->where[0] != '\0') {
        code = dn_filter_parse(filter->where, strlen(filter->where), call->arena, &parts[1], NULL, &err);
        snprintf(name, sizeof name, "%s.where", field);
        if (code != DN_OK)
            return filter_failed(call, name, code, &err);
    }
    code = dn_filter_join(parts, 2, call->arena, &whole, &err);
    if (code == DN_OK)
        code = dn_filter_plan(&whole, call->arena, ret, &err);
    if (code == DN_OK)
        code = dn_filter_check(dn_call_app(call)->options.catalog, ret, &err);
    return code == DN_OK || filter_failed(call, field, code, &err);
}

/* ---- items
 * ------------------------------------------------------------------------------------------------- */

static bool item_attributes(struct dn_call *call, size_t number, const Dunlin__V1__Item *from,
                            struct dn_item *to)
{
    if (from->n_attributes > DN_ATTRIBUTES_MAX) {
        dn_call_fail(call, DN_INVALID, "items[%zu].attributes: %zu of them; at most %d", number,
                     from->n_attributes, DN_ATTRIBUTES_MAX);
        return false;
    }
    struct dn_attribute *attributes = dn_arena_zalloc(call->arena, from->n_attributes * sizeof *attributes);
    if (!attributes) {
        dn_fail_memory(call);
        return false;
    }
    for (size_t i = 0; i < from->n_attributes; i++) {
        size_t key_length = strlen(from->attributes[i]->key),
               value_length = strlen(from->attributes[i]->value);
        if (key_length > DN_ATTRIBUTE_KEY_MAX || value_length > DN_ATTRIBUTE_VALUE_MAX) {
            dn_call_fail(
                call, DN_INVALID,
                "items[%zu].attributes[%zu]: key of %zu bytes (at most %d), value of %zu (at most %d)",
                number, i, key_length, DN_ATTRIBUTE_KEY_MAX, value_length, DN_ATTRIBUTE_VALUE_MAX);
            return false;
        }
        attributes[i] = (struct dn_attribute){
            .key = from->attributes[i]->key,
            .value = from->attributes[i]->value,
            .key_length = (uint16_t)key_length,
            .value_length = (uint16_t)value_length,
        };
    }
    to->attributes = attributes;
    to->attribute_count = from->n_attributes;
    return true;
}

bool dn_check_item(struct dn_call *call, size_t number, const Dunlin__V1__Item *item, struct dn_item *ret)
{
    size_t id_length = strlen(item->id), category_length = strlen(item->category);
    if (id_length == 0 || id_length > DN_ID_MAX) {
        dn_call_fail(call, DN_INVALID, "items[%zu].id: %zu bytes; from 1 to %d", number, id_length,
                     DN_ID_MAX);
        return false;
    }
    if (category_length > DN_ATTRIBUTE_VALUE_MAX) {
        dn_call_fail(call, DN_INVALID, "items[%zu].category: %zu bytes; at most %d", number, category_length,
                     DN_ATTRIBUTE_VALUE_MAX);
        return false;
    }
    if (item->has_price && !isfinite(item->price)) {
        dn_call_fail(call, DN_INVALID, "items[%zu].price: not a finite number", number);
        return false;
    }
    if (item->n_vector > DN_VECTOR_DIM_MAX) {
        dn_call_fail(call, DN_INVALID, "items[%zu].vector: %zu numbers; at most %d", number, item->n_vector,
                     DN_VECTOR_DIM_MAX);
        return false;
    }
    *ret = (struct dn_item){
        .id = item->id,
        .id_length = (uint16_t)id_length,
        .id_hash = dn_hash64(item->id, id_length, 0),
        .vector = item->n_vector ? item->vector : NULL,
        .dim = (uint32_t)item->n_vector,
        .category = item->category,
        .category_length = (uint16_t)category_length,
        .price = item->has_price ? item->price : (double)NAN,
        .available = !item->unavailable,
    };
    if (!item_attributes(call, number, item, ret))
        return false;
    uint32_t dim = dn_catalog_dim(dn_call_app(call)->options.catalog);
    if (ret->dim && dim && ret->dim != dim) {
        dn_call_fail(call, DN_INVALID, "items[%zu].vector: %u numbers; the catalogue's vectors have %u",
                     number, ret->dim, dim);
        return false;
    }
    struct dn_error err = {.code = DN_OK};
    enum dn_code code = dn_item_check(ret, &err);
    if (code == DN_OK)
        return true;
    err.code = code;
    dn_wrap(&err, code, "items[%zu]", number);
    dn_call_fail_error(call, &err);
    return false;
}
