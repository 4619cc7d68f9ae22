/* Stream sources: next offset and watermark of each (source, partition). Few, and never removed: dead letters
 * name them by their position. And whether the shard's streams stand still. */
#include "session/core.h"

#include <string.h>

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

struct dn_stream_source *dn_source_add(struct dn_core *core, const char *name, size_t length,
                                       uint32_t partition)
{
    struct dn_source_list *old = atomic_load_explicit(&core->sources, memory_order_relaxed);
    if (old->count == DN_SOURCES_MAX) {
        return NULL;
    }
    struct dn_stream_source *source = dn_slab_zalloc(core->slab, sizeof *source);
    source->hash = dn_source_key(name, length, partition);
    source->position = old->count;
    source->partition = partition;
    source->name_length = (uint16_t)length;
    memcpy(source->name, name, length);
    atomic_init(&source->next_offset, DN_OFFSET_UNSET); /* readers: not seen until its batch is applied */
    atomic_init(&source->newest_ms, DN_TIME_NONE);
    struct dn_source_list *list = dn_slab_alloc(core->slab, list_bytes(old->count + 1));
    memcpy(list->sources, old->sources, old->count * sizeof list->sources[0]);
    list->sources[old->count] = source;
    list->count = old->count + 1;
    atomic_store_explicit(&core->sources, list, memory_order_release);
    dn_core_retire(core, old, list_bytes(old->count));
    core->sum += dn_source_hash(source);
    return source;
}

struct dn_source_progress dn_source_progress(const struct dn_stream_source *source)
{
    return (struct dn_source_progress){
        .next_offset = atomic_load_explicit(&source->next_offset, memory_order_acquire),
        .floor_ms = atomic_load_explicit(&source->floor_ms, memory_order_relaxed),
        .newest_ms = atomic_load_explicit(&source->newest_ms, memory_order_relaxed),
        .events = atomic_load_explicit(&source->events, memory_order_relaxed),
    };
}

void dn_source_move(struct dn_core *core, struct dn_stream_source *source,
                    const struct dn_source_progress *progress)
{
    core->sum -= dn_source_hash(source);
    atomic_store_explicit(&source->floor_ms, progress->floor_ms, memory_order_relaxed);
    atomic_store_explicit(&source->newest_ms, progress->newest_ms, memory_order_relaxed);
    atomic_store_explicit(&source->events, progress->events, memory_order_relaxed);
    atomic_store_explicit(&source->next_offset, progress->next_offset, memory_order_release);
    core->sum += dn_source_hash(source);
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
