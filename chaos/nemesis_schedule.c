/* The schedule: which faults, for how long, in which order; drawn from the seed and the names alone. What a
 * machine cannot have is drawn too, and passed over when its turn comes. */
#include "chaos/nemesis_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FAULT_MS_MIN 1000
#define FAULT_MS_MAX 6000
#define QUIET_MS_MIN 500
#define QUIET_MS_MAX 3000
#define PRINTED_STEPS_MAX 10000

static uint64_t draw(struct nemesis_plan *plan) /* splitmix64 */
{
    uint64_t z = plan->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int64_t between(struct nemesis_plan *plan, const int64_t range[2])
{
    return range[0] + (int64_t)(draw(plan) % (uint64_t)(range[1] - range[0] + 1));
}

static enum dn_code add_names(struct nemesis_plan *plan, const char *names, struct dn_error *err)
{
    const struct nemesis *one;
    size_t length;
    const char *unknown = chaos_nemesis_unknown(names, &length);

    if (unknown != NULL)
        return dn_fail(err, DN_INVALID, "there is no nemesis '%.*s'; --help lists them", (int)length,
                       unknown);
    if (strcmp(names, "none") == 0)
        return DN_OK;
    for (const char *at = names;; at++) { /* one named twice is drawn twice as often */
        length = strcspn(at, ",");
        for (unsigned i = 0; (one = nemesis_at(i)) != NULL; i++) {
            if (!nemesis_is_meant(one, at, length))
                continue;
            if (plan->count == NEMESIS_NAMES_MAX)
                return dn_fail(err, DN_INVALID, "more than %d nemeses are named", NEMESIS_NAMES_MAX);
            plan->names[plan->count++] = one;
        }
        at += length;
        if (*at == 0)
            return DN_OK;
    }
}

enum dn_code nemesis_plan_begin(const struct chaos_schedule *schedule, struct nemesis_plan *ret,
                                struct dn_error *err)
{
    struct nemesis_plan plan = {.random = schedule->seed,
                                .fault_ms = {schedule->fault_ms[0], schedule->fault_ms[1]},
                                .quiet_ms = {schedule->quiet_ms[0], schedule->quiet_ms[1]}};

    if (plan.fault_ms[0] == 0 && plan.fault_ms[1] == 0) {
        plan.fault_ms[0] = FAULT_MS_MIN;
        plan.fault_ms[1] = FAULT_MS_MAX;
    }
    if (plan.quiet_ms[0] == 0 && plan.quiet_ms[1] == 0) {
        plan.quiet_ms[0] = QUIET_MS_MIN;
        plan.quiet_ms[1] = QUIET_MS_MAX;
    }
    if (plan.fault_ms[0] < 0 || plan.fault_ms[1] < plan.fault_ms[0] || plan.quiet_ms[0] < 0 ||
        plan.quiet_ms[1] < plan.quiet_ms[0])
        return dn_fail(err, DN_INVALID, "how long faults and pauses last: the least is above the most");
    enum dn_code code = add_names(&plan, schedule->names, err);
    if (code == DN_OK)
        *ret = plan;
    return code;
}

/* Two that are named and can be combined, into the step; fewer when there are not two. A change of members
 * comes first, and so ends last (nemesis.c): it needs a majority of those that the other fault is about to
 * hurt. */
static void combine(struct nemesis_plan *plan, struct nemesis_step *step)
{
    const struct nemesis *fit[NEMESIS_NAMES_MAX];

    step->count = 0;
    for (unsigned place = 0; place < 2; place++) {
        unsigned count = 0;
        for (unsigned i = 0; i < plan->count; i++)
            if (plan->names[i]->class != NEMESIS_COMBINED &&
                (place == 0 || plan->names[i]->class != step->faults[0]->class))
                fit[count++] = plan->names[i];
        uint64_t number = draw(plan);
        if (count > 0)
            step->faults[step->count++] = fit[number % count];
        if (step->count <= place)
            return;
    }
    if (step->faults[1]->class == NEMESIS_MEMBERS) {
        const struct nemesis *second = step->faults[0];
        step->faults[0] = step->faults[1];
        step->faults[1] = second;
    }
}

void nemesis_plan_next(struct nemesis_plan *plan, struct nemesis_step *ret)
{
    struct nemesis_step step = {0};

    DN_ASSERT(plan->count > 0);
    step.faults[step.count++] = plan->names[draw(plan) % plan->count];
    if (step.faults[0]->class == NEMESIS_COMBINED)
        combine(plan, &step);
    step.quiet_ms = between(plan, plan->quiet_ms);
    step.fault_ms = between(plan, plan->fault_ms);
    step.random[0] = draw(plan);
    step.random[1] = draw(plan);
    *ret = step;
}

enum dn_code chaos_schedule_print(const struct chaos_schedule *schedule, FILE *out, struct dn_error *err)
{
    struct nemesis_plan plan;
    struct nemesis_step step;
    enum dn_code code = nemesis_plan_begin(schedule, &plan, err);

    if (code != DN_OK || plan.count == 0)
        return code;
    int64_t at_ms = 0;
    for (unsigned i = 0; at_ms < schedule->duration_ms && i < PRINTED_STEPS_MAX; i++) {
        nemesis_plan_next(&plan, &step);
        at_ms += step.quiet_ms;
        fprintf(out, "%9.3f s  %s%s%s for %.3f s\n", (double)at_ms / 1000,
                step.count > 0 ? step.faults[0]->info.name : "nothing", step.count > 1 ? " + " : "",
                step.count > 1 ? step.faults[1]->info.name : "", (double)step.fault_ms / 1000);
        at_ms += step.fault_ms;
    }
    return ferror(out) ? dn_fail(err, DN_IO, "print the schedule") : DN_OK;
}
