#include "chaos/workload_users.h"

#include "base/error.h"

#include <pthread.h>
#include <stdlib.h>

#define JITTER_MS 1500 /* how far an event's time lies before now; far less than the allowed lateness */
#define AFTER_ERASE 6  /* events of a user that was erased */
#define SAME_TIME_OF 3 /* one event in so many has the time of the one before it */
#define FAVOURITES 4   /* users that a client mostly works on */
#define FAVOURED 70    /* of 100 operations */
#define OLD_USER_OF 16 /* one read in so many is of a user of before */

struct slot {
    uint64_t user;
    unsigned events, events_max;
    uint32_t shard;
    int64_t last_ms;
};

struct workload_users {
    pthread_mutex_t lock;
    struct slot slots[WORKLOAD_SLOTS];
    uint64_t last_user, last_event;
    struct workload_plan again[WORKLOAD_AGAIN_MAX]; /* a ring */
    size_t again_first, again_count;
};

static void slot_renew(struct workload_users *users, struct slot *slot)
{
    *slot = (struct slot){.user = ++users->last_user, .events_max = WORKLOAD_USER_EVENTS};
}

struct workload_users *workload_users_create(void)
{
    struct workload_users *users = calloc(1, sizeof *users);
    DN_ASSERT(users != NULL); /* a test program: nothing to go on with */
    pthread_mutex_init(&users->lock, NULL);
    for (unsigned i = 0; i < WORKLOAD_SLOTS; i++)
        slot_renew(users, &users->slots[i]);
    return users;
}

void workload_users_destroy(struct workload_users *users)
{
    if (!users)
        return;
    pthread_mutex_destroy(&users->lock);
    free(users);
}

/* Some events share their time: their order is then that of their arrival, the same everywhere. */
static int64_t event_time(const struct slot *slot, struct workload_random *random, int64_t now_ms)
{
    if (slot->last_ms > now_ms - JITTER_MS && workload_random_one(random, 1, SAME_TIME_OF))
        return slot->last_ms;
    return now_ms - (int64_t)workload_random_below(random, JITTER_MS);
}

static unsigned slot_pick(struct workload_random *random, unsigned favourite)
{
    if (!workload_random_one(random, FAVOURED, 100))
        return (unsigned)workload_random_below(random, WORKLOAD_SLOTS);
    return (favourite * FAVOURITES + (unsigned)workload_random_below(random, FAVOURITES)) % WORKLOAD_SLOTS;
}

void workload_users_new_events(struct workload_users *users, struct workload_random *random,
                               unsigned favourite, int64_t now_ms, struct workload_plan *ret)
{
    pthread_mutex_lock(&users->lock);
    unsigned at = slot_pick(random, favourite);
    struct slot *slot = &users->slots[at];
    size_t count = 1 + (size_t)workload_random_below(random, WORKLOAD_BATCH_MAX);
    if (slot->events + count > slot->events_max)
        slot_renew(users, slot);
    *ret = (struct workload_plan){.user = slot->user, .slot = at, .shard = slot->shard, .count = count};
    for (size_t i = 0; i < count; i++) {
        int64_t time_ms = event_time(slot, random, now_ms);
        ret->events[i] =
            (struct chaos_event){.id = ++users->last_event, .time_ms = time_ms, .outcome = -1, .offset = -1};
        slot->last_ms = time_ms;
    }
    slot->events += (unsigned)count;
    pthread_mutex_unlock(&users->lock);
}

bool workload_users_again(struct workload_users *users, struct workload_plan *ret)
{
    pthread_mutex_lock(&users->lock);
    bool found = users->again_count > 0;
    if (found) {
        *ret = users->again[users->again_first];
        users->again_first = (users->again_first + 1) % WORKLOAD_AGAIN_MAX;
        users->again_count--;
        if (ret->slot < WORKLOAD_SLOTS && users->slots[ret->slot].user != ret->user)
            ret->slot = WORKLOAD_SLOTS;
    }
    pthread_mutex_unlock(&users->lock);
    return found;
}

void workload_users_send_again(struct workload_users *users, const struct workload_plan *plan)
{
    if (plan->attempts + 1 >= WORKLOAD_ATTEMPTS_MAX)
        return;
    pthread_mutex_lock(&users->lock);
    if (users->again_count == WORKLOAD_AGAIN_MAX) {
        users->again_first = (users->again_first + 1) % WORKLOAD_AGAIN_MAX;
        users->again_count--;
    }
    struct workload_plan *last =
        &users->again[(users->again_first + users->again_count++) % WORKLOAD_AGAIN_MAX];
    *last = *plan;
    last->attempts++;
    pthread_mutex_unlock(&users->lock);
}

uint64_t workload_users_pick(struct workload_users *users, struct workload_random *random, unsigned favourite,
                             unsigned *ret_slot)
{
    pthread_mutex_lock(&users->lock);
    *ret_slot = slot_pick(random, favourite);
    uint64_t user = users->slots[*ret_slot].user;
    if (workload_random_one(random, 1, OLD_USER_OF)) {
        user = 1 + workload_random_below(random, users->last_user);
        *ret_slot = WORKLOAD_SLOTS;
    }
    pthread_mutex_unlock(&users->lock);
    return user;
}

void workload_users_shard(struct workload_users *users, unsigned slot, uint64_t user, uint32_t shard)
{
    pthread_mutex_lock(&users->lock);
    if (slot < WORKLOAD_SLOTS && users->slots[slot].user == user)
        users->slots[slot].shard = shard;
    pthread_mutex_unlock(&users->lock);
}

void workload_users_erased(struct workload_users *users, unsigned slot, uint64_t user)
{
    pthread_mutex_lock(&users->lock);
    if (slot < WORKLOAD_SLOTS && users->slots[slot].user == user) {
        struct slot *of = &users->slots[slot];
        unsigned most = of->events + AFTER_ERASE;
        of->events_max = most < of->events_max ? most : of->events_max;
    }
    pthread_mutex_unlock(&users->lock);
}

uint64_t workload_users_count(struct workload_users *users)
{
    pthread_mutex_lock(&users->lock);
    uint64_t count = users->last_user;
    pthread_mutex_unlock(&users->lock);
    return count;
}
