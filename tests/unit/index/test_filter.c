/* Filters as trees: text and steps against a naive evaluator, and what is refused, with its place. */
#include "tests/unit/index/support.h"

#define TREE_NODES_MAX 40
#define RANDOM_TREES 4000
#define ARENA_BYTES (8u << 20)

static const char *const WORDS[] = {"red", "reddish", "blue", "a b", "and", "\"q\"", "x\\y", "gr\xc3\xbcn"};
#define WORD_COUNT (sizeof WORDS / sizeof *WORDS)

/* ---- a tree of its own, evaluated naively ----------------------------------------------------------------
 */

enum kind { KIND_EQUALS, KIND_IN, KIND_RANGE, KIND_PREFIX, KIND_LESS, KIND_AND, KIND_OR, KIND_NOT };

struct node {
    enum kind kind;
    const char *name;
    const char *values[3];
    size_t value_count;
    double min, max;
    int children[3];
    size_t child_count;
    bool bracketed;
};

struct tree {
    struct node nodes[TREE_NODES_MAX];
    int count;
};

static int grow(struct tree *t, struct rng *rng, unsigned depth)
{
    static const char *const names[] = {"category", "colour", "in", "price", "size"};
    int at = t->count++;
    struct node *n = &t->nodes[at];
    *n = (struct node){.bracketed = rng_below(rng, 4) == 0};
    if (depth > 0 && t->count + 6 < TREE_NODES_MAX && rng_below(rng, 3) != 0) {
        n->kind = (enum kind)(KIND_AND + rng_below(rng, 3));
        n->child_count = n->kind == KIND_NOT ? 1 : 2 + rng_below(rng, 2);
        for (size_t i = 0; i < n->child_count; i++) {
            int child = grow(t, rng, depth - 1);
            t->nodes[at].children[i] = child;
        }
        return at;
    }
    n->name = names[rng_below(rng, 5)];
    bool numeric = n->name == names[3] || n->name == names[4];
    n->kind = (enum kind)(numeric ? (rng_below(rng, 2) ? KIND_RANGE : KIND_LESS)
                                  : (unsigned[]){KIND_EQUALS, KIND_IN, KIND_PREFIX}[rng_below(rng, 3)]);
    n->min = rng_below(rng, 10) - 3.0;
    n->max = n->min + rng_below(rng, 4);
    n->value_count = n->kind == KIND_IN ? 2 + rng_below(rng, 2) : 1;
    for (size_t i = 0; i < n->value_count; i++) {
        n->values[i] = WORDS[rng_below(rng, WORD_COUNT)];
    }
    return at;
}

static const char *field_of(const struct dn_item *item, const char *name, char *buffer, size_t size)
{
    if (strcmp(name, "category") == 0) {
        snprintf(buffer, size, "%.*s", item->category_length, item->category);
        return buffer;
    }
    if (strcmp(name, "price") == 0) {
        snprintf(buffer, size, "%.17g", item->price);
        return isnan(item->price) ? NULL : buffer;
    }
    for (size_t i = 0; i < item->attribute_count; i++) {
        const struct dn_attribute *a = &item->attributes[i];
        if (a->key_length == strlen(name) && memcmp(a->key, name, a->key_length) == 0) {
            snprintf(buffer, size, "%.*s", a->value_length, a->value);
            return buffer;
        }
    }
    return NULL;
}

static bool leaf_holds(const struct node *n, const struct dn_item *item)
{
    char buffer[64];
    const char *field = field_of(item, n->name, buffer, sizeof buffer);
    if (field == NULL) {
        return false;
    }
    if (n->kind == KIND_RANGE) {
        return atof(field) >= n->min && atof(field) <= n->max;
    }
    if (n->kind == KIND_LESS) {
        return atof(field) < n->min;
    }
    for (size_t i = 0; i < n->value_count; i++) {
        if (n->kind == KIND_PREFIX ? strncmp(field, n->values[i], strlen(n->values[i])) == 0
                                   : strcmp(field, n->values[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool holds(const struct tree *t, int at, const struct dn_item *item)
{
    const struct node *n = &t->nodes[at];
    if (n->kind < KIND_AND) {
        return leaf_holds(n, item);
    }
    bool all = true, any = false;
    for (size_t i = 0; i < n->child_count; i++) {
        bool one = holds(t, n->children[i], item);
        all = all && one;
        any = any || one;
    }
    return n->kind == KIND_NOT ? !any : n->kind == KIND_AND ? all : any;
}

/* ---- the same tree as text and as steps ------------------------------------------------------------------
 */

struct text {
    char bytes[16384];
    size_t length;
};

static void put(struct text *text, const char *part)
{
    size_t length = strlen(part);
    assert_true(text->length + length < sizeof text->bytes);
    memcpy(text->bytes + text->length, part, length + 1);
    text->length += length;
}

static void put_word(struct text *text, const char *word, struct rng *rng)
{
    bool bare = strspn(word, "abcdefghijklmnopqrstuvwxyz") == strlen(word) && strcmp(word, "and") != 0 &&
                strcmp(word, "in") != 0;
    if (bare && rng_below(rng, 2)) {
        put(text, word);
        return;
    }
    char quote[2] = {rng_below(rng, 2) ? '"' : '\'', '\0'};
    put(text, quote);
    for (; *word != '\0'; word++) {
        if (*word == '\\' || *word == quote[0]) {
            put(text, "\\");
        }
        put(text, (char[]){*word, '\0'});
    }
    put(text, quote);
}

static void put_leaf(struct text *text, const struct node *n, struct rng *rng)
{
    char numbers[64];
    put_word(text, n->name, rng);
    if (n->kind == KIND_RANGE || n->kind == KIND_LESS) {
        if (n->kind == KIND_LESS) {
            snprintf(numbers, sizeof numbers, "<%g", n->min);
        } else {
            snprintf(numbers, sizeof numbers, " = %g..%g", n->min, n->max);
        }
        put(text, numbers);
        return;
    }
    bool bars = n->kind != KIND_IN || rng_below(rng, 2);
    put(text, n->kind == KIND_PREFIX ? (bars ? " PREFIX " : " prefix(") : bars ? "=" : " in (");
    for (size_t i = 0; i < n->value_count; i++) {
        put(text, i == 0 ? "" : bars ? " | " : ", ");
        put_word(text, n->values[i], rng);
    }
    put(text, bars ? "" : ")");
}

/* `around`: the operator around it, which decides whether brackets are needed. */
static void put_node(struct text *text, const struct tree *t, int at, enum kind around, struct rng *rng)
{
    const struct node *n = &t->nodes[at];
    bool brackets = n->bracketed || (n->kind == KIND_OR && around != KIND_OR) ||
                    (n->kind == KIND_AND && around == KIND_NOT);
    put(text, brackets ? "(" : "");
    if (n->kind == KIND_NOT) {
        put(text, "not ");
        put_node(text, t, n->children[0], KIND_NOT, rng);
    } else if (n->kind < KIND_AND) {
        put_leaf(text, n, rng);
    }
    for (size_t i = 0; n->kind >= KIND_AND && n->kind < KIND_NOT && i < n->child_count; i++) {
        put(text, i == 0 ? "" : n->kind == KIND_AND ? " and\n" : " OR ");
        put_node(text, t, n->children[i], n->kind, rng);
    }
    put(text, brackets ? ")" : "");
}

struct built {
    struct dn_filter_term terms[TREE_NODES_MAX];
    struct dn_attribute values[TREE_NODES_MAX][3];
    struct dn_filter_step steps[TREE_NODES_MAX];
    size_t term_count, step_count;
};

static void build(struct built *b, const struct tree *t, int at)
{
    const struct node *n = &t->nodes[at];
    for (size_t i = 0; n->kind >= KIND_AND && i < n->child_count; i++) {
        build(b, t, n->children[i]);
    }
    struct dn_filter_step *step = &b->steps[b->step_count++];
    if (n->kind >= KIND_AND) {
        *step = (struct dn_filter_step){.join = (enum dn_filter_join)(DN_FILTER_AND + (n->kind - KIND_AND)),
                                        .count = (uint32_t)n->child_count};
        return;
    }
    static const enum dn_filter_op ops[] = {DN_FILTER_EQ, DN_FILTER_IN, DN_FILTER_RANGE, DN_FILTER_PREFIX,
                                            DN_FILTER_RANGE};
    struct dn_filter_term *term = &b->terms[b->term_count];
    struct dn_attribute *values = b->values[b->term_count];
    *step = (struct dn_filter_step){.join = DN_FILTER_TERM, .count = (uint32_t)b->term_count++};
    *term = (struct dn_filter_term){.op = ops[n->kind],
                                    .name = n->name,
                                    .name_length = (uint16_t)strlen(n->name),
                                    .values = values,
                                    .value_count = n->value_count,
                                    .min = n->kind == KIND_LESS ? -(double)INFINITY : n->min,
                                    .max = n->kind == KIND_LESS ? nextafter(n->min, -1e9) : n->max};
    for (size_t i = 0; i < n->value_count; i++) {
        values[i] =
            (struct dn_attribute){.value = n->values[i], .value_length = (uint16_t)strlen(n->values[i])};
    }
}

/* ---- random items
 * ------------------------------------------------------------------------------------------ */

struct made_item {
    struct dn_item item;
    struct dn_attribute attributes[3];
    char size[8];
};

static void make(struct made_item *m, struct rng *rng)
{
    static const char *const keys[] = {"colour", "in", "size"};
    snprintf(m->size, sizeof m->size, "%d", (int)rng_below(rng, 10) - 3);
    m->item = (struct dn_item){.id = "i", .id_length = 1, .available = true, .attributes = m->attributes};
    m->item.category = WORDS[rng_below(rng, WORD_COUNT)];
    m->item.category_length = (uint16_t)strlen(m->item.category);
    m->item.price = rng_below(rng, 4) ? rng_below(rng, 10) - 3.0 : (double)NAN;
    for (size_t i = 0; i < 3; i++) {
        const char *value = i == 2 ? m->size : WORDS[rng_below(rng, WORD_COUNT)];
        if (rng_below(rng, 3) != 0) {
            m->attributes[m->item.attribute_count++] =
                (struct dn_attribute){.key = keys[i],
                                      .value = value,
                                      .key_length = (uint16_t)strlen(keys[i]),
                                      .value_length = (uint16_t)strlen(value)};
        }
    }
}

static void test_against_naive(void **unused)
{
    (void)unused;
    struct rng rng = {.state = 20};
    struct dn_arena *arena = dn_arena_create(1u << 20, ARENA_BYTES);
    size_t matched = 0, asked = 0, with_jumps = 0;
    for (int round = 0; round < RANDOM_TREES; round++) {
        struct tree tree = {.count = 0};
        struct text text = {.length = 0};
        struct built built = {.term_count = 0};
        struct dn_filter_tree parsed, joined;
        struct dn_filter from_text = {0}, from_steps = {0}, twice = {0};
        struct dn_error err = {0};
        int root = grow(&tree, &rng, rng_below(&rng, 4));
        put_node(&text, &tree, root, KIND_OR, &rng);
        build(&built, &tree, root);
        struct dn_filter_tree steps = {built.terms, built.term_count, built.steps, built.step_count};
        if (dn_filter_parse(text.bytes, text.length, arena, &parsed, NULL, &err) != DN_OK) {
            fail_msg("%s: %s", text.bytes, err.message);
        }
        assert_int_equal(dn_filter_plan(&parsed, arena, &from_text, &err), DN_OK);
        assert_int_equal(dn_filter_plan(&steps, arena, &from_steps, &err), DN_OK);
        assert_int_equal(
            dn_filter_join((struct dn_filter_tree[]){parsed, {0}, steps}, 3, arena, &joined, &err), DN_OK);
        assert_int_equal(dn_filter_plan(&joined, arena, &twice, &err), DN_OK);
        with_jumps += from_text.jumps != NULL;
        for (int i = 0; i < 20; i++) {
            struct made_item made = {.size = ""};
            make(&made, &rng);
            bool want = holds(&tree, root, &made.item);
            if (dn_filter_match(&from_text, &made.item) != want) {
                fail_msg("text, round %d: %s: should be %d", round, text.bytes, want);
            }
            assert_int_equal(dn_filter_match(&from_steps, &made.item), want);
            assert_int_equal(dn_filter_match(&twice, &made.item), want);
            matched += want;
            asked++;
        }
        dn_arena_reset(arena);
    }
    /* Not all one answer, and not all plain conjunctions. */
    assert_in_range(matched, asked / 10, asked - asked / 10);
    assert_true(with_jumps > RANDOM_TREES / 4);
    dn_arena_destroy(arena);
}

/* ---- what is refused, and where
 * ---------------------------------------------------------------------------- */

static void test_refused_texts(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        size_t at;
        const char *message;
    } cases[] = {
        {"", 0, "at character 1: expected a condition such as NAME = VALUE, but the text ends"},
        {"a", 1, "at character 2: expected one of ="},
        {"a = ", 4, "expected a value, but the text ends"},
        {"a = and", 4, "a word of the language stands in quotes"},
        {"a=b c=d", 4, "expected 'and' or 'or' (a value of several words stands in quotes), not c"},
        {"a=b and", 7, "expected a condition"},
        {"gr\xc3\xbcn=b )", 8, "at character 8: no '(' belongs to this ')'"},
        {"(a=b or (c=d)", 0, "this '(' is not closed"},
        {"a=b and not (c=d", 12, "at character 13: this '(' is not closed"},
        {"a in b", 5, "expected '(' and a list of values, not b"},
        {"a in (b c)", 8, "expected ',' or ')', not c"},
        {"a in (b,)", 8, "expected a value, not )"},
        {"a not = b", 6, "expected 'in' or 'prefix', not ="},
        {"a < b", 4, "expected a number, not b"},
        {"a = 5..1", 4, "a range from more to less"},
        {"a = \"b", 4, "the quote that begins here does not end"},
        {"a = \"b\\", 4, "the quote that begins here does not end"},
        {"a = 'b\\n'", 6, "a \\ in quotes stands before"},
        {"a ! b", 2, "a character that belongs into quotes"},
        {"a = b\\c", 5, "a character that belongs into quotes"},
        {"'' = b", 0, "1 to 64 bytes, not 0"},
        {"not not not not not not not not not a=b", 32, "more than 8 deep"},
        {"and a=b", 0, "expected a condition"},
    };
    struct dn_arena *arena = dn_arena_create(1u << 20, ARENA_BYTES);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dn_filter_tree tree;
        struct dn_error err = {0};
        size_t at = SIZE_MAX;
        enum dn_code code = dn_filter_parse(cases[i].text, strlen(cases[i].text), arena, &tree, &at, &err);
        if (code != DN_INVALID || at != cases[i].at || strstr(err.message, cases[i].message) == NULL) {
            fail_msg("'%s': code %d at %zu: %s", cases[i].text, code, at, err.message);
        }
    }
    dn_arena_destroy(arena);
}

static void test_limits_of_texts(void **unused)
{
    (void)unused;
    struct dn_arena *arena = dn_arena_create(1u << 20, ARENA_BYTES);
    struct dn_filter_tree tree;
    struct dn_error err = {0};
    static char text[DN_FILTER_TEXT_MAX + 2];
    size_t length = 0;
    for (int i = 0; i < DN_FILTER_TERMS_MAX; i++) {
        length += (size_t)snprintf(text + length, sizeof text - length, "%sa=b", i ? " or " : "");
    }
    assert_int_equal(dn_filter_parse(text, length, arena, &tree, NULL, &err), DN_OK);
    assert_int_equal(tree.term_count, DN_FILTER_TERMS_MAX);
    struct dn_filter filter = {0};
    assert_int_equal(dn_filter_plan(&tree, arena, &filter, &err), DN_OK);
    /* One more, in the text and by joining. */
    struct dn_filter_tree two[] = {tree, {.terms = tree.terms, .term_count = 1}};
    assert_int_equal(dn_filter_join(two, 2, arena, &tree, &err), DN_INVALID);
    length += (size_t)snprintf(text + length, sizeof text - length, " or a=b");
    assert_int_equal(dn_filter_parse(text, length, arena, &tree, NULL, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "more than 64 conditions"));

    length = (size_t)snprintf(text, sizeof text, "a in (");
    for (int i = 0; i < DN_FILTER_VALUES_MAX; i++) {
        length += (size_t)snprintf(text + length, sizeof text - length, "%sv%d", i ? "," : "", i);
    }
    text[length] = ')';
    assert_int_equal(dn_filter_parse(text, length + 1, arena, &tree, NULL, &err), DN_OK);
    assert_int_equal(tree.terms[0].value_count, DN_FILTER_VALUES_MAX);
    snprintf(text + length, sizeof text - length, ",x)");
    assert_int_equal(dn_filter_parse(text, length + 3, arena, &tree, NULL, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "more than 1000 values"));

    memset(text, ' ', sizeof text);
    assert_int_equal(dn_filter_parse(text, DN_FILTER_TEXT_MAX + 1, arena, &tree, NULL, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "the most is 65536"));
    /* Quotes cost what they hold, not what is left of the text. */
    memset(text, '"', DN_FILTER_TEXT_MAX);
    assert_int_equal(dn_filter_parse(text, DN_FILTER_TEXT_MAX, arena, &tree, NULL, &err), DN_INVALID);
    dn_arena_destroy(arena);
}

static void test_refused_steps(void **unused)
{
    (void)unused;
    const struct dn_attribute value = {.value = "b", .value_length = 1};
    const struct dn_filter_term terms[2] = {
        {.name = "a", .name_length = 1, .values = &value, .value_count = 1},
        {.name = "a", .name_length = 1, .values = &value, .value_count = 1}};
    struct dn_filter_step deep[DN_FILTER_DEPTH_MAX + 2] = {{DN_FILTER_TERM, 0}};
    struct dn_filter_step long_one[DN_FILTER_STEPS_MAX + 1] = {{DN_FILTER_TERM, 0}};
    for (size_t i = 1; i < DN_FILTER_DEPTH_MAX + 2; i++) {
        deep[i].join = DN_FILTER_NOT;
    }
    const struct dn_filter_step no_term[] = {{DN_FILTER_TERM, 2}};
    const struct dn_filter_step wraps[] = {{DN_FILTER_TERM, UINT32_MAX}};
    const struct dn_filter_step two[] = {{DN_FILTER_TERM, 0}, {DN_FILTER_TERM, 1}};
    const struct dn_filter_step greedy[] = {{DN_FILTER_TERM, 0}, {DN_FILTER_AND, 2}};
    const struct dn_filter_step nothing[] = {{DN_FILTER_TERM, 0}, {DN_FILTER_OR, 0}};
    const struct dn_filter_step first_not[] = {{DN_FILTER_NOT, 0}, {DN_FILTER_TERM, 0}};
    const struct dn_filter_step unknown[] = {{DN_FILTER_TERM, 0}, {(enum dn_filter_join)9, 1}};
    const struct {
        const struct dn_filter_step *steps;
        size_t count;
        const char *message; /* NULL: fine */
    } cases[] = {
        {no_term, 1, "step 0: there is no term 2, only 2"},
        {wraps, 1, "step 0: there is no term 4294967295"},
        {two, 2, "leave 2 results"},
        {greedy, 2, "step 1 joins 2 results; there are 1"},
        {nothing, 2, "step 1 joins 0 results"},
        {first_not, 2, "step 0 joins 1 results; there are 0"},
        {unknown, 2, "step 1: unknown operator 9"},
        {deep, DN_FILTER_DEPTH_MAX + 1, NULL},
        {deep, DN_FILTER_DEPTH_MAX + 2, "step 33: and, or, not stand more than 32 deep"},
        {long_one, DN_FILTER_STEPS_MAX + 1, "257 steps; the most is 256"},
        {long_one, DN_FILTER_TERMS_MAX + 1, "step 64: more than 64 conditions"},
    };
    struct dn_arena *arena = dn_arena_create(1u << 20, ARENA_BYTES);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        /* Behind another tree, too: its results are not for the taking. */
        struct dn_filter_tree trees[] = {{terms, 2, NULL, 0}, {terms, 2, cases[i].steps, cases[i].count}};
        struct dn_filter_tree joined;
        struct dn_filter filter = {0};
        struct dn_error err = {0}, joining = {0};
        enum dn_code code = dn_filter_plan(&trees[1], arena, &filter, &err);
        enum dn_code join_code = dn_filter_join(trees, 2, arena, &joined, &joining);
        assert_int_equal(code, cases[i].message ? DN_INVALID : DN_OK);
        assert_int_equal(join_code, code);
        if (cases[i].message && (strstr(err.message, cases[i].message) == NULL ||
                                 strstr(joining.message, cases[i].message) == NULL)) {
            fail_msg("case %zu: %s / %s", i, err.message, joining.message);
        }
    }
    dn_arena_destroy(arena);
}

/* Of a text that is a plain conjunction older servers understand all: no steps. */
static void test_plain_texts(void **unused)
{
    (void)unused;
    struct dn_arena *arena = dn_arena_create(1u << 20, ARENA_BYTES);
    static const struct {
        const char *text;
        bool plain;
    } cases[] = {{"a=b", true},         {"a=b and (c=d|e)", true}, {"a=b and c=d and e=1..", true},
                 {"a=b or c=d", false}, {"not a=b", false},        {"a != b", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dn_filter_tree tree;
        struct dn_error err = {0};
        assert_int_equal(dn_filter_parse(cases[i].text, strlen(cases[i].text), arena, &tree, NULL, &err),
                         DN_OK);
        assert_int_equal(tree.step_count == 0, cases[i].plain);
    }
    dn_arena_destroy(arena);
}

/* A small arena is an answer, not a crash, whatever allocation it hits. */
static void test_small_arena(void **unused)
{
    (void)unused;
    static const char text[] = "price in (1, 2) and (a = \"b\" or not c prefix (d, e))";
    bool worked = false;
    for (size_t bytes = 64; bytes < 64u << 10; bytes += 64) {
        struct dn_arena *arena = dn_arena_create(64, bytes);
        struct dn_filter_tree tree, joined;
        struct dn_filter filter = {0};
        struct dn_error err = {0};
        enum dn_code code = dn_filter_parse(text, sizeof text - 1, arena, &tree, NULL, &err);
        if (code == DN_OK) {
            code = dn_filter_join(&tree, 1, arena, &joined, &err);
        }
        if (code == DN_OK) {
            code = dn_filter_plan(&joined, arena, &filter, &err);
        }
        assert_true(code == DN_OK || code == DN_EXHAUSTED);
        assert_true(code == DN_OK || !worked);
        worked = code == DN_OK;
        dn_arena_destroy(arena);
    }
    assert_true(worked);
}

/* ---- many prefixes --------------------------------------------------------------------------------------
 */

#define PREFIX_ROUNDS 400
#define PREFIX_MOST 60
#define PREFIX_TEXTS 200
#define PREFIX_LENGTH 6

/* Few different bytes, so that prefixes cover each other; zero and those from 0x80 on among them. */
static uint16_t random_bytes(struct rng *rng, char *ret)
{
    static const char letters[] = {'a', 'b', '\0', '\x7f', '\x80', '\xff'};
    uint16_t length = (uint16_t)rng_below(rng, PREFIX_LENGTH + 1);
    for (uint16_t i = 0; i < length; i++) {
        ret[i] = letters[rng_below(rng, sizeof letters)];
    }
    return length;
}

static bool one_begins(const struct dn_attribute *prefixes, size_t count, const char *text, size_t length)
{
    bool found = false;
    for (size_t i = 0; i < count; i++) {
        size_t of = prefixes[i].value_length;
        found |= of <= length && (of == 0 || memcmp(prefixes[i].value, text, of) == 0);
    }
    return found;
}

/* A few of many are looked at: they are in order, and none that counts covers another. */
static void check_order(const struct dn_filter_term *term)
{
    assert_true(term->sorted);
    assert_in_range(term->prefix_count, 1, term->value_count);
    for (size_t i = 1; i < term->prefix_count; i++) {
        const struct dn_attribute *v = &term->values[i], *before = &term->values[i - 1];
        assert_false(one_begins(before, 1, v->value, v->value_length));
        assert_false(one_begins(v, 1, before->value, before->value_length));
        size_t both = v->value_length < before->value_length ? v->value_length : before->value_length;
        assert_true(memcmp(before->value, v->value, both) < 0);
    }
}

static void test_many_prefixes(void **unused)
{
    (void)unused;
    struct rng rng = {11};
    struct dn_arena *arena = dn_arena_create(4096, ARENA_BYTES);
    static char bytes[PREFIX_MOST][PREFIX_LENGTH];
    uint64_t matched = 0, dropped = 0;
    for (int round = 0; round < PREFIX_ROUNDS; round++) {
        struct dn_attribute plain[PREFIX_MOST], sorted[PREFIX_MOST];
        struct dn_filter_term term = {.op = DN_FILTER_PREFIX, .name = "category", .name_length = 8};
        term.values = sorted;
        term.value_count = 1 + rng_below(&rng, PREFIX_MOST);
        for (size_t i = 0; i < term.value_count; i++) {
            uint16_t length = random_bytes(&rng, bytes[i]);
            if (length == 0 && rng_below(&rng, 4) != 0) { /* the empty one covers all: not in every round */
                bytes[i][length++] = 'b';
            }
            plain[i] = (struct dn_attribute){.key = "", .value = bytes[i], .value_length = length};
        }
        memcpy(sorted, plain, sizeof sorted);
        assert_true(dn_filter_sort(&term, sorted, arena));
        check_order(&term);
        dropped += term.value_count - term.prefix_count;
        for (int i = 0; i < PREFIX_TEXTS; i++) {
            char text[PREFIX_LENGTH];
            struct dn_item item = {.category = text, .category_length = random_bytes(&rng, text)};
            bool found = dn_filter_match(&(struct dn_filter){.terms = &term, .term_count = 1}, &item);
            assert_int_equal(found, one_begins(plain, term.value_count, text, item.category_length));
            matched += found;
        }
    }
    assert_in_range(matched, 1000, PREFIX_ROUNDS * PREFIX_TEXTS - 1000);
    assert_true(dropped > 1000);
    dn_arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_naive),   cmocka_unit_test(test_refused_texts),
        cmocka_unit_test(test_limits_of_texts), cmocka_unit_test(test_refused_steps),
        cmocka_unit_test(test_many_prefixes),   cmocka_unit_test(test_plain_texts),
        cmocka_unit_test(test_small_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
