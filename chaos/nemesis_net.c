/* Nemeses of the network between the nodes. Clients reach every node throughout. */
#include "chaos/nemesis_internal.h"

#include <stdio.h>

#define FLAP_MS_MIN 100
#define FLAP_MS_MAX 700

static const struct net_link CUT = {.cut = true};

/* ---- partitions -------------------------------------------------------------------------------------------
 */

static void cut_between(struct chaos_cluster *c, unsigned a, unsigned b, const struct net_link *link)
{
    cluster_link_set(c, a, b, link);
    cluster_link_set(c, b, a, link);
}

static void set_all_of(struct chaos_cluster *c, unsigned node, const struct net_link *link)
{
    for (unsigned i = 1; i <= c->count; i++)
        if (i != node)
            cut_between(c, node, i, link);
}

static enum dn_code isolate(struct fault *f, unsigned node, struct dn_error *err)
{
    if (node == 0)
        return fault_no_one(err);
    f->node = node;
    set_all_of(f->c, node, &CUT);
    fault_say(f, "cut node %u off from all others", node);
    return DN_OK;
}

static enum dn_code partition_one(struct fault *f, struct dn_error *err)
{
    return isolate(f, fault_any(f), err);
}

static enum dn_code isolate_leader(struct fault *f, struct dn_error *err)
{
    return isolate(f, fault_by_leader(f, true), err);
}

/* The majority is drawn first, as the members that run: spares that wait are cut off with the minority. */
static enum dn_code partition_halves(struct fault *f, struct dn_error *err)
{
    bool few[NET_PLACES] = {false};

    fault_minority(f);
    if (f->hit_count == 0)
        return dn_fail(err, DN_PRECONDITION, "too few nodes run to part them");
    for (unsigned i = 0; i < f->hit_count; i++)
        few[f->hit[i]] = true;
    for (unsigned i = 1; i <= f->c->count; i++)
        for (unsigned j = i + 1; j <= f->c->count; j++)
            if (few[i] != few[j])
                cut_between(f->c, i, j, &CUT);
    fault_say(f, "cut %u nodes off from the majority, node %u first", f->hit_count, f->hit[0]);
    return DN_OK;
}

static enum dn_code partition_one_way(struct fault *f, struct dn_error *err)
{
    f->node = fault_any(f);
    bool mute = fault_draw(f, 2) == 0;
    if (f->node == 0)
        return dn_fail(err, DN_PRECONDITION, "no node runs");
    for (unsigned i = 1; i <= f->c->count; i++)
        if (i != f->node)
            cluster_link_set(f->c, mute ? f->node : i, mute ? i : f->node, &CUT);
    fault_say(f, "node %u %s", f->node, mute ? "hears and is not heard" : "is heard and hears nothing");
    return DN_OK;
}

/* Each reaches only its two neighbours on a ring; of three nodes, whose ring is whole, two do not reach each
 * other. */
static enum dn_code partition_ring(struct fault *f, struct dn_error *err)
{
    fault_shuffle(f);
    if (f->hit_count < 3)
        return dn_fail(err, DN_PRECONDITION, "too few nodes run for a ring");
    unsigned count = f->hit_count;
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = i + 1; j < count; j++) {
            bool neighbours = j == i + 1 || (count > 3 && i == 0 && j == count - 1);
            if (!neighbours)
                cut_between(f->c, f->hit[i], f->hit[j], &CUT);
        }
    fault_say(f, "each of %u nodes reaches its neighbours on a ring only, from node %u", count, f->hit[0]);
    return DN_OK;
}

static enum dn_code heal(struct fault *f, struct dn_error *err)
{
    (void)err;
    cluster_links_clear(f->c);
    fault_say(f, "all links are whole");
    return DN_OK;
}

/* ---- links that are bad
 * ------------------------------------------------------------------------------------ */

static enum dn_code flap(struct fault *f, struct dn_error *err)
{
    f->node = fault_by_leader(f, fault_draw(f, 2) == 0);
    if (f->node == 0)
        return fault_no_one(err);
    fault_say(f, "node %u's links go off and on", f->node);
    return DN_OK;
}

static void flap_turn(struct fault *f, int64_t now_ms)
{
    const struct net_link whole = {0};

    if (now_ms < f->next_turn_ms)
        return;
    f->on = !f->on;
    set_all_of(f->c, f->node, f->on ? &CUT : &whole);
    f->next_turn_ms = now_ms + FLAP_MS_MIN + fault_draw(f, FLAP_MS_MAX - FLAP_MS_MIN);
}

/* One node's links, or all of them. */
static enum dn_code worsen(struct fault *f, const struct net_link *link, const char *how,
                           struct dn_error *err)
{
    bool everywhere = fault_draw(f, 3) == 0;
    unsigned node = fault_any(f);

    if (node == 0)
        return dn_fail(err, DN_PRECONDITION, "no node runs");
    f->node = everywhere ? 0 : node;
    for (unsigned i = 1; i <= f->c->count; i++)
        if (everywhere || i == node)
            set_all_of(f->c, i, link);
    if (everywhere)
        fault_say(f, "all links %s", how);
    else
        fault_say(f, "node %u's links %s", node, how);
    return DN_OK;
}

static enum dn_code slow(struct fault *f, struct dn_error *err)
{
    struct net_link link = {.delay_ms = 20 + fault_draw(f, 180), .jitter_ms = fault_draw(f, 100)};
    char how[64];

    snprintf(how, sizeof how, "are %u to %u ms late", link.delay_ms, link.delay_ms + link.jitter_ms);
    return worsen(f, &link, how, err);
}

static enum dn_code narrow(struct fault *f, struct dn_error *err)
{
    struct net_link link = {.rate_kib = 16 + fault_draw(f, 240)};
    char how[64];

    snprintf(how, sizeof how, "carry %u KiB/s", link.rate_kib);
    return worsen(f, &link, how, err);
}

static enum dn_code lose(struct fault *f, struct dn_error *err)
{
    struct net_link link = {.loss_pm = 20 + fault_draw(f, 280)};
    char how[64];

    snprintf(how, sizeof how, "lose %u packets of 1000", link.loss_pm);
    return worsen(f, &link, how, err);
}

static enum dn_code corrupt(struct fault *f, struct dn_error *err)
{
    struct net_link link = {.corrupt_pm = 5 + fault_draw(f, 95)};
    char how[96];

    snprintf(how, sizeof how, "turn a bit of %u in 1000 packets, checksums made right", link.corrupt_pm);
    return worsen(f, &link, how, err);
}

static enum dn_code duplicate(struct fault *f, struct dn_error *err)
{
    struct net_link link = {.duplicate_pm = 50 + fault_draw(f, 450)};
    char how[64];

    snprintf(how, sizeof how, "carry %u packets of 1000 twice", link.duplicate_pm);
    return worsen(f, &link, how, err);
}

static enum dn_code reorder(struct fault *f, struct dn_error *err)
{
    struct net_link link = {.reorder_pm = 100 + fault_draw(f, 400), .delay_ms = 2 + fault_draw(f, 18)};
    char how[96];

    snprintf(how, sizeof how, "are %u ms late, but for %u packets of 1000", link.delay_ms, link.reorder_pm);
    return worsen(f, &link, how, err);
}

static enum dn_code break_connections(struct fault *f, struct dn_error *err)
{
    struct net_link link = {.break_pm = 5 + fault_draw(f, 45)};
    char how[96];

    snprintf(how, sizeof how, "reset a connection in the middle of %u reads of 1000", link.break_pm);
    return worsen(f, &link, how, err);
}

static enum dn_code reset_links(struct fault *f, struct dn_error *err)
{
    const struct net_link link = {.cut = true, .reset = true};

    return worsen(f, &link, "are reset and refused", err);
}

/* ---- what there is
 * ------------------------------------------------------------------------------------------ */

static const char *needs_packets(struct chaos_cluster *c)
{
    return c->sw != NULL
               ? NULL
               : "the proxied network carries bytes of connections, not packets: a byte stream cannot "
                 "lose, repeat or reorder a part without being corrupted";
}

static const char *needs_proxy(struct chaos_cluster *c)
{
    return c->proxy != NULL ? NULL : "only the proxied network has connections of its own to break";
}

static const char *needs_three(struct chaos_cluster *c)
{
    return c->o.nodes >= 3 ? NULL : "needs three nodes";
}

const struct nemesis NEMESES_NET[] = {
    {{"partition-one", "a node is cut off from all others"}, NEMESIS_NET, NULL, partition_one, NULL, heal},
    {{"isolate-leader", "the node that leads a group is cut off"},
     NEMESIS_NET,
     NULL,
     isolate_leader,
     NULL,
     heal},
    {{"partition-halves", "a minority and a majority do not reach each other"},
     NEMESIS_NET,
     needs_three,
     partition_halves,
     NULL,
     heal},
    {{"partition-one-way", "a node is heard and hears nothing, or the other way round"},
     NEMESIS_NET,
     NULL,
     partition_one_way,
     NULL,
     heal},
    {{"partition-ring", "each node reaches its neighbours only"},
     NEMESIS_NET,
     needs_three,
     partition_ring,
     NULL,
     heal},
    {{"flapping-link", "a node's links go off and on"}, NEMESIS_NET, NULL, flap, flap_turn, heal},
    {{"slow-link", "packets are 20 to 300 ms late"}, NEMESIS_NET, NULL, slow, NULL, heal},
    {{"narrow-link", "links carry 16 to 256 KiB/s"}, NEMESIS_NET, NULL, narrow, NULL, heal},
    {{"packet-loss", "2 to 30 % of packets are lost"}, NEMESIS_NET, needs_packets, lose, NULL, heal},
    {{"corrupt-wire", "bits are turned, with checksums that are right"},
     NEMESIS_NET,
     NULL,
     corrupt,
     NULL,
     heal},
    {{"duplicate", "packets come twice"}, NEMESIS_NET, needs_packets, duplicate, NULL, heal},
    {{"reorder", "packets overtake each other"}, NEMESIS_NET, needs_packets, reorder, NULL, heal},
    {{"break-connections", "connections are reset in the middle of a message"},
     NEMESIS_NET,
     needs_proxy,
     break_connections,
     NULL,
     heal},
    {{"reset-links", "connections are reset and refused"}, NEMESIS_NET, needs_proxy, reset_links, NULL, heal},
};
const unsigned NEMESES_NET_COUNT = sizeof NEMESES_NET / sizeof *NEMESES_NET;
