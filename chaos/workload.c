#include "chaos/workload.h"

#include "base/clock.h"

#include <string.h>

/* Shares, of 1000 operations on sessions and on the catalogue. */
#define SESSIONS_READ 500
#define SESSIONS_ERASE 3
#define CATALOG_READ 300
#define CATALOG_SIMILAR 300
#define CATALOG_DELETE 80
#define AGAIN_OF 2       /* one publish in so many sends events again, when some wait for that */
#define REPEAT_OF 25     /* one publish in so many that was answered is sent again all the same */
#define TOKEN_SHARE 80   /* of 100 reads: a token is given when there is one */
#define FINAL_ATTEMPTS 8 /* of a final read */

static const struct chaos_workload workloads[] = {
    {"mixed", "sessions and the catalogue, and events in a stream", 75, "all", true},
    {"sessions", "publish, read at all levels and nodes with and without tokens, repeat, erase", 100, "all",
     false},
    {"catalogue", "upserts and deletes against Get and Similar", 0, "all", false},
    {"membership", "mixed, while nodes join, leave and are replaced", 75, "grow,shrink,wipe-and-replace",
     true},
    {"ingest", "sessions, and events in a stream that nodes read: a file, or a topic (--stream)", 100, "all",
     true},
};

const struct chaos_workload *chaos_workload_list(unsigned *ret_count)
{
    *ret_count = sizeof workloads / sizeof workloads[0];
    return workloads;
}

const struct chaos_workload *chaos_workload_find(const char *name)
{
    for (size_t i = 0; i < sizeof workloads / sizeof workloads[0]; i++)
        if (strcmp(workloads[i].name, name) == 0)
            return &workloads[i];
    return NULL;
}

static enum chaos_level level_pick(struct workload_random *random)
{
    uint64_t at = workload_random_below(random, 100);
    return at < 40 ? CHAOS_LOCAL : at < 75 ? CHAOS_SESSION : CHAOS_LINEARIZABLE;
}

/* ---- sessions --------------------------------------------------------------------------------------- */

static void step_publish(struct workload_shared *shared, struct workload_own *own,
                         struct workload_client *client, unsigned node)
{
    struct workload_plan plan;
    if (!workload_random_one(&client->random, 1, AGAIN_OF) || !workload_users_again(shared->users, &plan))
        workload_users_new_events(shared->users, &client->random, own->favourite, dn_wall_ms(), &plan);
    struct workload_tokens *tokens = &own->users[plan.slot];
    workload_tokens_of(tokens, plan.user);
    enum chaos_type type =
        workload_publish(client, node, plan.user, plan.events, plan.count, plan.shard, tokens);
    if (type != CHAOS_OK || workload_random_one(&client->random, 1, REPEAT_OF))
        workload_users_send_again(shared->users, &plan);
}

static void step_read(struct workload_shared *shared, struct workload_own *own,
                      struct workload_client *client, unsigned node)
{
    unsigned slot;
    uint32_t shard = 0;
    uint64_t user = workload_users_pick(shared->users, &client->random, own->favourite, &slot);
    workload_tokens_of(&own->users[slot], user);
    bool with_token = workload_random_one(&client->random, TOKEN_SHARE, 100);
    if (workload_read(client, node, user, level_pick(&client->random), with_token, &own->users[slot],
                      &shard) == CHAOS_OK)
        workload_users_shard(shared->users, slot, user, shard);
}

static void step_erase(struct workload_shared *shared, const struct workload_own *own,
                       struct workload_client *client, unsigned node)
{
    unsigned slot;
    uint64_t user = workload_users_pick(shared->users, &client->random, own->favourite, &slot);
    workload_users_erased(shared->users, slot, user);
    workload_erase(client, node, user);
}

static void step_sessions(struct workload_shared *shared, struct workload_own *own,
                          struct workload_client *client, unsigned node)
{
    uint64_t at = workload_random_below(&client->random, 1000);
    if (at < SESSIONS_READ)
        step_read(shared, own, client, node);
    else if (at < SESSIONS_READ + SESSIONS_ERASE)
        step_erase(shared, own, client, node);
    else
        step_publish(shared, own, client, node);
}

/* ---- catalogue -------------------------------------------------------------------------------------- */

void chaos_workload_begin(struct workload_shared *shared)
{
    for (unsigned place = 0; place < WORKLOAD_ITEMS; place++)
        atomic_store(&shared->items[place], place + 1);
    atomic_store(&shared->last_item, WORKLOAD_ITEMS);
}

static void step_catalogue(struct workload_shared *shared, struct workload_own *own,
                           struct workload_client *client, unsigned node)
{
    uint64_t at = workload_random_below(&client->random, 1000);
    uint64_t place = workload_random_below(&client->random, WORKLOAD_ITEMS);
    unsigned long long item = atomic_load(&shared->items[place]);
    enum chaos_type type = CHAOS_OK;
    bool with_token = workload_random_one(&client->random, TOKEN_SHARE, 100);
    struct workload_tokens *tokens = &own->items[place];
    workload_tokens_of(tokens, item);
    if (at < CATALOG_READ)
        workload_get(client, node, item, level_pick(&client->random), with_token, tokens);
    else if (at < CATALOG_READ + CATALOG_SIMILAR)
        workload_similar(client, node, item, level_pick(&client->random), with_token, tokens);
    else if (at < CATALOG_READ + CATALOG_SIMILAR + CATALOG_DELETE)
        type = workload_delete(client, node, item);
    else
        type = workload_upsert(client, node, item, atomic_fetch_add(&shared->last_value, 1) + 1, tokens);
    if (type == CHAOS_INFO) /* another client may have been faster: then its number stays */
        atomic_compare_exchange_strong(&shared->items[place], &item,
                                       atomic_fetch_add(&shared->last_item, 1) + 1);
}

void chaos_workload_step(struct workload_shared *shared, struct workload_own *own,
                         struct workload_client *client, unsigned node)
{
    if (workload_random_one(&client->random, shared->workload->sessions, 100))
        step_sessions(shared, own, client, node);
    else
        step_catalogue(shared, own, client, node);
}

void chaos_workload_own_free(struct workload_own *own)
{
    for (size_t i = 0; i < sizeof own->users / sizeof own->users[0]; i++)
        workload_tokens_free(&own->users[i]);
    for (size_t i = 0; i < sizeof own->items / sizeof own->items[0]; i++)
        workload_tokens_free(&own->items[i]);
}

/* ---- the end ---------------------------------------------------------------------------------------- */

bool chaos_workload_final_user(struct workload_client *client, unsigned node, uint64_t user)
{
    uint32_t shard;
    for (int i = 0; i < FINAL_ATTEMPTS; i++)
        if (workload_read(client, node, user, CHAOS_LINEARIZABLE, false, NULL, &shard) == CHAOS_OK)
            return true;
    return false;
}

bool chaos_workload_final_item(struct workload_client *client, unsigned node, uint64_t item)
{
    for (int i = 0; i < FINAL_ATTEMPTS; i++)
        if (workload_get(client, node, item, CHAOS_LINEARIZABLE, false, NULL) == CHAOS_OK &&
            workload_similar(client, node, item, CHAOS_LINEARIZABLE, false, NULL) == CHAOS_OK)
            return true;
    return false;
}
