/* Workloads: what clients do, by name; one step is one operation. */
#ifndef DN_CHAOS_WORKLOAD_H
#define DN_CHAOS_WORKLOAD_H

#include "chaos/workload_client.h"
#include "chaos/workload_users.h"

#define WORKLOAD_ITEMS 100 /* catalogue items "c-1" to "c-100" */

struct chaos_workload {
    const char *name;
    const char *text;    /* for people, one line */
    unsigned sessions;   /* of 100 operations; the others are the catalogue's */
    const char *nemeses; /* the default of --nemesis with this workload */
    const char *missing; /* why it cannot run yet; NULL: it can */
};

/* All there are, in the order of --help; the first is the default. */
const struct chaos_workload *chaos_workload_list(unsigned *ret_count);
const struct chaos_workload *chaos_workload_find(const char *name); /* NULL: none */

/* What all clients share. */
struct workload_shared {
    const struct chaos_workload *workload;
    struct workload_users *users;
    atomic_ullong last_value; /* of the catalogue's items */
};

/* A client's own; starts as zeros. */
struct workload_own {
    unsigned favourite;                               /* the client's number */
    struct workload_tokens users[WORKLOAD_SLOTS + 1]; /* by slot; the last for users in none */
    struct workload_tokens items[WORKLOAD_ITEMS + 1];
};

/* One operation at this node. */
void chaos_workload_step(struct workload_shared *shared, struct workload_own *own,
                         struct workload_client *client, unsigned node);
/* Asks this node for a user or an item as of now, until it answers (some times). */
bool chaos_workload_final_user(struct workload_client *client, unsigned node, uint64_t user);
bool chaos_workload_final_item(struct workload_client *client, unsigned node, uint64_t item);
void chaos_workload_own_free(struct workload_own *own);

#endif
