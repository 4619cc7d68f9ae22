/* Nemeses of processes: killed, stopped, paused, restarted. */
#include "chaos/nemesis_internal.h"

#include <stdio.h>

/* ---- kill ------------------------------------------------------------------------------------------------
 */

static enum dn_code kill_one(struct fault *f, unsigned node, const char *what, struct dn_error *err)
{
    f->hit_count = 0; /* its end starts whom it hit */
    if (node == 0)
        return fault_no_one(err);
    f->node = node;
    f->hit[0] = node;
    f->hit_count = 1;
    fault_say(f, "killed node %u%s", node, what);
    cluster_node_kill(f->c, node);
    return DN_OK;
}

static enum dn_code kill_leader(struct fault *f, struct dn_error *err)
{
    return kill_one(f, fault_by_leader(f, true), ", a leader", err);
}

static enum dn_code kill_follower(struct fault *f, struct dn_error *err)
{
    return kill_one(f, fault_by_leader(f, false), "", err);
}

static enum dn_code kill_all(struct fault *f, struct dn_error *err)
{
    (void)err;
    fault_shuffle(f);
    for (unsigned i = 0; i < f->hit_count; i++)
        cluster_node_kill(f->c, f->hit[i]);
    fault_say(f, "killed all %u nodes", f->hit_count);
    return DN_OK;
}

static enum dn_code start_hit(struct fault *f, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    for (unsigned i = 0; code == DN_OK && i < f->hit_count; i++)
        code = cluster_node_start(f->c, f->hit[i], err);
    fault_say(f, "started %u again", f->hit_count);
    return code;
}

/* ---- pause ------------------------------------------------------------------------------------------------
 */

static enum dn_code pause_hit(struct fault *f, struct dn_error *err)
{
    if (f->hit_count == 0)
        return dn_fail(err, DN_PRECONDITION, "too few nodes run");
    f->node = f->hit_count == 1 ? f->hit[0] : 0;
    for (unsigned i = 0; i < f->hit_count; i++)
        cluster_node_pause(f->c, f->hit[i], true);
    fault_say(f, "paused %u, node %u first", f->hit_count, f->hit[0]);
    return DN_OK;
}

static enum dn_code pause_one(struct fault *f, struct dn_error *err)
{
    f->hit[0] = fault_any(f);
    f->hit_count = f->hit[0] != 0;
    return pause_hit(f, err);
}

static enum dn_code pause_leader(struct fault *f, struct dn_error *err)
{
    f->hit[0] = fault_by_leader(f, true);
    f->hit_count = f->hit[0] != 0;
    return f->hit_count == 0 ? fault_no_one(err) : pause_hit(f, err);
}

static enum dn_code pause_minority(struct fault *f, struct dn_error *err)
{
    fault_minority(f);
    return pause_hit(f, err);
}

static enum dn_code continue_hit(struct fault *f, struct dn_error *err)
{
    (void)err;
    for (unsigned i = 0; i < f->hit_count; i++)
        cluster_node_pause(f->c, f->hit[i], false);
    fault_say(f, "continued %u", f->hit_count);
    return DN_OK;
}

/* ---- restart
 * ------------------------------------------------------------------------------------------------ */

static enum dn_code stop_one(struct fault *f, struct dn_error *err)
{
    f->node = fault_any(f);
    if (f->node == 0)
        return dn_fail(err, DN_PRECONDITION, "no node runs");
    f->hit_count = 1;
    fault_say(f, "asked node %u to leave", f->node);
    cluster_node_stop(f->c, f->node);
    return DN_OK;
}

static enum dn_code roll(struct fault *f, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    fault_shuffle(f);
    for (unsigned i = 0; code == DN_OK && i < f->hit_count; i++) {
        cluster_node_stop(f->c, f->hit[i]);
        code = cluster_node_start(f->c, f->hit[i], err);
        if (code == DN_OK)
            code = cluster_wait_ready(f->c, CLUSTER_READY_MS, err);
    }
    fault_say(f, "restarted %u nodes one after the other", f->hit_count);
    f->done = true;
    return code;
}

const struct nemesis NEMESES_PROCESS[] = {
    {{"kill-leader", "kill -9 of the node that leads a group"},
     NEMESIS_PROCESS,
     NULL,
     kill_leader,
     NULL,
     start_hit},
    {{"kill-follower", "kill -9 of a node that does not lead a group"},
     NEMESIS_PROCESS,
     NULL,
     kill_follower,
     NULL,
     start_hit},
    {{"kill-all", "kill -9 of every node"}, NEMESIS_PROCESS, NULL, kill_all, NULL, start_hit},
    {{"pause-one", "SIGSTOP to a node, then SIGCONT"}, NEMESIS_PROCESS, NULL, pause_one, NULL, continue_hit},
    {{"pause-leader", "SIGSTOP to the node that leads a group, then SIGCONT"},
     NEMESIS_PROCESS,
     NULL,
     pause_leader,
     NULL,
     continue_hit},
    {{"pause-minority", "SIGSTOP to fewer than half of the nodes, then SIGCONT"},
     NEMESIS_PROCESS,
     NULL,
     pause_minority,
     NULL,
     continue_hit},
    {{"restart", "a node leaves on SIGTERM and comes back"},
     NEMESIS_PROCESS,
     NULL,
     stop_one,
     NULL,
     start_hit},
    {{"rolling-restart", "every node in turn leaves on SIGTERM and comes back"},
     NEMESIS_PROCESS,
     NULL,
     roll,
     NULL,
     start_hit},
};
const unsigned NEMESES_PROCESS_COUNT = sizeof NEMESES_PROCESS / sizeof *NEMESES_PROCESS;
