/* The list of nemeses, and the run of a schedule.
 *
 * Happy path of chaos_nemesis_run: plan -> for each step: quiet -> begin each fault -> turns until its time
 * is over -> end each, last first -> settle: everything runs and is ready -> the next. A fault whose
 * beginning fails is ended like any other. When an end or the settling fails the run is over with that error:
 * what follows would test a cluster that is hurt already. */
#include "chaos/nemesis_internal.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#define LEAST_BETWEEN_MS 200 /* a step takes at least so long, whatever the schedule says */

/* ---- the list
 * ---------------------------------------------------------------------------------------------- */

static const struct nemesis COMBINATION = {{"combination", "two of the others at once, of different kinds"},
                                           NEMESIS_COMBINED,
                                           NULL,
                                           NULL,
                                           NULL,
                                           NULL};

static const struct {
    const struct nemesis *list;
    const unsigned *count;
} TABLES[] = {
    {NEMESES_PROCESS, &NEMESES_PROCESS_COUNT}, {NEMESES_NET, &NEMESES_NET_COUNT},
    {NEMESES_DISK, &NEMESES_DISK_COUNT},       {NEMESES_JOURNAL, &NEMESES_JOURNAL_COUNT},
    {NEMESES_CLOCK, &NEMESES_CLOCK_COUNT},     {NEMESES_MEMBERS, &NEMESES_MEMBERS_COUNT},
    {NEMESES_STREAM, &NEMESES_STREAM_COUNT},
};

const struct nemesis *nemesis_at(unsigned number)
{
    for (size_t i = 0; i < sizeof TABLES / sizeof *TABLES; i++) {
        if (number < *TABLES[i].count)
            return &TABLES[i].list[number];
        number -= *TABLES[i].count;
    }
    return number == 0 ? &COMBINATION : NULL;
}

bool nemesis_is_meant(const struct nemesis *one, const char *name, size_t length)
{
    if (length == strlen("all") && memcmp(name, "all", length) == 0)
        return one->class != NEMESIS_STREAM;
    if (length == strlen("stream") && memcmp(name, "stream", length) == 0)
        return one->class == NEMESIS_STREAM;
    return strlen(one->info.name) == length && memcmp(one->info.name, name, length) == 0;
}

bool chaos_nemesis_is_named(const char *names, unsigned number)
{
    const struct nemesis *one = nemesis_at(number);

    for (const char *at = names; one != NULL && strcmp(names, "none") != 0; at++) {
        size_t length = strcspn(at, ",");
        if (nemesis_is_meant(one, at, length))
            return true;
        at += length;
        if (*at == 0)
            return false;
    }
    return false;
}

const char *chaos_nemesis_unknown(const char *names, size_t *ret_length)
{
    const struct nemesis *one;

    for (const char *at = names; strcmp(names, "none") != 0; at++) {
        size_t length = strcspn(at, ",");
        bool known = false;
        for (unsigned i = 0; !known && (one = nemesis_at(i)) != NULL; i++)
            known = nemesis_is_meant(one, at, length);
        if (!known) {
            *ret_length = length;
            return at;
        }
        at += length;
        if (*at == 0)
            return NULL;
    }
    return NULL;
}

const struct chaos_nemesis_info *chaos_nemesis_list(unsigned *ret_count)
{
    static struct chaos_nemesis_info list[CHAOS_NEMESES_MAX];
    const struct nemesis *one;
    unsigned count = 0;

    for (; (one = nemesis_at(count)) != NULL; count++) {
        DN_ASSERT(count < CHAOS_NEMESES_MAX);
        list[count] = one->info;
    }
    *ret_count = count;
    return list;
}

static const char *why_not(struct chaos_cluster *c, const struct nemesis *one)
{
    return one->probe == NULL ? NULL : one->probe(c);
}

void chaos_nemesis_probe(struct chaos_cluster *c, const char *ret_why[CHAOS_NEMESES_MAX])
{
    const struct nemesis *one;

    for (unsigned i = 0; (one = nemesis_at(i)) != NULL; i++)
        ret_why[i] = why_not(c, one);
}

/* ---- the history
 * --------------------------------------------------------------------------------------------- */

static void note(struct chaos_history *history, enum chaos_type type, const struct nemesis *one,
                 const char *what, unsigned node, const char *text)
{
    const struct chaos_op op = {.type = type,
                                .f = CHAOS_FAULT,
                                .process = CHAOS_NEMESIS,
                                .node = node,
                                .name = one->info.name,
                                .what = what,
                                .error = text[0] == 0 ? NULL : text};
    chaos_history_append(history, &op);
}

/* ---- running
 * --------------------------------------------------------------------------------------------------- */

struct running {
    struct chaos_cluster *c;
    struct chaos_history *history;
    const atomic_bool *stop;
    int64_t end_ms;
    struct fault faults[2];
    const struct nemesis *kinds[2];
    unsigned count;
};

static bool over(const struct running *r)
{
    return atomic_load(r->stop) || nemesis_now_ms() >= r->end_ms;
}

static void pause_ms(const struct running *r, int64_t length_ms)
{
    int64_t end = nemesis_now_ms() + length_ms;

    while (!over(r) && nemesis_now_ms() < end)
        poll(NULL, 0, NEMESIS_TURN_MS);
}

static void begin(struct running *r, const struct nemesis *kind, uint64_t random)
{
    struct fault *f = &r->faults[r->count];
    struct dn_error err = {0};

    *f = (struct fault){.c = r->c, .random = random, .pipe = -1};
    r->kinds[r->count++] = kind;
    note(r->history, CHAOS_INVOKE, kind, "begin", 0, "");
    if (kind->begin(f, &err) != DN_OK) {
        f->done = true; /* no turns; its end heals what it may have begun */
        fault_say(f, CHAOS_NOT_BEGUN "%.200s", err.message);
    }
    note(r->history, CHAOS_INFO, kind, "begin", f->node, f->text);
}

static void last(struct running *r, int64_t length_ms)
{
    int64_t until = nemesis_now_ms() + length_ms;
    bool all_done = false;

    while (!over(r) && !all_done && nemesis_now_ms() < until) {
        all_done = true;
        for (unsigned i = 0; i < r->count; i++) {
            if (r->kinds[i]->turn != NULL && !r->faults[i].done)
                r->kinds[i]->turn(&r->faults[i], nemesis_now_ms());
            all_done &= r->faults[i].done;
        }
        poll(NULL, 0, NEMESIS_TURN_MS);
    }
}

static enum dn_code end_all(struct running *r, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    while (r->count > 0) {
        unsigned i = --r->count;
        struct fault *f = &r->faults[i];
        struct dn_error why = {0};
        f->text[0] = 0;
        note(r->history, CHAOS_INVOKE, r->kinds[i], "end", f->node, "");
        enum dn_code one = r->kinds[i]->end(f, &why);
        note(r->history, CHAOS_INFO, r->kinds[i], "end", f->node, one == DN_OK ? f->text : why.message);
        if (one != DN_OK && code == DN_OK)
            code = dn_fail(err, one, "end of the fault '%s': %s", r->kinds[i]->info.name, why.message);
    }
    return code;
}

enum dn_code nemesis_settle(struct chaos_cluster *c, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    for (unsigned i = 1; code == DN_OK && i <= c->o.nodes; i++)
        code = cluster_node_start(c, i, err);
    if (code == DN_OK && chaos_cluster_topic(c) != NULL)
        code = cluster_node_start(c, CLUSTER_BROKER, err);
    return code == DN_OK ? cluster_wait_ready(c, CLUSTER_READY_MS, err) : code;
}

static enum dn_code do_step(struct running *r, const struct nemesis_step *step, struct dn_error *err)
{
    bool any = false;

    for (unsigned i = 0; i < step->count; i++)
        any |= why_not(r->c, step->faults[i]) == NULL;
    if (!any)
        return DN_OK; /* said by the probe, before the run */
    pause_ms(r, step->quiet_ms > LEAST_BETWEEN_MS ? step->quiet_ms : LEAST_BETWEEN_MS);
    if (over(r))
        return DN_OK;
    for (unsigned i = 0; i < step->count; i++)
        if (why_not(r->c, step->faults[i]) == NULL)
            begin(r, step->faults[i], step->random[i]);
    last(r, step->fault_ms);
    enum dn_code code = end_all(r, err);
    if (code == DN_OK && nemesis_settle(r->c, err) != DN_OK)
        code = dn_wrap(err, DN_DEADLINE, "after the fault '%s'", step->faults[0]->info.name);
    return code;
}

/* Whatever state things are in: no fault is left. */
static void heal_all(struct chaos_cluster *c)
{
    cluster_links_clear(c);
    for (unsigned i = 0; i <= c->count; i++) /* the broker too */
        if (cluster_node_is_paused(c, i))
            cluster_node_pause(c, i, false);
}

static bool has_any(struct chaos_cluster *c, const struct nemesis_plan *plan)
{
    for (unsigned i = 0; i < plan->count; i++)
        if (plan->names[i]->class != NEMESIS_COMBINED && why_not(c, plan->names[i]) == NULL)
            return true;
    return false;
}

enum dn_code chaos_nemesis_run(struct chaos_cluster *c, struct chaos_history *history,
                               const struct chaos_schedule *schedule, const atomic_bool *stop,
                               struct dn_error *err)
{
    struct running *r = &(struct running){
        .c = c, .history = history, .stop = stop, .end_ms = nemesis_now_ms() + schedule->duration_ms};
    struct nemesis_plan plan;
    struct nemesis_step step;
    enum dn_code code = nemesis_plan_begin(schedule, &plan, err);

    if (code != DN_OK)
        return code;
    if (!has_any(c, &plan))
        pause_ms(r, schedule->duration_ms);
    while (code == DN_OK && !over(r)) {
        nemesis_plan_next(&plan, &step);
        code = do_step(r, &step, err);
    }
    heal_all(c);
    struct dn_error why = {0};
    enum dn_code settled = nemesis_settle(c, &why);
    if (settled != DN_OK && code == DN_OK)
        code = dn_fail(err, settled, "after the last fault: %s", why.message);
    return code;
}
