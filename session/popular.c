/* Popular: what an item's events weigh, halved every hour, day and week.
 *
 * As trend.c does it, but derived: in no hash and no snapshot, so that a build which counts otherwise has the
 * same state. A restore counts what the users' blocks still have. Landmarks are multiples of SHIFT
 * half-lives, so that nodes that count the same events agree, whenever they began.
 *
 * Invariants:
 *  1. landmark <= group time < landmark + SHIFT * half-life.
 *  2. A counter's epoch is written after it and read before it, and clocks move before anything of their time
 * is counted: a reader between two writes takes an item for less than it is, never for more. */
#include "session/near.h"
#include "session/near_private.h"

#include <math.h>
#include <string.h>

#define HOUR_MS ((int64_t)3600 * 1000)
#define SHIFT DN_TREND_SHIFT
#define FORGOTTEN 16 /* epochs after which nothing is left of a float */

static const int64_t HALF_LIFE_MS[DN_POPULAR_SPANS] = {
    [DN_POPULAR_HOUR] = HOUR_MS,
    [DN_POPULAR_DAY] = 24 * HOUR_MS,
    [DN_POPULAR_WEEK] = 7 * 24 * HOUR_MS,
};

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* A counter of `epochs` before. */
static float faded(float counter, uint16_t epochs)
{
    return epochs == 0 ? counter : epochs < FORGOTTEN ? ldexpf(counter, -SHIFT * epochs) : 0;
}

void dn_popular_advance(struct dn_core *core)
{
    for (enum dn_popular_span span = 0; span < DN_POPULAR_SPANS; span++) {
        struct dn_popular *popular = &core->popular[span];
        int64_t width_ms = SHIFT * HALF_LIFE_MS[span], past_ms = core->meta.time_ms % width_ms;
        popular->one = exp2f((float)past_ms / (float)HALF_LIFE_MS[span]);
        popular->epoch = (uint16_t)(core->meta.time_ms / width_ms);
        uint64_t clock = (uint64_t)popular->epoch << 32 | bits_of(1 / (popular->one * DN_WEIGHT_ONE));
        atomic_store_explicit(&popular->clock, clock, memory_order_release);
    }
}

void dn_popular_add(struct dn_core *core, uint32_t item, int64_t time_ms, uint16_t weight)
{
    struct dn_item_slot *slot = dn_item_writable(core, item);
    int64_t age_ms = time_ms < core->meta.time_ms ? core->meta.time_ms - time_ms : 0;
    for (enum dn_popular_span span = 0; span < DN_POPULAR_SPANS; span++) {
        const struct dn_popular *popular = &core->popular[span];
        float add = (float)weight * popular->one;
        if (age_ms > 0) {
            add *= exp2f(-(float)age_ms / (float)HALF_LIFE_MS[span]);
        }
        uint16_t before = atomic_load_explicit(&slot->popular_epoch[span], memory_order_relaxed);
        float counter = float_of(atomic_load_explicit(&slot->popular[span], memory_order_relaxed));
        counter = faded(counter, (uint16_t)(popular->epoch - before)) + add;
        atomic_store_explicit(&slot->popular[span], bits_of(counter), memory_order_release);
        atomic_store_explicit(&slot->popular_epoch[span], popular->epoch, memory_order_release);
    }
}

float dn_near_popular(const struct dn_shard *shard, uint32_t id, uint64_t hash, enum dn_popular_span span)
{
    /* Since the id was found, a snapshot may have put another core here, whose ids are others. */
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_item_slot *slot = dn_near_slot(core, id);
    if (slot == NULL || atomic_load_explicit(&slot->hash, memory_order_acquire) != hash) {
        return 0;
    }
    uint16_t epoch = atomic_load_explicit(&slot->popular_epoch[span], memory_order_acquire);
    float counter = float_of(atomic_load_explicit(&slot->popular[span], memory_order_acquire));
    uint64_t clock = atomic_load_explicit(&core->popular[span].clock, memory_order_acquire);
    return faded(counter, (uint16_t)((clock >> 32) - epoch)) * float_of((uint32_t)clock);
}
