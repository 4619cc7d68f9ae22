/* Nemeses of the stream itself: its broker ended, killed, paused, out of reach; its topic given partitions.
 */
#include "chaos/nemesis_internal.h"

static const struct net_link CUT = {.cut = true};

static const char *no_broker(struct chaos_cluster *c)
{
    return chaos_cluster_topic(c) == NULL ? "there is no broker: it needs --stream kafka" : NULL;
}

static const char *no_broker_link(struct chaos_cluster *c)
{
    const char *why = no_broker(c);
    return why != NULL     ? why
           : c->sw == NULL ? "nodes reach the broker directly: it needs network namespaces"
                           : NULL;
}

static enum dn_code must_run(struct fault *f, struct dn_error *err)
{
    return cluster_has_broker(f->c) ? DN_OK : dn_fail(err, DN_PRECONDITION, "the broker does not run");
}

static enum dn_code stop_broker(struct fault *f, struct dn_error *err)
{
    enum dn_code code = must_run(f, err);

    if (code != DN_OK)
        return code;
    cluster_node_stop(f->c, CLUSTER_BROKER);
    fault_say(f, "asked the broker to leave");
    return DN_OK;
}

static enum dn_code kill_broker(struct fault *f, struct dn_error *err)
{
    enum dn_code code = must_run(f, err);

    if (code != DN_OK)
        return code;
    cluster_node_kill(f->c, CLUSTER_BROKER);
    fault_say(f, "killed the broker");
    return DN_OK;
}

static enum dn_code start_broker(struct fault *f, struct dn_error *err)
{
    fault_say(f, "started the broker again");
    return cluster_node_start(f->c, CLUSTER_BROKER, err);
}

static enum dn_code pause_broker(struct fault *f, struct dn_error *err)
{
    enum dn_code code = must_run(f, err);

    if (code != DN_OK)
        return code;
    cluster_node_pause(f->c, CLUSTER_BROKER, true);
    fault_say(f, "paused the broker");
    return DN_OK;
}

static enum dn_code continue_broker(struct fault *f, struct dn_error *err)
{
    (void)err;
    cluster_node_pause(f->c, CLUSTER_BROKER, false);
    fault_say(f, "continued the broker");
    return DN_OK;
}

/* A leader, or all nodes: they reach each other and their clients, and lead on. */
static enum dn_code cut_broker(struct fault *f, struct dn_error *err)
{
    bool all = fault_draw(f, 3) == 0;
    unsigned node = fault_by_leader(f, true);

    if (!all && node == 0)
        return fault_no_one(err);
    f->node = all ? 0 : node;
    for (unsigned i = 1; i <= f->c->count; i++) {
        if (all || i == node) {
            cluster_link_set(f->c, i, NET_BROKER, &CUT);
            cluster_link_set(f->c, NET_BROKER, i, &CUT);
        }
    }
    if (all)
        fault_say(f, "cut the broker off from all nodes");
    else
        fault_say(f, "cut the broker off from node %u, a leader", node);
    return DN_OK;
}

static enum dn_code heal_broker(struct fault *f, struct dn_error *err)
{
    (void)err;
    cluster_links_clear(f->c);
    fault_say(f, "all links are whole");
    return DN_OK;
}

static enum dn_code grow_topic(struct fault *f, struct dn_error *err)
{
    enum dn_code code = must_run(f, err);

    f->done = true;
    if (code == DN_OK)
        code = chaos_topic_grow(&f->c->topic, err);
    if (code == DN_OK)
        fault_say(f, "the topic has %u partitions", atomic_load(&f->c->topic.partitions));
    return code;
}

static enum dn_code nothing(struct fault *f, struct dn_error *err)
{
    (void)f;
    (void)err;
    return DN_OK;
}

const struct nemesis NEMESES_STREAM[] = {
    {{"broker-restart", "the stream's broker leaves on SIGTERM and comes back"},
     NEMESIS_STREAM,
     no_broker,
     stop_broker,
     NULL,
     start_broker},
    {{"broker-kill", "kill -9 of the stream's broker"},
     NEMESIS_STREAM,
     no_broker,
     kill_broker,
     NULL,
     start_broker},
    {{"broker-pause", "SIGSTOP to the stream's broker, then SIGCONT"},
     NEMESIS_STREAM,
     no_broker,
     pause_broker,
     NULL,
     continue_broker},
    {{"broker-cut", "a leader, or every node, does not reach the stream's broker"},
     NEMESIS_STREAM,
     no_broker_link,
     cut_broker,
     NULL,
     heal_broker},
    {{"topic-grow", "the stream's topic gets more partitions"},
     NEMESIS_STREAM,
     no_broker,
     grow_topic,
     NULL,
     nothing},
};
const unsigned NEMESES_STREAM_COUNT = sizeof NEMESES_STREAM / sizeof *NEMESES_STREAM;
