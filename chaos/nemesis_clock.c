/* Nemeses of the clock: the time of day of one node jumps, or runs too fast or too slow. By libfaketime,
 * which is told by a file; the monotonic and boot-time clocks stay true, as they do on a real machine whose
 * clock is set. A node that does not run under it yet is restarted under it first. Skew is a row of small
 * steps: the library's own factor would change how long the node sleeps, too. */
#include "chaos/nemesis_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SKEW_EVERY_MS 500

static const char *needs_library(struct chaos_cluster *c)
{
    static const char *const PRELOAD = "LD_PRELOAD=" CLUSTER_FAKETIME;
    const char *const arguments[] = {"env", PRELOAD, c->dunlind, "--version", NULL};
    static char output[300];
    static int known; /* 1: it works, 2: it does not; asked on one thread, before and during a run */
    int status;

    if (known == 0) {
        known = 2;
        if (access(CLUSTER_FAKETIME, R_OK) != 0)
            snprintf(output, sizeof output, "libfaketime is not installed (scripts/deps.sh does that)");
        else if (cluster_command(arguments, output, sizeof output, &status, NULL) == DN_OK && status == 0)
            known = 1; /* otherwise what it printed is the reason */
    }
    return known == 1 ? NULL : output;
}

/* *_ms: how far the node's time of day is from the truth. */
static enum dn_code set_clock(struct fault *f, int64_t offset_ms, struct dn_error *err)
{
    const struct cluster_node *n = &f->c->nodes[f->node];
    char next[CLUSTER_PATH_MAX + 8];

    snprintf(next, sizeof next, "%s.new", n->clock); /* the library must never read half a number */
    FILE *out = fopen(next, "we");
    if (out == NULL)
        return dn_fail(err, DN_IO, "write '%s': %s", next, strerror(errno));
    fprintf(out, "%c%lld.%03lld\n", offset_ms < 0 ? '-' : '+', (long long)llabs(offset_ms) / 1000,
            (long long)llabs(offset_ms) % 1000);
    if (fclose(out) != 0 || rename(next, n->clock) != 0)
        return dn_fail(err, DN_IO, "write '%s': %s", n->clock, strerror(errno));
    return DN_OK;
}

static enum dn_code choose(struct fault *f, struct dn_error *err)
{
    f->node = fault_by_leader(f, fault_draw(f, 2) == 0);
    if (f->node == 0)
        return fault_no_one(err);
    struct cluster_node *n = &f->c->nodes[f->node];
    if (n->faked_clock)
        return DN_OK;
    enum dn_code code = set_clock(f, 0, err);
    if (code != DN_OK)
        return code;
    n->faked_clock = true;
    cluster_node_stop(f->c, f->node);
    code = cluster_node_start(f->c, f->node, err);
    return code == DN_OK ? cluster_wait_ready(f->c, CLUSTER_READY_MS, err) : code;
}

static enum dn_code jump(struct fault *f, struct dn_error *err)
{
    static const int64_t JUMPS_S[] = {-3600, -600, -60, -5, -1, 1, 5, 60, 600, 3600};
    enum dn_code code = choose(f, err);
    int64_t by_s = JUMPS_S[fault_draw(f, sizeof JUMPS_S / sizeof *JUMPS_S)];

    if (code != DN_OK)
        return code;
    fault_say(f, "node %u's clock jumped by %lld s", f->node, (long long)by_s);
    return set_clock(f, by_s * 1000, err);
}

static enum dn_code skew(struct fault *f, struct dn_error *err)
{
    enum dn_code code = choose(f, err);
    int64_t per_cent = 2 + fault_draw(f, 90);

    f->value = fault_draw(f, 2) == 0 ? per_cent : -per_cent;
    fault_say(f, "node %u's clock is %lld %% too %s", f->node, (long long)per_cent,
              f->value > 0 ? "fast" : "slow");
    return code;
}

static void skew_turn(struct fault *f, int64_t now_ms)
{
    if (f->node == 0 || now_ms < f->next_turn_ms)
        return;
    f->offset += f->value * SKEW_EVERY_MS / 100;
    f->next_turn_ms = now_ms + SKEW_EVERY_MS;
    (void)set_clock(f, f->offset, NULL);
}

static enum dn_code set_right(struct fault *f, struct dn_error *err)
{
    fault_say(f, "node %u's clock is right", f->node);
    return f->node == 0 ? DN_OK : set_clock(f, 0, err);
}

const struct nemesis NEMESES_CLOCK[] = {
    {{"clock-jump", "a node's time of day jumps, and back"},
     NEMESIS_CLOCK,
     needs_library,
     jump,
     NULL,
     set_right},
    {{"clock-skew", "a node's time of day runs too fast or too slow"},
     NEMESIS_CLOCK,
     needs_library,
     skew,
     skew_turn,
     set_right},
};
const unsigned NEMESES_CLOCK_COUNT = sizeof NEMESES_CLOCK / sizeof *NEMESES_CLOCK;
