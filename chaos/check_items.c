/* The rules of catalogue items: each is a register that holds one value or is absent.
 *
 * A write (an upsert of a value, a delete) takes effect between its :invoke and its end (never, if nobody
 * knows), each time it is tried. A value is surely older than a write when all tries of the value had ended
 * before the write was asked for. A read is stale for a bound when what it returns is surely older than a
 * write that was acknowledged, or whose value was read, before the bound. Where reads tell versions these say
 * more: they are the order of the log. */
#include "chaos/check_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NEVER CHAOS_NEVER
#define ABSENT NEVER /* as the number of a value */

struct
try {               /* of a value, or of a delete, that may have taken effect */
    uint32_t owner; /* value, or item for deletes */
    uint32_t invoke, end;
    uint32_t end_max; /* of this and those of the owner before it */
};

struct value {
    uint64_t value;
    uint32_t item;
    uint32_t asked;            /* first :invoke; NEVER: nobody wrote it */
    uint32_t first;            /* first try; NEVER: none may have taken effect */
    size_t tries, tries_count; /* in tries */
    uint64_t version_min;      /* of those read; UINT64_MAX: none */
};

struct done { /* a write that had taken effect before `at` */
    uint32_t item, at, invoke;
    uint32_t invoke_max; /* of this and those of the item before it */
};

struct dones {
    struct done *list;
    size_t count, capacity;
};

struct item {
    uint64_t key;
    uint32_t upsert_first;         /* first try of any value; NEVER: none */
    size_t upserts, upserts_count; /* all values' tries, in upserts */
    size_t deletes, deletes_count;
    size_t writes, writes_count;   /* in writes: all that is known to be done */
    size_t acked, acked_count;     /* in acked: upserts that were acknowledged */
    size_t deleted, deleted_count; /* in deleted: deletes that were acknowledged */
    size_t reads, reads_count;
};

struct read {
    uint32_t item, invoke, ok;
    uint32_t value; /* ABSENT: not found */
    uint32_t age;   /* see age_of() */
    uint64_t version, applied;
    bool get; /* not SIMILAR: present says nothing of the value */
    bool present;
};

struct tries {
    struct try *list;
    size_t count, capacity;
};

struct world {
    struct chaos_check *check;
    struct chaos_table item_table, value_table, last;
    struct item *items;
    struct value *values;
    struct read *reads;
    struct tries tries, upserts, deletes;
    struct dones writes, acked, deleted;
    size_t items_count, items_capacity, values_count, values_capacity, reads_count, reads_capacity;
    uint64_t judged[CHAOS_RULE_COUNT];
};

static unsigned long long ull(uint64_t value)
{
    return value;
}

/* ---- gathering ------------------------------------------------------------------------------------ */

static uint32_t item_of(struct world *w, uint64_t key)
{
    uint32_t item = chaos_table_put(&w->item_table, key, 0, (uint32_t)w->items_count);
    if (item == w->items_count) {
        w->items = chaos_room(w->items, item, &w->items_capacity, sizeof *w->items);
        w->items[w->items_count++] = (struct item){.key = key, .upsert_first = NEVER};
    }
    return item;
}

static uint32_t value_of(struct world *w, uint32_t item, uint64_t value)
{
    uint32_t number = chaos_table_put(&w->value_table, item, value, (uint32_t)w->values_count);
    if (number == w->values_count) {
        w->values = chaos_room(w->values, number, &w->values_capacity, sizeof *w->values);
        w->values[w->values_count++] = (struct value){
            .value = value, .item = item, .asked = NEVER, .first = NEVER, .version_min = UINT64_MAX};
    }
    return number;
}

static void try_add(struct tries *tries, uint32_t owner, uint32_t invoke, uint32_t end)
{
    tries->list = chaos_room(tries->list, tries->count, &tries->capacity, sizeof *tries->list);
    tries->list[tries->count++] = (struct try){.owner = owner, .invoke = invoke, .end = end};
}

static void done_add(struct dones *dones, uint32_t item, uint32_t at, uint32_t invoke)
{
    dones->list = chaos_room(dones->list, dones->count, &dones->capacity, sizeof *dones->list);
    dones->list[dones->count++] = (struct done){.item = item, .at = at, .invoke = invoke};
}

static void write_asked(struct world *w, const struct chaos_op *invoke)
{
    size_t pair = chaos_history_pair(w->check->history, invoke->index);
    const struct chaos_op *end = pair == SIZE_MAX ? NULL : chaos_history_at(w->check->history, pair);
    bool acked = end != NULL && end->type == CHAOS_OK, failed = end != NULL && end->type == CHAOS_FAIL;
    uint32_t item = item_of(w, invoke->key), at = (uint32_t)invoke->index,
             to = acked ? (uint32_t)pair : NEVER;
    if (invoke->f == CHAOS_UPSERT) {
        uint32_t number = value_of(w, item, invoke->value);
        w->values[number].asked = chaos_min(w->values[number].asked, at);
        if (failed) {
            return;
        }
        w->values[number].first = chaos_min(w->values[number].first, at);
        w->items[item].upsert_first = chaos_min(w->items[item].upsert_first, at);
        try_add(&w->tries, number, at, to);
        try_add(&w->upserts, item, at, to);
    } else if (!failed) {
        try_add(&w->deletes, item, at, to);
    }
    if (acked) {
        done_add(&w->writes, item, to, at);
        done_add(invoke->f == CHAOS_UPSERT ? &w->acked : &w->deleted, item, to, at);
    }
}

static void read_add(struct world *w, const struct chaos_op *ok, uint64_t key, bool present)
{
    struct read read = {
        .item = item_of(w, key),
        .invoke = (uint32_t)chaos_history_pair(w->check->history, ok->index),
        .ok = (uint32_t)ok->index,
        .value = ABSENT,
        .get = ok->f == CHAOS_GET,
        .present = present,
        .applied = ok->applied,
    };
    if (read.get && present) {
        read.value = value_of(w, read.item, ok->value);
        read.version = ok->version;
        struct value *value = &w->values[read.value];
        if (read.version > 0 && read.version < value->version_min) {
            value->version_min = read.version;
        }
    }
    w->reads = chaos_room(w->reads, w->reads_count, &w->reads_capacity, sizeof *w->reads);
    w->reads[w->reads_count++] = read;
}

static void similar_ended(struct world *w, const struct chaos_op *ok)
{
    bool present = false;
    for (size_t i = 0; i < ok->near_count; i++) {
        present |= ok->near[i] == ok->key;
        if (ok->near[i] != ok->key) {
            read_add(w, ok, ok->near[i], true);
        }
    }
    read_add(w, ok, ok->key, present);
}

static void gather(struct world *w)
{
    for (size_t i = 0; i < w->check->count; i++) {
        const struct chaos_op *op = chaos_history_at(w->check->history, i);
        if (op->type == CHAOS_INVOKE && (op->f == CHAOS_UPSERT || op->f == CHAOS_DELETE)) {
            write_asked(w, op);
        } else if (op->type == CHAOS_OK && op->f == CHAOS_GET) {
            read_add(w, op, op->key, op->found);
        } else if (op->type == CHAOS_OK && op->f == CHAOS_SIMILAR) {
            similar_ended(w, op);
        }
    }
    /* A value that was read had been written before, at its first try at the earliest. */
    for (size_t i = 0; i < w->reads_count; i++) {
        const struct read *read = &w->reads[i];
        if (read->value != ABSENT && w->values[read->value].first != NEVER) {
            done_add(&w->writes, read->item, read->ok, w->values[read->value].first);
        }
    }
}

/* ---- sorting by owner ------------------------------------------------------------------------------ */

static int compare(uint32_t a, uint32_t b)
{
    return a < b ? -1 : a > b;
}

static int tries_order(const void *a, const void *b)
{
    const struct try *left = a, *right = b;
    return left->owner != right->owner ? compare(left->owner, right->owner)
                                       : compare(left->invoke, right->invoke);
}

static int dones_order(const void *a, const void *b)
{
    const struct done *left = a, *right = b;
    return left->item != right->item ? compare(left->item, right->item) : compare(left->at, right->at);
}

static int reads_order(const void *a, const void *b)
{
    const struct read *left = a, *right = b;
    return left->item != right->item ? compare(left->item, right->item)
                                     : compare(left->invoke, right->invoke);
}

static void tries_sort(struct tries *tries)
{
    if (tries->count > 0) {
        qsort(tries->list, tries->count, sizeof *tries->list, tries_order);
    }
    for (size_t i = 0; i < tries->count; i++) {
        struct try *at = &tries->list[i];
        at->end_max = i > 0 && at[-1].owner == at->owner ? chaos_max(at[-1].end_max, at->end) : at->end;
    }
}

static void dones_sort(struct dones *dones)
{
    if (dones->count > 0) {
        qsort(dones->list, dones->count, sizeof *dones->list, dones_order);
    }
    for (size_t i = 0; i < dones->count; i++) {
        struct done *at = &dones->list[i];
        at->invoke_max =
            i > 0 && at[-1].item == at->item ? chaos_max(at[-1].invoke_max, at->invoke) : at->invoke;
    }
}

/* Sets where each owner's part of a sorted list begins, and how long it is. */
#define SPANS(owners, list, list_count, owner_field, from, count)                                            \
    for (size_t i_ = (list_count); i_-- > 0;) {                                                              \
        (owners)[(list)[i_].owner_field].from = i_;                                                          \
        (owners)[(list)[i_].owner_field].count++;                                                            \
    }

static void arrange(struct world *w)
{
    tries_sort(&w->tries);
    tries_sort(&w->upserts);
    tries_sort(&w->deletes);
    dones_sort(&w->writes);
    dones_sort(&w->acked);
    dones_sort(&w->deleted);
    if (w->reads_count > 0) {
        qsort(w->reads, w->reads_count, sizeof *w->reads, reads_order);
    }
    SPANS(w->values, w->tries.list, w->tries.count, owner, tries, tries_count)
    SPANS(w->items, w->upserts.list, w->upserts.count, owner, upserts, upserts_count)
    SPANS(w->items, w->deletes.list, w->deletes.count, owner, deletes, deletes_count)
    SPANS(w->items, w->writes.list, w->writes.count, item, writes, writes_count)
    SPANS(w->items, w->acked.list, w->acked.count, item, acked, acked_count)
    SPANS(w->items, w->deleted.list, w->deleted.count, item, deleted, deleted_count)
    SPANS(w->items, w->reads, w->reads_count, item, reads, reads_count)
}

/* ---- ages ----------------------------------------------------------------------------------------- */

/* 1 + the latest end of the tries that began before `before`; 0: none did; NEVER: one has no end. */
static uint32_t ended_by(const struct try *own, size_t count, uint32_t before)
{
    size_t from = 0, to = count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (own[middle].invoke < before) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    uint32_t end = from == 0 ? 0 : own[from - 1].end_max;
    return from == 0 ? 0 : end == NEVER ? NEVER : end + 1;
}

/* 1 + the latest :invoke of the writes that were done before `before`; 0: there is none. */
static uint32_t done_by(const struct done *own, size_t count, uint32_t before)
{
    size_t from = 0, to = count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (own[middle].at < before) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from == 0 ? 0 : own[from - 1].invoke_max + 1;
}

/* What the read returns is surely older than any write that was asked for at this or later: 1 + when the last
 * of its tries that began before `before` had ended. */
static uint32_t age_of(const struct world *w, const struct read *read, uint32_t before)
{
    const struct item *item = &w->items[read->item];
    if (!read->present) {
        return ended_by(w->deletes.list + item->deletes, item->deletes_count, before);
    }
    if (!read->get) {
        return ended_by(w->upserts.list + item->upserts, item->upserts_count, before);
    }
    const struct value *value = &w->values[read->value];
    return ended_by(w->tries.list + value->tries, value->tries_count, before);
}

/* ---- one read ------------------------------------------------------------------------------------- */

static const char *describe(const struct world *w, const struct read *read, char text[48])
{
    if (!read->present) {
        return "not there";
    }
    if (!read->get) {
        return "there";
    }
    (void)snprintf(text, 48, "value %llu", ull(w->values[read->value].value));
    return text;
}

/* Returns whether there was something to say against. */
static bool judge_written(struct world *w, const struct read *read)
{
    const struct item *item = &w->items[read->item];
    if (!read->present) {
        return true;
    }
    w->judged[CHAOS_RULE_INVENTED]++;
    uint32_t first = read->get ? w->values[read->value].first : item->upsert_first;
    if (first < read->ok) {
        return true;
    }
    char text[48];
    chaos_violated(w->check, CHAOS_RULE_INVENTED, read->ok, NEVER, NEVER, "item %llu is %s, and %s",
                   ull(item->key), describe(w, read, text),
                   read->get && w->values[read->value].asked < read->ok ? "that write surely failed"
                                                                        : "nobody wrote that before");
    return false;
}

/* An upsert that was acknowledged, and whatever is read later is older than it. `later`: the greatest age of
 * reads that began after this one. */
static void judge_lost(struct world *w, const struct read *read, uint32_t later)
{
    const struct item *item = &w->items[read->item];
    uint32_t upsert = done_by(w->acked.list + item->acked, item->acked_count, read->invoke);
    if (upsert > read->age && upsert > later) {
        chaos_violated(w->check, CHAOS_RULE_LOST, upsert - 1, read->ok, NEVER,
                       "item %llu: an upsert was acknowledged and is in no read any more", ull(item->key));
    }
}

static bool judge_bound(struct world *w, const struct read *read, const struct chaos_bound *bound,
                        uint64_t seen)
{
    const struct item *item = &w->items[read->item];
    /* That it is there says nothing but that it is not deleted. */
    const struct done *own =
        read->get || !read->present ? w->writes.list + item->writes : w->deleted.list + item->deleted;
    size_t count = read->get || !read->present ? item->writes_count : item->deleted_count;
    uint32_t write = done_by(own, count, bound->before);
    char text[48];
    /* An open write may come at any time: what it could explain is not judged. */
    w->judged[bound->rule] += write > 0 && (read->age != NEVER || (read->version > 0 && seen > 0));
    if (write > read->age) {
        chaos_violated(
            w->check, bound->rule, write - 1, read->invoke, read->ok,
            "item %llu is %s; a write that surely came after that was acknowledged or read before%s",
            ull(item->key), describe(w, read, text),
            bound->rule == CHAOS_RULE_AGE ? ", by more than the age that the answer claims" : "");
        return false;
    }
    if (read->version > 0 && read->version < seen) {
        chaos_violated(w->check, bound->rule, read->invoke, read->ok, NEVER,
                       "item %llu has version %llu; version %llu was read before", ull(item->key),
                       ull(read->version), ull(seen));
        return false;
    }
    return true;
}

static bool judge_token(struct world *w, const struct read *read, const struct chaos_op *invoke)
{
    bool fine = true;
    char text[48];
    for (size_t i = 0; i < invoke->token_count && invoke->level != CHAOS_LOCAL; i++) {
        uint32_t number = chaos_table_find(&w->value_table, read->item, invoke->token[i]);
        const struct value *value = number == NEVER ? NULL : &w->values[number];
        if (value == NULL || value->first == NEVER) {
            continue;
        }
        w->judged[CHAOS_RULE_TOKEN]++;
        bool versions = value->tries_count == 1 && value->version_min != UINT64_MAX && read->version > 0;
        if (value->first >= read->age || (versions && read->version < value->version_min)) {
            chaos_violated(w->check, CHAOS_RULE_TOKEN, value->first, read->invoke, read->ok,
                           "item %llu is %s, and the read's token covers the later value %llu",
                           ull(w->items[read->item].key), describe(w, read, text), ull(value->value));
            fine = false;
        }
    }
    return fine;
}

/* The same process read a version, and reads with a token that covers its value. */
static void judge_monotonic(struct world *w, const struct read *read, const struct chaos_op *invoke)
{
    uint32_t number = (uint32_t)(read - w->reads);
    uint32_t last = chaos_table_put(&w->last, (uint64_t)invoke->process, read->item, number);
    chaos_table_set(&w->last, (uint64_t)invoke->process, read->item, number);
    const struct read *before = &w->reads[last];
    if (last == number || invoke->level == CHAOS_LOCAL || before->version == 0 || read->version == 0 ||
        w->values[before->value].tries_count != 1) {
        return;
    }
    for (size_t i = 0; i < invoke->token_count; i++) {
        if (invoke->token[i] != w->values[before->value].value) {
            continue;
        }
        w->judged[CHAOS_RULE_MONOTONIC]++;
        if (read->version < before->version) {
            chaos_violated(
                w->check, CHAOS_RULE_MONOTONIC, before->ok, read->invoke, read->ok,
                "process %" PRId32 " read version %llu of item %llu and then, with its token, %llu",
                invoke->process, ull(before->version), ull(w->items[read->item].key), ull(read->version));
        }
    }
}

/* ---- reads of one item among each other ------------------------------------------------------------ */

static const struct read *compared;

static int versions_order(const void *a, const void *b)
{
    const struct read *left = &compared[*(const uint32_t *)a], *right = &compared[*(const uint32_t *)b];
    if (left->version != right->version) {
        return left->version < right->version ? -1 : 1;
    }
    return compare(left->ok, right->ok);
}

static int ends_order(const void *a, const void *b)
{
    return compare(compared[*(const uint32_t *)a].ok, compared[*(const uint32_t *)b].ok);
}

/* Several upserts of one entry have one version: a read from between them says that it has not yet applied
 * this index. */
static bool is_in_the_middle(const struct read *read)
{
    return read->applied > 0 && read->applied < read->version;
}

/* Versions are the order of the log: one value each, when its entry is applied, and no value surely before
 * one of a smaller version. */
static void judge_versions(struct world *w, const struct item *item, const uint32_t *order, size_t count)
{
    const struct read *youngest = NULL; /* whose value was asked for last */
    const struct read *whole = NULL;    /* the last that was not in the middle of its version's entry */
    for (size_t i = 0; i < count; i++) {
        const struct read *read = &w->reads[order[i]], *before = whole;
        w->judged[CHAOS_RULE_SLICES] += i > 0;
        whole = is_in_the_middle(read) ? whole : read;
        if (whole == read && before != NULL && read->version == before->version &&
            read->value != before->value) {
            chaos_violated(w->check, CHAOS_RULE_SLICES, before->ok, read->ok, NEVER,
                           "item %llu: version %llu has value %llu and value %llu", ull(item->key),
                           ull(read->version), ull(w->values[before->value].value),
                           ull(w->values[read->value].value));
        }
        uint32_t first = w->values[read->value].first;
        if (first == NEVER) {
            continue;
        }
        if (youngest != NULL && read->version > youngest->version &&
            age_of(w, read, NEVER) <= w->values[youngest->value].first) {
            chaos_violated(
                w->check, CHAOS_RULE_SLICES, youngest->ok, read->ok, NEVER,
                "item %llu: value %llu has version %llu and value %llu, surely written before it, %llu",
                ull(item->key), ull(w->values[youngest->value].value), ull(youngest->version),
                ull(w->values[read->value].value), ull(read->version));
        }
        if (youngest == NULL || first > w->values[youngest->value].first) {
            youngest = read;
        }
    }
}

/* A node that has applied an index shows what this index changed. */
static void judge_applied(struct world *w, const struct item *item, const struct read *read,
                          const uint32_t *order, size_t count)
{
    size_t from = 0, to = count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (w->reads[order[middle]].version <= read->applied) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    const struct read *other = from == 0 || !read->get ? NULL : &w->reads[order[from - 1]];
    if (other == NULL || other == read || read->applied == 0) {
        return;
    }
    w->judged[CHAOS_RULE_SLICES]++;
    if (read->present
            ? read->version > 0 && read->version < other->version
            : read->age <= w->values[other->value].first && w->values[other->value].first != NEVER) {
        chaos_violated(
            w->check, CHAOS_RULE_SLICES, other->ok, read->ok, NEVER,
            "item %llu: a read at applied index %llu gives version %llu; another one saw version %llu",
            ull(item->key), ull(read->applied), ull(read->version), ull(other->version));
    }
}

/* Reads that tell a version. Returns how many. */
static size_t versioned(const struct world *w, const struct item *item, uint32_t *ret_order)
{
    size_t count = 0;
    for (size_t i = 0; i < item->reads_count; i++) {
        if (w->reads[item->reads + i].version > 0) {
            ret_order[count++] = (uint32_t)(item->reads + i);
        }
    }
    return count;
}

/* ---- all ------------------------------------------------------------------------------------------ */

/* The greatest version of the reads that had ended before `before`; ends: by ok, seen: greatest up to each.
 */
static uint64_t seen_by(const struct world *w, const uint32_t *ends, const uint64_t *seen, size_t count,
                        uint32_t before)
{
    size_t from = 0, to = count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (w->reads[ends[middle]].ok < before) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from == 0 ? 0 : seen[from - 1];
}

struct scratch {
    uint32_t *order, *ends, *later;
    uint64_t *seen;
};

static void judge_read(struct world *w, const struct read *read, const struct scratch *scratch,
                       size_t versions, uint32_t later)
{
    struct chaos_bound bounds[CHAOS_BOUNDS];
    const struct chaos_op *invoke = chaos_history_at(w->check->history, read->invoke);
    const struct chaos_op *ok = chaos_history_at(w->check->history, read->ok);
    const struct item *item = &w->items[read->item];
    size_t count = chaos_bounds(w->check, invoke, ok, bounds);
    bool fine = true;
    if (!judge_written(w, read)) {
        return; /* it has no age */
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t seen = seen_by(w, scratch->ends, scratch->seen, versions, bounds[i].before);
        fine = judge_bound(w, read, &bounds[i], seen) && fine;
        if (bounds[i].rule != CHAOS_RULE_AGE) {
            w->judged[CHAOS_RULE_LOST] +=
                done_by(w->acked.list + item->acked, item->acked_count, read->invoke) > 0;
        }
    }
    if (ok->key == item->key) { /* a token covers the item that was asked for */
        fine = judge_token(w, read, invoke) && fine;
        judge_monotonic(w, read, invoke);
    }
    if (!fine) {
        judge_lost(w, read, later);
    }
}

static void judge_item(struct world *w, const struct item *item, const struct scratch *scratch)
{
    size_t versions = versioned(w, item, scratch->order);
    struct read *reads = w->reads + item->reads;
    compared = w->reads;
    if (versions > 0) {
        memcpy(scratch->ends, scratch->order, versions * sizeof *scratch->ends);
        qsort(scratch->order, versions, sizeof *scratch->order, versions_order);
        qsort(scratch->ends, versions, sizeof *scratch->ends, ends_order);
    }
    for (size_t i = 0; i < versions; i++) {
        uint64_t version = w->reads[scratch->ends[i]].version;
        scratch->seen[i] = i > 0 && scratch->seen[i - 1] > version ? scratch->seen[i - 1] : version;
    }
    uint32_t later = 0; /* reads are by :invoke */
    for (size_t i = item->reads_count; i-- > 0;) {
        scratch->later[i] = later;
        reads[i].age = age_of(w, &reads[i], reads[i].ok);
        later = chaos_max(later, reads[i].age);
    }
    for (size_t i = 0; i < item->reads_count; i++) {
        judge_read(w, &reads[i], scratch, versions, scratch->later[i]);
        judge_applied(w, item, &reads[i], scratch->order, versions);
    }
    judge_versions(w, item, scratch->order, versions);
}

static void world_free(struct world *w)
{
    chaos_table_free(&w->item_table);
    chaos_table_free(&w->value_table);
    chaos_table_free(&w->last);
    free(w->items);
    free(w->values);
    free(w->reads);
    free(w->tries.list);
    free(w->upserts.list);
    free(w->deletes.list);
    free(w->writes.list);
    free(w->acked.list);
    free(w->deleted.list);
}

void chaos_check_items(struct chaos_check *check)
{
    struct world w = {.check = check};
    gather(&w);
    arrange(&w);
    struct scratch scratch = {
        .order = chaos_alloc(w.reads_count, sizeof *scratch.order),
        .ends = chaos_alloc(w.reads_count, sizeof *scratch.ends),
        .later = chaos_alloc(w.reads_count, sizeof *scratch.later),
        .seen = chaos_alloc(w.reads_count, sizeof *scratch.seen),
    };
    for (size_t i = 0; i < w.items_count; i++) {
        judge_item(&w, &w.items[i], &scratch);
    }
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        chaos_judged(check, (enum chaos_rule)rule, w.judged[rule]);
    }
    free(scratch.order);
    free(scratch.ends);
    free(scratch.later);
    free(scratch.seen);
    world_free(&w);
}
