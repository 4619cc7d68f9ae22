/* How the terms of a filter are joined. Written down it is a postfix list of steps; matched it is one jump
 * after each term, which looks at no term that cannot change the answer and needs neither stack nor
 * recursion: and, or, not are gone by then (the "jumping code" of Aho, Lam, Sethi, Ullman, "Compilers",
 * section 6.6). */
#include "index/filter_internal.h"

#include <string.h>

_Static_assert(DN_FILTER_TERMS_MAX < DN_FILTER_YES, "a place of a term is no answer");

enum dn_code dn_filter_no_room(struct dn_error *err)
{
    return dn_fail(err, DN_EXHAUSTED, "the filter needs more memory than one call may take: make it shorter");
}

/* ---- checking
 * ----------------------------------------------------------------------------------------------- */

/* Plays the steps with the depth of each result in place of the result. */
static enum dn_code check_steps(const struct dn_filter_tree *tree, size_t *ret_leaves, struct dn_error *err)
{
    uint8_t depths[DN_FILTER_TERMS_MAX];
    size_t held = 0, leaves = 0;
    if (tree->step_count > DN_FILTER_STEPS_MAX) {
        return dn_fail(err, DN_INVALID, "%zu steps; the most is %d", tree->step_count, DN_FILTER_STEPS_MAX);
    }
    for (size_t i = 0; i < tree->step_count; i++) {
        const struct dn_filter_step *step = &tree->steps[i];
        if (step->join == DN_FILTER_TERM) {
            if (step->count >= tree->term_count) {
                return dn_fail(err, DN_INVALID, "step %zu: there is no term %u, only %zu of them", i,
                               step->count, tree->term_count);
            }
            if (leaves == DN_FILTER_TERMS_MAX) {
                return dn_fail(err, DN_INVALID, "step %zu: more than %d conditions", i, DN_FILTER_TERMS_MAX);
            }
            leaves++;
            depths[held++] = 0;
            continue;
        }
        if (step->join > DN_FILTER_NOT) {
            return dn_fail(err, DN_INVALID, "step %zu: unknown operator %d", i, (int)step->join);
        }
        size_t taken = step->join == DN_FILTER_NOT ? 1 : step->count;
        if (taken == 0 || taken > held) {
            return dn_fail(err, DN_INVALID, "step %zu joins %zu results; there are %zu before it", i, taken,
                           held);
        }
        uint8_t deepest = 0;
        for (size_t j = held - taken; j < held; j++) {
            deepest = depths[j] > deepest ? depths[j] : deepest;
        }
        if (deepest == DN_FILTER_DEPTH_MAX) {
            return dn_fail(err, DN_INVALID, "step %zu: and, or, not stand more than %d deep in each other", i,
                           DN_FILTER_DEPTH_MAX);
        }
        held -= taken - 1;
        depths[held - 1] = (uint8_t)(deepest + 1);
    }
    if (held != 1) {
        return dn_fail(err, DN_INVALID, "the steps leave %zu results; join them to one with and, or", held);
    }
    *ret_leaves = leaves;
    return DN_OK;
}

/* ---- joining
 * ------------------------------------------------------------------------------------------------ */

static size_t steps_of(const struct dn_filter_tree *tree)
{
    if (tree->term_count == 0 || tree->step_count > 0) {
        return tree->step_count;
    }
    return tree->term_count + (tree->term_count > 1);
}

static struct dn_filter_step *put_steps(const struct dn_filter_tree *tree, uint32_t first_term,
                                        struct dn_filter_step *to)
{
    for (size_t i = 0; i < tree->step_count; i++) {
        *to = tree->steps[i];
        to->count += to->join == DN_FILTER_TERM ? first_term : 0;
        to++;
    }
    if (tree->step_count > 0 || tree->term_count == 0) {
        return to;
    }
    for (uint32_t i = 0; i < tree->term_count; i++) {
        *to++ = (struct dn_filter_step){.join = DN_FILTER_TERM, .count = first_term + i};
    }
    if (tree->term_count > 1) {
        *to++ = (struct dn_filter_step){.join = DN_FILTER_AND, .count = (uint32_t)tree->term_count};
    }
    return to;
}

enum dn_code dn_filter_join(const struct dn_filter_tree *trees, size_t count, struct dn_arena *arena,
                            struct dn_filter_tree *ret, struct dn_error *err)
{
    size_t term_count = 0, step_count = 0, said = 0;
    bool joined = false;
    for (size_t i = 0; i < count; i++) {
        size_t leaves;
        enum dn_code code = trees[i].step_count > 0 ? check_steps(&trees[i], &leaves, err) : DN_OK;
        if (code != DN_OK) {
            return code;
        }
        term_count += trees[i].term_count;
        step_count += steps_of(&trees[i]);
        said += trees[i].term_count > 0 || trees[i].step_count > 0;
        joined = joined || trees[i].step_count > 0;
    }
    if (term_count > DN_FILTER_TERMS_MAX) {
        return dn_fail(err, DN_INVALID, "%zu conditions; the most is %d", term_count, DN_FILTER_TERMS_MAX);
    }
    struct dn_filter_term *terms = dn_arena_alloc(arena, term_count * sizeof *terms);
    struct dn_filter_step *steps = dn_arena_alloc(arena, (step_count + 1) * sizeof *steps);
    if (terms == NULL || steps == NULL) {
        return dn_filter_no_room(err);
    }
    struct dn_filter_step *end = steps;
    uint32_t first = 0;
    for (size_t i = 0; i < count; i++) {
        end = put_steps(&trees[i], first, end);
        if (trees[i].term_count > 0) {
            memcpy(terms + first, trees[i].terms, trees[i].term_count * sizeof *terms);
        }
        first += (uint32_t)trees[i].term_count;
    }
    if (said > 1) {
        *end++ = (struct dn_filter_step){.join = DN_FILTER_AND, .count = (uint32_t)said};
    }
    *ret = (struct dn_filter_tree){.terms = terms, .term_count = term_count};
    if (joined) {
        ret->steps = steps;
        ret->step_count = (size_t)(end - steps);
    }
    return DN_OK;
}

/* ---- planning
 * ----------------------------------------------------------------------------------------------- */

/* A step whose operands are being read, the last one first. */
struct frame {
    enum dn_filter_join join;
    uint32_t left; /* operands not read yet */
    struct dn_filter_jump to;
    uint8_t next; /* where an operand that decides nothing goes on */
};

static struct dn_filter_jump operand_jump(const struct frame *frame)
{
    switch (frame->join) {
    case DN_FILTER_AND:
        return (struct dn_filter_jump){.on_true = frame->next, .on_false = frame->to.on_false};
    case DN_FILTER_OR:
        return (struct dn_filter_jump){.on_true = frame->to.on_true, .on_false = frame->next};
    case DN_FILTER_NOT:
        return (struct dn_filter_jump){.on_true = frame->to.on_false, .on_false = frame->to.on_true};
    case DN_FILTER_TERM: /* the bottom of the stack */
        break;
    }
    return frame->to;
}

/* Backwards: a step comes before its operands, and where an operand is to go on is known when it is read. */
static void lay_out(const struct dn_filter_tree *tree, size_t leaves, struct dn_filter_term *terms,
                    struct dn_filter_jump *jumps)
{
    struct frame stack[DN_FILTER_DEPTH_MAX + 1];
    size_t depth = 1, leaf = leaves;
    stack[0] = (struct frame){.left = 1, .to = {DN_FILTER_YES, DN_FILTER_NO}};
    for (size_t i = tree->step_count; i-- > 0;) {
        const struct dn_filter_step *step = &tree->steps[i];
        struct dn_filter_jump to = operand_jump(&stack[depth - 1]);
        if (step->join != DN_FILTER_TERM) {
            DN_ASSERT(depth <= DN_FILTER_DEPTH_MAX);
            stack[depth++] = (struct frame){.join = step->join,
                                            .left = step->join == DN_FILTER_NOT ? 1 : step->count,
                                            .to = to,
                                            .next = step->join == DN_FILTER_AND ? to.on_true : to.on_false};
            continue;
        }
        terms[--leaf] = tree->terms[step->count];
        jumps[leaf] = to;
        while (depth > 0 && --stack[depth - 1].left == 0) {
            depth--; /* its last operand was read, so it was read as one of the step around it */
        }
        if (depth > 0) {
            stack[depth - 1].next = (uint8_t)leaf; /* where what was just read begins */
        }
    }
    DN_ASSERT(depth == 0 && leaf == 0);
}

enum dn_code dn_filter_plan(const struct dn_filter_tree *tree, struct dn_arena *arena, struct dn_filter *ret,
                            struct dn_error *err)
{
    if (tree->step_count == 0) {
        ret->terms = tree->terms;
        ret->term_count = tree->term_count;
        ret->jumps = NULL;
        return DN_OK;
    }
    size_t leaves = 0;
    enum dn_code code = check_steps(tree, &leaves, err);
    if (code != DN_OK) {
        return code;
    }
    struct dn_filter_term *terms = dn_arena_alloc(arena, leaves * sizeof *terms);
    struct dn_filter_jump *jumps = dn_arena_alloc(arena, leaves * sizeof *jumps);
    if (terms == NULL || jumps == NULL) {
        return dn_filter_no_room(err);
    }
    lay_out(tree, leaves, terms, jumps);
    ret->terms = terms;
    ret->term_count = leaves;
    ret->jumps = jumps;
    return DN_OK;
}
