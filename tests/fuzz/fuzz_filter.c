/* Texts of filters: what is read joins with itself, plans, and matches items as its steps say. */
#include "base/error.h"
#include "index/index.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

const unsigned dn_fuzz_runs = 400000;

/* The steps played one by one, without jumps. */
static bool plays_true(const struct dn_filter_tree *tree, const struct dn_item *item)
{
    bool held[DN_FILTER_STEPS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < tree->step_count; i++) {
        const struct dn_filter_step *step = &tree->steps[i];
        if (step->join == DN_FILTER_TERM) {
            struct dn_filter one = {.terms = &tree->terms[step->count], .term_count = 1};
            held[count++] = dn_filter_match(&one, item);
            continue;
        }
        size_t taken = step->join == DN_FILTER_NOT ? 1 : step->count;
        bool all = true, any = false;
        for (size_t j = 0; j < taken; j++) {
            count--;
            all = all && held[count];
            any = any || held[count];
        }
        held[count++] = step->join == DN_FILTER_NOT ? !any : step->join == DN_FILTER_AND ? all : any;
    }
    DN_ASSERT(count == 1);
    return held[0];
}

static void check_read(const struct dn_filter_tree *tree, struct dn_arena *arena)
{
    static const struct dn_attribute attribute = {"a", "5", 1, 1};
    const struct dn_item items[] = {
        {.category = "b",
         .category_length = 1,
         .price = 5,
         .available = true,
         .attributes = &attribute,
         .attribute_count = 1},
        {.category = "", .price = (double)NAN},
    };
    struct dn_filter_tree both[] = {*tree, *tree}, joined;
    struct dn_filter filter = {0}, twice = {0};
    struct dn_error err;
    DN_ASSERT(tree->term_count > 0 && tree->term_count <= DN_FILTER_TERMS_MAX);
    DN_ASSERT(dn_filter_plan(tree, arena, &filter, &err) == DN_OK);
    enum dn_code code = dn_filter_join(both, 2, arena, &joined, &err);
    DN_ASSERT(code == (2 * tree->term_count > DN_FILTER_TERMS_MAX ? DN_INVALID : DN_OK));
    if (code == DN_OK) {
        code = dn_filter_plan(&joined, arena, &twice, &err);
        DN_ASSERT(code == DN_OK || joined.step_count > DN_FILTER_STEPS_MAX);
    }
    for (size_t i = 0; i < 2; i++) {
        bool matches = dn_filter_match(&filter, &items[i]);
        DN_ASSERT(tree->step_count == 0 || matches == plays_true(tree, &items[i]));
        DN_ASSERT(code != DN_OK || matches == dn_filter_match(&twice, &items[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct dn_arena *arena;
    struct dn_filter_tree tree;
    struct dn_error err;
    size_t at = SIZE_MAX;
    if (arena == NULL) {
        arena = dn_arena_create(1u << 20, 64u << 20);
    }
    DN_ASSERT(arena != NULL);
    enum dn_code code = dn_filter_parse((const char *)bytes, length, arena, &tree, &at, &err);
    DN_ASSERT(code == DN_OK || code == DN_INVALID);
    if (code == DN_OK) {
        check_read(&tree, arena);
    } else {
        DN_ASSERT(at <= length);
    }
    dn_arena_reset(arena);
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static const char *const seeds[] = {
        "category = b and (price < 50 or a in (5, \"6 \\\" 7\")) and not a prefix 5",
        "a=5|6|'x y' or available != true or price = 1..5 or price=..-2e3 or b=1..",
        "not not ((a not in (1,2)) AND (a NOT PREFIX (x, y) or price >= 5)) and price > .5 and price <= 7",
    };
    if (n >= sizeof seeds / sizeof *seeds) {
        return 0;
    }
    DN_ASSERT(strlen(seeds[n]) <= max);
    memcpy(out, seeds[n], strlen(seeds[n]));
    return strlen(seeds[n]);
}
