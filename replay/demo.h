/* Demo: three nodes, a live clickstream, recommendations on screen, and leaders that die (program
 * dunlin-demo). Private to the room. demo_cluster.c starts, kills and restarts node processes; demo_feed.c
 * publishes the clicks and remembers which were acknowledged; demo_view.c draws; main_demo.c runs the story.
 * One thread. */
#ifndef DN_REPLAY_DEMO_H
#define DN_REPLAY_DEMO_H

#include "base/error.h"
#include "client/client.h"

#include <dunlin/v1/dunlin.pb-c.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define DEMO_NODES 3
#define DEMO_GROUPS_MAX 8
#define DEMO_LINES 6 /* lines of the event log on screen */
#define DEMO_LIST 8  /* clicks and recommendations shown */
#define DEMO_TEXT 96

/* ---- cluster ------------------------------------------------------------------------------------------ */

struct demo_node {
    pid_t pid;    /* 0: not running */
    char api[32]; /* "127.0.0.1:port" */
    char config[256];
    char log[256];
    uint64_t killed_us;       /* when it was killed; 0: it was not */
    struct dn_client *client; /* for status and reads; NULL while down */
    bool status_known;
    uint64_t status_us; /* when the last status came */
    uint32_t leads;     /* groups it leads, by its own word */
    uint64_t applied;   /* sum over the shards */
    uint64_t age_us;
    bool age_known;
    uint64_t users;
};

struct demo_cluster {
    struct demo_node nodes[DEMO_NODES];
    const char *dunlind;
    const char *folder;
    uint64_t leaders[DEMO_GROUPS_MAX]; /* leader's node id by group, as last heard from a live node */
    uint32_t groups;
};

/* Picks free ports, writes the configurations into folder, starts the three processes. */
enum dn_code demo_cluster_start(struct demo_cluster *cluster, const char *dunlind, const char *folder,
                                struct dn_error *err);
enum dn_code demo_node_spawn(struct demo_cluster *cluster, unsigned i, struct dn_error *err);
/* SIGKILL, and waits for the process to be gone. */
void demo_node_kill(struct demo_cluster *cluster, unsigned i);
/* Notices processes that ended by another hand; true when node i was found dead now. */
bool demo_node_reap(struct demo_cluster *cluster, unsigned i);
/* Asks node i for its status; connects first where there is no connection. Errors leave status_known false.
 */
void demo_node_refresh(struct demo_cluster *cluster, unsigned i);
/* The node that leads the most groups, or -1 when no leader is known. */
int demo_cluster_leader(const struct demo_cluster *cluster);
/* True when every node is up, says it is ready, and every group has one leader. */
bool demo_cluster_ready(struct demo_cluster *cluster);
/* SIGTERM to all, SIGKILL after 5 s; returns how many ended with code 0. */
unsigned demo_cluster_stop(struct demo_cluster *cluster);

/* ---- feed --------------------------------------------------------------------------------------------- */

struct demo_feed;

/* Publishes events of the JSON-lines file (users and items are taken from it, times are made now) at `rate`
 * clicks a second. */
enum dn_code demo_feed_create(struct demo_cluster *cluster, const char *events_path, unsigned rate,
                              struct demo_feed **ret, struct dn_error *err);
void demo_feed_destroy(struct demo_feed *feed);
/* Sends what is due, takes in answers, retries what failed at the next node. Waits at most 1 ms. */
void demo_feed_turn(struct demo_feed *feed);
/* Stops sending new clicks and waits (bounded by timeout_ms) until all sent ones are acknowledged; false
 * when some are still open. */
bool demo_feed_finish(struct demo_feed *feed, unsigned timeout_ms);
/* Publishes one click for a user through node i and waits for it; fills the token (malloc'ed). */
enum dn_code demo_feed_click(struct demo_feed *feed, unsigned node, const char *user, const char *item,
                             ProtobufCBinaryData *ret_token, struct dn_error *err);

struct demo_feed_stats {
    uint64_t sent, acknowledged, retried_batches;
    uint64_t duplicates;   /* answered DUPLICATE: a retry of ours that had been counted already */
    uint64_t refused;      /* any other outcome but ACCEPTED */
    uint64_t last_ack_us;  /* dn_monotonic_us() of the newest acknowledgement */
    uint64_t worst_gap_us; /* longest time without one since the last reset */
};
void demo_feed_stats(const struct demo_feed *feed, struct demo_feed_stats *ret);
void demo_feed_reset_gap(struct demo_feed *feed);

/* Reads every user's session at node i (LINEARIZABLE) and compares with what was acknowledged. */
struct demo_check {
    uint64_t users, events, missing, twice, unread;
};
enum dn_code demo_feed_check(struct demo_feed *feed, unsigned node, struct demo_check *ret,
                             struct dn_error *err);

/* ---- view --------------------------------------------------------------------------------------------- */

struct demo_screen {
    bool terminal;
    double seconds, total;
    double clicks_per_s;
    struct demo_feed_stats feed;
    const struct demo_cluster *cluster;
    char user[DEMO_TEXT];
    char clicks[DEMO_LIST][DEMO_TEXT];
    unsigned click_count;
    char before[DEMO_LIST][DEMO_TEXT]; /* recommendations before the last click */
    char after[DEMO_LIST][DEMO_TEXT];
    unsigned before_count, after_count;
    char answered_by[DEMO_TEXT];
    char lines[DEMO_LINES][160];
    unsigned line_count;
};
/* Adds a line to the screen's log; prints it at once when not on a terminal. */
void demo_say(struct demo_screen *screen, const char *format, ...) __attribute__((format(printf, 2, 3)));
void demo_draw(const struct demo_screen *screen);

#endif
