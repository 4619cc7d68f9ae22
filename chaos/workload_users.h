/* The users that clients work on, together: which exist now, how many events each has, and which events are
 * to be sent again. Any thread (it locks).
 *
 * A user gets at most WORKLOAD_USER_EVENTS events and is then left alone for good, so that no event ever
 * leaves the list of a session (WORKLOAD_SESSION_YAML sets its bound above that): an event that is missing is
 * lost. */
#ifndef DN_CHAOS_WORKLOAD_USERS_H
#define DN_CHAOS_WORKLOAD_USERS_H

#include "chaos/history.h"
#include "chaos/workload_random.h"

#define WORKLOAD_SLOTS 24 /* users at a time */
#define WORKLOAD_USER_EVENTS                                                                                 \
    60 /* distinct events of a user over its life; sent again, an event counts once */
#define WORKLOAD_SESSION_YAML "session:\n  events_per_user: 200\n"
#define WORKLOAD_BATCH_MAX 4 /* events of one publish; at most WORKLOAD_EVENTS_MAX */
#define WORKLOAD_AGAIN_MAX                                                                                   \
    512 /* publishes that wait to be sent again; a new one beyond takes the oldest's place */
#define WORKLOAD_ATTEMPTS_MAX 5 /* of one publish without an answer */

struct workload_users;

struct workload_users *workload_users_create(void);
void workload_users_destroy(struct workload_users *users); /* NULL allowed */

/* A publish to be made: new events of one of the users, or events that were sent before. */
struct workload_plan {
    uint64_t user;
    unsigned slot;  /* WORKLOAD_SLOTS: of a user who is in none any more */
    uint32_t shard; /* 0: not known */
    unsigned attempts;
    size_t count;
    struct chaos_event events[WORKLOAD_BATCH_MAX];
};

/* New events, of now (now_ms: wall clock) and a little before. favourite: a number of the client's own; it
 * mostly works on few of the users, each of whom has several such clients: so that a client comes back to
 * what it saw. */
void workload_users_new_events(struct workload_users *users, struct workload_random *random,
                               unsigned favourite, int64_t now_ms, struct workload_plan *ret);
/* The publish that waits longest to be sent again; false: none does. */
bool workload_users_again(struct workload_users *users, struct workload_plan *ret);
/* It was tried once more and is to be sent again; it is dropped after WORKLOAD_ATTEMPTS_MAX. */
void workload_users_send_again(struct workload_users *users, const struct workload_plan *plan);

/* One to look at: mostly of those of now. *ret_slot as in the plan. */
uint64_t workload_users_pick(struct workload_users *users, struct workload_random *random, unsigned favourite,
                             unsigned *ret_slot);
/* What a read told. */
void workload_users_shard(struct workload_users *users, unsigned slot, uint64_t user, uint32_t shard);
/* The user is being erased: it goes on for a few events more. */
void workload_users_erased(struct workload_users *users, unsigned slot, uint64_t user);
/* Users 1 to this exist. */
uint64_t workload_users_count(struct workload_users *users);

#endif
