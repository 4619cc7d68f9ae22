/* Stream sources: next offset and watermark of each (source, partition). A source is known as long as there
 * is room, also when it is finished: its offset is what keeps a file that comes back from counting twice.
 * Dead letters name sources by their position, so a place that one names is not given away. And whether the
 * shard's streams stand still. */
#include "session/core.h"

#include <string.h>

uint32_t dn_sources_max = DN_SOURCES_MAX;

uint64_t dn_source_key(const char *name, size_t length, uint32_t partition)
{
    return dn_hash64(name, length, partition);
}

struct dn_stream_source *dn_source_find(const struct dn_core *core, const char *name, size_t length,
                                        uint32_t partition)
{
    const struct dn_source_list *list = atomic_load_explicit(&core->sources, memory_order_acquire);
    uint64_t hash = dn_source_key(name, length, partition);
    for (uint32_t i = 0; i < list->count; i++) {
        struct dn_stream_source *source = list->sources[i];
        if (source->hash == hash && source->partition == partition && source->name_length == length &&
            memcmp(source->name, name, length) == 0) {
            return source;
        }
    }
    return NULL;
}

static size_t list_bytes(uint32_t count)
{
    return sizeof(struct dn_source_list) + count * sizeof(struct dn_stream_source *);
}

/* Whose place the next one gets; list->count: a new one; UINT32_MAX: there is none. */
static uint32_t find_place(const struct dn_source_list *list)
{
    uint32_t found = UINT32_MAX;
    uint64_t least = UINT64_MAX;
    if (list->count < dn_sources_max) {
        return list->count;
    }
    for (uint32_t i = 0; i < list->count; i++) {
        const struct dn_stream_source *source = list->sources[i];
        uint64_t finished = atomic_load_explicit(&source->finished, memory_order_relaxed);
        if (finished != 0 && finished < least && source->letters == 0) {
            least = finished;
            found = i;
        }
    }
    return found;
}

static struct dn_stream_source *create(struct dn_core *core, const char *name, size_t length,
                                       uint32_t partition, uint32_t place)
{
    struct dn_stream_source *source = dn_slab_zalloc(core->slab, sizeof *source);
    source->hash = dn_source_key(name, length, partition);
    source->position = place;
    source->partition = partition;
    source->name_length = (uint16_t)length;
    memcpy(source->name, name, length);
    atomic_init(&source->next_offset, DN_OFFSET_UNSET); /* readers: not seen until its batch is applied */
    atomic_init(&source->newest_ms, DN_TIME_NONE);
    return source;
}

struct dn_stream_source *dn_source_add(struct dn_core *core, const char *name, size_t length,
                                       uint32_t partition)
{
    struct dn_source_list *old = atomic_load_explicit(&core->sources, memory_order_relaxed);
    uint32_t place = find_place(old);
    if (place == UINT32_MAX) {
        return NULL;
    }
    struct dn_stream_source *source = create(core, name, length, partition, place), *gone = NULL;
    uint32_t count = place == old->count ? old->count + 1 : old->count;
    struct dn_source_list *list = dn_slab_alloc(core->slab, list_bytes(count));
    memcpy(list->sources, old->sources, old->count * sizeof list->sources[0]);
    if (place < old->count) {
        gone = old->sources[place];
    }
    list->sources[place] = source;
    list->count = count;
    atomic_store_explicit(&core->sources, list, memory_order_release);
    dn_core_retire(core, old, list_bytes(old->count));
    core->sum += dn_source_hash(source);
    if (gone != NULL) {
        core->sum -= dn_source_hash(gone);
        dn_core_retire_captured(core, gone, sizeof *gone); /* a snapshot may be writing its name */
    }
    return source;
}

struct dn_source_progress dn_source_progress(const struct dn_stream_source *source)
{
    return (struct dn_source_progress){
        .next_offset = atomic_load_explicit(&source->next_offset, memory_order_acquire),
        .floor_ms = atomic_load_explicit(&source->floor_ms, memory_order_relaxed),
        .newest_ms = atomic_load_explicit(&source->newest_ms, memory_order_relaxed),
        .events = atomic_load_explicit(&source->events, memory_order_relaxed),
        .finished = atomic_load_explicit(&source->finished, memory_order_relaxed),
    };
}

void dn_source_move(struct dn_core *core, struct dn_stream_source *source,
                    const struct dn_source_progress *progress)
{
    core->sum -= dn_source_hash(source);
    atomic_store_explicit(&source->floor_ms, progress->floor_ms, memory_order_relaxed);
    atomic_store_explicit(&source->newest_ms, progress->newest_ms, memory_order_relaxed);
    atomic_store_explicit(&source->events, progress->events, memory_order_relaxed);
    atomic_store_explicit(&source->finished, progress->finished, memory_order_relaxed);
    atomic_store_explicit(&source->next_offset, progress->next_offset, memory_order_release);
    core->sum += dn_source_hash(source);
}

void dn_source_finish(struct dn_core *core, struct dn_stream_source *source)
{
    const struct dn_source_list *list = atomic_load_explicit(&core->sources, memory_order_relaxed);
    struct dn_source_progress progress = dn_source_progress(source);
    uint64_t last = 0;
    if (progress.finished != 0) {
        return;
    }
    for (uint32_t i = 0; i < list->count; i++) {
        uint64_t finished = atomic_load_explicit(&list->sources[i]->finished, memory_order_relaxed);
        last = finished > last ? finished : last;
    }
    progress.finished = last + 1;
    dn_source_move(core, source, &progress);
}

void dn_stall_set(struct dn_core *core, int64_t since_ms, const char *reason, size_t length)
{
    struct dn_stall *old = atomic_load_explicit(&core->stall, memory_order_relaxed), *stall = NULL;
    if (since_ms != 0) {
        stall = dn_slab_zalloc(core->slab, sizeof *stall);
        stall->since_ms = since_ms;
        stall->length = (uint16_t)length;
        memcpy(stall->reason, reason, length);
    }
    core->sum += dn_stall_hash(stall) - dn_stall_hash(old);
    atomic_store_explicit(&core->stall, stall, memory_order_release);
    if (old != NULL) {
        dn_core_retire_captured(core, old, sizeof *old);
    }
}
