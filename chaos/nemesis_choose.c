/* Whom a fault hits. */
#include "chaos/nemesis_internal.h"

#include "base/clock.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>

#define LEADER_WAIT_MS 5000
#define LOOK_EVERY_MS 50

int64_t nemesis_now_ms(void)
{
    return (int64_t)(dn_monotonic_us() / 1000);
}

unsigned fault_draw(struct fault *f, unsigned below)
{
    /* splitmix64, http://prng.di.unimi.it/splitmix64.c's constants */
    uint64_t z = f->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (unsigned)((z ^ z >> 31) % below);
}

static bool is_there(struct chaos_cluster *c, unsigned node)
{
    return chaos_cluster_is_running(c, node) && !cluster_node_is_paused(c, node);
}

void fault_shuffle(struct fault *f)
{
    f->hit_count = 0;
    for (unsigned i = 1; i <= f->c->count;
         i++) /* drawn for all, so that the draws do not depend on who runs */
        f->hit[f->hit_count++] = i;
    for (unsigned i = f->hit_count; i > 1; i--) {
        unsigned other = fault_draw(f, i), kept = f->hit[i - 1];
        f->hit[i - 1] = f->hit[other];
        f->hit[other] = kept;
    }
    unsigned left = 0;
    for (unsigned i = 0; i < f->hit_count; i++)
        if (is_there(f->c, f->hit[i]))
            f->hit[left++] = f->hit[i];
    f->hit_count = left;
}

void fault_minority(struct fault *f)
{
    fault_shuffle(f);
    f->hit_count = f->hit_count == 0 ? 0 : (f->hit_count - 1) / 2;
}

unsigned fault_any(struct fault *f)
{
    fault_shuffle(f);
    return f->hit_count == 0 ? 0 : f->hit[0];
}

unsigned fault_by_leader(struct fault *f, bool leader)
{
    unsigned group = fault_draw(f, f->c->o.shards + 1), found = 0;
    int64_t end = nemesis_now_ms() + LEADER_WAIT_MS;

    while ((found = cluster_leader(f->c, group)) == 0 && nemesis_now_ms() < end)
        poll(NULL, 0, LOOK_EVERY_MS);
    fault_shuffle(f);
    if (leader) /* any other node in its place would be another fault */
        return found;
    for (unsigned i = 0; i < f->hit_count; i++)
        if (f->hit[i] != found)
            return f->hit[i];
    return 0;
}

enum dn_code fault_no_one(struct dn_error *err)
{
    return dn_fail(err, DN_PRECONDITION,
                   "for %d s no node that runs said that it leads the group, or none runs",
                   LEADER_WAIT_MS / 1000);
}

void fault_say(struct fault *f, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
}
