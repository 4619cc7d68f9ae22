/* A table with open addressing, never more than half full; it only grows. */
#include "node/replay.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS_FIRST 1024u

struct slot {
    struct dn_hash128 user;
    char *id; /* NULL: free */
};

struct dn_replay_ids {
    struct slot *slots;
    size_t slot_count; /* a power of two */
    size_t count;
};

static struct slot *slot_of(struct slot *slots, size_t slot_count, struct dn_hash128 user)
{
    size_t at = (size_t)user.low & (slot_count - 1); /* a keyed hash: nobody chooses it */

    while (slots[at].id != NULL && !dn_hash128_equal(slots[at].user, user))
        at = (at + 1) & (slot_count - 1);
    return &slots[at];
}

struct dn_replay_ids *dn_replay_ids_create(void)
{
    struct dn_replay_ids *ids = calloc(1, sizeof(*ids));

    if (ids == NULL)
        return NULL;
    ids->slots = calloc(SLOTS_FIRST, sizeof(*ids->slots));
    ids->slot_count = SLOTS_FIRST;
    if (ids->slots != NULL)
        return ids;
    free(ids);
    return NULL;
}

void dn_replay_ids_destroy(struct dn_replay_ids *ids)
{
    if (ids == NULL)
        return;
    for (size_t i = 0; i < ids->slot_count; i++)
        free(ids->slots[i].id);
    free(ids->slots);
    free(ids);
}

static bool grow(struct dn_replay_ids *ids)
{
    struct slot *slots = calloc(2 * ids->slot_count, sizeof(*slots));

    if (slots == NULL)
        return false;
    for (size_t i = 0; i < ids->slot_count; i++)
        if (ids->slots[i].id != NULL)
            *slot_of(slots, 2 * ids->slot_count, ids->slots[i].user) = ids->slots[i];
    free(ids->slots);
    ids->slots = slots;
    ids->slot_count *= 2;
    return true;
}

bool dn_replay_ids_add(struct dn_replay_ids *ids, struct dn_hash128 user, const char *id, size_t length)
{
    if (slot_of(ids->slots, ids->slot_count, user)->id != NULL)
        return true;
    if (2 * (ids->count + 1) > ids->slot_count && !grow(ids))
        return false;
    struct slot *slot = slot_of(ids->slots, ids->slot_count, user);
    slot->id = strndup(id, length);
    slot->user = user;
    ids->count += slot->id != NULL;
    return slot->id != NULL;
}

const char *dn_replay_ids_find(const struct dn_replay_ids *ids, struct dn_hash128 user)
{
    return slot_of(ids->slots, ids->slot_count, user)->id;
}
