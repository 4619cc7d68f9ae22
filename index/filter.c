/* Filters: terms over an item's built-in fields and free attributes, checked and matched. How terms are
 * joined is filter_tree.c's part; here it is one jump after each term. */
#include "index/catalog_internal.h"
#include "index/filter_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_TEXT_MAX 63u /* bytes of a number written as text */

enum field { FIELD_ATTRIBUTE, FIELD_CATEGORY, FIELD_PRICE, FIELD_AVAILABLE };

static bool name_is(const struct dn_filter_term *term, const char *name)
{
    return term->name_length == strlen(name) && memcmp(term->name, name, term->name_length) == 0;
}

static enum field field_of(const struct dn_filter_term *term)
{
    switch (term->name_length) { /* asked for every item of a scan */
    case sizeof "category" - 1:
        return name_is(term, "category") ? FIELD_CATEGORY : FIELD_ATTRIBUTE;
    case sizeof "price" - 1:
        return name_is(term, "price") ? FIELD_PRICE : FIELD_ATTRIBUTE;
    case sizeof "available" - 1:
        return name_is(term, "available") ? FIELD_AVAILABLE : FIELD_ATTRIBUTE;
    default:
        return FIELD_ATTRIBUTE;
    }
}

bool dn_filter_number(const char *text, size_t length, double *ret)
{
    char copy[NUMBER_TEXT_MAX + 1];
    if (length == 0 || length > NUMBER_TEXT_MAX || (unsigned char)text[0] <= ' ') {
        return false;
    }
    memcpy(copy, text, length);
    copy[length] = '\0';
    char *end;
    double value = strtod(copy, &end);
    if (end != copy + length || !isfinite(value)) {
        return false;
    }
    *ret = value;
    return true;
}

static bool text_equal(const char *a, size_t a_length, const char *b, size_t b_length)
{
    return a_length == b_length && (a_length == 0 || memcmp(a, b, a_length) == 0);
}

/* ---- checking
 * ---------------------------------------------------------------------------------------------- */

static bool attribute_known(const struct dn_catalog *catalog, const struct dn_filter_term *term)
{
    const struct dn_keys *keys = atomic_load_explicit(&dn_catalog_state(catalog)->keys, memory_order_acquire);
    size_t low = 0, high = keys->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct dn_key *key = keys->keys[middle];
        size_t common = key->length < term->name_length ? key->length : term->name_length;
        int order = memcmp(key->bytes, term->name, common);
        if (order == 0) {
            order = (key->length > term->name_length) - (key->length < term->name_length);
        }
        if (order == 0) {
            return true;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return false;
}

static enum dn_code check_value(const struct dn_filter_term *term, enum field field,
                                const struct dn_attribute *value, struct dn_error *err)
{
    if (value->value_length > DN_ATTRIBUTE_VALUE_MAX) {
        return dn_fail(err, DN_INVALID, "filter on '%.*s': a value has %u bytes; the most is %d",
                       (int)term->name_length, term->name, value->value_length, DN_ATTRIBUTE_VALUE_MAX);
    }
    double number;
    if (field == FIELD_PRICE && !dn_filter_number(value->value, value->value_length, &number)) {
        return dn_fail(err, DN_INVALID, "filter on 'price': '%.*s' is not a number", (int)value->value_length,
                       value->value);
    }
    if (field == FIELD_AVAILABLE && !text_equal(value->value, value->value_length, "true", 4) &&
        !text_equal(value->value, value->value_length, "false", 5)) {
        return dn_fail(err, DN_INVALID, "filter on 'available': the value must be 'true' or 'false'");
    }
    return DN_OK;
}

static enum dn_code check_term(const struct dn_catalog *catalog, const struct dn_filter_term *term,
                               struct dn_error *err)
{
    int shown = (int)term->name_length;
    if (term->name_length == 0 || term->name_length > DN_ATTRIBUTE_KEY_MAX) {
        return dn_fail(err, DN_INVALID, "a filter's attribute name must have 1 to %d bytes",
                       DN_ATTRIBUTE_KEY_MAX);
    }
    enum field field = field_of(term);
    if (field == FIELD_ATTRIBUTE && !attribute_known(catalog, term)) {
        return dn_fail(err, DN_INVALID, "no item of the catalogue has an attribute '%.*s'", shown,
                       term->name);
    }
    switch (term->op) {
    case DN_FILTER_RANGE:
        if (field == FIELD_CATEGORY || field == FIELD_AVAILABLE) {
            return dn_fail(err, DN_INVALID, "filter on '%.*s': it has no order; use equals or in", shown,
                           term->name);
        }
        if (isnan(term->min) || isnan(term->max) || term->min > term->max) {
            return dn_fail(err, DN_INVALID, "filter on '%.*s': the range must have min <= max, neither NaN",
                           shown, term->name);
        }
        return DN_OK;
    case DN_FILTER_EQ:
        if (term->value_count != 1) {
            return dn_fail(err, DN_INVALID, "filter on '%.*s': equals takes one value", shown, term->name);
        }
        break;
    case DN_FILTER_PREFIX:
        if (field == FIELD_PRICE || field == FIELD_AVAILABLE) {
            return dn_fail(err, DN_INVALID, "filter on '%.*s': it has no beginning; use equals or in%s",
                           shown, term->name, field == FIELD_PRICE ? " or a range" : "");
        }
        break;
    case DN_FILTER_IN:
        break;
    default:
        return dn_fail(err, DN_INVALID, "filter on '%.*s': unknown operator", shown, term->name);
    }
    if (term->value_count == 0 || term->value_count > DN_FILTER_VALUES_MAX) {
        return dn_fail(err, DN_INVALID, "filter on '%.*s': it takes 1 to %d values", shown, term->name,
                       DN_FILTER_VALUES_MAX);
    }
    for (size_t i = 0; i < term->value_count; i++) {
        enum dn_code code = check_value(term, field, &term->values[i], err);
        if (code != DN_OK) {
            return code;
        }
    }
    return DN_OK;
}

/* So that matching ends. */
static bool jump_is_forward(const struct dn_filter *filter, size_t from, uint8_t to)
{
    return to == DN_FILTER_YES || to == DN_FILTER_NO || (to > from && to < filter->term_count);
}

enum dn_code dn_filter_check(const struct dn_catalog *catalog, const struct dn_filter *filter,
                             struct dn_error *err)
{
    if (filter == NULL) {
        return DN_OK;
    }
    if (filter->term_count > DN_FILTER_TERMS_MAX) {
        return dn_fail(err, DN_INVALID, "%zu filters; the most is %d", filter->term_count,
                       DN_FILTER_TERMS_MAX);
    }
    for (size_t i = 0; i < filter->term_count; i++) {
        DN_ASSERT(filter->jumps == NULL || (jump_is_forward(filter, i, filter->jumps[i].on_true) &&
                                            jump_is_forward(filter, i, filter->jumps[i].on_false)));
        enum dn_code code = check_term(catalog, &filter->terms[i], err);
        if (code != DN_OK) {
            return code;
        }
    }
    return DN_OK;
}

/* ---- matching
 * ------------------------------------------------------------------------------------------------ */

static int compare_texts(const char *a, size_t a_length, const char *b, size_t b_length)
{
    if (a_length != b_length) {
        return a_length < b_length ? -1 : 1;
    }
    return a_length == 0 ? 0 : memcmp(a, b, a_length);
}

static int compare_values(const void *a_, const void *b_)
{
    const struct dn_attribute *a = a_, *b = b_;
    return compare_texts(a->value, a->value_length, b->value, b->value_length);
}

static int compare_numbers(const void *a_, const void *b_)
{
    double a, b;
    memcpy(&a, a_, sizeof a);
    memcpy(&b, b_, sizeof b);
    return (a > b) - (a < b);
}

static bool begins_with(const char *text, size_t length, const struct dn_attribute *prefix)
{
    return prefix->value_length <= length &&
           text_equal(text, prefix->value_length, prefix->value, prefix->value_length);
}

/* As bytes, a beginning before what it begins. */
static int compare_bytes(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t shorter = a_length < b_length ? a_length : b_length;
    int order = shorter == 0 ? 0 : memcmp(a, b, shorter);
    return order != 0 ? order : (a_length > b_length) - (a_length < b_length);
}

static int compare_prefixes(const void *a_, const void *b_)
{
    const struct dn_attribute *a = a_, *b = b_;
    return compare_bytes(a->value, a->value_length, b->value, b->value_length);
}

/* In order, those that a shorter one covers (or an equal one) behind the others. They are kept:
 * dn_filter_check looks at all. */
static void sort_prefixes(struct dn_filter_term *term, struct dn_attribute *values)
{
    size_t kept = 0;
    qsort(values, term->value_count, sizeof *values, compare_prefixes);
    for (size_t i = 0; i < term->value_count; i++) {
        /* What begins with an earlier one begins with the last that was kept: all between the two do. */
        if (kept > 0 && begins_with(values[i].value, values[i].value_length, &values[kept - 1])) {
            continue;
        }
        struct dn_attribute covered = values[kept];
        values[kept++] = values[i];
        values[i] = covered;
    }
    term->prefix_count = kept;
    term->sorted = true;
}

bool dn_filter_sort(struct dn_filter_term *term, struct dn_attribute *values, struct dn_arena *arena)
{
    DN_ASSERT(term->values == values);
    if (term->op == DN_FILTER_PREFIX) {
        sort_prefixes(term, values);
        return true;
    }
    qsort(values, term->value_count, sizeof *values, compare_values);
    term->sorted = true;
    if (field_of(term) != FIELD_PRICE) {
        return true;
    }
    double *numbers = dn_arena_alloc(arena, term->value_count * sizeof *numbers);
    if (numbers == NULL) {
        return false;
    }
    for (size_t i = 0; i < term->value_count; i++) {
        if (!dn_filter_number(values[i].value, values[i].value_length, &numbers[i])) {
            return true; /* dn_filter_check refuses the term */
        }
    }
    qsort(numbers, term->value_count, sizeof *numbers, compare_numbers);
    term->numbers = numbers;
    return true;
}

/* None of the prefixes covers another, so the text begins with the greatest that is not behind it, or with
 * none: all between a prefix and what it begins would begin with it. */
static bool any_begins(const struct dn_filter_term *term, const char *text, size_t length)
{
    if (term->sorted) {
        size_t from = 0, to = term->prefix_count; /* the first that is behind the text */
        while (from < to) {
            size_t at = from + (to - from) / 2;
            const struct dn_attribute *v = &term->values[at];
            if (compare_bytes(v->value, v->value_length, text, length) <= 0) {
                from = at + 1;
            } else {
                to = at;
            }
        }
        return from > 0 && begins_with(text, length, &term->values[from - 1]);
    }
    for (size_t i = 0; i < term->value_count; i++) {
        if (begins_with(text, length, &term->values[i])) {
            return true;
        }
    }
    return false;
}

static bool any_value_is(const struct dn_filter_term *term, const char *text, size_t length)
{
    if (term->sorted) {
        struct dn_attribute wanted = {.value = text, .value_length = (uint16_t)length};
        return bsearch(&wanted, term->values, term->value_count, sizeof wanted, compare_values) != NULL;
    }
    for (size_t i = 0; i < term->value_count; i++) {
        if (text_equal(term->values[i].value, term->values[i].value_length, text, length)) {
            return true;
        }
    }
    return false;
}

static bool text_matches(const struct dn_filter_term *term, const char *text, size_t length)
{
    return term->op == DN_FILTER_PREFIX ? any_begins(term, text, length) : any_value_is(term, text, length);
}

static bool any_number_is(const struct dn_filter_term *term, double number)
{
    if (isnan(number)) {
        return false; /* no price equals nothing */
    }
    if (term->numbers != NULL) {
        return bsearch(&number, term->numbers, term->value_count, sizeof number, compare_numbers) != NULL;
    }
    for (size_t i = 0; i < term->value_count; i++) {
        double value;
        if (dn_filter_number(term->values[i].value, term->values[i].value_length, &value) &&
            value == number) {
            return true;
        }
    }
    return false;
}

static bool in_range(const struct dn_filter_term *term, double number)
{
    return number >= term->min && number <= term->max; /* NaN is in no range */
}

static bool attribute_matches(const struct dn_filter_term *term, const struct dn_item *item)
{
    for (size_t i = 0; i < item->attribute_count; i++) {
        const struct dn_attribute *a = &item->attributes[i];
        if (!text_equal(a->key, a->key_length, term->name, term->name_length)) {
            continue;
        }
        double number;
        return term->op == DN_FILTER_RANGE
                   ? dn_filter_number(a->value, a->value_length, &number) && in_range(term, number)
                   : text_matches(term, a->value, a->value_length);
    }
    return false;
}

static bool term_matches(const struct dn_filter_term *term, const struct dn_item *item)
{
    switch (field_of(term)) {
    case FIELD_CATEGORY:
        return text_matches(term, item->category, item->category_length);
    case FIELD_PRICE:
        return term->op == DN_FILTER_RANGE ? in_range(term, item->price) : any_number_is(term, item->price);
    case FIELD_AVAILABLE:
        return item->available ? any_value_is(term, "true", 4) : any_value_is(term, "false", 5);
    case FIELD_ATTRIBUTE:
        return attribute_matches(term, item);
    }
    return false;
}

bool dn_filter_match(const struct dn_filter *filter, const struct dn_item *item)
{
    if (filter == NULL) {
        return true;
    }
    if (filter->only_available && !item->available) {
        return false;
    }
    if (filter->jumps != NULL) {
        size_t at = 0;
        while (at < filter->term_count) { /* forward only: dn_filter_plan */
            at = term_matches(&filter->terms[at], item) ? filter->jumps[at].on_true
                                                        : filter->jumps[at].on_false;
        }
        return at == DN_FILTER_YES;
    }
    for (size_t i = 0; i < filter->term_count; i++) {
        if (!term_matches(&filter->terms[i], item)) {
            return false;
        }
    }
    return true;
}
