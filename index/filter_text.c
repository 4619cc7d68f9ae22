/* A filter's text to terms and postfix steps: words, then Dijkstra's shunting yard with a stack of named
 * size. The grammar is in index.h (dn_filter_parse). */
#include "index/filter_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define STACK_MAX (4 * (DN_FILTER_BRACKETS_MAX + 1)) /* at each level: or, and, not, bracket */
#define SHOWN_MAX 40                                 /* bytes of a word in a message */

enum token {
    TOKEN_END,
    TOKEN_WORD,
    TOKEN_QUOTED,
    TOKEN_OPEN,
    TOKEN_CLOSE,
    TOKEN_COMMA,
    TOKEN_BAR,
    TOKEN_EQUALS,
    TOKEN_DIFFERS,
    TOKEN_LESS,
    TOKEN_LESS_EQUAL,
    TOKEN_MORE,
    TOKEN_MORE_EQUAL,
};

enum entry_kind { ENTRY_AND, ENTRY_OR, ENTRY_NOT, ENTRY_OPEN };

struct entry {
    enum entry_kind kind;
    uint32_t count;
    size_t at;
};

struct parser {
    const char *text;
    size_t length, next; /* next byte to read */
    struct dn_arena *arena;
    struct dn_error *err;
    size_t fault_at;

    enum token token; /* the one to look at now */
    size_t at;        /* where it begins */
    const char *word; /* its text, in the arena when it was quoted */
    size_t word_length;

    struct dn_filter_term *terms;
    size_t term_count;
    struct dn_filter_step *steps;
    size_t step_count;
    struct entry stack[STACK_MAX];
    size_t depth;
    size_t brackets; /* brackets and nots among them */
};

/* ---- errors
 * -------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static enum dn_code fail_at(struct parser *p, size_t at,
                                                                  const char *format, ...)
{
    char what[DN_ERROR_MESSAGE_MAX];
    size_t character = 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    for (size_t i = 0; i < at; i++) {
        character += ((unsigned char)p->text[i] & 0xc0) != 0x80; /* UTF-8: bytes that begin one */
    }
    p->fault_at = at;
    return dn_fail(p->err, DN_INVALID, "at character %zu: %s", character, what);
}

/* "expected X, not Y" about the present token. */
static enum dn_code fail_expected(struct parser *p, const char *expected)
{
    size_t length = p->next - p->at;
    if (p->token == TOKEN_END) {
        return fail_at(p, p->at, "expected %s, but the text ends", expected);
    }
    return fail_at(p, p->at, "expected %s, not %.*s%s", expected,
                   (int)(length < SHOWN_MAX ? length : SHOWN_MAX), p->text + p->at,
                   length > SHOWN_MAX ? "..." : "");
}

/* ---- words
 * --------------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool in_word(char c)
{
    return (unsigned char)c > ' ' && c != 0x7f && strchr("()|,=<>!\"'\\", c) == NULL;
}

/* Bytes up to the quote that ends it; `length` of them when none does. */
static size_t quoted_bytes(const char *text, size_t length, char quote)
{
    size_t i = 0;
    while (i < length && text[i] != quote) {
        i += text[i] == '\\' ? 2 : 1;
    }
    return i < length ? i : length;
}

static enum dn_code read_quoted(struct parser *p)
{
    size_t first = p->next + 1;
    size_t bytes = quoted_bytes(p->text + first, p->length - first, p->text[p->next]);
    size_t length = 0;
    if (first + bytes == p->length) {
        return fail_at(p, p->at, "the quote that begins here does not end");
    }
    char *copy = dn_arena_alloc(p->arena, bytes);
    if (copy == NULL) {
        return dn_filter_no_room(p->err);
    }
    for (size_t i = first; i < first + bytes; i++) {
        char c = p->text[i];
        if (c == '\\') {
            c = p->text[++i]; /* there is one: quoted_bytes */
            if (c != '\\' && c != '"' && c != '\'') {
                return fail_at(p, i - 1, "a \\ in quotes stands before a quote or another \\ only");
            }
        }
        copy[length++] = c;
    }
    p->next = first + bytes + 1;
    p->token = TOKEN_QUOTED;
    p->word = copy;
    p->word_length = length;
    return DN_OK;
}

static enum token sign_of(char first, char second, size_t *ret_length)
{
    bool equal = second == '=';
    *ret_length = 1;
    switch (first) {
    case '(':
        return TOKEN_OPEN;
    case ')':
        return TOKEN_CLOSE;
    case ',':
        return TOKEN_COMMA;
    case '|':
        return TOKEN_BAR;
    case '=':
        return TOKEN_EQUALS;
    case '!':
        *ret_length = 2;
        return equal ? TOKEN_DIFFERS : TOKEN_END;
    case '<':
        *ret_length += equal;
        return equal ? TOKEN_LESS_EQUAL : TOKEN_LESS;
    case '>':
        *ret_length += equal;
        return equal ? TOKEN_MORE_EQUAL : TOKEN_MORE;
    default:
        return TOKEN_END;
    }
}

static enum dn_code advance(struct parser *p)
{
    while (p->next < p->length && is_space(p->text[p->next])) {
        p->next++;
    }
    p->at = p->next;
    p->token = TOKEN_END;
    p->word = NULL;
    p->word_length = 0;
    if (p->next == p->length) {
        return DN_OK;
    }
    char c = p->text[p->next];
    if (c == '"' || c == '\'') {
        return read_quoted(p);
    }
    if (!in_word(c)) {
        size_t length;
        p->token = sign_of(c, p->next + 1 < p->length ? p->text[p->next + 1] : ' ', &length);
        if (p->token == TOKEN_END) {
            return fail_at(p, p->at, "a character that belongs into quotes: write \"...\"");
        }
        p->next += length;
        return DN_OK;
    }
    while (p->next < p->length && in_word(p->text[p->next])) {
        p->next++;
    }
    p->token = TOKEN_WORD;
    p->word = p->text + p->at;
    p->word_length = p->next - p->at;
    return DN_OK;
}

static bool is_keyword(const struct parser *p, const char *keyword)
{
    return p->token == TOKEN_WORD && p->word_length == strlen(keyword) &&
           strncasecmp(p->word, keyword, p->word_length) == 0;
}

static bool is_text(const struct parser *p)
{
    return p->token == TOKEN_QUOTED ||
           (p->token == TOKEN_WORD && !is_keyword(p, "and") && !is_keyword(p, "or") &&
            !is_keyword(p, "not") && !is_keyword(p, "in") && !is_keyword(p, "prefix"));
}

/* ---- conditions
 * ------------------------------------------------------------------------------------------------ */

static enum dn_code add_value(struct parser *p, struct dn_attribute *values, size_t *count)
{
    if (!is_text(p)) {
        return fail_expected(p, p->token == TOKEN_WORD ? "a value (a word of the language stands in quotes)"
                                                       : "a value");
    }
    if (p->word_length > DN_ATTRIBUTE_VALUE_MAX) {
        return fail_at(p, p->at, "a value of %zu bytes; the most is %d", p->word_length,
                       DN_ATTRIBUTE_VALUE_MAX);
    }
    if (*count == DN_FILTER_VALUES_MAX) {
        return fail_at(p, p->at, "more than %d values", DN_FILTER_VALUES_MAX);
    }
    values[(*count)++] =
        (struct dn_attribute){.key = "", .value = p->word, .value_length = (uint16_t)p->word_length};
    return advance(p);
}

/* Values with `between` between them, up to the closing bracket when `bracketed`. */
static enum dn_code read_values(struct parser *p, enum token between, bool bracketed,
                                struct dn_filter_term *term)
{
    size_t count = 0;
    size_t most = 1; /* signs ahead tell how many there can be */
    for (size_t i = p->at; i < p->length && most < DN_FILTER_VALUES_MAX; i++) {
        most += p->text[i] == (between == TOKEN_BAR ? '|' : ',');
    }
    struct dn_attribute *values = dn_arena_zalloc(p->arena, most * sizeof *values);
    if (values == NULL) {
        return dn_filter_no_room(p->err);
    }
    enum dn_code code = add_value(p, values, &count);
    while (code == DN_OK && p->token == between) {
        code = advance(p);
        if (code == DN_OK) {
            code = add_value(p, values, &count);
        }
    }
    if (code == DN_OK && bracketed) {
        code = p->token == TOKEN_CLOSE ? advance(p) : fail_expected(p, "',' or ')'");
    }
    if (code != DN_OK) {
        return code;
    }
    term->values = values;
    term->value_count = count;
    return dn_filter_sort(term, values, p->arena) ? DN_OK : dn_filter_no_room(p->err);
}

/* "1..5", "1..", "..5": both ends are numbers or empty, not both empty. */
static bool word_range(const struct parser *p, struct dn_filter_term *term)
{
    if (p->token != TOKEN_WORD) {
        return false;
    }
    for (size_t i = 0; i + 2 <= p->word_length; i++) {
        if (p->word[i] != '.' || p->word[i + 1] != '.') {
            continue;
        }
        double min = -(double)INFINITY, max = (double)INFINITY;
        size_t rest = p->word_length - i - 2;
        if ((i == 0 && rest == 0) || (i > 0 && !dn_filter_number(p->word, i, &min)) ||
            (rest > 0 && !dn_filter_number(p->word + i + 2, rest, &max))) {
            return false;
        }
        term->op = DN_FILTER_RANGE;
        term->min = min;
        term->max = max;
        return true;
    }
    return false;
}

static enum dn_code read_equals(struct parser *p, struct dn_filter_term *term)
{
    if (word_range(p, term)) {
        return term->min <= term->max ? advance(p) : fail_at(p, p->at, "a range from more to less");
    }
    enum dn_code code = read_values(p, TOKEN_BAR, false, term);
    term->op = term->value_count == 1 ? DN_FILTER_EQ : DN_FILTER_IN;
    return code;
}

static enum dn_code read_compared(struct parser *p, enum token sign, struct dn_filter_term *term)
{
    double number;
    if (!is_text(p) || !dn_filter_number(p->word, p->word_length, &number)) {
        return fail_expected(p, "a number");
    }
    term->op = DN_FILTER_RANGE;
    term->min = -(double)INFINITY;
    term->max = (double)INFINITY;
    switch (sign) { /* without the number itself: up to the next one that there is */
    case TOKEN_LESS:
        term->max = nextafter(number, -(double)INFINITY);
        break;
    case TOKEN_LESS_EQUAL:
        term->max = number;
        break;
    case TOKEN_MORE:
        term->min = nextafter(number, (double)INFINITY);
        break;
    default:
        term->min = number;
        break;
    }
    return advance(p);
}

static enum dn_code read_list(struct parser *p, enum dn_filter_op op, struct dn_filter_term *term)
{
    enum dn_code code = advance(p);
    bool bracketed = p->token == TOKEN_OPEN;
    term->op = op;
    if (code == DN_OK && op == DN_FILTER_IN && !bracketed) {
        return fail_expected(p, "'(' and a list of values");
    }
    if (code == DN_OK && bracketed) {
        code = advance(p);
    }
    if (code != DN_OK) {
        return code;
    }
    return read_values(p, bracketed ? TOKEN_COMMA : TOKEN_BAR, bracketed, term);
}

/* What follows the name. */
static enum dn_code read_condition(struct parser *p, struct dn_filter_term *term, bool *ret_negated)
{
    enum token sign = p->token;
    enum dn_code code = DN_OK;
    *ret_negated = is_keyword(p, "not");
    if (*ret_negated) {
        code = advance(p);
    }
    if (code == DN_OK && is_keyword(p, "in")) {
        return read_list(p, DN_FILTER_IN, term);
    }
    if (code == DN_OK && is_keyword(p, "prefix")) {
        return read_list(p, DN_FILTER_PREFIX, term);
    }
    if (code != DN_OK || *ret_negated) {
        return code != DN_OK ? code : fail_expected(p, "'in' or 'prefix'");
    }
    if (sign < TOKEN_EQUALS) {
        return fail_expected(p, "one of = != < <= > >= in prefix");
    }
    code = advance(p);
    if (code != DN_OK) {
        return code;
    }
    if (sign == TOKEN_EQUALS || sign == TOKEN_DIFFERS) {
        *ret_negated = sign == TOKEN_DIFFERS;
        return read_equals(p, term);
    }
    return read_compared(p, sign, term);
}

static enum dn_code put_step(struct parser *p, enum dn_filter_join join, size_t count)
{
    if (p->step_count == DN_FILTER_STEPS_MAX) {
        return fail_at(p, p->at, "the filter is too long: more than %d conditions and words",
                       DN_FILTER_STEPS_MAX);
    }
    p->steps[p->step_count++] = (struct dn_filter_step){.join = join, .count = (uint32_t)count};
    return DN_OK;
}

static enum dn_code read_term(struct parser *p)
{
    bool negated = false;
    if (!is_text(p)) {
        return fail_expected(p, "a condition such as NAME = VALUE");
    }
    if (p->term_count == DN_FILTER_TERMS_MAX) {
        return fail_at(p, p->at, "more than %d conditions", DN_FILTER_TERMS_MAX);
    }
    if (p->word_length == 0 || p->word_length > DN_ATTRIBUTE_KEY_MAX) {
        return fail_at(p, p->at, "an attribute's name has 1 to %d bytes, not %zu", DN_ATTRIBUTE_KEY_MAX,
                       p->word_length);
    }
    struct dn_filter_term *term = &p->terms[p->term_count];
    *term = (struct dn_filter_term){.name = p->word, .name_length = (uint16_t)p->word_length};
    enum dn_code code = advance(p);
    if (code == DN_OK) {
        code = read_condition(p, term, &negated);
    }
    if (code == DN_OK) {
        code = put_step(p, DN_FILTER_TERM, p->term_count++);
    }
    return code == DN_OK && negated ? put_step(p, DN_FILTER_NOT, 0) : code;
}

/* ---- joining
 * ----------------------------------------------------------------------------------------------- */

static struct entry *top(struct parser *p)
{
    return p->depth > 0 ? &p->stack[p->depth - 1] : NULL;
}

static bool top_is(struct parser *p, enum entry_kind kind)
{
    return p->depth > 0 && top(p)->kind == kind;
}

static enum dn_code push(struct parser *p, enum entry_kind kind, uint32_t count)
{
    bool nests = kind == ENTRY_NOT || kind == ENTRY_OPEN;
    if (nests && p->brackets == DN_FILTER_BRACKETS_MAX) {
        return fail_at(p, p->at, "brackets and nots stand more than %d deep in each other",
                       DN_FILTER_BRACKETS_MAX);
    }
    DN_ASSERT(p->depth < STACK_MAX);
    p->brackets += nests;
    p->stack[p->depth++] = (struct entry){.kind = kind, .count = count, .at = p->at};
    return advance(p);
}

/* Takes the top off the stack, and puts its step. */
static enum dn_code pop(struct parser *p)
{
    static const enum dn_filter_join joins[] = {DN_FILTER_AND, DN_FILTER_OR, DN_FILTER_NOT};
    struct entry entry = p->stack[--p->depth];
    p->brackets -= entry.kind == ENTRY_NOT || entry.kind == ENTRY_OPEN;
    return entry.kind == ENTRY_OPEN ? DN_OK : put_step(p, joins[entry.kind], entry.count);
}

static enum dn_code pop_while(struct parser *p, enum entry_kind last)
{
    enum dn_code code = DN_OK;
    while (code == DN_OK && p->depth > 0 && top(p)->kind <= last) {
        code = pop(p);
    }
    return code;
}

static enum dn_code pop_nots(struct parser *p)
{
    enum dn_code code = DN_OK;
    while (code == DN_OK && top_is(p, ENTRY_NOT)) {
        code = pop(p);
    }
    return code;
}

static enum dn_code read_operand(struct parser *p, bool *ret_done)
{
    *ret_done = false;
    if (is_keyword(p, "not")) {
        return push(p, ENTRY_NOT, 1);
    }
    if (p->token == TOKEN_OPEN) {
        return push(p, ENTRY_OPEN, 0);
    }
    enum dn_code code = read_term(p);
    *ret_done = true;
    return code == DN_OK ? pop_nots(p) : code;
}

/* After an operand: and, or, a closing bracket. */
static enum dn_code read_operator(struct parser *p, bool *ret_operand_next)
{
    enum dn_code code;
    *ret_operand_next = true;
    if (is_keyword(p, "and")) {
        if (!top_is(p, ENTRY_AND)) {
            return push(p, ENTRY_AND, 2);
        }
        top(p)->count++;
        return advance(p);
    }
    if (is_keyword(p, "or")) {
        code = pop_while(p, ENTRY_AND);
        if (code != DN_OK) {
            return code;
        }
        if (!top_is(p, ENTRY_OR)) {
            return push(p, ENTRY_OR, 2);
        }
        top(p)->count++;
        return advance(p);
    }
    *ret_operand_next = false;
    if (p->token != TOKEN_CLOSE) {
        return fail_expected(p, "'and' or 'or' (a value of several words stands in quotes)");
    }
    code = pop_while(p, ENTRY_OR);
    if (code == DN_OK && p->depth == 0) {
        return fail_at(p, p->at, "no '(' belongs to this ')'");
    }
    if (code == DN_OK) {
        code = pop(p);
    }
    if (code == DN_OK) {
        code = pop_nots(p);
    }
    return code == DN_OK ? advance(p) : code;
}

static enum dn_code read_all(struct parser *p)
{
    bool operand_next = true;
    enum dn_code code = advance(p);
    while (code == DN_OK && (operand_next || p->token != TOKEN_END)) {
        if (operand_next) {
            bool done;
            code = read_operand(p, &done);
            operand_next = !done;
        } else {
            code = read_operator(p, &operand_next);
        }
    }
    if (code == DN_OK) {
        code = pop_while(p, ENTRY_OR);
    }
    if (code == DN_OK && p->depth > 0) {
        return fail_at(p, top(p)->at, "this '(' is not closed");
    }
    return code;
}

/* Terms that are all to hold need no steps: older servers know those, too. */
static bool is_plain(const struct parser *p)
{
    for (size_t i = 0; i < p->term_count; i++) {
        if (p->steps[i].join != DN_FILTER_TERM) {
            return false;
        }
    }
    return p->term_count == 1
               ? p->step_count == 1
               : p->step_count == p->term_count + 1 && p->steps[p->term_count].join == DN_FILTER_AND;
}

enum dn_code dn_filter_parse(const char *text, size_t length, struct dn_arena *arena,
                             struct dn_filter_tree *ret, size_t *ret_at, struct dn_error *err)
{
    struct parser p = {.text = text, .length = length, .arena = arena, .err = err};
    enum dn_code code;
    if (length > DN_FILTER_TEXT_MAX) {
        code = fail_at(&p, 0, "a filter of %zu bytes; the most is %u", length, DN_FILTER_TEXT_MAX);
    } else {
        p.terms = dn_arena_alloc(arena, DN_FILTER_TERMS_MAX * sizeof *p.terms);
        p.steps = dn_arena_alloc(arena, DN_FILTER_STEPS_MAX * sizeof *p.steps);
        code = p.terms != NULL && p.steps != NULL ? read_all(&p) : dn_filter_no_room(err);
    }
    if (code != DN_OK) {
        if (ret_at != NULL) {
            *ret_at = p.fault_at;
        }
        return code;
    }
    *ret = (struct dn_filter_tree){.terms = p.terms, .term_count = p.term_count};
    if (!is_plain(&p)) {
        ret->steps = p.steps;
        ret->step_count = p.step_count;
    }
    return DN_OK;
}
