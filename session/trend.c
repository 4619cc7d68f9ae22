/* Trending: what an item's events weigh now, each halved every half-life.
 *
 * Forward decay (Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay", 2009): an event at time t adds
 * weight * 2^((t - L) / half-life) and nothing is ever taken down; the score now is the counter over
 * 2^((now - L) / half-life). When now is SHIFT half-lives past the landmark L, L moves on by that much and
 * the trend epoch by one; a counter is shifted when it is touched next, so no step visits all items.
 *
 * Invariants:
 *  1. landmark <= group time < landmark + SHIFT * half-life (once the group's time was set).
 *  2. Scores in the top are as of the current epoch. Who is in it is part of the state. */
#include "base/error.h"
#include "session/core.h"

#include <math.h>
#include <string.h>

#define SHIFT DN_TREND_SHIFT
#define FRACTIONS 64

/* 2^(i / 64) in 16-bit fixed point, rounded down. */
static const uint32_t exp2_table[FRACTIONS] = {
    65536,  66249,  66971,  67700,  68437,  69182,  69936,  70697,  71467,  72245,  73032,  73827,  74631,
    75444,  76265,  77096,  77935,  78784,  79642,  80509,  81386,  82272,  83168,  84074,  84989,  85915,
    86850,  87796,  88752,  89718,  90695,  91683,  92681,  93691,  94711,  95742,  96785,  97839,  98904,
    99981,  101070, 102170, 103283, 104408, 105545, 106694, 107856, 109030, 110217, 111418, 112631, 113857,
    115097, 116351, 117618, 118898, 120193, 121502, 122825, 124162, 125514, 126881, 128263, 129660,
};

static uint64_t shifted(uint64_t score, uint64_t epochs)
{
    return epochs >= 64 / SHIFT ? 0 : score >> (epochs * SHIFT);
}

/* What an event at time_ms, not after the group's time, adds to a counter. */
static uint64_t contribution(int64_t half_life_ms, int64_t landmark_ms, int64_t time_ms, uint16_t weight)
{
    int64_t at_ms = time_ms - landmark_ms;
    int64_t whole = at_ms >= 0 ? at_ms / half_life_ms : -((-at_ms + half_life_ms - 1) / half_life_ms);
    int64_t rest_ms = at_ms - whole * half_life_ms;
    uint64_t value = (uint64_t)weight * exp2_table[rest_ms * FRACTIONS / half_life_ms];
    if (whole >= 0) {
        return value << (whole < SHIFT ? whole : SHIFT);
    }
    return whole <= -64 ? 0 : value >> -whole;
}

/* The counter as of the group's epoch. */
static uint64_t current(const struct dn_core *core, const struct dn_item_slot *slot)
{
    uint64_t counter = atomic_load_explicit(&slot->trend, memory_order_relaxed);
    uint32_t epoch = atomic_load_explicit(&slot->trend_epoch, memory_order_relaxed);
    return shifted(counter, core->meta.trend_epoch - epoch);
}

void dn_trend_add(struct dn_core *core, uint32_t item, int64_t time_ms, uint16_t weight)
{
    struct dn_item_slot *slot = dn_item_writable(core, item);
    const struct dn_meta *meta = &core->meta;
    uint64_t add = contribution(meta->settings.trend_half_life_ms, meta->trend_landmark_ms,
                                time_ms < meta->time_ms ? time_ms : meta->time_ms, weight);
    if (add == 0) {
        return;
    }
    core->sum -= dn_item_slot_hash(slot);
    uint64_t score = current(core, slot);
    score = score > UINT64_MAX - add ? UINT64_MAX : score + add;
    /* In this order: see dn_trend_now. */
    atomic_store_explicit(&slot->trend, score, memory_order_release);
    atomic_store_explicit(&slot->trend_epoch, meta->trend_epoch, memory_order_release);
    dn_top_rise(core, DN_TOP_TREND, item, score);
    core->sum += dn_item_slot_hash(slot);
}

bool dn_trend_restore(struct dn_core *core, uint32_t item)
{
    if (core->tops[DN_TOP_TREND].count == DN_TREND_MAX) {
        return false;
    }
    const struct dn_item_slot *slot = dn_item_slot(core, item);
    core->sum -= dn_item_slot_hash(slot);
    dn_top_rise(core, DN_TOP_TREND, item, current(core, slot));
    core->sum += dn_item_slot_hash(slot);
    return true;
}

#define SCALE_ONE (1.0 / ((double)DN_WEIGHT_ONE * 65536.0)) /* an event of weight 1 at the landmark */

/* Before anything of that time is counted: readers know no counter of an epoch that is not the clock's yet.
 */
static void clock_move(struct dn_core *core)
{
    const struct dn_meta *meta = &core->meta;
    double past =
        (double)(meta->time_ms - meta->trend_landmark_ms) / (double)meta->settings.trend_half_life_ms;
    float scale = (float)(exp2(-past) * SCALE_ONE);
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    atomic_store_explicit(&core->trend_clock, (uint64_t)meta->trend_epoch << 32 | bits, memory_order_release);
}

void dn_trend_advance(struct dn_core *core)
{
    struct dn_meta *meta = &core->meta;
    int64_t span_ms = meta->settings.trend_half_life_ms * SHIFT;
    int64_t epochs = (meta->time_ms - meta->trend_landmark_ms) / span_ms;
    if (epochs > 0) {
        meta->trend_landmark_ms += epochs * span_ms;
        meta->trend_epoch += (uint32_t)epochs;
        dn_top_fall(core, DN_TOP_TREND, epochs < 64 / SHIFT ? (unsigned)epochs * SHIFT : 64);
    }
    clock_move(core);
}

/* Moves the landmark so that an event now weighs what it weighed before: counters stay as they are. */
void dn_trend_half_life(struct dn_core *core, int64_t half_life_ms)
{
    struct dn_meta *meta = &core->meta;
    int64_t old_ms = meta->settings.trend_half_life_ms;
    int64_t past_ms = meta->time_ms - meta->trend_landmark_ms; /* below SHIFT * old_ms */
    int64_t whole = past_ms / old_ms, rest_ms = past_ms % old_ms;
    /* rest / old in 20-bit fixed point keeps the product within 64 bits for every legal half-life. */
    int64_t fraction = (rest_ms << 20) / old_ms;
    meta->trend_landmark_ms = meta->time_ms - whole * half_life_ms - ((half_life_ms * fraction) >> 20);
    meta->settings.trend_half_life_ms = half_life_ms;
    core->tops[DN_TOP_TREND].changed = true;
    clock_move(core);
}

/* ---- what readers see ------------------------------------------------------------------------------ */

/* A counter as of some epoch, in events as of the group's time. The clock is read after the counter: it is of
 * the counter's epoch, or of a later one. */
static double events_now(const struct dn_core *core, uint64_t counter, uint32_t epoch)
{
    uint64_t clock = atomic_load_explicit(&core->trend_clock, memory_order_acquire);
    uint32_t bits = (uint32_t)clock, epochs = (uint32_t)(clock >> 32) - epoch;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return (double)shifted(counter, epochs) * (double)scale;
}

/* The epoch is read first and written last: a reader that comes between has the new counter with the epoch
 * before, and takes it for less than it is, this once. Never for more. */
double dn_trend_now(const struct dn_core *core, const struct dn_item_slot *slot)
{
    uint32_t epoch = atomic_load_explicit(&slot->trend_epoch, memory_order_acquire);
    uint64_t counter = atomic_load_explicit(&slot->trend, memory_order_acquire);
    return counter != 0 ? events_now(core, counter, epoch) : 0;
}

double dn_near_trending(const struct dn_shard *shard, int64_t time_ms, float weight)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_top_list *list =
        atomic_load_explicit(&core->tops[DN_TOP_TREND].list, memory_order_acquire);
    struct dn_shard_stats stats;
    dn_shard_stats(shard, &stats);
    uint64_t add =
        contribution(list->half_life_ms, list->landmark_ms, time_ms < stats.time_ms ? time_ms : stats.time_ms,
                     (uint16_t)lrintf(weight * DN_WEIGHT_ONE));
    return events_now(core, add, list->trend_epoch);
}

void dn_trend_publish(struct dn_core *core, bool now)
{
    if (now) {
        clock_move(core);
    }
    for (enum dn_top_kind which = 0; which < DN_TOPS; which++) {
        dn_top_publish(core, which, now);
    }
}
