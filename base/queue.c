/* Bounded queue after Dmitry Vyukov's array queue: each cell carries a turn number.
 *
 * Invariants, for the cell at position p (index p & mask):
 *   1. turn == p: free for the producer that takes position p.
 *   2. turn == p + 1: filled, for the consumer at position p.
 *   3. The consumer sets turn to p + capacity: free for the next round.
 * The release store of turn hands the item over; the acquire load takes it.
 */
#include "base/queue.h"

#include "base/error.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#define CACHE_LINE 64
#define CAPACITY_MIN 2 /* with one cell, "filled" and "free for the next round" are the same turn */
#define CAPACITY_MAX ((size_t)1 << 26)

struct cell {
    _Atomic size_t turn;
    void *item;
};

struct dn_queue {
    struct cell *cells;
    size_t mask;
    alignas(CACHE_LINE) _Atomic size_t tail; /* producers */
    alignas(CACHE_LINE) _Atomic size_t head; /* written by the consumer only */
};

struct dn_queue *dn_queue_create(size_t capacity)
{
    struct dn_queue *queue;
    size_t rounded = CAPACITY_MIN;

    if (capacity > CAPACITY_MAX) {
        return NULL;
    }
    while (rounded < capacity) {
        rounded *= 2;
    }
    queue = aligned_alloc(CACHE_LINE, sizeof(*queue));
    if (queue == NULL) {
        return NULL;
    }
    queue->cells = malloc(rounded * sizeof(*queue->cells));
    if (queue->cells == NULL) {
        free(queue);
        return NULL;
    }
    queue->mask = rounded - 1;
    atomic_init(&queue->tail, 0);
    atomic_init(&queue->head, 0);
    for (size_t i = 0; i < rounded; i++) {
        atomic_init(&queue->cells[i].turn, i);
        queue->cells[i].item = NULL;
    }
    return queue;
}

void dn_queue_destroy(struct dn_queue *queue)
{
    if (queue == NULL) {
        return;
    }
    free(queue->cells);
    free(queue);
}

bool dn_queue_push(struct dn_queue *queue, void *item)
{
    size_t position = atomic_load_explicit(&queue->tail, memory_order_relaxed);

    DN_ASSERT(item != NULL);
    for (;;) {
        struct cell *cell = &queue->cells[position & queue->mask];
        size_t turn = atomic_load_explicit(&cell->turn, memory_order_acquire);
        intptr_t ahead = (intptr_t)(turn - position);

        if (ahead < 0) {
            return false; /* still filled from the round before */
        }
        if (ahead > 0) { /* another producer took this position */
            position = atomic_load_explicit(&queue->tail, memory_order_relaxed);
            continue;
        }
        if (atomic_compare_exchange_weak_explicit(&queue->tail, &position, position + 1, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            cell->item = item;
            atomic_store_explicit(&cell->turn, position + 1, memory_order_release);
            return true;
        }
    }
}

void *dn_queue_pop(struct dn_queue *queue)
{
    size_t position = atomic_load_explicit(&queue->head, memory_order_relaxed);
    struct cell *cell = &queue->cells[position & queue->mask];
    void *item;

    if (atomic_load_explicit(&cell->turn, memory_order_acquire) != position + 1) {
        return NULL;
    }
    item = cell->item;
    cell->item = NULL;
    atomic_store_explicit(&cell->turn, position + queue->mask + 1, memory_order_release);
    atomic_store_explicit(&queue->head, position + 1, memory_order_relaxed);
    return item;
}

size_t dn_queue_length(const struct dn_queue *queue)
{
    size_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);
    size_t length = tail - head;

    /* The two loads are not one moment: a stale tail would look like a huge length. */
    return length <= queue->mask + 1 ? length : 0;
}
