/* The rules, and what the checkers share. */
#include "chaos/check_private.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_FIRST 256u
#define LIST_FIRST 64u
#define ROUNDING_NS                                                                                          \
    2000 /* an age is told in whole microseconds, of two clock readings in whole microseconds */

static_assert(CHAOS_OPS_MAX < CHAOS_NEVER, "an index fits into 32 bits");

const char *chaos_rule_name(enum chaos_rule rule)
{
    static const char *const names[CHAOS_RULE_COUNT] = {
#define X(symbol, name, text) name,
        CHAOS_RULES(X)
#undef X
    };
    return (unsigned)rule < CHAOS_RULE_COUNT ? names[rule] : "?";
}

const char *chaos_rule_text(enum chaos_rule rule)
{
    static const char *const texts[CHAOS_RULE_COUNT] = {
#define X(symbol, name, text) text,
        CHAOS_RULES(X)
#undef X
    };
    return (unsigned)rule < CHAOS_RULE_COUNT ? texts[rule] : "?";
}

/* ---- judgements ----------------------------------------------------------------------------------- */

void chaos_judged(struct chaos_check *check, enum chaos_rule rule, uint64_t count)
{
    check->judgements[rule].judged += count;
}

static size_t index_of(uint32_t index)
{
    return index == CHAOS_NEVER ? SIZE_MAX : index;
}

void chaos_violated(struct chaos_check *check, enum chaos_rule rule, uint32_t a, uint32_t b, uint32_t c,
                    const char *format, ...)
{
    struct chaos_judgement *judgement = &check->judgements[rule];
    judgement->violations++;
    if (judgement->examples_count == CHAOS_EXAMPLES_MAX) {
        return;
    }
    size_t at = judgement->examples_count++;
    judgement->examples[at].index[0] = index_of(a);
    judgement->examples[at].index[1] = index_of(b);
    judgement->examples[at].index[2] = index_of(c);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(judgement->examples[at].text, sizeof judgement->examples[at].text, format, arguments);
    va_end(arguments);
}

uint32_t chaos_index_at(const struct chaos_check *check, int64_t time_ns)
{
    size_t from = 0, to = check->count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (chaos_history_at(check->history, middle)->time_ns < time_ns) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return (uint32_t)from;
}

size_t chaos_bounds(const struct chaos_check *check, const struct chaos_op *invoke, const struct chaos_op *ok,
                    struct chaos_bound ret[CHAOS_BOUNDS])
{
    size_t count = 0;
    uint32_t begun = (uint32_t)invoke->index;
    if (invoke->level == CHAOS_LINEARIZABLE) {
        ret[count++] = (struct chaos_bound){.rule = CHAOS_RULE_REAL_TIME, .before = begun};
    }
    if (begun > check->final_from) {
        ret[count++] = (struct chaos_bound){.rule = CHAOS_RULE_CONVERGED, .before = begun};
    }
    if (ok->age_known && ok->age_us < (uint64_t)invoke->time_ns / 1000) {
        int64_t seen_ns = invoke->time_ns - (int64_t)ok->age_us * 1000 - ROUNDING_NS;
        ret[count++] = (struct chaos_bound){.rule = CHAOS_RULE_AGE, .before = chaos_index_at(check, seen_ns)};
    }
    return count;
}

/* The first FAULT "final" begins the last reads. */
static uint32_t final_from(const struct chaos_history *history, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct chaos_op *op = chaos_history_at(history, i);
        if (op->f == CHAOS_FAULT && op->name != NULL && strcmp(op->name, "final") == 0) {
            return (uint32_t)i;
        }
    }
    return CHAOS_NEVER;
}

int chaos_check(const struct chaos_history *history, const struct chaos_check_options *options,
                struct chaos_judgement judgements[CHAOS_RULE_COUNT])
{
    int violated = 0;
    struct chaos_check check = {
        .history = history, .count = chaos_history_count(history), .judgements = judgements};
    if (options != NULL) {
        check.options = *options;
    }
    memset(judgements, 0, CHAOS_RULE_COUNT * sizeof *judgements);
    check.final_from = final_from(history, check.count);
    chaos_check_sessions(&check);
    chaos_check_streams(&check);
    chaos_check_items(&check);
    chaos_check_cluster(&check);
    chaos_check_answers(&check);
    if (check.final_from != CHAOS_NEVER) {
        chaos_check_final(&check);
    }
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        struct chaos_judgement *judgement = &judgements[rule];
        judgement->verdict = judgement->violations > 0 ? CHAOS_VIOLATED
                             : judgement->judged > 0   ? CHAOS_VALID
                                                       : CHAOS_UNTESTED;
        violated += judgement->violations > 0;
    }
    return violated;
}

/* ---- tables and lists ------------------------------------------------------------------------------ */

void *chaos_alloc(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) {
        fprintf(stderr, "check: out of memory (%zu times %zu bytes)\n", count, size);
        abort();
    }
    return memory;
}

void *chaos_room(void *list, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity) {
        return list;
    }
    size_t bigger = *capacity > 0 ? 2 * *capacity : LIST_FIRST;
    void *memory = realloc(list, bigger * size);
    if (memory == NULL) {
        fprintf(stderr, "check: out of memory (%zu times %zu bytes)\n", bigger, size);
        abort();
    }
    *capacity = bigger;
    return memory;
}

static struct chaos_slot *slot_of(struct chaos_slot *slots, size_t capacity, uint64_t a, uint64_t b)
{
    uint64_t hash = (a ^ b * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    size_t at = (size_t)(hash ^ hash >> 31) & (capacity - 1);
    while (slots[at].value != CHAOS_NEVER && (slots[at].a != a || slots[at].b != b)) {
        at = (at + 1) & (capacity - 1);
    }
    return &slots[at];
}

static void table_grow(struct chaos_table *table)
{
    size_t capacity = table->capacity > 0 ? 2 * table->capacity : TABLE_FIRST;
    struct chaos_slot *slots = chaos_alloc(capacity, sizeof *slots);
    for (size_t i = 0; i < capacity; i++) {
        slots[i].value = CHAOS_NEVER;
    }
    for (size_t i = 0; i < table->capacity; i++) {
        const struct chaos_slot *slot = &table->slots[i];
        if (slot->value != CHAOS_NEVER) {
            *slot_of(slots, capacity, slot->a, slot->b) = *slot;
        }
    }
    free(table->slots);
    table->slots = slots;
    table->capacity = capacity;
}

uint32_t chaos_table_find(const struct chaos_table *table, uint64_t a, uint64_t b)
{
    return table->capacity == 0 ? CHAOS_NEVER : slot_of(table->slots, table->capacity, a, b)->value;
}

static struct chaos_slot *slot_put(struct chaos_table *table, uint64_t a, uint64_t b, uint32_t value)
{
    if (2 * (table->count + 1) > table->capacity) {
        table_grow(table);
    }
    struct chaos_slot *slot = slot_of(table->slots, table->capacity, a, b);
    if (slot->value == CHAOS_NEVER) {
        *slot = (struct chaos_slot){.a = a, .b = b, .value = value};
        table->count++;
    }
    return slot;
}

uint32_t chaos_table_put(struct chaos_table *table, uint64_t a, uint64_t b, uint32_t value)
{
    return slot_put(table, a, b, value)->value;
}

void chaos_table_set(struct chaos_table *table, uint64_t a, uint64_t b, uint32_t value)
{
    slot_put(table, a, b, value)->value = value;
}

void chaos_table_free(struct chaos_table *table)
{
    free(table->slots);
    memset(table, 0, sizeof *table);
}
