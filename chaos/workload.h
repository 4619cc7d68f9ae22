/* Workloads: what clients do, by name; one step is one operation. */
#ifndef DN_CHAOS_WORKLOAD_H
#define DN_CHAOS_WORKLOAD_H

#include "chaos/workload_client.h"
#include "chaos/workload_users.h"

#define WORKLOAD_ITEMS 100 /* catalogue items that are worked on at the same time */

struct chaos_workload {
    const char *name;
    const char *text;    /* for people, one line */
    unsigned sessions;   /* of 100 operations; the others are the catalogue's */
    const char *nemeses; /* the default of --nemesis with this workload */
    bool stream;         /* nodes read a stream meanwhile (workload_stream.h) */
};

/* All there are, in the order of --help; the first is the default. */
const struct chaos_workload *chaos_workload_list(unsigned *ret_count);
const struct chaos_workload *chaos_workload_find(const char *name); /* NULL: none */

/* What all clients share. */
struct workload_shared {
    const struct chaos_workload *workload;
    struct workload_users *users;
    atomic_ullong last_value; /* of the catalogue's items */
    /* The items "c-N" worked on now. One whose write was not answered is left alone from then on, and the
     * next number takes its place: an open delete would excuse its absence for ever. Begun by
     * chaos_workload_begin. */
    atomic_ullong items[WORKLOAD_ITEMS];
    atomic_ullong last_item;
};

void chaos_workload_begin(struct workload_shared *shared);

/* A client's own; starts as zeros. */
struct workload_own {
    unsigned favourite;                               /* the client's number */
    struct workload_tokens users[WORKLOAD_SLOTS + 1]; /* by slot; the last for users in none */
    struct workload_tokens items[WORKLOAD_ITEMS];     /* by place */
};

/* One operation at this node. */
void chaos_workload_step(struct workload_shared *shared, struct workload_own *own,
                         struct workload_client *client, unsigned node);
/* Asks this node for a user or an item as of now, until it answers (some times). */
bool chaos_workload_final_user(struct workload_client *client, unsigned node, uint64_t user);
bool chaos_workload_final_item(struct workload_client *client, unsigned node, uint64_t item);
void chaos_workload_own_free(struct workload_own *own);

#endif
