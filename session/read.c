/* What other threads read. Between dn_epoch_enter and dn_epoch_leave, no locks, no retries. */
#include "session/core.h"

#include <math.h>
#include <string.h>

struct wanted {
    struct dn_hash128 user;
    const struct dn_block *
        *found; /* the very block that was compared: the id may be another's a moment later */
};

static bool same_user(const struct dn_core *core, uint32_t id, const void *key)
{
    const struct wanted *wanted = key;
    const struct dn_block *block = dn_user_block(core, id);
    if (block == NULL || !dn_hash128_equal(block->user, wanted->user)) {
        return false;
    }
    *wanted->found = block;
    return true;
}

enum dn_code dn_shard_read(const struct dn_shard *shard, struct dn_hash128 user, struct dn_arena *arena,
                           struct dn_session_view *ret)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_block *block = NULL;
    struct wanted wanted = {.user = user, .found = &block};
    dn_idtable_find(&core->users, dn_user_hash(user), same_user, &wanted);
    if (block == NULL) {
        return DN_NOT_FOUND;
    }
    struct dn_event_view *views = dn_arena_alloc(arena, block->event_count * sizeof *views);
    if (views == NULL) {
        return DN_NO_MEMORY;
    }
    for (size_t i = 0; i < block->event_count; i++) {
        const struct dn_event *event = &block->events[i];
        const struct dn_item *item = dn_item_get(core, event->item);
        views[i] = (struct dn_event_view){
            .item = item->bytes,
            .item_length = item->length,
            .item_hash = item->hash,
            .type = event->type,
            .time_ms = event->time_ms,
            .weight = (float)event->weight / DN_WEIGHT_ONE,
            .current = event->time_ms >= block->start_ms,
        };
    }
    *ret = (struct dn_session_view){
        .version = block->version,
        .start_ms = block->start_ms,
        .last_ms = block->events[block->event_count - 1].time_ms,
        .session_events = block->session_events,
        .event_count = block->event_count,
        .events = views,
    };
    for (size_t type = 1; type <= DN_EVENT_TYPE_MAX; type++) {
        ret->counts[type] = block->counts[type - 1];
    }
    return DN_OK;
}

size_t dn_shard_users(const struct dn_shard *shard, uint32_t *cursor, struct dn_hash128 *ret, size_t max)
{
    const struct dn_core *core = dn_shard_core(shard);
    size_t count = 0;
    while (*cursor < core->user_bound && count < max) {
        const struct dn_block *block = dn_user_block(core, (*cursor)++);
        if (block != NULL) {
            ret[count++] = block->user;
        }
    }
    return count;
}

static size_t read_top(const struct dn_top_list *list, double scale, struct dn_trend_view *ret, size_t max)
{
    size_t count = list->count < max ? list->count : max;
    for (size_t i = 0; i < count; i++) {
        ret[i] = (struct dn_trend_view){
            .item = list->text + list->entries[i].offset,
            .item_length = list->entries[i].length,
            .item_hash = list->entries[i].item_hash,
            .score = (float)((double)list->entries[i].score * scale),
        };
    }
    return count;
}

size_t dn_shard_trending(const struct dn_shard *shard, struct dn_trend_view *ret, size_t max)
{
    const struct dn_core *core = dn_shard_core(shard);
    const struct dn_top_list *list =
        atomic_load_explicit(&core->tops[DN_TOP_TREND].list, memory_order_acquire);
    struct dn_shard_stats stats;
    dn_shard_stats(shard, &stats);
    double past = (double)(stats.time_ms - list->landmark_ms) / (double)list->half_life_ms;
    return read_top(list, exp2(-past) / ((double)DN_WEIGHT_ONE * 65536.0), /* trend.c: 16-bit fixed point */
                    ret, max);
}

size_t dn_shard_most_clicked(const struct dn_shard *shard, struct dn_trend_view *ret, size_t max)
{
    const struct dn_core *core = dn_shard_core(shard);
    return read_top(atomic_load_explicit(&core->tops[DN_TOP_CLICKS].list, memory_order_acquire), 1, ret, max);
}

static const struct dn_stream_source *find(const struct dn_shard *shard, const char *source,
                                           uint32_t partition)
{
    size_t length = 0;
    while (length <= DN_SOURCE_MAX && source[length] != '\0') {
        length++;
    }
    return dn_source_find(dn_shard_core(shard), source, length, partition);
}

bool dn_shard_source_finished(const struct dn_shard *shard, const char *source, uint32_t partition)
{
    const struct dn_stream_source *found = find(shard, source, partition);
    return found != NULL && atomic_load_explicit(&found->finished, memory_order_relaxed) != 0;
}

bool dn_shard_next_offset(const struct dn_shard *shard, const char *source, uint32_t partition,
                          int64_t *ret_next_offset)
{
    const struct dn_stream_source *found = find(shard, source, partition);
    if (found == NULL) {
        return false;
    }
    int64_t next_offset = atomic_load_explicit(&found->next_offset, memory_order_acquire);
    if (next_offset == DN_OFFSET_UNSET) {
        return false; /* its first batch is being applied */
    }
    *ret_next_offset = next_offset;
    return true;
}

static void source_view(const struct dn_stream_source *source, struct dn_source_view *ret)
{
    struct dn_source_progress progress = dn_source_progress(source);
    *ret = (struct dn_source_view){
        .partition = source->partition,
        .next_offset = progress.next_offset,
        .watermark_ms = progress.floor_ms > 0 ? progress.floor_ms : INT64_MIN,
        .newest_ms = progress.newest_ms != DN_TIME_NONE ? progress.newest_ms : INT64_MIN,
        .events = progress.events,
        .finished = progress.finished != 0,
    };
    memcpy(ret->name, source->name, source->name_length);
}

size_t dn_shard_sources(const struct dn_shard *shard, struct dn_source_view *ret, size_t max)
{
    const struct dn_source_list *list =
        atomic_load_explicit(&dn_shard_core(shard)->sources, memory_order_acquire);
    for (size_t i = 0; i < list->count && i < max; i++) {
        source_view(list->sources[i], &ret[i]);
    }
    return list->count;
}

size_t dn_shard_dead_letters(const struct dn_shard *shard, uint64_t from, struct dn_dead_letter *ret,
                             size_t max)
{
    const struct dn_core *core = dn_shard_core(shard);
    uint64_t next = atomic_load_explicit(&core->dead.next, memory_order_acquire);
    /* Loaded after `next`: it has every source that a letter below names. And before `written`: a letter that
     * waits then did so all the while, and its place was not given away. */
    const struct dn_source_list *sources = atomic_load_explicit(&core->sources, memory_order_acquire);
    uint64_t written = atomic_load_explicit(&core->dead.written, memory_order_acquire);
    size_t count = 0;
    for (uint64_t n = from > written ? from : written; n < next && count < max; n++) {
        const struct dn_dead *letter = dn_dead_get(&core->dead, n);
        if (letter == NULL) {
            continue; /* written since `written` was loaded */
        }
        const struct dn_stream_source *source = sources->sources[letter->source];
        struct dn_dead_letter *to = &ret[count++];
        *to = (struct dn_dead_letter){
            .number = n,
            .partition = source->partition,
            .offset = letter->offset,
            .reason = letter->reason,
            .time_ms = letter->time_ms,
        };
        memcpy(to->source, source->name, source->name_length);
    }
    return count;
}

void dn_shard_dead_range(const struct dn_shard *shard, uint64_t *ret_written, uint64_t *ret_next)
{
    const struct dn_core *core = dn_shard_core(shard);
    *ret_written = atomic_load_explicit(&core->dead.written, memory_order_acquire);
    *ret_next = atomic_load_explicit(&core->dead.next, memory_order_acquire);
}

int64_t dn_shard_stalled(const struct dn_shard *shard, char ret_reason[DN_STALL_REASON_MAX + 1])
{
    const struct dn_stall *stall = atomic_load_explicit(&dn_shard_core(shard)->stall, memory_order_acquire);
    size_t length = stall != NULL ? stall->length : 0;
    if (length > 0) {
        memcpy(ret_reason, stall->reason, length);
    }
    ret_reason[length] = '\0';
    return stall != NULL ? stall->since_ms : 0;
}
