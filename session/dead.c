/* The queue of dead letters: numbered 0, 1, ... of the shard, those from `written` to `next` wait.
 *
 * The writer fills chunks, publishes each letter by moving `next`, and retires a chunk once all of its
 * numbers are written. So readers need no lock: what they reach is immutable, and a chunk that is not the one
 * they expect says that its letters were written meanwhile. */
#include "base/error.h"
#include "session/core.h"

static uint64_t written_of(const struct dn_dead_queue *queue)
{
    return atomic_load_explicit(&queue->written, memory_order_relaxed);
}

static uint64_t next_of(const struct dn_dead_queue *queue)
{
    return atomic_load_explicit(&queue->next, memory_order_relaxed);
}

static inline size_t slot_of(uint64_t number)
{
    return (size_t)(number / DN_DEAD_CHUNK % DN_DEAD_CHUNKS);
}

const struct dn_dead *dn_dead_get(const struct dn_dead_queue *queue, uint64_t number)
{
    const struct dn_dead_chunk *chunk =
        atomic_load_explicit(&queue->chunks[slot_of(number)], memory_order_acquire);
    if (chunk == NULL || chunk->first != number - number % DN_DEAD_CHUNK) {
        return NULL;
    }
    return &chunk->letters[number % DN_DEAD_CHUNK];
}

bool dn_dead_room(const struct dn_core *core, size_t count)
{
    return next_of(&core->dead) - written_of(&core->dead) + count <= DN_DEAD_MAX;
}

static struct dn_dead_chunk *chunk_for(struct dn_core *core, uint64_t number)
{
    struct dn_dead_chunk *_Atomic *slot = &core->dead.chunks[slot_of(number)];
    struct dn_dead_chunk *chunk = atomic_load_explicit(slot, memory_order_relaxed);
    if (chunk == NULL) {
        chunk = dn_slab_alloc(core->slab, sizeof *chunk);
        chunk->first = number - number % DN_DEAD_CHUNK;
        atomic_store_explicit(slot, chunk, memory_order_release);
    }
    DN_ASSERT(chunk->first == number - number % DN_DEAD_CHUNK);
    return chunk;
}

void dn_dead_append(struct dn_core *core, const struct dn_dead *letter)
{
    DN_ASSERT(dn_dead_room(core, 1));
    const struct dn_source_list *sources = atomic_load_explicit(&core->sources, memory_order_relaxed);
    uint64_t number = next_of(&core->dead);
    chunk_for(core, number)->letters[number % DN_DEAD_CHUNK] = *letter;
    sources->sources[letter->source]->letters++;
    core->sum += dn_dead_hash(number, sources->sources[letter->source], letter);
    atomic_store_explicit(&core->dead.next, number + 1, memory_order_release);
}

void dn_dead_push(struct dn_core *core, const struct dn_stream_source *source, int64_t offset, uint8_t reason)
{
    struct dn_dead letter = {
        .offset = offset,
        .time_ms = core->meta.time_ms,
        .source = source->position,
        .reason = reason,
    };
    core->dead.counts[reason]++;
    dn_dead_append(core, &letter);
}

bool dn_dead_written(struct dn_core *core, uint64_t before)
{
    struct dn_dead_queue *queue = &core->dead;
    const struct dn_source_list *sources = atomic_load_explicit(&core->sources, memory_order_relaxed);
    if (before > next_of(queue)) {
        return false;
    }
    uint64_t from = written_of(queue);
    for (uint64_t n = from; n < before; n++) {
        const struct dn_dead *letter = dn_dead_get(queue, n);
        sources->sources[letter->source]->letters--;
        core->sum -= dn_dead_hash(n, sources->sources[letter->source], letter);
    }
    if (before > from) {
        atomic_store_explicit(&queue->written, before, memory_order_release);
    }
    for (uint64_t n = from - from % DN_DEAD_CHUNK; n + DN_DEAD_CHUNK <= before; n += DN_DEAD_CHUNK) {
        struct dn_dead_chunk *_Atomic *slot = &queue->chunks[slot_of(n)];
        struct dn_dead_chunk *chunk = atomic_load_explicit(slot, memory_order_relaxed);
        if (chunk != NULL && chunk->first == n) {
            atomic_store_explicit(slot, NULL, memory_order_release);
            dn_core_retire_captured(core, chunk, sizeof *chunk);
        }
    }
    return true;
}

void dn_dead_begin(struct dn_core *core, uint64_t written, const uint64_t counts[DN_DEAD_REASON_MAX + 1])
{
    for (size_t reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        core->dead.counts[reason] = counts[reason];
    }
    atomic_store_explicit(&core->dead.written, written, memory_order_relaxed);
    atomic_store_explicit(&core->dead.next, written, memory_order_relaxed);
}
