/* Tombstones: who asked to be forgotten, up to when. Writer only.
 *
 * Each request has one, so that its repeat is known and harmless; the newest of a user reaches furthest. They
 * are dropped in log order, a long time after the time they reach to (core.h, invariant 5c). */
#include "base/error.h"
#include "session/core.h"

#include <string.h>

static bool same_user(const struct dn_core *core, uint32_t id, const void *key)
{
    return dn_hash128_equal(core->tombstones.slots[id].user, *(const struct dn_hash128 *)key);
}

static bool user_hash_of(const struct dn_core *core, uint32_t id, uint64_t *ret_hash)
{
    *ret_hash = dn_user_hash(core->tombstones.slots[id].user);
    return true;
}

void dn_tombstones_init(struct dn_core *core)
{
    core->tombstones.free = core->tombstones.head = core->tombstones.tail = DN_ID_NONE;
    dn_idtable_init(&core->tombstones.table, core, user_hash_of, NULL);
}

static uint32_t newest(const struct dn_core *core, struct dn_hash128 user)
{
    if (core->tombstones.count == 0) {
        return DN_ID_NONE;
    }
    return dn_idtable_find(&core->tombstones.table, dn_user_hash(user), same_user, &user);
}

int64_t dn_tombstone_until(const struct dn_core *core, struct dn_hash128 user)
{
    uint32_t at = newest(core, user);
    return at == DN_ID_NONE ? -1 : core->tombstones.slots[at].until_ms;
}

const struct dn_tombstone *dn_tombstone_find(const struct dn_core *core, struct dn_hash128 user,
                                             uint64_t request_id)
{
    const struct dn_tombstone *slots = core->tombstones.slots;
    for (uint32_t at = newest(core, user); at != DN_ID_NONE; at = slots[at].older) {
        if (slots[at].request_id == request_id) {
            return &slots[at];
        }
    }
    return NULL;
}

/* Takes out the oldest of a user's chain. */
static void remove_oldest(struct dn_core *core, struct dn_hash128 user)
{
    struct dn_tombstones *all = &core->tombstones;
    uint32_t after = DN_ID_NONE, at = newest(core, user);
    while (all->slots[at].older != DN_ID_NONE) {
        after = at;
        at = all->slots[at].older;
    }
    struct dn_tombstone *gone = &all->slots[at];
    core->sum -= dn_tombstone_hash(gone);
    if (after != DN_ID_NONE) {
        all->slots[after].older = DN_ID_NONE;
    } else {
        dn_idtable_remove(&all->table, dn_user_hash(user), at);
    }
    if (gone->previous != DN_ID_NONE) {
        all->slots[gone->previous].next = gone->next;
    } else {
        all->head = gone->next;
    }
    if (gone->next != DN_ID_NONE) {
        all->slots[gone->next].previous = gone->previous;
    } else {
        all->tail = gone->previous;
    }
    gone->next = all->free;
    all->free = at;
    all->count--;
}

bool dn_tombstone_drop(struct dn_core *core, int64_t before_ms)
{
    struct dn_tombstones *all = &core->tombstones;
    uint32_t at = all->head;
    for (uint32_t looked = 1; at != DN_ID_NONE && all->slots[at].until_ms >= before_ms; looked++) {
        if (looked == DN_FORGET_STEP) {
            return false;
        }
        at = all->slots[at].next;
    }
    if (at == DN_ID_NONE) {
        return false;
    }
    /* The first found in log order is the oldest of its user: older ones reach no further. */
    const struct dn_tombstone *oldest = &all->slots[at];
    if (oldest->until_ms + 1 > core->meta.forget_floor_ms) {
        core->meta.forget_floor_ms = oldest->until_ms + 1;
    }
    remove_oldest(core, oldest->user);
    return true;
}

bool dn_tombstone_room(struct dn_core *core)
{
    return core->tombstones.count < DN_TOMBSTONES_MAX ||
           dn_tombstone_drop(core, core->meta.time_ms - core->meta.settings.lateness_ms);
}

static uint32_t slot_take(struct dn_core *core)
{
    struct dn_tombstones *all = &core->tombstones;
    if (all->free == DN_ID_NONE) {
        uint32_t capacity = all->capacity == 0 ? 16 : all->capacity * 2;
        struct dn_tombstone *slots = dn_slab_alloc(core->slab, capacity * sizeof *slots);
        if (all->capacity > 0) {
            memcpy(slots, all->slots, all->capacity * sizeof *slots);
            dn_slab_free(core->slab, all->slots, all->capacity * sizeof *slots);
        }
        for (uint32_t at = capacity; at-- > all->capacity;) {
            slots[at].next = all->free;
            all->free = at;
        }
        all->slots = slots;
        all->capacity = capacity;
    }
    uint32_t at = all->free;
    all->free = all->slots[at].next;
    return at;
}

void dn_tombstone_add(struct dn_core *core, const struct dn_tombstone *tombstone)
{
    struct dn_tombstones *all = &core->tombstones;
    uint32_t at = slot_take(core);
    uint32_t older = newest(core, tombstone->user);
    uint32_t chain = 1;
    for (uint32_t i = older; i != DN_ID_NONE; i = all->slots[i].older) {
        chain++;
    }
    if (older != DN_ID_NONE) {
        dn_idtable_remove(&all->table, dn_user_hash(tombstone->user), older);
    }
    all->slots[at] = *tombstone;
    all->slots[at].older = older;
    all->slots[at].previous = all->tail;
    all->slots[at].next = DN_ID_NONE;
    if (all->tail != DN_ID_NONE) {
        all->slots[all->tail].next = at;
    } else {
        all->head = at;
    }
    all->tail = at;
    all->count++;
    dn_idtable_insert(&all->table, dn_user_hash(tombstone->user), at);
    core->sum += dn_tombstone_hash(&all->slots[at]);
    if (chain > DN_TOMBSTONES_PER_USER) {
        remove_oldest(core, tombstone->user);
    }
}
