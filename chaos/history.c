/* The history in memory.
 *
 * Invariants:
 *   1. ops are in the order of index, which is the order of time_ns: both are set under the lock.
 *   2. An op never moves once it is appended: it lies in a chunk, its lists and texts in the arena.
 *   3. A client process has at most one operation open, and none after its :info. The nemesis may have
 *      several (OPEN_MAX); what the stream source has (CHAOS_INGEST) is no operation and has no pair. */
#include "chaos/history_private.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/text.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_OPS 512u
#define CHUNKS_FIRST 64u /* places in the list of chunks */
#define ARENA_BLOCK_BYTES (128u << 10)
#define ARENA_MAX_BYTES ((size_t)64 << 30)
#define NONE UINT32_MAX   /* no pair */
#define RETIRED NONE      /* open operation of a process after its :info */
#define IDLE (NONE - 1)   /* and of one that waits for nothing */
#define OPEN_MAX 256u     /* operations of the nemesis without an end, the oldest is given up */
#define TABLE_FIRST 1024u /* places in the table of processes, a power of two */

static_assert(CHAOS_OPS_MAX < IDLE, "an index fits into a pair");

struct chunk {
    struct chaos_op ops[CHUNK_OPS];
    uint32_t pairs[CHUNK_OPS];
};

struct process {
    int32_t number; /* -1: a free place */
    uint32_t open;  /* index of its :invoke, IDLE or RETIRED */
};

struct chaos_history {
    pthread_mutex_t lock;
    int64_t started_ns;
    size_t count;
    struct chunk **chunks;
    size_t chunks_count, chunks_capacity;
    struct dn_arena *arena;
    struct process *processes; /* open addressing */
    size_t processes_count, processes_capacity;
    uint32_t open[OPEN_MAX]; /* of the nemesis, oldest first */
    size_t open_count;
};

/* ---- names ---------------------------------------------------------------------------------------- */

const char *chaos_f_name(enum chaos_f f)
{
    static const char *const names[CHAOS_F_COUNT] = {"publish", "read",    "erase",       "upsert", "delete",
                                                     "get",     "similar", "ingest",      "member", "status",
                                                     "fault",   "offsets", "dead-letters"};
    return (unsigned)f < CHAOS_F_COUNT ? names[f] : "?";
}

const char *chaos_type_name(enum chaos_type type)
{
    static const char *const names[] = {"invoke", "ok", "fail", "info"};
    return (unsigned)type < sizeof names / sizeof *names ? names[type] : "?";
}

const char *chaos_level_name(enum chaos_level level)
{
    static const char *const names[] = {"local", "session", "linearizable"};
    return (unsigned)level < sizeof names / sizeof *names ? names[level] : "?";
}

/* ---- life ----------------------------------------------------------------------------------------- */

static _Noreturn void die(const char *why)
{
    fprintf(stderr, "history: %s: a history with holes proves nothing\n", why);
    abort();
}

static void *must(void *memory)
{
    if (memory == NULL) {
        die("out of memory");
    }
    return memory;
}

static struct process *table_create(size_t capacity)
{
    struct process *table = must(malloc(capacity * sizeof *table));
    for (size_t i = 0; i < capacity; i++) {
        table[i] = (struct process){.number = -1, .open = IDLE};
    }
    return table;
}

struct chaos_history *chaos_history_create(void)
{
    struct chaos_history *history = must(calloc(1, sizeof *history));
    DN_ASSERT(pthread_mutex_init(&history->lock, NULL) == 0);
    history->arena = must(dn_arena_create(ARENA_BLOCK_BYTES, ARENA_MAX_BYTES));
    history->processes_capacity = TABLE_FIRST;
    history->processes = table_create(TABLE_FIRST);
    history->started_ns = (int64_t)dn_monotonic_ns();
    return history;
}

void chaos_history_destroy(struct chaos_history *history)
{
    if (history == NULL) {
        return;
    }
    for (size_t i = 0; i < history->chunks_count; i++) {
        free(history->chunks[i]);
    }
    free(history->chunks);
    free(history->processes);
    dn_arena_destroy(history->arena);
    pthread_mutex_destroy(&history->lock);
    free(history);
}

/* ---- processes and pairs -------------------------------------------------------------------------- */

static struct process *process_place(struct process *table, size_t capacity, int32_t number)
{
    size_t at = ((size_t)(uint32_t)number * 0x9e3779b97f4a7c15u >> 20) & (capacity - 1);
    while (table[at].number != -1 && table[at].number != number) {
        at = (at + 1) & (capacity - 1);
    }
    return &table[at];
}

static struct process *process_of(struct chaos_history *history, int32_t number)
{
    if (2 * (history->processes_count + 1) > history->processes_capacity) {
        size_t capacity = 2 * history->processes_capacity;
        struct process *bigger = table_create(capacity);
        for (size_t i = 0; i < history->processes_capacity; i++) {
            if (history->processes[i].number != -1) {
                *process_place(bigger, capacity, history->processes[i].number) = history->processes[i];
            }
        }
        free(history->processes);
        history->processes = bigger;
        history->processes_capacity = capacity;
    }
    struct process *process = process_place(history->processes, history->processes_capacity, number);
    if (process->number == -1) {
        process->number = number;
        history->processes_count++;
    }
    return process;
}

static struct chaos_op *op_at(const struct chaos_history *history, size_t index)
{
    return &history->chunks[index / CHUNK_OPS]->ops[index % CHUNK_OPS];
}

static uint32_t *pair_at(const struct chaos_history *history, size_t index)
{
    return &history->chunks[index / CHUNK_OPS]->pairs[index % CHUNK_OPS];
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool nemesis_matches(const struct chaos_op *invoke, const struct chaos_op *op)
{
    return invoke->f == op->f && same_text(invoke->name, op->name) &&
           (invoke->node == op->node || invoke->node == 0 || op->node == 0 || op->f != CHAOS_STATUS);
}

/* The newest open operation of the nemesis that `op` ends, taken out of the list; NONE. */
static uint32_t nemesis_take(struct chaos_history *history, const struct chaos_op *op)
{
    for (size_t i = history->open_count; i-- > 0;) {
        uint32_t index = history->open[i];
        if (nemesis_matches(op_at(history, index), op)) {
            history->open_count--;
            memmove(&history->open[i], &history->open[i + 1], (history->open_count - i) * sizeof(uint32_t));
            return index;
        }
    }
    return NONE;
}

static void nemesis_open(struct chaos_history *history, uint32_t index)
{
    if (history->open_count == OPEN_MAX) {
        history->open_count--;
        memmove(&history->open[0], &history->open[1], history->open_count * sizeof(uint32_t));
    }
    history->open[history->open_count++] = index;
}

/* The :invoke that `op` ends; NONE for an :invoke. What it must be like. */
static enum dn_code pair_find(struct chaos_history *history, const struct chaos_op *op, uint32_t *ret_pair,
                              struct dn_error *err)
{
    *ret_pair = NONE;
    if (op->f == CHAOS_INGEST) {
        return DN_OK;
    }
    if (op->process == CHAOS_NEMESIS) {
        if (op->type != CHAOS_INVOKE && (*ret_pair = nemesis_take(history, op)) == NONE) {
            return dn_fail(err, DN_INVALID, ":%s of the nemesis without an :invoke of the same :f and :name",
                           chaos_type_name(op->type));
        }
        return DN_OK;
    }
    uint32_t open = process_of(history, op->process)->open;
    if (open == RETIRED) {
        return dn_fail(err, DN_INVALID, "process %" PRId32 " is used again after its :info", op->process);
    }
    if (op->type == CHAOS_INVOKE) {
        return open == IDLE ? DN_OK
                            : dn_fail(err, DN_INVALID, "process %" PRId32 " still waits for index %" PRIu32,
                                      op->process, open);
    }
    if (open == IDLE) {
        return dn_fail(err, DN_INVALID, ":%s of process %" PRId32 " without an :invoke",
                       chaos_type_name(op->type), op->process);
    }
    const struct chaos_op *invoke = op_at(history, open);
    if (invoke->f != op->f || invoke->key != op->key) {
        return dn_fail(err, DN_INVALID,
                       ":%s of process %" PRId32 " is of another :f or key than its :invoke, index %" PRIu32,
                       chaos_type_name(op->type), op->process, open);
    }
    *ret_pair = open;
    return DN_OK;
}

static void pair_note(struct chaos_history *history, const struct chaos_op *op, uint32_t index, uint32_t pair)
{
    *pair_at(history, index) = pair;
    if (pair != NONE) {
        *pair_at(history, pair) = index;
    }
    if (op->f == CHAOS_INGEST) {
        return;
    }
    if (op->process == CHAOS_NEMESIS) {
        if (op->type == CHAOS_INVOKE) {
            nemesis_open(history, index);
        }
        return;
    }
    process_of(history, op->process)->open = op->type == CHAOS_INVOKE ? index
                                             : op->type == CHAOS_INFO ? RETIRED
                                                                      : IDLE;
}

/* ---- append --------------------------------------------------------------------------------------- */

static enum dn_code op_check(const struct chaos_history *history, const struct chaos_op *op,
                             struct dn_error *err)
{
    if (history->count >= CHAOS_OPS_MAX) {
        return dn_fail(err, DN_EXHAUSTED, "more than %lu operations", CHAOS_OPS_MAX);
    }
    if (op->index != history->count) {
        return dn_fail(err, DN_INVALID, "index %" PRIu64 ", and it is number %zu", op->index, history->count);
    }
    int64_t before_ns = history->count > 0 ? op_at(history, history->count - 1)->time_ns : 0;
    if (op->time_ns < before_ns) {
        return dn_fail(err, DN_INVALID, "time %" PRId64 " is before %" PRId64 ", that of the line before",
                       op->time_ns, before_ns);
    }
    if ((unsigned)op->type > CHAOS_INFO || (unsigned)op->f >= CHAOS_F_COUNT ||
        (unsigned)op->level > CHAOS_LINEARIZABLE || op->process < CHAOS_NEMESIS) {
        return dn_fail(err, DN_INVALID, "no such type, f, level or process");
    }
    if (op->events_count > CHAOS_LIST_MAX || op->token_count > CHAOS_LIST_MAX ||
        op->near_count > CHAOS_LIST_MAX || op->rows_count > CHAOS_LIST_MAX ||
        op->groups_count > CHAOS_GROUPS_MAX) {
        return dn_fail(err, DN_INVALID, "a list of more than %d elements, or more than %d groups",
                       CHAOS_LIST_MAX, CHAOS_GROUPS_MAX);
    }
    return DN_OK;
}

static void *list_copy(struct chaos_history *history, const void *list, size_t count, size_t size)
{
    return count == 0 ? NULL : must(dn_arena_memdup(history->arena, list, count * size));
}

/* Texts may come over a wire that a nemesis corrupts: what cannot be written as EDN is left out here. */
static const char *text_copy(struct chaos_history *history, const char *text)
{
    if (text == NULL) {
        return NULL;
    }
    size_t length = strnlen(text, CHAOS_TEXT_MAX);
    char *copy = must(dn_arena_strndup(history->arena, text, length));
    if (!dn_utf8_valid(copy, length)) {
        for (size_t i = 0; i < length; i++) {
            copy[i] = (unsigned char)copy[i] < 0x80 ? copy[i] : '?';
        }
    }
    return copy;
}

/* Chunks stay where they are; the list of them may move. */
static void chunk_add(struct chaos_history *history)
{
    if (history->chunks_count == history->chunks_capacity) {
        size_t capacity = history->chunks_capacity > 0 ? 2 * history->chunks_capacity : CHUNKS_FIRST;
        history->chunks = must(realloc(history->chunks, capacity * sizeof(struct chunk *)));
        history->chunks_capacity = capacity;
    }
    history->chunks[history->chunks_count++] = must(malloc(sizeof(struct chunk)));
}

static void op_copy(struct chaos_history *history, const struct chaos_op *op)
{
    if (op->index / CHUNK_OPS == history->chunks_count) {
        chunk_add(history);
    }
    struct chaos_op *to = op_at(history, op->index);
    *to = *op;
    to->events = list_copy(history, op->events, op->events_count, sizeof *op->events);
    to->token = list_copy(history, op->token, op->token_count, sizeof *op->token);
    to->near = list_copy(history, op->near, op->near_count, sizeof *op->near);
    to->groups = list_copy(history, op->groups, op->groups_count, sizeof *op->groups);
    to->rows = list_copy(history, op->rows, op->rows_count, sizeof *op->rows);
    to->error = text_copy(history, op->error);
    to->name = text_copy(history, op->name);
    to->what = text_copy(history, op->what);
    history->count++;
}

enum dn_code chaos_history_admit(struct chaos_history *history, const struct chaos_op *op,
                                 struct dn_error *err)
{
    uint32_t pair = NONE;
    enum dn_code code = op_check(history, op, err);
    if (code == DN_OK) {
        code = pair_find(history, op, &pair, err);
    }
    if (code != DN_OK) {
        return code;
    }
    op_copy(history, op);
    pair_note(history, op, (uint32_t)op->index, pair);
    return DN_OK;
}

static void append(struct chaos_history *history, const struct chaos_op *op)
{
    struct dn_error err;
    if (chaos_history_admit(history, op, &err) != DN_OK) {
        fprintf(stderr, "history: operation %" PRIu64 " (:%s :%s): %s\n", op->index,
                chaos_type_name(op->type), chaos_f_name(op->f), err.message);
        abort();
    }
}

uint64_t chaos_history_append(struct chaos_history *history, const struct chaos_op *op)
{
    struct chaos_op stamped = *op;
    pthread_mutex_lock(&history->lock);
    stamped.index = history->count;
    stamped.time_ns = chaos_history_now_ns(history);
    append(history, &stamped);
    pthread_mutex_unlock(&history->lock);
    return stamped.index;
}

void chaos_history_append_as_is(struct chaos_history *history, const struct chaos_op *op)
{
    pthread_mutex_lock(&history->lock);
    append(history, op);
    pthread_mutex_unlock(&history->lock);
}

/* ---- reading -------------------------------------------------------------------------------------- */

size_t chaos_history_count(const struct chaos_history *history)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&history->lock;
    pthread_mutex_lock(lock);
    size_t count = history->count;
    pthread_mutex_unlock(lock);
    return count;
}

const struct chaos_op *chaos_history_at(const struct chaos_history *history, size_t index)
{
    DN_ASSERT(index < history->count);
    return op_at(history, index);
}

size_t chaos_history_pair(const struct chaos_history *history, size_t index)
{
    DN_ASSERT(index < history->count);
    uint32_t pair = *pair_at(history, index);
    return pair == NONE ? SIZE_MAX : pair;
}

int64_t chaos_history_now_ns(const struct chaos_history *history)
{
    return (int64_t)dn_monotonic_ns() - history->started_ns;
}
