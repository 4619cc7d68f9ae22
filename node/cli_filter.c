/* --filter: the text is read here, so that a mistake is shown at its place before any node is asked; what
 * goes out are terms, and steps where they are more than a list of conditions that must all hold. */
#include "node/cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BLOCK_BYTES 16384u
#define ARENA_BYTES_MAX (64u << 20)

enum { KEY_FILTER = 5200, KEY_UNAVAILABLE };

static const struct argp_option filter_options[] = {
    {"filter", KEY_FILTER, "FILTER", 0,
     "Only items that match, as in 'category = shoes and (price < 50 or brand in (a, \"b c\")) and not title "
     "prefix Re'. Also name=a|b, name=1..5 (an end may be left out), !=, not in. Names are category, price, "
     "available and attributes'. Of several all must hold",
     40},
    {"include-unavailable", KEY_UNAVAILABLE, NULL, 0, "Also items that are not available", 40},
    {0},
};

void dn_cli_filter_refuse(struct argp_state *state, const char *option, const char *text, size_t at,
                          const struct dn_error *err)
{
    int column = 0;

    for (size_t i = 0; i < at; i++)
        column += ((unsigned char)text[i] & 0xc0) != 0x80;
    fprintf(stderr, "dunlin: %s: %s\n  %s\n", option, dn_cli_clean(err->message), dn_cli_clean(text));
    if (err->code == DN_INVALID)
        fprintf(stderr, "  %*s^\n", column, "");
    argp_state_help(state, stderr, ARGP_HELP_STD_ERR);
}

static error_t parse_filter(int key, char *text, struct argp_state *state)
{
    struct dn_cli_filter *filter = state->input;
    struct dn_error err = {0};
    size_t at = 0;

    switch (key) {
    case KEY_FILTER:
        if (dn_cli_filter_add(filter, text, &at, &err) != DN_OK)
            dn_cli_filter_refuse(state, "--filter", text, at, &err);
        break;
    case KEY_UNAVAILABLE:
        filter->filter.include_unavailable = true;
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp dn_cli_filter_argp = {.options = filter_options, .parser = parse_filter};

void dn_cli_filter_init(struct dn_cli_filter *filter)
{
    memset(filter, 0, sizeof *filter);
    dunlin__v1__filter__init(&filter->filter);
}

void dn_cli_filter_free(struct dn_cli_filter *filter)
{
    dn_arena_destroy(filter->arena);
    filter->arena = NULL;
}

/* ---- as a message
 * ---------------------------------------------------------------------------------------------- */

/* The functions below return false when memory is out. */

static bool put_texts(struct dn_arena *arena, const struct dn_filter_term *term, size_t *ret_count,
                      char ***ret_texts)
{
    char **texts = dn_arena_alloc(arena, term->value_count * sizeof *texts);

    if (texts == NULL)
        return false;
    for (size_t i = 0; i < term->value_count; i++) {
        texts[i] = dn_arena_strndup(arena, term->values[i].value, term->values[i].value_length);
        if (texts[i] == NULL)
            return false;
    }
    *ret_count = term->value_count;
    *ret_texts = texts;
    return true;
}

static bool put_term(struct dn_arena *arena, const struct dn_filter_term *term, Dunlin__V1__FilterTerm *ret)
{
    dunlin__v1__filter_term__init(ret);
    ret->name = dn_arena_strndup(arena, term->name, term->name_length);
    if (ret->name == NULL)
        return false;
    if (term->op == DN_FILTER_PREFIX)
        return put_texts(arena, term, &ret->n_prefixes, &ret->prefixes);
    if (term->op != DN_FILTER_RANGE)
        return put_texts(arena, term, &ret->n_values, &ret->values);
    ret->has_min = isfinite(term->min);
    ret->has_max = isfinite(term->max);
    ret->min = ret->has_min ? term->min : 0;
    ret->max = ret->has_max ? term->max : 0;
    return true;
}

static bool put_terms(struct dn_arena *arena, const struct dn_filter_tree *tree, Dunlin__V1__Filter *ret)
{
    Dunlin__V1__FilterTerm *terms = dn_arena_alloc(arena, tree->term_count * sizeof *terms);
    Dunlin__V1__FilterTerm **pointers = dn_arena_alloc(arena, tree->term_count * sizeof *pointers);

    if (terms == NULL || pointers == NULL)
        return false;
    for (size_t i = 0; i < tree->term_count; i++) {
        if (!put_term(arena, &tree->terms[i], &terms[i]))
            return false;
        pointers[i] = &terms[i];
    }
    ret->n_terms = tree->term_count;
    ret->terms = pointers;
    return true;
}

static bool put_steps(struct dn_arena *arena, const struct dn_filter_tree *tree, Dunlin__V1__Filter *ret)
{
    Dunlin__V1__FilterStep *steps = dn_arena_alloc(arena, tree->step_count * sizeof *steps);
    Dunlin__V1__FilterStep **pointers = dn_arena_alloc(arena, tree->step_count * sizeof *pointers);

    if (steps == NULL || pointers == NULL)
        return false;
    for (size_t i = 0; i < tree->step_count; i++) {
        dunlin__v1__filter_step__init(&steps[i]);
        steps[i].join = (Dunlin__V1__FilterJoin)tree->steps[i].join;
        steps[i].count = tree->steps[i].count;
        pointers[i] = &steps[i];
    }
    ret->n_steps = tree->step_count;
    ret->steps = pointers;
    return true;
}

enum dn_code dn_cli_filter_add(struct dn_cli_filter *filter, const char *text, size_t *ret_at,
                               struct dn_error *err)
{
    struct dn_filter_tree both[2] = {filter->tree}, whole;
    enum dn_code code;

    *ret_at = 0;
    if (filter->arena == NULL)
        filter->arena = dn_arena_create(ARENA_BLOCK_BYTES, ARENA_BYTES_MAX);
    if (filter->arena == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    code = dn_filter_parse(text, strlen(text), filter->arena, &both[1], ret_at, err);
    if (code == DN_OK)
        code = dn_filter_join(both, 2, filter->arena, &whole, err);
    if (code != DN_OK)
        return code;
    if (!put_terms(filter->arena, &whole, &filter->filter) ||
        !put_steps(filter->arena, &whole, &filter->filter))
        return dn_fail(err, DN_NO_MEMORY, "the filters need more memory than there is for them");
    filter->tree = whole;
    return DN_OK;
}
