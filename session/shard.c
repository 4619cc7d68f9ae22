/* The shard: which core is live, what other threads may ask outside the epoch, and settings.
 *
 * A core's way: built (nobody else knows it) -> live (installed) -> replaced (waits for readers and an open
 * capture: pins) -> dying (freed a little after each entry) -> gone. */
#include "session/core.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DYING_STEP_BYTES ((size_t)4 << 20)

#define STATS(X)                                                                                             \
    X(users)                                                                                                 \
    X(items)                                                                                                 \
    X(events_applied)                                                                                        \
    X(duplicates)                                                                                            \
    X(late)                                                                                                  \
    X(refused)                                                                                               \
    X(erased) X(evicted) X(expired) X(memory_bytes) X(near_rows) X(near_pairs) X(near_visits) X(near_bytes)

struct dn_shard {
    struct dn_epoch *epoch;
    struct dn_core *_Atomic core;
    struct dn_core *dying;
    uint32_t cores; /* that are not gone: the shard goes with the last one */
    bool destroyed;
    dn_shard_listener listener; /* NULL: nobody listens */
    void *listener_data;
    const struct dn_shard_watch *_Atomic watch; /* NULL: nobody */

    /* Copies for any thread, each value by itself. */
    struct {
#define X(name) _Atomic uint64_t name;
        STATS(X)
#undef X
        _Atomic int64_t time_ms, max_event_ms;
        _Atomic uint64_t dead[DN_DEAD_REASON_MAX + 1];
        _Atomic int64_t gap_ms, lateness_ms, ahead_ms, idle_ms, trend_half_life_ms, near_half_life_ms;
        _Atomic uint32_t events_per_user, ids_per_user, users_max, items_max, near_cells, near_visitors;
    } shown;
};

/* ---- settings -------------------------------------------------------------------------------------- */

#define MINUTE_MS ((int64_t)60 * 1000)
#define HOUR_MS (60 * MINUTE_MS)
#define DAY_MS (24 * HOUR_MS)

void dn_shard_settings_default(struct dn_shard_settings *settings)
{
    *settings = (struct dn_shard_settings){
        .gap_ms = 30 * MINUTE_MS,
        .lateness_ms = 5 * MINUTE_MS,
        .ahead_ms = DAY_MS,
        .idle_ms = 30 * DAY_MS,
        .events_per_user = 50,
        .ids_per_user = 200,
        .users_max = 5000000,
        .items_max = 2000000,
        .trend_half_life_ms = 6 * HOUR_MS,
        .near_cells = 120,
        .near_visitors = 64,
        .near_half_life_ms = 365 * DAY_MS,
    };
}

enum dn_code dn_shard_settings_check(const struct dn_shard_settings *settings, struct dn_error *err)
{
    const struct {
        const char *key;
        int64_t value, min, max;
    } rules[] = {
        {"gap_ms", settings->gap_ms, 1, 7 * DAY_MS},
        {"lateness_ms", settings->lateness_ms, 0, 7 * DAY_MS},
        {"ahead_ms", settings->ahead_ms, 0, 7 * DAY_MS},
        {"idle_ms", settings->idle_ms, 1000, 3650 * DAY_MS},
        {"events_per_user", settings->events_per_user, 2, DN_EVENTS_PER_USER_MAX},
        {"ids_per_user", settings->ids_per_user, 1, DN_IDS_PER_USER_MAX},
        {"users_max", settings->users_max, 1, DN_USERS_LIMIT},
        {"items_max", settings->items_max, 1, DN_ITEMS_LIMIT},
        {"trend_half_life_ms", settings->trend_half_life_ms, MINUTE_MS, 365 * DAY_MS},
        {"near_cells", settings->near_cells, 0, DN_NEAR_CELLS_MAX},
        {"near_visitors", settings->near_visitors, 1, DN_NEAR_VISITORS_MAX},
        {"near_half_life_ms", settings->near_half_life_ms, HOUR_MS, 3650 * DAY_MS},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].value < rules[i].min || rules[i].value > rules[i].max) {
            return dn_fail(err, DN_INVALID, "%s is %" PRId64 "; it must be from %" PRId64 " to %" PRId64,
                           rules[i].key, rules[i].value, rules[i].min, rules[i].max);
        }
    }
    return DN_OK;
}

/* ---- copies for other threads ---------------------------------------------------------------------- */

#define SHOW(field, value) atomic_store_explicit(&shard->shown.field, value, memory_order_relaxed)
#define SHOWN(field) atomic_load_explicit(&shard->shown.field, memory_order_relaxed)

static uint64_t memory_bytes(const struct dn_shard *shard, const struct dn_core *core)
{
    uint64_t bytes = sizeof *shard + sizeof *core + dn_slab_bytes(core->slab);
    for (const struct dn_core *dying = shard->dying; dying != NULL; dying = dying->next_dying) {
        bytes += sizeof *dying + dn_slab_bytes(dying->slab);
    }
    for (const struct dn_capture *closed = core->closed; closed != NULL; closed = closed->next_closed) {
        bytes += sizeof *closed;
    }
    const struct dn_capture *capture = core->capture;
    if (capture != NULL) {
        bytes += sizeof *capture + capture->user_bound / DN_USER_CHUNK * sizeof capture->users[0] +
                 capture->item_bound / DN_ITEM_CHUNK * sizeof capture->items[0] +
                 capture->source_count * sizeof capture->sources[0] +
                 capture->tombstone_count * sizeof capture->tombstones[0];
    }
    return bytes;
}

static void show(struct dn_shard *shard)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_meta *meta = &core->meta;
    const struct dn_shard_settings *settings = &meta->settings;
    SHOW(users, core->users.live);
    SHOW(items, core->items.live);
    SHOW(events_applied, meta->events_applied);
    SHOW(duplicates, meta->duplicates);
    SHOW(late, meta->late);
    SHOW(refused, meta->refused);
    SHOW(erased, meta->erased);
    SHOW(evicted, meta->evicted);
    SHOW(expired, meta->expired);
    SHOW(memory_bytes, memory_bytes(shard, core));
    SHOW(near_rows, core->near.rows);
    SHOW(near_pairs, core->near.cells);
    SHOW(near_visits, core->near.visitors);
    SHOW(near_bytes, core->near.bytes);
    SHOW(time_ms, meta->time_ms);
    SHOW(max_event_ms, meta->max_event_ms);
    for (size_t reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        SHOW(dead[reason], core->dead.counts[reason]);
    }
    SHOW(gap_ms, settings->gap_ms);
    SHOW(lateness_ms, settings->lateness_ms);
    SHOW(ahead_ms, settings->ahead_ms);
    SHOW(idle_ms, settings->idle_ms);
    SHOW(trend_half_life_ms, settings->trend_half_life_ms);
    SHOW(events_per_user, settings->events_per_user);
    SHOW(ids_per_user, settings->ids_per_user);
    SHOW(users_max, settings->users_max);
    SHOW(items_max, settings->items_max);
    SHOW(near_cells, settings->near_cells);
    SHOW(near_visitors, settings->near_visitors);
    SHOW(near_half_life_ms, settings->near_half_life_ms);
}

_Static_assert(sizeof(((struct dn_shard_stats *)0)->dead) / sizeof(uint64_t) == DN_DEAD_REASON_MAX + 1,
               "a count for each reason");

void dn_shard_stats(const struct dn_shard *shard, struct dn_shard_stats *ret)
{
#define X(name) ret->name = SHOWN(name);
    STATS(X)
#undef X
    ret->time_ms = SHOWN(time_ms);
    ret->max_event_ms = SHOWN(max_event_ms);
    for (size_t reason = 0; reason <= DN_DEAD_REASON_MAX; reason++) {
        ret->dead[reason] = SHOWN(dead[reason]);
    }
}

int64_t dn_shard_gap_ms(const struct dn_shard *shard)
{
    return SHOWN(gap_ms);
}

void dn_shard_settings(const struct dn_shard *shard, struct dn_shard_settings *ret)
{
    *ret = (struct dn_shard_settings){
        .gap_ms = SHOWN(gap_ms),
        .lateness_ms = SHOWN(lateness_ms),
        .ahead_ms = SHOWN(ahead_ms),
        .idle_ms = SHOWN(idle_ms),
        .events_per_user = SHOWN(events_per_user),
        .ids_per_user = SHOWN(ids_per_user),
        .users_max = SHOWN(users_max),
        .items_max = SHOWN(items_max),
        .trend_half_life_ms = SHOWN(trend_half_life_ms),
        .near_cells = SHOWN(near_cells),
        .near_visitors = SHOWN(near_visitors),
        .near_half_life_ms = SHOWN(near_half_life_ms),
    };
}

void dn_shard_listen(struct dn_shard *shard, dn_shard_listener listener, void *data)
{
    shard->listener_data = data;
    shard->listener = listener;
}

void dn_shard_tell(const struct dn_shard *shard, struct dn_hash128 user, uint8_t type)
{
    if (shard->listener != NULL) {
        shard->listener(shard->listener_data, user, (enum dn_event_type)type);
    }
}

void dn_shard_watch(struct dn_shard *shard, const struct dn_shard_watch *watch)
{
    atomic_store_explicit(&shard->watch, watch, memory_order_release);
}

void dn_shard_tell_applied(const struct dn_shard *shard, const struct dn_applied *event)
{
    const struct dn_shard_watch *watch = atomic_load_explicit(&shard->watch, memory_order_acquire);
    if (watch != NULL) {
        watch->applied(watch->data, event);
    }
}

void dn_shard_tell_erased(const struct dn_shard *shard, struct dn_hash128 user)
{
    const struct dn_shard_watch *watch = atomic_load_explicit(&shard->watch, memory_order_acquire);
    if (watch != NULL) {
        watch->erased(watch->data, user);
    }
}

/* ---- life ------------------------------------------------------------------------------------------ */

struct dn_epoch *dn_shard_epoch(const struct dn_shard *shard)
{
    return shard->epoch;
}

struct dn_core *dn_shard_core(const struct dn_shard *shard)
{
    return atomic_load_explicit(&shard->core, memory_order_acquire);
}

struct dn_shard *dn_shard_create(struct dn_epoch *epoch)
{
    struct dn_shard *shard = calloc(1, sizeof *shard);
    if (shard == NULL) {
        return NULL;
    }
    shard->epoch = epoch;
    struct dn_core *core = dn_core_create(shard);
    if (core == NULL) {
        free(shard);
        return NULL;
    }
    core->live = true;
    shard->cores = 1;
    atomic_store_explicit(&shard->core, core, memory_order_release);
    show(shard);
    return shard;
}

static void core_gone(struct dn_shard *shard)
{
    if (--shard->cores == 0 && shard->destroyed) {
        free(shard);
    }
}

void dn_shard_core_gone(struct dn_shard *shard, struct dn_core *core)
{
    if (shard->destroyed) {
        dn_core_destroy(core);
        core_gone(shard);
        return;
    }
    core->next_dying = shard->dying;
    shard->dying = core;
}

static void dying_step(struct dn_shard *shard)
{
    struct dn_core *core = shard->dying;
    DN_ASSERT(!shard->destroyed); /* it would be freed with its last core */
    if (core != NULL) {
        dn_core_free_closed(core);
    }
    if (core != NULL && dn_slab_destroy_step(core->slab, DYING_STEP_BYTES)) {
        shard->dying = core->next_dying;
        free(core);
        core_gone(shard);
    }
}

void dn_shard_destroy(struct dn_shard *shard)
{
    if (shard == NULL) {
        return;
    }
    while (shard->dying != NULL) {
        dying_step(shard);
    }
    shard->destroyed =
        true; /* what the epoch still holds keeps its core, and the last core keeps the shard */
    dn_core_unpin(dn_shard_core(shard));
}

/* ---- the functions behind struct dn_fsm ------------------------------------------------------------- */

bool dn_shard_apply_part(void *shard, uint64_t index, uint32_t ordinal, int64_t time_ms,
                         const uint8_t *record, size_t length, struct dn_buffer *result)
{
    (void)ordinal; /* records of an entry share its index as their version */
    bool done = dn_core_apply_part(dn_shard_core(shard), index, time_ms, record, length, result);
    if (done) {
        dn_epoch_reclaim(((struct dn_shard *)shard)->epoch, DN_RECLAIM_STEP);
    }
    return done;
}

void dn_shard_apply(void *shard, uint64_t index, uint32_t ordinal, int64_t time_ms, const uint8_t *record,
                    size_t length, struct dn_buffer *result)
{
    while (!dn_shard_apply_part(shard, index, ordinal, time_ms, record, length, result)) {
    }
}

void dn_shard_entry_done(void *shard, uint64_t index, int64_t time_ms)
{
    (void)index;
    struct dn_shard *self = shard;
    dn_core_entry_done(dn_shard_core(self), time_ms);
    dn_epoch_reclaim(self->epoch, DN_RECLAIM_STEP);
    dying_step(self);
    show(self);
}

uint64_t dn_shard_hash(void *shard)
{
    return dn_core_hash(dn_shard_core(shard));
}

uint64_t dn_shard_hash_recompute(void *shard)
{
    return dn_core_hash_recompute(dn_shard_core(shard));
}

enum dn_code dn_shard_restore_build(void *shard, struct dn_source *in, void **ret_built, struct dn_error *err)
{
    struct dn_core *core = dn_core_create(shard);
    if (core == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "restore of a shard: no memory");
    }
    enum dn_code code = dn_core_restore(core, in, err);
    if (code != DN_OK) {
        dn_core_destroy(core);
        return code;
    }
    *ret_built = core;
    return DN_OK;
}

static void replaced(void *context, void *object)
{
    (void)context;
    dn_core_unpin(object);
}

void dn_shard_restore_install(void *shard, void *built)
{
    struct dn_shard *self = shard;
    struct dn_core *core = built, *old = dn_shard_core(self);
    core->live = true;
    self->cores++;
    atomic_store_explicit(&self->core, core, memory_order_release);
    dn_core_flush(old);
    dn_epoch_retire(self->epoch, old, replaced, NULL);
    show(self);
    const struct dn_shard_watch *watch = atomic_load_explicit(&self->watch, memory_order_acquire);
    if (watch != NULL) {
        watch->replaced(watch->data);
    }
}

void dn_shard_restore_discard(void *shard, void *built)
{
    (void)shard;
    dn_core_destroy(built);
}
